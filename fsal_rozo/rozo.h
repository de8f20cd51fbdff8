/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the files of the plugin share: the module, exports, file handles and open states, and the
 * functions that one file offers to the others.
 *
 * Ganesha's MDCACHE is always above us: it makes sure of one object handle for each file, counts
 * the references, and caches attributes and directories. The plugin keeps only what must be at
 * hand in this process: share reservations, open states, and the layouts that are out.
 *
 * Locks: a handle's obj_lock guards its share reservation and its list of open states; its `lock`
 * guards the rest of the changing fields, is taken last, and never held over a call.
 */
#ifndef ROZO_FSAL_H
#define ROZO_FSAL_H

#include "config.h"
#include "fsal.h"
#include "fsal_api.h"
#include "fsal_types.h"
#include "FSAL/fsal_commonlib.h"

#include "fsal_rozo/absent.h"
#include "fsal_rozo/cluster.h"
#include "rpc/meta.h"

/* ---- the module (main.c) ---- */

struct rozo_module {
	struct fsal_module fsal;
	struct fsal_obj_ops handle_ops;
	uint64_t server; /* of this run, not 0: whose layouts are out */
	bool layouts; /* Ganesha's library carries our series: layouts can be given out */
};

extern struct rozo_module ROZO;

/* ---- exports (export.c) ---- */

struct rozo_export {
	struct fsal_export export;
	char *cluster_path; /* from the FSAL block */
	char *export_name;
	uint32_t wait_seconds;
	struct cluster *cluster;
	uint32_t id; /* in the cluster file */
	uint64_t root_id;
	uint64_t filesystem_id;
	uint32_t block_bytes;
	struct absent *absent; /* names that are known not to be there */
	_Atomic uint64_t revoke_after_ms; /* no layout is taken back before that */
};

static inline struct rozo_export *rozo_export_of(struct fsal_export *export)
{
	return container_of(export, struct rozo_export, export);
}

/* The export of the operation in progress. */
static inline struct rozo_export *rozo_current(void)
{
	return rozo_export_of(op_ctx->fsal_export);
}

/* Before a write and before a commit in this thread: which verifier Ganesha is told after it. */
void rozo_write_begins(const struct rozo_export *export);
void rozo_commit_begins(void);

fsal_status_t rozo_create_export(struct fsal_module *module, void *parse_node,
	struct config_error_type *err_type, const struct fsal_up_vector *up_ops);
fsal_status_t rozo_update_export(struct fsal_module *module, void *parse_node,
	struct config_error_type *err_type, struct fsal_export *original,
	struct fsal_module *updated_super);

/* ---- handles (handle.c) ---- */

/*
 * The file handle that clients hold: the same bytes on every host. Ganesha puts its Export_Id
 * before it.
 *
 *   0        1                       4                        8
 *   +--------+-----------------------+------------------------+
 *   | format | zero                  | export id (big-endian) |
 *   +--------+-----------------------+------------------------+
 *   | file id (8, big-endian)                                 |
 *   +---------------------------------------------------------+   16 bytes
 *
 * Ganesha's cache is one for all exports of the process, which may be of several clusters, and
 * export and file ids are counted in each of them. Its key has the file system's id instead of the
 * first eight bytes.
 */
#define ROZO_WIRE_FORMAT 1
#define ROZO_WIRE_BYTES 16
#define ROZO_KEY_BYTES 16

/* A client's request: its context, which the next one may have, too, and when it began. */
struct rozo_request {
	const void *context; /* NULL: none */
	struct timespec start;
};

static inline struct rozo_request rozo_request_now(void)
{
	return (struct rozo_request){.context = op_ctx, .start = op_ctx->start_time};
}

static inline bool rozo_request_is_now(const struct rozo_request *request)
{
	return request->context == op_ctx && request->start.tv_sec == op_ctx->start_time.tv_sec &&
	       request->start.tv_nsec == op_ctx->start_time.tv_nsec;
}

struct rozo_handle {
	struct fsal_obj_handle obj;
	uint8_t wire[ROZO_WIRE_BYTES];
	uint8_t key[ROZO_KEY_BYTES];

	struct fsal_share share; /* obj_lock */
	struct glist_head states; /* obj_lock: rozo_state.link */
	struct fsal_fd global; /* obj_lock: opens without a state */

	pthread_mutex_t lock;
	meta_attributes attributes; /* lock: as last seen */
	uint64_t attributes_ms; /* lock: when; 0: never */
	/* lock: the request whose change they came with; with what the creation told of a layout */
	struct rozo_request answered;
	struct rozo_request made;
	uint32_t made_layout_epoch;
	uint32_t made_gateway;
	uint32_t rw_layouts; /* lock: how many RW layouts are out */
	uint64_t no_space_client; /* lock: reported NFS3ERR_NOSPC, to be told so */
	uint64_t no_space_until_ms; /* lock */
};

static inline struct rozo_handle *rozo_handle_of(struct fsal_obj_handle *obj)
{
	return container_of(obj, struct rozo_handle, obj);
}

static inline uint64_t rozo_file_id(const struct rozo_handle *handle)
{
	return handle->obj.fileid;
}

/* A new object handle for a file of the export. Ganesha owns it; never fails. */
struct rozo_handle *rozo_handle_new(struct rozo_export *export, const meta_attributes *attributes);

/*
 * Creates the object that args describe (name, type, how, verifier, device, target) with the given
 * attributes (NULL: defaults), after checking that the caller may. Owner and group are the caller's
 * unless the attributes or a set-group-id directory say otherwise.
 */
fsal_status_t rozo_create(struct rozo_export *export, struct fsal_obj_handle *directory,
	const struct fsal_attrlist *attributes, meta_create_args *args, meta_create_res *result);

/* Fills in the methods. */
void rozo_handle_ops_init(struct fsal_obj_ops *ops);

/* Reads a file handle received from outside. False if it is none of this export's. */
bool rozo_wire_decode(
	const struct rozo_export *export, const void *wire, size_t bytes, uint64_t *file_id);

/* Ganesha's key of a file. */
void rozo_key_encode(
	const struct rozo_export *export, uint64_t file_id, uint8_t key[ROZO_KEY_BYTES]);

/* ---- attributes (attributes.c) ---- */

/* What the plugin stores and returns. */
#define ROZO_ATTRIBUTES ATTRS_POSIX

object_file_type_t rozo_type_from_meta(uint32_t meta_type);
uint32_t rozo_type_to_meta(object_file_type_t type);

/*
 * Copies attributes out, unless out is NULL. handle (may be NULL) decides how long Ganesha may
 * cache them: while RW layouts of the file are out, gateways change them behind our back.
 */
void rozo_attributes_out(const struct rozo_export *export, struct rozo_handle *handle,
	const meta_attributes *attributes, struct fsal_attrlist *out);

/* Translates attributes to be set. The size is left to the caller. */
void rozo_attributes_in(const struct fsal_attrlist *attributes, meta_set *set);

/* Remembers attributes just received, for permission checks of the next second. */
void rozo_attributes_seen(struct rozo_handle *handle, const meta_attributes *attributes);

/*
 * The same for attributes that came with the answer to a change that the current request made. If
 * the same request asks for them next, as Ganesha does after each change, it gets these.
 */
void rozo_attributes_answered(struct rozo_handle *handle, const meta_attributes *attributes);

/* They have changed and are not known. */
void rozo_attributes_unknown(struct rozo_handle *handle);

/* What Ganesha's cache has of them is not trusted any more. */
void rozo_attributes_invalidate(struct rozo_export *export, struct rozo_handle *handle);

/* Attributes not older than a second. */
fsal_status_t rozo_attributes_recent(
	struct rozo_export *export, struct rozo_handle *handle, meta_attributes *attributes);

fsal_status_t rozo_getattrs(struct fsal_obj_handle *obj, struct fsal_attrlist *out);
fsal_status_t rozo_setattr2(struct fsal_obj_handle *obj, bool bypass, struct state_t *state,
	struct fsal_attrlist *attributes);

/*
 * Sets attributes and, if that cuts the file, empties its blocks beyond the new size.
 * *result (may be NULL) receives the attributes after.
 */
fsal_status_t rozo_set(struct rozo_export *export, struct rozo_handle *handle, const meta_set *set,
	meta_attributes *result);

/* ---- permissions (access.c) ---- */

#define ROZO_MAY_READ 4
#define ROZO_MAY_WRITE 2
#define ROZO_MAY_SEARCH 1

/* True if the caller of the operation in progress may do all of `want` (ROZO_MAY_*). */
bool rozo_may(const meta_attributes *attributes, unsigned int want);

/*
 * Checks that the caller may add entries to the directory.
 * *directory receives the directory's attributes.
 */
fsal_status_t rozo_may_add(
	struct rozo_export *export, struct rozo_handle *directory, meta_attributes *attributes);

/* Checks that the caller may take the entry, which names `victim`, out of the directory. */
fsal_status_t rozo_may_remove(
	struct rozo_export *export, struct rozo_handle *directory, struct rozo_handle *victim);

/* ---- opens and I/O (open.c, io.c) ---- */

/* Ganesha allocates states through alloc_state(); its helpers want the fd right behind. */
struct rozo_state {
	struct state_t state;
	struct fsal_fd fd;
	uint64_t client; /* NFSv4 client id, 0: none */
	struct glist_head link; /* in rozo_handle.states while open */
	struct rozo_handle *handle; /* whose list that is; NULL: not open */
};

static inline struct rozo_state *rozo_state_of(struct state_t *state)
{
	return container_of(state, struct rozo_state, state);
}

struct state_t *rozo_alloc_state(
	struct fsal_export *export, enum state_type type, struct state_t *related);
void rozo_free_state(struct fsal_export *export, struct state_t *state);

fsal_status_t rozo_open2(struct fsal_obj_handle *obj, struct state_t *state, fsal_openflags_t flags,
	enum fsal_create_mode mode, const char *name, struct fsal_attrlist *attributes,
	fsal_verifier_t verifier, struct fsal_obj_handle **opened, struct fsal_attrlist *out,
	bool *caller_perm_check);
fsal_status_t rozo_reopen2(
	struct fsal_obj_handle *obj, struct state_t *state, fsal_openflags_t flags);
fsal_openflags_t rozo_status2(struct fsal_obj_handle *obj, struct state_t *state);
fsal_status_t rozo_close(struct fsal_obj_handle *obj);
fsal_status_t rozo_close2(struct fsal_obj_handle *obj, struct state_t *state);
bool rozo_check_verifier(struct fsal_obj_handle *obj, fsal_verifier_t verifier);
fsal_status_t rozo_merge(struct fsal_obj_handle *original, struct fsal_obj_handle *duplicate);

/* True if the client has the file open with all of the flags (FSAL_O_READ, FSAL_O_WRITE). */
bool rozo_is_open(struct rozo_handle *handle, uint64_t client, fsal_openflags_t flags);

void rozo_read2(struct fsal_obj_handle *obj, bool bypass, fsal_async_cb done,
	struct fsal_io_arg *io, void *context);
void rozo_write2(struct fsal_obj_handle *obj, bool bypass, fsal_async_cb done,
	struct fsal_io_arg *io, void *context);
fsal_status_t rozo_commit2(struct fsal_obj_handle *obj, off_t offset, size_t length);
fsal_status_t rozo_lock_op2(struct fsal_obj_handle *obj, struct state_t *state, void *owner,
	fsal_lock_op_t operation, fsal_lock_param_t *request, fsal_lock_param_t *conflict);

/* ---- pNFS (pnfs.c) ---- */

void rozo_pnfs_export_ops_init(struct export_ops *ops);
void rozo_pnfs_handle_ops_init(struct fsal_obj_ops *ops);
nfsstat4 rozo_getdeviceinfo(struct fsal_module *module, XDR *body, const layouttype4 type,
	const struct pnfs_deviceid *id);
size_t rozo_device_body_bytes(struct fsal_module *module);

#endif
