/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A clock and a thread that are made up, for what storaged/ does from time to time: the clock
 * stands but for waits, and the test calls the thread's work. Link with --wrap=clock_gettime and
 * without storaged/periodic.c.
 */
#ifndef ROZO_TEST_STORE_PERIODIC_H
#define ROZO_TEST_STORE_PERIODIC_H

#include <stdint.h>

/* What all clocks tell. */
extern int64_t periodic_now_ms;

/* How long each wait takes; 0: as long as it is to. */
extern unsigned int periodic_each_wait_ms;

/* What the thread started last would do at each interval. */
void periodic_work(void);

#endif
