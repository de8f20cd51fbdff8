/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The event loop of the thread, or of the threads in turn, that own sockets.
 *
 * next_ms is the point in time the loop wakes at. The loop sets it to REACTOR_NEVER before it calls
 * woken(), which looks at everything that has a deadline and gives the earliest one back through
 * reactor_wake_by(); who adds a deadline meanwhile does the same. So no deadline is lost as long as
 * a deadline is visible to woken() before reactor_wake_by() is called for it.
 *
 * Locks: none. Deferred releases belong to the thread that runs the loop.
 */
#include "rpc/reactor.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "rpc/log.h"
#include "rpc/slice.h"

#define EVENTS_MAX 64

struct deferred {
	struct deferred *next;
	void (*release)(void *object);
	void *object;
};

struct reactor {
	int epoll_fd;
	int wake_fd;
	_Atomic int64_t next_ms;
	atomic_bool woken_wanted;
	atomic_bool stopping;
	void (*woken)(void *context, int64_t now_ms);
	void *context;
	struct deferred *deferred;
	pthread_t thread;
};

int64_t reactor_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void signal_loop(struct reactor *reactor)
{
	uint64_t one = 1;

	/* Fails only if the counter is full, and then the loop is awake. */
	(void)!write(reactor->wake_fd, &one, sizeof(one));
}

static void run_deferred(struct reactor *reactor)
{
	while (reactor->deferred) {
		struct deferred *first = reactor->deferred;

		reactor->deferred = first->next;
		first->release(first->object);
		free(first);
	}
}

static int wait_ms(struct reactor *reactor)
{
	int64_t left_ms, next_ms = atomic_load(&reactor->next_ms);

	if (atomic_load(&reactor->woken_wanted))
		return 0;
	if (next_ms == REACTOR_NEVER)
		return -1;
	left_ms = next_ms - reactor_now_ms();
	if (left_ms < 0)
		return 0;
	return left_ms > 60000 ? 60000 : (int)left_ms;
}

void reactor_turn(struct reactor *reactor)
{
	struct epoll_event events[EVENTS_MAX];
	int count = epoll_wait(reactor->epoll_fd, events, EVENTS_MAX, wait_ms(reactor));
	int64_t now_ms;

	for (int i = 0; i < count; i++) {
		struct reactor_source *source = events[i].data.ptr;
		uint64_t counter;

		if (source)
			source->ready(source, events[i].events);
		else
			(void)!read(reactor->wake_fd, &counter, sizeof(counter));
	}
	now_ms = reactor_now_ms();
	if (atomic_exchange(&reactor->woken_wanted, false) ||
		now_ms >= atomic_load(&reactor->next_ms)) {
		atomic_store(&reactor->next_ms, REACTOR_NEVER);
		reactor->woken(reactor->context, now_ms);
	}
	run_deferred(reactor);
}

static void *loop(void *argument)
{
	struct reactor *reactor = argument;

	rpc_thread_wants_short_slices();
	while (!atomic_load(&reactor->stopping))
		reactor_turn(reactor);
	return NULL;
}

int reactor_create(
	struct reactor **created, void (*woken)(void *context, int64_t now_ms), void *context)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct reactor *reactor = calloc(1, sizeof(*reactor));
	int error;

	if (!reactor)
		return -ENOMEM;
	reactor->woken = woken;
	reactor->context = context;
	atomic_init(&reactor->next_ms, REACTOR_NEVER);
	reactor->wake_fd = -1;
	reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (reactor->epoll_fd < 0)
		goto out;
	reactor->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (reactor->wake_fd < 0 ||
		epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, reactor->wake_fd, &event))
		goto out;
	*created = reactor;
	return 0;
out:
	error = -errno;
	if (reactor->wake_fd >= 0)
		close(reactor->wake_fd);
	if (reactor->epoll_fd >= 0)
		close(reactor->epoll_fd);
	free(reactor);
	return error;
}

void reactor_destroy(struct reactor *reactor)
{
	run_deferred(reactor);
	close(reactor->wake_fd);
	close(reactor->epoll_fd);
	free(reactor);
}

int reactor_start(struct reactor **started, const char *thread_name,
	void (*woken)(void *context, int64_t now_ms), void *context)
{
	struct reactor *reactor = NULL;
	sigset_t all, before;
	int error = reactor_create(&reactor, woken, context);

	if (!reactor)
		return error;
	/* Signals are the program's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&reactor->thread, NULL, loop, reactor);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		reactor_destroy(reactor);
		return -error;
	}
	pthread_setname_np(reactor->thread, thread_name);
	*started = reactor;
	return 0;
}

void reactor_stop(struct reactor *reactor)
{
	atomic_store(&reactor->stopping, true);
	signal_loop(reactor);
	pthread_join(reactor->thread, NULL);
	reactor_destroy(reactor);
}

int reactor_add(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	return epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int reactor_change(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	return epoll_ctl(reactor->epoll_fd, EPOLL_CTL_MOD, fd, &event) ? -errno : 0;
}

void reactor_remove(struct reactor *reactor, int fd)
{
	epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void reactor_wake(struct reactor *reactor)
{
	if (!atomic_exchange(&reactor->woken_wanted, true))
		signal_loop(reactor);
}

void reactor_wake_by(struct reactor *reactor, int64_t time_ms)
{
	int64_t next_ms = atomic_load(&reactor->next_ms);

	while (time_ms < next_ms) {
		if (atomic_compare_exchange_weak(&reactor->next_ms, &next_ms, time_ms)) {
			/* The loop may be asleep until next_ms, or may not have looked yet. */
			signal_loop(reactor);
			return;
		}
	}
}

void reactor_defer(struct reactor *reactor, void (*release)(void *object), void *object)
{
	struct deferred *deferred = malloc(sizeof(*deferred));

	if (!deferred) {
		rozo_log(ERROR, "rpc: out of memory, a closed connection stays in memory");
		return;
	}
	*deferred = (struct deferred){reactor->deferred, release, object};
	reactor->deferred = deferred;
}
