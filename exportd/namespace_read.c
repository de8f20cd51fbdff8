/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The namespace operations that change nothing. Each runs in a read transaction of its own and sees
 * one committed state. Takes no locks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/inode.h"
#include "exportd/map.h"
#include "exportd/namespace.h"
#include "exportd/record.h"

struct read_call {
	struct exportd *exportd;
	const struct exportd_export *export;
	const void *args;
	void *result;
};

/* Executes one reading operation on an export. Returns 0 or a negative errno. */
static int read_execute(struct exportd *exportd, uint32_t export_id, commit_operation operation,
	const void *args, void *result)
{
	struct read_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, export_id),
		.args = args,
		.result = result,
	};

	if (call.export == NULL)
		return -ESTALE;
	return exportd_read(exportd, operation, &call);
}

static int lookup_operation(struct kv_txn *txn, void *context)
{
	struct read_call *call = context;
	const struct meta_lookup_args *args = call->args;
	struct meta_attributes_res *result = call->result;
	struct record_inode directory, inode;
	struct record_entry entry;
	int error;

	error = inode_load_directory(txn, args->export_id, args->directory_id, &directory);
	if (error == 0)
		error = inode_check_name(args->name);
	if (error != 0)
		return error;
	if (strcmp(args->name, ".") == 0)
		entry.file_id = args->directory_id;
	else if (strcmp(args->name, "..") == 0)
		entry.file_id = directory.parent_id;
	else
		error = record_entry_get(
			txn, args->export_id, args->directory_id, args->name, &entry);
	if (error == 0)
		error = inode_load_referred(txn, args->export_id, entry.file_id, &inode);
	if (error == 0)
		inode_attributes(call->export, entry.file_id, &inode, &result->attributes);
	return error;
}

void namespace_lookup(struct exportd *exportd, const struct meta_lookup_args *args,
	struct meta_attributes_res *result)
{
	int error = read_execute(exportd, args->export_id, lookup_operation, args, result);

	if (error == 0)
		inode_attributes_told(exportd, args->export_id, &result->attributes);
	result->status = (uint32_t)-error;
}

static int getattr_operation(struct kv_txn *txn, void *context)
{
	struct read_call *call = context;
	const struct meta_file *args = call->args;
	struct meta_attributes_res *result = call->result;
	struct record_inode inode;
	int error;

	error = inode_load(txn, args->export_id, args->file_id, &inode);
	if (error == 0)
		inode_attributes(call->export, args->file_id, &inode, &result->attributes);
	return error;
}

void namespace_getattr(
	struct exportd *exportd, const struct meta_file *args, struct meta_attributes_res *result)
{
	int error = read_execute(exportd, args->export_id, getattr_operation, args, result);

	if (error == 0)
		inode_attributes_told(exportd, args->export_id, &result->attributes);
	result->status = (uint32_t)-error;
}

static int readlink_operation(struct kv_txn *txn, void *context)
{
	struct read_call *call = context;
	const struct meta_file *args = call->args;
	struct record_inode inode;
	int error;

	error = inode_load(txn, args->export_id, args->file_id, &inode);
	if (error != 0)
		return error;
	if (inode.type != META_SYMLINK)
		return -EINVAL;
	error = record_target_get(txn, args->export_id, args->file_id, call->result);
	return error == -ENOENT ? -EIO : error;
}

void namespace_readlink(
	struct exportd *exportd, const struct meta_file *args, struct meta_readlink_res *result)
{
	char target[RECORD_TARGET_MAX + 1] = "";
	int error = read_execute(exportd, args->export_id, readlink_operation, args, target);

	/* There must be a string whatever the status: XDR cannot encode a null pointer. */
	result->target = strdup(error == 0 ? target : "");
	if (result->target == NULL && error == 0)
		error = -ENOMEM;
	result->status = (uint32_t)-error;
}

/* -------- readdir -------- */

struct readdir_call {
	struct kv_txn *txn;
	const struct exportd_export *export;
	uint32_t wanted;
	uint32_t count;
	bool more;
	struct meta_entry *entries;
};

static int readdir_entry(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct readdir_call *listing = context;
	struct record_cookie cookie;
	struct record_inode inode;
	struct meta_entry *entry;
	int error;

	if (listing->count == listing->wanted) {
		listing->more = true;
		return 1;
	}
	error = record_cookie_decode(key, value, &cookie);
	if (error == 0)
		error = inode_load_referred(
			listing->txn, record_key_u32(key, 1), cookie.file_id, &inode);
	if (error == -EIO)
		return 0; /* named in the log; the others can be listed */
	if (error != 0)
		return error;
	entry = &listing->entries[listing->count];
	entry->name = strdup(cookie.name);
	if (entry->name == NULL)
		return -ENOMEM;
	entry->cookie = record_key_u64(key, RECORD_PREFIX_FILE);
	inode_attributes(listing->export, cookie.file_id, &inode, &entry->attributes);
	listing->count++;
	return 0;
}

static int readdir_operation(struct kv_txn *txn, void *context)
{
	struct read_call *call = context;
	const struct meta_readdir_args *args = call->args;
	struct readdir_call *listing = call->result;
	struct record_inode directory;
	struct record_key from;
	int error;

	error = inode_load_directory(txn, args->export_id, args->directory_id, &directory);
	if (error != 0)
		return error;
	if (args->count == 0)
		return -EINVAL;
	if (args->cookie == UINT64_MAX)
		return 0;
	listing->txn = txn;
	listing->export = call->export;
	listing->wanted = args->count < META_READDIR_MAX ? args->count : META_READDIR_MAX;
	listing->entries = calloc(listing->wanted, sizeof(*listing->entries));
	if (listing->entries == NULL)
		return -ENOMEM;
	from = record_key_cookie(args->export_id, args->directory_id, args->cookie + 1);
	error = kv_scan(txn, record_key_bytes(&from), RECORD_PREFIX_FILE, readdir_entry, listing);
	return error > 0 ? 0 : error;
}

void namespace_readdir(struct exportd *exportd, const struct meta_readdir_args *args,
	struct meta_readdir_res *result)
{
	struct readdir_call listing = {0};
	int error = read_execute(exportd, args->export_id, readdir_operation, args, &listing);
	uint32_t i;

	result->status = (uint32_t)-error;
	if (error != 0) {
		for (i = 0; i < listing.count; i++)
			free(listing.entries[i].name);
		free(listing.entries);
		return;
	}
	for (i = 0; i < listing.count; i++)
		inode_attributes_told(exportd, args->export_id, &listing.entries[i].attributes);
	result->eof = !listing.more;
	result->entries.entries_len = listing.count;
	result->entries.entries_val = listing.entries;
}

/* -------- statfs -------- */

static int statfs_operation(struct kv_txn *txn, void *context)
{
	struct read_call *call = context;
	const struct meta_statfs_args *args = call->args;
	struct meta_statfs_res *result = call->result;
	struct record_allocation allocation;
	int error;

	error = record_allocation_get(txn, args->export_id, &allocation);
	if (error == 0)
		result->files = allocation.files;
	return error == -ENOENT ? -EIO : error;
}

void namespace_statfs(struct exportd *exportd, const struct meta_statfs_args *args,
	struct meta_statfs_res *result)
{
	const struct exportd_export *export = exportd_export(exportd, args->export_id);
	size_t count = map_node_count(exportd->map), i;
	unsigned __int128 total = 0, available = 0;
	struct map_node *nodes;
	int error;

	error = read_execute(exportd, args->export_id, statfs_operation, args, result);
	if (error != 0) {
		result->status = (uint32_t)-error;
		return;
	}
	nodes = calloc(count, sizeof(*nodes));
	if (nodes == NULL) {
		result->status = ENOMEM;
		return;
	}
	map_nodes(exportd->map, nodes);
	for (i = 0; i < count; i++) {
		total += nodes[i].total_bytes;
		available += nodes[i].free_bytes;
	}
	free(nodes);
	result->total_bytes = (uint64_t)(total * export->config->code.k / export->shards);
	result->free_bytes = (uint64_t)(available * export->config->code.k / export->shards);
}
