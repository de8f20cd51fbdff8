/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Deferred freeing. An item lies under its sequence number, with the nodes that still have to act,
 * and under each of these nodes, so that one node's work is one scan. Takes no locks.
 */
#include <errno.h>
#include <stdlib.h>

#include "exportd/free_queue.h"
#include "exportd/record.h"

/* -------- adding -------- */

#define SEGMENTS_AT_ONCE 64

struct segment_batch {
	uint32_t count;
	uint32_t segments[SEGMENTS_AT_ONCE];
	struct record_placement placements[SEGMENTS_AT_ONCE];
};

static int collect_segment(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct segment_batch *batch = context;
	int result;

	result = record_placement_decode(key, value, &batch->placements[batch->count]);
	if (result != 0)
		return result;
	batch->segments[batch->count++] = record_key_u32(key, RECORD_PREFIX_FILE);
	return batch->count == SEGMENTS_AT_ONCE ? 1 : 0;
}

/* Puts an item under its sequence number and under each of its nodes. */
static int add_item(struct kv_txn *txn, uint64_t sequence, const struct record_free *item)
{
	int result = record_free_put(txn, sequence, item);

	for (uint32_t i = 0; result == 0 && i < item->count; i++)
		result = record_free_node_put(txn, item->nodes[i], sequence, item);
	return result;
}

/* Takes a segment that goes out of the lists of what is to be made. */
static int drop_rebuilds(struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment,
	const struct record_placement *placement)
{
	int result = 0;

	for (uint32_t s = 0; s < placement->count && result == 0; s++) {
		struct record_rebuild entry = {.node = placement->nodes[s],
			.urgency = (uint8_t)placement->urgency,
			.export_id = export_id,
			.file_id = file_id,
			.segment = segment};

		if (placement->rebuilding & (1u << s))
			result = record_rebuild_remove(txn, &entry);
		if (result == -ENOENT)
			result = 0;
	}
	return result;
}

static int add_segment(struct kv_txn *txn, uint64_t *sequence, uint32_t export_id, uint64_t file_id,
	uint32_t segment, const struct record_placement *placement)
{
	struct record_key key = record_key_placement(export_id, file_id, segment);
	struct record_free item = {
		.export_id = export_id,
		.segment = segment,
		.file_id = file_id,
		.count = placement->count,
	};
	uint32_t i;
	int result;

	for (i = 0; i < placement->count; i++)
		item.nodes[i] = placement->nodes[i];
	result = kv_remove(txn, record_key_bytes(&key));
	if (result == 0)
		result = drop_rebuilds(txn, export_id, file_id, segment, placement);
	if (result == 0)
		result = add_item(txn, (*sequence)++, &item);
	/* Nodes that were out may have old copies; formers have items of their own already. */
	item.count = 0;
	for (i = 0; i < placement->origin_count; i++)
		item.nodes[item.count++] = placement->origins[i].node;
	if (result == 0 && item.count > 0)
		result = add_item(txn, (*sequence)++, &item);
	return result;
}

int free_queue_add_node(
	struct kv_txn *txn, uint32_t export_id, uint64_t file_id, uint32_t segment, uint32_t node)
{
	struct record_free item = {.export_id = export_id,
		.segment = segment,
		.file_id = file_id,
		.stray = true,
		.count = 1,
		.nodes = {node}};
	struct record_counters counters;
	int result = record_counters_get(txn, &counters);

	if (result != 0)
		return result == -ENOENT ? -EIO : result;
	result = add_item(txn, counters.next_free_sequence++, &item);
	return result == 0 ? record_counters_put(txn, &counters) : result;
}

int free_queue_add_file(struct kv_txn *txn, uint32_t export_id, uint64_t file_id)
{
	struct record_key first = record_key_placement(export_id, file_id, 0);
	struct record_counters counters;
	struct segment_batch batch;
	uint32_t i;
	int result;

	result = record_counters_get(txn, &counters);
	if (result != 0)
		return result == -ENOENT ? -EIO : result;
	do {
		batch.count = 0;
		result = kv_scan(
			txn, record_key_bytes(&first), RECORD_PREFIX_FILE, collect_segment, &batch);
		if (result < 0)
			return result;
		for (i = 0; i < batch.count; i++) {
			result = add_segment(txn, &counters.next_free_sequence, export_id, file_id,
				batch.segments[i], &batch.placements[i]);
			if (result != 0)
				return result;
		}
	} while (batch.count == SEGMENTS_AT_ONCE);
	return record_counters_put(txn, &counters);
}

/*
 * An item as it lies under a node or, if that is damaged, under its sequence number, where the same
 * is said. Returns 0, or -EIO if both are damaged.
 */
static int item_of_node(
	struct kv_txn *txn, struct kv_bytes key, struct kv_bytes value, struct record_free *item)
{
	int result = record_free_decode(key, value, item);

	if (result != 0)
		result = record_free_get(txn, record_key_u64(key, RECORD_PREFIX_NODE), item);
	return result == 0 ? 0 : -EIO;
}

/* -------- listing -------- */

struct list_call {
	struct kv_txn *txn;
	uint32_t node;
	uint64_t first; /* sequence */
	uint32_t wanted;
	uint32_t count;
	struct meta_free_item *items; /* NULL: only count */
};

static int list_item(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct list_call *call = context;
	struct record_free item;

	if (item_of_node(call->txn, key, value, &item) != 0)
		return 0; /* named in the log; the others are not held up */
	if (call->items != NULL)
		call->items[call->count] = (struct meta_free_item){
			.sequence = record_key_u64(key, RECORD_PREFIX_NODE),
			.export_id = item.export_id,
			.file_id = item.file_id,
			.segment = item.segment,
			.stray = item.stray,
		};
	call->count++;
	return call->count == call->wanted ? 1 : 0;
}

static int list_operation(struct kv_txn *txn, void *context)
{
	struct list_call *call = context;
	struct record_key first = record_key_free_node(call->node, call->first);
	int result;

	call->txn = txn;
	result = kv_scan(txn, record_key_bytes(&first), RECORD_PREFIX_NODE, list_item, call);
	return result > 0 ? 0 : result;
}

int free_queue_waiting(struct exportd *exportd, uint32_t node)
{
	struct list_call call = {.node = node, .wanted = 1};
	int result = exportd_read(exportd, list_operation, &call);

	return result != 0 ? result : (int)call.count;
}

static int find_stray(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct list_call *call = context;
	struct record_free item;

	if (item_of_node(call->txn, key, value, &item) != 0)
		return 0;
	call->count = item.stray;
	return item.stray;
}

static int strays_operation(struct kv_txn *txn, void *context)
{
	struct list_call *call = context;
	struct record_key first = record_key_free_node(call->node, 0);
	int result;

	call->txn = txn;
	result = kv_scan(txn, record_key_bytes(&first), RECORD_PREFIX_NODE, find_stray, call);
	return result > 0 ? 0 : result;
}

int free_queue_strays(struct exportd *exportd, uint32_t node)
{
	struct list_call call = {.node = node};
	int result = exportd_read(exportd, strays_operation, &call);

	return result != 0 ? result : (int)call.count;
}

void free_queue_list(
	struct exportd *exportd, const struct meta_free_args *args, struct meta_free_res *result)
{
	struct list_call call = {.node = args->node, .first = args->first, .wanted = META_FREE_MAX};
	int error;

	call.items = calloc(META_FREE_MAX, sizeof(*call.items));
	if (call.items == NULL) {
		result->status = ENOMEM;
		return;
	}
	error = exportd_read(exportd, list_operation, &call);
	result->status = (uint32_t)-error;
	if (error != 0 || call.count == 0) {
		free(call.items);
		return;
	}
	result->items.items_len = call.count;
	result->items.items_val = call.items;
}

/* -------- freed -------- */

/* If the item's file is still there, the node may be chosen for the segment again. */
static int forget_former(struct kv_txn *txn, uint32_t node, const struct record_free *item)
{
	struct record_placement placement;
	uint32_t left = 0;
	int result = record_placement_get(
		txn, item->export_id, item->file_id, item->segment, &placement);

	/* Nobody chooses nodes for a segment whose placement is damaged. */
	if (result != 0 || placement.former_count == 0)
		return result == -ENOENT || result == -EIO ? 0 : result;
	for (uint32_t i = 0; i < placement.former_count; i++)
		if (placement.formers[i] != node)
			placement.formers[left++] = placement.formers[i];
	placement.former_count = left;
	return record_placement_put(txn, item->export_id, item->file_id, item->segment, &placement);
}

static int freed_one(struct kv_txn *txn, uint32_t node, uint64_t sequence)
{
	struct record_key by_node = record_key_free_node(node, sequence);
	struct record_key by_sequence = record_key_free(sequence);
	struct record_free item;
	struct kv_bytes value;
	uint32_t i, left = 0;
	int result;

	result = kv_get(txn, record_key_bytes(&by_node), &value);
	if (result != 0)
		return result == -ENOENT ? 0 : result;
	if (item_of_node(txn, record_key_bytes(&by_node), value, &item) == 0)
		result = forget_former(txn, node, &item);
	if (result == 0)
		result = kv_remove(txn, record_key_bytes(&by_node));
	if (result != 0)
		return result;
	result = record_free_get(txn, sequence, &item);
	if (result == -EIO || result == -ENOENT)
		return 0; /* it lies under the nodes that have not freed it yet */
	if (result != 0)
		return result;
	for (i = 0; i < item.count; i++)
		if (item.nodes[i] != node)
			item.nodes[left++] = item.nodes[i];
	item.count = left;
	return left > 0 ? record_free_put(txn, sequence, &item)
			: kv_remove(txn, record_key_bytes(&by_sequence));
}

static int freed_operation(struct kv_txn *txn, void *context)
{
	const struct meta_freed_args *args = context;
	uint32_t i;
	int result = 0;

	for (i = 0; result == 0 && i < args->sequences.sequences_len; i++)
		result = freed_one(txn, args->node, args->sequences.sequences_val[i]);
	return result;
}

void free_queue_freed(
	struct exportd *exportd, const struct meta_freed_args *args, struct meta_status_res *result)
{
	int error = commit_execute(exportd->commit, freed_operation, (void *)args);

	result->status = (uint32_t)-error;
}

/* -------- an older database -------- */

#define STRAYS_AT_ONCE 64

struct strays {
	struct kv_txn *txn;
	uint32_t count;
	uint32_t nodes[STRAYS_AT_ONCE];
	uint64_t sequences[STRAYS_AT_ONCE];
};

static int collect_stray(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct strays *strays = context;
	struct record_free item;

	if (item_of_node(strays->txn, key, value, &item) != 0 || !item.stray)
		return 0;
	strays->nodes[strays->count] = record_key_u32(key, RECORD_PREFIX_KIND);
	strays->sequences[strays->count++] = record_key_u64(key, RECORD_PREFIX_NODE);
	return strays->count == STRAYS_AT_ONCE ? 1 : 0;
}

int free_queue_forget_strays(struct kv_txn *txn)
{
	struct record_key from = record_key_free_node(0, 0);
	struct strays strays = {.txn = txn};
	int result;

	do {
		strays.count = 0;
		result = kv_scan(
			txn, record_key_bytes(&from), RECORD_PREFIX_KIND, collect_stray, &strays);
		if (result < 0)
			return result;
		for (uint32_t i = 0; i < strays.count; i++) {
			int error = freed_one(txn, strays.nodes[i], strays.sequences[i]);

			if (error != 0)
				return error;
			from = record_key_free_node(strays.nodes[i], strays.sequences[i] + 1);
		}
	} while (result > 0);
	return 0;
}
