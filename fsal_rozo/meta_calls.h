/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The calls of exportd, one function each, with results in Ganesha's terms.
 *
 * A call waits at most CLUSTER_CALL_MS. When exportd cannot be reached the result is
 * ERR_FSAL_DELAY: clients try again later, and no worker of Ganesha hangs. Results (meta_*_res) are
 * zeroed before by the caller; those that own memory are freed by the caller with rpc_free().
 */
#ifndef ROZO_FSAL_META_CALLS_H
#define ROZO_FSAL_META_CALLS_H

#include "fsal_rozo/rozo.h"

/* A status that exportd answered with (an errno, positive). */
fsal_status_t meta_status(int error);

/* A result of the stripe engine (negative errno, or 0). */
fsal_status_t meta_stripe_status(int error);

/* Waits at most CLUSTER_CALL_MS, or the given time. */
/* server: of meta_attach_args. */
fsal_status_t meta_attach(
	struct rozo_export *export, uint64_t server, meta_attach_res *result, bool *answered);
fsal_status_t meta_lookup(struct rozo_export *export, uint64_t directory_id, const char *name,
	meta_attributes *attributes);
fsal_status_t meta_getattr(
	struct rozo_export *export, uint64_t file_id, meta_attributes *attributes);
fsal_status_t meta_setattr(struct rozo_export *export, uint64_t file_id, const meta_set *set,
	meta_setattr_res *result);

/* args->export_id is filled in. */
fsal_status_t meta_create(
	struct rozo_export *export, meta_create_args *args, meta_create_res *result);

/* *target is a string from gsh_malloc(). */
fsal_status_t meta_readlink(struct rozo_export *export, uint64_t file_id, char **target);

fsal_status_t meta_link(struct rozo_export *export, uint64_t file_id, uint64_t directory_id,
	const char *name, meta_attributes *attributes);
fsal_status_t meta_unlink(struct rozo_export *export, uint64_t directory_id, const char *name,
	bool directory, meta_unlink_res *result);
fsal_status_t meta_rename(struct rozo_export *export, uint64_t from_directory_id,
	const char *from_name, uint64_t to_directory_id, const char *to_name,
	uint64_t *replaced_id);

/* The result owns memory: rpc_free(RPC_XDR(xdr_meta_readdir_res), result). */
fsal_status_t meta_readdir(struct rozo_export *export, uint64_t directory_id, uint64_t cookie,
	uint32_t count, meta_readdir_res *result);

fsal_status_t meta_statfs(struct rozo_export *export, meta_statfs_res *result);

/*
 * write_epoch: under which the bytes were written, if they may make the file larger, else 0; size
 * 0: leave; time NULL: exportd's clock. ERR_FSAL_DELAY with EAGAIN: the epoch has ended, and
 * nothing was done.
 */
fsal_status_t meta_written(struct rozo_export *export, uint64_t file_id, uint32_t write_epoch,
	uint64_t size, const meta_time *time, bool durable_before, meta_attributes *attributes);

/* The result owns memory: rpc_free(RPC_XDR(xdr_meta_layout_res), result). */
fsal_status_t meta_layout(struct rozo_export *export, uint64_t file_id, uint32_t iomode,
	bool writers, uint64_t client, uint32_t *avoid, uint32_t avoid_count,
	meta_layout_res *result);

#endif
