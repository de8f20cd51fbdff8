/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See stripe_network.h. */
#include "stripe_network.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stripe/internal.h"
#include "stripe_cluster.h"
#include "volatile_io.h"

#define DEAD_MAX 8

/* A message that its sender has given up, and that is still on its way. */
struct late {
	struct late *next;
	const struct stripe *from;
	unsigned int node;
	uint32_t procedure;
	char *bytes;
	unsigned int size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int lost_of_1000, unanswered_of_1000, late_of_1000;
static network_hook hook;
static bool tracing;
static enum network_flaw flaw;
static _Thread_local bool in_hook;
static const struct stripe *dead[DEAD_MAX];
static struct late *lates;
static bool failed_last[NODES_MAX]; /* what engines think of nodes */

struct types {
	rpc_xdr args;
	rpc_xdr result;
	size_t args_bytes;
	size_t result_bytes;
};

#define TYPES(args_type, result_type)                                                              \
	{                                                                                          \
		RPC_XDR(xdr_##args_type), RPC_XDR(xdr_##result_type), sizeof(args_type),           \
			sizeof(result_type)                                                        \
	}

static const struct types types[] = {
	[STORE_WRITE] = TYPES(store_write_args, store_write_res),
	[STORE_READ] = TYPES(store_read_args, store_read_res),
	[STORE_COMMIT] = TYPES(store_commit_args, store_status_res),
	[STORE_SYNC] = TYPES(store_sync_args, store_status_res),
	[STORE_MISSED] = TYPES(store_missed_args, store_status_res),
	[STORE_TRUNCATE] = TYPES(store_truncate_args, store_status_res),
	[STORE_REMOVE] = TYPES(store_remove_args, store_status_res),
	[STORE_STAT] = TYPES(store_stat_args, store_stat_res),
	[STORE_TELL] = TYPES(store_tell_args, store_status_res),
};

static const char *const names[] = {
	[STORE_WRITE] = "WRITE",
	[STORE_READ] = "READ",
	[STORE_COMMIT] = "COMMIT",
	[STORE_SYNC] = "SYNC",
	[STORE_MISSED] = "MISSED",
	[STORE_TRUNCATE] = "TRUNCATE",
	[STORE_REMOVE] = "REMOVE",
	[STORE_STAT] = "STAT",
	[STORE_TELL] = "TELL",
};

static uint64_t locked_random(void)
{
	pthread_mutex_lock(&lock);
	uint64_t number = random_number();
	pthread_mutex_unlock(&lock);
	return number;
}

void network_reset(void)
{
	network_drop_late();
	network_faults(0, 0, 0);
	network_forget_down();
	hook = NULL;
	flaw = NETWORK_SOUND;
	memset(dead, 0, sizeof(dead));
}

void network_faults(unsigned int lost, unsigned int unanswered, unsigned int late)
{
	lost_of_1000 = lost;
	unanswered_of_1000 = unanswered;
	late_of_1000 = late;
}

void network_set_flaw(enum network_flaw new_flaw)
{
	flaw = new_flaw;
}

/* Executes a message as a store would, or as one with the flaw. */
static void execute(unsigned int node, uint32_t procedure, const void *args, void *result)
{
	struct store *store = cluster.nodes[node].store;

	if (flaw == NETWORK_FORGETS_MISSES && procedure == STORE_MISSED &&
		!((const store_missed_args *)args)->clear) {
		((store_status_res *)result)->boot = store_boot(store);
	} else if (flaw != NETWORK_SOUND && procedure == STORE_WRITE) {
		store_write_args write = *(const store_write_args *)args;

		if (flaw == NETWORK_FORGETS_MISSES)
			write.missed = 0;
		if (flaw == NETWORK_REPLACES_DECIDED) {
			if (write.exact_base == STORE_BASE_DECIDED &&
				write.blocks.blocks_val[0].base.generation)
				write.exact_base = STORE_BASE_UNDECIDED;
			write.undecided.undecided_len = write.commits.commits_len;
			write.undecided.undecided_val = write.commits.commits_val;
			write.commits.commits_len = 0;
			write.undecided_boot = store_boot(store);
		}
		store_write(store, &write, result);
	} else if (flaw == NETWORK_KEEPS_NO_PROMISES && procedure == STORE_READ) {
		store_read_args read = *(const store_read_args *)args;

		read.refuse = (store_version){0};
		store_read(store, &read, result);
	} else {
		store_local_call(store, procedure, args, result);
	}
}

void network_trace(bool on)
{
	tracing = on;
}

void network_set_hook(network_hook new_hook)
{
	hook = new_hook;
}

void network_forget_down(void)
{
	pthread_mutex_lock(&lock);
	memset(failed_last, 0, sizeof(failed_last));
	pthread_mutex_unlock(&lock);
}

/* -------- late messages -------- */

static void late_drop(bool (*matches)(const struct late *late, const void *what), const void *what)
{
	pthread_mutex_lock(&lock);
	for (struct late **link = &lates; *link;) {
		struct late *late = *link;

		if (!matches(late, what)) {
			link = &late->next;
			continue;
		}
		*link = late->next;
		free(late->bytes);
		free(late);
	}
	pthread_mutex_unlock(&lock);
}

static bool any(const struct late *late, const void *what)
{
	(void)late;
	(void)what;
	return true;
}

static bool to_node(const struct late *late, const void *what)
{
	return late->node == *(const unsigned int *)what;
}

static bool from_engine(const struct late *late, const void *what)
{
	return late->from == what;
}

void network_drop_late(void)
{
	late_drop(any, NULL);
}

static void late_add(
	const struct stripe *from, unsigned int node, uint32_t procedure, const void *args)
{
	const unsigned int room = 1 << 20;
	struct late *late = calloc(1, sizeof(*late));
	XDR xdrs;

	late->from = from;
	late->node = node;
	late->procedure = procedure;
	late->bytes = malloc(room);
	xdrmem_ncreate(&xdrs, late->bytes, room, XDR_ENCODE);
	if (!types[procedure].args(&xdrs, (void *)(uintptr_t)args))
		abort();
	late->size = XDR_GETPOS(&xdrs);
	XDR_DESTROY(&xdrs);
	pthread_mutex_lock(&lock);
	struct late **link = &lates;
	while (*link)
		link = &(*link)->next;
	*link = late;
	pthread_mutex_unlock(&lock);
}

void network_deliver_late(void)
{
	while (true) {
		pthread_mutex_lock(&lock);
		struct late *late = lates;
		if (late)
			lates = late->next;
		pthread_mutex_unlock(&lock);
		if (!late)
			return;
		const struct types *type = &types[late->procedure];
		void *args = calloc(1, type->args_bytes);
		void *result = calloc(1, type->result_bytes);
		XDR xdrs;

		xdrmem_ncreate(&xdrs, late->bytes, late->size, XDR_DECODE);
		if (!type->args(&xdrs, args))
			abort();
		XDR_DESTROY(&xdrs);
		if (node_is_up(late->node) && volatile_is_on(late->node)) {
			store_local_call(
				cluster.nodes[late->node].store, late->procedure, args, result);
			rpc_free(type->result, result);
		}
		rpc_free(type->args, args);
		free(args);
		free(result);
		free(late->bytes);
		free(late);
	}
}

/* -------- engines and machines -------- */

bool network_is_dead(const struct stripe *stripe)
{
	bool found = false;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < DEAD_MAX; i++)
		found = found || dead[i] == stripe;
	pthread_mutex_unlock(&lock);
	return found;
}

void network_kill(const struct stripe *stripe)
{
	if (network_is_dead(stripe))
		return;
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < DEAD_MAX; i++) {
		if (!dead[i]) {
			dead[i] = stripe;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	late_drop(from_engine, stripe);
}

void network_forget(const struct stripe *stripe)
{
	late_drop(from_engine, stripe);
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < DEAD_MAX; i++) {
		if (dead[i] == stripe)
			dead[i] = NULL;
	}
	pthread_mutex_unlock(&lock);
}

void network_reap(void)
{
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (volatile_is_on(i) || !node_is_up(i))
			continue;
		late_drop(to_node, &i);
		node_stop(i);
	}
}

static void tell_hook(const struct stripe *from, uint32_t node)
{
	if (!hook || in_hook)
		return;
	in_hook = true;
	hook(from, node);
	in_hook = false;
}

/* -------- messages -------- */

/* Carries one message to a node and its answer back. Returns 0 or an error of rpc_call(). */
static int deliver(const struct stripe *from, unsigned int node, uint32_t procedure,
	const void *args, void *result)
{
	unsigned int fate = (unsigned int)(locked_random() % 1000);

	tell_hook(from, node);
	if (network_is_dead(from))
		return -ECANCELED;
	if (!node_is_up(node) || !volatile_is_on(node))
		return -ECONNREFUSED;
	if (fate < lost_of_1000)
		return -ETIMEDOUT;
	fate -= lost_of_1000;
	if (fate < late_of_1000) {
		late_add(from, node, procedure, args);
		return -ETIMEDOUT;
	}
	fate -= late_of_1000;
	execute(node, procedure, args, result);
	if (!volatile_is_on(node) || fate < unanswered_of_1000 || network_is_dead(from)) {
		rpc_free(types[procedure].result, result);
		memset(result, 0, types[procedure].result_bytes);
		return -ECONNRESET;
	}
	return 0;
}

/* For whoever looks for the cause of a failure. */
static void trace(const struct stripe *from, unsigned int node, uint32_t procedure,
	const void *args, const void *result, int error)
{
	fprintf(stderr, "  %04" PRIx64 " to node %u: %s", (uint64_t)from->writer & 0xffff, node,
		names[procedure]);
	if (procedure == STORE_WRITE) {
		const store_write_args *write = args;
		fprintf(stderr,
			" segment %u block %" PRIu64 "+%u version %" PRIx64 " base %u %" PRIx64
			" commits %u undecided %u missed %x%s",
			write->file.segment, (uint64_t)write->first_block, write->blocks.blocks_len,
			(uint64_t)write->block_version.generation, write->exact_base,
			(uint64_t)write->blocks.blocks_val[0].base.generation,
			write->commits.commits_len, write->undecided.undecided_len, write->missed,
			write->stable ? " stable" : "");
	} else if (procedure == STORE_COMMIT) {
		const store_commit_args *commit = args;
		for (unsigned int i = 0; i < commit->runs.runs_len; i++)
			fprintf(stderr, "%s segment %u block %" PRIu64 "+%u %" PRIx64,
				commit->discard ? " discard" : "", commit->file.segment,
				(uint64_t)commit->runs.runs_val[i].first_block,
				commit->runs.runs_val[i].count,
				(uint64_t)commit->runs.runs_val[i].block_version.generation);
	} else if (procedure == STORE_READ) {
		const store_read_args *read = args;
		fprintf(stderr,
			" segment %u block %" PRIu64 "+%u version %" PRIx64 " refuse %" PRIx64,
			read->file.segment, (uint64_t)read->first_block, read->count,
			(uint64_t)read->block_version.generation,
			(uint64_t)read->refuse.generation);
	} else if (procedure == STORE_MISSED) {
		const store_missed_args *missed = args;
		fprintf(stderr, " segment %u block %" PRIu64 "+%u version %" PRIx64 " %s %x",
			missed->file.segment, (uint64_t)missed->first_block, missed->count,
			(uint64_t)missed->block_version.generation, missed->clear ? "clear" : "set",
			missed->missed);
	}
	fprintf(stderr, ": %s", strerror(error ? -error : (int)*(const uint32_t *)result));
	if (procedure == STORE_READ && !error) {
		const store_read_res *read = result;
		for (unsigned int i = 0; i < read->blocks.blocks_len; i++)
			fprintf(stderr, " %u:%" PRIx64, read->blocks.blocks_val[i].state,
				(uint64_t)read->blocks.blocks_val[i].block_version.generation);
	}
	fprintf(stderr, "\n");
}

static int call(const struct stripe *from, const struct node *node, uint32_t procedure,
	const void *args, void *result)
{
	int error = deliver(from, node->id - 1, procedure, args, result);

	if (tracing)
		trace(from, node->id - 1, procedure, args, result, error);
	if (error != -ECANCELED) {
		pthread_mutex_lock(&lock);
		failed_last[node->id - 1] = error != 0;
		pthread_mutex_unlock(&lock);
	}
	return error;
}

/* -------- stripe/fanout.c -------- */

void fanout_init(struct fanout *fanout, struct stripe *stripe)
{
	*fanout = (struct fanout){.stripe = stripe};
}

size_t fanout_result_bytes(uint32_t procedure)
{
	return types[procedure].result_bytes;
}

void fanout_start(struct fanout *fanout, struct fanout_call *call, struct node *node,
	uint32_t procedure, const void *args, void *result)
{
	*call = (struct fanout_call){
		.fanout = fanout,
		.procedure = procedure,
		.args = args,
		.result = result,
		.started = node != NULL,
		.error = node ? 0 : -EHOSTUNREACH,
		.node = node,
	};
	if (!node)
		return;
	memset(result, 0, types[procedure].result_bytes);
	call->local_next = fanout->local;
	fanout->local = call;
}

void fanout_wait(struct fanout *fanout)
{
	struct fanout_call *calls[MOJETTE_N_MAX];
	unsigned int count = 0;

	for (struct fanout_call *next = fanout->local; next; next = next->local_next)
		calls[count++] = next;
	fanout->local = NULL;
	while (count) {
		unsigned int chosen = (unsigned int)(locked_random() % count);
		struct fanout_call *next = calls[chosen];

		calls[chosen] = calls[--count];
		next->error =
			call(fanout->stripe, next->node, next->procedure, next->args, next->result);
	}
}

bool fanout_wait_for(struct fanout *fanout, unsigned int successes, unsigned int delay_ms)
{
	(void)successes;
	(void)delay_ms;
	fanout_wait(fanout);
	return true;
}

bool fanout_call_is_done(struct fanout_call *call)
{
	(void)call;
	return true;
}

void fanout_abandon(struct fanout *fanout, void (*ended)(void *context), void *context)
{
	(void)fanout;
	ended(context);
}

void fanout_call_free(struct fanout_call *call)
{
	if (!call->started || call->error)
		return;
	rpc_free(types[call->procedure].result, call->result);
	call->started = false;
}

int fanout_call_status(const struct fanout_call *call)
{
	if (!call->started)
		return call->error ? call->error : -EHOSTUNREACH;
	return call->error ? call->error : -(int)*(const uint32_t *)call->result;
}

void fanout_send(struct stripe *stripe, struct node *node, uint32_t procedure, const void *args)
{
	store_status_res result = {0};

	if (node && call(stripe, node, procedure, args, &result) == 0)
		rpc_free(types[procedure].result, &result);
}

bool node_usable(const struct node *node)
{
	if (!node)
		return false;
	pthread_mutex_lock(&lock);
	bool usable = !failed_last[node->id - 1];
	pthread_mutex_unlock(&lock);
	return usable;
}

/* -------- the rest of the world -------- */

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
void __wrap_randombytes_buf(void *bytes, size_t size);

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms)
{
	bool gone = false;

	(void)args_xdr;
	(void)result_xdr;
	(void)timeout_ms;
	tell_hook(NULL, NETWORK_EXPORTD);
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < DEAD_MAX; i++)
		gone = gone || (dead[i] && dead[i]->meta == client);
	pthread_mutex_unlock(&lock);
	if (gone)
		return -ECANCELED;
	meta_call(procedure, args, result);
	return 0;
}

/* Time passes at once. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	(void)time;
	(void)left;
	return 0;
}

/* Writers' names and verifiers repeat with the seed. */
void __wrap_randombytes_buf(void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)bytes)[i] = (uint8_t)locked_random();
}
