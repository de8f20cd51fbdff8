/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The schema of the cluster's document: which members there are, their defaults and ranges, and
 * what must hold between them. docs/configuration.md describes the same for administrators.
 *
 * Reading goes on past a problem, so that one start shows all of them; parts that could not be read
 * are left out of the checks between parts. A struct config is not changed after config_load(), so
 * it may be read from any thread; nothing here takes a lock.
 */
#include "config/config.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"

#define DOCUMENT_BYTES_MAX (16 << 20) /* 4096 nodes with many devices take a tenth of it */
#define NODES_MAX 4096
#define EXPORTS_MAX 1024
#define DEVICES_MAX 256

#define DEFAULT_SCRUB_MIB_PER_SECOND 8
#define DEFAULT_SCRUB_INTERVAL_S 600
#define DEFAULT_HEAL_MIB_PER_SECOND 32
#define DEFAULT_CACHE_MIB 64
#define DEFAULT_GATHER_MS 100
#define DEFAULT_EXPORTD_PORT 7600
#define DEFAULT_STORE_PORT 7601
#define DEFAULT_NFS_PORT 2049
#define DEFAULT_NODE_DOWN_AFTER_MS 3000
#define DEFAULT_DOWN_OUT_INTERVAL_S 600
#define DEFAULT_ROW_BYTES 4096
#define DEFAULT_SEGMENT_BYTES (UINT64_C(64) << 30)

#define SCRUB_MIB_PER_SECOND_MAX 10000
#define SCRUB_INTERVAL_S_MAX 31536000
#define HEAL_MIB_PER_SECOND_MAX 10000
#define DOWN_OUT_INTERVAL_S_MAX 31536000 /* a year */
#define CACHE_MIB_MAX 65536
#define GATHER_MS_MAX 10000
#define NODE_DOWN_AFTER_MS_MIN 100
#define NODE_DOWN_AFTER_MS_MAX 3600000
#define ROW_BYTES_MIN 1024
#define SEGMENT_BYTES_MIN (UINT64_C(1) << 20) /* the largest block: 16 rows of 64 KiB */
#define SEGMENT_BYTES_MAX (UINT64_C(16) << 40)

_Static_assert(SEGMENT_BYTES_MIN >= (uint64_t)MOJETTE_K_MAX * MOJETTE_ROW_BYTES_MAX,
	"every segment holds a block");
_Static_assert(crypto_kdf_KEYBYTES == RPC_KEY_BYTES, "keys are derived from the cluster key");

/* What is being read, and the values that must differ from each other. */
struct reading {
	struct config_problems problems;
	struct config *config;
	struct config_unique node_ids;
	struct config_unique export_ids;
	struct config_unique export_names;
	struct config_unique endpoints;
	struct config_unique directories; /* of exportd and the devices, by address */
	bool nodes_known; /* the number of nodes is what the document means */
	int file_error; /* of the key file: the result if nothing else is wrong */
};

static uint16_t take_port(struct reading *reading, const char *parent, const json_t *object,
	const char *name, uint16_t otherwise, const char *address)
{
	char place[CONFIG_PLACE_BYTES];
	uint64_t port = otherwise;
	bool good = config_take_number(
		&reading->problems, parent, object, name, CONFIG_OPTIONAL, 1, UINT16_MAX, &port);

	if (good && address != NULL) {
		config_place(place, parent, name);
		config_unique_add(&reading->problems, &reading->endpoints, place,
			strchr(address, ':') != NULL ? "[%s]:%" PRIu64 : "%s:%" PRIu64, address,
			port);
	}
	return (uint16_t)port;
}

static void read_cluster(struct reading *reading, const json_t *document)
{
	static const char *const names[] = {"id", "key_file", "scrub_mib_per_second",
		"scrub_interval_s", "heal_mib_per_second", "cache_mib", "gather_ms", NULL};
	uint64_t scrub_interval_s = DEFAULT_SCRUB_INTERVAL_S;
	uint64_t scrub_mib_per_second = DEFAULT_SCRUB_MIB_PER_SECOND;
	uint64_t heal_mib_per_second = DEFAULT_HEAL_MIB_PER_SECOND;
	uint64_t cache_mib = DEFAULT_CACHE_MIB, gather_ms = DEFAULT_GATHER_MS;
	const json_t *cluster = json_object_get(document, "cluster");
	struct config *config = reading->config;

	if (cluster == NULL) {
		config_problem(&reading->problems, "cluster", NULL,
			"missing; allowed: an object with the members id, key_file");
		return;
	}
	if (!config_check_object(&reading->problems, "cluster", cluster, names) &&
		!json_is_object(cluster))
		return;
	config->cluster_id =
		config_take_name(&reading->problems, "cluster", cluster, "id", CONFIG_REQUIRED);
	config->key_file = config_take_path(&reading->problems, "cluster", cluster, "key_file");
	config_take_number(&reading->problems, "cluster", cluster, "scrub_mib_per_second",
		CONFIG_OPTIONAL, 0, SCRUB_MIB_PER_SECOND_MAX, &scrub_mib_per_second);
	config->scrub_mib_per_second = (uint32_t)scrub_mib_per_second;
	config_take_number(&reading->problems, "cluster", cluster, "scrub_interval_s",
		CONFIG_OPTIONAL, 1, SCRUB_INTERVAL_S_MAX, &scrub_interval_s);
	config->scrub_interval_s = (uint32_t)scrub_interval_s;
	config_take_number(&reading->problems, "cluster", cluster, "heal_mib_per_second",
		CONFIG_OPTIONAL, 0, HEAL_MIB_PER_SECOND_MAX, &heal_mib_per_second);
	config->heal_mib_per_second = (uint32_t)heal_mib_per_second;
	config_take_number(&reading->problems, "cluster", cluster, "cache_mib", CONFIG_OPTIONAL, 1,
		CACHE_MIB_MAX, &cache_mib);
	config->cache_mib = (uint32_t)cache_mib;
	config_take_number(&reading->problems, "cluster", cluster, "gather_ms", CONFIG_OPTIONAL, 0,
		GATHER_MS_MAX, &gather_ms);
	config->gather_ms = (uint32_t)gather_ms;
	if (config->key_file != NULL)
		reading->file_error = config_read_key(&reading->problems, "cluster.key_file",
			config->key_file, config->key.bytes);
}

static void read_exportd(struct reading *reading, const json_t *document)
{
	static const char *const names[] = {
		"address", "port", "data", "node_down_after_ms", "down_out_interval_s", NULL};
	const json_t *exportd = json_object_get(document, "exportd");
	struct config *config = reading->config;
	uint64_t node_down_after_ms = DEFAULT_NODE_DOWN_AFTER_MS;
	uint64_t down_out_interval_s = DEFAULT_DOWN_OUT_INTERVAL_S;

	if (exportd == NULL) {
		config_problem(&reading->problems, "exportd", NULL,
			"missing; allowed: an object with the members address, port, data, "
			"node_down_after_ms, down_out_interval_s");
		return;
	}
	if (!config_check_object(&reading->problems, "exportd", exportd, names) &&
		!json_is_object(exportd))
		return;
	config->exportd_address =
		config_take_address(&reading->problems, "exportd", exportd, "address");
	config->exportd_port = take_port(
		reading, "exportd", exportd, "port", DEFAULT_EXPORTD_PORT, config->exportd_address);
	config->exportd_data = config_take_path(&reading->problems, "exportd", exportd, "data");
	if (config->exportd_data != NULL && config->exportd_address != NULL)
		config_unique_add(&reading->problems, &reading->directories, "exportd.data",
			"%s:%s/", config->exportd_address, config->exportd_data);
	config_take_number(&reading->problems, "exportd", exportd, "node_down_after_ms",
		CONFIG_OPTIONAL, NODE_DOWN_AFTER_MS_MIN, NODE_DOWN_AFTER_MS_MAX,
		&node_down_after_ms);
	config->node_down_after_ms = (uint32_t)node_down_after_ms;
	/* A node is down before it is out. */
	if (node_down_after_ms > down_out_interval_s * 1000)
		down_out_interval_s = node_down_after_ms / 1000 + 1;
	if (config_take_number(&reading->problems, "exportd", exportd, "down_out_interval_s",
		    CONFIG_OPTIONAL, 0, DOWN_OUT_INTERVAL_S_MAX, &down_out_interval_s) &&
		down_out_interval_s != 0 && down_out_interval_s * 1000 < node_down_after_ms)
		config_problem(&reading->problems, "exportd.down_out_interval_s",
			json_object_get(exportd, "down_out_interval_s"),
			"allowed: 0 (never), or not less than node_down_after_ms (%" PRIu64 ")",
			node_down_after_ms);
	config->down_out_interval_s = (uint32_t)down_out_interval_s;
}

static void read_devices(
	struct reading *reading, const char *parent, const json_t *object, struct config_node *node)
{
	const json_t *devices = config_take_array(&reading->problems, parent, object, "devices", 1,
		DEVICES_MAX, "absolute directories");

	if (devices == NULL)
		return;
	node->devices = calloc(json_array_size(devices), sizeof(*node->devices));
	if (node->devices == NULL) {
		reading->problems.out_of_memory = true;
		return;
	}
	for (size_t i = 0; i < json_array_size(devices); i++) {
		char place[CONFIG_PLACE_BYTES];
		char *path;

		config_place_element(place, parent, "devices", i);
		path = config_read_path(&reading->problems, place, json_array_get(devices, i));
		if (path == NULL)
			continue;
		node->devices[node->device_count++] = path;
		config_unique_add(&reading->problems, &reading->directories, place, "%s:%s/",
			node->address != NULL ? node->address : parent, path);
	}
}

static void read_node(struct reading *reading, size_t index, const json_t *object)
{
	static const char *const names[] = {
		"id", "address", "store_port", "nfs_port", "failure_domain", "devices", NULL};
	struct config_node *node = &reading->config->nodes[index];
	char parent[CONFIG_PLACE_BYTES], place[CONFIG_PLACE_BYTES];
	uint64_t id = 0;

	config_place_element(parent, "", "nodes", index);
	if (!config_check_object(&reading->problems, parent, object, names) &&
		!json_is_object(object))
		return;
	if (config_take_number(&reading->problems, parent, object, "id", CONFIG_REQUIRED, 1,
		    CONFIG_NODE_ID_MAX, &id)) {
		config_place(place, parent, "id");
		config_unique_add(&reading->problems, &reading->node_ids, place, "%" PRIu64, id);
	}
	node->id = (uint32_t)id;
	node->address = config_take_address(&reading->problems, parent, object, "address");
	node->store_port =
		take_port(reading, parent, object, "store_port", DEFAULT_STORE_PORT, node->address);
	node->nfs_port =
		take_port(reading, parent, object, "nfs_port", DEFAULT_NFS_PORT, node->address);
	node->failure_domain = config_take_name(
		&reading->problems, parent, object, "failure_domain", CONFIG_OPTIONAL);
	if (node->failure_domain == NULL &&
		asprintf(&node->failure_domain, "node%" PRIu64, id) < 0) {
		node->failure_domain = NULL;
		reading->problems.out_of_memory = true;
	}
	read_devices(reading, parent, object, node);
}

static int compare_nodes(const void *left, const void *right)
{
	uint32_t a = ((const struct config_node *)left)->id;
	uint32_t b = ((const struct config_node *)right)->id;

	return a < b ? -1 : a > b;
}

static void read_nodes(struct reading *reading, const json_t *document)
{
	const json_t *nodes = config_take_array(
		&reading->problems, "", document, "nodes", 1, NODES_MAX, "objects");
	struct config *config = reading->config;

	if (nodes == NULL)
		return;
	config->nodes = calloc(json_array_size(nodes), sizeof(*config->nodes));
	if (config->nodes == NULL) {
		reading->problems.out_of_memory = true;
		return;
	}
	config->node_count = json_array_size(nodes);
	reading->nodes_known = true;
	for (size_t i = 0; i < config->node_count; i++)
		read_node(reading, i, json_array_get(nodes, i));
	qsort(config->nodes, config->node_count, sizeof(*config->nodes), compare_nodes);
}

/* Reads digits without sign or leading zero, at most two of them. */
static const char *read_digits(const char *text, unsigned int *number)
{
	size_t count = strspn(text, "0123456789");

	if (count < 1 || count > 2 || text[0] == '0')
		return NULL;
	*number = 0;
	for (size_t i = 0; i < count; i++)
		*number = *number * 10 + (unsigned int)(text[i] - '0');
	return text + count;
}

static bool parse_protection(const char *text, unsigned int *k, unsigned int *m)
{
	text = read_digits(text, k);
	if (text == NULL || *text != '+')
		return false;
	text = read_digits(text + 1, m);
	return text != NULL && *text == '\0' && *k >= MOJETTE_K_MIN && *k <= MOJETTE_K_MAX &&
	       *m >= MOJETTE_M_MIN && *m <= MOJETTE_M_MAX;
}

/* Fills in export->code.k and .m. Returns false, with a problem added, if there are none. */
static bool read_protection(struct reading *reading, const char *parent, const json_t *object,
	struct config_export *export)
{
	const json_t *value = json_object_get(object, "protection");
	char place[CONFIG_PLACE_BYTES];
	unsigned int k, m;

	config_place(place, parent, "protection");
	if (value == NULL || !json_is_string(value) ||
		!parse_protection(json_string_value(value), &k, &m)) {
		config_problem(&reading->problems, place, value,
			"%sallowed: \"K+M\" with K from %d to %d and M from %d to %d, like "
			"\"4+2\"",
			value == NULL ? "missing; " : "", MOJETTE_K_MIN, MOJETTE_K_MAX,
			MOJETTE_M_MIN, MOJETTE_M_MAX);
		return false;
	}
	export->code.k = (uint8_t)k;
	export->code.m = (uint8_t)m;
	if (reading->nodes_known && k + m > reading->config->node_count)
		config_problem(&reading->problems, place, value,
			"needs %u storage nodes, one for each shard, and `nodes` has %zu; allowed: "
			"K+M of at most %zu",
			k + m, reading->config->node_count, reading->config->node_count);
	return true;
}

static void read_code(struct reading *reading, const char *parent, const json_t *object,
	struct config_export *export)
{
	const json_t *value = json_object_get(object, "code");
	const char *text = json_string_value(value);
	char place[CONFIG_PLACE_BYTES];

	export->code.form = MOJETTE_NON_SYSTEMATIC;
	if (value == NULL)
		return;
	if (text != NULL && strcmp(text, "systematic") == 0) {
		export->code.form = MOJETTE_SYSTEMATIC;
	} else if (text == NULL || strcmp(text, "non-systematic") != 0) {
		config_place(place, parent, "code");
		config_problem(&reading->problems, place, value,
			"allowed: \"non-systematic\" or \"systematic\"");
	}
}

/* The numbers whose ranges and defaults depend on the protection. */
static void read_sizes(struct reading *reading, const char *parent, const json_t *object,
	bool code_known, struct config_export *export)
{
	uint64_t row_bytes = DEFAULT_ROW_BYTES, segment_bytes = DEFAULT_SEGMENT_BYTES;
	uint64_t minimum = MOJETTE_K_MIN, maximum = MOJETTE_N_MAX, min_shards;
	char place[CONFIG_PLACE_BYTES];
	bool rows_known;

	rows_known = config_take_number(&reading->problems, parent, object, "row_bytes",
		CONFIG_OPTIONAL, ROW_BYTES_MIN, MOJETTE_ROW_BYTES_MAX, &row_bytes);
	if (rows_known && (row_bytes & (row_bytes - 1)) != 0) {
		config_place(place, parent, "row_bytes");
		config_problem(&reading->problems, place, json_object_get(object, "row_bytes"),
			"allowed: a power of two from %d to %d", ROW_BYTES_MIN,
			MOJETTE_ROW_BYTES_MAX);
		rows_known = false;
	}
	export->row_bytes = (uint32_t)row_bytes;

	if (code_known) {
		maximum = (uint64_t) export->code.k + export->code.m;
		/* With any m nodes gone one of these is there, and k of them can be decoded. */
		minimum = (uint64_t) export->code.m + 1;
		if (minimum < export->code.k)
			minimum = export->code.k;
	}
	min_shards = minimum;
	config_take_number(&reading->problems, parent, object, "min_shards", CONFIG_OPTIONAL,
		minimum, maximum, &min_shards);
	export->min_shards = (uint32_t)min_shards;

	config_take_number(&reading->problems, parent, object, "segment_bytes", CONFIG_OPTIONAL,
		SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX, &segment_bytes);
	if (code_known && rows_known)
		segment_bytes -= segment_bytes % config_block_bytes(export);
	export->segment_bytes = segment_bytes;
}

static void read_export(struct reading *reading, size_t index, const json_t *object)
{
	static const char *const names[] = {"id", "name", "protection", "code", "row_bytes",
		"min_shards", "segment_bytes", NULL};
	struct config_export *export = &reading->config->exports[index];
	char parent[CONFIG_PLACE_BYTES], place[CONFIG_PLACE_BYTES];
	uint64_t id = 0;
	bool code_known;

	config_place_element(parent, "", "exports", index);
	if (!config_check_object(&reading->problems, parent, object, names) &&
		!json_is_object(object))
		return;
	if (config_take_number(&reading->problems, parent, object, "id", CONFIG_REQUIRED, 1,
		    CONFIG_EXPORT_ID_MAX, &id)) {
		config_place(place, parent, "id");
		config_unique_add(&reading->problems, &reading->export_ids, place, "%" PRIu64, id);
	}
	export->id = (uint32_t)id;
	export->name =
		config_take_name(&reading->problems, parent, object, "name", CONFIG_REQUIRED);
	if (export->name != NULL) {
		config_place(place, parent, "name");
		config_unique_add(
			&reading->problems, &reading->export_names, place, "\"%s\"", export->name);
	}
	code_known = read_protection(reading, parent, object, export);
	read_code(reading, parent, object, export);
	read_sizes(reading, parent, object, code_known, export);
}

static int compare_exports(const void *left, const void *right)
{
	uint32_t a = ((const struct config_export *)left)->id;
	uint32_t b = ((const struct config_export *)right)->id;

	return a < b ? -1 : a > b;
}

static void read_exports(struct reading *reading, const json_t *document)
{
	const json_t *exports = config_take_array(
		&reading->problems, "", document, "exports", 1, EXPORTS_MAX, "objects");
	struct config *config = reading->config;

	if (exports == NULL)
		return;
	config->exports = calloc(json_array_size(exports), sizeof(*config->exports));
	if (config->exports == NULL) {
		reading->problems.out_of_memory = true;
		return;
	}
	config->export_count = json_array_size(exports);
	for (size_t i = 0; i < config->export_count; i++)
		read_export(reading, i, json_array_get(exports, i));
	qsort(config->exports, config->export_count, sizeof(*config->exports), compare_exports);
}

static void read_document(struct reading *reading, const json_t *document)
{
	static const char *const names[] = {"cluster", "exportd", "nodes", "exports", NULL};

	if (!config_check_object(&reading->problems, "", document, names) &&
		!json_is_object(document))
		return;
	read_cluster(reading, document);
	read_exportd(reading, document);
	read_nodes(reading, document);
	read_exports(reading, document); /* after the nodes: it needs their number */

	config_unique_check(
		&reading->problems, &reading->node_ids, false, "each node's id must differ");
	config_unique_check(
		&reading->problems, &reading->export_ids, false, "each export's id must differ");
	config_unique_check(&reading->problems, &reading->export_names, false,
		"each export's name must differ");
	config_unique_check(&reading->problems, &reading->endpoints, false,
		"two services cannot listen at one address and port");
	config_unique_check(&reading->problems, &reading->directories, true,
		"directories of one machine must not be used twice");
}

/* Reads and parses the document. *document is NULL unless the result is 0. */
static int parse_file(struct config_problems *problems, const char *path, json_t **document)
{
	json_error_t syntax;
	struct stat status;
	char *text;
	size_t bytes;
	int error = config_read_file(path, DOCUMENT_BYTES_MAX, &text, &bytes, &status);

	*document = NULL;
	if (error == -ENOMEM)
		return error;
	if (error == -EFBIG || error == -EISDIR || error == -EINVAL) {
		config_problem(problems, NULL, NULL,
			"%s; allowed: a regular file of at most %d MiB", strerror(-error),
			DOCUMENT_BYTES_MAX >> 20);
		return -EINVAL;
	}
	if (error != 0) {
		config_problem(problems, NULL, NULL, "%s", strerror(-error));
		return error == -ENOENT || error == -ENOTDIR ? -ENOENT : -EACCES;
	}
	*document = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &syntax);
	free(text);
	if (*document == NULL && json_error_code(&syntax) == json_error_out_of_memory)
		return -ENOMEM;
	if (*document == NULL) {
		config_problem(problems, NULL, NULL, "line %d, column %d: %s", syntax.line,
			syntax.column, syntax.text);
		return -EINVAL;
	}
	return 0;
}

int config_load(const char *path, struct config **config, char *error, size_t error_bytes)
{
	struct reading reading = {0};
	json_t *document = NULL;
	int result;

	*config = NULL;
	config_problems_init(&reading.problems, path, error, error_bytes);
	if (sodium_init() < 0) { /* picks the fastest code; the daemons all come through here */
		config_problem(&reading.problems, NULL, NULL,
			"libsodium cannot start: no source of random numbers");
		return -EACCES;
	}
	reading.config = calloc(1, sizeof(*reading.config));
	if (reading.config == NULL || (reading.config->path = strdup(path)) == NULL) {
		result = -ENOMEM;
		goto out;
	}
	result = parse_file(&reading.problems, path, &document);
	if (result != 0)
		goto out;
	read_document(&reading, document);
	if (reading.problems.out_of_memory)
		result = -ENOMEM;
	else if (reading.problems.count > 1 ||
		 (reading.problems.count == 1 && reading.file_error == 0))
		result = -EINVAL;
	else
		result = reading.file_error;
out:
	if (result == -ENOMEM) {
		config_problems_init(&reading.problems, path, error, error_bytes);
		config_problem(&reading.problems, NULL, NULL, "out of memory");
	}
	config_problems_finish(&reading.problems);
	json_decref(document);
	if (result == 0)
		*config = reading.config;
	else
		config_free(reading.config);
	return result;
}

void config_free(struct config *config)
{
	if (config == NULL)
		return;
	for (size_t i = 0; i < config->node_count; i++) {
		struct config_node *node = &config->nodes[i];

		for (size_t d = 0; d < node->device_count; d++)
			free(node->devices[d]);
		free(node->devices);
		free(node->address);
		free(node->failure_domain);
	}
	for (size_t i = 0; i < config->export_count; i++)
		free(config->exports[i].name);
	free(config->nodes);
	free(config->exports);
	free(config->exportd_data);
	free(config->exportd_address);
	free(config->key_file);
	free(config->cluster_id);
	free(config->path);
	sodium_memzero(&config->key, sizeof(config->key));
	free(config);
}

const struct config_node *config_node(const struct config *config, uint32_t id)
{
	const struct config_node wanted = {.id = id};

	if (config->node_count == 0)
		return NULL;
	return bsearch(&wanted, config->nodes, config->node_count, sizeof(wanted), compare_nodes);
}

const struct config_export *config_export(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->export_count; i++) {
		if (strcmp(config->exports[i].name, name) == 0)
			return &config->exports[i];
	}
	return NULL;
}

const struct config_export *config_export_by_id(const struct config *config, uint32_t id)
{
	const struct config_export wanted = {.id = id};

	if (config->export_count == 0)
		return NULL;
	return bsearch(
		&wanted, config->exports, config->export_count, sizeof(wanted), compare_exports);
}

uint32_t config_block_bytes(const struct config_export *export)
{
	return (uint32_t) export->code.k * export->row_bytes;
}

uint64_t config_segment_blocks(const struct config_export *export)
{
	uint64_t blocks = export->segment_bytes / config_block_bytes(export);

	return blocks > 0 ? blocks : 1;
}

void config_handle_key(const struct config *config, uint8_t key[32])
{
	/* Fails only for lengths out of range, and these are constants. */
	crypto_kdf_derive_from_key(key, 32, 1, "rozohndl", config->key.bytes);
}
