/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * STORE_WRITE: new versions of a run of blocks.
 *
 * All blocks are judged before anything is written. A new version goes to the side that does not
 * hold the newest committed one, so committed bytes are never overwritten; rows are written before
 * the pages whose records point to them. Holds the file's lock exclusively, but not while flushing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "storaged/store_internal.h"
#include "storaged/store_procedures.h"

/* What to do with one block. */
struct plan {
	const uint8_t *shard;
	uint8_t side; /* where the new version goes */
	bool skip; /* the same version is there already, sound */
	bool committed; /* the version being repaired was known to be decided */
	int8_t commit_side; /* the base that becomes COMMITTED first, -1: none */
};

struct write_call {
	const store_write_args *args;
	struct shard_file *file;
	struct store_shape shape;
	struct store_pages pages;
	struct plan *plans;
	uint64_t changes; /* to wait for, if stable */
	bool overwrites; /* each block takes the place of one that is as long here */
	bool replaces; /* a block takes the very place of a version that is not decided */
	bool begun; /* to be carried out */
	bool recorded; /* records were begun to be written: the version may be here in part */
};

/* What can be told without the file. Returns 0 or -EINVAL, having said why. */
static int check_args(const store_write_args *args, struct write_call *call)
{
	uint32_t count = args->blocks.blocks_len;
	const uint8_t *shard = (const uint8_t *)args->payload.payload_val;
	uint64_t left = args->payload.payload_len;
	const char *wrong = NULL;

	if (store_shape_init(&call->shape, &args->file, &args->geometry, args->shard) != 0)
		wrong = "geometry or shard out of range";
	else if (count == 0 || count > STORE_BLOCKS_MAX ||
		 args->first_block >= store_shape_blocks_max(&call->shape) - count)
		wrong = "blocks out of range";
	else if (args->block_version.generation == 0 || args->exact_base > STORE_BASE_UNDECIDED)
		wrong = "no version, or unknown exact_base";
	for (uint32_t i = 0; i < count && wrong == NULL; i++) {
		const store_write_block *block = &args->blocks.blocks_val[i];

		if (block->length_bytes > (uint64_t)call->shape.code.k * call->shape.row_bytes ||
			(block->length_bytes == 0) != (block->shard_bytes == 0) ||
			block->shard_bytes > call->shape.row_bytes + call->shape.tail_bytes ||
			block->shard_bytes > left)
			wrong = "a block's length or shard does not fit the geometry or the "
				"payload";
		else if (args->exact_base &&
			 store_version_compare(block->base, args->block_version) >= 0)
			wrong = "a base is not older than the version";
		else if (rozo_crc32c(shard, block->shard_bytes) !=
			 (block->shard_bytes == 0 ? 0 : block->crc32c))
			wrong = "a shard's bytes do not agree with its CRC";
		call->plans[i] = (struct plan){.shard = shard, .commit_side = -1};
		shard += block->shard_bytes;
		left -= block->shard_bytes;
	}
	if (wrong == NULL && left != 0)
		wrong = "more payload than shards";
	if (wrong == NULL)
		return 0;
	rozo_log_limited(WARNING,
		"write of export %u file %" PRIx64 " segment %u from block %" PRIu64 " refused: %s",
		args->file.export_id, (uint64_t)args->file.file_id, args->file.segment,
		(uint64_t)args->first_block, wrong);
	return -EINVAL;
}

/* The version is there already: sound, or to be written again. Returns 0, -EAGAIN or -errno. */
static int plan_same(struct write_call *call, uint32_t i, struct store_pair *pair, bool refused)
{
	const store_write_block *block = &call->args->blocks.blocks_val[i];
	unsigned int side = (unsigned int)pair->newest;
	struct store_record_fields *record = &pair->records[side];
	struct plan *plan = &call->plans[i];
	uint8_t *buffer;
	int error = 0;

	if (record->length_bytes != block->length_bytes ||
		record->shard_bytes != block->shard_bytes ||
		record->crc32c != (block->shard_bytes == 0 ? 0 : block->crc32c)) {
		rozo_log_limited(ERROR,
			"%s: block %" PRIu64 ": two different shards under one version %" PRIx64
			".%" PRIx64,
			shard_file_name(call->file, side), call->args->first_block + i,
			(uint64_t)record->version.generation, (uint64_t)record->version.writer);
		return -EAGAIN;
	}
	plan->side = (uint8_t)side;
	plan->committed = record->committed;
	plan->skip = true;
	if (record->shard_bytes == 0)
		return 0;
	buffer = malloc(record->shard_bytes);
	if (buffer == NULL)
		return -ENOMEM;
	error = store_shard_read(call->file, call->args->first_block + i, side, pair->pages[side],
		record, buffer, NULL);
	free(buffer);
	if (error == -EBADMSG || error == -EIO) {
		plan->skip = false;
		/* Who was promised that it is not written was told that it is not here. */
		error = refused ? -EAGAIN : 0;
	}
	return error;
}

static bool is_listed(
	const store_decided *runs, uint32_t count, uint64_t block, store_version version)
{
	for (uint32_t i = 0; i < count; i++) {
		if (block >= runs[i].first_block && block - runs[i].first_block < runs[i].count &&
			store_version_compare(runs[i].block_version, version) == 0)
			return true;
	}
	return false;
}

/* True if the version being written is known to be decided: other nodes have it, this one should.
 */
static bool is_repair(const store_write_args *args, uint64_t block)
{
	return is_listed(
		args->commits.commits_val, args->commits.commits_len, block, args->block_version);
}

/* True if somebody was promised that this version will not be written here any more. */
static bool is_refused(const struct shard_file *file, store_version version)
{
	return store_version_compare(version, file->refused) <= 0;
}

/*
 * True if the newest version here, which is not committed, may be replaced where it is. That needs
 * certainty that it was not decided, or that a newer one was.
 */
static bool is_replaceable(
	const struct write_call *call, uint32_t i, const struct store_record_fields *newest)
{
	const store_write_args *args = call->args;
	store_version base = args->blocks.blocks_val[i].base;

	if (is_repair(args, args->first_block + i) || args->exact_base == STORE_BASE_DECIDED)
		return true;
	/* Somebody has settled it, or may have; its writer may not know yet. */
	if (is_refused(call->file, newest->version) ||
		args->undecided_boot != call->file->store->boot)
		return false;
	if (args->exact_base == STORE_BASE_UNDECIDED)
		return store_version_compare(newest->version, base) == 0;
	return is_listed(args->undecided.undecided_val, args->undecided.undecided_len,
		args->first_block + i, newest->version);
}

/*
 * True if a block is as the writer takes it to be: empty, whether it never had a version or one
 * that is decided emptied it, of which the writer need not know.
 */
static bool is_empty_as_base(const struct store_record_fields *newest, store_version base)
{
	return base.generation == 0 && newest->committed && newest->length_bytes == 0;
}

/*
 * Chooses the side for one block's new version. Returns 0, -EAGAIN (conflict) or another errno.
 */
static int plan_block(struct write_call *call, uint32_t i, struct store_pair *pair)
{
	const store_write_args *args = call->args;
	const store_write_block *block = &args->blocks.blocks_val[i];
	struct plan *plan = &call->plans[i];
	const struct store_record_fields *newest;
	bool refused = is_refused(call->file, args->block_version) &&
		       !is_repair(args, args->first_block + i);
	int order;

	if (pair->newest < 0) {
		/* Nothing sound is here: side a, as for a fresh block. */
		plan->side = 0;
		return refused || args->exact_base == STORE_BASE_UNDECIDED ? -EAGAIN : 0;
	}
	newest = &pair->records[pair->newest];
	order = store_version_compare(newest->version, args->block_version);
	if (order == 0)
		return plan_same(call, i, pair, refused);
	if (order > 0 || refused)
		return -EAGAIN;
	plan->side = (uint8_t)(1 - pair->newest);
	if (args->exact_base) {
		order = store_version_compare(newest->version, block->base);
		if (order > 0 && !(args->exact_base == STORE_BASE_DECIDED &&
					 is_empty_as_base(newest, block->base)))
			return -EAGAIN;
		/* The base was not taken, or is forgotten: it may have been given up meanwhile. */
		if (order < 0 && args->exact_base == STORE_BASE_UNDECIDED)
			return -EAGAIN;
		if (order == 0 && args->exact_base == STORE_BASE_DECIDED && !newest->committed) {
			plan->commit_side = (int8_t)pair->newest;
			return 0;
		}
	}
	if (newest->committed)
		return 0;
	if (!is_replaceable(call, i, newest))
		return -EAGAIN;
	plan->side = (uint8_t)pair->newest;
	call->replaces = true;
	return 0;
}

/* Judges all blocks. Returns 0, -EAGAIN or another errno. */
static int plan_all(struct write_call *call, store_version *newest_met)
{
	int result = 0;

	*newest_met = call->file->refused;
	call->overwrites = true;
	for (uint32_t i = 0; i < call->args->blocks.blocks_len; i++) {
		struct store_pair pair;
		int error = store_pages_pair(&call->pages, call->args->first_block + i, &pair);

		if (error == 0 && pair.newest >= 0 &&
			store_version_compare(pair.records[pair.newest].version, *newest_met) > 0)
			*newest_met = pair.records[pair.newest].version;
		if (error == 0 &&
			(pair.newest < 0 || pair.records[pair.newest].shard_bytes <
						    call->args->blocks.blocks_val[i].shard_bytes))
			call->overwrites = false;
		if (error == 0)
			error = plan_block(call, i, &pair);
		if (error != 0 && error != -EAGAIN)
			return error;
		if (error != 0)
			result = error;
	}
	return result;
}

/* Writes the rows of blocks from `first` on that lie together, and tells how many those were. */
static int write_rows(struct write_call *call, uint32_t first, uint32_t *count)
{
	const store_write_args *args = call->args;
	const struct store_shape *shape = &call->file->shape;
	uint64_t block = args->first_block + first;
	unsigned int side = call->plans[first].side;
	uint64_t offset = store_row_offset(shape, block), bytes = 0;
	struct iovec parts[STORE_ROWS_MAX], kept[STORE_ROWS_MAX];
	int error;
	uint32_t n = 0;

	while (first + n < args->blocks.blocks_len &&
		(block + n) / shape->rows == block / shape->rows) {
		const store_write_block *next = &args->blocks.blocks_val[first + n];
		const struct plan *plan = &call->plans[first + n];
		uint32_t part = store_row_part(shape, next->shard_bytes);

		if (plan->skip || plan->side != side || part == 0 ||
			bytes != (uint64_t)n * shape->row_bytes)
			break;
		parts[n++] = (struct iovec){
			.iov_base = (void *)(uintptr_t)plan->shard,
			.iov_len = part,
		};
		bytes += part;
	}
	*count = n > 0 ? n : 1;
	if (n == 0)
		return 0;
	if (call->file->descriptors[side] < 0) {
		struct store_page *page;

		error = store_pages_get(&call->pages, 0, side, &page);
		if (error == 0)
			error = shard_file_make_side(call->file, side);
		if (error != 0)
			return error;
		page->changed = true;
		page->durable = true;
	}
	memcpy(kept, parts, n * sizeof(*parts)); /* the parts are used up */
	error = store_io_write_all(
		call->file->store->io, call->file->descriptors[side], parts, (int)n, offset);
	if (error == 0)
		shard_file_redo(call->file, side, offset, kept, (int)n);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: block %" PRIu64 " and %u more cannot be written: %s",
			shard_file_name(call->file, side), block, n - 1, strerror(-error));
		store_device_error(call->file->device, error);
		return error;
	}
	if (offset + bytes > call->file->size_bytes[side])
		call->file->size_bytes[side] = offset + bytes;
	return 0;
}

/* Puts one block's record into the pages. */
static int put_record(struct write_call *call, uint32_t i)
{
	const store_write_args *args = call->args;
	const store_write_block *block = &args->blocks.blocks_val[i];
	struct shard_file *file = call->file;
	const struct store_shape *shape = &file->shape;
	uint64_t number = args->first_block + i;
	const struct plan *plan = &call->plans[i];
	uint64_t bit = store_row_bit(shape, number);
	struct store_page *page;
	struct store_pair pair;
	struct store_record_fields record;
	int error = store_pages_pair(&call->pages, number, &pair);

	if (error == 0)
		error = store_pages_get(&call->pages, number / shape->rows, plan->side, &page);
	if (error != 0)
		return error;
	/* What cannot be read hides the version being written as long as it is there. */
	if (pair.records[1 - plan->side].kind == STORE_RECORD_DAMAGED) {
		struct store_page *other = pair.pages[1 - plan->side];

		store_record_clear(other->bytes, shape, number);
		other->changed = true;
		other->rows |= bit;
	}
	if (plan->commit_side >= 0) {
		store_record_set_committed(pair.pages[plan->commit_side]->bytes, shape, number);
		pair.pages[plan->commit_side]->changed = true;
	}
	if (plan->skip) {
		uint32_t missed = pair.records[plan->side].missed;

		if ((args->missed & ~missed) != 0) {
			store_record_set_missed(page->bytes, shape, number, missed | args->missed);
			page->changed = true;
			page->rows |= bit;
		}
		return 0;
	}
	record = (struct store_record_fields){
		.committed = plan->committed,
		.version = args->block_version,
		.length_bytes = block->length_bytes,
		.shard_bytes = block->shard_bytes,
		.crc32c = block->shard_bytes == 0 ? 0 : block->crc32c,
		.missed = args->missed,
	};
	if (pair.records[plan->side].kind == STORE_RECORD_GOOD &&
		store_version_compare(pair.records[plan->side].version, record.version) == 0)
		record.missed |= pair.records[plan->side].missed;
	if (block->shard_bytes > 0)
		shard_file_keep_row(file, number, plan->side);
	else if (pair.records[plan->side].kind == STORE_RECORD_GOOD &&
		 pair.records[plan->side].shard_bytes > 0)
		shard_file_free_row(file, number, plan->side);
	store_record_put(page->bytes, shape, number, &record,
		plan->shard + store_row_part(shape, block->shard_bytes));
	page->changed = true;
	page->rows |= bit;
	return 0;
}

/* Writes what was planned. Returns 0 or a negative errno. */
static int carry_out(struct write_call *call)
{
	const store_write_args *args = call->args;
	struct shard_file *file = call->file;
	uint32_t count, total = args->blocks.blocks_len;
	int error = 0;

	if (!file->exists) {
		struct store_page *page;
		uint64_t rows = call->shape.rows;

		error = shard_file_make(file, &call->shape);
		/* While the file ends before them: behind a row, a page must be read to be known.
		 */
		for (uint64_t group = args->first_block / rows;
			error == 0 && group <= (args->first_block + total - 1) / rows; group++)
			error = store_pages_get(&call->pages, group, 0, &page);
	}
	if (error == 0 && args->missed != 0)
		error = shard_file_mark(file);
	for (uint32_t i = 0; i < total && error == 0; i += count)
		error = write_rows(call, i, &count);
	for (uint32_t i = 0; i < total && error == 0; i++)
		error = put_record(call, i);
	if (error == 0 && (args->write_epoch > file->epoch_kept || file->size_bytes[0] == 0)) {
		error = store_pages_keep_header(&call->pages);
		if (error == 0)
			file->write_epoch = args->write_epoch;
	}
	if (error == 0)
		store_pages_note_size(&call->pages, false);
	if (error == 0) {
		call->recorded = true;
		error = store_pages_finish(&call->pages);
	}
	if (error == 0) {
		shard_file_punch(file, false);
	} else if (file->exists) {
		/*
		 * Rows may not be those of their records any more, as after a crash: reads of
		 * headers must look at the bytes. And what was written has to be flushed sometime.
		 */
		file->made_here = false;
		shard_file_redo_short(file);
		shard_file_written(file, 0, 0, 0, 0);
	}
	return error;
}

/* True if the writer built on an older version of some block. */
static bool any_base(const store_write_args *args)
{
	for (uint32_t i = 0; i < args->blocks.blocks_len && args->exact_base; i++) {
		if (args->blocks.blocks_val[i].base.generation != 0)
			return true;
	}
	return false;
}

/* Returns 0, -ENOSPC, or -EIO (no device in service). */
static int check_room(struct write_call *call)
{
	const store_write_args *args = call->args;
	struct shard_file *file = call->file;

	if (args->payload.payload_len == 0)
		return 0;
	struct store_device *device =
		file->exists ? file->device : store_device_choose(file->store);
	if (device == NULL)
		return -EIO;
	return store_device_room(file->store, device,
		args->payload.payload_len +
			2 * STORE_PAGE_BYTES * (args->blocks.blocks_len / call->shape.rows + 2),
		call->overwrites);
}

/* Everything that needs the lock, which is held. Returns 0 or a negative errno. */
static int write_locked(struct write_call *call, store_write_res *res)
{
	const store_write_args *args = call->args;
	struct shard_file *file = call->file;
	int error = shard_file_check(file, &call->shape);

	if (error != 0)
		return error;
	res->write_epoch = file->write_epoch;
	if (args->write_epoch < file->write_epoch)
		return -ESTALE;
	if (file->exists && file->foreign)
		return -EIO; /* the log says so since the file was opened */
	if (!file->exists && store_device_any_failed(file->store) && any_base(args))
		return -EIO; /* the file may be on the device that failed */
	if (!file->exists)
		file->shape = call->shape;
	store_pages_begin(&call->pages, file);
	if (file->exists && args->commits.commits_len > 0) {
		/* A run may be all that was truncated: its other blocks must not be waited for. */
		struct store_decision decision = {
			.runs = args->commits.commits_val,
			.count = args->commits.commits_len,
			.first_block = args->first_block,
			.end_block = args->first_block + args->blocks.blocks_len,
			.pages_max = SIZE_MAX,
		};

		error = store_decide(&call->pages, &decision);
	}
	if (error == 0)
		error = plan_all(call, &res->newest);
	if (error == 0)
		error = check_room(call);
	if (error == -EAGAIN || error == -ENOSPC) {
		/* The commits are true, whatever becomes of the write. */
		int result = store_pages_finish(&call->pages);

		if (result != 0)
			error = result;
		else if (error == -ENOSPC)
			shard_file_punch(file, true);
	} else if (error == 0) {
		call->begun = true;
		error = carry_out(call);
		call->changes = shard_file_changes(file);
	}
	store_pages_abandon(&call->pages);
	return error;
}

/*
 * *spoilt is set if a version that was to be replaced may be gone though the write failed, or the
 * new one may be here in part: its writer counts who can have it before it takes it back.
 */
static int write_once(
	struct store *store, const store_write_args *args, store_write_res *res, bool *spoilt)
{
	struct write_call call = {.args = args};
	int error = -ENOMEM;

	*res = (store_write_res){.boot = store->boot};
	if (args->blocks.blocks_len <= STORE_BLOCKS_MAX)
		call.plans = malloc((args->blocks.blocks_len + 1) * sizeof(*call.plans));
	else
		error = -EINVAL;
	if (call.plans != NULL)
		error = check_args(args, &call);
	if (error == 0) {
		call.file = shard_file_get(store, &args->file);
		error = call.file == NULL ? -ENOMEM : shard_file_lock_exclusive(call.file);
	}
	if (error == 0) {
		error = write_locked(&call, res);
		shard_file_unlock(call.file);
		if (error == 0 && args->stable)
			error = shard_file_flush(call.file, call.changes, true);
		else if (error == 0)
			shard_file_streamed(call.file, args->payload.payload_len);
	}
	if (call.file != NULL)
		shard_file_put(call.file);
	free(call.plans);
	*spoilt = *spoilt || (error != 0 && call.begun && (call.replaces || call.recorded));
	return error;
}

void store_write(struct store *store, const store_write_args *args, store_write_res *res)
{
	bool spoilt = false;
	int error = write_once(store, args, res, &spoilt);

	/* What is missing may be noted in other files. */
	if (error == -ENOSPC && shard_files_punch(store))
		error = write_once(store, args, res, &spoilt);
	/* To the writer all others mean that nothing was changed. */
	if (spoilt && error != 0)
		error = -EIO;
	res->status = store_status(error);
}
