/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See scheduler.h. */
#include "scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <ucontext.h>

#define STACK_BYTES (192 * 1024)
#define FIBERS_MAX 4096
/* One of so many locks that are free is given to somebody else first. */
#define PREEMPT_OF 48

#if defined(__SANITIZE_ADDRESS__)
#define SWITCH_BY_CONTEXT 1 /* AddressSanitizer follows these, not jumps */
#endif

struct fiber {
	struct fiber *next_free;
	size_t index;
	struct process *process;
	void (*run)(void *context);
	void *context;
	bool started;
	bool running; /* or able to run: not waiting, not ended */
	const void *waits_for; /* a lock or condition, NULL: only for time */
	uint64_t waiting; /* number of the present wait; an event for another one is stale */
	bool timed_out;
	ucontext_t machine;
#ifndef SWITCH_BY_CONTEXT
	jmp_buf place;
#endif
	char *stack;
};

struct event {
	uint64_t time, tie;
	struct fiber *fiber; /* NULL: call */
	uint64_t waiting;
	void (*call)(void *context);
	void *context;
};

static struct {
	uint64_t now;
	uint64_t random_state;
	uint64_t hash;
	uint64_t events;
	struct event *heap;
	size_t heap_used, heap_room;
	struct fiber *fibers[FIBERS_MAX]; /* all that were ever made */
	size_t fiber_count;
	size_t fibers_used; /* those with smaller indices were used in this run */
	struct fiber *free_fibers;
	struct fiber *current;
	ucontext_t main_machine;
#ifndef SWITCH_BY_CONTEXT
	jmp_buf main_place;
#endif
} scheduler;

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "scheduler: %s\n", what);
		abort();
	}
}

/* -------- numbers -------- */

uint64_t scheduler_random(void)
{
	uint64_t x = scheduler.random_state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

uint64_t scheduler_below(uint64_t bound)
{
	return scheduler_random() % bound;
}

bool scheduler_chance(unsigned int of_1000)
{
	return of_1000 && scheduler_below(1000) < of_1000;
}

void scheduler_trace(uint64_t what)
{
	scheduler.hash = (scheduler.hash ^ what) * UINT64_C(0x100000001b3);
	scheduler.hash ^= scheduler.hash >> 29;
}

uint64_t scheduler_hash(void)
{
	return scheduler.hash;
}

uint64_t scheduler_events(void)
{
	return scheduler.events;
}

uint64_t scheduler_now(void)
{
	return scheduler.now;
}

/* -------- events: a heap by time -------- */

static bool before(const struct event *left, const struct event *right)
{
	return left->time != right->time ? left->time < right->time : left->tie < right->tie;
}

static void event_add(struct event event)
{
	if (scheduler.heap_used == scheduler.heap_room) {
		scheduler.heap_room = scheduler.heap_room ? scheduler.heap_room * 2 : 1024;
		scheduler.heap =
			realloc(scheduler.heap, scheduler.heap_room * sizeof(*scheduler.heap));
		must(scheduler.heap != NULL, "memory");
	}
	event.tie = scheduler_random();
	size_t at = scheduler.heap_used++;
	while (at > 0 && before(&event, &scheduler.heap[(at - 1) / 2])) {
		scheduler.heap[at] = scheduler.heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	scheduler.heap[at] = event;
}

static struct event event_take(void)
{
	struct event first = scheduler.heap[0], last = scheduler.heap[--scheduler.heap_used];
	size_t at = 0;

	while (true) {
		size_t child = 2 * at + 1;
		if (child + 1 < scheduler.heap_used &&
			before(&scheduler.heap[child + 1], &scheduler.heap[child]))
			child++;
		if (child >= scheduler.heap_used || !before(&scheduler.heap[child], &last))
			break;
		scheduler.heap[at] = scheduler.heap[child];
		at = child;
	}
	if (scheduler.heap_used > 0)
		scheduler.heap[at] = last;
	return first;
}

void scheduler_after(uint64_t us, void (*run)(void *context), void *context)
{
	event_add((struct event){.time = scheduler.now + us, .call = run, .context = context});
}

/* -------- fibers -------- */

static void fiber_main(void);

static __attribute__((noinline)) void switch_to_main(struct fiber *fiber)
{
#ifdef SWITCH_BY_CONTEXT
	swapcontext(&fiber->machine, &scheduler.main_machine);
#else
	if (_setjmp(fiber->place) == 0)
		_longjmp(scheduler.main_place, 1);
#endif
}

static __attribute__((noinline)) void switch_to(struct fiber *fiber)
{
	scheduler.current = fiber;
#ifdef SWITCH_BY_CONTEXT
	fiber->started = true;
	swapcontext(&scheduler.main_machine, &fiber->machine);
#else
	if (_setjmp(scheduler.main_place) == 0) {
		if (fiber->started)
			_longjmp(fiber->place, 1);
		fiber->started = true;
		setcontext(&fiber->machine);
	}
#endif
	scheduler.current = NULL;
}

static struct fiber *fiber_take(void)
{
	struct fiber *fiber = scheduler.free_fibers;

	if (fiber != NULL) {
		scheduler.free_fibers = fiber->next_free;
		if (fiber->index >= scheduler.fibers_used)
			scheduler.fibers_used = fiber->index + 1;
		return fiber;
	}
	must(scheduler.fiber_count < FIBERS_MAX, "too many fibers");
	fiber = calloc(1, sizeof(*fiber));
	must(fiber != NULL && (fiber->stack = malloc(STACK_BYTES)) != NULL, "memory");
	fiber->index = scheduler.fiber_count;
	scheduler.fibers[scheduler.fiber_count++] = fiber;
	scheduler.fibers_used = scheduler.fiber_count;
	return fiber;
}

static struct fiber *fiber_start(struct process *process, void (*run)(void *), void *context)
{
	struct fiber *fiber = fiber_take();

	fiber->process = process;
	fiber->run = run;
	fiber->context = context;
	fiber->running = false;
	fiber->waits_for = NULL;
	fiber->waiting++;
	process->fibers++;
	/* A fiber that has run once begins anew where it ended: at the top of its loop. */
	if (!fiber->started) {
		getcontext(&fiber->machine);
		fiber->machine.uc_stack.ss_sp = fiber->stack;
		fiber->machine.uc_stack.ss_size = STACK_BYTES;
		fiber->machine.uc_link = NULL;
		makecontext(&fiber->machine, fiber_main, 0);
	}
	event_add((struct event){.time = scheduler.now + scheduler_below(20),
		.fiber = fiber,
		.waiting = fiber->waiting});
	return fiber;
}

static void wake_all(const void *what);

static void fiber_main(void)
{
	while (true) {
		struct fiber *fiber = scheduler.current;

		fiber->run(fiber->context);
		fiber->process->fibers--;
		fiber->run = NULL;
		fiber->waiting++;
		wake_all(fiber); /* whoever joins it */
		fiber->next_free = scheduler.free_fibers;
		scheduler.free_fibers = fiber;
		switch_to_main(fiber);
	}
}

void scheduler_start(struct process *process, void (*run)(void *context), void *context)
{
	fiber_start(process, run, context);
}

struct process *scheduler_process(void)
{
	return scheduler.current ? scheduler.current->process : NULL;
}

void scheduler_enter(struct process *process)
{
	scheduler.current->process->fibers--;
	scheduler.current->process = process;
	process->fibers++;
}

/* Waits for what (or, without, for the time); an event ends the wait at `until`, if that is given.
 */
static void wait(const void *what, uint64_t until)
{
	struct fiber *fiber = scheduler.current;

	must(fiber != NULL, "the main program would block");
	fiber->waits_for = what;
	fiber->waiting++;
	fiber->timed_out = false;
	if (until != UINT64_MAX)
		event_add((struct event){.time = until, .fiber = fiber, .waiting = fiber->waiting});
	switch_to_main(fiber);
}

static void wake(struct fiber *fiber)
{
	fiber->waits_for = NULL;
	fiber->waiting++; /* its deadline is stale */
	event_add((struct event){.time = scheduler.now + scheduler_below(20),
		.fiber = fiber,
		.waiting = fiber->waiting});
}

static void wake_all(const void *what)
{
	for (size_t i = 0; i < scheduler.fibers_used; i++) {
		if (scheduler.fibers[i]->waits_for == what)
			wake(scheduler.fibers[i]);
	}
}

void scheduler_sleep(uint64_t us)
{
	wait(NULL, scheduler.now + us);
}

void scheduler_reset(uint64_t seed)
{
	for (size_t i = 0; i < scheduler.fiber_count; i++)
		must(scheduler.fibers[i]->run == NULL, "a fiber of the last run has not ended");
	must(scheduler.heap_used == 0, "an event of the last run is left");
	/* In the same order for every run. */
	scheduler.free_fibers = NULL;
	for (size_t i = scheduler.fiber_count; i > 0; i--) {
		scheduler.fibers[i - 1]->next_free = scheduler.free_fibers;
		scheduler.free_fibers = scheduler.fibers[i - 1];
	}
	scheduler.fibers_used = 0;
	scheduler.now = 0;
	scheduler.hash = UINT64_C(0xcbf29ce484222325);
	scheduler.events = 0;
	scheduler.random_state = seed * UINT64_C(0xd1342543de82ef95) + 1;
}

bool scheduler_run(uint64_t limit_us)
{
	while (scheduler.heap_used > 0) {
		if (scheduler.heap[0].time > limit_us)
			return false;
		struct event event = event_take();
		if (event.time > scheduler.now)
			scheduler.now = event.time;
		if (event.fiber == NULL) {
			scheduler.events++;
			event.call(event.context);
		} else if (event.fiber->waiting == event.waiting) {
			struct fiber *fiber = event.fiber;
			scheduler.events++;
			fiber->timed_out = fiber->waits_for != NULL;
			fiber->waits_for = NULL;
			fiber->waiting++;
			scheduler_trace(scheduler.now);
			switch_to(fiber);
		}
	}
	return true;
}

/* -------- instead of threads -------- */

/* What is put into the room of a pthread_mutex_t or pthread_rwlock_t; all zeros: free. */
struct lock {
	unsigned int readers;
	bool taken;
};

static struct lock *lock_of(void *memory)
{
	return memory;
}

static void maybe_others_first(void)
{
	if (scheduler.current != NULL && scheduler_below(PREEMPT_OF) == 0)
		scheduler_sleep(scheduler_below(200));
}

static void lock_take(struct lock *lock, bool shared)
{
	maybe_others_first();
	while (lock->taken || (!shared && lock->readers > 0))
		wait(lock, UINT64_MAX);
	if (shared)
		lock->readers++;
	else
		lock->taken = true;
}

static void lock_release(struct lock *lock)
{
	if (lock->readers > 0) {
		lock->readers--;
	} else {
		must(lock->taken, "a lock is released that nobody has");
		lock->taken = false;
	}
	wake_all(lock);
}

#define WRAP(type, name, ...)                                                                      \
	type __wrap_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

WRAP(int, pthread_mutex_init, pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
	(void)attributes;
	memset(mutex, 0, sizeof(*mutex));
	return 0;
}

WRAP(int, pthread_mutex_destroy, pthread_mutex_t *mutex)
{
	must(!lock_of(mutex)->taken, "a mutex is destroyed that somebody has");
	return 0;
}

WRAP(int, pthread_mutex_lock, pthread_mutex_t *mutex)
{
	lock_take(lock_of(mutex), false);
	return 0;
}

WRAP(int, pthread_mutex_unlock, pthread_mutex_t *mutex)
{
	lock_release(lock_of(mutex));
	return 0;
}

WRAP(int, pthread_rwlock_init, pthread_rwlock_t *lock, const pthread_rwlockattr_t *attributes)
{
	(void)attributes;
	memset(lock, 0, sizeof(*lock));
	return 0;
}

WRAP(int, pthread_rwlock_destroy, pthread_rwlock_t *lock)
{
	must(!lock_of(lock)->taken && lock_of(lock)->readers == 0,
		"a lock is destroyed that somebody has");
	return 0;
}

WRAP(int, pthread_rwlock_rdlock, pthread_rwlock_t *lock)
{
	lock_take(lock_of(lock), true);
	return 0;
}

WRAP(int, pthread_rwlock_wrlock, pthread_rwlock_t *lock)
{
	lock_take(lock_of(lock), false);
	return 0;
}

WRAP(int, pthread_rwlock_unlock, pthread_rwlock_t *lock)
{
	lock_release(lock_of(lock));
	return 0;
}

WRAP(int, pthread_cond_init, pthread_cond_t *condition, const pthread_condattr_t *attributes)
{
	(void)attributes;
	memset(condition, 0, sizeof(*condition));
	return 0;
}

WRAP(int, pthread_cond_destroy, pthread_cond_t *condition)
{
	for (size_t i = 0; i < scheduler.fibers_used; i++)
		must(scheduler.fibers[i]->waits_for != condition,
			"a condition is destroyed that somebody waits for");
	return 0;
}

WRAP(int, pthread_cond_wait, pthread_cond_t *condition, pthread_mutex_t *mutex)
{
	lock_release(lock_of(mutex));
	wait(condition, UINT64_MAX);
	lock_take(lock_of(mutex), false);
	return 0;
}

WRAP(int, pthread_cond_timedwait, pthread_cond_t *condition, pthread_mutex_t *mutex,
	const struct timespec *until)
{
	lock_release(lock_of(mutex));
	wait(condition, (uint64_t)until->tv_sec * 1000000 + (uint64_t)until->tv_nsec / 1000);
	bool timed_out = scheduler.current->timed_out;
	lock_take(lock_of(mutex), false);
	return timed_out ? ETIMEDOUT : 0;
}

WRAP(int, pthread_cond_broadcast, pthread_cond_t *condition)
{
	wake_all(condition);
	return 0;
}

WRAP(int, pthread_cond_signal, pthread_cond_t *condition)
{
	size_t count = scheduler.fibers_used, start = count ? scheduler_below(count) : 0;

	for (size_t i = 0; i < count; i++) {
		struct fiber *fiber = scheduler.fibers[(start + i) % count];
		if (fiber->waits_for == condition) {
			wake(fiber);
			break;
		}
	}
	return 0;
}

struct thread {
	void *(*run)(void *argument);
	void *argument;
	bool ended;
};

static void thread_main(void *context)
{
	struct thread *thread = context;

	thread->run(thread->argument);
	thread->ended = true;
	wake_all(thread);
}

/* The thread belongs to the process of whoever makes it. */
WRAP(int, pthread_create, pthread_t *result, const pthread_attr_t *attributes, void *(*run)(void *),
	void *argument)
{
	struct thread *thread = calloc(1, sizeof(*thread));

	(void)attributes;
	must(thread != NULL && scheduler.current != NULL, "pthread_create");
	thread->run = run;
	thread->argument = argument;
	fiber_start(scheduler.current->process, thread_main, thread);
	*result = (pthread_t)(uintptr_t)thread;
	return 0;
}

WRAP(int, pthread_join, pthread_t handle, void **result)
{
	struct thread *thread = (struct thread *)(uintptr_t)handle;

	(void)result;
	while (!thread->ended)
		wait(thread, UINT64_MAX);
	free(thread);
	return 0;
}

/* -------- instead of time and chance -------- */

WRAP(int, nanosleep, const struct timespec *time, struct timespec *left)
{
	(void)left;
	uint64_t us = (uint64_t)time->tv_sec * 1000000 + (uint64_t)time->tv_nsec / 1000;

	/* A process that is dead does not take its time. */
	scheduler_sleep(scheduler.current->process->alive ? us : 0);
	return 0;
}

WRAP(int, clock_gettime, clockid_t clock, struct timespec *time)
{
	(void)clock;
	*time = (struct timespec){.tv_sec = (time_t)(scheduler.now / 1000000),
		.tv_nsec = (long)(scheduler.now % 1000000) * 1000};
	return 0;
}

WRAP(ssize_t, getrandom, void *bytes, size_t size, unsigned int flags)
{
	(void)flags;
	for (size_t i = 0; i < size; i++)
		((uint8_t *)bytes)[i] = (uint8_t)scheduler_random();
	return (ssize_t)size;
}

WRAP(void, randombytes_buf, void *bytes, size_t size)
{
	__wrap_getrandom(bytes, size, 0);
}
