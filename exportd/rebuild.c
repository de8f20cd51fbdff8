/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See rebuild.h. Placements are looked at in short read transactions, and moved some at a time in
 * the group commit, where everything is looked at again, the states of the nodes, too: a pass takes
 * long, and a shard must not leave a node that has come back meanwhile.
 *
 * rebuild.mutex guards the thread's end. What the last pass found lies in exportd->rebuilt.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exportd/clock.h"
#include "exportd/file.h"
#include "exportd/free_queue.h"
#include "exportd/inode.h"
#include "exportd/placement.h"
#include "exportd/rebuild.h"
#include "rpc/log.h"

#define SCAN_AT_ONCE 4096 /* placements looked at in one read transaction */
#define MOVE_AT_ONCE 32 /* segments moved in one transaction */
#define LOOK_MS 200 /* how often the thread looks whether a pass is due */
#define PASS_MS (60 * 1000) /* while a node is out: new files may have been placed on it */
#define RETRY_MS (5 * 1000) /* after a pass that could not do all */

/* -------- nodes -------- */

struct nodes {
	struct file_nodes all;
	bool strangers_out;
	bool any_out;
};

static int nodes_get(struct exportd *exportd, bool strangers, struct nodes *nodes)
{
	int error = file_nodes_get(exportd, &nodes->all);

	if (error != 0)
		return error;
	nodes->strangers_out = strangers && map_strangers_are_out(exportd->map);
	nodes->any_out = nodes->strangers_out;
	for (size_t i = 0; i < nodes->all.count; i++)
		nodes->any_out = nodes->any_out || nodes->all.nodes[i].out;
	return 0;
}

/* Whether other nodes are out now than before. */
static bool outs_differ(const struct nodes *before, const struct nodes *now)
{
	for (size_t i = 0; i < now->all.count; i++)
		if (now->all.nodes[i].out != before->all.nodes[i].out)
			return true;
	return now->strangers_out != before->strangers_out;
}

static int compare_id(const void *id, const void *node)
{
	uint32_t wanted = *(const uint32_t *)id;
	uint32_t found = ((const struct map_node *)node)->id;

	return wanted < found ? -1 : wanted > found;
}

static const struct map_node *nodes_find(const struct nodes *nodes, uint32_t id)
{
	return bsearch(
		&id, nodes->all.nodes, nodes->all.count, sizeof(*nodes->all.nodes), compare_id);
}

static bool is_out(const struct nodes *nodes, uint32_t id)
{
	const struct map_node *node = nodes_find(nodes, id);

	return node != NULL ? node->out : nodes->strangers_out;
}

static bool is_up(const struct nodes *nodes, uint32_t id)
{
	const struct map_node *node = nodes_find(nodes, id);

	return node != NULL && node->state == MAP_NODE_UP;
}

static bool is_full(const struct map_node *node)
{
	return node->state == MAP_NODE_UP && node->capacity_known && node->free_bytes == 0;
}

/*
 * Whether a shard is to move: its node is out, or is to make it and has no room for that, which
 * would keep it missing for as long as nobody removes something there.
 */
static bool is_to_move(
	const struct nodes *nodes, const struct record_placement *placement, uint32_t s)
{
	const struct map_node *node = nodes_find(nodes, placement->nodes[s]);

	return is_out(nodes, placement->nodes[s]) ||
	       ((placement->rebuilding & (1u << s)) && node != NULL && is_full(node));
}

/* How many of a segment's shards are not complete on a node that is up. */
static uint32_t count_missing(const struct nodes *nodes, const struct record_placement *placement)
{
	uint32_t missing = 0;

	for (uint32_t s = 0; s < placement->count; s++)
		missing += (placement->rebuilding & (1u << s)) != 0 ||
			   !is_up(nodes, placement->nodes[s]);
	return missing;
}

static bool any_to_move(const struct nodes *nodes, const struct record_placement *placement)
{
	for (uint32_t s = 0; s < placement->count; s++)
		if (is_to_move(nodes, placement, s))
			return true;
	return false;
}

/* -------- moving -------- */

struct candidate {
	uint32_t export_id;
	uint32_t segment;
	uint64_t file_id;
};

struct move_call {
	struct exportd *exportd;
	bool strangers; /* as in rebuild_pass() */
	struct nodes nodes; /* as they are in this transaction */
	const struct candidate *candidates;
	uint32_t count;
	struct rebuild_pass pass; /* of this transaction */
};

/* Notes that a node that is no longer in a placement is to remove its copy. */
static int retire(struct kv_txn *txn, const struct candidate *candidate, uint32_t node,
	struct record_placement *placement)
{
	placement->formers[placement->former_count++] = node;
	return free_queue_add_node(
		txn, candidate->export_id, candidate->file_id, candidate->segment, node);
}

/*
 * Finds a node for shard s, which is to leave its own, and puts it into the placement, from a write
 * epoch on. Returns 0, 1 (there is none: nothing was changed) or an error of the store.
 */
static int move_shard(struct kv_txn *txn, const struct nodes *nodes,
	const struct candidate *candidate, uint32_t s, uint32_t write_epoch,
	struct record_placement *placement)
{
	uint32_t kept[RECORD_SHARDS_MAX], barred[2 * RECORD_SHARDS_MAX + RECORD_FORMERS_MAX];
	uint32_t kept_count = 0, barred_count = 0, old = placement->nodes[s], chosen;
	int error;

	for (uint32_t i = 0; i < placement->count; i++) {
		if (!is_to_move(nodes, placement, i))
			kept[kept_count++] = placement->nodes[i];
		barred[barred_count++] = placement->nodes[i];
	}
	for (uint32_t i = 0; i < placement->origin_count; i++)
		barred[barred_count++] = placement->origins[i].node;
	/* What these are told to remove must not be what they are to keep. */
	for (uint32_t i = 0; i < placement->former_count; i++)
		barred[barred_count++] = placement->formers[i];
	if (placement->origin_count == RECORD_SHARDS_MAX)
		return 1;
	error = placement_replace(nodes->all.nodes, nodes->all.count, candidate->export_id,
		candidate->file_id, candidate->segment, kept, kept_count, barred, barred_count,
		&chosen);
	if (error != 0)
		return 1;
	/* What it was sent may be needed, also if it had only begun to make the shard. */
	placement->origins[placement->origin_count++] = (struct record_origin){
		.node = old, .shard = s, .since = placement->since[s], .until = write_epoch};
	if (placement->rebuilding & (1u << s)) {
		struct record_rebuild entry = {.node = old,
			.urgency = (uint8_t)placement->urgency,
			.export_id = candidate->export_id,
			.file_id = candidate->file_id,
			.segment = candidate->segment};

		error = record_rebuild_remove(txn, &entry);
		if (error == -ENOENT)
			error = 0;
	}
	placement->rebuilding |= 1u << s;
	placement->nodes[s] = chosen;
	placement->since[s] = write_epoch;
	return error;
}

/* Enters what is to be made into the lists of the nodes, with its urgency as it is now. */
static int enter(struct kv_txn *txn, const struct nodes *nodes, const struct candidate *candidate,
	struct record_placement *placement)
{
	struct record_rebuild entry = {.export_id = candidate->export_id,
		.file_id = candidate->file_id,
		.segment = candidate->segment};
	uint32_t urgency = count_missing(nodes, placement);
	int error = 0;

	for (uint32_t s = 0; s < placement->count && error == 0; s++) {
		if (!(placement->rebuilding & (1u << s)))
			continue;
		entry.node = placement->nodes[s];
		entry.urgency = (uint8_t)placement->urgency;
		error = record_rebuild_remove(txn, &entry);
		if (error == -ENOENT)
			error = 0;
		entry.urgency = (uint8_t)urgency;
		if (error == 0)
			error = record_rebuild_put(
				txn, &entry, record_placement_origin(placement, s));
	}
	placement->urgency = urgency;
	return error;
}

/* Moves what can be moved of one segment. Returns 0 or an error of the store. */
static int move_segment(
	struct move_call *call, struct kv_txn *txn, const struct candidate *candidate)
{
	const struct exportd_export *export = exportd_export(call->exportd, candidate->export_id);
	struct record_placement placement;
	struct record_inode inode;
	uint32_t complete, moved = 0;
	int error;

	error = record_placement_get(
		txn, candidate->export_id, candidate->file_id, candidate->segment, &placement);
	if (error == 0)
		error = inode_load(txn, candidate->export_id, candidate->file_id, &inode);
	if (error == -ENOENT || error == -ESTALE || export == NULL)
		return 0; /* removed meanwhile, or not served */
	if (error != 0) {
		call->pass.failed++; /* damaged, and named in the log */
		return 0;
	}
	if (!any_to_move(&call->nodes, &placement))
		return 0;
	complete = placement.count - count_missing(&call->nodes, &placement);
	if (complete < export->config->code.k) {
		call->pass.in_danger++;
		return 0;
	}
	/* Before anything is put, so that a failure leaves nothing half done. */
	if (inode_next_write_epoch(candidate->export_id, candidate->file_id, &inode,
		    RECORD_WRITE_EPOCH_MAX) != 0) {
		call->pass.failed++;
		return 0;
	}
	for (uint32_t s = 0; s < placement.count; s++) {
		if (!is_to_move(&call->nodes, &placement, s))
			continue;
		error = move_shard(txn, &call->nodes, candidate, s, inode.write_epoch, &placement);
		if (error == 1)
			call->pass.without_replacement++;
		else if (error != 0)
			return error;
		else
			moved++;
	}
	if (moved == 0)
		return 0;
	placement.switch_epoch = inode.write_epoch;
	error = enter(txn, &call->nodes, candidate, &placement);
	if (error == 0)
		error = record_placement_put(txn, candidate->export_id, candidate->file_id,
			candidate->segment, &placement);
	if (error == 0)
		error = record_inode_put(txn, candidate->export_id, candidate->file_id, &inode);
	call->pass.moved += moved;
	return error;
}

static int move_operation(struct kv_txn *txn, void *context)
{
	struct move_call *call = context;
	int error;

	call->pass = (struct rebuild_pass){0};
	error = nodes_get(call->exportd, call->strangers, &call->nodes);
	for (uint32_t i = 0; i < call->count && error == 0; i++)
		error = move_segment(call, txn, &call->candidates[i]);
	file_nodes_free(&call->nodes.all);
	return error;
}

/* -------- a pass -------- */

struct scan {
	bool strangers; /* as in rebuild_pass() */
	const struct nodes *before; /* when the pass began */
	struct nodes nodes; /* when this transaction began */
	uint32_t wanted; /* only segments with so many shards missing, 0: all */
	uint32_t looked; /* at, in this transaction */
	struct record_key next; /* where to go on */
	bool ended;
	uint32_t levels; /* bit i: a segment with i shards missing was met */
	uint32_t count;
	struct candidate candidates[MOVE_AT_ONCE];
};

static int scan_placement(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct scan *scan = context;
	struct record_placement placement;
	uint32_t missing;

	/* The next key in order: one more 0 byte. */
	memcpy(scan->next.bytes, key.data, key.bytes);
	scan->next.bytes[key.bytes] = 0;
	scan->next.length = key.bytes + 1;
	if (record_placement_decode(key, value, &placement) == 0 &&
		any_to_move(&scan->nodes, &placement)) {
		missing = count_missing(&scan->nodes, &placement);
		scan->levels |= 1u << missing;
		if (missing == scan->wanted)
			scan->candidates[scan->count++] = (struct candidate){
				.export_id = record_key_u32(key, RECORD_PREFIX_KIND),
				.file_id = record_key_u64(key, RECORD_PREFIX_EXPORT),
				.segment = record_key_u32(key, RECORD_PREFIX_FILE),
			};
	}
	return scan->count == MOVE_AT_ONCE || ++scan->looked == SCAN_AT_ONCE ? 1 : 0;
}

static int scan_operation(struct kv_txn *txn, void *context)
{
	struct scan *scan = context;
	int result;

	scan->looked = 0;
	scan->count = 0;
	result = kv_scan(
		txn, record_key_bytes(&scan->next), RECORD_PREFIX_KIND, scan_placement, scan);
	scan->ended = result == 0;
	return result > 0 ? 0 : result;
}

/*
 * Goes through all placements, moves those with `wanted` shards missing (0: none, only looks). Ends
 * when other nodes are out than before, since others may be the most endangered segments then.
 */
static int scan_all(struct exportd *exportd, const _Atomic bool *stop, struct scan *scan,
	struct rebuild_pass *pass)
{
	int error = 0;

	scan->next = record_key_placement(0, 0, 0);
	do {
		struct move_call call = {.exportd = exportd,
			.strangers = scan->strangers,
			.candidates = scan->candidates};

		error = nodes_get(exportd, scan->strangers, &scan->nodes);
		pass->cut_short = error == 0 && outs_differ(scan->before, &scan->nodes);
		if (error == 0 && !pass->cut_short)
			error = exportd_read(exportd, scan_operation, scan);
		file_nodes_free(&scan->nodes.all);
		if (pass->cut_short)
			break;
		call.count = scan->count;
		if (error == 0 && scan->count > 0)
			error = commit_execute(exportd->commit, move_operation, &call);
		if (error == 0) {
			pass->moved += call.pass.moved;
			pass->without_replacement += call.pass.without_replacement;
			pass->in_danger += call.pass.in_danger;
			pass->failed += call.pass.failed;
		}
	} while (error == 0 && !scan->ended && (stop == NULL || !atomic_load(stop)));
	return error;
}

int rebuild_pass(struct exportd *exportd, bool strangers, const _Atomic bool *stop,
	struct rebuild_pass *pass)
{
	struct nodes nodes = {0};
	struct scan scan = {.strangers = strangers, .before = &nodes};
	int error;

	*pass = (struct rebuild_pass){0};
	error = nodes_get(exportd, strangers, &nodes);
	bool any = nodes.any_out;
	for (size_t i = 0; i < nodes.all.count && error == 0 && !any; i++)
		any = is_full(&nodes.all.nodes[i]) &&
		      rebuild_waiting(exportd, nodes.all.nodes[i].id) != 0;
	if (error == 0 && any)
		error = scan_all(exportd, stop, &scan, pass);
	/* Most endangered first. */
	uint32_t levels = scan.levels;
	for (uint32_t level = RECORD_SHARDS_MAX; level > 0 && error == 0 && !pass->cut_short;
		level--) {
		if (!(levels & (1u << level)))
			continue;
		scan.wanted = level;
		error = scan_all(exportd, stop, &scan, pass);
	}
	file_nodes_free(&nodes.all);
	return error;
}

/* -------- the thread -------- */

struct rebuild {
	struct exportd *exportd;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	_Atomic bool stopping;
};

static void log_pass(const struct rebuild_pass *pass, const struct rebuild_pass *last)
{
	if (pass->moved > 0)
		rozo_log(INFO,
			"%" PRIu64 " shards of nodes that are out, or too full to make them, move "
			"to other nodes",
			pass->moved);
	if (pass->without_replacement > 0 && last->without_replacement == 0)
		rozo_log(WARNING,
			"%" PRIu64
			" shards of nodes that are out or full stay missing: no other node is up, "
			"has room and has none of the same segment; add nodes, or bring those back",
			pass->without_replacement);
	if (pass->in_danger > 0 && last->in_danger == 0)
		rozo_log(ERROR,
			"%" PRIu64 " segments cannot be read: too few of their nodes are up; bring "
			"those back that are down or out",
			pass->in_danger);
}

static uint64_t now_ms(void)
{
	return clock_now_ns(CLOCK_KIND_MONOTONIC) / 1000000;
}

static void wait_ms(struct rebuild *rebuild, unsigned int ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&rebuild->mutex);
	if (!atomic_load(&rebuild->stopping))
		pthread_cond_timedwait(&rebuild->wake, &rebuild->mutex, &until);
	pthread_mutex_unlock(&rebuild->mutex);
}

static void *run(void *argument)
{
	struct rebuild *rebuild = argument;
	struct exportd *exportd = rebuild->exportd;
	struct rebuild_pass last = {0};
	uint64_t due_ms = 0;
	uint32_t seen = 0;
	bool strangers_done = false;

	while (!atomic_load(&rebuild->stopping)) {
		uint32_t version = map_version(exportd->map);
		bool strangers = !strangers_done && map_strangers_are_out(exportd->map);

		if (version != seen || now_ms() >= due_ms) {
			struct rebuild_pass pass;
			int error = rebuild_pass(exportd, strangers, &rebuild->stopping, &pass);

			if (error != 0)
				rozo_log_limited(ERROR,
					"moving shards of nodes that are out: %s; will be tried "
					"again",
					strerror(-error));
			bool through = error == 0 && !pass.cut_short;
			/* Otherwise it does not know all that it should tell. */
			bool whole = through && pass.failed == 0;
			log_pass(&pass, &last);
			last = pass;
			strangers_done = strangers_done ||
					 (strangers && whole && pass.without_replacement == 0 &&
						 pass.in_danger == 0);
			seen = version;
			/* What is damaged will be so in a while, too. */
			due_ms = now_ms() + (through ? PASS_MS : RETRY_MS);
			atomic_fetch_add(&exportd->rebuilt.moved, pass.moved);
			if (whole) {
				atomic_store(&exportd->rebuilt.without_replacement,
					pass.without_replacement);
				atomic_store(&exportd->rebuilt.in_danger, pass.in_danger);
				atomic_store(&exportd->rebuilt.version, version);
			}
		}
		wait_ms(rebuild, LOOK_MS);
	}
	return NULL;
}

int rebuild_start(struct exportd *exportd, struct rebuild **result)
{
	struct rebuild *rebuild = calloc(1, sizeof(*rebuild));
	pthread_condattr_t monotonic;
	int error;

	if (rebuild == NULL)
		return -ENOMEM;
	rebuild->exportd = exportd;
	pthread_mutex_init(&rebuild->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC); /* which nobody sets back */
	pthread_cond_init(&rebuild->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	error = -pthread_create(&rebuild->thread, NULL, run, rebuild);
	if (error != 0) {
		pthread_cond_destroy(&rebuild->wake);
		pthread_mutex_destroy(&rebuild->mutex);
		free(rebuild);
		return error;
	}
	*result = rebuild;
	return 0;
}

void rebuild_stop(struct rebuild *rebuild)
{
	pthread_mutex_lock(&rebuild->mutex);
	atomic_store(&rebuild->stopping, true);
	pthread_cond_signal(&rebuild->wake);
	pthread_mutex_unlock(&rebuild->mutex);
	pthread_join(rebuild->thread, NULL);
	pthread_cond_destroy(&rebuild->wake);
	pthread_mutex_destroy(&rebuild->mutex);
	free(rebuild);
}

/* -------- the nodes' lists -------- */

struct list_call {
	uint32_t node;
	meta_rebuild_item after; /* urgency 0: from the head */
	uint64_t before; /* items more urgent than it */
	uint32_t wanted;
	uint32_t count;
	struct meta_rebuild_item *items; /* NULL: only count */
};

static int list_item(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct list_call *call = context;
	struct record_rebuild entry;
	uint32_t origin;

	if (record_rebuild_decode(key, value, &entry, &origin) != 0)
		return 0; /* named in the log; the others are not held up */
	if (call->items != NULL)
		call->items[call->count] = (struct meta_rebuild_item){
			.export_id = entry.export_id,
			.file_id = entry.file_id,
			.segment = entry.segment,
			.urgency = entry.urgency,
			.origin = origin,
		};
	call->count++;
	return call->count == call->wanted ? 1 : 0;
}

static int count_before(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct list_call *call = context;
	struct record_rebuild entry;
	uint32_t origin;

	if (record_key_rebuild_urgency(key) <= call->after.urgency)
		return 1;
	/* What is damaged is not listed, and so not counted by who has been there. */
	call->before += record_rebuild_decode(key, value, &entry, &origin) == 0;
	return 0;
}

static int list_operation(struct kv_txn *txn, void *context)
{
	struct list_call *call = context;
	struct record_rebuild after = {.node = call->node,
		.urgency = (uint8_t)call->after.urgency,
		.export_id = call->after.export_id,
		.file_id = call->after.file_id,
		.segment = call->after.segment};
	struct record_key head = record_key_rebuild(
		&(struct record_rebuild){.node = call->node, .urgency = UINT8_MAX});
	struct record_key first = head;
	int result = 0;

	if (after.urgency != 0) {
		/* The next key in order: one more 0 byte. */
		first = record_key_rebuild(&after);
		first.bytes[first.length++] = 0;
		result = kv_scan(
			txn, record_key_bytes(&head), RECORD_PREFIX_NODE, count_before, call);
	}
	if (result < 0)
		return result;
	result = kv_scan(txn, record_key_bytes(&first), RECORD_PREFIX_NODE, list_item, call);
	return result > 0 ? 0 : result;
}

int rebuild_waiting(struct exportd *exportd, uint32_t node)
{
	struct list_call call = {.node = node, .wanted = 1};
	int result = exportd_read(exportd, list_operation, &call);

	return result != 0 ? result : (int)call.count;
}

void rebuild_list(struct exportd *exportd, const struct meta_rebuild_args *args,
	struct meta_rebuild_res *result)
{
	struct list_call call = {.node = args->node, .after = args->after, .wanted = args->count};
	int error;

	if (call.wanted == 0 || call.wanted > META_FREE_MAX)
		call.wanted = META_FREE_MAX;
	call.items = calloc(call.wanted, sizeof(*call.items));
	if (call.items == NULL) {
		result->status = ENOMEM;
		return;
	}
	error = exportd_read(exportd, list_operation, &call);
	result->status = (uint32_t)-error;
	result->before = call.before;
	if (error != 0 || call.count == 0) {
		free(call.items);
		return;
	}
	result->items.items_len = call.count;
	result->items.items_val = call.items;
}

/*
 * Who has not heard of a move that is over may write to former nodes, which have removed what they
 * had, with all that they knew, and take anything. It must not be acknowledged.
 */
static int invalidate_before(
	struct kv_txn *txn, const struct candidate *candidate, uint32_t write_epoch)
{
	struct record_inode inode;
	int error = inode_load(txn, candidate->export_id, candidate->file_id, &inode);

	if (error == -ENOENT || error == -ESTALE)
		return 0; /* removed meanwhile */
	if (error != 0 || inode.valid_epoch >= write_epoch)
		return error;
	inode.valid_epoch = write_epoch;
	return record_inode_put(txn, candidate->export_id, candidate->file_id, &inode);
}

static int done_operation(struct kv_txn *txn, void *context)
{
	const struct meta_rebuilt_args *args = context;
	const struct candidate candidate = {.export_id = args->item.export_id,
		.file_id = args->item.file_id,
		.segment = args->item.segment};
	struct record_rebuild entry = {.node = args->node,
		.urgency = (uint8_t)args->item.urgency,
		.export_id = args->item.export_id,
		.file_id = args->item.file_id,
		.segment = args->item.segment};
	struct record_placement placement;
	uint32_t s = 0, left = 0;
	int error;

	error = record_placement_get(
		txn, candidate.export_id, candidate.file_id, candidate.segment, &placement);
	if (error != 0 && error != -ENOENT)
		return error;
	if (error == 0)
		while (s < placement.count &&
			(placement.nodes[s] != args->node || !(placement.rebuilding & (1u << s))))
			s++;
	if (error == -ENOENT || s == placement.count) {
		error = record_rebuild_remove(txn, &entry);
		return error == -ENOENT ? 0 : error;
	}
	/* Made by what was then the placement: another shard may have moved since. */
	if (args->write_epoch < placement.switch_epoch)
		return -EAGAIN;
	entry.urgency = (uint8_t)placement.urgency;
	error = record_rebuild_remove(txn, &entry);
	if (error != 0 && error != -ENOENT)
		return error;
	error = invalidate_before(txn, &candidate, placement.since[s]);
	if (error != 0)
		return error;
	placement.since[s] = 0;
	placement.rebuilding &= ~(1u << s);
	if (placement.rebuilding == 0) {
		placement.urgency = 0;
		placement.switch_epoch = 0;
	}
	for (uint32_t i = 0; i < placement.origin_count; i++) {
		const struct record_origin *origin = &placement.origins[i];

		if (origin->shard != s) {
			placement.origins[left++] = *origin;
			continue;
		}
		if (placement.former_count == RECORD_FORMERS_MAX)
			return -EAGAIN; /* until one of them has removed its copy */
		error = retire(txn, &candidate, origin->node, &placement);
		if (error != 0)
			return error;
	}
	memset(&placement.origins[left], 0,
		(placement.origin_count - left) * sizeof(*placement.origins));
	placement.origin_count = left;
	return record_placement_put(
		txn, candidate.export_id, candidate.file_id, candidate.segment, &placement);
}

void rebuild_done(struct exportd *exportd, const struct meta_rebuilt_args *args,
	struct meta_status_res *result)
{
	int error = commit_execute(exportd->commit, done_operation, (void *)args);

	result->status = (uint32_t)-error;
}

/* -------- status -------- */

static int count_entry(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)key;
	(void)value;
	++*(uint64_t *)context;
	return 0;
}

static int cluster_operation(struct kv_txn *txn, void *context)
{
	struct meta_cluster_res *result = context;
	int error = 0;

	for (uint32_t i = 0; i < result->nodes.nodes_len && error == 0; i++) {
		struct meta_node_status *node = &result->nodes.nodes_val[i];
		struct record_key rebuild = record_key_rebuild(
			&(struct record_rebuild){.node = node->id, .urgency = UINT8_MAX});
		struct record_key free_item = record_key_free_node(node->id, 0);

		error = kv_scan(txn, record_key_bytes(&rebuild), RECORD_PREFIX_NODE, count_entry,
			&node->rebuild_waiting);
		if (error == 0)
			error = kv_scan(txn, record_key_bytes(&free_item), RECORD_PREFIX_NODE,
				count_entry, &node->free_waiting);
	}
	return error;
}

void rebuild_cluster(struct exportd *exportd, struct meta_cluster_res *result)
{
	/* Before the version is read: a pass of this version was made before the answer. */
	uint32_t version = atomic_load(&exportd->rebuilt.version);
	int error = map_cluster(exportd->map, result);

	if (error == 0)
		error = exportd_read(exportd, cluster_operation, result);
	result->rebuild_scanned = version == result->map_version;
	result->segments_moved = atomic_load(&exportd->rebuilt.moved);
	result->segments_without_replacement = atomic_load(&exportd->rebuilt.without_replacement);
	result->segments_in_danger = atomic_load(&exportd->rebuilt.in_danger);
	result->status = (uint32_t)-error;
}
