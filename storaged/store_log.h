/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The log of a device: small changes of store files become durable by one flush of one file that
 * was written before, instead of a flush of each store file and its directory
 * (docs/store-format.md).
 *
 *   <device>/rozo-log
 *   0          4096       8192                                                 bytes
 *   +----------+----------+---------------------------------------------------+
 *   | header 0 | header 1 |   ... | record | record |..| record |  ...          |   a ring
 *   +----------+----------+---------------------------------------------------+
 *                             tail ^                        head ^
 *
 * A change is written to its store file first, as without a log, and not flushed. What flushes it
 * is a record with the bytes that were written: whoever opens the device after a crash writes them
 * again. So a record never needs to undo anything, and what is not in the log may be lost in part,
 * as it may be without one. Records stay until a checkpoint has flushed the whole file system.
 */
#ifndef ROZO_STORE_LOG_H
#define ROZO_STORE_LOG_H

#include "storaged/store_internal.h"

#define STORE_LOG_NAME "rozo-log"
#define STORE_LOG_FORMAT 1
#define STORE_LOG_BYTES_MIN (32u << 10)
#define STORE_LOG_PAYLOAD_MAX (64u << 10)
#define STORE_LOG_RING 8192 /* where the ring begins */
#define STORE_LOG_UNIT 512 /* records begin at multiples of this */
#define STORE_LOG_BATCH                                                                            \
	4096 /* and what is flushed together at multiples of this: what was                        \
		acknowledged is never written again */

#define STORE_LOG_HEADER_MAGIC UINT64_C(0x48676f4c6f7a6f52) /* "RozoLogH" as it lies on disk */
#define STORE_LOG_RECORD_MAGIC UINT64_C(0x52676f4c6f7a6f52) /* "RozoLogR" */

/*
 * One sector at 0 and at 4096; the sound one with the larger serial counts. Both are written each
 * time, one after the other, and say the same then: whichever is damaged, the one that is left does
 * not make records count that were done with. They differ only after a crash in between, when
 * nothing relies on the newer one yet.
 */
struct store_log_header {
	uint64_t magic;
	uint32_t format;
	uint32_t unused;
	char device_id[32]; /* of the label, not terminated */
	uint64_t bytes; /* of the file; the ring ends there */
	uint64_t serial; /* one more each time; its lowest bit says which header it is */
	uint64_t run; /* random, another each time the device is opened: older records do not count
		       */
	uint64_t tail_offset; /* in the file: where the oldest record is that counts */
	uint64_t tail_sequence; /* its number, and if there is none that of the next one */
	uint8_t unused_2[STORE_LOG_UNIT - 92];
	uint32_t crc32c; /* of everything before */
};
static_assert(sizeof(struct store_log_header) == STORE_LOG_UNIT, "a header is one sector");

enum store_log_kind {
	STORE_LOG_CHANGE = 1, /* extents that were written */
	STORE_LOG_CLEAN, /* the store file was flushed: older records of it do not count */
	STORE_LOG_REMOVE, /* the store file is removed; older records of it do not count */
};

/* The payload follows, then zeros up to a multiple of STORE_LOG_UNIT. */
struct store_log_record {
	uint64_t magic;
	uint64_t run;
	uint64_t sequence; /* one more than that of the record before */
	uint64_t durable; /* all records up to this one were flushed when this one was written */
	uint64_t file_id;
	uint32_t export_id;
	uint32_t segment;
	uint32_t kind; /* enum store_log_kind */
	uint32_t payload_bytes;
	uint32_t unused;
	uint32_t crc32c; /* of everything before, and the payload */
};
static_assert(sizeof(struct store_log_record) == 64, "record size");

/*
 * The payload of a change is a run of these, each followed by stored_bytes and zeros up to a
 * multiple of 8. Nothing to write (bytes is 0) says that the side exists.
 */
struct store_log_extent {
	uint64_t offset;
	uint32_t bytes; /* of the side that were written */
	uint32_t stored_bytes; /* so many follow, the rest are zeros */
	uint32_t side;
	uint32_t unused;
};
static_assert(sizeof(struct store_log_extent) == 24, "extent size");

static inline uint64_t store_log_round(uint64_t bytes, uint64_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

/* -------- reading (store_log_replay.c) -------- */

/*
 * Reads both headers and gives the one that counts. Returns 0; -EINVAL: none is sound, or it is of
 * another device or a newer format, and text receives one line that says so; or another errno.
 */
int store_log_read_header(const struct store_io *io, const struct store_device *device,
	int descriptor, struct store_log_header *header, char *text, size_t text_bytes);

/*
 * Writes both headers, the older one first, and flushes each before the next. header has native
 * numbers, no CRC yet; its serial rises. Returns 0 or a negative errno: either may count then.
 */
int store_log_write_headers(
	const struct store_io *io, int descriptor, struct store_log_header *header);

struct store_log_summary {
	uint64_t records; /* that count, applied ones and superseded ones */
	uint64_t superseded;
	uint64_t files; /* that were changed or removed */
	uint64_t bytes;
	uint64_t lost; /* acknowledged records that are damaged */
};

/*
 * Applies the records of a log to the store files, in order, and tells what it did. What is damaged
 * in the middle is logged and left out. Nothing is flushed; may be done again at any time.
 * Returns 0 or a negative errno, with one line in text.
 */
int store_log_replay(struct store *store, struct store_device *device, int descriptor,
	const struct store_log_header *header, struct store_log_summary *summary, char *text,
	size_t text_bytes);

/*
 * How many records of a device's log are not applied to its files, for who only looks.
 * Returns 0 (also if there is no log) or a negative errno, with one line in text.
 */
int store_log_count(const struct store_io *io, struct store_device *device, uint64_t *records,
	char *text, size_t text_bytes);

/* -------- writing (store_log.c) -------- */

struct store_log;

/*
 * Opens a device's log, makes one of about `bytes` if there is none (0, or not enough room: does
 * without), applies its records and empties it. device->log receives it, or NULL.
 * Returns 0, or a negative errno, with one line in text: the device cannot be used.
 */
int store_log_open(struct store *store, struct store_device *device,
	const struct store_options *options, char *text, size_t text_bytes);

/* Checkpoints, so that the log is empty, unless something failed; frees. log may be NULL. */
void store_log_close(struct store_log *log);

/* The largest payload of a record. */
uint32_t store_log_payload_max(const struct store_log *log);

/*
 * Puts a record behind the others, in memory, and tells its number. A change must have been written
 * to its file before. A removal is made afterwards, and store_log_release() called then: meanwhile
 * no checkpoint begins. Returns 0; -ENOSPC (the log is full: a change has to be flushed in
 * another way; other records wait for room); -EIO (the log has failed); -ENOMEM.
 */
int store_log_append(struct store_log *log, enum store_log_kind kind, const store_file *key,
	const void *payload, uint32_t payload_bytes, uint64_t *sequence);

/* What a record of a removal is for was done, or will not be done. */
void store_log_release(struct store_log *log);

/* Returns when a record is durable: 0, or -EIO. Those who come together share a flush. */
int store_log_wait(struct store_log *log, uint64_t sequence);

/*
 * For a file that was closed with records that count, and is opened again: what they are for was
 * written through other descriptors, and if the disk could not take it that is not told to new
 * ones, once the system has forgotten the file. Makes a checkpoint if there are such records.
 * Returns 0 or -EIO.
 */
int store_log_checkpoint_for(struct store_log *log, const store_file *key);

/*
 * To be called when a store file was flushed by itself, before anybody is told: sees to it that
 * older records of it are not applied any more. No change of the file may be appended meanwhile.
 * Returns 0 or -EIO.
 */
int store_log_clean(struct store_log *log, const store_file *key);

/*
 * What of this device is in memory only may be lost from now on (a flush failed): the records that
 * are there stay until the device is opened again.
 */
void store_log_pin(struct store_log *log);

#endif
