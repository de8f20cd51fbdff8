/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Healing: shards that a node missed, or that are damaged, are made anew from k others and written
 * under the version they belong to, so that a newer write always wins.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "stripe/internal.h"

/* Blocks looked at in one round. */
#define HEAL_BLOCKS 64

/* What the stores say of a batch of blocks. */
struct survey {
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_args args[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];
	uint32_t reachable; /* bit s: shard s answered */
};

static void survey_take(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, struct survey *survey)
{
	uint32_t down = segment_known_down(segment, file->code.k);
	struct fanout fanout;

	memset(survey, 0, sizeof(*survey));
	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		survey->args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = first_block,
			.count = count,
			.headers_only = 1,
		};
		if (!(down & (1u << s)))
			fanout_start(&fanout, &survey->calls[s], segment->nodes[s], STORE_READ,
				&survey->args[s], &survey->results[s]);
	}
	fanout_wait(&fanout);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (fanout_call_status(&survey->calls[s]) == 0 &&
			survey->results[s].blocks.blocks_len == count)
			survey->reachable |= 1u << s;
	}
}

static void survey_free(struct survey *survey, const struct segment *segment)
{
	for (unsigned int s = 0; s < segment->shard_count; s++)
		fanout_call_free(&survey->calls[s]);
}

/*
 * The state of one block: its version, the shards that need it, those that have it, and which of
 * the latter's records say someone missed it.
 */
struct diagnosis {
	store_version version; /* generation 0: nothing to do */
	bool decided; /* as some store knows; else it may be under way, and come to nothing */
	uint32_t needed; /* reachable, without the version */
	uint32_t holders;
	uint32_t recorded; /* shards recorded as having missed it */
};

static struct diagnosis diagnose(const struct stripe_file *file, const struct segment *segment,
	const struct survey *survey, uint32_t index)
{
	struct block_answer answers[MOJETTE_N_MAX] = {0};
	struct diagnosis diagnosis = {0};
	store_version version, undecided;
	uint64_t largest;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!(survey->reachable & (1u << s)))
			continue;
		const store_read_block *told = &survey->results[s].blocks.blocks_val[index];
		answers[s] = block_answer(told);
	}
	if (versions_judge(file, answers, &version, &undecided, &largest) != BLOCK_VERSION)
		return diagnosis;
	diagnosis.version = version;
	diagnosis.decided = VERSION_IS_EMPTINESS(version);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].answered &&
			((answers[s].state == STORE_COMMITTED &&
				 version_compare(answers[s].newest, version) == 0) ||
				version_compare(answers[s].older, version) == 0))
			diagnosis.decided = true;
		if (block_answer_is_sound(&answers[s]) &&
			version_compare(answers[s].newest, version) == 0) {
			diagnosis.holders |= 1u << s;
			diagnosis.recorded |= survey->results[s].blocks.blocks_val[index].missed;
		}
	}
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!(survey->reachable & (1u << s)) || (diagnosis.holders & (1u << s)))
			continue;
		/* Who has nothing of the block need not be told of its emptiness, unless it missed
		 * that: it may yet find what it had before. */
		if (VERSION_IS_EMPTINESS(version) && answers[s].state == STORE_EMPTY &&
			!(diagnosis.recorded & (1u << s)))
			diagnosis.holders |= 1u << s;
		else if (!answers[s].answered || version_compare(answers[s].newest, version) <= 0)
			diagnosis.needed |= 1u << s;
	}
	return diagnosis;
}

/*
 * Writes one block's missing shards under its own version.
 * *healed receives the shards (a bit mask) that are in place now. Returns 0, also if there are
 * none; -ENOMEM; or -ESTALE: the stores know a newer write epoch.
 */
static int write_shards(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, const struct block *block, uint32_t needed, uint32_t *healed)
{
	struct fanout_call calls[MOJETTE_N_MAX] = {0};
	store_write_args args[MOJETTE_N_MAX];
	store_write_block headers[MOJETTE_N_MAX];
	store_write_res results[MOJETTE_N_MAX];
	uint8_t *shards[MOJETTE_N_MAX] = {NULL};
	const uint8_t *rows[MOJETTE_K_MAX];
	store_decided decided = {
		.first_block = block_number, .count = 1, .block_version = block->version};
	struct fanout fanout;
	size_t row_bytes = 0;
	int error = -ENOMEM;

	*healed = 0;
	if (block->length_bytes) {
		row_bytes = mojette_row_bytes(&file->code, block->length_bytes, file->row_bytes);
		for (unsigned int r = 0; r < file->code.k; r++)
			rows[r] = block->bytes + r * row_bytes;
		for (unsigned int s = 0; s < segment->shard_count; s++) {
			if (!(needed & (1u << s)))
				continue;
			shards[s] = malloc(mojette_shard_bytes(&file->code, s, row_bytes));
			if (!shards[s])
				goto out;
		}
		error = mojette_encode(&file->code, row_bytes, rows, shards);
		if (error)
			goto out;
	}
	pthread_mutex_lock(&file->lock);
	uint32_t write_epoch = file->write_epoch;
	pthread_mutex_unlock(&file->lock);
	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!(needed & (1u << s)))
			continue;
		size_t bytes = row_bytes ? mojette_shard_bytes(&file->code, s, row_bytes) : 0;
		headers[s] = (store_write_block){
			.length_bytes = block->length_bytes,
			.shard_bytes = (uint32_t)bytes,
			.crc32c = bytes ? rozo_crc32c(shards[s], bytes) : 0,
		};
		args[s] = (store_write_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.write_epoch = write_epoch,
			.block_version = block->version,
			.stable = 1,
			.commits = {.commits_len = 1, .commits_val = &decided},
			.first_block = block_number,
			.blocks = {.blocks_len = 1, .blocks_val = &headers[s]},
			.payload = {.payload_len = (uint32_t)bytes,
				.payload_val = (char *)shards[s]},
		};
		fanout_start(
			&fanout, &calls[s], segment->nodes[s], STORE_WRITE, &args[s], &results[s]);
	}
	fanout_wait(&fanout);
	store_commit_args commit = {
		.file = file_store_file(file, segment),
		.runs = {.runs_len = 1, .runs_val = &decided},
	};
	error = 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		int status = fanout_call_status(&calls[s]);

		if (calls[s].started && status == 0) {
			*healed |= 1u << s;
			fanout_send(file->stripe, segment->nodes[s], STORE_COMMIT, &commit);
		} else if (calls[s].started && !calls[s].error && status == -ESTALE) {
			error = -ESTALE;
		}
		fanout_call_free(&calls[s]);
	}
out:
	for (unsigned int s = 0; s < segment->shard_count; s++)
		free(shards[s]);
	return error;
}

/* Clears the record of missed shards on the holders. */
static void clear_missed(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, const struct diagnosis *diagnosis, uint32_t present)
{
	store_missed_args args = {
		.file = file_store_file(file, segment),
		.first_block = block_number,
		.count = 1,
		.block_version = diagnosis->version,
		.missed = diagnosis->recorded & present,
		.clear = 1,
	};
	struct fanout_call calls[MOJETTE_N_MAX] = {0};
	store_status_res results[MOJETTE_N_MAX];
	struct fanout fanout;

	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (present & (1u << s))
			fanout_start(&fanout, &calls[s], segment->nodes[s], STORE_MISSED, &args,
				&results[s]);
	}
	fanout_wait(&fanout);
	/* A record that stays behind is found again by the next pass. */
	for (unsigned int s = 0; s < segment->shard_count; s++)
		fanout_call_free(&calls[s]);
}

/* Calls a procedure of the stores of some shards. Returns the shards whose stores said yes. */
static uint32_t ask_shards(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint32_t procedure, const void *const args[], void *const results[],
	struct fanout_call calls[])
{
	struct fanout fanout;
	uint32_t answered = 0;

	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		calls[s] = (struct fanout_call){0};
		if (shards & (1u << s))
			fanout_start(&fanout, &calls[s], segment->nodes[s], procedure, args[s],
				results[s]);
	}
	fanout_wait(&fanout);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((shards & (1u << s)) && fanout_call_status(&calls[s]) == 0)
			answered |= 1u << s;
	}
	return answered;
}

/*
 * Those of some shards that are not durably what their stores say. A store may have been told that
 * a version is decided which it never flushed, and may have lost it with its power, or may do so
 * yet: what was recorded as missed is flushed and looked at before the record is cleared.
 */
static uint32_t unsound_shards(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, store_version version, uint32_t shards)
{
	store_sync_args sync_args = {.file = file_store_file(file, segment)};
	store_read_args read_args[MOJETTE_N_MAX];
	store_status_res sync_results[MOJETTE_N_MAX];
	store_read_res read_results[MOJETTE_N_MAX];
	struct fanout_call calls[MOJETTE_N_MAX];
	const void *args[MOJETTE_N_MAX];
	void *results[MOJETTE_N_MAX];
	uint32_t sound = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		args[s] = &sync_args;
		results[s] = &sync_results[s];
	}
	uint32_t flushed = ask_shards(file, segment, shards, STORE_SYNC, args, results, calls);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		fanout_call_free(&calls[s]);
		read_args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = block_number,
			.count = 1,
		};
		args[s] = &read_args[s];
		results[s] = &read_results[s];
	}
	uint32_t read = ask_shards(file, segment, flushed, STORE_READ, args, results, calls);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((read & (1u << s)) && read_results[s].blocks.blocks_len == 1 &&
			read_results[s].boot == sync_results[s].boot) {
			struct block_answer answer =
				block_answer(read_results[s].blocks.blocks_val);
			if (block_answer_is_sound(&answer) &&
				version_compare(answer.newest, version) == 0)
				sound |= 1u << s;
		}
		fanout_call_free(&calls[s]);
	}
	return shards & ~sound;
}

static int heal_block(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, struct diagnosis *diagnosis, struct block *block,
	uint64_t *healed_count, uint64_t *left_count)
{
	int error = 0;

	if (diagnosis->recorded & diagnosis->holders) {
		uint32_t unsound = unsound_shards(file, segment, block_number, diagnosis->version,
			diagnosis->recorded & diagnosis->holders);
		diagnosis->holders &= ~unsound;
		diagnosis->needed |= unsound;
	}
	uint32_t present = diagnosis->holders;
	if (diagnosis->needed) {
		if (VERSION_IS_EMPTINESS(diagnosis->version)) {
			block->version = diagnosis->version;
			block->length_bytes = 0;
		} else {
			error = block_read(file, segment, block_number, false, block);
		}
		if (error)
			return error;
		if (version_compare(block->version, diagnosis->version) != 0)
			return 0; /* written meanwhile: the next pass looks again */
		uint32_t healed;
		error = write_shards(
			file, segment, block_number, block, diagnosis->needed, &healed);
		present |= healed;
		*healed_count += (unsigned int)__builtin_popcount(healed);
		atomic_fetch_add(
			&file->stripe->healed_shards, (unsigned int)__builtin_popcount(healed));
	}
	if (diagnosis->recorded & present)
		clear_missed(file, segment, block_number, diagnosis, present);
	uint32_t all = (1u << segment->shard_count) - 1;
	*left_count += (unsigned int)__builtin_popcount(all & ~present);
	return error;
}

static int heal_batch(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, struct block *block, uint64_t *healed, uint64_t *left)
{
	uint64_t largest;
	int error = versions_settle(file, segment, first_block, count, &largest);

	if (error)
		return error;
	struct survey *survey = malloc(sizeof(*survey));
	if (!survey)
		return -ENOMEM;
	survey_take(file, segment, first_block, count, survey);
	for (uint32_t i = 0; i < count; i++) {
		struct diagnosis diagnosis = diagnose(file, segment, survey, i);
		if (diagnosis.version.generation == 0)
			continue;
		if (!diagnosis.decided) {
			/* Written since it was settled; the next pass looks again. */
			++*left;
			continue;
		}
		int failed =
			heal_block(file, segment, first_block + i, &diagnosis, block, healed, left);
		if (failed)
			error = failed;
	}
	survey_free(survey, segment);
	free(survey);
	return error;
}

int stripe_heal(struct stripe_file *file, uint32_t segment_number, uint64_t first_block,
	uint32_t count, uint64_t *healed, uint64_t *left)
{
	const struct segment *segment;
	uint64_t healed_count = 0, left_count = 0;
	bool refreshed = false;

	int error = file_segment(file, segment_number, false, &segment);
	if (error)
		return error;
	struct block block = {.bytes = malloc(file->block_bytes)};
	if (!block.bytes)
		return -ENOMEM;
	while (count) {
		uint32_t batch = count < HEAL_BLOCKS ? count : HEAL_BLOCKS;
		uint64_t number = (uint64_t)segment_number * file->segment_blocks + first_block;
		uint64_t left_before = left_count;
		struct range_hold hold;

		range_acquire(&file->ranges, &hold, number, number + batch - 1, false);
		int failed = heal_batch(
			file, segment, first_block, batch, &block, &healed_count, &left_count);
		range_release(&file->ranges, &hold);
		if (failed == -ESTALE && !refreshed) {
			/* The file was truncated, or got another write gateway, since we asked. */
			refreshed = true;
			failed = stripe_file_refresh(file);
			if (!failed) {
				left_count = left_before;
				continue;
			}
		}
		if (failed)
			error = failed;
		first_block += batch;
		count -= batch;
	}
	free(block.bytes);
	if (healed)
		*healed = healed_count;
	if (left)
		*left = left_count;
	return error;
}
