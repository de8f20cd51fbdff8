/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The namespace operations against the rules of POSIX and of meta.x. After every test the whole
 * metadata is checked.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/namespace.h"
#include "exportd/record.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define ROOT RECORD_ROOT_ID

static struct fixture fixture;

static void open_fixture(void)
{
	fixture_open(&fixture, 6);
	fixture_all_up(&fixture);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* As the RPC server calls it: the result is zeroed before. */
static void create(const struct meta_create_args *args, struct meta_create_res *result)
{
	memset(result, 0, sizeof(*result));
	namespace_create(fixture.exportd, args, result);
}

static void attach_tells_the_code(void)
{
	struct meta_attach_args args = {.name = (char *)"data"};
	struct meta_attach_res result = {0}, again = {0};

	namespace_attach(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.export_id, FIXTURE_EXPORT);
	CU_ASSERT_EQUAL(result.root_id, ROOT);
	CU_ASSERT_EQUAL(result.k, 4);
	CU_ASSERT_EQUAL(result.m, 2);
	CU_ASSERT_EQUAL(result.row_bytes, 4096);
	CU_ASSERT_EQUAL(result.min_shards, 4);
	CU_ASSERT_EQUAL(result.segment_blocks, (1 << 20) / 16384);
	fixture_reopen(&fixture);
	namespace_attach(fixture.exportd, &args, &again);
	CU_ASSERT_EQUAL(again.filesystem_id, result.filesystem_id);
	CU_ASSERT_NOT_EQUAL(again.filesystem_id, 0);
	args.name = (char *)"other";
	namespace_attach(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, ENOENT);
}

static void create_gives_attributes_and_placement(void)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"file",
		.type = META_REGULAR,
		.how = META_CREATE_GUARDED,
		.set = {.mask = META_SET_MODE | META_SET_UID | META_SET_GID | META_SET_MTIME,
			.mode = 04751,
			.uid = 1000,
			.gid = 100,
			.modify_time = {.seconds = -5, .nanoseconds = 7}},
		.target = (char *)"",
	};
	struct meta_create_res result = {0};
	struct meta_placement_res placement;
	struct meta_attributes before = attributes_of(&fixture, ROOT);
	uint64_t file_id;

	fixture_time_ms(2000);
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 1);
	CU_ASSERT_EQUAL(result.attributes.type, META_REGULAR);
	CU_ASSERT_EQUAL(result.attributes.mode, 04751);
	CU_ASSERT_EQUAL(result.attributes.uid, 1000);
	CU_ASSERT_EQUAL(result.attributes.gid, 100);
	CU_ASSERT_EQUAL(result.attributes.links, 1);
	CU_ASSERT_EQUAL(result.attributes.size, 0);
	CU_ASSERT_EQUAL(result.attributes.parent_id, ROOT);
	CU_ASSERT_EQUAL(result.attributes.modify_time.seconds, -5);
	CU_ASSERT_EQUAL(result.attributes.modify_time.nanoseconds, 7);
	CU_ASSERT_EQUAL(result.attributes.change_time.seconds, 1700000002);
	CU_ASSERT(result.directory.change > before.change);
	CU_ASSERT_EQUAL(result.directory.modify_time.seconds, 1700000002);
	CU_ASSERT_EQUAL(result.directory.change_time.seconds, 1700000002);
	CU_ASSERT_EQUAL(result.directory.links, 2);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "file", &file_id), 0);
	CU_ASSERT_EQUAL(file_id, result.attributes.file_id);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.nodes.nodes_len, 6);
	CU_ASSERT_EQUAL(placement.layout_epoch, 1);
	CU_ASSERT_EQUAL(placement.write_epoch, 1);
	CU_ASSERT_EQUAL(placement.segment_count, 1);
	CU_ASSERT_NOT_EQUAL(placement.write_gateway, 0);
}

static void create_kinds_of_existing(void)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"file",
		.type = META_REGULAR,
		.how = META_CREATE_EXCLUSIVE,
		.verifier = 77,
		.target = (char *)"",
	};
	struct meta_create_res result = {0};
	uint64_t file_id;

	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.attributes.verifier, 77);
	file_id = result.attributes.file_id;

	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 0);
	CU_ASSERT_EQUAL(result.attributes.file_id, file_id);

	args.verifier = 78;
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EEXIST);
	args.how = META_CREATE_GUARDED;
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EEXIST);
	args.how = META_CREATE_UNCHECKED;
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 0);
	CU_ASSERT_EQUAL(result.attributes.file_id, file_id);

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, NULL), 0);
	args.name = (char *)"dir";
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EISDIR);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "link", META_SYMLINK, NULL), 0);
	args.name = (char *)"link";
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EEXIST);
	CU_ASSERT_EQUAL(result.attributes.type, META_SYMLINK);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, NULL), EEXIST);
}

static void create_refuses_bad_arguments(void)
{
	char long_name[META_NAME_MAX + 2];
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"x",
		.type = META_DIRECTORY,
		.how = META_CREATE_UNCHECKED,
		.target = (char *)"",
	};
	struct meta_create_res result = {0};
	uint64_t file_id;

	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, long_name, META_REGULAR, NULL), ENAMETOOLONG);
	long_name[META_NAME_MAX] = '\0';
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, long_name, META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, long_name, NULL), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "", META_REGULAR, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, ".", META_REGULAR, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "..", META_DIRECTORY, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a/b", META_REGULAR, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "x", 0, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "x", META_SOCKET + 1, NULL), EINVAL);
	CU_ASSERT_EQUAL(do_create(&fixture, file_id, "x", META_REGULAR, NULL), ENOTDIR);
	CU_ASSERT_EQUAL(do_create(&fixture, 999, "x", META_REGULAR, NULL), ESTALE);
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL); /* UNCHECKED is for regular files */
	args.how = META_CREATE_GUARDED;
	args.export_id = 9;
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, ESTALE);
	args.export_id = FIXTURE_EXPORT;
	args.set = (struct meta_set){.mask = META_SET_MODE, .mode = 010000};
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL);
	args.set = (struct meta_set){
		.mask = META_SET_ATIME, .access_time = {.nanoseconds = 1000000000}};
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL);
	args.type = META_SYMLINK;
	args.set.mask = 0;
	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL); /* an empty target */
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "x", NULL), ENOENT);
}

static void create_in_a_set_group_id_directory(void)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"shared",
		.type = META_DIRECTORY,
		.how = META_CREATE_GUARDED,
		.set = {.mask = META_SET_MODE | META_SET_GID, .mode = 02775, .gid = 50},
		.target = (char *)"",
	};
	struct meta_create_res result = {0};
	uint64_t file_id;

	create(&args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	args.directory_id = result.attributes.file_id;
	CU_ASSERT_EQUAL(do_create(&fixture, args.directory_id, "f", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).gid, 50);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).mode, 0644);
	CU_ASSERT_EQUAL(do_create(&fixture, args.directory_id, "d", META_DIRECTORY, &file_id), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).gid, 50);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).mode, 02644);
	args.name = (char *)"own";
	args.set = (struct meta_set){.mask = META_SET_GID, .gid = 60};
	create(&args, &result);
	CU_ASSERT_EQUAL(result.attributes.gid, 60);
}

static void special_files_and_symbolic_links(void)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"device",
		.type = META_BLOCK_DEVICE,
		.how = META_CREATE_GUARDED,
		.device_major = 8,
		.device_minor = 17,
		.target = (char *)"",
	};
	struct meta_create_res result = {0};
	struct meta_readlink_res target = {0};
	struct meta_file file = {.export_id = FIXTURE_EXPORT};

	create(&args, &result);
	CU_ASSERT_EQUAL(result.attributes.device_major, 8);
	CU_ASSERT_EQUAL(result.attributes.device_minor, 17);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "fifo", META_FIFO, NULL), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "link", META_SYMLINK, &file.file_id), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file.file_id).size, strlen("the/target"));
	namespace_readlink(fixture.exportd, &file, &target);
	CU_ASSERT_EQUAL(target.status, 0);
	CU_ASSERT_STRING_EQUAL(target.target, "the/target");
	free(target.target);
	file.file_id = result.attributes.file_id;
	namespace_readlink(fixture.exportd, &file, &target);
	CU_ASSERT_EQUAL(target.status, EINVAL);
	CU_ASSERT_STRING_EQUAL(target.target, "");
	free(target.target);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "link", NULL), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "fifo", NULL), 0);
}

static void lookup_understands_dots(void)
{
	uint64_t a, b, found;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_DIRECTORY, &a), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, a, "b", META_DIRECTORY, &b), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, b, ".", &found), 0);
	CU_ASSERT_EQUAL(found, b);
	CU_ASSERT_EQUAL(do_lookup(&fixture, b, "..", &found), 0);
	CU_ASSERT_EQUAL(found, a);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "..", &found), 0);
	CU_ASSERT_EQUAL(found, ROOT);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "none", NULL), ENOENT);
	CU_ASSERT_EQUAL(do_rename(&fixture, a, "b", ROOT, "b", NULL), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, b, "..", &found), 0);
	CU_ASSERT_EQUAL(found, ROOT);
}

static void links_are_counted(void)
{
	uint64_t file, dir, links;
	struct meta_attributes attributes;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "file", META_REGULAR, &file), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, &dir), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, ROOT).links, 3);
	CU_ASSERT_EQUAL(attributes_of(&fixture, dir).links, 2);
	CU_ASSERT_EQUAL(do_link(&fixture, file, dir, "second"), 0);
	CU_ASSERT_EQUAL(do_link(&fixture, file, dir, "second"), EEXIST);
	CU_ASSERT_EQUAL(do_link(&fixture, dir, ROOT, "second"), EPERM);
	CU_ASSERT_EQUAL(do_link(&fixture, 999, ROOT, "second"), ESTALE);
	CU_ASSERT_EQUAL(do_link(&fixture, file, file, "second"), ENOTDIR);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file).links, 2);
	/* The name in the inode goes, the file stays, and gets a name again. */
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "file", &links), 0);
	CU_ASSERT_EQUAL(links, 1);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	CU_ASSERT_EQUAL(do_link(&fixture, file, ROOT, "third"), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file).parent_id, ROOT);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "third", &links), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, dir, "second", &links), 0);
	CU_ASSERT_EQUAL(links, 0);
	CU_ASSERT_EQUAL(do_getattr(&fixture, file, &attributes), ESTALE);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, ROOT, "dir"), 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, ROOT).links, 2);
}

static void unlink_keeps_the_rules(void)
{
	uint64_t dir, file;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, &dir), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, dir, "file", META_REGULAR, &file), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "dir", NULL), EISDIR);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, dir, "file"), ENOTDIR);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, ROOT, "dir"), ENOTEMPTY);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "none", NULL), ENOENT);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, ROOT, "."), EINVAL);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, dir, ".."), EINVAL);
	CU_ASSERT_EQUAL(do_unlink(&fixture, file, "x", NULL), ENOTDIR);
	CU_ASSERT_EQUAL(do_unlink(&fixture, dir, "file", NULL), 0);
	CU_ASSERT_EQUAL(do_rmdir(&fixture, ROOT, "dir"), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, dir, "late", META_REGULAR, NULL), ESTALE);
}

static void file_ids_are_never_used_twice(void)
{
	uint64_t first, second, third;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, &first), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "a", NULL), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, &second), 0);
	CU_ASSERT(second > first);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "a", NULL), 0);
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, &third), 0);
	CU_ASSERT(third > second);
}

static void rename_replaces(void)
{
	uint64_t a, b, d1, d2, sub, replaced, found;
	struct meta_attributes attributes, before;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, &a), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "b", META_REGULAR, &b), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "d1", META_DIRECTORY, &d1), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "d2", META_DIRECTORY, &d2), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, d1, "sub", META_DIRECTORY, &sub), 0);
	/* file over file */
	before = attributes_of(&fixture, a);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", ROOT, "b", &replaced), 0);
	CU_ASSERT_EQUAL(replaced, b);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "b", &found), 0);
	CU_ASSERT_EQUAL(found, a);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "a", NULL), ENOENT);
	CU_ASSERT_EQUAL(do_getattr(&fixture, b, &attributes), ESTALE);
	CU_ASSERT(attributes_of(&fixture, a).change > before.change);
	/* kinds that do not fit */
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "b", ROOT, "d1", NULL), EISDIR);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "d1", ROOT, "b", NULL), ENOTDIR);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "d2", ROOT, "d1", NULL), ENOTEMPTY);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "none", ROOT, "x", NULL), ENOENT);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "b", a, "x", NULL), ENOTDIR);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "b", 999, "x", NULL), ESTALE);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "b", ROOT, "..", NULL), EINVAL);
	/* directory over an empty directory */
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "d1", ROOT, "d2", &replaced), 0);
	CU_ASSERT_EQUAL(replaced, d2);
	CU_ASSERT_EQUAL(attributes_of(&fixture, ROOT).links, 3);
	CU_ASSERT_EQUAL(attributes_of(&fixture, d1).links, 3);
	/* a directory out of its own */
	CU_ASSERT_EQUAL(do_rename(&fixture, d1, "sub", ROOT, "sub", &replaced), 0);
	CU_ASSERT_EQUAL(replaced, 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, ROOT).links, 4);
	CU_ASSERT_EQUAL(attributes_of(&fixture, d1).links, 2);
	/* and over an empty directory elsewhere */
	CU_ASSERT_EQUAL(do_create(&fixture, d1, "sub", META_DIRECTORY, &found), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "sub", d1, "sub", &replaced), 0);
	CU_ASSERT_EQUAL(replaced, found);
	CU_ASSERT_EQUAL(attributes_of(&fixture, ROOT).links, 3);
	CU_ASSERT_EQUAL(attributes_of(&fixture, d1).links, 3);
}

static void rename_never_below_itself(void)
{
	uint64_t a, b, c;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_DIRECTORY, &a), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, a, "b", META_DIRECTORY, &b), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, b, "c", META_DIRECTORY, &c), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", a, "x", NULL), EINVAL);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", c, "x", NULL), EINVAL);
	CU_ASSERT_EQUAL(do_rename(&fixture, a, "b", c, "x", NULL), EINVAL);
	CU_ASSERT_EQUAL(do_rename(&fixture, b, "c", ROOT, "a", NULL), ENOTEMPTY);
	CU_ASSERT_EQUAL(do_rename(&fixture, b, "c", ROOT, "c", NULL), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", c, "a", NULL), 0);
}

static void rename_of_the_same_file(void)
{
	struct meta_attributes before, after;
	uint64_t a, replaced;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, &a), 0);
	CU_ASSERT_EQUAL(do_link(&fixture, a, ROOT, "b"), 0);
	before = attributes_of(&fixture, ROOT);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", ROOT, "b", &replaced), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "a", ROOT, "a", &replaced), 0);
	after = attributes_of(&fixture, ROOT);
	CU_ASSERT_EQUAL(replaced, 0);
	CU_ASSERT_EQUAL(before.change, after.change);
	CU_ASSERT_EQUAL(attributes_of(&fixture, a).links, 2);
	CU_ASSERT_EQUAL(do_lookup(&fixture, ROOT, "a", NULL), 0);
	/* Replacing one of two names leaves the other. */
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "c", META_REGULAR, NULL), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "c", ROOT, "a", &replaced), 0);
	CU_ASSERT_EQUAL(replaced, 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, a).links, 1);
}

/* Reads a directory in pieces. Returns the number of entries; names and cookies in order. */
static uint32_t list(uint64_t directory, uint32_t piece, char names[][16], uint64_t *cookies)
{
	struct meta_readdir_args args = {
		.export_id = FIXTURE_EXPORT, .directory_id = directory, .count = piece};
	struct meta_readdir_res result;
	uint32_t count = 0, i;

	do {
		memset(&result, 0, sizeof(result));
		namespace_readdir(fixture.exportd, &args, &result);
		CU_ASSERT_EQUAL_FATAL(result.status, 0);
		for (i = 0; i < result.entries.entries_len; i++) {
			struct meta_entry *entry = &result.entries.entries_val[i];

			snprintf(names[count], sizeof(names[count]), "%s", entry->name);
			cookies[count++] = entry->cookie;
			args.cookie = entry->cookie;
			CU_ASSERT_EQUAL(entry->attributes.parent_id, directory);
		}
		CU_ASSERT(result.eof || result.entries.entries_len == piece);
		i = result.eof;
		rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	} while (!i);
	return count;
}

static void readdir_has_stable_cookies(void)
{
	struct meta_readdir_args args = {.export_id = FIXTURE_EXPORT, .directory_id = ROOT};
	struct meta_readdir_res result = {0};
	char names[64][16], again[64][16], name[16];
	uint64_t cookies[64], cookies_again[64], dir;
	uint32_t i, count;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, &dir), 0);
	CU_ASSERT_EQUAL(list(dir, 5, names, cookies), 0);
	for (i = 0; i < 23; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		CU_ASSERT_EQUAL(do_create(&fixture, dir, name, META_REGULAR, NULL), 0);
	}
	count = list(dir, 5, names, cookies);
	CU_ASSERT_EQUAL(count, 23);
	CU_ASSERT(cookies[0] >= 3);
	for (i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		CU_ASSERT_STRING_EQUAL(names[i], name);
		CU_ASSERT(i == 0 || cookies[i] > cookies[i - 1]);
	}
	/* Removing entries leaves the cookies of the others; a cookie of a removed one resumes. */
	CU_ASSERT_EQUAL(do_unlink(&fixture, dir, "n4", NULL), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, dir, "n7", NULL), 0);
	CU_ASSERT_EQUAL(list(dir, 23, again, cookies_again), 21);
	CU_ASSERT_EQUAL(cookies_again[4], cookies[5]);
	CU_ASSERT_EQUAL(cookies_again[20], cookies[22]);
	args.directory_id = dir;
	args.cookie = cookies[4];
	args.count = 1;
	namespace_readdir(fixture.exportd, &args, &result);
	CU_ASSERT_STRING_EQUAL(result.entries.entries_val[0].name, "n5");
	CU_ASSERT_EQUAL(result.eof, 0);
	rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	/* A replaced name keeps its cookie, a new one comes last and cookies are not used again. */
	CU_ASSERT_EQUAL(do_rename(&fixture, dir, "n22", dir, "n0", NULL), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, dir, "n22", META_REGULAR, NULL), 0);
	CU_ASSERT_EQUAL(list(dir, 3, again, cookies_again), 21);
	CU_ASSERT_EQUAL(cookies_again[0], cookies[0]);
	CU_ASSERT_STRING_EQUAL(again[0], "n0");
	CU_ASSERT(cookies_again[20] > cookies[22]);
	/* Bad and odd questions. */
	args.count = 0;
	memset(&result, 0, sizeof(result));
	namespace_readdir(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL);
	args.count = 10;
	args.cookie = UINT64_MAX;
	namespace_readdir(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.eof, 1);
	CU_ASSERT_EQUAL(result.entries.entries_len, 0);
	rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
}

static void statfs_counts(void)
{
	struct meta_statfs_args args = {.export_id = FIXTURE_EXPORT};
	struct meta_statfs_res result = {0};

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "a", META_REGULAR, NULL), 0);
	namespace_statfs(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.files, 2);
	CU_ASSERT_EQUAL(result.total_bytes, 4ull << 40); /* six nodes of 1 TiB, 4 of 6 usable */
	CU_ASSERT_EQUAL(result.free_bytes, 2ull << 40);
}

static void too_few_nodes(void)
{
	struct fixture small;

	fixture_open(&small, 5);
	CU_ASSERT_EQUAL(do_create(&small, ROOT, "file", META_REGULAR, NULL), ENOSPC);
	CU_ASSERT_EQUAL(do_lookup(&small, ROOT, "file", NULL), ENOENT);
	CU_ASSERT_EQUAL(do_create(&small, ROOT, "dir", META_DIRECTORY, NULL), 0);
	CU_ASSERT_EQUAL(fixture_close(&small), 0);
}

/* A damaged entry, or one of a damaged inode, is left out of the listing of its directory. */
static void readdir_leaves_damage_out(void)
{
	struct meta_readdir_args args = {
		.export_id = FIXTURE_EXPORT, .directory_id = ROOT, .count = 10};
	uint64_t file_ids[5];

	for (int i = 0; i < 5; i++) {
		char name[] = {(char)('a' + i), '\0'};

		CU_ASSERT_EQUAL(do_create(&fixture, ROOT, name, META_REGULAR, &file_ids[i]), 0);
	}
	for (int mend = 0; mend < 2; mend++) {
		struct meta_readdir_res result = {0};

		fixture_flip(&fixture, record_key_inode(FIXTURE_EXPORT, file_ids[1]));
		fixture_flip(&fixture, record_key_cookie(FIXTURE_EXPORT, ROOT, 6));
		namespace_readdir(fixture.exportd, &args, &result);
		CU_ASSERT_EQUAL_FATAL(result.status, 0);
		CU_ASSERT_EQUAL(result.eof, 1);
		CU_ASSERT_EQUAL_FATAL(result.entries.entries_len, mend ? 5 : 3);
		if (!mend) {
			CU_ASSERT_STRING_EQUAL(result.entries.entries_val[0].name, "a");
			CU_ASSERT_STRING_EQUAL(result.entries.entries_val[1].name, "c");
			CU_ASSERT_STRING_EQUAL(result.entries.entries_val[2].name, "e");
		}
		rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	}
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"attach tells the code", attach_tells_the_code},
		{"create gives attributes and placement", create_gives_attributes_and_placement},
		{"create on existing names", create_kinds_of_existing},
		{"create refuses bad arguments", create_refuses_bad_arguments},
		{"create in a set-group-id directory", create_in_a_set_group_id_directory},
		{"special files and symbolic links", special_files_and_symbolic_links},
		{"lookup understands dots", lookup_understands_dots},
		{"links are counted", links_are_counted},
		{"unlink keeps the rules", unlink_keeps_the_rules},
		{"file ids are never used twice", file_ids_are_never_used_twice},
		{"rename replaces", rename_replaces},
		{"rename never below itself", rename_never_below_itself},
		{"rename of the same file", rename_of_the_same_file},
		{"readdir has stable cookies", readdir_has_stable_cookies},
		{"readdir leaves damage out", readdir_leaves_damage_out},
		{"statfs counts", statfs_counts},
		{"too few nodes", too_few_nodes},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd namespace", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
