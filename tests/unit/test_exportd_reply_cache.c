/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Calls that are sent more than once and executed once: the same answer again, also after a
 * restart, nothing for calls that are late, and no slots mixed up.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "exportd/file.h"
#include "exportd/kv.h"
#include "exportd/namespace.h"
#include "exportd/record.h"
#include "exportd_fixture.h"

#define CALLER UINT64_C(0x1122334455667788)

static struct fixture fixture;

static void open_fixture(void)
{
	fixture_open(&fixture, 6);
	fixture_all_up(&fixture);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

/* As they would be sent: what lies between their fields does not count. */
static bool same(rpc_xdr xdr, void *left, void *right)
{
	char bytes[2][RECORD_REPLY_MAX];
	u_int count[2];

	for (unsigned int i = 0; i < 2; i++) {
		XDR xdrs;

		xdrmem_ncreate(&xdrs, bytes[i], sizeof(bytes[i]), XDR_ENCODE);
		CU_ASSERT_FATAL(xdr(&xdrs, i == 0 ? left : right));
		count[i] = XDR_GETPOS(&xdrs);
	}
	return count[0] == count[1] && memcmp(bytes[0], bytes[1], count[0]) == 0;
}

static meta_slot slot_of(uint32_t slot, uint64_t sequence)
{
	return (meta_slot){.caller = CALLER, .slot = slot, .sequence = sequence};
}

static meta_create_res make_directory(const char *name, meta_slot slot)
{
	const meta_create_args args = {.export_id = FIXTURE_EXPORT,
		.directory_id = 1,
		.name = (char *)name,
		.type = META_DIRECTORY,
		.how = META_CREATE_GUARDED,
		.target = "",
		.slot = slot};
	meta_create_res result = {0};

	namespace_create(fixture.exportd, &args, &result);
	return result;
}

static uint32_t rename_in_root(const char *from, const char *to, meta_slot slot)
{
	const meta_rename_args args = {.export_id = FIXTURE_EXPORT,
		.from_directory_id = 1,
		.to_directory_id = 1,
		.from_name = (char *)from,
		.to_name = (char *)to,
		.slot = slot};
	meta_rename_res result = {0};

	namespace_rename(fixture.exportd, &args, &result);
	return result.status;
}

static uint32_t unlink_in_root(const char *name, meta_slot slot, meta_unlink_res *result)
{
	const meta_unlink_args args = {
		.export_id = FIXTURE_EXPORT, .directory_id = 1, .name = (char *)name, .slot = slot};

	*result = (meta_unlink_res){0};
	namespace_unlink(fixture.exportd, &args, result);
	return result->status;
}

static uint32_t link_in_root(uint64_t file_id, const char *name, meta_slot slot)
{
	const meta_link_args args = {.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.directory_id = 1,
		.name = (char *)name,
		.slot = slot};
	meta_attributes_res result = {0};

	namespace_link(fixture.exportd, &args, &result);
	return result.status;
}

static void what_was_done_is_answered_the_same_again(void)
{
	meta_create_res made = make_directory("d", slot_of(3, 1)), again;

	CU_ASSERT_EQUAL(made.status, 0);
	again = make_directory("d", slot_of(3, 1));
	CU_ASSERT_EQUAL(again.status, 0);
	CU_ASSERT_EQUAL(again.created, 1);
	CU_ASSERT(same(RPC_XDR(xdr_meta_create_res), &made, &again));
	/* Also by an exportd that has been started since. */
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	again = make_directory("d", slot_of(3, 1));
	CU_ASSERT(same(RPC_XDR(xdr_meta_create_res), &made, &again));
	/* Another call with the same arguments is another call. */
	CU_ASSERT_EQUAL(make_directory("d", slot_of(3, 2)).status, EEXIST);
	CU_ASSERT_EQUAL(make_directory("d", slot_of(4, 1)).status, EEXIST);
	CU_ASSERT_EQUAL(make_directory("d", (meta_slot){0}).status, EEXIST);
}

static void each_kind_of_change_is_done_once(void)
{
	meta_unlink_res first, again;
	uint64_t file_id, links = 0;

	CU_ASSERT_EQUAL(do_create(&fixture, 1, "a", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(link_in_root(file_id, "b", slot_of(0, 1)), 0);
	CU_ASSERT_EQUAL(link_in_root(file_id, "b", slot_of(0, 1)), 0);
	CU_ASSERT_EQUAL(rename_in_root("b", "c", slot_of(0, 2)), 0);
	CU_ASSERT_EQUAL(rename_in_root("b", "c", slot_of(0, 2)), 0);
	CU_ASSERT_EQUAL(unlink_in_root("c", slot_of(0, 3), &first), 0);
	CU_ASSERT_EQUAL(unlink_in_root("c", slot_of(0, 3), &again), 0);
	CU_ASSERT(same(RPC_XDR(xdr_meta_unlink_res), &first, &again));
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).links, 1);
	/* The same name, made again meanwhile by somebody else, is not touched. */
	CU_ASSERT_EQUAL(do_create(&fixture, 1, "c", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(unlink_in_root("c", slot_of(0, 3), &again), 0);
	CU_ASSERT_EQUAL(do_lookup(&fixture, 1, "c", &file_id), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, 1, "c", &links), 0);
}

static meta_setattr_res set_size(uint64_t file_id, uint64_t size, meta_slot slot)
{
	const meta_setattr_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.set = {.mask = META_SET_SIZE, .size = size},
		.slot = slot,
	};
	meta_setattr_res result = {0};

	file_setattr(fixture.exportd, &args, &result);
	return result;
}

static void a_truncation_is_not_begun_again(void)
{
	meta_setattr_res first, again;
	uint64_t file_id;

	CU_ASSERT_EQUAL(do_create(&fixture, 1, "t", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 5000, 0, NULL), 0);
	first = set_size(file_id, 100, slot_of(0, 1));
	CU_ASSERT_EQUAL(first.status, 0);
	CU_ASSERT_EQUAL(first.truncate, 1);
	CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, first.write_epoch), 0);
	/* What somebody writes and is told to be safe stays. */
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 3000, 0, NULL), 0);
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	again = set_size(file_id, 100, slot_of(0, 1));
	CU_ASSERT(same(RPC_XDR(xdr_meta_setattr_res), &first, &again));
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).size, 3000);
	CU_ASSERT_EQUAL(set_size(file_id, 100, slot_of(0, 2)).status, 0);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).size, 100);
}

static bool claim_first(uint64_t file_id, uint64_t writer)
{
	const meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.writer = writer,
		.if_free = 1,
	};
	meta_placement_res result = {0};
	bool claimed;

	file_placement(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	claimed = result.claimed;
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
	return claimed;
}

static void a_file_made_before_is_not_free_again(void)
{
	const meta_create_args args = {.export_id = FIXTURE_EXPORT,
		.directory_id = 1,
		.name = "f",
		.type = META_REGULAR,
		.how = META_CREATE_GUARDED,
		.target = "",
		.slot = slot_of(0, 1)};
	meta_create_res result = {0};

	namespace_create(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT(claim_first(result.attributes.file_id, 7));
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	result = (meta_create_res){0};
	namespace_create(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 1);
	/* The first writer may have bytes on their way under the first epoch. */
	CU_ASSERT_FALSE(claim_first(result.attributes.file_id, 8));
}

static void what_failed_may_be_tried_again(void)
{
	uint64_t file_id;

	CU_ASSERT_EQUAL(rename_in_root("x", "y", slot_of(7, 1)), ENOENT);
	CU_ASSERT_EQUAL(do_create(&fixture, 1, "x", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL(rename_in_root("x", "y", slot_of(7, 1)), 0);
}

static void a_late_call_is_not_executed(void)
{
	uint64_t file_id;

	CU_ASSERT_EQUAL(make_directory("first", slot_of(9, 5)).status, 0);
	/* One that was given up before, and arrives now. */
	CU_ASSERT_EQUAL(make_directory("late", slot_of(9, 4)).status, EBADMSG);
	CU_ASSERT_EQUAL(do_lookup(&fixture, 1, "late", &file_id), ENOENT);
	/* A slot has one call at a time: the same number is not another procedure's. */
	CU_ASSERT_EQUAL(rename_in_root("first", "second", slot_of(9, 5)), EBADMSG);
	CU_ASSERT_EQUAL(do_lookup(&fixture, 1, "first", &file_id), 0);
	CU_ASSERT_EQUAL(make_directory("bad", slot_of(META_SLOTS_MAX, 1)).status, EINVAL);
	CU_ASSERT_EQUAL(make_directory("bad", slot_of(1, 0)).status, EINVAL);
	CU_ASSERT_EQUAL(do_lookup(&fixture, 1, "bad", &file_id), ENOENT);
}

static int age(struct kv_txn *txn, void *context)
{
	struct record_reply reply;
	int error = record_reply_get(txn, CALLER, 2, &reply);

	(void)context;
	reply.seconds -= 86400 + 10;
	return error != 0 ? error : record_reply_put(txn, CALLER, 2, &reply);
}

static int count(struct kv_txn *txn, void *context)
{
	struct record_reply reply;
	unsigned int *found = context;

	for (uint32_t slot = 0; slot < META_SLOTS_MAX; slot++)
		*found += record_reply_get(txn, CALLER, slot, &reply) == 0;
	return 0;
}

static void callers_that_are_gone_leave_nothing(void)
{
	unsigned int found = 0;

	CU_ASSERT_EQUAL(make_directory("old", slot_of(2, 1)).status, 0);
	CU_ASSERT_EQUAL(make_directory("new", slot_of(3, 1)).status, 0);
	CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, age, NULL), 0);
	CU_ASSERT_EQUAL(exportd_read(fixture.exportd, count, &found), 0);
	CU_ASSERT_EQUAL(found, 2);
	fixture_reopen(&fixture);
	fixture_all_up(&fixture);
	found = 0;
	CU_ASSERT_EQUAL(exportd_read(fixture.exportd, count, &found), 0);
	CU_ASSERT_EQUAL(found, 1);
	CU_ASSERT_EQUAL(make_directory("new", slot_of(3, 1)).status, 0);
}

static void a_damaged_reply_does_not_end_its_slot(void)
{
	CU_ASSERT_EQUAL(make_directory("before damage", slot_of(9, 1)).status, 0);
	fixture_flip(&fixture, record_key_reply(CALLER, 9));
	CU_ASSERT_EQUAL(make_directory("after damage", slot_of(9, 2)).status, 0);
	/* And a new one is in its place. */
	CU_ASSERT_EQUAL(make_directory("after damage", slot_of(9, 2)).status, 0);
	CU_ASSERT_EQUAL(make_directory("after damage", slot_of(9, 3)).status, EEXIST);
}

int main(void)
{
	static CU_TestInfo tests[] = {
		{"what was done is answered the same again",
			what_was_done_is_answered_the_same_again},
		{"each kind of change is done once", each_kind_of_change_is_done_once},
		{"a truncation is not begun again", a_truncation_is_not_begun_again},
		{"a file made before is not free again", a_file_made_before_is_not_free_again},
		{"what failed may be tried again", what_failed_may_be_tried_again},
		{"a late call is not executed", a_late_call_is_not_executed},
		{"callers that are gone leave nothing", callers_that_are_gone_leave_nothing},
		{"a damaged reply does not end its slot", a_damaged_reply_does_not_end_its_slot},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"reply cache", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
