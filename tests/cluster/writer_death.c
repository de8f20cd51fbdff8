/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A client whose gateway dies in the middle of a write (stripe/die_at_message.h), and what all
 * read afterwards. Each write is to a block of its own, so that all can be read again in the end.
 *
 *   writer_death CLUSTER.JSON prepare COUNT
 *       blocks with their old contents, and settled
 *   writer_death CLUSTER.JSON strike RESULTS RUN KIND MESSAGE
 *       changes the next block, its gateway to die at the message. KIND is whole or part (FILE_SYNC
 *       writes) or commit (a whole and a partial write, UNSTABLE, then COMMIT, where it dies).
 *       The other gateways must read the block twice as old, or as new; as new if the write was
 *       acknowledged. If the gateway died, prints "died NODE", else "alive". Adds to RESULTS.
 *   writer_death CLUSTER.JSON after RESULTS
 *       everyone is up: the same twice through every gateway
 *   writer_death CLUSTER.JSON settled RESULTS
 *       within 20 s all stores hold the same decided version of every block
 *   writer_death CLUSTER.JSON check RESULTS
 *       all blocks, through every gateway that is up
 *
 * RUN is the directory of the cluster: RUN/die is the file that the daemons look for, and RUN/state
 * tells their process ids.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cluster/raw_client.h"

#define FILE_NAME "writer-death"
#define DEATH_MS 400 /* the stores are told that a write is decided 50 ms after its answer */
#define SETTLE_MS 20000
#define PART_FROM 1000u
#define PART_BYTES 3000u

static struct raw raw;
static uint64_t file_id;
static uint32_t block_bytes;
static uint8_t *bytes, *old_bytes, *new_bytes;

enum value { OLD, NEW, WRONG };
static const char *const value_names[] = {"old", "new", "WRONG"};

static void fail(const char *what, uint64_t block, uint32_t node)
{
	fprintf(stderr, "block %" PRIu64 ", node %u: %s\n", block, node, what);
	exit(EXIT_FAILURE);
}

static void fill(uint8_t *to, uint64_t block, unsigned int generation)
{
	uint64_t *words = (uint64_t *)(void *)to;

	for (uint32_t i = 0; i < block_bytes / 8; i++)
		words[i] = (block * 2 + generation + 1) * UINT64_C(0x9e3779b97f4a7c15) * (i + 1);
}

/* What a block is before and after its write. */
static void expect(uint64_t block, bool whole)
{
	fill(old_bytes, block, 0);
	fill(new_bytes, block, 1);
	if (whole)
		return;
	memcpy(bytes, new_bytes, block_bytes);
	memcpy(new_bytes, old_bytes, block_bytes);
	memcpy(new_bytes + PART_FROM, bytes + PART_FROM, PART_BYTES);
}

static enum value value_of(uint64_t block, uint32_t node, uint32_t epoch)
{
	uint32_t length = 0;
	int status = raw_read(
		&raw, node, file_id, epoch, block * block_bytes, block_bytes, bytes, &length);

	if (status || length != block_bytes) {
		fprintf(stderr, "READ: status %d, %u bytes\n", status, length);
		return WRONG;
	}
	if (!memcmp(bytes, old_bytes, block_bytes))
		return OLD;
	return memcmp(bytes, new_bytes, block_bytes) ? WRONG : NEW;
}

/* True if all stores hold one decided version of the blocks, and no other. */
static bool are_settled(const struct raw_placement *placement, uint64_t first, uint32_t count)
{
	store_read_block *headers = calloc(count * 2, sizeof(*headers)), *others = headers + count;
	bool settled = raw_headers(&raw, placement, file_id, 0, first, count, headers) == 0;

	for (unsigned int s = 0; s < placement->count && settled; s++) {
		settled = raw_headers(&raw, placement, file_id, s, first, count, others) == 0;
		for (uint32_t i = 0; i < count && settled; i++)
			settled = others[i].state == STORE_COMMITTED && !others[i].missed &&
				  !others[i].older.generation &&
				  others[i].block_version.generation ==
					  headers[i].block_version.generation &&
				  others[i].block_version.writer == headers[i].block_version.writer;
	}
	free(headers);
	return settled;
}

static void print_block(const struct raw_placement *placement, uint64_t block)
{
	for (unsigned int s = 0; s < placement->count; s++) {
		store_read_block header = {0};
		int error = raw_headers(&raw, placement, file_id, s, block, 1, &header);

		fprintf(stderr,
			"  shard %u, node %u: %s, state %u version %" PRIx64 " older %" PRIx64
			" missed %x\n",
			s, placement->nodes[s], strerror(-error), header.state,
			(uint64_t)header.block_version.generation,
			(uint64_t)header.older.generation, header.missed);
	}
}

static void await_settled(const struct raw_placement *placement, uint64_t first, uint32_t count)
{
	uint64_t start = raw_now_ms();

	while (!are_settled(placement, first, count)) {
		if (raw_now_ms() - start > SETTLE_MS) {
			print_block(placement, first);
			fail("not settled", first, 0);
		}
		raw_sleep_ms(20);
	}
}

/* exportd may not know yet who is up. */
static struct raw_layout layout_now(void)
{
	struct raw_layout layout;
	uint64_t start = raw_now_ms();

	while (raw_layout(&raw, file_id, &layout)) {
		if (raw_now_ms() - start > SETTLE_MS)
			fail("no layout", 0, 0);
		raw_sleep_ms(50);
	}
	return layout;
}

static struct raw_placement placement_now(void)
{
	struct raw_placement placement;
	int error = raw_placement(&raw, file_id, &placement);

	if (error)
		fail(strerror(-error), 0, 0);
	return placement;
}

static int prepare(uint64_t count)
{
	struct raw_layout layout = layout_now();

	for (uint64_t block = 0; block < count; block++) {
		fill(bytes, block, 0);
		if (raw_write(&raw, file_id, &layout, block * block_bytes, bytes, block_bytes,
			    false, NULL))
			fail("cannot be prepared", block, layout.node);
	}
	char verifier[NFS3_WRITEVERFSIZE];
	if (raw_commit(&raw, file_id, &layout, verifier))
		fail("COMMIT", 0, layout.node);
	struct raw_placement placement = placement_now();
	await_settled(&placement, 0, (uint32_t)count);
	return EXIT_SUCCESS;
}

/* -------- results -------- */

struct result {
	uint64_t block;
	bool whole;
	enum value value;
};

static struct result *results;
static size_t result_count;

static void read_results(const char *path)
{
	FILE *file = fopen(path, "re");
	char kind[16], value[16];
	struct result result;

	results = calloc(10000, sizeof(*results));
	while (file && result_count < 10000 &&
		fscanf(file, "%" SCNu64 " %15s %15s\n", &result.block, kind, value) == 3) {
		result.whole = !strcmp(kind, "whole");
		result.value = OLD;
		while (result.value < WRONG && strcmp(value, value_names[result.value]) != 0)
			result.value++;
		results[result_count++] = result;
	}
	if (file)
		fclose(file);
}

static void write_results(const char *path)
{
	FILE *file = fopen(path, "we");

	for (size_t i = 0; file && i < result_count; i++)
		fprintf(file, "%" PRIu64 " %s %s\n", results[i].block,
			results[i].whole ? "whole" : "part", value_names[results[i].value]);
	if (!file || fclose(file)) {
		perror(path);
		exit(EXIT_FAILURE);
	}
}

/* -------- commands -------- */

/* The node's daemon is to die at the message. */
static void arm(const char *run, uint32_t node, const char *message)
{
	char path[4096], temporary[4096];
	int process = 0;

	snprintf(path, sizeof(path), "%s/state/node%u.pid", run, node);
	FILE *file = fopen(path, "re");
	if (!file || fscanf(file, "%d", &process) != 1)
		fail("no process id", 0, node);
	fclose(file);
	snprintf(path, sizeof(path), "%s/die", run);
	snprintf(temporary, sizeof(temporary), "%s/die.new", run);
	file = fopen(temporary, "we");
	if (!file || fprintf(file, "%d %s\n", process, message) < 0 || fclose(file) ||
		rename(temporary, path))
		fail("cannot be armed", 0, node);
}

static void disarm(const char *run)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/die", run);
	unlink(path);
}

/* True if the write was acknowledged as stable. */
static bool change(const struct raw_layout *layout, uint64_t block, const char *kind,
	const char *run, const char *message)
{
	char verifier[NFS3_WRITEVERFSIZE], now[NFS3_WRITEVERFSIZE];
	uint64_t offset = block * block_bytes;

	if (!strcmp(kind, "commit")) {
		if (raw_write(
			    &raw, file_id, layout, offset, new_bytes, block_bytes, false, verifier))
			fail("UNSTABLE write", block, layout->node);
		if (raw_write(&raw, file_id, layout, offset + PART_FROM, new_bytes + PART_FROM,
			    PART_BYTES, false, verifier))
			fail("UNSTABLE write", block, layout->node);
		arm(run, layout->node, message);
		return raw_commit(&raw, file_id, layout, now) == 0 &&
		       !memcmp(verifier, now, sizeof(now));
	}
	bool whole = !strcmp(kind, "whole");
	arm(run, layout->node, message);
	return raw_write(&raw, file_id, layout, offset + (whole ? 0 : PART_FROM),
		       new_bytes + (whole ? 0 : PART_FROM), whole ? block_bytes : PART_BYTES, true,
		       verifier) == 0;
}

static int strike(const char *run, const char *kind, const char *message)
{
	struct result result = {
		.block = result_count, .whole = strcmp(kind, "part") != 0, .value = WRONG};
	struct raw_layout layout = layout_now();
	struct raw_placement placement = placement_now();

	expect(result.block, result.whole);
	bool acknowledged = change(&layout, result.block, kind, run, message);
	uint64_t start = raw_now_ms();
	bool alive = true;
	while (alive && raw_now_ms() - start < DEATH_MS) {
		raw_sleep_ms(10);
		alive = raw_gateway_up(&raw, layout.node, 1000);
	}
	disarm(run);
	if (alive && !acknowledged)
		fail("neither acknowledged nor dead", result.block, layout.node);
	for (unsigned int pass = 0; pass < 2; pass++) {
		for (size_t n = 0; n < raw.config->node_count; n++) {
			uint32_t node = raw.config->nodes[n].id;
			if (!alive && node == layout.node)
				continue;
			enum value value = value_of(result.block, node, layout.epoch);

			if (value == WRONG || (acknowledged && value == OLD) ||
				(result.value != WRONG && value != result.value)) {
				print_block(&placement, result.block);
				fail(value_names[value], result.block, node);
			}
			result.value = value;
		}
	}
	if (alive) {
		printf("alive\n");
	} else {
		printf("died %u\n", layout.node);
		fprintf(stderr, "%s, message %s: %s, %s\n", kind, message,
			acknowledged ? "acknowledged" : "not acknowledged",
			value_names[result.value]);
	}
	results[result_count++] = result;
	return EXIT_SUCCESS;
}

/* Reads one block through every gateway that is up, of which there must be gateways_min. */
static void check_block(
	struct result *result, const struct raw_layout *layout, unsigned int gateways_min)
{
	unsigned int gateways = 0;

	expect(result->block, result->whole);
	for (size_t n = 0; n < raw.config->node_count; n++) {
		uint32_t node = raw.config->nodes[n].id;

		if (!raw_gateway_up(&raw, node, 5000))
			continue;
		gateways++;
		enum value value = value_of(result->block, node, layout->epoch);
		if (value == WRONG || value != result->value) {
			struct raw_placement placement = placement_now();
			print_block(&placement, result->block);
			fprintf(stderr, "was %s\n", value_names[result->value]);
			fail(value_names[value], result->block, node);
		}
	}
	if (gateways < gateways_min)
		fail("too few gateways are up", result->block, 0);
}

static int after(void)
{
	struct result *last = &results[result_count - 1];
	struct raw_layout layout = layout_now();

	check_block(last, &layout, (unsigned int)raw.config->node_count);
	check_block(last, &layout, (unsigned int)raw.config->node_count);
	return EXIT_SUCCESS;
}

static int settled(void)
{
	struct raw_placement placement = placement_now();

	for (size_t i = 0; i < result_count; i++)
		await_settled(&placement, results[i].block, 1);
	return EXIT_SUCCESS;
}

static int check(void)
{
	struct raw_layout layout = layout_now();

	for (size_t i = 0; i < result_count; i++)
		check_block(&results[i], &layout, raw.export->code.k);
	printf("%zu blocks are as they were\n", result_count);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	int status = EXIT_FAILURE;

	if (argc < 4) {
		fputs("usage: writer_death CLUSTER.JSON prepare|strike|after|settled|check ...\n",
			stderr);
		return EXIT_FAILURE;
	}
	raw_open(&raw, argv[1]);
	block_bytes = config_block_bytes(raw.export);
	bytes = malloc(block_bytes);
	old_bytes = malloc(block_bytes);
	new_bytes = malloc(block_bytes);
	if (raw_create(&raw, FILE_NAME, &file_id))
		fail("the file cannot be made", 0, 0);
	if (!strcmp(argv[2], "prepare")) {
		status = prepare(strtoull(argv[3], NULL, 10));
	} else {
		read_results(argv[3]);
		if (!strcmp(argv[2], "strike") && argc == 7)
			status = strike(argv[4], argv[5], argv[6]);
		else if (!strcmp(argv[2], "after") && result_count)
			status = after();
		else if (!strcmp(argv[2], "settled"))
			status = settled();
		else if (!strcmp(argv[2], "check"))
			status = check();
		write_results(argv[3]);
	}
	raw_close(&raw);
	return status;
}
