/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * CRC-32C: long runs by ISA-L, which chooses the fastest way for the machine at its first call, and
 * takes its time to begin; short ones, as records and headers are, by the processor's own
 * instruction where there is one. No state.
 */
#include <limits.h>
#include <string.h>
#include <isa-l/crc.h>

#include "rpc/crc32c.h"

#if defined(__x86_64__)
#define SHORT_BYTES 256

/* Like ISA-L's function, this neither inverts at the beginning nor at the end. */
static __attribute__((target("sse4.2"))) uint32_t crc_of_short(
	uint32_t before, const unsigned char *at, size_t size)
{
	uint64_t crc = before, word;

	for (; size >= sizeof(word); size -= sizeof(word), at += sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		crc = __builtin_ia32_crc32di(crc, word);
	}
	for (; size > 0; size--, at++)
		crc = __builtin_ia32_crc32qi((uint32_t)crc, *at);
	return (uint32_t)crc;
}
#endif

uint32_t rozo_crc32c_more(uint32_t before, const void *bytes, size_t size)
{
	/* ISA-L's function neither inverts at the beginning nor at the end, and counts in int. */
	const unsigned char *at = bytes;
	unsigned int crc = ~before;

#if defined(__x86_64__)
	if (size <= SHORT_BYTES && __builtin_cpu_supports("sse4.2"))
		return ~crc_of_short(crc, at, size);
#endif
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
