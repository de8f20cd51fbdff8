/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The engine itself: nodes, the background thread, counters.
 *
 * The background thread tells stores which runs are decided, soon after that, and asks nodes that
 * are down whether they are back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sodium.h>

#include "stripe/gather.h"

#define CALL_TIMEOUT_MS 5000
#define FILES_MAX 4096
/* How long a decided run may wait to ride along with the next write of its file. */
#define TELL_DELAY_MS 50
#define PROBE_TIMEOUT_MS 2000
/* How often it is looked for nodes that are down. */
#define PROBE_INTERVAL_MS 250
#define CACHE_BYTES (64u << 20)
#define GATHER_DELAY_MS 100

static bool xdr_nothing(XDR *xdrs, void *object)
{
	(void)xdrs;
	(void)object;
	return true;
}

static void probe_done(void *context, int error)
{
	struct node *node = context;

	(void)error; /* the client has noted it */
	atomic_store(&node->probing, false);
}

static void probe_nodes(struct stripe *stripe)
{
	for (size_t i = 0; i < stripe->node_count; i++) {
		struct node *node = &stripe->nodes[i];
		if (!node->client || !rpc_client_is_down(node->client) ||
			atomic_exchange(&node->probing, true))
			continue;
		rpc_call_async(node->client, 0, xdr_nothing, NULL, xdr_nothing, NULL,
			PROBE_TIMEOUT_MS, probe_done, node);
	}
}

void runs_schedule_commit(struct stripe_file *file)
{
	struct stripe *stripe = file->stripe;

	if (file->commit_scheduled)
		return;
	file->commit_scheduled = true;
	file_reference(file);
	pthread_mutex_lock(&stripe->background_lock);
	file->commit_next = stripe->commit_queue;
	/* With others in the queue it waits for nothing but the time. */
	if (!stripe->commit_queue)
		pthread_cond_signal(&stripe->background_wake);
	stripe->commit_queue = file;
	pthread_mutex_unlock(&stripe->background_lock);
}

/* Waits with background_lock held; until the engine stops, or `ready`, or for so long. */
static void background_wait(
	struct stripe *stripe, unsigned int wait_ms, bool ready(struct stripe *))
{
	struct timespec until;
	int waited = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += wait_ms % 1000 * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	while (!stripe->stopping && !ready(stripe) && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(
			&stripe->background_wake, &stripe->background_lock, &until);
}

static bool something_to_tell(struct stripe *stripe)
{
	return stripe->commit_queue != NULL;
}

static bool never(struct stripe *stripe)
{
	(void)stripe;
	return false;
}

static void *background(void *argument)
{
	struct stripe *stripe = argument;
	bool stopping = false;

	while (!stopping) {
		pthread_mutex_lock(&stripe->background_lock);
		background_wait(stripe, PROBE_INTERVAL_MS, something_to_tell);
		/* More is decided soon after, and told with it. */
		if (stripe->commit_queue)
			background_wait(stripe, stripe->tell_delay_ms, never);
		stopping = stripe->stopping;
		struct stripe_file *queue = stripe->commit_queue;
		stripe->commit_queue = NULL;
		pthread_mutex_unlock(&stripe->background_lock);
		files_tell_decided(stripe, queue);
		if (!stopping)
			probe_nodes(stripe);
	}
	return NULL;
}

static void free_clients(struct stripe *stripe)
{
	for (size_t i = 0; i < stripe->node_count; i++) {
		if (stripe->nodes[i].client)
			rpc_client_destroy(stripe->nodes[i].client);
	}
	if (stripe->meta)
		rpc_client_destroy(stripe->meta);
	free(stripe->nodes);
}

int stripe_create(const struct stripe_options *options, struct stripe **result)
{
	pthread_condattr_t attributes;
	int error = -ENOMEM;

	if (sodium_init() < 0)
		return -EINVAL;
	struct stripe *stripe = calloc(1, sizeof(*stripe));
	if (!stripe)
		return error;
	stripe->local_call = options->local_call;
	stripe->local_store = options->local_store;
	stripe->local_node = options->local_node;
	stripe->call_timeout_ms =
		options->call_timeout_ms ? options->call_timeout_ms : CALL_TIMEOUT_MS;
	stripe->tell_delay_ms = options->tell_delay_ms ? options->tell_delay_ms : TELL_DELAY_MS;
	stripe->files_max = options->files_max ? options->files_max : FILES_MAX;
	stripe->gather = options->gather;
	stripe->gather_delay_ms =
		options->gather_delay_ms ? options->gather_delay_ms : GATHER_DELAY_MS;
	size_t cache_bytes = options->cache_bytes ? options->cache_bytes : CACHE_BYTES;
	do
		randombytes_buf(&stripe->writer, sizeof(stripe->writer));
	while (stripe->writer == 0);
	uint64_t verifier;
	randombytes_buf(&verifier, sizeof(verifier));
	atomic_store(&stripe->verifier, verifier);
	stripe->nodes =
		calloc(options->node_count ? options->node_count : 1, sizeof(*stripe->nodes));
	if (!stripe->nodes)
		goto fail;
	stripe->meta = rpc_client_create(options->exportd_address, options->exportd_port,
		META_PROGRAM, META_V1, options->key);
	if (!stripe->meta) {
		error = -errno;
		goto fail;
	}
	for (size_t i = 0; i < options->node_count; i++) {
		const struct stripe_node *from = &options->nodes[i];
		struct node *node = &stripe->nodes[i];

		node->id = from->id;
		stripe->node_count++;
		if (from->id == options->local_node)
			continue;
		node->client = rpc_client_create(
			from->address, from->store_port, STORE_PROGRAM, STORE_V1, options->key);
		if (!node->client) {
			error = -errno;
			goto fail;
		}
	}
	error = cache_init(&stripe->cache, cache_bytes,
		options->cache_file_bytes ? options->cache_file_bytes : cache_bytes / 4);
	if (error)
		goto fail;
	error = file_table_init(stripe);
	if (error)
		goto fail;
	error = gather_start(stripe);
	if (error) {
		file_table_free(stripe);
		goto fail;
	}
	pthread_mutex_init(&stripe->notices.lock, NULL);
	pthread_mutex_init(&stripe->background_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&stripe->background_wake, &attributes);
	pthread_condattr_destroy(&attributes);
	error = -pthread_create(&stripe->background, NULL, background, stripe);
	if (error) {
		gather_stop(stripe);
		file_table_free(stripe);
		goto fail;
	}
	*result = stripe;
	return 0;
fail:
	cache_destroy(&stripe->cache);
	free_clients(stripe);
	free(stripe);
	return error;
}

void stripe_destroy(struct stripe *stripe)
{
	pthread_mutex_lock(&stripe->background_lock);
	stripe->stopping = true;
	pthread_cond_signal(&stripe->background_wake);
	pthread_mutex_unlock(&stripe->background_lock);
	pthread_join(stripe->background, NULL);
	gather_stop(stripe);
	/* What some store has not heard by now, the next writer settles. */
	while (stripe->commit_queue) {
		struct stripe_file *file = stripe->commit_queue;
		stripe->commit_queue = file->commit_next;
		stripe_file_put(file);
	}
	free_clients(stripe);
	file_table_free(stripe);
	cache_destroy(&stripe->cache);
	pthread_cond_destroy(&stripe->background_wake);
	pthread_mutex_destroy(&stripe->background_lock);
	pthread_mutex_destroy(&stripe->notices.lock);
	free(stripe);
}

uint64_t stripe_write_verifier(const struct stripe *stripe)
{
	return atomic_load(&stripe->verifier);
}

struct rpc_client *stripe_meta(struct stripe *stripe)
{
	return stripe->meta;
}

void stripe_counters(struct stripe *stripe, struct stripe_counters *counters)
{
	*counters = (struct stripe_counters){
		.read_bytes = atomic_load(&stripe->read_bytes),
		.written_bytes = atomic_load(&stripe->written_bytes),
		.degraded_blocks = atomic_load(&stripe->degraded_blocks),
		.damaged_shards = atomic_load(&stripe->damaged_shards),
		.missed_shards = atomic_load(&stripe->missed_shards),
		.healed_shards = atomic_load(&stripe->healed_shards),
		.conflicts = atomic_load(&stripe->conflicts),
		.hedged_reads = atomic_load(&stripe->hedged_reads),
		.cached_bases = atomic_load(&stripe->cached_bases),
		.collected = atomic_load(&stripe->collected),
		.collected_lost = atomic_load(&stripe->collected_lost),
		.rounds = atomic_load(&stripe->rounds),
	};
	counters->cached_blocks = cache_block_count(&stripe->cache, &counters->collected_blocks);
	for (unsigned int i = 0; i < STRIPE_PROCEDURES; i++)
		counters->calls[i] = atomic_load(&stripe->calls[i]);
}
