/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Writing one run of blocks once: its shards are encoded and sent to the stores, and what these
 * answer decides whether the version counts. Who did not get it is on record with those that did
 * before anybody is told (docs/protocol.md, "A write").
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "stripe/internal.h"

/* The shards of one run on their way to one store. */
struct outgoing {
	store_write_args args;
	store_write_res result;
	struct fanout_call call;
};

/*
 * Encodes the run's blocks into the n outgoing writes. The caller frees what is in them, also
 * after an error.
 */
static int encode_run(
	const struct stripe_file *file, const struct write_run *run, struct outgoing *outgoing)
{
	unsigned int n = run->segment->shard_count;
	uint8_t *cursor[MOJETTE_N_MAX];

	for (unsigned int s = 0; s < n; s++) {
		store_write_args *args = &outgoing[s].args;
		size_t room = mojette_shard_bytes(&file->code, s, file->row_bytes) * run->count;

		args->blocks.blocks_val = calloc(run->count, sizeof(store_write_block));
		args->payload.payload_val = malloc(room);
		if (!args->blocks.blocks_val || !args->payload.payload_val)
			return -ENOMEM;
		args->blocks.blocks_len = run->count;
		cursor[s] = (uint8_t *)args->payload.payload_val;
	}
	for (uint32_t i = 0; i < run->count; i++) {
		uint32_t length = i + 1 < run->count ? file->block_bytes : run->length_bytes;
		size_t row_bytes = 0;

		if (length) {
			const uint8_t *bytes = run->bytes + (size_t)i * file->block_bytes;
			const uint8_t *rows[MOJETTE_K_MAX];

			row_bytes = mojette_row_bytes(&file->code, length, file->row_bytes);
			for (unsigned int r = 0; r < file->code.k; r++)
				rows[r] = bytes + r * row_bytes;
			int error = mojette_encode(&file->code, row_bytes, rows, cursor);
			if (error)
				return error;
		}
		for (unsigned int s = 0; s < n; s++) {
			store_write_block *block = &outgoing[s].args.blocks.blocks_val[i];
			size_t bytes = length ? mojette_shard_bytes(&file->code, s, row_bytes) : 0;

			*block = (store_write_block){
				.base = run->base,
				.length_bytes = length,
				.shard_bytes = (uint32_t)bytes,
				.crc32c = bytes ? rozo_crc32c(cursor[s], bytes) : 0,
			};
			cursor[s] += bytes;
			outgoing[s].args.payload.payload_len += (uint32_t)bytes;
		}
	}
	return 0;
}

/*
 * Tells some holders of a run which shards did not get it. Returns those that could not be told;
 * those of them that do not have it any more are added to *gone.
 */
static uint32_t tell_missed(struct stripe_file *file, const struct run *run, uint32_t missed,
	uint32_t holders, uint32_t *gone)
{
	store_missed_args args = {
		.file = file_store_file(file, run->segment),
		.first_block = run->first_block,
		.count = run->count,
		.block_version = run->version,
		.missed = missed,
	};
	struct fanout_call calls[MOJETTE_N_MAX];
	store_status_res results[MOJETTE_N_MAX];
	uint32_t told =
		segment_ask(file, run->segment, holders, STORE_MISSED, &args, 0, results, calls);

	for (unsigned int s = 0; s < run->segment->shard_count; s++) {
		if (fanout_call_refused(&calls[s], -EAGAIN))
			*gone |= 1u << s;
		fanout_call_free(&calls[s]);
	}
	return holders & ~told;
}

int run_record_missed(struct stripe_file *file, const struct run *run, unsigned int least,
	uint32_t missed, uint32_t *holders, uint32_t *silent)
{
	uint32_t untold = missed, before = *holders, gone = 0;

	atomic_fetch_add(&file->stripe->missed_shards,
		(uint64_t)run->count * (unsigned int)__builtin_popcount(missed));
	/* Ends: each turn but the last has fewer holders than the one before. */
	while (untold && __builtin_popcount(*holders) >= (int)versions_deciding(file)) {
		missed |= untold;
		untold = tell_missed(file, run, missed, *holders, &gone);
		*holders &= ~untold;
	}
	*silent |= before & ~*holders & ~gone;
	if ((unsigned int)__builtin_popcount(*holders) >= least)
		return 0;
	return gone ? -EAGAIN : -EIO;
}

static bool overlaps(const struct run *run, const struct write_run *write)
{
	return run->segment->number == write->segment->number &&
	       run->first_block < write->first_block + write->count &&
	       write->first_block < run->first_block + run->count;
}

/*
 * What the stores' boots were when they accepted the newest of our unstable versions of some
 * blocks, or the one that is the write's base; 0 where there is none.
 */
static void unstable_boots(
	struct stripe_file *file, const struct write_run *write, uint64_t boots[MOJETTE_N_MAX])
{
	memset(boots, 0, MOJETTE_N_MAX * sizeof(boots[0]));
	pthread_mutex_lock(&file->lock);
	for (const struct run *run = file->unstable; run; run = run->next) {
		if (!overlaps(run, write) ||
			(write->exact_base == STORE_BASE_UNDECIDED &&
				version_compare(run->version, write->base) != 0))
			continue;
		for (unsigned int s = 0; s < write->segment->shard_count; s++) {
			if (boots[s] == 0)
				boots[s] = run->boots[s];
		}
	}
	pthread_mutex_unlock(&file->lock);
}

/* True if none of a run's stores has restarted since, as far as `boots` tells. */
static bool same_boots(const struct run *run, const uint64_t boots[MOJETTE_N_MAX])
{
	for (unsigned int s = 0; s < run->segment->shard_count; s++) {
		if (run->boots[s] && run->boots[s] != boots[s])
			return false;
	}
	return true;
}

/*
 * Lists the runs of a list that overlap some blocks, for a write to them: a store replaces or
 * commits what is PENDING there only if it is told which. Of too many the newest are listed, which
 * come first; what is left out is a conflict, and then settled. boots: only runs accepted under
 * these; NULL: all.
 * Returns NULL if memory is short. The caller frees the list.
 */
static store_decided *overlapping(struct stripe_file *file, struct run *const *runs,
	const struct write_run *write, const uint64_t *boots, unsigned int *count)
{
	unsigned int room = 8;
	store_decided *list = malloc(room * sizeof(*list));

	*count = 0;
	if (!list)
		return NULL;
	pthread_mutex_lock(&file->lock);
	for (const struct run *run = *runs; run && *count < STORE_COMMITS_MAX; run = run->next) {
		if (!overlaps(run, write) || (boots && !same_boots(run, boots)))
			continue;
		if (*count == room) {
			room *= 2;
			store_decided *more = realloc(list, room * sizeof(*list));
			if (!more) {
				free(list);
				list = NULL;
				break;
			}
			list = more;
		}
		list[(*count)++] = (store_decided){.first_block = run->first_block,
			.count = run->count,
			.block_version = run->version};
	}
	pthread_mutex_unlock(&file->lock);
	return list;
}

bool run_is_doubtful(const struct stripe_file *constant, store_version version)
{
	struct stripe_file *file = (struct stripe_file *)constant;

	pthread_mutex_lock(&file->lock);
	bool doubtful = version.generation <= file->doubtful;
	pthread_mutex_unlock(&file->lock);
	return doubtful;
}

void run_doubt(struct stripe_file *file, store_version version)
{
	pthread_mutex_lock(&file->lock);
	if (version.generation > file->doubtful)
		file->doubtful = version.generation;
	pthread_mutex_unlock(&file->lock);
}

void run_book(struct stripe_file *file, struct run *run, bool decided)
{
	pthread_mutex_lock(&file->lock);
	if (decided) {
		run->next = file->decided;
		file->decided = run;
		runs_schedule_commit(file);
	} else {
		run->next = file->unstable;
		file->unstable = run;
		file->unstable_count++;
	}
	pthread_mutex_unlock(&file->lock);
}

/* The shards whose stores have accepted a write that failed, or may have, or may yet. */
static uint32_t possible_holders(const struct segment *segment, const struct outgoing *outgoing)
{
	uint32_t possible = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		const struct fanout_call *call = &outgoing[s].call;
		int status = fanout_call_status(call);

		/* EIO of a store may come after it wrote. */
		if (status == 0 ||
			(call->started && call->error && !call_not_executed(call->error)) ||
			(call->started && !call->error && status == -EIO))
			possible |= 1u << s;
	}
	return possible;
}

/*
 * After a write failed: where it was accepted, it has taken the place of our unstable versions of
 * the same blocks, which were acknowledged. Their next commit must know.
 */
static void unstable_replaced(
	struct stripe_file *file, const struct write_run *write, uint32_t shards)
{
	pthread_mutex_lock(&file->lock);
	for (struct run *run = file->unstable; run; run = run->next) {
		if (overlaps(run, write))
			run->holders &= ~shards;
	}
	pthread_mutex_unlock(&file->lock);
}

bool unstable_overlaps(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count)
{
	const struct write_run blocks = {
		.segment = segment, .first_block = first_block, .count = count};
	const struct run *run;

	pthread_mutex_lock(&file->lock);
	for (run = file->unstable; run && !overlaps(run, &blocks); run = run->next)
		;
	pthread_mutex_unlock(&file->lock);
	return run != NULL;
}

/*
 * True if what is found in a block shows that it does not have what we wrote there unstably. It is
 * older; or somebody else's newer one, and one of our own writes that failed has taken a holder
 * away: with one less that nobody has on record others may have dropped ours, and not have built on
 * it.
 */
static bool is_gone(const struct stripe_file *file, const struct run *run, store_version version)
{
	if (version_compare(run->version, version) > 0)
		return true;
	return version.writer != file->stripe->writer && (run->written & ~run->holders) != 0;
}

void unstable_met(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, store_version version)
{
	const struct write_run blocks = {
		.segment = segment, .first_block = first_block, .count = count};
	bool lost = false;

	pthread_mutex_lock(&file->lock);
	for (struct run *run = file->unstable; run; run = run->next) {
		if (!overlaps(run, &blocks))
			continue;
		if (!run->lost && is_gone(file, run, version))
			lost = run->lost = true;
		run->covered = run->covered || version.writer != file->stripe->writer;
	}
	pthread_mutex_unlock(&file->lock);
	if (lost)
		atomic_fetch_add(&file->stripe->verifier, 1);
}

/*
 * Takes back a version that fewer than deciding stores can have accepted: nobody can have rolled it
 * forward, or been told. Otherwise the block could not be read while too few nodes are up to tell.
 */
static void take_back(struct stripe_file *file, const struct write_run *write,
	const struct outgoing *outgoing, uint32_t possible, store_version version)
{
	const struct segment *segment = write->segment;
	store_decided run = {
		.first_block = write->first_block, .count = write->count, .block_version = version};
	store_commit_args discard = {.file = file_store_file(file, segment),
		.discard = 1,
		.runs = {.runs_len = 1, .runs_val = &run}};
	store_sync_args sync = {.file = discard.file};
	uint32_t accepted = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (fanout_call_status(&outgoing[s].call) == 0)
			accepted |= 1u << s;
	}
	if (!accepted || __builtin_popcount(possible) >= (int)versions_deciding(file))
		return;
	/* Where that does not arrive the version is found not to be decided. */
	segment_tell(file, segment, accepted, STORE_COMMIT, &discard);
	/* For good, so that a loss of power does not bring it back. */
	segment_tell(file, segment, accepted, STORE_SYNC, &sync);
}

/*
 * Shards that could not tell a lost update. A store that is making its shard has heard of nothing
 * from before it was asked to; so it takes what is based on that for right, whatever came after.
 */
static uint32_t blind_shards(const struct write_run *write)
{
	const struct segment *segment = write->segment;
	uint32_t base_epoch = (uint32_t)(write->base.generation >> GENERATION_COUNTER_BITS);
	uint32_t blind = 0;

	if (write->exact_base == STORE_BASE_ANY || write->fenced)
		return 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if ((segment->rebuilding & (1u << s)) && base_epoch < segment->since[s])
			blind |= 1u << s;
	}
	return blind;
}

/*
 * How many stores must take a write: min_shards, but no more than there are without the blind ones.
 * Those get it from the healer; if they had to be waited for, what makes their shards might have to
 * wait for the write.
 */
static unsigned int stores_wanted(const struct stripe_file *file, const struct write_run *write)
{
	unsigned int seeing =
		write->segment->shard_count - (unsigned int)__builtin_popcount(blind_shards(write));
	unsigned int deciding = versions_deciding(file);

	if (seeing >= file->min_shards)
		return file->min_shards;
	return seeing > deciding ? seeing : deciding;
}

/*
 * Reckons what the answers of a fan-out mean.
 * *holders and *missed receive the shards that took the write and those that did not; *fenced as
 * segment_reach().
 */
static int judge_answers(struct stripe_file *file, const struct write_run *write,
	const struct outgoing *outgoing, uint32_t *holders, uint32_t *missed, uint32_t *fenced,
	store_version *newest)
{
	const struct segment *segment = write->segment;
	bool conflict = false, stale = false, full = false, forgotten = false;
	unsigned int reached = segment->shard_count;

	*holders = 0;
	*missed = 0;
	for (unsigned int s = 0; s < segment->shard_count; s++) {
		const struct outgoing *out = &outgoing[s];
		int status = fanout_call_status(&out->call);

		if (status == 0) {
			*holders |= 1u << s;
			continue;
		}
		*missed |= 1u << s;
		if (!out->call.started || out->call.error) {
			reached--;
			continue;
		}
		/*
		 * Without the base, which is our own, or with it from before a restart: this store
		 * missed it. Where min_shards others have it and promised nobody to keep it,
		 * nobody can have settled it.
		 */
		if (status == -EAGAIN && write->exact_base == STORE_BASE_UNDECIDED &&
			version_compare(out->result.newest, write->base) <= 0)
			forgotten = true;
		else
			conflict |= status == -EAGAIN;
		stale |= status == -ESTALE;
		file_met_epoch(file, out->result.write_epoch);
		full |= status == -ENOSPC;
		if (version_compare(out->result.newest, *newest) > 0)
			*newest = out->result.newest;
		if (status != -EAGAIN && status != -ESTALE)
			rozo_log_limited(ERROR,
				"node %u refused shards of file %u/%llu segment %u: %s",
				segment->nodes[s]->id, file->export_id,
				(unsigned long long)file->file_id, segment->number,
				strerror(-status));
	}
	if (stale)
		return -ESTALE;
	/* Where too few can be reached it is no use to try again. */
	if (conflict && reached >= stores_wanted(file, write))
		return -EAGAIN;
	int error = segment_reach(file, segment, stores_wanted(file, write), *holders, fenced);
	if (error == -EIO)
		return forgotten ? -EAGAIN : full ? -ENOSPC : -EIO;
	return error;
}

/*
 * True if some stores that took a write had nothing of the segment, while others had: they may be
 * former ones, which have removed what they had and take anything. What the others hear of such a
 * write must not be that it is decided.
 */
static bool former_may_have_taken(
	const struct segment *segment, const struct outgoing *outgoing, uint32_t holders)
{
	bool nothing = false, something = false;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (!(holders & ~segment->rebuilding & (1u << s)))
			continue;
		nothing = nothing || outgoing[s].result.write_epoch == 0;
		something = something || outgoing[s].result.write_epoch != 0;
	}
	return nothing && something;
}

/* tried: the shard whose store this write is to find out about (segment_stuck()). */
static void note_stuck(struct stripe_file *file, const struct segment *segment,
	const struct outgoing *outgoing, uint32_t tried)
{
	uint64_t boots[MOJETTE_N_MAX];

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		const struct outgoing *out = &outgoing[s];

		node_note_stuck(file->stripe, &out->call, out->args.stable);
		if ((tried & (1u << s)) && !out->args.stable && fanout_call_status(&out->call) == 0)
			segment_flush(file, segment, tried, boots);
	}
}

/*
 * The shards that a write is not sent to: those that seem to be down, are silent or stuck, unless
 * that leaves too few, and the blind ones.
 */
static uint32_t shards_left_out(
	const struct stripe_file *file, const struct write_run *write, uint32_t *tried)
{
	const struct segment *segment = write->segment;
	unsigned int wanted = stores_wanted(file, write);
	uint32_t blind = blind_shards(write);
	uint32_t down = segment_known_down(segment, wanted) | blind;
	uint32_t silent = write->silent ? *write->silent : 0;
	const uint32_t choices[] = {
		down | silent | segment_stuck(file, segment, tried), down | silent, down};

	for (unsigned int i = 0; i < sizeof(choices) / sizeof(choices[0]); i++) {
		if (segment->shard_count - (unsigned int)__builtin_popcount(choices[i]) >= wanted)
			return choices[i];
	}
	return blind;
}

/* The shards whose stores have not answered in time. */
static uint32_t silent_shards(const struct segment *segment, const struct outgoing *outgoing)
{
	uint32_t silent = 0;

	for (unsigned int s = 0; s < segment->shard_count; s++) {
		if (outgoing[s].call.started && outgoing[s].call.error == -ETIMEDOUT)
			silent |= 1u << s;
	}
	return silent;
}

int block_write_run(struct stripe_file *file, const struct write_run *write, store_version *newest)
{
	const struct segment *segment = write->segment;
	unsigned int n = segment->shard_count;
	unsigned int decided_count, undecided_count;
	struct fanout fanout;
	uint32_t left_out = 0, tried, silent = 0, fenced = 0, holders, missed;
	int error = -ENOMEM;

	*newest = (store_version){0};
	struct outgoing *outgoing = calloc(n, sizeof(*outgoing));
	struct run *run = calloc(1, sizeof(*run));
	uint64_t boots[MOJETTE_N_MAX];
	unstable_boots(file, write, boots);
	store_decided *decided = overlapping(file, &file->decided, write, NULL, &decided_count);
	store_decided *undecided =
		overlapping(file, &file->unstable, write, boots, &undecided_count);
	if (!outgoing || !run || !decided || !undecided)
		goto out;
	error = encode_run(file, write, outgoing);
	if (error)
		goto out;

	if (write->exact_base != STORE_BASE_ANY)
		unstable_met(file, segment, write->first_block, write->count, write->base);
	store_version version;
	error = file_next_version(file, segment, write->write_epoch, write->base.generation,
		write->layout_epoch, write->ending, &version);
	if (error)
		goto out;
	left_out = shards_left_out(file, write, &tried);
	fanout_init(&fanout, file->stripe);
	for (unsigned int s = 0; s < n; s++) {
		store_write_args *args = &outgoing[s].args;

		args->file = file_store_file(file, segment);
		args->geometry = file_geometry(file);
		args->shard = s;
		args->write_epoch = write->write_epoch;
		args->block_version = version;
		args->exact_base = write->exact_base;
		args->stable = write->stable;
		args->missed = left_out;
		args->commits.commits_len = decided_count;
		args->commits.commits_val = decided;
		args->undecided.undecided_len = undecided_count;
		args->undecided.undecided_val = undecided;
		args->undecided_boot = boots[s];
		args->first_block = write->first_block;
		if (!(left_out & (1u << s)))
			fanout_start(&fanout, &outgoing[s].call, segment->nodes[s], STORE_WRITE,
				args, &outgoing[s].result);
	}
	fanout_wait(&fanout);
	if (write->silent)
		*write->silent |= silent_shards(segment, outgoing);
	note_stuck(file, segment, outgoing, tried);
	error = judge_answers(file, write, outgoing, &holders, &missed, &fenced, newest);
	if (error == -EIO && segment_unstick(segment, left_out))
		error = -EAGAIN;
	if (!error && former_may_have_taken(segment, outgoing, holders))
		error = segment_confirm(file, segment);
	if (error) {
		uint32_t possible = possible_holders(segment, outgoing);
		run_doubt(file, version);
		unstable_replaced(file, write, possible);
		take_back(file, write, outgoing, possible, version);
		goto out;
	}
	*run = (struct run){
		.segment = segment,
		.first_block = write->first_block,
		.count = write->count,
		.version = version,
		.wanted = stores_wanted(file, write),
		.written = holders,
		.holders = holders,
	};
	for (unsigned int s = 0; s < n; s++) {
		if (holders & (1u << s))
			run->boots[s] = outgoing[s].result.boot;
	}
	atomic_fetch_add(&file->stripe->missed_shards,
		(uint64_t)write->count * (unsigned int)__builtin_popcount(left_out));
	if (missed & ~left_out) {
		error = run_record_missed(
			file, run, run->wanted, missed & ~left_out, &run->holders, &silent);
		if (!error)
			error = segment_reach(file, segment, run->wanted, run->holders, &fenced);
		if (error) {
			run_doubt(file, version);
			unstable_replaced(file, write, run->written);
			goto out;
		}
	}
	run->untold = run->holders;
	error = write->stable ? runs_mark_decided(file, run) : 0;
	if (error) {
		run_doubt(file, version);
		unstable_replaced(file, write, run->written);
		goto out;
	}
	run_book(file, run, write->stable);
	run = NULL;
	*newest = version;
out:
	for (unsigned int s = 0; outgoing && s < n; s++) {
		fanout_call_free(&outgoing[s].call);
		free(outgoing[s].args.blocks.blocks_val);
		free(outgoing[s].args.payload.payload_val);
	}
	free(outgoing);
	free(run);
	free(decided);
	free(undecided);
	return error;
}
