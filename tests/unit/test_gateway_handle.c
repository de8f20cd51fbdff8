/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the gateways' file handles promise: they come back as they were made, and nothing else is
 * taken for one.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/gateway_handle.h"

static uint8_t key[GATEWAY_HANDLE_KEY_BYTES];
static const struct gateway_handle example = {
	.export_id = 0x01020304,
	.file_id = UINT64_C(0x1112131415161718),
	.layout_epoch = 0x21222324,
	.iomode = GATEWAY_RW,
};

static int make_key(void)
{
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	return sodium_init() < 0 ? -1 : 0;
}

/* Signs any 24 bytes as an insider would, to get past the MAC to the checks behind it. */
static void sign(uint8_t bytes[GATEWAY_HANDLE_BYTES])
{
	crypto_generichash(bytes + 24, 32, bytes, 24, key, sizeof(key));
}

static void test_round_trip(void)
{
	static const uint64_t file_ids[] = {0, 1, UINT64_MAX};
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	struct gateway_handle got;

	for (size_t i = 0; i < 3; i++) {
		for (int mode = GATEWAY_READ; mode <= GATEWAY_RW; mode++) {
			struct gateway_handle made = {
				.export_id = (uint32_t)(file_ids[i] >> 16),
				.file_id = file_ids[i],
				.layout_epoch = (uint32_t)file_ids[i],
				.iomode = (enum gateway_iomode)mode,
			};

			gateway_handle_encode(&made, key, bytes);
			memset(&got, 0xee, sizeof(got));
			CU_ASSERT_EQUAL_FATAL(
				gateway_handle_decode(bytes, sizeof(bytes), key, &got), 0);
			CU_ASSERT_EQUAL(got.export_id, made.export_id);
			CU_ASSERT_EQUAL(got.file_id, made.file_id);
			CU_ASSERT_EQUAL(got.layout_epoch, made.layout_epoch);
			CU_ASSERT_EQUAL(got.iomode, made.iomode);
		}
	}
}

/* Clients keep handles over an upgrade of the servers: the bytes must never change. */
static void test_wire_format(void)
{
	static const uint8_t expected[24] = {1, 2, 0, 0, 0x01, 0x02, 0x03, 0x04, 0x11, 0x12, 0x13,
		0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0, 0, 0, 0};
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	char mac[65];

	gateway_handle_encode(&example, key, bytes);
	CU_ASSERT_EQUAL(memcmp(bytes, expected, sizeof(expected)), 0);
	sodium_bin2hex(mac, sizeof(mac), bytes + 24, 32);
	CU_ASSERT_STRING_EQUAL(
		mac, "5a53f6c241fc87170beb7c31dbebec96420cf3b9ab948d937f696898fb772ca1");
}

static void test_flipped_bits_are_refused(void)
{
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	struct gateway_handle got;

	gateway_handle_encode(&example, key, bytes);
	for (unsigned int bit = 0; bit < 8 * sizeof(bytes); bit++) {
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CU_ASSERT_EQUAL(gateway_handle_decode(bytes, sizeof(bytes), key, &got), -EBADF);
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	CU_ASSERT_EQUAL(gateway_handle_decode(bytes, sizeof(bytes), key, &got), 0);
}

static void test_wrong_lengths_are_refused(void)
{
	struct gateway_handle got;

	for (size_t length = 0; length <= 64; length++) {
		/* Of exactly this length, so that AddressSanitizer sees a byte too many. */
		uint8_t *bytes = malloc(length > 0 ? length : 1);
		uint8_t whole[GATEWAY_HANDLE_BYTES];

		CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
		gateway_handle_encode(&example, key, whole);
		for (size_t i = 0; i < length; i++)
			bytes[i] = i < sizeof(whole) ? whole[i] : 0;
		CU_ASSERT_EQUAL(gateway_handle_decode(bytes, length, key, &got),
			length == GATEWAY_HANDLE_BYTES ? 0 : -EBADF);
		free(bytes);
	}
}

static void test_other_keys_are_refused(void)
{
	uint8_t bytes[GATEWAY_HANDLE_BYTES], other[GATEWAY_HANDLE_KEY_BYTES];
	struct gateway_handle got;

	gateway_handle_encode(&example, key, bytes);
	for (unsigned int bit = 0; bit < 8 * sizeof(other); bit++) {
		memcpy(other, key, sizeof(other));
		other[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CU_ASSERT_EQUAL(gateway_handle_decode(bytes, sizeof(bytes), other, &got), -EBADF);
	}
}

static void test_signed_nonsense_is_refused(void)
{
	/* Format, iomode, the reserved bytes: offset and value. */
	static const uint8_t nonsense[][2] = {{0, 0}, {0, 2}, {0, 255}, {1, 0}, {1, 3}, {1, 255},
		{2, 1}, {3, 1}, {20, 1}, {21, 1}, {22, 1}, {23, 1}};
	uint8_t bytes[GATEWAY_HANDLE_BYTES];
	struct gateway_handle got;

	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		gateway_handle_encode(&example, key, bytes);
		bytes[nonsense[i][0]] = nonsense[i][1];
		sign(bytes);
		CU_ASSERT_EQUAL(gateway_handle_decode(bytes, sizeof(bytes), key, &got), -EBADF);
	}
	/* And the signature of this test is the right one. */
	gateway_handle_encode(&example, key, bytes);
	bytes[1] = GATEWAY_READ;
	sign(bytes);
	CU_ASSERT_EQUAL(gateway_handle_decode(bytes, sizeof(bytes), key, &got), 0);
	CU_ASSERT_EQUAL(got.iomode, GATEWAY_READ);
}

int main(void)
{
	CU_pSuite suite;
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	suite = CU_add_suite("gateway_handle", make_key, NULL);
	if (suite == NULL ||
		CU_add_test(suite, "a handle comes back as it was made", test_round_trip) == NULL ||
		CU_add_test(suite, "the bytes of version 1 stay as they are", test_wire_format) ==
			NULL ||
		CU_add_test(suite, "every flipped bit is refused", test_flipped_bits_are_refused) ==
			NULL ||
		CU_add_test(suite, "every wrong length is refused",
			test_wrong_lengths_are_refused) == NULL ||
		CU_add_test(suite, "every other key is refused", test_other_keys_are_refused) ==
			NULL ||
		CU_add_test(suite, "wrong fields are refused even if signed",
			test_signed_nonsense_is_refused) == NULL) {
		CU_cleanup_registry();
		return EXIT_FAILURE;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
