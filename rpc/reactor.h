/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Waits for sockets and for one point in time. The client side has one reactor for the process,
 * which one thread runs at a time (event.h); each server has one, which all its idle threads run.
 *
 * Threads wait side by side, but call what they waited for one at a time: whoever calls is the
 * reactor's thread for that moment. Callbacks must not block.
 */
#ifndef ROZO_RPC_REACTOR_H
#define ROZO_RPC_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

#define REACTOR_NEVER INT64_MAX

struct reactor;

/* Something with a descriptor; embedded in what it belongs to. */
struct reactor_source {
	void (*ready)(struct reactor_source *source, uint32_t events); /* events: EPOLL* */
	/* The reactor's, from reactor_add() on. */
	int fd;
	uint32_t events;
	uint64_t key;
};

/* Milliseconds of the monotonic clock; all points in time here are of this kind. */
int64_t reactor_now_ms(void);

/*
 * Makes a reactor. woken(context) is called after reactor_wake() and when the time given to
 * reactor_wake_by() has come, with the time as it then is.
 * many: several threads may be in reactor_turn() at once.
 * Returns 0, -ENOMEM, -EMFILE or -ENFILE.
 */
int reactor_create(struct reactor **reactor, bool many,
	void (*woken)(void *context, int64_t now_ms), void *context);

/*
 * Waits until there is something to do, at most wait_ms (-1: for ever), does it, and runs what was
 * deferred. Of several threads one wakes up for each source that is ready: the one that came last.
 */
void reactor_turn(struct reactor *reactor, int wait_ms);

/* Lets a thread return from reactor_turn(), the next one that comes if none is there. */
void reactor_interrupt(struct reactor *reactor);

/* From now on reactor_turn() does what there is to do and does not wait. */
void reactor_hurry(struct reactor *reactor);

/* Runs what was deferred and frees the reactor. Nobody runs it any more. */
void reactor_destroy(struct reactor *reactor);

/*
 * Has source->ready() called whenever one of the events is there (level triggered). The reactor's
 * thread, or before anybody runs it. Returns 0, -ENOMEM or a negative errno of epoll_ctl(2).
 */
int reactor_add(struct reactor *reactor, int fd, uint32_t events, struct reactor_source *source);

/* From any thread. Returns 0 or a negative errno of epoll_ctl(2). */
int reactor_change(struct reactor *reactor, uint32_t events, struct reactor_source *source);

/* After it the source is not called any more. The reactor's thread, or when nobody runs it. */
void reactor_remove(struct reactor *reactor, struct reactor_source *source);

/* Has woken() called soon. From any thread. */
void reactor_wake(struct reactor *reactor);

/* Has woken() called at the given time or before. From any thread; cheap if one is due earlier. */
void reactor_wake_by(struct reactor *reactor, int64_t time_ms);

/*
 * Runs release(object) when the callback that is being called has returned. The reactor's thread,
 * or when nobody runs it any more.
 */
void reactor_defer(struct reactor *reactor, void (*release)(void *object), void *object);

#pragma GCC visibility pop

#endif
