/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What a node removes at exportd's word: all that it can, also behind what it cannot, and whether
 * it may serve then. The store is real; exportd is a list in memory, and so no RPC is made.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storaged/clock.h"
#include "storaged/heartbeat.h"
#include "store_fixture.h"

#define NODE 3
#define ITEMS_MAX (3 * META_FREE_MAX)

static struct fixture fixture;

/* -------- exportd -------- */

static struct {
	pthread_mutex_t lock;
	/* Guarded by lock. */
	meta_free_item items[ITEMS_MAX]; /* by sequence */
	uint32_t count;
	uint64_t last; /* sequence */
	/*
	 * True: exportd's disk hangs, so the next META_FREED is not answered in time. What it says
	 * is carried out when it is told again, or behind the next list that has it, whichever
	 * comes first.
	 */
	bool hangs;
	uint64_t late; /* sequence that is to be taken off then, 0: none */
	uint64_t servers; /* of meta_heartbeat_res */
	uint32_t heartbeats;
	unsigned int slow_ms; /* so long the next META_FREED waits for exportd's disk */
	int64_t heard_ms, silence_ms; /* when the last heartbeat came; the longest time without */
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER};

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms);

struct rpc_client *stripe_meta(struct stripe *stripe)
{
	(void)stripe;
	return NULL;
}

void stripe_file_forget(struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	(void)stripe;
	(void)export_id;
	(void)file_id;
}

static atomic_uint doubts;

void stripe_doubt_layouts(struct stripe *stripe)
{
	(void)stripe;
	atomic_fetch_add(&doubts, 1);
}

static void end_silence(void)
{
	int64_t now_ms = clock_now_ms();

	if (queue.heard_ms && now_ms - queue.heard_ms > queue.silence_ms)
		queue.silence_ms = now_ms - queue.heard_ms;
	queue.heard_ms = now_ms;
}

static void answer_heartbeat(const meta_heartbeat_args *args, meta_heartbeat_res *result)
{
	end_silence();
	queue.heartbeats++;
	result->servers = queue.servers;
	if (!args->starting)
		result->free_waiting = queue.count > 0;
	for (uint32_t i = 0; i < queue.count && args->starting; i++)
		result->strays_waiting |= queue.items[i].stray;
}

static store_file numbered(uint64_t id)
{
	return (store_file){.export_id = 1, .file_id = id};
}

static void put(uint64_t id)
{
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
}

static void take_off(uint64_t sequence)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < queue.count; i++) {
		if (queue.items[i].sequence != sequence)
			queue.items[left++] = queue.items[i];
	}
	queue.count = left;
	if (sequence != queue.late)
		return;
	/* The node may be chosen again as soon as that is known, and is. */
	queue.late = 0;
	put(sequence);
}

static void answer_list(const meta_free_args *args, meta_free_res *result)
{
	result->items.items_val = calloc(META_FREE_MAX, sizeof(meta_free_item));
	for (uint32_t i = 0; i < queue.count && result->items.items_len < META_FREE_MAX; i++) {
		if (queue.items[i].sequence >= args->first)
			result->items.items_val[result->items.items_len++] = queue.items[i];
	}
	if (queue.late != 0 && queue.late >= args->first)
		take_off(queue.late);
}

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms)
{
	const meta_freed_args *freed = args;
	int error = 0;

	(void)client;
	(void)args_xdr;
	(void)result_xdr;
	(void)timeout_ms;
	pthread_mutex_lock(&queue.lock);
	unsigned int wait_ms = procedure == META_FREED ? queue.slow_ms : 0;
	if (wait_ms > 0) {
		queue.slow_ms = 0;
		pthread_mutex_unlock(&queue.lock);
		nanosleep(&(struct timespec){.tv_sec = wait_ms / 1000}, NULL);
		pthread_mutex_lock(&queue.lock);
	}
	if (procedure == META_HEARTBEAT)
		answer_heartbeat(args, result);
	else if (procedure == META_FREE_LIST)
		answer_list(args, result);
	else if (procedure != META_FREED || queue.hangs)
		error = -ETIMEDOUT;
	if (procedure == META_FREED && queue.hangs) {
		queue.hangs = false;
		queue.late = freed->sequences.sequences_val[0];
	}
	for (uint32_t i = 0;
		procedure == META_FREED && !error && i < freed->sequences.sequences_len; i++)
		take_off(freed->sequences.sequences_val[i]);
	pthread_mutex_unlock(&queue.lock);
	return error;
}

/* Files that exportd wants to be gone, numbered on from 1 as their items are. */
static void want_removed(uint32_t count, bool stray)
{
	for (uint32_t i = 0; i < count && queue.count < ITEMS_MAX; i++) {
		uint64_t number = ++queue.last;

		queue.items[queue.count++] = (meta_free_item){
			.sequence = number, .export_id = 1, .file_id = number, .stray = stray};
	}
}

static uint32_t waiting(void)
{
	pthread_mutex_lock(&queue.lock);
	uint32_t count = queue.count;
	pthread_mutex_unlock(&queue.lock);
	return count;
}

static bool is_there(uint64_t id)
{
	char path[512];

	fixture_side_of(&fixture, numbered(id), 0, path, sizeof(path));
	return access(path, F_OK) == 0;
}

/* -------- the node -------- */

/* A store with two devices of which one is out of service. */
static void begin(void)
{
	char label[300], away[300];

	queue.count = 0;
	queue.last = 0;
	fixture_begin(&fixture, 2);
	fixture_close(&fixture);
	snprintf(label, sizeof(label), "%s/rozo-label", fixture.devices[1]);
	snprintf(away, sizeof(away), "%s/away", fixture.base);
	CU_ASSERT_EQUAL(rename(label, away), 0);
	fixture_open(&fixture);
	fixture_forget_log();
}

static void end(void)
{
	fixture_end(&fixture);
}

/* As the daemon asks: again while something may be left. Returns the last answer. */
static int ask_to_serve(unsigned int times)
{
	int error = -EAGAIN;

	while (times-- > 0 && error == -EAGAIN)
		error = heartbeat_admission(NODE, fixture.store, NULL);
	return error;
}

static void what_a_lost_device_may_have_does_not_keep_a_node_out(void)
{
	begin();
	want_removed(2 * META_FREE_MAX + 10, true);
	put(META_FREE_MAX);
	put(2 * META_FREE_MAX + 5);
	CU_ASSERT_EQUAL(ask_to_serve(3), 0);
	CU_ASSERT(!is_there(META_FREE_MAX));
	CU_ASSERT(!is_there(2 * META_FREE_MAX + 5));
	/* The rest goes when the device is back. */
	CU_ASSERT(waiting() >= 2 * META_FREE_MAX + 8);
	CU_ASSERT_EQUAL(fixture_logged("out of service"), 1);
	CU_ASSERT(fixture_logged("\n") <= 2);
	end();
}

/* A directory in the place of a store file: whether it is there cannot be told. */
static void what_cannot_be_removed_keeps_a_node_out(void)
{
	char path[512];

	begin();
	put(2);
	fixture_side_of(&fixture, numbered(2), 0, path, sizeof(path));
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(unlink(path), 0);
	CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
	fixture_open(&fixture);
	want_removed(2, true);
	CU_ASSERT_EQUAL(ask_to_serve(5), -EAGAIN);
	CU_ASSERT_EQUAL(rmdir(path), 0);
	CU_ASSERT_EQUAL(ask_to_serve(3), 0);
	end();
}

static void what_can_be_removed_is_removed_behind_what_cannot(void)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000000};
	struct heartbeat *heartbeat;
	struct work work;

	begin();
	work_init(&work);
	want_removed(META_FREE_MAX + 10, false);
	put(META_FREE_MAX + 7);
	CU_ASSERT_EQUAL_FATAL(heartbeat_start(&heartbeat, NODE, fixture.store, NULL, &work), 0);
	for (unsigned int i = 0; i < 800 && is_there(META_FREE_MAX + 7); i++)
		nanosleep(&pause, NULL);
	CU_ASSERT(!is_there(META_FREE_MAX + 7));
	/* One that comes later, too. */
	put(META_FREE_MAX + 11);
	pthread_mutex_lock(&queue.lock);
	want_removed(2, false);
	pthread_mutex_unlock(&queue.lock);
	for (unsigned int i = 0; i < 800 && is_there(META_FREE_MAX + 11); i++)
		nanosleep(&pause, NULL);
	CU_ASSERT(!is_there(META_FREE_MAX + 11));
	CU_ASSERT(fixture_logged("removing file") <= 1);
	heartbeat_stop(heartbeat);
	work_destroy(&work);
	end();
}

/*
 * A copy that was removed is not removed again by a list from before exportd knew: the shard that
 * the node was given since would go with it.
 */
static void what_came_after_a_removal_is_not_removed(void)
{
	struct heartbeat *heartbeat;
	struct work work;

	queue.count = queue.last = 0;
	fixture_begin(&fixture, 1);
	work_init(&work);
	want_removed(1, true);
	put(1);
	queue.hangs = true;
	CU_ASSERT_EQUAL_FATAL(heartbeat_start(&heartbeat, NODE, fixture.store, NULL, &work), 0);
	/* The list is gone through again after 10 s. */
	for (unsigned int i = 0; i < 300 && waiting() > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000}, NULL);
	CU_ASSERT_EQUAL(waiting(), 0);
	heartbeat_stop(heartbeat);
	CU_ASSERT(is_there(1));
	work_destroy(&work);
	end();
}

/* Made while a device was out of service, they may have older copies there. */
static void only_of_files_that_go_on_older_copies_are_waited_for(void)
{
	begin();
	put(1);
	put(2);
	want_removed(1, true);
	want_removed(1, false);
	CU_ASSERT_EQUAL(ask_to_serve(3), 0);
	CU_ASSERT(!is_there(1));
	CU_ASSERT(!is_there(2));
	CU_ASSERT_EQUAL(waiting(), 1);
	CU_ASSERT(queue.items[0].stray);
	end();
}

/* The next heartbeat but one has been answered, and what the one before told been heeded. */
static void wait_for_heartbeats(void)
{
	pthread_mutex_lock(&queue.lock);
	uint32_t first = queue.heartbeats, now = first;
	pthread_mutex_unlock(&queue.lock);
	for (unsigned int i = 0; i < 200 && now - first < 2; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000}, NULL);
		pthread_mutex_lock(&queue.lock);
		now = queue.heartbeats;
		pthread_mutex_unlock(&queue.lock);
	}
	CU_ASSERT(now - first >= 2);
}

static void layouts_are_doubted_when_a_metadata_server_has_started(void)
{
	struct heartbeat *heartbeat;
	struct work work;

	begin();
	work_init(&work);
	atomic_store(&doubts, 0);
	CU_ASSERT_EQUAL_FATAL(heartbeat_start(&heartbeat, NODE, fixture.store, NULL, &work), 0);
	wait_for_heartbeats();
	CU_ASSERT_EQUAL(atomic_load(&doubts), 0);
	pthread_mutex_lock(&queue.lock);
	queue.servers = 11;
	pthread_mutex_unlock(&queue.lock);
	wait_for_heartbeats();
	CU_ASSERT_EQUAL(atomic_load(&doubts), 1);
	heartbeat_stop(heartbeat);
	work_destroy(&work);
	queue.servers = 0;
	end();
}

static int slow_sync(int descriptor)
{
	nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000}, NULL);
	return store_io_posix.sync_data(descriptor);
}

/* Each removal waits for a flush. exportd takes a node for dead after 3 s without a heartbeat. */
static void heartbeats_go_on_while_much_is_removed(void)
{
	const uint32_t count = 300;
	struct heartbeat *heartbeat;
	struct store_io io;
	struct work work;

	begin();
	work_init(&work);
	for (uint32_t id = 1; id <= count; id++)
		put(id);
	fixture_close(&fixture);
	io = store_io_posix;
	io.sync_data = slow_sync;
	fixture.io = &io;
	fixture_open(&fixture);
	want_removed(count, false);
	queue.heard_ms = queue.silence_ms = 0;
	CU_ASSERT_EQUAL_FATAL(heartbeat_start(&heartbeat, NODE, fixture.store, NULL, &work), 0);
	for (unsigned int i = 0; i < 600 && waiting() > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000}, NULL);
	heartbeat_stop(heartbeat);
	end_silence();
	CU_ASSERT_EQUAL(waiting(), 0);
	CU_ASSERT(!is_there(1));
	CU_ASSERT(!is_there(count));
	CU_ASSERT(queue.silence_ms < 2000);
	work_destroy(&work);
	end();
}

/*
 * Heartbeats of nodes that have nothing to remove are answered meanwhile, so exportd does not take
 * it for its own standstill that this one is silent.
 */
static void heartbeats_go_on_while_exportds_disk_is_slow(void)
{
	struct heartbeat *heartbeat;
	struct work work;

	queue.count = queue.last = 0;
	fixture_begin(&fixture, 1);
	work_init(&work);
	want_removed(1, false);
	put(1);
	queue.slow_ms = 4000;
	queue.heard_ms = queue.silence_ms = 0;
	CU_ASSERT_EQUAL_FATAL(heartbeat_start(&heartbeat, NODE, fixture.store, NULL, &work), 0);
	for (unsigned int i = 0; i < 200 && waiting() > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000}, NULL);
	heartbeat_stop(heartbeat);
	end_silence();
	CU_ASSERT_EQUAL(waiting(), 0);
	CU_ASSERT(queue.silence_ms < 2000);
	work_destroy(&work);
	fixture_end(&fixture);
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	CU_initialize_registry();
	suite = CU_add_suite("heartbeat", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(what_a_lost_device_may_have_does_not_keep_a_node_out);
	TEST(what_cannot_be_removed_keeps_a_node_out);
	TEST(what_can_be_removed_is_removed_behind_what_cannot);
	TEST(what_came_after_a_removal_is_not_removed);
	TEST(only_of_files_that_go_on_older_copies_are_waited_for);
	TEST(heartbeats_go_on_while_much_is_removed);
	TEST(layouts_are_doubted_when_a_metadata_server_has_started);
	TEST(heartbeats_go_on_while_exportds_disk_is_slow);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures != 0;
}
