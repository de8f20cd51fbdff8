/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Group commit with a leader.
 *
 * commit->mutex guards the queue, `leading` and the counters; it is never held while the store is
 * used. A waiting operation lies on its caller's stack; once it is done and signalled the leader
 * does not touch it any more (both happen under the mutex).
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "exportd/clock.h"
#include "exportd/commit.h"

/* Bounds the pages that one transaction can change, and the time until the first is answered. */
#define COMMIT_GROUP_MAX 256

struct commit_waiter {
	struct commit_waiter *next;
	commit_operation operation;
	void *context;
	int result;
	bool done;
	bool lead; /* it is this waiter's turn to lead */
	pthread_cond_t changed;
};

struct commit {
	struct kv *kv;
	pthread_mutex_t mutex;
	struct commit_waiter *first; /* waiting, in order of arrival */
	struct commit_waiter **last;
	bool leading; /* a leader is at work */
	_Atomic uint64_t began_ns; /* since then, or 0 */
	uint64_t operations;
	uint64_t commits;
};

struct commit *commit_create(struct kv *kv)
{
	struct commit *commit = calloc(1, sizeof(*commit));

	if (commit == NULL)
		return NULL;
	commit->kv = kv;
	pthread_mutex_init(&commit->mutex, NULL);
	commit->last = &commit->first;
	return commit;
}

void commit_destroy(struct commit *commit)
{
	if (commit == NULL)
		return;
	pthread_mutex_destroy(&commit->mutex);
	free(commit);
}

/* One operation alone needs no nesting: if it fails, the whole transaction does. */
static void commit_one(struct commit *commit, struct commit_waiter *waiter)
{
	struct kv_txn *txn;

	waiter->result = kv_begin(commit->kv, KV_WRITE, NULL, &txn);
	if (waiter->result != 0)
		return;
	waiter->result = waiter->operation(txn, waiter->context);
	if (waiter->result == 0)
		waiter->result = kv_commit(txn);
	else
		kv_abort(txn);
}

static void commit_group(struct commit *commit, struct commit_waiter *group)
{
	struct kv_txn *outer, *nested;
	struct commit_waiter *waiter;
	bool changed = false;
	int result;

	result = kv_begin(commit->kv, KV_WRITE, NULL, &outer);
	if (result != 0)
		goto failed;
	for (waiter = group; waiter != NULL; waiter = waiter->next) {
		waiter->result = kv_begin(commit->kv, KV_WRITE, outer, &nested);
		if (waiter->result != 0)
			continue;
		waiter->result = waiter->operation(nested, waiter->context);
		if (waiter->result == 0)
			waiter->result = kv_commit(nested);
		else
			kv_abort(nested);
		changed = changed || waiter->result == 0;
	}
	if (!changed) {
		kv_abort(outer);
		return;
	}
	result = kv_commit(outer);
	if (result == 0)
		return;
failed:
	/* Those that failed by themselves, too: their reason may be what is lost. */
	for (waiter = group; waiter != NULL; waiter = waiter->next)
		waiter->result = result;
}

/* Takes up to COMMIT_GROUP_MAX waiters off the queue. Called with the mutex held. */
static struct commit_waiter *commit_take(struct commit *commit, unsigned int *count)
{
	struct commit_waiter *group = commit->first;
	struct commit_waiter *tail = group;

	for (*count = 1; *count < COMMIT_GROUP_MAX && tail->next != NULL; ++*count)
		tail = tail->next;
	commit->first = tail->next;
	if (commit->first == NULL)
		commit->last = &commit->first;
	tail->next = NULL;
	return group;
}

int commit_execute(struct commit *commit, commit_operation operation, void *context)
{
	struct commit_waiter self = {.operation = operation, .context = context};
	struct commit_waiter *group, *waiter, *next;
	unsigned int count;

	pthread_cond_init(&self.changed, NULL);
	pthread_mutex_lock(&commit->mutex);
	*commit->last = &self;
	commit->last = &self.next;
	if (commit->leading) {
		while (!self.done && !self.lead)
			pthread_cond_wait(&self.changed, &commit->mutex);
		if (self.done)
			goto out;
	}
	commit->leading = true;
	/* The leader is the first in the queue, hence in its group. */
	group = commit_take(commit, &count);
	pthread_mutex_unlock(&commit->mutex);

	atomic_store(&commit->began_ns, clock_now_ns(CLOCK_KIND_MONOTONIC));
	if (count == 1)
		commit_one(commit, group);
	else
		commit_group(commit, group);
	atomic_store(&commit->began_ns, 0);

	pthread_mutex_lock(&commit->mutex);
	commit->operations += count;
	commit->commits++;
	for (waiter = group; waiter != NULL; waiter = next) {
		next = waiter->next;
		waiter->done = true;
		if (waiter != &self)
			pthread_cond_signal(&waiter->changed);
	}
	if (commit->first != NULL) {
		commit->first->lead = true;
		pthread_cond_signal(&commit->first->changed);
	} else {
		commit->leading = false;
	}
out:
	pthread_mutex_unlock(&commit->mutex);
	pthread_cond_destroy(&self.changed);
	return self.result;
}

uint64_t commit_began_ns(const struct commit *commit)
{
	return atomic_load(&commit->began_ns);
}

void commit_counts(struct commit *commit, uint64_t *operations, uint64_t *commits)
{
	pthread_mutex_lock(&commit->mutex);
	*operations = commit->operations;
	*commits = commit->commits;
	pthread_mutex_unlock(&commit->mutex);
}
