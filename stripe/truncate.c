/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Truncation: the last block is cut, the blocks beyond become empty versions. Everything is done
 * under a write epoch that exportd made for this truncation, so that whatever is written later is
 * newer, and a second attempt cannot undo it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/gather.h"

/* Cuts the block that contains `size` down to it. */
static int cut_block(struct stripe_file *file, uint64_t size, uint32_t write_epoch)
{
	uint64_t number = size / file->block_bytes;
	uint64_t in_segment = number % file->segment_blocks;
	uint32_t length = (uint32_t)(size % file->block_bytes);
	uint64_t give_up_us = attempts_end(file->stripe);
	const struct segment *segment;

	int error = file_segment(file, (uint32_t)(number / file->segment_blocks), false, &segment);
	if (error == -ENOENT)
		return 0;
	if (error)
		return error;
	struct block block = {.bytes = malloc(file->block_bytes)};
	if (!block.bytes)
		return -ENOMEM;
	for (unsigned int attempt = 0;; attempt++) {
		store_version newest = {0};
		uint32_t exact_base;

		error = block_read(
			file, segment, in_segment, attempt > 0 ? BLOCK_READ_ALL : 0, &block);
		if (error || block.length_bytes <= length ||
			block.version.generation >> GENERATION_COUNTER_BITS >= write_epoch)
			break; /* nothing there, or written after the truncation */
		error = block_base(file, segment, in_segment, &block, &exact_base);
		memset(block.bytes + length, 0, file->block_bytes - length);
		struct write_run run = {
			.segment = segment,
			.first_block = in_segment,
			.count = 1,
			.bytes = block.bytes,
			.length_bytes = length,
			.exact_base = exact_base,
			.base = block.version,
			.write_epoch = write_epoch,
			.stable = true,
			/* min_shards stores refuse what is older than the truncation. */
			.fenced = true,
		};
		if (!error)
			error = block_write_run(file, &run, &newest);
		if (error == 0 || error == -ESTALE)
			break;
		error = block_write_recover(
			file, segment, in_segment, 1, error, newest, attempt, give_up_us);
		if (error)
			break;
	}
	free(block.bytes);
	return error;
}

/*
 * Sends TRUNCATE of a segment from first_block on to some shards. Returns those whose stores
 * carried it out; *stale tells if one knew a newer write epoch.
 */
static uint32_t send_truncate(struct stripe_file *file, const struct segment *segment,
	const store_truncate_args *common, uint32_t shards, bool *stale)
{
	store_truncate_args args[MOJETTE_N_MAX];
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		args[s] = *common;
		args[s].shard = s;
	}
	uint32_t holders = segment_ask(
		file, segment, shards, STORE_TRUNCATE, args, sizeof(args[0]), results, calls);
	*stale = false;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (fanout_call_refused(&calls[s], -ESTALE)) {
			*stale = true;
			file_met_epoch(file, results[s].write_epoch);
		}
		node_note_stuck(file->stripe, &calls[s], true);
		fanout_call_free(&calls[s]);
	}
	return holders;
}

/* missed: shards that are not sent it. The version is no writer's own: whoever carries the
 * truncation out, or does it again, writes the same. */
static store_truncate_args truncate_args(const struct stripe_file *file,
	const struct segment *segment, uint64_t first_block, uint32_t write_epoch, uint32_t missed)
{
	return (store_truncate_args){
		.file = file_store_file(file, segment),
		.geometry = file_geometry(file),
		.write_epoch = write_epoch,
		.first_block = first_block,
		.block_version = {.generation = (uint64_t)write_epoch << GENERATION_COUNTER_BITS},
		.missed = missed,
	};
}

uint32_t segment_fence(struct stripe_file *file, const struct segment *segment,
	uint32_t write_epoch, uint32_t left_out, bool *stale)
{
	/* Beyond the segment's last block there is nothing to be emptied. */
	const store_truncate_args args =
		truncate_args(file, segment, file->segment_blocks, write_epoch, 0);
	uint32_t fenced = send_truncate(file, segment, &args, ~left_out, stale);
	uint32_t unaware = 0, seen = 0, shards, asked = 0;
	struct segment former;

	while ((shards = segment_next_formers(segment, &asked, &former)) != 0) {
		bool knows_newer;
		uint32_t up = shards & ~segment_known_down(&former, 0);

		unaware |= shards & ~send_truncate(file, &former, &args, up, &knows_newer);
		*stale |= knows_newer;
		seen |= shards;
	}
	return (fenced & ~segment->rebuilding) | (segment->rebuilding & seen & ~unaware);
}

#define FENCE_ATTEMPTS 3

/*
 * So many stores that the others are too few to decide a version. One that is stuck is not waited
 * for where the others are enough: of a client that is gone there may be many files.
 */
static int fence_segment(struct stripe_file *file, const struct segment *segment)
{
	bool again = true;

	for (unsigned int i = 0; i < FENCE_ATTEMPTS && again; i++) {
		uint32_t tried, left_out = segment_stuck(file, segment, &tried);
		bool stale;
		uint32_t fenced = segment_fence(
			file, segment, segment_newest_epoch(file, segment), left_out, &stale);

		if (__builtin_popcount(fenced) >= (int)versions_quorum(file))
			return 0;
		/* A store may know a newer epoch by now, and then exportd does. */
		int error = stale ? stripe_file_refresh(file) : 0;
		if (error)
			return error;
		again = stale || segment_unstick(segment, left_out);
	}
	return -EIO;
}

int stripe_fence(struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	const struct segment *segment;
	struct stripe_file *file;
	uint32_t number = 0;
	int error = stripe_file_get(stripe, export_id, file_id, &file);

	if (error)
		return error;
	error = stripe_file_refresh(file);
	while (!error && (error = file_next_segment(file, &number, &segment)) == 0) {
		error = fence_segment(file, segment);
		number++;
	}
	stripe_file_put(file);
	return error == -ENOENT ? 0 : error;
}

int segment_reach(struct stripe_file *file, const struct segment *segment, unsigned int least,
	uint32_t holders, uint32_t *fenced)
{
	bool stale = false;

	if ((unsigned int)__builtin_popcount(holders) < least)
		return -EIO;
	if (versions_reach(file, segment, least, holders, *fenced))
		return 0;
	*fenced |= segment_fence(file, segment, segment_newest_epoch(file, segment), 0, &stale);
	if (versions_reach(file, segment, least, holders, *fenced))
		return 0;
	return stale ? -ESTALE : -EIO;
}

/*
 * The shards that a truncation is not sent to: those that seem to be down, and one that is stuck,
 * unless that leaves too few.
 */
static uint32_t truncate_left_out(const struct stripe_file *file, const struct segment *segment)
{
	uint32_t down = segment_known_down(segment, file->min_shards), tried;
	uint32_t left_out = down | segment_stuck(file, segment, &tried);

	if (segment->shard_count - (unsigned int)__builtin_popcount(left_out) < file->min_shards)
		return down;
	return left_out;
}

/* Empties the blocks of one segment from first_block on. */
static int empty_blocks(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t write_epoch)
{
	uint32_t left_out = truncate_left_out(file, segment);
	const store_truncate_args args =
		truncate_args(file, segment, first_block, write_epoch, left_out);
	bool stale;

	uint32_t holders = send_truncate(file, segment, &args, ~left_out, &stale);
	uint32_t missed = ((1u << segment->shard_count) - 1) & ~holders & ~left_out;
	if (stale)
		return -ESTALE;
	/*
	 * Fences of former stores do not help here: they have what is taken away, and stores that
	 * make their shards need have no record of it.
	 */
	if (!versions_reach(file, segment, file->min_shards, holders, 0))
		return segment_unstick(segment, left_out)
			       ? empty_blocks(file, segment, first_block, write_epoch)
			       : -EIO;
	struct run *run = malloc(sizeof(*run));
	if (!run)
		return -ENOMEM;
	*run = (struct run){
		.segment = segment,
		.first_block = first_block,
		.count = UINT32_MAX,
		.version = args.block_version,
		.holders = holders,
	};
	run->untold = holders;
	uint32_t silent = 0;
	int error = missed ? run_record_missed(
				     file, run, file->min_shards, missed, &run->holders, &silent)
			   : 0;
	if (!error && !versions_reach(file, segment, file->min_shards, run->holders, 0))
		error = -EIO;
	if (error)
		free(run);
	else
		run_book(file, run, true);
	return error;
}

static int truncate_stores(struct stripe_file *file, uint64_t size, uint32_t write_epoch)
{
	uint64_t first = (size + file->block_bytes - 1) / file->block_bytes;
	/*
	 * Also the segment whose last block is the one that is cut: its stores must hear of the
	 * epoch even if they have nothing to cut, since a gateway may have bytes in memory for it.
	 */
	uint64_t from = size / file->block_bytes / file->segment_blocks;
	uint32_t number = from < META_SEGMENTS_MAX ? (uint32_t)from : META_SEGMENTS_MAX;
	const struct segment *segment;
	int error;

	while ((error = file_next_segment(file, &number, &segment)) == 0) {
		uint64_t begin = number * file->segment_blocks;

		error = empty_blocks(file, segment, first > begin ? first - begin : 0, write_epoch);
		if (error)
			return error;
		number++;
	}
	if (error != -ENOENT) /* there are no more */
		return error;
	/*
	 * Last: nobody can have a write under an older epoch decided any more, so that what is
	 * found to be short stays so.
	 */
	return size % file->block_bytes == 0 ? 0 : cut_block(file, size, write_epoch);
}

/* Tells exportd that a truncation was carried out. Returns 0; -EAGAIN: not the newest one. */
static int tell_truncated(struct stripe_file *file, uint32_t write_epoch)
{
	meta_truncated_args args = {
		.file = {.export_id = file->export_id, .file_id = file->file_id},
		.write_epoch = write_epoch,
	};
	meta_status_res result = {0};

	int error = rpc_call(file->stripe->meta, META_TRUNCATED, RPC_XDR(xdr_meta_truncated_args),
		&args, RPC_XDR(xdr_meta_status_res), &result, file->stripe->call_timeout_ms);
	if (error)
		return error;
	error = -(int)result.status;
	rpc_free(RPC_XDR(xdr_meta_status_res), &result);
	return error;
}

/*
 * A truncation that somebody here wanted has been carried out, with the range held: what it left of
 * the unstable writes is to be committed under its epoch. If it took more than was wanted, since
 * one to a smaller size had waited, or if others may have carried one out before, as epochs in
 * between tell, clients are to send all again (RFC 1813 section 3.3.21). So they are after others'
 * truncations: COMMIT hears that the epoch has passed.
 */
static void unstable_passed(struct stripe_file *file, uint64_t size, uint32_t write_epoch)
{
	bool cut = false;

	if (file->wanted_size == UINT64_MAX)
		return;
	pthread_mutex_lock(&file->lock);
	bool others = file->unstable_epoch && file->unstable_epoch + 1 != write_epoch;
	/* What has been collected meanwhile, under the older epoch, no store will take. */
	if (file->unstable_epoch && atomic_load(&file->cached.dirty_bytes) == 0)
		file->unstable_epoch = write_epoch;
	/* What is noted from now on is noted under the epoch of before, and COMMIT hears of it. */
	if (file->unstable_end > size)
		file->unstable_end = size;
	file->size =
		file->size_reported > file->unstable_end ? file->size_reported : file->unstable_end;
	for (const struct run *run = file->unstable; run; run = run->next) {
		uint64_t end =
			run->segment->number * file->segment_blocks + run->first_block + run->count;

		cut = cut || end * file->block_bytes > size;
	}
	pthread_mutex_unlock(&file->lock);
	if (others || (cut && size < file->wanted_size))
		atomic_fetch_add(&file->stripe->verifier, 1);
}

int file_truncate(struct stripe_file *file, uint64_t size, uint32_t write_epoch)
{
	struct range_hold hold;

	/* What is decided must be known before blocks are judged by their versions. */
	runs_tell_decided(file);
	file_note_truncation(file, write_epoch);
	range_acquire(&file->ranges, &hold, size / file->block_bytes, UINT64_MAX, true);
	gather_forget(file, size / file->block_bytes, UINT64_MAX, false);
	int error = truncate_stores(file, size, write_epoch);
	if (!error)
		error = tell_truncated(file, write_epoch);
	/*
	 * Only now may anything be written under the new epoch. Until exportd knows, others are
	 * told to truncate, perhaps under a newer epoch still: what was written in between would be
	 * lost. And with the range held: who changes part of a block that goes away must not have
	 * read it before.
	 */
	if (!error) {
		file_raise_epoch(file, write_epoch);
		unstable_passed(file, size, write_epoch);
	}
	range_release(&file->ranges, &hold);
	return error == -ESTALE ? -EAGAIN : error;
}

int stripe_truncate(struct stripe_file *file, uint64_t size)
{
	pthread_mutex_lock(&file->attach_lock);
	/* Also what lies beyond the size: until the truncation others may read it. */
	gather_end_epoch(file);
	pthread_mutex_lock(&file->lock);
	file->size = size;
	/* Not more: another truncation may have overtaken this one. */
	if (file->size_reported > size)
		file->size_reported = size;
	pthread_mutex_unlock(&file->lock);
	/*
	 * exportd tells of the truncation, and of the segments there are by now: others have
	 * written to the file since we attached to it.
	 */
	file->wanted_size = size;
	int error = file_attach(file);
	file->wanted_size = UINT64_MAX;
	pthread_mutex_unlock(&file->attach_lock);
	return error;
}
