/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the files of the embedded backend share: transactions (kv_lmdb.c), opening
 * (kv_lmdb_open.c), checkpoints (kv_lmdb_checkpoint.c).
 *
 * LMDB itself flushes nothing (MDB_NOSYNC). A transaction is durable by a record in a redo log,
 * which is flushed before LMDB commits and readers see it. What a power failure leaves of data.mdb
 * is put right by opening: the meta pages of the last checkpoint are put back, which makes LMDB
 * forget all that came later, and the log is applied. So that the state of that checkpoint is still
 * whole then, a read transaction of it is held: LMDB never overwrites pages that a reader may use.
 *
 * A checkpoint S, in this order:
 * - whoever commits and finds the log's file full begins a reader and copies the meta pages (LMDB's
 *   writer mutex is held, so nobody else commits), and goes on in the other file;
 * - the thread flushes data.mdb, then writes and flushes the checkpoint, while others commit;
 * - it ends the reader of the checkpoint before, whose file of the log is free from then on.
 *
 * Locks: LMDB's writer mutex (from the begin to the end of a write transaction), then `mutex`.
 */
#ifndef ROZO_EXPORTD_KV_LMDB_H
#define ROZO_EXPORTD_KV_LMDB_H

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "exportd/kv.h"
#include "exportd/kv_checkpoint.h"
#include "exportd/redo_log.h"

/* The backend's own entry, which no scan shows: the database's id. */
#define KV_LMDB_OWN_KEY ((MDB_val){.mv_size = 1, .mv_data = (void *)""})

enum kv_lmdb_change {
	KV_LMDB_PUT = 1,
	KV_LMDB_REMOVE = 2,
};

/* A record of the redo log is a run of these, each followed by the key, then the value. */
struct kv_lmdb_change_header {
	uint8_t kind;
	uint8_t reserved;
	uint16_t key_bytes; /* little-endian, as the next */
	uint32_t value_bytes;
};
static_assert(sizeof(struct kv_lmdb_change_header) == 8, "on disk");

struct kv_lmdb {
	struct kv kv;
	MDB_env *env;
	MDB_dbi dbi;
	atomic_bool failed; /* an I/O error: no more writes */
	int checkpoint_file;

	/* Whose turn it is to write. */
	struct redo_log *log;
	struct redo_log_record record; /* of the transaction that is open */
	struct redo_log_record nothing; /* of a record that voids another */
	uint64_t changes; /* of the transaction that is open, at most */
	uint64_t reserved_bytes; /* of data.mdb, which the file system has set aside */
	bool reserve; /* its file system can do that */
	bool short_of_pages; /* a checkpoint would free some */

	/* Who makes a checkpoint: whose turn it is to write until `pending`, the thread then. */
	struct kv_checkpoint *checkpoint; /* the newest, or the one being made */
	MDB_txn *held; /* the reader of the newest durable one */
	MDB_txn *held_next; /* of the one being made */

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool pending; /* a checkpoint is to be finished by the thread; under mutex, as below */
	bool stopping;
	bool started;
	pthread_t thread;
};

extern const struct kv_operations kv_lmdb_operations;

/* LMDB's result as a negative errno; what names a fault of the database itself is logged. */
int kv_lmdb_error(const char *what, int result);

/* No more writes until the store is opened again. */
void kv_lmdb_fail(struct kv_lmdb *store);

/*
 * Begins a checkpoint of the last committed state, whose last record is `sequence`: reads into
 * store->checkpoint what is to be written. Nobody may commit meanwhile.
 * Returns 0 or a negative errno, which has been logged; then nothing has changed.
 */
int kv_lmdb_checkpoint_begin(struct kv_lmdb *store, uint64_t sequence);

/* Makes it durable. Others may commit. Returns 0 or a negative errno, which has been logged. */
int kv_lmdb_checkpoint_finish(struct kv_lmdb *store);

/*
 * Goes on in the log's other file, and has the thread make the checkpoint that frees this one.
 * Waits for the one before, if that is not done yet. Called by whose turn it is to write.
 * wait: also for the new one. Returns 0 or a negative errno, which has been logged.
 */
int kv_lmdb_turn(struct kv_lmdb *store, bool wait);

/* Starts the thread. Returns 0 or a negative errno. */
int kv_lmdb_checkpoint_start(struct kv_lmdb *store);

/* Stops the thread, when it has done what it was asked to. */
void kv_lmdb_checkpoint_stop(struct kv_lmdb *store);

/* Ends what is open, and frees the store. */
void kv_lmdb_free(struct kv_lmdb *store);

#endif
