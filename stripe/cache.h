/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Decoded blocks in memory, and which of them hold bytes that no store has yet. Only the table and
 * its bounds; what blocks mean, and when they are sent, is stripe/gather.c's.
 *
 * A block is clean (what some version of it was when we read or wrote it) or dirty (that, with
 * collected bytes over it). Clean blocks are dropped, least recently used first, to stay within the
 * bounds; dirty ones never are.
 *
 * cache.lock guards the table, the lists, pins and sums. What a block holds is guarded by the range
 * lock of the file: shared to look at it, exclusive to change it. A pinned block stays in memory,
 * also when it has been taken out of the table.
 */
#ifndef ROZO_STRIPE_CACHE_H
#define ROZO_STRIPE_CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rpc/store.h"

struct stripe_file;

struct cache_block {
	/* Constant. */
	struct stripe_file *file;
	uint64_t number; /* in the file */

	/* Guarded by cache.lock. */
	struct cache_block *hash_next;
	struct cache_block *older, *newer; /* all clean blocks, by last use */
	struct cache_block *file_previous, *file_next; /* all of the file, by when they came */
	struct cache_block *dirty_previous, *dirty_next; /* dirty ones of the file, oldest first */
	unsigned int pins;
	bool in_table;

	/* Guarded by the range lock. */
	bool dirty; /* changed with cache.lock held, too */
	bool committed; /* a store said that the version is decided */
	store_version version; /* of the block before what is dirty; generation 0: it was empty */
	uint32_t length_bytes; /* of user bytes, with what is dirty */
	uint32_t write_epoch; /* under which the dirty bytes were taken; of a clean block: under
				 which it was written, or which was known before it was read */
	uint32_t last_from, last_to; /* dirty bytes that came last, with what adjoins them */
	uint64_t covered; /* bit i: all of the i-th 64th of the block is dirty */
	uint64_t dirty_since_ms; /* of the monotonic clock */
	uint8_t bytes[]; /* a whole block, zeros beyond length_bytes */
};

/* What the cache keeps in each file. Guarded by cache.lock. */
struct cache_file {
	struct cache_block *first; /* all blocks in the table */
	struct cache_block *dirty_first, *dirty_last;
	_Atomic size_t bytes, dirty_bytes; /* may be read without the lock */
};

struct cache {
	pthread_mutex_t lock;
	struct cache_block **buckets;
	size_t bucket_count;
	struct cache_block *oldest, *newest; /* clean blocks */
	size_t bytes, dirty_bytes;
	uint64_t blocks, dirty_blocks;
	size_t bytes_max, file_bytes_max;
};

/* bytes_max 0: nothing is cached. Returns 0 or -ENOMEM. */
int cache_init(struct cache *cache, size_t bytes_max, size_t file_bytes_max);

/* All files must have been forgotten. */
void cache_destroy(struct cache *cache);

/* Drops everything of a file that nobody uses any more. */
void cache_forget_file(struct cache *cache, struct stripe_file *file);

/* The block, pinned, or NULL. */
struct cache_block *cache_find(struct cache *cache, struct stripe_file *file, uint64_t number);

/*
 * A new block, pinned and not in the table yet, with room found for it. NULL if there is none, or
 * no memory: do without.
 */
struct cache_block *cache_make(struct cache *cache, struct stripe_file *file, uint64_t number);

/* Puts a block into the table. */
void cache_insert(struct cache *cache, struct cache_block *block);

/* Takes a block out of the table, clean or dirty. It must be pinned. */
void cache_remove(struct cache *cache, struct cache_block *block);

/* Every block taken by cache_find(), cache_make() and cache_oldest_dirty() must be unpinned. */
void cache_unpin(struct cache *cache, struct cache_block *block);

/*
 * Makes a block that is in the table dirty, as of now. Returns false if the file, or all together,
 * has half of what the cache may hold dirty already.
 */
bool cache_set_dirty(struct cache *cache, struct cache_block *block, uint64_t now_ms);

void cache_set_clean(struct cache *cache, struct cache_block *block);

/* The file's block that has been dirty for longest, pinned, or NULL. */
struct cache_block *cache_oldest_dirty(struct cache *cache, struct stripe_file *file);

/* The block, pinned, if it is dirty, or NULL. */
struct cache_block *cache_find_dirty(
	struct cache *cache, struct stripe_file *file, uint64_t number);

/* Since when a pinned block has been dirty; UINT64_MAX: it is not. */
uint64_t cache_dirty_since_ms(struct cache *cache, const struct cache_block *block);

/* Any block of the file from `first` to `last`, pinned, or NULL. */
struct cache_block *cache_any(
	struct cache *cache, struct stripe_file *file, uint64_t first, uint64_t last);

/* True if the file may not collect more before some of it is sent. */
bool cache_file_is_full(struct cache *cache, struct stripe_file *file);

/* How many blocks there are now; *dirty: of those. */
uint64_t cache_block_count(struct cache *cache, uint64_t *dirty);

#endif
