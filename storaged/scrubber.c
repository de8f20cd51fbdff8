/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See scrubber.h. A pass goes through the store files of all devices; where it is, is not
 * remembered over a restart. What cannot be repaired, because too few nodes are there, is tried
 * again by the next pass, which then comes soon. Holds no locks of its own; store_check_blocks()
 * holds a file's for a fraction of a MiB.
 */
#include "storaged/scrubber.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rpc/log.h"
#include "storaged/periodic.h"

#define LOOK_MS 10000 /* whether a pass is due; also how soon repairs are tried again */
#define PASS_MS (600 * 1000) /* from the start of a pass to that of the next, at least */
#define BURST_MS 1000 /* of the rate that was not used, so much may be made up for */

struct scrubber {
	struct periodic periodic;
	struct store *store;
	struct stripe *stripe;
	uint64_t bytes_per_second;
	/* Only the thread uses what follows. */
	int64_t due_ms; /* of the next pass */
	int64_t paid_us; /* until then what was read is paid for */
	/* Of this pass. */
	uint64_t files, blocks, bytes, found, repaired;
	/*
	 * Lost records of blocks that no node has: where a file was cut the store cannot know which
	 * were in use (or the block is just being written). Nobody needs them.
	 */
	uint64_t nowhere;
};

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Waits until the rate allows for more after bytes were read. */
static void pay(struct scrubber *scrubber, uint64_t bytes)
{
	int64_t now = now_us();

	if (scrubber->paid_us < now - BURST_MS * 1000)
		scrubber->paid_us = now - BURST_MS * 1000;
	scrubber->paid_us += (int64_t)(bytes * 1000000 / scrubber->bytes_per_second);
	if (scrubber->paid_us > now)
		periodic_wait(&scrubber->periodic,
			(unsigned int)((scrubber->paid_us - now + 999) / 1000));
}

/* True if a block is sound, or gone. */
static bool is_sound(struct scrubber *scrubber, const store_file *file, uint64_t block)
{
	struct store_check check;

	return store_check_blocks(scrubber->store, file, block, 1, &check) == 0 &&
	       check.bad_count == 0;
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

static int scrub_file(void *context, const store_file *file)
{
	struct scrubber *scrubber = context;
	uint64_t next = 0;

	scrubber->files++;
	while (next != UINT64_MAX) {
		struct store_check check;

		if (periodic_stopping(&scrubber->periodic))
			return -ECANCELED;
		/* Errors were logged, and count against the device. */
		if (store_check_blocks(scrubber->store, file, next, UINT64_MAX, &check))
			return 0;
		next = check.next_block;
		scrubber->blocks += check.blocks;
		scrubber->bytes += check.bytes;
		scrubber->found += check.headers_mended;
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
	return 0;
}

static void scrub(void *context)
{
	struct scrubber *scrubber = context;
	int64_t start_ms = now_us() / 1000;

	if (start_ms < scrubber->due_ms)
		return;
	scrubber->files = scrubber->blocks = scrubber->bytes = 0;
	scrubber->found = scrubber->repaired = scrubber->nowhere = 0;
	int error = store_scan(scrubber->store, scrub_file, scrubber);
	if (error == -ECANCELED)
		return;
	rozo_log(INFO,
		"scrub: pass done in %" PRId64 " s: read %" PRIu64 " store files, %" PRIu64
		" blocks, %" PRIu64 " MiB; found %" PRIu64 " damaged, repaired %" PRIu64
		", left %" PRIu64 ", not in use %" PRIu64,
		(int64_t)(now_us() / 1000 - start_ms) / 1000, scrubber->files, scrubber->blocks,
		scrubber->bytes >> 20, scrubber->found, scrubber->repaired,
		scrubber->found - scrubber->repaired - scrubber->nowhere, scrubber->nowhere);
	/* Otherwise the next look is a pass. */
	if (scrubber->found == scrubber->repaired + scrubber->nowhere)
		scrubber->due_ms = start_ms + PASS_MS;
}

int scrubber_start(struct scrubber **result, struct store *store, struct stripe *stripe,
	uint32_t mib_per_second)
{
	struct scrubber *scrubber = calloc(1, sizeof(*scrubber));

	if (!scrubber)
		return -ENOMEM;
	scrubber->store = store;
	scrubber->stripe = stripe;
	scrubber->bytes_per_second = (uint64_t)mib_per_second << 20;
	int error = periodic_start(&scrubber->periodic, LOOK_MS, scrub, scrubber);
	if (error) {
		free(scrubber);
		return error;
	}
	*result = scrubber;
	return 0;
}

void scrubber_stop(struct scrubber *scrubber)
{
	periodic_stop(&scrubber->periodic);
	free(scrubber);
}
