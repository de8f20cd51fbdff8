/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Settling: asks the stores which versions of some blocks they have, and tells them which are
 * decided and which are not, and never will be (docs/protocol.md, "Settling"). Takes no locks but
 * stripe_file.lock for a moment; several may settle the same blocks at the same time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/internal.h"

/* How often settling begins anew because newer versions were written meanwhile. */
#define SETTLE_ROUNDS 8
/* How much newer what is refused is than what was found. Versions of other blocks are refused, too:
 * their writers try again with newer ones. */
#define SETTLE_AHEAD 4

/* What all stores say of a run of blocks. */
struct opinions {
	const struct segment *segment;
	uint64_t first_block;
	uint32_t count;
	uint32_t left_out; /* shards that are not asked: their nodes seem to be down */
	struct fanout_call calls[MOJETTE_N_MAX];
	store_read_args args[MOJETTE_N_MAX];
	store_read_res results[MOJETTE_N_MAX];
};

/*
 * Asks all stores. refuse: whoever answers will not accept this version or an older one any more,
 * so that what is found not to be decided stays so, even if its writer is still at work.
 */
static void opinions_ask(struct stripe_file *file, struct opinions *opinions, store_version refuse)
{
	const struct segment *segment = opinions->segment;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		opinions->args[s] = (store_read_args){
			.file = file_store_file(file, segment),
			.geometry = file_geometry(file),
			.shard = s,
			.first_block = opinions->first_block,
			.count = opinions->count,
			.headers_only = 1,
			.refuse = refuse,
		};
	}
	segment_ask(file, segment, ~opinions->left_out, STORE_READ, opinions->args,
		sizeof(opinions->args[0]), opinions->results, opinions->calls);
}

/* Takes note of who did not answer in time. refusing: with a promise, flushed. */
static void opinions_note_stuck(
	const struct stripe *stripe, const struct opinions *opinions, bool refusing)
{
	for (unsigned int s = 0; s < opinions->segment->shard_count; s++)
		node_note_stuck(stripe, &opinions->calls[s], refusing);
}

static void opinions_free(struct opinions *opinions)
{
	for (unsigned int s = 0; s < opinions->segment->shard_count; s++)
		fanout_call_free(&opinions->calls[s]);
}

static bool opinion_given(const struct opinions *opinions, unsigned int shard)
{
	return fanout_call_status(&opinions->calls[shard]) == 0 &&
	       opinions->results[shard].blocks.blocks_len == opinions->count;
}

static void opinions_of_block(
	const struct opinions *opinions, uint32_t index, struct block_answer answers[MOJETTE_N_MAX])
{
	memset(answers, 0, MOJETTE_N_MAX * sizeof(answers[0]));
	for (unsigned int s = 0; s < opinions->segment->shard_count; s++) {
		if (!opinion_given(opinions, s))
			continue;
		answers[s] = block_answer(opinions->segment, s, &opinions->results[s], index);
	}
}

/* True if a store knows of a change of the file that we do not know. */
static bool opinions_are_ahead(struct stripe_file *file, const struct opinions *opinions)
{
	for (unsigned int s = 0; s < opinions->segment->shard_count; s++) {
		if (opinion_given(opinions, s) && segment_is_outdated(file, opinions->segment,
							  opinions->results[s].write_epoch))
			return true;
	}
	return false;
}

/* The newest version that is PENDING, or as good as, in any of the blocks; generation 0: none. */
static store_version opinions_newest_open(const struct opinions *opinions)
{
	store_version newest = {0};

	for (uint32_t i = 0; i < opinions->count; i++) {
		struct block_answer answers[MOJETTE_N_MAX];

		opinions_of_block(opinions, i, answers);
		for (unsigned int s = 0; s < opinions->segment->shard_count; s++) {
			if (answers[s].answered && answers[s].state != STORE_COMMITTED &&
				version_compare(answers[s].newest, newest) > 0)
				newest = answers[s].newest;
		}
	}
	return newest;
}

/*
 * The shards that hold a version as their newest. *decided tells if somebody knows that it is
 * decided: has committed it, or has kept it beside a newer one.
 */
static uint32_t holders_of(const struct segment *segment, const struct block_answer *answers,
	store_version version, bool *decided)
{
	bool emptiness = VERSION_IS_EMPTINESS(version);
	uint32_t holders = 0;

	*decided = false;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (answers[s].answered && version_compare(answers[s].older, version) == 0)
			*decided = true;
		if (answers[s].answered && emptiness &&
			block_answer_has_nothing(&answers[s], version))
			holders |= 1u << s;
		if (!block_answer_is_sound(&answers[s]) ||
			version_compare(answers[s].newest, version) != 0)
			continue;
		holders |= 1u << s;
		*decided = *decided || answers[s].state == STORE_COMMITTED;
	}
	return holders;
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

/* Versions to be rolled forward, with the stores that hold them. */
struct forward {
	struct run *runs;
	unsigned int count;
};

static void forward_add(struct forward *forward, const struct opinions *opinions, uint32_t index,
	store_version version, uint32_t holders)
{
	struct run *last = forward->count ? &forward->runs[forward->count - 1] : NULL;
	uint64_t block = opinions->first_block + index;

	if (!forward->runs)
		return;
	if (last && last->first_block + last->count == block && last->holders == holders &&
		version_compare(last->version, version) == 0) {
		last->count++;
		return;
	}
	forward->runs[forward->count++] = (struct run){
		.segment = opinions->segment,
		.first_block = block,
		.count = 1,
		.version = version,
		.holders = holders,
	};
}

/*
 * Notes what stores have PENDING besides the block's version: newer ones (but no newer than
 * `refused`) are not decided, older ones nobody will ask for again. All would be a conflict for
 * every writer. A truncation was decided by exportd.
 */
static void others_add(struct verdicts *undecided, struct verdicts *superseded,
	struct verdicts *decided, const struct segment *segment, const struct block_answer *answers,
	uint64_t block, store_version version, store_version refused)
{
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!answers[s].answered || answers[s].newest.generation == 0 ||
			answers[s].state == STORE_COMMITTED)
			continue;
		int order = version_compare(answers[s].newest, version);
		if (VERSION_IS_EMPTINESS(answers[s].newest) && order != 0)
			verdict_add(decided, block, answers[s].newest);
		else if (order < 0)
			verdict_add(superseded, block, answers[s].newest);
		else if (order > 0 && version_compare(answers[s].newest, refused) <= 0)
			verdict_add(undecided, block, answers[s].newest);
	}
}

/* left_out: shards whose stores are not told, besides those whose nodes seem to be down. */
static void verdicts_tell(struct stripe_file *file, const struct segment *segment,
	uint32_t left_out, const struct verdicts *verdicts, bool discard)
{
	for (unsigned int told = 0; told < verdicts->count; told += STORE_COMMITS_MAX) {
		unsigned int left = verdicts->count - told;
		store_commit_args args = {
			.file = file_store_file(file, segment),
			.discard = discard,
			.runs = {.runs_len = left < STORE_COMMITS_MAX ? left : STORE_COMMITS_MAX,
				.runs_val = verdicts->runs + told},
		};
		/* A store that does not hear it keeps what it has; the next one to meet it tells
		 * it. */
		segment_tell(file, segment, ~(left_out | segment_known_down(segment, file->code.k)),
			STORE_COMMIT, &args);
	}
}

/* Flushes the stores that gave their opinions. Returns the shards whose stores did, and have not
 * restarted. */
static uint32_t flush_stores(struct stripe_file *file, const struct opinions *opinions)
{
	uint64_t boots[MOJETTE_N_MAX];
	uint32_t given = 0;

	for (unsigned int s = 0; s < opinions->segment->shard_count; s++) {
		if (opinion_given(opinions, s))
			given |= 1u << s;
	}
	uint32_t flushed = segment_flush(file, opinions->segment, given, boots);
	for (unsigned int s = 0; s < opinions->segment->shard_count; s++) {
		if ((flushed & (1u << s)) && boots[s] != opinions->results[s].boot)
			flushed &= ~(1u << s);
	}
	return flushed;
}

/*
 * Does for each version what its writer would have done: the version before it is given up, so it
 * must be durable on min_shards stores, and they must know who does not have it. Deciding ones will
 * do if min_shards could be asked: its writer did not get further, and only what is decided is
 * healed. Otherwise it can at least be read from then on (versions_tellable()).
 * segment: the one of the opinions, or if former stores are among these, the one that took over.
 * Returns 0, or -EIO if that cannot be had for some, -ESTALE if that is since a store knows a newer
 * write epoch; those that it was had for are in *decided.
 */
static int make_decided(struct stripe_file *file, const struct segment *segment,
	const struct opinions *opinions, struct forward *forward, struct verdicts *decided)
{
	uint32_t all = (1u << segment->shard_count) - 1;
	int result = 0;

	if (!forward->count)
		return 0;
	uint32_t flushed = flush_stores(file, opinions), fenced = 0, silent = 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((flushed & ~segment->rebuilding & (1u << s)) &&
			opinions->results[s].write_epoch >= segment->switch_epoch)
			fenced |= 1u << s;
	}
	unsigned int least = (unsigned int)__builtin_popcount(flushed) >= file->min_shards
				     ? versions_deciding(file)
				     : file->min_shards;
	bool stale = false;
	if (!versions_reach(file, segment, 0, 0, fenced))
		fenced |= segment_fence(
			file, segment, segment_newest_epoch(file, segment), 0, &stale);
	for (unsigned int i = 0; i < forward->count; i++) {
		struct run *run = &forward->runs[i];
		int error = 0;

		run->holders &= flushed;
		if (run->holders != all) {
			run->holders &= ~silent;
			error = run_record_missed(
				file, run, least, all & ~run->holders, &run->holders, &silent);
		}
		if (!error && !versions_reach(file, segment, least, run->holders, fenced))
			error = -EIO;
		if (error) {
			result = stale ? -ESTALE : -EIO;
			continue;
		}
		for (uint32_t j = 0; j < run->count; j++)
			verdict_add(decided, run->first_block + j, run->version);
	}
	return result;
}

/* A version that may have been decided, on stores that would know more of it if it was. */
struct doubt {
	store_decided run;
	uint32_t lacking; /* shards whose stores do not have it, and promised not to take it */
};

/*
 * Has the stores that hold a version drop it, each unless all the shards that do not have it are
 * recorded there as having missed it: before a version is decided they are, on deciding holders.
 * One that drops it makes it certain that the version is not decided, and never will be. *silent:
 * shards that are not asked; receives those whose stores do not answer in time. Returns true if one
 * was asked.
 */
static bool doubt_resolve(struct stripe_file *file, const struct opinions *opinions,
	const struct doubt *doubt, uint32_t *silent)
{
	const struct segment *segment = opinions->segment;
	store_commit_args args[MOJETTE_N_MAX];
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	store_decided run = doubt->run;
	uint32_t asked = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!opinion_given(opinions, s) || ((doubt->lacking | *silent) & (1u << s)))
			continue;
		args[s] = (store_commit_args){
			.file = file_store_file(file, segment),
			.discard = 1,
			.unless_missed = doubt->lacking,
			.boot = opinions->results[s].boot,
			.stable = 1,
			.runs = {.runs_len = 1, .runs_val = &run},
		};
		asked |= 1u << s;
	}
	segment_ask(file, segment, asked, STORE_COMMIT, args, sizeof(args[0]), results, calls);
	/* What came of it the stores are asked anew. */
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (calls[s].started && calls[s].error == -ETIMEDOUT)
			*silent |= 1u << s;
		fanout_call_free(&calls[s]);
	}
	return asked != 0;
}

/*
 * versions_settle() without asking or telling some shards. *version_that_counts
 * receives that of the last block.
 * Returns also -EAGAIN: something was done that may have ended a doubt.
 */
static int settle(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, uint32_t left_out, uint64_t *largest_generation,
	store_version *version_that_counts)
{
	size_t room = (size_t)count * (segment->shard_count + 1);
	struct opinions *opinions = malloc(sizeof(*opinions));
	struct forward forward = {.runs = calloc(count, sizeof(struct run))};
	struct verdicts decided = {.runs = calloc(room, sizeof(store_decided))};
	struct verdicts back = {.runs = calloc(room, sizeof(store_decided))};
	struct verdicts superseded = {.runs = calloc(room, sizeof(store_decided))};
	struct doubt *doubts = calloc(count, sizeof(*doubts));
	unsigned int doubt_count = 0;
	uint32_t silent = 0;
	bool stale = false, resolved = false;
	int error = 0;

	*largest_generation = 0;
	if (!opinions || !forward.runs || !decided.runs || !back.runs || !superseded.runs ||
		!doubts) {
		error = -ENOMEM;
		goto out;
	}
	*opinions = (struct opinions){.segment = segment,
		.first_block = first_block,
		.count = count,
		.left_out = left_out};
	opinions_ask(file, opinions, (store_version){0});
	opinions_note_stuck(file->stripe, opinions, false);
	store_version open = {0}, newest = opinions_newest_open(opinions);
	/*
	 * To be settled for good, none of these may be written, or replaced, meanwhile: neither
	 * what a busy writer has sent since we asked.
	 */
	for (unsigned int round = 0; version_compare(newest, open) > 0 && round < SETTLE_ROUNDS;
		round++) {
		open = newest;
		open.generation += SETTLE_AHEAD;
		opinions_free(opinions);
		opinions_ask(file, opinions, open);
		opinions_note_stuck(file->stripe, opinions, true);
		newest = opinions_newest_open(opinions);
	}
	/* Who has others refuse something does not offer it to them. */
	file_met_generation(file, open.generation);
	/* Those who can tell may be others by now. */
	error = opinions_are_ahead(file, opinions) ? -ESTALE
						   : segment_confirm_former(file, segment);
	/*
	 * What lacks a version may have been a store of the segment, and have removed what it had.
	 * That it knows a write epoch is no sign that it has not.
	 */
	if (!error && !segment->former && open.generation)
		error = segment_confirm(file, segment);
	if (error) {
		opinions_free(opinions);
		goto out;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct block_answer answers[MOJETTE_N_MAX];
		bool known;

		opinions_of_block(opinions, i, answers);
		struct block_judgement judgement = versions_judge(file, answers);
		enum block_verdict verdict = judgement.verdict;
		store_version version = judgement.version;
		bool counts = verdict == BLOCK_VERSION || verdict == BLOCK_OPEN;
		uint32_t holders = holders_of(segment, answers, version, &known);
		/* Nobody promised to leave that alone. */
		if (counts && !known && version_compare(version, open) > 0)
			verdict = BLOCK_UNKNOWN;
		bool unknown = verdict == BLOCK_UNKNOWN || verdict == BLOCK_IN_DOUBT;
		/* A truncation that may not be finished, and is not so by rolling it forward. */
		bool ahead = counts && !unknown && VERSION_IS_EMPTINESS(version) &&
			     version.generation >> GENERATION_COUNTER_BITS > file_write_epoch(file);
		stale = stale || ahead;
		if (unknown)
			error = -EIO;
		/* What we wrote unstably ourselves is for our COMMIT to judge. */
		bool ours =
			version.writer == file->stripe->writer && !run_is_doubtful(file, version);
		if (verdict == BLOCK_IN_DOUBT && judgement.one_short && !ours &&
			version_compare(version, open) <= 0)
			doubts[doubt_count++] =
				(struct doubt){.run = {.first_block = first_block + i,
						       .count = 1,
						       .block_version = version},
					.lacking = judgement.lacking};
		if (unknown || ahead)
			; /* whoever carries a truncation out tells all stores */
		else if (version.generation && known)
			verdict_add(&decided, first_block + i, version);
		else if (version.generation && holders)
			forward_add(&forward, opinions, i, version, holders);
		if (!unknown)
			others_add(&back, &superseded, &decided, segment, answers, first_block + i,
				version, open);
		else if (judgement.undecided.generation &&
			 version_compare(judgement.undecided, open) <= 0)
			verdict_add(&back, first_block + i, judgement.undecided);
		if (judgement.largest_generation > *largest_generation)
			*largest_generation = judgement.largest_generation;
		*version_that_counts = version;
	}
	int failed = make_decided(file, segment, opinions, &forward, &decided);
	if (failed)
		error = failed;
	verdicts_tell(file, segment, left_out, &back, true);
	/* What came back with a loss of power could not be told from a decided version by a few. */
	if (back.count)
		flush_stores(file, opinions);
	for (unsigned int i = 0; i < doubt_count; i++)
		resolved = doubt_resolve(file, opinions, &doubts[i], &silent) || resolved;
	opinions_free(opinions);
	verdicts_tell(file, segment, left_out, &decided, false);
	if (!error)
		verdicts_tell(file, segment, left_out, &superseded, true);
	if (stale)
		error = -ESTALE;
	else if (resolved)
		error = -EAGAIN;
out:
	free(opinions);
	free(doubts);
	free(forward.runs);
	free(decided.runs);
	free(back.runs);
	free(superseded.runs);
	return error;
}

/* Without some shards at first; and if it cannot be told then, without those of `silent` only. */
static int settle_without(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint32_t left_out, uint32_t silent,
	uint64_t *largest_generation, store_version *version)
{
	int error;

	while (true) {
		error = settle(
			file, segment, first_block, count, left_out, largest_generation, version);
		if (error == -EAGAIN) /* perhaps they did not discard it, and it stays in doubt */
			error = settle(file, segment, first_block, count, left_out,
				largest_generation, version);
		if (error == -EAGAIN)
			error = -EIO;
		/* They may be up again, or be the ones without whom it cannot be told. */
		if (error != -EIO || left_out == silent)
			return error;
		left_out = silent;
	}
}

int versions_settle_without(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint32_t silent, uint64_t *largest_generation)
{
	store_version version;

	return settle_without(file, segment, first_block, count,
		segment_known_down(segment, file->code.k) | silent, silent, largest_generation,
		&version);
}

int versions_settle_soon(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint64_t *largest_generation, store_version *version)
{
	uint32_t left_out =
		segment_known_down(segment, file->code.k) | segment_stuck(file, segment, NULL);

	return settle_without(
		file, segment, first_block, count, left_out, 0, largest_generation, version);
}

int versions_settle(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, uint64_t *largest_generation)
{
	return versions_settle_without(file, segment, first_block, count, 0, largest_generation);
}

int versions_settle_former(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint64_t *largest_generation)
{
	struct former_choice choice = {0};
	struct segment former;
	int error = -EIO;

	while (error == -EIO && segment_former(segment, &choice, &former))
		error = versions_settle(file, &former, first_block, count, largest_generation);
	return error;
}

/* What the stores of a segment, and former ones of shards that are being made, say of one block. */
struct joint {
	struct opinions now, then;
	store_version newest; /* that is open on any of them */
	store_version
		refused; /* all that answered will not take this one, or older ones, any more */
};

static void joint_ask(struct stripe_file *file, struct joint *joint, store_version refuse)
{
	store_version then;

	opinions_ask(file, &joint->now, refuse);
	opinions_ask(file, &joint->then, refuse);
	joint->refused = refuse;
	joint->newest = opinions_newest_open(&joint->now);
	then = opinions_newest_open(&joint->then);
	if (version_compare(then, joint->newest) > 0)
		joint->newest = then;
}

static void joint_free(struct joint *joint)
{
	opinions_free(&joint->now);
	opinions_free(&joint->then);
}

/* Judges them as one. */
static struct block_judgement joint_judge(const struct stripe_file *file, const struct joint *joint)
{
	const struct segment *former = joint->then.segment;
	struct block_answer now[MOJETTE_N_MAX], then[MOJETTE_N_MAX];

	opinions_of_block(&joint->now, 0, now);
	opinions_of_block(&joint->then, 0, then);
	versions_join(former, now, then);
	return versions_judge(file, then);
}

/*
 * Takes for each shard the store that holds a version, if one does, the new one before the former
 * one: *chosen receives these with their answers, *segment their nodes. Nothing of *chosen is to be
 * freed. Returns the shards that have one; *known tells if any store knows that it is decided.
 */
static uint32_t joint_holders(const struct joint *joint, store_version version,
	struct segment *segment, struct opinions *chosen, bool *known)
{
	uint32_t holders = 0;

	*segment = *joint->now.segment;
	*chosen = joint->now;
	chosen->segment = segment;
	*known = false;
	for (unsigned int i = 0; i < 2; i++) {
		const struct opinions *asked = i == 0 ? &joint->now : &joint->then;
		struct block_answer answers[MOJETTE_N_MAX];
		bool decided;

		opinions_of_block(asked, 0, answers);
		uint32_t here = holders_of(asked->segment, answers, version, &decided) & ~holders;
		holders |= here;
		*known = *known || decided;
		for (unsigned int s = 0; s < segment->shard_count; s++) {
			if (!(here & (1u << s)))
				continue;
			segment->nodes[s] = asked->segment->nodes[s];
			chosen->calls[s] = asked->calls[s];
			chosen->results[s] = asked->results[s];
		}
	}
	return holders;
}

/* versions_settle_both(), when all have been asked. */
static int joint_settle(struct stripe_file *file, const struct joint *joint, uint64_t block)
{
	const struct segment *segment = joint->now.segment, *former = joint->then.segment;
	/* Each store has one newest version, and there is the one that counts. */
	store_decided lists[3][2 * MOJETTE_N_MAX + 1];
	struct verdicts decided = {.runs = lists[0]};
	struct verdicts undecided = {.runs = lists[1]}, superseded = {.runs = lists[2]};
	struct run run;
	struct forward forward = {.runs = &run};
	struct block_judgement judgement = joint_judge(file, joint);
	store_version version = judgement.version;
	struct block_answer answers[MOJETTE_N_MAX];
	struct segment mixed;
	bool known;
	int error = 0;

	struct opinions *chosen = malloc(sizeof(*chosen));
	if (!chosen)
		return -ENOMEM;
	uint32_t holders = joint_holders(joint, version, &mixed, chosen, &known);
	/* Nobody promised to leave that alone; or it cannot be told. */
	if (judgement.verdict == BLOCK_UNKNOWN || judgement.verdict == BLOCK_IN_DOUBT ||
		(version.generation && !known && version_compare(version, joint->refused) > 0))
		error = -EIO;
	/* Whoever carries a truncation out tells all stores. */
	else if (VERSION_IS_EMPTINESS(version) &&
		 version.generation >> GENERATION_COUNTER_BITS > file_write_epoch(file))
		error = -ESTALE;
	if (error)
		goto out;
	if (version.generation && known)
		verdict_add(&decided, block, version);
	else if (version.generation && holders && !VERSION_IS_EMPTINESS(version))
		forward_add(&forward, chosen, 0, version, holders);
	error = make_decided(file, segment, chosen, &forward, &decided);
	opinions_of_block(&joint->now, 0, answers);
	others_add(&undecided, &superseded, &decided, segment, answers, block, version,
		joint->refused);
	opinions_of_block(&joint->then, 0, answers);
	others_add(
		&undecided, &superseded, &decided, former, answers, block, version, joint->refused);
	for (unsigned int i = 0; i < 2; i++) {
		const struct opinions *asked = i == 0 ? &joint->now : &joint->then;

		verdicts_tell(file, asked->segment, 0, &undecided, true);
		/* As in settle(). */
		if (undecided.count)
			flush_stores(file, asked);
		verdicts_tell(file, asked->segment, 0, &decided, false);
		if (!error)
			verdicts_tell(file, asked->segment, 0, &superseded, true);
	}
out:
	free(chosen);
	return error;
}

int versions_settle_both(struct stripe_file *file, const struct segment *segment,
	const struct segment *former, uint64_t block)
{
	struct joint *joint = malloc(sizeof(*joint));
	int error;

	if (!joint)
		return -ENOMEM;
	*joint = (struct joint){
		.now = {.segment = segment,
			.first_block = block,
			.count = 1,
			.left_out = segment_known_down(segment, file->code.k)},
		.then = {.segment = former,
			.first_block = block,
			.count = 1,
			.left_out = ~former->former},
	};
	joint_ask(file, joint, (store_version){0});
	/* As in settle(): what is found not to be decided stays so. */
	for (unsigned int round = 0;
		version_compare(joint->newest, joint->refused) > 0 && round < SETTLE_ROUNDS;
		round++) {
		store_version refuse = joint->newest;

		refuse.generation += SETTLE_AHEAD;
		joint_free(joint);
		joint_ask(file, joint, refuse);
	}
	file_met_generation(file, joint->refused.generation);
	error = opinions_are_ahead(file, &joint->now) || opinions_are_ahead(file, &joint->then)
			? -ESTALE
			: segment_confirm_former(file, former);
	if (!error)
		error = joint_settle(file, joint, block);
	joint_free(joint);
	free(joint);
	return error;
}
