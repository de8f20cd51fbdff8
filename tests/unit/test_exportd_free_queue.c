/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Deferred freeing: what a removed file leaves in the queue, and how it leaves the queue.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "exportd/free_queue.h"
#include "exportd/record.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define ROOT RECORD_ROOT_ID

static struct fixture fixture;

static void open_fixture(void)
{
	fixture_open(&fixture, 6);
	fixture_all_up(&fixture);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* Items of a node from a sequence on. Returns their number. */
static uint32_t list_from(uint32_t node, uint64_t first, struct meta_free_item *items)
{
	struct meta_free_args args = {.node = node, .first = first};
	struct meta_free_res result = {0};
	uint32_t count;

	free_queue_list(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL_FATAL(result.status, 0);
	count = result.items.items_len;
	if (count > 0)
		memcpy(items, result.items.items_val, count * sizeof(*items));
	rpc_free(RPC_XDR(xdr_meta_free_res), &result);
	return count;
}

/* All items of a node, as far as they fit into one list. */
static uint32_t list(uint32_t node, struct meta_free_item *items)
{
	uint32_t count = list_from(node, 0, items);

	CU_ASSERT_EQUAL(free_queue_waiting(fixture.exportd, node), count > 0);
	return count;
}

static void freed(uint32_t node, uint64_t *sequences, uint32_t count)
{
	struct meta_freed_args args = {
		.node = node,
		.sequences = {.sequences_len = count, .sequences_val = sequences},
	};
	struct meta_status_res result = {0};

	free_queue_freed(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
}

static void a_removed_file_is_freed_by_every_node(void)
{
	struct meta_free_item items[META_FREE_MAX] = {0};
	uint32_t node, segment;
	uint64_t file_id, sequences[3];

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "file", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 1, 1, NULL, NULL), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 2, 1, NULL, NULL), 0);
	CU_ASSERT_EQUAL(do_link(&fixture, file_id, ROOT, "other"), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "file", NULL), 0);
	CU_ASSERT_EQUAL(list(1, items), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "other", NULL), 0);
	fixture_reopen(&fixture);
	for (node = 1; node <= 6; node++) {
		CU_ASSERT_EQUAL(list(node, items), 3);
		CU_ASSERT_EQUAL(items[0].stray, 0);
		for (segment = 0; segment < 3; segment++) {
			CU_ASSERT_EQUAL(items[segment].segment, segment);
			CU_ASSERT_EQUAL(items[segment].file_id, file_id);
			CU_ASSERT_EQUAL(items[segment].export_id, FIXTURE_EXPORT);
			sequences[segment] = items[segment].sequence;
		}
	}
	/* One node at a time, one item first; twice does no harm. */
	freed(1, sequences, 1);
	freed(1, sequences, 1);
	CU_ASSERT_EQUAL(list(1, items), 2);
	CU_ASSERT_EQUAL(list(2, items), 3);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	for (node = 1; node <= 6; node++) {
		freed(node, sequences, 3);
		CU_ASSERT_EQUAL(list(node, items), 0);
		CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	}
	freed(9, sequences, 3);
	/* Nothing of the queue is left in the store. */
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "file", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "new", META_REGULAR, NULL), 0);
	CU_ASSERT_EQUAL(do_rename(&fixture, ROOT, "new", ROOT, "file", NULL), 0);
	CU_ASSERT_EQUAL(list(1, items), 1);
	CU_ASSERT_EQUAL(items[0].file_id, file_id);
	CU_ASSERT(items[0].sequence > sequences[2]);
}

static void long_queues_come_in_pieces(void)
{
	struct meta_free_item items[META_FREE_MAX];
	uint64_t sequences[META_FREE_MAX], file_id;
	uint32_t i, count, total = 0;

	/* One file of many segments: more than a list holds, and than one batch. */
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "file", META_REGULAR, &file_id), 0);
	for (i = 1; i < META_FREE_MAX + 100; i++)
		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, i, 1, NULL, NULL), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "file", NULL), 0);
	CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
	/* What cannot be removed does not hide what is behind it. */
	CU_ASSERT_EQUAL_FATAL(list(4, items), META_FREE_MAX);
	CU_ASSERT_EQUAL(list_from(4, items[META_FREE_MAX - 1].sequence, items), 101);
	CU_ASSERT_EQUAL(items[0].segment, META_FREE_MAX - 1);
	CU_ASSERT_EQUAL(list_from(4, items[0].sequence + 1, items), 100);
	CU_ASSERT_EQUAL(items[0].segment, META_FREE_MAX);
	CU_ASSERT_EQUAL(list_from(4, items[99].sequence + 1, items), 0);
	while ((count = list(4, items)) > 0) {
		for (i = 0; i < count; i++) {
			CU_ASSERT_EQUAL(items[i].segment, total + i);
			sequences[i] = items[i].sequence;
		}
		total += count;
		freed(4, sequences, count);
	}
	CU_ASSERT_EQUAL(total, META_FREE_MAX + 100);
}

static int add_stray(struct kv_txn *txn, void *context)
{
	return free_queue_add_node(txn, FIXTURE_EXPORT, *(const uint64_t *)context, 0, 1);
}

static int remove_item(struct kv_txn *txn, void *context)
{
	uint64_t sequence = *(const uint64_t *)context;
	struct record_key key = record_key_free(sequence);
	int result = kv_remove(txn, record_key_bytes(&key));

	for (uint32_t node = 1; node <= 6 && (result == 0 || result == -ENOENT); node++) {
		key = record_key_free_node(node, sequence);
		result = kv_remove(txn, record_key_bytes(&key));
	}
	return result == -ENOENT ? 0 : result;
}

/* An item that is damaged is read where it lies once more, and hides no other. */
static void damage_is_confined(void)
{
	struct meta_free_item items[META_FREE_MAX] = {0};
	uint64_t damaged, other, stray = 999, sequences[3];

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "damaged", META_REGULAR, &damaged), 0);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "other", META_REGULAR, &other), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "damaged", NULL), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "other", NULL), 0);
	CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, add_stray, &stray), 0);
	CU_ASSERT_EQUAL_FATAL(list(1, items), 3);
	for (uint32_t i = 0; i < 3; i++)
		sequences[i] = items[i].sequence;
	/* The node's copies of two items: the others have the same contents. */
	fixture_flip(&fixture, record_key_free_node(1, sequences[0]));
	fixture_flip(&fixture, record_key_free_node(1, sequences[2]));
	CU_ASSERT_EQUAL_FATAL(list(1, items), 3);
	CU_ASSERT_EQUAL(items[0].file_id, damaged);
	CU_ASSERT_EQUAL(items[2].file_id, stray);
	CU_ASSERT_EQUAL(items[2].stray, 1);
	CU_ASSERT_EQUAL(free_queue_strays(fixture.exportd, 1), 1);
	freed(1, &sequences[2], 1);
	CU_ASSERT_EQUAL(free_queue_strays(fixture.exportd, 1), 0);
	/* Both: the item is left out, and the rest goes on. */
	fixture_flip(&fixture, record_key_free(sequences[0]));
	CU_ASSERT_EQUAL_FATAL(list(1, items), 1);
	CU_ASSERT_EQUAL(items[0].file_id, other);
	CU_ASSERT_EQUAL(free_queue_strays(fixture.exportd, 1), 0);
	CU_ASSERT_EQUAL_FATAL(list(2, items), 2);
	freed(2, sequences, 2);
	CU_ASSERT_EQUAL(list(2, items), 0);
	freed(1, &sequences[1], 1);
	CU_ASSERT_EQUAL(list(1, items), 0);
	CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, remove_item, &sequences[0]), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"a removed file is freed by every node", a_removed_file_is_freed_by_every_node},
		{"long queues come in pieces", long_queues_come_in_pieces},
		{"damage is confined", damage_is_confined},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd free queue", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
