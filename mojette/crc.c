/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * CRC-32C of shards from those of rows.
 *
 * Without the ones that it begins and ends with, the CRC of a message M is M(x) x^32 modulo the
 * polynomial: linear, and z elements of zeros after the message multiply it by x^(64 z). A
 * projection is the sum of rows with zeros before, which change nothing, and after. The ones at the
 * beginning add all ones times x^(8 length), and the inversion at the end all ones.
 *
 * Numbers are reflected: bit 31 is x^0. The product of two, as integers, then is short of x^33,
 * which the powers in crc.inc, made by generate.py, leave out: they are x^(64 n - 33).
 *
 * Takes no locks, keeps no state.
 */
#include <errno.h>

#include "internal.h"

#ifdef ROZO_MOJETTE_X86
#include <immintrin.h>
#endif

#include "crc.inc"

#define CRC32C UINT32_C(0x82f63b78)

uint32_t mojette_portable_crc_sum(const uint32_t *crc, const uint32_t *power, unsigned int count)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < count; i++) {
		for (int bit = 0; bit < 32; bit++)
			sum ^= (uint64_t)power[i] << bit & -(uint64_t)(crc[i] >> bit & 1);
	}
	for (int bit = 0; bit < 64; bit++)
		sum = sum >> 1 ^ (CRC32C & -(sum & 1));
	return (uint32_t)sum;
}

#ifdef ROZO_MOJETTE_X86
__attribute__((target("pclmul,sse4.2"))) uint32_t mojette_clmul_crc_sum(
	const uint32_t *crc, const uint32_t *power, unsigned int count)
{
	__m128i sum = _mm_setzero_si128();

	for (unsigned int i = 0; i < count; i++)
		sum = _mm_xor_si128(sum, _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc[i]),
						 _mm_cvtsi32_si128((int)power[i]), 0));
	return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(sum));
}
#endif

int mojette_shard_crcs(const struct mojette_code *code, size_t row_bytes, const uint32_t *row_crc,
	uint32_t *shard_crc)
{
	/* Of each row, begun with zeros; and last the ones that a row would begin with. */
	uint32_t crc[MOJETTE_K_MAX + 1], power[MOJETTE_K_MAX + 1];
	unsigned int k = code->k;
	int error = mojette_check(code, row_bytes);

	if (error != 0)
		return error;
	crc[k] = UINT32_MAX;
	for (size_t i = 0, columns = row_bytes / MOJETTE_ELEMENT_BYTES; columns >> i != 0; i++) {
		if (columns >> i & 1)
			crc[k] = mojette_kernel->crc_sum(&crc[k], &crc_squares[i], 1);
	}
	for (unsigned int r = 0; r < k; r++)
		crc[r] = ~row_crc[r] ^ crc[k];
	for (unsigned int shard = 0; shard < k + code->m; shard++) {
		int p = mojette_direction(code, shard);
		ptrdiff_t origin = mojette_origin(p, k);
		ptrdiff_t tail = (ptrdiff_t)mojette_tail_elements(p, k);

		if (p == 0) {
			shard_crc[shard] = row_crc[shard];
			continue;
		}
		for (unsigned int r = 0; r < k; r++)
			power[r] = crc_elements[tail - (p * (int)r - origin)];
		power[k] = crc_elements[tail];
		shard_crc[shard] = ~mojette_kernel->crc_sum(crc, power, k + 1);
	}
	return 0;
}
