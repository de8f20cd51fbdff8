/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See redo_log.h. The files are written with zeros when they are made, so that the flush of a
 * record changes nothing of the file but its bytes.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exportd/redo_log.h"
#include "rpc/crc32c.h"
#include "rpc/log.h"

#define PIECE_BYTES (1u << 20) /* zeros are written, and records looked for, in pieces of this */
#define KEEP_BYTES (1u << 20) /* memory that an empty record keeps */

struct redo_log {
	int files[2];
	uint64_t lengths[2];
	uint64_t file_bytes; /* of each, usually */
	struct redo_log_mark mark; /* what the next record says; its sequence is the last one's */
	_Atomic uint64_t checkpoint; /* instead of the mark's */
	unsigned int current;
	uint64_t position; /* in the current file: where the next record begins */
	char directory[4096];
};

/* -------- records in memory -------- */

static size_t whole_units(size_t bytes)
{
	return (bytes + REDO_LOG_UNIT - 1) / REDO_LOG_UNIT * REDO_LOG_UNIT;
}

int redo_log_reserve(struct redo_log_record *record, size_t bytes)
{
	size_t needed = whole_units(sizeof(struct redo_log_header) + record->payload_bytes + bytes);
	size_t room = record->room ? record->room : 4 * REDO_LOG_UNIT;
	uint8_t *grown;

	if (bytes > REDO_LOG_PAYLOAD_MAX - record->payload_bytes)
		return -EFBIG;
	if (needed <= record->room)
		return 0;
	while (room < needed)
		room *= 2;
	grown = realloc(record->bytes, room);
	if (grown == NULL)
		return -ENOMEM;
	record->bytes = grown;
	record->room = room;
	return 0;
}

uint8_t *redo_log_extend(struct redo_log_record *record, size_t bytes)
{
	uint8_t *at = record->bytes + sizeof(struct redo_log_header) + record->payload_bytes;

	record->payload_bytes += bytes;
	return at;
}

void redo_log_clear(struct redo_log_record *record)
{
	record->payload_bytes = 0;
	if (record->room > KEEP_BYTES)
		redo_log_free(record);
}

void redo_log_free(struct redo_log_record *record)
{
	free(record->bytes);
	*record = (struct redo_log_record){0};
}

/* -------- files -------- */

static int complain(const char *directory, unsigned int number, const char *what, int error)
{
	rozo_log(ERROR, "%s/redo-%u.log: %s: %s", directory, number, what, strerror(error));
	return -error;
}

int redo_log_write_all(int file, const uint8_t *bytes, size_t count, uint64_t offset)
{
	while (count > 0) {
		ssize_t written = pwrite(file, bytes, count, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written < 0 ? -errno : -EIO;
		bytes += written;
		count -= (size_t)written;
		offset += (uint64_t)written;
	}
	return 0;
}

/* Returns how many bytes were read: fewer than wanted only at the file's end; or -errno. */
static ssize_t read_all(int file, uint8_t *bytes, size_t count, uint64_t offset)
{
	size_t done = 0;

	while (done < count) {
		ssize_t got = pread(file, bytes + done, count - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

/* Writes zeros from one offset to another, and flushes. */
static int write_zeros(int file, uint64_t from, uint64_t to)
{
	uint8_t *zeros = calloc(1, PIECE_BYTES);
	int result = zeros == NULL ? -ENOMEM : 0;

	while (result == 0 && from < to) {
		size_t piece = to - from < PIECE_BYTES ? to - from : PIECE_BYTES;

		result = redo_log_write_all(file, zeros, piece, from);
		from += piece;
	}
	if (result == 0 && fdatasync(file) != 0)
		result = -errno;
	free(zeros);
	return result;
}

static int open_file(const char *directory, unsigned int number, int flags)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s/redo-%u.log", directory, number);
	int file = open(path, flags | O_RDWR | O_CLOEXEC, 0600);
	if (file < 0)
		return -errno;
	return file;
}

int redo_log_create(const char *directory, uint64_t file_bytes)
{
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		int file = open_file(directory, i, O_CREAT | O_TRUNC);

		result = file < 0 ? file : write_zeros(file, 0, file_bytes);
		if (file >= 0)
			close(file);
		if (result != 0)
			complain(directory, i, "making it", -result);
	}
	return result;
}

int redo_log_open(const char *directory, uint64_t file_bytes, struct redo_log **log)
{
	struct redo_log *made = calloc(1, sizeof(*made));
	int result = 0;

	if (made == NULL)
		return -ENOMEM;
	snprintf(made->directory, sizeof(made->directory), "%s", directory);
	made->file_bytes = file_bytes;
	made->files[0] = made->files[1] = -1;
	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		struct stat status;

		made->files[i] = open_file(directory, i, 0);
		if (made->files[i] < 0)
			result = made->files[i];
		else if (fstat(made->files[i], &status) != 0)
			result = -errno;
		else
			made->lengths[i] = (uint64_t)status.st_size;
		if (result == -ENOENT)
			rozo_log(ERROR,
				"%s/redo-%u.log is missing: it belongs to %s/checkpoint and may "
				"hold changes that data.mdb does not have yet; put it back, or "
				"restore the directory from a backup",
				directory, i, directory);
		else if (result != 0)
			complain(directory, i, "opening it", -result);
	}
	if (result != 0) {
		redo_log_close(made);
		return result;
	}
	*log = made;
	return 0;
}

void redo_log_close(struct redo_log *log)
{
	if (log == NULL)
		return;
	for (unsigned int i = 0; i < 2; i++)
		if (log->files[i] >= 0)
			close(log->files[i]);
	free(log);
}

/* -------- reading -------- */

static bool header_is_sound(const struct redo_log_header *header)
{
	return le64toh(header->magic) == REDO_LOG_MAGIC &&
	       le32toh(header->crc32c) ==
		       rozo_crc32c(header, offsetof(struct redo_log_header, crc32c));
}

/* Called with each sound header of a file. Returns 0 to go on. */
typedef int (*header_visit)(void *context, uint64_t offset, const struct redo_log_header *header);

static int each_header(int file, header_visit visit, void *context)
{
	uint8_t *piece = malloc(PIECE_BYTES);
	struct redo_log_header header;
	uint64_t offset = 0;
	ssize_t got = 1;
	int result = piece == NULL ? -ENOMEM : 0;

	while (result == 0 && got > 0) {
		got = read_all(file, piece, PIECE_BYTES, offset);
		if (got < 0)
			result = (int)got;
		for (ssize_t at = 0; result == 0 && at + (ssize_t)sizeof(header) <= got;
			at += REDO_LOG_UNIT) {
			memcpy(&header, piece + at, sizeof(header));
			if (header_is_sound(&header))
				result = visit(context, offset + (uint64_t)at, &header);
		}
		offset += PIECE_BYTES;
	}
	free(piece);
	return result;
}

static int note_use(void *context, uint64_t offset, const struct redo_log_header *header)
{
	(void)offset;
	(void)header;
	*(bool *)context = true;
	return 0;
}

int redo_log_look(const char *directory, bool *exists, bool *used)
{
	int result = 0;

	*exists = *used = false;
	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		int file = open_file(directory, i, 0);

		if (file == -ENOENT)
			continue;
		*exists = true;
		result = file < 0 ? file : each_header(file, note_use, used);
		if (file >= 0)
			close(file);
		if (result != 0)
			complain(directory, i, "reading it", -result);
	}
	return result;
}

/* The state of a pass over the records beyond a mark. */
struct reading {
	struct redo_log *log;
	const struct redo_log_mark *mark;
	unsigned int file;
	uint64_t offset;
	uint64_t sequence; /* the next one's */
	struct redo_log_header header; /* of the one that was read last */
	struct redo_log_record record; /* its payload */
	unsigned int damaged_file; /* where a record that is needed was seen or expected */
};

static bool is_of(const struct redo_log_header *header, const struct redo_log_mark *mark)
{
	return memcmp(header->database_id, mark->database_id, REDO_LOG_ID_BYTES) == 0 &&
	       le64toh(header->run) == mark->run;
}

/* Reads the record at a place. Returns 1 if it is the next one, 0 if not, or a negative errno. */
static int read_record(struct reading *reading, unsigned int number, uint64_t offset)
{
	int file = reading->log->files[number];
	struct redo_log_header header;
	ssize_t got;
	size_t bytes;
	int result;

	got = read_all(file, (uint8_t *)&header, sizeof(header), offset);
	if (got < 0)
		return (int)got;
	if ((size_t)got < sizeof(header) || !header_is_sound(&header) ||
		!is_of(&header, reading->mark) || le64toh(header.sequence) != reading->sequence)
		return 0;
	bytes = le32toh(header.payload_bytes);
	reading->record.payload_bytes = 0;
	result = redo_log_reserve(&reading->record, bytes);
	if (result != 0)
		return result == -EFBIG ? 0 : result;
	got = read_all(
		file, redo_log_extend(&reading->record, bytes), bytes, offset + sizeof(header));
	if (got < 0)
		return (int)got;
	if ((size_t)got < bytes ||
		le32toh(header.payload_crc32c) !=
			rozo_crc32c(reading->record.bytes + sizeof(header), bytes))
		return 0;
	reading->header = header;
	reading->file = number;
	reading->offset = offset + whole_units(sizeof(header) + bytes);
	reading->sequence++;
	return 1;
}

/* Reads the next record, wherever it is: behind the last one, or first in the other file. */
static int next_record(struct reading *reading)
{
	int result;

	if (reading->offset > 0) {
		result = read_record(reading, reading->file, reading->offset);
		if (result != 0)
			return result;
		return read_record(reading, reading->file ^ 1, 0);
	}
	result = read_record(reading, 0, 0);
	return result != 0 ? result : read_record(reading, 1, 0);
}

/* Complains of a record that can only be there if one is missing. */
static int find_later(void *context, uint64_t offset, const struct redo_log_header *header)
{
	const struct reading *reading = context;
	const struct redo_log_mark *mark = reading->mark;
	bool newer_mark, later;

	if (memcmp(header->database_id, mark->database_id, REDO_LOG_ID_BYTES) != 0)
		return 0;
	newer_mark = le64toh(header->checkpoint) > mark->checkpoint;
	later = le64toh(header->run) == mark->run && le64toh(header->sequence) > reading->sequence;
	if (newer_mark)
		rozo_log(ERROR,
			"%s: redo-%u.log has a record of checkpoint %" PRIu64
			", but the newest one that can be read in the file \"checkpoint\" is "
			"%" PRIu64 ": that file is damaged or an old copy. Put the right one "
			"back, or restore the directory from a backup",
			reading->log->directory, reading->damaged_file, le64toh(header->checkpoint),
			mark->checkpoint);
	else if (later)
		rozo_log(ERROR,
			"%s: record %" PRIu64
			" of the redo log is damaged or missing, but record %" PRIu64
			" is in redo-%u.log at %" PRIu64
			": changes that were acknowledged would be lost. Mend the disk and put "
			"the file back, or restore the directory from a backup",
			reading->log->directory, reading->sequence, le64toh(header->sequence),
			reading->damaged_file, offset);
	return newer_mark || later ? -EBADMSG : 0;
}

int redo_log_read(struct redo_log *log, const struct redo_log_mark *mark, redo_log_visit visit,
	void *context, struct redo_log_found *found)
{
	struct reading reading = {.log = log, .mark = mark, .sequence = mark->sequence + 1};
	/* The one before the last that was read: what it is waits for whether the next voids it. */
	struct redo_log_record waiting = {0};
	struct redo_log_found seen = {0};
	bool waits = false;
	int result;

	for (;;) {
		result = next_record(&reading);
		if (result < 0) {
			complain(log->directory, reading.file, "reading it", -result);
			break;
		}
		bool is_void = result == 1 && le32toh(reading.header.kind) == REDO_LOG_VOID;
		if (waits && !is_void && visit != NULL) {
			int refused = visit(context, waiting.bytes + sizeof(struct redo_log_header),
				waiting.payload_bytes);
			if (refused != 0) {
				result = refused;
				break;
			}
		}
		if (result == 0)
			break;
		waits = !is_void;
		if (is_void)
			continue;
		seen.records++;
		seen.bytes += reading.record.payload_bytes;
		struct redo_log_record swapped = waiting;
		waiting = reading.record;
		reading.record = swapped;
	}
	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		reading.damaged_file = i;
		result = each_header(log->files[i], find_later, &reading);
		if (result != 0 && result != -EBADMSG)
			complain(log->directory, i, "reading it", -result);
	}
	redo_log_free(&waiting);
	redo_log_free(&reading.record);
	seen.sequence = reading.sequence - 1;
	if (result == 0)
		*found = seen;
	return result;
}

/* -------- writing -------- */

static int write_file_again(int file)
{
	uint8_t *piece = malloc(PIECE_BYTES);
	uint64_t offset = 0;
	ssize_t got = 1;
	int result = piece == NULL ? -ENOMEM : 0;

	while (result == 0 && got > 0) {
		got = read_all(file, piece, PIECE_BYTES, offset);
		result = got < 0 ? (int)got : redo_log_write_all(file, piece, (size_t)got, offset);
		offset += PIECE_BYTES;
	}
	if (result == 0 && fdatasync(file) != 0)
		result = -errno;
	free(piece);
	return result;
}

int redo_log_write_again(struct redo_log *log)
{
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		result = write_file_again(log->files[i]);
		if (result != 0)
			complain(log->directory, i, "writing it again", -result);
	}
	return result;
}

/* Makes a file that nothing is needed of as long as it is to be. */
static int set_length(struct redo_log *log, unsigned int number)
{
	int result = 0;

	if (log->lengths[number] > log->file_bytes &&
		ftruncate(log->files[number], (off_t)log->file_bytes) != 0)
		result = -errno;
	if (log->lengths[number] < log->file_bytes)
		result = write_zeros(log->files[number], log->lengths[number], log->file_bytes);
	if (result != 0)
		return complain(log->directory, number, "setting its length", -result);
	log->lengths[number] = log->file_bytes;
	return 0;
}

int redo_log_start(struct redo_log *log, const struct redo_log_mark *mark)
{
	int result = set_length(log, 0);

	if (result == 0)
		result = set_length(log, 1);
	log->mark = *mark;
	atomic_store(&log->checkpoint, mark->checkpoint);
	log->current = 0;
	log->position = 0;
	return result;
}

bool redo_log_fits(const struct redo_log *log, size_t payload_bytes)
{
	/* Behind each transaction there is room for one that voids it. */
	return log->position + whole_units(sizeof(struct redo_log_header) + payload_bytes) +
		       REDO_LOG_UNIT <=
	       log->file_bytes;
}

static const uint8_t zero_unit[REDO_LOG_UNIT];

/* A record that was not acknowledged must not be there when the log is read again. */
static int take_back(struct redo_log *log)
{
	int file = log->files[log->current];
	int result = redo_log_write_all(file, zero_unit, sizeof(zero_unit), log->position);

	if (result == 0 && fdatasync(file) != 0)
		result = -errno;
	/* What was written of one that makes the file longer would keep the disk full. */
	if (result == 0 && ftruncate(file, (off_t)log->lengths[log->current]) != 0)
		result = -errno;
	return result;
}

int redo_log_append(struct redo_log *log, enum redo_log_kind kind, struct redo_log_record *record)
{
	size_t bytes = whole_units(sizeof(struct redo_log_header) + record->payload_bytes);
	size_t payload = record->payload_bytes;
	int file = log->files[log->current];
	struct redo_log_header header = {
		.magic = htole64(REDO_LOG_MAGIC),
		.run = htole64(log->mark.run),
		.checkpoint = htole64(atomic_load(&log->checkpoint)),
		.sequence = htole64(log->mark.sequence + 1),
		.kind = htole32(kind),
		.payload_bytes = htole32((uint32_t)payload),
	};
	uint64_t end = log->position + bytes, length = end;
	int result = 0;

	memcpy(header.database_id, log->mark.database_id, sizeof(header.database_id));
	header.payload_crc32c = htole32(rozo_crc32c(record->bytes + sizeof(header), payload));
	header.crc32c = htole32(rozo_crc32c(&header, offsetof(struct redo_log_header, crc32c)));
	memcpy(record->bytes, &header, sizeof(header));
	memset(record->bytes + sizeof(header) + payload, 0, bytes - sizeof(header) - payload);

	/* As redo_log_fits() sees to within the file: room for one that voids it. */
	if (kind == REDO_LOG_TRANSACTION)
		length += sizeof(zero_unit);
	if (length > end && length > log->lengths[log->current])
		result = redo_log_write_all(file, zero_unit, sizeof(zero_unit), end);
	if (result == 0)
		result = redo_log_write_all(file, record->bytes, bytes, log->position);
	if (result == 0 && fdatasync(file) != 0)
		result = -EIO;
	if (result != 0) {
		rozo_log_limited(ERROR, "%s/redo-%u.log: writing it: %s", log->directory,
			log->current, strerror(-result));
		/*
		 * What is answered as failed must not be there after a restart: others have gone by
		 * that since. (Whether one is there that voids another stays open.)
		 */
		bool gone = kind == REDO_LOG_TRANSACTION && take_back(log) == 0;
		/* A flush that failed is something else: it says EIO. */
		bool full = result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
		return gone && full ? -ENOSPC : -EIO;
	}
	if (length > log->lengths[log->current])
		log->lengths[log->current] = length;
	log->position = end;
	log->mark.sequence++;
	return 0;
}

int redo_log_turn(struct redo_log *log)
{
	int result = set_length(log, log->current ^ 1);

	if (result != 0)
		return result;
	log->current ^= 1;
	log->position = 0;
	return 0;
}

void redo_log_set_checkpoint(struct redo_log *log, uint64_t checkpoint)
{
	atomic_store(&log->checkpoint, checkpoint);
}

uint64_t redo_log_sequence(const struct redo_log *log)
{
	return log->mark.sequence;
}

uint64_t redo_log_used(const struct redo_log *log)
{
	return log->position;
}
