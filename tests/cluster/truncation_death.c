/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A client whose metadata server dies right after it has begun truncations.
 *
 *   truncation_death CLUSTER.JSON begin COUNT
 *       new files of FILE_BYTES, cut to CUT_BYTES, which nobody carries out
 *   truncation_death CLUSTER.JSON waiting COUNT
 *       prints how many of them wait
 *   truncation_death CLUSTER.JSON check COUNT
 *       makes them as long as they were: through every gateway that is up, zeros are read where
 *       they were cut off
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cluster/raw_client.h"

#define FILE_BYTES 100000
#define CUT_BYTES 30001

static struct raw raw;
static uint8_t bytes[FILE_BYTES], read_bytes[FILE_BYTES];

static void must(int status, const char *what, uint64_t number)
{
	if (status) {
		fprintf(stderr, "file %" PRIu64 ": %s: %d\n", number, what, status);
		exit(EXIT_FAILURE);
	}
}

static uint64_t file_of(uint64_t number)
{
	uint64_t file_id = 0;
	char name[64];

	snprintf(name, sizeof(name), "cut-%" PRIu64, number);
	must(raw_create(&raw, name, &file_id), "CREATE", number);
	for (unsigned int i = 0; i < FILE_BYTES; i++)
		bytes[i] = (uint8_t)(i * 31 + i / 251 + number + 1);
	return file_id;
}

static void begin(uint64_t number)
{
	uint64_t file_id = file_of(number);
	struct raw_layout layout;

	must(raw_layout(&raw, file_id, &layout), "LAYOUT", number);
	must(raw_write(&raw, file_id, &layout, 0, bytes, FILE_BYTES, true, NULL), "WRITE", number);
	must(raw_set_size(&raw, file_id, CUT_BYTES), "SETATTR", number);
}

static bool waits(uint64_t number)
{
	struct raw_placement placement;

	must(raw_placement(&raw, file_of(number), &placement), "PLACEMENT", number);
	return placement.truncate;
}

static void check(uint64_t number)
{
	uint64_t file_id = file_of(number);
	struct raw_layout layout;

	memset(bytes + CUT_BYTES, 0, FILE_BYTES - CUT_BYTES);
	must(raw_set_size(&raw, file_id, FILE_BYTES), "SETATTR", number);
	must(raw_layout(&raw, file_id, &layout), "LAYOUT", number);
	for (size_t i = 0; i < raw.config->node_count; i++) {
		uint32_t node = raw.config->nodes[i].id, length = 0;

		if (!raw_gateway_up(&raw, node, 1000))
			continue;
		memset(read_bytes, 0x55, FILE_BYTES);
		must(raw_read(
			     &raw, node, file_id, layout.epoch, 0, FILE_BYTES, read_bytes, &length),
			"READ", number);
		must(length != FILE_BYTES, "READ: too short", number);
		must(memcmp(bytes, read_bytes, FILE_BYTES) != 0, "READ: wrong bytes", number);
	}
}

int main(int argc, char **argv)
{
	uint64_t count = argc == 4 ? strtoull(argv[3], NULL, 10) : 0, waiting = 0;
	int status = EXIT_SUCCESS;

	if (count == 0) {
		fprintf(stderr, "truncation_death: arguments missing\n");
		return EXIT_FAILURE;
	}
	raw_open(&raw, argv[1]);
	for (uint64_t i = 0; i < count; i++) {
		if (!strcmp(argv[2], "begin"))
			begin(i);
		else if (!strcmp(argv[2], "waiting"))
			waiting += waits(i);
		else if (!strcmp(argv[2], "check"))
			check(i);
		else
			status = EXIT_FAILURE;
	}
	if (!strcmp(argv[2], "waiting"))
		printf("%" PRIu64 "\n", waiting);
	raw_close(&raw);
	return status;
}
