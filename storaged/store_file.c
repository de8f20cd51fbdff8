/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * One store file: finding it on the devices, making, closing and removing it, and what is to be
 * done when it is not as it was left.
 *
 * Takes shard_file.lock for its callers, and flush_lock where descriptors change hands.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "storaged/store_log.h"
#include "storaged/store_procedures.h"

/* Where a header is looked for if that of page 0 is unreadable. */
#define SEARCH_BYTES_MAX (64u << 20)
/* Of the pages of a side, so many are looked at while a caller waits: some seconds of a disk. */
#define SEARCH_PAGES_MAX 256
#define GIVE_WAY_MAX 1000 /* times 100 us */

const char *shard_file_name(const struct shard_file *file, unsigned int side)
{
	static _Thread_local char name[STORE_PATH_MAX];

	if (file->device == NULL)
		return "(not made yet)";
	store_side_path(file->device, &file->key, side, name);
	return name;
}

struct shard_file *shard_file_create(struct store *store, const store_file *key)
{
	struct shard_file *file = calloc(1, sizeof(*file));
	pthread_rwlockattr_t attributes;

	if (file == NULL)
		return NULL;
	file->store = store;
	file->key = *key;
	file->references = 1;
	file->descriptors[0] = file->descriptors[1] = -1;
	/* Readers come and come again: who changes the file must not wait until there are none. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&file->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	pthread_mutex_init(&file->flush_lock, NULL);
	pthread_cond_init(&file->flush_done, NULL);
	return file;
}

/*
 * Closes both sides and forgets what of them was to be flushed. Nobody else uses the file, or the
 * lock is held exclusively; who has let go of that to flush then finds nothing that is to be
 * flushed.
 */
static void close_sides(struct shard_file *file)
{
	shard_file_forget_changes(file);
	pthread_mutex_lock(&file->flush_lock);
	while (file->flushing)
		pthread_cond_wait(&file->flush_done, &file->flush_lock);
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		if (file->descriptors[side] >= 0)
			file->store->io->close(file->descriptors[side]);
		file->descriptors[side] = -1;
		file->size_written[side] = 0;
		file->size_durable[side] = 0;
	}
	file->named = false;
	file->settled = false;
	file->device = NULL;
	pthread_mutex_unlock(&file->flush_lock);
}

void shard_file_destroy(struct shard_file *file)
{
	close_sides(file);
	store_mask_free(&file->freed);
	store_mask_free(&file->suspect);
	store_mask_free(&file->unsynced);
	store_mask_free(&file->syncing);
	pthread_rwlock_destroy(&file->lock);
	pthread_mutex_destroy(&file->flush_lock);
	pthread_cond_destroy(&file->flush_done);
	free(file);
}

int shard_file_close(struct shard_file *file)
{
	int error = 0;

	pthread_rwlock_wrlock(&file->lock);
	if (file->opened && file->exists) {
		struct store_pages pages;

		shard_file_punch(file, true);
		error = shard_file_flush(file, UINT64_MAX, false);
		/* Only tells how much of the file is to be expected next time; no need to flush it.
		 * The page 0 of another file stays what it is: it may be moved back. */
		store_pages_begin(&pages, file);
		if (error == 0 && file->shape_known && !file->foreign) {
			store_pages_note_size(&pages, true);
			store_pages_finish(&pages);
		}
		store_pages_abandon(&pages);
	}
	/* How far the search has come is known here only: begun anew again and again, while many
	 * other files are used, it would never end. */
	if (file->search.put_off)
		error = -EBUSY;
	if (error == 0 || error == -EIO) {
		close_sides(file);
		file->exists = false; /* it has no device any more */
	}
	pthread_rwlock_unlock(&file->lock);
	return error;
}

/* -------- opening -------- */

static int read_page(
	struct shard_file *file, unsigned int side, uint64_t offset, uint8_t page[STORE_PAGE_BYTES])
{
	struct iovec part = {.iov_base = page, .iov_len = STORE_PAGE_BYTES};
	ssize_t bytes =
		store_io_read_all(file->store->io, file->descriptors[side], &part, 1, offset);

	if (bytes < 0) {
		store_device_error(file->device, (int)bytes);
		return (int)bytes;
	}
	memset(page + bytes, 0, STORE_PAGE_BYTES - (size_t)bytes);
	return 0;
}

/* Looks for a sound header that tells the file's shape. */
static int find_shape(struct shard_file *file, unsigned int side)
{
	uint8_t page[STORE_PAGE_BYTES];
	uint64_t end = file->size_bytes[side];
	int error = 0;

	if (end > SEARCH_BYTES_MAX)
		end = SEARCH_BYTES_MAX;
	for (uint64_t offset = 0; offset < end && error == 0 && !file->shape_known;
		offset += STORE_PAGE_BYTES) {
		error = read_page(file, side, offset, page);
		file->shape_known = error == 0 && store_header_get(page, &file->key, NULL,
							  &file->shape) == STORE_HEADER_GOOD;
	}
	return error;
}

/* Page 0 is to be sought anew. */
static void search_forget(struct shard_file *file)
{
	file->search = (struct store_search){.device = file->device};
}

/*
 * Page 0 of a side is unreadable: looks for another sound header, for the file's shape, and for the
 * largest write epoch in any header or record. Returns -EBUSY when it has looked at many pages: the
 * next one who wants the file goes on from there.
 */
static int recover_header(struct shard_file *file, unsigned int side)
{
	struct store_search *search = &file->search;
	uint64_t *offset = &search->offset[side];
	uint8_t page[STORE_PAGE_BYTES];
	int error = file->shape_known ? 0 : find_shape(file, side);

	if (error != 0 || !file->shape_known)
		return error;
	/* Not for a copy that was only looked at: this one would begin anew each time. */
	if (search->device != file->device)
		search_forget(file);
	for (unsigned int pages = 0; *offset < file->size_bytes[side];
		*offset += file->shape.group_bytes, pages++) {
		struct store_header_fields fields;

		if (pages == SEARCH_PAGES_MAX) {
			rozo_log_limited(WARNING,
				"%s: what page 0 said is sought in the others, %" PRIu64
				" of %" PRIu64 " MiB so far; answers EIO until then",
				shard_file_name(file, side), *offset >> 20,
				file->size_bytes[side] >> 20);
			search->put_off = true;
			atomic_fetch_add(&file->searches_put_off, 1);
			return -EBUSY;
		}
		error = read_page(file, side, *offset, page);
		if (error != 0)
			return error;
		if (store_header_get(page, &file->key, &fields, NULL) != STORE_HEADER_GOOD)
			continue;
		if (fields.write_epoch > search->write_epoch)
			search->write_epoch = fields.write_epoch;
		if (store_version_compare(fields.refused, search->refused) > 0)
			search->refused = fields.refused;
		for (unsigned int row = 0; row < file->shape.rows; row++) {
			struct store_record_fields record;

			store_record_get(
				page, &file->shape, fields.group * file->shape.rows + row, &record);
			if (record.kind == STORE_RECORD_GOOD &&
				record.version.generation >> 40 > search->write_epoch)
				search->write_epoch = (uint32_t)(record.version.generation >> 40);
		}
	}
	if (search->write_epoch > file->write_epoch)
		file->write_epoch = search->write_epoch;
	if (store_version_compare(search->refused, file->refused) > 0)
		file->refused = search->refused;
	return 0;
}

/*
 * If a side is shorter than it once was, puts pages of lost records where pages are missing: a
 * later write behind them must not turn them into a hole, which is EMPTY.
 */
static int mend_cut(struct shard_file *file, unsigned int side)
{
	uint64_t had = file->groups_recorded[side], size = file->size_bytes[side];
	uint8_t page[STORE_PAGE_BYTES];
	int error = 0;

	if (file->foreign || file->descriptors[side] < 0 || had == 0 ||
		size >= store_page_offset(&file->shape, had - 1) + STORE_PAGE_BYTES)
		return 0;
	rozo_log(ERROR,
		"%s: cut short: %" PRIu64 " bytes, at least %" PRIu64 " groups of %" PRIu64
		" were there; the blocks behind are damaged",
		shard_file_name(file, side), size, had, file->shape.group_bytes);
	for (uint64_t group = size / file->shape.group_bytes; group < had && error == 0; group++) {
		uint64_t offset = store_page_offset(&file->shape, group);
		struct iovec part = {.iov_base = page, .iov_len = STORE_PAGE_BYTES};

		if (offset + STORE_PAGE_BYTES <= size)
			continue;
		store_page_fill_lost(page);
		if (offset < size) {
			/* Cut in two: what is left of it stays. */
			error = read_page(file, side, offset, page);
			memset(page + (size - offset), 0xff, STORE_PAGE_BYTES - (size - offset));
		}
		if (error == 0)
			error = store_io_write_all(
				file->store->io, file->descriptors[side], &part, 1, offset);
		file->size_bytes[side] = offset + STORE_PAGE_BYTES;
	}
	shard_file_redo_short(file);
	if (error == 0)
		shard_file_written(file, side, 0, 0, file->size_bytes[side]);
	else
		store_device_error(file->device, error);
	return error;
}

/*
 * Notes whether a side is lost: it is not there, or has not even its page 0, and the other one says
 * that it was. It then is made again as a whole when it is next written to.
 */
static void note_loss(struct shard_file *file, unsigned int side)
{
	bool there = file->descriptors[side] >= 0;

	if (there && (file->foreign || file->size_bytes[side] >= STORE_PAGE_BYTES))
		return;
	if (side == 0)
		file->lost[0] = !there || file->groups_recorded[1] > 0;
	else
		file->lost[1] = (file->flags & STORE_FLAG_SIDE_B) != 0;
	if (!file->lost[side])
		return;
	rozo_log(ERROR, "%s: missing%s, the other side is there; its blocks are damaged",
		shard_file_name(file, side), there ? " but for a name: cut short" : "");
	if (there) {
		pthread_mutex_lock(&file->flush_lock);
		file->store->io->close(file->descriptors[side]);
		file->descriptors[side] = -1;
		pthread_mutex_unlock(&file->flush_lock);
		file->size_bytes[side] = 0;
	}
}

/* Reads page 0 of each side. Sets what is known of the file. */
static int load_headers(struct shard_file *file)
{
	bool recover[STORE_SIDES] = {false}, sound[STORE_SIDES] = {false};

	file->blank = true;
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		struct store_header_fields fields;
		enum store_header_verdict verdict;
		struct store_shape shape;
		uint8_t page[STORE_PAGE_BYTES];
		int error;

		if (file->descriptors[side] < 0)
			continue;
		error = file->store->io->size(file->descriptors[side], &file->size_bytes[side]);
		if (error == 0)
			error = read_page(file, side, 0, page);
		if (error != 0)
			return error;
		verdict = store_header_get(page, &file->key, &fields, &shape);
		if (verdict == STORE_HEADER_GOOD && (fields.group != 0 || fields.side != side))
			verdict = STORE_HEADER_FOREIGN;
		switch (verdict) {
		case STORE_HEADER_GOOD:
			sound[side] = true;
			if (!file->shape_known) {
				file->shape = shape;
				file->shape_known = true;
			}
			file->groups_recorded[side] = fields.groups_durable;
			if (fields.write_epoch > file->write_epoch)
				file->write_epoch = file->epoch_kept = fields.write_epoch;
			if (store_version_compare(fields.refused, file->refused) > 0)
				file->refused = fields.refused;
			if (side == 0)
				file->flags = fields.flags;
			break;
		case STORE_HEADER_FOREIGN:
			rozo_log(ERROR,
				"%s: is another store file, moved here: move it back, or remove it "
				"and let the "
				"shards be healed",
				shard_file_name(file, side));
			file->foreign = true;
			break;
		case STORE_HEADER_NEWER:
			rozo_log(ERROR,
				"%s: has a newer format than this program knows: use the version "
				"of "
				"rozo-storaged that made it, or a newer one",
				shard_file_name(file, side));
			file->foreign = true;
			break;
		case STORE_HEADER_DAMAGED:
			file->blank = false;
			/* fallthrough */
		case STORE_HEADER_ZERO:
			/* An empty file is what a crash leaves of one that was never flushed. */
			recover[side] = file->size_bytes[side] > 0;
			break;
		}
	}
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		int error = 0;

		note_loss(file, side);
		if (!recover[side] || file->lost[side])
			continue;
		if (!file->search.put_off)
			rozo_log(ERROR,
				"%s: the header of page 0 is damaged; using what others say",
				shard_file_name(file, side));
		/* What it says counts only if that of side a cannot. */
		if (!sound[0])
			error = recover_header(file, side);
		if (error != 0)
			return error;
	}
	if (file->shape_known || file->foreign)
		file->blank = false;
	file->flags_lost = file->lost[0] || recover[0];
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		int error = mend_cut(file, side);

		if (error != 0)
			return error;
	}
	return 0;
}

/* Opens both sides on one device. Returns 0 (also if there are none) or a negative errno. */
static int open_sides(struct store *store, struct store_device *device, const store_file *key,
	int descriptors[STORE_SIDES])
{
	char path[STORE_PATH_MAX];

	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		store_side_path(device, key, side, path);
		descriptors[side] = store->io->open(path, O_RDWR, 0);
		if (descriptors[side] >= 0 || descriptors[side] == -ENOENT)
			continue;
		rozo_log_limited(ERROR, "%s: %s", path, strerror(-descriptors[side]));
		store_device_error(device, descriptors[side]);
		if (side > 0 && descriptors[0] >= 0)
			store->io->close(descriptors[0]);
		return descriptors[side];
	}
	return 0;
}

static void forget(struct shard_file *file)
{
	close_sides(file);
	file->exists = false;
	file->made_here = false;
	file->foreign = false;
	file->blank = false;
	file->copied = false;
	file->shape_known = false;
	file->write_epoch = 0;
	file->epoch_kept = 0;
	file->epoch_change = 0;
	file->refused = (store_version){0};
	file->refused_change = 0;
	file->dropped_change = 0;
	file->flags = 0;
	file->flags_lost = false;
	file->marked = false;
	store_mask_free(&file->freed);
	store_mask_free(&file->suspect);
	file->freed_rows = 0;
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		file->lost[side] = false;
		file->size_bytes[side] = 0;
		file->groups_recorded[side] = 0;
	}
}

/*
 * Whether page 0 of a side a says that the file was made while a device was out of service. Returns
 * 0 or a negative errno.
 */
static int is_degraded(struct store *store, const store_file *key, int descriptor, bool *degraded)
{
	struct store_header_fields fields;
	uint8_t page[STORE_PAGE_BYTES];
	struct iovec part = {.iov_base = page, .iov_len = STORE_PAGE_BYTES};
	ssize_t bytes = 0;

	if (descriptor >= 0)
		bytes = store_io_read_all(store->io, descriptor, &part, 1, 0);
	*degraded = bytes == STORE_PAGE_BYTES &&
		    store_header_get(page, key, &fields, NULL) == STORE_HEADER_GOOD &&
		    (fields.flags & STORE_FLAG_DEGRADED) != 0;
	return bytes < 0 ? (int)bytes : 0;
}

static void close_both(struct store *store, const int descriptors[STORE_SIDES])
{
	for (unsigned int side = 0; side < STORE_SIDES; side++) {
		if (descriptors[side] >= 0)
			store->io->close(descriptors[side]);
	}
}

/* The mark of a file made while a device was out of service, if it may have been. */
static uint32_t degraded_unless_known(const struct shard_file *file)
{
	if (!file->exists)
		return 0;
	/* A blank one has no mark yet. */
	if (file->blank ? store_device_any_failed(file->store)
			: file->flags_lost && file->store->device_count > 1)
		return STORE_FLAG_DEGRADED;
	return 0;
}

/*
 * Makes durable what the file has: who left it may have died before it was, and after a loss of
 * power it would be the older copy that counts.
 */
static int settle_newer(struct shard_file *file)
{
	struct store_device *device = file->device;
	const struct store_io *io = file->store->io;
	char path[STORE_PATH_MAX];
	int error = 0;

	for (unsigned int side = 0; side < STORE_SIDES && error == 0; side++) {
		if (file->descriptors[side] < 0)
			continue;
		error = io->sync_data(file->descriptors[side]);
		if (error == 0)
			continue;
		/* As after any flush that failed. */
		io->drop_cache(file->descriptors[side]);
		if (device->log != NULL)
			store_log_pin(device->log);
		pthread_mutex_lock(&file->flush_lock);
		file->failed = true;
		pthread_mutex_unlock(&file->flush_lock);
	}
	store_side_directory(device, &file->key, path);
	if (error == 0)
		error = io->sync_directory(path);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
		store_device_error(device, error);
	}
	return error;
}

/* The names of a copy are gone from a device: makes that durable, and tells what else has them. */
static int finish_copy(struct shard_file *file, struct store_device *device)
{
	char path[STORE_PATH_MAX];
	int error;

	store_side_directory(device, &file->key, path);
	error = file->store->io->sync_directory(path);
	if (error == 0 || error == -ENOENT)
		error = store_marker_remove(file->store, device, &file->key);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
		store_device_error(device, error);
		return error;
	}
	/* Its records would bring the file back. */
	return device->log == NULL ? 0 : store_log_clean(device->log, &file->key);
}

/*
 * Gives the sides that a device has of the file, which is used on another one, names that the store
 * does not look for: were they all that is left one day, what they say would be taken for the
 * truth. Side b first, as when they are removed. Interrupted, it is done again by who looks next.
 */
static int set_aside(struct shard_file *file, struct store_device *device)
{
	char path[STORE_PATH_MAX], aside[STORE_PATH_MAX];
	bool renamed = false;
	int error = 0;

	for (int side = STORE_SIDES - 1; side >= 0 && (error == 0 || error == -ENOENT); side--) {
		store_side_path(device, &file->key, (unsigned int)side, path);
		error = store_side_name_with(path, STORE_SUPERSEDED, aside);
		if (error == 0)
			error = file->store->io->rename(path, aside);
		renamed = renamed || error == 0;
	}
	if (error != 0 && error != -ENOENT) {
		rozo_log_limited(ERROR, "%s: cannot be renamed: %s", path, strerror(-error));
		store_device_error(device, error);
		return error;
	}
	error = finish_copy(file, device);
	if (error == 0 && renamed)
		rozo_log(WARNING,
			"%s: superseded by the one on %s, and set aside as *" STORE_SUPERSEDED
			": it can be removed when the node has been scrubbed",
			path, file->device->path);
	return error;
}

/*
 * What page 0 said was sought for long: it is written there again, so that who opens the file next
 * finds it. If that fails it is sought again.
 */
static void keep_found(struct shard_file *file)
{
	struct store_pages pages;

	store_pages_begin(&pages, file);
	if (!file->foreign && file->descriptors[0] >= 0 && store_pages_keep_header(&pages) == 0)
		store_pages_finish(&pages);
	store_pages_abandon(&pages);
}

/* Looks for the file on all devices. Called with the lock held exclusively. Returns 0, -EIO,
 * -ENOMEM, or -EBUSY: it is not known yet what page 0 said, see recover_header(). */
static int look_for(struct shard_file *file)
{
	struct store *store = file->store;
	bool copied = false;
	int error = 0;

	atomic_store(&file->searching, file->search.put_off);
	for (size_t i = 0; i < store->device_count; i++) {
		struct store_device *device =
			&store->devices[(file->key.file_id + i) % store->device_count];
		int descriptors[STORE_SIDES];

		if (atomic_load(&device->failed))
			continue;
		error = open_sides(store, device, &file->key, descriptors);
		if (error != 0)
			goto failed;
		if (descriptors[0] < 0 && descriptors[1] < 0)
			continue;
		/* Who made a side again may have been killed. If it cannot be removed now, the next
		 * one who looks tries again. */
		store_sides_remove_unfinished(store->io, device, &file->key);
		if (file->exists) {
			/* Made anew while the device with the other one was out of service. */
			bool newer, keep;

			error = is_degraded(store, &file->key, descriptors[0], &newer);
			if (error != 0) {
				store_device_error(device, error);
				close_both(store, descriptors);
				goto failed;
			}
			/* Of one that lost its side a it is not known that it was marked. */
			keep = !file->blank &&
			       (!newer || (file->flags & (STORE_FLAG_DEGRADED | STORE_FLAG_CUT)) ==
						  STORE_FLAG_DEGRADED);
			rozo_log(ERROR,
				"%s: also on device %s: it was made anew while a device was out of "
				"service; "
				"using the one on %s",
				shard_file_name(file, 0), device->path,
				keep ? file->device->path : device->path);
			copied = true;
			if (keep) {
				close_both(store, descriptors);
				continue;
			}
			forget(file);
		}
		file->exists = true;
		pthread_mutex_lock(&file->flush_lock);
		file->device = device;
		file->descriptors[0] = descriptors[0] >= 0 ? descriptors[0] : -1;
		file->descriptors[1] = descriptors[1] >= 0 ? descriptors[1] : -1;
		pthread_mutex_unlock(&file->flush_lock);
		error = load_headers(file);
		if (error != 0)
			goto failed;
	}
	/* Of a blank one, and of one that is another file, it is not known that it is newer. */
	if (copied && !file->blank && !file->foreign) {
		error = settle_newer(file);
		for (size_t i = 0; i < store->device_count && error == 0; i++) {
			struct store_device *device = &store->devices[i];

			if (device != file->device && !atomic_load(&device->failed))
				error = set_aside(file, device);
		}
		if (error != 0)
			goto failed;
	}
	file->copied = copied;
	file->flags |= degraded_unless_known(file) | (file->lost[0] ? STORE_FLAG_CUT : 0);
	if (file->exists) {
		pthread_mutex_lock(&file->flush_lock);
		for (unsigned int side = 0; side < STORE_SIDES; side++)
			file->size_written[side] = file->size_bytes[side];
		pthread_mutex_unlock(&file->flush_lock);
	}
	file->opened = true;
	if (file->search.put_off && file->exists && file->search.device == file->device)
		keep_found(file);
	search_forget(file);
	atomic_store(&file->searching, false);
	return 0;
failed:
	forget(file);
	atomic_store(&file->searching, false);
	return error == -ENOMEM || error == -EBUSY ? error : -EIO;
}

/* What a file that is locked and was looked for answers. */
static int usable(struct shard_file *file)
{
	bool failed;

	pthread_mutex_lock(&file->flush_lock);
	failed = file->failed;
	pthread_mutex_unlock(&file->flush_lock);
	if (failed || (file->exists && atomic_load(&file->device->failed)))
		return -EIO;
	return 0;
}

static void lock_to_change(struct shard_file *file)
{
	atomic_fetch_add(&file->lock_wanted, 1);
	pthread_rwlock_wrlock(&file->lock);
	atomic_fetch_add(&file->lock_taken, 1);
}

static void lock_to_read(struct shard_file *file)
{
	atomic_fetch_add(&file->lock_wanted, 1);
	pthread_rwlock_rdlock(&file->lock);
	atomic_fetch_add(&file->lock_taken, 1);
}

int shard_file_lock_exclusive(struct shard_file *file)
{
	unsigned int put_off = atomic_load(&file->searches_put_off);
	int error;

	/* That takes seconds, and is not the end of it: of many who wait for each other, and then
	 * go on with it themselves, the last one would be answered after minutes. */
	if (atomic_load(&file->searching))
		return -EBUSY;
	lock_to_change(file);
	error = usable(file);
	if (error == 0 && !file->opened)
		error = put_off == atomic_load(&file->searches_put_off) ? look_for(file) : -EBUSY;
	if (error != 0)
		pthread_rwlock_unlock(&file->lock);
	return error;
}

int shard_file_lock_to_remove(struct shard_file *file)
{
	int error;

	lock_to_change(file);
	if (file->exists && atomic_load(&file->device->failed)) {
		forget(file);
		file->opened = false;
	}
	error = usable(file);
	/* What cannot be opened is removed by its names: no byte of it is needed for that. */
	if (error == 0 && !file->opened && look_for(file) != 0)
		error = usable(file);
	if (error != 0)
		pthread_rwlock_unlock(&file->lock);
	return error;
}

int shard_file_lock_shared(struct shard_file *file)
{
	int error;

	if (atomic_load(&file->searching))
		return -EBUSY;
	lock_to_read(file);
	while (!file->opened) {
		pthread_rwlock_unlock(&file->lock);
		error = shard_file_lock_exclusive(file);
		if (error != 0)
			return error;
		pthread_rwlock_unlock(&file->lock);
		lock_to_read(file);
	}
	error = usable(file);
	if (error == 0 && !file->exists && store_device_any_failed(file->store))
		error = -EIO; /* it may be on the device that failed */
	if (error != 0)
		pthread_rwlock_unlock(&file->lock);
	return error;
}

void shard_file_unlock(struct shard_file *file)
{
	pthread_rwlock_unlock(&file->lock);
}

void shard_file_give_way(struct shard_file *file)
{
	unsigned int wanted = atomic_load(&file->lock_wanted);

	/* Both go round and round. Not for ever: who has it may keep it for as long as a disk
	 * takes. */
	for (unsigned int i = 0;
		i < GIVE_WAY_MAX && (int)(wanted - atomic_load(&file->lock_taken)) > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* -------- making and removing -------- */

/* Sees to it that the names of the sides are durable. Returns 0 or a negative errno. */
static int name_durably(struct shard_file *file)
{
	char path[STORE_PATH_MAX];
	int error;

	pthread_mutex_lock(&file->flush_lock);
	bool named = file->named;
	pthread_mutex_unlock(&file->flush_lock);
	if (named)
		return 0;
	store_side_directory(file->device, &file->key, path);
	error = file->store->io->sync_directory(path);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
		store_device_error(file->device, error);
		return error;
	}
	pthread_mutex_lock(&file->flush_lock);
	file->named = true;
	pthread_mutex_unlock(&file->flush_lock);
	return 0;
}

/*
 * Makes a lost side again: a page of lost records for each group, so that nobody takes what was
 * there for EMPTY. It gets its name when all that is durable: a part of it would be taken for the
 * whole. Returns a descriptor or a negative errno.
 */
static int make_again(struct shard_file *file, unsigned int side, const char *path)
{
	const struct store_io *io = file->store->io;
	char unfinished[STORE_PATH_MAX];
	uint8_t bytes[STORE_PAGE_BYTES];
	uint64_t groups = shard_file_groups(file), end = 0;
	int error = store_side_name_with(path, STORE_UNFINISHED, unfinished);
	int descriptor =
		error != 0 ? error : io->open(unfinished, O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (descriptor < 0)
		return descriptor;
	store_page_fill_lost(bytes);
	for (uint64_t group = 0; group < groups && error == 0; group++) {
		struct iovec part = {.iov_base = bytes, .iov_len = STORE_PAGE_BYTES};

		if (group == 0) {
			const struct store_header_fields fields = {
				.side = side,
				.flags = side == 0 ? file->flags : 0,
				.write_epoch = file->write_epoch,
				.refused = file->refused,
			};
			store_header_put(bytes, &file->key, &file->shape, &fields);
		} else if (group == 1) {
			store_page_fill_lost(bytes);
		}
		end = store_page_offset(&file->shape, group);
		error = store_io_write_all(io, descriptor, &part, 1, end);
		end += STORE_PAGE_BYTES;
	}
	if (error == 0)
		error = io->sync_data(descriptor);
	if (error == 0)
		error = io->rename(unfinished, path);
	if (error == 0) {
		file->size_bytes[side] = end;
		return descriptor;
	}
	io->close(descriptor);
	io->remove(unfinished);
	return error;
}

int shard_file_make_side(struct shard_file *file, unsigned int side)
{
	char path[STORE_PATH_MAX];
	int descriptor;

	if (side > 0) {
		/* Side b without side a is taken for a loss, so its name must not be durable first.
		 */
		int error = name_durably(file);

		if (error != 0)
			return error;
	}
	store_side_path(file->device, &file->key, side, path);
	descriptor = file->lost[side]
			     ? make_again(file, side, path)
			     : file->store->io->open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (descriptor < 0) {
		rozo_log_limited(ERROR, "%s: cannot be made: %s", path, strerror(-descriptor));
		store_device_error(file->device, descriptor);
		return descriptor;
	}
	/* First, so that no flush takes the side for named without it. */
	shard_file_redo(file, side, 0, NULL, 0);
	pthread_mutex_lock(&file->flush_lock);
	file->descriptors[side] = descriptor;
	file->dirty_names = true;
	file->named = false;
	file->side_made = true;
	pthread_mutex_unlock(&file->flush_lock);
	if (file->lost[side]) {
		/* What the log would make of it is a part, too. */
		shard_file_redo_short(file);
		shard_file_written(file, side, 0, 0, file->size_bytes[side]);
		file->lost[side] = false;
	}
	return 0;
}

int shard_file_make(struct shard_file *file, const struct store_shape *shape)
{
	struct store_device *device = store_device_choose(file->store);
	int error;

	if (device == NULL)
		return -EIO;
	error = store_device_make_directory(file->store, device, &file->key);
	if (error != 0) {
		rozo_log_limited(ERROR, "%s: a directory for shards cannot be made: %s",
			device->path, strerror(-error));
		store_device_error(device, error);
		return error;
	}
	pthread_mutex_lock(&file->flush_lock);
	file->device = device;
	pthread_mutex_unlock(&file->flush_lock);
	file->flags = store_device_any_failed(file->store) ? STORE_FLAG_DEGRADED : 0;
	error = shard_file_make_side(file, 0);
	if (error != 0)
		return error;
	file->shape = *shape;
	file->shape_known = true;
	file->exists = true;
	file->made_here = true;
	pthread_mutex_lock(&file->flush_lock);
	file->settled = true;
	pthread_mutex_unlock(&file->flush_lock);
	return 0;
}

int shard_file_make_header(struct shard_file *file, const struct store_shape *shape)
{
	if (file->exists && file->foreign)
		return -EIO;
	if (file->exists)
		return shard_file_check(file, shape);
	if (store_device_any_failed(file->store))
		return -EIO;
	file->shape = *shape;
	return shard_file_make(file, shape);
}

/*
 * Sees to it that a device has nothing of the file, which it does not use. Also if there is nothing
 * to be seen: it may have been removed by a process that was killed before that was durable, or the
 * log could not be told.
 */
static int remove_copy(struct shard_file *file, struct store_device *device)
{
	char path[STORE_PATH_MAX];
	int error = store_sides_remove(file->store->io, device, &file->key);

	if (error != 0) {
		store_side_directory(device, &file->key, path);
		rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
		store_device_error(device, error);
		return error;
	}
	return finish_copy(file, device);
}

static int remove_copies(struct shard_file *file)
{
	struct store *store = file->store;
	int error = 0;

	for (size_t i = 0; i < store->device_count && error == 0; i++) {
		struct store_device *device = &store->devices[i];

		if (device != file->device && !atomic_load(&device->failed))
			error = remove_copy(file, device);
	}
	return error;
}

/*
 * Makes it durable that the file is removed, before it is. Returns true if so: it then is removed
 * after a crash, too, and its directory need not be flushed. The log is held then.
 */
static bool log_removal(struct shard_file *file, int *error)
{
	struct store_log *log = file->device->log;
	uint64_t sequence;

	if (log == NULL ||
		store_log_append(log, STORE_LOG_REMOVE, &file->key, NULL, 0, &sequence) != 0)
		return false;
	*error = store_log_wait(log, sequence);
	return true;
}

static int remove_used(struct shard_file *file)
{
	struct store_device *device = file->device;
	struct store_log *log = device->log;
	char path[STORE_PATH_MAX];
	int error = 0;
	bool logged;

	/* Nothing of it may come into the log behind this. */
	shard_file_forget_changes(file);
	logged = log_removal(file, &error);
	if (error == 0)
		error = store_sides_remove(file->store->io, device, &file->key);
	if (error == 0 && !logged) {
		store_side_directory(device, &file->key, path);
		error = file->store->io->sync_directory(path);
	}
	if (error == 0)
		error = store_marker_remove(file->store, device, &file->key);
	if (logged)
		store_log_release(log);
	else if (error == 0 && log != NULL)
		error = store_log_clean(log, &file->key);
	if (error != 0) {
		store_side_path(device, &file->key, 0, path);
		rozo_log_limited(ERROR, "%s: cannot be removed: %s", path, strerror(-error));
		store_device_error(device, error);
		if (logged) {
			/* It will be gone when the store is opened again, so nothing may be
			 * written to it. */
			pthread_mutex_lock(&file->flush_lock);
			file->failed = true;
			pthread_mutex_unlock(&file->flush_lock);
		}
	}
	/* What is left of it is looked for again. */
	file->opened = error == 0;
	forget(file);
	return error;
}

int shard_file_remove(struct shard_file *file)
{
	const bool existed = file->exists;
	/* The others have something only if it was made while one of them was out of service. */
	bool others = !existed || file->copied || (file->flags & STORE_FLAG_DEGRADED) != 0;
	/* The one that is used at the last: as long as it is there the older ones do not count. */
	int error = others ? remove_copies(file) : 0;

	search_forget(file);
	if (error == 0 && existed)
		error = remove_used(file);
	if (error != 0)
		return -EIO;
	if (!others || !store_device_any_failed(file->store))
		return 0;
	return existed ? -EXDEV : -ENODEV;
}
