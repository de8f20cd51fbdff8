/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Deferred freeing: when a file's last link goes, each of its segments becomes an item of a queue,
 * in the same transaction. The nodes of the segment ask for their items, remove their store files
 * and say so; the item is gone when all have.
 */
#ifndef ROZO_EXPORTD_FREE_QUEUE_H
#define ROZO_EXPORTD_FREE_QUEUE_H

#include "exportd/exportd.h"
#include "exportd/kv.h"
#include "rpc/meta.h"

/*
 * Moves all placements of a file into the queue, inside the caller's transaction.
 * Returns 0, -EIO, -ENOSPC or -ENOMEM.
 */
int free_queue_add_file(struct kv_txn *txn, uint32_t export_id, uint64_t file_id);

/*
 * Has one node remove its copy of a segment of a file that goes on without it. The caller adds the
 * node to the placement's formers; free_queue_freed() takes it out.
 * Returns 0 or an error of the store.
 */
int free_queue_add_node(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment, uint32_t node);

/*
 * No node is to remove a copy of a file that goes on: this database is an older one, and the shard
 * may have come back to the node since. Returns 0, -EIO, -ENOSPC or -ENOMEM.
 */
int free_queue_forget_strays(struct kv_txn *txn);

/* Whether META_FREE_LIST has work for a node: 1, 0, or a negative errno. */
int free_queue_waiting(struct exportd *exportd, uint32_t node);

/* Whether any of it is of files that go on without the node: 1, 0, or a negative errno. */
int free_queue_strays(struct exportd *exportd, uint32_t node);

/*
 * META_FREE_LIST: the oldest items of a node, from args->first on, but for those that are damaged.
 * Status: 0, EIO or ENOMEM.
 */
void free_queue_list(
	struct exportd *exportd, const struct meta_free_args *args, struct meta_free_res *result);

/*
 * META_FREED: the node has removed what these items name. Items that it does not have (any more)
 * are passed over, so a repeated call does no harm. Status: 0, EIO, ENOSPC or ENOMEM.
 */
void free_queue_freed(struct exportd *exportd, const struct meta_freed_args *args,
	struct meta_status_res *result);

#endif
