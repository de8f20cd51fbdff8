/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Proves the Mojette codec against its definition: golden vectors from another implementation, a
 * naive model here, and every or sampled erasure patterns.
 *
 * Every buffer that the library touches ends or begins at an unmapped page, has guard bytes on the
 * other side, and may be misaligned; inputs are compared with a copy after each call.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "mojette/mojette.h"
#include "mojette_vectors.h"
#include "rpc/crc32c.h"

#define GUARD_BYTES 256
#define GUARD 0xa5
#define TAIL_BYTES_MAX (12 * 15 * 8)

/* CUnit counts every assertion; only failures and one pass per case are worth recording. */
#define EXPECT(condition)                                                                          \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			CU_FAIL(#condition);                                                       \
			fprintf(stderr, "%s:%d: failed: %s: form %u %u+%u row %zu mask %x %s\n",   \
				__func__, __LINE__, #condition, now.code.form, now.code.k,         \
				now.code.m, now.row_bytes, now.mask, now.what);                    \
		}                                                                                  \
	} while (0)

/* What is being tested, for failure messages. */
static struct {
	struct mojette_code code;
	size_t row_bytes;
	uint32_t mask;
	const char *what;
} now;

/* ---- guarded buffers ---- */

struct buffer {
	uint8_t *area; /* between two unmapped pages */
	size_t area_bytes;
	uint8_t *data;
	size_t bytes;
};

/* Where a buffer lies in its area. */
enum place { AT_END, AT_START, UNALIGNED, PLACES };

static struct buffer row_buffer[MOJETTE_K_MAX], shard_buffer[MOJETTE_N_MAX];
static struct buffer decoded_buffer[MOJETTE_K_MAX], out_buffer, scratch_buffer;
static uint8_t *model_row[MOJETTE_K_MAX], *model_shard[MOJETTE_N_MAX];

static int buffer_map(struct buffer *buffer, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *map;

	buffer->area_bytes = (bytes + page - 1) / page * page;
	map = mmap(
		NULL, buffer->area_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return -errno;
	buffer->area = map + page;
	return mprotect(buffer->area, buffer->area_bytes, PROT_READ | PROT_WRITE) ? -errno : 0;
}

/* Lays the buffer out and paints it and its surroundings. */
static uint8_t *buffer_place(struct buffer *buffer, size_t bytes, enum place place)
{
	size_t slack = buffer->area_bytes - bytes;
	uint8_t *from, *to;

	buffer->bytes = bytes;
	buffer->data = buffer->area + (place == AT_START ? 0 : slack);
	if (place == UNALIGNED)
		buffer->data -= 1 + (size_t)rand() % 63;
	from = buffer->data - buffer->area > GUARD_BYTES ? buffer->data - GUARD_BYTES
							 : buffer->area;
	to = buffer->data + bytes + GUARD_BYTES;
	if (to > buffer->area + buffer->area_bytes)
		to = buffer->area + buffer->area_bytes;
	memset(from, GUARD, (size_t)(to - from));
	return buffer->data;
}

static bool buffer_guards_untouched(const struct buffer *buffer)
{
	static uint8_t guard[GUARD_BYTES];
	size_t before = (size_t)(buffer->data - buffer->area);
	size_t after = buffer->area_bytes - before - buffer->bytes;

	if (guard[0] == 0)
		memset(guard, GUARD, sizeof(guard));
	before = before < GUARD_BYTES ? before : GUARD_BYTES;
	after = after < GUARD_BYTES ? after : GUARD_BYTES;
	return memcmp(buffer->data - before, guard, before) == 0 &&
	       memcmp(buffer->data + buffer->bytes, guard, after) == 0;
}

static int buffers_init(void)
{
	struct mojette_code largest = {MOJETTE_SYSTEMATIC, MOJETTE_K_MAX, MOJETTE_M_MAX};
	const size_t shard_bytes = MOJETTE_ROW_BYTES_MAX + TAIL_BYTES_MAX + 2 * GUARD_BYTES;
	int error = buffer_map(&out_buffer, shard_bytes);

	srand(20150401);
	for (int i = 0; error == 0 && i < MOJETTE_K_MAX; i++) {
		error = buffer_map(&row_buffer[i], shard_bytes);
		if (error == 0)
			error = buffer_map(&decoded_buffer[i], shard_bytes);
		model_row[i] = malloc(MOJETTE_ROW_BYTES_MAX);
		if (model_row[i] == NULL)
			error = -ENOMEM;
	}
	for (int i = 0; error == 0 && i < MOJETTE_N_MAX; i++) {
		error = buffer_map(&shard_buffer[i], shard_bytes);
		model_shard[i] = malloc(shard_bytes);
		if (model_shard[i] == NULL)
			error = -ENOMEM;
	}
	if (error == 0)
		error = buffer_map(&scratch_buffer,
			mojette_scratch_bytes(&largest, MOJETTE_ROW_BYTES_MAX) + 2 * GUARD_BYTES);
	return error;
}

/* ---- the naive model: the definition, element by element ---- */

static unsigned int shard_count(const struct mojette_code *code)
{
	return (unsigned int)code->k + code->m;
}

static int model_direction(const struct mojette_code *code, unsigned int shard)
{
	unsigned int count = shard_count(code);
	int p;

	if (code->form == MOJETTE_SYSTEMATIC) {
		if (shard < code->k)
			return 0;
		count = code->m;
		shard -= code->k;
	}
	p = -(int)(count / 2);
	for (unsigned int i = 0; i < shard; i++)
		p += p == -1 ? 2 : 1;
	return p == 0 ? 1 : p; /* one projection only: there is no negative one to start from */
}

static size_t model_shard_bytes(
	const struct mojette_code *code, unsigned int shard, size_t row_bytes)
{
	return row_bytes + 8 * (size_t)abs(model_direction(code, shard)) * (code->k - 1u);
}

static void model_encode(const struct mojette_code *code, size_t row_bytes)
{
	for (unsigned int shard = 0; shard < shard_count(code); shard++) {
		int p = model_direction(code, shard);
		int off = p < 0 ? p * (code->k - 1) : 0;

		if (p == 0) {
			memcpy(model_shard[shard], model_row[shard], row_bytes);
			continue;
		}
		memset(model_shard[shard], 0, model_shard_bytes(code, shard, row_bytes));
		for (int r = 0; r < code->k; r++) {
			const uint64_t *row = (const uint64_t *)model_row[r];
			uint64_t *bins = (uint64_t *)model_shard[shard] + (r * p - off);

			for (size_t c = 0; c < row_bytes / 8; c++)
				bins[c] ^= row[c];
		}
	}
}

/* ---- cases ---- */

static uint64_t splitmix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Begins a case: fills the rows of the model and of the library, which then encodes. */
static void case_begin(struct mojette_code code, size_t row_bytes, bool fixed, enum place place)
{
	const uint8_t *rows[MOJETTE_K_MAX];
	uint8_t *shards[MOJETTE_N_MAX];
	static uint64_t salt;

	now.code = code;
	now.row_bytes = row_bytes;
	now.mask = 0;
	now.what = "encode";
	salt = fixed ? 0 : salt + 1;
	for (unsigned int r = 0; r < code.k; r++) {
		for (size_t c = 0; c < row_bytes / 8; c++) {
			uint64_t element = splitmix(salt << 48 | (uint64_t)r << 32 | c);

			for (unsigned int i = 0; i < 8; i++)
				model_row[r][8 * c + i] = (uint8_t)(element >> 8 * i);
		}
		rows[r] = buffer_place(&row_buffer[r], row_bytes, place);
		memcpy(row_buffer[r].data, model_row[r], row_bytes);
	}
	model_encode(&code, row_bytes);
	for (unsigned int i = 0; i < shard_count(&code); i++) {
		EXPECT(mojette_direction(&code, i) == model_direction(&code, i));
		EXPECT(mojette_shard_bytes(&code, i, row_bytes) ==
			model_shard_bytes(&code, i, row_bytes));
		shards[i] = buffer_place(
			&shard_buffer[i], mojette_shard_bytes(&code, i, row_bytes), place);
	}
	/* Every second case past the caches; that the shards are aligned is left to chance. */
	if (salt % 2 == 0)
		EXPECT(mojette_encode(&code, row_bytes, rows, shards) == 0);
	else
		EXPECT(mojette_encode_with(&code, row_bytes, rows, shards, MOJETTE_PAST_CACHES) ==
			0);
	for (unsigned int i = 0; i < shard_count(&code); i++) {
		EXPECT(memcmp(shards[i], model_shard[i], shard_buffer[i].bytes) == 0);
		EXPECT(buffer_guards_untouched(&shard_buffer[i]));
	}
	for (unsigned int r = 0; r < code.k; r++) {
		EXPECT(memcmp(rows[r], model_row[r], row_bytes) == 0);
		EXPECT(buffer_guards_untouched(&row_buffer[r]));
	}
}

static void expect_shards_unmodified(void)
{
	for (unsigned int i = 0; i < shard_count(&now.code); i++) {
		EXPECT(memcmp(shard_buffer[i].data, model_shard[i], shard_buffer[i].bytes) == 0);
		EXPECT(buffer_guards_untouched(&shard_buffer[i]));
	}
}

/* Decodes the grid of the case from the shards in `mask`; only rows in `wanted` are asked for. */
static void case_decode(uint32_t mask, uint32_t wanted, enum place place)
{
	const uint8_t *shards[MOJETTE_N_MAX] = {NULL};
	uint8_t *rows[MOJETTE_K_MAX] = {NULL};
	size_t scratch_bytes = mojette_scratch_bytes(&now.code, now.row_bytes);

	now.mask = mask;
	now.what = "decode";
	for (unsigned int i = 0; i < shard_count(&now.code); i++) {
		if (mask >> i & 1)
			shards[i] = shard_buffer[i].data;
	}
	for (unsigned int r = 0; r < now.code.k; r++) {
		if (wanted >> r & 1)
			rows[r] = buffer_place(&decoded_buffer[r], now.row_bytes, place);
	}
	buffer_place(&scratch_buffer, scratch_bytes, place);
	EXPECT(mojette_decode(&now.code, now.row_bytes, shards, rows, scratch_buffer.data) == 0);
	for (unsigned int r = 0; r < now.code.k; r++) {
		if (rows[r] == NULL)
			continue;
		EXPECT(memcmp(rows[r], model_row[r], now.row_bytes) == 0);
		EXPECT(buffer_guards_untouched(&decoded_buffer[r]));
	}
	EXPECT(buffer_guards_untouched(&scratch_buffer));
	expect_shards_unmodified();
}

/* Rebuilds `target` from the shards in `mask`. */
static void case_rebuild(uint32_t mask, unsigned int target, enum place place)
{
	const uint8_t *shards[MOJETTE_N_MAX] = {NULL};
	size_t bytes = mojette_shard_bytes(&now.code, target, now.row_bytes);

	now.mask = mask;
	now.what = "rebuild";
	for (unsigned int i = 0; i < shard_count(&now.code); i++) {
		if (mask >> i & 1)
			shards[i] = shard_buffer[i].data;
	}
	buffer_place(&out_buffer, bytes, place);
	buffer_place(&scratch_buffer, mojette_scratch_bytes(&now.code, now.row_bytes), place);
	EXPECT(mojette_rebuild(&now.code, now.row_bytes, shards, target, out_buffer.data,
		       scratch_buffer.data) == 0);
	EXPECT(memcmp(out_buffer.data, model_shard[target], bytes) == 0);
	EXPECT(buffer_guards_untouched(&out_buffer));
	EXPECT(buffer_guards_untouched(&scratch_buffer));
	expect_shards_unmodified();
}

static uint32_t random_subset(unsigned int count, unsigned int size, uint32_t without)
{
	uint32_t mask = 0;

	while (size > 0) {
		uint32_t bit = UINT32_C(1) << (unsigned int)rand() % count;

		if ((mask & bit) == 0 && (without & bit) == 0) {
			mask |= bit;
			size--;
		}
	}
	return mask;
}

static uint32_t all_rows(void)
{
	return (UINT32_C(1) << now.code.k) - 1;
}

static void decode_every_pattern(struct mojette_code code, size_t row_bytes)
{
	uint32_t end;

	case_begin(code, row_bytes, false, AT_END);
	end = UINT32_C(1) << shard_count(&code);
	for (uint32_t mask = 0; mask < end; mask++) {
		if (__builtin_popcount(mask) == code.k)
			case_decode(mask, all_rows(), (enum place)(mask % PLACES));
	}
	CU_PASS("every pattern");
}

/* ---- tests ---- */

static void test_directions_follow_the_draft(void)
{
	static const struct {
		struct mojette_code code;
		int p[MOJETTE_N_MAX];
	} expected[] = {
		{{MOJETTE_NON_SYSTEMATIC, 2, 1}, {-1, 1, 2}},
		{{MOJETTE_NON_SYSTEMATIC, 4, 2}, {-3, -2, -1, 1, 2, 3}},
		{{MOJETTE_NON_SYSTEMATIC, 8, 4}, {-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6}},
		{{MOJETTE_SYSTEMATIC, 2, 1}, {0, 0, 1}},
		{{MOJETTE_SYSTEMATIC, 4, 2}, {0, 0, 0, 0, -1, 1}},
		{{MOJETTE_SYSTEMATIC, 4, 3}, {0, 0, 0, 0, -1, 1, 2}},
		{{MOJETTE_SYSTEMATIC, 8, 4}, {0, 0, 0, 0, 0, 0, 0, 0, -2, -1, 1, 2}},
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		for (unsigned int s = 0; s < shard_count(&expected[i].code); s++)
			CU_ASSERT_EQUAL(mojette_direction(&expected[i].code, s), expected[i].p[s]);
	}
}

static void test_sizes(void)
{
	struct mojette_code code = {MOJETTE_NON_SYSTEMATIC, 4, 2};

	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 16384, 4096), 4096);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 16383, 4096), 4096);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 1, 4096), 8);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 32, 4096), 8);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 33, 4096), 16);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 4000, 4096), 1000);
	CU_ASSERT_EQUAL(mojette_row_bytes(&code, 4001, 4096), 1008);
	CU_ASSERT_EQUAL(mojette_shard_bytes(&code, 0, 4096), 4096 + 72);
	CU_ASSERT_EQUAL(mojette_shard_bytes(&code, 2, 4096), 4096 + 24);
	CU_ASSERT_EQUAL(mojette_tail_bytes_max(&code), 72);
	code.form = MOJETTE_SYSTEMATIC;
	CU_ASSERT_EQUAL(mojette_shard_bytes(&code, 3, 4096), 4096);
	CU_ASSERT_EQUAL(mojette_shard_bytes(&code, 4, 4096), 4096 + 24);
	CU_ASSERT_EQUAL(mojette_tail_bytes_max(&code), 24);
}

static void test_golden_vectors(void)
{
	for (size_t v = 0; v < sizeof(vectors) / sizeof(vectors[0]); v++) {
		struct mojette_code code = {vectors[v].form, vectors[v].k, vectors[v].m};

		case_begin(code, vectors[v].row_bytes, true, AT_END);
		now.what = "golden vector";
		for (unsigned int i = 0; i < shard_count(&code); i++)
			EXPECT(rozo_crc32c(shard_buffer[i].data, shard_buffer[i].bytes) ==
				vectors[v].crc[i]);
	}
	CU_PASS("golden vectors");
}

/* The shards whose CRC is that of their bytes, as a reader looks at them before it decodes. */
static uint32_t shards_that_match(const uint32_t *crc)
{
	uint32_t good = 0;

	for (unsigned int i = 0; i < shard_count(&now.code); i++) {
		if (rozo_crc32c(shard_buffer[i].data, shard_buffer[i].bytes) == crc[i])
			good |= UINT32_C(1) << i;
	}
	return good;
}

static void test_wrong_shard_is_left_out_by_its_crc(void)
{
	for (uint8_t form = 0; form < 2; form++) {
		struct mojette_code code = {form, 4, 2};
		uint32_t row_crc[4], crc[6], bit_of;

		case_begin(code, 1000, false, AT_END);
		for (unsigned int r = 0; r < 4; r++)
			row_crc[r] = rozo_crc32c(row_buffer[r].data, 1000);
		EXPECT(mojette_shard_crcs(&code, 1000, row_crc, crc) == 0);
		EXPECT(shards_that_match(crc) == 0x3f);
		for (unsigned int i = 0; i < 6; i++) {
			uint8_t *data = shard_buffer[i].data;

			bit_of = UINT32_C(1) << i;
			for (size_t bit = 0; bit < 8 * shard_buffer[i].bytes; bit += 61) {
				data[bit / 8] ^= (uint8_t)(1 << bit % 8);
				EXPECT(shards_that_match(crc) == (0x3f & ~bit_of));
				data[bit / 8] ^= (uint8_t)(1 << bit % 8);
			}
			/* Left out, it is as if lost; and the decoder would not have noticed. */
			data[500] ^= 1;
			now.mask = shards_that_match(crc);
			EXPECT(now.mask == (0x3f & ~bit_of));
			memcpy(data, model_shard[i], shard_buffer[i].bytes);
			case_decode(0x3f & ~bit_of, all_rows(), AT_START);
		}
	}
	CU_PASS("crc");
}

/* By its definition, bit by bit: RFC 3720 section 12.1. */
static uint32_t crc32c_by_bits(const uint8_t *bytes, size_t size)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (unsigned int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
	}
	return ~crc;
}

/* Of any length, from any address, and in two parts: the lengths are computed in several ways. */
static void test_crc32c_is_what_its_definition_says(void)
{
	uint8_t bytes[620], zeros[32] = {0};

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 167 + (i >> 3) * 29 + 1);
	CU_ASSERT_EQUAL(rozo_crc32c(NULL, 0), 0);
	CU_ASSERT_EQUAL(rozo_crc32c(zeros, sizeof(zeros)), 0x8a9136aa); /* RFC 3720 B.4 */
	for (size_t size = 0; size <= 600; size++) {
		for (size_t start = 0; start < 9; start += 4) {
			const uint8_t *from = bytes + start;
			size_t first = size * 3 / 7;
			uint32_t crc = crc32c_by_bits(from, size);

			now.what = "crc32c";
			EXPECT(rozo_crc32c(from, size) == crc);
			EXPECT(rozo_crc32c_more(rozo_crc32c(from, first), from + first,
				       size - first) == crc);
		}
	}
	CU_PASS("crc32c");
}

static void test_shard_crcs_are_those_of_the_bytes(void)
{
	for (uint8_t k = MOJETTE_K_MIN; k <= MOJETTE_K_MAX; k++) {
		for (uint8_t m = MOJETTE_M_MIN; m <= MOJETTE_M_MAX; m++) {
			for (uint8_t form = 0; form < 2; form++) {
				struct mojette_code code = {form, k, m};
				size_t row_bytes = 8 * (1 + (size_t)rand() % 600);
				uint32_t row_crc[MOJETTE_K_MAX], crc[MOJETTE_N_MAX];

				if (rand() % 16 == 0)
					row_bytes = MOJETTE_ROW_BYTES_MAX;
				case_begin(code, row_bytes, false, AT_END);
				now.what = "crcs";
				for (unsigned int r = 0; r < k; r++)
					row_crc[r] = rozo_crc32c(model_row[r], row_bytes);
				EXPECT(mojette_shard_crcs(&code, row_bytes, row_crc, crc) == 0);
				EXPECT(shards_that_match(crc) ==
					(UINT32_C(1) << shard_count(&code)) - 1);
			}
		}
	}
	CU_PASS("crcs");
}

static void test_every_pattern(void)
{
	static const uint8_t codes[][2] = {
		{2, 1}, {3, 1}, {4, 1}, {4, 2}, {4, 3}, {6, 2}, {8, 2}, {8, 3}, {8, 4}};
	static const size_t row_bytes[] = {8, 24, 200, 1000, 4096};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		for (uint8_t form = 0; form < 2; form++) {
			struct mojette_code code = {form, codes[i][0], codes[i][1]};

			for (size_t j = 0; j < sizeof(row_bytes) / sizeof(row_bytes[0]); j++)
				decode_every_pattern(code, row_bytes[j]);
		}
	}
}

static void test_every_pattern_16_4(void)
{
	for (uint8_t form = 0; form < 2; form++)
		decode_every_pattern((struct mojette_code){form, 16, 4}, 520);
}

static void test_sampled_patterns_of_every_code(void)
{
	for (uint8_t k = MOJETTE_K_MIN; k <= MOJETTE_K_MAX; k++) {
		for (uint8_t m = MOJETTE_M_MIN; m <= MOJETTE_M_MAX; m++) {
			for (int i = 0; i < 16; i++) {
				struct mojette_code code = {(uint8_t)(i & 1), k, m};
				size_t row_bytes = 8 * (1 + (size_t)rand() % 300);
				unsigned int n = shard_count(&code);

				case_begin(code, row_bytes, false, (enum place)(i % PLACES));
				/* exactly k; then more, from which the library chooses */
				case_decode(random_subset(n, k, 0), all_rows(),
					(enum place)(rand() % PLACES));
				case_decode(
					random_subset(n, k + (unsigned int)rand() % (m + 1u), 0),
					(uint32_t)rand() & all_rows(),
					(enum place)(rand() % PLACES));
			}
		}
	}
	CU_PASS("sampled patterns");
}

static void test_rebuild_every_shard(void)
{
	static const uint8_t codes[][2] = {{2, 1}, {3, 2}, {4, 2}, {8, 4}, {16, 8}, {2, 8}};

	for (size_t i = 0; i < 2 * sizeof(codes) / sizeof(codes[0]); i++) {
		struct mojette_code code = {(uint8_t)(i & 1), codes[i / 2][0], codes[i / 2][1]};
		unsigned int n = shard_count(&code);

		for (int round = 0; round < 4; round++) {
			case_begin(code, 8 * (1 + (size_t)rand() % 600), false,
				(enum place)(rand() % PLACES));
			for (unsigned int target = 0; target < n; target++) {
				uint32_t target_bit = UINT32_C(1) << target;
				uint32_t others = random_subset(
					n, code.k + (unsigned int)rand() % code.m, target_bit);

				case_rebuild(others, target, (enum place)(rand() % PLACES));
			}
		}
	}
	CU_PASS("rebuild");
}

static void test_delta_equals_encoding_again(void)
{
	static const uint8_t codes[][2] = {{2, 1}, {4, 2}, {5, 3}, {8, 4}, {16, 8}};

	for (size_t i = 0; i < 200 * sizeof(codes) / sizeof(codes[0]); i++) {
		struct mojette_code code = {(uint8_t)(i & 1), codes[i / 200][0], codes[i / 200][1]};
		size_t row_bytes = 8 * (1 + (size_t)rand() % 300), offset, length;
		unsigned int row = (unsigned int)rand() % code.k;
		uint8_t *delta;

		case_begin(code, row_bytes, false, (enum place)(rand() % PLACES));
		now.what = "delta";
		offset = 8 * ((size_t)rand() % (row_bytes / 8 + 1));
		length = 8 * ((size_t)rand() % ((row_bytes - offset) / 8 + 1));
		delta = buffer_place(&out_buffer, length, (enum place)(rand() % PLACES));
		for (size_t b = 0; b < length; b++) {
			delta[b] = (uint8_t)rand();
			model_row[row][offset + b] ^= delta[b];
		}
		for (unsigned int s = 0; s < shard_count(&code); s++)
			EXPECT(mojette_delta(&code, row_bytes, row, offset, delta, length, s,
				       shard_buffer[s].data) == 0);
		model_encode(&code, row_bytes);
		expect_shards_unmodified(); /* since the model was encoded again */
		EXPECT(buffer_guards_untouched(&out_buffer));
	}
	CU_PASS("delta");
}

static void test_short_last_block(void)
{
	static const size_t row_bytes[] = {8, 16, 24, 32, 56, 64, 72, 120, 128, 136, 504, 512, 1000,
		4088, 4096, 4104, 65528, 65536};
	static const uint8_t codes[][2] = {{2, 1}, {4, 2}, {8, 4}, {16, 8}};

	for (size_t i = 0; i < sizeof(row_bytes) / sizeof(row_bytes[0]); i++) {
		for (size_t j = 0; j < 2 * sizeof(codes) / sizeof(codes[0]); j++) {
			struct mojette_code code = {
				(uint8_t)(j & 1), codes[j / 2][0], codes[j / 2][1]};

			for (enum place place = 0; place < PLACES; place++) {
				case_begin(code, row_bytes[i], false, place);
				case_decode(random_subset(shard_count(&code), code.k, 0),
					all_rows(), place);
			}
		}
	}
	CU_PASS("short last block");
}

static void test_decode_in_place_of_rows_at_hand(void)
{
	struct mojette_code code = {MOJETTE_SYSTEMATIC, 4, 2};
	const uint8_t *shards[6];
	uint8_t *rows[4];

	case_begin(code, 4096, false, AT_END);
	for (unsigned int i = 0; i < 6; i++)
		shards[i] = shard_buffer[i].data;
	for (unsigned int r = 0; r < 4; r++)
		rows[r] = shard_buffer[r].data;
	shards[1] = shards[2] = NULL;
	memset(rows[1], 0, 4096);
	memset(rows[2], 0, 4096);
	buffer_place(&scratch_buffer, mojette_scratch_bytes(&code, 4096), AT_END);
	CU_ASSERT_EQUAL(mojette_decode(&code, 4096, shards, rows, scratch_buffer.data), 0);
	expect_shards_unmodified();
}

static void test_bad_arguments(void)
{
	static const struct mojette_code bad[] = {
		{2, 4, 2}, {0, 1, 2}, {0, 17, 2}, {0, 4, 0}, {0, 4, 9}, {1, 0, 0}, {255, 4, 2}};
	static const size_t bad_row_bytes[] = {0, 4, 7, 4095, 4100, 65544, SIZE_MAX, SIZE_MAX - 7};
	struct mojette_code code = {MOJETTE_NON_SYSTEMATIC, 4, 2};
	const uint8_t *in[6], *few[6] = {NULL};
	uint8_t *out[6], *rows[4];
	uint32_t chosen = 77, crc[MOJETTE_N_MAX] = {0};
	void *scratch = buffer_place(&scratch_buffer, mojette_scratch_bytes(&code, 4096), AT_END);

	case_begin(code, 4096, false, AT_END);
	for (unsigned int i = 0; i < 6; i++) {
		in[i] = out[i] = shard_buffer[i].data;
		if (i < 4)
			rows[i] = buffer_place(&decoded_buffer[i], 4096, AT_END);
		if (i < 3)
			few[i] = in[i];
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CU_ASSERT_EQUAL(mojette_code_check(&bad[i]), -EINVAL);
		CU_ASSERT_EQUAL(mojette_encode(&bad[i], 4096, in, out), -EINVAL);
		CU_ASSERT_EQUAL(mojette_shard_crcs(&bad[i], 4096, crc, crc), -EINVAL);
		CU_ASSERT_EQUAL(mojette_decode(&bad[i], 4096, in, rows, scratch), -EINVAL);
		CU_ASSERT_EQUAL(mojette_rebuild(&bad[i], 4096, in, 0, rows[0], scratch), -EINVAL);
		CU_ASSERT_EQUAL(mojette_delta(&bad[i], 4096, 0, 0, in[0], 8, 0, out[1]), -EINVAL);
		CU_ASSERT_EQUAL(mojette_choose(&bad[i], 63, &chosen), -EINVAL);
	}
	for (size_t i = 0; i < sizeof(bad_row_bytes) / sizeof(bad_row_bytes[0]); i++) {
		size_t bytes = bad_row_bytes[i];

		CU_ASSERT_EQUAL(mojette_encode(&code, bytes, in, out), -EINVAL);
		CU_ASSERT_EQUAL(mojette_shard_crcs(&code, bytes, crc, crc), -EINVAL);
		CU_ASSERT_EQUAL(mojette_decode(&code, bytes, in, rows, scratch), -EINVAL);
		CU_ASSERT_EQUAL(mojette_rebuild(&code, bytes, in, 0, rows[0], scratch), -EINVAL);
		CU_ASSERT_EQUAL(mojette_delta(&code, bytes, 0, 0, in[0], 8, 0, out[1]), -EINVAL);
	}
	CU_ASSERT_EQUAL(mojette_encode_with(&code, 4096, in, out, 2), -EINVAL);
	CU_ASSERT_EQUAL(mojette_rebuild(&code, 4096, in, 6, rows[0], scratch), -EINVAL);
	CU_ASSERT_EQUAL(mojette_decode(&code, 4096, few, rows, scratch), -ENODATA);
	CU_ASSERT_EQUAL(mojette_rebuild(&code, 4096, few, 5, rows[0], scratch), -ENODATA);
	few[3] = in[3]; /* k, but one of them is the target itself */
	CU_ASSERT_EQUAL(mojette_rebuild(&code, 4096, few, 3, rows[0], scratch), -ENODATA);
	CU_ASSERT_EQUAL(mojette_choose(&code, 7, &chosen), -ENODATA);
	CU_ASSERT_EQUAL(chosen, 77);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 4, 0, in[0], 8, 0, out[1]), -EINVAL);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 0, 0, in[0], 8, 6, out[1]), -EINVAL);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 0, 4, in[0], 8, 0, out[1]), -EINVAL);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 0, 0, in[0], 12, 0, out[1]), -EINVAL);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 0, 4096, in[0], 8, 0, out[1]), -EINVAL);
	CU_ASSERT_EQUAL(mojette_delta(&code, 4096, 0, 8, in[0], SIZE_MAX - 7, 0, out[1]), -EINVAL);
	now.what = "bad arguments";
	expect_shards_unmodified();
}

static void test_choice_is_k_shards_at_hand(void)
{
	for (uint8_t form = 0; form < 2; form++) {
		struct mojette_code code = {form, 4, 2};

		for (uint32_t mask = 0; mask < 64; mask++) {
			uint32_t chosen = 0;
			int error = mojette_choose(&code, mask | 0xffffffc0, &chosen);

			if (__builtin_popcount(mask) < 4) {
				CU_ASSERT_EQUAL(error, -ENODATA);
				continue;
			}
			CU_ASSERT_EQUAL(error, 0);
			CU_ASSERT_EQUAL(chosen & ~mask, 0);
			CU_ASSERT_EQUAL(__builtin_popcount(chosen), 4);
			if (form == MOJETTE_SYSTEMATIC) /* rows at hand are always used */
				CU_ASSERT_EQUAL(chosen & 15, mask & 15);
		}
	}
}

int main(void)
{
	static const CU_TestInfo tests[] = {
		{"directions follow the draft", test_directions_follow_the_draft},
		{"sizes", test_sizes},
		{"golden vectors", test_golden_vectors},
		{"a wrong shard is left out by its crc", test_wrong_shard_is_left_out_by_its_crc},
		{"crc32c is what its definition says", test_crc32c_is_what_its_definition_says},
		{"shard crcs are those of the bytes", test_shard_crcs_are_those_of_the_bytes},
		{"every erasure pattern", test_every_pattern},
		{"every erasure pattern of 16+4", test_every_pattern_16_4},
		{"sampled patterns of every code", test_sampled_patterns_of_every_code},
		{"rebuild every shard", test_rebuild_every_shard},
		{"delta equals encoding again", test_delta_equals_encoding_again},
		{"short last block", test_short_last_block},
		{"decode in place of rows at hand", test_decode_in_place_of_rows_at_hand},
		{"bad arguments", test_bad_arguments},
		{"the choice is k shards at hand", test_choice_is_k_shards_at_hand},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{.pName = "mojette", .pTests = (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};
	const char *kernel = getenv("ROZO_MOJETTE_KERNEL");
	unsigned int failures;
	int error = buffers_init();

	if (kernel != NULL && strcmp(kernel, mojette_kernel_name()) != 0) {
		fprintf(stderr, "test_mojette: skipped: this machine cannot run %s\n", kernel);
		return 77;
	}
	printf("kernel: %s\n", mojette_kernel_name());
	if (error != 0) {
		fprintf(stderr, "test_mojette: cannot map the guarded buffers: %s\n",
			strerror(-error));
		return 1;
	}
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
		fprintf(stderr, "test_mojette: %s\n", CU_get_error_msg());
		return 1;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
