/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Healing: shards that a node missed, that are damaged, or that a node took over from another, are
 * made anew from k others and written under the version they belong to, so that a newer write
 * always wins. Blocks are healed in batches: what was written is flushed once for all of them, and
 * only then is it struck off the record of missed writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "stripe/internal.h"

/* Blocks looked at in one round. */
#define HEAL_BLOCKS 64
/* Changes of a file's nodes or size that one call may meet. */
#define REFRESHES_MAX 10

/* What the stores say of a batch of blocks. */
struct survey {
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_args args[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];
	uint32_t reachable; /* bit s: shard s answered */
	/*
	 * Of the shards that are being made, those whose stores cannot tell what they have: it may
	 * be on a device that is out of service. They take it on another one all the same.
	 */
	uint32_t unsure;
};

/*
 * thorough: stores look at the bytes, too, and not only where they know of damage.
 * Returns 0, or -ESTALE: a store knows a newer write epoch.
 */
static int survey_take(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, bool thorough, struct survey *survey)
{
	uint32_t down = segment_known_down(segment, file->code.k);
	int error = 0;

	memset(survey, 0, sizeof(*survey));
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		survey->args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = first_block,
			.count = count,
			.headers_only = !thorough,
		};
	}
	uint32_t answered = segment_ask(file, segment, ~down, STORE_READ, survey->args,
		sizeof(survey->args[0]), survey->results, survey->calls);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((answered & (1u << s)) && survey->results[s].blocks.blocks_len == count) {
			survey->reachable |= 1u << s;
			if (segment_is_outdated(file, segment, survey->results[s].write_epoch))
				error = -ESTALE;
		} else if ((segment->rebuilding & (1u << s)) &&
			   fanout_call_refused(&survey->calls[s], -EIO)) {
			survey->unsure |= 1u << s;
		}
	}
	return error;
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
	bool unknown; /* which version counts cannot be told now */
	bool undecided; /* as far as the stores know: it may be under way, and come to nothing */
	bool nothing; /* no store has anything of it: see lost_of_nothing() */
	store_version version; /* generation 0: nothing to do */
	uint32_t needed; /* reachable, without the version; or unsure, see survey */
	uint32_t holders;
	uint32_t recorded; /* shards recorded as having missed it */
	uint32_t written; /* shards made, not yet known to be durable */
	uint32_t outdated; /* of those needed: the store has something newer by now */
	uint32_t length_bytes; /* of the block, if any were */
};

/* A batch of blocks being healed. */
struct batch {
	struct stripe_file *file;
	const struct segment *segment;
	uint64_t first_block;
	uint32_t count;
	bool thorough;
	/* How blocks are read: when one was waited for in vain, the others are not. Writers may be
	 * waiting for the range, and whoever stops the process. */
	unsigned int patience;
	/* As it was before anything was asked: what is written belongs to that time, and stores
	 * that have been truncated since refuse it. */
	uint32_t write_epoch;
	struct block *block; /* room for one */
	struct stripe_heal_result *result;
	struct survey survey;
	struct diagnosis blocks[HEAL_BLOCKS];
	uint64_t boots[MOJETTE_N_MAX]; /* of the stores written to, 0: not yet */
	uint32_t restarted; /* bit s: shard s's store, between two writes */
	/* Shards whose stores did not answer in time, or could not flush: they are not waited for
	 * with each block. */
	uint32_t silent;
};

/*
 * For a block that no store has anything of: the shards whose stores lost the record that would say
 * so, with others beside it or with the device it may have been on. They are given the oldest
 * emptiness there is, so that they need not keep for ever that something may have been there. Only
 * if all others know better.
 */
static uint32_t lost_of_nothing(const struct segment *segment, const struct block_answer *answers)
{
	uint32_t lost = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].state == STORE_DAMAGED && answers[s].newest.generation == 0)
			lost |= 1u << s;
		else if (!answers[s].answered)
			return 0;
	}
	return segment->rebuilding ? 0 : lost;
}

static struct diagnosis diagnose(const struct stripe_file *file, const struct segment *segment,
	const struct survey *survey, uint32_t index)
{
	struct block_answer answers[MOJETTE_N_MAX] = {0};
	struct diagnosis diagnosis = {0};

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!(survey->reachable & (1u << s)))
			continue;
		answers[s] = block_answer(segment, s, &survey->results[s], index);
	}
	struct block_judgement judgement = versions_judge(file, answers);
	store_version version = judgement.version;
	diagnosis.unknown =
		judgement.verdict == BLOCK_UNKNOWN || judgement.verdict == BLOCK_IN_DOUBT;
	if (judgement.verdict == BLOCK_EMPTY && judgement.undecided.generation == 0) {
		diagnosis.needed = lost_of_nothing(segment, answers);
		diagnosis.nothing = diagnosis.needed != 0;
		if (diagnosis.nothing) {
			diagnosis.version.generation = UINT64_C(1) << GENERATION_COUNTER_BITS;
			diagnosis.holders = survey->reachable & ~diagnosis.needed;
		}
		return diagnosis;
	}
	if (judgement.verdict != BLOCK_VERSION && judgement.verdict != BLOCK_OPEN)
		return diagnosis;
	diagnosis.version = version;
	diagnosis.undecided = !VERSION_IS_EMPTINESS(version);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].answered &&
			((answers[s].state == STORE_COMMITTED &&
				 version_compare(answers[s].newest, version) == 0) ||
				version_compare(answers[s].older, version) == 0))
			diagnosis.undecided = false;
	}
	for (unsigned int s = 0; s < segment->shard_count; s++) {
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
	diagnosis.needed |= survey->unsure;
	return diagnosis;
}

/*
 * Writes one block's missing shards under its own version, not yet durably. The shards that were
 * accepted are noted in the diagnosis.
 * Returns 0, also if there are none; -ENOMEM; or -ESTALE: the stores know a newer write epoch.
 */
static int write_shards(struct batch *batch, uint64_t block_number, const struct block *block,
	struct diagnosis *diagnosis)
{
	struct stripe_file *file = batch->file;
	const struct segment *segment = batch->segment;
	uint32_t needed = diagnosis->needed & ~batch->silent;
	struct fanout_call calls[MOJETTE_N_MAX];
	store_write_args args[MOJETTE_N_MAX];
	store_write_block headers[MOJETTE_N_MAX];
	store_write_res results[MOJETTE_N_MAX];
	uint8_t *shards[MOJETTE_N_MAX] = {NULL};
	const uint8_t *rows[MOJETTE_K_MAX];
	store_decided decided = {
		.first_block = block_number, .count = 1, .block_version = block->version};
	size_t row_bytes = 0;
	int error = -ENOMEM;

	diagnosis->length_bytes = block->length_bytes;
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
			.write_epoch = batch->write_epoch,
			.block_version = block->version,
			/* It must know who else lacks it, or nobody may feel called upon. */
			.missed = diagnosis->recorded,
			.commits = {.commits_len = 1, .commits_val = &decided},
			.first_block = block_number,
			.blocks = {.blocks_len = 1, .blocks_val = &headers[s]},
			.payload = {.payload_len = (uint32_t)bytes,
				.payload_val = (char *)shards[s]},
		};
	}
	diagnosis->written |= segment_ask(
		file, segment, needed, STORE_WRITE, args, sizeof(args[0]), results, calls);
	error = 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (calls[s].started && fanout_call_status(&calls[s]) == 0) {
			if (batch->boots[s] && batch->boots[s] != results[s].boot)
				batch->restarted |= 1u << s;
			batch->boots[s] = results[s].boot;
		} else if (fanout_call_refused(&calls[s], -ESTALE)) {
			error = -ESTALE;
		} else if (fanout_call_refused(&calls[s], -EAGAIN)) {
			diagnosis->outdated |= 1u << s;
		} else if (calls[s].started && calls[s].error == -ETIMEDOUT) {
			batch->silent |= 1u << s;
		}
		fanout_call_free(&calls[s]);
	}
out:
	for (unsigned int s = 0; s < segment->shard_count; s++)
		free(shards[s]);
	return error;
}

/* Clears the record of missed shards on the holders of some blocks alike. */
static void clear_missed(struct batch *batch, uint64_t first_block, uint32_t count,
	const struct diagnosis *diagnosis, uint32_t present)
{
	const struct segment *segment = batch->segment;
	store_missed_args args = {
		.file = file_store_file(batch->file, segment),
		.first_block = first_block,
		.count = count,
		.block_version = diagnosis->version,
		.missed = diagnosis->recorded & present,
		.clear = 1,
	};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];

	/* A record that stays behind is found again by the next pass. */
	segment_ask(batch->file, segment, present & ~batch->silent, STORE_MISSED, &args, 0, results,
		calls);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (calls[s].started && calls[s].error == -ETIMEDOUT)
			batch->silent |= 1u << s;
		fanout_call_free(&calls[s]);
	}
}

/*
 * Those of some shards that are not durably what their stores say. A store may have been told that
 * a version is decided which it never flushed, and may have lost it with its power, or may do so
 * yet: what was recorded as missed, or is being made, is flushed and looked at before it is not
 * any more.
 */
static uint32_t unsound_shards(
	struct batch *batch, uint64_t block_number, store_version version, uint32_t shards)
{
	struct stripe_file *file = batch->file;
	const struct segment *segment = batch->segment;
	store_read_args read_args[MOJETTE_N_MAX];
	store_read_res read_results[MOJETTE_N_MAX];
	struct fanout_call calls[MOJETTE_N_MAX];
	uint32_t sound = 0;

	uint64_t boots[MOJETTE_N_MAX];
	uint32_t asked = shards & ~batch->silent;
	uint32_t flushed = segment_flush(file, segment, asked, boots);

	batch->silent |= asked & ~flushed;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		read_args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = block_number,
			.count = 1,
		};
	}
	uint32_t read = segment_ask(file, segment, flushed, STORE_READ, read_args,
		sizeof(read_args[0]), read_results, calls);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((read & (1u << s)) && read_results[s].blocks.blocks_len == 1 &&
			read_results[s].boot == boots[s]) {
			struct block_answer answer = block_answer(segment, s, &read_results[s], 0);
			if (block_answer_is_sound(&answer) &&
				version_compare(answer.newest, version) == 0)
				sound |= 1u << s;
		} else if (calls[s].started && calls[s].error == -ETIMEDOUT) {
			batch->silent |= 1u << s;
		}
		fanout_call_free(&calls[s]);
	}
	return shards & ~sound;
}

/*
 * Asks the former stores for a block whose version the new ones cannot tell. What they have on
 * record of who missed it is to be known to the new ones as well: when the shards have moved nobody
 * asks the former ones any more, and who has none on record may be talked into dropping it.
 */
static int ask_former(struct batch *batch, uint32_t index)
{
	struct diagnosis *diagnosis = &batch->blocks[index];
	const struct block *block = batch->block;

	int error = block_read_former(batch->file, batch->segment, batch->first_block + index,
		batch->patience, batch->block);
	if (error)
		return error;
	diagnosis->unknown = false;
	if (block->version.generation == 0)
		return 0; /* nothing was ever written there */
	diagnosis->version = block->version;
	diagnosis->recorded = block->missed;
	for (unsigned int s = 0; s < batch->segment->shard_count; s++) {
		if (!(batch->survey.reachable & (1u << s)))
			continue;
		struct block_answer answer =
			block_answer(batch->segment, s, &batch->survey.results[s], index);
		if (block_answer_is_sound(&answer) &&
			version_compare(answer.newest, block->version) == 0)
			diagnosis->holders |= 1u << s;
		else
			diagnosis->needed |= 1u << s;
	}
	diagnosis->needed |= batch->survey.unsure;
	return 0;
}

/* Makes the shards of one block. Returns 0, or why there are none; the others are not held up. */
static int heal_block(struct batch *batch, uint32_t index)
{
	struct diagnosis *diagnosis = &batch->blocks[index];
	struct block *block = batch->block;
	uint64_t number = batch->first_block + index;
	bool read = diagnosis->unknown;
	int error = diagnosis->unknown ? ask_former(batch, index) : 0;

	/* What has been written since it was settled is looked at by the next pass. */
	if (error || diagnosis->version.generation == 0 || diagnosis->undecided)
		return error;
	uint32_t doubtful = diagnosis->holders & (diagnosis->recorded | batch->segment->rebuilding);
	if (doubtful) {
		uint32_t unsound = unsound_shards(batch, number, diagnosis->version, doubtful);
		diagnosis->holders &= ~unsound;
		diagnosis->needed |= unsound;
	}
	if (!diagnosis->needed)
		return 0;
	if (VERSION_IS_EMPTINESS(diagnosis->version)) {
		block->version = diagnosis->version;
		block->length_bytes = 0;
	} else if (!read) {
		error = block_read_without(batch->file, batch->segment, number, batch->patience,
			&batch->silent, block);
	}
	if (error)
		return error;
	if (version_compare(block->version, diagnosis->version) != 0) {
		/* Written meanwhile: the next pass looks again. */
		diagnosis->needed = 0;
		diagnosis->holders = 0;
		diagnosis->recorded = 0;
		return 0;
	}
	return write_shards(batch, number, block, diagnosis);
}

/* Flushes the stores written to. What they did not keep is taken out of `written`. */
static void flush_written(struct batch *batch)
{
	uint64_t boots[MOJETTE_N_MAX];
	uint32_t written = 0;

	for (uint32_t i = 0; i < batch->count; i++)
		written |= batch->blocks[i].written;
	if (!written)
		return;
	uint32_t flushed = segment_flush(batch->file, batch->segment, written, boots);
	for (unsigned int s = 0; s < batch->segment->shard_count; s++) {
		if ((flushed & (1u << s)) && boots[s] != batch->boots[s])
			flushed &= ~(1u << s);
	}
	flushed &= ~batch->restarted;
	for (uint32_t i = 0; i < batch->count; i++)
		batch->blocks[i].written &= flushed;
}

/* Tells one store which versions written there are decided: nobody waits for it. */
static void tell_written(struct batch *batch, unsigned int shard)
{
	store_decided runs[HEAL_BLOCKS];
	store_commit_args args = {
		.file = file_store_file(batch->file, batch->segment), .runs = {.runs_val = runs}};

	for (uint32_t i = 0; i < batch->count; i++) {
		if (batch->blocks[i].written & (1u << shard))
			runs[args.runs.runs_len++] =
				(store_decided){.first_block = batch->first_block + i,
					.count = 1,
					.block_version = batch->blocks[i].version};
	}
	if (args.runs.runs_len)
		fanout_send(batch->file->stripe, batch->segment->nodes[shard], STORE_COMMIT, &args);
}

/* Counts what was done, and strikes it off the records. */
static void conclude(struct batch *batch)
{
	const struct mojette_code *code = &batch->file->code;
	uint32_t all = (1u << batch->segment->shard_count) - 1;
	struct stripe_heal_result *result = batch->result;

	for (uint32_t i = 0, run = 1; i < batch->count; i += run) {
		const struct diagnosis *first = &batch->blocks[i];
		uint32_t present = first->holders | first->written;

		for (run = 1; i + run < batch->count; run++) {
			const struct diagnosis *next = &batch->blocks[i + run];

			if (version_compare(next->version, first->version) != 0 ||
				(next->holders | next->written) != present ||
				next->recorded != first->recorded ||
				next->unknown != first->unknown ||
				next->undecided != first->undecided)
				break;
		}
		if (first->unknown) {
			result->unknown += run;
			result->lacking |= all;
			continue;
		}
		if (first->undecided) {
			result->left += run;
			result->lacking |= all;
			continue;
		}
		if (first->version.generation == 0)
			continue;
		if (first->recorded & present)
			clear_missed(batch, batch->first_block + i, run, first, present);
		result->left += (uint64_t)run * (unsigned int)__builtin_popcount(all & ~present);
		result->lacking |= all & ~present;
	}
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct diagnosis *block = &batch->blocks[i];

		/* A store has refused its shard, as for want of room, or not kept it. Where others
		 * write meanwhile nothing has failed. */
		result->failed += !block->nothing && !block->undecided &&
				  (block->needed & ~block->written & ~block->outdated);
		for (unsigned int s = 0; s < batch->segment->shard_count; s++) {
			if (!(block->written & (1u << s)))
				continue;
			result->healed++;
			result->unrecorded += !block->nothing && !(block->recorded & (1u << s));
			if (block->length_bytes)
				result->healed_bytes += mojette_shard_bytes(code, s,
					mojette_row_bytes(
						code, block->length_bytes, batch->file->row_bytes));
		}
	}
	for (unsigned int s = 0; s < batch->segment->shard_count; s++)
		tell_written(batch, s);
}

/* Returns 0, -ESTALE (nothing was concluded: to be done again with what exportd says), or -EIO ...
 */
static int heal_batch(struct batch *batch)
{
	uint64_t largest;

	batch->write_epoch = file_write_epoch(batch->file);
	int error = versions_settle(
		batch->file, batch->segment, batch->first_block, batch->count, &largest);

	/* Blocks that cannot be settled do not hold up the others, which some store knows to be
	 * decided. */
	if (error && error != -EIO)
		return error;
	bool unsettled = error != 0;
	error = 0;
	int failed = survey_take(batch->file, batch->segment, batch->first_block, batch->count,
		batch->thorough, &batch->survey);
	batch->result->unheard |=
		((1u << batch->segment->shard_count) - 1) & ~batch->survey.reachable;
	memset(batch->blocks, 0, sizeof(batch->blocks));
	memset(batch->boots, 0, sizeof(batch->boots));
	batch->restarted = 0;
	batch->silent = 0;
	for (uint32_t i = 0; i < batch->count && failed != -ESTALE; i++) {
		batch->blocks[i] = diagnose(batch->file, batch->segment, &batch->survey, i);
		failed = heal_block(batch, i);
		if (failed) {
			error = failed;
			batch->result->failed++;
			batch->blocks[i].needed = 0; /* counted */
			batch->patience = BLOCK_READ_ONCE;
		} else if (unsettled && batch->blocks[i].undecided) {
			error = -EIO;
		}
	}
	survey_free(&batch->survey, batch->segment);
	if (failed == -ESTALE)
		return -ESTALE;
	flush_written(batch);
	conclude(batch);
	return error;
}

int stripe_heal_range(struct stripe_file *file, uint32_t segment_number, uint64_t first_block,
	uint32_t count, bool thorough, struct stripe_heal_result *result)
{
	struct block block = {.bytes = malloc(file->block_bytes)};
	struct batch *batch = malloc(sizeof(*batch));
	unsigned int refreshes = 0;
	int error = 0;

	*result = (struct stripe_heal_result){0};
	if (!block.bytes || !batch)
		error = -ENOMEM;
	while (count && (!error || error == -EIO)) {
		uint32_t blocks = count < HEAL_BLOCKS ? count : HEAL_BLOCKS;
		uint64_t number = (uint64_t)segment_number * file->segment_blocks + first_block;
		struct stripe_heal_result before = *result;
		struct range_hold hold;

		batch->file = file;
		batch->first_block = first_block;
		batch->count = blocks;
		batch->thorough = thorough;
		batch->patience = 0;
		batch->block = &block;
		batch->result = result;
		int failed = file_segment(file, segment_number, false, &batch->segment);
		if (!failed) {
			range_acquire(&file->ranges, &hold, number, number + blocks - 1, false);
			failed = heal_batch(batch);
			range_release(&file->ranges, &hold);
			if (failed == -ESTALE) {
				/* Truncated, or some shards have moved, since we asked. */
				*result = before;
				failed = refreshes++ < REFRESHES_MAX ? stripe_file_refresh(file)
								     : -EIO;
				if (!failed)
					continue;
			}
		}
		if (failed)
			error = failed;
		first_block += blocks;
		count -= blocks;
	}
	free(batch);
	free(block.bytes);
	atomic_fetch_add(&file->stripe->healed_shards, result->healed);
	return error;
}

int stripe_heal(struct stripe_file *file, uint32_t segment_number, uint64_t first_block,
	uint32_t count, uint64_t *healed, uint64_t *left)
{
	struct stripe_heal_result result;
	int error = stripe_heal_range(file, segment_number, first_block, count, false, &result);

	if (healed)
		*healed = result.healed;
	if (left)
		*left = result.left;
	return error;
}
