/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Healing in the background: goes through the store's record of missed writes and makes the shards
 * that nodes missed, once those nodes are back.
 */
#ifndef ROZO_STORAGED_HEALER_H
#define ROZO_STORAGED_HEALER_H

#include "storaged/store.h"
#include "stripe/stripe.h"

struct healer;

/* Starts the thread. store and stripe must outlive it. Returns 0, -ENOMEM or -EAGAIN. */
int healer_start(struct healer **healer, struct store *store, struct stripe *stripe);

/* Stops after the blocks at hand and frees the healer. */
void healer_stop(struct healer *healer);

#endif
