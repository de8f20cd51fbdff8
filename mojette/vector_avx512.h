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

/* Lanes first .. end - 1, both of which may be outside the vector. */
VECTOR_INLINE __mmask8 vec_lanes(ptrdiff_t first, ptrdiff_t end)
{
	const vec lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);

	return _mm512_mask_cmplt_epi64_mask(_mm512_cmpge_epi64_mask(lane, _mm512_set1_epi64(first)),
		lane, _mm512_set1_epi64(end));
}

/*
 * The address of the first lane that is present, or of some element of the sequence if none is:
 * masked lanes that lie on an unmapped page do not fault, but they cost hundreds of cycles.
 */
VECTOR_INLINE mojette_element *vec_present(
	const mojette_element *from, ptrdiff_t first, ptrdiff_t end)
{
	ptrdiff_t lane = first > 0 ? first : 0;

	return (mojette_element *)from + (lane < end ? lane : end - 1);
}

/* Touches only lanes first .. end - 1 of memory (first < end); the others read as zero. */
VECTOR_INLINE vec vec_load_some(const mojette_element *from, ptrdiff_t first, ptrdiff_t end)
{
	return _mm512_maskz_expandloadu_epi64(vec_lanes(first, end), vec_present(from, first, end));
}

VECTOR_INLINE void vec_store_some(mojette_element *to, vec v, ptrdiff_t first, ptrdiff_t end)
{
	__mmask8 lanes = vec_lanes(first, end);
	__mmask8 packed = (__mmask8)((1u << __builtin_popcount(lanes)) - 1);

	_mm512_mask_storeu_epi64(
		vec_present(to, first, end), packed, _mm512_maskz_compress_epi64(lanes, v));
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
