/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The shard store: labels, round trips, the version rules one by one, truncation, missed writes,
 * devices and space. Damage and crashes have programs of their own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rpc/crc32c.h"
#include "storaged/store_internal.h"
#include "store_fixture.h"

static struct fixture fixture;

static void begin(void)
{
	fixture_begin(&fixture, 1);
}

static void end(void)
{
	fixture_end(&fixture);
}

/* -------- format -------- */

static void crc32c_is_that_of_rfc3720(void)
{
	uint8_t bytes[32];

	/* RFC 3720, section B.4. */
	memset(bytes, 0, sizeof(bytes));
	CU_ASSERT_EQUAL(rozo_crc32c(bytes, sizeof(bytes)), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	CU_ASSERT_EQUAL(rozo_crc32c(bytes, sizeof(bytes)), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	CU_ASSERT_EQUAL(rozo_crc32c(bytes, sizeof(bytes)), 0x46dd794e);
	CU_ASSERT_EQUAL(rozo_crc32c_more(rozo_crc32c(bytes, 5), bytes + 5, 27), 0x46dd794e);
	CU_ASSERT_EQUAL(rozo_crc32c(NULL, 0), 0);
}

static void shapes_are_those_of_the_format(void)
{
	struct store_shape shape;
	store_file file = FIXTURE_FILE;

	for (uint32_t shard = 0; shard < 6; shard++) {
		CU_ASSERT_EQUAL(store_shape_init(&shape, &file, &fixture_4_2, shard), 0);
		CU_ASSERT_EQUAL(shape.record_bytes, 128);
		CU_ASSERT_EQUAL(shape.rows, 31);
		CU_ASSERT_EQUAL(shape.group_bytes, 32 * 4096);
	}
	/* A plain row has no tail. */
	CU_ASSERT_EQUAL(store_shape_init(&shape, &file,
				&(store_geometry){.form = 1, .k = 4, .m = 2, .row_bytes = 1024}, 0),
		0);
	CU_ASSERT_EQUAL(shape.record_bytes, 64);
	CU_ASSERT_EQUAL(shape.rows, 62);
	CU_ASSERT_EQUAL(shape.group_bytes, 4096 + 16 * 4096);
	CU_ASSERT_EQUAL(store_shape_init(&shape, &file,
				&(store_geometry){.k = 4, .m = 2, .row_bytes = 4100}, 0),
		-EINVAL);
	CU_ASSERT_EQUAL(store_shape_init(&shape, &file,
				&(store_geometry){.k = 300, .m = 2, .row_bytes = 4096}, 0),
		-EINVAL);
	CU_ASSERT_EQUAL(store_shape_init(&shape, &file, &fixture_4_2, 6), -EINVAL);
}

/* A page as format 1 wrote it when it was made: what a later version must still read. */
static void format_1_is_still_read(void)
{
	static const uint8_t header[] = {0x52, 0x7a, 0x6f, 0x53, 0x68, 0x61, 0x72, 0x64};
	store_file file = FIXTURE_FILE;
	struct store_shape shape, found;
	struct store_header_fields fields = {.group = 5,
					   .side = 1,
					   .write_epoch = 9,
					   .groups_durable = 7,
					   .flags = STORE_FLAG_SIDE_B},
				   read;
	struct store_record_fields record = {.version = {.generation = 0x0102030405060708,
						     .writer = 0x1112},
					   .length_bytes = 16384,
					   .shard_bytes = 4096 + 72,
					   .crc32c = 0xcafebabe,
					   .missed = 0x21,
					   .committed = true},
				   got;
	uint8_t page[STORE_PAGE_BYTES], tail[72];

	memset(page, 0, sizeof(page));
	memset(tail, 0x5a, sizeof(tail));
	CU_ASSERT_EQUAL(store_shape_init(&shape, &file, &fixture_4_2, 5), 0);
	store_record_put(page, &shape, 5 * 31 + 30, &record, tail);
	store_header_put(page, &file, &shape, &fields);
	CU_ASSERT_EQUAL(memcmp(page, header, sizeof(header)), 0);
	/* The CRC of the whole page pins every byte of it. */
	CU_ASSERT_EQUAL(rozo_crc32c(page, sizeof(page)), 0x57ad7076);
	CU_ASSERT_EQUAL(store_header_get(page, &file, &read, &found), STORE_HEADER_GOOD);
	CU_ASSERT(store_shape_equal(&shape, &found));
	CU_ASSERT_EQUAL(read.group, 5);
	CU_ASSERT_EQUAL(read.side, 1);
	CU_ASSERT_EQUAL(read.flags, STORE_FLAG_SIDE_B);
	CU_ASSERT_EQUAL(read.write_epoch, 9);
	CU_ASSERT_EQUAL(read.groups_durable, 7);
	store_record_get(page, &shape, 5 * 31 + 30, &got);
	CU_ASSERT_EQUAL(got.kind, STORE_RECORD_GOOD);
	CU_ASSERT_EQUAL(got.version.generation, record.version.generation);
	CU_ASSERT_EQUAL(got.missed, 0x21);
	CU_ASSERT_TRUE(got.committed);
	CU_ASSERT_EQUAL(memcmp(store_record_tail(page, &shape, 5 * 31 + 30), tail, 72), 0);
	/* Another block, another file, another shard: not sound there. */
	memcpy(page + 128, page + 128 + 30 * 128, 128);
	store_record_get(page, &shape, 5 * 31, &got);
	CU_ASSERT_EQUAL(got.kind, STORE_RECORD_DAMAGED);
	CU_ASSERT_EQUAL(store_shape_init(&found, &file, &fixture_4_2, 0), 0);
	store_record_get(page, &found, 5 * 31 + 30, &got);
	CU_ASSERT_EQUAL(got.kind, STORE_RECORD_DAMAGED);
	file.segment++;
	CU_ASSERT_EQUAL(store_header_get(page, &file, NULL, NULL), STORE_HEADER_FOREIGN);
}

static void every_flipped_bit_of_a_record_shows(void)
{
	store_file file = FIXTURE_FILE;
	struct store_shape shape;
	struct store_record_fields record = {.version = VERSION(1, 1),
					   .length_bytes = 100,
					   .shard_bytes = 40,
					   .crc32c = 1},
				   got;
	uint8_t page[STORE_PAGE_BYTES];

	memset(page, 0, sizeof(page));
	store_shape_init(&shape, &file, &fixture_4_2, 1);
	store_record_put(page, &shape, 3, &record, NULL);
	for (size_t bit = 0; bit < 52 * 8; bit++) {
		uint8_t *at = page + 128 + 3 * 128 + bit / 8;

		*at ^= (uint8_t)(1u << bit % 8);
		store_record_get(page, &shape, 3, &got);
		CU_ASSERT_EQUAL(got.kind, STORE_RECORD_DAMAGED);
		*at ^= (uint8_t)(1u << bit % 8);
	}
	store_record_get(page, &shape, 3, &got);
	CU_ASSERT_EQUAL(got.kind, STORE_RECORD_GOOD);
}

/* -------- labels -------- */

static int open_with(
	const char *device, const char *cluster, uint32_t node, char *error, size_t size)
{
	const char *devices[] = {device};
	struct store_options options = {
		.cluster_id = cluster, .node_id = node, .devices = devices, .device_count = 1};
	struct store *store;
	int result = store_open(&store, &options, error, size);

	if (result == 0)
		store_close(store);
	return result;
}

/* Finds the directory the device of node 3 that it is. */
static int init(const char *cluster, uint32_t node, char *error, size_t size)
{
	return store_init_device(NULL, fixture.devices[0], cluster, node, error, size);
}

static void labels_are_checked(void)
{
	char error[1024], path[256];
	FILE *file;

	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(
		open_with(fixture.devices[0], FIXTURE_CLUSTER, 3, error, sizeof(error)), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "in use"));
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(open_with(fixture.devices[0], FIXTURE_CLUSTER, 3, error, sizeof(error)), 0);
	CU_ASSERT_EQUAL(
		open_with(fixture.devices[0], FIXTURE_CLUSTER, 4, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "belongs to node 3, this is node 4"));
	CU_ASSERT_PTR_NOT_NULL(strstr(error, fixture.devices[0]));
	CU_ASSERT_EQUAL(open_with(fixture.devices[0], "other", 3, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "belongs to cluster \"test-cluster\""));
	CU_ASSERT_EQUAL(open_with(fixture.base, "other", 3, error, sizeof(error)), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "--init"));

	/* Not empty: refused, and nothing is changed. */
	CU_ASSERT_EQUAL(
		store_init_device(NULL, fixture.base, FIXTURE_CLUSTER, 3, error, sizeof(error)),
		-ENOTEMPTY);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, fixture.base));
	CU_ASSERT_EQUAL(init(FIXTURE_CLUSTER, 3, error, sizeof(error)), -EEXIST);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "is a device of node 3 already"));
	CU_ASSERT_EQUAL(init(FIXTURE_CLUSTER, 4, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "belongs to node 3, this is node 4"));
	CU_ASSERT_EQUAL(init("x", 3, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "belongs to cluster"));
	/* Also while it is in use. */
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(init(FIXTURE_CLUSTER, 3, error, sizeof(error)), -EEXIST);
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(open_with(fixture.devices[0], FIXTURE_CLUSTER, 3, error, sizeof(error)), 0);
	snprintf(path, sizeof(path), "%s/absent", fixture.base);
	CU_ASSERT_EQUAL(store_init_device(NULL, path, "x", 1, error, sizeof(error)), -ENOENT);

	snprintf(path, sizeof(path), "%s/rozo-label", fixture.devices[0]);
	fixture_flip(path, 30, 1);
	CU_ASSERT_EQUAL(
		open_with(fixture.devices[0], FIXTURE_CLUSTER, 3, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "damaged"));
	file = fopen(path, "w");
	{
		const char *text = "rozo storage device\nformat 2\n";

		fprintf(file, "%scrc32c %08x\n", text, rozo_crc32c(text, strlen(text)));
	}
	fclose(file);
	CU_ASSERT_EQUAL(
		open_with(fixture.devices[0], FIXTURE_CLUSTER, 3, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "format 2"));
	end();
}

/* -------- round trips -------- */

static void shards_come_back(void)
{
	static const struct {
		uint32_t form, k, m;
	} codes[] = {{0, 2, 1}, {0, 4, 2}, {0, 8, 4}, {1, 4, 2}, {0, 16, 8}};
	static const uint32_t rows[] = {1024, 4096, 65536};

	begin();
	for (size_t c = 0; c < 5; c++) {
		for (size_t r = 0; r < 3; r++) {
			store_geometry geometry = {.form = codes[c].form,
				.k = codes[c].k,
				.m = codes[c].m,
				.row_bytes = rows[r]};

			for (uint32_t shard = 0; shard < geometry.k + geometry.m; shard++) {
				store_file file = {.export_id = 7,
					.file_id = 100 + c * 100 + shard,
					.segment = (uint32_t)r};

				/* Whole blocks over several groups, then a cut one. */
				CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .geometry = geometry,
							.shard = shard, .version = VERSION(1, 1),
							.first = 20, .count = 70),
					0);
				CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .geometry = geometry,
							.shard = shard, .version = VERSION(2, 1),
							.first = 90, .length = 1000 + shard),
					0);
				if (shard % 2 == 0)
					fixture_reopen(&fixture);
				for (uint64_t block = 20; block < 91; block++)
					CU_ASSERT_FATAL(fixture_is(&fixture,
						&(struct get){.file = file,
							.geometry = geometry,
							.shard = shard,
							.block = block},
						VERSION(block == 90 ? 2 : 1, 1), STORE_FINALIZED));
			}
		}
	}
	end();
}

static void one_read_brings_many_blocks(void)
{
	store_read_args args = {.file = FIXTURE_FILE, .geometry = fixture_4_2, .count = 200};
	store_read_res res;
	uint8_t expected[8192];
	uint64_t offset = 0;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 10, .count = 50), 0);
	fixture_commit(&fixture, VERSION(1, 1), 10, 20);
	/* Newer versions of some, on side b. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 15, .count = 10,
				.exact = true, .base = VERSION(1, 1)),
		0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 150, .length = 77), 0);
	store_read(fixture.store, &args, &res);
	CU_ASSERT_EQUAL_FATAL(res.status, 0);
	CU_ASSERT_EQUAL_FATAL(res.blocks.blocks_len, 200);
	for (uint64_t i = 0; i < 200; i++) {
		const store_read_block *block = &res.blocks.blocks_val[i];
		uint64_t number = i == 150 ? 3 : i >= 15 && i < 25 ? 2 : i >= 10 && i < 60 ? 1 : 0;

		if (number == 0) {
			CU_ASSERT_EQUAL(block->state, STORE_EMPTY);
			continue;
		}
		CU_ASSERT_EQUAL(store_version_compare(block->block_version, VERSION(number, 1)), 0);
		fixture_bytes(VERSION(number, 1), i, 0, expected, block->shard_bytes);
		CU_ASSERT_EQUAL(
			memcmp(res.payload.payload_val + offset, expected, block->shard_bytes), 0);
		offset += block->shard_bytes;
	}
	CU_ASSERT_EQUAL(res.payload.payload_len, offset);
	rpc_free(RPC_XDR(xdr_store_read_res), &res);

	/* Headers only: the same, without bytes. */
	args.headers_only = 1;
	store_read(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(res.payload.payload_len, 0);
	CU_ASSERT_EQUAL(res.blocks.blocks_val[16].state, STORE_FINALIZED);
	CU_ASSERT_EQUAL(store_version_compare(res.blocks.blocks_val[16].older, VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(res.blocks.blocks_val[12].state, STORE_COMMITTED);
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	end();
}

static void bad_arguments_are_refused(void)
{
	store_read_block told;
	uint8_t byte = 1;
	store_write_block block = {.length_bytes = 1, .shard_bytes = 1, .crc32c = 5};
	store_write_args args = {
		.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.block_version = VERSION(1, 1),
		.blocks = {.blocks_len = 1, .blocks_val = &block},
		.payload = {.payload_len = 1, .payload_val = (char *)&byte},
	};
	store_write_res res;

	begin();
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, EINVAL); /* CRC */
	block.crc32c = rozo_crc32c(&byte, 1);
	args.payload.payload_len = 0;
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, EINVAL);
	args.payload.payload_len = 1;
	args.block_version.generation = 0;
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, EINVAL);
	args.block_version.generation = 1;
	args.first_block = UINT64_MAX;
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, EINVAL);
	args.first_block = 0;
	args.shard = 6;
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, EINVAL);
	args.shard = 0;
	store_write(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	/* The file is what it was made as. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .shard = 1), EINVAL);
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.shard = 1}, &told, NULL), EINVAL);
	CU_ASSERT_EQUAL(fixture_get(&fixture,
				&(struct get){.geometry = {.k = 2, .m = 1, .row_bytes = 4096}},
				&told, NULL),
		EINVAL);
	end();
}

/* -------- versions -------- */

static void a_larger_version_wins(void)
{
	store_write_res res;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1)), 0);
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(4, 1)}, &res), EAGAIN);
	CU_ASSERT_EQUAL(store_version_compare(res.newest, VERSION(5, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(6, 1)), 0);
	CU_ASSERT(IS(&fixture, 0, VERSION(6, 1), STORE_FINALIZED));
	end();
}

static void a_foreign_pending_version_is_a_conflict(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1)), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(6, 2)), EAGAIN);
	CU_ASSERT(IS(&fixture, 0, VERSION(5, 1), STORE_FINALIZED));
	/* Unless the write brings its commit. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(6, 2),
			.commit = {.first_block = 0, .count = 1, .block_version = VERSION(5, 1)}),
		0);
	CU_ASSERT(IS(&fixture, 0, VERSION(6, 2), STORE_FINALIZED));
	/* The committed one is still there below. */
	CU_ASSERT(fixture_is(
		&fixture, &(struct get){.version = VERSION(5, 1)}, VERSION(5, 1), STORE_COMMITTED));
	/* Or it is committed already. */
	fixture_commit(&fixture, VERSION(6, 2), 0, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(7, 3)), 0);
	end();
}

static void an_exact_base_guards(void)
{
	store_write_res res;

	begin();
	/* A fresh block has base 0. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .exact = true), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 2), .exact = true), EAGAIN);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 2), .exact = true, .base = VERSION(1, 1)), 0);
	/* The base became committed, and stays readable. */
	CU_ASSERT(fixture_is(
		&fixture, &(struct get){.version = VERSION(1, 1)}, VERSION(1, 1), STORE_COMMITTED));
	CU_ASSERT_EQUAL(
		fixture_put(&fixture,
			&(struct put){
				.version = VERSION(3, 3), .exact = true, .base = VERSION(1, 1)},
			&res),
		EAGAIN);
	CU_ASSERT_EQUAL(store_version_compare(res.newest, VERSION(2, 2)), 0);
	/* This node missed the base. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(9, 3), .exact = true, .base = VERSION(8, 3)), 0);
	CU_ASSERT(IS(&fixture, 0, VERSION(9, 3), STORE_FINALIZED));
	/* A base that is not older is nonsense. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(9, 3), .exact = true, .base = VERSION(9, 3)),
		EINVAL);
	end();
}

static void a_chain_of_bases_alternates_sides(void)
{
	char path[512];
	struct stat status;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	fixture_side(&fixture, 1, path, sizeof(path));
	CU_ASSERT_EQUAL(stat(path, &status), -1); /* fresh blocks need no second side */
	for (uint64_t n = 2; n < 20; n++) {
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(n, n), .exact = true,
					.base = VERSION(n - 1, n - 1 == 1 ? 1 : n - 1)),
			0);
		CU_ASSERT(IS(&fixture, 0, VERSION(n, n), STORE_FINALIZED));
		CU_ASSERT(fixture_is(&fixture, &(struct get){.version = VERSION(n - 1, n - 1)},
			VERSION(n - 1, n - 1), STORE_COMMITTED));
		if (n % 5 == 0)
			fixture_reopen(&fixture);
	}
	end();
}

static void a_pending_version_gives_way_and_the_committed_one_stays(void)
{
	store_read_block told;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 1);
	for (uint64_t n = 2; n < 6; n++) {
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(n, 1)), 0);
		CU_ASSERT(IS(&fixture, 0, VERSION(n, 1), STORE_FINALIZED));
		CU_ASSERT(fixture_is(&fixture, &(struct get){.version = VERSION(1, 1)},
			VERSION(1, 1), STORE_COMMITTED));
		CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){0}, &told, NULL), 0);
		CU_ASSERT_EQUAL(store_version_compare(told.older, VERSION(1, 1)), 0);
	}
	fixture_discard(&fixture, VERSION(5, 1), 0, 1);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	/* A committed one cannot be discarded. */
	fixture_discard(&fixture, VERSION(1, 1), 0, 1);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	fixture_reopen(&fixture);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void an_undecided_base_gives_way(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(4, 1), .undecided = true, .base = VERSION(2, 1)),
		0);
	CU_ASSERT(IS(&fixture, 0, VERSION(4, 1), STORE_FINALIZED));
	CU_ASSERT(fixture_is(
		&fixture, &(struct get){.version = VERSION(1, 1)}, VERSION(1, 1), STORE_COMMITTED));
	/* Anything but the base is a conflict, decided or not, and so is nothing at all. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(5, 1), .undecided = true, .base = VERSION(3, 1)),
		EAGAIN);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(9, 1), .undecided = true, .base = VERSION(8, 1)),
		EAGAIN);
	fixture_commit(&fixture, VERSION(4, 1), 0, 1);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(9, 1), .undecided = true, .base = VERSION(8, 1)),
		EAGAIN);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1), .undecided = true,
				.base = VERSION(8, 1), .first = 1),
		EAGAIN);
	/* It may have been settled meanwhile: then it stays, beside the new one. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(9, 1), .undecided = true, .base = VERSION(4, 1)),
		0);
	CU_ASSERT(fixture_is(
		&fixture, &(struct get){.version = VERSION(4, 1)}, VERSION(4, 1), STORE_COMMITTED));
	end();
}

static void a_discarded_first_version_leaves_nothing(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 40), 0);
	fixture_discard(&fixture, VERSION(1, 1), 10, 20);
	fixture_discard(&fixture, VERSION(7, 1), 0, 40); /* another version: left alone */
	for (uint64_t block = 0; block < 40; block++)
		CU_ASSERT_EQUAL(fixture_state(&fixture, block, NULL),
			block >= 10 && block < 30 ? STORE_EMPTY : STORE_FINALIZED);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 2), .first = 15, .exact = true), 0);
	CU_ASSERT(IS(&fixture, 15, VERSION(2, 2), STORE_FINALIZED));
	end();
}

static void a_committed_version_hides_the_older(void)
{
	store_read_block told;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)), 0);
	fixture_commit(&fixture, VERSION(2, 1), 0, 1);
	CU_ASSERT_EQUAL(
		fixture_get(&fixture, &(struct get){.version = VERSION(1, 1)}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.state, STORE_EMPTY);
	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){0}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.state, STORE_COMMITTED);
	CU_ASSERT_EQUAL(told.older.generation, 0);
	CU_ASSERT_EQUAL(
		fixture_get(&fixture, &(struct get){.version = VERSION(3, 1)}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.state, STORE_EMPTY);
	end();
}

static void a_conflict_in_one_block_writes_none(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1), .first = 99), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 99);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1), .count = 100), EAGAIN);
	for (uint64_t block = 0; block < 99; block++)
		CU_ASSERT(IS(&fixture, block, VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void the_same_write_twice_is_done_once(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 3);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)), 0);
	/* The answer was lost, the caller sends again. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)), 0);
	/* Other bytes under the same version are not the same write. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .salt = 1), EAGAIN);
	CU_ASSERT(IS(&fixture, 0, VERSION(2, 1), STORE_FINALIZED));
	end();
}

static void an_old_epoch_is_refused_also_after_a_restart(void)
{
	store_write_res res;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 3), 0);
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(2, 1), .epoch = 2}, &res),
		ESTALE);
	CU_ASSERT_EQUAL(res.write_epoch, 3);
	/* The epoch rises by a write far from page 0. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 2), .epoch = 5, .first = 500), 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(
		fixture_put(&fixture, &(struct put){.version = VERSION(9, 1), .epoch = 4}, &res),
		ESTALE);
	CU_ASSERT_EQUAL(res.write_epoch, 5);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1), .epoch = 5), 0);
	end();
}

/* Reads a header and asks for a promise to refuse. */
static uint32_t ask_to_refuse(store_version version)
{
	store_read_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.count = 1,
		.headers_only = 1,
		.refuse = version};
	store_read_res res;

	store_read(fixture.store, &args, &res);
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	return res.status;
}

static void have_refused(store_version version)
{
	CU_ASSERT_EQUAL(ask_to_refuse(version), 0);
}

static void promises_outlive_a_restart_also_of_an_empty_store(void)
{
	begin();
	have_refused(VERSION(5, 1));
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1)), EAGAIN);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(6, 1)), 0);
	have_refused(VERSION(8, 1));
	/* An older promise takes nothing back. */
	have_refused(VERSION(7, 1));
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(8, 1), .first = 3), EAGAIN);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1), .first = 3), 0);
	/* What is known to be decided elsewhere is taken. */
	store_version decided = VERSION(4, 1);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = decided, .first = 20,
			.commit = {.first_block = 20, .count = 1, .block_version = decided}),
		0);
	end();
}

static void truncation_fences_a_store_without_the_file(void)
{
	store_truncate_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 7,
		.block_version = {.generation = UINT64_C(7) << 40}};
	store_status_res res;

	begin();
	store_truncate(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 6), ESTALE);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 6), ESTALE);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 7), 0);
	end();
}

/* What readers of block 2 are told while a flush is under way. */
static struct {
	bool on;
	unsigned int pending, torn;
	uint32_t write_epoch, durable_epoch; /* the newest */
} watch;

static void tell_epochs(uint32_t *state, uint32_t *write_epoch, uint32_t *durable_epoch)
{
	store_read_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.first_block = 2,
		.count = 1,
		.headers_only = 1};
	store_read_res res = {0};

	store_read(fixture.store, &args, &res);
	*state = res.status == 0 ? res.blocks.blocks_val[0].state : STORE_EMPTY;
	*write_epoch = res.write_epoch;
	*durable_epoch = res.durable_epoch;
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
}

static int watched_sync(int descriptor)
{
	uint32_t state, write_epoch, durable_epoch;

	if (watch.on) {
		tell_epochs(&state, &write_epoch, &durable_epoch);
		watch.pending += state == STORE_PENDING;
		watch.torn += state == STORE_TORN;
		watch.write_epoch = MAX(watch.write_epoch, write_epoch);
		watch.durable_epoch = MAX(watch.durable_epoch, durable_epoch);
	}
	return store_io_posix.sync_data(descriptor);
}

static void begin_watched(void)
{
	static struct store_io watched;

	watched = store_io_posix;
	watched.sync_data = watched_sync;
	memset(&watch, 0, sizeof(watch));
	begin();
	fixture_close(&fixture);
	fixture.io = &watched;
	fixture_open(&fixture);
}

static void end_watched(void)
{
	watch.on = false;
	end();
}

static void a_record_of_a_miss_is_pending_until_it_is_durable(void)
{
	store_missed_args args = {.file = FIXTURE_FILE,
		.first_block = 2,
		.count = 1,
		.block_version = VERSION(1, 1),
		.missed = 4};
	store_status_res res;

	begin_watched();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_FINALIZED));
	/* Who reads the record takes it for one that a loss of power does not undo. */
	watch.on = true;
	store_missed(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT(watch.pending > 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_FINALIZED));
	/* That nobody missed it any more needs no such care. */
	args.clear = 1;
	watch.pending = 0;
	store_missed(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(watch.pending, 0);
	end_watched();
}

/* As after a loss of power: the record of block 2 is there, its row is not. */
static void tear_block_2(void)
{
	char path[256];

	fixture_close(&fixture);
	fixture_side(&fixture, 0, path, sizeof(path));
	int fd = open(path, O_RDWR);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(pwrite(fd, "torn", 4, 4096 + 2 * 4096), 4);
	close(fd);
	fixture_open(&fixture);
}

static void what_is_torn_is_not_completed_once_it_is_refused(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	tear_block_2();
	/* A message that comes twice completes it. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 2), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_FINALIZED));
	/* Not so when somebody was told that it is not here and will not be. */
	tear_block_2();
	have_refused(VERSION(4, 1));
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 2), EAGAIN);
	/* What is sound is here, and was when the promise was made. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 1), 0);
	end();
}

static void what_is_torn_stays_so_while_a_miss_is_recorded(void)
{
	const store_missed_args args = {.file = FIXTURE_FILE,
		.first_block = 2,
		.count = 1,
		.block_version = VERSION(1, 1),
		.missed = 4};
	store_status_res res;

	begin_watched();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	tear_block_2();
	/* Its row is not there: whoever counts holders must not take it for one. */
	watch.on = true;
	store_missed(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT(watch.torn > 0);
	CU_ASSERT_EQUAL(watch.pending, 0);
	end_watched();
}

static void what_was_healed_is_not_dropped_by_who_asked_before(void)
{
	store_missed_args healed = {.file = FIXTURE_FILE,
		.count = 1,
		.block_version = VERSION(1, 1),
		.missed = 1u << 3,
		.clear = 1};
	store_decided run = {.count = 1, .block_version = VERSION(1, 1)};
	store_commit_args drop = {.file = FIXTURE_FILE,
		.discard = 1,
		.unless_missed = 1u << 3 | 1u << 4,
		.stable = 1,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_write_res written;
	store_status_res res;

	begin();
	CU_ASSERT_EQUAL(
		fixture_put(&fixture,
			&(struct put){.version = VERSION(1, 1), .missed = 1u << 3 | 1u << 4},
			&written),
		0);
	/* Shard 3 has been made. A message from before that says: drop it if 3 and 4 lack it. */
	store_missed(fixture.store, &healed, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	drop.boot = written.boot;
	store_commit(fixture.store, &drop, &res);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_COMMITTED));
	end();
}

static void an_epoch_is_called_durable_when_it_is(void)
{
	store_truncate_args fence = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 3,
		.first_block = 100,
		.block_version = {.generation = UINT64_C(3) << 40}};
	uint32_t state, write_epoch, durable_epoch;
	store_status_res res;

	begin_watched();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	tell_epochs(&state, &write_epoch, &durable_epoch);
	CU_ASSERT_EQUAL(write_epoch, 1);
	CU_ASSERT_EQUAL(durable_epoch, 1);
	watch.on = true;
	store_truncate(fixture.store, &fence, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(watch.write_epoch, 3);
	CU_ASSERT(watch.durable_epoch < 3);
	watch.on = false;
	tell_epochs(&state, &write_epoch, &durable_epoch);
	CU_ASSERT_EQUAL(durable_epoch, 3);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
	tell_epochs(&state, &write_epoch, &durable_epoch);
	CU_ASSERT_EQUAL(durable_epoch, 3);
	end_watched();
}

/* Writes fail, or are counted, as a test says. */
static struct {
	int left; /* writes until all fail; negative: none */
	unsigned int syncs;
	bool die; /* the process is killed in its next flush */
	uint64_t bad_offset; /* no read there succeeds; 0: all do */
	int directory_error; /* of flushing directories of shards */
	unsigned int directory_syncs; /* that succeeded */
} faults;

static int faulty_sync_directory(const char *path)
{
	if (strstr(path, "/shards/1/") != NULL && faults.directory_error != 0)
		return faults.directory_error;
	faults.directory_syncs++;
	return store_io_posix.sync_directory(path);
}

static ssize_t faulty_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (faults.bad_offset != 0 && offset == faults.bad_offset)
		return -EIO;
	return store_io_posix.read(descriptor, parts, count, offset);
}

static ssize_t faulty_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	if (faults.left == 0)
		return -ENOSPC;
	if (faults.left > 0)
		faults.left--;
	return store_io_posix.write(descriptor, parts, count, offset);
}

static int faulty_sync(int descriptor)
{
	if (faults.die)
		_exit(0);
	faults.syncs++;
	return store_io_posix.sync_data(descriptor);
}

static void begin_faulty(void)
{
	static struct store_io io;

	io = store_io_posix;
	io.read = faulty_read;
	io.write = faulty_write;
	io.sync_data = faulty_sync;
	io.sync_directory = faulty_sync_directory;
	memset(&faults, 0, sizeof(faults));
	faults.left = -1;
	begin();
	fixture_close(&fixture);
	fixture.io = &io;
	fixture_open(&fixture);
}

static void a_promise_that_could_not_be_written_is_not_given(void)
{
	begin_faulty();
	faults.left = 0;
	CU_ASSERT_NOT_EQUAL(ask_to_refuse(VERSION(5, 1)), 0);
	faults.left = -1;
	/* The same question again. */
	CU_ASSERT_EQUAL(ask_to_refuse(VERSION(5, 1)), 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1)), EAGAIN);
	end();
}

static bool in_service(void)
{
	struct store_capacity device;

	store_capacity(fixture.store, &device, 1);
	return device.in_service;
}

/* Many want the same block before it is healed: one bad sector is not a bad disk. */
static void a_row_that_cannot_be_read_does_not_cost_the_device(void)
{
	store_read_block block;

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 100);
	faults.bad_offset = 3 * 32 * 4096 + 4096 + 2 * 4096;
	for (unsigned int i = 0; i < 40; i++) {
		CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.block = 95}, &block, NULL), 0);
		CU_ASSERT_EQUAL(block.state, STORE_DAMAGED);
	}
	CU_ASSERT(in_service());
	CU_ASSERT(IS(&fixture, 7, VERSION(1, 1), STORE_COMMITTED));
	/* It can be written again. */
	faults.bad_offset = 0;
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 95), 0);
	CU_ASSERT(IS(&fixture, 95, VERSION(1, 1), STORE_COMMITTED));
	/* These are many. */
	for (uint64_t number = 0; number < 31; number++) {
		CU_ASSERT(in_service());
		faults.bad_offset = 4096 + number * 4096;
		fixture_get(&fixture, &(struct get){.block = number}, &block, NULL);
	}
	CU_ASSERT(!in_service());
	end();
}

static void a_page_that_cannot_be_read_does_not_end_the_check(void)
{
	const store_file file = FIXTURE_FILE;
	const uint64_t group_bytes = 32 * 4096;
	struct store_check check = {0};
	uint64_t blocks = 0, unreadable = 0, bad = 0, bad_block = 0;
	char path[512];

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	fixture_side(&fixture, 0, path, sizeof(path));
	fixture_flip(path, 3 * group_bytes + 4096 + 2 * 4096, 1); /* the row of block 95 */
	faults.bad_offset = group_bytes;
	for (uint64_t next = 0; next != UINT64_MAX; next = check.next_block) {
		CU_ASSERT_EQUAL_FATAL(
			store_check_blocks(fixture.store, &file, next, UINT64_MAX, &check), 0);
		blocks += check.blocks;
		unreadable += check.unreadable;
		bad += check.bad_count;
		if (check.bad_count > 0)
			bad_block = check.bad[0];
	}
	CU_ASSERT_EQUAL(blocks, 100 - 31);
	CU_ASSERT_EQUAL(unreadable, 31);
	CU_ASSERT_EQUAL(bad, 1);
	CU_ASSERT_EQUAL(bad_block, 95);
	/* It counts against the device as one error. */
	CU_ASSERT_EQUAL(fixture.store->devices[0].errors, 1);
	/* From the middle of the group on. */
	CU_ASSERT_EQUAL(store_check_blocks(fixture.store, &file, 40, 1, &check), 0);
	CU_ASSERT_EQUAL(check.unreadable, 1);
	CU_ASSERT_EQUAL(check.next_block, 41);
	end();
}

/* Files by the number of the error that flushing their directory gives. */
static store_file flushed_with(int error)
{
	return (store_file){.export_id = 1, .file_id = (uint64_t)error + 10};
}

static uint32_t state_in(store_file file)
{
	store_read_block told;

	CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.file = file}, &told, NULL), 0);
	return told.state;
}

static void a_directory_that_cannot_be_opened_now_is_flushed_later(void)
{
	static const int errors[] = {EMFILE, ENFILE, ENOMEM};

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	for (unsigned int i = 0; i < 3; i++) {
		const store_file file = flushed_with(errors[i]);

		/* Two of them are new to the log, one has a record there. */
		if (i == 0)
			CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .version = VERSION(1, 1)), 0);
		faults.directory_error = -errors[i];
		CU_ASSERT_EQUAL(
			PUT(&fixture, .file = file, .version = VERSION(2, 1), .count = 64), EIO);
		CU_ASSERT_EQUAL(state_in(file), STORE_PENDING);
		CU_ASSERT_EQUAL(fixture_sync(&fixture, file), EIO);
		CU_ASSERT_EQUAL(state_in(file), STORE_PENDING);
		CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .version = VERSION(2, 1), .first = 70,
					.unstable = true),
			0);
		faults.directory_error = 0;
		faults.syncs = faults.directory_syncs = 0;
		CU_ASSERT_EQUAL(fixture_sync(&fixture, file), 0);
		CU_ASSERT_EQUAL(state_in(file), STORE_FINALIZED);
		CU_ASSERT(faults.syncs >= 1 && faults.directory_syncs == 1);
		CU_ASSERT_EQUAL(
			PUT(&fixture, .file = file, .version = VERSION(2, 1), .first = 80), 0);
	}
	CU_ASSERT_EQUAL(fixture_logged("restarted"), 0);
	/* The log was not kept from being emptied. */
	fixture_forget_log();
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(fixture_logged("not stopped cleanly"), 0);
	CU_ASSERT_EQUAL(state_in(flushed_with(EMFILE)), STORE_FINALIZED);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	/* A flush that failed is none that was not begun. */
	faults.directory_error = -EIO;
	CU_ASSERT_EQUAL(
		PUT(&fixture, .file = flushed_with(EIO), .version = VERSION(1, 1), .count = 64),
		EIO);
	faults.directory_error = 0;
	CU_ASSERT_EQUAL(fixture_sync(&fixture, flushed_with(EIO)), EIO);
	end();
}

static void files_that_cannot_be_flushed_now_stay_open(void)
{
	begin_faulty();
	fixture_close(&fixture);
	fixture.open_files_max = 2;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	faults.directory_error = -EMFILE;
	for (uint64_t id = 1; id <= 8; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1), .count = 64, .unstable = true),
			0);
	for (uint64_t id = 1; id <= 8; id++)
		CU_ASSERT_EQUAL(
			state_in((store_file){.export_id = 1, .file_id = id}), STORE_PENDING);
	CU_ASSERT(fixture.store->file_count >= 8);
	faults.directory_error = 0;
	for (uint64_t id = 1; id <= 8; id++)
		CU_ASSERT_EQUAL(
			fixture_sync(&fixture, (store_file){.export_id = 1, .file_id = id}), 0);
	CU_ASSERT(fixture.store->file_count <= 2);
	/* Nor do they keep the store from being closed. */
	CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = 9},
				.version = VERSION(1, 1), .count = 64, .unstable = true),
		0);
	faults.directory_error = -EMFILE;
	fixture_close(&fixture);
	faults.directory_error = 0;
	fixture_open(&fixture);
	end();
}

static void an_epoch_that_could_not_be_written_is_written_by_the_next_truncation(void)
{
	store_truncate_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = 7,
		.block_version = {.generation = UINT64_C(7) << 40}};
	store_status_res res;

	begin_faulty();
	faults.left = 0;
	store_truncate(fixture.store, &args, &res);
	CU_ASSERT_NOT_EQUAL(res.status, 0);
	faults.left = -1;
	store_truncate(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .epoch = 6), ESTALE);
	end();
}

/* The store is killed while it flushes; what it wrote is in the system's memory only. */
static void killed_in_its_flush(void (*work)(void))
{
	fixture_close(&fixture);
	pid_t child = fork();
	if (child == 0) {
		fixture_open(&fixture);
		faults.die = true;
		work();
		_exit(1);
	}
	int status = -1;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_EQUAL(status, 0);
	fixture_open(&fixture);
	faults.syncs = 0;
}

static void promise_5(void)
{
	ask_to_refuse(VERSION(5, 1));
}

static void a_promise_of_a_killed_process_is_flushed_before_it_is_given_again(void)
{
	begin_faulty();
	fixture.log_bytes = 0;
	killed_in_its_flush(promise_5);
	CU_ASSERT_EQUAL(ask_to_refuse(VERSION(5, 1)), 0);
	CU_ASSERT(faults.syncs > 0);
	end();
}

static uint32_t miss_4(void)
{
	const store_missed_args args = {
		.file = FIXTURE_FILE, .count = 1, .block_version = VERSION(1, 1), .missed = 4};
	store_status_res res;

	store_missed(fixture.store, &args, &res);
	return res.status;
}

static void miss(void)
{
	miss_4();
}

static void a_record_of_a_killed_process_is_flushed_before_it_counts(void)
{
	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	killed_in_its_flush(miss);
	CU_ASSERT_EQUAL(miss_4(), 0);
	CU_ASSERT(faults.syncs > 0);
	end();
}

static uint32_t discard_unless(void)
{
	store_decided run = {.first_block = 2, .count = 1, .block_version = VERSION(1, 1)};
	store_commit_args args = {.file = FIXTURE_FILE,
		.discard = 1,
		.unless_missed = 4,
		.boot = 0,
		.stable = 1,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;
	store_read_args read = {.file = FIXTURE_FILE, .geometry = fixture_4_2, .count = 1};
	store_read_res told;

	store_read(fixture.store, &read, &told);
	args.boot = told.boot;
	rpc_free(RPC_XDR(xdr_store_read_res), &told);
	store_commit(fixture.store, &args, &res);
	return res.status;
}

static struct {
	pthread_t thread;
	bool started;
	atomic_bool flushed; /* the flush is over */
	bool told_before; /* a reader was told before that that the block is empty */
} dropping;

static void *read_what_is_dropped(void *context)
{
	uint32_t state, write_epoch, durable_epoch;

	tell_epochs(&state, &write_epoch, &durable_epoch);
	dropping.told_before = state == STORE_EMPTY && !atomic_load(&dropping.flushed);
	return context;
}

static int slow_sync(int descriptor)
{
	int error;

	if (!watch.on)
		return store_io_posix.sync_data(descriptor);
	if (!dropping.started) {
		dropping.started = true;
		pthread_create(&dropping.thread, NULL, read_what_is_dropped, NULL);
	}
	/* Time enough for a reader that does not wait. */
	usleep(300000);
	error = store_io_posix.sync_data(descriptor);
	atomic_store(&dropping.flushed, true);
	return error;
}

static void what_is_dropped_is_not_told_as_gone_before_that_is_durable(void)
{
	static struct store_io io;

	begin();
	io = store_io_posix;
	io.sync_data = slow_sync;
	fixture_close(&fixture);
	fixture.io = &io;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3), 0);
	dropping.started = false;
	watch.on = true;
	CU_ASSERT_EQUAL(discard_unless(), 0);
	watch.on = false;
	CU_ASSERT_FATAL(dropping.started);
	pthread_join(dropping.thread, NULL);
	CU_ASSERT(!dropping.told_before);
	end();
}

static void a_write_that_ran_out_of_space_says_that_it_may_have_written(void)
{
	store_write_res res;

	begin_faulty();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .unstable = true, .count = 40), 0);
	/* Unstable again: over its own, as its writer says. Rows of one group, then no more. */
	faults.left = 1;
	uint32_t status = fixture_put(&fixture,
		&(struct put){.version = VERSION(2, 1), .unstable = true, .count = 40}, &res);
	faults.left = -1;
	CU_ASSERT_NOT_EQUAL(status, 0);
	/* EIO tells the writer that what it replaced may be gone; ENOSPC that it is there. */
	if (status == ENOSPC)
		CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_PENDING));
	end();
}

static void unstable_writes_are_pending_until_synced(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3, .unstable = true), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 40, .unstable = true), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_PENDING));
	CU_ASSERT(IS(&fixture, 40, VERSION(1, 1), STORE_PENDING));
	CU_ASSERT_EQUAL(fixture_sync(&fixture, FIXTURE_FILE), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 40, VERSION(1, 1), STORE_FINALIZED));
	/* A neighbour in the same group does not make them less durable. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 5, .unstable = true), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 5, VERSION(1, 1), STORE_PENDING));
	CU_ASSERT_EQUAL(fixture_sync(&fixture, (store_file){.export_id = 9}), 0);
	end();
}

/* -------- truncation, removal, stat -------- */

static uint32_t truncate_at(uint64_t first, store_version version, uint32_t epoch, uint32_t missed)
{
	store_truncate_args args = {.file = FIXTURE_FILE,
		.geometry = fixture_4_2,
		.write_epoch = epoch,
		.first_block = first,
		.block_version = version,
		.missed = missed};
	store_status_res res;

	store_truncate(fixture.store, &args, &res);
	return res.status;
}

static uint32_t stat_of(uint64_t *count)
{
	store_stat_args args = {.file = FIXTURE_FILE};
	store_stat_res res;

	store_stat(fixture.store, &args, &res);
	*count = res.block_count;
	return res.status;
}

static void truncation_empties_and_gives_space_back(void)
{
	uint64_t before, count;
	store_read_block told;

	begin();
	CU_ASSERT_EQUAL(truncate_at(0, VERSION(1, 1), 1, 0), 0); /* nothing there: no error */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 1000), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 500, .count = 100,
				.exact = true, .base = VERSION(1, 1)),
		0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(9, 1), .first = 700), 0);
	before = fixture_allocated(&fixture);
	CU_ASSERT_EQUAL(stat_of(&count), 0);
	CU_ASSERT_EQUAL(count, 1000);
	CU_ASSERT_EQUAL(truncate_at(10, VERSION(5, 4), 1, 0), 0);
	CU_ASSERT(before - fixture_allocated(&fixture) > 1000 * 4096);
	for (int again = 0; again < 2; again++) {
		CU_ASSERT(IS(&fixture, 9, VERSION(1, 1), STORE_FINALIZED));
		for (uint64_t block = 10; block < 1000; block++) {
			CU_ASSERT_EQUAL(
				fixture_get(&fixture, &(struct get){.block = block}, &told, NULL),
				0);
			if (block == 700)
				continue;
			CU_ASSERT_EQUAL(told.state, STORE_FINALIZED);
			CU_ASSERT_EQUAL(told.length_bytes, 0);
			CU_ASSERT_EQUAL(told.older.generation, 0);
			CU_ASSERT_EQUAL(
				store_version_compare(told.block_version, VERSION(5, 4)), 0);
		}
		CU_ASSERT(IS(&fixture, 700, VERSION(9, 1), STORE_FINALIZED)); /* newer: stays */
		CU_ASSERT_EQUAL(fixture_state(&fixture, 1000, NULL), STORE_EMPTY);
		CU_ASSERT_EQUAL(truncate_at(10, VERSION(5, 4), 1, 0), 0); /* twice is harmless */
		fixture_reopen(&fixture);
	}
	CU_ASSERT_EQUAL(stat_of(&count), 0);
	CU_ASSERT_EQUAL(count, 701);
	CU_ASSERT_EQUAL(truncate_at(0, VERSION(10, 4), 1, 0), 0);
	CU_ASSERT_EQUAL(stat_of(&count), 0);
	CU_ASSERT_EQUAL(count, 0);
	CU_ASSERT_EQUAL(truncate_at(0, VERSION(11, 4), 7, 0), 0);
	CU_ASSERT_EQUAL(truncate_at(0, VERSION(12, 4), 6, 0), ESTALE);
	end();
}

/*
 * As after a truncation of what only this store had. Where few others are left, a version that is
 * refused here may stay in doubt.
 */
static void what_is_based_on_nothing_may_follow_an_emptiness(void)
{
	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 2), 0);
	CU_ASSERT_EQUAL(truncate_at(0, VERSION(5, 4), 1, 0), 0);
	/* Nobody has said that it is decided. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(6, 1), .exact = true), EAGAIN);
	fixture_commit(&fixture, VERSION(5, 4), 0, 2);
	CU_ASSERT(IS(&fixture, 1, VERSION(5, 4), STORE_COMMITTED));
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1), .exact = true), EAGAIN);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(6, 1), .exact = true, .base = VERSION(1, 1)),
		EAGAIN);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(6, 1), .exact = true), 0);
	CU_ASSERT(IS(&fixture, 0, VERSION(6, 1), STORE_FINALIZED));
	/* What has bytes again is not nothing. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(7, 1), .exact = true), EAGAIN);
	fixture_reopen(&fixture);
	CU_ASSERT(IS(&fixture, 0, VERSION(6, 1), STORE_FINALIZED));
	end();
}

static void removal_removes(void)
{
	store_remove_args args = {.file = FIXTURE_FILE};
	store_status_res res;
	uint64_t count, empty;
	char path[512];

	begin();
	CU_ASSERT_EQUAL(stat_of(&count), ENOENT);
	store_remove(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	empty = fixture_allocated(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100, .missed = 2,
				.unstable = true),
		0);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)), 0);
	store_remove(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_EMPTY);
	CU_ASSERT_EQUAL(stat_of(&count), ENOENT);
	for (unsigned int side = 0; side < 2; side++) {
		fixture_side(&fixture, side, path, sizeof(path));
		CU_ASSERT_EQUAL(access(path, F_OK), -1);
	}
	/* But for directories (the export, its 64, a half-full one), all space is back. */
	CU_ASSERT(fixture_allocated(&fixture) <= empty + 67 * 4096);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 9)), 0);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 9), STORE_FINALIZED));
	end();
}

static void a_block_written_empty_is_empty(void)
{
	uint64_t count;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 4), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 3, .empty = true,
				.exact = true, .base = VERSION(1, 1)),
		0);
	CU_ASSERT(IS(&fixture, 3, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(stat_of(&count), 0);
	CU_ASSERT_EQUAL(count, 3);
	end();
}

/* -------- missed writes -------- */

static struct store_missed_file scanned[4];
static unsigned int scanned_count;

static int note_scanned(void *context, const struct store_missed_file *file)
{
	(void)context;
	if (scanned_count < 4)
		scanned[scanned_count] = *file;
	scanned_count++;
	return 0;
}

static uint32_t change_missed(
	store_version version, uint64_t first, uint32_t count, uint32_t missed, bool clear)
{
	store_missed_args args = {.file = FIXTURE_FILE,
		.first_block = first,
		.count = count,
		.block_version = version,
		.missed = missed,
		.clear = clear};
	store_status_res res;

	store_missed(fixture.store, &args, &res);
	return res.status;
}

static uint32_t drop_unless_missed(
	store_version version, uint64_t block, uint32_t missed, uint64_t boot)
{
	store_decided run = {.first_block = block, .count = 1, .block_version = version};
	const store_commit_args args = {.file = FIXTURE_FILE,
		.discard = 1,
		.unless_missed = missed,
		.boot = boot,
		.stable = 1,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;

	store_commit(fixture.store, &args, &res);
	return res.status;
}

/* Whoever settles a version in doubt, and its writer, which records who missed it: the first wins.
 */
static void what_is_in_doubt_goes_unless_the_misses_are_on_record(void)
{
	store_version version = {0};
	uint64_t boot;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 4), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 4);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .count = 4, .missed = 0x20), 0);
	boot = store_boot(fixture.store);
	/* On record: it stays. Before a restart, another one's answers: nothing is done. */
	CU_ASSERT_EQUAL(drop_unless_missed(VERSION(2, 1), 0, 0x20, boot), 0);
	CU_ASSERT_EQUAL(drop_unless_missed(VERSION(2, 1), 0, 0x21, boot + 1), EAGAIN);
	fixture_state(&fixture, 0, &version);
	CU_ASSERT_EQUAL(version.generation, VERSION(2, 1).generation);
	/* One of them is not: it goes, for good, and can be recorded of no more. */
	CU_ASSERT_EQUAL(drop_unless_missed(VERSION(2, 1), 0, 0x21, boot), 0);
	fixture_reopen(&fixture);
	fixture_state(&fixture, 0, &version);
	CU_ASSERT_EQUAL(version.generation, VERSION(1, 1).generation);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 1), 0, 1, 0x1, false), EAGAIN);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 1), 0, 1, 0x1, true), 0);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 1), 3, 200, 0x1, false), EAGAIN);
	/* The other way round. */
	boot = store_boot(fixture.store);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 1), 1, 1, 0x1, false), 0);
	CU_ASSERT_EQUAL(drop_unless_missed(VERSION(2, 1), 1, 0x21, boot), 0);
	fixture_state(&fixture, 1, &version);
	CU_ASSERT_EQUAL(version.generation, VERSION(2, 1).generation);
	/* What is known to be decided never goes. */
	fixture_commit(&fixture, VERSION(2, 1), 2, 1);
	CU_ASSERT_EQUAL(drop_unless_missed(VERSION(2, 1), 2, 0x1, boot), 0);
	fixture_state(&fixture, 2, &version);
	CU_ASSERT_EQUAL(version.generation, VERSION(2, 1).generation);
	end();
}

static void missed_writes_are_recorded_and_found(void)
{
	struct store_missed_block blocks[8];
	store_read_block told;
	uint64_t next;
	size_t count;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100, .shard = 2), 0);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 0);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .version = VERSION(2, 1), .first = 90, .missed = 0x20, .shard = 2),
		0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 1);
	scanned_count = 0;
	CU_ASSERT_EQUAL(change_missed(VERSION(1, 1), 5, 85, 0x1, false), 0);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(scanned_count, 1);
	CU_ASSERT_EQUAL(scanned[0].shard, 2);
	CU_ASSERT_EQUAL(scanned[0].geometry.k, 4);
	CU_ASSERT_EQUAL(scanned[0].file.file_id, FIXTURE_FILE.file_id);
	CU_ASSERT_EQUAL(
		store_missed_blocks(fixture.store, &scanned[0].file, 0, blocks, 8, &count, &next),
		0);
	CU_ASSERT_EQUAL(count, 8);
	CU_ASSERT_EQUAL(blocks[0].block, 5);
	CU_ASSERT_EQUAL(blocks[0].missed, 1);
	CU_ASSERT_EQUAL(next, 13);
	CU_ASSERT_EQUAL(
		store_missed_blocks(fixture.store, &scanned[0].file, 89, blocks, 8, &count, &next),
		0);
	CU_ASSERT_EQUAL(count, 2);
	CU_ASSERT_EQUAL(next, UINT64_MAX);
	CU_ASSERT_EQUAL(blocks[1].missed, 0x20);
	CU_ASSERT_EQUAL(
		fixture_get(&fixture, &(struct get){.block = 90, .shard = 2}, &told, NULL), 0);
	CU_ASSERT_EQUAL(told.missed, 0x20);
	/* Healed. Another version's blocks are left alone. */
	CU_ASSERT_EQUAL(change_missed(VERSION(1, 1), 0, 100, 0x3f, true), 0);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 1);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 1), 0, 100, 0x3f, true), 0);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 0);
	/* The marker is gone: a scan after a restart finds nothing to look at. */
	{
		char path[300];

		snprintf(path, sizeof(path), "%s/missed", fixture.devices[0]);
		CU_ASSERT_EQUAL(rmdir(path), 0);
		CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
	}
	end();
}

/* What is newer may come to nothing: then the older version is the one that shards have missed. */
static void what_an_older_version_missed_is_found(void)
{
	struct store_missed_block block;
	uint64_t next;
	size_t count;

	begin();
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .missed = 0x20), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 1);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 2)), 0);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 1);
	CU_ASSERT_EQUAL(change_missed(VERSION(2, 2), 0, 1, 0x2, false), 0);
	CU_ASSERT_EQUAL(
		store_missed_blocks(fixture.store, &scanned[0].file, 0, &block, 1, &count, &next),
		0);
	CU_ASSERT_EQUAL(count, 1);
	CU_ASSERT_EQUAL(block.missed, 0x22);
	fixture_discard(&fixture, VERSION(2, 2), 0, 1);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 1);
	/* Decided: nobody will ask for the older one any more. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 3)), 0);
	fixture_commit(&fixture, VERSION(3, 3), 0, 1);
	scanned_count = 0;
	CU_ASSERT_EQUAL(store_missed_scan(fixture.store, note_scanned, NULL), 0);
	CU_ASSERT_EQUAL(scanned_count, 0);
	end();
}

/* -------- devices, descriptors, space -------- */

static void files_spread_over_devices_and_one_may_fail(void)
{
	struct store_capacity capacity[3];
	unsigned int on_first = 0, served = 0, refused = 0;
	char path[512], label[300], hidden[300], shards[300];

	fixture_begin(&fixture, 3);
	for (uint64_t id = 1; id <= 60; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
					.version = VERSION(1, 1), .count = 8),
			0);
	for (uint64_t id = 1; id <= 60; id++) {
		fixture_side_of(&fixture, (store_file){.export_id = 1, .file_id = id}, 0, path,
			sizeof(path));
		if (strncmp(path, fixture.devices[0], strlen(fixture.devices[0])) == 0)
			on_first++;
	}
	/* All three are one file system here, so the choice is the first with most room. */
	CU_ASSERT(on_first > 0);
	CU_ASSERT_EQUAL(store_capacity(fixture.store, capacity, 3), 3);
	CU_ASSERT(capacity[2].in_service && capacity[2].free_bytes > 0);
	CU_ASSERT(capacity[2].free_bytes < capacity[2].total_bytes);

	/* The first is not mounted any more. */
	fixture_close(&fixture);
	snprintf(label, sizeof(label), "%s/rozo-label", fixture.devices[0]);
	snprintf(hidden, sizeof(hidden), "%s/hidden-label", fixture.base);
	CU_ASSERT_EQUAL(rename(label, hidden), 0);
	fixture_open(&fixture);
	CU_ASSERT(fixture_logged("out of service") > 0);
	CU_ASSERT_EQUAL(store_capacity(fixture.store, capacity, 3), 3);
	CU_ASSERT(!capacity[0].in_service && capacity[1].in_service);
	for (uint64_t id = 1; id <= 60; id++) {
		store_read_block told;
		uint32_t status = fixture_get(&fixture,
			&(struct get){.file = {.export_id = 1, .file_id = id}}, &told, NULL);

		served += status == 0 && told.state == STORE_FINALIZED;
		refused += status == EIO;
	}
	CU_ASSERT_EQUAL(served, 60 - on_first);
	CU_ASSERT_EQUAL(refused, on_first);
	/* New files go to the others; what built on the lost one is refused. */
	CU_ASSERT_EQUAL(
		PUT(&fixture, .file = {.export_id = 1, .file_id = 1000}, .version = VERSION(1, 1)),
		0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = 2000},
				.version = VERSION(2, 1), .exact = true, .base = VERSION(1, 1)),
		EIO);
	/* Made anew elsewhere: when the device returns, the new one counts. */
	fixture_side_of(
		&fixture, (store_file){.export_id = 1, .file_id = 1}, 0, path, sizeof(path));
	if (on_first == 60) {
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = 1},
					.version = VERSION(8, 1)),
			0);
		fixture_close(&fixture);
		CU_ASSERT_EQUAL(rename(hidden, label), 0);
		fixture_open(&fixture);
		CU_ASSERT(
			fixture_is(&fixture, &(struct get){.file = {.export_id = 1, .file_id = 1}},
				VERSION(8, 1), STORE_FINALIZED));
		CU_ASSERT(
			fixture_is(&fixture, &(struct get){.file = {.export_id = 1, .file_id = 2}},
				VERSION(1, 1), STORE_FINALIZED));
	}
	(void)shards;
	end();
}

/* Takes a device away, as if it were not mounted, or brings it back. The store is closed. */
static void hide_device(size_t device, bool hidden)
{
	char label[300], away[300];

	snprintf(label, sizeof(label), "%s/rozo-label", fixture.devices[device]);
	snprintf(away, sizeof(away), "%s/label-of-%zu", fixture.base, device);
	CU_ASSERT_EQUAL(rename(hidden ? label : away, hidden ? away : label), 0);
}

static uint32_t remove_file(store_file file)
{
	const store_remove_args args = {.file = file};
	store_status_res res;

	store_remove(fixture.store, &args, &res);
	return res.status;
}

/* Which device a file is on; its side a at least. */
static size_t device_of(store_file file)
{
	char path[512];

	fixture_side_of(&fixture, file, 0, path, sizeof(path));
	for (size_t i = 0; i < fixture.device_count; i++) {
		if (strncmp(path, fixture.devices[i], strlen(fixture.devices[i])) == 0)
			return i;
	}
	return SIZE_MAX;
}

static void what_may_be_on_a_device_out_of_service_is_told_when_removed(void)
{
	fixture_begin(&fixture, 2);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	const size_t device = device_of(FIXTURE_FILE);
	fixture_close(&fixture);
	hide_device(1 - device, true);
	fixture_open(&fixture);
	/* It is here, and was made when all devices were: nothing of it is anywhere else. */
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), 0);
	/* Perhaps it was not here. */
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), ENODEV);
	CU_ASSERT_EQUAL(remove_file((store_file){.export_id = 1, .file_id = 5}), ENODEV);
	fixture_close(&fixture);
	hide_device(1 - device, false);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), 0);
	/* A device that fails while the file is open. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	atomic_store(&fixture.store->devices[device_of(FIXTURE_FILE)].failed, true);
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), ENODEV);
	end();
}

/* It was made anew while a device was out of service, which may have an older copy. */
static void an_older_copy_out_of_reach_is_told_when_the_file_is_removed(void)
{
	fixture_begin(&fixture, 2);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	const size_t device = device_of(FIXTURE_FILE);
	fixture_close(&fixture);
	hide_device(device, true);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1)), 0);
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), EXDEV);
	CU_ASSERT_EQUAL(device_of(FIXTURE_FILE), device);
	fixture_close(&fixture);
	hide_device(device, false);
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 0, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), 0);
	CU_ASSERT(IS(&fixture, 0, (store_version){0}, STORE_EMPTY));
	end();
}

/* Of blocks that a file may have had on a device that is gone it says nothing. */
static void what_may_have_been_on_a_lost_device_is_not_told_as_empty(void)
{
	store_read_block told;

	fixture_begin(&fixture, 2);
	CU_ASSERT_EQUAL(
		PUT(&fixture, .file = {.export_id = 1, .file_id = 7}, .version = VERSION(1, 1)), 0);
	const size_t device = 1 - device_of((store_file){.export_id = 1, .file_id = 7});
	fixture_close(&fixture);
	hide_device(device, true);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 5), 0);
	for (unsigned int way = 0; way < 3; way++) {
		CU_ASSERT(IS(&fixture, 5, VERSION(1, 1), STORE_FINALIZED));
		CU_ASSERT(IS(&fixture, 0, (store_version){0}, STORE_DAMAGED));
		CU_ASSERT(IS(&fixture, 1000, (store_version){0}, STORE_DAMAGED));
		CU_ASSERT_EQUAL(
			fixture_get(&fixture, &(struct get){.version = VERSION(1, 1)}, &told, NULL),
			0);
		CU_ASSERT_EQUAL(told.state, STORE_DAMAGED);
		/* Made when all devices were there. */
		CU_ASSERT(fixture_is(&fixture,
			&(struct get){.file = {.export_id = 1, .file_id = 7}, .block = 3},
			(store_version){0}, STORE_EMPTY));
		fixture_close(&fixture);
		if (way == 1)
			hide_device(device, false);
		fixture_open(&fixture);
	}
	/* Writes find what they find in an empty block. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 2), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 3, .exact = true,
				.base = VERSION(1, 1)),
		0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 4, .undecided = true,
				.base = VERSION(1, 1)),
		EAGAIN);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 6, .empty = true), 0);
	CU_ASSERT(IS(&fixture, 2, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 3, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 4, (store_version){0}, STORE_DAMAGED));
	CU_ASSERT(IS(&fixture, 6, VERSION(2, 1), STORE_FINALIZED));
	end();
}

/* The mark may be gone, or was never flushed. */
static void what_may_have_been_on_a_lost_device_may_not_be_known_any_more(void)
{
	char path[512];

	fixture_begin(&fixture, 2);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 40), 0);
	fixture_side(&fixture, 0, path, sizeof(path));
	fixture_close(&fixture);
	fixture_flip(path, 70, 1);
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 39, VERSION(1, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 40, (store_version){0}, STORE_DAMAGED));
	/* An empty side a is what a crash leaves of a new file. */
	const size_t device = device_of(FIXTURE_FILE);
	fixture_close(&fixture);
	CU_ASSERT_EQUAL(truncate(path, 0), 0);
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 0, (store_version){0}, STORE_EMPTY));
	fixture_close(&fixture);
	hide_device(1 - device, true);
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 0, (store_version){0}, STORE_DAMAGED));
	end();
}

/* A file of which one device has an older copy, made before it was out of service. */
static void begin_with_two_copies(void)
{
	fixture_begin(&fixture, 2);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 3, .missed = 0x20), 0);
	const size_t device = device_of(FIXTURE_FILE);
	fixture_close(&fixture);
	hide_device(device, true);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(8, 1)), 0);
	fixture_close(&fixture);
	hide_device(device, false);
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 0, VERSION(8, 1), STORE_FINALIZED));
}

/* What it says is not true any more, so it must not be used when it is all that is left. */
static void an_older_copy_is_not_used_when_the_newer_one_is_gone(void)
{
	store_decided run = {.first_block = 0, .count = 1, .block_version = VERSION(1, 1)};
	store_commit_args commit = {
		.file = FIXTURE_FILE, .stable = 1, .runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;
	store_read_block told;
	char side[512], aside[600];

	for (unsigned int way = 0; way < 3; way++) {
		fixture_begin(&fixture, 2);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
		store_commit(fixture.store, &commit, &res);
		CU_ASSERT_EQUAL(res.status, 0);
		/* Side b, too. */
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1)), 0);
		const size_t device = device_of(FIXTURE_FILE);
		fixture_side(&fixture, way == 0 ? 0 : 1, side, sizeof(side));
		snprintf(aside, sizeof(aside), "%s.superseded", side);
		fixture_close(&fixture);
		hide_device(device, true);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1)), 0);
		fixture_close(&fixture);
		hide_device(device, false);
		/* The renaming was interrupted: side b has its new name. */
		if (way == 2)
			CU_ASSERT_EQUAL(rename(side, aside), 0);
		fixture_open(&fixture);
		CU_ASSERT(IS(&fixture, 0, VERSION(3, 1), STORE_FINALIZED));
		CU_ASSERT_EQUAL(access(aside, F_OK), 0);
		CU_ASSERT_NOT_EQUAL(access(side, F_OK), 0);
		CU_ASSERT_EQUAL(device_of(FIXTURE_FILE), 1 - device);
		fixture_close(&fixture);
		hide_device(1 - device, true);
		fixture_open(&fixture);
		/* It is not known what was there. */
		CU_ASSERT_EQUAL(fixture_get(&fixture, &(struct get){.block = 0}, &told, NULL), EIO);
		fixture_close(&fixture);
		hide_device(1 - device, false);
		fixture_open(&fixture);
		CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), 0);
		CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_EMPTY);
		CU_ASSERT_EQUAL(access(aside, F_OK), 0);
		end();
	}
}

static void no_older_copy_comes_back_after_a_removal(void)
{
	begin_with_two_copies();
	CU_ASSERT_EQUAL(remove_file(FIXTURE_FILE), 0);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_EMPTY);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_EMPTY);
	end();
}

static void many_files_need_few_descriptors(void)
{
	begin();
	fixture.open_files_max = 10;
	fixture_reopen(&fixture);
	for (uint64_t id = 1; id <= 200; id++)
		CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 2, .file_id = id},
					.version = VERSION(id, 1), .unstable = true),
			0);
	{
		unsigned int open_count = 0;

		for (int fd = 0; fd < 300; fd++)
			open_count += fcntl(fd, F_GETFD) != -1;
		CU_ASSERT(open_count < 60);
	}
	for (uint64_t id = 1; id <= 200; id++) {
		CU_ASSERT_EQUAL(
			fixture_sync(&fixture, (store_file){.export_id = 2, .file_id = id}), 0);
		CU_ASSERT(
			fixture_is(&fixture, &(struct get){.file = {.export_id = 2, .file_id = id}},
				VERSION(id, 1), STORE_FINALIZED));
	}
	end();
}

/* 256 MiB at 4+2 with rows of 4 KiB: all six stores together, against the user's bytes. */
static void fresh_files_cost_little_more_than_their_shards(void)
{
	const uint64_t user = UINT64_C(256) << 20;
	uint64_t before, used;

	begin();
	before = fixture_allocated(&fixture);
	for (uint32_t shard = 0; shard < 6; shard++) {
		for (uint64_t block = 0; block < user / 16384; block += 64)
			CU_ASSERT_EQUAL_FATAL(
				PUT(&fixture, .file = {.export_id = 1, .file_id = 50 + shard},
					.shard = shard, .version = VERSION(1, 1), .first = block,
					.count = 64, .unstable = true),
				0);
		CU_ASSERT_EQUAL(
			fixture_sync(&fixture, (store_file){.export_id = 1, .file_id = 50 + shard}),
			0);
	}
	used = fixture_allocated(&fixture) - before;
	printf("space: %.4f of user bytes ", (double)used / (double)user);
	CU_ASSERT((double)used / (double)user <= 1.56);
	end();
}

static void dropped_versions_give_their_space_back(void)
{
	uint64_t once;

	begin();
	fixture.freed_bytes_max = 1 << 20;
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 1024), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 1024);
	once = fixture_allocated(&fixture);
	for (uint64_t n = 2; n < 6; n++) {
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(n, 1), .count = 1024), 0);
		fixture_commit(&fixture, VERSION(n, 1), 0, 1024);
	}
	/* Not twice the rows: at most the other side's pages and what is not punched yet. */
	CU_ASSERT(fixture_allocated(&fixture) < once + (1 << 20) + 40 * 4096);
	fixture_reopen(&fixture);
	CU_ASSERT(fixture_allocated(&fixture) < once + 10 * 4096);
	for (uint64_t block = 0; block < 1024; block++)
		CU_ASSERT(IS(&fixture, block, VERSION(5, 1), STORE_COMMITTED));
	end();
}

int main(void)
{
	CU_pSuite suite;

	CU_initialize_registry();
	suite = CU_add_suite("store", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(crc32c_is_that_of_rfc3720);
	TEST(shapes_are_those_of_the_format);
	TEST(format_1_is_still_read);
	TEST(every_flipped_bit_of_a_record_shows);
	TEST(labels_are_checked);
	TEST(shards_come_back);
	TEST(one_read_brings_many_blocks);
	TEST(bad_arguments_are_refused);
	TEST(a_larger_version_wins);
	TEST(a_foreign_pending_version_is_a_conflict);
	TEST(an_exact_base_guards);
	TEST(a_chain_of_bases_alternates_sides);
	TEST(a_pending_version_gives_way_and_the_committed_one_stays);
	TEST(an_undecided_base_gives_way);
	TEST(a_discarded_first_version_leaves_nothing);
	TEST(a_committed_version_hides_the_older);
	TEST(a_conflict_in_one_block_writes_none);
	TEST(the_same_write_twice_is_done_once);
	TEST(an_old_epoch_is_refused_also_after_a_restart);
	TEST(promises_outlive_a_restart_also_of_an_empty_store);
	TEST(truncation_fences_a_store_without_the_file);
	TEST(a_promise_that_could_not_be_written_is_not_given);
	TEST(a_row_that_cannot_be_read_does_not_cost_the_device);
	TEST(a_page_that_cannot_be_read_does_not_end_the_check);
	TEST(a_directory_that_cannot_be_opened_now_is_flushed_later);
	TEST(files_that_cannot_be_flushed_now_stay_open);
	TEST(an_epoch_that_could_not_be_written_is_written_by_the_next_truncation);
	TEST(a_promise_of_a_killed_process_is_flushed_before_it_is_given_again);
	TEST(a_record_of_a_killed_process_is_flushed_before_it_counts);
	TEST(what_is_dropped_is_not_told_as_gone_before_that_is_durable);
	TEST(a_write_that_ran_out_of_space_says_that_it_may_have_written);
	TEST(unstable_writes_are_pending_until_synced);
	TEST(a_record_of_a_miss_is_pending_until_it_is_durable);
	TEST(what_is_torn_is_not_completed_once_it_is_refused);
	TEST(what_is_torn_stays_so_while_a_miss_is_recorded);
	TEST(what_was_healed_is_not_dropped_by_who_asked_before);
	TEST(an_epoch_is_called_durable_when_it_is);
	TEST(truncation_empties_and_gives_space_back);
	TEST(what_is_based_on_nothing_may_follow_an_emptiness);
	TEST(removal_removes);
	TEST(a_block_written_empty_is_empty);
	TEST(missed_writes_are_recorded_and_found);
	TEST(what_an_older_version_missed_is_found);
	TEST(what_is_in_doubt_goes_unless_the_misses_are_on_record);
	TEST(files_spread_over_devices_and_one_may_fail);
	TEST(what_may_be_on_a_device_out_of_service_is_told_when_removed);
	TEST(an_older_copy_out_of_reach_is_told_when_the_file_is_removed);
	TEST(what_may_have_been_on_a_lost_device_is_not_told_as_empty);
	TEST(what_may_have_been_on_a_lost_device_may_not_be_known_any_more);
	TEST(an_older_copy_is_not_used_when_the_newer_one_is_gone);
	TEST(no_older_copy_comes_back_after_a_removal);
	TEST(many_files_need_few_descriptors);
	TEST(fresh_files_cost_little_more_than_their_shards);
	TEST(dropped_versions_give_their_space_back);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures() != 0 || CU_get_error() != 0;

	CU_cleanup_registry();
	return failed;
}
