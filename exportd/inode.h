/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What all operations do with inodes: load them, change their times and attributes, show them.
 */
#ifndef ROZO_EXPORTD_INODE_H
#define ROZO_EXPORTD_INODE_H

#include "exportd/exportd.h"
#include "exportd/kv.h"
#include "exportd/record.h"
#include "rpc/meta.h"

/* Files end here: NFS and Linux count bytes in 63 bits. */
#define INODE_SIZE_MAX ((uint64_t)INT64_MAX)

/* The last ones of a file are left to shards that move: what can be read can be kept, too. */
#define INODE_WRITE_EPOCH_MAX (RECORD_WRITE_EPOCH_MAX - 4096)

/*
 * Loads an inode, as it is now: layouts that a metadata server gave which is not there any more
 * have been taken back in it. Returns 0, -ESTALE (no such file) or -EIO.
 */
int inode_load(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode);

/* The same for a directory. Also returns -ENOTDIR. */
int inode_load_directory(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode);

/* The same for a regular file. Also returns -EISDIR, or -EINVAL for the other types. */
int inode_load_regular(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode);

/*
 * Loads an inode that an entry refers to, which must therefore exist.
 * Returns 0 or -EIO (named in the log).
 */
int inode_load_referred(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, struct record_inode *inode);

/*
 * Notes that the metadata server that is there gives out a RW layout of the file. Returns true if
 * that is news: then the caller stores the inode.
 */
bool inode_layout_given(struct kv_txn *txn, uint32_t export_id, struct record_inode *inode);

/*
 * Gives the file its next write epoch; the caller stores the inode. last: INODE_WRITE_EPOCH_MAX, or
 * RECORD_WRITE_EPOCH_MAX if shards move. A file that comes close to its end is named in the log.
 * Returns 0 or -EOVERFLOW (there is none left; it is in the log).
 */
int inode_next_write_epoch(
	uint32_t export_id, uint64_t file_id, struct record_inode *inode, uint32_t last);

/* Shows an inode to the protocol. */
void inode_attributes(const struct exportd_export *export, uint64_t file_id,
	const struct record_inode *inode, struct meta_attributes *attributes);

/*
 * To be called when a file that somebody may be writing has been shown to a client, who may cache
 * it by this `change` from now on: what a gateway has reported of it does for no LAYOUTCOMMIT any
 * more, since bytes may have been overwritten after that without a report.
 */
void inode_attributes_told(
	struct exportd *exportd, uint32_t export_id, const struct meta_attributes *attributes);

/* The time now, for an inode. */
struct record_time inode_now(void);

/* Notes a change of the attributes: change time and counter. */
void inode_changed(struct record_inode *inode, struct record_time now);

/* Notes a change of the contents: also modify time. */
void inode_modified(struct record_inode *inode, struct record_time now);

/*
 * Checks what is to be set of a file of an export. Returns 0, -EINVAL (mask, mode or nanoseconds)
 * or -EFBIG (size).
 */
int inode_check_set(const struct exportd_export *export, const struct meta_set *set);

/* Sets mode, owner and times, all but the size. */
void inode_apply_set(
	struct record_inode *inode, const struct meta_set *set, struct record_time now);

/*
 * Checks a name of an entry.
 * Returns 0, -EINVAL (empty, or with a slash) or -ENAMETOOLONG.
 */
int inode_check_name(const char *name);

/* The same for a name that is to be made or removed: "." and ".." are -EINVAL too. */
int inode_check_new_name(const char *name);

#endif
