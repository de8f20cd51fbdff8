/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Fuzzes the whole interface of the codec. Bytes choose the code, the row length, the pattern of
 * shards and the arguments of every call, also bad ones; buffers have exactly the sizes that the
 * header promises are enough, so that AddressSanitizer sees the first byte beyond. What was encoded
 * must come back, and a rebuilt or updated shard must be the encoded one.
 *
 * With clang at hand an AddressSanitizer build also makes fuzz_mojette_libfuzzer, of this file and
 * the codec. Without libFuzzer the program draws its own inputs: fuzz_mojette [seed [rounds]].
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mojette/mojette.h"

struct input {
	const uint8_t *bytes;
	size_t left;
};

static uint32_t take(struct input *input, uint32_t below)
{
	uint32_t value = 0;

	for (int i = 0; i < 4 && input->left > 0; i++, input->left--)
		value = value << 8 | *input->bytes++;
	return below == 0 ? value : value % below;
}

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "fuzz_mojette: not so: %s\n", what);
		abort();
	}
}

#define MUST(condition) must(condition, #condition)

/* Of all shards that were encoded, to compare machines and kernels by (FNV-1a). */
static uint64_t digest = 0xcbf29ce484222325;

static void digest_add(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		digest = (digest ^ bytes[i]) * 0x100000001b3;
}

static uint8_t *allocate(size_t bytes)
{
	uint8_t *memory = malloc(bytes > 0 ? bytes : 1);

	MUST(memory != NULL);
	return memory;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	struct mojette_code code = {
		(uint8_t)take(&input, 3), (uint8_t)take(&input, 19), (uint8_t)take(&input, 11)};
	size_t row_bytes = take(&input, 4) == 0 ? take(&input, 70000) : 8 * take(&input, 160);
	bool good_row = row_bytes % 8 == 0 && row_bytes >= 8 && row_bytes <= MOJETTE_ROW_BYTES_MAX;
	uint8_t *rows[MOJETTE_K_MAX] = {NULL}, *shards[MOJETTE_N_MAX] = {NULL};
	uint8_t *decoded[MOJETTE_K_MAX] = {NULL}, *rebuilt, *scratch;
	const uint8_t *at_hand[MOJETTE_N_MAX] = {NULL};
	uint32_t mask = take(&input, 0), chosen = 0;
	unsigned int n, target, count = 0;
	uint64_t fill = take(&input, 0) | 1;
	size_t offset, length, unit;
	int error;

	if (mojette_code_check(&code) != 0 || !good_row) {
		MUST(mojette_encode(&code, row_bytes, at_hand, shards) == -EINVAL);
		MUST(mojette_decode(&code, row_bytes, at_hand, rows, NULL) == -EINVAL);
		MUST(mojette_rebuild(&code, row_bytes, at_hand, 0, NULL, NULL) == -EINVAL);
		MUST(mojette_delta(&code, row_bytes, 0, 0, NULL, 0, 0, NULL) == -EINVAL);
		return 0;
	}
	n = (unsigned int)code.k + code.m;
	for (unsigned int r = 0; r < code.k; r++) {
		rows[r] = allocate(row_bytes);
		decoded[r] = take(&input, 8) == 0 ? NULL : allocate(row_bytes);
		for (size_t i = 0; i < row_bytes; i++) {
			fill = fill * 6364136223846793005u + 1442695040888963407u;
			rows[r][i] = (uint8_t)(fill >> 56);
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		MUST(mojette_shard_bytes(&code, i, row_bytes) <=
			row_bytes + mojette_tail_bytes_max(&code));
		shards[i] = allocate(mojette_shard_bytes(&code, i, row_bytes));
		if (mask >> i & 1) {
			at_hand[i] = shards[i];
			count++;
		}
	}
	scratch = allocate(mojette_scratch_bytes(&code, row_bytes));
	MUST(mojette_encode_with(&code, row_bytes, (const uint8_t *const *)rows, shards,
		     take(&input, 2) * MOJETTE_PAST_CACHES) == 0);
	for (unsigned int i = 0; i < n; i++)
		digest_add(shards[i], mojette_shard_bytes(&code, i, row_bytes));

	error = mojette_choose(&code, mask, &chosen);
	MUST(error == (count < code.k ? -ENODATA : 0));
	error = mojette_decode(&code, row_bytes, at_hand, decoded, scratch);
	MUST(error == (count < code.k ? -ENODATA : 0));
	for (unsigned int r = 0; error == 0 && r < code.k; r++)
		MUST(decoded[r] == NULL || memcmp(decoded[r], rows[r], row_bytes) == 0);

	target = take(&input, n + 1);
	rebuilt = allocate(mojette_shard_bytes(&code, target, row_bytes));
	error = mojette_rebuild(&code, row_bytes, at_hand, target, rebuilt, scratch);
	if (target == n)
		MUST(error == -EINVAL);
	else if (count - (at_hand[target] != NULL) < code.k)
		MUST(error == -ENODATA);
	else
		MUST(error == 0 && memcmp(rebuilt, shards[target],
					   mojette_shard_bytes(&code, target, row_bytes)) == 0);
	free(rebuilt);

	/* A change of part of a row reaches every shard as encoding again would. */
	target = take(&input, code.k + 1u);
	unit = take(&input, 8) == 0 ? 1 : 8;
	offset = unit * take(&input, (uint32_t)(row_bytes / unit) + 2);
	length = unit * take(&input, (uint32_t)(row_bytes / unit) + 2);
	if (target == code.k || offset % 8 != 0 || length % 8 != 0 || offset > row_bytes ||
		length > row_bytes - offset) {
		MUST(mojette_delta(&code, row_bytes, target, offset, rows[0], length, 0,
			     shards[0]) == -EINVAL);
	} else {
		uint8_t *delta = allocate(length);

		for (size_t i = 0; i < length; i++) {
			delta[i] = (uint8_t)(fill >> (i % 57));
			rows[target][offset + i] ^= delta[i];
		}
		for (unsigned int i = 0; i < n; i++) {
			size_t bytes = mojette_shard_bytes(&code, i, row_bytes);
			uint8_t *again[MOJETTE_N_MAX] = {NULL};

			MUST(mojette_delta(&code, row_bytes, target, offset, delta, length, i,
				     shards[i]) == 0);
			again[i] = allocate(bytes);
			MUST(mojette_encode(
				     &code, row_bytes, (const uint8_t *const *)rows, again) == 0);
			MUST(memcmp(again[i], shards[i], bytes) == 0);
			free(again[i]);
		}
		free(delta);
	}
	for (unsigned int r = 0; r < code.k; r++) {
		free(rows[r]);
		free(decoded[r]);
	}
	for (unsigned int i = 0; i < n; i++)
		free(shards[i]);
	free(scratch);
	return 0;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv)
{
	unsigned int seed = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 1;
	unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 3000;
	uint8_t bytes[256];

	srand(seed);
	for (unsigned long i = 0; i < rounds; i++) {
		for (size_t b = 0; b < sizeof(bytes); b++)
			bytes[b] = (uint8_t)(rand() >> 8);
		LLVMFuzzerTestOneInput(bytes, sizeof(bytes));
	}
	printf("%lu random inputs, seed %u, digest of the shards %016" PRIx64 ", kernel %s\n",
		rounds, seed, digest, mojette_kernel_name());
	return 0;
}
#endif
