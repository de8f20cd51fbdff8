/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Inside of the server: what server.c (listening, workers, stopping) and server_connection.c (one
 * connection: authentication, calls in, replies out) share.
 *
 * Threads: workers, all alike. Those that execute no call run the server's reactor, which owns
 * connections and reads calls; "the reactor's thread" is the one that is being called by it.
 * Locks: server->lock and connection->lock guard the fields marked so; no other lock is taken
 * inside them.
 */
#ifndef ROZO_RPC_SERVER_H
#define ROZO_RPC_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/address.h"
#include "rpc/cluster_auth.h"
#include "rpc/message.h"
#include "rpc/reactor.h"
#include "rpc/record.h"
#include "rpc/rpc.h"

#pragma GCC visibility push(hidden)

#define SERVER_BUCKETS 64 /* a power of 2 */

enum server_trust {
	SERVER_STRANGER, /* HELLO is the only call allowed */
	SERVER_CHALLENGED, /* HELLO answered, PROVE is the only call allowed */
	SERVER_AUTHENTICATED, /* or no authentication needed */
	SERVER_LEAVING, /* turned away; waits for the peer to read the reason and close */
};

struct server_connection {
	struct record_stream stream;
	struct rpc_server *server;
	struct server_connection *previous; /* oldest first */
	struct server_connection *next;
	atomic_bool closed; /* by the reactor's thread */
	enum server_trust trust;
	int64_t deadline_ms; /* to authenticate, to leave; REACTOR_NEVER */
	char address[RPC_ADDRESS_TEXT_BYTES];
	char client_nonce[AUTH_NONCE_BYTES];
	char server_nonce[AUTH_NONCE_BYTES];
	atomic_bool paused; /* not read until its calls are fewer */
	atomic_uint calls; /* waiting or being executed */
	atomic_size_t call_bytes; /* of their records */
	pthread_mutex_t lock; /* guards the rest */
	struct server_request *buckets[SERVER_BUCKETS]; /* these calls, by xid */
};

/* A call waiting for a worker or being executed. Holds a reference on the connection's stream. */
struct server_request {
	struct server_request *next;
	struct server_request *bucket_next;
	struct server_connection *connection;
	uint8_t *record;
	size_t bytes;
	struct message_call call;
};

struct rpc_server {
	struct reactor_source source; /* the listening socket */
	struct reactor *reactor;
	struct rpc_program program;
	bool has_key;
	struct rpc_key key;
	char address[RPC_ADDRESS_TEXT_BYTES];
	struct rpc_socket_address local; /* the same */
	uint16_t port;
	unsigned int threads_max;

	/* The reactor's thread only. */
	int fd;
	bool accepting;
	int64_t accept_again_ms;
	struct server_connection *first;
	struct server_connection *last;
	unsigned int strangers;

	pthread_mutex_t lock; /* guards the rest */
	struct server_request *first_request;
	struct server_request *last_request;
	unsigned int free; /* threads that execute nothing: at the reactor, or about to be */
	unsigned int running; /* threads that have not come to their end */
	unsigned int threads; /* that were made, at most threads_max and one for the reactor */
	pthread_t *thread;
	bool stopping; /* no call is begun any more */
	bool suspended;
	int64_t drain_ms; /* 0, or when connections are closed with replies unsent */
	bool drained; /* the reactor's thread only */
};

/* -------- server.c -------- */

/* Gives a request to the workers; takes it over. The reactor's thread. */
void server_enqueue(struct rpc_server *server, struct server_request *request);

/* -------- server_connection.c -------- */

/* Takes over an accepted socket. The reactor's thread. */
void server_connection_open(
	struct rpc_server *server, int fd, const struct sockaddr_storage *address);

/* The reactor's thread. */
void server_connection_close(struct server_connection *connection);

/* Looks at deadlines and paused connections; returns when to look again. The reactor's thread. */
int64_t server_connection_tick(struct server_connection *connection, int64_t now_ms);

/* Executes a request, if its peer is still there, and frees it. A worker. */
void server_request_execute(struct server_request *request);

/* Frees a request without answer. */
void server_request_drop(struct server_request *request);

#pragma GCC visibility pop

#endif
