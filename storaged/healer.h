/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Healing in the background: what nodes missed while they were away is made from other shards when
 * they are back, and what this node has taken over from nodes that are out is made here. The most
 * endangered blocks come first, and all of it at a bounded rate.
 */
#ifndef ROZO_STORAGED_HEALER_H
#define ROZO_STORAGED_HEALER_H

#include "storaged/store.h"
#include "storaged/work.h"
#include "stripe/stripe.h"

struct healer;

/*
 * Starts the thread. store, stripe and work must outlive it. mib_per_second: of shards written, 0:
 * no limit. Returns 0, -ENOMEM or -EAGAIN.
 */
int healer_start(struct healer **healer, uint32_t node_id, struct store *store,
	struct stripe *stripe, struct work *work, uint32_t mib_per_second);

/* Changes the rate; it counts at once. */
void healer_set_rate(struct healer *healer, uint32_t mib_per_second);

/* Stops after the blocks at hand and frees the healer. */
void healer_stop(struct healer *healer);

#endif
