/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * bench/stripe: the stripe engine against a file of the local file system, in one run.
 *
 * The stores, each behind its own RPC server on loopback, an exportd reduced to what the engine
 * asks of it, and the engine of a gateway on the first node are all in this process, so that its
 * CPU time is that of all parties. Each operation is done by a few threads, as a gateway's, and by
 * as many threads on a local file of the same file system, with the same flushes, in turns;
 * reported are medians over the rounds of the rates and of the per-round ratios. Rates are user
 * bytes.
 *
 * A goal is half of the local rate, divided by n/k for bytes that are written n/k times.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mojette/mojette.h"
#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/rpc.h"
#include "rpc/store.h"
#include "storaged/store.h"
#include "stripe/stripe.h"

#define HOST "127.0.0.1"
#define NODES_MAX 12
#define EXPORT 1
#define FILES_MAX 4096
#define ROUNDS_MAX 51
#define THREADS_MAX 16
#define PIECE_BYTES ((size_t)1 << 20)
#define PAGE_BYTES ((size_t)4096)

static struct {
	char directory[256];
	struct rpc_key key;
	struct mojette_code code;
	unsigned int node_count;
	struct store *stores[NODES_MAX];
	struct rpc_server *servers[NODES_MAX];
	uint16_t ports[NODES_MAX];
	struct rpc_program programs[NODES_MAX], meta_program;
	struct rpc_server *meta;
	struct stripe *stripe;
	_Atomic uint64_t sizes[FILES_MAX];
} cluster;

static struct {
	unsigned int rounds, threads;
	size_t bytes;
	bool streams; /* only the first operations of a fresh file */
	const char *directory, *only, *json_path;
	FILE *json;
} options = {.rounds = 5, .threads = 4, .bytes = 64 << 20, .directory = "/var/tmp", .only = ""};

static void fail(const char *what, int error)
{
	fprintf(stderr, "stripe: %s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(1);
}

static void check(const char *what, int error)
{
	if (error)
		fail(what, error);
}

/* -------- an exportd that knows sizes -------- */

static void meta_placement(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_placement_args *args = arguments;
	meta_placement_res *res = result;
	unsigned int n = cluster.node_count;

	(void)context;
	(void)caller;
	res->layout_epoch = res->write_epoch = res->write_gateway = 1;
	res->attributes.size = atomic_load(&cluster.sizes[args->file.file_id % FILES_MAX]);
	res->nodes.nodes_val = calloc(n, sizeof(uint32_t));
	res->nodes.nodes_len = n;
	for (unsigned int s = 0; s < n; s++)
		res->nodes.nodes_val[s] = (uint32_t)((s + args->file.file_id) % n) + 1;
	res->form = cluster.code.form;
	res->k = cluster.code.k;
	res->m = cluster.code.m;
	res->row_bytes = PAGE_BYTES;
	res->min_shards = n / 2 + 1 > cluster.code.k ? n / 2 + 1 : cluster.code.k;
	res->segment_blocks = 1 << 22;
	res->segment_count = 1;
}

static void meta_written(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_written_args *args = arguments;
	_Atomic uint64_t *size = &cluster.sizes[args->file.file_id % FILES_MAX];
	uint64_t known = atomic_load(size);

	(void)context;
	(void)caller;
	while (known < args->size && !atomic_compare_exchange_weak(size, &known, args->size))
		;
	((meta_attributes_res *)result)->attributes.size = atomic_load(size);
}

/* Nobody truncates. */
static void meta_check_epoch(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	(void)context;
	(void)caller;
	(void)arguments;
	((meta_status_res *)result)->status = 0;
}

#define META(procedure_name, args_type, result_type)                                               \
	{                                                                                          \
		.name = #procedure_name, .handler = procedure_name,                                \
		.args_xdr = RPC_XDR(xdr_##args_type), .args_bytes = sizeof(args_type),             \
		.result_xdr = RPC_XDR(xdr_##result_type), .result_bytes = sizeof(result_type)      \
	}

static const struct rpc_procedure meta_procedures[] = {
	[META_PLACEMENT] = META(meta_placement, meta_placement_args, meta_placement_res),
	[META_WRITTEN] = META(meta_written, meta_written_args, meta_attributes_res),
	[META_CHECK_EPOCH] = META(meta_check_epoch, meta_check_epoch_args, meta_status_res),
};

/* -------- the cluster -------- */

static void node_directory(unsigned int i, char *path, size_t size)
{
	snprintf(path, size, "%s/node%u", cluster.directory, i + 1);
}

static void node_start(unsigned int i)
{
	char path[300], error[512] = "";
	const char *devices[] = {path};

	node_directory(i, path, sizeof(path));
	struct store_options store = {
		.cluster_id = "bench", .node_id = i + 1, .devices = devices, .device_count = 1};
	if (store_open(&cluster.stores[i], &store, error, sizeof(error)))
		fail(error, EIO);
	store_program(cluster.stores[i], &cluster.programs[i]);
	check("a store's server", rpc_server_start(&cluster.servers[i], HOST, cluster.ports[i],
					  &cluster.programs[i], &cluster.key, 8));
	cluster.ports[i] = rpc_server_port(cluster.servers[i]);
}

static void node_stop(unsigned int i)
{
	rpc_server_stop(cluster.servers[i]);
	store_close(cluster.stores[i]);
	cluster.stores[i] = NULL;
}

static void cluster_start(struct mojette_code code)
{
	struct stripe_node nodes[NODES_MAX];
	char path[300], error[512] = "";

	cluster.code = code;
	cluster.node_count = code.k + code.m;
	memset(cluster.key.bytes, 1, sizeof(cluster.key.bytes));
	for (unsigned int i = 0; i < FILES_MAX; i++)
		atomic_store(&cluster.sizes[i], 0);
	snprintf(cluster.directory, sizeof(cluster.directory), "%s/rozo-bench-XXXXXX",
		options.directory);
	if (!mkdtemp(cluster.directory))
		fail(cluster.directory, errno);
	cluster.meta_program = (struct rpc_program){.program = META_PROGRAM,
		.version = META_V1,
		.procedures = meta_procedures,
		.procedure_count = sizeof(meta_procedures) / sizeof(meta_procedures[0])};
	check("exportd's server",
		rpc_server_start(&cluster.meta, HOST, 0, &cluster.meta_program, &cluster.key, 4));
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		node_directory(i, path, sizeof(path));
		if (mkdir(path, 0700))
			fail(path, errno);
		if (store_init_device(NULL, path, "bench", i + 1, error, sizeof(error)))
			fail(error, EIO);
		cluster.ports[i] = 0;
		node_start(i);
		nodes[i] = (struct stripe_node){
			.id = i + 1, .address = HOST, .store_port = cluster.ports[i]};
	}
	struct stripe_options engine = {
		.nodes = nodes,
		.node_count = cluster.node_count,
		.exportd_address = HOST,
		.exportd_port = rpc_server_port(cluster.meta),
		.key = &cluster.key,
		.local_node = 1,
		.local_call = store_local_call,
		.local_store = cluster.stores[0],
		.gather = true,
	};
	check("the engine", stripe_create(&engine, &cluster.stripe));
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)type;
	(void)where;
	return remove(path);
}

static void cluster_stop(void)
{
	stripe_destroy(cluster.stripe);
	for (unsigned int i = 0; i < cluster.node_count; i++)
		node_stop(i);
	rpc_server_stop(cluster.meta);
	nftw(cluster.directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* -------- one measurement -------- */

struct measure {
	double rate; /* 10^6 user bytes a second */
	double per_core; /* the same for each second of CPU time, of all parties */
	double operations; /* a second */
	double messages; /* to stores, for each operation */
	double reads; /* of them STORE_READ */
};

struct target {
	struct stripe_file *file; /* NULL: the local file */
	int descriptor;
};

enum access { STREAM_WRITE, STREAM_READ, PAGE_WRITE, PAGE_READ };

struct job {
	const struct target *target;
	enum access access;
	bool stable;
	size_t count; /* of operations */
	uint32_t *pages; /* for PAGE_*: where, in pages */
	uint8_t *source;
	atomic_size_t next;
	atomic_int error;
};

static int transfer(struct job *job, size_t i, uint8_t *buffer)
{
	bool write = job->access == STREAM_WRITE || job->access == PAGE_WRITE;
	bool page = job->access == PAGE_WRITE || job->access == PAGE_READ;
	size_t length = page ? PAGE_BYTES : PIECE_BYTES;
	uint64_t offset = page ? (uint64_t)job->pages[i] * PAGE_BYTES : (uint64_t)i * PIECE_BYTES;
	const uint8_t *bytes = job->source + i % 61 * 8;
	const struct target *target = job->target;

	if (target->file)
		return write ? stripe_write(target->file, offset, bytes, length, job->stable)
			     : stripe_read(target->file, offset, buffer, length);
	ssize_t done = write ? pwrite(target->descriptor, bytes, length, (off_t)offset)
			     : pread(target->descriptor, buffer, length, (off_t)offset);
	if (done != (ssize_t)length)
		return done < 0 ? -errno : -EIO;
	return write && job->stable && fdatasync(target->descriptor) ? -errno : 0;
}

static void *work(void *argument)
{
	struct job *job = argument;
	uint8_t *buffer = malloc(PIECE_BYTES);

	for (size_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) {
		int error = transfer(job, i, buffer);
		if (error)
			atomic_store(&job->error, error);
	}
	free(buffer);
	return NULL;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint64_t messages(const struct stripe_counters *counters)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < STRIPE_PROCEDURES; i++)
		sum += counters->calls[i];
	return sum;
}

/* Does a job; a write that is not stable is committed, or synced, once at its end. */
static struct measure run(struct job *job)
{
	bool write = job->access == STREAM_WRITE || job->access == PAGE_WRITE;
	bool page = job->access == PAGE_WRITE || job->access == PAGE_READ;
	struct stripe_counters before, after;
	pthread_t threads[THREADS_MAX];

	atomic_store(&job->next, 0);
	atomic_store(&job->error, 0);
	stripe_counters(cluster.stripe, &before);
	double cpu = cpu_seconds(), start = seconds();
	for (unsigned int i = 0; i < options.threads; i++)
		check("a thread", pthread_create(&threads[i], NULL, work, job));
	for (unsigned int i = 0; i < options.threads; i++)
		pthread_join(threads[i], NULL);
	if (write && !job->stable && job->target->file)
		check("commit", stripe_commit(job->target->file));
	else if (write && !job->stable && fdatasync(job->target->descriptor))
		fail("fdatasync", errno);
	double elapsed = seconds() - start;
	cpu = cpu_seconds() - cpu;
	check("reading or writing", atomic_load(&job->error));
	stripe_counters(cluster.stripe, &after);
	double count = (double)job->count;
	double bytes = count * (double)(page ? PAGE_BYTES : PIECE_BYTES) / 1e6;
	return (struct measure){
		.rate = bytes / elapsed,
		.per_core = bytes / cpu,
		.operations = count / elapsed,
		.messages = (double)(messages(&after) - messages(&before)) / count,
		.reads = (double)(after.calls[STORE_READ] - before.calls[STORE_READ]) / count,
	};
}

/* -------- rounds -------- */

struct row {
	const char *name;
	bool goal; /* whether the ratio has one */
	unsigned int count;
	struct measure ours[ROUNDS_MAX], local[ROUNDS_MAX];
};

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return a < b ? -1 : a > b;
}

static double median(const struct row *row, double (*value)(const struct row *row, unsigned int i))
{
	double values[ROUNDS_MAX] = {0};

	for (unsigned int i = 0; i < row->count; i++)
		values[i] = value(row, i);
	qsort(values, row->count, sizeof(values[0]), compare);
	return values[row->count / 2];
}

#define VALUE(value_name, expression)                                                              \
	static double value_name(const struct row *row, unsigned int i)                            \
	{                                                                                          \
		return expression;                                                                 \
	}
VALUE(our_rate, row->ours[i].rate)
VALUE(our_per_core, row->ours[i].per_core)
VALUE(our_operations, row->ours[i].operations)
VALUE(our_messages, row->ours[i].messages)
VALUE(our_reads, row->ours[i].reads)
VALUE(local_rate, row->local[i].rate)
VALUE(local_per_core, row->local[i].per_core)
VALUE(ratio, row->ours[i].rate / row->local[i].rate)

static void report(const struct row *row)
{
	static bool first = true;
	const struct mojette_code *code = &cluster.code;
	const char *form = code->form == MOJETTE_SYSTEMATIC ? "sys" : "non-sys";
	double goal = 0.5 * code->k / (code->k + code->m);
	char verdict[32] = "";
	bool compared = row->local[0].rate > 0;

	if (row->goal)
		snprintf(verdict, sizeof(verdict), "%.2f %s", goal,
			median(row, ratio) >= goal ? "met" : "MISSED");
	printf("%-7s %u+%u %-30s %8.1f %8.1f %9.0f %8.1f %6.2f ", form, code->k, code->m, row->name,
		median(row, our_rate), median(row, our_per_core), median(row, our_operations),
		compared ? median(row, local_rate) : 0.0, compared ? median(row, ratio) : 0.0);
	printf("%7.2f %6.2f  %s\n", median(row, our_messages), median(row, our_reads), verdict);
	fflush(stdout);
	if (!options.json)
		return;
	fprintf(options.json,
		"%s\n  {\"form\": \"%s\", \"protection\": \"%u+%u\", \"operation\": \"%s\", "
		"\"mb_per_s\": %.2f, \"mb_per_cpu_s\": %.2f, \"operations_per_s\": %.1f, "
		"\"messages_per_operation\": %.3f, \"reads_per_operation\": %.3f",
		first ? "[" : ",", form, code->k, code->m, row->name, median(row, our_rate),
		median(row, our_per_core), median(row, our_operations), median(row, our_messages),
		median(row, our_reads));
	if (compared)
		fprintf(options.json,
			", \"local_mb_per_s\": %.2f, \"local_mb_per_cpu_s\": %.2f, \"ratio\": %.4f",
			median(row, local_rate), median(row, local_per_core), median(row, ratio));
	if (row->goal)
		fprintf(options.json, ", \"goal\": %.4f", goal);
	fprintf(options.json, "}");
	first = false;
}

static int drop_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)where;
	if (type != FTW_F)
		return 0;
	int descriptor = open(path, O_RDONLY | O_CLOEXEC);
	if (descriptor < 0)
		return 0;
	fdatasync(descriptor);
	posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
	close(descriptor);
	return 0;
}

/* Drops everything below the cluster's directory from memory. */
static void drop_caches(void)
{
	nftw(cluster.directory, drop_entry, 16, FTW_PHYS);
}

/* -------- the operations -------- */

enum {
	WRITE_UNSTABLE,
	WRITE_STABLE,
	READ_COLD,
	READ_HOT,
	PAGES_UNCACHED,
	PAGES_CACHED,
	PAGES_CACHED_STABLE,
	PAGES_READ,
	ROWS,
};

static struct row rows[ROWS] = {
	[WRITE_UNSTABLE] = {"write 1 MiB, commit at the end", true},
	[WRITE_STABLE] = {"write 1 MiB, each stable"},
	[READ_COLD] = {"read 1 MiB from disk", true},
	[READ_HOT] = {"read 1 MiB from page caches"},
	[PAGES_UNCACHED] = {"write 4 KiB, not cached"},
	[PAGES_CACHED] = {"write 4 KiB, cached"},
	[PAGES_CACHED_STABLE] = {"write 4 KiB, cached, stable"},
	[PAGES_READ] = {"read 4 KiB from page caches"},
};

#define CACHED_PAGES 512
#define STABLE_PAGES 128

static uint64_t random_number(void)
{
	static uint64_t state = 88172645463325252;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Places in different blocks; those of a page are a fixed one of its block. */
static void choose_pages(uint32_t *pages, size_t count)
{
	size_t blocks = options.bytes / PAGE_BYTES / cluster.code.k;
	uint32_t *order = malloc(blocks * sizeof(*order));

	if (!order)
		fail("memory", ENOMEM);
	for (size_t i = 0; i < blocks; i++)
		order[i] = (uint32_t)i;
	for (size_t i = 0; i < count; i++) {
		/* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): count <= blocks, see --mib */
		size_t other = i + random_number() % (blocks - i);
		uint32_t block = order[other];
		order[other] = order[i];
		order[i] = block;
		pages[i] = block * cluster.code.k + (uint32_t)(random_number() % cluster.code.k);
	}
	free(order);
}

/* The same operation on both, in turns of who is first. */
static void both(unsigned int round, struct row *row, struct target targets[2], struct job *job)
{
	for (unsigned int i = 0; i < 2; i++) {
		bool ours = (i + round) % 2 == 0;

		job->target = &targets[ours ? 0 : 1];
		struct measure measure = run(job);
		if (ours)
			row->ours[round] = measure;
		else
			row->local[round] = measure;
	}
	row->count = round + 1;
}

static void open_targets(struct target targets[2], uint64_t id)
{
	char path[300];

	check("attaching", stripe_file_get(cluster.stripe, EXPORT, id, &targets[0].file));
	snprintf(path, sizeof(path), "%s/local%" PRIu64, cluster.directory, id);
	targets[1].file = NULL;
	targets[1].descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (targets[1].descriptor < 0)
		fail(path, errno);
}

static void close_targets(struct target targets[2], uint64_t id)
{
	char path[300];

	stripe_file_put(targets[0].file);
	close(targets[1].descriptor);
	snprintf(path, sizeof(path), "%s/local%" PRIu64, cluster.directory, id);
	unlink(path);
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		store_remove_args args = {.file = {EXPORT, 0, id}};
		store_status_res res = {0};

		store_local_call(cluster.stores[i], STORE_REMOVE, &args, &res);
	}
}

static void run_round(unsigned int round, uint8_t *source)
{
	static uint64_t id;
	struct target targets[2];
	size_t pieces = options.bytes / PIECE_BYTES;
	uint32_t pages[CACHED_PAGES];
	struct job stream = {.access = STREAM_WRITE, .count = pieces, .source = source};
	struct job page = {.access = PAGE_WRITE, .pages = pages, .source = source};

	open_targets(targets, ++id);
	stream.stable = true;
	both(round, &rows[WRITE_STABLE], targets, &stream);
	close_targets(targets, id);
	open_targets(targets, ++id);
	stream.stable = false;
	both(round, &rows[WRITE_UNSTABLE], targets, &stream);
	drop_caches();
	stream.access = STREAM_READ;
	both(round, &rows[READ_COLD], targets, &stream);
	both(round, &rows[READ_HOT], targets, &stream);
	if (options.streams) {
		close_targets(targets, id);
		return;
	}
	choose_pages(pages, CACHED_PAGES);
	page.count = CACHED_PAGES;
	both(round, &rows[PAGES_UNCACHED], targets, &page);
	both(round, &rows[PAGES_CACHED], targets, &page);
	page.stable = true;
	page.count = STABLE_PAGES;
	both(round, &rows[PAGES_CACHED_STABLE], targets, &page);
	page.access = PAGE_READ;
	page.count = CACHED_PAGES;
	both(round, &rows[PAGES_READ], targets, &page);
	close_targets(targets, id);
}

/* What a caller of one whole-block write waits for, once the file's size is known. */
static void count_round_trips(uint8_t *source)
{
	static const bool ways[] = {true, false};
	struct stripe_file *file;

	check("attaching", stripe_file_get(cluster.stripe, EXPORT, FILES_MAX - 1, &file));
	size_t block = stripe_file_block_bytes(file);
	check("write", stripe_write(file, 0, source, 4 * block, true));
	for (unsigned int way = 0; way < 2; way++) {
		struct stripe_counters before, after;

		usleep(200000); /* what is decided has been told: that is not waited for */
		stripe_counters(cluster.stripe, &before);
		check("write", stripe_write(file, block, source, block, ways[way]));
		stripe_counters(cluster.stripe, &after);
		uint64_t rounds = after.rounds - before.rounds;
		printf("%s write of one block: %" PRIu64 " round trip%s, %" PRIu64
		       " messages (goal: %u)%s\n",
			ways[way] ? "stable" : "unstable", rounds, rounds == 1 ? "" : "s",
			messages(&after) - messages(&before), ways[way] ? 2 : 1,
			rounds <= (ways[way] ? 2 : 1) ? "" : " MISSED");
	}
	check("commit", stripe_commit(file));
	stripe_file_put(file);
}

/* User bytes a second of a file whose shards on one node are all made anew. */
static void measure_healing(uint8_t *source)
{
	struct row row = {.name = "heal one node", .count = 1};
	struct stripe_counters before, after;
	struct stripe_file *file;
	uint64_t left = 0, healed = 0;

	check("attaching", stripe_file_get(cluster.stripe, EXPORT, FILES_MAX - 2, &file));
	node_stop(cluster.node_count - 1);
	for (size_t offset = 0; offset < options.bytes; offset += PIECE_BYTES)
		check("write", stripe_write(file, offset, source, PIECE_BYTES, false));
	check("commit", stripe_commit(file));
	node_start(cluster.node_count - 1);
	uint32_t all = (1u << cluster.node_count) - 1;
	for (unsigned int i = 0; i < 1000 && stripe_shards_up(file, 0) != all; i++)
		usleep(10000);
	stripe_counters(cluster.stripe, &before);
	double cpu = cpu_seconds(), start = seconds();
	size_t blocks = options.bytes / stripe_file_block_bytes(file);
	check("healing", stripe_heal(file, 0, 0, (uint32_t)blocks, &healed, &left));
	double elapsed = seconds() - start;
	cpu = cpu_seconds() - cpu;
	stripe_counters(cluster.stripe, &after);
	if (left || healed < blocks)
		fail("healing left something", EIO);
	row.ours[0] = (struct measure){
		.rate = (double)options.bytes / 1e6 / elapsed,
		.per_core = (double)options.bytes / 1e6 / cpu,
		.operations = (double)healed / elapsed,
		.messages = (double)(messages(&after) - messages(&before)) / (double)healed,
		.reads = (double)(after.calls[STORE_READ] - before.calls[STORE_READ]) /
			 (double)healed,
	};
	report(&row);
	stripe_file_put(file);
}

static void bench(struct mojette_code code, uint8_t *source)
{
	cluster_start(code);
	for (unsigned int round = 0; round < options.rounds; round++)
		run_round(round, source);
	for (unsigned int i = 0; i < ROWS; i++) {
		if (rows[i].count)
			report(&rows[i]);
	}
	if (!options.streams)
		measure_healing(source);
	count_round_trips(source);
	cluster_stop();
}

static size_t number(const char *name, size_t least, size_t most)
{
	char *end;
	unsigned long value = strtoul(optarg, &end, 10);

	if (*end || value < least || value > most) {
		fprintf(stderr, "stripe: --%s %s: give a number from %zu to %zu\n", name, optarg,
			least, most);
		exit(2);
	}
	return value;
}

static const char usage[] =
	"usage: stripe [options]\n"
	"  --rounds N     rounds of each operation (default 5, at most 51)\n"
	"  --mib N        user bytes of each file, 16 to 1024 MiB (default 64)\n"
	"  --threads N    threads that read and write (default 4, at most 16)\n"
	"  --dir DIR      where the stores and the local file are made (default /var/tmp)\n"
	"  --only TEXT    protections whose \"form k+m\" contains TEXT, such as 'non-sys 4+2'\n"
	"  --streams      only streaming reads and writes\n"
	"  --json FILE    also write the results there\n";

int main(int argc, char **argv)
{
	static const struct option known[] = {{"rounds", required_argument, NULL, 'r'},
		{"mib", required_argument, NULL, 'm'}, {"threads", required_argument, NULL, 't'},
		{"dir", required_argument, NULL, 'd'}, {"only", required_argument, NULL, 'o'},
		{"json", required_argument, NULL, 'j'}, {"streams", no_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'}, {0}};
	static const struct mojette_code codes[] = {{MOJETTE_NON_SYSTEMATIC, 2, 1},
		{MOJETTE_NON_SYSTEMATIC, 4, 2}, {MOJETTE_NON_SYSTEMATIC, 8, 4},
		{MOJETTE_SYSTEMATIC, 2, 1}, {MOJETTE_SYSTEMATIC, 4, 2}, {MOJETTE_SYSTEMATIC, 8, 4}};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 'r':
			options.rounds = (unsigned int)number("rounds", 1, ROUNDS_MAX);
			break;
		case 'm':
			options.bytes = number("mib", 16, 1024) << 20;
			break;
		case 't':
			options.threads = (unsigned int)number("threads", 1, THREADS_MAX);
			break;
		case 'd':
			options.directory = optarg;
			break;
		case 'o':
			options.only = optarg;
			break;
		case 's':
			options.streams = true;
			break;
		case 'j':
			options.json_path = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	rozo_log_set_level(ROZO_LOG_ERROR);
	if (options.json_path && !(options.json = fopen(options.json_path, "w")))
		fail(options.json_path, errno);
	uint8_t *source = malloc(options.bytes + PIECE_BYTES);
	if (!source)
		fail("memory", ENOMEM);
	for (size_t i = 0; i < options.bytes + PIECE_BYTES; i += 8)
		*(uint64_t *)(source + i) = random_number();
	printf("%u rounds, files of %zu MiB, %u threads; 10^6 user bytes a second, medians\n",
		options.rounds, options.bytes >> 20, options.threads);
	printf("%-7s %-3s %-30s %8s %8s %9s %8s %6s %7s %6s  %s\n", "code", "", "operation", "MB/s",
		"/CPU-s", "ops/s", "local", "ratio", "msg/op", "read", "goal");
	for (unsigned int i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s %u+%u",
			codes[i].form == MOJETTE_SYSTEMATIC ? "sys" : "non-sys", codes[i].k,
			codes[i].m);
		if (strstr(name, options.only))
			bench(codes[i], source);
	}
	free(source);
	if (options.json) {
		fprintf(options.json, "\n]\n");
		if (fclose(options.json))
			fail(options.json_path, errno);
	}
	return 0;
}
