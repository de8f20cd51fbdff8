/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The log of a device: what it saves, what is done with what a process left in it, and what happens
 * when it is damaged, full, or cannot be flushed. Crashes at every step of it are in
 * test_store_power.c and test_store_crash.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "rpc/crc32c.h"
#include "storaged/store_log.h"
#include "store_faulty_io.h"
#include "store_fixture.h"

static struct fixture fixture;

static void begin(void)
{
	faulty_reset();
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	fixture.io = &faulty_io;
	fixture_open(&fixture);
}

static void end(void)
{
	faulty_sync_after(-1);
	faulty_file_system(false);
	fixture_end(&fixture);
	faulty_reset();
}

/* The process dies: nothing more is written or flushed. */
static void die(void)
{
	faulty_dead(true);
	fixture_close(&fixture);
	faulty_dead(false);
}

static store_file numbered(uint64_t id)
{
	return (store_file){.export_id = 1, .file_id = id};
}

static void log_path(char path[256])
{
	snprintf(path, 256, "%s/" STORE_LOG_NAME, fixture.devices[0]);
}

/* Opening the store. Returns what store_open() does; error has its line. */
static int try_to_open(char *error, size_t error_bytes)
{
	const char *devices[] = {fixture.devices[0]};
	struct store_options options = {
		.cluster_id = FIXTURE_CLUSTER,
		.node_id = FIXTURE_NODE,
		.devices = devices,
		.device_count = 1,
		.log_bytes = fixture.log_bytes,
		.io = fixture.io,
	};

	return store_open(&fixture.store, &options, error, error_bytes);
}

static bool has(uint64_t id, uint64_t number)
{
	return fixture_is(
		&fixture, &(struct get){.file = numbered(id)}, VERSION(number, 1), STORE_FINALIZED);
}

static bool is_gone(uint64_t id)
{
	store_read_block told;

	return fixture_get(&fixture, &(struct get){.file = numbered(id)}, &told, NULL) == 0 &&
	       told.state == STORE_EMPTY;
}

/* Takes the files away behind the store's back, so that all they have comes from the log. */
static void lose_files(void)
{
	char command[512];

	snprintf(command, sizeof(command), "find %s/shards -type f -delete", fixture.devices[0]);
	CU_ASSERT_EQUAL(system(command), 0);
}

/* Where in the log the record with a number begins. */
static uint64_t find_record(uint64_t sequence)
{
	struct store_log_record record;
	uint64_t offset = STORE_LOG_RING;
	char path[256];
	int file;

	log_path(path);
	file = open(path, O_RDONLY);
	while (pread(file, &record, sizeof(record), (off_t)offset) == sizeof(record) &&
		(record.magic != STORE_LOG_RECORD_MAGIC || record.sequence != sequence))
		offset += STORE_LOG_UNIT;
	close(file);
	return offset;
}

/* -------- what it saves -------- */

static void small_stable_writes_cost_one_flush(void)
{
	unsigned int before;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	before = faulty_syncs();
	for (uint64_t id = 2; id < 12; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	/* New files, and no flush of any of them or of a directory. */
	CU_ASSERT_EQUAL(faulty_syncs() - before, 10);
	/* Side b is made by this. */
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(3), .version = VERSION(2, 1), .exact = true,
				.base = VERSION(1, 1)),
		0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 11);
	/* Unstable writes and a sync. */
	for (uint64_t block = 0; block < 3; block++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(20), .version = VERSION(1, 1),
					.first = block, .unstable = true),
			0);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, numbered(20)), 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 12);
	/* Removal. */
	store_remove_args remove = {.file = numbered(5)};
	store_status_res res;
	store_remove(fixture.store, &remove, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 13);
	/* A large write goes to the file: itself and its directory. It has no records. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .file = numbered(30), .version = VERSION(1, 1), .count = 64), 0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 15);
	/* One that has: also the log, once. */
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1), .first = 64,
				.count = 64),
		0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 18);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1), .first = 128,
				.count = 64),
		0);
	CU_ASSERT_EQUAL(faulty_syncs() - before, 19);
	end();
}

static void what_is_in_the_log_is_brought_to_the_files(void)
{
	store_remove_args remove = {.file = numbered(7)};
	char side[512], unfinished[600];
	store_status_res res;

	begin();
	for (uint64_t id = 1; id <= 8; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	store_remove(fixture.store, &remove, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	die();
	lose_files();
	/* A side that was being made again belongs to what was removed, too. */
	fixture_side_of(&fixture, numbered(7), 0, side, sizeof(side));
	snprintf(unfinished, sizeof(unfinished), "%s.new", side);
	CU_ASSERT_EQUAL(close(open(unfinished, O_WRONLY | O_CREAT, 0600)), 0);
	fixture_open(&fixture);
	CU_ASSERT_NOT_EQUAL(access(unfinished, F_OK), 0);
	CU_ASSERT_EQUAL(fixture_logged("not stopped cleanly: 8 records applied"), 1);
	for (uint64_t id = 1; id <= 8; id++)
		CU_ASSERT(id == 7 ? is_gone(id) : has(id, 1));
	/* That was durable before the log was emptied. */
	die();
	fixture_forget_log();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("not stopped cleanly"), 0);
	CU_ASSERT(has(8, 1));
	end();
}

static void a_clean_stop_leaves_an_empty_log(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("1 changes and 0 notes of flushed files made durable by 1 "
				       "flushes"),
		1);
	fixture_forget_log();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("not stopped cleanly"), 0);
	CU_ASSERT(has(1, 1));
	end();
}

static void an_older_store_gets_a_log(void)
{
	struct stat status;
	char path[256];

	faulty_reset();
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	log_path(path);
	CU_ASSERT_EQUAL(unlink(path), 0);
	fixture.log_bytes = 0;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	CU_ASSERT_NOT_EQUAL(stat(path, &status), 0);
	fixture.log_bytes = 64 << 10;
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	CU_ASSERT_EQUAL(status.st_size, 64 << 10);
	CU_ASSERT(has(1, 1));
	/* What is there is used, however long. */
	fixture.log_bytes = 0;
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1)), 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("changes and 0 notes"), 1);
	fixture_end(&fixture);
}

/* -------- bytes -------- */

/* A log of format 1 as it lies on a disk is read, byte by byte. */
static void format_1_is_still_read(void)
{
	static const uint8_t header_start[] = {'R', 'o', 'z', 'o', 'L', 'o', 'g', 'H', 1, 0, 0, 0};
	static const uint8_t change[] = {
		/* magic, run, number 9, durable 8 */
		'R', 'o', 'z', 'o', 'L', 'o', 'g', 'R', 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22,
		0x11, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0,
		/* file 0xab, export 2, segment 3, a change, 64 bytes of payload */
		0xab, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0,
		0,
		/* CRC-32C */
		0, 0, 0, 0,
		/* 10 bytes at 4096 of side a, of which 3 are not zeros */
		0, 0x10, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'r',
		'o', 'z', 0, 0, 0, 0, 0,
		/* side b exists; and the same once more */
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		/* (rest of the unit) */
	};
	uint8_t page[4096] = {0}, bytes[16];
	struct store_log_header header;
	char path[256], side[256], error[1024];
	uint32_t crc;
	int file;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	fixture_close(&fixture);
	log_path(path);
	file = open(path, O_RDWR);
	CU_ASSERT_EQUAL_FATAL(pread(file, &header, sizeof(header), 0), sizeof(header));
	CU_ASSERT_EQUAL(memcmp(&header, header_start, sizeof(header_start)), 0);
	CU_ASSERT_EQUAL(offsetof(struct store_log_header, device_id), 16);
	CU_ASSERT_EQUAL(offsetof(struct store_log_header, bytes), 48);
	CU_ASSERT_EQUAL(offsetof(struct store_log_header, run), 64);
	CU_ASSERT_EQUAL(offsetof(struct store_log_header, tail_sequence), 80);
	header.run = UINT64_C(0x1122334455667788);
	header.serial = 1000;
	header.tail_offset = 16384;
	header.tail_sequence = 9;
	header.crc32c = rozo_crc32c(&header, 508);
	CU_ASSERT_EQUAL(pwrite(file, &header, sizeof(header), 0), sizeof(header));
	memcpy(page, change, sizeof(change));
	page[52] = 56; /* payload bytes: two extents and eight bytes */
	crc = rozo_crc32c(page, 60);
	crc = rozo_crc32c_more(crc, page + 64, 56);
	memcpy(page + 60, &crc, 4);
	CU_ASSERT_EQUAL(pwrite(file, page, sizeof(page), 16384), sizeof(page));
	close(file);
	CU_ASSERT_EQUAL_FATAL(try_to_open(error, sizeof(error)), 0);
	CU_ASSERT_EQUAL(fixture_logged("1 records applied"), 1);
	fixture_close(&fixture);
	fixture_side_of(&fixture, (store_file){.export_id = 2, .file_id = 0xab, .segment = 3}, 0,
		side, sizeof(side));
	file = open(side, O_RDONLY);
	CU_ASSERT_FATAL(file >= 0);
	CU_ASSERT_EQUAL(pread(file, bytes, sizeof(bytes), 4096), 10);
	CU_ASSERT_EQUAL(memcmp(bytes, "roz\0\0\0\0\0\0\0", 10), 0);
	close(file);
	side[strlen(side) - 1] = 'b';
	CU_ASSERT_EQUAL(access(side, F_OK), 0);
	CU_ASSERT_EQUAL(unlink(side), 0);
	fixture_open(&fixture);
	end();
}

/* -------- damage -------- */

static void a_torn_record_is_where_the_log_ends(void)
{
	char path[256];

	begin();
	for (uint64_t id = 1; id <= 5; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	die();
	lose_files();
	log_path(path);
	fixture_flip(path, find_record(5) + 100, 3);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("4 records applied"), 1);
	CU_ASSERT_EQUAL(fixture_logged("damaged"), 0);
	CU_ASSERT(has(4, 1));
	CU_ASSERT(is_gone(5));
	end();
}

static void damage_in_the_middle_is_named_and_passed(void)
{
	char path[256];

	begin();
	for (uint64_t id = 1; id <= 5; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	die();
	lose_files();
	log_path(path);
	fixture_flip(path, find_record(2) + 200, 1);
	fixture_flip(path, find_record(3) + 3, 0);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("2 acknowledged changes (number 2 and those behind)"), 1);
	CU_ASSERT_EQUAL(fixture_logged("3 records applied"), 1);
	CU_ASSERT(has(1, 1));
	CU_ASSERT(has(4, 1));
	CU_ASSERT(has(5, 1));
	/* It is not there, and not something else. */
	CU_ASSERT(is_gone(2));
	end();
}

static void records_of_an_earlier_run_do_not_count(void)
{
	char path[256];
	uint8_t page[8192];
	uint64_t at;
	int file;

	begin();
	for (uint64_t id = 1; id <= 3; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	at = find_record(3);
	log_path(path);
	file = open(path, O_RDWR);
	CU_ASSERT_EQUAL_FATAL(pread(file, page, sizeof(page), (off_t)at), sizeof(page));
	fixture_reopen(&fixture);
	for (uint64_t id = 11; id <= 12; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
	die();
	/* Where number 3 of this run would be is that of the run before. */
	CU_ASSERT_EQUAL(pwrite(file, page, sizeof(page), (off_t)at), sizeof(page));
	close(file);
	lose_files();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("2 records applied"), 1);
	CU_ASSERT(is_gone(3));
	CU_ASSERT(has(12, 1));
	end();
}

static void a_log_that_cannot_be_read_keeps_the_device_out(void)
{
	char path[256], error[1024];

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	die();
	log_path(path);
	/* Both say the same; opening the store writes both anew. */
	fixture_flip(path, 4096 + 70, 1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("1 records applied"), 1);
	die();
	fixture_flip(path, 70, 1);
	fixture_forget_log();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("records applied"), 0);
	die();
	fixture_flip(path, 70, 1);
	fixture_flip(path, 4096 + 70, 2);
	CU_ASSERT_EQUAL(try_to_open(error, sizeof(error)), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "both its headers are damaged"));
	/* As is one that is cut short. */
	fixture_flip(path, 4096 + 70, 2);
	CU_ASSERT_EQUAL(truncate(path, 100000), 0);
	CU_ASSERT_EQUAL(try_to_open(error, sizeof(error)), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "cut short"));
	/* The remedy that the message names. */
	CU_ASSERT_EQUAL(unlink(path), 0);
	fixture_open(&fixture);
	end();
}

/* Reads both headers. Returns the slot of the newer one. */
static unsigned int read_headers(struct store_log_header headers[2])
{
	char path[256];
	int file;

	log_path(path);
	file = open(path, O_RDONLY);
	for (unsigned int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(
			pread(file, &headers[i], sizeof(headers[i]), (off_t)i * STORE_LOG_BATCH),
			sizeof(headers[i]));
	close(file);
	return headers[1].serial > headers[0].serial;
}

/* They would bring back what was there before. */
static void a_damaged_header_does_not_make_old_records_count(void)
{
	for (unsigned int way = 0; way < 4; way++) {
		bool checkpoint = way >= 2, damage_newer = way % 2 == 0;
		struct store_log_header headers[2];
		unsigned int newer = 0;
		char path[256];

		begin();
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
		fixture_commit(&fixture, VERSION(1, 1), 0, 1);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1)), 0);
		fixture_commit(&fixture, VERSION(2, 1), 0, 1);
		/* The log is emptied by opening the store after a crash, or by a checkpoint. */
		if (checkpoint) {
			for (uint64_t id = 1; id < 1000; id++) {
				CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(id + 1000),
							.version = VERSION(1, 1)),
					0);
				newer = read_headers(headers);
				if (headers[newer].tail_sequence > 3)
					break;
			}
			CU_ASSERT(headers[newer].tail_sequence > 3);
		} else {
			die();
			fixture_open(&fixture);
		}
		/* Large ones are flushed in the file, and have no record. */
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .count = 64), 0);
		die();
		newer = read_headers(headers);
		log_path(path);
		fixture_flip(path, (damage_newer ? newer : 1 - newer) * STORE_LOG_BATCH + 100, 3);
		fixture_open(&fixture);
		CU_ASSERT(IS(&fixture, 0, VERSION(3, 1), STORE_FINALIZED));
		/* Whichever is left: it says the same. */
		CU_ASSERT_EQUAL(headers[0].run, headers[1].run);
		CU_ASSERT_EQUAL(headers[0].tail_offset, headers[1].tail_offset);
		CU_ASSERT_EQUAL(headers[0].tail_sequence, headers[1].tail_sequence);
		end();
	}
}

static void another_devices_log_is_refused(void)
{
	char path[256], other[256], command[600], error[1024];

	faulty_reset();
	fixture_begin(&fixture, 2);
	fixture_close(&fixture);
	log_path(path);
	snprintf(other, sizeof(other), "%s/" STORE_LOG_NAME, fixture.devices[1]);
	snprintf(command, sizeof(command), "cp %s %s", other, path);
	CU_ASSERT_EQUAL(system(command), 0);
	fixture.device_count = 1;
	CU_ASSERT_EQUAL(try_to_open(error, sizeof(error)), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "belongs to another device"));
	fixture.device_count = 2;
	/* The other one serves. */
	fixture_open(&fixture);
	fixture_end(&fixture);
}

static void verifying_wants_an_empty_log(void)
{
	const char *devices[] = {fixture.devices[0]};
	struct store_verify_summary summary;
	char error[1024];
	FILE *problems = tmpfile();

	begin();
	struct store_options options = {
		.cluster_id = FIXTURE_CLUSTER,
		.node_id = FIXTURE_NODE,
		.devices = devices,
		.device_count = 1,
	};
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	die();
	CU_ASSERT_EQUAL(
		store_verify(&options, problems, NULL, &summary, error, sizeof(error)), -EUCLEAN);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "1 changes are not in the store files yet"));
	fixture_open(&fixture);
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(store_verify(&options, problems, NULL, &summary, error, sizeof(error)), 0);
	CU_ASSERT_EQUAL(summary.problems, 0);
	CU_ASSERT_EQUAL(summary.files, 1);
	fclose(problems);
	fixture_open(&fixture);
	end();
}

/* -------- failures -------- */

static void without_its_log_a_device_goes_on(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1)), 0);
	faulty_sync_after(0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(3), .version = VERSION(1, 1)), EIO);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(3), .version = VERSION(2, 1)), EIO);
	/* Others are flushed by themselves. */
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(4), .version = VERSION(1, 1)), 0);
	/* But not over what is in the log, since that could not be told to it. */
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(2, 1), .exact = true,
				.base = VERSION(1, 1), .count = 64),
		EIO);
	fixture_reopen(&fixture);
	CU_ASSERT(has(1, 1));
	CU_ASSERT(has(4, 1));
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(3), .version = VERSION(3, 1)), 0);
	end();
}

static uint32_t remove_file(uint64_t id)
{
	store_remove_args args = {.file = numbered(id)};
	store_status_res res;

	store_remove(fixture.store, &args, &res);
	return res.status;
}

/* Its records would bring a file back, also one that is not there any more. */
static void what_a_failed_log_has_records_of_is_not_called_removed(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1)), 0);
	faulty_sync_after(0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(2, 1), .exact = true,
				.base = VERSION(1, 1)),
		EIO);
	CU_ASSERT_EQUAL(remove_file(1), EIO);
	CU_ASSERT_EQUAL(remove_file(1), EIO);
	/* The log has never heard of this one. */
	CU_ASSERT_EQUAL(remove_file(3), 0);
	die();
	fixture_open(&fixture);
	CU_ASSERT(has(1, 1));
	CU_ASSERT_EQUAL(remove_file(1), 0);
	CU_ASSERT_EQUAL(remove_file(1), 0);
	die();
	fixture_open(&fixture);
	CU_ASSERT(is_gone(1));
	end();
}

static void a_checkpoint_that_fails_takes_the_device_out(void)
{
	uint64_t id = 0, stable = 0;

	begin();
	faulty_file_system(true);
	while (id < 1000 && PUT(&fixture, .file = numbered(++id), .version = VERSION(1, 1)) == 0)
		stable = id;
	CU_ASSERT(stable > 5 && stable < 1000);
	CU_ASSERT_EQUAL(fixture_logged("flushing the file system failed"), 1);
	die();
	lose_files();
	faulty_file_system(false);
	fixture_open(&fixture);
	for (id = 1; id <= stable; id++)
		CU_ASSERT(has(id, 1));
	end();
}

/* A file whose own flush fails may be what records are for: they have to stay. */
static void a_failed_flush_keeps_the_records(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	faulty_sync_after(0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1), .first = 64,
				.count = 64),
		EIO);
	/* Not even a clean stop empties the log now. */
	fixture_close(&fixture);
	lose_files();
	fixture_open(&fixture);
	CU_ASSERT(has(1, 1));
	end();
}

/*
 * The disk did not take what was written to a file, which was closed then. Only a flush of the file
 * system tells of that, when the system has forgotten the file: until then its records stay.
 */
static void a_file_opened_again_does_not_supersede_its_records(void)
{
	begin();
	fixture_close(&fixture);
	fixture.open_files_max = 1;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1)), 0);
	faulty_file_system(true);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1), .first = 64), EIO);
	CU_ASSERT_EQUAL(fixture_logged("flushing the file system failed"), 1);
	die();
	lose_files();
	faulty_file_system(false);
	fixture_open(&fixture);
	CU_ASSERT(has(1, 1));
	CU_ASSERT(has(2, 1));
	/* As long as nothing fails nobody notices. */
	for (uint64_t block = 1; block < 20; block++) {
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1 + block % 2),
					.version = VERSION(1, 1), .first = block),
			0);
		CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1 + block % 2),
					.version = VERSION(1, 1), .first = 100 + block),
			0);
	}
	fixture.open_files_max = 0;
	end();
}

/* Its records stay, so one day it is full: then no file with records can be flushed. */
static void a_full_log_that_must_not_be_emptied_takes_the_device_out(void)
{
	struct store_capacity capacity;
	unsigned int failed = 0;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(77), .version = VERSION(1, 1), .count = 64,
				.unstable = true),
		0);
	faulty_sync_after(0);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, numbered(77)), EIO);
	CU_ASSERT_EQUAL(store_capacity(fixture.store, &capacity, 1), 1);
	CU_ASSERT(capacity.in_service);
	for (uint64_t i = 0; i < 400; i++) {
		if (PUT(&fixture, .file = numbered(100 + i % 40), .version = VERSION(1, 1),
			    .first = i / 40) != 0)
			failed++;
		CU_ASSERT_EQUAL(store_capacity(fixture.store, &capacity, 1), 1);
		CU_ASSERT_EQUAL(capacity.in_service, failed == 0);
	}
	CU_ASSERT(failed > 0);
	CU_ASSERT_EQUAL(fixture_logged("taken out of service"), 1);
	end();
}

static void a_full_log_is_gone_round(void)
{
	begin();
	fixture_close(&fixture);
	char path[256];
	log_path(path);
	CU_ASSERT_EQUAL(unlink(path), 0);
	fixture.log_bytes = 64 << 10;
	fixture_open(&fixture);
	for (uint64_t id = 1; id <= 200; id++) {
		CU_ASSERT_EQUAL_FATAL(
			PUT(&fixture, .file = numbered(id), .version = VERSION(1, 1)), 0);
		if (id % 31 == 0) {
			die();
			fixture_open(&fixture);
		}
	}
	die();
	fixture_open(&fixture);
	for (uint64_t id = 1; id <= 200; id++)
		CU_ASSERT(has(id, 1));
	end();
}

/* -------- many callers -------- */

#define THREADS 8
#define FILES 60

static _Atomic unsigned int flushes;

/* A flush takes as long as a disk needs for it. */
static int slow_sync_data(int descriptor)
{
	flushes++;
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	return store_io_posix.sync_data(descriptor);
}

static void *write_files(void *argument)
{
	uint64_t who = (uint64_t)(uintptr_t)argument;

	for (uint64_t i = 0; i < FILES; i++) {
		store_file file = numbered(who * 1000 + i);
		store_remove_args remove = {.file = file};
		store_status_res res;

		if (PUT(&fixture, .file = file, .version = VERSION(1, 1)) != 0 ||
			(i % 10 == 3 && PUT(&fixture, .file = file, .version = VERSION(1, 1),
						.first = 10, .count = 40) != 0))
			abort();
		if (i % 7 == 0) {
			store_remove(fixture.store, &remove, &res);
			if (res.status != 0)
				abort();
		}
	}
	return NULL;
}

static void those_who_wait_share_a_flush(void)
{
	struct store_io slow = store_io_posix;
	pthread_t threads[THREADS];
	char path[256];

	slow.sync_data = slow_sync_data;
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	log_path(path);
	CU_ASSERT_EQUAL(unlink(path), 0);
	/* Small, so that the thread that empties it has to work. */
	fixture.log_bytes = 512 << 10;
	fixture.log_checkpoint_ms = 1000;
	fixture.open_files_max = 20;
	fixture.io = &slow;
	fixture_open(&fixture);
	flushes = 0;
	for (uintptr_t i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&threads[i], NULL, write_files, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	unsigned int calls = THREADS * (FILES + FILES / 10 + FILES / 7 + 1);
	printf("%u flushes for %u stable calls ", flushes, calls);
	CU_ASSERT(flushes < calls * 3 / 4);
	fixture_reopen(&fixture);
	for (uint64_t who = 1; who <= THREADS; who++) {
		for (uint64_t i = 0; i < FILES; i++)
			CU_ASSERT(i % 7 == 0 ? is_gone(who * 1000 + i) : has(who * 1000 + i, 1));
	}
	fixture_end(&fixture);
}

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int calls;
	bool held; /* the first one waits */
} checkpoints = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false};

static int held_sync_file_system(int descriptor)
{
	pthread_mutex_lock(&checkpoints.lock);
	bool first = checkpoints.calls++ == 0;
	pthread_cond_broadcast(&checkpoints.changed);
	while (first && checkpoints.held)
		pthread_cond_wait(&checkpoints.changed, &checkpoints.lock);
	pthread_mutex_unlock(&checkpoints.lock);
	return store_io_posix.sync_file_system(descriptor);
}

static void *write_to_the_first(void *argument)
{
	(void)argument;
	if (PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1), .first = 64) != 0)
		abort();
	return NULL;
}

/*
 * One that a flush of a file that was opened again makes takes long: records that come meanwhile
 * have their own, when they are old enough.
 */
static void the_next_checkpoint_comes_by_itself(void)
{
	struct store_io io = store_io_posix;
	unsigned int calls = 0;
	pthread_t thread;

	io.sync_file_system = held_sync_file_system;
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	fixture.log_checkpoint_ms = 1000;
	fixture.open_files_max = 1;
	fixture.io = &io;
	checkpoints.held = true;
	checkpoints.calls = 0;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(1), .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(2), .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, write_to_the_first, NULL), 0);
	pthread_mutex_lock(&checkpoints.lock);
	while (checkpoints.calls == 0)
		pthread_cond_wait(&checkpoints.changed, &checkpoints.lock);
	pthread_mutex_unlock(&checkpoints.lock);
	/* The thread that makes them looks, and goes to sleep again. */
	nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 200000000}, NULL);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = numbered(3), .version = VERSION(1, 1)), 0);
	pthread_mutex_lock(&checkpoints.lock);
	checkpoints.held = false;
	pthread_cond_broadcast(&checkpoints.changed);
	pthread_mutex_unlock(&checkpoints.lock);
	pthread_join(thread, NULL);
	for (int i = 0; i < 50 && calls < 2; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
		pthread_mutex_lock(&checkpoints.lock);
		calls = checkpoints.calls;
		pthread_mutex_unlock(&checkpoints.lock);
	}
	CU_ASSERT_EQUAL(calls, 2);
	fixture_end(&fixture);
}

/* -------- many callers, and the power fails -------- */

#define CRASH_FILES 40

static _Atomic bool power_failed;

/* What a thread was told of one of its files: its newest version, or that it was removed. */
static struct promise {
	_Atomic uint64_t version;
	_Atomic bool removing;
} promises[THREADS][CRASH_FILES];

static void *write_until_power_fails(void *argument)
{
	uint64_t who = (uint64_t)(uintptr_t)argument, x = who * 99;

	for (uint64_t number = 1; !power_failed; number++) {
		uint64_t i = (x = x * UINT64_C(6364136223846793005) + 1442695040888963407) >> 33;
		struct promise *promise = &promises[who][i % CRASH_FILES];
		store_file file = numbered(who * 1000 + i % CRASH_FILES);
		bool exact = promise->version != 0;

		if (i % 11 == 5) {
			store_remove_args remove = {.file = file};
			store_status_res res;

			promise->removing = true;
			store_remove(fixture.store, &remove, &res);
			if (res.status != 0 || power_failed)
				return NULL;
			promise->version = 0;
			promise->removing = false;
		} else if (fixture_put(&fixture,
				   &(struct put){.file = file,
					   .version = VERSION(number, 1),
					   .exact = exact,
					   .base = exact ? VERSION(promise->version, 1)
							 : VERSION(0, 0),
					   .count = i % 13 == 7 ? 40 : 1},
				   NULL) == 0) {
			if (power_failed)
				return NULL;
			promise->version = number;
		} else {
			return NULL;
		}
	}
	return NULL;
}

static void what_many_were_promised_survives_power_loss(void)
{
	uint64_t promised = 0;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		pthread_t threads[THREADS];
		char path[256];

		begin();
		fixture_close(&fixture);
		log_path(path);
		CU_ASSERT_EQUAL(unlink(path), 0);
		fixture.log_bytes = seed % 2 ? 256 << 10 : 2 << 20;
		fixture.log_checkpoint_ms = 1000;
		fixture.open_files_max = seed % 3 ? 0 : 30;
		fixture_open(&fixture);
		fixture_close(&fixture);
		faulty_remember();
		fixture_open(&fixture);
		fixture_seed(seed);
		memset(promises, 0, sizeof(promises));
		power_failed = false;
		for (uintptr_t i = 0; i < THREADS; i++)
			CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL,
						      write_until_power_fails, (void *)i),
				0);
		nanosleep(&(struct timespec){.tv_nsec = (long)(20 + seed * 13 % 100) * 1000000},
			NULL);
		/* In this order: what was answered before the first line was flushed before it. */
		power_failed = true;
		faulty_dead(true);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		fixture_close(&fixture);
		faulty_dead(false);
		faulty_power_loss(fixture_random);
		fixture.log_checkpoint_ms = 0;
		fixture_open(&fixture);
		for (uint64_t who = 0; who < THREADS; who++) {
			for (uint64_t i = 0; i < CRASH_FILES; i++) {
				const struct promise *promise = &promises[who][i];
				store_version version = VERSION(promise->version, 1);
				store_file file = numbered(who * 1000 + i);
				store_read_block told;

				if (promise->version == 0 || promise->removing)
					continue;
				promised++;
				/* Or one that was on its way, with this one below. */
				CU_ASSERT_EQUAL(
					fixture_get(&fixture,
						&(struct get){.file = file, .version = version},
						&told, NULL),
					0);
				CU_ASSERT(told.state == STORE_FINALIZED ||
					  told.state == STORE_COMMITTED);
			}
		}
		end();
	}
	printf("%" PRIu64 " files ", promised);
	CU_ASSERT(promised > 100);
}

int main(void)
{
	CU_pSuite suite;

	CU_initialize_registry();
	suite = CU_add_suite("store log", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(small_stable_writes_cost_one_flush);
	TEST(what_is_in_the_log_is_brought_to_the_files);
	TEST(a_clean_stop_leaves_an_empty_log);
	TEST(an_older_store_gets_a_log);
	TEST(format_1_is_still_read);
	TEST(a_torn_record_is_where_the_log_ends);
	TEST(damage_in_the_middle_is_named_and_passed);
	TEST(records_of_an_earlier_run_do_not_count);
	TEST(a_log_that_cannot_be_read_keeps_the_device_out);
	TEST(a_damaged_header_does_not_make_old_records_count);
	TEST(another_devices_log_is_refused);
	TEST(verifying_wants_an_empty_log);
	TEST(without_its_log_a_device_goes_on);
	TEST(what_a_failed_log_has_records_of_is_not_called_removed);
	TEST(a_file_opened_again_does_not_supersede_its_records);
	TEST(a_checkpoint_that_fails_takes_the_device_out);
	TEST(a_failed_flush_keeps_the_records);
	TEST(a_full_log_that_must_not_be_emptied_takes_the_device_out);
	TEST(a_full_log_is_gone_round);
	TEST(those_who_wait_share_a_flush);
	TEST(the_next_checkpoint_comes_by_itself);
	TEST(what_many_were_promised_survives_power_loss);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
