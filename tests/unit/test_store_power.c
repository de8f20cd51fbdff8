/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * One shard store whose machine loses power, or whose process is killed, at any operation on its
 * device: in the middle of writes, flushes, commits, discards, truncations, records of misses and
 * removals. After each the store is opened again and every block compared with what was promised.
 *
 * ROZO_SEEDS=n runs n seeds, ROZO_FIRST_SEED=n begins there.
 */
#include <CUnit/Basic.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "rpc/log.h"
#include "stripe_cluster.h"
#include "volatile_io.h"

#define DEVICE "/0/device"
#define WRITER 7
#define FILES 2
#define BLOCKS 70 /* more than a group */
#define CODE_K 4
#define CODE_M 2

/* What is known of one block. Numbers of versions; 0: none. */
struct block_model {
	uint64_t decided; /* known to be decided: must never be lost */
	uint64_t top; /* newest acknowledged; decided, or not (yet) */
	bool durable; /* top was acknowledged as durable */
	uint32_t missed; /* recorded durably with top */
	uint64_t removed; /* this version and older ones went with the file */
};

static struct state {
	uint64_t seed;
	unsigned int step;
	struct store *store;
	uint32_t row_bytes;
	uint64_t log_bytes;
	size_t open_files_max;
	uint64_t number; /* of the newest version */
	struct block_model blocks[FILES][BLOCKS];
	/* The call under way, or the last one: what it may have written. */
	unsigned int file;
	uint64_t first, count, under_way;
	bool removing;
	bool failed;
	bool quiet; /* failures are expected */
} state;

static store_read_block last_read;

static void fail(const char *what, uint64_t block)
{
	const struct block_model *model = &state.blocks[state.file][block];

	state.failed = true;
	if (state.quiet)
		return;
	fprintf(stderr,
		"seed %" PRIu64 " step %u: %s: file %u block %" PRIu64 ", decided %" PRIu64
		" top %" PRIu64 "%s, under way %" PRIu64 " at %" PRIu64 "+%" PRIu64
		"%s; told state %u version %" PRIu64 " older %" PRIu64 "\n",
		state.seed, state.step, what, state.file, block, model->decided, model->top,
		model->durable ? " durable" : "", state.under_way, state.first, state.count,
		state.removing ? " removing" : "", last_read.state,
		(uint64_t)last_read.block_version.generation & 0xffffffff,
		(uint64_t)last_read.older.generation & 0xffffffff);
}

static store_version version_of(uint64_t number)
{
	return number ? (store_version){.generation = (UINT64_C(1) << 40) + number,
				.writer = WRITER}
		      : (store_version){0};
}

static uint64_t number_of(store_version version)
{
	return version.generation & 0xffffffff;
}

static store_file key_of(unsigned int file)
{
	return (store_file){.export_id = EXPORT, .file_id = 10 + file};
}

static store_geometry geometry(void)
{
	return (store_geometry){.k = CODE_K, .m = CODE_M, .row_bytes = state.row_bytes};
}

static size_t shard_bytes(void)
{
	const struct mojette_code code = {.k = CODE_K, .m = CODE_M};

	return mojette_shard_bytes(&code, 0, state.row_bytes);
}

/* The bytes that a version of a block has. */
static void shard_fill(uint64_t number, uint64_t block, uint8_t *bytes)
{
	uint64_t x = number * 1000003 + block;

	for (size_t i = 0; i < shard_bytes(); i++) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
		bytes[i] = (uint8_t)(x >> 56);
	}
}

/* The machine may go off meanwhile, in the middle of bringing the log to the files, too. */
static bool try_to_open_store(bool *failed)
{
	const char *devices[] = {DEVICE};
	struct store_options options = {
		.cluster_id = "unit",
		.node_id = 1,
		.devices = devices,
		.device_count = 1,
		.io = &volatile_io,
		.freed_bytes_max = random_number() % 2 ? 1 : 10 * state.row_bytes,
		.open_files_max = state.open_files_max,
		.log_bytes = state.log_bytes,
	};
	char error[512];
	int result;

	if (random_number() % 2)
		volatile_off_after(
			0, 1 + (unsigned int)(random_number() % 30), random_number() % 4 != 0);
	result = store_open(&state.store, &options, error, sizeof(error));
	*failed = result != 0 && volatile_is_on(0);
	if (*failed)
		return false;
	if (result == 0 && volatile_is_on(0)) {
		volatile_on(0); /* not after this */
		return true;
	}
	if (result == 0)
		store_close(state.store);
	volatile_off(0, random_number() % 4 != 0);
	volatile_on(0);
	return false;
}

static bool open_store(void)
{
	bool failed = false;

	while (!failed && !try_to_open_store(&failed))
		;
	if (failed)
		fail("cannot be opened", 0);
	return !failed;
}

/* -------- calls -------- */

static bool done(uint32_t status)
{
	if (status != 0 && volatile_is_on(0))
		fail("refused", state.first);
	return status == 0 && volatile_is_on(0);
}

static void write_blocks(bool stable)
{
	struct block_model *model = &state.blocks[state.file][state.first];
	uint8_t *payload = malloc(state.count * shard_bytes());
	store_write_block headers[BLOCKS];
	store_decided undecided[BLOCKS];
	uint32_t missed = random_number() % 4 == 0 ? 1u << (1 + random_number() % 5) : 0;
	/* What is durable may have been decided; what is not has not. */
	bool exact = model->durable;
	store_write_res res;

	state.under_way = ++state.number;
	for (uint64_t i = 0; i < state.count; i++) {
		uint8_t *bytes = payload + i * shard_bytes();

		shard_fill(state.under_way, state.first + i, bytes);
		headers[i] = (store_write_block){
			.base = version_of(exact ? model->top : 0),
			.length_bytes = CODE_K * state.row_bytes,
			.shard_bytes = (uint32_t)shard_bytes(),
			.crc32c = rozo_crc32c(bytes, shard_bytes()),
		};
		undecided[i] = (store_decided){.first_block = state.first + i,
			.count = 1,
			.block_version = version_of(model[i].top)};
		if (exact)
			model[i].decided = model[i].top;
	}
	store_write_args args = {
		.file = key_of(state.file),
		.geometry = geometry(),
		.write_epoch = 1,
		.block_version = version_of(state.under_way),
		.exact_base = exact ? STORE_BASE_DECIDED : STORE_BASE_ANY,
		.stable = stable,
		.missed = missed,
		.undecided = {.undecided_len = exact ? 0 : (u_int)state.count,
			.undecided_val = undecided},
		.undecided_boot = store_boot(state.store),
		.first_block = state.first,
		.blocks = {.blocks_len = (u_int)state.count, .blocks_val = headers},
		.payload = {.payload_len = (u_int)(state.count * shard_bytes()),
			.payload_val = (char *)payload},
	};
	store_write(state.store, &args, &res);
	free(payload);
	for (uint64_t i = 0; i < state.count; i++) {
		if (done(res.status)) {
			model[i].top = state.under_way;
			model[i].durable = stable;
			model[i].missed = stable ? missed : 0;
		} else if (!exact) {
			model[i].top = model[i].decided; /* what was undecided may be replaced */
			model[i].durable = model[i].decided != 0;
			model[i].missed = 0;
		}
	}
}

static void sync_file(void)
{
	store_sync_args args = {.file = key_of(state.file)};
	store_status_res res;

	store_sync(state.store, &args, &res);
	for (uint64_t i = 0; done(res.status) && i < BLOCKS; i++)
		state.blocks[state.file][i].durable |= state.blocks[state.file][i].top != 0;
}

static void commit_blocks(bool discard)
{
	struct block_model *model = &state.blocks[state.file][state.first];
	store_decided run = {.first_block = state.first,
		.count = (u_int)state.count,
		.block_version = version_of(model->top)};
	store_commit_args args = {.file = key_of(state.file),
		.discard = discard,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;

	if (model->top == 0 || model->top == model->decided || discard == model->durable)
		return;
	if (discard)
		state.under_way = model->top; /* may yet be there */
	store_commit(state.store, &args, &res);
	for (uint64_t i = 0; i < state.count; i++) {
		if (discard) {
			model[i].top = model[i].decided;
			model[i].durable = model[i].decided != 0;
			model[i].missed = 0;
		} else {
			model[i].decided = model[i].top;
		}
	}
}

static void record_missed(void)
{
	struct block_model *model = &state.blocks[state.file][state.first];
	store_missed_args args = {.file = key_of(state.file),
		.first_block = state.first,
		.count = (u_int)state.count,
		.block_version = version_of(model->top),
		.missed = 1u << (1 + random_number() % 5)};
	store_status_res res;

	if (model->top == 0)
		return;
	store_missed(state.store, &args, &res);
	for (uint64_t i = 0; done(res.status) && i < state.count; i++) {
		model[i].missed |= args.missed;
		model[i].durable = true; /* so is everything that was written before */
	}
	/* The flush covers the whole file. */
	for (uint64_t i = 0; done(res.status) && i < BLOCKS; i++)
		state.blocks[state.file][i].durable |= state.blocks[state.file][i].top != 0;
}

static void remove_file(void)
{
	store_remove_args args = {.file = key_of(state.file)};
	store_status_res res;

	state.removing = true;
	store_remove(state.store, &args, &res);
	if (done(res.status)) {
		memset(state.blocks[state.file], 0, sizeof(state.blocks[state.file]));
		for (uint64_t i = 0; i < BLOCKS; i++)
			state.blocks[state.file][i].removed = state.number;
		state.removing = false;
	}
}

/* -------- after a crash -------- */

static void read_block(uint64_t block, uint64_t number, store_read_block *told)
{
	store_read_args args = {.file = key_of(state.file),
		.geometry = geometry(),
		.first_block = block,
		.count = 1,
		.block_version = version_of(number)};
	store_read_res res;

	store_read(state.store, &args, &res);
	*told = (store_read_block){.state = STORE_DAMAGED};
	if (res.status != 0) {
		fail("cannot be read", block);
	} else {
		*told = last_read = res.blocks.blocks_val[0];
		if (told->shard_bytes) {
			uint8_t *bytes = malloc(shard_bytes());

			shard_fill(number_of(told->block_version), block, bytes);
			if (told->shard_bytes != shard_bytes() ||
				memcmp(bytes, res.payload.payload_val, shard_bytes()) != 0)
				fail("wrong bytes", block);
			free(bytes);
		}
	}
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
}

static int note_marked(void *context, const struct store_missed_file *file)
{
	bool *found = context;

	found[file->file.file_id - 10] = true;
	return 0;
}

/*
 * Compares one block and takes over what is there, as whoever settles it would. Its bytes have been
 * compared with those of its version. What was written after the last that is durable may be there,
 * even if it was discarded or replaced since.
 */
static void check_block(uint64_t block)
{
	struct block_model *model = &state.blocks[state.file][block];
	store_read_block told, below;

	read_block(block, 0, &told);
	uint64_t number = number_of(told.block_version);

	if (number && number <= model->removed)
		fail("was removed", block);
	if (state.removing) {
		/* Half removed: its sides are gone in any order. */
		*model = (struct block_model){.removed = model->removed};
		return;
	}
	if (told.state == STORE_DAMAGED)
		fail("damaged", block);
	else if (number < model->decided || (model->durable && number < model->top))
		fail("durable, but not there", block);
	else if (told.state == STORE_TORN && model->durable && number == model->top)
		fail("durable, but torn", block);
	else if (number == model->top && (model->missed & ~told.missed) && told.state != STORE_TORN)
		fail("a miss is forgotten", block);
	if (state.failed)
		return;
	if (model->decided && number != model->decided) {
		read_block(block, model->decided, &below);
		if (below.state != STORE_COMMITTED && below.state != STORE_FINALIZED)
			fail("what was decided is not there below", block);
	}
	if (told.state == STORE_TORN ||
		(number && number != model->decided && random_number() % 2)) {
		store_decided run = {
			.first_block = block, .count = 1, .block_version = told.block_version};
		store_commit_args discard = {.file = key_of(state.file),
			.discard = 1,
			.runs = {.runs_len = 1, .runs_val = &run}};
		store_sync_args sync = {.file = key_of(state.file)};
		store_status_res res;

		/* What was durable, and undecided, is for the settler to judge. */
		store_commit(state.store, &discard, &res);
		store_sync(state.store, &sync, &res);
		number = model->decided;
	}
	*model = (struct block_model){.decided = model->decided,
		.top = number,
		.durable = number != 0,
		.missed = number == model->top ? model->missed : 0,
		.removed = model->removed};
}

static void check(void)
{
	unsigned int changed = state.file;
	bool removing = state.removing;
	bool found[FILES] = {false};

	for (unsigned int file = 0; file < FILES && !state.failed; file++) {
		state.file = file;
		state.removing = removing && file == changed;
		for (uint64_t block = 0; block < BLOCKS && !state.failed; block++)
			check_block(block);
	}
	if (removing && !state.failed) {
		/* Whoever removes a file goes on until it is told that it is done. */
		state.file = changed;
		remove_file();
	}
	state.removing = false;
	if (store_missed_scan(state.store, note_marked, found) != 0)
		fail("misses cannot be looked for", 0);
	for (unsigned int file = 0; file < FILES && !state.failed; file++) {
		bool expected = false;

		for (uint64_t block = 0; block < BLOCKS; block++)
			expected = expected || state.blocks[file][block].missed;
		state.file = file;
		if (expected && !found[file])
			fail("the marker is gone", 0);
	}
	state.count = 0;
}

static void step(void)
{
	struct block_model *model;

	state.file = (unsigned int)(random_number() % FILES);
	state.first = random_number() % BLOCKS;
	state.count = 1 + random_number() % 8;
	state.under_way = 0;
	if (state.count > BLOCKS - state.first)
		state.count = BLOCKS - state.first;
	model = &state.blocks[state.file][state.first];
	for (uint64_t i = 1; i < state.count; i++) {
		if (model[i].top != model->top || model[i].durable != model->durable ||
			model[i].decided != model->decided)
			state.count = i;
	}
	switch (random_number() % 12) {
	case 0 ... 5:
		write_blocks(random_number() % 2);
		break;
	case 6:
		sync_file();
		break;
	case 7:
	case 8:
		commit_blocks(false);
		break;
	case 9:
		commit_blocks(true);
		break;
	case 10:
		record_missed();
		break;
	case 11:
		if (random_number() % 6 == 0)
			remove_file();
		break;
	}
}

static bool run(uint64_t seed, enum volatile_flaw flaw)
{
	static const uint32_t rows[] = {512, 1024, 4096};
	/* None, and such that few, some or all changes fit. */
	static const uint64_t logs[] = {0, 32 << 10, 64 << 10, 96 << 10, 192 << 10, 1 << 20};
	char error[512];

	memset(&state, 0, sizeof(state));
	state.seed = seed;
	state.quiet = flaw != VOLATILE_SOUND;
	random_seed(seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
	for (unsigned int i = 0; i < 4; i++)
		random_number();
	volatile_reset(random_number());
	state.row_bytes = rows[random_number() % 3];
	state.log_bytes = logs[random_number() % 6];
	state.open_files_max = random_number() % 3 == 0 ? 1 : 0;
	volatile_io.make_directory(DEVICE, 0700);
	volatile_io.sync_directory("/0");
	CU_ASSERT_EQUAL_FATAL(
		store_init_device(&volatile_io, DEVICE, "unit", 1, error, sizeof(error)), 0);
	volatile_set_flaw(flaw);
	if (!open_store())
		return false;
	for (unsigned int loss = 0; loss < 6 && !state.failed; loss++) {
		unsigned int operations = 1 + (unsigned int)(random_number() % 80);

		volatile_off_after(0, operations, random_number() % 4 != 0);
		for (unsigned int i = 0; i < 60 && volatile_is_on(0) && !state.failed; i++) {
			state.step++;
			step();
		}
		/* Also stopped as it should be. */
		bool stopped = random_number() % 5 == 0;
		if (stopped)
			store_close(state.store);
		volatile_off(0, random_number() % 4 != 0);
		if (!stopped)
			store_close(state.store);
		volatile_on(0);
		if (!open_store())
			return false;
		if (!state.failed)
			check();
	}
	store_close(state.store);
	return !state.failed;
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

static void what_was_promised_is_there(void)
{
	uint64_t first = setting("ROZO_FIRST_SEED", 1), count = setting("ROZO_SEEDS", 2000);
	unsigned int failures = 0;

	for (uint64_t i = 0; i < count && failures < 10; i++)
		failures += !run(first + i, VOLATILE_SOUND);
	printf("%" PRIu64 " seeds ", count);
	CU_ASSERT_EQUAL(failures, 0);
}

/* Tests of the test. */
static void is_noticed(enum volatile_flaw flaw, uint64_t seeds, unsigned int more_than)
{
	unsigned int failures = 0;

	for (uint64_t seed = 1; seed <= seeds; seed++)
		failures += !run(seed, flaw);
	printf("%u of %" PRIu64 " ", failures, seeds);
	CU_ASSERT(failures > more_than);
}

static void flushes_that_do_nothing_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_FLUSHES, 50, 5);
}

static void answers_before_the_log_is_flushed_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_LOG_FLUSHES, 50, 5);
}

static void flushes_of_files_that_do_nothing_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_FILE_FLUSHES, 50, 5);
}

static void checkpoints_that_flush_nothing_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_CHECKPOINTS, 100, 5);
}

static void records_older_than_a_flush_of_the_file_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_CLEAN, 200, 5);
}

static void removed_files_that_come_back_are_noticed(void)
{
	is_noticed(VOLATILE_FORGET_REMOVALS, 400, 5);
}

static void log_nothing(enum rozo_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"what was promised is there", what_was_promised_is_there},
		{"flushes that do nothing are noticed", flushes_that_do_nothing_are_noticed},
		{"answers before the log is flushed are noticed",
			answers_before_the_log_is_flushed_are_noticed},
		{"flushes of files that do nothing are noticed",
			flushes_of_files_that_do_nothing_are_noticed},
		{"checkpoints that flush nothing are noticed",
			checkpoints_that_flush_nothing_are_noticed},
		{"records older than a flush of the file are noticed",
			records_older_than_a_flush_of_the_file_are_noticed},
		{"removed files that come back are noticed",
			removed_files_that_come_back_are_noticed},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"store_power", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	if (!getenv("ROZO_LOG"))
		rozo_log_set_sink(log_nothing);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
