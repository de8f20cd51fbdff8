/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What looks for damage before a reader meets it: store_verify() on a node that does not run must
 * name every problem and nothing else, and change nothing; store_check_blocks() on one that runs
 * must find what is damaged and see to it that healing can.
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

#include "store_fixture.h"

#define GROUP_BYTES (32 * 4096)
#define HEADER(group) ((uint64_t)(group)*GROUP_BYTES)
#define RECORD(block) (HEADER((block) / 31) + 128 + (block) % 31 * 128)
#define ROW(block) (HEADER((block) / 31) + 4096 + (block) % 31 * 4096)

static struct fixture fixture;
static char side_a[512], side_b[512];
static char *told; /* by the last verify() */
static size_t told_bytes;

/* 100 committed blocks of version 1; 10 of them (40 .. 49) have version 2 on side b. Closed. */
static void begin(size_t devices)
{
	fixture_begin(&fixture, devices);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .count = 100), 0);
	fixture_commit(&fixture, VERSION(1, 1), 0, 100);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 40, .count = 10), 0);
	fixture_close(&fixture);
	fixture_side(&fixture, 0, side_a, sizeof(side_a));
	fixture_side(&fixture, 1, side_b, sizeof(side_b));
}

static void end(void)
{
	free(told);
	told = NULL;
	fixture_end(&fixture);
}

static int run_verify(struct store_verify_summary *summary, char *error, size_t error_bytes)
{
	const char *devices[FIXTURE_DEVICES_MAX];
	struct store_options options = {
		.cluster_id = FIXTURE_CLUSTER,
		.node_id = FIXTURE_NODE,
		.devices = devices,
		.device_count = fixture.device_count,
	};
	FILE *problems;
	int result;

	for (size_t i = 0; i < fixture.device_count; i++)
		devices[i] = fixture.devices[i];
	free(told);
	problems = open_memstream(&told, &told_bytes);
	CU_ASSERT_PTR_NOT_NULL_FATAL(problems);
	result = store_verify(&options, problems, NULL, summary, error, error_bytes);
	CU_ASSERT_EQUAL_FATAL(fclose(problems), 0);
	return result;
}

static struct store_verify_summary verify(void)
{
	struct store_verify_summary summary;
	char error[512];

	CU_ASSERT_EQUAL_FATAL(run_verify(&summary, error, sizeof(error)), 0);
	return summary;
}

static bool clean(void)
{
	bool nothing = verify().problems == 0;

	if (!nothing)
		fprintf(stderr, "should be clean:\n%s", told);
	return nothing && told_bytes == 0;
}

/* True if there are so many problems, and one line says this of the path. */
static bool says(uint64_t problems, const char *path, const char *what)
{
	uint64_t found = verify().problems;
	char line[1024];

	snprintf(line, sizeof(line), "%s: %s", path, what);
	if (found == problems && strstr(told, line) != NULL)
		return true;
	fprintf(stderr, "wanted %llu problems, one of them \"%s\"; got %llu:\n%s",
		(unsigned long long)problems, line, (unsigned long long)found, told);
	return false;
}

static void make_text(const char *path)
{
	FILE *file = fopen(path, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs("not ours\n", file);
	CU_ASSERT_EQUAL(fclose(file), 0);
}

/* -------- verify -------- */

static void a_sound_node_has_no_problems(void)
{
	store_file other = {.export_id = 2, .file_id = 99, .segment = 0};
	store_geometry systematic = {.form = 1, .k = 2, .m = 1, .row_bytes = 1024};
	struct store_verify_summary summary;

	fixture_begin(&fixture, 3);
	fixture_close(&fixture);
	CU_ASSERT(clean()); /* nothing written yet */
	end();
	begin(3);
	fixture_open(&fixture);
	/* Holes, empty blocks, short blocks, missed shards, another code, another export. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 100000, .missed = 4), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(4, 1), .first = 3, .empty = true), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(5, 1), .first = 200, .length = 1), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = other, .geometry = systematic, .shard = 2,
				.version = VERSION(6, 1), .count = 500),
		0);
	fixture_close(&fixture);
	CU_ASSERT(clean());
	summary = verify();
	CU_ASSERT_EQUAL(summary.files, 2);
	CU_ASSERT_EQUAL(summary.blocks, 100 + 2 + 500);
	CU_ASSERT(summary.bytes > UINT64_C(600) * 1024 + 100 * 4096);
	end();
}

static void a_running_node_is_not_verified(void)
{
	struct store_verify_summary summary;
	char error[512];

	begin(2);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(run_verify(&summary, error, sizeof(error)), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, fixture.devices[0]));
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "stop that one first"));
	fixture_close(&fixture);
	CU_ASSERT(clean());
	end();
}

static void flipped_bits_of_shards_are_named(void)
{
	begin(1);
	fixture_flip(side_a, ROW(70) + 1234, 3);
	CU_ASSERT(says(1, side_a, "block 70: its bytes do not agree with their CRC\n"));
	fixture_flip(side_a, RECORD(12) + 56 + 3, 7); /* a tail */
	CU_ASSERT(says(2, side_a, "block 12: its bytes do not agree"));
	fixture_flip(side_b, ROW(44), 0); /* not decided */
	CU_ASSERT(says(3, side_b, "block 44: its bytes do not agree"));
	fixture_flip(side_a, ROW(44), 0); /* and what it may have to go back to */
	CU_ASSERT(says(4, side_a, "block 44: its bytes do not agree"));
	fixture_flip(side_a, ROW(71), 0);
	CU_ASSERT(says(5, side_a, "blocks 70 to 71: its bytes do not agree"));
	/* Not even a whole run of this changed anything. */
	fixture_flip(side_a, ROW(71), 0);
	fixture_flip(side_a, ROW(44), 0);
	fixture_flip(side_b, ROW(44), 0);
	fixture_flip(side_a, RECORD(12) + 56 + 3, 7);
	fixture_flip(side_a, ROW(70) + 1234, 3);
	CU_ASSERT(clean());
	end();
}

static void every_flipped_bit_of_records_and_headers_is_named(void)
{
	char expected[64];

	begin(1);
	for (unsigned int bit = 0; bit < 52 * 8; bit++) {
		fixture_flip(side_b, RECORD(45) + bit / 8, bit % 8);
		CU_ASSERT_FATAL(says(1, side_b, "block 45: its record is damaged"));
		fixture_flip(side_b, RECORD(45) + bit / 8, bit % 8);
	}
	for (unsigned int bit = 0; bit < 128 * 8; bit++) {
		unsigned int group = bit % 4;

		snprintf(expected, sizeof(expected),
			group == 0 ? "the header of page %u is damaged"
				   : "the header of group %u is damaged",
			group);
		fixture_flip(side_a, HEADER(group) + bit / 8, bit % 8);
		CU_ASSERT_FATAL(says(1, side_a, expected));
		fixture_flip(side_a, HEADER(group) + bit / 8, bit % 8);
	}
	CU_ASSERT(clean());
	end();
}

static void bytes_of_dropped_versions_do_not_matter(void)
{
	begin(1);
	fixture_open(&fixture);
	fixture_commit(&fixture, VERSION(2, 1), 40, 10);
	fixture_close(&fixture);
	fixture_flip(side_a, ROW(44), 0);
	CU_ASSERT(clean());
	end();
}

static void cut_files_are_named(void)
{
	begin(1);
	CU_ASSERT_EQUAL_FATAL(truncate(side_a, (off_t)ROW(97) + 100), 0);
	CU_ASSERT(says(3, side_a, "blocks 97 to 99: the file is cut short in its row"));
	CU_ASSERT_EQUAL_FATAL(truncate(side_a, (off_t)RECORD(93 + 2) + 10), 0);
	verify();
	CU_ASSERT_PTR_NOT_NULL(strstr(told, "cut short in the records of group 3"));
	CU_ASSERT_PTR_NOT_NULL(strstr(told, "blocks 93 to 94: the file is cut short in its row"));
	CU_ASSERT_PTR_NOT_NULL(strstr(told, "block 95: its record is damaged"));
	CU_ASSERT_EQUAL_FATAL(truncate(side_a, (off_t)HEADER(2)), 0);
	CU_ASSERT(says(1, side_a, "cut short: 262144 bytes; at least 4 groups"));
	CU_ASSERT_EQUAL_FATAL(truncate(side_b, 0), 0);
	CU_ASSERT(says(2, side_b, "cut short: 0 bytes"));
	end();
}

static void a_page_of_zeros_that_was_written_is_named(void)
{
	static const uint8_t zeros[4096];
	int file;

	begin(1);
	file = open(side_a, O_RDWR);
	CU_ASSERT_FATAL(file >= 0);
	CU_ASSERT_EQUAL(pwrite(file, zeros, sizeof(zeros), (off_t)HEADER(2)), sizeof(zeros));
	CU_ASSERT(says(1, side_a, "the page of group 2 (blocks 62 to 92) is zeros"));
	/* One that was given back is a hole. */
	CU_ASSERT_EQUAL(store_io_posix.punch(file, HEADER(2), sizeof(zeros)), 0);
	CU_ASSERT(clean());
	close(file);
	end();
}

static void missing_sides_are_named(void)
{
	begin(1);
	CU_ASSERT_EQUAL_FATAL(unlink(side_b), 0);
	CU_ASSERT(says(1, side_b, "missing; its side a says that it was made"));
	end();
	begin(1);
	CU_ASSERT_EQUAL_FATAL(unlink(side_a), 0);
	CU_ASSERT(says(1, side_a, "missing; its side b is there"));
	end();
}

static void what_is_in_the_wrong_place_is_named(void)
{
	store_file other = {.export_id = 1, .file_id = 0x1235, .segment = 2};
	char other_a[512], path[600], back[600];

	begin(1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .file = other, .version = VERSION(1, 1), .count = 10), 0);
	fixture_close(&fixture);
	fixture_side_of(&fixture, other, 0, other_a, sizeof(other_a));
	CU_ASSERT(clean());

	/* Another store file's bytes under this one's name. */
	snprintf(back, sizeof(back), "%s/back", fixture.base);
	CU_ASSERT_EQUAL_FATAL(rename(side_a, back), 0);
	CU_ASSERT_EQUAL_FATAL(rename(other_a, side_a), 0);
	verify();
	CU_ASSERT_PTR_NOT_NULL(strstr(told, ".a: is another store file, moved here"));
	CU_ASSERT_EQUAL_FATAL(rename(side_a, other_a), 0);
	/* Side b under the name of side a. */
	CU_ASSERT_EQUAL_FATAL(link(side_b, side_a), 0);
	verify();
	CU_ASSERT_PTR_NOT_NULL(strstr(told, "is side b of this store file"));
	CU_ASSERT_EQUAL_FATAL(unlink(side_a), 0);
	CU_ASSERT_EQUAL_FATAL(rename(back, side_a), 0);
	CU_ASSERT(clean());

	snprintf(path, sizeof(path), "%s.old", side_a);
	make_text(path);
	CU_ASSERT(says(1, path, "is not where the store looks"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	/* An older copy that the store itself has set aside is none of its problems. */
	snprintf(path, sizeof(path), "%s.superseded", side_a);
	make_text(path);
	CU_ASSERT(says(0, path, "was set aside"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	/* Nor is what a process left that was killed while it made a side again. */
	snprintf(path, sizeof(path), "%s.new", side_a);
	make_text(path);
	CU_ASSERT(says(0, path, "was being made again"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	snprintf(path, sizeof(path), "%s.old.superseded", side_a);
	make_text(path);
	CU_ASSERT(says(1, path, "is not where the store looks"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/shards/README", fixture.devices[0]);
	make_text(path);
	CU_ASSERT(says(1, path, "is not where the store looks"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/missed/README", fixture.devices[0]);
	make_text(path);
	CU_ASSERT(says(1, path, "is not a marker"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	/* A side in the directory of another hash. */
	snprintf(path, sizeof(path), "%s/shards/1/00/%s", fixture.devices[0],
		strrchr(side_b, '/') + 1);
	snprintf(back, sizeof(back), "%s/shards/1/00", fixture.devices[0]);
	CU_ASSERT_FATAL(mkdir(back, 0700) == 0 || errno == EEXIST);
	CU_ASSERT_EQUAL_FATAL(link(side_b, path), 0);
	CU_ASSERT(says(1, path, "is not where the store looks"));
	CU_ASSERT_EQUAL_FATAL(unlink(path), 0);
	CU_ASSERT(clean());
	end();
}

static void a_store_file_on_two_devices_is_named(void)
{
	char copy[700], directory[700];
	const char *name;
	unsigned int from;

	begin(2);
	from = strncmp(side_a, fixture.devices[0], strlen(fixture.devices[0])) == 0 ? 0 : 1;
	name = side_a + strlen(fixture.devices[from]);
	snprintf(copy, sizeof(copy), "%s%s", fixture.devices[1 - from], name);
	for (const char *at = strchr(name + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
		snprintf(directory, sizeof(directory), "%s%.*s", fixture.devices[1 - from],
			(int)(at - name), name);
		CU_ASSERT_FATAL(mkdir(directory, 0700) == 0 || errno == EEXIST);
	}
	CU_ASSERT_EQUAL_FATAL(link(side_a, copy), 0);
	verify();
	CU_ASSERT_PTR_NOT_NULL(strstr(told, "the store file is on"));
	end();
}

static void labels_are_checked(void)
{
	char label[200], back[200];

	begin(2);
	snprintf(label, sizeof(label), "%s/rozo-label", fixture.devices[1]);
	snprintf(back, sizeof(back), "%s/label", fixture.base);
	fixture_flip(label, 30, 0);
	CU_ASSERT(says(1, label, "damaged (its CRC does not agree)"));
	fixture_flip(label, 30, 0);
	CU_ASSERT_EQUAL_FATAL(rename(label, back), 0);
	CU_ASSERT(says(1, fixture.devices[1], "no storage device"));
	CU_ASSERT_EQUAL_FATAL(rename(back, label), 0);
	CU_ASSERT(clean());
	snprintf(label, sizeof(label), "%s/missed", fixture.devices[0]);
	CU_ASSERT_EQUAL_FATAL(rmdir(label), 0);
	CU_ASSERT(says(1, label, "cannot be listed"));
	end();
}

static void missed_shards_without_a_marker_are_named(void)
{
	char marker[400];

	begin(1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(3, 1), .first = 60, .missed = 4), 0);
	fixture_close(&fixture);
	CU_ASSERT(clean());
	snprintf(marker, sizeof(marker), "%s/missed/1.0000000000001234.2", fixture.devices[0]);
	CU_ASSERT_EQUAL_FATAL(unlink(marker), 0);
	CU_ASSERT(says(1, side_a, "has blocks with missed shards and no marker"));
	end();
}

/* -------- scrubbing -------- */

static uint32_t state_in_headers(uint64_t block)
{
	struct get get = {.block = block, .headers_only = true};
	store_read_block header;

	CU_ASSERT_EQUAL_FATAL(fixture_get(&fixture, &get, &header, NULL), 0);
	return header.state;
}

/* Checks the whole file. Returns how many blocks were bad; *sum receives the totals. */
static size_t check_all(struct store_check *sum)
{
	store_file file = FIXTURE_FILE;
	uint64_t next = 0;

	memset(sum, 0, sizeof(*sum));
	while (next != UINT64_MAX) {
		struct store_check check;

		CU_ASSERT_EQUAL_FATAL(
			store_check_blocks(fixture.store, &file, next, UINT64_MAX, &check), 0);
		CU_ASSERT_FATAL(check.next_block > next);
		next = check.next_block;
		for (size_t i = 0; i < check.bad_count; i++) {
			if (sum->bad_count < STORE_CHECK_BAD_MAX)
				sum->bad[sum->bad_count] = check.bad[i];
			sum->bad_count++;
		}
		sum->blocks += check.blocks;
		sum->bytes += check.bytes;
		sum->headers_mended += check.headers_mended;
	}
	return sum->bad_count;
}

static void a_check_finds_damage_and_headers_tell_of_it(void)
{
	struct store_check sum;

	begin(1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(check_all(&sum), 0);
	CU_ASSERT_EQUAL(sum.blocks, 100);
	CU_ASSERT(sum.bytes > 100 * 4096);
	fixture_close(&fixture);
	fixture_flip(side_a, ROW(70) + 1234, 3);
	fixture_flip(side_b, ROW(44) + 17, 0);
	fixture_flip(side_a, RECORD(10), 0);
	fixture_open(&fixture);
	/* Nobody has looked at the bytes of a committed version yet. */
	CU_ASSERT_EQUAL(state_in_headers(70), STORE_COMMITTED);
	CU_ASSERT_EQUAL(check_all(&sum), 3);
	CU_ASSERT_EQUAL(sum.bad[0], 10);
	CU_ASSERT_EQUAL(sum.bad[1], 44);
	CU_ASSERT_EQUAL(sum.bad[2], 70);
	CU_ASSERT_EQUAL(state_in_headers(70), STORE_DAMAGED);
	CU_ASSERT_EQUAL(state_in_headers(10), STORE_DAMAGED);
	CU_ASSERT_EQUAL(state_in_headers(44), STORE_TORN);
	CU_ASSERT_EQUAL(state_in_headers(71), STORE_COMMITTED);
	CU_ASSERT(fixture_logged(".a: found in block 70 and 0 more: bytes that") == 1);
	/* Healing writes the same versions again. */
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 70), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1), .first = 10), 0);
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(2, 1), .first = 44), 0);
	CU_ASSERT_EQUAL(state_in_headers(70), STORE_COMMITTED);
	CU_ASSERT_EQUAL(check_all(&sum), 0);
	CU_ASSERT(IS(&fixture, 70, VERSION(1, 1), STORE_COMMITTED));
	fixture_close(&fixture);
	CU_ASSERT(clean());
	end();
}

static void a_check_of_many_bad_blocks_goes_on(void)
{
	struct store_check sum;

	begin(1);
	for (unsigned int block = 0; block < 100; block++)
		fixture_flip(side_a, ROW(block), 1);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(check_all(&sum), 100);
	/* 40 .. 49 are needed, too: the versions above them are not decided. */
	CU_ASSERT(fixture_logged(".a: found in block 0 and 31 more: bytes that") == 1);
	end();
}

static void damaged_headers_are_written_anew(void)
{
	static const uint8_t zeros[128];
	struct store_check sum;
	int file;

	begin(1);
	file = open(side_a, O_WRONLY);
	CU_ASSERT_EQUAL(pwrite(file, zeros, sizeof(zeros), (off_t)HEADER(3)), sizeof(zeros));
	close(file);
	fixture_flip(side_a, HEADER(0) + 40, 0);
	fixture_flip(side_a, HEADER(2) + 60, 0);
	fixture_flip(side_b, HEADER(1) + 127, 0);
	fixture_open(&fixture);
	CU_ASSERT_EQUAL(check_all(&sum), 0);
	CU_ASSERT_EQUAL(sum.headers_mended, 4);
	CU_ASSERT_EQUAL(check_all(&sum), 0);
	CU_ASSERT_EQUAL(sum.headers_mended, 0);
	fixture_close(&fixture);
	CU_ASSERT(clean());
	fixture_open(&fixture);
	CU_ASSERT(IS(&fixture, 44, VERSION(2, 1), STORE_FINALIZED));
	CU_ASSERT(IS(&fixture, 70, VERSION(1, 1), STORE_COMMITTED));
	end();
}

#define WRITE_ROUNDS 40

static void *check_again_and_again(void *argument)
{
	atomic_bool *stop = argument;
	size_t *bad = calloc(1, sizeof(*bad));

	while (!atomic_load(stop)) {
		store_file file = FIXTURE_FILE;
		uint64_t next = 0;

		while (next != UINT64_MAX) {
			struct store_check check;

			if (store_check_blocks(fixture.store, &file, next, UINT64_MAX, &check) != 0)
				check.bad_count++;
			*bad += check.bad_count;
			next = check.next_block;
		}
	}
	return bad;
}

/* Overwriting, committing, punching, removing and making the file while it is checked. */
static void checks_beside_writers_find_nothing(void)
{
	store_remove_args removal = {.file = FIXTURE_FILE};
	atomic_bool stop = false;
	store_status_res res;
	pthread_t checker;
	void *bad;

	begin(1);
	fixture.freed_bytes_max = 1 << 16;
	fixture_open(&fixture);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&checker, NULL, check_again_and_again, &stop), 0);
	for (unsigned int round = 3; round < 3 + WRITE_ROUNDS; round++) {
		if (round % 10 == 0)
			store_remove(fixture.store, &removal, &res);
		CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(round, 1), .count = 100), 0);
		fixture_commit(&fixture, VERSION(round, 1), 0, 100);
	}
	atomic_store(&stop, true);
	CU_ASSERT_EQUAL_FATAL(pthread_join(checker, &bad), 0);
	CU_ASSERT_EQUAL(*(size_t *)bad, 0);
	free(bad);
	fixture_close(&fixture);
	CU_ASSERT(clean());
	end();
}

static void a_removed_file_has_nothing_to_check(void)
{
	store_remove_args args = {.file = FIXTURE_FILE};
	struct store_check sum;
	store_status_res res;

	begin(1);
	fixture_open(&fixture);
	store_remove(fixture.store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	CU_ASSERT_EQUAL(check_all(&sum), 0);
	CU_ASSERT_EQUAL(sum.blocks, 0);
	end();
}

#define SCAN_FILES 300

static int count_file(void *context, const store_file *file)
{
	unsigned int *met = context;

	CU_ASSERT_FATAL(file->file_id < SCAN_FILES && file->segment == file->file_id % 3);
	met[file->file_id]++;
	return 0;
}

static int stop_at_once(void *context, const store_file *file)
{
	(void)context;
	(void)file;
	return -ECANCELED;
}

static void a_scan_meets_every_store_file_once(void)
{
	unsigned int met[SCAN_FILES] = {0};
	char path[400];

	fixture_begin(&fixture, 3);
	for (uint64_t i = 0; i < SCAN_FILES; i++) {
		store_file file = {
			.export_id = 1 + (uint32_t)i % 2, .file_id = i, .segment = (uint32_t)i % 3};

		/* The second one makes side b. */
		CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .version = VERSION(1, 1)), 0);
		CU_ASSERT_EQUAL(PUT(&fixture, .file = file, .version = VERSION(2, 1), .exact = true,
					.base = VERSION(1, 1)),
			0);
	}
	snprintf(path, sizeof(path), "%s/shards/README", fixture.devices[0]);
	make_text(path);
	CU_ASSERT_EQUAL(store_scan(fixture.store, count_file, met), 0);
	for (unsigned int i = 0; i < SCAN_FILES; i++)
		CU_ASSERT_EQUAL(met[i], 1);
	CU_ASSERT_EQUAL(store_scan(fixture.store, stop_at_once, NULL), -ECANCELED);
	end();
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"a sound node has no problems", a_sound_node_has_no_problems},
		{"a running node is not verified", a_running_node_is_not_verified},
		{"flipped bits of shards are named", flipped_bits_of_shards_are_named},
		{"every flipped bit of records and headers is named",
			every_flipped_bit_of_records_and_headers_is_named},
		{"bytes of dropped versions do not matter",
			bytes_of_dropped_versions_do_not_matter},
		{"cut files are named", cut_files_are_named},
		{"a page of zeros that was written is named",
			a_page_of_zeros_that_was_written_is_named},
		{"missing sides are named", missing_sides_are_named},
		{"what is in the wrong place is named", what_is_in_the_wrong_place_is_named},
		{"a store file on two devices is named", a_store_file_on_two_devices_is_named},
		{"labels are checked", labels_are_checked},
		{"missed shards without a marker are named",
			missed_shards_without_a_marker_are_named},
		{"a check finds damage and headers tell of it",
			a_check_finds_damage_and_headers_tell_of_it},
		{"a check of many bad blocks goes on", a_check_of_many_bad_blocks_goes_on},
		{"damaged headers are written anew", damaged_headers_are_written_anew},
		{"checks beside writers find nothing", checks_beside_writers_find_nothing},
		{"a removed file has nothing to check", a_removed_file_has_nothing_to_check},
		{"a scan meets every store file once", a_scan_meets_every_store_file_once},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"store_verify", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	CU_cleanup_registry();
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
