/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See scrubber.h. A pass goes through the store files of all devices; where it is, is not
 * remembered over a restart. What cannot be repaired, because too few nodes are there, is tried
 * again by the next pass, which then comes soon.
 *
 * Blocks are compared by what the stores say of them in headers, which is what healing begins with.
 * One node of each file does that in each of its passes, and one that has lost the whole file is
 * passed over: when all nodes have made a pass, all files were compared. What could not be compared
 * has its turn once more, in a pass that comes sooner than the interval says.
 *
 * Holds no locks of its own but work->lock for a moment; store_check_blocks() holds a file's for a
 * fraction of a MiB.
 */
#include "storaged/scrubber.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rpc/log.h"
#include "storaged/clock.h"
#include "storaged/orphans.h"
#include "storaged/periodic.h"
#include "storaged/rate.h"

#define LOOK_MS 500 /* whether a pass is due */
#define RETRY_MS 10000 /* how soon repairs are tried again */
#define COMPARE_RETRY_MS 60000 /* and comparisons, at the latest with the next interval */
#define COMPARE_STEP 256 /* blocks compared at a time */
#define LOOK_BYTES (1u << 20) /* what a part of the search for a lost header does */
#define HEADER_BYTES 64 /* what a header of a block counts for in the rate */

struct scrubber {
	struct periodic periodic;
	struct store *store;
	struct stripe *stripe;
	struct work *work;
	uint32_t node_id;
	struct rate rate; /* 0: off */
	_Atomic uint32_t interval_s;
	struct orphans *orphans;
	/* Only the thread uses what follows. */
	uint32_t passes;
	int64_t begun_ms; /* the last pass that was done wholly and left nothing; 0: none */
	int64_t retry_ms; /* not before */
	uint64_t files_all; /* store files met by the last pass */
	/* Of this pass. */
	uint64_t files, blocks, bytes, found, repaired, lagging, compare_failed;
	/*
	 * Lost records of blocks that no node has: where a file was cut the store cannot know which
	 * were in use. While another node of the file is away they stay (or the block is just being
	 * written). Nobody needs them.
	 */
	uint64_t nowhere;
	/* Blocks whose records the device cannot read, and store files that cannot be opened:
	 * nothing can be done for them here, and trying often would have the device taken out of
	 * service. */
	uint64_t unreadable;
};

static void tell(struct scrubber *scrubber)
{
	meta_work *told = &scrubber->work->told;

	pthread_mutex_lock(&scrubber->work->lock);
	told->scrub_limit = atomic_load(&scrubber->rate.mib_per_second);
	told->scrub_passes = scrubber->passes;
	told->scrub_files = scrubber->files;
	told->scrub_files_all = scrubber->files_all;
	told->scrub_bytes = scrubber->bytes;
	told->scrub_found = scrubber->found;
	told->scrub_repaired = scrubber->repaired;
	pthread_mutex_unlock(&scrubber->work->lock);
}

/* Waits until the rate allows for more after bytes were read; while it is 0, until it is not. */
static void pay(struct scrubber *scrubber, uint64_t bytes)
{
	tell(scrubber);
	rate_pay(&scrubber->rate, &scrubber->periodic, bytes);
	while (atomic_load(&scrubber->rate.mib_per_second) == 0 &&
		!periodic_stopping(&scrubber->periodic))
		periodic_wait(&scrubber->periodic, LOOK_MS);
}

/* True if a block is sound, or gone. */
static bool is_sound(struct scrubber *scrubber, const store_file *file, uint64_t block)
{
	struct store_check check;

	return store_check_blocks(scrubber->store, file, block, 1, &check) == 0 &&
	       check.bad_count == 0 && check.unreadable == 0;
}

/* Has the bad blocks made anew. Returns 0, or why the file cannot be had from exportd. */
static int repair(
	struct scrubber *scrubber, const store_file *file, const struct store_check *check)
{
	struct stripe_file *stripe_file;
	int error = stripe_file_get(scrubber->stripe, file->export_id, file->file_id, &stripe_file);

	if (error == -ESTALE)
		return 0; /* removed; its store file goes, too */
	if (error) {
		scrubber->found += check->bad_count;
		return error;
	}
	for (size_t i = 0; i < check->bad_count && !periodic_stopping(&scrubber->periodic); i++) {
		uint64_t block = check->bad[i], healed = 0, left = 0;

		error = stripe_heal(stripe_file, file->segment, block, 1, &healed, &left);
		if (error == -ESTALE)
			break;
		scrubber->found++;
		if (is_sound(scrubber, file, block)) {
			scrubber->repaired++;
			rozo_log(INFO,
				"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
				" block %" PRIu64 ": repaired",
				file->export_id, (uint64_t)file->file_id, file->segment, block);
		} else if (!error && !healed && !left) {
			scrubber->nowhere++;
		} else {
			rozo_log_limited(ERROR,
				"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
				" block %" PRIu64
				": damaged, and cannot be repaired now: %s; will be tried again",
				file->export_id, (uint64_t)file->file_id, file->segment, block,
				error ? strerror(-error) : "too few other nodes answer");
		}
	}
	stripe_file_put(stripe_file);
	return 0;
}

/*
 * True if this node is to compare a segment with the other nodes: it is the first of those that
 * have something of it, in an order that begins elsewhere for each file. The order is the same for
 * all nodes, whoever of them each of them can reach.
 */
static bool our_turn(struct scrubber *scrubber, struct stripe_file *file, const store_file *key)
{
	uint32_t up = stripe_shards_up(file, key->segment), count = 0;

	/* Nobody is known: who is asked for the blocks says why. */
	if (!up)
		return true;
	for (uint32_t shard = 0; shard < MOJETTE_N_MAX; shard++) {
		if (stripe_shard_node(file, key->segment, shard))
			count = shard + 1;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t shard = (uint32_t)((key->file_id + i) % count);

		if (!(up & (1u << shard)))
			continue;
		if (stripe_shard_node(file, key->segment, shard) == scrubber->node_id)
			return true;
		if (stripe_shard_exists(file, key->segment, shard))
			return false;
	}
	return false;
}

/* Compares a file's blocks with those of the other nodes. What lags is healed. */
static void compare_file(struct scrubber *scrubber, const store_file *key)
{
	struct stripe_file *file;
	uint64_t block_count = 0, failed = 0;
	uint32_t unheard = 0;
	int error = stripe_file_get(scrubber->stripe, key->export_id, key->file_id, &file);

	if (error == -ESTALE)
		return; /* removed; orphans.c sees to what is left */
	if (error) {
		scrubber->compare_failed++;
		return;
	}
	if (our_turn(scrubber, file, key))
		error = stripe_block_count(file, key->segment, &block_count);
	for (uint64_t block = 0; !error && block < block_count; block += COMPARE_STEP) {
		uint64_t left = block_count - block;
		uint32_t step = left < COMPARE_STEP ? (uint32_t)left : COMPARE_STEP;
		struct stripe_heal_result result;

		if (periodic_stopping(&scrubber->periodic))
			break;
		error = stripe_heal_range(file, key->segment, block, step, false, &result);
		failed += result.failed;
		unheard |= result.unheard;
		scrubber->lagging += result.unrecorded;
		if (result.unrecorded)
			rozo_log(WARNING,
				"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
				" blocks %" PRIu64 " to %" PRIu64 ": %" PRIu64
				" shards lagged behind and nobody had a record of it: repaired",
				key->export_id, (uint64_t)key->file_id, key->segment, block,
				block + step - 1, result.unrecorded);
		pay(scrubber, (uint64_t)step * HEADER_BYTES + result.healed_bytes);
	}
	/* What lags still is not as the others have it. */
	if (!error && failed)
		rozo_log_limited(WARNING,
			"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32 ": %" PRIu64
			" blocks lag behind on nodes that do not take their shards; will be tried "
			"again",
			key->export_id, (uint64_t)key->file_id, key->segment, failed);
	if (error != -ENOENT && error != -ESTALE)
		scrubber->compare_failed += error || failed || unheard;
	stripe_file_put(file);
}

/* What could not be looked at is left. Errors count against the device. */
static void note_unseen(struct scrubber *scrubber, int error)
{
	scrubber->found++;
	scrubber->unreadable += error != -ENOMEM;
}

/* Readers get nothing of the store file, either. */
static void not_checked(struct scrubber *scrubber, const store_file *file, int error)
{
	note_unseen(scrubber, error);
	rozo_log_limited(WARNING,
		"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
		": its store file cannot be checked: %s",
		file->export_id, (uint64_t)file->file_id, file->segment, strerror(-error));
}

static int scrub_file(void *context, const store_file *file)
{
	struct scrubber *scrubber = context;
	uint64_t next = 0;

	scrubber->files++;
	while (next != UINT64_MAX) {
		struct store_check check;

		if (periodic_stopping(&scrubber->periodic))
			return -ECANCELED;
		int failed = store_check_blocks(scrubber->store, file, next, UINT64_MAX, &check);
		if (failed == -EBUSY) {
			pay(scrubber, LOOK_BYTES);
			continue;
		}
		if (failed) {
			not_checked(scrubber, file, failed);
			/* It can be removed all the same. */
			orphans_ask(scrubber->orphans, file);
			return 0;
		}
		next = check.next_block;
		scrubber->blocks += check.blocks;
		scrubber->bytes += check.bytes;
		scrubber->unreadable += check.unreadable;
		scrubber->found += check.unreadable + check.headers_mended;
		scrubber->repaired += check.headers_mended;
		int error = check.bad_count ? repair(scrubber, file, &check) : 0;
		if (error)
			rozo_log_limited(WARNING,
				"scrub: export %" PRIu32 " file %" PRIx64
				" has damaged blocks and cannot be repaired now: %s; will be tried "
				"again",
				file->export_id, (uint64_t)file->file_id, strerror(-error));
		pay(scrubber, check.bytes + 1);
	}
	compare_file(scrubber, file);
	orphans_ask(scrubber->orphans, file);
	return 0;
}

/* What the pass that has ended leaves to be told. */
static void tell_end(struct scrubber *scrubber, uint64_t left)
{
	struct timespec now;

	scrubber->files_all = scrubber->files;
	tell(scrubber);
	clock_gettime(CLOCK_REALTIME, &now);
	pthread_mutex_lock(&scrubber->work->lock);
	scrubber->work->told.scrub_left = left;
	scrubber->work->told.scrub_ended = now.tv_sec;
	scrubber->work->told.lagging += scrubber->lagging;
	scrubber->work->told.orphans += orphans_removed(scrubber->orphans);
	scrubber->work->told.orphans_suspected = orphans_suspected(scrubber->orphans);
	pthread_mutex_unlock(&scrubber->work->lock);
}

/* The next pass begins with the interval, or, with something left that can be tried again, soon. */
static void plan_next(
	struct scrubber *scrubber, uint64_t left, int64_t start_ms, int64_t interval_ms)
{
	int64_t retry_ms = COMPARE_RETRY_MS < interval_ms ? COMPARE_RETRY_MS : interval_ms;

	if (left > scrubber->unreadable)
		scrubber->retry_ms = clock_now_ms() + RETRY_MS;
	else if (scrubber->compare_failed)
		scrubber->retry_ms = clock_now_ms() + retry_ms;
	else
		scrubber->begun_ms = start_ms;
}

static void scrub(void *context)
{
	struct scrubber *scrubber = context;
	int64_t start_ms = clock_now_ms();
	int64_t interval_ms = (int64_t)atomic_load(&scrubber->interval_s) * 1000;

	if (atomic_load(&scrubber->rate.mib_per_second) == 0 || start_ms < scrubber->retry_ms ||
		(scrubber->begun_ms && start_ms < scrubber->begun_ms + interval_ms))
		return;
	scrubber->files = scrubber->blocks = scrubber->bytes = 0;
	scrubber->found = scrubber->repaired = scrubber->nowhere = 0;
	scrubber->unreadable = scrubber->lagging = scrubber->compare_failed = 0;
	orphans_pass(scrubber->orphans, interval_ms);
	int error = store_scan(scrubber->store, scrub_file, scrubber);
	if (error == -ECANCELED)
		return;
	/* A directory cannot be listed, which was logged, or the walk has ended early. */
	if (error)
		note_unseen(scrubber, error);
	orphans_pass_end(scrubber->orphans);
	uint64_t left = scrubber->found - scrubber->repaired - scrubber->nowhere;
	scrubber->passes++;
	tell_end(scrubber, left);
	rozo_log(INFO,
		"scrub: pass done in %" PRId64 " s: read %" PRIu64 " store files, %" PRIu64
		" blocks, %" PRIu64 " MiB; found %" PRIu64 " damaged, repaired %" PRIu64
		", left %" PRIu64 ", not in use %" PRIu64 "; lagging %" PRIu64
		", not compared %" PRIu64 " store files",
		(clock_now_ms() - start_ms) / 1000, scrubber->files, scrubber->blocks,
		scrubber->bytes >> 20, scrubber->found, scrubber->repaired, left, scrubber->nowhere,
		scrubber->lagging, scrubber->compare_failed);
	plan_next(scrubber, left, start_ms, interval_ms);
}

int scrubber_start(struct scrubber **result, struct store *store, struct stripe *stripe,
	struct work *work, const struct scrubber_options *options)
{
	struct scrubber *scrubber = calloc(1, sizeof(*scrubber));

	if (!scrubber)
		return -ENOMEM;
	scrubber->store = store;
	scrubber->stripe = stripe;
	scrubber->work = work;
	scrubber->node_id = options->node_id;
	scrubber_set_rate(scrubber, options->mib_per_second, options->interval_s);
	int error = orphans_create(&scrubber->orphans, options->node_id, store, stripe,
		options->devices, options->device_count);
	if (!error)
		error = periodic_start(&scrubber->periodic, LOOK_MS, scrub, scrubber);
	if (error) {
		orphans_destroy(scrubber->orphans);
		free(scrubber);
		return error;
	}
	*result = scrubber;
	return 0;
}

void scrubber_set_rate(struct scrubber *scrubber, uint32_t mib_per_second, uint32_t interval_s)
{
	atomic_store(&scrubber->rate.mib_per_second, mib_per_second);
	atomic_store(&scrubber->interval_s, interval_s);
	pthread_mutex_lock(&scrubber->work->lock);
	scrubber->work->told.scrub_limit = mib_per_second;
	pthread_mutex_unlock(&scrubber->work->lock);
}

void scrubber_stop(struct scrubber *scrubber)
{
	periodic_stop(&scrubber->periodic);
	orphans_destroy(scrubber->orphans);
	free(scrubber);
}
