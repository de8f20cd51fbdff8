/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See healer.h. Two kinds of work, which is nowhere remembered but in the stores and in exportd, so
 * that it goes on after a restart from where it was:
 *
 *   Misses: each node that took a write holds the record of who missed it. Of those that are up the
 *   one with the lowest shard does the work. It may not have the record, though: the writer may
 *   have died before it had told everyone. So with each pass that leaves something to do, the next
 *   one in the order of shards helps, too. Should two do it at once, no harm is done, since shards
 *   are written under the version they belong to. A pass first looks how much is missing and how
 *   badly, then works from the most endangered blocks down.
 *
 *   Rebuilding: segments of which exportd has given this node a shard that another had, the most
 *   endangered ones first. What cannot be made stays in exportd's list, so the healer keeps its
 *   place in it, and tries the head again when it has been at the end.
 *
 * The two take turns of PASS_MS, and misses have theirs also in the middle of a long segment: what
 * cannot be done of one holds up nothing of the other. Before misses come truncations that nobody
 * else carries out, and blocks that reads of this process noticed; those are forgotten with it.
 * Takes no locks of its own but work->lock, for a moment.
 */
#include "storaged/healer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/log.h"
#include "rpc/rpc.h"
#include "storaged/clock.h"
#include "storaged/noticed.h"
#include "storaged/periodic.h"
#include "storaged/rate.h"
#include "stripe/die_at_message.h"

#define INTERVAL_MS 1000
/* Blocks with misses, or noticed by reads, looked up at a time. */
#define BATCH 256
/* Blocks healed at a time; the rate is kept between them. */
#define STEP 64
/* A turn: so long for blocks of one endangerment, then for the next, or for rebuilding. */
#define PASS_MS 10000
/* What was all in vain is not tried again before so many times the time it took, or this. */
#define IDLE_FACTOR 10
#define IDLE_MS_MAX 30000
#define META_TIMEOUT_MS 10000
#define RATE_WINDOW_MS 4000
#define LEVELS 32 /* more than a block has shards */

/* Where a turn ended. */
struct place {
	bool set;
	store_file file;
	uint64_t block;
};

struct healer {
	struct periodic periodic;
	struct store *store;
	struct stripe *stripe;
	struct work *work;
	uint32_t node_id;
	struct rate rate;
	/* Only the thread uses the rest. */
	unsigned int waited; /* passes in a row that left something to others */
	struct noticed noticed; /* to be tried again */
	/* For each endangerment: the next turn begins there, so that what is in vain does not hide
	 * the rest. */
	struct place places[LEVELS];
	bool seeking; /* this scan has not met the place yet */
	uint64_t truncations_tried;
	int64_t missed_due_ms, rebuild_due_ms; /* none of it before */
	int64_t begun_ms; /* the turn */
	uint64_t healed, failed, segments; /* of this pass */
	/* The place in the list of what is to be rebuilt. */
	meta_rebuild_item tried; /* the last one; urgency 0: none since the head */
	uint64_t left_before; /* tried since the head in vain, and more urgent than that */
	uint64_t left_beside; /* the same, as urgent */
	uint64_t round_segments; /* made since the head */
	int64_t round_ms; /* when the head was tried */
	/* Of this pass over the misses. */
	bool left_to_others; /* something that could have been healed */
	uint32_t levels; /* bit i: blocks with i shards missing can be healed */
	uint32_t level; /* being worked on */
	meta_missed *missed;
	uint32_t missed_count, missed_room;
	/* Of the last seconds, for the rate that is told. */
	int64_t window_ms;
	uint64_t window_bytes;
};

/* Books what was made and waits until the rate allows for more. */
static void book(struct healer *healer, const struct stripe_heal_result *result)
{
	healer->healed += result->healed;
	healer->failed += result->failed;
	healer->window_bytes += result->healed_bytes;
	pthread_mutex_lock(&healer->work->lock);
	healer->work->told.healed_shards += result->healed;
	healer->work->told.healed_bytes += result->healed_bytes;
	pthread_mutex_unlock(&healer->work->lock);
	rate_pay(&healer->rate, &healer->periodic, result->healed_bytes);
	int64_t passed = clock_now_ms() - healer->window_ms;
	if (passed < RATE_WINDOW_MS)
		return;
	pthread_mutex_lock(&healer->work->lock);
	healer->work->told.heal_rate = healer->window_bytes * 1000 / (uint64_t)passed;
	pthread_mutex_unlock(&healer->work->lock);
	healer->window_ms += passed;
	healer->window_bytes = 0;
}

static bool turn_is_over(const struct healer *healer)
{
	return clock_now_ms() - healer->begun_ms > PASS_MS;
}

static bool may_go_on(struct healer *healer)
{
	return !periodic_stopping(&healer->periodic) && !turn_is_over(healer);
}

/* When to try again what took so long and, unless something was made, was in vain. */
static int64_t due_after(int64_t started_ms, bool made)
{
	int64_t now_ms = clock_now_ms();
	int64_t idle_ms = made ? 0 : (now_ms - started_ms) * IDLE_FACTOR;

	return now_ms + (idle_ms < IDLE_MS_MAX ? idle_ms : IDLE_MS_MAX);
}

/* -------- misses -------- */

/* True if this node is to heal a block that the shards in missed did not get, once that can be
 * done. */
static bool ours(struct healer *healer, uint32_t shard, uint32_t missed, uint32_t up)
{
	uint32_t before = up & ~missed & ((1u << shard) - 1);

	if ((unsigned int)__builtin_popcount(before) <= healer->waited)
		return true;
	healer->left_to_others = true;
	return false;
}

/* How many shards of a block are not to be had. */
static uint32_t endangerment(uint32_t shards, uint32_t missed, uint32_t up)
{
	uint32_t all = (1u << shards) - 1;

	return (uint32_t)__builtin_popcount((missed | ~up) & all);
}

static void count_missed(struct healer *healer, uint32_t node, uint64_t shards, uint64_t bytes)
{
	uint32_t i = 0;

	while (i < healer->missed_count && healer->missed[i].node != node)
		i++;
	if (i == healer->missed_room) {
		uint32_t room = i ? 2 * i : 16;
		meta_missed *more = realloc(healer->missed, room * sizeof(*more));

		if (!more)
			return; /* too little is told, once */
		healer->missed = more;
		healer->missed_room = room;
	}
	if (i == healer->missed_count)
		healer->missed[healer->missed_count++] = (meta_missed){.node = node};
	healer->missed[i].shards += shards;
	healer->missed[i].bytes += bytes;
}

/* Looks what is missing in one file, and how badly. */
static int look_at_file(void *context, const struct store_missed_file *missed)
{
	uint32_t shards = missed->geometry.k + missed->geometry.m;
	struct store_missed_block blocks[BATCH];
	struct healer *healer = context;
	uint64_t counts[LEVELS] = {0};
	struct stripe_file *file;
	uint64_t next = 0;

	if (periodic_stopping(&healer->periodic))
		return -ECANCELED;
	if (stripe_file_get(healer->stripe, missed->file.export_id, missed->file.file_id, &file))
		return 0; /* the file is gone, or exportd is away: the next pass looks again */
	uint32_t up = stripe_shards_up(file, missed->file.segment);
	while (next != UINT64_MAX && !periodic_stopping(&healer->periodic)) {
		size_t count;

		if (store_missed_blocks(
			    healer->store, &missed->file, next, blocks, BATCH, &count, &next))
			break;
		for (size_t i = 0; i < count; i++) {
			uint32_t before = up & ~blocks[i].missed & ((1u << missed->shard) - 1);

			/* Each block is counted by one node only. */
			for (uint32_t s = 0; s < shards && before == 0; s++)
				counts[s] += (blocks[i].missed >> s) & 1;
			if ((blocks[i].missed & up) &&
				ours(healer, missed->shard, blocks[i].missed, up))
				healer->levels |= 1u << endangerment(shards, blocks[i].missed, up);
		}
	}
	for (uint32_t s = 0; s < shards; s++) {
		if (counts[s])
			count_missed(healer, stripe_shard_node(file, missed->file.segment, s),
				counts[s], counts[s] * missed->geometry.row_bytes);
	}
	stripe_file_put(file);
	return 0;
}

/* Heals a run of blocks, some at a time. */
static void heal_run(struct healer *healer, struct stripe_file *file, const store_file *key,
	uint64_t first_block, uint64_t count)
{
	while (count && !periodic_stopping(&healer->periodic)) {
		uint32_t step = count < STEP ? (uint32_t)count : STEP;
		struct stripe_heal_result result;
		int error =
			stripe_heal_range(file, key->segment, first_block, step, false, &result);

		book(healer, &result);
		if (error)
			rozo_log_limited(WARNING,
				"healing file %" PRIu32 "/%" PRIu64 ": %s; will be tried again",
				key->export_id, key->file_id, strerror(-error));
		first_block += step;
		count -= step;
	}
}

static bool same_file(const store_file *a, const store_file *b)
{
	return a->export_id == b->export_id && a->file_id == b->file_id && a->segment == b->segment;
}

static int heal_file(void *context, const struct store_missed_file *missed)
{
	uint32_t shards = missed->geometry.k + missed->geometry.m;
	struct store_missed_block blocks[BATCH];
	struct healer *healer = context;
	struct place *place = &healer->places[healer->level];
	struct stripe_file *file;
	uint64_t next = 0;

	if (periodic_stopping(&healer->periodic))
		return -ECANCELED;
	if (healer->seeking) {
		if (!same_file(&place->file, &missed->file))
			return 0;
		healer->seeking = false;
		next = place->block;
	}
	if (turn_is_over(healer)) {
		*place = (struct place){.set = true, .file = missed->file, .block = next};
		return -EAGAIN;
	}
	if (stripe_file_get(healer->stripe, missed->file.export_id, missed->file.file_id, &file))
		return 0;
	uint32_t up = stripe_shards_up(file, missed->file.segment);
	while (next != UINT64_MAX && may_go_on(healer)) {
		size_t count, run;

		if (store_missed_blocks(
			    healer->store, &missed->file, next, blocks, BATCH, &count, &next))
			break;
		for (size_t i = 0; i < count; i += run) {
			run = 1;
			if (!(blocks[i].missed & up) ||
				!ours(healer, missed->shard, blocks[i].missed, up) ||
				endangerment(shards, blocks[i].missed, up) != healer->level)
				continue;
			while (i + run < count && blocks[i + run].block == blocks[i].block + run &&
				blocks[i + run].missed == blocks[i].missed)
				run++;
			heal_run(healer, file, &missed->file, blocks[i].block, run);
		}
	}
	stripe_file_put(file);
	if (next == UINT64_MAX || !turn_is_over(healer))
		return 0;
	*place = (struct place){.set = true, .file = missed->file, .block = next};
	return -EAGAIN;
}

/* A turn over what is as endangered as healer->level. Returns 0 or a negative errno. */
static int heal_level(struct healer *healer)
{
	struct place *place = &healer->places[healer->level];
	int error = -EAGAIN;

	healer->begun_ms = clock_now_ms();
	healer->seeking = place->set;
	if (place->set)
		error = store_missed_scan(healer->store, heal_file, healer);
	/* The end has come before that of the turn, or the place is not there any more. */
	if (!place->set || (error != -EAGAIN && error != -ECANCELED)) {
		place->set = healer->seeking = false;
		error = store_missed_scan(healer->store, heal_file, healer);
	}
	return error;
}

/* A pass over what nodes have missed. */
static void heal_missed(struct healer *healer)
{
	uint64_t healed = healer->healed, failed = healer->failed;
	int64_t started_ms = clock_now_ms();
	int error = 0;

	healer->levels = 0;
	healer->left_to_others = false;
	healer->missed_count = 0;
	store_missed_scan(healer->store, look_at_file, healer);
	work_set_missed(healer->work, healer->missed, healer->missed_count);
	healer->missed = NULL;
	healer->missed_room = 0;
	for (healer->level = LEVELS - 1; healer->level > 0 && error != -ECANCELED;
		healer->level--) {
		if (!(healer->levels & (1u << healer->level)))
			continue;
		error = heal_level(healer);
	}
	healer->waited = healer->left_to_others ? healer->waited + 1 : 0;
	pthread_mutex_lock(&healer->work->lock);
	healer->work->told.heal_passes++;
	healer->work->told.heal_failures = healer->failed - failed;
	pthread_mutex_unlock(&healer->work->lock);
	healer->missed_due_ms = due_after(started_ms, healer->healed > healed);
}

/* -------- what reads noticed -------- */

/* Settles and repairs one block that a read stumbled over. Returns false to try again later. */
static bool heal_block(struct healer *healer, const struct stripe_noticed *noticed)
{
	struct stripe_heal_result result;
	struct stripe_file *file;
	int error = stripe_file_get(healer->stripe, noticed->export_id, noticed->file_id, &file);

	if (error)
		return error == -ESTALE;
	/* Thoroughly: the store itself may not have met the damage yet. */
	error = stripe_heal_range(file, noticed->segment, noticed->block, 1, true, &result);
	stripe_file_put(file);
	book(healer, &result);
	if (error)
		rozo_log_limited(WARNING,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32 " block %" PRIu64
			": found damaged or undecided, and cannot be repaired now: %s; will be "
			"tried again",
			noticed->export_id, noticed->file_id, noticed->segment, noticed->block,
			strerror(-error));
	else if (result.healed)
		rozo_log_limited(INFO,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32 " block %" PRIu64
			": repaired %" PRIu64 " shards that a read found damaged or missing",
			noticed->export_id, noticed->file_id, noticed->segment, noticed->block,
			result.healed);
	return error == 0 || error == -ESTALE;
}

static void try_noticed(struct healer *healer, const struct stripe_noticed *block)
{
	bool mended = heal_block(healer, block);

	noticed_tried(&healer->noticed, block, mended, clock_now_ms());
}

/* New ones are tried at once, whatever there is that cannot be mended. They are taken one by one:
 * what this turn has no time for waits for the next one. */
static void heal_noticed(struct healer *healer)
{
	struct stripe_noticed again[NOTICED_KEPT_MAX], block;
	size_t again_count = noticed_due(&healer->noticed, clock_now_ms(), again);

	for (unsigned int i = 0; i < BATCH && may_go_on(healer); i++) {
		if (stripe_noticed(healer->stripe, &block, 1) == 0)
			break;
		if (!noticed_is_kept(&healer->noticed, &block))
			try_noticed(healer, &block);
	}
	for (size_t i = 0; i < again_count && may_go_on(healer); i++)
		try_noticed(healer, &again[i]);
}

/* -------- truncations whose beginner died -------- */

static void finish_truncation(struct healer *healer, const meta_file *which)
{
	struct stripe_file *file;
	int error = stripe_file_get(healer->stripe, which->export_id, which->file_id, &file);

	if (!error) {
		/* Who asks exportd for a file carries out what it tells of. */
		error = stripe_file_refresh(file);
		stripe_file_put(file);
	}
	if (!error)
		rozo_log_limited(INFO,
			"file %" PRIu32 "/%" PRIu64
			": carried out a truncation whose beginner had not",
			which->export_id, (uint64_t)which->file_id);
	else if (error != -ESTALE)
		rozo_log_limited(WARNING,
			"file %" PRIu32 "/%" PRIu64
			": a truncation cannot be carried out now: %s; will be tried again",
			which->export_id, (uint64_t)which->file_id, strerror(-error));
}

static void finish_truncations(struct healer *healer)
{
	meta_truncations_args args = {.node = healer->node_id};
	meta_truncations_res list = {0};

	/* What is not done, or not heard of, exportd tells again. */
	if (!atomic_load(&healer->work->truncations_waiting) ||
		rpc_call(stripe_meta(healer->stripe), META_TRUNCATIONS,
			RPC_XDR(xdr_meta_truncations_args), &args,
			RPC_XDR(xdr_meta_truncations_res), &list, META_TIMEOUT_MS))
		return;
	/* Not always from the head: it may take the whole turn each time, and in vain. */
	for (uint32_t i = 0; i < list.files.files_len && may_go_on(healer); i++) {
		uint64_t next = healer->truncations_tried++ % list.files.files_len;

		finish_truncation(healer, &list.files.files_val[next]);
	}
	rpc_free(RPC_XDR(xdr_meta_truncations_res), &list);
}

/* A turn for each kind of work that is not rebuilding. */
static void heal_recorded(struct healer *healer)
{
	healer->begun_ms = clock_now_ms();
	finish_truncations(healer);
	healer->begun_ms = clock_now_ms();
	heal_noticed(healer);
	if (clock_now_ms() >= healer->missed_due_ms)
		heal_missed(healer);
	healer->begun_ms = clock_now_ms();
}

/* -------- rebuilding -------- */

static int say_rebuilt(struct healer *healer, const meta_rebuild_item *item, uint32_t write_epoch)
{
	meta_rebuilt_args args = {
		.node = healer->node_id, .item = *item, .write_epoch = write_epoch};
	meta_status_res result = {0};
	int error =
		rpc_call(stripe_meta(healer->stripe), META_REBUILT, RPC_XDR(xdr_meta_rebuilt_args),
			&args, RPC_XDR(xdr_meta_status_res), &result, META_TIMEOUT_MS);

	return error ? error : -(int)result.status;
}

static void tell_rebuild(struct healer *healer, uint64_t blocks, uint64_t done)
{
	pthread_mutex_lock(&healer->work->lock);
	healer->work->told.rebuild_blocks = blocks;
	healer->work->told.rebuild_blocks_done = done;
	pthread_mutex_unlock(&healer->work->lock);
}

/*
 * Makes this node's shard of all blocks of a segment. What is there already, from before a restart,
 * is only looked at.
 * Returns 0; -EAGAIN (something is missing still: to be tried again); or an error of
 * stripe_rebuild_begin(). *write_epoch receives that of the placement.
 */
static int rebuild_segment(struct healer *healer, struct stripe_file *file,
	const meta_rebuild_item *item, uint32_t *write_epoch)
{
	struct stripe_rebuild rebuild;
	bool lacking = false;
	int error = stripe_rebuild_begin(file, item->segment, &rebuild);

	if (error)
		return error;
	*write_epoch = rebuild.write_epoch;
	for (uint64_t block = 0; block < rebuild.block_count; block += STEP) {
		uint64_t left = rebuild.block_count - block;
		struct stripe_heal_result result;

		if (turn_is_over(healer))
			heal_recorded(healer);
		if (periodic_stopping(&healer->periodic))
			return -EAGAIN;
		error = stripe_heal_range(file, item->segment, block,
			left < STEP ? (uint32_t)left : STEP, false, &result);
		lacking = lacking || error || (result.lacking & (1u << rebuild.shard));
		book(healer, &result);
		tell_rebuild(healer, rebuild.block_count,
			left < STEP ? rebuild.block_count : block + STEP);
		if (error == -ESTALE)
			return error;
	}
	return lacking ? -EAGAIN : 0;
}

/* Keeps the place in the list: this item has been tried. */
static void note_tried(struct healer *healer, const meta_rebuild_item *item, bool left)
{
	if (item->urgency != healer->tried.urgency) {
		healer->left_before += healer->left_beside;
		healer->left_beside = 0;
	}
	healer->left_beside += left;
	healer->tried = *item;
}

/* Goes to the head of the list. */
static void begin_round(struct healer *healer)
{
	healer->tried = (meta_rebuild_item){0};
	healer->left_before = healer->left_beside = 0;
	healer->round_segments = 0;
	healer->round_ms = clock_now_ms();
}

static void rebuild_one(struct healer *healer, const meta_rebuild_item *item)
{
	struct stripe_file *file;
	uint32_t write_epoch = 0;
	int error = stripe_file_get(healer->stripe, item->export_id, item->file_id, &file);

	if (!error) {
		error = rebuild_segment(healer, file, item, &write_epoch);
		stripe_file_put(file);
	}
	tell_rebuild(healer, 0, 0);
	bool made = error == 0;
	/* The file is gone, or the shard is another node's by now: exportd knows, and says so. */
	if (error == 0 || error == -ESTALE || error == -ENOENT)
		error = say_rebuilt(healer, item, made ? write_epoch : 0);
	note_tried(healer, item, error != 0);
	if (!error && made) {
		healer->segments++;
		healer->round_segments++;
		pthread_mutex_lock(&healer->work->lock);
		healer->work->told.rebuilt_segments++;
		pthread_mutex_unlock(&healer->work->lock);
	} else if (error && !periodic_stopping(&healer->periodic)) {
		rozo_log_limited(WARNING,
			"file %" PRIu32 "/%" PRIu64 " segment %" PRIu32
			": the shard of node %" PRIu32
			" cannot be made wholly yet: %s; will be tried again",
			item->export_id, (uint64_t)item->file_id, item->segment, item->origin,
			error == -EAGAIN ? "too few others answer for some blocks"
					 : strerror(-error));
	}
}

/* What is to be made here behind the place. Returns false if exportd does not say. */
static bool rebuild_list(struct healer *healer, meta_rebuild_res *list)
{
	meta_rebuild_args args = {
		.node = healer->node_id, .count = META_FREE_MAX, .after = healer->tried};

	*list = (meta_rebuild_res){0};
	if (rpc_call(stripe_meta(healer->stripe), META_REBUILD_LIST, RPC_XDR(xdr_meta_rebuild_args),
		    &args, RPC_XDR(xdr_meta_rebuild_res), list, META_TIMEOUT_MS))
		return false;
	return list->status == 0;
}

/* A turn for rebuilding. */
static void rebuild(struct healer *healer)
{
	meta_rebuild_res list;
	uint32_t next = 0;

	if (healer->tried.urgency == 0)
		begin_round(healer);
	bool told = rebuild_list(healer, &list);
	if (told && list.before > healer->left_before) {
		/* Something more urgent has come. */
		rpc_free(RPC_XDR(xdr_meta_rebuild_res), &list);
		begin_round(healer);
		told = rebuild_list(healer, &list);
	}
	if (!told)
		return;
	healer->left_before = list.before;
	while (next < list.items.items_len && may_go_on(healer))
		rebuild_one(healer, &list.items.items_val[next++]);
	if (next == list.items.items_len && next < META_FREE_MAX) {
		healer->rebuild_due_ms = due_after(healer->round_ms, healer->round_segments > 0);
		begin_round(healer);
	}
	rpc_free(RPC_XDR(xdr_meta_rebuild_res), &list);
}

/* -------- passes -------- */

static void log_healed(const struct healer *healer)
{
	if (healer->healed)
		rozo_log(INFO, "healed %" PRIu64 " shards that nodes had missed or lost",
			healer->healed);
}

static void heal(void *context)
{
	struct healer *healer = context;
	struct stripe_heal_result nothing = {0};

	die_at_message_exempt();
	healer->healed = healer->failed = healer->segments = 0;
	heal_recorded(healer);
	if (atomic_load(&healer->work->rebuild_waiting) && clock_now_ms() >= healer->rebuild_due_ms)
		rebuild(healer);
	book(healer, &nothing); /* the rate falls */
	log_healed(healer);
	if (healer->segments)
		rozo_log(INFO, "made the shards of %" PRIu64 " segments that were on nodes now out",
			healer->segments);
}

int healer_start(struct healer **result, uint32_t node_id, struct store *store,
	struct stripe *stripe, struct work *work, uint32_t mib_per_second)
{
	struct healer *healer = calloc(1, sizeof(*healer));

	if (!healer)
		return -ENOMEM;
	healer->node_id = node_id;
	healer->store = store;
	healer->stripe = stripe;
	healer->work = work;
	healer->window_ms = clock_now_ms();
	healer_set_rate(healer, mib_per_second);
	int error = periodic_start(&healer->periodic, INTERVAL_MS, heal, healer);
	if (error) {
		free(healer);
		return error;
	}
	*result = healer;
	return 0;
}

void healer_set_rate(struct healer *healer, uint32_t mib_per_second)
{
	atomic_store(&healer->rate.mib_per_second, mib_per_second);
	pthread_mutex_lock(&healer->work->lock);
	healer->work->told.heal_limit = mib_per_second;
	pthread_mutex_unlock(&healer->work->lock);
}

void healer_stop(struct healer *healer)
{
	periodic_stop(&healer->periodic);
	free(healer);
}
