/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The state of a running exportd, and its data directory.
 *
 * Everything durable is in the key-value store; what is here besides is the configuration, the
 * cluster map's live part and hints that may be lost. The functions that execute operations
 * (namespace.h, file.h, free_queue.h, map.h) may be called from any number of threads.
 */
#ifndef ROZO_EXPORTD_EXPORTD_H
#define ROZO_EXPORTD_EXPORTD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "exportd/commit.h"
#include "exportd/kv.h"
#include "exportd/map.h"
#include "exportd/record.h"
#include "exportd/claims.h"
#include "exportd/truncation.h"
#include "exportd/written.h"

/* An export that is served. */
struct exportd_export {
	const struct config_export *config;
	uint64_t segment_blocks;
	uint64_t segment_bytes;
	uint64_t file_bytes_max; /* META_SEGMENTS_MAX of them */
	uint64_t filesystem_id;
	uint32_t shards; /* k + m */
};

struct exportd {
	const struct config *config;
	int lock_fd; /* holds the lock on the data directory */
	struct kv *kv;
	struct commit *commit;
	struct map *map;
	struct written *written;
	struct { /* by the rebuild thread, for status */
		_Atomic uint64_t moved; /* shards, since the start */
		_Atomic uint64_t without_replacement, in_danger; /* as the last pass found them */
		_Atomic uint32_t version; /* of the cluster map at that pass */
	} rebuilt;
	struct claims *claims;
	struct truncations *truncations;
	struct exportd_export *exports; /* as in config->exports */
	/* The sum of the numbers of each export's metadata server: tells gateways that one has
	 * changed. */
	_Atomic uint64_t servers;
};

/*
 * Makes an empty database in config->exportd_data, which must be an empty directory or not exist
 * (its parent must). map_bytes: as for kv_lmdb_open().
 * Returns 0, -ENOTEMPTY, or another negative errno; the reason and the remedy have been logged.
 */
int exportd_init(const struct config *config, size_t map_bytes);

/*
 * The data directory was restored from a copy that may be older than what was lost: the database
 * goes on with file ids far beyond all that can have been given out. Call it once, before
 * exportd_open(); a data.mdb that comes without its log is known to be a copy.
 * Returns 0 or an error of exportd_open(), which has been logged.
 */
int exportd_restored(const struct config *config, size_t map_bytes);

/*
 * Opens the database of config->exportd_data, creates exports that are new in the configuration,
 * and makes everything ready to execute operations. config must live until exportd_close().
 * Returns 0; -ENOENT (not made by exportd_init()), -EBUSY (in use by another process), -EINVAL (of
 * another cluster, a newer format, or at odds with the configuration), or another negative errno;
 * the reason and the remedy have been logged.
 */
int exportd_open(const struct config *config, size_t map_bytes, struct exportd **exportd);

/* No operation may be running. NULL is allowed. */
void exportd_close(struct exportd *exportd);

/* The export, or NULL if none with this id is served. */
const struct exportd_export *exportd_export(const struct exportd *exportd, uint32_t export_id);

/*
 * Executes an operation that only reads, in a read transaction of its own.
 * Returns what the operation returned, or an error of kv_begin().
 */
int exportd_read(struct exportd *exportd, commit_operation operation, void *context);

#endif
