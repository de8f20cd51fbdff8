/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * CRC-32C by ISA-L, which chooses the fastest way for the machine at its first call. No state.
 */
#include <limits.h>
#include <isa-l/crc.h>

#include "rpc/crc32c.h"

uint32_t rozo_crc32c_more(uint32_t before, const void *bytes, size_t size)
{
	/* ISA-L's function neither inverts at the beginning nor at the end, and counts in int. */
	const unsigned char *at = bytes;
	unsigned int crc = ~before;

	while (size > 0) {
		int part = size < INT_MAX ? (int)size : INT_MAX & ~7;

		crc = crc32_iscsi((unsigned char *)at, part, crc);
		at += part;
		size -= (size_t)part;
	}
	return ~crc;
}

uint32_t rozo_crc32c(const void *bytes, size_t size)
{
	return rozo_crc32c_more(0, bytes, size);
}
