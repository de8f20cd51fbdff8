/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See rate.h: a bucket of bytes that fills at the rate of the moment. Takes no locks. */
#include "storaged/rate.h"

#include <stdbool.h>

#include "storaged/clock.h"

/* A change of the rate counts after so long. */
#define SLICE_MS 200
#define SECOND_US 1000000

/* Adds what has become free since the last time. Returns the bytes per second, 0: no limit. */
static int64_t fill(struct rate *rate)
{
	int64_t per_second = (int64_t)atomic_load(&rate->mib_per_second) << 20;
	int64_t now = clock_now_us(), passed = now - rate->filled_us;

	if (passed > SECOND_US)
		passed = SECOND_US;
	rate->filled_us = now;
	rate->credit_bytes += per_second * passed / SECOND_US;
	if (rate->credit_bytes > per_second)
		rate->credit_bytes = per_second;
	return per_second;
}

void rate_pay(struct rate *rate, struct periodic *periodic, uint64_t bytes)
{
	int64_t per_second = fill(rate);

	rate->credit_bytes -= (int64_t)bytes;
	while (per_second && rate->credit_bytes < 0 && !periodic_stopping(periodic)) {
		int64_t wait_ms = -rate->credit_bytes * 1000 / per_second + 1;

		periodic_wait(periodic, wait_ms < SLICE_MS ? (unsigned int)wait_ms : SLICE_MS);
		per_second = fill(rate);
	}
	if (!per_second)
		rate->credit_bytes = 0;
}
