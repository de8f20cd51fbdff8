/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * STORE_READ: what lies here of a run of blocks, every shard checked against its CRC.
 *
 * Holds the file's lock shared, so reads run beside each other and beside flushes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "storaged/store_internal.h"
#include "storaged/store_procedures.h"

/* Where one block's shard comes from and goes to. */
struct fetch {
	struct store_page *page; /* NULL: nothing to fetch */
	struct store_record_fields record;
	uint64_t offset; /* in the payload */
	uint8_t side;
	bool older; /* not the newest version here */
	bool bad;
};

struct read_call {
	const store_read_args *args;
	struct shard_file *file;
	struct store_pages pages;
	struct store_shape shape;
	store_read_block *blocks;
	struct fetch *fetches;
	uint8_t *payload;
	uint64_t payload_bytes;
	bool unsettled; /* met something that may not be durable: flush, look again */
};

static bool all_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != 0)
			return false;
	}
	return true;
}

/* Completes a shard whose row part is in buffer, if row_bytes of it could be read, and checks it.
 */
static int check_shard(struct shard_file *file, uint64_t block, unsigned int side,
	struct store_page *page, const struct store_record_fields *record, uint8_t *buffer,
	ssize_t row_bytes, bool *zeros)
{
	uint32_t part = store_row_part(&file->shape, record->shard_bytes);

	if (zeros != NULL)
		*zeros = false;
	if (row_bytes >= 0) {
		/* What is beyond the end would read as zeros if anything were written behind it. */
		memset(buffer + row_bytes, 0, part - (size_t)row_bytes);
		memcpy(buffer + part, store_record_tail(page->bytes, &file->shape, block),
			record->shard_bytes - part);
		if (rozo_crc32c(buffer, record->shard_bytes) == record->crc32c)
			return 0;
	}
	if (zeros != NULL && (row_bytes < 0 || all_zero(buffer, (size_t)row_bytes))) {
		/* Given back when a newer version was decided; only that mark was lost. */
		*zeros = true;
		return -EBADMSG;
	}
	rozo_log_limited(ERROR, "%s: block %" PRIu64 ": %s", shard_file_name(file, side), block,
		row_bytes < 0               ? "cannot be read from the device"
		: row_bytes < (ssize_t)part ? "the file is cut short in its row"
					    : "its bytes do not agree with their CRC");
	return row_bytes < 0 ? -EIO : -EBADMSG;
}

int store_shard_read(struct shard_file *file, uint64_t block, unsigned int side,
	struct store_page *page, const struct store_record_fields *record, uint8_t *buffer,
	bool *zeros)
{
	struct iovec part = {
		.iov_base = buffer,
		.iov_len = store_row_part(&file->shape, record->shard_bytes),
	};
	ssize_t bytes = store_io_read_all(file->store->io, file->descriptors[side], &part, 1,
		store_row_offset(&file->shape, block));

	if (bytes < 0)
		store_device_row_error(file->device, &file->key, side, block, (int)bytes);
	return check_shard(file, block, side, page, record, buffer, bytes, zeros);
}

/* Tells of one block, and plans to fetch its shard if that is wanted or has to be checked. */
static int judge_block(struct read_call *call, uint32_t i)
{
	const store_read_args *args = call->args;
	struct shard_file *file = call->file;
	store_read_block *told = &call->blocks[i];
	struct fetch *fetch = &call->fetches[i];
	uint64_t block = args->first_block + i;
	const struct store_record_fields *record;
	struct store_pair pair;
	int side, error = store_pages_pair(&call->pages, block, &pair);

	if (error != 0)
		return error;
	/* Nobody knows what a device had of it that was out of service when the file was made. */
	if (pair.newest < 0 && (file->flags & (STORE_FLAG_DEGRADED | STORE_FLAG_CUT)) != 0)
		pair.damaged = true;
	side = pair.newest;
	if (args->block_version.generation == 0 && pair.damaged) {
		/* What is damaged may have been newer. */
		told->state = STORE_DAMAGED;
		if (side >= 0)
			told->older = pair.records[side].version;
		return 0;
	}
	if (args->block_version.generation != 0) {
		for (side = STORE_SIDES - 1; side >= 0; side--) {
			if (pair.records[side].kind == STORE_RECORD_GOOD &&
				store_version_compare(
					pair.records[side].version, args->block_version) == 0)
				break;
		}
		if (side < 0)
			told->state = pair.damaged ? STORE_DAMAGED : STORE_EMPTY;
		if (side >= 0 && side != pair.newest && pair.records[pair.newest].committed)
			side = -1; /* dropped */
	}
	if (side < 0)
		return 0;
	record = &pair.records[side];
	told->block_version = record->version;
	told->length_bytes = record->length_bytes;
	told->shard_bytes = record->shard_bytes;
	told->crc32c = record->crc32c;
	told->missed = record->missed;
	if (pair.records[1 - side].kind == STORE_RECORD_GOOD &&
		!pair.records[pair.newest].committed)
		told->older = pair.records[1 - side].version;
	if (record->committed) {
		told->state = STORE_COMMITTED;
	} else if ((shard_file_unsynced(file, block / file->shape.rows, (unsigned int)side) &
			   store_row_bit(&file->shape, block)) != 0) {
		told->state = STORE_PENDING;
	} else {
		told->state = STORE_FINALIZED;
		call->unsettled = call->unsettled || !shard_file_settled(file);
	}
	/*
	 * After a crash a record may be there without its row. Whoever counts holders of a version
	 * by their headers must not be misled. Nor must they where damage was found before.
	 */
	if (record->shard_bytes > 0 &&
		(!args->headers_only || (told->state != STORE_COMMITTED && !file->made_here) ||
			(store_mask_get(
				 &file->suspect, block / file->shape.rows, (unsigned int)side) &
				store_row_bit(&file->shape, block)) != 0)) {
		*fetch = (struct fetch){
			.page = pair.pages[side],
			.record = *record,
			.offset = call->payload_bytes,
			.side = (uint8_t)side,
			.older = side != pair.newest,
		};
		call->payload_bytes += record->shard_bytes;
	}
	return 0;
}

/* Fetches the shards of blocks from `first` on that lie together. Returns how many those were. */
static uint32_t fetch_run(struct read_call *call, uint32_t first)
{
	const struct store_shape *shape = &call->file->shape;
	uint64_t block = call->args->first_block + first, wanted = 0;
	struct iovec parts[STORE_ROWS_MAX];
	ssize_t bytes;
	uint32_t n = 0;

	while (first + n < call->args->count && (block + n) / shape->rows == block / shape->rows) {
		struct fetch *fetch = &call->fetches[first + n];
		uint32_t part;

		if (fetch->page == NULL || fetch->side != call->fetches[first].side ||
			wanted != (uint64_t)n * shape->row_bytes)
			break;
		part = store_row_part(shape, fetch->record.shard_bytes);
		parts[n++] = (struct iovec){
			.iov_base = call->payload + fetch->offset,
			.iov_len = part,
		};
		wanted += part;
	}
	if (n == 0)
		return 1;
	bytes = store_io_read_all(call->file->store->io,
		call->file->descriptors[call->fetches[first].side], parts, (int)n,
		store_row_offset(shape, block));
	for (uint32_t i = 0; i < n; i++) {
		struct fetch *fetch = &call->fetches[first + i];
		uint8_t *buffer = call->payload + fetch->offset;
		uint32_t part = store_row_part(shape, fetch->record.shard_bytes);
		bool zeros = false;
		int error;

		if (bytes == (ssize_t)wanted)
			error = check_shard(call->file, block + i, fetch->side, fetch->page,
				&fetch->record, buffer, part, fetch->older ? &zeros : NULL);
		else
			error = store_shard_read(call->file, block + i, fetch->side, fetch->page,
				&fetch->record, buffer, fetch->older ? &zeros : NULL);
		if (error == 0)
			continue;
		fetch->bad = true;
		if (zeros)
			call->blocks[first + i] = (store_read_block){.state = STORE_EMPTY};
		else if (error == -EBADMSG && !fetch->record.committed && !call->file->made_here)
			call->blocks[first + i].state = STORE_TORN;
		else
			call->blocks[first + i].state = STORE_DAMAGED;
		call->blocks[first + i].shard_bytes = 0;
	}
	return n;
}

/* Closes the gaps that bad shards left in the payload. */
static void close_gaps(struct read_call *call)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < call->args->count; i++) {
		struct fetch *fetch = &call->fetches[i];

		if (fetch->page == NULL || fetch->bad)
			continue;
		if (fetch->offset != end)
			memmove(call->payload + end, call->payload + fetch->offset,
				fetch->record.shard_bytes);
		end += fetch->record.shard_bytes;
	}
	call->payload_bytes = end;
}

/* Before each look at the file: there may be none any more. */
static void forget_look(struct read_call *call)
{
	memset(call->blocks, 0, call->args->count * sizeof(*call->blocks));
	memset(call->fetches, 0, call->args->count * sizeof(*call->fetches));
	call->payload_bytes = 0;
	call->unsettled = false;
}

/* One look at the file, under the lock. Returns 0 or a negative errno. */
static int read_locked(struct read_call *call)
{
	const store_read_args *args = call->args;
	int error = 0;

	store_pages_begin(&call->pages, call->file);
	for (uint32_t i = 0; i < args->count && error == 0; i++)
		error = judge_block(call, i);
	if (error == 0 && call->unsettled)
		goto out;
	if (error == 0 && call->payload_bytes > STORE_PAYLOAD_MAX) {
		rozo_log_limited(WARNING,
			"%s: read of %u blocks refused: %" PRIu64 " bytes at most %d",
			shard_file_name(call->file, 0), args->count, call->payload_bytes,
			STORE_PAYLOAD_MAX);
		error = -EINVAL;
	}
	if (error == 0 && call->payload_bytes > 0) {
		call->payload = malloc(call->payload_bytes);
		if (call->payload == NULL)
			error = -ENOMEM;
	}
	if (error == 0 && call->payload != NULL) {
		for (uint32_t i = 0; i < args->count; i += fetch_run(call, i))
			;
		close_gaps(call);
	}
out:
	store_pages_abandon(&call->pages);
	return error;
}

/*
 * Takes down that versions up to args->refuse are not accepted any more, also after a restart, and
 * if there is nothing here yet. Called with the lock held exclusively.
 */
static int promise(struct read_call *call)
{
	struct shard_file *file = call->file;
	const store_version before = file->refused;
	struct store_pages pages;

	int error = shard_file_make_header(file, &call->shape);
	if (error != 0)
		return error;
	store_pages_begin(&pages, file);
	error = store_pages_keep_header(&pages);
	if (error == 0) {
		file->refused = call->args->refuse;
		error = store_pages_finish(&pages);
		file->refused_change = shard_file_changes(file);
	}
	if (error != 0)
		file->refused = before; /* the next one who asks has it written */
	store_pages_abandon(&pages);
	return error;
}

/* Locks the file and reads; the lock is not held afterwards. */
static int read_file(struct read_call *call, store_read_res *res)
{
	struct shard_file *file = call->file;
	int error;

	while (true) {
		error = shard_file_lock_shared(file);
		if (error != 0)
			return error;
		if (file->exists && !file->shape_known) {
			/* What little there is can only be read as the caller says it is. */
			shard_file_unlock(file);
			error = shard_file_lock_exclusive(file);
			if (error == 0) {
				error = shard_file_check(file, &call->shape);
				shard_file_unlock(file);
			}
			if (error != 0)
				return error;
			continue;
		}
		if (store_version_compare(call->args->refuse, file->refused) > 0) {
			/* Exclusive: a write that did not know yet is done when we look. */
			shard_file_unlock(file);
			error = shard_file_lock_exclusive(file);
			if (error != 0)
				return error;
			if (store_version_compare(call->args->refuse, file->refused) > 0)
				error = promise(call);
			shard_file_unlock(file);
			if (error != 0)
				return error;
			continue;
		}
		res->write_epoch = file->write_epoch;
		if (shard_file_durable(file, file->epoch_change))
			res->durable_epoch = file->epoch_kept;
		if (file->exists && !store_shape_equal(&file->shape, &call->shape))
			error = -EINVAL;
		forget_look(call);
		if (error == 0 && file->exists)
			error = read_locked(call);
		if (error == -EINVAL)
			rozo_log_limited(WARNING,
				"%s: read refused: other geometry or shard than the file's, or too "
				"much",
				shard_file_name(file, 0));
		bool refuses = call->args->refuse.generation != 0;
		uint64_t relied_on = file->dropped_change;
		if (refuses && file->refused_change > relied_on)
			relied_on = file->refused_change;
		shard_file_unlock(file);
		/*
		 * Whoever hears of a promise, or that a version is gone, relies on it for ever: be
		 * it from this run of the store, or found when the file was opened.
		 */
		if (error == 0 && (refuses || relied_on != 0))
			error = shard_file_flush(file, relied_on, refuses);
		if (error != 0 || !call->unsettled)
			return error;
		error = shard_file_flush(file, 0, true);
		if (error != 0)
			return error;
	}
}

/* Makes reads of headers look again where rows were found damaged, so that healing finds them. */
static void remember_damage(struct read_call *call)
{
	struct shard_file *file = call->file;
	uint32_t bad = 0;

	for (uint32_t i = 0; i < call->args->count; i++)
		bad += call->fetches[i].bad && call->blocks[i].state == STORE_DAMAGED;
	if (bad == 0 || shard_file_lock_exclusive(file) != 0)
		return;
	for (uint32_t i = 0; i < call->args->count && file->shape_known; i++) {
		uint64_t block = call->args->first_block + i;

		if (call->fetches[i].bad && call->blocks[i].state == STORE_DAMAGED)
			store_mask_add(&file->suspect, block / file->shape.rows,
				call->fetches[i].side, store_row_bit(&file->shape, block));
	}
	shard_file_unlock(file);
}

void store_read(struct store *store, const store_read_args *args, store_read_res *res)
{
	struct read_call call = {.args = args};
	int error = 0;

	*res = (store_read_res){.boot = store->boot};
	if (store_shape_init(&call.shape, &args->file, &args->geometry, args->shard) != 0 ||
		args->count == 0 || args->count > STORE_BLOCKS_MAX ||
		args->first_block >= store_shape_blocks_max(&call.shape) - args->count)
		error = -EINVAL;
	if (error == 0) {
		call.blocks = calloc(args->count, sizeof(*call.blocks));
		call.fetches = calloc(args->count, sizeof(*call.fetches));
		call.file = shard_file_get(store, &args->file);
		if (call.blocks == NULL || call.fetches == NULL || call.file == NULL)
			error = -ENOMEM;
	}
	if (error == 0)
		error = read_file(&call, res);
	if (error == 0)
		remember_damage(&call);
	if (call.file != NULL)
		shard_file_put(call.file);
	free(call.fetches);
	if (error == 0) {
		res->blocks.blocks_val = call.blocks;
		res->blocks.blocks_len = args->count;
		call.blocks = NULL;
		if (!args->headers_only && call.payload_bytes > 0) {
			res->payload.payload_val = (char *)call.payload;
			res->payload.payload_len = (uint32_t)call.payload_bytes;
			call.payload = NULL;
		}
	}
	free(call.blocks);
	free(call.payload);
	res->status = store_status(error);
}
