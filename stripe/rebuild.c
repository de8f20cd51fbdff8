/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The beginning of making a shard on a node that took it over.
 *
 * Why a fence: a writer that knows only the old placement could have a version accepted by the node
 * that is out (it may still be there, cut off from exportd alone) and by min_shards - 1 others, and
 * take it for decided; once the new node counts as complete, that it lacks the version would be
 * taken for a sign that it was not decided. With so many of the other stores refusing the old write
 * epoch (versions_reach()) no such version can be decided any more, and whoever reads by the old
 * placement meets one of them. Versions from before are found by healing, which leaves a block
 * alone (and the shard incomplete) as long as it cannot tell.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "rpc/log.h"
#include "stripe/internal.h"

/* Raises *block_count to what some stores have. Returns the shards whose stores answered. */
static uint32_t ask_block_count(struct stripe_file *file, const struct segment *segment,
	uint32_t shards, uint64_t *block_count)
{
	store_stat_args stat = {.file = file_store_file(file, segment)};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_stat_res results[MOJETTE_N_MAX] = {0};
	uint32_t answered =
		segment_ask(file, segment, shards, STORE_STAT, &stat, 0, results, calls);

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((answered & (1u << s)) && results[s].block_count > *block_count)
			*block_count = results[s].block_count;
		/* Nothing was ever written there. */
		if (fanout_call_refused(&calls[s], -ENOENT))
			answered |= 1u << s;
		fanout_call_free(&calls[s]);
	}
	return answered;
}

/*
 * How far any store has blocks. Of a shard that is being made, the new store and all former ones
 * can tell together. Returns 0 or -EIO (too few answered).
 */
static int count_blocks(
	struct stripe_file *file, const struct segment *segment, uint64_t *block_count)
{
	*block_count = 0;
	uint32_t answered = ask_block_count(file, segment, UINT32_MAX, block_count);
	uint32_t shards, seen = 0, asked = 0;
	struct segment former;

	while ((shards = segment_next_formers(segment, &asked, &former)) != 0) {
		uint32_t up = shards & ~segment_known_down(&former, 0);

		answered &= ~shards | ask_block_count(file, &former, up, block_count);
		seen |= shards;
	}
	answered &= ~segment->rebuilding | seen;
	return __builtin_popcount(answered) >= (int)versions_quorum(file) ? 0 : -EIO;
}

/*
 * Removes what this node has of another shard of the segment. It had that one before, and has
 * removed its copy, or exportd would not have chosen it again; but who had not heard of that has
 * sent it a write or a fence since, and as long as that is there the store takes nothing of the
 * shard that is to be made. Not if the store knows a newer epoch than the placement that says so.
 */
static void remove_other_shard(struct stripe_file *file, const struct segment *segment,
	uint32_t shard, uint32_t write_epoch)
{
	const store_read_args look = {
		.file = file_store_file(file, segment),
		.geometry = file_geometry(file),
		.shard = shard,
		.count = 1,
		.headers_only = 1,
	};
	const store_remove_args removal = {.file = look.file};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];

	segment_ask(file, segment, 1u << shard, STORE_READ, &look, 0, results, calls);
	bool other = fanout_call_refused(&calls[shard], -EINVAL) &&
		     results[shard].write_epoch <= write_epoch;
	fanout_call_free(&calls[shard]);
	/* If it cannot be, healing fails, and all is tried again. */
	if (other && segment_tell(file, segment, 1u << shard, STORE_REMOVE, &removal))
		rozo_log(INFO,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32
			": removed what this node had of another shard than %" PRIu32
			", which it is to make",
			look.file.export_id, (uint64_t)look.file.file_id, look.file.segment, shard);
}

int stripe_rebuild_begin(
	struct stripe_file *file, uint32_t segment_number, struct stripe_rebuild *rebuild)
{
	uint32_t local = file->stripe->local_node;
	const struct segment *segment;
	uint32_t shard = 0;

	int error = stripe_file_refresh(file);
	if (!error)
		error = file_segment(file, segment_number, false, &segment);
	if (error)
		return error;
	while (shard < segment->shard_count &&
		(!(segment->rebuilding & (1u << shard)) || !segment->nodes[shard] ||
			segment->nodes[shard]->id != local))
		shard++;
	if (shard == segment->shard_count)
		return -ENOENT;
	pthread_mutex_lock(&file->lock);
	uint32_t write_epoch = file->write_epoch;
	bool superseded = segment->superseded;
	pthread_mutex_unlock(&file->lock);
	if (superseded)
		return -EIO; /* it has just changed again: the caller begins anew */
	remove_other_shard(file, segment, shard, write_epoch);
	bool stale;
	uint32_t fenced = segment_fence(file, segment, write_epoch, 0, &stale);
	/* Former stores are to remove what they have when this is done, and their fence with it. */
	if (stale ||
		!versions_reach(file, segment, file->min_shards, fenced | segment->rebuilding, 0))
		return -EIO;
	*rebuild = (struct stripe_rebuild){.shard = shard, .write_epoch = write_epoch};
	return count_blocks(file, segment, &rebuild->block_count);
}

int stripe_block_count(struct stripe_file *file, uint32_t segment_number, uint64_t *block_count)
{
	const struct segment *segment;
	int error = file_segment(file, segment_number, false, &segment);

	return error ? error : count_blocks(file, segment, block_count);
}

bool stripe_shard_exists(struct stripe_file *file, uint32_t segment_number, uint32_t shard)
{
	struct fanout_call calls[MOJETTE_N_MAX];
	store_stat_res results[MOJETTE_N_MAX];
	const struct segment *segment;

	if (file_segment(file, segment_number, false, &segment) || shard >= segment->shard_count)
		return false;
	store_stat_args stat = {.file = file_store_file(file, segment)};
	uint32_t answered =
		segment_ask(file, segment, 1u << shard, STORE_STAT, &stat, 0, results, calls);
	fanout_call_free(&calls[shard]);
	return answered & (1u << shard);
}
