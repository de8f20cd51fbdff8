/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A layer under the shard store that makes what devices do to one: flushes that fail, no space, and
 * power loss, after which of everything not flushed any part may be there and any part not.
 *
 * One at a time in a process; calls are serialised.
 */
#ifndef ROZO_TEST_STORE_FAULTY_IO_H
#define ROZO_TEST_STORE_FAULTY_IO_H

#include "storaged/store_io.h"

extern const struct store_io faulty_io;

/* Back to a layer that does nothing and knows no file. */
void faulty_reset(void);

/* After so many further flushes of data, one fails with EIO; negative: none. */
void faulty_sync_after(int count);

/* While true, flushes of the whole file system fail with EIO. */
void faulty_file_system(bool fails);

/* While true, writing back fails with EIO. */
void faulty_write_back(bool fails);

/* After so many further writes, all fail with ENOSPC; negative: none. */
void faulty_writes_left(int count);

/* While true, half of what such a write was to write is there afterwards. */
void faulty_writes_torn(bool torn);

/* What is told of the free space; UINT64_MAX: the truth. */
void faulty_free_bytes(uint64_t bytes);

/* Flushes of data and of directories asked for so far. */
unsigned int faulty_syncs(void);

/* How often something was written back early. */
unsigned int faulty_write_backs(void);

/* While dead, nothing that the store does reaches its files any more. */
void faulty_dead(bool dead);

/* From now on remembers what of each file is durable. */
void faulty_remember(void);

/*
 * The power fails: every 512-byte sector of every file is what it was at the last flush or what it
 * was written to since, as is its size; names that were not flushed may be there or not. No file
 * may be open. The choices come from `random`.
 */
void faulty_power_loss(uint64_t (*random)(void));

#endif
