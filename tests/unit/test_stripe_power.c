/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What was acknowledged as stable survives power loss and kills: random histories of writes, reads,
 * commits, truncations and healing on a cluster in memory, in which machines lose power or are
 * killed, engines die between any two messages, messages are lost or late, and other engines read
 * and heal in between. A seed repeats a run.
 *
 * ROZO_SEEDS=n runs n seeds, ROZO_FIRST_SEED=n begins there; ROZO_LOG=1 shows the log
 * and all messages.
 */
#include <CUnit/Basic.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "stripe/internal.h"
#include "stripe_cluster.h"
#include "stripe_network.h"
#include "volatile_io.h"

#define FILE_ID 1
#define BLOCKS 12
#define SEGMENT_BLOCKS 5
#define CELLS_PER_BLOCK 4
#define CELLS (BLOCKS * CELLS_PER_BLOCK)
#define ALLOWED_MAX 64
#define FLAW_SEEDS 400 /* within which each flaw must show */

/* -------- the model -------- */

/*
 * A quarter of a block. Each write puts its number into all of its cells; 0 stands for zeros. Any
 * of `allowed`, oldest first, may be there: the value acknowledged as stable last, and all since.
 */
struct cell {
	uint64_t allowed[ALLOWED_MAX];
	unsigned int count;
	uint64_t current; /* acknowledged last; what a read must return, if known */
	bool known;
	bool dirty; /* current was written unstably and not committed */
	uint64_t verifier; /* of the engine before it was */
};

static struct history {
	uint64_t seed;
	unsigned int step;
	const char *doing;
	bool failed;
	bool quiet; /* failures are expected */
	struct cell cells[CELLS];
	bool messy[BLOCKS]; /* a write of it failed or was lost since it was last healed */
	bool truncating; /* begun and not finished */
	uint64_t truncated_cells; /* to this size */
	uint64_t number; /* of the newest write */
	uint32_t went_off; /* nodes, in this step */
	uint32_t weak; /* nodes that were off, or may have missed something, since the last healing
			*/
	bool lossy; /* messages were lost since then */
	struct stripe_file *file; /* of cluster.stripe */
	struct stripe *reader, *healer;
	struct stripe_file *reader_file, *healer_file;
	/* The fault of the current step. */
	unsigned int countdown; /* messages until then; 0: none */
	unsigned int action;
	bool fired; /* in this step a machine went off or an engine died */
} history;

static bool talkative;

static size_t cell_bytes(void)
{
	return (size_t)cluster.row_bytes * cluster.code.k / CELLS_PER_BLOCK;
}

static uint32_t all_nodes(void)
{
	return (1u << cluster.node_count) - 1;
}

static uint32_t nodes_off(void)
{
	uint32_t off = 0;

	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (!node_is_up(i) || !volatile_is_on(i))
			off |= 1u << i;
	}
	return off;
}

/* What each node says of a block: for whoever looks for the cause of a failure. */
static void dump_block(uint64_t block)
{
	for (unsigned int s = 0; s < cluster.node_count; s++) {
		uint32_t segment = (uint32_t)(block / SEGMENT_BLOCKS);
		unsigned int node = (s + FILE_ID + segment) % cluster.node_count;
		store_read_args args = {
			.file = {EXPORT, segment, FILE_ID},
			.geometry = {cluster.code.form, cluster.code.k, cluster.code.m,
				cluster.row_bytes},
			.shard = s,
			.first_block = block % SEGMENT_BLOCKS,
			.count = 1,
		};
		store_read_res res;

		if (!node_is_up(node) || !volatile_is_on(node)) {
			fprintf(stderr, "  shard %u on node %u: off\n", s, node);
			continue;
		}
		store_read(cluster.nodes[node].store, &args, &res);
		if (res.status == 0) {
			const store_read_block *told = res.blocks.blocks_val;
			fprintf(stderr,
				"  shard %u on node %u: state %u %" PRIx64 ".%04" PRIx64
				" older %" PRIx64 ".%04" PRIx64 " length %u missed %x epoch %u\n",
				s, node, told->state, (uint64_t)told->block_version.generation,
				(uint64_t)told->block_version.writer & 0xffff,
				(uint64_t)told->older.generation,
				(uint64_t)told->older.writer & 0xffff, told->length_bytes,
				told->missed, res.write_epoch);
		} else {
			fprintf(stderr, "  shard %u on node %u: %s\n", s, node,
				strerror((int)res.status));
		}
		rpc_free(RPC_XDR(xdr_store_read_res), &res);
	}
}

static void fail(const char *what, uint64_t cell, uint64_t value)
{
	if (history.quiet) {
		history.failed = true;
		return;
	}
	fprintf(stderr,
		"seed %" PRIu64
		" step %u (%s, action %u%s) form %u %u+%u rows %u: %s, cell %" PRIu64
		" (block %" PRIu64 ") value %" PRIu64,
		history.seed, history.step, history.doing, history.action,
		history.fired ? " fired" : "", cluster.code.form, cluster.code.k, cluster.code.m,
		cluster.row_bytes, what, cell, cell / CELLS_PER_BLOCK, value);
	if (cell < CELLS) {
		const struct cell *model = &history.cells[cell];

		fprintf(stderr, ", %s %" PRIu64 ", allowed", model->known ? "must be" : "was",
			model->current);
		for (unsigned int i = 0; i < model->count; i++)
			fprintf(stderr, " %" PRIu64, model->allowed[i]);
	}
	fprintf(stderr, ", off %x weak %x\n", nodes_off(), history.weak);
	if (cell < CELLS && !history.failed && talkative)
		dump_block(cell / CELLS_PER_BLOCK);
	history.failed = true;
}

/* True if the value was written unstably, and the client told since to send it again. */
static bool is_disowned(const struct cell *cell)
{
	return cell->dirty && cell->verifier != stripe_write_verifier(cluster.stripe);
}

static void cell_set(struct cell *cell, uint64_t value)
{
	cell->allowed[0] = value;
	cell->count = 1;
	cell->current = value;
	cell->known = true;
	cell->dirty = false;
}

static bool cell_allows(const struct cell *cell, uint64_t value)
{
	for (unsigned int i = 0; i < cell->count; i++) {
		if (cell->allowed[i] == value)
			return true;
	}
	return false;
}

/* Adds a value as the newest. */
static void cell_allow(struct cell *cell, uint64_t value)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < cell->count; i++) {
		if (cell->allowed[i] != value)
			cell->allowed[kept++] = cell->allowed[i];
	}
	cell->count = kept;
	if (cell->count == ALLOWED_MAX)
		abort(); /* steps between healings are too many */
	cell->allowed[cell->count++] = value;
}

/* The current value is stable: what was before it is not allowed any more. */
static void cell_committed(struct cell *cell)
{
	unsigned int from = 0;

	while (cell->allowed[from] != cell->current)
		from++;
	cell->count -= from;
	memmove(cell->allowed, cell->allowed + from, cell->count * sizeof(cell->allowed[0]));
	cell->dirty = false;
	cell->known = cell->count == 1;
}

/* What machines forget when they go off, engines when they die. */
static void nothing_unstable_is_certain(void)
{
	for (unsigned int i = 0; i < CELLS; i++) {
		if (history.cells[i].count > 1) {
			history.cells[i].known = false;
			history.messy[i / CELLS_PER_BLOCK] = true;
		}
		history.cells[i].dirty = false;
	}
}

#define WORD_FACTOR UINT64_C(0x9e3779b97f4a7c15)
#define WORD_FACTOR_INVERSE UINT64_C(0xf1de83e19937733d)
static_assert(WORD_FACTOR * WORD_FACTOR_INVERSE == 1, "inverse modulo 2^64");

static void cell_fill(uint64_t cell, uint64_t value, uint8_t *bytes)
{
	/* Multiplied, so that cells do not cancel each other out in a projection. */
	uint64_t word = value ? (value << 16 | cell) * WORD_FACTOR : 0;

	for (size_t i = 0; i < cell_bytes(); i += sizeof(word))
		memcpy(bytes + i, &word, sizeof(word));
}

/* The value in a cell's bytes; UINT64_MAX if they are no single one. */
static uint64_t cell_value(uint64_t cell, const uint8_t *bytes)
{
	uint64_t first, word;

	memcpy(&first, bytes, sizeof(first));
	for (size_t i = 0; i < cell_bytes(); i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		if (word != first)
			return UINT64_MAX;
	}
	first *= WORD_FACTOR_INVERSE;
	return first == 0 ? 0 : (first & 0xffff) == cell ? first >> 16 : UINT64_MAX;
}

/* -------- engines and machines -------- */

static void engine_end(struct stripe **stripe, struct stripe_file **file)
{
	if (*file)
		stripe_file_put(*file);
	if (*stripe) {
		stripe_destroy(*stripe);
		network_forget(*stripe);
	}
	*file = NULL;
	*stripe = NULL;
}

static void engine_begin(struct stripe **stripe, struct stripe_file **file)
{
	*stripe = engine_create();
	int error = stripe_file_get(*stripe, EXPORT, FILE_ID, file);
	if (error) {
		*file = NULL;
		engine_end(stripe, file);
	}
}

static void machine_off(unsigned int node, bool power_loss)
{
	volatile_off(node, power_loss);
	history.weak |= 1u << node;
	history.went_off |= 1u << node;
}

static void machines_on(uint32_t nodes)
{
	network_reap();
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (!(nodes & (1u << i)))
			continue;
		volatile_on(i);
		if (!node_is_up(i))
			node_start(i);
	}
}

static void no_more_faults(void)
{
	network_faults(0, 0, 0);
	history.countdown = 0;
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (volatile_is_on(i))
			volatile_on(i); /* takes back volatile_off_after() */
	}
}

static void check_agreement(void);

/* All machines on, all engines alive, no truncation unfinished. Nothing is healed. */
static void recover(void)
{
	no_more_faults();
	machines_on(all_nodes());
	network_drop_late();
	network_forget_down();
	if (cluster.stripe && network_is_dead(cluster.stripe))
		engine_end(&cluster.stripe, &history.file);
	if (!cluster.stripe)
		engine_begin(&cluster.stripe, &history.file);
	if (!history.reader)
		engine_begin(&history.reader, &history.reader_file);
	if (!history.healer)
		engine_begin(&history.healer, &history.healer_file);
	if (!history.file || !history.reader_file || !history.healer_file) {
		fail("an engine cannot attach with all nodes up", CELLS, 0);
		return;
	}
	if (history.truncating && stripe_file_refresh(history.file)) {
		fail("a truncation cannot be finished with all nodes up", CELLS, 0);
		return;
	}
	for (uint64_t i = history.truncated_cells; history.truncating && i < CELLS; i++)
		cell_set(&history.cells[i], 0);
	history.truncating = false;
}

/* -------- steps -------- */

enum action {
	KILL_ENGINE,
	KILL_ENGINE_AND_MACHINES,
	KILL_MACHINES,
	KILL_ALL_MACHINES,
	HEAL_MEANWHILE,
	READ_MEANWHILE,
	DELIVER_LATE,
	ACTIONS,
};

static bool in_hook; /* another engine may miss what is unstable while that is being replaced */

static void read_cells(struct stripe_file *file, uint64_t first, uint64_t count, bool must_succeed);

static void heal_some(void)
{
	static bool healing; /* its file is locked while it asks exportd */
	uint64_t healed, left;

	if (healing)
		return;
	healing = true;
	if (history.healer_file)
		stripe_heal(history.healer_file,
			(uint32_t)(random_number() % (BLOCKS / SEGMENT_BLOCKS + 1)), 0,
			SEGMENT_BLOCKS, &healed, &left);
	healing = false;
}

/* As many machines as may be off together. */
static void some_machines_off(void)
{
	for (unsigned int i = 0; i < cluster.code.m; i++) {
		unsigned int node = (unsigned int)(random_number() % cluster.node_count);

		if (__builtin_popcount(history.weak | 1u << node) <= (int)cluster.code.m)
			machine_off(node, random_number() % 4);
	}
}

static void at_message(const struct stripe *from, uint32_t node)
{
	(void)from;
	(void)node;
	if (history.countdown == 0 || --history.countdown > 0)
		return;
	history.fired = history.action < HEAL_MEANWHILE;
	switch (history.action) {
	case KILL_ENGINE_AND_MACHINES:
		if (random_number() % 2)
			some_machines_off();
		else
			for (unsigned int i = 0; i < cluster.node_count; i++)
				machine_off(i, random_number() % 8);
		/* fallthrough */
	case KILL_ENGINE:
		network_kill(cluster.stripe);
		break;
	case KILL_MACHINES:
		some_machines_off();
		break;
	case KILL_ALL_MACHINES:
		for (unsigned int i = 0; i < cluster.node_count; i++)
			machine_off(i, random_number() % 8);
		break;
	case HEAL_MEANWHILE:
		heal_some();
		break;
	case READ_MEANWHILE:
		in_hook = true;
		read_cells(history.reader_file, 0, CELLS, false);
		in_hook = false;
		break;
	case DELIVER_LATE:
		network_deliver_late();
		break;
	}
}

/* Sees to what happened in a step: closes dead stores, replaces a dead engine. */
static void after_step(bool calm)
{
	no_more_faults();
	/* With the verifier changes what was unstable: it is there or not. */
	for (unsigned int i = 0; i < CELLS; i++) {
		struct cell *cell = &history.cells[i];
		if (is_disowned(cell)) {
			cell->known = false;
			history.messy[i / CELLS_PER_BLOCK] = true;
		}
	}
	/* A write that was tried again may have cost what was unstable in its blocks. */
	for (unsigned int i = 0; i < CELLS && !calm; i++) {
		if (history.cells[i].dirty)
			history.cells[i].known = false;
	}
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (!volatile_is_on(i)) {
			history.weak |= 1u << i;
			history.fired = true;
		}
		/* It is left out of writes. */
		if (atomic_load(&cluster.stripe->nodes[i].stuck_until_us))
			history.weak |= 1u << i;
	}
	if (history.fired)
		nothing_unstable_is_certain();
	network_reap();
	if (network_is_dead(cluster.stripe) ||
		__builtin_popcount(history.weak) > (int)cluster.code.m || history.truncating)
		recover();
	if (history.went_off == all_nodes() && !history.failed) {
		history.doing = "check after the loss of all machines";
		check_agreement();
	}
	history.fired = false;
	history.went_off = 0;
}

/*
 * Reads and compares. A read may fail if nodes are off and a write was interrupted, or too many are
 * weak, and while messages get lost.
 */
static void read_cells(struct stripe_file *file, uint64_t first, uint64_t count, bool must_succeed)
{
	uint8_t *bytes = malloc(count * cell_bytes());
	int error = stripe_read(file, first * cell_bytes(), bytes, count * cell_bytes());

	if (error && must_succeed)
		fail(strerror(-error), first, count);
	for (uint64_t i = 0; i < count && !error && !history.failed; i++) {
		const struct cell *cell = &history.cells[first + i];
		uint64_t value = cell_value(first + i, bytes + i * cell_bytes());

		if (!cell_allows(cell, value))
			fail("wrong value", first + i, value);
		else if (cell->known && cell->current != value && !(in_hook && cell->dirty) &&
			 !is_disowned(cell))
			fail("not the newest value", first + i, value);
	}
	free(bytes);
}

static bool all_is_well(uint64_t first, uint64_t count)
{
	bool messy = history.lossy;

	for (uint64_t i = first; i < first + count; i++)
		messy = messy || history.messy[i / CELLS_PER_BLOCK];
	if (history.fired)
		return false;
	return nodes_off() == 0 ||
	       (!messy && __builtin_popcount(nodes_off() | history.weak) <= (int)cluster.code.m);
}

static bool enough_to_write(void)
{
	return cluster.node_count - (unsigned int)__builtin_popcount(nodes_off()) >=
	       cluster.min_shards;
}

static void choose_range(uint64_t *first, uint64_t *count)
{
	if (random_number() % 2) {
		uint64_t block = random_number() % BLOCKS;

		*first = block * CELLS_PER_BLOCK;
		*count = (1 + random_number() % 3) * CELLS_PER_BLOCK;
	} else {
		*first = random_number() % CELLS;
		uint64_t most = random_number() % 3 ? 2 : 9;
		*count = 1 + random_number() % most;
	}
	if (*count > CELLS - *first)
		*count = CELLS - *first;
}

static void step_write(bool calm)
{
	uint64_t first, count, value = ++history.number;
	bool stable = random_number() % 2;
	uint64_t verifier = stripe_write_verifier(cluster.stripe);

	choose_range(&first, &count);
	history.doing = stable ? "stable write" : "unstable write";
	uint8_t *bytes = malloc(count * cell_bytes());
	for (uint64_t i = 0; i < count; i++)
		cell_fill(first + i, value, bytes + i * cell_bytes());
	for (uint64_t i = first; i < first + count; i++) {
		cell_allow(&history.cells[i], value);
		history.cells[i].known = false; /* while it is under way */
	}
	int error = stripe_write(
		history.file, first * cell_bytes(), bytes, count * cell_bytes(), stable);
	free(bytes);
	if (network_is_dead(cluster.stripe) && !error)
		error = -ECANCELED; /* nobody saw the answer */
	if (talkative)
		fprintf(stderr, "write of %" PRIu64 " to cells %" PRIu64 "+%" PRIu64 ": %s\n",
			value, first, count, strerror(-error));
	if (error && calm && all_is_well(first, count) && enough_to_write())
		fail(strerror(-error), first, count);
	for (uint64_t i = first; i < first + count; i++) {
		struct cell *cell = &history.cells[i];

		if (error) {
			history.messy[i / CELLS_PER_BLOCK] = true;
		} else if (stable) {
			cell_set(cell, value);
		} else {
			cell->current = value;
			cell->known = true;
			/* What is written before a commit of something older stays as it is. */
			cell->dirty = true;
			cell->verifier = verifier;
		}
	}
}

static void step_commit(void)
{
	history.doing = "commit";
	int error = stripe_commit(history.file);
	if (network_is_dead(cluster.stripe) && !error)
		error = -ECANCELED;
	uint64_t verifier = stripe_write_verifier(cluster.stripe);
	for (uint64_t i = 0; i < CELLS; i++) {
		struct cell *cell = &history.cells[i];

		if (!cell->dirty)
			continue;
		if (!error && cell->verifier == verifier) {
			cell_committed(cell);
		} else {
			cell->known = false;
			cell->dirty = false;
			history.messy[i / CELLS_PER_BLOCK] = true;
		}
	}
}

static void step_truncate(bool calm)
{
	uint64_t size = random_number() % CELLS;

	history.doing = "truncate";
	for (uint64_t i = size; i < CELLS; i++) {
		cell_allow(&history.cells[i], 0);
		history.cells[i].known = false;
		history.cells[i].dirty = false;
	}
	history.truncating = true;
	history.truncated_cells = size;
	int error = truncate_file(history.file, FILE_ID, size * cell_bytes());
	if (network_is_dead(cluster.stripe) && !error)
		error = -ECANCELED;
	if (error && calm && all_is_well(size, CELLS - size) && enough_to_write())
		fail(strerror(-error), size, CELLS - size);
	for (uint64_t i = size; i < CELLS; i++) {
		if (error)
			history.messy[i / CELLS_PER_BLOCK] = true;
		else
			cell_set(&history.cells[i], 0);
	}
	if (!error)
		history.truncating = false;
}

/* -------- healing -------- */

static int heal_marked(void *context, const struct store_missed_file *missed)
{
	struct store *store = context;
	uint64_t next = 0;

	while (next != UINT64_MAX) {
		struct store_missed_block blocks[16];
		size_t count;

		int error =
			store_missed_blocks(store, &missed->file, next, blocks, 16, &count, &next);
		if (error)
			return error;
		for (size_t i = 0; i < count; i++) {
			error = stripe_heal(history.healer_file, missed->file.segment,
				blocks[i].block, 1, NULL, NULL);
			if (error) {
				fail("the healer fails with all nodes up",
					(missed->file.segment * SEGMENT_BLOCKS + blocks[i].block) *
						CELLS_PER_BLOCK,
					(uint64_t)-error);
				return error;
			}
		}
	}
	return 0;
}

/* What the healers of all nodes do, until nothing is left. */
static void heal_by_markers(void)
{
	for (unsigned int pass = 0; pass < 3; pass++) {
		for (unsigned int i = 0; i < cluster.node_count; i++) {
			struct store *store = cluster.nodes[i].store;
			int error = store_missed_scan(store, heal_marked, store);

			if (error && !history.failed)
				fail("missed writes cannot be looked for", CELLS, (uint64_t)-error);
		}
	}
}

static void heal_all(void)
{
	for (uint32_t segment = 0; segment * SEGMENT_BLOCKS < BLOCKS; segment++) {
		uint64_t left = 1;
		int error =
			stripe_heal(history.healer_file, segment, 0, SEGMENT_BLOCKS, NULL, &left);

		if (error == -ENOENT) /* nothing was ever written there */
			continue;
		if (error || left)
			fail(error ? strerror(-error)
				   : "healing leaves something with all nodes up",
				segment * SEGMENT_BLOCKS * CELLS_PER_BLOCK, left);
	}
}

/* After healing all shards are of one version, committed, sound, and nobody has missed any. */
static void check_shards(void)
{
	for (uint64_t block = 0; block < BLOCKS && !history.failed; block++) {
		store_version version = {0};
		uint32_t length = 0;

		for (unsigned int s = 0; s < cluster.node_count; s++) {
			uint32_t segment = (uint32_t)(block / SEGMENT_BLOCKS);
			store_read_args args = {
				.file = {EXPORT, segment, FILE_ID},
				.geometry = {cluster.code.form, cluster.code.k, cluster.code.m,
					cluster.row_bytes},
				.shard = s,
				.first_block = block % SEGMENT_BLOCKS,
				.count = 1,
			};
			store_read_res res;
			unsigned int node = (s + FILE_ID + segment) % cluster.node_count;

			store_read(cluster.nodes[node].store, &args, &res);
			const store_read_block *told = res.blocks.blocks_val;
			if (res.status != 0) {
				fail("a shard cannot be read", block * CELLS_PER_BLOCK, s);
				break;
			}
			if (s == 0) {
				version = told->block_version;
				length = told->length_bytes;
			}
			/* Who never had the block need not be told of its emptiness. */
			if (length == 0 && told->length_bytes == 0)
				version = told->block_version;
			if (version_compare(version, told->block_version) != 0)
				fail("shards differ in version", block * CELLS_PER_BLOCK, s);
			else if (version.generation && told->state != STORE_COMMITTED)
				fail("a shard is not committed", block * CELLS_PER_BLOCK, s);
			else if (told->missed)
				fail("a miss is left", block * CELLS_PER_BLOCK, s);
			rpc_free(RPC_XDR(xdr_store_read_res), &res);
		}
	}
}

/* With any m machines off, everything can still be read. */
static void check_without_m(void)
{
	uint32_t off = 0;

	while (__builtin_popcount(off) < (int)cluster.code.m)
		off |= 1u << random_number() % cluster.node_count;
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (off & (1u << i))
			volatile_off(i, true);
	}
	network_reap();
	for (uint64_t block = 0; block < BLOCKS && !history.failed; block++) {
		if (!history.messy[block])
			read_cells(history.reader_file, block * CELLS_PER_BLOCK, CELLS_PER_BLOCK,
				true);
	}
	machines_on(off);
	network_forget_down();
}

/*
 * Once nothing is in memory only, what is read stays: all readers agree, now and later.
 */
static void check_agreement(void)
{
	uint8_t *bytes = malloc(CELLS * cell_bytes());

	/* What the engine has collected others cannot see. If it cannot be sent, it is dropped. */
	if (cluster.gather && !history.failed)
		step_commit();
	for (uint64_t i = 0; i < CELLS && !history.failed; i += CELLS_PER_BLOCK) {
		int error = stripe_read(history.reader_file, i * cell_bytes(),
			bytes + i * cell_bytes(), CELLS_PER_BLOCK * cell_bytes());
		if (error)
			fail(strerror(-error), i, 0);
	}
	for (uint64_t i = 0; i < CELLS && !history.failed; i++) {
		uint64_t value = cell_value(i, bytes + i * cell_bytes());

		read_cells(history.reader_file, i, 1, true);
		if (!history.failed)
			cell_set(&history.cells[i], value);
	}
	free(bytes);
	if (!history.failed)
		read_cells(history.file, 0, CELLS, true);
	if (!history.failed)
		read_cells(history.healer_file, 0, CELLS, true);
}

static void step_heal(void)
{
	history.doing = "heal by markers";
	recover();
	if (!history.failed)
		step_commit();
	history.doing = "heal by markers";
	if (!history.failed)
		heal_by_markers();
	if (!history.failed)
		check_without_m();
	history.doing = "heal";
	if (!history.failed)
		heal_all();
	if (!history.failed)
		check_shards();
	memset(history.messy, 0, sizeof(history.messy));
	if (!history.failed)
		check_agreement();
	if (!history.failed)
		check_without_m();
	history.weak = 0;
	history.lossy = false;
}

/* -------- histories -------- */

/* One number at a time, so that a seed means the same whatever the compiler. */
static unsigned int choose(unsigned int limit)
{
	return (unsigned int)(random_number() % limit);
}

static void arm(void)
{
	unsigned int n = cluster.node_count, node, number, lost, unanswered, late;

	switch (choose(4)) {
	case 0:
	case 1:
		history.action = choose(ACTIONS);
		number = choose(2) ? n : 5 * n;
		history.countdown = 1 + choose(number);
		break;
	case 2:
		node = choose(n);
		number = 1 + choose(12);
		if (__builtin_popcount(history.weak | 1u << node) <= (int)cluster.code.m)
			volatile_off_after(node, number, choose(4));
		break;
	case 3:
		lost = choose(60);
		unanswered = choose(60);
		late = choose(60);
		history.lossy = true;
		network_faults(lost, unanswered, late);
		break;
	}
}

/* Returns true if nothing was made to fail. */
static bool random_step(void)
{
	unsigned int choice = (unsigned int)(random_number() % 100);
	unsigned int node = (unsigned int)(random_number() % cluster.node_count);
	bool calm = random_number() % 3 != 0;

	history.action = ACTIONS;
	if (!calm)
		arm();
	if (choice < 45) {
		step_write(calm);
	} else if (choice < 60) {
		uint64_t first, count;

		history.doing = "read";
		choose_range(&first, &count);
		read_cells(history.file, first, count, calm && all_is_well(first, count));
	} else if (choice < 68) {
		step_commit();
	} else if (choice < 72) {
		step_truncate(calm);
	} else if (choice < 76) {
		history.doing = "tell what is decided";
		runs_tell_decided(history.file);
	} else if (choice < 80) {
		history.doing = "heal some";
		heal_some();
	} else if (choice < 84) {
		history.doing = "machine off";
		if (__builtin_popcount(history.weak | 1u << node) <= (int)cluster.code.m) {
			machine_off(node, random_number() % 4);
			history.fired = true;
		}
	} else if (choice < 91) {
		history.doing = "machines on";
		machines_on(all_nodes());
		if (random_number() % 2)
			network_forget_down();
	} else if (choice < 93) {
		history.doing = "engine restart";
		no_more_faults();
		engine_end(&cluster.stripe, &history.file);
		nothing_unstable_is_certain();
		recover();
	} else if (choice < 96) {
		history.doing = "all machines off";
		for (unsigned int i = 0; i < cluster.node_count; i++)
			machine_off(i, random_number() % 8);
		if (random_number() % 2)
			network_kill(cluster.stripe);
		history.fired = true;
	} else {
		step_heal();
	}
	return calm;
}

/* What is wrong with the cluster on purpose. */
struct flaw {
	enum network_flaw network;
	bool flushes; /* do nothing */
};

static bool run_history(uint64_t seed, unsigned int steps, struct flaw flaw)
{
	static const struct {
		unsigned int k, m;
	} shapes[] = {{2, 1}, {4, 2}, {4, 2}, {8, 4}};
	static const uint32_t rows[] = {256, 1024, 4096};

	random_seed(seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
	for (unsigned int i = 0; i < 4; i++)
		random_number();
	volatile_reset(random_number());
	network_reset();
	memset(&history, 0, sizeof(history));
	history.seed = seed;
	history.quiet = flaw.network != NETWORK_SOUND || flaw.flushes;
	for (unsigned int i = 0; i < CELLS; i++)
		cell_set(&history.cells[i], 0);
	unsigned int shape = choose(4);
	enum mojette_form form = choose(2) ? MOJETTE_NON_SYSTEMATIC : MOJETTE_SYSTEMATIC;
	cluster.gather = seed % 2;
	cluster_start_in_memory(
		form, shapes[shape].k, shapes[shape].m, rows[choose(3)], SEGMENT_BLOCKS);
	history.doing = "start";
	if (stripe_file_get(cluster.stripe, EXPORT, FILE_ID, &history.file))
		fail("cannot attach", CELLS, 0);
	recover();
	network_set_hook(at_message);
	network_set_flaw(flaw.network);
	volatile_forget_flushes(flaw.flushes);
	for (history.step = 0; history.step < steps && !history.failed; history.step++) {
		bool calm = random_step();
		if (talkative)
			fprintf(stderr, "step %u: %s, fault %u%s, off %x weak %x\n", history.step,
				history.doing, history.action, history.fired ? " fired" : "",
				nodes_off(), history.weak);
		if (!history.failed)
			after_step(calm);
		if (!history.failed && history.step % 40 == 39)
			step_heal();
	}
	if (!history.failed)
		step_heal();
	network_set_hook(NULL);
	no_more_faults();
	engine_end(&cluster.stripe, &history.file);
	engine_end(&history.reader, &history.reader_file);
	engine_end(&history.healer, &history.healer_file);
	network_reap();
	cluster_stop();
	network_reset();
	return !history.failed;
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

static void what_was_stable_survives(void)
{
	uint64_t first = setting("ROZO_FIRST_SEED", 1), count = setting("ROZO_SEEDS", 200);
	unsigned int failures = 0;

	for (uint64_t i = 0; i < count && failures < 10; i++)
		failures += !run_history(first + i, 100, (struct flaw){0});
	printf("%" PRIu64 " seeds ", count);
	CU_ASSERT_EQUAL(failures, 0);
}

/* A test of the test. */
static void every_flaw_is_noticed(void)
{
	for (unsigned int kind = 0; kind < NETWORK_FLAWS; kind++) {
		struct flaw flaw = {.network = kind, .flushes = kind == NETWORK_SOUND};
		uint64_t seed = 1;

		while (seed <= FLAW_SEEDS && run_history(seed, 100, flaw))
			seed++;
		printf("%" PRIu64 " ", seed);
		CU_ASSERT(seed <= FLAW_SEEDS);
	}
}

static void log_nothing(enum rozo_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"what was stable survives", what_was_stable_survives},
		{"every flaw is noticed", every_flaw_is_noticed},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"stripe_power", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	talkative = getenv("ROZO_LOG") != NULL;
	network_trace(talkative);
	if (!talkative)
		rozo_log_set_sink(log_nothing);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
