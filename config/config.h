/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The configuration of a cluster: one JSON document, the same on every machine.
 *
 * config_load() reads and validates it wholly; what it returns is in range and consistent, so no
 * reader checks again. Every error names the file, the path in the document ("nodes[2].address"),
 * the value found and what is allowed.
 */
#ifndef ROZO_CONFIG_H
#define ROZO_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "mojette/mojette.h"
#include "rpc/rpc.h"

#define CONFIG_NODE_ID_MAX 65535
#define CONFIG_EXPORT_ID_MAX 65535

struct config_node {
	uint32_t id; /* 1 .. CONFIG_NODE_ID_MAX, unique */
	char *address; /* numeric IPv4 or IPv6 */
	uint16_t store_port; /* store protocol, default 7601 */
	uint16_t nfs_port; /* NFSv3 gateway, default 2049 */
	char *failure_domain; /* default: "node<id>" */
	char **devices; /* absolute directories, at least one */
	size_t device_count;
};

struct config_export {
	uint32_t id; /* 1 .. CONFIG_EXPORT_ID_MAX, unique */
	char *name; /* unique; letters, digits, '-', '_', '.' */
	struct mojette_code code; /* "protection": "4+2"; "code": "non-systematic" (default) or
				     "systematic" */
	uint32_t row_bytes; /* 1024 .. 65536, a power of two, default 4096 */
	uint32_t min_shards; /* max(k, m + 1) (default) .. n */
	uint64_t segment_bytes; /* default 64 GiB; rounded down to whole blocks */
};

struct config {
	char *path; /* of the file, for messages */
	char *cluster_id;
	char *key_file;
	uint32_t scrub_mib_per_second; /* of each storage node, 0: off; default 8 */
	uint32_t scrub_interval_s; /* from the start of a scrub to that of the next; default 600 */
	uint32_t heal_mib_per_second; /* shards written, by each storage node, 0: no limit; default
					 32 */
	uint32_t
		cache_mib; /* 1 .. 65536: decoded blocks, of each gateway and Ganesha; default 64 */
	uint32_t
		gather_ms; /* 0 .. 10000: unstable writes stay in a gateway's memory; default 100 */
	struct rpc_key key; /* read from key_file: 64 hex digits; mode must be 0600 or 0400 */
	char *exportd_address;
	uint16_t exportd_port; /* default 7600 */
	char *exportd_data; /* directory of the metadata */
	uint32_t node_down_after_ms; /* silence after which a node is down; default 3000 */
	uint32_t down_out_interval_s; /* silence after which it is out: its shards are made on
					 others; 0: never, the default */
	struct config_node *nodes; /* ascending id */
	size_t node_count;
	struct config_export *exports; /* ascending id */
	size_t export_count;
};

/*
 * Reads and validates a cluster's configuration, and the key file it names.
 * *config receives it; free with config_free(). error receives a message of at most error_bytes,
 * one line for each problem found (up to ten), when the result is not 0.
 * Returns 0, -ENOENT or -EACCES (a file cannot be read), -EINVAL (its contents), or -ENOMEM.
 */
int config_load(const char *path, struct config **config, char *error, size_t error_bytes);

void config_free(struct config *config);

/* The node or export asked for, or NULL. The result lives as long as config. */
const struct config_node *config_node(const struct config *config, uint32_t id);
const struct config_export *config_export(const struct config *config, const char *name);
const struct config_export *config_export_by_id(const struct config *config, uint32_t id);

/* User bytes in one block of the export: k * row_bytes. */
uint32_t config_block_bytes(const struct config_export *export);

/* Whole blocks in one segment of the export; at least 1. */
uint64_t config_segment_blocks(const struct config_export *export);

/*
 * Derives the key that signs gateway file handles from the cluster key (BLAKE2b of libsodium, with
 * a context of its own), so that the two uses of the cluster key cannot be confused.
 */
void config_handle_key(const struct config *config, uint8_t key[32]);

#endif
