/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A queue of holds: one may go on when nothing before it in the queue conflicts with it. Queues are
 * short (calls in flight on one file), so a list is enough.
 */
#include "stripe/range_lock.h"

#include <stddef.h>

void range_lock_init(struct range_lock *lock)
{
	pthread_mutex_init(&lock->mutex, NULL);
	pthread_cond_init(&lock->released, NULL);
	lock->oldest = NULL;
	lock->newest = &lock->oldest;
}

void range_lock_destroy(struct range_lock *lock)
{
	pthread_cond_destroy(&lock->released);
	pthread_mutex_destroy(&lock->mutex);
}

static bool must_wait(const struct range_lock *lock, const struct range_hold *hold)
{
	for (const struct range_hold *other = lock->oldest; other != hold; other = other->next) {
		if (other->first <= hold->last && hold->first <= other->last &&
			(other->exclusive || hold->exclusive))
			return true;
	}
	return false;
}

void range_acquire(struct range_lock *lock, struct range_hold *hold, uint64_t first, uint64_t last,
	bool exclusive)
{
	*hold = (struct range_hold){.first = first, .last = last, .exclusive = exclusive};
	pthread_mutex_lock(&lock->mutex);
	*lock->newest = hold;
	lock->newest = &hold->next;
	while (must_wait(lock, hold))
		pthread_cond_wait(&lock->released, &lock->mutex);
	pthread_mutex_unlock(&lock->mutex);
}

void range_release(struct range_lock *lock, struct range_hold *hold)
{
	pthread_mutex_lock(&lock->mutex);
	struct range_hold **link = &lock->oldest;
	while (*link != hold)
		link = &(*link)->next;
	*link = hold->next;
	if (lock->newest == &hold->next)
		lock->newest = link;
	pthread_cond_broadcast(&lock->released);
	pthread_mutex_unlock(&lock->mutex);
}
