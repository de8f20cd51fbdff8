/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Writes and flushes that fail in the middle, and calls that meet on one store file.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rpc/log.h"
#include "rpc/rpc.h"
#include "store_faulty_io.h"
#include "store_fixture.h"

static struct fixture fixture;
static struct store_io io;

/* A store on so many devices, whose file operations may be replaced in `io` before it is opened. */
static void begin(size_t devices, const struct store_io *under)
{
	fixture_begin(&fixture, devices);
	faulty_reset();
	fixture_close(&fixture);
	io = *under;
	fixture.io = &io;
}

static uint32_t remove_file(void)
{
	const store_remove_args args = {.file = FIXTURE_FILE};
	store_status_res res;

	store_remove(fixture.store, &args, &res);
	return res.status;
}

/* -------- failures -------- */

#define BLOCKS 62 /* two groups */

/* Versions whose bytes a failed write has changed in part are not told as if they were whole. */
static void what_a_failed_write_has_spoilt_is_not_called_whole(void)
{
	for (int writes = 0; writes < 8; writes++) {
		begin(1, &faulty_io);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = BLOCKS), 0);
		fixture_commit(&fixture, VERSION(1, 1), 0, BLOCKS);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(2, 1), .count = BLOCKS, .unstable = true),
			0);
		CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
		faulty_writes_left(writes);
		uint32_t status = PUT(&fixture, .version = VERSION(3, 1), .count = BLOCKS,
			.undecided = true, .base = VERSION(2, 1), .unstable = true);
		faulty_writes_left(-1);
		if (writes == 0)
			CU_ASSERT_NOT_EQUAL(status, 0);
		for (uint64_t block = 0; block < BLOCKS; block++) {
			static uint8_t bytes[128 << 10];
			store_read_block head, whole;

			fixture_get(&fixture, &(struct get){.block = block, .headers_only = true},
				&head, NULL);
			fixture_get(&fixture, &(struct get){.block = block}, &whole, bytes);
			CU_ASSERT_FALSE(
				head.state == STORE_FINALIZED &&
				(whole.state == STORE_DAMAGED || whole.state == STORE_TORN));
		}
		CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
		fixture_end(&fixture);
	}
}

static void a_file_that_could_not_be_flushed_when_it_was_closed_can_be_removed(void)
{
	begin(1, &faulty_io);
	fixture.open_files_max = 2;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .unstable = true), 0);
	faulty_sync_after(0);
	for (uint64_t id = 100; id < 110; id++)
		PUT(&fixture, .file = {.export_id = 1, .file_id = id}, .version = VERSION(1, 1),
			.unstable = true);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	CU_ASSERT_EQUAL(remove_file(), EIO);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(remove_file(), 0);
	fixture_end(&fixture);
}

/* What would have to be changed may be on a device that is out of service. */
static void what_is_on_a_lost_device_is_not_called_changed(void)
{
	store_decided run = {.count = 4, .block_version = VERSION(1, 1)};
	const store_commit_args commit = {
		.file = FIXTURE_FILE, .stable = 1, .runs = {.runs_len = 1, .runs_val = &run}};
	const store_missed_args missed = {.file = FIXTURE_FILE,
		.count = 4,
		.block_version = VERSION(1, 1),
		.missed = 2,
		.clear = 1};
	char path[256], label[300], away[320];
	store_status_res res;

	begin(2, &store_io_posix);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 4), 0);
	fixture_side(&fixture, 0, path, sizeof(path));
	fixture_close(&fixture);
	snprintf(label, sizeof(label), "%s/rozo-label",
		fixture.devices[strstr(path, "device1") != NULL]);
	snprintf(away, sizeof(away), "%s.away", label);
	CU_ASSERT_EQUAL_FATAL(rename(label, away), 0);
	fixture_open(&fixture);
	store_commit(fixture.store, &commit, &res);
	CU_ASSERT_EQUAL(res.status, EIO);
	store_missed(fixture.store, &missed, &res);
	CU_ASSERT_EQUAL(res.status, EIO);
	fixture_end(&fixture);
}

/* What keeps a store file from being opened: 0 or a negative errno for each way. */
static struct refusal {
	int read, open, write;
} refusing;

static ssize_t refusing_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (refusing.read != 0 && offset == 0)
		return refusing.read;
	return store_io_posix.read(descriptor, parts, count, offset);
}

static int refusing_open(const char *path, int flags, mode_t mode)
{
	if (refusing.open != 0 && strstr(path, "/shards/") != NULL)
		return refusing.open;
	return store_io_posix.open(path, flags, mode);
}

static ssize_t refusing_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (refusing.write != 0)
		return refusing.write;
	return store_io_posix.write(descriptor, parts, count, offset);
}

static void begin_refusing(void)
{
	begin(1, &store_io_posix);
	io.read = refusing_read;
	io.open = refusing_open;
	io.write = refusing_write;
	fixture_open(&fixture);
}

static uint32_t stat_file(void)
{
	const store_stat_args args = {.file = FIXTURE_FILE};
	store_stat_res res;

	store_stat(fixture.store, &args, &res);
	return res.status;
}

/* Its names are enough to remove it, and trying must not cost the device. */
static void a_file_that_cannot_be_opened_is_removed(void)
{
	static const struct refusal ways[] = {
		{.read = -EIO}, {.open = -EMFILE}, {.write = -ENOSPC}};
	char path[2][512], unfinished[2][600];

	for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
		struct store_capacity device;

		begin_refusing();
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
		fixture_commit(&fixture, VERSION(1, 1), 0, 100);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .missed = 2), 0);
		fixture_close(&fixture);
		for (unsigned int side = 0; side < 2; side++) {
			fixture_side(&fixture, side, path[side], sizeof(path[side]));
			/* As if a side was being made again when the process was killed. */
			snprintf(unfinished[side], sizeof(unfinished[side]), "%s.new", path[side]);
			CU_ASSERT_EQUAL(link(path[side], unfinished[side]), 0);
		}
		/* Cut behind its first group, so that opening it writes. */
		CU_ASSERT_EQUAL(truncate(path[0], 32 * 4096), 0);
		fixture_open(&fixture);
		refusing = ways[way];
		CU_ASSERT_EQUAL(stat_file(), EIO);
		for (unsigned int i = 0; i < 40; i++)
			CU_ASSERT_EQUAL(remove_file(), 0);
		refusing = (struct refusal){0};
		for (unsigned int side = 0; side < 2; side++) {
			CU_ASSERT_NOT_EQUAL(access(path[side], F_OK), 0);
			CU_ASSERT_NOT_EQUAL(access(unfinished[side], F_OK), 0);
		}
		store_capacity(fixture.store, &device, 1);
		CU_ASSERT(device.in_service);
		CU_ASSERT_EQUAL(stat_file(), ENOENT);
		fixture_reopen(&fixture);
		CU_ASSERT_EQUAL(stat_file(), ENOENT);
		fixture_end(&fixture);
	}
}

/* Goes on with what the medium has now, as after a loss of power. */
static void go_on_with_a_copy(void)
{
	char command[512];

	snprintf(command, sizeof(command), "cp -a %s/device0 %s/copy", fixture.base, fixture.base);
	CU_ASSERT_EQUAL_FATAL(system(command), 0);
	fixture_close(&fixture);
	snprintf(fixture.devices[0], sizeof(fixture.devices[0]), "%s/copy", fixture.base);
	fixture_open(&fixture);
}

static void what_the_log_has_of_a_file_that_cannot_be_opened_is_gone_with_it(void)
{
	begin_refusing();
	fixture_close(&fixture);
	fixture.open_files_max = 2;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	for (uint64_t id = 100; id < 104; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1)),
			0);
	refusing.read = -EIO;
	CU_ASSERT_EQUAL(stat_file(), EIO);
	CU_ASSERT_EQUAL(remove_file(), 0);
	refusing.read = 0;
	go_on_with_a_copy();
	CU_ASSERT_EQUAL(stat_file(), ENOENT);
	fixture_end(&fixture);
}

/* -------- calls that meet -------- */

static atomic_bool stop;

static ssize_t slow_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return store_io_posix.read(descriptor, parts, count, offset);
}

static void *read_again_and_again(void *context)
{
	const store_read_args args = {
		.file = FIXTURE_FILE, .geometry = fixture_4_2, .count = 8, .first_block = 0};

	(void)context;
	while (!atomic_load(&stop)) {
		store_read_res res;

		store_read(fixture.store, &args, &res);
		rpc_free(RPC_XDR(xdr_store_read_res), &res);
		/* As a client: a moment until the next call. */
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	return NULL;
}

static void *write_once(void *context)
{
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 100, .unstable = true), 0);
	sem_post(context);
	return NULL;
}

/* Readers overlap all the time. A call's time is 5 s. */
static void a_writer_does_not_wait_for_readers_to_end(void)
{
	pthread_t readers[24], writer;
	struct timespec limit;
	sem_t written;

	begin(1, &store_io_posix);
	io.read = slow_read;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 64), 0);
	atomic_store(&stop, false);
	sem_init(&written, 0, 0);
	for (unsigned int i = 0; i < 24; i++)
		pthread_create(&readers[i], NULL, read_again_and_again, NULL);
	usleep(100000);
	pthread_create(&writer, NULL, write_once, &written);
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 4;
	CU_ASSERT_EQUAL(sem_timedwait(&written, &limit), 0);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < 24; i++)
		pthread_join(readers[i], NULL);
	pthread_join(writer, NULL);
	sem_destroy(&written);
	fixture_end(&fixture);
}

#define GROUPS 2000

static atomic_bool slow;
static atomic_uint pages_read; /* slowly */

static ssize_t read_slowly(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (!atomic_load(&slow))
		return store_io_posix.read(descriptor, parts, count, offset);
	atomic_fetch_add(&pages_read, 1);
	return slow_read(descriptor, parts, count, offset);
}

/* Calls that look at each page of a file, however large it is. */
enum whole { TRUNCATES, COMMITS, WRITES, RECORDS, STATS, LISTS, WHOLES };

static void call_whole(enum whole whole)
{
	store_decided all = {.count = UINT32_MAX, .block_version = VERSION(1, 1)};
	const store_truncate_args truncation = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 2,
		.first_block = 1,
		.block_version = {.generation = UINT64_C(2) << 40}};
	const store_commit_args commit = {
		.file = FIXTURE_FILE, .runs = {.runs_len = 1, .runs_val = &all}};
	const store_missed_args missed = {.file = FIXTURE_FILE,
		.count = UINT32_MAX,
		.block_version = {.generation = UINT64_C(2) << 40},
		.missed = 2};
	struct store_missed_block found;
	store_status_res res = {0};
	store_stat_res stat = {0};
	uint64_t next;
	size_t count;

	switch (whole) {
	case TRUNCATES:
		store_truncate(fixture.store, &truncation, &res);
		break;
	case COMMITS:
		store_commit(fixture.store, &commit, &res);
		break;
	case WRITES:
		res.status = PUT(&fixture, .version = VERSION(2, 1), .first = 3, .commit = all,
			.unstable = true);
		break;
	case RECORDS:
		store_missed(fixture.store, &missed, &res);
		break;
	case STATS:
		store_stat(fixture.store, &(store_stat_args){.file = FIXTURE_FILE}, &stat);
		res.status = stat.status;
		CU_ASSERT_EQUAL(stat.block_count, 1);
		break;
	default:
		CU_ASSERT_EQUAL(store_missed_blocks(
					fixture.store, &FIXTURE_FILE, 1, &found, 1, &count, &next),
			0);
		CU_ASSERT_EQUAL(count, 0);
	}
	CU_ASSERT_EQUAL(res.status, 0);
}

static void *work_on_whole(void *context)
{
	call_whole(*(enum whole *)context);
	atomic_store(&stop, true);
	return NULL;
}

/* What is left of a file after a truncation, or is in the middle of one. */
static void begin_large(enum whole whole)
{
	const uint64_t rows = 31;

	begin(1, &store_io_posix);
	io.read = read_slowly;
	atomic_store(&slow, false);
	fixture_open(&fixture);
	for (uint64_t group = 0; group < GROUPS; group++)
		CU_ASSERT_EQUAL_FATAL(PUT(&fixture, .version = VERSION(1, 1), .first = group * rows,
					      .unstable = true),
			0);
	if (whole >= RECORDS)
		call_whole(TRUNCATES);
}

/* Of a segment of 64 GiB they may read 100,000 pages, each from a disk. */
static void a_call_over_a_whole_file_holds_up_nobody(void)
{
	for (enum whole whole = 0; whole < WHOLES; whole++) {
		unsigned int most = 0;
		pthread_t thread;

		begin_large(whole);
		atomic_store(&slow, true);
		atomic_store(&stop, false);
		pthread_create(&thread, NULL, work_on_whole, &whole);
		while (!atomic_load(&stop)) {
			store_read_block told;

			usleep(10000);
			unsigned int before = atomic_load(&pages_read);
			/* What they answer is not what counts. */
			(void)fixture_get(
				&fixture, &(struct get){.headers_only = true}, &told, NULL);
			(void)PUT(&fixture, .version = VERSION(9, 1), .first = 2, .unstable = true);
			unsigned int meanwhile = atomic_load(&pages_read) - before;
			most = meanwhile > most ? meanwhile : most;
		}
		pthread_join(thread, NULL);
		CU_ASSERT(most < GROUPS / 2);
		fixture_end(&fixture);
	}
}

static _Thread_local enum { NOBODY, WAITS, REMOVES } role;
static sem_t about_to_flush, go_on;
static atomic_bool armed, removal_logged;

int __real_pthread_rwlock_unlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock);

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
	static _Thread_local unsigned int times;
	int result = __real_pthread_rwlock_unlock(lock);

	/* The ones before are after looking for the file. */
	if (role == WAITS && ++times == 3) {
		sem_post(&about_to_flush);
		sem_wait(&go_on);
	}
	return result;
}

static int sync_when_removed(int descriptor)
{
	/* The log, with the record of the removal; then there is time for the other one. */
	if (armed && role == REMOVES && !atomic_exchange(&removal_logged, true)) {
		sem_post(&go_on);
		usleep(300000);
	}
	return store_io_posix.sync_data(descriptor);
}

/* The names are gone in memory only: the medium still has them. */
static int remove_in_memory(const char *path)
{
	return armed && strstr(path, "/shards/") ? 0 : store_io_posix.remove(path);
}

static void *sync_file(void *context)
{
	(void)context;
	role = WAITS;
	fixture_sync(&fixture, FIXTURE_FILE);
	return NULL;
}

static void *remove_it(void *context)
{
	role = REMOVES;
	*(uint32_t *)context = remove_file();
	return NULL;
}

/* A call for a file that is there, which waits for go_on before it flushes. */
static void begin_call(pthread_t *caller, void *(*call)(void *), void *context)
{
	begin(1, &store_io_posix);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 4), 0);
	fixture_close(&fixture);
	io.sync_data = sync_when_removed;
	io.remove = remove_in_memory;
	fixture_open(&fixture);
	sem_init(&about_to_flush, 0, 0);
	sem_init(&go_on, 0, 0);
	pthread_create(caller, NULL, call, context);
	sem_wait(&about_to_flush);
}

/* A SYNC that began before the file was removed tells the log that it has flushed it. */
static void a_flush_does_not_bring_a_removed_file_back(void)
{
	uint32_t removed = UINT32_MAX;
	pthread_t syncer, remover;

	begin_call(&syncer, sync_file, NULL);
	armed = true;
	pthread_create(&remover, NULL, remove_it, &removed);
	pthread_join(remover, NULL);
	pthread_join(syncer, NULL);
	CU_ASSERT_EQUAL(removed, 0);
	CU_ASSERT(removal_logged);
	armed = false;
	go_on_with_a_copy();
	CU_ASSERT_EQUAL(stat_file(), ENOENT);
	fixture_end(&fixture);
}

/* There is nothing to flush any more. */
static void a_flush_that_comes_behind_a_removal_ends(void)
{
	pthread_t syncer;

	alarm(20);
	begin_call(&syncer, sync_file, NULL);
	CU_ASSERT_EQUAL(remove_file(), 0);
	sem_post(&go_on);
	pthread_join(syncer, NULL);
	fixture_end(&fixture);
	alarm(0);
}

static void *read_file(void *context)
{
	const store_read_args args = {.file = FIXTURE_FILE, .geometry = fixture_4_2, .count = 4};

	role = WAITS;
	store_read(fixture.store, &args, context);
	return NULL;
}

/* What may be undecided it flushes first, and looks again: nothing is there any more. */
static void a_read_that_looks_again_behind_a_removal_finds_nothing(void)
{
	store_read_res res;
	pthread_t reader;

	begin_call(&reader, read_file, &res);
	CU_ASSERT_EQUAL(remove_file(), 0);
	sem_post(&go_on);
	pthread_join(reader, NULL);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL_FATAL(res.blocks.blocks_len, 4);
	for (unsigned int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(res.blocks.blocks_val[i].state, STORE_EMPTY);
	CU_ASSERT_EQUAL(res.payload.payload_len, 0);
	free(res.blocks.blocks_val);
	free(res.payload.payload_val);
	fixture_end(&fixture);
}

/* The next read of a store file waits until a flush has failed. */
static atomic_bool read_waits, flush_fails;
static sem_t reading, flush_failed;

static ssize_t read_when_the_flush_has_failed(
	int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (atomic_exchange(&read_waits, false)) {
		sem_post(&reading);
		sem_wait(&flush_failed);
	}
	return store_io_posix.read(descriptor, parts, count, offset);
}

static int sync_or_fail(int descriptor)
{
	return atomic_load(&flush_fails) ? -EIO : store_io_posix.sync_data(descriptor);
}

static void *read_header(void *context)
{
	store_read_block *told = context;

	/* An answer that is none is as good as any. */
	if (fixture_get(&fixture, &(struct get){.headers_only = true}, told, NULL) != 0)
		told->state = STORE_PENDING;
	return NULL;
}

/* A reader that is looking when a flush fails counts its bytes as a holder otherwise. */
static void what_could_not_be_flushed_is_not_told_as_flushed(void)
{
	store_read_block told;
	pthread_t reader;

	begin(1, &store_io_posix);
	io.read = read_when_the_flush_has_failed;
	io.sync_data = sync_or_fail;
	fixture_open(&fixture);
	sem_init(&reading, 0, 0);
	sem_init(&flush_failed, 0, 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .unstable = true), 0);
	atomic_store(&read_waits, true);
	pthread_create(&reader, NULL, read_header, &told);
	sem_wait(&reading);
	atomic_store(&flush_fails, true);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	sem_post(&flush_failed);
	pthread_join(reader, NULL);
	CU_ASSERT_EQUAL(told.state, STORE_PENDING);
	atomic_store(&flush_fails, false);
	sem_destroy(&reading);
	sem_destroy(&flush_failed);
	fixture_end(&fixture);
}

static uint32_t clear_missed(void)
{
	const store_missed_args args = {.file = FIXTURE_FILE,
		.count = 4,
		.block_version = VERSION(1, 1),
		.missed = 2,
		.clear = 1};
	store_status_res res;

	store_missed(fixture.store, &args, &res);
	return res.status;
}

static void records_of_a_file_that_is_not_there_are_cleared(void)
{
	alarm(20);
	begin(1, &store_io_posix);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(clear_missed(), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 4), 0);
	CU_ASSERT_EQUAL(remove_file(), 0);
	CU_ASSERT_EQUAL(clear_missed(), 0);
	fixture_end(&fixture);
	alarm(0);
}

int main(void)
{
	CU_pSuite suite;

	CU_initialize_registry();
	suite = CU_add_suite("store failures", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(what_a_failed_write_has_spoilt_is_not_called_whole);
	TEST(a_file_that_could_not_be_flushed_when_it_was_closed_can_be_removed);
	TEST(what_is_on_a_lost_device_is_not_called_changed);
	TEST(a_file_that_cannot_be_opened_is_removed);
	TEST(what_the_log_has_of_a_file_that_cannot_be_opened_is_gone_with_it);
	TEST(a_writer_does_not_wait_for_readers_to_end);
	TEST(a_call_over_a_whole_file_holds_up_nobody);
	TEST(a_flush_does_not_bring_a_removed_file_back);
	TEST(a_flush_that_comes_behind_a_removal_ends);
	TEST(a_read_that_looks_again_behind_a_removal_finds_nothing);
	TEST(what_could_not_be_flushed_is_not_told_as_flushed);
	TEST(records_of_a_file_that_is_not_there_are_cleared);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
