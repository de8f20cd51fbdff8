/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A thread that does something every so often until it is stopped.
 */
#ifndef ROZO_STORAGED_PERIODIC_H
#define ROZO_STORAGED_PERIODIC_H

#include <pthread.h>
#include <stdbool.h>

struct periodic {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stopping; /* guarded by lock */
	unsigned int interval_ms;
	void (*work)(void *context);
	void *context;
};

/* Calls work(context) at once and then interval_ms after each return. Returns 0 or -EAGAIN. */
int periodic_start(struct periodic *periodic, unsigned int interval_ms, void (*work)(void *context),
	void *context);

/* For work that has to wait: returns after wait_ms, or at once when work should come to an end. */
void periodic_wait(struct periodic *periodic, unsigned int wait_ms);

/* True if work should come to an end soon. */
bool periodic_stopping(struct periodic *periodic);

/* Waits for the work at hand and ends the thread. */
void periodic_stop(struct periodic *periodic);

#endif
