/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Checkpoints of the embedded backend, see kv_lmdb.h. The order of the steps is what makes them
 * safe: the reader of a state begins before the flush of data.mdb, so that all of the state is
 * flushed and stays; the checkpoint is written after that flush; the state before it, and the log
 * that follows that, are given up after the checkpoint's own flush.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/kv_lmdb.h"
#include "rpc/log.h"

/* Reads both meta pages as they are. They are small enough to be read at once. */
static int read_meta(struct kv_lmdb *store, uint32_t page_bytes)
{
	size_t bytes = 2 * (size_t)page_bytes;
	int file, result;
	ssize_t got;

	result = kv_lmdb_error("checkpoint", mdb_env_get_fd(store->env, &file));
	if (result != 0)
		return result;
	do
		got = pread(file, store->checkpoint->meta, bytes, 0);
	while (got < 0 && errno == EINTR);
	if (got == (ssize_t)bytes)
		return 0;
	result = got < 0 ? -errno : -EIO;
	rozo_log(ERROR, "metadata database: reading its first pages: %s", strerror(-result));
	return result;
}

/*
 * Where in data.mdb an entry lies that LMDB has shown. A page of LMDB begins with its number;
 * whether that is so is seen by reading the bytes there.
 */
static int find_offset(struct kv_lmdb *store, uint32_t page_bytes, MDB_val shown, uint64_t *offset)
{
	uintptr_t in_page = (uintptr_t)shown.mv_data % page_bytes;
	uint8_t bytes[REDO_LOG_ID_BYTES];
	uint64_t number;
	int file, result;

	memcpy(&number, (const uint8_t *)shown.mv_data - in_page, sizeof(number));
	*offset = number * page_bytes + in_page;
	result = kv_lmdb_error("checkpoint", mdb_env_get_fd(store->env, &file));
	if (result != 0)
		return result;
	if (pread(file, bytes, sizeof(bytes), (off_t)*offset) == sizeof(bytes) &&
		memcmp(bytes, shown.mv_data, sizeof(bytes)) == 0)
		return 0;
	rozo_log(ERROR, "metadata database: this version of LMDB lays pages out in another way");
	return -EIO;
}

int kv_lmdb_checkpoint_begin(struct kv_lmdb *store, uint64_t sequence)
{
	struct kv_checkpoint *checkpoint = store->checkpoint;
	MDB_val key = KV_LMDB_OWN_KEY, id = {0};
	MDB_txn *reader = NULL;
	MDB_envinfo info = {0};
	MDB_stat stat = {0};
	uint64_t id_offset = 0;
	int result;

	result = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &reader);
	if (result == 0)
		result = mdb_env_info(store->env, &info);
	if (result == 0)
		result = mdb_env_stat(store->env, &stat);
	if (result == 0)
		result = mdb_get(reader, store->dbi, &key, &id);
	if (result == 0 && (mdb_txn_id(reader) != info.me_last_txnid || id.mv_data == NULL ||
				   id.mv_size != sizeof(checkpoint->mark.database_id)))
		result = MDB_CORRUPTED;
	if (result == 0 && (stat.ms_psize == 0 || stat.ms_psize > KV_CHECKPOINT_PAGE_BYTES_MAX))
		result = MDB_VERSION_MISMATCH;
	if (result != 0) {
		result = kv_lmdb_error("checkpoint", result);
		goto failed;
	}
	result = find_offset(store, stat.ms_psize, id, &id_offset);
	if (result == 0)
		result = read_meta(store, stat.ms_psize);
	if (result != 0)
		goto failed;
	checkpoint->mark.checkpoint++;
	checkpoint->mark.sequence = sequence;
	memcpy(checkpoint->mark.database_id, id.mv_data, id.mv_size);
	checkpoint->page_bytes = stat.ms_psize;
	checkpoint->transaction = mdb_txn_id(reader);
	checkpoint->id_offset = id_offset;
	store->held_next = reader;
	return 0;
failed:
	mdb_txn_abort(reader);
	return result == -ENOENT ? -EIO : result;
}

int kv_lmdb_checkpoint_finish(struct kv_lmdb *store)
{
	int result;

	result = mdb_env_sync(store->env, 1);
	if (result != 0)
		return kv_lmdb_error("flushing data.mdb", result);
	result = kv_checkpoint_write(store->checkpoint_file, store->checkpoint);
	if (result != 0) {
		rozo_log(ERROR, "metadata database: writing its checkpoint: %s", strerror(-result));
		return result;
	}
	/* From here on nothing leads back to the checkpoint before. */
	if (store->log != NULL)
		redo_log_set_checkpoint(store->log, store->checkpoint->mark.checkpoint);
	mdb_txn_abort(store->held);
	store->held = store->held_next;
	store->held_next = NULL;
	return 0;
}

static void wait_until_done(struct kv_lmdb *store)
{
	pthread_mutex_lock(&store->mutex);
	while (store->pending)
		pthread_cond_wait(&store->changed, &store->mutex);
	pthread_mutex_unlock(&store->mutex);
}

int kv_lmdb_turn(struct kv_lmdb *store, bool wait)
{
	int dead, result;

	wait_until_done(store);
	if (atomic_load(&store->failed))
		return -EIO;
	/* Of backups (mdb_copy) that were killed: their readers would hold all pages from then on.
	 */
	result = kv_lmdb_error("readers", mdb_reader_check(store->env, &dead));
	if (result != 0)
		return result;
	result = kv_lmdb_checkpoint_begin(store, redo_log_sequence(store->log));
	if (result != 0)
		return result;
	result = redo_log_turn(store->log);
	if (result != 0) {
		/* The checkpoint is sound all the same, but there is nowhere to go on. */
		kv_lmdb_fail(store);
		return -EIO;
	}
	pthread_mutex_lock(&store->mutex);
	store->pending = true;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->mutex);
	if (wait)
		wait_until_done(store);
	return 0;
}

static void *checkpoint_thread(void *context)
{
	struct kv_lmdb *store = context;

	pthread_mutex_lock(&store->mutex);
	for (;;) {
		while (!store->pending && !store->stopping)
			pthread_cond_wait(&store->changed, &store->mutex);
		if (!store->pending)
			break;
		pthread_mutex_unlock(&store->mutex);
		if (kv_lmdb_checkpoint_finish(store) != 0)
			kv_lmdb_fail(store);
		pthread_mutex_lock(&store->mutex);
		store->pending = false;
		pthread_cond_broadcast(&store->changed);
	}
	pthread_mutex_unlock(&store->mutex);
	return NULL;
}

int kv_lmdb_checkpoint_start(struct kv_lmdb *store)
{
	int result = -pthread_create(&store->thread, NULL, checkpoint_thread, store);

	store->started = result == 0;
	return result;
}

void kv_lmdb_checkpoint_stop(struct kv_lmdb *store)
{
	if (!store->started)
		return;
	pthread_mutex_lock(&store->mutex);
	store->stopping = true;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->mutex);
	pthread_join(store->thread, NULL);
	store->started = false;
}
