/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See gateway_watch.h. */
#include "storaged/gateway_watch.h"

#include "rpc/log.h"
#include "storaged/clock.h"
#include "storaged/store.h"

#define INTERVAL_MS 1000

/* On the stack of whoever calls. */
struct watched_call {
	struct watched_call *older, *newer;
	int64_t begun_ms;
};

void gateway_watch_init(struct gateway_watch *watch, void *store, unsigned int patience_ms)
{
	*watch = (struct gateway_watch){.store = store, .patience_ms = patience_ms};
	pthread_mutex_init(&watch->lock, NULL);
}

void gateway_watch_destroy(struct gateway_watch *watch)
{
	pthread_mutex_destroy(&watch->lock);
}

void gateway_watch_call(void *context, uint32_t procedure, const void *args, void *result)
{
	struct gateway_watch *watch = context;
	struct watched_call call = {0};

	pthread_mutex_lock(&watch->lock);
	call.begun_ms = clock_now_ms();
	call.older = watch->newest;
	*(call.older ? &call.older->newer : &watch->oldest) = &call;
	watch->newest = &call;
	pthread_mutex_unlock(&watch->lock);
	store_local_call(watch->store, procedure, args, result);
	pthread_mutex_lock(&watch->lock);
	*(call.older ? &call.older->newer : &watch->oldest) = call.newer;
	*(call.newer ? &call.newer->older : &watch->newest) = call.older;
	pthread_mutex_unlock(&watch->lock);
}

static void look(void *context)
{
	struct gateway_watch *watch = context;

	pthread_mutex_lock(&watch->lock);
	bool hangs = watch->oldest &&
		     clock_now_ms() - watch->oldest->begun_ms >= (int64_t)watch->patience_ms;
	pthread_mutex_unlock(&watch->lock);
	if (hangs == watch->suspended)
		return;
	watch->suspended = hangs;
	if (hangs)
		rozo_log(ERROR,
			"this node's own store has not carried out a call for %u s: a disk hangs; "
			"until it goes on NFS clients are left to other gateways",
			watch->patience_ms / 1000);
	else
		rozo_log(INFO, "this node's own store goes on; NFS clients are served again");
	rpc_server_suspend(watch->server, hangs);
}

int gateway_watch_start(struct gateway_watch *watch, struct rpc_server *server)
{
	unsigned int interval_ms = watch->patience_ms / 4;

	watch->server = server;
	return periodic_start(&watch->periodic,
		interval_ms < INTERVAL_MS ? interval_ms : INTERVAL_MS, look, watch);
}

void gateway_watch_stop(struct gateway_watch *watch)
{
	periodic_stop(&watch->periodic);
}
