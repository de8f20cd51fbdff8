/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Events, and who runs the reactor of the process's clients.
 *
 * A thread that waits for an answer runs the reactor itself, if nobody else does: it reads its
 * answer from the socket, and no other thread has to wake up for it, and then wake up this one. The
 * others that wait sleep; who leaves the reactor with his answer calls one of them to it. When
 * nobody waits the keeper runs it, a thread for that. Once it has woken somebody it stands aside
 * for KEEPER_MS, and for as long as others run the reactor at least so often; whatever comes while
 * it does and nobody waits is late by that much.
 *
 * Locks: crew.lock, inside the reactor's turn and callbacks' locks.
 */
#include "rpc/event.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "rpc/slice.h"

#define KEEPER_MS 30

static struct {
	pthread_mutex_t lock; /* guards the rest */
	struct reactor *reactor; /* NULL: none, or it is to be left */
	bool running; /* somebody is in reactor_turn() */
	unsigned int turns; /* made by those who wait */
	struct rpc_event *asleep; /* the latest first */
	pthread_t keeper;
	pthread_cond_t keeper_cond; /* for the keeper, and for who stops it */
	bool aside; /* the keeper stands aside */
	bool woke; /* a sleeper was woken since the keeper ran */
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER};

static atomic_long expected; /* calls under way */

/* The event for which this thread is in the reactor, or NULL. */
static _Thread_local struct rpc_event *running_for;

static struct timespec after(const struct timespec *now, unsigned int ms)
{
	struct timespec then = *now;

	then.tv_sec += ms / 1000;
	then.tv_nsec += ms % 1000 * 1000000L;
	then.tv_sec += then.tv_nsec / 1000000000L;
	then.tv_nsec %= 1000000000L;
	return then;
}

static void monotonic_cond(pthread_cond_t *cond)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attributes);
	pthread_condattr_destroy(&attributes);
}

/* One turn of the reactor, which nobody runs. crew.lock is held before and after. */
static void run(int wait_ms)
{
	struct reactor *reactor = crew.reactor;

	crew.running = true;
	pthread_mutex_unlock(&crew.lock);
	reactor_turn(reactor, wait_ms);
	pthread_mutex_lock(&crew.lock);
	crew.running = false;
	if (!crew.reactor)
		pthread_cond_broadcast(&crew.keeper_cond);
}

/* True if there are calls that nobody sees to. crew.lock is held. */
static bool is_needed(void)
{
	return !crew.running && !crew.asleep && atomic_load(&expected) > 0;
}

/* Calls somebody to the reactor that this thread has left. crew.lock is held. */
static void pass_on(void)
{
	if (!crew.reactor || crew.running)
		return;
	if (crew.asleep)
		pthread_cond_signal(&crew.asleep->changed);
	else if (is_needed())
		pthread_cond_signal(&crew.keeper_cond);
}

/* -------- the keeper -------- */

/*
 * Waits for KEEPER_MS, or until there is something that others have left behind. Stays aside if
 * they are at the reactor, or have been. crew.lock is held.
 */
static void stand_aside(void)
{
	struct timespec now, until;
	unsigned int turns = crew.turns;
	int waited = 0;

	clock_gettime(CLOCK_MONOTONIC, &now);
	until = after(&now, KEEPER_MS);
	while (crew.reactor && !is_needed() && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&crew.keeper_cond, &crew.lock, &until);
	crew.aside = crew.running || (crew.turns != turns && !is_needed());
}

static void *keeper(void *argument)
{
	(void)argument;
	rpc_thread_wants_short_slices();
	pthread_mutex_lock(&crew.lock);
	while (crew.reactor) {
		if (crew.aside || crew.running) {
			stand_aside();
			continue;
		}
		crew.woke = false;
		run(-1);
		crew.aside = crew.woke;
		if (crew.aside)
			pass_on();
	}
	pthread_mutex_unlock(&crew.lock);
	return NULL;
}

int events_start(struct reactor *reactor)
{
	sigset_t all, before;

	pthread_mutex_lock(&crew.lock);
	crew.reactor = reactor;
	crew.aside = crew.woke = false;
	monotonic_cond(&crew.keeper_cond);
	/* Signals are the program's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&crew.keeper, NULL, keeper, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		crew.reactor = NULL;
		pthread_cond_destroy(&crew.keeper_cond);
	} else {
		pthread_setname_np(crew.keeper, "rozo_rpc");
	}
	pthread_mutex_unlock(&crew.lock);
	return -error;
}

void events_stop(void)
{
	pthread_mutex_lock(&crew.lock);
	struct reactor *reactor = crew.reactor;
	crew.reactor = NULL;
	pthread_cond_broadcast(&crew.keeper_cond);
	while (crew.running) {
		reactor_interrupt(reactor);
		pthread_cond_wait(&crew.keeper_cond, &crew.lock);
	}
	pthread_mutex_unlock(&crew.lock);
	pthread_join(crew.keeper, NULL);
	pthread_cond_destroy(&crew.keeper_cond);
}

void events_expect(int more)
{
	atomic_fetch_add(&expected, more);
}

/* -------- events -------- */

void rpc_event_init(struct rpc_event *event)
{
	*event = (struct rpc_event){0};
	monotonic_cond(&event->changed);
}

void rpc_event_destroy(struct rpc_event *event)
{
	pthread_cond_destroy(&event->changed);
}

void rpc_event_set(struct rpc_event *event)
{
	pthread_mutex_lock(&crew.lock);
	event->set = true;
	if (event->asleep) {
		crew.woke = true;
		pthread_cond_signal(&event->changed);
	} else if (event->running && running_for != event && crew.reactor) {
		reactor_interrupt(crew.reactor);
	}
	pthread_mutex_unlock(&crew.lock);
}

/* Returns false if the time is over. crew.lock is held before and after. */
static bool fall_asleep(struct rpc_event *event, const struct timespec *until)
{
	struct rpc_event **link = &crew.asleep;
	int waited;

	event->next = crew.asleep;
	crew.asleep = event;
	event->asleep = true;
	waited = until ? pthread_cond_timedwait(&event->changed, &crew.lock, until)
		       : pthread_cond_wait(&event->changed, &crew.lock);
	event->asleep = false;
	while (*link != event)
		link = &(*link)->next;
	*link = event->next;
	return waited != ETIMEDOUT;
}

/* Milliseconds until then, rounded up; 0 if it is over. */
static int ms_until(const struct timespec *until)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t left_ns =
		(int64_t)(until->tv_sec - now.tv_sec) * 1000000000 + until->tv_nsec - now.tv_nsec;
	return left_ns <= 0 ? 0 : (int)((left_ns + 999999) / 1000000);
}

bool rpc_event_wait(struct rpc_event *event, unsigned int timeout_ms)
{
	bool timed = timeout_ms != UINT_MAX, in_time = true;
	struct timespec now, until = {0};

	if (timed) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		until = after(&now, timeout_ms);
	}
	pthread_mutex_lock(&crew.lock);
	while (!event->set && in_time) {
		if (crew.running || !crew.reactor) {
			in_time = fall_asleep(event, timed ? &until : NULL);
			continue;
		}
		int wait_ms = timed ? ms_until(&until) : -1;

		event->running = true;
		running_for = event;
		run(wait_ms);
		running_for = NULL;
		event->running = false;
		crew.turns++;
		in_time = wait_ms != 0;
	}
	bool set = event->set;
	event->set = false;
	pass_on();
	pthread_mutex_unlock(&crew.lock);
	return set;
}
