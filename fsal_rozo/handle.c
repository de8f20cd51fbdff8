/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * File handles and the operations on names.
 *
 * Each operation is one call of exportd, which is one transaction there. No lock is held over a
 * call. rozo.h says what guards what.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fsal_rozo/meta_calls.h"
#include "nfs_exports.h"

/* Entries asked for in one call. Two of MDCACHE's chunks. */
#define READDIR_ENTRIES 256

/* ---- file handles and keys ---- */

static void put_big_endian(uint8_t *bytes, size_t count, uint64_t value)
{
	while (count > 0) {
		bytes[--count] = (uint8_t)value;
		value >>= 8;
	}
}

static uint64_t get_big_endian(const uint8_t *bytes, size_t count)
{
	uint64_t value = 0;

	while (count-- > 0)
		value = value << 8 | *bytes++;
	return value;
}

static void wire_encode(uint8_t wire[ROZO_WIRE_BYTES], uint32_t export_id, uint64_t file_id)
{
	memset(wire, 0, ROZO_WIRE_BYTES);
	wire[0] = ROZO_WIRE_FORMAT;
	put_big_endian(wire + 4, 4, export_id);
	put_big_endian(wire + 8, 8, file_id);
}

bool rozo_wire_decode(
	const struct rozo_export *export, const void *wire, size_t bytes, uint64_t *file_id)
{
	uint8_t expected[ROZO_WIRE_BYTES];

	if (bytes != ROZO_WIRE_BYTES)
		return false;
	*file_id = get_big_endian((const uint8_t *)wire + 8, 8);
	wire_encode(expected, export->id, *file_id);
	return memcmp(expected, wire, ROZO_WIRE_BYTES) == 0;
}

void rozo_key_encode(
	const struct rozo_export *export, uint64_t file_id, uint8_t key[ROZO_KEY_BYTES])
{
	put_big_endian(key, 8, export->filesystem_id);
	put_big_endian(key + 8, 8, file_id);
}

/* ---- handles ---- */

struct rozo_handle *rozo_handle_new(struct rozo_export *export, const meta_attributes *attributes)
{
	struct rozo_handle *handle = gsh_calloc(1, sizeof(*handle));

	handle->obj.fsid.major = export->filesystem_id;
	handle->obj.fsid.minor = 0;
	handle->obj.fileid = attributes->file_id;
	wire_encode(handle->wire, export->id, attributes->file_id);
	rozo_key_encode(export, attributes->file_id, handle->key);
	glist_init(&handle->states);
	PTHREAD_MUTEX_init(&handle->lock, NULL);
	handle->attributes = *attributes;
	handle->attributes_ms = cluster_now_ms();
	fsal_obj_handle_init(&handle->obj, &export->export, rozo_type_from_meta(attributes->type));
	handle->obj.obj_ops = &ROZO.handle_ops;
	return handle;
}

static void handle_release(struct fsal_obj_handle *obj)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct glist_head *position;

	/* Those that were given up and not closed: rozo_free_state() comes later. */
	glist_for_each(position, &handle->states)
	{
		glist_entry(position, struct rozo_state, link)->handle = NULL;
	}
	fsal_obj_handle_fini(obj);
	PTHREAD_MUTEX_destroy(&handle->lock);
	gsh_free(handle);
}

static fsal_status_t handle_to_wire(
	const struct fsal_obj_handle *obj, fsal_digesttype_t type, struct gsh_buffdesc *wire)
{
	const struct rozo_handle *handle = container_of(obj, const struct rozo_handle, obj);

	switch (type) {
	case FSAL_DIGEST_NFSV3:
	case FSAL_DIGEST_NFSV4:
		break;
	default:
		return fsalstat(ERR_FSAL_SERVERFAULT, 0);
	}
	if (wire->len < ROZO_WIRE_BYTES)
		return fsalstat(ERR_FSAL_TOOSMALL, 0);
	memcpy(wire->addr, handle->wire, ROZO_WIRE_BYTES);
	wire->len = ROZO_WIRE_BYTES;
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

static void handle_to_key(struct fsal_obj_handle *obj, struct gsh_buffdesc *key)
{
	key->addr = rozo_handle_of(obj)->key;
	key->len = ROZO_KEY_BYTES;
}

/* Gives Ganesha a handle for attributes just received. */
static void hand_out(struct rozo_export *export, const meta_attributes *attributes,
	struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	struct rozo_handle *handle = rozo_handle_new(export, attributes);

	rozo_attributes_out(export, handle, attributes, out);
	*obj = &handle->obj;
}

/* ---- names ---- */

static fsal_status_t name_lookup(struct fsal_obj_handle *directory, const char *name,
	struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	struct rozo_export *export = rozo_current();
	meta_attributes attributes;
	fsal_status_t status = meta_lookup(export, directory->fileid, name, &attributes);

	*obj = NULL;
	if (FSAL_IS_SUCCESS(status))
		hand_out(export, &attributes, obj, out);
	return status;
}

static fsal_status_t name_readdir(struct fsal_obj_handle *directory, fsal_cookie_t *whence,
	void *context, fsal_readdir_cb callback, attrmask_t mask, bool *eof)
{
	struct rozo_export *export = rozo_current();
	uint64_t cookie = whence ? *whence : 0;
	enum fsal_dir_result wish = DIR_CONTINUE;
	fsal_status_t status;
	bool last = false;

	*eof = false;
	/* A wish for no more entries than fit is granted at the end of a batch, since the rest of
	   it is already here. */
	while (!last && wish == DIR_CONTINUE) {
		meta_readdir_res result = {0};
		uint32_t i;

		status = meta_readdir(export, directory->fileid, cookie, READDIR_ENTRIES, &result);
		if (FSAL_IS_ERROR(status))
			return status;
		for (i = 0; i < result.entries.entries_len && wish != DIR_TERMINATE; i++) {
			meta_entry *entry = &result.entries.entries_val[i];
			struct fsal_obj_handle *obj;
			struct fsal_attrlist attributes;

			fsal_prepare_attrs(&attributes, mask);
			hand_out(export, &entry->attributes, &obj, &attributes);
			cookie = entry->cookie;
			wish = callback(entry->name, obj, &attributes, context, cookie);
			fsal_release_attrs(&attributes);
		}
		/* Nothing and no end would be asked for again and again. */
		last = (result.eof && i == result.entries.entries_len) ||
		       result.entries.entries_len == 0;
		rpc_free(RPC_XDR(xdr_meta_readdir_res), &result);
	}
	*eof = last && wish != DIR_TERMINATE;
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

fsal_status_t rozo_create(struct rozo_export *export, struct fsal_obj_handle *directory,
	const struct fsal_attrlist *attributes, meta_create_args *args, meta_create_res *result)
{
	struct rozo_handle *parent = rozo_handle_of(directory);
	meta_attributes parent_attributes;
	fsal_status_t status = rozo_may_add(export, parent, &parent_attributes);

	if (FSAL_IS_ERROR(status))
		return status;
	if (attributes)
		rozo_attributes_in(attributes, &args->set);
	if (!(args->set.mask & META_SET_MODE)) {
		args->set.mask |= META_SET_MODE;
		args->set.mode = args->type == META_DIRECTORY ? 0700 : 0600;
	}
	if (!(args->set.mask & META_SET_UID)) {
		args->set.mask |= META_SET_UID;
		args->set.uid = op_ctx->creds.caller_uid;
	}
	if (!(args->set.mask & META_SET_GID)) {
		args->set.mask |= META_SET_GID;
		args->set.gid = op_ctx->creds.caller_gid;
		/* Under a set-group-id directory everything belongs to its group. */
		if (parent_attributes.mode & S_ISGID)
			args->set.gid = parent_attributes.gid;
	}
	if (args->type == META_DIRECTORY && (parent_attributes.mode & S_ISGID))
		args->set.mode |= S_ISGID;

	args->directory_id = directory->fileid;
	if (!args->target)
		args->target = (char *)"";
	status = meta_create(export, args, result);
	if (FSAL_IS_SUCCESS(status))
		rozo_attributes_answered(parent, &result->directory);
	return status;
}

/* mkdir, mknod and symlink. */
static fsal_status_t make(struct fsal_obj_handle *directory, const struct fsal_attrlist *attributes,
	meta_create_args *args, struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	struct rozo_export *export = rozo_current();
	meta_create_res result = {0};
	fsal_status_t status;

	*obj = NULL;
	args->how = META_CREATE_GUARDED;
	status = rozo_create(export, directory, attributes, args, &result);
	if (FSAL_IS_SUCCESS(status))
		hand_out(export, &result.attributes, obj, out);
	return status;
}

static fsal_status_t name_mkdir(struct fsal_obj_handle *directory, const char *name,
	struct fsal_attrlist *attributes, struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	meta_create_args args = {.name = (char *)name, .type = META_DIRECTORY};

	return make(directory, attributes, &args, obj, out);
}

static fsal_status_t name_mknode(struct fsal_obj_handle *directory, const char *name,
	object_file_type_t type, struct fsal_attrlist *attributes, struct fsal_obj_handle **obj,
	struct fsal_attrlist *out)
{
	meta_create_args args = {.name = (char *)name, .type = rozo_type_to_meta(type)};

	switch (type) {
	case CHARACTER_FILE:
	case BLOCK_FILE:
		args.device_major = (uint32_t)attributes->rawdev.major;
		args.device_minor = (uint32_t)attributes->rawdev.minor;
		break;
	case FIFO_FILE:
	case SOCKET_FILE:
		break;
	default:
		return fsalstat(ERR_FSAL_BADTYPE, EINVAL);
	}
	return make(directory, attributes, &args, obj, out);
}

static fsal_status_t name_symlink(struct fsal_obj_handle *directory, const char *name,
	const char *target, struct fsal_attrlist *attributes, struct fsal_obj_handle **obj,
	struct fsal_attrlist *out)
{
	meta_create_args args = {
		.name = (char *)name, .type = META_SYMLINK, .target = (char *)target};

	return make(directory, attributes, &args, obj, out);
}

static fsal_status_t link_read(
	struct fsal_obj_handle *obj, struct gsh_buffdesc *content, bool refresh)
{
	fsal_status_t status;
	char *target;

	(void)refresh; /* nothing is cached here */
	if (obj->type != SYMBOLIC_LINK)
		return fsalstat(ERR_FSAL_INVAL, EINVAL);
	status = meta_readlink(rozo_current(), obj->fileid, &target);
	if (FSAL_IS_SUCCESS(status)) {
		content->addr = target;
		content->len = strlen(target) + 1;
	}
	return status;
}

static fsal_status_t name_link(
	struct fsal_obj_handle *obj, struct fsal_obj_handle *directory, const char *name)
{
	meta_attributes attributes;
	fsal_status_t status =
		meta_link(rozo_current(), obj->fileid, directory->fileid, name, &attributes);

	rozo_attributes_unknown(rozo_handle_of(directory));
	/* Ganesha has checked the permission (fsal_link()). */
	if (FSAL_IS_SUCCESS(status))
		rozo_attributes_seen(rozo_handle_of(obj), &attributes);
	return status;
}

static fsal_status_t name_unlink(
	struct fsal_obj_handle *directory, struct fsal_obj_handle *obj, const char *name)
{
	struct rozo_export *export = rozo_current();
	meta_unlink_res result = {0};
	fsal_status_t status =
		rozo_may_remove(export, rozo_handle_of(directory), rozo_handle_of(obj));

	if (FSAL_IS_ERROR(status))
		return status;
	status = meta_unlink(export, directory->fileid, name, obj->type == DIRECTORY, &result);
	if (FSAL_IS_ERROR(status))
		return status;
	rozo_attributes_answered(rozo_handle_of(directory), &result.directory);
	if (result.attributes.links == 0 && result.attributes.type == META_REGULAR)
		stripe_file_forget(
			cluster_stripe(export->cluster), export->id, result.attributes.file_id);
	return status;
}

/*
 * May the caller put obj's name where it is going? What is there already is taken out by this,
 * which matters under a sticky bit only.
 */
static fsal_status_t may_replace(
	struct rozo_export *export, struct fsal_obj_handle *directory, const char *name)
{
	struct rozo_handle *handle = rozo_handle_of(directory);
	meta_attributes attributes, victim;
	fsal_status_t status = rozo_may_add(export, handle, &attributes);

	if (FSAL_IS_ERROR(status) || !(attributes.mode & S_ISVTX) ||
		op_ctx->creds.caller_uid == 0 || op_ctx->creds.caller_uid == attributes.uid)
		return status;
	status = meta_lookup(export, directory->fileid, name, &victim);
	if (status.major == ERR_FSAL_NOENT)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	if (FSAL_IS_SUCCESS(status) && victim.uid != op_ctx->creds.caller_uid)
		return fsalstat(ERR_FSAL_PERM, EPERM);
	return status;
}

static fsal_status_t name_rename(struct fsal_obj_handle *obj, struct fsal_obj_handle *from,
	const char *from_name, struct fsal_obj_handle *to, const char *to_name)
{
	struct rozo_export *export = rozo_current();
	meta_attributes attributes;
	uint64_t replaced_id;
	fsal_status_t status = rozo_may_remove(export, rozo_handle_of(from), rozo_handle_of(obj));

	if (FSAL_IS_ERROR(status))
		return status;
	status = may_replace(export, to, to_name);
	if (FSAL_IS_ERROR(status))
		return status;
	if (obj->type == DIRECTORY && from->fileid != to->fileid) {
		status = rozo_attributes_recent(export, rozo_handle_of(obj), &attributes);
		if (FSAL_IS_ERROR(status))
			return status;
		if (!rozo_may(&attributes, ROZO_MAY_WRITE)) /* its ".." changes */
			return fsalstat(ERR_FSAL_ACCESS, EACCES);
	}
	status = meta_rename(export, from->fileid, from_name, to->fileid, to_name, &replaced_id);
	rozo_attributes_unknown(rozo_handle_of(from));
	rozo_attributes_unknown(rozo_handle_of(to));
	if (FSAL_IS_SUCCESS(status) && replaced_id != 0)
		stripe_file_forget(cluster_stripe(export->cluster), export->id, replaced_id);
	return status;
}

void rozo_handle_ops_init(struct fsal_obj_ops *ops)
{
	fsal_default_obj_ops_init(ops);

	ops->release = handle_release;
	ops->merge = rozo_merge;
	ops->handle_to_wire = handle_to_wire;
	ops->handle_to_key = handle_to_key;

	ops->lookup = name_lookup;
	ops->readdir = name_readdir;
	ops->mkdir = name_mkdir;
	ops->mknode = name_mknode;
	ops->symlink = name_symlink;
	ops->readlink = link_read;
	ops->link = name_link;
	ops->unlink = name_unlink;
	ops->rename = name_rename;

	ops->getattrs = rozo_getattrs;
	ops->setattr2 = rozo_setattr2;

	ops->open2 = rozo_open2;
	ops->reopen2 = rozo_reopen2;
	ops->status2 = rozo_status2;
	ops->close = rozo_close;
	ops->close2 = rozo_close2;
	ops->check_verifier = rozo_check_verifier;
	ops->read2 = rozo_read2;
	ops->write2 = rozo_write2;
	ops->commit2 = rozo_commit2;
	ops->lock_op2 = rozo_lock_op2;

	rozo_pnfs_handle_ops_init(ops);
}
