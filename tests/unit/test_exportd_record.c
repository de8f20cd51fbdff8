/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Keys and values on disk: bytes that version 1 wrote are read and written as ever, keys sort as
 * numbers, and damage of any kind is recognised and confined.
 *
 * The golden bytes below are part of the format. If a test of them fails, the format has changed:
 * give it a new version and keep reading this one; do not touch the bytes.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/record.h"
#include "exportd/record_disk.h"
#include "exportd_fixture.h"
#include "rpc/crc32c.h"

static struct fixture fixture;
static struct kv_txn *txn;

static void open_fixture(void)
{
	fixture_open(&fixture, 6);
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
}

static void close_fixture(void)
{
	kv_abort(txn);
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* -------- one of each kind -------- */

static const struct record_meta meta = {
	.database_version = 1, .created_seconds = 1700000000, .cluster_id = "example"};
static const struct record_counters counters = {
	.next_free_sequence = 0x0102030405060708, .map_version = 0x11121314};
static const struct record_node node = {.boot = 0x2122232425262728, .incarnation = 7, .up = true};
static const struct record_export export = {
	.form = 1,
	.k = 8,
	.m = 4,
	.row_bytes = 4096,
	.segment_blocks = 0x200000,
	.filesystem_id = 0x3132333435363738,
	.name = "data",
};
static const struct record_allocation allocation = {.next_file_id = 99, .files = 42};
static const struct record_inode inode = {
	.parent_id = 5,
	.name = "name",
	.type = META_REGULAR,
	.truncate_pending = true,
	.mode = 04755,
	.uid = 1000,
	.gid = 100,
	.links = 3,
	.device_major = 8,
	.device_minor = 1,
	.size = 0x4142434445464748,
	.truncate_size = 77,
	.change = 12,
	.verifier = 0x5152535455565758,
	.server = 3,
	.access_time = {-1, 1},
	.modify_time = {1700000001, 2},
	.change_time = {1700000002, 999999999},
	.segment_count = 6,
	.layout_epoch = 2,
	.write_epoch = 9,
	.write_gateway = 4,
};
static const struct record_entry entry = {.file_id = 17, .cookie = 21};
static const struct record_placement placement = {.count = 3, .nodes = {5, 1, 65535}};
static const struct record_free item = {
	.export_id = 1, .segment = 2, .file_id = 17, .count = 2, .nodes = {3, 4}};

static const struct record_reply reply = {.sequence = 0x6162636465666768,
	.seconds = 1700000003,
	.procedure = 8,
	.bytes = 8,
	.result = {0, 0, 0, 0, 1, 2, 3, 4}};

/* Both are zeroed first, padding included. */
#define SAME(a, b) (memcmp((const void *)&(a), (const void *)&(b), sizeof(a)) == 0)
#define TARGET "../somewhere/else"

static int put_all(void)
{
	int result = record_meta_put(txn, &meta);

	result = result != 0 ? result : record_counters_put(txn, &counters);
	result = result != 0 ? result : record_node_put(txn, 6, &node);
	result = result != 0 ? result : record_export_put(txn, 7, &export);
	result = result != 0 ? result : record_allocation_put(txn, 7, &allocation);
	result = result != 0 ? result : record_skipped_put(txn, 7, 33, 42);
	result = result != 0 ? result : record_inode_put(txn, 7, 17, &inode);
	result = result != 0 ? result : record_entry_put(txn, 7, 5, "name", &entry);
	result = result != 0 ? result : record_target_put(txn, 7, 18, TARGET);
	result = result != 0 ? result : record_placement_put(txn, 7, 17, 1, &placement);
	result = result != 0 ? result : record_free_put(txn, 33, &item);
	result = result != 0 ? result : record_free_node_put(txn, 4, 33, &item);
	result = result != 0 ? result : record_reply_put(txn, 0x7172737475767778, 5, &reply);
	return result;
}

struct golden {
	const char *key;
	const char *value;
};

static const struct golden golden[] = {
#include "exportd_golden.h"
};
#define GOLDEN_COUNT (sizeof(golden) / sizeof(golden[0]))

static size_t from_hex(const char *hex, uint8_t *bytes)
{
	size_t count = 0;
	unsigned int byte;

	while (sscanf(hex + 2 * count, "%2x", &byte) == 1)
		bytes[count++] = (uint8_t)byte;
	return count;
}

/* Reads the record under a golden key into any of the structures. Returns the result. */
static int get_any(uint8_t kind)
{
	union {
		struct record_meta meta;
		struct record_counters counters;
		struct record_node node;
		struct record_export export;
		struct record_allocation allocation;
		struct record_inode inode;
		struct record_entry entry;
		struct record_cookie cookie;
		struct record_placement placement;
		struct record_free item;
		struct record_reply reply;
		char target[RECORD_TARGET_MAX + 1];
	} read;
	struct record_key by_cookie = record_key_cookie(7, 5, 21);
	struct record_key by_node = record_key_free_node(4, 33);
	struct kv_bytes value;
	int result = -EBADMSG;

	memset(&read, 0, sizeof(read));
	switch (kind) {
	case RECORD_META:
		result = record_meta_get(txn, &read.meta);
		CU_ASSERT(result != 0 || SAME(read.meta, meta));
		break;
	case RECORD_COUNTERS:
		result = record_counters_get(txn, &read.counters);
		CU_ASSERT(result != 0 ||
			  (read.counters.next_free_sequence == counters.next_free_sequence &&
				  read.counters.map_version == counters.map_version));
		break;
	case RECORD_NODE:
		result = record_node_get(txn, 6, &read.node);
		CU_ASSERT(result != 0 || (read.node.boot == node.boot &&
						 read.node.incarnation == 7 && read.node.up));
		break;
	case RECORD_EXPORT:
		result = record_export_get(txn, 7, &read.export);
		CU_ASSERT(result != 0 || SAME(read.export, export));
		break;
	case RECORD_ALLOCATION:
		result = record_allocation_get(txn, 7, &read.allocation);
		CU_ASSERT(result != 0 || SAME(read.allocation, allocation));
		break;
	case RECORD_SKIPPED:
		result = record_skipped_has(txn, 7, 41);
		if (result < 0)
			break;
		CU_ASSERT_EQUAL(result, 1);
		CU_ASSERT_EQUAL(record_skipped_has(txn, 7, 33), 1);
		CU_ASSERT_EQUAL(record_skipped_has(txn, 7, 32), 0);
		CU_ASSERT_EQUAL(record_skipped_has(txn, 7, 42), 0);
		CU_ASSERT_EQUAL(record_skipped_has(txn, 6, 41), 0);
		result = 0;
		break;
	case RECORD_INODE:
		result = record_inode_get(txn, 7, 17, &read.inode);
		if (result != 0)
			break;
		CU_ASSERT_STRING_EQUAL(read.inode.name, inode.name);
		CU_ASSERT_EQUAL(read.inode.parent_id, inode.parent_id);
		CU_ASSERT_EQUAL(read.inode.type, inode.type);
		CU_ASSERT_EQUAL(read.inode.truncate_pending, inode.truncate_pending);
		CU_ASSERT_EQUAL(read.inode.mode, inode.mode);
		CU_ASSERT_EQUAL(read.inode.uid, inode.uid);
		CU_ASSERT_EQUAL(read.inode.gid, inode.gid);
		CU_ASSERT_EQUAL(read.inode.links, inode.links);
		CU_ASSERT_EQUAL(read.inode.device_major, inode.device_major);
		CU_ASSERT_EQUAL(read.inode.device_minor, inode.device_minor);
		CU_ASSERT_EQUAL(read.inode.size, inode.size);
		CU_ASSERT_EQUAL(read.inode.truncate_size, inode.truncate_size);
		CU_ASSERT_EQUAL(read.inode.change, inode.change);
		CU_ASSERT_EQUAL(read.inode.verifier, inode.verifier);
		CU_ASSERT_EQUAL(read.inode.next_cookie, 0);
		CU_ASSERT_EQUAL(read.inode.server, inode.server);
		CU_ASSERT_EQUAL(read.inode.access_time.seconds, -1);
		CU_ASSERT_EQUAL(read.inode.access_time.nanoseconds, 1);
		CU_ASSERT_EQUAL(read.inode.modify_time.seconds, 1700000001);
		CU_ASSERT_EQUAL(read.inode.modify_time.nanoseconds, 2);
		CU_ASSERT_EQUAL(read.inode.change_time.seconds, 1700000002);
		CU_ASSERT_EQUAL(read.inode.change_time.nanoseconds, 999999999);
		CU_ASSERT_EQUAL(read.inode.segment_count, inode.segment_count);
		CU_ASSERT_EQUAL(read.inode.layout_epoch, inode.layout_epoch);
		CU_ASSERT_EQUAL(read.inode.write_epoch, inode.write_epoch);
		CU_ASSERT_EQUAL(read.inode.write_gateway, inode.write_gateway);
		break;
	case RECORD_ENTRY:
		result = record_entry_get(txn, 7, 5, "name", &read.entry);
		CU_ASSERT(result != 0 || memcmp(&read.entry, &entry, sizeof(entry)) == 0);
		break;
	case RECORD_COOKIE:
		result = kv_get(txn, record_key_bytes(&by_cookie), &value);
		if (result == 0)
			result = record_cookie_decode(
				record_key_bytes(&by_cookie), value, &read.cookie);
		CU_ASSERT(result != 0 ||
			  (read.cookie.file_id == 17 && strcmp(read.cookie.name, "name") == 0));
		break;
	case RECORD_TARGET:
		result = record_target_get(txn, 7, 18, read.target);
		CU_ASSERT(result != 0 || strcmp(read.target, TARGET) == 0);
		break;
	case RECORD_PLACEMENT:
		result = record_placement_get(txn, 7, 17, 1, &read.placement);
		CU_ASSERT(result != 0 || SAME(read.placement, placement));
		break;
	case RECORD_FREE:
		result = record_free_get(txn, 33, &read.item);
		CU_ASSERT(result != 0 || SAME(read.item, item));
		break;
	case RECORD_REPLY:
		result = record_reply_get(txn, 0x7172737475767778, 5, &read.reply);
		CU_ASSERT(result != 0 || SAME(read.reply, reply));
		break;
	case RECORD_FREE_NODE:
		result = kv_get(txn, record_key_bytes(&by_node), &value);
		if (result == 0)
			result = record_free_decode(record_key_bytes(&by_node), value, &read.item);
		CU_ASSERT(result != 0 || (read.item.file_id == 17 && read.item.count == 0 &&
						 read.item.segment == 2));
		break;
	}
	return result;
}

static int print_one(void *context, struct kv_bytes key, struct kv_bytes value)
{
	const uint8_t *bytes = key.data;
	size_t i;

	(void)context;
	printf("{\"");
	for (i = 0; i < key.bytes; i++)
		printf("%02x", bytes[i]);
	printf("\",\n\"");
	bytes = value.data;
	for (i = 0; i < value.bytes; i++)
		printf("%02x", bytes[i]);
	printf("\"},\n");
	return 0;
}

static void golden_bytes_are_written(void)
{
	uint8_t key[512], expected[4200];
	struct kv_bytes value;
	size_t i, key_bytes, expected_bytes;

	CU_ASSERT_EQUAL_FATAL(put_all(), 0);
	if (getenv("ROZO_PRINT_GOLDEN") != NULL) /* how they were made */
		kv_scan(txn, (struct kv_bytes){"A", 1}, 0, print_one, NULL);
	CU_ASSERT_EQUAL(GOLDEN_COUNT, 14);
	for (i = 0; i < GOLDEN_COUNT; i++) {
		key_bytes = from_hex(golden[i].key, key);
		expected_bytes = from_hex(golden[i].value, expected);
		CU_ASSERT_EQUAL(kv_get(txn, (struct kv_bytes){key, key_bytes}, &value), 0);
		CU_ASSERT_EQUAL(value.bytes, expected_bytes);
		if (value.bytes == expected_bytes)
			CU_ASSERT_EQUAL(memcmp(value.data, expected, expected_bytes), 0);
	}
}

static void put_golden(size_t i, size_t value_bytes, size_t flipped_bit)
{
	uint8_t key[512], value[4200] = {0};
	size_t key_bytes = from_hex(golden[i].key, key);

	from_hex(golden[i].value, value);
	if (flipped_bit != SIZE_MAX)
		value[flipped_bit / 8] ^= (uint8_t)(1u << flipped_bit % 8);
	CU_ASSERT_EQUAL_FATAL(kv_put(txn, (struct kv_bytes){key, key_bytes},
				      (struct kv_bytes){value, value_bytes}),
		0);
}

static uint8_t golden_kind(size_t i)
{
	uint8_t key[512] = {0};

	from_hex(golden[i].key, key);
	return key[0];
}

static void golden_bytes_are_read(void)
{
	uint8_t value[4200];
	size_t i;

	for (i = 0; i < GOLDEN_COUNT; i++) {
		put_golden(i, from_hex(golden[i].value, value), SIZE_MAX);
		CU_ASSERT_EQUAL(get_any(golden_kind(i)), 0);
	}
}

static void every_damage_is_recognised(void)
{
	uint8_t value[4200];
	size_t i, bit, length, bytes;

	for (i = 0; i < GOLDEN_COUNT; i++) {
		bytes = from_hex(golden[i].value, value);
		for (bit = 0; bit < bytes * 8; bit++) {
			put_golden(i, bytes, bit);
			CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
		}
		for (length = 0; length < bytes; length++) {
			put_golden(i, length, SIZE_MAX);
			CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
		}
		put_golden(i, bytes + 1, SIZE_MAX);
		CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
	}
}

/* A value whose checksum is right but whose contents cannot be: made by a program, not a disk. */
static void put_sealed(size_t i, const uint8_t *changed, size_t bytes)
{
	uint8_t key[512], value[4200];
	size_t key_bytes = from_hex(golden[i].key, key);
	uint32_t crc;

	memcpy(value, changed, bytes);
	crc = rozo_crc32c(key, key_bytes);
	crc = rozo_crc32c_more(crc, value, 4);
	crc = rozo_crc32c_more(crc, value + 8, bytes - 8);
	memcpy(value + 4, &crc, 4); /* the tests run on little-endian machines */
	CU_ASSERT_EQUAL_FATAL(
		kv_put(txn, (struct kv_bytes){key, key_bytes}, (struct kv_bytes){value, bytes}), 0);
}

static void other_versions_and_wrong_counts_are_refused(void)
{
	uint8_t value[4200];
	size_t i, bytes;

	for (i = 0; i < GOLDEN_COUNT; i++) {
		bytes = from_hex(golden[i].value, value);
		put_sealed(i, value, bytes);
		CU_ASSERT_EQUAL(get_any(golden_kind(i)), 0);
		value[1] = RECORD_VALUE_VERSION + 1;
		put_sealed(i, value, bytes);
		CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
		value[1] = RECORD_VALUE_VERSION;
		if (golden_kind(i) == RECORD_PLACEMENT) {
			value[8] = 25; /* more than a list may have */
			put_sealed(i, value, 12 + 25 * 4);
			CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
			value[8] = 2; /* fewer than there are */
			put_sealed(i, value, bytes);
			CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
		}
		if (golden_kind(i) == RECORD_INODE) {
			value[bytes - 1] = '\0';
			put_sealed(i, value, bytes);
			CU_ASSERT_EQUAL(get_any(golden_kind(i)), -EIO);
		}
	}
	/* A value under another key than it was written for. */
	uint8_t key[512];
	struct record_key other = record_key_inode(7, 18);
	struct record_inode read;
	for (i = 0; golden_kind(i) != RECORD_INODE; i++)
		;
	from_hex(golden[i].key, key);
	bytes = from_hex(golden[i].value, value);
	CU_ASSERT_EQUAL(kv_put(txn, record_key_bytes(&other), (struct kv_bytes){value, bytes}), 0);
	CU_ASSERT_EQUAL(record_inode_get(txn, 7, 18, &read), -EIO);
}

static int compare_keys(struct record_key a, struct record_key b)
{
	size_t shorter = a.length < b.length ? a.length : b.length;
	int order = memcmp(a.bytes, b.bytes, shorter);

	return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static void keys_sort_as_numbers(void)
{
	CU_ASSERT(compare_keys(record_key_inode(1, 255), record_key_inode(1, 256)) < 0);
	CU_ASSERT(compare_keys(record_key_inode(1, UINT64_MAX), record_key_inode(2, 0)) < 0);
	CU_ASSERT(compare_keys(record_key_inode(255, 0), record_key_inode(256, 0)) < 0);
	CU_ASSERT(compare_keys(record_key_cookie(1, 1, 0xff), record_key_cookie(1, 1, 0x100)) < 0);
	CU_ASSERT(
		compare_keys(record_key_cookie(1, 1, UINT64_MAX), record_key_cookie(1, 2, 0)) < 0);
	CU_ASSERT(
		compare_keys(record_key_placement(1, 1, 255), record_key_placement(1, 1, 256)) < 0);
	CU_ASSERT(
		compare_keys(record_key_free_node(1, UINT64_MAX), record_key_free_node(2, 0)) < 0);
	CU_ASSERT(
		compare_keys(record_key_entry(1, 1, "a", 1), record_key_entry(1, 1, "ab", 2)) < 0);
	CU_ASSERT(
		compare_keys(record_key_entry(1, 1, "\xff", 1), record_key_entry(1, 2, "", 0)) < 0);
}

/* A damaged inode is EIO for itself, and nothing else suffers. */
static void damage_is_confined(void)
{
	struct record_key damaged;
	struct meta_attributes attributes;
	struct kv_bytes value;
	uint64_t file_id, other_id;
	uint8_t copy[512];

	kv_abort(txn);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "a", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "b", META_REGULAR, &other_id), 0);
	damaged = record_key_inode(FIXTURE_EXPORT, file_id);
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL_FATAL(kv_get(txn, record_key_bytes(&damaged), &value), 0);
	memcpy(copy, value.data, value.bytes);
	copy[40] ^= 0x10;
	CU_ASSERT_EQUAL(
		kv_put(txn, record_key_bytes(&damaged), (struct kv_bytes){copy, value.bytes}), 0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	CU_ASSERT_EQUAL(do_getattr(&fixture, file_id, &attributes), EIO);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "a", NULL), EIO);
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "a", NULL), EIO);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 10, 0, NULL), EIO);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 10, NULL), EIO);
	CU_ASSERT_EQUAL(do_getattr(&fixture, other_id, &attributes), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "c", META_REGULAR, NULL), 0);
	CU_ASSERT(fixture_faults(&fixture) > 0);
	/* Mended again, so that the end of the test finds no faults. */
	copy[40] ^= 0x10;
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL(kv_put(txn, record_key_bytes(&damaged),
				(struct kv_bytes){copy, sizeof(struct disk_inode) + 1}),
		0);
	CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
}

/* The check itself must see each kind of fault: one is made at a time, and undone. */
static void the_check_sees_faults(void)
{
	struct record_key keys[5];
	uint64_t file_id, dir_id;
	struct record_inode changed;
	struct kv_bytes value;
	uint8_t copy[512];
	size_t i, bytes;

	kv_abort(txn);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "f", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "d", META_DIRECTORY, &dir_id), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, RECORD_ROOT_ID, "gone", META_REGULAR, NULL), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, RECORD_ROOT_ID, "gone", NULL), 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	/* Any of these records missing is a fault. */
	keys[0] = record_key_entry(FIXTURE_EXPORT, RECORD_ROOT_ID, "f", 1);
	keys[1] = record_key_cookie(FIXTURE_EXPORT, RECORD_ROOT_ID, 4);
	keys[2] = record_key_inode(FIXTURE_EXPORT, file_id);
	keys[3] = record_key_placement(FIXTURE_EXPORT, file_id, 0);
	keys[4] = record_key_free_node(3, 1);
	for (i = 0; i < 5; i++) {
		CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
		CU_ASSERT_EQUAL_FATAL(kv_get(txn, record_key_bytes(&keys[i]), &value), 0);
		bytes = value.bytes;
		memcpy(copy, value.data, bytes);
		CU_ASSERT_EQUAL(kv_remove(txn, record_key_bytes(&keys[i])), 0);
		CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
		CU_ASSERT(fixture_faults(&fixture) > 0);
		CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
		CU_ASSERT_EQUAL(
			kv_put(txn, record_key_bytes(&keys[i]), (struct kv_bytes){copy, bytes}), 0);
		CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
		CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	}
	/* So are wrong links, names and parents. */
	for (i = 0; i < 4; i++) {
		CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
		CU_ASSERT_EQUAL_FATAL(
			record_inode_get(txn, FIXTURE_EXPORT, i < 2 ? file_id : dir_id, &changed),
			0);
		struct record_inode before = changed;
		if (i == 0 || i == 2)
			changed.links++;
		else if (i == 1)
			changed.name[0] = 'x';
		else
			changed.parent_id = dir_id; /* a loop */
		CU_ASSERT_EQUAL(
			record_inode_put(txn, FIXTURE_EXPORT, i < 2 ? file_id : dir_id, &changed),
			0);
		CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
		CU_ASSERT(fixture_faults(&fixture) > 0);
		CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
		CU_ASSERT_EQUAL(
			record_inode_put(txn, FIXTURE_EXPORT, i < 2 ? file_id : dir_id, &before),
			0);
		CU_ASSERT_EQUAL_FATAL(kv_commit(txn), 0);
	}
	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_WRITE, NULL, &txn), 0);
}

/*
 * What there is only after a node was out of the cluster. Part of the format like exportd_golden.h.
 */
/* clang-format off */
static const struct golden moving[] = {
{"50000000070000000000000011" "00000002",
	"50010000eef10cf7030000000500000004000000ffff0000020000000200000009000000020000000000000001000000000000000800000007000000"},
{"50000000070000000000000011" "00000003",
	"500100006a5ea8ce030000000500000004000000ffff000006000000020000000900000000000000000000000100000003000000000000000900000007000000"
	"01000000010000000000000005000000030000000200000000000000070000000600000001000000050000000900000"
	"0"},
{"5200000004fd000000070000000000000011" "00000002",
	"52010000b81ab4ad0100000000000000"},
};
/* clang-format on */
static const struct record_placement moved = {
	.count = 3,
	.nodes = {5, 4, 65535},
	.rebuilding = 2,
	.urgency = 2,
	.switch_epoch = 9,
	.since = {0, 9, 0},
	.origin_count = 1,
	.origins = {{.node = 1, .shard = 1, .until = 9}},
	.former_count = 2,
	.formers = {8, 7},
};
/* The shards moved one after the other. */
static const struct record_placement moved_twice = {
	.count = 3,
	.nodes = {5, 4, 65535},
	.rebuilding = 6,
	.urgency = 2,
	.switch_epoch = 9,
	.since = {0, 9, 7},
	.origin_count = 3,
	.origins = {{.node = 1, .shard = 1, .until = 5}, {.node = 3, .shard = 2, .until = 7},
		{.node = 6, .shard = 1, .since = 5, .until = 9}},
};
static const struct record_rebuild to_make = {
	.node = 4, .urgency = 2, .export_id = 7, .file_id = 17, .segment = 2};

/* Reads what golden entry i of `moving` is about. */
static int get_moving(size_t i)
{
	struct record_key key = record_key_rebuild(&to_make);
	struct record_placement placement;
	struct record_rebuild rebuild = {0};
	struct kv_bytes value;
	uint32_t origin = 0;
	int result;

	if (i < 2) {
		result = record_placement_get(txn, 7, 17, 2 + (uint32_t)i, &placement);
		CU_ASSERT(result != 0 ||
			  memcmp(&placement, i == 0 ? &moved : &moved_twice, sizeof(moved)) == 0);
		return result;
	}
	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result == 0)
		result = record_rebuild_decode(record_key_bytes(&key), value, &rebuild, &origin);
	CU_ASSERT(result != 0 ||
		  (rebuild.node == 4 && rebuild.urgency == 2 && rebuild.export_id == 7 &&
			  rebuild.file_id == 17 && rebuild.segment == 2 && origin == 1));
	return result;
}

static void golden_bytes_of_shards_that_move(void)
{
	uint8_t key[512], expected[512], wrong[512];
	size_t i, bit, key_bytes, bytes;
	struct kv_bytes value;

	CU_ASSERT_EQUAL_FATAL(record_placement_put(txn, 7, 17, 2, &moved), 0);
	CU_ASSERT_EQUAL_FATAL(record_placement_put(txn, 7, 17, 3, &moved_twice), 0);
	CU_ASSERT_EQUAL_FATAL(record_rebuild_put(txn, &to_make, 1), 0);
	if (getenv("ROZO_PRINT_GOLDEN") != NULL)
		kv_scan(txn, (struct kv_bytes){"P", 1}, 0, print_one, NULL);
	for (i = 0; i < 3; i++) {
		key_bytes = from_hex(moving[i].key, key);
		bytes = from_hex(moving[i].value, expected);
		CU_ASSERT_EQUAL_FATAL(kv_get(txn, (struct kv_bytes){key, key_bytes}, &value), 0);
		CU_ASSERT_EQUAL_FATAL(value.bytes, bytes);
		CU_ASSERT_EQUAL(memcmp(value.data, expected, bytes), 0);
		CU_ASSERT_EQUAL(get_moving(i), 0);
		for (bit = 0; bit < 8 * bytes; bit++) {
			memcpy(wrong, expected, bytes);
			wrong[bit / 8] ^= (uint8_t)(1u << bit % 8);
			CU_ASSERT_EQUAL_FATAL(kv_put(txn, (struct kv_bytes){key, key_bytes},
						      (struct kv_bytes){wrong, bytes}),
				0);
			CU_ASSERT_EQUAL(get_moving(i), -EIO);
		}
		/* Cut short, and a fresh file as before. */
		CU_ASSERT_EQUAL_FATAL(kv_put(txn, (struct kv_bytes){key, key_bytes},
					      (struct kv_bytes){expected, bytes - 4}),
			0);
		CU_ASSERT_EQUAL(get_moving(i), -EIO);
		CU_ASSERT_EQUAL_FATAL(kv_put(txn, (struct kv_bytes){key, key_bytes},
					      (struct kv_bytes){expected, bytes}),
			0);
	}
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"golden bytes of shards that move", golden_bytes_of_shards_that_move},
		{"golden bytes are written", golden_bytes_are_written},
		{"golden bytes are read", golden_bytes_are_read},
		{"every damage is recognised", every_damage_is_recognised},
		{"other versions and wrong counts are refused",
			other_versions_and_wrong_counts_are_refused},
		{"keys sort as numbers", keys_sort_as_numbers},
		{"damage is confined", damage_is_confined},
		{"the check sees faults", the_check_sees_faults},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd record", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
