/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the parts of the codec share: elements, the sum of shifted rows, the
 * linear system of a decode, and the table of kernels. Not for use outside
 * mojette/ and its tests.
 *
 * Written as polynomials in z, one element one power, direction p sees sum over
 * r of z^(p r) row_r. Every operation of the codec is one of two: a sum of
 * shifted sequences (`gather`), or solving e such equations for e rows
 * (`solve`). Kernels may assume that arguments were checked.
 */
#ifndef ROZO_MOJETTE_INTERNAL_H
#define ROZO_MOJETTE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mojette.h"

#define MOJETTE_ELEMENT_BYTES 8

/* One element wherever it lies in memory: no alignment is demanded of callers.
 */
typedef uint64_t mojette_element __attribute__((aligned(1), may_alias));

/* A sequence of elements that stands at start .. start + count - 1 and is zero
 * elsewhere. */
struct mojette_term {
	const uint8_t *bytes;
	ptrdiff_t start;
	ptrdiff_t count;
};

/*
 * e equations in e unknown rows of `columns` elements.
 * Equation i: XOR over j of z^(p[i] * row[j]) out[j] equals the bins[i], whose
 * first element stands at z^origin[i]. Rows ascend; directions descend, so that
 * equation i can be swept for row i.
 */
struct mojette_system {
	unsigned int e;
	unsigned int k;
	ptrdiff_t columns;
	int row[MOJETTE_K_MAX];
	int p[MOJETTE_K_MAX];
	ptrdiff_t origin[MOJETTE_K_MAX];
	const uint8_t *bins[MOJETTE_K_MAX];
	uint8_t *out[MOJETTE_K_MAX];
	/* Rows at hand that the bins still contain; solve() has none, solve_pair() may. */
	unsigned int known_count;
	int known_row[MOJETTE_K_MAX];
	const uint8_t *known[MOJETTE_K_MAX];
	/* If e == k: mojette_window_bytes() for each row. */
	uint8_t *scratch;
};

/* off(p) of the header's definition: where bin 0 stands. */
static inline ptrdiff_t mojette_origin(int p, unsigned int k)
{
	return p < 0 ? (ptrdiff_t)p * (ptrdiff_t)(k - 1) : 0;
}

/* The number of bins that direction p has beyond a row. */
static inline size_t mojette_tail_elements(int p, unsigned int k)
{
	return (size_t)(p < 0 ? -p : p) * (k - 1);
}

/*
 * The most that a solver of all k rows keeps for each: a row, the tails of both signs, and what
 * aligning and rounding to whole vectors takes.
 */
static inline size_t mojette_window_bytes(const struct mojette_code *code, size_t row_bytes)
{
	return row_bytes + 2 * mojette_tail_bytes_max(code) + 128;
}

/* The portable reference: every faster kernel must give the same bytes. */

/* out[b] = XOR of the terms at b, for b in 0 .. count - 1. No term overlaps
 * out. */
void mojette_portable_gather(
	uint8_t *out, ptrdiff_t count, const struct mojette_term *terms, unsigned int term_count);

/* out[i] ^= in[i] for count elements that do not overlap. */
void mojette_portable_add(uint8_t *out, const uint8_t *in, ptrdiff_t count);

/* Solves the system by sweeping the grid once; writes every system->out[]. */
void mojette_portable_solve(const struct mojette_system *system);

/*
 * The sum of the products crc[i] power[i] x^33 modulo the CRC-32C polynomial; the second one needs
 * the carry-less multiplication and the CRC instruction of x86-64.
 */
uint32_t mojette_portable_crc_sum(const uint32_t *crc, const uint32_t *power, unsigned int count);
uint32_t mojette_clmul_crc_sum(const uint32_t *crc, const uint32_t *power, unsigned int count);

/* 0 if the code and the row length are ones that the codec handles, or -EINVAL. */
int mojette_check(const struct mojette_code *code, size_t row_bytes);

/*
 * A set of implementations, all of which give the bytes that the portable one
 * gives.
 */
struct mojette_kernel {
	const char *name;
	/*
	 * All projections of k rows in the directions that are set as bits p + 16, ascending into
	 * bins[]; past_caches asks for stores that leave the caches as they are. Returns false, and
	 * has done nothing, if it has no kernel for them. May be NULL.
	 */
	bool (*encode)(unsigned int k, uint32_t directions, ptrdiff_t columns,
		const uint8_t *const *rows, uint8_t *const *bins, bool past_caches);
	void (*gather)(uint8_t *out, ptrdiff_t count, const struct mojette_term *terms,
		unsigned int term_count);
	/* out[i] ^= in[i] for count elements. */
	void (*add)(uint8_t *out, const uint8_t *in, ptrdiff_t count);
	void (*solve)(const struct mojette_system *system);
	/* Two unknown rows, in one walk over bins and known rows. May be NULL. */
	void (*solve_pair)(const struct mojette_system *system);
	/* As mojette_portable_crc_sum(). */
	uint32_t (*crc_sum)(const uint32_t *crc, const uint32_t *power, unsigned int count);
};

/* Those built for this processor family; the CPU at hand may lack them. */
extern const struct mojette_kernel mojette_kernel_avx2;
extern const struct mojette_kernel mojette_kernel_avx512;

/* The one in use, set before main(). */
extern const struct mojette_kernel *mojette_kernel;

#endif
