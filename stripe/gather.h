/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Writes of parts of blocks: the block before the change comes from the cache if it is there, and
 * unstable changes are collected in the cache until the block is complete, or COMMIT, lack of room,
 * or a short time sends them.
 *
 * What makes that safe:
 * - A block goes out guarded by the version that the collected bytes lie over. If somebody else
 * wrote the block in between, nobody can tell whose bytes are the newer ones, so the collected ones
 * are dropped and the write verifier changes: clients send again what they have not committed.
 * - It goes out under the write epoch under which it was collected, or not at all.
 * - Reads are answered from the stores; collected bytes are laid over what they say only if that is
 *   the version that the bytes lie over.
 * - A clean block is used as what a write changes, and for nothing else; and only if its version is
 *   decided or our own, so that whatever others decided since is newer, and a conflict; and under
 *   the epoch that it was read or written under, since stores that never had the block do not
 * object when it has been truncated.
 */
#ifndef ROZO_STRIPE_GATHER_H
#define ROZO_STRIPE_GATHER_H

#include "stripe/internal.h"

/* Starts and ends the thread that sends what has been collected for long enough. */
int gather_start(struct stripe *stripe);
void gather_stop(struct stripe *stripe);

/*
 * Changes part of one block: from, length are inside it. number is the block's in the file. The
 * caller holds the block's range exclusively.
 * Returns as block_write_recover().
 */
int gather_write(struct stripe_file *file, const struct segment *segment, uint64_t number,
	uint32_t from, uint32_t length, const uint8_t *bytes, const struct write_mode *mode);

/*
 * Before an unstable write: sends some of what the file has collected if there is no room for more.
 * No range may be held. give_up_us: as of attempts_end().
 */
void gather_make_room(struct stripe_file *file, uint64_t give_up_us);

/*
 * Sends all that was collected before the call, unstably. What cannot be sent is dropped, the
 * verifier changes, and the error is returned. Where only the time (attempts_end()) does not
 * suffice the rest stays: -ETIMEDOUT, the client tries again, and until nothing is left nothing
 * more is collected. The caller holds commit_lock and no range.
 */
int gather_commit(struct stripe_file *file, uint64_t give_up_us);

/*
 * Before the write epoch of the file grows: sends what it can under the old one, in the time of
 * attempts_end(), and drops the rest.
 * The caller holds attach_lock and no range.
 */
void gather_end_epoch(struct stripe_file *file);

/*
 * Forgets blocks that were written as a whole or emptied; the caller holds their range exclusively.
 * superseded: what was collected of them came before, and is not missed.
 */
void gather_forget(struct stripe_file *file, uint64_t first, uint64_t last, bool superseded);

/*
 * Lays what was collected of a block over what was read of it. The caller holds its range.
 */
void gather_overlay(struct stripe_file *file, uint64_t number, struct block *block);

#endif
