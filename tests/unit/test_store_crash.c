/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The shard store under what goes wrong around it: processes killed, power lost, flushes that fail,
 * no space, and many callers at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rpc/crc32c.h"
#include "store_faulty_io.h"
#include "store_fixture.h"
#include "storaged/store_internal.h"

static struct fixture fixture;

static void begin_faulty(void)
{
	faulty_reset();
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	fixture.io = &faulty_io;
	fixture_open(&fixture);
}

/* From now on the device is one that forgets; the store's log on it, too. */
static void remember(void)
{
	fixture_close(&fixture);
	faulty_remember();
	fixture_open(&fixture);
}

static void end_faulty(void)
{
	faulty_sync_after(-1);
	faulty_writes_left(-1);
	faulty_free_bytes(UINT64_MAX);
	fixture_end(&fixture);
	faulty_reset();
}

/* The process dies: nothing more is written or flushed. */
static void die_and_close(void)
{
	faulty_dead(true);
	fixture_close(&fixture);
	faulty_dead(false);
}

/* -------- killed -------- */

struct acknowledged {
	uint64_t block;
	uint64_t number; /* of the version */
	uint64_t count;
};

#define KILL_BLOCKS 300

/* Writes stably for ever, telling each write once it was answered. */
static void write_until_killed(int pipe, uint64_t seed)
{
	uint64_t newest[KILL_BLOCKS] = {0}, number = 0;

	fixture_seed(seed);
	fixture_open(&fixture);
	while (true) {
		number++;
		struct acknowledged done = {
			.block = fixture_random() % KILL_BLOCKS,
			.number = number,
			.count = 1 + fixture_random() % 80,
		};
		uint64_t base;

		if (done.block + done.count > KILL_BLOCKS)
			done.count = KILL_BLOCKS - done.block;
		base = newest[done.block];
		for (uint64_t i = 1; i < done.count; i++) {
			if (newest[done.block + i] != base)
				done.count = i;
		}
		if (PUT(&fixture, .version = VERSION(number, 1), .first = done.block,
			    .count = (uint32_t)done.count, .exact = base != 0,
			    .base = VERSION(base, 1)) != 0)
			_exit(1);
		for (uint64_t i = 0; i < done.count; i++)
			newest[done.block + i] = number;
		if (write(pipe, &done, sizeof(done)) != sizeof(done))
			_exit(2);
		if (fixture_random() % 4 == 0)
			fixture_commit(
				&fixture, VERSION(number, 1), done.block, (uint32_t)done.count);
	}
}

static void what_was_acknowledged_survives_sigkill(void)
{
	uint64_t total = 0;

	for (uint64_t round = 1; round <= 25; round++) {
		uint64_t expected[KILL_BLOCKS] = {0};
		struct acknowledged done;
		int ends[2], status;
		pid_t child;

		fixture_begin(&fixture, 1);
		fixture_close(&fixture);
		CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
		child = fork();
		CU_ASSERT_FATAL(child >= 0);
		if (child == 0) {
			close(ends[0]);
			write_until_killed(ends[1], round);
		}
		close(ends[1]);
		/* At any moment of the write after some, or of one soon after. */
		for (uint64_t left = 1 + fixture_random() % 12;
			read(ends[0], &done, sizeof(done)) == sizeof(done); left--) {
			total++;
			for (uint64_t i = 0; i < done.count; i++)
				expected[done.block + i] = done.number;
			if (left == 0)
				nanosleep(
					&(struct timespec){
						.tv_nsec = (long)(fixture_random() % 4000) * 1000},
					NULL);
			if (left == 0)
				kill(child, SIGKILL);
		}
		close(ends[0]);
		CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
		CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		fixture_open(&fixture);
		for (uint64_t block = 0; block < KILL_BLOCKS; block++) {
			store_read_block told;
			store_version version;

			CU_ASSERT_EQUAL_FATAL(
				fixture_get(&fixture, &(struct get){.block = block}, &told, NULL),
				0);
			version = VERSION(expected[block], 1);
			if (store_version_compare(told.block_version, version) == 0) {
				CU_ASSERT(IS(&fixture, block, version, told.state));
			} else if (expected[block] != 0) {
				/* A newer one was on its way: this one is below. */
				const struct get get = {.block = block, .version = version};
				CU_ASSERT(fixture_is(&fixture, &get, version, STORE_COMMITTED) ||
					  fixture_is(&fixture, &get, version, STORE_FINALIZED));
			}
		}
		fixture_end(&fixture);
	}
	printf("%llu writes ", (unsigned long long)total);
	CU_ASSERT(total > 100);
}

/* -------- power loss -------- */

#define MODEL_BLOCKS 80

/* What is known of one block. */
struct model {
	uint64_t top; /* newest version written; 0: none */
	bool top_durable; /* and it was told to be durable */
	bool top_empty; /* written by a truncation */
	uint64_t decided; /* newest version that was decided (durable then), 0: none */
	bool decided_empty;
};

static struct model model[MODEL_BLOCKS];
static uint64_t model_number, model_epoch;

static void model_written(uint64_t first, uint64_t count, uint64_t number, bool durable, bool empty)
{
	for (uint64_t i = first; i < first + count; i++) {
		model[i].top = number;
		model[i].top_durable = durable;
		model[i].top_empty = empty;
	}
}

/* One operation of a well-behaved writer. */
static void model_step(void)
{
	uint64_t first = fixture_random() % MODEL_BLOCKS;
	uint64_t count = 1 + fixture_random() % 12;
	struct model before;

	if (first + count > MODEL_BLOCKS)
		count = MODEL_BLOCKS - first;
	before = model[first];
	for (uint64_t i = 1; i < count; i++) {
		if (model[first + i].top != before.top)
			count = i;
	}
	switch (fixture_random() % 10) {
	case 0 ... 4: {
		bool unstable = fixture_random() % 2;
		/* Only what is durable can be decided; else the writer knows that it was not. */
		bool exact =
			before.top != 0 && (before.top_durable || before.top == before.decided);

		model_number++;
		if (fixture_random() % 50 == 0)
			model_epoch++;
		CU_ASSERT_EQUAL_FATAL(
			PUT(&fixture, .version = VERSION(model_number, 1), .first = first,
				.count = (uint32_t)count, .unstable = unstable, .exact = exact,
				.base = exact ? VERSION(before.top, 1) : VERSION(0, 0),
				.epoch = (uint32_t)model_epoch),
			0);
		for (uint64_t i = first; i < first + count; i++) {
			if (exact) {
				model[i].decided = model[i].top;
				model[i].decided_empty = model[i].top_empty;
			}
		}
		model_written(first, count, model_number, !unstable, false);
		break;
	}
	case 5:
		CU_ASSERT_EQUAL_FATAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
		for (uint64_t i = 0; i < MODEL_BLOCKS; i++)
			model[i].top_durable = model[i].top_durable || model[i].top != 0;
		break;
	case 6:
	case 7:
		if (before.top == 0 || !before.top_durable)
			break;
		fixture_commit(&fixture, VERSION(before.top, 1), first, (uint32_t)count);
		for (uint64_t i = first; i < first + count; i++) {
			model[i].decided = model[i].top;
			model[i].decided_empty = model[i].top_empty;
		}
		break;
	case 8:
		if (before.top == 0 || before.top_durable)
			break;
		fixture_discard(&fixture, VERSION(before.top, 1), first, (uint32_t)count);
		for (uint64_t i = first; i < first + count; i++) {
			model[i].top = model[i].decided;
			model[i].top_empty = model[i].decided_empty;
			/* What was discarded may come back, and is then discarded again. */
			model[i].top_durable = false;
		}
		break;
	case 9: {
		store_truncate_args args = {.file = FIXTURE_FILE,
			.geometry = fixture_4_2,
			.write_epoch = (uint32_t)model_epoch,
			.first_block = first,
			.block_version = VERSION(++model_number, 1)};
		store_status_res res;

		if (fixture_random() % 3 != 0)
			break;
		store_truncate(fixture.store, &args, &res);
		CU_ASSERT_EQUAL_FATAL(res.status, 0);
		for (uint64_t i = first; i < MODEL_BLOCKS; i++) {
			if (model[i].top == 0)
				continue;
			model_written(i, 1, model_number, true, true);
			model[i].decided = model_number;
			model[i].decided_empty = true;
		}
		break;
	}
	}
}

/* Compares the store after power loss with what was promised. Takes over what was found. */
static void model_check(uint64_t seed)
{
	unsigned int failures = CU_get_number_of_failures();

	for (uint64_t block = 0; block < MODEL_BLOCKS; block++) {
		struct model *expected = &model[block];
		store_version top = VERSION(expected->top, 1),
			      decided = VERSION(expected->decided, 1);
		uint8_t bytes[8192], wanted[8192];
		store_read_block told, below;

		CU_ASSERT_EQUAL_FATAL(
			fixture_get(&fixture, &(struct get){.block = block}, &told, bytes), 0);
		if (told.state != STORE_TORN && told.state != STORE_EMPTY) {
			fixture_bytes(told.block_version, block, 0, wanted, told.shard_bytes);
			CU_ASSERT_EQUAL(memcmp(bytes, wanted, told.shard_bytes), 0);
			CU_ASSERT(told.state != STORE_PENDING);
		}
		if (expected->top != 0 && expected->top_durable) {
			CU_ASSERT_EQUAL(store_version_compare(told.block_version, top), 0);
			CU_ASSERT(told.state == STORE_FINALIZED || told.state == STORE_COMMITTED);
			CU_ASSERT_EQUAL(told.length_bytes, expected->top_empty ? 0 : 16384);
		} else if (expected->decided != 0 &&
			   store_version_compare(told.block_version, decided) != 0) {
			CU_ASSERT(told.state == STORE_TORN || told.state == STORE_FINALIZED);
			CU_ASSERT_EQUAL(fixture_get(&fixture,
						&(struct get){.block = block, .version = decided},
						&below, bytes),
				0);
			CU_ASSERT(below.state == STORE_FINALIZED || below.state == STORE_COMMITTED);
			fixture_bytes(decided, block, 0, wanted, below.shard_bytes);
			CU_ASSERT_EQUAL(memcmp(bytes, wanted, below.shard_bytes), 0);
		} else if (expected->decided != 0) {
			CU_ASSERT(told.state == STORE_FINALIZED || told.state == STORE_COMMITTED);
		}
		/* A header says the same as the whole. */
		CU_ASSERT_EQUAL(
			fixture_get(&fixture, &(struct get){.block = block, .headers_only = true},
				&below, NULL),
			0);
		CU_ASSERT_EQUAL(below.state, told.state);
		CU_ASSERT_EQUAL(store_version_compare(below.block_version, told.block_version), 0);
		/* What the settling writer does: discards what is not decided, or takes it for
		 * good. */
		if (told.state == STORE_FINALIZED || told.state == STORE_COMMITTED) {
			expected->top = told.block_version.generation & 0xffffffff;
			expected->top_durable = true;
			expected->top_empty = told.length_bytes == 0;
		} else if (told.state == STORE_EMPTY) {
			expected->top = 0;
			expected->top_durable = false;
		} else {
			/* Damaged: written anew, above everything. */
			model_number++;
			CU_ASSERT_EQUAL(
				PUT(&fixture, .version = VERSION(model_number, 1), .first = block,
					.exact = true, .base = VERSION(model_number - 1, 1),
					.epoch = (uint32_t)model_epoch),
				0);
			expected->top = model_number;
			expected->top_durable = true;
			expected->top_empty = false;
			expected->decided = 0;
		}
	}
	if (CU_get_number_of_failures() != failures)
		fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
}

static void what_was_promised_survives_power_loss(void)
{
	/* STORE_TEST_SEEDS=last or =first-last */
	const char *range = getenv("STORE_TEST_SEEDS");
	uint64_t first = 1, last = 150;

	if (range != NULL && sscanf(range, "%" SCNu64 "-%" SCNu64, &first, &last) == 1) {
		last = first;
		first = 1;
	}
	for (uint64_t seed = first; seed <= last; seed++) {
		begin_faulty();
		fixture.freed_bytes_max = seed % 3 == 0 ? 0 : seed % 3 == 1 ? 1 : 40 * 4096;
		remember();
		fixture_seed(seed);
		memset(model, 0, sizeof(model));
		model_number = 1;
		model_epoch = 1;
		for (int loss = 0; loss < 4; loss++) {
			uint64_t steps = fixture_random() % 40;

			for (uint64_t i = 0; i < steps; i++)
				model_step();
			die_and_close();
			faulty_power_loss(fixture_random);
			fixture_open(&fixture);
			model_check(seed);
		}
		end_faulty();
	}
}

static void what_is_finalized_after_a_crash_stays(void)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		uint32_t states[60];

		begin_faulty();
		remember();
		fixture_seed(seed);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(1, 1), .count = 60, .unstable = true), 0);
		/* The process dies, the machine does not: the bytes are there, durable or not. */
		die_and_close();
		fixture_open(&fixture);
		/* A small stable write makes nothing durable but itself, if it goes to the log. */
		if (seed % 2)
			CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 61), 0);
		for (uint64_t block = 0; block < 60; block++)
			states[block] = fixture_state(&fixture, block, NULL);
		die_and_close();
		faulty_power_loss(fixture_random);
		fixture_open(&fixture);
		for (uint64_t block = 0; block < 60; block++) {
			if (states[block] == STORE_FINALIZED)
				CU_ASSERT(IS(&fixture, block, VERSION(1, 1), STORE_FINALIZED));
		}
		end_faulty();
	}
}

static void a_risen_epoch_survives_power_loss(void)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		store_truncate_args truncate = {.file = FIXTURE_FILE,
			.geometry = fixture_4_2,
			.write_epoch = 9,
			.first_block = 1000,
			.block_version = VERSION(9, 1)};
		store_status_res res;

		begin_faulty();
		remember();
		fixture_seed(seed);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(1, 1), .epoch = 2, .count = 40), 0);
		/* Side b is there, and page 0 says how long it is, so nothing else touches that
		 * page. */
		for (uint64_t block = 30; block < 35; block++)
			CU_ASSERT_EQUAL(
				PUT(&fixture, .version = VERSION(2, 1), .epoch = 2, .first = block,
					.exact = true, .base = VERSION(1, 1)),
				0);
		/* Far from page 0, on side b, or by a truncation that finds nothing. */
		if (seed % 3 == 0) {
			CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .epoch = 9,
						.first = 35, .exact = true, .base = VERSION(1, 1)),
				0);
		} else if (seed % 3 == 1) {
			CU_ASSERT_EQUAL(
				PUT(&fixture, .version = VERSION(2, 1), .epoch = 9, .first = 500),
				0);
		} else {
			store_truncate(fixture.store, &truncate, &res);
		}
		die_and_close();
		faulty_power_loss(fixture_random);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(3, 2), .epoch = 8, .first = 600), ESTALE);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(3, 2), .epoch = 9, .first = 600), 0);
		end_faulty();
	}
}

/* What a write that failed has left is found by the next call, which must not rely on it. */
static void what_a_failed_write_has_left_is_flushed(void)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		store_missed_args missed = {.file = FIXTURE_FILE,
			.count = 1,
			.block_version = VERSION(1, 1),
			.missed = 4};
		store_status_res res;
		store_read_block told;

		begin_faulty();
		remember();
		fixture_seed(seed);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
		faulty_writes_left(0);
		faulty_writes_torn(true);
		store_missed(fixture.store, &missed, &res);
		CU_ASSERT_EQUAL(res.status, ENOSPC);
		faulty_writes_left(-1);
		store_missed(fixture.store, &missed, &res);
		CU_ASSERT_EQUAL(res.status, 0);
		die_and_close();
		faulty_power_loss(fixture_random);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(
			fixture_get(&fixture,
				&(struct get){.version = VERSION(1, 1), .headers_only = true},
				&told, NULL),
			0);
		CU_ASSERT_EQUAL(told.missed, 4);
		end_faulty();
	}
}

/* -------- errors of the device -------- */

static void a_failed_flush_is_never_forgotten(void)
{
	store_file other = {.export_id = 1, .file_id = 77};

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	faulty_sync_after(0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1)), EIO);
	/* A second flush would succeed, without the bytes. */
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1)), EIO);
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){0}, &(store_read_block){0}, NULL), EIO);
	CU_ASSERT(fixture_logged("flush failed") > 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = other, .version = VERSION(1, 1)), 0);
	/* Not by being evicted, either. */
	fixture.open_files_max = 4;
	for (uint64_t id = 100; id < 120; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1)),
			0);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1)), 0);
	end_faulty();
}

static void a_flush_that_fails_at_eviction_is_kept(void)
{
	fixture_begin(&fixture, 1);
	faulty_reset();
	fixture.io = &faulty_io;
	fixture.open_files_max = 2;
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .unstable = true), 0);
	faulty_sync_after(0);
	for (uint64_t id = 100; id < 110; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1), .unstable = true),
			0);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1)), EIO);
	end_faulty();
}

static void stable_writes_cost_one_flush(void)
{
	unsigned int before;

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 64), 0);
	before = faulty_syncs();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 64, .count = 64), 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 1);
	/* On side b for the first time: two sides and a name. */
	fixture_commit(&fixture, VERSION(1, 1), 0, 64);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .count = 64), 0);
	before = faulty_syncs();
	fixture_commit(&fixture, VERSION(2, 1), 64, 64);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1), .first = 64, .count = 64), 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1), .first = 128, .unstable = true), 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 1);
	end_faulty();
}

/* 512 KiB of shards and a little more. */
static uint32_t put_half_a_stream(uint64_t generation, bool unstable)
{
	return PUT(&fixture, .version = VERSION(generation, 1), .first = generation * 128,
		.count = 128, .unstable = unstable);
}

static void only_unstable_streams_are_written_back_early(void)
{
	begin_faulty();
	for (uint64_t i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(put_half_a_stream(1 + i, false), 0);
	for (uint64_t i = 0; i < 300; i++)
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(10, 1), .first = 10000 + i,
					.unstable = true),
			0);
	CU_ASSERT_EQUAL(faulty_write_backs(), 0);
	unsigned int syncs = faulty_syncs();
	CU_ASSERT_EQUAL(put_half_a_stream(20, true), 0);
	CU_ASSERT_EQUAL(faulty_write_backs(), 0);
	CU_ASSERT_EQUAL(put_half_a_stream(21, true), 0);
	CU_ASSERT_EQUAL(faulty_write_backs(), 1);
	/* That is no flush. */
	CU_ASSERT_EQUAL(faulty_syncs(), syncs);
	CU_ASSERT(IS(&fixture, 21 * 128, VERSION(21, 1), STORE_PENDING));
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
	CU_ASSERT_EQUAL(faulty_syncs(), syncs + 1);
	CU_ASSERT(IS(&fixture, 21 * 128, VERSION(21, 1), STORE_FINALIZED));
	end_faulty();
}

static void a_failed_write_back_is_never_forgotten(void)
{
	store_file other = {.export_id = 1, .file_id = 77};

	begin_faulty();
	faulty_write_back(true);
	CU_ASSERT_EQUAL(put_half_a_stream(1, true), 0);
	CU_ASSERT_EQUAL(put_half_a_stream(2, true), 0);
	CU_ASSERT_EQUAL(faulty_write_backs(), 1);
	faulty_write_back(false);
	/* A flush would succeed, perhaps without the bytes. */
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), EIO);
	CU_ASSERT_EQUAL(put_half_a_stream(3, true), EIO);
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){0}, &(store_read_block){0}, NULL), EIO);
	CU_ASSERT(fixture_logged("writing back failed") > 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = other, .version = VERSION(1, 1)), 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(put_half_a_stream(4, false), 0);
	end_faulty();
}

static void a_full_device_refuses_before_damage(void)
{
	store_truncate_args truncate = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 1,
		.first_block = 50,
		.block_version = VERSION(9, 1)};
	store_remove_args remove = {.file = FIXTURE_FILE};
	struct store_capacity capacity;
	store_status_res res;

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	faulty_free_bytes(1 << 20);
	store_capacity(fixture.store, &capacity, 1);
	CU_ASSERT_EQUAL(capacity.free_bytes, 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 100, .count = 10), ENOSPC);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 100, NULL), STORE_EMPTY);
	/* Commits, truncation and removal still work. */
	fixture_commit(&fixture, VERSION(1, 1), 0, 100);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	/* Overwriting has the reserve but 16 MiB, and new blocks beside it have nothing. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .count = 10), ENOSPC);
	faulty_free_bytes(32 << 20);
	store_capacity(fixture.store, &capacity, 1);
	CU_ASSERT_EQUAL(capacity.free_bytes, 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .count = 10), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 95, .count = 6), ENOSPC);
	CU_ASSERT(IS(&fixture, 95, VERSION(1, 1), STORE_COMMITTED));
	faulty_free_bytes(1 << 20);
	store_truncate(fixture.store, &truncate, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	store_remove(fixture.store, &remove, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	faulty_free_bytes(UINT64_MAX);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1)), 0);
	end_faulty();
}

/* What is chosen by its room must not be one that takes nothing any more. */
static void a_device_that_refuses_writes_tells_no_room(void)
{
	struct store_capacity capacity;

	begin_faulty();
	store_capacity(fixture.store, &capacity, 1);
	const uint64_t reserve = STORE_RESERVE_PAGES(capacity.total_bytes) +
				 STORE_RESERVE_FLIGHT(capacity.total_bytes);
	faulty_free_bytes(reserve + 300000);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), ENOSPC);
	store_capacity(fixture.store, &capacity, 1);
	CU_ASSERT_EQUAL(capacity.free_bytes, 0);
	faulty_free_bytes(reserve + (100 << 20));
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	store_capacity(fixture.store, &capacity, 1);
	CU_ASSERT_EQUAL(capacity.free_bytes, 100 << 20);
	faulty_free_bytes(UINT64_MAX);
	end_faulty();
}

static void running_out_of_space_in_a_write_harms_nothing_older(void)
{
	for (int writes = 0; writes < 12; writes++) {
		begin_faulty();
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
		fixture_commit(&fixture, VERSION(1, 1), 0, 100);
		faulty_writes_left(writes);
		uint32_t status = PUT(&fixture, .version = VERSION(2, 1), .count = 100);
		CU_ASSERT_EQUAL(status == 0, writes >= 8);
		CU_ASSERT(writes > 0 || status == ENOSPC);
		faulty_writes_left(-1);
		/* To its writer that means that the version is not here, nor ever will be. */
		for (uint64_t block = 0; status == ENOSPC && block < 100; block++)
			CU_ASSERT(IS(&fixture, block, VERSION(1, 1), STORE_COMMITTED));
		for (int again = 0; again < 2; again++) {
			for (uint64_t block = 0; block < 100; block++) {
				CU_ASSERT(fixture_is(&fixture,
					&(struct get){.block = block, .version = VERSION(1, 1)},
					VERSION(1, 1), STORE_COMMITTED));
				CU_ASSERT(fixture_state(&fixture, block, NULL) != STORE_DAMAGED);
			}
			fixture_reopen(&fixture);
		}
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .count = 100), 0);
		end_faulty();
	}
}

/* In a process of its own with a file system of 16 MiB. */
static int fill_a_small_device(void)
{
	char error[512];
	uint64_t block = 0, newest;
	store_remove_args remove = {.file = FIXTURE_FILE};
	store_status_res res;
	uint32_t status;

	if (mount("store-test", fixture.devices[0], "tmpfs", 0, "size=16m") != 0)
		return 10;
	if (store_init_device(NULL, fixture.devices[0], FIXTURE_CLUSTER, FIXTURE_NODE, error,
		    sizeof(error)) != 0)
		return 11;
	fixture_open(&fixture);
	while ((status = PUT(&fixture, .version = VERSION(1, 1), .first = block, .count = 16)) == 0)
		block += 16;
	if (status != ENOSPC || block * 4096 < (12u << 20))
		return 12;
	/* Not even the last one is half there. */
	if (fixture_state(&fixture, block, NULL) != STORE_EMPTY)
		return 13;
	fixture_reopen(&fixture);
	for (newest = 0; newest < block; newest++) {
		if (!IS(&fixture, newest, VERSION(1, 1), STORE_FINALIZED))
			return 14;
	}
	fixture_commit(&fixture, VERSION(1, 1), 0, (uint32_t)block);
	if (PUT(&fixture, .version = VERSION(2, 1), .first = block, .count = 16) != ENOSPC)
		return 15;
	store_remove(fixture.store, &remove, &res);
	if (res.status != 0)
		return 16;
	if (PUT(&fixture, .version = VERSION(3, 1), .count = 1000) != 0)
		return 17;
	fixture_close(&fixture);
	return 0;
}

static void a_small_device_fills_up_cleanly(void)
{
	int status;
	pid_t child;

	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	child = fork();
	if (child == 0) {
		/* Needs the right to mount; without it there is nothing to see here. */
		if (unshare(CLONE_NEWNS) != 0 ||
			mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
			_exit(77);
		_exit(fill_a_small_device());
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("(not root: skipped) ");
	else
		CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
	fixture_end(&fixture);
}

/* -------- many callers -------- */

#define THREADS 8
#define SHARED_BLOCKS 40
#define THREAD_ROUNDS 150

static _Atomic uint64_t successes;

/* Adds one to the generation of a block, as a writer that lost tries again. */
static void *increment(void *argument)
{
	uint64_t who = (uint64_t)(uintptr_t)argument, x = who * 77;

	for (int round = 0; round < THREAD_ROUNDS; round++) {
		uint64_t block = (x = x * UINT64_C(6364136223846793005) + 1442695040888963407) %
				 SHARED_BLOCKS;
		store_read_args read = {.file = FIXTURE_FILE,
			.geometry = fixture_4_2,
			.first_block = block / 4 * 4,
			.count = 4};
		store_read_res res;

		while (true) {
			store_version base, next;
			uint32_t status;

			store_read(fixture.store, &read, &res);
			if (res.status != 0)
				abort();
			base = res.blocks.blocks_val[block % 4].block_version;
			for (uint32_t i = 0, at = 0; i < 4; i++) {
				const store_read_block *told = &res.blocks.blocks_val[i];

				if (told->state == STORE_DAMAGED ||
					rozo_crc32c(res.payload.payload_val + at,
						told->shard_bytes) != told->crc32c)
					abort();
				at += told->shard_bytes;
			}
			rpc_free(RPC_XDR(xdr_store_read_res), &res);
			next = VERSION((base.generation & 0xffffff) + 1, who);
			status = fixture_put(&fixture,
				&(struct put){.version = next,
					.first = block,
					.exact = true,
					.base = base,
					.unstable = round % 3 == 0},
				NULL);
			if (status == 0)
				break;
			if (status != EAGAIN)
				abort();
		}
		successes++;
		if (round % 10 == 0 && fixture_sync(&fixture, FIXTURE_FILE) != 0)
			abort();
	}
	return NULL;
}

/* Other files meanwhile: made, read, evicted, removed. */
static void *churn(void *argument)
{
	for (uint64_t i = 0; i < 200; i++) {
		store_file file = {.export_id = 9,
			.file_id = i % 20,
			.segment = (uint32_t)(uintptr_t)argument % 2};
		store_remove_args remove = {.file = file};
		store_read_block told;
		store_status_res res;

		fixture_put(&fixture,
			&(struct put){.file = file,
				.version = VERSION(i + 1, 1),
				.count = 3,
				.unstable = true,
				.missed = i % 5 == 0},
			NULL);
		fixture_get(&fixture, &(struct get){.file = file}, &told, NULL);
		if (i % 7 == 0)
			fixture_sync(&fixture, file);
		if (i % 11 == 0)
			store_remove(fixture.store, &remove, &res);
	}
	return NULL;
}

static int count_scanned(void *context, const struct store_missed_file *file)
{
	(void)file;
	++*(unsigned int *)context;
	return 0;
}

static void concurrent_writers_lose_no_update(void)
{
	pthread_t threads[THREADS + 2];
	uint64_t total = 0;
	unsigned int scanned = 0;

	fixture_begin(&fixture, 1);
	fixture.open_files_max = 8;
	fixture_reopen(&fixture);
	successes = 0;
	for (uintptr_t i = 0; i < THREADS + 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL,
					      i < THREADS ? increment : churn, (void *)(i + 1)),
			0);
	for (int i = 0; i < 20; i++)
		store_missed_scan(fixture.store, count_scanned, &scanned);
	for (int i = 0; i < THREADS + 2; i++)
		pthread_join(threads[i], NULL);
	fixture_reopen(&fixture);
	for (uint64_t block = 0; block < SHARED_BLOCKS; block++) {
		store_version version;

		CU_ASSERT_EQUAL(fixture_state(&fixture, block, &version), STORE_FINALIZED);
		total += version.generation & 0xffffff;
	}
	CU_ASSERT_EQUAL(total, successes);
	CU_ASSERT_EQUAL(total, THREADS * THREAD_ROUNDS);
	fixture_end(&fixture);
}

int main(void)
{
	CU_pSuite suite;

	signal(SIGPIPE, SIG_IGN);
	CU_initialize_registry();
	suite = CU_add_suite("store crash", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(what_was_acknowledged_survives_sigkill);
	TEST(what_was_promised_survives_power_loss);
	TEST(what_is_finalized_after_a_crash_stays);
	TEST(a_risen_epoch_survives_power_loss);
	TEST(what_a_failed_write_has_left_is_flushed);
	TEST(a_failed_flush_is_never_forgotten);
	TEST(only_unstable_streams_are_written_back_early);
	TEST(a_failed_write_back_is_never_forgotten);
	TEST(a_flush_that_fails_at_eviction_is_kept);
	TEST(stable_writes_cost_one_flush);
	TEST(a_full_device_refuses_before_damage);
	TEST(a_device_that_refuses_writes_tells_no_room);
	TEST(running_out_of_space_in_a_write_harms_nothing_older);
	TEST(a_small_device_fills_up_cleanly);
	TEST(concurrent_writers_lose_no_update);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
