/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the healer tries of what nodes have missed. The store is real; the clock, the thread,
 * exportd and the other nodes are made up.
 */
#include <errno.h>
#include <stdlib.h>

#include "rpc/rpc.h"
#include "storaged/healer.h"
#include "store_fixture.h"
#include "store_periodic.h"
#include "stripe/die_at_message.h"

#define FILES 3
#define BLOCKS 1280
#define STEP_MS 600 /* of trying 64 blocks in vain */

static struct fixture fixture;
static struct healer *healer;
static struct work work;

void die_at_message_exempt(void)
{
}

static uint64_t hopeless; /* the file that is met first */
static bool tried[FILES + 1];

int stripe_file_get(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **file)
{
	(void)stripe;
	(void)export_id;
	*file = (struct stripe_file *)(uintptr_t)file_id;
	return 0;
}

void stripe_file_put(struct stripe_file *file)
{
	(void)file;
}

int stripe_file_refresh(struct stripe_file *file)
{
	(void)file;
	return 0;
}

uint32_t stripe_shards_up(struct stripe_file *file, uint32_t segment)
{
	(void)file;
	(void)segment;
	return 0x3f;
}

uint32_t stripe_shard_node(struct stripe_file *file, uint32_t segment, uint32_t shard)
{
	(void)file;
	(void)segment;
	return 1 + shard;
}

size_t stripe_noticed(struct stripe *stripe, struct stripe_noticed *list, size_t max)
{
	(void)stripe;
	(void)list;
	(void)max;
	return 0;
}

struct rpc_client *stripe_meta(struct stripe *stripe)
{
	(void)stripe;
	return NULL;
}

int stripe_rebuild_begin(struct stripe_file *file, uint32_t segment, struct stripe_rebuild *rebuild)
{
	(void)file;
	(void)segment;
	(void)rebuild;
	return -ENOENT;
}

/* The node that missed one of the files is up, but its device is out of service. */
int stripe_heal_range(struct stripe_file *file, uint32_t segment, uint64_t first_block,
	uint32_t count, bool thorough, struct stripe_heal_result *result)
{
	uint64_t id = (uintptr_t)file;

	(void)segment;
	(void)first_block;
	(void)thorough;
	*result = (struct stripe_heal_result){.left = count};
	if (hopeless == 0)
		hopeless = id;
	tried[id] = true;
	periodic_now_ms += STEP_MS;
	return 0;
}

static void what_cannot_be_healed_does_not_hide_the_rest(void)
{
	fixture_begin(&fixture, 1);
	for (uint64_t id = 1; id <= FILES; id++)
		for (uint64_t block = 0; block < BLOCKS; block += 64)
			CU_ASSERT_EQUAL(PUT(&fixture, .file = {.export_id = 1, .file_id = id},
						.version = VERSION(1, 1), .first = block,
						.count = 64, .missed = 2),
				0);
	periodic_now_ms = 100000000;
	work_init(&work);
	CU_ASSERT_EQUAL_FATAL(healer_start(&healer, 3, fixture.store, NULL, &work, 0), 0);
	for (unsigned int pass = 0; pass < 50; pass++) {
		periodic_work();
		periodic_now_ms += 60000;
	}
	for (uint64_t id = 1; id <= FILES; id++)
		CU_ASSERT(tried[id]);
	healer_stop(healer);
	work_destroy(&work);
	fixture_end(&fixture);
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	CU_initialize_registry();
	suite = CU_add_suite("healer", NULL, NULL);
	CU_add_test(suite, "what_cannot_be_healed_does_not_hide_the_rest",
		what_cannot_be_healed_does_not_hide_the_rest);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures != 0;
}
