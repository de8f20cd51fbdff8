/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The node's talk with exportd: a heartbeat with the devices' capacity each second, and the removal
 * of store files whose files are gone, when exportd says there are any.
 */
#ifndef ROZO_STORAGED_HEARTBEAT_H
#define ROZO_STORAGED_HEARTBEAT_H

#include "storaged/store.h"
#include "storaged/work.h"
#include "stripe/stripe.h"

struct heartbeat;

/* Starts the threads. Everything must outlive it. Returns 0 or -ENOMEM or -EAGAIN. */
int heartbeat_start(struct heartbeat **heartbeat, uint32_t node_id, struct store *store,
	struct stripe *stripe, struct work *work);

/*
 * Asks exportd, before the node serves, whether its store may have shards that others have taken
 * over while it was out of the cluster, and removes them. One attempt. Those that may only be on a
 * device that is out of service do not matter: they are not served.
 * Returns 0 (it may serve), -EAGAIN (some may be left: ask again), -ENOENT (exportd does not know
 * the node), or an error of rpc_call() (exportd does not answer).
 */
int heartbeat_admission(uint32_t node_id, struct store *store, struct stripe *stripe);

/* Stops the threads, at the latest after some calls' time, and frees it. */
void heartbeat_stop(struct heartbeat *heartbeat);

#endif
