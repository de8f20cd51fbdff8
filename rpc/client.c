/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The client's calls: started, found again by xid, ended by their deadline.
 *
 * One reactor serves all clients of the process; it is made with the first client and ended with
 * the last one, so that a plugin can be unloaded. event.c says who runs it.
 *
 * Locks: all.life (making and ending the reactor) first; all.lock (the list of clients) before
 * client->lock or alone; client->lock before a stream's lock.
 */
#include "rpc/client.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"

static struct {
	pthread_mutex_t life;
	pthread_mutex_t lock;
	unsigned int clients; /* the reactor runs if it is not 0 */
	struct reactor *reactor;
	struct rpc_client *first; /* new ones in front; only the reactor's thread takes out */
} all = {.life = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER};

/* -------- tables of calls; client->lock is held -------- */

static void insert_call(struct rpc_client *client, struct client_call *call)
{
	struct client_call **bucket = &client->buckets[call->xid % CLIENT_BUCKETS];
	struct client_call *before = client->last;

	call->bucket_next = *bucket;
	*bucket = call;
	/* Nearly always at the end: most calls have the same timeout. */
	while (before && before->deadline_ms > call->deadline_ms)
		before = before->earlier;
	call->earlier = before;
	call->later = before ? before->later : client->first;
	if (call->later)
		call->later->earlier = call;
	else
		client->last = call;
	if (before)
		before->later = call;
	else
		client->first = call;
}

struct client_call *client_take_call(struct rpc_client *client, uint32_t xid)
{
	struct client_call **link = &client->buckets[xid % CLIENT_BUCKETS];
	struct client_call *call;

	while (*link && (*link)->xid != xid)
		link = &(*link)->bucket_next;
	call = *link;
	if (!call)
		return NULL;
	*link = call->bucket_next;
	if (call->earlier)
		call->earlier->later = call->later;
	else
		client->first = call->later;
	if (call->later)
		call->later->earlier = call->earlier;
	else
		client->last = call->earlier;
	call->earlier = call->later = NULL;
	return call;
}

struct client_call *client_take_all(struct rpc_client *client)
{
	struct client_call *calls = client->first;

	memset(client->buckets, 0, sizeof(client->buckets));
	client->first = client->last = NULL;
	return calls;
}

static struct client_call *take_expired(struct rpc_client *client, int64_t now_ms)
{
	struct client_call *expired = NULL;

	while (client->first && client->first->deadline_ms <= now_ms) {
		struct client_call *call = client_take_call(client, client->first->xid);

		call->later = expired;
		expired = call;
	}
	return expired;
}

void client_finish(
	struct client_call *call, int error, uint8_t *record, size_t bytes, size_t results)
{
	struct client_waiter *waiter = call->waiter;

	record_buffer_free(call->buffer);
	events_expect(-1);
	if (waiter) {
		waiter->error = error;
		waiter->record = error ? NULL : record;
		waiter->bytes = bytes;
		waiter->results = results;
		rpc_event_set(&waiter->finished);
		if (error)
			free(record);
	} else {
		if (!error)
			error = message_decode(
				record, bytes, results, call->result_xdr, call->result);
		free(record);
		call->done(call->context, error);
	}
	free(call);
}

/* -------- the reactor's thread -------- */

static void destroy(struct rpc_client *client)
{
	struct client_call *calls = client_connection_close(client, -ECANCELED);

	while (calls) {
		struct client_call *next = calls->later;

		client_finish(calls, -ECANCELED, NULL, 0, 0);
		calls = next;
	}
	pthread_mutex_lock(&all.lock);
	if (client->previous)
		client->previous->next = client->next;
	else
		all.first = client->next;
	if (client->next)
		client->next->previous = client->previous;
	pthread_mutex_unlock(&all.lock);

	rpc_event_set(&client->destroyed);
}

/* Returns the next point in time something is due. */
static int64_t tick(struct rpc_client *client, int64_t now_ms)
{
	struct client_call *expired;
	bool unanswered = false;
	int64_t next_ms, call_ms;

	pthread_mutex_lock(&client->lock);
	expired = take_expired(client, now_ms);
	pthread_mutex_unlock(&client->lock);
	while (expired) {
		struct client_call *next = expired->later;

		unanswered |= !expired->buffer;
		client_finish(expired, -ETIMEDOUT, NULL, 0, 0);
		expired = next;
	}
	if (unanswered)
		client_connection_suspect(client, now_ms);
	client_connection_tick(client, now_ms);

	next_ms = client_connection_next_ms(client);
	pthread_mutex_lock(&client->lock);
	call_ms = client->first ? client->first->deadline_ms : REACTOR_NEVER;
	if (client->first && call_ms > now_ms + CLIENT_LOOK_MS)
		call_ms = now_ms + CLIENT_LOOK_MS;
	pthread_mutex_unlock(&client->lock);
	return call_ms < next_ms ? call_ms : next_ms;
}

static void woken(void *context, int64_t now_ms)
{
	struct rpc_client *client, *next;

	(void)context;
	pthread_mutex_lock(&all.lock);
	client = all.first;
	pthread_mutex_unlock(&all.lock);
	for (; client; client = next) {
		bool destroy_wanted;

		/* Nobody else takes clients out, and new ones come in front. */
		pthread_mutex_lock(&all.lock);
		next = client->next;
		pthread_mutex_unlock(&all.lock);
		pthread_mutex_lock(&client->lock);
		destroy_wanted = client->destroy_wanted;
		pthread_mutex_unlock(&client->lock);
		if (destroy_wanted)
			destroy(client);
		else
			reactor_wake_by(client->reactor, tick(client, now_ms));
	}
}

/* -------- the interface -------- */

/* all.lock is held. Returns 0 or a negative errno. */
static int start_reactor(void)
{
	int error = reactor_create(&all.reactor, false, woken, NULL);

	if (error)
		return error;
	error = events_start(all.reactor);
	if (error) {
		reactor_destroy(all.reactor);
		all.reactor = NULL;
	}
	return error;
}

struct rpc_client *rpc_client_create(const char *address, uint16_t port, uint32_t program,
	uint32_t version, const struct rpc_key *key)
{
	struct rpc_client *client = calloc(1, sizeof(*client));
	int error;

	if (!client) {
		errno = ENOMEM;
		return NULL;
	}
	if (rpc_address_parse(&client->address, address, port)) {
		free(client);
		errno = EINVAL;
		return NULL;
	}
	rpc_address_format(&client->address.storage, client->address_text);
	client->program = program;
	client->version = version;
	if (key) {
		client->has_key = true;
		client->key = *key;
	}
	client->timer_ms = client->probe_ms = REACTOR_NEVER;
	pthread_mutex_init(&client->lock, NULL);
	rpc_event_init(&client->destroyed);

	pthread_mutex_lock(&all.life);
	pthread_mutex_lock(&all.lock);
	error = all.clients ? 0 : start_reactor();
	if (!error) {
		all.clients++;
		client->reactor = all.reactor;
		client->next = all.first;
		if (all.first)
			all.first->previous = client;
		all.first = client;
	}
	pthread_mutex_unlock(&all.lock);
	pthread_mutex_unlock(&all.life);
	if (error) {
		rozo_log(ERROR, "rpc: the client thread cannot be started: %s", strerror(-error));
		rpc_event_destroy(&client->destroyed);
		pthread_mutex_destroy(&client->lock);
		free(client);
		errno = ENOMEM;
		return NULL;
	}
	return client;
}

void rpc_client_destroy(struct rpc_client *client)
{
	struct reactor *last = NULL;

	if (!client)
		return;
	pthread_mutex_lock(&client->lock);
	client->destroy_wanted = true;
	pthread_mutex_unlock(&client->lock);
	reactor_wake(client->reactor);
	rpc_event_wait(&client->destroyed, UINT_MAX);

	pthread_mutex_lock(&all.life);
	pthread_mutex_lock(&all.lock);
	if (!--all.clients) {
		last = all.reactor;
		all.reactor = NULL;
	}
	pthread_mutex_unlock(&all.lock);
	if (last) {
		events_stop();
		reactor_destroy(last);
	}
	pthread_mutex_unlock(&all.life);
	rpc_event_destroy(&client->destroyed);
	pthread_mutex_destroy(&client->lock);
	explicit_bzero(&client->key, sizeof(client->key));
	free(client);
}

/*
 * Hands a made call to the connection or queues it. Returns 0, or the error that the call ends
 * with at once.
 */
static int start_call(struct rpc_client *client, struct client_call *call, unsigned int timeout_ms)
{
	int64_t now_ms = reactor_now_ms();
	/*
	 * A copy: the call may be over, and freed, as soon as the lock is released. One more, since
	 * now_ms is rounded down and no call may end early.
	 */
	int64_t deadline_ms = now_ms + timeout_ms + 1;
	int64_t look_ms = now_ms + CLIENT_LOOK_MS;
	struct record_buffer *buffer = NULL;
	struct record_stream *stream = NULL;
	bool wake = false;
	int error = 0;

	call->deadline_ms = deadline_ms;
	pthread_mutex_lock(&client->lock);
	if (client->destroy_wanted) {
		error = -ECANCELED;
	} else if (client_connection_refuses(client, now_ms)) {
		error = client->last_error;
	} else if (client->state != CLIENT_READY && !record_buffer_keep(call->buffer)) {
		error = -ENOMEM;
	} else {
		insert_call(client, call);
		if (client->state == CLIENT_READY) {
			buffer = call->buffer;
			call->buffer = NULL;
			stream = &client->connection->stream;
			record_stream_reference(stream);
		} else if (client->state < CLIENT_CONNECTING && !client->attempt_wanted) {
			client->attempt_wanted = wake = true;
		}
	}
	pthread_mutex_unlock(&client->lock);
	if (error)
		return error;
	if (stream) {
		record_stream_send(stream, buffer);
		record_stream_release(stream);
	}
	if (wake)
		reactor_wake(client->reactor);
	else
		reactor_wake_by(client->reactor, deadline_ms < look_ms ? deadline_ms : look_ms);
	return 0;
}

static int make_call(struct client_call **made, struct rpc_client *client, uint32_t procedure,
	rpc_xdr args_xdr, const void *args)
{
	struct client_call *call = calloc(1, sizeof(*call));
	int error;

	if (!call)
		return -ENOMEM;
	call->xid = atomic_fetch_add_explicit(&client->next_xid, 1, memory_order_relaxed);
	error = message_make_call(&call->buffer, call->xid, client->program, client->version,
		procedure, args_xdr, args);
	if (error) {
		free(call);
		return error;
	}
	events_expect(1);
	*made = call;
	return 0;
}

void rpc_call_async(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms, rpc_done done,
	void *context)
{
	struct client_call *call;
	int error = make_call(&call, client, procedure, args_xdr, args);

	if (error) {
		done(context, error);
		return;
	}
	call->result_xdr = result_xdr;
	call->result = result;
	call->done = done;
	call->context = context;
	error = start_call(client, call, timeout_ms);
	if (error)
		client_finish(call, error, NULL, 0, 0);
}

int rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr, const void *args,
	rpc_xdr result_xdr, void *result, unsigned int timeout_ms)
{
	struct client_waiter waiter = {.error = 0};
	struct client_call *call;
	int error = make_call(&call, client, procedure, args_xdr, args);

	if (error)
		return error;
	rpc_event_init(&waiter.finished);
	call->waiter = &waiter;
	error = start_call(client, call, timeout_ms);
	if (error)
		client_finish(call, error, NULL, 0, 0);
	rpc_event_wait(&waiter.finished, UINT_MAX);
	rpc_event_destroy(&waiter.finished);
	error = waiter.error;
	if (!error)
		error = message_decode(
			waiter.record, waiter.bytes, waiter.results, result_xdr, result);
	free(waiter.record);
	return error;
}

bool rpc_client_is_down(const struct rpc_client *client)
{
	return atomic_load_explicit(&client->down, memory_order_relaxed);
}
