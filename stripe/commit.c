/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What becomes of runs that were written unstable: making them durable (COMMIT).
 *
 * Takes stripe_file.commit_lock, the range lock (shared), stripe_file.lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/gather.h"

void runs_free(struct run *runs)
{
	while (runs) {
		struct run *next = runs->next;
		free(runs);
		runs = next;
	}
}

/* -------- commit -------- */

/*
 * Flushes one segment's stores; shrinks each run's holders to those that kept it. A store that is
 * stuck is not waited for where the others are enough.
 */
static void sync_segment(struct stripe_file *file, const struct segment *segment, struct run *runs)
{
	uint32_t wanted = 0, tried, left_out = segment_stuck(file, segment, &tried);
	uint64_t boots[MOJETTE_N_MAX];

	for (struct run *run = runs; run; run = run->next) {
		if (run->segment != segment)
			continue;
		wanted |= run->holders;
		if ((unsigned int)__builtin_popcount(run->holders & ~left_out) < run->wanted)
			left_out = 0;
	}
	uint32_t flushed = segment_flush(file, segment, wanted & ~left_out, boots);
	for (struct run *run = runs; run; run = run->next) {
		for (unsigned int s = 0; run->segment == segment && s < segment->shard_count; s++) {
			/* A store that restarted in between may have forgotten what was not
			 * flushed. */
			if (!(flushed & (1u << s)) || boots[s] != run->boots[s])
				run->holders &= ~(1u << s);
		}
	}
}

/* The blocks of the file that the runs touch, from the first to the last. */
static void runs_extent(
	const struct stripe_file *file, const struct run *runs, uint64_t *first, uint64_t *last)
{
	*first = UINT64_MAX;
	*last = 0;
	for (; runs; runs = runs->next) {
		uint64_t start = runs->segment->number * file->segment_blocks + runs->first_block;
		if (start < *first)
			*first = start;
		if (start + runs->count - 1 > *last)
			*last = start + runs->count - 1;
	}
}

/* Cuts a run in two before a block of it; the second part follows. Returns false if memory is
 * short. */
static bool run_split(struct run *run, uint64_t block)
{
	struct run *rest = malloc(sizeof(*rest));

	if (!rest)
		return false; /* at worst clients have to send it again */
	*rest = *run;
	rest->first_block = block;
	rest->count = (uint32_t)(run->first_block + run->count - block);
	run->next = rest;
	run->count = (uint32_t)(block - run->first_block);
	return true;
}

/*
 * Marks what newer runs have replaced, in parts if need be: the newest come first. Their versions
 * have its bytes in them; where it is not any more there is nothing to be recorded.
 */
static void runs_mark_replaced(struct run *runs)
{
	for (struct run *run = runs; run; run = run->next) {
		for (const struct run *newer = runs; newer != run; newer = newer->next) {
			uint64_t end = run->first_block + run->count;
			uint64_t newer_end = newer->first_block + newer->count;

			if (newer->replaced || run->segment->number != newer->segment->number ||
				newer->first_block >= end || newer_end <= run->first_block)
				continue;
			/* The second part is looked at when its turn comes. */
			if (newer->first_block > run->first_block) {
				if (!run_split(run, newer->first_block))
					break;
				continue;
			}
			if (newer_end < end && !run_split(run, newer_end))
				break;
			run->replaced = true;
			break;
		}
	}
}

static bool is_first_of_segment(const struct run *runs, const struct run *run)
{
	while (runs->segment != run->segment)
		runs = runs->next;
	return runs == run;
}

/*
 * Has the stores of one segment record who does not have its runs. One that did not answer is not
 * asked again, and one fence is enough: there may be many runs.
 */
static int record_segment(struct stripe_file *file, const struct segment *segment, struct run *runs)
{
	uint32_t silent = 0, fenced = 0;
	int error = 0;

	for (struct run *run = runs; run && !error; run = run->next) {
		if (run->segment != segment)
			continue;
		/*
		 * What has replaced it is based on what somebody else wrote, who may have met it
		 * after a store lost it, and have had it dropped.
		 */
		if (run->replaced && run->covered && (run->written & ~run->holders))
			error = -EAGAIN;
		if (!run->replaced && (run->written & ~run->holders)) {
			run->holders &= ~silent;
			error = run_record_missed(file, run, run->wanted,
				run->written & ~run->holders, &run->holders, &silent);
		}
		if (!error)
			error = segment_reach(file, segment, run->wanted, run->holders, &fenced);
		if (error == -ESTALE)
			error = -EAGAIN; /* under another writer's epoch it is sent again */
		run->untold = run->holders;
	}
	return error;
}

/* Makes runs durable. Returns 0, or -EIO if too few stores have one; the runs are used up. */
static int commit_runs(struct stripe_file *file, struct run *runs)
{
	int error = 0;

	runs_mark_replaced(runs);

	for (struct run *run = runs; run; run = run->next) {
		if (is_first_of_segment(runs, run))
			sync_segment(file, run->segment, runs);
	}
	for (struct run *run = runs; run && !error; run = run->next) {
		if (is_first_of_segment(runs, run))
			error = record_segment(file, run->segment, run);
	}
	for (struct run **link = &runs; *link && !error;) {
		struct run *run = *link;

		if (run->replaced) {
			*link = run->next;
			free(run);
		} else {
			link = &run->next;
		}
	}
	if (!error)
		error = runs_mark_decided(file, runs);
	while (runs) {
		struct run *run = runs;

		runs = run->next;
		if (error) {
			run_doubt(file, run->version);
			free(run);
		} else {
			run_book(file, run, true);
		}
	}
	return error;
}

/*
 * Takes the runs from `runs` to the end of the list of unstable ones. Returns the end of the
 * furthest unstable write; *write_epoch receives the oldest epoch under which any was written.
 */
static uint64_t unstable_take(
	struct stripe_file *file, const struct run *runs, uint32_t *write_epoch)
{
	pthread_mutex_lock(&file->lock);
	struct run **link = &file->unstable;
	file->unstable_count = 0;
	for (; *link != runs; link = &(*link)->next)
		file->unstable_count++;
	*link = NULL;
	uint64_t end = file->unstable_end;
	*write_epoch = file->unstable_epoch;
	file->committing_end = end;
	if (!file->unstable && atomic_load(&file->cached.dirty_bytes) == 0) {
		file->unstable_end = 0;
		file->unstable_epoch = 0;
	}
	pthread_mutex_unlock(&file->lock);
	return end;
}

static struct run *unstable_runs(struct stripe_file *file)
{
	pthread_mutex_lock(&file->lock);
	struct run *runs = file->unstable;
	pthread_mutex_unlock(&file->lock);
	return runs;
}

/*
 * For when all that was written unstably is to be sent again. Before the verifier changes: what is
 * noted later may be answered with the new one, and is not sent again then.
 */
static void unstable_forget_end(struct stripe_file *file)
{
	pthread_mutex_lock(&file->lock);
	file->unstable_end = 0;
	file->unstable_epoch = 0;
	file->committing_end = 0;
	pthread_mutex_unlock(&file->lock);
}

static int commit_locked(struct stripe_file *file)
{
	struct range_hold hold;
	uint64_t first, last, end;
	uint32_t write_epoch;
	int error = 0;

	struct run *runs = unstable_runs(file);
	if (runs) {
		/*
		 * Between the flush and the booking nobody may replace these versions, as they
		 * would any that is not decided; and nobody may take them for decided before, as
		 * what is on neither list. What has replaced some of them until the range was ours
		 * is committed with them: their bytes are in it, and only in it.
		 */
		runs_extent(file, runs, &first, &last);
		while (true) {
			uint64_t all_first, all_last;

			range_acquire(&file->ranges, &hold, first, last, false);
			/* New runs come in at the head; from here to the end only we change the
			 * list. */
			runs = unstable_runs(file);
			runs_extent(file, runs, &all_first, &all_last);
			if (all_first >= first && all_last <= last)
				break;
			range_release(&file->ranges, &hold);
			/* A writer that goes through the file must not be run after. */
			first = all_first < first ? 0 : first;
			last = all_last > last ? UINT64_MAX : last;
		}
		end = unstable_take(file, runs, &write_epoch);
		error = commit_runs(file, runs);
		range_release(&file->ranges, &hold);
	} else {
		/* A commit that came between a write and its note of the end has left that to us.
		 */
		end = unstable_take(file, NULL, &write_epoch);
	}
	if (!error && end)
		error = file_report_size(file, end, write_epoch);
	if (error == -EAGAIN) {
		/*
		 * Truncated since, or discarded by somebody who could not tell what became of it:
		 * the clients are to send again what they think is there.
		 */
		uint32_t layout_epoch = stripe_file_layout_epoch(file);
		unstable_forget_end(file);
		error = file_learn_epoch(file, &layout_epoch);
		atomic_fetch_add(&file->stripe->verifier, 1);
		return error;
	}
	if (error) {
		/*
		 * What was written unstably may be gone. The new verifier makes clients send it
		 * again (RFC 1813 section 3.3.21).
		 */
		unstable_forget_end(file);
		atomic_fetch_add(&file->stripe->verifier, 1);
	}
	return error;
}

int stripe_commit(struct stripe_file *file)
{
	/* Others' commits count. */
	uint64_t give_up_us = attempts_end(file->stripe);

	pthread_mutex_lock(&file->commit_lock);
	int lost = gather_commit(file, give_up_us);
	int error = commit_locked(file);
	pthread_mutex_lock(&file->lock);
	file->committing_end = 0;
	pthread_mutex_unlock(&file->lock);
	pthread_mutex_unlock(&file->commit_lock);
	return error ? error : lost;
}
