/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The embedded store and power failures: whatever a failure leaves of the files, the store opens
 * with every transaction that was acknowledged or seen by a reader, in order, and of the others
 * each wholly or not at all. power_io.c records what the store and LMDB do to their files.
 *
 * ROZO_SEEDS: how many histories (default 400). ROZO_SEED: the first of them.
 */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exportd/kv.h"
#include "exportd_fixture.h"
#include "power_io.h"
#include "rpc/log.h"

#define KEYS 48
#define STATES_MAX 4000
#define OBSERVED_MAX 20000
#define MAP_BYTES (64u << 20)

/* What the store is to hold after a number of transactions: which version of each key, 0: none. */
struct state {
	uint32_t versions[KEYS];
	uint64_t began, acknowledged; /* events of the recording; ALL: not in it */
};

static struct state states[STATES_MAX];
static char directory[64];
static struct kv *kv;
static uint64_t random_state;
static uint64_t log_bytes; /* of a file of the log */

static uint64_t random_number(void)
{
	uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* -------- directories -------- */

static void make_directory(void)
{
	snprintf(directory, sizeof(directory), "%s/rozo-power-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
}

static void remove_directory(void)
{
	DIR *listing = opendir(directory);
	char path[400];

	for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(path);
	}
	closedir(listing);
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static void remove_file(const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	CU_ASSERT_EQUAL(unlink(path), 0);
}

static int open_store(void)
{
	return kv_lmdb_open_with_log(directory, MAP_BYTES, log_bytes, &kv);
}

/* -------- the model -------- */

static struct kv_bytes key_of(uint32_t key, char *text)
{
	return (struct kv_bytes){text, (size_t)snprintf(text, 32, "key%02u", key)};
}

/* Mostly short, sometimes of several pages. */
static struct kv_bytes value_of(uint32_t key, uint32_t version, char *text)
{
	size_t length = version % 17 == 0 ? 3000 + version * 7 % 9000 : 20 + version * 13 % 400;

	memset(text, 'a' + (int)(version % 26), length);
	snprintf(text, 32, "%u of %u ", version, key);
	return (struct kv_bytes){text, length};
}

struct comparing {
	const struct state *state;
	uint32_t seen;
	bool same;
};

static int compare_entry(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct comparing *comparing = context;
	static char text[16384];
	struct kv_bytes expected;
	uint32_t number;
	char name[32];

	if (key.bytes == 5 && memcmp(key.data, "count", 5) == 0)
		return 0;
	comparing->seen++;
	memcpy(name, key.data, key.bytes < 31 ? key.bytes : 31);
	name[key.bytes < 31 ? key.bytes : 31] = '\0';
	comparing->same = comparing->same && sscanf(name, "key%u", &number) == 1 && number < KEYS &&
			  comparing->state->versions[number] != 0;
	if (comparing->same) {
		expected = value_of(number, comparing->state->versions[number], text);
		comparing->same = value.bytes == expected.bytes &&
				  memcmp(value.data, expected.data, value.bytes) == 0;
	}
	return 0;
}

static uint64_t count_in(struct kv_txn *txn)
{
	struct kv_bytes value;
	uint64_t count = 0;

	if (kv_get(txn, (struct kv_bytes){"count", 5}, &value) == 0)
		memcpy(&count, value.data, sizeof(count));
	return count;
}

/* True if the store is as after some number of transactions from least to most; *count: which. */
static bool is_right(uint64_t least, uint64_t most, uint64_t *count)
{
	struct comparing comparing = {.same = true};
	uint32_t expected = 0;
	struct kv_txn *txn;

	if (kv_begin(kv, KV_READ, NULL, &txn) != 0)
		return false;
	*count = count_in(txn);
	if (*count >= least && *count <= most) {
		comparing.state = &states[*count];
		for (uint32_t key = 0; key < KEYS; key++)
			expected += comparing.state->versions[key] != 0;
		if (kv_scan(txn, (struct kv_bytes){"a", 1}, 0, compare_entry, &comparing) != 0)
			comparing.same = false;
		comparing.same = comparing.same && comparing.seen == expected;
	} else {
		comparing.same = false;
	}
	kv_abort(txn);
	return comparing.same;
}

/* Some changes; which ones follows from random numbers. state: of the outcome, or NULL. */
static int change_some(struct kv_txn *txn, struct state *state, uint32_t version)
{
	static char text[16384];
	uint32_t changes = 1 + random_number() % 6;
	int result = 0;
	char name[32];

	while (result == 0 && changes-- > 0) {
		uint32_t key = random_number() % KEYS;

		if (random_number() % 4 == 0) {
			result = kv_remove(txn, key_of(key, name));
			if (result == -ENOENT)
				result = 0;
			if (state != NULL)
				state->versions[key] = 0;
		} else {
			result = kv_put(txn, key_of(key, name), value_of(key, version, text));
			if (state != NULL)
				state->versions[key] = version;
		}
	}
	return result;
}

/* Executes transaction number `count`, and keeps what the store is to be then. */
static int transact(uint64_t count)
{
	struct state *state = &states[count];
	uint32_t version = (uint32_t)(random_number() % 1000000 + 1);
	struct kv_txn *txn, *nested;
	int result;

	*state = states[count - 1];
	state->began = power_io_now();
	state->acknowledged = UINT64_MAX;
	result = kv_begin(kv, KV_WRITE, NULL, &txn);
	if (result != 0)
		return result;
	result = kv_put(txn, (struct kv_bytes){"count", 5}, (struct kv_bytes){&count, 8});
	for (uint32_t i = random_number() % 4; result == 0 && i > 0; i--) {
		bool keep = random_number() % 2 == 0;

		result = kv_begin(kv, KV_WRITE, txn, &nested);
		if (result != 0)
			break;
		result = change_some(nested, keep ? state : NULL, version);
		if (keep && result == 0)
			result = kv_commit(nested);
		else
			kv_abort(nested);
	}
	if (result == 0)
		result = change_some(txn, state, version);
	if (result != 0) {
		kv_abort(txn);
		return result;
	}
	result = kv_commit(txn);
	if (result == 0)
		state->acknowledged = power_io_now();
	return result;
}

/* -------- a reader meanwhile -------- */

static struct {
	uint64_t event, count;
} observed[OBSERVED_MAX];
static uint32_t observations;
static atomic_bool stop_reading;

static void *observe(void *context)
{
	struct kv_txn *txn;

	(void)context;
	while (!atomic_load(&stop_reading) && observations < OBSERVED_MAX) {
		if (kv_begin(kv, KV_READ, NULL, &txn) != 0)
			continue;
		observed[observations].count = count_in(txn);
		kv_abort(txn);
		observed[observations++].event = power_io_now();
		usleep(50);
	}
	return NULL;
}

/* -------- histories -------- */

static uint64_t images, checkpoints_at_least;

/*
 * Opens the directory, goes on for a while, and lets the power fail at any moment of that.
 * *least and *most: the numbers of transactions that are allowed, before and after.
 * Returns true if all was right.
 */
static bool live_and_die(uint64_t *least, uint64_t *most)
{
	uint64_t count = 0, opened, events, at, transactions = random_number() % 150;
	pthread_t reader;
	bool closed, reads = random_number() % 2 == 0;
	char before[64], next[64];
	int result;

	power_io_slow("data.mdb", random_number() % 2 == 0 ? 0 : 200);
	power_io_start(directory);
	result = open_store();
	if (result != 0) {
		power_io_stop();
		printf("[opening: %s] ", strerror(-result));
		return false;
	}
	if (!is_right(*least, *most, &count)) {
		power_io_stop();
		printf("[%llu transactions, expected %llu to %llu] ", (unsigned long long)count,
			(unsigned long long)*least, (unsigned long long)*most);
		kv_close(kv);
		return false;
	}
	opened = power_io_now();
	observations = 0;
	atomic_store(&stop_reading, false);
	reads = reads && pthread_create(&reader, NULL, observe, NULL) == 0;
	*least = *most = count;
	for (uint64_t i = 0; i < transactions; i++) {
		CU_ASSERT_EQUAL_FATAL(transact(count + i + 1), 0);
		if (random_number() % 20 == 0)
			usleep(random_number() % 300);
	}
	atomic_store(&stop_reading, true);
	if (reads)
		pthread_join(reader, NULL);
	closed = random_number() % 2 == 0;
	if (!closed)
		power_io_stop();
	kv_close(kv);
	power_io_stop();

	events = power_io_now();
	at = random_number() % (events + 1);
	/* Often while it was being opened, most of all at the end of that. */
	if (random_number() % 4 == 0)
		at = random_number() % (opened + 1);
	if (random_number() % 4 == 0 && opened > 0)
		at = opened - 1 - random_number() % (opened < 10 ? opened : 10);
	if (at >= opened) {
		for (uint64_t i = count + 1; i <= count + transactions; i++) {
			if (states[i].acknowledged <= at)
				*least = i;
			if (states[i].began <= at)
				*most = i;
		}
		for (uint32_t i = 0; reads && i < observations; i++)
			if (observed[i].event <= at && observed[i].count > *least)
				*least = observed[i].count;
	}
	memcpy(before, directory, sizeof(before));
	make_directory();
	power_io_image(at, random_number(), directory);
	memcpy(next, directory, sizeof(next));
	memcpy(directory, before, sizeof(before));
	remove_directory();
	memcpy(directory, next, sizeof(next));
	images++;
	checkpoints_at_least += transactions * 4096 / log_bytes;
	return true;
}

static bool history(uint64_t seed, bool from_before)
{
	uint64_t least = 0, most = 0, count;
	uint32_t lives = 2;
	bool right = true;

	random_state = seed;
	memset(&states[0], 0, sizeof(states[0]));
	log_bytes = random_number() % 2 == 0 ? 64u << 10 : 256u << 10;
	make_directory();
	if (from_before) {
		/* A database without a log, as they were, with something in it. */
		CU_ASSERT_EQUAL_FATAL(open_store(), 0);
		for (uint64_t i = 1; i <= 20; i++)
			CU_ASSERT_EQUAL_FATAL(transact(i), 0);
		kv_close(kv);
		remove_file("checkpoint");
		remove_file("redo-0.log");
		remove_file("redo-1.log");
		least = most = 20;
	} else {
		/* Making a database is another matter: exportd_init() is not finished before. */
		CU_ASSERT_EQUAL_FATAL(open_store(), 0);
		kv_close(kv);
	}
	lives += random_number() % 4;
	for (uint32_t i = 0; right && i < lives; i++)
		right = live_and_die(&least, &most);
	if (right) {
		int result = open_store();

		right = result == 0 && is_right(least, most, &count);
		if (!right)
			printf("[at the end: %s, %llu to %llu] ", strerror(-result),
				(unsigned long long)least, (unsigned long long)most);
		if (result == 0)
			kv_close(kv);
	}
	if (right)
		remove_directory();
	else
		printf("[seed %llu, %s] ", (unsigned long long)seed, directory);
	return right;
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void whatever_a_power_failure_leaves(void)
{
	uint64_t seeds = number_from("ROZO_SEEDS", 400), first = number_from("ROZO_SEED", 1);
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < seeds && wrong < 10; i++)
		wrong += history(first + i, i % 4 == 3) ? 0 : 1;
	printf("%llu power failures ", (unsigned long long)images);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT(images > seeds);
	CU_ASSERT(checkpoints_at_least > 4 * seeds);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"whatever a power failure leaves", whatever_a_power_failure_leaves},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd power", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
