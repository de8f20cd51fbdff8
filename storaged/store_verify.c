/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * rozo-storaged --verify: reads all that lies on a node's devices and names what is wrong.
 *
 * Looks at the files themselves and not through an open store, which mends some of what it meets.
 * Headers and records are read by store_format.c. Opens store files for reading only; holds the
 * devices' locks, and takes none of the process's.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "storaged/clock.h"
#include "storaged/store_log.h"

#define PROGRESS_MS 5000
#define SEARCH_BYTES_MAX (64u << 20) /* where a sound header is looked for, as when serving */

struct verify {
	const struct store_options *options;
	const struct store_io *io;
	struct store_device *devices;
	FILE *problems, *progress;
	struct store_verify_summary *summary;
	int64_t next_progress_ms;
	/* Of the device being read. */
	size_t device;
	store_file *markers; /* ascending */
	size_t marker_count, marker_room;
};

/* Blocks one behind the other with the same thing wrong become one line. */
struct run {
	const char *what; /* NULL: none */
	uint64_t first, last;
};

struct verified_side {
	char path[STORE_PATH_MAX];
	int descriptor; /* -1: not there, or not to be looked into */
	uint64_t size;
	bool sound; /* page 0's header is */
	struct store_header_fields fields; /* of page 0, if sound */
	bool page_there; /* the group's page is in memory */
	uint8_t page[STORE_PAGE_BYTES];
	struct run run;
};

struct verified_file {
	struct verify *verify;
	store_file key;
	struct store_shape shape;
	bool shape_known;
	bool missed; /* a newest version has missed shards */
	uint8_t *shard;
	struct verified_side sides[STORE_SIDES];
};

__attribute__((format(printf, 3, 4))) static void problem(
	struct verify *verify, const char *path, const char *format, ...)
{
	va_list arguments;

	verify->summary->problems++;
	fprintf(verify->problems, "%s: ", path);
	va_start(arguments, format);
	vfprintf(verify->problems, format, arguments);
	va_end(arguments);
	fputc('\n', verify->problems);
}

static void show_progress(struct verify *verify, const char *path)
{
	int64_t now;

	if (verify->progress == NULL)
		return;
	now = clock_now_ms();
	if (now < verify->next_progress_ms)
		return;
	verify->next_progress_ms = now + PROGRESS_MS;
	fprintf(verify->progress,
		"device %zu of %zu: %" PRIu64 " files, %" PRIu64 " blocks, %" PRIu64
		" MiB read, %" PRIu64 " problems; at %s\n",
		verify->device + 1, verify->options->device_count, verify->summary->files,
		verify->summary->blocks, verify->summary->bytes >> 20, verify->summary->problems,
		path);
	fflush(verify->progress);
}

static void run_end(struct verified_file *file, struct verified_side *side)
{
	struct run *run = &side->run;

	if (run->what == NULL)
		return;
	if (run->first == run->last)
		problem(file->verify, side->path, "block %" PRIu64 ": %s", run->first, run->what);
	else
		problem(file->verify, side->path, "blocks %" PRIu64 " to %" PRIu64 ": %s",
			run->first, run->last, run->what);
	/* One line, but each of them counts. */
	file->verify->summary->problems += run->last - run->first;
	run->what = NULL;
}

static void block_problem(
	struct verified_file *file, struct verified_side *side, uint64_t block, const char *what)
{
	if (side->run.what == what && block == side->run.last + 1) {
		side->run.last = block;
		return;
	}
	run_end(file, side);
	side->run = (struct run){.what = what, .first = block, .last = block};
}

/* Reads up to size bytes. Returns how many there were, or a negative errno. */
static ssize_t read_at(struct verified_file *file, struct verified_side *side, void *buffer,
	size_t size, uint64_t offset)
{
	struct iovec part = {.iov_base = buffer, .iov_len = size};
	ssize_t bytes = store_io_read_all(file->verify->io, side->descriptor, &part, 1, offset);

	if (bytes > 0)
		file->verify->summary->bytes += (uint64_t)bytes;
	return bytes;
}

static bool all_bytes(const uint8_t *bytes, size_t size, uint8_t value)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != value)
			return false;
	}
	return true;
}

/* -------- the two sides and what their first pages say -------- */

static void leave_out(struct verified_file *file, struct verified_side *side)
{
	file->verify->io->close(side->descriptor);
	side->descriptor = -1;
}

static void open_sides(
	struct verified_file *file, const struct store_device *device, unsigned int sides)
{
	for (unsigned int s = 0; s < STORE_SIDES; s++) {
		struct verified_side *side = &file->sides[s];
		int error;

		store_side_path(device, &file->key, s, side->path);
		side->descriptor = -1;
		if ((sides & (1u << s)) == 0)
			continue;
		side->descriptor = file->verify->io->open(side->path, O_RDONLY, 0);
		if (side->descriptor < 0) {
			problem(file->verify, side->path, "cannot be opened: %s",
				strerror(-side->descriptor));
			side->descriptor = -1;
			continue;
		}
		error = file->verify->io->size(side->descriptor, &side->size);
		if (error != 0) {
			problem(file->verify, side->path, "cannot be looked at: %s",
				strerror(-error));
			leave_out(file, side);
			continue;
		}
		if (file->verify->io->forget_range != NULL)
			file->verify->io->forget_range(side->descriptor, 0, side->size);
	}
}

/* The same store file on a later device: each pair is met once. */
static void look_elsewhere(struct verified_file *file)
{
	struct verify *verify = file->verify;

	for (size_t i = verify->device + 1; i < verify->options->device_count; i++) {
		for (unsigned int s = 0; s < STORE_SIDES; s++) {
			char path[STORE_PATH_MAX];
			int descriptor;

			if (verify->devices[i].label_descriptor < 0)
				continue;
			store_side_path(&verify->devices[i], &file->key, s, path);
			descriptor = verify->io->open(path, O_RDONLY, 0);
			if (descriptor < 0)
				continue;
			verify->io->close(descriptor);
			problem(verify, path, "the store file is on %s, too; one of them is old",
				verify->devices[verify->device].path);
			break;
		}
	}
}

/* Looks for a sound header behind a damaged page 0, for the shape. */
static void search_shape(struct verified_file *file, struct verified_side *side)
{
	for (uint64_t offset = 0;
		offset < side->size && offset <= SEARCH_BYTES_MAX && !file->shape_known;
		offset += STORE_PAGE_BYTES) {
		if (read_at(file, side, side->page, STORE_PAGE_BYTES, offset) != STORE_PAGE_BYTES)
			return;
		file->shape_known = store_header_get(side->page, &file->key, NULL, &file->shape) ==
				    STORE_HEADER_GOOD;
	}
}

static void judge_first_page(struct verified_file *file, unsigned int s)
{
	struct verified_side *side = &file->sides[s];
	enum store_header_verdict verdict;
	struct store_shape shape;
	ssize_t bytes;

	if (side->descriptor < 0 || side->size == 0)
		return;
	bytes = read_at(file, side, side->page, STORE_PAGE_BYTES, 0);
	if (bytes < 0) {
		problem(file->verify, side->path, "page 0 cannot be read: %s",
			strerror((int)-bytes));
		return;
	}
	memset(side->page + bytes, 0, STORE_PAGE_BYTES - (size_t)bytes);
	verdict = store_header_get(side->page, &file->key, &side->fields, &shape);
	switch (verdict) {
	case STORE_HEADER_GOOD:
		if (side->fields.group != 0 || side->fields.side != s) {
			problem(file->verify, side->path,
				"is side %c of this store file, or a piece of it, moved here",
				"ab"[side->fields.side & 1]);
			leave_out(file, side);
		} else if (file->shape_known && !store_shape_equal(&shape, &file->shape)) {
			problem(file->verify, side->path,
				"has another geometry or shard than the other side");
			leave_out(file, side);
		} else {
			side->sound = true;
			file->shape = shape;
			file->shape_known = true;
		}
		break;
	case STORE_HEADER_FOREIGN:
		problem(file->verify, side->path, "is another store file, moved here");
		leave_out(file, side);
		break;
	case STORE_HEADER_NEWER:
		problem(file->verify, side->path, "has a newer format than this program knows");
		leave_out(file, side);
		break;
	case STORE_HEADER_ZERO:
	case STORE_HEADER_DAMAGED:
		problem(file->verify, side->path, "the header of page 0 is %s",
			verdict == STORE_HEADER_ZERO ? "zeros" : "damaged (magic or CRC)");
		break;
	}
}

/* What must be there, by what the first pages say. */
static void check_extent(struct verified_file *file)
{
	struct verified_side *a = &file->sides[0], *b = &file->sides[1];
	bool b_made = a->sound && (a->fields.flags & STORE_FLAG_SIDE_B) != 0;

	if (a->descriptor < 0 && b->sound)
		problem(file->verify, a->path, "missing; its side b is there");
	if (b->descriptor < 0 && b_made)
		problem(file->verify, b->path, "missing; its side a says that it was made");
	for (unsigned int s = 0; s < STORE_SIDES; s++) {
		struct verified_side *side = &file->sides[s], *other = &file->sides[1 - s];
		uint64_t had = side->sound ? side->fields.groups_durable : 0;

		if (side->descriptor < 0)
			continue;
		if (side->size == 0 && other->sound && (s == 0 || b_made))
			had = other->fields.groups_durable; /* it cannot tell itself */
		if (had > 0 &&
			side->size < store_page_offset(&file->shape, had - 1) + STORE_PAGE_BYTES)
			problem(file->verify, side->path,
				"cut short: %" PRIu64 " bytes; at least %" PRIu64
				" groups of %" PRIu64 " bytes were there",
				side->size, had, file->shape.group_bytes);
	}
}

/* -------- groups -------- */

/* A page of zeros: a hole was never written, or given back. As when serving (store_pages.c). */
static void judge_zeros(
	struct verified_file *file, struct verified_side *side, uint64_t group, uint64_t offset)
{
	const struct store_io *io = file->verify->io;

	if (io->has_data != NULL && io->has_data(side->descriptor, offset, STORE_PAGE_BYTES))
		problem(file->verify, side->path,
			"the page of group %" PRIu64 " (blocks %" PRIu64 " to %" PRIu64
			") is zeros, and no hole: what it had is lost (or the file was copied "
			"without its holes)",
			group, group * file->shape.rows, (group + 1) * file->shape.rows - 1);
}

static void load_page(struct verified_file *file, unsigned int s, uint64_t group)
{
	struct verified_side *side = &file->sides[s];
	uint64_t offset = store_page_offset(&file->shape, group);
	enum store_header_verdict verdict;
	struct store_header_fields fields;
	struct store_shape shape;
	ssize_t bytes;

	side->page_there = false;
	if (side->descriptor < 0 || offset >= side->size)
		return;
	bytes = read_at(file, side, side->page, STORE_PAGE_BYTES, offset);
	if (bytes < 0) {
		problem(file->verify, side->path,
			"the records of group %" PRIu64 " (blocks %" PRIu64 " to %" PRIu64
			") cannot be read: %s",
			group, group * file->shape.rows, (group + 1) * file->shape.rows - 1,
			strerror((int)-bytes));
		return;
	}
	side->page_there = true;
	if (bytes < STORE_PAGE_BYTES) {
		memset(side->page + bytes, 0xff, STORE_PAGE_BYTES - (size_t)bytes);
		problem(file->verify, side->path, "cut short in the records of group %" PRIu64,
			group);
		return;
	}
	if (group == 0)
		return; /* has been judged */
	verdict = store_header_get(side->page, &file->key, &fields, &shape);
	if (verdict == STORE_HEADER_GOOD && fields.group == group && fields.side == s &&
		store_shape_equal(&shape, &file->shape))
		return;
	if (verdict == STORE_HEADER_GOOD)
		problem(file->verify, side->path,
			"the header of group %" PRIu64 " is that of another place: group %" PRIu64
			" of side %c, or of another geometry",
			group, fields.group, "ab"[fields.side & 1]);
	else if (verdict == STORE_HEADER_ZERO && all_bytes(side->page, STORE_PAGE_BYTES, 0))
		judge_zeros(file, side, group, offset);
	else if (!all_bytes(side->page, STORE_PAGE_BYTES, 0xff)) /* else the records tell */
		problem(file->verify, side->path, "the header of group %" PRIu64 " is %s", group,
			verdict == STORE_HEADER_ZERO      ? "zeros"
			: verdict == STORE_HEADER_FOREIGN ? "that of another store file"
			: verdict == STORE_HEADER_NEWER   ? "of a newer format"
							  : "damaged (magic or CRC)");
}

/* What is wrong with a version's bytes, or NULL. */
static const char *judge_bytes(struct verified_file *file, struct verified_side *side,
	uint64_t block, const struct store_record_fields *record, bool older)
{
	const struct store_shape *shape = &file->shape;
	uint32_t part = store_row_part(shape, record->shard_bytes);
	ssize_t bytes;

	if (record->length_bytes > (uint64_t)shape->code.k * shape->row_bytes ||
		(record->length_bytes == 0) != (record->shard_bytes == 0))
		return "its length does not fit the geometry";
	if (record->shard_bytes == 0)
		return NULL;
	bytes = read_at(file, side, file->shard, part, store_row_offset(shape, block));
	if (bytes < 0)
		return "cannot be read from the device";
	/* Given back when a newer version was decided; only that mark was lost. */
	if (older && all_bytes(file->shard, (size_t)bytes, 0))
		return NULL;
	if (bytes < (ssize_t)part)
		return "the file is cut short in its row";
	memcpy(file->shard + part, store_record_tail(side->page, shape, block),
		record->shard_bytes - part);
	if (rozo_crc32c(file->shard, record->shard_bytes) == record->crc32c)
		return NULL;
	return record->committed
		       ? "its bytes do not agree with their CRC"
		       : "its bytes do not agree with their CRC; the version is not known to be "
			 "decided, so a loss of power may have cut its write in two";
}

static const char *judge_record(const struct verified_file *file, const struct verified_side *side,
	uint64_t block, const struct store_record_fields *record)
{
	uint32_t shards = (uint32_t)file->shape.code.k + file->shape.code.m;

	if (record->kind == STORE_RECORD_DAMAGED)
		return all_bytes(store_record_tail(
					 (uint8_t *)(uintptr_t)side->page, &file->shape, block) -
					 sizeof(struct store_record),
			       sizeof(struct store_record), 0xff)
			       ? "its record was lost with a part of the file, and is not healed "
				 "yet"
			       : "its record is damaged (CRC, block number, state or missed "
				 "shards)";
	if (record->kind == STORE_RECORD_GOOD && shards < 32 && record->missed >> shards != 0)
		return "its record says that shards missed it that the code does not have";
	return NULL;
}

static void check_block(struct verified_file *file, uint64_t block)
{
	struct store_record_fields records[STORE_SIDES] = {0};
	int newest = -1;

	for (unsigned int s = 0; s < STORE_SIDES; s++) {
		struct verified_side *side = &file->sides[s];
		const char *what;

		if (!side->page_there)
			continue;
		store_record_get(side->page, &file->shape, block, &records[s]);
		what = judge_record(file, side, block, &records[s]);
		if (what != NULL)
			block_problem(file, side, block, what);
		if (records[s].kind == STORE_RECORD_GOOD &&
			(newest < 0 || store_version_compare(
					       records[s].version, records[newest].version) > 0))
			newest = (int)s;
	}
	if (records[0].kind != STORE_RECORD_EMPTY || records[1].kind != STORE_RECORD_EMPTY)
		file->verify->summary->blocks++;
	if (newest < 0)
		return;
	file->missed = file->missed || records[newest].missed != 0;
	for (unsigned int s = 0; s < STORE_SIDES; s++) {
		const char *what;

		/* What is older than a decided version is dropped. */
		if (records[s].kind != STORE_RECORD_GOOD ||
			((int)s != newest && records[newest].committed))
			continue;
		what = judge_bytes(file, &file->sides[s], block, &records[s], (int)s != newest);
		if (what != NULL)
			block_problem(file, &file->sides[s], block, what);
	}
}

static void check_groups(struct verified_file *file)
{
	uint64_t size = file->sides[0].descriptor >= 0 ? file->sides[0].size : 0, groups;

	if (file->sides[1].descriptor >= 0 && file->sides[1].size > size)
		size = file->sides[1].size;
	groups = (size + file->shape.group_bytes - 1) / file->shape.group_bytes;
	for (uint64_t group = 0; group < groups; group++) {
		for (unsigned int s = 0; s < STORE_SIDES; s++)
			load_page(file, s, group);
		for (uint32_t row = 0; row < file->shape.rows; row++)
			check_block(file, group * file->shape.rows + row);
		show_progress(file->verify, file->sides[0].path);
	}
	for (unsigned int s = 0; s < STORE_SIDES; s++)
		run_end(file, &file->sides[s]);
}

/* -------- store files and markers -------- */

static int by_key(const void *left, const void *right)
{
	const store_file *a = left, *b = right;

	if (a->export_id != b->export_id)
		return a->export_id < b->export_id ? -1 : 1;
	if (a->file_id != b->file_id)
		return a->file_id < b->file_id ? -1 : 1;
	return a->segment < b->segment ? -1 : a->segment > b->segment;
}

static int verify_file(void *context, const store_file *key, unsigned int sides)
{
	struct verify *verify = context;
	struct verified_file *file = calloc(1, sizeof(*file));
	int result = -ENOMEM;

	if (file == NULL)
		return -ENOMEM;
	file->verify = verify;
	file->key = *key;
	file->shard = malloc(MOJETTE_ROW_BYTES_MAX + STORE_PAGE_BYTES);
	if (file->shard == NULL)
		goto out;
	verify->summary->files++;
	show_progress(verify, verify->devices[verify->device].path);
	open_sides(file, &verify->devices[verify->device], sides);
	look_elsewhere(file);
	for (unsigned int s = 0; s < STORE_SIDES; s++)
		judge_first_page(file, s);
	for (unsigned int s = 0; s < STORE_SIDES && !file->shape_known; s++) {
		if (file->sides[s].descriptor >= 0)
			search_shape(file, &file->sides[s]);
	}
	/* Else it is empty, which is what a crash leaves of a new one, or the header was named. */
	if (file->shape_known) {
		check_extent(file);
		check_groups(file);
	}
	if (file->missed &&
		(verify->marker_count == 0 || bsearch(key, verify->markers, verify->marker_count,
						      sizeof(*key), by_key) == NULL))
		problem(verify, file->sides[0].path,
			"has blocks with missed shards and no marker in %s/missed: they are not "
			"healed",
			verify->devices[verify->device].path);
	for (unsigned int s = 0; s < STORE_SIDES; s++) {
		if (file->sides[s].descriptor >= 0)
			leave_out(file, &file->sides[s]);
	}
	result = 0;
out:
	free(file->shard);
	free(file);
	return result;
}

/* Told, so that whoever wonders where the space is finds it, but nothing is wrong. */
static int verify_aside(void *context, const char *path)
{
	const struct verify *verify = context;

	fprintf(verify->problems,
		"%s: was set aside by the store, which uses a newer copy: no problem\n", path);
	return 0;
}

static int verify_unfinished(void *context, const char *path)
{
	const struct verify *verify = context;

	fprintf(verify->problems,
		"%s: was being made again when the store was killed, and is removed when it next "
		"opens the file: no problem\n",
		path);
	return 0;
}

static int verify_stranger(void *context, const char *path)
{
	problem(context, path, "is not where the store looks, or not a store file");
	return 0;
}

static int verify_error(void *context, const char *path, int error)
{
	problem(context, path, "cannot be listed: %s", strerror(-error));
	return 0;
}

static int verify_marker(void *context, const char *name)
{
	struct verify *verify = context;
	store_file file;

	if (!store_marker_parse(name, &file)) {
		char path[STORE_PATH_MAX];

		snprintf(path, sizeof(path), "%s/missed/%s", verify->devices[verify->device].path,
			name);
		problem(verify, path, "is not a marker of missed writes");
		return 0;
	}
	if (verify->marker_count == verify->marker_room) {
		size_t room = verify->marker_room == 0 ? 64 : verify->marker_room * 2;
		store_file *markers = realloc(verify->markers, room * sizeof(*markers));

		if (markers == NULL)
			return -ENOMEM;
		verify->markers = markers;
		verify->marker_room = room;
	}
	verify->markers[verify->marker_count++] = file;
	return 0;
}

static int verify_device(struct verify *verify)
{
	static const struct store_scan_calls calls = {
		.file = verify_file,
		.aside = verify_aside,
		.unfinished = verify_unfinished,
		.stranger = verify_stranger,
		.error = verify_error,
	};
	const struct store_device *device = &verify->devices[verify->device];
	char path[STORE_PATH_MAX];
	int error;

	/* A marker without its file is what a crash leaves behind a removal. */
	snprintf(path, sizeof(path), "%s/missed", device->path);
	verify->marker_count = 0;
	error = verify->io->list(path, verify_marker, verify);
	if (error == -ENOMEM)
		return error;
	if (error != 0)
		verify_error(verify, path, error);
	if (verify->marker_count > 0)
		qsort(verify->markers, verify->marker_count, sizeof(*verify->markers), by_key);
	return store_scan_device(verify->io, device, &calls, verify);
}

/*
 * What is in a device's log belongs to its files. Returns 0, or -EUCLEAN with a line in message:
 * the files cannot be judged yet.
 */
static int check_log(
	struct verify *verify, struct store_device *device, char *message, size_t message_bytes)
{
	uint64_t records;
	int error = store_log_count(verify->io, device, &records, message, message_bytes);

	if (error == -ENOMEM)
		return error;
	if (error != 0) {
		verify->summary->problems++;
		fprintf(verify->problems, "%s\n", message);
		return 0;
	}
	if (records == 0)
		return 0;
	snprintf(message, message_bytes,
		"%s/" STORE_LOG_NAME ": %" PRIu64
		" changes are not in the store files yet, since rozo-storaged was not stopped "
		"cleanly: start it, which brings them there, stop it, and verify then",
		device->path, records);
	return -EUCLEAN;
}

/* Opens all labels, so that the whole node is ours. Returns 0 or why nothing can be said. */
static int lock_devices(struct verify *verify, char *error, size_t error_bytes)
{
	for (size_t i = 0; i < verify->options->device_count; i++) {
		struct store_device *device = &verify->devices[i];
		char message[STORE_PATH_MAX + 256] = "";
		int result;

		device->path = strdup(verify->options->devices[i]);
		if (device->path == NULL)
			return -ENOMEM;
		result = store_label_open(verify->io, device->path, verify->options->cluster_id,
			verify->options->node_id, &device->label_descriptor, &device->id, message,
			sizeof(message));
		if (result == 0)
			result = check_log(verify, device, message, sizeof(message));
		if (result == -EUCLEAN || result == -EBUSY || result == -EACCES ||
			result == -EPERM || result == -ENOMEM) {
			snprintf(error, error_bytes, "%s", message);
			return result;
		}
		if (result != 0) {
			verify->summary->problems++;
			fprintf(verify->problems, "%s; its shards were not read\n", message);
		}
	}
	return 0;
}

int store_verify(const struct store_options *options, FILE *problems, FILE *progress,
	struct store_verify_summary *summary, char *error, size_t error_bytes)
{
	struct verify verify = {
		.options = options,
		.io = options->io != NULL ? options->io : &store_io_posix,
		.devices = calloc(options->device_count, sizeof(*verify.devices)),
		.problems = problems,
		.progress = progress,
		.summary = summary,
		.next_progress_ms = clock_now_ms() + PROGRESS_MS,
	};
	int result = -ENOMEM;

	*summary = (struct store_verify_summary){0};
	if (error_bytes > 0)
		error[0] = '\0';
	if (verify.devices == NULL)
		goto out;
	for (size_t i = 0; i < options->device_count; i++)
		verify.devices[i].label_descriptor = -1;
	result = lock_devices(&verify, error, error_bytes);
	for (size_t i = 0; i < options->device_count && result == 0; i++) {
		verify.device = i;
		if (verify.devices[i].label_descriptor >= 0)
			result = verify_device(&verify);
	}
	for (size_t i = 0; i < options->device_count; i++) {
		if (verify.devices[i].label_descriptor >= 0)
			verify.io->close(verify.devices[i].label_descriptor);
		free(verify.devices[i].path);
		free(verify.devices[i].id);
	}
out:
	if (result == -ENOMEM)
		snprintf(error, error_bytes, "%s", strerror(ENOMEM));
	free(verify.markers);
	free(verify.devices);
	return result;
}
