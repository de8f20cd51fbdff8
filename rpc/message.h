/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * RPC messages (RFC 5531, section 9): headers written and read, arguments and results around them.
 * No locks, no state.
 */
#ifndef ROZO_RPC_MESSAGE_H
#define ROZO_RPC_MESSAGE_H

#include "rpc/record.h"
#include "rpc/rpc.h"

#pragma GCC visibility push(hidden)

/* A received call. */
struct message_call {
	uint32_t xid;
	uint32_t rpc_version;
	uint32_t program;
	uint32_t version;
	uint32_t procedure;
	enum auth_stat auth; /* AUTH_OK, or why the credentials are refused */
	uint32_t uid; /* AUTH_SYS, else UINT32_MAX */
	uint32_t gid;
	size_t arguments; /* where they begin in the record */
};

/* Reads the header of a call. Returns 0, or -EPROTO if the record is none (RFC 5531). */
int message_read_call(struct message_call *call, const uint8_t *record, size_t bytes);

/*
 * Reads the header of a reply. *error receives what the caller of the procedure is to be told: 0
 * (results follow at *results), -EACCES or -EPROTO. Returns 0, or -EPROTO if the record is no
 * reply.
 */
int message_read_reply(
	const uint8_t *record, size_t bytes, uint32_t *xid, int *error, size_t *results);

/*
 * Decodes arguments or results into a zeroed object. On failure the object has been freed.
 * Returns 0 or -EPROTO.
 */
int message_decode(const uint8_t *record, size_t bytes, size_t first, rpc_xdr xdr, void *object);

/*
 * The same, but counted bytes (opaque<>) are not copied: they stay where they are in the record,
 * which must last as long as the object. The object is freed by rpc_free_borrower().
 */
int message_decode_borrowing(
	const uint8_t *record, size_t bytes, size_t first, rpc_xdr xdr, void *object);
void rpc_free_borrower(rpc_xdr xdr, void *object);

/*
 * Makes a call with AUTH_NONE. The buffer may point to bytes of the arguments (record_buffer.lent).
 * Returns 0, -E2BIG (the arguments do not fit the protocol's limits) or -ENOMEM.
 */
int message_make_call(struct record_buffer **buffer, uint32_t xid, uint32_t program,
	uint32_t version, uint32_t procedure, rpc_xdr args_xdr, const void *args);

/* Makes the reply of a call that was executed. As message_make_call(). */
int message_make_result(
	struct record_buffer **buffer, uint32_t xid, rpc_xdr result_xdr, const void *result);

/* Makes the reply of a call that was not executed. low, high: with PROG_MISMATCH. NULL: no memory.
 */
struct record_buffer *message_make_refusal(
	uint32_t xid, enum accept_stat status, uint32_t low, uint32_t high);

/* Makes the reply of a call refused for its credentials (AUTH_ERROR). NULL: no memory. */
struct record_buffer *message_make_auth_refusal(uint32_t xid, enum auth_stat status);

/* Makes the reply of a call of another version of RPC (RPC_MISMATCH). NULL: no memory. */
struct record_buffer *message_make_mismatch(uint32_t xid);

#pragma GCC visibility pop

#endif
