/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Records what a program and its libraries do to the files of one directory, and makes the
 * directories that power failures could have left.
 *
 * Takes the place of the C library's functions that write, flush, rename and so on, so that LMDB's
 * are seen as well. They do their work, but flushes only note that they were asked for. A power
 * failure after any of the recorded events keeps what was flushed before, and of the rest, for each
 * page or sector by itself, what it was after any of the later writes; the same for the length of a
 * file. Changes of names are kept in any combination.
 *
 * Not seen: writes through a mapping, and other functions than these.
 */
#ifndef ROZO_TEST_POWER_IO_H
#define ROZO_TEST_POWER_IO_H

#include <stdint.h>

/* Forgets what was recorded, and begins: what is in the directory now is on the disk. */
void power_io_start(const char *directory);

/* Goes on without recording. */
void power_io_stop(void);

/* How many events there have been. May be called from any thread. */
uint64_t power_io_now(void);

/*
 * Makes in an existing, empty directory what a power failure after the first `events` leaves. The
 * choices follow from the seed; in some of them the first two pages of all files and the other
 * pages have opposite fates.
 */
void power_io_image(uint64_t events, uint64_t seed, const char *directory);

/* Lets flushes of a file take so long, so that others write meanwhile. Before power_io_start(). */
void power_io_slow(const char *name, unsigned int us);

enum power_io_call {
	POWER_IO_WRITE,
	POWER_IO_FLUSH,
	POWER_IO_ALLOCATE,
	POWER_IO_CALLS,
};

/*
 * Lets calls of one kind fail, from the number-th on (1: the next), for files of this name ("": of
 * any), anywhere: `count` of them, 0 for all. In writes what lies before `from_offset` succeeds,
 * also as a part of a write. What a flush that fails was for can be read, but never comes to the
 * disk.
 */
void power_io_fail(enum power_io_call call, const char *name, unsigned int number,
	unsigned int count, uint64_t from_offset, int error);

/* No more failures. Returns how many there were. */
unsigned int power_io_fail_no_more(void);

#endif
