/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the files of the stripe engine share.
 *
 * Locks, in the order in which they may be taken:
 *   stripe_file.commit_lock  one commit at a time, so that none returns before its data is safe
 *   stripe_file.attach_lock  placement questions to exportd, truncations begun elsewhere
 *   range lock of the file   (range_lock.h) held while blocks are read or written
 *   stripe_file.tell_lock    telling stores what is decided
 *   stripe.files_lock        the table of files, their reference counts and the idle list
 *   stripe_file.lock         epochs, sizes, counter, segments, runs
 *   stripe.gather_lock       the list of files that have collected something (gather.c)
 *   stripe.cache.lock        the cache (cache.h)
 *   notices.lock             blocks that reads found in need of care
 *   fanout.lock              one set of calls
 * No lock but the first four is held while waiting for a node or exportd.
 */
#ifndef ROZO_STRIPE_INTERNAL_H
#define ROZO_STRIPE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/store.h"
#include "stripe/cache.h"
#include "stripe/latency.h"
#include "stripe/range_lock.h"
#include "stripe/stripe.h"

/* A generation: the write epoch in the top 24 bits, the writer's counter below. */
#define GENERATION_COUNTER_BITS 40
#define GENERATION_COUNTER_MASK ((UINT64_C(1) << GENERATION_COUNTER_BITS) - 1)

/* True if a version is what a truncation made of whole blocks: the first of its write epoch. */
#define VERSION_IS_EMPTINESS(version)                                                              \
	((version).generation && !((version).generation & GENERATION_COUNTER_MASK))

/* Blocks in one round of messages: bounds memory and the size of a message. */
#define ROUND_BYTES_MAX (1u << 20)

struct node {
	uint32_t id;
	struct rpc_client *client; /* NULL: the store is in this process */
	atomic_bool probing; /* a probe of a node that is down is under way */
	struct latency latency;
	_Atomic uint64_t stuck_until_us; /* node_note_stuck(); 0: it is not */
	atomic_uint stuck_times; /* that it was found to be, one after the other */
};

/*
 * Which node holds which shard of one segment. Immutable once in the file's list but for what
 * stripe_file.lock guards: when exportd moves a shard to another node there is a new one of the
 * same number, and the old one stays for what was begun with it.
 */
struct segment {
	struct segment *next;
	uint32_t number;
	uint32_t shard_count;
	struct node *nodes[MOJETTE_N_MAX]; /* NULL: a node that is not in our configuration */
	uint32_t
		rebuilding; /* bit s: what shard s's store has nothing of says nothing, it is new */
	uint32_t switch_epoch; /* the write epoch under which shards moved last; 0: none is being
				  made */
	uint32_t since[MOJETTE_N_MAX]; /* the write epoch since which a shard's node is asked */
	struct origin {
		struct node *node;
		uint32_t shard;
		uint32_t since, until; /* it was asked from this epoch on, to before that one */
	} origins[MOJETTE_N_MAX]; /* nodes that had shards which are being made */
	uint32_t origin_count;
	uint32_t former; /* bit s: shard s's node is one of these (segment_former()), until then: */
	uint32_t until[MOJETTE_N_MAX];
	uint32_t told_epoch; /* the write epoch when exportd first told of it */
	time_t asked; /* exportd, monotonic seconds */
	/* Guarded by stripe_file.lock. */
	uint32_t placed_epoch; /* the write epoch under which it was known to be so */
	bool superseded; /* perhaps not the newest, to be asked anew */
};

/* Blocks that were written with one version. */
struct run {
	struct run *next;
	const struct segment *segment;
	uint64_t first_block; /* in the segment */
	uint32_t count;
	store_version version;
	bool replaced; /* by a newer run, before it was committed */
	bool lost; /* not all of it is there any more, and the verifier has changed for that */
	bool covered; /* somebody else has written there since, on top of it or instead of it */
	unsigned int wanted; /* so many stores are enough to hold it */
	uint32_t written; /* bit s: shard s was accepted */
	uint32_t holders; /* those of them that still count */
	uint32_t untold; /* of a decided run: holders that have not heard so */
	uint64_t boots[MOJETTE_N_MAX]; /* boot of each holder's store when it accepted */
};

struct stripe_file {
	struct stripe *stripe;
	uint32_t export_id;
	uint64_t file_id;

	/* Guarded by stripe.files_lock. */
	struct stripe_file *hash_next;
	struct stripe_file *idle_previous, *idle_next;
	bool in_table;

	/* Falls to 0 only under files_lock; whoever has one may add one without it. */
	atomic_uint references;

	pthread_mutex_t attach_lock;
	pthread_mutex_t commit_lock;
	pthread_mutex_t tell_lock; /* only its holder takes runs out of `decided` */
	atomic_bool attached; /* exportd has answered; set with attach_lock held */
	atomic_bool claimed; /* exportd has given us a write epoch; set with attach_lock held */
	atomic_uint unanswered; /* questions with attach_lock held; attach_begin() */
	struct range_lock ranges; /* of blocks of the file */

	/* Set once by the first attach, constant afterwards. */
	struct mojette_code code;
	uint32_t row_bytes;
	uint32_t block_bytes;
	uint32_t min_shards;
	uint64_t segment_blocks;

	pthread_mutex_t lock;
	/* Guarded by lock. */
	uint32_t layout_epoch;
	uint32_t layout_doubts; /* stripe.layout_doubts when exportd was asked for it */
	uint32_t write_epoch;
	/*
	 * The newest that exportd is known to have made. Newer than write_epoch while a truncation
	 * is carried out. Segments that are not superseded are as exportd knew them under this one
	 * or a later one, so that nothing is written under it to nodes that have been replaced
	 * before it.
	 */
	uint32_t placed_epoch;
	uint32_t write_gateway;
	uint64_t counter; /* of the newest generation made here, or before, if it was freed since */
	uint64_t doubtful; /* up to this generation our own versions may be undecided */
	uint64_t size; /* largest known */
	uint64_t size_reported; /* known to be durable in exportd */
	uint64_t unstable_end; /* end of the furthest unstable write */
	uint64_t committing_end; /* the same of what is being committed */
	uint32_t unstable_epoch; /* oldest write epoch of the unstable writes, 0: none */
	uint64_t unstable_verifier; /* the newest verifier that one of them began under */
	uint32_t met_epoch; /* newest write epoch that a store has told of */
	uint64_t wanted_size; /* of stripe_truncate() under way, else UINT64_MAX; attach_lock */
	struct segment *segments;
	struct run *unstable; /* written, not yet durable, newest first */
	unsigned int unstable_count;
	struct run *decided; /* durable, the stores not yet told */
	unsigned int decided_count;
	bool commit_scheduled; /* in stripe.commit_queue, which holds a reference */
	struct stripe_file *commit_next;

	struct cache_file cached; /* cache.h */
	bool gather_listed; /* guarded by stripe.gather_lock: in its list, which holds a reference
			     */
	struct stripe_file *gather_next;
	atomic_bool gather_failed; /* what was collected could not be sent: collect no more */
	atomic_bool gather_unfinished; /* a COMMIT had no time for all of it: collect no more */
	atomic_bool gather_ending; /* of the epoch: nothing more is collected under it */
	atomic_uint gather_pause; /* partial writes to be sent at once before any is collected */
};

#define NOTICED_MAX 256

struct notices {
	pthread_mutex_t lock;
	size_t count; /* guarded by lock, as the blocks are */
	struct stripe_noticed blocks[NOTICED_MAX];
};

struct stripe {
	struct node *nodes;
	size_t node_count;
	stripe_local_call local_call;
	void *local_store;
	uint32_t local_node;
	unsigned int call_timeout_ms;
	unsigned int tell_delay_ms;
	struct rpc_client *meta;
	uint64_t writer; /* unique to this run of the process */
	_Atomic uint64_t verifier;
	_Atomic uint32_t layout_doubts; /* stripe_doubt_layouts() */

	pthread_mutex_t files_lock;
	struct stripe_file **buckets;
	size_t bucket_count;
	size_t file_count;
	size_t files_max;
	uint64_t counter_floor; /* the highest counter of the files that were freed */
	struct stripe_file *idle_first, *idle_last; /* not referenced, least recently used first */

	pthread_t background;
	pthread_mutex_t background_lock;
	pthread_cond_t background_wake;
	bool stopping; /* guarded by background_lock */
	struct stripe_file *commit_queue; /* guarded by background_lock */

	struct cache cache;
	bool gather; /* collect unstable writes of parts of blocks */
	unsigned int gather_delay_ms;
	pthread_t gather_thread;
	pthread_mutex_t gather_lock;
	pthread_cond_t gather_wake;
	bool gather_stopping; /* guarded by gather_lock */
	struct stripe_file *gather_files; /* guarded by gather_lock */
	struct notices notices;

	_Atomic uint64_t read_bytes, written_bytes, degraded_blocks, damaged_shards, missed_shards,
		healed_shards, conflicts, hedged_reads, cached_bases, collected, collected_lost;
	_Atomic uint64_t calls[STRIPE_PROCEDURES], rounds;
};

/* -------- calls to stores (fanout.c) -------- */

/* A set of calls waited for together. */
struct fanout {
	struct stripe *stripe;
	pthread_mutex_t lock;
	struct rpc_event changed;
	unsigned int busy, succeeded; /* guarded by lock */
	unsigned int wanted; /* guarded by lock: successes that end the wait */
	void (*ended)(void *context); /* guarded by lock: nobody waits any more */
	void *context;
	unsigned int started; /* since the last wait */
	struct fanout_call *local; /* run by fanout_wait() in the caller's thread */
};

/* One call: result is valid if error is 0, until fanout_call_free(). */
struct fanout_call {
	struct fanout *fanout;
	struct fanout_call *local_next;
	struct node *node;
	uint32_t procedure;
	const void *args;
	void *result;
	uint64_t started_us; /* for reads of a remote store */
	unsigned int latency_class;
	bool started;
	bool done; /* guarded by fanout.lock; error and result are valid then */
	int error; /* of the transport */
};

void fanout_init(struct fanout *fanout, struct stripe *stripe);

/* Starts a call. args and result must stay until fanout_wait() has returned. */
void fanout_start(struct fanout *fanout, struct fanout_call *call, struct node *node,
	uint32_t procedure, const void *args, void *result);

/*
 * Returns when all calls are done, at the latest after the engine's call timeout, and ends the
 * fan-out.
 */
void fanout_wait(struct fanout *fanout);

/*
 * Returns when so many calls have succeeded, or all are done, or delay_ms has passed (UINT_MAX:
 * never). More may be started afterwards. Returns true unless it was the time.
 */
bool fanout_wait_for(struct fanout *fanout, unsigned int successes, unsigned int delay_ms);

/* True if a call that was started is done. */
bool fanout_call_is_done(struct fanout_call *call);

/*
 * Ends a fan-out without waiting for what is still under way: ended is called when nothing is, in
 * this thread or in that of the last answer, and may free the fan-out, the calls, and their
 * results.
 */
void fanout_abandon(struct fanout *fanout, void (*ended)(void *context), void *context);

/* 0, an error of the transport, or the negated status of the result. */
int fanout_call_status(const struct fanout_call *call);

/* The size of a procedure's result. */
size_t fanout_result_bytes(uint32_t procedure);

/* Frees what decoding the result allocated. Harmless for a call that was not started or failed. */
void fanout_call_free(struct fanout_call *call);

/* Starts a call whose result nobody waits for; args are encoded before it returns. */
void fanout_send(struct stripe *stripe, struct node *node, uint32_t procedure, const void *args);

/* False if the node is unknown or has just been unreachable: a call would most likely fail. */
bool node_usable(const struct node *node);

/* -------- blocks in need of care (notice.c) -------- */

/* Notes a block of a segment for stripe_noticed(). Does not wait for anything. */
void notice_block(struct stripe_file *file, const struct segment *segment, uint64_t block);

/* -------- files (file.c) -------- */

int file_table_init(struct stripe *stripe);
void file_table_free(struct stripe *stripe);

/* A further reference to a file that the caller has one of. */
void file_reference(struct stripe_file *file);

/* True if nobody gets the file as it is any more: it is gone, or exportd does not know it. */
bool file_is_forgotten(struct stripe_file *file);

store_file file_store_file(const struct stripe_file *file, const struct segment *segment);
store_geometry file_geometry(const struct stripe_file *file);

/* The largest size that the file can have: META_SEGMENTS_MAX segments. */
uint64_t file_bytes_max(const struct stripe_file *file);

/*
 * The nodes of a segment, asked from exportd once.
 * Returns 0; -ENOENT (nothing was ever written there and allocate is false); -ENOSPC; or as
 * stripe_file_refresh().
 */
int file_segment(
	struct stripe_file *file, uint32_t number, bool allocate, const struct segment **segment);

/*
 * The first segment from *number on that exists; *number receives its own. Holes of whole segments
 * cost one call, however large they are.
 * Returns 0; -ENOENT (there is none); or as stripe_file_refresh().
 */
int file_next_segment(struct stripe_file *file, uint32_t *number, const struct segment **segment);

/*
 * Tells exportd that bytes written under write_epoch reach to end, if it does not know yet; to be
 * called before they are acknowledged as durable.
 * Returns 0, -EAGAIN (the file has a newer write epoch, or, if the end is known, a truncation that
 * takes the bytes away waits to be carried out), -ESTALE (the file is gone), or as rpc_call().
 */
int file_report_size(struct stripe_file *file, uint64_t end, uint32_t write_epoch);

/*
 * To be told of each write epoch that a store tells: should exportd not know it, it is told with
 * the next question.
 */
void file_met_epoch(struct stripe_file *file, uint32_t write_epoch);

/*
 * Finds out whether a store's answer, with this write epoch in it, comes from after a change of the
 * file that is not known of the segment: shards may have moved to other nodes, so no conclusions
 * must be drawn from the old ones. What was begun before another thread heard of the change still
 * has the segment of before.
 */
bool segment_is_outdated(
	struct stripe_file *file, const struct segment *segment, uint32_t write_epoch);

/* The newest write epoch that exportd is known to have made; see stripe_file.placed_epoch. */
uint32_t file_placed_epoch(struct stripe_file *file);

/*
 * After an error that may be one because the store of a shard that is being made does not count: it
 * may have been made since exportd was asked. Returns true if exportd is to be asked before the
 * next attempt, false if there is no such shard.
 */
bool file_doubt_rebuilding(struct stripe_file *file);

/*
 * Takes note of the write epoch of a truncation that is going to be carried out: the nodes it is
 * sent to must be those of that epoch. Writers may not use it yet (file_raise_epoch()).
 */
void file_note_truncation(struct stripe_file *file, uint32_t write_epoch);

/* The newest write epoch that this engine may write under. */
uint32_t file_write_epoch(struct stripe_file *file);

/* From now on this engine writes under this epoch, if it is newer than what it knows. */
void file_raise_epoch(struct stripe_file *file, uint32_t write_epoch);

/*
 * Notes a generation that is out there, or that stores were asked to refuse: versions made from now
 * on under the same epoch are newer. Returns true if it is of a newer epoch than the file's.
 */
bool file_met_generation(struct stripe_file *file, uint64_t generation);

/*
 * The next version of this writer under a write epoch (the file's, or that of a truncation which is
 * being carried out), newer than `above`, for a write to the stores of a segment. No version is
 * given twice.
 * Returns 0, or -ESTALE: the file has a newer write epoch by now, or the segment other nodes,
 * perhaps; or file_is_elsewhere(). ending: that exportd has made a newer one is no reason, since
 * the write belongs to the end of this one.
 */
int file_next_version(struct stripe_file *file, const struct segment *segment, uint32_t write_epoch,
	uint64_t above, const uint32_t *layout_epoch, bool ending, store_version *version);

/*
 * True if this engine is a gateway's, and the file had another layout epoch when a client's write
 * came: the client has given up waiting by now, and the write must not come after what another
 * gateway was asked for since. layout_epoch: that epoch; NULL: of no client, never true.
 */
bool file_is_elsewhere(struct stripe_file *file, const uint32_t *layout_epoch);

/*
 * Asks exportd for the file's epochs, size and first nodes. The caller holds attach_lock.
 * Returns as stripe_file_refresh().
 */
int file_attach(struct stripe_file *file);

/*
 * Before the first write since the file was attached: gets a write epoch that no earlier writer
 * has. Returns as stripe_file_refresh().
 */
int file_claim(struct stripe_file *file);

/*
 * One former store of each shard that is being made, in the place of the new one: those that *asked
 * (0 at first) does not name yet. Shards that moved more than once come up again. Returns the
 * shards whose nodes these are, 0: there are no more.
 */
uint32_t segment_next_formers(
	const struct segment *segment, uint32_t *asked, struct segment *former);

/*
 * To be called when former stores have answered, before anything is concluded from it: asks exportd
 * whether their shards are still being made. When they have been, a former store removes what it
 * had, and what it says then would be taken for a proof that there was nothing; nobody is told of
 * the end of a move. Returns 0 (also if no store of the segment is a former one); -ESTALE (not all
 * of them: ask those that are the segment's now); or another error, as rpc_call(): exportd cannot
 * be asked, and that is no reason to try others.
 */
int segment_confirm_former(struct stripe_file *file, const struct segment *former);

/*
 * The same for a segment that is taken for the newest, before it is concluded that there is
 * nothing, or that something is decided or not, from what its stores say or have taken: they may
 * have been told to remove what they had. Returns 0, also if exportd cannot be asked; or -ESTALE.
 */
int segment_confirm(struct stripe_file *file, const struct segment *segment);

/* The newest write epoch that is known here: of the file, or of the last move of its shards. */
uint32_t segment_newest_epoch(struct stripe_file *file, const struct segment *segment);

/*
 * Has the stores of a segment refuse older write epochs from now on, durably, and say so to whoever
 * reads: those of all shards, and of shards that are being made the former ones as well. Returns
 * the shards that nobody can be asked for by an older placement without being told: of those that
 * are being made it is the former stores that count. left_out: shards that are not asked. *stale
 * tells if one knew a newer epoch already.
 */
uint32_t segment_fence(struct stripe_file *file, const struct segment *segment,
	uint32_t write_epoch, uint32_t left_out, bool *stale);

/*
 * Carries a truncation out for a caller that holds attach_lock. Returns as stripe_truncate(), and
 * -EAGAIN if there is a newer write epoch: of a later truncation, or a gateway. exportd tells of
 * it.
 */
int file_truncate(struct stripe_file *file, uint64_t size, uint32_t write_epoch);

/* -------- versions (versions.c) -------- */

int version_compare(store_version left, store_version right);

/*
 * No version was ever decided by fewer stores, whatever min_shards is or was: so that any k stores
 * have one of them, and k of them can give the block back.
 */
unsigned int versions_deciding(const struct stripe_file *file);

/*
 * The number of stores that must answer alike before their answer is that of the block: enough to
 * decode, and enough that no newer version can have been decided without one of them.
 */
unsigned int versions_quorum(const struct stripe_file *file);

/*
 * True if these stores are enough to hold what is written to a segment: `least`. While shards
 * are being made on new nodes, engines that have not heard so still ask the former ones; so many
 * stores of those that they ask must know better that no versions_quorum() of them is without one:
 * holders that are not making their shards, and those of `fenced` (segment_fence()).
 */
bool versions_reach(const struct stripe_file *file, const struct segment *segment,
	unsigned int least, uint32_t holders, uint32_t fenced);

/*
 * The same, after a fence if the holders are not enough with those that one has reached before:
 * *fenced, 0 at first, which receives them. Returns 0; -EIO: they are not; or -ESTALE: a store
 * knows a newer write epoch.
 */
int segment_reach(struct stripe_file *file, const struct segment *segment, unsigned int least,
	uint32_t holders, uint32_t *fenced);

/*
 * What one store said of one block. A store that never had anything of a block has no record of its
 * being emptied, either: for the version of a truncation, EMPTY is as good as that version.
 */
struct block_answer {
	bool answered; /* false: not asked, unreachable, or so DAMAGED that no version is known */
	unsigned int state; /* TORN, DAMAGED: newest is told, but is not to be had */
	store_version newest;
	store_version older;
	uint32_t missed; /* shards recorded as not having got newest */
	uint32_t length_bytes; /* of newest */
	/*
	 * The store took the shard over from another and is being filled. Versions that are newer
	 * than what it has may have been written when the other one was asked still: that it lacks
	 * them says nothing.
	 */
	bool partial;
	bool making; /* the store is one that took the shard over */
	/* The write epochs since which, and until before which, this store is asked; 0: no limit.
	 */
	uint32_t since, until;
	bool aware; /* of the last move of shards: it refuses writers that are not, for good */
	/* Of a former store's: what the one that took over from it said. NULL: it was not asked. */
	const struct block_answer *successor;
};

/* What the store of a shard said of the block of that index in its answer. */
struct block_answer block_answer(const struct segment *segment, unsigned int shard,
	const store_read_res *result, uint32_t index);

/* True if the store can deliver its newest version, if it has one. */
bool block_answer_is_sound(const struct block_answer *answer);

/* True if the store has nothing of the block, apart from a newer version that is not decided. */
bool block_answer_has_nothing(const struct block_answer *answer, store_version version);

enum block_verdict {
	BLOCK_EMPTY, /* never written, or nothing was ever decided */
	BLOCK_VERSION, /* `version` is the block's value */
	/*
	 * The same, but it could still be given up by somebody who cannot ask all of its holders:
	 * to be settled before anybody is told.
	 */
	BLOCK_OPEN,
	BLOCK_IN_DOUBT, /* `version` may have been decided, or not */
	BLOCK_UNKNOWN, /* too few answers: anything may have been decided */
};

struct block_judgement {
	enum block_verdict verdict;
	store_version version;
	store_version undecided; /* a newer one that is known to be undecided; generation 0: none */
	uint64_t largest_generation; /* met anywhere */
	uint32_t lacking; /* of BLOCK_IN_DOUBT: shards whose stores do not have `version` */
	bool one_short; /* of BLOCK_IN_DOUBT: it takes one more such store to tell that it is not
			   decided */
};

/*
 * Puts together what both stores of a shard that moved say of a block, one behind the other. now:
 * of those that took over and the others; then: of the former ones of the segment, and receives all
 * answers, some as successors in now, which must stay as long.
 */
void versions_join(
	const struct segment *former, const struct block_answer *now, struct block_answer *then);

/*
 * What a read returns (docs/protocol.md): the newest version that k stores can deliver, unless a
 * newer one may have been decided.
 */
struct block_judgement versions_judge(
	const struct stripe_file *file, const struct block_answer *answers);

/*
 * True if a version that the stores of `holders`, at least deciding ones, have can be told though
 * nobody is known to know that it is decided: whichever stores are asked, and whoever loses power,
 * it cannot be given up any more.
 */
bool versions_tellable(const struct stripe_file *file, const struct block_answer *answers,
	uint32_t holders, store_version version);

/* More are not tried, and none after this time: with all nodes up it is a matter of milliseconds
 * for each, but of many calls' timeouts where the network loses messages. */
#define FORMER_CHOICES_MAX 16
#define FORMER_CHOICES_MS 10000

/* Which former nodes are asked in the place of new ones. All zeros before the first choice. */
struct former_choice {
	uint32_t possible; /* bit i: origin i of the segment is up */
	uint32_t chosen;
	unsigned int count;
	uint64_t begun_us;
};

/*
 * A segment with former nodes in the place of those that are making their shards: what these cannot
 * tell yet, the former ones may. They do not know what was written since: only what is known to be
 * decided counts. One call after the other gives all of them that are up, then some: of shards that
 * moved one after the other, one may be on its new node and another on its former one only.
 * Returns false if there is no further choice.
 */
bool segment_former(
	const struct segment *segment, struct former_choice *choice, struct segment *former);

/* -------- calls to the stores of a segment (segment.c) -------- */

/*
 * The shards of a segment whose nodes are not worth calling: they did not answer lately, and are
 * asked in the background whether they are back. None, if fewer than `least` would be left.
 */
uint32_t segment_known_down(const struct segment *segment, unsigned int least);

/*
 * Takes note of a call that writes or flushes. A store that does not do that in time though its
 * node answers, as when its disk hangs, is stuck for a while. durable: what it did is on its disk,
 * so if it did it in time it is not stuck.
 */
void node_note_stuck(const struct stripe *stripe, const struct fanout_call *call, bool durable);

/*
 * The shard of a segment whose store is stuck: if each call waited for it, writers would take up
 * all threads of a gateway. None, if another one is stuck as well, or seems to be down, when what
 * is missed would leave too few; or while shards are made, when each store may be needed
 * (segment_reach()); or if it is for the caller to find out whether it is still stuck, by something
 * durable: *tried receives the shard then, else 0. tried: NULL if the caller does not find out.
 */
uint32_t segment_stuck(
	const struct stripe_file *file, const struct segment *segment, uint32_t *tried);

/* Ends that, where too few others did what was asked. False if none of the shards was stuck. */
bool segment_unstick(const struct segment *segment, uint32_t shards);

/* True if the store itself said so: error is a negative errno. */
bool fanout_call_refused(const struct fanout_call *call, int error);

/* True if a call that failed so was not executed, and never will be (rpc.h). */
bool call_not_executed(int error);

/*
 * Calls a procedure of the stores of some shards (bits of `shards`) and waits for all of them.
 * args: the first shard's arguments, those of the others follow at args_bytes from each other; 0:
 * the same for all. results and calls: arrays with one element for each shard of the segment; the
 * calls are to be freed (fanout_call_free()), those of other shards are as if never started.
 * Returns the shards whose stores said yes.
 */
uint32_t segment_ask(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint32_t procedure, const void *args, size_t args_bytes, void *results,
	struct fanout_call *calls);

/* The same with one set of arguments, for a procedure that answers with nothing but its status. */
uint32_t segment_tell(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint32_t procedure, const void *args);

/*
 * Flushes what stores have of a file's segment. Returns the shards whose stores did; boots receives
 * their boots.
 */
uint32_t segment_flush(struct stripe_file *file, const struct segment *segment, uint32_t shards,
	uint64_t boots[MOJETTE_N_MAX]);

/* -------- settling (settle.c) -------- */

/*
 * Finds out which versions of a run of blocks are decided and tells the stores: makes durable and
 * rolls forward what k stores hold, discards what is known to be undecided, or can be made so.
 * *largest_generation receives the largest generation met.
 * Returns 0, -EIO, or -ESTALE (a store knows a newer write epoch, of a truncation or of a move of
 * shards: nothing was done; stripe_file_refresh() asks exportd, and carries a truncation out).
 */
int versions_settle(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, uint64_t *largest_generation);

/*
 * The same, but a store that is stuck is not asked unless it cannot be told without it. *version
 * receives the one that counts in the last block.
 */
int versions_settle_soon(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint64_t *largest_generation, store_version *version);

/* The same without some shards, whose stores do not answer in time: they are not waited for. */
int versions_settle_without(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint32_t silent, uint64_t *largest_generation);

/*
 * The same for what the stores cannot tell while shards are being made: among those that had the
 * shards before. Returns -EIO also if none of them is up.
 */
int versions_settle_former(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, uint64_t *largest_generation);

/*
 * The same for one block that neither those that make their shards, with the others, nor the former
 * ones (segment_former()) in their place can tell alone: both are asked and told. Fewer than k
 * shards may be being made.
 */
int versions_settle_both(struct stripe_file *file, const struct segment *segment,
	const struct segment *former, uint64_t block);

/* -------- blocks (read.c, write_run.c, write.c, commit.c) -------- */

/* One block in memory. bytes has room for block_bytes; what lies beyond length_bytes is zero. */
struct block {
	store_version version; /* generation 0: empty */
	uint32_t length_bytes;
	bool committed; /* a store says that the version is decided */
	uint32_t missed; /* shards that a store has on record as having missed it */
	uint8_t *bytes;
};

/* How a block is read. */
enum {
	/* All stores are asked, not only as many as must agree: some may know of a truncation where
	 * others never had anything. */
	BLOCK_READ_ALL = 1,
	/* What cannot be had now is not waited for: about a second otherwise, in which a writer may
	 * finish or a node return. */
	BLOCK_READ_ONCE = 2,
};

/*
 * Reads one whole block. The caller holds the block's range lock. how: of the above.
 * Returns 0, -EIO, or -ESTALE (a store knows a newer write epoch: exportd must be asked).
 */
int block_read(struct stripe_file *file, const struct segment *segment, uint64_t block_number,
	unsigned int how, struct block *block);

/* The same without some shards, whose stores do not answer in time, if enough others are left;
 * *silent receives those that are waited for in vain. */
int block_read_without(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, unsigned int how, uint32_t *silent, struct block *block);

/*
 * The value of a block that the segment's stores leave unknown while shards are being made: those
 * that had the shards before may know. how: 0 or BLOCK_READ_ONCE.
 * Returns as block_read(); -EIO also if they are not up.
 */
int block_read_former(struct stripe_file *file, const struct segment *segment,
	uint64_t block_number, unsigned int how, struct block *block);

/* True if an unstable write of this engine is about some of these blocks. */
bool unstable_overlaps(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count);

/*
 * To be told what is found in blocks: if it is older than what this engine wrote there unstably, or
 * somebody else's and perhaps not based on that, others have discarded it, since they could not
 * tell what became of it (docs/protocol.md). The write verifier changes then, once, so that clients
 * send it again (RFC 1813 section 3.3.21).
 */
void unstable_met(struct stripe_file *file, const struct segment *segment, uint64_t first_block,
	uint32_t count, store_version version);

/* How a client's bytes are written. */
struct write_mode {
	bool stable;
	uint32_t layout_epoch; /* of the file when they came */
	uint64_t give_up_us; /* attempts_end() */
};

/* What block_write_run() is to write. */
struct write_run {
	const struct segment *segment;
	uint64_t first_block; /* in the segment */
	uint32_t count;
	const uint8_t *bytes; /* count whole blocks, or one of length_bytes; zero-padded up to
				 the codec's rows if shorter than a whole block */
	uint32_t length_bytes; /* of the last block; whole ones before it */
	uint32_t exact_base; /* STORE_BASE_* */
	store_version base; /* count is 1 then */
	uint32_t write_epoch; /* the file's before the base was read: what was read under an older
				 one may have been truncated since */
	bool stable;
	bool fenced; /* nothing can have been decided over the base: stores that could not tell may
			take it, too */
	const uint32_t *layout_epoch; /* file_is_elsewhere() */
	bool ending; /* file_next_version() */
	/* Shards that are left out as if they were down, if enough others are left; receives those
	 * whose stores do not answer in time. NULL: of no interest. */
	uint32_t *silent;
};

/*
 * Writes one run once, with a version of its own, and books it as unstable or decided.
 * Returns 0 (*newest is the version written); -EAGAIN (a conflict: *newest tells the newest version
 * met); -ESTALE (the stores, or this engine, know a newer write epoch); -ENOSPC; -EIO.
 */
int block_write_run(struct stripe_file *file, const struct write_run *run, store_version *newest);

/*
 * How a write on top of a block that was read is to be guarded: whether its version is decided. One
 * that another writer left PENDING is settled first.
 * *exact_base receives the value for the write. Returns 0, -EAGAIN (it is not what counts: it has
 * been dropped, or replaced), or an error of versions_settle().
 */
int block_base(struct stripe_file *file, const struct segment *segment, uint64_t block_number,
	const struct block *block, uint32_t *exact_base);

/*
 * When an operation that begins now makes no further attempt (latency_now_us()): each may cost the
 * time of several calls where the network loses messages. A client can ask again; what serves it
 * here cannot serve others meanwhile.
 */
uint64_t attempts_end(const struct stripe *stripe);

/* -ETIMEDOUT if that time has come, else 0. */
int attempts_over(const struct stripe_file *file, uint64_t give_up_us);

/*
 * Prepares another attempt after block_write_run() failed: settles conflicts. give_up_us: as of
 * attempts_end().
 * Returns 0 to try again, else the error to give up with; -ESTALE if the write epoch must be learnt
 * anew, which cannot be done with the range held; -ETIMEDOUT if it has taken too long.
 */
int block_write_recover(struct stripe_file *file, const struct segment *segment,
	uint64_t first_block, uint32_t count, int error, store_version newest, unsigned int attempt,
	uint64_t give_up_us);

/*
 * Records on the shards in *holders that `missed` did not get a run. Those that cannot be told, or
 * do not have the run any more, drop out of *holders, and the others are told of them as well: in
 * the end each holder knows of all shards that do not count. Those whose stores did not answer, or
 * could not do it, are added to *silent. Returns 0; -EIO if fewer than `least` are left, or -EAGAIN
 * if that is because somebody had the run discarded.
 */
int run_record_missed(struct stripe_file *file, const struct run *run, unsigned int least,
	uint32_t missed, uint32_t *holders, uint32_t *silent);

/* After a failure: some store may hold a version that was never decided. */
void run_doubt(struct stripe_file *file, store_version version);

/* True if a version of our own may be one of those. */
bool run_is_doubtful(const struct stripe_file *file, store_version version);

/*
 * For codes of which k stores may be fewer than decide (k <= m): has the holders of runs note
 * durably that these are decided, since what is left of them with m nodes gone could not tell.
 * Returns 0, or -EIO if too few did for some.
 */
int runs_mark_decided(struct stripe_file *file, struct run *runs);

/* Books a run that reached its holders as unstable or decided. Takes the run over. */
void run_book(struct stripe_file *file, struct run *run, bool decided);

/* Tells the stores which runs of a file are decided, and forgets those that were told. */
void runs_tell_decided(struct stripe_file *file);

/*
 * The same for a queue of files, linked by commit_next, which it takes over; with one call to each
 * store for many of them. Those that somebody else is telling of go back to the queue.
 */
void files_tell_decided(struct stripe *stripe, struct stripe_file *queue);

/* True if unstable runs should be committed before there are more. */
bool runs_are_many(struct stripe_file *file);

/*
 * After the stores refused our write epoch: learns the new one. No range may be held: a truncation
 * may have to be carried out.
 * Returns 0 to try again, -ESTALE if file_is_elsewhere(), or an error of exportd's.
 */
int file_learn_epoch(struct stripe_file *file, const uint32_t *layout_epoch);

/* Frees a list of runs. */
void runs_free(struct run *runs);

/* Lets the background thread tell the stores soon. Call with file->lock held. */
void runs_schedule_commit(struct stripe_file *file);

#endif
