/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Which version of a block counts, given what the stores say (docs/protocol.md). Pure reckoning. */
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

unsigned int versions_deciding(const struct stripe_file *file)
{
	return file->code.m + 1u > file->code.k ? file->code.m + 1u : file->code.k;
}

/* Once this many stores are known not to hold a version, it cannot have been decided. */
static unsigned int veto_count(const struct stripe_file *file)
{
	return shard_count(file) - versions_deciding(file) + 1;
}

unsigned int versions_quorum(const struct stripe_file *file)
{
	unsigned int veto = veto_count(file);

	return veto > file->code.k ? veto : file->code.k;
}

/*
 * While so many shards are being made on new nodes: how many of the other stores must know. One
 * more than a reader does without, who asks the former nodes; or all there are, since where k is
 * not above m there may be fewer. Then a writer among the former nodes still needs one of them.
 */
static unsigned int aware_wanted(const struct stripe_file *file, unsigned int making)
{
	unsigned int wanted = shard_count(file) - versions_quorum(file) + 1;
	unsigned int others = shard_count(file) - making;

	return wanted < others ? wanted : others;
}

bool versions_reach(const struct stripe_file *file, const struct segment *segment,
	unsigned int least, uint32_t holders, uint32_t fenced)
{
	uint32_t aware = (holders & ~segment->rebuilding) | fenced;
	unsigned int making = (unsigned int)__builtin_popcount(segment->rebuilding);

	if ((unsigned int)__builtin_popcount(holders) < least)
		return false;
	return making == 0 || (unsigned int)__builtin_popcount(aware) >= aware_wanted(file, making);
}

/* The newest version anyone holds that is older than bound (generation 0: none). */
static store_version newest_below(
	const struct block_answer *answers, unsigned int count, const store_version *bound)
{
	store_version best = {0};

	for (unsigned int s = 0; s < count; s++) {
		for (const struct block_answer *answer = &answers[s]; answer;
			answer = answer->successor) {
			if (!answer->answered)
				continue;
			const store_version held[] = {answer->newest, answer->older};
			for (unsigned int i = 0; i < 2; i++) {
				if ((!bound || version_compare(held[i], *bound) < 0) &&
					version_compare(held[i], best) > 0)
					best = held[i];
			}
		}
	}
	return best;
}

struct block_answer block_answer(const struct segment *segment, unsigned int shard,
	const store_read_res *result, uint32_t index)
{
	const store_read_block *told = &result->blocks.blocks_val[index];
	/*
	 * A store that took the shard over from another may not have got the block yet, or only
	 * what was there before something that the other one was asked to take. From the epoch of
	 * the move on nobody asks the other one.
	 */
	uint32_t since = segment->since[shard];
	bool partial = told->block_version.generation >> GENERATION_COUNTER_BITS < since;

	return (struct block_answer){
		.answered = told->state != STORE_DAMAGED || told->block_version.generation,
		.state = told->state,
		.newest = told->block_version,
		.older = told->older,
		.missed = told->missed,
		.length_bytes = told->length_bytes,
		.partial = partial,
		.making = segment->rebuilding & (1u << shard),
		.since = since,
		.until = segment->former & (1u << shard) ? segment->until[shard] : 0,
		.aware = result->durable_epoch >= segment->switch_epoch,
	};
}

/* Puts the chosen origins in their places; false if two of them had the same shard. */
static bool put_origins(const struct segment *segment, uint32_t chosen, struct segment *former)
{
	*former = *segment;
	for (uint32_t i = 0; i < segment->origin_count; i++) {
		const struct origin *origin = &segment->origins[i];
		uint32_t bit = 1u << origin->shard;

		if (!(chosen & (1u << i)))
			continue;
		if (former->former & bit)
			return false;
		former->nodes[origin->shard] = origin->node;
		former->since[origin->shard] = origin->since;
		former->until[origin->shard] = origin->until;
		former->rebuilding &= ~bit;
		former->former |= bit;
	}
	return true;
}

bool segment_former(
	const struct segment *segment, struct former_choice *choice, struct segment *former)
{
	if (choice->count == 0) {
		choice->begun_us = latency_now_us();
		for (uint32_t i = 0; i < segment->origin_count; i++) {
			if (node_usable(segment->origins[i].node))
				choice->possible |= 1u << i;
		}
		choice->chosen = choice->possible;
	} else {
		choice->chosen = (choice->chosen - 1) & choice->possible;
	}
	while (choice->chosen != 0 && !put_origins(segment, choice->chosen, former))
		choice->chosen = (choice->chosen - 1) & choice->possible;
	if (choice->count > 0 &&
		latency_now_us() - choice->begun_us > FORMER_CHOICES_MS * UINT64_C(1000))
		return false;
	return choice->chosen != 0 && choice->count++ < FORMER_CHOICES_MAX;
}

void versions_join(
	const struct segment *former, const struct block_answer *now, struct block_answer *then)
{
	for (unsigned int s = 0; s < former->shard_count; s++) {
		if (former->former & (1u << s))
			then[s].successor = &now[s];
		else
			then[s] = now[s];
	}
}

bool block_answer_is_sound(const struct block_answer *answer)
{
	return answer->answered && answer->state != STORE_TORN && answer->state != STORE_DAMAGED;
}

bool block_answer_has_nothing(const struct block_answer *answer, store_version version)
{
	return answer->newest.generation == 0 ||
	       (answer->older.generation == 0 && answer->state != STORE_COMMITTED &&
		       answer->state != STORE_DAMAGED &&
		       version_compare(answer->newest, version) > 0);
}

/*
 * True if the store would have the version if it had been sent to the shard: a store that took the
 * shard over was sent only what is from after that, and may have got older ones from healers, or
 * not; the one that had it before, only what is from before.
 */
static bool told_of(const struct block_answer *answer, store_version version)
{
	uint64_t write_epoch = version.generation >> GENERATION_COUNTER_BITS;

	return write_epoch >= answer->since && (!answer->until || write_epoch < answer->until);
}

/*
 * True if the stores of a shard that were asked to take the version, or anything newer, have all
 * said what they have: one, or one after the other.
 */
static bool vouches(const struct block_answer *answer, store_version version)
{
	while (answer && !told_of(answer, version))
		answer = answer->successor;
	while (answer && answer->answered && answer->until) {
		/* There may have been others in between. */
		if (answer->successor && answer->successor->since != answer->until)
			return false;
		answer = answer->successor;
	}
	return answer && answer->answered;
}

bool versions_tellable(const struct stripe_file *file, const struct block_answer *answers,
	uint32_t holders, store_version version)
{
	uint32_t durable = 0, others;
	unsigned int aware = 0, making = 0;
	bool made_by_holder = false;

	/* Our own writes have recorded who missed them, or are in doubt. */
	if (version.writer == file->stripe->writer && !run_is_doubtful(file, version))
		return true;
	/* As segment_reach() of a writer: who reads by the former nodes might not meet it. */
	for (unsigned int s = 0; s < shard_count(file); s++) {
		making += answers[s].making;
		made_by_holder = made_by_holder || ((holders & (1u << s)) && answers[s].making);
		aware += !answers[s].making && ((holders & (1u << s)) || answers[s].aware);
	}
	if (made_by_holder && aware < aware_wanted(file, making))
		return false;
	for (unsigned int s = 0; s < shard_count(file); s++) {
		if ((holders & (1u << s)) && answers[s].state != STORE_PENDING)
			durable |= 1u << s;
	}
	/* Even if one of them could not be asked, too few others would be left to prove anything.
	 */
	if (__builtin_popcount(durable) != (int)versions_deciding(file))
		return __builtin_popcount(durable) > (int)versions_deciding(file);
	others = ((1u << shard_count(file)) - 1) & ~durable;
	for (unsigned int s = 0; s < shard_count(file); s++) {
		if ((durable & (1u << s)) && (answers[s].missed & others) != others)
			return false;
	}
	return true;
}

struct block_judgement versions_judge(
	const struct stripe_file *file, const struct block_answer *answers)
{
	unsigned int n = shard_count(file);
	store_version candidate = newest_below(answers, n, NULL);
	struct block_judgement judgement = {.largest_generation = candidate.generation};

	for (;;) {
		bool emptiness = VERSION_IS_EMPTINESS(candidate);
		bool nothing = candidate.generation == 0 || emptiness;
		/*
		 * Something newer than the candidate may have been decided without so few that
		 * would have been asked to take it. Where there are no bytes to be had, a veto
		 * is enough.
		 */
		unsigned int answered = 0;
		for (unsigned int s = 0; s < n; s++)
			answered += vouches(&answers[s], candidate);
		if (answered < (nothing ? veto_count(file) : versions_quorum(file))) {
			judgement.verdict = BLOCK_UNKNOWN;
			return judgement;
		}
		if (candidate.generation == 0)
			break;
		uint32_t holders = 0, lacking = 0;
		bool decided = false;

		for (unsigned int s = 0; s < n; s++) {
			bool lacks = false, held = false;

			for (const struct block_answer *answer = &answers[s]; answer;
				answer = answer->successor) {
				if (!answer->answered)
					continue;
				int order = version_compare(answer->newest, candidate);
				if (order == 0 && answer->state == STORE_DAMAGED) {
					held = true; /* whether or not it was decided */
				} else if (order == 0 && answer->state != STORE_TORN) {
					holders |= 1u << s;
					decided |= answer->state == STORE_COMMITTED;
				} else if (order != 0 &&
					   version_compare(answer->older, candidate) == 0) {
					/* A store keeps an older version only if that was
					 * decided. */
					holders |= 1u << s;
					decided = true;
				} else if (order != 0 && emptiness &&
					   block_answer_has_nothing(answer, candidate)) {
					holders |= 1u << s;
				} else if (told_of(answer, candidate)) {
					lacks = true;
				}
			}
			if (lacks && !held && !(holders & (1u << s)))
				lacking |= 1u << s;
		}
		unsigned int holder_count = (unsigned int)__builtin_popcount(holders);
		unsigned int lacking_count = (unsigned int)__builtin_popcount(lacking);

		judgement.version = candidate;
		/* That a truncation was decided is known to exportd, whoever has heard of it yet.
		 */
		if (emptiness || (decided && holder_count >= file->code.k)) {
			judgement.verdict = BLOCK_VERSION;
			return judgement;
		}
		if (!decided && holder_count >= versions_deciding(file)) {
			judgement.verdict = versions_tellable(file, answers, holders, candidate)
						    ? BLOCK_VERSION
						    : BLOCK_OPEN;
			return judgement;
		}
		if (decided || lacking_count < veto_count(file)) {
			judgement.verdict = decided ? BLOCK_UNKNOWN : BLOCK_IN_DOUBT;
			judgement.lacking = lacking;
			judgement.one_short = lacking_count + 1 == veto_count(file);
			return judgement;
		}
		if (judgement.undecided.generation == 0)
			judgement.undecided = candidate;
		candidate = newest_below(answers, n, &candidate);
	}
	judgement.version = (store_version){0};
	judgement.verdict = BLOCK_EMPTY;
	return judgement;
}
