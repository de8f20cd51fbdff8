/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * CRC-32C (Castagnoli) as RFC 3720 section 12.1 uses it: what shards and their records carry.
 */
#ifndef ROZO_CRC32C_H
#define ROZO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* The CRC-32C of bytes (may be NULL if size is 0, which gives 0). */
uint32_t rozo_crc32c(const void *bytes, size_t size);

/*
 * The CRC-32C of a longer run: `before` is that of what came before (0 at the beginning), so
 * rozo_crc32c_more(rozo_crc32c(a, n), b, m) is the CRC-32C of a and b one after the other.
 */
uint32_t rozo_crc32c_more(uint32_t before, const void *bytes, size_t size);

#pragma GCC visibility pop

#endif
