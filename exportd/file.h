/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The operations of meta.x on one file's attributes, size, placement and gateways. Each function is
 * one procedure, as in namespace.h, and may have the statuses named there.
 *
 * Epochs of a regular file: the layout epoch grows when its write gateway changes, the write epoch
 * then, with each truncation and each new writer, and when shards of it move (rebuild.h). Both are
 * durable before anyone is told.
 */
#ifndef ROZO_EXPORTD_FILE_H
#define ROZO_EXPORTD_FILE_H

#include "exportd/exportd.h"
#include "exportd/record.h"
#include "rpc/meta.h"

/*
 * Also EINVAL (attributes, or the size of what has none), EISDIR (the size of a directory), EFBIG,
 * EOVERFLOW (the file has no write epochs left: copy it).
 * Any size that is not larger than the known one begins a truncation, since a writer may have
 * written beyond it without a report having come yet.
 */
void file_setattr(struct exportd *exportd, const struct meta_setattr_args *args,
	struct meta_setattr_res *result);

/* Also EISDIR, EINVAL (not a regular file). An epoch that is not the newest changes nothing. */
void file_truncated(struct exportd *exportd, const struct meta_truncated_args *args,
	struct meta_status_res *result);

/* Also EISDIR, EINVAL, EFBIG. */
void file_written(struct exportd *exportd, const struct meta_written_args *args,
	struct meta_attributes_res *result);

/* Also EISDIR, EINVAL, EAGAIN. */
void file_check_epoch(struct exportd *exportd, const struct meta_check_epoch_args *args,
	struct meta_status_res *result);

/*
 * Also EISDIR, EINVAL, EFBIG (the segment lies beyond the largest file), ENOENT (no nodes yet and
 * allocate is 0), ENOSPC (too few nodes in the cluster), EOVERFLOW.
 */
void file_placement(struct exportd *exportd, const struct meta_placement_args *args,
	struct meta_placement_res *result);

/* Also EISDIR, EINVAL (iomode), EAGAIN, EOVERFLOW. */
void file_layout(struct exportd *exportd, const struct meta_layout_args *args,
	struct meta_layout_res *result);

/* -------- for namespace_create() -------- */

/* All nodes of the cluster at one time, made before a transaction that chooses among them. */
struct file_nodes {
	size_t count;
	struct map_node *nodes;
};

/* Returns 0 or -ENOMEM. Free with file_nodes_free(). */
int file_nodes_get(struct exportd *exportd, struct file_nodes *nodes);

void file_nodes_free(struct file_nodes *nodes);

/*
 * Chooses and records the placement of a segment that has none, and counts it in inode, which the
 * caller stores.
 * Returns 0, -ENOSPC (fewer nodes than shards; what is missing has been logged) or an error of
 * kv_put().
 */
int file_place(struct kv_txn *txn, const struct exportd_export *export,
	const struct file_nodes *nodes, uint64_t file_id, uint32_t segment,
	struct record_inode *inode, struct record_placement *placement);

/*
 * The write gateway of a new file with this placement: a healthy node if there is one.
 * *gateway receives its node id. Returns 0 or -ENOMEM.
 */
int file_first_gateway(const struct exportd_export *export, const struct file_nodes *nodes,
	uint64_t file_id, const struct record_placement *placement, uint32_t *gateway);

#endif
