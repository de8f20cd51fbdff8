/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Reading: shards from as few stores as can vouch for the newest version, decoded into the caller's
 * buffer. Only where stores disagree, are missing or hold damaged shards are all of them asked. One
 * that is slow is not waited for if others can take its place.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rpc/crc32c.h"
#include "stripe/gather.h"

/* Versions on the move (another process writing) settle within a few of these. */
static const unsigned int retry_delays_ms[] = {2, 10, 50, 200, 500};
#define RETRIES (sizeof(retry_delays_ms) / sizeof(retry_delays_ms[0]))
/* After so many of them a version that is not known to be decided is taken for its dead writer's.
 */
#define PATIENT_TURNS 2

static void delay_ms(unsigned int ms)
{
	struct timespec delay = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&delay, NULL);
}

/* Changes of a file's nodes or size that one read may meet. */
#define REFRESHES_MAX 10

/*
 * One run of blocks asked from some of its stores. It outlives the read that made it while answers
 * are under way that the read did not wait for.
 */
struct round {
	struct stripe_file *file;
	const struct segment *segment;
	uint64_t first_block;
	uint32_t count;
	store_version version; /* asked for; generation 0: the newest */
	unsigned int latency_class;
	uint32_t started; /* bit s: shard s was asked */
	uint32_t asked; /* and has answered, or failed to */
	bool confirmed; /* exportd was asked for the segment's nodes since */
	struct fanout fanout;
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_args args[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];
	uint32_t
		*offsets[MOJETTE_N_MAX]; /* of each block's shard in the payload; NULL: no answer */
};

/*
 * Checks the shape of an answer and finds where each block's shard lies.
 * Nothing that comes over the wire is trusted to fit.
 */
static uint32_t *payload_offsets(const struct round *round, unsigned int shard)
{
	const store_read_res *result = &round->results[shard];
	const struct stripe_file *file = round->file;
	uint64_t offset = 0;

	if (result->blocks.blocks_len != round->count)
		return NULL;
	uint32_t *offsets = malloc(round->count * sizeof(*offsets));
	if (!offsets)
		return NULL;
	for (uint32_t i = 0; i < round->count; i++) {
		const store_read_block *block = &result->blocks.blocks_val[i];
		size_t expected = 0;

		if (block->length_bytes > file->block_bytes)
			goto malformed;
		bool bytes = block->state != STORE_DAMAGED && block->state != STORE_TORN;
		if (block->length_bytes && bytes)
			expected = mojette_shard_bytes(&file->code, shard,
				mojette_row_bytes(
					&file->code, block->length_bytes, file->row_bytes));
		if (block->shard_bytes != expected)
			goto malformed;
		offsets[i] = (uint32_t)offset;
		offset += block->shard_bytes;
	}
	if (offset != result->payload.payload_len)
		goto malformed;
	return offsets;
malformed:
	rozo_log_limited(ERROR, "node %u: malformed answer about file %u/%llu segment %u; ignored",
		round->segment->nodes[shard]->id, file->export_id,
		(unsigned long long)file->file_id, round->segment->number);
	free(offsets);
	return NULL;
}

static struct round *round_create(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, store_version version)
{
	struct round *round = malloc(sizeof(*round));

	if (!round)
		return NULL;
	*round = (struct round){
		.file = file,
		.segment = segment,
		.first_block = first_block,
		.count = count,
		.version = version,
		.latency_class = latency_class((uint64_t)count * file->row_bytes),
	};
	fanout_init(&round->fanout, file->stripe);
	return round;
}

static void round_start(struct round *round, uint32_t shards)
{
	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (!(shards & (1u << s)))
			continue;
		round->args[s] = (store_read_args){
			.file = file_store_file(round->file, round->segment),
			.geometry = file_geometry(round->file),
			.shard = s,
			.first_block = round->first_block,
			.count = round->count,
			.block_version = round->version,
		};
		fanout_start(&round->fanout, &round->calls[s], round->segment->nodes[s], STORE_READ,
			&round->args[s], &round->results[s]);
	}
	round->started |= shards;
}

/* Takes in the answers that have come. */
static void round_collect(struct round *round)
{
	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		uint32_t bit = 1u << s;

		if (!(round->started & ~round->asked & bit) ||
			(round->calls[s].started && !fanout_call_is_done(&round->calls[s])))
			continue;
		round->asked |= bit;
		if (fanout_call_status(&round->calls[s]) == 0)
			round->offsets[s] = payload_offsets(round, s);
	}
}

/* Asks the shards in `shards` (a bit mask) that have not been asked, and waits for all answers. */
static void round_ask(struct round *round, uint32_t shards)
{
	round_start(round, shards & ~round->started);
	fanout_wait_for(&round->fanout, UINT_MAX, UINT_MAX);
	round_collect(round);
}

/* The shards whose stores were waited for in vain. */
static uint32_t round_silent(const struct round *round)
{
	uint32_t silent = 0;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if ((round->asked & (1u << s)) && round->calls[s].started &&
			round->calls[s].error == -ETIMEDOUT)
			silent |= 1u << s;
	}
	return silent;
}

static void round_ended(void *context)
{
	struct round *round = context;

	for (unsigned int s = 0; s < MOJETTE_N_MAX; s++)
		fanout_call_free(&round->calls[s]);
	free(round);
}

static void round_free(struct round *round)
{
	if (!round)
		return;
	for (unsigned int s = 0; s < round->segment->shard_count; s++)
		free(round->offsets[s]);
	fanout_abandon(&round->fanout, round_ended, round);
}

/* The shards of one block of a round, and what the stores said of it. */
struct block_shards {
	struct block_answer answers[MOJETTE_N_MAX];
	const uint8_t *bytes[MOJETTE_N_MAX]; /* NULL: not at hand, or its CRC is wrong */
};

static void round_block(const struct round *round, uint32_t index, struct block_shards *shards)
{
	memset(shards, 0, sizeof(*shards));
	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (!round->offsets[s])
			continue;
		const store_read_block *told = &round->results[s].blocks.blocks_val[index];
		shards->answers[s] = block_answer(round->segment, s, &round->results[s], index);
		if (told->state == STORE_DAMAGED || told->state == STORE_TORN) {
			atomic_fetch_add(&round->file->stripe->damaged_shards, 1);
			continue;
		}
		const uint8_t *bytes = (const uint8_t *)round->results[s].payload.payload_val +
				       round->offsets[s][index];
		if (told->shard_bytes && rozo_crc32c(bytes, told->shard_bytes) != told->crc32c) {
			atomic_fetch_add(&round->file->stripe->damaged_shards, 1);
			rozo_log_limited(ERROR,
				"node %u: file %u/%llu segment %u block %llu: shard %u arrived "
				"with a "
				"wrong CRC; using others",
				round->segment->nodes[s]->id, round->file->export_id,
				(unsigned long long)round->file->file_id, round->segment->number,
				(unsigned long long)(round->first_block + index), s);
			shards->answers[s].state = STORE_DAMAGED;
			continue;
		}
		shards->bytes[s] = told->shard_bytes ? bytes : NULL;
	}
}

/*
 * Decodes the block's version from the shards that hold it as their newest.
 * Returns 0, or -ENODATA if fewer than k do.
 */
static int decode(struct stripe_file *file, const struct block_shards *shards,
	store_version version, struct block *block, void *scratch)
{
	const uint8_t *usable[MOJETTE_N_MAX] = {NULL};
	uint8_t *rows[MOJETTE_K_MAX];
	unsigned int n = file->code.k + file->code.m;
	unsigned int count = 0;
	uint32_t length_bytes = 0, missed = 0;
	bool committed = false;

	for (unsigned int s = 0; s < n; s++) {
		if (!block_answer_is_sound(&shards->answers[s]) ||
			version_compare(shards->answers[s].newest, version) != 0)
			continue;
		if (count++ == 0)
			length_bytes = shards->answers[s].length_bytes;
		else if (length_bytes != shards->answers[s].length_bytes)
			return -ENODATA; /* one version has one length */
		usable[s] = shards->bytes[s];
		committed |= shards->answers[s].state == STORE_COMMITTED;
		missed |= shards->answers[s].missed;
	}
	if (count < file->code.k && !VERSION_IS_EMPTINESS(version))
		return -ENODATA;
	block->version = version;
	block->committed = committed;
	block->missed = missed;
	block->length_bytes = length_bytes;
	size_t row_bytes = 0;
	if (length_bytes) {
		row_bytes = mojette_row_bytes(&file->code, length_bytes, file->row_bytes);
		for (unsigned int r = 0; r < file->code.k; r++)
			rows[r] = block->bytes + r * row_bytes;
		int error = mojette_decode(&file->code, row_bytes, usable, rows, scratch);
		if (error)
			return error;
	}
	/* The rows' padding is zero already, unless someone else encoded it otherwise. */
	memset(block->bytes + length_bytes, 0, file->block_bytes - length_bytes);
	return 0;
}

static void block_clear(const struct stripe_file *file, struct block *block)
{
	block->version = (store_version){0};
	block->committed = true;
	block->missed = 0;
	block->length_bytes = 0;
	memset(block->bytes, 0, file->block_bytes);
}

/* True if a store knows of a change of the file that we do not know: its nodes may be others. */
static bool round_is_ahead(const struct round *round)
{
	uint32_t newest = 0;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (round->offsets[s] && round->results[s].write_epoch > newest)
			newest = round->results[s].write_epoch;
	}
	return segment_is_outdated(round->file, round->segment, newest);
}

/*
 * The stores say that there is nothing. They may have been told to remove what they had, as others
 * have their shards by now; and that they know a write epoch is no sign that they have not: they
 * may have heard of it since, from a writer who knows of no move either. Returns 0, or -ESTALE:
 * others are to be asked.
 */
static int round_nothing(struct round *round, struct block *block)
{
	const struct segment *segment = round->segment;
	int error = 0;

	/* Whether former ones count, who asked them finds out. */
	if (!round->confirmed && !segment->former) {
		error = segment_confirm(round->file, segment);
		round->confirmed = true;
	}
	if (!error)
		block_clear(round->file, block);
	return error;
}

/*
 * True if all stores asked so far answered and said the same of the block, and they are enough:
 * none of them lacks a newer version that was decided, and what they hold was itself decided, or
 * will be.
 */
static bool unanimous(const struct round *round, const struct block_shards *shards)
{
	const struct block_answer *first = NULL;
	uint32_t holders = 0;
	bool decided = false;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (!(round->asked & (1u << s)))
			continue;
		const struct block_answer *answer = &shards->answers[s];
		if (!block_answer_is_sound(answer))
			return false;
		if (first && version_compare(first->newest, answer->newest) != 0)
			return false;
		first = answer;
		if (!answer->partial)
			holders |= 1u << s;
		decided =
			decided || answer->state == STORE_COMMITTED || answer->state == STORE_EMPTY;
	}
	if (!first || __builtin_popcount(holders) < (int)versions_quorum(round->file))
		return false;
	return decided ||
	       (__builtin_popcount(holders) >= (int)versions_deciding(round->file) &&
		       versions_tellable(round->file, shards->answers, holders, first->newest));
}

/* True if the stores that answered do not all hold one version that is known to be decided. */
static bool needs_care(const struct round *round, const struct block_shards *shards)
{
	const struct block_answer *first = NULL;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		const struct block_answer *answer = &shards->answers[s];

		/* What is being made is not missed. */
		if (!round->offsets[s] || answer->partial)
			continue;
		if (answer->state != STORE_COMMITTED && answer->state != STORE_EMPTY)
			return true;
		if (first && version_compare(first->newest, answer->newest) != 0)
			return true;
		first = answer;
	}
	return false;
}

/*
 * The value of one block of a round, as far as the answers at hand tell.
 * complete: all stores were asked, so what can be judged is.
 * Returns 0; -EAGAIN if more must be asked; -ESTALE if exportd must be asked first.
 */
static int round_value(
	struct round *round, uint32_t index, bool complete, struct block *block, void *scratch)
{
	struct block_shards shards;

	round_block(round, index, &shards);
	if (round_is_ahead(round))
		return -ESTALE;
	if (!complete) {
		store_version version = {0};

		if (!unanimous(round, &shards))
			return -EAGAIN;
		for (unsigned int s = 0; s < round->segment->shard_count; s++) {
			if (shards.answers[s].answered)
				version = shards.answers[s].newest;
		}
		if (version.generation == 0)
			return round_nothing(round, block);
		/* A version that nobody knows to be decided is our own on its way, or was left so.
		 */
		if (version.writer != round->file->stripe->writer && needs_care(round, &shards))
			notice_block(round->file, round->segment, round->first_block + index);
		return decode(round->file, &shards, version, block, scratch) ? -EAGAIN : 0;
	}
	atomic_fetch_add(&round->file->stripe->degraded_blocks, 1);
	if (needs_care(round, &shards))
		notice_block(round->file, round->segment, round->first_block + index);
	struct block_judgement judgement = versions_judge(round->file, shards.answers);
	if (judgement.verdict == BLOCK_EMPTY)
		return round_nothing(round, block);
	/* Too few if some stores hold it as their older version: asked for by name then. */
	if (judgement.verdict == BLOCK_VERSION &&
		decode(round->file, &shards, judgement.version, block, scratch) == 0)
		return 0;
	return -EAGAIN;
}

/* Notes who was waited for in vain. The next attempt goes without, but not on and on. */
static void note_silent(
	const struct stripe_file *file, uint32_t late, uint32_t *silent, uint64_t *end_ms)
{
	if (late && !*silent)
		*end_ms = latency_now_us() / 1000 + file->stripe->call_timeout_ms;
	*silent |= late;
}

/* The shards whose stores have told what they have, but do not flush it. */
static uint32_t round_unflushed(const struct round *round, uint32_t silent)
{
	uint64_t boots[MOJETTE_N_MAX];
	uint32_t told = 0;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (round->offsets[s])
			told |= 1u << s;
	}
	told &= ~silent;
	return told & ~segment_flush(round->file, round->segment, told, boots);
}

/*
 * One block, all stores, asked up to `retries` times more. *silent: shards that are left out as if
 * they were down; receives those whose stores do not answer, or flush, in time.
 * Returns 0, -EIO, -ESTALE (a store knows a newer write epoch) or -ENOMEM.
 */
static int ask_all(struct stripe_file *file, const struct segment *segment, uint64_t block_number,
	unsigned int retries, uint32_t *silent, struct block *block, void *scratch)
{
	uint32_t all = (1u << segment->shard_count) - 1;
	/* Nodes that do not even refuse cost the whole time of a call in each attempt. */
	uint64_t end_ms = latency_now_us() / 1000 + file->stripe->call_timeout_ms;
	bool settled = false;
	int error = -EIO;

	for (unsigned int attempt = 0; error == -EIO && attempt <= retries; attempt++) {
		struct block_shards shards, older;

		if (attempt && latency_now_us() / 1000 >= end_ms)
			break;
		if (attempt)
			delay_ms(retry_delays_ms[attempt - 1]);
		struct round *named = NULL;
		struct round *newest =
			round_create(file, segment, block_number, 1, (store_version){0});
		if (!newest)
			return -ENOMEM;
		/* Those that seem to be down are asked at the last. */
		uint32_t asked = all & ~segment_known_down(segment, file->code.k);
		if (__builtin_popcount(asked & ~*silent) >= file->code.k)
			asked &= ~*silent;
		if (attempt == RETRIES)
			asked = all;
		round_ask(newest, asked);
		note_silent(file, round_silent(newest), silent, &end_ms);
		if (round_is_ahead(newest)) {
			round_free(newest);
			return -ESTALE;
		}
		round_block(newest, 0, &shards);
		struct block_judgement judgement = versions_judge(file, shards.answers);
		store_version version = judgement.version;
		switch (judgement.verdict) {
		case BLOCK_EMPTY:
			error = round_nothing(newest, block);
			break;
		case BLOCK_VERSION:
			if (decode(file, &shards, version, block, scratch) == 0) {
				error = 0;
				break;
			}
			named = round_create(file, segment, block_number, 1, version);
			if (!named) {
				error = -ENOMEM;
				break;
			}
			round_ask(named, asked);
			round_block(named, 0, &older);
			if (decode(file, &older, version, block, scratch) == 0)
				error = 0;
			round_free(named);
			break;
		case BLOCK_OPEN:
			/* Often it is only not flushed yet. What comes of it the next turn sees. */
			if (attempt < PATIENT_TURNS) {
				note_silent(
					file, round_unflushed(newest, *silent), silent, &end_ms);
				break;
			}
			/* fallthrough */
		case BLOCK_IN_DOUBT:
			/* Not at once: its writer may be at work. Stores that do not answer would
			 * be waited for with each block. */
			if (attempt >= PATIENT_TURNS && !settled) {
				uint64_t largest;
				settled = true;
				/* Others are to be asked by now. */
				if (versions_settle_without(file, segment, block_number, 1, *silent,
					    &largest) == -ESTALE)
					error = -ESTALE;
			}
			break;
		case BLOCK_UNKNOWN:
			break;
		}
		round_free(newest);
	}
	return error;
}

/* True if fewer than k shards are being made: what is said of them all together counts then. */
static bool makes_few(const struct stripe_file *file, const struct segment *segment)
{
	return __builtin_popcount(segment->rebuilding) < file->code.k;
}

/*
 * One block, of which former stores are asked as well as those that took over from them: together
 * they vouch for all that was ever written. Returns 0 if a version is known to be decided, and then
 * what is newer is known not to be; else -EIO, -ESTALE or -ENOMEM.
 *
 * Of a truncation those that make their shards need have no record. But it has reached so many of
 * the others that the rest, with the former stores, are fewer than k - unless k shards have moved.
 */
static int ask_both(struct stripe_file *file, const struct segment *segment,
	const struct segment *former, uint64_t block_number, struct block *block, void *scratch)
{
	uint32_t all = (1u << segment->shard_count) - 1;
	struct round *now = round_create(file, segment, block_number, 1, (store_version){0});
	struct round *then = round_create(file, former, block_number, 1, (store_version){0});
	struct block_shards new, old;
	int error = now && then ? 0 : -ENOMEM;

	if (!error && !makes_few(file, segment))
		error = -EIO;
	if (!error) {
		round_ask(now, all & ~segment_known_down(segment, file->code.k));
		round_ask(then, former->former);
		error = round_is_ahead(now) || round_is_ahead(then)
				? -ESTALE
				: segment_confirm_former(file, former);
	}
	if (!error) {
		round_block(now, 0, &new);
		round_block(then, 0, &old);
		versions_join(former, new.answers, old.answers);
		struct block_judgement judgement = versions_judge(file, old.answers);
		for (unsigned int s = 0; s < segment->shard_count; s++) {
			if (!(former->former & (1u << s)) ||
				(block_answer_is_sound(&new.answers[s]) &&
					version_compare(new.answers[s].newest, judgement.version) ==
						0)) {
				old.answers[s] = new.answers[s];
				old.bytes[s] = new.bytes[s];
			}
		}
		if (judgement.verdict == BLOCK_EMPTY)
			block_clear(file, block);
		else if (judgement.verdict != BLOCK_VERSION ||
			 decode(file, &old, judgement.version, block, scratch) ||
			 (!block->committed && !VERSION_IS_EMPTINESS(block->version)))
			error = -EIO;
	}
	round_free(now);
	round_free(then);
	return error;
}

int block_read_former(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, unsigned int how, struct block *block)
{
	void *scratch = malloc(mojette_scratch_bytes(&file->code, file->row_bytes));
	struct former_choice choice = {0};
	struct segment former;
	uint32_t silent = 0;
	uint64_t largest;
	int error = -EIO;

	if (!scratch)
		return -ENOMEM;
	while (error == -EIO && segment_former(segment, &choice, &former)) {
		error = ask_both(file, segment, &former, block_number, block, scratch);
		if (error == -EIO && makes_few(file, segment)) {
			error = versions_settle_both(file, segment, &former, block_number);
			if (!error)
				error = ask_both(
					file, segment, &former, block_number, block, scratch);
		}
		if (error != -EIO)
			break;
		/* What the new stores know to be undecided would be in doubt among the former ones.
		 */
		if (choice.count == 1)
			versions_settle(file, segment, block_number, 1, &largest);
		error = versions_settle(file, &former, block_number, 1, &largest);
		if (!error)
			error = ask_all(file, &former, block_number,
				how & BLOCK_READ_ONCE ? 0 : RETRIES, &silent, block, scratch);
		if (!error)
			error = segment_confirm_former(file, &former);
		if (!error && !block->committed && !VERSION_IS_EMPTINESS(block->version))
			error = -EIO;
	}
	free(scratch);
	return error;
}

/* *silent: as of ask_all(). */
static int block_read_carefully(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, unsigned int how, uint32_t *silent, struct block *block,
	void *scratch)
{
	unsigned int retries = how & BLOCK_READ_ONCE ? 0 : RETRIES;
	int error = -EIO;

	/* Where shards are being made, time does not tell what only the former stores know: of each
	 * block of a long read. */
	if (segment->rebuilding) {
		error = ask_all(file, segment, block_number, retries ? PATIENT_TURNS : 0, silent,
			block, scratch);
		if (error == -EIO)
			error = block_read_former(
				file, segment, block_number, BLOCK_READ_ONCE, block);
	}
	if (error == -EIO && (retries || !segment->rebuilding))
		error = ask_all(file, segment, block_number, retries, silent, block, scratch);
	if (error == -EIO && retries && segment->rebuilding)
		error = block_read_former(file, segment, block_number, how, block);
	if (error == -EIO)
		rozo_log_limited(ERROR,
			"file %u/%llu segment %u block %llu cannot be read: fewer than %u good "
			"shards of "
			"its newest version can be had; bring its storage nodes back",
			file->export_id, (unsigned long long)file->file_id, segment->number,
			(unsigned long long)block_number, file->code.k);
	return error;
}

/*
 * Up to `wanted` shards that have not been asked: this process's own store, then those whose nodes
 * are up, the fast ones before the slow ones. The plain rows of the systematic form come first,
 * since they need no decoding; otherwise files take turns.
 */
static uint32_t choose_shards(const struct round *round, unsigned int wanted)
{
	const struct stripe_file *file = round->file;
	const struct segment *segment = round->segment;
	unsigned int n = segment->shard_count;
	unsigned int start =
		/* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a segment has shards */
		file->code.form == MOJETTE_SYSTEMATIC ? 0 : (unsigned int)(file->file_id % n);
	uint32_t chosen = 0;
	unsigned int count = 0;

	for (unsigned int pass = 0; pass < 4 && count < wanted; pass++) {
		for (unsigned int i = 0; i < n && count < wanted; i++) {
			unsigned int s = (start + i) % n;
			const struct node *node = segment->nodes[s];
			bool made = !(segment->rebuilding & (1u << s));
			bool take = pass == 0   ? node && !node->client && made
				    : pass == 1 ? node_usable(node) && made &&
							  !latency_is_slow(segment, node,
								  round->latency_class)
				    : pass == 2 ? node_usable(node) && made
						: node != NULL;
			if (take && !((chosen | round->started) & (1u << s))) {
				chosen |= 1u << s;
				count++;
			}
		}
	}
	return chosen;
}

/* Slow nodes that nobody has asked for a while. Nobody waits for them now, either. */
static uint32_t choose_probes(const struct round *round, uint32_t chosen)
{
	uint32_t probes = 0;

	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		struct node *node = round->segment->nodes[s];

		if (!(chosen & (1u << s)) && node_usable(node) && node->client &&
			latency_is_slow(round->segment, node, round->latency_class) &&
			latency_probe_is_due(node))
			probes |= 1u << s;
	}
	return probes;
}

/*
 * Asks as many stores as must agree. If they do not all answer in their usual time, others are
 * asked as well, and the first that make up the number will do.
 */
static void round_ask_enough(struct round *round)
{
	unsigned int wanted = versions_quorum(round->file);
	uint32_t chosen = choose_shards(round, wanted);
	unsigned int patience_ms = latency_patience_ms(round->segment, round->latency_class);

	uint64_t start_us = latency_now_us();
	round_start(round, chosen | choose_probes(round, chosen));
	bool enough = fanout_wait_for(&round->fanout, wanted, patience_ms);
	round_collect(round);
	if (enough)
		return;
	unsigned int late = 0;
	for (unsigned int s = 0; s < round->segment->shard_count; s++) {
		if (!(chosen & ~round->asked & (1u << s)))
			continue;
		late++;
		latency_overdue(round->segment->nodes[s], round->latency_class,
			latency_now_us() - start_us);
	}
	atomic_fetch_add(&round->file->stripe->hedged_reads, 1);
	round_start(round, choose_shards(round, late));
	fanout_wait_for(&round->fanout, wanted, UINT_MAX);
	round_collect(round);
}

/* Asks the shards in `shards` that have not been asked, and waits for as long as most take. */
static void round_ask_others(struct round *round, uint32_t shards)
{
	round_start(round, shards & ~round->started);
	fanout_wait_for(&round->fanout, UINT_MAX,
		latency_patience_ms(round->segment, round->latency_class));
	round_collect(round);
}

/* Where the bytes of a run go. */
struct sink {
	uint64_t first_byte; /* of the first block, in the file */
	uint64_t offset; /* of buffer, in the file */
	uint8_t *buffer;
	size_t length;
};

static int read_run(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, const struct sink *sink)
{
	size_t scratch_bytes = mojette_scratch_bytes(&file->code, file->row_bytes);
	uint32_t all = (1u << segment->shard_count) - 1, silent = 0;
	int error = 0;

	struct round *round = round_create(file, segment, first_block, count, (store_version){0});
	uint8_t *temporary = malloc(file->block_bytes + scratch_bytes);
	if (!round || !temporary) {
		round_free(round);
		free(temporary);
		return -ENOMEM;
	}
	void *scratch = temporary + file->block_bytes;
	bool unstable = unstable_overlaps(file, segment, first_block, count);
	round_ask_enough(round);
	bool complete = round->asked == all;
	for (uint32_t i = 0; i < count && !error; i++) {
		uint64_t start = sink->first_byte + (uint64_t)i * file->block_bytes;
		bool whole = start >= sink->offset &&
			     start + file->block_bytes <= sink->offset + sink->length;
		struct block block = {
			.bytes = whole ? sink->buffer + (start - sink->offset) : temporary};

		error = round_value(round, i, complete, &block, scratch);
		if (error == -EAGAIN && !complete) {
			complete = true;
			round_ask_others(round, all & ~segment_known_down(segment, file->code.k));
			error = round_value(round, i, true, &block, scratch);
		}
		/* Those who are late are waited for if it cannot be told without them. */
		if (error == -EAGAIN && round->asked != round->started) {
			round_ask(round, round->started);
			silent = round_silent(round);
			error = round_value(round, i, true, &block, scratch);
		}
		if (error == -EAGAIN)
			error = block_read_carefully(
				file, segment, first_block + i, 0, &silent, &block, scratch);
		if (!error && unstable)
			unstable_met(file, segment, first_block + i, 1, block.version);
		if (!error)
			gather_overlay(file, start / file->block_bytes, &block);
		if (error || whole)
			continue;
		uint64_t from = start > sink->offset ? start : sink->offset;
		uint64_t end = start + file->block_bytes;
		if (end > sink->offset + sink->length)
			end = sink->offset + sink->length;
		memcpy(sink->buffer + (from - sink->offset), temporary + (from - start),
			end - from);
	}
	round_free(round);
	free(temporary);
	return error;
}

int block_read_without(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, unsigned int how, uint32_t *silent, struct block *block)
{
	void *scratch = malloc(mojette_scratch_bytes(&file->code, file->row_bytes));
	struct round *round = round_create(file, segment, block_number, 1, (store_version){0});
	int error = -EAGAIN;

	if (!scratch || !round) {
		error = -ENOMEM;
	} else if (!(how & BLOCK_READ_ALL)) {
		round_ask_enough(round);
		error = round_value(round, 0, false, block, scratch);
	}
	round_free(round);
	if (error == -EAGAIN)
		error = block_read_carefully(
			file, segment, block_number, how, silent, block, scratch);
	free(scratch);
	return error;
}

int block_read(struct stripe_file *file, const struct segment *segment, uint64_t block_number,
	unsigned int how, struct block *block)
{
	uint32_t silent = 0;

	return block_read_without(file, segment, block_number, how, &silent, block);
}

/* One piece of the range: blocks of one segment, at most a round's worth. */
static int read_piece(
	struct stripe_file *file, uint64_t first, uint32_t count, const struct sink *sink)
{
	const struct segment *segment;
	struct range_hold hold;

	int error = file_segment(file, (uint32_t)(first / file->segment_blocks), false, &segment);
	if (error == -ENOENT) {
		/* Never written: a hole as long as the piece. */
		uint64_t from = sink->first_byte > sink->offset ? sink->first_byte : sink->offset;
		uint64_t end = sink->first_byte + (uint64_t)count * file->block_bytes;
		if (end > sink->offset + sink->length)
			end = sink->offset + sink->length;
		memset(sink->buffer + (from - sink->offset), 0, end - from);
		return 0;
	}
	if (error)
		return error;
	range_acquire(&file->ranges, &hold, first, first + count - 1, false);
	error = read_run(file, segment, first % file->segment_blocks, count, sink);
	range_release(&file->ranges, &hold);
	return error;
}

int stripe_read(struct stripe_file *file, uint64_t offset, void *buffer, size_t length)
{
	if (length == 0)
		return 0;
	if (offset + length < offset)
		return -EFBIG;
	/* Where nothing can be written there are zeros. */
	if (offset + length > file_bytes_max(file)) {
		size_t there = offset < file_bytes_max(file) ? file_bytes_max(file) - offset : 0;

		memset((uint8_t *)buffer + there, 0, length - there);
		length = there;
		if (length == 0)
			return 0;
	}
	uint64_t block = offset / file->block_bytes;
	uint64_t last = (offset + length - 1) / file->block_bytes;
	uint32_t round_blocks = ROUND_BYTES_MAX / file->block_bytes;
	uint64_t give_up_us = attempts_end(file->stripe);
	unsigned int refreshes = 0;
	bool doubted = false;

	if (round_blocks == 0)
		round_blocks = 1;
	while (block <= last) {
		uint64_t count = last - block + 1;
		uint64_t segment_left = file->segment_blocks - block % file->segment_blocks;
		if (count > round_blocks)
			count = round_blocks;
		if (count > segment_left)
			count = segment_left;
		struct sink sink = {
			.first_byte = block * file->block_bytes,
			.offset = offset,
			.buffer = buffer,
			.length = length,
		};
		uint32_t before = file_placed_epoch(file);
		int error = read_piece(file, block, (uint32_t)count, &sink);
		if (error == -ESTALE && attempts_over(file, give_up_us))
			return -ETIMEDOUT;
		if (error == -ESTALE) {
			/* Not with the range held: a truncation may have to be carried out. */
			bool again = refreshes++ < REFRESHES_MAX;
			error = again ? stripe_file_refresh(file) : -EIO;
			/* Who reads need not care if a truncation could not be. */
			if (again && (!error || file_placed_epoch(file) != before))
				continue;
		}
		if (error == -EIO && !doubted && file_doubt_rebuilding(file)) {
			doubted = true;
			continue;
		}
		if (error)
			return error;
		block += count;
	}
	atomic_fetch_add(&file->stripe->read_bytes, length);
	return 0;
}
