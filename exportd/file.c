/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A file's attributes and size, where its segments are, and which gateways serve it.
 *
 * Operations first ask a read transaction; only if something must change do they go through the
 * group commit, where everything is looked at again. Takes no locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/file.h"
#include "exportd/inode.h"
#include "exportd/map.h"
#include "exportd/placement.h"
#include "exportd/reply_cache.h"
#include "exportd/written.h"
#include "rpc/log.h"

struct file_call {
	struct exportd *exportd;
	const struct exportd_export *export;
	const void *args;
	void *result;
	struct file_nodes nodes; /* if the operation chooses among them */
	bool may_write; /* in a write transaction */
	bool must_write; /* set by the operation: to be done again with may_write */
};

/* -------- setattr -------- */

static int file_set_size(const struct meta_file *file, uint64_t size, struct record_inode *inode)
{
	int error;

	if (inode->type != META_REGULAR)
		return inode->type == META_DIRECTORY ? -EISDIR : -EINVAL;
	if (size > inode->size) {
		inode->size = size;
		return 0;
	}
	error = inode_next_write_epoch(
		file->export_id, file->file_id, inode, INODE_WRITE_EPOCH_MAX);
	if (error != 0)
		return error;
	/* Of two truncations that wait, the shorter has to be carried out. */
	if (!inode->truncate_pending || size < inode->truncate_size)
		inode->truncate_size = size;
	inode->truncate_pending = true;
	inode->valid_epoch = inode->write_epoch;
	inode->size = size;
	return 0;
}

static int setattr_operation(struct kv_txn *txn, void *context)
{
	struct file_call *call = context;
	const struct meta_setattr_args *args = call->args;
	struct meta_setattr_res *result = call->result;
	struct record_time now = inode_now();
	struct record_inode inode;
	int error;

	error = inode_load(txn, args->file.export_id, args->file.file_id, &inode);
	if (error != 0)
		return error;
	if (args->set.mask & META_SET_SIZE) {
		error = file_set_size(&args->file, args->set.size, &inode);
		if (error != 0)
			return error;
		inode.modify_time = now;
	}
	inode_changed(&inode, now);
	inode_apply_set(&inode, &args->set, now);
	error = record_inode_put(txn, args->file.export_id, args->file.file_id, &inode);
	if (error == 0 && (args->set.mask & META_SET_SIZE) && inode.truncate_pending)
		error = record_truncation_put(
			txn, args->file.export_id, args->file.file_id, inode.write_epoch);
	if (error != 0)
		return error;
	inode_attributes(call->export, args->file.file_id, &inode, &result->attributes);
	result->truncate = (args->set.mask & META_SET_SIZE) && inode.truncate_pending;
	result->truncate_size = inode.truncate_size;
	result->write_epoch = inode.write_epoch;
	return 0;
}

void file_setattr(struct exportd *exportd, const struct meta_setattr_args *args,
	struct meta_setattr_res *result)
{
	struct file_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	struct reply_cache_call once = {
		.slot = &args->slot,
		.procedure = META_SETATTR,
		.result_xdr = RPC_XDR(xdr_meta_setattr_res),
		.result = result,
		.operation = setattr_operation,
		.context = &call,
	};
	int error = call.export != NULL ? inode_check_set(call.export, &args->set) : -ESTALE;

	if (error == 0)
		error = commit_execute(exportd->commit, reply_cache_execute, &once);
	if (error > 0)
		error = 0; /* it had been done before */
	if (error == 0)
		inode_attributes_told(exportd, args->file.export_id, &result->attributes);
	result->status = (uint32_t)-error;
}

static int truncated_operation(struct kv_txn *txn, void *context)
{
	struct file_call *call = context;
	const struct meta_truncated_args *args = call->args;
	struct record_inode inode;
	int error;

	error = inode_load_regular(txn, args->file.export_id, args->file.file_id, &inode);
	if (error != 0)
		return error;
	if (!inode.truncate_pending)
		return 0;
	/*
	 * Another truncation or another gateway came, and the truncation will be done again under
	 * its epoch: what is written now would be lost.
	 */
	if (inode.write_epoch != args->write_epoch)
		return -EAGAIN;
	if (!call->may_write) {
		call->must_write = true;
		return 0;
	}
	inode.truncate_pending = false;
	inode.truncate_size = 0;
	error = record_truncation_remove(txn, args->file.export_id, args->file.file_id);
	if (error != 0 && error != -ENOENT) /* databases of before had no such records */
		return error;
	return record_inode_put(txn, args->file.export_id, args->file.file_id, &inode);
}

/* Reads, and if that shows that something must change, does it in the group commit. */
static int file_execute(struct file_call *call, commit_operation operation)
{
	int error = exportd_read(call->exportd, operation, call);

	if (error != 0 || !call->must_write)
		return error;
	call->may_write = true;
	return commit_execute(call->exportd->commit, operation, call);
}

void file_truncated(struct exportd *exportd, const struct meta_truncated_args *args,
	struct meta_status_res *result)
{
	struct file_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	int error = call.export != NULL ? file_execute(&call, truncated_operation) : -ESTALE;

	result->status = (uint32_t)-error;
}

/* -------- written -------- */

static int written_operation(struct kv_txn *txn, void *context)
{
	struct file_call *call = context;
	const struct meta_written_args *args = call->args;
	struct meta_attributes_res *result = call->result;
	struct record_time now = inode_now();
	struct record_inode inode;
	int error;

	error = inode_load_regular(txn, args->file.export_id, args->file.file_id, &inode);
	if (error != 0)
		return error;
	/* Bytes from before a truncation are gone: they must not make the file grow again. */
	if (args->write_epoch != 0 && args->write_epoch < inode.write_epoch)
		return -EAGAIN;
	if (call->may_write) {
		if (args->size > inode.size)
			inode.size = args->size;
		inode_modified(&inode, now);
		if (args->set_time)
			inode.modify_time = (struct record_time){
				.seconds = args->modify_time.seconds,
				.nanoseconds = args->modify_time.nanoseconds,
			};
		error = record_inode_put(txn, args->file.export_id, args->file.file_id, &inode);
		if (error != 0)
			return error;
	} else {
		/* A gateway's report since the last LAYOUTCOMMIT has made the times durable. */
		call->must_write = !args->durable_before || args->size > inode.size ||
				   !written_take(call->exportd->written, args->file.export_id,
					   args->file.file_id);
	}
	inode_attributes(call->export, args->file.file_id, &inode, &result->attributes);
	return 0;
}

void file_written(struct exportd *exportd, const struct meta_written_args *args,
	struct meta_attributes_res *result)
{
	struct file_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	uint32_t asked = written_ask(exportd->written, args->file.export_id, args->file.file_id);
	int error = 0;

	if (call.export == NULL)
		error = -ESTALE;
	else if (args->size > call.export->file_bytes_max)
		error = -EFBIG;
	else if (args->set_time && args->modify_time.nanoseconds >= 1000000000u)
		error = -EINVAL;
	else
		error = file_execute(&call, written_operation);
	if (error == 0 && !args->durable_before)
		written_note(exportd->written, args->file.export_id, args->file.file_id, asked);
	result->status = (uint32_t)-error;
}

static int check_epoch_operation(struct kv_txn *txn, void *context)
{
	const struct file_call *call = context;
	const struct meta_check_epoch_args *args = call->args;
	struct record_inode inode;
	int error;

	error = inode_load_regular(txn, args->file.export_id, args->file.file_id, &inode);
	if (error != 0)
		return error;
	/* A truncation that waits is carried out under the newest epoch. */
	uint32_t valid = inode.truncate_pending ? inode.write_epoch : inode.valid_epoch;
	return args->write_epoch < valid ? -EAGAIN : 0;
}

void file_check_epoch(struct exportd *exportd, const struct meta_check_epoch_args *args,
	struct meta_status_res *result)
{
	struct file_call call = {.args = args};
	int error = exportd_export(exportd, args->file.export_id) == NULL
			    ? -ESTALE
			    : exportd_read(exportd, check_epoch_operation, &call);

	result->status = (uint32_t)-error;
}

/* -------- placement -------- */

int file_nodes_get(struct exportd *exportd, struct file_nodes *nodes)
{
	nodes->count = map_node_count(exportd->map);
	nodes->nodes = calloc(nodes->count, sizeof(*nodes->nodes));
	if (nodes->nodes == NULL)
		return -ENOMEM;
	map_nodes(exportd->map, nodes->nodes);
	return 0;
}

void file_nodes_free(struct file_nodes *nodes)
{
	free(nodes->nodes);
	nodes->nodes = NULL;
}

int file_place(struct kv_txn *txn, const struct exportd_export *export,
	const struct file_nodes *nodes, uint64_t file_id, uint32_t segment,
	struct record_inode *inode, struct record_placement *placement)
{
	int error;

	*placement = (struct record_placement){.count = export->shards};
	error = placement_choose(nodes->nodes, nodes->count, export->config->id, file_id, segment,
		export->shards, placement->nodes);
	if (error == -ENOSPC)
		rozo_log_limited(ERROR,
			"export %" PRIu32 " \"%s\": protection %u+%u needs %" PRIu32
			" storage nodes, the cluster has %zu: add nodes to the configuration",
			export->config->id, export->config->name, export->config->code.k,
			export->config->code.m, export->shards, nodes->count);
	if (error != 0)
		return error;
	if (inode->segment_count <= segment)
		inode->segment_count = segment + 1;
	return record_placement_put(txn, export->config->id, file_id, segment, placement);
}

int file_first_gateway(const struct exportd_export *export, const struct file_nodes *nodes,
	uint64_t file_id, const struct record_placement *placement, uint32_t *gateway)
{
	uint32_t *healthy = calloc(nodes->count, sizeof(*healthy));
	size_t count;

	if (healthy == NULL)
		return -ENOMEM;
	count = placement_healthy(
		nodes->nodes, nodes->count, placement->nodes, placement->count, NULL, 0, healthy);
	if (count == 0) {
		/* Nobody is up (yet). META_LAYOUT chooses again if this one stays away. */
		memcpy(healthy, placement->nodes, placement->count * sizeof(*healthy));
		count = placement->count;
	}
	placement_order(healthy, count, export->config->id, file_id, 0);
	*gateway = healthy[0];
	free(healthy);
	return 0;
}

static int note_segment(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)value;
	*(uint32_t *)context = record_key_u32(key, RECORD_PREFIX_FILE);
	return 1;
}

/* The first segment from there on that has nodes, or META_SEGMENTS_MAX. Returns 0 or an error. */
static int next_segment(
	struct kv_txn *txn, const struct meta_file *file, uint32_t segment, uint32_t *next)
{
	struct record_key from = record_key_placement(file->export_id, file->file_id, segment);
	int result;

	*next = META_SEGMENTS_MAX;
	result = kv_scan(txn, record_key_bytes(&from), RECORD_PREFIX_FILE, note_segment, next);
	return result < 0 ? result : 0;
}

/*
 * Stores have heard of a write epoch that this database does not know: it is an older copy. Nothing
 * can be written, or known to be the newest, under an epoch that stores call old. Who has unstable
 * bytes cannot tell what has become of them.
 */
static int catch_up(
	struct kv_txn *txn, const struct meta_placement_args *args, struct record_inode *inode)
{
	if (args->met_epoch >= RECORD_WRITE_EPOCH_MAX)
		return -EOVERFLOW;
	rozo_log_limited(WARNING,
		"file %" PRIu64 " in export %" PRIu32
		": storage nodes know its write epoch %" PRIu32 ", newer than %" PRIu32
		": the metadata was restored from a backup. The file goes on with what the nodes "
		"have; its size is as old as the backup",
		(uint64_t)args->file.file_id, args->file.export_id, args->met_epoch,
		inode->write_epoch);
	/*
	 * Each layout epoch came with a write epoch: as many may have been told. Under them nothing
	 * is to be written any more, and gateways that know them take older ones for over.
	 */
	inode->layout_epoch += args->met_epoch + 1 - inode->write_epoch;
	/* A truncation that waits has to be newer than anything there is. */
	inode->write_epoch = args->met_epoch + 1;
	inode->valid_epoch = inode->write_epoch;
	return record_inode_put(txn, args->file.export_id, args->file.file_id, inode);
}

/*
 * Whether a segment has had nodes: the first one has since the file was made, and of the highest
 * one the inode tells. A record that is not found, since a bit of its key has flipped, is not to be
 * taken for a hole, or be made anew: the file would be read as zeros.
 */
static bool must_be_placed(const struct record_inode *inode, uint32_t segment)
{
	return segment == 0 || segment + 1 == inode->segment_count;
}

static int placement_operation(struct kv_txn *txn, void *context)
{
	struct file_call *call = context;
	const struct meta_placement_args *args = call->args;
	struct meta_placement_res *result = call->result;
	const struct config_export *config = call->export->config;
	struct record_placement placement;
	struct record_inode inode;
	bool claimed = false;
	int error;

	error = inode_load_regular(txn, args->file.export_id, args->file.file_id, &inode);
	if (error != 0)
		return error;
	if (args->met_epoch > inode.write_epoch) {
		if (!call->may_write) {
			call->must_write = true;
			return 0;
		}
		error = catch_up(txn, args, &inode);
		if (error != 0)
			return error;
	}
	error = record_placement_get(
		txn, args->file.export_id, args->file.file_id, args->segment, &placement);
	if (error == -ENOENT && must_be_placed(&inode, args->segment)) {
		rozo_log_limited(ERROR,
			"metadata database: file %" PRIu64 " in export %" PRIu32
			" has no placement of its segment %" PRIu32,
			(uint64_t)args->file.file_id, args->file.export_id, args->segment);
		return -EIO;
	}
	if (error == -ENOENT && args->allocate) {
		if (!call->may_write) {
			call->must_write = true;
			return 0;
		}
		error = file_place(txn, call->export, &call->nodes, args->file.file_id,
			args->segment, &inode, &placement);
		if (error == 0)
			error = record_inode_put(
				txn, args->file.export_id, args->file.file_id, &inode);
	} else if (error == -ENOENT) {
		/* So that nobody has to ask for each segment of a hole. */
		error = next_segment(txn, &args->file, args->segment, &result->next_segment);
		return error != 0 ? error : -ENOENT;
	}
	/* Each writer has an epoch of its own, but for those that have learnt of it since. */
	if (error == 0 && args->writer != 0 && !call->may_write) {
		claimed = claims_take(call->exportd->claims, args->file.export_id,
			args->file.file_id, inode.write_epoch, args->writer);
		if (!claimed && !args->if_free) {
			call->must_write = true;
			return 0;
		}
	}
	if (error == 0 && args->writer != 0 && !args->if_free && call->may_write) {
		claimed = true;
		error = inode_next_write_epoch(
			args->file.export_id, args->file.file_id, &inode, INODE_WRITE_EPOCH_MAX);
		if (error == 0)
			error = record_inode_put(
				txn, args->file.export_id, args->file.file_id, &inode);
	}
	if (error != 0)
		return error;
	*result = (struct meta_placement_res){
		.layout_epoch = inode.layout_epoch,
		.write_epoch = inode.write_epoch,
		.claimed = claimed,
		.write_gateway = inode.write_gateway,
		.truncate = inode.truncate_pending,
		.truncate_size = inode.truncate_size,
		.form = config->code.form,
		.k = config->code.k,
		.m = config->code.m,
		.row_bytes = config->row_bytes,
		.min_shards = config->min_shards,
		.segment_blocks = call->export->segment_blocks,
		.segment_count = inode.segment_count,
		.rebuilding = placement.rebuilding,
		.switch_epoch = placement.switch_epoch,
	};
	inode_attributes(call->export, args->file.file_id, &inode, &result->attributes);
	result->nodes.nodes_val = calloc(placement.count, sizeof(uint32_t));
	if (result->nodes.nodes_val == NULL)
		return -ENOMEM;
	result->nodes.nodes_len = placement.count;
	memcpy(result->nodes.nodes_val, placement.nodes, placement.count * sizeof(uint32_t));
	if (placement.rebuilding == 0)
		return 0;
	result->since.since_val = calloc(placement.count, sizeof(uint32_t));
	result->origins.origins_val = calloc(RECORD_SHARDS_MAX, sizeof(meta_origin));
	if (result->since.since_val == NULL || result->origins.origins_val == NULL)
		return -ENOMEM;
	result->since.since_len = placement.count;
	memcpy(result->since.since_val, placement.since, placement.count * sizeof(uint32_t));
	result->origins.origins_len = placement.origin_count;
	for (uint32_t i = 0; i < placement.origin_count; i++)
		result->origins.origins_val[i] = (meta_origin){.node = placement.origins[i].node,
			.shard = placement.origins[i].shard,
			.since = placement.origins[i].since,
			.until = placement.origins[i].until};
	return 0;
}

void file_placement(struct exportd *exportd, const struct meta_placement_args *args,
	struct meta_placement_res *result)
{
	struct file_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	int error = 0;

	if (call.export == NULL)
		error = -ESTALE;
	else if (args->segment >= META_SEGMENTS_MAX)
		error = -EFBIG;
	else if (args->allocate)
		error = file_nodes_get(exportd, &call.nodes);
	if (error == 0)
		error = file_execute(&call, placement_operation);
	file_nodes_free(&call.nodes);
	if (error == 0 && result->claimed && call.may_write)
		claims_note(exportd->claims, args->file.export_id, args->file.file_id,
			result->write_epoch, args->writer);
	if (error != 0) {
		free(result->nodes.nodes_val);
		result->nodes.nodes_val = NULL;
		result->nodes.nodes_len = 0;
	}
	result->status = (uint32_t)-error;
}

/* -------- layout -------- */

#define LAYOUT_READERS 3 /* gateways that a reader is told of */

static const struct map_node *nodes_find(const struct file_nodes *nodes, uint32_t id)
{
	size_t i;

	for (i = 0; i < nodes->count; i++)
		if (nodes->nodes[i].id == id)
			return &nodes->nodes[i];
	return NULL;
}

static bool layout_avoids(const struct meta_layout_args *args, uint32_t node)
{
	uint32_t i;

	for (i = 0; i < args->avoid.avoid_len; i++)
		if (args->avoid.avoid_val[i] == node)
			return true;
	return false;
}

/* Notes in the inode by whom the layout is given out, if it does not say so. */
static int layout_note(struct kv_txn *txn, struct file_call *call, struct record_inode *inode)
{
	const struct meta_layout_args *args = call->args;

	if (!inode_layout_given(txn, args->file.export_id, inode))
		return 0;
	if (!call->may_write) {
		call->must_write = true;
		return 0;
	}
	return record_inode_put(txn, args->file.export_id, args->file.file_id, inode);
}

/* The write gateway: the recorded one if this client can use it, else a new one, recorded. */
static int layout_write(struct kv_txn *txn, struct file_call *call, struct record_inode *inode,
	uint32_t *healthy, size_t healthy_count, struct meta_layout_res *result)
{
	const struct meta_layout_args *args = call->args;
	const struct map_node *recorded = nodes_find(&call->nodes, inode->write_gateway);
	uint32_t before = inode->write_gateway;
	int error;

	result->gateways.gateways_len = 1;
	result->gateways.gateways_val[0] = inode->write_gateway;
	if (recorded != NULL && !layout_avoids(args, recorded->id)) {
		if (recorded->state == MAP_NODE_UP)
			return layout_note(txn, call, inode);
		/* exportd has just started: the gateway may well be there. */
		if (recorded->state == MAP_NODE_UNHEARD)
			return -EAGAIN;
	}
	if (healthy_count == 0)
		return -EAGAIN;
	if (!call->may_write) {
		call->must_write = true;
		return 0;
	}
	placement_order(healthy, healthy_count, args->file.export_id, args->file.file_id, 0);
	error = inode_next_write_epoch(
		args->file.export_id, args->file.file_id, inode, INODE_WRITE_EPOCH_MAX);
	if (error != 0)
		return error;
	inode->layout_epoch++;
	inode->write_gateway = healthy[0];
	inode_layout_given(txn, args->file.export_id, inode);
	error = record_inode_put(txn, args->file.export_id, args->file.file_id, inode);
	if (error != 0)
		return error;
	result->gateways.gateways_val[0] = inode->write_gateway;
	rozo_log_limited(INFO,
		"file %" PRIu64 " in export %" PRIu32 ": write gateway moves from node %" PRIu32
		" to node %" PRIu32 ", layout epoch %" PRIu32,
		args->file.file_id, args->file.export_id, before, inode->write_gateway,
		inode->layout_epoch);
	return 0;
}

/* Whoever has a layout of before does not write under it any more. The write gateway stays. */
static int layout_revoke(struct kv_txn *txn, struct file_call *call, struct record_inode *inode,
	struct meta_layout_res *result)
{
	const struct meta_layout_args *args = call->args;
	int error;

	result->gateways.gateways_len = 1;
	result->gateways.gateways_val[0] = inode->write_gateway;
	if (!call->may_write) {
		call->must_write = true;
		return 0;
	}
	error = inode_next_write_epoch(
		args->file.export_id, args->file.file_id, inode, INODE_WRITE_EPOCH_MAX);
	if (error != 0)
		return error;
	inode->layout_epoch++;
	inode->valid_epoch = inode->write_epoch;
	/* It may have written what no LAYOUTCOMMIT will tell of: others must not go on with what
	 * they have in their caches. */
	inode_changed(inode, inode_now());
	return record_inode_put(txn, args->file.export_id, args->file.file_id, inode);
}

/* Up to LAYOUT_READERS gateways for a reader, by rendezvous hash with the client. */
static int layout_read(const struct file_call *call, const struct record_inode *inode,
	uint32_t *healthy, size_t healthy_count, struct meta_layout_res *result)
{
	const struct meta_layout_args *args = call->args;
	uint32_t *gateways = result->gateways.gateways_val;
	uint32_t count = 0;
	size_t i;

	if (healthy_count == 0)
		return -EAGAIN;
	placement_order(
		healthy, healthy_count, args->file.export_id, args->file.file_id, args->client);
	/* While there are writers, only the write gateway surely has their newest bytes. */
	if (args->writers) {
		const struct map_node *node = nodes_find(&call->nodes, inode->write_gateway);

		if (node != NULL && node->state == MAP_NODE_UP && !layout_avoids(args, node->id))
			gateways[count++] = node->id;
	}
	for (i = 0; i < healthy_count && count < LAYOUT_READERS; i++)
		if (count == 0 || healthy[i] != gateways[0])
			gateways[count++] = healthy[i];
	result->gateways.gateways_len = count;
	return 0;
}

static int layout_operation(struct kv_txn *txn, void *context)
{
	struct file_call *call = context;
	const struct meta_layout_args *args = call->args;
	struct meta_layout_res *result = call->result;
	struct record_placement placement;
	struct record_inode inode;
	size_t healthy_count;
	uint32_t *healthy;
	int error;

	error = inode_load_regular(txn, args->file.export_id, args->file.file_id, &inode);
	if (error == 0 && args->iomode == META_LAYOUT_REVOKE) {
		error = layout_revoke(txn, call, &inode, result);
		result->layout_epoch = inode.layout_epoch;
		return error;
	}
	if (error == 0)
		error = record_placement_get(
			txn, args->file.export_id, args->file.file_id, 0, &placement);
	if (error == -ENOENT) {
		rozo_log_limited(ERROR,
			"metadata database: file %" PRIu64 " in export %" PRIu32
			" has no placement of its first segment",
			args->file.file_id, args->file.export_id);
		error = -EIO;
	}
	if (error != 0)
		return error;
	healthy = calloc(call->nodes.count + placement.count, sizeof(*healthy));
	if (healthy == NULL)
		return -ENOMEM;
	healthy_count = placement_healthy(call->nodes.nodes, call->nodes.count, placement.nodes,
		placement.count, args->avoid.avoid_val, args->avoid.avoid_len, healthy);
	error = args->iomode == META_LAYOUT_RW
			? layout_write(txn, call, &inode, healthy, healthy_count, result)
			: layout_read(call, &inode, healthy, healthy_count, result);
	result->layout_epoch = inode.layout_epoch;
	free(healthy);
	return error;
}

void file_layout(struct exportd *exportd, const struct meta_layout_args *args,
	struct meta_layout_res *result)
{
	struct file_call call = {
		.exportd = exportd,
		.export = exportd_export(exportd, args->file.export_id),
		.args = args,
		.result = result,
	};
	int error = 0;

	if (call.export == NULL)
		error = -ESTALE;
	else if (args->iomode < META_LAYOUT_READ || args->iomode > META_LAYOUT_REVOKE)
		error = -EINVAL;
	else
		error = file_nodes_get(exportd, &call.nodes);
	if (error == 0) {
		result->gateways.gateways_val = calloc(4, sizeof(uint32_t));
		error = result->gateways.gateways_val != NULL ? 0 : -ENOMEM;
	}
	if (error == 0)
		error = file_execute(&call, layout_operation);
	file_nodes_free(&call.nodes);
	if (error != 0) {
		free(result->gateways.gateways_val);
		result->gateways.gateways_val = NULL;
		result->gateways.gateways_len = 0;
	}
	result->status = (uint32_t)-error;
}
