/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What config_load() promises: good documents are read with their defaults, bad ones are refused
 * with messages that an administrator can act on, and no bytes at all make it crash or return
 * something out of range.
 *
 * ROZO_SAMPLE, from the build, is the sample document of the source tree.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/config.h"

#define KEY_TEXT "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static char directory[] = "/tmp/rozo-test-config-XXXXXX";
static char document_path[64], key_path[64];

/* A whole document; @KEY@ stands for the key file. */
static const char good[] =
	"{\n"
	"  \"cluster\": { \"id\": \"test\", \"key_file\": \"@KEY@\", "
	"\"scrub_mib_per_second\": 25, \"scrub_interval_s\": 77, \"heal_mib_per_second\": 33, "
	"\"cache_mib\": 96, \"gather_ms\": 350 },\n"
	"  \"exportd\": { \"address\": \"10.0.0.1\", \"port\": 7700, \"data\": \"/var/meta\",\n"
	"    \"node_down_after_ms\": 1500, \"down_out_interval_s\": 44 },\n"
	"  \"nodes\": [\n"
	"    { \"id\": 30, \"address\": \"fd00::0003\", \"store_port\": 9001, \"nfs_port\": 9002,\n"
	"      \"failure_domain\": \"rack3\", \"devices\": [ \"/srv/a/\", \"/srv/b\" ] },\n"
	"    { \"id\": 10, \"address\": \"10.0.0.11\", \"devices\": [ \"/srv/c\" ] },\n"
	"    { \"id\": 20, \"address\": \"10.0.0.12\", \"devices\": [ \"/srv/d\" ] }\n"
	"  ],\n"
	"  \"exports\": [\n"
	"    { \"id\": 7, \"name\": \"fast\", \"protection\": \"2+1\", \"code\": \"systematic\",\n"
	"      \"row_bytes\": 65536, \"min_shards\": 3, \"segment_bytes\": 1048577 },\n"
	"    { \"id\": 5, \"name\": \"data\", \"protection\": \"2+1\" }\n"
	"  ]\n"
	"}\n";

static bool try_write_file(const char *path, const void *bytes, size_t count, mode_t mode)
{
	size_t written;
	FILE *file;

	unlink(path);
	file = fopen(path, "w");
	if (file == NULL)
		return false;
	written = fwrite(bytes, 1, count, file);
	return fclose(file) == 0 && written == count && chmod(path, mode) == 0;
}

static void write_file(const char *path, const void *bytes, size_t count, mode_t mode)
{
	CU_ASSERT_FATAL(try_write_file(path, bytes, count, mode));
}

/* The document with the first `old` replaced by `new`; the test is wrong if there is no `old`. */
static char *replaced(const char *document, const char *old, const char *new)
{
	const char *at = strstr(document, old);
	char *result = malloc(strlen(document) + strlen(new) + 1);

	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	CU_ASSERT_PTR_NOT_NULL_FATAL(result);
	memcpy(result, document, (size_t)(at - document));
	stpcpy(stpcpy(result + (at - document), new), at + strlen(old));
	return result;
}

static void write_document(const char *document)
{
	char *text = replaced(document, "@KEY@", key_path);

	write_file(document_path, text, strlen(text), 0644);
	free(text);
}

static int make_files(void)
{
	if (mkdtemp(directory) == NULL)
		return -1;
	snprintf(document_path, sizeof(document_path), "%s/cluster.json", directory);
	snprintf(key_path, sizeof(key_path), "%s/key", directory);
	return try_write_file(key_path, KEY_TEXT "\n", strlen(KEY_TEXT) + 1, 0600) ? 0 : -1;
}

static int remove_files(void)
{
	unlink(document_path);
	unlink(key_path);
	return rmdir(directory);
}

/* Loads the document; it must be good. */
static struct config *load_good(void)
{
	struct config *config = NULL;
	char error[4096];
	int result = config_load(document_path, &config, error, sizeof(error));

	if (result != 0)
		fprintf(stderr, "%s\n", error);
	CU_ASSERT_EQUAL_FATAL(result, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(config);
	CU_ASSERT_STRING_EQUAL(error, "");
	return config;
}

/* Loads the document; it must be refused with `result` and a message that contains `expected`. */
static void expect_refusal(int result, const char *expected)
{
	struct config *config = (struct config *)&config;
	char error[4096] = "untouched";
	int got = config_load(document_path, &config, error, sizeof(error));

	if (got != result || strstr(error, expected) == NULL)
		fprintf(stderr, "\nwanted: %d %s\ngot: %d %s\n", result, expected, got, error);
	CU_ASSERT_EQUAL(got, result);
	CU_ASSERT_PTR_NULL(config);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, expected));
	CU_ASSERT_EQUAL(strncmp(error, document_path, strlen(document_path)), 0);
}

static void test_values(void)
{
	struct config *config;
	const struct config_node *node;
	const struct config_export *export;

	write_document(good);
	config = load_good();
	CU_ASSERT_STRING_EQUAL(config->path, document_path);
	CU_ASSERT_STRING_EQUAL(config->cluster_id, "test");
	CU_ASSERT_STRING_EQUAL(config->key_file, key_path);
	for (unsigned int i = 0; i < RPC_KEY_BYTES; i++)
		CU_ASSERT_EQUAL(config->key.bytes[i], i);
	CU_ASSERT_STRING_EQUAL(config->exportd_address, "10.0.0.1");
	CU_ASSERT_EQUAL(config->exportd_port, 7700);
	CU_ASSERT_STRING_EQUAL(config->exportd_data, "/var/meta");
	CU_ASSERT_EQUAL(config->node_down_after_ms, 1500);
	CU_ASSERT_EQUAL(config->scrub_mib_per_second, 25);
	CU_ASSERT_EQUAL(config->cache_mib, 96);
	CU_ASSERT_EQUAL(config->gather_ms, 350);
	CU_ASSERT_EQUAL(config->scrub_interval_s, 77);
	CU_ASSERT_EQUAL(config->heal_mib_per_second, 33);
	CU_ASSERT_EQUAL(config->down_out_interval_s, 44);

	CU_ASSERT_EQUAL_FATAL(config->node_count, 3);
	CU_ASSERT_EQUAL(config->nodes[0].id, 10);
	CU_ASSERT_EQUAL(config->nodes[1].id, 20);
	CU_ASSERT_EQUAL(config->nodes[2].id, 30);
	node = config_node(config, 30);
	CU_ASSERT_PTR_EQUAL_FATAL(node, &config->nodes[2]);
	CU_ASSERT_STRING_EQUAL(node->address, "fd00::3");
	CU_ASSERT_EQUAL(node->store_port, 9001);
	CU_ASSERT_EQUAL(node->nfs_port, 9002);
	CU_ASSERT_STRING_EQUAL(node->failure_domain, "rack3");
	CU_ASSERT_EQUAL_FATAL(node->device_count, 2);
	CU_ASSERT_STRING_EQUAL(node->devices[0], "/srv/a");
	CU_ASSERT_STRING_EQUAL(node->devices[1], "/srv/b");
	CU_ASSERT_PTR_NULL(config_node(config, 11));
	CU_ASSERT_PTR_NULL(config_node(config, 0));

	CU_ASSERT_EQUAL_FATAL(config->export_count, 2);
	CU_ASSERT_EQUAL(config->exports[0].id, 5);
	export = config_export(config, "fast");
	CU_ASSERT_PTR_EQUAL_FATAL(export, &config->exports[1]);
	CU_ASSERT_PTR_EQUAL(config_export_by_id(config, 7), export);
	CU_ASSERT_PTR_NULL(config_export_by_id(config, 6));
	CU_ASSERT_PTR_NULL(config_export(config, "slow"));
	CU_ASSERT_EQUAL(export->code.form, MOJETTE_SYSTEMATIC);
	CU_ASSERT_EQUAL(export->code.k, 2);
	CU_ASSERT_EQUAL(export->code.m, 1);
	CU_ASSERT_EQUAL(export->row_bytes, 65536);
	CU_ASSERT_EQUAL(export->min_shards, 3);
	CU_ASSERT_EQUAL(export->segment_bytes, 1048576);
	CU_ASSERT_EQUAL(config_block_bytes(export), 131072);
	CU_ASSERT_EQUAL(config_segment_blocks(export), 8);
	config_free(config);
	config_free(NULL);
}

static void test_defaults(void)
{
	char *document = replaced(good, ", \"port\": 7700", "");
	char *shorter = replaced(
		document, ",\n    \"node_down_after_ms\": 1500, \"down_out_interval_s\": 44", "");
	char *shortest = replaced(shorter,
		", \"scrub_mib_per_second\": 25, \"scrub_interval_s\": 77, "
		"\"heal_mib_per_second\": "
		"33, \"cache_mib\": 96, \"gather_ms\": 350",
		"");
	char *off = replaced(shorter, ": 25", ": 0");
	char *patient = replaced(document, "1500, \"down_out_interval_s\": 44", "1234567");
	const struct config_export *export;
	struct config *config;

	write_document(off);
	config = load_good();
	CU_ASSERT_EQUAL(config->scrub_mib_per_second, 0);
	config_free(config);
	/* A node is not out before it is down. */
	write_document(patient);
	config = load_good();
	CU_ASSERT_EQUAL(config->down_out_interval_s, 1235);
	config_free(config);
	free(patient);
	write_document(shortest);
	config = load_good();
	CU_ASSERT_EQUAL(config->scrub_mib_per_second, 8);
	CU_ASSERT_EQUAL(config->cache_mib, 64);
	CU_ASSERT_EQUAL(config->gather_ms, 100);
	CU_ASSERT_EQUAL(config->scrub_interval_s, 600);
	CU_ASSERT_EQUAL(config->heal_mib_per_second, 32);
	CU_ASSERT_EQUAL(config->down_out_interval_s, 600);
	CU_ASSERT_EQUAL(config->exportd_port, 7600);
	CU_ASSERT_EQUAL(config->node_down_after_ms, 3000);
	CU_ASSERT_EQUAL(config->nodes[0].store_port, 7601);
	CU_ASSERT_EQUAL(config->nodes[0].nfs_port, 2049);
	CU_ASSERT_STRING_EQUAL(config->nodes[0].failure_domain, "node10");
	export = config_export(config, "data");
	CU_ASSERT_PTR_NOT_NULL_FATAL(export);
	CU_ASSERT_EQUAL(export->code.form, MOJETTE_NON_SYSTEMATIC);
	CU_ASSERT_EQUAL(export->row_bytes, 4096);
	CU_ASSERT_EQUAL(export->min_shards, 2);
	CU_ASSERT_EQUAL(export->segment_bytes, UINT64_C(64) << 30);
	CU_ASSERT_EQUAL(config_segment_blocks(export), UINT64_C(8) << 20);
	config_free(config);
	free(off);
	free(shortest);
	free(shorter);
	free(document);
}

/* A document of 24 nodes whose one export has this protection and, if not 0, min_shards. */
static void write_protection(const char *protection, uint32_t min_shards)
{
	char document[8192], member[32] = "";
	size_t used;

	used = (size_t)snprintf(document, sizeof(document),
		"{\"cluster\":{\"id\":\"c\",\"key_file\":\"@KEY@\"},"
		"\"exportd\":{\"address\":\"10.0.0.1\",\"data\":\"/m\"},\"nodes\":[");
	for (int id = 1; id <= 24; id++)
		used += (size_t)snprintf(document + used, sizeof(document) - used,
			"%s{\"id\":%d,\"address\":\"10.1.0.%d\",\"devices\":[\"/d\"]}",
			id == 1 ? "" : ",", id, id);
	if (min_shards != 0)
		snprintf(member, sizeof(member), ",\"min_shards\":%" PRIu32, min_shards);
	snprintf(document + used, sizeof(document) - used,
		"],\"exports\":[{\"id\":1,\"name\":\"e\",\"protection\":\"%s\"%s}]}", protection,
		member);
	write_document(document);
}

/* min_shards by protection: never fewer than k, and more than may be gone. */
static void test_min_shards(void)
{
	static const struct {
		const char *protection;
		uint32_t min_shards;
	} cases[] = {{"2+1", 2}, {"2+8", 9}, {"4+2", 4}, {"8+4", 8}, {"4+4", 5}, {"2+2", 3},
		{"16+8", 16}, {"3+4", 5}, {"2+3", 4}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config *config;
		char expected[64];

		write_protection(cases[i].protection, 0);
		config = load_good();
		CU_ASSERT_EQUAL(config->exports[0].min_shards, cases[i].min_shards);
		config_free(config);

		write_protection(cases[i].protection, cases[i].min_shards - 1);
		snprintf(expected, sizeof(expected),
			"min_shards: %" PRIu32 ": allowed: an integer from %" PRIu32 " to ",
			cases[i].min_shards - 1, cases[i].min_shards);
		expect_refusal(-EINVAL, expected);
	}
}

/* Each changes one place of the good document and names what must be said about it. */
static const struct {
	const char *old, *new, *message;
} refusals[] = {
	/* The document. */
	{"\"nodes\": [", "\"nodes\": [,", "line 5, column 13: "},
	{"{\n", "", "line 1, column 11: "},
	{"{\n", "[{\n", "line 17, column 0: ']' expected near end of file"},
	{"\"id\": \"test\"", "\"id\": \"te\xff", "line 2, column "},
	{"\"id\": \"test\"", "\"id\": \"te\\u0000st\"", "line 2, column "},
	{"\"port\": 7700", "\"port\": 99999999999999999999", "line 3, column "},
	{"\"id\": 10", "\"id\": 10, \"id\": 11",
		"line 8, column 20: duplicate object key near '\"id\"'"},
	/* Members. */
	{"\"exportd\"", "\"exprotd\"",
		"\"exprotd\": unknown member; allowed: cluster, exportd, nodes, exports"},
	{"\"exportd\"", "\"exprotd\"",
		"exportd: missing; allowed: an object with the members address"},
	{"\"cluster\"", "\"cluter\"", "cluster: missing; allowed: an object with the members id"},
	{"\"id\": \"test\"", "\"id\": \"test\", \"key\": 1",
		"cluster: \"key\": unknown member; allowed: id, key_file, scrub_mib_per_second, "
		"scrub_interval_s, heal_mib_per_second"},
	{"\"port\"", "\"prot\"",
		"exportd: \"prot\": unknown member; allowed: address, port, data, "
		"node_down_after_ms, down_out_interval_s"},
	{"\"id\": 10", "\"id\": 10, \"nfs-port\": 1",
		"nodes[1]: \"nfs-port\": unknown member; allowed: id, address, store_port, "
		"nfs_port, failure_domain, devices"},
	{"\"id\": 7", "\"id\": 7, \"rows\": 1",
		"exports[0]: \"rows\": unknown member; allowed: id, name, protection, code, "
		"row_bytes, min_shards, segment_bytes"},
	{"\"id\": 7", "\"id\": 7, \"a\\nb\\u001b\": 1", "exports[0]: \"a\\nb\\u001B\": unknown"},
	{"\"id\": 10, ", "", "nodes[1].id: missing; allowed: an integer from 1 to 65535"},
	{"\"id\": \"test\", ", "", "cluster.id: missing; allowed: a string of 1 to 63 letters"},
	{", \"address\": \"10.0.0.11\"", "", "nodes[1].address: missing; allowed: a numeric IPv4"},
	{", \"devices\": [ \"/srv/c\" ]", "",
		"nodes[1].devices: missing; allowed: an array of 1 to"},
	{", \"protection\": \"2+1\" }", "}", "exports[1].protection: missing; allowed: \"K+M\""},
	/* Types. */
	{"{ \"id\": 10, \"address\": \"10.0.0.11\", \"devices\": [ \"/srv/c\" ] }", "17",
		"nodes[1]: 17: allowed: an object with the members id, address"},
	{"{ \"id\": 10, \"address\": \"10.0.0.11\", \"devices\": [ \"/srv/c\" ] }", "[]",
		"nodes[1]: an array of 0: allowed: an object"},
	{"[ \"/srv/c\" ]", "\"/srv/c\"", "nodes[1].devices: \"/srv/c\": allowed: an array of 1"},
	{"[ \"/srv/c\" ]", "[]", "nodes[1].devices: an array of 0: allowed: an array of 1 to 256"},
	{"[ \"/srv/c\" ]", "[ {} ]", "nodes[1].devices[0]: an object: allowed: an absolute path"},
	{"\"id\": 10", "\"id\": \"10\"",
		"nodes[1].id: \"10\": allowed: an integer from 1 to 65535"},
	{"\"id\": 10", "\"id\": 10.0", "nodes[1].id: 10.0: allowed: an integer from 1 to 65535"},
	{"\"id\": 10", "\"id\": null", "nodes[1].id: null: allowed: an integer from 1 to 65535"},
	{"\"id\": 10", "\"id\": true", "nodes[1].id: true: allowed: an integer from 1 to 65535"},
	{"\"10.0.0.11\"", "167772171", "nodes[1].address: 167772171: allowed: a numeric IPv4"},
	{"\"test\"", "7", "cluster.id: 7: allowed: a string of"},
	/* Ranges. */
	{"\"id\": 10", "\"id\": 0", "nodes[1].id: 0: allowed: an integer from 1 to 65535"},
	{"\"id\": 10", "\"id\": -1", "nodes[1].id: -1: allowed: an integer from 1 to 65535"},
	{"\"id\": 10", "\"id\": 65536", "nodes[1].id: 65536: allowed: an integer from 1 to 65535"},
	{"\"id\": 7", "\"id\": 65536", "exports[0].id: 65536: allowed: an integer from 1 to 65535"},
	{"7700", "0", "exportd.port: 0: allowed: an integer from 1 to 65535"},
	{"7700", "65536", "exportd.port: 65536: allowed: an integer from 1 to 65535"},
	{": 25", ": 10001",
		"cluster.scrub_mib_per_second: 10001: allowed: an integer from 0 to 10000"},
	{": 96", ": 0", "cluster.cache_mib: 0: allowed: an integer from 1 to 65536"},
	{": 350", ": 10001", "cluster.gather_ms: 10001: allowed: an integer from 0 to 10000"},
	{": 33", ": 10001",
		"cluster.heal_mib_per_second: 10001: allowed: an integer from 0 to 10000"},
	{": 77", ": 0", "cluster.scrub_interval_s: 0: allowed: an integer from 1 to 31536000"},
	{": 44", ": 31536001",
		"exportd.down_out_interval_s: 31536001: allowed: an integer from 0 to 31536000"},
	{": 44", ": 1",
		"exportd.down_out_interval_s: 1: allowed: 0 (never), or not less than "
		"node_down_after_ms (1500)"},
	{": 25", ": -1", "cluster.scrub_mib_per_second: -1: allowed"},
	{": 25", ": 0.5", "cluster.scrub_mib_per_second: 0.5: allowed"},
	{"9001", "-9001", "nodes[0].store_port: -9001: allowed"},
	{"1500", "99", "exportd.node_down_after_ms: 99: allowed: an integer from 100 to 3600000"},
	{"1500", "3600001", "exportd.node_down_after_ms: 3600001: allowed"},
	{"\"row_bytes\": 65536", "\"row_bytes\": 131072",
		"exports[0].row_bytes: 131072: allowed: an integer from 1024 to 65536"},
	{"\"row_bytes\": 65536", "\"row_bytes\": 512", "exports[0].row_bytes: 512: allowed"},
	{"\"row_bytes\": 65536", "\"row_bytes\": 5000",
		"exports[0].row_bytes: 5000: allowed: a power of two from 1024 to 65536"},
	{"\"min_shards\": 3", "\"min_shards\": 1",
		"exports[0].min_shards: 1: allowed: an integer from 2 to 3"},
	{"\"min_shards\": 3", "\"min_shards\": 4",
		"exports[0].min_shards: 4: allowed: an integer from 2 to 3"},
	{"1048577", "1048575",
		"exports[0].segment_bytes: 1048575: allowed: an integer from 1048576 to "
		"17592186044416"},
	{"1048577", "17592186044417", "exports[0].segment_bytes: 17592186044417: allowed"},
	/* Forms. */
	{"\"test\"", "\"\"", "cluster.id: \"\": allowed: a string of"},
	{"\"test\"", "\"..\"", "cluster.id: \"..\": allowed: a string of"},
	{"\"fast\"", "\"fa/st\"", "exports[0].name: \"fa/st\": allowed: a string of"},
	{"\"fast\"", "\"f\\u00e4st\"", "exports[0].name: \"f\\u00E4st\": allowed: a string of"},
	{"\"rack3\"", "\"rack 3\"", "nodes[0].failure_domain: \"rack 3\": allowed"},
	{"\"10.0.0.11\"", "\"10.0.0.300\"",
		"nodes[1].address: \"10.0.0.300\": allowed: a numeric IPv4 or IPv6 address"},
	{"\"10.0.0.11\"", "\"store1\"", "nodes[1].address: \"store1\": allowed: a numeric IPv4"},
	{"\"10.0.0.11\"", "\"0.0.0.0\"", "nodes[1].address: \"0.0.0.0\": allowed"},
	{"\"10.0.0.11\"", "\"::\"", "nodes[1].address: \"::\": allowed"},
	{"\"10.0.0.11\"", "\"224.0.0.1\"", "nodes[1].address: \"224.0.0.1\": allowed"},
	{"\"10.0.0.11\"", "\"255.255.255.255\"", "nodes[1].address: \"255.255.255.255\": allowed"},
	{"\"10.0.0.11\"", "\"fe80::1%eth0\"", "nodes[1].address: \"fe80::1%eth0\": allowed"},
	{"\"10.0.0.11\"", "\"ff02::1\"", "nodes[1].address: \"ff02::1\": allowed"},
	{"\"10.0.0.11\"", "\"::ffff:10.0.0.11\"",
		"nodes[1].address: \"::ffff:10.0.0.11\": allowed"},
	{"\"10.0.0.11\"", "\"10.0.0.11:7601\"", "nodes[1].address: \"10.0.0.11:7601\": allowed"},
	{"\"/srv/c\"", "\"srv/c\"", "nodes[1].devices[0]: \"srv/c\": allowed: an absolute path"},
	{"\"/srv/c\"", "\"\"", "nodes[1].devices[0]: \"\": allowed: an absolute path"},
	{"\"/srv/c\"", "\"/\"", "nodes[1].devices[0]: \"/\": allowed: an absolute path"},
	{"\"/srv/c\"", "\"//\"", "nodes[1].devices[0]: \"//\": allowed: an absolute path"},
	{"\"/srv/c\"", "\"/srv//c\"",
		"nodes[1].devices[0]: \"/srv//c\": allowed: an absolute path"},
	{"\"/srv/c\"", "\"/srv/../c\"", "nodes[1].devices[0]: \"/srv/../c\": allowed"},
	{"\"/srv/c\"", "\"/srv/.\"", "nodes[1].devices[0]: \"/srv/.\": allowed"},
	{"\"/srv/c\"", "\"/srv\\n/c\"", "nodes[1].devices[0]: \"/srv\\n/c\": allowed"},
	{"\"/var/meta\"", "\"meta\"", "exportd.data: \"meta\": allowed: an absolute path"},
	{"\"protection\": \"2+1\", ", "\"protection\": \"1+2\", ",
		"exports[0].protection: \"1+2\": allowed: \"K+M\" with K from 2 to 16 and M from "
		"1 to 8, like \"4+2\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"17+1\", ",
		"exports[0].protection: \"17+1\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+9\", ",
		"exports[0].protection: \"2+9\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+0\", ",
		"exports[0].protection: \"2+0\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+\", ", "exports[0].protection: \"2+\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2-1\", ",
		"exports[0].protection: \"2-1\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"02+1\", ",
		"exports[0].protection: \"02+1\""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+1 \", ",
		"exports[0].protection: \"2+1 \""},
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+257\", ",
		"exports[0].protection: \"2+257\""},
	{"\"protection\": \"2+1\", ", "\"protection\": 3, ", "exports[0].protection: 3: allowed"},
	{"\"systematic\"", "\"Systematic\"",
		"exports[0].code: \"Systematic\": allowed: \"non-systematic\" or \"systematic\""},
	{"\"systematic\"", "null", "exports[0].code: null: allowed: \"non-systematic\""},
	/* Between parts. */
	{"\"protection\": \"2+1\", ", "\"protection\": \"2+2\", ",
		"exports[0].protection: \"2+2\": needs 4 storage nodes, one for each shard, and "
		"`nodes` has 3; allowed: K+M of at most 3"},
	{"\"id\": 10", "\"id\": 30", "nodes[1].id: 30 is at nodes[0].id already; each node's id"},
	{"\"id\": 7", "\"id\": 5", "exports[1].id: 5 is at exports[0].id already; each export's"},
	{"\"fast\"", "\"data\"", "exports[1].name: \"data\" is at exports[0].name already"},
	{"10.0.0.12", "10.0.0.11",
		"nodes[2].store_port: 10.0.0.11:7601 is at nodes[1].store_port already; two "
		"services cannot listen at one address and port"},
	{"9002", "9001", "nodes[0].nfs_port: [fd00::3]:9001 is at nodes[0].store_port already"},
	{"\"address\": \"10.0.0.11\"", "\"address\": \"10.0.0.1\", \"nfs_port\": 7700",
		"nodes[1].nfs_port: 10.0.0.1:7700 is at exportd.port already"},
	{"\"/srv/b\"", "\"/srv/a\"",
		"nodes[0].devices[1]: fd00::3:/srv/a/ is at nodes[0].devices[0] already; "
		"directories of one machine must not be used twice"},
	{"\"/srv/b\"", "\"/srv/a/b/c\"", "nodes[0].devices[1]: fd00::3:/srv/a/b/c/ lies inside"},
	{"\"/srv/b\"", "\"/srv\"",
		"nodes[0].devices[0]: fd00::3:/srv/a/ lies inside fd00::3:/srv/ of"},
	{"\"address\": \"10.0.0.11\", \"devices\": [ \"/srv/c\" ]",
		"\"address\": \"10.0.0.1\", \"devices\": [ \"/var/meta\" ]",
		"nodes[1].devices[0]: 10.0.0.1:/var/meta/ is at exportd.data already"},
};

static void test_refusals(void)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		char *document = replaced(good, refusals[i].old, refusals[i].new);

		write_document(document);
		expect_refusal(-EINVAL, refusals[i].message);
		free(document);
	}
}

static void test_neighbours_are_not_nested(void)
{
	char *document = replaced(good, "\"/srv/b\"", "\"/srv/a-b\", \"/srv/ab\", \"/srv/a b\"");

	write_document(document);
	config_free(load_good());
	free(document);
}

static void test_all_problems_at_once(void)
{
	char *one = replaced(good, "\"id\": 10", "\"id\": 0");
	char *two = replaced(one, "\"test\"", "\"\"");
	char *many;
	char error[8192], devices[512] = "";
	struct config *config;
	size_t lines = 1, used = 0;

	write_document(two);
	CU_ASSERT_EQUAL(config_load(document_path, &config, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "cluster.id: "));
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "nodes[1].id: "));

	for (int i = 0; i < 14; i++)
		used += (size_t)snprintf(devices + used, sizeof(devices) - used, "%s\"relative\"",
			i == 0 ? "[ " : ", ");
	snprintf(devices + used, sizeof(devices) - used, " ]");
	many = replaced(good, "[ \"/srv/c\" ]", devices);
	write_document(many);
	CU_ASSERT_EQUAL(config_load(document_path, &config, error, sizeof(error)), -EINVAL);
	for (const char *at = error; (at = strchr(at, '\n')) != NULL; at++)
		lines++;
	CU_ASSERT_EQUAL(lines, 11);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "nodes[1].devices[9]: \"relative\": allowed"));
	CU_ASSERT_PTR_NULL(strstr(error, "nodes[1].devices[10]"));
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "cluster.json: and 4 more"));
	free(many);
	free(two);
	free(one);
}

static void test_message_fits_its_buffer(void)
{
	char *document = replaced(good, "\"10.0.0.11\"", "\"10.0.0.300\"");
	char whole[4096], *part;
	struct config *config;

	write_document(document);
	CU_ASSERT_EQUAL(config_load(document_path, &config, whole, sizeof(whole)), -EINVAL);
	for (size_t bytes = 0; bytes <= strlen(whole) + 1; bytes++) {
		part = malloc(bytes + 1);
		CU_ASSERT_PTR_NOT_NULL_FATAL(part);
		part[bytes] = '#';
		CU_ASSERT_EQUAL(config_load(document_path, &config, part, bytes), -EINVAL);
		CU_ASSERT_EQUAL(part[bytes], '#');
		if (bytes > 0) {
			CU_ASSERT_EQUAL(strlen(part), bytes - 1);
			CU_ASSERT_EQUAL(strncmp(part, whole, bytes - 1), 0);
		}
		free(part);
	}
	CU_ASSERT_EQUAL(config_load(document_path, &config, NULL, 0), -EINVAL);
	free(document);
}

/* In a process of its own: one that has changed its user can no longer be checked for leaks. */
static int load_as_nobody(void)
{
	struct config *config;
	char error[512];
	int status;
	pid_t child = fork();

	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(255);
		_exit(-config_load(document_path, &config, error, sizeof(error)));
	}
	CU_ASSERT_EQUAL_FATAL(waitpid(child, &status, 0), child);
	CU_ASSERT_FATAL(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void test_files_that_cannot_be_read(void)
{
	struct config *config;
	char error[512];

	CU_ASSERT_EQUAL(config_load("/nonexistent/x.json", &config, error, sizeof(error)), -ENOENT);
	CU_ASSERT_STRING_EQUAL(error, "/nonexistent/x.json: No such file or directory");
	CU_ASSERT_EQUAL(config_load("/etc/passwd/x", &config, error, sizeof(error)), -ENOENT);
	CU_ASSERT_EQUAL(config_load(directory, &config, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "Is a directory; allowed: a regular file"));
	CU_ASSERT_EQUAL(config_load("/dev/zero", &config, error, sizeof(error)), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(error, "allowed: a regular file"));

	unlink(document_path);
	CU_ASSERT_EQUAL_FATAL(mkfifo(document_path, 0600), 0);
	expect_refusal(-EINVAL, "allowed: a regular file"); /* and it does not wait for a writer */
	write_file(document_path, "", 0, 0644);
	expect_refusal(-EINVAL, "line 1, column 0: ");
	CU_ASSERT_EQUAL_FATAL(truncate(document_path, (16 << 20) + 1), 0);
	expect_refusal(-EINVAL, "File too large; allowed: a regular file of at most 16 MiB");

	/* Neither the document nor, if that can be read, the key. */
	if (geteuid() != 0)
		return; /* another user is needed */
	write_document(good);
	CU_ASSERT_EQUAL(load_as_nobody(), -EACCES);
	CU_ASSERT_EQUAL_FATAL(chmod(directory, 0711), 0);
	CU_ASSERT_EQUAL(load_as_nobody(), -EACCES);
	CU_ASSERT_EQUAL_FATAL(chmod(key_path, 0400), 0);
	CU_ASSERT_EQUAL_FATAL(chown(key_path, 65534, 65534), 0);
	CU_ASSERT_EQUAL(load_as_nobody(), 0);
	CU_ASSERT_EQUAL_FATAL(chown(key_path, 0, 0), 0);
	CU_ASSERT_EQUAL_FATAL(chmod(directory, 0700), 0);
}

static void test_key_files(void)
{
	static const struct {
		const char *text;
		mode_t mode;
		const char *message;
	} cases[] = {
		{KEY_TEXT, 0644, "has mode 0644; allowed: 0600 or 0400"},
		{KEY_TEXT, 0640, "has mode 0640; allowed: 0600 or 0400"},
		{KEY_TEXT, 0604, "has mode 0604; allowed: 0600 or 0400"},
		{KEY_TEXT, 0620, "has mode 0620; allowed: 0600 or 0400"},
		{KEY_TEXT, 0700, "has mode 0700; allowed: 0600 or 0400"},
		{KEY_TEXT "0", 0600, "has 65 characters; allowed: exactly 64 hexadecimal digits"},
		{"0011", 0600, "has 4 characters; allowed: exactly 64 hexadecimal digits"},
		{"", 0600, "has 0 characters; allowed: exactly 64 hexadecimal digits"},
		{" " KEY_TEXT, 0600, "has 65 characters; allowed"},
		{"00010203040506070g090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F", 0600,
			"character 18 is not a hexadecimal digit; allowed: exactly 64 of"},
	};
	char expected[256], *long_key = malloc(8192);
	struct config *config;

	write_document(good);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_file(key_path, cases[i].text, strlen(cases[i].text), cases[i].mode);
		expect_refusal(-EINVAL, cases[i].message);
		expect_refusal(-EINVAL, "cluster.key_file: ");
	}
	write_file(key_path, KEY_TEXT, strlen(KEY_TEXT), 0644);
	snprintf(expected, sizeof(expected), "remedy: chmod 600 %s", key_path);
	expect_refusal(-EINVAL, expected);
	CU_ASSERT_PTR_NOT_NULL_FATAL(long_key);
	memset(long_key, '0', 8192);
	write_file(key_path, long_key, 8192, 0600);
	expect_refusal(-EINVAL, "is not a key file; allowed: a regular file of 64");
	free(long_key);

	unlink(key_path);
	snprintf(expected, sizeof(expected),
		"cluster.key_file: %s: No such file or directory; copy it from another machine",
		key_path);
	expect_refusal(-ENOENT, expected);
	CU_ASSERT_EQUAL_FATAL(mkdir(key_path, 0700), 0);
	expect_refusal(-EINVAL, "is not a key file");
	rmdir(key_path);

	write_file(key_path, KEY_TEXT, strlen(KEY_TEXT), 0400);
	config_free(load_good());
	write_file(key_path, KEY_TEXT "\r\n", strlen(KEY_TEXT) + 2, 0600);
	config = load_good();
	CU_ASSERT_EQUAL(config->key.bytes[31], 0x1f);
	config_free(config);
	write_file(key_path, KEY_TEXT "\n", strlen(KEY_TEXT) + 1, 0600);
}

/* The same on every machine and in every version: handles outlive a restart. */
static void test_handle_key(void)
{
	/* BLAKE2b-256, key: the cluster key; salt: 1, little-endian; person: "rozohndl". */
	static const uint8_t expected[32] = {0x8e, 0xec, 0x71, 0x78, 0x23, 0xa1, 0x1d, 0x77, 0x00,
		0x89, 0x75, 0x31, 0x9a, 0x5c, 0x98, 0xb1, 0x10, 0x3c, 0x73, 0x6b, 0x52, 0xd7, 0x0c,
		0x53, 0xb9, 0x80, 0xd0, 0xd2, 0x30, 0x4e, 0xda, 0xf5};
	struct config *config;
	uint8_t key[32];

	write_document(good);
	config = load_good();
	config_handle_key(config, key);
	CU_ASSERT_EQUAL(memcmp(key, expected, sizeof(key)), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(key, config->key.bytes, sizeof(key)), 0);
	config_free(config);
}

/* -------- mutations -------- */

/* Everything that readers of a configuration rely on. */
static void check_promises(const struct config *config)
{
	CU_ASSERT_FATAL(config->cluster_id != NULL && config->cluster_id[0] != '\0');
	CU_ASSERT_FATAL(config->exportd_address != NULL && config->exportd_port > 0);
	CU_ASSERT_FATAL(config->exportd_data != NULL && config->exportd_data[0] == '/');
	CU_ASSERT_FATAL(config->node_down_after_ms >= 100);
	CU_ASSERT_FATAL(config->node_count >= 1 && config->node_count <= 4096);
	CU_ASSERT_FATAL(config->export_count >= 1);
	for (size_t i = 0; i < config->node_count; i++) {
		const struct config_node *node = &config->nodes[i];

		CU_ASSERT_FATAL(node->id >= 1 && node->id <= CONFIG_NODE_ID_MAX);
		CU_ASSERT_FATAL(i == 0 || node->id > node[-1].id);
		CU_ASSERT_FATAL(node->address != NULL && node->failure_domain != NULL);
		CU_ASSERT_FATAL(node->store_port > 0 && node->nfs_port > 0);
		CU_ASSERT_FATAL(node->device_count >= 1);
		for (size_t d = 0; d < node->device_count; d++)
			CU_ASSERT_FATAL(node->devices[d] != NULL && node->devices[d][0] == '/');
		CU_ASSERT_PTR_EQUAL_FATAL(config_node(config, node->id), node);
	}
	for (size_t i = 0; i < config->export_count; i++) {
		const struct config_export *export = &config->exports[i];
		uint32_t n = (uint32_t) export->code.k + export->code.m;

		CU_ASSERT_EQUAL_FATAL(mojette_code_check(&export->code), 0);
		CU_ASSERT_FATAL(n <= config->node_count);
		CU_ASSERT_FATAL(export->id >= 1 && export->id <= CONFIG_EXPORT_ID_MAX);
		CU_ASSERT_FATAL(export->row_bytes >= 1024 && export->row_bytes <= 65536);
		CU_ASSERT_EQUAL_FATAL(export->row_bytes & (export->row_bytes - 1), 0);
		CU_ASSERT_FATAL(export->min_shards >= export->code.k);
		CU_ASSERT_FATAL(export->min_shards > export->code.m && export->min_shards <= n);
		CU_ASSERT_EQUAL_FATAL(export->segment_bytes % config_block_bytes(export), 0);
		CU_ASSERT_FATAL(config_segment_blocks(export) >= 1);
		CU_ASSERT_PTR_EQUAL_FATAL(config_export(config, export->name), export);
		CU_ASSERT_PTR_EQUAL_FATAL(config_export_by_id(config, export->id), export);
	}
}

/* Loads whatever is in the file. Returns whether it was taken. */
static bool load_any(void)
{
	struct config *config;
	char error[1024];
	int result = config_load(document_path, &config, error, sizeof(error));

	CU_ASSERT_EQUAL_FATAL(result == 0, config != NULL);
	CU_ASSERT_EQUAL_FATAL(result == 0, error[0] == '\0');
	if (result != 0)
		return false;
	check_promises(config);
	config_free(config);
	return true;
}

/* A generator of our own, so that a failure is found again by its seed on any machine. */
static uint32_t random_state;

static uint32_t random_below(uint32_t limit)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)random_state * limit >> 32);
}

static void test_mutated_bytes(void)
{
	static const char interesting[] = "{}[]\",:\\0-9eE.+/tfn \n\x00\x7f\x80\xff";
	char *text = replaced(good, "@KEY@", key_path);
	size_t length = strlen(text);
	unsigned int taken = 0;

	for (uint32_t seed = 0; seed < 6000; seed++) {
		char mutated[4096];
		size_t bytes = length;

		memcpy(mutated, text, length);
		random_state = seed;
		for (uint32_t edits = 1 + random_below(3); edits > 0 && bytes > 64; edits--) {
			uint32_t at = random_below((uint32_t)bytes), span = random_below(32);
			uint32_t from = random_below((uint32_t)bytes - 32);

			if (span > bytes - at)
				span = (uint32_t)bytes - at;
			switch (random_below(5)) {
			case 0:
				mutated[at] = interesting[random_below(sizeof(interesting) - 1)];
				break;
			case 1:
				mutated[at] ^= (char)(1 << random_below(8));
				break;
			case 2: /* cut a piece out */
				memmove(mutated + at, mutated + at + span, bytes - at - span);
				bytes -= span;
				break;
			case 3: /* copy a piece over another */
				memmove(mutated + at, mutated + from, span < 32 ? span : 32);
				break;
			case 4: /* end early */
				if (random_below(8) == 0)
					bytes = at;
				break;
			}
		}
		write_file(document_path, mutated, bytes, 0644);
		taken += load_any();
	}
	CU_ASSERT(taken > 100); /* some edits are harmless, else the mutations are too coarse */
	CU_ASSERT(taken < 3000);
	free(text);
}

/* A random value below *value, by way of its containers; `value` itself if it has none. */
static json_t *strange_value(void)
{
	static const char *const strange[] = {"null", "true", "0", "-1", "1", "2", "30", "65535",
		"65536", "2147483648", "4294967297", "9223372036854775807", "-9223372036854775808",
		"1e308", "0.5", "\"\"", "\"/\"", "\"/a\"", "\"4+2\"", "\"2+1\"", "\"16+8\"",
		"\"10.0.0.1\"", "\"::1\"", "\"systematic\"", "{}", "[]", "[[]]", "[1]", "[\"/a\"]",
		"{\"id\":1}"};

	return json_loads(
		strange[random_below(sizeof(strange) / sizeof(strange[0]))], JSON_DECODE_ANY, NULL);
}

static void mutate_value(json_t *container)
{
	size_t count =
		json_is_array(container) ? json_array_size(container) : json_object_size(container);
	uint32_t which = random_below((uint32_t)count + 1), action = random_below(10);
	const char *key = NULL, *found = NULL;
	json_t *child = NULL;

	if (json_is_array(container)) {
		if (which == count) {
			json_array_append_new(container, strange_value());
			return;
		}
		child = json_array_get(container, which);
	} else {
		json_object_foreach(container, key, child)
		{
			found = key;
			if (which-- == 0)
				break;
		}
		if (found == NULL || random_below(20) == 0) {
			json_object_set_new(container, "strange", strange_value());
			return;
		}
		child = json_object_get(container, found);
	}
	if ((json_is_array(child) || json_is_object(child)) && action < 8)
		mutate_value(child);
	else if (json_is_array(container) && action == 9)
		json_array_append(container, child); /* a duplicate */
	else if (json_is_array(container) && action == 8)
		json_array_remove(container, which);
	else if (json_is_array(container))
		json_array_set_new(container, which, strange_value());
	else if (action == 8)
		json_object_del(container, found);
	else
		json_object_set_new(container, found, strange_value());
}

static void test_mutated_values(void)
{
	char *text = replaced(good, "@KEY@", key_path);
	unsigned int taken = 0;

	for (uint32_t seed = 0; seed < 6000; seed++) {
		json_t *document = json_loads(text, 0, NULL);
		char *mutated;

		CU_ASSERT_PTR_NOT_NULL_FATAL(document);
		random_state = seed;
		for (uint32_t edits = 1 + random_below(4); edits > 0; edits--)
			mutate_value(document);
		mutated = json_dumps(document, 0);
		CU_ASSERT_PTR_NOT_NULL_FATAL(mutated);
		write_file(document_path, mutated, strlen(mutated), 0644);
		taken += load_any();
		free(mutated);
		json_decref(document);
	}
	CU_ASSERT(taken > 100);
	CU_ASSERT(taken < 3000);
	free(text);
}

static void test_large_cluster(void)
{
	FILE *file = fopen(document_path, "w");
	struct config *config;

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fprintf(file,
		"{\"cluster\":{\"id\":\"big\",\"key_file\":\"%s\"},\"exportd\":{\"address\":"
		"\"10.255.0.1\",\"data\":\"/m\"},\"exports\":[{\"id\":1,\"name\":\"data\","
		"\"protection\":\"16+8\"}],\"nodes\":[",
		key_path);
	for (int i = 0; i < 4096; i++) {
		fprintf(file, "%s{\"id\":%d,\"address\":\"10.1.%d.%d\",\"devices\":[",
			i == 0 ? "" : ",", 4096 - i, i / 256, i % 256);
		for (int d = 0; d < 16; d++)
			fprintf(file, "%s\"/srv/disk%d\"", d == 0 ? "" : ",", d);
		fputs("]}", file);
	}
	fputs("]}", file);
	CU_ASSERT_EQUAL_FATAL(fclose(file), 0);
	config = load_good();
	check_promises(config);
	CU_ASSERT_EQUAL(config->node_count, 4096);
	CU_ASSERT_STRING_EQUAL(config_node(config, 1)->address, "10.1.15.255");
	config_free(config);
}

static void test_sample(void)
{
	json_t *document = json_load_file(ROZO_SAMPLE, JSON_REJECT_DUPLICATES, NULL);
	const struct config_export *export;
	struct config *config;

	/* As it is but for the key, which belongs to no package. */
	CU_ASSERT_PTR_NOT_NULL_FATAL(document);
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(
				       json_object_get(document, "cluster"), "key_file")),
		"/etc/rozo/cluster.key");
	json_object_set_new(
		json_object_get(document, "cluster"), "key_file", json_string(key_path));
	CU_ASSERT_EQUAL_FATAL(json_dump_file(document, document_path, 0), 0);
	json_decref(document);
	config = load_good();
	check_promises(config);
	export = config_export(config, "data");
	CU_ASSERT_PTR_NOT_NULL_FATAL(export);
	CU_ASSERT_EQUAL(export->code.form, MOJETTE_NON_SYSTEMATIC);
	config_free(config);
}

int main(void)
{
	static const CU_TestInfo tests[] = {
		{"every value is read", test_values},
		{"what is missing gets its default", test_defaults},
		{"min_shards follows the protection", test_min_shards},
		{"mistakes are refused and named", test_refusals},
		{"directories side by side are not nested", test_neighbours_are_not_nested},
		{"up to ten problems are reported at once", test_all_problems_at_once},
		{"messages fit every buffer", test_message_fits_its_buffer},
		{"files that cannot be read are named", test_files_that_cannot_be_read},
		{"key files that are not secret or no key are refused", test_key_files},
		{"the handle key stays what it is", test_handle_key},
		{"mutated bytes never crash it", test_mutated_bytes},
		{"mutated values never crash it", test_mutated_values},
		{"4096 nodes are read", test_large_cluster},
		{"the sample is good", test_sample},
		CU_TEST_INFO_NULL,
	};
	unsigned int failures;
	CU_pSuite suite;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	suite = CU_add_suite("config", make_files, remove_files);
	if (suite == NULL) {
		CU_cleanup_registry();
		return EXIT_FAILURE;
	}
	for (const CU_TestInfo *test = tests; test->pName != NULL; test++) {
		if (CU_add_test(suite, test->pName, test->pTestFunc) == NULL) {
			CU_cleanup_registry();
			return EXIT_FAILURE;
		}
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	CU_cleanup_registry();
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
