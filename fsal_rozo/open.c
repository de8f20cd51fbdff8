/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Opening and closing: creation by name, share reservations, and who has what open.
 *
 * There is nothing to open in the stores, so an open is bookkeeping in the handle, guarded by
 * obj_lock, which is never held over a call of exportd. Ganesha's helpers keep the shares.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <string.h>

#include "fsal_rozo/meta_calls.h"

struct state_t *rozo_alloc_state(
	struct fsal_export *export, enum state_type type, struct state_t *related)
{
	struct rozo_state *state = gsh_calloc(1, sizeof(*state));

	_Static_assert(offsetof(struct rozo_state, fd) == sizeof(struct state_t),
		"Ganesha's helpers look for the fd right behind the state");
	return init_state(&state->state, export, type, related);
}

static bool is_share(const struct state_t *state)
{
	return state->state_type == STATE_TYPE_SHARE || state->state_type == STATE_TYPE_NLM_SHARE ||
	       state->state_type == STATE_TYPE_9P_FID;
}

/* The caller holds obj_lock for writing. */
static void share_take(struct rozo_handle *handle, struct state_t *state, fsal_openflags_t flags)
{
	struct rozo_state *mine = rozo_state_of(state);

	update_share_counters(&handle->share, mine->fd.openflags, flags);
	mine->fd.openflags = FSAL_O_NFS_FLAGS(flags);
	mine->client = op_ctx->clientid ? *op_ctx->clientid : 0;
	if (!mine->handle)
		glist_add_tail(&handle->states, &mine->link);
	mine->handle = handle;
}

static void share_drop(struct rozo_handle *handle, struct state_t *state)
{
	struct rozo_state *mine = rozo_state_of(state);

	update_share_counters(&handle->share, mine->fd.openflags, FSAL_O_CLOSED);
	mine->fd.openflags = FSAL_O_CLOSED;
	if (mine->handle)
		glist_del(&mine->link);
	mine->handle = NULL;
}

/*
 * An open has been ended by close2() before, but for one that mdcache_open2() gives up after the
 * file was made: if the directory's attributes cannot be had, or the name finds no place in
 * Ganesha's cache. The first leaves a reference to the file behind, the second perhaps none.
 */
void rozo_free_state(struct fsal_export *export, struct state_t *state)
{
	struct rozo_handle *handle = rozo_state_of(state)->handle;

	(void)export;
	if (handle) {
		PTHREAD_RWLOCK_wrlock(&handle->obj.obj_lock);
		share_drop(handle, state);
		PTHREAD_RWLOCK_unlock(&handle->obj.obj_lock);
	}
	gsh_free(rozo_state_of(state));
}

bool rozo_is_open(struct rozo_handle *handle, uint64_t client, fsal_openflags_t flags)
{
	struct glist_head *position;
	bool open = false;

	PTHREAD_RWLOCK_rdlock(&handle->obj.obj_lock);
	glist_for_each(position, &handle->states)
	{
		struct rozo_state *state = glist_entry(position, struct rozo_state, link);

		if (state->client == client && (state->fd.openflags & flags) == flags) {
			open = true;
			break;
		}
	}
	PTHREAD_RWLOCK_unlock(&handle->obj.obj_lock);
	return open;
}

static uint64_t verifier_number(const fsal_verifier_t verifier)
{
	uint64_t number;

	_Static_assert(sizeof(fsal_verifier_t) == sizeof(number), "");
	memcpy(&number, verifier, sizeof(number));
	return number;
}

bool rozo_check_verifier(struct fsal_obj_handle *obj, fsal_verifier_t verifier)
{
	meta_attributes attributes;
	fsal_status_t status = meta_getattr(rozo_current(), obj->fileid, &attributes);

	return FSAL_IS_SUCCESS(status) && attributes.verifier == verifier_number(verifier);
}

/*
 * Cuts an existing file because it is being opened so. Ganesha checks the permission to open only
 * after the open, when the bytes would be gone.
 */
static fsal_status_t truncate_existing(
	struct rozo_export *export, struct rozo_handle *handle, meta_attributes *attributes)
{
	const meta_set set = {.mask = META_SET_SIZE, .size = 0};
	fsal_status_t status = rozo_attributes_recent(export, handle, attributes);

	if (FSAL_IS_ERROR(status))
		return status;
	if (!rozo_may(attributes, ROZO_MAY_WRITE))
		return fsalstat(ERR_FSAL_ACCESS, EACCES);
	return rozo_set(export, handle, &set, attributes);
}

static fsal_status_t open_by_handle(struct rozo_export *export, struct rozo_handle *handle,
	struct state_t *state, fsal_openflags_t flags, enum fsal_create_mode mode,
	fsal_verifier_t verifier, struct fsal_attrlist *out)
{
	struct fsal_obj_handle *obj = &handle->obj;
	fsal_openflags_t global_before = FSAL_O_CLOSED;
	meta_attributes attributes;
	fsal_status_t status;

	if (obj->type != REGULAR_FILE)
		return fsalstat(obj->type == DIRECTORY ? ERR_FSAL_ISDIR : ERR_FSAL_BADTYPE, 0);

	PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
	if (state) {
		status = check_share_conflict(&handle->share, flags, false);
		if (FSAL_IS_ERROR(status)) {
			PTHREAD_RWLOCK_unlock(&obj->obj_lock);
			return status;
		}
		share_take(handle, state, flags);
	} else {
		global_before = handle->global.openflags;
		handle->global.openflags = FSAL_O_NFS_FLAGS(flags);
	}
	PTHREAD_RWLOCK_unlock(&obj->obj_lock);

	/* An exclusive create that finds its file made already is a repetition if the verifier is
	   the same, and has then nothing to cut. */
	if (mode >= FSAL_EXCLUSIVE && mode != FSAL_EXCLUSIVE_9P) {
		status = meta_getattr(export, rozo_file_id(handle), &attributes);
		if (FSAL_IS_SUCCESS(status) && attributes.verifier != verifier_number(verifier))
			status = fsalstat(ERR_FSAL_EXIST, EEXIST);
	} else if (flags & FSAL_O_TRUNC) {
		status = truncate_existing(export, handle, &attributes);
	} else if (out) {
		status = meta_getattr(export, rozo_file_id(handle), &attributes);
	} else {
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	}

	if (FSAL_IS_SUCCESS(status)) {
		rozo_attributes_seen(handle, &attributes);
		rozo_attributes_out(export, handle, &attributes, out);
		return status;
	}
	PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
	if (state)
		share_drop(handle, state);
	else
		handle->global.openflags = global_before;
	PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	return status;
}

/* Looks the name up or creates it. made->created tells which. */
static fsal_status_t find_or_create(struct rozo_export *export, struct fsal_obj_handle *directory,
	enum fsal_create_mode mode, const char *name, const struct fsal_attrlist *attributes,
	fsal_verifier_t verifier, meta_attributes *found, meta_create_res *made)
{
	meta_create_args args = {.name = (char *)name, .type = META_REGULAR};
	meta_attributes parent;
	fsal_status_t status;

	*made = (meta_create_res){0};
	switch (mode) {
	case FSAL_NO_CREATE:
		return meta_lookup(export, directory->fileid, name, found);
	case FSAL_UNCHECKED:
		/* exportd opens what exists and creates what does not, in one call. But who may not
		   create here may still open what exists. */
		status = rozo_may_add(export, rozo_handle_of(directory), &parent);
		if (status.major == ERR_FSAL_ACCESS) {
			status = meta_lookup(export, directory->fileid, name, found);
			return status.major == ERR_FSAL_NOENT ? fsalstat(ERR_FSAL_ACCESS, EACCES)
							      : status;
		}
		args.how = META_CREATE_UNCHECKED;
		break;
	case FSAL_GUARDED:
	case FSAL_EXCLUSIVE_9P:
		args.how = META_CREATE_GUARDED;
		break;
	case FSAL_EXCLUSIVE:
	case FSAL_EXCLUSIVE_41:
		args.how = META_CREATE_EXCLUSIVE;
		args.verifier = verifier_number(verifier);
		break;
	}
	status = rozo_create(export, directory, attributes, &args, made);
	if (FSAL_IS_SUCCESS(status)) {
		*found = made->attributes;
	} else if (status.major == ERR_FSAL_EXIST && mode == FSAL_UNCHECKED) {
		/* Something else than a file: the caller tells what. */
		status = meta_lookup(export, directory->fileid, name, found);
	}
	return status;
}

static fsal_status_t open_by_name(struct rozo_export *export, struct fsal_obj_handle *directory,
	struct state_t *state, fsal_openflags_t flags, enum fsal_create_mode mode, const char *name,
	const struct fsal_attrlist *attributes, fsal_verifier_t verifier,
	struct fsal_obj_handle **opened, struct fsal_attrlist *out, bool *caller_perm_check)
{
	struct rozo_handle *handle;
	meta_attributes found;
	meta_create_res made;
	fsal_status_t status;
	bool created;

	status = find_or_create(export, directory, mode, name, attributes, verifier, &found, &made);
	if (FSAL_IS_ERROR(status))
		return status;
	created = made.created;
	if (found.type != META_REGULAR)
		return fsalstat(
			found.type == META_DIRECTORY ? ERR_FSAL_ISDIR : ERR_FSAL_SYMLINK, 0);

	/* Nobody else has this handle yet. If the file is known already, Ganesha merges the two and
	   with them the reservations (rozo_merge()), and finds conflicts there. */
	handle = rozo_handle_new(export, &found);
	if (created && made.layout_epoch != 0) {
		handle->made = rozo_request_now();
		handle->made_layout_epoch = made.layout_epoch;
		handle->made_gateway = made.write_gateway;
	}
	if (created && attributes && FSAL_TEST_MASK(attributes->valid_mask, ATTR_SIZE) &&
		attributes->filesize > 0) {
		const meta_set set = {.mask = META_SET_SIZE, .size = attributes->filesize};

		status = rozo_set(export, handle, &set, &found);
	} else if (!created && (flags & FSAL_O_TRUNC) && mode < FSAL_EXCLUSIVE) {
		status = truncate_existing(export, handle, &found);
	}
	if (FSAL_IS_ERROR(status)) {
		handle->obj.obj_ops->release(&handle->obj);
		return status;
	}

	PTHREAD_RWLOCK_wrlock(&handle->obj.obj_lock);
	if (state)
		share_take(handle, state, flags);
	else
		handle->global.openflags = FSAL_O_NFS_FLAGS(flags);
	PTHREAD_RWLOCK_unlock(&handle->obj.obj_lock);

	rozo_attributes_out(export, handle, &found, out);
	*caller_perm_check = !created;
	*opened = &handle->obj;
	return status;
}

fsal_status_t rozo_open2(struct fsal_obj_handle *obj, struct state_t *state, fsal_openflags_t flags,
	enum fsal_create_mode mode, const char *name, struct fsal_attrlist *attributes,
	fsal_verifier_t verifier, struct fsal_obj_handle **opened, struct fsal_attrlist *out,
	bool *caller_perm_check)
{
	struct rozo_export *export = rozo_current();

	if (name)
		return open_by_name(export, obj, state, flags, mode, name, attributes, verifier,
			opened, out, caller_perm_check);
	*caller_perm_check = true;
	return open_by_handle(export, rozo_handle_of(obj), state, flags, mode, verifier, out);
}

fsal_status_t rozo_reopen2(
	struct fsal_obj_handle *obj, struct state_t *state, fsal_openflags_t flags)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	fsal_openflags_t before = rozo_state_of(state)->fd.openflags;
	meta_attributes attributes;
	fsal_status_t status;

	PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
	/* Our own reservation must not be in our way. */
	update_share_counters(&handle->share, before, FSAL_O_CLOSED);
	status = check_share_conflict(&handle->share, flags, false);
	update_share_counters(&handle->share, FSAL_O_CLOSED, before);
	if (FSAL_IS_SUCCESS(status))
		share_take(handle, state, flags);
	PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	if (FSAL_IS_ERROR(status) || !(flags & FSAL_O_TRUNC))
		return status;

	status = truncate_existing(rozo_current(), handle, &attributes);
	if (FSAL_IS_ERROR(status)) {
		PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
		share_take(handle, state, before);
		PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	}
	return status;
}

fsal_openflags_t rozo_status2(struct fsal_obj_handle *obj, struct state_t *state)
{
	(void)obj;
	return rozo_state_of(state)->fd.openflags;
}

/* Ends an open without a state. */
fsal_status_t rozo_close(struct fsal_obj_handle *obj)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	fsal_status_t status = fsalstat(ERR_FSAL_NO_ERROR, 0);

	PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
	if (handle->global.openflags == FSAL_O_CLOSED)
		status = fsalstat(ERR_FSAL_NOT_OPENED, 0);
	handle->global.openflags = FSAL_O_CLOSED;
	PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	return status;
}

/* Called for states of every type, also for one whose open failed. */
fsal_status_t rozo_close2(struct fsal_obj_handle *obj, struct state_t *state)
{
	struct rozo_handle *handle = rozo_handle_of(obj);

	PTHREAD_RWLOCK_wrlock(&obj->obj_lock);
	if (is_share(state))
		share_drop(handle, state);
	PTHREAD_RWLOCK_unlock(&obj->obj_lock);
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

/* Two opens by name of one file made two handles: the second one's opens go to the first. */
fsal_status_t rozo_merge(struct fsal_obj_handle *original, struct fsal_obj_handle *duplicate)
{
	struct rozo_handle *into = rozo_handle_of(original), *from = rozo_handle_of(duplicate);
	struct glist_head *position;
	fsal_status_t status;

	if (original == duplicate || original->type != REGULAR_FILE ||
		duplicate->type != REGULAR_FILE)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	status = merge_share(original, &into->share, &from->share);
	if (FSAL_IS_ERROR(status))
		return status;
	PTHREAD_RWLOCK_wrlock(&original->obj_lock);
	glist_for_each(position, &from->states)
	{
		glist_entry(position, struct rozo_state, link)->handle = into;
	}
	glist_splice_tail(&into->states, &from->states);
	PTHREAD_RWLOCK_unlock(&original->obj_lock);
	return status;
}
