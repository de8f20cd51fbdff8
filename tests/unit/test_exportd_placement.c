/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Where segments are placed: distinct nodes, failure domains, free space, nodes that are down.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/placement.h"
#include "exportd_fixture.h"

#define NODES_MAX 64

static struct map_node nodes[NODES_MAX];

/* Nodes 1..count, up, 1 TiB free, `domains` failure domains in turn. */
static void make_nodes(uint32_t count, uint32_t domains)
{
	uint32_t i;

	for (i = 0; i < count; i++)
		nodes[i] = (struct map_node){
			.id = i + 1,
			.domain = i % domains,
			.state = MAP_NODE_UP,
			.capacity_known = true,
			.total_bytes = 2ull << 40,
			.free_bytes = 1ull << 40,
		};
}

static void domains_differ(void)
{
	uint32_t chosen[24], used, i, j;
	uint64_t file;

	make_nodes(24, 8);
	for (file = 1; file <= 500; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 24, 1, file, 0, 6, chosen), 0);
		for (i = 0, used = 0; i < 6; i++) {
			CU_ASSERT_FATAL(chosen[i] >= 1 && chosen[i] <= 24);
			CU_ASSERT((used & (1u << nodes[chosen[i] - 1].domain)) == 0);
			used |= 1u << nodes[chosen[i] - 1].domain;
		}
	}
	/* Four domains for six shards: two in two of them, one in the others. */
	make_nodes(24, 4);
	for (file = 1; file <= 500; file++) {
		uint32_t held[4] = {0};

		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 24, 1, file, 0, 6, chosen), 0);
		for (i = 0; i < 6; i++) {
			held[nodes[chosen[i] - 1].domain]++;
			for (j = 0; j < i; j++)
				CU_ASSERT_NOT_EQUAL(chosen[i], chosen[j]);
		}
		for (i = 0; i < 4; i++)
			CU_ASSERT(held[i] == 1 || held[i] == 2);
	}
	/* One domain holds a single node: it is filled, the rest is even. */
	make_nodes(7, 1);
	for (i = 1; i < 7; i++)
		nodes[i].domain = 1 + i % 2;
	CU_ASSERT_EQUAL(placement_choose(nodes, 7, 1, 1, 0, 7, chosen), 0);
}

static void load_spreads(void)
{
	uint32_t chosen[24], count[NODES_MAX] = {0}, first[NODES_MAX] = {0}, i;
	uint64_t file;

	make_nodes(12, 12);
	for (file = 1; file <= 4000; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 12, 1, file, 0, 6, chosen), 0);
		for (i = 0; i < 6; i++)
			count[chosen[i]]++;
		first[chosen[0]]++;
	}
	/* 2000 each, standard deviation about 32; the first shard 333 each, about 18. */
	for (i = 1; i <= 12; i++) {
		CU_ASSERT(count[i] > 1840 && count[i] < 2160);
		CU_ASSERT(first[i] > 243 && first[i] < 423);
	}
}

static void free_space_weighs(void)
{
	uint32_t chosen[24], count[NODES_MAX] = {0}, i;
	uint64_t file;

	make_nodes(24, 24);
	for (i = 0; i < 12; i++)
		nodes[i].free_bytes = 1ull << 38; /* a quarter of the others */
	for (file = 1; file <= 4000; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 24, 1, file, 0, 3, chosen), 0);
		for (i = 0; i < 3; i++)
			count[chosen[i] <= 12 ? 0 : 1]++;
	}
	/* 1 to 4 for the first choice, a little less skewed as the large ones are used up. */
	CU_ASSERT(count[1] > 3.4 * count[0]);
	CU_ASSERT(count[1] < 4.3 * count[0]);
	/* An unknown capacity is an average one. */
	make_nodes(12, 12);
	nodes[0].capacity_known = false;
	memset(count, 0, sizeof(count));
	for (file = 1; file <= 4000; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 12, 1, file, 0, 3, chosen), 0);
		for (i = 0; i < 3; i++)
			count[chosen[i]]++;
	}
	CU_ASSERT(count[1] > 860 && count[1] < 1140);
}

static bool holds(const uint32_t *chosen, uint32_t n, uint32_t node)
{
	uint32_t i;

	for (i = 0; i < n && chosen[i] != node; i++)
		;
	return i < n;
}

static void down_nodes_only_if_needed(void)
{
	uint32_t chosen[24];
	uint64_t file;

	make_nodes(9, 9);
	nodes[2].state = MAP_NODE_DOWN;
	nodes[3].state = MAP_NODE_UNHEARD; /* may be up */
	nodes[4].free_bytes = 0; /* full */
	for (file = 1; file <= 200; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 9, 1, file, 0, 6, chosen), 0);
		CU_ASSERT(!holds(chosen, 6, 3));
		CU_ASSERT(!holds(chosen, 6, 5));
	}
	/* Eight of nine: all seven good ones, and one of the two. */
	for (file = 1; file <= 200; file++) {
		CU_ASSERT_EQUAL_FATAL(placement_choose(nodes, 9, 1, file, 0, 8, chosen), 0);
		CU_ASSERT(holds(chosen, 8, 3) != holds(chosen, 8, 5));
	}
	CU_ASSERT_EQUAL(placement_choose(nodes, 9, 1, 1, 0, 10, chosen), -ENOSPC);
}

static void choices_are_repeatable(void)
{
	uint32_t chosen[24], again[24], other[24], differ = 0;
	uint64_t file;

	make_nodes(12, 12);
	for (file = 1; file <= 100; file++) {
		CU_ASSERT_EQUAL(placement_choose(nodes, 12, 1, file, 0, 6, chosen), 0);
		CU_ASSERT_EQUAL(placement_choose(nodes, 12, 1, file, 0, 6, again), 0);
		CU_ASSERT_EQUAL(placement_choose(nodes, 12, 1, file, 1, 6, other), 0);
		CU_ASSERT_EQUAL(memcmp(chosen, again, 6 * sizeof(chosen[0])), 0);
		differ += memcmp(chosen, other, 6 * sizeof(chosen[0])) != 0;
	}
	CU_ASSERT(differ > 95);
}

static void a_gone_gateway_moves_its_own_files_only(void)
{
	uint32_t before[6], after[6], i;
	uint64_t file;

	for (file = 1; file <= 1000; file++) {
		for (i = 0; i < 6; i++)
			before[i] = i + 1;
		placement_order(before, 6, 1, file, 0);
		for (i = 0; i < 5; i++)
			after[i] = i + 1; /* node 6 is gone */
		placement_order(after, 5, 1, file, 0);
		if (before[0] != 6)
			CU_ASSERT_EQUAL(after[0], before[0]);
		if (before[0] == 6)
			CU_ASSERT_EQUAL(after[0], before[1]);
	}
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"domains differ", domains_differ},
		{"load spreads", load_spreads},
		{"free space weighs", free_space_weighs},
		{"down nodes only if needed", down_nodes_only_if_needed},
		{"choices are repeatable", choices_are_repeatable},
		{"a gone gateway moves its own files only",
			a_gone_gateway_moves_its_own_files_only},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd placement", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
