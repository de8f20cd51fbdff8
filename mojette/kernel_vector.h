/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The vector kernels, written once. A file that includes this has included a
 * vector_*.h before and has solve_LANES.inc, made by solve_gen.py, on its
 * include path.
 *
 * Everything runs left to right over vectors of LANES elements at positions x,
 * x + LANES, ..; where a vector is not wholly inside its sequence, lanes are
 * masked.
 */
#ifndef ROZO_MOJETTE_KERNEL_VECTOR_H
#define ROZO_MOJETTE_KERNEL_VECTOR_H

/* A sequence in memory: its element at position x is base[x], for x in first ..
 * end - 1. */
struct stream {
	mojette_element *base;
	ptrdiff_t first;
	ptrdiff_t end;
};

/* The positions to walk, and those among them where every stream has a whole
 * vector. */
struct span {
	ptrdiff_t begin;
	ptrdiff_t end;
	ptrdiff_t inside_begin;
	ptrdiff_t inside_end;
};

typedef void encoder(ptrdiff_t columns, const uint8_t *const *rows, uint8_t *const *bins);
typedef void solver(const struct mojette_system *system);

VECTOR_INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
	return a < b ? a : b;
}

VECTOR_INLINE ptrdiff_t greatest(ptrdiff_t a, ptrdiff_t b)
{
	return a > b ? a : b;
}

VECTOR_INLINE struct stream stream_at(const uint8_t *bytes, ptrdiff_t first, ptrdiff_t count)
{
	/* May point outside the sequence; what is inside is all that is touched. */
	uintptr_t base = (uintptr_t)bytes - (uintptr_t)first * MOJETTE_ELEMENT_BYTES;

	return (struct stream){(mojette_element *)base, first, first + count};
}

VECTOR_INLINE vec stream_load(const struct stream *s, ptrdiff_t x, const bool inside)
{
	if (inside)
		return vec_load(s->base + x);
	return vec_load_some(s->base + x, s->first - x, s->end - x);
}

VECTOR_INLINE void stream_store(const struct stream *s, ptrdiff_t x, vec v, const bool inside)
{
	if (inside)
		vec_store(s->base + x, v);
	else
		vec_store_some(s->base + x, v, s->first - x, s->end - x);
}

/*
 * From begin on, which is a multiple of LANES away from inside_begin; all vectors are whole from
 * there as long as they end by inside_limit; rows are done at end.
 */
VECTOR_INLINE struct span span_of(
	ptrdiff_t begin, ptrdiff_t inside_begin, ptrdiff_t inside_limit, ptrdiff_t end)
{
	ptrdiff_t inside = greatest(0, inside_limit - inside_begin) & -LANES;

	return (struct span){begin, end, inside_begin, inside_begin + inside};
}

/*
 * Walks the span with step(past, in, out, x, inside), whose state from one vector to the next is
 * past[]. The middle is a loop of its own with the state in registers.
 */
#define STREAM_WALK(step, past_count, in, out, span)                                               \
	do {                                                                                       \
		vec past[(past_count) > 0 ? (past_count) : 1];                                     \
		ptrdiff_t x = span.begin;                                                          \
                                                                                                   \
		for (unsigned int i = 0; i < sizeof(past) / sizeof(past[0]); i++)                  \
			past[i] = vec_zero();                                                      \
		for (int part = 0; part < 2; part++) {                                             \
			ptrdiff_t edge_end = part == 0 ? span.inside_begin : span.end;             \
                                                                                                   \
			for (; x < edge_end; x += LANES)                                           \
				step(past, in, out, x, false);                                     \
			for (; x < span.inside_end; x += LANES)                                    \
				step(past, in, out, x, true);                                      \
		}                                                                                  \
	} while (0)

#include ENCODE_INC
#include SOLVE_INC

static bool vector_encode(unsigned int k, uint32_t directions, ptrdiff_t columns,
	const uint8_t *const *rows, uint8_t *const *bins)
{
	encoder *encode = find_encoder(k, directions);

	if (encode == NULL)
		return false;
	encode(columns, rows, bins);
	return true;
}

static void vector_solve(const struct mojette_system *s)
{
	uint32_t directions = 0;
	solver *solve = NULL;

	for (unsigned int i = 0; i < s->e; i++)
		directions |= UINT32_C(1) << (s->p[i] + 16);
	if (s->e == s->k) /* all rows unknown: the non-systematic form */
		solve = find_solver(directions);
	if (solve == NULL)
		solve = mojette_portable_solve;
	solve(s);
}

#define GATHER_VECTORS 8

VECTOR_INLINE vec gather_one(
	const mojette_element *const *in, ptrdiff_t b, const unsigned int count)
{
	vec sum = vec_load(in[0] + b);
	unsigned int i = 1;

	for (; i + 1 < count; i += 2)
		sum = vec_xor3(sum, vec_load(in[i] + b), vec_load(in[i + 1] + b));
	return i < count ? vec_xor(sum, vec_load(in[i] + b)) : sum;
}

/* out[b] for b in begin .. end - 1, where every term is present. */
VECTOR_INLINE void gather_inside(mojette_element *out, ptrdiff_t begin, ptrdiff_t end,
	const struct mojette_term *terms, const unsigned int count)
{
	const mojette_element *in[MOJETTE_K_MAX + 1];

	for (unsigned int i = 0; i < count; i++)
		in[i] = stream_at(terms[i].bytes, terms[i].start, terms[i].count).base;
	/*
	 * Several vectors are summed before the first is stored: rows are often all page aligned,
	 * and a load that matches a store just before it in the low twelve bits of the address
	 * waits for that store.
	 */
	for (; begin + GATHER_VECTORS * LANES <= end; begin += GATHER_VECTORS * LANES) {
		vec sum[GATHER_VECTORS];

		for (int v = 0; v < GATHER_VECTORS; v++)
			sum[v] = gather_one(in, begin + v * LANES, count);
		for (int v = 0; v < GATHER_VECTORS; v++)
			vec_store(out + begin + v * LANES, sum[v]);
	}
	for (; begin < end; begin += LANES)
		vec_store(out + begin, gather_one(in, begin, count));
}

static void gather_edge(mojette_element *out, ptrdiff_t begin, ptrdiff_t end,
	const struct mojette_term *terms, unsigned int count)
{
	for (ptrdiff_t b = begin; b < end; b += LANES) {
		vec sum = vec_zero();

		for (unsigned int i = 0; i < count; i++) {
			struct stream in =
				stream_at(terms[i].bytes, terms[i].start, terms[i].count);

			sum = vec_xor(sum, stream_load(&in, b, false));
		}
		vec_store_some(out + b, sum, 0, end - b);
	}
}

static void vector_gather(
	uint8_t *out, ptrdiff_t count, const struct mojette_term *terms, unsigned int term_count)
{
	mojette_element *bins = (mojette_element *)out;
	ptrdiff_t from = 0, to = count;

	for (unsigned int i = 0; i < term_count; i++) {
		from = greatest(from, terms[i].start);
		to = least(to, terms[i].start + terms[i].count);
	}
	/* Whole vectors only; they stay on multiples of LANES, aligned if out is. */
	from = least((from + LANES - 1) & -LANES, count);
	to = greatest(from, from + ((to - from) & -LANES));
	gather_edge(bins, 0, from, terms, term_count);
	switch (term_count) {
	case 2:
		gather_inside(bins, from, to, terms, 2);
		break;
	case 3:
		gather_inside(bins, from, to, terms, 3);
		break;
	case 4:
		gather_inside(bins, from, to, terms, 4);
		break;
	case 5:
		gather_inside(bins, from, to, terms, 5);
		break;
	case 6:
		gather_inside(bins, from, to, terms, 6);
		break;
	case 7:
		gather_inside(bins, from, to, terms, 7);
		break;
	case 8:
		gather_inside(bins, from, to, terms, 8);
		break;
	case 9:
		gather_inside(bins, from, to, terms, 9);
		break;
	default:
		gather_inside(bins, from, to, terms, term_count);
		break;
	}
	gather_edge(bins, to, count, terms, term_count);
}

#endif
