/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Short time slices for threads that answer calls.
 *
 * Since Linux 6.6 a thread that has begun its slice (3 ms, rounded up to a timer tick) is not
 * interrupted for another that wakes up, be its weight what it may. A flush is two or three short
 * waits, and each of them may be followed by such a slice of somebody else's: a transaction of
 * exportd then takes 10 ms instead of 0.5. Who asked for a shorter slice than the running thread's
 * is let in at once (EEVDF's custom slices, sched_attr.sched_runtime of a SCHED_NORMAL thread).
 */
#include "rpc/slice.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS 200000 /* longer than nearly all calls take, without their waits */

void rpc_thread_wants_short_slices(void)
{
	struct sched_attr attributes = {.size = sizeof(attributes)};

	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0 ||
		attributes.sched_policy != SCHED_NORMAL)
		return;
	/* The kernel says what it has: niceness stays as it is. */
	attributes.size = sizeof(attributes);
	attributes.sched_flags = 0;
	attributes.sched_runtime = SLICE_NS;
	attributes.sched_deadline = attributes.sched_period = 0;
	(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}
