/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The cluster map.
 *
 * What changes rarely (state, incarnation, version) is an immutable snapshot behind an RCU pointer:
 * readers take no lock. What every heartbeat changes (time, capacity, boot) lies beside it, in
 * `heard`, guarded by heard_mutex for each node.
 *
 * map->mutex serialises the makers of snapshots; it is held over the commit that makes the new
 * state durable. Lock order: map->mutex, then a heard_mutex, then commit's own. No heard_mutex is
 * held while a commit is waited for: its operations may call map_nodes().
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "exportd/clock.h"
#include "exportd/map.h"
#include "exportd/record.h"
#include "rpc/log.h"

/* ThreadSanitizer does not know that synchronize_rcu() waits for readers: tell it. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define RCU_READER_DONE(map) __tsan_release(map)
#define RCU_READERS_WAITED_FOR(map) __tsan_acquire(map)
#else
#define RCU_READER_DONE(map) ((void)(map))
#define RCU_READERS_WAITED_FOR(map) ((void)(map))
#endif

struct map_heard {
	pthread_mutex_t mutex; /* guards the rest */
	bool ever; /* a heartbeat came since exportd started */
	uint64_t at_ns; /* monotonic; of the last one */
	uint64_t stalled_ns; /* map->stalled_ns at that time */
	uint64_t boot; /* of the last one */
	uint64_t total_bytes;
	uint64_t free_bytes;
	uint64_t failed_devices;
	uint32_t devices;
	struct meta_work work; /* its list is ours */
};

struct map_snapshot {
	uint32_t version;
	struct record_node nodes[]; /* as in the store; up is true only if heard since the start */
};

struct map {
	const struct config *config;
	struct commit *commit;
	uint64_t started_ns; /* monotonic */
	uint64_t silence_ns;
	_Atomic uint64_t out_ns; /* silence after which a node is out, 0: never */
	_Atomic uint64_t stalled_ns; /* for so long, in all, nobody can have been heard */
	uint32_t *domains; /* number of each node's failure domain */
	struct map_heard *heard;
	pthread_mutex_t mutex;
	_Atomic(struct map_snapshot *) snapshot;
	/* Under mutex: */
	struct record_node *stored; /* what the store says of each node */
	uint64_t ticked_ns; /* monotonic; of the last map_tick() */
	uint64_t resumed_ns; /* monotonic; silence before counts for nothing */
};

static size_t snapshot_bytes(const struct map *map)
{
	return sizeof(struct map_snapshot) + map->config->node_count * sizeof(struct record_node);
}

static const struct map_snapshot *map_read_lock(struct map *map)
{
	urcu_bp_read_lock();
	return atomic_load_explicit(&map->snapshot, memory_order_acquire);
}

static void map_read_unlock(struct map *map)
{
	RCU_READER_DONE(map);
	urcu_bp_read_unlock();
}

/* Index of a node in the configuration, or -1. Nodes are in ascending id. */
static ssize_t map_find(const struct map *map, uint32_t node)
{
	size_t low = 0, high = map->config->node_count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (map->config->nodes[middle].id < node)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < map->config->node_count && map->config->nodes[low].id == node)
		return (ssize_t)low;
	return -1;
}

/* Numbers the failure domains. Quadratic in the number of domains, once. */
static void map_number_domains(struct map *map)
{
	size_t i, j;

	for (i = 0; i < map->config->node_count; i++) {
		for (j = 0; j < i; j++)
			if (strcmp(map->config->nodes[i].failure_domain,
				    map->config->nodes[j].failure_domain) == 0)
				break;
		map->domains[i] = j < i ? map->domains[j] : (uint32_t)i;
	}
}

/* Reads what is known of the nodes. */
static int map_read_stored(struct map *map, struct kv *kv, uint32_t *version)
{
	struct record_counters counters = {0};
	struct kv_txn *txn;
	size_t i;
	int result;

	result = kv_begin(kv, KV_READ, NULL, &txn);
	if (result != 0)
		return result;
	result = record_counters_get(txn, &counters);
	for (i = 0; result == 0 && i < map->config->node_count; i++) {
		result = record_node_get(txn, map->config->nodes[i].id, &map->stored[i]);
		/*
		 * A damaged one has been named in the log, and is made anew with the node's next
		 * heartbeat. Each incarnation came with a new version: it was no larger than this.
		 */
		if (result == -EIO)
			map->stored[i] = (struct record_node){.incarnation = counters.map_version};
		if (result == -ENOENT || result == -EIO)
			result = 0; /* new in the configuration: incarnation 0, down */
	}
	kv_abort(txn);
	*version = counters.map_version;
	return result;
}

int map_create(const struct config *config, struct kv *kv, struct commit *commit, struct map **map)
{
	struct map *made = calloc(1, sizeof(*made));
	struct map_snapshot *snapshot = NULL;
	int result = -ENOMEM;
	size_t i;

	if (made == NULL)
		return -ENOMEM;
	made->config = config;
	made->commit = commit;
	made->started_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	made->silence_ns = (uint64_t)config->node_down_after_ms * 1000000u;
	map_set_down_out_interval(made, config->down_out_interval_s);
	made->ticked_ns = made->started_ns;
	made->resumed_ns = made->started_ns;
	pthread_mutex_init(&made->mutex, NULL);
	made->domains = calloc(config->node_count, sizeof(*made->domains));
	made->heard = calloc(config->node_count, sizeof(*made->heard));
	made->stored = calloc(config->node_count, sizeof(*made->stored));
	snapshot = calloc(1, snapshot_bytes(made));
	if (made->domains == NULL || made->heard == NULL || made->stored == NULL ||
		snapshot == NULL)
		goto out;
	for (i = 0; i < config->node_count; i++)
		pthread_mutex_init(&made->heard[i].mutex, NULL);
	map_number_domains(made);
	result = map_read_stored(made, kv, &snapshot->version);
	if (result != 0)
		goto out;
	/*
	 * The map as exportd knows it now differs from the last one it told (nobody is up), so it
	 * must not have the same version. It need not be durable: nobody acts on "down" alone, and
	 * the next durable version is larger than this one.
	 */
	snapshot->version++;
	for (i = 0; i < config->node_count; i++) {
		snapshot->nodes[i] = made->stored[i];
		snapshot->nodes[i].up = false;
	}
	atomic_store_explicit(&made->snapshot, snapshot, memory_order_release);
	snapshot = NULL;
	*map = made;
	made = NULL;
out:
	free(snapshot);
	map_destroy(made);
	return result;
}

void map_destroy(struct map *map)
{
	size_t i;

	if (map == NULL)
		return;
	for (i = 0; map->heard != NULL && i < map->config->node_count; i++) {
		pthread_mutex_destroy(&map->heard[i].mutex);
		free(map->heard[i].work.missed.missed_val);
	}
	free(atomic_load(&map->snapshot));
	free(map->stored);
	free(map->heard);
	free(map->domains);
	pthread_mutex_destroy(&map->mutex);
	free(map);
}

/* -------- changes -------- */

struct map_update {
	const struct map *map;
	const struct map_snapshot *before;
	const struct map_snapshot *next;
	bool settled; /* the first silence period is over */
};

/*
 * True if the store must learn what a node is now. What it says of a node that has not been heard
 * of yet stays true until the first silence period is over.
 */
static bool map_differs(const struct map_update *update, size_t i)
{
	const struct record_node *now = &update->next->nodes[i];
	const struct record_node *stored = &update->map->stored[i];

	if (!now->up && !update->before->nodes[i].up && !update->settled)
		return false;
	return now->up != stored->up || now->out != stored->out || now->boot != stored->boot ||
	       now->incarnation != stored->incarnation;
}

/* Writes the nodes that differ from the store, and the version. */
static int map_store(struct kv_txn *txn, void *context)
{
	const struct map_update *update = context;
	const struct config *config = update->map->config;
	struct record_counters counters;
	size_t i;
	int result;

	result = record_counters_get(txn, &counters);
	if (result != 0)
		return result;
	counters.map_version = update->next->version;
	result = record_counters_put(txn, &counters);
	for (i = 0; result == 0 && i < config->node_count; i++)
		if (map_differs(update, i))
			result = record_node_put(txn, config->nodes[i].id, &update->next->nodes[i]);
	return result;
}

/* Sets node to what node i is now; it was what the snapshot before says. */
static void map_evaluate(struct map *map, size_t i, uint64_t now_ns, struct record_node *node)
{
	struct map_heard *heard = &map->heard[i];
	uint64_t since_ns, out_ns = atomic_load(&map->out_ns);
	bool ever_out = out_ns != 0;

	pthread_mutex_lock(&heard->mutex);
	since_ns = heard->at_ns > map->resumed_ns ? heard->at_ns : map->resumed_ns;
	/* Standing still again and again must not keep a node from ever being out. */
	out_ns += atomic_load(&map->stalled_ns) - heard->stalled_ns +
		  (heard->ever ? heard->at_ns : map->started_ns);
	/* The sum, since at_ns may be later than now_ns, which was read before. */
	if (!heard->ever || now_ns >= since_ns + map->silence_ns) {
		node->up = false;
		node->out = node->out || (ever_out && now_ns >= out_ns);
	} else if (!node->up || node->boot != heard->boot) {
		/*
		 * Up for the first time since exportd started, in the run that exportd knew before:
		 * nothing has happened to the node, its incarnation stays.
		 */
		if (node->up || !map->stored[i].up || map->stored[i].boot != heard->boot)
			node->incarnation++;
		node->boot = heard->boot;
		node->up = true;
		node->out = false;
	}
	pthread_mutex_unlock(&heard->mutex);
}

static void map_log_changes(
	const struct map *map, const struct map_snapshot *before, const struct map_snapshot *after)
{
	size_t i;

	for (i = 0; i < map->config->node_count; i++) {
		if (after->nodes[i].up && !before->nodes[i].up)
			rozo_log(INFO,
				"node %" PRIu32 " is up, incarnation %" PRIu32
				", map version %" PRIu32,
				map->config->nodes[i].id, after->nodes[i].incarnation,
				after->version);
		else if (!after->nodes[i].up && before->nodes[i].up)
			rozo_log(WARNING,
				"node %" PRIu32 " is down: no heartbeat for %" PRIu32
				" ms, map version %" PRIu32,
				map->config->nodes[i].id, map->config->node_down_after_ms,
				after->version);
		else if (after->nodes[i].out && !before->nodes[i].out)
			rozo_log(WARNING,
				"node %" PRIu32 " is out: other nodes take over its shards, map "
				"version %" PRIu32,
				map->config->nodes[i].id, after->version);
		else if (after->nodes[i].incarnation != before->nodes[i].incarnation)
			rozo_log(INFO,
				"node %" PRIu32 " was restarted, incarnation %" PRIu32
				", map version %" PRIu32,
				map->config->nodes[i].id, after->nodes[i].incarnation,
				after->version);
	}
}

/* When any node was last heard, 0: never. */
static uint64_t map_last_heard_ns(const struct map *map)
{
	uint64_t last_ns = 0;

	for (size_t i = 0; i < map->config->node_count; i++) {
		struct map_heard *heard = &map->heard[i];

		pthread_mutex_lock(&heard->mutex);
		if (heard->at_ns > last_ns)
			last_ns = heard->at_ns;
		pthread_mutex_unlock(&heard->mutex);
	}
	return last_ns;
}

/*
 * If exportd stood still, or all its threads wait for a disk that does, the heartbeats of that time
 * may be waiting to be read. While others are heard, that is no excuse.
 */
static bool map_stood_still(const struct map *map, uint64_t now_ns)
{
	uint64_t began_ns = commit_began_ns(map->commit);

	return now_ns - map->ticked_ns > map->silence_ns / 2 ||
	       (began_ns != 0 && now_ns > began_ns + map->silence_ns / 3 &&
		       now_ns > map_last_heard_ns(map) + map->silence_ns / 2);
}

int map_tick(struct map *map)
{
	struct map_snapshot *before, *next, *unused;
	struct map_update update;
	bool changed = false;
	uint64_t now_ns;
	int result = 0;
	size_t i;

	next = malloc(snapshot_bytes(map));
	if (next == NULL)
		return -ENOMEM;
	unused = next;
	pthread_mutex_lock(&map->mutex);
	before = atomic_load_explicit(&map->snapshot, memory_order_acquire);
	memcpy(next, before, snapshot_bytes(map));
	now_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	if (map_stood_still(map, now_ns)) {
		map->resumed_ns = now_ns;
		atomic_fetch_add(&map->stalled_ns, now_ns - map->ticked_ns);
	}
	map->ticked_ns = now_ns;
	update = (struct map_update){.map = map, .before = before, .next = next};
	update.settled = now_ns >= map->started_ns + map->silence_ns;
	for (i = 0; i < map->config->node_count; i++) {
		map_evaluate(map, i, now_ns, &next->nodes[i]);
		changed = changed || map_differs(&update, i) ||
			  next->nodes[i].up != before->nodes[i].up ||
			  next->nodes[i].out != before->nodes[i].out;
	}
	if (!changed)
		goto out;
	next->version++;
	result = commit_execute(map->commit, map_store, &update);
	if (result != 0) {
		rozo_log_limited(ERROR, "cluster map: version %" PRIu32 " could not be stored: %s",
			next->version, strerror(-result));
		goto out;
	}
	for (i = 0; i < map->config->node_count; i++)
		if (map_differs(&update, i))
			map->stored[i] = next->nodes[i];
	map_log_changes(map, before, next);
	atomic_store_explicit(&map->snapshot, next, memory_order_release);
	unused = before;
out:
	pthread_mutex_unlock(&map->mutex);
	if (unused == before) {
		urcu_bp_synchronize_rcu();
		RCU_READERS_WAITED_FOR(map);
	}
	free(unused);
	return result;
}

/* Keeps what a node says of its work. Called with heard->mutex held. */
static void map_take_work(struct map_heard *heard, const struct meta_work *work)
{
	size_t bytes = work->missed.missed_len * sizeof(*work->missed.missed_val);
	struct meta_missed *missed = heard->work.missed.missed_val;

	if (work->missed.missed_len != heard->work.missed.missed_len) {
		missed = bytes > 0 ? malloc(bytes) : NULL;
		if (bytes > 0 && missed == NULL)
			return; /* the next heartbeat tells again */
		free(heard->work.missed.missed_val);
	}
	if (bytes > 0)
		memcpy(missed, work->missed.missed_val, bytes);
	heard->work = *work;
	heard->work.missed.missed_val = missed;
}

void map_heartbeat(
	struct map *map, const struct meta_heartbeat_args *args, struct meta_heartbeat_res *result)
{
	ssize_t i = map_find(map, args->node);
	const struct map_snapshot *snapshot;
	uint64_t total = 0, available = 0, failed = 0;
	struct map_heard *heard;
	bool changed, failed_changed;
	uint32_t d;
	int error = 0;

	if (i < 0) {
		rozo_log_limited(WARNING,
			"heartbeat of node %" PRIu32 ", which is not in %s: add it, or stop it",
			args->node,
			map->config->path != NULL ? map->config->path : "the configuration");
		result->status = ENOENT;
		return;
	}
	for (d = 0; d < args->devices.devices_len; d++) {
		const struct meta_device *device = &args->devices.devices_val[d];

		if (device->failed) {
			failed++;
			continue;
		}
		total += device->total_bytes;
		available += device->free_bytes;
	}
	heard = &map->heard[i];
	pthread_mutex_lock(&heard->mutex);
	heard->ever = true;
	heard->at_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	heard->stalled_ns = atomic_load(&map->stalled_ns);
	heard->boot = args->boot;
	heard->total_bytes = total;
	heard->free_bytes = available;
	failed_changed = heard->failed_devices != failed;
	heard->failed_devices = failed;
	heard->devices = args->devices.devices_len;
	map_take_work(heard, &args->work);
	pthread_mutex_unlock(&heard->mutex);
	if (failed_changed)
		rozo_log(WARNING, "node %" PRIu32 " reports %" PRIu64 " failed devices of %" PRIu32,
			args->node, failed, args->devices.devices_len);

	snapshot = map_read_lock(map);
	changed = !snapshot->nodes[i].up || snapshot->nodes[i].boot != args->boot;
	result->map_version = snapshot->version;
	map_read_unlock(map);
	if (changed) {
		error = map_tick(map);
		snapshot = map_read_lock(map);
		result->map_version = snapshot->version;
		map_read_unlock(map);
	}
	result->status = (uint32_t)-error;
}

/* -------- questions -------- */

static enum map_node_state map_state(
	const struct map *map, const struct map_snapshot *snapshot, size_t i, uint64_t now_ns)
{
	if (snapshot->nodes[i].up)
		return MAP_NODE_UP;
	/* No node can fall silent for long enough within the first silence period. */
	return now_ns < map->started_ns + map->silence_ns ? MAP_NODE_UNHEARD : MAP_NODE_DOWN;
}

/* META_NODE_* of the node at a place in the configuration. */
static uint32_t state_of(const struct map_snapshot *snapshot, size_t i)
{
	if (snapshot->nodes[i].up)
		return META_NODE_UP;
	return snapshot->nodes[i].out ? META_NODE_OUT : META_NODE_DOWN;
}

void map_answer(struct map *map, const struct meta_map_args *args, struct meta_map_res *result)
{
	size_t count = map->config->node_count, i;
	const struct map_snapshot *snapshot;
	struct meta_node *nodes;

	nodes = calloc(count, sizeof(*nodes));
	if (nodes == NULL) {
		result->status = ENOMEM;
		return;
	}
	snapshot = map_read_lock(map);
	result->map_version = snapshot->version;
	for (i = 0; i < count; i++) {
		nodes[i].id = map->config->nodes[i].id;
		nodes[i].state = state_of(snapshot, i);
		nodes[i].incarnation = snapshot->nodes[i].incarnation;
	}
	map_read_unlock(map);
	if (args->map_version == result->map_version) {
		free(nodes);
		return;
	}
	for (i = 0; i < count; i++) {
		pthread_mutex_lock(&map->heard[i].mutex);
		nodes[i].total_bytes = map->heard[i].total_bytes;
		nodes[i].free_bytes = map->heard[i].free_bytes;
		pthread_mutex_unlock(&map->heard[i].mutex);
	}
	result->nodes.nodes_len = (uint32_t)count;
	result->nodes.nodes_val = nodes;
}

enum map_node_state map_node_state(struct map *map, uint32_t node)
{
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	ssize_t i = map_find(map, node);
	const struct map_snapshot *snapshot;
	enum map_node_state state;

	if (i < 0)
		return MAP_NODE_DOWN;
	snapshot = map_read_lock(map);
	state = map_state(map, snapshot, (size_t)i, now_ns);
	map_read_unlock(map);
	return state;
}

size_t map_node_count(const struct map *map)
{
	return map->config->node_count;
}

void map_nodes(struct map *map, struct map_node *nodes)
{
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	const struct map_snapshot *snapshot;
	size_t i;

	snapshot = map_read_lock(map);
	for (i = 0; i < map->config->node_count; i++) {
		nodes[i].id = map->config->nodes[i].id;
		nodes[i].domain = map->domains[i];
		nodes[i].out = snapshot->nodes[i].out;
		nodes[i].state = map_state(map, snapshot, i, now_ns);
	}
	map_read_unlock(map);
	for (i = 0; i < map->config->node_count; i++) {
		pthread_mutex_lock(&map->heard[i].mutex);
		nodes[i].capacity_known = map->heard[i].ever;
		nodes[i].total_bytes = map->heard[i].total_bytes;
		nodes[i].free_bytes = map->heard[i].free_bytes;
		pthread_mutex_unlock(&map->heard[i].mutex);
	}
}

void map_set_down_out_interval(struct map *map, uint32_t seconds)
{
	atomic_store(&map->out_ns, (uint64_t)seconds * 1000000000u);
}

bool map_strangers_are_out(struct map *map)
{
	uint64_t out_ns = atomic_load(&map->out_ns);

	return out_ns != 0 && clock_now_ns(CLOCK_KIND_MONOTONIC) >= map->started_ns + out_ns;
}

uint32_t map_version(struct map *map)
{
	const struct map_snapshot *snapshot = map_read_lock(map);
	uint32_t version = snapshot->version;

	map_read_unlock(map);
	return version;
}

/* What is known of node i by its heartbeats. Returns 0 or -ENOMEM. */
static int map_node_status(
	struct map *map, size_t i, uint64_t now_ns, struct meta_node_status *status)
{
	struct map_heard *heard = &map->heard[i];
	uint64_t since_ns = map->started_ns;
	struct meta_missed *missed = NULL;
	int result = 0;
	size_t bytes;

	pthread_mutex_lock(&heard->mutex);
	if (heard->ever)
		since_ns = heard->at_ns;
	bytes = heard->work.missed.missed_len * sizeof(*missed);
	if (bytes > 0) {
		missed = malloc(bytes);
		result = missed == NULL ? -ENOMEM : 0;
	}
	if (result == 0) {
		if (bytes > 0)
			memcpy(missed, heard->work.missed.missed_val, bytes);
		status->heard = heard->ever;
		status->devices = heard->devices;
		status->devices_failed = (uint32_t)heard->failed_devices;
		status->total_bytes = heard->total_bytes;
		status->free_bytes = heard->free_bytes;
		status->work = heard->work;
		status->work.missed.missed_val = missed;
	}
	pthread_mutex_unlock(&heard->mutex);
	/* The heartbeat may have come after now_ns was read. */
	status->silent_ms = now_ns > since_ns ? (now_ns - since_ns) / 1000000u : 0;
	return result;
}

int map_cluster(struct map *map, struct meta_cluster_res *result)
{
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	size_t count = map->config->node_count, i;
	const struct map_snapshot *snapshot;
	struct meta_node_status *nodes;
	int error = 0;

	nodes = calloc(count, sizeof(*nodes));
	if (nodes == NULL)
		return -ENOMEM;
	result->nodes.nodes_len = (uint32_t)count;
	result->nodes.nodes_val = nodes;
	result->down_out_interval_s = (uint32_t)(atomic_load(&map->out_ns) / 1000000000u);
	snapshot = map_read_lock(map);
	result->map_version = snapshot->version;
	for (i = 0; i < count; i++) {
		nodes[i].id = map->config->nodes[i].id;
		nodes[i].state = state_of(snapshot, i);
		nodes[i].incarnation = snapshot->nodes[i].incarnation;
	}
	map_read_unlock(map);
	for (i = 0; i < count && error == 0; i++)
		error = map_node_status(map, i, now_ns, &nodes[i]);
	return error;
}
