/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the fault tests ask of a running cluster, call by call: names and layouts of exportd, NFSv3
 * of the gateways, headers of the stores. It has the cluster key, so it makes handles itself.
 * Nothing is retried here. All functions may be called from several threads.
 *
 * Results: 0; a negative errno (of the transport, see rpc.h, or a status of exportd or of a store);
 * or, where it says so, a positive NFS status.
 */
#ifndef ROZO_TEST_RAW_CLIENT_H
#define ROZO_TEST_RAW_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "rpc/gateway_handle.h"
#include "rpc/meta.h"
#include "rpc/nfs3.h"
#include "rpc/rpc.h"
#include "rpc/store.h"

#define RAW_CALL_MS 60000 /* no call of a client may take longer, whatever fails */
#define RAW_SHARDS_MAX 24

struct raw {
	struct config *config;
	const struct config_export *export; /* the first one */
	struct rpc_client *meta;
	struct rpc_client **gateways; /* by place in config->nodes */
	struct rpc_client **stores;
	uint8_t handle_key[GATEWAY_HANDLE_KEY_BYTES];
};

struct raw_layout {
	uint32_t node; /* write gateway */
	uint32_t epoch;
};

/* Which node holds which shard of a file's first segment. */
struct raw_placement {
	unsigned int count;
	uint32_t nodes[RAW_SHARDS_MAX];
	store_geometry geometry;
	bool truncate; /* a truncation waits to be carried out */
};

/* Ends the process with a message if the configuration cannot be had. */
void raw_open(struct raw *raw, const char *config_path);
void raw_close(struct raw *raw);

uint64_t raw_now_ms(void);
void raw_sleep_ms(unsigned int ms);

/* A file in the root of the export; an existing one of this name is as good. */
int raw_create(struct raw *raw, const char *name, uint64_t *file_id);
int raw_remove(struct raw *raw, const char *name);
int raw_layout(struct raw *raw, uint64_t file_id, struct raw_layout *layout);
/* Begins a truncation if that is smaller, and does not carry it out: as who dies then. */
int raw_set_size(struct raw *raw, uint64_t file_id, uint64_t size);
int raw_placement(struct raw *raw, uint64_t file_id, struct raw_placement *placement);

/* True if the gateway of a node answers within ms. */
bool raw_gateway_up(struct raw *raw, uint32_t node, unsigned int ms);

/* Through the layout's gateway. verifier receives 8 bytes, and may be NULL. May be an NFS status.
 */
int raw_write(struct raw *raw, uint64_t file_id, const struct raw_layout *layout, uint64_t offset,
	const void *bytes, uint32_t length, bool stable, char *verifier);
int raw_commit(struct raw *raw, uint64_t file_id, const struct raw_layout *layout, char *verifier);

/* Through any gateway. *length receives the bytes read. May be an NFS status. */
int raw_read(struct raw *raw, uint32_t node, uint64_t file_id, uint32_t epoch, uint64_t offset,
	uint32_t count, void *bytes, uint32_t *length);

/* What the store of shard `shard` says of blocks of the first segment; headers has room for count.
 */
int raw_headers(struct raw *raw, const struct raw_placement *placement, uint64_t file_id,
	unsigned int shard, uint64_t first_block, uint32_t count, store_read_block *headers);

#endif
