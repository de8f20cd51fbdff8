/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Attributes, size, truncation, reports of writers, placement and gateways of one file.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exportd/file.h"
#include "exportd/inode.h"
#include "exportd/namespace.h"
#include "exportd/record.h"
#include "exportd/truncation.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define ROOT RECORD_ROOT_ID

static struct fixture fixture;
static uint64_t file_id;

static void open_fixture(void)
{
	fixture_open(&fixture, 9);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "file", META_REGULAR, &file_id), 0);
}

static void close_fixture(void)
{
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

static int setattr(uint64_t id, struct meta_set set, struct meta_setattr_res *result)
{
	struct meta_setattr_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = id}, .set = set};

	memset(result, 0, sizeof(*result));
	file_setattr(fixture.exportd, &args, result);
	return (int)result->status;
}

static void setattr_sets_each(void)
{
	struct meta_setattr_res result;
	struct meta_attributes before = attributes_of(&fixture, file_id);

	fixture_time_ms(5000);
	CU_ASSERT_EQUAL(setattr(file_id,
				(struct meta_set){.mask = META_SET_MODE | META_SET_UID |
							  META_SET_GID | META_SET_ATIME,
					.mode = 0600,
					.uid = 5,
					.gid = 6,
					.access_time = {.seconds = 11, .nanoseconds = 12}},
				&result),
		0);
	CU_ASSERT_EQUAL(result.attributes.mode, 0600);
	CU_ASSERT_EQUAL(result.attributes.uid, 5);
	CU_ASSERT_EQUAL(result.attributes.gid, 6);
	CU_ASSERT_EQUAL(result.attributes.access_time.seconds, 11);
	CU_ASSERT_EQUAL(result.attributes.access_time.nanoseconds, 12);
	CU_ASSERT_EQUAL(result.attributes.modify_time.seconds, before.modify_time.seconds);
	CU_ASSERT_EQUAL(result.attributes.change_time.seconds, 1700000005);
	CU_ASSERT(result.attributes.change > before.change);
	CU_ASSERT_EQUAL(result.truncate, 0);
	CU_ASSERT_EQUAL(
		setattr(file_id, (struct meta_set){.mask = META_SET_MTIME_NOW | META_SET_ATIME_NOW},
			&result),
		0);
	CU_ASSERT_EQUAL(result.attributes.modify_time.seconds, 1700000005);
	CU_ASSERT_EQUAL(result.attributes.access_time.seconds, 1700000005);
	CU_ASSERT_EQUAL(result.attributes.mode, 0600);
}

static void setattr_refuses(void)
{
	struct meta_setattr_res result;
	uint64_t link;

	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "link", META_SYMLINK, &link), 0);
	CU_ASSERT_EQUAL(setattr(file_id, (struct meta_set){.mask = 256}, &result), EINVAL);
	CU_ASSERT_EQUAL(
		setattr(file_id, (struct meta_set){.mask = META_SET_SIZE, .size = 1ull << 63},
			&result),
		EFBIG);
	CU_ASSERT_EQUAL(setattr(999, (struct meta_set){.mask = META_SET_MODE}, &result), ESTALE);
	CU_ASSERT_EQUAL(do_set_size(&fixture, ROOT, 1, NULL), EISDIR);
	CU_ASSERT_EQUAL(do_set_size(&fixture, link, 1, NULL), EINVAL);
}

static void growing_is_size_only(void)
{
	struct meta_setattr_res result;

	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 1000, &result), 0);
	CU_ASSERT_EQUAL(result.truncate, 0);
	CU_ASSERT_EQUAL(result.attributes.size, 1000);
	CU_ASSERT_EQUAL(result.attributes.space_used, 1500);
	CU_ASSERT_EQUAL(result.write_epoch, 1);
}

static uint32_t claim_as(uint64_t writer, bool if_free, bool *claimed)
{
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.writer = writer,
		.if_free = if_free,
	};
	struct meta_placement_res result = {0};

	file_placement(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	uint32_t write_epoch = result.write_epoch;
	*claimed = result.claimed;
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
	return write_epoch;
}

static uint32_t claim(uint64_t writer)
{
	bool claimed;
	uint32_t write_epoch = claim_as(writer, false, &claimed);

	CU_ASSERT(claimed);
	return write_epoch;
}

static int check_epoch(struct fixture *fixture, uint64_t file_id, uint32_t write_epoch)
{
	struct meta_check_epoch_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.write_epoch = write_epoch,
	};
	struct meta_status_res result = {0};

	file_check_epoch(fixture->exportd, &args, &result);
	return (int)result.status;
}

/* That META_PLACEMENT tells, 0: none. */
static uint32_t epoch_of(const struct meta_placement_args *args)
{
	struct meta_placement_res result = {0};

	file_placement(fixture.exportd, args, &result);
	free(result.nodes.nodes_val);
	return result.status == 0 ? result.write_epoch : 0;
}

/* As after it was restored from a backup. */
static void stores_tell_of_newer_write_epochs(void)
{
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id}, .met_epoch = 1};

	CU_ASSERT_EQUAL(epoch_of(&args), 1);
	uint64_t commits = commits_of(&fixture);
	args.met_epoch = 77;
	for (unsigned int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(epoch_of(&args), 78);
		CU_ASSERT_EQUAL(commits_of(&fixture), commits + 1);
	}
	fixture_reopen(&fixture);
	args.met_epoch = 5;
	args.writer = 99;
	CU_ASSERT_EQUAL(epoch_of(&args), 79);
	/* Whatever was written under older ones may be gone. */
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, 77), EAGAIN);
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, 78), 0);
	args.met_epoch = UINT32_MAX;
	CU_ASSERT_EQUAL(epoch_of(&args), 0);
}

static void a_free_epoch_is_claimed_without_a_new_one(void)
{
	bool claimed;

	/* Nobody has written; then it is the first one's, until another insists. */
	CU_ASSERT_EQUAL(claim_as(7, true, &claimed), 1);
	CU_ASSERT(claimed);
	CU_ASSERT_EQUAL(claim_as(8, true, &claimed), 1);
	CU_ASSERT(!claimed);
	CU_ASSERT_EQUAL(claim_as(7, true, &claimed), 1);
	CU_ASSERT(claimed);
	CU_ASSERT_EQUAL(claim(8), 2);
	CU_ASSERT_EQUAL(claim_as(7, true, &claimed), 2);
	CU_ASSERT(!claimed);
	/* Whose it is was forgotten, or it is a truncation's: nobody's for sure. */
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(claim_as(8, true, &claimed), 2);
	CU_ASSERT(!claimed);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), 0);
	CU_ASSERT_EQUAL(claim_as(8, true, &claimed), 3);
	CU_ASSERT(!claimed);
	/* A segment that is placed in the same call is no claim either. */
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.segment = 1,
		.allocate = 1,
		.writer = 7,
		.if_free = 1,
	};
	struct meta_placement_res result = {0};
	file_placement(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.claimed, 0);
	CU_ASSERT_EQUAL(result.write_epoch, 3);
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
}

static void each_writer_has_its_epoch(void)
{
	struct meta_placement_res placement;

	/* Nobody has written to the file; then one that asks again, and another. */
	CU_ASSERT_EQUAL(claim(7), 1);
	CU_ASSERT_EQUAL(claim(7), 1);
	CU_ASSERT_EQUAL(claim(8), 2);
	CU_ASSERT_EQUAL(claim(8), 2);
	CU_ASSERT_EQUAL(claim(7), 3);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.write_epoch, 3);
	/* Whoever has asked for what cannot be remembered gets a new one. */
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(claim(7), 4);
	/* A truncation's epoch is no writer's. */
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), 0);
	CU_ASSERT_EQUAL(claim(7), 6);
}

static void truncation_is_told_until_carried_out(void)
{
	struct meta_setattr_res result;
	struct meta_placement_res placement;

	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 100000, 0, NULL), 0);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 70000, &result), 0);
	CU_ASSERT_EQUAL(result.truncate, 1);
	CU_ASSERT_EQUAL(result.truncate_size, 70000);
	CU_ASSERT_EQUAL(result.write_epoch, 2);
	CU_ASSERT_EQUAL(result.attributes.size, 70000);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 1);
	CU_ASSERT_EQUAL(placement.truncate_size, 70000);
	CU_ASSERT_EQUAL(placement.write_epoch, 2);
	CU_ASSERT_EQUAL(placement.layout_epoch, 1);
	/* The file grows again before: what is to be emptied begins where it was cut. */
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 90000, 0, NULL), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.attributes.size, 90000);
	CU_ASSERT_EQUAL(placement.truncate_size, 70000);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 80000, &result), 0);
	CU_ASSERT_EQUAL(result.truncate_size, 70000);
	CU_ASSERT_EQUAL(result.write_epoch, 3);
	/* The older one's end is not the end, and whoever carried it out is told. */
	CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, 2), EAGAIN);
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, 2), EAGAIN);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 1);
	CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, 3), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 0);
	CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, 3), 0);
	/* Bytes from before it are gone, or were where it cut nothing off: who has them cannot
	 * tell. */
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, 2), EAGAIN);
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, 3), 0);
	CU_ASSERT_EQUAL(check_epoch(&fixture, 999, 3), ESTALE);
	CU_ASSERT_EQUAL(check_epoch(&fixture, ROOT, 3), EISDIR);
	CU_ASSERT_EQUAL(do_truncated(&fixture, 999, 3), ESTALE);
	/* Same size, and zero of zero: a writer may have gone beyond it unreported. */
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 80000, &result), 0);
	CU_ASSERT_EQUAL(result.truncate, 1);
	CU_ASSERT_EQUAL(result.truncate_size, 80000);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, &result), 0);
	CU_ASSERT_EQUAL(result.truncate_size, 0);
	CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, 5), 0);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, &result), 0);
	CU_ASSERT_EQUAL(result.truncate, 1);
	CU_ASSERT_EQUAL(result.write_epoch, 6);
}

#define PENDING 1100 /* more than exportd tells at a time */

static uint32_t times_told[PENDING + 100]; /* by file id */

/* The files that a node is told to finish; its heartbeat says so before. */
static uint32_t to_finish(uint32_t node)
{
	struct meta_truncations_args args = {.node = node};
	struct meta_truncations_res result = {0};
	int waiting = truncation_waiting(fixture.exportd, node);

	truncation_list(fixture.exportd, &args, &result);
	uint32_t count = result.files.files_len;
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(waiting, count > 0);
	for (uint32_t i = 0; i < count; i++) {
		CU_ASSERT_EQUAL(result.files.files_val[i].export_id, FIXTURE_EXPORT);
		CU_ASSERT_FATAL(result.files.files_val[i].file_id < PENDING + 100);
		times_told[result.files.files_val[i].file_id]++;
	}
	free(result.files.files_val);
	return count;
}

static uint32_t to_finish_by_anyone(void)
{
	uint32_t count = 0;

	for (uint32_t node = 1; node <= 9; node++)
		count += to_finish(node);
	return count;
}

static void a_truncation_whose_beginner_died_is_finished_by_a_node(void)
{
	struct meta_setattr_res result;
	uint64_t others[20], finished;

	for (unsigned int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "other-%u", i);
		CU_ASSERT_EQUAL(do_create(&fixture, ROOT, name, META_REGULAR, &others[i]), 0);
		CU_ASSERT_EQUAL(do_set_size(&fixture, others[i], 0, NULL), 0);
	}
	/* Not while whoever began it may be at work. */
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 0);
	fixture_time_ms(10900);
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 0);
	/* One that began again waits anew; what is carried out, or gone, does not. */
	CU_ASSERT_EQUAL(do_set_size(&fixture, others[0], 0, NULL), 0);
	CU_ASSERT_EQUAL(do_set_size(&fixture, others[1], 0, &result), 0);
	CU_ASSERT_EQUAL(do_truncated(&fixture, others[1], result.write_epoch), 0);
	CU_ASSERT_EQUAL(do_unlink(&fixture, ROOT, "other-2", NULL), 0);
	fixture_time_ms(11100);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 17);
	/* Told once, each to one of them; again if nothing came of it. */
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 0);
	fixture_time_ms(21200);
	fixture_all_up(&fixture);
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 18);
	/* Also after a restart; by nodes that are up. */
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 0);
	fixture_time_ms(31300);
	CU_ASSERT_EQUAL(fixture_heartbeat(&fixture, 3, 1, 1 << 30), 0);
	CU_ASSERT_EQUAL(to_finish(4), 0);
	finished = to_finish(3);
	CU_ASSERT_EQUAL(finished, 18);
}

/* The node that is told first may reach exportd, but not the stores. */
static void a_truncation_that_one_node_cannot_carry_out_is_told_to_another(void)
{
	uint32_t told_to = 0, nodes = 0;

	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), 0);
	CU_ASSERT_EQUAL(to_finish_by_anyone(), 0);
	for (uint64_t now_ms = 12000; now_ms <= 180000; now_ms += 12000) {
		fixture_time_ms(now_ms);
		fixture_all_up(&fixture);
		for (uint32_t node = 1; node <= 9; node++)
			if (to_finish(node) > 0)
				told_to |= 1u << node;
	}
	for (uint32_t node = 1; node <= 9; node++)
		nodes += told_to >> node & 1;
	CU_ASSERT(nodes > 1);
}

static void truncations_that_nobody_can_carry_out_hide_no_others(void)
{
	uint64_t pending[PENDING], now_ms = 1000;

	for (uint32_t i = 0; i < PENDING; i++) {
		char name[16];

		snprintf(name, sizeof(name), "pending-%u", i);
		CU_ASSERT_EQUAL(do_create(&fixture, ROOT, name, META_REGULAR, &pending[i]), 0);
		CU_ASSERT_EQUAL(do_set_size(&fixture, pending[i], 0, NULL), 0);
	}
	/* Twice: from the last ones it goes on with the first. */
	for (int time = 0; time < 2; time++) {
		uint32_t forgotten = 0;

		memset(times_told, 0, sizeof(times_told));
		for (int round = 0; round < 7; round++, now_ms += 10000) {
			fixture_time_ms(now_ms);
			fixture_all_up(&fixture);
			to_finish_by_anyone();
		}
		for (uint32_t i = 0; i < PENDING; i++)
			forgotten += times_told[pending[i]] == 0;
		CU_ASSERT_EQUAL(forgotten, 0);
	}
}

static void written_only_grows(void)
{
	struct meta_attributes attributes, before = attributes_of(&fixture, file_id);
	struct meta_written_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.set_time = 1,
		.modify_time = {.seconds = 123, .nanoseconds = 456},
	};
	struct meta_attributes_res result = {0};

	fixture_time_ms(7000);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 5000, 0, &attributes), 0);
	CU_ASSERT_EQUAL(attributes.size, 5000);
	CU_ASSERT(attributes.change > before.change);
	CU_ASSERT_EQUAL(attributes.modify_time.seconds, 1700000007);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 4000, 0, &attributes), 0);
	CU_ASSERT_EQUAL(attributes.size, 5000);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 0, 0, &attributes), 0);
	CU_ASSERT_EQUAL(attributes.size, 5000);
	file_written(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.attributes.modify_time.seconds, 123);
	CU_ASSERT_EQUAL(result.attributes.modify_time.nanoseconds, 456);
	CU_ASSERT_EQUAL(result.attributes.change_time.seconds, 1700000007);
	args.modify_time.nanoseconds = 1000000000;
	file_written(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, EINVAL);
	CU_ASSERT_EQUAL(do_written(&fixture, ROOT, 1, 0, NULL), EISDIR);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 1ull << 63, 0, NULL), EFBIG);
}

static void bytes_from_before_a_truncation_do_not_count(void)
{
	struct meta_setattr_res truncation;
	struct meta_written_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.size = 9000,
	};
	struct meta_attributes_res result = {0};

	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, &truncation), 0);
	args.write_epoch = truncation.write_epoch - 1;
	file_written(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, EAGAIN);
	CU_ASSERT_EQUAL(attributes_of(&fixture, file_id).size, 0);
	args.write_epoch = truncation.write_epoch;
	file_written(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.attributes.size, 9000);
}

static void layoutcommit_saves_a_transaction(void)
{
	struct meta_attributes attributes;
	uint64_t commits;

	/* Without a gateway's report before, it is a transaction. */
	commits = commits_of(&fixture);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 100, 1, NULL), 0);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 1);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 100, 1, NULL), 0);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 2);
	/* With one, it is none, once. */
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 200, 0, NULL), 0);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 3);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 200, 1, &attributes), 0);
	CU_ASSERT_EQUAL(attributes.size, 200);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 3);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 200, 1, NULL), 0);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 4);
	/*
	 * Somebody has seen the file since: he would not notice what was overwritten after the
	 * report, if `change` did not move.
	 */
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 250, 0, NULL), 0);
	CU_ASSERT_EQUAL(do_getattr(&fixture, file_id, &attributes), 0);
	uint64_t change = attributes.change;
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 250, 1, &attributes), 0);
	CU_ASSERT(attributes.change > change);
	commits = commits_of(&fixture) - 4;
	/* A larger size is always one. */
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 300, 0, NULL), 0);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, 301, 1, &attributes), 0);
	CU_ASSERT_EQUAL(attributes.size, 301);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 6);
}

/* However it was told: also by an open that creates what is not there, or by another change. */
static void what_others_were_told_changes_with_layoutcommit(void)
{
	struct meta_create_args create = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = ROOT,
		.name = (char *)"open",
		.type = META_REGULAR,
		.how = META_CREATE_UNCHECKED,
		.target = (char *)"",
	};
	struct meta_setattr_args mode = {.set = {.mask = META_SET_MODE, .mode = 0600}};
	struct meta_create_res created = {0};
	struct meta_setattr_res set = {0};
	struct meta_attributes attributes;
	uint64_t id = 0, told;

	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "open", META_REGULAR, &id), 0);
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 0, NULL), 0);
	namespace_create(fixture.exportd, &create, &created);
	CU_ASSERT(created.status == 0 && !created.created);
	told = created.attributes.change;
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 1, &attributes), 0);
	CU_ASSERT(attributes.change > told);

	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 0, NULL), 0);
	mode.file = (meta_file){.export_id = FIXTURE_EXPORT, .file_id = id};
	file_setattr(fixture.exportd, &mode, &set);
	CU_ASSERT_EQUAL(set.status, 0);
	told = set.attributes.change;
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 1, &attributes), 0);
	CU_ASSERT(attributes.change > told);

	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 0, NULL), 0);
	CU_ASSERT_EQUAL(do_link(&fixture, id, ROOT, "other"), 0);
	uint64_t commits = commits_of(&fixture);
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 1, NULL), 0);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits + 1);
}

static void segments_are_placed_on_demand(void)
{
	struct meta_placement_res placement;
	uint32_t nodes[META_SHARDS_MAX], again[META_SHARDS_MAX], i, j;
	uint64_t dir;

	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 3, 0, &placement, NULL), ENOENT);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 3, 1, &placement, nodes), 0);
	CU_ASSERT_EQUAL(placement.segment_count, 4);
	CU_ASSERT_EQUAL(placement.nodes.nodes_len, 6);
	for (i = 0; i < 6; i++)
		for (j = 0; j < i; j++)
			CU_ASSERT_NOT_EQUAL(nodes[i], nodes[j]);
	fixture_reopen(&fixture);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 3, 1, &placement, again), 0);
	CU_ASSERT_EQUAL(memcmp(nodes, again, 6 * sizeof(nodes[0])), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 1, 0, &placement, NULL), ENOENT);
	CU_ASSERT_EQUAL(placement.next_segment, 3);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 4, 0, &placement, NULL), ENOENT);
	CU_ASSERT_EQUAL(placement.next_segment, META_SEGMENTS_MAX);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 1, 1, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.segment_count, 4);
	CU_ASSERT_EQUAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, &dir), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, dir, 0, 1, NULL, NULL), EISDIR);
	CU_ASSERT_EQUAL(do_placement(&fixture, 999, 0, 1, NULL, NULL), ESTALE);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, META_SEGMENTS_MAX, 1, NULL, NULL), EFBIG);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, UINT32_MAX, 1, NULL, NULL), EFBIG);
	CU_ASSERT_EQUAL(
		do_placement(&fixture, file_id, META_SEGMENTS_MAX - 1, 1, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.segment_count, META_SEGMENTS_MAX);
	/* Its size goes to the end of that segment. */
	uint64_t most = fixture.exportd->exports[0].segment_bytes * META_SEGMENTS_MAX;
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, most + 1, NULL), EFBIG);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, most + 1, 0, NULL), EFBIG);
	CU_ASSERT_EQUAL(do_written(&fixture, file_id, most, 0, NULL), 0);
}

/* As a bit that flips in the record's key. */
static int flip_key(struct kv_txn *txn, void *context)
{
	struct record_key *key = context;
	struct kv_bytes value;
	uint8_t copy[512];
	int error = kv_get(txn, record_key_bytes(key), &value);

	if (error != 0)
		return error;
	memcpy(copy, value.data, value.bytes);
	size_t bytes = value.bytes;
	error = kv_remove(txn, record_key_bytes(key));
	key->bytes[key->length - 1] ^= 0x10;
	return error == 0 ? kv_put(txn, record_key_bytes(key), (struct kv_bytes){copy, bytes})
			  : error;
}

static void a_placement_that_is_lost_is_no_hole(void)
{
	static const uint32_t segments[] = {0, 3};
	struct meta_placement_res placement;
	uint32_t nodes[META_SHARDS_MAX], again[META_SHARDS_MAX];

	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 3, 1, &placement, NULL), 0);
	for (size_t i = 0; i < 2; i++) {
		uint32_t segment = segments[i];
		struct record_key key = record_key_placement(FIXTURE_EXPORT, file_id, segment);

		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, segment, 0, &placement, nodes), 0);
		CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, flip_key, &key), 0);
		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, segment, 0, &placement, NULL), EIO);
		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, segment, 1, &placement, NULL), EIO);
		/* Mended again, so that the end of the test finds no faults. */
		CU_ASSERT_EQUAL(commit_execute(fixture.exportd->commit, flip_key, &key), 0);
		CU_ASSERT_EQUAL(do_placement(&fixture, file_id, segment, 1, &placement, again), 0);
		CU_ASSERT_EQUAL(memcmp(nodes, again, 6 * sizeof(nodes[0])), 0);
	}
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 1, 0, &placement, NULL), ENOENT);
}

/* Everybody but one node goes on; the others' heartbeats reach to `to_ms`. */
static void all_but(uint32_t silent, uint64_t from_ms, uint64_t to_ms)
{
	uint64_t now_ms;
	uint32_t node;

	for (now_ms = from_ms; now_ms <= to_ms; now_ms += 500) {
		fixture_time_ms(now_ms);
		for (node = 1; node <= fixture.config.node_count; node++)
			if (node != silent)
				fixture_heartbeat(&fixture, node, 1, 1ull << 39);
		CU_ASSERT_EQUAL(map_tick(fixture.exportd->map), 0);
	}
}

static void write_gateway_moves_when_it_is_down(void)
{
	struct meta_placement_res placement;
	uint32_t gateways[4], epoch, count, first, second;
	uint64_t commits;

	commits = commits_of(&fixture);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_EQUAL(count, 1);
	CU_ASSERT_EQUAL(epoch, 1);
	first = gateways[0];
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.write_gateway, first);
	/* Every client is told the same. */
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 1, 2, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_EQUAL(gateways[0], first);
	CU_ASSERT_EQUAL(commits_of(&fixture), commits);

	all_but(first, 1500, 6000);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	second = gateways[0];
	CU_ASSERT_NOT_EQUAL(second, first);
	CU_ASSERT_EQUAL(epoch, 2);
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.layout_epoch, 2);
	CU_ASSERT_EQUAL(placement.write_epoch, 2);
	CU_ASSERT_EQUAL(placement.write_gateway, second);
	/* The first one comes back: nothing moves. */
	fixture_heartbeat(&fixture, first, 1, 1ull << 39);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_EQUAL(gateways[0], second);
	CU_ASSERT_EQUAL(epoch, 2);
	/* A client that cannot use it. */
	CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, second, &epoch, gateways,
				&count),
		0);
	CU_ASSERT_NOT_EQUAL(gateways[0], second);
	CU_ASSERT_EQUAL(epoch, 3);
}

static void layouts_are_taken_back(void)
{
	struct meta_attributes before, after;
	struct meta_placement_res placement;
	uint32_t gateways[4], epoch, count, gateway;

	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	gateway = gateways[0];
	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, placement.write_epoch), 0);
	for (uint32_t again = 1; again <= 2; again++) {
		CU_ASSERT_EQUAL(do_getattr(&fixture, file_id, &before), 0);
		CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_REVOKE, 0, 1, 0, &epoch,
					gateways, &count),
			0);
		CU_ASSERT_EQUAL(epoch, 1 + again);
		CU_ASSERT_EQUAL(count, 1);
		CU_ASSERT_EQUAL(gateways[0], gateway);
		CU_ASSERT_EQUAL(
			check_epoch(&fixture, file_id, placement.write_epoch + again - 1), EAGAIN);
		CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, placement.write_epoch + again), 0);
		/* Nobody else tells what the client has written. */
		CU_ASSERT_EQUAL(do_getattr(&fixture, file_id, &after), 0);
		CU_ASSERT(after.change > before.change);
	}
	/* Others get one at the same gateway. */
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 2, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_EQUAL(epoch, 3);
	CU_ASSERT_EQUAL(gateways[0], gateway);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, 4711, META_LAYOUT_REVOKE, 0, 1, 0, NULL, gateways, &count),
		ESTALE);
}

static void attach_as(uint64_t server)
{
	struct meta_attach_args args = {.name = (char *)"data", .server = server};
	struct meta_attach_res result = {0};

	namespace_attach(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.export_id, FIXTURE_EXPORT);
}

static uint64_t change_of(uint64_t id)
{
	struct meta_attributes attributes = {0};

	CU_ASSERT_EQUAL(do_getattr(&fixture, id, &attributes), 0);
	return attributes.change;
}

static uint32_t layout_epoch_of(uint64_t id)
{
	uint32_t epoch = 0, gateways[4], count;

	CU_ASSERT_EQUAL(
		do_layout(&fixture, id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	return epoch;
}

/*
 * A metadata server that restarts has forgotten which layouts it gave: they are over when it
 * attaches again, and nobody goes on with what he has of these files in his cache.
 */
static void layouts_of_a_server_that_has_restarted_are_over(void)
{
	struct meta_placement_res placement;
	uint64_t directory_id = 0, unborn = 0, change, others;
	uint32_t epoch, layout_epoch, last;

	/* Nobody gives out layouts: made, and then nothing happens to it. */
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "before", META_REGULAR, &unborn), 0);
	attach_as(0);
	attach_as(11);
	CU_ASSERT_EQUAL(change_of(unborn), 1);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "made", META_REGULAR, &file_id), 0);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "dir", META_DIRECTORY, &directory_id), 0);
	others = change_of(directory_id);
	for (uint64_t server = 11; server <= 14; server++) {
		layout_epoch = layout_epoch_of(file_id);
		epoch = claim(1);
		change = change_of(file_id);
		CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, epoch), 0);
		if (server == 12)
			fixture_reopen(&fixture); /* exportd itself may restart */
		fixture_all_up(&fixture);
		attach_as(server);
		attach_as(0);
		CU_ASSERT_EQUAL(change_of(file_id), change);
		CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, epoch), 0);
		attach_as(server + 1);
		if (server == 13)
			fixture_reopen(&fixture);
		fixture_all_up(&fixture);
		for (int again = 0; again < 2; again++) {
			CU_ASSERT_EQUAL(change_of(file_id), change + 1);
			CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, epoch), EAGAIN);
			CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, epoch + 1), 0);
			CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, NULL), 0);
			CU_ASSERT_EQUAL(placement.write_epoch, epoch + 1);
			CU_ASSERT_EQUAL(placement.layout_epoch, layout_epoch + 1);
		}
		/* A truncation from there on is one of the new epoch. */
		if (server == 12) {
			struct meta_setattr_res truncation = {0};

			CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, &truncation), 0);
			CU_ASSERT_EQUAL(truncation.write_epoch, epoch + 2);
			CU_ASSERT_EQUAL(do_truncated(&fixture, file_id, epoch + 2), 0);
			CU_ASSERT_EQUAL(change_of(file_id), change + 2);
		}
		CU_ASSERT_EQUAL(change_of(directory_id), others);
		CU_ASSERT_EQUAL(change_of(unborn), 1);
	}
	/* What nobody was given since the last time stays, whoever claims it. */
	claim(1);
	change = change_of(file_id);
	attach_as(16);
	attach_as(17);
	CU_ASSERT_EQUAL(change_of(file_id), change);
	/* A file that has used up its epochs: nobody writes to it any more. */
	layout_epoch_of(file_id);
	last = INODE_WRITE_EPOCH_MAX;
	fixture_set_write_epoch(&fixture, file_id, last);
	change = change_of(file_id);
	attach_as(18);
	CU_ASSERT_EQUAL(change_of(file_id), change + 1);
	CU_ASSERT_EQUAL(check_epoch(&fixture, file_id, last), 0);
}

/*
 * Layouts that nobody has written under yet, or whose gateway needed no claim, since it has written
 * to the file before, end like others.
 */
static void layouts_end_though_nobody_has_claimed_the_file(void)
{
	struct meta_placement_res placement;
	uint32_t layout_epoch, gateways[4], count, ignored;
	uint64_t id = 0, change, operations, before, commits;

	attach_as(11);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "given", META_REGULAR, &id), 0);
	for (uint64_t server = 12; server <= 14; server++) {
		attach_as(server);
		layout_epoch = layout_epoch_of(id);
		CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
		CU_ASSERT_EQUAL(placement.layout_epoch, layout_epoch);
		CU_ASSERT_EQUAL(check_epoch(&fixture, id, placement.write_epoch), 0);
		/* It is noted once. */
		commit_counts(fixture.exportd->commit, &before, &commits);
		CU_ASSERT_EQUAL(layout_epoch_of(id), layout_epoch);
		commit_counts(fixture.exportd->commit, &operations, &commits);
		CU_ASSERT_EQUAL(operations, before);
		change = change_of(id);
		attach_as(server + 1);
		CU_ASSERT_EQUAL(change_of(id), change + 1);
		CU_ASSERT_EQUAL(check_epoch(&fixture, id, placement.write_epoch), EAGAIN);
		CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
		CU_ASSERT_EQUAL(placement.layout_epoch, layout_epoch + 1);
	}
	/* Who only reads changes nothing. */
	change = change_of(id);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, id, META_LAYOUT_READ, 0, 1, 0, &ignored, gateways, &count), 0);
	attach_as(16);
	CU_ASSERT_EQUAL(change_of(id), change);
}

/* An export goes from one metadata server to another and back: what has been over stays over. */
static void a_server_may_come_back_after_another_one(void)
{
	struct meta_placement_res placement;
	uint32_t layout_epoch;
	uint64_t id = 0, change;

	attach_as(11);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "moved", META_REGULAR, &id), 0);
	change = change_of(id);
	layout_epoch = layout_epoch_of(id);
	attach_as(12);
	/* Gateways that hear of that write epoch go by no older one again. */
	CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.layout_epoch, layout_epoch + 1);
	CU_ASSERT_EQUAL(placement.write_epoch, 2);
	attach_as(11);
	CU_ASSERT(change_of(id) > change);
	CU_ASSERT(layout_epoch_of(id) > layout_epoch);
	CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
	CU_ASSERT(placement.write_epoch >= 2);
}

/* A truncation that waits while the server restarts is carried out under the epoch of after. */
static void truncations_go_on_when_the_server_restarts(void)
{
	struct meta_setattr_res truncation = {0};
	struct meta_placement_res placement;
	uint64_t id = 0;

	attach_as(11);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "cut", META_REGULAR, &id), 0);
	CU_ASSERT_EQUAL(do_set_size(&fixture, id, 0, &truncation), 0);
	attach_as(12);
	CU_ASSERT_EQUAL(do_truncated(&fixture, id, truncation.write_epoch), EAGAIN);
	CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 1);
	CU_ASSERT_EQUAL(placement.write_epoch, truncation.write_epoch + 1);
	CU_ASSERT_EQUAL(do_truncated(&fixture, id, placement.write_epoch), 0);
	CU_ASSERT_EQUAL(do_placement(&fixture, id, 0, 0, &placement, NULL), 0);
	CU_ASSERT_EQUAL(placement.truncate, 0);
	CU_ASSERT_EQUAL(placement.write_epoch, truncation.write_epoch + 1);
}

/* The record of who gives out layouts is damaged: nothing is lost but the layouts. */
static void a_damaged_record_of_the_server_ends_its_layouts(void)
{
	uint64_t id = 0, change;

	attach_as(11);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "given out", META_REGULAR, &id), 0);
	change = change_of(id);
	fixture_flip(&fixture, record_key_server(FIXTURE_EXPORT));
	CU_ASSERT_EQUAL(change_of(id), change + 1);
	attach_as(12);
	CU_ASSERT_EQUAL(change_of(id), change + 1);
	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "next", META_REGULAR, &id), 0);
	attach_as(13);
	CU_ASSERT_EQUAL(change_of(id), 2);
}

static void gateways_are_of_the_placement_if_possible(void)
{
	uint32_t nodes[META_SHARDS_MAX], gateways[4], count, i, node;
	struct meta_placement_res placement;
	uint64_t now_ms;

	CU_ASSERT_EQUAL(do_placement(&fixture, file_id, 0, 0, &placement, nodes), 0);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, NULL, gateways, &count), 0);
	for (i = 0; i < 6 && nodes[i] != gateways[0]; i++)
		;
	CU_ASSERT(i < 6);
	/* All nodes of the placement fall silent: another one serves. */
	for (now_ms = 1500; now_ms <= 6000; now_ms += 500) {
		fixture_time_ms(now_ms);
		for (node = 1; node <= 9; node++) {
			for (i = 0; i < 6 && nodes[i] != node; i++)
				;
			if (i == 6)
				fixture_heartbeat(&fixture, node, 1, 1ull << 39);
		}
		map_tick(fixture.exportd->map);
	}
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, NULL, gateways, &count), 0);
	for (i = 0; i < 6 && nodes[i] != gateways[0]; i++)
		;
	CU_ASSERT_EQUAL(i, 6);
	/* And if all are silent, none. */
	for (; now_ms <= 11000; now_ms += 500) {
		fixture_time_ms(now_ms);
		map_tick(fixture.exportd->map);
	}
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, NULL, gateways, &count),
		EAGAIN);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_READ, 0, 1, 0, NULL, gateways, &count),
		EAGAIN);
}

static void creation_tells_the_layout(void)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = 1,
		.name = "made",
		.type = META_REGULAR,
		.how = META_CREATE_UNCHECKED,
		.set = {.mask = META_SET_MODE, .mode = 0600},
		.target = "",
	};
	struct meta_create_res result = {0};
	uint32_t gateways[4], count;
	int64_t now_ms;

	namespace_create(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 1);
	CU_ASSERT_EQUAL(do_layout(&fixture, result.attributes.file_id, META_LAYOUT_RW, 0, 1, 0,
				NULL, gateways, &count),
		0);
	CU_ASSERT_EQUAL(result.layout_epoch, 1);
	CU_ASSERT_EQUAL(result.write_gateway, gateways[0]);
	/* The file may have moved since. */
	result = (struct meta_create_res){0};
	namespace_create(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 0);
	CU_ASSERT_EQUAL(result.layout_epoch, 0);
	/* No gateway: META_LAYOUT has to find one. */
	for (now_ms = 5000; now_ms <= 20000; now_ms += 500) {
		fixture_time_ms(now_ms);
		map_tick(fixture.exportd->map);
	}
	args.name = "made later";
	result = (struct meta_create_res){0};
	namespace_create(fixture.exportd, &args, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.created, 1);
	CU_ASSERT_EQUAL(result.layout_epoch, 0);
}

static void readers_are_spread(void)
{
	uint32_t gateways[4], count, node, used[10] = {0}, writer, i;
	uint64_t client;

	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, NULL, gateways, &count), 0);
	writer = gateways[0];
	for (client = 1; client <= 600; client++) {
		CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_READ, 0, client, 0, NULL,
					gateways, &count),
			0);
		CU_ASSERT_EQUAL(count, 3);
		CU_ASSERT(gateways[0] != gateways[1] && gateways[1] != gateways[2] &&
			  gateways[0] != gateways[2]);
		used[gateways[0]]++;
	}
	/* Six nodes of the placement, 100 clients each but for chance. */
	for (node = 1, i = 0; node <= 9; node++) {
		i += used[node] > 0;
		CU_ASSERT(used[node] == 0 || (used[node] > 60 && used[node] < 140));
	}
	CU_ASSERT_EQUAL(i, 6);
	/* With writers, their gateway comes first, and once. */
	for (client = 1; client <= 20; client++) {
		CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_READ, 1, client, 0, NULL,
					gateways, &count),
			0);
		CU_ASSERT_EQUAL(gateways[0], writer);
		CU_ASSERT_EQUAL(count, 3);
		CU_ASSERT(gateways[1] != writer && gateways[2] != writer);
	}
	CU_ASSERT_EQUAL(do_layout(&fixture, file_id, META_LAYOUT_READ, 1, client, writer, NULL,
				gateways, &count),
		0);
	CU_ASSERT(gateways[0] != writer && gateways[1] != writer && gateways[2] != writer);
	CU_ASSERT_EQUAL(do_layout(&fixture, file_id, 4, 0, 1, 0, NULL, gateways, &count), EINVAL);
}

static void restart_keeps_write_gateways(void)
{
	uint32_t gateways[4], count, first, epoch;
	uint64_t now_ms;

	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, NULL, gateways, &count), 0);
	first = gateways[0];
	fixture_time_ms(100000);
	fixture_reopen(&fixture);
	/* Others are heard first: the recorded one is waited for. */
	fixture_heartbeat(&fixture, first % 9 + 1, 1, 1ull << 39);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count),
		EAGAIN);
	fixture_heartbeat(&fixture, first, 1, 1ull << 39);
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_EQUAL(gateways[0], first);
	CU_ASSERT_EQUAL(epoch, 1);
	/* Until the first silence period is over. */
	fixture_reopen(&fixture);
	for (now_ms = 100500; now_ms <= 103500; now_ms += 500) {
		fixture_time_ms(now_ms);
		fixture_heartbeat(&fixture, first % 9 + 1, 1, 1ull << 39);
		map_tick(fixture.exportd->map);
	}
	CU_ASSERT_EQUAL(
		do_layout(&fixture, file_id, META_LAYOUT_RW, 0, 1, 0, &epoch, gateways, &count), 0);
	CU_ASSERT_NOT_EQUAL(gateways[0], first);
	CU_ASSERT_EQUAL(epoch, 2);
}

/* What a writer is told that asks for an epoch of its own. */
static int claim_status(uint64_t writer)
{
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id}, .writer = writer};
	struct meta_placement_res result = {0};

	file_placement(fixture.exportd, &args, &result);
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
	return (int)result.status;
}

static void write_epochs_end(void)
{
	fixture_set_write_epoch(&fixture, file_id, INODE_WRITE_EPOCH_MAX - 2);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), 0);
	CU_ASSERT_EQUAL(claim_status(7), 0);
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 0, NULL), EOVERFLOW);
	CU_ASSERT_EQUAL(claim_status(8), EOVERFLOW);
	CU_ASSERT_EQUAL(claim_status(7), 0); /* it is still this one's */
	CU_ASSERT_EQUAL(do_set_size(&fixture, file_id, 1, NULL), 0);
}

/* The attributes are told when a report is durable and its caller has not come so far yet. */
static const struct kv_operations *sound;
static uint64_t told_id, told_change;

static int commit_and_tell(struct kv_txn *txn)
{
	int result = sound->commit(txn);
	struct meta_attributes attributes;

	if (told_id != 0) {
		uint64_t id = told_id;

		told_id = 0;
		CU_ASSERT_EQUAL(do_getattr(&fixture, id, &attributes), 0);
		told_change = attributes.change;
	}
	return result;
}

static void what_was_told_meanwhile_changes_with_layoutcommit(void)
{
	struct kv_operations telling;
	struct meta_attributes attributes;
	uint64_t id = 0;

	CU_ASSERT_EQUAL_FATAL(do_create(&fixture, ROOT, "told", META_REGULAR, &id), 0);
	sound = fixture.exportd->kv->operations;
	telling = *sound;
	telling.commit = commit_and_tell;
	told_id = id;
	told_change = 0;
	fixture.exportd->kv->operations = &telling;
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 0, &attributes), 0);
	fixture.exportd->kv->operations = sound;
	CU_ASSERT_EQUAL(told_change, attributes.change);
	/* Bytes may have been overwritten since, of which only this tells. */
	CU_ASSERT_EQUAL(do_written(&fixture, id, 1000, 1, &attributes), 0);
	CU_ASSERT(attributes.change > told_change);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"setattr sets each", setattr_sets_each},
		{"setattr refuses", setattr_refuses},
		{"growing is size only", growing_is_size_only},
		{"each writer has its epoch", each_writer_has_its_epoch},
		{"stores tell of newer write epochs", stores_tell_of_newer_write_epochs},
		{"a free epoch is claimed without a new one",
			a_free_epoch_is_claimed_without_a_new_one},
		{"a truncation is told until carried out", truncation_is_told_until_carried_out},
		{"a truncation whose beginner died is finished by a node",
			a_truncation_whose_beginner_died_is_finished_by_a_node},
		{"a truncation that one node cannot carry out is told to another",
			a_truncation_that_one_node_cannot_carry_out_is_told_to_another},
		{"truncations that nobody can carry out hide no others",
			truncations_that_nobody_can_carry_out_hide_no_others},
		{"written only grows", written_only_grows},
		{"bytes from before a truncation do not count",
			bytes_from_before_a_truncation_do_not_count},
		{"layoutcommit saves a transaction", layoutcommit_saves_a_transaction},
		{"what others were told changes with layoutcommit",
			what_others_were_told_changes_with_layoutcommit},
		{"segments are placed on demand", segments_are_placed_on_demand},
		{"a placement that is lost is no hole", a_placement_that_is_lost_is_no_hole},
		{"the write gateway moves when it is down", write_gateway_moves_when_it_is_down},
		{"layouts are taken back", layouts_are_taken_back},
		{"layouts of a server that has restarted are over",
			layouts_of_a_server_that_has_restarted_are_over},
		{"layouts end though nobody has claimed the file",
			layouts_end_though_nobody_has_claimed_the_file},
		{"a server may come back after another one",
			a_server_may_come_back_after_another_one},
		{"truncations go on when the server restarts",
			truncations_go_on_when_the_server_restarts},
		{"a damaged record of the server ends its layouts",
			a_damaged_record_of_the_server_ends_its_layouts},
		{"gateways are of the placement if possible",
			gateways_are_of_the_placement_if_possible},
		{"creation tells the layout", creation_tells_the_layout},
		{"readers are spread", readers_are_spread},
		{"a restart keeps write gateways", restart_keeps_write_gateways},
		{"write epochs end", write_epochs_end},
		{"what was told meanwhile changes with LAYOUTCOMMIT",
			what_was_told_meanwhile_changes_with_layoutcommit},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd file", NULL, NULL, open_fixture, close_fixture, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
