/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * File systems in memory, one for each machine of a test, that keep after power loss only what was
 * flushed, and any part of what was not.
 *
 * Paths begin with the machine's number: "/3/device/...". Each file has two images: what the
 * operating system shows, and what is on the medium. sync_data() copies the first to the second,
 * sync_directory() does so for the names in a directory, sync_file_system() for everything but
 * logs. When the power fails, each page written since is on the medium or not, in any combination,
 * as are the file's size and each change of a name (a rename is one change). The choices follow
 * from the seed.
 *
 * All functions may be called from any thread; one lock serialises everything.
 */
#ifndef ROZO_TEST_VOLATILE_IO_H
#define ROZO_TEST_VOLATILE_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "storaged/store_io.h"

#define VOLATILE_MACHINES 16

extern const struct store_io volatile_io;

/* Forgets all files; all machines are on. No file may be open. */
void volatile_reset(uint64_t seed);

/*
 * Stops a machine: with power loss, or as if only its processes had been killed (what the operating
 * system has is kept). Until volatile_on() everything on it fails with EIO and changes nothing,
 * also through descriptors that were opened before; they stay so for ever.
 */
void volatile_off(unsigned int machine, bool power_loss);

/* The same in the middle of the work, at the number-th operation from now that changes or flushes.
 */
void volatile_off_after(unsigned int machine, unsigned int number, bool power_loss);

void volatile_on(unsigned int machine);
bool volatile_is_on(unsigned int machine);

/*
 * What a flush that fails leaves of a file: each page written since the last one is on the medium,
 * or is lost at once, and a later flush does not find it. The size stays.
 */
void volatile_fail_flush(int descriptor);

/* Flaws to test the tests with. What is forgotten does nothing and says that it did. */
enum volatile_flaw {
	VOLATILE_SOUND,
	VOLATILE_FORGET_FLUSHES, /* sync_data(), sync_file_system() */
	VOLATILE_FORGET_LOG_FLUSHES, /* sync_data() of a log: answers come before its flush */
	VOLATILE_FORGET_FILE_FLUSHES, /* sync_data() of everything else */
	VOLATILE_FORGET_CHECKPOINTS, /* sync_file_system(): a log's tail moves too early */
	VOLATILE_FORGET_CLEAN, /* records in a log that say that a file was flushed by itself */
	VOLATILE_FORGET_REMOVALS, /* records in a log that say that a file was removed */
};
void volatile_set_flaw(enum volatile_flaw flaw);

/* The first of them. */
void volatile_forget_flushes(bool forget);

#endif
