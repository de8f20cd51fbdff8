/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Attributes: between exportd's form and Ganesha's, read and set.
 *
 * exportd is the only judge of attributes. What is remembered in a handle is for permission checks
 * only and is at most RECENT_MS old, far less than what MDCACHE above us trusts; or came with the
 * answer to a change and is what the request that made the change asks for next.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <string.h>

#include "fsal_rozo/meta_calls.h"
#include "fsal_up.h"

#define RECENT_MS 1000

/* While gateways write a file, its attributes are asked for anew after this many seconds. */
#define EXPIRE_SECONDS_WRITTEN 1

static const struct {
	uint32_t meta;
	object_file_type_t fsal;
} types[] = {
	{META_REGULAR, REGULAR_FILE},
	{META_DIRECTORY, DIRECTORY},
	{META_SYMLINK, SYMBOLIC_LINK},
	{META_CHARACTER_DEVICE, CHARACTER_FILE},
	{META_BLOCK_DEVICE, BLOCK_FILE},
	{META_FIFO, FIFO_FILE},
	{META_SOCKET, SOCKET_FILE},
};

object_file_type_t rozo_type_from_meta(uint32_t meta_type)
{
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].meta == meta_type)
			return types[i].fsal;
	return NO_FILE_TYPE;
}

uint32_t rozo_type_to_meta(object_file_type_t type)
{
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].fsal == type)
			return types[i].meta;
	return 0;
}

static struct timespec time_out(const meta_time *time)
{
	return (struct timespec){.tv_sec = time->seconds, .tv_nsec = time->nanoseconds};
}

static meta_time time_in(const struct timespec *time)
{
	return (meta_time){.seconds = time->tv_sec, .nanoseconds = (uint32_t)time->tv_nsec};
}

/* 0: Ganesha keeps what it has. */
static int32_t expire_seconds(struct rozo_handle *handle)
{
	int32_t usual = op_ctx->export_perms.expire_time_attr;
	bool written;

	if (usual <= 0 || !handle || handle->obj.type != REGULAR_FILE)
		return 0;
	pthread_mutex_lock(&handle->lock);
	written = handle->rw_layouts > 0;
	pthread_mutex_unlock(&handle->lock);
	return written ? MIN(usual, EXPIRE_SECONDS_WRITTEN) : usual;
}

void rozo_attributes_out(const struct rozo_export *export, struct rozo_handle *handle,
	const meta_attributes *attributes, struct fsal_attrlist *out)
{
	if (!out)
		return;
	out->type = rozo_type_from_meta(attributes->type);
	out->filesize = attributes->size;
	out->fsid.major = export->filesystem_id;
	out->fsid.minor = 0;
	out->fileid = attributes->file_id;
	out->mode = attributes->mode;
	out->numlinks = attributes->links;
	out->owner = attributes->uid;
	out->group = attributes->gid;
	out->rawdev.major = attributes->device_major;
	out->rawdev.minor = attributes->device_minor;
	out->atime = time_out(&attributes->access_time);
	out->mtime = time_out(&attributes->modify_time);
	out->ctime = time_out(&attributes->change_time);
	out->spaceused = attributes->space_used;
	out->change = attributes->change;
	out->expire_time_attr = expire_seconds(handle);
	out->supported = ROZO_ATTRIBUTES;
	/* Ganesha's cache stores whatever is valid, so all of it is offered; what was requested and
	   is not among it (ACLs) has not been advertised. */
	out->valid_mask |= ROZO_ATTRIBUTES;
}

void rozo_attributes_in(const struct fsal_attrlist *attributes, meta_set *set)
{
	attrmask_t mask = attributes->valid_mask;

	memset(set, 0, sizeof(*set));
	if (FSAL_TEST_MASK(mask, ATTR_MODE)) {
		set->mask |= META_SET_MODE;
		set->mode = attributes->mode & 07777 &
			    ~op_ctx->fsal_export->exp_ops.fs_umask(op_ctx->fsal_export);
	}
	if (FSAL_TEST_MASK(mask, ATTR_OWNER)) {
		set->mask |= META_SET_UID;
		set->uid = (uint32_t)attributes->owner;
	}
	if (FSAL_TEST_MASK(mask, ATTR_GROUP)) {
		set->mask |= META_SET_GID;
		set->gid = (uint32_t)attributes->group;
	}
	if (FSAL_TEST_MASK(mask, ATTR_ATIME_SERVER)) {
		set->mask |= META_SET_ATIME_NOW;
	} else if (FSAL_TEST_MASK(mask, ATTR_ATIME)) {
		set->mask |= META_SET_ATIME;
		set->access_time = time_in(&attributes->atime);
	}
	if (FSAL_TEST_MASK(mask, ATTR_MTIME_SERVER)) {
		set->mask |= META_SET_MTIME_NOW;
	} else if (FSAL_TEST_MASK(mask, ATTR_MTIME)) {
		set->mask |= META_SET_MTIME;
		set->modify_time = time_in(&attributes->mtime);
	}
}

void rozo_attributes_seen(struct rozo_handle *handle, const meta_attributes *attributes)
{
	pthread_mutex_lock(&handle->lock);
	/* Answers to concurrent calls may come here in another order than exportd gave them. */
	if (handle->attributes_ms == 0 || attributes->change >= handle->attributes.change) {
		handle->attributes = *attributes;
		handle->attributes_ms = cluster_now_ms();
	}
	pthread_mutex_unlock(&handle->lock);
}

void rozo_attributes_answered(struct rozo_handle *handle, const meta_attributes *attributes)
{
	rozo_attributes_seen(handle, attributes);
	pthread_mutex_lock(&handle->lock);
	handle->answered = rozo_request_now();
	pthread_mutex_unlock(&handle->lock);
}

void rozo_attributes_unknown(struct rozo_handle *handle)
{
	pthread_mutex_lock(&handle->lock);
	handle->answered.context = NULL;
	pthread_mutex_unlock(&handle->lock);
}

void rozo_attributes_invalidate(struct rozo_export *export, struct rozo_handle *handle)
{
	struct gsh_buffdesc key = {.addr = handle->key, .len = ROZO_KEY_BYTES};
	const struct fsal_up_vector *up = export->export.up_ops;

	up->invalidate(up, &key, FSAL_UP_INVALIDATE_ATTRS);
}

/*
 * Takes attributes that exportd gave after the current request began. Once only: nothing that the
 * request does afterwards must be missing in them.
 */
static bool take_answered(struct rozo_handle *handle, meta_attributes *attributes)
{
	bool taken;

	pthread_mutex_lock(&handle->lock);
	taken = rozo_request_is_now(&handle->answered);
	if (taken) {
		handle->answered.context = NULL;
		*attributes = handle->attributes;
	}
	pthread_mutex_unlock(&handle->lock);
	return taken;
}

fsal_status_t rozo_attributes_recent(
	struct rozo_export *export, struct rozo_handle *handle, meta_attributes *attributes)
{
	fsal_status_t status = fsalstat(ERR_FSAL_NO_ERROR, 0);
	bool recent;

	pthread_mutex_lock(&handle->lock);
	recent = handle->attributes_ms != 0 && cluster_now_ms() - handle->attributes_ms < RECENT_MS;
	*attributes = handle->attributes;
	pthread_mutex_unlock(&handle->lock);
	if (recent)
		return status;
	status = meta_getattr(export, rozo_file_id(handle), attributes);
	if (FSAL_IS_SUCCESS(status))
		rozo_attributes_seen(handle, attributes);
	return status;
}

/*
 * What a change has been answered with while these attributes were on their way: Ganesha has ended
 * its trust in what it knows by then, perhaps before it gets these and trusts them.
 */
static void take_newer(struct rozo_handle *handle, uint64_t asked_ms, meta_attributes *attributes)
{
	pthread_mutex_lock(&handle->lock);
	/* Of a restored database `change` may be less than it was. */
	if (handle->attributes_ms >= asked_ms && handle->attributes.change > attributes->change)
		*attributes = handle->attributes;
	pthread_mutex_unlock(&handle->lock);
}

fsal_status_t rozo_getattrs(struct fsal_obj_handle *obj, struct fsal_attrlist *out)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct rozo_export *export = rozo_current();
	uint64_t asked_ms = cluster_now_ms();
	meta_attributes attributes;
	fsal_status_t status;

	if (take_answered(handle, &attributes)) {
		rozo_attributes_out(export, handle, &attributes, out);
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	}
	status = meta_getattr(export, rozo_file_id(handle), &attributes);
	if (FSAL_IS_ERROR(status)) {
		if (out->request_mask & ATTR_RDATTR_ERR)
			out->valid_mask = ATTR_RDATTR_ERR;
		return status;
	}
	rozo_attributes_seen(handle, &attributes);
	take_newer(handle, asked_ms, &attributes);
	rozo_attributes_out(export, handle, &attributes, out);
	return status;
}

fsal_status_t rozo_set(struct rozo_export *export, struct rozo_handle *handle, const meta_set *set,
	meta_attributes *result)
{
	meta_setattr_res answer = {0};
	struct stripe_file *file;
	fsal_status_t status = meta_setattr(export, rozo_file_id(handle), set, &answer);
	int error;

	if (FSAL_IS_ERROR(status))
		return status;
	rozo_attributes_seen(handle, &answer.attributes);
	if (result)
		*result = answer.attributes;
	if (!answer.truncate)
		return status;

	/* The new size is durable. Until the blocks beyond are empty they must not come back when
	   the file grows again; whoever attaches to the file first makes sure of it. */
	error = stripe_file_get(
		cluster_stripe(export->cluster), export->id, rozo_file_id(handle), &file);
	if (error == 0) {
		error = stripe_truncate(file, set->size);
		stripe_file_put(file);
	}
	if (error != 0) {
		/* Ganesha takes what fails for not done. */
		rozo_attributes_invalidate(export, handle);
		LogWarn(COMPONENT_FSAL,
			"Export \"%s\", file %" PRIu64 ": cannot be cut to %" PRIu64 " bytes: %s",
			export->export_name, rozo_file_id(handle), (uint64_t)answer.truncate_size,
			strerror(-error));
	}
	return meta_stripe_status(error);
}

fsal_status_t rozo_setattr2(struct fsal_obj_handle *obj, bool bypass, struct state_t *state,
	struct fsal_attrlist *attributes)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	bool has_lock = false, close_fd = false, reusing = false;
	fsal_status_t status;
	meta_set set;

	rozo_attributes_in(attributes, &set);
	if (FSAL_TEST_MASK(attributes->valid_mask, ATTR_SIZE)) {
		if (obj->type != REGULAR_FILE)
			return fsalstat(ERR_FSAL_INVAL, EINVAL);
		/* Changing the size is writing: another's deny-write holds. */
		status = fsal_find_fd(NULL, obj, NULL, &handle->share, bypass, state, FSAL_O_WRITE,
			NULL, NULL, &has_lock, &close_fd, false, &reusing);
		if (has_lock)
			PTHREAD_RWLOCK_unlock(&obj->obj_lock);
		if (FSAL_IS_ERROR(status))
			return status;
		set.mask |= META_SET_SIZE;
		set.size = attributes->filesize;
	}
	if (set.mask == 0)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	return rozo_set(rozo_current(), handle, &set, NULL);
}
