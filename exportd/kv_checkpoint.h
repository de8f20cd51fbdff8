/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The checkpoint of an LMDB database that is committed to without flushes: a state of it that is
 * on the disk as a whole, and from which record of the redo log on changes have to be made again.
 *
 *   <directory>/checkpoint
 *   0                  128 KiB                    256 KiB
 *   +------------------+--------------------------+
 *   | copy 0           | copy 1                   |        the sound one with the larger serial
 *   +------------------+--------------------------+
 *   | header | zeros | meta page 0 | meta page 1 |
 *            88     4096         page_bytes each
 *
 * The meta pages are the first two of data.mdb, as they were; they say where the trees of that
 * state begin. Putting them back makes LMDB forget what was committed later. Copies are written in
 * turn, so a torn write leaves the one before, whose state and log are kept until this one is
 * durable.
 *
 * Takes no locks: one thread at a time.
 */
#ifndef ROZO_EXPORTD_KV_CHECKPOINT_H
#define ROZO_EXPORTD_KV_CHECKPOINT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "exportd/redo_log.h"

#define KV_CHECKPOINT_MAGIC UINT64_C(0x706b68436f7a6f52) /* "RozoChkp" as it lies on disk */
#define KV_CHECKPOINT_FORMAT 1
#define KV_CHECKPOINT_COPY_BYTES (128u << 10)
#define KV_CHECKPOINT_META_OFFSET 4096 /* in the copy */
#define KV_CHECKPOINT_PAGE_BYTES_MAX (32u << 10) /* LMDB's largest page */

/* On disk; numbers are little-endian. */
struct kv_checkpoint_header {
	uint64_t magic;
	uint32_t format;
	uint32_t page_bytes; /* of the database */
	uint8_t database_id[REDO_LOG_ID_BYTES];
	uint64_t serial; /* one more than that of the checkpoint before */
	uint64_t run; /* of the records that follow */
	uint64_t sequence; /* of the last record that the state contains */
	uint64_t transaction; /* LMDB's number of the state */
	uint64_t id_offset; /* in data.mdb: where that state has the database's id */
	uint64_t log_bytes; /* of each file of the redo log */
	uint32_t reserved;
	uint32_t crc32c; /* of everything before, then both meta pages */
};
static_assert(sizeof(struct kv_checkpoint_header) == 88, "on disk");

/* The same in memory. mark.checkpoint is the serial. */
struct kv_checkpoint {
	struct redo_log_mark mark;
	uint32_t page_bytes;
	uint64_t transaction;
	uint64_t id_offset;
	uint64_t log_bytes;
	uint8_t meta[2 * KV_CHECKPOINT_PAGE_BYTES_MAX]; /* 2 * page_bytes are used */
};

/*
 * Makes the file, with one sound copy, so that it is there as a whole or not at all, and flushes
 * the directory. Returns 0 or a negative errno, which has been logged.
 */
int kv_checkpoint_create(const char *directory, const struct kv_checkpoint *checkpoint);

/*
 * Opens the file and reads the newest sound copy. *file receives a descriptor.
 * Returns 0; -ENOENT: there is none, not logged; -EINVAL: of a newer format; -EBADMSG: no copy is
 * sound; or another negative errno; it has been logged.
 */
int kv_checkpoint_open(const char *directory, int *file, struct kv_checkpoint *checkpoint);

/*
 * Writes a checkpoint to its copy and flushes it. Everything that it names must be durable.
 * Returns 0 or a negative errno, not logged; then the one before still counts.
 */
int kv_checkpoint_write(int file, const struct kv_checkpoint *checkpoint);

#endif
