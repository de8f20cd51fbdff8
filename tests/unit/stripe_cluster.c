/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See stripe_cluster.h. */
#include "stripe_cluster.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rpc/meta.h"
#include "rpc/store.h"
#include "volatile_io.h"

struct cluster cluster;

/* -------- exportd -------- */

static void hold(atomic_bool *held)
{
	if (!atomic_load(held))
		return;
	atomic_fetch_add(&cluster.held, 1);
	while (atomic_load(held))
		usleep(1000);
}

static void meta_placement(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_placement_args *args = arguments;
	meta_placement_res *res = result;

	(void)context;
	(void)caller;
	if (args->file.file_id >= FILES_MAX) {
		res->status = ESTALE;
		return;
	}
	hold(&cluster.hold_placement);
	usleep(atomic_load(&cluster.placement_delay_ms) * 1000);
	pthread_mutex_lock(&cluster.lock);
	struct test_file *file = &cluster.files[args->file.file_id];
	if (file->unknown) {
		pthread_mutex_unlock(&cluster.lock);
		res->status = ESTALE;
		return;
	}
	res->layout_epoch = 1 + file->layouts;
	if (args->met_epoch > file->write_epoch && !cluster.knows_better)
		file->write_epoch = file->valid_epoch = args->met_epoch + 1;
	bool claimed = !cluster.claims ||
		       (file->writer == args->writer && file->claimed_epoch == file->write_epoch);
	if (args->writer && !claimed && !args->if_free) {
		file->writer = args->writer;
		file->claimed_epoch = ++file->write_epoch;
		claimed = true;
	}
	res->write_epoch = file->write_epoch;
	res->claimed = args->writer && claimed;
	res->truncate = file->truncate;
	res->truncate_size = file->truncate_size;
	res->attributes.size = file->size;
	if (args->allocate && args->segment >= file->segment_count)
		file->segment_count = args->segment + 1;
	res->segment_count = file->segment_count;
	cluster.placements_asked++;
	pthread_mutex_unlock(&cluster.lock);
	if (args->segment >= res->segment_count ||
		(args->segment && args->segment < file->hole_until)) {
		res->status = ENOENT;
		res->next_segment =
			args->segment < file->hole_until ? file->hole_until : META_SEGMENTS_MAX;
		return;
	}
	res->write_gateway = res->layout_epoch;
	unsigned int n = cluster.code.k + cluster.code.m;
	res->nodes.nodes_val = calloc(n, sizeof(uint32_t));
	res->nodes.nodes_len = n;
	for (unsigned int s = 0; s < n; s++)
		res->nodes.nodes_val[s] =
			file->moved[s]
				? file->moved[s]
				: (uint32_t)((s + args->file.file_id + args->segment) % n) + 1;
	res->rebuilding = file->rebuilding;
	res->switch_epoch = file->switch_epoch;
	res->since.since_val = calloc(n, sizeof(uint32_t));
	res->since.since_len = n;
	res->origins.origins_val = calloc(n, sizeof(meta_origin));
	for (unsigned int s = 0; s < n; s++) {
		if (!(file->rebuilding & (1u << s)))
			continue;
		res->since.since_val[s] = file->since[s];
		res->origins.origins_val[res->origins.origins_len++] = (meta_origin){
			.node = (uint32_t)((s + args->file.file_id + args->segment) % n) + 1,
			.shard = s,
			.until = file->since[s]};
	}
	res->form = cluster.code.form;
	res->k = cluster.code.k;
	res->m = cluster.code.m;
	res->row_bytes = cluster.row_bytes;
	res->min_shards = cluster.min_shards;
	res->segment_blocks = cluster.segment_blocks;
	hold(&cluster.hold_placed);
}

static void meta_written(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_written_args *args = arguments;
	meta_attributes_res *res = result;

	(void)context;
	(void)caller;
	pthread_mutex_lock(&cluster.lock);
	struct test_file *file = &cluster.files[args->file.file_id];
	if (args->write_epoch && args->write_epoch < file->write_epoch)
		res->status = EAGAIN;
	else if (args->size > file->size)
		file->size = args->size;
	res->attributes.size = file->size;
	pthread_mutex_unlock(&cluster.lock);
	hold(&cluster.hold_written);
}

static void meta_truncated(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_truncated_args *args = arguments;

	(void)context;
	(void)caller;
	pthread_mutex_lock(&cluster.lock);
	if (cluster.files[args->file.file_id].write_epoch == args->write_epoch)
		cluster.files[args->file.file_id].truncate = false;
	else if (cluster.files[args->file.file_id].truncate)
		((meta_status_res *)result)->status = EAGAIN;
	pthread_mutex_unlock(&cluster.lock);
}

static void meta_check_epoch(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const meta_check_epoch_args *args = arguments;

	(void)context;
	(void)caller;
	usleep(atomic_load(&cluster.check_delay_ms) * 1000);
	pthread_mutex_lock(&cluster.lock);
	const struct test_file *file = &cluster.files[args->file.file_id];
	if (args->write_epoch < (file->truncate ? file->write_epoch : file->valid_epoch))
		((meta_status_res *)result)->status = EAGAIN;
	pthread_mutex_unlock(&cluster.lock);
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
	[META_TRUNCATED] = META(meta_truncated, meta_truncated_args, meta_status_res),
	[META_CHECK_EPOCH] = META(meta_check_epoch, meta_check_epoch_args, meta_status_res),
};

void meta_call(uint32_t procedure, const void *arguments, void *result)
{
	meta_procedures[procedure].handler(NULL, NULL, arguments, result);
}

uint32_t begin_truncation(uint64_t id, uint64_t size)
{
	pthread_mutex_lock(&cluster.lock);
	struct test_file *file = &cluster.files[id];
	if (!file->truncate || size < file->truncate_size)
		file->truncate_size = size;
	file->size = size;
	file->truncate = true;
	uint32_t epoch = file->valid_epoch = ++file->write_epoch;
	pthread_mutex_unlock(&cluster.lock);
	return epoch;
}

int truncate_file(struct stripe_file *file, uint64_t id, uint64_t size)
{
	begin_truncation(id, size);
	return stripe_truncate(file, size);
}

/* -------- nodes and engines -------- */

/* A store's READ, on a node that may be slow. */
static void slow_read(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	struct store *store = context;

	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (atomic_load(&cluster.nodes[i].served) != store)
			continue;
		atomic_fetch_add(&cluster.nodes[i].reads, 1);
		usleep(atomic_load(&cluster.nodes[i].read_delay_ms) * 1000);
	}
	(void)caller;
	store_read(store, arguments, result);
}

void node_start(unsigned int i)
{
	struct test_node *node = &cluster.nodes[i];
	const char *devices[] = {node->directory, node->second_directory};
	struct store_options options = {
		.cluster_id = "unit",
		.node_id = i + 1,
		.devices = devices,
		.device_count = cluster.two_devices ? 2 : 1,
		/*
		 * So small that it is checkpointed and gone round in every test; none on disks,
		 * where a checkpoint waits for all that the machine's other processes write.
		 */
		.log_bytes = cluster.in_memory ? 96 << 10 : 0,
		.io = cluster.in_memory ? &volatile_io : NULL,
	};
	char error[512] = "";

	int failed = store_open(&node->store, &options, error, sizeof(error));
	if (failed)
		fprintf(stderr, "store_open: %s\n", error);
	CU_ASSERT_EQUAL_FATAL(failed, 0);
	if (cluster.in_memory)
		return;
	store_program(node->store, &node->program);
	CU_ASSERT_FATAL(node->program.procedure_count <= STRIPE_PROCEDURES);
	memcpy(node->procedures, node->program.procedures,
		node->program.procedure_count * sizeof(node->procedures[0]));
	node->procedures[STORE_READ].handler = slow_read;
	atomic_store(&node->served, node->store);
	node->program.procedures = node->procedures;
	failed = rpc_server_start(
		&node->server, cluster.host, node->port, &node->program, &cluster.key, 8);
	CU_ASSERT_EQUAL_FATAL(failed, 0);
}

/* Has engines notice now which connections are at their end; they would within KEEPER_MS. */
static void notice_ends(void)
{
	struct rpc_event event;

	rpc_event_init(&event);
	rpc_event_wait(&event, 0);
	rpc_event_destroy(&event);
}

void node_stop(unsigned int i)
{
	if (cluster.nodes[i].server)
		rpc_server_stop(cluster.nodes[i].server);
	store_close(cluster.nodes[i].store);
	cluster.nodes[i].server = NULL;
	cluster.nodes[i].store = NULL;
	notice_ends();
}

bool node_is_up(unsigned int i)
{
	return cluster.nodes[i].store != NULL;
}

void move_shard_to(uint64_t id, unsigned int shard, unsigned int node)
{
	pthread_mutex_lock(&cluster.lock);
	cluster.files[id].moved[shard] = node + 1;
	cluster.files[id].rebuilding |= 1u << shard;
	cluster.files[id].switch_epoch = ++cluster.files[id].write_epoch;
	cluster.files[id].since[shard] = cluster.files[id].switch_epoch;
	pthread_mutex_unlock(&cluster.lock);
}

unsigned int move_shard(uint64_t id, unsigned int shard, unsigned int spare)
{
	unsigned int node = (unsigned int)(cluster.code.k + cluster.code.m) + spare;

	move_shard_to(id, shard, node);
	return node;
}

void end_rebuilding(uint64_t id, unsigned int shard)
{
	pthread_mutex_lock(&cluster.lock);
	cluster.files[id].rebuilding &= ~(1u << shard);
	if (cluster.files[id].since[shard] > cluster.files[id].valid_epoch)
		cluster.files[id].valid_epoch = cluster.files[id].since[shard];
	if (cluster.files[id].rebuilding == 0)
		cluster.files[id].switch_epoch = 0;
	pthread_mutex_unlock(&cluster.lock);
}

static struct stripe *engine_create_with(struct stripe_options *options)
{
	struct stripe_node nodes[NODES_MAX];
	struct stripe *stripe = NULL;

	for (unsigned int i = 0; i < cluster.node_count; i++)
		nodes[i] = (struct stripe_node){
			.id = i + 1, .address = cluster.host, .store_port = cluster.nodes[i].port};
	options->nodes = nodes;
	options->node_count = cluster.node_count;
	options->exportd_address = cluster.host;
	options->exportd_port = cluster.meta_port;
	options->key = &cluster.key;
	/* In memory, nothing happens but what the test asks for. */
	options->tell_delay_ms = cluster.in_memory ? 3600000 : cluster.tell_delay_ms;
	options->call_timeout_ms = cluster.call_timeout_ms;
	options->gather = cluster.gather;
	options->gather_delay_ms = cluster.in_memory ? 3600000 : cluster.gather_delay_ms;
	options->cache_bytes = cluster.cache_bytes;
	options->files_max = cluster.files_max;
	CU_ASSERT_EQUAL_FATAL(stripe_create(options, &stripe), 0);
	return stripe;
}

struct stripe *engine_create(void)
{
	struct stripe_options options = {0};

	return engine_create_with(&options);
}

struct stripe *engine_create_at(unsigned int node)
{
	struct stripe_options options = {.local_node = node + 1,
		.local_call = store_local_call,
		.local_store = cluster.nodes[node].store};

	return engine_create_with(&options);
}

void engine_start(void)
{
	cluster.stripe = engine_create();
}

uint32_t block_header(uint64_t id, unsigned int shard, uint64_t block, store_read_block *header)
{
	unsigned int n = cluster.code.k + cluster.code.m;
	uint32_t moved = cluster.files[id].moved[shard];
	store_read_args args = {
		.file = {.export_id = EXPORT, .file_id = id},
		.geometry = {.form = cluster.code.form,
			.k = cluster.code.k,
			.m = cluster.code.m,
			.row_bytes = cluster.row_bytes},
		.shard = shard,
		.first_block = block,
		.count = 1,
		.headers_only = 1,
	};
	store_read_res res = {0};

	store_read(cluster.nodes[moved ? moved - 1 : (shard + id) % n].store, &args, &res);
	uint32_t status = res.status;
	if (status == 0)
		*header = res.blocks.blocks_val[0];
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	return status;
}

void wait_decided(uint64_t id, unsigned int shard, uint64_t block)
{
	store_read_block header = {0};

	for (unsigned int i = 0; i < 2000 && header.state != STORE_COMMITTED; i++) {
		if (i)
			usleep(5000);
		CU_ASSERT_EQUAL_FATAL(block_header(id, shard, block, &header), 0);
	}
	CU_ASSERT_EQUAL(header.state, STORE_COMMITTED);
}

/* -------- all of it -------- */

/*
 * A node that is stopped is to have its port when it is started again: so none of those that the
 * kernel gives away, but addresses that differ from process to process (a pid has 22 bits).
 */
static uint16_t next_port(void)
{
	static uint16_t port = 10000;

	return port++;
}

static void set_up(enum mojette_form form, unsigned int k, unsigned int m, uint32_t row_bytes,
	uint64_t segment_blocks)
{
	unsigned int n = k + m;

	memset(cluster.key.bytes, 7, sizeof(cluster.key.bytes));
	snprintf(cluster.host, sizeof(cluster.host), "127.%u.%u.%u",
		64 + ((unsigned int)getpid() >> 16 & 63), (unsigned int)getpid() >> 8 & 255,
		(unsigned int)getpid() & 255);
	cluster.code =
		(struct mojette_code){.form = (uint8_t)form, .k = (uint8_t)k, .m = (uint8_t)m};
	cluster.row_bytes = row_bytes;
	cluster.min_shards = m + 1 > k ? m + 1 : k;
	cluster.segment_blocks = segment_blocks;
	cluster.node_count = n + cluster.spare_nodes;
	pthread_mutex_init(&cluster.lock, NULL);
	for (unsigned int i = 0; i < FILES_MAX; i++)
		cluster.files[i] = (struct test_file){.write_epoch = 1};
}

static void node_init(unsigned int i)
{
	struct test_node *node = &cluster.nodes[i];
	char error[512] = "";

	int failed = store_init_device(cluster.in_memory ? &volatile_io : NULL, node->directory,
		"unit", i + 1, error, sizeof(error));
	if (cluster.two_devices && !failed) {
		failed = store_init_device(
			NULL, node->second_directory, "unit", i + 1, error, sizeof(error));
	}
	if (failed)
		fprintf(stderr, "store_init_device: %s\n", error);
	CU_ASSERT_EQUAL_FATAL(failed, 0);
	node_start(i);
}

void cluster_start(enum mojette_form form, unsigned int k, unsigned int m, uint32_t row_bytes)
{
	cluster.in_memory = false;
	set_up(form, k, m, row_bytes, 40);
	snprintf(cluster.directory, sizeof(cluster.directory), "%s/rozo-stripe-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(cluster.directory));
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		struct test_node *node = &cluster.nodes[i];

		snprintf(node->directory, sizeof(node->directory), "%s/node%u", cluster.directory,
			i + 1);
		CU_ASSERT_EQUAL_FATAL(mkdir(node->directory, 0700), 0);
		snprintf(node->second_directory, sizeof(node->second_directory), "%s/node%u-2",
			cluster.directory, i + 1);
		if (cluster.two_devices)
			CU_ASSERT_EQUAL_FATAL(mkdir(node->second_directory, 0700), 0);
		node->port = next_port();
		atomic_store(&node->read_delay_ms, 0);
		node_init(i);
	}
	cluster.meta_port = next_port();
	cluster.meta_program = (struct rpc_program){.program = META_PROGRAM,
		.version = META_V1,
		.procedures = meta_procedures,
		.procedure_count = sizeof(meta_procedures) / sizeof(meta_procedures[0])};
	CU_ASSERT_EQUAL_FATAL(rpc_server_start(&cluster.meta, cluster.host, cluster.meta_port,
				      &cluster.meta_program, &cluster.key, 4),
		0);
	engine_start();
}

void cluster_start_in_memory(enum mojette_form form, unsigned int k, unsigned int m,
	uint32_t row_bytes, uint64_t segment_blocks)
{
	cluster.in_memory = true;
	set_up(form, k, m, row_bytes, segment_blocks);
	cluster.meta = NULL;
	cluster.meta_port = 1; /* nothing listens: stripe_network.h takes the calls */
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		struct test_node *node = &cluster.nodes[i];
		char machine[16];

		snprintf(machine, sizeof(machine), "/%u", i);
		snprintf(node->directory, sizeof(node->directory), "/%u/device", i);
		CU_ASSERT_EQUAL_FATAL(volatile_io.make_directory(node->directory, 0700), 0);
		CU_ASSERT_EQUAL_FATAL(volatile_io.sync_directory(machine), 0);
		node->port = 1;
		node_init(i);
	}
	engine_start();
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)type;
	(void)where;
	return remove(path);
}

void cluster_stop(void)
{
	if (cluster.stripe)
		stripe_destroy(cluster.stripe);
	cluster.stripe = NULL;
	for (unsigned int i = 0; i < cluster.node_count; i++) {
		if (node_is_up(i))
			node_stop(i);
	}
	if (cluster.meta)
		rpc_server_stop(cluster.meta);
	cluster.meta = NULL;
	if (!cluster.in_memory)
		nftw(cluster.directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* -------- numbers -------- */

static uint64_t random_state;

void random_seed(uint64_t seed)
{
	random_state = seed;
}

uint64_t random_number(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

void fill(uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)random_number();
}
