/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Which store files there are: a walk through the directories of the devices.
 *
 * Goes by names alone and opens no store file. One directory is listed at a time, so files that
 * come and go meanwhile may or may not be met. Takes no locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/store_internal.h"

/* The names in one directory, sorted. */
struct name_list {
	char **names;
	size_t count, room;
};

static int name_add(void *context, const char *name)
{
	struct name_list *list = context;

	if (list->count == list->room) {
		size_t room = list->room == 0 ? 64 : list->room * 2;
		char **names = realloc(list->names, room * sizeof(*names));

		if (names == NULL)
			return -ENOMEM;
		list->names = names;
		list->room = room;
	}
	list->names[list->count] = strdup(name);
	if (list->names[list->count] == NULL)
		return -ENOMEM;
	list->count++;
	return 0;
}

static int by_name(const void *left, const void *right)
{
	return strcmp(*(char *const *)left, *(char *const *)right);
}

static void name_list_free(struct name_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->names[i]);
	free(list->names);
	*list = (struct name_list){0};
}

struct walk {
	const struct store_io *io;
	const struct store_device *device;
	const struct store_scan_calls *calls;
	void *context;
};

/* Lists a directory. What cannot be listed is told, and has no names. Returns 0 or a stop. */
static int list_directory(const struct walk *walk, const char *path, struct name_list *list)
{
	int error = walk->io->list(path, name_add, list);

	if (error != 0) {
		name_list_free(list);
		return error == -ENOMEM ? error : walk->calls->error(walk->context, path, error);
	}
	if (list->count > 0)
		qsort(list->names, list->count, sizeof(*list->names), by_name);
	return 0;
}

static int tell(
	const struct walk *walk, int (*call)(void *context, const char *path), const char *path)
{
	return call == NULL ? 0 : call(walk->context, path);
}

/* True if a name is what the store would give to a side of this export's file in this place. */
static bool parse_side(const struct walk *walk, const char *path, const char *name,
	uint32_t export_id, store_file *key, unsigned int *side)
{
	char expected[STORE_PATH_MAX], letter;
	uint64_t file_id;
	uint32_t segment;
	int length = 0;

	if (sscanf(name, "%16" SCNx64 ".%8" SCNx32 ".%c%n", &file_id, &segment, &letter, &length) !=
			3 ||
		name[length] != '\0' || (letter != 'a' && letter != 'b'))
		return false;
	*key = (store_file){.export_id = export_id, .segment = segment, .file_id = file_id};
	*side = letter == 'b';
	store_side_path(walk->device, key, *side, expected);
	return strcmp(path, expected) == 0;
}

/* Takes something off the end of a name. Returns false if it does not end so. */
static bool cut(char *name, const char *behind)
{
	size_t length = strlen(name), behind_length = strlen(behind);

	if (length < behind_length || strcmp(name + length - behind_length, behind) != 0)
		return false;
	name[length - behind_length] = '\0';
	return true;
}

/* True if a name is a side's with something behind it. */
static bool is_side_with(const struct walk *walk, const char *behind, const char *path,
	const char *name, uint32_t export_id)
{
	char side_path[STORE_PATH_MAX], side_name[NAME_MAX + 1];
	unsigned int side;
	store_file key;

	snprintf(side_path, sizeof(side_path), "%s", path);
	snprintf(side_name, sizeof(side_name), "%s", name);
	return cut(side_path, behind) && cut(side_name, behind) &&
	       parse_side(walk, side_path, side_name, export_id, &key, &side);
}

/* Tells of a name that is not a side's. */
static int other_name(
	const struct walk *walk, const char *path, const char *name, uint32_t export_id)
{
	if (is_side_with(walk, STORE_SUPERSEDED, path, name, export_id))
		return tell(walk, walk->calls->aside, path);
	if (is_side_with(walk, STORE_UNFINISHED, path, name, export_id))
		return tell(walk, walk->calls->unfinished, path);
	return tell(walk, walk->calls->stranger, path);
}

static int walk_files(const struct walk *walk, const char *directory, uint32_t export_id)
{
	struct name_list list = {0};
	store_file pending = {0};
	unsigned int sides = 0;
	int result = list_directory(walk, directory, &list);

	/* Sorted, side b of a file follows its side a. */
	for (size_t i = 0; i < list.count && result == 0; i++) {
		char path[STORE_PATH_MAX];
		unsigned int side;
		store_file key;

		if (snprintf(path, sizeof(path), "%s/%s", directory, list.names[i]) >=
				(int)sizeof(path) ||
			!parse_side(walk, path, list.names[i], export_id, &key, &side)) {
			result = other_name(walk, path, list.names[i], export_id);
			continue;
		}
		if (sides != 0 &&
			(key.file_id != pending.file_id || key.segment != pending.segment)) {
			result = walk->calls->file(walk->context, &pending, sides);
			sides = 0;
		}
		pending = key;
		sides |= 1u << side;
	}
	if (sides != 0 && result == 0)
		result = walk->calls->file(walk->context, &pending, sides);
	name_list_free(&list);
	return result;
}

/* Walks one level: the hash directories of an export, or the exports of a device. */
static int walk_directories(
	const struct walk *walk, const char *parent, bool exports, uint32_t export_id)
{
	struct name_list list = {0};
	int result = list_directory(walk, parent, &list);

	for (size_t i = 0; i < list.count && result == 0; i++) {
		char path[STORE_PATH_MAX], expected[16];
		char *end;
		unsigned long number = strtoul(list.names[i], &end, 16);

		snprintf(
			expected, sizeof(expected), exports ? "%lx" : "%02lx", number & UINT32_MAX);
		if (snprintf(path, sizeof(path), "%s/%s", parent, list.names[i]) >=
				(int)sizeof(path) ||
			strcmp(expected, list.names[i]) != 0)
			result = tell(walk, walk->calls->stranger, path);
		else if (exports)
			result = walk_directories(walk, path, false, (uint32_t)number);
		else
			result = walk_files(walk, path, export_id);
	}
	name_list_free(&list);
	return result;
}

int store_scan_device(const struct store_io *io, const struct store_device *device,
	const struct store_scan_calls *calls, void *context)
{
	struct walk walk = {.io = io, .device = device, .calls = calls, .context = context};
	char path[STORE_PATH_MAX];

	snprintf(path, sizeof(path), "%s/shards", device->path);
	return walk_directories(&walk, path, true, 0);
}

/* -------- all devices in service -------- */

struct scan {
	struct store *store;
	struct store_device *device;
	store_each_file each;
	void *context;
	int error; /* the first one met */
};

static int scan_file(void *context, const store_file *key, unsigned int sides)
{
	struct scan *scan = context;

	(void)sides;
	return scan->each(scan->context, key);
}

static int scan_error(void *context, const char *path, int error)
{
	struct scan *scan = context;

	if (error == -ENOENT)
		return 0;
	rozo_log_limited(ERROR, "%s: %s", path, strerror(-error));
	store_device_error(scan->device, error);
	if (scan->error == 0)
		scan->error = error;
	return 0;
}

int store_scan(struct store *store, store_each_file each, void *context)
{
	static const struct store_scan_calls calls = {.file = scan_file, .error = scan_error};
	struct scan scan = {.store = store, .each = each, .context = context};

	for (size_t i = 0; i < store->device_count; i++) {
		int result;

		scan.device = &store->devices[i];
		if (atomic_load(&scan.device->failed))
			continue;
		result = store_scan_device(store->io, scan.device, &calls, &scan);
		if (result != 0)
			return result;
	}
	return scan.error;
}
