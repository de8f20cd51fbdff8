/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Keys of the metadata database: how they are made, read, and told to people. Takes no locks.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "exportd/record.h"

/* -------- keys -------- */

static void key_add(struct record_key *key, const void *bytes, size_t count)
{
	memcpy(key->bytes + key->length, bytes, count);
	key->length += count;
}

static void key_add_u32(struct record_key *key, uint32_t number)
{
	uint32_t big_endian = htobe32(number);

	key_add(key, &big_endian, sizeof(big_endian));
}

static void key_add_u64(struct record_key *key, uint64_t number)
{
	uint64_t big_endian = htobe64(number);

	key_add(key, &big_endian, sizeof(big_endian));
}

static struct record_key key_begin(enum record_kind kind)
{
	return (struct record_key){.length = 1, .bytes = {(uint8_t)kind}};
}

static struct record_key key_u32(enum record_kind kind, uint32_t number)
{
	struct record_key key = key_begin(kind);

	key_add_u32(&key, number);
	return key;
}

static struct record_key key_file(enum record_kind kind, uint32_t export_id, uint64_t file_id)
{
	struct record_key key = key_u32(kind, export_id);

	key_add_u64(&key, file_id);
	return key;
}

struct record_key record_key_meta(void)
{
	return key_begin(RECORD_META);
}

struct record_key record_key_counters(void)
{
	return key_begin(RECORD_COUNTERS);
}

struct record_key record_key_node(uint32_t node)
{
	return key_u32(RECORD_NODE, node);
}

struct record_key record_key_export(uint32_t export_id)
{
	return key_u32(RECORD_EXPORT, export_id);
}

struct record_key record_key_server(uint32_t export_id)
{
	return key_u32(RECORD_SERVER, export_id);
}

struct record_key record_key_allocation(uint32_t export_id)
{
	return key_u32(RECORD_ALLOCATION, export_id);
}

struct record_key record_key_skipped(uint32_t export_id, uint64_t end)
{
	return key_file(RECORD_SKIPPED, export_id, end);
}

struct record_key record_key_inode(uint32_t export_id, uint64_t file_id)
{
	return key_file(RECORD_INODE, export_id, file_id);
}

struct record_key record_key_entry(
	uint32_t export_id, uint64_t directory_id, const char *name, size_t name_bytes)
{
	struct record_key key = key_file(RECORD_ENTRY, export_id, directory_id);

	key_add(&key, name, name_bytes);
	return key;
}

struct record_key record_key_cookie(uint32_t export_id, uint64_t directory_id, uint64_t cookie)
{
	struct record_key key = key_file(RECORD_COOKIE, export_id, directory_id);

	key_add_u64(&key, cookie);
	return key;
}

struct record_key record_key_target(uint32_t export_id, uint64_t file_id)
{
	return key_file(RECORD_TARGET, export_id, file_id);
}

struct record_key record_key_placement(uint32_t export_id, uint64_t file_id, uint32_t segment)
{
	struct record_key key = key_file(RECORD_PLACEMENT, export_id, file_id);

	key_add_u32(&key, segment);
	return key;
}

struct record_key record_key_free(uint64_t sequence)
{
	struct record_key key = key_begin(RECORD_FREE);

	key_add_u64(&key, sequence);
	return key;
}

struct record_key record_key_free_node(uint32_t node, uint64_t sequence)
{
	struct record_key key = key_u32(RECORD_FREE_NODE, node);

	key_add_u64(&key, sequence);
	return key;
}

struct record_key record_key_rebuild(const struct record_rebuild *rebuild)
{
	struct record_key key = key_u32(RECORD_REBUILD, rebuild->node);

	key.bytes[key.length++] = (uint8_t)~rebuild->urgency; /* the most urgent first */
	key_add_u32(&key, rebuild->export_id);
	key_add_u64(&key, rebuild->file_id);
	key_add_u32(&key, rebuild->segment);
	return key;
}

struct record_key record_key_truncation(uint32_t export_id, uint64_t file_id)
{
	return key_file(RECORD_TRUNCATION, export_id, file_id);
}

struct record_key record_key_reply(uint64_t caller, uint32_t slot)
{
	struct record_key key = key_begin(RECORD_REPLY);

	key_add_u64(&key, caller);
	key_add_u32(&key, slot);
	return key;
}

struct kv_bytes record_key_bytes(const struct record_key *key)
{
	return (struct kv_bytes){key->bytes, key->length};
}

uint32_t record_key_u32(struct kv_bytes key, size_t offset)
{
	uint32_t big_endian;

	memcpy(&big_endian, (const uint8_t *)key.data + offset, sizeof(big_endian));
	return be32toh(big_endian);
}

uint64_t record_key_u64(struct kv_bytes key, size_t offset)
{
	uint64_t big_endian;

	memcpy(&big_endian, (const uint8_t *)key.data + offset, sizeof(big_endian));
	return be64toh(big_endian);
}

uint8_t record_key_rebuild_urgency(struct kv_bytes key)
{
	return (uint8_t) ~((const uint8_t *)key.data)[RECORD_PREFIX_NODE];
}

void record_key_describe(struct kv_bytes key, char *text, size_t text_bytes)
{
	const uint8_t *bytes = key.data;
	uint32_t first = key.bytes >= 5 ? record_key_u32(key, 1) : 0;
	uint64_t file = key.bytes >= 13 ? record_key_u64(key, 5) : 0;

	switch (key.bytes > 0 ? bytes[0] : 0) {
	case RECORD_META:
		snprintf(text, text_bytes, "the description of the database");
		break;
	case RECORD_COUNTERS:
		snprintf(text, text_bytes, "the counters");
		break;
	case RECORD_NODE:
		snprintf(text, text_bytes, "the record of node %" PRIu32, first);
		break;
	case RECORD_EXPORT:
		snprintf(text, text_bytes, "the record of export %" PRIu32, first);
		break;
	case RECORD_ALLOCATION:
		snprintf(text, text_bytes, "the file counters of export %" PRIu32, first);
		break;
	case RECORD_SERVER:
		snprintf(text, text_bytes, "the metadata server of export %" PRIu32, first);
		break;
	case RECORD_SKIPPED:
		snprintf(text, text_bytes,
			"the file ids before %" PRIu64 " that were passed over in export %" PRIu32,
			file, first);
		break;
	case RECORD_INODE:
		snprintf(text, text_bytes, "the inode of file %" PRIu64 " in export %" PRIu32, file,
			first);
		break;
	case RECORD_ENTRY:
		snprintf(text, text_bytes,
			"entry \"%.*s\" of directory %" PRIu64 " in export %" PRIu32,
			key.bytes > 13 ? (int)(key.bytes - 13) : 0, (const char *)bytes + 13, file,
			first);
		break;
	case RECORD_COOKIE:
		snprintf(text, text_bytes,
			"the entry with cookie %" PRIu64 " of directory %" PRIu64
			" in export %" PRIu32,
			key.bytes >= 21 ? record_key_u64(key, 13) : 0, file, first);
		break;
	case RECORD_TARGET:
		snprintf(text, text_bytes,
			"the target of symbolic link %" PRIu64 " in export %" PRIu32, file, first);
		break;
	case RECORD_PLACEMENT:
		snprintf(text, text_bytes,
			"the placement of segment %" PRIu32 " of file %" PRIu64
			" in export %" PRIu32,
			key.bytes >= 17 ? record_key_u32(key, 13) : 0, file, first);
		break;
	case RECORD_TRUNCATION:
		snprintf(text, text_bytes, "the truncation of file %" PRIu64 " in export %" PRIu32,
			file, first);
		break;
	case RECORD_FREE:
		snprintf(text, text_bytes, "item %" PRIu64 " of the free queue",
			key.bytes >= 9 ? record_key_u64(key, 1) : 0);
		break;
	case RECORD_FREE_NODE:
		snprintf(text, text_bytes, "item %" PRIu64 " of the free queue of node %" PRIu32,
			file, first);
		break;
	case RECORD_REBUILD:
		snprintf(text, text_bytes,
			"segment %" PRIu32 " of file %" PRIu64
			" in the list of shards to be made on node %" PRIu32,
			key.bytes >= RECORD_KEY_REBUILD_BYTES ? record_key_u32(key, 18) : 0,
			key.bytes >= RECORD_KEY_REBUILD_BYTES ? record_key_u64(key, 10) : 0, first);
		break;
	case RECORD_REPLY:
		snprintf(text, text_bytes, "the last reply in slot %" PRIu32 " of a caller",
			key.bytes >= 13 ? record_key_u32(key, 9) : 0);
		break;
	default:
		snprintf(text, text_bytes, "a record of unknown kind 0x%02x",
			key.bytes > 0 ? bytes[0] : 0);
		break;
	}
}
