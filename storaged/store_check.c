/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Checking what lies here without telling it to anybody: the store's part of scrubbing.
 *
 * Reads from the device, not from memory, as far as the operating system lets us: damage on the
 * medium is what is looked for. Holds a file's lock shared for CHECK_BYTES_LOCKED at a time, and
 * exclusive only for the moment of noting what was found.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"

#define CHECK_BYTES_LOCKED (512u << 10) /* read before writers get the lock */

/* One stretch of blocks, under the lock. */
struct stretch {
	struct shard_file *file;
	struct store_pages pages;
	struct store_check *check;
	uint8_t *buffer; /* a shard */
	uint64_t headers[STORE_CHECK_BAD_MAX]; /* group * STORE_SIDES + side: damaged headers */
	size_t header_count;
	/* Of check->bad: bit s: the bytes on side s are bad. */
	uint8_t bytes_bad[STORE_CHECK_BAD_MAX];
	uint8_t records_bad[STORE_CHECK_BAD_MAX]; /* the same for records */
};

/* Checks one version's bytes. Returns 0, or 1 if they are bad. */
static unsigned int bytes_bad(
	struct stretch *stretch, uint64_t block, const struct store_pair *pair, unsigned int side)
{
	const struct store_record_fields *record = &pair->records[side];
	bool zeros = false;

	if (record->kind != STORE_RECORD_GOOD || record->shard_bytes == 0)
		return 0;
	stretch->check->bytes += store_row_part(&stretch->file->shape, record->shard_bytes);
	return store_shard_read(stretch->file, block, side, pair->pages[side], record,
		       stretch->buffer, (int)side != pair->newest ? &zeros : NULL) != 0 &&
	       !zeros;
}

static int check_block(struct stretch *stretch, uint64_t block)
{
	struct store_check *check = stretch->check;
	unsigned int bad_sides = 0;
	struct store_pair pair;
	int error = store_pages_pair(&stretch->pages, block, &pair);

	if (error != 0)
		return error;
	if (pair.newest >= 0) {
		unsigned int newest = (unsigned int)pair.newest;

		bad_sides |= bytes_bad(stretch, block, &pair, newest) << newest;
		/* What is older than a decided version is dropped. */
		if (!pair.records[newest].committed)
			bad_sides |= bytes_bad(stretch, block, &pair, 1 - newest) << (1 - newest);
	}
	if (pair.newest >= 0 || pair.damaged)
		check->blocks++;
	if (bad_sides != 0 || pair.damaged) {
		stretch->bytes_bad[check->bad_count] = (uint8_t)bad_sides;
		stretch->records_bad[check->bad_count] =
			(uint8_t)((pair.records[0].kind == STORE_RECORD_DAMAGED) |
				  (pair.records[1].kind == STORE_RECORD_DAMAGED) << 1);
		check->bad[check->bad_count++] = block;
	}
	return 0;
}

/* Zeros are damage only where records are beside them. */
static bool is_header_damaged(const struct shard_file *file, const struct store_page *page)
{
	enum store_header_verdict verdict = store_header_get(page->bytes, &file->key, NULL, NULL);

	for (size_t i = 0; verdict == STORE_HEADER_ZERO && i < STORE_PAGE_BYTES; i++) {
		if (page->bytes[i] != 0)
			return true;
	}
	return verdict == STORE_HEADER_DAMAGED;
}

/* Notes the headers of a group's pages that are damaged. Returns 0 or a negative errno. */
static int check_headers(struct stretch *stretch, uint64_t group)
{
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		struct store_page *page;
		int error;

		if (stretch->file->descriptors[side] < 0)
			continue;
		error = store_pages_get(&stretch->pages, group, side, &page);
		if (error != 0)
			return error;
		stretch->check->bytes += STORE_PAGE_BYTES;
		if (stretch->header_count < STORE_CHECK_BAD_MAX &&
			is_header_damaged(stretch->file, page))
			stretch->headers[stretch->header_count++] = group * STORE_SIDES + side;
	}
	return 0;
}

/* The device cannot read a page: what is left of its group can only be counted. */
static void pass_over(struct stretch *stretch, uint64_t *block, uint64_t end)
{
	uint64_t rows = stretch->file->shape.rows;
	uint64_t next = (*block / rows + 1) * rows;

	if (next > end)
		next = end;
	rozo_log(WARNING,
		"%s: block %" PRIu64 " and %" PRIu64
		" more cannot be checked: the device cannot read their records",
		shard_file_name(stretch->file, 0), *block, next - *block - 1);
	stretch->check->unreadable += next - *block;
	*block = next;
}

/* What was in memory before is not what is looked for, what is afterwards is not needed. */
static void forget_groups(struct shard_file *file, uint64_t first, uint64_t end)
{
	const struct store_io *io = file->store->io;

	for (unsigned int side = 0; side < STORE_SIDES && io->forget_range != NULL; side++) {
		if (file->descriptors[side] >= 0)
			io->forget_range(file->descriptors[side],
				store_page_offset(&file->shape, first),
				(end - first) * file->shape.group_bytes);
	}
}

/* Checks blocks *block .. end, until enough was read. Called with the lock held. */
static int check_locked(struct stretch *stretch, uint64_t *block, uint64_t end)
{
	struct shard_file *file = stretch->file;
	uint64_t rows = file->shape.rows, first_group = *block / rows, groups;
	uint64_t start = stretch->check->bytes;
	int error = 0;

	groups = CHECK_BYTES_LOCKED / file->shape.group_bytes + 1;
	if ((first_group + groups) * rows < end)
		end = (first_group + groups) * rows;
	forget_groups(file, first_group, first_group + groups);
	store_pages_begin(&stretch->pages, file);
	while (*block < end && error == 0 && stretch->check->bad_count < STORE_CHECK_BAD_MAX &&
		stretch->check->bytes - start < CHECK_BYTES_LOCKED) {
		if (*block % rows == 0)
			error = check_headers(stretch, *block / rows);
		if (error == 0)
			error = check_block(stretch, *block);
		if (error == 0) {
			(*block)++;
		} else if (error != -ENOMEM) {
			pass_over(stretch, block, end);
			error = 0;
		}
	}
	store_pages_abandon(&stretch->pages);
	forget_groups(file, first_group, first_group + groups);
	return error;
}

/*
 * Names what was found, one line for blocks side by side: reads log damage, too, but not more than
 * a line each second.
 */
static void log_found(const struct stretch *stretch)
{
	const struct store_check *check = stretch->check;

	for (unsigned int which = 0; which < 2 * STORE_SIDES; which++) {
		const uint8_t *bad =
			which < STORE_SIDES ? stretch->bytes_bad : stretch->records_bad;
		unsigned int side = which % STORE_SIDES;

		for (size_t i = 0, count; i < check->bad_count; i += count) {
			count = 1;
			if ((bad[i] & (1u << side)) == 0)
				continue;
			while (i + count < check->bad_count &&
				check->bad[i + count] == check->bad[i] + count &&
				(bad[i + count] & (1u << side)) != 0)
				count++;
			rozo_log(WARNING, "%s: found in block %" PRIu64 " and %zu more: %s",
				shard_file_name(stretch->file, side), check->bad[i], count - 1,
				bad == stretch->bytes_bad ? "bytes that do not agree with their CRC"
							  : "a damaged or lost record");
		}
	}
}

/*
 * Sees to it that reads of headers alone know of what was found, and writes page headers anew,
 * whose contents follow from the file's.
 */
static int note_found(struct stretch *stretch)
{
	struct shard_file *file = stretch->file;
	struct store_pages pages;
	uint64_t changes;
	int error = shard_file_lock_exclusive(file);

	if (error != 0)
		return error;
	if (!file->exists || !file->shape_known || file->foreign) {
		shard_file_unlock(file);
		return 0;
	}
	for (size_t i = 0; i < stretch->check->bad_count; i++) {
		uint64_t block = stretch->check->bad[i];

		for (unsigned int side = 0; side < STORE_SIDES; side++) {
			if ((stretch->bytes_bad[i] & (1u << side)) != 0)
				store_mask_add(&file->suspect, block / file->shape.rows, side,
					store_row_bit(&file->shape, block));
		}
	}
	store_pages_begin(&pages, file);
	for (size_t i = 0; i < stretch->header_count && error == 0; i++) {
		struct store_page *page;

		error = store_pages_get(&pages, stretch->headers[i] / STORE_SIDES,
			(unsigned int)(stretch->headers[i] % STORE_SIDES), &page);
		if (error == 0 && is_header_damaged(file, page)) {
			page->changed = true;
			page->durable = true;
			stretch->check->headers_mended++;
			rozo_log(INFO, "%s: the header of group %" PRIu64 " is written anew",
				shard_file_name(file, page->side), page->group);
		}
	}
	if (error == 0 && stretch->header_count > 0)
		error = store_pages_finish(&pages);
	store_pages_abandon(&pages);
	changes = shard_file_changes(file);
	shard_file_unlock(file);
	if (error == 0 && stretch->header_count > 0)
		error = shard_file_flush(file, changes, false);
	return error;
}

int store_check_blocks(struct store *store, const store_file *key, uint64_t first_block,
	uint64_t count, struct store_check *check)
{
	struct stretch stretch = {.check = check};
	uint64_t block = first_block, limit, end;
	int error = -ENOMEM;

	*check = (struct store_check){.next_block = UINT64_MAX};
	stretch.file = shard_file_get(store, key);
	if (stretch.file == NULL)
		return -ENOMEM;
	error = shard_file_lock_shared(stretch.file);
	if (error != 0)
		goto out;
	/* What was moved here from elsewhere, and what nothing is known of, was logged. What should
	 * be in the place of the former cannot be had here. */
	if (!stretch.file->exists || !stretch.file->shape_known || stretch.file->foreign) {
		check->unreadable = stretch.file->exists && stretch.file->foreign;
		shard_file_unlock(stretch.file);
		goto out;
	}
	limit = shard_file_groups(stretch.file) * stretch.file->shape.rows;
	end = limit > block && limit - block > count ? block + count : limit;
	stretch.buffer = malloc(stretch.file->shape.row_bytes + stretch.file->shape.tail_bytes);
	if (stretch.buffer == NULL)
		error = -ENOMEM;
	if (error == 0 && block < end)
		error = check_locked(&stretch, &block, end);
	if (error == 0 && block < limit)
		check->next_block = block;
	if (count > 1)
		log_found(&stretch);
	shard_file_unlock(stretch.file);
	if (error == 0 && (check->bad_count > 0 || stretch.header_count > 0))
		error = note_found(&stretch);
out:
	free(stretch.buffer);
	shard_file_put(stretch.file);
	return error;
}
