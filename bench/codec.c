/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * bench/codec: the Mojette codec against ISA-L's Reed-Solomon and against memcpy, in one run.
 *
 * One pinned thread. For each operation the three methods take turns in every round, so that what
 * else the machine does hits them alike; reported are medians over the rounds of the speeds and of
 * the per-round ratios. Speeds are 10^9 user bytes (k rows) per second. The rival of every encode
 * is ISA-L's encode of m parities, of every decode ISA-L's recovery of as many rows as the
 * operation has lost (m for the non-systematic form), its matrices and tables made beforehand.
 *
 * Working sets: `hot` is one block over and over; `l2` and `dram` walk a ring of blocks. For `dram`
 * the encoder is asked to store past the caches. Every block has room for k rows, k decoded rows
 * and n shards, so what is called hot with 8+4 does not all fit a first-level cache.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <isa-l/crc.h>
#include <isa-l/erasure_code.h>
#include <isa-l/raid.h>

#include "mojette/mojette.h"

#define ROUNDS_MAX 201
#define L2_RING_BYTES ((size_t)768 << 10)
#define DRAM_RING_BYTES ((size_t)768 << 20)

/* ENCODE_CRC_SHARDS reads every shard once more, ENCODE_CRC_ROWS only the rows. */
enum operation { ENCODE, ENCODE_CRC_SHARDS, ENCODE_CRC_ROWS, DECODE, DELTA };
enum pattern { BEST, ONE_LOST, TWO_LOST, ALL_LOST, WORST };

struct bench_case {
	const char *name;
	struct mojette_code code;
	enum operation operation;
	enum pattern pattern;
};

static const struct bench_case cases[] = {
	{"systematic encode", {MOJETTE_SYSTEMATIC, 2, 1}, ENCODE, BEST},
	{"systematic encode", {MOJETTE_SYSTEMATIC, 4, 2}, ENCODE, BEST},
	{"systematic encode", {MOJETTE_SYSTEMATIC, 8, 4}, ENCODE, BEST},
	{"systematic decode, one lost", {MOJETTE_SYSTEMATIC, 4, 2}, DECODE, ONE_LOST},
	{"systematic decode, one lost", {MOJETTE_SYSTEMATIC, 8, 4}, DECODE, ONE_LOST},
	{"systematic decode, two lost", {MOJETTE_SYSTEMATIC, 4, 2}, DECODE, TWO_LOST},
	{"systematic decode, two lost", {MOJETTE_SYSTEMATIC, 8, 4}, DECODE, TWO_LOST},
	{"systematic decode, four lost", {MOJETTE_SYSTEMATIC, 8, 4}, DECODE, ALL_LOST},
	{"non-systematic encode", {MOJETTE_NON_SYSTEMATIC, 2, 1}, ENCODE, BEST},
	{"non-systematic encode", {MOJETTE_NON_SYSTEMATIC, 4, 2}, ENCODE, BEST},
	{"non-systematic encode", {MOJETTE_NON_SYSTEMATIC, 8, 4}, ENCODE, BEST},
	{"non-systematic decode, best", {MOJETTE_NON_SYSTEMATIC, 2, 1}, DECODE, BEST},
	{"non-systematic decode, best", {MOJETTE_NON_SYSTEMATIC, 4, 2}, DECODE, BEST},
	{"non-systematic decode, best", {MOJETTE_NON_SYSTEMATIC, 8, 4}, DECODE, BEST},
	{"non-systematic decode, worst", {MOJETTE_NON_SYSTEMATIC, 2, 1}, DECODE, WORST},
	{"non-systematic decode, worst", {MOJETTE_NON_SYSTEMATIC, 4, 2}, DECODE, WORST},
	{"non-systematic decode, worst", {MOJETTE_NON_SYSTEMATIC, 8, 4}, DECODE, WORST},
	{"systematic encode, CRC of shards", {MOJETTE_SYSTEMATIC, 4, 2}, ENCODE_CRC_SHARDS, BEST},
	{"systematic encode, CRC of rows", {MOJETTE_SYSTEMATIC, 4, 2}, ENCODE_CRC_ROWS, BEST},
	{"non-sys. encode, CRC of shards", {MOJETTE_NON_SYSTEMATIC, 4, 2}, ENCODE_CRC_SHARDS, BEST},
	{"non-sys. encode, CRC of rows", {MOJETTE_NON_SYSTEMATIC, 4, 2}, ENCODE_CRC_ROWS, BEST},
	{"delta of one row", {MOJETTE_SYSTEMATIC, 4, 2}, DELTA, BEST},
	{"delta of one row", {MOJETTE_SYSTEMATIC, 8, 4}, DELTA, BEST},
};

/* One case being measured: its blocks in a ring, and the rival's tables. */
struct context {
	const struct bench_case *bench;
	struct mojette_code code;
	unsigned int n;
	size_t row_bytes;
	unsigned int flags; /* of the encoder */
	uint32_t mask; /* shards given to the decoder */
	uint32_t plain; /* shards that are rows */
	unsigned int lost;
	uint8_t *ring;
	size_t block_stride, shard_stride;
	size_t blocks, next;
	uint8_t *scratch;
	uint8_t tables[32 * MOJETTE_K_MAX * MOJETTE_M_MAX];
};

typedef void method(struct context *context, uint8_t *block);

static uint8_t *row_of(const struct context *c, uint8_t *block, unsigned int r)
{
	return block + r * c->row_bytes;
}

static uint8_t *decoded_of(const struct context *c, uint8_t *block, unsigned int r)
{
	return block + (c->code.k + r) * c->row_bytes;
}

static uint8_t *shard_of(const struct context *c, uint8_t *block, unsigned int shard)
{
	return block + 2 * c->code.k * c->row_bytes + shard * c->shard_stride;
}

/* The difference of old and new row, made the same way for both codecs. */
static void make_delta(struct context *c, uint8_t *block)
{
	void *rows[3] = {row_of(c, block, 1), decoded_of(c, block, 0), decoded_of(c, block, 1)};

	xor_gen(3, (int)c->row_bytes, rows);
}

static volatile uint32_t sink; /* so that the CRCs are wanted */

static uint32_t crc32c(const uint8_t *bytes, size_t length)
{
	return ~crc32_iscsi((unsigned char *)bytes, (int)length, UINT32_MAX);
}

static void run_mojette(struct context *c, uint8_t *block)
{
	uint32_t row_crc[MOJETTE_K_MAX], crc[MOJETTE_N_MAX] = {0};
	const uint8_t
		*in[MOJETTE_N_MAX]; /* not cleared: that would be a good part of what is timed */
	uint8_t *out[MOJETTE_N_MAX];
	unsigned int k = c->code.k;
	int error = 0;

	switch (c->bench->operation) {
	case ENCODE:
	case ENCODE_CRC_SHARDS:
	case ENCODE_CRC_ROWS:
		for (unsigned int r = 0; r < k; r++) {
			in[r] = row_of(c, block, r);
			if (c->bench->operation == ENCODE_CRC_ROWS)
				row_crc[r] = crc32c(in[r], c->row_bytes);
		}
		for (unsigned int i = 0; i < c->n; i++) /* a row is not stored twice */
			out[i] = c->plain >> i & 1 ? NULL : shard_of(c, block, i);
		error = mojette_encode_with(&c->code, c->row_bytes, in, out, c->flags);
		if (error == 0 && c->bench->operation == ENCODE_CRC_ROWS)
			error = mojette_shard_crcs(&c->code, c->row_bytes, row_crc, crc);
		for (unsigned int i = 0; i < c->n && c->bench->operation == ENCODE_CRC_SHARDS; i++)
			crc[i] = crc32c(out[i] == NULL ? in[i] : out[i],
				mojette_shard_bytes(&c->code, i, c->row_bytes));
		if (c->bench->operation != ENCODE)
			sink = crc[c->n - 1];
		break;
	case DECODE:
		for (unsigned int i = 0; i < c->n; i++)
			in[i] = c->mask >> i & 1 ? shard_of(c, block, i) : NULL;
		for (unsigned int r = 0; r < k; r++) {
			out[r] = (c->plain & c->mask) >> r & 1 ? NULL : decoded_of(c, block, r);
		}
		error = mojette_decode(&c->code, c->row_bytes, in, out, c->scratch);
		break;
	case DELTA:
		make_delta(c, block);
		for (unsigned int i = k; i < c->n && error == 0; i++)
			error = mojette_delta(&c->code, c->row_bytes, 1, 0, decoded_of(c, block, 1),
				c->row_bytes, i, shard_of(c, block, i));
		break;
	}
	if (error != 0) {
		fprintf(stderr, "codec: %s failed: %s\n", c->bench->name, strerror(-error));
		exit(1);
	}
}

typedef void isal_encode(int, int, int, unsigned char *, unsigned char **, unsigned char **);
static isal_encode *isal = ec_encode_data; /* or the kernel that matches the forced one of ours */

static void run_isal(struct context *c, uint8_t *block)
{
	uint8_t *in[MOJETTE_N_MAX], *out[MOJETTE_N_MAX];
	unsigned int k = c->code.k, m = c->code.m;
	unsigned int outputs = c->bench->operation == DECODE ? c->lost : m;

	for (unsigned int i = 0; i < k; i++)
		in[i] = row_of(c, block, i);
	for (unsigned int i = 0; i < outputs; i++)
		out[i] = c->bench->operation == DECODE ? decoded_of(c, block, i)
						       : shard_of(c, block, k + i);
	if (c->bench->operation == DELTA) {
		make_delta(c, block);
		ec_encode_data_update((int)c->row_bytes, (int)k, (int)m, 1, c->tables,
			decoded_of(c, block, 1), out);
	} else {
		isal((int)c->row_bytes, (int)k, (int)outputs, c->tables, in, out);
	}
	if (c->bench->operation == ENCODE_CRC_SHARDS || c->bench->operation == ENCODE_CRC_ROWS) {
		for (unsigned int i = 0; i < k + m; i++)
			sink = crc32c(i < k ? in[i] : out[i - k], c->row_bytes);
	}
}

static void run_memcpy(struct context *c, uint8_t *block)
{
	size_t bytes = (c->bench->operation == DELTA ? 1 : c->code.k) * c->row_bytes;

	memcpy(block + c->code.k * c->row_bytes, block, bytes);
	__asm__ volatile("" ::"r"(block) : "memory");
}

/* Parity rows of the encode, or of the recovery of the first `lost` rows from the rest. */
static void isal_prepare(struct context *c)
{
	int k = c->code.k, n = (int)c->n, lost = (int)c->lost;
	uint8_t matrix[MOJETTE_N_MAX * MOJETTE_K_MAX], survivors[MOJETTE_K_MAX * MOJETTE_K_MAX];
	uint8_t inverse[MOJETTE_K_MAX * MOJETTE_K_MAX];

	gf_gen_cauchy1_matrix(matrix, n, k);
	if (c->bench->operation != DECODE) {
		ec_init_tables(k, n - k, matrix + k * k, c->tables);
		return;
	}
	memcpy(survivors, matrix + lost * k, (size_t)k * (size_t)k);
	if (gf_invert_matrix(survivors, inverse, k) != 0) {
		fprintf(stderr, "codec: ISA-L's matrix for %d lost rows is singular\n", lost);
		exit(1);
	}
	ec_init_tables(k, lost, inverse, c->tables);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds that `count` calls take, each on the next block of the ring. */
static double sample(struct context *c, method *run, size_t count)
{
	double start = seconds();

	for (size_t i = 0; i < count; i++) {
		run(c, c->ring + c->next * c->block_stride);
		c->next = c->next + 1 == c->blocks ? 0 : c->next + 1;
	}
	return seconds() - start;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(values[0]), compare);
	return values[count / 2];
}

/* The shards that the decoder is given. */
static uint32_t choose_mask(struct context *c)
{
	uint32_t all = (UINT32_C(1) << c->n) - 1, worst = 0;
	double worst_time = 0;

	switch (c->bench->pattern) {
	case ONE_LOST:
		return all & ~UINT32_C(2);
	case TWO_LOST:
	case ALL_LOST: /* the middle rows, with one kept between them: the hardest to sweep */
		return all & ~(c->lost == 2 ? UINT32_C(5) : UINT32_C(0x2d));
	case BEST:
		return all;
	case WORST:
		break;
	}
	for (c->mask = 0; c->mask <= all; c->mask++) {
		double best = 1;

		if (__builtin_popcount(c->mask) != c->code.k)
			continue;
		for (int i = 0; i < 5; i++) {
			double time = sample(c, run_mojette, 8);

			best = time < best ? time : best;
		}
		if (best > worst_time) {
			worst_time = best;
			worst = c->mask;
		}
	}
	return worst;
}

struct options {
	size_t row_bytes;
	size_t rounds;
	const char *json;
	bool memory; /* also l2 and dram */
};

static int measure(const struct bench_case *bench, const struct options *options, const char *set,
	size_t ring_bytes, uint8_t *ring, FILE *json, bool *first)
{
	static method *const methods[] = {run_mojette, run_isal, run_memcpy};
	static double gbs[3][ROUNDS_MAX], to_isal[ROUNDS_MAX], to_memcpy[ROUNDS_MAX];
	struct context c = {.bench = bench, .code = bench->code, .row_bytes = options->row_bytes};
	struct bench_case encode = *bench;
	double user_bytes = (double)((bench->operation == DELTA ? 1 : c.code.k) * c.row_bytes);
	size_t calls, rounds = strcmp(set, "dram") == 0 ? options->rounds / 3 + 1 : options->rounds;

	c.n = (unsigned int)c.code.k + c.code.m;
	/* Where shards go to memory and stay there; a CRC would read them back. */
	if (strcmp(set, "dram") == 0 && bench->operation != ENCODE_CRC_SHARDS)
		c.flags = MOJETTE_PAST_CACHES;
	c.lost = bench->pattern == ONE_LOST ? 1 : bench->pattern == TWO_LOST ? 2 : c.code.m;
	for (unsigned int i = 0; i < c.n; i++)
		c.plain |= (uint32_t)(mojette_direction(&c.code, i) == 0) << i;
	/* Projections start a kilobyte apart modulo 4 KiB: no false store-to-load dependence. */
	c.shard_stride =
		((c.row_bytes + mojette_tail_bytes_max(&c.code) + 4095) & ~(size_t)4095) + 1024;
	c.block_stride = (2 * c.code.k * c.row_bytes + c.n * c.shard_stride + 4095) & ~(size_t)4095;
	c.blocks = ring_bytes / c.block_stride > 0 ? ring_bytes / c.block_stride : 1;
	c.ring = ring;
	c.scratch =
		aligned_alloc(64, (mojette_scratch_bytes(&c.code, c.row_bytes) + 63) & ~(size_t)63);
	if (c.scratch == NULL)
		return -ENOMEM;
	encode.operation = ENCODE;
	c.bench = &encode;
	sample(&c, run_mojette, c.blocks); /* gives the decoder valid shards, and warms up */
	c.bench = bench;
	c.mask = choose_mask(&c);
	isal_prepare(&c);

	calls = 1 + (size_t)(4e5 / user_bytes);
	if (strcmp(set, "dram") == 0)
		calls = 1 + (size_t)(4e7 / user_bytes);
	for (size_t round = 0; round < rounds; round++) {
		for (size_t i = 0; i < 3; i++)
			gbs[i][round] = (double)calls * user_bytes / 1e9 /
					sample(&c, methods[(i + round) % 3], calls);
		/* undo the rotation of who comes first */
		double mojette = gbs[(3 - round % 3) % 3][round];
		double rival = gbs[(4 - round % 3) % 3][round];
		double copy = gbs[(5 - round % 3) % 3][round];

		gbs[0][round] = mojette;
		gbs[1][round] = rival;
		gbs[2][round] = copy;
		to_isal[round] = mojette / rival;
		to_memcpy[round] = mojette / copy;
	}
	double result[5] = {median(gbs[0], rounds), median(gbs[1], rounds), median(gbs[2], rounds),
		median(to_isal, rounds), median(to_memcpy, rounds)};

	printf("%-32s %u+%u  %-5s %8.1f %8.1f %8.1f  %8.2f %8.2f\n", bench->name, c.code.k,
		c.code.m, set, result[0], result[1], result[2], result[3], result[4]);
	fflush(stdout);
	if (json != NULL) {
		fprintf(json,
			"%s\n  {\"kernel\": \"%s\", \"operation\": \"%s\", \"k\": %u, \"m\": %u, "
			"\"row_bytes\": %zu, "
			"\"set\": \"%s\", \"mask\": %u, \"mojette_gbs\": %.2f, \"isal_gbs\": %.2f, "
			"\"memcpy_gbs\": %.2f, \"to_isal\": %.3f, \"to_memcpy\": %.3f}",
			*first ? "" : ",", mojette_kernel_name(), bench->name, c.code.k, c.code.m,
			c.row_bytes, set, c.mask, result[0], result[1], result[2], result[3],
			result[4]);
		*first = false;
	}
	free(c.scratch);
	return 0;
}

static void usage(FILE *to)
{
	fprintf(to,
		"usage: codec [options]\n"
		"  --row-bytes N  bytes of a row (4096)\n"
		"  --rounds N     rounds a case (61, at most %d)\n"
		"  --only TEXT    cases whose \"name k+m\" contains TEXT\n"
		"  --hot          only the cache-hot working set\n"
		"  --json FILE    also write the results there\n"
		"ROZO_MOJETTE_KERNEL=portable|avx2|avx512 forces a kernel; with avx2 the rival is\n"
		"ISA-L's AVX2 kernel too.\n",
		ROUNDS_MAX);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {{"row-bytes", required_argument, NULL, 'r'},
		{"rounds", required_argument, NULL, 'n'}, {"only", required_argument, NULL, 'o'},
		{"hot", no_argument, NULL, 'h'}, {"json", required_argument, NULL, 'j'},
		{"help", no_argument, NULL, '?'}, {NULL, 0, NULL, 0}};
	struct options options = {.row_bytes = 4096, .rounds = 61, .memory = true};
	const char *only = "", *kernel = getenv("ROZO_MOJETTE_KERNEL");
	FILE *json = NULL;
	cpu_set_t cpus;
	uint8_t *ring;
	bool first = true;
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case 'r':
			options.row_bytes = strtoul(optarg, NULL, 10);
			break;
		case 'n':
			options.rounds = strtoul(optarg, NULL, 10);
			break;
		case 'o':
			only = optarg;
			break;
		case 'h':
			options.memory = false;
			break;
		case 'j':
			options.json = optarg;
			break;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (options.rounds < 1 || options.rounds > ROUNDS_MAX || options.row_bytes % 8 != 0 ||
		options.row_bytes < MOJETTE_ROW_BYTES_MIN ||
		options.row_bytes > MOJETTE_ROW_BYTES_MAX) {
		fprintf(stderr,
			"codec: rounds must be 1 to %d, row bytes a multiple of 8 up to %d\n",
			ROUNDS_MAX, MOJETTE_ROW_BYTES_MAX);
		return 2;
	}
	if (kernel != NULL && strcmp(kernel, "avx2") == 0)
		isal = ec_encode_data_avx2;
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0)
		fprintf(stderr, "codec: not pinned to a CPU: %s\n", strerror(errno));

	ring = mmap(NULL, DRAM_RING_BYTES + ((size_t)4 << 20), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ring == MAP_FAILED) {
		fprintf(stderr, "codec: cannot map %zu bytes: %s\n", DRAM_RING_BYTES,
			strerror(errno));
		return 1;
	}
	ring = (uint8_t *)(((uintptr_t)ring + (2 << 20)) & ~(uintptr_t)((2 << 20) - 1));
	madvise(ring, DRAM_RING_BYTES, MADV_HUGEPAGE); /* a hint: without it only slower */
	ring[-1] = 1; /* as in a program's heap: there is memory before the first row */
	for (size_t i = 0; i < (options.memory ? DRAM_RING_BYTES : L2_RING_BYTES * 4); i += 8)
		*(uint64_t *)(ring + i) = i * UINT64_C(0x9e3779b97f4a7c15);
	if (options.json != NULL) {
		json = fopen(options.json, "w");
		if (json == NULL) {
			fprintf(stderr, "codec: cannot write %s: %s\n", options.json,
				strerror(errno));
			return 1;
		}
		fprintf(json, "[");
	}
	printf("kernel %s, rows of %zu bytes, %zu rounds; GB/s of user bytes, medians\n",
		mojette_kernel_name(), options.row_bytes, options.rounds);
	printf("%-32s %-4s %-5s %8s %8s %8s  %8s %8s\n", "operation", "code", "set", "mojette",
		"ISA-L", "memcpy", "/ISA-L", "/memcpy");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		static const struct {
			const char *name;
			size_t bytes;
		} sets[] = {{"hot", 1}, {"l2", L2_RING_BYTES}, {"dram", DRAM_RING_BYTES}};
		char name[64];

		snprintf(name, sizeof(name), "%s %u+%u", cases[i].name, cases[i].code.k,
			cases[i].code.m);
		if (strstr(name, only) == NULL)
			continue;
		for (size_t s = 0; s < (options.memory ? 3 : 1); s++) {
			if (measure(&cases[i], &options, sets[s].name, sets[s].bytes, ring, json,
				    &first) != 0) {
				fprintf(stderr, "codec: out of memory\n");
				return 1;
			}
		}
	}
	if (json != NULL) {
		fprintf(json, "\n]\n");
		if (fclose(json) != 0) {
			fprintf(stderr, "codec: cannot write %s: %s\n", options.json,
				strerror(errno));
			return 1;
		}
	}
	return 0;
}
