/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Opening and closing a store, and the table of its store files.
 *
 * A store file in use is one struct shard_file, found by its key; those that nobody uses stay open
 * until there are too many, the least recently used going first. Takes table_lock only; closing a
 * file happens without it, while whoever wants that file waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "storaged/store_internal.h"

#define OTHER_DESCRIPTORS 512 /* left to connections and the rest of the process */

/* Makes room for the descriptors of so many files, or returns how many there is room for. */
static size_t allow_descriptors(size_t files)
{
	size_t needed = files * STORE_SIDES + OTHER_DESCRIPTORS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed)
		return files;
	limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur >= needed)
		return files;
	files = limit.rlim_cur > 2 * OTHER_DESCRIPTORS
			? (limit.rlim_cur - OTHER_DESCRIPTORS) / STORE_SIDES
			: 64;
	rozo_log(WARNING,
		"the limit of open files (RLIMIT_NOFILE) allows %zu open store files only", files);
	return files;
}

int store_open(
	struct store **result, const struct store_options *options, char *error, size_t error_bytes)
{
	struct store *store = calloc(1, sizeof(*store));
	int status = -ENOMEM;

	*result = NULL;
	if (error_bytes > 0)
		error[0] = '\0';
	if (store == NULL)
		return -ENOMEM;
	pthread_mutex_init(&store->table_lock, NULL);
	pthread_cond_init(&store->table_changed, NULL);
	store->io = options->io != NULL ? options->io : &store_io_posix;
	store->open_files_max = allow_descriptors(
		options->open_files_max != 0 ? options->open_files_max : STORE_OPEN_FILES_DEFAULT);
	store->freed_bytes_max = options->freed_bytes_max != 0 ? options->freed_bytes_max
							       : STORE_FREED_BYTES_DEFAULT;
	store->bucket_count = 1024;
	store->buckets = calloc(store->bucket_count, sizeof(*store->buckets));
	if (store->buckets == NULL)
		goto failed;
	if (getrandom(&store->boot, sizeof(store->boot), 0) != sizeof(store->boot)) {
		status = -EIO;
		goto failed;
	}
	status = store_devices_open(store, options, error, error_bytes);
	if (status != 0)
		goto failed;
	*result = store;
	return 0;
failed:
	store_close(store);
	return status;
}

void store_close(struct store *store)
{
	shard_files_close(store);
	store_devices_close(store);
	free(store->buckets);
	pthread_mutex_destroy(&store->table_lock);
	pthread_cond_destroy(&store->table_changed);
	free(store);
}

uint64_t store_boot(const struct store *store)
{
	return store->boot;
}

/* -------- the table -------- */

static bool same_key(const store_file *left, const store_file *right)
{
	return left->file_id == right->file_id && left->segment == right->segment &&
	       left->export_id == right->export_id;
}

static struct shard_file **bucket_of(struct store *store, const store_file *key)
{
	uint64_t hash = (key->file_id * 31 + key->segment) * 31 + key->export_id;

	hash *= UINT64_C(0x9e3779b97f4a7c15);
	return &store->buckets[(hash >> 32) & (store->bucket_count - 1)];
}

static void idle_add(struct store *store, struct shard_file *file)
{
	file->idle_next = NULL;
	file->idle_previous = store->idle_last;
	if (store->idle_last != NULL)
		store->idle_last->idle_next = file;
	else
		store->idle_first = file;
	store->idle_last = file;
}

static void idle_remove(struct store *store, struct shard_file *file)
{
	if (file->idle_previous != NULL)
		file->idle_previous->idle_next = file->idle_next;
	else
		store->idle_first = file->idle_next;
	if (file->idle_next != NULL)
		file->idle_next->idle_previous = file->idle_previous;
	else
		store->idle_last = file->idle_previous;
}

struct shard_file *shard_file_get(struct store *store, const store_file *key)
{
	struct shard_file **bucket = bucket_of(store, key);
	struct shard_file *file;

	pthread_mutex_lock(&store->table_lock);
again:
	for (file = *bucket; file != NULL; file = file->hash_next) {
		if (same_key(&file->key, key))
			break;
	}
	if (file != NULL && file->closing) {
		pthread_cond_wait(&store->table_changed, &store->table_lock);
		goto again;
	}
	if (file == NULL) {
		file = shard_file_create(store, key);
		if (file != NULL) {
			file->hash_next = *bucket;
			*bucket = file;
			store->file_count++;
		}
	} else if (file->references++ == 0 && !file->kept) {
		idle_remove(store, file);
	}
	pthread_mutex_unlock(&store->table_lock);
	return file;
}

/*
 * Closes one file nobody uses. Called with table_lock, which is released meanwhile. Returns false
 * if it cannot be closed now; it is among the idle ones again then.
 */
static bool close_idle(struct store *store, struct shard_file *file)
{
	struct shard_file **link = bucket_of(store, &file->key);
	int error;

	idle_remove(store, file);
	file->closing = true;
	pthread_mutex_unlock(&store->table_lock);
	error = shard_file_close(file);
	pthread_mutex_lock(&store->table_lock);
	if (error == 0) {
		while (*link != file)
			link = &(*link)->hash_next;
		*link = file->hash_next;
		store->file_count--;
		shard_file_destroy(file);
	} else {
		file->closing = false;
		/* It failed: stays, to answer EIO, but holds no descriptors. */
		file->kept = error == -EIO;
		if (!file->kept)
			idle_add(store, file);
	}
	pthread_cond_broadcast(&store->table_changed);
	return error == 0 || error == -EIO;
}

void shard_file_put(struct shard_file *file)
{
	struct store *store = file->store;

	pthread_mutex_lock(&store->table_lock);
	if (--file->references == 0 && !file->kept)
		idle_add(store, file);
	while (store->file_count > store->open_files_max && store->idle_first != NULL) {
		if (!close_idle(store, store->idle_first))
			break;
	}
	pthread_mutex_unlock(&store->table_lock);
}

bool shard_files_punch(struct store *store)
{
	struct shard_file **files;
	size_t count = 0;
	bool any = false;

	/* They may be locked by somebody who waits for the table: so first all, then one by one. */
	pthread_mutex_lock(&store->table_lock);
	files = calloc(store->file_count + 1, sizeof(*files));
	for (size_t i = 0; files != NULL && i < store->bucket_count; i++) {
		for (struct shard_file *file = store->buckets[i]; file; file = file->hash_next) {
			if (file->closing || file->kept)
				continue;
			if (file->references++ == 0)
				idle_remove(store, file);
			files[count++] = file;
		}
	}
	pthread_mutex_unlock(&store->table_lock);
	for (size_t i = 0; i < count; i++) {
		pthread_rwlock_wrlock(&files[i]->lock);
		if (files[i]->exists && files[i]->freed_rows > 0) {
			any = true;
			shard_file_punch(files[i], true);
		}
		pthread_rwlock_unlock(&files[i]->lock);
		shard_file_put(files[i]);
	}
	free(files);
	return any;
}

void shard_files_close(struct store *store)
{
	if (store->buckets == NULL)
		return;
	pthread_mutex_lock(&store->table_lock);
	/* Nobody was promised what of the others is not durable yet, or it is in a log. */
	for (size_t left = store->file_count; left > 0 && store->idle_first != NULL; left--)
		close_idle(store, store->idle_first);
	for (size_t i = 0; i < store->bucket_count; i++) {
		struct shard_file *file, *next;

		for (file = store->buckets[i]; file != NULL; file = next) {
			next = file->hash_next;
			shard_file_destroy(file);
		}
	}
	pthread_mutex_unlock(&store->table_lock);
}
