/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * exportd killed with SIGKILL at random moments while several threads change the namespace. After
 * each, everything that was answered is there, at most the operation that was being executed is
 * there besides, and the metadata keeps all its rules.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exportd/clock.h"
#include "exportd/record.h"
#include "exportd_fixture.h"

#define ROUNDS 15
#define THREADS 6
#define ROOT RECORD_ROOT_ID

/*
 * What every thread does, in a directory of its own, in steps of five operations that begin with
 * operation b: create f<b>; report it written, size b + 1; mkdir d<b>; rename f<b> to d<b>/g; and
 * at the end of a later step, operation b + UNLINK_AFTER, unlink d<b>/g.
 */
#define STEP 5
#define UNLINK_AFTER 49

static struct fixture fixture;

/* In memory shared with the child: how many operations of each thread have been answered. */
static _Atomic uint64_t *answered;

struct worker {
	pthread_t thread;
	uint32_t number;
	uint64_t directory;
};

/* Executes operation i. Returns its status. */
static int operate(uint64_t directory, uint64_t i)
{
	static _Thread_local uint64_t file, subdirectory;
	uint64_t b = i - i % STEP;
	char name[32], other[32];

	snprintf(name, sizeof(name), "f%llu", (unsigned long long)b);
	snprintf(other, sizeof(other), "d%llu", (unsigned long long)b);
	switch (i % STEP) {
	case 0:
		return do_create(&fixture, directory, name, META_REGULAR, &file);
	case 1:
		return do_written(&fixture, file, b + 1, 0, NULL);
	case 2:
		return do_create(&fixture, directory, other, META_DIRECTORY, &subdirectory);
	case 3:
		return do_rename(&fixture, directory, name, subdirectory, "g", NULL);
	default:
		if (i < UNLINK_AFTER)
			return 0;
		snprintf(other, sizeof(other), "d%llu", (unsigned long long)(i - UNLINK_AFTER));
		if (do_lookup(&fixture, directory, other, &subdirectory) != 0)
			return ENOENT;
		return do_unlink(&fixture, subdirectory, "g", NULL);
	}
}

static void *work(void *context)
{
	struct worker *worker = context;
	uint64_t i;

	for (i = 0;; i++) {
		if (operate(worker->directory, i) != 0)
			_exit(3);
		atomic_store(&answered[worker->number], i + 1);
	}
	return NULL;
}

/* The child: works until it is killed. */
static void be_killed(uint32_t round)
{
	struct worker workers[THREADS];
	char name[32];
	uint32_t i;

	if (exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd) != 0)
		_exit(4);
	for (i = 0; i < THREADS; i++) {
		workers[i].number = i;
		snprintf(name, sizeof(name), "round%u-%u", round, i);
		if (do_create(&fixture, ROOT, name, META_DIRECTORY, &workers[i].directory) != 0)
			_exit(5);
	}
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			_exit(6);
	for (;;)
		pause();
}

/* True if the directory is as `count` operations leave it. */
static bool is_after(uint64_t directory, uint64_t count)
{
	struct meta_attributes attributes;
	uint64_t b, file, moved, subdirectory;
	char name[32], other[32];
	bool f, d, g;

	/* One step beyond, to see that nothing is there that should not be. */
	for (b = 0; b < count + STEP; b += STEP) {
		snprintf(name, sizeof(name), "f%llu", (unsigned long long)b);
		snprintf(other, sizeof(other), "d%llu", (unsigned long long)b);
		f = do_lookup(&fixture, directory, name, &file) == 0;
		d = do_lookup(&fixture, directory, other, &subdirectory) == 0;
		g = d && do_lookup(&fixture, subdirectory, "g", &moved) == 0;
		if (f != (count > b && count <= b + 3))
			return false;
		if (d != (count > b + 2))
			return false;
		if (g != (count > b + 3 && count <= b + UNLINK_AFTER))
			return false;
		if (!f && !g)
			continue;
		attributes = attributes_of(&fixture, f ? file : moved);
		if (attributes.size != (count > b + 1 ? b + 1 : 0))
			return false;
	}
	return true;
}

static void killed_at_random_moments(void)
{
	uint64_t total = 0, faults = 0, directory, count;
	struct timespec delay;
	uint32_t round, i;
	char name[32];
	pid_t child;
	int status;

	answered = mmap(NULL, THREADS * sizeof(*answered), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_NOT_EQUAL_FATAL((void *)answered, MAP_FAILED);
	srandom((unsigned int)time(NULL));
	fixture_open(&fixture, 6);
	for (round = 0; round < ROUNDS; round++) {
		exportd_close(fixture.exportd);
		fixture.exportd = NULL;
		for (i = 0; i < THREADS; i++)
			atomic_store(&answered[i], 0);
		child = fork();
		CU_ASSERT_FATAL(child >= 0);
		if (child == 0)
			be_killed(round);
		/* From the middle of the opening to thousands of operations. */
		delay = (struct timespec){
			.tv_nsec = (random() % (round % 3 == 0 ? 20 : 300)) * 1000000};
		nanosleep(&delay, NULL);
		CU_ASSERT_EQUAL(kill(child, SIGKILL), 0);
		CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
		CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

		CU_ASSERT_EQUAL_FATAL(
			exportd_open(&fixture.config, FIXTURE_MAP_BYTES, &fixture.exportd), 0);
		CU_ASSERT_EQUAL(fixture_faults(&fixture), 0);
		for (i = 0; i < THREADS; i++) {
			count = atomic_load(&answered[i]);
			total += count;
			snprintf(name, sizeof(name), "round%u-%u", round, i);
			if (do_lookup(&fixture, ROOT, name, &directory) != 0) {
				CU_ASSERT_EQUAL(count, 0);
				continue;
			}
			CU_ASSERT(is_after(directory, count) || is_after(directory, count + 1));
		}
	}
	printf("%llu operations answered ", (unsigned long long)total);
	CU_ASSERT(total > 100);
	faults = fixture_close(&fixture);
	CU_ASSERT_EQUAL(faults, 0);
	munmap((void *)answered, THREADS * sizeof(*answered));
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"killed at random moments", killed_at_random_moments},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd crash", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
