/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The cluster map: states, versions and incarnations through silence, returns and restarts of
 * nodes and of exportd, and readers during changes.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exportd/map.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define NODES 4

static struct fixture fixture;
static uint64_t now_ms;

static void open_fixture(void)
{
	now_ms = 1000;
	fixture_open(&fixture, NODES);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* Time passes; the nodes of the mask (bit 1: node 1) send heartbeats with this boot. */
static void pass(uint64_t ms, uint32_t mask, uint64_t boot)
{
	uint64_t end_ms = now_ms + ms;
	uint32_t node;

	while (now_ms < end_ms) {
		now_ms += 500;
		fixture_time_ms(now_ms);
		for (node = 1; node <= NODES; node++)
			if (mask & (1u << node))
				CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, node, boot, 1000), 0);
		CU_ASSERT_EQUAL(map_tick(fixture.exportd->map), 0);
	}
}

static uint32_t map_read(struct meta_node *nodes)
{
	struct meta_map_args args = {.map_version = 0};
	struct meta_map_res result = {0};
	uint32_t version;

	map_answer(fixture.exportd->map, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	CU_ASSERT_EQUAL_FATAL(result.nodes.nodes_len, NODES);
	memcpy(nodes + 1, result.nodes.nodes_val, NODES * sizeof(*nodes));
	version = result.map_version;
	rpc_free(RPC_XDR(xdr_meta_map_res), &result);
	return version;
}

#define ALL 0x1e

static void states_follow_heartbeats(void)
{
	struct meta_node nodes[NODES + 1];
	struct meta_map_args args;
	struct meta_map_res result = {0};
	uint32_t version, before;

	before = map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].id, 1);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_DOWN);
	CU_ASSERT_EQUAL(map_node_state(fixture.exportd->map, 1), MAP_NODE_UNHEARD);
	pass(500, ALL, 1);
	version = map_read(nodes);
	CU_ASSERT(version > before);
	CU_ASSERT_EQUAL(nodes[3].state, META_NODE_UP);
	CU_ASSERT_EQUAL(nodes[3].incarnation, 1);
	CU_ASSERT_EQUAL(nodes[3].free_bytes, 1000);
	/* Nothing happens: the version stays, and knowing it is answered with no nodes. */
	pass(10000, ALL, 1);
	CU_ASSERT_EQUAL(map_read(nodes), version);
	args.map_version = version;
	map_answer(fixture.exportd->map, &args, &result);
	CU_ASSERT_EQUAL(result.map_version, version);
	CU_ASSERT_EQUAL(result.nodes.nodes_len, 0);
	/* Silence of less than the limit, then of more. */
	pass(2500, ALL & ~(1u << 2), 1);
	CU_ASSERT_EQUAL(map_read(nodes), version);
	pass(1000, ALL & ~(1u << 2), 1);
	CU_ASSERT_EQUAL(map_read(nodes), version + 1);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_DOWN);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_UP);
	CU_ASSERT_EQUAL(map_node_state(fixture.exportd->map, 2), MAP_NODE_DOWN);
	/* Its return is a new incarnation, even of the same run. */
	pass(500, ALL, 1);
	CU_ASSERT_EQUAL(map_read(nodes), version + 2);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
	CU_ASSERT_EQUAL(nodes[2].incarnation, 2);
	CU_ASSERT_EQUAL(nodes[1].incarnation, 1);
	CU_ASSERT_EQUAL(map_node_state(fixture.exportd->map, 99), MAP_NODE_DOWN);
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, 99, 1, 1), ENOENT);
}

static void a_quick_restart_is_seen_by_its_boot(void)
{
	struct meta_node nodes[NODES + 1];
	uint32_t version;

	pass(500, ALL, 1);
	version = map_read(nodes);
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, 2, 77, 1000), 0);
	CU_ASSERT_EQUAL(map_read(nodes), version + 1);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
	CU_ASSERT_EQUAL(nodes[2].incarnation, 2);
}

static void restart_of_exportd(void)
{
	struct meta_node nodes[NODES + 1];
	uint32_t version, first;

	pass(500, ALL, 1);
	first = map_read(nodes);
	/* The same runs go on: nothing has happened to the nodes. */
	fixture_reopen(&fixture);
	version = map_read(nodes);
	CU_ASSERT(version > first);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_DOWN);
	pass(500, ALL & ~(1u << 4), 1);
	CU_ASSERT(map_read(nodes) > version);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_UP);
	CU_ASSERT_EQUAL(nodes[1].incarnation, 1);
	CU_ASSERT_EQUAL(map_node_state(fixture.exportd->map, 4), MAP_NODE_UNHEARD);
	/* Node 4 stays away for the whole first period, so its return is one. */
	pass(3500, ALL & ~(1u << 4), 1);
	CU_ASSERT_EQUAL(map_node_state(fixture.exportd->map, 4), MAP_NODE_DOWN);
	pass(500, ALL, 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[4].state, META_NODE_UP);
	CU_ASSERT_EQUAL(nodes[4].incarnation, 2);
	/* Down before the restart: its return after it is one too. */
	pass(4000, ALL & ~(1u << 3), 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[3].state, META_NODE_DOWN);
	fixture_reopen(&fixture);
	pass(500, ALL, 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[3].incarnation, 2);
	CU_ASSERT_EQUAL(nodes[1].incarnation, 1);
	/* A new run during exportd's absence. */
	fixture_reopen(&fixture);
	pass(500, ALL, 2);
	version = map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].incarnation, 2);
	fixture_reopen(&fixture);
	CU_ASSERT(map_read(nodes) > version);
}

/* What is known of one node does not keep exportd from starting, and is made anew. */
static void a_damaged_node_is_one_that_is_not_known(void)
{
	struct meta_node nodes[NODES + 1];
	uint32_t incarnation;

	pass(500, ALL, 1);
	pass(4000, ALL & ~(1u << 2), 1);
	pass(500, ALL, 1);
	map_read(nodes);
	incarnation = nodes[2].incarnation;
	CU_ASSERT_EQUAL(incarnation, 2);
	fixture_flip(&fixture, record_key_node(2));
	fixture_reopen(&fixture);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_DOWN);
	pass(500, ALL, 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
	CU_ASSERT(nodes[2].incarnation > incarnation);
	CU_ASSERT_EQUAL(nodes[1].incarnation, 1);
	incarnation = nodes[2].incarnation;
	fixture_reopen(&fixture);
	pass(500, ALL, 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[2].incarnation, incarnation);
}

static void exportd_that_stood_still_blames_nobody(void)
{
	struct meta_node nodes[NODES + 1];
	uint32_t version;

	pass(5000, ALL, 1);
	version = map_read(nodes);
	/* Stopped for a minute; the tick comes before the heartbeats that wait in the sockets. */
	now_ms += 60000;
	fixture_time_ms(now_ms);
	CU_ASSERT_EQUAL(map_tick(fixture.exportd->map), 0);
	CU_ASSERT_EQUAL(map_read(nodes), version);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_UP);
	/* Whoever stays silent now goes down. */
	pass(3500, ALL & ~(1u << 1), 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_DOWN);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
}

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool begun, released;
} stall = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Does not return until it is released, or after 3 s, so that a mistake ends the test. */
static int stalled_operation(struct kv_txn *txn, void *context)
{
	struct timespec until;

	(void)txn;
	(void)context;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 3;
	pthread_mutex_lock(&stall.mutex);
	stall.begun = true;
	pthread_cond_broadcast(&stall.changed);
	while (!stall.released &&
		pthread_cond_timedwait(&stall.changed, &stall.mutex, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&stall.mutex);
	return 1;
}

static void *commit_stalled(void *context)
{
	(void)context;
	return (void *)(intptr_t)commit_execute(fixture.exportd->commit, stalled_operation, NULL);
}

static void begin_stall(pthread_t *thread)
{
	stall.begun = stall.released = false;
	CU_ASSERT_EQUAL_FATAL(pthread_create(thread, NULL, commit_stalled, NULL), 0);
	pthread_mutex_lock(&stall.mutex);
	while (!stall.begun)
		pthread_cond_wait(&stall.changed, &stall.mutex);
	pthread_mutex_unlock(&stall.mutex);
}

/* All threads wait for a disk that hangs: heartbeats are in the sockets, and nobody is to blame. */
static void a_disk_that_hangs_blames_nobody(void)
{
	struct meta_node nodes[NODES + 1];
	pthread_t thread;
	uint32_t version;
	void *result;

	pass(5000, ALL, 1);
	version = map_read(nodes);
	begin_stall(&thread);
	pass(5000, 0, 1);
	CU_ASSERT_EQUAL(map_read(nodes), version);
	pthread_mutex_lock(&stall.mutex);
	stall.released = true;
	pthread_cond_broadcast(&stall.changed);
	pthread_mutex_unlock(&stall.mutex);
	pthread_join(thread, &result);
	CU_ASSERT_EQUAL((intptr_t)result, 1);
	pass(2500, 0, 1);
	pass(500, ALL & ~(1u << 1), 1);
	CU_ASSERT_EQUAL(map_read(nodes), version + 1);
	for (uint32_t i = 1; i <= NODES; i++) {
		CU_ASSERT_EQUAL(nodes[i].state, i > 1 ? META_NODE_UP : META_NODE_DOWN);
		CU_ASSERT_EQUAL(nodes[i].incarnation, 1);
	}
}

/* Who is silent while others are heard is down, however slow the disk is. */
static void a_slow_disk_excuses_nobody_else(void)
{
	struct meta_node nodes[NODES + 1];
	pthread_t thread;

	pass(5000, ALL, 1);
	begin_stall(&thread);
	/* Which is to be stored, behind what hangs. */
	pass(2 * FIXTURE_SILENCE_MS, ALL & ~(1u << 1), 1);
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_DOWN);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
	pthread_join(thread, NULL);
}

/* An exportd that stands still now and then counts the rest of the time. */
static void standing_still_does_not_keep_a_node_from_being_out(void)
{
	struct meta_node nodes[NODES + 1];

	pass(5000, ALL, 1);
	map_set_down_out_interval(fixture.exportd->map, 20);
	for (unsigned int round = 0; round < 4; round++) {
		now_ms += 4000;
		pass(4000, ALL & ~(1u << 1), 1);
	}
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_DOWN); /* silent for 16 s, and 16 s unheard */
	for (unsigned int round = 0; round < 2; round++) {
		now_ms += 4000;
		pass(4000, ALL & ~(1u << 1), 1);
	}
	map_read(nodes);
	CU_ASSERT_EQUAL(nodes[1].state, META_NODE_OUT);
	CU_ASSERT_EQUAL(nodes[2].state, META_NODE_UP);
	map_set_down_out_interval(fixture.exportd->map, 0);
}

static void failed_devices_have_no_room(void)
{
	struct meta_device devices[2] = {
		{.path = (char *)"/a", .total_bytes = 100, .free_bytes = 50},
		{.path = (char *)"/b", .total_bytes = 100, .free_bytes = 60, .failed = 1},
	};
	struct meta_heartbeat_args args = {
		.node = 1,
		.boot = 1,
		.devices = {.devices_len = 2, .devices_val = devices},
	};
	struct meta_heartbeat_res result = {0};
	struct meta_node nodes[NODES + 1];

	map_heartbeat(fixture.exportd->map, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.map_version, map_read(nodes));
	CU_ASSERT_EQUAL(nodes[1].total_bytes, 100);
	CU_ASSERT_EQUAL(nodes[1].free_bytes, 50);
}

static atomic_bool stop_readers;

/* Reads maps as fast as possible: versions never go back, and a version has one content. */
static void *read_maps(void *context)
{
	struct meta_map_args args = {.map_version = 0};
	struct meta_map_res result;
	uint32_t last = 0;
	uintptr_t reads = 0;

	(void)context;
	do {
		memset(&result, 0, sizeof(result));
		map_answer(fixture.exportd->map, &args, &result);
		if (result.status != 0 || result.map_version < last)
			return (void *)(uintptr_t)0;
		last = result.map_version;
		rpc_free(RPC_XDR(xdr_meta_map_res), &result);
		map_node_state(fixture.exportd->map, 1);
		reads++;
	} while (!atomic_load(&stop_readers));
	return (void *)reads;
}

static void *beat(void *context)
{
	uint32_t node = (uint32_t)(uintptr_t)context;
	uint64_t boot;

	/* Each boot is new, so each heartbeat changes the map. */
	for (boot = 1; boot <= 30; boot++)
		if (fixture_heartbeat(&fixture, node, boot, boot) != 0)
			return (void *)1;
	return NULL;
}

static void readers_and_writers_at_once(void)
{
	pthread_t readers[3], beaters[NODES];
	struct meta_node nodes[NODES + 1];
	void *result;
	uint32_t i;

	atomic_store(&stop_readers, false);
	for (i = 0; i < 3; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&readers[i], NULL, read_maps, NULL), 0);
	for (i = 0; i < NODES; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&beaters[i], NULL, beat, (void *)(uintptr_t)(i + 1)), 0);
	for (i = 0; i < NODES; i++) {
		pthread_join(beaters[i], &result);
		CU_ASSERT_PTR_NULL(result);
	}
	atomic_store(&stop_readers, true);
	for (i = 0; i < 3; i++) {
		pthread_join(readers[i], &result);
		CU_ASSERT_PTR_NOT_NULL(result);
	}
	map_read(nodes);
	for (i = 1; i <= NODES; i++)
		CU_ASSERT_EQUAL(nodes[i].incarnation, 30);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"states follow heartbeats", states_follow_heartbeats},
		{"a quick restart is seen by its boot", a_quick_restart_is_seen_by_its_boot},
		{"restart of exportd", restart_of_exportd},
		{"a damaged node is one that is not known",
			a_damaged_node_is_one_that_is_not_known},
		{"an exportd that stood still blames nobody",
			exportd_that_stood_still_blames_nobody},
		{"a disk that hangs blames nobody", a_disk_that_hangs_blames_nobody},
		{"a slow disk excuses nobody else", a_slow_disk_excuses_nobody_else},
		{"standing still does not keep a node from being out",
			standing_still_does_not_keep_a_node_from_being_out},
		{"failed devices have no room", failed_devices_have_no_room},
		{"readers and writers at once", readers_and_writers_at_once},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd map", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
