/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Makes and checks the file handles of the gateways. The bytes come back from clients, so nothing
 * is believed before the MAC has been checked. No state, no locks: any thread may call it.
 */
#include "rpc/gateway_handle.h"

#include <endian.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

/* The first 24 bytes as they lie on the wire. */
struct signed_part {
	uint8_t format;
	uint8_t iomode;
	uint8_t zero_1[2];
	uint32_t export_id;
	uint64_t file_id;
	uint32_t layout_epoch;
	uint8_t zero_2[4];
};

#define SIGNED_BYTES 24
#define MAC_BYTES 32

_Static_assert(sizeof(struct signed_part) == SIGNED_BYTES, "no padding");
_Static_assert(SIGNED_BYTES + MAC_BYTES == GATEWAY_HANDLE_BYTES, "the header's drawing");
_Static_assert(GATEWAY_HANDLE_BYTES <= 64, "NFS3_FHSIZE, RFC 1813 section 2.4");
_Static_assert(GATEWAY_HANDLE_KEY_BYTES == crypto_generichash_KEYBYTES, "of BLAKE2b");

static void compute_mac(const uint8_t *bytes, const uint8_t *key, uint8_t mac[MAC_BYTES])
{
	/* Fails only for lengths out of range, and these are constants. */
	crypto_generichash(mac, MAC_BYTES, bytes, SIGNED_BYTES, key, GATEWAY_HANDLE_KEY_BYTES);
}

void gateway_handle_encode(const struct gateway_handle *handle,
	const uint8_t key[GATEWAY_HANDLE_KEY_BYTES], uint8_t bytes[GATEWAY_HANDLE_BYTES])
{
	const struct signed_part part = {
		.format = GATEWAY_HANDLE_FORMAT,
		.iomode = (uint8_t)handle->iomode,
		.export_id = htobe32(handle->export_id),
		.file_id = htobe64(handle->file_id),
		.layout_epoch = htobe32(handle->layout_epoch),
	};

	memcpy(bytes, &part, SIGNED_BYTES);
	compute_mac(bytes, key, bytes + SIGNED_BYTES);
}

int gateway_handle_decode(const uint8_t *bytes, size_t length,
	const uint8_t key[GATEWAY_HANDLE_KEY_BYTES], struct gateway_handle *handle)
{
	static const uint8_t zeros[4];
	struct signed_part part;
	uint8_t mac[MAC_BYTES];

	if (length != GATEWAY_HANDLE_BYTES)
		return -EBADF;
	compute_mac(bytes, key, mac);
	if (sodium_memcmp(mac, bytes + SIGNED_BYTES, MAC_BYTES) != 0)
		return -EBADF;
	memcpy(&part, bytes, SIGNED_BYTES);
	if (part.format != GATEWAY_HANDLE_FORMAT ||
		(part.iomode != GATEWAY_READ && part.iomode != GATEWAY_RW) ||
		memcmp(part.zero_1, zeros, sizeof(part.zero_1)) != 0 ||
		memcmp(part.zero_2, zeros, sizeof(part.zero_2)) != 0)
		return -EBADF;
	*handle = (struct gateway_handle){
		.export_id = be32toh(part.export_id),
		.file_id = be64toh(part.file_id),
		.layout_epoch = be32toh(part.layout_epoch),
		.iomode = (enum gateway_iomode)part.iomode,
	};
	return 0;
}
