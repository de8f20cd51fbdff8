/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Writing ranges of bytes: whole blocks are written as they come, partial ones are gather.c's. A
 * write that is stable is decided when it returns; an unstable one is remembered until
 * stripe_commit() has made it durable everywhere.
 */
#include <errno.h>
#include <time.h>

#include "stripe/gather.h"

/* Attempts of one write when other writers interfere; the pauses grow up to 64 ms. */
#define ATTEMPTS_MAX 10
/* Calls that may wait in vain before no further attempt is made. */
#define ATTEMPTS_CALLS 6
/* Unstable runs remembered per file before a write commits them by itself. */
#define UNSTABLE_RUNS_MAX 4096

/* True if an unstable write of ours made this version of the block. */
static bool is_unstable(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, store_version version)
{
	const struct run *run;

	pthread_mutex_lock(&file->lock);
	for (run = file->unstable; run; run = run->next) {
		if (run->segment->number == segment->number && block_number >= run->first_block &&
			block_number - run->first_block < run->count &&
			version_compare(run->version, version) == 0)
			break;
	}
	pthread_mutex_unlock(&file->lock);
	return run != NULL;
}

int block_base(struct stripe_file *file, const struct segment *segment, uint64_t block_number,
	const struct block *block, uint32_t *exact_base)
{
	store_version version;
	uint64_t largest;

	*exact_base = STORE_BASE_DECIDED;
	if (block->committed)
		return 0;
	if (block->version.writer != file->stripe->writer ||
		run_is_doubtful(file, block->version)) {
		int error =
			versions_settle_soon(file, segment, block_number, 1, &largest, &version);

		/* What its writer could not replace everywhere may have been lost by that. */
		if (!error && version_compare(version, block->version) != 0)
			error = -EAGAIN;
		return error;
	}
	if (is_unstable(file, segment, block_number, block->version))
		*exact_base = STORE_BASE_UNDECIDED;
	return 0;
}

static void pause_before(unsigned int attempt)
{
	/* Spread by the clock's low bits, so that two writers do not meet again and again. */
	struct timespec now, delay = {0};

	clock_gettime(CLOCK_MONOTONIC, &now);
	delay.tv_nsec = (1 + now.tv_nsec % 4) * (1000000L << (attempt < 4 ? attempt : 4));
	nanosleep(&delay, NULL);
}

/*
 * For blocks that neither the stores nor the former ones can settle by themselves: 0 if both
 * together can tell what counts. Then what was refused was so for what others had promised, and a
 * newer version will do; should somebody have left something undecided, it is refused again.
 */
static int all_together_can_tell(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count)
{
	struct block block = {.bytes = malloc(file->block_bytes)};
	int error = block.bytes ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < count && !error; i++)
		error = block_read_former(file, segment, first_block + i, BLOCK_READ_ONCE, &block);
	free(block.bytes);
	return error;
}

uint64_t attempts_end(const struct stripe *stripe)
{
	return latency_now_us() + UINT64_C(1000) * ATTEMPTS_CALLS * stripe->call_timeout_ms;
}

int attempts_over(const struct stripe_file *file, uint64_t give_up_us)
{
	if (latency_now_us() < give_up_us)
		return 0;
	rozo_log_limited(WARNING,
		"file %u/%llu: other writers, or answers that do not come, keep a call from being "
		"done; the client is told to try again",
		file->export_id, (unsigned long long)file->file_id);
	return -ETIMEDOUT;
}

int block_write_recover(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, int error, store_version newest, unsigned int attempt,
	uint64_t give_up_us)
{
	uint64_t largest = newest.generation;
	store_version version;

	if (error == -EAGAIN)
		error = attempts_over(file, give_up_us);
	if (error)
		return error;
	if (attempt + 1 == ATTEMPTS_MAX) {
		rozo_log_limited(ERROR,
			"file %u/%llu segment %u block %llu: other writers got in between %u "
			"times; "
			"giving up",
			file->export_id, (unsigned long long)file->file_id, segment->number,
			(unsigned long long)first_block, ATTEMPTS_MAX);
		return -EIO;
	}
	atomic_fetch_add(&file->stripe->conflicts, 1);
	if (attempt)
		pause_before(attempt);
	/* A conflict that is left then may be one of a store that was not asked. */
	error = attempt ? versions_settle(file, segment, first_block, count, &largest)
			: versions_settle_soon(
				  file, segment, first_block, count, &largest, &version);
	if (error == -EIO)
		error = versions_settle_former(file, segment, first_block, count, &largest);
	if (error == -EIO && segment->rebuilding)
		error = all_together_can_tell(file, segment, first_block, count);
	if (error)
		return error;
	if (newest.generation > largest)
		largest = newest.generation;
	return file_met_generation(file, largest) ? -ESTALE : 0;
}

static int write_whole(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, const uint8_t *bytes, const struct write_mode *mode)
{
	struct write_run run = {
		.segment = segment,
		.first_block = first_block,
		.count = count,
		.bytes = bytes,
		.length_bytes = file->block_bytes,
		.stable = mode->stable,
		.layout_epoch = &mode->layout_epoch,
	};

	for (unsigned int attempt = 0;; attempt++) {
		store_version newest;
		run.write_epoch = file_write_epoch(file);
		int error = block_write_run(file, &run, &newest);
		if (error == 0)
			return 0;
		error = block_write_recover(file, segment, first_block, count, error, newest,
			attempt, mode->give_up_us);
		if (error)
			return error;
	}
}

int file_learn_epoch(struct stripe_file *file, const uint32_t *layout_epoch)
{
	int error = stripe_file_refresh(file);

	if (error)
		return error;
	return file_is_elsewhere(file, layout_epoch) ? -ESTALE : 0;
}

/* A piece of a write inside one segment, at most a round's worth of blocks. */
static int write_blocks(struct stripe_file *file, const struct segment *segment, uint64_t offset,
	const uint8_t *bytes, size_t length, const struct write_mode *mode)
{
	int error = 0;

	while (length && !error) {
		uint64_t number = offset / file->block_bytes;
		uint32_t from = (uint32_t)(offset % file->block_bytes);
		size_t taken;

		if (from == 0 && length >= file->block_bytes) {
			uint32_t count = (uint32_t)(length / file->block_bytes);
			taken = (size_t)count * file->block_bytes;
			error = write_whole(
				file, segment, number % file->segment_blocks, count, bytes, mode);
			if (!error)
				gather_forget(file, number, number + count - 1, true);
		} else {
			taken = file->block_bytes - from;
			if (taken > length)
				taken = length;
			error = gather_write(
				file, segment, number, from, (uint32_t)taken, bytes, mode);
		}
		offset += taken;
		bytes += taken;
		length -= taken;
	}
	return error;
}

static int write_piece(struct stripe_file *file, uint64_t offset, const uint8_t *bytes,
	size_t length, const struct write_mode *mode)
{
	uint64_t first = offset / file->block_bytes;
	uint64_t last = (offset + length - 1) / file->block_bytes;
	const struct segment *segment;
	struct range_hold hold;
	bool doubted = false;
	int error = -ESTALE;

	for (unsigned int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
		error = file_segment(
			file, (uint32_t)(first / file->segment_blocks), true, &segment);
		if (error)
			break;
		range_acquire(&file->ranges, &hold, first, last, true);
		error = write_blocks(file, segment, offset, bytes, length, mode);
		range_release(&file->ranges, &hold);
		if (error == -EIO && !doubted && file_doubt_rebuilding(file)) {
			doubted = true;
			continue;
		}
		if (error != -ESTALE)
			break;
		/* Not with the range held: a truncation may have to be carried out first. */
		error = attempts_over(file, mode->give_up_us);
		if (!error)
			error = file_learn_epoch(file, &mode->layout_epoch);
		if (error)
			break;
		error = -EIO; /* if this was the last attempt */
	}
	return error;
}

/* All pieces of a write, and nothing else. */
static int write_range(struct stripe_file *file, uint64_t offset, const uint8_t *bytes,
	size_t length, const struct write_mode *mode)
{
	size_t round_bytes = ROUND_BYTES_MAX;
	int error = 0;

	if (round_bytes < file->block_bytes)
		round_bytes = file->block_bytes;
	for (size_t done = 0; done < length && !error;) {
		uint64_t block = (offset + done) / file->block_bytes;
		uint64_t segment_end = (block / file->segment_blocks + 1) * file->segment_blocks *
				       file->block_bytes;
		/* Rounds begin on block borders after the first, so that only edges are partial. */
		uint64_t piece = round_bytes - round_bytes % file->block_bytes -
				 (offset + done) % file->block_bytes;
		if (piece > length - done)
			piece = length - done;
		if (piece > segment_end - (offset + done))
			piece = segment_end - (offset + done);
		error = write_piece(file, offset + done, bytes + done, piece, mode);
		done += piece;
	}
	return error;
}

bool runs_are_many(struct stripe_file *file)
{
	pthread_mutex_lock(&file->lock);
	bool many = file->unstable_count >= UNSTABLE_RUNS_MAX;
	pthread_mutex_unlock(&file->lock);
	return many;
}

int stripe_write(
	struct stripe_file *file, uint64_t offset, const void *buffer, size_t length, bool stable)
{
	return stripe_write_under(
		file, stripe_file_layout_epoch(file), offset, buffer, length, stable);
}

int stripe_write_under(struct stripe_file *file, uint32_t layout_epoch, uint64_t offset,
	const void *buffer, size_t length, bool stable)
{
	const struct write_mode mode = {.stable = stable,
		.layout_epoch = layout_epoch,
		.give_up_us = attempts_end(file->stripe)};
	uint64_t end = offset + length, verifier = stripe_write_verifier(file->stripe);
	int error = 0;

	if (end < offset || end > file_bytes_max(file))
		return -EFBIG;
	if (length == 0)
		return 0; /* and the file does not grow (RFC 1813 section 3.3.7) */
	if (runs_are_many(file))
		error = stripe_commit(file);
	if (!error)
		error = file_claim(file);
	if (!error && !stable)
		gather_make_room(file, mode.give_up_us);
	for (unsigned int attempt = 0; !error; attempt++) {
		uint32_t write_epoch = file_write_epoch(file);
		error = write_range(file, offset, buffer, length, &mode);
		if (error == -ENOSPC && attempt == 0) {
			/* What has been replaced, but is not committed, is kept as well. */
			stripe_commit(file);
			runs_tell_decided(file);
			write_epoch = file_write_epoch(file);
			error = write_range(file, offset, buffer, length, &mode);
		}
		if (error)
			break;
		pthread_mutex_lock(&file->lock);
		if (end > file->size)
			file->size = end;
		if (!stable) {
			if (end > file->unstable_end)
				file->unstable_end = end;
			if (!file->unstable_epoch || write_epoch < file->unstable_epoch)
				file->unstable_epoch = write_epoch;
			if ((int64_t)(verifier - file->unstable_verifier) > 0)
				file->unstable_verifier = verifier;
		}
		pthread_mutex_unlock(&file->lock);
		if (stable)
			error = file_report_size(file, end, write_epoch);
		if (error != -EAGAIN || attempt + 1 == ATTEMPTS_MAX)
			break;
		/* Truncated since: what was written belongs to the time before. */
		error = attempts_over(file, mode.give_up_us);
		if (!error)
			error = file_learn_epoch(file, &mode.layout_epoch);
	}
	if (!error)
		atomic_fetch_add(&file->stripe->written_bytes, length);
	return error == -EAGAIN ? -EIO : error;
}
