/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See healer.h. Each node that took a write holds the record of who missed it. Of those that are up
 * the one with the lowest shard does the work. It may not have the record, though: the writer may have
 * died before it had told everyone. So with each pass that leaves something to do, the next one in
 * the order of shards helps, too. Should two do it at once, no harm is done, since shards are written
 * under the version they belong to.
 */
#include "storaged/healer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "storaged/periodic.h"
#include "stripe/die_at_message.h"

#define INTERVAL_MS 1000
/* Blocks with misses, or noticed by reads, looked up at a time. */
#define BATCH 256

struct healer {
	struct periodic periodic;
	struct store *store;
	struct stripe *stripe;
	/* Only the thread uses these. */
	uint64_t healed;             /* in this pass */
	bool left_to_others;         /* in this pass: something that could have been healed */
	unsigned int waited;         /* passes in a row that left something to others */
	struct stripe_noticed noticed[BATCH]; /* to be tried again */
	size_t noticed_count;
};

/* True if this node is to heal a block that the shards in missed did not get. */
static bool ours(struct healer *healer, uint32_t shard, uint32_t missed, uint32_t up)
{
	uint32_t before = up & ~missed & ((1u << shard) - 1);

	if (!(missed & up))
		return false; /* nobody to heal is back yet */
	if ((unsigned int)__builtin_popcount(before) <= healer->waited)
		return true;
	healer->left_to_others = true;
	return false;
}

static int heal_file(void *context, const struct store_missed_file *missed)
{
	struct healer *healer = context;
	struct store_missed_block blocks[BATCH];
	struct stripe_file *file;
	uint64_t next = 0;

	if (periodic_stopping(&healer->periodic))
		return -ECANCELED;
	int error = stripe_file_get(healer->stripe, missed->file.export_id, missed->file.file_id,
		&file);
	if (error)
		return 0; /* the file is gone, or exportd is away: the next pass looks again */
	uint32_t up = stripe_shards_up(file, missed->file.segment);
	while (next != UINT64_MAX && !periodic_stopping(&healer->periodic)) {
		size_t count;

		if (store_missed_blocks(healer->store, &missed->file, next, blocks, BATCH, &count,
			    &next))
			break;
		for (size_t i = 0; i < count;) {
			size_t run = 1;

			if (!ours(healer, missed->shard, blocks[i].missed, up)) {
				i++;
				continue;
			}
			while (i + run < count && blocks[i + run].block == blocks[i].block + run &&
				blocks[i + run].missed == blocks[i].missed)
				run++;
			uint64_t healed = 0;
			error = stripe_heal(file, missed->file.segment, blocks[i].block,
				(uint32_t)run, &healed, NULL);
			healer->healed += healed;
			if (error)
				rozo_log_limited(WARNING,
					"healing file %" PRIu32 "/%" PRIu64 ": %s; will be tried again",
					missed->file.export_id, missed->file.file_id,
					strerror(-error));
			i += run;
		}
	}
	stripe_file_put(file);
	return 0;
}

/* Settles and repairs one block that a read stumbled over. Returns false to try again later. */
static bool heal_block(struct healer *healer, const struct stripe_noticed *noticed)
{
	struct stripe_file *file;
	uint64_t healed = 0;
	int error = stripe_file_get(healer->stripe, noticed->export_id, noticed->file_id, &file);

	if (error)
		return error == -ESTALE;
	error = stripe_heal(file, noticed->segment, noticed->block, 1, &healed, NULL);
	stripe_file_put(file);
	healer->healed += healed;
	if (error)
		rozo_log_limited(WARNING,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32 " block %" PRIu64
			": found damaged or undecided, and cannot be repaired now: %s; will be "
			"tried again",
			noticed->export_id, noticed->file_id, noticed->segment, noticed->block,
			strerror(-error));
	else if (healed)
		rozo_log_limited(INFO,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32 " block %" PRIu64
			": repaired %" PRIu64 " shards that a read found damaged or missing",
			noticed->export_id, noticed->file_id, noticed->segment, noticed->block,
			healed);
	return error == 0 || error == -ESTALE;
}

static void heal_noticed(struct healer *healer)
{
	size_t count = healer->noticed_count, left = 0;

	count += stripe_noticed(healer->stripe, healer->noticed + count, BATCH - count);
	for (size_t i = 0; i < count; i++) {
		if (periodic_stopping(&healer->periodic) ||
			!heal_block(healer, &healer->noticed[i]))
			healer->noticed[left++] = healer->noticed[i];
	}
	healer->noticed_count = left;
}

static void heal(void *context)
{
	struct healer *healer = context;

	die_at_message_exempt();
	healer->healed = 0;
	healer->left_to_others = false;
	heal_noticed(healer);
	store_missed_scan(healer->store, heal_file, healer);
	healer->waited = healer->left_to_others ? healer->waited + 1 : 0;
	if (healer->healed)
		rozo_log(INFO, "healed %" PRIu64 " shards that nodes had missed or lost", healer->healed);
}

int healer_start(struct healer **result, struct store *store, struct stripe *stripe)
{
	struct healer *healer = calloc(1, sizeof(*healer));

	if (!healer)
		return -ENOMEM;
	healer->store = store;
	healer->stripe = stripe;
	int error = periodic_start(&healer->periodic, INTERVAL_MS, heal, healer);
	if (error) {
		free(healer);
		return error;
	}
	*result = healer;
	return 0;
}

void healer_stop(struct healer *healer)
{
	periodic_stop(&healer->periodic);
	free(healer);
}
