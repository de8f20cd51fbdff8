// SPDX-License-Identifier: LGPL-3.0-or-later
//
// file_load: the load of the client tests and of bench/nfs-throughput, one process that starts no
// others (a fork costs 50 ms in user-mode Linux, more than most of what is measured).
//
//   file_load write FILE MIB [SEED]       write MIB MiB in 1 MiB writes, fsync, close
//   file_load read FILE MIB [SEED]        read to the end, 1 MiB at a time; every byte is compared
//   file_load late-fsync FILE MIB GO      write, wait until the servers have the bytes, make
//   GO.ready,
//                                         wait for GO, only then fsync and close
//   file_load small-write DIR COUNT BYTES for each file: create, write, close
//   file_load small-read DIR COUNT BYTES  for each file: open, read, compare, close
//   file_load copy FROM TO LOG            copy a tree file by file; a file's name goes to LOG (one
//                                         line, flushed) only after its fsync has returned. Not
//                                         after close only: Linux writes a page again whose data
//                                         server died, but close() does not wait for that
//   file_load compare FROM TO LOG         every file named in LOG is the same in both trees
//
// Prints the seconds that the named work took (without making or comparing the bytes, which is
// small, except for read). Status 1 and a message at the first difference or error.
//
// Contents: 8-byte words that depend on seed and offset, so that a page in the wrong place, of the
// wrong file or left as zeros is seen.

#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB 1048576

static char buffer[MIB], expected[MIB];

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// The word at an offset: a multiplicative mix, cheap and never the same for two offsets of a file.
static void fill(char *bytes, size_t length, uint64_t seed, uint64_t offset)
{
	for (size_t i = 0; i < length; i += 8) {
		uint64_t word = (seed * 0x9e3779b97f4a7c15u) ^ ((offset + i) * 0xbf58476d1ce4e5b9u);
		word ^= word >> 29;
		memcpy(bytes + i, &word, length - i < 8 ? length - i : 8);
	}
}

static void write_all(int fd, const char *bytes, size_t length, const char *name)
{
	for (size_t done = 0; done < length;) {
		ssize_t got = write(fd, bytes + done, length - done);
		if (got < 0)
			err(1, "write %s at %zu of this piece", name, done);
		done += (size_t)got;
	}
}

static size_t read_all(int fd, char *bytes, size_t length, const char *name)
{
	size_t done = 0;
	while (done < length) {
		ssize_t got = read(fd, bytes + done, length - done);
		if (got < 0)
			err(1, "read %s", name);
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return done;
}

static void compare(
	const char *name, uint64_t offset, const char *found, const char *wanted, size_t length)
{
	if (memcmp(found, wanted, length) == 0)
		return;
	size_t i = 0;
	while (found[i] == wanted[i])
		i++;
	errx(1, "%s: wrong byte at offset %llu: 0x%02x instead of 0x%02x", name,
		(unsigned long long)(offset + i), (unsigned char)found[i],
		(unsigned char)wanted[i]);
}

static void write_file(const char *name, uint64_t pieces, uint64_t seed)
{
	double took_s = -now_s();
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		err(1, "create %s", name);
	took_s += now_s();
	for (uint64_t i = 0; i < pieces; i++) {
		fill(buffer, MIB, seed, i * MIB);
		took_s -= now_s();
		write_all(fd, buffer, MIB, name);
		took_s += now_s();
	}
	took_s -= now_s();
	if (fsync(fd) != 0)
		err(1, "fsync %s", name);
	if (close(fd) != 0)
		err(1, "close %s", name);
	printf("%.3f\n", took_s + now_s());
}

// The time between a WRITE that a server has answered and the COMMIT and LAYOUTCOMMIT after it,
// held open as long as the test needs to do something to the servers.
static void late_fsync(const char *name, uint64_t pieces, const char *go)
{
	char ready[4096];
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		err(1, "create %s", name);
	for (uint64_t i = 0; i < pieces; i++) {
		fill(buffer, MIB, 1, i * MIB);
		write_all(fd, buffer, MIB, name);
	}
	if (sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) != 0)
		err(1, "sync_file_range %s", name);
	snprintf(ready, sizeof(ready), "%s.ready", go);
	int mark = open(ready, O_WRONLY | O_CREAT, 0644);
	if (mark < 0)
		err(1, "create %s", ready);
	close(mark);
	while (access(go, F_OK) != 0)
		usleep(50000);
	double took_s = -now_s();
	if (fsync(fd) != 0)
		err(1, "fsync %s", name);
	if (close(fd) != 0)
		err(1, "close %s", name);
	printf("%.3f\n", took_s + now_s());
}

static void read_file(const char *name, uint64_t pieces, uint64_t seed)
{
	double took_s = -now_s();
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		err(1, "open %s", name);
	took_s += now_s();
	for (uint64_t i = 0; i < pieces; i++) {
		took_s -= now_s();
		size_t got = read_all(fd, buffer, MIB, name);
		took_s += now_s();
		if (got != MIB)
			errx(1, "%s ends at %llu instead of %llu", name,
				(unsigned long long)(i * MIB + got),
				(unsigned long long)pieces * MIB);
		fill(expected, MIB, seed, i * MIB);
		compare(name, i * MIB, buffer, expected, MIB);
	}
	if (read_all(fd, buffer, 1, name) != 0)
		errx(1, "%s is longer than %llu MiB", name, (unsigned long long)pieces);
	close(fd);
	printf("%.3f\n", took_s);
}

static void small_files(const char *directory, unsigned long count, size_t bytes, int writing)
{
	char name[4096];
	double took_s = 0;
	if (bytes > MIB)
		errx(2, "small files have at most %d bytes", MIB);
	for (unsigned long i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s/f%06lu", directory, i);
		fill(expected, bytes, i + 1, 0);
		took_s -= now_s();
		int fd = writing ? open(name, O_WRONLY | O_CREAT | O_EXCL, 0644)
				 : open(name, O_RDONLY);
		if (fd < 0)
			err(1, "%s %s", writing ? "create" : "open", name);
		if (writing)
			write_all(fd, expected, bytes, name);
		else if (read_all(fd, buffer, bytes + (bytes < MIB), name) != bytes)
			errx(1, "%s has not %zu bytes", name, bytes);
		if (close(fd) != 0)
			err(1, "close %s", name);
		took_s += now_s();
		if (!writing)
			compare(name, 0, buffer, expected, bytes);
	}
	printf("%.3f\n", took_s);
}

// nftw() takes no argument for its function.
static const char *copy_from, *copy_to;
static int copy_log;

static int copy_one(const char *path, const struct stat *stat, int type, struct FTW *walk)
{
	(void)walk;
	const char *relative = path + strlen(copy_from);
	char target[4096], link[4096];
	snprintf(target, sizeof(target), "%s%s", copy_to, relative);
	if (type == FTW_D) {
		if (mkdir(target, 0755) != 0 && errno != EEXIST)
			err(1, "mkdir %s", target);
		return 0;
	}
	if (type == FTW_SL) {
		ssize_t length = readlink(path, link, sizeof(link) - 1);
		if (length < 0)
			err(1, "readlink %s", path);
		link[length] = 0;
		if (symlink(link, target) != 0 && errno != EEXIST)
			err(1, "symlink %s", target);
		return 0;
	}
	if (type != FTW_F || !S_ISREG(stat->st_mode))
		errx(1, "%s is neither file, directory nor link", path);

	int in = open(path, O_RDONLY);
	if (in < 0)
		err(1, "open %s", path);
	int out = open(target, O_WRONLY | O_CREAT | O_TRUNC, stat->st_mode & 0777);
	if (out < 0)
		err(1, "create %s", target);
	for (size_t got; (got = read_all(in, buffer, MIB, path)) > 0;)
		write_all(out, buffer, got, target);
	close(in);
	if (fsync(out) != 0)
		err(1, "fsync %s", target);
	if (close(out) != 0)
		err(1, "close %s", target);
	if (dprintf(copy_log, "%s\n", relative) < 0 || fsync(copy_log) != 0)
		err(1, "log of copied files");
	return 0;
}

static void copy_tree(const char *from, const char *to, const char *log)
{
	copy_from = from;
	copy_to = to;
	copy_log = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
	if (copy_log < 0)
		err(1, "create %s", log);
	double took_s = -now_s();
	if (nftw(from, copy_one, 32, FTW_PHYS) != 0)
		err(1, "walk through %s", from);
	printf("%.3f\n", took_s + now_s());
}

static void compare_files(const char *name, const char *other)
{
	int first = open(name, O_RDONLY), second = open(other, O_RDONLY);
	if (first < 0)
		err(1, "open %s", name);
	if (second < 0)
		err(1, "open %s", other);
	for (uint64_t offset = 0;; offset += MIB) {
		size_t wanted = read_all(first, expected, MIB, name),
		       found = read_all(second, buffer, MIB, other);
		compare(other, offset, buffer, expected, wanted < found ? wanted : found);
		if (wanted != found)
			errx(1, "%s has another length than %s: %llu instead of %llu", other, name,
				(unsigned long long)(offset + found),
				(unsigned long long)(offset + wanted));
		if (wanted < MIB)
			break;
	}
	close(first);
	close(second);
}

static void compare_logged(const char *from, const char *to, const char *log)
{
	char *line = NULL, name[4096], other[4096];
	size_t room = 0;
	unsigned long count = 0;
	FILE *names = fopen(log, "r");
	if (names == NULL)
		err(1, "open %s", log);
	for (ssize_t length; (length = getline(&line, &room, names)) > 0;) {
		if (line[length - 1] != '\n')
			break; // the copy was cut off while it wrote this name
		line[length - 1] = 0;
		snprintf(name, sizeof(name), "%s%s", from, line);
		snprintf(other, sizeof(other), "%s%s", to, line);
		compare_files(name, other);
		count++;
	}
	free(line);
	fclose(names);
	printf("%lu\n", count);
}

static uint64_t number(const char *text)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end != 0)
		errx(2, "'%s' is not a number", text);
	return value;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (strcmp(what, "write") == 0 && argc >= 4)
		write_file(argv[2], number(argv[3]), argc > 4 ? number(argv[4]) : 1);
	else if (strcmp(what, "read") == 0 && argc >= 4)
		read_file(argv[2], number(argv[3]), argc > 4 ? number(argv[4]) : 1);
	else if (strcmp(what, "late-fsync") == 0 && argc == 5)
		late_fsync(argv[2], number(argv[3]), argv[4]);
	else if (strcmp(what, "small-write") == 0 && argc == 5)
		small_files(argv[2], number(argv[3]), number(argv[4]), 1);
	else if (strcmp(what, "small-read") == 0 && argc == 5)
		small_files(argv[2], number(argv[3]), number(argv[4]), 0);
	else if (strcmp(what, "copy") == 0 && argc == 5)
		copy_tree(argv[2], argv[3], argv[4]);
	else if (strcmp(what, "compare") == 0 && argc == 5)
		compare_logged(argv[2], argv[3], argv[4]);
	else
		errx(2, "usage: file_load "
			"write|read|late-fsync|small-write|small-read|copy|compare ... (see "
			"file_load.c)");
	return 0;
}
