/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See world.h. */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"
#include "rpc/meta.h"
#include "rpc/store.h"
#include "stripe/internal.h"
#include "tests/unit/volatile_io.h"

const char *const mutation_names[MUTATIONS] = {
	[MUTATION_NONE] = "none",
	[ANSWERS_UNDECIDED] = "answers-undecided",
	[SKIPS_GUARD] = "skips-guard",
	[FORGETS_MISSES] = "forgets-misses",
	[FORGETS_PROMISES] = "forgets-promises",
	[TRUSTS_RESTARTED] = "trusts-restarted",
	[FORGETS_FLUSHES] = "forgets-flushes",
	[REPLACES_DECIDED] = "replaces-decided",
	[OLD_EPOCHS] = "old-epochs",
	[DISCARDS_BLINDLY] = "discards-blindly",
	[HIDES_DISCARDS] = "hides-discards",
	[HIDES_TRUNCATIONS] = "hides-truncations",
	[TRUSTS_FAILED_FLUSHES] = "trusts-failed-flushes",
	[HIDES_DISK_ERRORS] = "hides-disk-errors",
	[ZEROS_FOR_ERRORS] = "zeros-for-errors",
	[OLD_PLACEMENTS] = "old-placements",
	[EXPORTD_FORGETS] = "exportd-forgets",
	[ASSUMES_FORMER] = "assumes-former",
	[SLOW_IS_GONE] = "slow-is-gone",
};

struct world world;

static struct node_state {
	struct process *process; /* NULL: down */
	struct store *store;
	bool lost_power;
	bool busy; /* it is just being started, or ended in good order */
	enum disk_fault fault;
	bool errors; /* its disk has failed since it was sound */
	char directory[32];
} nodes[WORLD_NODES_MAX];

static struct file {
	uint64_t size;
	uint32_t write_epoch, layout_epoch, write_gateway;
	bool truncate;
	uint64_t truncate_size;
	uint32_t valid_epoch; /* of the last truncation, or move of a shard that is over */
	uint32_t segment_count;
	uint64_t writer; /* who asked for the write epoch; 0: nobody yet */
} file, noted_file;

static struct process **processes; /* of this run, kept to its end: messages name them */
static unsigned int process_count;
static unsigned int undead; /* dead processes that have not ended */

static struct process *process_make(void)
{
	struct process *process = calloc(1, sizeof(*process));
	struct process **more = realloc(processes, (process_count + 1) * sizeof(*processes));

	if (!process || !more)
		abort();
	processes = more;
	processes[process_count++] = process;
	process->alive = true;
	process->number = process_count;
	process->node = UINT_MAX;
	return process;
}

/* What exportd knows of shards that spare nodes have taken over. */
#define SEGMENTS ((WORLD_BLOCKS + WORLD_SEGMENT_BLOCKS - 1) / WORLD_SEGMENT_BLOCKS)
static struct move {
	uint32_t moved, rebuilding; /* bit s: shard s */
	uint32_t nodes[MOJETTE_N_MAX]; /* of the shards that were moved */
	uint32_t since[MOJETTE_N_MAX]; /* the write epoch of each move */
	meta_origin origins[MOJETTE_N_MAX]; /* who had the shards that are being made */
	unsigned int origin_count;
	unsigned int taken; /* spare nodes */
	uint32_t switch_epoch;
} moves[SEGMENTS], noted_moves[SEGMENTS];

/* What former nodes have of shards that have been made, and are to remove. */
static struct removal {
	unsigned int node;
	uint32_t segment;
} removals[2 * MOJETTE_N_MAX];
static unsigned int removal_count;

/* -------- disks: volatile_io.h, as a process sees it that may be dead -------- */

static bool dead(void)
{
	return scheduler_process() && !scheduler_process()->alive;
}

/* The fault of the running process's disk. */
static enum disk_fault disk_fault(void)
{
	const struct process *process = scheduler_process();

	return process && process->node != UINT_MAX ? nodes[process->node].fault : DISK_SOUND;
}

/* 0, or why an operation fails. takes_room: it needs some that it does not have yet. */
static int disk_error(bool takes_room)
{
	enum disk_fault fault = disk_fault();

	if (dead())
		return -EIO;
	if (fault == DISK_FULL && takes_room && scheduler_chance(500))
		return -ENOSPC;
	if (fault != DISK_BROKEN && (fault != DISK_FAILS || !scheduler_chance(100)))
		return 0;
	nodes[scheduler_process()->node].errors = true;
	return -EIO;
}

/*
 * An operation that changes something, whose process may be killed before it, but not within: one
 * that went on after its successor has begun would be no fault of the store's.
 */
static int change_begins(bool takes_room)
{
	scheduler_call_begins();
	return disk_error(takes_room);
}

static int change_ends(int result)
{
	scheduler_call_ends();
	return result;
}

static int disk_open(const char *path, int flags, mode_t mode)
{
	int error = change_begins((flags & O_CREAT) != 0);

	return change_ends(error ? error : volatile_io.open(path, flags, mode));
}

static ssize_t disk_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	int error = disk_error(false);

	if (error && !dead() && world.mutation == ZEROS_FOR_ERRORS)
		return 0; /* as if the file ended here */
	return error ? error : volatile_io.read(descriptor, parts, count, offset);
}

static ssize_t disk_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	uint64_t bytes = 0;
	bool grows = disk_fault() == DISK_FULL && volatile_io.size(descriptor, &bytes) == 0 &&
		     offset >= bytes;
	int error = change_begins(grows);
	struct iovec part = parts[0];

	/* Part of it may have been written. */
	if (error && !dead() && part.iov_len > 512 && scheduler_chance(500)) {
		part.iov_len = 512 * (1 + scheduler_below(part.iov_len / 512));
		volatile_io.write(descriptor, &part, 1, offset);
	}
	return change_ends(
		error ? error : (int)volatile_io.write(descriptor, parts, count, offset));
}

/* Takes its time: others work meanwhile, and it may not come to its end. */
static int disk_sync_data(int descriptor)
{
	if (!scheduler_process())
		return volatile_io.sync_data(descriptor); /* a disk is being prepared */
	if (dead())
		return -EIO;
	scheduler_sleep(scheduler_below(disk_fault() == DISK_SLOW ? 10000000 : 2000));
	int error = change_begins(false);
	if (error && !dead()) {
		volatile_fail_flush(descriptor);
		return change_ends(world.mutation == TRUSTS_FAILED_FLUSHES ? 0 : error);
	}
	error = change_ends(error ? error : volatile_io.sync_data(descriptor));
	if (!error)
		scheduler_sleep(scheduler_below(500));
	return dead() ? -EIO : error;
}

static int disk_sync_file_system(int descriptor)
{
	if (!scheduler_process())
		return volatile_io.sync_file_system(descriptor);
	scheduler_sleep(scheduler_below(5000));
	int error = change_begins(false);
	return change_ends(error ? error : volatile_io.sync_file_system(descriptor));
}

static int disk_sync_directory(const char *path)
{
	int error = change_begins(false);

	return change_ends(error ? error : volatile_io.sync_directory(path));
}

static int disk_make_directory(const char *path, mode_t mode)
{
	int error = change_begins(true);

	return change_ends(error ? error : volatile_io.make_directory(path, mode));
}

static int disk_punch(int descriptor, uint64_t offset, uint64_t bytes)
{
	int error = change_begins(false);

	return change_ends(error ? error : volatile_io.punch(descriptor, offset, bytes));
}

static int disk_rename(const char *from, const char *to)
{
	int error = change_begins(false);

	return change_ends(error ? error : volatile_io.rename(from, to));
}

static int disk_remove(const char *path)
{
	int error = change_begins(false);

	return change_ends(error ? error : volatile_io.remove(path));
}

static int disk_list(const char *path, store_io_name each, void *context)
{
	int error = disk_error(false);

	return error ? error : volatile_io.list(path, each, context);
}

static int disk_space(const char *path, struct store_space *space)
{
	int error = disk_error(false);

	if (!error)
		error = volatile_io.space(path, space);
	if (!error && disk_fault() == DISK_FULL && scheduler_chance(500))
		space->free_bytes = 0;
	return error;
}

static struct store_io disk;

static void disk_init(void)
{
	disk = volatile_io;
	disk.open = disk_open;
	disk.read = disk_read;
	disk.write = disk_write;
	disk.sync_data = disk_sync_data;
	disk.sync_file_system = disk_sync_file_system;
	disk.sync_directory = disk_sync_directory;
	disk.punch = disk_punch;
	disk.make_directory = disk_make_directory;
	disk.rename = disk_rename;
	disk.remove = disk_remove;
	disk.list = disk_list;
	disk.space = disk_space;
}

/* -------- exportd -------- */

static void meta_placement(const meta_placement_args *args, meta_placement_res *res)
{
	unsigned int n = world.shard_count;

	bool free = !file.writer || args->writer == file.writer;

	if (args->allocate && args->segment >= file.segment_count)
		file.segment_count = args->segment + 1;
	if (args->segment >= file.segment_count) {
		res->status = ENOENT;
		res->next_segment = META_SEGMENTS_MAX;
		return;
	}
	if (args->writer && args->writer != file.writer && (free || !args->if_free) &&
		world.mutation != OLD_EPOCHS) {
		if (file.writer)
			file.write_epoch++;
		file.writer = args->writer;
	}
	res->layout_epoch = file.layout_epoch;
	res->write_epoch = file.write_epoch;
	res->claimed = args->writer && (free || !args->if_free);
	res->write_gateway = file.write_gateway;
	res->truncate = file.truncate;
	res->truncate_size = file.truncate_size;
	res->attributes.size = file.size;
	res->nodes.nodes_len = n;
	res->nodes.nodes_val = calloc(n, sizeof(uint32_t));
	for (unsigned int s = 0; s < n; s++)
		res->nodes.nodes_val[s] =
			world_node_of(args->segment * WORLD_SEGMENT_BLOCKS, s) + 1;
	res->rebuilding = moves[args->segment].rebuilding;
	res->switch_epoch = moves[args->segment].switch_epoch;
	if (res->rebuilding) {
		const struct move *move = &moves[args->segment];

		res->since.since_len = n;
		res->since.since_val = calloc(n, sizeof(uint32_t));
		memcpy(res->since.since_val, move->since, n * sizeof(uint32_t));
		res->origins.origins_len = move->origin_count;
		res->origins.origins_val = calloc(n, sizeof(meta_origin));
		memcpy(res->origins.origins_val, move->origins,
			move->origin_count * sizeof(meta_origin));
	}
	res->form = world.shape.form;
	res->k = world.shape.k;
	res->m = world.shape.m;
	res->row_bytes = world.shape.row_bytes;
	res->min_shards = world.min_shards;
	res->segment_blocks = WORLD_SEGMENT_BLOCKS;
	res->segment_count = file.segment_count;
}

static void meta_written(const meta_written_args *args, meta_attributes_res *res)
{
	if (args->write_epoch && args->write_epoch < file.write_epoch) {
		res->status = EAGAIN;
		return;
	}
	if (args->size > file.size)
		file.size = args->size;
	res->attributes.size = file.size;
}

void world_meta(uint32_t procedure, const void *args, void *result)
{
	const meta_truncated_args *truncated = args;
	const meta_check_epoch_args *check = args;

	switch (procedure) {
	case META_PLACEMENT:
		meta_placement(args, result);
		break;
	case META_WRITTEN:
		meta_written(args, result);
		break;
	case META_TRUNCATED:
		if (truncated->write_epoch == file.write_epoch)
			file.truncate = false;
		else if (file.truncate)
			((meta_status_res *)result)->status = EAGAIN;
		break;
	case META_CHECK_EPOCH:
		if (check->write_epoch < (file.truncate ? file.write_epoch : file.valid_epoch) &&
			world.mutation != HIDES_TRUNCATIONS)
			((meta_status_res *)result)->status = EAGAIN;
		break;
	default:
		abort();
	}
}

void world_begin_truncation(uint64_t size)
{
	if (!file.truncate || size < file.truncate_size)
		file.truncate_size = size;
	file.size = size;
	file.truncate = true;
	file.valid_epoch = ++file.write_epoch;
}

void world_move_gateway(struct engine *engine)
{
	file.write_gateway = engine->node + 1;
	file.layout_epoch++;
	if (world.mutation != OLD_EPOCHS)
		file.write_epoch++;
	engine->fenced = scheduler_now();
	engine->moved = true;
}

void world_note_exportd(void)
{
	noted_file = file;
	memcpy(noted_moves, moves, sizeof(moves));
}

void world_exportd_returns(void)
{
	if (world.mutation != EXPORTD_FORGETS)
		return;
	file = noted_file;
	memcpy(moves, noted_moves, sizeof(moves));
}

/* From what was noted. */
static bool answer_as_noted(uint32_t procedure, const void *args, void *result)
{
	struct file now = file;
	struct move moves_now[SEGMENTS];

	if (world.mutation != OLD_PLACEMENTS || procedure != META_PLACEMENT)
		return false;
	memcpy(moves_now, moves, sizeof(moves));
	file = noted_file;
	memcpy(moves, noted_moves, sizeof(moves));
	world_meta(procedure, args, result);
	file = now;
	memcpy(moves, moves_now, sizeof(moves));
	return true;
}

bool world_meta_instead(int error, uint32_t procedure, const void *args, void *result)
{
	/* *result is that nothing waits. */
	if (world.mutation == SLOW_IS_GONE && procedure == META_CHECK_EPOCH)
		return error == -ETIMEDOUT || error == -ECONNRESET;
	return answer_as_noted(procedure, args, result);
}

/* In the place of stripe/'s own (--wrap). */
int __real_segment_confirm_former(struct stripe_file *file, const struct segment *former);
int __wrap_segment_confirm_former(struct stripe_file *file, const struct segment *former);
int __wrap_segment_confirm_former(struct stripe_file *file, const struct segment *former)
{
	int error = __real_segment_confirm_former(file, former);

	return world.mutation == ASSUMES_FORMER && error != -ESTALE ? 0 : error;
}

/* -------- stores -------- */

static void change_boot(uint64_t *boot, const struct store *store)
{
	if (world.mutation == TRUSTS_RESTARTED && *boot == store_boot(store))
		*boot = 1;
}

static void execute_write(
	struct store *store, const store_write_args *args, store_write_res *result)
{
	store_write_args write = *args;

	if (world.mutation == FORGETS_MISSES)
		write.missed = 0;
	if (world.mutation == SKIPS_GUARD && write.exact_base == STORE_BASE_DECIDED) {
		for (uint32_t i = 0; i < write.blocks.blocks_len; i++) {
			write.blocks.blocks_val[i].base = write.block_version;
			write.blocks.blocks_val[i].base.generation--;
		}
	}
	if (world.mutation == REPLACES_DECIDED) {
		if (write.exact_base == STORE_BASE_DECIDED &&
			write.blocks.blocks_val[0].base.generation)
			write.exact_base = STORE_BASE_UNDECIDED;
		write.undecided = *(typeof(write.undecided) *)&write.commits;
		write.commits.commits_len = 0;
		write.undecided_boot = store_boot(store);
	}
	if (world.mutation == TRUSTS_RESTARTED && write.undecided_boot == 1)
		write.undecided_boot = store_boot(store);
	store_write(store, &write, result);
	if (world.mutation == HIDES_DISK_ERRORS &&
		(result->status == EIO || result->status == ENOSPC))
		result->status = 0;
	change_boot(&result->boot, store);
}

void world_execute(struct store *store, uint32_t procedure, const void *args, void *result)
{
	if (procedure == STORE_WRITE) {
		execute_write(store, args, result);
	} else if (procedure == STORE_READ) {
		store_read_args read = *(const store_read_args *)args;
		if (world.mutation == FORGETS_PROMISES)
			read.refuse = (store_version){0};
		store_read(store, &read, result);
		change_boot(&((store_read_res *)result)->boot, store);
	} else if (procedure == STORE_MISSED && world.mutation == FORGETS_MISSES &&
		   !((const store_missed_args *)args)->clear) {
		((store_status_res *)result)->boot = store_boot(store);
	} else if (procedure == STORE_COMMIT && world.mutation == DISCARDS_BLINDLY) {
		store_commit_args commit = *(const store_commit_args *)args;
		commit.unless_missed = 0;
		store_commit(store, &commit, result);
	} else {
		store_local_call(store, procedure, args, result);
		if (procedure == STORE_MISSED && world.mutation == HIDES_DISCARDS &&
			((store_status_res *)result)->status == EAGAIN)
			((store_status_res *)result)->status = 0;
		if (procedure != STORE_STAT)
			change_boot(&((store_status_res *)result)->boot, store);
	}
}

struct store *world_store(unsigned int node, struct process **process)
{
	*process = nodes[node].process;
	return nodes[node].process ? nodes[node].store : NULL;
}

bool world_lost_power(unsigned int node)
{
	return nodes[node].lost_power;
}

bool world_node_is_up(unsigned int node)
{
	return nodes[node].process != NULL;
}

uint32_t world_nodes_up(void)
{
	uint32_t up = 0;

	for (unsigned int i = 0; i < world.node_count; i++)
		up |= world_node_is_up(i) ? 1u << i : 0;
	return up;
}

unsigned int world_node_of(uint64_t block, unsigned int shard)
{
	const struct move *move = &moves[block / WORLD_SEGMENT_BLOCKS];

	if (move->moved & (1u << shard))
		return move->nodes[shard];
	return (unsigned int)((shard + block / WORLD_SEGMENT_BLOCKS) % world.shard_count);
}

bool world_move_shard(uint32_t segment, unsigned int shard)
{
	struct move *move = &moves[segment];
	unsigned int next = world.shard_count + move->taken;
	uint32_t making = move->rebuilding | 1u << shard;

	if (next >= world.node_count || segment >= file.segment_count ||
		/* Who cannot ask exportd may go by k former nodes ("What is not promised"). */
		(world.exportd_fails && move->taken + 1 >= world.shape.k) ||
		/* exportd leaves it while too few nodes are up that have theirs. */
		world.shard_count - (unsigned int)__builtin_popcount(making) < world.shape.k)
		return false;
	move->taken++;
	move->switch_epoch = ++file.write_epoch;
	move->origins[move->origin_count++] = (meta_origin){
		.node = world_node_of((uint64_t)segment * WORLD_SEGMENT_BLOCKS, shard) + 1,
		.shard = shard,
		.since = move->since[shard],
		.until = move->switch_epoch,
	};
	move->nodes[shard] = next;
	move->moved |= 1u << shard;
	move->rebuilding = making;
	move->since[shard] = move->switch_epoch;
	/*
	 * Former nodes that are enough for a read without anybody else: who has not heard of that
	 * may be told what was there before (docs/protocol.md, "What is not promised").
	 */
	for (unsigned int i = 0; i < WORLD_ENGINES; i++)
		world.engines[i].moved |= move->taken >= world.shape.k;
	return true;
}

bool world_is_rebuilding(uint32_t segment)
{
	return moves[segment].rebuilding != 0;
}

void world_rebuilt(uint32_t segment, unsigned int shard, uint32_t write_epoch)
{
	struct move *move = &moves[segment];

	if (write_epoch < move->switch_epoch)
		return;
	move->rebuilding &= ~(1u << shard);
	if (move->since[shard] > file.valid_epoch)
		file.valid_epoch = move->since[shard];
	move->since[shard] = 0;
	if (!move->rebuilding)
		move->switch_epoch = 0;
	unsigned int left = 0;
	for (unsigned int i = 0; i < move->origin_count; i++) {
		if (move->origins[i].shard != shard)
			move->origins[left++] = move->origins[i];
		else if (removal_count < sizeof(removals) / sizeof(removals[0]))
			removals[removal_count++] = (struct removal){
				.node = move->origins[i].node - 1, .segment = segment};
	}
	move->origin_count = left;
}

struct removing {
	struct store *store;
	uint32_t segment;
};

/* In a fiber of the former node's process, which may be dead by then, with its store. */
static void remove_former_copy(void *context)
{
	struct removing *removing = context;
	const store_remove_args args = {.file = {.export_id = WORLD_EXPORT,
						.segment = removing->segment,
						.file_id = WORLD_FILE}};
	store_status_res res = {0};

	world_execute(removing->store, STORE_REMOVE, &args, &res);
	free(removing);
}

void world_remove_former_copies(void)
{
	unsigned int left = 0;

	for (unsigned int i = 0; i < removal_count; i++) {
		struct process *process;
		struct store *store = world_store(removals[i].node, &process);
		struct removing *removing = store ? malloc(sizeof(*removing)) : NULL;

		if (!removing) {
			removals[left++] = removals[i];
			continue;
		}
		*removing = (struct removing){.store = store, .segment = removals[i].segment};
		scheduler_start(process, remove_former_copy, removing);
	}
	removal_count = left;
}

/* -------- processes -------- */

/* Calls to the store in the same process. */
static void local_call(void *store, uint32_t procedure, const void *args, void *result)
{
	world_execute(store, procedure, args, result);
}

static void engine_create(struct engine *engine, struct process *process, struct store *store)
{
	struct stripe_node list[WORLD_NODES_MAX];
	static const struct rpc_key key;

	for (unsigned int i = 0; i < world.node_count; i++)
		list[i] = (struct stripe_node){
			.id = i + 1, .address = "simulated", .store_port = (uint16_t)i};
	struct stripe_options options = {
		.nodes = list,
		.node_count = world.node_count,
		.exportd_address = "simulated",
		.exportd_port = NETWORK_EXPORTD_PORT,
		.key = &key,
		.local_node = store ? engine->node + 1 : 0,
		.local_call = local_call,
		.local_store = store,
		.cache_bytes = 2 * (size_t)world.shape.k * world.shape.row_bytes,
		.cache_file_bytes = 2 * (size_t)world.shape.k * world.shape.row_bytes,
		.gather = world.gather,
	};
	if (stripe_create(&options, &engine->stripe))
		abort();
	engine->process = process;
	engine->fenced = scheduler_now();
	engine->moved = false;
}

void world_start_node(unsigned int node)
{
	struct node_state *state = &nodes[node];
	const char *devices[] = {state->directory};
	struct store_options options = {
		.cluster_id = "simulation",
		.node_id = node + 1,
		.devices = devices,
		.device_count = 1,
		.log_bytes = world.logs ? 64 << 10 : 0,
		.log_checkpoint_ms = world.logs ? 1000 : 0,
		.io = &disk,
	};
	struct process *process = process_make(), *before = scheduler_process();
	char text[512] = "";

	if (state->process)
		abort();
	if (state->busy)
		return;
	state->busy = true;
	process->node = node;
	volatile_on(node);
	scheduler_enter(process);
	bool sound = state->fault == DISK_SOUND;
	int error = store_open(&state->store, &options, text, sizeof(text));
	state->busy = false;
	if (error) {
		if (sound && state->fault == DISK_SOUND && !state->errors) {
			fprintf(stderr, "store_open: %s\n", text);
			abort();
		}
		process->alive = false;
		state->store = NULL;
		volatile_off(node, false);
		scheduler_enter(before);
		return;
	}
	state->process = process;
	state->lost_power = false;
	for (unsigned int i = 0; i < WORLD_ENGINES; i++) {
		if (world.engines[i].node == node)
			engine_create(&world.engines[i], process, state->store);
	}
	scheduler_enter(before);
}

void world_start_engine(unsigned int number)
{
	struct process *process = process_make(), *before = scheduler_process();

	scheduler_enter(process);
	engine_create(&world.engines[number], process, NULL);
	scheduler_enter(before);
}

/* What is left of a process. */
struct grave {
	struct process *process;
	struct stripe *stripe;
	struct store *store;
	unsigned int others; /* fibers that need not have ended yet */
};

static bool others_run(const void *context)
{
	const struct grave *grave = context;

	return grave->process->fibers > grave->others;
}

/* Ends a process, in a fiber of it: if it is dead nothing it does has an effect. */
static void bury(void *context)
{
	struct grave *grave = context;
	unsigned int of_store = 1 + (grave->store && world.logs);
	/* This fiber and the threads of store and engine. */
	grave->others = of_store + (grave->stripe != NULL) * (1 + world.gather);
	scheduler_sleep_while(others_run, grave, 200);
	if (grave->stripe)
		stripe_destroy(grave->stripe);
	grave->others = of_store;
	scheduler_sleep_while(others_run, grave, 200);
	if (grave->store)
		store_close(grave->store);
	grave->process->alive = false;
	undead--;
	free(grave);
}

/* killed: else it ends by itself. */
static void end_process(struct process *process, struct store *store, bool killed)
{
	struct grave *grave = calloc(1, sizeof(*grave));

	*grave = (struct grave){.process = process, .store = store};
	process->alive = !killed;
	for (unsigned int i = 0; i < WORLD_ENGINES; i++) {
		struct engine *engine = &world.engines[i];
		if (engine->process != process)
			continue;
		grave->stripe = engine->stripe;
		engine->process = NULL;
		engine->stripe = NULL;
	}
	if (killed)
		network_process_died(process);
	undead++;
	scheduler_start(process, bury, grave);
}

void world_kill_node(unsigned int node, bool power_loss)
{
	struct node_state *state = &nodes[node];

	if (!state->process)
		return;
	struct process *process = state->process;
	struct store *store = state->store;
	state->process = NULL;
	state->store = NULL;
	state->lost_power = power_loss;
	/* Nobody starts it while it goes off. */
	state->busy = true;
	volatile_off(node, power_loss);
	state->busy = false;
	end_process(process, store, true);
}

static bool is_alive(const void *context)
{
	const struct process *process = context;

	return process->alive;
}

void world_end_node(unsigned int node)
{
	struct node_state *state = &nodes[node];
	struct process *process = state->process;

	if (!process)
		return;
	state->process = NULL;
	state->busy = true;
	end_process(process, state->store, false);
	state->store = NULL;
	scheduler_sleep_while(is_alive, process, 500);
	volatile_off(node, false);
	state->busy = false;
}

void world_kill_engine(unsigned int number)
{
	struct engine *engine = &world.engines[number];

	if (!engine->process)
		return;
	if (engine->node != UINT_MAX)
		world_kill_node(engine->node, false);
	else
		end_process(engine->process, NULL, true);
}

static bool some_are_undead(const void *context)
{
	(void)context;
	return undead > 0;
}

void world_bury(void)
{
	scheduler_sleep_while(some_are_undead, NULL, 500);
}

/* -------- damage -------- */

struct listing {
	char names[16][64];
	unsigned int count;
};

static int list_name(void *context, const char *name)
{
	struct listing *listing = context;

	if (listing->count < 16)
		snprintf(listing->names[listing->count++], 64, "%s", name);
	return 0;
}

/* Steps down through directories to a file that is a side of a store file. -1: there is none. */
static int open_some_side(unsigned int node)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/shards", nodes[node].directory);
	for (unsigned int level = 0; level < 3; level++) {
		struct listing listing = {.count = 0};
		struct listing *filled = &listing;

		if (volatile_io.list(path, list_name, filled) || !filled->count)
			return -1;
		/* Of the hash directories, one that has something. */
		unsigned int start = (unsigned int)scheduler_below(filled->count);
		bool found = false;
		for (unsigned int i = 0; i < filled->count && !found; i++) {
			char next[256];
			struct listing below = {.count = 0};
			const char *name = filled->names[(start + i) % filled->count];

			snprintf(next, sizeof(next), "%.180s/%s", path, name);
			if (level < 2 &&
				(volatile_io.list(next, list_name, &below) || !below.count))
				continue;
			memcpy(path, next, sizeof(path));
			found = true;
		}
		if (!found)
			return -1;
	}
	return volatile_io.open(path, O_RDWR, 0);
}

/* A page of zeros, or of other bytes: a write that went elsewhere, or never to the medium. */
void world_spoil_page(unsigned int node)
{
	int descriptor = open_some_side(node);
	static uint8_t page[4096];
	struct iovec part = {.iov_base = page, .iov_len = sizeof(page)};
	uint64_t bytes;

	if (descriptor < 0)
		return;
	if (volatile_io.size(descriptor, &bytes) == 0 && bytes >= sizeof(page)) {
		uint64_t at = scheduler_below(bytes / sizeof(page)) * sizeof(page);

		memset(page, scheduler_chance(500) ? 0 : (int)scheduler_below(256), sizeof(page));
		volatile_io.write(descriptor, &part, 1, at);
	}
	volatile_io.close(descriptor);
}

void world_flip_bit(unsigned int node)
{
	int descriptor = open_some_side(node);
	uint64_t bytes;

	if (descriptor < 0)
		return;
	if (volatile_io.size(descriptor, &bytes) == 0 && bytes > 0) {
		/* Records and rows of the few blocks lie at the beginning of a page or row area. */
		uint64_t at = scheduler_below(bytes);
		uint8_t byte;
		struct iovec part = {.iov_base = &byte, .iov_len = 1};

		volatile_io.read(descriptor, &part, 1, at);
		byte ^= (uint8_t)(1u << scheduler_below(8));
		part = (struct iovec){.iov_base = &byte, .iov_len = 1};
		volatile_io.write(descriptor, &part, 1, at);
	}
	volatile_io.close(descriptor);
}

void world_set_disk(unsigned int node, enum disk_fault fault)
{
	if (nodes[node].fault != DISK_BROKEN)
		nodes[node].fault = fault;
}

static void make_device(unsigned int node)
{
	char text[512] = "";

	if (store_init_device(
		    &disk, nodes[node].directory, "simulation", node + 1, text, sizeof(text)))
		abort();
}

void world_mend_disks(void)
{
	for (unsigned int i = 0; i < world.node_count; i++) {
		struct node_state *state = &nodes[i];

		if (state->fault == DISK_BROKEN)
			continue;
		if (state->errors)
			world_kill_node(i, scheduler_chance(500));
		state->fault = DISK_SOUND;
		state->errors = false;
	}
}

bool world_replace_disk(void)
{
	unsigned int node = 0;

	while (node < world.node_count && nodes[node].fault != DISK_BROKEN)
		node++;
	if (node == world.node_count)
		return false;
	world_kill_node(node, false);
	nodes[node].fault = DISK_SOUND;
	snprintf(nodes[node].directory, sizeof(nodes[node].directory), "/%u/new", node);
	volatile_on(node);
	volatile_io.make_directory(nodes[node].directory, 0700);
	make_device(node);
	return true;
}

/* -------- all of it -------- */

void world_reset(struct world_shape shape, enum mutation mutation, unsigned int spares)
{
	unsigned int n = shape.k + shape.m + spares;

	disk_init();
	memset(&world, 0, sizeof(world));
	memset(nodes, 0, sizeof(nodes));
	memset(&file, 0, sizeof(file));
	memset(moves, 0, sizeof(moves));
	removal_count = 0;
	file.write_epoch = 1;
	file.layout_epoch = 1;
	file.write_gateway = 1;
	while (process_count > 0)
		free(processes[--process_count]);
	undead = 0;
	volatile_reset(scheduler_random());
	network_reset();
	world.shape = shape;
	world.mutation = mutation;
	world.node_count = n;
	world.shard_count = shape.k + shape.m;
	world.cells_per_block = shape.k < 4 ? shape.k : 4;
	world.cell_bytes = shape.k * shape.row_bytes / world.cells_per_block;
	world.cell_count = WORLD_BLOCKS * world.cells_per_block;
	world.nature.alive = true;
	world.nature.node = UINT_MAX;
	world.engines[0].node = 0;
	world.engines[WORLD_ENGINE_SPARE].node = spares > 0 ? world.shard_count : 1;
	world.engines[2].node = UINT_MAX;
	world.engines[3].node = UINT_MAX;
	world.engines[WORLD_ENGINE_SPARE_2].node =
		spares > 1 ? world.shard_count + 1 : WORLD_NOWHERE;
	for (unsigned int i = 0; i < n; i++) {
		char machine[16];
		struct node_state *state = &nodes[i];

		snprintf(machine, sizeof(machine), "/%u", i);
		snprintf(state->directory, sizeof(state->directory), "/%u/device", i);
		volatile_io.make_directory(state->directory, 0700);
		volatile_io.sync_directory(machine);
		make_device(i);
	}
}
