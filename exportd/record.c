/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Values of the metadata database.
 *
 * A value is trusted only after its length, kind, version and CRC have been checked, and each field
 * that something else depends on its range. Takes no locks.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "exportd/record.h"
#include "exportd/record_disk.h"
#include "rpc/crc32c.h"
#include "rpc/log.h"
#include "rpc/meta.h"

/* The longest value: a symbolic link's target. */
#define VALUE_BYTES_MAX (sizeof(struct disk_header) + RECORD_TARGET_MAX)

/* -------- damage -------- */

static int damaged(struct kv_bytes key, const char *why)
{
	char text[512];

	record_key_describe(key, text, sizeof(text));
	rozo_log_limited(ERROR, "metadata database: %s is damaged (%s)", text, why);
	return -EIO;
}

/* -------- the frame of values -------- */

static uint32_t value_crc(struct kv_bytes key, const void *value, size_t value_bytes)
{
	const uint8_t *bytes = value;
	uint32_t crc;

	crc = rozo_crc32c(key.data, key.bytes);
	crc = rozo_crc32c_more(crc, bytes, offsetof(struct disk_header, crc32c));
	return rozo_crc32c_more(
		crc, bytes + sizeof(struct disk_header), value_bytes - sizeof(struct disk_header));
}

/* Fills in the header of the value and stores it. */
static int value_put(struct kv_txn *txn, const struct record_key *key, void *value, size_t bytes)
{
	struct kv_bytes key_bytes = record_key_bytes(key);
	struct disk_header header = {.kind = key->bytes[0], .version = RECORD_VALUE_VERSION};

	memcpy(value, &header, sizeof(header));
	header.crc32c = htole32(value_crc(key_bytes, value, bytes));
	memcpy(value, &header, sizeof(header));
	return kv_put(txn, key_bytes, (struct kv_bytes){value, bytes});
}

/*
 * Checks the header of a value and that its fixed part, of fixed_bytes, is there; copies that part
 * (values are not aligned) and gives the rest.
 */
static int value_open(struct kv_bytes key, struct kv_bytes value, void *fixed, size_t fixed_bytes,
	struct kv_bytes *rest)
{
	struct disk_header header;
	char why[64];

	if (value.bytes < fixed_bytes || value.bytes > VALUE_BYTES_MAX) {
		snprintf(why, sizeof(why), "it has %zu bytes", value.bytes);
		return damaged(key, why);
	}
	memcpy(&header, value.data, sizeof(header));
	if (header.kind != *(const uint8_t *)key.data) {
		snprintf(why, sizeof(why), "its kind is 0x%02x", header.kind);
		return damaged(key, why);
	}
	if (le32toh(header.crc32c) != value_crc(key, value.data, value.bytes))
		return damaged(key, "its checksum is wrong");
	if (header.version != RECORD_VALUE_VERSION) {
		snprintf(why, sizeof(why), "its version is %u, known is %u", header.version,
			RECORD_VALUE_VERSION);
		return damaged(key, why);
	}
	memcpy(fixed, value.data, fixed_bytes);
	*rest = (struct kv_bytes){
		(const uint8_t *)value.data + fixed_bytes, value.bytes - fixed_bytes};
	return 0;
}

/* Copies a name or target that fills the rest of a value. */
static int value_text(
	struct kv_bytes key, struct kv_bytes rest, size_t expected, size_t limit, char *text)
{
	if (rest.bytes != expected || rest.bytes > limit ||
		memchr(rest.data, '\0', rest.bytes) != NULL)
		return damaged(key, "its text is not as long as it says");
	memcpy(text, rest.data, rest.bytes);
	text[rest.bytes] = '\0';
	return 0;
}

/* Copies a list of at most `room` node ids that fills the rest of a value. */
static int value_nodes(
	struct kv_bytes key, struct kv_bytes rest, uint32_t count, uint32_t room, uint32_t *nodes)
{
	uint32_t i, little_endian;

	if (count > room || rest.bytes != count * sizeof(uint32_t))
		return damaged(key, "its list of nodes is not as long as it says");
	for (i = 0; i < count; i++) {
		memcpy(&little_endian, (const uint8_t *)rest.data + i * 4, 4);
		nodes[i] = le32toh(little_endian);
	}
	return 0;
}

static size_t add_nodes(uint8_t *end, uint32_t count, const uint32_t *nodes)
{
	uint32_t i, little_endian;

	for (i = 0; i < count; i++) {
		little_endian = htole32(nodes[i]);
		memcpy(end + i * 4, &little_endian, 4);
	}
	return count * sizeof(uint32_t);
}

/* -------- values -------- */

int record_meta_get(struct kv_txn *txn, struct record_meta *meta)
{
	struct record_key key = record_key_meta();
	struct kv_bytes value, rest;
	struct disk_meta disk;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	result = value_open(record_key_bytes(&key), value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	meta->database_version = le32toh(disk.database_version);
	meta->created_seconds = le64toh(disk.created_seconds);
	return value_text(record_key_bytes(&key), rest, le32toh(disk.cluster_id_bytes),
		RECORD_NAME_MAX, meta->cluster_id);
}

int record_meta_put(struct kv_txn *txn, const struct record_meta *meta)
{
	struct record_key key = record_key_meta();
	size_t id_bytes = strlen(meta->cluster_id);
	uint8_t value[sizeof(struct disk_meta) + RECORD_NAME_MAX];
	struct disk_meta disk = {
		.database_version = htole32(meta->database_version),
		.cluster_id_bytes = htole32((uint32_t)id_bytes),
		.created_seconds = htole64(meta->created_seconds),
	};

	memcpy(value, &disk, sizeof(disk));
	memcpy(value + sizeof(disk), meta->cluster_id, id_bytes);
	return value_put(txn, &key, value, sizeof(disk) + id_bytes);
}

int record_counters_get(struct kv_txn *txn, struct record_counters *counters)
{
	struct record_key key = record_key_counters();
	struct kv_bytes value, rest;
	struct disk_counters disk;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	result = value_open(record_key_bytes(&key), value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	counters->next_free_sequence = le64toh(disk.next_free_sequence);
	counters->map_version = le32toh(disk.map_version);
	counters->store_id = le32toh(disk.store_id);
	return 0;
}

int record_counters_put(struct kv_txn *txn, const struct record_counters *counters)
{
	struct record_key key = record_key_counters();
	struct disk_counters disk = {
		.next_free_sequence = htole64(counters->next_free_sequence),
		.map_version = htole32(counters->map_version),
		.store_id = htole32(counters->store_id),
	};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_node_get(struct kv_txn *txn, uint32_t node, struct record_node *record)
{
	struct record_key key = record_key_node(node);
	struct kv_bytes value, rest;
	struct disk_node disk;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	result = value_open(record_key_bytes(&key), value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	record->boot = le64toh(disk.boot);
	record->incarnation = le32toh(disk.incarnation);
	record->up = (le32toh(disk.flags) & DISK_NODE_UP) != 0;
	record->out = (le32toh(disk.flags) & DISK_NODE_OUT) != 0;
	return 0;
}

int record_node_put(struct kv_txn *txn, uint32_t node, const struct record_node *record)
{
	struct record_key key = record_key_node(node);
	struct disk_node disk = {
		.boot = htole64(record->boot),
		.incarnation = htole32(record->incarnation),
		.flags = htole32(
			(record->up ? DISK_NODE_UP : 0) | (record->out ? DISK_NODE_OUT : 0)),
	};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_export_decode(struct kv_bytes key, struct kv_bytes value, struct record_export *export)
{
	struct disk_export disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	export->form = disk.form;
	export->k = disk.k;
	export->m = disk.m;
	export->row_bytes = le32toh(disk.row_bytes);
	export->segment_blocks = le64toh(disk.segment_blocks);
	export->filesystem_id = le64toh(disk.filesystem_id);
	return value_text(key, rest, disk.name_bytes, RECORD_NAME_MAX, export->name);
}

int record_export_get(struct kv_txn *txn, uint32_t export_id, struct record_export *export)
{
	struct record_key key = record_key_export(export_id);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_export_decode(record_key_bytes(&key), value, export);
}

int record_export_put(struct kv_txn *txn, uint32_t export_id, const struct record_export *export)
{
	struct record_key key = record_key_export(export_id);
	size_t name_bytes = strlen(export->name);
	uint8_t value[sizeof(struct disk_export) + RECORD_NAME_MAX];
	struct disk_export disk = {
		.form = export->form,
		.k = export->k,
		.m = export->m,
		.name_bytes = (uint8_t)name_bytes,
		.row_bytes = htole32(export->row_bytes),
		.segment_blocks = htole64(export->segment_blocks),
		.filesystem_id = htole64(export->filesystem_id),
	};

	memcpy(value, &disk, sizeof(disk));
	memcpy(value + sizeof(disk), export->name, name_bytes);
	return value_put(txn, &key, value, sizeof(disk) + name_bytes);
}

int record_allocation_get(
	struct kv_txn *txn, uint32_t export_id, struct record_allocation *allocation)
{
	struct record_key key = record_key_allocation(export_id);
	struct disk_allocation disk;
	struct kv_bytes value, rest;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	result = value_open(record_key_bytes(&key), value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	allocation->next_file_id = le64toh(disk.next_file_id);
	allocation->files = le64toh(disk.files);
	return 0;
}

int record_allocation_put(
	struct kv_txn *txn, uint32_t export_id, const struct record_allocation *allocation)
{
	struct record_key key = record_key_allocation(export_id);
	struct disk_allocation disk = {
		.next_file_id = htole64(allocation->next_file_id),
		.files = htole64(allocation->files),
	};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_server_get(struct kv_txn *txn, uint32_t export_id, struct record_server *server)
{
	struct record_key key = record_key_server(export_id);
	struct disk_server disk;
	struct kv_bytes value, rest;
	int result;

	*server = (struct record_server){0};
	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result == -ENOENT)
		return 0;
	if (result == 0)
		result = value_open(record_key_bytes(&key), value, &disk, sizeof(disk), &rest);
	if (result == 0)
		*server = (struct record_server){
			.number = le64toh(disk.number), .run = le64toh(disk.run)};
	return result;
}

int record_server_put(struct kv_txn *txn, uint32_t export_id, const struct record_server *server)
{
	struct record_key key = record_key_server(export_id);
	struct disk_server disk = {.number = htole64(server->number), .run = htole64(server->run)};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_skipped_put(struct kv_txn *txn, uint32_t export_id, uint64_t first, uint64_t end)
{
	struct record_key key = record_key_skipped(export_id, end);
	struct disk_skipped disk = {.first = htole64(first)};

	return value_put(txn, &key, &disk, sizeof(disk));
}

/* Of the first one that ends behind a file id. */
static int skipped_first(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct disk_skipped disk;
	struct kv_bytes rest;
	int result = value_open(key, value, &disk, sizeof(disk), &rest);

	if (result != 0)
		return result;
	*(uint64_t *)context = le64toh(disk.first);
	return 1;
}

/* *first receives where the next ids begin that were passed over and are not all before one. */
static int skipped_behind(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint64_t *first)
{
	struct record_key from = record_key_skipped(export_id, file_id + 1);

	return kv_scan(txn, record_key_bytes(&from), RECORD_PREFIX_EXPORT, skipped_first, first);
}

int record_skipped_since(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	uint64_t first;

	return skipped_behind(txn, export_id, file_id, &first);
}

int record_skipped_has(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	uint64_t first;
	int result = skipped_behind(txn, export_id, file_id, &first);

	return result == 1 ? first <= file_id : result;
}

int record_inode_decode(struct kv_bytes key, struct kv_bytes value, struct record_inode *inode)
{
	struct disk_inode disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	*inode = (struct record_inode){
		.parent_id = le64toh(disk.parent_id),
		.type = disk.type,
		.truncate_pending = (disk.flags & DISK_INODE_TRUNCATE_PENDING) != 0,
		.mode = le16toh(disk.mode),
		.uid = le32toh(disk.uid),
		.gid = le32toh(disk.gid),
		.links = le32toh(disk.links),
		.device_major = le32toh(disk.device_major),
		.device_minor = le32toh(disk.device_minor),
		.size = le64toh(disk.size),
		.truncate_size = le64toh(disk.truncate_size),
		.change = le64toh(disk.change),
		.verifier = le64toh(disk.verifier),
		.next_cookie = disk.type == META_DIRECTORY ? le64toh(disk.next_cookie) : 0,
		.server = disk.type == META_REGULAR ? le64toh(disk.next_cookie) : 0,
		.access_time = {(int64_t)le64toh((uint64_t)disk.access_seconds),
			le32toh(disk.access_nanoseconds)},
		.modify_time = {(int64_t)le64toh((uint64_t)disk.modify_seconds),
			le32toh(disk.modify_nanoseconds)},
		.change_time = {(int64_t)le64toh((uint64_t)disk.change_seconds),
			le32toh(disk.change_nanoseconds)},
		.segment_count = le32toh(disk.segment_count),
		.layout_epoch = le32toh(disk.layout_epoch),
		.write_epoch = le32toh(disk.write_epoch),
		.valid_epoch = disk.valid_epoch[0] | (uint32_t)disk.valid_epoch[1] << 8 |
			       (uint32_t)disk.valid_epoch[2] << 16,
		.write_gateway = le32toh(disk.write_gateway),
	};
	return value_text(key, rest, disk.name_bytes, RECORD_NAME_MAX, inode->name);
}

int record_inode_get(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	struct record_key key = record_key_inode(export_id, file_id);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_inode_decode(record_key_bytes(&key), value, inode);
}

int record_inode_put(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, const struct record_inode *inode)
{
	struct record_key key = record_key_inode(export_id, file_id);
	size_t name_bytes = strlen(inode->name);
	uint8_t value[sizeof(struct disk_inode) + RECORD_NAME_MAX];
	struct disk_inode disk = {
		.parent_id = htole64(inode->parent_id),
		.size = htole64(inode->size),
		.truncate_size = htole64(inode->truncate_size),
		.change = htole64(inode->change),
		.verifier = htole64(inode->verifier),
		.next_cookie =
			htole64(inode->type == META_REGULAR ? inode->server : inode->next_cookie),
		.access_seconds = (int64_t)htole64((uint64_t)inode->access_time.seconds),
		.modify_seconds = (int64_t)htole64((uint64_t)inode->modify_time.seconds),
		.change_seconds = (int64_t)htole64((uint64_t)inode->change_time.seconds),
		.access_nanoseconds = htole32(inode->access_time.nanoseconds),
		.modify_nanoseconds = htole32(inode->modify_time.nanoseconds),
		.change_nanoseconds = htole32(inode->change_time.nanoseconds),
		.uid = htole32(inode->uid),
		.gid = htole32(inode->gid),
		.links = htole32(inode->links),
		.device_major = htole32(inode->device_major),
		.device_minor = htole32(inode->device_minor),
		.segment_count = htole32(inode->segment_count),
		.layout_epoch = htole32(inode->layout_epoch),
		.write_epoch = htole32(inode->write_epoch),
		.write_gateway = htole32(inode->write_gateway),
		.mode = htole16(inode->mode),
		.type = inode->type,
		.flags = inode->truncate_pending ? DISK_INODE_TRUNCATE_PENDING : 0,
		.name_bytes = (uint8_t)name_bytes,
		.valid_epoch = {(uint8_t)inode->valid_epoch, (uint8_t)(inode->valid_epoch >> 8),
			(uint8_t)(inode->valid_epoch >> 16)},
	};

	memcpy(value, &disk, sizeof(disk));
	memcpy(value + sizeof(disk), inode->name, name_bytes);
	return value_put(txn, &key, value, sizeof(disk) + name_bytes);
}

int record_inode_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	struct record_key key = record_key_inode(export_id, file_id);

	return kv_remove(txn, record_key_bytes(&key));
}

int record_entry_decode(struct kv_bytes key, struct kv_bytes value, struct record_entry *entry)
{
	struct disk_entry disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	entry->file_id = le64toh(disk.file_id);
	entry->cookie = le64toh(disk.cookie);
	return 0;
}

int record_cookie_decode(struct kv_bytes key, struct kv_bytes value, struct record_cookie *cookie)
{
	struct disk_cookie disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	cookie->file_id = le64toh(disk.file_id);
	return value_text(key, rest, rest.bytes, RECORD_NAME_MAX, cookie->name);
}

int record_entry_get(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, struct record_entry *entry)
{
	struct record_key key = record_key_entry(export_id, directory_id, name, strlen(name));
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_entry_decode(record_key_bytes(&key), value, entry);
}

int record_entry_put(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, const struct record_entry *entry)
{
	size_t name_bytes = strlen(name);
	struct record_key by_name = record_key_entry(export_id, directory_id, name, name_bytes);
	struct record_key by_cookie = record_key_cookie(export_id, directory_id, entry->cookie);
	uint8_t value[sizeof(struct disk_cookie) + RECORD_NAME_MAX];
	struct disk_cookie disk_cookie = {.file_id = htole64(entry->file_id)};
	struct disk_entry disk_entry = {
		.file_id = htole64(entry->file_id),
		.cookie = htole64(entry->cookie),
	};
	int result;

	result = value_put(txn, &by_name, &disk_entry, sizeof(disk_entry));
	if (result != 0)
		return result;
	memcpy(value, &disk_cookie, sizeof(disk_cookie));
	memcpy(value + sizeof(disk_cookie), name, name_bytes);
	return value_put(txn, &by_cookie, value, sizeof(disk_cookie) + name_bytes);
}

int record_entry_remove(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, const struct record_entry *entry)
{
	struct record_key by_name = record_key_entry(export_id, directory_id, name, strlen(name));
	struct record_key by_cookie = record_key_cookie(export_id, directory_id, entry->cookie);
	int result;

	result = kv_remove(txn, record_key_bytes(&by_name));
	if (result != 0)
		return result;
	result = kv_remove(txn, record_key_bytes(&by_cookie));
	if (result == -ENOENT)
		return damaged(record_key_bytes(&by_cookie), "it is missing");
	return result;
}

int record_target_decode(struct kv_bytes key, struct kv_bytes value, char *target)
{
	struct disk_header disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	return value_text(key, rest, rest.bytes, RECORD_TARGET_MAX, target);
}

int record_target_get(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, char *target)
{
	struct record_key key = record_key_target(export_id, file_id);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_target_decode(record_key_bytes(&key), value, target);
}

int record_target_put(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, const char *target)
{
	struct record_key key = record_key_target(export_id, file_id);
	size_t target_bytes = strlen(target);
	uint8_t value[VALUE_BYTES_MAX];

	memcpy(value + sizeof(struct disk_header), target, target_bytes);
	return value_put(txn, &key, value, sizeof(struct disk_header) + target_bytes);
}

int record_target_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	struct record_key key = record_key_target(export_id, file_id);

	return kv_remove(txn, record_key_bytes(&key));
}

int record_reply_decode(struct kv_bytes key, struct kv_bytes value, struct record_reply *reply)
{
	struct disk_reply disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	if (rest.bytes == 0 || rest.bytes > RECORD_REPLY_MAX || rest.bytes % 4 != 0)
		return damaged(key, "its result is not as long as results are");
	*reply = (struct record_reply){
		.sequence = le64toh(disk.sequence),
		.seconds = (int64_t)le64toh((uint64_t)disk.seconds),
		.procedure = le32toh(disk.procedure),
		.bytes = (uint32_t)rest.bytes,
	};
	memcpy(reply->result, rest.data, rest.bytes);
	return 0;
}

int record_reply_get(struct kv_txn *txn, uint64_t caller, uint32_t slot, struct record_reply *reply)
{
	struct record_key key = record_key_reply(caller, slot);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_reply_decode(record_key_bytes(&key), value, reply);
}

int record_reply_put(
	struct kv_txn *txn, uint64_t caller, uint32_t slot, const struct record_reply *reply)
{
	struct record_key key = record_key_reply(caller, slot);
	uint8_t value[sizeof(struct disk_reply) + RECORD_REPLY_MAX];
	struct disk_reply disk = {
		.sequence = htole64(reply->sequence),
		.seconds = (int64_t)htole64((uint64_t)reply->seconds),
		.procedure = htole32(reply->procedure),
	};

	memcpy(value, &disk, sizeof(disk));
	memcpy(value + sizeof(disk), reply->result, reply->bytes);
	return value_put(txn, &key, value, sizeof(disk) + reply->bytes);
}

/* What is the same for all shards if they moved at once. firsts: of each shard, who had it. */
static void set_moves(struct record_placement *placement, const uint32_t *firsts)
{
	placement->origin_count = 0;
	for (uint32_t s = 0; s < placement->count; s++) {
		bool moved = placement->rebuilding & (1u << s);

		placement->since[s] = moved ? placement->switch_epoch : 0;
		if (moved && firsts[s] != 0)
			placement->origins[placement->origin_count++] = (struct record_origin){
				.node = firsts[s], .shard = s, .until = placement->switch_epoch};
	}
}

/* Of each shard the first node that had it. */
static void get_firsts(const struct record_placement *placement, uint32_t firsts[RECORD_SHARDS_MAX])
{
	memset(firsts, 0, RECORD_SHARDS_MAX * sizeof(*firsts));
	for (uint32_t s = 0; s < placement->count; s++)
		firsts[s] = record_placement_origin(placement, s);
}

/* True if set_moves() makes of them what there is. */
static bool moved_at_once(const struct record_placement *placement)
{
	struct record_placement same = *placement;
	uint32_t firsts[RECORD_SHARDS_MAX];

	get_firsts(placement, firsts);
	memset(same.since, 0, sizeof(same.since));
	memset(same.origins, 0, sizeof(same.origins));
	set_moves(&same, firsts);
	return same.origin_count == placement->origin_count &&
	       memcmp(same.since, placement->since, sizeof(same.since)) == 0 &&
	       memcmp(same.origins, placement->origins,
		       same.origin_count * sizeof(*same.origins)) == 0;
}

/* Decodes what follows the formers of shards that moved one after another. */
static int get_moves(
	struct kv_bytes key, const uint8_t *bytes, size_t left, struct record_placement *placement)
{
	size_t epochs = placement->count * sizeof(uint32_t);
	struct disk_origin disk;

	if (left < epochs || (left - epochs) % sizeof(disk) != 0 ||
		(left - epochs) / sizeof(disk) > RECORD_SHARDS_MAX)
		return damaged(key, "its list of moves is not as long as it should be");
	for (uint32_t s = 0; s < placement->count; s++) {
		memcpy(&placement->since[s], bytes + s * sizeof(uint32_t), sizeof(uint32_t));
		placement->since[s] = le32toh(placement->since[s]);
	}
	memset(placement->origins, 0, sizeof(placement->origins));
	placement->origin_count = (uint32_t)((left - epochs) / sizeof(disk));
	for (uint32_t i = 0; i < placement->origin_count; i++) {
		memcpy(&disk, bytes + epochs + i * sizeof(disk), sizeof(disk));
		placement->origins[i] = (struct record_origin){.node = le32toh(disk.node),
			.shard = le32toh(disk.shard),
			.since = le32toh(disk.since),
			.until = le32toh(disk.until)};
		if (placement->origins[i].shard >= placement->count)
			return damaged(key, "it names a shard that there is not");
	}
	return 0;
}

static size_t add_moves(uint8_t *to, const struct record_placement *placement)
{
	size_t bytes = add_nodes(to, placement->count, placement->since);

	for (uint32_t i = 0; i < placement->origin_count; i++) {
		const struct record_origin *origin = &placement->origins[i];
		struct disk_origin disk = {.node = htole32(origin->node),
			.shard = htole32(origin->shard),
			.since = htole32(origin->since),
			.until = htole32(origin->until)};

		memcpy(to + bytes, &disk, sizeof(disk));
		bytes += sizeof(disk);
	}
	return bytes;
}

uint32_t record_placement_origin(const struct record_placement *placement, uint32_t shard)
{
	for (uint32_t i = 0; i < placement->origin_count; i++)
		if (placement->origins[i].shard == shard)
			return placement->origins[i].node;
	return 0;
}

bool record_placement_keeps(const struct record_placement *placement, uint32_t node)
{
	for (uint32_t s = 0; s < placement->count; s++)
		if (placement->nodes[s] == node)
			return true;
	for (uint32_t i = 0; i < placement->origin_count; i++)
		if (placement->origins[i].node == node)
			return true;
	return false;
}

int record_placement_decode(
	struct kv_bytes key, struct kv_bytes value, struct record_placement *placement)
{
	struct disk_placement disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	*placement = (struct record_placement){.count = le32toh(disk.count)};
	size_t bytes = placement->count * sizeof(uint32_t);
	if (placement->count > RECORD_SHARDS_MAX || rest.bytes <= bytes)
		return value_nodes(
			key, rest, placement->count, RECORD_SHARDS_MAX, placement->nodes);

	struct disk_placement_change change;
	const uint8_t *next = (const uint8_t *)rest.data + bytes;
	size_t left = rest.bytes - bytes;

	if (left < sizeof(change) + bytes)
		return damaged(key, "its list of nodes is not as long as it says");
	memcpy(&change, next, sizeof(change));
	next += sizeof(change);
	left -= sizeof(change) + bytes;
	placement->rebuilding = le32toh(change.rebuilding);
	placement->urgency = le32toh(change.urgency);
	placement->switch_epoch = le32toh(change.switch_epoch);
	placement->former_count = le32toh(change.former_count);
	size_t formers = placement->former_count * sizeof(uint32_t);
	uint32_t firsts[RECORD_SHARDS_MAX];
	result = value_nodes(key, (struct kv_bytes){rest.data, bytes}, placement->count,
		RECORD_SHARDS_MAX, placement->nodes);
	if (result == 0)
		result = value_nodes(key, (struct kv_bytes){next, bytes}, placement->count,
			RECORD_SHARDS_MAX, firsts);
	if (result == 0)
		set_moves(placement, firsts);
	if (result == 0)
		result = value_nodes(key,
			(struct kv_bytes){next + bytes, left > formers ? formers : left},
			placement->former_count, RECORD_FORMERS_MAX, placement->formers);
	if (result == 0 && left > formers)
		result = get_moves(key, next + bytes + formers, left - formers, placement);
	return result;
}

int record_placement_get(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment,
	struct record_placement *placement)
{
	struct record_key key = record_key_placement(export_id, file_id, segment);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_placement_decode(record_key_bytes(&key), value, placement);
}

int record_placement_put(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment,
	const struct record_placement *placement)
{
	struct record_key key = record_key_placement(export_id, file_id, segment);
	uint8_t value[sizeof(struct disk_placement) + sizeof(struct disk_placement_change) +
		      RECORD_SHARDS_MAX * (3 * 4 + sizeof(struct disk_origin)) +
		      RECORD_FORMERS_MAX * 4];
	struct disk_placement disk = {.count = htole32(placement->count)};
	size_t bytes = sizeof(disk);

	memcpy(value, &disk, sizeof(disk));
	bytes += add_nodes(value + bytes, placement->count, placement->nodes);
	if (placement->rebuilding != 0 || placement->former_count != 0) {
		struct disk_placement_change change = {
			.rebuilding = htole32(placement->rebuilding),
			.urgency = htole32(placement->urgency),
			.switch_epoch = htole32(placement->switch_epoch),
			.former_count = htole32(placement->former_count),
		};

		memcpy(value + bytes, &change, sizeof(change));
		bytes += sizeof(change);
		uint32_t firsts[RECORD_SHARDS_MAX];

		get_firsts(placement, firsts);
		bytes += add_nodes(value + bytes, placement->count, firsts);
		bytes += add_nodes(value + bytes, placement->former_count, placement->formers);
		if (!moved_at_once(placement))
			bytes += add_moves(value + bytes, placement);
	}
	return value_put(txn, &key, value, bytes);
}

int record_rebuild_decode(struct kv_bytes key, struct kv_bytes value,
	struct record_rebuild *rebuild, uint32_t *origin)
{
	struct disk_rebuild disk;
	struct kv_bytes rest;
	int result;

	if (key.bytes != RECORD_KEY_REBUILD_BYTES)
		return damaged(key, "its key is not as long as it should be");
	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	*rebuild = (struct record_rebuild){
		.node = record_key_u32(key, 1),
		.urgency = record_key_rebuild_urgency(key),
		.export_id = record_key_u32(key, 6),
		.file_id = record_key_u64(key, 10),
		.segment = record_key_u32(key, 18),
	};
	*origin = le32toh(disk.origin);
	return 0;
}

int record_rebuild_put(struct kv_txn *txn, const struct record_rebuild *rebuild, uint32_t origin)
{
	struct record_key key = record_key_rebuild(rebuild);
	struct disk_rebuild disk = {.origin = htole32(origin)};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_rebuild_remove(struct kv_txn *txn, const struct record_rebuild *rebuild)
{
	struct record_key key = record_key_rebuild(rebuild);

	return kv_remove(txn, record_key_bytes(&key));
}

int record_truncation_decode(struct kv_bytes key, struct kv_bytes value, uint32_t *write_epoch)
{
	struct disk_truncation disk;
	struct kv_bytes rest;
	int result;

	if (key.bytes != RECORD_PREFIX_FILE)
		return damaged(key, "its key is not as long as it should be");
	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result == 0)
		*write_epoch = le32toh(disk.write_epoch);
	return result;
}

int record_truncation_put(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t write_epoch)
{
	struct record_key key = record_key_truncation(export_id, file_id);
	struct disk_truncation disk = {.write_epoch = htole32(write_epoch)};

	return value_put(txn, &key, &disk, sizeof(disk));
}

int record_truncation_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	struct record_key key = record_key_truncation(export_id, file_id);

	return kv_remove(txn, record_key_bytes(&key));
}

int record_free_decode(struct kv_bytes key, struct kv_bytes value, struct record_free *item)
{
	struct disk_free disk;
	struct kv_bytes rest;
	int result;

	result = value_open(key, value, &disk, sizeof(disk), &rest);
	if (result != 0)
		return result;
	item->export_id = le32toh(disk.export_id);
	item->segment = le32toh(disk.segment);
	item->file_id = le64toh(disk.file_id);
	item->stray = (le32toh(disk.flags) & DISK_FREE_STRAY) != 0;
	item->count = le32toh(disk.count);
	return value_nodes(key, rest, item->count, RECORD_SHARDS_MAX, item->nodes);
}

int record_free_get(struct kv_txn *txn, uint64_t sequence, struct record_free *item)
{
	struct record_key key = record_key_free(sequence);
	struct kv_bytes value;
	int result;

	result = kv_get(txn, record_key_bytes(&key), &value);
	if (result != 0)
		return result;
	return record_free_decode(record_key_bytes(&key), value, item);
}

static int free_put(struct kv_txn *txn, const struct record_key *key,
	const struct record_free *item, uint32_t count)
{
	uint8_t value[sizeof(struct disk_free) + RECORD_SHARDS_MAX * 4];
	struct disk_free disk = {
		.file_id = htole64(item->file_id),
		.export_id = htole32(item->export_id),
		.segment = htole32(item->segment),
		.count = htole32(count),
		.flags = htole32(item->stray ? DISK_FREE_STRAY : 0),
	};
	size_t bytes = sizeof(disk);

	memcpy(value, &disk, sizeof(disk));
	bytes += add_nodes(value + bytes, count, item->nodes);
	return value_put(txn, key, value, bytes);
}

int record_free_put(struct kv_txn *txn, uint64_t sequence, const struct record_free *item)
{
	struct record_key key = record_key_free(sequence);

	return free_put(txn, &key, item, item->count);
}

int record_free_node_put(
	struct kv_txn *txn, uint32_t node, uint64_t sequence, const struct record_free *item)
{
	struct record_key key = record_key_free_node(node, sequence);

	return free_put(txn, &key, item, 0);
}
