/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Layouts and devices. docs/fsal.md tells the whole story.
 *
 * exportd decides which gateways a layout names; here the decision is turned into RFC 8435, the
 * layouts that are out are counted, and clients' complaints about gateways are remembered.
 *
 * layoutreturn and layoutcommit are called with the file's STATELOCK held, layoutget without it and
 * concurrently for one file. Only a handle's own lock is taken here.
 */
#include "fsal_rozo/rozo.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "export_mgr.h"
#include "fsal_pnfs.h"
#include "fsal_rozo/flexfiles_xdr.h"
#include "fsal_rozo/meta_calls.h"
#include "nfs_exports.h"
#include "nfs_convert.h"
#include "nfs_proto_data.h"
#include "rpc/gateway_handle.h"
#include "rpc/log.h"

/* Room for FLEXFILES_MIRRORS_MAX mirrors of about 150 bytes. Ganesha allocates so much. */
#define LAYOUT_BODY_BYTES 4096
#define DEVICE_BODY_BYTES 1024

/* A gateway's largest READ and WRITE. */
#define GATEWAY_IO_BYTES (1024 * 1024)

/* READ layouts name no more mirrors than this. */
#define READ_MIRRORS_MAX 3

/*
 * Owner and group that clients use towards gateways (RFC 8435 section 2.2). Not root, and different
 * for the two modes; gateways go by the signed mode in the file handle.
 */
#define RW_ID 2000000001
#define READ_ID 2000000002

/* LAYOUTSTATS tell nothing that the gateways do not know themselves: a client may wait ten years.
 */
#define STATS_SECONDS 315360000

/* Reports of one LAYOUTRETURN that are looked at; Linux sends no more than 20. */
#define ERRORS_MAX 32

/* How long a client that was refused for want of space has to come back and hear so. */
#define NO_SPACE_MS 10000

/*
 * How long a client is spared a gateway that it reported. One that it cannot reach: as long as
 * Linux itself holds a data server for unavailable (PNFS_DEVICE_RETRY_TIMEOUT). One that answered
 * with an error: long enough not to go round in a circle; the cause is often that nodes are down,
 * which other gateways suffer from, too.
 */
#define AVOID_UNREACHABLE_MS 120000
#define AVOID_FAILING_MS 10000

/* How long no layout is taken back after one could not be. */
#define REVOKE_PAUSE_MS 60000

/* What belongs to a layout while it is out. */
struct layout {
	uint64_t client;
	layoutiomode4 iomode;
};

/*
 * deviceid4 of a gateway. Byte 0 is Ganesha's, and leads GETDEVICEINFO back to us.
 *
 *   0         1       2                  4                 8                    12
 *   +---------+-------+------------------+-----------------+--------------------+--------+
 *   | fsal id | zero  | Export_Id (2)    | node id (4)     | incarnation (4)    | zero 4 |
 *   +---------+-------+------------------+-----------------+--------------------+--------+
 *   all big-endian, 16 bytes
 */
static void device_id_encode(uint8_t id[FLEXFILES_DEVICE_ID_BYTES], uint16_t export_id,
	uint32_t node, uint32_t incarnation)
{
	uint16_t export_id_wire = htons(export_id);
	uint32_t node_wire = htonl(node), incarnation_wire = htonl(incarnation);

	memset(id, 0, FLEXFILES_DEVICE_ID_BYTES);
	id[0] = FSAL_ID_EXPERIMENTAL;
	memcpy(id + 2, &export_id_wire, 2);
	memcpy(id + 4, &node_wire, 4);
	memcpy(id + 8, &incarnation_wire, 4);
}

static bool device_id_decode(const uint8_t id[FLEXFILES_DEVICE_ID_BYTES], uint16_t *export_id,
	uint32_t *node, uint32_t *incarnation)
{
	static const uint8_t zero[4];

	if (id[0] != FSAL_ID_EXPERIMENTAL || id[1] != 0 || memcmp(id + 12, zero, 4) != 0)
		return false;
	memcpy(export_id, id + 2, 2);
	memcpy(node, id + 4, 4);
	memcpy(incarnation, id + 8, 4);
	*export_id = ntohs(*export_id);
	*node = ntohl(*node);
	*incarnation = ntohl(*incarnation);
	return true;
}

/* Errors of exportd in LAYOUTGET and LAYOUTCOMMIT (RFC 8881 sections 18.42.3, 18.43.3). */
static nfsstat4 layout_status(fsal_status_t status)
{
	switch (status.major) {
	case ERR_FSAL_NO_ERROR:
		return NFS4_OK;
	case ERR_FSAL_STALE:
		return NFS4ERR_STALE;
	case ERR_FSAL_NOSPC:
		return NFS4ERR_NOSPC;
	case ERR_FSAL_DQUOT:
		return NFS4ERR_DQUOT;
	case ERR_FSAL_FBIG:
		return NFS4ERR_FBIG;
	case ERR_FSAL_ROFS:
		return NFS4ERR_ROFS;
	case ERR_FSAL_IO:
		return NFS4ERR_IO;
	case ERR_FSAL_DELAY:
		/* Tried again until it works. LAYOUTUNAVAILABLE would send Linux to the metadata
		   server for two minutes and FreeBSD for good. */
		return NFS4ERR_DELAY;
	default:
		return NFS4ERR_SERVERFAULT;
	}
}

/* ---- LAYOUTGET ---- */

/* A well mixed number in [1, 0xffff], the same whenever it is asked for. */
static uint32_t preference(uint64_t file_id, uint64_t client, uint32_t node)
{
	uint64_t x = file_id * UINT64_C(0x9e3779b97f4a7c15) ^
		     client * UINT64_C(0xc2b2ae3d27d4eb4f) ^ node * UINT64_C(0x165667b19e3779f9);

	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	x ^= x >> 31;
	return (uint32_t)(x % 0xffff) + 1;
}

/*
 * Orders the gateways of a READ layout. Linux reads from the highest efficiency, and keeps the
 * first one it saw of a mirror as long as it knows the mirror, so the value depends on nothing but
 * file, client and gateway. While the file is being written its write gateway, which exportd puts
 * first, stays on top.
 */
static void choose_efficiency(uint64_t file_id, uint64_t client, bool writers, uint32_t *nodes,
	uint32_t *efficiency, uint32_t count)
{
	uint32_t i, j;

	for (i = 0; i < count; i++) {
		uint32_t node = nodes[i];
		uint32_t value = preference(file_id, client, node);

		if (writers && i == 0)
			value += 0x10000;
		for (j = i; j > 0 && efficiency[j - 1] < value; j--) {
			nodes[j] = nodes[j - 1];
			efficiency[j] = efficiency[j - 1];
		}
		nodes[j] = node;
		efficiency[j] = value;
	}
	/* Equal ones are rare; clients want them strictly descending. */
	for (i = 1; i < count; i++)
		if (efficiency[i] >= efficiency[i - 1])
			efficiency[i] = efficiency[i - 1] - 1;
}

static int encode_layout(struct rozo_export *export, struct rozo_handle *handle, uint64_t client,
	bool rw, bool writers, const meta_layout_res *choice, XDR *body)
{
	uint8_t file_handle[GATEWAY_HANDLE_BYTES];
	struct flexfiles_mirror mirrors[FLEXFILES_MIRRORS_MAX];
	uint32_t nodes[FLEXFILES_MIRRORS_MAX], efficiency[FLEXFILES_MIRRORS_MAX];
	struct flexfiles_layout layout = {
		.mirrors = mirrors,
		.mirror_count = MIN(choice->gateways.gateways_len, rw ? 1 : READ_MIRRORS_MAX),
		.flags = FLEXFILES_NO_IO_THRU_MDS,
		.stats_seconds = STATS_SECONDS,
	};
	const struct gateway_handle gateway = {
		.export_id = export->id,
		.file_id = rozo_file_id(handle),
		.layout_epoch = choice->layout_epoch,
		.iomode = rw ? GATEWAY_RW : GATEWAY_READ,
	};
	uint32_t i;

	gateway_handle_encode(&gateway, cluster_handle_key(export->cluster), file_handle);
	memcpy(nodes, choice->gateways.gateways_val, layout.mirror_count * sizeof(nodes[0]));
	choose_efficiency(rozo_file_id(handle), client, rw || writers, nodes, efficiency,
		layout.mirror_count);
	for (i = 0; i < layout.mirror_count; i++) {
		device_id_encode(mirrors[i].device_id, export->export.export_id, nodes[i],
			cluster_incarnation(export->cluster, nodes[i]));
		mirrors[i].efficiency = efficiency[i];
		mirrors[i].handle = file_handle;
		mirrors[i].handle_bytes = sizeof(file_handle);
		mirrors[i].user = rw ? RW_ID : READ_ID;
		mirrors[i].group = rw ? RW_ID : READ_ID;
	}
	return flexfiles_encode_layout(body, &layout);
}

/*
 * The core has checked that the client has the file open, but not how. A RW layout is for who has
 * it open for writing; the mode bits were checked by that open, and need not allow it any more.
 */
static bool may_have(struct rozo_handle *handle, uint64_t client, bool rw)
{
	if (!rw)
		return true;
	return (op_ctx->export_perms.options & EXPORT_OPTION_WRITE_ACCESS) != 0 &&
	       rozo_is_open(handle, client, FSAL_O_WRITE);
}

/*
 * A client whose write was refused for want of space returns its layout and asks for another. It
 * must hear of it here, or it would go round for ever: Linux believes NOSPC from LAYOUTGET only.
 */
static bool take_no_space(struct rozo_handle *handle, uint64_t client)
{
	bool told;

	pthread_mutex_lock(&handle->lock);
	told = handle->no_space_until_ms > cluster_now_ms() && handle->no_space_client == client;
	if (told)
		handle->no_space_until_ms = 0;
	pthread_mutex_unlock(&handle->lock);
	return told;
}

/* A RW layout goes out: from now on attributes change behind Ganesha's cache. */
static void count_layout(struct rozo_export *export, struct rozo_handle *handle)
{
	bool first;

	pthread_mutex_lock(&handle->lock);
	first = handle->rw_layouts++ == 0;
	pthread_mutex_unlock(&handle->lock);
	if (first)
		rozo_attributes_invalidate(export, handle);
}

static void uncount_layout(struct rozo_handle *handle)
{
	pthread_mutex_lock(&handle->lock);
	if (handle->rw_layouts > 0)
		handle->rw_layouts--;
	pthread_mutex_unlock(&handle->lock);
}

/*
 * The layout that the creation of the file told of, if the current request has made it and the
 * client can use the gateway: then exportd need not be asked.
 */
static bool take_made(struct rozo_handle *handle, const uint32_t *avoid, uint32_t avoid_count,
	meta_layout_res *choice)
{
	uint32_t node, epoch, i;
	bool taken;

	pthread_mutex_lock(&handle->lock);
	taken = rozo_request_is_now(&handle->made);
	handle->made.context = NULL;
	node = handle->made_gateway;
	epoch = handle->made_layout_epoch;
	pthread_mutex_unlock(&handle->lock);
	for (i = 0; i < avoid_count && taken; i++)
		taken = avoid[i] != node;
	if (!taken)
		return false;
	choice->gateways.gateways_val = malloc(sizeof(uint32_t));
	if (!choice->gateways.gateways_val)
		return false;
	choice->gateways.gateways_val[0] = node;
	choice->gateways.gateways_len = 1;
	choice->layout_epoch = epoch;
	return true;
}

static nfsstat4 layoutget(struct fsal_obj_handle *obj, XDR *body,
	const struct fsal_layoutget_arg *arg, struct fsal_layoutget_res *res)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct rozo_export *export = rozo_current();
	uint64_t client = op_ctx->clientid ? *op_ctx->clientid : 0;
	bool rw = res->segment.io_mode == LAYOUTIOMODE4_RW, writers;
	uint32_t avoid[META_SHARDS_MAX];
	uint32_t avoid_count;
	meta_layout_res choice = {0};
	fsal_status_t status;
	struct layout *layout;
	int error;

	if (!ROZO.layouts)
		return NFS4ERR_LAYOUTUNAVAILABLE;
	if (arg->type != LAYOUT4_FLEX_FILES)
		return NFS4ERR_UNKNOWN_LAYOUTTYPE;
	if (!rw && res->segment.io_mode != LAYOUTIOMODE4_READ)
		return NFS4ERR_BADIOMODE;
	if (!may_have(handle, client, rw))
		return NFS4ERR_ACCESS;
	if (rw && take_no_space(handle, client))
		return NFS4ERR_NOSPC;

	pthread_mutex_lock(&handle->lock);
	writers = handle->rw_layouts > 0;
	pthread_mutex_unlock(&handle->lock);
	avoid_count = (uint32_t)cluster_avoided(export->cluster, client, avoid, META_SHARDS_MAX);
	if (!rw || !take_made(handle, avoid, avoid_count, &choice)) {
		status = meta_layout(export, rozo_file_id(handle),
			rw ? META_LAYOUT_RW : META_LAYOUT_READ, writers, client, avoid, avoid_count,
			&choice);
		if (FSAL_IS_ERROR(status))
			return layout_status(status);
	}

	error = encode_layout(export, handle, client, rw, writers, &choice, body);
	rpc_free(RPC_XDR(xdr_meta_layout_res), &choice);
	if (error == -ENOSPC)
		return NFS4ERR_TOOSMALL;
	if (error != 0) {
		LogCrit(COMPONENT_PNFS,
			"Export \"%s\", file %" PRIu64 ": exportd's answer makes no layout",
			export->export_name, rozo_file_id(handle));
		return NFS4ERR_DELAY;
	}

	layout = gsh_calloc(1, sizeof(*layout));
	layout->client = client;
	layout->iomode = res->segment.io_mode;
	if (rw)
		count_layout(export, handle);
	res->fsal_seg_data = layout;
	res->segment.offset = 0;
	res->segment.length = NFS4_UINT64_MAX;
	res->return_on_close = true;
	res->last_segment = true;
	res->signal_available = false;
	return NFS4_OK;
}

/* ---- LAYOUTRETURN ---- */

/* What a client's report means for the layouts that it gets next. */
static void heed_error(struct rozo_export *export, struct rozo_handle *handle, uint64_t client,
	const struct flexfiles_error *error)
{
	uint32_t node, incarnation;
	uint16_t export_id;
	bool new_report = true;

	if (!device_id_decode(error->device_id, &export_id, &node, &incarnation) ||
		!config_node(cluster_config(export->cluster), node)) {
		LogInfo(COMPONENT_PNFS, "A client reports an error of an unknown device");
		return;
	}
	switch (error->status) {
	case NFS4ERR_NOSPC:
	case NFS4ERR_DQUOT:
		pthread_mutex_lock(&handle->lock);
		handle->no_space_client = client;
		handle->no_space_until_ms = cluster_now_ms() + NO_SPACE_MS;
		pthread_mutex_unlock(&handle->lock);
		break;
	case NFS4_OK:
	case NFS4ERR_DELAY: /* came right in the end */
	case NFS4ERR_STALE: /* an old epoch: the next layout has the new one */
		break;
	case NFS4ERR_NXIO:
		new_report = cluster_avoid(
			export->cluster, client, node, incarnation, AVOID_UNREACHABLE_MS);
		break;
	default:
		new_report =
			cluster_avoid(export->cluster, client, node, incarnation, AVOID_FAILING_MS);
		break;
	}
	if (new_report)
		rozo_log_limited(WARNING,
			"Client %" PRIx64 " reports %s from the gateway of node %u (operation %u, "
			"file %" PRIu64 " of export \"%s\", bytes %" PRIu64 " to %" PRIu64 ")",
			client, nfsstat4_to_str(error->status), node, error->operation,
			rozo_file_id(handle), export->export_name, error->offset,
			error->length == NFS4_UINT64_MAX ? error->length
							 : error->offset + error->length);
}

/*
 * The core does not rewind the body between the segments of one LAYOUTRETURN, so each call reads
 * it from where it found it and puts it back there. Heeding a report twice is harmless.
 */
static void heed_errors(
	struct rozo_export *export, struct rozo_handle *handle, uint64_t client, XDR *body)
{
	struct flexfiles_error errors[ERRORS_MAX];
	u_int position = xdr_getpos(body);
	size_t count, i;
	int error = flexfiles_decode_return(body, errors, ERRORS_MAX, &count);

	xdr_setpos(body, position);
	if (error == -EBADMSG)
		LogInfo(COMPONENT_PNFS,
			"The error reports in a LAYOUTRETURN of client %" PRIx64
			" end in the middle; %zu were readable",
			client, count);
	for (i = 0; i < count; i++)
		heed_error(export, handle, client, &errors[i]);
}

/*
 * The client of a RW layout is gone: its lease has expired, or the export goes. Should it only be
 * frozen, it must not write when it goes on, since what it had locked may be another's by then.
 */
static void layout_revoke(struct rozo_export *export, struct rozo_handle *handle, uint64_t client)
{
	uint64_t file_id = rozo_file_id(handle);
	meta_layout_res result = {0};
	fsal_status_t status;
	int error = -EAGAIN;

	/* There may be many, and Ganesha waits for each of them. */
	if (cluster_now_ms() >= atomic_load(&export->revoke_after_ms)) {
		status = meta_layout(
			export, file_id, META_LAYOUT_REVOKE, false, client, NULL, 0, &result);
		rpc_free(RPC_XDR(xdr_meta_layout_res), &result);
		if (status.major == ERR_FSAL_STALE)
			return; /* removed */
		error = FSAL_IS_SUCCESS(status)
				? stripe_fence(cluster_stripe(export->cluster), export->id, file_id)
				: -(int)status.minor;
		if (error != 0 && error != -ESTALE)
			atomic_store(&export->revoke_after_ms, cluster_now_ms() + REVOKE_PAUSE_MS);
	}
	if (error != 0 && error != -ESTALE)
		rozo_log_limited(WARNING,
			"Client %" PRIx64 " is gone, and its layout of file %" PRIu64
			" of export \"%s\" cannot be taken back: %s. If it comes back it may still "
			"write there",
			client, file_id, export->export_name, strerror(-error));
}

static nfsstat4 layoutreturn(
	struct fsal_obj_handle *obj, XDR *body, const struct fsal_layoutreturn_arg *arg)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct layout *layout = arg->fsal_seg_data;
	uint64_t client = layout ? layout->client : op_ctx->clientid ? *op_ctx->clientid : 0;

	if (arg->circumstance != circumstance_reclaim && arg->lo_type != LAYOUT4_FLEX_FILES)
		return NFS4ERR_UNKNOWN_LAYOUTTYPE;
	if (body && op_ctx->fsal_export)
		heed_errors(rozo_current(), handle, client, body);
	if (layout && arg->dispose) {
		if (layout->iomode == LAYOUTIOMODE4_RW) {
			/* First: what is asked of the attributes until then is not kept for long.
			 */
			if (arg->circumstance == circumstance_revoke && op_ctx->fsal_export)
				layout_revoke(rozo_current(), handle, client);
			uncount_layout(handle);
		}
		gsh_free(layout);
	}
	return NFS4_OK;
}

/* ---- LAYOUTCOMMIT ---- */

static nfsstat4 layoutcommit(struct fsal_obj_handle *obj, XDR *body,
	const struct fsal_layoutcommit_arg *arg, struct fsal_layoutcommit_res *res)
{
	struct rozo_handle *handle = rozo_handle_of(obj);
	struct rozo_export *export = rozo_current();
	const meta_time time = {
		.seconds = (int64_t)arg->new_time.seconds, .nanoseconds = arg->new_time.nseconds};
	meta_attributes attributes;
	fsal_status_t status;

	(void)body; /* flexible files have none (RFC 8435 section 7) */
	if (arg->type != LAYOUT4_FLEX_FILES)
		return NFS4ERR_UNKNOWN_LAYOUTTYPE;
	/*
	 * Only the times. The size that the client saw is not heeded: gateways tell exportd the
	 * size before they answer COMMIT or a stable WRITE, so nothing that is safe is beyond
	 * exportd's size; and a client that writes, cuts the file and then commits sends the end of
	 * what it wrote before the cut, which would let the file grow again (Linux does).
	 */
	status = meta_written(export, rozo_file_id(handle), 0, 0, arg->time_changed ? &time : NULL,
		true, &attributes);
	if (FSAL_IS_ERROR(status))
		return layout_status(status);
	rozo_attributes_answered(handle, &attributes);
	res->size_supplied = arg->new_offset;
	res->new_size = attributes.size;
	res->commit_done = true;
	return NFS4_OK;
}

/* ---- devices ---- */

/* Called without an export: the device id names it. */
nfsstat4 rozo_getdeviceinfo(struct fsal_module *module, XDR *body, const layouttype4 type,
	const struct pnfs_deviceid *id)
{
	uint32_t node_id, incarnation, newest;
	struct glist_head *position;
	nfsstat4 status = NFS4ERR_NOENT;
	uint16_t export_id;

	if (type != LAYOUT4_FLEX_FILES)
		return NFS4ERR_UNKNOWN_LAYOUTTYPE;
	_Static_assert(sizeof(*id) == FLEXFILES_DEVICE_ID_BYTES, "");
	if (!device_id_decode((const uint8_t *)id, &export_id, &node_id, &incarnation))
		return NFS4ERR_NOENT;

	PTHREAD_RWLOCK_rdlock(&module->lock);
	glist_for_each(position, &module->exports)
	{
		struct rozo_export *export =
			rozo_export_of(glist_entry(position, struct fsal_export, exports));
		const struct config_node *node;
		int error;

		if (export->export.export_id != export_id)
			continue;
		node = config_node(cluster_config(export->cluster), node_id);
		newest = cluster_incarnation(export->cluster, node_id);
		/* One that cannot have been given out. An older one is the same gateway still. */
		if (!node || (newest != 0 && incarnation > newest))
			break;
		error = flexfiles_encode_device(
			body, &(struct flexfiles_device){.address = node->address,
				      .port = node->nfs_port,
				      .rsize = GATEWAY_IO_BYTES,
				      .wsize = GATEWAY_IO_BYTES});
		status = error == 0 ? NFS4_OK : error == -ENOSPC ? NFS4ERR_TOOSMALL : NFS4ERR_NOENT;
		break;
	}
	PTHREAD_RWLOCK_unlock(&module->lock);
	if (status == NFS4ERR_NOENT)
		LogInfo(COMPONENT_PNFS, "GETDEVICEINFO for node %u of Export_Id %u: no such device",
			node_id, export_id);
	return status;
}

size_t rozo_device_body_bytes(struct fsal_module *module)
{
	(void)module;
	return DEVICE_BODY_BYTES;
}

/* Ganesha would build other device ids from these than it understands itself. */
static nfsstat4 getdevicelist(struct fsal_export *export, layouttype4 type, void *context,
	bool (*callback)(void *context, const uint64_t id), struct fsal_getdevicelist_res *res)
{
	(void)export;
	(void)type;
	(void)context;
	(void)callback;
	res->eof = true;
	return NFS4_OK;
}

/* ---- what the file system can do ---- */

static void fs_layouttypes(struct fsal_export *export, int32_t *count, const layouttype4 **types)
{
	static const layouttype4 flexible[] = {LAYOUT4_FLEX_FILES};

	(void)export;
	*count = ROZO.layouts ? 1 : 0;
	*types = flexible;
}

static uint32_t fs_layout_blocksize(struct fsal_export *export)
{
	return rozo_export_of(export)->block_bytes;
}

static uint32_t fs_maximum_segments(struct fsal_export *export)
{
	(void)export;
	return 1;
}

static size_t fs_loc_body_size(struct fsal_export *export)
{
	(void)export;
	return LAYOUT_BODY_BYTES;
}

void rozo_pnfs_export_ops_init(struct export_ops *ops)
{
	ops->getdevicelist = getdevicelist;
	ops->fs_layouttypes = fs_layouttypes;
	ops->fs_layout_blocksize = fs_layout_blocksize;
	ops->fs_maximum_segments = fs_maximum_segments;
	ops->fs_loc_body_size = fs_loc_body_size;
}

void rozo_pnfs_handle_ops_init(struct fsal_obj_ops *ops)
{
	ops->layoutget = layoutget;
	ops->layoutreturn = layoutreturn;
	ops->layoutcommit = layoutcommit;
}
