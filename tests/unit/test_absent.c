/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The plugin's memory of names that are not there: it must never say so of a name that was made.
 */
#include "fsal_rozo/absent.h"

#include <CUnit/Basic.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct absent absent;

static void a_name_is_remembered_for_a_moment(void)
{
	absent_init(&absent);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	absent_note(&absent, 7, "a", absent_ask(&absent, 7), 1000);
	CU_ASSERT(absent_is(&absent, 7, "a", 1000));
	CU_ASSERT(absent_is(&absent, 7, "a", 1050));
	CU_ASSERT(!absent_is(&absent, 7, "b", 1050));
	CU_ASSERT(!absent_is(&absent, 7, "", 1050));
	CU_ASSERT(!absent_is(&absent, 8, "a", 1050));
	CU_ASSERT(!absent_is(&absent, 7 + ABSENT_PLACES, "a", 1050));
	CU_ASSERT(!absent_is(&absent, 7, "a", 1200));
	absent_destroy(&absent);
}

static void a_change_ends_it(void)
{
	struct absent_change change, other;
	uint64_t asked;

	absent_init(&absent);
	absent_note(&absent, 7, "a", absent_ask(&absent, 7), 1000);
	absent_change_begins(&absent, 7, "b", &change);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	/* exportd may have answered before it made the name. */
	absent_note(&absent, 7, "a", absent_ask(&absent, 7), 1000);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	asked = absent_ask(&absent, 7);
	absent_change_ends(&absent, &change, 0, 1000);
	absent_note(&absent, 7, "a", asked, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	/* And two that overlap. */
	absent_change_begins(&absent, 7, "b", &change);
	absent_change_begins(&absent, 7, "c", &other);
	absent_change_ends(&absent, &change, 0, 1000);
	absent_note(&absent, 7, "a", absent_ask(&absent, 7), 1000);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	absent_change_ends(&absent, &other, 0, 1000);
	absent_note(&absent, 7, "a", absent_ask(&absent, 7), 1000);
	CU_ASSERT(absent_is(&absent, 7, "a", 1000));
	absent_destroy(&absent);
}

static void too_long_a_name_is_not_remembered(void)
{
	char name[ABSENT_NAME_BYTES + 1];

	absent_init(&absent);
	memset(name, 'n', sizeof(name));
	name[ABSENT_NAME_BYTES] = '\0';
	absent_note(&absent, 7, name, absent_ask(&absent, 7), 1000);
	CU_ASSERT(!absent_is(&absent, 7, name, 1000));
	name[ABSENT_NAME_BYTES - 1] = '\0';
	absent_note(&absent, 7, name, absent_ask(&absent, 7), 1000);
	CU_ASSERT(absent_is(&absent, 7, name, 1000));
	absent_destroy(&absent);
}

/* A name is made in directory 7, which has changed so often then. */
static void make(const char *name, uint64_t after, uint64_t now_ms)
{
	struct absent_change change;

	absent_change_begins(&absent, 7, name, &change);
	absent_change_ends(&absent, &change, after, now_ms);
}

static void all_names_of_a_new_directory_are_known(void)
{
	char name[16];

	absent_init(&absent);
	make("a", 2, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "a", 1000));
	CU_ASSERT(absent_is(&absent, 7, "b", 1000));
	CU_ASSERT(absent_is(&absent, 7, "b", 1099));
	CU_ASSERT(!absent_is(&absent, 7, "b", 1100));
	CU_ASSERT(!absent_is(&absent, 8, "b", 1000));
	CU_ASSERT(!absent_is(&absent, 7 + ABSENT_PLACES, "b", 1000));
	/* What is there, and what exportd has to complain of. */
	CU_ASSERT(!absent_is(&absent, 7, "", 1000));
	CU_ASSERT(!absent_is(&absent, 7, ".", 1000));
	CU_ASSERT(!absent_is(&absent, 7, "..", 1000));
	/* It is known as long as nobody else changes it, however long that takes. */
	make("b", 3, 5000);
	CU_ASSERT(absent_is(&absent, 7, "c", 5000));
	make("a", 4, 5000); /* removed */
	CU_ASSERT(!absent_is(&absent, 7, "b", 5000));
	CU_ASSERT(absent_is(&absent, 7, "c", 5000));
	for (unsigned int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "name %u", i);
		make(name, 5 + i, 6000);
		CU_ASSERT(!absent_is(&absent, 7, name, 6000));
	}
	CU_ASSERT(absent_is(&absent, 7, "c", 6000));
	/* A newer one takes the place. */
	struct absent_change change;
	absent_change_begins(&absent, 7 + ABSENT_PLACES, "x", &change);
	absent_change_ends(&absent, &change, 2, 6000);
	CU_ASSERT(!absent_is(&absent, 7, "c", 6000));
	CU_ASSERT(absent_is(&absent, 7 + ABSENT_PLACES, "c", 6000));
	absent_destroy(&absent);
}

static void what_others_change_is_noticed(void)
{
	absent_init(&absent);
	make("a", 3, 1000); /* it was not empty, perhaps */
	CU_ASSERT(!absent_is(&absent, 7, "x", 1000));
	absent_destroy(&absent);

	absent_init(&absent);
	make("a", 2, 1000);
	make("b", 4, 1000); /* somebody else's was the third */
	CU_ASSERT(!absent_is(&absent, 7, "x", 1000));
	make("c", 5, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "x", 1000));
	absent_destroy(&absent);

	absent_init(&absent);
	make("a", 2, 1000);
	make("b", 0, 1000); /* exportd did not answer */
	CU_ASSERT(!absent_is(&absent, 7, "x", 1000));
	absent_destroy(&absent);
}

static void changes_may_overlap(void)
{
	struct absent_change first, second;

	/* The second one was not in the filter yet when it was made. */
	absent_init(&absent);
	absent_change_begins(&absent, 7, "a", &first);
	absent_change_begins(&absent, 7, "b", &second);
	absent_change_ends(&absent, &second, 3, 1000);
	absent_change_ends(&absent, &first, 2, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "b", 1000));
	CU_ASSERT(!absent_is(&absent, 7, "x", 1000));
	absent_destroy(&absent);

	absent_init(&absent);
	absent_change_begins(&absent, 7, "a", &first);
	absent_change_begins(&absent, 7, "b", &second);
	absent_change_ends(&absent, &first, 2, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "b", 1000));
	absent_change_ends(&absent, &second, 3, 1000);
	CU_ASSERT(!absent_is(&absent, 7, "b", 1000));
	absent_destroy(&absent);

	/* Later they may be answered in any order. */
	absent_init(&absent);
	make("a", 2, 1000);
	absent_change_begins(&absent, 7, "b", &first);
	CU_ASSERT(!absent_is(&absent, 7, "b", 1000));
	absent_change_begins(&absent, 7, "c", &second);
	absent_change_ends(&absent, &second, 4, 1050);
	CU_ASSERT(!absent_is(&absent, 7, "b", 1050));
	CU_ASSERT(!absent_is(&absent, 7, "x", 1100)); /* not known so late yet */
	absent_change_ends(&absent, &first, 3, 1050);
	CU_ASSERT(absent_is(&absent, 7, "x", 1100));
	CU_ASSERT(!absent_is(&absent, 7, "b", 1100));
	CU_ASSERT(!absent_is(&absent, 7, "c", 1100));
	absent_destroy(&absent);
}

static void exports_of_one_file_system_share_it(void)
{
	struct absent *one = absent_get(1), *same = absent_get(1), *other = absent_get(2);

	CU_ASSERT_PTR_NOT_NULL(one);
	CU_ASSERT_PTR_EQUAL(one, same);
	CU_ASSERT_PTR_NOT_NULL(other);
	CU_ASSERT_PTR_NOT_EQUAL(one, other);
	absent_put(one);
	absent_note(same, 7, "a", absent_ask(same, 7), 1000);
	CU_ASSERT(absent_is(same, 7, "a", 1000));
	absent_put(same);
	/* Nobody had it meanwhile: nothing is known any more. */
	one = absent_get(1);
	CU_ASSERT(!absent_is(one, 7, "a", 1000));
	absent_put(one);
	absent_put(other);
	absent_put(NULL);
}

/* A directory where a name is made after the other, and threads that ask as the plugin does. */
#define NAMES 200000

static atomic_uint made; /* names below this number are there */

struct asker {
	pthread_t thread;
	unsigned int wrong, absent;
};

static void *ask(void *context)
{
	struct asker *asker = context;
	unsigned int next;

	while ((next = atomic_load(&made)) < NAMES) {
		unsigned int number = next > 0 ? next - (asker->absent & 1) : 0;
		bool must_be_there = number < next;
		char name[16];

		snprintf(name, sizeof(name), "%u", number);
		if (absent_is(&absent, 7, name, 1000)) {
			asker->wrong += must_be_there;
			asker->absent++;
			continue;
		}
		uint64_t asked = absent_ask(&absent, 7);
		if (number >= atomic_load(&made))
			absent_note(&absent, 7, name, asked, 1000);
		asker->absent += must_be_there;
	}
	return NULL;
}

static void what_was_made_is_never_absent(void)
{
	struct asker askers[3] = {0};
	unsigned int answers = 0;

	absent_init(&absent);
	atomic_store(&made, 0);
	for (unsigned int i = 0; i < 3; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
	for (unsigned int i = 0; i < NAMES; i++) {
		struct absent_change change;
		char name[16];

		snprintf(name, sizeof(name), "%u", i);
		absent_change_begins(&absent, 7, name, &change);
		atomic_fetch_add(&made, 1);
		absent_change_ends(&absent, &change, i + 2, 1000);
		if (i % 64 == 0)
			sched_yield();
	}
	for (unsigned int i = 0; i < 3; i++) {
		pthread_join(askers[i].thread, NULL);
		CU_ASSERT_EQUAL(askers[i].wrong, 0);
		answers += askers[i].absent;
	}
	CU_ASSERT(answers > 0);
	absent_destroy(&absent);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"a name is remembered for a moment", a_name_is_remembered_for_a_moment},
		{"a change ends it", a_change_ends_it},
		{"too long a name is not remembered", too_long_a_name_is_not_remembered},
		{"all names of a new directory are known", all_names_of_a_new_directory_are_known},
		{"what others change is noticed", what_others_change_is_noticed},
		{"changes may overlap", changes_may_overlap},
		{"exports of one file system share it", exports_of_one_file_system_share_it},
		{"what was made is never absent", what_was_made_is_never_absent},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"absent", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
