/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Choice of nodes: which ones hold a segment, which one is a file's write gateway, and which ones
 * a reader is sent to. Pure functions of their arguments: the same question has the same answer.
 */
#ifndef ROZO_EXPORTD_PLACEMENT_H
#define ROZO_EXPORTD_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "exportd/map.h"

/*
 * A number that looks random, from three that need not. Recorded choices depend on it, so changing
 * it moves nothing that exists.
 */
uint64_t placement_hash(uint64_t first, uint64_t second, uint64_t third);

/*
 * Chooses n distinct nodes for a segment.
 *
 * Failure domains come first: all different if there are n of them, else as even as possible.
 * Among and within them, a node is the likelier the more free bytes it has, by a draw that depends
 * on export, file, segment and node alone. Nodes that are down, or known to be full, are used only
 * if there are fewer than n others.
 *
 * nodes: all nodes of the cluster; n: at most RECORD_SHARDS_MAX; chosen: room for n node ids, in
 * the order of the shards.
 * Returns 0, -ENOSPC (fewer than n nodes), or -ENOMEM.
 */
int placement_choose(const struct map_node *nodes, size_t node_count, uint32_t export_id,
	uint64_t file_id, uint32_t segment, uint32_t n, uint32_t *chosen);

/*
 * Chooses the node that takes over one shard of a segment: one that is up, has free bytes, and is
 * none of `kept` nor of `barred`. Failure domains come first: as few of `kept` as possible are in
 * its own; then free space, as above. nodes: in ascending id. kept: the nodes of the segment's
 * other shards; barred: nodes that may have, or still remove, another copy of one of its shards.
 * *chosen receives the node's id. Returns 0 or -ENOSPC (there is none).
 */
int placement_replace(const struct map_node *nodes, size_t node_count, uint32_t export_id,
	uint64_t file_id, uint32_t segment, const uint32_t *kept, size_t kept_count,
	const uint32_t *barred, size_t barred_count, uint32_t *chosen);

/*
 * The nodes that may be gateways of a file: those of its placement that are up and not to be
 * avoided, or, if there is none, all such nodes of the cluster.
 * nodes: all nodes of the cluster, in ascending id; healthy: room for node_count node ids, and for
 * placed_count.
 * Returns how many there are.
 */
size_t placement_healthy(const struct map_node *nodes, size_t node_count, const uint32_t *placed,
	size_t placed_count, const uint32_t *avoid, size_t avoid_count, uint32_t *healthy);

/*
 * Sorts node ids by rendezvous hash with a file and a salt (0 for the write gateway, the client's
 * hash for readers), best first: when a node leaves, only its own files or clients move.
 */
void placement_order(
	uint32_t *nodes, size_t count, uint32_t export_id, uint64_t file_id, uint64_t salt);

#endif
