/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Shards of nodes that are out (map.h) move to others.
 *
 * A pass goes through all placements. Where one names a node that is out, another node takes over
 * the shard at once, empty, under a new write epoch: from then on writes go to the new node. It is
 * marked as rebuilding, and entered in the new node's list, most endangered segments first. That
 * node makes the shard from those of k others and says META_REBUILT; until then the old node's copy
 * is kept, and after that it is removed through the free queue.
 *
 * A shard moves only while k complete shards of its segment are on nodes that are up: otherwise it
 * could not be made, and those that are away may come back with what is needed.
 */
#ifndef ROZO_EXPORTD_REBUILD_H
#define ROZO_EXPORTD_REBUILD_H

#include "exportd/exportd.h"
#include "rpc/meta.h"

/* What one pass found and did; in segments, or shards where said so. */
struct rebuild_pass {
	uint64_t moved; /* shards */
	uint64_t without_replacement; /* shards that no node is left for */
	uint64_t in_danger; /* fewer than k complete shards are on nodes that are up */
	uint64_t failed; /* tried again by the next pass: the reason is in the log */
	bool cut_short; /* other nodes are out now: another pass is due */
};

/*
 * Makes a pass, which takes as long as a scan of all placements if a node is out, or is to make a
 * shard and is full, else nothing.
 * Ends early when a node comes back that was out, or another one is out. strangers: look for nodes
 * that are no longer in the configuration, too (map_strangers_are_out()). stop, if not NULL:
 * becomes true when the pass should end early. Returns 0, or the first error of the store: what was
 * done until then is durable.
 */
int rebuild_pass(struct exportd *exportd, bool strangers, const _Atomic bool *stop,
	struct rebuild_pass *pass);

/*
 * Makes passes in a thread of its own: after each change of the cluster map while a node is out,
 * and every minute. Logs what it does. *rebuild is ended with rebuild_stop(), before
 * exportd_close(). Returns 0, -ENOMEM or -EAGAIN.
 */
struct rebuild;
int rebuild_start(struct exportd *exportd, struct rebuild **rebuild);
void rebuild_stop(struct rebuild *rebuild);

/* Whether META_REBUILD_LIST has work for a node: 1, 0, or a negative errno. */
int rebuild_waiting(struct exportd *exportd, uint32_t node);

/* META_REBUILD_LIST. Status: 0, EIO or ENOMEM. */
void rebuild_list(struct exportd *exportd, const struct meta_rebuild_args *args,
	struct meta_rebuild_res *result);

/* META_REBUILT. Status: 0, EAGAIN (moved again since: the item stays), EIO, ENOSPC or ENOMEM. */
void rebuild_done(struct exportd *exportd, const struct meta_rebuilt_args *args,
	struct meta_status_res *result);

/* META_CLUSTER. Status: 0, EIO or ENOMEM. */
void rebuild_cluster(struct exportd *exportd, struct meta_cluster_res *result);

#endif
