/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See truncation.h. With each question the records are compared with those of the question before:
 * one that is the same has been waiting since then. Very many are looked at page by page, so that
 * those that cannot be carried out do not hide the others. truncations.lock guards the table, and
 * is held while the records are read.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/clock.h"
#include "exportd/exportd.h"
#include "exportd/file.h"
#include "exportd/placement.h"
#include "exportd/truncation.h"

/* Longer than carrying one out takes while nodes are down; after that, or in vain, it is told
 * again. */
#define WAIT_NS (10 * UINT64_C(1000000000))
/* A page stays for so long: until its truncations are due, and then until every node has asked. */
#define PAGE_NS (3 * WAIT_NS)
/* For so long it is one node's; then another one's, since the first may not reach the stores. */
#define NODE_NS (6 * WAIT_NS)
#define WAITING_MAX META_FREE_MAX /* in a page */

struct waiting {
	uint64_t file_id;
	uint64_t since_ns; /* or told to a node then */
	uint32_t export_id;
	uint32_t write_epoch;
};

struct truncations {
	pthread_mutex_t lock;
	/* The page: when it was begun, and the key that it begins with. */
	uint64_t page_ns;
	uint64_t first_file_id;
	uint32_t first_export_id;
	uint32_t count;
	struct waiting waiting[WAITING_MAX]; /* as sorted in the database */
};

struct truncations *truncations_create(void)
{
	struct truncations *truncations = calloc(1, sizeof(*truncations));

	if (truncations != NULL)
		pthread_mutex_init(&truncations->lock, NULL);
	return truncations;
}

void truncations_destroy(struct truncations *truncations)
{
	if (truncations == NULL)
		return;
	pthread_mutex_destroy(&truncations->lock);
	free(truncations);
}

static int note_file(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)value;
	*(struct meta_file *)context =
		(struct meta_file){.export_id = record_key_u32(key, RECORD_PREFIX_KIND),
			.file_id = record_key_u64(key, RECORD_PREFIX_EXPORT)};
	return 1;
}

int truncation_forget_all(struct kv_txn *txn)
{
	struct record_key all = record_key_truncation(0, 0);
	struct record_inode inode;
	struct meta_file file;
	int result;

	while ((result = kv_scan(
			txn, record_key_bytes(&all), RECORD_PREFIX_KIND, note_file, &file)) == 1) {
		int error = record_truncation_remove(txn, file.export_id, file.file_id);

		if (error != 0)
			return error;
		error = record_inode_get(txn, file.export_id, file.file_id, &inode);
		if (error == -ENOENT || error == -EIO)
			continue; /* damaged: named in the log */
		inode.truncate_pending = false;
		inode.truncate_size = 0;
		if (error == 0)
			error = record_inode_put(txn, file.export_id, file.file_id, &inode);
		if (error != 0)
			return error;
	}
	return result;
}

struct scan {
	struct record_key from;
	uint64_t now_ns;
	const struct waiting *before;
	uint32_t before_count, before_next;
	struct waiting *waiting;
	uint32_t count;
};

/* In the order of the keys. */
static int compare(const struct waiting *a, const struct waiting *b)
{
	if (a->export_id != b->export_id)
		return a->export_id < b->export_id ? -1 : 1;
	return a->file_id < b->file_id ? -1 : a->file_id > b->file_id;
}

static int scan_one(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct scan *scan = context;
	struct waiting found = {.since_ns = scan->now_ns};

	if (record_truncation_decode(key, value, &found.write_epoch) != 0)
		return 0; /* named in the log; the others are not held up */
	found.export_id = record_key_u32(key, RECORD_PREFIX_KIND);
	found.file_id = record_key_u64(key, RECORD_PREFIX_EXPORT);
	while (scan->before_next < scan->before_count &&
		compare(&scan->before[scan->before_next], &found) < 0)
		scan->before_next++;
	if (scan->before_next < scan->before_count) {
		const struct waiting *before = &scan->before[scan->before_next];

		if (compare(before, &found) == 0 && before->write_epoch == found.write_epoch)
			found.since_ns = before->since_ns;
	}
	scan->waiting[scan->count++] = found;
	return scan->count == WAITING_MAX ? 1 : 0;
}

static int scan_operation(struct kv_txn *txn, void *context)
{
	const struct scan *scan = context;
	int result =
		kv_scan(txn, record_key_bytes(&scan->from), RECORD_PREFIX_KIND, scan_one, context);

	return result > 0 ? 0 : result;
}

/* Goes on behind a page that has stayed for long enough. One that is not full is the last one: then
 * from the beginning. */
static void turn_page(struct truncations *truncations, uint64_t now_ns)
{
	if (now_ns - truncations->page_ns < PAGE_NS)
		return;
	truncations->page_ns = now_ns;
	truncations->first_export_id = 0;
	truncations->first_file_id = 0;
	if (truncations->count == WAITING_MAX) {
		const struct waiting *last = &truncations->waiting[WAITING_MAX - 1];

		truncations->first_export_id = last->export_id;
		truncations->first_file_id = last->file_id + 1;
	}
}

/* Brings the table up to date. The caller holds the lock. Returns 0, -ENOMEM or an error of the
 * store. */
static int update(struct exportd *exportd, uint64_t now_ns)
{
	struct truncations *truncations = exportd->truncations;
	struct waiting *found = calloc(WAITING_MAX, sizeof(*found));
	struct scan scan = {.now_ns = now_ns,
		.before = truncations->waiting,
		.before_count = truncations->count,
		.waiting = found};
	int error;

	if (found == NULL)
		return -ENOMEM;
	turn_page(truncations, now_ns);
	scan.from = record_key_truncation(truncations->first_export_id, truncations->first_file_id);
	error = exportd_read(exportd, scan_operation, &scan);
	if (error == 0) {
		memcpy(truncations->waiting, found, scan.count * sizeof(*found));
		truncations->count = scan.count;
	}
	free(found);
	return error;
}

/* One node that is up for each file at a time, so that not all of them do the same. */
static bool is_for(const struct file_nodes *nodes, const struct waiting *waiting, uint32_t node,
	uint64_t now_ns)
{
	uint64_t best = 0;
	uint32_t chosen = 0;

	for (size_t i = 0; i < nodes->count; i++) {
		uint64_t draw = placement_hash(waiting->export_id,
			waiting->file_id + now_ns / NODE_NS, nodes->nodes[i].id);

		if (nodes->nodes[i].state == MAP_NODE_UP && (chosen == 0 || draw > best)) {
			best = draw;
			chosen = nodes->nodes[i].id;
		}
	}
	return chosen == node;
}

/*
 * Those that have waited for long enough and that a node is to carry out; files: room for
 * WAITING_MAX, or NULL to be told only whether there are any. Returns how many, or an error.
 */
static int due(struct exportd *exportd, uint32_t node, struct meta_file *files)
{
	struct truncations *truncations = exportd->truncations;
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_MONOTONIC);
	struct file_nodes nodes = {0};
	int count = 0, error;

	pthread_mutex_lock(&truncations->lock);
	error = update(exportd, now_ns);
	if (error == 0 && truncations->count > 0)
		error = file_nodes_get(exportd, &nodes);
	for (uint32_t i = 0; error == 0 && i < truncations->count; i++) {
		struct waiting *waiting = &truncations->waiting[i];

		if (now_ns - waiting->since_ns < WAIT_NS || !is_for(&nodes, waiting, node, now_ns))
			continue;
		if (files != NULL) {
			files[count] = (struct meta_file){
				.export_id = waiting->export_id, .file_id = waiting->file_id};
			waiting->since_ns = now_ns;
		}
		count++;
	}
	pthread_mutex_unlock(&truncations->lock);
	file_nodes_free(&nodes);
	return error != 0 ? error : count;
}

int truncation_waiting(struct exportd *exportd, uint32_t node)
{
	int count = due(exportd, node, NULL);

	return count > 0 ? 1 : count;
}

void truncation_list(struct exportd *exportd, const struct meta_truncations_args *args,
	struct meta_truncations_res *result)
{
	struct meta_file *files = calloc(WAITING_MAX, sizeof(*files));
	int count = files != NULL ? due(exportd, args->node, files) : -ENOMEM;

	result->status = count < 0 ? (uint32_t)-count : 0;
	if (count <= 0) {
		free(files);
		return;
	}
	result->files.files_len = (uint32_t)count;
	result->files.files_val = files;
}
