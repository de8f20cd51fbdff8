/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The cluster map: which storage nodes there are, whether they answer, and their room.
 *
 * Nodes come from the configuration, their state from heartbeats. A node is up from the first
 * heartbeat on and down when it has been silent for longer than the configured time; after a
 * longer time (down_out_interval_s) it is out as well, until its next heartbeat. Each change
 * of state makes a new version of the map; version, incarnations and states are durable before
 * anyone is told, so neither number ever goes back.
 *
 * After a start of exportd nothing is known of a node until its first heartbeat. The map says
 * "down" then; MAP_NODE_UNHEARD says the difference for the first silence period, in which nothing
 * is decided against the node: its files keep their write gateway, and new files may be placed on
 * it.
 */
#ifndef ROZO_EXPORTD_MAP_H
#define ROZO_EXPORTD_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "exportd/commit.h"
#include "exportd/kv.h"
#include "rpc/meta.h"

struct map;

enum map_node_state {
	MAP_NODE_DOWN,
	MAP_NODE_UP,
	MAP_NODE_UNHEARD, /* exportd has just started: may be up */
};

/* One node as it is now. */
struct map_node {
	uint32_t id;
	bool out; /* down for longer than down_out_interval_s, durably; false as soon as it is up */
	uint32_t domain; /* nodes of one failure domain have the same number */
	enum map_node_state state;
	bool capacity_known; /* it has sent a heartbeat since exportd started */
	uint64_t total_bytes; /* of its devices that work */
	uint64_t free_bytes;
};

/*
 * Makes the map of a configuration, with versions and incarnations from the store.
 * config and commit must live as long as the map. Silence is counted from now.
 * *map is destroyed with map_destroy(). Returns 0, -ENOMEM or -EIO.
 */
int map_create(const struct config *config, struct kv *kv, struct commit *commit, struct map **map);

/* No other function of the map may be running. NULL is allowed. */
void map_destroy(struct map *map);

/*
 * Takes a heartbeat in: notes its time and capacities, and if it changes the node's state, makes
 * the new version of the map durable and public. Sets status and map_version of the result.
 * Status: 0, ENOENT (no such node in the configuration), or an error of commit_execute().
 */
void map_heartbeat(
	struct map *map, const struct meta_heartbeat_args *args, struct meta_heartbeat_res *result);

/*
 * Takes nodes down that have been silent too long. To be called often by a timer.
 * Returns 0, or an error of commit_execute(); the map is then as it was and the next call tries
 * again.
 */
int map_tick(struct map *map);

/* Sets the silence after which a node that is down is also out; 0: never. Starts as configured. */
void map_set_down_out_interval(struct map *map, uint32_t seconds);

/*
 * True if a node that is not in the configuration is to be treated as out, because exportd has been
 * running for down_out_interval_s with that configuration.
 */
bool map_strangers_are_out(struct map *map);

/* The version of the newest map. */
uint32_t map_version(struct map *map);

/*
 * Fills in version, interval and nodes of META_CLUSTER's answer: all but what is in the store. The
 * lists in it are allocated; free with its XDR. Returns 0 or -ENOMEM.
 */
int map_cluster(struct map *map, struct meta_cluster_res *result);

/* Answers META_MAP. Status: 0 or ENOMEM. */
void map_answer(struct map *map, const struct meta_map_args *args, struct meta_map_res *result);

/* The state of one node. A node that is not in the configuration is down. */
enum map_node_state map_node_state(struct map *map, uint32_t node);

/* How many nodes there are; constant. */
size_t map_node_count(const struct map *map);

/*
 * Copies all nodes, in ascending id, to room for map_node_count() of them. May be called in an
 * operation of the group commit.
 */
void map_nodes(struct map *map, struct map_node *nodes);

#endif
