/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Scrubbing in the background, at a bounded rate, again and again: reads all that lies in this
 * node's store and has what is damaged made anew from other nodes; compares whole blocks with the
 * other nodes and has what lags behind without anybody knowing brought up to date; looks for store
 * files that nobody needs any more.
 */
#ifndef ROZO_STORAGED_SCRUBBER_H
#define ROZO_STORAGED_SCRUBBER_H

#include "storaged/store.h"
#include "storaged/work.h"
#include "stripe/stripe.h"

struct scrubber;

struct scrubber_options {
	uint32_t node_id;
	const char *const *devices; /* as of store_open(); must live as long as the scrubber */
	size_t device_count;
	uint32_t mib_per_second; /* 0: off */
	uint32_t interval_s; /* from the start of a pass to that of the next, at least */
};

/*
 * Starts the thread, which begins its first pass at once. store, stripe and work must outlive it.
 * Returns 0, -ENOMEM or -EAGAIN.
 */
int scrubber_start(struct scrubber **scrubber, struct store *store, struct stripe *stripe,
	struct work *work, const struct scrubber_options *options);

/* Changes rate and interval, as in the options; they count at once. */
void scrubber_set_rate(struct scrubber *scrubber, uint32_t mib_per_second, uint32_t interval_s);

/* Stops after the blocks at hand and frees the scrubber. */
void scrubber_stop(struct scrubber *scrubber);

#endif
