/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Sees to it that NFS clients do not wait for the disks of this very node.
 *
 * The gateway's engine calls the store of its own process in the thread of the client's call, and
 * for as long as the disk takes; other nodes' stores it gives up after 5 s. When such a call has
 * lasted for too long the service of the gateway is suspended: to clients it is a gateway that has
 * died, and they go on through others at once, which do without this store. When the disk is back,
 * so is the gateway.
 */
#ifndef ROZO_STORAGED_GATEWAY_WATCH_H
#define ROZO_STORAGED_GATEWAY_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "rpc/rpc.h"
#include "storaged/periodic.h"

struct watched_call;

struct gateway_watch {
	void *store;
	unsigned int patience_ms;
	struct periodic periodic;
	struct rpc_server *server;
	bool suspended; /* its thread only */
	pthread_mutex_t lock; /* guards the calls under way, in the order in which they began */
	struct watched_call *oldest, *newest;
};

/* store: of store_local_call(). */
void gateway_watch_init(struct gateway_watch *watch, void *store, unsigned int patience_ms);
void gateway_watch_destroy(struct gateway_watch *watch);

/* store_local_call(), watched: what the engine calls (stripe_local_call). */
void gateway_watch_call(void *watch, uint32_t procedure, const void *args, void *result);

/* server: the gateway's. Returns 0 or -EAGAIN. */
int gateway_watch_start(struct gateway_watch *watch, struct rpc_server *server);

/* Before the server is stopped. */
void gateway_watch_stop(struct gateway_watch *watch);

#endif
