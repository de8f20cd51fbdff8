/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Group commit: changes asked for by many threads at once share one durable commit.
 *
 * The first thread to arrive leads: it takes everything that waits, executes each operation in a
 * transaction nested in one write transaction, commits that durably and wakes the others. While it
 * does, the next arrivals gather behind it and are led by the first of them. An operation that
 * fails is undone alone.
 */
#ifndef ROZO_EXPORTD_COMMIT_H
#define ROZO_EXPORTD_COMMIT_H

#include <stdint.h>

#include "exportd/kv.h"

struct commit;

/*
 * Changes the store in txn. Runs in whichever thread leads, one operation at a time.
 * Returns 0; 1: there is nothing to change; or a negative errno. Unless it is 0 nothing of it
 * stays.
 */
typedef int (*commit_operation)(struct kv_txn *txn, void *context);

/* Returns a group commit over kv, freed with commit_destroy(), or NULL if memory is short. */
struct commit *commit_create(struct kv *kv);

/* No commit_execute() may be running. NULL is allowed. */
void commit_destroy(struct commit *commit);

/*
 * Executes one operation and returns when its outcome is durable.
 * Returns what the operation returned, or, if the transaction could not be begun or committed, an
 * error of kv_begin() or kv_commit(); then too nothing stays.
 * An operation that returned 0 or 1 has been executed; whatever it left in its context counts only
 * if commit_execute() returns that, too.
 */
int commit_execute(struct commit *commit, commit_operation operation, void *context);

/*
 * When the group that is being committed began (clock_now_ns(), monotonic); 0: none is. Whoever
 * waits waits for that one, so an old one tells that the disk hangs. Takes no locks.
 */
uint64_t commit_began_ns(const struct commit *commit);

/* How many operations and how many durable commits there have been; their ratio is the gain. */
void commit_counts(struct commit *commit, uint64_t *operations, uint64_t *commits);

#endif
