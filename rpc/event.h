/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Who runs the reactor of the process's clients (rpc_event of rpc.h is for its callers).
 */
#ifndef ROZO_RPC_EVENT_H
#define ROZO_RPC_EVENT_H

#include "rpc/reactor.h"
#include "rpc/rpc.h"

#pragma GCC visibility push(hidden)

/*
 * Has a reactor run from now on: by those who wait for events, and by a thread of its own when
 * nobody does. There is one at a time. Returns 0 or -EAGAIN (no thread).
 */
int events_start(struct reactor *reactor);

/* Ends that. Nobody runs the reactor any more on return. Not from a callback. */
void events_stop(void);

/* Counts calls that are under way: while there are some, somebody runs the reactor. */
void events_expect(int more);

#pragma GCC visibility pop

#endif
