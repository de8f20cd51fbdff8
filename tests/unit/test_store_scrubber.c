/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * When the scrubber goes through the store again. The store is real; the clock, the thread, exportd
 * and the other nodes are made up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "storaged/orphans.h"
#include "storaged/scrubber.h"
#include "store_fixture.h"
#include "store_periodic.h"

#define NODE 3
#define INTERVAL_S 600
#define SHARDS 6

static struct fixture fixture;
static struct scrubber *scrubber;
static struct work work;

/* -------- exportd and the other nodes -------- */

static int compare_error; /* of the next comparisons */
static uint64_t compare_refused; /* blocks of which stores do not take the shards they lack */
static uint64_t compared; /* the file that was compared last */
static uint32_t compared_all; /* bit i: file i was compared */
static uint32_t lost; /* bit s: the store of shard s has lost all files */
static uint32_t down; /* bit s: the store of shard s does not answer now */
static bool exportd_is_away;
static unsigned int orphans_asked; /* in all passes, of how many files */

int stripe_file_get(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **file)
{
	(void)stripe;
	(void)export_id;
	*file = (struct stripe_file *)(uintptr_t)file_id;
	return 0;
}

void stripe_file_put(struct stripe_file *file)
{
	(void)file;
}

uint32_t stripe_shards_up(struct stripe_file *file, uint32_t segment)
{
	(void)file;
	(void)segment;
	return exportd_is_away ? 0 : ((1u << SHARDS) - 1) & ~down;
}

/* Shard 0 is this node's. */
uint32_t stripe_shard_node(struct stripe_file *file, uint32_t segment, uint32_t shard)
{
	(void)file;
	(void)segment;
	return shard < SHARDS ? NODE + shard : 0;
}

int stripe_block_count(struct stripe_file *file, uint32_t segment, uint64_t *block_count)
{
	(void)segment;
	*block_count = 1;
	compared = (uintptr_t)file;
	compared_all |= 1u << (uintptr_t)file;
	return exportd_is_away ? -ETIMEDOUT : compare_error;
}

bool stripe_shard_exists(struct stripe_file *file, uint32_t segment, uint32_t shard)
{
	(void)file;
	(void)segment;
	return !((lost | down) & (1u << shard));
}

int stripe_heal(struct stripe_file *file, uint32_t segment, uint64_t first_block, uint32_t count,
	uint64_t *healed, uint64_t *left)
{
	(void)file;
	(void)segment;
	(void)first_block;
	(void)count;
	*healed = *left = 0;
	return -EIO;
}

int stripe_heal_range(struct stripe_file *file, uint32_t segment, uint64_t first_block,
	uint32_t count, bool thorough, struct stripe_heal_result *result)
{
	(void)file;
	(void)segment;
	(void)first_block;
	(void)count;
	(void)thorough;
	*result = (struct stripe_heal_result){
		.failed = compare_refused, .left = compare_refused, .unheard = down};
	return 0;
}

int orphans_create(struct orphans **orphans, uint32_t node_id, struct store *store,
	struct stripe *stripe, const char *const *devices, size_t device_count)
{
	(void)node_id;
	(void)store;
	(void)stripe;
	(void)devices;
	(void)device_count;
	*orphans = NULL;
	return 0;
}

void orphans_destroy(struct orphans *orphans)
{
	(void)orphans;
}

void orphans_pass(struct orphans *orphans, int64_t age_ms)
{
	(void)orphans;
	(void)age_ms;
}

void orphans_ask(struct orphans *orphans, const store_file *file)
{
	(void)orphans;
	(void)file;
	orphans_asked++;
}

void orphans_pass_end(struct orphans *orphans)
{
	(void)orphans;
}

uint64_t orphans_removed(const struct orphans *orphans)
{
	(void)orphans;
	return 0;
}

uint64_t orphans_suspected(const struct orphans *orphans)
{
	(void)orphans;
	return 0;
}

/* -------- passes -------- */

static void start(void)
{
	const struct scrubber_options options = {
		.node_id = NODE, .mib_per_second = 100, .interval_s = INTERVAL_S};

	CU_ASSERT_EQUAL_FATAL(scrubber_start(&scrubber, fixture.store, NULL, &work, &options), 0);
}

/* A store with as many files as there are turns, so that one is compared here. */
static void begin(void)
{
	fixture_begin(&fixture, 1);
	for (uint64_t id = 1; id <= SHARDS; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1)),
			0);
	periodic_now_ms = 100000000;
	periodic_each_wait_ms = 1000;
	compare_error = 0;
	work_init(&work);
	start();
	fixture_forget_log();
}

static void end(void)
{
	scrubber_stop(scrubber);
	work_destroy(&work);
	fixture_end(&fixture);
}

/* The seconds until the next pass has begun. */
static time_t next_pass(void)
{
	uint32_t passes = work.told.scrub_passes;
	int64_t start_ms = periodic_now_ms;

	while (work.told.scrub_passes == passes && periodic_now_ms - start_ms < 2000 * INTERVAL_S) {
		periodic_work();
		periodic_now_ms += work.told.scrub_passes == passes ? 1000 : 0;
	}
	return (periodic_now_ms - start_ms) / 1000;
}

static void a_sound_store_is_gone_through_at_intervals(void)
{
	uint64_t first;

	begin();
	CU_ASSERT_EQUAL(next_pass(), 0);
	first = compared;
	CU_ASSERT_EQUAL(next_pass(), INTERVAL_S);
	CU_ASSERT_EQUAL(compared, first);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 0"), 2);
	end();
}

static void what_could_not_be_compared_is_compared_soon(void)
{
	uint64_t failed;
	time_t wait_s;

	begin();
	compare_error = -EIO;
	CU_ASSERT_EQUAL(next_pass(), 0);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 1"), 1);
	failed = compared;
	/* Later than what is damaged, and much sooner than in the next interval. */
	wait_s = next_pass();
	CU_ASSERT(wait_s > 10);
	CU_ASSERT(wait_s <= INTERVAL_S / 4);
	CU_ASSERT_EQUAL(compared, failed);
	compare_error = 0;
	CU_ASSERT_EQUAL(next_pass(), wait_s);
	CU_ASSERT_EQUAL(next_pass(), INTERVAL_S);
	end();
}

/*
 * Another node's disk was replaced: when all others have made one pass, whatever pass it is of
 * each, what it has lost was compared. Here each node compares one of the files.
 */
static void what_a_node_has_lost_is_compared_in_each_pass(void)
{
	begin();
	for (unsigned int pass = 0; pass < 3; pass++) {
		compared_all = 0;
		next_pass();
		CU_ASSERT_EQUAL(compared_all, 1u << 6);
	}
	/* The turns come in the order of shards, and ours after the last one. */
	for (unsigned int pass = 0; pass < 3; pass++) {
		lost = 1u << (SHARDS - 1);
		compared_all = 0;
		next_pass();
		CU_ASSERT_EQUAL(compared_all, 1u << 6 | 1u << 5);
		lost |= 1u << (SHARDS - 2);
		compared_all = 0;
		next_pass();
		CU_ASSERT_EQUAL(compared_all, 1u << 6 | 1u << 5 | 1u << 4);
	}
	lost = 0;
	end();
}

/*
 * Nodes differ in whom they hold for down: a call of one of them came late, say. Nobody leaves a
 * file to others because of that which these leave to him.
 */
static void whose_turn_it_is_does_not_depend_on_who_is_down(void)
{
	begin();
	for (unsigned int shard = 1; shard < SHARDS; shard++) {
		down = 1u << shard;
		compared_all = 0;
		next_pass();
		CU_ASSERT(compared_all & 1u << 6);
	}
	down = 0;
	end();
}

/* The nodes of a segment are asked for when it is to be compared. */
static void what_exportd_does_not_tell_of_is_not_called_compared(void)
{
	begin();
	exportd_is_away = true;
	next_pass();
	CU_ASSERT_EQUAL(fixture_logged(", not compared 6"), 1);
	exportd_is_away = false;
	CU_ASSERT(next_pass() <= INTERVAL_S / 4);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 0"), 1);
	end();
}

/* A node was away for a moment, as when it is restarted: what it lacks was not looked for. */
static void what_was_compared_with_some_nodes_is_not_called_compared(void)
{
	begin();
	down = 1u << 3;
	next_pass();
	CU_ASSERT_EQUAL(fixture_logged(", not compared 1"), 1);
	down = 0;
	CU_ASSERT(next_pass() <= INTERVAL_S / 4);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 0"), 1);
	end();
}

/* As on a full disk: while a shard is lacking another node's disk must not be replaced. */
static void what_lags_and_is_not_taken_is_not_called_compared(void)
{
	begin();
	compare_refused = 1;
	CU_ASSERT_EQUAL(next_pass(), 0);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 1"), 1);
	compare_refused = 0;
	CU_ASSERT(next_pass() <= INTERVAL_S / 4);
	CU_ASSERT_EQUAL(fixture_logged(", not compared 0"), 1);
	CU_ASSERT_EQUAL(next_pass(), INTERVAL_S);
	end();
}

static uint64_t unreadable_ino; /* no page of it can be read from its device */

static ssize_t read_or_fail(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	struct stat status;

	if (fstat(descriptor, &status) == 0 && status.st_ino == unreadable_ino)
		return -EIO;
	return store_io_posix.read(descriptor, parts, count, offset);
}

/* Disks of other nodes are replaced when nothing is left: what cannot be looked at is. */
static void store_files_that_cannot_be_opened_are_left(void)
{
	store_file file = {.export_id = 1, .file_id = 2}, other = {.export_id = 1, .file_id = 3};
	struct store_io io = store_io_posix;
	char path[512], other_path[512];
	struct stat status;

	begin();
	scrubber_stop(scrubber);
	fixture_side_of(&fixture, file, 0, path, sizeof(path));
	CU_ASSERT_EQUAL_FATAL(stat(path, &status), 0);
	unreadable_ino = status.st_ino;
	io.read = read_or_fail;
	fixture.io = &io;
	fixture_reopen(&fixture);
	start();
	orphans_asked = 0;
	CU_ASSERT_EQUAL(next_pass(), 0);
	CU_ASSERT_EQUAL(orphans_asked, SHARDS);
	CU_ASSERT_EQUAL(work.told.scrub_found, 1);
	CU_ASSERT_EQUAL(work.told.scrub_left, 1);
	/* Trying often would have the device taken out of service. */
	CU_ASSERT_EQUAL(next_pass(), INTERVAL_S);
	CU_ASSERT_EQUAL(work.told.scrub_left, 1);
	scrubber_stop(scrubber);

	/* Nor is anything told of what lies where another file should be. */
	unreadable_ino = 0;
	fixture_close(&fixture);
	fixture_side_of(&fixture, other, 0, other_path, sizeof(other_path));
	CU_ASSERT_EQUAL_FATAL(rename(other_path, path), 0);
	fixture_open(&fixture);
	start();
	next_pass();
	CU_ASSERT_EQUAL(work.told.scrub_left, 1);
	end();
}

static char unlisted[512]; /* a directory of store files */
static int list_error;

static int list_or_fail(const char *path, store_io_name each, void *context)
{
	if (list_error && strcmp(path, unlisted) == 0)
		return list_error;
	return store_io_posix.list(path, each, context);
}

static void directories_that_cannot_be_listed_are_left(void)
{
	struct store_io io = store_io_posix;

	begin();
	scrubber_stop(scrubber);
	fixture_side_of(&fixture, (store_file){.export_id = 1, .file_id = 2}, 0, unlisted,
		sizeof(unlisted));
	*strrchr(unlisted, '/') = '\0';
	io.list = list_or_fail;
	fixture.io = &io;
	fixture_reopen(&fixture);
	list_error = -EUCLEAN;
	start();
	CU_ASSERT_EQUAL(next_pass(), 0);
	CU_ASSERT(work.told.scrub_files < SHARDS);
	CU_ASSERT_EQUAL(work.told.scrub_left, 1);
	/* What was short only for a moment is tried again soon. */
	list_error = -ENOMEM;
	CU_ASSERT_EQUAL(next_pass(), INTERVAL_S);
	CU_ASSERT_EQUAL(work.told.scrub_left, 1);
	list_error = 0;
	CU_ASSERT(next_pass() <= 10);
	CU_ASSERT_EQUAL(work.told.scrub_files, SHARDS);
	CU_ASSERT_EQUAL(work.told.scrub_left, 0);
	end();
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	CU_initialize_registry();
	suite = CU_add_suite("scrubber", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(a_sound_store_is_gone_through_at_intervals);
	TEST(what_could_not_be_compared_is_compared_soon);
	TEST(what_a_node_has_lost_is_compared_in_each_pass);
	TEST(whose_turn_it_is_does_not_depend_on_who_is_down);
	TEST(what_exportd_does_not_tell_of_is_not_called_compared);
	TEST(what_was_compared_with_some_nodes_is_not_called_compared);
	TEST(what_lags_and_is_not_taken_is_not_called_compared);
	TEST(store_files_that_cannot_be_opened_are_left);
	TEST(directories_that_cannot_be_listed_are_left);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures != 0;
}
