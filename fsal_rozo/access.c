/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Permission checks that Ganesha leaves to its plugins.
 *
 * Ganesha checks opens, reads, writes, SETATTR, LOOKUP and READDIR by mode bits. Whether a caller
 * may add an entry to a directory or take one out is decided by the local file system under
 * FSAL_VFS, which runs as the caller; exportd knows no callers, so it is decided here, by the rules
 * of POSIX and Linux: write and search on the directory, the sticky bit, and a directory's own
 * write bit if its ".." changes.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <sys/stat.h>

static bool is_superuser(void)
{
	return op_ctx->fsal_export->exp_ops.is_superuser(op_ctx->fsal_export, &op_ctx->creds);
}

static bool in_group(uint32_t gid)
{
	unsigned int i;

	if (op_ctx->creds.caller_gid == gid)
		return true;
	for (i = 0; i < op_ctx->creds.caller_glen; i++)
		if (op_ctx->creds.caller_garray[i] == gid)
			return true;
	return false;
}

bool rozo_may(const meta_attributes *attributes, unsigned int want)
{
	unsigned int granted = attributes->mode;

	if (is_superuser())
		return true;
	/* The first class that fits decides, even if a later one would grant more. */
	if (op_ctx->creds.caller_uid == attributes->uid)
		granted >>= 6;
	else if (in_group(attributes->gid))
		granted >>= 3;
	return (granted & want) == want;
}

fsal_status_t rozo_may_add(
	struct rozo_export *export, struct rozo_handle *directory, meta_attributes *attributes)
{
	fsal_status_t status = rozo_attributes_recent(export, directory, attributes);

	if (FSAL_IS_ERROR(status))
		return status;
	if (!rozo_may(attributes, ROZO_MAY_WRITE | ROZO_MAY_SEARCH))
		return fsalstat(ERR_FSAL_ACCESS, EACCES);
	return status;
}

fsal_status_t rozo_may_remove(
	struct rozo_export *export, struct rozo_handle *directory, struct rozo_handle *victim)
{
	meta_attributes attributes, victim_attributes;
	fsal_status_t status = rozo_may_add(export, directory, &attributes);

	if (FSAL_IS_ERROR(status) || !(attributes.mode & S_ISVTX) || is_superuser() ||
		op_ctx->creds.caller_uid == attributes.uid)
		return status;
	status = rozo_attributes_recent(export, victim, &victim_attributes);
	if (FSAL_IS_ERROR(status))
		return status;
	if (op_ctx->creds.caller_uid != victim_attributes.uid)
		return fsalstat(ERR_FSAL_PERM, EPERM);
	return status;
}
