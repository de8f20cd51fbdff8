/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The stripe engine against real stores behind real RPC on loopback (stripe_cluster.h). Nodes are
 * stopped and started, files are compared with a copy in memory.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rpc/crc32c.h"
#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/store.h"
#include "stripe_cluster.h"

static bool reads_as(struct stripe_file *file, const uint8_t *model, uint64_t offset, size_t length)
{
	uint8_t *bytes = malloc(length ? length : 1);
	int error = stripe_read(file, offset, bytes, length);
	bool same = error == 0 && memcmp(bytes, model + offset, length) == 0;

	if (error)
		fprintf(stderr, "read %" PRIu64 "+%zu: %s\n", offset, length, strerror(-error));
	for (size_t i = 0; !error && !same && i < length; i++) {
		if (bytes[i] != model[offset + i]) {
			fprintf(stderr, "differs at %" PRIu64 "\n", offset + i);
			break;
		}
	}
	free(bytes);
	return same;
}

static struct stripe_file *open_file(uint64_t id)
{
	struct stripe_file *file = NULL;

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
	return file;
}

/* Engines notice nodes that are back within a second; ask until they have, but not for ever. */
static void wait_for_nodes(struct stripe_file *file, uint32_t wanted)
{
	for (unsigned int i = 0; i < 200; i++) {
		if ((stripe_shards_up(file, 0) & wanted) == wanted)
			return;
		usleep(50000);
	}
	CU_FAIL("a node that is back was not noticed in 10 s");
}

/* Several times if need be, as the healer does: on a busy machine a node may seem to be down. */
static void heal_everything(struct stripe_file *file, unsigned int segments)
{
	for (unsigned int segment = 0; segment < segments; segment++) {
		uint64_t left = 1;
		int error = 0;

		for (unsigned int i = 0; i < 100 && left && !error; i++) {
			if (i)
				usleep(50000);
			error = stripe_heal(
				file, segment, 0, (uint32_t)cluster.segment_blocks, NULL, &left);
		}
		CU_ASSERT(error == 0 || error == -ENOENT); /* nothing was ever written there */
		CU_ASSERT(left == 0 || error);
	}
}

/* -------- tests -------- */

static void whole_and_partial_blocks_read_back(void)
{
	static const struct {
		enum mojette_form form;
		unsigned int k, m;
		uint32_t row_bytes;
	} shapes[] = {
		{MOJETTE_NON_SYSTEMATIC, 4, 2, 4096},
		{MOJETTE_SYSTEMATIC, 4, 2, 4096},
		{MOJETTE_NON_SYSTEMATIC, 2, 1, 1024},
		{MOJETTE_NON_SYSTEMATIC, 8, 4, 4096},
		{MOJETTE_SYSTEMATIC, 3, 1, 16384},
	};

	for (unsigned int i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		random_seed(42 + i);
		cluster_start(shapes[i].form, shapes[i].k, shapes[i].m, shapes[i].row_bytes);
		struct stripe_file *file = open_file(1);
		size_t size = 3 * 1024 * 1024 + 12345;
		uint8_t *model = calloc(1, size + 300000);

		fill(model, size);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, false), 0);
		CU_ASSERT(reads_as(file, model, 0, size + 100000));
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
		CU_ASSERT_EQUAL(cluster.files[1].size, size);
		for (unsigned int j = 0; j < 40; j++) {
			uint64_t offset = random_number() % size;
			size_t length = 1 + random_number() % (j % 2 ? 200000 : 300);
			fill(model + offset, length);
			CU_ASSERT_EQUAL(
				stripe_write(file, offset, model + offset, length, j % 3 == 0), 0);
			uint64_t from = random_number() % size;
			CU_ASSERT(reads_as(file, model, from, 1 + random_number() % 90000));
		}
		CU_ASSERT(reads_as(file, model, 0, size));
		stripe_file_put(file);
		/* Another engine, as after a restart, sees the same. */
		stripe_destroy(cluster.stripe);
		engine_start();
		file = open_file(1);
		CU_ASSERT(reads_as(file, model, 0, size));
		/* And can overwrite what its predecessor wrote. */
		fill(model, size);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
		CU_ASSERT(reads_as(file, model, 0, size));
		stripe_file_put(file);
		free(model);
		cluster_stop();
	}
}

static void holes_read_as_zeros(void)
{
	random_seed(7);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(2);
	size_t size = 2 * 1024 * 1024;
	uint8_t *model = calloc(1, size);

	CU_ASSERT(reads_as(file, model, 0, size));
	fill(model + 1000000, 10);
	CU_ASSERT_EQUAL(stripe_write(file, 1000000, model + 1000000, 10, true), 0);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void any_m_nodes_may_be_down(void)
{
	random_seed(11);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(5);
	size_t size = 700000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	for (unsigned int a = 0; a < 6; a++) {
		for (unsigned int b = a + 1; b < 6; b++) {
			node_stop(a);
			node_stop(b);
			CU_ASSERT(reads_as(file, model, 0, size));
			node_start(a);
			node_start(b);
			wait_for_nodes(file, 0x3f);
		}
	}
	/* One more and it is an error, never zeros. */
	node_stop(0);
	node_stop(1);
	node_stop(2);
	uint8_t byte;
	CU_ASSERT_EQUAL(stripe_read(file, 0, &byte, 1), -EIO);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), -EIO);
	node_start(0);
	node_start(1);
	node_start(2);
	wait_for_nodes(file, 0x3f);
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void writes_with_nodes_down_are_healed(void)
{
	static const bool stable[] = {true, false};

	for (unsigned int way = 0; way < 2; way++) {
		random_seed(13 + way);
		cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
		struct stripe_file *file = open_file(6);
		size_t size = 1500000;
		uint8_t *model = calloc(1, size);

		fill(model, size);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
		node_stop(1);
		node_stop(4);
		fill(model + 100, 300000);
		CU_ASSERT_EQUAL(stripe_write(file, 100, model + 100, 300000, stable[way]), 0);
		fill(model + 800000, 700000);
		CU_ASSERT_EQUAL(stripe_write(file, 800000, model + 800000, 700000, stable[way]), 0);
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
		CU_ASSERT(reads_as(file, model, 0, size));
		node_start(1);
		node_start(4);
		wait_for_nodes(file, 0x3f);
		CU_ASSERT(reads_as(file, model, 0, size));
		heal_everything(file, 8);
		/* Now two others may go. */
		node_stop(0);
		node_stop(2);
		CU_ASSERT(reads_as(file, model, 0, size));
		node_start(0);
		node_start(2);
		stripe_file_put(file);
		free(model);
		cluster_stop();
	}
}

static void what_reads_notice_can_be_healed(void)
{
	struct stripe_noticed noticed[8];
	size_t size = 200000;
	uint8_t *model = calloc(1, size);
	char command[512];
	size_t count, blocks = 0;

	random_seed(17);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(6); /* its reads ask shards 0 to 3 first */
	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	/* A node loses its shards, and nobody has a record of that. */
	node_stop(1);
	snprintf(command, sizeof(command), "rm -rf %s/shards/*", cluster.nodes[1].directory);
	CU_ASSERT_EQUAL(system(command), 0);
	node_start(1);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT(reads_as(file, model, 0, size));
	while ((count = stripe_noticed(cluster.stripe, noticed, 8)) > 0) {
		for (size_t i = 0; i < count; i++) {
			uint64_t healed;

			CU_ASSERT_EQUAL(noticed[i].export_id, EXPORT);
			CU_ASSERT_EQUAL(noticed[i].file_id, 6);
			CU_ASSERT_EQUAL(stripe_heal(file, noticed[i].segment, noticed[i].block, 1,
						&healed, NULL),
				0);
			CU_ASSERT_EQUAL(healed, 1);
		}
		blocks += count;
	}
	CU_ASSERT_EQUAL(blocks, (size + 16383) / 16384);
	node_stop(0);
	node_stop(2);
	CU_ASSERT(reads_as(file, model, 0, size));
	node_start(0);
	node_start(2);
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/* -------- a device is lost -------- */

#define LOST_BLOCK_BYTES 16384
#define WRITTEN_BLOCKS 10 /* before the device was lost; then a hole */
#define LATER_BLOCK 30 /* written afterwards */

/* The device that has the node's shards is gone when it starts again; the other one is empty. */
static void lose_device(unsigned int i)
{
	struct test_node *node = &cluster.nodes[i];
	char shards[300], label[300], away[300];

	node_stop(i);
	snprintf(shards, sizeof(shards), "%s/shards/%x", node->directory, EXPORT);
	const char *device = access(shards, F_OK) == 0 ? node->directory : node->second_directory;
	snprintf(label, sizeof(label), "%s/rozo-label", device);
	snprintf(away, sizeof(away), "%s/away", device);
	CU_ASSERT_EQUAL_FATAL(rename(label, away), 0);
	node_start(i);
}

/* What the store of a shard says of a block of file 1. */
static uint32_t state_of(unsigned int shard, uint64_t block, store_version *version)
{
	store_read_block header = {.state = UINT32_MAX};

	CU_ASSERT_EQUAL(block_header(1, shard, block, &header), 0);
	*version = header.block_version;
	return header.state;
}

/* Two nodes with a device less, on each of which the file is new, and another one down. */
static void holes_of_files_made_without_a_device_read_as_zeros(void)
{
	static const uint8_t zeros[100];
	uint8_t *bytes = malloc(LOST_BLOCK_BYTES), read[100];

	random_seed(46);
	cluster.two_devices = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	lose_device(0);
	lose_device(1);
	struct stripe_file *file = open_file(1);
	fill(bytes, LOST_BLOCK_BYTES);
	CU_ASSERT_EQUAL(stripe_write(file, 5 * LOST_BLOCK_BYTES, bytes, LOST_BLOCK_BYTES, true), 0);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_read(file, 2 * LOST_BLOCK_BYTES, read, sizeof(read)), 0);
	CU_ASSERT_EQUAL(memcmp(read, zeros, sizeof(read)), 0);
	/* Out of order, as write-back is. */
	CU_ASSERT_EQUAL(stripe_write(file, 2 * LOST_BLOCK_BYTES, bytes, 100, true), 0);
	CU_ASSERT_EQUAL(stripe_read(file, 2 * LOST_BLOCK_BYTES, read, sizeof(read)), 0);
	CU_ASSERT_EQUAL(memcmp(read, bytes, sizeof(read)), 0);
	stripe_file_put(file);
	free(bytes);
	cluster_stop();
	cluster.two_devices = false;
}

static void blocks_on_a_lost_device_are_healed(void)
{
	const size_t written = WRITTEN_BLOCKS * LOST_BLOCK_BYTES;
	const size_t size = (LATER_BLOCK + 1) * LOST_BLOCK_BYTES;
	uint8_t *model = calloc(1, size);
	struct stripe_heal_result result;
	store_version version;

	random_seed(23);
	cluster.two_devices = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1); /* shard s is on node s + 1 */
	fill(model, written);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, written, true), 0);
	lose_device(3);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start(); /* that does not think the node is down */
	file = open_file(1);
	fill(model + size - LOST_BLOCK_BYTES, LOST_BLOCK_BYTES);
	CU_ASSERT_EQUAL(stripe_write(file, size - LOST_BLOCK_BYTES, model + size - LOST_BLOCK_BYTES,
				LOST_BLOCK_BYTES, true),
		0);
	/* Whatever it had of them: it does not say that it had nothing. */
	CU_ASSERT_EQUAL(state_of(2, 0, &version), STORE_DAMAGED);
	CU_ASSERT_EQUAL(version.generation, 0);
	CU_ASSERT_EQUAL(state_of(2, WRITTEN_BLOCKS, &version), STORE_DAMAGED);
	CU_ASSERT(reads_as(file, model, 0, size));
	/* While a node is down, what somebody has is healed, and the rest is no failure. */
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, LATER_BLOCK + 1, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, WRITTEN_BLOCKS);
	CU_ASSERT_EQUAL(result.failed + result.unknown, 0);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, LATER_BLOCK + 1, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed + result.failed + result.unknown, 0);
	node_start(5);
	wait_for_nodes(file, 0x3f);
	/* When all nodes are there the hole is known to be one. Nobody lagged behind. */
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, LATER_BLOCK + 1, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, LATER_BLOCK - WRITTEN_BLOCKS);
	CU_ASSERT_EQUAL(result.unrecorded + result.left + result.failed + result.unknown, 0);
	CU_ASSERT_NOT_EQUAL(state_of(2, WRITTEN_BLOCKS, &version), STORE_DAMAGED);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, LATER_BLOCK + 1, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed + result.left + result.failed + result.unknown, 0);
	node_stop(0);
	node_stop(1);
	CU_ASSERT(reads_as(file, model, 0, size));
	/* A block of the hole can be written. */
	fill(model + written, 100);
	CU_ASSERT_EQUAL(stripe_write(file, written, model + written, 100, true), 0);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
	cluster.two_devices = false;
}

/* Writes one block of file 1 to the stores of some shards, as a writer does that dies then. */
static void write_to(uint32_t shards, uint32_t missed, store_version version, const uint8_t *bytes)
{
	uint8_t *made[6];
	const uint8_t *rows[4];

	for (unsigned int r = 0; r < 4; r++)
		rows[r] = bytes + r * 4096;
	for (unsigned int s = 0; s < 6; s++)
		made[s] = malloc(mojette_shard_bytes(&cluster.code, s, 4096));
	CU_ASSERT_EQUAL_FATAL(mojette_encode(&cluster.code, 4096, rows, made), 0);
	for (unsigned int s = 0; s < 6; s++) {
		uint32_t shard_bytes = (uint32_t)mojette_shard_bytes(&cluster.code, s, 4096);
		store_write_block block = {.length_bytes = LOST_BLOCK_BYTES,
			.shard_bytes = shard_bytes,
			.crc32c = rozo_crc32c(made[s], shard_bytes)};
		store_write_args args = {
			.file = {.export_id = EXPORT, .file_id = 1},
			.geometry = {.form = cluster.code.form, .k = 4, .m = 2, .row_bytes = 4096},
			.shard = s,
			.write_epoch = 1,
			.block_version = version,
			.stable = 1,
			.missed = missed,
			.blocks = {.blocks_len = 1, .blocks_val = &block},
			.payload = {.payload_len = shard_bytes, .payload_val = (char *)made[s]},
		};
		store_write_res res = {0};

		if (shards & (1u << s))
			store_write(cluster.nodes[(s + 1) % 6].store, &args, &res);
		CU_ASSERT_EQUAL(res.status, 0);
		free(made[s]);
	}
}

/* Two nodes missed a write, and a third one loses its device: that is no proof that it was none. */
static void what_was_acknowledged_is_not_undecided_for_a_lost_device(void)
{
	uint8_t bytes[LOST_BLOCK_BYTES];

	random_seed(24);
	cluster.two_devices = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.files[1].segment_count = 1;
	cluster.files[1].size = sizeof(bytes);
	fill(bytes, sizeof(bytes));
	write_to(0x3c, 0x03, (store_version){.generation = (UINT64_C(1) << 40) + 1, .writer = 77},
		bytes);
	lose_device(3);
	struct stripe_file *file = open_file(1); /* shard s is on node s + 1 */
	CU_ASSERT_EQUAL(stripe_write(file, LATER_BLOCK * LOST_BLOCK_BYTES, bytes, 100, true), 0);
	CU_ASSERT_EQUAL(stripe_read(file, 0, bytes, 100), -EIO);
	CU_ASSERT_EQUAL(stripe_heal(file, 0, 0, 1, NULL, NULL), -EIO);
	CU_ASSERT_EQUAL(stripe_read(file, 0, bytes, 100), -EIO);
	stripe_file_put(file);
	cluster_stop();
	cluster.two_devices = false;
}

static void node_lost_between_write_and_commit_is_recorded(void)
{
	random_seed(17);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(6);
	size_t size = 900000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, false), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	node_stop(3);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	struct stripe_counters counters;
	stripe_counters(cluster.stripe, &counters);
	CU_ASSERT(counters.missed_shards > 0);
	/* With too few left the client must be told to send again. */
	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, false), 0);
	node_stop(0);
	node_stop(1);
	CU_ASSERT_EQUAL(stripe_commit(file), -EIO);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	node_start(0);
	node_start(1);
	node_start(3);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void store_that_restarted_before_commit_is_not_trusted(void)
{
	random_seed(19);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(6);
	size_t size = 300000;
	uint8_t *model = calloc(1, size);
	struct stripe_counters counters;

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, false), 0);
	node_stop(3);
	node_start(3);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	stripe_counters(cluster.stripe, &counters);
	CU_ASSERT(counters.missed_shards > 0);
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static atomic_uint same_version_twice;

static void watch_log(enum rozo_log_level level, const char *line)
{
	(void)level;
	if (strstr(line, "two different shards under one version"))
		atomic_fetch_add(&same_version_twice, 1);
	fprintf(stderr, "%s\n", line);
}

static rpc_handler plain_write;
static atomic_uint slow_writes; /* executed, and not answered yet */

static void slow_write(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	plain_write(context, caller, arguments, result);
	atomic_fetch_add(&slow_writes, 1);
	sleep(1);
	usleep(500000);
}

/* For somebody who begins a write on another thread. */
static void wait_for_slow_write(void)
{
	for (unsigned int i = 0; i < 2000 && atomic_load(&slow_writes) == 0; i++)
		usleep(5000);
	CU_ASSERT(atomic_exchange(&slow_writes, 0) > 0);
}

/* As whoever stops nodes next wants it. */
static void wait_all_decided(uint64_t id)
{
	for (unsigned int s = 0; s < cluster.code.k + cluster.code.m; s++)
		wait_decided(id, s, 0);
}

static void *write_that_fails(void *argument)
{
	uint8_t *bytes = malloc(16384);

	memset(bytes, 'n', 16384);
	CU_ASSERT_EQUAL(stripe_write(argument, 0, bytes, 16384, true), -EIO);
	free(bytes);
	return NULL;
}

/* min_shards may be more than decide a version. */
static void what_a_reader_was_told_is_not_taken_back(void)
{
	struct stripe_file *others = NULL;
	uint8_t bytes[16384], first, second;
	pthread_t thread;

	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.min_shards = 5;
	struct stripe_file *file = open_file(6);
	struct stripe *other = engine_create();

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 6, &others), 0);
	memset(bytes, 'o', sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	wait_all_decided(6);
	node_stop(4);
	node_stop(5);
	plain_write = cluster.nodes[3].procedures[STORE_WRITE].handler;
	cluster.nodes[3].procedures[STORE_WRITE].handler = slow_write;
	pthread_create(&thread, NULL, write_that_fails, file);
	wait_for_slow_write();
	CU_ASSERT_EQUAL(stripe_read(others, 0, bytes, sizeof(bytes)), 0);
	first = bytes[0];
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(stripe_read(others, 0, bytes, sizeof(bytes)), 0);
	second = bytes[0];
	fprintf(stderr, "told %c, then %c\n", first, second);
	CU_ASSERT(first == 'o' || second == 'n');
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/* On stores enough to decide, but fewer than min_shards: nobody is to be stuck with that. */
static void what_too_few_took_is_settled_when_others_are_back(void)
{
	struct stripe_file *others = NULL;
	uint8_t bytes[16384];

	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.min_shards = 5;
	struct stripe_file *file = open_file(6);

	memset(bytes, 'o', sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	wait_all_decided(6);
	node_stop(4);
	node_stop(5);
	memset(bytes, 'n', sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), -EIO);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	cluster.stripe = NULL;
	node_start(4);
	node_start(5);
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 6, &others), 0);
	CU_ASSERT_EQUAL(stripe_heal(others, 0, 0, 1, NULL, NULL), 0);
	CU_ASSERT_EQUAL(stripe_read(others, 0, bytes, sizeof(bytes)), 0);
	CU_ASSERT_EQUAL(bytes[0], 'n');
	CU_ASSERT_EQUAL(stripe_write(others, 100, bytes, 10, true), 0);
	node_stop(0);
	node_stop(1);
	CU_ASSERT_EQUAL(stripe_read(others, 0, bytes, sizeof(bytes)), 0);
	stripe_file_put(others);
	stripe_destroy(other);
	cluster_stop();
}

static struct stripe_counters count(void)
{
	struct stripe_counters counters;

	stripe_counters(cluster.stripe, &counters);
	return counters;
}

static uint64_t count_of(struct stripe *stripe, uint32_t procedure)
{
	struct stripe_counters counters;

	stripe_counters(stripe, &counters);
	return counters.calls[procedure];
}

/* Or an outage fills the memory with files that nobody uses. */
static void files_with_failed_writes_are_dropped_like_others(void)
{
	uint8_t bytes[8192], seen[8192];

	cluster_start(MOJETTE_SYSTEMATIC, 2, 1, 4096);
	stripe_destroy(cluster.stripe);
	cluster.files_max = 4;
	engine_start();
	cluster.files_max = 0;
	memset(bytes, 'x', sizeof(bytes));
	for (uint64_t id = 1; id <= 20; id++) {
		struct stripe_file *file = open_file(id);
		CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
		stripe_file_put(file);
	}
	/* While a store has not heard what is decided, the file stays. */
	for (uint64_t id = 1; id <= 20; id++) {
		for (unsigned int shard = 0; shard < 3; shard++)
			wait_decided(id, shard, 0);
	}
	node_stop(0);
	node_stop(1);
	memset(bytes, 'y', sizeof(bytes));
	for (uint64_t id = 1; id <= 20; id++) {
		struct stripe_file *file = open_file(id);
		CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), -EIO);
		stripe_file_put(file);
	}
	node_start(0);
	node_start(1);
	uint64_t asked = cluster.placements_asked;
	for (uint64_t id = 1; id <= 20; id++) {
		struct stripe_file *file = open_file(id);
		wait_for_nodes(file, 7);
		/* One store has what we left; it must not be taken for something that will be. */
		CU_ASSERT_EQUAL(stripe_read(file, 0, seen, sizeof(seen)), 0);
		CU_ASSERT(seen[0] == 'x' && memcmp(seen, seen + 1, sizeof(seen) - 1) == 0);
		memset(bytes, 'z', sizeof(bytes));
		CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
		CU_ASSERT_EQUAL(stripe_read(file, 0, seen, sizeof(seen)), 0);
		CU_ASSERT_EQUAL(memcmp(seen, bytes, sizeof(seen)), 0);
		stripe_file_put(file);
	}
	CU_ASSERT(cluster.placements_asked - asked >= 8);
	cluster_stop();
}

/* More than fit one call, and one with more runs than that. */
static void what_is_decided_of_many_files_is_told_together(void)
{
	enum { FILES = 150, RUNS = STORE_COMMITS_MAX + 100 };
	uint8_t bytes[8192];

	cluster.tell_delay_ms = 300;
	cluster_start(MOJETTE_SYSTEMATIC, 2, 1, 4096);
	cluster.tell_delay_ms = 0;
	cluster.segment_blocks = 2 * RUNS;
	memset(bytes, 'x', sizeof(bytes));
	struct stripe_file *many = open_file(FILES + 1);
	for (uint64_t run = 0; run < RUNS; run++)
		CU_ASSERT_EQUAL(
			stripe_write(many, 2 * run * sizeof(bytes), bytes, sizeof(bytes), true), 0);
	for (uint64_t id = 1; id <= FILES; id++) {
		struct stripe_file *file = open_file(id);
		CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
		stripe_file_put(file);
	}
	for (unsigned int shard = 0; shard < 3; shard++) {
		for (uint64_t id = 1; id <= FILES; id++)
			wait_decided(id, shard, 0);
		for (uint64_t run = 0; run < RUNS; run++)
			wait_decided(FILES + 1, shard, 2 * run);
	}
	stripe_file_put(many);
	/* What did not fit one call was told at once, of its file alone. */
	CU_ASSERT(count().calls[STORE_TELL] + count().calls[STORE_COMMIT] < FILES);
	cluster_stop();
}

static void *write_again(void *argument)
{
	uint8_t bytes[8192];

	memset(bytes, 'n', sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(argument, 0, bytes, sizeof(bytes), true), 0);
	return NULL;
}

/* An engine that comes back to a file has the same write epoch, and must go on counting. */
static void versions_are_not_given_twice_when_a_file_was_forgotten(void)
{
	struct stripe_file *others = NULL;
	uint8_t bytes[8192];
	bool mixed = false;
	pthread_t thread;

	cluster_start(MOJETTE_SYSTEMATIC, 2, 1, 4096);
	stripe_destroy(cluster.stripe);
	cluster.files_max = 2;
	engine_start();
	cluster.files_max = 0;
	rozo_log_set_sink(watch_log);
	struct stripe_file *file = open_file(3);

	node_stop(0); /* has shard 0 of file 3 */
	memset(bytes, 'o', sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	wait_decided(3, 1, 0);
	wait_decided(3, 2, 0);
	stripe_file_put(file);
	/* Others take its place. */
	for (uint64_t id = 10; id < 14; id++)
		stripe_file_put(open_file(id));
	node_start(0);
	file = open_file(3);
	wait_for_nodes(file, 7);
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 3, &others), 0);
	plain_write = cluster.nodes[1].procedures[STORE_WRITE].handler;
	cluster.nodes[1].procedures[STORE_WRITE].handler = slow_write;
	pthread_create(&thread, NULL, write_again, file);
	wait_for_slow_write();
	CU_ASSERT_EQUAL(stripe_read(others, 0, bytes, sizeof(bytes)), 0);
	for (unsigned int i = 1; i < sizeof(bytes); i++)
		mixed = mixed || bytes[i] != bytes[0];
	CU_ASSERT(!mixed);
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(same_version_twice, 0);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	rozo_log_set_sink(NULL);
	cluster_stop();
}

static void store_that_restarted_between_unstable_writes_is_left_behind(void)
{
	random_seed(20);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(6);
	size_t size = 16384;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	/* The second write replaces the first where that is still known not to be decided. */
	fill(model + 100, 1000);
	CU_ASSERT_EQUAL(stripe_write(file, 100, model + 100, 1000, false), 0);
	node_stop(3);
	node_start(3);
	wait_for_nodes(file, 0x3f);
	fill(model + 5000, 1000);
	CU_ASSERT_EQUAL(stripe_write(file, 5000, model + 5000, 1000, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT(reads_as(file, model, 0, size));
	heal_everything(file, 1);
	node_stop(0);
	node_stop(1);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void truncation_leaves_zeros(void)
{
	random_seed(23);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 1600000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	static const uint64_t sizes[] = {1500000, 1310720, 655361, 16384, 100, 0};
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		begin_truncation(9, sizes[i]);
		CU_ASSERT_EQUAL(stripe_truncate(file, sizes[i]), 0);
		memset(model + sizes[i], 0, size - sizes[i]);
		CU_ASSERT_FALSE(cluster.files[9].truncate);
		CU_ASSERT(reads_as(file, model, 0, size));
		/* Grow again by a write far behind: the gap is zeros. */
		fill(model + size - 10, 10);
		CU_ASSERT_EQUAL(stripe_write(file, size - 10, model + size - 10, 10, true), 0);
		CU_ASSERT(reads_as(file, model, 0, size));
		/* The same truncation once more must not touch what was written since. */
		CU_ASSERT_EQUAL(stripe_truncate(file, sizes[i]), 0);
		CU_ASSERT(reads_as(file, model, 0, size));
	}
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void truncation_begun_elsewhere_is_finished_on_attach(void)
{
	random_seed(29);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 100000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	begin_truncation(9, 5000);
	engine_start();
	file = open_file(9);
	memset(model + 5000, 0, size - 5000);
	CU_ASSERT_FALSE(cluster.files[9].truncate);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/*
 * Whoever began a truncation died, and a writer that has been at work before knows nothing of it:
 * what it has acknowledged since must not go away when somebody carries it out.
 */
static void what_is_written_while_a_truncation_waits_stays(void)
{
	random_seed(37);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 100000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	begin_truncation(9, 5000);
	memset(model + 5000, 0, size - 5000);
	fill(model + 20000, 30000);
	CU_ASSERT_EQUAL(stripe_write(file, 20000, model + 20000, 30000, true), 0);
	begin_truncation(9, 40000);
	memset(model + 40000, 0, size - 40000);
	/* Unstable: at COMMIT at the latest clients hear that they are to send it again. */
	for (unsigned int attempt = 0; attempt < 2; attempt++) {
		uint64_t verifier = stripe_write_verifier(cluster.stripe);
		fill(model + 41000, 4000);
		CU_ASSERT_EQUAL(stripe_write(file, 41000, model + 41000, 4000, false), 0);
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
		CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe) == verifier, attempt == 1);
	}
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(9);
	CU_ASSERT_FALSE(cluster.files[9].truncate);
	CU_ASSERT(reads_as(file, model, 0, size));
	/* Nor must a file that is as large as it ever was wait for exportd. */
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	rpc_server_stop(cluster.meta);
	cluster.meta = NULL;
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/* Somebody had the stores refuse versions of the truncation's epoch, far beyond the first ones. */
static void a_truncation_passes_what_stores_refuse(void)
{
	random_seed(47);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 100000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	uint32_t epoch = begin_truncation(9, 5000);
	for (unsigned int s = 0; s < 6; s++) {
		const store_read_args args = {
			.file = {.export_id = EXPORT, .file_id = 9},
			.geometry = {.form = cluster.code.form, .k = 4, .m = 2, .row_bytes = 4096},
			.shard = s,
			.count = 1,
			.headers_only = 1,
			.refuse = {.generation = (uint64_t)epoch << 40 | 1000, .writer = 5},
		};
		store_read_res res;

		store_read(cluster.nodes[(s + 9) % 6].store, &args, &res);
		CU_ASSERT_EQUAL(res.status, 0);
		rpc_free(RPC_XDR(xdr_store_read_res), &res);
	}
	engine_start();
	file = open_file(9);
	memset(model + 5000, 0, size - 5000);
	CU_ASSERT_FALSE(cluster.files[9].truncate);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

#define CUT_FILE 9
#define CUT_FILE_BYTES 100000

/* A cluster with a file full of bytes, as in the model. */
static struct stripe_file *begin_with_a_file(uint64_t seed, uint8_t **model)
{
	random_seed(seed);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(CUT_FILE);
	*model = calloc(1, CUT_FILE_BYTES);
	fill(*model, CUT_FILE_BYTES);
	CU_ASSERT_EQUAL(stripe_write(file, 0, *model, CUT_FILE_BYTES, true), 0);
	return file;
}

static void end_with_the_file(struct stripe_file *file, uint8_t *model)
{
	CU_ASSERT(reads_as(file, model, 0, CUT_FILE_BYTES));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/* What a client does that COMMIT tells of a new verifier: RFC 1813 section 3.3.21. */
static void send_again_and_commit(
	struct stripe_file *file, const uint8_t *model, uint64_t offset, size_t length)
{
	uint64_t verifier = stripe_write_verifier(cluster.stripe);

	CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, length, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
}

/* As after a database was restored from a backup: the stores know of more than exportd does. */
static void exportd_behind_the_stores_catches_up(void)
{
	for (unsigned int what = 0; what < 4; what++) {
		uint8_t *model;
		struct stripe_heal_result healed;

		cluster.claims = true;
		struct stripe_file *file = begin_with_a_file(57, &model);
		stripe_file_put(file);
		stripe_destroy(cluster.stripe);
		cluster.files[CUT_FILE].write_epoch = 40;
		engine_start();
		file = open_file(CUT_FILE);
		fill(model, 20000);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, 20000, true), 0);
		stripe_file_put(file);
		stripe_destroy(cluster.stripe);
		cluster.files[CUT_FILE].write_epoch = 7;
		cluster.files[CUT_FILE].size = 50000;
		engine_start();
		file = open_file(CUT_FILE);
		if (what == 0) {
			CU_ASSERT(reads_as(file, model, 0, CUT_FILE_BYTES));
		} else if (what == 1) {
			fill(model + 30000, 40000);
			CU_ASSERT_EQUAL(stripe_write(file, 30000, model + 30000, 40000, true), 0);
		} else if (what == 2) {
			CU_ASSERT_EQUAL(truncate_file(file, CUT_FILE, 9000), 0);
			memset(model + 9000, 0, CUT_FILE_BYTES - 9000);
		} else {
			CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 7, false, &healed), 0);
		}
		CU_ASSERT(cluster.files[CUT_FILE].write_epoch > 40);
		/* Nobody is asked any more. */
		fill(model, 20000);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, 20000, true), 0);
		end_with_the_file(file, model);
		cluster.claims = false;
	}
}

static void exportd_that_stays_behind_the_stores_makes_calls_fail(void)
{
	random_seed(41);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.knows_better = true;
	cluster.files[9].write_epoch = 5;
	struct stripe_file *file = open_file(9);
	struct stripe_heal_result healed;
	uint8_t bytes[16384], read[16384];

	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	cluster.files[9].write_epoch = 3;
	/* The next segment, of which nothing is known yet. */
	CU_ASSERT_EQUAL(stripe_write(file, 40 * 16384, bytes, sizeof(bytes), true), -EIO);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(9);
	/* Refused by all stores each time: that is not done. */
	fill(read, sizeof(read));
	CU_ASSERT_EQUAL(stripe_write(file, 0, read, sizeof(read), true), -EIO);
	CU_ASSERT_EQUAL(stripe_write(file, 16384, read, sizeof(read), false), -EIO);
	/* Nor is the file gone. */
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 1, false, &healed), -EIO);
	begin_truncation(9, 100);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), -EIO);
	CU_ASSERT_EQUAL(stripe_write(file, 0, read, sizeof(read), true), -EIO);
	cluster.files[9].truncate = false;
	cluster.files[9].write_epoch = 6;
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_EQUAL(stripe_read(file, 0, read, sizeof(read)), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, read, sizeof(read)), 0);
	stripe_file_put(file);
	cluster_stop();
	cluster.knows_better = false;
}

/* What it has forgotten must not be taken for committed. */
static void a_file_that_exportd_does_not_know_for_a_while_is_sent_again(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(87, &model), *again;
	uint64_t verifier = stripe_write_verifier(cluster.stripe);

	fill(model + 20000, 30000);
	CU_ASSERT_EQUAL(stripe_write(file, 20000, model + 20000, 30000, false), 0);
	cluster.files[CUT_FILE].unknown = true;
	CU_ASSERT_EQUAL(stripe_file_refresh(file), -ESTALE);
	stripe_file_put(file);
	cluster.files[CUT_FILE].unknown = false;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, CUT_FILE, &again), 0);
	CU_ASSERT_EQUAL(stripe_commit(again), 0);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	send_again_and_commit(again, model, 20000, 30000);
	end_with_the_file(again, model);
}

/* Stores that are ahead of exportd, which is slow besides: 10 turns would take 7 s. */
static void what_may_be_tried_again_and_again_ends_in_time(void)
{
	uint8_t bytes[16384];

	random_seed(83);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.knows_better = true;
	cluster.files[9].write_epoch = 5;
	struct stripe_file *file = open_file(9);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	cluster.files[9].write_epoch = 3;
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	cluster.call_timeout_ms = 500;
	engine_start();
	cluster.call_timeout_ms = 0;
	file = open_file(9);
	atomic_store(&cluster.placement_delay_ms, 700);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), -ETIMEDOUT);
	CU_ASSERT_EQUAL(stripe_read(file, 0, bytes, sizeof(bytes)), -ETIMEDOUT);
	atomic_store(&cluster.placement_delay_ms, 0);
	stripe_file_put(file);
	cluster_stop();
	cluster.knows_better = false;
}

/*
 * A truncation waits, since whoever began it died, and a gateway of before, which has not heard of
 * it, writes unstably behind the cut. Returns the verifier that the client was told.
 */
static uint64_t write_while_a_truncation_waits(struct stripe_file *file, uint8_t *model)
{
	begin_truncation(CUT_FILE, 20000);
	memset(model + 20000, 0, CUT_FILE_BYTES - 20000);
	fill(model + 50000, 30000);
	CU_ASSERT_EQUAL(stripe_write(file, 50000, model + 50000, 30000, false), 0);
	return stripe_write_verifier(cluster.stripe);
}

static void others_carry_it_out(void)
{
	struct stripe *other = engine_create();
	struct stripe_file *seen;

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, CUT_FILE, &seen), 0);
	CU_ASSERT_FALSE(cluster.files[CUT_FILE].truncate);
	stripe_file_put(seen);
	stripe_destroy(other);
}

/* At COMMIT at the latest the client hears that it is to send it again. */
static void commit_tells(struct stripe_file *file, uint8_t *model, uint64_t verifier)
{
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	send_again_and_commit(file, model, 50000, 30000);
}

static void a_truncation_that_others_carried_out_is_heard_of_at_commit(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(39, &model);
	uint64_t verifier = write_while_a_truncation_waits(file, model);

	others_carry_it_out();
	commit_tells(file, model, verifier);
	end_with_the_file(file, model);
}

/* Whoever began it was to carry it out, could not, and then wrote what clients sent. */
static void a_truncation_carried_out_late_tells_of_what_it_takes(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(43, &model);
	uint64_t verifier = write_while_a_truncation_waits(file, model);

	/* The file is made larger: exportd tells of the truncation that waits. */
	cluster.files[CUT_FILE].size = 90000;
	CU_ASSERT_EQUAL(stripe_truncate(file, 90000), 0);
	commit_tells(file, model, verifier);
	/* Where it takes nothing that clients do not know to be durable, they need not send it
	 * again. */
	fill(model + 1000, 3000);
	CU_ASSERT_EQUAL(stripe_write(file, 1000, model + 1000, 3000, false), 0);
	verifier = stripe_write_verifier(cluster.stripe);
	memset(model + 70000, 0, CUT_FILE_BYTES - 70000);
	CU_ASSERT_EQUAL(truncate_file(file, CUT_FILE, 70000), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	end_with_the_file(file, model);
}

/* Just before whoever is to: then nothing waits any more, and the bytes are gone all the same. */
static void a_truncation_that_others_finish_first_tells_of_what_it_takes(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(59, &model);
	uint64_t verifier = write_while_a_truncation_waits(file, model);

	others_carry_it_out();
	cluster.files[CUT_FILE].size = 90000;
	CU_ASSERT_EQUAL(stripe_truncate(file, 90000), 0);
	commit_tells(file, model, verifier);
	end_with_the_file(file, model);
}

/* Nor does a further truncation, by who never heard of that one, hide it. */
static void a_truncation_of_our_own_does_not_hide_what_others_took(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(61, &model);
	uint64_t verifier = write_while_a_truncation_waits(file, model);

	others_carry_it_out();
	cluster.files[CUT_FILE].size = 95000;
	CU_ASSERT_EQUAL(truncate_file(file, CUT_FILE, 90000), 0);
	commit_tells(file, model, verifier);
	end_with_the_file(file, model);
}

/* As written by somebody who seeks far out: exportd is not asked for each segment in between. */
static void a_hole_of_many_segments_is_truncated_at_once(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(53, &model);
	uint64_t far = cluster.segment_blocks * stripe_file_block_bytes(file) * 60000;
	uint8_t bytes[100] = {1}, zeros[100] = {0};

	cluster.files[CUT_FILE].hole_until = 60000;
	CU_ASSERT_EQUAL(stripe_write(file, far, bytes, 100, true), 0);
	uint64_t asked = cluster.placements_asked;
	CU_ASSERT_EQUAL(truncate_file(file, CUT_FILE, 5000), 0);
	CU_ASSERT(cluster.placements_asked - asked < 10);
	memset(model + 5000, 0, CUT_FILE_BYTES - 5000);
	CU_ASSERT_EQUAL(stripe_read(file, far, bytes, 100), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, zeros, 100), 0);
	end_with_the_file(file, model);
}

static void a_write_beyond_the_last_segment_is_refused(void)
{
	uint8_t *model;
	struct stripe_file *file = begin_with_a_file(47, &model);
	uint64_t most = cluster.segment_blocks * stripe_file_block_bytes(file) * META_SEGMENTS_MAX;
	/* Where segment numbers of 32 bits would begin anew. */
	uint64_t again = cluster.segment_blocks * stripe_file_block_bytes(file) << 32;
	uint8_t bytes[100] = {1}, zeros[100] = {0};

	CU_ASSERT_EQUAL(stripe_write(file, again, bytes, 100, true), -EFBIG);
	CU_ASSERT_EQUAL(stripe_write(file, again, bytes, 100, false), -EFBIG);
	CU_ASSERT_EQUAL(stripe_write(file, most - 50, bytes, 100, true), -EFBIG);
	CU_ASSERT_EQUAL(stripe_read(file, again, bytes, 100), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, zeros, 100), 0);
	bytes[99] = 77;
	CU_ASSERT_EQUAL(stripe_read(file, most - 50, bytes, 100), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, zeros, 100), 0);
	end_with_the_file(file, model);
}

/* A gateway that starts while too few nodes are up for a truncation. */
static void a_file_can_be_read_while_a_truncation_waits(void)
{
	random_seed(43);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.min_shards = 5;
	stripe_destroy(cluster.stripe);
	engine_start();
	struct stripe_file *file = open_file(9);
	uint8_t bytes[50000];

	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	node_stop(0);
	node_stop(1);
	begin_truncation(9, 40000);
	engine_start();
	file = open_file(9);
	CU_ASSERT(reads_as(file, bytes, 0, 40000));
	CU_ASSERT_EQUAL(stripe_file_size(file), 40000);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, 10, false), -EIO);
	node_start(0);
	wait_for_nodes(file, 0x2f);
	memset(bytes + 40000, 0, 10000);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, 10, true), 0);
	CU_ASSERT_FALSE(cluster.files[9].truncate);
	CU_ASSERT(reads_as(file, bytes, 0, sizeof(bytes)));
	/* Nothing written is nothing changed. */
	CU_ASSERT_EQUAL(stripe_write(file, 70000, bytes, 0, true), 0);
	CU_ASSERT_EQUAL(cluster.files[9].size, 40000);
	stripe_file_put(file);
	cluster_stop();
}

/* Everybody knows the new size already. */
static void a_slow_exportd_is_waited_for(void)
{
	random_seed(44);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 100000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	begin_truncation(9, 5000);
	memset(model + 5000, 0, size - 5000);
	fill(model + 20000, 30000);
	atomic_store(&cluster.check_delay_ms, 1300);
	CU_ASSERT_EQUAL(stripe_write(file, 20000, model + 20000, 30000, true), 0);
	atomic_store(&cluster.check_delay_ms, 0);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_FALSE(cluster.files[9].truncate);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

struct claimer {
	struct stripe *stripe;
	struct stripe_file *file;
	pthread_t thread;
	int error;
};

static void *claim_and_write(void *context)
{
	struct claimer *claimer = context;

	claimer->error = stripe_write(claimer->file, 0, "bytes", 5, true);
	return NULL;
}

/* Both have to carry a truncation out first, and claim an epoch each. */
static void writers_that_begin_together_do_not_overtake_each_other_for_ever(void)
{
	random_seed(45);
	cluster.claims = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	uint8_t bytes[50000] = {1};

	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	for (unsigned int round = 0; round < 20; round++) {
		struct claimer claimers[2];

		for (unsigned int i = 0; i < 2; i++) {
			claimers[i].stripe = engine_create();
			CU_ASSERT_EQUAL_FATAL(
				stripe_file_get(claimers[i].stripe, EXPORT, 9, &claimers[i].file),
				0);
		}
		begin_truncation(9, 40001);
		for (unsigned int i = 0; i < 2; i++)
			pthread_create(&claimers[i].thread, NULL, claim_and_write, &claimers[i]);
		for (unsigned int i = 0; i < 2; i++) {
			pthread_join(claimers[i].thread, NULL);
			CU_ASSERT_EQUAL(claimers[i].error, 0);
		}
		for (unsigned int i = 0; i < 2; i++) {
			stripe_file_put(claimers[i].file);
			stripe_destroy(claimers[i].stripe);
		}
	}
	stripe_file_put(file);
	cluster_stop();
	cluster.claims = false;
}

static void truncation_with_a_node_down_is_healed(void)
{
	random_seed(31);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(9);
	size_t size = 500000;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	node_stop(2);
	node_stop(3);
	CU_ASSERT_EQUAL(truncate_file(file, 9, 20000), 0);
	memset(model + 20000, 0, size - 20000);
	CU_ASSERT(reads_as(file, model, 0, size));
	node_start(2);
	node_start(3);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT(reads_as(file, model, 0, size));
	heal_everything(file, 1);
	node_stop(0);
	node_stop(5);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

static void who_will_write_asks_exportd_once(void)
{
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	struct stripe_file *file = NULL;
	uint8_t bytes[100] = {1};

	/* Attaching and claiming are two questions, but one to who says at once that it will write.
	 */
	for (uint64_t id = 0; id < 2; id++) {
		uint64_t asked = cluster.placements_asked;

		CU_ASSERT_EQUAL_FATAL((id ? stripe_file_get_to_write : stripe_file_get)(
					      cluster.stripe, EXPORT, id, &file),
			0);
		CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
		CU_ASSERT_EQUAL(stripe_write(file, 100, bytes, sizeof(bytes), true), 0);
		CU_ASSERT_EQUAL(cluster.placements_asked - asked, id ? 1 : 2);
		stripe_file_put(file);
	}
	cluster_stop();
}

static void removed_file_is_stale(void)
{
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	struct stripe_file *file;

	CU_ASSERT_EQUAL(stripe_file_get(cluster.stripe, EXPORT, 1000, &file), -ESTALE);
	cluster_stop();
}

/* Many threads write their own interleaved pieces of the same blocks. */
struct interleaver {
	struct stripe_file *file;
	uint8_t *model;
	unsigned int number;
	size_t size;
	bool failed;
};

#define INTERLEAVERS 4
#define PIECE 3000

static void *interleave(void *argument)
{
	struct interleaver *self = argument;

	for (size_t offset = self->number * PIECE; offset < self->size;
		offset += INTERLEAVERS * PIECE) {
		size_t length = offset + PIECE > self->size ? self->size - offset : PIECE;
		if (stripe_write(
			    self->file, offset, self->model + offset, length, offset % 2 == 0) ||
			!reads_as(self->file, self->model, offset, length))
			self->failed = true;
	}
	return NULL;
}

static void concurrent_writers_of_one_block_lose_nothing(void)
{
	random_seed(37);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	size_t size = 400000;
	uint8_t *model = calloc(1, size);
	struct interleaver writers[INTERLEAVERS];
	pthread_t threads[INTERLEAVERS];
	struct stripe_file *file = open_file(4);

	fill(model, size);
	for (unsigned int i = 0; i < INTERLEAVERS; i++) {
		writers[i] = (struct interleaver){
			.file = file, .model = model, .number = i, .size = size};
		pthread_create(&threads[i], NULL, interleave, &writers[i]);
	}
	for (unsigned int i = 0; i < INTERLEAVERS; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_FALSE(writers[i].failed);
	}
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/* -------- the cache, and what is collected in it -------- */

/* Collected bytes stay where they are until the test wants otherwise. */
static void start_gathering(unsigned int delay_ms)
{
	cluster.gather = true;
	cluster.gather_delay_ms = delay_ms;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
}

static void stop_gathering(void)
{
	cluster_stop();
	cluster.gather = false;
	cluster.gather_delay_ms = 0;
	cluster.cache_bytes = 0;
}

#define FOR_EVER 3600000
#define BLOCK 16384

static void cached_block_costs_no_read(void)
{
	static const bool ways[] = {false, true};

	for (unsigned int way = 0; way < 2; way++) {
		random_seed(51 + way);
		cluster.gather = ways[way];
		cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
		struct stripe_file *file = open_file(1);
		size_t size = 32 * BLOCK;
		uint8_t *model = calloc(1, size);

		fill(model, size);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
		/* The first write of a part reads the block, the second does not. */
		for (unsigned int round = 0; round < 3; round++) {
			uint64_t reads = count().calls[STORE_READ], bases = count().cached_bases;
			for (size_t offset = 4096; offset < size; offset += BLOCK) {
				fill(model + offset, 4096);
				CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, 4096,
							round == 1),
					0);
			}
			if (round == 0) {
				/* More, if a node was slow: another is asked then. */
				CU_ASSERT(count().calls[STORE_READ] - reads >= 32 * 4);
			} else {
				CU_ASSERT_EQUAL(count().calls[STORE_READ] - reads, 0);
				CU_ASSERT_EQUAL(count().cached_bases - bases, 32);
			}
			CU_ASSERT(reads_as(file, model, 0, size));
		}
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
		CU_ASSERT(reads_as(file, model, 0, size));
		stripe_file_put(file);
		stripe_destroy(cluster.stripe);
		engine_start();
		file = open_file(1);
		CU_ASSERT(reads_as(file, model, 0, size));
		stripe_file_put(file);
		free(model);
		stop_gathering();
	}
}

static void unstable_parts_are_sent_once(void)
{
	random_seed(53);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	uint8_t *model = calloc(1, 8 * BLOCK);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);

	/* Three quarters of a block, some of it twice: nothing is sent, and it reads back. */
	fill(model, BLOCK);
	for (unsigned int i = 0; i < 6; i++) {
		size_t offset = (size_t)(i % 3) * 4096;
		CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, 4096, false), 0);
	}
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 0);
	CU_ASSERT_EQUAL(count().collected, 6);
	memset(model + 3 * 4096, 0, 4096);
	CU_ASSERT(reads_as(file, model, 0, 2 * BLOCK));
	CU_ASSERT_EQUAL(stripe_file_size(file), 3 * 4096);
	/* The rest makes it whole, and it goes out: one call to each store. */
	fill(model + 3 * 4096, 4096);
	CU_ASSERT_EQUAL(stripe_write(file, 3 * 4096, model + 3 * 4096, 4096, false), 0);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 6);
	/* What is not whole goes out at COMMIT. */
	fill(model + BLOCK + 100, 1000);
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK + 100, model + BLOCK + 100, 1000, false), 0);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 6);
	CU_ASSERT_EQUAL(cluster.files[1].size, 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 12);
	CU_ASSERT_EQUAL(cluster.files[1].size, BLOCK + 1100);
	/* Small pieces in a row make a block whole, too, wherever they are cut. */
	fill(model + 2 * BLOCK, BLOCK);
	for (size_t offset = 0; offset < BLOCK; offset += 1000) {
		size_t length = offset + 1000 > BLOCK ? BLOCK - offset : 1000;
		CU_ASSERT_EQUAL(stripe_write(file, 2 * BLOCK + offset, model + 2 * BLOCK + offset,
					length, false),
			0);
	}
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 18);
	/* A stable write takes along what was collected of its block. */
	fill(model + 3 * BLOCK, 8192);
	CU_ASSERT_EQUAL(stripe_write(file, 3 * BLOCK, model + 3 * BLOCK, 4096, false), 0);
	CU_ASSERT_EQUAL(
		stripe_write(file, 3 * BLOCK + 4096, model + 3 * BLOCK + 4096, 4096, true), 0);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 24);
	CU_ASSERT(reads_as(file, model, 0, 8 * BLOCK));
	/* A whole block supersedes it. */
	fill(model + 4 * BLOCK, BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 4 * BLOCK + 9, model, 100, false), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 4 * BLOCK, model + 4 * BLOCK, BLOCK, false), 0);
	CU_ASSERT(reads_as(file, model, 0, 8 * BLOCK));
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], 30);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(1);
	CU_ASSERT(reads_as(file, model, 0, 8 * BLOCK));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

static void collected_bytes_are_sent_after_a_while(void)
{
	random_seed(59);
	start_gathering(20);
	struct stripe_file *file = open_file(1);
	uint8_t model[4096];

	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 4096, model, sizeof(model), false), 0);
	struct stripe *other = engine_create();
	struct stripe_file *others;
	uint8_t bytes[4096] = {0};
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	for (unsigned int i = 0; i < 500 && memcmp(bytes, model, sizeof(model)) != 0; i++) {
		usleep(10000);
		CU_ASSERT_EQUAL(stripe_read(others, 4096, bytes, sizeof(bytes)), 0);
	}
	CU_ASSERT(memcmp(bytes, model, sizeof(model)) == 0);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	stop_gathering();
}

static void memory_for_collected_bytes_is_bounded(void)
{
	random_seed(61);
	cluster.cache_bytes = 1 << 20;
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	size_t size = 256 * BLOCK;
	uint8_t *model = calloc(1, size);

	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	/* A quarter of the cache for a file, half of that for what is collected: 8 blocks. */
	for (unsigned int i = 0; i < 1000; i++) {
		size_t offset = random_number() % (size - 5000),
		       length = 1 + random_number() % 5000;
		fill(model + offset, length);
		CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, length, false), 0);
		CU_ASSERT_FATAL(count().collected_blocks <= 8);
		CU_ASSERT_FATAL(count().cached_blocks <= 17);
	}
	CU_ASSERT(count().collected > 900);
	CU_ASSERT(reads_as(file, model, 0, size));
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(count().collected_blocks, 0);
	CU_ASSERT_EQUAL(count().collected_lost, 0);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(1);
	CU_ASSERT(reads_as(file, model, 0, size));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

/* Whoever wrote the block in between, on top of it or instead of it: nothing of theirs is undone.
 */
static void collected_bytes_give_way_to_other_writers(void)
{
	/* How the other one is noticed. */
	enum { BY_COMMIT, BY_READ, BY_WHOLE_BLOCK, BY_STABLE_WRITE, WAYS };

	for (unsigned int way = 0; way < WAYS; way++) {
		random_seed(67 + way);
		start_gathering(FOR_EVER);
		struct stripe_file *file = open_file(1), *others;
		struct stripe *other = engine_create();
		uint8_t *model = calloc(1, 2 * BLOCK);

		fill(model, 2 * BLOCK);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, 2 * BLOCK, true), 0);
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
		uint64_t verifier = stripe_write_verifier(cluster.stripe);
		uint8_t mine[4096], more[3 * 4096];
		fill(mine, sizeof(mine));
		fill(more, sizeof(more));
		CU_ASSERT_EQUAL(stripe_write(file, 0, mine, sizeof(mine), false), 0);
		/* A newer value of the same place, acknowledged as stable, and something beside. */
		fill(model, 100);
		fill(model + 8192, 100);
		CU_ASSERT_EQUAL(stripe_write(others, 0, model, 100, true), 0);
		CU_ASSERT_EQUAL(stripe_write(others, 8192, model + 8192, 100, true), 0);
		switch (way) {
		case BY_COMMIT:
			CU_ASSERT_EQUAL(stripe_commit(file), 0);
			break;
		case BY_READ:
			break;
		case BY_WHOLE_BLOCK:
			memcpy(model + 4096, more, sizeof(more));
			CU_ASSERT_EQUAL(stripe_write(file, 4096, more, sizeof(more), false), 0);
			break;
		case BY_STABLE_WRITE:
			memcpy(model + 4096, more, 4096);
			CU_ASSERT_EQUAL(stripe_write(file, 4096, more, 4096, true), 0);
			break;
		}
		CU_ASSERT(reads_as(others, model, 0, way == BY_WHOLE_BLOCK ? 4096 : 2 * BLOCK));
		if (way != BY_WHOLE_BLOCK)
			CU_ASSERT(reads_as(file, model, 0, 2 * BLOCK));
		CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
		/* What the client sends again arrives. */
		memcpy(model, mine, sizeof(mine));
		memcpy(model + 4096, more, sizeof(more));
		CU_ASSERT_EQUAL(stripe_write(file, 0, mine, sizeof(mine), false), 0);
		CU_ASSERT_EQUAL(stripe_write(file, 4096, more, sizeof(more), false), 0);
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
		CU_ASSERT(reads_as(others, model, 0, 2 * BLOCK));
		stripe_file_put(others);
		stripe_destroy(other);
		stripe_file_put(file);
		free(model);
		stop_gathering();
	}
}

static void what_cannot_be_sent_fails_the_commit(void)
{
	random_seed(71);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	uint8_t *model = calloc(1, 2 * BLOCK);

	fill(model, 2 * BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 2 * BLOCK, true), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_write(file, 500, model, 4096, false), 0);
	for (unsigned int i = 0; i < 3; i++)
		node_stop(i);
	CU_ASSERT_EQUAL(stripe_commit(file), -EIO);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	for (unsigned int i = 0; i < 3; i++)
		node_start(i);
	wait_for_nodes(file, 0x3f);
	/* It is gone, and said to be. */
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, 2 * BLOCK));
	memmove(model + 500, model, 4096);
	CU_ASSERT_EQUAL(stripe_write(file, 500, model + 500, 4096, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, 2 * BLOCK));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

/*
 * What a truncation of our own finds collected is sent before it, also where exportd must be asked
 * first whether the stores are still the same: that it tells of the truncation by then is no reason
 * to give anything up.
 */
static void collected_bytes_are_sent_before_our_own_truncation(void)
{
	random_seed(79);
	cluster.tell_delay_ms = FOR_EVER;
	start_gathering(FOR_EVER);
	cluster.tell_delay_ms = 0;
	struct stripe_file *file = open_file(1);
	uint8_t *model = calloc(1, 3 * BLOCK), lost[100];

	fill(model, 2 * BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 2 * BLOCK, true), 0);
	fill(model + 500, 4096);
	CU_ASSERT_EQUAL(stripe_write(file, 500, model + 500, 4096, false), 0);
	/* A write that fails leaves the versions before it in doubt: the base is to be settled. */
	for (unsigned int i = 0; i < 3; i++)
		node_stop(i);
	fill(lost, sizeof(lost));
	CU_ASSERT_EQUAL(stripe_write(file, 2 * BLOCK, lost, sizeof(lost), true), -EIO);
	for (unsigned int i = 0; i < 3; i++)
		node_start(i);
	wait_for_nodes(file, 0x3f);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	memset(model + BLOCK + 700, 0, BLOCK - 700);
	CU_ASSERT_EQUAL(truncate_file(file, 1, BLOCK + 700), 0);
	CU_ASSERT_EQUAL(count().collected_lost, 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT(reads_as(file, model, 0, 2 * BLOCK));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

static atomic_bool sprinkle_ends;

static void *sprinkle(void *argument)
{
	static const uint8_t byte = 1;

	for (uint64_t i = 0; !atomic_load(&sprinkle_ends); i++)
		CU_ASSERT_EQUAL(stripe_write(argument, i % 100 * BLOCK + 7, &byte, 1, false), 0);
	return NULL;
}

static void a_busy_writer_does_not_keep_an_epoch_from_ending(void)
{
	struct timespec begun, ended;
	pthread_t thread;

	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	atomic_store(&sprinkle_ends, false);
	pthread_create(&thread, NULL, sprinkle, file);
	while (count().collected < 1000)
		usleep(5000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 0; i < 10; i++) {
		/* Some other engine claims the file, which no store hears of. */
		pthread_mutex_lock(&cluster.lock);
		cluster.files[1].write_epoch++;
		pthread_mutex_unlock(&cluster.lock);
		CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	CU_ASSERT(ended.tv_sec - begun.tv_sec < 5); /* else it takes as long as chance has it */
	atomic_store(&sprinkle_ends, true);
	pthread_join(thread, NULL);
	stripe_file_put(file);
	stop_gathering();
}

/* An epoch that has passed is told of once: COMMIT must not tell of it as long as others write. */
static void a_busy_writer_does_not_make_each_commit_fail(void)
{
	uint8_t bytes[BLOCK];
	unsigned int turns = 0;
	uint64_t verifier;
	pthread_t thread;

	random_seed(75);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	atomic_store(&sprinkle_ends, false);
	pthread_create(&thread, NULL, sprinkle, file);
	while (count().collected < 1000)
		usleep(5000);
	/* A shard moves, or some other engine claims the file. */
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	do {
		verifier = stripe_write_verifier(cluster.stripe);
		CU_ASSERT_EQUAL(stripe_write(file, 200 * BLOCK, bytes, BLOCK, false), 0);
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
	} while (verifier != stripe_write_verifier(cluster.stripe) && ++turns < 20);
	CU_ASSERT(turns < 5);
	atomic_store(&sprinkle_ends, true);
	pthread_join(thread, NULL);
	stripe_file_put(file);
	stop_gathering();
}

static struct {
	rpc_handler plain;
	atomic_uint calls;
	atomic_bool goes_on;
} held;

/* The first one that comes waits. */
static void held_call(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	if (atomic_fetch_add(&held.calls, 1) == 0) {
		while (!atomic_load(&held.goes_on))
			usleep(1000);
	}
	held.plain(context, caller, arguments, result);
}

/* Until let_go(). */
static void hold_first_call(unsigned int node, uint32_t procedure)
{
	rpc_handler *handler = &cluster.nodes[node].procedures[procedure].handler;

	held.plain = *handler;
	atomic_store(&held.calls, 0);
	atomic_store(&held.goes_on, false);
	*handler = held_call;
}

static void wait_until_held(void)
{
	while (!atomic_load(&held.calls))
		usleep(1000);
}

static void let_go(void)
{
	atomic_store(&held.goes_on, true);
}

static void *truncate_to_a_block(void *argument)
{
	CU_ASSERT_EQUAL(truncate_file(argument, 1, BLOCK), 0);
	return NULL;
}

static void *commit_once(void *argument)
{
	CU_ASSERT_EQUAL(stripe_commit(argument), 0);
	return NULL;
}

/* Under the epoch of before, which some stores do not take any more, though they are not cut off.
 */
static void bytes_collected_during_a_truncation_are_sent_again(void)
{
	uint8_t model[2 * BLOCK];
	pthread_t truncating, committing;

	random_seed(74);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1), *others;
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	hold_first_call(3, STORE_TRUNCATE);
	pthread_create(&truncating, NULL, truncate_to_a_block, file);
	wait_until_held();
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	uint64_t writes = count().calls[STORE_WRITE];
	fill(model + 100, 200);
	CU_ASSERT_EQUAL(stripe_write(file, 100, model + 100, 200, false), 0);
	pthread_create(&committing, NULL, commit_once, file);
	for (unsigned int i = 0; i < 3000 && count().calls[STORE_WRITE] < writes + 6; i++)
		usleep(1000);
	let_go();
	pthread_join(truncating, NULL);
	pthread_join(committing, NULL);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	send_again_and_commit(file, model, 100, 200);
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	memset(model + BLOCK, 0, BLOCK);
	CU_ASSERT(reads_as(others, model, 0, sizeof(model)));
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	stop_gathering();
}

static void a_commit_that_finds_the_file_truncated_knows_its_size(void)
{
	uint8_t model[4 * BLOCK] = {0};

	random_seed(83);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *other = engine_create();
	struct stripe_file *file = open_file(1), *others;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, BLOCK, true), 0);
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, 3 * BLOCK, false), 0);
	CU_ASSERT_EQUAL(truncate_file(others, 1, BLOCK), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(stripe_write_verifier(cluster.stripe) != verifier);
	CU_ASSERT_EQUAL(stripe_file_size(file), BLOCK);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/* Written before the truncation takes its range: gone, and then the file is not as long as that. */
static void a_truncation_takes_the_size_of_what_is_written_meanwhile(void)
{
	uint8_t model[4 * BLOCK] = {0};
	pthread_t truncating;

	random_seed(76);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(model, 2 * BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 2 * BLOCK, true), 0);
	atomic_store(&cluster.held, 0);
	atomic_store(&cluster.hold_placement, true);
	pthread_create(&truncating, NULL, truncate_to_a_block, file);
	while (!atomic_load(&cluster.held))
		usleep(1000);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	fill(model + 2 * BLOCK, 2 * BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 2 * BLOCK, model + 2 * BLOCK, 2 * BLOCK, false), 0);
	atomic_store(&cluster.hold_placement, false);
	pthread_join(truncating, NULL);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	/* Before the truncation; or after it, and there; or to be sent again. */
	CU_ASSERT(stripe_write_verifier(cluster.stripe) != verifier ||
		  cluster.files[1].size == BLOCK || reads_as(file, model, 2 * BLOCK, 2 * BLOCK));
	stripe_file_put(file);
	cluster_stop();
}

/* Whoever is to carry it out comes late: others have, and the file has grown since. */
static void a_truncation_that_comes_late_takes_no_size(void)
{
	uint8_t model[4 * BLOCK] = {0};

	random_seed(78);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 2 * BLOCK, true), 0);
	begin_truncation(1, BLOCK);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_FALSE(cluster.files[1].truncate);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, 3 * BLOCK, false), 0);
	CU_ASSERT_EQUAL(stripe_truncate(file, BLOCK), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	CU_ASSERT(stripe_write_verifier(cluster.stripe) != verifier ||
		  cluster.files[1].size == 4 * BLOCK);
	stripe_file_put(file);
	cluster_stop();
}

static _Atomic uint32_t write_refusal; /* what the node's writes answer; 0: as ever */

static void refused_write(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	if (atomic_load(&write_refusal))
		*(store_write_res *)result = (store_write_res){.status = write_refusal};
	else
		held.plain(context, caller, arguments, result);
}

/* Who asks for a block to be healed hears that a store does not take its shard. */
static void shards_that_a_store_does_not_take_are_told_of(void)
{
	rpc_handler *handler = &cluster.nodes[3].procedures[STORE_WRITE].handler;
	struct stripe_heal_result result;
	uint8_t bytes[3 * BLOCK];

	random_seed(92);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	node_stop(3);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	CU_ASSERT(stripe_shard_exists(file, 0, 0));
	CU_ASSERT(!stripe_shard_exists(file, 0, 2));
	/* As long as it is away nothing is tried, and it is said who was not heard. */
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 3, false, &result), 0);
	CU_ASSERT_EQUAL(result.failed, 0);
	CU_ASSERT_EQUAL(result.unheard, 1u << 2);
	node_start(3);
	held.plain = *handler;
	*handler = refused_write;
	wait_for_nodes(file, 0x3f);
	CU_ASSERT(!stripe_shard_exists(file, 0, 2));
	atomic_store(&write_refusal, ENOSPC);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 3, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 0);
	CU_ASSERT_EQUAL(result.failed, 3);
	CU_ASSERT_EQUAL(result.unheard, 0);
	/* It says so, too, if others have written meanwhile. */
	atomic_store(&write_refusal, EAGAIN);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 3, false, &result), 0);
	CU_ASSERT_EQUAL(result.failed, 0);
	atomic_store(&write_refusal, 0);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 3, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 3);
	CU_ASSERT_EQUAL(result.failed + result.left, 0);
	CU_ASSERT(stripe_shard_exists(file, 0, 2));
	stripe_file_put(file);
	cluster_stop();
}

static rpc_handler plain_missed;
static atomic_bool missed_is_slow;

static void slow_missed(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	for (unsigned int i = 0; i < 700 && atomic_load(&missed_is_slow); i++)
		usleep(10000);
	plain_missed(context, caller, arguments, result);
}

static void make_missed_slow(unsigned int node)
{
	rpc_handler *handler = &cluster.nodes[node].procedures[STORE_MISSED].handler;

	plain_missed = *handler;
	*handler = slow_missed;
	atomic_store(&missed_is_slow, true);
}

/* One node went away after it took the writes, another one cannot write any more. */
static void commit_with_a_slow_node(struct stripe_file *file, time_t seconds)
{
	struct timespec begun, ended;

	make_missed_slow(3);
	node_stop(0);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	CU_ASSERT(ended.tv_sec - begun.tv_sec < seconds);
	atomic_store(&missed_is_slow, false);
	node_start(0);
}

static void commit_waits_once_for_a_slow_node(void)
{
	uint8_t bytes[BLOCK];

	random_seed(79);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	for (unsigned int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(stripe_write(file, 2 * i * BLOCK, bytes, BLOCK, false), 0);
	commit_with_a_slow_node(file, 10);
	stripe_file_put(file);
	cluster_stop();
}

/* The same, where a client has gone to and fro between two segments. */
static void commit_waits_once_for_a_slow_node_in_each_segment(void)
{
	uint8_t bytes[BLOCK];

	random_seed(79);
	cluster.call_timeout_ms = 1000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	uint64_t segment_bytes = cluster.segment_blocks * BLOCK;
	fill(bytes, sizeof(bytes));
	for (unsigned int i = 0; i < 8; i++) {
		uint64_t offset = i % 2 * segment_bytes + 2 * i * BLOCK;
		CU_ASSERT_EQUAL(stripe_write(file, offset, bytes, BLOCK, false), 0);
	}
	commit_with_a_slow_node(file, 5);
	stripe_file_put(file);
	cluster_stop();
}

/* Of two runs only one has to be recorded as missed: the other one needs the slow store. */
static atomic_uint write_delay_ms;

static void hanging_write(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	for (unsigned int i = 0; i < atomic_load(&write_delay_ms); i += 10)
		usleep(10000);
	plain_write(context, caller, arguments, result);
}

/* As with a disk that hangs: the node answers what does not need it. */
static void make_calls_hang(unsigned int node, uint32_t procedure)
{
	rpc_handler *handler = &cluster.nodes[node].procedures[procedure].handler;

	plain_write = *handler;
	*handler = hanging_write;
}

static void make_writes_hang(unsigned int node)
{
	make_calls_hang(node, STORE_WRITE);
}

/* Some bytes of each of so many blocks. Returns what the file is then. */
static uint8_t *collect_parts(struct stripe_file *file, unsigned int count)
{
	uint8_t *model = calloc(count, BLOCK);

	fill(model, (size_t)count * BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, (size_t)count * BLOCK, true), 0);
	for (unsigned int i = 0; i < count; i++) {
		size_t offset = (size_t)i * BLOCK + 4096;
		fill(model + offset, 4096);
		CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, 4096, false), 0);
	}
	return model;
}

static double seconds_since(const struct timespec *begun)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begun->tv_sec) + (double)(now.tv_nsec - begun->tv_nsec) / 1e9;
}

static void a_hanging_disk_is_waited_for_once_by_what_was_collected(void)
{
	struct timespec begun;

	random_seed(93);
	cluster.call_timeout_ms = 1000;
	start_gathering(FOR_EVER);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	uint8_t *model = collect_parts(file, 12);
	make_writes_hang(3);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(seconds_since(&begun) < 4);
	CU_ASSERT_EQUAL(count().collected_lost, 0);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT(reads_as(file, model, 0, (size_t)12 * BLOCK));
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

static void a_commit_that_takes_long_goes_on_with_the_next(void)
{
	struct timespec begun;

	random_seed(94);
	cluster.call_timeout_ms = 1000;
	start_gathering(FOR_EVER);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	uint8_t *model = collect_parts(file, 24);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	make_writes_hang(3);
	atomic_store(&write_delay_ms, 400);
	/* Six calls may take in vain: 6 s. */
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_commit(file), -ETIMEDOUT);
	CU_ASSERT(seconds_since(&begun) < 8);
	CU_ASSERT(count().collected_blocks > 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT_EQUAL(count().collected_blocks, 0);
	CU_ASSERT_EQUAL(count().collected_lost, 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(1);
	CU_ASSERT(reads_as(file, model, 0, (size_t)24 * BLOCK));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

static void *sprinkle_few(void *argument)
{
	const uint8_t byte = 1;
	int error = 0;

	for (uint64_t i = 0; !atomic_load(&sprinkle_ends) && !error; i++)
		error = stripe_write(argument, i % 60 * BLOCK + 7, &byte, 1, false);
	CU_ASSERT_EQUAL(error, 0);
	return NULL;
}

static void a_busy_writer_does_not_keep_commits_from_ending(void)
{
	unsigned int turns = 1;
	pthread_t thread;
	int error;

	random_seed(99);
	cluster.call_timeout_ms = 500;
	start_gathering(FOR_EVER);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	atomic_store(&sprinkle_ends, false);
	pthread_create(&thread, NULL, sprinkle_few, file);
	while (count().collected < 1000)
		usleep(5000);
	make_writes_hang(3);
	atomic_store(&write_delay_ms, 200);
	/* Each sends a quarter of the blocks. */
	while ((error = stripe_commit(file)) == -ETIMEDOUT && turns < 10)
		turns++;
	CU_ASSERT_EQUAL(error, 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	atomic_store(&write_delay_ms, 0);
	atomic_store(&sprinkle_ends, true);
	pthread_join(thread, NULL);
	/* And then it goes on as before. */
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	uint64_t collected = count().collected;
	CU_ASSERT_EQUAL(stripe_write(file, 7, "x", 1, false), 0);
	CU_ASSERT_EQUAL(count().collected, collected + 1);
	stripe_file_put(file);
	stop_gathering();
}

static bool reads_as_zeros(struct stripe_file *file, uint64_t offset)
{
	uint8_t bytes[BLOCK];

	return stripe_read(file, offset, bytes, BLOCK) == 0 && bytes[0] == 0 &&
	       memcmp(bytes, bytes + 1, BLOCK - 1) == 0;
}

/* Or the truncation of a file of many segments takes so long, and with it all that needs exportd.
 */
static void a_hanging_disk_is_waited_for_once_by_a_truncation(void)
{
	struct timespec begun;
	uint8_t bytes[BLOCK];

	random_seed(103);
	cluster.call_timeout_ms = 500;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	uint64_t segment_bytes = cluster.segment_blocks * BLOCK;
	fill(bytes, sizeof(bytes));
	for (unsigned int i = 0; i < 12; i++)
		CU_ASSERT_EQUAL(stripe_write(file, i * segment_bytes, bytes, BLOCK, true), 0);
	make_calls_hang(3, STORE_TRUNCATE);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(truncate_file(file, 1, BLOCK), 0);
	CU_ASSERT(seconds_since(&begun) < 3);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT(reads_as(file, bytes, 0, BLOCK));
	for (unsigned int i = 1; i < 12; i++)
		CU_ASSERT(reads_as_zeros(file, i * segment_bytes));
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 12);
	stripe_file_put(file);
	cluster_stop();
}

/* Writers may be waiting for the blocks. */
static void a_hanging_disk_is_waited_for_once_by_healing(void)
{
	struct stripe_heal_result result;
	uint8_t bytes[12 * BLOCK];
	struct timespec begun;

	random_seed(95);
	cluster.call_timeout_ms = 1000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	node_stop(3);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	node_start(3);
	make_writes_hang(3);
	wait_for_nodes(file, 0x3f);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 12, false, &result), 0);
	CU_ASSERT(seconds_since(&begun) < 4);
	CU_ASSERT_EQUAL(result.healed, 0);
	CU_ASSERT_EQUAL(result.failed, 12);
	CU_ASSERT_EQUAL(result.left, 12);
	atomic_store(&write_delay_ms, 0);
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	CU_ASSERT(reads_as(file, bytes, 0, sizeof(bytes)));
	stripe_file_put(file);
	cluster_stop();
}

/* Small writes have versions of their own, and records to be struck off one after the other. */
static void a_hanging_disk_is_waited_for_once_by_what_strikes_off_records(void)
{
	struct stripe_heal_result result;
	uint8_t bytes[12 * BLOCK];
	struct timespec begun;

	random_seed(103);
	cluster.call_timeout_ms = 1000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	node_stop(3);
	for (size_t at = 0; at < sizeof(bytes); at += BLOCK)
		CU_ASSERT_EQUAL(stripe_write(file, at, bytes + at, BLOCK, true), 0);
	node_start(3);
	make_calls_hang(0, STORE_MISSED);
	wait_for_nodes(file, 0x3f);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 12, false, &result), 0);
	CU_ASSERT(seconds_since(&begun) < 4);
	CU_ASSERT_EQUAL(result.healed, 12);
	CU_ASSERT_EQUAL(result.left, 0);
	atomic_store(&write_delay_ms, 0);
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	CU_ASSERT(reads_as(file, bytes, 0, sizeof(bytes)));
	stripe_file_put(file);
	cluster_stop();
}

static void reads_within(
	int64_t seconds, struct stripe_file *file, const uint8_t *expected, size_t size)
{
	struct timespec begun;
	uint8_t *read = malloc(size);

	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_read(file, 0, read, size), 0);
	CU_ASSERT(seconds_since(&begun) < seconds);
	CU_ASSERT_EQUAL(memcmp(expected, read, size), 0);
	free(read);
}

static atomic_uint read_delay_ms;
static rpc_handler plain_read;

static void hanging_read(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const store_read_args *args = arguments;

	for (unsigned int i = 0; !args->headers_only && i < atomic_load(&read_delay_ms); i += 10)
		usleep(10000);
	plain_read(context, caller, arguments, result);
}

/* As with a disk that hangs when it is read: what is known of the blocks is in memory. */
static void make_reads_hang(unsigned int node)
{
	rpc_handler *handler = &cluster.nodes[node].procedures[STORE_READ].handler;

	plain_read = *handler;
	*handler = hanging_read;
}

/* Which others have the bytes is not found out anew for each block. */
static void a_disk_that_cannot_be_read_is_waited_for_once_by_healing(void)
{
	struct stripe_heal_result result;
	uint8_t bytes[12 * BLOCK];
	struct timespec begun;

	random_seed(104);
	cluster.call_timeout_ms = 1000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	/* One of those that are asked first. */
	node_stop(3);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	node_start(3);
	make_reads_hang(0);
	wait_for_nodes(file, 0x3f);
	atomic_store(&read_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 12, false, &result), 0);
	CU_ASSERT(seconds_since(&begun) < 4);
	CU_ASSERT_EQUAL(result.healed, 12);
	CU_ASSERT_EQUAL(result.left, 0);
	atomic_store(&read_delay_ms, 0);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT(reads_as(file, bytes, 0, sizeof(bytes)));
	stripe_file_put(file);
	cluster_stop();
}

/* The others can tell by themselves, with one that has missed what was written. */
static void a_disk_that_cannot_be_read_does_not_hold_up_reads_beside_one_that_lags(void)
{
	uint8_t bytes[12 * BLOCK];

	random_seed(105);
	cluster.call_timeout_ms = 3000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	node_stop(3);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	node_start(3);
	make_reads_hang(0);
	wait_for_nodes(file, 0x3f);
	atomic_store(&read_delay_ms, 30000);
	reads_within(2, file, bytes, sizeof(bytes));
	reads_within(2, file, bytes, sizeof(bytes));
	atomic_store(&read_delay_ms, 0);
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	stripe_file_put(file);
	cluster_stop();
}

/* Another engine, whose calls end after a second, with a file of its own. */
static struct stripe *impatient_engine(uint64_t id, struct stripe_file **file)
{
	cluster.call_timeout_ms = 1000;
	struct stripe *engine = engine_create();
	cluster.call_timeout_ms = 0;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(engine, EXPORT, id, file), 0);
	return engine;
}

static void hanging_flush(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const store_commit_args *args = arguments;

	for (unsigned int i = 0; args->stable && i < atomic_load(&write_delay_ms); i += 10)
		usleep(10000);
	plain_write(context, caller, arguments, result);
}

/* A writer and its node have gone, and nobody has on record who lacks what it wrote last. */
static void a_hanging_disk_is_waited_for_once_by_what_ends_doubts(void)
{
	uint8_t bytes[12 * BLOCK], lost[BLOCK];
	struct stripe_file *seen = NULL;
	struct stripe_heal_result result;
	struct timespec begun;

	random_seed(106);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.min_shards = 5;
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	wait_all_decided(1);
	node_stop(1);
	node_stop(2);
	fill(lost, sizeof(lost));
	for (size_t at = 0; at < sizeof(bytes); at += BLOCK)
		CU_ASSERT_EQUAL(stripe_write(file, at, lost, BLOCK, true), -EIO);
	node_start(1);
	node_start(2);
	node_stop(0);
	struct stripe *other = impatient_engine(1, &seen);
	rpc_handler *handler = &cluster.nodes[3].procedures[STORE_COMMIT].handler;
	plain_write = *handler;
	*handler = hanging_flush;
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_heal_range(seen, 0, 0, 12, false, &result), 0);
	CU_ASSERT(seconds_since(&begun) < 5);
	CU_ASSERT_EQUAL(result.unknown, 0);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT(reads_as(seen, bytes, 0, sizeof(bytes)));
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/* A client that is gone may have had many files open for writing. */
static void a_hanging_disk_is_not_waited_for_by_each_fence(void)
{
	const unsigned int files = 12;
	struct timespec begun;

	random_seed(108);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 1000;
	struct stripe *server = engine_create();
	cluster.call_timeout_ms = 0;
	make_calls_hang(3, STORE_TRUNCATE);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 1; i <= files; i++)
		CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, i), 0);
	CU_ASSERT(seconds_since(&begun) < 5);
	/* It is asked where the others are too few; but then they are too few to decide, too. */
	node_stop(4);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), 0);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), -EIO);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), 0);
	stripe_destroy(server);
	cluster_stop();
}

static void *write_in_vain(void *file)
{
	uint8_t bytes[BLOCK] = {0};

	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK, true), -ETIMEDOUT);
	return NULL;
}

/* As with a disk of exportd's that hangs: those who wait for it keep others from being served. */
static void writers_wait_together_for_an_exportd_that_hangs(void)
{
	struct timespec begun;
	pthread_t threads[3];

	random_seed(97);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	atomic_store(&cluster.hold_placement, true);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, write_in_vain, file);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT(seconds_since(&begun) < 15);
	atomic_store(&cluster.hold_placement, false);
	uint8_t bytes[BLOCK];
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	CU_ASSERT(reads_as(file, bytes, 0, sizeof(bytes)));
	stripe_file_put(file);
	cluster_stop();
}

/* Or the calls of busy writers, each for the whole time of a call, take up all threads of a
 * gateway.
 */
static void writers_do_not_wait_for_a_hanging_disk_each_time(void)
{
	static uint8_t model[24 * BLOCK];
	struct timespec begun;

	random_seed(97);
	cluster.call_timeout_ms = 500;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	make_writes_hang(3);
	atomic_store(&write_delay_ms, 30000);
	fill(model, sizeof(model));
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 0; i < 24; i++)
		CU_ASSERT_EQUAL(
			stripe_write(file, (uint64_t)i * BLOCK, model + i * BLOCK, BLOCK, i % 2),
			0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(seconds_since(&begun) < 4);
	/* When the disk goes on, writes go there again. */
	atomic_store(&write_delay_ms, 0);
	sleep(2);
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, BLOCK, true), 0);
	uint64_t missed = count().missed_shards;
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, 4 * BLOCK, true), 0);
	CU_ASSERT_EQUAL(count().missed_shards, missed);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	stripe_file_put(file);
	cluster_stop();
}

static void commits_do_not_wait_for_a_hanging_flush_each_time(void)
{
	static uint8_t model[24 * BLOCK];
	struct timespec begun;

	random_seed(101);
	cluster.call_timeout_ms = 500;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	fill(model, sizeof(model));
	make_calls_hang(3, STORE_SYNC);
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 0; i < 24; i++) {
		CU_ASSERT_EQUAL(
			stripe_write(file, (uint64_t)i * BLOCK, model + i * BLOCK, BLOCK, false),
			0);
		CU_ASSERT_EQUAL(stripe_commit(file), 0);
	}
	CU_ASSERT(seconds_since(&begun) < 6);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	node_stop(0);
	node_stop(1);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	stripe_file_put(file);
	cluster_stop();
}

static void a_store_that_was_stuck_is_asked_where_too_few_others_are(void)
{
	static uint8_t model[4 * BLOCK];

	random_seed(103);
	cluster.call_timeout_ms = 5000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	make_writes_hang(3);
	atomic_store(&write_delay_ms, 30000);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, BLOCK, true), 0);
	atomic_store(&write_delay_ms, 0);
	uint64_t missed = count().missed_shards;
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, BLOCK, true), 0);
	CU_ASSERT_EQUAL(count().missed_shards, missed + 1);
	/* Nobody has noticed yet. */
	node_stop(0);
	node_stop(1);
	CU_ASSERT_EQUAL(stripe_write(file, 2 * BLOCK, model + 2 * BLOCK, 2 * BLOCK, true), 0);
	CU_ASSERT(reads_as(file, model, 2 * BLOCK, 2 * BLOCK));
	node_start(0);
	node_start(1);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	heal_everything(file, 1);
	stripe_file_put(file);
	cluster_stop();
}

static void a_slow_node_counts_where_nothing_is_to_be_recorded(void)
{
	uint8_t bytes[BLOCK];

	random_seed(84);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 20 * BLOCK, bytes, BLOCK, true), 0);
	node_stop(4);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK, false), 0);
	node_start(4);
	node_start(5);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT_EQUAL(stripe_write(file, 2 * BLOCK, bytes, BLOCK, false), 0);
	make_missed_slow(3);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	atomic_store(&missed_is_slow, false);
	node_start(5);
	stripe_file_put(file);
	cluster_stop();
}

/* Else readers at the gateway are told of an end of the file before bytes that they have seen. */
static void a_file_does_not_shrink_while_it_is_committed(void)
{
	uint8_t bytes[BLOCK];
	pthread_t committing;

	random_seed(80);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK, false), 0);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_EQUAL(stripe_file_size(file), BLOCK);
	hold_first_call(3, STORE_SYNC);
	pthread_create(&committing, NULL, commit_once, file);
	wait_until_held();
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_EQUAL(stripe_file_size(file), BLOCK);
	let_go();
	pthread_join(committing, NULL);
	stripe_file_put(file);
	cluster_stop();
}

static void *refresh_once(void *argument)
{
	CU_ASSERT_EQUAL(stripe_file_refresh(argument), 0);
	return NULL;
}

/* Reads that reach beyond the end ask exportd; its answer of before a commit comes after it. */
static void a_file_does_not_shrink_by_an_answer_of_before(void)
{
	uint8_t bytes[2 * BLOCK];
	pthread_t refreshing;

	random_seed(81);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	for (unsigned int stable = 0; stable < 2; stable++) {
		if (!stable) {
			CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK, false), 0);
		}
		atomic_store(&cluster.held, 0);
		atomic_store(&cluster.hold_placed, true);
		pthread_create(&refreshing, NULL, refresh_once, file);
		while (!atomic_load(&cluster.held))
			usleep(1000);
		if (stable) {
			CU_ASSERT_EQUAL(stripe_write(file, BLOCK, bytes + BLOCK, BLOCK, true), 0);
		} else {
			CU_ASSERT_EQUAL(stripe_commit(file), 0);
		}
		atomic_store(&cluster.hold_placed, false);
		pthread_join(refreshing, NULL);
		CU_ASSERT_EQUAL(stripe_file_size(file), (1 + stable) * BLOCK);
	}
	/* A truncation of others makes it smaller all the same. */
	begin_truncation(1, 100);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	CU_ASSERT_EQUAL(stripe_file_size(file), 100);
	stripe_file_put(file);
	cluster_stop();
}

static void *write_two_blocks_unstably(void *argument)
{
	static const uint8_t bytes[2 * BLOCK];

	CU_ASSERT_EQUAL(stripe_write(argument, 0, bytes, sizeof(bytes), false), 0);
	return NULL;
}

/* Its client was told the verifier from before the write. */
static void what_is_written_while_a_file_is_forgotten_is_sent_again(void)
{
	struct stripe_file *again;
	uint8_t bytes[BLOCK];
	pthread_t writing;

	random_seed(91);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK, true), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	hold_first_call(3, STORE_WRITE);
	pthread_create(&writing, NULL, write_two_blocks_unstably, file);
	wait_until_held();
	cluster.files[1].unknown = true;
	CU_ASSERT_EQUAL(stripe_file_refresh(file), -ESTALE);
	let_go();
	pthread_join(writing, NULL);
	stripe_file_put(file);
	cluster.files[1].unknown = false;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, 1, &again), 0);
	CU_ASSERT_EQUAL(stripe_commit(again), 0);
	CU_ASSERT(cluster.files[1].size == 2 * BLOCK ||
		  stripe_write_verifier(cluster.stripe) != verifier);
	stripe_file_put(again);
	cluster_stop();
}

/*
 * What was collected of a file that is truncated and removed by others before it is sent is given
 * up, and clients of other files can commit then.
 */
static void what_was_collected_of_a_removed_file_is_given_up(void)
{
	uint8_t model[2 * BLOCK];
	struct stripe_file *others;

	random_seed(92);
	start_gathering(400);
	struct stripe_file *file = open_file(1);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 100, model, 200, false), 0);
	CU_ASSERT_EQUAL(truncate_file(others, 1, 0), 0);
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].unknown = true;
	pthread_mutex_unlock(&cluster.lock);
	stripe_file_put(file);
	for (unsigned int i = 0; i < 300 && count().collected_blocks; i++)
		usleep(10000);
	CU_ASSERT_EQUAL(count().collected_blocks, 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	usleep(900000);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	stripe_file_put(others);
	stripe_destroy(other);
	stop_gathering();
	cluster.files[1].unknown = false;
}

static void *write_a_block(void *argument)
{
	static const uint8_t bytes[BLOCK];

	CU_ASSERT_EQUAL(stripe_write(argument, 0, bytes, BLOCK, true), 0);
	return NULL;
}

/* The same, coming in the middle of a write. */
static void a_file_is_as_long_as_what_was_written_stably(void)
{
	pthread_t refreshing, writing;
	uint8_t model[BLOCK] = {0};
	uint32_t write_epoch;

	random_seed(82);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1);
	CU_ASSERT_EQUAL(stripe_file_claim(file, &write_epoch), 0);
	atomic_store(&cluster.held, 0);
	atomic_store(&cluster.hold_placed, true);
	pthread_create(&refreshing, NULL, refresh_once, file);
	while (atomic_load(&cluster.held) < 1)
		usleep(1000);
	atomic_store(&cluster.hold_written, true);
	pthread_create(&writing, NULL, write_a_block, file);
	while (atomic_load(&cluster.held) < 2)
		usleep(1000);
	atomic_store(&cluster.hold_placed, false);
	pthread_join(refreshing, NULL);
	atomic_store(&cluster.hold_written, false);
	pthread_join(writing, NULL);
	CU_ASSERT_EQUAL(stripe_file_size(file), BLOCK);
	/* What is collected next lies over that, and not over a block that is taken to be empty. */
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	fill(model + 100, 200);
	CU_ASSERT_EQUAL(stripe_write(file, 100, model + 100, 200, false), 0);
	CU_ASSERT(reads_as(file, model, 0, BLOCK));
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	stripe_file_put(file);
	stop_gathering();
}

struct late_write {
	struct stripe_file *file;
	uint8_t byte;
	int error;
};

static void *write_late(void *argument)
{
	struct late_write *late = argument;
	uint8_t bytes[BLOCK];

	memset(bytes, late->byte, sizeof(bytes));
	late->error = stripe_write(late->file, 0, bytes, BLOCK, true);
	return NULL;
}

/* Two writes are on their way at a gateway when the file gets another one. */
static void a_former_gateway_writes_nothing_any_more(void)
{
	uint8_t newest[BLOCK], model[BLOCK] = {0};
	pthread_t threads[2];

	random_seed(81);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *former = engine_create_at(0), *successor = engine_create_at(1);
	struct stripe_file *file, *others;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(former, EXPORT, 1, &file), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, BLOCK, true), 0);
	hold_first_call(3, STORE_WRITE);
	struct late_write late[2] = {{.file = file, .byte = 1}, {.file = file, .byte = 2}};
	pthread_create(&threads[0], NULL, write_late, &late[0]);
	wait_until_held();
	pthread_create(&threads[1], NULL, write_late, &late[1]);
	usleep(100000); /* it waits for the block */
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].layouts++;
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	fill(newest, sizeof(newest));
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(successor, EXPORT, 1, &others), 0);
	CU_ASSERT_EQUAL(stripe_write(others, 0, newest, BLOCK, true), 0);
	let_go();
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_EQUAL(late[i].error, -ESTALE);
	}
	CU_ASSERT(reads_as(others, newest, 0, BLOCK));
	stripe_file_put(others);
	stripe_file_put(file);
	stripe_destroy(successor);
	stripe_destroy(former);
	cluster_stop();
}

/* The new layout comes after the gateway has checked the client's handle. */
static void a_write_under_a_former_layout_is_refused(void)
{
	uint8_t newest[BLOCK], late[BLOCK] = {0};

	random_seed(86);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *gateway = engine_create_at(0);
	struct stripe_file *file;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(gateway, EXPORT, 1, &file), 0);
	fill(newest, sizeof(newest));
	uint32_t former = stripe_file_layout_epoch(file);
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].layouts++;
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	uint32_t layout_epoch = stripe_file_layout_epoch(file);
	CU_ASSERT(layout_epoch > former);
	CU_ASSERT_EQUAL(stripe_write_under(file, layout_epoch, 0, newest, BLOCK, true), 0);
	uint64_t writes = count_of(gateway, STORE_WRITE);
	for (unsigned int stable = 0; stable < 2; stable++) {
		CU_ASSERT_EQUAL(stripe_write_under(file, former, 0, late, BLOCK, stable), -ESTALE);
		CU_ASSERT_EQUAL(stripe_write_under(file, former, 10, late, 9, stable), -ESTALE);
	}
	CU_ASSERT_EQUAL(count_of(gateway, STORE_WRITE), writes);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, newest, 0, BLOCK));
	stripe_file_put(file);
	stripe_destroy(gateway);
	cluster_stop();
}

/* Nor does it get among what has been collected under the new one. */
static void a_write_under_a_former_layout_is_not_collected(void)
{
	uint8_t model[BLOCK], late[9] = {0};
	struct stripe_file *file;

	random_seed(88);
	start_gathering(FOR_EVER);
	struct stripe *gateway = engine_create_at(0);
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(gateway, EXPORT, 1, &file), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, BLOCK, true), 0);
	uint32_t former = stripe_file_layout_epoch(file);
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].layouts++;
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	uint32_t layout_epoch = stripe_file_layout_epoch(file);
	fill(model + 300, 200);
	CU_ASSERT_EQUAL(stripe_write_under(file, layout_epoch, 300, model + 300, 200, false), 0);
	for (unsigned int stable = 0; stable < 2; stable++)
		CU_ASSERT_EQUAL(stripe_write_under(file, former, 310, late, 9, stable), -ESTALE);
	CU_ASSERT(reads_as(file, model, 0, BLOCK));
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(file, model, 0, BLOCK));
	stripe_file_put(file);
	stripe_destroy(gateway);
	stop_gathering();
}

static void *collect_under_a_former_layout(void *argument)
{
	uint8_t bytes[100] = {0};

	CU_ASSERT_EQUAL(
		stripe_write_under(argument, 1, 40 * BLOCK, bytes, sizeof(bytes), false), -ESTALE);
	return NULL;
}

static uint64_t collected_at(struct stripe *stripe)
{
	struct stripe_counters counters;

	stripe_counters(stripe, &counters);
	return counters.collected;
}

/* What a writer sends for want of room is given up, by the time it hears so. */
static void what_was_given_up_does_not_keep_others_from_being_collected(void)
{
	struct stripe_file *file;
	uint8_t bytes[100] = {0};
	pthread_t writing;

	random_seed(89);
	cluster.cache_bytes = 1 << 20;
	start_gathering(500);
	struct stripe *gateway = engine_create_at(0), *server = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(gateway, EXPORT, 1, &file), 0);
	CU_ASSERT_EQUAL(stripe_write_under(file, 1, 0, bytes, sizeof(bytes), true), 0);
	for (unsigned int i = 1; i <= 8; i++)
		CU_ASSERT_EQUAL(
			stripe_write_under(file, 1, i * BLOCK, bytes, sizeof(bytes), false), 0);
	/* What exportd does for META_LAYOUT_REVOKE. */
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].layouts++;
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), 0);
	/* First the thread that sends what is old asks exportd, then the writer. */
	atomic_store(&cluster.placement_delay_ms, 300);
	atomic_store(&cluster.held, 0);
	atomic_store(&cluster.hold_placement, true);
	while (!atomic_load(&cluster.held))
		usleep(1000);
	uint64_t writes = count_of(gateway, STORE_WRITE);
	pthread_create(&writing, NULL, collect_under_a_former_layout, file);
	while (count_of(gateway, STORE_WRITE) < writes + 6)
		usleep(1000);
	usleep(200000);
	atomic_store(&cluster.hold_placement, false);
	pthread_join(writing, NULL);
	atomic_store(&cluster.placement_delay_ms, 0);
	/* After a loss some are sent at once. */
	uint64_t before = collected_at(gateway);
	for (unsigned int i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(stripe_write_under(
					file, 2, 41 * BLOCK + 100 * i, bytes, sizeof(bytes), false),
			0);
	CU_ASSERT(collected_at(gateway) > before);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	stripe_file_put(file);
	stripe_destroy(gateway);
	stripe_destroy(server);
	stop_gathering();
}

/* The gateway has not heard that its client's layout was taken back: the stores have. */
static void a_layout_that_was_taken_back_writes_nothing(void)
{
	static uint8_t whole[65 * BLOCK];
	uint8_t after[BLOCK], late[BLOCK] = {0};

	random_seed(87);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *gateway = engine_create_at(0), *server = engine_create();
	struct stripe_file *file, *others;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(gateway, EXPORT, 1, &file), 0);
	fill(whole, BLOCK);
	fill(whole + 64 * BLOCK, BLOCK);
	uint32_t layout_epoch = stripe_file_layout_epoch(file);
	CU_ASSERT_EQUAL(stripe_write_under(file, layout_epoch, 0, whole, BLOCK, true), 0);
	CU_ASSERT_EQUAL(
		stripe_write_under(file, layout_epoch, 64 * BLOCK, whole + 64 * BLOCK, BLOCK, true),
		0);
	/* What exportd does for META_LAYOUT_REVOKE. */
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].layouts++;
	cluster.files[1].write_epoch++;
	pthread_mutex_unlock(&cluster.lock);
	/* Two nodes may be away. */
	node_stop(4);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), 0);
	node_start(4);
	node_start(5);
	for (unsigned int stable = 0; stable < 2; stable++) {
		CU_ASSERT_EQUAL(
			stripe_write_under(file, layout_epoch, 0, late, BLOCK, stable), -ESTALE);
		CU_ASSERT_EQUAL(
			stripe_write_under(file, layout_epoch, 64 * BLOCK + 9, late, 9, stable),
			-ESTALE);
	}
	stripe_commit(file);
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(server, EXPORT, 1, &others), 0);
	CU_ASSERT(reads_as(others, whole, 0, BLOCK));
	CU_ASSERT(reads_as(others, whole, 64 * BLOCK, BLOCK));
	/* A layout that was given since is good. */
	layout_epoch = stripe_file_layout_epoch(file);
	fill(after, sizeof(after));
	CU_ASSERT_EQUAL(stripe_write_under(file, layout_epoch, 0, after, BLOCK, true), 0);
	CU_ASSERT(reads_as(others, after, 0, BLOCK));
	/* Of too few stores it says so. */
	for (unsigned int node = 1; node < 4; node++)
		node_stop(node);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 1), -EIO);
	CU_ASSERT_EQUAL(stripe_fence(server, EXPORT, 999), -ESTALE);
	stripe_file_put(file);
	stripe_file_put(others);
	stripe_destroy(gateway);
	stripe_destroy(server);
	cluster_stop();
}

/* Each time two nodes are away, and nothing is healed in between. */
static void a_cached_block_brings_nothing_back_that_was_truncated(void)
{
	uint8_t bytes[BLOCK], model[BLOCK] = {0};

	random_seed(82);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *other = engine_create();
	struct stripe_file *file = open_file(6), *others;
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 6, &others), 0);
	fill(bytes, sizeof(bytes));
	node_stop(4);
	node_stop(5);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, BLOCK - 1, true), 0);
	node_start(4);
	node_start(5);
	wait_for_nodes(others, 0x3f);
	wait_for_nodes(file, 0x3f);
	node_stop(0);
	node_stop(1);
	CU_ASSERT_EQUAL(truncate_file(others, 6, 0), 0);
	node_start(0);
	node_start(1);
	/* As a read of another block does, which meets a store that knows the newer epoch. */
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	wait_for_nodes(file, 0x3f);
	node_stop(2);
	node_stop(3);
	memset(model + 100, 77, 10);
	int error = stripe_write(file, 100, model + 100, 10, true);
	node_start(2);
	node_start(3);
	wait_for_nodes(others, 0x3f);
	wait_for_nodes(file, 0x3f);
	if (error)
		CU_ASSERT_EQUAL(stripe_write(file, 100, model + 100, 10, true), 0);
	CU_ASSERT(reads_as(others, model, 0, BLOCK));
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

static void *write_stably(void *argument)
{
	uint8_t bytes[BLOCK] = {1};

	CU_ASSERT_EQUAL(stripe_write(argument, 3 * BLOCK, bytes, BLOCK, true), 0);
	return NULL;
}

/* exportd's answer to a write of before arrives when the file has been truncated by others. */
static void what_exportd_said_before_a_truncation_does_not_count(void)
{
	uint8_t model[4 * BLOCK] = {0};
	pthread_t writing;

	random_seed(77);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1), *others;
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, BLOCK, true), 0);
	atomic_store(&cluster.held, 0);
	atomic_store(&cluster.hold_written, true);
	pthread_create(&writing, NULL, write_stably, file);
	while (!atomic_load(&cluster.held))
		usleep(1000);
	CU_ASSERT_EQUAL(truncate_file(others, 1, BLOCK), 0);
	/* As by whoever meets a store that refuses the older epoch. */
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	atomic_store(&cluster.hold_written, false);
	pthread_join(writing, NULL);
	CU_ASSERT_EQUAL(stripe_write(file, BLOCK, model + BLOCK, BLOCK, true), 0);
	CU_ASSERT_EQUAL(cluster.files[1].size, 2 * BLOCK);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

static void *write_behind(void *argument)
{
	uint8_t bytes[BLOCK] = {1};

	CU_ASSERT_EQUAL(stripe_write(argument, 8 * BLOCK, bytes, BLOCK, true), 0);
	return NULL;
}

/*
 * A truncation that others have finished is still being carried out here when a segment is made: it
 * was not there for the others, so its stores have not heard of the new epoch. Under the old one
 * somebody might read what the truncation takes away again.
 */
static void a_segment_made_after_a_truncation_gets_nothing_from_before(void)
{
	uint8_t model[2 * BLOCK] = {0};
	pthread_t truncating, writing;

	random_seed(85);
	cluster.tell_delay_ms = 3600000;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.tell_delay_ms = 0;
	cluster.segment_blocks = 8;
	struct stripe_file *file = open_file(1);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	hold_first_call(3, STORE_COMMIT);
	pthread_create(&truncating, NULL, truncate_to_a_block, file);
	wait_until_held();
	pthread_mutex_lock(&cluster.lock);
	cluster.files[1].truncate = false;
	uint64_t asked = cluster.placements_asked;
	pthread_mutex_unlock(&cluster.lock);
	uint64_t writes = count().calls[STORE_WRITE];
	pthread_create(&writing, NULL, write_behind, file);
	for (bool goes_on = false; !goes_on;) {
		usleep(1000);
		pthread_mutex_lock(&cluster.lock);
		goes_on = cluster.placements_asked > asked;
		pthread_mutex_unlock(&cluster.lock);
	}
	/* Where it is not put off, it has the time to be written. (The truncation waits before it
	 * has the range to itself: it tells the stores first what is decided.) */
	for (unsigned int i = 0; i < 300 && count().calls[STORE_WRITE] == writes; i++)
		usleep(1000);
	CU_ASSERT_EQUAL(count().calls[STORE_WRITE], writes);
	let_go();
	pthread_join(truncating, NULL);
	pthread_join(writing, NULL);
	CU_ASSERT_EQUAL(cluster.files[1].size, 9 * BLOCK);
	stripe_file_put(file);
	cluster_stop();
}

static void truncation_and_collected_bytes(void)
{
	random_seed(73);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1), *others;
	struct stripe *other = engine_create();
	size_t size = 4 * BLOCK;
	uint8_t *model = calloc(1, 2 * size);

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	/* By ourselves: what lies before the cut stays, also in the block that is cut. */
	for (unsigned int i = 0; i < 4; i++) {
		fill(model + i * BLOCK + 10, 8000);
		CU_ASSERT_EQUAL(
			stripe_write(file, i * BLOCK + 10, model + i * BLOCK + 10, 8000, false), 0);
	}
	fill(model + size, 100);
	CU_ASSERT_EQUAL(stripe_write(file, size, model + size, 100, false), 0);
	size_t cut = BLOCK + 5000;
	CU_ASSERT_EQUAL(truncate_file(file, 1, cut), 0);
	memset(model + cut, 0, 2 * size - cut);
	CU_ASSERT(reads_as(file, model, 0, 2 * size));
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT(reads_as(others, model, 0, 2 * size));
	CU_ASSERT_EQUAL(cluster.files[1].size, cut);
	/*
	 * By another engine, which knows nothing of what was collected here: beyond the cut nothing
	 * comes back, in particular where no store ever had anything, and the client is told.
	 */
	CU_ASSERT_EQUAL(stripe_write(file, 3, model + 3, 5000, false), 0);
	CU_ASSERT_EQUAL(stripe_write(file, size, model, 5000, false), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 6 * BLOCK, model, 5000, false), 0);
	cut = 9000;
	CU_ASSERT_EQUAL(truncate_file(others, 1, cut), 0);
	memset(model + cut, 0, 2 * size - cut);
	stripe_commit(file);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT(reads_as(others, model, 0, 2 * size));
	CU_ASSERT(reads_as(file, model, 0, 2 * size));
	CU_ASSERT_EQUAL(cluster.files[1].size, cut);
	/* And afterwards all is as ever. */
	fill(model + 6 * BLOCK, 5000);
	CU_ASSERT_EQUAL(stripe_write(file, 6 * BLOCK, model + 6 * BLOCK, 5000, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(others, model, 0, 2 * size));
	CU_ASSERT_EQUAL(cluster.files[1].size, 6 * BLOCK + 5000);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

/* By an engine that attached to the file when it was short, as the metadata server's does. */
static void truncation_of_a_file_that_has_grown(void)
{
	random_seed(83);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1), *others;
	struct stripe *other = engine_create();
	size_t size = (2 * cluster.segment_blocks + 1) * BLOCK;
	uint8_t *model = calloc(1, size);

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	fill(model, size);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
	CU_ASSERT_EQUAL(truncate_file(others, 1, 0), 0);
	memset(model, 0, size);
	CU_ASSERT(reads_as(file, model, 0, size));
	CU_ASSERT(reads_as(others, model, 0, size));
	CU_ASSERT_FALSE(cluster.files[1].truncate);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	free(model);
	cluster_stop();
}

/* The cut leaves nothing to do in the last block of a segment, as far as the stores tell. */
static void truncation_and_bytes_collected_at_the_end_of_a_segment(void)
{
	random_seed(79);
	start_gathering(FOR_EVER);
	struct stripe_file *file = open_file(1), *others;
	struct stripe *other = engine_create();
	uint64_t begin = (cluster.segment_blocks - 1) * BLOCK, cut = begin + 1000;
	uint8_t *model = calloc(1, cut + 4000), bytes[4000];

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 1, &others), 0);
	fill(bytes, sizeof(bytes));
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_write(file, cut, bytes, sizeof(bytes), false), 0);
	CU_ASSERT_EQUAL(truncate_file(others, 1, cut), 0);
	stripe_commit(file);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT(reads_as(others, model, begin, 5000));
	CU_ASSERT(reads_as(file, model, begin, 5000));
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

/* Appends and commits of its own, while others commit, too. */
struct appender {
	struct stripe_file *file;
	uint64_t id;
	atomic_bool *stop;
	bool failed;
};

static void *append(void *argument)
{
	struct appender *self = argument;
	uint8_t bytes[3000];

	memset(bytes, 5, sizeof(bytes));
	for (uint64_t end = 0; end < 400 * sizeof(bytes);) {
		self->failed |= stripe_write(self->file, end, bytes, sizeof(bytes), false) != 0;
		self->failed |= stripe_commit(self->file) != 0;
		end += sizeof(bytes);
		pthread_mutex_lock(&cluster.lock);
		self->failed |= cluster.files[self->id].size < end;
		pthread_mutex_unlock(&cluster.lock);
	}
	atomic_store(self->stop, true);
	return NULL;
}

static void *commit_all_the_time(void *argument)
{
	struct appender *self = argument;

	while (!atomic_load(self->stop))
		self->failed |= stripe_commit(self->file) != 0;
	return NULL;
}

static void commit_tells_the_size_whoever_else_commits(void)
{
	for (unsigned int way = 0; way < 2; way++) {
		cluster.gather = way;
		cluster.gather_delay_ms = 1;
		cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
		atomic_bool stop = false;
		struct stripe_file *file = open_file(1);
		struct appender self = {.file = file, .id = 1, .stop = &stop};
		struct appender other = self;
		pthread_t threads[2];

		pthread_create(&threads[0], NULL, append, &self);
		pthread_create(&threads[1], NULL, commit_all_the_time, &other);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		CU_ASSERT_FALSE(self.failed);
		CU_ASSERT_FALSE(other.failed);
		stripe_file_put(file);
		stop_gathering();
	}
}

/* -------- slow nodes -------- */

static int compare_times(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

#define TIMED_READS 100

/* Microseconds that a read takes, mostly. */
static uint64_t median_read_us(struct stripe_file *file, const uint8_t *model, size_t size)
{
	uint64_t times[TIMED_READS];

	for (unsigned int i = 0; i < TIMED_READS; i++) {
		size_t offset = random_number() % (size - 20000);
		struct timespec from, to;

		clock_gettime(CLOCK_MONOTONIC, &from);
		CU_ASSERT(reads_as(file, model, offset, 20000));
		clock_gettime(CLOCK_MONOTONIC, &to);
		times[i] = (uint64_t)(to.tv_sec - from.tv_sec) * 1000000 +
			   (uint64_t)(to.tv_nsec / 1000) - (uint64_t)(from.tv_nsec / 1000);
	}
	qsort(times, TIMED_READS, sizeof(times[0]), compare_times);
	return times[TIMED_READS / 2];
}

/* What another engine has written and not committed is flushed before it is told. */
static void a_hanging_disk_does_not_keep_unstable_bytes_from_being_read(void)
{
	uint8_t bytes[8 * BLOCK];
	struct stripe_file *seen = NULL;

	random_seed(96);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), false), 0);
	struct stripe *other = impatient_engine(1, &seen);
	atomic_store(&cluster.nodes[3].read_delay_ms, 3000);
	reads_within(5, seen, bytes, sizeof(bytes));
	atomic_store(&cluster.nodes[3].read_delay_ms, 0);
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/* It can tell what it has in memory. */
static void a_hanging_flush_does_not_keep_unstable_bytes_from_being_read(void)
{
	uint8_t bytes[8 * BLOCK];
	struct stripe_file *seen = NULL;

	random_seed(100);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe_file *file = open_file(1);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), false), 0);
	struct stripe *other = impatient_engine(1, &seen);
	make_calls_hang(3, STORE_SYNC);
	atomic_store(&write_delay_ms, 30000);
	reads_within(4, seen, bytes, sizeof(bytes));
	atomic_store(&write_delay_ms, 0);
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/* Where the others are just enough to decide, it has to be settled first, without the one. */
static void a_hanging_disk_does_not_keep_unstable_bytes_from_being_settled(void)
{
	uint8_t bytes[8 * 8192];
	struct stripe_file *seen = NULL;

	random_seed(98);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	struct stripe_file *file = open_file(3); /* shard s is on node s */
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), false), 0);
	struct stripe *other = impatient_engine(3, &seen);
	atomic_store(&cluster.nodes[0].read_delay_ms, 3000);
	reads_within(5, seen, bytes, sizeof(bytes));
	atomic_store(&cluster.nodes[0].read_delay_ms, 0);
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

/*
 * A store loses it with its power, and while another one cannot be reached somebody else has the
 * third one drop it. What he wrote instead is what we write over next.
 */
static void what_a_restart_took_from_others_is_noticed_by_commit(void)
{
	uint8_t model[8192];
	struct stripe_file *others;
	store_read_block header;

	random_seed(101);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	struct stripe *other = engine_create();
	struct stripe_file *file = open_file(3); /* shard s is on node s */
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 3, &others), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	fill(model, 100);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 100, false), 0);
	CU_ASSERT_EQUAL(block_header(3, 1, 0, &header), 0);
	store_decided run = {.count = 1, .block_version = header.block_version};
	store_commit_args forget = {.file = {.export_id = EXPORT, .file_id = 3},
		.discard = 1,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_status_res res;
	store_commit(cluster.nodes[1].store, &forget, &res);
	node_stop(1);
	node_start(1);
	wait_for_nodes(others, 7);
	struct test_node *away = &cluster.nodes[2];
	rpc_server_stop(away->server);
	fill(model + 200, 100);
	CU_ASSERT_EQUAL(stripe_write(others, 200, model + 200, 100, true), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_server_start(&away->server, cluster.host, away->port,
				      &away->program, &cluster.key, 8),
		0);
	wait_for_nodes(file, 7);
	/* Nobody was promised to refuse versions as new as ours is by then. */
	for (unsigned int i = 0; i < 16; i++)
		CU_ASSERT_EQUAL(stripe_write(file, 8192, model, sizeof(model), true), 0);
	fill(model + 400, 100);
	CU_ASSERT_EQUAL(stripe_write(file, 400, model + 400, 100, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(stripe_write_verifier(cluster.stripe) != verifier ||
		  reads_as(file, model, 0, sizeof(model)));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, 100, false), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 400, model + 400, 100, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(reads_as(others, model, 0, sizeof(model)));
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	cluster_stop();
}

static store_decided dropped_run;
static atomic_uint drops_left, refusals_left;

static void drop_at(unsigned int node)
{
	store_commit_args drop = {.file = {.export_id = EXPORT, .file_id = 3},
		.discard = 1,
		.runs = {.runs_len = 1, .runs_val = &dropped_run}};
	store_status_res res;

	store_commit(cluster.nodes[node].store, &drop, &res);
	CU_ASSERT_EQUAL(res.status, 0);
}

static rpc_handler plain_read, plain_commit;

/* Of who settles: what he has read is dropped by two stores of three just before. */
static void read_after_a_drop(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const store_read_args *args = arguments;

	if (args->headers_only && atomic_exchange(&drops_left, 0)) {
		drop_at(1);
		drop_at(2);
	}
	plain_read(context, caller, arguments, result);
}

static void commit_refused(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	if (atomic_exchange(&refusals_left, 0))
		((store_status_res *)result)->status = EIO;
	else
		plain_commit(context, caller, arguments, result);
}

/* The third one still had it: it would have marked it as decided, alone, for good. */
static void what_is_dropped_before_it_is_written_over_is_no_base(void)
{
	uint8_t model[8192], mine[100];
	struct stripe_file *others;
	store_read_block header;

	random_seed(107);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	struct stripe *other = engine_create();
	struct stripe_file *file = open_file(3); /* shard s is on node s */
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, 3, &others), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(model), true), 0);
	fill(mine, sizeof(mine));
	CU_ASSERT_EQUAL(stripe_write(file, 0, mine, sizeof(mine), false), 0);
	CU_ASSERT_EQUAL(block_header(3, 0, 0, &header), 0);
	dropped_run = (store_decided){.count = 1, .block_version = header.block_version};
	for (unsigned int i = 0; i < 3; i++) {
		struct rpc_procedure *procedures = cluster.nodes[i].procedures;

		plain_read = procedures[STORE_READ].handler;
		procedures[STORE_READ].handler = read_after_a_drop;
	}
	plain_commit = cluster.nodes[0].procedures[STORE_COMMIT].handler;
	cluster.nodes[0].procedures[STORE_COMMIT].handler = commit_refused;
	atomic_store(&refusals_left, 1);
	atomic_store(&drops_left, 1);
	CU_ASSERT_EQUAL(stripe_write(others, 200, mine, sizeof(mine), false), 0);
	CU_ASSERT_EQUAL(atomic_load(&drops_left), 0);
	CU_ASSERT(!reads_as(others, mine, 0, sizeof(mine)));
	/* As if all stores lost their power. */
	CU_ASSERT_EQUAL(block_header(3, 1, 0, &header), 0);
	dropped_run.block_version = header.block_version;
	for (unsigned int i = 0; i < 3; i++)
		drop_at(i);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_file(3);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	stripe_file_put(file);
	cluster_stop();
}

/* A READ that has a promise flushed. */
static void hanging_promise(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const store_read_args *args = arguments;

	if (args->refuse.generation)
		hanging_write(context, caller, arguments, result);
	else
		plain_write(context, caller, arguments, result);
}

/*
 * As of a gateway that has died: what is written over it is settled first, and what a store is to
 * promise then it cannot flush.
 */
static void a_hanging_disk_is_not_waited_for_by_each_write_over_unstable_bytes(void)
{
	static uint8_t model[24 * BLOCK];
	struct stripe_file *others = NULL;
	struct timespec begun;

	random_seed(102);
	cluster.call_timeout_ms = 500;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	struct stripe *dead = engine_create();
	cluster.call_timeout_ms = 0;
	struct stripe_file *file = open_file(1);
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(dead, EXPORT, 1, &others), 0);
	fill(model, sizeof(model));
	CU_ASSERT_EQUAL(stripe_write(others, 0, model, sizeof(model), false), 0);
	stripe_file_put(others);
	stripe_destroy(dead);
	make_calls_hang(3, STORE_READ);
	cluster.nodes[3].procedures[STORE_READ].handler = hanging_promise;
	atomic_store(&write_delay_ms, 30000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned int i = 0; i < 24; i++) {
		size_t offset = (size_t)i * BLOCK, length = i % 2 ? BLOCK : 100;

		fill(model + offset, length);
		CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, length, false), 0);
	}
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT(seconds_since(&begun) < 5);
	atomic_store(&write_delay_ms, 0);
	CU_ASSERT(reads_as(file, model, 0, sizeof(model)));
	wait_for_nodes(file, 0x3f);
	heal_everything(file, 1);
	stripe_file_put(file);
	cluster_stop();
}

static void slow_nodes_do_not_slow_reads(void)
{
	const unsigned int delay_ms = 400;

	for (unsigned int slow_count = 1; slow_count <= 2; slow_count++) {
		random_seed(79);
		cluster_start(
			slow_count == 1 ? MOJETTE_NON_SYSTEMATIC : MOJETTE_SYSTEMATIC, 4, 2, 4096);
		struct stripe_file *file = open_file(1);
		size_t size = 1000000;
		uint8_t *model = calloc(1, size);

		fill(model, size);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, size, true), 0);
		uint64_t healthy_us = median_read_us(file, model, size);
		/* Shards 0 of file 1 lie on node 1, and so on. All stores are asked by some file.
		 */
		for (unsigned int i = 0; i < slow_count; i++)
			atomic_store(&cluster.nodes[2 + i].read_delay_ms, delay_ms);
		uint64_t hedged = count().hedged_reads;
		uint64_t slow_us = median_read_us(file, model, size);
		CU_ASSERT(count().hedged_reads > hedged);
		printf("%llu us, %llu us with %u slow ", (unsigned long long)healthy_us,
			(unsigned long long)slow_us, slow_count);
		/* Whatever else this machine does: far from what the slow node takes. */
		CU_ASSERT(slow_us < delay_ms * 1000 / 10);
		/* And of all reads hardly any had to wait. */
		CU_ASSERT(count().hedged_reads - hedged < TIMED_READS / 4);
		/* Once they are fast again they are asked again. */
		for (unsigned int i = 0; i < slow_count; i++) {
			struct test_node *node = &cluster.nodes[2 + i];
			bool back = false;

			atomic_store(&node->read_delay_ms, 0);
			for (unsigned int round = 0; round < 400 && !back; round++) {
				unsigned int before = atomic_load(&node->reads);

				for (unsigned int j = 0; j < 10; j++)
					CU_ASSERT(reads_as(file, model, 0, 20000));
				back = atomic_load(&node->reads) - before >= 10;
				usleep(20000);
			}
			CU_ASSERT(back);
		}
		/* An answer may come when nobody waits for it any more, nor the engine is there. */
		for (unsigned int i = 0; i < slow_count; i++)
			atomic_store(&cluster.nodes[2 + i].read_delay_ms, delay_ms);
		CU_ASSERT(reads_as(file, model, 0, 20000));
		stripe_file_put(file);
		free(model);
		cluster_stop();
	}
}

/*
 * Random writes, reads, commits, truncations, node stops and starts, restarts of the engine, and
 * healing, against a model. At most m nodes are down or not yet healed at a time.
 */
static void random_history(uint64_t seed, unsigned int steps)
{
	random_seed(seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
	cluster.gather = seed % 2;
	cluster.gather_delay_ms = seed % 4 == 1 ? 0 : FOR_EVER;
	cluster_start(random_number() % 2 ? MOJETTE_NON_SYSTEMATIC : MOJETTE_SYSTEMATIC, 4, 2,
		random_number() % 2 ? 4096 : 1024);
	size_t limit = 900000;
	uint8_t *model = calloc(1, limit + 400000);
	struct stripe_file *file = open_file(1);
	uint32_t weak = 0; /* nodes that are down or have not been healed */
	int broken = 0; /* the error, or 1 for wrong bytes */

	for (unsigned int step = 0; step < steps && !broken; step++) {
		unsigned int choice = (unsigned int)(random_number() % 100);
		unsigned int i = (unsigned int)(random_number() % cluster.node_count);
		uint64_t offset = random_number() % limit;
		size_t length = 1 + random_number() % (random_number() % 4 ? 5000 : 200000);

		if (choice < 45) {
			fill(model + offset, length);
			broken = stripe_write(
				file, offset, model + offset, length, random_number() % 2);
		} else if (choice < 70) {
			broken = !reads_as(file, model, offset, length);
		} else if (choice < 75) {
			broken = stripe_commit(file);
		} else if (choice < 79) {
			broken = truncate_file(file, 1, offset);
			memset(model + offset, 0, limit + 200000 - offset);
		} else if (choice < 87) {
			if (node_is_up(i) && __builtin_popcount(weak | 1u << i) <= cluster.code.m) {
				node_stop(i);
				weak |= 1u << i;
			}
		} else if (choice < 95) {
			if (!node_is_up(i))
				node_start(i);
		} else if (choice < 98) {
			for (unsigned int j = 0; j < cluster.node_count; j++) {
				if (!node_is_up(j))
					node_start(j);
			}
			wait_for_nodes(file, (1u << cluster.node_count) - 1);
			broken = stripe_commit(file);
			heal_everything(file, 8);
			weak = 0;
		} else {
			broken = stripe_commit(file);
			stripe_file_put(file);
			stripe_destroy(cluster.stripe);
			engine_start();
			file = open_file(1);
		}
		if (broken)
			fprintf(stderr,
				"seed %" PRIu64 " step %u choice %u: %d (offset %" PRIu64
				" length %zu weak %x)\n",
				seed, step, choice, broken, offset, length, weak);
	}
	CU_ASSERT_EQUAL(broken, 0);
	CU_ASSERT(reads_as(file, model, 0, limit + 200000));
	stripe_file_put(file);
	free(model);
	stop_gathering();
}

static void random_histories_match_the_model(void)
{
	const char *seed = getenv("STRIPE_SEED");

	if (seed) {
		random_history(strtoull(seed, NULL, 10), 300);
		return;
	}
	for (uint64_t i = 1; i <= 12; i++)
		random_history(i, 120);
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"what too few took is settled when others are back",
			what_too_few_took_is_settled_when_others_are_back},
		{"what a reader was told is not taken back",
			what_a_reader_was_told_is_not_taken_back},
		{"files with failed writes are dropped like others",
			files_with_failed_writes_are_dropped_like_others},
		{"what is decided of many files is told together",
			what_is_decided_of_many_files_is_told_together},
		{"versions are not given twice when a file was forgotten",
			versions_are_not_given_twice_when_a_file_was_forgotten},
		{"whole and partial blocks read back", whole_and_partial_blocks_read_back},
		{"holes read as zeros", holes_read_as_zeros},
		{"any m nodes may be down", any_m_nodes_may_be_down},
		{"writes with nodes down are healed", writes_with_nodes_down_are_healed},
		{"what reads notice can be healed", what_reads_notice_can_be_healed},
		{"blocks on a lost device are healed", blocks_on_a_lost_device_are_healed},
		{"what was acknowledged is not undecided for a lost device",
			what_was_acknowledged_is_not_undecided_for_a_lost_device},
		{"a node lost between write and commit is recorded",
			node_lost_between_write_and_commit_is_recorded},
		{"a store that restarted before commit is not trusted",
			store_that_restarted_before_commit_is_not_trusted},
		{"a store that restarted between unstable writes is left behind",
			store_that_restarted_between_unstable_writes_is_left_behind},
		{"truncation leaves zeros", truncation_leaves_zeros},
		{"a truncation begun elsewhere is finished on attach",
			truncation_begun_elsewhere_is_finished_on_attach},
		{"what is written while a truncation waits stays",
			what_is_written_while_a_truncation_waits_stays},
		{"exportd behind the stores catches up", exportd_behind_the_stores_catches_up},
		{"exportd that stays behind the stores makes calls fail",
			exportd_that_stays_behind_the_stores_makes_calls_fail},
		{"a file that exportd does not know for a while is sent again",
			a_file_that_exportd_does_not_know_for_a_while_is_sent_again},
		{"what may be tried again and again ends in time",
			what_may_be_tried_again_and_again_ends_in_time},
		{"a file can be read while a truncation waits",
			a_file_can_be_read_while_a_truncation_waits},
		{"a truncation that others carried out is heard of at commit",
			a_truncation_that_others_carried_out_is_heard_of_at_commit},
		{"a truncation carried out late tells of what it takes",
			a_truncation_carried_out_late_tells_of_what_it_takes},
		{"a truncation that others finish first tells of what it takes",
			a_truncation_that_others_finish_first_tells_of_what_it_takes},
		{"a truncation of our own does not hide what others took",
			a_truncation_of_our_own_does_not_hide_what_others_took},
		{"a hole of many segments is truncated at once",
			a_hole_of_many_segments_is_truncated_at_once},
		{"shards that a store does not take are told of",
			shards_that_a_store_does_not_take_are_told_of},
		{"a write beyond the last segment is refused",
			a_write_beyond_the_last_segment_is_refused},
		{"a truncation passes what stores refuse", a_truncation_passes_what_stores_refuse},
		{"a slow exportd is waited for", a_slow_exportd_is_waited_for},
		{"writers that begin together do not overtake each other for ever",
			writers_that_begin_together_do_not_overtake_each_other_for_ever},
		{"holes of files made without a device read as zeros",
			holes_of_files_made_without_a_device_read_as_zeros},
		{"a truncation with a node down is healed", truncation_with_a_node_down_is_healed},
		{"a removed file is stale", removed_file_is_stale},
		{"who will write asks exportd once", who_will_write_asks_exportd_once},
		{"concurrent writers of one block lose nothing",
			concurrent_writers_of_one_block_lose_nothing},
		{"a cached block costs no read", cached_block_costs_no_read},
		{"unstable parts of a block are sent once", unstable_parts_are_sent_once},
		{"collected bytes are sent after a while", collected_bytes_are_sent_after_a_while},
		{"memory for collected bytes is bounded", memory_for_collected_bytes_is_bounded},
		{"collected bytes give way to other writers",
			collected_bytes_give_way_to_other_writers},
		{"what cannot be sent fails the commit", what_cannot_be_sent_fails_the_commit},
		{"collected bytes are sent before our own truncation",
			collected_bytes_are_sent_before_our_own_truncation},
		{"truncation of a file that has grown", truncation_of_a_file_that_has_grown},
		{"a busy writer does not keep an epoch from ending",
			a_busy_writer_does_not_keep_an_epoch_from_ending},
		{"a busy writer does not make each commit fail",
			a_busy_writer_does_not_make_each_commit_fail},
		{"bytes collected during a truncation are sent again",
			bytes_collected_during_a_truncation_are_sent_again},
		{"a commit that finds the file truncated knows its size",
			a_commit_that_finds_the_file_truncated_knows_its_size},
		{"a slow node counts where nothing is to be recorded",
			a_slow_node_counts_where_nothing_is_to_be_recorded},
		{"a truncation takes the size of what is written meanwhile",
			a_truncation_takes_the_size_of_what_is_written_meanwhile},
		{"a truncation that comes late takes no size",
			a_truncation_that_comes_late_takes_no_size},
		{"a former gateway writes nothing any more",
			a_former_gateway_writes_nothing_any_more},
		{"a write under a former layout is refused",
			a_write_under_a_former_layout_is_refused},
		{"a write under a former layout is not collected",
			a_write_under_a_former_layout_is_not_collected},
		{"what was given up does not keep others from being collected",
			what_was_given_up_does_not_keep_others_from_being_collected},
		{"a layout that was taken back writes nothing",
			a_layout_that_was_taken_back_writes_nothing},
		{"a cached block brings nothing back that was truncated",
			a_cached_block_brings_nothing_back_that_was_truncated},
		{"a file does not shrink while it is committed",
			a_file_does_not_shrink_while_it_is_committed},
		{"a file does not shrink by an answer of before",
			a_file_does_not_shrink_by_an_answer_of_before},
		{"what is written while a file is forgotten is sent again",
			what_is_written_while_a_file_is_forgotten_is_sent_again},
		{"what was collected of a removed file is given up",
			what_was_collected_of_a_removed_file_is_given_up},
		{"a file is as long as what was written stably",
			a_file_is_as_long_as_what_was_written_stably},
		{"commit waits once for a slow node", commit_waits_once_for_a_slow_node},
		{"commit waits once for a slow node in each segment",
			commit_waits_once_for_a_slow_node_in_each_segment},
		{"what exportd said before a truncation does not count",
			what_exportd_said_before_a_truncation_does_not_count},
		{"a segment made after a truncation gets nothing from before",
			a_segment_made_after_a_truncation_gets_nothing_from_before},
		{"truncation and collected bytes", truncation_and_collected_bytes},
		{"truncation and bytes collected at the end of a segment",
			truncation_and_bytes_collected_at_the_end_of_a_segment},
		{"commit tells the size whoever else commits",
			commit_tells_the_size_whoever_else_commits},
		{"a hanging disk is waited for once by what was collected",
			a_hanging_disk_is_waited_for_once_by_what_was_collected},
		{"writers do not wait for a hanging disk each time",
			writers_do_not_wait_for_a_hanging_disk_each_time},
		{"commits do not wait for a hanging flush each time",
			commits_do_not_wait_for_a_hanging_flush_each_time},
		{"a store that was stuck is asked where too few others are",
			a_store_that_was_stuck_is_asked_where_too_few_others_are},
		{"a commit that takes long goes on with the next",
			a_commit_that_takes_long_goes_on_with_the_next},
		{"a busy writer does not keep commits from ending",
			a_busy_writer_does_not_keep_commits_from_ending},
		{"a hanging disk is waited for once by a truncation",
			a_hanging_disk_is_waited_for_once_by_a_truncation},
		{"a hanging disk is waited for once by healing",
			a_hanging_disk_is_waited_for_once_by_healing},
		{"a hanging disk is waited for once by what strikes off records",
			a_hanging_disk_is_waited_for_once_by_what_strikes_off_records},
		{"a disk that cannot be read is waited for once by healing",
			a_disk_that_cannot_be_read_is_waited_for_once_by_healing},
		{"a disk that cannot be read does not hold up reads beside one that lags",
			a_disk_that_cannot_be_read_does_not_hold_up_reads_beside_one_that_lags},
		{"a hanging disk is waited for once by what ends doubts",
			a_hanging_disk_is_waited_for_once_by_what_ends_doubts},
		{"a hanging disk is not waited for by each fence",
			a_hanging_disk_is_not_waited_for_by_each_fence},
		{"a hanging disk does not keep unstable bytes from being read",
			a_hanging_disk_does_not_keep_unstable_bytes_from_being_read},
		{"a hanging flush does not keep unstable bytes from being read",
			a_hanging_flush_does_not_keep_unstable_bytes_from_being_read},
		{"a hanging disk does not keep unstable bytes from being settled",
			a_hanging_disk_does_not_keep_unstable_bytes_from_being_settled},
		{"a hanging disk is not waited for by each write over unstable bytes",
			a_hanging_disk_is_not_waited_for_by_each_write_over_unstable_bytes},
		{"what a restart took from others is noticed by commit",
			what_a_restart_took_from_others_is_noticed_by_commit},
		{"what is dropped before it is written over is no base",
			what_is_dropped_before_it_is_written_over_is_no_base},
		{"writers wait together for an exportd that hangs",
			writers_wait_together_for_an_exportd_that_hangs},
		{"slow nodes do not slow reads", slow_nodes_do_not_slow_reads},
		{"random histories match the model", random_histories_match_the_model},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"stripe", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	signal(SIGPIPE, SIG_IGN);
	rozo_log_set_level(getenv("ROZO_LOG") ? ROZO_LOG_DEBUG : ROZO_LOG_ERROR);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
