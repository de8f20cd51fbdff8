/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Replies that are kept until their slot is used again (meta_slot in rpc/meta.x), so that a caller
 * whose connection broke can send a call once more without having it executed twice. The reply is
 * part of the operation's transaction: either both are there after a crash, or neither.
 */
#ifndef ROZO_EXPORTD_REPLY_CACHE_H
#define ROZO_EXPORTD_REPLY_CACHE_H

#include "exportd/commit.h"
#include "exportd/kv.h"
#include "rpc/meta.h"
#include "rpc/rpc.h"

/* An operation that is to be executed once. */
struct reply_cache_call {
	const meta_slot *slot;
	uint32_t procedure;
	rpc_xdr result_xdr;
	void *result; /* where the operation leaves it */
	commit_operation operation; /* returns 1 if there was nothing to change */
	void *context; /* for the operation */
	bool replayed; /* set if it had been executed before, and *result is what was answered */
};

/*
 * A commit_operation whose context is a struct reply_cache_call. Returns 0 or 1 (nothing was
 * changed: now, or since the call had been executed before); -EBADMSG: a later call of the slot has
 * been executed; -EINVAL: no such slot; or an error of the operation or the record.
 */
int reply_cache_execute(struct kv_txn *txn, void *call);

/*
 * Removes replies that are so old that whoever waited for them has given up: their callers may
 * be gone. Returns 0 or a negative errno.
 */
int reply_cache_expire(struct kv_txn *txn);

#endif
