/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Scrubbing in the background: reads all that lies in this node's store, again and again, at a
 * bounded rate, and has what is damaged made anew from other nodes.
 */
#ifndef ROZO_STORAGED_SCRUBBER_H
#define ROZO_STORAGED_SCRUBBER_H

#include "storaged/store.h"
#include "stripe/stripe.h"

struct scrubber;

/*
 * Starts the thread, which begins its first pass at once. mib_per_second: the rate, at least 1.
 * store and stripe must outlive it. Returns 0, -ENOMEM or -EAGAIN.
 */
int scrubber_start(struct scrubber **scrubber, struct store *store, struct stripe *stripe,
	uint32_t mib_per_second);

/* Stops after the blocks at hand and frees the scrubber. */
void scrubber_stop(struct scrubber *scrubber);

#endif
