/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See power_io.h. */

/* Both names of each function are defined here, so neither may stand for the other. */
#undef _FILE_OFFSET_BITS

#include "power_io.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define UNIT 512
#define PAGE 4096
#define FILES_MAX 64
#define ALL UINT64_MAX

enum kind {
	WRITTEN, /* bytes at offset; those of a cut are zeros */
	LENGTH, /* the file is `offset` long */
	FLUSHED, /* all events before `from` of the units from offset to offset + bytes */
	MADE, /* the name is that of the file */
	RENAMED, /* name to other_name */
	REMOVED,
	NAMES_FLUSHED, /* all changes of names before `from` */
	LOST, /* was WRITTEN, until a flush of it failed */
};

struct event {
	enum kind kind;
	int file;
	uint64_t offset, bytes, from;
	uint8_t *data;
	char name[64], other_name[64];
};

struct file {
	dev_t device;
	ino_t inode;
	uint8_t *bytes; /* on the disk at the start */
	uint64_t length;
	char name[64]; /* at the start, or empty */
	bool used;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool recording;
static char watched[256], slow[64];
static unsigned int slow_us;
static struct event *events;
static uint64_t event_count, event_room;
static struct file files[FILES_MAX];

static struct failure {
	bool armed;
	char name[64];
	unsigned int number, count;
	uint64_t from_offset;
	int error;
	unsigned int failures;
} failing[POWER_IO_CALLS];

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "power_io: %s\n", what);
		abort();
	}
}

/* -------- recording -------- */

static struct event *add(enum kind kind, int file)
{
	if (event_count == event_room) {
		event_room = event_room ? 2 * event_room : 1024;
		struct event *grown = realloc(events, event_room * sizeof(*events));

		must(grown != NULL, "memory");
		events = grown;
	}
	struct event *event = &events[event_count++];
	*event = (struct event){.kind = kind, .file = file};
	return event;
}

/* The name in the directory that is watched, or NULL. */
static const char *name_in(const char *path)
{
	size_t length = strlen(watched);

	if (length == 0 || strncmp(path, watched, length) != 0 || path[length] != '/')
		return NULL;
	must(strlen(path + length + 1) < sizeof(files[0].name), path);
	return path + length + 1;
}

static bool path_of(int descriptor, char *path, size_t bytes)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, path, bytes - 1);
	if (length < 0)
		return false;
	path[length] = '\0';
	return true;
}

/* The number of the file behind a descriptor, or -1 if it is not one that is watched. */
static int file_of(int descriptor)
{
	struct stat status;
	char path[4096];

	if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
		return -1;
	for (int i = 0; i < FILES_MAX; i++)
		if (files[i].used && files[i].device == status.st_dev &&
			files[i].inode == status.st_ino)
			return i;
	if (!path_of(descriptor, path, sizeof(path)) || name_in(path) == NULL)
		return -1;
	for (int i = 0; i < FILES_MAX; i++) {
		if (files[i].used)
			continue;
		files[i] = (struct file){
			.used = true, .device = status.st_dev, .inode = status.st_ino};
		return i;
	}
	must(false, "too many files");
	return -1;
}

static bool is_lock_file(const char *name)
{
	return strcmp(name, "lock.mdb") == 0;
}

/* True if this call is to fail. *bytes: of a write, those that are to be written nevertheless. */
static bool fails(enum power_io_call call, int descriptor, uint64_t offset, uint64_t *bytes)
{
	struct failure *failure = &failing[call];
	char path[4096];
	const char *name;

	if (!failure->armed || !path_of(descriptor, path, sizeof(path)))
		return false;
	name = strrchr(path, '/');
	if (name == NULL || (failure->name[0] != '\0' && strcmp(name + 1, failure->name) != 0))
		return false;
	if (bytes != NULL && offset + *bytes <= failure->from_offset)
		return false;
	if (failure->number > 1) {
		failure->number--;
		return false;
	}
	if (failure->count > 0 && failure->failures == failure->count)
		return false;
	failure->failures++;
	if (bytes != NULL)
		*bytes = offset < failure->from_offset ? failure->from_offset - offset : 0;
	errno = failure->error;
	return true;
}

static ssize_t write_at(int descriptor, const void *data, size_t count, off_t offset)
{
	uint64_t bytes = count;
	struct event *event;
	struct stat before;
	ssize_t done;
	bool failed;
	int file;

	pthread_mutex_lock(&lock);
	file = recording ? file_of(descriptor) : -1;
	failed = fails(POWER_IO_WRITE, descriptor, (uint64_t)offset, &bytes);
	if (failed && bytes == 0) {
		pthread_mutex_unlock(&lock);
		errno = failing[POWER_IO_WRITE].error;
		return -1;
	}
	if (file >= 0)
		must(fstat(descriptor, &before) == 0, "fstat");
	done = syscall(SYS_pwrite64, descriptor, data, bytes, offset);
	if (recording && file >= 0 && done > 0) {
		event = add(WRITTEN, file);
		event->offset = (uint64_t)offset;
		event->bytes = (uint64_t)done;
		event->data = malloc((size_t)done);
		must(event->data != NULL, "memory");
		memcpy(event->data, data, (size_t)done);
		if (offset + done > before.st_size)
			add(LENGTH, file)->offset = (uint64_t)(offset + done);
		if ((fcntl(descriptor, F_GETFL) & O_DSYNC) != 0) {
			event = add(FLUSHED, file);
			event->offset = (uint64_t)offset;
			event->bytes = (uint64_t)done;
			event->from = event_count - 1;
		}
	}
	pthread_mutex_unlock(&lock);
	return done;
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset)
{
	return write_at(descriptor, data, bytes, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off_t offset)
{
	return write_at(descriptor, data, bytes, offset);
}

/* LMDB seeks and writes runs of pages. */
ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
	off_t offset = (off_t)syscall(SYS_lseek, descriptor, 0, SEEK_CUR);
	ssize_t total = 0;

	if (offset < 0)
		return syscall(SYS_writev, descriptor, parts, count);
	for (int i = 0; i < count; i++) {
		ssize_t done = write_at(descriptor, parts[i].iov_base, parts[i].iov_len, offset);

		if (done < 0)
			return total > 0 ? total : done;
		total += done;
		offset += done;
		if ((size_t)done < parts[i].iov_len)
			break;
	}
	syscall(SYS_lseek, descriptor, offset, SEEK_SET);
	return total;
}

/* True if an event's bytes were written once more, all of them by one later event. */
static bool is_covered(uint64_t number)
{
	const struct event *event = &events[number];

	for (uint64_t i = number + 1; i < event_count; i++)
		if (events[i].file == event->file && events[i].kind == WRITTEN &&
			events[i].offset <= event->offset &&
			events[i].offset + events[i].bytes >= event->offset + event->bytes)
			return true;
	return false;
}

/*
 * A flush of a file fails: what it was for is in memory only, where no later one looks for it. What
 * was there before that may have come to the disk.
 */
static void lose(int file)
{
	uint64_t flushed = 0;

	for (uint64_t i = 0; i < event_count; i++)
		if (events[i].file == file && events[i].kind == FLUSHED && events[i].bytes == ALL)
			flushed = events[i].from;
	for (uint64_t i = flushed; i < event_count; i++)
		if (events[i].file == file && events[i].kind == WRITTEN && !is_covered(i))
			events[i].kind = LOST;
}

static int flush(int descriptor, bool whole)
{
	struct event *event;
	struct stat status;
	char path[4096];
	uint64_t from;
	int file;

	pthread_mutex_lock(&lock);
	if (fails(POWER_IO_FLUSH, descriptor, 0, NULL)) {
		file = recording ? file_of(descriptor) : -1;
		if (file >= 0)
			lose(file);
		pthread_mutex_unlock(&lock);
		errno = failing[POWER_IO_FLUSH].error;
		return -1;
	}
	from = event_count;
	file = recording ? file_of(descriptor) : -1;
	pthread_mutex_unlock(&lock);
	if (file < 0 && recording && fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode) &&
		path_of(descriptor, path, sizeof(path)) && strcmp(path, watched) == 0) {
		pthread_mutex_lock(&lock);
		add(NAMES_FLUSHED, -1)->from = from;
		pthread_mutex_unlock(&lock);
		return 0;
	}
	if (file < 0)
		return (int)syscall(whole ? SYS_fsync : SYS_fdatasync, descriptor);
	/* What others write meanwhile need not be flushed. */
	if (path_of(descriptor, path, sizeof(path)) &&
		strcmp(path + strlen(watched) + 1, slow) == 0)
		usleep(slow_us);
	pthread_mutex_lock(&lock);
	event = add(FLUSHED, file);
	event->bytes = ALL;
	event->from = from;
	pthread_mutex_unlock(&lock);
	return 0;
}

int fdatasync(int descriptor)
{
	return flush(descriptor, false);
}

int fsync(int descriptor)
{
	return flush(descriptor, true);
}

int fallocate(int descriptor, int mode, off_t offset, off_t bytes)
{
	pthread_mutex_lock(&lock);
	bool failed = fails(POWER_IO_ALLOCATE, descriptor, (uint64_t)offset, NULL);
	pthread_mutex_unlock(&lock);
	if (failed)
		return -1;
	return (int)syscall(SYS_fallocate, descriptor, mode, offset, bytes);
}

int fallocate64(int descriptor, int mode, off_t offset, off_t bytes)
{
	return fallocate(descriptor, mode, offset, bytes);
}

/* What is cut off becomes zeros, and the length is another. */
static void note_length(int file, uint64_t before, uint64_t after)
{
	struct event *event;

	if (after < before) {
		event = add(WRITTEN, file);
		event->offset = after;
		event->bytes = before - after;
		event->data = calloc(1, before - after);
		must(event->data != NULL, "memory");
	}
	add(LENGTH, file)->offset = after;
}

int ftruncate(int descriptor, off_t length)
{
	struct stat before;
	int file, result;

	pthread_mutex_lock(&lock);
	file = recording ? file_of(descriptor) : -1;
	must(fstat(descriptor, &before) == 0, "fstat");
	result = (int)syscall(SYS_ftruncate, descriptor, length);
	if (file >= 0 && result == 0)
		note_length(file, (uint64_t)before.st_size, (uint64_t)length);
	pthread_mutex_unlock(&lock);
	return result;
}

int ftruncate64(int descriptor, off_t length)
{
	return ftruncate(descriptor, length);
}

static int open_at(const char *path, int flags, mode_t mode)
{
	const char *name = recording ? name_in(path) : NULL;
	struct stat before;
	bool existed;
	int descriptor, file;

	if (name == NULL || is_lock_file(name) || (flags & (O_CREAT | O_TRUNC)) == 0)
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	pthread_mutex_lock(&lock);
	existed = stat(path, &before) == 0;
	descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	file = descriptor >= 0 ? file_of(descriptor) : -1;
	if (file >= 0 && !existed)
		snprintf(add(MADE, file)->name, sizeof(files[0].name), "%s", name);
	if (file >= 0 && existed && (flags & O_TRUNC) != 0 && before.st_size > 0)
		note_length(file, (uint64_t)before.st_size, 0);
	pthread_mutex_unlock(&lock);
	return descriptor;
}

int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list arguments;

	if ((flags & O_CREAT) != 0) {
		va_start(arguments, flags);
		/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it is */
		mode = va_arg(arguments, mode_t);
		va_end(arguments);
	}
	return open_at(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int rename(const char *from, const char *to)
{
	const char *name = recording ? name_in(from) : NULL;

	pthread_mutex_lock(&lock);
	int result = (int)syscall(SYS_rename, from, to);
	if (name != NULL && result == 0) {
		struct event *event = add(RENAMED, -1);

		snprintf(event->name, sizeof(event->name), "%s", name);
		snprintf(event->other_name, sizeof(event->other_name), "%s", name_in(to));
	}
	pthread_mutex_unlock(&lock);
	return result;
}

int unlink(const char *path)
{
	const char *name = recording ? name_in(path) : NULL;

	pthread_mutex_lock(&lock);
	int result = (int)syscall(SYS_unlink, path);
	if (name != NULL && result == 0 && !is_lock_file(name))
		snprintf(add(REMOVED, -1)->name, sizeof(files[0].name), "%s", name);
	pthread_mutex_unlock(&lock);
	return result;
}

static void read_in(struct file *file, const char *path)
{
	int descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
	struct stat status;

	must(descriptor >= 0 && fstat(descriptor, &status) == 0, path);
	file->device = status.st_dev;
	file->inode = status.st_ino;
	file->length = (uint64_t)status.st_size;
	file->bytes = malloc(file->length + 1);
	must(file->bytes != NULL, "memory");
	must(read(descriptor, file->bytes, file->length) == (ssize_t)file->length, path);
	close(descriptor);
}

void power_io_start(const char *directory)
{
	char path[512];
	DIR *listing;
	int count = 0;

	pthread_mutex_lock(&lock);
	for (uint64_t i = 0; i < event_count; i++)
		free(events[i].data);
	event_count = 0;
	for (int i = 0; i < FILES_MAX; i++) {
		free(files[i].bytes);
		files[i] = (struct file){0};
	}
	snprintf(watched, sizeof(watched), "%s", directory);
	listing = opendir(directory);
	must(listing != NULL, directory);
	for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
		if (entry->d_name[0] == '.' || is_lock_file(entry->d_name))
			continue;
		must(count < FILES_MAX, "too many files");
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		read_in(&files[count], path);
		files[count].used = true;
		snprintf(files[count].name, sizeof(files[count].name), "%.63s", entry->d_name);
		count++;
	}
	closedir(listing);
	recording = true;
	pthread_mutex_unlock(&lock);
}

void power_io_stop(void)
{
	pthread_mutex_lock(&lock);
	recording = false;
	pthread_mutex_unlock(&lock);
}

uint64_t power_io_now(void)
{
	pthread_mutex_lock(&lock);
	uint64_t count = event_count;
	pthread_mutex_unlock(&lock);
	return count;
}

void power_io_slow(const char *name, unsigned int us)
{
	snprintf(slow, sizeof(slow), "%s", name);
	slow_us = us;
}

void power_io_fail(enum power_io_call call, const char *name, unsigned int number,
	unsigned int count, uint64_t from_offset, int error)
{
	pthread_mutex_lock(&lock);
	failing[call] = (struct failure){.armed = true,
		.number = number,
		.count = count,
		.from_offset = from_offset,
		.error = error};
	snprintf(failing[call].name, sizeof(failing[call].name), "%s", name);
	pthread_mutex_unlock(&lock);
}

unsigned int power_io_fail_no_more(void)
{
	unsigned int failures = 0;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < POWER_IO_CALLS; i++)
		failures += failing[i].failures;
	memset(failing, 0, sizeof(failing));
	pthread_mutex_unlock(&lock);
	return failures;
}

/* -------- what a power failure leaves -------- */

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

enum fate {
	FATE_ANY,
	FATE_NOTHING,
	FATE_EVERYTHING,
	FATE_FIRST_PAGES, /* everything of the first two pages, nothing of the others */
	FATE_OTHER_PAGES,
	FATES,
};

/* How much is kept of one unit: all events before the number that is returned are. */
static uint64_t choose(enum fate fate, uint64_t offset, uint64_t flushed, uint64_t chosen)
{
	bool first = offset < 2 * PAGE;

	switch (fate) {
	case FATE_NOTHING:
		return flushed;
	case FATE_EVERYTHING:
		return ALL;
	case FATE_FIRST_PAGES:
		return first ? ALL : flushed;
	case FATE_OTHER_PAGES:
		return first ? flushed : ALL;
	default:
		return chosen;
	}
}

static void make_image(int number, uint64_t count, uint64_t *random, const char *path)
{
	const struct file *file = &files[number];
	size_t tear = next_random(random) % 2 == 0 ? UNIT : PAGE;
	enum fate fate = next_random(random) % 2 == 0 ? FATE_ANY : next_random(random) % FATES;
	uint64_t longest = file->length, length, length_flushed = 0;
	uint64_t *flushed, *kept, *candidates;
	size_t units;
	uint8_t *image;

	for (uint64_t i = 0; i < count; i++)
		if (events[i].file == number && events[i].kind == WRITTEN &&
			events[i].offset + events[i].bytes > longest)
			longest = events[i].offset + events[i].bytes;
	units = longest / tear + 1;
	image = calloc(units, tear);
	flushed = calloc(units, sizeof(*flushed));
	kept = calloc(units, sizeof(*kept));
	candidates = calloc(units, sizeof(*candidates));
	must(image != NULL && flushed != NULL && kept != NULL && candidates != NULL, "memory");
	if (file->bytes != NULL)
		memcpy(image, file->bytes, file->length);

	for (uint64_t i = 0; i < count; i++) {
		const struct event *event = &events[i];

		if (event->file != number || event->kind != FLUSHED)
			continue;
		if (event->bytes == ALL)
			length_flushed = event->from;
		for (size_t unit = 0; unit < units; unit++)
			if (event->from > flushed[unit] &&
				(event->bytes == ALL ||
					(unit >= event->offset / tear &&
						unit <= (event->offset + event->bytes - 1) / tear)))
				flushed[unit] = event->from;
	}
	memcpy(kept, flushed, units * sizeof(*kept));
	for (uint64_t i = 0; i < count; i++) {
		const struct event *event = &events[i];

		if (event->file != number || event->kind != WRITTEN || event->bytes == 0)
			continue;
		for (size_t unit = event->offset / tear;
			unit <= (event->offset + event->bytes - 1) / tear; unit++)
			/* Each of the later states with the same probability. */
			if (i >= flushed[unit] &&
				next_random(random) % (++candidates[unit] + 1) == 0)
				kept[unit] = i + 1;
	}
	for (size_t unit = 0; unit < units; unit++)
		kept[unit] = choose(fate, unit * tear, flushed[unit], kept[unit]);
	length = file->length;
	for (uint64_t i = 0, later = 0; i < count; i++) {
		const struct event *event = &events[i];

		if (event->file == number && event->kind == LENGTH &&
			(i < length_flushed || fate == FATE_EVERYTHING ||
				next_random(random) % (++later + 1) == 0))
			length = event->offset;
	}
	for (uint64_t i = 0; i < count; i++) {
		const struct event *event = &events[i];

		if (event->file != number || event->kind != WRITTEN || event->bytes == 0)
			continue;
		for (uint64_t at = event->offset; at < event->offset + event->bytes;) {
			uint64_t end = (at / tear + 1) * tear;

			if (end > event->offset + event->bytes)
				end = event->offset + event->bytes;
			if (i < kept[at / tear])
				memcpy(image + at, event->data + (at - event->offset), end - at);
			at = end;
		}
	}
	int descriptor =
		(int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	must(descriptor >= 0, path);
	if (length > units * tear)
		length = units * tear;
	must(syscall(SYS_pwrite64, descriptor, image, length, 0) == (long)length, path);
	close(descriptor);
	free(image);
	free(flushed);
	free(kept);
	free(candidates);
}

void power_io_image(uint64_t count, uint64_t seed, const char *directory)
{
	struct {
		char name[64];
		int file;
	} names[FILES_MAX];
	uint64_t names_flushed = 0, random = seed;
	char path[512];
	int named = 0;

	must(!recording && count <= event_count, "an image of the future");
	for (int i = 0; i < FILES_MAX; i++) {
		if (!files[i].used || files[i].name[0] == '\0')
			continue;
		memcpy(names[named].name, files[i].name, sizeof(names[named].name));
		names[named++].file = i;
	}
	for (uint64_t i = 0; i < count; i++)
		if (events[i].kind == NAMES_FLUSHED)
			names_flushed = events[i].from;
	for (uint64_t i = 0; i < count; i++) {
		const struct event *event = &events[i];
		bool is_name =
			event->kind == MADE || event->kind == RENAMED || event->kind == REMOVED;
		int from = -1, to = -1;

		if (!is_name || (i >= names_flushed && next_random(&random) % 2 == 0))
			continue;
		const char *target = event->kind == RENAMED ? event->other_name : event->name;
		for (int j = 0; j < named; j++) {
			if (strcmp(names[j].name, event->name) == 0)
				from = j;
			if (strcmp(names[j].name, target) == 0)
				to = j;
		}
		if (event->kind == MADE) {
			snprintf(names[named].name, sizeof(names[named].name), "%s", event->name);
			names[named++].file = event->file;
		} else if (event->kind == REMOVED && from >= 0) {
			names[from] = names[--named];
		} else if (event->kind == RENAMED && from >= 0) {
			snprintf(names[from].name, sizeof(names[from].name), "%s", target);
			if (to >= 0)
				names[to] = names[--named];
		}
	}
	for (int j = 0; j < named; j++) {
		snprintf(path, sizeof(path), "%s/%.63s", directory, names[j].name);
		make_image(names[j].file, count, &random, path);
	}
}
