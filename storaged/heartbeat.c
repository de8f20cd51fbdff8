/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See heartbeat.h. Two threads: heartbeats do not wait for removals, which wait for disks, the
 * node's and exportd's.
 */
#include "storaged/heartbeat.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "rpc/meta.h"
#include "storaged/clock.h"
#include "storaged/periodic.h"

#define INTERVAL_MS 1000
/* Shorter than exportd's patience, so that one lost call does not take the node down. */
#define CALL_TIMEOUT_MS 2000
#define FREE_TIMEOUT_MS 10000
#define DEVICES_MAX 256
#define REMOVING_MS 500 /* at a time, and the removal at hand */
#define WALK_MS 10000 /* from one walk's beginning to the next one's, at least */

/* A walk through the list of what exportd wants removed. */
struct free_walk {
	uint64_t first; /* sequence of the item to go on with */
	bool ended; /* there were no more from there on */
	uint64_t out_of_reach; /* perhaps on a device that is out of service, and nowhere else */
	uint64_t strays_removed, strays_failed;
};

/* Items of the list that were removed, of which exportd may not have heard. */
struct untold {
	uint32_t count;
	uint64_t sequences[META_FREE_MAX];
};

struct heartbeat {
	struct periodic periodic;
	struct periodic removing;
	struct store *store;
	struct stripe *stripe;
	struct work *work;
	uint32_t node_id;
	atomic_bool free_waiting; /* exportd wants something removed */
	/* Only the thread that removes uses these. */
	struct free_walk walk;
	struct untold untold;
	int64_t walk_again_ms;
	bool told_out_of_reach;
	/* Only the other one uses what follows. */
	bool answered; /* the last heartbeat was */
	uint64_t servers; /* as it told */
	struct store_capacity capacity[DEVICES_MAX];
	meta_device devices[DEVICES_MAX];
};

/* Tells exportd what was removed. Returns 0, or why it does not say that it knows. */
static int tell_freed(struct rpc_client *meta, uint32_t node_id, struct untold *untold)
{
	meta_freed_args freed = {.node = node_id,
		.sequences = {.sequences_len = untold->count, .sequences_val = untold->sequences}};
	meta_status_res result = {0};

	if (!untold->count)
		return 0;
	int error = rpc_call(meta, META_FREED, RPC_XDR(xdr_meta_freed_args), &freed,
		RPC_XDR(xdr_meta_status_res), &result, FREE_TIMEOUT_MS);
	if (error)
		return error;
	error = -(int)result.status;
	rpc_free(RPC_XDR(xdr_meta_status_res), &result);
	if (!error)
		untold->count = 0;
	return error;
}

/*
 * Removes store files of removed files, and of what other nodes have taken over: those of a page of
 * exportd's list, from walk->first on, as far as it comes in REMOVING_MS. Tells exportd which ones
 * are gone for good. Returns 0, or why exportd's list cannot be had.
 */
static int free_page(struct free_walk *walk, struct untold *untold, struct store *store,
	struct stripe *stripe, uint32_t node_id)
{
	struct rpc_client *meta = stripe_meta(stripe);
	meta_free_args ask = {.node = node_id, .first = walk->first};
	meta_free_res page = {0};
	/*
	 * First, so that none of them is in the list: exportd may have heard of it behind that, and
	 * have given this node a shard of the same segment. It would be removed.
	 */
	int error = tell_freed(meta, node_id, untold);

	if (!error)
		error = rpc_call(meta, META_FREE_LIST, RPC_XDR(xdr_meta_free_args), &ask,
			RPC_XDR(xdr_meta_free_res), &page, FREE_TIMEOUT_MS);
	if (error)
		return error;
	error = -(int)page.status;
	uint32_t items = error ? 0 : page.items.items_len, done = 0;
	int64_t end_ms = clock_now_ms() + REMOVING_MS;
	for (; done < items && untold->count < META_FREE_MAX && clock_now_ms() < end_ms; done++) {
		const meta_free_item *item = &page.items.items_val[done];
		store_remove_args args = {.file = {.export_id = item->export_id,
						  .segment = item->segment,
						  .file_id = item->file_id}};
		store_status_res result = {0};

		/* Of a file that goes on, the gateway may have unstable bytes. */
		if (!item->stray)
			stripe_file_forget(stripe, item->export_id, item->file_id);
		store_remove(store, &args, &result);
		walk->first = item->sequence + 1;
		/* What is left of a file that is gone is an orphan; of one that goes on the node
		 * may be given the segment again. */
		if (result.status == 0 || (result.status == EXDEV && !item->stray)) {
			untold->sequences[untold->count++] = item->sequence;
			walk->strays_removed += item->stray;
		} else if (result.status == ENODEV || result.status == EXDEV) {
			walk->out_of_reach++;
		} else {
			walk->strays_failed += item->stray;
			rozo_log_limited(ERROR,
				"removing file %" PRIu32 "/%" PRIu64 " segment %" PRIu32
				": %s; will be tried again",
				item->export_id, item->file_id, item->segment,
				strerror((int)result.status));
		}
	}
	walk->ended = !error && done == items && items < META_FREE_MAX;
	rpc_free(RPC_XDR(xdr_meta_free_res), &page);
	/* What exportd does not hear it is told again. */
	(void)tell_freed(meta, node_id, untold);
	return error;
}

static void tell_out_of_reach(uint64_t count)
{
	rozo_log(WARNING,
		"up to %" PRIu64 " store files that are to be removed may be on the device that is "
		"out of service: they are removed when it is back and rozo-storaged restarted",
		count);
}

/*
 * What can be removed in half a second, since who stops the node waits for it: each removal may
 * have to wait for a flush. Behind the last page there is only what is new.
 */
static void free_some(void *context)
{
	struct heartbeat *heartbeat = context;
	struct free_walk *walk = &heartbeat->walk;
	int64_t now_ms = clock_now_ms();

	if (!atomic_load(&heartbeat->free_waiting))
		return;
	if (walk->ended && now_ms >= heartbeat->walk_again_ms)
		*walk = (struct free_walk){0};
	if (walk->first == 0)
		heartbeat->walk_again_ms = now_ms + WALK_MS;
	/* What is left over is tried again in a second. */
	if (free_page(walk, &heartbeat->untold, heartbeat->store, heartbeat->stripe,
		    heartbeat->node_id) ||
		!walk->ended)
		return;
	if (walk->out_of_reach && !heartbeat->told_out_of_reach)
		tell_out_of_reach(walk->out_of_reach);
	heartbeat->told_out_of_reach = walk->out_of_reach != 0;
}

static void beat(void *context)
{
	struct heartbeat *heartbeat = context;
	meta_heartbeat_res result = {0};
	size_t count = store_capacity(heartbeat->store, heartbeat->capacity, DEVICES_MAX);

	for (size_t i = 0; i < count; i++)
		heartbeat->devices[i] = (meta_device){
			.path = (char *)heartbeat->capacity[i].path,
			.total_bytes = heartbeat->capacity[i].total_bytes,
			.free_bytes = heartbeat->capacity[i].free_bytes,
			.failed = !heartbeat->capacity[i].in_service,
		};
	meta_heartbeat_args args = {
		.node = heartbeat->node_id,
		.boot = store_boot(heartbeat->store),
		.devices = {.devices_len = (uint32_t)count, .devices_val = heartbeat->devices},
	};
	work_copy(heartbeat->work, &args.work);
	int error = rpc_call(stripe_meta(heartbeat->stripe), META_HEARTBEAT,
		RPC_XDR(xdr_meta_heartbeat_args), &args, RPC_XDR(xdr_meta_heartbeat_res), &result,
		CALL_TIMEOUT_MS);
	free(args.work.missed.missed_val);
	if (error) {
		if (heartbeat->answered)
			rozo_log(WARNING, "exportd does not answer: %s", strerror(-error));
		heartbeat->answered = false;
		return;
	}
	if (result.status == 0 && !heartbeat->answered)
		rozo_log(INFO, "exportd answers");
	if (result.status)
		rozo_log_limited(ERROR,
			"exportd does not know node %u: is its cluster.json the same as ours?",
			heartbeat->node_id);
	heartbeat->answered = result.status == 0;
	if (result.status == 0 && result.servers != heartbeat->servers) {
		heartbeat->servers = result.servers;
		stripe_doubt_layouts(heartbeat->stripe);
	}
	atomic_store(&heartbeat->free_waiting, result.free_waiting);
	atomic_store(&heartbeat->work->rebuild_waiting, result.rebuild_waiting);
	atomic_store(&heartbeat->work->truncations_waiting, result.truncations_waiting);
	rpc_free(RPC_XDR(xdr_meta_heartbeat_res), &result);
}

int heartbeat_admission(uint32_t node_id, struct store *store, struct stripe *stripe)
{
	meta_heartbeat_args args = {.node = node_id, .boot = store_boot(store), .starting = 1};
	meta_heartbeat_res result = {0};
	int error = rpc_call(stripe_meta(stripe), META_HEARTBEAT, RPC_XDR(xdr_meta_heartbeat_args),
		&args, RPC_XDR(xdr_meta_heartbeat_res), &result, CALL_TIMEOUT_MS);

	if (error)
		return error;
	uint32_t status = result.status;
	bool strays = result.strays_waiting;
	rpc_free(RPC_XDR(xdr_meta_heartbeat_res), &result);
	if (status || !strays)
		return -(int)status;
	struct free_walk walk = {0};
	struct untold untold = {0};
	while (!error && !walk.ended)
		error = free_page(&walk, &untold, store, stripe, node_id);
	/* Of those that were removed exportd may not have heard: it is asked again. */
	if (error || walk.strays_removed || walk.strays_failed || !walk.out_of_reach)
		return -EAGAIN;
	/* As long as that device is out of service, store files that are not found answer EIO. */
	tell_out_of_reach(walk.out_of_reach);
	return 0;
}

int heartbeat_start(struct heartbeat **result, uint32_t node_id, struct store *store,
	struct stripe *stripe, struct work *work)
{
	struct heartbeat *heartbeat = calloc(1, sizeof(*heartbeat));

	if (!heartbeat)
		return -ENOMEM;
	heartbeat->node_id = node_id;
	heartbeat->store = store;
	heartbeat->stripe = stripe;
	heartbeat->work = work;
	int error = periodic_start(&heartbeat->removing, INTERVAL_MS, free_some, heartbeat);
	if (error) {
		free(heartbeat);
		return error;
	}
	error = periodic_start(&heartbeat->periodic, INTERVAL_MS, beat, heartbeat);
	if (error) {
		periodic_stop(&heartbeat->removing);
		free(heartbeat);
		return error;
	}
	*result = heartbeat;
	return 0;
}

void heartbeat_stop(struct heartbeat *heartbeat)
{
	periodic_stop(&heartbeat->removing);
	periodic_stop(&heartbeat->periodic);
	free(heartbeat);
}
