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

/*
 * For how long a store that was too slow is left out, or until one call has found it well: at first
 * a fifth of the time of a call, twice as long each time that it is still so, up to 32 times. So
 * few calls wait for one that hangs, and one that was slow once is soon asked again.
 */
#define STUCK_PARTS 5
#define STUCK_DOUBLINGS 5

/* Since so many calls one after the other have found it to be stuck. */
static uint64_t stuck_us(const struct stripe *stripe, unsigned int times)
{
	uint64_t us = UINT64_C(1000) * stripe->call_timeout_ms / STUCK_PARTS;

	return us << (times < STUCK_DOUBLINGS ? times : STUCK_DOUBLINGS);
}

void node_note_stuck(const struct stripe *stripe, const struct fanout_call *call, bool durable)
{
	struct node *node = call->node;
	uint64_t well = 0;

	if (call->started && call->error == -ETIMEDOUT) {
		atomic_compare_exchange_strong(
			&node->stuck_until_us, &well, latency_now_us() + stuck_us(stripe, 0));
	} else if (durable && fanout_call_status(call) == 0) {
		atomic_store(&node->stuck_times, 0);
		atomic_store(&node->stuck_until_us, 0);
	}
}

/* True if the caller is the one who finds out whether a store is still stuck. */
static bool node_is_tried(const struct stripe *stripe, struct node *node)
{
	uint64_t until_us = atomic_load(&node->stuck_until_us), now_us = latency_now_us();

	if (now_us < until_us)
		return false;
	/* Nobody else until it has. */
	now_us += UINT64_C(1000) * stripe->call_timeout_ms +
		  stuck_us(stripe, atomic_load(&node->stuck_times) + 1);
	if (!atomic_compare_exchange_strong(&node->stuck_until_us, &until_us, now_us))
		return false;
	atomic_fetch_add(&node->stuck_times, 1);
	return true;
}

uint32_t segment_stuck(
	const struct stripe_file *file, const struct segment *segment, uint32_t *tried)
{
	struct node *stuck = NULL;
	uint32_t shard = 0;

	if (tried)
		*tried = 0;
	if (segment->rebuilding || segment_known_down(segment, 0))
		return 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!atomic_load(&segment->nodes[s]->stuck_until_us))
			continue;
		if (stuck)
			return 0; /* more than one disk does not hang, but is busy */
		stuck = segment->nodes[s];
		shard = 1u << s;
	}
	if (!stuck)
		return 0;
	if (!tried || !node_is_tried(file->stripe, stuck))
		return shard;
	*tried = shard;
	return 0;
}

bool segment_unstick(const struct segment *segment, uint32_t shards)
{
	bool any = false;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((shards & (1u << s)) && segment->nodes[s] &&
			atomic_exchange(&segment->nodes[s]->stuck_until_us, 0))
			any = true;
	}
	return any;
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
		node_note_stuck(file->stripe, &calls[s], true);
		fanout_call_free(&calls[s]);
	}
	return flushed;
}
