/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The embedded backend of kv.h: one LMDB environment with one unnamed database, and a redo log.
 *
 * Readers use MDB_NOTLS, so a read transaction is not bound to its thread. A write transaction
 * notes its changes; its commit writes them to the log, flushes that, and then lets LMDB commit
 * without a flush (kv_lmdb.h). Takes no locks beside LMDB's (the writer's mutex from begin to end
 * of a write transaction), but waits for a checkpoint if both files of the log are full.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/kv_lmdb.h"
#include "rpc/log.h"

/* Room is set aside behind the end of data.mdb in steps of this. */
#define ROOM_STEP_BYTES (4u << 20)

struct kv_lmdb_txn {
	struct kv_txn txn;
	MDB_txn *mdb;
	bool write;
	bool nested;
	int broken; /* the error of a change after which LMDB refuses to commit, or 0 */
	size_t mark; /* nested: the payload of the record when it began */
};

static struct kv_lmdb *kv_lmdb(struct kv *kv)
{
	return (struct kv_lmdb *)kv;
}

static struct kv_lmdb_txn *kv_lmdb_txn(struct kv_txn *txn)
{
	return (struct kv_lmdb_txn *)txn;
}

int kv_lmdb_error(const char *what, int result)
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

void kv_lmdb_fail(struct kv_lmdb *store)
{
	if (!atomic_exchange(&store->failed, true))
		rozo_log(ERROR, "metadata database: no more changes are accepted after this "
				"error; mend the file system and start rozo-exportd again");
}

/* Keys that begin with a zero byte are the backend's. */
static bool is_own(struct kv_bytes key)
{
	return key.bytes > 0 && *(const uint8_t *)key.data == 0;
}

/* A write transaction begins: where its changes are noted. */
static int begin_record(struct kv_lmdb *store)
{
	redo_log_clear(&store->record);
	store->changes = 0;
	if (!store->short_of_pages)
		return 0;
	store->short_of_pages = false;
	if (redo_log_sequence(store->log) == store->checkpoint->mark.sequence)
		return 0;
	/* Pages that only the checkpoint before last may need become free. */
	return kv_lmdb_turn(store, true);
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
	if (made->write && !made->nested) {
		result = begin_record(store);
		if (result != 0) {
			mdb_txn_abort(made->mdb);
			free(made);
			return result;
		}
	}
	if (made->nested)
		made->mark = store->record.payload_bytes;
	*txn = &made->txn;
	return 0;
}

static int kv_lmdb_get(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes *value)
{
	MDB_val mdb_key = {.mv_size = key.bytes, .mv_data = (void *)key.data};
	MDB_val mdb_value = {0};
	int result;

	*value = (struct kv_bytes){0};
	if (is_own(key))
		return -ENOENT;
	result = mdb_get(kv_lmdb_txn(txn)->mdb, kv_lmdb(txn->kv)->dbi, &mdb_key, &mdb_value);
	value->data = result == 0 ? mdb_value.mv_data : NULL;
	value->bytes = result == 0 ? mdb_value.mv_size : 0;
	return kv_lmdb_error("get", result);
}

/*
 * Makes a change, and notes it if LMDB has made it. The room for the note comes first: what has
 * been changed can always be noted.
 */
static int change(struct kv_lmdb_txn *txn, enum kv_lmdb_change kind, struct kv_bytes key,
	struct kv_bytes value)
{
	struct kv_lmdb *store = kv_lmdb(txn->txn.kv);
	MDB_val mdb_key = {.mv_size = key.bytes, .mv_data = (void *)key.data};
	MDB_val mdb_value = {.mv_size = value.bytes, .mv_data = (void *)value.data};
	struct kv_lmdb_change_header header = {
		.kind = (uint8_t)kind,
		.key_bytes = htole16((uint16_t)key.bytes),
		.value_bytes = htole32((uint32_t)value.bytes),
	};
	int result;
	uint8_t *at;

	if (is_own(key) || key.bytes > KV_KEY_BYTES_MAX)
		return -EINVAL;
	if (value.bytes > REDO_LOG_PAYLOAD_MAX)
		return -EFBIG;
	result = redo_log_reserve(&store->record, sizeof(header) + key.bytes + value.bytes);
	if (result == -EFBIG)
		rozo_log(ERROR, "metadata database: a transaction is larger than %u MiB",
			REDO_LOG_PAYLOAD_MAX >> 20);
	if (result != 0)
		return result;
	if (kind == KV_LMDB_PUT)
		result = mdb_put(txn->mdb, store->dbi, &mdb_key, &mdb_value, 0);
	else
		result = mdb_del(txn->mdb, store->dbi, &mdb_key, NULL);
	if (result == MDB_NOTFOUND || result == MDB_BAD_VALSIZE)
		return kv_lmdb_error("change", result);
	if (result != 0) {
		txn->broken = kv_lmdb_error("change", result);
		store->short_of_pages = store->short_of_pages || txn->broken == -ENOSPC;
		return txn->broken;
	}
	store->changes++;
	at = redo_log_extend(&store->record, sizeof(header) + key.bytes + value.bytes);
	memcpy(at, &header, sizeof(header));
	memcpy(at + sizeof(header), key.data, key.bytes);
	if (value.bytes > 0)
		memcpy(at + sizeof(header) + key.bytes, value.data, value.bytes);
	return 0;
}

static int kv_lmdb_put(struct kv_txn *txn, struct kv_bytes key, struct kv_bytes value)
{
	return change(kv_lmdb_txn(txn), KV_LMDB_PUT, key, value);
}

static int kv_lmdb_remove(struct kv_txn *txn, struct kv_bytes key)
{
	return change(kv_lmdb_txn(txn), KV_LMDB_REMOVE, key, (struct kv_bytes){0});
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
		step = MDB_NEXT;
		if (is_own((struct kv_bytes){key.mv_data, key.mv_size}))
			continue;
		result = visit(context, (struct kv_bytes){key.mv_data, key.mv_size},
			(struct kv_bytes){value.mv_data, value.mv_size});
		if (result != 0)
			break;
	}
	mdb_cursor_close(cursor);
	return result;
}

/*
 * Sets room aside behind the end of data.mdb for what the open transaction may add, so that a full
 * disk is found out before anything is logged. Returns false if there is none: LMDB may still find
 * enough free pages in the file.
 */
static bool make_room(struct kv_lmdb *store)
{
	MDB_envinfo info;
	MDB_stat stat;
	uint64_t copied, added, end, wanted;
	int file;

	if (!store->reserve || mdb_env_info(store->env, &info) != 0 ||
		mdb_env_stat(store->env, &stat) != 0 || mdb_env_get_fd(store->env, &file) != 0)
		return true;
	/*
	 * A change copies a path of pages at most; paths have most pages in common, and no page is
	 * copied twice. What is new may leave pages half full.
	 */
	copied = 4 * store->changes;
	if (copied > info.me_last_pgno + 1)
		copied = info.me_last_pgno + 1;
	added = 16 + 3 * (store->record.payload_bytes / stat.ms_psize);
	end = (info.me_last_pgno + 1 + copied + added) * stat.ms_psize;
	if (end > info.me_mapsize)
		end = info.me_mapsize;
	if (end <= store->reserved_bytes)
		return true;
	wanted = (end + ROOM_STEP_BYTES - 1) / ROOM_STEP_BYTES * ROOM_STEP_BYTES;
	for (;;) {
		if (fallocate(file, FALLOC_FL_KEEP_SIZE, (off_t)store->reserved_bytes,
			    (off_t)(wanted - store->reserved_bytes)) == 0) {
			store->reserved_bytes = wanted;
			return true;
		}
		if (errno == EINTR)
			continue;
		if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG) {
			store->reserve = false; /* its file system cannot do this */
			return true;
		}
		if (wanted == end)
			return false;
		wanted = end;
	}
}

/*
 * LMDB did not commit what is in the log already: a record takes that back, so the outcome is
 * known. Returns the error that the transaction ends with.
 */
static int take_back(struct kv_lmdb *store, int error, bool roomy)
{
	redo_log_clear(&store->nothing);
	if (redo_log_reserve(&store->nothing, 0) != 0 ||
		redo_log_append(store->log, REDO_LOG_VOID, &store->nothing) != 0) {
		kv_lmdb_fail(store);
		return -EIO;
	}
	/* On a full disk LMDB finds a page half written, and has no better word for that. */
	if (error == -EIO && !roomy)
		error = -ENOSPC;
	if (error == -ENOSPC)
		store->short_of_pages = true;
	if (error == -EIO)
		kv_lmdb_fail(store);
	return error;
}

/* Ends a write transaction that is not nested. */
static int commit_durably(struct kv_lmdb *store, struct kv_lmdb_txn *ending)
{
	bool roomy;
	int result = ending->broken;

	if (result == 0 && atomic_load(&store->failed))
		result = -EIO;
	if (result != 0 || store->record.payload_bytes == 0) {
		mdb_txn_abort(ending->mdb);
		return result;
	}
	roomy = make_room(store);
	if (!redo_log_fits(store->log, store->record.payload_bytes) &&
		redo_log_used(store->log) > 0)
		result = kv_lmdb_turn(store, false);
	if (result == 0) {
		result = redo_log_append(store->log, REDO_LOG_TRANSACTION, &store->record);
		if (result == -EIO)
			kv_lmdb_fail(store);
	}
	if (result != 0) {
		mdb_txn_abort(ending->mdb);
		return result;
	}
	result = kv_lmdb_error("commit", mdb_txn_commit(ending->mdb));
	return result == 0 ? 0 : take_back(store, result, roomy);
}

static int kv_lmdb_commit(struct kv_txn *txn)
{
	struct kv_lmdb_txn *ending = kv_lmdb_txn(txn);
	struct kv_lmdb *store = kv_lmdb(txn->kv);
	int result = ending->broken;

	if (ending->write && !ending->nested) {
		result = commit_durably(store, ending);
	} else if (result == 0) {
		result = kv_lmdb_error("commit", mdb_txn_commit(ending->mdb));
	} else {
		mdb_txn_abort(ending->mdb);
	}
	if (ending->nested && result != 0)
		store->record.payload_bytes = ending->mark;
	free(ending);
	return result;
}

static void kv_lmdb_abort(struct kv_txn *txn)
{
	struct kv_lmdb_txn *ending = kv_lmdb_txn(txn);

	if (ending->nested)
		kv_lmdb(txn->kv)->record.payload_bytes = ending->mark;
	mdb_txn_abort(ending->mdb);
	free(ending);
}

static void kv_lmdb_close(struct kv *kv)
{
	struct kv_lmdb *store = kv_lmdb(kv);

	kv_lmdb_checkpoint_stop(store);
	/* With nothing left to be applied. What fails here is done by the next opening. */
	if (!atomic_load(&store->failed) &&
		redo_log_sequence(store->log) > store->checkpoint->mark.sequence &&
		kv_lmdb_checkpoint_begin(store, redo_log_sequence(store->log)) == 0)
		(void)kv_lmdb_checkpoint_finish(store);
	kv_lmdb_free(store);
}

const struct kv_operations kv_lmdb_operations = {
	.begin = kv_lmdb_begin,
	.get = kv_lmdb_get,
	.put = kv_lmdb_put,
	.remove = kv_lmdb_remove,
	.scan = kv_lmdb_scan,
	.commit = kv_lmdb_commit,
	.abort = kv_lmdb_abort,
	.close = kv_lmdb_close,
};
