/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The public functions of the codec: geometry, argument checks, the choice of
 * shards, and how encode, decode, rebuild and delta come down to sums of
 * shifted rows and one linear system.
 *
 * Assumes nothing of its callers beyond the header. Takes no locks, keeps no
 * state.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

#include "choice.inc" /* made by generate.py */

int mojette_code_check(const struct mojette_code *code)
{
	if (code->form != MOJETTE_NON_SYSTEMATIC && code->form != MOJETTE_SYSTEMATIC)
		return -EINVAL;
	if (code->k < MOJETTE_K_MIN || code->k > MOJETTE_K_MAX)
		return -EINVAL;
	if (code->m < MOJETTE_M_MIN || code->m > MOJETTE_M_MAX)
		return -EINVAL;
	return 0;
}

int mojette_check(const struct mojette_code *code, size_t row_bytes)
{
	if (mojette_code_check(code) != 0)
		return -EINVAL;
	if (row_bytes < MOJETTE_ROW_BYTES_MIN || row_bytes > MOJETTE_ROW_BYTES_MAX)
		return -EINVAL;
	if (row_bytes % MOJETTE_ELEMENT_BYTES != 0)
		return -EINVAL;
	return 0;
}

size_t mojette_row_bytes(const struct mojette_code *code, size_t length_bytes, size_t row_bytes_max)
{
	size_t row_bytes = (length_bytes + code->k - 1) / code->k;

	row_bytes = (row_bytes + MOJETTE_ELEMENT_BYTES - 1) & ~(size_t)(MOJETTE_ELEMENT_BYTES - 1);
	if (row_bytes < MOJETTE_ROW_BYTES_MIN)
		return MOJETTE_ROW_BYTES_MIN;
	return row_bytes < row_bytes_max ? row_bytes : row_bytes_max;
}

/* The bits that are set. Without the instruction, which not every x86-64 has, gcc calls a function.
 */
static inline unsigned int bit_count(uint32_t mask)
{
	mask -= mask >> 1 & 0x55555555;
	mask = (mask & 0x33333333) + (mask >> 2 & 0x33333333);
	return ((mask + (mask >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

static unsigned int shard_count(const struct mojette_code *code)
{
	return (unsigned int)code->k + code->m;
}

static bool is_row(const struct mojette_code *code, unsigned int shard)
{
	return code->form == MOJETTE_SYSTEMATIC && shard < code->k;
}

int mojette_direction(const struct mojette_code *code, unsigned int shard)
{
	int negative, index;

	if (is_row(code, shard) || shard >= shard_count(code))
		return 0;
	if (code->form == MOJETTE_SYSTEMATIC) {
		negative = code->m / 2;
		index = (int)(shard - code->k);
	} else {
		negative = (int)shard_count(code) / 2;
		index = (int)shard;
	}
	return index < negative ? index - negative : index - negative + 1;
}

size_t mojette_shard_bytes(const struct mojette_code *code, unsigned int shard, size_t row_bytes)
{
	size_t tail = mojette_tail_elements(mojette_direction(code, shard), code->k);

	return row_bytes + tail * MOJETTE_ELEMENT_BYTES;
}

size_t mojette_tail_bytes_max(const struct mojette_code *code)
{
	/* The last direction is the largest, also where N is odd. */
	return mojette_shard_bytes(code, shard_count(code) - 1, 0);
}

/* One projection of the grid; rows[r] == NULL counts as a row of zeros. */
static void project(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *rows,
	unsigned int shard, const uint8_t *plus, uint8_t *out)
{
	int p = mojette_direction(code, shard);
	ptrdiff_t columns = (ptrdiff_t)(row_bytes / MOJETTE_ELEMENT_BYTES);
	ptrdiff_t count = columns + (ptrdiff_t)mojette_tail_elements(p, code->k);
	ptrdiff_t origin = mojette_origin(p, code->k);
	struct mojette_term terms[MOJETTE_K_MAX + 1];
	unsigned int n = 0;

	for (unsigned int r = 0; r < code->k; r++) {
		if (rows[r] != NULL)
			terms[n++] = (struct mojette_term){rows[r], p * (int)r - origin, columns};
	}
	if (plus != NULL)
		terms[n++] = (struct mojette_term){plus, 0, count};
	mojette_kernel->gather(out, count, terms, n);
}

int mojette_encode_with(const struct mojette_code *code, size_t row_bytes,
	const uint8_t *const *rows, uint8_t *const *shards, unsigned int flags)
{
	uint8_t *bins[MOJETTE_N_MAX];
	uint32_t directions = 0;
	unsigned int count = 0;
	int error = mojette_check(code, row_bytes);

	if (error != 0)
		return error;
	if ((flags & ~(unsigned int)MOJETTE_PAST_CACHES) != 0)
		return -EINVAL;
	for (unsigned int shard = 0; shard < shard_count(code); shard++) {
		if (shards[shard] == NULL)
			continue;
		if (is_row(code, shard)) {
			memcpy(shards[shard], rows[shard], row_bytes);
		} else {
			directions |= UINT32_C(1) << (mojette_direction(code, shard) + 16);
			bins[count++] = shards[shard];
		}
	}
	if (mojette_kernel->encode != NULL &&
		mojette_kernel->encode(code->k, directions,
			(ptrdiff_t)(row_bytes / MOJETTE_ELEMENT_BYTES), rows, bins,
			(flags & MOJETTE_PAST_CACHES) != 0))
		return 0;
	for (unsigned int shard = 0; shard < shard_count(code); shard++) {
		if (shards[shard] != NULL && !is_row(code, shard))
			project(code, row_bytes, rows, shard, NULL, shards[shard]);
	}
	return 0;
}

int mojette_encode(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *rows,
	uint8_t *const *shards)
{
	return mojette_encode_with(code, row_bytes, rows, shards, 0);
}

size_t mojette_scratch_bytes(const struct mojette_code *code, size_t row_bytes)
{
	/*
	 * Rows nobody asked for, and in the systematic form what is left of the
	 * projections once the rows at hand are taken out.
	 */
	size_t scratch = code->k * row_bytes;

	if (code->form == MOJETTE_SYSTEMATIC)
		scratch += code->m * (row_bytes + mojette_tail_bytes_max(code));
	return scratch + code->k * mojette_window_bytes(code, row_bytes);
}

/*
 * Chooses the projections to decode `unknown` rows from. Returns a mask of `unknown` shards, or 0
 * if there are not as many among the candidates.
 */
static uint32_t choose_projections(
	const struct mojette_code *code, uint32_t candidates, unsigned int unknown)
{
	/* Directions as bits p + 16: the negative ones, then a gap for 0, then the positive ones.
	 */
	unsigned int first = code->form == MOJETTE_SYSTEMATIC ? code->k : 0;
	unsigned int negative = (shard_count(code) - first) / 2;
	uint32_t below = (UINT32_C(1) << negative) - 1;
	uint32_t at_hand = ((candidates >> first & below) << (16 - negative)) |
			   (candidates >> first >> negative << 17);
	uint32_t chosen = 0;

	if (bit_count(at_hand) < unknown)
		return 0;
	/* If all rows are unknown, a set for which there is a kernel, the cheapest first. */
	for (size_t i = 0; unknown == code->k && i < sizeof(choice) / sizeof(choice[0]); i++) {
		if (choice[i].k == unknown && (choice[i].directions & ~at_hand) == 0) {
			chosen = choice[i].directions;
			unknown = 0;
		}
	}
	/* Otherwise the smallest directions: short tails, and the sweep has the least lead. */
	for (unsigned int p = 1; unknown > 0; p++) {
		for (uint32_t bit = UINT32_C(1) << (16 - p); bit != 0 && unknown > 0;
			bit = bit < 1 << 16 ? UINT32_C(1) << (16 + p) : 0) {
			if ((at_hand & bit) != 0) {
				chosen |= bit;
				unknown--;
			}
		}
	}
	return ((chosen >> (16 - negative) & below) | chosen >> 17 << negative) << first;
}

int mojette_choose(const struct mojette_code *code, uint32_t at_hand, uint32_t *chosen)
{
	uint32_t rows = 0, projections;
	unsigned int unknown;

	if (mojette_code_check(code) != 0)
		return -EINVAL;
	at_hand &= (UINT32_C(1) << shard_count(code)) - 1;
	if (code->form == MOJETTE_SYSTEMATIC)
		rows = at_hand & ((UINT32_C(1) << code->k) - 1);
	unknown = code->k - bit_count(rows);
	projections = choose_projections(code, at_hand & ~rows, unknown);
	if (unknown > 0 && projections == 0)
		return -ENODATA;
	*chosen = rows | projections;
	return 0;
}

/*
 * Solves for the rows that are not at hand. rows[r] is where to put row r;
 * where it is NULL the row goes to scratch. On return known[r] points at every
 * row, in a shard or where it was put.
 */
static void solve(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *shards,
	uint32_t chosen, uint8_t *const *rows, const uint8_t **known, uint8_t *scratch)
{
	struct mojette_system system; /* most of it is never used: not worth clearing */
	unsigned int equation = 0;
	bool pair;

	system.k = code->k;
	system.columns = (ptrdiff_t)(row_bytes / MOJETTE_ELEMENT_BYTES);
	system.e = system.known_count = 0;
	for (unsigned int r = 0; r < code->k; r++) {
		known[r] = is_row(code, r) && (chosen >> r & 1) != 0 ? shards[r] : NULL;
		if (known[r] == NULL) {
			system.row[system.e] = (int)r;
			if (rows[r] != NULL) {
				system.out[system.e] = rows[r];
			} else {
				system.out[system.e] = scratch;
				scratch += row_bytes;
			}
			system.e++;
		} else {
			system.known_row[system.known_count] = (int)r;
			system.known[system.known_count++] = known[r];
		}
	}
	pair = system.e == 2 && system.known_count > 0 && mojette_kernel->solve_pair != NULL;
	for (unsigned int shard = shard_count(code); shard-- > 0;) {
		if (is_row(code, shard) || (chosen >> shard & 1) == 0)
			continue;
		system.p[equation] = mojette_direction(code, shard);
		system.origin[equation] = mojette_origin(system.p[equation], code->k);
		system.bins[equation] = shards[shard];
		if (system.e < code->k && !pair) {
			project(code, row_bytes, known, shard, shards[shard], scratch);
			system.bins[equation] = scratch;
			scratch += mojette_shard_bytes(code, shard, row_bytes);
		}
		equation++;
	}
	system.scratch = scratch;
	if (pair)
		mojette_kernel->solve_pair(&system);
	else
		mojette_kernel->solve(&system);
	for (unsigned int i = 0; i < system.e; i++)
		known[system.row[i]] = system.out[i];
}

/*
 * The one row that is missing: the bins of one projection on which it lies,
 * less the other rows. No detour over scratch.
 */
static void solve_one(const struct mojette_code *code, size_t row_bytes,
	const uint8_t *const *shards, uint32_t chosen, unsigned int row, uint8_t *out)
{
	unsigned int shard = 31 - (unsigned int)__builtin_clz(chosen);
	int p = mojette_direction(code, shard);
	ptrdiff_t columns = (ptrdiff_t)(row_bytes / MOJETTE_ELEMENT_BYTES);
	struct mojette_term terms[MOJETTE_K_MAX];
	unsigned int n = 0;

	for (unsigned int r = 0; r < code->k; r++) {
		if (r != row)
			terms[n++] = (struct mojette_term){
				shards[r], (ptrdiff_t)p * ((int)r - (int)row), columns};
	}
	terms[n++] = (struct mojette_term){shards[shard],
		mojette_origin(p, code->k) - (ptrdiff_t)p * (int)row,
		columns + (ptrdiff_t)mojette_tail_elements(p, code->k)};
	mojette_kernel->gather(out, columns, terms, n);
}

static uint32_t mask_at_hand(const struct mojette_code *code, const uint8_t *const *shards)
{
	uint32_t mask = 0;

	for (unsigned int shard = 0; shard < shard_count(code); shard++) {
		if (shards[shard] != NULL)
			mask |= UINT32_C(1) << shard;
	}
	return mask;
}

/* The rows that `chosen` leaves unknown, as a mask. */
static uint32_t mask_unknown(const struct mojette_code *code, uint32_t chosen)
{
	uint32_t all = (UINT32_C(1) << code->k) - 1;

	return code->form == MOJETTE_SYSTEMATIC ? all & ~chosen : all;
}

int mojette_decode(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *shards,
	uint8_t *const *rows, void *scratch)
{
	const uint8_t *known[MOJETTE_K_MAX];
	uint32_t chosen, unknown, wanted = 0;
	int error = mojette_check(code, row_bytes);

	if (error != 0)
		return error;
	error = mojette_choose(code, mask_at_hand(code, shards), &chosen);
	if (error != 0)
		return error;
	for (unsigned int r = 0; r < code->k; r++) {
		if (rows[r] == NULL)
			continue;
		wanted |= UINT32_C(1) << r;
		if (is_row(code, r) && shards[r] != NULL && rows[r] != shards[r])
			memcpy(rows[r], shards[r], row_bytes);
	}
	unknown = mask_unknown(code, chosen);
	if ((unknown & wanted) == 0)
		return 0;
	if (bit_count(unknown) == 1) {
		unsigned int row = (unsigned int)__builtin_ctz(unknown);

		solve_one(code, row_bytes, shards, chosen, row, rows[row]);
	} else {
		solve(code, row_bytes, shards, chosen, rows, known, scratch);
	}
	return 0;
}

int mojette_rebuild(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *shards,
	unsigned int target, uint8_t *out, void *scratch)
{
	const uint8_t *known[MOJETTE_K_MAX];
	uint8_t *rows[MOJETTE_K_MAX] = {NULL};
	uint32_t chosen, unknown;
	int error = mojette_check(code, row_bytes);

	if (error != 0)
		return error;
	if (target >= shard_count(code))
		return -EINVAL;
	error = mojette_choose(
		code, mask_at_hand(code, shards) & ~(UINT32_C(1) << target), &chosen);
	if (error != 0)
		return error;
	unknown = mask_unknown(code, chosen);
	if (is_row(code, target)) {
		if (bit_count(unknown) == 1) {
			solve_one(code, row_bytes, shards, chosen, target, out);
		} else {
			rows[target] = out;
			solve(code, row_bytes, shards, chosen, rows, known, scratch);
		}
		return 0;
	}
	if (unknown == 0) {
		project(code, row_bytes, shards, target, NULL, out);
	} else {
		solve(code, row_bytes, shards, chosen, rows, known, scratch);
		project(code, row_bytes, known, target, NULL, out);
	}
	return 0;
}

int mojette_delta(const struct mojette_code *code, size_t row_bytes, unsigned int row,
	size_t offset_bytes, const uint8_t *delta, size_t delta_bytes, unsigned int shard,
	uint8_t *shard_bytes)
{
	int error = mojette_check(code, row_bytes);
	ptrdiff_t shift;
	int p;

	if (error != 0)
		return error;
	if (row >= code->k || shard >= shard_count(code))
		return -EINVAL;
	if (offset_bytes % MOJETTE_ELEMENT_BYTES != 0 || delta_bytes % MOJETTE_ELEMENT_BYTES != 0)
		return -EINVAL;
	if (offset_bytes > row_bytes || delta_bytes > row_bytes - offset_bytes)
		return -EINVAL;
	if (is_row(code, shard) && shard != row)
		return 0;
	p = mojette_direction(code, shard); /* 0 for the row itself: no shift */
	shift = p * (int)row - mojette_origin(p, code->k);
	mojette_kernel->add(shard_bytes + shift * MOJETTE_ELEMENT_BYTES + offset_bytes, delta,
		(ptrdiff_t)(delta_bytes / MOJETTE_ELEMENT_BYTES));
	return 0;
}
