/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See store_fixture.h. */
#include "store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rpc/crc32c.h"
#include "rpc/log.h"
#include "storaged/store_internal.h"

const store_geometry fixture_4_2 = {.form = 0, .k = 4, .m = 2, .row_bytes = 4096};

/* -------- log -------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 20];
static size_t log_bytes;

static void log_sink(enum rozo_log_level level, const char *line)
{
	(void)level;
	pthread_mutex_lock(&log_lock);
	log_bytes +=
		(size_t)snprintf(log_text + log_bytes, sizeof(log_text) - log_bytes, "%s\n", line);
	if (log_bytes > sizeof(log_text) / 2)
		log_bytes = 0;
	pthread_mutex_unlock(&log_lock);
	if (getenv("STORE_TEST_LOG") != NULL)
		fprintf(stderr, "%s\n", line);
}

void fixture_forget_log(void)
{
	pthread_mutex_lock(&log_lock);
	log_bytes = 0;
	log_text[0] = '\0';
	pthread_mutex_unlock(&log_lock);
}

unsigned int fixture_logged(const char *text)
{
	unsigned int count = 0;

	pthread_mutex_lock(&log_lock);
	for (const char *at = log_text; (at = strstr(at, text)) != NULL; at++)
		count++;
	pthread_mutex_unlock(&log_lock);
	return count;
}

/* -------- numbers -------- */

static uint64_t random_state = 1;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

void fixture_seed(uint64_t seed)
{
	random_state = seed;
}

uint64_t fixture_random(void)
{
	random_state += UINT64_C(0x9e3779b97f4a7c15);
	return mix(random_state);
}

void fixture_bytes(
	store_version version, uint64_t block, uint32_t salt, uint8_t *bytes, uint32_t count)
{
	uint64_t seed = mix(mix(version.generation * 3 + version.writer) + block * 7 + salt);

	for (uint32_t i = 0; i < count; i += 8) {
		uint64_t word = mix(seed + i);

		memcpy(bytes + i, &word, count - i < 8 ? count - i : 8);
	}
}

/* -------- the store -------- */

void fixture_open(struct fixture *fixture)
{
	const char *devices[FIXTURE_DEVICES_MAX];
	char error[1024];
	struct store_options options = {
		.cluster_id = FIXTURE_CLUSTER,
		.node_id = FIXTURE_NODE,
		.devices = devices,
		.device_count = fixture->device_count,
		.open_files_max = fixture->open_files_max,
		.freed_bytes_max = fixture->freed_bytes_max,
		.log_bytes = fixture->log_bytes,
		.log_checkpoint_ms = fixture->log_checkpoint_ms,
		.io = fixture->io,
	};

	for (size_t i = 0; i < fixture->device_count; i++)
		devices[i] = fixture->devices[i];
	CU_ASSERT_EQUAL_FATAL(store_open(&fixture->store, &options, error, sizeof(error)), 0);
}

void fixture_close(struct fixture *fixture)
{
	store_close(fixture->store);
	fixture->store = NULL;
}

void fixture_reopen(struct fixture *fixture)
{
	fixture_close(fixture);
	fixture_open(fixture);
}

void fixture_begin(struct fixture *fixture, size_t devices)
{
	const char *top = getenv("TMPDIR");
	char error[1024];

	memset(fixture, 0, sizeof(*fixture));
	rozo_log_set_sink(log_sink);
	fixture_forget_log();
	fixture_seed(1);
	fixture->log_bytes = 256 << 10;
	snprintf(fixture->base, sizeof(fixture->base), "%s/store-test.XXXXXX",
		top != NULL && strlen(top) < 40 ? top : "/tmp");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(fixture->base));
	fixture->device_count = devices;
	for (size_t i = 0; i < devices; i++) {
		snprintf(fixture->devices[i], sizeof(fixture->devices[i]), "%s/device%zu",
			fixture->base, i);
		CU_ASSERT_EQUAL_FATAL(mkdir(fixture->devices[i], 0700), 0);
		CU_ASSERT_EQUAL_FATAL(store_init_device(NULL, fixture->devices[i], FIXTURE_CLUSTER,
					      FIXTURE_NODE, error, sizeof(error)),
			0);
	}
	fixture_open(fixture);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

void fixture_end(struct fixture *fixture)
{
	if (fixture->store != NULL)
		fixture_close(fixture);
	CU_ASSERT_EQUAL(nftw(fixture->base, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	rozo_log_set_sink(NULL);
}

static bool no_file(const store_file *file)
{
	return file->export_id == 0;
}

/*
 * What a writer that remembers everything knows of a run of blocks: which of its versions there
 * were not decided, since the test has not said that they were.
 */
static store_decided *list_undecided(
	struct fixture *fixture, const store_write_args *write, uint32_t *count)
{
	store_decided *list = calloc(write->blocks.blocks_len + 1, sizeof(*list));
	store_read_args args = {
		.file = write->file,
		.geometry = write->geometry,
		.shard = write->shard,
		.first_block = write->first_block,
		.count = write->blocks.blocks_len,
		.headers_only = 1,
	};
	store_read_res res;

	*count = 0;
	store_read(fixture->store, &args, &res);
	for (uint32_t i = 0; res.status == 0 && i < res.blocks.blocks_len; i++) {
		const store_read_block *told = &res.blocks.blocks_val[i];

		if (told->block_version.writer == write->block_version.writer &&
			told->state != STORE_COMMITTED && *count < STORE_COMMITS_MAX)
			list[(*count)++] = (store_decided){.first_block = write->first_block + i,
				.count = 1,
				.block_version = told->block_version};
	}
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	return list;
}

uint32_t fixture_put(struct fixture *fixture, const struct put *put, store_write_res *res)
{
	store_write_block blocks[STORE_BLOCKS_MAX];
	store_geometry geometry = put->geometry.k == 0 ? fixture_4_2 : put->geometry;
	struct mojette_code code = {
		.form = (uint8_t)geometry.form,
		.k = (uint8_t)geometry.k,
		.m = (uint8_t)geometry.m,
	};
	uint32_t count = put->count == 0 ? 1 : put->count;
	uint32_t length = put->empty         ? 0
			  : put->length == 0 ? geometry.k * geometry.row_bytes
					     : put->length;
	uint32_t shard_bytes =
		put->empty ? 0
			   : (uint32_t)mojette_shard_bytes(&code, put->shard,
				     mojette_row_bytes(&code, length, geometry.row_bytes));
	uint8_t *payload = malloc((size_t)count * shard_bytes + 1);
	store_write_res answer;
	store_write_args args = {
		.file = no_file(&put->file) ? FIXTURE_FILE : put->file,
		.geometry = geometry,
		.shard = put->shard,
		.write_epoch = put->epoch == 0 ? 1 : put->epoch,
		.block_version = put->version,
		.exact_base = put->exact       ? STORE_BASE_DECIDED
			      : put->undecided ? STORE_BASE_UNDECIDED
					       : STORE_BASE_ANY,
		.stable = !put->unstable,
		.missed = put->missed,
		.first_block = put->first,
		.blocks = {.blocks_len = count, .blocks_val = blocks},
		.payload =
			{
				.payload_len = count * shard_bytes,
				.payload_val = (char *)payload,
			},
		.commits =
			{
				.commits_len = put->commit.count != 0,
				.commits_val = (store_decided *)(uintptr_t)&put->commit,
			},
	};

	for (uint32_t i = 0; i < count; i++) {
		uint8_t *shard = payload + (size_t)i * shard_bytes;

		fixture_bytes(put->version, put->first + i, put->salt, shard, shard_bytes);
		blocks[i] = (store_write_block){
			.base = put->base,
			.length_bytes = length,
			.shard_bytes = shard_bytes,
			.crc32c = rozo_crc32c(shard, shard_bytes),
		};
	}
	args.undecided_boot = store_boot(fixture->store);
	if (args.exact_base == STORE_BASE_ANY)
		args.undecided.undecided_val =
			list_undecided(fixture, &args, &args.undecided.undecided_len);
	store_write(fixture->store, &args, &answer);
	free(args.undecided.undecided_val);
	free(payload);
	if (res != NULL)
		*res = answer;
	return answer.status;
}

uint32_t fixture_get(
	struct fixture *fixture, const struct get *get, store_read_block *block, uint8_t *bytes)
{
	store_read_res res;
	store_read_args args = {
		.file = no_file(&get->file) ? FIXTURE_FILE : get->file,
		.geometry = get->geometry.k == 0 ? fixture_4_2 : get->geometry,
		.shard = get->shard,
		.first_block = get->block,
		.count = 1,
		.headers_only = get->headers_only,
		.block_version = get->version,
	};
	uint32_t status;

	store_read(fixture->store, &args, &res);
	status = res.status;
	memset(block, 0, sizeof(*block));
	if (status == 0) {
		CU_ASSERT_EQUAL_FATAL(res.blocks.blocks_len, 1);
		*block = res.blocks.blocks_val[0];
		if (!get->headers_only) {
			CU_ASSERT_EQUAL_FATAL(res.payload.payload_len, block->shard_bytes);
			if (bytes != NULL && block->shard_bytes > 0)
				memcpy(bytes, res.payload.payload_val, block->shard_bytes);
		}
	}
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	return status;
}

uint32_t fixture_state(struct fixture *fixture, uint64_t block, store_version *version)
{
	store_read_block told;

	CU_ASSERT_EQUAL_FATAL(fixture_get(fixture, &(struct get){.block = block}, &told, NULL), 0);
	if (version != NULL)
		*version = told.block_version;
	return told.state;
}

bool fixture_is(
	struct fixture *fixture, const struct get *get, store_version version, uint32_t state)
{
	static uint8_t bytes[128 << 10], expected[128 << 10];
	store_read_block told;
	uint32_t status = fixture_get(fixture, get, &told, bytes);

	if (status != 0 || told.state != state ||
		store_version_compare(told.block_version, version) != 0) {
		fprintf(stderr, "block %llu: status %u, state %u, version %llx.%llx\n",
			(unsigned long long)get->block, status, told.state,
			(unsigned long long)told.block_version.generation,
			(unsigned long long)told.block_version.writer);
		return false;
	}
	fixture_bytes(version, get->block, 0, expected, told.shard_bytes);
	return memcmp(bytes, expected, told.shard_bytes) == 0;
}

static void decide(struct fixture *fixture, store_version version, uint64_t first, uint32_t count,
	bool discard)
{
	store_decided run = {.first_block = first, .count = count, .block_version = version};
	store_commit_args args = {
		.file = FIXTURE_FILE,
		.discard = discard,
		.runs = {.runs_len = 1, .runs_val = &run},
	};
	store_status_res res;

	store_commit(fixture->store, &args, &res);
	CU_ASSERT_EQUAL(res.status, 0);
}

void fixture_commit(struct fixture *fixture, store_version version, uint64_t first, uint32_t count)
{
	decide(fixture, version, first, count, false);
}

void fixture_discard(struct fixture *fixture, store_version version, uint64_t first, uint32_t count)
{
	decide(fixture, version, first, count, true);
}

uint32_t fixture_sync(struct fixture *fixture, store_file file)
{
	store_sync_args args = {.file = file};
	store_status_res res;

	store_sync(fixture->store, &args, &res);
	return res.status;
}

/* -------- files -------- */

void fixture_side_of(
	struct fixture *fixture, store_file file, unsigned int side, char *path, size_t path_bytes)
{
	char name[STORE_PATH_MAX];

	for (size_t i = 0; i < fixture->device_count; i++) {
		struct store_device device = {.path = fixture->devices[i]};

		store_side_path(&device, &file, side, name);
		snprintf(path, path_bytes, "%.*s", (int)path_bytes - 1, name);
		if (access(name, F_OK) == 0)
			return;
	}
}

void fixture_side(struct fixture *fixture, unsigned int side, char *path, size_t path_bytes)
{
	fixture_side_of(fixture, FIXTURE_FILE, side, path, path_bytes);
}

void fixture_flip(const char *path, uint64_t offset, unsigned int bit)
{
	int file = open(path, O_RDWR);
	uint8_t byte;

	CU_ASSERT_FATAL(file >= 0);
	CU_ASSERT_EQUAL_FATAL(pread(file, &byte, 1, (off_t)offset), 1);
	byte ^= (uint8_t)(1u << bit);
	CU_ASSERT_EQUAL_FATAL(pwrite(file, &byte, 1, (off_t)offset), 1);
	close(file);
}

static uint64_t allocated;

static int add_allocated(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)path;
	(void)type;
	(void)walk;
	allocated += (uint64_t)status->st_blocks * 512;
	return 0;
}

uint64_t fixture_allocated(struct fixture *fixture)
{
	allocated = 0;
	sync();
	CU_ASSERT_EQUAL(nftw(fixture->base, add_allocated, 16, FTW_PHYS), 0);
	return allocated;
}
