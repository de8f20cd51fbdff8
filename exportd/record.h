/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What lies in the key-value store: keys and values, and their conversion to and from memory.
 * docs/exportd.md draws them all.
 *
 * A key is one letter that names its kind, then fixed-length big-endian numbers, so that keys sort
 * by number, then a name where there is one. A value is a header (kind, format version, CRC-32C of
 * key and value), then fixed little-endian fields, then a name or list where there is one.
 *
 * All record_*_get functions return 0, -ENOENT (no such record), or -EIO: the value is damaged or
 * of an unknown version (it has been named in the log), or the store failed. All *_put functions
 * return 0 or an error of kv_put(), all *_remove functions 0 or an error of kv_remove().
 */
#ifndef ROZO_EXPORTD_RECORD_H
#define ROZO_EXPORTD_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "exportd/kv.h"

#define RECORD_NAME_MAX 255 /* META_NAME_MAX */
#define RECORD_TARGET_MAX 4095 /* META_SYMLINK_MAX */
#define RECORD_SHARDS_MAX 24 /* META_SHARDS_MAX */
#define RECORD_FORMERS_MAX 256 /* of a segment: those that are gone for good stay */
#define RECORD_COOKIE_FIRST 3 /* NFS: 0, 1 and 2 are not cookies of entries */
#define RECORD_ROOT_ID 1 /* file id of an export's root directory */
#define RECORD_WRITE_EPOCH_MAX 0xffffffu /* generations of blocks have 24 bits for it */

/* The format of the whole database; grows when an older rozo-exportd could not use it. */
#define RECORD_DATABASE_VERSION 2

/* First letter of a key, and kind in the header of its value. */
enum record_kind {
	RECORD_META = 'M', /* M                        the database itself */
	RECORD_COUNTERS = 'T', /* T                        numbers given out */
	RECORD_NODE = 'N', /* N node                   incarnation of a storage node */
	RECORD_EXPORT = 'E', /* E export                 parameters that never change */
	RECORD_ALLOCATION = 'A', /* A export                 next file id, number of files */
	RECORD_SKIPPED = 'G', /* G export end             file ids before `end`, not given out */
	RECORD_INODE = 'I', /* I export file */
	RECORD_ENTRY = 'D', /* D export directory name  directory entry by name */
	RECORD_COOKIE = 'C', /* C export directory cookie: the same by cookie */
	RECORD_TARGET = 'S', /* S export file            target of a symbolic link */
	RECORD_PLACEMENT = 'P', /* P export file segment    nodes of a segment */
	RECORD_FREE = 'Q', /* Q sequence               a segment to be freed */
	RECORD_FREE_NODE = 'F', /* F node sequence          the same, by node */
	RECORD_REBUILD = 'R', /* R node urgency export file segment: a shard to be made there */
	RECORD_TRUNCATION = 'U', /* U export file            a truncation not carried out yet */
	RECORD_REPLY = 'L', /* L caller slot            the last reply in a slot */
	RECORD_SERVER = 'V', /* V export                 the metadata server that gives layouts */
};

struct record_meta {
	uint32_t database_version;
	uint64_t created_seconds; /* since 1970 */
	char cluster_id[RECORD_NAME_MAX + 1];
};

struct record_counters {
	uint64_t next_free_sequence;
	uint32_t map_version; /* of the newest cluster map */
	uint32_t store_id; /* kv->id when the database was last opened */
};

struct record_node {
	uint64_t boot; /* of the run that was heard last */
	uint32_t incarnation;
	bool up; /* state in the newest map */
	bool out; /* not up, and for so long that others take over its shards */
};

struct record_export {
	uint8_t form;
	uint8_t k;
	uint8_t m;
	uint32_t row_bytes;
	uint64_t segment_blocks;
	uint64_t filesystem_id;
	char name[RECORD_NAME_MAX + 1]; /* at the last start, for messages */
};

struct record_allocation {
	uint64_t next_file_id;
	uint64_t files; /* inodes in the export */
};

struct record_time {
	int64_t seconds;
	uint32_t nanoseconds;
};

struct record_inode {
	uint64_t parent_id; /* with name: an entry that refers to this inode; */
	char name[RECORD_NAME_MAX + 1]; /* name is empty if that entry was removed */
	uint8_t type; /* meta_type */
	bool truncate_pending; /* blocks beyond truncate_size are to be emptied */
	uint16_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t links;
	uint32_t device_major;
	uint32_t device_minor;
	uint64_t size;
	uint64_t truncate_size;
	uint64_t change;
	uint64_t verifier;
	uint64_t next_cookie; /* directories */
	/* Regular files: the metadata server (RECORD_SERVER) that gave out the newest RW layout,
	 * which the creation of the file is, too; 0: none since layouts were last taken back. */
	uint64_t server;
	struct record_time access_time;
	struct record_time modify_time;
	struct record_time change_time;
	uint32_t segment_count; /* one more than the highest that has a placement */
	uint32_t layout_epoch; /* regular files, with the next two */
	uint32_t write_epoch;
	/* What was written under an older write epoch must not be acknowledged any more: that of
	 * the last truncation, or move of shards that is over; 0: neither. */
	uint32_t valid_epoch;
	uint32_t write_gateway;
};

struct record_entry {
	uint64_t file_id;
	uint64_t cookie;
};

struct record_cookie {
	uint64_t file_id;
	char name[RECORD_NAME_MAX + 1];
};

/* A node that had a shard, and was sent what was written under the epochs since .. until - 1. */
struct record_origin {
	uint32_t node;
	uint32_t shard;
	uint32_t since; /* 0: from the beginning; else it was out before it had made the shard */
	uint32_t until;
};

struct record_placement {
	uint32_t count;
	uint32_t nodes[RECORD_SHARDS_MAX]; /* by shard */
	/*
	 * The rest is 0 but after a node was out. rebuilding, bit s: shard s is still being made on
	 * its node. origins: nodes that had it before, and keep what they have until that is done.
	 * formers: nodes that have been told to remove a copy, and have not said so yet.
	 */
	uint32_t rebuilding;
	uint32_t urgency; /* of the RECORD_REBUILD entries, one for each shard in rebuilding */
	uint32_t switch_epoch; /* write epoch since which the nodes are these */
	/* By shard that is being made: the write epoch since which its node is asked. */
	uint32_t since[RECORD_SHARDS_MAX];
	uint32_t origin_count;
	struct record_origin origins[RECORD_SHARDS_MAX];
	uint32_t former_count;
	uint32_t formers[RECORD_FORMERS_MAX];
};

/* What a node is to make a shard of, by its key. */
struct record_rebuild {
	uint32_t node;
	uint8_t urgency; /* shards that were missing when it was entered; most urgent ones sort
			    first */
	uint32_t export_id;
	uint64_t file_id;
	uint32_t segment;
};

struct record_free {
	uint32_t export_id;
	uint32_t segment;
	uint64_t file_id;
	bool stray; /* the file goes on without these nodes */
	uint32_t count;
	uint32_t
		nodes[RECORD_SHARDS_MAX]; /* that have not freed it yet; none in RECORD_FREE_NODE */
};

#define RECORD_REPLY_MAX 512

struct record_reply {
	uint64_t sequence;
	int64_t seconds; /* since 1970, when it was given */
	uint32_t procedure; /* of rpc/meta.x */
	uint32_t bytes;
	uint8_t result[RECORD_REPLY_MAX]; /* in XDR */
};

/* -------- keys -------- */

struct record_key {
	size_t length;
	uint8_t bytes[1 + 4 + 8 + RECORD_NAME_MAX];
};

struct record_key record_key_meta(void);
struct record_key record_key_counters(void);
struct record_key record_key_node(uint32_t node);
struct record_key record_key_export(uint32_t export_id);
struct record_key record_key_allocation(uint32_t export_id);
struct record_key record_key_skipped(uint32_t export_id, uint64_t end);
struct record_key record_key_inode(uint32_t export_id, uint64_t file_id);
/* name_bytes: at most RECORD_NAME_MAX */
struct record_key record_key_entry(
	uint32_t export_id, uint64_t directory_id, const char *name, size_t name_bytes);
struct record_key record_key_cookie(uint32_t export_id, uint64_t directory_id, uint64_t cookie);
struct record_key record_key_target(uint32_t export_id, uint64_t file_id);
struct record_key record_key_placement(uint32_t export_id, uint64_t file_id, uint32_t segment);
struct record_key record_key_free(uint64_t sequence);
struct record_key record_key_free_node(uint32_t node, uint64_t sequence);
struct record_key record_key_rebuild(const struct record_rebuild *rebuild);

struct record_key record_key_truncation(uint32_t export_id, uint64_t file_id);
struct record_key record_key_reply(uint64_t caller, uint32_t slot);
struct record_key record_key_server(uint32_t export_id);

#define RECORD_KEY_REBUILD_BYTES 22

/* Bytes of a key before its last part: what a scan of all its like has in common. */
#define RECORD_PREFIX_KIND 1 /* every key of a kind */
#define RECORD_PREFIX_EXPORT 5 /* every inode, ... of an export */
#define RECORD_PREFIX_FILE 13 /* every entry, cookie or placement of a file */
#define RECORD_PREFIX_NODE 5 /* every RECORD_FREE_NODE or RECORD_REBUILD of a node */

struct kv_bytes record_key_bytes(const struct record_key *key);

/* The big-endian number at an offset of a key. The caller has checked the key's length. */
uint32_t record_key_u32(struct kv_bytes key, size_t offset);
uint64_t record_key_u64(struct kv_bytes key, size_t offset);

/* The urgency in the key of a RECORD_REBUILD. */
uint8_t record_key_rebuild_urgency(struct kv_bytes key);

/* What a key names, in words, for log lines. Any bytes will do. */
void record_key_describe(struct kv_bytes key, char *text, size_t text_bytes);

/* -------- values -------- */

int record_meta_get(struct kv_txn *txn, struct record_meta *meta);
int record_meta_put(struct kv_txn *txn, const struct record_meta *meta);

int record_counters_get(struct kv_txn *txn, struct record_counters *counters);
int record_counters_put(struct kv_txn *txn, const struct record_counters *counters);

int record_node_get(struct kv_txn *txn, uint32_t node, struct record_node *record);
int record_node_put(struct kv_txn *txn, uint32_t node, const struct record_node *record);

int record_export_get(struct kv_txn *txn, uint32_t export_id, struct record_export *export);
int record_export_put(struct kv_txn *txn, uint32_t export_id, const struct record_export *export);

int record_allocation_get(
	struct kv_txn *txn, uint32_t export_id, struct record_allocation *allocation);
int record_allocation_put(
	struct kv_txn *txn, uint32_t export_id, const struct record_allocation *allocation);

/* File ids from first to end - 1 are passed over (file_ids.h). */
int record_skipped_put(struct kv_txn *txn, uint32_t export_id, uint64_t first, uint64_t end);

/*
 * Whether a file id was given out, or passed over, before ids were passed over: 1, 0, or -EIO. What
 * the database says of such a file may be older than the nodes are.
 */
int record_skipped_since(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

/* Whether a file id was passed over: 1, 0, or -EIO. */
int record_skipped_has(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

int record_inode_get(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode);
int record_inode_put(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, const struct record_inode *inode);
int record_inode_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

/* An entry is one thing under two keys; put and remove keep them together. */
int record_entry_get(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, struct record_entry *entry);
int record_entry_put(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, const struct record_entry *entry);
int record_entry_remove(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, const struct record_entry *entry);

/* target: room for RECORD_TARGET_MAX + 1 bytes */
int record_target_get(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, char *target);
int record_target_put(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, const char *target);
int record_target_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

int record_placement_get(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment,
	struct record_placement *placement);
int record_placement_put(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment,
	const struct record_placement *placement);

int record_free_get(struct kv_txn *txn, uint64_t sequence, struct record_free *item);
int record_free_put(struct kv_txn *txn, uint64_t sequence, const struct record_free *item);
int record_free_node_put(
	struct kv_txn *txn, uint32_t node, uint64_t sequence, const struct record_free *item);

/* write_epoch: of the truncation. remove: -ENOENT if there is no such record. */
int record_truncation_put(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t write_epoch);
int record_truncation_remove(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

int record_reply_get(
	struct kv_txn *txn, uint64_t caller, uint32_t slot, struct record_reply *reply);
int record_reply_put(
	struct kv_txn *txn, uint64_t caller, uint32_t slot, const struct record_reply *reply);

/* The metadata server that attached to the export last, and gives out its layouts. */
struct record_server {
	uint64_t number; /* random, new whenever another one attaches: what inodes tell of */
	uint64_t run; /* as META_ATTACH named it; one may come back after another one */
};

/* get: zeros if none ever attached. */
int record_server_get(struct kv_txn *txn, uint32_t export_id, struct record_server *server);
int record_server_put(struct kv_txn *txn, uint32_t export_id, const struct record_server *server);

/* origin: the node that had the shard before. remove: -ENOENT if there is no such entry. */
int record_rebuild_put(struct kv_txn *txn, const struct record_rebuild *rebuild, uint32_t origin);
int record_rebuild_remove(struct kv_txn *txn, const struct record_rebuild *rebuild);

/* Of a shard that is being made, the node that had it first; 0: none. */
uint32_t record_placement_origin(const struct record_placement *placement, uint32_t shard);

/* True if a node has a shard of the segment, or is to keep what it had of one. */
bool record_placement_keeps(const struct record_placement *placement, uint32_t node);

/*
 * Decoders for values met in a scan. Return 0 or -EIO (named in the log).
 */
int record_inode_decode(struct kv_bytes key, struct kv_bytes value, struct record_inode *inode);
int record_entry_decode(struct kv_bytes key, struct kv_bytes value, struct record_entry *entry);
int record_cookie_decode(struct kv_bytes key, struct kv_bytes value, struct record_cookie *cookie);
int record_placement_decode(
	struct kv_bytes key, struct kv_bytes value, struct record_placement *placement);
int record_reply_decode(struct kv_bytes key, struct kv_bytes value, struct record_reply *reply);
int record_rebuild_decode(struct kv_bytes key, struct kv_bytes value,
	struct record_rebuild *rebuild, uint32_t *origin);
int record_truncation_decode(struct kv_bytes key, struct kv_bytes value, uint32_t *write_epoch);
int record_free_decode(struct kv_bytes key, struct kv_bytes value, struct record_free *item);
int record_export_decode(struct kv_bytes key, struct kv_bytes value, struct record_export *export);
int record_target_decode(struct kv_bytes key, struct kv_bytes value, char *target);

#endif
