/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See store_faulty_io.h. */
#include "store_faulty_io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512
#define DESCRIPTORS_MAX 4096

/* A file as it is on the medium. */
struct shadow {
	struct shadow *next;
	char *path;
	uint8_t *bytes;
	uint64_t size;
	bool named; /* its name is on the medium */
	bool removed; /* removed, which is not yet on the medium */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool remembering;
static _Atomic bool dead;
static struct shadow *shadows;
static struct shadow *of_descriptor[DESCRIPTORS_MAX];
static int sync_after = -1, writes_left = -1;
static bool file_system_fails, write_back_fails, writes_torn;
static uint64_t free_bytes = UINT64_MAX;
static unsigned int syncs, write_backs;

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "faulty_io: %s: %s\n", what, strerror(errno));
		abort();
	}
}

static void shadow_load(struct shadow *shadow)
{
	int file = open(shadow->path, O_RDONLY | O_CLOEXEC);
	struct stat status;

	must(file >= 0 && fstat(file, &status) == 0, shadow->path);
	shadow->size = (uint64_t)status.st_size;
	shadow->bytes = realloc(shadow->bytes, shadow->size + 1);
	must(shadow->bytes != NULL, "memory");
	must(pread(file, shadow->bytes, shadow->size, 0) == (ssize_t)shadow->size, "read");
	close(file);
}

static struct shadow *shadow_find(const char *path)
{
	for (struct shadow *shadow = shadows; shadow != NULL; shadow = shadow->next) {
		if (strcmp(shadow->path, path) == 0)
			return shadow;
	}
	return NULL;
}

/* What had the name is replaced. */
static void shadow_forget(const char *path)
{
	for (struct shadow **link = &shadows; *link != NULL; link = &(*link)->next) {
		struct shadow *shadow = *link;

		if (strcmp(shadow->path, path) != 0)
			continue;
		*link = shadow->next;
		free(shadow->path);
		free(shadow->bytes);
		free(shadow);
		return;
	}
}

static void shadow_free_all(void)
{
	while (shadows != NULL) {
		struct shadow *next = shadows->next;

		free(shadows->path);
		free(shadows->bytes);
		free(shadows);
		shadows = next;
	}
	memset(of_descriptor, 0, sizeof(of_descriptor));
}

void faulty_reset(void)
{
	shadow_free_all();
	remembering = false;
	dead = false;
	sync_after = -1;
	writes_left = -1;
	free_bytes = UINT64_MAX;
	syncs = write_backs = 0;
	file_system_fails = write_back_fails = writes_torn = false;
}

void faulty_file_system(bool fails)
{
	file_system_fails = fails;
}

void faulty_write_back(bool fails)
{
	write_back_fails = fails;
}

void faulty_sync_after(int count)
{
	sync_after = count;
}

void faulty_writes_left(int count)
{
	writes_left = count;
}

void faulty_writes_torn(bool torn)
{
	writes_torn = torn;
}

void faulty_free_bytes(uint64_t bytes)
{
	free_bytes = bytes;
}

unsigned int faulty_syncs(void)
{
	return syncs;
}

unsigned int faulty_write_backs(void)
{
	return write_backs;
}

void faulty_dead(bool now)
{
	dead = now;
}

void faulty_remember(void)
{
	remembering = true;
}

static int faulty_open(const char *path, int flags, mode_t mode)
{
	bool existed = access(path, F_OK) == 0;
	int descriptor = store_io_posix.open(path, flags, mode);

	if (descriptor < 0 || !remembering || descriptor >= DESCRIPTORS_MAX)
		return descriptor;
	pthread_mutex_lock(&lock);
	struct shadow *shadow = shadow_find(path);

	if (shadow == NULL) {
		shadow = calloc(1, sizeof(*shadow));
		must(shadow != NULL, "memory");
		shadow->path = strdup(path);
		shadow->named = existed;
		if (existed)
			shadow_load(shadow);
		shadow->next = shadows;
		shadows = shadow;
	}
	shadow->removed = false;
	of_descriptor[descriptor] = shadow;
	pthread_mutex_unlock(&lock);
	return descriptor;
}

static void faulty_close(int descriptor)
{
	pthread_mutex_lock(&lock);
	if (descriptor < DESCRIPTORS_MAX)
		of_descriptor[descriptor] = NULL;
	pthread_mutex_unlock(&lock);
	store_io_posix.close(descriptor);
}

static ssize_t faulty_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (dead) {
		ssize_t bytes = 0;

		for (int i = 0; i < count; i++)
			bytes += (ssize_t)parts[i].iov_len;
		return bytes;
	}
	if (writes_left == 0) {
		struct iovec half = {
			.iov_base = parts[0].iov_base, .iov_len = parts[0].iov_len / 2};

		if (writes_torn)
			store_io_posix.write(descriptor, &half, 1, offset);
		return -ENOSPC;
	}
	if (writes_left > 0)
		writes_left--;
	return store_io_posix.write(descriptor, parts, count, offset);
}

static int faulty_sync_data(int descriptor)
{
	int error = 0;

	if (dead)
		return 0;
	pthread_mutex_lock(&lock);
	syncs++;
	if (sync_after == 0)
		error = -EIO;
	if (sync_after >= 0)
		sync_after--;
	if (error == 0 && descriptor < DESCRIPTORS_MAX && of_descriptor[descriptor] != NULL)
		shadow_load(of_descriptor[descriptor]);
	pthread_mutex_unlock(&lock);
	return error;
}

static int faulty_write_back_file(int descriptor)
{
	int error;

	if (dead)
		return 0;
	pthread_mutex_lock(&lock);
	write_backs++;
	error = write_back_fails ? -EIO : 0;
	pthread_mutex_unlock(&lock);
	return error ? error : store_io_posix.write_back(descriptor);
}

/* Everything that is remembered is on the file system. */
static int faulty_sync_file_system(int descriptor)
{
	(void)descriptor;
	if (dead)
		return 0;
	if (file_system_fails)
		return -EIO;
	pthread_mutex_lock(&lock);
	syncs++;
	for (struct shadow *shadow = shadows; shadow != NULL; shadow = shadow->next) {
		if (!shadow->removed && access(shadow->path, F_OK) == 0)
			shadow_load(shadow);
		shadow->named = !shadow->removed;
		if (shadow->removed)
			shadow->size = 0;
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

static int faulty_sync_directory(const char *path)
{
	size_t length = strlen(path);

	if (dead)
		return 0;
	pthread_mutex_lock(&lock);
	syncs++;
	for (struct shadow *shadow = shadows; shadow != NULL; shadow = shadow->next) {
		if (strncmp(shadow->path, path, length) != 0 || shadow->path[length] != '/' ||
			strchr(shadow->path + length + 1, '/') != NULL)
			continue;
		shadow->named = !shadow->removed;
		if (shadow->removed)
			shadow->size = 0;
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

static int faulty_remove(const char *path)
{
	int error;

	pthread_mutex_lock(&lock);
	error = store_io_posix.remove(path);
	if (error == 0 && shadow_find(path) != NULL)
		shadow_find(path)->removed = true;
	pthread_mutex_unlock(&lock);
	return error;
}

static int faulty_size(int descriptor, uint64_t *bytes)
{
	return store_io_posix.size(descriptor, bytes);
}

static int faulty_space(const char *path, struct store_space *space)
{
	int error = store_io_posix.space(path, space);

	if (free_bytes != UINT64_MAX)
		space->free_bytes = free_bytes;
	return error;
}

static ssize_t faulty_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	return store_io_posix.read(descriptor, parts, count, offset);
}

static int faulty_lock(int descriptor)
{
	return store_io_posix.lock(descriptor);
}

static void faulty_drop_cache(int descriptor)
{
	store_io_posix.drop_cache(descriptor);
}

static int faulty_punch(int descriptor, uint64_t offset, uint64_t bytes)
{
	return dead ? 0 : store_io_posix.punch(descriptor, offset, bytes);
}

static int faulty_make_directory(const char *path, mode_t mode)
{
	return store_io_posix.make_directory(path, mode);
}

/* Whether the new name is on the medium is open until the directory is flushed. */
static int faulty_rename(const char *from, const char *to)
{
	struct shadow *moved;
	int error;

	if (dead)
		return 0;
	pthread_mutex_lock(&lock);
	error = store_io_posix.rename(from, to);
	if (error == 0)
		shadow_forget(to);
	moved = shadow_find(from);
	if (error == 0 && moved != NULL) {
		free(moved->path);
		moved->path = strdup(to);
		moved->named = false;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

static int faulty_list(const char *path, store_io_name each, void *context)
{
	return store_io_posix.list(path, each, context);
}

const struct store_io faulty_io = {
	.open = faulty_open,
	.close = faulty_close,
	.lock = faulty_lock,
	.read = faulty_read,
	.write = faulty_write,
	.sync_data = faulty_sync_data,
	.write_back = faulty_write_back_file,
	.sync_file_system = faulty_sync_file_system,
	.drop_cache = faulty_drop_cache,
	.sync_directory = faulty_sync_directory,
	.size = faulty_size,
	.punch = faulty_punch,
	.make_directory = faulty_make_directory,
	.rename = faulty_rename,
	.remove = faulty_remove,
	.list = faulty_list,
	.space = faulty_space,
};

/* One file after power loss: `now` is what the operating system had. */
static void lose(struct shadow *shadow, uint64_t (*random)(void))
{
	struct shadow now = {.path = shadow->path};
	uint64_t kept = random() % 4; /* of 4 sectors; 0: nothing that was not flushed */
	uint64_t size;
	int file;

	if (access(shadow->path, F_OK) != 0) {
		if (!shadow->removed || !shadow->named || random() % 2 == 0)
			return;
		/* The removal did not reach the medium. */
		file = open(shadow->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		must(file >= 0, shadow->path);
		must(write(file, shadow->bytes, shadow->size) == (ssize_t)shadow->size, "write");
		close(file);
		return;
	}
	if (!shadow->named && random() % 2 == 0) {
		must(unlink(shadow->path) == 0, shadow->path);
		return;
	}
	shadow_load(&now);
	size = now.size > shadow->size ? now.size : shadow->size;
	shadow->bytes = realloc(shadow->bytes, size + 1);
	now.bytes = realloc(now.bytes, size + 1);
	must(shadow->bytes != NULL && now.bytes != NULL, "memory");
	memset(shadow->bytes + shadow->size, 0, size - shadow->size);
	memset(now.bytes + now.size, 0, size - now.size);
	for (uint64_t at = 0; at < size; at += SECTOR) {
		uint64_t bytes = size - at < SECTOR ? size - at : SECTOR;

		if (random() % 4 >= kept)
			memcpy(now.bytes + at, shadow->bytes + at, bytes);
	}
	/* The size, too, may be any between the two, in whole pages as file systems extend files.
	 */
	if (kept == 0 || random() % 3 == 0)
		size = shadow->size;
	else if (size > shadow->size && random() % 2 == 0)
		size = (shadow->size + random() % (size - shadow->size) + 4095) / 4096 * 4096 < size
			       ? (shadow->size + 4095) / 4096 * 4096
			       : size;
	if (size < shadow->size)
		size = shadow->size;
	file = open(shadow->path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	must(file >= 0, shadow->path);
	must(write(file, now.bytes, size) == (ssize_t)size, "write");
	close(file);
	free(now.bytes);
}

void faulty_power_loss(uint64_t (*random)(void))
{
	for (struct shadow *shadow = shadows; shadow != NULL; shadow = shadow->next)
		lose(shadow, random);
	shadow_free_all();
}
