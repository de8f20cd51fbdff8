/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Which version of a block counts, given what the stores say. Pure reckoning but for
 * versions_settle(), which asks the stores and tells them the outcome.
 */
#include <errno.h>
#include <stdlib.h>

#include "stripe/internal.h"

int version_compare(store_version left, store_version right)
{
	if (left.generation != right.generation)
		return left.generation < right.generation ? -1 : 1;
	if (left.writer != right.writer)
		return left.writer < right.writer ? -1 : 1;
	return 0;
}

static unsigned int shard_count(const struct stripe_file *file)
{
	return file->code.k + file->code.m;
}

/*
 * A version is decided when min_shards stores hold it. Once this many stores are known not to hold
 * it, it cannot have been.
 */
static unsigned int veto_count(const struct stripe_file *file)
{
	return shard_count(file) - file->min_shards + 1;
}

unsigned int versions_quorum(const struct stripe_file *file)
{
	unsigned int veto = veto_count(file);

	return veto > file->code.k ? veto : file->code.k;
}

/* The newest version anyone holds that is older than bound (generation 0: none). */
static store_version newest_below(
	const struct block_answer *answers, unsigned int count, const store_version *bound)
{
	store_version best = {0};

	for (unsigned int s = 0; s < count; s++) {
		if (!answers[s].answered)
			continue;
		const store_version held[] = {answers[s].newest, answers[s].older};
		for (unsigned int i = 0; i < 2; i++) {
			if ((!bound || version_compare(held[i], *bound) < 0) &&
				version_compare(held[i], best) > 0)
				best = held[i];
		}
	}
	return best;
}

enum block_verdict versions_judge(const struct stripe_file *file,
	const struct block_answer *answers, store_version *version, store_version *undecided,
	uint64_t *largest_generation)
{
	unsigned int n = shard_count(file);
	store_version candidate = newest_below(answers, n, NULL);

	*version = (store_version){0};
	*undecided = (store_version){0};
	*largest_generation = candidate.generation;
	while (candidate.generation != 0) {
		unsigned int holders = 0, lacking = 0;
		bool decided = false;

		for (unsigned int s = 0; s < n; s++) {
			const struct block_answer *answer = &answers[s];
			if (!answer->answered)
				continue;
			if (version_compare(answer->newest, candidate) == 0) {
				holders++;
				decided |= answer->state == STORE_COMMITTED;
			} else if (version_compare(answer->older, candidate) == 0) {
				/* A store keeps an older version only if that was decided. */
				holders++;
				decided = true;
			} else {
				lacking++;
			}
		}
		if (holders >= file->code.k) {
			*version = candidate;
			return BLOCK_VERSION;
		}
		if (decided || lacking < veto_count(file))
			return BLOCK_UNKNOWN;
		if (undecided->generation == 0)
			*undecided = candidate;
		candidate = newest_below(answers, n, &candidate);
	}
	unsigned int answered = 0;
	for (unsigned int s = 0; s < n; s++)
		answered += answers[s].answered;
	return answered >= versions_quorum(file) ? BLOCK_EMPTY : BLOCK_UNKNOWN;
}

/* True if all stores that answered have committed the version. */
static bool known_by_all(
	const struct segment *segment, const struct block_answer *answers, store_version version)
{
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].answered &&
			(answers[s].state != STORE_COMMITTED ||
				version_compare(answers[s].newest, version) != 0))
			return false;
	}
	return true;
}

/* The runs of equal verdicts that versions_settle() tells the stores. */
struct verdicts {
	store_decided *runs;
	unsigned int count;
};

static void verdict_add(struct verdicts *verdicts, uint64_t block, store_version version)
{
	if (verdicts->count) {
		store_decided *last = &verdicts->runs[verdicts->count - 1];
		if (last->first_block + last->count == block &&
			version_compare(last->block_version, version) == 0) {
			last->count++;
			return;
		}
	}
	verdicts->runs[verdicts->count++] =
		(store_decided){.first_block = block, .count = 1, .block_version = version};
}

/*
 * Notes what stores that missed the block's version still have PENDING: nobody will ever ask for it
 * again, and it would be a conflict for every writer.
 */
static void superseded_add(struct verdicts *superseded, const struct segment *segment,
	const struct block_answer *answers, uint64_t block, store_version version)
{
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].answered && answers[s].newest.generation &&
			answers[s].state != STORE_COMMITTED &&
			version_compare(answers[s].newest, version) < 0)
			verdict_add(superseded, block, answers[s].newest);
	}
}

static void verdicts_tell(struct stripe_file *file, const struct segment *segment,
	const struct verdicts *verdicts, bool discard)
{
	for (unsigned int told = 0; told < verdicts->count; told += STORE_COMMITS_MAX) {
		unsigned int left = verdicts->count - told;
		store_commit_args args = {
			.file = file_store_file(file, segment),
			.discard = discard,
			.runs = {.runs_len = left < STORE_COMMITS_MAX ? left : STORE_COMMITS_MAX,
				.runs_val = verdicts->runs + told},
		};
		struct fanout_call calls[MOJETTE_N_MAX];
		store_status_res results[MOJETTE_N_MAX];
		struct fanout fanout;

		fanout_init(&fanout, file->stripe);
		for (unsigned int s = 0; s < segment->shard_count; s++)
			fanout_start(&fanout, &calls[s], segment->nodes[s], STORE_COMMIT, &args,
				&results[s]);
		fanout_wait(&fanout);
		/* A store that did not hear it keeps what it has; the next one to meet it tells it. */
		for (unsigned int s = 0; s < segment->shard_count; s++)
			fanout_call_free(&calls[s]);
	}
}

/*
 * What is rolled forward must be as durable as if its writer had seen it through: the version
 * before it is given up. Returns 0, or -EIO if fewer than min_shards stores flushed.
 */
static int flush_stores(struct stripe_file *file, const struct segment *segment)
{
	store_sync_args args = {.file = file_store_file(file, segment)};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	struct fanout fanout;
	unsigned int flushed = 0;

	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++)
		fanout_start(&fanout, &calls[s], segment->nodes[s], STORE_SYNC, &args, &results[s]);
	fanout_wait(&fanout);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		flushed += fanout_call_status(&calls[s]) == 0;
		fanout_call_free(&calls[s]);
	}
	return flushed >= file->min_shards ? 0 : -EIO;
}

int versions_settle(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, uint64_t *largest_generation)
{
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];
	store_read_args args[MOJETTE_N_MAX];
	struct fanout fanout;
	struct verdicts forward = {.runs = calloc(count, sizeof(store_decided))};
	struct verdicts back = {.runs = calloc(count, sizeof(store_decided))};
	struct verdicts superseded = {
		.runs = calloc((size_t)count * segment->shard_count, sizeof(store_decided))};
	int error = 0;

	*largest_generation = 0;
	if (!forward.runs || !back.runs || !superseded.runs) {
		error = -ENOMEM;
		goto out;
	}
	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = first_block,
			.count = count,
			.headers_only = 1,
		};
		fanout_start(
			&fanout, &calls[s], segment->nodes[s], STORE_READ, &args[s], &results[s]);
	}
	fanout_wait(&fanout);
	for (uint32_t i = 0; i < count; i++) {
		struct block_answer answers[MOJETTE_N_MAX] = {0};
		store_version version, undecided;
		uint64_t largest;

		for (unsigned int s = 0; s < segment->shard_count; s++) {
			if (fanout_call_status(&calls[s]) || results[s].blocks.blocks_len != count)
				continue;
			const store_read_block *told = &results[s].blocks.blocks_val[i];
			answers[s] = (struct block_answer){
				.answered = told->state != STORE_DAMAGED,
				.state = told->state,
				.newest = told->block_version,
				.older = told->older,
			};
		}
		switch (versions_judge(file, answers, &version, &undecided, &largest)) {
		case BLOCK_VERSION:
			superseded_add(&superseded, segment, answers, first_block + i, version);
			if (!known_by_all(segment, answers, version))
				verdict_add(&forward, first_block + i, version);
			break;
		case BLOCK_EMPTY:
			break;
		case BLOCK_UNKNOWN:
			error = -EIO;
			break;
		}
		if (undecided.generation)
			verdict_add(&back, first_block + i, undecided);
		if (largest > *largest_generation)
			*largest_generation = largest;
	}
	for (unsigned int s = 0; s < segment->shard_count; s++)
		fanout_call_free(&calls[s]);
	verdicts_tell(file, segment, &back, true);
	if (forward.count && !error)
		error = flush_stores(file, segment);
	if (!error) {
		verdicts_tell(file, segment, &forward, false);
		verdicts_tell(file, segment, &superseded, true);
	}
out:
	free(superseded.runs);
	free(forward.runs);
	free(back.runs);
	return error;
}
