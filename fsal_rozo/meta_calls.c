/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Calls of exportd. Thin: arguments in, results out, errors translated. No locks.
 */
#include "fsal_rozo/meta_calls.h"

#include <errno.h>
#include <string.h>

#include "fsal_up.h"

fsal_status_t meta_status(int error)
{
	static const struct {
		int error;
		fsal_errors_t fsal;
	} table[] = {
		{0, ERR_FSAL_NO_ERROR},
		{EPERM, ERR_FSAL_PERM},
		{ENOENT, ERR_FSAL_NOENT},
		{EIO, ERR_FSAL_IO},
		{ENOMEM, ERR_FSAL_DELAY}, /* of exportd: passes */
		{EACCES, ERR_FSAL_ACCESS},
		{EBUSY, ERR_FSAL_DELAY},
		{EAGAIN, ERR_FSAL_DELAY},
		{EEXIST, ERR_FSAL_EXIST},
		{EXDEV, ERR_FSAL_XDEV},
		{ENOTDIR, ERR_FSAL_NOTDIR},
		{EISDIR, ERR_FSAL_ISDIR},
		{EINVAL, ERR_FSAL_INVAL},
		{EFBIG, ERR_FSAL_FBIG},
		{EOVERFLOW, ERR_FSAL_FBIG}, /* no write epochs are left */
		{ENOSPC, ERR_FSAL_NOSPC},
		{EROFS, ERR_FSAL_ROFS},
		{EMLINK, ERR_FSAL_MLINK},
		{EDQUOT, ERR_FSAL_DQUOT},
		{ENAMETOOLONG, ERR_FSAL_NAMETOOLONG},
		{ENOTEMPTY, ERR_FSAL_NOTEMPTY},
		{ESTALE, ERR_FSAL_STALE},
		{ENOTSUP, ERR_FSAL_NOTSUPP},
	};
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].error == error)
			return fsalstat(table[i].fsal, error);
	return fsalstat(ERR_FSAL_IO, error);
}

/* An error of rpc_call(). */
static fsal_status_t call_status(int error)
{
	switch (error) {
	case -E2BIG: /* names and targets are what can be too long */
		return fsalstat(ERR_FSAL_NAMETOOLONG, ENAMETOOLONG);
	default:
		return fsalstat(ERR_FSAL_DELAY, -error);
	}
}

fsal_status_t meta_stripe_status(int error)
{
	switch (error) {
	case 0:
	case -EIO:
	case -ESTALE:
	case -ENOSPC:
	case -EFBIG:
	case -EOVERFLOW:
	case -EINVAL:
		return meta_status(-error);
	default: /* exportd could not be reached, or it took too long */
		return fsalstat(ERR_FSAL_DELAY, -error);
	}
}

/*
 * The request in which this thread has changed a name or a size. Ganesha asks for attributes after
 * that, and tells the client to repeat the whole request if it does not get them: it would be found
 * done.
 */
static _Thread_local struct rozo_request changed;

static fsal_status_t call(struct rozo_export *export, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result)
{
	bool persist = op_ctx && rozo_request_is_now(&changed), answered = false;
	int error = (persist ? cluster_call_persistently : cluster_call)(export->cluster, procedure,
		args_xdr, args, result_xdr, result, CLUSTER_CALL_MS, &answered);

	if (error == 0)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	return answered ? meta_status(-error) : call_status(error);
}

static fsal_status_t call_once(struct rozo_export *export, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, meta_slot *slot, rpc_xdr result_xdr, void *result)
{
	bool answered;
	int error = cluster_call_once(export->cluster, procedure, args_xdr, args, slot, result_xdr,
		result, CLUSTER_CALL_MS, &answered);

	if (error != 0)
		return answered ? meta_status(-error) : call_status(error);
	changed = rozo_request_now();
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

/*
 * To be called after a change of a file or directory. One that exportd did not answer may still be
 * carried out, and nobody would tell Ganesha: it has to ask again, instead of going on with the
 * names and attributes that it knows.
 */
static void doubt(struct rozo_export *export, fsal_status_t status, uint64_t file_id)
{
	const struct fsal_up_vector *up = export->export.up_ops;
	uint8_t bytes[ROZO_KEY_BYTES];
	struct gsh_buffdesc key = {.addr = bytes, .len = sizeof(bytes)};

	if (status.major != ERR_FSAL_DELAY)
		return;
	rozo_key_encode(export, file_id, bytes);
	up->invalidate(up, &key,
		FSAL_UP_INVALIDATE_ATTRS | FSAL_UP_INVALIDATE_CONTENT |
			FSAL_UP_INVALIDATE_DIR_POPULATED | FSAL_UP_INVALIDATE_DIR_CHUNKS);
}

#define CALL(procedure, args_type, args, result_type, result)                                      \
	call(export, procedure, RPC_XDR(xdr_##args_type), args, RPC_XDR(xdr_##result_type), result)

/* Of a call that must not be executed twice. */
#define CALL_ONCE(procedure, args_type, args, result_type, result)                                 \
	call_once(export, procedure, RPC_XDR(xdr_##args_type), args, &(args)->slot,                \
		RPC_XDR(xdr_##result_type), result)

fsal_status_t meta_attach(
	struct rozo_export *export, uint64_t server, meta_attach_res *result, bool *answered)
{
	meta_attach_args args = {.name = export->export_name, .server = server};
	int error = cluster_call(export->cluster, META_ATTACH, RPC_XDR(xdr_meta_attach_args), &args,
		RPC_XDR(xdr_meta_attach_res), result, CLUSTER_CALL_MS, answered);

	if (error == 0)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	return *answered ? meta_status(-error) : fsalstat(ERR_FSAL_DELAY, -error);
}

fsal_status_t meta_lookup(struct rozo_export *export, uint64_t directory_id, const char *name,
	meta_attributes *attributes)
{
	meta_lookup_args args = {
		.export_id = export->id, .directory_id = directory_id, .name = (char *)name};
	meta_attributes_res result = {0};
	fsal_status_t status;
	uint64_t asked;

	if (absent_is(export->absent, directory_id, name, cluster_now_ms()))
		return fsalstat(ERR_FSAL_NOENT, ENOENT);
	asked = absent_ask(export->absent, directory_id);
	status = CALL(META_LOOKUP, meta_lookup_args, &args, meta_attributes_res, &result);
	if (FSAL_IS_SUCCESS(status))
		*attributes = result.attributes;
	else if (status.major == ERR_FSAL_NOENT)
		absent_note(export->absent, directory_id, name, asked, cluster_now_ms());
	return status;
}

fsal_status_t meta_getattr(
	struct rozo_export *export, uint64_t file_id, meta_attributes *attributes)
{
	meta_file args = {.export_id = export->id, .file_id = file_id};
	meta_attributes_res result = {0};
	fsal_status_t status = CALL(META_GETATTR, meta_file, &args, meta_attributes_res, &result);

	if (FSAL_IS_SUCCESS(status))
		*attributes = result.attributes;
	else if (status.major == ERR_FSAL_NOENT) /* asked for by its id: it is gone */
		status = fsalstat(ERR_FSAL_STALE, ESTALE);
	return status;
}

fsal_status_t meta_setattr(
	struct rozo_export *export, uint64_t file_id, const meta_set *set, meta_setattr_res *result)
{
	meta_setattr_args args = {
		.file = {.export_id = export->id, .file_id = file_id}, .set = *set};
	fsal_status_t status;

	/* Attributes may be set twice, what was written after a truncation must not go away. */
	if (set->mask & META_SET_SIZE)
		status =
			CALL_ONCE(META_SETATTR, meta_setattr_args, &args, meta_setattr_res, result);
	else
		status = CALL(META_SETATTR, meta_setattr_args, &args, meta_setattr_res, result);
	doubt(export, status, file_id);
	if (status.major == ERR_FSAL_NOENT)
		status = fsalstat(ERR_FSAL_STALE, ESTALE);
	return status;
}

fsal_status_t meta_create(
	struct rozo_export *export, meta_create_args *args, meta_create_res *result)
{
	struct absent_change change;
	fsal_status_t status;
	bool made;

	args->export_id = export->id;
	absent_change_begins(export->absent, args->directory_id, args->name, &change);
	status = CALL_ONCE(META_CREATE, meta_create_args, args, meta_create_res, result);
	made = FSAL_IS_SUCCESS(status) && result->created;
	absent_change_ends(
		export->absent, &change, made ? result->directory.change : 0, cluster_now_ms());
	doubt(export, status, args->directory_id);
	return status;
}

fsal_status_t meta_readlink(struct rozo_export *export, uint64_t file_id, char **target)
{
	meta_file args = {.export_id = export->id, .file_id = file_id};
	meta_readlink_res result = {0};
	fsal_status_t status = CALL(META_READLINK, meta_file, &args, meta_readlink_res, &result);

	if (FSAL_IS_SUCCESS(status)) {
		*target = gsh_strdup(result.target);
		rpc_free(RPC_XDR(xdr_meta_readlink_res), &result);
	} else if (status.major == ERR_FSAL_NOENT) {
		status = fsalstat(ERR_FSAL_STALE, ESTALE);
	}
	return status;
}

fsal_status_t meta_link(struct rozo_export *export, uint64_t file_id, uint64_t directory_id,
	const char *name, meta_attributes *attributes)
{
	meta_link_args args = {.file = {.export_id = export->id, .file_id = file_id},
		.directory_id = directory_id,
		.name = (char *)name};
	meta_attributes_res result = {0};
	struct absent_change change;
	fsal_status_t status;

	absent_change_begins(export->absent, directory_id, name, &change);
	status = CALL_ONCE(META_LINK, meta_link_args, &args, meta_attributes_res, &result);
	absent_change_ends(export->absent, &change, 0, cluster_now_ms());
	doubt(export, status, file_id);
	doubt(export, status, directory_id);
	if (FSAL_IS_SUCCESS(status))
		*attributes = result.attributes;
	return status;
}

fsal_status_t meta_unlink(struct rozo_export *export, uint64_t directory_id, const char *name,
	bool directory, meta_unlink_res *result)
{
	meta_unlink_args args = {.export_id = export->id,
		.directory_id = directory_id,
		.name = (char *)name,
		.directory = directory};
	struct absent_change change;
	fsal_status_t status;

	absent_change_begins(export->absent, directory_id, name, &change);
	status = CALL_ONCE(META_UNLINK, meta_unlink_args, &args, meta_unlink_res, result);
	absent_change_ends(export->absent, &change,
		FSAL_IS_SUCCESS(status) ? result->directory.change : 0, cluster_now_ms());
	doubt(export, status, directory_id);
	return status;
}

fsal_status_t meta_rename(struct rozo_export *export, uint64_t from_directory_id,
	const char *from_name, uint64_t to_directory_id, const char *to_name, uint64_t *replaced_id)
{
	meta_rename_args args = {.export_id = export->id,
		.from_directory_id = from_directory_id,
		.to_directory_id = to_directory_id,
		.from_name = (char *)from_name,
		.to_name = (char *)to_name};
	meta_rename_res result = {0};
	struct absent_change change;
	fsal_status_t status;

	absent_change_begins(export->absent, to_directory_id, to_name, &change);
	status = CALL_ONCE(META_RENAME, meta_rename_args, &args, meta_rename_res, &result);
	absent_change_ends(export->absent, &change, 0, cluster_now_ms());
	doubt(export, status, from_directory_id);
	doubt(export, status, to_directory_id);
	if (FSAL_IS_SUCCESS(status))
		*replaced_id = result.replaced_id;
	return status;
}

fsal_status_t meta_readdir(struct rozo_export *export, uint64_t directory_id, uint64_t cookie,
	uint32_t count, meta_readdir_res *result)
{
	meta_readdir_args args = {.export_id = export->id,
		.directory_id = directory_id,
		.cookie = cookie,
		.count = count};

	return CALL(META_READDIR, meta_readdir_args, &args, meta_readdir_res, result);
}

fsal_status_t meta_statfs(struct rozo_export *export, meta_statfs_res *result)
{
	meta_statfs_args args = {.export_id = export->id};

	return CALL(META_STATFS, meta_statfs_args, &args, meta_statfs_res, result);
}

fsal_status_t meta_written(struct rozo_export *export, uint64_t file_id, uint32_t write_epoch,
	uint64_t size, const meta_time *time, bool durable_before, meta_attributes *attributes)
{
	meta_written_args args = {.file = {.export_id = export->id, .file_id = file_id},
		.write_epoch = write_epoch,
		.size = size,
		.set_time = time != NULL,
		.durable_before = durable_before};
	meta_attributes_res result = {0};
	fsal_status_t status;

	if (time)
		args.modify_time = *time;
	status = CALL(META_WRITTEN, meta_written_args, &args, meta_attributes_res, &result);
	doubt(export, status, file_id);
	if (FSAL_IS_SUCCESS(status))
		*attributes = result.attributes;
	else if (status.major == ERR_FSAL_NOENT)
		status = fsalstat(ERR_FSAL_STALE, ESTALE);
	return status;
}

fsal_status_t meta_layout(struct rozo_export *export, uint64_t file_id, uint32_t iomode,
	bool writers, uint64_t client, uint32_t *avoid, uint32_t avoid_count,
	meta_layout_res *result)
{
	meta_layout_args args = {.file = {.export_id = export->id, .file_id = file_id},
		.iomode = iomode,
		.writers = writers,
		.client = client,
		.avoid = {.avoid_len = avoid_count, .avoid_val = avoid}};
	fsal_status_t status = CALL(META_LAYOUT, meta_layout_args, &args, meta_layout_res, result);

	if (status.major == ERR_FSAL_NOENT)
		status = fsalstat(ERR_FSAL_STALE, ESTALE);
	return status;
}
