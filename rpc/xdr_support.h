/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the generated protocol headers (rpc/store.h, rpc/meta.h, rpc/nfs3.h) are built on:
 * libntirpc's XDR, and a string filter of our own.
 *
 * Everything of rozo_rpc is hidden from the dynamic linker: in ganesha.nfsd the library sits in a
 * plugin beside libntirpc and libganesha_nfsd, whose symbols would otherwise win over ours.
 */
#ifndef ROZO_RPC_XDR_SUPPORT_H
#define ROZO_RPC_XDR_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <rpc/types.h>
#include <rpc/xdr.h>
#include <rpc/xdr_inline.h>

#define RPC_HIDDEN extern __attribute__((visibility("hidden")))

/*
 * Takes the place of libntirpc's xdr_string() in all stubs. Two differences:
 * - encoding a NULL pointer writes the empty string (results that carry an error status have their
 *   strings NULL; libntirpc would refuse to encode them and the caller would get no answer);
 * - decoding refuses a string with a NUL byte in it, which would be cut short silently.
 * A decoded string is never NULL.
 */
RPC_HIDDEN bool rpc_xdr_string(XDR *xdrs, char **string, unsigned int bytes_max);

/*
 * Takes the place of libntirpc's xdr_bytes() in all stubs. The difference: if the stream's x_public
 * is rpc_xdr_borrowing, what is decoded points into the stream's memory, 4-byte aligned, and what
 * is freed leaves the bytes alone. Of no use with streams that are not in one piece of memory.
 */
RPC_HIDDEN bool rpc_xdr_bytes(XDR *xdrs, char **bytes, unsigned int *count, unsigned int count_max);

RPC_HIDDEN char rpc_xdr_borrowing[1];

#endif
