/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The metadata protocol over a real connection: every procedure answers, also when it fails; many
 * clients at once; a caller without the cluster key gets nothing.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/record.h"
#include "exportd/service.h"
#include "exportd_fixture.h"
#include "rpc/rpc.h"

#define ADDRESS "127.0.0.1"
#define THREADS 8
#define FILES 40
#define TIMEOUT_MS 20000

static struct fixture fixture;
static struct rpc_server *server;
static uint16_t port;
static const struct rpc_key key = {.bytes = {1, 2, 3}};

static void open_service(void)
{
	struct rpc_program program;

	fixture_open(&fixture, 6);
	fixture_all_up(&fixture);
	service_program(fixture.exportd, &program);
	CU_ASSERT_EQUAL_FATAL(rpc_server_start(&server, ADDRESS, 0, &program, &key, THREADS), 0);
	port = rpc_server_port(server);
}

static void close_service(void)
{
	rpc_server_stop(server);
	CU_ASSERT_EQUAL(fixture_close(&fixture), 0);
}

static struct rpc_client *make_client(const struct rpc_key *client_key)
{
	struct rpc_client *client =
		rpc_client_create(ADDRESS, port, META_PROGRAM, META_V1, client_key);

	CU_ASSERT_PTR_NOT_NULL_FATAL(client);
	return client;
}

/*
 * Each procedure with arguments that name nothing. The answer must arrive; its first field is the
 * status.
 */
static void failing_calls_are_answered(void)
{
	struct rpc_client *client = make_client(&key);
	struct rpc_program program;
	uint32_t procedure, called = 0;

	service_program(fixture.exportd, &program);
	for (procedure = 3; procedure < program.procedure_count; procedure++) {
		const struct rpc_procedure *entry = &program.procedures[procedure];
		union {
			uint32_t status;
			uint8_t bytes[1024];
		} result;
		char empty[] = "";
		union {
			struct meta_lookup_args lookup;
			struct meta_create_args create;
			struct meta_link_args link;
			struct meta_unlink_args unlink;
			struct meta_rename_args rename;
			struct meta_attach_args attach;
			uint8_t bytes[1024];
		} args;

		CU_ASSERT_PTR_NOT_NULL_FATAL(entry->handler);
		CU_ASSERT_FATAL(entry->result_bytes <= sizeof(result));
		CU_ASSERT_FATAL(entry->args_bytes <= sizeof(args));
		memset(&args, 0, sizeof(args));
		memset(&result, 0, sizeof(result));
		if (procedure == META_ATTACH)
			args.attach.name = empty;
		if (procedure == META_LOOKUP)
			args.lookup.name = empty;
		if (procedure == META_CREATE)
			args.create.name = args.create.target = empty;
		if (procedure == META_LINK)
			args.link.name = empty;
		if (procedure == META_UNLINK)
			args.unlink.name = empty;
		if (procedure == META_RENAME)
			args.rename.from_name = args.rename.to_name = empty;
		CU_ASSERT_EQUAL(rpc_call(client, procedure, entry->args_xdr, &args,
					entry->result_xdr, &result, TIMEOUT_MS),
			0);
		if (procedure == META_MAP || procedure == META_FREE_LIST ||
			procedure == META_FREED || procedure == META_REBUILD_LIST ||
			procedure == META_REBUILT || procedure == META_ORPHANS ||
			procedure == META_CLUSTER || procedure == META_TRUNCATIONS) {
			CU_ASSERT_EQUAL(result.status, 0);
		} else if (procedure == META_ATTACH || procedure == META_HEARTBEAT) {
			CU_ASSERT_EQUAL(result.status, ENOENT);
		} else {
			CU_ASSERT_EQUAL(result.status, ESTALE);
		}
		rpc_free(entry->result_xdr, &result);
		called++;
	}
	CU_ASSERT_EQUAL(called, 25);
	rpc_client_destroy(client);
}

static int create(struct rpc_client *client, const char *name, uint32_t type, const char *target)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = RECORD_ROOT_ID,
		.name = (char *)name,
		.type = type,
		.how = META_CREATE_GUARDED,
		.target = (char *)target,
	};
	struct meta_create_res result = {0};
	int error = rpc_call(client, META_CREATE, RPC_XDR(xdr_meta_create_args), &args,
		RPC_XDR(xdr_meta_create_res), &result, TIMEOUT_MS);

	return error != 0 ? error : (int)result.status;
}

static void *create_many(void *context)
{
	struct rpc_client *client = make_client(&key);
	uintptr_t wrong = 0;
	char name[32];
	uint32_t i;

	for (i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "%u-%u", (uint32_t)(uintptr_t)context, i);
		wrong += create(client, name, META_REGULAR, "") != 0;
		/* Everybody wants this one, one gets it. */
		snprintf(name, sizeof(name), "same-%u", i);
		wrong += (uintptr_t)(create(client, name, META_REGULAR, "") == 0) << 16;
	}
	rpc_client_destroy(client);
	return (void *)wrong;
}

static void many_clients_at_once(void)
{
	struct rpc_client *client = make_client(&key);
	struct meta_readdir_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = RECORD_ROOT_ID,
		.count = META_READDIR_MAX,
	};
	struct meta_readdir_res result = {0};
	pthread_t threads[THREADS];
	uint64_t operations, commits;
	uintptr_t sum = 0, i;
	void *wrong;

	for (i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, create_many, (void *)i), 0);
	for (i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &wrong);
		sum += (uintptr_t)wrong;
	}
	CU_ASSERT_EQUAL(sum & 0xffff, 0);
	CU_ASSERT_EQUAL(sum >> 16, FILES);
	CU_ASSERT_EQUAL(rpc_call(client, META_READDIR, RPC_XDR(xdr_meta_readdir_args), &args,
				RPC_XDR(xdr_meta_readdir_res), &result, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.eof, 1);
	CU_ASSERT_EQUAL(result.entries.entries_len, (THREADS + 1) * FILES);
	rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	commit_counts(fixture.exportd->commit, &operations, &commits);
	printf("%llu operations in %llu commits ", (unsigned long long)operations,
		(unsigned long long)commits);
	rpc_client_destroy(client);
}

static void long_strings_pass(void)
{
	struct rpc_client *client = make_client(&key);
	char target[META_SYMLINK_MAX + 1], name[META_NAME_MAX + 1];
	struct meta_lookup_args lookup = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = RECORD_ROOT_ID,
		.name = name,
	};
	struct meta_attributes_res found = {0};
	struct meta_readlink_res result = {0};
	struct meta_file file = {.export_id = FIXTURE_EXPORT};

	memset(target, 't', META_SYMLINK_MAX);
	target[META_SYMLINK_MAX] = '\0';
	memset(name, 'n', META_NAME_MAX);
	name[META_NAME_MAX] = '\0';
	CU_ASSERT_EQUAL(create(client, name, META_SYMLINK, target), 0);
	CU_ASSERT_EQUAL(rpc_call(client, META_LOOKUP, RPC_XDR(xdr_meta_lookup_args), &lookup,
				RPC_XDR(xdr_meta_attributes_res), &found, TIMEOUT_MS),
		0);
	file.file_id = found.attributes.file_id;
	CU_ASSERT_EQUAL(rpc_call(client, META_READLINK, RPC_XDR(xdr_meta_file), &file,
				RPC_XDR(xdr_meta_readlink_res), &result, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_STRING_EQUAL(result.target, target);
	rpc_free(RPC_XDR(xdr_meta_readlink_res), &result);
	rpc_client_destroy(client);
}

static void a_stranger_gets_nothing(void)
{
	const struct rpc_key wrong = {.bytes = {9}};
	struct rpc_client *client = make_client(&wrong);

	CU_ASSERT_EQUAL(create(client, "stranger", META_REGULAR, ""), -EACCES);
	CU_ASSERT_EQUAL(do_lookup(&fixture, RECORD_ROOT_ID, "stranger", NULL), ENOENT);
	rpc_client_destroy(client);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"failing calls are answered", failing_calls_are_answered},
		{"many clients at once", many_clients_at_once},
		{"long strings pass", long_strings_pass},
		{"a stranger gets nothing", a_stranger_gets_nothing},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd service", NULL, NULL, open_service, close_service, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
