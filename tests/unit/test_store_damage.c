/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The shard store when its files are not as it left them: flipped bits, cut files, missing sides,
 * files in the wrong place. Damage must be told as damage (never as other bytes, never as EMPTY
 * where something was), named in the log, kept from spreading, and mended by writing the block
 * again.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_faulty_io.h"
#include "store_fixture.h"

#define GROUP_BYTES (32 * 4096)
#define HEADER(group) ((uint64_t)(group)*GROUP_BYTES)
#define RECORD(block) (HEADER((block) / 31) + 128 + (block) % 31 * 128)
#define ROW(block) (HEADER((block) / 31) + 4096 + (block) % 31 * 4096)

static struct fixture fixture;
static char side_a[512], side_b[512];

/* 100 committed blocks of version 1; 10 of them (40 .. 49) have version 2 on side b. */
static void begin(void)
{
	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 100);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 40, .count = 10), 0);
	fixture_close(&fixture);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_side(&fixture, 1, side_b, sizeof(side_b));
}

/* All blocks are as begin() made them, but those in first .. first + count are DAMAGED. */
static void only_damaged(uint64_t first, uint64_t count)
{
	for (uint64_t block = 0; block < 100; block++) {
		if (block >= first && block - first < count) {
			CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL), STORE_DAMAGED);
		} else if (block >= 40 && block < 50) {
			CU_ASSERT(IS(&fixture, block, VERSION(2, 1), STORE_FINALIZED));
		} else {
			CU_ASSERT(IS(&fixture, block, VERSION(1, 1), STORE_COMMITTED));
		}
	}
	CU_ASSERT_EQUAL(fixture_state(&fixture, 200, NULL), STORE_EMPTY);
}

static void end(void)
{
	fixture_end(&fixture);
}

static void a_flipped_bit_in_a_row_is_damage(void)
{
	store_read_block told;

	begin();
	fixture_flip(side_a, ROW(70) + 1234, 3);
	fixture_flip(side_b, ROW(44) + 17, 0);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.block = 70}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.state, STORE_DAMAGED);
	CU_ASSERT_EQUAL(store_version_compare(told.block_version, VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(told.shard_bytes, 0);
	CU_ASSERT(fixture_logged(".a: block 70: its bytes do not agree") > 0);
	/* Version 2 of block 44 may never have been whole; the committed one below it is. */
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.block = 44}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.state, STORE_TORN);
	CU_ASSERT_EQUAL(store_version_compare(told.older, VERSION(1, 1)), 0);
	CU_ASSERT(fixture_is(&fixture, &(struct get){.block = 44, .version = VERSION(1, 1)},
		VERSION(1, 1), STORE_COMMITTED));
	/* A header alone must not count as a holder if the version is not decided. */
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.block = 44, .headers_only = true},
				&told, NULL),
		0);
	CU_ASSERT_EQUAL(told.state, STORE_TORN);
	/* Healing writes the same versions again. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 70, .missed = 4), 0);
	CU_ASSERT(IS(&fixture, 70, VERSION(1, 1), STORE_COMMITTED));
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 44), 0);
	CU_ASSERT(IS(&fixture, 44, VERSION(2, 1), STORE_FINALIZED));
	only_damaged(0, 0);
	end();
}

static void a_read_goes_around_a_damaged_block(void)
{
	store_read_args args = {.file = FIXTURE_FILE, .geometry = fixture_4_2, .count = 30};
	store_read_res res;
	uint8_t expected[8192];
	uint64_t offset = 0;

	begin();
	fixture_flip(side_a, ROW(7), 7);
	fixture_flip(side_a, RECORD(12) + 56 + 3, 7); /* a tail */
	fixture_open(&fixture);
	store_read(fixture.store, &args, &res);
	CU_ASSERT_EQUAL_FATAL(res.status, 0);
	for (uint64_t i = 0; i < 30; i++) {
		const store_read_block *block = &res.blocks.blocks_val[i];

		CU_ASSERT_EQUAL(block->state, i == 7 || i == 12 ? STORE_DAMAGED : STORE_COMMITTED);
		fixture_bytes(VERSION(1, 1), i, 0, expected, block->shard_bytes);
		CU_ASSERT_EQUAL(
			memcmp(res.payload.payload_val + offset, expected, block->shard_bytes), 0);
		offset += block->shard_bytes;
	}
	CU_ASSERT_EQUAL(res.payload.payload_len, offset);
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	end();
}

static void every_flipped_bit_of_a_record_is_damage_of_its_block(void)
{
	begin();
	for (unsigned int bit = 0; bit < 52 * 8; bit += 13) {
		store_version newest;
		uint32_t state;

		fixture_flip(side_b, RECORD(45) + bit / 8, bit % 8);
		fixture_open(&fixture);
		state = fixture_state(&fixture, 45, &newest);
		CU_ASSERT_EQUAL(state, STORE_DAMAGED);
		only_damaged(45, 1);
		fixture_close(&fixture);
		fixture_flip(side_b, RECORD(45) + bit / 8, bit % 8);
	}
	fixture_flip(side_b, RECORD(45) + 2, 1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 45, NULL), STORE_DAMAGED);
	CU_ASSERT(fixture_logged(".b: block 45: its record is damaged") > 0);
	/* Not even a base on the older version is refused: the new version mends the block. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 45, .exact = true,
				.base = VERSION(1, 1)),
		0);
	CU_ASSERT(IS(&fixture, 45, VERSION(3, 1), STORE_FINALIZED));
	CU_ASSERT(fixture_is(&fixture, &(struct get){.block = 45, .version = VERSION(1, 1)},
		VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void a_damaged_record_of_a_fresh_block_is_mended(void)
{
	begin();
	fixture_flip(side_a, RECORD(3), 0);
	fixture_open(&fixture);
	only_damaged(3, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 3), 0);
	fixture_commit(&fixture, VERSION(1, 1), 3, 1);
	only_damaged(0, 0);
	fixture_reopen(&fixture);
	only_damaged(0, 0);
	end();
}

static void a_damaged_header_costs_no_block(void)
{
	store_write_res res;

	begin();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 5), .epoch = 6, .first = 99 + 31), 0);
	fixture_discard(&fixture, VERSION(1, 5), 99 + 31, 1);
	fixture_close(&fixture);
	for (uint64_t group = 0; group < 3; group++) {
		fixture_flip(side_a, HEADER(group) + 9 + group * 30, 2);
		fixture_open(&fixture);
		only_damaged(0, 0);
		if (group == 0)
			CU_ASSERT(fixture_logged("the header of page 0 is damaged") > 0);
		/* The epoch is known from the other pages. */
		CU_ASSERT_EQUAL(fixture_put(&fixture,
					&(struct put){.version = VERSION(9, 1), .epoch = 5}, &res),
			ESTALE);
		CU_ASSERT_EQUAL(res.write_epoch, 6);
		/* A write to the group mends it. */
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 9), .epoch = 6,
					.first = group * 31, .exact = true, .base = VERSION(1, 1)),
			0);
		fixture_discard(&fixture, VERSION(2, 9), group * 31, 1);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 7), .epoch = 6,
					.first = 200 + group * 31),
			0);
		fixture_discard(&fixture, VERSION(1, 7), 200 + group * 31, 1);
		fixture_close(&fixture);
		fixture_forget_log();
	}
	end();
}

static unsigned int pages_read;

static ssize_t counted_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	pages_read++;
	return store_io_posix.read(descriptor, parts, count, offset);
}

#define MANY_GROUPS 700

/*
 * A disk takes minutes for all pages of a large file. Nobody waits for that, with the file's lock
 * and a thread of the store; those who come meanwhile get no answer that depends on it.
 */
static void a_damaged_header_of_a_large_file_holds_nobody_up(void)
{
	struct store_io io = store_io_posix;
	store_write_res res;
	unsigned int tries = 0;
	store_stat_res stat = {0};

	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	io.read = counted_read;
	fixture.io = &io;
	fixture_open(&fixture);
	for (uint64_t group = 0; group < MANY_GROUPS; group++)
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(1, 1), .unstable = true,
				.epoch = group < MANY_GROUPS - 1 ? 5 : 6, .first = group * 31),
			0);
	fixture_commit(&fixture, VERSION(1, 1), 31, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .epoch = 6, .first = 31), 0);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_side(&fixture, 1, side_b, sizeof(side_b));
	fixture_close(&fixture);
	/* That of side a tells what side b's does. */
	fixture_flip(side_b, HEADER(0) + 9, 2);
	fixture_open(&fixture);
	pages_read = 0;
	CU_ASSERT(IS(&fixture, 31, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT(pages_read < 20);
	fixture_close(&fixture);

	fixture_flip(side_a, HEADER(0) + 9, 2);
	fixture_open(&fixture);
	do {
		pages_read = 0;
		store_stat(fixture.store, &(store_stat_args){.file = FIXTURE_FILE}, &stat);
		CU_ASSERT(pages_read < MANY_GROUPS / 2);
	} while (stat.status == EIO && ++tries < 10);
	CU_ASSERT(tries > 1);
	CU_ASSERT_EQUAL(stat.status, 0);
	/* The epoch of the last page. */
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(9, 1), .epoch = 5}, &res),
		ESTALE);
	CU_ASSERT_EQUAL(res.write_epoch, 6);
	CU_ASSERT(IS(&fixture, 31, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(fixture_logged(".a: the header of page 0 is damaged"), 1);
	/* It is not sought again. */
	fixture_reopen(&fixture);
	pages_read = 0;
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(9, 1), .epoch = 5}, &res),
		ESTALE);
	CU_ASSERT_EQUAL(res.write_epoch, 6);
	CU_ASSERT(pages_read < 20);

	/* It can be removed at any time, and what is made then is another file. */
	fixture_close(&fixture);
	fixture_flip(side_a, HEADER(0) + 9, 2);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(9, 1), .epoch = 5}, &res),
		EIO);
	store_remove(
		fixture.store, &(store_remove_args){.file = FIXTURE_FILE}, &(store_status_res){0});
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 3), 0);
	fixture_reopen(&fixture);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_FINALIZED));
	fixture_end(&fixture);
}

/* It has this many groups, and page 0 of side a is damaged. */
static void put_large_damaged(void)
{
	for (uint64_t group = 0; group < MANY_GROUPS; group++)
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .unstable = true,
					.first = group * 31),
			0);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_close(&fixture);
	fixture_flip(side_a, HEADER(0) + 9, 2);
}

static uint32_t stat_until_found(bool others)
{
	store_stat_res stat = {.status = EIO};

	for (unsigned int tries = 0; tries < 10 && stat.status == EIO; tries++) {
		if (others)
			fixture_sync(&fixture, (store_file){.export_id = 1, .file_id = 77});
		store_stat(fixture.store, &(store_stat_args){.file = FIXTURE_FILE}, &stat);
	}
	return stat.status;
}

static atomic_uint pages_sought;
static atomic_bool at_page, go_on;
static atomic_uint calling;

static void wait_until(const atomic_bool *happens)
{
	for (int waited = 0; !atomic_load(happens) && waited < 2000; waited++)
		usleep(1000);
}

static ssize_t slow_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (atomic_fetch_add(&pages_sought, 1) == MANY_GROUPS / 7) {
		atomic_store(&at_page, true);
		wait_until(&go_on);
	}
	return store_io_posix.read(descriptor, parts, count, offset);
}

static void *stat_alone(void *status)
{
	store_stat_res stat = {0};

	store_stat(fixture.store, &(store_stat_args){.file = FIXTURE_FILE}, &stat);
	*(uint32_t *)status = stat.status;
	return NULL;
}

static void *put_alone(void *status)
{
	atomic_fetch_add(&calling, 1);
	/* Asks nothing before. */
	*(uint32_t *)status =
		PUT(&fixture, .version = VERSION(9, 1), .exact = true, .base = VERSION(1, 1));
	return NULL;
}

#define CALLS 4

/* A disk takes seconds for each part of the search: many calls wait for one at most, not for each
 * other. */
static void nobody_waits_for_others_to_find_a_damaged_header(void)
{
	struct store_io io = store_io_posix;
	uint32_t status[CALLS], late = 0;
	pthread_t threads[CALLS];

	atomic_store(&calling, 0);
	fixture_begin(&fixture, 1);
	put_large_damaged();
	io.read = slow_read;
	fixture.io = &io;
	fixture_open(&fixture);
	for (unsigned int put_off = 0; put_off < 2; put_off++) {
		atomic_store(&pages_sought, 0);
		atomic_store(&at_page, false);
		atomic_store(&go_on, false);
		pthread_create(&threads[0], NULL, stat_alone, &status[0]);
		wait_until(&at_page);
		for (unsigned int i = 1; i < CALLS; i++)
			pthread_create(&threads[i], NULL, put_alone, &status[i]);
		if (put_off == 0) {
			/* They are there when it is not known yet that it takes long. */
			for (int waited = 0; atomic_load(&calling) < CALLS - 1 && waited < 2000;
				waited++)
				usleep(1000);
			usleep(100000);
		} else {
			/* These come later. */
			for (unsigned int i = 1; i < CALLS; i++)
				pthread_join(threads[i], NULL);
			stat_alone(&late);
			CU_ASSERT_EQUAL(late, EIO);
			CU_ASSERT_EQUAL(atomic_load(&pages_sought), MANY_GROUPS / 7 + 1);
		}
		atomic_store(&go_on, true);
		for (unsigned int i = 0; i < (put_off == 0 ? CALLS : 1); i++)
			pthread_join(threads[i], NULL);
		for (unsigned int i = 0; i < CALLS; i++)
			CU_ASSERT_EQUAL(status[i], EIO);
		CU_ASSERT(atomic_load(&pages_sought) < MANY_GROUPS / 2);
	}
	CU_ASSERT_EQUAL(stat_until_found(false), 0);
	CU_ASSERT(IS(&fixture, 31, VERSION(1, 1), STORE_FINALIZED));
	fixture_end(&fixture);
}

/* So many other files are used between two calls that a file is forgotten: not how far it came. */
static void a_damaged_header_is_found_while_other_files_are_used(void)
{
	fixture_begin(&fixture, 1);
	fixture_close(&fixture);
	fixture.open_files_max = 1;
	fixture_open(&fixture);
	put_large_damaged();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(stat_until_found(true), 0);
	CU_ASSERT(IS(&fixture, 31, VERSION(1, 1), STORE_FINALIZED));
	fixture.open_files_max = 0;
	fixture_end(&fixture);
}

/*
 * Made anew while its device was out of service, and nothing of that was ever flushed: the one that
 * was there counts, and its header is sought to the end though the other device is looked at first.
 */
static void a_damaged_header_is_found_behind_an_empty_copy(void)
{
	char from[700], path[700];
	const char *beside;

	fixture_begin(&fixture, 2);
	put_large_damaged();
	/* Devices are looked at in this order. */
	CU_ASSERT_EQUAL(FIXTURE_FILE.file_id % 2, 0);
	snprintf(from, sizeof(from), "%s", side_a);
	beside = strstr(side_a, "/shards/");
	CU_ASSERT_PTR_NOT_NULL_FATAL(beside);
	for (unsigned int device = 0; device < 2; device++) {
		char command[2200];

		snprintf(path, sizeof(path), "%s%s", fixture.devices[device], beside);
		snprintf(command, sizeof(command), "mkdir -p $(dirname %s)", path);
		CU_ASSERT_EQUAL(system(command), 0);
	}
	if (strcmp(from, path) != 0)
		CU_ASSERT_EQUAL(rename(from, path), 0);
	snprintf(path, sizeof(path), "%s%s", fixture.devices[0], beside);
	int empty = open(path, O_CREAT | O_RDWR, 0600);
	CU_ASSERT_FATAL(empty >= 0);
	close(empty);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(stat_until_found(false), 0);
	CU_ASSERT(IS(&fixture, 31, VERSION(1, 1), STORE_FINALIZED));
	fixture_end(&fixture);
}

/* A hole reads as zeros, too, and is no damage. */
static void a_page_of_zeros_is_told_once(void)
{
	const uint8_t zeros[4096] = {0};
	int file;

	begin();
	fixture_open(&fixture);
	/* Far behind what there is: holes in between. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 5000), 0);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 2000, NULL), STORE_EMPTY);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 10, NULL), STORE_COMMITTED);
	CU_ASSERT_EQUAL(fixture_logged(" is zeros"), 0);
	fixture_close(&fixture);
	file = open(side_a, O_WRONLY);
	CU_ASSERT_EQUAL(pwrite(file, zeros, sizeof(zeros), HEADER(2)), sizeof(zeros));
	CU_ASSERT_EQUAL(pwrite(file, zeros, 128, HEADER(3)), 128);
	CU_ASSERT_EQUAL(pwrite(file, zeros + 100, 1, HEADER(1) + 8), 1);
	close(file);
	fixture_open(&fixture);
	for (int again = 0; again < 3; again++) {
		CU_ASSERT_EQUAL(fixture_state(&fixture, 70, NULL), STORE_EMPTY);
		CU_ASSERT(IS(&fixture, 93, VERSION(1, 1), STORE_COMMITTED));
		CU_ASSERT(IS(&fixture, 39, VERSION(1, 1), STORE_COMMITTED));
		CU_ASSERT_EQUAL(fixture_state(&fixture, 2000, NULL), STORE_EMPTY);
	}
	CU_ASSERT_EQUAL(fixture_logged(".a: the page of group 2 is zeros"), 1);
	CU_ASSERT_EQUAL(fixture_logged(".a: the header of group 3 is zeros"), 1);
	CU_ASSERT_EQUAL(fixture_logged(".a: the header of group 1 is damaged"), 1);
	CU_ASSERT_EQUAL(fixture_logged(" is zeros"), 2);
	end();
}

static void a_group_page_of_garbage_damages_its_group_only(void)
{
	char page[4096];
	int file;

	begin();
	memset(page, 0x77, sizeof(page));
	file = open(side_a, O_WRONLY);
	CU_ASSERT_EQUAL(pwrite(file, page, sizeof(page), HEADER(2)), sizeof(page));
	close(file);
	fixture_open(&fixture);
	only_damaged(62, 31);
	/* Healing mends block by block. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 62), 0);
	fixture_commit(&fixture, VERSION(1, 1), 62, 1);
	only_damaged(63, 30);
	fixture_reopen(&fixture);
	only_damaged(63, 30);
	end();
}

static void a_page_zero_of_garbage_is_survived(void)
{
	char page[4096];
	uint64_t count;
	store_stat_args args = {.file = FIXTURE_FILE};
	store_stat_res res;
	int file;

	begin();
	memset(page, 0x77, sizeof(page));
	file = open(side_a, O_WRONLY);
	CU_ASSERT_EQUAL(pwrite(file, page, sizeof(page), 0), sizeof(page));
	close(file);
	CU_ASSERT_EQUAL(truncate(side_b, 0), 0);
	CU_ASSERT_EQUAL(unlink(side_b), 0);
	fixture_open(&fixture);
	/* Without the caller's help: what the shape is, is found in another group. */
	store_stat(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(res.block_count, 100);
	CU_ASSERT_EQUAL(res.write_epoch, 1);
	(void)count;
	CU_ASSERT_EQUAL(fixture_state(&fixture, 30, NULL), STORE_DAMAGED);
	CU_ASSERT(IS(&fixture, 31, VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void cut_files_are_noticed(void)
{
	/* In a row, at the end of a group, in a page, in group 0's page, to nothing. */
	static const struct {
		uint64_t bytes, first;
	} cuts[] = {
		{ROW(80) + 100, 80}, {HEADER(3), 93}, {HEADER(2) + 1000, 62}, {HEADER(1) + 50, 31}};

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		begin();
		CU_ASSERT_EQUAL(truncate(side_a, (off_t)cuts[i].bytes), 0);
		fixture_open(&fixture);
		for (uint64_t block = 0; block < 100; block++) {
			uint32_t state = fixture_state(&fixture, block, NULL);

			if (block >= cuts[i].first) {
				CU_ASSERT_EQUAL(state, STORE_DAMAGED);
			} else {
				CU_ASSERT(state == STORE_COMMITTED || state == STORE_FINALIZED);
			}
		}
		CU_ASSERT(fixture_logged("cut short") > 0);
		/* A write beyond the cut does not make the damage pass for holes. */
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 99), 0);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 300), 0);
		fixture_reopen(&fixture);
		for (uint64_t block = cuts[i].first; block < 99; block++)
			CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL), STORE_DAMAGED);
		CU_ASSERT(IS(&fixture, 99, VERSION(3, 1), STORE_FINALIZED));
		end();
	}
}

static void a_missing_side_b_is_damage(void)
{
	begin();
	/* Its existence is noted in side a when side b has been flushed. */
	CU_ASSERT_EQUAL(unlink(side_b), 0);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 45, NULL), STORE_DAMAGED);
	CU_ASSERT(fixture_logged(".b: missing") > 0);
	/* The versions below are there for whoever asks for them. */
	CU_ASSERT(fixture_is(&fixture, &(struct get){.block = 45, .version = VERSION(1, 1)},
		VERSION(1, 1), STORE_COMMITTED));
	/* Making the side again must not make the other blocks look old but sound. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 45), 0);
	CU_ASSERT(IS(&fixture, 45, VERSION(2, 1), STORE_FINALIZED));
	fixture_reopen(&fixture);
	CU_ASSERT(IS(&fixture, 45, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(fixture_state(&fixture, 44, NULL), STORE_DAMAGED);
	/* A block whose newest version is on side a is mended by hearing it again. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 3), 0);
	CU_ASSERT(IS(&fixture, 3, VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void a_missing_side_a_is_damage(void)
{
	begin();
	CU_ASSERT_EQUAL(unlink(side_a), 0);
	fixture_open(&fixture);
	for (uint64_t block = 31; block < 62; block++)
		CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL), STORE_DAMAGED);
	CU_ASSERT(fixture_logged(".a: missing") > 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 33), 0);
	CU_ASSERT(IS(&fixture, 33, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT(fixture_is(&fixture, &(struct get){.block = 45, .version = VERSION(2, 1)},
		VERSION(2, 1), STORE_FINALIZED));
	fixture_reopen(&fixture);
	CU_ASSERT(IS(&fixture, 33, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(fixture_state(&fixture, 34, NULL), STORE_DAMAGED);
	end();
}

static void a_side_cut_to_nothing_is_noticed(void)
{
	for (int side = 0; side < 2; side++) {
		begin();
		CU_ASSERT_EQUAL(truncate(side == 0 ? side_a : side_b, 0), 0);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(fixture_state(&fixture, 45, NULL), STORE_DAMAGED);
		CU_ASSERT(fixture_logged("cut short") > 0);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 45), 0);
		fixture_reopen(&fixture);
		CU_ASSERT(IS(&fixture, 45, VERSION(2, 1), STORE_FINALIZED));
		CU_ASSERT_EQUAL(fixture_state(&fixture, 46, NULL), STORE_DAMAGED);
		end();
	}
}

#define BLOCKS_8 (8 * 31)

/* Eight groups on side a, which is then lost; only the first has a page on side b. */
static void begin_without_side_a(void)
{
	fixture_begin(&fixture, 1);
	for (unsigned int group = 0; group < 8; group++)
		PUT(&fixture, .version = VERSION(1, 1), .first = group * 31);
	fixture_commit(&fixture, VERSION(1, 1), 0, 8 * 31);
	PUT(&fixture, .version = VERSION(2, 1), .first = 0);
	fixture_commit(&fixture, VERSION(2, 1), 0, 1);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(unlink(side_a), 0);
}

/* Side b ends before side a did, and cannot tell how far that went. */
static void a_longer_side_made_again_stays_lost(void)
{
	begin_without_side_a();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 5 * 31, NULL), STORE_DAMAGED);
	/* A new version of block 0 makes it again. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .exact = true,
				.base = VERSION(2, 1), .first = 0),
		0);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 5 * 31, NULL), STORE_DAMAGED);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 5 * 31, NULL), STORE_DAMAGED);
	fixture_end(&fixture);
}

/* Killed, or without power, at any moment in which it is made again. */
static void a_longer_side_made_again_in_part_stays_lost(void)
{
	for (unsigned int i = 0; i < 60; i++) {
		bool power = i % 2 != 0;

		begin_without_side_a();
		faulty_reset();
		faulty_remember();
		fixture.io = &faulty_io;
		fixture_open(&fixture);
		fixture_seed(i + 1);
		if (!power)
			faulty_writes_left((int)i / 2);
		PUT(&fixture, .version = VERSION(3, 1), .exact = true, .base = VERSION(2, 1),
			.first = 0, .unstable = i % 3 != 0);
		faulty_dead(true);
		fixture_close(&fixture);
		faulty_dead(false);
		faulty_writes_left(-1);
		if (power)
			faulty_power_loss(fixture_random);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(fixture_state(&fixture, 5 * 31, NULL), STORE_DAMAGED);
		fixture_end(&fixture);
	}
}

/* Of two copies the one made while the other's device was away counts, though that has lost a side
 * and had it made again. */
static void a_side_made_again_makes_no_copy_newer(void)
{
	for (uint64_t id = 0x1234; id < 0x1238; id++) {
		const store_file key = {.export_id = 1, .file_id = id, .segment = 2};
		const store_read_args args = {
			.file = key, .geometry = fixture_4_2, .count = 1, .headers_only = 1};
		char label[600], hidden[700];
		store_read_res res = {0};

		fixture_begin(&fixture, 2);
		PUT(&fixture, .file = key, .version = VERSION(1, 1), .first = 0);
		PUT(&fixture, .file = key, .version = VERSION(2, 1), .first = 0,
			.commit = {.first_block = 0, .count = 1, .block_version = VERSION(1, 1)});
		fixture_sync(&fixture, key);
		fixture_side_of(&fixture, key, 0, side_a, sizeof(side_a));
		const char *home = fixture.devices[strstr(side_a, "device1") ? 1 : 0];
		fixture_close(&fixture);
		CU_ASSERT_EQUAL(unlink(side_a), 0);
		fixture_open(&fixture);
		PUT(&fixture, .file = key, .version = VERSION(3, 1), .first = 0, .exact = true,
			.base = VERSION(2, 1));
		fixture_close(&fixture);
		snprintf(label, sizeof(label), "%s/rozo-label", home);
		snprintf(hidden, sizeof(hidden), "%s.hidden", label);
		CU_ASSERT_EQUAL(rename(label, hidden), 0);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .file = key, .version = VERSION(9, 1), .first = 0), 0);
		fixture_close(&fixture);
		CU_ASSERT_EQUAL(rename(hidden, label), 0);
		fixture_open(&fixture);
		store_read(fixture.store, &args, &res);
		CU_ASSERT_EQUAL_FATAL(res.blocks.blocks_len, 1);
		CU_ASSERT(store_version_compare(
				  res.blocks.blocks_val[0].block_version, VERSION(9, 1)) == 0);
		rpc_free(RPC_XDR(xdr_store_read_res), &res);
		fixture_end(&fixture);
	}
}

/* Eight groups of version 1, decided, and of version 2, which is on the side b that is then lost:
 * removed, or cut to so many bytes. Opened on a device that fails. */
static void begin_without_side_b(int cut)
{
	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = BLOCKS_8), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, BLOCKS_8);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .count = BLOCKS_8), 0);
	fixture_close(&fixture);
	fixture_side(&fixture, 1, side_b, sizeof(side_b));
	CU_ASSERT_EQUAL(cut < 0 ? unlink(side_b) : truncate(side_b, cut), 0);
	faulty_reset();
	faulty_remember();
	fixture.io = &faulty_io;
	fixture_open(&fixture);
}

/* Version 1 is the newest that there is of a block whose newest one is lost, and must not be told
 * as such. */
static void group_3_is_damaged(void)
{
	for (uint64_t block = 3 * 31; block < 4 * 31; block++)
		CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL), STORE_DAMAGED);
}

static void a_side_made_again_in_part_stays_lost(void)
{
	static const int cuts[] = {-1, 0, 100};

	for (int i = 0; i < 3 * 2 * 12; i++) {
		begin_without_side_b(cuts[i % 3]);
		faulty_writes_left(i / 6);
		PUT(&fixture, .version = VERSION(3, 1));
		faulty_writes_left(-1);
		group_3_is_damaged();
		if (i / 3 % 2 == 0)
			fixture_reopen(&fixture);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 5 * 31), 0);
		CU_ASSERT(IS(&fixture, 5 * 31, VERSION(3, 1), STORE_FINALIZED));
		group_3_is_damaged();
		fixture_reopen(&fixture);
		group_3_is_damaged();
		fixture_end(&fixture);
	}
}

static void a_side_made_again_before_a_loss_of_power_stays_lost(void)
{
	for (uint64_t seed = 1; seed <= 60; seed++) {
		begin_without_side_b(seed % 2 == 0 ? 0 : -1);
		fixture_seed(seed);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .version = VERSION(3, 1), .unstable = seed % 3 != 0), 0);
		faulty_dead(true);
		fixture_close(&fixture);
		faulty_dead(false);
		faulty_power_loss(fixture_random);
		fixture_open(&fixture);
		group_3_is_damaged();
		fixture_end(&fixture);
	}
}

/* A process was killed while it made a side again that is not taken for lost any more. */
static void what_was_left_of_making_a_side_again_goes(void)
{
	for (unsigned int side = 0; side < 2; side++) {
		char unfinished[600];

		begin();
		snprintf(unfinished, sizeof(unfinished), "%s.new", side == 0 ? side_a : side_b);
		CU_ASSERT_EQUAL(link(side_a, unfinished), 0);
		fixture_open(&fixture);
		CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
		CU_ASSERT_EQUAL(access(unfinished, F_OK), -1);
		end();
	}
}

static void another_files_bytes_are_not_taken_for_ones_own(void)
{
	store_file other = {.export_id = 1, .file_id = 0x9999, .segment = 0};
	char path[512], saved[600];

	begin();
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = other, .version = VERSION(1, 1), .count = 100), 0);
	fixture_close(&fixture);
	fixture_side_of(&fixture, other, 0, path, sizeof(path));
	snprintf(saved, sizeof(saved), "%s.saved", path);
	CU_ASSERT_EQUAL(rename(path, saved), 0);
	CU_ASSERT_EQUAL(rename(side_a, path), 0);
	CU_ASSERT_EQUAL(rename(saved, side_a), 0);
	fixture_open(&fixture);
	for (uint64_t block = 0; block < 100; block++)
		CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL), STORE_DAMAGED);
	CU_ASSERT(fixture_logged("is another store file") > 0);
	/* Nothing is written into it: moved back, both are whole. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1)), EIO);
	fixture_sync(&fixture, FIXTURE_FILE);
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(rename(path, saved), 0);
	CU_ASSERT_EQUAL(rename(side_a, path), 0);
	CU_ASSERT_EQUAL(rename(saved, side_a), 0);
	fixture_forget_log();
	fixture_open(&fixture);
	only_damaged(0, 0);
	CU_ASSERT(
		fixture_is(&fixture, &(struct get){.file = other}, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(fixture_logged("is another store file"), 0);
	end();
}

static void a_side_in_the_place_of_the_other_is_noticed(void)
{
	char saved[600];

	begin();
	snprintf(saved, sizeof(saved), "%s.saved", side_a);
	CU_ASSERT_EQUAL(rename(side_a, saved), 0);
	CU_ASSERT_EQUAL(rename(side_b, side_a), 0);
	CU_ASSERT_EQUAL(rename(saved, side_b), 0);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_COMMITTED);
	CU_ASSERT(fixture_logged("is another store file") > 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1)), EIO);
	end();
}

static void truncation_mends_damage(void)
{
	store_truncate_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 1,
		.first_block = 10,
		.block_version = VERSION(20, 1)};
	store_status_res res;

	begin();
	fixture_flip(side_a, RECORD(20), 1);
	fixture_flip(side_b, RECORD(44), 1);
	fixture_open(&fixture);
	store_truncate(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	for (uint64_t block = 10; block < 100; block++)
		CU_ASSERT(IS(&fixture, block, VERSION(20, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 9, VERSION(1, 1), STORE_COMMITTED));
	end();
}

/* Whatever is written over the files: never a crash, never wrong bytes called sound. */
static void random_damage_is_never_served(void)
{
	for (uint64_t seed = 1; seed <= 60; seed++) {
		begin();
		fixture_seed(seed);
		for (int i = 0; i < 40; i++) {
			const char *path = fixture_random() % 2 ? side_a : side_b;
			struct stat status;
			uint64_t offset;

			CU_ASSERT_EQUAL(stat(path, &status), 0);
			offset = fixture_random() % (uint64_t)status.st_size;
			if (fixture_random() % 3 == 0) /* mostly pages */
				offset = offset / GROUP_BYTES * GROUP_BYTES +
					 fixture_random() % 4096;
			if (offset < (uint64_t)status.st_size)
				fixture_flip(path, offset, (unsigned int)(fixture_random() % 8));
		}
		if (seed % 4 == 0)
			CU_ASSERT_EQUAL(truncate(seed % 8 == 0 ? side_a : side_b,
						(off_t)(fixture_random() % (3 * GROUP_BYTES))),
				0);
		fixture_open(&fixture);
		for (uint64_t block = 0; block < 100; block++) {
			uint8_t bytes[8192], expected[8192];
			store_read_block told;

			CU_ASSERT_EQUAL_FATAL(
				fixture_get(&fixture, &(struct get){.block = block}, &told, bytes),
				0);
			if (told.state == STORE_DAMAGED || told.state == STORE_EMPTY)
				continue;
			CU_ASSERT(store_version_compare(told.block_version, VERSION(1, 1)) == 0 ||
				  store_version_compare(told.block_version, VERSION(2, 1)) == 0);
			fixture_bytes(told.block_version, block, 0, expected, told.shard_bytes);
			CU_ASSERT_EQUAL(memcmp(bytes, expected, told.shard_bytes), 0);
		}
		/* Everything can be mended. */
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(30, 1), .count = 100,
					.exact = true, .base = VERSION(29, 1)),
			0);
		fixture_reopen(&fixture);
		for (uint64_t block = 0; block < 100; block++)
			CU_ASSERT(IS(&fixture, block, VERSION(30, 1), STORE_FINALIZED));
		end();
	}
}

static int count_scanned(void *context, const struct store_missed_file *file)
{
	(void)file;
	++*(unsigned int *)context;
	return 0;
}

/* Of a file that cannot be read for want of its shape it is not known that it has no misses. */
static void a_damaged_header_hides_no_missed_writes(void)
{
	unsigned int scanned = 0;

	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 5, .missed = 4), 0);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_close(&fixture);
	fixture_flip(side_a, HEADER(0) + 9, 2);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, count_scanned, &scanned), 0);
	/* Who reads it says what its shape is. */
	CU_ASSERT(IS(&fixture, 5, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, count_scanned, &scanned), 0);
	CU_ASSERT_EQUAL(scanned, 1);
	end();
}

int main(void)
{
	CU_pSuite suite;

	CU_initialize_registry();
	suite = CU_add_suite("store damage", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(a_flipped_bit_in_a_row_is_damage);
	TEST(a_read_goes_around_a_damaged_block);
	TEST(every_flipped_bit_of_a_record_is_damage_of_its_block);
	TEST(a_damaged_record_of_a_fresh_block_is_mended);
	TEST(a_damaged_header_costs_no_block);
	TEST(a_damaged_header_of_a_large_file_holds_nobody_up);
	TEST(nobody_waits_for_others_to_find_a_damaged_header);
	TEST(a_damaged_header_is_found_while_other_files_are_used);
	TEST(a_damaged_header_is_found_behind_an_empty_copy);
	TEST(a_damaged_header_hides_no_missed_writes);
	TEST(a_group_page_of_garbage_damages_its_group_only);
	TEST(a_page_zero_of_garbage_is_survived);
	TEST(a_page_of_zeros_is_told_once);
	TEST(cut_files_are_noticed);
	TEST(a_missing_side_b_is_damage);
	TEST(a_missing_side_a_is_damage);
	TEST(a_side_cut_to_nothing_is_noticed);
	TEST(a_longer_side_made_again_stays_lost);
	TEST(a_longer_side_made_again_in_part_stays_lost);
	TEST(a_side_made_again_makes_no_copy_newer);
	TEST(a_side_made_again_in_part_stays_lost);
	TEST(a_side_made_again_before_a_loss_of_power_stays_lost);
	TEST(what_was_left_of_making_a_side_again_goes);
	TEST(another_files_bytes_are_not_taken_for_ones_own);
	TEST(a_side_in_the_place_of_the_other_is_noticed);
	TEST(truncation_mends_damage);
	TEST(random_damage_is_never_served);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
