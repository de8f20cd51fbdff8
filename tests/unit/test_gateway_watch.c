/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* What NFS clients see of a gateway whose own store hangs. The store is made up. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "rpc/log.h"
#include "rpc/nfs3.h"
#include "storaged/clock.h"
#include "storaged/gateway_watch.h"
#include "storaged/store.h"

#define PATIENCE_MS 400
#define CALL 1
#define CALL_AND_STORE 2
#define THREADS 2

static atomic_bool disk_hangs;
static atomic_uint under_way, executed;

void store_local_call(void *store, uint32_t procedure, const void *args, void *result)
{
	(void)store;
	(void)procedure;
	(void)args;
	(void)result;
	atomic_fetch_add(&under_way, 1);
	while (atomic_load(&disk_hangs))
		usleep(1000);
	atomic_fetch_sub(&under_way, 1);
	atomic_fetch_add(&executed, 1);
}

static void handle_call(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	(void)context;
	(void)caller;
	(void)args;
	(void)result;
}

static void handle_call_and_store(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	(void)caller;
	gateway_watch_call(context, 0, args, result);
}

static const struct rpc_procedure procedures[] = {
	[CALL] = {.name = "CALL", .handler = handle_call},
	[CALL_AND_STORE] = {.name = "CALL_AND_STORE", .handler = handle_call_and_store},
};

static struct gateway_watch watch;
static struct rpc_server *server;

static bool xdr_nothing(XDR *xdrs, void *object)
{
	(void)xdrs;
	(void)object;
	return true;
}

/* As an NFS client does, which waits for a minute. */
static int call_of(struct rpc_client *client, uint32_t procedure)
{
	return rpc_call(client, procedure, xdr_nothing, NULL, xdr_nothing, NULL, 60000);
}

static void *call_and_store(void *client)
{
	return (void *)(intptr_t)call_of(client, CALL_AND_STORE);
}

static void wait_for(atomic_uint *count, unsigned int value)
{
	for (int i = 0; atomic_load(count) != value && i < 5000; i++)
		usleep(1000);
	CU_ASSERT_EQUAL(atomic_load(count), value);
}

static void begin(void)
{
	const struct rpc_program program = {.program = NFS3_PROGRAM,
		.version = NFS3_V3,
		.procedures = procedures,
		.procedure_count = sizeof(procedures) / sizeof(procedures[0]),
		.context = &watch};

	atomic_store(&executed, 0);
	gateway_watch_init(&watch, NULL, PATIENCE_MS);
	CU_ASSERT_EQUAL_FATAL(
		rpc_server_start(&server, "127.0.0.1", 0, &program, NULL, THREADS), 0);
	CU_ASSERT_EQUAL_FATAL(gateway_watch_start(&watch, server), 0);
}

static void end(void)
{
	gateway_watch_stop(&watch);
	rpc_server_stop(server);
	gateway_watch_destroy(&watch);
}

static struct rpc_client *connect_client(void)
{
	return rpc_client_create("127.0.0.1", rpc_server_port(server), NFS3_PROGRAM, NFS3_V3, NULL);
}

/* The calls in the store, one that waits for a thread, and new ones: of files on other disks, too.
 */
static void clients_do_not_wait_for_a_disk_that_hangs(void)
{
	struct rpc_client *client;
	pthread_t threads[THREADS + 1];
	int64_t begun_ms = clock_now_ms();
	int error = 0;

	begin();
	client = connect_client();
	CU_ASSERT_EQUAL(call_of(client, CALL_AND_STORE), 0);
	atomic_store(&disk_hangs, true);
	for (int i = 0; i < THREADS + 1; i++)
		pthread_create(&threads[i], NULL, call_and_store, client);
	wait_for(&under_way, THREADS);
	for (int i = 0; i < THREADS + 1; i++) {
		void *result;

		pthread_join(threads[i], &result);
		CU_ASSERT_EQUAL((intptr_t)result, -ECONNRESET);
	}
	CU_ASSERT(clock_now_ms() - begun_ms < 10 * PATIENCE_MS);
	CU_ASSERT_EQUAL(atomic_load(&under_way), THREADS);
	for (int i = 0; i < 100; i++) {
		error = call_of(client, CALL);
		CU_ASSERT(error != 0 && error != -ETIMEDOUT);
		usleep(5000);
	}
	/* What was waiting has gone with its connection. */
	atomic_store(&disk_hangs, false);
	wait_for(&under_way, 0);
	for (int i = 0; i < 1000 && (error = call_of(client, CALL)) != 0; i++)
		usleep(10000);
	CU_ASSERT_EQUAL(error, 0);
	CU_ASSERT_EQUAL(atomic_load(&executed), 1 + THREADS);
	CU_ASSERT_EQUAL(call_of(client, CALL_AND_STORE), 0);
	rpc_client_destroy(client);
	end();
}

static void *serve_again(void *argument)
{
	(void)argument;
	usleep(1000 * PATIENCE_MS);
	atomic_store(&disk_hangs, false);
	return NULL;
}

/* What clients send when they are back must not be overtaken by what they sent before. */
static void clients_come_back_when_their_calls_of_before_are_over(void)
{
	struct rpc_client *client;
	pthread_t thread, other;
	int error = -EIO;

	begin();
	client = connect_client();
	atomic_store(&disk_hangs, true);
	pthread_create(&thread, NULL, call_and_store, client);
	pthread_join(thread, NULL);
	/* As if the watch had been wrong. */
	gateway_watch_stop(&watch);
	rpc_server_suspend(server, false);
	pthread_create(&other, NULL, serve_again, NULL);
	for (int i = 0; i < 1000 && (error = call_of(client, CALL)) != 0; i++)
		usleep(10000);
	CU_ASSERT_EQUAL(error, 0);
	CU_ASSERT_EQUAL(atomic_load(&executed), 1);
	pthread_join(other, NULL);
	CU_ASSERT_EQUAL(gateway_watch_start(&watch, server), 0);
	rpc_client_destroy(client);
	end();
}

static void a_gateway_can_be_stopped_while_it_is_suspended(void)
{
	struct rpc_client *client;
	pthread_t thread, other;

	begin();
	client = connect_client();
	atomic_store(&disk_hangs, true);
	pthread_create(&thread, NULL, call_and_store, client);
	pthread_join(thread, NULL);
	gateway_watch_stop(&watch);
	pthread_create(&other, NULL, serve_again, NULL);
	rpc_server_stop(server);
	CU_ASSERT_EQUAL(atomic_load(&executed), 1);
	pthread_join(other, NULL);
	rpc_client_destroy(client);
	gateway_watch_destroy(&watch);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"clients do not wait for a disk that hangs",
			clients_do_not_wait_for_a_disk_that_hangs},
		{"clients come back when their calls of before are over",
			clients_come_back_when_their_calls_of_before_are_over},
		{"a gateway can be stopped while it is suspended",
			a_gateway_can_be_stopped_while_it_is_suspended},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"gateway watch", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	signal(SIGPIPE, SIG_IGN);
	/* That a disk hangs is an error. */
	if (!getenv("ROZO_LOG"))
		rozo_log_set_level(ROZO_LOG_ERROR);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
