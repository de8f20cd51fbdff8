/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Making and opening a data directory: what is refused, and what may change between two starts.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/file.h"
#include "exportd/free_queue.h"
#include "exportd/namespace.h"
#include "exportd/orphan.h"
#include "exportd/record.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

static struct fixture fixture;

static void open_fixture(void)
{
	fixture_open(&fixture, 6);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

static int open_again(void)
{
	exportd_close(fixture.exportd);
	fixture.exportd = NULL;
	return exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd);
}

static void init_wants_an_empty_directory(void)
{
	char directory[] = "/tmp/rozo-init-XXXXXX";
	char path[128];

	CU_ASSERT_EQUAL(exportd_init(&fixture.config, FIXTURE_MAP_BYTES), -ENOTEMPTY);
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	fixture.config.exportd_data = directory;
	snprintf(path, sizeof(path), "%s/something", directory);
	fclose(fopen(path, "w"));
	CU_ASSERT_EQUAL(exportd_init(&fixture.config, FIXTURE_MAP_BYTES), -ENOTEMPTY);
	CU_ASSERT_EQUAL(access(path, F_OK), 0);
	unlink(path);
	rmdir(directory);
	snprintf(path, sizeof(path), "%s/not/there", directory);
	fixture.config.exportd_data = path;
	CU_ASSERT_EQUAL(exportd_init(&fixture.config, FIXTURE_MAP_BYTES), -ENOENT);
	fixture.config.exportd_data = fixture.directory;
}

/* Leaves data.mdb as it is without a redo log. */
static void remove_log(const char *directory)
{
	static const char *const files[] = {"checkpoint", "redo-0.log", "redo-1.log"};
	char path[128];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
		CU_ASSERT_EQUAL(unlink(path), 0);
	}
}

static void open_wants_initialised_data(void)
{
	char directory[] = "/tmp/rozo-init-XXXXXX";
	char path[128];
	struct exportd *other = NULL;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	fixture.config.exportd_data = directory;
	CU_ASSERT_EQUAL(exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &other), -ENOENT);
	/* An init that was cut short after its first file. */
	snprintf(path, sizeof(path), "%s/exportd.lock", directory);
	fclose(fopen(path, "w"));
	CU_ASSERT_EQUAL(exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &other), -ENOENT);
	unlink(path);
	remove_log(directory);
	/* A file that is no database. */
	snprintf(path, sizeof(path), "%s/exportd.lock", directory);
	fclose(fopen(path, "w"));
	snprintf(path, sizeof(path), "%s/data.mdb", directory);
	FILE *file = fopen(path, "w");
	for (int i = 0; i < 1000; i++)
		fputs("this is no database ", file);
	fclose(file);
	CU_ASSERT_EQUAL(exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &other), -EIO);
	unlink(path);
	snprintf(path, sizeof(path), "%s/lock.mdb", directory);
	unlink(path);
	snprintf(path, sizeof(path), "%s/exportd.lock", directory);
	unlink(path);
	CU_ASSERT_EQUAL(rmdir(directory), 0);
	CU_ASSERT_PTR_NULL(other);
	fixture.config.exportd_data = fixture.directory;
}

static void one_instance_only(void)
{
	struct exportd *second = NULL;

	CU_ASSERT_EQUAL(exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &second), -EBUSY);
	CU_ASSERT_PTR_NULL(second);
	CU_ASSERT_EQUAL(open_again(), 0);
}

static void another_cluster_is_refused(void)
{
	fixture.config.cluster_id = (char *)"other";
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	fixture.config.cluster_id = (char *)"test";
	CU_ASSERT_EQUAL(open_again(), 0);
}

static int put_newer_format(struct kv_txn *txn, void *context)
{
	struct record_meta meta;
	int result = record_meta_get(txn, &meta);

	meta.database_version = *(const uint32_t *)context;
	return result == 0 ? record_meta_put(txn, &meta) : result;
}

static void a_newer_format_is_refused(void)
{
	uint32_t version = RECORD_DATABASE_VERSION + 1;

	CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, put_newer_format, &version), 0);
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	/* Put it back, past the check. */
	struct kv *kv;
	struct kv_txn *txn;

	version = RECORD_DATABASE_VERSION;
	CU_ASSERT_EQUAL_FATAL(kv_lmdb_open(fixture.directory, FIXTURE_MAP_BYTES, &kv), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL(put_newer_format(txn, &version), 0);
	CU_ASSERT_EQUAL(kv_commit(txn), 0);
	kv_close(kv);
	CU_ASSERT_EQUAL(open_again(), 0);
}

static int see_version(struct kv_txn *txn, void *context)
{
	struct record_meta meta;
	int result = record_meta_get(txn, &meta);

	*(uint32_t *)context = meta.database_version;
	return result;
}

/* Version 1 had no redo log, and wrote everything else as it is written now. */
static void a_database_without_a_log_is_taken_over(void)
{
	uint32_t version = 1;
	uint64_t file, found = 0;

	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "before", META_DIRECTORY, &file), 0);
	CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, put_newer_format, &version), 0);
	exportd_close(fixture.exportd);
	fixture.exportd = NULL;
	remove_log(fixture.directory);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	CU_ASSERT_EQUAL(exportd_read(fixture.exportd, see_version, &version), 0);
	CU_ASSERT_EQUAL(version, RECORD_DATABASE_VERSION);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "before", &found), 0);
	CU_ASSERT_EQUAL(found, file);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	CU_ASSERT_EQUAL(open_again(), 0);
}

static void the_code_of_an_export_cannot_change(void)
{
	fixture.export.code.m = 3;
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	fixture.export.code.m = 2;
	fixture.export.code.form = MOJETTE_SYSTEMATIC;
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	fixture.export.code.form = MOJETTE_NON_SYSTEMATIC;
	fixture.export.row_bytes = 8192;
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	fixture.export.row_bytes = 4096;
	fixture.export.segment_bytes = 2 << 20;
	CU_ASSERT_EQUAL(open_again(), -EINVAL);
	fixture.export.segment_bytes = 1 << 20;
	/* Its name and how careful it is may. */
	fixture.export.name = (char *)"renamed";
	fixture.export.min_shards = 5;
	CU_ASSERT_EQUAL(open_again(), 0);
	struct meta_attach_args args = {.name = (char *)"renamed"};
	struct meta_attach_res result = {0};
	namespace_attach(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.min_shards, 5);
}

static void exports_come_and_go(void)
{
	struct config_export two[2] = {fixture.export, fixture.export};
	struct meta_statfs_args args = {.export_id = 2};
	struct meta_statfs_res result = {0};
	struct meta_lookup_args lookup = {
		.export_id = 2, .directory_id = RECORD_ROOT_ID, .name = (char *)"."};
	struct meta_attributes_res attributes = {0};
	uint64_t kept;

	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "kept", META_REGULAR, &kept), 0);
	two[1].id = 2;
	two[1].name = (char *)"second";
	fixture.config.exports = two;
	fixture.config.export_count = 2;
	CU_ASSERT_EQUAL(open_again(), 0);
	namespace_statfs(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.files, 1);
	/* Without the first export its files are not served, and still there afterwards. */
	fixture.config.exports = two + 1;
	fixture.config.export_count = 1;
	CU_ASSERT_EQUAL(open_again(), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "kept", NULL), ESTALE);
	namespace_lookup(fixture.exportd, &lookup, &attributes);
	CU_ASSERT_EQUAL(attributes.status, 0);
	fixture.config.exports = &fixture.export;
	CU_ASSERT_EQUAL(open_again(), 0);
	uint64_t found = 0;
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "kept", &found), 0);
	CU_ASSERT_EQUAL(found, kept);
}

/* One whose record is damaged does not keep the others from being served without it. */
static void a_damaged_export_can_be_left_out(void)
{
	struct config_export two[2] = {fixture.export, fixture.export};
	struct record_key damaged = record_key_export(2);
	struct kv_bytes value;
	struct kv_txn *txn;
	uint8_t copy[512];

	two[1].id = 2;
	two[1].name = (char *)"second";
	fixture.config.exports = two;
	fixture.config.export_count = 2;
	CU_ASSERT_EQUAL_FATAL(open_again(), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fixture.exportd);
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL_FATAL(kv_get(txn, record_key_bytes(&damaged), &value), 0);
	memcpy(copy, value.data, value.bytes);
	copy[16] ^= 1;
	CU_ASSERT_EQUAL(
		kv_put(txn, record_key_bytes(&damaged), (struct kv_bytes){copy, value.bytes}), 0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	CU_ASSERT_EQUAL(open_again(), -EIO);
	fixture.config.exports = &fixture.export;
	fixture.config.export_count = 1;
	CU_ASSERT_EQUAL_FATAL(open_again(), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, ".", NULL), 0);
	/* Mended again, so that the end of the test finds no faults. */
	copy[16] ^= 1;
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL(
		kv_put(txn, record_key_bytes(&damaged), (struct kv_bytes){copy, value.bytes}), 0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
}

/* Nor is one made anew, over its files, whose record is not found. */
static void an_export_is_not_made_over_its_files(void)
{
	struct record_key key = record_key_export(FIXTURE_EXPORT);
	uint64_t before = 0, after = 0;
	struct kv_bytes value;
	struct kv_txn *txn;
	uint8_t copy[512];
	struct kv *kv;

	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "before", META_DIRECTORY, &before), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL_FATAL(kv_get(txn, record_key_bytes(&key), &value), 0);
	memcpy(copy, value.data, value.bytes);
	size_t bytes = value.bytes;
	/* As a bit that flips in its key. */
	CU_ASSERT_EQUAL(kv_remove(txn, record_key_bytes(&key)), 0);
	key.bytes[key.length - 1] ^= 0x10;
	CU_ASSERT_EQUAL(kv_put(txn, record_key_bytes(&key), (struct kv_bytes){copy, bytes}), 0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	CU_ASSERT_EQUAL(open_again(), -EIO);
	/* Mended, as from a backup. */
	exportd_close(fixture.exportd);
	fixture.exportd = NULL;
	CU_ASSERT_EQUAL_FATAL(kv_lmdb_open(fixture.config.exportd_data, FIXTURE_MAP_BYTES, &kv), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL(kv_remove(txn, record_key_bytes(&key)), 0);
	key.bytes[key.length - 1] ^= 0x10;
	CU_ASSERT_EQUAL(kv_put(txn, record_key_bytes(&key), (struct kv_bytes){copy, bytes}), 0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	kv_close(kv);
	CU_ASSERT_EQUAL_FATAL(open_again(), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "before", &after), 0);
	CU_ASSERT_EQUAL(before, after);
}

/* -------- older copies -------- */

#define COPIED 4

static const char *const copied[COPIED] = {"data.mdb", "checkpoint", "redo-0.log", "redo-1.log"};
static struct {
	char *bytes;
	size_t count;
} copies[COPIED];

/* Copies the files of the data directory, with the daemon stopped meanwhile. */
static void back_up(void)
{
	char path[128];

	exportd_close(fixture.exportd);
	for (size_t i = 0; i < COPIED; i++) {
		snprintf(path, sizeof(path), "%s/%s", fixture.directory, copied[i]);
		FILE *file = fopen(path, "r");
		CU_ASSERT_PTR_NOT_NULL_FATAL(file);
		fseek(file, 0, SEEK_END);
		copies[i].count = (size_t)ftell(file);
		copies[i].bytes = realloc(copies[i].bytes, copies[i].count);
		rewind(file);
		CU_ASSERT_EQUAL_FATAL(
			fread(copies[i].bytes, 1, copies[i].count, file), copies[i].count);
		fclose(file);
	}
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
}

/* Stops the daemon and puts the first files of the copy back. */
static void restore(size_t count)
{
	char path[128];

	exportd_close(fixture.exportd);
	fixture.exportd = NULL;
	for (size_t i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s", fixture.directory, copied[i]);
		FILE *file = fopen(path, "w");
		CU_ASSERT_PTR_NOT_NULL_FATAL(file);
		CU_ASSERT_EQUAL(fwrite(copies[i].bytes, 1, copies[i].count, file), copies[i].count);
		CU_ASSERT_EQUAL(fclose(file), 0);
	}
}

static uint64_t made(const char *name)
{
	uint64_t file_id = 0;

	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, name, META_REGULAR, &file_id), 0);
	return file_id;
}

/* What exportd tells a node that has a store file of this file. */
static uint32_t verdict_for(uint32_t node, uint64_t file_id)
{
	struct meta_orphan file = {.export_id = FIXTURE_EXPORT, .file_id = file_id};
	struct meta_orphans_args args = {
		.node = node, .files = {.files_len = 1, .files_val = &file}};
	struct meta_orphans_res result = {0};

	orphan_judge(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	uint32_t verdict = result.verdicts.verdicts_val[0];
	rpc_free(RPC_XDR(xdr_meta_orphans_res), &result);
	return verdict;
}

static uint32_t verdict(uint64_t file_id)
{
	return verdict_for(1, file_id);
}

/* A node that has no shard of a file. */
static uint32_t stranger_to(uint64_t file_id)
{
	uint32_t nodes[META_SHARDS_MAX], node = 1, i = 0;
	struct meta_placement_res placement;

	CU_ASSERT_EQUAL_FATAL(do_placement(&fixture, file_id, 0, 0, &placement, nodes), 0);
	while (i < 6) {
		if (nodes[i++] == node) {
			node++;
			i = 0;
		}
	}
	return node;
}

/* A file id is never given out twice, and what has a lost one is kept. */
static void check_lost(uint64_t before, uint64_t lost)
{
	uint64_t after = made("after");

	CU_ASSERT(after > lost);
	CU_ASSERT(after < INT64_MAX);
	CU_ASSERT_EQUAL(verdict(lost), META_ORPHAN_KEEP);
	/* What waited has been carried out since, or would take away what was written after it. */
	struct meta_placement_res placement;
	CU_ASSERT_EQUAL(do_placement(&fixture, before, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	/* A shard may have moved there since the backup. */
	CU_ASSERT_EQUAL(verdict_for(stranger_to(before), before), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(verdict_for(stranger_to(after), after), META_ORPHAN_STRAY);
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "before", NULL), 0);
	CU_ASSERT_EQUAL(verdict(before), META_ORPHAN_GONE);
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "after", NULL), 0);
	CU_ASSERT_EQUAL(verdict(after), META_ORPHAN_GONE);
	CU_ASSERT_EQUAL(open_again(), 0);
	/* Only once. */
	CU_ASSERT_EQUAL(made("next"), after + 1);
	CU_ASSERT_EQUAL(verdict(lost), META_ORPHAN_KEEP);
}

static void an_older_copy_without_a_log_repeats_no_file_id(void)
{
	fixture_all_up(&fixture);
	uint64_t before = made("before");
	CU_ASSERT_EQUAL(do_set_size(&fixture, before, 0, NULL), 0);
	back_up();
	fixture_all_up(&fixture);
	uint64_t lost = made("lost");
	restore(1);
	remove_log(fixture.directory);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	check_lost(before, lost);
}

static void a_restored_directory_repeats_no_file_id(void)
{
	fixture_all_up(&fixture);
	uint64_t before = made("before");
	CU_ASSERT_EQUAL(do_set_size(&fixture, before, 0, NULL), 0);
	back_up();
	fixture_all_up(&fixture);
	uint64_t lost = made("lost");
	restore(COPIED);
	CU_ASSERT_EQUAL(exportd_restored(&fixture.config, FIXTURE_MAP_BYTES), 0);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	check_lost(before, lost);
}

/* Of the newest item in the free queue of any node. */
static uint64_t newest_sequence(void)
{
	uint64_t newest = 0;

	for (uint32_t node = 1; node <= fixture.config.node_count; node++) {
		struct meta_free_args args = {.node = node};
		struct meta_free_res result = {0};

		free_queue_list(fixture.exportd, &args, &result);
		CU_ASSERT_EQUAL(result.status, 0);
		for (uint32_t i = 0; i < result.items.items_len; i++) {
			if (result.items.items_val[i].sequence > newest)
				newest = result.items.items_val[i].sequence;
		}
		rpc_free(RPC_XDR(xdr_meta_free_res), &result);
	}
	return newest;
}

/* A node that has heard of an item that is lost says that it is done with it, not with another. */
static void a_restored_directory_repeats_no_item_of_the_free_queue(void)
{
	fixture_all_up(&fixture);
	made("before");
	back_up();
	fixture_all_up(&fixture);
	for (unsigned int i = 0; i < 5; i++) {
		made("lost");
		CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "lost", NULL), 0);
	}
	uint64_t known = newest_sequence();
	CU_ASSERT(known >= 5);
	restore(COPIED);
	CU_ASSERT_EQUAL(exportd_restored(&fixture.config, FIXTURE_MAP_BYTES), 0);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	CU_ASSERT_EQUAL(newest_sequence(), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "before", NULL), 0);
	CU_ASSERT(newest_sequence() > known);
}

/* That of a shard which has moved back there since the copy was made is the only one. */
static void a_restored_directory_has_no_node_remove_a_copy(void)
{
	fixture_all_up(&fixture);
	uint64_t file_id = made("before");
	uint32_t node = stranger_to(file_id);
	struct meta_orphan file = {.export_id = FIXTURE_EXPORT, .file_id = file_id};
	struct meta_orphans_args args = {
		.node = node, .sure = 1, .files = {.files_len = 1, .files_val = &file}};
	struct meta_orphans_res result = {0};

	orphan_judge(fixture.exportd, &args, &result);
	rpc_free(RPC_XDR(xdr_meta_orphans_res), &result);
	/* What is gone for good may go. */
	made("removed");
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "removed", NULL), 0);
	CU_ASSERT_EQUAL(free_queue_strays(fixture.exportd, node), 1);
	back_up();
	restore(COPIED);
	CU_ASSERT_EQUAL(exportd_restored(&fixture.config, FIXTURE_MAP_BYTES), 0);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	CU_ASSERT_EQUAL(free_queue_strays(fixture.exportd, node), 0);
	uint32_t waiting = 0;
	for (uint32_t i = 1; i <= fixture.config.node_count; i++)
		waiting += free_queue_waiting(fixture.exportd, i) == 1;
	CU_ASSERT_EQUAL(waiting, 6);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
}

/* Layouts that were taken back since are not valid again, and newer ones are newer to everybody. */
static void a_restored_directory_repeats_no_layout_epoch(void)
{
	uint32_t told = 0, gateways[4], count, now = 0;
	struct meta_placement_res placement = {0};

	fixture_all_up(&fixture);
	uint64_t file_id = made("before");
	back_up();
	fixture_all_up(&fixture);
	for (int i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_REVOKE, 0, 7, 0, &told,
					gateways, &count),
			0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	restore(COPIED);
	CU_ASSERT_EQUAL(exportd_restored(&fixture.config, FIXTURE_MAP_BYTES), 0);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	fixture_all_up(&fixture);
	/* The stores know the newest write epoch. */
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.met_epoch = placement.write_epoch};
	struct meta_placement_res result = {0};
	file_placement(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT(result.layout_epoch > told);
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 7, 0, &now, gateways, &count), 0);
	CU_ASSERT(now > told);
}

/* The same copy again: what the first one gave out since is lost, too. */
static void a_copy_is_restored_twice(void)
{
	uint64_t last = 0;

	back_up();
	for (int i = 0; i < 3; i++) {
		char name[] = {(char)('a' + i), '\0'};
		uint64_t file_id = made(name);

		CU_ASSERT(file_id > last);
		last = file_id;
		fixture_time_ms(2000 + 1000 * (uint64_t)i);
		restore(COPIED);
		CU_ASSERT_EQUAL(exportd_restored(&fixture.config, FIXTURE_MAP_BYTES), 0);
		CU_ASSERT_EQUAL_FATAL(
			exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	}
	CU_ASSERT(made("last") > last);
}

static void a_node_names_a_file_id_that_was_never_given_out(void)
{
	fixture_all_up(&fixture);
	uint64_t before = made("before");
	back_up();
	fixture_all_up(&fixture);
	made("x");
	uint64_t lost = made("lost");
	restore(COPIED);
	CU_ASSERT_EQUAL_FATAL(
		exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
	CU_ASSERT_EQUAL(verdict(lost), META_ORPHAN_KEEP);
	/* What no exportd has made is the name of some other file. */
	CU_ASSERT_EQUAL(verdict(UINT64_MAX), META_ORPHAN_KEEP);
	check_lost(before, lost);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"init wants an empty directory", init_wants_an_empty_directory},
		{"open wants initialised data", open_wants_initialised_data},
		{"one instance only", one_instance_only},
		{"another cluster is refused", another_cluster_is_refused},
		{"a newer format is refused", a_newer_format_is_refused},
		{"a database without a log is taken over", a_database_without_a_log_is_taken_over},
		{"the code of an export cannot change", the_code_of_an_export_cannot_change},
		{"exports come and go", exports_come_and_go},
		{"a damaged export can be left out", a_damaged_export_can_be_left_out},
		{"an export is not made over its files", an_export_is_not_made_over_its_files},
		{"an older copy without a log repeats no file id",
			an_older_copy_without_a_log_repeats_no_file_id},
		{"a restored directory repeats no item of the free queue",
			a_restored_directory_repeats_no_item_of_the_free_queue},
		{"a restored directory repeats no file id",
			a_restored_directory_repeats_no_file_id},
		{"a restored directory has no node remove a copy",
			a_restored_directory_has_no_node_remove_a_copy},
		{"a restored directory repeats no layout epoch",
			a_restored_directory_repeats_no_layout_epoch},
		{"a copy is restored twice", a_copy_is_restored_twice},
		{"a node names a file id that was never given out",
			a_node_names_a_file_id_that_was_never_given_out},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd open", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	int status = fixture_run(suites);
	for (size_t i = 0; i < COPIED; i++)
		free(copies[i].bytes);
	return status;
}
