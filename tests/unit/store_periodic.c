/* SPDX-License-Identifier: LGPL-3.0-or-later */
#include "store_periodic.h"

#include <time.h>

#include "storaged/periodic.h"

int64_t periodic_now_ms;
unsigned int periodic_each_wait_ms;

static void (*work)(void *context);
static void *work_context;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){.tv_sec = periodic_now_ms / 1000,
		.tv_nsec = (long)(periodic_now_ms % 1000) * 1000000};
	return 0;
}

int periodic_start(struct periodic *periodic, unsigned int interval_ms,
	void (*work_function)(void *), void *context)
{
	(void)periodic;
	(void)interval_ms;
	work = work_function;
	work_context = context;
	return 0;
}

void periodic_wait(struct periodic *periodic, unsigned int wait_ms)
{
	(void)periodic;
	periodic_now_ms += periodic_each_wait_ms ? periodic_each_wait_ms : wait_ms;
}

bool periodic_stopping(struct periodic *periodic)
{
	(void)periodic;
	return false;
}

void periodic_stop(struct periodic *periodic)
{
	(void)periodic;
}

void periodic_work(void)
{
	work(work_context);
}
