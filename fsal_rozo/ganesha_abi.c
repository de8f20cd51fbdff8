/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The plugin's view of Ganesha's structs against Debian's nfs-ganesha 4.3 (amd64).
 *
 * The plugin is compiled with headers of the same source but with a config.h of its own, and
 * nothing else would notice a struct that came out differently. The sizes are those of
 * Debian's build: nfs_param and def_pnfs_ds_ops by the size of the exported symbols, the rest
 * by a FSAL of Ganesha's rebuilt with this config.h to the same instructions as Debian's.
 * There is no code here and nothing to lock.
 */
#include "config.h"
#include "fsal.h"
#include "fsal_api.h"
#include "fsal_up.h"
#include "fsal_pnfs.h"
#include "gsh_config.h"
#include "nfs_core.h"
#include "sal_data.h"
#include "export_mgr.h"

#if defined(DEBUG_SAL) || defined(RPC_VSOCK) || defined(_USE_NFS_RDMA) || defined(USE_LTTNG)
#error "an option that changes Ganesha's structs is set; see include/config.h"
#endif
#ifndef NDEBUG
#error "Debian's Ganesha is compiled with NDEBUG, and its inline functions change with it"
#endif

#define SAME_SIZE(type, size_bytes)                                                                \
	_Static_assert(sizeof(type) == (size_bytes), #type " differs from Debian's Ganesha 4.3")

SAME_SIZE(nfs_parameter_t, 0x200);
SAME_SIZE(struct fsal_pnfs_ds_ops, 0x40);
SAME_SIZE(struct req_op_context, 232);
SAME_SIZE(struct fsal_module, 352);
SAME_SIZE(struct fsal_ops, 96);
SAME_SIZE(struct export_ops, 272);
SAME_SIZE(struct fsal_obj_ops, 424);
SAME_SIZE(struct fsal_export, 360);
SAME_SIZE(struct fsal_obj_handle, 144);
SAME_SIZE(struct fsal_attrlist, 248);
SAME_SIZE(struct fsal_up_vector, 184);
SAME_SIZE(struct state_t, 216);
SAME_SIZE(state_owner_t, 480);
SAME_SIZE(nfs_client_id_t, 1216);
SAME_SIZE(struct gsh_export, 448);

_Static_assert(FSAL_MAJOR_VERSION == 11 && FSAL_MINOR_VERSION == 0,
	"the FSAL interface is not that of Ganesha 4.3");
