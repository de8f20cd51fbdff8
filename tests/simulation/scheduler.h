/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Simulated time, and fibers instead of threads.
 *
 * One thread runs everything. Whatever would block (a lock, a condition, a sleep, a flush, an
 * answer) lets another fiber run, and the next one is chosen by pseudo-random delays, so a seed
 * repeats a run step by step. The linker puts the functions here in the place of pthread_*(),
 * nanosleep(), clock_gettime() and sources of random numbers (--wrap) for all code that is linked
 * statically: the code under test is compiled as it is in the daemons.
 *
 * No locks: there is one thread.
 */
#ifndef ROZO_SIMULATION_SCHEDULER_H
#define ROZO_SIMULATION_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * What can be killed as a whole: a daemon, or a plugin's host. The fibers of a process that is not
 * alive run to their ends, but have no effect any more: the disk and the network refuse them.
 */
struct process {
	bool alive;
	unsigned int fibers; /* that have not ended */
	unsigned int number; /* unique in a run, for traces */
	unsigned int node; /* whose disk it has, or UINT_MAX */
	uint64_t stopped_until; /* until then none of its fibers runs */
	uint32_t cut_off; /* bit i: messages to node i and its answers get lost */
	bool cut_off_exportd; /* the same of calls to exportd */
	uint64_t unasked; /* when exportd could not be asked last; 0: never */
};

/* Begins a run: time 0, no fibers, no events; random numbers from the seed. */
void scheduler_reset(uint64_t seed);

/* Runs until no event is left, or `limit_us` of simulated time has passed. True if none is left. */
bool scheduler_run(uint64_t limit_us);

/* Microseconds since the beginning of the run. */
uint64_t scheduler_now(void);

/* Starts a fiber of a process. */
void scheduler_start(struct process *process, void (*run)(void *context), void *context);

/* The process of the fiber that runs; NULL outside of fibers. */
struct process *scheduler_process(void);

/* Makes the running fiber one of another process: a client that calls into an engine. */
void scheduler_enter(struct process *process);

/*
 * Stops a process for so long, as SIGSTOP does: its fibers stay where they are, whatever they have
 * waited for comes meanwhile, and then they go on. What is sent to it waits. Not longer than it is
 * stopped already.
 */
void scheduler_stop(struct process *process, uint64_t us);

/* For how long a process is stopped still; 0: it is not. */
uint64_t scheduler_stopped_us(const struct process *process);

/* Lets others run for about so long. */
void scheduler_sleep(uint64_t us);

/*
 * What lies between is done at once, and whatever becomes of the process, as the kernel carries out
 * a system call. Others may have their turn before it begins, so that whether the process is dead
 * must be asked in between. Nothing may be waited for.
 */
void scheduler_call_begins(void);
void scheduler_call_ends(void);

/*
 * Sleeps again and again, `us` at a time, while `waiting` is true, which depends on nothing but
 * what fibers and scheduler_after() do, and changes nothing. As a loop of scheduler_sleep() does,
 * to the last random number, but without a switch to the fiber each time.
 */
void scheduler_sleep_while(bool (*waiting)(const void *context), const void *context, uint64_t us);

/* Calls a function, outside of fibers, after so long. */
void scheduler_after(uint64_t us, void (*run)(void *context), void *context);

/* Numbers of the run, and one below `bound`; true in so many of 1000 cases. */
uint64_t scheduler_random(void);
uint64_t scheduler_below(uint64_t bound);
bool scheduler_chance(unsigned int of_1000);

/* Adds to the hash of what has happened in this run. */
void scheduler_trace(uint64_t what);
uint64_t scheduler_hash(void);

/* How many events there were: what could have come in another order. */
uint64_t scheduler_events(void);

#endif
