/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The cluster of the simulation: nodes with disks in memory and real stores, processes with real
 * stripe engines, and an exportd reduced to what engines ask of it. One file.
 *
 * Node i is machine i of volatile_io.h. A node's process has its store and, on some nodes, an
 * engine (the gateway); two processes have an engine only (the metadata server, a healer). There
 * may be nodes to spare, to which shards move. A node's disk may be slow, full, fail now and then,
 * or have failed for good.
 */
#ifndef ROZO_SIMULATION_WORLD_H
#define ROZO_SIMULATION_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "mojette/mojette.h"
#include "scheduler.h"
#include "storaged/store.h"
#include "stripe/stripe.h"

#define WORLD_NODES_MAX 14
#define WORLD_ENGINES 5
#define WORLD_ENGINE_HEALER 3 /* never killed; the others may be */
#define WORLD_ENGINE_SPARE 1 /* on the first spare node, if there is one */
#define WORLD_ENGINE_SPARE_2 4 /* on the second one; takes no requests of clients */
#define WORLD_NOWHERE (UINT_MAX - 1) /* the node of an engine that there is not */
#define WORLD_EXPORT 3
#define WORLD_FILE 1
#define WORLD_BLOCKS 4
#define WORLD_SEGMENT_BLOCKS 3

/* What is wrong on purpose: tests of the test. */
enum mutation {
	MUTATION_NONE,
	ANSWERS_UNDECIDED, /* writes count as accepted where they were lost */
	SKIPS_GUARD, /* partial writes are accepted whatever they were based on */
	FORGETS_MISSES, /* nobody records who missed a write */
	FORGETS_PROMISES, /* stores accept what they said they would refuse */
	TRUSTS_RESTARTED, /* stores that restarted look as if they had not */
	FORGETS_FLUSHES, /* flushes do nothing */
	REPLACES_DECIDED, /* writers take what they committed for undecided */
	OLD_EPOCHS, /* a writer's successor writes under the same epoch */
	DISCARDS_BLINDLY, /* stores drop what is in doubt whatever they have on record */
	HIDES_DISCARDS, /* they record misses of what they have dropped, and say nothing */
	HIDES_TRUNCATIONS, /* exportd does not say that a truncation waits */
	TRUSTS_FAILED_FLUSHES, /* flushes that failed count as done */
	HIDES_DISK_ERRORS, /* stores accept writes that their disk did not take */
	ZEROS_FOR_ERRORS, /* what a disk cannot read is read as zeros */
	OLD_PLACEMENTS, /* who cannot ask exportd is told what was true a while ago */
	EXPORTD_FORGETS, /* exportd goes on with what it knew a while before it went away */
	ASSUMES_FORMER, /* who cannot ask exportd takes it that former stores still have theirs */
	SLOW_IS_GONE, /* whether a truncation waits is not asked again of an exportd that is slow */
	MUTATIONS,
};
extern const char *const mutation_names[MUTATIONS];

enum disk_fault {
	DISK_SOUND,
	DISK_SLOW, /* a flush takes up to ten seconds */
	DISK_FULL, /* takes nothing that needs room, or says that there is none */
	DISK_FAILS, /* now and then, with EIO */
	DISK_BROKEN, /* for good, everything: what is on it is lost */
};

struct world_shape {
	enum mojette_form form;
	unsigned int k, m;
	uint32_t row_bytes;
};

struct engine {
	struct process *process; /* NULL: not running */
	struct stripe *stripe;
	unsigned int node; /* its process's node, or UINT_MAX */
	uint64_t fenced; /* since then its write epoch is newer than any that the dead had */
	bool moved; /* the file's write gateway since then: its next client's handle tells it so */
};

extern struct world {
	struct world_shape shape;
	unsigned int node_count;
	unsigned int shard_count; /* of a block; the nodes after these are spare, two at most */
	unsigned int min_shards; /* at least those that decide */
	unsigned int cells_per_block, cell_count;
	uint32_t cell_bytes;
	enum mutation mutation;
	bool gather; /* engines collect unstable writes of parts of blocks */
	bool logs; /* stores have a log on their device */
	bool exportd_fails; /* not all who ask exportd reach it */
	struct engine engines[WORLD_ENGINES];
	struct process nature; /* for what is not part of the cluster */
} world;

/*
 * A new, empty cluster, nothing runs. spares: so many nodes more than a block has shards, with an
 * engine on each. Call outside of fibers.
 */
void world_reset(struct world_shape shape, enum mutation mutation, unsigned int spares);

/*
 * What exportd does when a node is out: a spare node that has none of the segment takes over a
 * shard, perhaps from another one that has not made it yet. The former node goes on, as if it were
 * only exportd that does not hear of it. Returns true if that was done.
 */
bool world_move_shard(uint32_t segment, unsigned int shard);

/* What exportd does for META_REBUILT. */
void world_rebuilt(uint32_t segment, unsigned int shard, uint32_t write_epoch);

/* Former nodes that are up hear that they may remove what they had of shards that have been made.
 */
void world_remove_former_copies(void);

/* True if shards of a segment are still being made. */
bool world_is_rebuilding(uint32_t segment);

/*
 * Starts a node's process, or a process with an engine only. Call in a fiber. A node whose disk
 * does not let it open its store stays down.
 */
void world_start_node(unsigned int node);
void world_start_engine(unsigned int engine);

/* Kills a node's process, with loss of its machine's power or without; an engine's process. */
void world_kill_node(unsigned int node, bool power_loss);
void world_kill_engine(unsigned int engine);

/*
 * Ends a node's process as SIGTERM does: it takes no calls any more, finishes what it is at, and
 * closes engine and store. Until then the node cannot be started. Call in a fiber; waits for that.
 */
void world_end_node(unsigned int node);

bool world_node_is_up(unsigned int node);
uint32_t world_nodes_up(void);

/* When a node was down last, or its messages got lost; a node's store, NULL: it is down. */
struct store *world_store(unsigned int node, struct process **process);

/* True if the node is down for loss of power: nobody answers there, not even to refuse. */
bool world_lost_power(unsigned int node);

/* Carries out a message at a store, or what a wrong program would do. */
void world_execute(struct store *store, uint32_t procedure, const void *args, void *result);

/* Carries out a call of exportd's. */
void world_meta(uint32_t procedure, const void *args, void *result);

/* What exportd does for SETATTR of the size. */
void world_begin_truncation(uint64_t size);

/* What exportd does when an engine's node becomes the write gateway. */
void world_move_gateway(struct engine *engine);

/* The node of a block's shard, and that block's store file. */
unsigned int world_node_of(uint64_t block, unsigned int shard);

/* Changes a bit of what a node's disk has of a block, or makes something worse of it. */
void world_flip_bit(unsigned int node);
void world_spoil_page(unsigned int node);

/* What a node's disk does from now on. */
void world_set_disk(unsigned int node, enum disk_fault fault);

/*
 * Disks are sound again, but for those that are broken, and nodes that have met an error end, as
 * some store files are served only after a restart.
 */
void world_mend_disks(void);

/* Replaces a broken disk by an empty one; its node is down then. Returns false: there is none. */
bool world_replace_disk(void);

/* Notes what exportd knows now, for EXPORTD_FORGETS: it goes on with that. */
void world_note_exportd(void);
void world_exportd_returns(void);

/*
 * What a wrong program takes for the answer of a call to exportd that failed. Returns false: it
 * hears of the error.
 */
bool world_meta_instead(int error, uint32_t procedure, const void *args, void *result);

/* Waits until dead processes have ended. Call in a fiber. */
void world_bury(void);

#endif
