/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The RPC library over real sockets on loopback.
 *
 *   test_rpc                 all tests
 *   test_rpc --serve PORT    the server process that a test kills; prints "ready"
 *   test_rpc --vanish        in a network of its own: the server's host vanishes, and returns
 *   test_rpc --measure       latency and throughput of one connection
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "rpc/auth_protocol.h"
#include "rpc/cluster_auth.h"
#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/nfs3.h"
#include "rpc/rpc.h"
#include "rpc/store.h"

#define TEST_PROGRAM 0x2052a0ff
#define TEST_VERSION 1
#define TEST_ECHO 3 /* answers with its arguments after delay_ms */
#define TEST_WHO 5 /* answers with the caller's uid in delay_ms, his address as bytes */
#define TEST_TOO_MUCH 6 /* answers with more than the protocol allows */
#define TEST_READ 7 /* answers with delay_ms bytes */
#define PAYLOAD_MAX (8U << 20)
#define LONG_MS 20000

/* On slow machines, and under sanitizers, this is what "at once" may take. */
#define PROMPT_MS 1500

struct test_data {
	uint32_t delay_ms;
	uint32_t bytes;
	char *value;
};

static bool xdr_test_data(XDR *xdrs, struct test_data *data)
{
	return xdr_uint32_t(xdrs, &data->delay_ms) &&
	       rpc_xdr_bytes(xdrs, &data->value, &data->bytes, PAYLOAD_MAX);
}
#define XDR_TEST RPC_XDR(xdr_test_data)

static struct rpc_key right_key, wrong_key;
static atomic_uint executed;

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t ms_since(int64_t start_us)
{
	return (now_us() - start_us) / 1000;
}

static void pause_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

/* -------- the server under test -------- */

static void handle_echo(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	const struct test_data *in = args;
	struct test_data *out = result;

	(void)context;
	(void)caller;
	if (in->delay_ms && in->delay_ms <= 5000) /* garbage may ask for anything */
		pause_ms(in->delay_ms);
	out->bytes = in->bytes;
	out->value = malloc(in->bytes + 1);
	memcpy(out->value, in->value ? in->value : "", in->bytes);
	atomic_fetch_add(&executed, 1);
}

static void handle_who(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	struct test_data *out = result;

	(void)context;
	(void)args;
	out->delay_ms = caller->uid;
	out->value = strdup(caller->address);
	out->bytes = (uint32_t)strlen(caller->address);
}

static void handle_too_much(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	struct test_data *out = result;

	(void)context;
	(void)caller;
	(void)args;
	out->bytes = PAYLOAD_MAX + 1;
	out->value = calloc(1, out->bytes);
}

static void handle_read(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	const struct test_data *in = args;
	struct test_data *out = result;

	(void)context;
	(void)caller;
	out->bytes = in->delay_ms <= PAYLOAD_MAX ? in->delay_ms : 0;
	out->value = malloc(out->bytes + 1);
	memset(out->value, 'r', out->bytes);
}

static const struct rpc_procedure procedures[] = {
	[TEST_ECHO] = {"ECHO", handle_echo, XDR_TEST, sizeof(struct test_data), XDR_TEST,
		sizeof(struct test_data)},
	[TEST_WHO] = {"WHO", handle_who, NULL, 0, XDR_TEST, sizeof(struct test_data)},
	[TEST_TOO_MUCH] = {"TOO_MUCH", handle_too_much, NULL, 0, XDR_TEST,
		sizeof(struct test_data)},
	[TEST_READ] = {"READ", handle_read, XDR_TEST, sizeof(struct test_data), XDR_TEST,
		sizeof(struct test_data)},
};

static const struct rpc_program program = {
	TEST_PROGRAM, TEST_VERSION, procedures, sizeof(procedures) / sizeof(procedures[0]), NULL};

static struct rpc_server *serve_at(
	const char *address, const struct rpc_key *key, unsigned int threads)
{
	struct rpc_server *server = NULL;

	CU_ASSERT_EQUAL_FATAL(rpc_server_start(&server, address, 0, &program, key, threads), 0);
	return server;
}

static struct rpc_server *serve(const struct rpc_key *key)
{
	return serve_at("127.0.0.1", key, 16);
}

static struct rpc_client *client_of(struct rpc_server *server, const struct rpc_key *key)
{
	struct rpc_client *client = rpc_client_create(
		"127.0.0.1", rpc_server_port(server), TEST_PROGRAM, TEST_VERSION, key);

	CU_ASSERT_PTR_NOT_NULL_FATAL(client);
	return client;
}

/* Echoes `bytes` bytes; returns rpc_call()'s result, or 1 if what came back differs. */
static int echo(
	struct rpc_client *client, uint32_t bytes, uint32_t delay_ms, unsigned int timeout_ms)
{
	struct test_data args = {delay_ms, bytes, malloc(bytes + 1)}, result = {0};
	int error;

	for (uint32_t i = 0; i < bytes; i++)
		args.value[i] = (char)(i * 7 + bytes);
	error = rpc_call(client, TEST_ECHO, XDR_TEST, &args, XDR_TEST, &result, timeout_ms);
	if (!error &&
		(result.bytes != bytes || (bytes && memcmp(result.value, args.value, bytes) != 0)))
		error = 1;
	if (error >= 0)
		rpc_free(XDR_TEST, &result);
	free(args.value);
	return error;
}

/* -------- asynchronous calls, counted -------- */

struct flight {
	pthread_mutex_t lock;
	pthread_cond_t landed_cond;
	unsigned int landed;
	unsigned int ok;
	unsigned int errors[200]; /* by errno */
};

#define FLIGHT_INITIALIZER                                                                         \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .landed_cond = PTHREAD_COND_INITIALIZER         \
	}

struct passenger {
	struct flight *flight;
	struct test_data result;
};

static void landed(void *context, int error)
{
	struct passenger *passenger = context;
	struct flight *flight = passenger->flight;

	if (!error)
		rpc_free(XDR_TEST, &passenger->result);
	pthread_mutex_lock(&flight->lock);
	flight->landed++;
	if (!error)
		flight->ok++;
	else if (error < 0 && error > -200)
		flight->errors[-error]++;
	pthread_cond_signal(&flight->landed_cond);
	pthread_mutex_unlock(&flight->lock);
	free(passenger);
}

static void take_off(struct flight *flight, struct rpc_client *client, uint32_t bytes,
	uint32_t delay_ms, unsigned int timeout_ms)
{
	struct passenger *passenger = calloc(1, sizeof(*passenger));
	struct test_data args = {delay_ms, bytes, calloc(1, bytes + 1)};

	passenger->flight = flight;
	rpc_call_async(client, TEST_ECHO, XDR_TEST, &args, XDR_TEST, &passenger->result, timeout_ms,
		landed, passenger);
	free(args.value);
}

static void wait_for(struct flight *flight, unsigned int count)
{
	pthread_mutex_lock(&flight->lock);
	while (flight->landed < count)
		pthread_cond_wait(&flight->landed_cond, &flight->lock);
	pthread_mutex_unlock(&flight->lock);
}

/* -------- raw connections -------- */

static int raw_connect(uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void raw_send(int fd, const uint32_t *words, unsigned int count)
{
	uint32_t wire[64];

	wire[0] = htonl(0x80000000U | count * 4);
	for (unsigned int i = 0; i < count; i++)
		wire[1 + i] = htonl(words[i]);
	CU_ASSERT_EQUAL(send(fd, wire, (count + 1) * 4, MSG_NOSIGNAL), (ssize_t)(count + 1) * 4);
}

/* Returns the number of words received within a second (mark not counted), or -1 at the end. */
static int raw_receive(int fd, uint32_t *words, int max)
{
	struct pollfd poller = {fd, POLLIN, 0};
	uint32_t wire[64];
	ssize_t bytes;

	if (poll(&poller, 1, 4 * PROMPT_MS) != 1)
		return 0;
	bytes = recv(fd, wire, sizeof(wire), 0);
	if (bytes <= 0)
		return -1;
	for (int i = 0; i < bytes / 4 - 1 && i < max; i++)
		words[i] = ntohl(wire[i + 1]);
	return (int)(bytes / 4 - 1);
}

static bool raw_is_closed(int fd, int within_ms)
{
	struct pollfd poller = {fd, POLLIN, 0};
	char byte;

	return poll(&poller, 1, within_ms) == 1 && recv(fd, &byte, 1, 0) <= 0;
}

/* -------- tests -------- */

static void test_echo_of_all_sizes(void)
{
	static const uint32_t sizes[] = {
		0, 1, 3, 4, 5, 1000, 16383, 16384, 65536, 262144, 1 << 20, (8 << 20) - 1, 8 << 20};
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CU_ASSERT_EQUAL(echo(client, sizes[i], 0, LONG_MS), 0);
	CU_ASSERT_FALSE(rpc_client_is_down(client));
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

struct many {
	struct rpc_client *client;
	atomic_int failures;
};

static void *many_thread(void *argument)
{
	struct many *many = argument;

	for (uint32_t i = 0; i < 40; i++)
		if (echo(many->client, i % 8 ? i * 31 : 300000, 0, LONG_MS))
			atomic_fetch_add(&many->failures, 1);
	return NULL;
}

static void test_64_threads_on_one_connection(void)
{
	struct rpc_server *server = serve(&right_key);
	struct many many = {.client = client_of(server, &right_key)};
	pthread_t threads[64];

	for (int i = 0; i < 64; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, many_thread, &many), 0);
	for (int i = 0; i < 64; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(atomic_load(&many.failures), 0);
	rpc_client_destroy(many.client);
	rpc_server_stop(server);
}

static void test_slow_call_does_not_hold_up_fast_ones(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;
	int64_t start_us = now_us();

	for (int i = 0; i < 8; i++)
		take_off(&flight, client, 10, 3000, LONG_MS);
	for (int i = 0; i < 50; i++)
		CU_ASSERT_EQUAL(echo(client, 100, 0, LONG_MS), 0);
	CU_ASSERT(ms_since(start_us) < 2500);
	CU_ASSERT_EQUAL(flight.landed, 0);
	wait_for(&flight, 8);
	CU_ASSERT_EQUAL(flight.ok, 8);
	CU_ASSERT(ms_since(start_us) < 3000 + PROMPT_MS);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_null_is_answered_when_all_threads_are_busy(void)
{
	struct rpc_server *server = serve_at("127.0.0.1", &right_key, 2);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;
	int64_t start_us = now_us();

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	/* Two are executed, the others wait for them. */
	for (int i = 0; i < 4; i++) {
		take_off(&flight, client, 10, 1500, LONG_MS);
		pause_ms(20);
	}
	for (int i = 0; i < 10; i++)
		CU_ASSERT_EQUAL(rpc_call(client, 0, NULL, NULL, NULL, NULL, LONG_MS), 0);
	CU_ASSERT(ms_since(start_us) < 1000);
	wait_for(&flight, 4);
	CU_ASSERT_EQUAL(flight.ok, 4);
	CU_ASSERT(ms_since(start_us) < 3000 + PROMPT_MS);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static int64_t processor_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void test_server_rests_after_a_burst(void)
{
	for (unsigned int round = 0; round < 40; round++) {
		struct rpc_server *server = serve_at("127.0.0.1", &right_key, 1 + round % 12);
		struct rpc_client *clients[3];
		struct flight flight = FLIGHT_INITIALIZER;
		int64_t before_ms;

		for (unsigned int i = 0; i < 3; i++)
			clients[i] = client_of(server, &right_key);
		for (unsigned int i = 0; i < 60; i++)
			take_off(&flight, clients[i % 3], 100, i % 3, LONG_MS);
		wait_for(&flight, 60);
		CU_ASSERT_EQUAL(flight.ok, 60);
		/* Threads that have nothing to do must not go round in circles. */
		before_ms = processor_ms();
		pause_ms(50);
		CU_ASSERT(processor_ms() - before_ms < 25);
		CU_ASSERT_EQUAL(echo(clients[0], 10, 0, LONG_MS), 0);
		for (unsigned int i = 0; i < 3; i++)
			rpc_client_destroy(clients[i]);
		rpc_server_stop(server);
	}
}

static unsigned int workers(void)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *entry;
	unsigned int count = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(tasks);
	while ((entry = readdir(tasks)) != NULL) {
		char path[300], name[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, "rozo_worker", 11))
			count++;
		fclose(file);
	}
	closedir(tasks);
	return count;
}

static void test_server_has_the_threads_it_needs(void)
{
	struct rpc_server *server = serve_at("127.0.0.1", &right_key, 6);
	struct rpc_client *clients[2] = {
		client_of(server, &right_key), client_of(server, &right_key)};
	struct flight flight = FLIGHT_INITIALIZER;

	/* A second one when the first leaves the reactor; few more if it is late in coming back. */
	for (int i = 0; i < 300; i++)
		CU_ASSERT_EQUAL(echo(clients[i % 2], i % 3 ? 10 : 100000, 0, LONG_MS), 0);
	CU_ASSERT(workers() >= 2 && workers() <= 4);
	/* Six execute, one waits for more. */
	for (int i = 0; i < 20; i++)
		take_off(&flight, clients[i % 2], 10, 50, LONG_MS);
	wait_for(&flight, 20);
	CU_ASSERT_EQUAL(flight.ok, 20);
	CU_ASSERT_EQUAL(workers(), 7);
	for (int i = 0; i < 2; i++)
		rpc_client_destroy(clients[i]);
	rpc_server_stop(server);
	CU_ASSERT_EQUAL(workers(), 0);
}

struct visitors {
	struct rpc_server *server;
	atomic_uint failures;
};

static void *visit(void *argument)
{
	struct visitors *visitors = argument;

	for (unsigned int i = 0; i < 40; i++) {
		struct rpc_client *client = client_of(visitors->server, &right_key);
		struct flight flight = FLIGHT_INITIALIZER;
		int fd;

		/* Some leave without waiting for the answers, or without a word. */
		for (unsigned int call = 0; call < 4; call++)
			take_off(&flight, client, call * 5000, 0, LONG_MS);
		if (i % 2 && echo(client, 10, 0, LONG_MS))
			atomic_fetch_add(&visitors->failures, 1);
		rpc_client_destroy(client);
		wait_for(&flight, 4);
		fd = raw_connect(rpc_server_port(visitors->server));
		close(fd);
	}
	return NULL;
}

static void test_connections_come_and_go_under_load(void)
{
	struct visitors visitors = {.server = serve_at("127.0.0.1", &right_key, 4)};
	struct rpc_client *client = client_of(visitors.server, &right_key);
	pthread_t threads[6];

	for (int i = 0; i < 6; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, visit, &visitors), 0);
	for (int i = 0; i < 300; i++)
		CU_ASSERT_EQUAL(echo(client, 1000, 0, LONG_MS), 0);
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(atomic_load(&visitors.failures), 0);
	rpc_client_destroy(client);
	rpc_server_stop(visitors.server);
}

static void test_timeout_marks_down_until_server_answers(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	int64_t start_us;

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	start_us = now_us();
	CU_ASSERT_EQUAL(echo(client, 10, 1000, 100), -ETIMEDOUT);
	CU_ASSERT(ms_since(start_us) >= 100);
	CU_ASSERT(ms_since(start_us) < 100 + PROMPT_MS / 2);
	/* The server only was slow: the probe tells, and the late answer harms nobody. */
	for (int i = 0; i < 200 && rpc_client_is_down(client); i++)
		pause_ms(5);
	CU_ASSERT_FALSE(rpc_client_is_down(client));
	CU_ASSERT_EQUAL(echo(client, 10, 1200, LONG_MS), 0);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_deadlines_end_calls_in_their_order(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight early = FLIGHT_INITIALIZER, late = FLIGHT_INITIALIZER;
	int64_t start_us;

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	start_us = now_us();
	take_off(&late, client, 10, 2000, 700);
	take_off(&early, client, 10, 2000, 200);
	wait_for(&early, 1);
	CU_ASSERT(ms_since(start_us) < 700);
	wait_for(&late, 1);
	CU_ASSERT(ms_since(start_us) >= 700);
	CU_ASSERT_EQUAL(early.errors[ETIMEDOUT], 1);
	CU_ASSERT_EQUAL(late.errors[ETIMEDOUT], 1);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

/* For what is also used without CUnit. */
static void must(bool true_here)
{
	if (!true_here)
		abort();
}

static uint16_t unused_port(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	must(!bind(fd, (struct sockaddr *)&address, bytes));
	must(!getsockname(fd, (struct sockaddr *)&address, &bytes));
	close(fd);
	return ntohs(address.sin_port);
}

static void test_refused_connection_costs_nothing(void)
{
	struct rpc_client *client = rpc_client_create(
		"127.0.0.1", unused_port(), TEST_PROGRAM, TEST_VERSION, &right_key);
	int64_t start_us = now_us();

	for (int i = 0; i < 1000; i++)
		CU_ASSERT_EQUAL(echo(client, 1000, 0, LONG_MS), -ECONNREFUSED);
	CU_ASSERT(ms_since(start_us) < PROMPT_MS);
	CU_ASSERT(rpc_client_is_down(client));
	rpc_client_destroy(client);
}

/* The client whose failing attempt is met, and by what: see call_from_log(). */
static _Atomic(struct rpc_client *) failing_client;
static struct flight failing_flight = FLIGHT_INITIALIZER;

/* Between the failure of an attempt and the end of its calls is where the client says so. */
static void call_from_log(enum rozo_log_level level, const char *line)
{
	struct rpc_client *client = atomic_exchange(&failing_client, NULL);

	(void)level;
	(void)line;
	if (client)
		take_off(&failing_flight, client, 10, 0, LONG_MS);
}

static void test_call_that_meets_the_first_failing_attempt_ends(void)
{
	int64_t start_us = now_us();
	bool met = false;

	rozo_log_set_sink(call_from_log);
	/* The client may have said the same just before, and is silent for a second then. */
	while (!met && ms_since(start_us) < 3 * PROMPT_MS) {
		struct rpc_client *client = rpc_client_create(
			"127.0.0.1", unused_port(), TEST_PROGRAM, TEST_VERSION, &right_key);

		atomic_store(&failing_client, client);
		CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -ECONNREFUSED);
		met = atomic_exchange(&failing_client, NULL) == NULL;
		if (met)
			wait_for(&failing_flight, 1);
		else
			pause_ms(100);
		rpc_client_destroy(client);
	}
	rozo_log_set_sink(NULL);
	CU_ASSERT(met);
	CU_ASSERT_EQUAL(failing_flight.errors[ECONNREFUSED], 1);
}

static void test_silent_peer_costs_one_wait_only(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct rpc_client *client;
	int64_t start_us;

	/* Accepts connections, as the kernel does, and never says a word. */
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, bytes), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 100), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	client = rpc_client_create(
		"127.0.0.1", ntohs(address.sin_port), TEST_PROGRAM, TEST_VERSION, &right_key);
	start_us = now_us();
	CU_ASSERT_EQUAL(echo(client, 10, 0, 300), -ETIMEDOUT);
	CU_ASSERT(ms_since(start_us) < 300 + PROMPT_MS / 2);
	/* The attempt is given up after its own time, and from then on nobody waits. */
	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -EHOSTUNREACH);
	CU_ASSERT(ms_since(start_us) < 3000 + PROMPT_MS);
	start_us = now_us();
	for (int i = 0; i < 1000; i++)
		CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -EHOSTUNREACH);
	CU_ASSERT(ms_since(start_us) < PROMPT_MS);
	rpc_client_destroy(client);
	close(fd);
}

static pid_t start_process(uint16_t port)
{
	char text[16];
	int ready_pipe[2];
	char answer[6] = "";
	pid_t pid;

	snprintf(text, sizeof(text), "%u", port);
	must(!pipe2(ready_pipe, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		dup2(ready_pipe[1], STDOUT_FILENO);
		execl("/proc/self/exe", "test_rpc", "--serve", text, NULL);
		_exit(1);
	}
	close(ready_pipe[1]);
	must(read(ready_pipe[0], answer, 5) == 5 && !strcmp(answer, "ready"));
	close(ready_pipe[0]);
	return pid;
}

static void test_killed_server_is_noticed_and_used_again(void)
{
	uint16_t port = unused_port();
	struct rpc_client *client =
		rpc_client_create("127.0.0.1", port, TEST_PROGRAM, TEST_VERSION, &right_key);

	for (int round = 0; round < 3; round++) {
		struct flight flight = FLIGHT_INITIALIZER;
		pid_t pid = start_process(port);
		int64_t start_us = now_us();
		int error;

		/* Within a second, though the client was refused all the time. */
		do {
			error = echo(client, 1000, 0, LONG_MS);
		} while ((error == -ECONNREFUSED || error == -ENOTCONN) &&
			 ms_since(start_us) < 1000 + PROMPT_MS);
		CU_ASSERT_EQUAL(error, 0);
		CU_ASSERT_FALSE(rpc_client_is_down(client));
		for (int i = 0; i < 300; i++)
			take_off(&flight, client, i % 3 ? 100 : 200000, 100, LONG_MS);
		pause_ms(20);
		kill(pid, SIGKILL);
		start_us = now_us();
		waitpid(pid, NULL, 0);
		wait_for(&flight, 300);
		CU_ASSERT(ms_since(start_us) < PROMPT_MS);
		CU_ASSERT(flight.errors[ECONNRESET] > 0);
		CU_ASSERT_EQUAL(
			flight.ok + flight.errors[ECONNRESET] + flight.errors[ENOTCONN], 300);
		CU_ASSERT(rpc_client_is_down(client));
		start_us = now_us();
		for (int i = 0; i < 100; i++)
			CU_ASSERT(echo(client, 10, 0, LONG_MS) < 0);
		CU_ASSERT(ms_since(start_us) < PROMPT_MS);
	}
	rpc_client_destroy(client);
}

/* Switches the loopback device of this network namespace. */
static bool switch_loopback(bool on)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = on ? IFF_UP : 0};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), result = ioctl(fd, SIOCSIFFLAGS, &request);

	close(fd);
	return !result;
}

/* Exits with 0, the number of the step that failed, or 77 if it may not have a network. */
static int vanish(void)
{
	struct rpc_client *client;
	struct flight flight = FLIGHT_INITIALIZER;
	int64_t start_us;
	pid_t pid;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 77;
	if (!switch_loopback(true))
		return 77;
	pid = start_process(2049);
	client = rpc_client_create("127.0.0.1", 2049, TEST_PROGRAM, TEST_VERSION, &right_key);
	if (echo(client, 1000, 0, LONG_MS))
		return 1;
	/* Calls that have a long time are told all the same, and no later ones wait. */
	switch_loopback(false);
	start_us = now_us();
	for (int i = 0; i < 10; i++)
		take_off(&flight, client, 1000, 0, 10 * LONG_MS);
	wait_for(&flight, 10);
	if (flight.errors[ECONNRESET] != 10 || ms_since(start_us) > 5000)
		return 2;
	start_us = now_us();
	for (int i = 0; i < 1000; i++)
		if (echo(client, 10, 0, LONG_MS) >= 0)
			return 3;
	if (ms_since(start_us) > PROMPT_MS)
		return 4;
	pause_ms(2500);
	switch_loopback(true);
	start_us = now_us();
	while (rpc_client_is_down(client) && ms_since(start_us) < 1100 + PROMPT_MS)
		pause_ms(5);
	if (echo(client, 1000, 0, LONG_MS))
		return 5;
	rpc_client_destroy(client);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}

static void test_vanished_host_is_noticed_and_used_again(void)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		execl("/proc/self/exe", "test_rpc", "--vanish", NULL);
		_exit(1);
	}
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		printf("(left out: no network namespaces here) ");
	else
		CU_ASSERT_EQUAL(status, 0);
}

static void test_restarted_server_serves_the_first_call(void)
{
	struct rpc_server *server = serve(&right_key);
	uint16_t port = rpc_server_port(server);
	struct rpc_client *client = client_of(server, &right_key);

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	rpc_server_stop(server);
	pause_ms(100);
	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -ECONNREFUSED);
	CU_ASSERT_EQUAL_FATAL(
		rpc_server_start(&server, "127.0.0.1", port, &program, &right_key, 4), 0);
	/* Found by the client itself, without a call. */
	for (int i = 0; i < 300 && rpc_client_is_down(client); i++)
		pause_ms(5);
	CU_ASSERT_FALSE(rpc_client_is_down(client));
	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

struct tide {
	struct rpc_client *client;
	atomic_bool over;
	atomic_uint begun, ended;
};

static void tide_ended(void *context, int error)
{
	(void)error;
	atomic_fetch_add(&((struct tide *)context)->ended, 1);
}

static void *tide_caller(void *argument)
{
	struct tide *tide = argument;

	while (!atomic_load(&tide->over)) {
		/* Not more at a time than a server lets one connection have. */
		if (atomic_load(&tide->begun) - atomic_load(&tide->ended) > 64)
			continue;
		atomic_fetch_add(&tide->begun, 1);
		rpc_call_async(tide->client, RPC_PROCEDURE_NULL, NULL, NULL, NULL, NULL, LONG_MS,
			tide_ended, tide);
	}
	return NULL;
}

/* Whatever a connection is doing when a call comes, the call ends. */
static void test_every_call_ends_while_servers_come_and_go(void)
{
	struct rpc_server *server = serve(&right_key);
	uint16_t port = rpc_server_port(server);
	struct tide tide = {.client = client_of(server, &right_key)};
	pthread_t callers[4];

	for (int i = 0; i < 4; i++)
		must(!pthread_create(&callers[i], NULL, tide_caller, &tide));
	for (int round = 0; round < 100; round++) {
		pause_ms(5);
		rpc_server_stop(server);
		must(!rpc_server_start(&server, "127.0.0.1", port, &program, &right_key, 2));
		for (int i = 0; i < 400 && rpc_client_is_down(tide.client); i++)
			pause_ms(1);
	}
	atomic_store(&tide.over, true);
	for (int i = 0; i < 4; i++)
		pthread_join(callers[i], NULL);
	for (int i = 0; i < LONG_MS && atomic_load(&tide.ended) < atomic_load(&tide.begun); i++)
		pause_ms(1);
	CU_ASSERT(atomic_load(&tide.ended) > 1000);
	CU_ASSERT_EQUAL(atomic_load(&tide.ended), atomic_load(&tide.begun));
	rpc_client_destroy(tide.client);
	rpc_server_stop(server);
}

static void test_keys_must_match(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &wrong_key);
	int64_t start_us = now_us();

	for (int i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -EACCES);
	CU_ASSERT(ms_since(start_us) < PROMPT_MS);
	CU_ASSERT(rpc_client_is_down(client));
	rpc_client_destroy(client);
	/* A client without any key */
	client = client_of(server, NULL);
	CU_ASSERT(echo(client, 10, 0, LONG_MS) < 0);
	rpc_client_destroy(client);
	CU_ASSERT_EQUAL(atomic_load(&executed), 0);
	rpc_server_stop(server);
	/* A server without any key. */
	server = serve(NULL);
	client = client_of(server, &right_key);
	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -EACCES);
	CU_ASSERT_EQUAL(atomic_load(&executed), 0);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

/* Speaks the server's half of the handshake up to where the client has to object. */
static void *false_server(void *argument)
{
	int listener = *(int *)argument, fd = accept(listener, NULL, NULL);
	uint32_t words[64], reply[6 + 16] = {0, 1, 0, 0, 0, 0};
	int count = raw_receive(fd, words, 64);
	bool objected;

	CU_ASSERT(count >= 18);
	reply[0] = words[0];
	raw_send(fd, reply, 22); /* nonce and MAC all zero */
	objected = raw_is_closed(fd, 4 * PROMPT_MS);
	close(fd);
	return objected ? argument : NULL;
}

static void test_client_refuses_a_server_without_the_key(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct rpc_client *client;
	pthread_t thread;
	void *objected;

	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, bytes), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 100), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	pthread_create(&thread, NULL, false_server, &fd);
	client = rpc_client_create(
		"127.0.0.1", ntohs(address.sin_port), TEST_PROGRAM, TEST_VERSION, &right_key);
	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), -EACCES);
	pthread_join(thread, &objected);
	CU_ASSERT_PTR_NOT_NULL(objected);
	rpc_client_destroy(client);
	close(fd);
}

static void test_mac_is_what_the_protocol_says(void)
{
	/* Python: hmac.new(key, b"rozo server" + ..., "sha512").digest()[:32] */
	static const uint8_t expected[AUTH_MAC_BYTES] = {0x5b, 0x10, 0xb6, 0x3e, 0x64, 0x1c, 0x2d,
		0xa5, 0x83, 0xd8, 0x01, 0xe5, 0x3c, 0x3c, 0x22, 0x94, 0xdd, 0xc6, 0xe9, 0x9f, 0xbf,
		0x17, 0x16, 0x39, 0x3b, 0x08, 0x73, 0x2d, 0xa4, 0x3f, 0x90, 0x0c};
	char client_nonce[AUTH_NONCE_BYTES], server_nonce[AUTH_NONCE_BYTES], mac[AUTH_MAC_BYTES];
	struct rpc_key key;

	memset(client_nonce, 1, sizeof(client_nonce));
	memset(server_nonce, 2, sizeof(server_nonce));
	memset(key.bytes, 3, sizeof(key.bytes));
	rpc_auth_mac(mac, RPC_AUTH_SERVER, &key, 0x2052a001, client_nonce, server_nonce);
	CU_ASSERT_EQUAL(memcmp(mac, expected, sizeof(mac)), 0);
	CU_ASSERT(
		rpc_auth_check(mac, RPC_AUTH_SERVER, &key, 0x2052a001, client_nonce, server_nonce));
	/* Neither for the other side, nor for another program, nor with nonces exchanged. */
	CU_ASSERT_FALSE(
		rpc_auth_check(mac, RPC_AUTH_CLIENT, &key, 0x2052a001, client_nonce, server_nonce));
	CU_ASSERT_FALSE(
		rpc_auth_check(mac, RPC_AUTH_CLIENT, &key, 0x2052a001, server_nonce, client_nonce));
	CU_ASSERT_FALSE(
		rpc_auth_check(mac, RPC_AUTH_SERVER, &key, 0x2052a002, client_nonce, server_nonce));
}

static void test_stranger_is_turned_away(void)
{
	struct rpc_server *server = serve(&right_key);
	uint32_t call[] = {77, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_WHO, 0, 0, 0, 0}, reply[64];
	int fd;

	for (uint32_t procedure = 0; procedure < 8; procedure++) {
		if (procedure == RPC_PROCEDURE_HELLO)
			continue;
		call[5] = procedure;
		fd = raw_connect(rpc_server_port(server));
		raw_send(fd, call, 10);
		CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 5);
		CU_ASSERT_EQUAL(reply[0], 77);
		CU_ASSERT_EQUAL(reply[1], REPLY);
		CU_ASSERT_EQUAL(reply[2], MSG_DENIED);
		CU_ASSERT_EQUAL(reply[3], AUTH_ERROR);
		CU_ASSERT_EQUAL(reply[4], AUTH_TOOWEAK);
		CU_ASSERT(raw_is_closed(fd, PROMPT_MS));
		close(fd);
	}
	CU_ASSERT_EQUAL(atomic_load(&executed), 0);
	rpc_server_stop(server);
}

static void test_wrong_proof_is_answered_and_closed(void)
{
	struct rpc_server *server = serve(&right_key);
	uint32_t call[18] = {5, 0, 2, TEST_PROGRAM, TEST_VERSION, RPC_PROCEDURE_HELLO}, reply[64];
	int fd = raw_connect(rpc_server_port(server));

	raw_send(fd, call, 18);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6 + 16);
	CU_ASSERT_EQUAL(reply[5], SUCCESS);
	call[5] = RPC_PROCEDURE_PROVE;
	raw_send(fd, call, 18);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 7);
	CU_ASSERT_EQUAL(reply[6], EACCES);
	CU_ASSERT(raw_is_closed(fd, PROMPT_MS));
	close(fd);
	rpc_server_stop(server);
}

static void test_strangers_do_not_keep_others_out(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	int fds[300];
	int64_t start_us = now_us();

	for (int i = 0; i < 300; i++) {
		fds[i] = raw_connect(rpc_server_port(server));
		/* Half of them begin a message and never end it. */
		if (i % 2)
			CU_ASSERT_EQUAL(send(fds[i], "\x80\x00", 2, MSG_NOSIGNAL), 2);
	}
	CU_ASSERT_EQUAL(echo(client, 1000, 0, LONG_MS), 0);
	CU_ASSERT(ms_since(start_us) < 3 * PROMPT_MS);
	/* The oldest went for the newest, and time ends the others. */
	CU_ASSERT(raw_is_closed(fds[0], PROMPT_MS));
	CU_ASSERT_FALSE(raw_is_closed(fds[299], 0));
	CU_ASSERT(raw_is_closed(fds[299], 5000 + PROMPT_MS));
	CU_ASSERT_EQUAL(echo(client, 1000, 0, LONG_MS), 0);
	for (int i = 0; i < 300; i++)
		close(fds[i]);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_garbage_harms_nobody(void)
{
	struct rpc_server *servers[2] = {serve(&right_key), serve(NULL)};
	struct rpc_client *client = client_of(servers[0], &right_key);
	unsigned int seed = 1;

	for (int i = 0; i < 400; i++) {
		int fd = raw_connect(rpc_server_port(servers[i % 2]));
		/* A call with AUTH_SYS and arguments, then damaged. */
		uint32_t words[40] = {htonl(0x80000000 | 39 * 4), 1, 0, htonl(2),
			htonl(TEST_PROGRAM), htonl(TEST_VERSION), htonl(TEST_ECHO), htonl(1),
			htonl(24), 0, htonl(3), htonl(0x61626300), htonl(7), htonl(8), 0, 0, 0, 0,
			htonl(80)};
		uint8_t *bytes = (uint8_t *)words;

		if (i % 4 < 2)
			for (int j = 0; j < 1 + i % 9; j++)
				bytes[(unsigned int)rand_r(&seed) % sizeof(words)] =
					(uint8_t)rand_r(&seed);
		else
			for (size_t j = i % 8 < 4 ? 4 : 0; j < sizeof(words); j++)
				bytes[j] = (uint8_t)rand_r(&seed);
		(void)!send(fd, bytes, sizeof(words), MSG_NOSIGNAL);
		if (i % 3 == 0)
			shutdown(fd, SHUT_WR);
		if (i % 16 == 0)
			CU_ASSERT_EQUAL(echo(client, 100, 0, LONG_MS), 0);
		close(fd);
	}
	CU_ASSERT_EQUAL(echo(client, 100, 0, LONG_MS), 0);
	rpc_client_destroy(client);
	rpc_server_stop(servers[0]);
	rpc_server_stop(servers[1]);
}

static void test_length_of_a_stranger_is_not_believed(void)
{
	struct rpc_server *server = serve(&right_key);
	int fd = raw_connect(rpc_server_port(server));

	CU_ASSERT_EQUAL(send(fd, "\x80\x00\x04\x01", 4, MSG_NOSIGNAL), 4);
	CU_ASSERT(raw_is_closed(fd, PROMPT_MS));
	close(fd);
	/* Nor anybody's that is beyond all limits. */
	rpc_server_stop(server);
	server = serve(NULL);
	fd = raw_connect(rpc_server_port(server));
	CU_ASSERT_EQUAL(send(fd, "\x7f\xff\xff\xff", 4, MSG_NOSIGNAL), 4);
	CU_ASSERT(raw_is_closed(fd, PROMPT_MS));
	close(fd);
	rpc_server_stop(server);
}

static void test_fragments_and_single_bytes(void)
{
	struct rpc_server *server = serve(NULL);
	uint32_t call[] = {9, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_ECHO, 0, 0, 0, 0, 0, 8,
		0x01020304, 0x05060708};
	uint32_t reply[64];
	uint8_t wire[14 * 8];
	size_t used = 0;
	int fd = raw_connect(rpc_server_port(server));

	/* Each word is a fragment, each byte is sent by itself. */
	for (int i = 0; i < 14; i++) {
		uint32_t mark = htonl(i == 13 ? 0x80000004 : 4), word = htonl(call[i]);

		memcpy(wire + used, &mark, 4);
		memcpy(wire + used + 4, &word, 4);
		used += 8;
	}
	for (size_t i = 0; i < used; i++) {
		CU_ASSERT_EQUAL(send(fd, wire + i, 1, MSG_NOSIGNAL), 1);
		if (i % 10 == 0)
			pause_ms(1);
	}
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6 + 4);
	CU_ASSERT_EQUAL(reply[0], 9);
	CU_ASSERT_EQUAL(reply[8], 0x01020304);
	CU_ASSERT_EQUAL(reply[9], 0x05060708);
	/* Two calls in one segment. */
	{
		uint32_t both[22];

		for (int i = 0; i < 22; i++)
			both[i] = htonl(i % 11 == 0 ? 0x80000028 : call[i % 11 - 1]);
		both[6] = both[17] = 0; /* NULL */
		both[12] = htonl(10);
		CU_ASSERT_EQUAL(send(fd, both, sizeof(both), MSG_NOSIGNAL), sizeof(both));
	}
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64) >= 6, true);
	CU_ASSERT_EQUAL(reply[0], 9);
	close(fd);
	rpc_server_stop(server);
}

static void test_unknown_things_get_their_own_answers(void)
{
	struct rpc_server *server = serve(NULL);
	int fd = raw_connect(rpc_server_port(server));
	uint32_t call[] = {1, 0, 2, TEST_PROGRAM, TEST_VERSION, 0, 0, 0, 0, 0}, reply[64];

	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[5], SUCCESS); /* NULL */
	call[5] = 4;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[5], PROC_UNAVAIL);
	call[5] = 4000000000U;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[5], PROC_UNAVAIL);
	call[4] = 9;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 8);
	CU_ASSERT_EQUAL(reply[5], PROG_MISMATCH);
	CU_ASSERT_EQUAL(reply[6], TEST_VERSION);
	CU_ASSERT_EQUAL(reply[7], TEST_VERSION);
	call[3] = 9;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[5], PROG_UNAVAIL);
	call[2] = 3;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[2], MSG_DENIED);
	CU_ASSERT_EQUAL(reply[3], RPC_MISMATCH);
	/* Arguments missing. */
	call[2] = 2;
	call[3] = TEST_PROGRAM;
	call[4] = TEST_VERSION;
	call[5] = TEST_ECHO;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6);
	CU_ASSERT_EQUAL(reply[5], GARBAGE_ARGS);
	/* RPCSEC_GSS */
	call[6] = 6;
	raw_send(fd, call, 10);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 5);
	CU_ASSERT_EQUAL(reply[3], AUTH_ERROR);
	CU_ASSERT_EQUAL(reply[4], AUTH_REJECTEDCRED);
	close(fd);
	rpc_server_stop(server);
}

static void test_caller_is_known_by_auth_sys(void)
{
	struct rpc_server *server = serve(NULL);
	int fd = raw_connect(rpc_server_port(server));
	uint32_t call[] = {1, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_WHO, 1, 32, 0, 3, 0x61626300,
		4711, 815, 2, 1, 2, 0, 0};
	uint32_t reply[64] = {0};

	raw_send(fd, call, 18);
	CU_ASSERT(raw_receive(fd, reply, 64) > 7);
	CU_ASSERT_EQUAL(reply[5], SUCCESS);
	CU_ASSERT_EQUAL(reply[6], 4711);
	CU_ASSERT_EQUAL(reply[8], 0x3132372e); /* "127." */
	call[13] = 17; /* groups */
	raw_send(fd, call, 18);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 5);
	CU_ASSERT_EQUAL(reply[4], AUTH_BADCRED);
	close(fd);
	rpc_server_stop(server);
}

static void test_errors_of_calls(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct test_data result = {0};

	CU_ASSERT_EQUAL(rpc_call(client, 4, NULL, NULL, NULL, NULL, LONG_MS), -EPROTO);
	CU_ASSERT_EQUAL(rpc_call(client, TEST_ECHO, NULL, NULL, NULL, NULL, LONG_MS), -EPROTO);
	CU_ASSERT_EQUAL(
		rpc_call(client, TEST_TOO_MUCH, NULL, NULL, XDR_TEST, &result, LONG_MS), -EPROTO);
	CU_ASSERT_EQUAL(echo(client, PAYLOAD_MAX + 1, 0, LONG_MS), -E2BIG);
	/* A result of another kind than the caller thinks. */
	{
		struct meta_readdir_res other = {0};
		struct test_data args = {0xffffffff & 1, 12, (char[12]){1, 2, 3}};

		CU_ASSERT_EQUAL(rpc_call(client, TEST_ECHO, XDR_TEST, &args,
					RPC_XDR(xdr_meta_readdir_res), &other, LONG_MS),
			-EPROTO);
	}
	CU_ASSERT_EQUAL(rpc_call(client, 0, NULL, NULL, NULL, NULL, LONG_MS), 0);
	CU_ASSERT_FALSE(rpc_client_is_down(client));
	rpc_client_destroy(client);
	rpc_server_stop(server);
	CU_ASSERT_PTR_NULL(rpc_client_create("localhost", 1, 1, 1, NULL));
	CU_ASSERT_EQUAL(errno, EINVAL);
	CU_ASSERT_EQUAL(rpc_server_start(&server, "nowhere", 0, &program, NULL, 1), -EINVAL);
	CU_ASSERT_EQUAL(
		rpc_server_start(&server, "192.0.2.1", 0, &program, NULL, 1), -EADDRNOTAVAIL);
}

static void test_address_in_use(void)
{
	struct rpc_server *server = serve(&right_key), *second = NULL;

	CU_ASSERT_EQUAL(rpc_server_start(&second, "127.0.0.1", rpc_server_port(server), &program,
				&right_key, 1),
		-EADDRINUSE);
	rpc_server_stop(server);
}

static void test_destroy_ends_outstanding_calls(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	for (int i = 0; i < 200; i++)
		take_off(&flight, client, i % 2 ? 10 : 500000, 1000, LONG_MS);
	rpc_client_destroy(client);
	CU_ASSERT_EQUAL(flight.landed, 200);
	CU_ASSERT(flight.errors[ECANCELED] > 0);
	CU_ASSERT_EQUAL(flight.ok + flight.errors[ECANCELED], 200);
	/* And before there is a connection. */
	client = client_of(server, &right_key);
	flight = (struct flight)FLIGHT_INITIALIZER;
	take_off(&flight, client, 10, 300, LONG_MS);
	rpc_client_destroy(client);
	CU_ASSERT_EQUAL(flight.landed, 1);
	CU_ASSERT_EQUAL(flight.errors[ECANCELED], 1);
	rpc_server_stop(server);
}

static void test_stop_answers_calls_being_executed(void)
{
	struct rpc_server *server = serve_at("127.0.0.1", &right_key, 4);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;

	CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
	atomic_store(&executed, 0);
	/* 4 are executed, the others wait and are dropped. */
	for (int i = 0; i < 10; i++)
		take_off(&flight, client, 1 << 20, 1500, LONG_MS);
	pause_ms(700);
	rpc_server_stop(server);
	wait_for(&flight, 10);
	CU_ASSERT_EQUAL(atomic_load(&executed), 4);
	CU_ASSERT_EQUAL(flight.ok, 4);
	CU_ASSERT_EQUAL(flight.errors[ECONNRESET], 6);
	rpc_client_destroy(client);
}

static void test_ipv6(void)
{
	struct rpc_server *server = serve_at("::1", &right_key, 4);
	struct rpc_client *client = rpc_client_create(
		"::1", rpc_server_port(server), TEST_PROGRAM, TEST_VERSION, &right_key);
	struct test_data who = {0};

	CU_ASSERT_EQUAL(echo(client, 100000, 0, LONG_MS), 0);
	CU_ASSERT_EQUAL(rpc_call(client, TEST_WHO, NULL, NULL, XDR_TEST, &who, LONG_MS), 0);
	CU_ASSERT(who.bytes > 6 && !memcmp(who.value, "[::1]:", 6));
	CU_ASSERT_EQUAL(who.delay_ms, UINT32_MAX);
	rpc_free(XDR_TEST, &who);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_servers_side_by_side(void)
{
	struct rpc_server *with_key = serve(&right_key), *without = serve(NULL);
	struct rpc_client *first = client_of(with_key, &right_key),
			  *second = client_of(without, NULL);

	CU_ASSERT_EQUAL(echo(first, 100, 0, LONG_MS), 0);
	CU_ASSERT_EQUAL(echo(second, 100, 0, LONG_MS), 0);
	rpc_server_stop(with_key);
	CU_ASSERT_EQUAL(echo(second, 100, 0, LONG_MS), 0);
	rpc_client_destroy(first);
	CU_ASSERT_EQUAL(echo(second, 100, 0, LONG_MS), 0);
	rpc_client_destroy(second);
	rpc_server_stop(without);
}

static void test_more_calls_than_a_connection_may_have_waiting(void)
{
	struct rpc_server *server = serve_at("127.0.0.1", &right_key, 2);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;

	/* 256 calls or 64 MiB: beyond it the server does not read. Nothing may be lost. */
	for (int i = 0; i < 1500; i++)
		take_off(&flight, client, 16, 0, 6 * LONG_MS);
	for (int i = 0; i < 120; i++)
		take_off(&flight, client, 1 << 20, 1, 6 * LONG_MS);
	wait_for(&flight, 1620);
	CU_ASSERT_EQUAL(flight.ok, 1620);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

/* Calls of a peer that has gone are not begun: it may have made them again elsewhere by now. */
static void no_calls_of_who_has_gone(unsigned int calls)
{
	struct rpc_server *server = serve_at("127.0.0.1", NULL, 1);
	int fd = raw_connect(rpc_server_port(server));

	atomic_store(&executed, 0);
	for (unsigned int i = 0; i < calls; i++) {
		const uint32_t words[] = {i, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_ECHO, 0, 0, 0,
			0, i == 0 ? 2000 : 0, 0};

		raw_send(fd, words, 12);
		if (i == 0)
			pause_ms(100);
	}
	shutdown(fd, SHUT_WR);
	/* While the first one is being executed. */
	CU_ASSERT(raw_is_closed(fd, 1500));
	CU_ASSERT_EQUAL(atomic_load(&executed), 0);
	pause_ms(2500);
	rpc_server_stop(server);
	CU_ASSERT_EQUAL(atomic_load(&executed), 1);
	close(fd);
}

/* As of a server that has stood still meanwhile: calls and the end are there at the same time. */
static void no_calls_that_come_with_the_end(void)
{
	static const int on = 1;
	struct rpc_server *server = serve_at("127.0.0.1", NULL, 4);
	int fd = raw_connect(rpc_server_port(server));

	pause_ms(100);
	atomic_store(&executed, 0);
	setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
	for (unsigned int i = 0; i < 10; i++) {
		const uint32_t words[] = {
			i, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_ECHO, 0, 0, 0, 0, 0, 0};

		raw_send(fd, words, 12);
	}
	shutdown(fd, SHUT_WR);
	CU_ASSERT(raw_is_closed(fd, 1500));
	rpc_server_stop(server);
	CU_ASSERT_EQUAL(atomic_load(&executed), 0);
	close(fd);
}

static void test_calls_of_a_peer_that_has_gone_are_not_begun(void)
{
	no_calls_that_come_with_the_end();
	no_calls_of_who_has_gone(10);
	/* More than are read: the server does not look at the connection for a while. */
	no_calls_of_who_has_gone(300);
}

/*
 * NFS clients send a call again after a minute without an answer. What it writes is not to come
 * after what they write when the first one is answered.
 */
static void test_a_call_under_way_is_not_begun_again(void)
{
	struct rpc_server *server = serve_at("127.0.0.1", NULL, 4);
	int fd = raw_connect(rpc_server_port(server));
	uint32_t call[] = {
		7, 0, 2, TEST_PROGRAM, TEST_VERSION, TEST_ECHO, 0, 0, 0, 0, 1000, 4, 0x01020304};
	uint32_t reply[64] = {0};

	atomic_store(&executed, 0);
	raw_send(fd, call, 13);
	raw_send(fd, call, 13);
	pause_ms(100);
	raw_send(fd, call, 13);
	/* Others are. */
	call[0] = 8;
	call[10] = 0;
	raw_send(fd, call, 13);
	CU_ASSERT(raw_receive(fd, reply, 64) > 0);
	CU_ASSERT_EQUAL(reply[0], 8);
	pause_ms(1500);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6 + 3);
	CU_ASSERT_EQUAL(reply[0], 7);
	CU_ASSERT_EQUAL(atomic_load(&executed), 2);
	/* Who sends it again when it has been answered does not remember that. */
	call[0] = 7;
	raw_send(fd, call, 13);
	CU_ASSERT_EQUAL(raw_receive(fd, reply, 64), 6 + 3);
	CU_ASSERT_EQUAL(atomic_load(&executed), 3);
	close(fd);
	rpc_server_stop(server);
}

/* What a client has given up, and may send again on another connection, is not sent any more. */
static void test_what_was_given_up_does_not_arrive_later(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t address_bytes = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd, room = 4096;
	struct flight flight = FLIGHT_INITIALIZER;
	struct rpc_client *client;
	static char bytes[65536];
	ssize_t received;

	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	CU_ASSERT_EQUAL_FATAL(bind(listener, (struct sockaddr *)&address, address_bytes), 0);
	CU_ASSERT_EQUAL_FATAL(listen(listener, 1), 0);
	CU_ASSERT_EQUAL_FATAL(
		getsockname(listener, (struct sockaddr *)&address, &address_bytes), 0);
	client = rpc_client_create(
		"127.0.0.1", ntohs(address.sin_port), TEST_PROGRAM, TEST_VERSION, NULL);
	for (int i = 0; i < 100; i++)
		take_off(&flight, client, 1000, 0, LONG_MS);
	fd = accept(listener, NULL, NULL);
	CU_ASSERT_FATAL(fd >= 0);
	pause_ms(100);
	rpc_client_destroy(client);
	CU_ASSERT_EQUAL(flight.errors[ECANCELED], 100);
	do {
		received = recv(fd, bytes, sizeof(bytes), 0);
	} while (received > 0);
	CU_ASSERT_EQUAL(received, -1);
	CU_ASSERT_EQUAL(errno, ECONNRESET);
	close(fd);
	close(listener);
}

struct lender {
	struct flight *flight;
	struct test_data result;
	char filling;
};

static void lender_landed(void *context, int error)
{
	struct lender *lender = context;
	struct passenger *passenger = calloc(1, sizeof(*passenger));

	for (uint32_t i = 0; !error && i < lender->result.bytes; i++)
		error = lender->result.value[i] == lender->filling ? 0 : -EILSEQ;
	if (error == -EILSEQ)
		rpc_free(XDR_TEST, &lender->result);
	passenger->flight = lender->flight;
	passenger->result = lender->result;
	landed(passenger, error);
	free(lender);
}

/* Of each size: sent as a whole from where it is, or in part, or not at all at first. */
static void test_arguments_are_the_callers_again_after_the_call(void)
{
	static const uint32_t sizes[] = {16380, 16384, 16385, 100000, 1 << 20, 3 << 20};
	struct rpc_server *server = serve_at("127.0.0.1", &right_key, 2);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;
	char *bytes = malloc(3 << 20);

	/* The first ones find no connection. */
	for (unsigned int i = 0; i < 90; i++) {
		struct lender *lender = calloc(1, sizeof(*lender));
		struct test_data args = {1, sizes[i % 6], bytes};

		*lender = (struct lender){.flight = &flight, .filling = (char)(i + 1)};
		memset(bytes, lender->filling, args.bytes);
		rpc_call_async(client, TEST_ECHO, XDR_TEST, &args, XDR_TEST, &lender->result,
			6 * LONG_MS, lender_landed, lender);
		memset(bytes, 0, args.bytes);
	}
	free(bytes);
	wait_for(&flight, 90);
	CU_ASSERT_EQUAL(flight.ok, 90);
	CU_ASSERT_EQUAL(flight.errors[EILSEQ], 0);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_peer_that_does_not_read_its_answers(void)
{
	struct rpc_server *server = serve(NULL);
	int fd = raw_connect(rpc_server_port(server));
	static uint8_t wire[64 + (1 << 20)];
	const uint32_t header[] = {0x80000000 | (12 * 4 + (1 << 20)), 1, 0, 2, TEST_PROGRAM,
		TEST_VERSION, TEST_ECHO, 0, 0, 0, 0, 0, 1 << 20};
	struct rpc_client *client;
	size_t sent = 0, at = 0, total = 13 * 4 + (1 << 20);
	uint32_t xid = 0;

	for (int i = 0; i < 13; i++)
		((uint32_t *)wire)[i] = htonl(header[i]);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	/* The server stops to read when it has too many answers to deliver. */
	for (int idle = 0; idle < 50 && sent < ((size_t)1 << 30);) {
		if (at == 0)
			((uint32_t *)wire)[1] = htonl(++xid);
		ssize_t bytes = send(fd, wire + at, total - at, MSG_NOSIGNAL);

		if (bytes < 0) {
			idle++;
			pause_ms(10);
			continue;
		}
		idle = 0;
		sent += (size_t)bytes;
		at = (at + (size_t)bytes) % total;
	}
	CU_ASSERT(sent < (size_t)400 << 20);
	client = client_of(server, NULL);
	CU_ASSERT_EQUAL(echo(client, 1000, 0, LONG_MS), 0);
	rpc_client_destroy(client);
	close(fd);
	rpc_server_stop(server);
}

static void call_from_callback(void *context, int error)
{
	void **both = context;
	struct passenger *passenger = calloc(1, sizeof(*passenger));
	struct test_data args = {0};

	CU_ASSERT_EQUAL(error, 0);
	passenger->flight = both[1];
	rpc_call_async(both[0], TEST_ECHO, XDR_TEST, &args, XDR_TEST, &passenger->result, LONG_MS,
		landed, passenger);
}

struct alarm {
	struct rpc_event event;
	unsigned int after_ms;
};

static void *ring(void *argument)
{
	struct alarm *alarm = argument;

	pause_ms(alarm->after_ms);
	rpc_event_set(&alarm->event);
	return NULL;
}

/* Whether it reads sockets meanwhile, or somebody else does, or there are none. */
static void test_event_ends_a_wait(void)
{
	struct rpc_server *server = serve(&right_key);
	struct alarm alarm = {.after_ms = 50};
	int64_t start_us;
	pthread_t thread;

	rpc_event_init(&alarm.event);
	for (unsigned int round = 0; round < 3; round++) {
		struct rpc_client *client = round ? client_of(server, &right_key) : NULL;
		struct flight flight = FLIGHT_INITIALIZER;

		/* After it this thread is the one that reads. */
		if (client)
			CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
		start_us = now_us();
		CU_ASSERT_FALSE(rpc_event_wait(&alarm.event, 30));
		CU_ASSERT(ms_since(start_us) >= 29 && ms_since(start_us) < PROMPT_MS);
		if (round == 2)
			take_off(&flight, client, 10, 1500, LONG_MS);
		start_us = now_us();
		pthread_create(&thread, NULL, ring, &alarm);
		CU_ASSERT_TRUE(rpc_event_wait(&alarm.event, LONG_MS));
		CU_ASSERT(ms_since(start_us) >= 49 && ms_since(start_us) < PROMPT_MS);
		pthread_join(thread, NULL);
		rpc_event_set(&alarm.event);
		CU_ASSERT_TRUE(rpc_event_wait(&alarm.event, UINT_MAX));
		/* Left behind, with nobody who waits for it here. */
		if (round == 2)
			wait_for(&flight, 1);
		rpc_client_destroy(client);
	}
	rpc_event_destroy(&alarm.event);
	rpc_server_stop(server);
}

static void test_answers_come_when_nobody_waits_for_events(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;
	int64_t start_us;

	for (unsigned int round = 1; round <= 20; round++) {
		CU_ASSERT_EQUAL(echo(client, 10, 0, LONG_MS), 0);
		start_us = now_us();
		take_off(&flight, client, 10, 0, LONG_MS);
		wait_for(&flight, round);
		CU_ASSERT(ms_since(start_us) < PROMPT_MS);
	}
	CU_ASSERT_EQUAL(flight.ok, 20);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_calls_may_be_made_in_callbacks(void)
{
	struct rpc_server *server = serve(&right_key);
	struct rpc_client *client = client_of(server, &right_key);
	struct flight flight = FLIGHT_INITIALIZER;
	void *both[2] = {client, &flight};

	rpc_call_async(client, 0, NULL, NULL, NULL, NULL, LONG_MS, call_from_callback, both);
	wait_for(&flight, 1);
	CU_ASSERT_EQUAL(flight.ok, 1);
	rpc_client_destroy(client);
	rpc_server_stop(server);
}

static void test_strings_on_the_wire(void)
{
	struct meta_readlink_res empty = {.status = ENOENT}, decoded = {0};
	struct meta_lookup_args name = {0};
	char bytes[64] = {0};
	uint8_t nul_inside[20] = {0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 'a', 0, 'b', 0};
	XDR xdrs;

	/* A string that was never set is empty, and decoding never gives NULL. */
	xdrmem_ncreate(&xdrs, bytes, sizeof(bytes), XDR_ENCODE);
	CU_ASSERT(xdr_meta_readlink_res(&xdrs, &empty));
	CU_ASSERT_EQUAL(xdr_getpos(&xdrs), 8);
	xdrmem_ncreate(&xdrs, bytes, 8, XDR_DECODE);
	CU_ASSERT(xdr_meta_readlink_res(&xdrs, &decoded));
	CU_ASSERT_STRING_EQUAL(decoded.target, "");
	rpc_free(RPC_XDR(xdr_meta_readlink_res), &decoded);
	CU_ASSERT_PTR_NULL(decoded.target);
	/* "a\0b" is not "a". */
	xdrmem_ncreate(&xdrs, (char *)nul_inside, sizeof(nul_inside), XDR_DECODE);
	CU_ASSERT_FALSE(xdr_meta_lookup_args(&xdrs, &name));
	rpc_free(RPC_XDR(xdr_meta_lookup_args), &name);
	nul_inside[17] = 'x';
	xdrmem_ncreate(&xdrs, (char *)nul_inside, sizeof(nul_inside), XDR_DECODE);
	CU_ASSERT(xdr_meta_lookup_args(&xdrs, &name));
	CU_ASSERT_STRING_EQUAL(name.name, "axb");
	rpc_free(RPC_XDR(xdr_meta_lookup_args), &name);
}

/* Decoders of what comes from outside, fed with damaged encodings. Finds what sanitizers find. */
static void test_stubs_survive_damage(void)
{
	static const struct {
		rpc_xdr xdr;
		size_t bytes;
	} stubs[] = {
		{RPC_XDR(xdr_store_write_args), sizeof(store_write_args)},
		{RPC_XDR(xdr_store_read_res), sizeof(store_read_res)},
		{RPC_XDR(xdr_meta_create_args), sizeof(meta_create_args)},
		{RPC_XDR(xdr_meta_readdir_res), sizeof(meta_readdir_res)},
		{RPC_XDR(xdr_meta_heartbeat_args), sizeof(meta_heartbeat_args)},
		{RPC_XDR(xdr_meta_map_res), sizeof(meta_map_res)},
		{RPC_XDR(xdr_nfs3_write_args), sizeof(nfs3_write_args)},
		{RPC_XDR(xdr_nfs3_read_res), sizeof(nfs3_read_res)},
		{RPC_XDR(xdr_nfs3_fsinfo_res), sizeof(nfs3_fsinfo_res)},
	};
	unsigned int seed = 7, decoded = 0;

	for (int i = 0; i < 20000; i++) {
		size_t which = (size_t)i % (sizeof(stubs) / sizeof(stubs[0]));
		uint32_t words[64] = {0};
		void *object = calloc(1, stubs[which].bytes);
		XDR xdrs;

		for (size_t j = 0; j < 64; j++)
			if (rand_r(&seed) % 3 == 0)
				words[j] = htonl((uint32_t)rand_r(&seed) %
						 (rand_r(&seed) % 4 ? 5 : 1U << 31));
		xdrmem_ncreate(&xdrs, (char *)words, (u_int)((unsigned int)rand_r(&seed) % 65) * 4,
			XDR_DECODE);
		decoded += stubs[which].xdr(&xdrs, object);
		rpc_free(stubs[which].xdr, object);
		free(object);
	}
	CU_ASSERT(decoded > 0 && decoded < 20000);
}

static atomic_uint sink_lines;
static char sink_last[2048];

static void sink(enum rozo_log_level level, const char *line)
{
	(void)level;
	atomic_fetch_add(&sink_lines, 1);
	snprintf(sink_last, sizeof(sink_last), "%s", line);
}

static void test_log(void)
{
	rozo_log_set_sink(sink);
	errno = ENOENT;
	rozo_log(INFO, "one %d", 1);
	CU_ASSERT_EQUAL(errno, ENOENT);
	CU_ASSERT_STRING_EQUAL(sink_last, "one 1");
	rozo_log(DEBUG, "not wanted");
	CU_ASSERT_EQUAL(atomic_load(&sink_lines), 1);
	CU_ASSERT(rozo_log_set_level_by_name("debug"));
	CU_ASSERT_FALSE(rozo_log_set_level_by_name("loud"));
	rozo_log(DEBUG, "wanted");
	CU_ASSERT_EQUAL(atomic_load(&sink_lines), 2);
	rozo_log_set_level(ROZO_LOG_INFO);
	for (int i = 0; i < 12; i++) {
		if (i == 11)
			pause_ms(1050);
		rozo_log_limited(WARNING, "again");
	}
	CU_ASSERT_EQUAL(atomic_load(&sink_lines), 4);
	CU_ASSERT_STRING_EQUAL(sink_last, "again (10 like this were left out)");
	rozo_log_set_sink(NULL);
}

/* -------- other ways to run -------- */

static int serve_forever(uint16_t port)
{
	struct rpc_server *server;

	if (rpc_server_start(&server, "127.0.0.1", port, &program, &right_key, 16))
		return 1;
	(void)!write(STDOUT_FILENO, "ready", 5);
	for (;;)
		pause();
}

static double cpu_us(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void measure_calls(struct rpc_client *client, uint32_t procedure, uint32_t bytes,
	unsigned int in_flight, unsigned int calls)
{
	struct flight flight = FLIGHT_INITIALIZER;
	struct test_data args = {procedure == TEST_READ ? bytes : 0,
		procedure == TEST_READ ? 0 : bytes, calloc(1, bytes + 1)};
	double cpu_before_us = cpu_us();
	int64_t start_us = now_us();
	double seconds;

	for (unsigned int i = 0; i < calls; i++) {
		struct passenger *passenger = calloc(1, sizeof(*passenger));

		if (i >= in_flight)
			wait_for(&flight, i - in_flight + 1);
		passenger->flight = &flight;
		rpc_call_async(client, procedure, XDR_TEST, &args, XDR_TEST, &passenger->result,
			LONG_MS, landed, passenger);
	}
	wait_for(&flight, calls);
	seconds = (double)(now_us() - start_us) / 1e6;
	printf("%s of %7u bytes, %2u in flight: %6.0f calls/s, %5.0f MB/s, client CPU %5.0f us "
	       "each, "
	       "%u failed\n",
		procedure == TEST_READ ? "read" : "echo", bytes, in_flight, calls / seconds,
		calls / seconds * bytes / 1e6, (cpu_us() - cpu_before_us) / calls,
		calls - flight.ok);
	free(args.value);
}

static int measure(void)
{
	struct rpc_client *client;
	int64_t start_us;
	uint16_t port;
	pid_t pid;

	port = unused_port();
	pid = start_process(port);
	client = rpc_client_create("127.0.0.1", port, TEST_PROGRAM, TEST_VERSION, &right_key);
	for (int i = 0; i < 2000; i++)
		echo(client, 16, 0, LONG_MS);
	start_us = now_us();
	for (int i = 0; i < 20000; i++)
		echo(client, 16, 0, LONG_MS);
	printf("small call, one thread: %.1f us\n", (double)(now_us() - start_us) / 20000);
	measure_calls(client, TEST_ECHO, 16, 1, 20000);
	measure_calls(client, TEST_ECHO, 16, 64, 100000);
	measure_calls(client, TEST_READ, 262144, 1, 4000);
	measure_calls(client, TEST_READ, 262144, 8, 8000);
	measure_calls(client, TEST_ECHO, 262144, 8, 4000);
	measure_calls(client, TEST_READ, 1 << 20, 4, 1000);
	rpc_client_destroy(client);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}

static void before_each(void)
{
	atomic_store(&executed, 0);
}

int main(int argc, char **argv)
{
	CU_TestInfo tests[] = {
		{"echo of all sizes", test_echo_of_all_sizes},
		{"64 threads on one connection", test_64_threads_on_one_connection},
		{"slow call does not hold up fast ones", test_slow_call_does_not_hold_up_fast_ones},
		{"NULL is answered when all threads are busy",
			test_null_is_answered_when_all_threads_are_busy},
		{"server rests after a burst", test_server_rests_after_a_burst},
		{"server has the threads it needs", test_server_has_the_threads_it_needs},
		{"connections come and go under load", test_connections_come_and_go_under_load},
		{"timeout marks down until server answers",
			test_timeout_marks_down_until_server_answers},
		{"deadlines end calls in their order", test_deadlines_end_calls_in_their_order},
		{"refused connection costs nothing", test_refused_connection_costs_nothing},
		{"call that meets the first failing attempt ends",
			test_call_that_meets_the_first_failing_attempt_ends},
		{"silent peer costs one wait only", test_silent_peer_costs_one_wait_only},
		{"killed server is noticed and used again",
			test_killed_server_is_noticed_and_used_again},
		{"vanished host is noticed and used again",
			test_vanished_host_is_noticed_and_used_again},
		{"restarted server serves the first call",
			test_restarted_server_serves_the_first_call},
		{"every call ends while servers come and go",
			test_every_call_ends_while_servers_come_and_go},
		{"keys must match", test_keys_must_match},
		{"client refuses a server without the key",
			test_client_refuses_a_server_without_the_key},
		{"MAC is what the protocol says", test_mac_is_what_the_protocol_says},
		{"stranger is turned away", test_stranger_is_turned_away},
		{"wrong proof is answered and closed", test_wrong_proof_is_answered_and_closed},
		{"strangers do not keep others out", test_strangers_do_not_keep_others_out},
		{"garbage harms nobody", test_garbage_harms_nobody},
		{"length of a stranger is not believed", test_length_of_a_stranger_is_not_believed},
		{"fragments and single bytes", test_fragments_and_single_bytes},
		{"unknown things get their own answers", test_unknown_things_get_their_own_answers},
		{"caller is known by AUTH_SYS", test_caller_is_known_by_auth_sys},
		{"errors of calls", test_errors_of_calls},
		{"address in use", test_address_in_use},
		{"destroy ends outstanding calls", test_destroy_ends_outstanding_calls},
		{"stop answers calls being executed", test_stop_answers_calls_being_executed},
		{"IPv6", test_ipv6},
		{"servers side by side", test_servers_side_by_side},
		{"more calls than a connection may have waiting",
			test_more_calls_than_a_connection_may_have_waiting},
		{"calls of a peer that has gone are not begun",
			test_calls_of_a_peer_that_has_gone_are_not_begun},
		{"a call under way is not begun again", test_a_call_under_way_is_not_begun_again},
		{"what was given up does not arrive later",
			test_what_was_given_up_does_not_arrive_later},
		{"arguments are the caller's again after the call",
			test_arguments_are_the_callers_again_after_the_call},
		{"peer that does not read its answers", test_peer_that_does_not_read_its_answers},
		{"event ends a wait", test_event_ends_a_wait},
		{"answers come when nobody waits for events",
			test_answers_come_when_nobody_waits_for_events},
		{"calls may be made in callbacks", test_calls_may_be_made_in_callbacks},
		{"strings on the wire", test_strings_on_the_wire},
		{"stubs survive damage", test_stubs_survive_damage},
		{"log", test_log},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"rpc", NULL, NULL, before_each, NULL, tests},
		CU_SUITE_INFO_NULL,
	};
	unsigned int failures;

	memset(&right_key, 0x5a, sizeof(right_key));
	memset(&wrong_key, 0xa5, sizeof(wrong_key));
	if (argc == 3 && !strcmp(argv[1], "--serve"))
		return serve_forever((uint16_t)atoi(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "--vanish"))
		return vanish();
	if (argc == 2 && !strcmp(argv[1], "--measure"))
		return measure();
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return 2;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? 1 : 0;
}
