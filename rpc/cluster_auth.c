/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* The MACs of the mutual authentication (auth.x). No locks, no state. */
#include "rpc/cluster_auth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

#define LABEL_BYTES 11 /* "rozo server", "rozo client", without the zero */

_Static_assert(AUTH_MAC_BYTES == crypto_auth_BYTES, "auth.x gives the size of the MAC");
_Static_assert(RPC_KEY_BYTES == crypto_auth_KEYBYTES, "the cluster key is crypto_auth's");

int rpc_auth_nonce(char nonce[AUTH_NONCE_BYTES])
{
	if (sodium_init() < 0)
		return -ENOSYS;
	randombytes_buf(nonce, AUTH_NONCE_BYTES);
	return 0;
}

void rpc_auth_mac(char mac[AUTH_MAC_BYTES], enum rpc_auth_side side, const struct rpc_key *key,
	uint32_t program, const char client_nonce[AUTH_NONCE_BYTES],
	const char server_nonce[AUTH_NONCE_BYTES])
{
	struct {
		char label[LABEL_BYTES];
		uint8_t program[4];
		char first[AUTH_NONCE_BYTES];
		char second[AUTH_NONCE_BYTES];
	} text;
	uint32_t program_wire = htonl(program);

	_Static_assert(sizeof(text) == LABEL_BYTES + 4 + 2 * AUTH_NONCE_BYTES, "no padding");
	memcpy(text.label, side == RPC_AUTH_SERVER ? "rozo server" : "rozo client", LABEL_BYTES);
	memcpy(text.program, &program_wire, 4);
	memcpy(text.first, side == RPC_AUTH_SERVER ? client_nonce : server_nonce, AUTH_NONCE_BYTES);
	memcpy(text.second, side == RPC_AUTH_SERVER ? server_nonce : client_nonce,
		AUTH_NONCE_BYTES);
	crypto_auth((unsigned char *)mac, (const unsigned char *)&text, sizeof(text), key->bytes);
}

bool rpc_auth_check(const char mac[AUTH_MAC_BYTES], enum rpc_auth_side side,
	const struct rpc_key *key, uint32_t program, const char client_nonce[AUTH_NONCE_BYTES],
	const char server_nonce[AUTH_NONCE_BYTES])
{
	char expected[AUTH_MAC_BYTES];

	rpc_auth_mac(expected, side, key, program, client_nonce, server_nonce);
	return !sodium_memcmp(expected, mac, AUTH_MAC_BYTES);
}
