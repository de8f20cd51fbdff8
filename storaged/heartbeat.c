/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See heartbeat.h. */
#include "storaged/heartbeat.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "rpc/meta.h"
#include "storaged/periodic.h"

#define INTERVAL_MS 1000
/* Shorter than exportd's patience, so that one lost call does not take the node down. */
#define CALL_TIMEOUT_MS 2000
#define FREE_TIMEOUT_MS 10000
#define DEVICES_MAX 256

struct heartbeat {
	struct periodic periodic;
	struct store *store;
	struct stripe *stripe;
	struct work *work;
	uint32_t node_id;
	bool answered; /* the last heartbeat was; only the thread uses it */
	struct store_capacity capacity[DEVICES_MAX];
	meta_device devices[DEVICES_MAX];
};

/*
 * Removes store files of removed files, and of what other nodes have taken over, and tells exportd
 * which ones are gone for good.
 */
static void free_files(struct store *store, struct stripe *stripe, uint32_t node_id)
{
	struct rpc_client *meta = stripe_meta(stripe);
	meta_free_args ask = {.node = node_id};
	meta_free_res work = {0};

	int error = rpc_call(meta, META_FREE_LIST, RPC_XDR(xdr_meta_free_args), &ask,
		RPC_XDR(xdr_meta_free_res), &work, FREE_TIMEOUT_MS);
	if (error)
		return; /* the next heartbeat tells again */
	uint64_t *removed =
		calloc(work.items.items_len ? work.items.items_len : 1, sizeof(*removed));
	uint32_t count = 0;
	for (uint32_t i = 0; removed && i < work.items.items_len; i++) {
		const meta_free_item *item = &work.items.items_val[i];
		store_remove_args args = {.file = {.export_id = item->export_id,
						  .segment = item->segment,
						  .file_id = item->file_id}};
		store_status_res result = {0};

		/* Of a file that goes on, the gateway may have unstable bytes. */
		if (!item->stray)
			stripe_file_forget(stripe, item->export_id, item->file_id);
		store_remove(store, &args, &result);
		if (result.status == 0)
			removed[count++] = item->sequence;
		else
			rozo_log_limited(ERROR,
				"removing file %" PRIu32 "/%" PRIu64 " segment %" PRIu32
				": %s; will be tried again",
				item->export_id, item->file_id, item->segment,
				strerror((int)result.status));
	}
	rpc_free(RPC_XDR(xdr_meta_free_res), &work);
	if (count) {
		meta_freed_args done = {.node = node_id,
			.sequences = {.sequences_len = count, .sequences_val = removed}};
		meta_status_res result = {0};
		error = rpc_call(meta, META_FREED, RPC_XDR(xdr_meta_freed_args), &done,
			RPC_XDR(xdr_meta_status_res), &result, FREE_TIMEOUT_MS);
		if (!error)
			rpc_free(RPC_XDR(xdr_meta_status_res), &result);
	}
	free(removed);
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
	bool work = result.free_waiting;
	atomic_store(&heartbeat->work->rebuild_waiting, result.rebuild_waiting);
	rpc_free(RPC_XDR(xdr_meta_heartbeat_res), &result);
	if (work)
		free_files(heartbeat->store, heartbeat->stripe, heartbeat->node_id);
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
	if (status == 0 && strays)
		free_files(store, stripe, node_id);
	return status ? -(int)status : strays ? -EAGAIN : 0;
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
	int error = periodic_start(&heartbeat->periodic, INTERVAL_MS, beat, heartbeat);
	if (error) {
		free(heartbeat);
		return error;
	}
	*result = heartbeat;
	return 0;
}

void heartbeat_stop(struct heartbeat *heartbeat)
{
	periodic_stop(&heartbeat->periodic);
	free(heartbeat);
}
