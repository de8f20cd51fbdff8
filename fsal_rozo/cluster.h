/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A cluster as the plugin uses it: its configuration, the stripe engine, the way to exportd, and
 * what is known of its gateways.
 *
 * One for each cluster file in the process, shared by the exports that name the file. Knows
 * nothing of Ganesha. Every function may be called from any thread.
 */
#ifndef ROZO_FSAL_CLUSTER_H
#define ROZO_FSAL_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "rpc/meta.h"
#include "stripe/stripe.h"

/* For one call of exportd. Ganesha's worker waits for it. */
#define CLUSTER_CALL_MS 10000

struct cluster;

/*
 * Takes a reference to the cluster of a cluster file; the first one reads the file, makes the
 * engine, and starts the thread that follows the cluster map.
 * error receives a message of at most error_bytes when the result is not 0, a line for each
 * problem. The reference is returned by cluster_put().
 * Returns 0; what config_load() returns; what stripe_create() returns; or -EAGAIN (no thread).
 */
int cluster_get(const char *path, struct cluster **cluster, char *error, size_t error_bytes);

void cluster_put(struct cluster *cluster);

/* These live as long as the cluster. */
const struct config *cluster_config(const struct cluster *cluster);
struct stripe *cluster_stripe(const struct cluster *cluster);
const uint8_t *cluster_handle_key(const struct cluster *cluster);

/*
 * One call of exportd's protocol (rpc/meta.h), waiting. Every result begins with a status; one
 * that is not 0 is returned negated and the result is freed already. The caller zeroes the result
 * before.
 * *answered (may be NULL) tells whether exportd itself answered.
 * Returns 0; the negated status; or an error of rpc_call(), which is logged.
 */
int cluster_call(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr, const void *args,
	rpc_xdr result_xdr, void *result, unsigned int timeout_ms, bool *answered);

/*
 * The same for a call that changes names and must not be executed twice. Fills in *slot, which is
 * part of args. If the connection breaks when the call has been sent, it is sent again as long as
 * there is time: exportd knows whether it has executed it (meta_slot in rpc/meta.x). Waits if so
 * many of them are under way that there is no slot.
 */
int cluster_call_once(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, meta_slot *slot, rpc_xdr result_xdr, void *result,
	unsigned int timeout_ms, bool *answered);

/*
 * cluster_call() that sends the call again as long as exportd cannot be reached and there is time.
 * For calls that may be executed twice and whose failure would make what was done before look
 * undone.
 */
int cluster_call_persistently(struct cluster *cluster, uint32_t procedure, rpc_xdr args_xdr,
	const void *args, rpc_xdr result_xdr, void *result, unsigned int timeout_ms,
	bool *answered);

/*
 * How often the node came back into service, as of the last cluster map; 0: not known yet.
 * Part of the device ids that clients get, so that a returned gateway is a new device to them.
 */
uint32_t cluster_incarnation(const struct cluster *cluster, uint32_t node);

/*
 * Remembers for duration_ms that a client cannot use a gateway, or until the node comes back into
 * service: what was true of one incarnation says nothing about the next, and a report about an
 * earlier one than the present is not heeded.
 * Returns true if that is news.
 */
bool cluster_avoid(struct cluster *cluster, uint64_t client, uint32_t node, uint32_t incarnation,
	uint64_t duration_ms);

/* The gateways that the client cannot use. Returns how many of at most nodes_max were stored. */
size_t cluster_avoided(struct cluster *cluster, uint64_t client, uint32_t *nodes, size_t nodes_max);

/* Milliseconds of a clock that only runs forwards. */
uint64_t cluster_now_ms(void);

#endif
