/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Vectors of eight elements, for kernel_vector.h. */
#ifndef ROZO_MOJETTE_VECTOR_AVX512_H
#define ROZO_MOJETTE_VECTOR_AVX512_H

#include <immintrin.h>

#include "internal.h"

#define LANES 8
#define VECTOR_INLINE static inline __attribute__((always_inline))

typedef __m512i vec;

VECTOR_INLINE vec vec_zero(void)
{
	return _mm512_setzero_si512();
}

VECTOR_INLINE vec vec_load(const mojette_element *from)
{
	return _mm512_loadu_si512(from);
}

VECTOR_INLINE void vec_store(mojette_element *to, vec v)
{
	_mm512_storeu_si512(to, v);
}

VECTOR_INLINE void vec_store_past_caches(mojette_element *to, vec v)
{
	_mm512_stream_si512((__m512i *)to, v);
}

/* Lanes first .. end - 1, at least one of which is in the vector; both may be outside it. */
VECTOR_INLINE __mmask8 vec_lanes(ptrdiff_t first, ptrdiff_t end)
{
	unsigned int before = first > 0 ? (unsigned int)first : 0;
	unsigned int after = end < LANES ? (unsigned int)(LANES - end) : 0;

	return (__mmask8)((0xffu << before) & (0xffu >> after));
}

/*
 * Touches only lanes first .. end - 1 of memory; the others read as zero. It starts at the first
 * lane that is present: masked lanes that lie on an unmapped page do not fault, but they cost
 * hundreds of cycles.
 */
VECTOR_INLINE vec vec_load_some(const mojette_element *from, ptrdiff_t first, ptrdiff_t end)
{
	return _mm512_maskz_expandloadu_epi64(
		vec_lanes(first, end), from + (first > 0 ? first : 0));
}

VECTOR_INLINE void vec_store_some(mojette_element *to, vec v, ptrdiff_t first, ptrdiff_t end)
{
	__mmask8 lanes = vec_lanes(first, end);
	ptrdiff_t before = first > 0 ? first : 0, count = (end < LANES ? end : LANES) - before;

	_mm512_mask_storeu_epi64(to + before, (__mmask8)(0xffu >> (LANES - count)),
		_mm512_maskz_compress_epi64(lanes, v));
}

VECTOR_INLINE vec vec_xor(vec a, vec b)
{
	return _mm512_xor_si512(a, b);
}

VECTOR_INLINE vec vec_xor3(vec a, vec b, vec c)
{
	return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

/*
 * vec_shift_s(v, before): the vector whose lane i is lane i - s of the sequence
 * before, v. vec_shift_zero_s(v): the same with zeros before. vec_carry_s(y):
 * what vector y of a sequence with y[i] = x[i] + y[i - s] brings into the next.
 */
#define VEC_SHIFT(s)                                                                               \
	VECTOR_INLINE vec vec_shift_##s(vec v, vec before)                                         \
	{                                                                                          \
		return _mm512_alignr_epi64(v, before, LANES - s);                                  \
	}                                                                                          \
	VECTOR_INLINE vec vec_shift_zero_##s(vec v)                                                \
	{                                                                                          \
		return _mm512_maskz_alignr_epi64((__mmask8)(0xff << s), v, v, LANES - s);          \
	}                                                                                          \
	VECTOR_INLINE vec vec_carry_##s(vec y)                                                     \
	{                                                                                          \
		return _mm512_permutexvar_epi64(                                                   \
			_mm512_setr_epi64(LANES - s + 0 % s, LANES - s + 1 % s, LANES - s + 2 % s, \
				LANES - s + 3 % s, LANES - s + 4 % s, LANES - s + 5 % s,           \
				LANES - s + 6 % s, LANES - s + 7 % s),                             \
			y);                                                                        \
	}

VEC_SHIFT(1)
VEC_SHIFT(2)
VEC_SHIFT(3)
VEC_SHIFT(4)
VEC_SHIFT(5)
VEC_SHIFT(6)
VEC_SHIFT(7)

#undef VEC_SHIFT

#endif
