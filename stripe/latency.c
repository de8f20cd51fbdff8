/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See latency.h. */
#include "stripe/latency.h"

#include <stdlib.h>
#include <time.h>

#include "stripe/internal.h"

#define LONG_BYTES (64u << 10)
/* Answers within this are never late: a scheduler's whim, a disk's seek. */
#define PATIENCE_MIN_MS 8
/* Where everything is slow, asking more nodes makes it slower. */
#define PATIENCE_MAX_MS 1000
#define PATIENCE_UNKNOWN_MS 50
#define SLOW_FACTOR 4
#define PROBE_INTERVAL_MS 250
#define MEAN_MAX_US 60000000u

uint64_t latency_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

unsigned int latency_class(uint64_t shard_bytes)
{
	return shard_bytes > LONG_BYTES;
}

void latency_answered(struct node *node, unsigned int class, uint64_t us)
{
	struct latency *latency = &node->latency;
	int64_t sample = us == 0 ? 1 : us > MEAN_MAX_US ? MEAN_MAX_US : (int64_t)us;
	int64_t mean = atomic_load_explicit(&latency->mean_us[class], memory_order_relaxed);
	int64_t deviation =
		atomic_load_explicit(&latency->deviation_us[class], memory_order_relaxed);

	if (mean == 0) {
		mean = sample;
		deviation = sample / 2;
	} else {
		/* As in RFC 6298; but one that is fast again is believed sooner. */
		int64_t off = sample > mean ? sample - mean : mean - sample;
		deviation += (off - deviation) / 4;
		mean += (sample - mean) / (sample < mean / SLOW_FACTOR ? 2 : 8);
	}
	atomic_store_explicit(
		&latency->mean_us[class], (uint32_t)(mean ? mean : 1), memory_order_relaxed);
	atomic_store_explicit(
		&latency->deviation_us[class], (uint32_t)deviation, memory_order_relaxed);
}

void latency_overdue(struct node *node, unsigned int class, uint64_t us)
{
	struct latency *latency = &node->latency;
	uint32_t least = us > MEAN_MAX_US ? MEAN_MAX_US : (uint32_t)us;

	if (atomic_load_explicit(&latency->mean_us[class], memory_order_relaxed) < least)
		atomic_store_explicit(&latency->mean_us[class], least, memory_order_relaxed);
}

static int compare(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

/* The median over the nodes that are known, of mean plus so many deviations; 0: none is known. */
static uint64_t median_us(
	const struct segment *segment, unsigned int class, unsigned int deviations)
{
	uint64_t values[MOJETTE_N_MAX];
	unsigned int count = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		const struct node *node = segment->nodes[s];

		if (!node || !node->client)
			continue;
		uint64_t mean =
			atomic_load_explicit(&node->latency.mean_us[class], memory_order_relaxed);
		if (mean)
			values[count++] =
				mean + deviations * (uint64_t)atomic_load_explicit(
							    &node->latency.deviation_us[class],
							    memory_order_relaxed);
	}
	if (count == 0)
		return 0;
	qsort(values, count, sizeof(values[0]), compare);
	return values[(count - 1) / 2];
}

bool latency_is_slow(const struct segment *segment, const struct node *node, unsigned int class)
{
	uint64_t mean = atomic_load_explicit(&node->latency.mean_us[class], memory_order_relaxed);

	return mean >= PATIENCE_MIN_MS * 1000 && mean > SLOW_FACTOR * median_us(segment, class, 0);
}

bool latency_probe_is_due(struct node *node)
{
	uint64_t now = latency_now_us() / 1000;
	uint64_t last = atomic_load(&node->latency.probed_ms);

	return now - last >= PROBE_INTERVAL_MS &&
	       atomic_compare_exchange_strong(&node->latency.probed_ms, &last, now);
}

unsigned int latency_patience_ms(const struct segment *segment, unsigned int class)
{
	uint64_t usual = median_us(segment, class, 4);

	if (usual == 0)
		return PATIENCE_UNKNOWN_MS;
	uint64_t patience = 1 + 2 * usual / 1000;
	return patience < PATIENCE_MIN_MS   ? PATIENCE_MIN_MS
	       : patience > PATIENCE_MAX_MS ? PATIENCE_MAX_MS
					    : (unsigned int)patience;
}
