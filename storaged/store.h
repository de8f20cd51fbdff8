/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The shard store of a storage node: shards of blocks, with their versions, on local file systems.
 *
 * One function per procedure of the store protocol (rpc/store.x, which says what each does). They
 * take the protocol's own argument and result types, so that the node's gateway calls them in
 * process just as other nodes do by RPC. Every function may be called from any thread.
 *
 * What a stable answer promises is on the device when the function returns: data, records and the
 * names of new files have been flushed, and no error of a flush is ever dropped (a store file whose
 * flush failed answers EIO from then on, until the store is opened again).
 */
#ifndef ROZO_STORAGED_STORE_H
#define ROZO_STORAGED_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "rpc/rpc.h"
#include "rpc/store.h"

struct store;
struct store_io;

struct store_options {
	const char *cluster_id;
	uint32_t node_id;
	const char *const *devices; /* absolute directories; copied */
	size_t device_count;
	size_t open_files_max; /* store files kept open; 0: 1024, fewer if RLIMIT_NOFILE says so */
	uint64_t freed_bytes_max; /* dropped bytes of a file not yet given back; 0: 8 MiB */
	/*
	 * Of the log that is made on a device that has none (less on small devices); 0: none is
	 * made. A log that is there is used, however long.
	 */
	uint64_t log_bytes;
	/*
	 * How long changes may stay in the log before their files are flushed in the background;
	 * 0: until the log is half full, and the caller that finds it so does it.
	 */
	uint32_t log_checkpoint_ms;
	const struct store_io *io; /* NULL: the operating system's file systems */
};

enum store_directory {
	STORE_DIRECTORY_EMPTY, /* may become a device */
	STORE_DIRECTORY_LABELLED, /* is one of this node already */
};

/*
 * Says what store_init_device() would find, and changes nothing. The device may be in use.
 * io: NULL for the operating system. error receives one line naming the path and the remedy.
 * Returns an enum store_directory; -ENOENT or -ENOTDIR (no such directory); -ENOTEMPTY (it has
 * other files, but lost+found may be there); -EINVAL (the label is damaged, or another node's or
 * cluster's); or an error of the file system.
 */
int store_check_directory(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, char *error, size_t error_bytes);

/*
 * Makes a directory a device of a node: writes its label (format, cluster, node, an id of its own)
 * and its directories, durably. io and error as above.
 * Returns 0; -EEXIST (it is one of this node already; nothing was changed); or an error as above.
 */
int store_init_device(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, char *error, size_t error_bytes);

/*
 * Opens a node's store. *store receives it; close with store_close().
 * A device that cannot be read, or has no label (not mounted?), or whose log cannot be used, is
 * left out of service with a line in the log; the others serve. Changes that an earlier process
 * left in a device's log are applied first.
 * error receives one line for each problem, naming path and remedy.
 * Returns 0 (at least one device serves);
 *   -EINVAL   a label is of another cluster or node, or damaged, or of a newer format, or two
 *             paths lead to the same device
 *   -EBUSY    another process uses a device
 *   -ENODEV   no device can be used
 *   -ENOMEM
 */
int store_open(
	struct store **store, const struct store_options *options, char *error, size_t error_bytes);

/*
 * Closes a store: no call may be running. What was written unstably is flushed first, and what is
 * in the logs is brought to the files, so that the logs are empty. A failure of that is logged;
 * nobody was promised those bytes, or they are in the log.
 */
void store_close(struct store *store);

/* Changes with each store_open(): what was not durable before is then to be written again. */
uint64_t store_boot(const struct store *store);

/* -------- the procedures (rpc/store.x) -------- */

void store_write(struct store *store, const store_write_args *args, store_write_res *res);

/* res->blocks and res->payload are allocated; free with xdr_store_read_res() or rpc_free(). */
void store_read(struct store *store, const store_read_args *args, store_read_res *res);

void store_commit(struct store *store, const store_commit_args *args, store_status_res *res);
void store_sync(struct store *store, const store_sync_args *args, store_status_res *res);
void store_missed(struct store *store, const store_missed_args *args, store_status_res *res);
void store_truncate(struct store *store, const store_truncate_args *args, store_status_res *res);
void store_remove(struct store *store, const store_remove_args *args, store_status_res *res);
void store_stat(struct store *store, const store_stat_args *args, store_stat_res *res);
void store_tell(struct store *store, const store_tell_args *args, store_status_res *res);

/*
 * Any of them by its number (STORE_WRITE ...): what the stripe engine calls for the store in its
 * own process. Unknown numbers abort the process: the caller is this program.
 */
void store_local_call(void *store, uint32_t procedure, const void *args, void *result);

/*
 * The store's RPC program, for rpc_server_start(). The table is constant; program->context is
 * store. program must live as long as the server.
 */
void store_program(struct store *store, struct rpc_program *program);

/* -------- state -------- */

struct store_capacity {
	const char *path; /* lives as long as the store */
	bool in_service;
	uint64_t total_bytes; /* 0 if not in service */
	uint64_t free_bytes; /* that writes may still take: the reserve is taken off; 0: hardly any
			      */
};

/*
 * Tells of up to count devices, in the order of the options. Returns the number of devices.
 */
size_t store_capacity(struct store *store, struct store_capacity *devices, size_t count);

/* -------- missed writes, for the healer -------- */

struct store_missed_file {
	store_file file;
	store_geometry geometry;
	uint32_t shard; /* that this node holds */
};

/* Called without locks held; may call the store. Not 0 ends the scan. */
typedef int (*store_missed_each)(void *context, const struct store_missed_file *file);

/*
 * Calls each for every store file that has blocks with missed shards. Files in which no such block
 * is left lose their entry in the record of misses.
 * Returns 0, what each returned, or the first error met (-EIO ...) after going on with the rest.
 */
int store_missed_scan(struct store *store, store_missed_each each, void *context);

struct store_missed_block {
	uint64_t block;
	/* Bit s: shard s does not have the newest version, or the older one, if that may become the
	 * newest again. */
	uint32_t missed;
};

/*
 * Finds blocks of a file with missed shards, from first_block on, ascending.
 * *count receives how many (at most max) were put into blocks; *next_block where to go on, or
 * UINT64_MAX if there are no more. Returns 0 or a negative errno.
 */
int store_missed_blocks(struct store *store, const store_file *file, uint64_t first_block,
	struct store_missed_block *blocks, size_t max, size_t *count, uint64_t *next_block);

/* -------- scrubbing -------- */

/* Not 0 ends the scan. */
typedef int (*store_each_file)(void *context, const store_file *file);

/*
 * Calls each for every store file on the devices in service. Files made or removed meanwhile may
 * or may not be met. Called without locks held; may call the store.
 * Returns 0, what each returned, -ENOMEM, or the first error of a directory that could not be
 * listed, after going on with the rest (it is logged).
 */
int store_scan(struct store *store, store_each_file each, void *context);

#define STORE_CHECK_BAD_MAX 32

struct store_check {
	uint64_t next_block; /* where to go on, UINT64_MAX: the file ends here */
	uint64_t blocks; /* that have a record */
	uint64_t bytes; /* read */
	uint64_t headers_mended; /* of group pages; what was in them follows from other things */
	/* Blocks whose records the device cannot read, or 1: the file lies where another one should
	 * be. They are not in bad. */
	uint64_t unreadable;
	size_t bad_count;
	uint64_t bad[STORE_CHECK_BAD_MAX]; /* blocks with a record or bytes that are not sound */
};

/*
 * Reads blocks of a file from first_block on, at most count and no more than a fraction of a MiB,
 * and checks their records and the bytes of all versions that are still needed. What is not sound
 * is logged (if count is more than 1) and from then on told as DAMAGED (or TORN) also where only
 * headers are asked for, so that healing sees it. A file that does not exist has no blocks.
 *
 * Returns 0; -EIO (the file has failed, or a device has); -EBUSY (what its damaged page 0 said is
 * being looked for, and each call goes on with that); -ENOMEM; or an error of the device when what
 * was found is noted.
 */
int store_check_blocks(struct store *store, const store_file *file, uint64_t first_block,
	uint64_t count, struct store_check *check);

/* -------- verifying a node that is not running -------- */

struct store_verify_summary {
	uint64_t files;
	uint64_t blocks; /* that have a record */
	uint64_t bytes; /* read */
	uint64_t problems;
};

/*
 * Reads everything on a node's devices and checks it: labels, names, headers, records, shards,
 * markers of missed writes. Changes nothing; holds the devices' locks meanwhile, so that no daemon
 * serves them. options as for store_open(). Each problem becomes a line on problems, naming path,
 * blocks and what is wrong; so do older copies that the store has set aside, which are none, and do
 * not count. progress (may be NULL) gets a line every few seconds.
 * Returns 0 (*summary tells what was found), or, if nothing can be said, -EBUSY (another process
 * uses a device), -EUCLEAN (a log has changes that are not in the files yet), -EACCES or -EPERM (no
 * right to read), -ENOMEM: error then has a line.
 */
int store_verify(const struct store_options *options, FILE *problems, FILE *progress,
	struct store_verify_summary *summary, char *error, size_t error_bytes);

#endif
