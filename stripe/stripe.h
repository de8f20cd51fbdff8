/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The stripe engine: byte ranges of files to shards on storage nodes and back.
 *
 * The only place that encodes and decodes blocks, chooses versions, and knows what to do when
 * nodes are missing. One engine per process, used by the gateway, the FSAL and the healer; every
 * function may be called from any thread, blocks until done, and is bounded in time by
 * call_timeout_ms per round of messages.
 *
 * What is promised is written in docs/protocol.md.
 */
#ifndef ROZO_STRIPE_H
#define ROZO_STRIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mojette/mojette.h"
#include "rpc/rpc.h"

struct stripe;
struct stripe_file;

/* A storage node as the engine reaches it. */
struct stripe_node {
	uint32_t id;
	const char *address; /* numeric */
	uint16_t store_port;
};

/*
 * Executes one procedure of the store protocol on this process's own store, without RPC:
 * args and result are the types of rpc/store.h. Must fill result before it returns.
 */
typedef void (*stripe_local_call)(void *store, uint32_t procedure, const void *args, void *result);

struct stripe_options {
	const struct stripe_node *nodes; /* copied */
	size_t node_count;
	const char *exportd_address; /* numeric */
	uint16_t exportd_port;
	const struct rpc_key *key;
	uint32_t local_node; /* id of the node whose store is in this process, 0: none */
	stripe_local_call local_call;
	void *local_store;
	unsigned int call_timeout_ms; /* for one store call; 0: 5000 */
	unsigned int tell_delay_ms; /* until stores are told what is decided, at most, and until
				       nodes that are down are asked again; 0: 50 */
	size_t files_max; /* files kept attached when unused; 0: 4096 */
	size_t cache_bytes; /* for decoded blocks, all files together; 0: 64 MiB */
	size_t cache_file_bytes; /* for those of one file; 0: a quarter of cache_bytes */
	/*
	 * Collect unstable writes of parts of blocks in memory, up to half of the cache, until the
	 * block is complete, stripe_commit(), or gather_delay_ms. Only for a caller whose clients
	 * compare stripe_write_verifier().
	 */
	bool gather;
	unsigned int gather_delay_ms; /* 0: 100 */
};

/*
 * Makes an engine. Connects lazily: neither exportd nor any node needs to be up.
 * Returns 0, -EINVAL (an address is not numeric) or -ENOMEM.
 */
int stripe_create(const struct stripe_options *options, struct stripe **stripe);

/* Ends an engine. All files must have been put. */
void stripe_destroy(struct stripe *stripe);

/*
 * Identifies everything this engine wrote unstably: changes with each run of the process, and when
 * data of ours was lost before it was durable. An NFS WRITE reply carries what this returned before
 * stripe_write() was called, a COMMIT reply what it returns after stripe_commit() (RFC 1813
 * sections 3.3.7, 3.3.21): if data was dropped in between, the two differ.
 */
uint64_t stripe_write_verifier(const struct stripe *stripe);

/* The client of exportd that the engine uses, for calls of rpc/meta.h. */
struct rpc_client *stripe_meta(struct stripe *stripe);

/*
 * Takes a reference to a file, asking exportd for its placement if it is not attached yet, and
 * carrying out a truncation that was begun elsewhere and not finished, if that can be done.
 * Returns 0; -ESTALE (no such file); or an error of rpc_call() if exportd cannot be reached.
 */
int stripe_file_get(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **file);

/*
 * The same, for who is about to write: if it asks exportd at all, it also claims a write epoch for
 * this engine, provided that the file need not get a new one. Otherwise the first stripe_write()
 * does that, with another call.
 */
int stripe_file_get_to_write(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **file);

void stripe_file_put(struct stripe_file *file);

/* Asks exportd again. Returns as stripe_file_get(), and -EIO if a truncation cannot be carried out.
 */
int stripe_file_refresh(struct stripe_file *file);

/*
 * The same for who only reads: that a truncation cannot be carried out is no error, since what
 * remains of the file can be read, and the size is the new one.
 */
int stripe_file_refresh_to_read(struct stripe_file *file);

/*
 * Layouts of any file may have been taken back, which exportd tells who asks. Of each file
 * stripe_file_layout_doubted() is true until it has been asked for it, by stripe_file_refresh() or
 * otherwise.
 */
void stripe_doubt_layouts(struct stripe *stripe);
bool stripe_file_layout_doubted(const struct stripe_file *file);

/* As of the last answer of exportd. */
uint32_t stripe_file_layout_epoch(const struct stripe_file *file);
uint32_t stripe_file_write_gateway(const struct stripe_file *file);

/* Whole user bytes of a block of this file. */
uint32_t stripe_file_block_bytes(const struct stripe_file *file);

/* The largest size known here: exportd's at the last answer, or more if more was written here. */
uint64_t stripe_file_size(const struct stripe_file *file);

/*
 * The write epoch under which the next stripe_write() begins, for META_WRITTEN: claims one first,
 * if this engine has none of the file. Returns as stripe_file_refresh().
 */
int stripe_file_claim(struct stripe_file *file, uint32_t *write_epoch);

/*
 * Has enough stores of a file refuse, from now on and durably, what engines write that have not
 * heard of its newest write epoch. For one whose layouts exportd has just taken back
 * (META_LAYOUT_REVOKE).
 * Returns 0; -EIO (too few stores could be told); or as stripe_file_get().
 */
int stripe_fence(struct stripe *stripe, uint32_t export_id, uint64_t file_id);

/*
 * Forgets what is known of a file because it was removed: not for one of which only some shards
 * were, since its unstable writes are forgotten, too.
 */
void stripe_file_forget(struct stripe *stripe, uint32_t export_id, uint64_t file_id);

/*
 * Reads length bytes at offset into buffer; what was never written reads as zeros. Knows no end of
 * file.
 * Returns 0; -EIO (fewer than k good shards of a block can be had: the block is named in the log);
 * -ESTALE (the file is gone); -ETIMEDOUT (it has taken too long, and may be tried again); or an
 * error of rpc_call() towards exportd.
 */
int stripe_read(struct stripe_file *file, uint64_t offset, void *buffer, size_t length);

/*
 * Writes length bytes at offset.
 * stable: return only when the bytes are durable on all nodes that are up and at least min_shards,
 * and exportd knows the size. Otherwise they are safe only after stripe_commit(), and must be sent
 * again if stripe_write_verifier() has changed by then; with stripe_options.gather they may be in
 * this process's memory only, where stripe_read() of this engine sees them and others do not.
 * Returns 0; -EIO (too few nodes); -ENOSPC; -EFBIG; -ESTALE (the file is gone, or this writer has
 * been fenced by a newer write epoch that names another write gateway); -ETIMEDOUT (it has taken
 * too long, and may be tried again); or an error of rpc_call() towards exportd.
 */
int stripe_write(
	struct stripe_file *file, uint64_t offset, const void *buffer, size_t length, bool stable);

/*
 * The same for a client whose layout has the given layout epoch: nothing of it is written under
 * another one (-ESTALE), also if that comes between the check of the client's handle and the write.
 */
int stripe_write_under(struct stripe_file *file, uint32_t layout_epoch, uint64_t offset,
	const void *buffer, size_t length, bool stable);

/*
 * Makes all unstable writes of this engine to the file durable. Returns as stripe_write(); after an
 * error the verifier has changed, and also after 0 if something of what was collected was overtaken
 * by another writer.
 */
int stripe_commit(struct stripe_file *file);

/*
 * Carries out the truncation that exportd has noted: empties everything from its size on, then
 * tells exportd (META_TRUNCATED). Durable when it returns 0. size: the one that was set, which is
 * larger if an older truncation has waited. Doing it twice is harmless. Returns as stripe_write().
 */
int stripe_truncate(struct stripe_file *file, uint64_t size);

/*
 * The shards of a segment (bit s: shard s) whose nodes can be reached, as far as is known.
 * Returns 0 also for a segment that has no nodes.
 */
uint32_t stripe_shards_up(struct stripe_file *file, uint32_t segment);

/* The node of a shard of a segment; 0: there is none, or it is not in the configuration. */
uint32_t stripe_shard_node(struct stripe_file *file, uint32_t segment, uint32_t shard);

/*
 * One more than the last block of a segment that any of its stores has bytes of.
 * Returns 0, -EIO (too few stores answer), -ENOENT (the segment has no nodes), or as
 * stripe_file_get().
 */
int stripe_block_count(struct stripe_file *file, uint32_t segment, uint64_t *block_count);

/*
 * Brings the shards of one store file up to date: for each block with missed shards in `missed`
 * (bit s: shard s) whose node is up, makes them from k others, stores them durably, and clears the
 * record on the other nodes.
 * *healed and *left (may be NULL) receive the numbers of shards made and of shards still missing.
 * Returns 0 (also if shards are left), or -EIO, -ESTALE (the file is gone) as above.
 */
int stripe_heal(struct stripe_file *file, uint32_t segment, uint64_t first_block, uint32_t count,
	uint64_t *healed, uint64_t *left);

#define STRIPE_PROCEDURES 16
/* A block that a read found damaged or missed somewhere, or in a version not known to be decided.
 */
struct stripe_noticed {
	uint32_t export_id;
	uint32_t segment;
	uint64_t file_id;
	uint64_t block; /* in the segment */
};

static inline bool stripe_noticed_same(
	const struct stripe_noticed *left, const struct stripe_noticed *right)
{
	return left->block == right->block && left->file_id == right->file_id &&
	       left->segment == right->segment && left->export_id == right->export_id;
}

/*
 * Takes up to max of the blocks that reads have noticed since, for stripe_heal(). Of very many some
 * are forgotten; the next read notices them again. Returns how many were put into list.
 */
size_t stripe_noticed(struct stripe *stripe, struct stripe_noticed *list, size_t max);

struct stripe_heal_result {
	uint64_t healed; /* shards made, and durable */
	uint64_t healed_bytes; /* of them */
	uint64_t unrecorded; /* of them: nobody had a record that they were missed */
	uint64_t left; /* shards that are still missing */
	uint64_t unknown; /* blocks of which too little is known now to tell their version */
	uint64_t failed; /* blocks that need shards which could not be made */
	uint32_t lacking; /* bit s: shard s is not complete in this range, or may not be */
	uint32_t unheard; /* bit s: what shard s's store has of this range it has not said */
};

/*
 * stripe_heal() with more to say and to ask. thorough: the stores check the bytes, too, which costs
 * a read of all shards. Returns as stripe_heal().
 */
int stripe_heal_range(struct stripe_file *file, uint32_t segment, uint64_t first_block,
	uint32_t count, bool thorough, struct stripe_heal_result *result);

/* True if the store of a shard has anything of the segment, and says so. */
bool stripe_shard_exists(struct stripe_file *file, uint32_t segment, uint32_t shard);

struct stripe_rebuild {
	uint32_t shard; /* that this process's node has taken over */
	uint32_t write_epoch; /* for META_REBUILT */
	uint64_t block_count; /* blocks to go through with stripe_heal_range() */
};

/*
 * Begins to make the shard that this process's node has taken over from one that is out: learns the
 * newest placement, and has enough of the other stores refuse, from now on and durably, writers who
 * know only an older one, so that nothing can be written past the new node.
 * When all blocks have been healed since, and in all of them the shard was not lacking, it is
 * complete. Blocks beyond block_count are written by those who know the new node.
 * Returns 0; -ENOENT (the node has no shard to make there, any more); -ESTALE (the file is gone);
 * -EIO (too few stores answer); or an error of rpc_call() towards exportd.
 */
int stripe_rebuild_begin(
	struct stripe_file *file, uint32_t segment, struct stripe_rebuild *rebuild);

/* Counters since the start of the engine, for status pages and tests. */
struct stripe_counters {
	uint64_t read_bytes;
	uint64_t written_bytes;
	uint64_t degraded_blocks; /* read with a shard missing or bad */
	uint64_t damaged_shards;
	uint64_t missed_shards; /* not written because a node was down */
	uint64_t healed_shards;
	uint64_t conflicts; /* writes that had to be tried again */
	uint64_t hedged_reads; /* rounds in which another store was asked for a slow one */
	uint64_t cached_bases; /* writes of parts of blocks that needed no read */
	uint64_t collected; /* writes of parts of blocks that were collected in memory */
	uint64_t collected_lost; /* blocks collected and given up: the verifier changed */
	uint64_t cached_blocks, collected_blocks; /* now; the former with the latter */
	uint64_t calls[STRIPE_PROCEDURES]; /* to stores, by procedure of rpc/store.x */
	uint64_t rounds; /* of such calls, made together and waited for */
};

void stripe_counters(struct stripe *stripe, struct stripe_counters *counters);

#endif
