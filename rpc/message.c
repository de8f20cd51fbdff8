/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * RPC messages. Headers are read and written here, word by word, since the length of everything is
 * checked that way; arguments and results go through libntirpc's XDR, first with a stream that only
 * counts, then into memory of exactly that size. A large piece of bytes in them is not copied, but
 * sent from where it is, if the socket takes it at once.
 */
#include "rpc/message.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define WORD_BYTES 4
#define CALL_WORDS 10
#define ACCEPTED_WORDS 6
#define AUTH_BYTES_MAX 400
#define MACHINE_NAME_MAX 255
#define GROUPS_MAX 16
#define LENT_BYTES_MIN ((u_int)16 << 10) /* fewer are copied, which costs less than a vector */

/* What of an object is not copied into its message: the first large piece of bytes in it. */
struct lending {
	const char *bytes; /* NULL: nothing */
	u_int count;
	size_t at; /* in the encoded object */
};

/* -------- counting -------- */

static bool count_unit(XDR *xdrs, const uint32_t unit)
{
	(void)unit;
	xdrs->x_handy += WORD_BYTES;
	return xdrs->x_handy <= RECORD_BYTES_MAX;
}

static bool count_bytes(XDR *xdrs, const char *bytes, u_int count)
{
	struct lending *lending = xdrs->x_private;

	if (count > RECORD_BYTES_MAX - xdrs->x_handy)
		return false;
	if (!lending->bytes && count >= LENT_BYTES_MIN)
		*lending = (struct lending){bytes, count, xdrs->x_handy};
	xdrs->x_handy += count;
	return true;
}

/* Size of the object on the wire; false: it does not fit the protocol's limits. */
static bool count_object(rpc_xdr xdr, const void *object, size_t *bytes, struct lending *lending)
{
	static const struct xdr_ops counting = {.x_putunit = count_unit, .x_putbytes = count_bytes};
	uint8_t nowhere;
	/* Data and end are the same place, so that the inline functions find no room and ask us. */
	XDR xdrs = {
		.x_ops = &counting,
		.x_op = XDR_ENCODE,
		.x_private = lending,
		.x_data = &nowhere,
		.x_v = {.vio_wrap = &nowhere},
	};

	*bytes = 0;
	if (!xdr)
		return true;
	if (!xdr(&xdrs, (void *)object))
		return false;
	*bytes = xdrs.x_handy;
	return true;
}

/* -------- encoding -------- */

/* The inline functions ask when there is no room. */
static bool no_room(XDR *xdrs, const uint32_t unit)
{
	(void)xdrs;
	(void)unit;
	return false;
}

static bool put_bytes(XDR *xdrs, const char *bytes, u_int count)
{
	const struct lending *lending = xdrs->x_private;

	/* If it is not what was counted, then there is no room for it either. */
	if (bytes == lending->bytes && count == lending->count &&
		(size_t)(xdrs->x_data - (uint8_t *)xdrs->x_base) == lending->at)
		return true;
	if (count > xdr_size_inline(xdrs))
		return false;
	memcpy(xdrs->x_data, bytes, count);
	xdrs->x_data += count;
	return true;
}

/* Encodes into memory of exactly the right size. */
static bool encode_object(
	rpc_xdr xdr, const void *object, uint8_t *to, size_t bytes, struct lending *lending)
{
	static const struct xdr_ops encoding = {.x_putunit = no_room, .x_putbytes = put_bytes};
	XDR xdrs = {
		.x_ops = &encoding,
		.x_op = XDR_ENCODE,
		.x_private = lending,
		.x_base = to,
		.x_data = to,
		.x_v = {.vio_wrap = to + bytes},
	};

	return xdr(&xdrs, (void *)object) && xdrs.x_data == to + bytes;
}

/* A buffer with room for header and object, the object encoded. */
static int make(
	struct record_buffer **made, unsigned int header_words, rpc_xdr xdr, const void *object)
{
	struct record_buffer *buffer;
	size_t header_bytes = header_words * WORD_BYTES, bytes;
	struct lending lending = {0};

	if (!count_object(xdr, object, &bytes, &lending) || bytes > RECORD_BYTES_MAX - header_bytes)
		return -E2BIG;
	buffer = record_buffer_create_lent(header_bytes + bytes, (const uint8_t *)lending.bytes,
		header_bytes + lending.at, lending.count);
	if (!buffer)
		return -ENOMEM;
	if (xdr && !encode_object(xdr, object, buffer->data + RECORD_MARK_BYTES + header_bytes,
			   bytes - lending.count, &lending)) {
		/* Another thread changed the object between counting and now. */
		record_buffer_free(buffer);
		return -E2BIG;
	}
	*made = buffer;
	return 0;
}

static void put_words(struct record_buffer *buffer, const uint32_t *words, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint32_t wire = htonl(words[i]);

		memcpy(buffer->data + RECORD_MARK_BYTES + i * WORD_BYTES, &wire, WORD_BYTES);
	}
}

int message_make_call(struct record_buffer **buffer, uint32_t xid, uint32_t program,
	uint32_t version, uint32_t procedure, rpc_xdr args_xdr, const void *args)
{
	const uint32_t header[CALL_WORDS] = {xid, CALL, RPC_MSG_VERSION, program, version,
		procedure, AUTH_NONE, 0, AUTH_NONE, 0};
	int error = make(buffer, CALL_WORDS, args_xdr, args);

	if (!error)
		put_words(*buffer, header, CALL_WORDS);
	return error;
}

int message_make_result(
	struct record_buffer **buffer, uint32_t xid, rpc_xdr result_xdr, const void *result)
{
	const uint32_t header[ACCEPTED_WORDS] = {xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, SUCCESS};
	int error = make(buffer, ACCEPTED_WORDS, result_xdr, result);

	if (!error)
		put_words(*buffer, header, ACCEPTED_WORDS);
	return error;
}

static struct record_buffer *make_words(const uint32_t *words, unsigned int count)
{
	struct record_buffer *buffer = record_buffer_create(count * WORD_BYTES);

	if (buffer)
		put_words(buffer, words, count);
	return buffer;
}

struct record_buffer *message_make_refusal(
	uint32_t xid, enum accept_stat status, uint32_t low, uint32_t high)
{
	const uint32_t words[] = {xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, status, low, high};

	return make_words(words, status == PROG_MISMATCH ? 8 : 6);
}

struct record_buffer *message_make_auth_refusal(uint32_t xid, enum auth_stat status)
{
	const uint32_t words[] = {xid, REPLY, MSG_DENIED, AUTH_ERROR, status};

	return make_words(words, 5);
}

struct record_buffer *message_make_mismatch(uint32_t xid)
{
	const uint32_t words[] = {
		xid, REPLY, MSG_DENIED, RPC_MISMATCH, RPC_MSG_VERSION, RPC_MSG_VERSION};

	return make_words(words, 6);
}

/* -------- reading -------- */

/* What is left of a record. Once a read fails, all later ones do. */
struct reader {
	const uint8_t *next;
	size_t left;
	bool failed;
};

static uint32_t read_word(struct reader *reader)
{
	uint32_t word;

	if (reader->left < WORD_BYTES) {
		reader->failed = true;
		reader->left = 0;
		return 0;
	}
	memcpy(&word, reader->next, WORD_BYTES);
	reader->next += WORD_BYTES;
	reader->left -= WORD_BYTES;
	return ntohl(word);
}

static const uint8_t *skip_bytes(struct reader *reader, uint32_t bytes)
{
	const uint8_t *skipped = reader->next;
	size_t padded = ((size_t)bytes + 3) & ~(size_t)3;

	if (reader->failed || reader->left < padded) {
		reader->failed = true;
		reader->left = 0;
		return NULL;
	}
	reader->next += padded;
	reader->left -= padded;
	return skipped;
}

/* The body of AUTH_SYS: RFC 5531, appendix A. */
static enum auth_stat read_auth_sys(struct message_call *call, const uint8_t *body, uint32_t bytes)
{
	struct reader reader = {body, bytes, false};
	uint32_t name_bytes, groups;

	read_word(&reader); /* stamp */
	name_bytes = read_word(&reader);
	if (name_bytes > MACHINE_NAME_MAX)
		return AUTH_BADCRED;
	skip_bytes(&reader, name_bytes);
	call->uid = read_word(&reader);
	call->gid = read_word(&reader);
	groups = read_word(&reader);
	if (reader.failed || groups > GROUPS_MAX || reader.left != (size_t)groups * WORD_BYTES) {
		call->uid = call->gid = UINT32_MAX;
		return AUTH_BADCRED;
	}
	return AUTH_OK;
}

int message_read_call(struct message_call *call, const uint8_t *record, size_t bytes)
{
	struct reader reader = {record, bytes, false};
	uint32_t flavor, body_bytes;
	const uint8_t *body;

	*call = (struct message_call){.auth = AUTH_OK, .uid = UINT32_MAX, .gid = UINT32_MAX};
	call->xid = read_word(&reader);
	if (read_word(&reader) != CALL || reader.failed)
		return -EPROTO;
	call->rpc_version = read_word(&reader);
	if (!reader.failed && call->rpc_version != RPC_MSG_VERSION)
		return 0; /* what follows is unknown */
	call->program = read_word(&reader);
	call->version = read_word(&reader);
	call->procedure = read_word(&reader);
	flavor = read_word(&reader);
	body_bytes = read_word(&reader);
	if (body_bytes > AUTH_BYTES_MAX)
		return -EPROTO;
	body = skip_bytes(&reader, body_bytes);
	read_word(&reader); /* verifier: of no meaning with these flavors */
	if (skip_bytes(&reader, read_word(&reader)) == NULL)
		return -EPROTO;
	if (flavor == AUTH_SYS)
		call->auth = read_auth_sys(call, body, body_bytes);
	else if (flavor != AUTH_NONE)
		call->auth = AUTH_REJECTEDCRED;
	call->arguments = bytes - reader.left;
	return 0;
}

int message_read_reply(
	const uint8_t *record, size_t bytes, uint32_t *xid, int *error, size_t *results)
{
	struct reader reader = {record, bytes, false};
	uint32_t status;

	*xid = read_word(&reader);
	if (read_word(&reader) != REPLY || reader.failed)
		return -EPROTO;
	status = read_word(&reader);
	if (status == MSG_ACCEPTED) {
		read_word(&reader);
		skip_bytes(&reader, read_word(&reader));
		*error = read_word(&reader) == SUCCESS ? 0 : -EPROTO;
	} else if (status == MSG_DENIED) {
		*error = read_word(&reader) == AUTH_ERROR ? -EACCES : -EPROTO;
	} else {
		return -EPROTO;
	}
	if (reader.failed)
		return -EPROTO;
	*results = bytes - reader.left;
	return 0;
}

/* x_public: NULL or rpc_xdr_borrowing. */
static bool decode(const uint8_t *record, size_t bytes, size_t first, rpc_xdr xdr, void *object,
	void *x_public)
{
	XDR xdrs;

	if (!xdr)
		return true;
	xdrmem_ncreate(
		&xdrs, (char *)(uintptr_t)record + first, (u_int)(bytes - first), XDR_DECODE);
	xdrs.x_public = x_public;
	return xdr(&xdrs, object);
}

int message_decode(const uint8_t *record, size_t bytes, size_t first, rpc_xdr xdr, void *object)
{
	if (decode(record, bytes, first, xdr, object, NULL))
		return 0;
	rpc_free(xdr, object);
	return -EPROTO;
}

int message_decode_borrowing(
	const uint8_t *record, size_t bytes, size_t first, rpc_xdr xdr, void *object)
{
	if (decode(record, bytes, first, xdr, object, rpc_xdr_borrowing))
		return 0;
	rpc_free_borrower(xdr, object);
	return -EPROTO;
}
