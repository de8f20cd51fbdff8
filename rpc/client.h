/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Inside of the client: what client.c (calls) and client_connection.c (the connection) share.
 *
 * Threads: everything that changes `state` or `connection` happens in the reactor's thread.
 * Locks: client->lock guards the fields marked so; a stream's lock may be taken inside it.
 * Callbacks are called without locks.
 */
#ifndef ROZO_RPC_CLIENT_H
#define ROZO_RPC_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/address.h"
#include "rpc/cluster_auth.h"
#include "rpc/event.h"
#include "rpc/message.h"
#include "rpc/reactor.h"
#include "rpc/record.h"
#include "rpc/rpc.h"

#pragma GCC visibility push(hidden)

#define CLIENT_BUCKETS 256 /* a power of 2 */
#define CLIENT_LOOK_MS 1000 /* how often a connection with calls on it is looked at */

/* A thread in rpc_call(). It decodes its result itself, to leave the reactor free. */
struct client_waiter {
	struct rpc_event finished;
	int error;
	uint8_t *record; /* the reply, if error is 0 */
	size_t bytes;
	size_t results;
};

struct client_call {
	struct client_call *bucket_next;
	struct client_call *earlier; /* by deadline */
	struct client_call *later;
	uint32_t xid;
	int64_t deadline_ms;
	struct record_buffer *buffer; /* until it is given to the connection */
	rpc_xdr result_xdr;
	void *result;
	rpc_done done;
	void *context;
	struct client_waiter *waiter; /* instead of done */
};

enum client_state {
	CLIENT_IDLE, /* no connection, and none was wanted so far */
	CLIENT_BACKED_OFF, /* the last attempt failed, or the connection broke */
	CLIENT_CONNECTING,
	CLIENT_HELLO, /* sent, not answered */
	CLIENT_PROVE,
	CLIENT_READY,
};

struct client_connection {
	struct record_stream stream;
	struct rpc_client *client;
	bool closed;
	uint32_t handshake_xid;
	uint64_t received; /* records */
	char client_nonce[AUTH_NONCE_BYTES];
	char server_nonce[AUTH_NONCE_BYTES];
};

struct rpc_client {
	struct rpc_client *previous; /* in the list of all clients */
	struct rpc_client *next;
	struct reactor *reactor;
	struct rpc_socket_address address;
	char address_text[RPC_ADDRESS_TEXT_BYTES];
	uint32_t program;
	uint32_t version;
	bool has_key;
	struct rpc_key key;
	atomic_bool down;
	_Atomic uint32_t next_xid;

	pthread_mutex_t lock; /* guards the rest, but for what only the reactor's thread uses */
	enum client_state state;
	struct client_connection *connection;
	struct client_call *buckets[CLIENT_BUCKETS];
	struct client_call *first; /* by deadline */
	struct client_call *last;
	int last_error;
	int64_t attempt_ms; /* when the last connection was begun */
	bool attempt_wanted;
	bool destroy_wanted;
	struct rpc_event destroyed;

	/* The reactor's thread only. */
	int64_t timer_ms; /* next attempt, or end of one; REACTOR_NEVER */
	int64_t backoff_ms;
	uint32_t probe_xid;
	int64_t probe_ms; /* when the probe counts as unanswered; REACTOR_NEVER */
	uint64_t probe_received;
	size_t probe_unsent;
};

/* -------- client.c -------- */

/* Takes a call out of the client's tables; NULL: there is none. client->lock is held. */
struct client_call *client_take_call(struct rpc_client *client, uint32_t xid);

/*
 * Takes all calls out, linked by `later`. client->lock is held.
 */
struct client_call *client_take_all(struct rpc_client *client);

/* Tells the caller how it ended and frees the call. record: the reply, given away; or NULL. */
void client_finish(
	struct client_call *call, int error, uint8_t *record, size_t bytes, size_t results);

/* -------- client_connection.c; the reactor's thread -------- */

/* Attempts what is due at the time. */
void client_connection_tick(struct rpc_client *client, int64_t now_ms);

/* A call on the connection got no answer in time: find out whether the server is alive. */
void client_connection_suspect(struct rpc_client *client, int64_t now_ms);

/*
 * Closes the connection because of an error (negative errno), with which new calls are refused.
 * Returns all calls that are under way, taken out and linked by `later`; the caller finishes them.
 */
struct client_call *client_connection_close(struct rpc_client *client, int error);

/* The next point in time that client_connection_tick() is of use. */
int64_t client_connection_next_ms(const struct rpc_client *client);

/* True if calls fail at once with client->last_error. client->lock is held. */
bool client_connection_refuses(const struct rpc_client *client, int64_t now_ms);

#pragma GCC visibility pop

#endif
