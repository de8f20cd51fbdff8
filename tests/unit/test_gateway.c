/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* What the gateway answers NFSv3 clients, on a cluster in this process. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "rpc/nfs3.h"
#include "storaged/gateway.h"
#include "stripe_cluster.h"

#define PROCEDURE_READ 6
#define PROCEDURE_WRITE 7

static struct gateway gateway;

static void handle_of(uint32_t layout_epoch, uint64_t id, enum gateway_iomode iomode,
	uint8_t bytes[GATEWAY_HANDLE_BYTES])
{
	const struct gateway_handle handle = {
		.export_id = EXPORT, .file_id = id, .layout_epoch = layout_epoch, .iomode = iomode};

	gateway_handle_encode(&handle, gateway.handle_key, bytes);
}

/* Calls READ with a layout of that epoch. The caller frees the result through its XDR. */
static void read_under(
	uint32_t layout_epoch, uint64_t id, uint64_t offset, uint32_t count, nfs3_read_res *result)
{
	const struct rpc_caller caller = {0};
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	struct rpc_program program;

	handle_of(layout_epoch, id, GATEWAY_READ, bytes);
	nfs3_read_args args = {
		.file.data = {.data_len = sizeof(bytes), .data_val = (char *)bytes},
		.offset = offset,
		.count = count,
	};
	memset(result, 0, sizeof(*result));
	gateway_program(&gateway, &program);
	program.procedures[PROCEDURE_READ].handler(program.context, &caller, &args, result);
}

/* True if READ gives these bytes, and no more because the file ends there. */
static bool reads_to_the_end(
	uint32_t layout_epoch, uint64_t id, uint64_t offset, const uint8_t *model, uint64_t size)
{
	nfs3_read_res result;

	read_under(layout_epoch, id, offset, 16384, &result);
	const nfs3_read_ok *ok = &result.nfs3_read_res_u.ok;
	bool same = result.status == NFS3_OK && ok->eof && ok->count == size - offset &&
		    ok->data.data_len == ok->count &&
		    !memcmp(ok->data.data_val, model + offset, ok->count);
	rpc_free(RPC_XDR(xdr_nfs3_read_res), &result);
	return same;
}

/* Too few nodes are up for writes, enough for reads. */
static void a_file_can_be_read_to_its_end_while_a_truncation_waits(void)
{
	struct stripe_file *file;
	uint8_t bytes[50000];

	random_seed(1);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	cluster.min_shards = 5;
	stripe_destroy(cluster.stripe);
	engine_start();
	gateway = (struct gateway){.stripe = cluster.stripe, .node_id = 1};
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, 9, &file), 0);
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL(stripe_write(file, 0, bytes, sizeof(bytes), true), 0);
	node_stop(0);
	node_stop(1);
	begin_truncation(9, 40000);
	CU_ASSERT_EQUAL(stripe_file_refresh(file), -EIO);
	CU_ASSERT(reads_to_the_end(1, 9, 32768, bytes, 40000));
	/* The write gateway has moved, since the client reported the one that is down. */
	cluster.files[9].layouts++;
	CU_ASSERT(reads_to_the_end(2, 9, 32768, bytes, 40000));
	node_start(0);
	node_start(1);
	stripe_file_put(file);
	cluster_stop();
}

/* Calls WRITE, unstable, with a layout of that epoch. Returns the NFSv3 status. */
static uint32_t write_under(uint32_t layout_epoch, uint64_t id, uint8_t *data, uint32_t count)
{
	const struct rpc_caller caller = {0};
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	struct rpc_program program;
	nfs3_write_res result = {0};

	handle_of(layout_epoch, id, GATEWAY_RW, bytes);
	nfs3_write_args args = {
		.file.data = {.data_len = sizeof(bytes), .data_val = (char *)bytes},
		.count = count,
		.stable = NFS3_UNSTABLE,
		.data = {.data_len = count, .data_val = (char *)data},
	};
	gateway_program(&gateway, &program);
	program.procedures[PROCEDURE_WRITE].handler(program.context, &caller, &args, &result);
	return result.status;
}

/* Whoever took it back told exportd only: neither this gateway nor a store has heard of it. */
static void nothing_is_written_under_a_layout_that_may_be_over(void)
{
	struct stripe_file *file;
	uint8_t bytes[16384];

	random_seed(2);
	cluster_start(MOJETTE_NON_SYSTEMATIC, 4, 2, 4096);
	gateway = (struct gateway){.stripe = cluster.stripe, .node_id = 1};
	fill(bytes, sizeof(bytes));
	CU_ASSERT_EQUAL_FATAL(stripe_file_get(cluster.stripe, EXPORT, 9, &file), 0);
	CU_ASSERT_EQUAL(write_under(1, 9, bytes, sizeof(bytes)), NFS3_OK);
	stripe_doubt_layouts(cluster.stripe);
	CU_ASSERT(stripe_file_layout_doubted(file));
	CU_ASSERT_EQUAL(write_under(1, 9, bytes, sizeof(bytes)), NFS3_OK);
	CU_ASSERT(!stripe_file_layout_doubted(file));
	cluster.files[9].layouts++;
	stripe_doubt_layouts(cluster.stripe);
	CU_ASSERT_EQUAL(write_under(1, 9, bytes, sizeof(bytes)), NFS3ERR_STALE);
	gateway.node_id = 2; /* whose layout it is */
	CU_ASSERT_EQUAL(write_under(2, 9, bytes, sizeof(bytes)), NFS3_OK);
	stripe_file_put(file);
	cluster_stop();
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"a file can be read to its end while a truncation waits",
			a_file_can_be_read_to_its_end_while_a_truncation_waits},
		{"nothing is written under a layout that may be over",
			nothing_is_written_under_a_layout_that_may_be_over},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"gateway", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	signal(SIGPIPE, SIG_IGN);
	rozo_log_set_level(getenv("ROZO_LOG") ? ROZO_LOG_DEBUG : ROZO_LOG_ERROR);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
