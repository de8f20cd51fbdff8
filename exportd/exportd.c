/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Making, opening and closing a data directory, and agreement between it and the configuration.
 *
 * The directory holds the files of the key-value store (kv.h) and exportd.lock, on which the daemon
 * that uses the directory holds a flock(). Runs before and after all other threads of the daemon.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exportd/clock.h"
#include "exportd/exportd.h"
#include "exportd/file_ids.h"
#include "exportd/free_queue.h"
#include "exportd/reply_cache.h"
#include "rpc/log.h"

#define LOCK_FILE "exportd.lock"

/* -------- the directory -------- */

/* Flushes a directory's entries, so that files made in it survive a power failure. */
static int directory_sync(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = 0;

	if (fd < 0 || fsync(fd) != 0) {
		result = -errno;
		rozo_log(ERROR, "%s: %s", path, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	return result;
}

static int directory_check_empty(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	int result = 0;

	if (directory == NULL) {
		result = -errno;
		rozo_log(ERROR, "%s: %s", path, strerror(errno));
		return result;
	}
	while ((entry = readdir(directory)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		rozo_log(ERROR,
			"%s is not empty: it holds \"%s\"; --init makes new metadata only in an "
			"empty directory. Give another one (exportd.data), or empty this one if "
			"nothing in it is needed",
			path, entry->d_name);
		result = -ENOTEMPTY;
		break;
	}
	closedir(directory);
	return result;
}

/* Takes the directory for this process until *fd is closed. */
static int directory_lock(const char *directory, bool create, int *fd)
{
	char path[4096];
	int result;

	snprintf(path, sizeof(path), "%s/%s", directory, LOCK_FILE);
	*fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0), 0600);
	if (*fd < 0) {
		result = -errno;
		if (errno == ENOENT)
			rozo_log(ERROR,
				"%s holds no metadata (there is no %s); run rozo-exportd --init "
				"once for a new cluster, or correct exportd.data",
				directory, path);
		else
			rozo_log(ERROR, "%s: %s", path, strerror(errno));
		return result;
	}
	if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
		result = errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (result == -EBUSY)
			rozo_log(ERROR, "%s is in use by another rozo-exportd; stop that one first",
				directory);
		else
			rozo_log(ERROR, "%s: %s", path, strerror(errno));
		close(*fd);
		*fd = -1;
		return result;
	}
	return 0;
}

/* -------- init -------- */

static int init_write(struct kv_txn *txn, void *context)
{
	const struct config *config = context;
	struct record_counters counters = {.next_free_sequence = 1, .store_id = txn->kv->id};
	struct record_meta meta = {
		.database_version = RECORD_DATABASE_VERSION,
		.created_seconds = clock_now_ns(CLOCK_KIND_WALL) / 1000000000u,
	};
	int result;

	snprintf(meta.cluster_id, sizeof(meta.cluster_id), "%s", config->cluster_id);
	result = record_meta_put(txn, &meta);
	if (result == 0)
		result = record_counters_put(txn, &counters);
	return result;
}

int exportd_init(const struct config *config, size_t map_bytes)
{
	const char *path = config->exportd_data;
	struct kv *kv = NULL;
	struct kv_txn *txn = NULL;
	char *parent = NULL, *slash;
	int lock_fd = -1;
	int result;

	if (strlen(config->cluster_id) > RECORD_NAME_MAX) {
		rozo_log(ERROR, "cluster id \"%s\" is longer than %d bytes", config->cluster_id,
			RECORD_NAME_MAX);
		return -EINVAL;
	}
	if (mkdir(path, 0700) != 0 && errno != EEXIST) {
		result = -errno;
		rozo_log(ERROR, "%s: %s", path, strerror(errno));
		return result;
	}
	result = directory_check_empty(path);
	if (result == 0)
		result = directory_lock(path, true, &lock_fd);
	if (result == 0)
		result = kv_lmdb_open(path, map_bytes, &kv);
	/* The files' entries first: data that is durable in a file that is not found is lost. */
	if (result == 0)
		result = directory_sync(path);
	if (result != 0)
		goto out;
	parent = strdup(path);
	if (parent == NULL) {
		result = -ENOMEM;
		goto out;
	}
	slash = strrchr(parent, '/');
	if (slash != NULL && slash != parent)
		*slash = '\0';
	result = directory_sync(slash == NULL ? "." : slash == parent ? "/" : parent);
	if (result == 0)
		result = kv_begin(kv, KV_WRITE, NULL, &txn);
	if (result != 0)
		goto out;
	result = init_write(txn, (void *)config);
	if (result == 0)
		result = kv_commit(txn);
	else
		kv_abort(txn);
out:
	if (result == 0)
		rozo_log(INFO, "%s: new metadata for cluster \"%s\"", path, config->cluster_id);
	kv_close(kv);
	if (lock_fd >= 0)
		close(lock_fd);
	free(parent);
	return result;
}

/* -------- open -------- */

static int open_check_meta(struct kv_txn *txn, void *context)
{
	const struct config *config = context;
	struct record_meta meta;
	int result;

	result = record_meta_get(txn, &meta);
	if (result == -ENOENT) {
		rozo_log(ERROR,
			"%s holds a database that rozo-exportd --init did not finish; empty the "
			"directory and run --init again",
			config->exportd_data);
		return result;
	}
	if (result != 0)
		return result;
	if (meta.database_version > RECORD_DATABASE_VERSION) {
		rozo_log(ERROR,
			"%s has format %" PRIu32 ", this rozo-exportd knows up to %d; start a "
			"newer one",
			config->exportd_data, meta.database_version, RECORD_DATABASE_VERSION);
		return -EINVAL;
	}
	if (strcmp(meta.cluster_id, config->cluster_id) != 0) {
		rozo_log(ERROR,
			"%s is the metadata of cluster \"%s\", but %s is of cluster \"%s\"; "
			"correct exportd.data or cluster.id",
			config->exportd_data, meta.cluster_id,
			config->path != NULL ? config->path : "the configuration",
			config->cluster_id);
		return -EINVAL;
	}
	return 0;
}

/*
 * Gives an older database this version's number. Version 1 had no redo log, and a daemon of that
 * time would take a database without its log for the whole: so the number is to be in data.mdb
 * itself before anything else is changed, which closing the store sees to.
 */
static int open_newer(struct exportd *exportd, size_t map_bytes)
{
	const char *path = exportd->config->exportd_data;
	struct record_meta meta;
	struct kv_txn *txn;
	uint32_t before;
	int result;

	result = kv_begin(exportd->kv, KV_WRITE, NULL, &txn);
	if (result != 0)
		return result;
	result = record_meta_get(txn, &meta);
	if (result != 0 || meta.database_version == RECORD_DATABASE_VERSION) {
		kv_abort(txn);
		return result;
	}
	before = meta.database_version;
	meta.database_version = RECORD_DATABASE_VERSION;
	result = record_meta_put(txn, &meta);
	if (result == 0)
		result = kv_commit(txn);
	else
		kv_abort(txn);
	if (result != 0)
		return result;
	rozo_log(INFO, "%s: from format %" PRIu32 " to %d", path, before, RECORD_DATABASE_VERSION);
	kv_close(exportd->kv);
	exportd->kv = NULL;
	return kv_lmdb_open(path, map_bytes, &exportd->kv);
}

/* Makes an export's records and its root directory. */
static int export_create(
	struct kv_txn *txn, const struct config_export *config, struct record_export *record)
{
	struct record_allocation allocation = {.next_file_id = RECORD_ROOT_ID + 1, .files = 1};
	uint64_t now_ns = clock_now_ns(CLOCK_KIND_WALL);
	struct record_time now = {
		.seconds = (int64_t)(now_ns / 1000000000u),
		.nanoseconds = (uint32_t)(now_ns % 1000000000u),
	};
	struct record_inode root = {
		.parent_id = RECORD_ROOT_ID,
		.type = META_DIRECTORY,
		.mode = 0755,
		.links = 2,
		.change = 1,
		.next_cookie = RECORD_COOKIE_FIRST,
		.access_time = now,
		.modify_time = now,
		.change_time = now,
	};
	int result;

	if (getrandom(&record->filesystem_id, sizeof(record->filesystem_id), 0) !=
		sizeof(record->filesystem_id))
		return -EIO;
	result = record_export_put(txn, config->id, record);
	if (result == 0)
		result = record_allocation_put(txn, config->id, &allocation);
	if (result == 0)
		result = record_inode_put(txn, config->id, RECORD_ROOT_ID, &root);
	if (result == 0)
		rozo_log(INFO, "export %" PRIu32 " \"%s\": created, protection %u+%u", config->id,
			config->name, config->code.k, config->code.m);
	return result;
}

/* Says which parameter differs. Returns 0 or -EINVAL. */
static int export_compare(const struct config_export *config, const struct record_export *stored,
	const struct record_export *wanted)
{
	if (stored->form != wanted->form || stored->k != wanted->k || stored->m != wanted->m) {
		rozo_log(ERROR,
			"export %" PRIu32 " \"%s\" was made with protection %u+%u %s, the "
			"configuration says %u+%u %s; the code of an export cannot change: restore "
			"it, or make a new export",
			config->id, config->name, stored->k, stored->m,
			stored->form == MOJETTE_SYSTEMATIC ? "systematic" : "non-systematic",
			wanted->k, wanted->m,
			wanted->form == MOJETTE_SYSTEMATIC ? "systematic" : "non-systematic");
		return -EINVAL;
	}
	if (stored->row_bytes != wanted->row_bytes) {
		rozo_log(ERROR,
			"export %" PRIu32 " \"%s\" was made with row_bytes %" PRIu32
			", the configuration says %" PRIu32
			"; it cannot change: restore it, or make a new export",
			config->id, config->name, stored->row_bytes, wanted->row_bytes);
		return -EINVAL;
	}
	if (stored->segment_blocks != wanted->segment_blocks) {
		rozo_log(ERROR,
			"export %" PRIu32 " \"%s\" was made with segments of %" PRIu64
			" blocks, the configuration's segment_bytes gives %" PRIu64
			"; it cannot change: restore it, or make a new export",
			config->id, config->name, stored->segment_blocks, wanted->segment_blocks);
		return -EINVAL;
	}
	return 0;
}

/*
 * An export without a record is a new one, and is made; but not over the files of one whose record
 * is not found, since a bit of its key has flipped. Returns 0, or -EIO: it has files.
 */
static int export_check_new(struct kv_txn *txn, const struct config_export *config)
{
	struct record_allocation allocation;
	struct record_inode root;
	int allocation_error = record_allocation_get(txn, config->id, &allocation);
	int root_error = record_inode_get(txn, config->id, RECORD_ROOT_ID, &root);

	if (allocation_error == -ENOENT && root_error == -ENOENT)
		return 0;
	rozo_log(ERROR,
		"export %" PRIu32 " \"%s\": the metadata has files of it, but its own record is "
		"damaged: restore the metadata from a backup",
		config->id, config->name);
	return -EIO;
}

static int open_one_export(
	struct kv_txn *txn, const struct config_export *config, struct exportd_export *export)
{
	struct record_export stored, wanted = {
					     .form = config->code.form,
					     .k = config->code.k,
					     .m = config->code.m,
					     .row_bytes = config->row_bytes,
					     .segment_blocks = config_segment_blocks(config),
				     };
	int result;

	snprintf(wanted.name, sizeof(wanted.name), "%s", config->name);
	result = record_export_get(txn, config->id, &stored);
	if (result == -ENOENT) {
		result = export_check_new(txn, config);
		if (result == 0)
			result = export_create(txn, config, &wanted);
		stored = wanted;
	} else if (result == 0) {
		result = export_compare(config, &stored, &wanted);
		if (result == 0 && strcmp(stored.name, wanted.name) != 0) {
			rozo_log(INFO, "export %" PRIu32 ": renamed from \"%s\" to \"%s\"",
				config->id, stored.name, wanted.name);
			memcpy(stored.name, wanted.name, sizeof(stored.name));
			result = record_export_put(txn, config->id, &stored);
		}
	}
	if (result != 0)
		return result;
	*export = (struct exportd_export){
		.config = config,
		.segment_blocks = stored.segment_blocks,
		.segment_bytes = stored.segment_blocks * config_block_bytes(config),
		.file_bytes_max =
			stored.segment_blocks * config_block_bytes(config) * META_SEGMENTS_MAX,
		.filesystem_id = stored.filesystem_id,
		.shards = (uint32_t)config->code.k + config->code.m,
	};
	return 0;
}

static int report_unserved(void *context, struct kv_bytes key, struct kv_bytes value)
{
	const struct config *config = context;
	struct record_export export;
	uint32_t export_id;
	int result;

	result = record_export_decode(key, value, &export);
	if (result != 0)
		return 0; /* named in the log; one that is served has been refused before */
	export_id = record_key_u32(key, 1);
	if (config_export_by_id(config, export_id) == NULL)
		rozo_log(WARNING,
			"export %" PRIu32 " \"%s\" is in the metadata but not in the "
			"configuration: it is kept and not served",
			export_id, export.name);
	return 0;
}

/* Items of the free queue that the nodes may know of and an older database does not. */
#define SEQUENCES_SKIPPED (UINT64_C(1) << 40)

/* A node may still say that it is done with an item: it must not be taken for a later one. */
static int skip_sequences(struct kv_txn *txn)
{
	struct record_counters counters = {0};
	int result = record_counters_get(txn, &counters);

	counters.next_free_sequence += SEQUENCES_SKIPPED;
	return result == 0 ? record_counters_put(txn, &counters) : result;
}

/* What the nodes have may be newer than the database from now on. */
static int take_for_older(struct kv_txn *txn)
{
	int result = file_ids_skip_all(txn);

	if (result == 0)
		result = skip_sequences(txn);
	if (result == 0)
		result = free_queue_forget_strays(txn);
	return result == 0 ? truncation_forget_all(txn) : result;
}

/*
 * A store that is not the one that was used last is a copy of the database, and may be an older
 * one. (What was last opened by a daemon that did not take this down counts as a copy.)
 */
static int open_copy(struct kv_txn *txn)
{
	struct record_counters counters;
	int result = record_counters_get(txn, &counters);

	if (result != 0 || counters.store_id == txn->kv->id)
		return result;
	counters.store_id = txn->kv->id;
	result = record_counters_put(txn, &counters);
	return result == 0 ? take_for_older(txn) : result;
}

static int open_exports(struct kv_txn *txn, void *context)
{
	struct exportd *exportd = context;
	struct record_key all = {.length = 1, .bytes = {RECORD_EXPORT}};
	int result = open_copy(txn);
	struct record_server server;
	size_t i;

	for (i = 0; result == 0 && i < exportd->config->export_count; i++) {
		/* A damaged one has been named in the log. */
		if (record_server_get(txn, exportd->config->exports[i].id, &server) == 0)
			exportd->servers += server.number;
		result = open_one_export(txn, &exportd->config->exports[i], &exportd->exports[i]);
	}
	if (result == 0)
		result = reply_cache_expire(txn);
	if (result == 0)
		result = kv_scan(txn, record_key_bytes(&all), RECORD_PREFIX_KIND, report_unserved,
			(void *)exportd->config);
	return result;
}

int exportd_open(const struct config *config, size_t map_bytes, struct exportd **exportd)
{
	struct exportd *made = calloc(1, sizeof(*made));
	int result = -ENOMEM;

	if (made == NULL)
		return -ENOMEM;
	made->config = config;
	made->lock_fd = -1;
	made->exports = calloc(config->export_count, sizeof(*made->exports));
	made->written = written_create();
	made->claims = claims_create();
	made->truncations = truncations_create();
	if (made->exports == NULL || made->written == NULL || made->claims == NULL ||
		made->truncations == NULL)
		goto out;
	result = directory_lock(config->exportd_data, false, &made->lock_fd);
	if (result != 0)
		goto out;
	result = kv_lmdb_open(config->exportd_data, map_bytes, &made->kv);
	if (result != 0)
		goto out;
	result = exportd_read(made, open_check_meta, (void *)config);
	if (result == 0)
		result = open_newer(made, map_bytes);
	if (result != 0)
		goto out;
	made->commit = commit_create(made->kv);
	if (made->commit == NULL) {
		result = -ENOMEM;
		goto out;
	}
	result = commit_execute(made->commit, open_exports, made);
	if (result == 0)
		result = map_create(config, made->kv, made->commit, &made->map);
out:
	if (result == 0) {
		*exportd = made;
		return 0;
	}
	exportd_close(made);
	return result;
}

void exportd_close(struct exportd *exportd)
{
	if (exportd == NULL)
		return;
	map_destroy(exportd->map);
	commit_destroy(exportd->commit);
	kv_close(exportd->kv);
	written_destroy(exportd->written);
	claims_destroy(exportd->claims);
	truncations_destroy(exportd->truncations);
	free(exportd->exports);
	/* Last: nobody else may use the directory before. */
	if (exportd->lock_fd >= 0)
		close(exportd->lock_fd);
	free(exportd);
}

static int restored_operation(struct kv_txn *txn, void *context)
{
	(void)context;
	return take_for_older(txn);
}

int exportd_restored(const struct config *config, size_t map_bytes)
{
	struct exportd *exportd;
	int result = exportd_open(config, map_bytes, &exportd);

	if (result != 0)
		return result;
	result = commit_execute(exportd->commit, restored_operation, NULL);
	if (result != 0)
		rozo_log(ERROR, "%s: file ids cannot be passed over: %s", config->exportd_data,
			strerror(-result));
	exportd_close(exportd);
	return result;
}

const struct exportd_export *exportd_export(const struct exportd *exportd, uint32_t export_id)
{
	size_t i;

	for (i = 0; i < exportd->config->export_count; i++)
		if (exportd->config->exports[i].id == export_id)
			return &exportd->exports[i];
	return NULL;
}

int exportd_read(struct exportd *exportd, commit_operation operation, void *context)
{
	struct kv_txn *txn;
	int result;

	result = kv_begin(exportd->kv, KV_READ, NULL, &txn);
	if (result != 0)
		return result;
	result = operation(txn, context);
	kv_abort(txn);
	return result;
}
