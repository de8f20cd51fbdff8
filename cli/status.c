/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See status.h. The names in the JSON text are promised: add to them, change none. */
#include "cli/status.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *state_name(uint32_t state)
{
	return state == META_NODE_UP ? "up" : state == META_NODE_OUT ? "out" : "down";
}

int status_reckon(const meta_cluster_res *cluster, struct status *status)
{
	uint32_t count = cluster->nodes.nodes_len;
	uint64_t failures = 0, failed_devices = 0;

	*status = (struct status){.cluster = cluster};
	status->nodes = calloc(count ? count : 1, sizeof(*status->nodes));
	if (!status->nodes)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const meta_node_status *node = &cluster->nodes.nodes_val[i];

		status->nodes[i].told = node;
		status->up += node->state == META_NODE_UP;
		status->down += node->state == META_NODE_DOWN;
		status->out += node->state == META_NODE_OUT;
		failed_devices += node->devices_failed;
		status->rebuild_segments += node->rebuild_waiting;
		/* What a node reported before it fell silent, others tell by now. */
		if (node->state != META_NODE_UP)
			continue;
		status->heal_rate += node->work.heal_rate;
		failures += node->work.heal_failures + node->work.scrub_left;
		for (uint32_t m = 0; m < node->work.missed.missed_len; m++) {
			const meta_missed *missed = &node->work.missed.missed_val[m];

			status->missed_shards += missed->shards;
			status->missed_bytes += missed->bytes;
			for (uint32_t j = 0; j < count; j++) {
				if (cluster->nodes.nodes_val[j].id != missed->node)
					continue;
				status->nodes[j].missed_shards += missed->shards;
				status->nodes[j].missed_bytes += missed->bytes;
			}
		}
	}
	status->end_s = status->missed_bytes == 0 ? 0
			: status->heal_rate == 0  ? UINT64_MAX
						  : status->missed_bytes / status->heal_rate;
	status->healthy = status->up == count && !status->missed_shards &&
			  !status->rebuild_segments && !failures && !failed_devices &&
			  !cluster->segments_without_replacement && !cluster->segments_in_danger;
	return 0;
}

/* -------- for people -------- */

/* Bytes as a number of at most four digits and a unit. The text is good until the fourth call. */
static const char *bytes_text(uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	static char texts[4][16];
	static unsigned int next;
	char *text = texts[next++ % 4];
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(text, sizeof(texts[0]), unit && value < 10 ? "%.1f %s" : "%.0f %s", value,
		units[unit]);
	return text;
}

static const char *duration_text(uint64_t seconds)
{
	static char texts[2][24];
	static unsigned int next;
	char *text = texts[next++ % 2];

	if (seconds == UINT64_MAX)
		return "not known";
	if (seconds < 120)
		snprintf(text, sizeof(texts[0]), "%" PRIu64 " s", seconds);
	else if (seconds < 7200)
		snprintf(text, sizeof(texts[0]), "%" PRIu64 " min", seconds / 60);
	else if (seconds < 172800)
		snprintf(text, sizeof(texts[0]), "%" PRIu64 " h", seconds / 3600);
	else
		snprintf(text, sizeof(texts[0]), "%" PRIu64 " days", seconds / 86400);
	return text;
}

static void print_scrub(const meta_work *work, FILE *stream)
{
	time_t now = time(NULL);

	if (!work->scrub_limit) {
		fprintf(stream, "    scrub: off\n");
		return;
	}
	fprintf(stream, "    scrub: at most %u MiB/s, %u passes", work->scrub_limit,
		work->scrub_passes);
	if (work->scrub_ended)
		fprintf(stream, ", the last ended %s ago",
			duration_text(
				now > work->scrub_ended ? (uint64_t)(now - work->scrub_ended) : 0));
	fprintf(stream, "; at store file %" PRIu64, work->scrub_files);
	if (work->scrub_files_all)
		fprintf(stream, " of %" PRIu64, work->scrub_files_all);
	fprintf(stream, ", %s read", bytes_text(work->scrub_bytes));
	if (work->scrub_found)
		fprintf(stream, "; found %" PRIu64 " damaged, repaired %" PRIu64, work->scrub_found,
			work->scrub_repaired);
	if (work->scrub_left)
		fprintf(stream, "; %" PRIu64 " could not be repaired", work->scrub_left);
	if (work->lagging)
		fprintf(stream, "; %" PRIu64 " lagged without a record", work->lagging);
	if (work->orphans)
		fprintf(stream, "; %" PRIu64 " store files of nobody removed", work->orphans);
	fprintf(stream, "\n");
}

static void print_work(const struct status_node *node, FILE *stream)
{
	const meta_work *work = &node->told->work;

	if (work->healed_shards || work->heal_rate)
		fprintf(stream, "    healed: %" PRIu64 " shards, %s; now %s/s", work->healed_shards,
			bytes_text(work->healed_bytes), bytes_text(work->heal_rate));
	else
		fprintf(stream, "    healed: nothing yet");
	if (work->heal_limit)
		fprintf(stream, ", at most %u MiB/s\n", work->heal_limit);
	else
		fprintf(stream, ", no limit\n");
	if (work->heal_failures)
		fprintf(stream,
			"    %" PRIu64
			" blocks could not be healed in the last pass: see its log\n",
			work->heal_failures);
	if (node->told->rebuild_waiting || work->rebuilt_segments) {
		fprintf(stream, "    rebuild: %" PRIu64 " segments to make, %" PRIu64 " made",
			node->told->rebuild_waiting, work->rebuilt_segments);
		if (work->rebuild_blocks)
			fprintf(stream, "; at block %" PRIu64 " of %" PRIu64,
				work->rebuild_blocks_done, work->rebuild_blocks);
		fprintf(stream, "\n");
	}
	print_scrub(work, stream);
}

static void print_node(const struct status_node *node, FILE *stream)
{
	const meta_node_status *told = node->told;

	fprintf(stream, "  node %u: %s", told->id, state_name(told->state));
	if (told->state != META_NODE_UP)
		fprintf(stream, " for %s", duration_text(told->silent_ms / 1000));
	if (told->heard)
		fprintf(stream, ", %u devices, %s of %s free", told->devices,
			bytes_text(told->free_bytes), bytes_text(told->total_bytes));
	if (told->devices_failed)
		fprintf(stream, ", %u FAILED", told->devices_failed);
	fprintf(stream, "\n");
	if (node->missed_shards)
		fprintf(stream, "    missed: %" PRIu64 " shards, %s\n", node->missed_shards,
			bytes_text(node->missed_bytes));
	if (told->free_waiting)
		fprintf(stream, "    to remove: %" PRIu64 " store files\n", told->free_waiting);
	if (told->state == META_NODE_UP)
		print_work(node, stream);
}

int status_print(const struct status *status, FILE *stream)
{
	const meta_cluster_res *cluster = status->cluster;

	fprintf(stream, "cluster: %s; %u nodes up, %u down, %u out; map version %u\n",
		status->healthy ? "healthy" : "DEGRADED", status->up, status->down, status->out,
		cluster->map_version);
	if (cluster->down_out_interval_s)
		fprintf(stream, "a node is out after %s without a sign of life\n",
			duration_text(cluster->down_out_interval_s));
	if (status->missed_shards)
		fprintf(stream, "missed: %" PRIu64 " shards, %s; healing at %s/s, done in: %s\n",
			status->missed_shards, bytes_text(status->missed_bytes),
			bytes_text(status->heal_rate), duration_text(status->end_s));
	if (cluster->segments_moved || status->rebuild_segments)
		fprintf(stream,
			"rebuild: %" PRIu64 " segments to make, %" PRIu64
			" moved since exportd's start\n",
			status->rebuild_segments, cluster->segments_moved);
	if (cluster->segments_without_replacement)
		fprintf(stream,
			"%" PRIu64
			" shards of nodes that are out have no node to go to: add nodes\n",
			cluster->segments_without_replacement);
	if (cluster->segments_in_danger)
		fprintf(stream,
			"%" PRIu64
			" SEGMENTS CANNOT BE READ: bring nodes back that are down or out\n",
			cluster->segments_in_danger);
	for (uint32_t i = 0; i < cluster->nodes.nodes_len; i++)
		print_node(&status->nodes[i], stream);
	return fflush(stream) ? -errno : 0;
}

/* -------- JSON -------- */

static json_t *number(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *node_json(const struct status_node *node)
{
	const meta_node_status *told = node->told;
	const meta_work *work = &told->work;

	return json_pack("{s:i,s:s,s:b,s:i,s:o,"
			 "s:i,s:i,s:o,s:o,s:o,s:o,s:o,s:o,"
			 "s:{s:i,s:i,s:o,s:o,s:o,s:o},"
			 "s:{s:o,s:o,s:o,s:o},"
			 "s:{s:i,s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}}",
		"id", (int)told->id, "state", state_name(told->state), "heard", (int)told->heard,
		"incarnation", (int)told->incarnation, "silent_ms", number(told->silent_ms),
		"devices", (int)told->devices, "devices_failed", (int)told->devices_failed,
		"total_bytes", number(told->total_bytes), "free_bytes", number(told->free_bytes),
		"missed_shards", number(node->missed_shards), "missed_bytes",
		number(node->missed_bytes), "rebuild_waiting", number(told->rebuild_waiting),
		"free_waiting", number(told->free_waiting),

		"heal", "limit_mib_per_second", (int)work->heal_limit, "passes",
		(int)work->heal_passes, "healed_shards", number(work->healed_shards),
		"healed_bytes", number(work->healed_bytes), "bytes_per_second",
		number(work->heal_rate), "failures", number(work->heal_failures),

		"rebuild", "segments_waiting", number(told->rebuild_waiting), "segments_made",
		number(work->rebuilt_segments), "blocks", number(work->rebuild_blocks),
		"blocks_done", number(work->rebuild_blocks_done),

		"scrub", "limit_mib_per_second", (int)work->scrub_limit, "passes",
		(int)work->scrub_passes, "files", number(work->scrub_files), "files_all",
		number(work->scrub_files_all), "bytes", number(work->scrub_bytes), "found",
		number(work->scrub_found), "repaired", number(work->scrub_repaired), "left",
		number(work->scrub_left), "ended_seconds",
		number(work->scrub_ended > 0 ? (uint64_t)work->scrub_ended : 0), "lagging",
		number(work->lagging), "orphans_removed", number(work->orphans),
		"orphans_suspected", number(work->orphans_suspected));
}

int status_print_json(const struct status *status, FILE *stream)
{
	const meta_cluster_res *cluster = status->cluster;
	json_t *nodes = json_array();
	int error = 0;

	for (uint32_t i = 0; i < cluster->nodes.nodes_len; i++)
		json_array_append_new(nodes, node_json(&status->nodes[i]));
	json_t *root = json_pack(
		"{s:b,s:i,s:i,s:i,s:i,s:i,s:b,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "healthy",
		(int)status->healthy, "map_version", (int)cluster->map_version,
		"down_out_interval_s", (int)cluster->down_out_interval_s, "nodes_up",
		(int)status->up, "nodes_down", (int)status->down, "nodes_out", (int)status->out,
		"rebuild_scanned", (int)cluster->rebuild_scanned, "missed_shards",
		number(status->missed_shards), "missed_bytes", number(status->missed_bytes),
		"heal_bytes_per_second", number(status->heal_rate), "heal_seconds_left",
		status->end_s == UINT64_MAX ? json_null() : number(status->end_s),
		"rebuild_segments", number(status->rebuild_segments), "shards_moved",
		number(cluster->segments_moved), "shards_without_replacement",
		number(cluster->segments_without_replacement), "segments_in_danger",
		number(cluster->segments_in_danger), "nodes", nodes);
	if (!root)
		return -ENOMEM;
	if (json_dumpf(root, stream, JSON_INDENT(2)) || fputc('\n', stream) == EOF ||
		fflush(stream))
		error = -EIO;
	json_decref(root);
	return error;
}
