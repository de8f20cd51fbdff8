/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The string and byte filters of the protocol stubs, and the freeing of decoded objects. No locks,
 * no state.
 */
#include "rpc/rpc.h"
#include "rpc/xdr_support.h"

static bool string_decode(XDR *xdrs, char **string, unsigned int bytes_max)
{
	uint32_t bytes;
	char *decoded;

	if (!XDR_GETUINT32(xdrs, &bytes) || bytes > bytes_max)
		return false;
	decoded = mem_alloc((size_t)bytes + 1);
	if (!xdr_opaque_decode(xdrs, decoded, bytes) || memchr(decoded, 0, bytes)) {
		mem_free(decoded, (size_t)bytes + 1);
		return false;
	}
	decoded[bytes] = 0;
	*string = decoded;
	return true;
}

bool rpc_xdr_string(XDR *xdrs, char **string, unsigned int bytes_max)
{
	switch (xdrs->x_op) {
	case XDR_DECODE:
		return string_decode(xdrs, string, bytes_max);
	case XDR_ENCODE: {
		const char *encoded = *string ? *string : "";
		size_t bytes = strnlen(encoded, (size_t)bytes_max + 1);

		return bytes <= bytes_max && XDR_PUTUINT32(xdrs, (uint32_t)bytes) &&
		       xdr_opaque_encode(xdrs, encoded, (u_int)bytes);
	}
	case XDR_FREE:
		if (*string)
			mem_free(*string, strlen(*string) + 1);
		*string = NULL;
		return true;
	}
	return false;
}

char rpc_xdr_borrowing[1];

static bool borrow(XDR *xdrs, char **bytes, unsigned int *count, unsigned int count_max)
{
	uint32_t wanted;

	if (!XDR_GETUINT32(xdrs, &wanted) || wanted > count_max)
		return false;
	size_t padded = ((size_t)wanted + 3) & ~(size_t)3;
	if (padded > xdr_tail_inline(xdrs))
		return false;
	*count = wanted;
	if (wanted)
		*bytes = (char *)xdrs->x_data;
	xdrs->x_data += padded;
	return true;
}

bool rpc_xdr_bytes(XDR *xdrs, char **bytes, unsigned int *count, unsigned int count_max)
{
	if (xdrs->x_public != rpc_xdr_borrowing || xdrs->x_op == XDR_ENCODE)
		return xdr_bytes(xdrs, bytes, count, count_max);
	if (xdrs->x_op == XDR_DECODE)
		return borrow(xdrs, bytes, count, count_max);
	*bytes = NULL;
	return true;
}

void rpc_free_borrower(rpc_xdr xdr, void *object)
{
	XDR xdrs = {.x_op = XDR_FREE, .x_public = rpc_xdr_borrowing};

	if (xdr)
		(void)xdr(&xdrs, object);
}

void rpc_free(rpc_xdr xdr, void *object)
{
	/* Not libntirpc's xdr_free_null_stream: stubs take a stream that they may write to. */
	XDR xdrs = {.x_op = XDR_FREE};

	if (xdr)
		(void)xdr(&xdrs, object);
}
