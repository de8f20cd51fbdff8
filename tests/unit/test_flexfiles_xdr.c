/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Proves the flexible file layout bodies against RFC 8435, byte by byte: the vectors here were
 * written from the XDR of its sections 4.1, 5.1 and 9, not from the encoder. A second reader that
 * checks what stock clients check goes over every encoded layout.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "fsal_rozo/flexfiles_xdr.h"

#define BUFFER_BYTES 4096

static uint8_t buffer[BUFFER_BYTES];

static void hex_dump(const char *title, const uint8_t *bytes, size_t length)
{
	size_t i;

	fprintf(stderr, "%s (%zu bytes):", title, length);
	for (i = 0; i < length; i++)
		fprintf(stderr, "%s%02x", i % 4 == 0 ? " " : "", bytes[i]);
	fprintf(stderr, "\n");
}

static void check_bytes(
	const uint8_t *bytes, size_t length, const uint8_t *expected, size_t expected_length)
{
	bool same = length == expected_length && memcmp(bytes, expected, length) == 0;

	CU_ASSERT(same);
	if (!same) {
		hex_dump("encoded ", bytes, length);
		hex_dump("expected", expected, expected_length);
	}
}

/* Encodes into a heap buffer of exactly `room` bytes, so that sanitizers see any overrun. */
static int encode_layout(const struct flexfiles_layout *layout, size_t room, size_t *length)
{
	char *exact = malloc(room ? room : 1);
	XDR xdrs;
	int result;

	xdrmem_ncreate(&xdrs, exact, (u_int)room, XDR_ENCODE);
	result = flexfiles_encode_layout(&xdrs, layout);
	*length = xdr_getpos(&xdrs);
	xdr_destroy(&xdrs);
	memcpy(buffer, exact, room);
	free(exact);
	return result;
}

/* ---- layouts ---- */

static const uint8_t device_a[16] = {1, 0, 0, 77, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0};
static const uint8_t device_b[16] = {1, 0, 0, 77, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0};
static const uint8_t handle_5[5] = {0xaa, 0xbb, 0xcc, 0xdd, 0xee};

/* clang-format off */
static const uint8_t layout_rw[] = {
	0, 0, 0, 0, 0, 0, 0, 0,                          /* ffl_stripe_unit */
	0, 0, 0, 1,                                      /* ffl_mirrors<> */
	0, 0, 0, 1,                                      /*  ffm_data_servers<> */
	1, 0, 0, 77, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, /*   ffds_deviceid */
	0, 0, 3, 0xe8,                                   /*   ffds_efficiency 1000 */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  /*   ffds_stateid */
	0, 0, 0, 1,                                      /*   ffds_fh_vers<> */
	0, 0, 0, 5, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0, 0, 0,
	0, 0, 0, 10, '2', '0', '0', '0', '0', '0', '0', '0', '0', '1', 0, 0, /* ffds_user */
	0, 0, 0, 2, '1', '7', 0, 0,                      /*   ffds_group */
	0, 0, 0, 2,                                      /* ffl_flags: NO_IO_THRU_MDS */
	0, 0, 0x0e, 0x10,                                /* ffl_stats_collect_hint 3600 */
};

static const uint8_t layout_read[] = {
	0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 2,
	0, 0, 0, 1,
	1, 0, 0, 77, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0,
	0, 0, 0xff, 0xff,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 1,
	0, 0, 0, 5, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0, 0, 0,
	0, 0, 0, 1, '9', 0, 0, 0,
	0, 0, 0, 4, '1', '0', '0', '0',
	0, 0, 0, 1,
	1, 0, 0, 77, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0,
	0, 0, 0, 7,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 1,
	0, 0, 0, 5, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0, 0, 0,
	0, 0, 0, 1, '9', 0, 0, 0,
	0, 0, 0, 4, '1', '0', '0', '0',
	0, 0, 0, 0,
	0, 0, 0, 0,
};
/* clang-format on */

static struct flexfiles_mirror mirror(
	const uint8_t device[16], uint32_t efficiency, uint32_t user, uint32_t group)
{
	struct flexfiles_mirror made = {.efficiency = efficiency,
		.handle = handle_5,
		.handle_bytes = sizeof(handle_5),
		.user = user,
		.group = group};

	memcpy(made.device_id, device, sizeof(made.device_id));
	return made;
}

static void layout_of_one_mirror_matches_rfc(void)
{
	struct flexfiles_mirror one = mirror(device_a, 1000, 2000000001, 17);
	struct flexfiles_layout layout = {.mirrors = &one,
		.mirror_count = 1,
		.flags = FLEXFILES_NO_IO_THRU_MDS,
		.stats_seconds = 3600};
	size_t length;

	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), 0);
	check_bytes(buffer, length, layout_rw, sizeof(layout_rw));
}

static void layout_of_two_mirrors_matches_rfc(void)
{
	struct flexfiles_mirror two[] = {
		mirror(device_a, 0xffff, 9, 1000), mirror(device_b, 7, 9, 1000)};
	struct flexfiles_layout layout = {.mirrors = two, .mirror_count = 2};
	size_t length;

	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), 0);
	check_bytes(buffer, length, layout_read, sizeof(layout_read));
}

/* A reader of its own, with what Linux's ff_layout_alloc_lseg() and FreeBSD's parser insist on. */
struct reader {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static uint32_t read_word(struct reader *reader)
{
	uint32_t word;

	if (reader->left < 4) {
		reader->bad = true;
		return 0;
	}
	word = (uint32_t)reader->at[0] << 24 | (uint32_t)reader->at[1] << 16 |
	       (uint32_t)reader->at[2] << 8 | reader->at[3];
	reader->at += 4;
	reader->left -= 4;
	return word;
}

static const uint8_t *read_bytes(struct reader *reader, uint32_t length)
{
	uint32_t padded = (length + 3) & ~3u, i;
	const uint8_t *bytes = reader->at;

	if (padded < length || reader->left < padded) {
		reader->bad = true;
		return NULL;
	}
	for (i = length; i < padded; i++)
		if (bytes[i] != 0)
			reader->bad = true;
	reader->at += padded;
	reader->left -= padded;
	return bytes;
}

static uint32_t read_decimal(struct reader *reader)
{
	uint32_t length = read_word(reader), i;
	const uint8_t *digits = read_bytes(reader, length);
	uint64_t value = 0;

	/* Linux: shorter than 16 bytes, digits only; a leading zero would mean octal. */
	if (!digits || length == 0 || length >= 16 || digits[0] == '0') {
		reader->bad = true;
		return 0;
	}
	for (i = 0; i < length; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			reader->bad = true;
		value = value * 10 + (digits[i] - '0');
	}
	if (value == 0 || value > UINT32_MAX)
		reader->bad = true;
	return (uint32_t)value;
}

static bool client_accepts(
	const uint8_t *bytes, size_t length, const struct flexfiles_layout *expected)
{
	struct reader reader = {.at = bytes, .left = length};
	uint32_t mirrors, i;

	read_word(&reader);
	read_word(&reader);
	mirrors = read_word(&reader);
	if (mirrors != expected->mirror_count || mirrors > 4)
		return false;
	for (i = 0; i < mirrors && !reader.bad; i++) {
		const struct flexfiles_mirror *sent = &expected->mirrors[i];
		const uint8_t *part;
		uint32_t handle_bytes;

		if (read_word(&reader) != 1) /* striped: EIO to the application before Linux 6.18 */
			return false;
		part = read_bytes(&reader, 16);
		if (!part || memcmp(part, sent->device_id, 16) != 0)
			return false;
		if (read_word(&reader) != sent->efficiency)
			return false;
		read_bytes(&reader, 16);
		if (read_word(&reader) != 1)
			return false;
		handle_bytes = read_word(&reader);
		part = read_bytes(&reader, handle_bytes);
		if (!part || handle_bytes > 64 || handle_bytes != sent->handle_bytes ||
			memcmp(part, sent->handle, handle_bytes) != 0)
			return false;
		if (read_decimal(&reader) != sent->user || read_decimal(&reader) != sent->group)
			return false;
	}
	return read_word(&reader) == expected->flags &&
	       read_word(&reader) == expected->stats_seconds && !reader.bad && reader.left == 0;
}

static void clients_accept_every_layout(void)
{
	uint8_t handle[FLEXFILES_HANDLE_BYTES_MAX];
	uint32_t ids[] = {1, 9, 10, 65534, 2000000001, UINT32_MAX};
	uint32_t count, bytes, i, id;

	for (i = 0; i < sizeof(handle); i++)
		handle[i] = (uint8_t)(i * 7 + 1);
	for (count = 1; count <= FLEXFILES_MIRRORS_MAX; count++)
		for (bytes = 1; bytes <= FLEXFILES_HANDLE_BYTES_MAX; bytes++)
			for (id = 0; id < sizeof(ids) / sizeof(ids[0]); id++) {
				struct flexfiles_mirror mirrors[FLEXFILES_MIRRORS_MAX];
				struct flexfiles_layout layout = {.mirrors = mirrors,
					.mirror_count = count,
					.flags = bytes,
					.stats_seconds = id};
				size_t length;

				for (i = 0; i < count; i++) {
					mirrors[i] = mirror(device_a, 5000 - i, ids[id], ids[id]);
					mirrors[i].device_id[7] = (uint8_t)i;
					mirrors[i].handle = handle;
					mirrors[i].handle_bytes = bytes;
				}
				CU_ASSERT_EQUAL_FATAL(
					encode_layout(&layout, BUFFER_BYTES, &length), 0);
				CU_ASSERT_FATAL(client_accepts(buffer, length, &layout));
			}
}

static void layouts_that_clients_refuse_are_not_made(void)
{
	struct flexfiles_mirror mirrors[FLEXFILES_MIRRORS_MAX + 1];
	struct flexfiles_layout layout = {.mirrors = mirrors, .mirror_count = 1};
	size_t length, i;

	for (i = 0; i <= FLEXFILES_MIRRORS_MAX; i++)
		mirrors[i] = mirror(device_a, 1, 1, 1);
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), 0);
	layout.mirror_count = 0;
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
	CU_ASSERT_EQUAL(length, 0);
	layout.mirror_count = FLEXFILES_MIRRORS_MAX + 1;
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
	layout.mirror_count = 1;
	mirrors[0].user = 0;
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
	mirrors[0] = mirror(device_a, 1, 1, 0);
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
	mirrors[0] = mirror(device_a, 1, 1, 1);
	mirrors[0].handle_bytes = FLEXFILES_HANDLE_BYTES_MAX + 1;
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
	mirrors[0].handle_bytes = 0;
	CU_ASSERT_EQUAL(encode_layout(&layout, BUFFER_BYTES, &length), -EINVAL);
}

static void full_streams_are_reported(void)
{
	struct flexfiles_mirror two[] = {
		mirror(device_a, 0xffff, 9, 1000), mirror(device_b, 7, 9, 1000)};
	struct flexfiles_layout layout = {.mirrors = two, .mirror_count = 2};
	size_t room, length;

	for (room = 0; room < sizeof(layout_read); room++)
		CU_ASSERT_EQUAL(encode_layout(&layout, room, &length), -ENOSPC);
	CU_ASSERT_EQUAL(encode_layout(&layout, sizeof(layout_read), &length), 0);
}

/* ---- devices ---- */

/* clang-format off */
static const uint8_t device_ipv4[] = {
	0, 0, 0, 1,                                      /* ffda_netaddrs<> */
	0, 0, 0, 3, 't', 'c', 'p', 0,
	0, 0, 0, 16, '1', '0', '.', '9', '9', '.', '0', '.', '1', '1', '.', '7', '8', '.', '8', '1',
	0, 0, 0, 1,                                      /* ffda_versions<> */
	0, 0, 0, 3,                                      /*  ffdv_version */
	0, 0, 0, 0,                                      /*  ffdv_minorversion */
	0, 0x10, 0, 0,                                   /*  ffdv_rsize */
	0, 0x08, 0, 0,                                   /*  ffdv_wsize */
	0, 0, 0, 0,                                      /*  ffdv_tightly_coupled */
};

static const uint8_t device_ipv6[] = {
	0, 0, 0, 1,
	0, 0, 0, 4, 't', 'c', 'p', '6',
	0, 0, 0, 14, 'f', 'd', '0', '0', ':', ':', '1', ':', 'b', '.', '8', '.', '1', '0', 0, 0,
	0, 0, 0, 1,
	0, 0, 0, 3, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
};
/* clang-format on */

static int encode_device(
	const char *address, uint16_t port, uint32_t wsize, size_t room, size_t *length)
{
	struct flexfiles_device device = {
		.address = address, .port = port, .rsize = 1048576, .wsize = wsize};
	XDR xdrs;
	int result;

	xdrmem_ncreate(&xdrs, (char *)buffer, (u_int)room, XDR_ENCODE);
	result = flexfiles_encode_device(&xdrs, &device);
	*length = xdr_getpos(&xdrs);
	xdr_destroy(&xdrs);
	return result;
}

static void devices_match_rfc(void)
{
	size_t length, room;

	CU_ASSERT_EQUAL(encode_device("10.99.0.11", 20049, 524288, BUFFER_BYTES, &length), 0);
	check_bytes(buffer, length, device_ipv4, sizeof(device_ipv4));
	CU_ASSERT_EQUAL(encode_device("fd00:0::1:b", 2058, 1048576, BUFFER_BYTES, &length), 0);
	check_bytes(buffer, length, device_ipv6, sizeof(device_ipv6));
	for (room = 0; room < sizeof(device_ipv4); room++)
		CU_ASSERT_EQUAL(encode_device("10.99.0.11", 20049, 524288, room, &length), -ENOSPC);
	CU_ASSERT_EQUAL(encode_device("node11", 2049, 524288, BUFFER_BYTES, &length), -EINVAL);
	CU_ASSERT_EQUAL(encode_device("10.99.0", 2049, 524288, BUFFER_BYTES, &length), -EINVAL);
}

static void universal_addresses_match_rfc(void)
{
	static const struct {
		const char *address;
		uint16_t port;
		const char *uaddr;
		const char *netid;
	} cases[] = {
		/* RFC 5665 section 5.2.3.3 and 5.2.3.4: the port's two bytes, decimal. */
		{"10.1.3.7", 2049, "10.1.3.7.8.1", "tcp"},
		{"192.0.2.255", 65535, "192.0.2.255.255.255", "tcp"},
		{"127.0.0.1", 255, "127.0.0.1.0.255", "tcp"},
		{"::1", 2049, "::1.8.1", "tcp6"},
		{"2001:DB8:0:0:0:0:0:1", 20049, "2001:db8::1.78.81", "tcp6"},
		{"2001:db8:1111:2222:3333:4444:5555:6666", 65535,
			"2001:db8:1111:2222:3333:4444:5555:6666.255.255", "tcp6"},
	};
	char uaddr[FLEXFILES_UADDR_BYTES];
	const char *netid;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CU_ASSERT_EQUAL_FATAL(
			flexfiles_universal_address(cases[i].address, cases[i].port, uaddr, &netid),
			0);
		CU_ASSERT_STRING_EQUAL(uaddr, cases[i].uaddr);
		CU_ASSERT_STRING_EQUAL(netid, cases[i].netid);
	}
	CU_ASSERT_EQUAL(flexfiles_universal_address("", 1, uaddr, &netid), -EINVAL);
	CU_ASSERT_EQUAL(flexfiles_universal_address("10.0.0.1:2049", 1, uaddr, &netid), -EINVAL);
}

/* ---- LAYOUTRETURN ---- */

/* clang-format off */
static const uint8_t returned[] = {
	0, 0, 0, 2,                                      /* fflr_ioerr_report<> */
	0, 0, 0, 1, 0, 0, 0, 2,                          /*  ffie_offset */
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  /*  ffie_length */
	0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, /* ffie_stateid */
	0, 0, 0, 2,                                      /*  ffie_errors<> */
	1, 0, 0, 77, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, /*   de_deviceid */
	0, 0, 0, 6,                                      /*   de_status NFS4ERR_NXIO */
	0, 0, 0, 25,                                     /*   de_opnum OP_READ */
	1, 0, 0, 77, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0,
	0, 0, 0, 28,                                     /*   NFS4ERR_NOSPC */
	0, 0, 0, 38,                                     /*   OP_WRITE */
	0, 0, 0, 0, 0, 0, 0x10, 0,                       /*  second report */
	0, 0, 0, 0, 0, 0, 0x20, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 1,
	1, 0, 0, 77, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0,
	0, 0, 0, 6,
	0, 0, 0x27, 0x3c,                                /*   OP_ILLEGAL: could not connect */
	0, 0, 0, 1,                                      /* fflr_iostats_report<>: not read */
	0xde, 0xad,
};
/* clang-format on */
#define REPORTS_BYTES (sizeof(returned) - 6)

static int decode(const uint8_t *bytes, size_t length, struct flexfiles_error *errors,
	size_t errors_max, size_t *count)
{
	char *exact = malloc(length ? length : 1);
	XDR xdrs;
	int result;

	memcpy(exact, bytes, length);
	xdrmem_ncreate(&xdrs, exact, (u_int)length, XDR_DECODE);
	result = flexfiles_decode_return(&xdrs, errors, errors_max, count);
	xdr_destroy(&xdrs);
	free(exact);
	return result;
}

static void reports_are_read(void)
{
	struct flexfiles_error errors[8];
	size_t count;

	CU_ASSERT_EQUAL_FATAL(decode(returned, sizeof(returned), errors, 8, &count), 0);
	CU_ASSERT_EQUAL_FATAL(count, 3);
	CU_ASSERT_EQUAL(errors[0].offset, UINT64_C(0x100000002));
	CU_ASSERT_EQUAL(errors[0].length, UINT64_MAX);
	CU_ASSERT_EQUAL(memcmp(errors[0].device_id, device_a, 16), 0);
	CU_ASSERT_EQUAL(errors[0].status, 6);
	CU_ASSERT_EQUAL(errors[0].operation, 25);
	CU_ASSERT_EQUAL(errors[1].offset, UINT64_C(0x100000002));
	CU_ASSERT_EQUAL(memcmp(errors[1].device_id, device_b, 16), 0);
	CU_ASSERT_EQUAL(errors[1].status, 28);
	CU_ASSERT_EQUAL(errors[2].offset, 0x1000);
	CU_ASSERT_EQUAL(errors[2].length, 0x2000);
	CU_ASSERT_EQUAL(errors[2].status, 6);
	CU_ASSERT_EQUAL(errors[2].operation, 10044);
}

static void reports_cut_short_give_what_they_hold(void)
{
	struct flexfiles_error errors[8];
	size_t length, count, complete;

	for (length = 0; length < REPORTS_BYTES; length++) {
		complete = (length >= 64) + (length >= 88) + (length >= 148);
		CU_ASSERT_EQUAL(decode(returned, length, errors, 8, &count), -EBADMSG);
		CU_ASSERT_EQUAL(count, complete);
	}
	CU_ASSERT_EQUAL(decode(returned, REPORTS_BYTES, errors, 8, &count), 0);
	CU_ASSERT_EQUAL(count, 3);
}

static void impossible_reports_are_refused(void)
{
	uint8_t bytes[sizeof(returned)];
	struct flexfiles_error errors[8];
	size_t count, i;

	memset(bytes, 0xff, 4);
	CU_ASSERT_EQUAL(decode(bytes, 4, errors, 8, &count), -EBADMSG);
	CU_ASSERT_EQUAL(count, 0);
	/* The number of errors in a report, not the number of reports. */
	memcpy(bytes, returned, sizeof(returned));
	memset(bytes + 36, 0xff, 4);
	CU_ASSERT_EQUAL(decode(bytes, sizeof(bytes), errors, 8, &count), -EBADMSG);
	CU_ASSERT_EQUAL(count, 0);
	CU_ASSERT_EQUAL(decode(returned, sizeof(returned), errors, 2, &count), -E2BIG);
	CU_ASSERT_EQUAL(count, 2);
	CU_ASSERT_EQUAL(decode(returned, sizeof(returned), errors, 0, &count), -E2BIG);
	CU_ASSERT_EQUAL(count, 0);
	memset(bytes, 0, 8);
	CU_ASSERT_EQUAL(decode(bytes, 8, errors, 8, &count), 0);
	CU_ASSERT_EQUAL(count, 0);

	/* Whatever the bytes are, the decoder stays inside them. */
	srand(1);
	for (i = 0; i < 20000; i++) {
		size_t flips = 1 + (size_t)rand() % 6;

		memcpy(bytes, returned, sizeof(returned));
		while (flips-- > 0)
			bytes[(size_t)rand() % sizeof(bytes)] ^= (uint8_t)(1 << rand() % 8);
		decode(bytes, (size_t)rand() % (sizeof(bytes) + 1), errors, 8, &count);
		CU_ASSERT_FATAL(count <= 8);
	}
}

int main(void)
{
	unsigned int failures;
	CU_TestInfo tests[] = {
		{"a layout of one mirror is as in RFC 8435", layout_of_one_mirror_matches_rfc},
		{"a layout of two mirrors is as in RFC 8435", layout_of_two_mirrors_matches_rfc},
		{"clients accept every layout", clients_accept_every_layout},
		{"layouts that clients refuse are not made",
			layouts_that_clients_refuse_are_not_made},
		{"full streams are reported", full_streams_are_reported},
		{"devices are as in RFC 8435", devices_match_rfc},
		{"universal addresses are as in RFC 5665", universal_addresses_match_rfc},
		{"error reports are read", reports_are_read},
		{"error reports cut short give what they hold",
			reports_cut_short_give_what_they_hold},
		{"impossible error reports are refused", impossible_reports_are_refused},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {{.pName = "flexfiles_xdr", .pTests = tests}, CU_SUITE_INFO_NULL};

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
		fprintf(stderr, "CUnit: %s\n", CU_get_error_msg());
		return 2;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
