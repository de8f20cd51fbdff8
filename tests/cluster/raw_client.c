/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See raw_client.h. No locks: connections are shared by threads, everything else is constant. */
#include "tests/cluster/raw_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void raw_open(struct raw *raw, const char *config_path)
{
	char error[4096];

	memset(raw, 0, sizeof(*raw));
	if (config_load(config_path, &raw->config, error, sizeof(error))) {
		fprintf(stderr, "%s\n", error);
		exit(EXIT_FAILURE);
	}
	const struct config *config = raw->config;
	raw->export = &config->exports[0];
	config_handle_key(config, raw->handle_key);
	raw->meta = rpc_client_create(
		config->exportd_address, config->exportd_port, META_PROGRAM, META_V1, &config->key);
	raw->gateways = calloc(config->node_count, sizeof(*raw->gateways));
	raw->stores = calloc(config->node_count, sizeof(*raw->stores));
	for (size_t i = 0; i < config->node_count; i++) {
		const struct config_node *node = &config->nodes[i];

		raw->gateways[i] = rpc_client_create(
			node->address, node->nfs_port, NFS3_PROGRAM, NFS3_V3, NULL);
		raw->stores[i] = rpc_client_create(
			node->address, node->store_port, STORE_PROGRAM, STORE_V1, &config->key);
	}
}

void raw_close(struct raw *raw)
{
	for (size_t i = 0; i < raw->config->node_count; i++) {
		rpc_client_destroy(raw->gateways[i]);
		rpc_client_destroy(raw->stores[i]);
	}
	free(raw->gateways);
	free(raw->stores);
	rpc_client_destroy(raw->meta);
	config_free(raw->config);
}

uint64_t raw_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void raw_sleep_ms(unsigned int ms)
{
	struct timespec delay = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&delay, NULL);
}

/* The place of a node in config->nodes. */
static size_t place_of(const struct raw *raw, uint32_t node)
{
	for (size_t i = 0; i < raw->config->node_count; i++) {
		if (raw->config->nodes[i].id == node)
			return i;
	}
	fprintf(stderr, "node %u is not in the configuration\n", node);
	exit(EXIT_FAILURE);
}

/* -------- exportd -------- */

static int look_up(struct raw *raw, const char *name, uint64_t *file_id)
{
	meta_lookup_args args = {
		.export_id = raw->export->id, .directory_id = 1, .name = (char *)name};
	meta_attributes_res res = {0};
	int error = rpc_call(raw->meta, META_LOOKUP, RPC_XDR(xdr_meta_lookup_args), &args,
		RPC_XDR(xdr_meta_attributes_res), &res, RAW_CALL_MS);

	if (error)
		return error;
	*file_id = res.attributes.file_id;
	return -(int)res.status;
}

int raw_create(struct raw *raw, const char *name, uint64_t *file_id)
{
	meta_create_args args = {
		.export_id = raw->export->id,
		.directory_id = 1,
		.name = (char *)name,
		.type = META_REGULAR,
		.how = META_CREATE_GUARDED,
		.set = {.mask = META_SET_MODE, .mode = 0644},
		.target = (char *)"",
	};
	meta_create_res res = {0};
	int error = rpc_call(raw->meta, META_CREATE, RPC_XDR(xdr_meta_create_args), &args,
		RPC_XDR(xdr_meta_create_res), &res, RAW_CALL_MS);

	if (error)
		return error;
	if (res.status == EEXIST)
		return look_up(raw, name, file_id);
	*file_id = res.attributes.file_id;
	return -(int)res.status;
}

int raw_remove(struct raw *raw, const char *name)
{
	meta_unlink_args args = {
		.export_id = raw->export->id, .directory_id = 1, .name = (char *)name};
	meta_unlink_res res = {0};
	int error = rpc_call(raw->meta, META_UNLINK, RPC_XDR(xdr_meta_unlink_args), &args,
		RPC_XDR(xdr_meta_unlink_res), &res, RAW_CALL_MS);

	return error ? error : -(int)res.status;
}

int raw_layout(struct raw *raw, uint64_t file_id, struct raw_layout *layout)
{
	meta_layout_args args = {
		.file = {.export_id = raw->export->id, .file_id = file_id},
		.iomode = META_LAYOUT_RW,
	};
	meta_layout_res res = {0};
	int error = rpc_call(raw->meta, META_LAYOUT, RPC_XDR(xdr_meta_layout_args), &args,
		RPC_XDR(xdr_meta_layout_res), &res, RAW_CALL_MS);

	if (error)
		return error;
	if (res.status == 0)
		*layout = (struct raw_layout){
			.node = res.gateways.gateways_val[0], .epoch = res.layout_epoch};
	error = -(int)res.status;
	rpc_free(RPC_XDR(xdr_meta_layout_res), &res);
	return error;
}

int raw_set_size(struct raw *raw, uint64_t file_id, uint64_t size)
{
	meta_setattr_args args = {
		.file = {.export_id = raw->export->id, .file_id = file_id},
		.set = {.mask = META_SET_SIZE, .size = size},
	};
	meta_setattr_res res = {0};
	int error = rpc_call(raw->meta, META_SETATTR, RPC_XDR(xdr_meta_setattr_args), &args,
		RPC_XDR(xdr_meta_setattr_res), &res, RAW_CALL_MS);

	return error ? error : -(int)res.status;
}

int raw_placement(struct raw *raw, uint64_t file_id, struct raw_placement *placement)
{
	meta_placement_args args = {.file = {.export_id = raw->export->id, .file_id = file_id}};
	meta_placement_res res = {0};
	int error = rpc_call(raw->meta, META_PLACEMENT, RPC_XDR(xdr_meta_placement_args), &args,
		RPC_XDR(xdr_meta_placement_res), &res, RAW_CALL_MS);

	if (error)
		return error;
	if (res.status == 0) {
		placement->truncate = res.truncate;
		placement->count = res.nodes.nodes_len;
		memcpy(placement->nodes, res.nodes.nodes_val,
			res.nodes.nodes_len * sizeof(placement->nodes[0]));
		placement->geometry = (store_geometry){
			.form = res.form, .k = res.k, .m = res.m, .row_bytes = res.row_bytes};
	}
	error = -(int)res.status;
	rpc_free(RPC_XDR(xdr_meta_placement_res), &res);
	return error;
}

/* -------- gateways -------- */

bool raw_gateway_up(struct raw *raw, uint32_t node, unsigned int ms)
{
	return rpc_call(raw->gateways[place_of(raw, node)], 0, RPC_XDR(xdr_void), NULL,
		       RPC_XDR(xdr_void), NULL, ms) == 0;
}

static nfs3_handle handle_for(struct raw *raw, uint64_t file_id, uint32_t epoch,
	enum gateway_iomode iomode, uint8_t bytes[GATEWAY_HANDLE_BYTES])
{
	struct gateway_handle handle = {
		.export_id = raw->export->id,
		.file_id = file_id,
		.layout_epoch = epoch,
		.iomode = iomode,
	};

	gateway_handle_encode(&handle, raw->handle_key, bytes);
	return (nfs3_handle){.data = {.data_len = GATEWAY_HANDLE_BYTES, .data_val = (char *)bytes}};
}

int raw_write(struct raw *raw, uint64_t file_id, const struct raw_layout *layout, uint64_t offset,
	const void *bytes, uint32_t length, bool stable, char *verifier)
{
	uint8_t handle[GATEWAY_HANDLE_BYTES];
	nfs3_write_args args = {
		.file = handle_for(raw, file_id, layout->epoch, GATEWAY_RW, handle),
		.offset = offset,
		.count = length,
		.stable = stable ? NFS3_FILE_SYNC : NFS3_UNSTABLE,
		.data = {.data_len = length, .data_val = (char *)(uintptr_t)bytes},
	};
	nfs3_write_res res = {0};
	int error = rpc_call(raw->gateways[place_of(raw, layout->node)], NFS3_WRITE,
		RPC_XDR(xdr_nfs3_write_args), &args, RPC_XDR(xdr_nfs3_write_res), &res,
		RAW_CALL_MS);

	if (error || res.status != NFS3_OK)
		return error ? error : (int)res.status;
	if (res.nfs3_write_res_u.ok.count != length)
		return NFS3ERR_SERVERFAULT;
	if (verifier)
		memcpy(verifier, res.nfs3_write_res_u.ok.verifier, NFS3_WRITEVERFSIZE);
	return 0;
}

int raw_commit(struct raw *raw, uint64_t file_id, const struct raw_layout *layout, char *verifier)
{
	uint8_t handle[GATEWAY_HANDLE_BYTES];
	nfs3_commit_args args = {
		.file = handle_for(raw, file_id, layout->epoch, GATEWAY_RW, handle)};
	nfs3_commit_res res = {0};
	int error = rpc_call(raw->gateways[place_of(raw, layout->node)], NFS3_COMMIT,
		RPC_XDR(xdr_nfs3_commit_args), &args, RPC_XDR(xdr_nfs3_commit_res), &res,
		RAW_CALL_MS);

	if (error || res.status != NFS3_OK)
		return error ? error : (int)res.status;
	memcpy(verifier, res.nfs3_commit_res_u.ok.verifier, NFS3_WRITEVERFSIZE);
	return 0;
}

int raw_read(struct raw *raw, uint32_t node, uint64_t file_id, uint32_t epoch, uint64_t offset,
	uint32_t count, void *bytes, uint32_t *length)
{
	uint8_t handle[GATEWAY_HANDLE_BYTES];
	nfs3_read_args args = {
		.file = handle_for(raw, file_id, epoch, GATEWAY_READ, handle),
		.offset = offset,
		.count = count,
	};
	nfs3_read_res res = {0};
	int error = rpc_call(raw->gateways[place_of(raw, node)], NFS3_READ,
		RPC_XDR(xdr_nfs3_read_args), &args, RPC_XDR(xdr_nfs3_read_res), &res, RAW_CALL_MS);

	if (error)
		return error;
	if (res.status == NFS3_OK) {
		*length = res.nfs3_read_res_u.ok.data.data_len;
		if (*length <= count)
			memcpy(bytes, res.nfs3_read_res_u.ok.data.data_val, *length);
		else
			res.status = NFS3ERR_SERVERFAULT;
	}
	error = (int)res.status;
	rpc_free(RPC_XDR(xdr_nfs3_read_res), &res);
	return error;
}

/* -------- stores -------- */

int raw_headers(struct raw *raw, const struct raw_placement *placement, uint64_t file_id,
	unsigned int shard, uint64_t first_block, uint32_t count, store_read_block *headers)
{
	store_read_args args = {
		.file = {.export_id = raw->export->id, .file_id = file_id},
		.geometry = placement->geometry,
		.shard = shard,
		.first_block = first_block,
		.count = count,
		.headers_only = 1,
	};
	store_read_res res = {0};
	int error = rpc_call(raw->stores[place_of(raw, placement->nodes[shard])], STORE_READ,
		RPC_XDR(xdr_store_read_args), &args, RPC_XDR(xdr_store_read_res), &res,
		RAW_CALL_MS);

	if (error)
		return error;
	error = -(int)res.status;
	if (!error && res.blocks.blocks_len != count)
		error = -EPROTO;
	if (!error)
		memcpy(headers, res.blocks.blocks_val, count * sizeof(*headers));
	rpc_free(RPC_XDR(xdr_store_read_res), &res);
	return error;
}
