/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* The MACs of the mutual authentication; auth.x describes the exchange. No locks, no state. */
#ifndef ROZO_RPC_CLUSTER_AUTH_H
#define ROZO_RPC_CLUSTER_AUTH_H

#include <stdbool.h>
#include <stdint.h>
#include "rpc/auth_protocol.h"
#include "rpc/rpc.h"

#pragma GCC visibility push(hidden)

/* Procedures of every rozo program. */
#define RPC_PROCEDURE_NULL 0
#define RPC_PROCEDURE_HELLO 1
#define RPC_PROCEDURE_PROVE 2

enum rpc_auth_side { RPC_AUTH_SERVER, RPC_AUTH_CLIENT };

/* Fills a nonce with random bytes. Returns 0, or -ENOSYS if libsodium cannot start. */
int rpc_auth_nonce(char nonce[AUTH_NONCE_BYTES]);

/* Computes the MAC that one side proves itself with. */
void rpc_auth_mac(char mac[AUTH_MAC_BYTES], enum rpc_auth_side side, const struct rpc_key *key,
	uint32_t program, const char client_nonce[AUTH_NONCE_BYTES],
	const char server_nonce[AUTH_NONCE_BYTES]);

/* Compares a received MAC with the right one, in constant time. */
bool rpc_auth_check(const char mac[AUTH_MAC_BYTES], enum rpc_auth_side side,
	const struct rpc_key *key, uint32_t program, const char client_nonce[AUTH_NONCE_BYTES],
	const char server_nonce[AUTH_NONCE_BYTES]);

#pragma GCC visibility pop

#endif
