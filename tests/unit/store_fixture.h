/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the tests of the shard store share: a store in a temporary directory, writes whose bytes
 * follow from the version and the block, and reads that check them.
 */
#ifndef ROZO_TEST_STORE_FIXTURE_H
#define ROZO_TEST_STORE_FIXTURE_H

#include <CUnit/Basic.h>
#include <stdbool.h>
#include <stdint.h>

#include "storaged/store.h"
#include "storaged/store_format.h"
#include "storaged/store_io.h"

#define FIXTURE_CLUSTER "test-cluster"
#define FIXTURE_NODE 3
#define FIXTURE_DEVICES_MAX 4

struct fixture {
	char base[64]; /* temporary directory */
	char devices[FIXTURE_DEVICES_MAX][128];
	size_t device_count;
	size_t open_files_max;
	uint64_t freed_bytes_max;
	uint64_t log_bytes; /* [256 KiB] */
	uint32_t log_checkpoint_ms; /* [0: no thread] */
	const struct store_io *io;
	struct store *store;
};

/* Makes a directory with so many devices and opens the store. */
void fixture_begin(struct fixture *fixture, size_t devices);
/* Closes the store and removes everything. */
void fixture_end(struct fixture *fixture);
void fixture_reopen(struct fixture *fixture);
void fixture_open(struct fixture *fixture);
void fixture_close(struct fixture *fixture);

extern const store_geometry fixture_4_2; /* non-systematic, rows of 4 KiB */
#define FIXTURE_FILE ((store_file){.export_id = 1, .file_id = 0x1234, .segment = 2})
#define VERSION(number, who)                                                                       \
	((store_version){.generation = (UINT64_C(1) << 40) + (number), .writer = (who)})

/* A write; what is left out takes the value in brackets. */
struct put {
	store_file file; /* [FIXTURE_FILE] */
	store_geometry geometry; /* [fixture_4_2] */
	uint32_t shard;
	uint32_t epoch; /* [1] */
	store_version version;
	bool exact; /* STORE_BASE_DECIDED */
	bool undecided; /* STORE_BASE_UNDECIDED */
	store_version base;
	bool unstable;
	uint32_t missed;
	uint64_t first;
	uint32_t count; /* [1] */
	uint32_t length; /* user bytes in each block [whole] */
	bool empty; /* the blocks become empty */
	store_decided commit; /* count 0: none */
	uint32_t salt; /* other bytes under the same version */
};

/* Writes. Returns the status; *res (may be NULL) receives the answer. */
uint32_t fixture_put(struct fixture *fixture, const struct put *put, store_write_res *res);
#define PUT(fixture, ...) fixture_put((fixture), &(struct put){__VA_ARGS__}, NULL)

/* The bytes that a write of this version puts into a block's shard. */
void fixture_bytes(
	store_version version, uint64_t block, uint32_t salt, uint8_t *bytes, uint32_t count);

struct get {
	store_file file;
	store_geometry geometry;
	uint32_t shard;
	uint64_t block;
	store_version version; /* [newest] */
	bool headers_only;
};

/*
 * Reads one block. bytes (may be NULL) receives its shard, up to 128 KiB. Returns the status.
 */
uint32_t fixture_get(
	struct fixture *fixture, const struct get *get, store_read_block *block, uint8_t *bytes);

/* The state of a block here; *version (may be NULL) receives its version. Asserts success. */
uint32_t fixture_state(struct fixture *fixture, uint64_t block, store_version *version);

/* True if the block's newest version is this one, in this state, with the bytes of fixture_put().
 */
bool fixture_is(
	struct fixture *fixture, const struct get *get, store_version version, uint32_t state);
#define IS(fixture, number, version, state)                                                        \
	fixture_is((fixture), &(struct get){.block = (number)}, (version), (state))

void fixture_commit(struct fixture *fixture, store_version version, uint64_t first, uint32_t count);
void fixture_discard(
	struct fixture *fixture, store_version version, uint64_t first, uint32_t count);
uint32_t fixture_sync(struct fixture *fixture, store_file file);

/* The path of a side of FIXTURE_FILE on the first device that has it, or would. */
void fixture_side(struct fixture *fixture, unsigned int side, char *path, size_t path_bytes);
void fixture_side_of(
	struct fixture *fixture, store_file file, unsigned int side, char *path, size_t path_bytes);

/* Flips one bit of a file. */
void fixture_flip(const char *path, uint64_t offset, unsigned int bit);

/* Bytes that the file system has allocated to all files below the fixture. */
uint64_t fixture_allocated(struct fixture *fixture);

/* Lines logged so far that contain the text. Logging goes to memory while a fixture lives. */
unsigned int fixture_logged(const char *text);
void fixture_forget_log(void);

/* A pseudo-random number; the same sequence after each fixture_seed(). */
uint64_t fixture_random(void);
void fixture_seed(uint64_t seed);

#endif
