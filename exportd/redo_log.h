/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A redo log: records become durable, in order, by one flush of one file that was written before.
 *
 *   redo-0.log, redo-1.log      each as long as was asked for, zeros at first
 *   0          4096
 *   +----------+----------+-------------------+----------+----
 *   | record   | record   | record            | record   |  what is left of earlier turns
 *   +----------+----------+-------------------+----------+----
 *
 * The two files are used in turn, each from its beginning. Records begin at multiples of 4 KiB and
 * what was acknowledged is not written again before its turn is over, so a torn write harms
 * nothing but itself. Which records count is said by a mark, which whoever uses the log keeps
 * elsewhere (exportd/kv_checkpoint.h): those of one database and run, numbered without a gap from
 * the mark on. A record says whether the one before it is void.
 *
 * Knows nothing of what is in the records. Takes no locks: one thread at a time, but for
 * redo_log_set_checkpoint().
 */
#ifndef ROZO_EXPORTD_REDO_LOG_H
#define ROZO_EXPORTD_REDO_LOG_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REDO_LOG_UNIT 4096
#define REDO_LOG_ID_BYTES 16
#define REDO_LOG_MAGIC UINT64_C(0x6f6465526f7a6f52) /* "RozoRedo" as it lies on disk */
/* The largest payload of one record. */
#define REDO_LOG_PAYLOAD_MAX (1u << 30)

enum redo_log_kind {
	REDO_LOG_TRANSACTION = 1,
	REDO_LOG_VOID = 2, /* no payload: the record before this one does not count */
};

/* On disk; numbers are little-endian. The payload follows, then zeros up to the next unit. */
struct redo_log_header {
	uint64_t magic;
	uint8_t database_id[REDO_LOG_ID_BYTES];
	uint64_t run; /* random, another each time the database is opened */
	uint64_t checkpoint; /* serial of the newest durable one when this was written */
	uint64_t sequence; /* one more than that of the record before */
	uint32_t kind;
	uint32_t payload_bytes;
	uint32_t payload_crc32c;
	uint32_t crc32c; /* of everything before */
};
static_assert(sizeof(struct redo_log_header) == 64, "on disk");

/* Which records count: those of this database and run with a larger sequence. */
struct redo_log_mark {
	uint8_t database_id[REDO_LOG_ID_BYTES];
	uint64_t run;
	uint64_t checkpoint;
	uint64_t sequence;
};

/* A record that is being put together. All zeros is an empty one. */
struct redo_log_record {
	uint8_t *bytes; /* a header, then the payload */
	size_t room;
	size_t payload_bytes;
};

struct redo_log;

/*
 * Makes sure that redo_log_extend() can be called for `bytes` more. Returns 0; -ENOMEM; -EFBIG:
 * the record would be larger than REDO_LOG_PAYLOAD_MAX.
 */
int redo_log_reserve(struct redo_log_record *record, size_t bytes);

/* Adds bytes that were reserved. Returns where they are to be written. */
uint8_t *redo_log_extend(struct redo_log_record *record, size_t bytes);

/* Makes the record empty, and keeps no more memory than a usual one needs. */
void redo_log_clear(struct redo_log_record *record);

/* Frees what the record has allocated. */
void redo_log_free(struct redo_log_record *record);

/*
 * Makes or overwrites both files in an existing directory, zeros throughout and flushed; the
 * directory is not flushed. file_bytes: of each, a multiple of REDO_LOG_UNIT.
 * Returns 0 or a negative errno, which has been logged.
 */
int redo_log_create(const char *directory, uint64_t file_bytes);

/*
 * Opens both files. file_bytes: as they were made; what is longer is from a record that did not
 * fit. *log is closed by redo_log_close(); redo_log_start() comes before the first append. Returns
 * 0; -ENOENT: a file is missing; or another negative errno; it has been logged.
 */
int redo_log_open(const char *directory, uint64_t file_bytes, struct redo_log **log);

/* NULL is allowed. */
void redo_log_close(struct redo_log *log);

/*
 * Tells whether a directory has files of a log, and whether there is a record in them.
 * Returns 0 or a negative errno, which has been logged.
 */
int redo_log_look(const char *directory, bool *exists, bool *used);

/* Called for each record that counts. Returns 0 to go on, or a negative errno. */
typedef int (*redo_log_visit)(void *context, const uint8_t *payload, size_t bytes);

/* What was found beyond a mark. */
struct redo_log_found {
	uint64_t records; /* transactions, void ones too */
	uint64_t bytes; /* of their payloads */
	uint64_t sequence; /* the last; the mark's if there are none */
};

/*
 * Visits the records beyond a mark, in order, except void ones. visit may be NULL. A last record
 * that is incomplete was never acknowledged and is not one. *found is filled in if the result is 0.
 * Returns 0; -EBADMSG: a record is damaged that others follow, or there are records that were
 * written under a newer mark than this one; -ENOMEM; what visit returned; or another negative
 * errno. All but what visit returned has been logged.
 */
int redo_log_read(struct redo_log *log, const struct redo_log_mark *mark, redo_log_visit visit,
	void *context, struct redo_log_found *found);

/*
 * Writes what both files have once more, and flushes it. After a flush that failed memory may still
 * have what never came to the disk, and another flush would not look for it.
 * Returns 0 or a negative errno, which has been logged.
 */
int redo_log_write_again(struct redo_log *log);

/*
 * Nothing that is in the log is needed any more: the next record is the first of a file, and
 * follows the mark. Returns 0 or a negative errno, which has been logged.
 */
int redo_log_start(struct redo_log *log, const struct redo_log_mark *mark);

/* True if a record of so many payload bytes fits in the current file. */
bool redo_log_fits(const struct redo_log *log, size_t payload_bytes);

/*
 * Writes and flushes a record. What does not fit makes the file longer for this turn.
 * Returns 0: it is durable; -ENOSPC: there was no room, mostly for what made the file longer, and
 * nothing has changed; or -EIO: it will not be there when the log is read again, if the disk takes
 * that; whether one is that voids another is unknown. Errors have been logged.
 */
int redo_log_append(struct redo_log *log, enum redo_log_kind kind, struct redo_log_record *record);

/*
 * Goes on in the other file, nothing of which is needed any more. Returns 0 or a negative errno,
 * which has been logged.
 */
int redo_log_turn(struct redo_log *log);

/* A newer checkpoint is durable: the following records say so. May be called by any thread. */
void redo_log_set_checkpoint(struct redo_log *log, uint64_t checkpoint);

/*
 * Writes all of some bytes at an offset, as the log itself does: also for the mark that belongs to
 * it. Does not flush. Returns 0 or a negative errno.
 */
int redo_log_write_all(int file, const uint8_t *bytes, size_t count, uint64_t offset);

/* The number of the last record; bytes of the current file that are in use. */
uint64_t redo_log_sequence(const struct redo_log *log);
uint64_t redo_log_used(const struct redo_log *log);

#endif
