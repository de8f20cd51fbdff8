/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the tests of exportd share: a cluster's configuration made by hand, an exportd on a
 * directory of its own, a clock that stands still until told, and operations by one call each.
 */
#ifndef ROZO_TEST_EXPORTD_FIXTURE_H
#define ROZO_TEST_EXPORTD_FIXTURE_H

#include <stdint.h>

#include <CUnit/CUnit.h>

#include "config/config.h"
#include "exportd/exportd.h"
#include "rpc/meta.h"

#define FIXTURE_EXPORT 1
#define FIXTURE_MAP_BYTES (1ull << 30)
#define FIXTURE_SILENCE_MS 3000

struct fixture {
	char directory[64];
	struct config config;
	struct config_export export;
	struct exportd *exportd;
};

/*
 * node_count nodes with ids from 1, each in a failure domain of its own, and one export of 4+2.
 * Makes and opens the database, at monotonic time 1 s. Ends the test program if that fails.
 */
void fixture_open(struct fixture *fixture, uint32_t node_count);

/* Opens the same database again, as after a restart. */
void fixture_reopen(struct fixture *fixture);

/* What main() of a test program does with its suites. Returns the exit status. */
int fixture_run(CU_SuiteInfo *suites);

/* Checks the metadata, closes, and removes the directory. Returns the number of faults. */
uint64_t fixture_close(struct fixture *fixture);

uint64_t fixture_faults(struct fixture *fixture);

/* Sets the clocks; they stand still from the first call on. */
void fixture_time_ms(uint64_t monotonic_ms);

/* A heartbeat of one device. Returns the status. */
int fixture_heartbeat(struct fixture *fixture, uint32_t node, uint64_t boot, uint64_t free_bytes);

/* A heartbeat of every node, boot 1, all with the same room. */
void fixture_all_up(struct fixture *fixture);

/* Flips a bit of a value in the database, as a fault of the disk would; twice: mends it. */
void fixture_flip(struct fixture *fixture, struct record_key key);

/* Sets the write epoch of a regular file. */
void fixture_set_write_epoch(struct fixture *fixture, uint64_t file_id, uint32_t write_epoch);

/* -------- operations; each returns the status -------- */

int do_create(struct fixture *fixture, uint64_t directory_id, const char *name, uint32_t type,
	uint64_t *file_id);
int do_lookup(struct fixture *fixture, uint64_t directory_id, const char *name, uint64_t *file_id);
struct meta_attributes attributes_of(struct fixture *fixture, uint64_t file_id);
int do_getattr(struct fixture *fixture, uint64_t file_id, struct meta_attributes *attributes);
int do_link(struct fixture *fixture, uint64_t file_id, uint64_t directory_id, const char *name);
int do_unlink(struct fixture *fixture, uint64_t directory_id, const char *name, uint64_t *links);
int do_rmdir(struct fixture *fixture, uint64_t directory_id, const char *name);
int do_rename(struct fixture *fixture, uint64_t from_id, const char *from, uint64_t to_id,
	const char *to, uint64_t *replaced_id);
int do_set_size(
	struct fixture *fixture, uint64_t file_id, uint64_t size, struct meta_setattr_res *result);
int do_truncated(struct fixture *fixture, uint64_t file_id, uint32_t write_epoch);
int do_written(struct fixture *fixture, uint64_t file_id, uint64_t size, uint32_t durable_before,
	struct meta_attributes *attributes);

/* *placement has no list of nodes after it; nodes: room for META_SHARDS_MAX, or NULL. */
int do_placement(struct fixture *fixture, uint64_t file_id, uint32_t segment, uint32_t allocate,
	struct meta_placement_res *placement, uint32_t *nodes);

/* gateways: room for 4; avoid: a node, or 0. */
int do_layout(struct fixture *fixture, uint64_t file_id, uint32_t iomode, uint32_t writers,
	uint64_t client, uint32_t avoid, uint32_t *epoch, uint32_t *gateways, uint32_t *count);

/* How many transactions have been committed. */
uint64_t commits_of(struct fixture *fixture);

#endif
