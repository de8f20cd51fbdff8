/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The portable reference of the codec: plain C, one element at a time where
 * order matters and loops that a compiler vectorises where it does not. The
 * fast kernels are tested against it.
 *
 * Assumes checked arguments. Takes no locks, keeps no state.
 */
#include "internal.h"

#define GROUP                                                                                      \
	4 /* terms summed in one pass: five streams are as many as a core prefetches               \
	     well */
#define STRIP                                                                                      \
	512 /* elements; a strip of the sum stays in the first-level cache between                 \
	       passes */

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
	return a < b ? a : b;
}

static inline ptrdiff_t greatest(ptrdiff_t a, ptrdiff_t b)
{
	return a > b ? a : b;
}

/* Bins near the ends of a projection, where some terms are absent. */
static void gather_checked(mojette_element *out, ptrdiff_t from, ptrdiff_t to,
	const struct mojette_term *terms, unsigned int term_count)
{
	for (ptrdiff_t b = from; b < to; b++)
		out[b] = 0;
	for (unsigned int i = 0; i < term_count; i++) {
		const mojette_element *in = (const mojette_element *)terms[i].bytes;
		ptrdiff_t first = greatest(from, terms[i].start);
		ptrdiff_t end = least(to, terms[i].start + terms[i].count);

		for (ptrdiff_t b = first; b < end; b++)
			out[b] ^= in[b - terms[i].start];
	}
}

/* Adds `terms` (1 .. GROUP of them) over from .. to - 1, where all of them are
 * present. */
static inline __attribute__((always_inline)) void gather_group(mojette_element *restrict out,
	ptrdiff_t from, ptrdiff_t to, const struct mojette_term *terms,
	const unsigned int term_count, const bool add)
{
	const mojette_element *in[GROUP];

	for (unsigned int i = 0; i < term_count; i++)
		in[i] = (const mojette_element *)terms[i].bytes + (from - terms[i].start);
	for (ptrdiff_t b = 0; b < to - from; b++) {
		uint64_t sum = in[0][b];

		for (unsigned int i = 1; i < term_count; i++)
			sum ^= in[i][b];
		if (add)
			sum ^= out[from + b];
		out[from + b] = sum;
	}
}

static void gather_present(mojette_element *out, ptrdiff_t from, ptrdiff_t to,
	const struct mojette_term *terms, unsigned int term_count)
{
	for (unsigned int done = 0; done < term_count; done += GROUP) {
		unsigned int left = term_count - done;

		switch (left < GROUP ? left : GROUP) {
		case 1:
			gather_group(out, from, to, terms + done, 1, done > 0);
			break;
		case 2:
			gather_group(out, from, to, terms + done, 2, done > 0);
			break;
		case 3:
			gather_group(out, from, to, terms + done, 3, done > 0);
			break;
		default:
			gather_group(out, from, to, terms + done, 4, done > 0);
			break;
		}
	}
}

void mojette_portable_gather(
	uint8_t *out, ptrdiff_t count, const struct mojette_term *terms, unsigned int term_count)
{
	mojette_element *bins = (mojette_element *)out;
	ptrdiff_t from = 0, to = count;

	for (unsigned int i = 0; i < term_count; i++) {
		from = greatest(from, terms[i].start);
		to = least(to, terms[i].start + terms[i].count);
	}
	if (term_count == 0 || from >= to) {
		gather_checked(bins, 0, count, terms, term_count);
		return;
	}
	gather_checked(bins, 0, from, terms, term_count);
	for (ptrdiff_t strip = from; strip < to; strip += STRIP)
		gather_present(bins, strip, least(strip + STRIP, to), terms, term_count);
	gather_checked(bins, to, count, terms, term_count);
}

void mojette_portable_add(uint8_t *out, const uint8_t *in, ptrdiff_t count)
{
	const struct mojette_term term = {in, 0, count};

	gather_group((mojette_element *)out, 0, count, &term, 1, true);
}

/*
 * The sweep of Normand et al. (DGCI 2006), generalised to any set of rows. Row
 * l is solved from equation l, the row with the largest direction first. At
 * step t, row l is solved at column t + lead[l]. With lead[l-1] - lead[l] =
 * p[l] * (row[l] - row[l-1]) and descending directions, every other pixel on
 * the line of that bin was solved at an earlier step, or at this one by a row
 * above, or lies outside the grid.
 */
struct sweep {
	ptrdiff_t lead[MOJETTE_K_MAX];
	/* from[l][j] + t: where row j crosses the line that solves row l at step t.
	 */
	ptrdiff_t from[MOJETTE_K_MAX][MOJETTE_K_MAX];
};

static void sweep_prepare(struct sweep *sweep, const struct mojette_system *s)
{
	sweep->lead[s->e - 1] = 0;
	for (unsigned int l = s->e - 1; l > 0; l--)
		sweep->lead[l - 1] =
			sweep->lead[l] + (ptrdiff_t)s->p[l] * (s->row[l] - s->row[l - 1]);
	for (unsigned int l = 0; l < s->e; l++)
		for (unsigned int j = 0; j < s->e; j++)
			sweep->from[l][j] =
				j == l ? sweep->lead[l] + (ptrdiff_t)s->p[l] * s->row[l] -
						 s->origin[l]
				       : sweep->lead[l] +
						 (ptrdiff_t)s->p[l] * (s->row[l] - s->row[j]);
}

/* Steps from .. to - 1 with every access checked against the grid. */
static void sweep_checked(
	const struct sweep *sweep, const struct mojette_system *s, ptrdiff_t from, ptrdiff_t to)
{
	for (ptrdiff_t t = from; t < to; t++) {
		for (unsigned int l = 0; l < s->e; l++) {
			ptrdiff_t column = t + sweep->lead[l];
			uint64_t sum;

			if (column < 0 || column >= s->columns)
				continue;
			sum = ((const mojette_element *)s->bins[l])[t + sweep->from[l][l]];
			for (unsigned int j = 0; j < s->e; j++) {
				ptrdiff_t other = t + sweep->from[l][j];

				if (j != l && other >= 0 && other < s->columns)
					sum ^= ((const mojette_element *)s->out[j])[other];
			}
			((mojette_element *)s->out[l])[column] = sum;
		}
	}
}

/* Steps from .. to - 1, all of whose accesses are inside the grid. */
static inline __attribute__((always_inline)) void sweep_inside(const struct sweep *sweep,
	const struct mojette_system *s, ptrdiff_t from, ptrdiff_t to, const unsigned int e)
{
	const mojette_element *in[MOJETTE_K_MAX][MOJETTE_K_MAX];
	mojette_element *out[MOJETTE_K_MAX];

	for (unsigned int l = 0; l < e; l++) {
		out[l] = (mojette_element *)s->out[l] + sweep->lead[l];
		for (unsigned int j = 0; j < e; j++)
			in[l][j] = (const mojette_element *)(j == l ? s->bins[l] : s->out[j]) +
				   sweep->from[l][j];
	}
	for (ptrdiff_t t = from; t < to; t++) {
		for (unsigned int l = 0; l < e; l++) {
			uint64_t sum = in[l][0][t];

			for (unsigned int j = 1; j < e; j++)
				sum ^= in[l][j][t];
			out[l][t] = sum;
		}
	}
}

void mojette_portable_solve(const struct mojette_system *s)
{
	struct sweep sweep;
	ptrdiff_t begin = PTRDIFF_MAX, end = PTRDIFF_MIN; /* steps that solve anything */
	ptrdiff_t from = PTRDIFF_MIN, to = PTRDIFF_MAX; /* steps wholly inside the grid */

	sweep_prepare(&sweep, s);
	for (unsigned int l = 0; l < s->e; l++) {
		begin = least(begin, -sweep.lead[l]);
		end = greatest(end, s->columns - sweep.lead[l]);
		from = greatest(from, -sweep.lead[l]);
		to = least(to, s->columns - sweep.lead[l]);
		for (unsigned int j = 0; j < s->e; j++) {
			if (j == l)
				continue;
			from = greatest(from, -sweep.from[l][j]);
			to = least(to, s->columns - sweep.from[l][j]);
		}
	}
	if (from >= to) {
		sweep_checked(&sweep, s, begin, end);
		return;
	}
	sweep_checked(&sweep, s, begin, from);
	switch (s->e) {
	case 1:
		sweep_inside(&sweep, s, from, to, 1);
		break;
	case 2:
		sweep_inside(&sweep, s, from, to, 2);
		break;
	case 3:
		sweep_inside(&sweep, s, from, to, 3);
		break;
	case 4:
		sweep_inside(&sweep, s, from, to, 4);
		break;
	default:
		sweep_inside(&sweep, s, from, to, s->e);
		break;
	}
	sweep_checked(&sweep, s, to, end);
}
