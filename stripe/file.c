/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Attached files: the table of those in use or used lately, and what exportd says of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stripe/gather.h"

/* For one call to exportd: one transaction and its flush, on a busy disk. */
#define META_TIMEOUT_MS 10000
/* For a question that can do without an answer, or the first time that it is asked. */
#define CHECK_TIMEOUT_MS 1000
#define CHECK_TIMEOUT_MAX_MS 4000
/* For what others overtake again and again, or stores that are ahead of exportd. */
#define ATTACH_TURNS_MAX 10
/* How often exportd is asked whether a shard that moved has been made. */
#define REBUILDING_ASK_S 10
/* How often otherwise, so that everybody who can reach exportd hears of moves. */
#define PLACEMENT_ASK_S 60

/* Idle files looked at when one more becomes idle. */
#define TRIM_AT_ONCE 8

static int attach(struct stripe_file *file, uint64_t writer, bool if_free);

/* -------- the table -------- */

static struct stripe_file **bucket_of(
	const struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	uint64_t hash = (file_id ^ ((uint64_t)export_id << 40)) * UINT64_C(0x9e3779b97f4a7c15);

	return &stripe->buckets[(hash >> 32) % stripe->bucket_count];
}

int file_table_init(struct stripe *stripe)
{
	stripe->bucket_count = stripe->files_max / 2 + 1;
	stripe->buckets = calloc(stripe->bucket_count, sizeof(*stripe->buckets));
	pthread_mutex_init(&stripe->files_lock, NULL);
	return stripe->buckets ? 0 : -ENOMEM;
}

/* Called with files_lock, or when nobody uses the engine any more. */
static void file_free(struct stripe_file *file)
{
	/* Who comes back to the file may have the same write epoch, and must not count anew. */
	if (file->counter > file->stripe->counter_floor)
		file->stripe->counter_floor = file->counter;
	cache_forget_file(&file->stripe->cache, file);
	while (file->segments) {
		struct segment *next = file->segments->next;
		free(file->segments);
		file->segments = next;
	}
	runs_free(file->unstable);
	runs_free(file->decided);
	range_lock_destroy(&file->ranges);
	pthread_mutex_destroy(&file->attach_lock);
	pthread_mutex_destroy(&file->commit_lock);
	pthread_mutex_destroy(&file->tell_lock);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

void file_table_free(struct stripe *stripe)
{
	for (size_t i = 0; i < stripe->bucket_count; i++) {
		while (stripe->buckets[i]) {
			struct stripe_file *file = stripe->buckets[i];
			stripe->buckets[i] = file->hash_next;
			file_free(file);
		}
	}
	free(stripe->buckets);
	pthread_mutex_destroy(&stripe->files_lock);
}

static void idle_remove(struct stripe *stripe, struct stripe_file *file)
{
	if (stripe->idle_first == file)
		stripe->idle_first = file->idle_next;
	else
		file->idle_previous->idle_next = file->idle_next;
	if (file->idle_next)
		file->idle_next->idle_previous = file->idle_previous;
	else
		stripe->idle_last = file->idle_previous;
	file->idle_previous = file->idle_next = NULL;
}

static void idle_append(struct stripe *stripe, struct stripe_file *file)
{
	file->idle_previous = stripe->idle_last;
	file->idle_next = NULL;
	if (stripe->idle_last)
		stripe->idle_last->idle_next = file;
	else
		stripe->idle_first = file;
	stripe->idle_last = file;
}

/* Takes a file out of the table; it is freed with its last reference. */
static void table_remove(struct stripe *stripe, struct stripe_file *file)
{
	struct stripe_file **link = bucket_of(stripe, file->export_id, file->file_id);

	if (!file->in_table)
		return;
	while (*link != file)
		link = &(*link)->hash_next;
	*link = file->hash_next;
	file->in_table = false;
	stripe->file_count--;
}

/*
 * Makes room by dropping the files unused for longest. Those that owe somebody something have to
 * wait for another turn.
 */
static void table_trim(struct stripe *stripe)
{
	for (unsigned int i = 0; i < TRIM_AT_ONCE && stripe->file_count > stripe->files_max; i++) {
		struct stripe_file *file = stripe->idle_first;

		if (!file)
			return;
		idle_remove(stripe, file);
		/* Nobody else has a reference, so its fields are ours. */
		if (file->unstable || file->decided || file->unstable_end) {
			idle_append(stripe, file);
		} else {
			table_remove(stripe, file);
			file_free(file);
		}
	}
}

static struct stripe_file *file_create(struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	struct stripe_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->stripe = stripe;
	file->counter = stripe->counter_floor;
	file->export_id = export_id;
	file->file_id = file_id;
	file->wanted_size = UINT64_MAX;
	file->unstable_verifier = stripe_write_verifier(stripe);
	pthread_mutex_init(&file->attach_lock, NULL);
	pthread_mutex_init(&file->commit_lock, NULL);
	pthread_mutex_init(&file->tell_lock, NULL);
	pthread_mutex_init(&file->lock, NULL);
	range_lock_init(&file->ranges);
	return file;
}

void file_reference(struct stripe_file *file)
{
	atomic_fetch_add(&file->references, 1);
}

void stripe_file_put(struct stripe_file *file)
{
	struct stripe *stripe = file->stripe;

	pthread_mutex_lock(&stripe->files_lock);
	if (atomic_fetch_sub(&file->references, 1) == 1) {
		if (file->in_table) {
			idle_append(stripe, file);
			table_trim(stripe);
		} else {
			file_free(file);
		}
	}
	pthread_mutex_unlock(&stripe->files_lock);
}

/*
 * Takes attach_lock. Who has waited for somebody whom exportd did not answer in time has waited
 * long enough, and keeps others from being served: -ETIMEDOUT, without the lock, unless `done` has
 * been set meanwhile (NULL: nothing will do), then 0 with it.
 */
static int attach_begin(struct stripe_file *file, const atomic_bool *done)
{
	unsigned int before = atomic_load(&file->unanswered);

	pthread_mutex_lock(&file->attach_lock);
	if (atomic_load(&file->unanswered) == before || (done && atomic_load(done)))
		return 0;
	pthread_mutex_unlock(&file->attach_lock);
	return -ETIMEDOUT;
}

/* will_write: an attachment claims the write epoch, too, if that costs nothing. */
static int get(struct stripe *stripe, uint32_t export_id, uint64_t file_id, bool will_write,
	struct stripe_file **result)
{
	struct stripe_file *file;
	int error = 0;

	pthread_mutex_lock(&stripe->files_lock);
	struct stripe_file **bucket = bucket_of(stripe, export_id, file_id);
	for (file = *bucket; file; file = file->hash_next) {
		if (file->file_id == file_id && file->export_id == export_id)
			break;
	}
	if (!file) {
		file = file_create(stripe, export_id, file_id);
		if (!file) {
			pthread_mutex_unlock(&stripe->files_lock);
			return -ENOMEM;
		}
		file->hash_next = *bucket;
		*bucket = file;
		file->in_table = true;
		stripe->file_count++;
	} else if (atomic_load(&file->references) == 0) {
		idle_remove(stripe, file);
	}
	file_reference(file);
	pthread_mutex_unlock(&stripe->files_lock);

	/* Not behind somebody who carries out a truncation. */
	if (!atomic_load(&file->attached)) {
		error = attach_begin(file, &file->attached);
		if (!error) {
			if (!atomic_load(&file->attached))
				error = attach(file, will_write ? stripe->writer : 0, true);
			pthread_mutex_unlock(&file->attach_lock);
		}
		/* Who reads need not care if a truncation cannot be carried out, and who writes
		 * will hear of it. */
		if (atomic_load(&file->attached))
			error = 0;
	}
	if (error) {
		stripe_file_put(file);
		return error;
	}
	*result = file;
	return 0;
}

int stripe_file_get(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **result)
{
	return get(stripe, export_id, file_id, false, result);
}

int stripe_file_get_to_write(
	struct stripe *stripe, uint32_t export_id, uint64_t file_id, struct stripe_file **result)
{
	return get(stripe, export_id, file_id, true, result);
}

void stripe_file_forget(struct stripe *stripe, uint32_t export_id, uint64_t file_id)
{
	pthread_mutex_lock(&stripe->files_lock);
	struct stripe_file *file = *bucket_of(stripe, export_id, file_id);
	while (file && (file->file_id != file_id || file->export_id != export_id))
		file = file->hash_next;
	if (file) {
		table_remove(stripe, file);
		if (atomic_load(&file->references) == 0) {
			idle_remove(stripe, file);
			file_free(file);
		}
	}
	pthread_mutex_unlock(&stripe->files_lock);
}

bool file_is_forgotten(struct stripe_file *file)
{
	pthread_mutex_lock(&file->stripe->files_lock);
	bool forgotten = !file->in_table;
	pthread_mutex_unlock(&file->stripe->files_lock);
	return forgotten;
}

/* -------- what exportd says -------- */

static struct node *node_by_id(const struct stripe *stripe, uint32_t id)
{
	for (size_t i = 0; i < stripe->node_count; i++) {
		if (stripe->nodes[i].id == id)
			return &stripe->nodes[i];
	}
	rozo_log_limited(WARNING,
		"node %u holds shards but is not in this machine's configuration; add it", id);
	return NULL;
}

static void tell_behind(const struct stripe_file *file, const char *what)
{
	rozo_log_limited(ERROR,
		"file %u/%llu: exportd tells of %s under an older write epoch than is known here "
		"or "
		"on storage nodes, again and again: perhaps others truncate it all the time",
		file->export_id, (unsigned long long)file->file_id, what);
}

/*
 * After exportd has said that there is no such file. Should it know the file again, since an export
 * was put back into its configuration, say, clients have to send again what was not committed: it
 * is forgotten here. So is what others who have a reference are writing: they were told the
 * verifier before, and nobody gets the file as it is any more when that changes.
 */
static void forget_gone(struct stripe_file *file)
{
	/* Not another one of that id: exportd may have known the file again meanwhile. */
	pthread_mutex_lock(&file->stripe->files_lock);
	table_remove(file->stripe, file);
	/* Before what is booked: who books it drops its reference only then. */
	bool in_use = atomic_load(&file->attached) && atomic_load(&file->references) > 1;
	pthread_mutex_unlock(&file->stripe->files_lock);
	pthread_mutex_lock(&file->lock);
	bool owes = file->unstable || file->unstable_end || file->committing_end;
	pthread_mutex_unlock(&file->lock);
	if (owes || in_use || atomic_load(&file->cached.dirty_bytes))
		atomic_fetch_add(&file->stripe->verifier, 1);
}

/* writer: 0, or whoever wants a write epoch of its own; if_free: if that costs nothing. */
static int ask_placement(struct stripe_file *file, uint32_t segment, bool allocate, uint64_t writer,
	bool if_free, unsigned int timeout_ms, meta_placement_res *result)
{
	meta_placement_args args = {
		.file = {.export_id = file->export_id, .file_id = file->file_id},
		.segment = segment,
		.allocate = allocate,
		.writer = writer,
		.if_free = if_free,
	};
	pthread_mutex_lock(&file->lock);
	args.met_epoch = file->met_epoch;
	pthread_mutex_unlock(&file->lock);
	int error = rpc_call(file->stripe->meta, META_PLACEMENT, RPC_XDR(xdr_meta_placement_args),
		&args, RPC_XDR(xdr_meta_placement_res), result, timeout_ms);

	if (error)
		return error;
	if (result->status == 0) {
		struct mojette_code code = {.form = (uint8_t)result->form,
			.k = (uint8_t)result->k,
			.m = (uint8_t)result->m};
		if (mojette_code_check(&code) || result->form > UINT8_MAX ||
			result->k > UINT8_MAX || result->m > UINT8_MAX ||
			result->nodes.nodes_len != result->k + result->m ||
			result->row_bytes == 0 || result->row_bytes % 8 ||
			result->row_bytes > MOJETTE_ROW_BYTES_MAX || result->segment_blocks == 0) {
			rozo_log(ERROR, "exportd gave an impossible placement of file %u/%llu",
				file->export_id, (unsigned long long)file->file_id);
			error = -EPROTO;
		}
	} else {
		error = -(int)result->status;
	}
	if (error) {
		uint32_t next_segment = result->next_segment;

		rpc_free(RPC_XDR(xdr_meta_placement_res), result);
		*result = (meta_placement_res){.next_segment = next_segment};
		if (error == -ESTALE)
			forget_gone(file);
	}
	return error;
}

static time_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/*
 * Makes exportd's answer the file's segment of that number, if it is not already. What was begun
 * with an older one goes on with that. The caller holds file->lock.
 */
static const struct segment *add_segment(
	struct stripe_file *file, uint32_t number, const meta_placement_res *placement)
{
	struct segment *segment = calloc(1, sizeof(*segment));

	if (!segment)
		return NULL;
	segment->number = number;
	segment->shard_count = placement->nodes.nodes_len;
	segment->told_epoch = segment->placed_epoch = placement->write_epoch;
	segment->switch_epoch = placement->switch_epoch;
	segment->rebuilding = placement->rebuilding;
	segment->asked = now_s();
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		segment->nodes[s] = node_by_id(file->stripe, placement->nodes.nodes_val[s]);
		if (s < placement->since.since_len)
			segment->since[s] = placement->since.since_val[s];
	}
	for (unsigned int i = 0; i < placement->origins.origins_len && i < MOJETTE_N_MAX; i++) {
		const meta_origin *origin = &placement->origins.origins_val[i];

		if (origin->shard >= segment->shard_count)
			continue;
		segment->origins[segment->origin_count++] =
			(struct origin){.node = node_by_id(file->stripe, origin->node),
				.shard = origin->shard,
				.since = origin->since,
				.until = origin->until};
	}
	struct segment *same = NULL;
	for (struct segment *old = file->segments; old; old = old->next) {
		if (old->number != number)
			continue;
		old->superseded = true;
		/* While shards are made it may be for the second time. */
		if (old->rebuilding == segment->rebuilding &&
			(!old->rebuilding || old->switch_epoch == segment->switch_epoch) &&
			!memcmp(old->nodes, segment->nodes, sizeof(old->nodes)))
			same = old;
	}
	if (same) {
		free(segment);
		same->superseded = false;
		if (same->placed_epoch < placement->write_epoch)
			same->placed_epoch = placement->write_epoch;
		same->asked = now_s();
		return same;
	}
	segment->next = file->segments;
	file->segments = segment;
	return segment;
}

/*
 * After a change of the write epoch that may be a move of shards: nodes must be asked for anew. The
 * caller holds file->lock.
 */
static void supersede_segments(struct stripe_file *file)
{
	for (struct segment *segment = file->segments; segment; segment = segment->next)
		segment->superseded = true;
}

bool file_doubt_rebuilding(struct stripe_file *file)
{
	bool doubted = false;

	pthread_mutex_lock(&file->lock);
	for (struct segment *segment = file->segments; segment; segment = segment->next) {
		if (segment->rebuilding && !segment->superseded) {
			segment->asked = now_s() - REBUILDING_ASK_S;
			doubted = true;
		}
	}
	pthread_mutex_unlock(&file->lock);
	return doubted;
}

void file_note_truncation(struct stripe_file *file, uint32_t write_epoch)
{
	pthread_mutex_lock(&file->lock);
	if (write_epoch > file->placed_epoch) {
		/* What made the epochs between is not known. */
		if (write_epoch != file->placed_epoch + 1)
			supersede_segments(file);
		for (struct segment *segment = file->segments; segment; segment = segment->next) {
			if (!segment->superseded && segment->placed_epoch < write_epoch)
				segment->placed_epoch = write_epoch;
		}
		file->placed_epoch = write_epoch;
	}
	pthread_mutex_unlock(&file->lock);
}

uint32_t file_placed_epoch(struct stripe_file *file)
{
	pthread_mutex_lock(&file->lock);
	uint32_t write_epoch = file->placed_epoch;
	pthread_mutex_unlock(&file->lock);
	return write_epoch;
}

/* Called with file->lock. */
static void note_met_epoch(struct stripe_file *file, uint32_t write_epoch)
{
	if (write_epoch > file->met_epoch)
		file->met_epoch = write_epoch;
}

void file_met_epoch(struct stripe_file *file, uint32_t write_epoch)
{
	pthread_mutex_lock(&file->lock);
	note_met_epoch(file, write_epoch);
	pthread_mutex_unlock(&file->lock);
}

bool segment_is_outdated(
	struct stripe_file *file, const struct segment *segment, uint32_t write_epoch)
{
	pthread_mutex_lock(&file->lock);
	note_met_epoch(file, write_epoch);
	bool outdated = write_epoch > segment->placed_epoch;
	pthread_mutex_unlock(&file->lock);
	return outdated;
}

/* A truncation that exportd wants carried out. */
struct pending {
	bool truncate;
	uint64_t size;
	uint32_t write_epoch;
};

/*
 * Asks exportd once. Then the file can be read, whatever becomes of the truncation. *claimed tells
 * if exportd has given the writer the epoch.
 */
static int attach_once(struct stripe_file *file, uint64_t writer, bool if_free, bool *claimed,
	struct pending *pending)
{
	uint32_t doubts = atomic_load(&file->stripe->layout_doubts);
	meta_placement_res placement = {0};
	int error = ask_placement(file, 0, true, writer, if_free, META_TIMEOUT_MS, &placement);

	if (error == -ETIMEDOUT)
		atomic_fetch_add(&file->unanswered, 1);
	if (error)
		return error;
	if (!atomic_load(&file->attached)) {
		file->code = (struct mojette_code){.form = (uint8_t)placement.form,
			.k = (uint8_t)placement.k,
			.m = (uint8_t)placement.m};
		file->row_bytes = placement.row_bytes;
		file->block_bytes = placement.row_bytes * placement.k;
		file->min_shards = placement.min_shards;
		file->segment_blocks = placement.segment_blocks;
	}
	/* attach_lock is held: nobody else changes the epoch. */
	if (placement.write_epoch > file->write_epoch)
		gather_end_epoch(file);
	pthread_mutex_lock(&file->lock);
	uint64_t size = placement.attributes.size;
	if (placement.write_epoch > file->placed_epoch) {
		supersede_segments(file);
		file->placed_epoch = placement.write_epoch;
	} else if (size < file->size_reported) {
		/* Under one epoch files only grow: the answer is from before it was reported. */
		size = file->size_reported;
	}
	/* That of a truncation is for writers only once it has been carried out. */
	if (placement.write_epoch > file->write_epoch && !placement.truncate)
		file->write_epoch = placement.write_epoch;
	/* What this engine left in doubt before it dropped the file it does not remember. */
	if (!atomic_load(&file->attached))
		file->doubtful =
			(uint64_t)placement.write_epoch << GENERATION_COUNTER_BITS | file->counter;
	file->layout_epoch = placement.layout_epoch;
	file->layout_doubts = doubts;
	file->write_gateway = placement.write_gateway;
	file->size_reported = size;
	file->size = size;
	if (file->unstable_end > file->size)
		file->size = file->unstable_end;
	if (file->committing_end > file->size)
		file->size = file->committing_end;
	if (!add_segment(file, 0, &placement))
		error = -ENOMEM;
	pthread_mutex_unlock(&file->lock);
	*claimed = placement.claimed;
	*pending = (struct pending){.truncate = placement.truncate,
		.size = placement.truncate_size,
		.write_epoch = placement.write_epoch};
	rpc_free(RPC_XDR(xdr_meta_placement_res), &placement);
	if (!error)
		atomic_store(&file->attached, true);
	return error;
}

/*
 * Asks exportd for the file, and carries out what truncation it tells of. writer: 0, or ours, to
 * claim the write epoch as well; if_free: only if that costs nothing. The caller holds attach_lock.
 */
static int attach(struct stripe_file *file, uint64_t writer, bool if_free)
{
	struct pending pending = {0};
	bool claimed = false;
	int error;

	for (unsigned int turn = 0; turn < ATTACH_TURNS_MAX; turn++) {
		bool now_claimed = false;
		/* Once is enough: two who go on claiming would overtake each other for ever. */
		error = attach_once(file, claimed ? 0 : writer, if_free, &now_claimed, &pending);
		claimed = claimed || (!error && now_claimed);
		if (!error && pending.truncate)
			error = file_truncate(file, pending.size, pending.write_epoch);
		if (!error && writer && claimed)
			atomic_store(&file->claimed, true);
		if (error != -EAGAIN)
			return error;
	}
	tell_behind(file, "a truncation");
	return -EIO;
}

int file_attach(struct stripe_file *file)
{
	return attach(file, 0, false);
}

int file_claim(struct stripe_file *file)
{
	if (atomic_load(&file->claimed))
		return 0;
	int error = attach_begin(file, &file->claimed);
	if (error)
		return error;
	if (!atomic_load(&file->claimed))
		error = attach(file, file->stripe->writer, false);
	pthread_mutex_unlock(&file->attach_lock);
	return error;
}

int stripe_file_claim(struct stripe_file *file, uint32_t *write_epoch)
{
	int error = file_claim(file);

	if (!error)
		*write_epoch = file_write_epoch(file);
	return error;
}

int stripe_file_refresh(struct stripe_file *file)
{
	int error = attach_begin(file, NULL);
	if (error)
		return error;
	error = file_attach(file);
	pthread_mutex_unlock(&file->attach_lock);
	return error;
}

int stripe_file_refresh_to_read(struct stripe_file *file)
{
	struct pending pending;
	bool claimed;

	int error = attach_begin(file, NULL);
	if (error)
		return error;
	error = attach_once(file, 0, false, &claimed, &pending);
	if (!error && pending.truncate)
		file_truncate(file, pending.size, pending.write_epoch);
	pthread_mutex_unlock(&file->attach_lock);
	return error;
}

uint64_t file_bytes_max(const struct stripe_file *file)
{
	return file->segment_blocks * file->block_bytes * META_SEGMENTS_MAX;
}

/* exportd must be asked again: a shard may have been made, which is no new epoch, or moved. */
static bool is_old(const struct segment *segment)
{
	return segment->asked + (segment->rebuilding ? REBUILDING_ASK_S : PLACEMENT_ASK_S) <=
	       now_s();
}

/* file_segment(). With -ENOENT, *next receives the number of the next one that exists. */
static int find_segment(struct stripe_file *file, uint32_t number, bool allocate,
	const struct segment **segment, uint32_t *next)
{
	pthread_mutex_lock(&file->lock);
	struct segment *found = file->segments;
	while (found && (found->number != number || found->superseded))
		found = found->next;
	bool again = found && is_old(found);
	pthread_mutex_unlock(&file->lock);
	*segment = found;
	if (found && !again)
		return 0;
	for (unsigned int turn = 0; turn < ATTACH_TURNS_MAX; turn++) {
		meta_placement_res placement = {0};
		int error = ask_placement(file, number, allocate, 0, false,
			again ? CHECK_TIMEOUT_MS : META_TIMEOUT_MS, &placement);
		pthread_mutex_lock(&file->lock);
		if (error) {
			bool known = again && error != -ESTALE;

			*next = placement.next_segment;
			/* We go on with what we know. The next one need not wait for exportd. */
			if (known)
				found->asked = now_s();
			pthread_mutex_unlock(&file->lock);
			return known ? 0 : error;
		}
		/* Another thread may have heard of newer epochs since exportd answered. */
		bool overtaken = placement.write_epoch < file->placed_epoch;
		if (!overtaken)
			*segment = add_segment(file, number, &placement);
		pthread_mutex_unlock(&file->lock);
		rpc_free(RPC_XDR(xdr_meta_placement_res), &placement);
		if (!overtaken)
			return *segment ? 0 : -ENOMEM;
	}
	tell_behind(file, "segments");
	return -EIO;
}

/* Asks exportd which nodes have a segment now. *now: NULL if the answer was overtaken. */
static int ask_again(
	struct stripe_file *file, const struct segment *segment, const struct segment **now)
{
	meta_placement_res placement = {0};
	int error =
		ask_placement(file, segment->number, false, 0, false, CHECK_TIMEOUT_MS, &placement);

	*now = NULL;
	if (error)
		return error;
	pthread_mutex_lock(&file->lock);
	if (placement.write_epoch >= file->placed_epoch)
		*now = add_segment(file, segment->number, &placement);
	pthread_mutex_unlock(&file->lock);
	rpc_free(RPC_XDR(xdr_meta_placement_res), &placement);
	return 0;
}

int segment_confirm_former(struct stripe_file *file, const struct segment *former)
{
	const struct segment *now;

	if (!former->former)
		return 0;
	int error = ask_again(file, former, &now);
	if (error)
		return error;
	bool same = now && (now->rebuilding & former->former) == former->former &&
		    now->switch_epoch == former->switch_epoch;
	return same ? 0 : -ESTALE;
}

int segment_confirm(struct stripe_file *file, const struct segment *segment)
{
	const struct segment *now;
	int error = ask_again(file, segment, &now);

	if (error)
		return error == -ESTALE ? error : 0;
	return now == segment ? 0 : -ESTALE;
}

int file_segment(
	struct stripe_file *file, uint32_t number, bool allocate, const struct segment **segment)
{
	uint32_t next;

	return find_segment(file, number, allocate, segment, &next);
}

int file_next_segment(struct stripe_file *file, uint32_t *number, const struct segment **segment)
{
	uint32_t next = *number;
	int error = -ENOENT;

	while (error == -ENOENT && next < META_SEGMENTS_MAX) {
		*number = next;
		error = find_segment(file, *number, false, segment, &next);
		if (error == -ENOENT && next <= *number)
			return -EPROTO;
	}
	return error;
}

/*
 * Finds out whether a truncation waits that will take away what was written under an epoch. If
 * there is no exportd to be asked none begins, and what is acknowledged now comes before what
 * clients are told of one that waits. But one that is slow may have told somebody already.
 */
static int check_epoch(struct stripe_file *file, uint32_t write_epoch)
{
	meta_check_epoch_args args = {
		.file = {.export_id = file->export_id, .file_id = file->file_id},
		.write_epoch = write_epoch,
	};
	unsigned int timeout_ms = CHECK_TIMEOUT_MS, waited_ms = 0;
	int error = -ETIMEDOUT;

	/* The connection to one that hangs is given up after some seconds; then it is not there. */
	while ((error == -ETIMEDOUT || error == -ECONNRESET) && waited_ms < META_TIMEOUT_MS) {
		meta_status_res result = {0};

		error = rpc_call(file->stripe->meta, META_CHECK_EPOCH,
			RPC_XDR(xdr_meta_check_epoch_args), &args, RPC_XDR(xdr_meta_status_res),
			&result, timeout_ms);
		if (!error) {
			error = -(int)result.status;
			rpc_free(RPC_XDR(xdr_meta_status_res), &result);
			return error;
		}
		waited_ms += timeout_ms;
		if (timeout_ms < CHECK_TIMEOUT_MAX_MS)
			timeout_ms *= 2;
	}
	return call_not_executed(error) ? 0 : error;
}

int file_report_size(struct stripe_file *file, uint64_t end, uint32_t write_epoch)
{
	meta_written_args args = {
		.file = {.export_id = file->export_id, .file_id = file->file_id},
		.write_epoch = write_epoch,
		.size = end,
	};
	meta_attributes_res result = {0};

	pthread_mutex_lock(&file->lock);
	/* Bytes from before a truncation are gone, however large the file is by now. */
	bool known = end <= file->size_reported && write_epoch >= file->write_epoch;
	pthread_mutex_unlock(&file->lock);
	if (known)
		return check_epoch(file, write_epoch);
	int error = rpc_call(file->stripe->meta, META_WRITTEN, RPC_XDR(xdr_meta_written_args),
		&args, RPC_XDR(xdr_meta_attributes_res), &result, META_TIMEOUT_MS);
	if (error)
		return error;
	if (result.status == 0) {
		pthread_mutex_lock(&file->lock);
		/* Not what exportd said before a truncation that has been heard of since. */
		if (write_epoch >= file->placed_epoch &&
			result.attributes.size > file->size_reported) {
			file->size_reported = result.attributes.size;
			/* An answer of before may have been taken in since it was written. */
			if (file->size < file->size_reported)
				file->size = file->size_reported;
		}
		pthread_mutex_unlock(&file->lock);
	}
	error = -(int)result.status;
	rpc_free(RPC_XDR(xdr_meta_attributes_res), &result);
	return error;
}

/* -------- small questions -------- */

store_file file_store_file(const struct stripe_file *file, const struct segment *segment)
{
	return (store_file){
		.export_id = file->export_id, .segment = segment->number, .file_id = file->file_id};
}

store_geometry file_geometry(const struct stripe_file *file)
{
	return (store_geometry){.form = file->code.form,
		.k = file->code.k,
		.m = file->code.m,
		.row_bytes = file->row_bytes};
}

uint32_t file_write_epoch(struct stripe_file *file)
{
	pthread_mutex_lock(&file->lock);
	uint32_t write_epoch = file->write_epoch;
	pthread_mutex_unlock(&file->lock);
	return write_epoch;
}

uint32_t segment_newest_epoch(struct stripe_file *file, const struct segment *segment)
{
	uint32_t write_epoch = file_write_epoch(file);

	return write_epoch > segment->switch_epoch ? write_epoch : segment->switch_epoch;
}

void file_raise_epoch(struct stripe_file *file, uint32_t write_epoch)
{
	pthread_mutex_lock(&file->lock);
	if (write_epoch > file->write_epoch)
		file->write_epoch = write_epoch;
	pthread_mutex_unlock(&file->lock);
}

/*
 * Sets the counter beyond a generation of that write epoch, or of a newer one: that of a truncation
 * which is being carried out. Called with file->lock.
 */
static void pass_generation(struct stripe_file *file, uint64_t generation, uint32_t write_epoch)
{
	if (generation >> GENERATION_COUNTER_BITS >= write_epoch &&
		(generation & GENERATION_COUNTER_MASK) > file->counter)
		file->counter = generation & GENERATION_COUNTER_MASK;
}

/* Called with file->lock. */
static bool is_elsewhere(const struct stripe_file *file, const uint32_t *layout_epoch)
{
	return file->stripe->local_node && layout_epoch && file->layout_epoch != *layout_epoch;
}

bool file_is_elsewhere(struct stripe_file *file, const uint32_t *layout_epoch)
{
	pthread_mutex_lock(&file->lock);
	bool elsewhere = is_elsewhere(file, layout_epoch);
	pthread_mutex_unlock(&file->lock);
	return elsewhere;
}

int file_next_version(struct stripe_file *file, const struct segment *segment, uint32_t write_epoch,
	uint64_t above, const uint32_t *layout_epoch, bool ending, store_version *version)
{
	int error = 0;

	pthread_mutex_lock(&file->lock);
	/*
	 * A segment that exportd told of under a newer epoch, the file's or, while a truncation is
	 * carried out here, the one that is still written under: the file has been truncated since,
	 * and these stores need not have heard of it. Others would refuse what is written, and some
	 * have it taken, which leaves it in doubt if nodes are down.
	 */
	bool behind = (segment->placed_epoch > file->placed_epoch && !ending) ||
		      segment->told_epoch > write_epoch;
	/*
	 * The stores must not see the new epoch of a file from one who asks the old nodes, nor
	 * those that make a shard a version from before they were asked to: it would be sought at
	 * the store that had the shard then.
	 */
	if (write_epoch < file->write_epoch || write_epoch < segment->switch_epoch ||
		segment->superseded || behind || is_elsewhere(file, layout_epoch)) {
		error = -ESTALE;
	} else {
		pass_generation(file, above, write_epoch);
		*version = (store_version){
			.generation =
				(uint64_t)write_epoch << GENERATION_COUNTER_BITS | ++file->counter,
			.writer = file->stripe->writer,
		};
	}
	pthread_mutex_unlock(&file->lock);
	return error;
}

bool file_met_generation(struct stripe_file *file, uint64_t generation)
{
	pthread_mutex_lock(&file->lock);
	pass_generation(file, generation, file->write_epoch);
	bool behind = generation >> GENERATION_COUNTER_BITS > file->write_epoch;
	pthread_mutex_unlock(&file->lock);
	return behind;
}

void stripe_doubt_layouts(struct stripe *stripe)
{
	atomic_fetch_add(&stripe->layout_doubts, 1);
}

bool stripe_file_layout_doubted(const struct stripe_file *constant)
{
	struct stripe_file *file = (struct stripe_file *)constant;

	pthread_mutex_lock(&file->lock);
	bool doubted = file->layout_doubts != atomic_load(&file->stripe->layout_doubts);
	pthread_mutex_unlock(&file->lock);
	return doubted;
}

uint32_t stripe_file_layout_epoch(const struct stripe_file *constant)
{
	struct stripe_file *file = (struct stripe_file *)constant;

	pthread_mutex_lock(&file->lock);
	uint32_t epoch = file->layout_epoch;
	pthread_mutex_unlock(&file->lock);
	return epoch;
}

uint32_t stripe_file_write_gateway(const struct stripe_file *constant)
{
	struct stripe_file *file = (struct stripe_file *)constant;

	pthread_mutex_lock(&file->lock);
	uint32_t node = file->write_gateway;
	pthread_mutex_unlock(&file->lock);
	return node;
}

uint32_t stripe_shards_up(struct stripe_file *file, uint32_t number)
{
	const struct segment *segment;
	uint32_t up = 0;

	if (file_segment(file, number, false, &segment))
		return 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (node_usable(segment->nodes[s]))
			up |= 1u << s;
	}
	return up;
}

uint32_t stripe_shard_node(struct stripe_file *file, uint32_t number, uint32_t shard)
{
	const struct segment *segment;

	if (file_segment(file, number, false, &segment) || shard >= segment->shard_count)
		return 0;
	return segment->nodes[shard] ? segment->nodes[shard]->id : 0;
}

uint32_t stripe_file_block_bytes(const struct stripe_file *file)
{
	return file->block_bytes;
}

uint64_t stripe_file_size(const struct stripe_file *constant)
{
	struct stripe_file *file = (struct stripe_file *)constant;

	pthread_mutex_lock(&file->lock);
	uint64_t size = file->size;
	pthread_mutex_unlock(&file->lock);
	return size;
}
