/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See periodic.h. The clock is the monotonic one, so that setting the time does not stall nodes. */
#include "storaged/periodic.h"

#include <errno.h>
#include <time.h>

/* Waits with the lock held, until the time is up or the thread is to end. */
static void wait_locked(struct periodic *periodic, unsigned int wait_ms)
{
	struct timespec until;
	int waited = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!periodic->stopping && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&periodic->wake, &periodic->lock, &until);
}

void periodic_wait(struct periodic *periodic, unsigned int wait_ms)
{
	pthread_mutex_lock(&periodic->lock);
	wait_locked(periodic, wait_ms);
	pthread_mutex_unlock(&periodic->lock);
}

static void *run(void *argument)
{
	struct periodic *periodic = argument;

	pthread_mutex_lock(&periodic->lock);
	while (!periodic->stopping) {
		pthread_mutex_unlock(&periodic->lock);
		periodic->work(periodic->context);
		pthread_mutex_lock(&periodic->lock);
		wait_locked(periodic, periodic->interval_ms);
	}
	pthread_mutex_unlock(&periodic->lock);
	return NULL;
}

int periodic_start(struct periodic *periodic, unsigned int interval_ms, void (*work)(void *context),
	void *context)
{
	pthread_condattr_t attributes;

	*periodic = (struct periodic){.interval_ms = interval_ms, .work = work, .context = context};
	pthread_mutex_init(&periodic->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&periodic->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	return -pthread_create(&periodic->thread, NULL, run, periodic);
}

bool periodic_stopping(struct periodic *periodic)
{
	pthread_mutex_lock(&periodic->lock);
	bool stopping = periodic->stopping;
	pthread_mutex_unlock(&periodic->lock);
	return stopping;
}

void periodic_stop(struct periodic *periodic)
{
	pthread_mutex_lock(&periodic->lock);
	periodic->stopping = true;
	pthread_cond_signal(&periodic->wake);
	pthread_mutex_unlock(&periodic->lock);
	pthread_join(periodic->thread, NULL);
	pthread_cond_destroy(&periodic->wake);
	pthread_mutex_destroy(&periodic->lock);
}
