/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Telling the stores which runs are decided: durably, where a write needs that before it may be
 * acknowledged; at once, before what was written is judged by others; and in the background, of
 * many files with one call to each store.
 *
 * Takes stripe_file.tell_lock, of several files at once only where it is free; stripe_file.lock
 * inside it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/internal.h"

/* Files in one call: their locks are held until it is answered. */
#define TELL_FILES 48
_Static_assert(TELL_FILES <= STORE_TELL_MAX, "files in one call");

/* What one call to each of the stores tells. */
struct tell_batch {
	unsigned int file_count, share_count, run_count;
	struct stripe_file *files[TELL_FILES]; /* with tell_lock */
	/* What is told of one segment of a file. */
	struct share {
		const struct stripe_file *file;
		const struct segment *segment;
		unsigned int first_run, run_count;
		uint32_t wanted; /* shards whose stores are told */
	} shares[TELL_FILES];
	struct run *runs[STORE_COMMITS_MAX];
	store_decided decided[STORE_COMMITS_MAX]; /* the same */
};

/* One call. */
struct teller {
	store_tell_args args;
	store_status_res result;
	struct fanout_call call;
};

static store_decided decided_of(const struct run *run)
{
	return (store_decided){.first_block = run->first_block,
		.count = run->count,
		.block_version = run->version};
}

/* The shards of a segment whose nodes can be expected to answer. */
static uint32_t shards_usable(const struct segment *segment)
{
	uint32_t usable = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (node_usable(segment->nodes[s]))
			usable |= 1u << s;
	}
	return usable;
}

/*
 * Tells the stores of one segment its share of a list of runs. Each store that answered is taken
 * out of the runs' `untold`.
 */
static void tell_segment(
	struct stripe_file *file, const struct segment *segment, struct run *runs, bool stable)
{
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	store_decided *list = calloc(STORE_COMMITS_MAX, sizeof(*list));

	while (list && runs) {
		store_commit_args args = {.file = file_store_file(file, segment),
			.stable = stable,
			.runs = {.runs_val = list}};
		struct run *first = runs;
		uint32_t wanted = 0, answered = 0;

		for (; runs && args.runs.runs_len < STORE_COMMITS_MAX; runs = runs->next) {
			if (runs->segment != segment)
				continue;
			wanted |= runs->untold;
			list[args.runs.runs_len++] = decided_of(runs);
		}
		wanted &= shards_usable(segment);
		segment_ask(file, segment, wanted, STORE_COMMIT, &args, 0, results, calls);
		for (unsigned int s = 0; s < segment->shard_count; s++) {
			if (calls[s].started &&
				(stable ? !fanout_call_status(&calls[s]) : !calls[s].error))
				answered |= 1u << s;
			fanout_call_free(&calls[s]);
		}
		for (struct run *run = first; run != runs; run = run->next) {
			if (run->segment == segment)
				run->untold &= ~answered;
		}
	}
	free(list);
}

int runs_mark_decided(struct stripe_file *file, struct run *runs)
{
	int error = 0;

	if (file->code.k > file->code.m)
		return 0;
	for (const struct run *run = runs; run; run = run->next) {
		const struct run *earlier = runs;

		while (earlier->segment != run->segment)
			earlier = earlier->next;
		if (earlier == run)
			tell_segment(file, run->segment, runs, true);
	}
	for (const struct run *run = runs; run; run = run->next) {
		if (__builtin_popcount(run->holders & ~run->untold) < (int)versions_deciding(file))
			error = -EIO;
	}
	return error;
}

/* The decided runs of a file, and its segments; new ones of both come in at the head. */
static struct run *decided_runs(struct stripe_file *file, struct segment **segments)
{
	pthread_mutex_lock(&file->lock);
	struct run *runs = file->decided;
	*segments = file->segments;
	pthread_mutex_unlock(&file->lock);
	return runs;
}

/*
 * Forgets the runs that all their holders know of: one that does not may take it for undecided.
 * tell_lock is held.
 */
static void forget_told(struct stripe_file *file)
{
	struct run *told = NULL;

	pthread_mutex_lock(&file->lock);
	for (struct run **link = &file->decided; *link;) {
		struct run *run = *link;
		/* A node whose shards have moved may never come back. */
		if (run->segment->superseded)
			run->untold &= shards_usable(run->segment);
		if (run->untold) {
			link = &run->next;
			continue;
		}
		*link = run->next;
		run->next = told;
		told = run;
	}
	if (file->decided)
		runs_schedule_commit(file);
	pthread_mutex_unlock(&file->lock);
	runs_free(told);
}

void runs_tell_decided(struct stripe_file *file)
{
	struct segment *segments;

	/* Until the end the list is changed by us only, and `untold` is nobody else's. */
	pthread_mutex_lock(&file->tell_lock);
	struct run *runs = decided_runs(file, &segments);
	for (struct segment *segment = segments; runs && segment; segment = segment->next) {
		const struct run *run = runs;
		while (run && run->segment != segment)
			run = run->next;
		if (run)
			tell_segment(file, segment, runs, false);
	}
	forget_told(file);
	pthread_mutex_unlock(&file->tell_lock);
}

/* -------- many files at once -------- */

/* Adds what there is to tell of a file. tell_lock is held. Returns false if not all of it fits. */
static bool batch_add(struct tell_batch *batch, struct stripe_file *file)
{
	struct segment *segments;
	struct run *runs = decided_runs(file, &segments);

	batch->files[batch->file_count++] = file;
	for (struct segment *segment = segments; runs && segment; segment = segment->next) {
		uint32_t usable = shards_usable(segment);
		struct share *share = NULL;

		for (struct run *run = runs; run; run = run->next) {
			if (run->segment != segment || !(run->untold & usable))
				continue;
			if (batch->run_count == STORE_COMMITS_MAX ||
				(!share && batch->share_count == TELL_FILES))
				return false;
			if (!share) {
				share = &batch->shares[batch->share_count++];
				*share = (struct share){.file = file,
					.segment = segment,
					.first_run = batch->run_count};
			}
			share->run_count++;
			share->wanted |= run->untold & usable;
			batch->runs[batch->run_count] = run;
			batch->decided[batch->run_count++] = decided_of(run);
		}
	}
	return true;
}

/* The shards that a share is to be told to on one node; a node has at most one of a segment. */
static uint32_t shards_on(const struct share *share, const struct node *node)
{
	for (unsigned int s = 0; s < share->segment->shard_count; s++) {
		if ((share->wanted & 1u << s) && share->segment->nodes[s] == node)
			return 1u << s;
	}
	return 0;
}

/* Calls the stores that have shards of the shares, and takes who answered out of `untold`. */
static void batch_send(struct stripe *stripe, struct tell_batch *batch)
{
	struct teller *tellers = calloc(stripe->node_count, sizeof(*tellers));
	struct fanout fanout;
	unsigned int told_count = 0;

	for (unsigned int i = 0; i < batch->share_count; i++)
		told_count += (unsigned int)__builtin_popcount(batch->shares[i].wanted);
	store_told *next = calloc(told_count + 1, sizeof(*next)), *told = next;
	if (!tellers || !told)
		goto out; /* they stay untold */
	fanout_init(&fanout, stripe);
	for (size_t n = 0; n < stripe->node_count; n++) {
		store_tell_args *args = &tellers[n].args;

		args->files.files_val = next;
		for (unsigned int i = 0; i < batch->share_count; i++) {
			const struct share *share = &batch->shares[i];

			if (shards_on(share, &stripe->nodes[n]))
				*next++ = (store_told){
					.file = file_store_file(share->file, share->segment),
					.runs = {.runs_len = share->run_count,
						.runs_val = &batch->decided[share->first_run]},
				};
		}
		args->files.files_len = (unsigned int)(next - args->files.files_val);
		if (args->files.files_len)
			fanout_start(&fanout, &tellers[n].call, &stripe->nodes[n], STORE_TELL, args,
				&tellers[n].result);
	}
	fanout_wait(&fanout);
	for (size_t n = 0; n < stripe->node_count; n++) {
		if (!tellers[n].call.started || tellers[n].call.error)
			continue;
		for (unsigned int i = 0; i < batch->share_count; i++) {
			const struct share *share = &batch->shares[i];
			uint32_t shards = shards_on(share, &stripe->nodes[n]);

			for (unsigned int r = 0; shards && r < share->run_count; r++)
				batch->runs[share->first_run + r]->untold &= ~shards;
		}
		fanout_call_free(&tellers[n].call);
	}
out:
	free(told);
	free(tellers);
}

void files_tell_decided(struct stripe *stripe, struct stripe_file *queue)
{
	struct tell_batch *batch = malloc(sizeof(*batch));

	while (queue) {
		bool whole = true;

		if (batch)
			batch->file_count = batch->share_count = batch->run_count = 0;
		/* A file that does not fit whole is the last. */
		while (queue && whole &&
			(!batch || (batch->share_count < TELL_FILES &&
					   batch->file_count < TELL_FILES &&
					   batch->run_count < STORE_COMMITS_MAX))) {
			struct stripe_file *file = queue;
			bool free_to_tell = batch && !pthread_mutex_trylock(&file->tell_lock);

			queue = file->commit_next;
			pthread_mutex_lock(&file->lock);
			file->commit_scheduled = false;
			if (!free_to_tell && file->decided)
				runs_schedule_commit(file);
			pthread_mutex_unlock(&file->lock);
			if (free_to_tell)
				whole = batch_add(batch, file);
			else
				stripe_file_put(file);
		}
		if (!batch)
			break;
		batch_send(stripe, batch);
		for (unsigned int i = 0; i < batch->file_count; i++) {
			struct stripe_file *file = batch->files[i];

			forget_told(file);
			pthread_mutex_unlock(&file->tell_lock);
			/* In pieces, a store that does not answer would keep all from the rest. */
			if (!whole && i + 1 == batch->file_count)
				runs_tell_decided(file);
			stripe_file_put(file);
		}
	}
	free(batch);
}
