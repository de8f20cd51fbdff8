/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * An ordered key-value store with transactions: what exportd asks of a metadata backend.
 *
 * Keys and values are byte strings; keys sort by memcmp(), the shorter first. Keys that begin with
 * a zero byte belong to the backend: they cannot be set, and are not found. A read transaction sees
 * the newest committed state as it was when it began, and never waits. There is at most one write
 * transaction at a time; it is used by the thread that began it. A transaction may be nested in a
 * write transaction: its changes go to the parent when it commits and vanish when it aborts.
 */
#ifndef ROZO_EXPORTD_KV_H
#define ROZO_EXPORTD_KV_H

#include <stddef.h>
#include <stdint.h>

#define KV_KEY_BYTES_MAX 511

struct kv;
struct kv_txn;

struct kv_bytes {
	const void *data;
	size_t bytes;
};

enum kv_mode {
	KV_READ,
	KV_WRITE,
};

/*
 * Called for one entry of a scan. key and value are valid during the call. Must not write.
 * Returns 0 to go on, a positive number to end the scan, or a negative errno.
 */
typedef int (*kv_visit)(void *context, struct kv_bytes key, struct kv_bytes value);

/* A backend. Each function is described at the kv_ function that calls it. */
struct kv_operations {
	int (*begin)(struct kv *kv, enum kv_mode mode, struct kv_txn *parent, struct kv_txn **txn);
	int (*get)(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes *value);
	int (*put)(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes value);
	int (*remove)(struct kv_txn *txn, struct kv_bytes key);
	int (*scan)(struct kv_txn *txn, struct kv_bytes from, size_t prefix_bytes, kv_visit visit,
		void *context);
	int (*commit)(struct kv_txn *txn);
	void (*abort)(struct kv_txn *txn);
	void (*close)(struct kv *kv);
};

/* The beginning of every backend's store and transaction. */
struct kv {
	const struct kv_operations *operations;
	/*
	 * Random. Stays until the backend finds the database without its log, as one of its copies
	 * is, and makes it a store of its own: then it is another one.
	 */
	uint32_t id;
};

struct kv_txn {
	struct kv *kv;
};

/*
 * Begins a transaction. parent: the write transaction that a KV_WRITE one is nested in, or NULL;
 * while the nested one lasts the parent must not be used. Waits for another write transaction.
 * *txn is ended by kv_commit() or kv_abort().
 * Returns 0, -ENOMEM, -EAGAIN (too many readers), or -EIO (the store has failed, see kv_commit()).
 */
static inline int kv_begin(
	struct kv *kv, enum kv_mode mode, struct kv_txn *parent, struct kv_txn **txn)
{
	return kv->operations->begin(kv, mode, parent, txn);
}

/*
 * Looks a key up. *value stays valid until the transaction's next write or its end.
 * Returns 0, -ENOENT (no such key; *value is empty), or -EIO.
 */
static inline int kv_get(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes *value)
{
	return txn->kv->operations->get(txn, key, value);
}

/*
 * Sets a key's value, replacing an older one. Both are copied.
 * Returns 0, -ENOSPC (the store is full), -EINVAL (key empty, too long or the backend's), -EFBIG
 * (more in one transaction than the store takes), -ENOMEM or -EIO. After an error other than
 * -EINVAL and -EFBIG the transaction cannot be committed.
 */
static inline int kv_put(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes value)
{
	return txn->kv->operations->put(txn, key, value);
}

/* Removes a key. Returns 0, -ENOENT, or an error of kv_put(). */
static inline int kv_remove(struct kv_txn *txn, struct kv_bytes key)
{
	return txn->kv->operations->remove(txn, key);
}

/*
 * Visits, in ascending order, the entries whose key is not less than `from` and begins with the
 * first prefix_bytes of it.
 * Returns 0 after the last one, what visit returned if not 0, or -EIO or -ENOMEM.
 */
static inline int kv_scan(struct kv_txn *txn, struct kv_bytes from, size_t prefix_bytes,
	kv_visit visit, void *context)
{
	return txn->kv->operations->scan(txn, from, prefix_bytes, visit, context);
}

/*
 * Ends a transaction. A write transaction that is not nested is durable and visible to later
 * readers if the result is 0, and has left no trace otherwise.
 * Returns 0, -ENOSPC, -ENOMEM, or -EIO. After an I/O error the state of the file system's cache is
 * unknown, so the store refuses all further writes until it is opened again.
 */
static inline int kv_commit(struct kv_txn *txn)
{
	return txn->kv->operations->commit(txn);
}

/* Ends a transaction without a trace. NULL is allowed. */
static inline void kv_abort(struct kv_txn *txn)
{
	if (txn != NULL)
		txn->kv->operations->abort(txn);
}

/* Closes the store. No transaction may be open. NULL is allowed. */
static inline void kv_close(struct kv *kv)
{
	if (kv != NULL)
		kv->operations->close(kv);
}

/* -------- the embedded backend -------- */

/* Address space set aside for the map of the database file, which is as large as its contents. */
#define KV_LMDB_MAP_BYTES (64ull << 30)

/*
 * Of each of the two files of the redo log. When one is full a checkpoint begins, so this bounds
 * how much a checkpoint has to flush, and how many pages of data.mdb wait for it to be used again.
 */
#define KV_LMDB_LOG_BYTES (2ull << 20)

/*
 * Opens or creates an LMDB database with its redo log in an existing directory: data.mdb, lock.mdb,
 * redo-0.log, redo-1.log and checkpoint. What was committed before a crash or a power failure is
 * there again when this returns. Whoever calls sees to it that nobody else has it open.
 * map_bytes: the largest size the database may reach. *kv is closed by kv_close().
 * Returns 0; -ENOENT (no such directory, or a file of the log is missing), -EACCES, -EROFS,
 * -ENOSPC, -ENOMEM; -EINVAL (files that do not belong together, or of a newer format); -EBADMSG
 * (the log or the checkpoint is damaged in a way that would lose changes); -EIO (not an LMDB
 * database of this version, or damaged); the reason and the remedy have been logged.
 */
int kv_lmdb_open(const char *directory, size_t map_bytes, struct kv **kv);

/* The same with another size of the log's files, when they are made: a multiple of 4 KiB. */
int kv_lmdb_open_with_log(
	const char *directory, size_t map_bytes, uint64_t log_bytes, struct kv **kv);

#endif
