/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The plugin itself: registration with Ganesha, the log, and the check of Ganesha's library.
 *
 * Nothing may be started here: Ganesha unloads a plugin whose registration fails. The RPC thread
 * and the thread that follows the cluster map come with the first export.
 */
#include "fsal_rozo/rozo.h"

#include <sys/random.h>

#include "FSAL/fsal_init.h"
#include "fsal_pnfs.h"
#include "fsal_rozo/ganesha_series.h"
#include "nfs_core.h"
#include "rpc/log.h"

struct rozo_module ROZO = {
	.fsal = {.fs_info =
			 {
				 .maxfilesize = INT64_MAX,
				 .maxlink = UINT32_MAX,
				 .maxnamelen = META_NAME_MAX,
				 .maxpathlen = META_SYMLINK_MAX,
				 .no_trunc = true,
				 .chown_restricted = true,
				 .case_insensitive = false,
				 .case_preserving = true,
				 .link_support = true,
				 .symlink_support = true,
				 /* Ganesha keeps byte-range locks itself; lock_op2() only checks
				    the open mode, and there is no lock manager behind us that could
				    disagree. */
				 .lock_support = true,
				 .lock_support_async_block = false,
				 .named_attr = false,
				 .unique_handles = true,
				 .acl_support = 0,
				 .cansettime = true,
				 .homogenous = true,
				 .supported_attrs = ROZO_ATTRIBUTES,
				 .maxread = FSAL_MAXIOSIZE,
				 .maxwrite = FSAL_MAXIOSIZE,
				 .umask = 0,
				 .auth_exportpath_xdev = false,
				 .link_supports_permission_checks = false,
				 .readdir_plus = true,
				 .expire_time_parent = -1,
			 }},
};

static void log_sink(enum rozo_log_level level, const char *line)
{
	switch (level) {
	case ROZO_LOG_ERROR:
		LogCrit(COMPONENT_FSAL, "%s", line);
		break;
	case ROZO_LOG_WARNING:
		LogWarn(COMPONENT_FSAL, "%s", line);
		break;
	case ROZO_LOG_INFO:
		LogEvent(COMPONENT_FSAL, "%s", line);
		break;
	case ROZO_LOG_DEBUG:
		LogDebug(COMPONENT_FSAL, "%s", line);
		break;
	}
}

/*
 * Called once, before the first export. Debian's library crashes under an ordinary pNFS client;
 * the rebuilt one tells by a symbol of its own what is mended in it.
 */
static fsal_status_t init_config(
	struct fsal_module *module, config_file_t config, struct config_error_type *err_type)
{
	(void)config;
	(void)err_type;

	/* Ganesha's own levels decide; but lines that it would drop should not be made at all. */
	rozo_log_set_level(isDebug(COMPONENT_FSAL) ? ROZO_LOG_DEBUG : ROZO_LOG_INFO);
	rozo_log_set_sink(log_sink);

	ROZO.layouts = (ganesha_series() & GANESHA_MENDS_LAYOUTS) == GANESHA_MENDS_LAYOUTS;
	module->fs_info.pnfs_mds = ROZO.layouts;
	if (!ROZO.layouts)
		LogWarn(COMPONENT_PNFS,
			"This libganesha_nfsd is not the one rebuilt with Rozo's patch series: no "
			"layouts are given out, and all data goes through this server. Run "
			"ci/setup "
			"and put the rebuilt library first (LD_LIBRARY_PATH).");
	else if (!nfs_param.nfsv4_param.pnfs_mds)
		LogWarn(COMPONENT_PNFS,
			"PNFS_MDS is off in block NFSv4 of Ganesha's configuration: clients will "
			"not ask for layouts, and all data goes through this server.");
	else
		LogEvent(COMPONENT_PNFS, "Flexible file layouts are given out");
	display_fsinfo(module);
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

MODULE_INIT void rozo_init(void)
{
	struct fsal_module *module = &ROZO.fsal;

	while (ROZO.server == 0)
		if (getrandom(&ROZO.server, sizeof(ROZO.server), 0) < 0)
			ROZO.server = 0;
	/* The id goes into byte 0 of every device id; plugins from outside the tree have this one.
	 */
	if (register_fsal(module, "ROZO", FSAL_MAJOR_VERSION, FSAL_MINOR_VERSION,
		    FSAL_ID_EXPERIMENTAL) != 0) {
		LogCrit(COMPONENT_FSAL, "FSAL ROZO cannot be registered");
		return;
	}
	module->m_ops.init_config = init_config;
	module->m_ops.create_export = rozo_create_export;
	module->m_ops.update_export = rozo_update_export;
	module->m_ops.getdeviceinfo = rozo_getdeviceinfo;
	module->m_ops.fs_da_addr_size = rozo_device_body_bytes;
	rozo_handle_ops_init(&ROZO.handle_ops);
}

MODULE_FINI void rozo_finish(void)
{
	if (unregister_fsal(&ROZO.fsal) != 0)
		LogCrit(COMPONENT_FSAL, "FSAL ROZO cannot be unregistered: it is still in use");
}
