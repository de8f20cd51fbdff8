/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Making store files durable.
 *
 * flush_lock guards what of a file is written and what of that is durable. A flush itself runs
 * without any lock, so that readers and writers go on meanwhile; those that want to be durable and
 * find one running wait for it and then share the next.
 */
#include <errno.h>
#include <string.h>

#include "storaged/store_internal.h"

void shard_file_written(
	struct shard_file *file, unsigned int side, uint64_t group, uint64_t rows, uint64_t end)
{
	pthread_mutex_lock(&file->flush_lock);
	file->written++;
	file->dirty[side] = true;
	if (end > file->size_written[side])
		file->size_written[side] = end;
	store_mask_add(&file->unsynced, group, side, rows);
	pthread_mutex_unlock(&file->flush_lock);
}

uint64_t shard_file_groups_durable(struct shard_file *file, unsigned int side)
{
	uint64_t bytes;

	pthread_mutex_lock(&file->flush_lock);
	bytes = file->size_durable[side];
	pthread_mutex_unlock(&file->flush_lock);
	return (bytes + file->shape.group_bytes - 1) / file->shape.group_bytes;
}

uint64_t shard_file_changes(struct shard_file *file)
{
	uint64_t changes;

	pthread_mutex_lock(&file->flush_lock);
	changes = file->written;
	pthread_mutex_unlock(&file->flush_lock);
	return changes;
}

bool shard_file_settled(struct shard_file *file)
{
	bool settled;

	pthread_mutex_lock(&file->flush_lock);
	settled = file->settled;
	pthread_mutex_unlock(&file->flush_lock);
	return settled;
}

uint64_t shard_file_unsynced(struct shard_file *file, uint64_t group, unsigned int side)
{
	uint64_t rows;

	pthread_mutex_lock(&file->flush_lock);
	rows = store_mask_get(&file->unsynced, group, side) |
	       store_mask_get(&file->syncing, group, side);
	pthread_mutex_unlock(&file->flush_lock);
	return rows;
}

/* One flush of what is written by now. Called with flush_lock, which is released meanwhile. */
static void flush_once(struct shard_file *file)
{
	const struct store_io *io = file->store->io;
	struct store_device *device = file->device;
	uint64_t target = file->written;
	uint64_t sizes[STORE_SIDES];
	int descriptors[STORE_SIDES];
	/* The first flush also covers what a process that was killed left unflushed. */
	bool names = file->dirty_names || !file->settled;
	char path[STORE_PATH_MAX];
	int error = 0;

	file->flushing = true;
	if (file->device == NULL)
		names = false; /* removed meanwhile */
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		descriptors[side] =
			file->dirty[side] || !file->settled ? file->descriptors[side] : -1;
		sizes[side] = file->size_written[side];
		file->dirty[side] = false;
	}
	file->dirty_names = false;
	file->syncing = file->unsynced;
	file->unsynced = (struct store_mask){0};
	pthread_mutex_unlock(&file->flush_lock);

	for (unsigned int side = 0; side < STORE_SIDES && error == 0; side++) {
		if (descriptors[side] < 0)
			continue;
		error = io->sync_data(descriptors[side]);
		if (error != 0) {
			store_side_path(device, &file->key, side, path);
			rozo_log(ERROR,
				"%s: flush failed: %s; the store file answers EIO until "
				"rozo-storaged is "
				"restarted",
				path, strerror(-error));
		}
	}
	if (names && error == 0) {
		store_side_directory(device, &file->key, path);
		error = io->sync_directory(path);
		if (error != 0)
			rozo_log(ERROR,
				"%s: flush failed: %s; a store file in it answers EIO until "
				"rozo-storaged is "
				"restarted",
				path, strerror(-error));
	}
	if (error != 0) {
		store_device_error(file->store, device, error);
		/* What could not be written must not be served from memory after a restart. */
		for (unsigned int side = 0; side < STORE_SIDES; side++) {
			if (descriptors[side] >= 0)
				io->drop_cache(descriptors[side]);
		}
	}

	pthread_mutex_lock(&file->flush_lock);
	store_mask_free(&file->syncing);
	if (error != 0) {
		file->failed = true;
	} else {
		file->durable = target;
		file->settled = true;
		file->named = file->named || (names && !file->dirty_names);
		for (unsigned int side = 0; side < STORE_SIDES; side++) {
			if (descriptors[side] >= 0)
				file->size_durable[side] = sizes[side];
		}
	}
	file->flushing = false;
	pthread_cond_broadcast(&file->flush_done);
}

int shard_file_flush(struct shard_file *file, uint64_t changes, bool settle)
{
	int error = 0;

	pthread_mutex_lock(&file->flush_lock);
	if (changes > file->written)
		changes = file->written;
	while (true) {
		if (file->failed) {
			error = -EIO;
			break;
		}
		if (file->durable >= changes && (!settle || file->settled))
			break;
		if (file->flushing)
			pthread_cond_wait(&file->flush_done, &file->flush_lock);
		else
			flush_once(file);
	}
	pthread_mutex_unlock(&file->flush_lock);
	return error;
}
