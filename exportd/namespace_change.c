/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The namespace operations that change something: create, link, unlink, rename. Each is one
 * operation of the group commit, durable before it is answered. And attaching, which changes what
 * the inodes of files mean of which RW layouts were given out.
 *
 * Rules kept by every one of them (namespace_check() verifies them):
 *   - an entry lies under its name and under its cookie, and its inode exists;
 *   - a directory has one entry and 2 + (directories in it) links, another file as many links as
 *     entries; an inode without links does not exist;
 *   - parent_id and name of an inode are those of an entry that refers to it, or name is empty.
 *
 * Takes no locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "exportd/file.h"
#include "exportd/free_queue.h"
#include "exportd/inode.h"
#include "exportd/namespace.h"
#include "exportd/record.h"
#include "exportd/reply_cache.h"
#include "rpc/log.h"

struct change_call {
	struct exportd *exportd;
	const struct exportd_export *export;
	const void *args;
	void *result;
	struct file_nodes nodes; /* if a regular file may be created */
};

/*
 * Executes an operation whose context is the call. *replayed (may be NULL) tells if that had been
 * done before. Returns 0 or a negative errno, when the outcome is durable.
 */
static int change(struct change_call *call, commit_operation operation, const meta_slot *slot,
	uint32_t procedure, rpc_xdr result_xdr, bool *replayed)
{
	struct reply_cache_call once = {
		.slot = slot,
		.procedure = procedure,
		.result_xdr = result_xdr,
		.result = call->result,
		.operation = operation,
		.context = call,
	};
	int result = commit_execute(call->exportd->commit, reply_cache_execute, &once);

	if (replayed != NULL)
		*replayed = once.replayed;
	return result > 0 ? 0 : result;
}

/* -------- attaching -------- */

struct attach_call {
	const struct exportd_export *export;
	uint64_t run;
	struct record_server before, now;
};

static int attach_operation(struct kv_txn *txn, void *context)
{
	struct attach_call *call = context;
	uint32_t export_id = call->export->config->id;
	int error = record_server_get(txn, export_id, &call->before);

	if (error != 0 && error != -EIO) /* damaged: named in the log, and made anew */
		return error;
	call->now = call->before;
	if (error == 0 && call->before.run == call->run)
		return 0;
	call->now.run = call->run;
	if (getrandom(&call->now.number, sizeof(call->now.number), 0) != sizeof(call->now.number))
		return -EIO;
	rozo_log(INFO,
		"export %" PRIu32
		" \"%s\": a metadata server has started; layouts from before are over",
		export_id, call->export->config->name);
	return record_server_put(txn, export_id, &call->now);
}

void namespace_attach(struct exportd *exportd, const struct meta_attach_args *args,
	struct meta_attach_res *result)
{
	const struct config_export *config =
		args->name != NULL ? config_export(exportd->config, args->name) : NULL;
	struct attach_call call = {.run = args->server};
	int error = 0;

	if (config == NULL) {
		result->status = ENOENT;
		return;
	}
	call.export = exportd_export(exportd, config->id);
	if (args->server != 0)
		error = commit_execute(exportd->commit, attach_operation, &call);
	if (args->server != 0 && error == 0)
		atomic_fetch_add(&exportd->servers, call.now.number - call.before.number);
	*result = (struct meta_attach_res){
		.status = (uint32_t)-error,
		.export_id = config->id,
		.root_id = RECORD_ROOT_ID,
		.form = config->code.form,
		.k = config->code.k,
		.m = config->code.m,
		.row_bytes = config->row_bytes,
		.min_shards = config->min_shards,
		.segment_blocks = call.export->segment_blocks,
		.filesystem_id = call.export->filesystem_id,
	};
}

/* -------- entries -------- */

/* Adds an entry to a directory and to the inode's links; the caller stores both inodes. */
static int entry_add(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	struct record_inode *directory, const char *name, uint64_t file_id,
	const struct record_inode *inode)
{
	struct record_entry entry = {.file_id = file_id, .cookie = directory->next_cookie};

	if (inode->type == META_DIRECTORY) {
		if (directory->links == UINT32_MAX)
			return -EMLINK;
		directory->links++;
	}
	directory->next_cookie++;
	return record_entry_put(txn, export_id, directory_id, name, &entry);
}

static int entry_found(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)key;
	(void)value;
	*(bool *)context = true;
	return 1;
}

/* Returns 0 if the directory has no entries, -ENOTEMPTY, or an error of kv_scan(). */
static int directory_check_no_entries(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id)
{
	struct record_key first = record_key_cookie(export_id, directory_id, 0);
	bool found = false;
	int error;

	error = kv_scan(txn, record_key_bytes(&first), RECORD_PREFIX_FILE, entry_found, &found);
	if (error < 0)
		return error;
	return found ? -ENOTEMPTY : 0;
}

static void set_name(struct record_inode *inode, uint64_t directory_id, const char *name)
{
	inode->parent_id = directory_id;
	memset(inode->name, 0, sizeof(inode->name));
	memcpy(inode->name, name, strlen(name));
}

/*
 * Takes away one link of an inode whose entry has been removed or replaced, and the inode itself
 * with the last one. *inode shows the result.
 */
static int link_drop(struct kv_txn *txn, uint32_t export_id, uint64_t directory_id,
	const char *name, uint64_t file_id, struct record_inode *inode, struct record_time now)
{
	struct record_allocation allocation;
	int error;

	inode_changed(inode, now);
	if (inode->type != META_DIRECTORY && inode->links > 1) {
		inode->links--;
		if (inode->parent_id == directory_id && strcmp(inode->name, name) == 0)
			inode->name[0] = '\0';
		return record_inode_put(txn, export_id, file_id, inode);
	}
	inode->links = 0;
	error = record_inode_remove(txn, export_id, file_id);
	if (error == 0 && inode->type == META_SYMLINK)
		error = record_target_remove(txn, export_id, file_id);
	if (error == 0 && inode->truncate_pending) {
		error = record_truncation_remove(txn, export_id, file_id);
		if (error == -ENOENT) /* databases of before had no such records */
			error = 0;
	}
	if (error == 0 && inode->type == META_REGULAR)
		error = free_queue_add_file(txn, export_id, file_id);
	if (error == 0)
		error = record_allocation_get(txn, export_id, &allocation);
	if (error == -ENOENT)
		error = -EIO;
	if (error != 0)
		return error;
	allocation.files--;
	return record_allocation_put(txn, export_id, &allocation);
}

/* -------- create -------- */

static int create_check(const struct exportd_export *export, const struct meta_create_args *args)
{
	int error = inode_check_new_name(args->name);

	if (error == 0)
		error = inode_check_set(export, &args->set);
	if (error != 0)
		return error;
	if (args->type < META_REGULAR || args->type > META_SOCKET)
		return -EINVAL;
	if (args->how > META_CREATE_EXCLUSIVE)
		return -EINVAL;
	if (args->type != META_REGULAR && args->how != META_CREATE_GUARDED)
		return -EINVAL;
	if (args->type == META_SYMLINK && (args->target == NULL || args->target[0] == '\0'))
		return -EINVAL;
	if (args->type == META_SYMLINK && strlen(args->target) > RECORD_TARGET_MAX)
		return -ENAMETOOLONG;
	return 0;
}

/*
 * The name is taken: by what the caller would have made, or by something in its way?
 * Returns 1 (nothing is to be done) or a negative errno.
 */
static int create_existing(struct kv_txn *txn, struct change_call *call, uint64_t file_id,
	const struct record_inode *directory)
{
	const struct meta_create_args *args = call->args;
	struct meta_create_res *result = call->result;
	struct record_inode inode;
	int error;

	error = inode_load_referred(txn, args->export_id, file_id, &inode);
	if (error != 0)
		return error;
	inode_attributes(call->export, file_id, &inode, &result->attributes);
	inode_attributes(call->export, args->directory_id, directory, &result->directory);
	if (args->how == META_CREATE_GUARDED)
		return -EEXIST;
	if (args->how == META_CREATE_EXCLUSIVE)
		return inode.type == META_REGULAR && inode.verifier == args->verifier ? 1 : -EEXIST;
	if (inode.type == META_REGULAR)
		return 1;
	return inode.type == META_DIRECTORY ? -EISDIR : -EEXIST;
}

static void create_inode(const struct meta_create_args *args, const struct record_inode *directory,
	struct record_time now, struct record_inode *inode)
{
	*inode = (struct record_inode){
		.type = (uint8_t)args->type,
		.links = args->type == META_DIRECTORY ? 2 : 1,
		.change = 1,
		.next_cookie = args->type == META_DIRECTORY ? RECORD_COOKIE_FIRST : 0,
		.access_time = now,
		.modify_time = now,
		.change_time = now,
	};
	set_name(inode, args->directory_id, args->name);
	if (args->how == META_CREATE_EXCLUSIVE)
		inode->verifier = args->verifier;
	if (args->type == META_CHARACTER_DEVICE || args->type == META_BLOCK_DEVICE) {
		inode->device_major = args->device_major;
		inode->device_minor = args->device_minor;
	}
	if (args->type == META_SYMLINK)
		inode->size = strlen(args->target);
	inode_apply_set(inode, &args->set, now);
	if ((directory->mode & S_ISGID) && !(args->set.mask & META_SET_GID)) {
		inode->gid = directory->gid;
		if (args->type == META_DIRECTORY)
			inode->mode |= S_ISGID;
	}
}

static bool gateway_is_up(const struct file_nodes *nodes, uint32_t id)
{
	for (size_t i = 0; i < nodes->count; i++)
		if (nodes->nodes[i].id == id)
			return nodes->nodes[i].state == MAP_NODE_UP;
	return false;
}

static int create_operation(struct kv_txn *txn, void *context)
{
	struct change_call *call = context;
	const struct meta_create_args *args = call->args;
	struct meta_create_res *result = call->result;
	struct record_allocation allocation;
	struct record_inode directory, inode;
	struct record_placement placement;
	struct record_time now = inode_now();
	struct record_entry entry;
	uint64_t file_id;
	int error;

	error = inode_load_directory(txn, args->export_id, args->directory_id, &directory);
	if (error != 0)
		return error;
	error = record_entry_get(txn, args->export_id, args->directory_id, args->name, &entry);
	if (error == 0)
		return create_existing(txn, call, entry.file_id, &directory);
	if (error != -ENOENT)
		return error;

	error = record_allocation_get(txn, args->export_id, &allocation);
	if (error != 0)
		return error == -ENOENT ? -EIO : error;
	file_id = allocation.next_file_id++;
	allocation.files++;
	error = record_allocation_put(txn, args->export_id, &allocation);
	if (error != 0)
		return error;

	create_inode(args, &directory, now, &inode);
	if (inode.type == META_REGULAR) {
		inode.layout_epoch = 1;
		inode.write_epoch = 1;
		/* With the answer, that is. */
		inode_layout_given(txn, args->export_id, &inode);
		error = file_place(txn, call->export, &call->nodes, file_id, 0, &inode, &placement);
		if (error == 0)
			error = file_first_gateway(call->export, &call->nodes, file_id, &placement,
				&inode.write_gateway);
	} else if (inode.type == META_SYMLINK) {
		error = record_target_put(txn, args->export_id, file_id, args->target);
	}
	if (error == 0)
		error = record_inode_put(txn, args->export_id, file_id, &inode);
	if (error == 0)
		error = entry_add(txn, args->export_id, args->directory_id, &directory, args->name,
			file_id, &inode);
	if (error != 0)
		return error;
	inode_modified(&directory, now);
	error = record_inode_put(txn, args->export_id, args->directory_id, &directory);
	if (error != 0)
		return error;
	result->created = 1;
	if (inode.type == META_REGULAR && gateway_is_up(&call->nodes, inode.write_gateway)) {
		result->layout_epoch = inode.layout_epoch;
		result->write_gateway = inode.write_gateway;
	}
	inode_attributes(call->export, file_id, &inode, &result->attributes);
	inode_attributes(call->export, args->directory_id, &directory, &result->directory);
	return 0;
}

void namespace_create(struct exportd *exportd, const struct meta_create_args *args,
	struct meta_create_res *result)
{
	struct change_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->export_id),
		.args = args,
		.result = result,
	};
	int error = call.export != NULL ? create_check(call.export, args) : -ESTALE;
	bool replayed = false;

	if (error == 0 && args->type == META_REGULAR)
		error = file_nodes_get(exportd, &call.nodes);
	if (error == 0)
		error = change(&call, create_operation, &args->slot, META_CREATE,
			RPC_XDR(xdr_meta_create_res), &replayed);
	file_nodes_free(&call.nodes);
	/* Nobody has written to it: the first writer need not ask for another epoch. */
	if (error == 0 && result->created && !replayed && args->type == META_REGULAR)
		claims_note(exportd->claims, args->export_id, result->attributes.file_id, 1, 0);
	if (error != 0)
		result->created = 0;
	/* What was there already may be being written. */
	if (!result->created)
		inode_attributes_told(exportd, args->export_id, &result->attributes);
	result->status = (uint32_t)-error;
}

/* -------- link -------- */

static int link_operation(struct kv_txn *txn, void *context)
{
	struct change_call *call = context;
	const struct meta_link_args *args = call->args;
	struct meta_attributes_res *result = call->result;
	uint32_t export_id = args->file.export_id;
	struct record_inode directory, inode;
	struct record_time now = inode_now();
	struct record_entry entry;
	int error;

	error = inode_load(txn, export_id, args->file.file_id, &inode);
	if (error == 0)
		error = inode_load_directory(txn, export_id, args->directory_id, &directory);
	if (error != 0)
		return error;
	if (inode.type == META_DIRECTORY)
		return -EPERM;
	if (inode.links == UINT32_MAX)
		return -EMLINK;
	error = record_entry_get(txn, export_id, args->directory_id, args->name, &entry);
	if (error != -ENOENT)
		return error == 0 ? -EEXIST : error;
	error = entry_add(txn, export_id, args->directory_id, &directory, args->name,
		args->file.file_id, &inode);
	if (error != 0)
		return error;
	inode.links++;
	if (inode.name[0] == '\0')
		set_name(&inode, args->directory_id, args->name);
	inode_changed(&inode, now);
	inode_modified(&directory, now);
	error = record_inode_put(txn, export_id, args->file.file_id, &inode);
	if (error == 0)
		error = record_inode_put(txn, export_id, args->directory_id, &directory);
	if (error == 0)
		inode_attributes(call->export, args->file.file_id, &inode, &result->attributes);
	return error;
}

void namespace_link(struct exportd *exportd, const struct meta_link_args *args,
	struct meta_attributes_res *result)
{
	struct change_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	int error = call.export != NULL ? inode_check_new_name(args->name) : -ESTALE;

	if (error == 0)
		error = change(&call, link_operation, &args->slot, META_LINK,
			RPC_XDR(xdr_meta_attributes_res), NULL);
	if (error == 0)
		inode_attributes_told(exportd, args->file.export_id, &result->attributes);
	result->status = (uint32_t)-error;
}

/* -------- unlink -------- */

static int unlink_operation(struct kv_txn *txn, void *context)
{
	struct change_call *call = context;
	const struct meta_unlink_args *args = call->args;
	struct meta_unlink_res *result = call->result;
	struct record_inode directory, inode;
	struct record_time now = inode_now();
	struct record_entry entry;
	int error;

	error = inode_load_directory(txn, args->export_id, args->directory_id, &directory);
	if (error == 0)
		error = record_entry_get(
			txn, args->export_id, args->directory_id, args->name, &entry);
	if (error == 0)
		error = inode_load_referred(txn, args->export_id, entry.file_id, &inode);
	if (error != 0)
		return error;
	if (args->directory && inode.type != META_DIRECTORY)
		return -ENOTDIR;
	if (!args->directory && inode.type == META_DIRECTORY)
		return -EISDIR;
	if (inode.type == META_DIRECTORY) {
		error = directory_check_no_entries(txn, args->export_id, entry.file_id);
		if (error != 0)
			return error;
		directory.links--;
	}
	error = record_entry_remove(txn, args->export_id, args->directory_id, args->name, &entry);
	if (error == 0)
		error = link_drop(txn, args->export_id, args->directory_id, args->name,
			entry.file_id, &inode, now);
	if (error != 0)
		return error;
	inode_modified(&directory, now);
	error = record_inode_put(txn, args->export_id, args->directory_id, &directory);
	if (error != 0)
		return error;
	inode_attributes(call->export, entry.file_id, &inode, &result->attributes);
	inode_attributes(call->export, args->directory_id, &directory, &result->directory);
	return 0;
}

void namespace_unlink(struct exportd *exportd, const struct meta_unlink_args *args,
	struct meta_unlink_res *result)
{
	struct change_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->export_id),
		.args = args,
		.result = result,
	};
	int error = call.export != NULL ? inode_check_new_name(args->name) : -ESTALE;

	if (error == 0)
		error = change(&call, unlink_operation, &args->slot, META_UNLINK,
			RPC_XDR(xdr_meta_unlink_res), NULL);
	result->status = (uint32_t)-error;
}

/* -------- rename -------- */

/* No real tree is this deep; a loop of damaged parents is as deep as one likes. */
#define RENAME_DEPTH_MAX 1000000

/*
 * Checks that directory_id is neither moved_id nor below it.
 * Returns 0, -EINVAL (it is), or -EIO.
 */
static int rename_check_not_below(
	struct kv_txn *txn, uint32_t export_id, uint64_t directory_id, uint64_t moved_id)
{
	struct record_inode directory;
	uint32_t depth;
	int error;

	for (depth = 0; depth < RENAME_DEPTH_MAX; depth++) {
		if (directory_id == moved_id)
			return -EINVAL;
		if (directory_id == RECORD_ROOT_ID)
			return 0;
		error = inode_load_referred(txn, export_id, directory_id, &directory);
		if (error != 0)
			return error;
		directory_id = directory.parent_id;
	}
	rozo_log_limited(ERROR,
		"metadata database: the parents of directory %" PRIu64 " in export %" PRIu32
		" do not end at the root",
		directory_id, export_id);
	return -EIO;
}

/* What a rename works on. Both directories are one if `to` is `from`. */
struct rename {
	const struct meta_rename_args *args;
	struct record_time now;
	struct record_inode from_directory;
	struct record_inode to_directory;
	struct record_inode *from;
	struct record_inode *to;
	struct record_entry moved_entry;
	struct record_inode moved;
	bool replaces;
	struct record_entry replaced_entry;
	struct record_inode replaced;
};

/* Loads everything and checks POSIX's rules. Returns 0, a negative errno, or 1: nothing to do. */
static int rename_check(struct kv_txn *txn, struct rename *rename)
{
	const struct meta_rename_args *args = rename->args;
	uint32_t export_id = args->export_id;
	int error;

	error = inode_load_directory(
		txn, export_id, args->from_directory_id, &rename->from_directory);
	if (error == 0)
		error = inode_load_directory(
			txn, export_id, args->to_directory_id, &rename->to_directory);
	if (error == 0)
		error = record_entry_get(txn, export_id, args->from_directory_id, args->from_name,
			&rename->moved_entry);
	if (error == 0)
		error = inode_load_referred(
			txn, export_id, rename->moved_entry.file_id, &rename->moved);
	if (error != 0)
		return error;
	rename->from = &rename->from_directory;
	rename->to = args->from_directory_id == args->to_directory_id ? &rename->from_directory
								      : &rename->to_directory;
	if (rename->moved.type == META_DIRECTORY && rename->from != rename->to) {
		error = rename_check_not_below(
			txn, export_id, args->to_directory_id, rename->moved_entry.file_id);
		if (error != 0)
			return error;
	}
	error = record_entry_get(
		txn, export_id, args->to_directory_id, args->to_name, &rename->replaced_entry);
	if (error == -ENOENT)
		return 0;
	if (error != 0)
		return error;
	rename->replaces = true;
	if (rename->replaced_entry.file_id == rename->moved_entry.file_id)
		return 1;
	error = inode_load_referred(
		txn, export_id, rename->replaced_entry.file_id, &rename->replaced);
	if (error != 0)
		return error;
	if (rename->moved.type == META_DIRECTORY && rename->replaced.type != META_DIRECTORY)
		return -ENOTDIR;
	if (rename->moved.type != META_DIRECTORY && rename->replaced.type == META_DIRECTORY)
		return -EISDIR;
	if (rename->replaced.type == META_DIRECTORY)
		return directory_check_no_entries(txn, export_id, rename->replaced_entry.file_id);
	return 0;
}

/* Puts the moved file under the new name. A name that was there before keeps its cookie. */
static int rename_put(struct kv_txn *txn, struct rename *rename)
{
	const struct meta_rename_args *args = rename->args;
	struct record_entry entry;
	int error;

	if (!rename->replaces)
		return entry_add(txn, args->export_id, args->to_directory_id, rename->to,
			args->to_name, rename->moved_entry.file_id, &rename->moved);
	entry = (struct record_entry){
		.file_id = rename->moved_entry.file_id,
		.cookie = rename->replaced_entry.cookie,
	};
	error = record_entry_put(
		txn, args->export_id, args->to_directory_id, args->to_name, &entry);
	if (error == 0)
		error = link_drop(txn, args->export_id, args->to_directory_id, args->to_name,
			rename->replaced_entry.file_id, &rename->replaced, rename->now);
	/* The links of the directory: the replaced directory's goes, the moved one's comes. */
	return error;
}

static int rename_operation(struct kv_txn *txn, void *context)
{
	struct change_call *call = context;
	const struct meta_rename_args *args = call->args;
	struct meta_rename_res *result = call->result;
	struct rename rename = {.args = args, .now = inode_now()};
	int error;

	error = rename_check(txn, &rename);
	if (error != 0)
		return error;
	error = record_entry_remove(txn, args->export_id, args->from_directory_id, args->from_name,
		&rename.moved_entry);
	if (error != 0)
		return error;
	if (rename.moved.type == META_DIRECTORY)
		rename.from->links--;
	error = rename_put(txn, &rename);
	if (error != 0)
		return error;
	set_name(&rename.moved, args->to_directory_id, args->to_name);
	inode_changed(&rename.moved, rename.now);
	inode_modified(rename.from, rename.now);
	if (rename.to != rename.from)
		inode_modified(rename.to, rename.now);
	error = record_inode_put(txn, args->export_id, rename.moved_entry.file_id, &rename.moved);
	if (error == 0)
		error = record_inode_put(
			txn, args->export_id, args->from_directory_id, rename.from);
	if (error == 0 && rename.to != rename.from)
		error = record_inode_put(txn, args->export_id, args->to_directory_id, rename.to);
	if (error == 0 && rename.replaces && rename.replaced.links == 0)
		result->replaced_id = rename.replaced_entry.file_id;
	return error;
}

void namespace_rename(struct exportd *exportd, const struct meta_rename_args *args,
	struct meta_rename_res *result)
{
	struct change_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->export_id),
		.args = args,
		.result = result,
	};
	int error = call.export != NULL ? inode_check_new_name(args->from_name) : -ESTALE;

	if (error == 0)
		error = inode_check_new_name(args->to_name);
	if (error == 0)
		error = change(&call, rename_operation, &args->slot, META_RENAME,
			RPC_XDR(xdr_meta_rename_res), NULL);
	result->status = (uint32_t)-error;
}
