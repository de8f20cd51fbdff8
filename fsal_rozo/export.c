/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Exports: their configuration, the way to the export in exportd, handles from the wire, and the
 * figures of the file system.
 *
 * An export holds a reference to its cluster from creation to release. No locks.
 */
#include "fsal_rozo/rozo.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "config_parsing.h"
#include "export_mgr.h"
#include "fsal_rozo/meta_calls.h"
#include "nfs_exports.h"

/* How long the start waits for exportd. */
#define WAIT_SECONDS_DEFAULT 60
#define WAIT_SECONDS_MAX 3600
#define WAIT_STEP_MS 250

/*
 * exportd sets no limit to the number of files. Clients that show a share of used ones want a
 * total, so this many are said to be possible.
 */
#define FILES_TOTAL (UINT64_C(1) << 40)

static struct config_item export_items[] = {CONF_ITEM_NOOP("name"),
	CONF_MAND_PATH("cluster", 1, MAXPATHLEN, NULL, rozo_export, cluster_path),
	CONF_MAND_STR("export", 1, META_NAME_MAX, NULL, rozo_export, export_name),
	CONF_ITEM_UI32("wait_seconds", 0, WAIT_SECONDS_MAX, WAIT_SECONDS_DEFAULT, rozo_export,
		wait_seconds),
	CONFIG_EOL};

static struct config_block export_block = {
	.dbus_interface_name = "org.ganesha.nfsd.config.fsal.rozo-export%d",
	.blk_desc.name = "FSAL",
	.blk_desc.type = CONFIG_BLOCK,
	.blk_desc.u.blk.init = noop_conf_init,
	.blk_desc.u.blk.params = export_items,
	.blk_desc.u.blk.commit = noop_conf_commit,
};

static void release(struct fsal_export *fsal_export)
{
	struct rozo_export *export = rozo_export_of(fsal_export);

	fsal_detach_export(fsal_export->fsal, &fsal_export->exports);
	free_export_ops(fsal_export);
	cluster_put(export->cluster);
	absent_put(export->absent);
	gsh_free(export->cluster_path);
	gsh_free(export->export_name);
	gsh_free(export);
}

/* Whatever Path says: the export's root is the root of the namespace in exportd. */
static fsal_status_t lookup_path(struct fsal_export *fsal_export, const char *path,
	struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	struct rozo_export *export = rozo_export_of(fsal_export);
	meta_attributes attributes;
	fsal_status_t status = meta_getattr(export, export->root_id, &attributes);

	(void)path;
	if (FSAL_IS_ERROR(status))
		return status;
	*obj = &rozo_handle_new(export, &attributes)->obj;
	rozo_attributes_out(export, NULL, &attributes, out);
	return status;
}

/* The bytes are the same on the wire and on every host: nothing to turn around. */
static fsal_status_t wire_to_host(struct fsal_export *fsal_export, fsal_digesttype_t type,
	struct gsh_buffdesc *handle, int flags)
{
	uint64_t file_id;

	(void)type;
	(void)flags;
	if (!rozo_wire_decode(rozo_export_of(fsal_export), handle->addr, handle->len, &file_id)) {
		LogInfo(COMPONENT_FSAL, "A client presented a handle of %zu bytes that is not ours",
			handle->len);
		return fsalstat(ERR_FSAL_BADHANDLE, 0);
	}
	handle->len = ROZO_WIRE_BYTES;
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

static fsal_status_t host_to_key(struct fsal_export *fsal_export, struct gsh_buffdesc *handle)
{
	const struct rozo_export *export = rozo_export_of(fsal_export);
	uint64_t file_id;

	if (!rozo_wire_decode(export, handle->addr, handle->len, &file_id))
		return fsalstat(ERR_FSAL_BADHANDLE, 0);
	_Static_assert(ROZO_KEY_BYTES <= ROZO_WIRE_BYTES + FSAL_KEY_EXTRA_BYTES, "");
	rozo_key_encode(export, file_id, handle->addr);
	handle->len = ROZO_KEY_BYTES;
	return fsalstat(ERR_FSAL_NO_ERROR, 0);
}

static fsal_status_t create_handle(struct fsal_export *fsal_export, struct gsh_buffdesc *wire,
	struct fsal_obj_handle **obj, struct fsal_attrlist *out)
{
	struct rozo_export *export = rozo_export_of(fsal_export);
	struct rozo_handle *handle;
	meta_attributes attributes;
	fsal_status_t status;
	uint64_t file_id;

	*obj = NULL;
	if (!rozo_wire_decode(export, wire->addr, wire->len, &file_id))
		return fsalstat(ERR_FSAL_BADHANDLE, 0);
	status = meta_getattr(export, file_id, &attributes);
	if (FSAL_IS_ERROR(status))
		return status;
	handle = rozo_handle_new(export, &attributes);
	rozo_attributes_out(export, handle, &attributes, out);
	*obj = &handle->obj;
	return status;
}

static fsal_status_t get_fs_dynamic_info(
	struct fsal_export *fsal_export, struct fsal_obj_handle *obj, fsal_dynamicfsinfo_t *info)
{
	meta_statfs_res result = {0};
	fsal_status_t status = meta_statfs(rozo_export_of(fsal_export), &result);

	(void)obj;
	if (FSAL_IS_ERROR(status))
		return status;
	memset(info, 0, sizeof(*info));
	info->total_bytes = result.total_bytes;
	info->free_bytes = result.free_bytes;
	info->avail_bytes = result.free_bytes;
	info->total_files = FILES_TOTAL;
	info->free_files = FILES_TOTAL - MIN(result.files, FILES_TOTAL);
	info->avail_files = info->free_files;
	info->time_delta.tv_nsec = 1;
	return status;
}

/*
 * The verifier from before the write that this thread has just done. Ganesha asks for the verifier
 * after the write, in the same thread, and in between another thread's failed COMMIT may have lost
 * these very bytes and changed it: the new verifier would tell the client that they are safe.
 */
static _Thread_local struct {
	const struct rozo_export *export; /* NULL: no write was done */
	uint64_t verifier;
} before_write;

static uint64_t current_verifier(const struct rozo_export *export)
{
	return stripe_write_verifier(cluster_stripe(export->cluster));
}

void rozo_write_begins(const struct rozo_export *export)
{
	before_write.export = export;
	before_write.verifier = current_verifier(export);
}

void rozo_commit_begins(void)
{
	before_write.export = NULL;
}

/*
 * Ganesha's own verifier changes with Ganesha's restart only; ours also when a storage node took
 * unstable data of ours with it.
 */
static void get_write_verifier(struct fsal_export *fsal_export, struct gsh_buffdesc *verifier)
{
	const struct rozo_export *export = rozo_export_of(fsal_export);
	uint64_t value =
		before_write.export == export ? before_write.verifier : current_verifier(export);

	before_write.export = NULL;
	memset(verifier->addr, 0, verifier->len);
	memcpy(verifier->addr, &value, MIN(verifier->len, sizeof(value)));
}

static bool (*default_fs_supports)(struct fsal_export *, fsal_fsinfo_options_t);

/* exportd keeps a create's verifier in the inode, not in its times. */
static bool fs_supports(struct fsal_export *fsal_export, fsal_fsinfo_options_t option)
{
	return option == fso_own_create_verifier || default_fs_supports(fsal_export, option);
}

static void export_ops_init(struct export_ops *ops)
{
	ops->release = release;
	ops->lookup_path = lookup_path;
	ops->wire_to_host = wire_to_host;
	ops->host_to_key = host_to_key;
	ops->create_handle = create_handle;
	ops->get_fs_dynamic_info = get_fs_dynamic_info;
	ops->get_write_verifier = get_write_verifier;
	default_fs_supports = ops->fs_supports;
	ops->fs_supports = fs_supports;
	ops->alloc_state = rozo_alloc_state;
	ops->free_state = rozo_free_state;
	rozo_pnfs_export_ops_init(ops);
}

/* Opens the cluster. The log tells what is wrong with its file. */
static fsal_status_t open_cluster(struct rozo_export *export)
{
	char text[4096];
	char *line, *rest = text;
	int error = cluster_get(export->cluster_path, &export->cluster, text, sizeof(text));

	if (error == 0)
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	LogCrit(COMPONENT_FSAL,
		"Export_Id %u: the cluster file %s cannot be used:", op_ctx->ctx_export->export_id,
		export->cluster_path);
	while ((line = strsep(&rest, "\n")) != NULL)
		if (*line != '\0')
			LogCrit(COMPONENT_FSAL, "  %s", line);
	return fsalstat(ERR_FSAL_INVAL, -error);
}

/* Makes sure that the cluster file knows the export, and says which ones it does know. */
static fsal_status_t check_name(struct rozo_export *export)
{
	const struct config *config = cluster_config(export->cluster);
	char known[1024] = "";
	size_t used = 0, i;

	if (config_export(config, export->export_name))
		return fsalstat(ERR_FSAL_NO_ERROR, 0);
	for (i = 0; i < config->export_count && used < sizeof(known); i++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s\"%s\"",
			i == 0 ? "" : ", ", config->exports[i].name);
	LogCrit(COMPONENT_FSAL,
		"Export_Id %u: the cluster file %s has no export \"%s\"; it has %s. Correct "
		"`export` in the FSAL block, or add the export to the cluster file.",
		op_ctx->ctx_export->export_id, export->cluster_path, export->export_name,
		config->export_count == 0 ? "none" : known);
	return fsalstat(ERR_FSAL_INVAL, ENOENT);
}

/*
 * Asks exportd for the export, and waits for it when everything starts at the same time: Ganesha
 * drops an export that cannot be made, for good.
 */
static fsal_status_t attach(struct rozo_export *export)
{
	const struct config *config = cluster_config(export->cluster);
	uint64_t deadline_ms = cluster_now_ms() + export->wait_seconds * UINT64_C(1000);
	const struct timespec step = {.tv_nsec = WAIT_STEP_MS * 1000000L};
	uint64_t server = ROZO.server;
	meta_attach_res result = {0};
	fsal_status_t status;
	bool answered;

	for (;;) {
		status = meta_attach(export, server, &result, &answered);
		/* What can be read must not wait for an administrator. */
		if (answered && status.minor == ENOSPC && server != 0) {
			LogWarn(COMPONENT_FSAL,
				"Export_Id %u: rozo-exportd has no room to note that layouts given "
				"before this start are over: what was overwritten under them may "
				"stay unseen in caches of clients. Make room on its disk, then "
				"restart this server.",
				op_ctx->ctx_export->export_id);
			server = 0;
			continue;
		}
		if (answered || cluster_now_ms() >= deadline_ms)
			break;
		nanosleep(&step, NULL);
	}
	if (FSAL_IS_SUCCESS(status)) {
		export->id = result.export_id;
		export->root_id = result.root_id;
		export->filesystem_id = result.filesystem_id;
		export->block_bytes = result.k * result.row_bytes;
		return status;
	}
	if (!answered)
		LogCrit(COMPONENT_FSAL,
			"Export_Id %u: rozo-exportd at %s port %u did not answer within %u s "
			"(%s). Start it, then this server or `ExportMgr AddExport`.",
			op_ctx->ctx_export->export_id, config->exportd_address,
			config->exportd_port, export->wait_seconds, strerror(status.minor));
	else if (status.minor == ENOENT)
		LogCrit(COMPONENT_FSAL,
			"Export_Id %u: rozo-exportd at %s port %u has no export \"%s\", although "
			"%s names it. exportd runs with another cluster file, or was not restarted "
			"since the export was added.",
			op_ctx->ctx_export->export_id, config->exportd_address,
			config->exportd_port, export->export_name, export->cluster_path);
	else
		LogCrit(COMPONENT_FSAL, "Export_Id %u: rozo-exportd refuses export \"%s\": %s",
			op_ctx->ctx_export->export_id, export->export_name, strerror(status.minor));
	return status;
}

fsal_status_t rozo_create_export(struct fsal_module *module, void *parse_node,
	struct config_error_type *err_type, const struct fsal_up_vector *up_ops)
{
	struct rozo_export *export = gsh_calloc(1, sizeof(*export));
	fsal_status_t status = fsalstat(ERR_FSAL_INVAL, EINVAL);
	int error;

	fsal_export_init(&export->export);
	export_ops_init(&export->export.exp_ops);

	if (load_config_from_node(parse_node, &export_block, export, true, err_type) != 0)
		goto out;
	status = open_cluster(export);
	if (FSAL_IS_ERROR(status))
		goto out;
	status = check_name(export);
	if (FSAL_IS_ERROR(status))
		goto out;
	status = attach(export);
	if (FSAL_IS_ERROR(status))
		goto out;
	export->absent = absent_get(export->filesystem_id);
	if (!export->absent) {
		status = fsalstat(ERR_FSAL_NOMEM, ENOMEM);
		goto out;
	}

	error = fsal_attach_export(module, &export->export.exports);
	if (error != 0) {
		LogCrit(COMPONENT_FSAL, "Export_Id %u cannot be attached to FSAL ROZO",
			op_ctx->ctx_export->export_id);
		status = meta_status(error);
		goto out;
	}
	export->export.fsal = module;
	export->export.up_ops = up_ops;
	op_ctx->fsal_export = &export->export;
	LogEvent(COMPONENT_FSAL, "Export_Id %u: export \"%s\" of %s is ready",
		op_ctx->ctx_export->export_id, export->export_name, export->cluster_path);
out:
	if (FSAL_IS_ERROR(status)) {
		free_export_ops(&export->export);
		if (export->cluster)
			cluster_put(export->cluster);
		absent_put(export->absent);
		gsh_free(export->cluster_path);
		gsh_free(export->export_name);
		gsh_free(export);
	}
	return status;
}

fsal_status_t rozo_update_export(struct fsal_module *module, void *parse_node,
	struct config_error_type *err_type, struct fsal_export *original,
	struct fsal_module *updated_super)
{
	struct rozo_export *export = rozo_export_of(original);
	struct rozo_export wanted;
	fsal_status_t status = update_export(module, parse_node, err_type, original, updated_super);

	if (FSAL_IS_ERROR(status))
		return status;
	memset(&wanted, 0, sizeof(wanted));
	if (load_config_from_node(parse_node, &export_block, &wanted, true, err_type) != 0)
		status = fsalstat(ERR_FSAL_INVAL, EINVAL);
	else if (strcmp(wanted.cluster_path, export->cluster_path) != 0 ||
		 strcmp(wanted.export_name, export->export_name) != 0) {
		/* File handles of clients would silently mean other files. */
		LogCrit(COMPONENT_FSAL,
			"Export_Id %u: `cluster` and `export` cannot change while it is exported "
			"(%s \"%s\" to %s \"%s\"); remove the export first",
			original->export_id, export->cluster_path, export->export_name,
			wanted.cluster_path, wanted.export_name);
		status = fsalstat(ERR_FSAL_INVAL, EINVAL);
	}
	gsh_free(wanted.cluster_path);
	gsh_free(wanted.export_name);
	return status;
}
