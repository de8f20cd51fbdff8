/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See gather.h. The thread of this file takes commit_lock and range locks like any writer.
 * stripe.gather_lock guards the list of files that have collected something; nothing is taken while
 * it is held.
 */
#include "stripe/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* After bytes were lost to another writer: partial writes of the file that are sent at once. */
#define PAUSE_WRITES 64
/* A 64th of a block is the grain in which it is known whether all of it has come. */
#define GRAINS 64u
/* How often exportd is asked for one block. */
#define LEARN_MAX 3

/* -------- what versions tell -------- */

static bool is_ahead(struct stripe_file *file, store_version version)
{
	return version.generation >> GENERATION_COUNTER_BITS > file_write_epoch(file);
}

/*
 * True if whatever others decide after this version is newer than it. That is so if it was decided
 * itself; and if it is our own and we do not doubt it, since stores that forgot it say so.
 */
static bool is_certain(struct stripe_file *file, store_version version, bool committed)
{
	if (committed || VERSION_IS_EMPTINESS(version) || version.generation == 0)
		return true;
	return version.writer == file->stripe->writer && !run_is_doubtful(file, version);
}

/*
 * True if nobody wrote the block since it was cached. A block that was taken to be empty may turn
 * out to have been emptied, but not later than the epoch that we knew of.
 */
static bool same_base(const struct cache_block *cached, const struct block *block)
{
	if (version_compare(cached->version, block->version) == 0)
		return true;
	return cached->version.generation == 0 && VERSION_IS_EMPTINESS(block->version) &&
	       block->length_bytes == 0 &&
	       block->version.generation >> GENERATION_COUNTER_BITS <= cached->write_epoch;
}

/* -------- losing -------- */

/*
 * Nothing is left that a size could be reported for; but not if a write has begun under the
 * verifier that has come since. A COMMIT may have made it durable and left its end to the next one,
 * and it is not sent again.
 */
static void forget_unstable_end(struct stripe_file *file, uint64_t verifier)
{
	pthread_mutex_lock(&file->lock);
	if (!file->unstable && atomic_load(&file->cached.dirty_bytes) == 0 &&
		(int64_t)(file->unstable_verifier - verifier) < 0) {
		file->unstable_end = 0;
		file->unstable_epoch = 0;
	}
	pthread_mutex_unlock(&file->lock);
}

/*
 * Gives up what was collected of a block: its clients have not been told that it is safe, and will
 * send it again when they see the new verifier (RFC 1813 sections 3.3.7, 3.3.21).
 */
static void lose(struct cache_block *cached, const char *why)
{
	struct stripe_file *file = cached->file;

	rozo_log_limited(WARNING,
		"file %u/%llu block %llu: what was collected of it is given up (%s); clients send "
		"it again",
		file->export_id, (unsigned long long)file->file_id,
		(unsigned long long)cached->number, why);
	uint64_t verifier = atomic_fetch_add(&file->stripe->verifier, 1) + 1;
	atomic_fetch_add(&file->stripe->collected_lost, 1);
	atomic_store(&file->gather_pause, PAUSE_WRITES);
	cache_remove(&file->stripe->cache, cached);
	forget_unstable_end(file, verifier);
}

static void lose_all(struct stripe_file *file, const char *why)
{
	struct cache *cache = &file->stripe->cache;
	struct cache_block *cached;

	while ((cached = cache_oldest_dirty(cache, file))) {
		struct range_hold hold;

		range_acquire(&file->ranges, &hold, cached->number, cached->number, true);
		if (cached->dirty)
			lose(cached, why);
		range_release(&file->ranges, &hold);
		cache_unpin(cache, cached);
	}
}

/* -------- one block -------- */

/*
 * What one sends after the other. A store whose disk hangs may go on answering all that does not
 * need it, so that its node does not seem to be down: it is not waited for with each block.
 */
struct sending {
	uint64_t give_up_us; /* attempts_end(), for all of it */
	unsigned int sent; /* blocks */
	const struct segment *segment; /* of the block sent last */
	uint32_t silent; /* its shards whose stores did not answer in time */
};

/* Bytes that go over a block. */
struct patch {
	uint32_t from;
	uint32_t length; /* 0: nothing */
	const uint8_t *bytes;
};

static void apply(struct block *block, const struct patch *patch)
{
	if (!patch->length)
		return;
	memcpy(block->bytes + patch->from, patch->bytes, patch->length);
	if (block->length_bytes < patch->from + patch->length)
		block->length_bytes = patch->from + patch->length;
}

static void block_of(
	const struct stripe_file *file, const struct cache_block *cached, struct block *block)
{
	memcpy(block->bytes, cached->bytes, file->block_bytes);
	block->version = cached->version;
	block->length_bytes = cached->length_bytes;
	block->committed = cached->committed;
}

/*
 * True if a block in the cache may be what a write under this epoch changes. A clean one from an
 * older epoch may have been truncated by others since: stores that never had it do not object to
 * what is based on it.
 */
static bool is_usable(
	struct stripe_file *file, const struct cache_block *cached, uint32_t write_epoch)
{
	return is_certain(file, cached->version, cached->committed) &&
	       (cached->dirty || cached->write_epoch == write_epoch);
}

static void fill_cached(const struct stripe_file *file, struct cache_block *cached,
	const struct block *block, uint32_t write_epoch)
{
	memcpy(cached->bytes, block->bytes, file->block_bytes);
	cached->version = block->version;
	cached->length_bytes = block->length_bytes;
	cached->committed = block->committed;
	cached->write_epoch = write_epoch;
}

/*
 * Remembers a block as it is under this epoch. cached: where; NULL: in a new place,
 * if there is room.
 */
static void remember(struct stripe_file *file, uint64_t number, struct cache_block *cached,
	const struct block *block, uint32_t write_epoch)
{
	struct cache *cache = &file->stripe->cache;

	if (cached) {
		fill_cached(file, cached, block, write_epoch);
		cache_set_clean(cache, cached);
		return;
	}
	cached = cache_find(cache, file, number);
	if (!cached) {
		cached = cache_make(cache, file, number);
		if (!cached)
			return;
		cache_insert(cache, cached);
	}
	fill_cached(file, cached, block, write_epoch);
	cache_set_clean(cache, cached);
	cache_unpin(cache, cached);
}

/*
 * Reads the block that a write changes. A block beyond the known end of the file is taken to be
 * empty without asking: the guard tells if it is not.
 */
static int read_base(struct stripe_file *file, const struct segment *segment, uint64_t number,
	unsigned int attempt, struct block *block)
{
	if (attempt == 0 && number * file->block_bytes >= stripe_file_size(file)) {
		block->version = (store_version){0};
		block->length_bytes = 0;
		block->committed = true;
		memset(block->bytes, 0, file->block_bytes);
		return 0;
	}
	int error = block_read(file, segment, number % file->segment_blocks,
		attempt > 0 ? BLOCK_READ_ALL : 0, block);
	/*
	 * Written under an epoch that we have not heard of, by a truncation, say: our next version
	 * would be the older one.
	 */
	if (!error && is_ahead(file, block->version))
		error = -ESTALE;
	return error;
}

/*
 * Writes a block with a patch, and with what was collected of it, if anything was. cached: pinned
 * by the caller, or NULL. With no patch, what was collected may turn out to be lost: that is no
 * error. mode: NULL for what was collected, of any client; unstably.
 */
static int send_block(struct stripe_file *file, const struct segment *segment, uint64_t number,
	struct cache_block *cached, const struct patch *patch, const struct write_mode *mode,
	struct sending *sending)
{
	struct cache *cache = &file->stripe->cache;
	struct block block = {.bytes = malloc(file->block_bytes)};
	uint64_t in_segment = number % file->segment_blocks;
	int error = 0;

	if (!block.bytes)
		return -ENOMEM;
	if (sending->segment != segment) {
		sending->segment = segment;
		sending->silent = 0;
	}
	for (unsigned int attempt = 0;; attempt++) {
		store_version newest = {0};
		uint32_t write_epoch = file_write_epoch(file), exact_base;

		if (attempt == 0 && cached && is_usable(file, cached, write_epoch)) {
			block_of(file, cached, &block);
			atomic_fetch_add(&file->stripe->cached_bases, patch->length != 0);
		} else {
			error = read_base(file, segment, number, cached ? 1 : attempt, &block);
			if (error)
				break;
			if (cached && !cached->dirty) {
				cache_remove(cache, cached);
				cached = NULL;
			} else if (cached && !same_base(cached, &block)) {
				lose(cached, "another writer wrote the block");
				remember(file, number, NULL, &block, write_epoch);
				cached = NULL;
				if (!patch->length)
					break;
			} else if (cached) {
				memcpy(block.bytes, cached->bytes, file->block_bytes);
				block.length_bytes = cached->length_bytes;
			}
		}
		error = block_base(file, segment, in_segment, &block, &exact_base);
		apply(&block, patch);
		struct write_run run = {
			.segment = segment,
			.first_block = in_segment,
			.count = 1,
			.bytes = block.bytes,
			.length_bytes = block.length_bytes,
			.exact_base = exact_base,
			.base = block.version,
			.write_epoch = cached && cached->dirty ? cached->write_epoch : write_epoch,
			.stable = mode && mode->stable,
			.layout_epoch = mode ? &mode->layout_epoch : NULL,
			.ending = !mode && atomic_load(&file->gather_ending),
			.silent = &sending->silent,
		};
		if (!error)
			error = block_write_run(file, &run, &newest);
		if (error == 0) {
			block.version = newest;
			block.committed = false;
			remember(file, number, cached, &block, run.write_epoch);
			break;
		}
		error = block_write_recover(
			file, segment, in_segment, 1, error, newest, attempt, sending->give_up_us);
		if (error)
			break;
	}
	free(block.bytes);
	return error;
}

/* -------- collecting -------- */

static bool may_collect(struct stripe_file *file)
{
	if (!file->stripe->gather || atomic_load(&file->gather_failed) ||
		atomic_load(&file->gather_unfinished) || atomic_load(&file->gather_ending) ||
		file->block_bytes % GRAINS)
		return false;
	unsigned int pause = atomic_load(&file->gather_pause);
	if (pause)
		atomic_compare_exchange_strong(&file->gather_pause, &pause, pause - 1);
	return pause == 0;
}

/* Sees to it that the thread knows of the file. */
static void enlist(struct stripe_file *file)
{
	struct stripe *stripe = file->stripe;

	pthread_mutex_lock(&stripe->gather_lock);
	if (!file->gather_listed) {
		file->gather_listed = true;
		file_reference(file);
		file->gather_next = stripe->gather_files;
		stripe->gather_files = file;
		pthread_cond_signal(&stripe->gather_wake);
	}
	pthread_mutex_unlock(&stripe->gather_lock);
}

/* Notes which grains of the block have come. What adjoins what came before it counts as one piece.
 */
static void cover(struct cache_block *cached, uint32_t from, uint32_t length)
{
	uint32_t grain = cached->file->block_bytes / GRAINS;
	uint32_t to = from + length;

	if (from <= cached->last_to && to >= cached->last_from) {
		from = from < cached->last_from ? from : cached->last_from;
		to = to > cached->last_to ? to : cached->last_to;
	}
	cached->last_from = from;
	cached->last_to = to;
	for (uint32_t i = (from + grain - 1) / grain; i < to / grain; i++)
		cached->covered |= UINT64_C(1) << i;
}

/*
 * The block as a place to collect into, pinned: *cached, if it is there already. NULL without an
 * error if it cannot be one.
 */
static int collectable(struct stripe_file *file, const struct segment *segment, uint64_t number,
	struct cache_block **cached)
{
	struct cache *cache = &file->stripe->cache;

	if (*cached)
		return 0;
	struct cache_block *made = cache_make(cache, file, number);
	if (!made)
		return 0;
	struct block block = {.bytes = made->bytes};
	made->write_epoch = file_write_epoch(file);
	int error = read_base(file, segment, number, 0, &block);
	if (error || !is_certain(file, block.version, block.committed)) {
		cache_unpin(cache, made);
		return error;
	}
	made->version = block.version;
	made->length_bytes = block.length_bytes;
	made->committed = block.committed;
	cache_insert(cache, made);
	*cached = made;
	return 0;
}

/* Returns true if the patch was collected. *error: that of sending the block, if it was complete.
 */
static bool collect(struct stripe_file *file, const struct segment *segment,
	struct cache_block *cached, const struct patch *patch, const uint32_t *layout_epoch,
	struct sending *sending, int *error)
{
	static const struct patch nothing;
	uint32_t write_epoch = file_write_epoch(file);

	/* Nobody asks when it is sent: other clients' bytes may be with it. */
	if (file_is_elsewhere(file, layout_epoch))
		return false;
	if (!cached->dirty) {
		if (cached->write_epoch != write_epoch ||
			!cache_set_dirty(&file->stripe->cache, cached, latency_now_us() / 1000))
			return false;
		cached->covered = 0;
		cached->last_from = cached->last_to = 0;
		enlist(file);
	}
	memcpy(cached->bytes + patch->from, patch->bytes, patch->length);
	if (cached->length_bytes < patch->from + patch->length)
		cached->length_bytes = patch->from + patch->length;
	cover(cached, patch->from, patch->length);
	atomic_fetch_add(&file->stripe->collected, 1);
	*error = 0;
	if (cached->covered == UINT64_MAX)
		*error = send_block(file, segment, cached->number, cached, &nothing, NULL, sending);
	return true;
}

int gather_write(struct stripe_file *file, const struct segment *segment, uint64_t number,
	uint32_t from, uint32_t length, const uint8_t *bytes, const struct write_mode *mode)
{
	struct cache *cache = &file->stripe->cache;
	struct patch patch = {.from = from, .length = length, .bytes = bytes};
	struct cache_block *cached = cache_find(cache, file, number);
	struct cache_block *found = cached;
	struct sending sending = {.give_up_us = mode->give_up_us};
	bool done = false;
	int error = 0;

	if (cached && cached->dirty && cached->write_epoch != file_write_epoch(file)) {
		lose(cached, "the file was truncated or has another gateway");
		cached = NULL;
	} else if (cached && !cached->dirty && !is_usable(file, cached, file_write_epoch(file))) {
		cache_remove(cache, cached);
		cached = NULL;
	}
	if (found && !cached)
		cache_unpin(cache, found);
	if (!mode->stable && may_collect(file)) {
		bool was_there = cached != NULL;
		error = collectable(file, segment, number, &cached);
		if (!error && cached) {
			atomic_fetch_add(&file->stripe->cached_bases, was_there);
			done = collect(file, segment, cached, &patch, &mode->layout_epoch, &sending,
				&error);
		}
	}
	if (!done && !error)
		error = send_block(file, segment, number, cached, &patch, mode, &sending);
	if (cached)
		cache_unpin(cache, cached);
	return error;
}

/* -------- sending -------- */

/* send_collected(), once; -ESTALE if exportd is to be asked before another attempt. */
static int try_to_send(
	struct stripe_file *file, struct cache_block *cached, struct sending *sending)
{
	static const struct patch nothing;
	const struct segment *segment;
	struct range_hold hold;

	int error = file_segment(
		file, (uint32_t)(cached->number / file->segment_blocks), false, &segment);
	if (error)
		return error;
	range_acquire(&file->ranges, &hold, cached->number, cached->number, true);
	if (cached->dirty && cached->write_epoch != file_write_epoch(file))
		lose(cached, "the file was truncated or has another gateway");
	else if (cached->dirty)
		error = send_block(file, segment, cached->number, cached, &nothing, NULL, sending);
	bool left = cached->dirty;
	range_release(&file->ranges, &hold);
	return left ? error : 0;
}

/*
 * Sends what was collected of a block. learn: ask exportd if stores know a newer epoch, or shards
 * have been made since, which is no new epoch.
 * Returns 0 also if there turned out to be nothing, or it was lost; an error if it is still there.
 */
static int send_collected(
	struct stripe_file *file, struct cache_block *cached, bool learn, struct sending *sending)
{
	int error = try_to_send(file, cached, sending);

	for (unsigned int asked = 0; error == -ESTALE && learn && asked < LEARN_MAX; asked++) {
		/* Not with the range held. If the epoch grew, what is left is given up next. */
		uint32_t layout_epoch = stripe_file_layout_epoch(file);
		error = file_learn_epoch(file, &layout_epoch);
		if (error)
			return error;
		error = try_to_send(file, cached, sending);
	}
	if (!error)
		atomic_store(&file->gather_failed, false);
	else if (error == -ESTALE && learn)
		error = -EIO; /* the stores and exportd disagree */
	return error;
}

/*
 * Sends what has been collected for longest, until at most so many bytes are left.
 * Returns also -ETIMEDOUT: there was no time for all of it.
 */
static int send_until(struct stripe_file *file, size_t bytes, struct sending *sending)
{
	struct cache *cache = &file->stripe->cache;
	int error = 0;

	/* Each block comes up at most once: what is collected anew goes to the end of the list. */
	size_t count = atomic_load(&file->cached.dirty_bytes) / file->block_bytes;
	while (!error && count-- && atomic_load(&file->cached.dirty_bytes) > bytes) {
		error = attempts_over(file, sending->give_up_us);
		if (error)
			break;
		struct cache_block *cached = cache_oldest_dirty(cache, file);
		if (!cached)
			break;
		error = send_collected(file, cached, true, sending);
		sending->sent += !error;
		cache_unpin(cache, cached);
	}
	return error;
}

/*
 * Collects no more until the thread, which must have the file in its list, finds nothing left.
 * why: gather_failed or gather_unfinished.
 */
static void stop_collecting(struct stripe_file *file, atomic_bool *why)
{
	pthread_mutex_lock(&file->stripe->gather_lock);
	if (file->gather_listed)
		atomic_store(why, true);
	pthread_mutex_unlock(&file->stripe->gather_lock);
}

void gather_make_room(struct stripe_file *file, uint64_t give_up_us)
{
	struct cache *cache = &file->stripe->cache;
	size_t bytes = atomic_load(&file->cached.dirty_bytes);
	struct sending sending = {.give_up_us = give_up_us};

	if (!bytes || !cache_file_is_full(cache, file))
		return;
	/* If that fails, the write finds no room to collect into, is sent at once, and fails. */
	if (send_until(file, bytes / 4 * 3, &sending))
		stop_collecting(file, &file->gather_failed);
}

int gather_commit(struct stripe_file *file, uint64_t give_up_us)
{
	struct sending sending = {.give_up_us = give_up_us};

	if (atomic_load(&file->cached.dirty_bytes) == 0) {
		atomic_store(&file->gather_unfinished, false);
		return 0;
	}
	if (latency_now_us() >= give_up_us)
		return -ETIMEDOUT; /* while others sent */
	int error = send_until(file, 0, &sending);
	if (error == -EIO && file_doubt_rebuilding(file))
		error = send_until(file, 0, &sending);
	/* The next COMMIT goes on with the rest, to which a busy writer must not add. */
	if (error == -ETIMEDOUT && sending.sent && latency_now_us() >= give_up_us) {
		stop_collecting(file, &file->gather_unfinished);
		return error;
	}
	if (error) {
		/* Until nothing is left nothing more is collected, or this might not end. */
		atomic_store(&file->gather_failed, true);
		lose_all(file, strerror(-error));
		atomic_store(&file->gather_failed, false);
	}
	atomic_store(&file->gather_unfinished, false);
	return error;
}

void gather_end_epoch(struct stripe_file *file)
{
	struct cache *cache = &file->stripe->cache;
	struct cache_block *cached;
	struct sending sending = {.give_up_us = attempts_end(file->stripe)};
	int error = 0;

	/* Or a busy writer would keep us here. */
	atomic_store(&file->gather_ending, true);
	while (!error && (cached = cache_oldest_dirty(cache, file))) {
		error = attempts_over(file, sending.give_up_us);
		if (!error)
			error = send_collected(file, cached, false, &sending);
		cache_unpin(cache, cached);
	}
	if (error)
		lose_all(file, "the file was truncated or has another gateway");
	atomic_store(&file->gather_ending, false);
}

void gather_forget(struct stripe_file *file, uint64_t first, uint64_t last, bool superseded)
{
	struct cache *cache = &file->stripe->cache;
	struct cache_block *cached;

	if (atomic_load(&file->cached.bytes) == 0)
		return;
	if (last - first >= GRAINS) {
		while ((cached = cache_any(cache, file, first, last))) {
			if (cached->dirty && !superseded)
				lose(cached, "the file was truncated");
			else
				cache_remove(cache, cached);
			cache_unpin(cache, cached);
		}
		return;
	}
	for (uint64_t number = first; number <= last; number++) {
		cached = cache_find(cache, file, number);
		if (!cached)
			continue;
		if (cached->dirty && !superseded)
			lose(cached, "the file was truncated");
		else
			cache_remove(cache, cached);
		cache_unpin(cache, cached);
	}
}

void gather_overlay(struct stripe_file *file, uint64_t number, struct block *block)
{
	struct cache *cache = &file->stripe->cache;

	if (atomic_load(&file->cached.dirty_bytes) == 0)
		return;
	struct cache_block *cached = cache_find_dirty(cache, file, number);
	if (!cached)
		return;
	if (same_base(cached, block)) {
		memcpy(block->bytes, cached->bytes, file->block_bytes);
		block->length_bytes = cached->length_bytes;
	} else {
		lose(cached, "another writer wrote the block");
	}
	cache_unpin(cache, cached);
}

/* -------- the thread -------- */

/* Sends what has been collected for long enough. Other files have their turn after a while. */
static void send_old(struct stripe_file *file, uint64_t now)
{
	struct cache *cache = &file->stripe->cache;
	struct cache_block *cached;
	struct sending sending = {0};
	uint64_t end_us = attempts_end(file->stripe);
	int error = 0;

	while (!error && latency_now_us() < end_us && (cached = cache_oldest_dirty(cache, file))) {
		uint64_t since = cache_dirty_since_ms(cache, cached);
		if (since != UINT64_MAX && since + file->stripe->gather_delay_ms > now) {
			cache_unpin(cache, cached);
			break;
		}
		sending.give_up_us = attempts_end(file->stripe);
		/* Many small runs are one commit's work; a failure changes the verifier. */
		error = runs_are_many(file) ? stripe_commit(file)
					    : send_collected(file, cached, true, &sending);
		cache_unpin(cache, cached);
	}
	if (!error)
		return;
	/* Writers shall see for themselves. Tried again until it works, or a COMMIT fails. */
	atomic_store(&file->gather_failed, true);
	/* No COMMIT comes to this one any more, and each time exportd says so clients send again.
	 */
	if (file_is_forgotten(file))
		lose_all(file, "the file is gone");
}

static void *gather_thread(void *argument)
{
	struct stripe *stripe = argument;

	pthread_mutex_lock(&stripe->gather_lock);
	while (!stripe->gather_stopping) {
		if (!stripe->gather_files) {
			pthread_cond_wait(&stripe->gather_wake, &stripe->gather_lock);
			continue;
		}
		uint64_t until = latency_now_us() / 1000 + stripe->gather_delay_ms / 2 + 1;
		struct timespec at = {.tv_sec = (time_t)(until / 1000),
			.tv_nsec = (long)(until % 1000) * 1000000};
		while (!stripe->gather_stopping && pthread_cond_timedwait(&stripe->gather_wake,
							   &stripe->gather_lock, &at) != ETIMEDOUT)
			;
		struct stripe_file *files = stripe->gather_files;
		stripe->gather_files = NULL;
		while (files && !stripe->gather_stopping) {
			struct stripe_file *file = files;

			files = file->gather_next;
			pthread_mutex_unlock(&stripe->gather_lock);
			send_old(file, latency_now_us() / 1000);
			pthread_mutex_lock(&stripe->gather_lock);
			if (atomic_load(&file->cached.dirty_bytes)) {
				file->gather_next = stripe->gather_files;
				stripe->gather_files = file;
				continue;
			}
			file->gather_listed = false;
			atomic_store(&file->gather_failed, false);
			atomic_store(&file->gather_unfinished, false);
			pthread_mutex_unlock(&stripe->gather_lock);
			stripe_file_put(file);
			pthread_mutex_lock(&stripe->gather_lock);
		}
		while (files) { /* stopping: gather_stop() sees to them */
			struct stripe_file *next = files->gather_next;
			files->gather_next = stripe->gather_files;
			stripe->gather_files = files;
			files = next;
		}
	}
	pthread_mutex_unlock(&stripe->gather_lock);
	return NULL;
}

int gather_start(struct stripe *stripe)
{
	pthread_condattr_t attributes;

	if (!stripe->gather)
		return 0;
	pthread_mutex_init(&stripe->gather_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&stripe->gather_wake, &attributes);
	pthread_condattr_destroy(&attributes);
	int error = -pthread_create(&stripe->gather_thread, NULL, gather_thread, stripe);
	if (error) {
		pthread_cond_destroy(&stripe->gather_wake);
		pthread_mutex_destroy(&stripe->gather_lock);
		stripe->gather = false;
	}
	return error;
}

void gather_stop(struct stripe *stripe)
{
	if (!stripe->gather)
		return;
	pthread_mutex_lock(&stripe->gather_lock);
	stripe->gather_stopping = true;
	pthread_cond_signal(&stripe->gather_wake);
	pthread_mutex_unlock(&stripe->gather_lock);
	pthread_join(stripe->gather_thread, NULL);
	/* What has not been sent is lost with this run of the engine, as its verifier will be. */
	while (stripe->gather_files) {
		struct stripe_file *file = stripe->gather_files;

		stripe->gather_files = file->gather_next;
		file->gather_listed = false;
		stripe_file_put(file);
	}
	pthread_cond_destroy(&stripe->gather_wake);
	pthread_mutex_destroy(&stripe->gather_lock);
}
