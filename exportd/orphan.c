/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * META_ORPHANS: which store files of a node nobody needs. In doubt they are kept. Only a file whose
 * id this database has given out, and which is not there any more, is gone for good. Of a file that
 * is there, a segment's copy on a node that the placement does not know is a stray. An id that is
 * still to be given out tells that this database is an older copy (file_ids.h). Takes no locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "exportd/file_ids.h"
#include "exportd/free_queue.h"
#include "exportd/orphan.h"
#include "exportd/record.h"
#include "rpc/log.h"

struct orphan_call {
	struct exportd *exportd;
	const struct meta_orphans_args *args;
	struct meta_orphans_res *result;
	bool may_write; /* in a write transaction */
	bool must_write; /* set by the operation: to be done again with may_write */
};

static bool placement_names(const struct record_placement *placement, uint32_t node)
{
	if (record_placement_keeps(placement, node))
		return true;
	for (uint32_t i = 0; i < placement->former_count; i++)
		if (placement->formers[i] == node)
			return true; /* the free queue sees to it */
	return false;
}

static uint32_t judge(struct kv_txn *txn, uint32_t node, const struct meta_orphan *file)
{
	struct record_allocation allocation;
	struct record_placement placement;
	struct record_inode inode;
	int inode_error, placement_error;

	if (record_allocation_get(txn, file->export_id, &allocation) != 0 ||
		file->file_id >= allocation.next_file_id ||
		record_skipped_has(txn, file->export_id, file->file_id) != 0)
		return META_ORPHAN_KEEP;
	inode_error = record_inode_get(txn, file->export_id, file->file_id, &inode);
	placement_error = record_placement_get(
		txn, file->export_id, file->file_id, file->segment, &placement);
	if (inode_error == -ENOENT && placement_error == -ENOENT)
		return META_ORPHAN_GONE;
	/* Shards may have moved since the copy of the database was made that is in use now. */
	if (inode_error == 0 && placement_error == 0 && !placement_names(&placement, node) &&
		record_skipped_since(txn, file->export_id, file->file_id) == 0)
		return META_ORPHAN_STRAY;
	return META_ORPHAN_KEEP;
}

/*
 * Has the node remove a copy that the placement does not know. Through the free queue: as long as
 * it has not, the segment must not be given to this node.
 */
static int remove_stray(struct kv_txn *txn, uint32_t node, const struct meta_orphan *file)
{
	struct record_placement placement;
	int error = record_placement_get(
		txn, file->export_id, file->file_id, file->segment, &placement);

	if (error != 0 || placement.former_count == RECORD_FORMERS_MAX)
		return error;
	placement.formers[placement.former_count++] = node;
	error = free_queue_add_node(txn, file->export_id, file->file_id, file->segment, node);
	if (error != 0)
		return error;
	return record_placement_put(txn, file->export_id, file->file_id, file->segment, &placement);
}

/* Has a store file whose id was not given out yet keep its id for itself. */
static int pass_over(struct orphan_call *call, struct kv_txn *txn, const struct meta_orphan *file)
{
	struct record_allocation allocation;

	if (file->file_id >= FILE_IDS_END ||
		record_allocation_get(txn, file->export_id, &allocation) != 0 ||
		file->file_id < allocation.next_file_id)
		return 0;
	if (!call->may_write) {
		call->must_write = true;
		return 0;
	}
	rozo_log(WARNING,
		"node %" PRIu32 " has a store file of file %" PRIu32 "/%" PRIu64
		", whose id this metadata never gave out: it is older than what the nodes have. "
		"Files made since the copy that it is have been lost, and new ones may have been "
		"given their ids before this was noticed: see \"Restoring\" in operations.md",
		call->args->node, file->export_id, (uint64_t)file->file_id);
	return file_ids_skip(txn, file->export_id, file->file_id);
}

static int orphans_operation(struct kv_txn *txn, void *context)
{
	struct orphan_call *call = context;
	int error = 0;

	for (uint32_t i = 0; i < call->args->files.files_len; i++) {
		const struct meta_orphan *file = &call->args->files.files_val[i];
		const struct exportd_export *export =
			exportd_export(call->exportd, file->export_id);

		if (export == NULL)
			continue; /* taken out of the configuration, perhaps for a while */
		error = pass_over(call, txn, file);
		if (error != 0)
			return error;
		call->result->filesystem_ids.filesystem_ids_val[i] = export->filesystem_id;
		call->result->verdicts.verdicts_val[i] = judge(txn, call->args->node, file);
		if (call->args->sure && call->result->verdicts.verdicts_val[i] == META_ORPHAN_STRAY)
			error = remove_stray(txn, call->args->node, file);
		if (error != 0)
			return error;
	}
	return 0;
}

void orphan_judge(struct exportd *exportd, const struct meta_orphans_args *args,
	struct meta_orphans_res *result)
{
	struct orphan_call call = {.exportd = exportd, .args = args, .result = result};
	uint32_t count = args->files.files_len;
	int error = 0;

	if (count == 0)
		return;
	/* META_ORPHAN_KEEP is 0 */
	result->verdicts.verdicts_val = calloc(count, sizeof(uint32_t));
	result->filesystem_ids.filesystem_ids_val = calloc(count, sizeof(uint64_t));
	if (result->verdicts.verdicts_val == NULL ||
		result->filesystem_ids.filesystem_ids_val == NULL)
		error = -ENOMEM;
	else if (!args->sure)
		error = exportd_read(exportd, orphans_operation, &call);
	if (error == 0 && (args->sure || call.must_write)) {
		call.may_write = true;
		error = commit_execute(exportd->commit, orphans_operation, &call);
	}
	result->status = (uint32_t)-error;
	if (error != 0) {
		free(result->verdicts.verdicts_val);
		free(result->filesystem_ids.filesystem_ids_val);
		result->verdicts.verdicts_val = NULL;
		result->filesystem_ids.filesystem_ids_val = NULL;
		return;
	}
	result->verdicts.verdicts_len = count;
	result->filesystem_ids.filesystem_ids_len = count;
}
