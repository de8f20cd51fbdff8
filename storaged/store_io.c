/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The operating system behind store_io.h, and loops that finish short reads and writes.
 *
 * Takes no locks, keeps no state.
 */
#include "storaged/store_io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int posix_open(const char *path, int flags, mode_t mode)
{
	int descriptor;

	do
		descriptor = open(path, flags | O_CLOEXEC, mode);
	while (descriptor < 0 && errno == EINTR);
	return descriptor < 0 ? -errno : descriptor;
}

static void posix_close(int descriptor)
{
	close(descriptor);
}

static int posix_lock(int descriptor)
{
	return flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno;
}

static ssize_t posix_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	ssize_t bytes;

	do
		bytes = preadv(descriptor, parts, count, (off_t)offset);
	while (bytes < 0 && errno == EINTR);
	return bytes < 0 ? -errno : bytes;
}

static ssize_t posix_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	ssize_t bytes;

	do
		bytes = pwritev(descriptor, parts, count, (off_t)offset);
	while (bytes < 0 && errno == EINTR);
	return bytes < 0 ? -errno : bytes;
}

static int posix_sync_data(int descriptor)
{
	/* Not repeated on EINTR or anything else: a second try may succeed without the bytes. */
	return fdatasync(descriptor) == 0 ? 0 : -errno;
}

static int posix_write_back(int descriptor)
{
	/* Errors of what it begins are kept for fdatasync(); those of beginning are told here. */
	if (sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE) == 0 || errno == ENOSYS)
		return 0;
	return -errno;
}

static int posix_sync_file_system(int descriptor)
{
	/* Tells of errors since Linux 5.8. */
	return syncfs(descriptor) == 0 ? 0 : -errno;
}

static void posix_drop_cache(int descriptor)
{
	posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
}

static void posix_forget_range(int descriptor, uint64_t offset, uint64_t bytes)
{
	/* What is not written back yet stays. */
	posix_fadvise(descriptor, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static int posix_sync_directory(const char *path)
{
	int descriptor = posix_open(path, O_RDONLY | O_DIRECTORY, 0);
	int error;

	if (descriptor < 0)
		return descriptor;
	error = fsync(descriptor) == 0 ? 0 : -errno;
	close(descriptor);
	/* That is what not being able to open it is told as. */
	return error == -ENOMEM ? -EIO : error;
}

static int posix_size(int descriptor, uint64_t *bytes)
{
	struct stat status;

	if (fstat(descriptor, &status) != 0)
		return -errno;
	*bytes = (uint64_t)status.st_size;
	return 0;
}

static int posix_punch(int descriptor, uint64_t offset, uint64_t bytes)
{
	int result;

	do
		result = fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)offset, (off_t)bytes);
	while (result != 0 && errno == EINTR);
	if (result == 0)
		return 0;
	return errno == ENOSYS ? -EOPNOTSUPP : -errno;
}

/* A file system that knows no holes calls all of a file data: nothing is to be concluded then. */
static bool posix_has_data(int descriptor, uint64_t offset, uint64_t bytes)
{
	/* cppcheck-suppress invalidFunctionArg ; SEEK_DATA is Linux's */
	off_t data = lseek(descriptor, (off_t)offset, SEEK_DATA);

	return data >= 0 && (uint64_t)data < offset + bytes;
}

static int posix_make_directory(const char *path, mode_t mode)
{
	return mkdir(path, mode) == 0 ? 0 : -errno;
}

static void posix_spread_directory(const char *path)
{
	int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int flags;

	/* ext4 only; others refuse, which is as good. */
	if (descriptor < 0)
		return;
	if (ioctl(descriptor, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_TOPDIR_FL;
		(void)ioctl(descriptor, FS_IOC_SETFLAGS, &flags);
	}
	close(descriptor);
}

static int posix_rename(const char *from, const char *to)
{
	return rename(from, to) == 0 ? 0 : -errno;
}

static int posix_remove(const char *path)
{
	return unlink(path) == 0 ? 0 : -errno;
}

static int posix_list(const char *path, store_io_name each, void *context)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	int result = 0;

	if (directory == NULL)
		return -errno;
	while (result == 0) {
		errno = 0;
		entry = readdir(directory);
		if (entry == NULL) {
			result = -errno;
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			result = each(context, entry->d_name);
	}
	closedir(directory);
	return result;
}

static int posix_space(const char *path, struct store_space *space)
{
	struct statvfs status;

	if (statvfs(path, &status) != 0)
		return -errno;
	space->total_bytes = (uint64_t)status.f_blocks * status.f_frsize;
	space->free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
	return 0;
}

const struct store_io store_io_posix = {
	.open = posix_open,
	.close = posix_close,
	.lock = posix_lock,
	.read = posix_read,
	.write = posix_write,
	.sync_data = posix_sync_data,
	.write_back = posix_write_back,
	.sync_file_system = posix_sync_file_system,
	.drop_cache = posix_drop_cache,
	.forget_range = posix_forget_range,
	.sync_directory = posix_sync_directory,
	.size = posix_size,
	.has_data = posix_has_data,
	.punch = posix_punch,
	.make_directory = posix_make_directory,
	.spread_directory = posix_spread_directory,
	.rename = posix_rename,
	.remove = posix_remove,
	.list = posix_list,
	.space = posix_space,
};

/* Takes `bytes` off the front of the parts. */
static void use_up(struct iovec **parts, int *count, size_t bytes)
{
	while (*count > 0 && bytes >= (*parts)->iov_len) {
		bytes -= (*parts)->iov_len;
		(*parts)++;
		(*count)--;
	}
	if (*count > 0) {
		(*parts)->iov_base = (char *)(*parts)->iov_base + bytes;
		(*parts)->iov_len -= bytes;
	}
}

ssize_t store_io_read_all(
	const struct store_io *io, int descriptor, struct iovec *parts, int count, uint64_t offset)
{
	ssize_t total = 0;

	use_up(&parts, &count, 0);
	while (count > 0) {
		ssize_t bytes = io->read(descriptor, parts, count < IOV_MAX ? count : IOV_MAX,
			offset + (uint64_t)total);

		if (bytes < 0)
			return bytes;
		if (bytes == 0)
			break;
		total += bytes;
		use_up(&parts, &count, (size_t)bytes);
	}
	return total;
}

int store_io_write_all(
	const struct store_io *io, int descriptor, struct iovec *parts, int count, uint64_t offset)
{
	use_up(&parts, &count, 0);
	while (count > 0) {
		ssize_t bytes =
			io->write(descriptor, parts, count < IOV_MAX ? count : IOV_MAX, offset);

		if (bytes < 0)
			return (int)bytes;
		if (bytes == 0)
			return -EIO;
		offset += (uint64_t)bytes;
		use_up(&parts, &count, (size_t)bytes);
	}
	return 0;
}
