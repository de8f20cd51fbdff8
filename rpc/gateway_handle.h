/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The NFSv3 file handle of the gateways: made by the FSAL, checked by every gateway.
 *
 *   0        1        2                 4                          8
 *   +--------+--------+-----------------+--------------------------+
 *   | format | iomode | zero            | export id (big-endian)   |
 *   +--------+--------+-----------------+--------------------------+
 *   | file id (8, big-endian)                                      |
 *   +--------------------------+-----------------------------------+
 *   | layout epoch (4, b.-e.)  | zero (4)                          |
 *   +--------------------------+-----------------------------------+
 *   | MAC: BLAKE2b-256 over bytes 0..23 under the handle key (32)  |
 *   +--------------------------------------------------------------+   56 bytes
 */
#ifndef ROZO_GATEWAY_HANDLE_H
#define ROZO_GATEWAY_HANDLE_H

#include <stddef.h>
#include <stdint.h>

#define GATEWAY_HANDLE_FORMAT 1
#define GATEWAY_HANDLE_BYTES 56
#define GATEWAY_HANDLE_KEY_BYTES 32

/* Values on the wire. */
enum gateway_iomode {
	GATEWAY_READ = 1,
	GATEWAY_RW = 2,
};

struct gateway_handle {
	uint32_t export_id;
	uint64_t file_id;
	uint32_t layout_epoch;
	enum gateway_iomode iomode;
};

/* Writes the signed handle into bytes. */
void gateway_handle_encode(const struct gateway_handle *handle,
	const uint8_t key[GATEWAY_HANDLE_KEY_BYTES], uint8_t bytes[GATEWAY_HANDLE_BYTES]);

/*
 * Reads a handle received from outside.
 * Returns 0, or -EBADF if its length, format, reserved bytes, iomode or MAC are wrong
 * (NFS3ERR_BADHANDLE).
 */
int gateway_handle_decode(const uint8_t *bytes, size_t length,
	const uint8_t key[GATEWAY_HANDLE_KEY_BYTES], struct gateway_handle *handle);

#endif
