/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The client's connection: made when the first call wants it, authenticated, watched, made anew.
 *
 *   IDLE --first call--> CONNECTING --> HELLO --> PROVE --> READY      (no key: straight to READY)
 *                            ^   any failure, or the connection breaks      |
 *                            |                                              v
 *                            +-- time of back-off over, or a call --- BACKED_OFF
 *
 * A server that is away is tried again every 50 ms to 1 s for as long as the client exists, so that
 * a node that returns is noticed without risking a caller's time on it. Meanwhile calls fail at
 * once - except that after an error that comes quickly (refused, lost) a call may start an attempt
 * itself, which lets the first call after a restart succeed.
 *
 * While calls are outstanding the connection is looked at each second: a host whose TCP
 * acknowledges nothing, through several retransmissions, has vanished. (TCP_USER_TIMEOUT alone
 * would not do: set that short, it also ends connections to servers that are too busy to read.)
 *
 * A call that times out makes the client send a NULL call, which a server answers even when all its
 * workers are busy. If nothing moves on the connection until PROBE_MS later, it is given up.
 *
 * All functions run in the reactor's thread. client->lock is taken, a stream's lock inside it.
 */
#include "rpc/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "rpc/log.h"

#define CONNECT_MS 3000 /* connection: three SYNs; the same again for the handshake */
#define CONNECT_AGAIN_MS 1000 /* if it was tried in vain before; nobody waits for it */
#define PROBE_MS 4000
#define VANISHED_MS 1500 /* without any acknowledgement, */
#define VANISHED_RETRANSMITS 3 /* and so many retransmissions without effect */
#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 1000
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_INTERVAL_S 2
#define KEEPALIVE_COUNT 3
#define UNACKNOWLEDGED_MS 15000 /* of sent bytes, and of a closed window */

static struct client_connection *connection_of(struct record_stream *stream)
{
	return (struct client_connection *)((char *)stream -
					    offsetof(struct client_connection, stream));
}

static bool error_is_quick(int error)
{
	return error == -ECONNREFUSED || error == -ENOTCONN;
}

/*
 * What a call is told that was never sent: it must not look like -ECONNRESET or -ETIMEDOUT, after
 * which the server may have executed the call.
 */
static int error_of_unsent(int error)
{
	switch (error) {
	case -ETIMEDOUT:
		return -EHOSTUNREACH;
	case -ECONNRESET:
	case -EPIPE:
	case -EPROTO:
	case -EMSGSIZE:
		return -ENOTCONN;
	default:
		return error;
	}
}

bool client_connection_refuses(const struct rpc_client *client, int64_t now_ms)
{
	switch (client->state) {
	case CLIENT_IDLE:
	case CLIENT_READY:
		return false;
	case CLIENT_BACKED_OFF:
		return !client->attempt_wanted &&
		       (!error_is_quick(client->last_error) ||
			       now_ms - client->attempt_ms < BACKOFF_FIRST_MS);
	default:
		/* Without an error, the first attempt is about to fail: the call ends with it. */
		return atomic_load(&client->down) && client->last_error &&
		       !error_is_quick(client->last_error);
	}
}

int64_t client_connection_next_ms(const struct rpc_client *client)
{
	return client->probe_ms < client->timer_ms ? client->probe_ms : client->timer_ms;
}

struct client_call *client_connection_close(struct rpc_client *client, int error)
{
	struct client_connection *connection;
	struct client_call *calls;

	/* All at once: a new call is either among those that end, or refused with this error. */
	pthread_mutex_lock(&client->lock);
	connection = client->connection;
	client->connection = NULL;
	client->state = CLIENT_BACKED_OFF;
	client->last_error = error_of_unsent(error);
	client->attempt_wanted = false;
	calls = client_take_all(client);
	pthread_mutex_unlock(&client->lock);
	client->timer_ms = client->probe_ms = REACTOR_NEVER;
	if (connection) {
		connection->closed = true;
		record_stream_close(&connection->stream);
	}
	return calls;
}

/* The attempt failed or the connection broke: all calls end, the next attempt gets its time. */
static void fail(struct rpc_client *client, int error)
{
	bool was_ready = client->state == CLIENT_READY;
	struct client_call *calls;

	if (!atomic_exchange(&client->down, true) || error == -EACCES)
		rozo_log_limited(WARNING, "rpc: server %s, program 0x%x: %s", client->address_text,
			client->program,
			error == -EACCES ? "authentication failed; do both ends have the same "
					   "cluster key?"
					 : strerror(-error));
	calls = client_connection_close(client, error);
	if (was_ready)
		client->backoff_ms = BACKOFF_FIRST_MS; /* servers restart */
	else
		client->backoff_ms = client->backoff_ms ? client->backoff_ms * 2 : BACKOFF_FIRST_MS;
	if (client->backoff_ms > BACKOFF_MAX_MS || error == -EACCES)
		client->backoff_ms = BACKOFF_MAX_MS;
	/* From beginning to beginning: an attempt that took its time has been pause enough. */
	client->timer_ms = client->attempt_ms + client->backoff_ms;
	reactor_wake_by(client->reactor, client->timer_ms);
	while (calls) {
		struct client_call *next = calls->later;

		client_finish(
			calls, calls->buffer ? error_of_unsent(error) : -ECONNRESET, NULL, 0, 0);
		calls = next;
	}
}

static void become_ready(struct rpc_client *client)
{
	struct client_connection *connection = client->connection;
	struct record_buffer *chain = NULL, **end = &chain;

	if (atomic_exchange(&client->down, false))
		rozo_log_limited(INFO, "rpc: server %s, program 0x%x: connected again",
			client->address_text, client->program);
	client->backoff_ms = 0;
	client->timer_ms = REACTOR_NEVER;
	connection->stream.record_bytes_limit = RECORD_BYTES_MAX;
	pthread_mutex_lock(&client->lock);
	client->state = CLIENT_READY;
	client->last_error = 0;
	for (struct client_call *call = client->first; call; call = call->later) {
		*end = call->buffer;
		end = &call->buffer->next;
		call->buffer = NULL;
	}
	pthread_mutex_unlock(&client->lock);
	if (chain)
		record_stream_send(&connection->stream, chain);
}

/* -------- handshake -------- */

static int send_handshake(struct rpc_client *client, enum client_state state, uint32_t procedure,
	rpc_xdr args_xdr, const void *args)
{
	struct client_connection *connection = client->connection;
	struct record_buffer *buffer;
	int error;

	connection->handshake_xid = atomic_fetch_add(&client->next_xid, 1);
	error = message_make_call(&buffer, connection->handshake_xid, client->program,
		client->version, procedure, args_xdr, args);
	if (error)
		return error;
	pthread_mutex_lock(&client->lock);
	client->state = state;
	pthread_mutex_unlock(&client->lock);
	record_stream_send(&connection->stream, buffer);
	return 0;
}

static int connected(struct rpc_client *client)
{
	struct client_connection *connection = client->connection;
	struct auth_hello_args hello;
	int error;

	if (!client->has_key) {
		become_ready(client);
		return 0;
	}
	client->timer_ms = reactor_now_ms() + CONNECT_MS;
	reactor_wake_by(client->reactor, client->timer_ms);
	error = rpc_auth_nonce(connection->client_nonce);
	if (error)
		return error;
	memcpy(hello.client_nonce, connection->client_nonce, AUTH_NONCE_BYTES);
	return send_handshake(
		client, CLIENT_HELLO, RPC_PROCEDURE_HELLO, RPC_XDR(xdr_auth_hello_args), &hello);
}

static int hello_answered(
	struct rpc_client *client, const uint8_t *record, size_t bytes, size_t results)
{
	struct client_connection *connection = client->connection;
	struct auth_hello_res answer = {0};
	struct auth_prove_args prove;

	if (message_decode(record, bytes, results, RPC_XDR(xdr_auth_hello_res), &answer) ||
		!rpc_auth_check(answer.server_mac, RPC_AUTH_SERVER, &client->key, client->program,
			connection->client_nonce, answer.server_nonce))
		return -EACCES;
	memcpy(connection->server_nonce, answer.server_nonce, AUTH_NONCE_BYTES);
	rpc_auth_mac(prove.client_mac, RPC_AUTH_CLIENT, &client->key, client->program,
		connection->client_nonce, connection->server_nonce);
	return send_handshake(
		client, CLIENT_PROVE, RPC_PROCEDURE_PROVE, RPC_XDR(xdr_auth_prove_args), &prove);
}

/* Returns 0 or the error that ends the connection. */
static int handshake(struct rpc_client *client, const uint8_t *record, size_t bytes)
{
	struct auth_prove_res answer = {0};
	uint32_t xid;
	size_t results;
	int refused;

	if (message_read_reply(record, bytes, &xid, &refused, &results) ||
		xid != client->connection->handshake_xid || refused)
		return -EACCES;
	if (client->state == CLIENT_HELLO)
		return hello_answered(client, record, bytes, results);
	if (message_decode(record, bytes, results, RPC_XDR(xdr_auth_prove_res), &answer) ||
		answer.status)
		return -EACCES;
	become_ready(client);
	return 0;
}

/* -------- replies -------- */

/* Takes over the record. Returns 0 or the error that ends the connection. */
static int reply(struct rpc_client *client, uint8_t *record, size_t bytes)
{
	struct client_call *call;
	uint32_t xid;
	size_t results;
	int error;

	if (message_read_reply(record, bytes, &xid, &error, &results)) {
		free(record);
		return -EPROTO;
	}
	client->connection->received++;
	/* Whatever it answers, and be it late: the server is alive. */
	if (atomic_load_explicit(&client->down, memory_order_relaxed))
		atomic_store(&client->down, false);
	if (client->probe_ms != REACTOR_NEVER && xid == client->probe_xid)
		client->probe_ms = REACTOR_NEVER;
	pthread_mutex_lock(&client->lock);
	call = client_take_call(client, xid);
	pthread_mutex_unlock(&client->lock);
	if (call)
		client_finish(call, error, record, bytes, results);
	else
		free(record);
	return 0;
}

static int receive(struct rpc_client *client, struct client_connection *connection)
{
	for (;;) {
		uint8_t *record;
		size_t bytes;
		int result = record_stream_read(&connection->stream, &record, &bytes);

		if (result <= 0)
			return result;
		if (client->state == CLIENT_READY) {
			result = reply(client, record, bytes);
		} else {
			result = handshake(client, record, bytes);
			free(record);
		}
		if (result < 0)
			return result;
	}
}

static void ready(struct reactor_source *source, uint32_t events)
{
	struct client_connection *connection = connection_of(
		(struct record_stream *)((char *)source - offsetof(struct record_stream, source)));
	struct rpc_client *client = connection->client;
	int error = 0;

	if (connection->closed)
		return;
	if (client->state == CLIENT_CONNECTING) {
		socklen_t bytes = sizeof(error);

		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		getsockopt(connection->stream.fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
		error = -error;
		if (!error) {
			record_stream_writable(&connection->stream);
			error = connected(client);
		}
	} else {
		bool handshaking = client->state != CLIENT_READY;

		if (events & EPOLLOUT)
			record_stream_writable(&connection->stream);
		if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			error = receive(client, connection);
		/* A server with another key closes the connection. */
		if (error && handshaking && client->state == CLIENT_PROVE)
			error = -EACCES;
	}
	if (error)
		fail(client, error);
}

static void release(struct record_stream *stream)
{
	free(connection_of(stream));
}

/* -------- attempts -------- */

static int open_socket(const struct rpc_client *client)
{
	static const int on = 1, idle_s = KEEPALIVE_IDLE_S, interval_s = KEEPALIVE_INTERVAL_S,
			 count = KEEPALIVE_COUNT;
	static const unsigned int unacknowledged_ms = UNACKNOWLEDGED_MS;
	static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
	int fd = socket(client->address.storage.ss_family,
		SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

	if (fd < 0)
		return -errno;
	/* These make it better; it works without them. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(
		fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof(unacknowledged_ms));
	/*
	 * Calls that are given up with their connection may be made again. The kernel would go on
	 * sending them, and deliver them after what was done since, when the network is back.
	 */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	return fd;
}

static void attempt(struct rpc_client *client, int64_t now_ms)
{
	struct client_connection *connection = NULL;
	int fd = open_socket(client), error = fd < 0 ? fd : 0;

	pthread_mutex_lock(&client->lock);
	client->attempt_wanted = false;
	client->attempt_ms = now_ms;
	client->state = CLIENT_CONNECTING;
	pthread_mutex_unlock(&client->lock);
	if (error)
		goto out;
	if (connect(fd, (const struct sockaddr *)&client->address.storage, client->address.bytes) &&
		errno != EINPROGRESS) {
		error = -errno;
		goto out;
	}
	connection = calloc(1, sizeof(*connection));
	if (!connection) {
		error = -ENOMEM;
		goto out;
	}
	connection->client = client;
	/* Handshake answers are small; whoever is there may not be ours. */
	error = record_stream_open(
		&connection->stream, client->reactor, fd, EPOLLIN | EPOLLOUT, 1024, ready, release);
	if (error)
		goto out;
	fd = -1;
	pthread_mutex_lock(&client->lock);
	client->connection = connection;
	pthread_mutex_unlock(&client->lock);
	connection = NULL;
	client->timer_ms = now_ms + (error_is_quick(client->last_error) || !client->last_error
						    ? CONNECT_MS
						    : CONNECT_AGAIN_MS);
out:
	free(connection);
	if (fd >= 0)
		close(fd);
	if (error)
		fail(client, error);
}

/* -------- time -------- */

void client_connection_suspect(struct rpc_client *client, int64_t now_ms)
{
	struct record_buffer *buffer;

	if (client->state != CLIENT_READY)
		return;
	if (!atomic_exchange(&client->down, true))
		rozo_log_limited(WARNING, "rpc: server %s, program 0x%x: no answer in time",
			client->address_text, client->program);
	if (client->probe_ms != REACTOR_NEVER)
		return;
	client->probe_xid = atomic_fetch_add(&client->next_xid, 1);
	if (message_make_call(&buffer, client->probe_xid, client->program, client->version,
		    RPC_PROCEDURE_NULL, NULL, NULL))
		return; /* out of memory: the next call that times out tries again */
	client->probe_ms = now_ms + PROBE_MS;
	client->probe_received = client->connection->received;
	record_stream_send(&client->connection->stream, buffer);
	client->probe_unsent = record_stream_unsent(&client->connection->stream);
}

/* The probe's time is over: is the server only slow? */
static void judge_probe(struct rpc_client *client, int64_t now_ms)
{
	size_t unsent = record_stream_unsent(&client->connection->stream);

	if (client->connection->received != client->probe_received ||
		unsent < client->probe_unsent) {
		client->probe_received = client->connection->received;
		client->probe_unsent = unsent;
		client->probe_ms = now_ms + PROBE_MS;
	} else {
		fail(client, -EHOSTUNREACH);
	}
}

static bool host_has_vanished(const struct client_connection *connection)
{
	struct tcp_info info;
	socklen_t bytes = sizeof(info);

	return !getsockopt(connection->stream.fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) &&
	       info.tcpi_retransmits >= VANISHED_RETRANSMITS &&
	       info.tcpi_last_ack_recv >= VANISHED_MS;
}

void client_connection_tick(struct rpc_client *client, int64_t now_ms)
{
	bool wanted;

	pthread_mutex_lock(&client->lock);
	wanted = client->attempt_wanted;
	pthread_mutex_unlock(&client->lock);
	switch (client->state) {
	case CLIENT_IDLE:
	case CLIENT_BACKED_OFF:
		if (wanted || now_ms >= client->timer_ms) {
			client->timer_ms = REACTOR_NEVER;
			attempt(client, now_ms);
		}
		break;
	case CLIENT_CONNECTING:
	case CLIENT_HELLO:
	case CLIENT_PROVE:
		if (now_ms >= client->timer_ms)
			fail(client, -EHOSTUNREACH);
		break;
	case CLIENT_READY:
		if (host_has_vanished(client->connection))
			fail(client, -EHOSTUNREACH);
		else if (now_ms >= client->probe_ms)
			judge_probe(client, now_ms);
		break;
	}
}
