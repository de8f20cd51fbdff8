/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Calls to the stores of one segment, all at once. Takes no locks. */
#include <string.h>

#include "stripe/internal.h"

uint32_t segment_known_down(const struct segment *segment, unsigned int least)
{
	unsigned int n = segment->shard_count;
	uint32_t down = 0;

	for (unsigned int s = 0; s < n; s++) {
		if (!node_usable(segment->nodes[s]))
			down |= 1u << s;
	}
	return n - (unsigned int)__builtin_popcount(down) < least ? 0 : down;
}

uint32_t segment_next_formers(
	const struct segment *segment, uint32_t *asked, struct segment *former)
{
	uint32_t shards = 0;

	*former = *segment;
	for (uint32_t i = 0; i < segment->origin_count; i++) {
		const struct origin *origin = &segment->origins[i];

		if ((*asked & (1u << i)) || (shards & (1u << origin->shard)))
			continue;
		*asked |= 1u << i;
		shards |= 1u << origin->shard;
		former->nodes[origin->shard] = origin->node;
	}
	return shards;
}

bool fanout_call_refused(const struct fanout_call *call, int error)
{
	return call->started && !call->error && fanout_call_status(call) == error;
}

bool call_not_executed(int error)
{
	return error == -ECONNREFUSED || error == -EHOSTUNREACH || error == -ENETUNREACH ||
	       error == -ENOTCONN || error == -EACCES || error == -E2BIG;
}

uint32_t segment_ask(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint32_t procedure, const void *args, size_t args_bytes, void *results,
	struct fanout_call *calls)
{
	size_t result_bytes = fanout_result_bytes(procedure);
	struct fanout fanout;
	uint32_t agreed = 0;

	memset(calls, 0, segment->shard_count * sizeof(*calls));
	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (shards & (1u << s))
			fanout_start(&fanout, &calls[s], segment->nodes[s], procedure,
				(const char *)args + s * args_bytes,
				(char *)results + s * result_bytes);
	}
	fanout_wait(&fanout);
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((shards & (1u << s)) && fanout_call_status(&calls[s]) == 0)
			agreed |= 1u << s;
	}
	return agreed;
}

uint32_t segment_tell(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint32_t procedure, const void *args)
{
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	uint32_t agreed = segment_ask(file, segment, shards, procedure, args, 0, results, calls);

	for (unsigned int s = 0; s < segment->shard_count; s++)
		fanout_call_free(&calls[s]);
	return agreed;
}

uint32_t segment_flush(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint64_t boots[MOJETTE_N_MAX])
{
	store_sync_args args = {.file = file_store_file(file, segment)};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	uint32_t flushed = segment_ask(file, segment, shards, STORE_SYNC, &args, 0, results, calls);

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (flushed & (1u << s))
			boots[s] = results[s].boot;
		fanout_call_free(&calls[s]);
	}
	return flushed;
}
