/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The check of an export's metadata: one pass over the inodes, which are kept in memory in
 * ascending id, then one over each kind of record that refers to them. Takes no locks; sees one
 * committed state.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/namespace_check.h"
#include "exportd/record.h"
#include "rpc/log.h"
#include "rpc/meta.h"

struct checked_inode {
	uint64_t file_id;
	struct record_inode inode;
	uint64_t entries; /* that refer to it */
	uint64_t directories; /* entries in it that are directories */
	bool name_found; /* an entry is its parent_id and name */
	bool placed; /* segment 0 has a placement */
	bool target;
};

struct check {
	struct kv_txn *txn;
	uint32_t export_id;
	uint64_t faults;
	struct checked_inode *inodes;
	size_t count;
	size_t room;
};

#define FAULT(check, ...)                                                                          \
	do {                                                                                       \
		(check)->faults++;                                                                 \
		rozo_log(ERROR, "metadata check: " __VA_ARGS__);                                   \
	} while (0)

static int inode_compare(const void *file_id, const void *inode)
{
	uint64_t wanted = *(const uint64_t *)file_id;
	uint64_t found = ((const struct checked_inode *)inode)->file_id;

	return wanted < found ? -1 : wanted > found;
}

static struct checked_inode *check_find(struct check *check, uint64_t file_id)
{
	if (check->count == 0)
		return NULL;
	return bsearch(
		&file_id, check->inodes, check->count, sizeof(*check->inodes), inode_compare);
}

static int check_inode(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	struct checked_inode *inodes;

	if (check->count == check->room) {
		check->room = check->room * 2 + 64;
		inodes = realloc(check->inodes, check->room * sizeof(*inodes));
		if (inodes == NULL)
			return -ENOMEM;
		check->inodes = inodes;
	}
	inodes = &check->inodes[check->count];
	*inodes = (struct checked_inode){.file_id = record_key_u64(key, 5)};
	if (record_inode_decode(key, value, &inodes->inode) != 0)
		check->faults++; /* has been logged */
	else
		check->count++;
	return 0;
}

static int check_entry(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint64_t directory_id = record_key_u64(key, 5);
	struct checked_inode *directory = check_find(check, directory_id);
	struct checked_inode *inode;
	struct record_entry entry;
	struct record_cookie cookie;
	struct record_key by_cookie;
	struct kv_bytes found;
	char name[RECORD_NAME_MAX + 1] = "";

	if (record_entry_decode(key, value, &entry) != 0) {
		check->faults++;
		return 0;
	}
	memcpy(name, (const uint8_t *)key.data + RECORD_PREFIX_FILE,
		key.bytes - RECORD_PREFIX_FILE);
	if (directory == NULL || directory->inode.type != META_DIRECTORY) {
		FAULT(check, "entry \"%s\" lies in %" PRIu64 ", which is no directory", name,
			directory_id);
		return 0;
	}
	if (entry.cookie < RECORD_COOKIE_FIRST || entry.cookie >= directory->inode.next_cookie)
		FAULT(check, "entry \"%s\" of directory %" PRIu64 " has cookie %" PRIu64, name,
			directory_id, entry.cookie);
	by_cookie = record_key_cookie(check->export_id, directory_id, entry.cookie);
	if (kv_get(check->txn, record_key_bytes(&by_cookie), &found) != 0 ||
		record_cookie_decode(record_key_bytes(&by_cookie), found, &cookie) != 0 ||
		cookie.file_id != entry.file_id || strcmp(cookie.name, name) != 0)
		FAULT(check, "entry \"%s\" of directory %" PRIu64 " is not found by its cookie",
			name, directory_id);
	inode = check_find(check, entry.file_id);
	if (inode == NULL) {
		FAULT(check, "entry \"%s\" of directory %" PRIu64 ": no inode %" PRIu64, name,
			directory_id, entry.file_id);
		return 0;
	}
	inode->entries++;
	if (inode->inode.type == META_DIRECTORY)
		directory->directories++;
	if (inode->inode.parent_id == directory_id && strcmp(inode->inode.name, name) == 0)
		inode->name_found = true;
	return 0;
}

static int check_cookie(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint64_t directory_id = record_key_u64(key, 5);
	struct record_cookie cookie;
	struct record_entry entry;

	if (record_cookie_decode(key, value, &cookie) != 0)
		check->faults++;
	else if (record_entry_get(
			 check->txn, check->export_id, directory_id, cookie.name, &entry) != 0 ||
		 entry.cookie != record_key_u64(key, RECORD_PREFIX_FILE))
		FAULT(check, "cookie %" PRIu64 " of directory %" PRIu64 " has no entry \"%s\"",
			record_key_u64(key, RECORD_PREFIX_FILE), directory_id, cookie.name);
	return 0;
}

static int check_target(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint64_t file_id = record_key_u64(key, 5);
	struct checked_inode *inode = check_find(check, file_id);
	char target[RECORD_TARGET_MAX + 1];

	if (record_target_decode(key, value, target) != 0)
		check->faults++;
	else if (inode == NULL || inode->inode.type != META_SYMLINK ||
		 inode->inode.size != strlen(target))
		FAULT(check, "target of %" PRIu64 ", which is no symbolic link of that size",
			file_id);
	else
		inode->target = true;
	return 0;
}

static int check_placement(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint64_t file_id = record_key_u64(key, 5);
	uint32_t segment = record_key_u32(key, RECORD_PREFIX_FILE);
	struct checked_inode *inode = check_find(check, file_id);
	struct record_placement placement = {0};

	if (record_placement_decode(key, value, &placement) != 0)
		check->faults++;
	else if (inode == NULL || inode->inode.type != META_REGULAR ||
		 segment >= inode->inode.segment_count)
		FAULT(check,
			"placement of segment %" PRIu32 " of %" PRIu64
			", which is no file with such a segment",
			segment, file_id);
	else if (segment == 0)
		inode->placed = true;
	for (uint32_t s = 0; s < RECORD_SHARDS_MAX; s++) {
		struct record_rebuild entry = {.node = placement.nodes[s],
			.urgency = (uint8_t)placement.urgency,
			.export_id = check->export_id,
			.file_id = file_id,
			.segment = segment};
		struct record_key list = record_key_rebuild(&entry);
		struct kv_bytes found;

		if ((placement.rebuilding & (1u << s)) &&
			(s >= placement.count ||
				kv_get(check->txn, record_key_bytes(&list), &found) != 0))
			FAULT(check,
				"shard %" PRIu32 " of segment %" PRIu32 " of file %" PRIu64
				" is being made, but its node %" PRIu32 " has no such item",
				s, segment, file_id, placement.nodes[s]);
	}
	return 0;
}

/* True if an item names only nodes that its segment, which exists, has no use for any more. */
static bool check_formers(struct check *check, const struct record_free *item)
{
	struct record_placement placement;
	uint32_t i, j;

	if (record_placement_get(
		    check->txn, item->export_id, item->file_id, item->segment, &placement) != 0)
		return false;
	for (i = 0; i < item->count; i++) {
		bool former = false;

		for (j = 0; j < placement.former_count; j++)
			former = former || placement.formers[j] == item->nodes[i];
		if (record_placement_keeps(&placement, item->nodes[i]))
			return false;
		if (!former)
			return false;
	}
	return true;
}

/* What a node is to make: its placement says so, too. */
static int check_rebuild(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	struct record_placement placement;
	struct record_rebuild entry;
	uint32_t origin, s = 0;

	if (record_rebuild_decode(key, value, &entry, &origin) != 0) {
		check->faults++;
		return 0;
	}
	if (entry.export_id != check->export_id)
		return 0;
	if (record_placement_get(
		    check->txn, entry.export_id, entry.file_id, entry.segment, &placement) != 0)
		placement.count = 0;
	while (s < placement.count &&
		(placement.nodes[s] != entry.node || !(placement.rebuilding & (1u << s)) ||
			record_placement_origin(&placement, s) != origin ||
			placement.urgency != entry.urgency))
		s++;
	if (s == placement.count)
		FAULT(check,
			"node %" PRIu32 " is to make a shard of segment %" PRIu32
			" of file %" PRIu64 ", whose placement says otherwise",
			entry.node, entry.segment, entry.file_id);
	return 0;
}

/* What waits to be carried out: the inode says so, too. */
static int check_truncation(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	struct record_inode inode = {0};
	uint32_t write_epoch;

	if (record_truncation_decode(key, value, &write_epoch) != 0) {
		check->faults++;
		return 0;
	}
	uint64_t file_id = record_key_u64(key, RECORD_PREFIX_EXPORT);
	if (record_inode_get(check->txn, check->export_id, file_id, &inode) != 0 ||
		!inode.truncate_pending || write_epoch > inode.write_epoch)
		FAULT(check,
			"a truncation of file %" PRIu64 " is to be carried out, and its inode says "
			"otherwise",
			file_id);
	return 0;
}

static int check_free(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint64_t sequence = record_key_u64(key, RECORD_PREFIX_KIND);
	struct record_key by_node;
	struct record_free item;
	struct kv_bytes found;
	uint32_t i;

	if (record_free_decode(key, value, &item) != 0) {
		check->faults++;
		return 0;
	}
	if (item.export_id == check->export_id && check_find(check, item.file_id) != NULL &&
		!check_formers(check, &item))
		FAULT(check,
			"item %" PRIu64 " of the free queue names file %" PRIu64
			", which exists and needs it",
			sequence, item.file_id);
	if (item.count == 0)
		FAULT(check, "item %" PRIu64 " of the free queue names no node", sequence);
	for (i = 0; i < item.count; i++) {
		by_node = record_key_free_node(item.nodes[i], sequence);
		if (kv_get(check->txn, record_key_bytes(&by_node), &found) != 0)
			FAULT(check,
				"item %" PRIu64 " of the free queue is missing at node %" PRIu32,
				sequence, item.nodes[i]);
	}
	return 0;
}

static int check_free_node(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct check *check = context;
	uint32_t node = record_key_u32(key, 1), i;
	uint64_t sequence = record_key_u64(key, RECORD_PREFIX_NODE);
	struct record_free item;

	(void)value;
	if (record_free_get(check->txn, sequence, &item) != 0)
		item.count = 0;
	for (i = 0; i < item.count && item.nodes[i] != node; i++)
		;
	if (i == item.count)
		FAULT(check, "node %" PRIu32 " has item %" PRIu64 ", the free queue has not", node,
			sequence);
	return 0;
}

/* Follows the parents of a directory. A loop has more steps than there are inodes. */
static void check_ancestors(struct check *check, const struct checked_inode *inode)
{
	uint64_t file_id = inode->file_id;
	size_t steps;

	for (steps = 0; inode != NULL && inode->file_id != RECORD_ROOT_ID; steps++) {
		if (steps > check->count) {
			FAULT(check, "the parents of %" PRIu64 " are a loop", file_id);
			return;
		}
		inode = check_find(check, inode->inode.parent_id);
	}
	if (inode == NULL)
		FAULT(check, "the parents of %" PRIu64 " do not lead to the root", file_id);
}

static void check_totals(struct check *check, const struct checked_inode *checked)
{
	const struct record_inode *inode = &checked->inode;
	uint64_t file_id = checked->file_id;

	if (inode->type == META_DIRECTORY) {
		if (inode->links != 2 + checked->directories)
			FAULT(check,
				"directory %" PRIu64 " has %" PRIu32 " links, but %" PRIu64
				" directories in it",
				file_id, inode->links, checked->directories);
		if (checked->entries != (file_id == RECORD_ROOT_ID ? 0 : 1))
			FAULT(check, "directory %" PRIu64 " has %" PRIu64 " entries", file_id,
				checked->entries);
		check_ancestors(check, checked);
	} else if (inode->links != checked->entries || inode->links == 0) {
		FAULT(check, "file %" PRIu64 " has %" PRIu32 " links, but %" PRIu64 " entries",
			file_id, inode->links, checked->entries);
	}
	if (!checked->name_found && file_id != RECORD_ROOT_ID &&
		(inode->name[0] != '\0' || inode->type == META_DIRECTORY))
		FAULT(check, "file %" PRIu64 " is not \"%s\" in %" PRIu64 ", as its inode says",
			file_id, inode->name, inode->parent_id);
	if (inode->type == META_REGULAR && !checked->placed)
		FAULT(check, "file %" PRIu64 " has no placement", file_id);
	if (inode->type == META_SYMLINK && !checked->target)
		FAULT(check, "symbolic link %" PRIu64 " has no target", file_id);
}

static int check_scan(struct check *check, enum record_kind kind, bool whole, kv_visit visit)
{
	struct record_key all = record_key_inode(check->export_id, 0);

	all.bytes[0] = (uint8_t)kind;
	all.length = whole ? RECORD_PREFIX_KIND : RECORD_PREFIX_EXPORT;
	return kv_scan(check->txn, record_key_bytes(&all), all.length, visit, check);
}

int namespace_check(struct exportd *exportd, uint32_t export_id, uint64_t *faults)
{
	struct check check = {.export_id = export_id};
	struct record_allocation allocation;
	int result;
	size_t i;

	result = kv_begin(exportd->kv, KV_READ, NULL, &check.txn);
	if (result != 0)
		return result;
	result = check_scan(&check, RECORD_INODE, false, check_inode);
	if (result == 0)
		result = check_scan(&check, RECORD_ENTRY, false, check_entry);
	if (result == 0)
		result = check_scan(&check, RECORD_COOKIE, false, check_cookie);
	if (result == 0)
		result = check_scan(&check, RECORD_TARGET, false, check_target);
	if (result == 0)
		result = check_scan(&check, RECORD_PLACEMENT, false, check_placement);
	if (result == 0)
		result = check_scan(&check, RECORD_REBUILD, true, check_rebuild);
	if (result == 0)
		result = check_scan(&check, RECORD_TRUNCATION, false, check_truncation);
	if (result == 0)
		result = check_scan(&check, RECORD_FREE, true, check_free);
	if (result == 0)
		result = check_scan(&check, RECORD_FREE_NODE, true, check_free_node);
	if (result != 0)
		goto out;
	if (check_find(&check, RECORD_ROOT_ID) == NULL)
		FAULT(&check, "export %" PRIu32 " has no root directory", export_id);
	for (i = 0; i < check.count; i++)
		check_totals(&check, &check.inodes[i]);
	if (record_allocation_get(check.txn, export_id, &allocation) != 0)
		FAULT(&check, "export %" PRIu32 " has no file counters", export_id);
	else if (allocation.files != check.count ||
		 (check.count > 0 &&
			 check.inodes[check.count - 1].file_id >= allocation.next_file_id))
		FAULT(&check, "export %" PRIu32 " counts %" PRIu64 " files and has %zu", export_id,
			allocation.files, check.count);
	*faults = check.faults;
out:
	kv_abort(check.txn);
	free(check.inodes);
	return result;
}
