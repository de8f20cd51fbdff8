/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The event loop of the thread, or of the threads, that own sockets.
 *
 * All threads wait in epoll_wait(2) of the same descriptor. The kernel wakes one of them for each
 * event, so nobody has to be called to go on waiting when a thread leaves with something to do.
 * What they then call is guarded by `turn`. Where there are several threads a source is armed for
 * one event only (EPOLLONESHOT), and again when it was called: otherwise the others would wake up
 * for what is just being read.
 *
 * What the kernel gives back is a key, not a pointer: a source may be removed and freed by one
 * thread while another waits for its turn with an event of it.
 *
 * next_ms is the point in time that the timer is set to. The loop sets it to REACTOR_NEVER before
 * it calls woken(), which looks at everything that has a deadline and gives the earliest one back
 * through reactor_wake_by(); who adds a deadline meanwhile does the same. So no deadline is lost as
 * long as a deadline is visible to woken() before reactor_wake_by() is called for it.
 *
 * Locks: turn (the table of sources, what is deferred, and callbacks), then, of the callbacks'
 * own ones, any; arming last (what a descriptor and the timer are armed for).
 */
#include "rpc/reactor.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "rpc/log.h"

#define EVENTS_MAX 64
#define KEY_WAKE UINT64_MAX
#define KEY_TIMER (UINT64_MAX - 1)

struct deferred {
	struct deferred *next;
	void (*release)(void *object);
	void *object;
};

struct reactor {
	int epoll_fd;
	int wake_fd; /* an eventfd: edge triggered, never read; level triggered to hurry */
	int timer_fd;
	uint32_t mode; /* EPOLLONESHOT with several threads */
	_Atomic int64_t next_ms;
	atomic_bool woken_wanted;
	atomic_bool hurried;
	void (*woken)(void *context, int64_t now_ms);
	void *context;

	pthread_mutex_t arming;
	pthread_mutex_t turn; /* guards the rest */
	struct reactor_source **sources; /* by descriptor, NULL: none */
	size_t sources_room;
	uint32_t added; /* sources so far; part of their keys */
	struct deferred *deferred;
};

int64_t reactor_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void reactor_interrupt(struct reactor *reactor)
{
	uint64_t one = 1;

	/* Each write is an event, whether the one before was noticed or not. */
	(void)!write(reactor->wake_fd, &one, sizeof(one));
}

void reactor_hurry(struct reactor *reactor)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = KEY_WAKE};

	atomic_store(&reactor->hurried, true);
	reactor_interrupt(reactor);
	/* Those who wait already, all of them. */
	epoll_ctl(reactor->epoll_fd, EPOLL_CTL_MOD, reactor->wake_fd, &event);
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

/* The source that has the key, or NULL: it was removed. */
static struct reactor_source *find_source(struct reactor *reactor, uint64_t key)
{
	struct reactor_source *source = reactor->sources[(uint32_t)key];

	return source && source->key == key ? source : NULL;
}

/* Has the kernel wait for what source->events says. arming is held. */
static int arm_locked(struct reactor *reactor, int operation, struct reactor_source *source)
{
	struct epoll_event event = {
		.events = source->events | reactor->mode, .data.u64 = source->key};

	return epoll_ctl(reactor->epoll_fd, operation, source->fd, &event) ? -errno : 0;
}

static void call_source(struct reactor *reactor, uint64_t key, uint32_t events)
{
	struct reactor_source *source = find_source(reactor, key);

	if (!source)
		return;
	source->ready(source, events);
	if (!reactor->mode || !find_source(reactor, key))
		return;
	pthread_mutex_lock(&reactor->arming);
	int error = arm_locked(reactor, EPOLL_CTL_MOD, source);
	pthread_mutex_unlock(&reactor->arming);
	/* Cannot happen on an open descriptor; if it did, nobody would hear of it any more. */
	if (error)
		rozo_log(ERROR, "rpc: descriptor %d is not waited for any more: %s", source->fd,
			strerror(-error));
}

void reactor_turn(struct reactor *reactor, int wait_ms)
{
	struct epoll_event events[EVENTS_MAX];
	bool hurried = atomic_load(&reactor->hurried);
	/* With several threads, one event for each. */
	int count = epoll_wait(reactor->epoll_fd, events,
		reactor->mode && !hurried ? 1 : EVENTS_MAX, hurried ? 0 : wait_ms);
	int64_t now_ms;

	pthread_mutex_lock(&reactor->turn);
	for (int i = 0; i < count; i++) {
		uint64_t counter;

		if (events[i].data.u64 == KEY_TIMER)
			(void)!read(reactor->timer_fd, &counter, sizeof(counter));
		else if (events[i].data.u64 != KEY_WAKE)
			call_source(reactor, events[i].data.u64, events[i].events);
	}
	now_ms = reactor_now_ms();
	if (atomic_exchange(&reactor->woken_wanted, false) ||
		now_ms >= atomic_load(&reactor->next_ms)) {
		atomic_store(&reactor->next_ms, REACTOR_NEVER);
		reactor->woken(reactor->context, now_ms);
	}
	run_deferred(reactor);
	pthread_mutex_unlock(&reactor->turn);
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void destroy(struct reactor *reactor)
{
	close_if_open(reactor->timer_fd);
	close_if_open(reactor->wake_fd);
	close_if_open(reactor->epoll_fd);
	pthread_mutex_destroy(&reactor->turn);
	pthread_mutex_destroy(&reactor->arming);
	free(reactor->sources);
	free(reactor);
}

int reactor_create(struct reactor **created, bool many,
	void (*woken)(void *context, int64_t now_ms), void *context)
{
	struct epoll_event wake = {.events = EPOLLIN | EPOLLET, .data.u64 = KEY_WAKE};
	struct epoll_event timer = {.events = EPOLLIN, .data.u64 = KEY_TIMER};
	struct reactor *reactor = calloc(1, sizeof(*reactor));
	int error;

	if (!reactor)
		return -ENOMEM;
	reactor->mode = many ? EPOLLONESHOT : 0;
	reactor->woken = woken;
	reactor->context = context;
	atomic_init(&reactor->next_ms, REACTOR_NEVER);
	pthread_mutex_init(&reactor->arming, NULL);
	pthread_mutex_init(&reactor->turn, NULL);
	reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	reactor->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	reactor->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (reactor->epoll_fd < 0 || reactor->wake_fd < 0 || reactor->timer_fd < 0 ||
		epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, reactor->wake_fd, &wake) ||
		epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, reactor->timer_fd, &timer)) {
		error = -errno;
		destroy(reactor);
		return error;
	}
	*created = reactor;
	return 0;
}

void reactor_destroy(struct reactor *reactor)
{
	run_deferred(reactor);
	destroy(reactor);
}

static int make_room(struct reactor *reactor, int fd)
{
	size_t room = reactor->sources_room ? reactor->sources_room : 64;
	struct reactor_source **sources;

	if ((size_t)fd < reactor->sources_room)
		return 0;
	while (room <= (size_t)fd)
		room *= 2;
	sources = realloc(reactor->sources, room * sizeof(*sources));
	if (!sources)
		return -ENOMEM;
	memset(sources + reactor->sources_room, 0,
		(room - reactor->sources_room) * sizeof(*sources));
	reactor->sources = sources;
	reactor->sources_room = room;
	return 0;
}

int reactor_add(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source)
{
	int error = make_room(reactor, fd);

	if (error)
		return error;
	source->fd = fd;
	source->events = events;
	/* No number of a source is that of the wake or the timer key: no descriptor is so large. */
	source->key = (uint64_t)reactor->added++ << 32 | (uint32_t)fd;
	reactor->sources[fd] = source;
	pthread_mutex_lock(&reactor->arming);
	error = arm_locked(reactor, EPOLL_CTL_ADD, source);
	pthread_mutex_unlock(&reactor->arming);
	if (error)
		reactor->sources[fd] = NULL;
	return error;
}

int reactor_change(struct reactor *reactor, uint32_t events, struct reactor_source *source)
{
	int error;

	pthread_mutex_lock(&reactor->arming);
	source->events = events;
	error = arm_locked(reactor, EPOLL_CTL_MOD, source);
	pthread_mutex_unlock(&reactor->arming);
	return error;
}

void reactor_remove(struct reactor *reactor, struct reactor_source *source)
{
	reactor->sources[source->fd] = NULL;
	epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
}

void reactor_wake(struct reactor *reactor)
{
	if (!atomic_exchange(&reactor->woken_wanted, true))
		reactor_interrupt(reactor);
}

void reactor_wake_by(struct reactor *reactor, int64_t time_ms)
{
	struct itimerspec when = {0};

	if (time_ms >= atomic_load(&reactor->next_ms))
		return;
	/* All zeros would disarm the timer. */
	when.it_value.tv_sec = time_ms > 0 ? time_ms / 1000 : 0;
	when.it_value.tv_nsec = time_ms > 0 ? time_ms % 1000 * 1000000 : 1;
	pthread_mutex_lock(&reactor->arming);
	if (time_ms < atomic_load(&reactor->next_ms)) {
		atomic_store(&reactor->next_ms, time_ms);
		timerfd_settime(reactor->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
	}
	pthread_mutex_unlock(&reactor->arming);
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
