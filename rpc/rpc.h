/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Remote procedure calls between the parts of a cluster, and the NFSv3 service of the gateways.
 *
 * Messages are ONC RPC v2 over TCP with record marking (RFC 5531), encoded by the stubs that
 * rpcgen makes from the .x files and by libntirpc's XDR. The record streams of both sides are our
 * own (docs/rpc.md says why). Client: one epoll set for all connections of the process, xid
 * matching, a deadline for each call, reconnection with back-off. Server: a pool of threads each,
 * which all wait for calls and execute what they read.
 */
#ifndef ROZO_RPC_H
#define ROZO_RPC_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "rpc/xdr_support.h"
/* libntirpc's header of the same name, wherever in the search path this one was found. */
#include_next <rpc/rpc.h>

/* libntirpc has a function and a struct of these names. */
#define rpc_call rozo_rpc_call
#define rpc_client rozo_rpc_client

#pragma GCC visibility push(hidden) /* rpc/xdr_support.h says why */

#define RPC_KEY_BYTES 32

/* The cluster key. */
struct rpc_key {
	uint8_t bytes[RPC_KEY_BYTES];
};

/* A stub of rpcgen, cast: encodes, decodes or frees one argument or result. */
typedef bool (*rpc_xdr)(XDR *xdrs, void *object);
#define RPC_XDR(stub) ((rpc_xdr)(void (*)(void))(stub))

/* -------- client -------- */

/*
 * Something that callbacks bring about and one thread waits for. While it waits it reads the
 * sockets of the process's clients itself, if no other thread is at it.
 */
struct rpc_event {
	/* Private. */
	pthread_cond_t changed;
	struct rpc_event *next;
	bool set;
	bool asleep;
	bool running;
};

void rpc_event_init(struct rpc_event *event);
void rpc_event_destroy(struct rpc_event *event);

/* From any thread, callbacks included. Nothing of the event is used any more on return. */
void rpc_event_set(struct rpc_event *event);

/*
 * Waits until the event is set, at most timeout_ms (UINT_MAX: for ever), and clears it. Callbacks
 * of any calls are called meanwhile: no lock may be held that one of them takes. Not from a
 * callback. Returns false if the time is over.
 */
bool rpc_event_wait(struct rpc_event *event, unsigned int timeout_ms);

struct rpc_client;

/*
 * Makes a client of one program at one address. No connection is made yet: the first call does.
 * address: numeric IPv4 or IPv6; port: TCP port; key: copied; NULL: a server that does not
 * authenticate (NFSv3).
 * The client is destroyed by rpc_client_destroy().
 * Returns NULL if the address is not numeric (errno EINVAL) or memory is short (ENOMEM).
 */
struct rpc_client *rpc_client_create(const char *address, uint16_t port, uint32_t program,
	uint32_t version, const struct rpc_key *key);

/*
 * Fails all outstanding calls with -ECANCELED, closes the connection, frees the client.
 * No call may be started any more; returns when the last callback has returned.
 * Must not be called from a callback.
 */
void rpc_client_destroy(struct rpc_client *client);

/*
 * Called exactly once for each call, by a thread that waits for an event or by the process's RPC
 * thread (or, if the call could not even be queued, before rpc_call_async() returns). Must not
 * block.
 * error: 0, result decoded into the caller's object; or
 *   -ETIMEDOUT     no answer within the call's time (the server may have executed it)
 *   -ECONNREFUSED, -EHOSTUNREACH, -ENETUNREACH, -ENOTCONN (just lost), or another errno of
 *                  connect(2): no connection (the call was not executed)
 *   -ECONNRESET    the connection broke after the call was sent (it may have been executed)
 *   -EACCES        the two ends do not share a cluster key
 *   -EPROTO        the answer cannot be decoded, or the server does not know the procedure
 *   -ECANCELED     the client was destroyed
 *   -E2BIG         the arguments do not fit the protocol's limits
 *   -ENOMEM        no memory (the call was not executed)
 */
typedef void (*rpc_done)(void *context, int error);

/*
 * Starts a call and returns at once.
 * args stays the caller's and is not used any more when the function has returned (not: when done
 * is called, which may be earlier). result must be all zeros (the
 * decoder writes through pointers it finds there), must stay valid until done is called, and after
 * success is freed by the caller with rpc_free().
 * timeout_ms: from now until done, connecting included.
 */
void rpc_call_async(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms, rpc_done done,
	void *context);

/* The same, waiting. Returns what done would be given. Must not be called from a callback. */
int rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr, const void *args,
	rpc_xdr result_xdr, void *result, unsigned int timeout_ms);

/*
 * True if the last attempt to reach the server failed or timed out and none has succeeded since.
 * A hint for choosing servers; costs nothing.
 */
bool rpc_client_is_down(const struct rpc_client *client);

/* Frees what decoding put into an argument or result, and zeroes nothing else. */
void rpc_free(rpc_xdr xdr, void *object);

/* -------- server -------- */

/* What a procedure may want to know of its caller. */
struct rpc_caller {
	char address[64]; /* numeric, with port, for log lines */
	uint32_t uid; /* AUTH_SYS, else UINT32_MAX */
	uint32_t gid;
};

/*
 * Executes one call: reads args, fills result (zeroed before). May block. Pointers that it puts
 * into result are freed by the stub's XDR_FREE (so: malloc).
 */
typedef void (*rpc_handler)(
	void *context, const struct rpc_caller *caller, const void *args, void *result);

struct rpc_procedure {
	const char *name; /* for log lines; NULL marks an unused number */
	rpc_handler handler;
	rpc_xdr args_xdr; /* NULL: no arguments */
	size_t args_bytes;
	rpc_xdr result_xdr; /* NULL: no result */
	size_t result_bytes;
};

struct rpc_program {
	uint32_t program;
	uint32_t version;
	const struct rpc_procedure *procedures; /* indexed by procedure number */
	uint32_t procedure_count;
	void *context; /* for the handlers */
};

struct rpc_server;

/*
 * Starts serving one program at one address.
 * key: connections must authenticate before any other call (auth.x); NULL: no authentication (the
 * NFSv3 service: AUTH_NONE and AUTH_SYS are accepted). Procedure 0 of every program answers with
 * nothing, unless the table says otherwise; unknown ones get PROC_UNAVAIL, other versions
 * PROG_MISMATCH, other programs PROG_UNAVAIL, arguments that do not decode GARBAGE_ARGS.
 * Calls of one connection are executed concurrently, in up to threads_max threads in all.
 * address: numeric IPv4 or IPv6 ("::" does not include IPv4). program and its table are not copied.
 * *server receives the server. Returns 0, -EADDRINUSE, -EADDRNOTAVAIL, -EACCES (privileged port),
 * -EINVAL or -ENOMEM; the reason has been logged with the address.
 */
int rpc_server_start(struct rpc_server **server, const char *address, uint16_t port,
	const struct rpc_program *program, const struct rpc_key *key, unsigned int threads_max);

/*
 * Suspended: as if the process had gone, all connections are closed and new ones are refused; calls
 * that wait are not begun any more. Afterwards it listens again when the calls that were being
 * executed are over, so that nothing of before comes after what clients send then.
 */
void rpc_server_suspend(struct rpc_server *server, bool suspended);

/* Stops accepting, waits for calls being executed, closes all connections, frees the server. */
void rpc_server_stop(struct rpc_server *server);

/* The TCP port that the server listens on; of use if it was started with port 0 (any free one). */
uint16_t rpc_server_port(const struct rpc_server *server);

#pragma GCC visibility pop

#endif
