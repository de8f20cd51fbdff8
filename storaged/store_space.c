/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Giving back the space of dropped versions.
 *
 * A row is noted when nothing needs its bytes any more, and punched later, many at a time: a block
 * that is overwritten again and again alternates between its two rows without the file system ever
 * having to allocate. On a device that is running full they are punched at once. Where all versions
 * of a group's side were dropped the whole group goes, its page, too, so that a file overwritten
 * from end to end costs one call. What is noted is lost with the process; the rows are then given
 * back when they are next dropped.
 *
 * Called with the file's lock held exclusively.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"

uint64_t shard_file_groups(const struct shard_file *file)
{
	uint64_t bytes = file->size_bytes[0] > file->size_bytes[1] ? file->size_bytes[0]
								   : file->size_bytes[1];
	uint64_t groups;

	if (!file->shape_known)
		return 0;
	groups = (bytes + file->shape.group_bytes - 1) / file->shape.group_bytes;
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		if (file->groups_recorded[side] > groups)
			groups = file->groups_recorded[side];
	}
	return groups;
}

void shard_file_free_row(struct shard_file *file, uint64_t block, unsigned int side)
{
	store_mask_add(
		&file->freed, block / file->shape.rows, side, store_row_bit(&file->shape, block));
	file->freed_rows++;
}

void shard_file_keep_row(struct shard_file *file, uint64_t block, unsigned int side)
{
	store_mask_remove(
		&file->freed, block / file->shape.rows, side, store_row_bit(&file->shape, block));
}

struct noted {
	uint64_t group;
	uint64_t rows;
	unsigned int side;
	bool whole; /* the page, too */
};

struct noted_list {
	struct noted *items;
	size_t count, room;
};

static void punch(struct shard_file *file, unsigned int side, uint64_t offset, uint64_t bytes)
{
	int error = file->store->io->punch(file->descriptors[side], offset, bytes);

	if (error != 0 && error != -EOPNOTSUPP) {
		rozo_log_limited(WARNING, "%s: space cannot be given back: %s",
			shard_file_name(file, side), strerror(-error));
		store_device_error(file->device, error);
	}
}

static void punch_rows(struct shard_file *file, const struct noted *noted)
{
	uint64_t rows = noted->rows;

	while (rows != 0) {
		unsigned int first = (unsigned int)__builtin_ctzll(rows);
		uint64_t above = ~(rows >> first);
		unsigned int count = above == 0 ? 64 - first : (unsigned int)__builtin_ctzll(above);

		punch(file, noted->side,
			store_row_offset(&file->shape, noted->group * file->shape.rows + first),
			(uint64_t)count * file->shape.row_bytes);
		if (first + count >= 64)
			break;
		rows &= ~UINT64_C(0) << (first + count);
	}
}

static void note(void *context, uint64_t group, unsigned int side, uint64_t rows)
{
	struct noted_list *list = context;

	if (list->count < list->room)
		list->items[list->count++] = (struct noted){
			.group = group,
			.side = side,
			.rows = rows,
		};
}

static void count_one(void *context, uint64_t group, unsigned int side, uint64_t rows)
{
	struct noted_list *list = context;

	(void)group;
	(void)side;
	list->room += rows != 0;
}

static int by_place(const void *left, const void *right)
{
	const struct noted *a = left, *b = right;

	if (a->side != b->side)
		return a->side < b->side ? -1 : 1;
	return a->group < b->group ? -1 : a->group > b->group;
}

/*
 * True if no record of this side of the group is needed: all rows are noted, and each record is
 * EMPTY or older than a committed one on the other side. Page 0 has the file's header and stays.
 */
static bool all_dropped(struct shard_file *file, const struct noted *noted)
{
	uint64_t first = noted->group * file->shape.rows;
	struct store_pages pages;
	bool dropped = noted->group != 0;

	if (__builtin_popcountll(noted->rows) != (int)file->shape.rows)
		return false;
	store_pages_begin(&pages, file);
	for (uint32_t row = 0; row < file->shape.rows && dropped; row++) {
		unsigned int other = 1 - noted->side;
		struct store_pair pair;

		dropped = store_pages_pair(&pages, first + row, &pair) == 0 && !pair.damaged &&
			  (pair.records[noted->side].kind == STORE_RECORD_EMPTY ||
				  (pair.newest == (int)other && pair.records[other].committed));
	}
	store_pages_abandon(&pages);
	return dropped;
}

/* Punches whole groups that lie one behind the other together. Returns how many items it did. */
static size_t punch_groups(struct shard_file *file, const struct noted *items, size_t count)
{
	size_t n = 1;

	while (n < count && items[n].whole && items[n].side == items[0].side &&
		items[n].group == items[0].group + n)
		n++;
	punch(file, items[0].side, store_page_offset(&file->shape, items[0].group),
		n * file->shape.group_bytes);
	return n;
}

void shard_file_punch(struct shard_file *file, bool all)
{
	struct noted_list list = {0};
	bool any_whole = false;

	if (file->freed_rows == 0)
		return;
	all = all || atomic_load(&file->device->low);
	if (!all && file->freed_rows * file->shape.row_bytes < file->store->freed_bytes_max)
		return;
	store_mask_each(&file->freed, count_one, &list);
	list.items = malloc((list.room + 1) * sizeof(*list.items));
	if (list.items == NULL)
		return; /* stays noted */
	store_mask_each(&file->freed, note, &list);
	store_mask_free(&file->freed);
	file->freed_rows = 0;
	qsort(list.items, list.count, sizeof(*list.items), by_place);
	for (size_t i = 0; i < list.count; i++) {
		list.items[i].whole = all_dropped(file, &list.items[i]);
		any_whole = any_whole || list.items[i].whole;
	}
	for (size_t i = 0, done; i < list.count; i += done) {
		struct noted *noted = &list.items[i];

		done = 1;
		if (file->descriptors[noted->side] < 0)
			continue;
		if (noted->whole) {
			done = punch_groups(file, noted, list.count - i);
		} else if (all || !any_whole) {
			punch_rows(file, noted);
		} else {
			/* Its other rows may be dropped soon, too. */
			store_mask_add(&file->freed, noted->group, noted->side, noted->rows);
			file->freed_rows += (uint64_t)__builtin_popcountll(noted->rows);
		}
	}
	free(list.items);
}
