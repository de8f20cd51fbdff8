/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Shared and exclusive locks on ranges of block numbers, first come first served.
 */
#ifndef ROZO_STRIPE_RANGE_LOCK_H
#define ROZO_STRIPE_RANGE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* One holder or waiter; lives on its thread's stack while locked. */
struct range_hold {
	struct range_hold *next;
	uint64_t first;
	uint64_t last; /* inclusive */
	bool exclusive;
};

struct range_lock {
	pthread_mutex_t mutex;
	pthread_cond_t released;
	struct range_hold *oldest, **newest; /* in order of arrival */
};

void range_lock_init(struct range_lock *lock);
void range_lock_destroy(struct range_lock *lock);

/* Waits until no earlier overlapping hold is left, unless both are shared. */
void range_acquire(struct range_lock *lock, struct range_hold *hold, uint64_t first, uint64_t last,
	bool exclusive);

void range_release(struct range_lock *lock, struct range_hold *hold);

#endif
