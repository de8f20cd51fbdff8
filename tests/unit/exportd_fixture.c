/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The fixture of exportd's tests. The clock is an atomic, so tests with threads may use it.
 */
#include <CUnit/Basic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/clock.h"
#include "exportd/file.h"
#include "exportd/namespace.h"
#include "exportd/namespace_check.h"
#include "exportd_fixture.h"
#include "rpc/log.h"
#include "rpc/rpc.h"

static _Atomic uint64_t fixture_now_ns;

static uint64_t fixture_clock(enum clock_kind kind)
{
	uint64_t now_ns = atomic_load(&fixture_now_ns);

	return kind == CLOCK_KIND_WALL ? 1700000000000000000u + now_ns : now_ns;
}

void fixture_time_ms(uint64_t monotonic_ms)
{
	atomic_store(&fixture_now_ns, monotonic_ms * 1000000u);
	clock_set_source(fixture_clock);
}

static void must(int result, const char *what)
{
	if (result == 0)
		return;
	fprintf(stderr, "fixture: %s: %s\n", what, strerror(-result));
	exit(2);
}

void fixture_open(struct fixture *fixture, uint32_t node_count)
{
	uint32_t i;

	memset(fixture, 0, sizeof(*fixture));
	rozo_log_set_level(ROZO_LOG_ERROR);
	fixture_time_ms(1000);
	snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/rozo-exportd-XXXXXX");
	if (mkdtemp(fixture->directory) == NULL)
		must(-1, "mkdtemp");
	fixture->export = (struct config_export){
		.id = FIXTURE_EXPORT,
		.name = (char *)"data",
		.code = {.form = MOJETTE_NON_SYSTEMATIC, .k = 4, .m = 2},
		.row_bytes = 4096,
		.min_shards = 4,
		.segment_bytes = 1 << 20,
	};
	fixture->config = (struct config){
		.cluster_id = (char *)"test",
		.exportd_address = (char *)"127.0.0.1",
		.exportd_data = fixture->directory,
		.node_down_after_ms = FIXTURE_SILENCE_MS,
		.node_count = node_count,
		.exports = &fixture->export,
		.export_count = 1,
	};
	fixture->config.nodes = calloc(node_count, sizeof(struct config_node));
	for (i = 0; i < node_count; i++) {
		fixture->config.nodes[i].id = i + 1;
		if (asprintf(&fixture->config.nodes[i].failure_domain, "host%u", i + 1) < 0)
			must(-1, "asprintf");
	}
	must(exportd_init(&fixture->config, FIXTURE_MAP_BYTES), "init");
	must(exportd_open(&fixture->config, FIXTURE_MAP_BYTES, &fixture->exportd), "open");
}

void fixture_reopen(struct fixture *fixture)
{
	exportd_close(fixture->exportd);
	must(exportd_open(&fixture->config, FIXTURE_MAP_BYTES, &fixture->exportd), "open again");
}

uint64_t fixture_faults(struct fixture *fixture)
{
	uint64_t faults = 0;

	must(namespace_check(fixture->exportd, FIXTURE_EXPORT, &faults), "check");
	return faults;
}

uint64_t fixture_close(struct fixture *fixture)
{
	static const char *const files[] = {
		"data.mdb", "lock.mdb", "exportd.lock", "checkpoint", "redo-0.log", "redo-1.log"};
	uint64_t faults = fixture_faults(fixture);
	char path[128];
	uint32_t i;

	exportd_close(fixture->exportd);
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", fixture->directory, files[i]);
		unlink(path);
	}
	rmdir(fixture->directory);
	for (i = 0; i < fixture->config.node_count; i++)
		free(fixture->config.nodes[i].failure_domain);
	free(fixture->config.nodes);
	clock_set_source(NULL);
	return faults;
}

int fixture_heartbeat(struct fixture *fixture, uint32_t node, uint64_t boot, uint64_t free_bytes)
{
	struct meta_device device = {
		.path = (char *)"/device",
		.total_bytes = 1ull << 40,
		.free_bytes = free_bytes,
	};
	struct meta_heartbeat_args args = {
		.node = node,
		.boot = boot,
		.devices = {.devices_len = 1, .devices_val = &device},
	};
	struct meta_heartbeat_res result = {0};

	map_heartbeat(fixture->exportd->map, &args, &result);
	return (int)result.status;
}

void fixture_all_up(struct fixture *fixture)
{
	uint32_t i;

	for (i = 0; i < fixture->config.node_count; i++)
		fixture_heartbeat(fixture, fixture->config.nodes[i].id, 1, 1ull << 39);
}

static int flip(struct kv_txn *txn, void *context)
{
	const struct record_key *key = context;
	struct kv_bytes value;
	uint8_t copy[512];
	int result = kv_get(txn, record_key_bytes(key), &value);

	if (result != 0)
		return result;
	memcpy(copy, value.data, value.bytes);
	copy[value.bytes - 1] ^= 0x10;
	return kv_put(txn, record_key_bytes(key), (struct kv_bytes){copy, value.bytes});
}

void fixture_flip(struct fixture *fixture, struct record_key key)
{
	must(commit_execute(fixture->exportd->commit, flip, &key), "flip");
}

struct set_epoch {
	uint64_t file_id;
	uint32_t write_epoch;
};

static int set_write_epoch(struct kv_txn *txn, void *context)
{
	const struct set_epoch *set = context;
	struct record_inode inode;
	int result = record_inode_get(txn, FIXTURE_EXPORT, set->file_id, &inode);

	inode.write_epoch = set->write_epoch;
	return result == 0 ? record_inode_put(txn, FIXTURE_EXPORT, set->file_id, &inode) : result;
}

void fixture_set_write_epoch(struct fixture *fixture, uint64_t file_id, uint32_t write_epoch)
{
	struct set_epoch set = {.file_id = file_id, .write_epoch = write_epoch};

	must(commit_execute(fixture->exportd->commit, set_write_epoch, &set), "write epoch");
}

int do_create(struct fixture *fixture, uint64_t directory_id, const char *name, uint32_t type,
	uint64_t *file_id)
{
	struct meta_create_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = directory_id,
		.name = (char *)name,
		.type = type,
		.how = META_CREATE_GUARDED,
		.set = {.mask = META_SET_MODE, .mode = 0644},
		.target = (char *)(type == META_SYMLINK ? "the/target" : ""),
	};
	struct meta_create_res result = {0};

	namespace_create(fixture->exportd, &args, &result);
	if (file_id != NULL)
		*file_id = result.attributes.file_id;
	return (int)result.status;
}

int do_lookup(struct fixture *fixture, uint64_t directory_id, const char *name, uint64_t *file_id)
{
	struct meta_lookup_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = directory_id,
		.name = (char *)name,
	};
	struct meta_attributes_res result = {0};

	namespace_lookup(fixture->exportd, &args, &result);
	if (file_id != NULL)
		*file_id = result.attributes.file_id;
	return (int)result.status;
}

int do_getattr(struct fixture *fixture, uint64_t file_id, struct meta_attributes *attributes)
{
	struct meta_file args = {.export_id = FIXTURE_EXPORT, .file_id = file_id};
	struct meta_attributes_res result = {0};

	namespace_getattr(fixture->exportd, &args, &result);
	*attributes = result.attributes;
	return (int)result.status;
}

struct meta_attributes attributes_of(struct fixture *fixture, uint64_t file_id)
{
	struct meta_attributes attributes;

	must(-do_getattr(fixture, file_id, &attributes), "getattr");
	return attributes;
}

int do_link(struct fixture *fixture, uint64_t file_id, uint64_t directory_id, const char *name)
{
	struct meta_link_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.directory_id = directory_id,
		.name = (char *)name,
	};
	struct meta_attributes_res result = {0};

	namespace_link(fixture->exportd, &args, &result);
	return (int)result.status;
}

static int unlink_any(struct fixture *fixture, uint64_t directory_id, const char *name,
	uint32_t directory, uint64_t *links)
{
	struct meta_unlink_args args = {
		.export_id = FIXTURE_EXPORT,
		.directory_id = directory_id,
		.name = (char *)name,
		.directory = directory,
	};
	struct meta_unlink_res result = {0};

	namespace_unlink(fixture->exportd, &args, &result);
	if (links != NULL)
		*links = result.attributes.links;
	return (int)result.status;
}

int do_unlink(struct fixture *fixture, uint64_t directory_id, const char *name, uint64_t *links)
{
	return unlink_any(fixture, directory_id, name, 0, links);
}

int do_rmdir(struct fixture *fixture, uint64_t directory_id, const char *name)
{
	return unlink_any(fixture, directory_id, name, 1, NULL);
}

int do_rename(struct fixture *fixture, uint64_t from_id, const char *from, uint64_t to_id,
	const char *to, uint64_t *replaced_id)
{
	struct meta_rename_args args = {
		.export_id = FIXTURE_EXPORT,
		.from_directory_id = from_id,
		.to_directory_id = to_id,
		.from_name = (char *)from,
		.to_name = (char *)to,
	};
	struct meta_rename_res result = {0};

	namespace_rename(fixture->exportd, &args, &result);
	if (replaced_id != NULL)
		*replaced_id = result.replaced_id;
	return (int)result.status;
}

int do_set_size(
	struct fixture *fixture, uint64_t file_id, uint64_t size, struct meta_setattr_res *result)
{
	struct meta_setattr_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.set = {.mask = META_SET_SIZE, .size = size},
	};
	struct meta_setattr_res unused;

	if (result == NULL)
		result = &unused;
	memset(result, 0, sizeof(*result));
	file_setattr(fixture->exportd, &args, result);
	return (int)result->status;
}

int do_truncated(struct fixture *fixture, uint64_t file_id, uint32_t write_epoch)
{
	struct meta_truncated_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.write_epoch = write_epoch,
	};
	struct meta_status_res result = {0};

	file_truncated(fixture->exportd, &args, &result);
	return (int)result.status;
}

int do_written(struct fixture *fixture, uint64_t file_id, uint64_t size, uint32_t durable_before,
	struct meta_attributes *attributes)
{
	struct meta_written_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.size = size,
		.durable_before = durable_before,
	};
	struct meta_attributes_res result = {0};

	file_written(fixture->exportd, &args, &result);
	if (attributes != NULL)
		*attributes = result.attributes;
	return (int)result.status;
}

int do_placement(struct fixture *fixture, uint64_t file_id, uint32_t segment, uint32_t allocate,
	struct meta_placement_res *placement, uint32_t *nodes)
{
	struct meta_placement_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.segment = segment,
		.allocate = allocate,
	};
	struct meta_placement_res result = {0};

	file_placement(fixture->exportd, &args, &result);
	if (nodes != NULL && result.nodes.nodes_len > 0)
		memcpy(nodes, result.nodes.nodes_val, result.nodes.nodes_len * sizeof(uint32_t));
	if (placement != NULL)
		*placement = result;
	rpc_free(RPC_XDR(xdr_meta_placement_res), &result);
	if (placement != NULL)
		placement->nodes.nodes_val = NULL;
	return (int)result.status;
}

int do_layout(struct fixture *fixture, uint64_t file_id, uint32_t iomode, uint32_t writers,
	uint64_t client, uint32_t avoid, uint32_t *epoch, uint32_t *gateways, uint32_t *count)
{
	struct meta_layout_args args = {
		.file = {.export_id = FIXTURE_EXPORT, .file_id = file_id},
		.iomode = iomode,
		.writers = writers,
		.client = client,
		.avoid = {.avoid_len = avoid != 0, .avoid_val = &avoid},
	};
	struct meta_layout_res result = {0};

	file_layout(fixture->exportd, &args, &result);
	if (epoch != NULL)
		*epoch = result.layout_epoch;
	*count = result.gateways.gateways_len;
	memset(gateways, 0, 4 * sizeof(uint32_t));
	if (*count > 0)
		memcpy(gateways, result.gateways.gateways_val, *count * sizeof(uint32_t));
	rpc_free(RPC_XDR(xdr_meta_layout_res), &result);
	return (int)result.status;
}

uint64_t commits_of(struct fixture *fixture)
{
	uint64_t operations, commits;

	commit_counts(fixture->exportd->commit, &operations, &commits);
	return commits;
}

int fixture_run(CU_SuiteInfo *suites)
{
	unsigned int failures;

	rozo_log_set_level(ROZO_LOG_ERROR);
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
		fprintf(stderr, "%s\n", CU_get_error_msg());
		return 1;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
