/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The values of the metadata database as they lie on disk, private to record.c and its tests.
 *
 * Every number is little-endian. Fields are naturally aligned relative to the value's start and
 * there is no padding. Reserved fields are written as 0 and not looked at. What follows a structure
 * (a name, a list) is counted in it and ends the value. docs/exportd.md has the drawings.
 */
#ifndef ROZO_EXPORTD_RECORD_DISK_H
#define ROZO_EXPORTD_RECORD_DISK_H

#include <stdint.h>

#define RECORD_VALUE_VERSION 1

/* Begins every value. */
struct disk_header {
	uint8_t kind; /* enum record_kind, as in the key */
	uint8_t version; /* RECORD_VALUE_VERSION */
	uint16_t reserved;
	uint32_t crc32c; /* of the key, then the value with this field left out */
};
_Static_assert(sizeof(struct disk_header) == 8, "format");

struct disk_meta {
	struct disk_header header;
	uint32_t database_version;
	uint32_t cluster_id_bytes;
	uint64_t created_seconds;
	/* cluster id */
};
_Static_assert(sizeof(struct disk_meta) == 24, "format");

struct disk_counters {
	struct disk_header header;
	uint64_t next_free_sequence;
	uint32_t map_version;
	uint32_t store_id;
};
_Static_assert(sizeof(struct disk_counters) == 24, "format");

struct disk_node {
	struct disk_header header;
	uint64_t boot;
	uint32_t incarnation;
	uint32_t flags; /* DISK_NODE_* */
};
#define DISK_NODE_UP 1
#define DISK_NODE_OUT 2
_Static_assert(sizeof(struct disk_node) == 24, "format");

struct disk_export {
	struct disk_header header;
	uint8_t form;
	uint8_t k;
	uint8_t m;
	uint8_t name_bytes;
	uint32_t row_bytes;
	uint64_t segment_blocks;
	uint64_t filesystem_id;
	/* name */
};
_Static_assert(sizeof(struct disk_export) == 32, "format");

struct disk_allocation {
	struct disk_header header;
	uint64_t next_file_id;
	uint64_t files;
};
_Static_assert(sizeof(struct disk_allocation) == 24, "format");

struct disk_server {
	struct disk_header header;
	uint64_t number;
	uint64_t run;
};
_Static_assert(sizeof(struct disk_server) == 24, "format");

struct disk_skipped {
	struct disk_header header;
	uint64_t first; /* the end is in the key */
};
_Static_assert(sizeof(struct disk_skipped) == 16, "format");

struct disk_inode {
	struct disk_header header;
	uint64_t parent_id;
	uint64_t size;
	uint64_t truncate_size;
	uint64_t change;
	uint64_t verifier;
	uint64_t next_cookie; /* of a directory; of a regular file: server */
	int64_t access_seconds;
	int64_t modify_seconds;
	int64_t change_seconds;
	uint32_t access_nanoseconds;
	uint32_t modify_nanoseconds;
	uint32_t change_nanoseconds;
	uint32_t uid;
	uint32_t gid;
	uint32_t links;
	uint32_t device_major;
	uint32_t device_minor;
	uint32_t layout_epoch;
	uint32_t write_epoch;
	uint32_t write_gateway;
	uint16_t mode;
	uint8_t type;
	uint8_t flags; /* DISK_INODE_* */
	uint8_t name_bytes;
	uint8_t valid_epoch[3]; /* write epochs have 24 bits */
	uint32_t segment_count;
	/* name */
};
_Static_assert(sizeof(struct disk_inode) == 136, "format");
#define DISK_INODE_TRUNCATE_PENDING 1

struct disk_entry {
	struct disk_header header;
	uint64_t file_id;
	uint64_t cookie;
};
_Static_assert(sizeof(struct disk_entry) == 24, "format");

struct disk_cookie {
	struct disk_header header;
	uint64_t file_id;
	/* name, to the value's end */
};
_Static_assert(sizeof(struct disk_cookie) == 16, "format");

/* A symbolic link's target follows the header, to the value's end. */

struct disk_reply {
	struct disk_header header;
	uint64_t sequence;
	int64_t seconds;
	uint32_t procedure;
	uint32_t reserved;
	/* the result, to the value's end */
};
_Static_assert(sizeof(struct disk_reply) == 32, "format");

struct disk_placement {
	struct disk_header header;
	uint32_t count;
	/* count node ids of 4 bytes */
};
#define DISK_PLACEMENT_BYTES 12
_Static_assert(sizeof(struct disk_placement) == DISK_PLACEMENT_BYTES, "format");

/* Follows the list of nodes if any field of it is not 0. */
struct disk_placement_change {
	uint32_t rebuilding;
	uint32_t urgency;
	uint32_t switch_epoch;
	uint32_t former_count;
	/* count node ids of 4 bytes: of each shard the first that had it before, or 0; then
	 * former_count of them; then, unless all shards moved under switch_epoch, since (count
	 * write epochs of 4 bytes) and all disk_origin */
};
_Static_assert(sizeof(struct disk_placement_change) == 16, "format");

struct disk_origin {
	uint32_t node;
	uint32_t shard;
	uint32_t since;
	uint32_t until;
};
_Static_assert(sizeof(struct disk_origin) == 16, "format");

struct disk_rebuild {
	struct disk_header header;
	uint32_t origin;
	uint32_t reserved;
};
_Static_assert(sizeof(struct disk_rebuild) == 16, "format");

struct disk_truncation {
	struct disk_header header;
	uint32_t write_epoch;
	uint32_t reserved;
};
_Static_assert(sizeof(struct disk_truncation) == 16, "format");

struct disk_free {
	struct disk_header header;
	uint64_t file_id;
	uint32_t export_id;
	uint32_t segment;
	uint32_t count;
	uint32_t flags; /* DISK_FREE_* */
	/* count node ids of 4 bytes */
};
#define DISK_FREE_STRAY 1
_Static_assert(sizeof(struct disk_free) == 32, "format");

#endif
