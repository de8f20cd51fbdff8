/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The group pages that one operation looks at and changes.
 *
 * A set of pages lives for one operation under the file's lock: read on first use, changed in
 * memory, written together at the end, each with a fresh header. Between operations the operating
 * system's cache holds them. Takes no locks of its own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"

void store_pages_begin(struct store_pages *pages, struct shard_file *file)
{
	pages->file = file;
	pages->count = 0;
	memset(pages->used, 0, sizeof(pages->used));
}

static struct store_page **bucket_of(struct store_pages *pages, uint64_t group, unsigned int side)
{
	size_t number = (group * STORE_SIDES + side) % STORE_PAGES_BUCKETS;
	uint64_t bit = UINT64_C(1) << number % 64;

	if ((pages->used[number / 64] & bit) == 0) {
		pages->used[number / 64] |= bit;
		pages->buckets[number] = NULL;
	}
	return &pages->buckets[number];
}

/* Takes the next bucket that has been used off the set; NULL: there is none. */
static struct store_page **bucket_next(
	struct store_pages *pages, uint64_t used[STORE_PAGES_BUCKETS / 64])
{
	for (size_t i = 0; i < STORE_PAGES_BUCKETS / 64; i++) {
		if (used[i] != 0) {
			size_t bit = (size_t)__builtin_ctzll(used[i]);

			used[i] &= used[i] - 1;
			return &pages->buckets[i * 64 + bit];
		}
	}
	return NULL;
}

/* Damage of pages; a bit of shard_file.told for each side. */
enum page_damage {
	HEADER_DAMAGED,
	HEADER_FOREIGN,
	HEADER_NEWER,
	HEADER_ZERO,
	PAGE_ZERO,
	PAGE_CUT,
};

/*
 * Logs what is wrong with a page, for each side of a file once as long as the file is open: it is
 * read again and again, and where there is one there are more.
 */
static void tell_damage(
	struct shard_file *file, const struct store_page *page, enum page_damage damage)
{
	static const char by_one[] = "its records are judged one by one";
	static const struct {
		const char *what, *how, *then;
	} texts[] = {
		[HEADER_DAMAGED] = {"header", "damaged (magic or CRC)", by_one},
		[HEADER_FOREIGN] = {"header", "that of another group or file", by_one},
		[HEADER_NEWER] = {"header", "of a format that this program does not know", by_one},
		[HEADER_ZERO] = {"header", "zeros", by_one},
		[PAGE_ZERO] = {"page", "zeros, though it was written once",
			"its shards are lost; a scrub that compares nodes has them made anew"},
		[PAGE_CUT] = {"page", "cut short", "its last records are lost"},
	};
	unsigned int bit = 1u << (damage * STORE_SIDES + page->side);

	if ((atomic_fetch_or(&file->told, bit) & bit) == 0)
		rozo_log(ERROR,
			"%s: the %s of group %" PRIu64 " is %s: %s (further ones are not told)",
			shard_file_name(file, page->side), texts[damage].what, page->group,
			texts[damage].how, texts[damage].then);
}

/*
 * Zeros are what a hole reads as, of a group never written or given back whole. They are damage if
 * there are records beside them, or if the file system knows of no hole there.
 */
static void judge_zeros(struct shard_file *file, const struct store_page *page, uint64_t offset)
{
	for (size_t i = 0; i < STORE_PAGE_BYTES; i++) {
		if (page->bytes[i] != 0) {
			tell_damage(file, page, HEADER_ZERO);
			return;
		}
	}
	if (file->store->io->has_data != NULL &&
		file->store->io->has_data(file->descriptors[page->side], offset, STORE_PAGE_BYTES))
		tell_damage(file, page, PAGE_ZERO);
}

/* Reads a page, or works out what takes its place. */
static int page_load(struct shard_file *file, struct store_page *page)
{
	uint64_t offset = store_page_offset(&file->shape, page->group);
	struct iovec part = {.iov_base = page->bytes, .iov_len = STORE_PAGE_BYTES};
	struct store_header_fields fields;
	enum store_header_verdict verdict;
	ssize_t bytes = 0;

	if (file->descriptors[page->side] >= 0 && offset < file->size_bytes[page->side]) {
		bytes = store_io_read_all(
			file->store->io, file->descriptors[page->side], &part, 1, offset);
		if (bytes < 0) {
			rozo_log_limited(ERROR, "%s: group %" PRIu64 " cannot be read: %s",
				shard_file_name(file, page->side), page->group,
				strerror((int)-bytes));
			store_device_error(file->device, (int)bytes);
			return (int)bytes;
		}
	}
	if (bytes < STORE_PAGE_BYTES) {
		/* Beyond the end: never written, unless the side is gone or the page is cut in two.
		 */
		memset(page->bytes + bytes, file->lost[page->side] || bytes > 0 ? 0xff : 0,
			STORE_PAGE_BYTES - (size_t)bytes);
		if (bytes > 0)
			tell_damage(file, page, PAGE_CUT);
		return 0;
	}
	verdict = store_header_get(page->bytes, &file->key, &fields, NULL);
	if (verdict == STORE_HEADER_GOOD &&
		(fields.group != page->group || fields.side != page->side)) {
		/* The records carry their block's number: they will not be taken for others. */
		verdict = STORE_HEADER_FOREIGN;
	}
	switch (verdict) {
	case STORE_HEADER_GOOD:
		break;
	case STORE_HEADER_ZERO:
		judge_zeros(file, page, offset);
		break;
	case STORE_HEADER_DAMAGED:
		tell_damage(file, page, HEADER_DAMAGED);
		break;
	case STORE_HEADER_NEWER:
		tell_damage(file, page, HEADER_NEWER);
		break;
	case STORE_HEADER_FOREIGN:
		tell_damage(file, page, HEADER_FOREIGN);
		break;
	}
	return 0;
}

int store_pages_get(
	struct store_pages *pages, uint64_t group, unsigned int side, struct store_page **page)
{
	struct store_page **bucket = bucket_of(pages, group, side);
	int error;

	for (struct store_page *found = *bucket; found != NULL; found = found->next) {
		if (found->group == group && found->side == side) {
			*page = found;
			return 0;
		}
	}
	struct store_page *made = malloc(sizeof(*made));

	if (made == NULL)
		return -ENOMEM;
	made->group = group;
	made->side = side;
	made->changed = false;
	made->rows = 0;
	made->durable = false;
	error = page_load(pages->file, made);
	if (error != 0) {
		free(made);
		return error;
	}
	made->next = *bucket;
	*bucket = made;
	pages->count++;
	*page = made;
	return 0;
}

int store_pages_pair(struct store_pages *pages, uint64_t block, struct store_pair *pair)
{
	const struct store_shape *shape = &pages->file->shape;
	uint64_t group = block / shape->rows;

	pair->newest = -1;
	pair->damaged = false;
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		struct store_record_fields *record = &pair->records[side];

		pair->pages[side] = NULL;
		record->kind = STORE_RECORD_EMPTY;
		if (pages->file->descriptors[side] < 0 && !pages->file->lost[side])
			continue;
		int error = store_pages_get(pages, group, side, &pair->pages[side]);

		if (error != 0)
			return error;
		store_record_get(pair->pages[side]->bytes, shape, block, record);
		if (record->kind == STORE_RECORD_DAMAGED) {
			pair->damaged = true;
			rozo_log_limited(ERROR,
				"%s: block %" PRIu64 ": its record is damaged or lost",
				shard_file_name(pages->file, side), block);
		} else if (record->kind == STORE_RECORD_GOOD &&
			   (pair->newest < 0 || store_version_compare(record->version,
							pair->records[pair->newest].version) > 0)) {
			pair->newest = (int)side;
		}
	}
	return 0;
}

static int page_write(struct store_pages *pages, struct store_page *page)
{
	struct shard_file *file = pages->file;
	uint64_t offset = store_page_offset(&file->shape, page->group);
	struct iovec part = {.iov_base = page->bytes, .iov_len = STORE_PAGE_BYTES};
	struct store_header_fields fields = {
		.group = page->group,
		.side = page->side,
		.flags = page->group == 0 && page->side == 0 ? file->flags : 0,
		.write_epoch = file->write_epoch,
		.refused = file->refused,
	};
	uint64_t end = offset + STORE_PAGE_BYTES;
	int error;

	if (page->group == 0) {
		/* Page 0 always tells the newest, so that it need not be written for that alone. */
		fields.groups_durable = shard_file_groups_durable(file, page->side);
		if (fields.groups_durable < file->groups_recorded[page->side])
			fields.groups_durable = file->groups_recorded[page->side];
		file->groups_recorded[page->side] = fields.groups_durable;
	}
	if (file->descriptors[page->side] < 0) {
		error = shard_file_make_side(file, page->side);
		if (error != 0)
			return error;
	}
	store_header_put(page->bytes, &file->key, &file->shape, &fields);
	error = store_io_write_all(
		file->store->io, file->descriptors[page->side], &part, 1, offset);
	if (error != 0) {
		rozo_log_limited(ERROR,
			"%s: the records of group %" PRIu64 " cannot be written: %s",
			shard_file_name(file, page->side), page->group, strerror(-error));
		store_device_error(file->device, error);
		/*
		 * Part of it may be there. Whoever finds that it says already what he wants it to
		 * say must have it flushed, and not take it for durable before.
		 */
		shard_file_redo_short(file);
		shard_file_written(file, page->side, page->group, page->rows, 0);
		return error;
	}
	if (end > file->size_bytes[page->side])
		file->size_bytes[page->side] = end;
	if (page->rows != 0 || page->durable) {
		part = (struct iovec){.iov_base = page->bytes, .iov_len = STORE_PAGE_BYTES};
		shard_file_redo(file, page->side, offset, &part, 1);
		shard_file_written(
			file, page->side, page->group, page->rows, file->size_bytes[page->side]);
		if (page->group == 0 && page->side == 0 && file->epoch_kept != file->write_epoch) {
			file->epoch_kept = file->write_epoch;
			file->epoch_change = shard_file_changes(file);
		}
	}
	page->changed = false;
	return 0;
}

int store_pages_keep_header(struct store_pages *pages)
{
	struct store_page *page;
	int error = store_pages_get(pages, 0, 0, &page);

	if (error != 0)
		return error;
	page->changed = true;
	page->durable = true;
	return 0;
}

void store_pages_note_size(struct store_pages *pages, bool exact)
{
	struct shard_file *file = pages->file;

	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		uint64_t recorded = file->groups_recorded[side], durable;
		struct store_page *page;
		bool first_b;

		if (file->descriptors[side] < 0)
			continue;
		durable = shard_file_groups_durable(file, side);
		first_b = side == 1 && durable > 0 && (file->flags & STORE_FLAG_SIDE_B) == 0;
		if (durable > recorded && (exact || durable > recorded + recorded / 8) &&
			store_pages_get(pages, 0, side, &page) == 0)
			page->changed = true;
		if (first_b && file->descriptors[0] >= 0 &&
			store_pages_get(pages, 0, 0, &page) == 0) {
			file->flags |= STORE_FLAG_SIDE_B;
			page->changed = true;
		}
	}
}

int store_pages_finish(struct store_pages *pages)
{
	uint64_t used[STORE_PAGES_BUCKETS / 64];
	struct store_page **bucket;
	int error = 0;

	memcpy(used, pages->used, sizeof(used));
	while (error == 0 && (bucket = bucket_next(pages, used)) != NULL) {
		for (struct store_page *page = *bucket; page != NULL && error == 0;
			page = page->next) {
			if (page->changed)
				error = page_write(pages, page);
		}
	}
	store_pages_abandon(pages);
	return error;
}

void store_pages_abandon(struct store_pages *pages)
{
	struct store_page **bucket;

	while ((bucket = bucket_next(pages, pages->used)) != NULL) {
		struct store_page *page, *next;

		for (page = *bucket; page != NULL; page = next) {
			next = page->next;
			free(page);
		}
	}
	pages->count = 0;
}
