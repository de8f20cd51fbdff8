/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Inodes as the operations need them. Takes no locks; a transaction is the caller's.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "exportd/clock.h"
#include "exportd/inode.h"
#include "exportd/written.h"
#include "rpc/log.h"

#define DIRECTORY_BYTES 4096 /* what a directory is said to be, whatever it holds */

/* So that there is time to do something about it. */
#define WRITE_EPOCH_WARNING (INODE_WRITE_EPOCH_MAX / 4 * 3)

int inode_next_write_epoch(
	uint32_t export_id, uint64_t file_id, struct record_inode *inode, uint32_t last)
{
	if (inode->write_epoch >= last) {
		rozo_log_limited(ERROR,
			"file %" PRIu64 " in export %" PRIu32
			" has used up its write epochs; copy it and remove it",
			file_id, export_id);
		return -EOVERFLOW;
	}
	inode->write_epoch++;
	if (inode->write_epoch == WRITE_EPOCH_WARNING)
		rozo_log_limited(WARNING,
			"file %" PRIu64 " in export %" PRIu32
			" has used up three quarters of its write epochs: it was truncated, or "
			"opened "
			"for writing, %" PRIu32 " times. Copy it and remove it before it cannot be "
			"written any more",
			file_id, export_id, inode->write_epoch);
	return 0;
}

/* The metadata server that gives out the export's layouts; 0: none, or its record is damaged. */
static uint64_t server_of(struct kv_txn *txn, uint32_t export_id)
{
	struct record_server server;

	return record_server_get(txn, export_id, &server) == 0 ? server.number : 0;
}

/*
 * A metadata server that restarts has forgotten which layouts it gave, and nobody will tell what
 * was written under them. When it attaches they are all over, at once, however many files there
 * are: an inode that tells of a server of before is read as META_LAYOUT_REVOKE would leave it, and
 * stored so with the file's next change. But for the time of the change, which is not known.
 */
static void take_layouts_back(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	if (inode->server == 0 || inode->server == server_of(txn, export_id))
		return;
	inode->server = 0;
	inode->layout_epoch++;
	inode->change++;
	/* If there is none left nobody can write anyway. */
	if (inode->write_epoch < INODE_WRITE_EPOCH_MAX &&
		inode_next_write_epoch(export_id, file_id, inode, INODE_WRITE_EPOCH_MAX) == 0)
		inode->valid_epoch = inode->write_epoch;
}

bool inode_layout_given(struct kv_txn *txn, uint32_t export_id, struct record_inode *inode)
{
	uint64_t before = inode->server;

	inode->server = server_of(txn, export_id);
	return inode->server != before;
}

int inode_load(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	int result = record_inode_get(txn, export_id, file_id, inode);

	if (result == 0)
		take_layouts_back(txn, export_id, file_id, inode);
	return result == -ENOENT ? -ESTALE : result;
}

int inode_load_directory(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	int result = inode_load(txn, export_id, file_id, inode);

	if (result == 0 && inode->type != META_DIRECTORY)
		return -ENOTDIR;
	return result;
}

int inode_load_regular(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	int result = inode_load(txn, export_id, file_id, inode);

	if (result == 0 && inode->type != META_REGULAR)
		return inode->type == META_DIRECTORY ? -EISDIR : -EINVAL;
	return result;
}

int inode_load_referred(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode)
{
	int result = inode_load(txn, export_id, file_id, inode);

	if (result != -ESTALE)
		return result;
	rozo_log_limited(ERROR,
		"metadata database: file %" PRIu64 " in export %" PRIu32
		" has an entry in a directory but no inode",
		file_id, export_id);
	return -EIO;
}

static struct meta_time meta_time_of(struct record_time time)
{
	return (struct meta_time){.seconds = time.seconds, .nanoseconds = time.nanoseconds};
}

static struct record_time record_time_of(struct meta_time time)
{
	return (struct record_time){.seconds = time.seconds, .nanoseconds = time.nanoseconds};
}

void inode_attributes(const struct exportd_export *export, uint64_t file_id,
	const struct record_inode *inode, struct meta_attributes *attributes)
{
	uint32_t k = export->config->code.k;
	uint64_t size = inode->size;
	uint64_t space = 0;

	if (inode->type == META_DIRECTORY) {
		size = DIRECTORY_BYTES;
		space = DIRECTORY_BYTES;
	} else if (inode->type == META_REGULAR) {
		unsigned __int128 shards = ((unsigned __int128)size * export->shards + k - 1) / k;

		space = shards > INODE_SIZE_MAX ? INODE_SIZE_MAX : (uint64_t)shards;
	}
	*attributes = (struct meta_attributes){
		.file_id = file_id,
		.parent_id = inode->parent_id,
		.type = inode->type,
		.mode = inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.links = inode->links,
		.device_major = inode->device_major,
		.device_minor = inode->device_minor,
		.size = size,
		.space_used = space,
		.change = inode->change,
		.verifier = inode->verifier,
		.access_time = meta_time_of(inode->access_time),
		.modify_time = meta_time_of(inode->modify_time),
		.change_time = meta_time_of(inode->change_time),
	};
}

void inode_attributes_told(
	struct exportd *exportd, uint32_t export_id, const struct meta_attributes *attributes)
{
	written_take(exportd->written, export_id, attributes->file_id);
}

struct record_time inode_now(void)
{
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_WALL);

	return (struct record_time){
		.seconds = (int64_t)(now_ns / 1000000000u),
		.nanoseconds = (uint32_t)(now_ns % 1000000000u),
	};
}

void inode_changed(struct record_inode *inode, struct record_time now)
{
	inode->change++;
	inode->change_time = now;
}

void inode_modified(struct record_inode *inode, struct record_time now)
{
	inode_changed(inode, now);
	inode->modify_time = now;
}

int inode_check_set(const struct exportd_export *export, const struct meta_set *set)
{
	const uint32_t known = META_SET_MODE | META_SET_UID | META_SET_GID | META_SET_SIZE |
			       META_SET_ATIME | META_SET_ATIME_NOW | META_SET_MTIME |
			       META_SET_MTIME_NOW;

	if ((set->mask & ~known) != 0)
		return -EINVAL;
	if ((set->mask & META_SET_MODE) && (set->mode & ~07777u) != 0)
		return -EINVAL;
	if ((set->mask & META_SET_ATIME) && set->access_time.nanoseconds >= 1000000000u)
		return -EINVAL;
	if ((set->mask & META_SET_MTIME) && set->modify_time.nanoseconds >= 1000000000u)
		return -EINVAL;
	if ((set->mask & META_SET_SIZE) && set->size > export->file_bytes_max)
		return -EFBIG;
	return 0;
}

void inode_apply_set(struct record_inode *inode, const struct meta_set *set, struct record_time now)
{
	if (set->mask & META_SET_MODE)
		inode->mode = (uint16_t)set->mode;
	if (set->mask & META_SET_UID)
		inode->uid = set->uid;
	if (set->mask & META_SET_GID)
		inode->gid = set->gid;
	if (set->mask & META_SET_ATIME)
		inode->access_time = record_time_of(set->access_time);
	if (set->mask & META_SET_ATIME_NOW)
		inode->access_time = now;
	if (set->mask & META_SET_MTIME)
		inode->modify_time = record_time_of(set->modify_time);
	if (set->mask & META_SET_MTIME_NOW)
		inode->modify_time = now;
}

int inode_check_name(const char *name)
{
	if (name == NULL || name[0] == '\0' || strchr(name, '/') != NULL)
		return -EINVAL;
	if (strlen(name) > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	return 0;
}

int inode_check_new_name(const char *name)
{
	int result = inode_check_name(name);

	if (result == 0 && (strcmp(name, ".") == 0 || strcmp(name, "..") == 0))
		return -EINVAL;
	return result;
}
