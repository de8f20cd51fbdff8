/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A limit on how fast a background thread works, which may be changed while it does.
 */
#ifndef ROZO_STORAGED_RATE_H
#define ROZO_STORAGED_RATE_H

#include <stdatomic.h>
#include <stdint.h>

#include "storaged/periodic.h"

struct rate {
	_Atomic uint32_t mib_per_second; /* 0: no limit */
	/* Only the working thread uses the rest. */
	int64_t credit_bytes; /* below 0: worked ahead */
	int64_t filled_us; /* monotonic; when credit was last added */
};

/*
 * Waits until the rate allows for what has been done, bytes of it, or the periodic is to end. What
 * was not used for a second at most may be made up for.
 */
void rate_pay(struct rate *rate, struct periodic *periodic, uint64_t bytes);

#endif
