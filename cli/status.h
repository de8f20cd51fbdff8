/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * `rozo status`: what the cluster does, and what it lacks.
 */
#ifndef ROZO_CLI_STATUS_H
#define ROZO_CLI_STATUS_H

#include <stdbool.h>
#include <stdio.h>

#include "config/config.h"
#include "rpc/meta.h"

/*
 * What is known of a node: its own status, and what others have recorded that it missed. A time of
 * UINT64_MAX: cannot be told.
 */
struct status_node {
	const meta_node_status *told;
	uint64_t missed_shards;
	uint64_t missed_bytes;
};

struct status {
	const meta_cluster_res *cluster;
	struct status_node *nodes; /* as in cluster */
	uint64_t missed_shards, missed_bytes; /* of all nodes */
	uint64_t rebuild_segments;
	uint64_t heal_rate; /* bytes per second, of all nodes */
	uint64_t
		end_s; /* until what is missed has been made, at that rate; UINT64_MAX: not known */
	unsigned int up, down, out;
	bool healthy; /* nothing is missing, and nobody need do anything */
};

/* Reckons up what exportd said, which must stay. Free status->nodes. Returns 0 or -ENOMEM. */
int status_reckon(const meta_cluster_res *cluster, struct status *status);

/* Writes it for people, or as one JSON object. Return 0 or a negative errno. */
int status_print(const struct status *status, FILE *stream);
int status_print_json(const struct status *status, FILE *stream);

#endif
