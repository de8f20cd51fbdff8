/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Blocks that the healer could not mend: each is kept once, tried again after longer and longer
 * pauses, and never in the way of new ones.
 */
#include <CUnit/Basic.h>

#include "storaged/noticed.h"

static struct noticed noticed;
static struct stripe_noticed due[NOTICED_KEPT_MAX];

static struct stripe_noticed numbered(uint64_t block)
{
	return (struct stripe_noticed){.export_id = 1, .file_id = 2, .block = block};
}

static void try(uint64_t number, bool mended, int64_t now_ms)
{
	struct stripe_noticed block = numbered(number);

	noticed_tried(&noticed, &block, mended, now_ms);
}

static bool is_kept(uint64_t number)
{
	struct stripe_noticed block = numbered(number);

	return noticed_is_kept(&noticed, &block);
}

static void a_block_is_kept_once(void)
{
	struct stripe_noticed other = numbered(7);

	noticed = (struct noticed){0};
	CU_ASSERT(!is_kept(7));
	for (int64_t now_ms = 0; now_ms < 1000; now_ms++)
		try(7, false, now_ms);
	CU_ASSERT(is_kept(7));
	CU_ASSERT_EQUAL(noticed.count, 1);
	other.segment = 1;
	CU_ASSERT(!noticed_is_kept(&noticed, &other));
	other = numbered(7);
	other.file_id = 3;
	CU_ASSERT(!noticed_is_kept(&noticed, &other));
	other = numbered(7);
	other.export_id = 3;
	CU_ASSERT(!noticed_is_kept(&noticed, &other));
}

static void pauses_grow_to_half_a_minute(void)
{
	static const int64_t pauses_ms[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
	int64_t now_ms = 5000;

	noticed = (struct noticed){0};
	for (size_t i = 0; i < sizeof(pauses_ms) / sizeof(pauses_ms[0]); i++) {
		try(1, false, now_ms);
		CU_ASSERT_EQUAL(noticed_due(&noticed, now_ms + pauses_ms[i] - 1, due), 0);
		now_ms += pauses_ms[i];
		CU_ASSERT_EQUAL(noticed_due(&noticed, now_ms, due), 1);
		CU_ASSERT_EQUAL(due[0].block, 1);
	}
	/* Once mended it is a new one. */
	try(1, true, now_ms);
	CU_ASSERT(!is_kept(1));
	try(1, false, now_ms);
	CU_ASSERT_EQUAL(noticed_due(&noticed, now_ms + 1000, due), 1);
}

static void what_is_too_much_is_dropped(void)
{
	noticed = (struct noticed){0};
	for (uint64_t block = 0; block < 2 * NOTICED_KEPT_MAX; block++)
		try(block, false, 0);
	CU_ASSERT_EQUAL(noticed.count, NOTICED_KEPT_MAX);
	CU_ASSERT(is_kept(0));
	CU_ASSERT(is_kept(NOTICED_KEPT_MAX - 1));
	CU_ASSERT(!is_kept(NOTICED_KEPT_MAX));
	CU_ASSERT_EQUAL(noticed_due(&noticed, 1000, due), NOTICED_KEPT_MAX);
	/* One that is mended makes room for another, and the others stay. */
	try(5, true, 0);
	try(500, true, 0);
	CU_ASSERT(!is_kept(5));
	CU_ASSERT_EQUAL(noticed.count, NOTICED_KEPT_MAX - 1);
	CU_ASSERT(is_kept(NOTICED_KEPT_MAX - 1));
	try(500, false, 0);
	CU_ASSERT(is_kept(500));
	/* Also with all places taken one that is kept waits longer. */
	try(500, false, 1000);
	CU_ASSERT_EQUAL(noticed_due(&noticed, 2999, due), NOTICED_KEPT_MAX - 1);
	CU_ASSERT_EQUAL(noticed_due(&noticed, 3000, due), NOTICED_KEPT_MAX);
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	CU_initialize_registry();
	suite = CU_add_suite("noticed", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(a_block_is_kept_once);
	TEST(pauses_grow_to_half_a_minute);
	TEST(what_is_too_much_is_dropped);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures != 0;
}
