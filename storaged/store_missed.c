/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The record of missed writes, for the healer: which files have one, and which blocks of them.
 *
 * A marker file says that a store file may have blocks with missed shards; the records of the
 * blocks say which. A marker is removed by the scan that finds no such block, if none was added
 * meanwhile. Takes file locks shared while it looks, exclusive for the moment of removing a marker.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"

/* What a block has on record. As long as the newest version may be dropped, the older one counts.
 */
static uint32_t missed_of(const struct store_pair *pair)
{
	const struct store_record_fields *newest, *older;
	uint32_t missed;

	if (pair->newest < 0)
		return 0;
	newest = &pair->records[pair->newest];
	older = &pair->records[1 - pair->newest];
	missed = newest->missed;
	if (!newest->committed && older->kind == STORE_RECORD_GOOD)
		missed |= older->missed;
	return missed;
}

/* Looks at blocks *block .. end as far as the lock may be held. Fills in what it finds, moves
 * *block on. */
static int find_missed(struct shard_file *file, uint64_t *block, uint64_t end,
	struct store_missed_block *blocks, size_t max, size_t *count)
{
	struct store_pages pages;
	int error = 0;

	store_pages_begin(&pages, file);
	for (; *block < end && *count < max && pages.count < STORE_PAGES_LOCKED; (*block)++) {
		struct store_pair pair;
		uint32_t missed;

		error = store_pages_pair(&pages, *block, &pair);
		if (error != 0)
			break;
		missed = missed_of(&pair);
		if (missed != 0)
			blocks[(*count)++] =
				(struct store_missed_block){.block = *block, .missed = missed};
	}
	store_pages_abandon(&pages);
	return error;
}

int store_missed_blocks(struct store *store, const store_file *key, uint64_t first_block,
	struct store_missed_block *blocks, size_t max, size_t *count, uint64_t *next_block)
{
	struct shard_file *file = shard_file_get(store, key);
	uint64_t block = first_block;
	int error = 0;

	*count = 0;
	*next_block = UINT64_MAX;
	if (file == NULL)
		return -ENOMEM;
	while (error == 0 && *count < max) {
		uint64_t limit;

		error = shard_file_lock_shared(file);
		if (error != 0)
			break;
		limit = shard_file_groups(file) * file->shape.rows;
		if (block < limit)
			error = find_missed(file, &block, limit, blocks, max, count);
		*next_block = block < limit ? block : UINT64_MAX;
		shard_file_unlock(file);
		if (block >= limit)
			break;
		shard_file_give_way(file);
	}
	shard_file_put(file);
	return error;
}

struct marker_list {
	store_file *files;
	size_t count, room;
};

bool store_marker_parse(const char *name, store_file *file)
{
	uint64_t file_id;
	uint32_t export_id, segment;
	int length = 0;

	if (sscanf(name, "%" SCNx32 ".%16" SCNx64 ".%" SCNx32 "%n", &export_id, &file_id, &segment,
		    &length) != 3 ||
		name[length] != '\0')
		return false;
	*file = (store_file){.export_id = export_id, .segment = segment, .file_id = file_id};
	return true;
}

static int list_marker(void *context, const char *name)
{
	struct marker_list *list = context;
	store_file file;

	if (!store_marker_parse(name, &file))
		return 0; /* not ours */
	if (list->count == list->room) {
		size_t room = list->room == 0 ? 64 : list->room * 2;
		store_file *files = realloc(list->files, room * sizeof(*files));

		if (files == NULL)
			return -ENOMEM;
		list->files = files;
		list->room = room;
	}
	list->files[list->count++] = file;
	return 0;
}

/* Looks whether a marked file has missed blocks; if not, removes its marker. */
static int scan_file(struct store *store, struct store_device *device, const store_file *key,
	bool *missed, struct store_missed_file *told)
{
	struct shard_file *file = shard_file_get(store, key);
	struct store_missed_block block;
	uint64_t changes, next;
	size_t count;
	bool readable;
	int error;

	*missed = false;
	if (file == NULL)
		return -ENOMEM;
	error = shard_file_lock_shared(file);
	if (error != 0)
		goto out;
	changes = file->missed_changes;
	/* Its header is damaged, or another file's: what it has on record cannot be told. */
	readable = !file->exists || file->shape_known;
	if (file->exists && file->shape_known) {
		*told = (struct store_missed_file){
			.file = *key,
			.geometry = store_shape_geometry(&file->shape),
			.shard = file->shape.shard,
		};
	}
	shard_file_unlock(file);
	error = store_missed_blocks(store, key, 0, &block, 1, &count, &next);
	*missed = error == 0 && count > 0;
	if (error != 0 || *missed || !readable)
		goto out;
	/* What was cleared has to be durable before the marker goes: it is, by STORE_MISSED. */
	error = shard_file_lock_exclusive(file);
	if (error != 0)
		goto out;
	if (file->missed_changes == changes) {
		error = store_marker_remove(store, device, key);
		if (error == 0)
			file->marked = false;
	}
	shard_file_unlock(file);
out:
	shard_file_put(file);
	return error;
}

int store_missed_scan(struct store *store, store_missed_each each, void *context)
{
	int result = 0;

	for (size_t i = 0; i < store->device_count; i++) {
		struct store_device *device = &store->devices[i];
		struct marker_list list = {0};
		char path[STORE_PATH_MAX];
		int error;

		if (atomic_load(&device->failed))
			continue;
		snprintf(path, sizeof(path), "%s/missed", device->path);
		error = store->io->list(path, list_marker, &list);
		if (error != 0) {
			rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
			store_device_error(device, error);
			result = result != 0 ? result : error;
		}
		for (size_t j = 0; j < list.count; j++) {
			struct store_missed_file told;
			bool missed;

			error = scan_file(store, device, &list.files[j], &missed, &told);
			if (error != 0)
				result = result != 0 ? result : error;
			if (error != 0 || !missed)
				continue;
			error = each(context, &told);
			if (error != 0) {
				free(list.files);
				return error;
			}
		}
		free(list.files);
	}
	return result;
}
