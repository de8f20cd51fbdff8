/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Thousands of random namespace operations, each against a simple model of POSIX in memory: status
 * and outcome must agree. Now and then, and at the end, the model and the metadata are compared
 * wholly and the metadata is checked; sometimes exportd is opened again in between.
 * ROZO_TEST_SEED repeats a run.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exportd/namespace.h"
#include "exportd/record.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define OPERATIONS 6000
#define FILES_MAX 8192
#define NAMES 12 /* few, so that names collide */

static struct fixture fixture;

/* A file of the model; entries[n] of a directory is the file called name n, 0: none. */
struct model_file {
	bool exists;
	uint32_t type;
	uint64_t file_id;
	uint32_t links;
	uint32_t parent;
	uint32_t entries[NAMES];
};

static struct model_file model[FILES_MAX]; /* [0] is nobody, [1] the root */
static uint32_t model_count;
static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
	/* xorshift64* */
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 33) % limit;
}

static const char *name_of(uint32_t n)
{
	static const char *const names[NAMES] = {
		"a", "b", "c", "d", "e", "f", "gg", "hh", "a b", "\xc3\xa4", ".hidden", "...."};

	return names[n];
}

static bool model_empty(const struct model_file *directory)
{
	uint32_t n;

	for (n = 0; n < NAMES; n++)
		if (directory->entries[n] != 0)
			return false;
	return true;
}

/* A file of the model that exists now, or sometimes one that did. */
static uint32_t model_pick(bool directory)
{
	uint32_t tries, file = 1;

	for (tries = 0; tries < 200; tries++) {
		file = 1 + random_below(model_count - 1);
		if (!model[file].exists && random_below(50) != 0)
			continue;
		if (directory && model[file].type != META_DIRECTORY && random_below(50) != 0)
			continue;
		return file;
	}
	return 1;
}

/* What an operation on this directory meets first. */
static int model_directory_status(uint32_t directory)
{
	if (!model[directory].exists)
		return ESTALE;
	return model[directory].type == META_DIRECTORY ? 0 : ENOTDIR;
}

static void model_drop(uint32_t file)
{
	if (model[file].type == META_DIRECTORY || --model[file].links == 0) {
		model[file].links = 0;
		model[file].exists = false;
	}
}

static void random_create(void)
{
	static const uint32_t types[] = {
		META_REGULAR, META_REGULAR, META_DIRECTORY, META_SYMLINK, META_FIFO};
	uint32_t directory = model_pick(true), n = random_below(NAMES);
	uint32_t type = types[random_below(5)];
	int expected = model_directory_status(directory);
	uint64_t file_id = 0;

	if (expected == 0 && model[directory].entries[n] != 0)
		expected = EEXIST;
	CU_ASSERT_EQUAL_FATAL(
		do_create(&fixture, model[directory].file_id, name_of(n), type, &file_id),
		expected);
	if (expected != 0)
		return;
	model[model_count] = (struct model_file){
		.exists = true,
		.type = type,
		.file_id = file_id,
		.links = type == META_DIRECTORY ? 2 : 1,
		.parent = directory,
	};
	model[directory].entries[n] = model_count++;
	if (type == META_DIRECTORY)
		model[directory].links++;
}

static void random_link(void)
{
	uint32_t file = model_pick(false), directory = model_pick(true), n = random_below(NAMES);
	int expected = 0;

	if (!model[file].exists)
		expected = ESTALE;
	else if (model_directory_status(directory) != 0)
		expected = model_directory_status(directory);
	else if (model[file].type == META_DIRECTORY)
		expected = EPERM;
	else if (model[directory].entries[n] != 0)
		expected = EEXIST;
	CU_ASSERT_EQUAL_FATAL(
		do_link(&fixture, model[file].file_id, model[directory].file_id, name_of(n)),
		expected);
	if (expected != 0)
		return;
	model[file].links++;
	model[directory].entries[n] = file;
}

static void random_unlink(bool rmdir)
{
	uint32_t directory = model_pick(true), n = random_below(NAMES);
	uint32_t file = model[directory].entries[n];
	int expected = model_directory_status(directory);

	if (expected == 0 && file == 0)
		expected = ENOENT;
	else if (expected == 0 && rmdir && model[file].type != META_DIRECTORY)
		expected = ENOTDIR;
	else if (expected == 0 && !rmdir && model[file].type == META_DIRECTORY)
		expected = EISDIR;
	else if (expected == 0 && rmdir && !model_empty(&model[file]))
		expected = ENOTEMPTY;
	CU_ASSERT_EQUAL_FATAL(
		rmdir ? do_rmdir(&fixture, model[directory].file_id, name_of(n))
		      : do_unlink(&fixture, model[directory].file_id, name_of(n), NULL),
		expected);
	if (expected != 0)
		return;
	model[directory].entries[n] = 0;
	if (rmdir)
		model[directory].links--;
	model_drop(file);
}

static bool model_below(uint32_t directory, uint32_t ancestor)
{
	while (directory != 1) {
		if (directory == ancestor)
			return true;
		directory = model[directory].parent;
	}
	return ancestor == 1;
}

static void random_rename(void)
{
	uint32_t from = model_pick(true), to = model_pick(true);
	uint32_t from_name = random_below(NAMES), to_name = random_below(NAMES);
	uint32_t moved, replaced;
	uint64_t replaced_id = 0;
	int expected;

	if (random_below(3) == 0)
		to = from;
	moved = model[from].entries[from_name];
	replaced = model[to].entries[to_name];
	expected = model_directory_status(from);
	if (expected == 0)
		expected = model_directory_status(to);
	if (expected == 0 && moved == 0)
		expected = ENOENT;
	if (expected == 0 && model[moved].type == META_DIRECTORY && to != from &&
		model_below(to, moved))
		expected = EINVAL;
	if (expected == 0 && replaced != 0 && replaced != moved) {
		if (model[moved].type == META_DIRECTORY && model[replaced].type != META_DIRECTORY)
			expected = ENOTDIR;
		else if (model[moved].type != META_DIRECTORY &&
			 model[replaced].type == META_DIRECTORY)
			expected = EISDIR;
		else if (model[replaced].type == META_DIRECTORY && !model_empty(&model[replaced]))
			expected = ENOTEMPTY;
	}
	CU_ASSERT_EQUAL_FATAL(do_rename(&fixture, model[from].file_id, name_of(from_name),
				      model[to].file_id, name_of(to_name), &replaced_id),
		expected);
	if (expected != 0 || moved == replaced) {
		CU_ASSERT_EQUAL(replaced_id, 0);
		return;
	}
	model[from].entries[from_name] = 0;
	model[to].entries[to_name] = moved;
	if (model[moved].type == META_DIRECTORY) {
		model[from].links--;
		model[to].links++;
		model[moved].parent = to;
	}
	if (replaced == 0) {
		CU_ASSERT_EQUAL(replaced_id, 0);
		return;
	}
	if (model[replaced].type == META_DIRECTORY)
		model[to].links--;
	model_drop(replaced);
	CU_ASSERT_EQUAL(replaced_id, model[replaced].exists ? 0 : model[replaced].file_id);
}

static void random_lookup(void)
{
	uint32_t directory = model_pick(true), n = random_below(NAMES);
	int expected = model_directory_status(directory);
	uint64_t found;

	if (expected == 0 && model[directory].entries[n] == 0)
		expected = ENOENT;
	CU_ASSERT_EQUAL_FATAL(
		do_lookup(&fixture, model[directory].file_id, name_of(n), &found), expected);
	if (expected == 0)
		CU_ASSERT_EQUAL(found, model[model[directory].entries[n]].file_id);
}

/* Compares one directory with its listing. */
static void compare_directory(uint32_t directory)
{
	struct meta_readdir_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = model[directory].file_id,
		.count = 5,
	};
	struct meta_readdir_res result;
	uint32_t seen = 0, i, n;
	bool eof;

	do {
		memset(&result, 0, sizeof(result));
		namespace_readdir(fixture.exportd, &args, &result);
		CU_ASSERT_EQUAL_FATAL(result.status, 0);
		for (i = 0; i < result.entries.entries_len; i++) {
			const struct meta_entry *entry = &result.entries.entries_val[i];

			for (n = 0; n < NAMES && strcmp(entry->name, name_of(n)) != 0; n++)
				;
			CU_ASSERT_FATAL(n < NAMES);
			CU_ASSERT_EQUAL(seen & (1u << n), 0);
			seen |= 1u << n;
			/* cppcheck-suppress arrayIndexOutOfBounds ; the assertion is fatal */
			uint32_t expected = model[directory].entries[n];
			CU_ASSERT_EQUAL(entry->attributes.file_id, model[expected].file_id);
			args.cookie = entry->cookie;
		}
		eof = result.eof;
		rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	} while (!eof);
	for (n = 0; n < NAMES; n++)
		CU_ASSERT_EQUAL((seen >> n) & 1, model[directory].entries[n] != 0);
}

static void compare_all(void)
{
	struct meta_attributes attributes;
	uint32_t i, exists = 0;
	struct meta_statfs_args args = {.export_id = FIXTURE_EXPORT};
	struct meta_statfs_res statfs = {0};

	for (i = 1; i < model_count; i++) {
		CU_ASSERT_EQUAL_FATAL(do_getattr(&fixture, model[i].file_id, &attributes),
			model[i].exists ? 0 : ESTALE);
		if (!model[i].exists)
			continue;
		exists++;
		CU_ASSERT_EQUAL(attributes.type, model[i].type);
		CU_ASSERT_EQUAL(attributes.links, model[i].links);
		if (model[i].type == META_DIRECTORY) {
			CU_ASSERT_EQUAL(attributes.parent_id, model[model[i].parent].file_id);
			compare_directory(i);
		}
	}
	namespace_statfs(fixture.exportd, &args, &statfs);
	CU_ASSERT_EQUAL(statfs.files, exists);
	CU_ASSERT_EQUAL_FATAL(fixture_faults(&fixture), 0);
}

static void random_operations_agree_with_the_model(void)
{
	const char *seed = getenv("ROZO_TEST_SEED");
	uint64_t first = seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	uint32_t i, kind;

	printf("ROZO_TEST_SEED=%llu ", (unsigned long long)first);
	fflush(stdout);
	random_state = first * 0x9e3779b97f4a7c15ull + 1;
	fixture_open(&fixture, 6);
	fixture_all_up(&fixture);
	model[1] = (struct model_file){
		.exists = true,
		.type = META_DIRECTORY,
		.file_id = RECORD_ROOT_ID,
		.links = 2,
		.parent = 1,
	};
	model_count = 2;
	for (i = 0; i < OPERATIONS && model_count < FILES_MAX; i++) {
		kind = random_below(20);
		if (kind < 7)
			random_create();
		else if (kind < 9)
			random_link();
		else if (kind < 12)
			random_unlink(false);
		else if (kind < 14)
			random_unlink(true);
		else if (kind < 19)
			random_rename();
		else
			random_lookup();
		if (i % 1000 == 999) {
			fixture_reopen(&fixture);
			fixture_all_up(&fixture);
			compare_all();
		}
	}
	compare_all();
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"random operations agree with the model", random_operations_agree_with_the_model},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd model", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
