/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The devices of a store: paths on them, directories, room, markers of missed writes, failures.
 *
 * Takes a device's names_lock while directories and markers are made, which is seldom.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_log.h"

#define HASH_DIRECTORIES 64
/* Less is told as none: most writes are refused, and nobody should be given more to keep. */
#define LEAST_ROOM (UINT64_C(1) << 20)

/* An export whose hash directories are known to be durable. */
struct store_names {
	struct store_names *next;
	uint32_t export_id;
};

static unsigned int hash_directory(const store_file *file)
{
	uint64_t hash = (file->file_id + file->segment) * UINT64_C(0x9e3779b97f4a7c15);

	return (unsigned int)(hash >> 58);
}

void store_side_directory(
	const struct store_device *device, const store_file *file, char path[STORE_PATH_MAX])
{
	snprintf(path, STORE_PATH_MAX, "%s/shards/%" PRIx32 "/%02x", device->path, file->export_id,
		hash_directory(file));
}

void store_side_path(const struct store_device *device, const store_file *file, unsigned int side,
	char path[STORE_PATH_MAX])
{
	snprintf(path, STORE_PATH_MAX, "%s/shards/%" PRIx32 "/%02x/%016" PRIx64 ".%" PRIx32 ".%c",
		device->path, file->export_id, hash_directory(file), (uint64_t)file->file_id,
		file->segment, "ab"[side]);
}

int store_side_name_with(const char *path, const char *behind, char name[STORE_PATH_MAX])
{
	return snprintf(name, STORE_PATH_MAX, "%s%s", path, behind) < STORE_PATH_MAX
		       ? 0
		       : -ENAMETOOLONG;
}

static int remove_if_there(const struct store_io *io, const char *path)
{
	int error = io->remove(path);

	return error == -ENOENT ? 0 : error;
}

int store_sides_remove_unfinished(
	const struct store_io *io, const struct store_device *device, const store_file *file)
{
	char path[STORE_PATH_MAX], unfinished[STORE_PATH_MAX];
	int error = 0;

	for (unsigned int side = 0; side < STORE_SIDES && error == 0; side++) {
		store_side_path(device, file, side, path);
		/* What has too long a name was never made. */
		if (store_side_name_with(path, STORE_UNFINISHED, unfinished) == 0)
			error = remove_if_there(io, unfinished);
	}
	return error;
}

/* Side b before side a: side a alone is a file, side b alone is one that lost its side a. What was
 * left of making them first: nobody looks for it when the sides are gone. */
int store_sides_remove(
	const struct store_io *io, const struct store_device *device, const store_file *file)
{
	char path[STORE_PATH_MAX];
	int error = store_sides_remove_unfinished(io, device, file);

	for (int side = STORE_SIDES - 1; side >= 0 && error == 0; side--) {
		store_side_path(device, file, (unsigned int)side, path);
		error = remove_if_there(io, path);
	}
	return error;
}

/* Makes a directory and makes its name durable, also if somebody else has just made it. */
static int make_durably(const struct store_io *io, const char *parent, const char *path)
{
	int error = io->make_directory(path, 0700);

	if (error != 0 && error != -EEXIST)
		return error;
	return io->sync_directory(parent);
}

int store_device_make_directory(
	struct store *store, struct store_device *device, const store_file *file)
{
	char shards[STORE_PATH_MAX], export[STORE_PATH_MAX], directory[STORE_PATH_MAX];
	struct store_names *names;
	int error = 0;

	pthread_mutex_lock(&device->names_lock);
	for (names = device->names; names != NULL; names = names->next) {
		if (names->export_id == file->export_id)
			goto out;
	}
	snprintf(shards, sizeof(shards), "%s/shards", device->path);
	if (snprintf(export, sizeof(export), "%s/%" PRIx32, shards, file->export_id) >=
		(int)sizeof(export)) {
		error = -ENAMETOOLONG;
		goto out;
	}
	error = make_durably(store->io, shards, export);
	/* ext4 would put all of them into one block group, and search its inodes for each new file.
	 */
	if (error == 0 && store->io->spread_directory != NULL)
		store->io->spread_directory(export);
	/* All at once, so that one flush does for all and no write of a file has to wait for one.
	 */
	for (unsigned int hash = 0; hash < HASH_DIRECTORIES && error == 0; hash++) {
		if (snprintf(directory, sizeof(directory), "%s/%02x", export, hash) >=
			(int)sizeof(directory))
			error = -ENAMETOOLONG;
		else
			error = store->io->make_directory(directory, 0700);
		if (error == -EEXIST)
			error = 0;
	}
	if (error == 0)
		error = store->io->sync_directory(export);
	if (error != 0)
		goto out;
	names = calloc(1, sizeof(*names));
	if (names == NULL) {
		error = -ENOMEM;
		goto out;
	}
	names->export_id = file->export_id;
	names->next = device->names;
	device->names = names;
out:
	pthread_mutex_unlock(&device->names_lock);
	return error;
}

void store_device_error(struct store_device *device, int error)
{
	if (error != -EIO && error != -EROFS && error != -ENODEV && error != -ENXIO &&
		error != -ESTALE && error != -EUCLEAN)
		return;
	if (atomic_fetch_add(&device->errors, 1) + 1 < STORE_DEVICE_ERRORS_MAX)
		return;
	if (!atomic_exchange(&device->failed, true))
		rozo_log(ERROR,
			"%s: taken out of service after %d I/O errors (the last: %s): replace the "
			"disk, or "
			"mend it and restart rozo-storaged",
			device->path, STORE_DEVICE_ERRORS_MAX, strerror(-error));
}

void store_device_row_error(struct store_device *device, const store_file *file, unsigned int side,
	uint64_t block, int error)
{
	const uint64_t prime = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t row = (file->file_id * prime + file->segment) * prime + file->export_id;

	row = ((row * prime + block) * STORE_SIDES + side) * prime;
	for (unsigned int i = 0; i < STORE_DEVICE_ERRORS_MAX; i++) {
		uint64_t other = 0;

		if (atomic_compare_exchange_strong(&device->unreadable[i], &other, row))
			break;
		if (other == row)
			return;
	}
	store_device_error(device, error);
}

/* What new data may use of the free space. */
static uint64_t usable(const struct store_space *space)
{
	uint64_t reserve =
		STORE_RESERVE_PAGES(space->total_bytes) + STORE_RESERVE_FLIGHT(space->total_bytes);

	return space->free_bytes > reserve ? space->free_bytes - reserve : 0;
}

int store_device_room(
	struct store *store, struct store_device *device, uint64_t bytes, bool overwriting)
{
	struct store_space space;
	bool low;
	int error;

	if (atomic_load(&device->failed))
		return -EIO;
	error = store->io->space(device->path, &space);
	if (error != 0) {
		store_device_error(device, error);
		return -EIO;
	}
	low = usable(&space) < bytes;
	atomic_store(&device->low, low);
	if (low && !(overwriting && space.free_bytes >=
					    STORE_RESERVE_FLIGHT(space.total_bytes) / 4 + bytes)) {
		rozo_log_limited(WARNING,
			"%s: full: %" PRIu64 " MiB of %" PRIu64
			" MiB free are the reserve; writes are refused",
			device->path, space.free_bytes >> 20, space.total_bytes >> 20);
		return -ENOSPC;
	}
	return 0;
}

struct store_device *store_device_choose(struct store *store)
{
	struct store_device *best = NULL;
	struct store_space space;
	uint64_t most = 0;

	for (size_t i = 0; i < store->device_count; i++) {
		struct store_device *device = &store->devices[i];

		if (atomic_load(&device->failed))
			continue;
		if (store->device_count == 1)
			return device;
		if (store->io->space(device->path, &space) != 0)
			continue;
		if (best == NULL || usable(&space) > most) {
			best = device;
			most = usable(&space);
		}
	}
	return best;
}

bool store_device_any_failed(const struct store *store)
{
	for (size_t i = 0; i < store->device_count; i++) {
		if (atomic_load(&store->devices[i].failed))
			return true;
	}
	return false;
}

size_t store_capacity(struct store *store, struct store_capacity *devices, size_t count)
{
	for (size_t i = 0; i < store->device_count && i < count; i++) {
		struct store_device *device = &store->devices[i];
		struct store_space space = {0};
		bool serves = !atomic_load(&device->failed) &&
			      store->io->space(device->path, &space) == 0;

		devices[i] = (struct store_capacity){
			.path = device->path,
			.in_service = serves,
			.total_bytes = serves ? space.total_bytes : 0,
			.free_bytes = serves && usable(&space) >= LEAST_ROOM ? usable(&space) : 0,
		};
	}
	return store->device_count;
}

static void marker_path(
	const struct store_device *device, const store_file *file, char path[STORE_PATH_MAX])
{
	snprintf(path, STORE_PATH_MAX, "%s/missed/%" PRIx32 ".%016" PRIx64 ".%" PRIx32,
		device->path, file->export_id, (uint64_t)file->file_id, file->segment);
}

static int sync_markers(struct store *store, const struct store_device *device)
{
	char path[STORE_PATH_MAX];

	snprintf(path, sizeof(path), "%s/missed", device->path);
	return store->io->sync_directory(path);
}

int store_marker_make(struct store *store, struct store_device *device, const store_file *file)
{
	char path[STORE_PATH_MAX];
	int descriptor;

	marker_path(device, file, path);
	descriptor = store->io->open(path, O_WRONLY | O_CREAT, 0600);
	if (descriptor < 0)
		return descriptor;
	store->io->close(descriptor);
	return sync_markers(store, device);
}

int store_marker_remove(struct store *store, struct store_device *device, const store_file *file)
{
	char path[STORE_PATH_MAX];
	int error;

	marker_path(device, file, path);
	error = store->io->remove(path);
	if (error == -ENOENT)
		return 0;
	return error != 0 ? error : sync_markers(store, device);
}

static void device_close(const struct store_io *io, struct store_device *device)
{
	struct store_names *names, *next;

	store_log_close(device->log);
	for (names = device->names; names != NULL; names = next) {
		next = names->next;
		free(names);
	}
	if (device->label_descriptor >= 0)
		io->close(device->label_descriptor);
	pthread_mutex_destroy(&device->names_lock);
	free(device->path);
	free(device->id);
}

void store_devices_close(struct store *store)
{
	for (size_t i = 0; i < store->device_count; i++)
		device_close(store->io, &store->devices[i]);
	free(store->devices);
	store->devices = NULL;
	store->device_count = 0;
}

/* Adds a line to a text of lines, as far as there is room. */
static void add_line(char *text, size_t text_bytes, const char *line)
{
	size_t length = strnlen(text, text_bytes);

	if (length + 1 < text_bytes)
		snprintf(text + length, text_bytes - length, "%s%s", length > 0 ? "\n" : "", line);
}

int store_devices_open(
	struct store *store, const struct store_options *options, char *error, size_t error_bytes)
{
	size_t serving = 0;
	int refused = 0;

	if (error_bytes > 0)
		error[0] = '\0';
	store->devices = calloc(options->device_count, sizeof(*store->devices));
	if (store->devices == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < options->device_count; i++) {
		struct store_device *device = &store->devices[i];
		char message[STORE_PATH_MAX + 256] = "";
		int result;

		pthread_mutex_init(&device->names_lock, NULL);
		device->label_descriptor = -1;
		store->device_count++;
		device->path = strdup(options->devices[i]);
		if (device->path == NULL)
			return -ENOMEM;
		result = store_label_open(store->io, device->path, options->cluster_id,
			options->node_id, &device->label_descriptor, &device->id, message,
			sizeof(message));
		if (result == 0) {
			int log_result =
				store_log_open(store, device, options, message, sizeof(message));

			if (log_result == 0) {
				serving++;
				continue;
			}
			/* Another device may serve; what is wrong with this one is said. */
			result = log_result == -ENOMEM ? -ENOMEM : -EIO;
		}
		atomic_store(&device->failed, true);
		add_line(error, error_bytes, message);
		rozo_log(ERROR, "%s", message);
		if (result == -EINVAL || result == -EBUSY || result == -ENOMEM)
			refused = result;
		else
			rozo_log(ERROR, "%s: out of service until rozo-storaged is restarted",
				device->path);
	}
	if (refused != 0)
		return refused;
	return serving > 0 ? 0 : -ENODEV;
}
