/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Vectors of four elements, for kernel_vector.h; the functions are explained in
 * vector_avx512.h. */
#ifndef ROZO_MOJETTE_VECTOR_AVX2_H
#define ROZO_MOJETTE_VECTOR_AVX2_H

#include <immintrin.h>

#include "internal.h"

#define LANES 4
#define VECTOR_INLINE static inline __attribute__((always_inline))

typedef __m256i vec;

VECTOR_INLINE vec vec_zero(void)
{
	return _mm256_setzero_si256();
}

VECTOR_INLINE vec vec_load(const mojette_element *from)
{
	return _mm256_loadu_si256((const __m256i *)from);
}

VECTOR_INLINE void vec_store(mojette_element *to, vec v)
{
	_mm256_storeu_si256((__m256i *)to, v);
}

VECTOR_INLINE void vec_store_past_caches(mojette_element *to, vec v)
{
	_mm256_stream_si256((__m256i *)to, v);
}

VECTOR_INLINE vec vec_lanes(ptrdiff_t first, ptrdiff_t end)
{
	const vec lane = _mm256_setr_epi64x(0, 1, 2, 3);

	return _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(first), lane),
		_mm256_cmpgt_epi64(_mm256_set1_epi64x(end), lane));
}

VECTOR_INLINE vec vec_load_some(const mojette_element *from, ptrdiff_t first, ptrdiff_t end)
{
	return _mm256_maskload_epi64((const long long *)from, vec_lanes(first, end));
}

VECTOR_INLINE void vec_store_some(mojette_element *to, vec v, ptrdiff_t first, ptrdiff_t end)
{
	_mm256_maskstore_epi64((long long *)to, vec_lanes(first, end), v);
}

VECTOR_INLINE vec vec_xor(vec a, vec b)
{
	return _mm256_xor_si256(a, b);
}

VECTOR_INLINE vec vec_xor3(vec a, vec b, vec c)
{
	return vec_xor(vec_xor(a, b), c);
}

VECTOR_INLINE vec vec_shift_2(vec v, vec before)
{
	return _mm256_permute2x128_si256(before, v, 0x21);
}

VECTOR_INLINE vec vec_shift_1(vec v, vec before)
{
	return _mm256_alignr_epi8(v, vec_shift_2(v, before), 8);
}

VECTOR_INLINE vec vec_shift_3(vec v, vec before)
{
	return _mm256_alignr_epi8(vec_shift_2(v, before), before, 8);
}

VECTOR_INLINE vec vec_shift_zero_2(vec v)
{
	return _mm256_permute2x128_si256(v, v, 0x08);
}

VECTOR_INLINE vec vec_shift_zero_1(vec v)
{
	return _mm256_alignr_epi8(v, vec_shift_zero_2(v), 8);
}

VECTOR_INLINE vec vec_shift_zero_3(vec v)
{
	return _mm256_slli_si256(vec_shift_zero_2(v), 8);
}

VECTOR_INLINE vec vec_carry_1(vec y)
{
	return _mm256_permute4x64_epi64(y, 0xff);
}

VECTOR_INLINE vec vec_carry_2(vec y)
{
	return _mm256_permute4x64_epi64(y, 0xee);
}

VECTOR_INLINE vec vec_carry_3(vec y)
{
	return _mm256_permute4x64_epi64(y, 0x79);
}

#endif
