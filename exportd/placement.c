/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Choice of nodes by weighted rendezvous hashing: each node draws a score, the best win. With
 * u uniform in (0, 1), -ln(u) / weight is the time of the first event of a process with that rate;
 * the node whose event comes first is chosen with probability proportional to its weight.
 *
 * Assumes nothing, takes no locks.
 */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "exportd/placement.h"

/* The finaliser of SplitMix64: every bit of the input moves about half of the output's. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

uint64_t placement_hash(uint64_t first, uint64_t second, uint64_t third)
{
	return mix(mix(mix(first) ^ second) ^ third);
}

struct candidate {
	uint32_t id;
	uint32_t domain;
	bool reserve; /* down or full */
	bool taken;
	double score; /* smaller is better */
};

static int candidate_compare(const void *left, const void *right)
{
	const struct candidate *a = left, *b = right;

	if (a->reserve != b->reserve)
		return a->reserve ? 1 : -1;
	if (a->score != b->score)
		return a->score < b->score ? -1 : 1;
	return a->id < b->id ? -1 : 1;
}

/* What a node of unknown capacity is worth: the mean of the known ones, so that it is not favoured.
 */
static double mean_free_bytes(const struct map_node *nodes, size_t count)
{
	double sum = 0;
	size_t known = 0, i;

	for (i = 0; i < count; i++) {
		if (!nodes[i].capacity_known || nodes[i].free_bytes == 0)
			continue;
		sum += (double)nodes[i].free_bytes;
		known++;
	}
	return known > 0 ? sum / (double)known : 1.0;
}

/* A node's score, the smaller the better: small ones are the likelier the larger its weight. */
static double draw(uint64_t seed, uint32_t node, double weight)
{
	/* 53 random bits in (0, 1): never 0, whose logarithm would be infinite. */
	double u = ((double)(placement_hash(seed, node, 0) >> 11) + 0.5) * 0x1p-53;

	return -log(u) / weight;
}

int placement_choose(const struct map_node *nodes, size_t node_count, uint32_t export_id,
	uint64_t file_id, uint32_t segment, uint32_t n, uint32_t *chosen)
{
	uint64_t seed = placement_hash(export_id, file_id, segment);
	double unknown_weight = mean_free_bytes(nodes, node_count);
	struct candidate *candidates;
	size_t good = 0, limit, i, best;
	uint32_t made, j, held, fewest;

	if (node_count < n)
		return -ENOSPC;
	candidates = calloc(node_count, sizeof(*candidates));
	if (candidates == NULL)
		return -ENOMEM;
	for (i = 0; i < node_count; i++) {
		const struct map_node *node = &nodes[i];
		bool full = node->capacity_known && node->free_bytes == 0;
		double weight =
			node->capacity_known && !full ? (double)node->free_bytes : unknown_weight;
		candidates[i] = (struct candidate){
			.id = node->id,
			.domain = node->domain,
			.reserve = node->state == MAP_NODE_DOWN || full,
			.score = draw(seed, node->id, weight),
		};
	}
	qsort(candidates, node_count, sizeof(*candidates), candidate_compare);
	while (good < node_count && !candidates[good].reserve)
		good++;
	uint32_t domains[n > 0 ? n : 1];

	for (made = 0; made < n; made++) {
		/* If there are too few good ones, all of them are taken before the others. */
		limit = made < good ? good : node_count;
		best = 0;
		fewest = UINT32_MAX;
		for (i = 0; i < limit && fewest > 0; i++) {
			if (candidates[i].taken)
				continue;
			for (j = 0, held = 0; j < made; j++)
				held += domains[j] == candidates[i].domain;
			if (held < fewest) {
				fewest = held;
				best = i;
			}
		}
		candidates[best].taken = true;
		chosen[made] = candidates[best].id;
		domains[made] = candidates[best].domain;
	}
	free(candidates);
	return 0;
}

static int node_compare(const void *id, const void *node)
{
	uint32_t wanted = *(const uint32_t *)id;
	uint32_t found = ((const struct map_node *)node)->id;

	return wanted < found ? -1 : wanted > found;
}

static bool contains(const uint32_t *ids, size_t count, uint32_t id)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (ids[i] == id)
			return true;
	return false;
}

int placement_replace(const struct map_node *nodes, size_t node_count, uint32_t export_id,
	uint64_t file_id, uint32_t segment, const uint32_t *kept, size_t kept_count,
	const uint32_t *barred, size_t barred_count, uint32_t *chosen)
{
	uint64_t seed = placement_hash(export_id, file_id, segment);
	size_t fewest = SIZE_MAX, domain_count = 0, i, j;
	uint32_t domains[kept_count > 0 ? kept_count : 1];
	double best = 0;

	for (i = 0; i < kept_count; i++) {
		const struct map_node *node =
			bsearch(&kept[i], nodes, node_count, sizeof(*nodes), node_compare);

		if (node != NULL)
			domains[domain_count++] = node->domain;
	}
	for (i = 0; i < node_count; i++) {
		const struct map_node *node = &nodes[i];
		size_t held = 0;
		double score;

		if (node->state != MAP_NODE_UP || !node->capacity_known || node->free_bytes == 0 ||
			contains(kept, kept_count, node->id) ||
			contains(barred, barred_count, node->id))
			continue;
		for (j = 0; j < domain_count; j++)
			held += domains[j] == node->domain;
		score = draw(seed, node->id, (double)node->free_bytes);
		if (held > fewest || (held == fewest && score >= best))
			continue;
		fewest = held;
		best = score;
		*chosen = node->id;
	}
	return fewest == SIZE_MAX ? -ENOSPC : 0;
}

size_t placement_healthy(const struct map_node *nodes, size_t node_count, const uint32_t *placed,
	size_t placed_count, const uint32_t *avoid, size_t avoid_count, uint32_t *healthy)
{
	const struct map_node *node;
	size_t count = 0, i;

	for (i = 0; i < placed_count; i++) {
		node = bsearch(&placed[i], nodes, node_count, sizeof(*nodes), node_compare);
		if (node != NULL && node->state == MAP_NODE_UP &&
			!contains(avoid, avoid_count, placed[i]))
			healthy[count++] = placed[i];
	}
	if (count > 0)
		return count;
	for (i = 0; i < node_count; i++)
		if (nodes[i].state == MAP_NODE_UP && !contains(avoid, avoid_count, nodes[i].id))
			healthy[count++] = nodes[i].id;
	return count;
}

void placement_order(
	uint32_t *nodes, size_t count, uint32_t export_id, uint64_t file_id, uint64_t salt)
{
	uint64_t seed = placement_hash(export_id, file_id, salt);
	uint32_t node;
	size_t i, j;

	/* Insertion sort: there are at most as many as shards, or as many as nodes once in a while.
	 */
	for (i = 1; i < count; i++) {
		node = nodes[i];
		for (j = i; j > 0 &&
			    placement_hash(seed, nodes[j - 1], 1) < placement_hash(seed, node, 1);
			j--)
			nodes[j] = nodes[j - 1];
		nodes[j] = node;
	}
}
