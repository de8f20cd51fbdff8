/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Reading the log of a device after a crash (store_log.h), and applying it.
 *
 * Records are taken from the tail on, each with the number that follows, until the next is not
 * there. Then the whole ring is searched: a later record that was written when the missing one was
 * durable shows that this is damage and not the end. Used before the device serves: no locks.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "storaged/store_log.h"

#define SEARCH_BYTES (1u << 20) /* read at once */

/* -------- headers -------- */

static uint32_t header_crc(const struct store_log_header *header)
{
	return rozo_crc32c(header, offsetof(struct store_log_header, crc32c));
}

static int read_at(
	const struct store_io *io, int descriptor, uint64_t offset, void *bytes, size_t count)
{
	struct iovec part = {.iov_base = bytes, .iov_len = count};
	ssize_t done = store_io_read_all(io, descriptor, &part, 1, offset);

	if (done < 0)
		return (int)done;
	memset((uint8_t *)bytes + done, 0, count - (size_t)done);
	return 0;
}

/* Brings one header to the machine's byte order. Returns false if it is not sound. */
static bool header_get(struct store_log_header *header)
{
	if (le64toh(header->magic) != STORE_LOG_HEADER_MAGIC ||
		le32toh(header->crc32c) != header_crc(header))
		return false;
	header->format = le32toh(header->format);
	header->bytes = le64toh(header->bytes);
	header->serial = le64toh(header->serial);
	header->run = le64toh(header->run);
	header->tail_offset = le64toh(header->tail_offset);
	header->tail_sequence = le64toh(header->tail_sequence);
	return true;
}

int store_log_read_header(const struct store_io *io, const struct store_device *device,
	int descriptor, struct store_log_header *header, char *text, size_t text_bytes)
{
	char id[sizeof(header->device_id)] = {0};
	const char *wrong = NULL;
	bool found = false;
	uint64_t size;
	int error = io->size(descriptor, &size);

	for (unsigned int i = 0; i < 2 && error == 0; i++) {
		struct store_log_header one;

		error = read_at(io, descriptor, (uint64_t)i * STORE_LOG_BATCH, &one, sizeof(one));
		if (error != 0 || !header_get(&one) || (found && one.serial < header->serial))
			continue;
		*header = one;
		found = true;
	}
	if (error != 0) {
		snprintf(text, text_bytes, "%s/" STORE_LOG_NAME ": %s", device->path,
			strerror(-error));
		return error;
	}
	memcpy(id, device->id, strnlen(device->id, sizeof(id)));
	if (!found)
		wrong = "both its headers are damaged";
	else if (header->format != STORE_LOG_FORMAT)
		wrong = "it has a newer format than this program knows (use the version of "
			"rozo-storaged that made it, or a newer one)";
	else if (memcmp(header->device_id, id, sizeof(id)) != 0)
		wrong = "it belongs to another device (put that device's own log back)";
	else if (header->bytes % STORE_LOG_BATCH != 0 || header->bytes < STORE_LOG_BYTES_MIN ||
		 size < header->bytes || header->tail_offset < STORE_LOG_RING ||
		 header->tail_offset >= header->bytes)
		wrong = "it is cut short, or its header makes no sense";
	if (wrong == NULL)
		return 0;
	snprintf(text, text_bytes,
		"%s/" STORE_LOG_NAME
		": %s. It may have changes that are nowhere else, so the device "
		"is not used. If it cannot be restored, remove the file: shards that lack those "
		"changes are found by scrubbing and made anew from other nodes",
		device->path, wrong);
	return -EINVAL;
}

static int write_header(
	const struct store_io *io, int descriptor, const struct store_log_header *native)
{
	struct store_log_header header = {
		.magic = htole64(STORE_LOG_HEADER_MAGIC),
		.format = htole32(STORE_LOG_FORMAT),
		.bytes = htole64(native->bytes),
		.serial = htole64(native->serial),
		.run = htole64(native->run),
		.tail_offset = htole64(native->tail_offset),
		.tail_sequence = htole64(native->tail_sequence),
	};
	struct iovec part = {.iov_base = &header, .iov_len = sizeof(header)};
	int error;

	memcpy(header.device_id, native->device_id, sizeof(header.device_id));
	header.crc32c = htole32(header_crc(&header));
	error = store_io_write_all(
		io, descriptor, &part, 1, (native->serial & 1) * STORE_LOG_BATCH);
	return error != 0 ? error : io->sync_data(descriptor);
}

int store_log_write_headers(
	const struct store_io *io, int descriptor, struct store_log_header *header)
{
	int error = 0;

	for (unsigned int i = 0; i < 2 && error == 0; i++) {
		header->serial++;
		error = write_header(io, descriptor, header);
	}
	return error;
}

/* -------- records -------- */

struct reader {
	const struct store_io *io;
	const struct store_device *device;
	int descriptor;
	uint64_t ring_bytes;
	uint64_t run;
	uint64_t end; /* positions, as in store_log.c: once round from the tail */
	uint64_t position; /* behind the last record */
	uint64_t sequence; /* of the next one */
	uint64_t lost;
	bool tell; /* damage is logged */
	struct store_log_record record; /* the current one, native numbers */
	uint8_t *bytes; /* room for a record */
};

/* Reads the record that begins at a position, if it is sound. Returns 1, 0 (none) or an errno. */
static int read_record(struct reader *reader, uint64_t position)
{
	uint64_t offset = position % reader->ring_bytes, left = reader->ring_bytes - offset;
	struct store_log_record record;
	uint64_t bytes = sizeof(record) + STORE_LOG_PAYLOAD_MAX;
	uint32_t crc;
	int error;

	if (left < bytes)
		bytes = left;
	error = read_at(
		reader->io, reader->descriptor, STORE_LOG_RING + offset, &record, sizeof(record));
	if (error != 0)
		return error;
	if (le64toh(record.magic) != STORE_LOG_RECORD_MAGIC || le64toh(record.run) != reader->run ||
		le32toh(record.payload_bytes) > bytes - sizeof(record))
		return 0;
	error = read_at(reader->io, reader->descriptor, STORE_LOG_RING + offset, reader->bytes,
		sizeof(record) + le32toh(record.payload_bytes));
	if (error != 0)
		return error;
	crc = rozo_crc32c(&record, offsetof(struct store_log_record, crc32c));
	crc = rozo_crc32c_more(crc, reader->bytes + sizeof(record), le32toh(record.payload_bytes));
	if (crc != le32toh(record.crc32c))
		return 0;
	reader->record = (struct store_log_record){
		.sequence = le64toh(record.sequence),
		.durable = le64toh(record.durable),
		.file_id = le64toh(record.file_id),
		.export_id = le32toh(record.export_id),
		.segment = le32toh(record.segment),
		.kind = le32toh(record.kind),
		.payload_bytes = le32toh(record.payload_bytes),
	};
	return 1;
}

/* The same if it also is the next record. */
static int read_next_at(struct reader *reader, uint64_t position)
{
	int found = position < reader->end ? read_record(reader, position) : 0;

	if (found == 1 && reader->record.sequence != reader->sequence)
		return 0;
	if (found == 1)
		reader->position = position + store_log_round(sizeof(reader->record) +
								      reader->record.payload_bytes,
						      STORE_LOG_UNIT);
	return found;
}

/*
 * Looks everywhere for records behind the one that is missing. *next receives the position of the
 * first of them; true in *damage says that the missing one was acknowledged.
 */
static int search(struct reader *reader, uint64_t *next, bool *damage)
{
	uint64_t first = UINT64_MAX;
	uint8_t *piece = malloc(SEARCH_BYTES);
	int found = piece == NULL ? -ENOMEM : 0;

	*damage = false;
	for (uint64_t at = 0; at < reader->ring_bytes && found >= 0; at += SEARCH_BYTES) {
		uint64_t bytes = reader->ring_bytes - at;

		if (bytes > SEARCH_BYTES)
			bytes = SEARCH_BYTES;
		found = read_at(reader->io, reader->descriptor, STORE_LOG_RING + at, piece, bytes);
		for (uint64_t unit = 0; unit < bytes && found >= 0; unit += STORE_LOG_UNIT) {
			struct store_log_record record;

			memcpy(&record, piece + unit, sizeof(record));
			if (le64toh(record.magic) != STORE_LOG_RECORD_MAGIC ||
				le64toh(record.run) != reader->run ||
				le64toh(record.sequence) < reader->sequence)
				continue;
			found = read_record(reader, at + unit);
			if (found != 1)
				continue;
			*damage = *damage || reader->record.durable >= reader->sequence;
			if (reader->record.sequence >= first)
				continue;
			first = reader->record.sequence;
			*next = reader->end - reader->ring_bytes;
			*next += (at + unit + reader->ring_bytes - *next % reader->ring_bytes) %
				 reader->ring_bytes;
		}
	}
	free(piece);
	return found < 0 ? found : 0;
}

/* The next record. Returns 1, 0 (there are no more) or a negative errno. */
static int read_next(struct reader *reader)
{
	/* Behind the last one, or where the next batch begins, or there after going round. */
	uint64_t places[] = {reader->position, store_log_round(reader->position, STORE_LOG_BATCH),
		(reader->position / reader->ring_bytes + 1) * reader->ring_bytes};
	uint64_t next = 0;
	bool damage;
	int found = 0;

	for (unsigned int i = 0; i < 3 && found == 0; i++)
		found = read_next_at(reader, places[i]);
	if (found != 0)
		return found;
	found = search(reader, &next, &damage);
	if (found != 0 || !damage)
		return found;
	found = read_record(reader, next);
	if (found != 1)
		return found < 0 ? found : -EIO;
	if (reader->tell)
		rozo_log(ERROR,
			"%s/" STORE_LOG_NAME ": damaged at byte %" PRIu64 ": %" PRIu64
			" acknowledged changes (number %" PRIu64
			" and those behind) cannot be read; "
			"going on with number %" PRIu64 ". The shards they were for may be old or "
			"damaged until they are scrubbed",
			reader->device->path,
			STORE_LOG_RING + reader->position % reader->ring_bytes,
			reader->record.sequence - reader->sequence, reader->sequence,
			reader->record.sequence);
	reader->lost += reader->record.sequence - reader->sequence;
	reader->sequence = reader->record.sequence;
	return read_next_at(reader, next);
}

static int reader_begin(struct reader *reader, const struct store_io *io,
	const struct store_device *device, int descriptor, const struct store_log_header *header,
	bool tell)
{
	*reader = (struct reader){
		.io = io,
		.device = device,
		.descriptor = descriptor,
		.ring_bytes = header->bytes - STORE_LOG_RING,
		.run = header->run,
		.position = header->tail_offset - STORE_LOG_RING,
		.sequence = header->tail_sequence,
		.tell = tell,
		.bytes = malloc(sizeof(struct store_log_record) + STORE_LOG_PAYLOAD_MAX),
	};
	reader->end = reader->position + reader->ring_bytes;
	return reader->bytes == NULL ? -ENOMEM : 0;
}

/* -------- applying -------- */

/* The newest record of a store file that supersedes older ones. */
struct latest {
	store_file key;
	uint64_t sequence;
};

struct replay {
	struct store *store;
	struct store_device *device;
	struct store_log_summary *summary;
	struct latest *latest; /* sorted by key, one for each */
	size_t latest_count, latest_room;
	/* The sides of the file that was changed last. */
	bool opened;
	store_file key;
	int descriptors[STORE_SIDES];
};

static store_file record_key(const struct store_log_record *record)
{
	return (store_file){.export_id = record->export_id,
		.segment = record->segment,
		.file_id = record->file_id};
}

static int compare_keys(const store_file *a, const store_file *b)
{
	if (a->export_id != b->export_id)
		return a->export_id < b->export_id ? -1 : 1;
	if (a->file_id != b->file_id)
		return a->file_id < b->file_id ? -1 : 1;
	return a->segment < b->segment ? -1 : a->segment > b->segment;
}

static int by_key(const void *left, const void *right)
{
	const struct latest *a = left, *b = right;
	int order = compare_keys(&a->key, &b->key);

	if (order != 0)
		return order;
	/* The newest first: it is the one that is kept. */
	return a->sequence > b->sequence ? -1 : a->sequence < b->sequence;
}

static int note_latest(struct replay *replay, const struct store_log_record *record)
{
	if (replay->latest_count == replay->latest_room) {
		size_t room = replay->latest_room == 0 ? 64 : replay->latest_room * 2;
		struct latest *larger = realloc(replay->latest, room * sizeof(*larger));

		if (larger == NULL)
			return -ENOMEM;
		replay->latest = larger;
		replay->latest_room = room;
	}
	replay->latest[replay->latest_count++] =
		(struct latest){.key = record_key(record), .sequence = record->sequence};
	return 0;
}

/* Sorts what was noted and leaves one for each store file. */
static void sort_latest(struct replay *replay)
{
	size_t kept = 0;

	if (replay->latest_count == 0)
		return;
	qsort(replay->latest, replay->latest_count, sizeof(*replay->latest), by_key);
	for (size_t i = 1; i < replay->latest_count; i++) {
		if (compare_keys(&replay->latest[i].key, &replay->latest[kept].key) != 0)
			replay->latest[++kept] = replay->latest[i];
	}
	replay->latest_count = kept + 1;
}

/* True if a later record says that this one does not count. */
static bool is_superseded(const struct replay *replay, const struct store_log_record *record)
{
	struct latest wanted = {.key = record_key(record), .sequence = 0};
	size_t low = 0, high = replay->latest_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (compare_keys(&replay->latest[middle].key, &wanted.key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < replay->latest_count &&
	       compare_keys(&replay->latest[low].key, &wanted.key) == 0 &&
	       record->sequence < replay->latest[low].sequence;
}

static void close_file(struct replay *replay)
{
	for (unsigned int side = 0; side < STORE_SIDES && replay->opened; side++) {
		if (replay->descriptors[side] >= 0)
			replay->store->io->close(replay->descriptors[side]);
	}
	replay->opened = false;
}

/* A descriptor of a side, which is made if it is not there. */
static int open_side(struct replay *replay, const store_file *key, unsigned int side)
{
	char path[STORE_PATH_MAX];
	int descriptor;

	if (!replay->opened || compare_keys(&replay->key, key) != 0) {
		close_file(replay);
		replay->opened = true;
		replay->key = *key;
		replay->descriptors[0] = replay->descriptors[1] = -1;
	}
	if (replay->descriptors[side] >= 0)
		return replay->descriptors[side];
	store_side_path(replay->device, key, side, path);
	descriptor = replay->store->io->open(path, O_RDWR | O_CREAT, 0600);
	if (descriptor >= 0)
		replay->descriptors[side] = descriptor;
	return descriptor;
}

/* Writes again what a record says was written. */
static int apply_change(struct replay *replay, const store_file *key, const uint8_t *payload,
	uint32_t payload_bytes)
{
	static const uint8_t zeros[STORE_PAGE_BYTES];
	const struct store_io *io = replay->store->io;
	uint32_t at = 0;

	while (at < payload_bytes) {
		struct store_log_extent extent;
		uint64_t offset, end;
		uint32_t stored, side;
		struct iovec part;
		int descriptor, error = 0;

		if (payload_bytes - at < sizeof(extent))
			return -EINVAL;
		memcpy(&extent, payload + at, sizeof(extent));
		at += sizeof(extent);
		offset = le64toh(extent.offset);
		end = offset + le32toh(extent.bytes);
		stored = le32toh(extent.stored_bytes);
		side = le32toh(extent.side);
		if (side >= STORE_SIDES || stored > le32toh(extent.bytes) ||
			stored > payload_bytes - at || end < offset)
			return -EINVAL;
		descriptor = open_side(replay, key, side);
		if (descriptor < 0)
			return descriptor;
		part = (struct iovec){
			.iov_base = (void *)(uintptr_t)(payload + at),
			.iov_len = stored,
		};
		if (stored > 0)
			error = store_io_write_all(io, descriptor, &part, 1, offset);
		for (offset += stored; offset < end && error == 0; offset += part.iov_len) {
			struct iovec rest = {
				.iov_base = (void *)(uintptr_t)zeros,
				.iov_len =
					end - offset < sizeof(zeros) ? end - offset : sizeof(zeros),
			};

			part = rest;
			error = store_io_write_all(io, descriptor, &rest, 1, offset);
		}
		if (error != 0)
			return error;
		at += (uint32_t)store_log_round(stored, 8);
		replay->summary->bytes += le32toh(extent.bytes);
	}
	return 0;
}

/*
 * Removes a store file again. Its marker of missed writes stays if it is there: it may be that of
 * the file that was made in its place. If not, the next scan removes it.
 */
static int apply_removal(struct replay *replay, const store_file *key)
{
	close_file(replay);
	return store_sides_remove(replay->store->io, replay->device, key);
}

static int apply(struct replay *replay, struct reader *reader)
{
	store_file key = record_key(&reader->record);
	int error;

	switch (reader->record.kind) {
	case STORE_LOG_CHANGE:
		if (!replay->opened || compare_keys(&replay->key, &key) != 0)
			replay->summary->files++;
		error = store_device_make_directory(replay->store, replay->device, &key);
		if (error == 0)
			error = apply_change(replay, &key,
				reader->bytes + sizeof(struct store_log_record),
				reader->record.payload_bytes);
		break;
	case STORE_LOG_REMOVE:
		replay->summary->files++;
		error = apply_removal(replay, &key);
		break;
	case STORE_LOG_CLEAN:
		error = 0;
		break;
	default:
		error = -EINVAL;
		break;
	}
	return error;
}

/*
 * One pass through the log: notes what supersedes others, or applies what is left of the first
 * `count` records.
 */
static int pass(struct replay *replay, int descriptor, const struct store_log_header *header,
	bool applying, uint64_t count)
{
	struct reader reader;
	int found, error = reader_begin(&reader, replay->store->io, replay->device, descriptor,
			   header, applying);

	*replay->summary = (struct store_log_summary){0};
	while (error == 0 && replay->summary->records < count) {
		found = read_next(&reader);
		if (found != 1) {
			error = found;
			break;
		}
		replay->summary->records++;
		if (!applying) {
			if (reader.record.kind != STORE_LOG_CHANGE)
				error = note_latest(replay, &reader.record);
		} else if (reader.record.kind == STORE_LOG_CLEAN ||
			   is_superseded(replay, &reader.record)) {
			replay->summary->superseded++;
		} else {
			error = apply(replay, &reader);
		}
		reader.sequence++;
	}
	replay->summary->lost = reader.lost;
	close_file(replay);
	free(reader.bytes);
	return error;
}

int store_log_replay(struct store *store, struct store_device *device, int descriptor,
	const struct store_log_header *header, struct store_log_summary *summary, char *text,
	size_t text_bytes)
{
	struct replay replay = {.store = store, .device = device, .summary = summary};
	int error = pass(&replay, descriptor, header, false, UINT64_MAX);

	sort_latest(&replay);
	if (error == 0)
		error = pass(&replay, descriptor, header, true, summary->records);
	free(replay.latest);
	if (error != 0)
		snprintf(text, text_bytes,
			"%s/" STORE_LOG_NAME ": record %" PRIu64
			" cannot be applied: %s: mend the disk, or make room on it, and restart "
			"rozo-storaged; until then the device is not used",
			device->path, header->tail_sequence + summary->records + summary->lost - 1,
			strerror(-error));
	return error;
}

int store_log_count(const struct store_io *io, struct store_device *device, uint64_t *records,
	char *text, size_t text_bytes)
{
	struct store_log_header header;
	char name[STORE_PATH_MAX];
	struct reader reader;
	int descriptor, found = 1, error = -ENAMETOOLONG;

	*records = 0;
	if (snprintf(name, sizeof(name), "%s/" STORE_LOG_NAME, device->path) >= (int)sizeof(name))
		return error;
	descriptor = io->open(name, O_RDONLY, 0);
	if (descriptor == -ENOENT)
		return 0;
	if (descriptor < 0) {
		snprintf(text, text_bytes, "%s: %s", name, strerror(-descriptor));
		return descriptor;
	}
	error = store_log_read_header(io, device, descriptor, &header, text, text_bytes);
	if (error == 0) {
		error = reader_begin(&reader, io, device, descriptor, &header, false);
		while (error == 0 && (found = read_next(&reader)) == 1) {
			reader.sequence++;
			++*records;
		}
		*records += error == 0 ? reader.lost : 0;
		free(reader.bytes);
		if (error == 0 && found < 0) {
			error = found;
			snprintf(text, text_bytes, "%s: %s", name, strerror(-error));
		}
	}
	io->close(descriptor);
	return error;
}
