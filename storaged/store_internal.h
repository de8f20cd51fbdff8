/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the files of the shard store share.
 *
 * Locks, in the order in which they may be taken:
 *   shard_file.lock          the contents of one store file: shared to read, exclusive to change
 *   store.table_lock         the table of files, references, the idle list
 *   store_device.names_lock  directories and markers being made
 *   shard_file.flush_lock    what of a file is written and not yet durable
 *   store_log.lock           the log of a device; taken with none but shard_file.lock held
 * No lock but the first and names_lock is held during I/O, and none during a flush of data, except
 * when a file is removed, has a side made again, or is found on two devices.
 */
#ifndef ROZO_STORE_INTERNAL_H
#define ROZO_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/log.h"
#include "storaged/store.h"
#include "storaged/store_format.h"
#include "storaged/store_io.h"

#define STORE_PATH_MAX 4096
#define STORE_SUPERSEDED ".superseded" /* behind the name of a side that was set aside */
#define STORE_UNFINISHED ".new" /* behind that of a lost side that is being made again */
#define STORE_OPEN_FILES_DEFAULT 1024
#define STORE_DEVICE_ERRORS_MAX 32 /* I/O errors until a device is given up */
#define STORE_FREED_BYTES_DEFAULT (8u << 20)

/* -------- rows as bits (store_mask.c) -------- */

/* A set of rows: a 64-bit mask for each (group, side). Not locked. */
struct store_mask {
	struct store_mask_entry *entries;
	size_t capacity; /* 0 or a power of two */
	size_t used;
	bool everything; /* memory was short: every row is to be taken as a member */
};

void store_mask_add(struct store_mask *mask, uint64_t group, unsigned int side, uint64_t rows);
void store_mask_remove(struct store_mask *mask, uint64_t group, unsigned int side, uint64_t rows);
uint64_t store_mask_get(const struct store_mask *mask, uint64_t group, unsigned int side);
void store_mask_free(struct store_mask *mask); /* leaves it empty */
/* Calls each for all non-empty masks, in no order. */
void store_mask_each(const struct store_mask *mask,
	void (*each)(void *context, uint64_t group, unsigned int side, uint64_t rows),
	void *context);

/* -------- devices (store_device.c, store_label.c) -------- */

struct store_names;
struct store_log;

struct store_device {
	char *path;
	char *id; /* from the label; NULL if it could not be read */
	int label_descriptor; /* holds the lock; -1 if not in service */
	atomic_bool failed; /* out of service */
	atomic_uint errors; /* I/O errors met */
	atomic_uint_least64_t unreadable[STORE_DEVICE_ERRORS_MAX]; /* rows; 0: no further ones */
	atomic_bool low; /* the reserve was in use when somebody last asked for room */
	pthread_mutex_t names_lock;
	struct store_names *names; /* directories known to be durable; guarded by names_lock */
	struct store_log *log; /* NULL: has none */
};

/*
 * Reads and checks a label, takes the device's lock. Returns 0, -ENOENT (no label), -EINVAL (not
 * ours), -EBUSY, or an error of the file system; text receives one line.
 */
int store_label_open(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, int *descriptor, char **id, char *text, size_t text_bytes);

/* Open and close all devices of a store; as store_open(). */
int store_devices_open(
	struct store *store, const struct store_options *options, char *error, size_t error_bytes);
void store_devices_close(struct store *store);

/* The path of one side of a store file, or of its directory, on a device. */
void store_side_path(const struct store_device *device, const store_file *file, unsigned int side,
	char path[STORE_PATH_MAX]);
void store_side_directory(
	const struct store_device *device, const store_file *file, char path[STORE_PATH_MAX]);

/* The name that a side has for a while, or instead, with something behind its path. Returns 0 or
 * -ENAMETOOLONG. */
int store_side_name_with(const char *path, const char *behind, char name[STORE_PATH_MAX]);

/* Removes what was left of making sides again (STORE_UNFINISHED). Returns 0, also if there was
 * nothing, or a negative errno. */
int store_sides_remove_unfinished(
	const struct store_io *io, const struct store_device *device, const store_file *file);

/*
 * Removes the sides that a device has of a file, and what was left of making them again. Returns 0,
 * also if there were none, or a negative errno.
 */
int store_sides_remove(
	const struct store_io *io, const struct store_device *device, const store_file *file);

/* Makes the directory of a store file, durably. Returns 0 or a negative errno. */
int store_device_make_directory(
	struct store *store, struct store_device *device, const store_file *file);

/* Counts an I/O error and gives the device up if there are too many. */
void store_device_error(struct store_device *device, int error);

/*
 * The same for a row that could not be read. It counts once, however many want it until it is
 * healed, which writes it again: one bad sector is not a bad disk. (Pages are not written without
 * being read, so who wants one finds the same again, and waits for it, as long as the disk stays.)
 */
void store_device_row_error(struct store_device *device, const store_file *file, unsigned int side,
	uint64_t block, int error);

/*
 * What new data leaves free on a device, so that what is there can be overwritten, truncated and
 * removed when it is full. Two parts:
 *
 *   STORE_RESERVE_PAGES: a group of which no block was overwritten yet has no page on side b. When
 *   the first one is, it gets one, for good: one page more for the page and 31 rows of 4 KiB that
 *   are there, 1/32. Rows by turns on one side and on the other are no longer one extent but one
 *   each, 12 bytes on ext4. 1/29 together. Codes with fewer rows to a page need more (8+4: up to
 *   1/9) if some block of each group is overwritten on a full device.
 *
 *   STORE_RESERVE_FLIGHT: a version is kept until the one that takes its place is decided here, 50
 *   ms after a stable write, at COMMIT after an unstable one. 1/64, as large devices hold for half
 *   a second of one fast link: 64 MiB at most. A quarter of it is left to what must never be
 *   refused: commits, truncation, removal, records of missed writes, and what the file system
 *   itself needs for them.
 */
#define STORE_RESERVE_PAGES(total_bytes) ((total_bytes) / 29)
#define STORE_RESERVE_FLIGHT(total_bytes) STORE_LESSER((total_bytes) / 64, UINT64_C(64) << 20)
#define STORE_LESSER(a, b) ((a) < (b) ? (a) : (b))

/*
 * 0, or -ENOSPC if bytes more would use the device's reserve; -EIO if it is out of service.
 * overwriting: the bytes take the place of others, which are given back once they are dropped;
 * all of the reserve but a quarter of STORE_RESERVE_FLIGHT may be used for that. device->low tells
 * from then on whether it is in use: what is dropped is given back at once.
 */
int store_device_room(
	struct store *store, struct store_device *device, uint64_t bytes, bool overwriting);

/* The device in service with most room, or NULL. */
struct store_device *store_device_choose(struct store *store);

/* True if a device is out of service: files that are not found may be there. */
bool store_device_any_failed(const struct store *store);

/* Makes or removes the marker of a file with missed writes, durably. */
int store_marker_make(struct store *store, struct store_device *device, const store_file *file);
int store_marker_remove(struct store *store, struct store_device *device, const store_file *file);

/* -------- the store and its files (store.c, store_file.c) -------- */

/* What has been found so far of what a damaged page 0 said, while a file is looked for. */
struct store_search {
	const struct store_device *device; /* where */
	uint64_t offset[STORE_SIDES]; /* of the next page to look at */
	uint32_t write_epoch;
	store_version refused;
	bool put_off; /* once, at least: the pages are many */
};

struct shard_file {
	struct store *store;
	store_file key;

	/* Guarded by store.table_lock. */
	struct shard_file *hash_next;
	struct shard_file *idle_previous, *idle_next;
	unsigned int references;
	bool closing; /* being closed: wait for table_changed and look again */
	bool kept; /* failed: never closed, not in the idle list */

	atomic_uint lock_wanted, lock_taken; /* calls that asked for it so far, and that got it */
	pthread_rwlock_t lock;
	/* Guarded by lock; descriptors and device change only with flush_lock held, too. */
	bool opened; /* looked for on the devices */
	bool exists;
	bool foreign; /* a side is another file's, or unknown: never written to */
	struct store_search search; /* until it is opened */
	/* Looked at without the lock, too: whether somebody goes on with a search that was put off,
	 * and how often one was. */
	atomic_bool searching;
	atomic_uint searches_put_off;
	bool blank; /* nothing was ever flushed into it: as good as empty, with no shape known */
	bool copied; /* another device has an older copy of it */
	bool made_here; /* by this run of the store: no crash can have torn it */
	struct store_device *device; /* valid if exists */
	int descriptors[STORE_SIDES]; /* -1: this side does not exist */
	bool lost[STORE_SIDES]; /* this side existed once and is gone; it has no descriptor */
	bool shape_known;
	struct store_shape shape;
	uint32_t write_epoch;
	uint32_t epoch_kept; /* as it is in page 0 */
	uint64_t epoch_change; /* the change that put it there, 0: it was there */
	uint32_t flags; /* of page 0 of side a */
	bool flags_lost; /* that page's header cannot be read */
	uint64_t size_bytes[STORE_SIDES];
	uint64_t groups_recorded[STORE_SIDES]; /* header.groups_durable as it is in the file */
	bool marked; /* the marker of missed writes is there */
	uint64_t missed_changes; /* how often bits were set */
	store_version refused; /* this version and older ones are not accepted any more */
	uint64_t refused_change; /* the change that put it into page 0 */
	uint64_t dropped_change; /* the last one that dropped a version */
	struct store_mask freed; /* rows of dropped versions, not yet punched */
	uint64_t freed_rows;
	atomic_uint told; /* damage of pages that was logged, see store_pages.c */
	struct store_mask suspect; /* rows that failed a check: reads of headers look again */

	pthread_mutex_t flush_lock;
	pthread_cond_t flush_done;
	/* Guarded by flush_lock. */
	uint64_t written; /* counts changes that have to become durable */
	uint64_t durable; /* so many of them are */
	bool flushing;
	bool failed; /* a flush failed: nothing is known any more */
	bool settled; /* flushed once since opening: what lies there is durable */
	/* What a flush of the file itself has to cover. What is in the log only still is dirty. */
	bool dirty[STORE_SIDES];
	bool dirty_names; /* a side was made and its directory not flushed yet */
	bool named; /* the names of all sides are known to be durable, or are in the log */
	bool side_made; /* since the last flush */
	/* What was written since the last flush, as the payload of a record of the log. */
	uint8_t *redo;
	uint32_t redo_bytes, redo_room;
	bool redo_short; /* that is not all: only a flush of the file makes it durable */
	uint64_t streamed_bytes; /* unstable, in long runs, since they were last written back */
	uint64_t size_written[STORE_SIDES];
	uint64_t size_durable[STORE_SIDES];
	struct store_mask unsynced; /* rows with changes that are not durable */
	struct store_mask syncing; /* those that the running flush will make durable */
};

struct store {
	const struct store_io *io;
	uint64_t boot;
	struct store_device *devices;
	size_t device_count;
	size_t open_files_max;
	uint64_t freed_bytes_max;

	pthread_mutex_t table_lock;
	pthread_cond_t table_changed;
	/* Guarded by table_lock. */
	struct shard_file **buckets;
	size_t bucket_count; /* a power of two */
	size_t file_count;
	struct shard_file *idle_first, *idle_last; /* not referenced, least recently used first */
};

/*
 * Takes a reference to a store file, which need not exist. Returns NULL if memory is short.
 * Files that are not referenced any more are closed when there are too many.
 */
struct shard_file *shard_file_get(struct store *store, const store_file *key);
void shard_file_put(struct shard_file *file);

/* For the table: a new file with one reference; freeing it. */
struct shard_file *shard_file_create(struct store *store, const store_file *key);
void shard_file_destroy(struct shard_file *file);

/*
 * Flushes and closes a file nobody references. Returns 0; -EIO: the flush failed, and the file is
 * to answer that; or another negative errno: it cannot be flushed now, and stays open; or what its
 * damaged page 0 said is being looked for (-EBUSY).
 */
int shard_file_close(struct shard_file *file);

/*
 * Gives back the rows noted in all open files (shard_file_punch()). Called with no lock. Returns
 * true if there were any.
 */
bool shard_files_punch(struct store *store);

/* Closes all files; none may be referenced. */
void shard_files_close(struct store *store);

/*
 * Lock a file and look for it on the devices if that has not been done. On success the lock is
 * held, otherwise not. Returns 0, -EIO (the file has failed, or its device has, or it may be on a
 * device that has), -EBUSY (its page 0 is damaged, and what that said is being looked for: each
 * call goes on with that, unless another one does) or another negative errno.
 */
int shard_file_lock_shared(struct shard_file *file);
int shard_file_lock_exclusive(struct shard_file *file);
void shard_file_unlock(struct shard_file *file);

/*
 * Between two parts of a call that takes the lock again and again, without it: waits until those
 * have had it who are waiting for it, 0.1 s at most. They would not get it in the moment between
 * the parts.
 */
void shard_file_give_way(struct shard_file *file);

/*
 * As shard_file_lock_exclusive(), but a file on a device that has failed, or that cannot be opened,
 * is one that is not found. Returns 0 or -EIO (the file has failed).
 */
int shard_file_lock_to_remove(struct shard_file *file);

/*
 * Makes the file with this shape, or its missing side: one that was lost as a whole or not at all,
 * with nothing but lost records. Called with the lock held exclusively. Returns 0 or a negative
 * errno.
 */
int shard_file_make(struct shard_file *file, const struct store_shape *shape);
int shard_file_make_side(struct shard_file *file, unsigned int side);

/*
 * For what is remembered in page 0 even if the store has no block of the file: makes the file if it
 * does not exist, and takes over the shape if nothing was ever flushed into it. Called with the
 * lock held exclusively. Returns 0, -EIO (the file may be on a device that failed, or is another's)
 * or another negative errno.
 */
int shard_file_make_header(struct shard_file *file, const struct store_shape *shape);

/*
 * Removes the file, durably, and its marker, with all older copies that other devices have of it;
 * one that was not found, by its names on all devices. Called with the lock held exclusively; the
 * file does not exist afterwards. Returns 0; -ENODEV (it was not found, durably so, but may be on a
 * device that is out of service); -EXDEV (it was removed, but such a device may have an older copy
 * of it); or -EIO.
 */
int shard_file_remove(struct shard_file *file);

/*
 * Notes that rows of a group, with their records, were written up to end bytes of the side, and
 * have to become durable. Called after the writes.
 */
void shard_file_written(
	struct shard_file *file, unsigned int side, uint64_t group, uint64_t rows, uint64_t end);

/*
 * Keeps what was written to a side for the log, or that the side was made (count 0). Everything
 * that shard_file_written() is to tell must have been kept, or shard_file_redo_short() be called.
 * The bytes are copied; parts is not changed.
 */
void shard_file_redo(struct shard_file *file, unsigned int side, uint64_t offset,
	const struct iovec *parts, int count);
void shard_file_redo_short(struct shard_file *file);

/* Nothing of the file has to become durable any more: it is about to be removed. */
void shard_file_forget_changes(struct shard_file *file);

/* Groups of a side that are known to be durable. */
uint64_t shard_file_groups_durable(struct shard_file *file, unsigned int side);

/* How many changes have been written: what shard_file_flush() is to wait for. */
uint64_t shard_file_changes(struct shard_file *file);

/*
 * Returns when the first `changes` changes are durable (UINT64_MAX: all made so far), and, if
 * settle is true, what was there when the file was opened. Calls that come together share a flush.
 * Called without file->lock or with it. Returns 0; -EIO: the file has failed; or another negative
 * errno: it cannot be flushed now, nothing is lost, and the next flush tries again.
 */
int shard_file_flush(struct shard_file *file, uint64_t changes, bool settle);

/*
 * Called after an unstable write of a run of blocks, bytes in all, without file->lock. What comes
 * in long runs is seldom replaced before it is flushed: it goes to the device while more of it
 * comes, so that the flush has little left to wait for. Promises nothing; if it fails, the file has
 * failed, and its next flush says so.
 */
void shard_file_streamed(struct shard_file *file, uint64_t bytes);

/* True if what lies in the file is durable, except the rows in `unsynced` and `syncing`. */
bool shard_file_settled(struct shard_file *file);

/* True if so many changes are durable, and what was there before them. */
bool shard_file_durable(struct shard_file *file, uint64_t changes);

/* The rows of a group with changes that are not durable. */
uint64_t shard_file_unsynced(struct shard_file *file, uint64_t group, unsigned int side);

/*
 * Space of versions that were dropped (store_space.c): notes that a row's bytes are not needed any
 * more, or are again; gives noted rows back to the file system, if there are many, the device is
 * low, or all is true. Called with the lock held exclusively, shard_file_punch() when no pages are
 * being changed.
 */
void shard_file_free_row(struct shard_file *file, uint64_t block, unsigned int side);
void shard_file_keep_row(struct shard_file *file, uint64_t block, unsigned int side);
void shard_file_punch(struct shard_file *file, bool all);

/* Groups that exist, on either side. */
uint64_t shard_file_groups(const struct shard_file *file);

/* "/path/of/side.a" for a log line; valid until the next call in this thread. */
const char *shard_file_name(const struct shard_file *file, unsigned int side);

/* -------- group pages in memory, for one operation (store_pages.c) -------- */

struct store_page {
	struct store_page *next; /* in its bucket */
	uint64_t group;
	unsigned int side;
	bool changed; /* to be written */
	uint64_t rows; /* whose records' changes have to become durable */
	bool durable; /* the header's change, too */
	uint8_t bytes[STORE_PAGE_BYTES];
};

#define STORE_PAGES_BUCKETS 128

struct store_pages {
	struct shard_file *file;
	size_t count;
	/* Most operations use one or two: only the buckets whose bits are set have been given a
	 * value. */
	uint64_t used[STORE_PAGES_BUCKETS / 64];
	struct store_page *buckets[STORE_PAGES_BUCKETS];
};

/*
 * Calls that may run over a whole file look at so many pages, then others get the lock: there may
 * be 100,000 pages in a segment of 64 GiB, each to be read from a disk.
 */
#define STORE_PAGES_LOCKED 64

void store_pages_begin(struct store_pages *pages, struct shard_file *file);

/*
 * A page of the file, read if it was not yet. What the file does not have reads as zeros, or as
 * lost records if it once had it. Returns 0, -ENOMEM, or an error of the device.
 */
int store_pages_get(
	struct store_pages *pages, uint64_t group, unsigned int side, struct store_page **page);

/*
 * Has page 0 of side a, which is there in every file, written with what the file has in its header,
 * durably with the next flush. Returns as store_pages_get().
 */
int store_pages_keep_header(struct store_pages *pages);

/*
 * Sees to it that page 0 says how much of each side is durable, if that has grown noticeably
 * (or at all, if exact). Errors are left to the next time.
 */
void store_pages_note_size(struct store_pages *pages, bool exact);

/* Both sides' records of a block. */
struct store_pair {
	struct store_page *pages[STORE_SIDES];
	struct store_record_fields records[STORE_SIDES];
	int newest; /* side of the newest GOOD record, -1: none */
	bool damaged; /* a record is DAMAGED */
};

int store_pages_pair(struct store_pages *pages, uint64_t block, struct store_pair *pair);

/*
 * Writes all changed pages, and forgets all. Called with the file's lock held exclusively.
 * Returns 0 or a negative errno.
 */
int store_pages_finish(struct store_pages *pages);

/* Forgets all pages, changed or not. */
void store_pages_abandon(struct store_pages *pages);

/* -------- the names of store files (store_scan.c) -------- */

/* Not 0 ends the walk. */
struct store_scan_calls {
	/* A store file; sides: bit 0: side a is there, bit 1: side b. */
	int (*file)(void *context, const store_file *key, unsigned int sides);
	/* A side that was set aside (STORE_SUPERSEDED). May be NULL. */
	int (*aside)(void *context, const char *path);
	/* What was left of making a side again (STORE_UNFINISHED). May be NULL. */
	int (*unfinished)(void *context, const char *path);
	/* Something that the store did not put there. May be NULL. */
	int (*stranger)(void *context, const char *path);
	/* A directory that cannot be listed. */
	int (*error)(void *context, const char *path, int error);
};

/* Walks through one device's store files, by names. Only device->path is used. Returns 0, what a
 * call returned, or -ENOMEM. */
int store_scan_device(const struct store_io *io, const struct store_device *device,
	const struct store_scan_calls *calls, void *context);

/* What the marker of missed writes with this name is for. Returns false if it is no marker. */
bool store_marker_parse(const char *name, store_file *file);

/* -------- parts of procedures -------- */

/* Runs of blocks that are decided, or not (store_commit_args), and how far they have been marked.
 */
struct store_decision {
	const store_decided *runs;
	uint32_t count;
	uint64_t first_block, end_block; /* only what is between them */
	size_t pages_max; /* stops when there are so many */
	bool discard; /* drops what is undecided */
	bool durable; /* the next flush has to cover the marks; it always covers what is dropped */
	uint32_t unless_missed; /* 0: no condition */
	uint32_t run; /* to go on with; count: all are done */
	uint64_t done; /* blocks of it */
};

/*
 * Marks runs of blocks as decided, or drops what is undecided. Called with the lock held
 * exclusively; the pages are changed in the set. Returns 0, also if it stopped since there are
 * many pages, or a negative errno.
 */
int store_decide(struct store_pages *pages, struct store_decision *decision);

/*
 * Reads one shard and checks it. pages holds the block's page; buffer has room for a whole shard.
 * Returns 0, -EBADMSG (the bytes fail their CRC or are cut short: logged), or -EIO (they cannot be
 * read). *zeros (may be NULL) tells whether all its bytes are zero.
 */
int store_shard_read(struct shard_file *file, uint64_t block, unsigned int side,
	struct store_page *page, const struct store_record_fields *record, uint8_t *buffer,
	bool *zeros);

static inline uint64_t store_row_bit(const struct store_shape *shape, uint64_t block)
{
	return UINT64_C(1) << (block % shape->rows);
}

#endif
