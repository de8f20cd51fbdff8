/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Data through this server: for clients without layouts (NFSv4.0), and whenever a client falls
 * back. The same stripe engine that the gateways use; the size comes from exportd.
 *
 * Done in the calling worker and answered before the return. Share reservations are checked under
 * obj_lock, which is not held over the I/O.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <string.h>

#include "fsal_rozo/meta_calls.h"

/* Of one write, if the file is truncated again and again meanwhile; then the client tries again. */
#define WRITE_ATTEMPTS 4

/* Checks the reservations of others against an access; the caller's own state covers its own. */
static fsal_status_t check_share(
	struct rozo_handle *handle, bool bypass, struct state_t *state, fsal_openflags_t flags)
{
	bool has_lock = false, close_fd = false, reusing = false;
	fsal_status_t status = fsal_find_fd(NULL, &handle->obj, NULL, &handle->share, bypass, state,
		flags, NULL, NULL, &has_lock, &close_fd, false, &reusing);

	if (has_lock)
		PTHREAD_RWLOCK_unlock(&handle->obj.obj_lock);
	return status;
}

static size_t total_bytes(const struct fsal_io_arg *io)
{
	size_t total = 0;
	int i;

	for (i = 0; i < io->iov_count; i++)
		total += io->iov[i].iov_len;
	return total;
}

static fsal_status_t do_read(
	struct rozo_export *export, struct rozo_handle *handle, bool bypass, struct fsal_io_arg *io)
{
	uint64_t offset = io->offset;
	meta_attributes attributes;
	struct stripe_file *file;
	fsal_status_t status;
	size_t left;
	int error, i;

	if (io->info) /* READ_PLUS is NFSv4.2 */
		return fsalstat(ERR_FSAL_NOTSUPP, ENOTSUP);
	status = check_share(handle, bypass, io->state, FSAL_O_READ);
	if (FSAL_IS_ERROR(status))
		return status;

	/* The engine knows no end of file, and what it last heard of the size may be old. */
	status = meta_getattr(export, rozo_file_id(handle), &attributes);
	if (FSAL_IS_ERROR(status))
		return status;
	left = total_bytes(io);
	if (offset >= attributes.size)
		left = 0;
	else
		left = (size_t)MIN((uint64_t)left, attributes.size - offset);
	io->end_of_file = offset + left >= attributes.size;
	io->io_amount = 0;
	if (left == 0)
		return status;

	error = stripe_file_get(
		cluster_stripe(export->cluster), export->id, rozo_file_id(handle), &file);
	if (error != 0)
		return meta_stripe_status(error);
	for (i = 0; i < io->iov_count && left > 0 && error == 0; i++) {
		size_t part = MIN(left, io->iov[i].iov_len);

		error = stripe_read(file, offset, io->iov[i].iov_base, part);
		if (error == 0) {
			offset += part;
			left -= part;
			io->io_amount += part;
		}
	}
	stripe_file_put(file);
	return meta_stripe_status(error);
}

void rozo_read2(struct fsal_obj_handle *obj, bool bypass, fsal_async_cb done,
	struct fsal_io_arg *io, void *context)
{
	fsal_status_t status = do_read(rozo_current(), rozo_handle_of(obj), bypass, io);

	done(obj, status, io, context);
}

/* One piece; a fenced engine asks for the new epoch and tries once more. */
static int write_piece(
	struct stripe_file *file, uint64_t offset, const struct iovec *piece, bool stable)
{
	int error = stripe_write(file, offset, piece->iov_base, piece->iov_len, stable);

	if (error != -ESTALE)
		return error;
	error = stripe_file_refresh(file);
	if (error != 0)
		return error; /* -ESTALE: the file is gone */
	error = stripe_write(file, offset, piece->iov_base, piece->iov_len, stable);
	return error == -ESTALE ? -EAGAIN : error;
}

/*
 * Writes all pieces, and has exportd know of size and times before the client is told: its next
 * GETATTR must see them.
 */
static fsal_status_t write_all(struct rozo_export *export, struct rozo_handle *handle,
	struct stripe_file *file, struct fsal_io_arg *io)
{
	uint64_t offset = io->offset;
	meta_attributes attributes;
	fsal_status_t status;
	uint32_t write_epoch;
	int error, i;

	io->io_amount = 0;
	error = stripe_file_claim(file, &write_epoch);
	for (i = 0; i < io->iov_count && error == 0; i++) {
		error = write_piece(file, offset, &io->iov[i], io->fsal_stable);
		if (error == 0) {
			offset += io->iov[i].iov_len;
			io->io_amount += io->iov[i].iov_len;
		}
	}
	if (error != 0)
		return meta_stripe_status(error);
	status = meta_written(
		export, rozo_file_id(handle), write_epoch, offset, NULL, false, &attributes);
	if (FSAL_IS_SUCCESS(status))
		rozo_attributes_seen(handle, &attributes);
	return status;
}

static fsal_status_t do_write(
	struct rozo_export *export, struct rozo_handle *handle, bool bypass, struct fsal_io_arg *io)
{
	struct stripe_file *file;
	fsal_status_t status;
	unsigned int attempt = 0;
	int error;

	if (handle->obj.type != REGULAR_FILE)
		return fsalstat(ERR_FSAL_INVAL, EINVAL);
	status = check_share(handle, bypass, io->state, FSAL_O_WRITE);
	if (FSAL_IS_ERROR(status))
		return status;
	io->io_amount = 0;
	if (total_bytes(io) == 0)
		return status;

	rozo_write_begins(export);
	error = stripe_file_get_to_write(
		cluster_stripe(export->cluster), export->id, rozo_file_id(handle), &file);
	if (error != 0)
		return meta_stripe_status(error);
	do {
		status = write_all(export, handle, file, io);
		if (status.minor != EAGAIN)
			break;
		/* The file was truncated meanwhile, and the bytes belong to the time before. */
		error = stripe_file_refresh(file);
	} while (error == 0 && ++attempt < WRITE_ATTEMPTS);
	stripe_file_put(file);
	return status;
}

void rozo_write2(struct fsal_obj_handle *obj, bool bypass, fsal_async_cb done,
	struct fsal_io_arg *io, void *context)
{
	fsal_status_t status = do_write(rozo_current(), rozo_handle_of(obj), bypass, io);

	done(obj, status, io, context);
}

/* Only what this server wrote; a gateway commits what it took itself. */
fsal_status_t rozo_commit2(struct fsal_obj_handle *obj, off_t offset, size_t length)
{
	struct rozo_export *export = rozo_current();
	struct stripe_file *file;
	int error =
		stripe_file_get(cluster_stripe(export->cluster), export->id, obj->fileid, &file);

	rozo_commit_begins();
	(void)offset; /* RFC 8881 section 18.3.3 allows to commit more */
	(void)length;
	if (error == 0) {
		error = stripe_commit(file);
		stripe_file_put(file);
	}
	return meta_stripe_status(error);
}

static fsal_status_t lock_open(
	struct fsal_obj_handle *obj, fsal_openflags_t flags, struct fsal_fd *fd)
{
	(void)obj;
	fd->openflags = FSAL_O_NFS_FLAGS(flags);
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

static fsal_status_t lock_close(struct fsal_obj_handle *obj, struct fsal_fd *fd)
{
	(void)obj;
	fd->openflags = FSAL_O_CLOSED;
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

/*
 * Ganesha has compared the lock with all it knows before it comes here, and it knows all there are.
 * What is left is to note the access mode of the lock's state, as for an open.
 */
fsal_status_t rozo_lock_op2(struct fsal_obj_handle *obj, struct state_t *state, void *owner,
	fsal_lock_op_t operation, fsal_lock_param_t *request, fsal_lock_param_t *conflict)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct fsal_fd temporary = {0}, *fd = &temporary;
	bool has_lock = false, close_fd = false, reusing = false;
	fsal_openflags_t flags;
	fsal_status_t status;

	(void)owner;
	(void)conflict;
	if (obj->type != REGULAR_FILE)
		return fsalstat(ERR_FSAL_INVAL, EINVAL);
	switch (operation) {
	case FSAL_OP_LOCKT:
	case FSAL_OP_UNLOCK:
		flags = FSAL_O_ANY;
		break;
	case FSAL_OP_LOCK:
		flags = request->lock_type == FSAL_LOCK_R ? FSAL_O_READ : FSAL_O_WRITE;
		break;
	default:
		return fsalstat(ERR_FSAL_NOTSUPP, ENOTSUP);
	}
	status = fsal_find_fd(&fd, obj, &handle->global, &handle->share, operation == FSAL_OP_LOCKT,
		state, flags, lock_open, lock_close, &has_lock, &close_fd, true, &reusing);
	if (has_lock)
		PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	return status;
}
