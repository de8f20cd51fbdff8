/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The vector kernels, written once. A file that includes this has included a
 * vector_*.h before and has what generate.py makes for as
 * many lanes on its include path.
 *
 * Everything runs left to right over vectors of LANES elements at positions x,
 * x + LANES, ..; where a vector is not wholly inside its sequence, lanes are
 * masked.
 */
#ifndef ROZO_MOJETTE_KERNEL_VECTOR_H
#define ROZO_MOJETTE_KERNEL_VECTOR_H

#include <string.h>

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

typedef void encoder(
	ptrdiff_t columns, const uint8_t *const *rows, uint8_t *const *bins, bool past_caches);
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

/*
 * At the edges of a walk most vectors still are whole or absent; only for the others are lanes
 * masked, which takes ten times as long. For rows of 4 KiB the edges are a good part of all.
 */
VECTOR_INLINE vec stream_load(const struct stream *s, ptrdiff_t x, const bool inside)
{
	if (inside || (s->first <= x && x + LANES <= s->end))
		return vec_load(s->base + x);
	if (s->end <= x || x + LANES <= s->first)
		return vec_zero();
	return vec_load_some(s->base + x, s->first - x, s->end - x);
}

VECTOR_INLINE void stream_store(const struct stream *s, ptrdiff_t x, vec v, const bool inside)
{
	if (inside || (s->first <= x && x + LANES <= s->end))
		vec_store(s->base + x, v);
	else if (x < s->end && s->first < x + LANES)
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

VECTOR_INLINE void stream_store_all(const struct stream *out, const unsigned int count, ptrdiff_t x,
	const vec *v, const bool inside)
{
	for (unsigned int i = 0; i < count; i++)
		stream_store(&out[i], x, v[i], inside);
}

/* The same past the caches. Addresses must be multiples of a vector; stores are not ordered. */
VECTOR_INLINE void stream_store_all_past_caches(const struct stream *out, const unsigned int count,
	ptrdiff_t x, const vec *v, const bool inside)
{
	for (unsigned int i = 0; inside && i < count; i++)
		vec_store_past_caches(out[i].base + x, v[i]);
}

/*
 * Fetches what a step at x will find eight cache lines further. There are more streams than
 * the hardware follows; without this, blocks that are not in the first-level cache decode at half
 * the speed (encoders gain nothing). Addresses beyond a stream do no harm.
 */
VECTOR_INLINE void stream_prefetch(
	const struct stream *s, const unsigned int count, ptrdiff_t x, const bool write)
{
	for (unsigned int i = 0; i < count; i++) {
		if (write)
			__builtin_prefetch(s[i].base + x + 64, 1);
		else
			__builtin_prefetch(s[i].base + x + 64, 0);
	}
}

/*
 * Walks the span with step(past, in, result, x, inside), whose state from one vector to the next is
 * past[] and which gives one vector of every output. The middle is a loop of its own with the
 * state in registers; there, as long as registers last, two steps are taken before their results
 * are stored (gather_inside() says why).
 */
#define STREAM_WALK(step, past_count, in, out, out_count, span, prefetch, store)                   \
	do {                                                                                       \
		vec past[(past_count) > 0 ? (past_count) : 1], result[2][out_count];               \
		ptrdiff_t x = span.begin;                                                          \
                                                                                                   \
		for (unsigned int i = 0; i < sizeof(past) / sizeof(past[0]); i++)                  \
			past[i] = vec_zero();                                                      \
		for (int part = 0; part < 2; part++) {                                             \
			ptrdiff_t edge_end = part == 0 ? span.inside_begin : span.end;             \
                                                                                                   \
			for (; x < edge_end; x += LANES) {                                         \
				step(past, in, false, result[0], x);                               \
				stream_store_all(out, out_count, x, result[0], false);             \
			}                                                                          \
			for (; (out_count) <= WALK_PAIRS && x + LANES < span.inside_end;           \
				x += 2 * LANES) {                                                  \
				if (prefetch) {                                                    \
					stream_prefetch(out, out_count, x, true);                  \
					stream_prefetch(in, sizeof(in) / sizeof(in[0]), x, false); \
					stream_prefetch(out, out_count, x + LANES, true);          \
					stream_prefetch(                                           \
						in, sizeof(in) / sizeof(in[0]), x + LANES, false); \
				}                                                                  \
				step(past, in, true, result[0], x);                                \
				step(past, in, true, result[1], x + LANES);                        \
				store(out, out_count, x, result[0], true);                         \
				store(out, out_count, x + LANES, result[1], true);                 \
			}                                                                          \
			for (; x < span.inside_end; x += LANES) {                                  \
				if (prefetch) {                                                    \
					stream_prefetch(out, out_count, x, true);                  \
					stream_prefetch(in, sizeof(in) / sizeof(in[0]), x, false); \
				}                                                                  \
				step(past, in, true, result[0], x);                                \
				store(out, out_count, x, result[0], true);                         \
			}                                                                          \
		}                                                                                  \
	} while (0)

/* Puts the elements from .. from + count - 1 of a sequence, and zeros where it has none, to edge.
 */
VECTOR_INLINE void edge_copy(
	mojette_element *edge, const struct stream *s, ptrdiff_t from, const ptrdiff_t count)
{
	for (ptrdiff_t i = 0; i < count; i += LANES)
		vec_store(edge + i, stream_load(s, from + i, false));
}

/*
 * Walks an encoder's step(past, row, result, x), whose vectors of rows at x, and up to `reach`
 * elements before, give one vector of every projection. The ends of the rows are copied to where
 * they have zeros around them: a step of the larger codes has a hundred loads, and to look at each
 * whether it is inside takes longer than all the rest of a 4 KiB row.
 */
#define ENCODE_WALK(step, past_count, rows_count, out_count, reach, tail, store)                   \
	do {                                                                                       \
		mojette_element edge[rows_count][2 * (reach) + 2 * LANES]                          \
			__attribute__((aligned(64)));                                              \
		const mojette_element *row[rows_count];                                            \
		struct stream out[out_count];                                                      \
		vec past[(past_count) > 0 ? (past_count) : 1], result[1][out_count];               \
		const ptrdiff_t end = columns + (tail)[(out_count)-1];                             \
		const ptrdiff_t middle_end = greatest(reach, columns & -LANES);                    \
		ptrdiff_t x = 0;                                                                   \
                                                                                                   \
		for (unsigned int i = 0; i < (out_count); i++)                                     \
			out[i] = stream_at(bins[i], 0, columns + (tail)[i]);                       \
		for (unsigned int i = 0; i < sizeof(past) / sizeof(past[0]); i++)                  \
			past[i] = vec_zero();                                                      \
		for (int part = 0; part < 2; part++) {                                             \
			const ptrdiff_t from = part == 0 ? -(reach) : middle_end - (reach);        \
			const ptrdiff_t edge_end = part == 0 ? (reach) : end;                      \
                                                                                                   \
			for (unsigned int r = 0; r < (rows_count); r++) {                          \
				struct stream in = stream_at(rows[r], 0, columns);                 \
                                                                                                   \
				edge_copy(edge[r], &in, from, 2 * (reach) + 2 * LANES);            \
				row[r] = edge[r] - from;                                           \
			}                                                                          \
			for (; x < edge_end; x += LANES) {                                         \
				step(past, row, result[0], x);                                     \
				stream_store_all(out, out_count, x, result[0], false);             \
			}                                                                          \
			if (part == 1 || x >= middle_end)                                          \
				continue;                                                          \
			for (unsigned int r = 0; r < (rows_count); r++)                            \
				row[r] = (const mojette_element *)rows[r];                         \
			for (; x < middle_end; x += LANES) {                                       \
				step(past, row, result[0], x);                                     \
				store(out, out_count, x, result[0], true);                         \
			}                                                                          \
		}                                                                                  \
	} while (0)

#define WALK_PAIRS 4 /* outputs up to which two steps are taken at once */

#include ENCODE_INC
#include SOLVE_INC

static bool vector_encode(unsigned int k, uint32_t directions, ptrdiff_t columns,
	const uint8_t *const *rows, uint8_t *const *bins, bool past_caches)
{
	encoder *encode = find_encoder(k, directions);

	if (encode == NULL)
		return false;
	for (int i = __builtin_popcount(directions); i-- > 0;)
		past_caches &= (uintptr_t)bins[i] % sizeof(vec) == 0;
	encode(columns, rows, bins, past_caches);
	if (past_caches)
		_mm_sfence();
	return true;
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

/* out[i] ^= in[i] */
static void vector_add(uint8_t *out, const uint8_t *in, ptrdiff_t count)
{
	mojette_element *sum = (mojette_element *)out;
	const mojette_element *term = (const mojette_element *)in;
	ptrdiff_t i = 0;

	for (; i + 2 * LANES <= count; i += 2 * LANES) {
		vec a = vec_xor(vec_load(sum + i), vec_load(term + i));
		vec b = vec_xor(vec_load(sum + i + LANES), vec_load(term + i + LANES));

		vec_store(sum + i, a);
		vec_store(sum + i + LANES, b);
	}
	for (; i < count; i++)
		sum[i] ^= term[i];
}

/*
 * Two rows, d0 at r0 and d1 at r1, D = r1 - r0, from directions a < b. Less the known rows,
 *
 *     U = z^(-b r0) S_b = d0 + z^(b D) d1
 *     V = z^(-a r0) S_a = d0 + z^(a D) d1
 *     Y = z^(a D) d1    = (U + V) / (1 + z^((b - a) D))
 *     d0 = V + Y
 *
 * so one walk suffices: nothing but the division needs vectors other than the current ones.
 */
struct pair {
	struct stream u[MOJETTE_K_MAX];
	struct stream v[MOJETTE_K_MAX];
	struct stream out[2];
	unsigned int count; /* streams summed to U, and to V */
	ptrdiff_t vectors; /* whole vectors in (b - a) D */
};

#define PAIR_VECTORS 4
#define PAIR_PAST 64 /* more vectors than (b - a) D can span; a power of two */

/* The division by 1 + z^step, if step is less than LANES. */
VECTOR_INLINE vec pair_scan(vec x, vec before, const int step)
{
	switch (step) {
	case 1:
		x = vec_xor(x, vec_shift_zero_1(x));
		x = vec_xor(x, vec_shift_zero_2(x));
#if LANES == 8
		x = vec_xor(x, vec_shift_zero_4(x));
#endif
		return vec_xor(x, vec_carry_1(before));
	case 2:
		x = vec_xor(x, vec_shift_zero_2(x));
#if LANES == 8
		x = vec_xor(x, vec_shift_zero_4(x));
#endif
		return vec_xor(x, vec_carry_2(before));
	case 3:
		x = vec_xor(x, vec_shift_zero_3(x));
#if LANES == 8
		x = vec_xor(x, vec_shift_zero_6(x));
#endif
		return vec_xor(x, vec_carry_3(before));
#if LANES == 8
	case 4:
		return vec_xor3(x, vec_shift_zero_4(x), vec_carry_4(before));
	case 5:
		return vec_xor3(x, vec_shift_zero_5(x), vec_carry_5(before));
	case 6:
		return vec_xor3(x, vec_shift_zero_6(x), vec_carry_6(before));
	case 7:
		return vec_xor3(x, vec_shift_zero_7(x), vec_carry_7(before));
#endif
	default:
		__builtin_unreachable();
	}
}

/* The shift by part lanes, 0 .. LANES - 1. */
VECTOR_INLINE vec pair_shift(vec v, vec before, const int part)
{
	switch (part) {
	case 0:
		return v;
	case 1:
		return vec_shift_1(v, before);
	case 2:
		return vec_shift_2(v, before);
	case 3:
		return vec_shift_3(v, before);
#if LANES == 8
	case 4:
		return vec_shift_4(v, before);
	case 5:
		return vec_shift_5(v, before);
	case 6:
		return vec_shift_6(v, before);
	case 7:
		return vec_shift_7(v, before);
#endif
	default:
		__builtin_unreachable();
	}
}

VECTOR_INLINE vec pair_sum(
	const struct stream *in, const unsigned int count, ptrdiff_t x, const bool inside)
{
	vec sum = stream_load(&in[0], x, inside);
	unsigned int i = 1;

	for (; i + 1 < count; i += 2)
		sum = vec_xor3(
			sum, stream_load(&in[i], x, inside), stream_load(&in[i + 1], x, inside));
	return i < count ? vec_xor(sum, stream_load(&in[i], x, inside)) : sum;
}

/* The next vector of sum / (1 + z^((b - a) D)), where `before` is the last one. */
VECTOR_INLINE vec pair_divide(vec sum, vec before, vec *past, ptrdiff_t step, ptrdiff_t vectors,
	const int part, const bool more)
{
	vec y;

	if (!more)
		return pair_scan(sum, before, part);
	y = vec_xor(sum, pair_shift(past[(step - vectors) & (PAIR_PAST - 1)],
				 past[(step - vectors - 1) & (PAIR_PAST - 1)], part));
	past[step & (PAIR_PAST - 1)] = y;
	return y;
}

/* part and more: (b - a) D is `more` vectors and `part` lanes; at least one lane. */
VECTOR_INLINE void pair_walk(const struct pair *pair, const struct span span, const int part,
	const bool more, const unsigned int count)
{
	vec past[PAIR_PAST]; /* of Y; in registers if only the last one is needed */
	vec y = vec_zero();
	ptrdiff_t step = 0;

	for (int i = 0; more && i < PAIR_PAST; i++)
		past[i] = vec_zero();
	for (ptrdiff_t x = span.begin; x < span.end;) {
		const bool inside =
			x >= span.inside_begin && x + PAIR_VECTORS * LANES <= span.inside_end;
		vec v[PAIR_VECTORS], sum[PAIR_VECTORS];

		/* All loads first: see gather_inside(). */
		for (int i = 0; inside && i < PAIR_VECTORS; i++) {
			v[i] = pair_sum(pair->v, count, x + i * LANES, true);
			sum[i] = vec_xor(v[i], pair_sum(pair->u, count, x + i * LANES, true));
		}
		for (int i = 0; inside && i < PAIR_VECTORS; i++, x += LANES) {
			y = pair_divide(sum[i], y, past, step++, pair->vectors, part, more);
			stream_store(&pair->out[0], x, vec_xor(v[i], y), true);
			stream_store(&pair->out[1], x, y, true);
		}
		if (inside)
			continue;
		v[0] = pair_sum(pair->v, count, x, false);
		sum[0] = vec_xor(v[0], pair_sum(pair->u, count, x, false));
		y = pair_divide(sum[0], y, past, step++, pair->vectors, part, more);
		stream_store(&pair->out[0], x, vec_xor(v[0], y), false);
		stream_store(&pair->out[1], x, y, false);
		x += LANES;
	}
}

/* The walk by the part of a vector in (b - a) D, and by the streams of 4+m, the usual code. */
#define PAIR_CASE(part)                                                                            \
	case part:                                                                                 \
		if (pair->vectors > 0)                                                             \
			pair_walk(pair, span, part, true, pair->count);                            \
		else if (pair->count == 3)                                                         \
			pair_walk(pair, span, part, false, 3);                                     \
		else                                                                               \
			pair_walk(pair, span, part, false, pair->count);                           \
		break

static void pair_dispatch(const struct pair *pair, const struct span span, int part)
{
	switch (part) {
	case 0:
		pair_walk(pair, span, 0, true, pair->count);
		break;
		PAIR_CASE(1);
		PAIR_CASE(2);
		PAIR_CASE(3);
#if LANES == 8
		PAIR_CASE(4);
		PAIR_CASE(5);
		PAIR_CASE(6);
		PAIR_CASE(7);
#endif
	}
}

static void vector_solve_pair(const struct mojette_system *s)
{
	/* The system lists directions in descending order. */
	const int b = s->p[0], a = s->p[1], r0 = s->row[0], distance = s->row[1] - r0;
	const int lag = (b - a) * distance;
	const ptrdiff_t columns = s->columns;
	struct pair pair; /* most of it is never used: not worth clearing */
	ptrdiff_t begin, inside_begin, inside_limit, end;
	solver *solve = find_pair_solver(s);

	if (solve != NULL) {
		solve(s);
		return;
	}
	pair.count = s->known_count + 1;
	pair.vectors = lag / LANES;
	pair.u[0] = stream_at(s->bins[0], s->origin[0] - b * r0,
		columns + (ptrdiff_t)mojette_tail_elements(b, s->k));
	pair.v[0] = stream_at(s->bins[1], s->origin[1] - a * r0,
		columns + (ptrdiff_t)mojette_tail_elements(a, s->k));
	for (unsigned int i = 0; i < s->known_count; i++) {
		int from = s->known_row[i] - r0;

		pair.u[i + 1] = stream_at(s->known[i], b * from, columns);
		pair.v[i + 1] = stream_at(s->known[i], a * from, columns);
	}
	pair.out[0] = stream_at(s->out[0], 0, columns);
	pair.out[1] = stream_at(s->out[1], a * distance, columns);

	/* Y and d0 are zero before the first of the two rows begins. */
	begin = least(0, pair.out[1].first);
	end = greatest(pair.out[0].end, pair.out[1].end);
	inside_begin = greatest(0, pair.out[1].first);
	inside_limit = least(pair.out[0].end, pair.out[1].end);
	for (unsigned int i = 0; i < pair.count; i++) {
		inside_begin = greatest(inside_begin, greatest(pair.u[i].first, pair.v[i].first));
		inside_limit = least(inside_limit, least(pair.u[i].end, pair.v[i].end));
	}
	begin = begin & -LANES; /* the upper row's vectors are aligned, if it is */
	inside_begin = (inside_begin + LANES - 1) & -LANES;
	pair_dispatch(&pair, span_of(begin, inside_begin, inside_limit, end), lag % LANES);
}

#include "kernel_newton.h"

static void vector_solve(const struct mojette_system *s)
{
	uint32_t directions = 0;
	solver *solve = NULL;

	for (unsigned int i = 0; i < s->e; i++)
		directions |= UINT32_C(1) << (s->p[i] + 16);
	if (s->e == s->k) /* all rows unknown: the non-systematic form */
		solve = find_solver(directions);
	if (solve == NULL)
		solve = s->e == s->k && s->columns >= NEWTON_COLUMNS_MIN ? newton_solve
									 : mojette_portable_solve;
	solve(s);
}

#endif
