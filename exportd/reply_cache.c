/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See reply_cache.h. Results are kept in XDR, as they were sent. Takes no locks. */
#include "exportd/reply_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "exportd/record.h"

/* Callers give a call up after seconds. */
#define EXPIRE_SECONDS 86400

/* Returns 1 if the call has been executed, 0 if not, or a negative errno. */
static int find(struct kv_txn *txn, const struct reply_cache_call *call)
{
	const meta_slot *slot = call->slot;
	struct record_reply reply;
	XDR xdrs;
	int error;

	if (slot->slot >= META_SLOTS_MAX || slot->sequence == 0)
		return -EINVAL;
	error = record_reply_get(txn, slot->caller, slot->slot, &reply);
	/*
	 * A damaged one has been named in the log, and gives way to the next. Nearly always that is
	 * of another call; the slot would be of no use for as long as its caller lives.
	 */
	if (error != 0)
		return error == -ENOENT || error == -EIO ? 0 : error;
	if (slot->sequence > reply.sequence)
		return 0;
	if (slot->sequence < reply.sequence || call->procedure != reply.procedure)
		return -EBADMSG;
	xdrmem_ncreate(&xdrs, (char *)reply.result, reply.bytes, XDR_DECODE);
	return call->result_xdr(&xdrs, call->result) ? 1 : -EIO;
}

static int keep(struct kv_txn *txn, const struct reply_cache_call *call)
{
	const meta_slot *slot = call->slot;
	struct record_reply reply = {
		.sequence = slot->sequence, .seconds = time(NULL), .procedure = call->procedure};
	XDR xdrs;

	xdrmem_ncreate(&xdrs, (char *)reply.result, RECORD_REPLY_MAX, XDR_ENCODE);
	if (!call->result_xdr(&xdrs, call->result))
		return -EIO;
	reply.bytes = XDR_GETPOS(&xdrs);
	return record_reply_put(txn, slot->caller, slot->slot, &reply);
}

int reply_cache_execute(struct kv_txn *txn, void *context)
{
	struct reply_cache_call *call = context;
	int result;

	if (call->slot->caller == 0)
		return call->operation(txn, call->context);
	result = find(txn, call);
	call->replayed = result == 1;
	if (result != 0)
		return result;
	result = call->operation(txn, call->context);
	return result == 0 ? keep(txn, call) : result;
}

struct expire {
	int64_t now;
	struct record_key *keys;
	size_t count, room;
};

static int expire_reply(void *context, struct kv_bytes key, struct kv_bytes value)
{
	struct expire *expire = context;
	struct record_reply reply;

	if (record_reply_decode(key, value, &reply) == 0 &&
		expire->now - reply.seconds < EXPIRE_SECONDS)
		return 0;
	if (key.bytes != record_key_reply(0, 0).length)
		return 0; /* not one of ours */
	/* A damaged one is of no use either; it has been named in the log. */
	if (expire->count == expire->room) {
		size_t room = expire->room == 0 ? 64 : expire->room * 2;
		struct record_key *keys = realloc(expire->keys, room * sizeof(*keys));

		if (keys == NULL)
			return -ENOMEM;
		expire->keys = keys;
		expire->room = room;
	}
	expire->keys[expire->count++] =
		record_key_reply(record_key_u64(key, 1), record_key_u32(key, 9));
	return 0;
}

int reply_cache_expire(struct kv_txn *txn)
{
	struct record_key all = record_key_reply(0, 0);
	struct expire expire = {.now = time(NULL)};
	int error = kv_scan(txn, record_key_bytes(&all), RECORD_PREFIX_KIND, expire_reply, &expire);

	for (size_t i = 0; i < expire.count && error == 0; i++)
		error = kv_remove(txn, record_key_bytes(&expire.keys[i]));
	free(expire.keys);
	return error;
}
