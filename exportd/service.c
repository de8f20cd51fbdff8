/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * From procedure numbers to operations. Arguments are decoded and bounded by the stubs (meta.x);
 * what they mean is checked by the operations. Called by the RPC server's threads, several at once;
 * takes no locks.
 */
#include <errno.h>

#include "exportd/file.h"
#include "exportd/free_queue.h"
#include "exportd/map.h"
#include "exportd/namespace.h"
#include "exportd/orphan.h"
#include "exportd/rebuild.h"
#include "exportd/service.h"
#include "exportd/truncation.h"
#include "rpc/log.h"
#include "rpc/meta.h"

static void service_heartbeat(struct exportd *exportd, const struct meta_heartbeat_args *args,
	struct meta_heartbeat_res *result)
{
	if (args->starting) {
		int strays = config_node(exportd->config, args->node) == NULL
				     ? -ENOENT
				     : free_queue_strays(exportd, args->node);

		result->status = strays < 0 ? (uint32_t)-strays : 0;
		result->strays_waiting = strays == 1;
		return;
	}
	map_heartbeat(exportd->map, args, result);
	/* An error here is in the log, and the next heartbeat asks again. */
	if (result->status == 0) {
		result->servers = atomic_load(&exportd->servers);
		result->free_waiting = free_queue_waiting(exportd, args->node) == 1;
		result->rebuild_waiting = rebuild_waiting(exportd, args->node) == 1;
		result->truncations_waiting = truncation_waiting(exportd, args->node) == 1;
	}
}

static void service_map(
	struct exportd *exportd, const struct meta_map_args *args, struct meta_map_res *result)
{
	map_answer(exportd->map, args, result);
}

/* name, type of the arguments, type of the result, operation */
#define SERVICE_PROCEDURES(X)                                                                      \
	X(ATTACH, meta_attach_args, meta_attach_res, namespace_attach)                             \
	X(LOOKUP, meta_lookup_args, meta_attributes_res, namespace_lookup)                         \
	X(GETATTR, meta_file, meta_attributes_res, namespace_getattr)                              \
	X(SETATTR, meta_setattr_args, meta_setattr_res, file_setattr)                              \
	X(TRUNCATED, meta_truncated_args, meta_status_res, file_truncated)                         \
	X(CREATE, meta_create_args, meta_create_res, namespace_create)                             \
	X(READLINK, meta_file, meta_readlink_res, namespace_readlink)                              \
	X(LINK, meta_link_args, meta_attributes_res, namespace_link)                               \
	X(UNLINK, meta_unlink_args, meta_unlink_res, namespace_unlink)                             \
	X(RENAME, meta_rename_args, meta_rename_res, namespace_rename)                             \
	X(READDIR, meta_readdir_args, meta_readdir_res, namespace_readdir)                         \
	X(STATFS, meta_statfs_args, meta_statfs_res, namespace_statfs)                             \
	X(PLACEMENT, meta_placement_args, meta_placement_res, file_placement)                      \
	X(LAYOUT, meta_layout_args, meta_layout_res, file_layout)                                  \
	X(WRITTEN, meta_written_args, meta_attributes_res, file_written)                           \
	X(CHECK_EPOCH, meta_check_epoch_args, meta_status_res, file_check_epoch)                   \
	X(HEARTBEAT, meta_heartbeat_args, meta_heartbeat_res, service_heartbeat)                   \
	X(MAP, meta_map_args, meta_map_res, service_map)                                           \
	X(FREE_LIST, meta_free_args, meta_free_res, free_queue_list)                               \
	X(FREED, meta_freed_args, meta_status_res, free_queue_freed)                               \
	X(REBUILD_LIST, meta_rebuild_args, meta_rebuild_res, rebuild_list)                         \
	X(REBUILT, meta_rebuilt_args, meta_status_res, rebuild_done)                               \
	X(TRUNCATIONS, meta_truncations_args, meta_truncations_res, truncation_list)               \
	X(ORPHANS, meta_orphans_args, meta_orphans_res, orphan_judge)

#define SERVICE_HANDLER(name, args_type, result_type, operation)                                   \
	static void handle_##name(                                                                 \
		void *context, const struct rpc_caller *caller, const void *args, void *result)    \
	{                                                                                          \
		(void)caller;                                                                      \
		operation(context, args, result);                                                  \
	}
SERVICE_PROCEDURES(SERVICE_HANDLER)

#define SERVICE_ENTRY(procedure, args_type, result_type, operation)                                \
	[META_##procedure] = {                                                                     \
		.name = #procedure,                                                                \
		.handler = handle_##procedure,                                                     \
		.args_xdr = RPC_XDR(xdr_##args_type),                                              \
		.args_bytes = sizeof(struct args_type),                                            \
		.result_xdr = RPC_XDR(xdr_##result_type),                                          \
		.result_bytes = sizeof(struct result_type),                                        \
	},
static void handle_CLUSTER(
	void *context, const struct rpc_caller *caller, const void *args, void *result)
{
	(void)caller;
	(void)args;
	rebuild_cluster(context, result);
}

static const struct rpc_procedure service_procedures[] = {
	SERVICE_PROCEDURES(SERVICE_ENTRY)[META_CLUSTER] =
		{
			.name = "CLUSTER",
			.handler = handle_CLUSTER,
			.result_xdr = RPC_XDR(xdr_meta_cluster_res),
			.result_bytes = sizeof(struct meta_cluster_res),
		},
};

void service_program(struct exportd *exportd, struct rpc_program *program)
{
	*program = (struct rpc_program){
		.program = META_PROGRAM,
		.version = META_V1,
		.procedures = service_procedures,
		.procedure_count = sizeof(service_procedures) / sizeof(service_procedures[0]),
		.context = exportd,
	};
}
