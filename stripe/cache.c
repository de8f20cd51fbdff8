/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See cache.h. Takes cache.lock only, and nothing while holding it. */
#include "stripe/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/internal.h"

/* Blocks of 16 KiB for each bucket, if the cache is full. */
#define BUCKET_BYTES (16u << 10)

int cache_init(struct cache *cache, size_t bytes_max, size_t file_bytes_max)
{
	*cache = (struct cache){.bytes_max = bytes_max,
		.file_bytes_max = file_bytes_max < bytes_max ? file_bytes_max : bytes_max,
		.bucket_count = bytes_max / BUCKET_BYTES + 1};
	cache->buckets = calloc(cache->bucket_count, sizeof(*cache->buckets));
	if (!cache->buckets)
		return -ENOMEM;
	pthread_mutex_init(&cache->lock, NULL);
	return 0;
}

void cache_destroy(struct cache *cache)
{
	if (!cache->buckets)
		return;
	free(cache->buckets);
	pthread_mutex_destroy(&cache->lock);
}

static struct cache_block **bucket_of(
	const struct cache *cache, const struct stripe_file *file, uint64_t number)
{
	uint64_t hash = (number ^ (uintptr_t)file) * UINT64_C(0x9e3779b97f4a7c15);

	return &cache->buckets[(hash >> 32) % cache->bucket_count];
}

/* -------- lists; the caller holds the lock -------- */

static void clean_remove(struct cache *cache, struct cache_block *block)
{
	if (block->older)
		block->older->newer = block->newer;
	else
		cache->oldest = block->newer;
	if (block->newer)
		block->newer->older = block->older;
	else
		cache->newest = block->older;
	block->older = block->newer = NULL;
}

static void clean_append(struct cache *cache, struct cache_block *block)
{
	block->older = cache->newest;
	block->newer = NULL;
	if (cache->newest)
		cache->newest->newer = block;
	else
		cache->oldest = block;
	cache->newest = block;
}

static void dirty_remove(struct cache *cache, struct cache_block *block)
{
	struct cache_file *file = &block->file->cached;

	if (block->dirty_previous)
		block->dirty_previous->dirty_next = block->dirty_next;
	else
		file->dirty_first = block->dirty_next;
	if (block->dirty_next)
		block->dirty_next->dirty_previous = block->dirty_previous;
	else
		file->dirty_last = block->dirty_previous;
	block->dirty_previous = block->dirty_next = NULL;
	cache->dirty_bytes -= block->file->block_bytes;
	cache->dirty_blocks--;
	atomic_fetch_sub(&file->dirty_bytes, block->file->block_bytes);
}

static void dirty_append(struct cache *cache, struct cache_block *block)
{
	struct cache_file *file = &block->file->cached;

	block->dirty_previous = file->dirty_last;
	block->dirty_next = NULL;
	if (file->dirty_last)
		file->dirty_last->dirty_next = block;
	else
		file->dirty_first = block;
	file->dirty_last = block;
	cache->dirty_bytes += block->file->block_bytes;
	cache->dirty_blocks++;
	atomic_fetch_add(&file->dirty_bytes, block->file->block_bytes);
}

/* Memory is counted while a block is in the table; a pinned one outside of it is somebody's own. */
static void take_out(struct cache *cache, struct cache_block *block)
{
	struct cache_block **link = bucket_of(cache, block->file, block->number);
	struct cache_file *file = &block->file->cached;

	while (*link != block)
		link = &(*link)->hash_next;
	*link = block->hash_next;
	if (block->dirty)
		dirty_remove(cache, block);
	else
		clean_remove(cache, block);
	if (block->file_previous)
		block->file_previous->file_next = block->file_next;
	else
		file->first = block->file_next;
	if (block->file_next)
		block->file_next->file_previous = block->file_previous;
	atomic_fetch_sub(&file->bytes, block->file->block_bytes);
	cache->bytes -= block->file->block_bytes;
	cache->blocks--;
	block->in_table = false;
	block->dirty = false;
}

static bool fits(const struct cache *cache, const struct stripe_file *file, bool in_file)
{
	return in_file ? atomic_load(&file->cached.bytes) + file->block_bytes <=
				 cache->file_bytes_max
		       : cache->bytes + file->block_bytes <= cache->bytes_max;
}

/* Drops clean blocks, of one file or of any, until a block of the file fits. */
static bool make_room(struct cache *cache, const struct stripe_file *file, bool in_file)
{
	struct cache_block *block = cache->oldest;

	while (block && !fits(cache, file, in_file)) {
		struct cache_block *next = block->newer;
		if (block->pins == 0 && (!in_file || block->file == file)) {
			take_out(cache, block);
			free(block);
		}
		block = next;
	}
	return fits(cache, file, in_file);
}

/* -------- blocks -------- */

void cache_forget_file(struct cache *cache, struct stripe_file *file)
{
	pthread_mutex_lock(&cache->lock);
	while (file->cached.first) {
		struct cache_block *block = file->cached.first;
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the first one has no file_previous */
		take_out(cache, block);
		free(block);
	}
	pthread_mutex_unlock(&cache->lock);
}

struct cache_block *cache_find(struct cache *cache, struct stripe_file *file, uint64_t number)
{
	pthread_mutex_lock(&cache->lock);
	struct cache_block *block = *bucket_of(cache, file, number);
	while (block && (block->file != file || block->number != number))
		block = block->hash_next;
	if (block) {
		block->pins++;
		if (!block->dirty) {
			clean_remove(cache, block);
			clean_append(cache, block);
		}
	}
	pthread_mutex_unlock(&cache->lock);
	return block;
}

struct cache_block *cache_find_dirty(struct cache *cache, struct stripe_file *file, uint64_t number)
{
	pthread_mutex_lock(&cache->lock);
	struct cache_block *block = *bucket_of(cache, file, number);
	while (block && (block->file != file || block->number != number))
		block = block->hash_next;
	if (block && !block->dirty)
		block = NULL;
	if (block)
		block->pins++;
	pthread_mutex_unlock(&cache->lock);
	return block;
}

uint64_t cache_dirty_since_ms(struct cache *cache, const struct cache_block *block)
{
	pthread_mutex_lock(&cache->lock);
	uint64_t since = block->dirty ? block->dirty_since_ms : UINT64_MAX;
	pthread_mutex_unlock(&cache->lock);
	return since;
}

struct cache_block *cache_make(struct cache *cache, struct stripe_file *file, uint64_t number)
{
	size_t bytes = file->block_bytes;

	pthread_mutex_lock(&cache->lock);
	bool room = make_room(cache, file, true) && make_room(cache, file, false);
	pthread_mutex_unlock(&cache->lock);
	struct cache_block *block = room ? malloc(sizeof(*block) + bytes) : NULL;
	if (block)
		*block = (struct cache_block){.file = file, .number = number, .pins = 1};
	return block;
}

void cache_insert(struct cache *cache, struct cache_block *block)
{
	struct cache_file *file = &block->file->cached;

	pthread_mutex_lock(&cache->lock);
	struct cache_block **bucket = bucket_of(cache, block->file, block->number);
	block->hash_next = *bucket;
	*bucket = block;
	block->in_table = true;
	clean_append(cache, block);
	block->file_previous = NULL;
	block->file_next = file->first;
	if (file->first)
		file->first->file_previous = block;
	file->first = block;
	atomic_fetch_add(&file->bytes, block->file->block_bytes);
	cache->bytes += block->file->block_bytes;
	cache->blocks++;
	pthread_mutex_unlock(&cache->lock);
}

void cache_remove(struct cache *cache, struct cache_block *block)
{
	pthread_mutex_lock(&cache->lock);
	if (block->in_table)
		take_out(cache, block);
	pthread_mutex_unlock(&cache->lock);
}

void cache_unpin(struct cache *cache, struct cache_block *block)
{
	pthread_mutex_lock(&cache->lock);
	bool unused = --block->pins == 0 && !block->in_table;
	pthread_mutex_unlock(&cache->lock);
	if (unused)
		free(block);
}

/* Beyond this much dirty there would be no room left for clean blocks. */
static bool is_full(const struct cache *cache, const struct stripe_file *file)
{
	return atomic_load(&file->cached.dirty_bytes) + file->block_bytes >
		       cache->file_bytes_max / 2 ||
	       cache->dirty_bytes + file->block_bytes > cache->bytes_max / 2;
}

bool cache_set_dirty(struct cache *cache, struct cache_block *block, uint64_t now_ms)
{
	pthread_mutex_lock(&cache->lock);
	bool room = !is_full(cache, block->file);
	if (room) {
		clean_remove(cache, block);
		dirty_append(cache, block);
		block->dirty = true;
		block->dirty_since_ms = now_ms;
	}
	pthread_mutex_unlock(&cache->lock);
	return room;
}

void cache_set_clean(struct cache *cache, struct cache_block *block)
{
	pthread_mutex_lock(&cache->lock);
	if (block->in_table && block->dirty) {
		dirty_remove(cache, block);
		clean_append(cache, block);
	}
	block->dirty = false;
	pthread_mutex_unlock(&cache->lock);
}

struct cache_block *cache_oldest_dirty(struct cache *cache, struct stripe_file *file)
{
	pthread_mutex_lock(&cache->lock);
	struct cache_block *block = file->cached.dirty_first;
	if (block)
		block->pins++;
	pthread_mutex_unlock(&cache->lock);
	return block;
}

struct cache_block *cache_any(
	struct cache *cache, struct stripe_file *file, uint64_t first, uint64_t last)
{
	pthread_mutex_lock(&cache->lock);
	struct cache_block *block = file->cached.first;
	while (block && (block->number < first || block->number > last))
		block = block->file_next;
	if (block)
		block->pins++;
	pthread_mutex_unlock(&cache->lock);
	return block;
}

bool cache_file_is_full(struct cache *cache, struct stripe_file *file)
{
	pthread_mutex_lock(&cache->lock);
	bool full = is_full(cache, file);
	pthread_mutex_unlock(&cache->lock);
	return full;
}

uint64_t cache_block_count(struct cache *cache, uint64_t *dirty)
{
	pthread_mutex_lock(&cache->lock);
	uint64_t blocks = cache->blocks;
	*dirty = cache->dirty_blocks;
	pthread_mutex_unlock(&cache->lock);
	return blocks;
}
