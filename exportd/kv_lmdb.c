/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The embedded backend of kv.h: one LMDB environment with one unnamed database.
 *
 * Readers use MDB_NOTLS, so a read transaction is not bound to its thread. Durability is LMDB's
 * own: a commit writes new pages, flushes them, then writes and flushes the meta page; a crash at
 * any instruction leaves the last committed state. Takes no locks beside LMDB's (the writer's mutex
 * from begin to end of a write transaction).
 */
#include <errno.h>
#include <lmdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/kv.h"
#include "rpc/log.h"

/* More than the threads that can be in exportd at once. */
#define KV_LMDB_READERS 512

struct kv_lmdb {
	struct kv kv;
	MDB_env *env;
	MDB_dbi dbi;
	atomic_bool failed; /* a commit met an I/O error: no more writes */
};

struct kv_lmdb_txn {
	struct kv_txn txn;
	MDB_txn *mdb;
	bool write;
	bool nested;
};

static struct kv_lmdb *kv_lmdb(struct kv *kv)
{
	return (struct kv_lmdb *)kv;
}

static struct kv_lmdb_txn *kv_lmdb_txn(struct kv_txn *txn)
{
	return (struct kv_lmdb_txn *)txn;
}

/* LMDB's result as a negative errno; what names a fault of the database itself is logged. */
static int kv_lmdb_error(const char *what, int result)
{
	switch (result) {
	case 0:
		return 0;
	case MDB_NOTFOUND:
		return -ENOENT;
	case MDB_MAP_FULL:
	case ENOSPC:
	case EDQUOT:
		rozo_log(ERROR, "metadata database: %s: %s; make room on its file system", what,
			result == MDB_MAP_FULL ? "the database has reached its largest size"
					       : mdb_strerror(result));
		return -ENOSPC;
	case MDB_READERS_FULL:
		return -EAGAIN;
	case MDB_BAD_VALSIZE:
		return -EINVAL;
	case ENOMEM:
		return -ENOMEM;
	default:
		rozo_log(ERROR, "metadata database: %s: %s", what, mdb_strerror(result));
		return -EIO;
	}
}

static int kv_lmdb_begin(
	struct kv *kv, enum kv_mode mode, struct kv_txn *parent, struct kv_txn **txn)
{
	struct kv_lmdb *store = kv_lmdb(kv);
	struct kv_lmdb_txn *made;
	int result;

	if (mode == KV_WRITE && atomic_load(&store->failed))
		return -EIO;
	made = calloc(1, sizeof(*made));
	if (made == NULL)
		return -ENOMEM;
	made->txn.kv = kv;
	made->write = mode == KV_WRITE;
	made->nested = parent != NULL;
	result = mdb_txn_begin(store->env, parent != NULL ? kv_lmdb_txn(parent)->mdb : NULL,
		mode == KV_READ ? MDB_RDONLY : 0, &made->mdb);
	if (result != 0) {
		free(made);
		return kv_lmdb_error("begin", result);
	}
	*txn = &made->txn;
	return 0;
}

static int kv_lmdb_get(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes *value)
{
	MDB_val mdb_key = {.mv_size = key.bytes, .mv_data = (void *)key.data};
	MDB_val mdb_value = {0};
	int result;

	result = mdb_get(kv_lmdb_txn(txn)->mdb, kv_lmdb(txn->kv)->dbi, &mdb_key, &mdb_value);
	value->data = result == 0 ? mdb_value.mv_data : NULL;
	value->bytes = result == 0 ? mdb_value.mv_size : 0;
	return kv_lmdb_error("get", result);
}

static int kv_lmdb_put(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes value)
{
	MDB_val mdb_key = {.mv_size = key.bytes, .mv_data = (void *)key.data};
	MDB_val mdb_value = {.mv_size = value.bytes, .mv_data = (void *)value.data};

	return kv_lmdb_error("put",
		mdb_put(kv_lmdb_txn(txn)->mdb, kv_lmdb(txn->kv)->dbi, &mdb_key, &mdb_value, 0));
}

static int kv_lmdb_remove(struct kv_txn *txn, struct kv_bytes key)
{
	MDB_val mdb_key = {.mv_size = key.bytes, .mv_data = (void *)key.data};

	return kv_lmdb_error(
		"remove", mdb_del(kv_lmdb_txn(txn)->mdb, kv_lmdb(txn->kv)->dbi, &mdb_key, NULL));
}

static int kv_lmdb_scan(struct kv_txn *txn, struct kv_bytes from, size_t prefix_bytes,
	kv_visit visit, void *context)
{
	MDB_val key = {.mv_size = from.bytes, .mv_data = (void *)from.data};
	MDB_cursor_op step = MDB_SET_RANGE;
	MDB_val value = {0};
	MDB_cursor *cursor;
	int result;

	result = mdb_cursor_open(kv_lmdb_txn(txn)->mdb, kv_lmdb(txn->kv)->dbi, &cursor);
	if (result != 0)
		return kv_lmdb_error("scan", result);
	for (;;) {
		result = mdb_cursor_get(cursor, &key, &value, step);
		if (result != 0) {
			result = result == MDB_NOTFOUND ? 0 : kv_lmdb_error("scan", result);
			break;
		}
		if (key.mv_size < prefix_bytes || memcmp(key.mv_data, from.data, prefix_bytes) != 0)
			break;
		result = visit(context, (struct kv_bytes){key.mv_data, key.mv_size},
			(struct kv_bytes){value.mv_data, value.mv_size});
		if (result != 0)
			break;
		step = MDB_NEXT;
	}
	mdb_cursor_close(cursor);
	return result;
}

static int kv_lmdb_commit(struct kv_txn *txn)
{
	struct kv_lmdb_txn *ending = kv_lmdb_txn(txn);
	struct kv_lmdb *store = kv_lmdb(txn->kv);
	int result;

	result = kv_lmdb_error("commit", mdb_txn_commit(ending->mdb));
	if (result == -EIO && ending->write && !ending->nested) {
		atomic_store(&store->failed, true);
		rozo_log(ERROR, "metadata database: no more changes are accepted after this error; "
				"mend the file system and start rozo-exportd again");
	}
	free(ending);
	return result;
}

static void kv_lmdb_abort(struct kv_txn *txn)
{
	mdb_txn_abort(kv_lmdb_txn(txn)->mdb);
	free(txn);
}

static void kv_lmdb_close(struct kv *kv)
{
	mdb_env_close(kv_lmdb(kv)->env);
	free(kv);
}

static const struct kv_operations kv_lmdb_operations = {
	.begin = kv_lmdb_begin,
	.get = kv_lmdb_get,
	.put = kv_lmdb_put,
	.remove = kv_lmdb_remove,
	.scan = kv_lmdb_scan,
	.commit = kv_lmdb_commit,
	.abort = kv_lmdb_abort,
	.close = kv_lmdb_close,
};

int kv_lmdb_open(const char *directory, size_t map_bytes, struct kv **kv)
{
	struct kv_lmdb *store = calloc(1, sizeof(*store));
	MDB_txn *txn = NULL;
	int result;

	if (store == NULL)
		return -ENOMEM;
	store->kv.operations = &kv_lmdb_operations;
	result = mdb_env_create(&store->env);
	if (result != 0)
		goto out;
	result = mdb_env_set_mapsize(store->env, map_bytes);
	if (result == 0)
		result = mdb_env_set_maxreaders(store->env, KV_LMDB_READERS);
	/* No read-ahead: lookups are random, and reading neighbours would only fill memory. */
	if (result == 0)
		result = mdb_env_open(store->env, directory, MDB_NOTLS | MDB_NORDAHEAD, 0600);
	if (result == 0)
		result = mdb_txn_begin(store->env, NULL, 0, &txn);
	if (result == 0)
		result = mdb_dbi_open(txn, NULL, 0, &store->dbi);
	if (result == 0) {
		result = mdb_txn_commit(txn);
		txn = NULL;
	}
out:
	if (result == 0) {
		*kv = &store->kv;
		return 0;
	}
	if (txn != NULL)
		mdb_txn_abort(txn);
	if (store->env != NULL)
		mdb_env_close(store->env);
	free(store);
	rozo_log(ERROR, "metadata database %s/data.mdb: %s", directory, mdb_strerror(result));
	switch (result) {
	case ENOENT:
	case EACCES:
	case EROFS:
	case ENOSPC:
	case ENOMEM:
		return -result;
	default:
		return -EIO;
	}
}
