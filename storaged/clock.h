/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The time since some start, for how long something takes or is to wait. Setting the machine's
 * clock does not change it.
 */
#ifndef ROZO_STORAGED_CLOCK_H
#define ROZO_STORAGED_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static inline int64_t clock_now_ms(void)
{
	return clock_now_us() / 1000;
}

#endif
