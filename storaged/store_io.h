/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Everything the shard store asks of the file systems under it, as one table of functions.
 *
 * The store calls nothing else for its devices, so that a test can put a layer in between that
 * forgets what was not flushed, fails, or is full. All functions may be called from any thread and
 * return 0 (or what they say) or a negative errno.
 */
#ifndef ROZO_STORE_IO_H
#define ROZO_STORE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct store_space {
	uint64_t total_bytes;
	uint64_t free_bytes; /* that an unprivileged process could still use */
};

/* Called for each name in a directory but "." and ".."; not 0 stops the listing. */
typedef int (*store_io_name)(void *context, const char *name);

struct store_io {
	/* flags and mode as open(2); O_CLOEXEC is added. Returns a descriptor. */
	int (*open)(const char *path, int flags, mode_t mode);
	void (*close)(int descriptor);
	/* An exclusive lock that ends with the descriptor; -EWOULDBLOCK: somebody else has it. */
	int (*lock)(int descriptor);
	/* As preadv(2) and pwritev(2), possibly short. */
	ssize_t (*read)(int descriptor, const struct iovec *parts, int count, uint64_t offset);
	ssize_t (*write)(int descriptor, const struct iovec *parts, int count, uint64_t offset);
	/* As fdatasync(2): the bytes and what is needed to find them again. */
	int (*sync_data)(int descriptor);
	/*
	 * Has what is written go to the device from now on, so that sync_data() finds less to do.
	 * Does not wait for it. An error means what one of sync_data() does: bytes may be lost, and
	 * no later call may tell. May be NULL.
	 */
	int (*write_back)(int descriptor);
	/*
	 * As syncfs(2): everything written on the descriptor's file system and all names, with the
	 * errors met since the descriptor was opened. NULL: cannot be done; no log is
	 * made then, and a device that has one is not used.
	 */
	int (*sync_file_system)(int descriptor);
	/* Forgets what of the file is only in memory, as far as it can. */
	void (*drop_cache)(int descriptor);
	/* Advice that what is on the device need not be kept in memory. May be NULL. */
	void (*forget_range)(int descriptor, uint64_t offset, uint64_t bytes);
	/*
	 * As fsync(2) of the directory: names made and removed in it. -EMFILE, -ENFILE and -ENOMEM:
	 * it could not be opened for want of descriptors or memory, so nothing was begun and
	 * nothing is lost; it may be tried again.
	 */
	int (*sync_directory)(const char *path);
	int (*size)(int descriptor, uint64_t *bytes);
	/*
	 * True if the file system has stored something in the range, be it zeros; false: nothing,
	 * or it cannot tell. May be NULL.
	 */
	bool (*has_data)(int descriptor, uint64_t offset, uint64_t bytes);
	/* Frees a range, which reads as zeros afterwards. -EOPNOTSUPP: not known to this one. */
	int (*punch)(int descriptor, uint64_t offset, uint64_t bytes);
	int (*make_directory)(const char *path, mode_t mode);
	/* Tells the file system that what is in the directory's subdirectories has nothing to do
	 * with each other and is best spread out. A hint, without a result; NULL: not known. */
	void (*spread_directory)(const char *path);
	int (*rename)(const char *from, const char *to);
	int (*remove)(const char *path);
	int (*list)(const char *path, store_io_name each, void *context);
	int (*space)(const char *path, struct store_space *space);
};

/* The operating system's file systems. */
extern const struct store_io store_io_posix;

/*
 * Reads until all parts are full or the file ends. The parts are used up. Returns bytes read.
 */
ssize_t store_io_read_all(
	const struct store_io *io, int descriptor, struct iovec *parts, int count, uint64_t offset);

/* Writes all parts, which are used up. Returns 0, or a negative errno (part may be written). */
int store_io_write_all(
	const struct store_io *io, int descriptor, struct iovec *parts, int count, uint64_t offset);

#endif
