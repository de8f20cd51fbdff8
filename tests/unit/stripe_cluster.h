/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A cluster in one process, for tests of the stripe engine: real stores, and an exportd reduced to
 * what the engine asks of it. Either on the operating system's file systems behind real RPC on
 * loopback, or wholly in memory (volatile_io.h) without any RPC, for stripe_network.h.
 *
 * One at a time; failures to set it up are CUnit assertions.
 */
#ifndef ROZO_TEST_STRIPE_CLUSTER_H
#define ROZO_TEST_STRIPE_CLUSTER_H

#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mojette/mojette.h"
#include "rpc/rpc.h"
#include "storaged/store.h"
#include "stripe/stripe.h"

#define NODES_MAX 12
#define EXPORT 3
#define FILES_MAX 256

struct test_node {
	char directory[256];
	char second_directory[260]; /* if cluster.two_devices */
	uint16_t port;
	struct store *store; /* NULL: the node is down */
	struct rpc_program program;
	struct rpc_procedure procedures[STRIPE_PROCEDURES];
	struct rpc_server *server;
	_Atomic(struct store *) served; /* as store, for the server's threads */
	atomic_uint read_delay_ms; /* before each STORE_READ is executed */
	atomic_uint reads; /* that came */
};

struct test_file {
	uint64_t size;
	uint32_t segment_count;
	uint32_t hole_until; /* segments before this one, but the first, do not exist */
	uint32_t write_epoch;
	uint32_t layouts; /* that followed the first one, whose write gateway is node 1 */
	uint64_t writer; /* whose claimed_epoch is */
	uint32_t claimed_epoch;
	bool unknown; /* to exportd, for a while */
	bool truncate;
	uint64_t truncate_size;
	uint32_t valid_epoch; /* of the last truncation, or move of a shard that is over */
	uint32_t moved[NODES_MAX]; /* by shard: the node that has taken it over, 0: none */
	uint32_t rebuilding;
	uint32_t switch_epoch;
	uint32_t since[NODES_MAX]; /* by shard: the write epoch of its move */
};

struct cluster {
	char directory[200];
	bool in_memory;
	struct rpc_key key;
	struct mojette_code code;
	uint32_t row_bytes;
	uint32_t min_shards;
	uint64_t segment_blocks;
	bool gather; /* engines collect unstable writes; to be set before the cluster is started */
	size_t cache_bytes;
	unsigned int gather_delay_ms;
	size_t files_max; /* of engines made from now on; 0: the usual */
	unsigned int spare_nodes; /* to be set before the start: more than a block has shards */
	bool two_devices; /* of each node; to be set before the start, not in memory */
	unsigned int tell_delay_ms; /* of engines made from now on, 0: the usual one */
	unsigned int call_timeout_ms; /* the same */
	unsigned int node_count;
	struct test_node nodes[NODES_MAX];
	char host[16]; /* where all of them listen: an address of this process alone */
	uint16_t meta_port;
	struct rpc_program meta_program;
	struct rpc_server *meta;
	pthread_mutex_t lock;
	struct test_file files[FILES_MAX]; /* by file id, guarded by lock */
	bool knows_better; /* exportd does not believe stores that tell of a newer write epoch */
	bool claims; /* each writer has an epoch of its own, as of the real exportd */
	atomic_uint check_delay_ms; /* before META_CHECK_EPOCH is answered */
	atomic_uint placement_delay_ms; /* the same of META_PLACEMENT */
	atomic_bool hold_placement, hold_written; /* answers, until these are false again */
	atomic_bool hold_placed; /* the same, of placements as they were when asked for */
	atomic_uint held; /* answers that are ready, and held */
	uint64_t placements_asked; /* guarded by lock while calls may be under way */
	struct stripe *stripe;
};

extern struct cluster cluster;

/* A cluster of k + m nodes and an engine, with RPC. */
void cluster_start(enum mojette_form form, unsigned int k, unsigned int m, uint32_t row_bytes);

/* The same in memory: node i is machine i of volatile_io, which must have been reset. */
void cluster_start_in_memory(enum mojette_form form, unsigned int k, unsigned int m,
	uint32_t row_bytes, uint64_t segment_blocks);

/* Ends the engine (unless there is none) and all nodes, removes all files. */
void cluster_stop(void);

void node_start(unsigned int i);
void node_stop(unsigned int i);
bool node_is_up(unsigned int i);

/*
 * What exportd does when the node of a shard is out: a spare node takes it over, under a new write
 * epoch. Returns the node's index.
 */
unsigned int move_shard(uint64_t id, unsigned int shard, unsigned int spare);

/* The same with any node, by its index. */
void move_shard_to(uint64_t id, unsigned int shard, unsigned int node);

/* What exportd does when the shard has been made. */
void end_rebuilding(uint64_t id, unsigned int shard);

/* An engine in the process of a node, which must be up. */
struct stripe *engine_create_at(unsigned int node);

/* Makes another engine; engine_start() makes it the cluster's. */
struct stripe *engine_create(void);
void engine_start(void);

/* What the store of a shard says of a block of segment 0. Returns the status of its READ. */
uint32_t block_header(uint64_t id, unsigned int shard, uint64_t block, store_read_block *header);

/* Waits until the store of a shard knows that what it has of a block of segment 0 is decided. */
void wait_decided(uint64_t id, unsigned int shard, uint64_t block);

/* What exportd does for one procedure of rpc/meta.h. */
void meta_call(uint32_t procedure, const void *arguments, void *result);

/* What exportd does for SETATTR of a smaller size. Returns the new write epoch. */
uint32_t begin_truncation(uint64_t id, uint64_t size);

/* Begins it and has the engine of the file carry it out. Returns as stripe_truncate(). */
int truncate_file(struct stripe_file *file, uint64_t id, uint64_t size);

/* Pseudo-random numbers; the same after the same seed. */
void random_seed(uint64_t seed);
uint64_t random_number(void);
void fill(uint8_t *bytes, size_t length);

#endif
