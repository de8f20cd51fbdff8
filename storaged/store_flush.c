/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Making store files durable.
 *
 * flush_lock guards what of a file is written and what of that is durable. A flush itself runs
 * without any lock, so that readers and writers go on meanwhile; those that want to be durable and
 * find one running wait for it and then share the next.
 *
 * A flush is a record in the device's log, if all that was written since the last one is known and
 * little; otherwise the sides and the directory are flushed, and the log is told.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_log.h"

#define STREAM_RUN_BYTES (32u << 10) /* of a run; shorter ones are not taken for a stream */
#define STREAM_BYTES (1u << 20) /* written back at a time */

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

/* Called with flush_lock. */
static void redo_forget(struct shard_file *file)
{
	free(file->redo);
	file->redo = NULL;
	file->redo_bytes = 0;
	file->redo_room = 0;
}

/* Room for bytes more, or NULL, and then the rest is not kept. Called with flush_lock. */
static uint8_t *redo_extend(struct shard_file *file, uint64_t bytes)
{
	const struct store_log *log = file->device->log;
	uint32_t room = file->redo_room == 0 ? 8192 : file->redo_room;
	uint8_t *larger;

	if (file->redo_short)
		return NULL;
	if (log == NULL || file->redo_bytes + bytes > store_log_payload_max(log))
		goto too_short;
	while (room < file->redo_bytes + bytes)
		room *= 2;
	if (room > file->redo_room) {
		larger = realloc(file->redo, room);
		if (larger == NULL)
			goto too_short;
		file->redo = larger;
		file->redo_room = room;
	}
	larger = file->redo + file->redo_bytes;
	file->redo_bytes += (uint32_t)bytes;
	return larger;
too_short:
	file->redo_short = true;
	redo_forget(file);
	return NULL;
}

/* How many bytes there are before the zeros at the end. Looks at 64 at a time: pages are many. */
static uint64_t size_without_zeros(const uint8_t *bytes, uint64_t size)
{
	uint64_t words[8], any = 0;

	while (size >= sizeof(words)) {
		memcpy(words, bytes + size - sizeof(words), sizeof(words));
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			any |= words[i];
		if (any != 0)
			break;
		size -= sizeof(words);
	}
	while (size > 0 && bytes[size - 1] == 0)
		size--;
	return size;
}

void shard_file_redo(struct shard_file *file, unsigned int side, uint64_t offset,
	const struct iovec *parts, int count)
{
	struct store_log_extent extent = {.offset = htole64(offset), .side = htole32(side)};
	uint64_t bytes = 0, stored;
	uint8_t *to;

	for (int i = 0; i < count; i++)
		bytes += parts[i].iov_len;
	stored = bytes;
	if (count == 1) {
		/* Most of a group's page is zeros while few blocks of it were written. */
		stored = size_without_zeros(parts[0].iov_base, bytes);
	}
	pthread_mutex_lock(&file->flush_lock);
	/*
	 * The bytes are in the file. A flush of somebody else's that begins before the change is
	 * complete takes what is kept here along, and may not put it into the log.
	 */
	file->dirty[side] = true;
	to = redo_extend(file, sizeof(extent) + store_log_round(stored, 8));
	if (to != NULL) {
		extent.bytes = htole32((uint32_t)bytes);
		extent.stored_bytes = htole32((uint32_t)stored);
		memcpy(to, &extent, sizeof(extent));
		to += sizeof(extent);
		memset(to + stored, 0, store_log_round(stored, 8) - stored);
		for (int i = 0; i < count && stored > 0; i++) {
			size_t part = count == 1 ? stored : parts[i].iov_len;

			memcpy(to, parts[i].iov_base, part);
			to += part;
		}
	}
	pthread_mutex_unlock(&file->flush_lock);
}

void shard_file_redo_short(struct shard_file *file)
{
	pthread_mutex_lock(&file->flush_lock);
	file->redo_short = true;
	for (unsigned int side = 0; side < STORE_SIDES; side++)
		file->dirty[side] = true;
	redo_forget(file);
	pthread_mutex_unlock(&file->flush_lock);
}

void shard_file_forget_changes(struct shard_file *file)
{
	pthread_mutex_lock(&file->flush_lock);
	while (file->flushing)
		pthread_cond_wait(&file->flush_done, &file->flush_lock);
	for (unsigned int side = 0; side < STORE_SIDES; side++)
		file->dirty[side] = false;
	file->dirty_names = false;
	file->side_made = false;
	redo_forget(file);
	file->redo_short = false;
	store_mask_free(&file->unsynced);
	file->durable = file->written;
	/* Whoever is about to flush it tells the log so, and must not do so behind its removal. */
	file->settled = true;
	pthread_cond_broadcast(&file->flush_done);
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

bool shard_file_durable(struct shard_file *file, uint64_t changes)
{
	bool durable;

	pthread_mutex_lock(&file->flush_lock);
	durable = file->settled && file->durable >= changes;
	pthread_mutex_unlock(&file->flush_lock);
	return durable;
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

/* What a flush is for, as it was when it began. */
struct flush {
	struct store_device *device;
	uint64_t target; /* changes */
	uint64_t sizes[STORE_SIDES];
	int descriptors[STORE_SIDES]; /* of sides that are dirty; -1: not this one */
	bool first; /* since the file was opened */
	bool names; /* the directory is dirty */
	bool side_made;
	uint8_t *redo; /* NULL: cannot go to the log */
	uint32_t redo_bytes;
};

/* Puts the changes into the log. Returns false if it does not take them. */
static bool flush_to_log(struct shard_file *file, struct flush *flush, int *error)
{
	uint64_t sequence;

	if (flush->redo == NULL ||
		store_log_append(flush->device->log, STORE_LOG_CHANGE, &file->key, flush->redo,
			flush->redo_bytes, &sequence) != 0)
		return false;
	*error = store_log_wait(flush->device->log, sequence);
	if (*error != 0) {
		char path[STORE_PATH_MAX];

		store_side_path(flush->device, &file->key, 0, path);
		rozo_log(ERROR,
			"%s: flush failed; the store file answers EIO until rozo-storaged is "
			"restarted",
			path);
	}
	return true;
}

/*
 * Flushes the sides and the directory, and tells the log. Returns 0 or a negative errno. *again is
 * set if the directory could not be opened for want of descriptors or memory: nothing is lost then.
 */
static int flush_sides(struct shard_file *file, const struct flush *flush, bool *again)
{
	const struct store_io *io = file->store->io;
	char path[STORE_PATH_MAX];
	int error = 0;

	for (unsigned int side = 0; side < STORE_SIDES && error == 0; side++) {
		if (flush->descriptors[side] < 0)
			continue;
		error = io->sync_data(flush->descriptors[side]);
		if (error != 0)
			store_side_path(flush->device, &file->key, side, path);
	}
	if (flush->names && error == 0) {
		store_side_directory(flush->device, &file->key, path);
		error = io->sync_directory(path);
		*again = error == -EMFILE || error == -ENFILE || error == -ENOMEM;
	}
	if (*again) {
		rozo_log_limited(WARNING, "%s: cannot be flushed now: %s; will be tried again",
			path, strerror(-error));
	} else if (error != 0) {
		rozo_log(ERROR,
			"%s: flush failed: %s; the store file, or one in this directory, answers "
			"EIO until rozo-storaged is restarted",
			path, strerror(-error));
		store_device_error(flush->device, error);
	} else if (flush->device->log != NULL) {
		if (flush->first)
			error = store_log_checkpoint_for(flush->device->log, &file->key);
		if (error == 0)
			error = store_log_clean(flush->device->log, &file->key);
	}
	return error;
}

/* After what a flush is for could not be written, or perhaps not. The file fails. */
static void give_up(const struct shard_file *file, const struct flush *flush)
{
	/* It must not be served from memory after a restart. */
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		if (flush->descriptors[side] >= 0)
			file->store->io->drop_cache(flush->descriptors[side]);
	}
	/* It may have been what a record of the log is for. */
	if (flush->device->log != NULL)
		store_log_pin(flush->device->log);
}

static void add_rows(void *context, uint64_t group, unsigned int side, uint64_t rows)
{
	store_mask_add(context, group, side, rows);
}

/*
 * What a flush was for is left to the next one, which is one of the file. Of a file that has failed
 * there is none, but who is reading it meanwhile must not take its rows for durable. Called with
 * flush_lock.
 */
static void put_off(struct shard_file *file, const struct flush *flush)
{
	for (unsigned int side = 0; side < STORE_SIDES; side++)
		file->dirty[side] = file->dirty[side] || flush->descriptors[side] >= 0;
	file->dirty_names = file->dirty_names || flush->names;
	file->side_made = file->side_made || flush->side_made;
	file->redo_short = true;
	redo_forget(file);
	store_mask_each(&file->syncing, add_rows, &file->unsynced);
	file->unsynced.everything = file->unsynced.everything || file->syncing.everything;
}

/*
 * One flush of what is written by now of a file that has a device. Called with flush_lock, which is
 * released meanwhile. Returns 0; -EIO: the file has failed; or why it cannot be flushed now.
 */
static int flush_once(struct shard_file *file)
{
	struct flush flush = {
		.device = file->device,
		.target = file->written,
		/* The first flush also covers what a process that was killed left unflushed. */
		.first = !file->settled,
		.names = file->dirty_names || !file->settled,
		.side_made = file->side_made,
	};
	bool logged, again = false;
	int error = 0;

	file->flushing = true;
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		flush.descriptors[side] =
			file->dirty[side] || !file->settled ? file->descriptors[side] : -1;
		flush.sizes[side] = file->size_written[side];
		file->dirty[side] = false;
	}
	file->dirty_names = false;
	file->side_made = false;
	if (file->settled && !file->redo_short && file->redo_bytes > 0) {
		flush.redo = file->redo;
		flush.redo_bytes = file->redo_bytes;
		file->redo = NULL;
	}
	redo_forget(file);
	file->redo_short = false;
	file->syncing = file->unsynced;
	file->unsynced = (struct store_mask){0};
	pthread_mutex_unlock(&file->flush_lock);

	logged = flush_to_log(file, &flush, &error);
	if (!logged)
		error = flush_sides(file, &flush, &again);
	free(flush.redo);
	if (error != 0 && !again) {
		give_up(file, &flush);
		error = -EIO;
	}

	pthread_mutex_lock(&file->flush_lock);
	if (error != 0)
		put_off(file, &flush);
	store_mask_free(&file->syncing);
	if (error != 0) {
		file->failed = file->failed || !again;
	} else {
		file->durable = flush.target;
		file->settled = true;
		file->named = file->named ||
			      ((logged ? flush.side_made : flush.names) && !file->side_made);
		for (unsigned int side = 0; side < STORE_SIDES; side++) {
			if (flush.descriptors[side] < 0)
				continue;
			file->size_durable[side] = flush.sizes[side];
			/* When the file itself is flushed, it must not be left out. */
			file->dirty[side] = file->dirty[side] || logged;
		}
		file->dirty_names = file->dirty_names || (logged && flush.names);
	}
	file->flushing = false;
	pthread_cond_broadcast(&file->flush_done);
	return error;
}

int shard_file_flush(struct shard_file *file, uint64_t changes, bool settle)
{
	int error = 0;

	pthread_mutex_lock(&file->flush_lock);
	if (changes > file->written)
		changes = file->written;
	while (error == 0) {
		if (file->failed)
			error = -EIO;
		else if (file->device == NULL ||
			 (file->durable >= changes && (!settle || file->settled)))
			break; /* without a device there is no file: nothing is there to flush */
		else if (file->flushing)
			pthread_cond_wait(&file->flush_done, &file->flush_lock);
		else
			error = flush_once(file);
	}
	pthread_mutex_unlock(&file->flush_lock);
	return error;
}

/* Writes back the sides that are dirty. Returns 0 or a negative errno. */
static int write_back_sides(struct shard_file *file, const struct flush *flush)
{
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		char path[STORE_PATH_MAX];
		int error;

		if (flush->descriptors[side] < 0)
			continue;
		error = file->store->io->write_back(flush->descriptors[side]);
		if (error == 0)
			continue;
		store_side_path(flush->device, &file->key, side, path);
		rozo_log(ERROR,
			"%s: writing back failed: %s; the store file answers EIO until "
			"rozo-storaged is restarted",
			path, strerror(-error));
		store_device_error(flush->device, error);
		return error;
	}
	return 0;
}

void shard_file_streamed(struct shard_file *file, uint64_t bytes)
{
	struct flush flush = {0};
	int error;

	if (bytes < STREAM_RUN_BYTES || file->store->io->write_back == NULL)
		return;
	pthread_mutex_lock(&file->flush_lock);
	file->streamed_bytes += bytes;
	/* A flush that is running does the same, and the rest waits for the next time. */
	if (file->streamed_bytes < STREAM_BYTES || file->flushing || file->failed ||
		file->device == NULL)
		goto out;
	file->streamed_bytes = 0;
	flush.device = file->device;
	for (unsigned int side = 0; side < STORE_SIDES; side++)
		flush.descriptors[side] = file->dirty[side] ? file->descriptors[side] : -1;
	/* The descriptors stay as long as this is set. */
	file->flushing = true;
	pthread_mutex_unlock(&file->flush_lock);

	error = write_back_sides(file, &flush);
	if (error != 0)
		give_up(file, &flush);

	pthread_mutex_lock(&file->flush_lock);
	if (error != 0)
		file->failed = true;
	file->flushing = false;
	pthread_cond_broadcast(&file->flush_done);
out:
	pthread_mutex_unlock(&file->flush_lock);
}
