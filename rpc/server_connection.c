/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * One connection of a server: who is there, what may he call, and his calls until they are
 * answered.
 *
 * Before a peer has proved that it has the cluster key it may send 1 KiB at a time, must be done
 * within AUTHENTICATE_MS, and shares STRANGERS_MAX places with all others in that state; the oldest
 * has to go.
 *
 * A connection that has many calls waiting, or does not read its replies, is not read until
 * matters have improved: TCP then slows the peer down.
 *
 * Calls of a peer that has closed its connection are not begun any more: it does not wait for them,
 * and may have made them again on another connection, and gone on.
 *
 * A call that comes again while it is waiting or being executed is not begun twice: NFS clients
 * send calls again after a minute. They get the first one's answer, and may then write anew what
 * the second one, still under way, would undo.
 *
 * Everything but server_request_execute() and server_request_drop() runs in the reactor's thread.
 * No locks are taken here but the connection's, the stream's own and the queue's.
 */
#include "rpc/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/log.h"

#define AUTHENTICATE_MS 5000
#define LEAVE_MS 1000
#define STRANGERS_MAX 128
#define STRANGER_RECORD_BYTES 1024
#define CALLS_MAX 256 /* of a connection, waiting or being executed */
#define CALL_BYTES_MAX ((size_t)64 << 20) /* of their records */
#define UNSENT_BYTES_MAX ((size_t)64 << 20)
#define TURN_CALLS_MAX 64 /* read before other connections get their turn */

static struct server_connection *connection_of(struct record_stream *stream)
{
	return (struct server_connection *)((char *)stream -
					    offsetof(struct server_connection, stream));
}

static void release(struct record_stream *stream)
{
	pthread_mutex_destroy(&connection_of(stream)->lock);
	free(connection_of(stream));
}

static bool is_stranger(const struct server_connection *connection)
{
	return connection->trust != SERVER_AUTHENTICATED;
}

void server_connection_close(struct server_connection *connection)
{
	struct rpc_server *server = connection->server;

	if (atomic_exchange(&connection->closed, true))
		return;
	if (is_stranger(connection))
		server->strangers--;
	if (connection->previous)
		connection->previous->next = connection->next;
	else
		server->first = connection->next;
	if (connection->next)
		connection->next->previous = connection->previous;
	else
		server->last = connection->previous;
	record_stream_close(&connection->stream);
}

/* -------- answers -------- */

static void answer(struct server_connection *connection, struct record_buffer *buffer)
{
	if (buffer)
		record_stream_send(&connection->stream, buffer);
	else
		record_stream_break(&connection->stream); /* no memory: let the peer know */
}

/* After an answer that is the last one. */
static void turn_away(struct server_connection *connection)
{
	/* Closing with unread bytes would reset the connection, and the answer with it. */
	connection->trust = SERVER_LEAVING;
	connection->deadline_ms = reactor_now_ms() + LEAVE_MS;
	reactor_wake_by(connection->server->reactor, connection->deadline_ms);
	shutdown(connection->stream.fd, SHUT_WR);
}

/* -------- authentication -------- */

static void refuse_stranger(struct server_connection *connection, const struct message_call *call)
{
	rozo_log_limited(WARNING,
		"rpc: %s: peer %s called procedure %u of program 0x%x before it authenticated; "
		"refused",
		connection->server->address, connection->address, call->procedure, call->program);
	answer(connection, message_make_auth_refusal(call->xid, AUTH_TOOWEAK));
	turn_away(connection);
}

static void hello(struct server_connection *connection, const struct message_call *call,
	const uint8_t *record, size_t bytes)
{
	struct rpc_server *server = connection->server;
	struct record_buffer *buffer = NULL;
	struct auth_hello_args args = {0};
	struct auth_hello_res result;

	if (message_decode(record, bytes, call->arguments, RPC_XDR(xdr_auth_hello_args), &args)) {
		answer(connection, message_make_refusal(call->xid, GARBAGE_ARGS, 0, 0));
		turn_away(connection);
		return;
	}
	memcpy(connection->client_nonce, args.client_nonce, AUTH_NONCE_BYTES);
	if (rpc_auth_nonce(connection->server_nonce)) {
		record_stream_break(&connection->stream);
		return;
	}
	memcpy(result.server_nonce, connection->server_nonce, AUTH_NONCE_BYTES);
	rpc_auth_mac(result.server_mac, RPC_AUTH_SERVER, &server->key, server->program.program,
		connection->client_nonce, connection->server_nonce);
	connection->trust = SERVER_CHALLENGED;
	if (message_make_result(&buffer, call->xid, RPC_XDR(xdr_auth_hello_res), &result))
		buffer = NULL;
	answer(connection, buffer);
}

static void prove(struct server_connection *connection, const struct message_call *call,
	const uint8_t *record, size_t bytes)
{
	struct rpc_server *server = connection->server;
	struct record_buffer *buffer = NULL;
	struct auth_prove_args args = {0};
	struct auth_prove_res result = {0};

	if (message_decode(record, bytes, call->arguments, RPC_XDR(xdr_auth_prove_args), &args)) {
		answer(connection, message_make_refusal(call->xid, GARBAGE_ARGS, 0, 0));
		turn_away(connection);
		return;
	}
	if (!rpc_auth_check(args.client_mac, RPC_AUTH_CLIENT, &server->key, server->program.program,
		    connection->client_nonce, connection->server_nonce))
		result.status = EACCES;
	if (message_make_result(&buffer, call->xid, RPC_XDR(xdr_auth_prove_res), &result))
		buffer = NULL;
	if (result.status) {
		rozo_log_limited(WARNING, "rpc: %s: peer %s has another cluster key; refused",
			server->address, connection->address);
		answer(connection, buffer);
		turn_away(connection);
		return;
	}
	connection->trust = SERVER_AUTHENTICATED;
	connection->deadline_ms = REACTOR_NEVER;
	connection->stream.record_bytes_limit = RECORD_BYTES_MAX;
	server->strangers--;
	answer(connection, buffer);
}

static void stranger_calls(struct server_connection *connection, const struct message_call *call,
	const uint8_t *record, size_t bytes)
{
	const struct rpc_program *program = &connection->server->program;
	bool ours = call->program == program->program && call->version == program->version;

	if (ours && connection->trust == SERVER_STRANGER && call->procedure == RPC_PROCEDURE_HELLO)
		hello(connection, call, record, bytes);
	else if (ours && connection->trust == SERVER_CHALLENGED &&
		 call->procedure == RPC_PROCEDURE_PROVE)
		prove(connection, call, record, bytes);
	else
		refuse_stranger(connection, call);
}

/* -------- calls -------- */

static const struct rpc_procedure *find_procedure(
	const struct rpc_program *program, uint32_t procedure)
{
	if (procedure >= program->procedure_count || !program->procedures[procedure].name)
		return NULL;
	return &program->procedures[procedure];
}

/* Answers what needs no worker. Returns false if one is needed. */
static bool answer_here(struct server_connection *connection, const struct message_call *call)
{
	const struct rpc_program *program = &connection->server->program;
	struct record_buffer *buffer = NULL;

	if (call->auth != AUTH_OK) {
		answer(connection, message_make_auth_refusal(call->xid, call->auth));
	} else if (call->program != program->program) {
		answer(connection, message_make_refusal(call->xid, PROG_UNAVAIL, 0, 0));
	} else if (call->version != program->version) {
		answer(connection, message_make_refusal(call->xid, PROG_MISMATCH, program->version,
					   program->version));
	} else if (find_procedure(program, call->procedure)) {
		return false;
	} else if (call->procedure == RPC_PROCEDURE_NULL) {
		if (message_make_result(&buffer, call->xid, NULL, NULL))
			buffer = NULL;
		answer(connection, buffer);
	} else {
		answer(connection, message_make_refusal(call->xid, PROC_UNAVAIL, 0, 0));
	}
	return true;
}

static struct server_request **bucket_of(struct server_connection *connection, uint32_t xid)
{
	return &connection->buckets[xid % SERVER_BUCKETS];
}

/* Notes that a call is under way. Returns false if it is already. */
static bool note_request(struct server_request *request)
{
	struct server_connection *connection = request->connection;
	struct server_request **first = bucket_of(connection, request->call.xid);

	pthread_mutex_lock(&connection->lock);
	struct server_request *other = *first;
	while (other && (other->call.xid != request->call.xid ||
				other->call.procedure != request->call.procedure ||
				other->bytes != request->bytes))
		other = other->bucket_next;
	if (!other) {
		request->bucket_next = *first;
		*first = request;
	}
	pthread_mutex_unlock(&connection->lock);
	return !other;
}

static void forget_request(struct server_request *request)
{
	struct server_connection *connection = request->connection;
	struct server_request **link = bucket_of(connection, request->call.xid);

	pthread_mutex_lock(&connection->lock);
	while (*link != request)
		link = &(*link)->bucket_next;
	*link = request->bucket_next;
	pthread_mutex_unlock(&connection->lock);
}

/* Takes over the record. Returns 0, or the error that ends the connection. */
static int take_call(struct server_connection *connection, uint8_t *record, size_t bytes)
{
	struct server_request *request;
	struct message_call call;
	int error = message_read_call(&call, record, bytes);

	if (error)
		goto out;
	if (call.rpc_version != RPC_MSG_VERSION) {
		answer(connection, message_make_mismatch(call.xid));
		if (is_stranger(connection))
			turn_away(connection);
		goto out;
	}
	if (is_stranger(connection)) {
		stranger_calls(connection, &call, record, bytes);
		goto out;
	}
	if (answer_here(connection, &call))
		goto out;
	request = malloc(sizeof(*request));
	if (!request) {
		answer(connection, message_make_refusal(call.xid, SYSTEM_ERR, 0, 0));
		goto out;
	}
	*request = (struct server_request){
		.connection = connection, .record = record, .bytes = bytes, .call = call};
	if (!note_request(request)) {
		rozo_log_limited(WARNING,
			"rpc: %s: peer %s repeats a call of procedure %u that is under way still",
			connection->server->address, connection->address, call.procedure);
		free(request);
		goto out;
	}
	record_stream_reference(&connection->stream);
	atomic_fetch_add(&connection->calls, 1);
	atomic_fetch_add(&connection->call_bytes, bytes);
	server_enqueue(connection->server, request);
	return 0;
out:
	free(record);
	return error;
}

static bool has_too_much(struct server_connection *connection, unsigned int divisor)
{
	return atomic_load(&connection->calls) > CALLS_MAX / divisor ||
	       atomic_load(&connection->call_bytes) > CALL_BYTES_MAX / divisor ||
	       record_stream_unsent(&connection->stream) > UNSENT_BYTES_MAX / divisor;
}

static void pause_reading(struct server_connection *connection)
{
	atomic_store(&connection->paused, true);
	record_stream_want_input(&connection->stream, false);
	/* Whatever it waits for may have happened just now. */
	reactor_wake(connection->server->reactor);
}

/* Returns 0, or the error that ends the connection. */
static int receive(struct server_connection *connection)
{
	for (unsigned int i = 0; connection->trust != SERVER_LEAVING; i++) {
		uint8_t *record;
		size_t bytes;
		int result;

		if (i == TURN_CALLS_MAX || has_too_much(connection, 1)) {
			pause_reading(connection);
			return 0;
		}
		result = record_stream_read(&connection->stream, &record, &bytes);
		if (result > 0)
			result = take_call(connection, record, bytes);
		else if (!result)
			return 0;
		if (result < 0)
			return result;
	}
	return record_stream_discard(&connection->stream);
}

static void resume_reading(struct server_connection *connection)
{
	int error;

	if (!atomic_load(&connection->paused) || has_too_much(connection, 2))
		return;
	atomic_store(&connection->paused, false);
	record_stream_want_input(&connection->stream, true);
	/* There may be calls that were received already. */
	error = receive(connection);
	if (error)
		server_connection_close(connection);
}

static void log_end(const struct server_connection *connection, int error)
{
	if (error == -EMSGSIZE)
		rozo_log_limited(WARNING,
			"rpc: %s: peer %s sent a message larger than the %zu bytes allowed; "
			"connection closed",
			connection->server->address, connection->address,
			connection->stream.record_bytes_limit);
	else if (error == -EPROTO)
		rozo_log_limited(WARNING,
			"rpc: %s: peer %s sent something that is not a call; connection closed",
			connection->server->address, connection->address);
	else if (error == -ENOMEM)
		rozo_log_limited(ERROR, "rpc: %s: out of memory; connection of peer %s closed",
			connection->server->address, connection->address);
}

static void ready(struct reactor_source *source, uint32_t events)
{
	struct server_connection *connection = connection_of(
		(struct record_stream *)((char *)source - offsetof(struct record_stream, source)));
	int error = 0;

	if (connection->closed)
		return;
	/*
	 * What somebody who has gone has sent, and may have sent again, is not to come later: not
	 * even what has not been read yet, since this process may have stood still.
	 */
	if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
		error = -ECONNRESET;
	} else {
		if (events & EPOLLOUT) {
			record_stream_writable(&connection->stream);
			resume_reading(connection);
			if (connection->closed)
				return;
		}
		if (events & EPOLLIN && !atomic_load(&connection->paused))
			error = receive(connection);
	}
	if (error) {
		log_end(connection, error);
		server_connection_close(connection);
	}
}

void server_connection_open(
	struct rpc_server *server, int fd, const struct sockaddr_storage *address)
{
	struct server_connection *connection = calloc(1, sizeof(*connection));

	if (!connection ||
		record_stream_open(&connection->stream, server->reactor, fd, EPOLLIN | EPOLLRDHUP,
			server->has_key ? STRANGER_RECORD_BYTES : RECORD_BYTES_MAX, ready,
			release)) {
		rozo_log_limited(
			ERROR, "rpc: %s: no memory for another connection", server->address);
		free(connection);
		close(fd);
		return;
	}
	connection->server = server;
	pthread_mutex_init(&connection->lock, NULL);
	rpc_address_format(address, connection->address);
	connection->previous = server->last;
	if (server->last)
		server->last->next = connection;
	else
		server->first = connection;
	server->last = connection;
	connection->deadline_ms = REACTOR_NEVER;
	if (!server->has_key) {
		connection->trust = SERVER_AUTHENTICATED;
		return;
	}
	connection->trust = SERVER_STRANGER;
	connection->deadline_ms = reactor_now_ms() + AUTHENTICATE_MS;
	reactor_wake_by(server->reactor, connection->deadline_ms);
	if (++server->strangers > STRANGERS_MAX) {
		struct server_connection *oldest = server->first;

		while (!is_stranger(oldest))
			oldest = oldest->next;
		rozo_log_limited(WARNING,
			"rpc: %s: more than %d connections that have not authenticated; peer %s is "
			"closed",
			server->address, STRANGERS_MAX, oldest->address);
		server_connection_close(oldest);
	}
}

int64_t server_connection_tick(struct server_connection *connection, int64_t now_ms)
{
	if (now_ms >= connection->deadline_ms) {
		if (connection->trust != SERVER_LEAVING)
			rozo_log_limited(WARNING,
				"rpc: %s: peer %s has not authenticated within %d ms; closed",
				connection->server->address, connection->address, AUTHENTICATE_MS);
		server_connection_close(connection);
		return REACTOR_NEVER;
	}
	resume_reading(connection);
	return connection->closed ? REACTOR_NEVER : connection->deadline_ms;
}

/* -------- workers -------- */

void server_request_drop(struct server_request *request)
{
	struct server_connection *connection = request->connection;

	forget_request(request);
	atomic_fetch_sub(&connection->call_bytes, request->bytes);
	atomic_fetch_sub(&connection->calls, 1);
	/* The reference keeps the connection, and the server outlives its workers. */
	if (atomic_load(&connection->paused))
		reactor_wake(connection->server->reactor);
	free(request->record);
	free(request);
	record_stream_release(&connection->stream);
}

static void execute(const struct server_request *request)
{
	struct server_connection *connection = request->connection;
	const struct message_call *call = &request->call;
	const struct rpc_procedure *procedure =
		find_procedure(&connection->server->program, call->procedure);
	struct rpc_caller caller = {.uid = call->uid, .gid = call->gid};
	struct record_buffer *buffer = NULL;
	void *args = calloc(1, procedure->args_bytes + 1);
	void *result = calloc(1, procedure->result_bytes + 1);
	int error;

	_Static_assert(sizeof(caller.address) == sizeof(connection->address), "text of an address");
	if (!args || !result) {
		answer(connection, message_make_refusal(call->xid, SYSTEM_ERR, 0, 0));
		goto out;
	}
	if (message_decode_borrowing(
		    request->record, request->bytes, call->arguments, procedure->args_xdr, args)) {
		rozo_log_limited(WARNING, "rpc: %s: arguments of %s from peer %s do not decode",
			connection->server->address, procedure->name, connection->address);
		answer(connection, message_make_refusal(call->xid, GARBAGE_ARGS, 0, 0));
		goto out;
	}
	memcpy(caller.address, connection->address, sizeof(caller.address));
	procedure->handler(connection->server->program.context, &caller, args, result);
	error = message_make_result(&buffer, call->xid, procedure->result_xdr, result);
	if (error) {
		rozo_log_limited(ERROR, "rpc: %s: the result of %s cannot be sent: %s",
			connection->server->address, procedure->name, strerror(-error));
		buffer = message_make_refusal(call->xid, SYSTEM_ERR, 0, 0);
	}
	/* Before what it may point to is freed. */
	answer(connection, buffer);
	rpc_free_borrower(procedure->args_xdr, args);
	rpc_free(procedure->result_xdr, result);
out:
	free(args);
	free(result);
}

void server_request_execute(struct server_request *request)
{
	if (!atomic_load(&request->connection->closed))
		execute(request);
	server_request_drop(request);
}
