/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What exportd does with the shards of nodes that are out: which ones move, where to, in which
 * order they are to be made, and what becomes of the old copies. After each test the whole metadata
 * is checked (fixture_close()).
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "exportd/clock.h"
#include "exportd/file.h"
#include "exportd/inode.h"
#include "exportd/free_queue.h"
#include "exportd/map.h"
#include "exportd/orphan.h"
#include "exportd/rebuild.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define ROOT RECORD_ROOT_ID
#define OUT_S 60
#define SHARDS 6

static struct fixture fixture;
static uint64_t now_ms;

/* A cluster of so many nodes at 4+2, all up. */
static void open_nodes(uint32_t count)
{
	fixture_open(&fixture, count);
	fixture.config.down_out_interval_s = OUT_S;
	map_set_down_out_interval(fixture.exportd->map, OUT_S);
	now_ms = 1000;
	fixture_all_up(&fixture);
}

static void close_nodes(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* Time passes; all nodes but those in `silent` (bit i: node i) are heard all the time. */
static void pass_time(uint32_t seconds, uint64_t silent)
{
	for (uint32_t i = 0; i < seconds; i++) {
		now_ms += 1000;
		fixture_time_ms(now_ms);
		for (uint32_t node = 1; node <= fixture.config.node_count; node++)
			if (!(silent & (1ull << node)))
				CU_ASSERT_EQUAL(
					fixture_heartbeat(&fixture, node, 1, 1ull << 39), 0);
		CU_ASSERT_EQUAL(map_tick(fixture.exportd->map), 0);
	}
}

static struct rebuild_pass pass(void)
{
	struct rebuild_pass pass;

	CU_ASSERT_EQUAL(rebuild_pass(fixture.exportd, false, NULL, &pass), 0);
	CU_ASSERT_EQUAL(pass.failed, 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	return pass;
}

static struct record_placement placement_of(uint64_t file_id, uint32_t segment)
{
	struct record_placement placement = {0};
	struct kv_txn *txn;

	CU_ASSERT_EQUAL_FATAL(kv_begin(fixture.exportd->kv, KV_READ, NULL, &txn), 0);
	CU_ASSERT_EQUAL_FATAL(
		record_placement_get(txn, FIXTURE_EXPORT, file_id, segment, &placement), 0);
	kv_abort(txn);
	return placement;
}

static uint32_t epoch_of(uint64_t file_id)
{
	struct meta_placement_res placement;

	CU_ASSERT_EQUAL_FATAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	return placement.write_epoch;
}

/* What a node is to make, behind an item (NULL: from the head), and how much is more urgent. */
static uint32_t rebuilds_after(uint32_t node, const struct meta_rebuild_item *after,
	struct meta_rebuild_item *items, uint32_t wanted, uint64_t *before)
{
	struct meta_rebuild_args args = {.node = node, .count = wanted};
	struct meta_rebuild_res result = {0};
	uint32_t count;

	if (after != NULL)
		args.after = *after;

	rebuild_list(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	count = result.items.items_len;
	CU_ASSERT_FATAL(count <= wanted);
	if (count > 0)
		memcpy(items, result.items.items_val, count * sizeof(*items));
	*before = result.before;
	rpc_free(RPC_XDR(xdr_meta_rebuild_res), &result);
	return count;
}

static uint32_t rebuilds(uint32_t node, struct meta_rebuild_item *items, uint32_t wanted)
{
	uint64_t before;
	uint32_t count = rebuilds_after(node, NULL, items, wanted, &before);

	CU_ASSERT_EQUAL(before, 0);
	CU_ASSERT_EQUAL(rebuild_waiting(fixture.exportd, node), count > 0);
	return count;
}

static uint32_t rebuilt(uint32_t node, const struct meta_rebuild_item *item, uint32_t write_epoch)
{
	struct meta_rebuilt_args args = {.node = node, .item = *item, .write_epoch = write_epoch};
	struct meta_status_res result = {0};

	rebuild_done(fixture.exportd, &args, &result);
	return result.status;
}

static uint32_t acknowledged(uint64_t file_id, uint32_t write_epoch)
{
	struct meta_check_epoch_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.write_epoch = write_epoch};
	struct meta_status_res result = {0};

	file_check_epoch(fixture.exportd, &args, &result);
	return result.status;
}

static uint32_t strays; /* among the items that were listed last */

/* Items that a node has to free; all of them are said to be freed if `done`. */
static uint32_t to_free(uint32_t node, bool done)
{
	struct meta_free_args args = {.node = node};
	struct meta_freed_args freed = {.node = node};
	struct meta_free_res result = {0};
	struct meta_status_res status = {0};
	uint64_t sequences[META_FREE_MAX];
	uint32_t count;

	free_queue_list(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	count = result.items.items_len;
	strays = 0;
	for (uint32_t i = 0; i < count; i++) {
		sequences[i] = result.items.items_val[i].sequence;
		strays += result.items.items_val[i].stray;
	}
	rpc_free(RPC_XDR(xdr_meta_free_res), &result);
	freed.sequences.sequences_len = count;
	freed.sequences.sequences_val = sequences;
	if (done && count > 0) {
		free_queue_freed(fixture.exportd, &freed, &status);
		CU_ASSERT_EQUAL(status.status, 0);
	}
	return count;
}

static uint64_t make_file(const char *name)
{
	uint64_t file_id = 0;

	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, name, META_REGULAR, &file_id), 0);
	return file_id;
}

/* The node that is in neither list of a placement on all nodes but one. */
static uint32_t spare_of(const struct record_placement *placement)
{
	for (uint32_t node = 1; node <= fixture.config.node_count; node++) {
		uint32_t s = 0;

		while (s < placement->count && placement->nodes[s] != node)
			s++;
		if (s == placement->count)
			return node;
	}
	CU_FAIL_FATAL("no spare node");
	return 0;
}

static bool is_origin(const struct record_placement *placement, uint32_t i, uint32_t node,
	uint32_t shard, uint32_t since, uint32_t until)
{
	const struct record_origin *origin = &placement->origins[i];

	return i < placement->origin_count && origin->node == node && origin->shard == shard &&
	       origin->since == since && origin->until == until;
}

static void a_shard_moves_and_the_old_copy_stays_until_it_is_made(void)
{
	struct meta_rebuild_item item;
	open_nodes(7);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0), after;
	uint32_t epoch = epoch_of(file_id), spare = spare_of(&before), dead = before.nodes[2];

	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	after = placement_of(file_id, 0);
	for (uint32_t s = 0; s < SHARDS; s++)
		CU_ASSERT_EQUAL(after.nodes[s], s == 2 ? spare : before.nodes[s]);
	CU_ASSERT_EQUAL(after.rebuilding, 1u << 2);
	CU_ASSERT_EQUAL(after.since[2], epoch + 1);
	CU_ASSERT(is_origin(&after, 0, dead, 2, 0, epoch + 1));
	CU_ASSERT_EQUAL(epoch_of(file_id), epoch + 1);
	struct meta_placement_res told;
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.rebuilding, 1u << 2);
	CU_ASSERT_EQUAL(pass().moved, 0);

	/* Nothing is removed before the shard is there, whoever comes back. */
	pass_time(5, 0);
	CU_ASSERT_EQUAL(to_free(dead, true), 0);
	CU_ASSERT_EQUAL_FATAL(rebuilds(spare, &item, 1), 1);
	CU_ASSERT_EQUAL(item.file_id, file_id);
	CU_ASSERT_EQUAL(item.origin, dead);
	CU_ASSERT_EQUAL(item.urgency, 1);
	CU_ASSERT_EQUAL(rebuilt(spare, &item, epoch), EAGAIN);
	CU_ASSERT_EQUAL(acknowledged(file_id, epoch), 0);
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(rebuilt(spare, &item, epoch + 1), 0);
	CU_ASSERT_EQUAL(rebuilds(spare, &item, 1), 0);
	CU_ASSERT_EQUAL(placement_of(file_id, 0).rebuilding, 0);
	/* Who writes as before the move may have found the former node with nothing. */
	CU_ASSERT_EQUAL(acknowledged(file_id, epoch), EAGAIN);
	CU_ASSERT_EQUAL(acknowledged(file_id, epoch + 1), 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	CU_ASSERT_EQUAL(to_free(spare, false), 0);
	CU_ASSERT_EQUAL(to_free(dead, true), 1);
	CU_ASSERT_EQUAL(strays, 1); /* the file goes on without it */
	CU_ASSERT_EQUAL(placement_of(file_id, 0).former_count, 0);
	CU_ASSERT_EQUAL(rebuilt(spare, &item, epoch + 1), 0); /* said twice */
	close_nodes();
}

/* One node after another is lost for good, in the course of years. */
static void shards_are_made_however_many_nodes_are_gone(void)
{
	struct meta_rebuild_item item;
	uint64_t gone = 0;

	open_nodes(36);
	uint64_t file_id = make_file("file");
	for (uint32_t i = 0; i < 30; i++) {
		struct record_placement placement = placement_of(file_id, 0);

		gone |= 1ull << placement.nodes[0];
		pass_time(OUT_S + 5, gone);
		CU_ASSERT_EQUAL(pass().moved, 1);
		placement = placement_of(file_id, 0);
		CU_ASSERT_EQUAL(placement.former_count, i);
		CU_ASSERT_EQUAL_FATAL(rebuilds(placement.nodes[0], &item, 1), 1);
		CU_ASSERT_EQUAL(rebuilt(placement.nodes[0], &item, epoch_of(file_id)), 0);
		CU_ASSERT_EQUAL(placement_of(file_id, 0).rebuilding, 0);
	}
	close_nodes();
}

static void a_node_that_comes_back_in_time_keeps_its_shards(void)
{
	open_nodes(7);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0), after;
	uint64_t silent = 1ull << before.nodes[0];

	for (int i = 0; i < 3; i++) {
		pass_time(OUT_S - 1, silent);
		CU_ASSERT_EQUAL(
			map_node_state(fixture.exportd->map, before.nodes[0]), MAP_NODE_DOWN);
		CU_ASSERT_EQUAL(pass().moved, 0);
		pass_time(1, 0);
	}
	map_set_down_out_interval(fixture.exportd->map, 0);
	pass_time(10 * OUT_S, silent);
	CU_ASSERT_EQUAL(pass().moved, 0);
	after = placement_of(file_id, 0);
	CU_ASSERT_EQUAL(memcmp(&after, &before, sizeof(after)), 0);
	close_nodes();
}

static void being_out_outlives_a_restart(void)
{
	struct map_node nodes[7];

	open_nodes(7);
	make_file("file");
	pass_time(OUT_S + 5, 1ull << 3);
	fixture_reopen(&fixture);
	map_nodes(fixture.exportd->map, nodes);
	CU_ASSERT(nodes[2].out);
	CU_ASSERT(!nodes[3].out);
	/* exportd has heard nobody yet: nothing is moved on that ground. */
	CU_ASSERT_EQUAL(pass().moved, 0);
	pass_time(OUT_S - 5, 1ull << 3 | 1ull << 4);
	map_nodes(fixture.exportd->map, nodes);
	CU_ASSERT(!nodes[3].out);
	pass_time(1, 0);
	map_nodes(fixture.exportd->map, nodes);
	CU_ASSERT(!nodes[2].out);
	close_nodes();
}

static void without_a_spare_node_a_segment_stays_as_it_is(void)
{
	open_nodes(6);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0), after;
	uint32_t epoch = epoch_of(file_id);

	pass_time(OUT_S + 5, 1ull << 3);
	struct rebuild_pass result = pass();
	CU_ASSERT_EQUAL(result.moved, 0);
	CU_ASSERT_EQUAL(result.without_replacement, 1);
	after = placement_of(file_id, 0);
	CU_ASSERT_EQUAL(memcmp(&after, &before, sizeof(after)), 0);
	CU_ASSERT_EQUAL(epoch_of(file_id), epoch);
	close_nodes();
}

static void nothing_moves_while_too_few_complete_shards_are_up(void)
{
	struct meta_rebuild_item item;

	open_nodes(9);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0);
	uint64_t silent =
		1ull << before.nodes[0] | 1ull << before.nodes[1] | 1ull << before.nodes[2];

	pass_time(OUT_S + 5, silent);
	struct rebuild_pass result = pass();
	CU_ASSERT_EQUAL(result.moved, 0);
	CU_ASSERT_EQUAL(result.in_danger, 1);
	/* One comes back: four are complete, and two move. */
	silent &= ~(1ull << before.nodes[1]);
	pass_time(1, silent);
	CU_ASSERT_EQUAL(pass().moved, 2);
	CU_ASSERT_EQUAL(placement_of(file_id, 0).rebuilding, 1u << 0 | 1u << 2);
	/* Another one of the complete ones goes: those being made do not count. */
	silent |= 1ull << before.nodes[3];
	pass_time(OUT_S + 5, silent);
	result = pass();
	CU_ASSERT_EQUAL(result.moved, 0);
	CU_ASSERT_EQUAL(result.in_danger, 1);
	/* It moves when one has been made. */
	struct record_placement now = placement_of(file_id, 0);
	CU_ASSERT_EQUAL_FATAL(rebuilds(now.nodes[0], &item, 1), 1);
	CU_ASSERT_EQUAL(item.urgency, 2);
	CU_ASSERT_EQUAL(rebuilt(now.nodes[0], &item, epoch_of(file_id)), 0);
	CU_ASSERT_EQUAL(pass().moved, 1);
	close_nodes();
}

static void a_replacement_that_goes_out_is_replaced(void)
{
	struct meta_rebuild_item item;

	open_nodes(8);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0), after;
	uint32_t dead = before.nodes[5];

	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	uint32_t first = placement_of(file_id, 0).nodes[5], epoch = epoch_of(file_id);
	pass_time(OUT_S + 5, 1ull << dead | 1ull << first);
	CU_ASSERT_EQUAL(pass().moved, 1);
	after = placement_of(file_id, 0);
	uint32_t second = after.nodes[5];
	CU_ASSERT(second != first && second != dead);
	CU_ASSERT_EQUAL(after.since[5], epoch + 1);
	/* What the first one was sent meanwhile is kept, too. */
	CU_ASSERT_EQUAL_FATAL(after.origin_count, 2);
	CU_ASSERT(is_origin(&after, 0, dead, 5, 0, epoch));
	CU_ASSERT(is_origin(&after, 1, first, 5, epoch, epoch + 1));
	struct meta_placement_res told = {0};
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.switch_epoch, epoch + 1);
	CU_ASSERT_EQUAL(rebuilds(first, &item, 1), 0);
	CU_ASSERT_EQUAL_FATAL(rebuilds(second, &item, 1), 1);
	CU_ASSERT_EQUAL(item.origin, dead);
	CU_ASSERT_EQUAL(to_free(first, true), 0);
	CU_ASSERT_EQUAL(to_free(dead, true), 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	/* As long as they keep it they are not chosen again. */
	pass_time(OUT_S + 5, 1ull << second);
	CU_ASSERT_EQUAL(pass().without_replacement, 1);
	pass_time(5, 0);
	CU_ASSERT_EQUAL(rebuilt(second, &item, epoch + 1), 0);
	CU_ASSERT_EQUAL(to_free(first, true), 1);
	CU_ASSERT_EQUAL(to_free(dead, true), 1);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	pass_time(OUT_S + 5, 1ull << second);
	CU_ASSERT_EQUAL(pass().moved, 1);
	close_nodes();
}

static void a_replacement_that_is_full_is_replaced(void)
{
	struct meta_rebuild_item item;

	open_nodes(9);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0), after;
	uint32_t dead = before.nodes[5], whole = before.nodes[0];

	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	uint32_t first = placement_of(file_id, 0).nodes[5], epoch = epoch_of(file_id);
	pass_time(5, 0);
	CU_ASSERT_EQUAL(pass().moved, 0);
	/* One that has its shard keeps it. */
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, first, 1, 0), 0);
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, whole, 1, 0), 0);
	CU_ASSERT_EQUAL(pass().moved, 1);
	after = placement_of(file_id, 0);
	uint32_t second = after.nodes[5];
	CU_ASSERT(second != first && second != dead);
	CU_ASSERT_EQUAL(after.nodes[0], whole);
	CU_ASSERT_EQUAL(after.rebuilding, 1u << 5);
	CU_ASSERT_EQUAL_FATAL(after.origin_count, 2);
	CU_ASSERT(is_origin(&after, 0, dead, 5, 0, epoch));
	CU_ASSERT(is_origin(&after, 1, first, 5, epoch, epoch + 1));
	CU_ASSERT_EQUAL(rebuilds(first, &item, 1), 0);
	CU_ASSERT_EQUAL_FATAL(rebuilds(second, &item, 1), 1);
	CU_ASSERT_EQUAL(pass().moved, 0);
	/* Without one that has room it waits where it is. */
	for (uint32_t node = 1; node <= 9; node++)
		CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, node, 1, 0), 0);
	struct rebuild_pass last = pass();
	CU_ASSERT_EQUAL(last.moved, 0);
	CU_ASSERT_EQUAL(last.without_replacement, 1);
	CU_ASSERT_EQUAL(placement_of(file_id, 0).nodes[5], second);
	CU_ASSERT_EQUAL(rebuilt(second, &item, epoch + 1), 0);
	CU_ASSERT_EQUAL(to_free(first, true), 1);
	close_nodes();
}

static void the_most_endangered_segments_come_first(void)
{
	static struct meta_rebuild_item items[META_FREE_MAX];
	uint32_t total = 0, urgent = 0;

	open_nodes(12);
	for (int i = 0; i < 200; i++) {
		char name[16];

		snprintf(name, sizeof(name), "file%d", i);
		make_file(name);
	}
	pass_time(OUT_S + 5, 1ull << 1 | 1ull << 2);
	uint64_t moved = pass().moved;
	for (uint32_t node = 1; node <= 12; node++) {
		uint32_t count = rebuilds(node, items, META_FREE_MAX);

		CU_ASSERT(node > 2 ? count > 0 : count == 0); /* all that are left take a share */
		uint32_t first = 0; /* that is less urgent */

		total += count;
		for (uint32_t i = 0; i < count; i++) {
			CU_ASSERT(items[i].urgency == 1 || items[i].urgency == 2);
			CU_ASSERT(i == 0 || items[i].urgency <= items[i - 1].urgency);
			first += items[i].urgency == 2;
		}
		urgent += first;
		if (first < count) {
			struct meta_rebuild_item behind;
			uint64_t before;

			rebuilds_after(node, &items[first], &behind, 1, &before);
			CU_ASSERT_EQUAL(before, first);
			if (first > 0) {
				rebuilds_after(node, &items[0], &behind, 1, &before);
				CU_ASSERT_EQUAL(before, 0);
			}
		}
	}
	CU_ASSERT_EQUAL(total, moved);
	CU_ASSERT(urgent > 0 && urgent < total);
	close_nodes();
}

/* All segments of a file have their shard 0 .. 5 on nodes 1 to 6. */
static uint64_t make_segments_without_node_7(uint32_t count)
{
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, 7, 1, 0), 0);
	uint64_t file_id = make_file("file");

	for (uint32_t i = 1; i < count; i++)
		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, i, 1, NULL, NULL), 0);
	return file_id;
}

static int put_operation(struct kv_txn *txn, void *context)
{
	return record_rebuild_put(txn, context, 1);
}

static int remove_operation(struct kv_txn *txn, void *context)
{
	return record_rebuild_remove(txn, context);
}

static int put_rebuild(struct record_rebuild *entry)
{
	return commit_execute(fixture.exportd->commit, put_operation, entry);
}

static int remove_rebuild(struct record_rebuild *entry)
{
	return commit_execute(fixture.exportd->commit, remove_operation, entry);
}

static void what_cannot_be_made_hides_nothing(void)
{
	static struct meta_rebuild_item items[META_FREE_MAX], others[META_FREE_MAX];
	uint32_t count = META_FREE_MAX + 100;
	uint64_t before;

	open_nodes(7);
	uint64_t file_id = make_segments_without_node_7(count);
	pass_time(OUT_S + 5, 1ull << 1);
	CU_ASSERT_EQUAL(pass().moved, count);
	/* None of the first ones is ever made. */
	CU_ASSERT_EQUAL_FATAL(rebuilds(7, items, META_FREE_MAX), META_FREE_MAX);
	CU_ASSERT_EQUAL(items[0].segment, 0);
	CU_ASSERT_EQUAL_FATAL(
		rebuilds_after(7, &items[META_FREE_MAX - 1], others, META_FREE_MAX, &before), 100);
	CU_ASSERT_EQUAL(before, 0);
	for (uint32_t i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(others[i].segment, META_FREE_MAX + i);
	CU_ASSERT_EQUAL(rebuilds_after(7, &others[99], items, 1, &before), 0);
	/* Behind one that has been made meanwhile. */
	CU_ASSERT_EQUAL(rebuilt(7, &others[50], epoch_of(file_id)), 0);
	CU_ASSERT_EQUAL_FATAL(rebuilds_after(7, &others[50], items, 1, &before), 1);
	CU_ASSERT_EQUAL(items[0].segment, others[51].segment);
	close_nodes();
}

/* An item that is damaged is neither listed nor counted: whoever keeps a place compares the two. */
static void a_damaged_item_does_not_change_the_place(void)
{
	struct meta_rebuild_item items[3] = {{0}}, others[3] = {{0}};
	uint64_t before;

	open_nodes(7);
	uint64_t file_id = make_segments_without_node_7(3);
	pass_time(OUT_S + 5, 1ull << 1);
	CU_ASSERT_EQUAL(pass().moved, 3);
	CU_ASSERT_EQUAL_FATAL(rebuilds(7, items, 3), 3);
	/* As if one segment were in more danger than the others. */
	struct record_rebuild urgent = {.node = 7,
		.urgency = 5,
		.export_id = FIXTURE_EXPORT,
		.file_id = file_id,
		.segment = 9};
	CU_ASSERT_EQUAL(put_rebuild(&urgent), 0);
	rebuilds_after(7, &items[0], others, 3, &before);
	CU_ASSERT_EQUAL(before, 1);
	fixture_flip(&fixture, record_key_rebuild(&urgent));
	rebuilds_after(7, &items[0], others, 3, &before);
	CU_ASSERT_EQUAL(before, 0);
	CU_ASSERT_EQUAL(rebuilds(7, others, 3), 3);
	CU_ASSERT_EQUAL(others[0].segment, items[0].segment);
	CU_ASSERT_EQUAL(remove_rebuild(&urgent), 0);
	close_nodes();
}

static uint32_t returning; /* a node that is heard when there have been more commits than: */
static uint64_t returns_after;

/* Whoever asks for the time after that finds that the node has just come back. */
static uint64_t clock_that_brings_back(enum clock_kind kind)
{
	uint32_t node = returning;

	(void)kind;
	if (node != 0 && commits_of(&fixture) > returns_after) {
		returning = 0;
		CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, node, 1, 1ull << 39), 0);
	}
	return now_ms * 1000000u;
}

static void a_node_that_comes_back_during_a_pass_keeps_the_rest(void)
{
	struct rebuild_pass result;

	open_nodes(7);
	uint64_t file_id = make_segments_without_node_7(100);
	pass_time(OUT_S + 5, 1ull << 1);
	returning = 1;
	returns_after = commits_of(&fixture);
	clock_set_source(clock_that_brings_back);
	CU_ASSERT_EQUAL(rebuild_pass(fixture.exportd, false, NULL, &result), 0);
	CU_ASSERT_EQUAL(returning, 0);
	CU_ASSERT_EQUAL(result.moved, 32);
	CU_ASSERT(result.cut_short);
	for (uint32_t i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(placement_of(file_id, i).rebuilding != 0, i < 32);
	result = pass();
	CU_ASSERT_EQUAL(result.moved, 0);
	CU_ASSERT(!result.cut_short);
	close_nodes();
}

/* Also of a file that cannot be written any more. */
static void shards_of_a_file_without_write_epochs_move(void)
{
	open_nodes(8);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0);

	fixture_set_write_epoch(&fixture, file_id, INODE_WRITE_EPOCH_MAX);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), EOVERFLOW);
	pass_time(OUT_S + 5, 1ull << before.nodes[2]);
	CU_ASSERT_EQUAL(pass().moved, 1);
	CU_ASSERT_EQUAL(epoch_of(file_id), INODE_WRITE_EPOCH_MAX + 1);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), EOVERFLOW);
	close_nodes();
}

static void failure_domains_are_kept(void)
{
	open_nodes(9);
	/* Three racks of three nodes; placements have two of each. */
	for (uint32_t i = 0; i < 9; i++)
		snprintf(fixture.config.nodes[i].failure_domain, 6, "rack%u", i / 3);
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	uint64_t file_ids[20];
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "file%d", i);
		file_ids[i] = make_file(name);
	}
	pass_time(OUT_S + 5, 1ull << 4);
	CU_ASSERT(pass().moved > 0);
	for (int i = 0; i < 20; i++) {
		struct record_placement placement = placement_of(file_ids[i], 0);
		uint32_t held[3] = {0};

		for (uint32_t s = 0; s < SHARDS; s++)
			held[(placement.nodes[s] - 1) / 3]++;
		CU_ASSERT(held[0] == 2 && held[1] == 2 && held[2] == 2);
	}
	close_nodes();
}

static void a_file_removed_meanwhile_is_freed_everywhere(void)
{
	struct meta_rebuild_item item;

	open_nodes(7);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0);
	uint32_t dead = before.nodes[0], spare = spare_of(&before);

	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	CU_ASSERT_EQUAL_FATAL(rebuilds(spare, &item, 1), 1);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "file", NULL), 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	CU_ASSERT_EQUAL(rebuilt(spare, &item, 99), 0);
	for (uint32_t node = 1; node <= 7; node++) {
		CU_ASSERT_EQUAL(to_free(node, true), 1);
		CU_ASSERT_EQUAL(strays, 0);
	}
	CU_ASSERT_EQUAL(pass().moved, 0);
	close_nodes();
}

/* -------- store files that nobody needs -------- */

static bool sure;

static uint32_t verdict(uint32_t node, uint32_t export_id, uint64_t file_id, uint32_t segment,
	uint64_t *filesystem_id)
{
	struct meta_orphan file = {.export_id = export_id, .file_id = file_id, .segment = segment};
	struct meta_orphans_args args = {
		.node = node, .sure = sure, .files = {.files_len = 1, .files_val = &file}};
	struct meta_orphans_res result = {0};

	orphan_judge(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	CU_ASSERT_EQUAL_FATAL(result.verdicts.verdicts_len, 1);
	uint32_t verdict = result.verdicts.verdicts_val[0];
	*filesystem_id = result.filesystem_ids.filesystem_ids_val[0];
	rpc_free(RPC_XDR(xdr_meta_orphans_res), &result);
	return verdict;
}

static void only_what_is_surely_gone_is_an_orphan(void)
{
	struct meta_rebuild_item item;
	uint64_t id;

	open_nodes(7);
	uint64_t file_id = make_file("file"), removed = make_file("removed");
	struct record_placement before = placement_of(file_id, 0);
	uint32_t spare = spare_of(&before), dead = before.nodes[4];

	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(id, fixture.exportd->exports[0].filesystem_id);
	CU_ASSERT_EQUAL(verdict(spare, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_STRAY);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "removed", NULL), 0);
	CU_ASSERT_EQUAL(verdict(1, FIXTURE_EXPORT, removed, 0, &id), META_ORPHAN_GONE);
	/* Another export; a segment without a placement. */
	CU_ASSERT_EQUAL(verdict(1, FIXTURE_EXPORT + 1, removed, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(id, 0);
	CU_ASSERT_EQUAL(verdict(1, FIXTURE_EXPORT, file_id, 7, &id), META_ORPHAN_KEEP);

	/* The old copy of a shard that is being made elsewhere is needed. */
	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(verdict(spare, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL_FATAL(rebuilds(spare, &item, 1), 1);
	CU_ASSERT_EQUAL(rebuilt(spare, &item, epoch_of(file_id)), 0);
	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT(to_free(dead, true) >= 1);
	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_STRAY);
	/* Said to be sure, it is removed, and not chosen before that is done. */
	CU_ASSERT_EQUAL(to_free(dead, false), 0);
	sure = true;
	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_STRAY);
	CU_ASSERT_EQUAL(verdict(dead, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(
		verdict(before.nodes[0], FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	sure = false;
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	pass_time(OUT_S + 5, 1ull << spare);
	CU_ASSERT_EQUAL(pass().without_replacement, 1);
	CU_ASSERT_EQUAL(to_free(dead, true), 1);
	CU_ASSERT_EQUAL(pass().moved, 1);
	CU_ASSERT_EQUAL(placement_of(file_id, 0).nodes[4], dead);
	/* Not given out by this database: then it is an older copy, and knows nothing for sure. */
	CU_ASSERT_EQUAL(verdict(99, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_STRAY);
	CU_ASSERT_EQUAL(verdict(1, FIXTURE_EXPORT, removed + 1, 0, &id), META_ORPHAN_KEEP);
	CU_ASSERT_EQUAL(verdict(99, FIXTURE_EXPORT, file_id, 0, &id), META_ORPHAN_KEEP);
	close_nodes();
}

static void the_cluster_tells_what_is_left_to_do(void)
{
	struct meta_cluster_res result = {0};

	open_nodes(7);
	uint64_t file_id = make_file("file");
	struct record_placement before = placement_of(file_id, 0);
	uint32_t spare = spare_of(&before), dead = before.nodes[1];

	pass_time(OUT_S + 5, 1ull << dead);
	CU_ASSERT_EQUAL(pass().moved, 1);
	rebuild_cluster(fixture.exportd, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	CU_ASSERT_EQUAL_FATAL(result.nodes.nodes_len, 7);
	CU_ASSERT_EQUAL(result.down_out_interval_s, OUT_S);
	for (uint32_t i = 0; i < 7; i++) {
		const struct meta_node_status *node = &result.nodes.nodes_val[i];

		CU_ASSERT_EQUAL(node->id, i + 1);
		CU_ASSERT_EQUAL(node->state, node->id == dead ? META_NODE_OUT : META_NODE_UP);
		CU_ASSERT_EQUAL(node->rebuild_waiting, node->id == spare);
		CU_ASSERT(node->id == dead ? node->silent_ms >= OUT_S * 1000
					   : node->silent_ms < 2000);
		CU_ASSERT_EQUAL(node->devices, 1);
	}
	rpc_free(RPC_XDR(xdr_meta_cluster_res), &result);
	close_nodes();
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"a shard moves and the old copy stays until it is made",
			a_shard_moves_and_the_old_copy_stays_until_it_is_made},
		{"shards are made however many nodes are gone",
			shards_are_made_however_many_nodes_are_gone},
		{"a node that comes back in time keeps its shards",
			a_node_that_comes_back_in_time_keeps_its_shards},
		{"being out outlives a restart", being_out_outlives_a_restart},
		{"without a spare node a segment stays as it is",
			without_a_spare_node_a_segment_stays_as_it_is},
		{"nothing moves while too few complete shards are up",
			nothing_moves_while_too_few_complete_shards_are_up},
		{"a replacement that goes out is replaced",
			a_replacement_that_goes_out_is_replaced},
		{"a replacement that is full is replaced", a_replacement_that_is_full_is_replaced},
		{"the most endangered segments come first",
			the_most_endangered_segments_come_first},
		{"what cannot be made hides nothing", what_cannot_be_made_hides_nothing},
		{"a damaged item does not change the place",
			a_damaged_item_does_not_change_the_place},
		{"a node that comes back during a pass keeps the rest",
			a_node_that_comes_back_during_a_pass_keeps_the_rest},
		{"shards of a file without write epochs move",
			shards_of_a_file_without_write_epochs_move},
		{"failure domains are kept", failure_domains_are_kept},
		{"a file removed meanwhile is freed everywhere",
			a_file_removed_meanwhile_is_freed_everywhere},
		{"only what is surely gone is an orphan", only_what_is_surely_gone_is_an_orphan},
		{"the cluster tells what is left to do", the_cluster_tells_what_is_left_to_do},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"rebuild", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
