/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A server: its listening socket, its workers, its end.
 *
 * All workers wait in the reactor, and the one that reads a call executes it: a call costs the
 * waking of one thread, and nobody else is disturbed. Who leaves the reactor for a call sees to it
 * that somebody stays there, if need be a new thread; the last one that is free, of as many as
 * there may be, stays itself. Calls that it reads wait for the first that becomes free.
 *
 * Locks: server->lock (queue, workers, end).
 */
#include "rpc/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "rpc/log.h"
#include "rpc/slice.h"

#define BACKLOG 512
#define ACCEPT_PAUSE_MS 100 /* without descriptors */
#define RESUME_TICK_MS 100
#define THREAD_PAUSE_MS 10 /* without another thread */
#define ACCEPTS_MAX 64 /* in one turn */
#define DRAIN_MS 2000
#define DRAIN_TICK_MS 2

/* -------- workers -------- */

static void *worker(void *argument);

/* server->lock is held. Returns 0 or a negative errno of pthread_create(3). */
static int add_worker(struct rpc_server *server)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&server->thread[server->threads], NULL, worker, server);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return -error;
	pthread_setname_np(server->thread[server->threads], "rozo_worker");
	server->threads++;
	server->running++;
	server->free++;
	return 0;
}

/*
 * Takes a request that the calling thread, which is free, may execute: somebody else is. Returns
 * NULL if there is none, or nobody else; *error is set if there could be. server->lock is held.
 */
static struct server_request *take_request(struct rpc_server *server, int *error)
{
	struct server_request *request = server->first_request;

	if (!request)
		return NULL;
	if (server->free == 1 && server->threads <= server->threads_max)
		*error = add_worker(server);
	if (server->free == 1)
		return NULL;
	server->first_request = request->next;
	if (!server->first_request)
		server->last_request = NULL;
	server->free--;
	return request;
}

static void *worker(void *argument)
{
	struct rpc_server *server = argument;

	rpc_thread_wants_short_slices();
	pthread_mutex_lock(&server->lock);
	while (!server->stopping) {
		int error = 0;
		struct server_request *request = take_request(server, &error);
		bool more = request && server->first_request &&
			    (server->free > 1 || server->threads <= server->threads_max);

		pthread_mutex_unlock(&server->lock);
		if (error) {
			rozo_log_limited(WARNING, "rpc: %s: no thread for more calls at once: %s",
				server->address, strerror(-error));
			/* There may be nobody at work who will take it. */
			reactor_wake_by(server->reactor, reactor_now_ms() + THREAD_PAUSE_MS);
		}
		/* One read may have brought several calls: whoever comes for one calls the next. */
		if (more)
			reactor_interrupt(server->reactor);
		if (request)
			server_request_execute(request);
		else
			reactor_turn(server->reactor, -1);
		pthread_mutex_lock(&server->lock);
		if (request)
			server->free++;
	}
	server->running--;
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

void server_enqueue(struct rpc_server *server, struct server_request *request)
{
	bool stopping;

	request->next = NULL;
	pthread_mutex_lock(&server->lock);
	stopping = server->stopping;
	if (!stopping) {
		if (server->last_request)
			server->last_request->next = request;
		else
			server->first_request = request;
		server->last_request = request;
	}
	pthread_mutex_unlock(&server->lock);
	if (stopping)
		server_request_drop(request);
}

/* -------- accepting -------- */

static void stop_accepting(struct rpc_server *server)
{
	if (server->accepting)
		reactor_remove(server->reactor, &server->source);
	server->accepting = false;
}

static void set_options(int fd)
{
	static const int on = 1, idle_s = 30, interval_s = 10, count = 3;
	static const unsigned int unacknowledged_ms = 60000;

	/* These make it better; it works without them. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(
		fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof(unacknowledged_ms));
}

static void accept_ready(struct reactor_source *source, uint32_t events)
{
	struct rpc_server *server =
		(struct rpc_server *)((char *)source - offsetof(struct rpc_server, source));

	(void)events;
	for (unsigned int i = 0; i < ACCEPTS_MAX && server->accepting; i++) {
		struct sockaddr_storage address;
		socklen_t bytes = sizeof(address);
		int fd = accept4(server->fd, (struct sockaddr *)&address, &bytes,
			SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			set_options(fd);
			server_connection_open(server, fd, &address);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			/* The connection stays in the queue; asking again at once is of no use. */
			rozo_log_limited(WARNING, "rpc: %s: cannot accept a connection: %s",
				server->address, strerror(errno));
			stop_accepting(server);
			server->accept_again_ms = reactor_now_ms() + ACCEPT_PAUSE_MS;
			reactor_wake_by(server->reactor, server->accept_again_ms);
			return;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		/* Anything else is about the connection that was to be accepted: accept(2). */
	}
}

static int64_t accept_tick(struct rpc_server *server, int64_t now_ms)
{
	if (server->accept_again_ms == REACTOR_NEVER || now_ms < server->accept_again_ms)
		return server->accept_again_ms;
	server->accept_again_ms = REACTOR_NEVER;
	if (reactor_add(server->reactor, server->fd, EPOLLIN, &server->source)) {
		server->accept_again_ms = now_ms + ACCEPT_PAUSE_MS;
		return server->accept_again_ms;
	}
	server->accepting = true;
	return REACTOR_NEVER;
}

/* -------- time, and the end -------- */

/* Listens at server->local. */
static int open_listener(struct rpc_server *server)
{
	static const int on = 1;
	const struct rpc_socket_address *local = &server->local;

	server->fd = socket(
		local->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (server->fd < 0)
		return -errno;
	/* A restart must not wait for the old connections to be forgotten. */
	if (setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
		return -errno;
	if (local->storage.ss_family == AF_INET6 &&
		setsockopt(server->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)))
		return -errno;
	if (bind(server->fd, (const struct sockaddr *)&local->storage, local->bytes) ||
		listen(server->fd, BACKLOG))
		return -errno;
	return 0;
}

/* Closes connections whose replies are out, all of them when time is over. */
static void drain(struct rpc_server *server, int64_t now_ms, int64_t drain_ms)
{
	struct server_connection *connection, *next;

	for (connection = server->first; connection; connection = next) {
		next = connection->next;
		if (now_ms >= drain_ms || !record_stream_unsent(&connection->stream))
			server_connection_close(connection);
	}
	if (server->first) {
		reactor_wake_by(server->reactor, now_ms + DRAIN_TICK_MS);
		return;
	}
	server->drained = true;
}

static void close_listener(struct rpc_server *server)
{
	stop_accepting(server);
	server->accept_again_ms = REACTOR_NEVER;
	if (server->fd >= 0)
		close(server->fd);
	server->fd = -1;
}

/* Takes what waits for a worker. server->lock is held. */
static struct server_request *take_waiting(struct rpc_server *server)
{
	struct server_request *waiting = server->first_request;

	server->first_request = server->last_request = NULL;
	return waiting;
}

static void drop_all(struct server_request *waiting)
{
	while (waiting) {
		struct server_request *next = waiting->next;

		server_request_drop(waiting);
		waiting = next;
	}
}

/* Listens again, if it is not done already; but not beside calls of before. */
static int64_t resume_tick(struct rpc_server *server, bool idle, int64_t now_ms)
{
	if (server->fd >= 0)
		return REACTOR_NEVER;
	if (!idle || open_listener(server)) {
		if (server->fd >= 0)
			close(server->fd);
		server->fd = -1;
		return now_ms + RESUME_TICK_MS;
	}
	server->accept_again_ms = now_ms;
	return REACTOR_NEVER;
}

static void woken(void *context, int64_t now_ms)
{
	struct rpc_server *server = context;
	struct server_connection *connection, *following;
	struct server_request *waiting;
	int64_t next_ms = REACTOR_NEVER, accept_ms, drain_ms;
	bool stopping, suspended, idle;

	pthread_mutex_lock(&server->lock);
	stopping = server->stopping;
	suspended = server->suspended;
	idle = server->free == server->threads;
	drain_ms = server->drain_ms;
	waiting = suspended ? take_waiting(server) : NULL;
	pthread_mutex_unlock(&server->lock);
	drop_all(waiting);
	if (stopping || suspended)
		close_listener(server);
	if (drain_ms) {
		drain(server, now_ms, drain_ms);
		return;
	}
	if (suspended && !stopping) {
		while (server->first)
			server_connection_close(server->first);
		return;
	}
	if (!stopping)
		next_ms = resume_tick(server, idle, now_ms);
	accept_ms = accept_tick(server, now_ms);
	if (accept_ms < next_ms)
		next_ms = accept_ms;
	for (connection = server->first; connection; connection = following) {
		int64_t connection_ms;

		following = connection->next;
		connection_ms = server_connection_tick(connection, now_ms);
		if (connection_ms < next_ms)
			next_ms = connection_ms;
	}
	reactor_wake_by(server->reactor, next_ms);
}

/* -------- the interface -------- */

static int open_first(struct rpc_server *server, const char *address, uint16_t port)
{
	struct rpc_socket_address *local = &server->local;
	int error = rpc_address_parse(local, address, port);

	if (!error)
		error = open_listener(server);
	if (error)
		return error;
	if (getsockname(server->fd, (struct sockaddr *)&local->storage, &local->bytes))
		return -errno;
	rpc_address_format(&local->storage, server->address);
	server->port = ntohs(local->storage.ss_family == AF_INET6
				     ? ((struct sockaddr_in6 *)&local->storage)->sin6_port
				     : ((struct sockaddr_in *)&local->storage)->sin_port);
	return 0;
}

int rpc_server_start(struct rpc_server **started, const char *address, uint16_t port,
	const struct rpc_program *program, const struct rpc_key *key, unsigned int threads_max)
{
	struct rpc_server *server = calloc(1, sizeof(*server));
	int error;

	if (!server)
		return -ENOMEM;
	server->source.ready = accept_ready;
	server->program = *program;
	if (key) {
		server->has_key = true;
		server->key = *key;
	}
	server->threads_max = threads_max ? threads_max : 1;
	server->fd = -1;
	server->accept_again_ms = REACTOR_NEVER;
	pthread_mutex_init(&server->lock, NULL);
	/* One more, that stays at the reactor. */
	server->thread = calloc(server->threads_max + 1, sizeof(*server->thread));
	error = server->thread ? open_first(server, address, port) : -ENOMEM;
	if (!error)
		error = reactor_create(&server->reactor, true, woken, server);
	if (error)
		goto out;
	server->accepting = true;
	error = reactor_add(server->reactor, server->fd, EPOLLIN, &server->source);
	if (!error) {
		pthread_mutex_lock(&server->lock);
		error = add_worker(server);
		pthread_mutex_unlock(&server->lock);
	}
	if (error) {
		reactor_destroy(server->reactor);
		goto out;
	}
	*started = server;
	return 0;
out:
	rozo_log(ERROR, "rpc: cannot serve program 0x%x at address %s, port %u: %s",
		program->program, address, port,
		error == -EINVAL ? "not a numeric address" : strerror(-error));
	if (server->fd >= 0)
		close(server->fd);
	free(server->thread);
	pthread_mutex_destroy(&server->lock);
	free(server);
	return error;
}

/* One turn of the reactor, which does not wait any more, and a pause. */
static void tick_while_stopping(struct rpc_server *server)
{
	static const struct timespec pause = {0, DRAIN_TICK_MS * 1000000};

	reactor_turn(server->reactor, 0);
	nanosleep(&pause, NULL);
}

void rpc_server_stop(struct rpc_server *server)
{
	struct server_request *waiting;
	unsigned int running;

	if (!server)
		return;
	pthread_mutex_lock(&server->lock);
	server->stopping = true;
	waiting = take_waiting(server);
	pthread_mutex_unlock(&server->lock);
	reactor_hurry(server->reactor);
	reactor_wake(server->reactor);
	drop_all(waiting);
	/* While calls are still being executed the others' sockets are looked after from here. */
	do {
		tick_while_stopping(server);
		pthread_mutex_lock(&server->lock);
		running = server->running;
		pthread_mutex_unlock(&server->lock);
	} while (running);
	for (unsigned int i = 0; i < server->threads; i++)
		pthread_join(server->thread[i], NULL);
	pthread_mutex_lock(&server->lock);
	server->drain_ms = reactor_now_ms() + DRAIN_MS;
	pthread_mutex_unlock(&server->lock);
	reactor_wake(server->reactor);
	while (!server->drained)
		tick_while_stopping(server);
	reactor_destroy(server->reactor);

	free(server->thread);
	pthread_mutex_destroy(&server->lock);
	explicit_bzero(&server->key, sizeof(server->key));
	free(server);
}

void rpc_server_suspend(struct rpc_server *server, bool suspended)
{
	pthread_mutex_lock(&server->lock);
	server->suspended = suspended;
	pthread_mutex_unlock(&server->lock);
	reactor_wake(server->reactor);
}

uint16_t rpc_server_port(const struct rpc_server *server)
{
	return server->port;
}
