/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See scheduler.h. */
#include "scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <ucontext.h>

#include "rpc/rpc.h"

#define STACK_BYTES (192 * 1024)
#define FIBERS_MAX 4096
/* One of so many locks that are free is given to somebody else first. */
#define PREEMPT_OF 48
#define WAITERS 1024 /* a power of two */
#define NEAR_US 1000
#define NONE UINT32_MAX

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
	uint64_t waiting; /* number of the present wait; an event for another one is stale */
	bool timed_out;
	bool (*sleeps_while)(const void *context); /* scheduler_sleep_while(), or NULL */
	const void *sleeps_context;
	uint64_t sleeps_us;
	ucontext_t machine;
#ifndef SWITCH_BY_CONTEXT
	void *place[5];
#endif
	char *stack;
};

struct event {
	struct fiber *fiber; /* NULL: call */
	uint64_t waiting;
	void (*call)(void *context);
	void *context;
	uint32_t next_free;
};

/* What events are ordered by: first the high half, the time; the low half is random. */
typedef unsigned __int128 event_key;

struct heap_entry {
	event_key key;
	uint32_t event; /* where in scheduler.event_pool */
};

struct heap {
	struct heap_entry *entries;
	size_t used, room;
};

static struct {
	uint64_t now;
	uint64_t random_state;
	uint64_t hash;
	uint64_t events;
	struct heap near; /* the events before near_end */
	struct heap far; /* the others: time limits, most of which will mean nothing */
	uint64_t near_end;
	struct event *event_pool;
	uint32_t event_room, free_event;
	struct fiber *fibers[FIBERS_MAX]; /* all that were ever made */
	const void *waits_for[FIBERS_MAX]; /* a lock or condition, NULL: only for time */
	uint16_t waiters[WAITERS]; /* how many wait for what has this hash */
	size_t fiber_count;
	size_t fibers_used; /* those with smaller indices were used in this run */
	struct fiber *free_fibers;
	struct fiber *current;
	ucontext_t main_machine;
#ifndef SWITCH_BY_CONTEXT
	void *main_place[5];
#endif
	bool in_call; /* nobody else runs */
} scheduler = {.free_event = NONE};

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "scheduler: %s\n", what);
		abort();
	}
}

/* -------- numbers -------- */

#define RANDOM_STEP UINT64_C(0x9e3779b97f4a7c15)

uint64_t scheduler_random(void)
{
	uint64_t x = scheduler.random_state += RANDOM_STEP;

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

/* -------- events: heaps by time -------- */

static void heap_add(struct heap *heap, struct heap_entry entry)
{
	if (heap->used == heap->room) {
		heap->room = heap->room ? heap->room * 2 : 1024;
		heap->entries = realloc(heap->entries, heap->room * sizeof(*heap->entries));
		must(heap->entries != NULL, "memory");
	}
	size_t at = heap->used++;
	while (at > 0 && entry.key < heap->entries[(at - 1) / 2].key) {
		heap->entries[at] = heap->entries[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap->entries[at] = entry;
}

/*
 * The hole at the top sinks to the bottom, and the last entry rises from there: nearly all of the
 * comparisons are then between two children, which takes no jump that cannot be foreseen.
 */
static struct heap_entry heap_take(struct heap *heap)
{
	struct heap_entry *entries = heap->entries;
	struct heap_entry first = entries[0], last = entries[--heap->used];
	size_t used = heap->used, at = 0, child;

	while ((child = 2 * at + 2) < used) {
		child -= entries[child - 1].key < entries[child].key;
		entries[at] = entries[child];
		at = child;
	}
	if (child == used) {
		entries[at] = entries[child - 1];
		at = child - 1;
	}
	while (at > 0 && last.key < entries[(at - 1) / 2].key) {
		entries[at] = entries[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	entries[at] = last;
	return first;
}

static uint64_t time_of(struct heap_entry entry)
{
	return (uint64_t)(entry.key >> 64);
}

static void event_pool_grow(void)
{
	uint32_t room = scheduler.event_room ? scheduler.event_room * 2 : 1024;

	scheduler.event_pool = realloc(scheduler.event_pool, room * sizeof(struct event));
	must(scheduler.event_pool != NULL, "memory");
	for (uint32_t i = room; i-- > scheduler.event_room;) {
		scheduler.event_pool[i].next_free = scheduler.free_event;
		scheduler.free_event = i;
	}
	scheduler.event_room = room;
}

static void event_add(uint64_t time, struct event event)
{
	if (scheduler.free_event == NONE)
		event_pool_grow();
	uint32_t number = scheduler.free_event;
	scheduler.free_event = scheduler.event_pool[number].next_free;
	scheduler.event_pool[number] = event;
	heap_add(time < scheduler.near_end ? &scheduler.near : &scheduler.far,
		(struct heap_entry){
			.key = (event_key)time << 64 | scheduler_random(), .event = number});
}

static bool event_is_left(void)
{
	if (scheduler.near.used > 0)
		return true;
	if (scheduler.far.used == 0)
		return false;
	scheduler.near_end = time_of(scheduler.far.entries[0]) + NEAR_US;
	while (scheduler.far.used > 0 && time_of(scheduler.far.entries[0]) < scheduler.near_end)
		heap_add(&scheduler.near, heap_take(&scheduler.far));
	return true;
}

void scheduler_after(uint64_t us, void (*run)(void *context), void *context)
{
	event_add(scheduler.now + us, (struct event){.call = run, .context = context});
}

/* -------- fibers -------- */

static void fiber_main(void);

#ifndef SWITCH_BY_CONTEXT
/* In a function of its own: in that of __builtin_setjmp() it may not be called. */
static __attribute__((noipa)) void go_on_at(void **place)
{
	__builtin_longjmp(place, 1);
}
#endif

static __attribute__((noinline)) void switch_to_main(struct fiber *fiber)
{
#ifdef SWITCH_BY_CONTEXT
	swapcontext(&fiber->machine, &scheduler.main_machine);
#else
	if (__builtin_setjmp(fiber->place) == 0)
		go_on_at(scheduler.main_place);
#endif
}

static __attribute__((noinline)) void switch_to(struct fiber *fiber)
{
	scheduler.current = fiber;
#ifdef SWITCH_BY_CONTEXT
	fiber->started = true;
	swapcontext(&scheduler.main_machine, &fiber->machine);
#else
	if (__builtin_setjmp(scheduler.main_place) == 0) {
		if (fiber->started)
			go_on_at(fiber->place);
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
	event_add(scheduler.now + scheduler_below(20),
		(struct event){.fiber = fiber, .waiting = fiber->waiting});
	return fiber;
}

static void fiber_main(void)
{
	while (true) {
		struct fiber *fiber = scheduler.current;

		fiber->run(fiber->context);
		fiber->process->fibers--;
		fiber->run = NULL;
		fiber->waiting++;
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
	if (scheduler_stopped_us(process) > 0)
		scheduler_sleep(0); /* as long as it is stopped */
}

void scheduler_stop(struct process *process, uint64_t us)
{
	if (scheduler_stopped_us(process) == 0)
		process->stopped_until = scheduler.now + us;
}

uint64_t scheduler_stopped_us(const struct process *process)
{
	return process->stopped_until > scheduler.now ? process->stopped_until - scheduler.now : 0;
}

static uint16_t *waiters_of(const void *what)
{
	return &scheduler.waiters[(uintptr_t)what / sizeof(void *) % WAITERS];
}

static void begin_waiting(struct fiber *fiber, const void *what)
{
	scheduler.waits_for[fiber->index] = what;
	if (what != NULL)
		(*waiters_of(what))++;
}

static const void *end_waiting(struct fiber *fiber)
{
	const void *what = scheduler.waits_for[fiber->index];

	if (what != NULL)
		(*waiters_of(what))--;
	scheduler.waits_for[fiber->index] = NULL;
	return what;
}

/* Waits for what (or, without, for the time); an event ends the wait at `until`, if that is given.
 */
static void wait(const void *what, uint64_t until)
{
	struct fiber *fiber = scheduler.current;

	must(fiber != NULL, "the main program would block");
	must(!scheduler.in_call, "a system call would wait for another one");
	begin_waiting(fiber, what);
	fiber->waiting++;
	fiber->timed_out = false;
	if (until != UINT64_MAX)
		event_add(until, (struct event){.fiber = fiber, .waiting = fiber->waiting});
	switch_to_main(fiber);
}

static void wake(struct fiber *fiber)
{
	end_waiting(fiber);
	fiber->waiting++; /* its deadline is stale */
	event_add(scheduler.now + scheduler_below(20),
		(struct event){.fiber = fiber, .waiting = fiber->waiting});
}

static void wake_all(const void *what)
{
	if (*waiters_of(what) == 0) /* as nearly always */
		return;
	for (size_t i = 0; i < scheduler.fibers_used; i++) {
		if (scheduler.waits_for[i] == what)
			wake(scheduler.fibers[i]);
	}
}

void scheduler_sleep(uint64_t us)
{
	wait(NULL, scheduler.now + us);
}

void scheduler_sleep_while(bool (*waiting)(const void *context), const void *context, uint64_t us)
{
	struct fiber *fiber = scheduler.current;

	if (!waiting(context))
		return;
	fiber->sleeps_while = waiting;
	fiber->sleeps_context = context;
	fiber->sleeps_us = us;
	scheduler_sleep(us);
	fiber->sleeps_while = NULL;
}

/* The time of the first event that is left. */
static uint64_t next_time(void)
{
	if (scheduler.near.used > 0)
		return time_of(scheduler.near.entries[0]);
	return scheduler.far.used > 0 ? time_of(scheduler.far.entries[0]) : UINT64_MAX;
}

/*
 * A fiber looks whether it has slept long enough: false. Until the next event of another it can
 * only find the same, so all that is to be done for these times is to count them.
 */
static void sleep_again(struct event event, uint64_t limit_us)
{
	uint64_t us = event.fiber->sleeps_us, others = next_time();

	if (others > limit_us)
		others = limit_us;
	while (scheduler.now + us < others) {
		scheduler.random_state += RANDOM_STEP; /* the event's tie */
		scheduler.now += us;
		scheduler.events++;
		scheduler_trace(scheduler.now);
	}
	event_add(scheduler.now + us, event);
}

void scheduler_reset(uint64_t seed)
{
	for (size_t i = 0; i < scheduler.fiber_count; i++)
		must(scheduler.fibers[i]->run == NULL, "a fiber of the last run has not ended");
	must(scheduler.near.used == 0 && scheduler.far.used == 0,
		"an event of the last run is left");
	/* In the same order for every run. */
	scheduler.free_fibers = NULL;
	for (size_t i = scheduler.fiber_count; i > 0; i--) {
		scheduler.fibers[i - 1]->next_free = scheduler.free_fibers;
		scheduler.free_fibers = scheduler.fibers[i - 1];
	}
	scheduler.fibers_used = 0;
	scheduler.now = 0;
	scheduler.near_end = NEAR_US;
	scheduler.hash = UINT64_C(0xcbf29ce484222325);
	scheduler.events = 0;
	scheduler.random_state = seed * UINT64_C(0xd1342543de82ef95) + 1;
}

bool scheduler_run(uint64_t limit_us)
{
	while (event_is_left()) {
		if (time_of(scheduler.near.entries[0]) > limit_us)
			return false;
		struct heap_entry entry = heap_take(&scheduler.near);
		struct event event = scheduler.event_pool[entry.event];
		scheduler.event_pool[entry.event].next_free = scheduler.free_event;
		scheduler.free_event = entry.event;
		if (time_of(entry) > scheduler.now)
			scheduler.now = time_of(entry);
		if (event.fiber == NULL) {
			scheduler.events++;
			event.call(event.context);
		} else if (event.fiber->waiting == event.waiting) {
			struct fiber *fiber = event.fiber;
			if (scheduler_stopped_us(fiber->process) > 0) {
				event_add(fiber->process->stopped_until + scheduler_below(200),
					event);
				continue;
			}
			scheduler.events++;
			scheduler_trace(scheduler.now);
			if (fiber->sleeps_while != NULL &&
				fiber->sleeps_while(fiber->sleeps_context)) {
				sleep_again(event, limit_us);
				continue;
			}
			fiber->timed_out = end_waiting(fiber) != NULL;
			fiber->waiting++;
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
	if (scheduler.current != NULL && !scheduler.in_call && scheduler_below(PREEMPT_OF) == 0)
		scheduler_sleep(scheduler_below(200));
}

void scheduler_call_begins(void)
{
	maybe_others_first();
	must(!scheduler.in_call, "a system call in another one");
	scheduler.in_call = true;
}

void scheduler_call_ends(void)
{
	scheduler.in_call = false;
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

WRAP(int, pthread_mutex_trylock, pthread_mutex_t *mutex)
{
	maybe_others_first();
	if (lock_of(mutex)->taken)
		return EBUSY;
	lock_of(mutex)->taken = true;
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
	for (size_t i = 0; i<scheduler.fibers_used && * waiters_of(condition)> 0; i++)
		must(scheduler.waits_for[i] != condition,
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

	if (*waiters_of(condition) == 0)
		return 0;
	for (size_t i = 0; i < count; i++) {
		size_t at = start + i < count ? start + i : start + i - count;
		if (scheduler.waits_for[at] == condition) {
			wake(scheduler.fibers[at]);
			break;
		}
	}
	return 0;
}

WRAP(void, rpc_event_init, struct rpc_event *event)
{
	memset(event, 0, sizeof(*event));
}

WRAP(void, rpc_event_destroy, struct rpc_event *event)
{
	(void)event;
}

WRAP(void, rpc_event_set, struct rpc_event *event)
{
	event->set = true;
	wake_all(event);
}

WRAP(bool, rpc_event_wait, struct rpc_event *event, unsigned int timeout_ms)
{
	uint64_t until =
		timeout_ms == UINT_MAX ? UINT64_MAX : scheduler.now + (uint64_t)timeout_ms * 1000;

	while (!event->set && scheduler.now < until)
		wait(event, until);
	bool set = event->set;
	event->set = false;
	return set;
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
