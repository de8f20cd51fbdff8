/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The shard store on a device that is full to the last byte of what new data may use: what is there
 * can be overwritten, all of it and in any order, truncated and removed.
 *
 * Each test fills a file system of its own in memory, in a process with mounts of its own; that
 * needs root, without which there is nothing to see here.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_fixture.h"

#define DEVICE_MIB 96
#define FILES 7
#define FILE_BLOCKS_MAX 4096
#define RUN 16 /* blocks that are written together when the device is filled */

static struct fixture fixture;

/* What was acknowledged. */
static struct model {
	uint64_t blocks;
	uint64_t versions[FILE_BLOCKS_MAX];
} models[FILES];

#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "line %d: not " #condition "\n", __LINE__);                \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)

static store_file key_of(unsigned int file)
{
	return (store_file){.export_id = 1, .file_id = file + 1};
}

static uint32_t commit(unsigned int file, uint64_t first, uint32_t count, uint64_t version)
{
	store_decided run = {
		.first_block = first, .count = count, .block_version = VERSION(version, 1)};
	store_commit_args args = {.file = key_of(file), .runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;

	store_commit(fixture.store, &args, &res);
	return res.status;
}

/* Writes the version that follows to some blocks that have the same one. */
static uint32_t overwrite(unsigned int file, uint64_t first, uint32_t count)
{
	uint64_t *versions = models[file].versions;
	uint64_t version = versions[first] + 1;
	uint32_t status = PUT(&fixture, .file = key_of(file), .version = VERSION(version, 1),
		.exact = true, .base = VERSION(version - 1, 1), .first = first, .count = count);

	for (uint32_t i = 0; i < count && status == 0; i++)
		versions[first + i] = version;
	return status;
}

/* Fills the device. Returns 0, or 1 if that does not end as it should. */
static int fill(void)
{
	uint32_t status = 0;

	for (uint64_t first = 0; status == 0; first += RUN) {
		for (unsigned int file = 0; file < FILES && status == 0; file++) {
			MUST(first + RUN <= FILE_BLOCKS_MAX);
			status = PUT(&fixture, .file = key_of(file), .version = VERSION(1, 1),
				.first = first, .count = RUN);
			if (status != 0)
				break;
			for (unsigned int i = 0; i < RUN; i++)
				models[file].versions[first + i] = 1;
			models[file].blocks = first + RUN;
			MUST(commit(file, first, RUN, 1) == 0);
		}
	}
	MUST(status == ENOSPC);
	return 0;
}

static int all_is_there(void)
{
	for (unsigned int file = 0; file < FILES; file++) {
		for (uint64_t block = 0; block < models[file].blocks; block++) {
			store_version version = VERSION(models[file].versions[block], 1);
			const struct get get = {.file = key_of(file), .block = block};

			MUST(fixture_is(&fixture, &get, version, STORE_COMMITTED) ||
				fixture_is(&fixture, &get, version, STORE_FINALIZED));
		}
	}
	return 0;
}

struct place {
	unsigned int file;
	uint64_t block;
};

/*
 * All blocks, one by one, in random order: each group gets its page on side b. The store hears of a
 * decision only after `lag` further writes.
 */
static int blocks_at_random(void)
{
	enum { LAG = 64 };
	size_t total = 0;
	struct place *places;

	for (unsigned int file = 0; file < FILES; file++)
		total += models[file].blocks;
	places = calloc(total, sizeof(*places));
	MUST(places != NULL);
	for (unsigned int file = 0, n = 0; file < FILES; file++) {
		for (uint64_t block = 0; block < models[file].blocks; block++)
			places[n++] = (struct place){file, block};
	}
	for (size_t i = 0; i < total; i++) {
		size_t other = i + fixture_random() % (total - i);
		struct place place = places[other];

		places[other] = places[i];
		places[i] = place;
	}
	for (size_t i = 0; i < total + LAG; i++) {
		if (i >= LAG) {
			const struct place *decided = &places[i - LAG];

			MUST(commit(decided->file, decided->block, 1,
				     models[decided->file].versions[decided->block]) == 0);
		}
		if (i < total)
			MUST(overwrite(places[i].file, places[i].block, 1) == 0);
	}
	free(places);
	return 0;
}

/* All blocks in order, as a client writes 1 MiB, each decided when the next one is sent. */
static int files_from_end_to_end(void)
{
	enum { COUNT = 64 };

	for (unsigned int file = 0; file < FILES; file++) {
		for (uint64_t first = 0; first < models[file].blocks; first += COUNT) {
			uint64_t left = models[file].blocks - first;
			uint32_t count = left < COUNT ? (uint32_t)left : COUNT;

			if (first > 0)
				MUST(commit(file, first - COUNT, COUNT, models[file].versions[0]) ==
					0);
			MUST(overwrite(file, first, count) == 0);
		}
		MUST(commit(file, 0, (uint32_t)models[file].blocks, models[file].versions[0]) == 0);
	}
	return 0;
}

static int truncate_and_remove(void)
{
	for (unsigned int file = 0; file < FILES; file++) {
		store_truncate_args truncate = {.file = key_of(file),
			.geometry = fixture_4_2,
			.write_epoch = 2,
			.first_block = models[file].blocks / 2 + file,
			.block_version = VERSION(100, 1)};
		store_status_res res;

		store_truncate(fixture.store, &truncate, &res);
		MUST(res.status == 0);
		models[file].blocks = truncate.first_block;
	}
	MUST(all_is_there() == 0);
	for (unsigned int file = 0; file < FILES; file++) {
		store_remove_args remove = {.file = key_of(file)};
		store_status_res res;

		store_remove(fixture.store, &remove, &res);
		MUST(res.status == 0);
		models[file] = (struct model){0};
	}
	return 0;
}

/* Returns 0 if this process has a small file system at the device's place now, or 77. */
static int mount_device(void)
{
	char options[32], error[512];

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return 77;
	snprintf(options, sizeof(options), "size=%dm", DEVICE_MIB);
	MUST(mount("store-test", fixture.devices[0], "tmpfs", 0, options) == 0);
	MUST(store_init_device(NULL, fixture.devices[0], FIXTURE_CLUSTER, FIXTURE_NODE, error,
		     sizeof(error)) == 0);
	return 0;
}

static int on_a_full_device(int (*test)(void))
{
	int status = mount_device();

	if (status != 0)
		return status;
	fixture_open(&fixture);
	MUST(fill() == 0);
	MUST(test() == 0);
	MUST(all_is_there() == 0);
	fixture_reopen(&fixture);
	MUST(all_is_there() == 0);
	MUST(truncate_and_remove() == 0);
	/* All of it can be used again. */
	MUST(fill() == 0);
	MUST(all_is_there() == 0);
	fixture_close(&fixture);
	return 0;
}

static void in_a_process(int (*test)(void))
{
	int status;
	pid_t child;

	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	child = fork();
	if (child == 0)
		_exit(on_a_full_device(test));
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("(not root: skipped) ");
	else
		CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
	fixture_end(&fixture);
}

static void blocks_are_overwritten_at_random(void)
{
	in_a_process(blocks_at_random);
}

static void files_are_overwritten_from_end_to_end(void)
{
	in_a_process(files_from_end_to_end);
}

int main(void)
{
	CU_pSuite suite;

	CU_initialize_registry();
	suite = CU_add_suite("full device", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(blocks_are_overwritten_at_random);
	TEST(files_are_overwritten_from_end_to_end);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
