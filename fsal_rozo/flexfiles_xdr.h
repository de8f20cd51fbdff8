/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The opaque bodies of flexible file layouts, version 1 (RFC 8435), on the wire.
 *
 * Encoders and decoders only: they know nothing of Ganesha, exports or nodes, and never act.
 * NFSv3 data servers, loosely coupled, one data server and one file handle in each mirror: what
 * every stock client understands.
 */
#ifndef ROZO_FLEXFILES_XDR_H
#define ROZO_FLEXFILES_XDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rpc/types.h>
#include <rpc/xdr.h>
#include <rpc/xdr_inline.h>

#define FLEXFILES_DEVICE_ID_BYTES 16
#define FLEXFILES_HANDLE_BYTES_MAX 64 /* NFS3_FHSIZE, RFC 1813 section 2.4 */
#define FLEXFILES_MIRRORS_MAX 4 /* FreeBSD's client takes no more */
#define FLEXFILES_UADDR_BYTES 64

/* ffl_flags, RFC 8435 section 5.1. */
#define FLEXFILES_NO_LAYOUTCOMMIT 1
#define FLEXFILES_NO_IO_THRU_MDS 2
#define FLEXFILES_NO_READ_IO 4

/* One mirror: one data server that can serve the whole file. */
struct flexfiles_mirror {
	uint8_t device_id[FLEXFILES_DEVICE_ID_BYTES];
	uint32_t efficiency; /* the client reads from the highest */
	const uint8_t *handle; /* NFSv3 file handle */
	uint32_t handle_bytes; /* at most FLEXFILES_HANDLE_BYTES_MAX */
	uint32_t user; /* synthetic ids; not 0, which a client would send as root */
	uint32_t group;
};

/* ff_layout4 (section 5.1). */
struct flexfiles_layout {
	const struct flexfiles_mirror *mirrors;
	uint32_t mirror_count; /* 1 .. FLEXFILES_MIRRORS_MAX */
	uint32_t flags;
	uint32_t stats_seconds; /* between two LAYOUTSTATS of the client; 0: as it likes */
};

/*
 * Writes the body of a LAYOUTGET reply.
 * Returns 0; -EINVAL (the layout breaks the limits above: no mirrors, too many, a user or group
 * of 0, a handle that is too long); or -ENOSPC (the stream is full).
 */
int flexfiles_encode_layout(XDR *xdrs, const struct flexfiles_layout *layout);

/* ff_device_addr4 (section 4.1) with one address and NFSv3 as the only version. */
struct flexfiles_device {
	const char *address; /* numeric IPv4 or IPv6 */
	uint16_t port;
	uint32_t rsize; /* bytes in one READ */
	uint32_t wsize;
};

/*
 * Writes the body of a GETDEVICEINFO reply.
 * Returns 0; -EINVAL (the address is not numeric); or -ENOSPC.
 */
int flexfiles_encode_device(XDR *xdrs, const struct flexfiles_device *device);

/*
 * Writes the universal address of an IPv4 or IPv6 address and a TCP port (RFC 5665 section 5.2)
 * and names its netid ("tcp" or "tcp6", a static string).
 * Returns 0 or -EINVAL.
 */
int flexfiles_universal_address(
	const char *address, uint16_t port, char uaddr[FLEXFILES_UADDR_BYTES], const char **netid);

/* One failure that a client reports in LAYOUTRETURN: ff_ioerr4 with one of its device_error4. */
struct flexfiles_error {
	uint64_t offset; /* bytes of the file that the operation was about */
	uint64_t length;
	uint8_t device_id[FLEXFILES_DEVICE_ID_BYTES];
	uint32_t status; /* nfsstat4 */
	uint32_t operation; /* nfs_opnum4 */
};

/*
 * Reads the error reports of ff_layoutreturn4 (section 9.3) and leaves the statistics behind them
 * alone. *error_count receives how many of at most errors_max were stored.
 * What a client sends here is advice: whatever was complete before the first fault is delivered.
 * Returns 0, or -EBADMSG if the body ends early or claims impossible numbers, or -E2BIG if there
 * were more than errors_max.
 */
int flexfiles_decode_return(
	XDR *xdrs, struct flexfiles_error *errors, size_t errors_max, size_t *error_count);

#endif
