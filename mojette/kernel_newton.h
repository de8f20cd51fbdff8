/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The general non-systematic decode: Newton's interpolation as generate.py explains it, for any
 * directions, as passes over sequences in scratch memory. Included by kernel_vector.h.
 *
 * Sequence i begins as projection i, becomes the divided difference of directions 0 .. i and then
 * row i. All have the same window of exponents, (k - 1) times the range of the directions wide
 * beyond a row; everything that is ever in a sequence lies in it. A sequence is late by its tag,
 * the sum of the directions whose powers of z its divisions left out.
 */
#ifndef ROZO_MOJETTE_KERNEL_NEWTON_H
#define ROZO_MOJETTE_KERNEL_NEWTON_H

#define NEWTON_COLUMNS_MIN 32 /* below that the sweep of the portable solver is faster */

/* own = (own + other) / (1 + z^a); a is `vectors` whole vectors and `part` lanes. */
VECTOR_INLINE void newton_pass(const struct stream *own, const struct stream *other,
	ptrdiff_t vectors, const int part, const bool more)
{
	const struct span span = span_of(own->first,
		own->first + ((greatest(0, other->first - own->first) + LANES - 1) & -LANES),
		least(own->end, other->end), own->end);
	vec past[PAIR_PAST];
	vec y = vec_zero();
	ptrdiff_t x = span.begin, step = 0;

	for (int i = 0; more && i < PAIR_PAST; i++)
		past[i] = vec_zero();
	for (int edge = 0; edge < 2; edge++) {
		ptrdiff_t edge_end = edge == 0 ? least(span.inside_begin, span.end) : span.end;

		for (; x < edge_end; x += LANES) {
			vec sum = vec_xor(stream_load(own, x, true), stream_load(other, x, false));

			y = pair_divide(sum, y, past, step++, vectors, part, more);
			stream_store(own, x, y, true);
		}
		for (; x < span.inside_end; x += LANES) {
			vec sum = vec_xor(stream_load(own, x, true), stream_load(other, x, true));

			y = pair_divide(sum, y, past, step++, vectors, part, more);
			stream_store(own, x, y, true);
		}
	}
}

#define NEWTON_CASE(part)                                                                          \
	case part:                                                                                 \
		if (a / LANES > 0)                                                                 \
			newton_pass(own, other, a / LANES, part, true);                            \
		else                                                                               \
			newton_pass(own, other, 0, part, false);                                   \
		break

static void newton_divide(const struct stream *own, const struct stream *other, int a)
{
	switch (a % LANES) {
	case 0:
		newton_pass(own, other, a / LANES, 0, true);
		break;
		NEWTON_CASE(1);
		NEWTON_CASE(2);
		NEWTON_CASE(3);
#if LANES == 8
		NEWTON_CASE(4);
		NEWTON_CASE(5);
		NEWTON_CASE(6);
		NEWTON_CASE(7);
#endif
	}
}

/* s->scratch has room for k windows; see mojette_scratch_bytes(). */
static void newton_solve(const struct mojette_system *s)
{
	const int k = (int)s->k;
	const int *p = s->p; /* descending */
	const ptrdiff_t first = (k - 1) * least(0, p[k - 1]);
	const ptrdiff_t end = s->columns + (k - 1) * greatest(0, p[0]);
	const ptrdiff_t window = (end - first + LANES - 1) & -LANES;
	uint8_t *at = (uint8_t *)(((uintptr_t)s->scratch + 63) & ~(uintptr_t)63);
	mojette_element *sequence[MOJETTE_K_MAX];
	ptrdiff_t tag[MOJETTE_K_MAX] = {0};

	for (int i = 0; i < k; i++, at += window * MOJETTE_ELEMENT_BYTES) {
		ptrdiff_t before = s->origin[i] - first;
		ptrdiff_t count = s->columns + (ptrdiff_t)mojette_tail_elements(p[i], s->k);

		sequence[i] = (mojette_element *)at;
		memset(sequence[i], 0, (size_t)before * MOJETTE_ELEMENT_BYTES);
		memcpy(sequence[i] + before, s->bins[i], (size_t)count * MOJETTE_ELEMENT_BYTES);
		memset(sequence[i] + before + count, 0,
			(size_t)(window - before - count) * MOJETTE_ELEMENT_BYTES);
	}
	for (int width = 1; width < k; width++) {
		for (int i = k - 1; i >= width; i--) {
			struct stream own = stream_at((uint8_t *)sequence[i], first, window);
			struct stream other = stream_at(
				(uint8_t *)sequence[i - 1], first + tag[i] - tag[i - 1], window);

			newton_divide(&own, &other, p[i - width] - p[i]);
			tag[i] += p[i]; /* the smaller of the two */
		}
	}
	for (int level = k - 2; level >= 0; level--) {
		for (int i = level; i < k - 1; i++) {
			ptrdiff_t shift = tag[i] + p[level] - tag[i + 1];

			vector_add((uint8_t *)(sequence[i] + greatest(0, shift)),
				(const uint8_t *)(sequence[i + 1] + greatest(0, -shift)),
				window - greatest(shift, -shift));
		}
	}
	for (int r = 0; r < k; r++)
		memcpy(s->out[r], sequence[r] + tag[r] - first,
			(size_t)s->columns * MOJETTE_ELEMENT_BYTES);
}

#endif
