/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The namespace operations of meta.x: names, directories, links. Each function is one procedure of
 * the protocol: it reads args and sets result->status, and the rest of result as meta.x says.
 * Pointers in the result are malloc()ed and are freed by the caller (XDR_FREE).
 *
 * Statuses that every operation may have: ESTALE (no such export or file id), EIO (the database is
 * damaged or has failed; named in the log), ENOMEM, and those that change something ENOSPC (no
 * room for metadata). Names are refused with EINVAL (empty, with a slash, or "." and ".." where an
 * entry is made or removed) and ENAMETOOLONG.
 */
#ifndef ROZO_EXPORTD_NAMESPACE_H
#define ROZO_EXPORTD_NAMESPACE_H

#include "exportd/exportd.h"
#include "rpc/meta.h"

/* ENOENT: the configuration has no such export. See inode_load() for what a new server means. */
void namespace_attach(struct exportd *exportd, const struct meta_attach_args *args,
	struct meta_attach_res *result);

/* Also ENOTDIR, ENOENT. */
void namespace_lookup(struct exportd *exportd, const struct meta_lookup_args *args,
	struct meta_attributes_res *result);

void namespace_getattr(
	struct exportd *exportd, const struct meta_file *args, struct meta_attributes_res *result);

/* Also EINVAL: not a symbolic link. */
void namespace_readlink(
	struct exportd *exportd, const struct meta_file *args, struct meta_readlink_res *result);

/* Also ENOTDIR; EINVAL: no entries wanted. */
void namespace_readdir(struct exportd *exportd, const struct meta_readdir_args *args,
	struct meta_readdir_res *result);

void namespace_statfs(struct exportd *exportd, const struct meta_statfs_args *args,
	struct meta_statfs_res *result);

/*
 * Also ENOTDIR (of the directory), EEXIST, EISDIR (UNCHECKED on a directory), EMLINK, EINVAL (type,
 * how, attributes or target), ENAMETOOLONG (also of a target), and for regular files ENOSPC (fewer
 * nodes in the cluster than the protection needs). With EEXIST and EISDIR attributes are those of
 * what is there.
 * If META_SET_GID is not in the mask and the directory has the set-group-id bit, the new file has
 * the directory's group, and a new directory the bit too.
 */
void namespace_create(struct exportd *exportd, const struct meta_create_args *args,
	struct meta_create_res *result);

/* Also ENOTDIR, EEXIST, EPERM (a directory), EMLINK. The attributes are the file's. */
void namespace_link(struct exportd *exportd, const struct meta_link_args *args,
	struct meta_attributes_res *result);

/* Also ENOENT, ENOTDIR, EISDIR, ENOTEMPTY. */
void namespace_unlink(struct exportd *exportd, const struct meta_unlink_args *args,
	struct meta_unlink_res *result);

/*
 * Also ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL (a directory into itself or below), EMLINK.
 * Two names of the same file: nothing happens, as POSIX has it.
 */
void namespace_rename(struct exportd *exportd, const struct meta_rename_args *args,
	struct meta_rename_res *result);

#endif
