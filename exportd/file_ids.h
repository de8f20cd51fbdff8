/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * File ids that this database never gave out, but another copy of it may have.
 *
 * If an older copy of the database takes the place of one that was lost, the nodes still have store
 * files of files that were made in between. A new file of the same id would have their bytes. So
 * the next file id jumps beyond all that can have been given out, and what lies between is
 * remembered (RECORD_SKIPPED): of these ids nobody can say that the file was removed.
 */
#ifndef ROZO_EXPORTD_FILE_IDS_H
#define ROZO_EXPORTD_FILE_IDS_H

#include <stdint.h>

#include "exportd/kv.h"

/* Ids of files are below this: what is beyond was not given out by any exportd. */
#define FILE_IDS_END (UINT64_C(1) << 62)

/*
 * Has an export go on far beyond its next file id, and beyond `met`, one that is known to have been
 * given out (0: none is; else below FILE_IDS_END). Logs it.
 * Returns 0, -ENOENT (no such export) or an error of the store.
 */
int file_ids_skip(struct kv_txn *txn, uint32_t export_id, uint64_t met);

/* The same for all exports of the database, served or not. Returns 0 or an error of the store. */
int file_ids_skip_all(struct kv_txn *txn);

#endif
