/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What becomes of store files that nobody needs. The store is real; exportd's answer is made up in
 * the place of calls.
 */
#include <stdlib.h>

#include "rpc/meta.h"
#include "storaged/orphans.h"
#include "store_fixture.h"

static struct fixture fixture;
static struct orphans *orphans;
static uint32_t verdict; /* exportd's, of every store file */
static unsigned int sure; /* how often it was told that one is a stray for sure */

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms);

struct rpc_client *stripe_meta(struct stripe *stripe)
{
	(void)stripe;
	return NULL;
}

void stripe_file_forget(struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	(void)stripe;
	(void)export_id;
	(void)file_id;
}

int __wrap_rozo_rpc_call(struct rpc_client *client, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms)
{
	const meta_orphans_args *asked = args;
	uint32_t count = asked->files.files_len;
	meta_orphans_res *answer = result;

	(void)client;
	(void)procedure;
	(void)args_xdr;
	(void)result_xdr;
	(void)timeout_ms;
	sure += asked->sure;
	answer->verdicts.verdicts_len = answer->filesystem_ids.filesystem_ids_len = count;
	answer->verdicts.verdicts_val = calloc(count, sizeof(uint32_t));
	answer->filesystem_ids.filesystem_ids_val = calloc(count, sizeof(uint64_t));
	for (uint32_t i = 0; i < count; i++) {
		answer->verdicts.verdicts_val[i] = verdict;
		answer->filesystem_ids.filesystem_ids_val[i] = 77;
	}
	return 0;
}

/* A store file of which exportd says this in as many passes as are needed. Returns how many were
 * removed in the last one. */
static uint64_t passes_with(uint32_t answer)
{
	const char *device = fixture.devices[0];
	const store_file file = FIXTURE_FILE;
	uint64_t removed;

	verdict = answer;
	sure = 0;
	CU_ASSERT_EQUAL(PUT(&fixture, .version = VERSION(1, 1)), 0);
	CU_ASSERT_EQUAL_FATAL(
		orphans_create(&orphans, FIXTURE_NODE, fixture.store, NULL, &device, 1), 0);
	fixture_forget_log();
	/* The export is made known, the file is suspected, nobody needs it for sure. */
	for (unsigned int i = 0; i < 3; i++) {
		orphans_pass(orphans, 0);
		orphans_ask(orphans, &file);
		orphans_pass_end(orphans);
	}
	removed = orphans_removed(orphans);
	orphans_destroy(orphans);
	return removed;
}

static void a_file_of_nobody_is_removed(void)
{
	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(passes_with(META_ORPHAN_GONE), 1);
	CU_ASSERT_EQUAL(sure, 0);
	CU_ASSERT_EQUAL(fixture_logged(": removed, since the file is no more"), 1);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_EMPTY);
	fixture_end(&fixture);
}

/* exportd has it removed when that is safe, by its free queue. */
static void a_stray_is_not_called_removed(void)
{
	fixture_begin(&fixture, 1);
	CU_ASSERT_EQUAL(passes_with(META_ORPHAN_STRAY), 0);
	CU_ASSERT_EQUAL(sure, 1);
	CU_ASSERT_EQUAL(fixture_logged("removed,"), 0);
	CU_ASSERT_EQUAL(fixture_logged("other nodes have it"), 1);
	CU_ASSERT_EQUAL(fixture_state(&fixture, 0, NULL), STORE_FINALIZED);
	fixture_end(&fixture);
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	CU_initialize_registry();
	suite = CU_add_suite("orphans", NULL, NULL);
#define TEST(name) CU_add_test(suite, #name, name)
	TEST(a_file_of_nobody_is_removed);
	TEST(a_stray_is_not_called_removed);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures != 0;
}
