/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The procedures that change records but write no shards (COMMIT, TELL, MISSED, TRUNCATE, REMOVE),
 * and those that only flush or look (SYNC, STAT).
 *
 * All change under the file's lock held exclusively and flush without it. What may run over a whole
 * file lets go of the lock again and again: of each block it says the same at any time.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"
#include "storaged/store_procedures.h"

uint32_t store_status(int error)
{
	switch (-error) {
	case 0:
	case EAGAIN:
	case EFBIG:
	case EINVAL:
	case ENOENT:
	case ENOSPC:
	case ESTALE:
		return (uint32_t)-error;
	case EDQUOT:
		return ENOSPC;
	default:
		return EIO;
	}
}

int shard_file_check(struct shard_file *file, const struct store_shape *shape)
{
	if (!file->exists)
		return 0;
	if (!file->shape_known) {
		file->shape = *shape;
		file->shape_known = true;
		return 0;
	}
	if (store_shape_equal(&file->shape, shape))
		return 0;
	rozo_log_limited(WARNING,
		"%s: refused: holds shard %u of %u+%u form %u with rows of %u bytes, the caller "
		"says "
		"shard %u of %u+%u form %u with %u",
		shard_file_name(file, 0), file->shape.shard, file->shape.code.k, file->shape.code.m,
		file->shape.code.form, file->shape.row_bytes, shape->shard, shape->code.k,
		shape->code.m, shape->code.form, shape->row_bytes);
	return -EINVAL;
}

int shard_file_mark(struct shard_file *file)
{
	int error;

	file->missed_changes++;
	if (file->marked)
		return 0;
	error = store_marker_make(file->store, file->device, &file->key);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: its missed writes cannot be recorded: %s",
			shard_file_name(file, 0), strerror(-error));
		store_device_error(file->device, error);
	}
	file->marked = error == 0;
	return error;
}

/* Blocks that the file can have records of. */
static uint64_t block_limit(const struct shard_file *file)
{
	return shard_file_groups(file) * file->shape.rows;
}

/* The end of a run of blocks, no further than the file goes. */
static uint64_t run_end(const struct shard_file *file, uint64_t first, uint64_t count)
{
	uint64_t limit = block_limit(file);

	if (first >= limit)
		return first;
	return count < limit - first ? first + count : limit;
}

/* unless_missed: see store.x. */
static int decide_block(struct store_pages *pages, uint64_t block, store_version version,
	bool discard, uint32_t unless_missed, bool durable)
{
	struct shard_file *file = pages->file;
	struct store_pair pair;
	struct store_record_fields *newest, *older;
	struct store_page *page;
	int error = store_pages_pair(pages, block, &pair);

	if (error != 0 || pair.newest < 0)
		return error;
	newest = &pair.records[pair.newest];
	older = &pair.records[1 - pair.newest];
	page = pair.pages[pair.newest];
	if (store_version_compare(newest->version, version) != 0)
		return 0;
	if (newest->committed) {
		/* The mark may be in memory only. */
		page->durable = page->durable || (durable && !discard);
		page->changed = page->changed || (durable && !discard);
		return 0;
	}
	if (unless_missed != 0 && (newest->missed & unless_missed) == unless_missed)
		return 0;
	if (discard) {
		store_record_clear(page->bytes, &file->shape, block);
		page->durable =
			true; /* with the next flush; not before the answer unless `stable` */
		if (newest->shard_bytes > 0)
			shard_file_free_row(file, block, (unsigned int)pair.newest);
	} else {
		store_record_set_committed(page->bytes, &file->shape, block);
		page->durable = page->durable || durable;
		if (older->kind == STORE_RECORD_GOOD && older->shard_bytes > 0)
			shard_file_free_row(file, block, (unsigned int)(1 - pair.newest));
	}
	page->changed = true;
	return 0;
}

int store_decide(struct store_pages *pages, struct store_decision *decision)
{
	for (; decision->run < decision->count; decision->run++, decision->done = 0) {
		const store_decided *run = &decision->runs[decision->run];
		uint64_t end = run_end(pages->file, run->first_block, run->count);
		uint64_t block = run->first_block + decision->done;

		if (block < decision->first_block)
			block = decision->first_block;
		if (end > decision->end_block)
			end = decision->end_block;
		for (; block < end; block++) {
			decision->done = block - run->first_block;
			if (pages->count >= decision->pages_max)
				return 0;
			int error = decide_block(pages, block, run->block_version,
				decision->discard, decision->unless_missed, decision->durable);
			if (error != 0)
				return error;
		}
	}
	return 0;
}

/* A file that can be changed: exists, shape known, not another's. Otherwise *error tells. */
static bool changeable(const struct shard_file *file, int *error)
{
	if (*error != 0)
		return false;
	if (!file->exists) {
		/* It may be on the device that failed, and then this is not done. */
		if (store_device_any_failed(file->store))
			*error = -EIO;
		return false;
	}
	if (file->foreign) {
		*error = -EIO;
		return false;
	}
	if (!file->shape_known) {
		/* Nothing was ever flushed into a blank file; otherwise there is no reading it. */
		if (!file->blank && (file->size_bytes[0] > 0 || file->size_bytes[1] > 0))
			*error = -EIO;
		return false;
	}
	return true;
}

/* A part of store_commit(), with the lock held. */
static int commit_some(
	struct shard_file *file, const store_commit_args *args, struct store_decision *decision)
{
	struct store_pages pages;
	int error = 0;

	if (args->unless_missed != 0 && args->boot != file->store->boot)
		error = -EAGAIN;
	if (!changeable(file, &error)) {
		decision->run = decision->count;
		return error;
	}
	store_pages_begin(&pages, file);
	error = store_decide(&pages, decision);
	if (error == 0)
		error = store_pages_finish(&pages);
	if (args->discard)
		file->dropped_change = shard_file_changes(file);
	store_pages_abandon(&pages);
	shard_file_punch(file, false);
	return error;
}

void store_commit(struct store *store, const store_commit_args *args, store_status_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	struct store_decision decision = {
		.runs = args->runs.runs_val,
		.count = args->runs.runs_len,
		.end_block = UINT64_MAX,
		.pages_max = STORE_PAGES_LOCKED,
		.discard = args->discard != 0,
		.durable = args->stable != 0,
		.unless_missed = args->unless_missed,
	};
	uint64_t changes;
	int error = -ENOMEM;

	*res = (store_status_res){.boot = store->boot};
	if (file == NULL)
		goto out;
	while (true) {
		error = shard_file_lock_exclusive(file);
		if (error != 0)
			goto out;
		error = commit_some(file, args, &decision);
		res->write_epoch = file->write_epoch;
		changes = shard_file_changes(file);
		shard_file_unlock(file);
		if (error != 0 || decision.run == decision.count)
			break;
		shard_file_give_way(file);
	}
	if (error == 0 && args->stable)
		error = shard_file_flush(file, changes, false);
out:
	if (file != NULL)
		shard_file_put(file);
	res->status = store_status(error);
}

void store_tell(struct store *store, const store_tell_args *args, store_status_res *res)
{
	for (uint32_t i = 0; i < args->files.files_len; i++) {
		const store_told *told = &args->files.files_val[i];
		store_commit_args commit = {
			.file = told->file,
			.runs = {.runs_len = told->runs.runs_len, .runs_val = told->runs.runs_val},
		};

		store_commit(store, &commit, res);
	}
	*res = (store_status_res){.boot = store->boot};
}

void store_sync(struct store *store, const store_sync_args *args, store_status_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	int error = -ENOMEM;

	*res = (store_status_res){.boot = store->boot};
	if (file != NULL)
		error = shard_file_lock_shared(file);
	if (error == 0) {
		bool exists = file->exists;

		res->write_epoch = file->write_epoch;
		shard_file_unlock(file);
		if (exists)
			error = shard_file_flush(file, UINT64_MAX, true);
	}
	if (file != NULL)
		shard_file_put(file);
	res->status = store_status(error);
}

/*
 * True if a version is not here any more: it may have been dropped since it was accepted, as one in
 * doubt, whatever has come in its place.
 */
static bool version_is_gone(const struct store_pair *pair, store_version version)
{
	const struct store_record_fields *newest =
		pair->newest < 0 ? NULL : &pair->records[pair->newest];
	const struct store_record_fields *older =
		newest == NULL ? NULL : &pair->records[1 - pair->newest];

	if (version.writer == 0) /* a truncation's: who never had anything is as good as empty */
		return false;
	return newest == NULL ||
	       (store_version_compare(newest->version, version) != 0 &&
		       (older->kind != STORE_RECORD_GOOD ||
			       store_version_compare(older->version, version) != 0));
}

/*
 * Changes the missed bits of blocks with the version, from *block on: as many as may be looked at
 * with the lock held. *block is the end then.
 */
static int change_missed(
	struct shard_file *file, const store_missed_args *args, uint64_t *block, bool *more)
{
	uint64_t end = run_end(file, args->first_block, args->count);
	struct store_pages pages;
	bool marked = false;
	int error = 0;

	if (!args->clear && args->block_version.writer != 0 &&
		end - args->first_block < args->count)
		error = -EAGAIN;
	store_pages_begin(&pages, file);
	for (; *block < end && error == 0 && pages.count < STORE_PAGES_LOCKED; (*block)++) {
		struct store_pair pair;
		const struct store_record_fields *newest;
		uint32_t missed;

		error = store_pages_pair(&pages, *block, &pair);
		if (error == 0 && !args->clear && version_is_gone(&pair, args->block_version))
			error = -EAGAIN;
		if (error != 0 || pair.newest < 0)
			continue;
		newest = &pair.records[pair.newest];
		missed = args->clear ? newest->missed & ~args->missed
				     : newest->missed | args->missed;
		if (store_version_compare(newest->version, args->block_version) != 0 ||
			missed == newest->missed)
			continue;
		if (!args->clear && !marked) {
			error = shard_file_mark(file);
			marked = error == 0;
		}
		/*
		 * Only what is decided is healed, and struck off. Without the mark somebody who
		 * asked before that might yet have it dropped, for want of the record.
		 */
		if (error == 0 && args->clear)
			error = decide_block(&pages, *block, args->block_version, false, 0, true);
		if (error != 0)
			break;
		store_record_set_missed(
			pair.pages[pair.newest]->bytes, &file->shape, *block, missed);
		pair.pages[pair.newest]->changed = true;
		pair.pages[pair.newest]->durable = true;
		/* Readers rely on what is told to be on record: it is PENDING until it is durable.
		 */
		if (!args->clear)
			pair.pages[pair.newest]->rows |= store_row_bit(&file->shape, *block);
	}
	if (error == 0)
		error = store_pages_finish(&pages);
	store_pages_abandon(&pages);
	*more = *block < end;
	return error;
}

void store_missed(struct store *store, const store_missed_args *args, store_status_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	uint64_t changes, block = args->first_block;
	int error = -ENOMEM;
	bool more;

	*res = (store_status_res){.boot = store->boot};
	if (file == NULL)
		goto out;
	while (true) {
		more = false;
		error = shard_file_lock_exclusive(file);
		if (error != 0)
			goto out;
		if (changeable(file, &error))
			error = change_missed(file, args, &block, &more);
		else if (error == 0 && !args->clear && args->block_version.writer != 0)
			error = -EAGAIN;
		res->write_epoch = file->write_epoch;
		changes = shard_file_changes(file);
		shard_file_unlock(file);
		if (error != 0 || !more)
			break;
		shard_file_give_way(file);
	}
	if (error == 0)
		/* A process before this one may have recorded it, and not flushed. */
		error = shard_file_flush(file, changes, true);
out:
	if (file != NULL)
		shard_file_put(file);
	res->status = store_status(error);
}

/* -------- truncation -------- */

/*
 * First pass: blocks become empty by a record of the new version on side a, where there is room for
 * it already; their older records and rows stay until that is durable. Goes on with *block, as far
 * as the lock may be held.
 */
static int truncate_records(
	struct store_pages *pages, const store_truncate_args *args, uint64_t *block)
{
	struct shard_file *file = pages->file;
	uint64_t end = block_limit(file);
	bool marked = false;
	int error = 0;

	for (; *block < end && pages->count < STORE_PAGES_LOCKED; (*block)++) {
		const struct store_record_fields record = {
			.version = args->block_version,
			.missed = args->missed,
		};
		struct store_pair pair;
		struct store_page *page;

		error = store_pages_pair(pages, *block, &pair);
		if (error != 0)
			break;
		if (pair.newest < 0 && !pair.damaged)
			continue;
		if (pair.newest >= 0 && store_version_compare(pair.records[pair.newest].version,
						args->block_version) >= 0)
			continue;
		if (args->missed != 0 && !marked) {
			error = shard_file_mark(file);
			marked = error == 0;
		}
		if (error == 0)
			error = store_pages_get(pages, *block / file->shape.rows, 0, &page);
		if (error != 0)
			break;
		store_record_put(page->bytes, &file->shape, *block, &record, NULL);
		page->changed = true;
		page->rows |= store_row_bit(&file->shape, *block);
	}
	return error;
}

/* Second pass, when the first is durable: drops what the truncated blocks had before. */
static int truncate_rows(
	struct store_pages *pages, const store_truncate_args *args, uint64_t *block)
{
	struct shard_file *file = pages->file;
	uint64_t end = block_limit(file);
	int error = 0;

	for (; *block < end && pages->count < STORE_PAGES_LOCKED; (*block)++) {
		struct store_pair pair;

		error = store_pages_pair(pages, *block, &pair);
		if (error != 0)
			break;
		if (pair.records[0].kind != STORE_RECORD_GOOD ||
			store_version_compare(pair.records[0].version, args->block_version) != 0)
			continue;
		shard_file_free_row(file, *block, 0);
		if (pair.records[1].kind != STORE_RECORD_EMPTY && pair.newest == 0) {
			store_record_clear(pair.pages[1]->bytes, &file->shape, *block);
			pair.pages[1]->changed = true;
			shard_file_free_row(file, *block, 1);
		}
	}
	if (error == 0)
		error = store_pages_finish(pages);
	shard_file_punch(file, *block >= end);
	return error;
}

/*
 * What may be done of the first pass with the lock held, that nothing older is accepted from then
 * on included.
 */
static int truncate_some(
	struct store_pages *pages, const store_truncate_args *args, uint64_t *block)
{
	struct shard_file *file = pages->file;
	struct store_shape shape;
	int error;

	if (store_shape_init(&shape, &args->file, &args->geometry, file->shape.shard) != 0)
		return -EINVAL;
	error = shard_file_check(file, &shape);
	if (error != 0)
		return error;
	if (args->write_epoch < file->write_epoch)
		return -ESTALE;
	error = truncate_records(pages, args, block);
	/* Also if it could not be written the last time. */
	if (error == 0 && args->write_epoch > file->epoch_kept) {
		error = store_pages_keep_header(pages);
		if (error == 0)
			file->write_epoch = args->write_epoch;
	}
	if (error == 0)
		error = store_pages_finish(pages);
	return error;
}

/*
 * Makes a pass over the file, in parts, as long as there is a file that can be changed: *changed
 * tells. Returns 0 or a negative errno.
 */
static int truncate_pass(struct shard_file *file, const store_truncate_args *args,
	int (*some)(struct store_pages *pages, const store_truncate_args *args, uint64_t *block),
	bool *changed, store_status_res *res)
{
	uint64_t block = args->first_block;
	struct store_pages pages;
	bool more = true;
	int error = 0;

	while (more) {
		error = shard_file_lock_exclusive(file);
		if (error != 0)
			return error;
		*changed = changeable(file, &error);
		if (*changed) {
			store_pages_begin(&pages, file);
			error = some(&pages, args, &block);
			store_pages_abandon(&pages);
		}
		more = error == 0 && *changed && block < block_limit(file);
		res->write_epoch = file->write_epoch;
		shard_file_unlock(file);
		if (more)
			shard_file_give_way(file);
	}
	return error;
}

/* Also a store that has nothing must refuse from now on what was sent before. */
static int truncate_nothing(struct shard_file *file, const store_truncate_args *args)
{
	struct store_shape shape;
	int error = shard_file_lock_exclusive(file);

	if (error != 0)
		return error;
	if (!file->exists || file->blank) {
		error = store_shape_init(&shape, &args->file, &args->geometry, args->shard);
		if (error == 0)
			error = shard_file_make_header(file, &shape);
	}
	shard_file_unlock(file);
	return error;
}

void store_truncate(struct store *store, const store_truncate_args *args, store_status_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	bool changed = false;
	int error = file == NULL ? -ENOMEM : 0;

	*res = (store_status_res){.boot = store->boot};
	if (error == 0 && args->block_version.generation == 0)
		error = -EINVAL;
	if (error == 0)
		error = truncate_nothing(file, args);
	if (error == 0)
		error = truncate_pass(file, args, truncate_some, &changed, res);
	if (error == 0 && changed)
		error = shard_file_flush(file, UINT64_MAX, true);
	if (error == 0 && changed)
		error = truncate_pass(file, args, truncate_rows, &changed, res);
	if (file != NULL)
		shard_file_put(file);
	res->status = store_status(error);
}

/* -------- removing and looking -------- */

void store_remove(struct store *store, const store_remove_args *args, store_status_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	int error = -ENOMEM;

	*res = (store_status_res){.boot = store->boot};
	if (file != NULL)
		error = shard_file_lock_to_remove(file);
	if (error == 0) {
		error = shard_file_remove(file);
		shard_file_unlock(file);
	}
	if (file != NULL)
		shard_file_put(file);
	res->status = error == -ENODEV || error == -EXDEV ? (uint32_t)-error : store_status(error);
}

/*
 * Looks for the last block that has bytes, or may have, from the one before *end backwards, as far
 * as the lock may be held. Returns 0 or a negative errno; *end is one more than that block, or than
 * the next one to look at, which *more tells.
 */
static int find_last(struct shard_file *file, uint64_t *end, bool *more)
{
	struct store_pages pages;
	bool found = false;
	int error = 0;

	if (*end > block_limit(file))
		*end = block_limit(file);
	store_pages_begin(&pages, file);
	while (*end > 0 && !found && pages.count < STORE_PAGES_LOCKED) {
		struct store_pair pair;

		error = store_pages_pair(&pages, *end - 1, &pair);
		if (error != 0)
			break;
		found = pair.damaged ||
			(pair.newest >= 0 && pair.records[pair.newest].length_bytes > 0);
		*end -= !found;
	}
	store_pages_abandon(&pages);
	*more = *end > 0 && !found;
	return error;
}

void store_stat(struct store *store, const store_stat_args *args, store_stat_res *res)
{
	struct shard_file *file = shard_file_get(store, &args->file);
	int error = file == NULL ? -ENOMEM : 0;
	uint64_t end = UINT64_MAX;
	bool more = true;

	*res = (store_stat_res){.boot = store->boot};
	while (error == 0 && more) {
		more = false;
		error = shard_file_lock_shared(file);
		if (error != 0)
			break;
		if (!file->exists)
			error = -ENOENT;
		else if (!changeable(file, &error))
			end = 0;
		else
			error = find_last(file, &end, &more);
		res->write_epoch = file->write_epoch;
		shard_file_unlock(file);
		if (more)
			shard_file_give_way(file);
	}
	if (error == 0)
		res->block_count = end;
	if (file != NULL)
		shard_file_put(file);
	res->status = store_status(error);
}
