/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The key-value store and the group commit: order, isolation, operations that fail alone, many
 * operations in few commits.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exportd/commit.h"
#include "exportd_fixture.h"

static char directory[64];
static struct kv *kv;
static struct commit *commit;

static void open_store(void)
{
	snprintf(directory, sizeof(directory), "/tmp/rozo-commit-XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	CU_ASSERT_EQUAL_FATAL(kv_lmdb_open(directory, 64 << 20, &kv), 0);
	commit = commit_create(kv);
	CU_ASSERT_PTR_NOT_NULL_FATAL(commit);
}

static void close_store(void)
{
	static const char *const files[] = {
		"data.mdb", "lock.mdb", "checkpoint", "redo-0.log", "redo-1.log"};
	char path[128];

	commit_destroy(commit);
	kv_close(kv);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
		CU_ASSERT_EQUAL(unlink(path), 0);
	}
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static struct kv_bytes bytes(const char *text)
{
	return (struct kv_bytes){text, strlen(text)};
}

static bool has(struct kv_txn *txn, const char *key, const char *expected)
{
	struct kv_bytes value;
	int result = kv_get(txn, bytes(key), &value);

	if (expected == NULL)
		return result == -ENOENT && value.bytes == 0;
	return result == 0 && value.bytes == strlen(expected) &&
	       memcmp(value.data, expected, value.bytes) == 0;
}

static void transactions_are_isolated_and_nest(void)
{
	struct kv_txn *read, *write, *nested;

	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_READ, NULL, &read), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, NULL, &write), 0);
	CU_ASSERT_EQUAL(kv_put(write, bytes("a"), bytes("1")), 0);
	CU_ASSERT(has(write, "a", "1"));
	CU_ASSERT(has(read, "a", NULL));
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, write, &nested), 0);
	CU_ASSERT_EQUAL(kv_put(nested, bytes("a"), bytes("2")), 0);
	CU_ASSERT_EQUAL(kv_put(nested, bytes("b"), bytes("2")), 0);
	kv_abort(nested);
	CU_ASSERT(has(write, "a", "1"));
	CU_ASSERT(has(write, "b", NULL));
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, write, &nested), 0);
	CU_ASSERT_EQUAL(kv_put(nested, bytes("c"), bytes("3")), 0);
	CU_ASSERT_EQUAL(kv_commit(nested), 0);
	CU_ASSERT(has(write, "c", "3"));
	CU_ASSERT_EQUAL(kv_commit(write), 0);
	CU_ASSERT(has(read, "a", NULL));
	kv_abort(read);
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_READ, NULL, &read), 0);
	CU_ASSERT(has(read, "a", "1"));
	CU_ASSERT(has(read, "c", "3"));
	kv_abort(read);
	kv_abort(NULL);
}

static int collect(void *context, struct kv_bytes key, struct kv_bytes value)
{
	char *seen = context;

	(void)value;
	strncat(seen, key.data, key.bytes);
	strncat(seen, " ", 2);
	return strcmp(seen, "stop ") == 0 ? 7 : 0;
}

static void scans_are_ordered_and_bounded(void)
{
	static const char *const keys[] = {"b2", "a", "b1", "c", "b", "b10", "stop", "stop2"};
	char seen[128] = "";
	struct kv_txn *txn;
	uint32_t i;

	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, NULL, &txn), 0);
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		CU_ASSERT_EQUAL(kv_put(txn, bytes(keys[i]), bytes("")), 0);
	CU_ASSERT_EQUAL(kv_scan(txn, bytes("b"), 1, collect, seen), 0);
	CU_ASSERT_STRING_EQUAL(seen, "b b1 b10 b2 ");
	seen[0] = '\0';
	CU_ASSERT_EQUAL(kv_scan(txn, bytes("b11"), 1, collect, seen), 0);
	CU_ASSERT_STRING_EQUAL(seen, "b2 ");
	seen[0] = '\0';
	CU_ASSERT_EQUAL(kv_scan(txn, bytes("b3"), 1, collect, seen), 0);
	CU_ASSERT_STRING_EQUAL(seen, "");
	CU_ASSERT_EQUAL(kv_scan(txn, bytes("st"), 2, collect, seen), 7);
	CU_ASSERT_EQUAL(kv_remove(txn, bytes("none")), -ENOENT);
	CU_ASSERT_EQUAL(kv_remove(txn, bytes("b1")), 0);
	CU_ASSERT(has(txn, "b1", NULL));
	CU_ASSERT_EQUAL(kv_put(txn, bytes(""), bytes("x")), -EINVAL);
	CU_ASSERT_EQUAL(kv_commit(txn), 0);
}

#define THREADS 16
#define ROUNDS 60

/* Adds one to a counter in the store; every third fails after having done so. */
struct addition {
	bool fail;
};

static int add_one(struct kv_txn *txn, void *context)
{
	const struct addition *addition = context;
	struct kv_bytes value;
	uint64_t number = 0;
	int result;

	result = kv_get(txn, bytes("counter"), &value);
	if (result == 0)
		memcpy(&number, value.data, sizeof(number));
	else if (result != -ENOENT)
		return result;
	number++;
	result = kv_put(txn, bytes("counter"), (struct kv_bytes){&number, sizeof(number)});
	if (result == 0 && addition->fail)
		return -EBADMSG;
	return result;
}

static _Atomic uint64_t succeeded;

static void *add_many(void *context)
{
	uintptr_t thread = (uintptr_t)context, wrong = 0, i;

	for (i = 0; i < ROUNDS; i++) {
		struct addition addition = {.fail = (thread + i) % 3 == 0};
		int result = commit_execute(commit, add_one, &addition);

		if (result != (addition.fail ? -EBADMSG : 0))
			wrong++;
		if (result == 0)
			atomic_fetch_add(&succeeded, 1);
	}
	return (void *)wrong;
}

static void failing_operations_fail_alone(void)
{
	pthread_t threads[THREADS];
	uint64_t operations, commits, number = 0;
	struct kv_bytes value;
	struct kv_txn *txn;
	void *wrong;
	uintptr_t i;

	atomic_store(&succeeded, 0);
	for (i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, add_many, (void *)i), 0);
	for (i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &wrong);
		CU_ASSERT_PTR_NULL(wrong);
	}
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_READ, NULL, &txn), 0);
	CU_ASSERT_EQUAL_FATAL(kv_get(txn, bytes("counter"), &value), 0);
	memcpy(&number, value.data, sizeof(number));
	kv_abort(txn);
	CU_ASSERT_EQUAL(number, atomic_load(&succeeded));
	CU_ASSERT_EQUAL(number, THREADS * ROUNDS * 2 / 3);
	commit_counts(commit, &operations, &commits);
	CU_ASSERT_EQUAL(operations, THREADS * ROUNDS);
	CU_ASSERT(commits <= operations);
	printf("%llu operations in %llu commits ", (unsigned long long)operations,
		(unsigned long long)commits);
}

/* The leader waits inside its operation until all others are queued: they share one commit. */
static atomic_bool leader_inside;
static atomic_bool leader_may_end;

static int lead_slowly(struct kv_txn *txn, void *context)
{
	(void)txn;
	(void)context;
	atomic_store(&leader_inside, true);
	while (!atomic_load(&leader_may_end))
		usleep(1000);
	return kv_put(txn, bytes("leader"), bytes("x"));
}

static void *execute_leader(void *context)
{
	(void)context;
	return (void *)(intptr_t)commit_execute(commit, lead_slowly, NULL);
}

static _Atomic uint32_t asked;

static void *execute_follower(void *context)
{
	struct addition addition = {.fail = context != NULL};

	atomic_fetch_add(&asked, 1);
	return (void *)(intptr_t)commit_execute(commit, add_one, &addition);
}

/* Starts an operation that holds up the others until leader_may_end. */
static void lead(pthread_t *leader)
{
	atomic_store(&leader_inside, false);
	atomic_store(&leader_may_end, false);
	atomic_store(&asked, 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(leader, NULL, execute_leader, NULL), 0);
	while (!atomic_load(&leader_inside))
		usleep(1000);
}

static void wait_for_followers(unsigned int count)
{
	while (atomic_load(&asked) < count)
		usleep(1000);
	usleep(200000); /* from "asked" into the queue; if one is late there is one commit more */
}

static void waiting_operations_share_a_commit(void)
{
	pthread_t leader, followers[THREADS];
	uint64_t operations, commits;
	void *result;
	uintptr_t i;

	lead(&leader);
	for (i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&followers[i], NULL, execute_follower,
					      i == 3 ? (void *)1 : NULL),
			0);
	wait_for_followers(THREADS);
	atomic_store(&leader_may_end, true);
	pthread_join(leader, &result);
	CU_ASSERT_PTR_NULL(result);
	for (i = 0; i < THREADS; i++) {
		pthread_join(followers[i], &result);
		CU_ASSERT_EQUAL((intptr_t)result, i == 3 ? -EBADMSG : 0);
	}
	commit_counts(commit, &operations, &commits);
	CU_ASSERT_EQUAL(operations, THREADS + 1);
	CU_ASSERT(commits <= 4);
}

/* A store whose next write transaction that is not nested is lost, as by a full disk. */
static const struct kv_operations *sound;
static struct kv_txn *to_be_lost;

static int begin_to_be_lost(
	struct kv *store, enum kv_mode mode, struct kv_txn *parent, struct kv_txn **txn)
{
	int result = sound->begin(store, mode, parent, txn);

	if (result == 0 && mode == KV_WRITE && parent == NULL)
		to_be_lost = *txn;
	return result;
}

static int commit_nested_only(struct kv_txn *txn)
{
	if (txn != to_be_lost)
		return sound->commit(txn);
	sound->abort(txn);
	return -ENOSPC;
}

static int make_name(struct kv_txn *txn, void *context)
{
	(void)context;
	return has(txn, "name", NULL) ? kv_put(txn, bytes("name"), bytes("x")) : -EEXIST;
}

static void *execute_make_name(void *context)
{
	(void)context;
	atomic_fetch_add(&asked, 1);
	return (void *)(intptr_t)commit_execute(commit, make_name, NULL);
}

static void what_is_lost_is_no_reason(void)
{
	struct kv_operations losing = *kv->operations;
	pthread_t leader, makers[3];
	struct kv_txn *txn;
	void *result;

	lead(&leader);
	for (size_t i = 0; i < 3; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&makers[i], NULL, execute_make_name, NULL), 0);
	wait_for_followers(3);
	/* From here on; the leader's own transaction has begun. */
	sound = kv->operations;
	to_be_lost = NULL;
	losing.begin = begin_to_be_lost;
	losing.commit = commit_nested_only;
	kv->operations = &losing;
	atomic_store(&leader_may_end, true);
	pthread_join(leader, &result);
	CU_ASSERT_PTR_NULL(result);
	/* All three found or made the name, and no name is there. */
	for (size_t i = 0; i < 3; i++) {
		pthread_join(makers[i], &result);
		CU_ASSERT_EQUAL((intptr_t)result, -ENOSPC);
	}
	kv->operations = sound;
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_READ, NULL, &txn), 0);
	CU_ASSERT(has(txn, "name", NULL));
	kv_abort(txn);
}

static int fill(struct kv_txn *txn, void *context)
{
	static char large[1 << 20];
	char key[32];
	uint32_t i;
	int result = 0;

	for (i = 0; result == 0 && i < *(uint32_t *)context; i++) {
		snprintf(key, sizeof(key), "large%u", i);
		result = kv_put(txn, bytes(key), (struct kv_bytes){large, sizeof(large)});
	}
	return result;
}

static void a_full_store_refuses_and_goes_on(void)
{
	uint32_t too_many = 100, few = 5;
	struct addition addition = {.fail = false};
	struct kv_txn *txn;

	CU_ASSERT_EQUAL(commit_execute(commit, fill, &too_many), -ENOSPC);
	CU_ASSERT_EQUAL(commit_execute(commit, fill, &few), 0);
	CU_ASSERT_EQUAL(commit_execute(commit, add_one, &addition), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_READ, NULL, &txn), 0);
	CU_ASSERT(has(txn, "large50", NULL));
	kv_abort(txn);
}

/* As the removal of the largest file: many small changes, most of them to the same pages. */
static void many_changes_reserve_no_more_than_they_may_need(void)
{
	enum { CHANGES = 100000 };
	char place[] = "/tmp/rozo-commit-XXXXXX", key[32], path[128];
	struct kv_txn *txn;
	struct stat status;
	struct kv *large;
	int result = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(place));
	CU_ASSERT_EQUAL_FATAL(kv_lmdb_open(place, (size_t)16 << 30, &large), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(large, KV_WRITE, NULL, &txn), 0);
	for (unsigned int i = 0; i < CHANGES && result == 0; i++) {
		snprintf(key, sizeof(key), "%020u", i);
		result = kv_put(txn, bytes(key), bytes("a value of twenty-four b"));
	}
	CU_ASSERT_EQUAL(result, 0);
	CU_ASSERT_EQUAL(kv_commit(txn), 0);
	snprintf(path, sizeof(path), "%s/data.mdb", place);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	printf("%lld MiB set aside for %lld ", (long long)status.st_blocks >> 11,
		(long long)status.st_size >> 20);
	CU_ASSERT(status.st_blocks * 512 < 4 * status.st_size);
	kv_close(large);
	snprintf(path, sizeof(path), "rm -r %s", place);
	CU_ASSERT_EQUAL(system(path), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"transactions are isolated and nest", transactions_are_isolated_and_nest},
		{"scans are ordered and bounded", scans_are_ordered_and_bounded},
		{"failing operations fail alone", failing_operations_fail_alone},
		{"waiting operations share a commit", waiting_operations_share_a_commit},
		{"what is lost is no reason", what_is_lost_is_no_reason},
		{"many changes reserve no more than they may need",
			many_changes_reserve_no_more_than_they_may_need},
		{"a full store refuses and goes on", a_full_store_refuses_and_goes_on},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd commit", NULL, NULL, open_store, close_store, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
