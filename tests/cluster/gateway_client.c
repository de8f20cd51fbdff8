/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A plain NFSv3 client of the gateways, with the cluster key so that it can make handles itself:
 * what handles open which doors, what READ, WRITE and COMMIT answer, and how long.
 *
 *   gateway_client CLUSTER.JSON gateway     the tests of gateway-speaks-nfsv3.sh
 *   gateway_client CLUSTER.JSON write MS    one stable write of 1 MiB to a new file in at most MS
 *   gateway_client CLUSTER.JSON write-files COUNT [FROM]
 *       new files of 1 MiB, each with bytes of its own, with the numbers FROM (0) to COUNT
 *   gateway_client CLUSTER.JSON rewrite-files COUNT
 *       changes 64 pieces of each, across blocks
 *   gateway_client CLUSTER.JSON read-files COUNT [REWRITTEN]
 *       reads them through every gateway that is up, when REWRITTEN (0) have been changed so
 *   gateway_client CLUSTER.JSON remove-file ID
 *       removes the one with this file id
 *   gateway_client CLUSTER.JSON read-rest ID COUNT
 *       as read-files, after that
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "rpc/gateway_handle.h"
#include "rpc/meta.h"
#include "rpc/nfs3.h"
#include "rpc/rpc.h"

#define TIMEOUT_MS 30000
#define MIB 1048576

static struct config *config;
static struct rpc_client *meta;
static uint8_t handle_key[GATEWAY_HANDLE_KEY_BYTES];

static struct rpc_client *gateway_of(uint32_t node_id)
{
	const struct config_node *node = config_node(config, node_id);

	return rpc_client_create(node->address, node->nfs_port, NFS3_PROGRAM, NFS3_V3, NULL);
}

/* A new empty file in the root of the first export. */
static uint64_t make_file(const char *name)
{
	meta_create_args args = {
		.export_id = config->exports[0].id,
		.directory_id = 1,
		.name = (char *)name,
		.type = META_REGULAR,
		.how = META_CREATE_GUARDED,
		.set = {.mask = META_SET_MODE, .mode = 0644},
		.target = (char *)"",
	};
	meta_create_res res = {0};

	CU_ASSERT_EQUAL_FATAL(rpc_call(meta, META_CREATE, RPC_XDR(xdr_meta_create_args), &args,
				      RPC_XDR(xdr_meta_create_res), &res, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL_FATAL(res.status, 0);
	return res.attributes.file_id;
}

/* The layout that exportd gives out. Returns the status; *node and *epoch receive it. */
static uint32_t layout(uint64_t file_id, uint32_t *node, uint32_t *epoch)
{
	meta_layout_args args = {
		.file = {.export_id = config->exports[0].id, .file_id = file_id},
		.iomode = META_LAYOUT_RW,
	};
	meta_layout_res res = {0};

	CU_ASSERT_EQUAL_FATAL(rpc_call(meta, META_LAYOUT, RPC_XDR(xdr_meta_layout_args), &args,
				      RPC_XDR(xdr_meta_layout_res), &res, TIMEOUT_MS),
		0);
	uint32_t status = res.status;
	if (status == 0) {
		*node = res.gateways.gateways_val[0];
		*epoch = res.layout_epoch;
	}
	rpc_free(RPC_XDR(xdr_meta_layout_res), &res);
	return status;
}

static uint64_t size_of(uint64_t file_id)
{
	meta_file args = {.export_id = config->exports[0].id, .file_id = file_id};
	meta_attributes_res res = {0};

	CU_ASSERT_EQUAL_FATAL(rpc_call(meta, META_GETATTR, RPC_XDR(xdr_meta_file), &args,
				      RPC_XDR(xdr_meta_attributes_res), &res, TIMEOUT_MS),
		0);
	return res.attributes.size;
}

struct bytes {
	uint8_t data[NFS3_FHSIZE];
	uint32_t length;
};

static struct bytes handle_for(uint64_t file_id, uint32_t epoch, enum gateway_iomode iomode)
{
	struct gateway_handle handle = {
		.export_id = config->exports[0].id,
		.file_id = file_id,
		.layout_epoch = epoch,
		.iomode = iomode,
	};
	struct bytes bytes = {.length = GATEWAY_HANDLE_BYTES};

	gateway_handle_encode(&handle, handle_key, bytes.data);
	return bytes;
}

static nfs3_handle wire(struct bytes *bytes)
{
	return (nfs3_handle){.data = {.data_len = bytes->length, .data_val = (char *)bytes->data}};
}

static nfs3_status write_bytes(struct rpc_client *gateway, struct bytes *handle, uint64_t offset,
	const uint8_t *data, uint32_t length, nfs3_stable stable, nfs3_write_ok *ok)
{
	nfs3_write_args args = {
		.file = wire(handle),
		.offset = offset,
		.count = length,
		.stable = stable,
		.data = {.data_len = length, .data_val = (char *)data},
	};
	nfs3_write_res res = {0};
	int error = rpc_call(gateway, NFS3_WRITE, RPC_XDR(xdr_nfs3_write_args), &args,
		RPC_XDR(xdr_nfs3_write_res), &res, TIMEOUT_MS);

	CU_ASSERT_EQUAL(error, 0);
	if (error)
		return NFS3ERR_SERVERFAULT;
	if (ok && res.status == NFS3_OK)
		*ok = res.nfs3_write_res_u.ok;
	return res.status;
}

static nfs3_status commit(struct rpc_client *gateway, struct bytes *handle, char *verifier)
{
	nfs3_commit_args args = {.file = wire(handle)};
	nfs3_commit_res res = {0};

	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_COMMIT, RPC_XDR(xdr_nfs3_commit_args), &args,
				RPC_XDR(xdr_nfs3_commit_res), &res, TIMEOUT_MS),
		0);
	if (res.status == NFS3_OK)
		memcpy(verifier, res.nfs3_commit_res_u.ok.verifier, NFS3_WRITEVERFSIZE);
	return res.status;
}

static nfs3_status read_bytes(struct rpc_client *gateway, struct bytes *handle, uint64_t offset,
	uint32_t count, uint8_t *data, uint32_t *length, bool *eof)
{
	nfs3_read_args args = {.file = wire(handle), .offset = offset, .count = count};
	nfs3_read_res res = {0};

	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_READ, RPC_XDR(xdr_nfs3_read_args), &args,
				RPC_XDR(xdr_nfs3_read_res), &res, TIMEOUT_MS),
		0);
	nfs3_status status = res.status;
	if (status == NFS3_OK) {
		const nfs3_read_ok *ok = &res.nfs3_read_res_u.ok;
		CU_ASSERT_EQUAL(ok->count, ok->data.data_len);
		*length = ok->data.data_len;
		*eof = ok->eof;
		memcpy(data, ok->data.data_val, ok->data.data_len);
	}
	rpc_free(RPC_XDR(xdr_nfs3_read_res), &res);
	return status;
}

static uint8_t *pattern(size_t length)
{
	uint8_t *bytes = malloc(length);

	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(i * 31 + (i >> 12));
	return bytes;
}

/* -------- tests -------- */

static void data_written_unstably_is_there_before_and_after_commit(void)
{
	uint64_t file = make_file("unstable");
	uint32_t node, epoch, length = 0;
	uint8_t *data = pattern(MIB), *read = malloc(MIB);
	nfs3_write_ok ok = {0};
	char verifier[NFS3_WRITEVERFSIZE] = "";
	bool eof = false;

	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct rpc_client *gateway = gateway_of(node);
	struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
	CU_ASSERT_EQUAL(write_bytes(gateway, &handle, 0, data, MIB, NFS3_UNSTABLE, &ok), NFS3_OK);
	CU_ASSERT_EQUAL(ok.count, MIB);
	CU_ASSERT_EQUAL(ok.committed, NFS3_UNSTABLE);
	CU_ASSERT_EQUAL(read_bytes(gateway, &handle, 0, MIB, read, &length, &eof), NFS3_OK);
	CU_ASSERT_EQUAL(length, MIB);
	CU_ASSERT_TRUE(eof);
	CU_ASSERT_EQUAL(memcmp(data, read, MIB), 0);
	CU_ASSERT_EQUAL(size_of(file), 0);
	CU_ASSERT_EQUAL(commit(gateway, &handle, verifier), NFS3_OK);
	CU_ASSERT_EQUAL(memcmp(verifier, ok.verifier, sizeof(verifier)), 0);
	CU_ASSERT_EQUAL(size_of(file), MIB);
	/* Any other gateway serves the same bytes. */
	struct bytes reader = handle_for(file, epoch, GATEWAY_READ);
	for (size_t i = 0; i < config->node_count; i++) {
		struct rpc_client *other = gateway_of(config->nodes[i].id);
		memset(read, 0, MIB);
		CU_ASSERT_EQUAL(
			read_bytes(other, &reader, 1000, MIB, read, &length, &eof), NFS3_OK);
		CU_ASSERT_EQUAL(length, MIB - 1000);
		CU_ASSERT_TRUE(eof);
		CU_ASSERT_EQUAL(memcmp(data + 1000, read, MIB - 1000), 0);
		rpc_client_destroy(other);
	}
	rpc_client_destroy(gateway);
	free(data);
	free(read);
}

static void stable_write_tells_exportd_the_size(void)
{
	uint64_t file = make_file("stable");
	uint32_t node, epoch;
	uint8_t data[100] = {1};
	nfs3_write_ok ok = {0};

	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct rpc_client *gateway = gateway_of(node);
	struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
	CU_ASSERT_EQUAL(
		write_bytes(gateway, &handle, 5000, data, 100, NFS3_DATA_SYNC, &ok), NFS3_OK);
	CU_ASSERT_EQUAL(ok.committed, NFS3_FILE_SYNC);
	CU_ASSERT_EQUAL(size_of(file), 5100);
	rpc_client_destroy(gateway);
}

static void end_of_file_and_holes(void)
{
	uint64_t file = make_file("holes");
	uint32_t node, epoch, length = 0;
	uint8_t byte = 7, read[8192] = {0}, zeros[8192] = {0};
	bool eof = false;

	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct rpc_client *gateway = gateway_of(node);
	struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
	CU_ASSERT_EQUAL(read_bytes(gateway, &handle, 0, 100, read, &length, &eof), NFS3_OK);
	CU_ASSERT_EQUAL(length, 0);
	CU_ASSERT_TRUE(eof);
	CU_ASSERT_EQUAL(
		write_bytes(gateway, &handle, 3 * MIB, &byte, 1, NFS3_FILE_SYNC, NULL), NFS3_OK);
	CU_ASSERT_EQUAL(
		read_bytes(gateway, &handle, MIB, sizeof(read), read, &length, &eof), NFS3_OK);
	CU_ASSERT_EQUAL(length, sizeof(read));
	CU_ASSERT_FALSE(eof);
	CU_ASSERT_EQUAL(memcmp(read, zeros, sizeof(read)), 0);
	CU_ASSERT_EQUAL(
		read_bytes(gateway, &handle, 3 * MIB, sizeof(read), read, &length, &eof), NFS3_OK);
	CU_ASSERT_EQUAL(length, 1);
	CU_ASSERT_TRUE(eof);
	CU_ASSERT_EQUAL(read[0], 7);
	CU_ASSERT_EQUAL(read_bytes(gateway, &handle, 4 * MIB, 10, read, &length, &eof), NFS3_OK);
	CU_ASSERT_EQUAL(length, 0);
	CU_ASSERT_TRUE(eof);
	rpc_client_destroy(gateway);
}

static void handles_are_checked(void)
{
	uint64_t file = make_file("handles");
	uint32_t node, epoch, length = 0;
	uint8_t data[16] = {1}, read[16];
	bool eof = false;

	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct rpc_client *gateway = gateway_of(node);
	struct bytes rw = handle_for(file, epoch, GATEWAY_RW);
	/* One flipped bit anywhere is a forgery. */
	for (unsigned int bit = 0; bit < 8 * rw.length; bit += 5) {
		struct bytes forged = rw;
		forged.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CU_ASSERT_EQUAL(read_bytes(gateway, &forged, 0, 16, read, &length, &eof),
			NFS3ERR_BADHANDLE);
		CU_ASSERT_EQUAL(write_bytes(gateway, &forged, 0, data, 16, NFS3_FILE_SYNC, NULL),
			NFS3ERR_BADHANDLE);
	}
	struct bytes empty = {.length = 0};
	CU_ASSERT_EQUAL(read_bytes(gateway, &empty, 0, 16, read, &length, &eof), NFS3ERR_BADHANDLE);
	/* A handle for reading does not write. */
	struct bytes ro = handle_for(file, epoch, GATEWAY_READ);
	CU_ASSERT_EQUAL(
		write_bytes(gateway, &ro, 0, data, 16, NFS3_FILE_SYNC, NULL), NFS3ERR_ACCES);
	/* Another epoch is stale, be it old or not yet given out. */
	struct bytes old = handle_for(file, epoch - 1, GATEWAY_RW);
	struct bytes future = handle_for(file, epoch + 1, GATEWAY_RW);
	CU_ASSERT_EQUAL(
		write_bytes(gateway, &old, 0, data, 16, NFS3_FILE_SYNC, NULL), NFS3ERR_STALE);
	CU_ASSERT_EQUAL(
		write_bytes(gateway, &future, 0, data, 16, NFS3_FILE_SYNC, NULL), NFS3ERR_STALE);
	/* Nor does a gateway write that is not the file's write gateway. */
	uint32_t other = node == 1 ? 2 : 1;
	struct rpc_client *wrong = gateway_of(other);
	CU_ASSERT_EQUAL(write_bytes(wrong, &rw, 0, data, 16, NFS3_FILE_SYNC, NULL), NFS3ERR_STALE);
	/* A file that is not there. */
	struct bytes gone = handle_for(file + 1000000, epoch, GATEWAY_RW);
	CU_ASSERT_EQUAL(read_bytes(gateway, &gone, 0, 16, read, &length, &eof), NFS3ERR_STALE);
	/* After all that the right handle still works and nothing was written. */
	CU_ASSERT_EQUAL(size_of(file), 0);
	CU_ASSERT_EQUAL(write_bytes(gateway, &rw, 0, data, 16, NFS3_FILE_SYNC, NULL), NFS3_OK);
	rpc_client_destroy(wrong);
	rpc_client_destroy(gateway);
}

/* The status of an answer whose other words do not matter here. */
static bool xdr_status(XDR *xdrs, void *status)
{
	return xdr_uint32_t(xdrs, status);
}

static void other_procedures_and_programs_are_refused(void)
{
	static const uint32_t refused[] = {2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
	uint64_t file = make_file("refused");
	uint32_t node, epoch, status;

	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
	struct rpc_client *gateway = gateway_of(node);
	nfs3_getattr_args args = {.object = wire(&handle)};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		status = 0;
		CU_ASSERT_EQUAL(rpc_call(gateway, refused[i], RPC_XDR(xdr_nfs3_getattr_args), &args,
					xdr_status, &status, TIMEOUT_MS),
			0);
		CU_ASSERT_EQUAL(status, NFS3ERR_NOTSUPP);
	}
	/* Newer Linux clients ask for program 400122 on the same connection and wait for a "no". */
	const struct config_node *at = config_node(config, node);
	struct rpc_client *localio = rpc_client_create(at->address, at->nfs_port, 400122, 1, NULL);
	CU_ASSERT_EQUAL(rpc_call(localio, 1, RPC_XDR(xdr_nfs3_getattr_args), &args, xdr_status,
				&status, TIMEOUT_MS),
		-EPROTO);
	/* And what is served besides READ, WRITE and COMMIT. */
	nfs3_getattr_res attributes = {0};
	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_GETATTR, RPC_XDR(xdr_nfs3_getattr_args), &args,
				RPC_XDR(xdr_nfs3_getattr_res), &attributes, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(attributes.status, NFS3_OK);
	CU_ASSERT_EQUAL(attributes.nfs3_getattr_res_u.attributes.fileid, file);
	nfs3_access_args access = {.object = wire(&handle), .access = 0x3f};
	nfs3_access_res granted = {0};
	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_ACCESS, RPC_XDR(xdr_nfs3_access_args), &access,
				RPC_XDR(xdr_nfs3_access_res), &granted, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(granted.nfs3_access_res_u.ok.access,
		ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND);
	nfs3_fsinfo_args root = {.root = wire(&handle)};
	nfs3_fsinfo_res info = {0};
	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_FSINFO, RPC_XDR(xdr_nfs3_fsinfo_args), &root,
				RPC_XDR(xdr_nfs3_fsinfo_res), &info, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(info.nfs3_fsinfo_res_u.ok.wtmax, MIB);
	nfs3_fsstat_args stat_root = {.root = wire(&handle)};
	nfs3_fsstat_res stat = {0};
	CU_ASSERT_EQUAL(rpc_call(gateway, NFS3_FSSTAT, RPC_XDR(xdr_nfs3_fsstat_args), &stat_root,
				RPC_XDR(xdr_nfs3_fsstat_res), &stat, TIMEOUT_MS),
		0);
	CU_ASSERT_EQUAL(stat.status, NFS3_OK);
	CU_ASSERT(stat.nfs3_fsstat_res_u.ok.total_bytes > 0);
	rpc_client_destroy(localio);
	rpc_client_destroy(gateway);
}

static void strangers_get_nothing_from_the_stores(void)
{
	const struct config_node *node = &config->nodes[0];
	struct rpc_key wrong = config->key;
	uint32_t status = 0;
	nfs3_getattr_args args = {0};

	wrong.bytes[31] ^= 1;
	struct rpc_client *stranger =
		rpc_client_create(node->address, node->store_port, 0x2052a001, 1, &wrong);
	CU_ASSERT_EQUAL(rpc_call(stranger, 10, RPC_XDR(xdr_nfs3_getattr_args), &args, xdr_status,
				&status, TIMEOUT_MS),
		-EACCES);
	rpc_client_destroy(stranger);
	stranger = rpc_client_create(node->address, node->store_port, 0x2052a001, 1, NULL);
	CU_ASSERT_NOT_EQUAL(rpc_call(stranger, 10, RPC_XDR(xdr_nfs3_getattr_args), &args,
				    xdr_status, &status, TIMEOUT_MS),
		0);
	rpc_client_destroy(stranger);
}

/* -------- one write, timed -------- */

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t limit_ms;

static void a_write_is_done_in_time(void)
{
	char name[64];
	uint32_t node = 0, epoch = 0;
	uint8_t *data = pattern(MIB);

	snprintf(name, sizeof(name), "timed-%" PRIu64, now_ms());
	uint64_t file = make_file(name);
	uint64_t start = now_ms();
	CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
	struct rpc_client *gateway = gateway_of(node);
	struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
	nfs3_status status = write_bytes(gateway, &handle, 0, data, MIB, NFS3_FILE_SYNC, NULL);
	uint64_t took = now_ms() - start;
	rpc_client_destroy(gateway);
	free(data);
	printf("write through node %u: status %d after %" PRIu64 " ms\n", node, status, took);
	CU_ASSERT_EQUAL(status, NFS3_OK);
	CU_ASSERT(took <= limit_ms);
}

/* -------- files that are written now and read later -------- */

static uint64_t file_count, first_file;

static uint8_t *file_bytes(uint64_t number)
{
	uint8_t *bytes = pattern(MIB);

	for (size_t i = 0; i < MIB; i++)
		bytes[i] ^= (uint8_t)(number * 73 + (i >> 8) * number);
	return bytes;
}

static void files_are_written(void)
{
	for (uint64_t i = first_file; i < file_count; i++) {
		uint32_t node = 0, epoch = 0;
		uint8_t *data = file_bytes(i);
		char name[64];

		snprintf(name, sizeof(name), "file-%" PRIu64, i);
		uint64_t file = make_file(name);
		CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
		struct rpc_client *gateway = gateway_of(node);
		struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
		CU_ASSERT_EQUAL(
			write_bytes(gateway, &handle, 0, data, MIB, NFS3_FILE_SYNC, NULL), NFS3_OK);
		rpc_client_destroy(gateway);
		free(data);
	}
}

/* Pieces of a file that are changed: none is a whole block, some lie in two. */
#define PIECES 64
#define PIECE_BYTES 5000
#define PIECE_OFFSET(i) ((i) * (MIB / PIECES) + 13000 % (MIB / PIECES))

static uint64_t rewritten; /* the files before this one were */
static uint64_t removed_id; /* 0: none */

static void rewrite(uint8_t *data, uint64_t piece)
{
	size_t offset = PIECE_OFFSET(piece);

	for (size_t i = 0; i < PIECE_BYTES && offset + i < MIB; i++)
		data[offset + i] = (uint8_t)(~data[offset + i] + piece);
}

static uint64_t look_up(const char *name)
{
	meta_lookup_args args = {
		.export_id = config->exports[0].id,
		.directory_id = 1,
		.name = (char *)name,
	};
	meta_attributes_res res = {0};

	CU_ASSERT_EQUAL_FATAL(rpc_call(meta, META_LOOKUP, RPC_XDR(xdr_meta_lookup_args), &args,
				      RPC_XDR(xdr_meta_attributes_res), &res, TIMEOUT_MS),
		0);
	if (res.status == ENOENT && removed_id)
		return removed_id;
	CU_ASSERT_EQUAL_FATAL(res.status, 0);
	return res.attributes.file_id;
}

/* True if somebody listens at a node's gateway. */
static bool is_up(struct rpc_client *gateway)
{
	return rpc_call(gateway, 0, RPC_XDR(xdr_void), NULL, RPC_XDR(xdr_void), NULL, TIMEOUT_MS) ==
	       0;
}

static void a_file_is_removed(void)
{
	bool removed = false;

	/* Not more files than were written in the tests. */
	for (uint64_t i = 0; i < 100 && !removed; i++) {
		char name[64];
		meta_unlink_args args = {
			.export_id = config->exports[0].id, .directory_id = 1, .name = name};
		meta_unlink_res res = {0};

		snprintf(name, sizeof(name), "file-%" PRIu64, i);
		if (look_up(name) != removed_id)
			continue;
		CU_ASSERT_EQUAL(rpc_call(meta, META_UNLINK, RPC_XDR(xdr_meta_unlink_args), &args,
					RPC_XDR(xdr_meta_unlink_res), &res, TIMEOUT_MS),
			0);
		CU_ASSERT_EQUAL(res.status, 0);
		removed = true;
	}
	CU_ASSERT(removed);
}

static void files_are_rewritten(void)
{
	for (uint64_t i = 0; i < file_count; i++) {
		uint32_t node = 0, epoch = 0;
		uint8_t *data = file_bytes(i);
		char name[64];

		snprintf(name, sizeof(name), "file-%" PRIu64, i);
		uint64_t file = look_up(name);
		CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
		struct rpc_client *gateway = gateway_of(node);
		struct bytes handle = handle_for(file, epoch, GATEWAY_RW);
		for (uint64_t piece = 0; piece < PIECES; piece++) {
			size_t offset = PIECE_OFFSET(piece);
			size_t length = offset + PIECE_BYTES < MIB ? PIECE_BYTES : MIB - offset;

			rewrite(data, piece);
			CU_ASSERT_EQUAL(write_bytes(gateway, &handle, offset, data + offset, length,
						NFS3_FILE_SYNC, NULL),
				NFS3_OK);
		}
		rpc_client_destroy(gateway);
		free(data);
	}
}

static void files_are_read(void)
{
	uint8_t *read = malloc(MIB);
	size_t gateways = 0;

	for (size_t n = 0; n < config->node_count; n++) {
		struct rpc_client *gateway = gateway_of(config->nodes[n].id);

		for (uint64_t i = 0; is_up(gateway) && i < file_count; i++) {
			uint32_t node = 0, epoch = 0, length = 0;
			uint8_t *data = file_bytes(i);
			bool eof = false;
			char name[64];

			gateways += i == 0;
			snprintf(name, sizeof(name), "file-%" PRIu64, i);
			uint64_t file = look_up(name);
			if (file == removed_id) {
				free(data);
				continue;
			}
			CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
			struct bytes handle = handle_for(file, epoch, GATEWAY_READ);
			memset(read, 0, MIB);
			CU_ASSERT_EQUAL(
				read_bytes(gateway, &handle, 0, MIB, read, &length, &eof), NFS3_OK);
			CU_ASSERT_EQUAL(length, MIB);
			for (uint64_t piece = 0; i < rewritten && piece < PIECES; piece++)
				rewrite(data, piece);
			CU_ASSERT_EQUAL(memcmp(data, read, MIB), 0);
			free(data);
		}
		rpc_client_destroy(gateway);
	}
	printf("read %" PRIu64 " files through %zu gateways\n", file_count, gateways);
	CU_ASSERT(gateways >= config->exports[0].code.k);
	free(read);
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int compare_times(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

#define TIMED_READS 20
#define TIMED_BYTES 65536

/*
 * Reads pieces of the files through every gateway but one, which hangs: half of all reads must take
 * less than limit_us, and none longer than limit_ms.
 */
static uint32_t hung_node;
static uint64_t limit_us;

static void reads_are_done_in_time(void)
{
	size_t count = 0;
	uint64_t *times = calloc(config->node_count * file_count * TIMED_READS, sizeof(*times));
	uint8_t *read = malloc(TIMED_BYTES);

	for (size_t n = 0; n < config->node_count; n++) {
		if (config->nodes[n].id == hung_node)
			continue;
		struct rpc_client *gateway = gateway_of(config->nodes[n].id);

		for (uint64_t i = 0; i < file_count; i++) {
			uint32_t node = 0, epoch = 0, length = 0;
			uint8_t *data = file_bytes(i);
			bool eof = false;
			char name[64];

			snprintf(name, sizeof(name), "file-%" PRIu64, i);
			uint64_t file = look_up(name);
			CU_ASSERT_EQUAL_FATAL(layout(file, &node, &epoch), 0);
			struct bytes handle = handle_for(file, epoch, GATEWAY_READ);
			for (unsigned int j = 0; j < TIMED_READS; j++) {
				uint64_t offset = (uint64_t)j * (MIB - TIMED_BYTES) / TIMED_READS;
				uint64_t start = now_us();

				CU_ASSERT_EQUAL(read_bytes(gateway, &handle, offset, TIMED_BYTES,
							read, &length, &eof),
					NFS3_OK);
				times[count++] = now_us() - start;
				CU_ASSERT_EQUAL(length, TIMED_BYTES);
				CU_ASSERT_EQUAL(memcmp(data + offset, read, TIMED_BYTES), 0);
			}
			free(data);
		}
		rpc_client_destroy(gateway);
	}
	qsort(times, count, sizeof(*times), compare_times);
	printf("reads: median %" PRIu64 " us, slowest %" PRIu64 " us\n", times[count / 2],
		times[count - 1]);
	CU_ASSERT(times[count / 2] <= limit_us);
	CU_ASSERT(times[count - 1] <= limit_ms * 1000);
	free(times);
	free(read);
}

static int run_tests(CU_TestInfo *tests)
{
	CU_SuiteInfo suites[] = {
		{"gateway", NULL, NULL, NULL, NULL, tests},
		CU_SUITE_INFO_NULL,
	};

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned int failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static CU_TestInfo timed[] = {
		{"a write is done in time", a_write_is_done_in_time},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo writing[] = {
		{"files are written", files_are_written},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo removing[] = {
		{"a file is removed", a_file_is_removed},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo rewriting[] = {
		{"files are rewritten", files_are_rewritten},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo reading[] = {
		{"files are read", files_are_read},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo timed_reading[] = {
		{"reads are done in time", reads_are_done_in_time},
		CU_TEST_INFO_NULL,
	};
	static CU_TestInfo all[] = {
		{"data written unstably is there before and after COMMIT",
			data_written_unstably_is_there_before_and_after_commit},
		{"a stable write tells exportd the size", stable_write_tells_exportd_the_size},
		{"end of file and holes", end_of_file_and_holes},
		{"handles are checked", handles_are_checked},
		{"other procedures and programs are refused",
			other_procedures_and_programs_are_refused},
		{"strangers get nothing from the stores", strangers_get_nothing_from_the_stores},
		CU_TEST_INFO_NULL,
	};
	char error[4096];
	int status = EXIT_FAILURE;

	if (argc < 3 || config_load(argv[1], &config, error, sizeof(error))) {
		fprintf(stderr, "gateway_client: %s\n", argc < 3 ? "arguments missing" : error);
		return EXIT_FAILURE;
	}
	config_handle_key(config, handle_key);
	meta = rpc_client_create(
		config->exportd_address, config->exportd_port, META_PROGRAM, META_V1, &config->key);
	if (!strcmp(argv[2], "gateway")) {
		status = run_tests(all);
	} else if (!strcmp(argv[2], "write") && argc == 4) {
		limit_ms = strtoull(argv[3], NULL, 10);
		status = run_tests(timed);
	} else if (!strcmp(argv[2], "write-files") && (argc == 4 || argc == 5)) {
		first_file = argc == 5 ? strtoull(argv[4], NULL, 10) : 0;
		file_count = strtoull(argv[3], NULL, 10);
		status = run_tests(writing);
	} else if (!strcmp(argv[2], "remove-file") && argc == 4) {
		removed_id = strtoull(argv[3], NULL, 10);
		status = run_tests(removing);
	} else if (!strcmp(argv[2], "read-rest") && argc == 5) {
		removed_id = strtoull(argv[3], NULL, 10);
		file_count = strtoull(argv[4], NULL, 10);
		status = run_tests(reading);
	} else if (!strcmp(argv[2], "rewrite-files") && argc == 4) {
		file_count = strtoull(argv[3], NULL, 10);
		status = run_tests(rewriting);
	} else if (!strcmp(argv[2], "read-files") && (argc == 4 || argc == 5)) {
		rewritten = argc == 5 ? strtoull(argv[4], NULL, 10) : 0;
		file_count = strtoull(argv[3], NULL, 10);
		status = run_tests(reading);
	} else if (!strcmp(argv[2], "time-reads") && argc == 7) {
		file_count = strtoull(argv[3], NULL, 10);
		hung_node = (uint32_t)strtoul(argv[4], NULL, 10);
		limit_us = strtoull(argv[5], NULL, 10);
		limit_ms = strtoull(argv[6], NULL, 10);
		status = run_tests(timed_reading);
	}
	rpc_client_destroy(meta);
	config_free(config);
	return status;
}
