/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The write protocol under a seeded scheduler: several engines and 3 to 12 stores work at the same
 * time, while messages get lost, late, doubled and reordered, processes are killed and machines
 * lose power at any step, and bits flip on disks; in some schedules disks are slow, full or fail,
 * processes are stopped for a while, exportd is away, or some cannot reach others. docs/protocol.md
 * says what must hold; what is checked:
 *
 * 1. each cell's reads and writes can be put in an order (checker.h);
 * 2. what was acknowledged as stable can be read with any m nodes gone, and cells can be written
 *    as long as min_shards nodes are there;
 * 3. after all has come to rest and was healed, all shards are of one version, committed, sound,
 * and nobody is recorded as having missed any;
 * 4. no operation takes longer than a bound, in simulated time.
 *
 * simulation [--first N] [--seeds N] [--all]
 * prints the number of schedules (seeds run) and ends at the first seed that shows a violation;
 * with
 * --all it goes on. usage() below tells of the other ways to call it.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "checker.h"
#include "network.h"
#include "rpc/log.h"
#include "rpc/store.h"
#include "stripe/internal.h"
#include "tests/unit/volatile_io.h"
#include "world.h"

/*
 * Simulated time that one operation of a client may take, with those before it in its way: if
 * messages arrive or are refused; if any may be lost, for 5 s each, and disks fail besides; and
 * after everything is well again. A call to a machine without power takes 5 s, but only the first
 * one, as in rpc/ (test_rpc.c, "silent peer costs one wait only").
 */
#define OPERATION_LIMIT_US (60 * UINT64_C(1000000))
#define LOSSY_LIMIT_US (600 * UINT64_C(1000000))
#define CALM_LIMIT_US (20 * UINT64_C(1000000))
#define TIMES_MAX 6
#define RUN_LIMIT_US (UINT64_C(3600) * 1000000)

/* In place of what clients and the nemesis do: a few steps that seldom come together. */
enum story {
	NO_STORY,
	LATE_MESSAGES, /* what a writer has sent arrives after its successor's writes */
	FORMER_COPIES, /* who cannot ask exportd goes by stores that have removed what they had */
	FORSAKEN_TRUNCATION, /* nobody goes on with it, and exportd says nothing */
};

static struct schedule {
	uint64_t seed;
	bool failed;
	bool quiet; /* failures are expected */
	bool verbose;
	/* The kind of history, by the seed. */
	bool single_writer; /* one engine at a time writes */
	bool damage; /* bits flip; then only `victims` may fail */
	unsigned int spares; /* nodes to which shards move */
	bool calm_nodes; /* nodes stay up, messages arrive; engines may die */
	uint32_t victims;
	struct network_faults faults;
	bool nodes_stay_once_down;
	bool disks_fail;
	bool stops; /* processes are stopped, and go on */
	bool exportd_fails;
	bool cuts; /* engines cannot reach some nodes for a while */
	bool ends; /* nodes are ended in good order, and started again */
	bool spoils; /* with damage: whole pages, too */
	enum story story;
	unsigned int writer; /* engine, if single_writer */
	unsigned int clients_left;
	unsigned int nemesis_left;
	unsigned int op_budget;
	bool ended;
	uint64_t longest;
	const char *doing;
} run;

static uint64_t total_events, total_ops, longest_ever;

/* The seed chooses some of the schedules, so many of 1000, without a change to the others. */
static bool is_chosen(unsigned int kind, unsigned int of_1000)
{
	uint64_t x = (run.seed * 64 + kind) * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 32)) * UINT64_C(0xbf58476d1ce4e5b9);
	return (x ^ (x >> 29)) % 1000 < of_1000;
}

static const char cannot_attach[] = "an engine cannot attach";

static void fail(const char *what, unsigned int cell)
{
	if (!run.failed && !run.quiet) {
		fprintf(stderr,
			"seed %" PRIu64 " at %" PRIu64 " us: %u+%u form %u rows %u%s%s%s: %s: %s",
			run.seed, scheduler_now(), world.shape.k, world.shape.m, world.shape.form,
			world.shape.row_bytes, run.single_writer ? ", one writer" : "",
			run.damage ? ", damage" : "", run.calm_nodes ? ", nodes stay up" : "",
			run.doing, what);
		if (cell < world.cell_count)
			fprintf(stderr, ", cell %u (block %u)", cell, cell / world.cells_per_block);
		fprintf(stderr, "\n");
		if (cell < world.cell_count && run.verbose)
			checker_print(cell);
	}
	run.failed = true;
}

static void say(const char *what, unsigned int number, unsigned int other)
{
	if (run.verbose)
		fprintf(stderr, "%9" PRIu64 "  -- %s %u %u\n", scheduler_now(), what, number,
			other);
}

/* -------- cells -------- */

#define WORD_FACTOR UINT64_C(0x9e3779b97f4a7c15)
#define WORD_FACTOR_INVERSE UINT64_C(0xf1de83e19937733d)
_Static_assert(WORD_FACTOR *WORD_FACTOR_INVERSE == 1, "inverse modulo 2^64");

static void cell_fill(unsigned int cell, uint64_t value, uint8_t *bytes)
{
	/* Multiplied, so that cells do not cancel each other out in a projection. */
	uint64_t word = value ? (value << 16 | cell) * WORD_FACTOR : 0;

	for (size_t i = 0; i < world.cell_bytes; i += sizeof(word))
		memcpy(bytes + i, &word, sizeof(word));
}

/* The value in a cell's bytes; UINT64_MAX if they are no single one. */
static uint64_t cell_value(unsigned int cell, const uint8_t *bytes)
{
	uint64_t first, word;

	memcpy(&first, bytes, sizeof(first));
	for (size_t i = 0; i < world.cell_bytes; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		if (word != first)
			return UINT64_MAX;
	}
	first *= WORD_FACTOR_INVERSE;
	return first == 0 ? 0 : (first & 0xffff) == cell ? first >> 16 : UINT64_MAX;
}

/* -------- what clients do -------- */

/* In an engine's process, with the file attached. Returns false if the engine cannot be had. */
struct session {
	struct engine *engine;
	struct process *process;
	struct stripe *stripe;
	struct stripe_file *file;
	int error;
};

static bool session_begin(struct session *session, unsigned int number)
{
	struct engine *engine = &world.engines[number];

	*session = (struct session){.engine = engine, .process = engine->process};
	if (!engine->process)
		return false;
	session->stripe = engine->stripe;
	scheduler_enter(session->process);
	/* As the gateway does for handles of readers and of writers. */
	session->error = (number & 1 ? stripe_file_get_to_write : stripe_file_get)(
		session->stripe, WORLD_EXPORT, WORLD_FILE, &session->file);
	/* As the gateway does for a handle with a newer layout epoch. */
	if (!session->error && session->process->alive && engine->moved) {
		session->error = stripe_file_refresh(session->file);
		if (session->error)
			stripe_file_put(session->file);
		else if (session->process->alive)
			engine->moved = false;
	}
	if (session->error) {
		scheduler_enter(&world.nature);
		return false;
	}
	return true;
}

static void session_end(struct session *session)
{
	stripe_file_put(session->file);
	scheduler_enter(&world.nature);
}

static void measure(uint64_t began, bool calm)
{
	uint64_t took = scheduler_now() - began;

	if (took > run.longest)
		run.longest = took;
	if (took > longest_ever && !run.quiet)
		longest_ever = took;
	bool lossy = run.faults.lost || run.faults.late || run.faults.unanswered || run.stops ||
		     run.exportd_fails || run.cuts || run.disks_fail;
	if (took > (calm ? CALM_LIMIT_US : lossy ? LOSSY_LIMIT_US : OPERATION_LIMIT_US))
		fail("an operation took too long", UINT_MAX);
}

/*
 * A successor of dead writers was answered for these cells: what the dead left under way must not
 * take effect any more.
 */
static void close_unknown(const struct op *answered, const struct process *writer, uint64_t fenced)
{
	if (!run.single_writer)
		return;
	for (unsigned int i = 0; i < checker_count(); i++) {
		struct op *op = checker_op(i);
		const struct process *dead = op->writer;

		if (op->kind == OP_READ || op->finished != UINT64_MAX || op == answered ||
			op->kind == OP_TRUNCATE || dead == writer || dead->alive ||
			op->invoked > fenced || op->deadline != UINT64_MAX)
			continue;
		if (op->first >= answered->first &&
			op->first + op->count <= answered->first + answered->count)
			op->deadline = scheduler_now();
	}
}

/* Something was acknowledged as stable after truncations had failed: they were carried out before.
 */
static void close_truncations(const struct op *answered)
{
	for (unsigned int i = 0; i < checker_count(); i++) {
		struct op *op = checker_op(i);

		if (op->kind == OP_TRUNCATE && op->finished == UINT64_MAX &&
			op->ended <= answered->invoked && op->deadline == UINT64_MAX)
			op->deadline = scheduler_now();
	}
}

static void do_read(unsigned int engine, unsigned int first, unsigned int count, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now();

	if (!session_begin(&session, engine)) {
		if (calm)
			fail(cannot_attach, UINT_MAX);
		measure(began, calm);
		return;
	}
	uint8_t *bytes = malloc(count * world.cell_bytes);
	struct op *op = checker_begin(OP_READ, first, count, session.process, scheduler_now());
	int error = stripe_read(
		session.file, (uint64_t)first * world.cell_bytes, bytes, count * world.cell_bytes);
	bool dead = !session.process->alive;
	session_end(&session);
	measure(began, calm);
	op->ignored = error || dead;
	if (!op->ignored) {
		op->finished = scheduler_now();
		for (unsigned int i = 0; i < count; i++) {
			op->values[first + i] = cell_value(first + i, bytes + i * world.cell_bytes);
			scheduler_trace(op->values[first + i]);
			if (op->values[first + i] == UINT64_MAX)
				fail("bytes that nobody wrote", first + i);
		}
	} else if (calm) {
		fail(strerror(-error), first);
	}
	if (run.verbose)
		fprintf(stderr, "%9" PRIu64 "  -- read of %u+%u by engine %u: %s %" PRIu64 "\n",
			scheduler_now(), first, count, engine, strerror(-error),
			op->ignored ? 0 : op->values[first]);
	free(bytes);
}

/* Returns false if the engine died meanwhile. */
static bool do_write(
	unsigned int engine, unsigned int first, unsigned int count, bool stable, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now();

	if (!session_begin(&session, engine)) {
		if (calm)
			fail(cannot_attach, UINT_MAX);
		measure(began, calm);
		return true;
	}
	uint64_t fenced = session.engine->fenced;
	struct op *op = checker_begin(stable ? OP_WRITE : OP_UNSTABLE_WRITE, first, count,
		session.process, scheduler_now());
	uint8_t *bytes = malloc(count * world.cell_bytes);
	for (unsigned int i = 0; i < count; i++)
		cell_fill(first + i, op->value, bytes + i * world.cell_bytes);
	op->verifier = stripe_write_verifier(session.stripe);
	op->lost = !stable;
	if (run.verbose)
		fprintf(stderr,
			"%9" PRIu64 "  -- %s write of %" PRIu64 " to %u+%u by engine %u (p%u)\n",
			scheduler_now(), stable ? "stable" : "unstable", op->value, first, count,
			engine, session.process->number);
	int error = stripe_write(session.file, (uint64_t)first * world.cell_bytes, bytes,
		count * world.cell_bytes, stable);
	free(bytes);
	bool dead = !session.process->alive;
	session_end(&session);
	measure(began, calm);
	op->ended = scheduler_now();
	/* Without exportd a truncation that waits may come later ("What is not promised"). */
	op->unasked = session.process->unasked >= began && session.process->unasked > 0;
	if (!error && !dead) {
		op->finished = op->ended;
		if (stable) {
			close_unknown(op, session.process, fenced);
			if (!op->unasked)
				close_truncations(op);
		}
	} else if (calm) {
		fail(strerror(-error), first);
	}
	scheduler_trace((uint64_t)(unsigned int)-error);
	if (run.verbose)
		fprintf(stderr, "%9" PRIu64 "  -- write of %" PRIu64 ": %s%s\n", scheduler_now(),
			op->value, strerror(-error), dead ? " (dead)" : "");
	return !dead;
}

static void do_commit(unsigned int engine, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now();
	unsigned int before = checker_count();

	if (!session_begin(&session, engine)) {
		if (calm)
			fail(cannot_attach, UINT_MAX);
		return;
	}
	uint64_t asked = scheduler_now();
	int error = stripe_commit(session.file);
	uint64_t verifier = stripe_write_verifier(session.stripe);
	bool dead = !session.process->alive;
	session_end(&session);
	measure(began, calm);
	say(error ? "commit failed, engine" : "commit by engine", engine, 0);
	for (unsigned int i = 0; i < before && !error && !dead; i++) {
		struct op *op = checker_op(i);
		if (op->kind == OP_UNSTABLE_WRITE && op->writer == session.process &&
			op->finished < asked && op->verifier == verifier && op->lost) {
			op->lost = false;
			op->committed = scheduler_now();
		}
	}
}

static void do_truncate(unsigned int engine, unsigned int cell, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now(), size = (uint64_t)cell * world.cell_bytes;

	if (!session_begin(&session, engine))
		return;
	if (!network_exportd_is_there() || session.process->cut_off_exportd) {
		session_end(&session);
		return;
	}
	struct op *op = checker_begin(
		OP_TRUNCATE, cell, world.cell_count - cell, session.process, scheduler_now());
	world_begin_truncation(size);
	say("truncation to cell, by engine", cell, engine);
	/* Or whoever began it dies before anything else, and others carry it out some day. */
	bool forsaken = !calm && scheduler_chance(200);
	int error = forsaken ? -ECANCELED : stripe_truncate(session.file, size);
	bool dead = !session.process->alive;
	session_end(&session);
	measure(began, calm);
	op->ended = scheduler_now();
	if (!error && !dead)
		op->finished = op->ended;
	else if (calm)
		fail(strerror(-error), cell);
	say(error ? "truncation failed" : "truncation done", cell, (unsigned int)-error);
}

static bool do_heal(unsigned int engine, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now();
	bool done = true;

	if (!session_begin(&session, engine)) {
		if (calm)
			fail(cannot_attach, UINT_MAX);
		return false;
	}
	for (uint32_t segment = 0; segment * WORLD_SEGMENT_BLOCKS < WORLD_BLOCKS; segment++) {
		struct stripe_heal_result result;
		/* At the end as the scrubber does it: a flipped bit that nobody reads stays. */
		int error = stripe_heal_range(session.file, segment, 0, WORLD_SEGMENT_BLOCKS,
			calm && run.damage, &result);
		if (error == -ENOENT) /* nothing was ever written there */
			continue;
		/* The healer tries again; come_to_rest() says for how long. */
		done = done && !error && !result.left;
	}
	session_end(&session);
	/* Healing a file is many operations; only with nothing in their way must they be quick. */
	if (calm)
		measure(began, calm);
	say("healed by engine", engine, done);
	return done;
}

struct rebuilt {
	uint32_t segment, shard, write_epoch;
};

static void rebuilt_arrives(void *context)
{
	const struct rebuilt *rebuilt = context;

	world_rebuilt(rebuilt->segment, rebuilt->shard, rebuilt->write_epoch);
	free(context);
}

/* META_REBUILT. Returns false if exportd cannot be reached; it may hear of it later. */
static bool tell_rebuilt(
	const struct process *process, uint32_t segment, const struct stripe_rebuild *rebuild)
{
	struct rebuilt *rebuilt = malloc(sizeof(*rebuilt));
	bool there = network_exportd_is_there() && !process->cut_off_exportd;

	*rebuilt = (struct rebuilt){segment, rebuild->shard, rebuild->write_epoch};
	if (there)
		rebuilt_arrives(rebuilt);
	else if (scheduler_chance(500))
		scheduler_after(scheduler_below(30000000), rebuilt_arrives, rebuilt);
	else
		free(rebuilt);
	return there;
}

/* A spare node makes the shards that it has taken over. Returns true if they are all complete. */
static bool do_rebuild(unsigned int engine, bool calm)
{
	struct session session;
	uint64_t began = scheduler_now();
	bool done = true;

	if (!session_begin(&session, engine)) {
		if (calm)
			fail(cannot_attach, UINT_MAX);
		return false;
	}
	for (uint32_t segment = 0; segment * WORLD_SEGMENT_BLOCKS < WORLD_BLOCKS; segment++) {
		struct stripe_rebuild rebuild;
		struct stripe_heal_result result;

		if (!world_is_rebuilding(segment))
			continue;
		int error = stripe_rebuild_begin(session.file, segment, &rebuild);
		if (error == -ENOENT) /* none of this segment, or it is done */
			continue;
		if (!error)
			error = stripe_heal_range(session.file, segment, 0,
				(uint32_t)rebuild.block_count, false, &result);
		if (!session.process->alive)
			error = -EIO;
		if (!error && !(result.lacking & (1u << rebuild.shard)))
			done = tell_rebuilt(session.process, segment, &rebuild) && done;
		else
			done = false;
		say(error ? "rebuilding failed, segment" : "rebuilt, segment", segment,
			(unsigned int)-error);
	}
	session_end(&session);
	measure(began, false);
	return done;
}

/* All spare nodes do. */
static bool do_rebuilds(bool calm)
{
	bool done = do_rebuild(WORLD_ENGINE_SPARE, calm);

	if (world.engines[WORLD_ENGINE_SPARE_2].node != WORLD_NOWHERE)
		done = do_rebuild(WORLD_ENGINE_SPARE_2, calm) && done;
	return done;
}

/* Of the engines that run, any; UINT_MAX: none. */
static unsigned int any_engine(unsigned int among)
{
	unsigned int start = (unsigned int)scheduler_below(among);

	for (unsigned int i = 0; i < among; i++) {
		unsigned int number = (start + i) % among;
		if (world.engines[number].process)
			return number;
	}
	return UINT_MAX;
}

/* The engine to write through. */
static unsigned int writing_engine(void)
{
	if (!run.single_writer)
		return any_engine(3);
	const struct process *process = world.engines[run.writer].process;
	if (process && !scheduler_stopped_us(process))
		return run.writer;
	/* As when exportd has missed its heartbeat; or it comes back before that. */
	unsigned int other = any_engine(3);
	if (other == UINT_MAX || scheduler_chance(500) || !network_exportd_is_there())
		return UINT_MAX;
	run.writer = other;
	if (world.engines[other].node != UINT_MAX)
		world_move_gateway(&world.engines[other]);
	say("writer is now engine", other, 0);
	return other;
}

static void choose_range(unsigned int *first, unsigned int *count)
{
	unsigned int per_block = world.cells_per_block;

	if (scheduler_chance(400)) {
		*first = (unsigned int)scheduler_below(WORLD_BLOCKS) * per_block;
		*count = (scheduler_chance(300) ? 2 : 1) * per_block;
	} else {
		*first = (unsigned int)scheduler_below(world.cell_count);
		*count = 1 + (unsigned int)scheduler_below(scheduler_chance(200) ? 6 : 2);
	}
	if (*count > world.cell_count - *first)
		*count = world.cell_count - *first;
}

static void client(void *context)
{
	(void)context;
	while (run.op_budget > 0 && !run.failed) {
		unsigned int first, count, engine, choice = (unsigned int)scheduler_below(100);

		run.op_budget--;
		total_ops++;
		scheduler_sleep(
			scheduler_chance(200) ? scheduler_below(200000) : scheduler_below(3000));
		choose_range(&first, &count);
		engine = choice < 55 || (choice >= 80 && choice < 93) ? writing_engine()
								      : any_engine(3);
		if (engine == UINT_MAX) {
			scheduler_sleep(100000 + scheduler_below(1000000));
			continue;
		}
		if (choice < 55) {
			bool alive = do_write(engine, first, count, scheduler_chance(650), false);
			/* Sent again to whoever has taken over, as NFS clients do; and more. */
			for (unsigned int i = 0; !alive && i < 4; i++) {
				engine = writing_engine();
				if (engine != UINT_MAX && scheduler_chance(800))
					do_write(engine, first, count, true, false);
				scheduler_sleep(scheduler_below(i < 2 ? 3000 : 600000));
			}
		} else if (choice < 80)
			do_read(engine, first, count, false);
		else if (choice < 89)
			do_commit(engine, false);
		else if (choice < 93)
			do_truncate(engine, (unsigned int)scheduler_below(world.cell_count), false);
		else if (choice < 95)
			do_heal(any_engine(3) != UINT_MAX ? any_engine(3) : 3, false);
		else
			do_read(engine, 0, world.cell_count, false);
	}
	run.clients_left--;
}

/* -------- what goes wrong -------- */

static bool may_fail(unsigned int node)
{
	return !run.damage || (run.victims & (1u << node));
}

struct look {
	uint64_t block;
	unsigned int shard;
	struct store *store;
	store_read_block told;
	bool said;
	bool over;
};

/* In the store's process, which ends after it. */
static void look_at_shard(void *context)
{
	struct look *look = context;
	const store_read_args args = {
		.file = {WORLD_EXPORT, (uint32_t)(look->block / WORLD_SEGMENT_BLOCKS), WORLD_FILE},
		.geometry = {world.shape.form, world.shape.k, world.shape.m, world.shape.row_bytes},
		.shard = look->shard,
		.first_block = look->block % WORLD_SEGMENT_BLOCKS,
		.count = 1,
		.headers_only = 1,
	};
	store_read_res res = {0};

	store_read(look->store, &args, &res);
	look->said = res.status == 0 && res.blocks.blocks_len == 1;
	if (look->said)
		look->told = res.blocks.blocks_val[0];
	free(res.blocks.blocks_val);
	free(res.payload.payload_val);
	look->over = true;
}

static bool is_looking(const void *context)
{
	const struct look *look = context;

	return !look->over;
}

/* What the store of a block's shard says of it now. Returns false if it says nothing. */
static bool ask_for_shard(uint64_t block, unsigned int s, store_read_block *told)
{
	struct look look = {.block = block, .shard = s};
	struct process *process;

	look.store = world_store(world_node_of(block, s), &process);
	if (!look.store)
		return false;
	scheduler_start(process, look_at_shard, &look);
	scheduler_sleep_while(is_looking, &look, 100);
	*told = look.told;
	return look.said;
}

/*
 * True if the victims may lose what they have: each block can be had from the others. There may be
 * too few that have it besides, since a shard is being made, or a store refused it under a newer
 * epoch.
 */
static bool may_lose_bytes(void)
{
	for (uint64_t block = 0; block < WORLD_BLOCKS; block++) {
		store_version newest = {0};
		unsigned int holders = 0;
		bool empty = true;

		for (unsigned int s = 0; s < world.shard_count; s++) {
			store_read_block told;
			int order;

			if (!ask_for_shard(block, s, &told))
				continue;
			order = version_compare(told.block_version, newest);
			if (order > 0) {
				newest = told.block_version;
				holders = 0;
				empty = told.length_bytes == 0;
			}
			holders += order >= 0 && !may_fail(world_node_of(block, s));
		}
		if (!empty && holders < world.shape.k)
			return false;
	}
	return true;
}

static void start_whatever_is_down(void)
{
	for (unsigned int i = 0; i < world.node_count; i++) {
		if (!world_node_is_up(i)) {
			world_start_node(i);
			say("node starts", i, 0);
		}
	}
	for (unsigned int i = 0; i < WORLD_ENGINES; i++) {
		if (!world.engines[i].process && world.engines[i].node == UINT_MAX)
			world_start_engine(i);
	}
}

static void nemesis(void *context)
{
	(void)context;
	while (run.clients_left > 0) {
		unsigned int node = (unsigned int)scheduler_below(world.node_count);
		unsigned int choice = (unsigned int)scheduler_below(100);
		bool power_loss = scheduler_chance(500);

		if (scheduler_chance(600))
			scheduler_sleep(scheduler_below(4000));
		else
			scheduler_sleep(scheduler_below(scheduler_chance(500) ? 50000 : 1500000));
		if (run.clients_left == 0)
			break;
		if (run.spares && scheduler_chance(500))
			world_remove_former_copies();
		if (choice < 30) {
			if (run.calm_nodes || !may_fail(node) || !world_node_is_up(node))
				continue;
			world_kill_node(node, power_loss);
			say(power_loss ? "power loss of node" : "node killed", node, 0);
			if (scheduler_chance(500)) {
				scheduler_sleep(scheduler_below(10000));
				if (!world_node_is_up(node))
					world_start_node(node);
				say("node starts", node, 0);
			}
		} else if (choice < 36) {
			if (run.calm_nodes || run.damage)
				continue;
			say("all nodes lose power", 0, 0);
			for (unsigned int i = 0; i < world.node_count; i++)
				world_kill_node(i, scheduler_chance(900));
			scheduler_sleep(scheduler_below(100000));
			start_whatever_is_down();
		} else if (choice < 56) {
			unsigned int engine = (unsigned int)scheduler_below(3);
			unsigned int of = world.engines[engine].node;
			if (!world.engines[engine].process ||
				(of != UINT_MAX && (run.calm_nodes || !may_fail(of))))
				continue;
			world_kill_engine(engine);
			say("engine killed", engine, 0);
			scheduler_sleep(scheduler_below(scheduler_chance(700) ? 2000 : 500000));
			if (of != UINT_MAX && !world_node_is_up(of))
				world_start_node(of);
			else if (of == UINT_MAX && !world.engines[engine].process)
				world_start_engine(engine);
			say("engine starts", engine, 0);
		} else if (choice < 66) {
			if (!run.damage || !may_lose_bytes())
				continue;
			for (unsigned int i = 0; i < world.node_count; i++) {
				if (!(run.victims & (1u << i)) || !world_node_is_up(i))
					continue;
				if (run.spoils && scheduler_chance(500))
					world_spoil_page(i);
				else
					world_flip_bit(i);
			}
			say("bits flip on nodes", run.victims, 0);
		} else if (choice < 72 && !run.calm_nodes) {
			do_heal(WORLD_ENGINE_HEALER, false);
		} else if (choice < 85 && !run.nodes_stay_once_down) {
			start_whatever_is_down();
		} else if (choice >= 85 && run.spares) {
			uint32_t segment = (uint32_t)scheduler_below(2);
			unsigned int shard = (unsigned int)scheduler_below(world.shard_count);

			if (choice >= 93)
				do_rebuilds(false);
			else if (network_exportd_is_there() && world_move_shard(segment, shard))
				say("a shard moves, of segment", segment, shard);
		}
	}
	run.nemesis_left--;
}

static void start_nemesis_if(bool wanted, void (*run_it)(void *context))
{
	if (!wanted)
		return;
	run.nemesis_left++;
	scheduler_start(&world.nature, run_it, NULL);
}

/* How long something is not as it should be: mostly seconds, at times two minutes. */
static uint64_t some_time(uint64_t longest_us)
{
	return scheduler_below(scheduler_chance(300) ? longest_us : 6000000);
}

/* For what goes wrong beside the nemesis, a few times: waits for the next one. */
static bool next_time_comes(unsigned int *times)
{
	scheduler_sleep(scheduler_below(scheduler_chance(500) ? 20000 : 1000000));
	return run.clients_left > 0 && ++*times <= TIMES_MAX;
}

/* Disks are slow, full or fail for a while; with damage those of the victims fail for good, too. */
static void disks_fail(void *context)
{
	unsigned int times = 0;

	(void)context;
	while (next_time_comes(&times)) {
		unsigned int node = (unsigned int)scheduler_below(world.node_count);
		enum disk_fault fault = DISK_SLOW + (enum disk_fault)scheduler_below(3);

		if (!may_fail(node))
			continue;
		/*
		 * It will be replaced by an empty one, of which the node says that it never had
		 * anything. With others that have missed a write, which damage leaves to be m
		 * altogether, k might say so ("What is not promised").
		 */
		if (run.damage && world.shape.k > world.shape.m && may_lose_bytes() &&
			scheduler_chance(300))
			fault = DISK_BROKEN;
		world_set_disk(node, fault);
		say("disk of node: fault", node, fault);
		scheduler_sleep(some_time(20000000));
		if (scheduler_chance(800))
			world_set_disk(node, DISK_SOUND);
	}
	run.nemesis_left--;
}

/* Processes are stopped, and go on later. */
static void processes_stop(void *context)
{
	unsigned int times = 0;

	(void)context;
	while (next_time_comes(&times)) {
		unsigned int node = (unsigned int)scheduler_below(world.node_count);
		struct engine *engine = &world.engines[scheduler_below(WORLD_ENGINES)];
		struct process *process = NULL;

		if (scheduler_chance(500)) {
			process = engine->process;
			node = engine->node;
		} else {
			world_store(node, &process);
		}
		if (process && (node == UINT_MAX || (!run.calm_nodes && may_fail(node)))) {
			uint64_t us = some_time(120000000);

			say("stopped for ms: process", process->number, (unsigned int)(us / 1000));
			scheduler_stop(process, us);
		}
	}
	run.nemesis_left--;
}

/* Nodes are ended as an administrator does it, and started again. */
static void nodes_end(void *context)
{
	unsigned int times = 0;

	(void)context;
	while (next_time_comes(&times)) {
		unsigned int node = (unsigned int)scheduler_below(world.node_count);

		if (!may_fail(node) || !world_node_is_up(node))
			continue;
		say("is ended: node", node, 0);
		world_end_node(node);
		scheduler_sleep(scheduler_below(100000));
		if (!world_node_is_up(node))
			world_start_node(node);
		say("node starts", node, 0);
	}
	run.nemesis_left--;
}

static void rebuild_meanwhile(void *context)
{
	(void)context;
	do_rebuilds(false);
	run.nemesis_left--;
}

/* An engine cannot reach exportd, of which others hear what becomes of the file. */
static void cut_off_from_exportd(uint64_t us)
{
	struct process *process = world.engines[scheduler_below(WORLD_ENGINES)].process;

	if (!process)
		return;
	say("cut off from exportd: process", process->number, 0);
	process->cut_off_exportd = true;
	scheduler_sleep(us);
	process->cut_off_exportd = false;
}

/* exportd is not there for a while, or says nothing, to all or to one; at best while shards move.
 */
static void exportd_fails(void *context)
{
	unsigned int times = 0;

	(void)context;
	world_note_exportd();
	while (next_time_comes(&times)) {
		unsigned int state = (unsigned int)scheduler_below(3);
		uint64_t us = some_time(30000000);

		if (run.spares && scheduler_chance(300))
			world_move_shard((uint32_t)scheduler_below(2),
				(unsigned int)scheduler_below(world.shard_count));
		if (run.spares && scheduler_chance(500))
			start_nemesis_if(true, rebuild_meanwhile);
		scheduler_sleep(scheduler_below(20000));
		if (state == EXPORTD_THERE) {
			cut_off_from_exportd(us);
		} else {
			say("exportd is away; how", state, 0);
			network_set_exportd(state);
			scheduler_sleep(us);
			world_exportd_returns();
			network_set_exportd(EXPORTD_THERE);
			say("exportd is back", 0, 0);
		}
		world_note_exportd();
	}
	run.nemesis_left--;
}

/* An engine cannot reach some of the nodes, which others do reach. */
static void engines_are_cut_off(void *context)
{
	unsigned int times = 0;

	(void)context;
	while (next_time_comes(&times)) {
		struct process *process = world.engines[scheduler_below(WORLD_ENGINES)].process;
		uint32_t cut_off = (uint32_t)scheduler_random() & (uint32_t)scheduler_random() &
				   ((1u << world.node_count) - 1);

		if (!process)
			continue;
		process->cut_off = run.damage ? cut_off & run.victims : cut_off;
		say("cut off from nodes: process", process->number, process->cut_off);
		scheduler_sleep(some_time(20000000));
		process->cut_off = 0;
	}
	run.nemesis_left--;
}

/* -------- checks -------- */

/* After healing all shards are of one version, committed, sound, and nobody has missed any. */
static void check_shards(void)
{
	for (uint64_t block = 0; block < WORLD_BLOCKS && !run.failed; block++) {
		store_version version = {0};
		uint32_t length = 0;

		for (unsigned int s = 0; s < world.shard_count && !run.failed; s++) {
			uint32_t segment = (uint32_t)(block / WORLD_SEGMENT_BLOCKS);
			store_read_args args = {
				.file = {WORLD_EXPORT, segment, WORLD_FILE},
				.geometry = {world.shape.form, world.shape.k, world.shape.m,
					world.shape.row_bytes},
				.shard = s,
				.first_block = block % WORLD_SEGMENT_BLOCKS,
				.count = 1,
			};
			store_read_res res;
			struct process *process;
			unsigned int cell = (unsigned int)block * world.cells_per_block;

			store_read(world_store(world_node_of(block, s), &process), &args, &res);
			const store_read_block *told = res.blocks.blocks_val;
			if (res.status != 0) {
				fail("a shard cannot be read", cell);
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
				fail("shards differ in version", cell);
			else if (version.generation && told->state != STORE_COMMITTED)
				fail("a shard is not committed", cell);
			else if (told->missed)
				fail("a miss is left", cell);
			free(res.blocks.blocks_val);
			free(res.payload.payload_val);
		}
	}
}

static void check_history(void)
{
	unsigned int cell;

	if (!run.failed && !checker_judge(&cell))
		fail("no order of reads and writes explains what was read", cell);
}

/* With any m nodes off, everything can be read, and written if enough are left. */
static void check_without_m(void)
{
	uint32_t off = 0;
	unsigned int n = world.node_count, m = world.shape.m;

	while (__builtin_popcount(off) < (int)m)
		off |= 1u << scheduler_below(n);
	for (unsigned int i = 0; i < n; i++) {
		if (off & (1u << i))
			world_kill_node(i, scheduler_chance(500));
	}
	say("off for good are nodes", off, 0);
	for (unsigned int block = 0; block < WORLD_BLOCKS && !run.failed; block++)
		do_read(WORLD_ENGINE_HEALER, block * world.cells_per_block, world.cells_per_block,
			true);
	if (world.shard_count - m >= world.min_shards && !run.failed)
		do_write(WORLD_ENGINE_HEALER, (unsigned int)scheduler_below(world.cell_count), 1,
			true, true);
}

/* What was stopped goes on. */
static void wait_for_processes(void)
{
	for (unsigned int i = 0; i < world.node_count + WORLD_ENGINES; i++) {
		struct process *process;

		if (i < world.node_count)
			world_store(i, &process);
		else
			process = world.engines[i - world.node_count].process;
		if (process && scheduler_stopped_us(process) > 0)
			scheduler_sleep(scheduler_stopped_us(process));
	}
}

/* One after the other, as it should be done. */
static void replace_disks(void)
{
	while (world_replace_disk()) {
		start_whatever_is_down();
		scheduler_sleep(6000000);
		do_heal(WORLD_ENGINE_HEALER, true);
		say("a disk was replaced", 0, 0);
	}
}

/* Everything works again; what is left to be done is done. */
static void come_to_rest(void)
{
	network_set_faults((struct network_faults){0});
	world_mend_disks();
	wait_for_processes();
	start_whatever_is_down();
	if (scheduler_chance(300))
		network_drop_all();
	/* Nodes that were down or stuck are noticed, late messages arrive, calls time out. */
	scheduler_sleep(40000000);
	run.doing = "replacing disks";
	replace_disks();
	run.doing = "commit at the end";
	for (unsigned int i = 0; i < 3 && !run.failed; i++)
		do_commit(i, true);
	run.doing = "rebuilding at the end";
	bool rebuilt = run.failed || !run.spares;
	for (unsigned int pass = 0; pass < 4 && !rebuilt && !run.failed; pass++) {
		scheduler_sleep(200000);
		rebuilt = do_rebuilds(true);
	}
	if (!rebuilt)
		fail("a shard cannot be made with all nodes up", UINT_MAX);
	world_remove_former_copies();
	run.doing = "read at the end";
	for (unsigned int i = 0; i < 2 && !run.failed; i++)
		do_read(any_engine(4), 0, world.cell_count, true);
	run.doing = "healing at the end";
	/*
	 * Twice: who was healed last may have a record of its own of those healed before. With
	 * pauses in which engines hear that a shard has been made.
	 */
	unsigned int healed = 0;
	for (unsigned int pass = 0; pass < 6 && healed < 2 && !run.failed; pass++) {
		scheduler_sleep(5000000);
		healed = do_heal(WORLD_ENGINE_HEALER, true) ? healed + 1 : 0;
	}
	if (healed < 2)
		fail("healing leaves something with all nodes up", UINT_MAX);
	scheduler_sleep(200000);
	run.doing = "shards at the end";
	check_shards();
}

static void doomed_write(void *context)
{
	(void)context;
	do_write(2, 0, world.cells_per_block, true, false);
	run.clients_left--;
}

/* An engine dies with a write under way; its successor's come first, and must stay. */
static void tell_of_late_messages(void)
{
	unsigned int block = world.cells_per_block;

	run.single_writer = true;
	run.doing = "late messages";
	for (unsigned int i = 0; i < 3; i++)
		do_write(2, i % 2 ? block : 0, block, true, true);
	run.clients_left = 1;
	network_hold(1000000);
	scheduler_start(&world.nature, doomed_write, NULL);
	scheduler_sleep(3000);
	world_kill_engine(2);
	network_hold(0);
	world_start_engine(2);
	do_write(2, 0, block, true, true);
	scheduler_sleep(2000000);
	do_read(any_engine(4), 0, block, true);
	while (run.clients_left > 0)
		scheduler_sleep(10000);
}

static bool others_work(const void *context)
{
	(void)context;
	return run.clients_left > 0;
}

static void rebuild_in_story(void *context)
{
	(void)context;
	do_rebuilds(false);
	run.clients_left--;
}

static void kill_nodes(uint32_t which, bool power_loss)
{
	for (unsigned int i = 0; i < world.node_count; i++) {
		if (which & (1u << i))
			world_kill_node(i, power_loss);
	}
}

/* One block, or cells of it, by an engine that may be cut off. */
static void work_at(unsigned int engine, unsigned int block)
{
	unsigned int first = block * world.cells_per_block;

	if (scheduler_chance(600))
		do_read(engine, first, world.cells_per_block, false);
	else if (scheduler_chance(500))
		do_write(engine, first, world.cells_per_block, true, false);
	else
		do_write(engine, first + (unsigned int)scheduler_below(world.cells_per_block), 1,
			scheduler_chance(700), false);
}

static uint32_t choose_nodes(uint32_t among, unsigned int count)
{
	uint32_t chosen = 0;

	while (__builtin_popcount(chosen) < (int)count && chosen != among)
		chosen |= among & 1u << scheduler_below(world.shard_count);
	return chosen;
}

/*
 * The nodes that the engine which is cut off from exportd reaches: those that took over shards only
 * now and then; of the others all, or no more than can tell that a version was not decided, if the
 * former ones count.
 */
static uint32_t choose_reach(uint32_t moved, uint32_t away)
{
	uint32_t shards = (1u << world.shard_count) - 1, told = moved | away;
	unsigned int others = world.shape.k - (unsigned int)__builtin_popcount(away);

	if (scheduler_chance(600))
		return told | choose_nodes(shards & ~told, others);
	if (scheduler_chance(300))
		shards &= ~(1u << scheduler_below(world.shard_count));
	return shards | (scheduler_chance(300) ? ~shards : 0);
}

static void engine_starts_anew(unsigned int engine)
{
	unsigned int node = world.engines[engine].node;

	world_kill_engine(engine);
	say("engine killed", engine, 0);
	if (node != UINT_MAX)
		world_start_node(node);
	else
		world_start_engine(engine);
}

/*
 * A shard is moved and made while an engine is cut off from exportd, which may have heard of the
 * move before, but does not hear of its end: it takes the former store for one, though that has
 * removed what it had. Nodes that were away have missed a write, and others forget with their power
 * that it is decided.
 */
static void tell_of_former_copies(void)
{
	unsigned int cut = scheduler_chance(850) ? 2 : 0, count = world.cells_per_block;
	unsigned int other = scheduler_chance(800) ? 2 - cut : WORLD_ENGINE_HEALER;
	unsigned int block = (unsigned int)scheduler_below(WORLD_SEGMENT_BLOCKS);
	unsigned int another = (block + 1) % WORLD_SEGMENT_BLOCKS;
	unsigned int k = world.shape.k, veto = k < world.shape.m + 1 ? k : world.shape.m + 1;
	unsigned int moves = k > 2 && world.node_count > world.shard_count + 1 ? 2 : 1;
	bool knows = scheduler_chance(850);
	/* But the one with an engine: that would be another one when it is back. */
	uint32_t nodes = ((1u << world.shard_count) - 1) & ~1u;
	uint32_t moved = choose_nodes(nodes, moves);
	/* As many as leave it to one more to make it look undecided. */
	unsigned int missing =
		scheduler_chance(800) ? veto - 1 : (unsigned int)scheduler_below(veto);

	run.doing = "former copies";
	do_write(other, 0, world.cell_count, true, true);
	if (!knows || scheduler_chance(200))
		work_at(cut, another);
	/*
	 * To who has not heard of the move it is promised only if former nodes, with those that
	 * were away when the others were fenced, are fewer than k.
	 */
	if (!knows && missing + moves >= k)
		missing = k - 1 - moves;
	uint32_t away = choose_nodes(nodes & ~moved, missing);
	kill_nodes(away, scheduler_chance(300));
	do_write(other, block * count, scheduler_chance(700) ? count : 1, true, false);
	/* Before it tells the stores that this is decided. */
	if (other != WORLD_ENGINE_HEALER && scheduler_chance(800))
		engine_starts_anew(other);
	for (unsigned int s = 0; s < world.shard_count; s++) {
		if ((moved & (1u << s)) && world_move_shard(0, s))
			say("a shard moves, of segment", 0, s);
	}
	if (knows)
		do_read(cut, another * count, count, false);
	struct process *process = world.engines[cut].process;
	process->cut_off_exportd = true;
	say("cut off from exportd: process", process->number, 0);
	if (scheduler_chance(500)) {
		/* They hear of the move, and are away again before they get what they missed. */
		start_whatever_is_down();
		run.clients_left = 1;
		scheduler_start(&world.nature, rebuild_in_story, NULL);
		scheduler_sleep(scheduler_below(12000));
		kill_nodes(away, scheduler_chance(300));
		scheduler_sleep_while(others_work, NULL, 1000);
	}
	for (unsigned int i = 0; i < 3 && world_is_rebuilding(0); i++)
		do_rebuilds(false);
	if (scheduler_chance(900))
		world_remove_former_copies();
	scheduler_sleep(5000);
	if (scheduler_chance(800))
		kill_nodes(cut == 0 ? nodes : UINT32_MAX, true);
	start_whatever_is_down();
	process->cut_off = ~choose_reach(moved, away);
	say("cut off from nodes: process", process->number, process->cut_off);
	scheduler_sleep(scheduler_chance(500) ? 6000000 : scheduler_below(20000000));
	if (scheduler_chance(600))
		do_read(cut, block * count, count, false);
	for (unsigned int i = 0; i < 3; i++)
		work_at(scheduler_chance(700) ? cut : other,
			scheduler_chance(800) ? block : another);
	process->cut_off = 0;
	process->cut_off_exportd = false;
	say("not cut off any more: process", process->number, 0);
	scheduler_sleep(scheduler_below(3000000));
	for (unsigned int i = 0; i < 3; i++)
		work_at(i % 2 ? WORLD_ENGINE_HEALER : cut, scheduler_chance(800) ? block : another);
}

struct doomed_truncation {
	unsigned int engine, cell;
};

static void doomed_truncate(void *context)
{
	const struct doomed_truncation *doomed = context;

	do_truncate(doomed->engine, doomed->cell, false);
	run.clients_left--;
}

static void exportd_goes_on(void *context)
{
	(void)context;
	network_set_exportd(EXPORTD_THERE);
	say("exportd is back", 0, 0);
}

/*
 * Whoever began a truncation is killed, or stopped, in the middle of it, and exportd says nothing.
 * Another engine works on, which must not be told that something is there to stay if the truncation
 * will take it away.
 */
static void tell_of_a_forsaken_truncation(void)
{
	struct doomed_truncation doomed = {.engine = scheduler_chance(500) ? 2 : 0,
		.cell = (unsigned int)scheduler_below(world.cell_count)};
	unsigned int other = scheduler_chance(500) ? 2 - doomed.engine : WORLD_ENGINE_HEALER;
	unsigned int count = world.cell_count - doomed.cell;
	bool killed = scheduler_chance(700);

	run.doing = "forsaken truncation";
	if (scheduler_chance(500))
		do_write(doomed.engine, 0, world.cell_count, true, true);
	do_write(other, 0, world.cell_count, true, true);
	do_read(doomed.engine, 0, 1, true);
	run.clients_left = 1;
	scheduler_start(&world.nature, doomed_truncate, &doomed);
	scheduler_sleep(scheduler_below(scheduler_chance(500) ? 1000 : 6000));
	network_set_exportd(scheduler_chance(500)   ? EXPORTD_HANGS
			    : scheduler_chance(800) ? EXPORTD_SLOW
						    : EXPORTD_GONE);
	/* Not for so long that it is taken for gone, or longer. */
	scheduler_after(scheduler_chance(700) ? 1000000 + scheduler_below(4000000)
					      : scheduler_below(30000000),
		exportd_goes_on, NULL);
	say("exportd is away", 0, 0);
	if (scheduler_chance(300))
		scheduler_sleep(scheduler_below(2000));
	struct process *process = world.engines[doomed.engine].process;
	if (killed) {
		engine_starts_anew(doomed.engine);
		scheduler_sleep_while(others_work, NULL, 500);
	} else {
		scheduler_stop(process, some_time(30000000));
		say("stopped: process", process->number, 0);
	}
	for (unsigned int i = 0; i < 3; i++) {
		unsigned int first = doomed.cell + (unsigned int)scheduler_below(count);

		if (scheduler_chance(300))
			do_read(other, 0, world.cell_count, false);
		else
			do_write(other, first,
				1 + (unsigned int)scheduler_below(world.cell_count - first),
				scheduler_chance(800), false);
		if (scheduler_chance(300))
			do_commit(other, false);
	}
	while (!network_exportd_is_there())
		scheduler_sleep(10000);
	/* Others carry it out, or who was stopped does, though others have by now. */
	do_write(WORLD_ENGINE_HEALER, (unsigned int)scheduler_below(world.cell_count), 1, true,
		false);
	do_read(other, 0, world.cell_count, false);
	do_read(WORLD_ENGINE_HEALER, 0, world.cell_count, false);
	scheduler_sleep_while(others_work, NULL, 10000);
}

static void tell_story(void)
{
	if (run.story == LATE_MESSAGES)
		tell_of_late_messages();
	else if (run.story == FORMER_COPIES)
		tell_of_former_copies();
	else
		tell_of_a_forsaken_truncation();
}

static bool clients_run(const void *context)
{
	(void)context;
	return run.clients_left > 0 || run.nemesis_left > 0;
}

static void director(void *context)
{
	unsigned int clients = 1 + (unsigned int)scheduler_below(4);

	(void)context;
	run.doing = "start";
	start_whatever_is_down();
	volatile_forget_flushes(world.mutation == FORGETS_FLUSHES);
	if (run.story) {
		tell_story();
		clients = 0;
	}
	run.doing = "run";
	run.op_budget = 6 + (unsigned int)scheduler_below(22);
	run.clients_left = clients;
	run.nemesis_left = 1;
	if (run.damage) {
		/* With fewer of them there is something to lose while shards are being made. */
		unsigned int count = run.spares && world.shape.m > 1 && scheduler_chance(500)
					     ? world.shape.m - 1
					     : world.shape.m;
		while (__builtin_popcount(run.victims) < (int)count)
			run.victims |= 1u << scheduler_below(world.node_count);
	}
	if (!run.calm_nodes && !run.story) {
		network_set_faulty_nodes(run.damage ? run.victims : UINT32_MAX);
		run.faults = (struct network_faults){
			.lost = scheduler_chance(300) ? 20 : 0,
			.unanswered = scheduler_chance(300) ? 20 : 0,
			.slow = scheduler_chance(300) && !run.damage ? 50 : 0,
			.late = scheduler_chance(300) ? 30 : 0,
			.twice = scheduler_chance(200) ? 20 : 0,
		};
		network_set_faults(run.faults);
	}
	for (unsigned int i = 0; i < clients; i++)
		scheduler_start(&world.nature, client, NULL);
	scheduler_start(&world.nature, nemesis, NULL);
	start_nemesis_if(run.disks_fail, disks_fail);
	start_nemesis_if(run.stops, processes_stop);
	start_nemesis_if(run.exportd_fails, exportd_fails);
	start_nemesis_if(run.cuts, engines_are_cut_off);
	start_nemesis_if(run.ends, nodes_end);
	scheduler_sleep_while(clients_run, NULL, 10000);
	if (!run.failed)
		come_to_rest();
	if (!run.failed) {
		run.doing = "read with m nodes gone";
		check_without_m();
	}
	run.doing = "the history";
	check_history();
	for (unsigned int i = 0; i < world.node_count; i++)
		world_kill_node(i, false);
	for (unsigned int i = 0; i < WORLD_ENGINES; i++)
		world_kill_engine(i);
	network_drop_all();
	world_bury();
	run.ended = true;
}

/* -------- seeds -------- */

static enum story choose_story(enum mutation mutation)
{
	if (scheduler_chance(5) || mutation == OLD_EPOCHS)
		return LATE_MESSAGES;
	if (is_chosen(8, 30) || mutation == ASSUMES_FORMER)
		return FORMER_COPIES;
	return is_chosen(9, 30) || mutation == SLOW_IS_GONE ? FORSAKEN_TRUNCATION : NO_STORY;
}

static bool run_seed(uint64_t seed, enum mutation mutation, uint64_t *hash)
{
	static const struct {
		unsigned int k, m;
	} shapes[] = {{2, 1}, {4, 2}, {2, 2}, {3, 3}, {2, 3}, {8, 4}, {2, 1}, {4, 2}};
	bool verbose = run.verbose;

	scheduler_reset(seed);
	memset(&run, 0, sizeof(run));
	run.seed = seed;
	run.verbose = verbose;
	run.quiet = mutation != MUTATION_NONE && !verbose;
	unsigned int shape = (unsigned int)scheduler_below(sizeof(shapes) / sizeof(shapes[0]));
	bool systematic = scheduler_chance(500);
	run.single_writer = scheduler_chance(600);
	run.damage = scheduler_chance(200);
	run.calm_nodes = !run.damage && scheduler_chance(150);
	run.nodes_stay_once_down = scheduler_chance(300);
	run.spares = scheduler_chance(400) ? 1 + scheduler_chance(500) : 0;
	run.story = choose_story(mutation);
	run.exportd_fails = run.story == FORMER_COPIES || run.story == FORSAKEN_TRUNCATION;
	if (run.story == FORMER_COPIES && !run.spares)
		run.spares = 1 + is_chosen(10, 300);
	if (!run.story) {
		run.disks_fail =
			!run.calm_nodes &&
			(is_chosen(0, 60) || mutation == TRUSTS_FAILED_FLUSHES ||
				mutation == HIDES_DISK_ERRORS || mutation == ZEROS_FOR_ERRORS);
		run.stops = is_chosen(1, 40);
		run.exportd_fails = is_chosen(2, 60) || mutation == EXPORTD_FORGETS ||
				    mutation == OLD_PLACEMENTS;
		run.cuts = !run.calm_nodes && is_chosen(3, 60);
		run.ends = !run.calm_nodes && is_chosen(6, 60);
		/* A page of zeros says, as an empty disk does, that there was nothing. */
		run.spoils = is_chosen(7, 300) && shapes[shape].k > shapes[shape].m;
		if (run.exportd_fails && !run.spares && is_chosen(5, 500))
			run.spares = 1;
	}
	world_reset(
		(struct world_shape){
			.form = systematic ? MOJETTE_SYSTEMATIC : MOJETTE_NON_SYSTEMATIC,
			.k = shapes[shape].k,
			.m = shapes[shape].m,
			.row_bytes = 64,
		},
		mutation, run.spares);
	unsigned int k = shapes[shape].k, m = shapes[shape].m, deciding = m + 1 > k ? m + 1 : k;
	world.min_shards = deciding;
	if (mutation == MUTATION_NONE && scheduler_chance(100))
		world.min_shards += (unsigned int)scheduler_below(k + m - deciding + 1);
	world.gather = scheduler_chance(500);
	world.exportd_fails = run.exportd_fails;
	world.logs = is_chosen(4, 60);
	checker_reset(world.cell_count);
	scheduler_start(&world.nature, director, NULL);
	if (!scheduler_run(RUN_LIMIT_US) || !run.ended) {
		fprintf(stderr, "seed %" PRIu64 ": does not come to an end (%s)\n", seed,
			run.doing);
		abort();
	}
	total_events += scheduler_events();
	*hash = scheduler_hash();
	return !run.failed;
}

/* -------- ends that nothing else tells of -------- */

static const char *program;

static void tell_seed(void)
{
	dprintf(STDERR_FILENO,
		"seed %" PRIu64 ": the program ends here (%s)\n"
		"repeat it with: %s --first %" PRIu64 " --seeds 1 --verbose\n",
		run.seed, run.doing ? run.doing : "reset", program, run.seed);
}

static void killed(int number)
{
	(void)number;
	tell_seed(); /* and then what the signal does without this */
}

/* A crash says with which seed it came: a long run is of no use otherwise. */
static void tell_seed_of_crashes(void)
{
	static char stack[64 * 1024]; /* that of a fiber may be what is at fault */
	stack_t place = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction action = {.sa_handler = killed, .sa_flags = SA_ONSTACK | SA_RESETHAND};

	sigaltstack(&place, NULL);
	sigaction(SIGABRT, &action, NULL);
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_set_death_callback(tell_seed);
#else
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGFPE, &action, NULL);
	sigaction(SIGILL, &action, NULL);
#endif
}

static void log_nothing(enum rozo_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

static int usage(void)
{
	fprintf(stderr, "simulation [--first N] [--seeds N] [--mutation NAME] [--all] [--verbose]\n"
			"simulation --repeat N: runs N seeds twice, compares\n"
			"simulation --mutations N: each mutation must show within N seeds\n");
	return 2;
}

/* The same seed is the same run, whatever ran before it. */
static int repeat(uint64_t first, uint64_t count)
{
	for (uint64_t seed = first; seed < first + count; seed++) {
		uint64_t one, other, between;

		run_seed(seed, MUTATION_NONE, &one);
		run_seed(seed + 1, MUTATION_NONE, &between);
		run_seed(seed, MUTATION_NONE, &other);
		if (one != other || one == between) {
			fprintf(stderr, "seed %" PRIu64 " does not repeat itself\n", seed);
			return EXIT_FAILURE;
		}
	}
	printf("%" PRIu64 " seeds repeat themselves\n", count);
	return EXIT_SUCCESS;
}

static int all_mutations(uint64_t first, uint64_t count)
{
	int result = EXIT_SUCCESS;

	for (unsigned int mutation = 1; mutation < MUTATIONS; mutation++) {
		uint64_t seed = first, hash;

		while (seed < first + count && run_seed(seed, mutation, &hash))
			seed++;
		if (seed == first + count) {
			fprintf(stderr, "%s: not noticed in %" PRIu64 " seeds\n",
				mutation_names[mutation], count);
			result = EXIT_FAILURE;
		} else {
			printf("%s: noticed after %" PRIu64 " seeds\n", mutation_names[mutation],
				seed - first + 1);
		}
	}
	return result;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, count = 1000, hash, done = 0, failures = 0, repeats = 0, mutations = 0;
	enum mutation mutation = MUTATION_NONE;
	bool all = false;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--all")) {
			all = true;
			continue;
		}
		if (!strcmp(argv[i], "--verbose")) {
			run.verbose = true;
			continue;
		}
		if (!value)
			return usage();
		i++;
		if (!strcmp(argv[i - 1], "--first")) {
			first = strtoull(value, NULL, 10);
		} else if (!strcmp(argv[i - 1], "--seeds")) {
			count = strtoull(value, NULL, 10);
		} else if (!strcmp(argv[i - 1], "--repeat")) {
			repeats = strtoull(value, NULL, 10);
		} else if (!strcmp(argv[i - 1], "--mutations")) {
			mutations = strtoull(value, NULL, 10);
		} else if (!strcmp(argv[i - 1], "--mutation")) {
			for (unsigned int m = 0; m < MUTATIONS; m++) {
				if (!strcmp(value, mutation_names[m]))
					mutation = m;
			}
			if (mutation == MUTATION_NONE)
				return usage();
		} else {
			return usage();
		}
	}
	program = argv[0];
	tell_seed_of_crashes();
	if (run.verbose)
		network_set_verbose(true);
	else
		rozo_log_set_sink(log_nothing);
	if (repeats)
		return repeat(first, repeats);
	if (mutations)
		return all_mutations(first, mutations);
	for (uint64_t seed = first; seed < first + count; seed++) {
		bool good = run_seed(seed, mutation, &hash);
		done++;
		failures += !good;
		if (!good && !all) {
			fprintf(stderr,
				"repeat it with: %s --first %" PRIu64 " --seeds 1 --verbose\n",
				argv[0], seed);
			printf("%" PRIu64 " schedules, then a failure\n", done);
			return EXIT_FAILURE;
		}
	}
	printf("%" PRIu64 " schedules, %" PRIu64 " operations, %" PRIu64
	       " events; the longest operation took %" PRIu64 " ms\n",
		done, total_ops, total_events, longest_ever / 1000);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
