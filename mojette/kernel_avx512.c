/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* The vector kernels for AVX-512 (F, VL and DQ). Compiled with those
 * instructions enabled: nothing here may be called before the CPU was found to
 * have them. */
#include "vector_avx512.h"

#define ENCODE_INC "encode_8.inc"
#define SOLVE_INC "solve_8.inc"
#include "kernel_vector.h"

const struct mojette_kernel mojette_kernel_avx512 = {
	.name = "avx512",
	.encode = vector_encode,
	.gather = vector_gather,
	.add = vector_add,
	.solve = vector_solve,
	.solve_pair = vector_solve_pair,
	.crc_sum = mojette_clmul_crc_sum,
};
