/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See network.h. */
#include "network.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/meta.h"
#include "rpc/rpc.h"
#include "rpc/store.h"
#include "world.h"

/* A connection to a server that says nothing is given up after so long, as in rpc/. */
#define SILENCE_US 5000000

/* A connection: what one engine knows of one server. */
struct rpc_client {
	uint16_t port;
	bool down; /* the last call failed */
	bool waited; /* in vain, for a machine that does not answer */
	uint64_t silent_since; /* exportd; 0: it is not */
	struct process *process; /* of the engine */
};

struct message {
	struct message *next, *previous; /* in the list of all */
	struct message *next_waited, *previous_waited; /* of those with a client */
	struct rpc_client *client; /* NULL: nobody waits any more */
	struct process *from;
	unsigned int node;
	uint32_t procedure;
	void *args; /* one piece of memory */
	void *result; /* of the execution; of malloc, with what the store allocated */
	bool executed, answered;
	bool dropped;
	bool arrived;
	uint64_t held_us; /* it will be under way for so much longer */
	unsigned int references; /* events, executions, the caller */
	unsigned int epoch; /* messages of an older one are dropped */
	/* The caller's. */
	void *caller_result;
	rpc_done done;
	void *context;
};

/* Newest first. */
static struct message *messages, *waited_for;
static struct network_faults faults;
static uint32_t faulty_nodes;
static unsigned int epoch;
static bool verbose;
static uint64_t hold_us;
static enum exportd_state exportd_state;

/* -------- the types of messages -------- */

static size_t padded(size_t bytes)
{
	return (bytes + 15) & ~(size_t)15;
}

/* Moves `count` things that *pointer has into *room. */
static void copy_array(char **room, void *pointer, size_t bytes)
{
	void **field = pointer;

	if (bytes > 0)
		memcpy(*room, *field, bytes);
	*field = *room;
	*room += padded(bytes);
}

static void *copy_args(uint32_t procedure, const void *args)
{
	char *room;

	if (procedure == STORE_WRITE) {
		const store_write_args *from = args;
		size_t commits = from->commits.commits_len * sizeof(store_decided);
		size_t undecided = from->undecided.undecided_len * sizeof(store_decided);
		size_t blocks = from->blocks.blocks_len * sizeof(store_write_block);
		size_t payload = from->payload.payload_len;
		store_write_args *copy =
			malloc(padded(sizeof(*copy)) + padded(commits) + padded(undecided) +
				padded(blocks) + padded(payload));
		*copy = *from;
		room = (char *)copy + padded(sizeof(*copy));
		copy_array(&room, &copy->commits.commits_val, commits);
		copy_array(&room, &copy->undecided.undecided_val, undecided);
		copy_array(&room, &copy->blocks.blocks_val, blocks);
		copy_array(&room, &copy->payload.payload_val, payload);
		return copy;
	}
	if (procedure == STORE_COMMIT) {
		const store_commit_args *from = args;
		size_t runs = from->runs.runs_len * sizeof(store_decided);
		store_commit_args *copy = malloc(padded(sizeof(*copy)) + padded(runs));
		*copy = *from;
		room = (char *)copy + padded(sizeof(*copy));
		copy_array(&room, &copy->runs.runs_val, runs);
		return copy;
	}
	if (procedure == STORE_TELL) {
		const store_tell_args *from = args;
		size_t files = from->files.files_len * sizeof(store_told);
		size_t bytes = padded(sizeof(*from)) + padded(files);
		for (unsigned int i = 0; i < from->files.files_len; i++)
			bytes += padded(
				from->files.files_val[i].runs.runs_len * sizeof(store_decided));
		store_tell_args *copy = malloc(bytes);
		*copy = *from;
		room = (char *)copy + padded(sizeof(*copy));
		copy_array(&room, &copy->files.files_val, files);
		for (unsigned int i = 0; i < copy->files.files_len; i++)
			copy_array(&room, &copy->files.files_val[i].runs.runs_val,
				copy->files.files_val[i].runs.runs_len * sizeof(store_decided));
		return copy;
	}
	size_t bytes = procedure == STORE_READ       ? sizeof(store_read_args)
		       : procedure == STORE_SYNC     ? sizeof(store_sync_args)
		       : procedure == STORE_MISSED   ? sizeof(store_missed_args)
		       : procedure == STORE_TRUNCATE ? sizeof(store_truncate_args)
		       : procedure == STORE_STAT     ? sizeof(store_stat_args)
						     : 0;
	if (bytes == 0)
		abort(); /* the engine sends no others */
	void *copy = malloc(bytes);
	memcpy(copy, args, bytes);
	return copy;
}

static size_t result_bytes(uint32_t procedure)
{
	return procedure == STORE_WRITE  ? sizeof(store_write_res)
	       : procedure == STORE_READ ? sizeof(store_read_res)
	       : procedure == STORE_STAT ? sizeof(store_stat_res)
					 : sizeof(store_status_res);
}

static void free_result(uint32_t procedure, void *result)
{
	if (procedure == STORE_READ) {
		store_read_res *read = result;
		free(read->blocks.blocks_val);
		free(read->payload.payload_val);
	}
	free(result);
}

/* -------- what is told -------- */

static void print_message(const struct message *message, const void *result, int error)
{
	static const char *const names[] = {
		[STORE_WRITE] = "WRITE",
		[STORE_READ] = "READ",
		[STORE_COMMIT] = "COMMIT",
		[STORE_SYNC] = "SYNC",
		[STORE_MISSED] = "MISSED",
		[STORE_TRUNCATE] = "TRUNCATE",
		[STORE_STAT] = "STAT",
		[STORE_TELL] = "TELL",
	};
	/* All others begin with the file. */
	const store_file *file =
		message->procedure == STORE_TELL
			? &((const store_tell_args *)message->args)->files.files_val->file
			: message->args;
	fprintf(stderr, "%9" PRIu64 "  p%u to node %u: %s of segment %u", scheduler_now(),
		message->from->number, message->node, names[message->procedure], file->segment);
	switch (message->procedure) {
	case STORE_WRITE: {
		const store_write_args *write = message->args;
		fprintf(stderr,
			" block %" PRIu64 "+%u %" PRIx64 ".%03x base %u %" PRIx64
			" shard %u commits %u undecided %u missed %x%s",
			(uint64_t)write->first_block, write->blocks.blocks_len,
			(uint64_t)write->block_version.generation,
			(unsigned int)write->block_version.writer & 0xfff, write->exact_base,
			(uint64_t)write->blocks.blocks_val[0].base.generation, write->shard,
			write->commits.commits_len, write->undecided.undecided_len, write->missed,
			write->stable ? " stable" : "");
		break;
	}
	case STORE_TELL: {
		const store_tell_args *tell = message->args;
		for (unsigned int i = 0; i < tell->files.files_len; i++)
			fprintf(stderr, " segment %u %u runs",
				tell->files.files_val[i].file.segment,
				tell->files.files_val[i].runs.runs_len);
		break;
	}
	case STORE_COMMIT: {
		const store_commit_args *commit = message->args;
		for (unsigned int i = 0; i < commit->runs.runs_len; i++)
			fprintf(stderr, "%s block %" PRIu64 "+%u %" PRIx64,
				commit->discard ? " discard" : "",
				(uint64_t)commit->runs.runs_val[i].first_block,
				commit->runs.runs_val[i].count,
				(uint64_t)commit->runs.runs_val[i].block_version.generation);
		break;
	}
	case STORE_READ: {
		const store_read_args *read = message->args;
		fprintf(stderr, " block %" PRIu64 "+%u shard %u %" PRIx64 " refuse %" PRIx64 "%s",
			(uint64_t)read->first_block, read->count, read->shard,
			(uint64_t)read->block_version.generation, (uint64_t)read->refuse.generation,
			read->headers_only ? " headers" : "");
		break;
	}
	case STORE_MISSED: {
		const store_missed_args *missed = message->args;
		fprintf(stderr, " block %" PRIu64 "+%u %" PRIx64 " %s %x",
			(uint64_t)missed->first_block, missed->count,
			(uint64_t)missed->block_version.generation, missed->clear ? "clear" : "set",
			missed->missed);
		break;
	}
	case STORE_TRUNCATE: {
		const store_truncate_args *truncate = message->args;
		fprintf(stderr, " block %" PRIu64 " %" PRIx64, (uint64_t)truncate->first_block,
			(uint64_t)truncate->block_version.generation);
		break;
	}
	}
	fprintf(stderr, ": %s", strerror(error ? -error : (int)*(const uint32_t *)result));
	if (message->procedure == STORE_READ && !error) {
		const store_read_res *read = result;
		for (unsigned int i = 0; i < read->blocks.blocks_len; i++)
			fprintf(stderr, " %u:%" PRIx64 "/%" PRIx64 " missed %x",
				read->blocks.blocks_val[i].state,
				(uint64_t)read->blocks.blocks_val[i].block_version.generation,
				(uint64_t)read->blocks.blocks_val[i].older.generation,
				read->blocks.blocks_val[i].missed);
	}
	fprintf(stderr, "\n");
}

/* -------- messages -------- */

static void message_put(struct message *message)
{
	if (--message->references > 0)
		return;
	if (message->next)
		message->next->previous = message->previous;
	if (message->previous)
		message->previous->next = message->next;
	else
		messages = message->next;
	free(message->args);
	if (message->result)
		free_result(message->procedure, message->result);
#ifndef __clang_analyzer__ /* it does not count references, and takes each put for the last */
	free(message);
#endif
}

/* True if nobody answers for a node, not even to refuse. */
static bool is_silent(const struct process *from, unsigned int node)
{
	struct process *process;

	return world_lost_power(node) || (from->cut_off & (1u << node)) ||
	       (world_store(node, &process) && scheduler_stopped_us(process) > 0);
}

/*
 * True if whoever waits for the message is stopped: it hears of what has happened when it goes on,
 * and this is done once more then.
 */
static bool is_put_off(struct message *message, void (*run)(void *context))
{
	uint64_t us = message->client ? scheduler_stopped_us(message->client->process) : 0;

	if (us > 0)
		scheduler_after(us + scheduler_below(500), run, message);
	return us > 0;
}

/* Ends a call, once. */
static void finish(struct message *message, int error)
{
	struct rpc_client *client = message->client;

	if (!client)
		return;
	message->client = NULL;
	if (message->next_waited)
		message->next_waited->previous_waited = message->previous_waited;
	if (message->previous_waited)
		message->previous_waited->next_waited = message->next_waited;
	else
		waited_for = message->next_waited;
	if (error != -ECANCELED) {
		client->down = error != 0;
		client->waited = error == -ETIMEDOUT && is_silent(client->process, message->node);
	}
	if (!error) {
		memcpy(message->caller_result, message->result, result_bytes(message->procedure));
		free(message->result); /* what is in it is the caller's now */
		message->result = NULL;
	}
	scheduler_trace(
		(uint64_t)(unsigned int)-error << 32 | message->procedure << 8 | message->node);
	message->done(message->context, error);
	message_put(message);
}

static uint64_t latency(void)
{
	if (scheduler_chance(faults.slow))
		return scheduler_below(300000);
	return 20 + scheduler_below(500);
}

static void answer_arrives(void *context)
{
	struct message *message = context;

	if (is_put_off(message, answer_arrives))
		return;
	if (message->epoch == epoch && message->answered && message->result &&
		!(message->from->cut_off & (1u << message->node)))
		finish(message, 0);
	message_put(message);
}

static void connection_breaks(void *context)
{
	struct message *message = context;

	if (is_put_off(message, connection_breaks))
		return;
	finish(message, -ECONNRESET);
	message_put(message);
}

static void connection_refused(void *context)
{
	struct message *message = context;

	if (is_put_off(message, connection_refused))
		return;
	finish(message, -ECONNREFUSED);
	message_put(message);
}

static void times_out(void *context)
{
	struct message *message = context;

	if (is_put_off(message, times_out))
		return;
	finish(message, -ETIMEDOUT);
	message_put(message);
}

struct execution {
	struct message *message;
	struct store *store;
};

/* In a fiber of the store's process. */
static void execute(void *context)
{
	struct execution *execution = context;
	struct message *message = execution->message;
	struct process *process = scheduler_process();
	void *result = calloc(1, result_bytes(message->procedure));

	world_execute(execution->store, message->procedure, message->args, result);
	free(execution);
	scheduler_trace((uint64_t) * (uint32_t *)result << 32 | message->procedure << 8 |
			message->node | 1u << 31);
	if (verbose && process->alive)
		print_message(message, result, 0);
	bool faulty = faulty_nodes & (1u << message->node);
	if (!process->alive || message->executed) {
		/* Nobody hears of it. Who lost power does not break connections, either. */
		free_result(message->procedure, result);
		if (!process->alive && !world_lost_power(message->node)) {
			message->references++;
			scheduler_after(latency(), connection_breaks, message);
		}
	} else {
		message->executed = true;
		message->result = result;
		message->references++;
		if (faulty && scheduler_chance(faults.unanswered)) {
			scheduler_after(latency(), connection_breaks, message);
		} else {
			message->answered = true;
			scheduler_after(latency(), answer_arrives, message);
		}
	}
	message_put(message);
}

static void arrives(void *context)
{
	struct message *message = context;
	struct process *process;
	struct store *store = world_store(message->node, &process);

	if (message->held_us && message->epoch == epoch) {
		scheduler_after(message->held_us, arrives, message);
		message->held_us = 0;
		return;
	}
	message->arrived = true;
	if (message->epoch != epoch) {
		message_put(message);
	} else if (!store) {
		if (verbose)
			print_message(message, NULL, -ECONNREFUSED);
		if (world_lost_power(message->node))
			message_put(message); /* the caller's time will run out */
		else
			connection_refused(message);
	} else {
		struct execution *execution = malloc(sizeof(*execution));
		*execution = (struct execution){.message = message, .store = store};
		scheduler_start(process, execute, execution);
	}
}

/* -------- rpc/rpc.h -------- */

#define WRAP(type, name, ...)                                                                      \
	type __wrap_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

WRAP(struct rpc_client *, rpc_client_create, const char *address, uint16_t port, uint32_t program,
	uint32_t version, const struct rpc_key *key)
{
	struct rpc_client *client = calloc(1, sizeof(*client));

	(void)address;
	(void)program;
	(void)version;
	(void)key;
	client->port = port;
	client->process = scheduler_process();
	return client;
}

WRAP(void, rpc_client_destroy, struct rpc_client *client)
{
	while (true) {
		struct message *message = waited_for;

		while (message && message->client != client)
			message = message->next_waited;
		if (!message)
			break;
		finish(message, -ECANCELED);
	}
	free(client);
}

WRAP(bool, rpc_client_is_down, const struct rpc_client *client)
{
	return client->down;
}

static void probe_ends(void *context)
{
	struct message *message = context;
	struct process *process;

	if (is_put_off(message, probe_ends))
		return;
	if (message->client && world_store(message->node, &process) && !message->dropped &&
		!is_silent(message->from, message->node)) {
		message->result = calloc(1, sizeof(store_status_res));
		finish(message, 0);
	} else {
		finish(message, -ETIMEDOUT);
	}
	message_put(message);
}

WRAP(void, rpc_call_async, struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms, rpc_done done,
	void *context)
{
	static store_status_res nowhere;
	bool faulty = faulty_nodes & (1u << client->port);

	(void)args_xdr;
	(void)result_xdr;
	if (!client->process->alive) {
		done(context, -ECANCELED);
		return;
	}
	struct message *message = calloc(1, sizeof(*message));
	*message = (struct message){
		.next = messages,
		.next_waited = waited_for,
		.client = client,
		.from = client->process,
		.node = client->port,
		.procedure = procedure,
		.args = procedure ? copy_args(procedure, args) : NULL,
		.references = 1,
		.epoch = epoch,
		.held_us = hold_us,
		.caller_result = procedure ? result : &nowhere,
		.done = done,
		.context = context,
	};
	if (message->next)
		message->next->previous = message;
	messages = message;
	if (message->next_waited)
		message->next_waited->previous_waited = message;
	waited_for = message;
	if (procedure == 0) {
		message->references++;
		message->procedure = STORE_SYNC;
		message->dropped = faulty && scheduler_chance(faults.lost);
		scheduler_after(2 * latency(), probe_ends, message);
		return;
	}
	message->references++;
	/* Only the first call waits: rpc/ refuses the next ones as long as it cannot connect. */
	bool refused = client->waited && is_silent(client->process, client->port);
	scheduler_after(refused ? latency() : (uint64_t)timeout_ms * 1000, times_out, message);
	if (refused)
		return;
	if (client->process->cut_off & (1u << client->port))
		return;
	if (faulty && scheduler_chance(faults.lost)) {
		if (verbose)
			print_message(message, NULL, -ETIMEDOUT);
		if (world.mutation == ANSWERS_UNDECIDED && procedure == STORE_WRITE) {
			message->result = calloc(1, sizeof(store_write_res));
			message->answered = true;
			message->references++;
			scheduler_after(latency(), answer_arrives, message);
		}
		return;
	}
	message->references++;
	bool late = faulty && scheduler_chance(faults.late);
	scheduler_after(late ? scheduler_below(15000000) : latency(), arrives, message);
	if (faulty && scheduler_chance(faults.twice)) {
		message->references++;
		scheduler_after(scheduler_chance(500) ? latency() * 2 : scheduler_below(10000000),
			arrives, message);
	}
}

/* What exportd was sent while it was stopped. Nobody waits for the answer any more. */
struct late_call {
	uint32_t procedure;
	rpc_xdr result_xdr;
	union {
		meta_placement_args placement;
		meta_written_args written;
		meta_truncated_args truncated;
		meta_check_epoch_args check;
	} args;
	struct late_call *next;
};
static struct late_call *late_calls;

static void call_later(uint32_t procedure, const void *args, rpc_xdr result_xdr)
{
	struct late_call *call = calloc(1, sizeof(*call));

	call->procedure = procedure;
	call->result_xdr = result_xdr;
	if (procedure == META_PLACEMENT)
		call->args.placement = *(const meta_placement_args *)args;
	else if (procedure == META_WRITTEN)
		call->args.written = *(const meta_written_args *)args;
	else if (procedure == META_TRUNCATED)
		call->args.truncated = *(const meta_truncated_args *)args;
	else
		call->args.check = *(const meta_check_epoch_args *)args;
	call->next = late_calls;
	late_calls = call;
}

/* Exportd goes on; or it was restarted, and has forgotten what came to it. */
static void end_late_calls(bool executed)
{
	while (late_calls) {
		union {
			meta_placement_res placement;
			meta_attributes_res attributes;
			meta_status_res status;
		} result;
		struct late_call *call = late_calls;

		late_calls = call->next;
		memset(&result, 0, sizeof(result));
		if (executed) {
			world_meta(call->procedure, &call->args, &result);
			rpc_free(call->result_xdr, &result);
		}
		free(call);
	}
}

static bool exportd_answers(const struct rpc_client *client)
{
	return exportd_state == EXPORTD_THERE && !client->process->cut_off_exportd;
}

/* Returns 0 if exportd can be asked, now or after a while; or why it cannot be. */
static int reach_exportd(struct rpc_client *client, uint32_t procedure, const void *args,
	rpc_xdr result_xdr, unsigned int timeout_ms)
{
	struct process *process = client->process;
	uint64_t until = scheduler_now() + (uint64_t)timeout_ms * 1000;

	if (exportd_answers(client)) {
		client->silent_since = 0;
		return 0;
	}
	if (exportd_state == EXPORTD_GONE) {
		process->unasked = scheduler_now();
		return -ECONNREFUSED;
	}
	if (!client->silent_since || exportd_state == EXPORTD_SLOW)
		client->silent_since = scheduler_now();
	if (scheduler_now() >= client->silent_since + SILENCE_US) {
		process->unasked = scheduler_now();
		return -EHOSTUNREACH;
	}
	while (process->alive && !exportd_answers(client) && scheduler_now() < until &&
		(scheduler_now() < client->silent_since + SILENCE_US ||
			exportd_state == EXPORTD_SLOW))
		scheduler_sleep(50000);
	if (!process->alive)
		return -ECANCELED;
	if (exportd_answers(client)) {
		client->silent_since = 0;
		return 0;
	}
	if (!process->cut_off_exportd)
		call_later(procedure, args, result_xdr);
	return scheduler_now() < until ? -ECONNRESET : -ETIMEDOUT;
}

/* To exportd: executed in the caller's fiber, after a while; it may be so and look failed. */
WRAP(int, rozo_rpc_call, struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms)
{
	(void)args_xdr;
	scheduler_sleep(latency());
	if (!client->process->alive)
		return -ECANCELED;
	if (faulty_nodes && scheduler_chance(faults.lost)) {
		scheduler_sleep((uint64_t)timeout_ms * 1000);
		return -ETIMEDOUT;
	}
	int error = reach_exportd(client, procedure, args, result_xdr, timeout_ms);
	if (error && !world_meta_instead(error, procedure, args, result)) {
		if (verbose)
			fprintf(stderr, "%9" PRIu64 "  p%u to exportd: %u: %s\n", scheduler_now(),
				client->process->number, procedure, strerror(-error));
		return error;
	}
	if (!error)
		world_meta(procedure, args, result);
	if (verbose)
		fprintf(stderr, "%9" PRIu64 "  p%u to exportd: %u: %s\n", scheduler_now(),
			client->process->number, procedure, strerror((int)*(uint32_t *)result));
	scheduler_sleep(latency());
	bool lost = faulty_nodes && scheduler_chance(faults.unanswered);
	if (client->process->alive && !lost)
		return 0;
	rpc_free(result_xdr, result);
	return lost ? -ECONNRESET : -ECANCELED;
}

/* -------- the simulation's own -------- */

void network_reset(void)
{
	if (messages)
		abort();
	faults = (struct network_faults){0};
	faulty_nodes = 0;
	epoch = 0;
	hold_us = 0;
	exportd_state = EXPORTD_THERE;
	end_late_calls(false);
}

void network_set_exportd(enum exportd_state state)
{
	if (exportd_state == EXPORTD_SLOW)
		end_late_calls(true);
	/* Whether it was stopped, or its machine had no power, is found out now. */
	if (exportd_state == EXPORTD_HANGS)
		end_late_calls(scheduler_chance(500));
	exportd_state = state;
}

bool network_exportd_is_there(void)
{
	return exportd_state == EXPORTD_THERE;
}

void network_hold(uint64_t us)
{
	hold_us = us;
}

void network_set_faults(struct network_faults new_faults)
{
	faults = new_faults;
}

void network_set_faulty_nodes(uint32_t nodes)
{
	faulty_nodes = nodes;
}

void network_process_died(const struct process *process)
{
	/* What a process has sent may leave its machine long after it is dead. */
	if (scheduler_chance(500)) {
		uint64_t held_us = scheduler_below(scheduler_chance(500) ? 50000 : 3000000);
		for (struct message *message = messages; message; message = message->next) {
			if (message->from == process && !message->arrived)
				message->held_us = held_us + scheduler_below(100);
		}
	}
	while (true) {
		struct message *message = waited_for;

		while (message && message->from != process)
			message = message->next_waited;
		if (!message)
			return;
		finish(message, -ECANCELED);
	}
}

void network_drop_all(void)
{
	epoch++;
}

void network_set_verbose(bool on)
{
	verbose = on;
}
