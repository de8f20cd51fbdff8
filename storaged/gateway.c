/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The procedures of the NFSv3 data server. They check the handle, let the stripe engine work, and
 * turn its errors into NFS statuses that make clients do the right thing:
 *   STALE    the layout is old: the client returns it and asks for a new one
 *   NXIO     a READ that this node cannot serve now: the client tries its next mirror at once
 *   IO       a WRITE or COMMIT that cannot be made durable: the client asks for another layout
 *   JUKEBOX  exportd cannot be reached, or answers of nodes do not come in time, which passes: the
 *            client waits a few seconds
 * No locks of its own; handlers run concurrently.
 */
#include "storaged/gateway.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/nfs3.h"

#define META_TIMEOUT_MS 10000
#define DISK_BLOCK_BYTES 4096

/* -------- statuses -------- */

static nfs3_status status_of(int error, nfs3_status too_few_nodes)
{
	switch (error) {
	case 0:
		return NFS3_OK;
	case -EBADF:
		return NFS3ERR_BADHANDLE;
	case -ESTALE:
		return NFS3ERR_STALE;
	case -EACCES:
		return NFS3ERR_ACCES;
	case -ENOSPC:
		return NFS3ERR_NOSPC;
	case -EFBIG:
	case -EOVERFLOW: /* no write epochs are left: it can be copied, but not written */
		return NFS3ERR_FBIG;
	case -EINVAL:
		return NFS3ERR_INVAL;
	case -EIO:
		return too_few_nodes;
	case -ENOMEM:
		return NFS3ERR_SERVERFAULT;
	default:
		return NFS3ERR_JUKEBOX;
	}
}

/* -------- handles -------- */

/*
 * Takes a reference to the file that a handle names, if the handle is genuine and its layout epoch
 * current. layout_epoch: receives that, or NULL. wanted: GATEWAY_RW for writing, which only the
 * file's write gateway does.
 */
static int file_of(const struct gateway *gateway, const nfs3_handle *bytes,
	enum gateway_iomode wanted, struct stripe_file **file, uint32_t *layout_epoch)
{
	struct gateway_handle handle;
	int error = gateway_handle_decode((const uint8_t *)bytes->data.data_val,
		bytes->data.data_len, gateway->handle_key, &handle);

	if (error)
		return error;
	if (wanted == GATEWAY_RW && handle.iomode != GATEWAY_RW)
		return -EACCES;
	if (wanted == GATEWAY_RW)
		error = stripe_file_get_to_write(
			gateway->stripe, handle.export_id, handle.file_id, file);
	else
		error = stripe_file_get(gateway->stripe, handle.export_id, handle.file_id, file);
	if (error)
		return error;
	if (handle.layout_epoch > stripe_file_layout_epoch(*file) ||
		(wanted == GATEWAY_RW && stripe_file_layout_doubted(*file)))
		error = wanted == GATEWAY_RW ? stripe_file_refresh(*file)
					     : stripe_file_refresh_to_read(*file);
	if (layout_epoch)
		*layout_epoch = handle.layout_epoch;
	if (!error && handle.layout_epoch != stripe_file_layout_epoch(*file))
		error = -ESTALE;
	if (!error && wanted == GATEWAY_RW && stripe_file_write_gateway(*file) != gateway->node_id)
		error = -ESTALE;
	if (error)
		stripe_file_put(*file);
	return error;
}

static void log_failure(
	const char *procedure, const struct rpc_caller *caller, const nfs3_handle *bytes, int error)
{
	struct gateway_handle handle = {0};

	/* Old layouts are everyday events; the rest is for someone to look at. */
	if (error == -ESTALE)
		return;
	if (bytes->data.data_len == GATEWAY_HANDLE_BYTES && error != -EBADF) {
		const uint8_t *b = (const uint8_t *)bytes->data.data_val;
		handle.export_id = (uint32_t)b[4] << 24 | b[5] << 16 | b[6] << 8 | b[7];
		for (unsigned int i = 0; i < 8; i++)
			handle.file_id = handle.file_id << 8 | b[8 + i];
	}
	rozo_log_limited(WARNING, "%s of file %" PRIu32 "/%" PRIu64 " for %s failed: %s", procedure,
		handle.export_id, handle.file_id, caller->address, strerror(-error));
}

/* -------- READ, WRITE, COMMIT -------- */

/* Reads into res; the caller frees it through its XDR. */
static int read_file(struct stripe_file *file, const nfs3_read_args *args, nfs3_read_ok *ok)
{
	uint32_t count = args->count < NFS3_DATA_MAX ? args->count : NFS3_DATA_MAX;
	int error = 0;

	/* The client knows of more bytes than we do: someone else made the file grow. */
	if (args->offset + count > stripe_file_size(file))
		error = stripe_file_refresh_to_read(file);
	if (error)
		return error;
	uint64_t size = stripe_file_size(file);
	uint64_t left = args->offset < size ? size - args->offset : 0;
	if (count > left)
		count = (uint32_t)left;
	ok->eof = args->offset + count >= size;
	if (count == 0)
		return 0;
	ok->data.data_val = malloc(count);
	if (!ok->data.data_val)
		return -ENOMEM;
	error = stripe_read(file, args->offset, ok->data.data_val, count);
	if (error)
		return error;
	ok->data.data_len = count;
	ok->count = count;
	return 0;
}

static void handle_read(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const struct gateway *gateway = context;
	const nfs3_read_args *args = arguments;
	nfs3_read_res *res = result;
	nfs3_read_ok ok = {0};
	struct stripe_file *file;

	int error = args->offset > INT64_MAX
			    ? -EINVAL
			    : file_of(gateway, &args->file, GATEWAY_READ, &file, NULL);
	if (!error) {
		error = read_file(file, args, &ok);
		stripe_file_put(file);
	}
	res->status = status_of(error, NFS3ERR_NXIO);
	if (error) {
		free(ok.data.data_val);
		log_failure("READ", caller, &args->file, error);
		return;
	}
	res->nfs3_read_res_u.ok = ok;
}

static void put_verifier(char *bytes, uint64_t verifier)
{
	memcpy(bytes, &verifier, sizeof(verifier));
}

static void handle_write(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const struct gateway *gateway = context;
	const nfs3_write_args *args = arguments;
	nfs3_write_res *res = result;
	bool stable = args->stable != NFS3_UNSTABLE;
	uint64_t verifier = stripe_write_verifier(gateway->stripe);
	struct stripe_file *file;
	uint32_t layout_epoch;

	int error = args->count == args->data.data_len ? 0 : -EINVAL;
	if (!error)
		error = file_of(gateway, &args->file, GATEWAY_RW, &file, &layout_epoch);
	if (!error) {
		error = stripe_write_under(
			file, layout_epoch, args->offset, args->data.data_val, args->count, stable);
		stripe_file_put(file);
	}
	res->status = status_of(error, NFS3ERR_IO);
	if (error) {
		log_failure("WRITE", caller, &args->file, error);
		return;
	}
	res->nfs3_write_res_u.ok.count = args->count;
	res->nfs3_write_res_u.ok.committed = stable ? NFS3_FILE_SYNC : NFS3_UNSTABLE;
	put_verifier(res->nfs3_write_res_u.ok.verifier, verifier);
}

static void handle_commit(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const struct gateway *gateway = context;
	const nfs3_commit_args *args = arguments;
	nfs3_commit_res *res = result;
	struct stripe_file *file;

	int error = file_of(gateway, &args->file, GATEWAY_RW, &file, NULL);
	if (!error) {
		error = stripe_commit(file);
		stripe_file_put(file);
	}
	res->status = status_of(error, NFS3ERR_IO);
	if (error) {
		log_failure("COMMIT", caller, &args->file, error);
		return;
	}
	put_verifier(res->nfs3_commit_res_u.ok.verifier, stripe_write_verifier(gateway->stripe));
}

/* -------- what a careful client may ask besides -------- */

static int ask_attributes(const struct gateway *gateway, const nfs3_handle *bytes,
	struct gateway_handle *handle, meta_attributes *attributes)
{
	meta_attributes_res answer = {0};
	int error = gateway_handle_decode((const uint8_t *)bytes->data.data_val,
		bytes->data.data_len, gateway->handle_key, handle);

	if (error)
		return error;
	meta_file args = {.export_id = handle->export_id, .file_id = handle->file_id};
	error = rpc_call(stripe_meta(gateway->stripe), META_GETATTR, RPC_XDR(xdr_meta_file), &args,
		RPC_XDR(xdr_meta_attributes_res), &answer, META_TIMEOUT_MS);
	if (error)
		return error;
	error = -(int)answer.status;
	*attributes = answer.attributes;
	rpc_free(RPC_XDR(xdr_meta_attributes_res), &answer);
	return error;
}

static nfs3_time time_of(meta_time time)
{
	return (nfs3_time){.seconds = (uint32_t)time.seconds, .nseconds = time.nanoseconds};
}

static void handle_getattr(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const nfs3_getattr_args *args = arguments;
	nfs3_getattr_res *res = result;
	struct gateway_handle handle;
	meta_attributes from;

	int error = ask_attributes(context, &args->object, &handle, &from);
	res->status = status_of(error, NFS3ERR_IO);
	if (error) {
		log_failure("GETATTR", caller, &args->object, error);
		return;
	}
	res->nfs3_getattr_res_u.attributes = (nfs3_attributes){
		.type = NF3REG,
		.mode = from.mode,
		.nlink = from.links,
		.uid = from.uid,
		.gid = from.gid,
		.size = from.size,
		.used = from.space_used,
		.fsid = handle.export_id,
		.fileid = from.file_id,
		.atime = time_of(from.access_time),
		.mtime = time_of(from.modify_time),
		.ctime = time_of(from.change_time),
	};
}

static void handle_access(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const struct gateway *gateway = context;
	const nfs3_access_args *args = arguments;
	nfs3_access_res *res = result;
	struct gateway_handle handle;

	int error = gateway_handle_decode((const uint8_t *)args->object.data.data_val,
		args->object.data.data_len, gateway->handle_key, &handle);
	res->status = status_of(error, NFS3ERR_IO);
	if (error) {
		log_failure("ACCESS", caller, &args->object, error);
		return;
	}
	uint32_t granted = ACCESS3_READ;
	if (handle.iomode == GATEWAY_RW)
		granted |= ACCESS3_MODIFY | ACCESS3_EXTEND;
	res->nfs3_access_res_u.ok.access = args->access & granted;
}

static void handle_fsstat(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	const struct gateway *gateway = context;
	const nfs3_fsstat_args *args = arguments;
	nfs3_fsstat_res *res = result;
	struct gateway_handle handle;
	meta_statfs_res answer = {0};

	int error = gateway_handle_decode((const uint8_t *)args->root.data.data_val,
		args->root.data.data_len, gateway->handle_key, &handle);
	if (!error) {
		meta_statfs_args ask = {.export_id = handle.export_id};
		error = rpc_call(stripe_meta(gateway->stripe), META_STATFS,
			RPC_XDR(xdr_meta_statfs_args), &ask, RPC_XDR(xdr_meta_statfs_res), &answer,
			META_TIMEOUT_MS);
		if (!error)
			error = -(int)answer.status;
	}
	res->status = status_of(error, NFS3ERR_IO);
	if (error) {
		log_failure("FSSTAT", caller, &args->root, error);
		return;
	}
	res->nfs3_fsstat_res_u.ok.total_bytes = answer.total_bytes;
	res->nfs3_fsstat_res_u.ok.free_bytes = answer.free_bytes;
	res->nfs3_fsstat_res_u.ok.available_bytes = answer.free_bytes;
	res->nfs3_fsstat_res_u.ok.total_files = answer.files;
	rpc_free(RPC_XDR(xdr_meta_statfs_res), &answer);
}

static void handle_fsinfo(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	nfs3_fsinfo_res *res = result;

	(void)context;
	(void)caller;
	(void)arguments;
	res->status = NFS3_OK;
	res->nfs3_fsinfo_res_u.ok = (nfs3_fsinfo_ok){
		.rtmax = NFS3_DATA_MAX,
		.rtpref = NFS3_DATA_MAX,
		.rtmult = DISK_BLOCK_BYTES,
		.wtmax = NFS3_DATA_MAX,
		.wtpref = NFS3_DATA_MAX,
		.wtmult = DISK_BLOCK_BYTES,
		.dtpref = DISK_BLOCK_BYTES,
		.maxfilesize = INT64_MAX,
		.time_delta = {.nseconds = 1},
		.properties = FSF3_HOMOGENEOUS,
	};
}

static void handle_pathconf(
	void *context, const struct rpc_caller *caller, const void *arguments, void *result)
{
	nfs3_pathconf_res *res = result;

	(void)context;
	(void)caller;
	(void)arguments;
	res->status = NFS3_OK;
	res->nfs3_pathconf_res_u.ok = (nfs3_pathconf_ok){
		.linkmax = 1,
		.name_max = META_NAME_MAX,
		.no_trunc = true,
		.chown_restricted = true,
		.case_preserving = true,
	};
}

/* -------- everything else -------- */

/*
 * RFC 1813's failure arms hold only attributes that may be absent: a status and some words that say
 * "no attributes follow". So one type serves all procedures.
 */
struct unsupported {
	uint32_t words; /* after the status */
};

static bool xdr_unsupported(XDR *xdrs, void *object)
{
	const struct unsupported *res = object;
	uint32_t value = NFS3ERR_NOTSUPP;

	if (xdrs->x_op != XDR_ENCODE)
		return xdrs->x_op == XDR_FREE;
	if (!xdr_uint32_t(xdrs, &value))
		return false;
	value = 0;
	for (uint32_t i = 0; i < res->words; i++) {
		if (!xdr_uint32_t(xdrs, &value))
			return false;
	}
	return true;
}

#define UNSUPPORTED(function_name, word_count)                                                     \
	static void function_name(                                                                 \
		void *context, const struct rpc_caller *caller, const void *args, void *result)    \
	{                                                                                          \
		(void)context;                                                                     \
		(void)caller;                                                                      \
		(void)args;                                                                        \
		((struct unsupported *)result)->words = word_count;                                \
	}

UNSUPPORTED(unsupported_attributes, 1) /* post_op_attr */
UNSUPPORTED(unsupported_wcc, 2) /* wcc_data */
UNSUPPORTED(unsupported_link, 3) /* post_op_attr, wcc_data */
UNSUPPORTED(unsupported_rename, 4) /* two wcc_data */

#define SERVED(procedure_name, args_type, result_type)                                             \
	{                                                                                          \
		.name = #procedure_name, .handler = handle_##procedure_name,                       \
		.args_xdr = RPC_XDR(xdr_##args_type), .args_bytes = sizeof(args_type),             \
		.result_xdr = RPC_XDR(xdr_##result_type), .result_bytes = sizeof(result_type)      \
	}

#define REFUSED(procedure_name, handler_name)                                                      \
	{                                                                                          \
		.name = #procedure_name, .handler = handler_name, .result_xdr = xdr_unsupported,   \
		.result_bytes = sizeof(struct unsupported)                                         \
	}

/* By the numbers of RFC 1813 section 3.3. */
static const struct rpc_procedure procedures[] = {
	[1] = SERVED(getattr, nfs3_getattr_args, nfs3_getattr_res),
	[2] = REFUSED(setattr, unsupported_wcc),
	[3] = REFUSED(lookup, unsupported_attributes),
	[4] = SERVED(access, nfs3_access_args, nfs3_access_res),
	[5] = REFUSED(readlink, unsupported_attributes),
	[6] = SERVED(read, nfs3_read_args, nfs3_read_res),
	[7] = SERVED(write, nfs3_write_args, nfs3_write_res),
	[8] = REFUSED(create, unsupported_wcc),
	[9] = REFUSED(mkdir, unsupported_wcc),
	[10] = REFUSED(symlink, unsupported_wcc),
	[11] = REFUSED(mknod, unsupported_wcc),
	[12] = REFUSED(remove, unsupported_wcc),
	[13] = REFUSED(rmdir, unsupported_wcc),
	[14] = REFUSED(rename, unsupported_rename),
	[15] = REFUSED(link, unsupported_link),
	[16] = REFUSED(readdir, unsupported_attributes),
	[17] = REFUSED(readdirplus, unsupported_attributes),
	[18] = SERVED(fsstat, nfs3_fsstat_args, nfs3_fsstat_res),
	[19] = SERVED(fsinfo, nfs3_fsinfo_args, nfs3_fsinfo_res),
	[20] = SERVED(pathconf, nfs3_pathconf_args, nfs3_pathconf_res),
	[21] = SERVED(commit, nfs3_commit_args, nfs3_commit_res),
};

void gateway_program(struct gateway *gateway, struct rpc_program *program)
{
	*program = (struct rpc_program){
		.program = NFS3_PROGRAM,
		.version = NFS3_V3,
		.procedures = procedures,
		.procedure_count = sizeof(procedures) / sizeof(procedures[0]),
		.context = gateway,
	};
}
