/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Small things that the store's procedures share (store_change.c).
 */
#ifndef ROZO_STORE_PROCEDURES_H
#define ROZO_STORE_PROCEDURES_H

#include "storaged/store_internal.h"

/* The status of an answer for a negative errno: those that callers know, else EIO. */
uint32_t store_status(int error);

/*
 * Compares what the caller says of a file with what it is; takes over the shape if the file has
 * none that can be read. Called with the lock held exclusively. Returns 0, or -EINVAL (logged).
 */
int shard_file_check(struct shard_file *file, const struct store_shape *shape);

/* Sees to it that the file's marker of missed writes is there, durably. */
int shard_file_mark(struct shard_file *file);

#endif
