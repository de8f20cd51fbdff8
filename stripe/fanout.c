/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Calls of the store protocol to several nodes at once.
 *
 * Remote calls are asynchronous, so a fan-out costs one round trip. The call to the store in this
 * process, if any, runs in the caller's thread after the remote ones are on their way.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stripe/die_at_message.h"
#include "stripe/internal.h"

struct procedure_types {
	rpc_xdr args;
	rpc_xdr result;
	size_t result_bytes;
};

#define PROCEDURE(args_type, result_type)                                                          \
	{                                                                                          \
		RPC_XDR(xdr_##args_type), RPC_XDR(xdr_##result_type), sizeof(result_type)          \
	}

static const struct procedure_types types[] = {
	[STORE_WRITE] = PROCEDURE(store_write_args, store_write_res),
	[STORE_READ] = PROCEDURE(store_read_args, store_read_res),
	[STORE_COMMIT] = PROCEDURE(store_commit_args, store_status_res),
	[STORE_SYNC] = PROCEDURE(store_sync_args, store_status_res),
	[STORE_MISSED] = PROCEDURE(store_missed_args, store_status_res),
	[STORE_TRUNCATE] = PROCEDURE(store_truncate_args, store_status_res),
	[STORE_REMOVE] = PROCEDURE(store_remove_args, store_status_res),
	[STORE_STAT] = PROCEDURE(store_stat_args, store_stat_res),
	[STORE_TELL] = PROCEDURE(store_tell_args, store_status_res),
};

void fanout_init(struct fanout *fanout, struct stripe *stripe)
{
	*fanout = (struct fanout){.stripe = stripe};
	pthread_mutex_init(&fanout->lock, NULL);
	rpc_event_init(&fanout->changed);
}

size_t fanout_result_bytes(uint32_t procedure)
{
	return types[procedure].result_bytes;
}

/* Every result of the store protocol begins with its status. */
static int result_error(const void *result)
{
	return -(int)*(const uint32_t *)result;
}

static void fanout_destroy(struct fanout *fanout)
{
	rpc_event_destroy(&fanout->changed);
	pthread_mutex_destroy(&fanout->lock);
}

static void call_done(void *context, int error)
{
	struct fanout_call *call = context;
	struct fanout *fanout = call->fanout;
	void (*ended)(void *) = NULL;

	if (call->started_us && !error)
		latency_answered(
			call->node, call->latency_class, latency_now_us() - call->started_us);
	pthread_mutex_lock(&fanout->lock);
	call->error = error;
	call->done = true;
	if (!error && result_error(call->result) == 0)
		fanout->succeeded++;
	if (--fanout->busy == 0)
		ended = fanout->ended;
	/* Who waits is not woken by each of many answers. */
	if (fanout->busy == 0 || fanout->succeeded >= fanout->wanted)
		rpc_event_set(&fanout->changed);
	pthread_mutex_unlock(&fanout->lock);
	if (ended) {
		fanout_destroy(fanout);
		ended(fanout->context);
	}
}

/* True if so many calls have succeeded, or no more can; or call_done() will say when. */
static bool is_over(struct fanout *fanout, unsigned int successes)
{
	pthread_mutex_lock(&fanout->lock);
	fanout->wanted = successes;
	bool over = !fanout->busy || fanout->succeeded >= successes;
	pthread_mutex_unlock(&fanout->lock);
	return over;
}

/* For tests (die_at_message.h): ends the process when the calls started so far have been answered.
 */
static _Noreturn void die_after_calls(struct fanout *fanout)
{
	while (!is_over(fanout, UINT_MAX))
		rpc_event_wait(&fanout->changed, UINT_MAX);
	die_now();
}

void fanout_start(struct fanout *fanout, struct fanout_call *call, struct node *node,
	uint32_t procedure, const void *args, void *result)
{
	*call = (struct fanout_call){
		.fanout = fanout,
		.node = node,
		.procedure = procedure,
		.args = args,
		.result = result,
		.started = true,
	};
	if (!node) {
		call->error = -EHOSTUNREACH;
		call->started = false;
		return;
	}
	memset(result, 0, types[procedure].result_bytes);
	fanout->started++;
	atomic_fetch_add(&fanout->stripe->calls[procedure], 1);
	if (!node->client) {
		call->local_next = fanout->local;
		fanout->local = call;
		return;
	}
	if (procedure == STORE_READ) {
		const store_read_args *read = args;

		call->started_us = latency_now_us();
		call->latency_class = latency_class(
			read->headers_only ? 0 : (uint64_t)read->count * read->geometry.row_bytes);
	}
	pthread_mutex_lock(&fanout->lock);
	fanout->busy++;
	pthread_mutex_unlock(&fanout->lock);
	const struct procedure_types *type = &types[procedure];
	rpc_call_async(node->client, procedure, type->args, args, type->result, result,
		fanout->stripe->call_timeout_ms, call_done, call);
	if (die_at_message())
		die_after_calls(fanout);
}

bool fanout_wait_for(struct fanout *fanout, unsigned int successes, unsigned int delay_ms)
{
	uint64_t begun_us = delay_ms == UINT_MAX ? 0 : latency_now_us();
	bool over;

	if (fanout->started)
		atomic_fetch_add(&fanout->stripe->rounds, 1);
	fanout->started = 0;
	while (fanout->local) {
		struct fanout_call *call = fanout->local;

		fanout->local = call->local_next;
		fanout->stripe->local_call(
			fanout->stripe->local_store, call->procedure, call->args, call->result);
		if (die_at_message())
			die_after_calls(fanout);
		pthread_mutex_lock(&fanout->lock);
		call->done = true;
		if (result_error(call->result) == 0)
			fanout->succeeded++;
		pthread_mutex_unlock(&fanout->lock);
	}
	while (!(over = is_over(fanout, successes))) {
		unsigned int left_ms = UINT_MAX;

		if (delay_ms != UINT_MAX) {
			uint64_t waited_ms = (latency_now_us() - begun_us) / 1000;
			if (waited_ms >= delay_ms)
				break;
			left_ms = delay_ms - (unsigned int)waited_ms;
		}
		rpc_event_wait(&fanout->changed, left_ms);
	}
	return over;
}

void fanout_wait(struct fanout *fanout)
{
	fanout_wait_for(fanout, UINT_MAX, UINT_MAX);
	fanout_destroy(fanout);
}

bool fanout_call_is_done(struct fanout_call *call)
{
	pthread_mutex_lock(&call->fanout->lock);
	bool done = call->done;
	pthread_mutex_unlock(&call->fanout->lock);
	return done;
}

void fanout_abandon(struct fanout *fanout, void (*ended)(void *context), void *context)
{
	pthread_mutex_lock(&fanout->lock);
	bool idle = fanout->busy == 0;
	fanout->ended = ended;
	fanout->context = context;
	pthread_mutex_unlock(&fanout->lock);
	/* If it is not idle, the last answer has ended it, or will. */
	if (idle) {
		fanout_destroy(fanout);
		ended(context);
	}
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
	return call->error ? call->error : result_error(call->result);
}

struct sent {
	rpc_xdr result_xdr;
	store_status_res result;
};

static void sent_done(void *context, int error)
{
	struct sent *sent = context;

	/* Nobody waits: what did not arrive is found out by whoever meets the blocks next. */
	if (!error)
		rpc_free(sent->result_xdr, &sent->result);
	free(sent);
}

void fanout_send(struct stripe *stripe, struct node *node, uint32_t procedure, const void *args)
{
	if (!node)
		return;
	if (!node->client) {
		store_status_res result = {0};
		stripe->local_call(stripe->local_store, procedure, args, &result);
		return;
	}
	struct sent *sent = calloc(1, sizeof(*sent));
	if (!sent)
		return;
	sent->result_xdr = types[procedure].result;
	rpc_call_async(node->client, procedure, types[procedure].args, args, sent->result_xdr,
		&sent->result, stripe->call_timeout_ms, sent_done, sent);
}

bool node_usable(const struct node *node)
{
	return node && (!node->client || !rpc_client_is_down(node->client));
}
