/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A storage node's NFSv3 data server (RFC 1813, RFC 8435 section 2): file bytes in, shards out.
 *
 * Serves NULL, GETATTR, ACCESS, READ, WRITE, FSSTAT, FSINFO, PATHCONF and COMMIT for handles that
 * the FSAL signed (rpc/gateway_handle.h). Everything else answers NFS3ERR_NOTSUPP.
 */
#ifndef ROZO_STORAGED_GATEWAY_H
#define ROZO_STORAGED_GATEWAY_H

#include "rpc/gateway_handle.h"
#include "rpc/rpc.h"
#include "stripe/stripe.h"

struct gateway {
	struct stripe *stripe;
	uint32_t node_id;
	uint8_t handle_key[GATEWAY_HANDLE_KEY_BYTES];
};

/* Fills in the program for rpc_server_start(); both arguments must live as long as the server. */
void gateway_program(struct gateway *gateway, struct rpc_program *program);

#endif
