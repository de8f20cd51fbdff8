/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Replies that are kept until their slot is used again (meta_slot in rpc/meta.x), so that a caller
 * whose connection broke can send a call once more without having it executed twice. The reply is
 * part of the operation's transaction: either both are there after a crash, or neither.
 */
#ifndef ROZO_EXPORTD_REPLY_CACHE_H
#define ROZO_EXPORTD_REPLY_CACHE_H

#include "exportd/kv.h"
#include "rpc/meta.h"
#include "rpc/rpc.h"

/*
 * To be called first in an operation's transaction.
 * Returns 0: it has not been executed; 1: it has, and *result is what was answered; -EBADMSG: a
 * later call of the slot has been; -EINVAL: no such slot; or an error of record_reply_get().
 */
int reply_cache_find(struct kv_txn *txn, const meta_slot *slot, uint32_t procedure,
	rpc_xdr result_xdr, void *result);

/* To be called last, if something was changed. Returns 0 or an error of record_reply_put(). */
int reply_cache_keep(struct kv_txn *txn, const meta_slot *slot, uint32_t procedure,
	rpc_xdr result_xdr, const void *result);

/*
 * Removes replies that are so old that whoever waited for them has given up: their callers may
 * be gone. Returns 0 or a negative errno.
 */
int reply_cache_expire(struct kv_txn *txn);

#endif
