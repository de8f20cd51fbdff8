/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Flexible file layouts to and from XDR (RFC 8435). No state, no locks.
 */
#include "fsal_rozo/flexfiles_xdr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STATEID_BYTES 16
#define NFS_VERSION 3

/*
 * More reports than this in one LAYOUTRETURN are not believed. Linux sends at most 20 of one error
 * each (FF_LAYOUTRETURN_MAXERR).
 */
#define REPORTS_MAX 4096

static bool put_uint64(XDR *xdrs, uint64_t value)
{
	return xdr_putuint32(xdrs, (uint32_t)(value >> 32)) && xdr_putuint32(xdrs, (uint32_t)value);
}

static bool get_uint64(XDR *xdrs, uint64_t *value)
{
	uint32_t high, low;

	if (!xdr_getuint32(xdrs, &high) || !xdr_getuint32(xdrs, &low))
		return false;
	*value = (uint64_t)high << 32 | low;
	return true;
}

/* opaque<>: length, bytes, padding. */
static bool put_opaque(XDR *xdrs, const void *bytes, uint32_t length)
{
	return xdr_putuint32(xdrs, length) && xdr_opaque_encode(xdrs, bytes, length);
}

/* fattr4_owner of a user or group that only has a number: decimal digits, no leading zero. */
static bool put_decimal(XDR *xdrs, uint32_t id)
{
	char digits[16];
	int length = snprintf(digits, sizeof(digits), "%u", id);

	return put_opaque(xdrs, digits, (uint32_t)length);
}

static bool put_mirror(XDR *xdrs, const struct flexfiles_mirror *mirror)
{
	/* All zeros: the anonymous stateid, which is what goes with a NFSv3 data server. */
	static const char stateid[STATEID_BYTES];

	return xdr_putuint32(xdrs, 1) /* ffm_data_servers: more than one would be striping */
	       && xdr_opaque_encode(
			  xdrs, (const char *)mirror->device_id, FLEXFILES_DEVICE_ID_BYTES) &&
	       xdr_putuint32(xdrs, mirror->efficiency) &&
	       xdr_opaque_encode(xdrs, stateid, STATEID_BYTES) &&
	       xdr_putuint32(xdrs, 1) /* ffds_fh_vers: one for each version of the device */
	       && put_opaque(xdrs, mirror->handle, mirror->handle_bytes) &&
	       put_decimal(xdrs, mirror->user) && put_decimal(xdrs, mirror->group);
}

int flexfiles_encode_layout(XDR *xdrs, const struct flexfiles_layout *layout)
{
	uint32_t i;

	if (layout->mirror_count == 0 || layout->mirror_count > FLEXFILES_MIRRORS_MAX)
		return -EINVAL;
	for (i = 0; i < layout->mirror_count; i++) {
		const struct flexfiles_mirror *mirror = &layout->mirrors[i];

		if (mirror->user == 0 || mirror->group == 0 || mirror->handle_bytes == 0 ||
			mirror->handle_bytes > FLEXFILES_HANDLE_BYTES_MAX)
			return -EINVAL;
	}

	/* ffl_stripe_unit has no meaning with one data server in each mirror. */
	if (!put_uint64(xdrs, 0) || !xdr_putuint32(xdrs, layout->mirror_count))
		return -ENOSPC;
	for (i = 0; i < layout->mirror_count; i++)
		if (!put_mirror(xdrs, &layout->mirrors[i]))
			return -ENOSPC;
	if (!xdr_putuint32(xdrs, layout->flags) || !xdr_putuint32(xdrs, layout->stats_seconds))
		return -ENOSPC;
	return 0;
}

int flexfiles_universal_address(
	const char *address, uint16_t port, char uaddr[FLEXFILES_UADDR_BYTES], const char **netid)
{
	char canonical[INET6_ADDRSTRLEN];
	struct in6_addr binary;
	int family;

	if (inet_pton(AF_INET, address, &binary) == 1)
		family = AF_INET;
	else if (inet_pton(AF_INET6, address, &binary) == 1)
		family = AF_INET6;
	else
		return -EINVAL;
	*netid = family == AF_INET ? "tcp" : "tcp6";
	if (!inet_ntop(family, &binary, canonical, sizeof(canonical)))
		return -EINVAL;
	snprintf(uaddr, FLEXFILES_UADDR_BYTES, "%s.%u.%u", canonical, port >> 8, port & 0xff);
	return 0;
}

int flexfiles_encode_device(XDR *xdrs, const struct flexfiles_device *device)
{
	char uaddr[FLEXFILES_UADDR_BYTES];
	const char *netid;

	if (flexfiles_universal_address(device->address, device->port, uaddr, &netid) != 0)
		return -EINVAL;

	if (!xdr_putuint32(xdrs, 1) /* ffda_netaddrs: clients do not fail over between several */
		|| !put_opaque(xdrs, netid, (uint32_t)strlen(netid)) ||
		!put_opaque(xdrs, uaddr, (uint32_t)strlen(uaddr)) ||
		!xdr_putuint32(xdrs, 1) /* ffda_versions */
		|| !xdr_putuint32(xdrs, NFS_VERSION) || !xdr_putuint32(xdrs, 0) ||
		!xdr_putuint32(xdrs, device->rsize) || !xdr_putuint32(xdrs, device->wsize) ||
		!xdr_putuint32(xdrs, 0)) /* ffdv_tightly_coupled */
		return -ENOSPC;
	return 0;
}

int flexfiles_decode_return(
	XDR *xdrs, struct flexfiles_error *errors, size_t errors_max, size_t *error_count)
{
	uint32_t reports, report, report_errors, i;
	char stateid[STATEID_BYTES];
	struct flexfiles_error error;
	bool overflow = false;

	*error_count = 0;
	if (!xdr_getuint32(xdrs, &reports) || reports > REPORTS_MAX)
		return -EBADMSG;
	for (report = 0; report < reports; report++) {
		if (!get_uint64(xdrs, &error.offset) || !get_uint64(xdrs, &error.length) ||
			!xdr_opaque_decode(xdrs, stateid, STATEID_BYTES) ||
			!xdr_getuint32(xdrs, &report_errors) || report_errors > REPORTS_MAX)
			return -EBADMSG;
		for (i = 0; i < report_errors; i++) {
			if (!xdr_opaque_decode(
				    xdrs, (char *)error.device_id, FLEXFILES_DEVICE_ID_BYTES) ||
				!xdr_getuint32(xdrs, &error.status) ||
				!xdr_getuint32(xdrs, &error.operation))
				return -EBADMSG;
			if (*error_count < errors_max)
				errors[(*error_count)++] = error;
			else
				overflow = true;
		}
	}
	return overflow ? -E2BIG : 0;
}
