/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Clusters, found by the path of their file, and what the plugin knows of their gateways.
 *
 * Locks: clusters_lock guards the list and the reference counts and is held over the making and
 * ending of a cluster, which only happens when an export comes or goes. A cluster's own lock
 * guards the map and the list of unusable gateways, is taken last, and never held over a call.
 */
#include "fsal_rozo/cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "rpc/log.h"
#include "rpc/meta.h"

#define MAP_INTERVAL_MS 1000
#define MAP_CALL_MS 3000
#define AVOIDED_MAX 256
#define SLOTS 256 /* changes of names at once */
#define AGAIN_MS 20 /* between attempts of a call whose connection broke */

/* A gateway that a client cannot use. */
struct avoided {
	uint64_t client;
	uint64_t until_ms; /* 0: free */
	uint32_t node;
	uint32_t incarnation; /* of the node, that the client complained of */
};

struct cluster {
	struct cluster *next; /* clusters_lock */
	unsigned int references; /* clusters_lock */
	char *path;
	struct config *config;
	struct stripe *stripe;
	uint8_t handle_key[32];
	pthread_t map_thread;
	bool map_running;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t stop_wanted;
	bool stop;
	uint32_t map_version;
	uint32_t *incarnations; /* beside config->nodes */
	struct avoided avoided[AVOIDED_MAX];
	bool exportd_silent; /* its silence has been logged */
	uint64_t caller; /* of meta_slot; constant */
	pthread_cond_t slot_free;
	bool slot_used[SLOTS];
	uint64_t slot_sequence[SLOTS];
};

static pthread_mutex_t clusters_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cluster *clusters;

uint64_t cluster_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

const struct config *cluster_config(const struct cluster *cluster)
{
	return cluster->config;
}

struct stripe *cluster_stripe(const struct cluster *cluster)
{
	return cluster->stripe;
}

const uint8_t *cluster_handle_key(const struct cluster *cluster)
{
	return cluster->handle_key;
}

/* Logs when exportd falls silent and when it is back, not each call in between. */
static void note_exportd(struct cluster *cluster, int error)
{
	bool silent = error != 0, changed;

	pthread_mutex_lock(&cluster->lock);
	changed = cluster->exportd_silent != silent;
	cluster->exportd_silent = silent;
	pthread_mutex_unlock(&cluster->lock);
	if (!changed)
		return;
	if (silent)
		rozo_log(ERROR,
			"rozo-exportd at %s port %u does not serve us: %s; clients are told to try "
			"again until it does",
			cluster->config->exportd_address, cluster->config->exportd_port,
			error == -EACCES ? "the two ends do not share a cluster key"
					 : strerror(-error));
	else
		rozo_log(INFO, "rozo-exportd at %s port %u answers again",
			cluster->config->exportd_address, cluster->config->exportd_port);
}

int cluster_call(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr, const void *args,
	rpc_xdr result_xdr, void *result, unsigned int timeout_ms, bool *answered)
{
	uint64_t start_us = now_us();
	uint32_t status = 0;
	int error = rpc_call(stripe_meta(cluster->stripe), procedure, args_xdr, args, result_xdr,
		result, timeout_ms);

	if (error == 0)
		memcpy(&status, result, sizeof(status));
	rozo_log(DEBUG, "exportd procedure %u: error %d, status %u, %" PRIu64 " us", procedure,
		error, status, now_us() - start_us);
	if (answered)
		*answered = error == 0;
	/* Arguments that do not fit say nothing about exportd. */
	if (error != -E2BIG)
		note_exportd(cluster, error);
	if (error != 0)
		return error;
	if (status == 0)
		return 0;
	rpc_free(result_xdr, result);
	return -(int)status;
}

/* ---- calls that are executed once ---- */

static meta_slot take_slot(struct cluster *cluster)
{
	meta_slot slot = {.caller = cluster->caller};
	uint32_t i = 0;

	pthread_mutex_lock(&cluster->lock);
	while (cluster->slot_used[i]) {
		if (++i < SLOTS)
			continue;
		pthread_cond_wait(&cluster->slot_free, &cluster->lock);
		i = 0;
	}
	cluster->slot_used[i] = true;
	slot.slot = i;
	slot.sequence = ++cluster->slot_sequence[i];
	pthread_mutex_unlock(&cluster->lock);
	return slot;
}

static void put_slot(struct cluster *cluster, uint32_t slot)
{
	pthread_mutex_lock(&cluster->lock);
	cluster->slot_used[slot] = false;
	pthread_cond_signal(&cluster->slot_free);
	pthread_mutex_unlock(&cluster->lock);
}

/*
 * Sends a call until it is answered, or the time is over, or it is certain that it was not
 * executed, unless persist is set.
 */
static int call_until_answered(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms, bool persist,
	bool *answered)
{
	static const struct timespec pause = {.tv_nsec = AGAIN_MS * 1000000L};
	uint64_t end_ms = cluster_now_ms() + timeout_ms;

	for (;;) {
		uint64_t now_ms = cluster_now_ms();
		int error = cluster_call(cluster, procedure, args_xdr, args, result_xdr, result,
			end_ms > now_ms ? (unsigned int)(end_ms - now_ms) : 1, answered);

		persist = persist || error == -ECONNRESET;
		if (*answered || !persist || cluster_now_ms() + AGAIN_MS >= end_ms)
			return error;
		nanosleep(&pause, NULL);
	}
}

int cluster_call_once(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, meta_slot *slot, rpc_xdr result_xdr, void *result,
	unsigned int timeout_ms, bool *answered)
{
	*slot = take_slot(cluster);
	/* What was not executed the client can as well be told to ask again. */
	int error = call_until_answered(cluster, procedure, args_xdr, args, result_xdr, result,
		timeout_ms, false, answered);
	put_slot(cluster, slot->slot);
	return error;
}

int cluster_call_persistently(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms, bool *answered)
{
	return call_until_answered(
		cluster, procedure, args_xdr, args, result_xdr, result, timeout_ms, true, answered);
}

/* ---- the cluster map ---- */

static ssize_t node_index(const struct cluster *cluster, uint32_t node)
{
	size_t low = 0, high = cluster->config->node_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (cluster->config->nodes[middle].id < node)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == cluster->config->node_count || cluster->config->nodes[low].id != node)
		return -1;
	return (ssize_t)low;
}

uint32_t cluster_incarnation(const struct cluster *cluster, uint32_t node)
{
	struct cluster *unconst = (struct cluster *)cluster; /* for the lock only */
	ssize_t index = node_index(cluster, node);
	uint32_t incarnation = 0;

	if (index < 0)
		return 0;
	pthread_mutex_lock(&unconst->lock);
	incarnation = cluster->incarnations[index];
	pthread_mutex_unlock(&unconst->lock);
	return incarnation;
}

static void map_refresh(struct cluster *cluster)
{
	meta_map_args args = {.map_version = cluster->map_version};
	meta_map_res result = {0};
	uint32_t i;

	if (cluster_call(cluster, META_MAP, RPC_XDR(xdr_meta_map_args), &args,
		    RPC_XDR(xdr_meta_map_res), &result, MAP_CALL_MS, NULL) != 0)
		return;
	if (result.nodes.nodes_len > 0) {
		pthread_mutex_lock(&cluster->lock);
		for (i = 0; i < result.nodes.nodes_len; i++) {
			const meta_node *node = &result.nodes.nodes_val[i];
			ssize_t index = node_index(cluster, node->id);

			if (index >= 0)
				cluster->incarnations[index] = node->incarnation;
		}
		pthread_mutex_unlock(&cluster->lock);
		cluster->map_version = result.map_version; /* used by this thread only */
	}
	rpc_free(RPC_XDR(xdr_meta_map_res), &result);
}

static void *map_main(void *context)
{
	struct cluster *cluster = context;

	pthread_mutex_lock(&cluster->lock);
	while (!cluster->stop) {
		struct timespec until;

		pthread_mutex_unlock(&cluster->lock);
		map_refresh(cluster);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += MAP_INTERVAL_MS / 1000;
		pthread_mutex_lock(&cluster->lock);
		while (!cluster->stop && pthread_cond_timedwait(&cluster->stop_wanted,
						 &cluster->lock, &until) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&cluster->lock);
	return NULL;
}

/* ---- gateways that clients cannot use ---- */

/* True if the entry holds now. The caller holds the lock. */
static bool avoided_holds(
	const struct cluster *cluster, const struct avoided *entry, uint64_t now_ms)
{
	ssize_t index;

	if (entry->until_ms <= now_ms)
		return false;
	index = node_index(cluster, entry->node);
	return index >= 0 && cluster->incarnations[index] == entry->incarnation;
}

bool cluster_avoid(struct cluster *cluster, uint64_t client, uint32_t node, uint32_t incarnation,
	uint64_t duration_ms)
{
	uint64_t now_ms = cluster_now_ms();
	const struct avoided wanted = {.client = client,
		.until_ms = now_ms + duration_ms,
		.node = node,
		.incarnation = incarnation};
	struct avoided *place = &cluster->avoided[0];
	bool news = true;
	size_t i;

	pthread_mutex_lock(&cluster->lock);
	for (i = 0; i < AVOIDED_MAX; i++) {
		struct avoided *entry = &cluster->avoided[i];

		if (entry->client == client && entry->node == node) {
			news = !avoided_holds(cluster, entry, now_ms);
			place = entry;
			break;
		}
		/* When all are in use, the one that would end first gives way. */
		if (entry->until_ms < place->until_ms)
			place = entry;
	}
	if (avoided_holds(cluster, &wanted, now_ms))
		*place = wanted;
	else
		news = false;
	pthread_mutex_unlock(&cluster->lock);
	return news;
}

size_t cluster_avoided(struct cluster *cluster, uint64_t client, uint32_t *nodes, size_t nodes_max)
{
	uint64_t now_ms = cluster_now_ms();
	size_t count = 0, i;

	pthread_mutex_lock(&cluster->lock);
	for (i = 0; i < AVOIDED_MAX && count < nodes_max; i++)
		if (cluster->avoided[i].client == client &&
			avoided_holds(cluster, &cluster->avoided[i], now_ms))
			nodes[count++] = cluster->avoided[i].node;
	pthread_mutex_unlock(&cluster->lock);
	return count;
}

/* ---- making and ending ---- */

static void cluster_free(struct cluster *cluster)
{
	if (cluster->map_running) {
		pthread_mutex_lock(&cluster->lock);
		cluster->stop = true;
		pthread_cond_signal(&cluster->stop_wanted);
		pthread_mutex_unlock(&cluster->lock);
		pthread_join(cluster->map_thread, NULL);
	}
	if (cluster->stripe) {
		struct stripe_counters counters;

		/* With layouts at work these stay at nothing. */
		stripe_counters(cluster->stripe, &counters);
		rozo_log(INFO,
			"%s: %" PRIu64 " bytes were read and %" PRIu64
			" written through this server, not by clients at gateways",
			cluster->path, counters.read_bytes, counters.written_bytes);
		stripe_destroy(cluster->stripe);
	}
	if (cluster->config)
		config_free(cluster->config);
	pthread_cond_destroy(&cluster->stop_wanted);
	pthread_cond_destroy(&cluster->slot_free);
	pthread_mutex_destroy(&cluster->lock);
	free(cluster->incarnations);
	free(cluster->path);
	explicit_bzero(cluster->handle_key, sizeof(cluster->handle_key));
	free(cluster);
}

static int engine_create(struct cluster *cluster)
{
	const struct config *config = cluster->config;
	struct stripe_node *nodes = calloc(config->node_count, sizeof(*nodes));
	struct stripe_options options = {
		.nodes = nodes,
		.node_count = config->node_count,
		.exportd_address = config->exportd_address,
		.exportd_port = config->exportd_port,
		.key = &config->key,
		/* Nothing is collected here: readers at gateways see at once what is written. */
		.cache_bytes = (size_t)config->cache_mib << 20,
	};
	int error;
	size_t i;

	if (!nodes)
		return -ENOMEM;
	for (i = 0; i < config->node_count; i++) {
		nodes[i].id = config->nodes[i].id;
		nodes[i].address = config->nodes[i].address;
		nodes[i].store_port = config->nodes[i].store_port;
	}
	error = stripe_create(&options, &cluster->stripe);
	free(nodes);
	return error;
}

static int cluster_create(const char *path, struct cluster **made, char *text, size_t text_bytes)
{
	struct cluster *cluster = calloc(1, sizeof(*cluster));
	pthread_condattr_t monotonic;
	int error;

	snprintf(text, text_bytes, "out of memory");
	if (!cluster)
		return -ENOMEM;
	pthread_mutex_init(&cluster->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&cluster->stop_wanted, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&cluster->slot_free, NULL);
	cluster->references = 1;

	while (cluster->caller == 0) {
		if (getrandom(&cluster->caller, sizeof(cluster->caller), 0) < 0)
			cluster->caller = 0;
	}
	error = -ENOMEM;
	cluster->path = strdup(path);
	if (!cluster->path)
		goto out;
	error = config_load(path, &cluster->config, text, text_bytes);
	if (error != 0)
		goto out;
	config_handle_key(cluster->config, cluster->handle_key);
	error = -ENOMEM;
	cluster->incarnations = calloc(cluster->config->node_count, sizeof(uint32_t));
	if (!cluster->incarnations)
		goto out;
	error = engine_create(cluster);
	if (error != 0) {
		snprintf(text, text_bytes, "cannot make the stripe engine: %s", strerror(-error));
		goto out;
	}
	error = -pthread_create(&cluster->map_thread, NULL, map_main, cluster);
	if (error != 0) {
		snprintf(text, text_bytes, "cannot start a thread: %s", strerror(-error));
		goto out;
	}
	cluster->map_running = true;
	*made = cluster;
out:
	if (error != 0)
		cluster_free(cluster);
	return error;
}

int cluster_get(const char *path, struct cluster **cluster, char *error, size_t error_bytes)
{
	struct cluster *found;
	int result = 0;

	pthread_mutex_lock(&clusters_lock);
	for (found = clusters; found; found = found->next)
		if (strcmp(found->path, path) == 0)
			break;
	if (found) {
		found->references++;
	} else {
		result = cluster_create(path, &found, error, error_bytes);
		if (result == 0) {
			found->next = clusters;
			clusters = found;
		}
	}
	pthread_mutex_unlock(&clusters_lock);
	if (result == 0)
		*cluster = found;
	return result;
}

void cluster_put(struct cluster *cluster)
{
	struct cluster **place;

	pthread_mutex_lock(&clusters_lock);
	if (--cluster->references == 0) {
		for (place = &clusters; *place != cluster; place = &(*place)->next)
			;
		*place = cluster->next;
		cluster_free(cluster);
	}
	pthread_mutex_unlock(&clusters_lock);
}
