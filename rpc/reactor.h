/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Waits for sockets and for one point in time. The client side has one reactor for the process,
 * with a thread of its own; each server has one, which its threads take turns to run.
 *
 * The reactor's thread is whoever runs it at the moment. Callbacks run in it, without any lock of
 * the reactor held.
 */
#ifndef ROZO_RPC_REACTOR_H
#define ROZO_RPC_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

#define REACTOR_NEVER INT64_MAX

struct reactor;

/* Something with a descriptor; embedded in what it belongs to. events: EPOLL*. */
struct reactor_source {
	void (*ready)(struct reactor_source *source, uint32_t events);
};

/* Milliseconds of the monotonic clock; all points in time here are of this kind. */
int64_t reactor_now_ms(void);

/*
 * Makes a reactor. woken(context) is called after reactor_wake() and when the time given to
 * reactor_wake_by() has come, with the time as it then is.
 * Returns 0, -ENOMEM, -EMFILE or -ENFILE.
 */
int reactor_create(
	struct reactor **reactor, void (*woken)(void *context, int64_t now_ms), void *context);

/*
 * Waits until there is something to do, does it, and runs what was deferred. One thread at a time;
 * the callers see to it that each has seen all that the one before it did (a mutex will do).
 */
void reactor_turn(struct reactor *reactor);

/* Runs what was deferred and frees the reactor. Nobody runs it any more. */
void reactor_destroy(struct reactor *reactor);

/*
 * Makes a reactor and a thread that runs it.
 * Returns 0, -ENOMEM, -EMFILE, -ENFILE or -EAGAIN (no thread).
 */
int reactor_start(struct reactor **reactor, const char *thread_name,
	void (*woken)(void *context, int64_t now_ms), void *context);

/* Ends the thread and destroys the reactor. Not from the reactor's thread. */
void reactor_stop(struct reactor *reactor);

/* Level triggered. From any thread. Return 0 or a negative errno of epoll_ctl(2). */
int reactor_add(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source);
int reactor_change(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source);

/* After it the source may still be called once, if events were fetched already. */
void reactor_remove(struct reactor *reactor, int fd);

/* Has woken() called soon. From any thread. */
void reactor_wake(struct reactor *reactor);

/* Has woken() called at the given time or before. From any thread; cheap if one is due earlier. */
void reactor_wake_by(struct reactor *reactor, int64_t time_ms);

/*
 * Runs release(object) when no source is called any more that was removed before this call. From
 * the reactor's thread, or when nobody runs it any more.
 */
void reactor_defer(struct reactor *reactor, void (*release)(void *object), void *object);

#pragma GCC visibility pop

#endif
