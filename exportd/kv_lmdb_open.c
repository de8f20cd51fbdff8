/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Opening and closing the embedded backend, see kv_lmdb.h: what belongs together, putting the
 * checkpoint's state back, applying the log. Runs in one thread, and whoever calls sees to it that
 * no other process does (exportd.c).
 *
 * The numbers of LMDB's transactions tell whether data.mdb and the log are of the same time: each
 * record is one transaction, and is durable before LMDB numbers it. So what data.mdb has as its
 * newest is not older than the checkpoint, and not newer than the last record; otherwise one of the
 * files was exchanged, another program has written, or the end of the log is damaged.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exportd/kv_lmdb.h"
#include "rpc/log.h"

/* More than the threads that can be in exportd at once. */
#define READERS 512

/* So much of the log is applied in one transaction, which LMDB holds in memory. */
#define BATCH_BYTES (16u << 10)

struct opening {
	struct kv_lmdb *store;
	const char *directory;
	size_t map_bytes;
	uint64_t log_bytes;
};

/* -------- the environment -------- */

static int complain(const struct opening *opening, const char *file, int error)
{
	rozo_log(ERROR, "%s/%s: %s", opening->directory, file, strerror(error));
	return -error;
}

static int env_complain(const struct opening *opening, int result)
{
	if (result == 0)
		return 0;
	rozo_log(ERROR, "metadata database %s/data.mdb: %s", opening->directory,
		mdb_strerror(result));
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

static int env_open(struct opening *opening, unsigned int flags)
{
	struct kv_lmdb *store = opening->store;
	MDB_txn *txn = NULL;
	int result;

	result = mdb_env_create(&store->env);
	if (result == 0)
		result = mdb_env_set_mapsize(store->env, opening->map_bytes);
	if (result == 0)
		result = mdb_env_set_maxreaders(store->env, READERS);
	/* No read-ahead: lookups are random, and reading neighbours would only fill memory. */
	if (result == 0)
		result = mdb_env_open(
			store->env, opening->directory, MDB_NOTLS | MDB_NORDAHEAD | flags, 0600);
	if (result == 0)
		result = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
	if (result == 0)
		result = mdb_dbi_open(txn, NULL, 0, &store->dbi);
	if (result == 0) {
		result = mdb_txn_commit(txn);
		txn = NULL;
	}
	mdb_txn_abort(txn);
	return env_complain(opening, result);
}

static void env_close(struct kv_lmdb *store)
{
	mdb_txn_abort(store->held);
	mdb_txn_abort(store->held_next);
	store->held = store->held_next = NULL;
	if (store->env != NULL)
		mdb_env_close(store->env);
	store->env = NULL;
}

/* The number of the newest transaction in the file, whether its pages are there or not. */
static int newest_transaction(struct opening *opening, uint64_t *transaction)
{
	MDB_envinfo info = {0};
	MDB_env *env = NULL;
	int result;

	result = mdb_env_create(&env);
	if (result == 0)
		result = mdb_env_set_mapsize(env, opening->map_bytes);
	if (result == 0)
		result = mdb_env_open(env, opening->directory,
			MDB_RDONLY | MDB_NOLOCK | MDB_NOTLS | MDB_NORDAHEAD, 0600);
	if (result == 0)
		result = mdb_env_info(env, &info);
	if (env != NULL)
		mdb_env_close(env);
	*transaction = info.me_last_txnid;
	return env_complain(opening, result);
}

static int flush_directory(const struct opening *opening)
{
	int file = open(opening->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = 0;

	if (file < 0 || fsync(file) != 0)
		result = complain(opening, "", errno);
	if (file >= 0)
		close(file);
	return result;
}

static int random_bytes(void *bytes, size_t count)
{
	if (getrandom(bytes, count, 0) == (ssize_t)count)
		return 0;
	rozo_log(ERROR, "getrandom: %s", strerror(errno));
	return -EIO;
}

/* -------- a database that has no checkpoint yet -------- */

static int put_id(struct kv_lmdb *store)
{
	uint8_t id[REDO_LOG_ID_BYTES];
	MDB_val key = KV_LMDB_OWN_KEY, value = {.mv_size = sizeof(id), .mv_data = id};
	MDB_txn *txn;
	int result;

	result = random_bytes(id, sizeof(id));
	if (result != 0)
		return result;
	result = mdb_txn_begin(store->env, NULL, 0, &txn);
	if (result != 0)
		return kv_lmdb_error("begin", result);
	result = mdb_put(txn, store->dbi, &key, &value, 0);
	if (result == 0)
		return kv_lmdb_error("commit", mdb_txn_commit(txn));
	mdb_txn_abort(txn);
	return kv_lmdb_error("put", result);
}

/*
 * Gives a log and a checkpoint to a database that is new, from before there were any, or copied
 * without them. Until the checkpoint is there, which comes last, LMDB flushes for itself.
 */
static int adopt(struct opening *opening)
{
	struct kv_lmdb *store = opening->store;
	bool exists, used;
	int result;

	result = redo_log_look(opening->directory, &exists, &used);
	if (result != 0)
		return result;
	if (used) {
		rozo_log(ERROR,
			"%s: there is a redo log, but no file \"checkpoint\" to say from where "
			"on it counts. Put that back, or restore the directory from a backup. If "
			"data.mdb is a whole copy from a backup, remove redo-0.log and redo-1.log",
			opening->directory);
		return -EINVAL;
	}
	result = env_open(opening, 0);
	if (result == 0)
		result = put_id(store);
	if (result == 0)
		result = redo_log_create(opening->directory, opening->log_bytes);
	/* The names first: data that is durable in a file that is not found is lost. */
	if (result == 0)
		result = flush_directory(opening);
	if (result == 0)
		result = kv_lmdb_checkpoint_begin(store, 0);
	store->checkpoint->log_bytes = opening->log_bytes;
	if (result == 0)
		result = kv_checkpoint_create(opening->directory, store->checkpoint);
	env_close(store);
	return result;
}

/* -------- what belongs together -------- */

static int not_of_one(const struct opening *opening, const char *what)
{
	rozo_log(ERROR,
		"%s: data.mdb and the files \"checkpoint\", redo-0.log and redo-1.log do not "
		"belong together: %s. Put the right files back, or restore the directory from a "
		"backup. If data.mdb is a whole copy from a backup and is to be used without the "
		"others, remove those",
		opening->directory, what);
	return -EINVAL;
}

/* The state of the checkpoint has the database's id where the checkpoint says. */
static int check_id(const struct opening *opening, int data)
{
	const struct kv_checkpoint *checkpoint = opening->store->checkpoint;
	uint8_t id[REDO_LOG_ID_BYTES];
	ssize_t got = pread(data, id, sizeof(id), (off_t)checkpoint->id_offset);

	if (got < 0)
		return complain(opening, "data.mdb", errno);
	if (got != sizeof(id) || memcmp(id, checkpoint->mark.database_id, sizeof(id)) != 0)
		return not_of_one(opening, "the checkpoint is of another database");
	return 0;
}

static int check_transactions(struct opening *opening, const struct redo_log_found *found)
{
	uint64_t oldest = opening->store->checkpoint->transaction, newest;
	char text[200];
	int result;

	result = newest_transaction(opening, &newest);
	if (result != 0)
		return result;
	if (newest >= oldest && newest <= oldest + found->records)
		return 0;
	if (newest < oldest)
		snprintf(text, sizeof(text),
			"data.mdb is older (transaction %" PRIu64 ") than the checkpoint (%" PRIu64
			")",
			newest, oldest);
	else
		snprintf(text, sizeof(text),
			"data.mdb is newer (transaction %" PRIu64
			") than the end of the redo log (%" PRIu64
			"), whose last records may be damaged",
			newest, oldest + found->records);
	return not_of_one(opening, text);
}

/*
 * Makes LMDB forget what was committed after the checkpoint, if anything was. Also if these pages
 * can be read already: they may be in memory only, as what make_durable() writes again.
 */
static int restore_meta(const struct opening *opening, int data)
{
	const struct kv_checkpoint *checkpoint = opening->store->checkpoint;
	int result =
		redo_log_write_all(data, checkpoint->meta, 2 * (size_t)checkpoint->page_bytes, 0);

	if (result == 0 && fdatasync(data) != 0)
		result = -errno;
	return result == 0 ? 0 : complain(opening, "data.mdb", -result);
}

/* -------- applying the log -------- */

struct applying {
	struct kv_lmdb *store;
	MDB_txn *txn;
	size_t bytes;
};

static int apply_record(void *context, const uint8_t *payload, size_t bytes)
{
	struct applying *applying = context;
	struct kv_lmdb_change_header header;
	MDB_val key, value;
	int result = 0;
	size_t at = 0;

	if (applying->txn == NULL)
		result = mdb_txn_begin(applying->store->env, NULL, 0, &applying->txn);
	while (result == 0 && at < bytes) {
		if (bytes - at < sizeof(header))
			return -EBADMSG;
		memcpy(&header, payload + at, sizeof(header));
		at += sizeof(header);
		key.mv_size = le16toh(header.key_bytes);
		value.mv_size = le32toh(header.value_bytes);
		if (bytes - at < key.mv_size + value.mv_size)
			return -EBADMSG;
		key.mv_data = (void *)(payload + at);
		value.mv_data = (void *)(payload + at + key.mv_size);
		at += key.mv_size + value.mv_size;
		if (header.kind == KV_LMDB_PUT)
			result = mdb_put(applying->txn, applying->store->dbi, &key, &value, 0);
		else if (header.kind == KV_LMDB_REMOVE)
			result = mdb_del(applying->txn, applying->store->dbi, &key, NULL);
		else
			return -EBADMSG;
	}
	/* What was removed was there: this is not the state that the log follows. */
	if (result == MDB_NOTFOUND)
		return -EBADMSG;
	applying->bytes += bytes;
	if (result == 0 && applying->bytes >= BATCH_BYTES) {
		result = mdb_txn_commit(applying->txn);
		applying->txn = NULL;
		applying->bytes = 0;
	}
	return kv_lmdb_error("applying the redo log", result);
}

static int apply_log(struct opening *opening, struct redo_log_found *found)
{
	struct kv_lmdb *store = opening->store;
	struct applying applying = {.store = store};
	int result;

	if (found->records == 0)
		return 0;
	result =
		redo_log_read(store->log, &store->checkpoint->mark, apply_record, &applying, found);
	if (result == 0 && applying.txn != NULL)
		result = kv_lmdb_error("commit", mdb_txn_commit(applying.txn));
	else
		mdb_txn_abort(applying.txn);
	if (result == 0)
		rozo_log(INFO,
			"%s: it was not closed; %" PRIu64
			" transactions were taken from the redo log",
			opening->directory, found->records);
	else
		rozo_log(ERROR, "%s: the redo log cannot be applied: %s", opening->directory,
			strerror(-result));
	return result;
}

/*
 * Checks that what was opened is the state of the checkpoint, and holds it. It is not if lock.mdb
 * was in use: LMDB then goes by the newest transaction that is noted there.
 */
static int check_state(struct opening *opening)
{
	const struct kv_checkpoint *checkpoint = opening->store->checkpoint;
	MDB_val key = KV_LMDB_OWN_KEY, id;
	MDB_txn *reader;
	MDB_envinfo info;
	int result;

	result = mdb_env_info(opening->store->env, &info);
	if (result == 0)
		result = mdb_txn_begin(opening->store->env, NULL, MDB_RDONLY, &reader);
	if (result != 0)
		return env_complain(opening, result);
	opening->store->held = reader; /* its pages stay until there is another checkpoint */
	result = mdb_get(reader, opening->store->dbi, &key, &id);
	if (result != 0 || info.me_last_txnid != checkpoint->transaction ||
		mdb_txn_id(reader) != checkpoint->transaction ||
		id.mv_size != sizeof(checkpoint->mark.database_id) ||
		memcmp(id.mv_data, checkpoint->mark.database_id, id.mv_size) != 0)
		return not_of_one(opening,
			"data.mdb does not have the state of the checkpoint, or a program that "
			"had it open before (mdb_copy, mdb_stat) still has, and is to be ended "
			"first");
	return 0;
}

/* -------- opening and closing -------- */

/*
 * What has been read may be in memory only, if the run before ended with a flush that failed.
 * Before anything is built on it, and takes the place of what the disk would lead back to, it is
 * made durable: written again, since another flush alone would succeed without it.
 */
static int make_durable(struct opening *opening)
{
	struct kv_lmdb *store = opening->store;
	int result = kv_checkpoint_write(store->checkpoint_file, store->checkpoint);

	if (result != 0)
		return complain(opening, "checkpoint", -result);
	return redo_log_write_again(store->log);
}

/* Brings data.mdb to the state that was acknowledged last, and makes a checkpoint of it. */
static int recover(struct opening *opening)
{
	struct kv_lmdb *store = opening->store;
	struct kv_checkpoint *checkpoint = store->checkpoint;
	struct redo_log_found found;
	char path[4200];
	int data, result;

	snprintf(path, sizeof(path), "%s/data.mdb", opening->directory);
	data = open(path, O_RDWR | O_CLOEXEC);
	if (data < 0 && errno == ENOENT)
		return not_of_one(opening, "there is no data.mdb");
	if (data < 0)
		return complain(opening, "data.mdb", errno);
	result = check_id(opening, data);
	if (result == 0)
		result = redo_log_open(opening->directory, checkpoint->log_bytes, &store->log);
	if (result == 0)
		result = redo_log_read(store->log, &checkpoint->mark, NULL, NULL, &found);
	if (result == 0)
		result = check_transactions(opening, &found);
	if (result == 0)
		result = make_durable(opening);
	if (result == 0)
		result = restore_meta(opening, data);
	close(data);
	if (result == 0)
		result = env_open(opening, MDB_NOSYNC);
	if (result == 0)
		result = check_state(opening);
	if (result == 0)
		result = apply_log(opening, &found);
	if (result == 0)
		result = random_bytes(&checkpoint->mark.run, sizeof(checkpoint->mark.run));
	if (result == 0)
		result = kv_lmdb_checkpoint_begin(store, found.sequence);
	if (result == 0)
		result = kv_lmdb_checkpoint_finish(store);
	if (result == 0)
		result = redo_log_start(store->log, &checkpoint->mark);
	return result;
}

void kv_lmdb_free(struct kv_lmdb *store)
{
	kv_lmdb_checkpoint_stop(store);
	env_close(store);
	redo_log_close(store->log);
	redo_log_free(&store->record);
	redo_log_free(&store->nothing);
	if (store->checkpoint_file >= 0)
		close(store->checkpoint_file);
	pthread_cond_destroy(&store->changed);
	pthread_mutex_destroy(&store->mutex);
	free(store->checkpoint);
	free(store);
}

static uint32_t first_bytes(const uint8_t *id)
{
	uint32_t little_endian;

	memcpy(&little_endian, id, sizeof(little_endian));
	return le32toh(little_endian);
}

int kv_lmdb_open_with_log(
	const char *directory, size_t map_bytes, uint64_t log_bytes, struct kv **kv)
{
	struct kv_lmdb *store = calloc(1, sizeof(*store));
	struct opening opening = {store, directory, map_bytes, log_bytes};
	int result;

	if (store == NULL)
		return -ENOMEM;
	store->kv.operations = &kv_lmdb_operations;
	store->checkpoint_file = -1;
	store->reserve = true;
	pthread_mutex_init(&store->mutex, NULL);
	pthread_cond_init(&store->changed, NULL);
	store->checkpoint = calloc(1, sizeof(*store->checkpoint));
	if (store->checkpoint == NULL) {
		result = -ENOMEM;
		goto out;
	}
	result = kv_checkpoint_open(directory, &store->checkpoint_file, store->checkpoint);
	if (result == -ENOENT) {
		result = adopt(&opening);
		if (result == 0)
			result = kv_checkpoint_open(
				directory, &store->checkpoint_file, store->checkpoint);
	}
	if (result == 0)
		result = recover(&opening);
	if (result == 0) {
		store->kv.id = first_bytes(store->checkpoint->mark.database_id);
		result = kv_lmdb_checkpoint_start(store);
	}
out:
	if (result == 0)
		*kv = &store->kv;
	else
		kv_lmdb_free(store);
	return result;
}

int kv_lmdb_open(const char *directory, size_t map_bytes, struct kv **kv)
{
	return kv_lmdb_open_with_log(directory, map_bytes, KV_LMDB_LOG_BYTES, kv);
}
