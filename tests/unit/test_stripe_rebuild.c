/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Shards that move to other nodes, shards that lag, and shards that are damaged, against real
 * stores behind real RPC (stripe_cluster.h): what is written meanwhile is lost on neither node,
 * those who know only the old nodes draw no conclusions and decide nothing, and what was made can
 * be relied on.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rpc/log.h"
#include "stripe_cluster.h"

#define SIZE 600000 /* bytes; 37 blocks at 4+2, in one segment */
#define BLOCK 16384

static uint8_t model[SIZE];

/* File 6 at 4+2: shard s is on node s (counted from 0); node 6 and 7 are spare. */
#define FILE_ID 6

static void start(void)
{
	cluster.spare_nodes = 2;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	random_seed(5);
	fill(model, SIZE);
}

/*
 * An engine that tells nobody what is decided, until it is destroyed, as if its process always died
 * right after its writes. It does not notice either that nodes are back.
 */
static struct stripe *silent_engine(void)
{
	cluster.tell_delay_ms = 3600000;
	struct stripe *stripe = engine_create();
	cluster.tell_delay_ms = 0;
	return stripe;
}

static void stop(void)
{
	cluster_stop();
	cluster.spare_nodes = 0;
}

static struct stripe_file *open_in(struct stripe *stripe)
{
	struct stripe_file *file = NULL;

	CU_ASSERT_EQUAL_FATAL(stripe_file_get(stripe, EXPORT, FILE_ID, &file), 0);
	return file;
}

static int read_error; /* of the last reads_right() */

static bool reads_right(struct stripe_file *file)
{
	static uint8_t bytes[SIZE];

	memset(bytes, 0x55, SIZE);
	read_error = stripe_read(file, 0, bytes, SIZE);
	return read_error == 0 && memcmp(bytes, model, SIZE) == 0;
}

static void change(struct stripe_file *file, uint64_t offset, size_t length, bool stable)
{
	fill(model + offset, length);
	CU_ASSERT_EQUAL(stripe_write(file, offset, model + offset, length, stable), 0);
}

static void wait_for_nodes(struct stripe_file *file, uint32_t wanted)
{
	for (unsigned int i = 0; i < 200; i++) {
		if ((stripe_shards_up(file, 0) & wanted) == wanted)
			return;
		usleep(50000);
	}
	CU_FAIL("a node that is back was not noticed in 10 s");
}

/*
 * Makes the shard that the engine's node has taken over. Returns the blocks of which it is lacking,
 * or -1 if it could not begin.
 */
static int rebuild(struct stripe *stripe, struct stripe_heal_result *sum)
{
	struct stripe_file *file = open_in(stripe);
	struct stripe_rebuild rebuild;
	int lacking = -1;

	*sum = (struct stripe_heal_result){0};
	if (stripe_rebuild_begin(file, 0, &rebuild) == 0) {
		lacking = 0;
		for (uint64_t block = 0; block < rebuild.block_count; block++) {
			struct stripe_heal_result result;
			int error = stripe_heal_range(file, 0, block, 1, false, &result);

			lacking += error || (result.lacking & (1u << rebuild.shard));
			sum->healed += result.healed;
			sum->healed_bytes += result.healed_bytes;
			sum->left += result.left;
		}
	}
	stripe_file_put(file);
	return lacking;
}

static void what_is_written_while_a_shard_moves_is_on_the_new_node(void)
{
	struct stripe_heal_result sum;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	change(file, 3 * BLOCK, 2 * BLOCK, false); /* unstable, its holders include node 2 */
	node_stop(2);
	unsigned int spare = move_shard(FILE_ID, 2, 0);
	struct stripe *worker = engine_create_at(spare);
	/* Before and after the new node begins: with the old placement in memory, and with the new.
	 */
	change(file, 100, 5000, true);
	CU_ASSERT(reads_right(file));
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	CU_ASSERT(sum.healed >= 30);
	CU_ASSERT(sum.healed_bytes >= sum.healed * 1000);
	/* Otherwise it would be told at the end that its epoch has ended, and do it all again. */
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	change(file, 20 * BLOCK + 77, 3 * BLOCK, true);
	CU_ASSERT(reads_right(file));
	/* Of partly written blocks it is not asked to judge what is from before, so it missed two.
	 */
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	CU_ASSERT_EQUAL(sum.healed, 2);
	change(file, 20 * BLOCK + 99, 3 * BLOCK, true);
	CU_ASSERT(reads_right(file));
	/* Nothing is left to be done: who does it again, after a restart, makes nothing. */
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	CU_ASSERT_EQUAL(sum.healed, 0);
	end_rebuilding(FILE_ID, 2);
	stripe_destroy(worker);
	node_stop(0);
	node_stop(5);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	CU_ASSERT(reads_right(seen));
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_file_put(file);
	stop();
}

/*
 * Shard 2 moves, a block is written that two nodes miss, and shard 5 moves. Nobody is told that the
 * write was decided. Returns the engine that has written.
 */
static struct stripe *two_shards_move(unsigned int missing, unsigned int missing_too)
{
	start();
	struct stripe *silent = silent_engine();
	struct stripe_file *file = open_in(silent);
	change(file, 0, SIZE, true);
	CU_ASSERT_EQUAL(move_shard(FILE_ID, 2, 0), 6);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	node_stop(missing);
	node_stop(missing_too);
	change(file, 5 * BLOCK, BLOCK, true);
	node_start(missing);
	node_start(missing_too);
	CU_ASSERT_EQUAL(move_shard(FILE_ID, 5, 1), 7);
	stripe_file_put(file);
	return silent;
}

static void a_block_is_made_of_a_new_and_a_former_shard(void)
{
	struct stripe_heal_result sum;
	struct stripe *silent = two_shards_move(3, 4);
	/* Whole are: shard 0, 1, 2 where it has moved to, 5 where it was. */
	struct stripe *workers[] = {engine_create_at(6), engine_create_at(7)};
	CU_ASSERT_EQUAL(rebuild(workers[1], &sum), 0);
	CU_ASSERT_EQUAL(rebuild(workers[0], &sum), 0);
	end_rebuilding(FILE_ID, 2);
	end_rebuilding(FILE_ID, 5);
	node_stop(0);
	node_stop(1);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	CU_ASSERT(reads_right(seen));
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_destroy(workers[0]);
	stripe_destroy(workers[1]);
	stripe_destroy(silent);
	stop();
}

/* The first node that went was not sent what was written before the second one did. */
static void who_left_first_is_no_witness_of_what_came_then(void)
{
	struct stripe *silent = two_shards_move(4, 5);

	node_stop(6);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	CU_ASSERT_FALSE(reads_right(seen));
	CU_ASSERT_EQUAL(read_error, -EIO);
	stripe_file_put(seen);
	stripe_destroy(other);
	node_start(6);
	other = engine_create();
	seen = open_in(other);
	CU_ASSERT(reads_right(seen));
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_destroy(silent);
	stop();
}

/* So many that a write can only be known to few of the others. */
static void all_the_shards_that_may_be_lost_move_at_once(void)
{
	static const struct {
		unsigned int k, m;
	} codes[] = {{2, 2}, {2, 3}, {3, 3}, {4, 2}};

	for (unsigned int i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		unsigned int n = codes[i].k + codes[i].m, m = codes[i].m;
		const uint64_t id = n; /* shard s is on node s */
		struct stripe_file *file = NULL;
		struct stripe_heal_result sum;
		struct stripe *worker;

		cluster.spare_nodes = m;
		cluster_start(MOJETTE_NON_SYSTEMATIC, codes[i].k, m, 4096);
		random_seed(5);
		memset(model, 0, SIZE);
		fill(model, 150000); /* in one segment */
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, 150000, true), 0);
		for (unsigned int s = 0; s < m; s++) {
			node_stop(s);
			CU_ASSERT_EQUAL(move_shard(id, s, s), n + s);
		}
		/* The cut goes through a block that the new nodes do not have. */
		CU_ASSERT_EQUAL(truncate_file(file, id, 120000), 0);
		memset(model + 120000, 0, SIZE - 120000);
		/* Also if a truncation waits, which has to be carried out before anything else. */
		begin_truncation(id, 100000);
		memset(model + 100000, 0, SIZE - 100000);
		for (unsigned int s = 0; s < m; s++) {
			struct stripe_rebuild begun;
			struct stripe_file *made = NULL;

			worker = engine_create_at(n + s);
			CU_ASSERT_EQUAL_FATAL(stripe_file_get(worker, EXPORT, id, &made), 0);
			CU_ASSERT_EQUAL(stripe_rebuild_begin(made, 0, &begun), 0);
			CU_ASSERT_EQUAL(stripe_heal_range(made, 0, 0, (uint32_t)begun.block_count,
						false, &sum),
				0);
			CU_ASSERT_EQUAL(sum.lacking & (1u << s), 0);
			stripe_file_put(made);
			stripe_destroy(worker);
		}
		for (unsigned int s = 0; s < m; s++)
			end_rebuilding(id, s);
		/* The new ones are needed now. */
		for (unsigned int s = m; s < n && s < 2 * m; s++)
			node_stop(s);
		struct stripe *other = engine_create();
		struct stripe_file *seen = NULL;
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, id, &seen), 0);
		CU_ASSERT(reads_right(seen));
		stripe_file_put(seen);
		stripe_destroy(other);
		stripe_file_put(file);
		stop();
	}
}

/*
 * Both nodes that were out are back, but their shards have moved. Then as many others die as may:
 * what is left is enough, and it does not take the time that is waited for writers.
 */
static void former_nodes_that_are_back_count_like_others(void)
{
	for (unsigned int dead = 1; dead <= 2; dead++) {
		struct timespec begun, ended;
		struct stripe_heal_result sum;

		start();
		struct stripe_file *file = open_in(cluster.stripe);
		change(file, 0, 20 * BLOCK, true);
		memset(model + 20 * BLOCK, 0, BLOCK); /* a hole */
		change(file, 21 * BLOCK, SIZE - 21 * BLOCK, true);
		stripe_file_put(file);
		stripe_destroy(cluster.stripe); /* the stores know that it is decided */
		unsigned int spares[] = {move_shard(FILE_ID, 0, 0), move_shard(FILE_ID, 1, 1)};
		engine_start();
		file = open_in(cluster.stripe);
		change(file, 5 * BLOCK, BLOCK, true); /* on the new ones */
		node_stop(2);
		if (dead == 2)
			node_stop(3);
		clock_gettime(CLOCK_MONOTONIC, &begun);
		CU_ASSERT(reads_right(file));
		clock_gettime(CLOCK_MONOTONIC, &ended);
		CU_ASSERT(ended.tv_sec - begun.tv_sec < 8); /* 28 s, if each of 37 blocks waits */
		change(file, 9 * BLOCK, 2 * BLOCK, true);
		for (unsigned int i = 0; i < 2; i++) {
			struct stripe *worker = engine_create_at(spares[i]);
			/* Not without those of which enough are to know of it for good. */
			CU_ASSERT_EQUAL(rebuild(worker, &sum), dead == 2 ? -1 : 0);
			stripe_destroy(worker);
			/* What it began does not hold up writes. */
			change(file, (11 + i) * BLOCK, BLOCK, true);
		}
		if (dead == 2) {
			node_start(2);
			wait_for_nodes(file, 1u << 2);
			for (unsigned int i = 0; i < 2; i++) {
				struct stripe *worker = engine_create_at(spares[i]);
				CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
				stripe_destroy(worker);
			}
			node_stop(2);
		}
		stripe_file_put(file);
		end_rebuilding(FILE_ID, 0);
		end_rebuilding(FILE_ID, 1);
		node_stop(0);
		node_stop(1);
		if (dead == 1)
			node_stop(3);
		struct stripe *other = engine_create();
		file = open_in(other);
		CU_ASSERT(reads_right(file));
		stripe_file_put(file);
		stripe_destroy(other);
		stop();
	}
}

static void flip(unsigned int node, unsigned int block);

/*
 * Former stores have what a truncation took away, and the new ones, which had nothing yet, have no
 * record of it: these are not to make up for those that do.
 */
static void former_nodes_do_not_bring_back_what_was_truncated(void)
{
	static const struct {
		unsigned int k, m, down_first;
	} codes[] = {{4, 2, 2}, {2, 1, 1}, {2, 2, 0}};
	static uint8_t bytes[100000], zeros[100000];

	for (unsigned int i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		unsigned int n = codes[i].k + codes[i].m, m = codes[i].m;
		const uint64_t id = n; /* shard s is on node s */
		struct stripe_file *file = NULL;

		cluster.spare_nodes = m;
		cluster_start(MOJETTE_NON_SYSTEMATIC, codes[i].k, m, 4096);
		random_seed(5);
		fill(model, sizeof(bytes));
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
		CU_ASSERT_EQUAL(stripe_write(file, 0, model, sizeof(bytes), true), 0);
		stripe_file_put(file);
		stripe_destroy(cluster.stripe); /* the stores know that it is decided */
		for (unsigned int s = 0; s < m; s++)
			move_shard(id, n - 1 - s, s);
		engine_start();
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
		for (unsigned int s = 0; s < codes[i].down_first; s++)
			node_stop(s);
		bool cut = truncate_file(file, id, 0) == 0;
		for (unsigned int s = 0; s < codes[i].down_first; s++)
			node_start(s);
		for (unsigned int s = 0; s < m; s++)
			node_stop(codes[i].down_first + s);
		stripe_file_put(file);
		stripe_destroy(cluster.stripe);
		engine_start();
		CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
		int error = stripe_read(file, 0, bytes, sizeof(bytes));
		CU_ASSERT(!cut || error == -EIO ||
			  (error == 0 && memcmp(bytes, zeros, sizeof(bytes)) == 0));
		stripe_file_put(file);
		stop();
	}
}

/* Another writer's epoch is on the stores by then: no reason for an error, but for another try. */
static void a_commit_meets_a_fence_of_a_newer_writer(void)
{
	const uint64_t id = 3; /* at 2+1 shard s is on node s */
	struct stripe_file *file = NULL, *others = NULL;
	uint8_t *bytes = model, *read = malloc(3 * 8192);

	cluster.spare_nodes = 1;
	cluster.claims = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	random_seed(5);
	fill(bytes, 3 * 8192);
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, 3 * 8192, true), 0);
	move_shard(id, 0, 0);
	node_stop(2);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	fill(bytes, 8192);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, 8192, false), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	struct stripe *other = engine_create();
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(other, EXPORT, id, &others), 0);
	fill(bytes + 8192, 8192);
	CU_ASSERT_EQUAL(stripe_write(others, 8192, bytes + 8192, 8192, true), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, 8192, false), 0);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_read(others, 0, read, 3 * 8192), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, read, 3 * 8192), 0);
	stripe_file_put(others);
	stripe_destroy(other);
	stripe_file_put(file);
	free(read);
	stop();
	cluster.claims = false;
}

/* The stores that know of the move are too few without the former one, and are so for each run. */
static void a_commit_sets_up_one_fence(void)
{
	const uint64_t id = 3; /* at 2+1 shard s is on node s */
	const unsigned int run_count = 20;
	struct stripe_file *file = NULL;
	struct stripe_counters before, after;

	cluster.spare_nodes = 1;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	random_seed(5);
	fill(model, SIZE);
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, id, &file), 0);
	move_shard(id, 0, 0);
	node_stop(2);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	for (unsigned int i = 0; i < run_count; i++)
		change(file, 2 * i * 8192, 8192, false);
	stripe_counters(cluster.stripe, &before);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	stripe_counters(cluster.stripe, &after);
	CU_ASSERT(after.calls[STORE_TRUNCATE] - before.calls[STORE_TRUNCATE] <= 4);
	stripe_file_put(file);
	stop();
}

/* Both former nodes are still up. No engine is left. */
static void write_and_move_two_shards(unsigned int spares[2])
{
	struct stripe_file *file = open_in(cluster.stripe);

	change(file, 0, SIZE, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe); /* the stores know that it is decided */
	for (unsigned int i = 0; i < 2; i++)
		spares[i] = move_shard(FILE_ID, i, i);
}

/* Its row is damaged: that of the former store is as good as ever. */
static void a_damaged_shard_on_the_new_node_does_not_hide_the_former_one(void)
{
	struct stripe_heal_result sum;

	start();
	struct stripe_file *file;
	unsigned int spares[2];
	write_and_move_two_shards(spares);
	struct stripe *worker = engine_create_at(spares[0]);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	stripe_destroy(worker);
	flip(spares[0], 7);
	node_stop(2);
	node_stop(3);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* Enough of them agree on what was there before; but they were not asked to take what came then. */
static void former_nodes_do_not_vouch_for_what_came_after_them(void)
{
	for (unsigned int back = 0; back <= 1; back++) {
		start();
		struct stripe_file *file;
		unsigned int spares[2];
		write_and_move_two_shards(spares);
		node_stop(4);
		node_stop(5);
		engine_start();
		file = open_in(cluster.stripe);
		change(file, 3 * BLOCK, BLOCK, true);
		stripe_file_put(file);
		for (unsigned int i = 0; i < 2; i++) {
			node_stop(2 + i);
			node_stop(spares[i]);
			node_start(4 + i);
		}
		if (back)
			node_start(spares[0]);
		struct stripe *other = engine_create();
		file = open_in(other);
		CU_ASSERT(!reads_right(file));
		CU_ASSERT_EQUAL(read_error, -EIO);
		stripe_file_put(file);
		stripe_destroy(other);
		stop();
	}
}

/* What a dead writer left hides nothing of what only the former nodes can tell. */
static void an_undecided_leftover_does_not_make_zeros(void)
{
	uint8_t bytes[BLOCK];
	store_write_block block = {.length_bytes = 0};
	store_write_args leftover = {
		.file = {.export_id = EXPORT, .file_id = FILE_ID},
		.geometry = {MOJETTE_NON_SYSTEMATIC, 4, 2, 4096},
		.write_epoch = 3,
		.block_version = {UINT64_C(3) << 40 | 1, 77},
		.first_block = 10,
		.blocks = {1, &block},
	};
	store_write_res res = {0};

	start();
	node_stop(0);
	node_stop(1);
	/* The first write of the block, acknowledged, is on 2 to 5. */
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 10 * BLOCK, BLOCK, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	node_start(0);
	node_start(1);
	for (unsigned int s = 4; s < 6; s++) {
		node_stop(s);
		move_shard(FILE_ID, s, s - 4);
	}
	node_stop(2);
	node_stop(3);
	store_write(cluster.nodes[0].store, &leftover, &res);
	CU_ASSERT_EQUAL(res.status, 0);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_read(file, 10 * BLOCK, bytes, BLOCK), -EIO);
	stripe_file_put(file);
	stop();
}

/*
 * Both former nodes are back, two others are dead. A dead writer has left something on one store
 * that is known not to be decided: three lack it. Where nothing has moved the older version is
 * read.
 */
static void a_leftover_does_not_hide_what_former_nodes_know(void)
{
	store_write_block block = {.length_bytes = 0};
	store_write_args leftover = {
		.file = {.export_id = EXPORT, .file_id = FILE_ID},
		.geometry = {MOJETTE_NON_SYSTEMATIC, 4, 2, 4096},
		.shard = 4,
		.first_block = 10,
		.blocks = {1, &block},
	};

	for (unsigned int moved = 0; moved <= 1; moved++) {
		store_write_res res = {0};
		unsigned int spares[2];

		start();
		if (moved) {
			write_and_move_two_shards(spares);
		} else {
			struct stripe_file *file = open_in(cluster.stripe);
			change(file, 0, SIZE, true);
			stripe_file_put(file);
			stripe_destroy(cluster.stripe);
		}
		store_read_block before = {0};
		block_header(FILE_ID, 4, 10, &before);
		leftover.write_epoch = (uint32_t)(before.block_version.generation >> 40);
		leftover.block_version =
			(store_version){before.block_version.generation + 1000, 77};
		store_write(cluster.nodes[4].store, &leftover, &res);
		CU_ASSERT_EQUAL(res.status, 0);
		node_stop(2);
		node_stop(3);
		engine_start();
		struct stripe_file *file = open_in(cluster.stripe);
		CU_ASSERT(reads_right(file));
		stripe_file_put(file);
		stop();
	}
}

/*
 * The same of what was acknowledged by a writer that died before the stores knew it decided (or
 * they have forgotten that with their power).
 */
static void what_was_acknowledged_is_read_from_former_nodes(void)
{
	for (unsigned int moved = 0; moved <= 1; moved++) {
		for (unsigned int dead = 1; dead <= 2; dead++) {
			start();
			struct stripe *silent = silent_engine();
			struct stripe_file *file = open_in(silent);
			change(file, 0, SIZE, true);
			for (unsigned int i = 0; i < 2 && moved; i++)
				move_shard(FILE_ID, i, i);
			node_stop(2);
			if (dead == 2)
				node_stop(3);
			struct stripe *other = engine_create();
			struct stripe_file *seen = open_in(other);
			CU_ASSERT(reads_right(seen));
			change(seen, 5 * BLOCK, BLOCK, true);
			stripe_file_put(seen);
			stripe_destroy(other);
			stripe_file_put(file);
			stripe_destroy(silent);
			stop();
		}
	}
}

/*
 * What only former nodes can tell is not told while exportd cannot be asked whether their shards
 * are still being made. Clients hear that soon, and not as an error of the nodes, and ask again.
 */
static void former_nodes_tell_nothing_without_exportd(void)
{
	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	for (unsigned int i = 0; i < 2; i++)
		move_shard(FILE_ID, i, i);
	node_stop(2);
	node_stop(3);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT(reads_right(file));
	rpc_server_stop(cluster.meta);
	cluster.meta = NULL;
	time_t begun = time(NULL);
	CU_ASSERT_FALSE(reads_right(file));
	CU_ASSERT_NOT_EQUAL(read_error, 0);
	CU_ASSERT_NOT_EQUAL(read_error, -EIO);
	CU_ASSERT(time(NULL) - begun < 10);
	/* With enough of the others it need not be asked. */
	node_start(2);
	node_start(3);
	wait_for_nodes(file, 0x3c);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* What a node forgets with its power: that a block's version, on side b, is decided. */
static void forget_mark(unsigned int node, unsigned int block)
{
	const uint32_t written = 0x0f69c35a, committed = 0xf0963ca5;
	uint32_t record_bytes, state;
	char path[512];

	node_stop(node);
	for (int side = 'a'; side <= 'b'; side++) {
		snprintf(path, sizeof(path), "%s/shards/%x/2d/%016x.0.%c",
			cluster.nodes[node].directory, EXPORT, FILE_ID, side);
		int descriptor = open(path, O_RDWR);
		CU_ASSERT_FATAL(descriptor >= 0);
		CU_ASSERT_EQUAL(pread(descriptor, &record_bytes, 4, 36), 4);
		off_t at = 128 + (off_t)block * record_bytes + 40;
		CU_ASSERT_EQUAL(pread(descriptor, &state, 4, at), 4);
		if (side == 'b')
			CU_ASSERT_EQUAL(state, committed);
		if (side == 'b')
			CU_ASSERT_EQUAL(pwrite(descriptor, &written, 4, at), 4);
		close(descriptor);
	}
	node_start(node);
}

/*
 * A former node that was told to remove its copy, since the shard has been made, knows nothing any
 * more: for who has not heard that it was made it is no witness that a version is not decided.
 */
static void who_removed_its_copy_is_no_witness(void)
{
	const store_remove_args removal = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};
	struct stripe_heal_result sum;
	store_status_res removed = {0};
	uint8_t bytes[BLOCK];

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	node_stop(0);
	node_stop(1);
	change(file, 10 * BLOCK, BLOCK, true); /* 2 to 5 have it, and who does not on record */
	stripe_file_put(file);
	stripe_destroy(cluster.stripe); /* the stores know that it is decided */
	unsigned int spare = move_shard(FILE_ID, 5, 0);
	struct stripe *late = engine_create();
	struct stripe_file *seen = open_in(late);
	struct stripe *worker = engine_create_at(spare);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	stripe_destroy(worker);
	end_rebuilding(FILE_ID, 5);
	store_remove(cluster.nodes[5].store, &removal, &removed);
	CU_ASSERT_EQUAL(removed.status, 0);
	node_stop(spare);
	for (unsigned int node = 2; node < 5; node++)
		forget_mark(node, 10);
	node_start(0);
	node_start(1);
	wait_for_nodes(seen, 0x1f);
	CU_ASSERT_EQUAL(stripe_read(seen, 10 * BLOCK, bytes, BLOCK), -EIO);
	/* When the new node is back, four have it. */
	node_start(spare);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stripe_file_put(seen);
	stripe_destroy(late);
	stop();
}

/*
 * An engine that has not heard of two moves that are over writes to the former nodes: these have
 * removed what they had, with the epochs they knew, and take anything. It must not be acknowledged
 * before the new nodes have it.
 */
static void who_has_not_heard_of_moves_acknowledges_nothing(void)
{
	static const unsigned int shards[] = {0, 2};
	const store_remove_args removal = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};
	uint8_t bytes[BLOCK];

	cluster.spare_nodes = 2;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	random_seed(6);
	struct stripe *reader = engine_create();
	struct stripe_file *file = open_in(cluster.stripe), *seen = open_in(reader);
	change(file, 0, BLOCK, true);
	for (unsigned int i = 0; i < 2; i++) {
		struct stripe_heal_result sum;
		store_status_res removed = {0};
		struct stripe *worker = engine_create_at(move_shard(FILE_ID, shards[i], i));

		CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
		stripe_destroy(worker);
		end_rebuilding(FILE_ID, shards[i]);
		store_remove(cluster.nodes[shards[i]].store, &removal, &removed);
		CU_ASSERT_EQUAL(removed.status, 0);
	}
	node_stop(1); /* it would say that there is a newer epoch */
	/*
	 * Nor are there zeros because those who are asked have nothing any more: neither if they
	 * have heard of a write epoch since, from another one like this.
	 */
	change(file, 5 * BLOCK, BLOCK, false);
	CU_ASSERT_EQUAL(stripe_read(seen, 0, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model, BLOCK) == 0);
	stripe_file_put(seen);
	stripe_destroy(reader);
	/* Nor are they written around what is changed. */
	change(file, 100, 50, false);
	CU_ASSERT_EQUAL(stripe_read(file, 0, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model, BLOCK) == 0);
	change(file, 0, BLOCK, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	node_start(1);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_read(file, 0, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model, BLOCK) == 0);
	stripe_file_put(file);
	stop();
}

/*
 * The former nodes remove what they had, and the nodes that were away come back. Those are off that
 * would say that there is a newer epoch.
 */
static void two_shards_move_while_two_nodes_are_away(void)
{
	const store_remove_args removal = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};

	node_stop(4);
	node_stop(5);
	for (unsigned int i = 0; i < 2; i++) {
		struct stripe_heal_result sum;
		store_status_res removed = {0};
		struct stripe *worker = engine_create_at(move_shard(FILE_ID, i, i));

		CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
		stripe_destroy(worker);
		end_rebuilding(FILE_ID, i);
		store_remove(cluster.nodes[i].store, &removal, &removed);
		CU_ASSERT_EQUAL(removed.status, 0);
	}
	node_start(4);
	node_start(5);
	node_stop(2);
	node_stop(3);
}

/*
 * Two shards have moved, and two nodes were away meanwhile. An engine that has not heard of the
 * moves meets the former nodes, which have removed what they had, and those that were away: from
 * the former ones it must not conclude that something was not decided, neither if another engine
 * like this has told them of a write epoch again.
 */
static void who_has_not_heard_of_moves_has_nothing_dropped(void)
{
	uint8_t bytes[BLOCK];

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	change(file, 10 * BLOCK, BLOCK, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe); /* the stores know what is decided */
	for (unsigned int node = 4; node < 6; node++)
		forget_mark(node, 10);
	struct stripe *late = engine_create(), *writer = engine_create();
	struct stripe_file *seen = open_in(late), *written = open_in(writer);
	change(written, 20 * BLOCK, BLOCK, true);
	two_shards_move_while_two_nodes_are_away();
	wait_for_nodes(written, 0x33);
	wait_for_nodes(seen, 0x33);
	CU_ASSERT_EQUAL(stripe_write(written, 20 * BLOCK, model + 20 * BLOCK, BLOCK, false), 0);
	CU_ASSERT_EQUAL(stripe_read(seen, 10 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model + 10 * BLOCK, BLOCK) == 0);
	stripe_file_put(seen);
	stripe_destroy(late);
	stripe_file_put(written);
	stripe_destroy(writer);
	node_start(2);
	node_start(3);
	node_stop(6);
	node_stop(7);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_read(file, 10 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model + 10 * BLOCK, BLOCK) == 0);
	stripe_file_put(file);
	stop();
}

/*
 * What an engine that has not heard of two moves writes to the former nodes, and to those that were
 * away, comes to nothing when it asks exportd; and does not take away what was acknowledged.
 */
static void what_was_written_to_former_nodes_hides_nothing(void)
{
	uint8_t bytes[BLOCK];

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	stripe_file_put(file);
	struct stripe *writer = engine_create();
	struct stripe_file *written = open_in(writer);
	change(written, 10 * BLOCK + 5, 300, true); /* it has the block in memory */
	two_shards_move_while_two_nodes_are_away();
	wait_for_nodes(written, 0x33);
	atomic_store(&cluster.check_delay_ms, 500);
	change(written, 10 * BLOCK + 400, 300, true);
	atomic_store(&cluster.check_delay_ms, 0);
	stripe_file_put(written);
	stripe_destroy(writer);
	node_start(2);
	node_start(3);
	stripe_destroy(cluster.stripe);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_heal(file, 0, 10, 1, NULL, NULL), 0);
	node_stop(6);
	node_stop(7);
	CU_ASSERT_EQUAL(stripe_read(file, 10 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model + 10 * BLOCK, BLOCK) == 0);
	stripe_file_put(file);
	stop();
}

/*
 * A node has removed its copy of a shard that moved, and then one who has not heard of that writes
 * to it. What it has then must not keep it from being given another shard of the segment.
 */
static void a_leftover_of_another_shard_does_not_keep_a_shard_from_being_made(void)
{
	const store_remove_args removal = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};
	const store_stat_args stat = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};
	struct stripe_heal_result sum;
	store_status_res removed = {0};
	store_stat_res left = {0};

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	struct stripe *worker = engine_create_at(move_shard(FILE_ID, 2, 0));
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	stripe_destroy(worker);
	end_rebuilding(FILE_ID, 2);
	store_remove(cluster.nodes[2].store, &removal, &removed);
	CU_ASSERT_EQUAL(removed.status, 0);
	change(file, 7 * BLOCK, BLOCK, true);
	store_stat(cluster.nodes[2].store, &stat, &left);
	CU_ASSERT_EQUAL(left.status, 0);
	node_stop(5);
	move_shard_to(FILE_ID, 5, 2);
	worker = engine_create_at(2);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	end_rebuilding(FILE_ID, 5);
	change(file, 9 * BLOCK, BLOCK, true);
	stripe_destroy(worker);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	node_stop(0);
	engine_start();
	file = open_in(cluster.stripe);
	node_stop(1);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* What is not found there may be on the device that is out of service, for all the node knows. */
static void a_shard_is_made_on_a_node_with_a_device_out_of_service(void)
{
	struct stripe_heal_result sum;
	char label[300], away[300];

	cluster.two_devices = true;
	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, 10 * BLOCK, true);
	memset(model + 10 * BLOCK, 0, BLOCK); /* a hole */
	change(file, 11 * BLOCK, SIZE - 11 * BLOCK, true);
	node_stop(6);
	snprintf(label, sizeof(label), "%s/rozo-label", cluster.nodes[6].second_directory);
	snprintf(away, sizeof(away), "%s/away", cluster.nodes[6].second_directory);
	CU_ASSERT_EQUAL_FATAL(rename(label, away), 0);
	node_start(6);
	node_stop(2);
	struct stripe *worker = engine_create_at(move_shard(FILE_ID, 2, 0));
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	end_rebuilding(FILE_ID, 2);
	stripe_destroy(worker);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	node_stop(0);
	node_stop(1);
	engine_start();
	file = open_in(cluster.stripe);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
	cluster.two_devices = false;
}

static void who_knows_only_the_old_nodes_decides_nothing_without_asking(void)
{
	struct stripe_heal_result sum;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	struct stripe *old = engine_create();
	struct stripe_file *old_file = open_in(old);
	struct stripe *settler = engine_create();
	struct stripe_file *settler_file = open_in(settler);
	change(file, 0, SIZE, true);
	CU_ASSERT(reads_right(old_file));
	/* Node 2 is out, though it is there: only exportd does not see it. */
	unsigned int spare = move_shard(FILE_ID, 2, 0);
	struct stripe *worker = engine_create_at(spare);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	end_rebuilding(FILE_ID, 2);
	/*
	 * Written with two nodes away: on 0, 1, 5 and the new node. For one who asks node 2 instead
	 * of that, three lack it, and it would seem undecided.
	 */
	struct stripe *writer = silent_engine();
	struct stripe_file *writer_file = open_in(writer);
	node_stop(3);
	node_stop(4);
	change(writer_file, 0, 4 * BLOCK, true);
	change(writer_file, 4 * BLOCK, 4 * BLOCK, true);
	node_start(3);
	node_start(4);
	wait_for_nodes(old_file, 0x3f);
	CU_ASSERT(reads_right(old_file));
	/* Nor does it settle, when it heals, what it would take for undecided. */
	wait_for_nodes(settler_file, 0x3f);
	CU_ASSERT_EQUAL(stripe_heal(settler_file, 0, 4, 4, NULL, NULL), 0);
	CU_ASSERT(reads_right(settler_file));
	stripe_file_put(settler_file);
	stripe_destroy(settler);
	stripe_file_put(writer_file);
	stripe_destroy(writer);
	/* A write on top, from what it knew before: as good as anybody's. */
	change(old_file, BLOCK + 5, 300, true);
	CU_ASSERT(reads_right(old_file));
	CU_ASSERT(reads_right(file));
	stripe_destroy(worker);
	stripe_file_put(old_file);
	stripe_destroy(old);
	stripe_file_put(file);
	stop();
}

static void writers_of_before_are_fenced_when_rebuilding_begins(void)
{
	struct stripe_heal_result sum;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	struct stripe *old = engine_create();
	struct stripe_file *old_file = open_in(old);
	change(file, 0, SIZE, true);
	unsigned int spare = move_shard(FILE_ID, 2, 0);
	struct stripe *worker = engine_create_at(spare);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	end_rebuilding(FILE_ID, 2);
	/* Whole blocks need no read, in which the old engine would notice. */
	uint64_t asked = cluster.placements_asked;
	change(old_file, 8 * BLOCK, 2 * BLOCK, true);
	CU_ASSERT(cluster.placements_asked > asked);
	/* So the new node has them, too: node 2 and two more may go. */
	node_stop(2);
	node_stop(0);
	node_stop(1);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	CU_ASSERT(reads_right(seen));
	stripe_file_put(seen);
	stripe_destroy(other);
	stripe_destroy(worker);
	stripe_file_put(old_file);
	stripe_destroy(old);
	stripe_file_put(file);
	stop();
}

static void a_truncation_by_who_knows_only_the_old_nodes_reaches_the_new_one(void)
{
	struct stripe_heal_result sum;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	unsigned int spare = move_shard(FILE_ID, 2, 0);
	struct stripe *worker = engine_create_at(spare);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	end_rebuilding(FILE_ID, 2);
	/* Its write epoch tells that there was another change before, not which. */
	begin_truncation(FILE_ID, 5 * BLOCK);
	CU_ASSERT_EQUAL(stripe_truncate(file, 5 * BLOCK), 0);
	memset(model + 5 * BLOCK, 0, SIZE - 5 * BLOCK);
	change(file, 2 * BLOCK, 2 * BLOCK, true);
	node_stop(2);
	node_stop(0);
	node_stop(1);
	struct stripe_file *seen = open_in(worker);
	CU_ASSERT(reads_right(seen));
	stripe_file_put(seen);
	stripe_destroy(worker);
	stripe_file_put(file);
	stop();
}

/*
 * Leaves block 10 acknowledged on 0, 1, 2 and 5, which have 3 and 4 on record, by a writer that
 * died before it was known to be decided. Then node 2, without which nobody can tell, is gone, and
 * its shard moved to *spare; the file is opened by *worker, which runs there.
 */
static struct stripe_file *left_by_a_dead_writer(unsigned int *spare, struct stripe **worker)
{
	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	stripe_file_put(file);
	stripe_destroy(cluster.stripe);
	cluster.stripe = silent_engine();
	file = open_in(cluster.stripe);
	node_stop(3);
	node_stop(4);
	change(file, 10 * BLOCK, BLOCK, true);
	stripe_file_put(file);
	node_stop(2);
	node_start(3);
	node_start(4);
	*spare = move_shard(FILE_ID, 2, 0);
	*worker = engine_create_at(*spare);
	file = open_in(*worker);
	wait_for_nodes(file, 0x3b);
	return file;
}

static void what_only_the_old_node_can_tell_is_not_made_up(void)
{
	struct stripe_heal_result sum;
	struct stripe *worker;
	unsigned int spare;
	struct stripe_file *file = left_by_a_dead_writer(&spare, &worker);

	/* Three of five have it: neither the new nor the old value may be told, and it is not lost.
	 */
	CU_ASSERT(rebuild(worker, &sum) >= 1);
	CU_ASSERT(!reads_right(file));
	CU_ASSERT_EQUAL(read_error, -EIO);
	/* When the old node is there again it is asked. */
	node_start(2);
	for (unsigned int i = 0; i < 100 && rebuild(worker, &sum) != 0; i++)
		usleep(100000);
	CU_ASSERT_EQUAL(rebuild(worker, &sum), 0);
	CU_ASSERT_EQUAL(sum.healed, 0);
	end_rebuilding(FILE_ID, 2);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stripe_destroy(worker);
	stop();
}

static void what_the_old_node_tells_comes_with_its_record(void)
{
	const store_file key = {.export_id = EXPORT, .file_id = FILE_ID};
	struct stripe_heal_result sum;
	struct store_missed_block blocks[8];
	uint64_t next;
	size_t count;
	struct stripe *worker;
	unsigned int spare;
	struct stripe_file *file = left_by_a_dead_writer(&spare, &worker);

	CU_ASSERT_EQUAL(rebuild(worker, &sum), 1);
	node_stop(4);
	node_start(2);
	for (unsigned int i = 0; i < 100 && (i == 0 || sum.lacking & (1u << 2)); i++) {
		usleep(100000);
		stripe_heal_range(file, 0, 10, 1, false, &sum);
	}
	CU_ASSERT_EQUAL(sum.lacking, 1u << 4);
	end_rebuilding(FILE_ID, 2);
	/* It is one of the holders now: without the record it might be asked to drop what it has.
	 */
	CU_ASSERT_EQUAL(
		store_missed_blocks(cluster.nodes[spare].store, &key, 0, blocks, 8, &count, &next),
		0);
	CU_ASSERT_EQUAL_FATAL(count, 1);
	CU_ASSERT_EQUAL(blocks[0].block, 10);
	CU_ASSERT_EQUAL(blocks[0].missed, 1u << 4);
	/* When that is back, all is made, and nothing is left on record. */
	node_start(4);
	file = open_in(worker);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT_EQUAL(
		stripe_heal_range(file, 0, 0, 37, false, &(struct stripe_heal_result){0}), 0);
	CU_ASSERT_EQUAL(
		store_missed_blocks(cluster.nodes[spare].store, &key, 0, blocks, 8, &count, &next),
		0);
	CU_ASSERT_EQUAL(count, 0);
	node_stop(0);
	node_stop(1);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stripe_destroy(worker);
	stop();
}

static void a_segment_first_met_after_the_move_is_written_under_the_new_epoch(void)
{
	start();
	cluster.segment_blocks = 8;
	stripe_destroy(cluster.stripe);
	cluster.stripe = silent_engine();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, 2 * BLOCK, true);
	/* The writer hears of the new node when it asks for segment 1, and of nothing else. */
	unsigned int spare = move_shard(FILE_ID, 2, 0);
	memset(model + 2 * BLOCK, 0, SIZE - 2 * BLOCK);
	node_stop(0);
	node_stop(1);
	change(file, 9 * BLOCK, BLOCK, true);
	stripe_file_put(file);
	/*
	 * Of those asked to take it, three have it, and one of the others is needed. The node that
	 * had the shard before cannot stand in for that: it was never asked.
	 */
	node_stop(spare);
	node_start(0);
	node_start(1);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	wait_for_nodes(seen, 0x3b);
	uint8_t bytes[BLOCK];
	CU_ASSERT_EQUAL(stripe_read(seen, 9 * BLOCK, bytes, BLOCK), -EIO);
	node_start(spare);
	wait_for_nodes(seen, 0x3f);
	CU_ASSERT_EQUAL(stripe_read(seen, 9 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT(memcmp(bytes, model + 9 * BLOCK, BLOCK) == 0);
	stripe_file_put(seen);
	stripe_destroy(other);
	stop();
}

static void a_store_that_is_made_is_no_witness_against_lost_updates(void)
{
	cluster.spare_nodes = 1;
	cluster.gather = true;
	cluster_start(MOJETTE_NON_SYSTEMATIC, 2, 1, 4096);
	random_seed(6);
	memset(model, 0, SIZE);
	/* The block is in the cache of one writer, as it was before another wrote it. */
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, BLOCK, true);
	change(file, 0, 100, true);
	node_stop(1);
	struct stripe *other = engine_create();
	struct stripe_file *seen = open_in(other);
	change(seen, 0, BLOCK, true);
	stripe_file_put(seen);
	stripe_destroy(other);
	node_start(1);
	wait_for_nodes(file, 0x7);
	/* Of the two that have that, one goes, and its shard moves. */
	move_shard(FILE_ID, 0, 0);
	node_stop(0);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	uint8_t bytes[300];
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 100, bytes, sizeof(bytes), true), -EIO);
	/* When it is back the write can be told from one over what is not the newest. */
	node_start(0);
	int error = -EIO;
	for (unsigned int i = 0; i < 50 && error == -EIO; i++)
		error = stripe_write(file, 100, bytes, sizeof(bytes), true);
	CU_ASSERT_EQUAL(error, 0);
	memcpy(model + 100, bytes, sizeof(bytes));
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	cluster.gather = false;
	stop();
}

static void a_healed_shard_knows_who_else_missed_the_write(void)
{
	struct store_missed_block blocks[64];
	uint64_t next;
	size_t count;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	node_stop(0);
	node_stop(3);
	change(file, 0, 10 * BLOCK, true);
	node_start(0);
	wait_for_nodes(file, 0x37);
	CU_ASSERT_EQUAL(stripe_heal(file, 0, 0, 40, NULL, NULL), 0);
	/* It has the lowest shard, so it is the one that is to heal node 3 when that is back. */
	const store_file key = {.export_id = EXPORT, .file_id = FILE_ID};
	CU_ASSERT_EQUAL(
		store_missed_blocks(cluster.nodes[0].store, &key, 0, blocks, 64, &count, &next), 0);
	CU_ASSERT_EQUAL(count, 10);
	for (size_t i = 0; i < count; i++)
		CU_ASSERT_EQUAL(blocks[i].missed, 1u << 3);
	node_start(3);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT_EQUAL(stripe_heal(file, 0, 0, 40, NULL, NULL), 0);
	CU_ASSERT_EQUAL(
		store_missed_blocks(cluster.nodes[0].store, &key, 0, blocks, 64, &count, &next), 0);
	CU_ASSERT_EQUAL(count, 0);
	stripe_file_put(file);
	stop();
}

static void who_settled_a_file_writes_it_without_a_conflict(void)
{
	struct stripe_counters before, after;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, BLOCK, true);
	struct stripe *writer = silent_engine();
	struct stripe_file *writer_file = open_in(writer);
	change(writer_file, 0, BLOCK, true);
	stripe_file_put(writer_file);
	/* What the other one left is settled: stores refuse what is not a little newer than that.
	 */
	CU_ASSERT_EQUAL(stripe_heal(file, 0, 0, 1, NULL, NULL), 0);
	stripe_counters(cluster.stripe, &before);
	change(file, 3 * BLOCK, BLOCK, true);
	stripe_counters(cluster.stripe, &after);
	CU_ASSERT_EQUAL(after.conflicts, before.conflicts);
	stripe_destroy(writer);
	stripe_file_put(file);
	stop();
}

/* What another engine does that finds it undecided for good. */
static void discard(unsigned int node, uint64_t block)
{
	store_read_args args = {
		.file = {.export_id = EXPORT, .file_id = FILE_ID},
		.geometry = {.form = MOJETTE_NON_SYSTEMATIC, .k = 4, .m = 2, .row_bytes = 4096},
		.shard = node,
		.first_block = block,
		.count = 1,
		.headers_only = 1,
	};
	store_read_res res = {0};
	store_status_res discarded;

	store_read(cluster.nodes[node].store, &args, &res);
	CU_ASSERT_EQUAL_FATAL(res.status, 0);
	store_decided run = {.first_block = block,
		.count = 1,
		.block_version = res.blocks.blocks_val[0].block_version};
	store_commit_args commit = {
		.file = args.file, .discard = 1, .runs = {.runs_len = 1, .runs_val = &run}};
	store_commit(cluster.nodes[node].store, &commit, &discarded);
	CU_ASSERT_EQUAL(discarded.status, 0);
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
}

static void a_read_that_misses_unstable_bytes_changes_the_verifier(void)
{
	uint8_t bytes[BLOCK];

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	fill(bytes, BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 3 * BLOCK, bytes, BLOCK, false), 0);
	CU_ASSERT_EQUAL(stripe_write(file, 8 * BLOCK, bytes, BLOCK, false), 0);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_read(file, 3 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	for (unsigned int node = 0; node < 6; node++)
		discard(node, 3);
	/* Clients send again what they see is not there any more. */
	CU_ASSERT_EQUAL(stripe_read(file, 3 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT_EQUAL(bytes[0] | bytes[BLOCK - 1], 0);
	CU_ASSERT_NOT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	verifier = stripe_write_verifier(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_read(file, 3 * BLOCK, bytes, BLOCK), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	stripe_file_put(file);
	stop();
}

/* Until a node knows that what it has of a block is decided. */
static void what_lags_without_a_record_is_found_by_comparing(void)
{
	struct stripe_heal_result result;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	/* Otherwise a record is made when the versions are settled. */
	for (unsigned int node = 0; node < 6; node++)
		for (uint64_t block = 0; block < (SIZE + BLOCK - 1) / BLOCK; block++)
			wait_decided(FILE_ID, node, block);
	/* A store file that is lost behind the store's back. */
	store_remove_args remove = {.file = {.export_id = EXPORT, .file_id = FILE_ID}};
	store_status_res removed;
	store_remove(cluster.nodes[4].store, &remove, &removed);
	CU_ASSERT_EQUAL(removed.status, 0);
	uint64_t block_count = 0;
	CU_ASSERT_EQUAL(stripe_block_count(file, 0, &block_count), 0);
	CU_ASSERT_EQUAL(block_count, (SIZE + BLOCK - 1) / BLOCK);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, (uint32_t)block_count, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, block_count);
	CU_ASSERT_EQUAL(result.unrecorded, block_count);
	CU_ASSERT_EQUAL(result.lacking, 0);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, (uint32_t)block_count, false, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 0);
	node_stop(0);
	node_stop(1);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* -------- read repair -------- */

static char side_path[512];

static int find_side(const char *path, const struct stat *stat, int type, struct FTW *walk)
{
	size_t length = strlen(path);

	(void)stat;
	(void)walk;
	if (type == FTW_F && length > 2 && !strcmp(path + length - 2, ".a") &&
		strstr(path, "/shards/"))
		snprintf(side_path, sizeof(side_path), "%s", path);
	return 0;
}

/* Flips a bit in the row of a block, on the disk of a node. */
static void flip(unsigned int node, unsigned int block)
{
	off_t offset = 4096 + (off_t)block * 4096 + 99;
	uint8_t byte;

	CU_ASSERT_FATAL(block < 31); /* of group 0 */
	side_path[0] = '\0';
	nftw(cluster.nodes[node].directory, find_side, 16, FTW_PHYS);
	int fd = open(side_path, O_RDWR);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(pread(fd, &byte, 1, offset), 1);
	byte ^= 8;
	CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, offset), 1);
	close(fd);
}

static size_t bad_blocks(unsigned int node)
{
	const store_file key = {.export_id = EXPORT, .file_id = FILE_ID};
	struct store_check check;

	CU_ASSERT_EQUAL(store_check_blocks(cluster.nodes[node].store, &key, 7, 1, &check), 0);
	return check.bad_count;
}

static void a_read_that_meets_damage_has_it_repaired(void)
{
	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	/* Two at once: which four stores a read asks is its own affair, but two of six it must
	 * meet. */
	flip(0, 7);
	flip(1, 7);
	flip(2, 7);
	CU_ASSERT(!reads_right(file)); /* three are gone: EIO, never anything else */
	CU_ASSERT_EQUAL(read_error, -EIO);
	flip(2, 7); /* back as it was */
	CU_ASSERT(reads_right(file));
	/* As the healer does, from what reads have noted. */
	struct stripe_noticed noticed[8];
	size_t count = stripe_noticed(cluster.stripe, noticed, 8);
	CU_ASSERT_EQUAL_FATAL(count, 1);
	CU_ASSERT_EQUAL(noticed[0].block, 7);
	struct stripe_heal_result result;
	CU_ASSERT_EQUAL(
		stripe_heal_range(file, noticed[0].segment, noticed[0].block, 1, true, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 2);
	CU_ASSERT_EQUAL(stripe_noticed(cluster.stripe, noticed, 8), 0);
	for (unsigned int node = 0; node < 6; node++)
		CU_ASSERT_EQUAL(bad_blocks(node), 0);
	node_stop(4);
	node_stop(5);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* Each is waited for by itself when it is read, but writers wait for the whole range here. */
static void blocks_that_cannot_be_healed_are_given_up_together(void)
{
	struct stripe_heal_result result;
	struct timespec begun, ended;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	node_stop(0);
	change(file, 0, SIZE, true);
	node_start(0);
	wait_for_nodes(file, 0x3f);
	for (unsigned int block = 0; block < 30; block++) {
		flip(1, block);
		flip(2, block);
	}
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 31, false, &result), -EIO);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	CU_ASSERT(ended.tv_sec - begun.tv_sec < 8); /* 23 s, one by one */
	CU_ASSERT_EQUAL(result.failed, 30);
	CU_ASSERT_EQUAL(result.healed, 1);
	for (unsigned int block = 0; block < 30; block++)
		flip(2, block); /* back as it was */
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 0, 31, true, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 60);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

/* How many blocks of group 1, the last ones of the file and some that were never written, are bad.
 */
static size_t bad_in_group_1(unsigned int node)
{
	const store_file key = {.export_id = EXPORT, .file_id = FILE_ID};
	struct store_check check;

	CU_ASSERT_EQUAL(store_check_blocks(cluster.nodes[node].store, &key, 31, 31, &check), 0);
	return check.bad_count;
}

static void a_lost_page_is_made_again_with_what_it_never_had(void)
{
	uint8_t noise[4096];
	struct stripe_heal_result result;

	start();
	struct stripe_file *file = open_in(cluster.stripe);
	change(file, 0, SIZE, true);
	for (unsigned int node = 0; node < 6; node++)
		wait_decided(FILE_ID, node, 36);
	fill(noise, sizeof(noise));
	node_stop(2);
	side_path[0] = '\0';
	nftw(cluster.nodes[2].directory, find_side, 16, FTW_PHYS);
	int fd = open(side_path, O_RDWR);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(pwrite(fd, noise, sizeof(noise), 32 * 4096), sizeof(noise));
	close(fd);
	node_start(2);
	wait_for_nodes(file, 0x3f);
	CU_ASSERT_EQUAL(bad_in_group_1(2), 31);
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 31, 31, true, &result), 0);
	CU_ASSERT_EQUAL(bad_in_group_1(2), 0);
	/* Nothing is left to be done, and such a block can be written like any other. */
	CU_ASSERT_EQUAL(stripe_heal_range(file, 0, 31, 31, true, &result), 0);
	CU_ASSERT_EQUAL(result.healed, 0);
	CU_ASSERT(reads_right(file));
	uint8_t bytes[BLOCK];
	fill(bytes, BLOCK);
	CU_ASSERT_EQUAL(stripe_write(file, 45 * BLOCK, bytes, BLOCK, true), 0);
	node_stop(0);
	node_stop(1);
	static uint8_t seen[3 * BLOCK];
	CU_ASSERT_EQUAL(stripe_read(file, 44 * BLOCK, seen, 3 * BLOCK), 0);
	CU_ASSERT(memcmp(seen + BLOCK, bytes, BLOCK) == 0);
	for (unsigned int i = 0; i < BLOCK; i++)
		CU_ASSERT(seen[i] == 0 && seen[2 * BLOCK + i] == 0);
	CU_ASSERT(reads_right(file));
	stripe_file_put(file);
	stop();
}

static void *read_first_block(void *argument)
{
	uint8_t bytes[BLOCK];

	CU_ASSERT_EQUAL(stripe_read(argument, 0, bytes, BLOCK), 0);
	CU_ASSERT_EQUAL(memcmp(bytes, model, BLOCK), 0);
	return NULL;
}

static void *commit_once(void *argument)
{
	CU_ASSERT_EQUAL(stripe_commit(argument), 0);
	return NULL;
}

/* Shard 5 has moved to `worker`, which has made it, and exportd has not been told. */
static struct stripe_file *collect_while_a_shard_is_made(struct stripe **worker)
{
	struct stripe_heal_result sum;

	cluster.gather = true;
	cluster.gather_delay_ms = 3600000;
	start();
	struct stripe_file *file = open_in(cluster.stripe);
	CU_ASSERT_EQUAL(stripe_write(file, 0, model, SIZE, true), 0);
	*worker = engine_create_at(move_shard(FILE_ID, 5, 0));
	CU_ASSERT_EQUAL(rebuild(*worker, &sum), 0);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	change(file, 100, 200, false);
	return file;
}

static void end_collecting(struct stripe_file *file, struct stripe *worker)
{
	CU_ASSERT(reads_right(file));
	stripe_destroy(worker);
	stripe_file_put(file);
	stop();
	cluster.gather = false;
	cluster.gather_delay_ms = 0;
}

/* That is no new epoch: bytes in memory are sent to the stores that have the shards now. */
static void a_commit_does_not_fail_when_a_shard_has_been_made(void)
{
	pthread_t reading, committing;

	struct stripe *worker;
	struct stripe_file *file = collect_while_a_shard_is_made(&worker);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	/* The commit waits for a read of the block. */
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		atomic_store(&cluster.nodes[i].read_delay_ms, 1000);
		atomic_store(&cluster.nodes[i].reads, 0);
	}
	pthread_create(&reading, NULL, read_first_block, file);
	while (!atomic_load(&cluster.nodes[0].reads))
		usleep(1000);
	pthread_create(&committing, NULL, commit_once, file);
	usleep(300000);
	end_rebuilding(FILE_ID, 5);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), 0);
	pthread_join(reading, NULL);
	for (unsigned int i = 0; i < cluster.node_count; i++)
		atomic_store(&cluster.nodes[i].read_delay_ms, 0);
	pthread_join(committing, NULL);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	end_collecting(file, worker);
}

/* As little as a write fails: the new node may be needed, and counts as soon as exportd says so. */
static void a_commit_counts_a_shard_that_has_been_made(void)
{
	struct stripe *worker;
	struct stripe_file *file = collect_while_a_shard_is_made(&worker);
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	end_rebuilding(FILE_ID, 5);
	node_stop(0);
	node_stop(1);
	CU_ASSERT_EQUAL(stripe_commit(file), 0);
	CU_ASSERT_EQUAL(stripe_write_verifier(cluster.stripe), verifier);
	end_collecting(file, worker);
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"a leftover does not hide what former nodes know",
			a_leftover_does_not_hide_what_former_nodes_know},
		{"what was acknowledged is read from former nodes",
			what_was_acknowledged_is_read_from_former_nodes},
		{"former nodes tell nothing without exportd",
			former_nodes_tell_nothing_without_exportd},
		{"who removed its copy is no witness", who_removed_its_copy_is_no_witness},
		{"who has not heard of moves acknowledges nothing",
			who_has_not_heard_of_moves_acknowledges_nothing},
		{"who has not heard of moves has nothing dropped",
			who_has_not_heard_of_moves_has_nothing_dropped},
		{"what was written to former nodes hides nothing",
			what_was_written_to_former_nodes_hides_nothing},
		{"a shard is made on a node with a device out of service",
			a_shard_is_made_on_a_node_with_a_device_out_of_service},
		{"a leftover of another shard does not keep a shard from being made",
			a_leftover_of_another_shard_does_not_keep_a_shard_from_being_made},
		{"what is written while a shard moves is on the new node",
			what_is_written_while_a_shard_moves_is_on_the_new_node},
		{"a block is made of a new and a former shard",
			a_block_is_made_of_a_new_and_a_former_shard},
		{"who left first is no witness of what came then",
			who_left_first_is_no_witness_of_what_came_then},
		{"all the shards that may be lost move at once",
			all_the_shards_that_may_be_lost_move_at_once},
		{"former nodes that are back count like others",
			former_nodes_that_are_back_count_like_others},
		{"former nodes do not bring back what was truncated",
			former_nodes_do_not_bring_back_what_was_truncated},
		{"a commit meets a fence of a newer writer",
			a_commit_meets_a_fence_of_a_newer_writer},
		{"a damaged shard on the new node does not hide the former one",
			a_damaged_shard_on_the_new_node_does_not_hide_the_former_one},
		{"former nodes do not vouch for what came after them",
			former_nodes_do_not_vouch_for_what_came_after_them},
		{"an undecided leftover does not make zeros",
			an_undecided_leftover_does_not_make_zeros},
		{"who knows only the old nodes decides nothing without asking",
			who_knows_only_the_old_nodes_decides_nothing_without_asking},
		{"a commit sets up one fence", a_commit_sets_up_one_fence},
		{"writers of before are fenced when rebuilding begins",
			writers_of_before_are_fenced_when_rebuilding_begins},
		{"a truncation by who knows only the old nodes reaches the new one",
			a_truncation_by_who_knows_only_the_old_nodes_reaches_the_new_one},
		{"what only the old node can tell is not made up",
			what_only_the_old_node_can_tell_is_not_made_up},
		{"what the old node tells comes with its record",
			what_the_old_node_tells_comes_with_its_record},
		{"a segment first met after the move is written under the new epoch",
			a_segment_first_met_after_the_move_is_written_under_the_new_epoch},
		{"a store that is made is no witness against lost updates",
			a_store_that_is_made_is_no_witness_against_lost_updates},
		{"a healed shard knows who else missed the write",
			a_healed_shard_knows_who_else_missed_the_write},
		{"who settled a file writes it without a conflict",
			who_settled_a_file_writes_it_without_a_conflict},
		{"a read that misses unstable bytes changes the verifier",
			a_read_that_misses_unstable_bytes_changes_the_verifier},
		{"what lags without a record is found by comparing",
			what_lags_without_a_record_is_found_by_comparing},
		{"a read that meets damage has it repaired",
			a_read_that_meets_damage_has_it_repaired},
		{"blocks that cannot be healed are given up together",
			blocks_that_cannot_be_healed_are_given_up_together},
		{"a lost page is made again with what it never had",
			a_lost_page_is_made_again_with_what_it_never_had},
		{"a commit does not fail when a shard has been made",
			a_commit_does_not_fail_when_a_shard_has_been_made},
		{"a commit counts a shard that has been made",
			a_commit_counts_a_shard_that_has_been_made},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"rebuild", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	rozo_log_set_level(ROZO_LOG_ERROR);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
