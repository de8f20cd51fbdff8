/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See orphans.h. Suspects are remembered in memory alone: after a restart exportd is asked twice
 * again. A file of which only a segment went to other nodes is removed by exportd's free queue,
 * which keeps the node from being given the same segment meanwhile. Takes no locks.
 */
#include "storaged/orphans.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rpc/log.h"
#include "rpc/meta.h"
#include "rpc/rpc.h"
#include "storaged/clock.h"

#define BATCH 256 /* store files in one question */
#define SUSPECTS_MAX 4096 /* more wait for a later pass */
#define EXPORTS_MAX 1024
#define META_TIMEOUT_MS 10000
#define LABEL_NAME "rozo-label" /* see docs/store-format.md */
#define NAME "rozo-exports"
#define PATH_BYTES 4200

struct suspect {
	store_file file;
	int64_t since_ms; /* of exportd's first answer */
	uint32_t verdict; /* META_ORPHAN_GONE or _STRAY */
	bool met; /* in this pass */
};

struct known_export {
	uint32_t export_id;
	uint64_t filesystem_id;
};

struct orphans {
	uint32_t node_id;
	struct store *store;
	struct stripe *stripe;
	const char *const *devices;
	size_t device_count;
	int64_t age_ms;
	uint64_t removed;
	meta_orphan asked[BATCH];
	uint32_t asked_count;
	struct suspect *suspects; /* in the order of the scan, SUSPECTS_MAX at most */
	size_t suspect_count, suspect_room;
	struct known_export exports[EXPORTS_MAX];
	size_t export_count;
};

/* -------- by which id the node knows an export -------- */

static struct known_export *find_export(struct orphans *orphans, uint32_t export_id)
{
	for (size_t i = 0; i < orphans->export_count; i++)
		if (orphans->exports[i].export_id == export_id)
			return &orphans->exports[i];
	return NULL;
}

/* False for the empty directory of a device that is not mounted: nothing may be written there. */
static bool is_device(const char *device)
{
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/" LABEL_NAME, device);
	return access(path, F_OK) == 0;
}

/* Reads what a device remembers. Ids that two devices disagree on become 0, which no export has. */
static void read_device(struct orphans *orphans, const char *device)
{
	char path[PATH_BYTES];
	uint32_t export_id;
	uint64_t id;

	snprintf(path, sizeof(path), "%s/" NAME, device);
	FILE *stream = fopen(path, "re");
	if (!stream)
		return;
	while (fscanf(stream, "%" SCNu32 " %" SCNx64 "\n", &export_id, &id) == 2) {
		struct known_export *known = find_export(orphans, export_id);

		if (known) {
			known->filesystem_id = known->filesystem_id == id ? id : 0;
		} else if (orphans->export_count < EXPORTS_MAX) {
			orphans->exports[orphans->export_count++] =
				(struct known_export){.export_id = export_id, .filesystem_id = id};
		}
	}
	fclose(stream);
}

/*
 * Makes what is known durable on a device. Returns 0 or a negative errno: -ENOENT if it is not
 * there, and its directory only what it was mounted on.
 */
static int write_device(const struct orphans *orphans, const char *device)
{
	char path[PATH_BYTES], new_path[PATH_BYTES + 8];
	int error = 0;

	snprintf(path, sizeof(path), "%s/rozo-label", device);
	if (access(path, F_OK))
		return -errno;
	snprintf(path, sizeof(path), "%s/" NAME, device);
	snprintf(new_path, sizeof(new_path), "%s.new", path);
	FILE *stream = fopen(new_path, "we");
	if (!stream)
		return -errno;
	for (size_t i = 0; i < orphans->export_count; i++)
		fprintf(stream, "%" PRIu32 " %016" PRIx64 "\n", orphans->exports[i].export_id,
			orphans->exports[i].filesystem_id);
	if (fflush(stream) || fsync(fileno(stream)))
		error = -errno;
	if (fclose(stream) && !error)
		error = -errno;
	if (!error && rename(new_path, path))
		error = -errno;
	int directory = error ? -1 : open(device, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!error && (directory < 0 || fsync(directory)))
		error = -errno;
	if (directory >= 0)
		close(directory);
	return error;
}

/*
 * True if the node knows the export by this id. One that it sees for the first time is remembered,
 * and believed from the next answer on.
 */
static bool is_known(struct orphans *orphans, uint32_t export_id, uint64_t filesystem_id)
{
	struct known_export *known = find_export(orphans, export_id);
	bool written = false;

	if (filesystem_id == 0)
		return false;
	if (known && known->filesystem_id == filesystem_id)
		return true;
	if (known) {
		rozo_log_limited(ERROR,
			"exportd's export %" PRIu32
			" is not the one that this node has store files "
			"of: was its metadata made anew? Nothing is removed. If that is meant, "
			"remove " NAME " from the node's devices",
			export_id);
		return false;
	}
	if (orphans->export_count == EXPORTS_MAX)
		return false;
	orphans->exports[orphans->export_count++] =
		(struct known_export){.export_id = export_id, .filesystem_id = filesystem_id};
	for (size_t i = 0; i < orphans->device_count; i++) {
		if (!is_device(orphans->devices[i]))
			continue;
		int error = write_device(orphans, orphans->devices[i]);

		if (error)
			rozo_log_limited(
				WARNING, "%s/" NAME ": %s", orphans->devices[i], strerror(-error));
		written = written || !error;
	}
	if (!written)
		orphans->export_count--;
	return false;
}

/* -------- suspects -------- */

static struct suspect *find_suspect(struct orphans *orphans, const meta_orphan *file)
{
	for (size_t i = 0; i < orphans->suspect_count; i++) {
		struct suspect *suspect = &orphans->suspects[i];

		if (suspect->file.file_id == file->file_id &&
			suspect->file.export_id == file->export_id &&
			suspect->file.segment == file->segment)
			return suspect;
	}
	return NULL;
}

static void add_suspect(struct orphans *orphans, const meta_orphan *file, uint32_t verdict)
{
	if (orphans->suspect_count == SUSPECTS_MAX)
		return;
	if (orphans->suspect_count == orphans->suspect_room) {
		size_t room = orphans->suspect_room ? 2 * orphans->suspect_room : 64;
		struct suspect *more = realloc(orphans->suspects, room * sizeof(*more));

		if (!more)
			return; /* the next pass meets it again */
		orphans->suspects = more;
		orphans->suspect_room = room;
	}
	orphans->suspects[orphans->suspect_count++] = (struct suspect){
		.file = {.export_id = file->export_id,
			.segment = file->segment,
			.file_id = file->file_id},
		.since_ms = clock_now_ms(),
		.verdict = verdict,
		.met = true,
	};
}

static int ask(struct orphans *orphans, bool sure, meta_orphan *files, uint32_t count,
	meta_orphans_res *result)
{
	meta_orphans_args args = {.node = orphans->node_id,
		.sure = sure,
		.files = {.files_len = count, .files_val = files}};

	*result = (meta_orphans_res){0};
	int error =
		rpc_call(stripe_meta(orphans->stripe), META_ORPHANS, RPC_XDR(xdr_meta_orphans_args),
			&args, RPC_XDR(xdr_meta_orphans_res), result, META_TIMEOUT_MS);
	if (error)
		return error;
	if (result->status == 0 && result->verdicts.verdicts_len == count &&
		result->filesystem_ids.filesystem_ids_len == count)
		return 0;
	rpc_free(RPC_XDR(xdr_meta_orphans_res), result);
	return -EIO;
}

/* Exportd has said for the second time that the file is no more. */
static void remove_file(struct orphans *orphans, const meta_orphan *file)
{
	store_remove_args args = {.file = {.export_id = file->export_id,
					  .segment = file->segment,
					  .file_id = file->file_id}};
	store_status_res removed = {0};

	stripe_file_forget(orphans->stripe, file->export_id, file->file_id);
	store_remove(orphans->store, &args, &removed);
	/* If a device that is out of service has it, too, it is met again when that is back. */
	if (removed.status && removed.status != ENODEV && removed.status != EXDEV) {
		rozo_log_limited(ERROR,
			"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
			": nobody needs it, but it cannot be removed: %s",
			file->export_id, (uint64_t)file->file_id, file->segment,
			strerror((int)removed.status));
		return;
	}
	orphans->removed++;
	rozo_log(INFO,
		"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
		": removed, since the file is no more",
		file->export_id, (uint64_t)file->file_id, file->segment);
}

/* Exportd has said twice that other nodes have the segment: it puts it into its free queue. */
static void give_up_stray(struct orphans *orphans, meta_orphan *file)
{
	meta_orphans_res result;

	if (ask(orphans, true, file, 1, &result))
		return;
	rpc_free(RPC_XDR(xdr_meta_orphans_res), &result);
	rozo_log(INFO,
		"scrub: export %" PRIu32 " file %" PRIx64 " segment %" PRIu32
		": other nodes have it; exportd is told, and will have it removed here",
		file->export_id, (uint64_t)file->file_id, file->segment);
}

static void take_verdict(
	struct orphans *orphans, meta_orphan *file, uint32_t verdict, uint64_t filesystem_id)
{
	struct suspect *suspect = find_suspect(orphans, file);
	bool known = is_known(orphans, file->export_id, filesystem_id);

	if (suspect)
		suspect->met = known && suspect->verdict == verdict;
	if (!known || (verdict != META_ORPHAN_GONE && verdict != META_ORPHAN_STRAY))
		return;
	if (!suspect) {
		add_suspect(orphans, file, verdict);
	} else if (suspect->met && clock_now_ms() - suspect->since_ms >= orphans->age_ms) {
		suspect->met = false; /* not suspected any more */
		if (verdict == META_ORPHAN_STRAY)
			give_up_stray(orphans, file);
		else
			remove_file(orphans, file);
	}
}

static void ask_batch(struct orphans *orphans)
{
	meta_orphans_res result;

	/* Without an answer nothing is known, and suspects are not met again. */
	if (orphans->asked_count &&
		ask(orphans, false, orphans->asked, orphans->asked_count, &result) == 0) {
		for (uint32_t i = 0; i < orphans->asked_count; i++)
			take_verdict(orphans, &orphans->asked[i], result.verdicts.verdicts_val[i],
				result.filesystem_ids.filesystem_ids_val[i]);
		rpc_free(RPC_XDR(xdr_meta_orphans_res), &result);
	}
	orphans->asked_count = 0;
}

/* -------- passes -------- */

int orphans_create(struct orphans **result, uint32_t node_id, struct store *store,
	struct stripe *stripe, const char *const *devices, size_t device_count)
{
	struct orphans *orphans = calloc(1, sizeof(*orphans));

	if (!orphans)
		return -ENOMEM;
	orphans->node_id = node_id;
	orphans->store = store;
	orphans->stripe = stripe;
	orphans->devices = devices;
	orphans->device_count = device_count;
	for (size_t i = 0; i < device_count; i++)
		read_device(orphans, devices[i]);
	*result = orphans;
	return 0;
}

void orphans_destroy(struct orphans *orphans)
{
	if (!orphans)
		return;
	free(orphans->suspects);
	free(orphans);
}

void orphans_pass(struct orphans *orphans, int64_t age_ms)
{
	orphans->age_ms = age_ms;
	orphans->removed = 0;
	orphans->asked_count = 0;
	for (size_t i = 0; i < orphans->suspect_count; i++)
		orphans->suspects[i].met = false;
}

void orphans_ask(struct orphans *orphans, const store_file *file)
{
	orphans->asked[orphans->asked_count++] = (meta_orphan){
		.export_id = file->export_id, .file_id = file->file_id, .segment = file->segment};
	if (orphans->asked_count == BATCH)
		ask_batch(orphans);
}

void orphans_pass_end(struct orphans *orphans)
{
	size_t left = 0;

	ask_batch(orphans);
	for (size_t i = 0; i < orphans->suspect_count; i++)
		if (orphans->suspects[i].met)
			orphans->suspects[left++] = orphans->suspects[i];
	orphans->suspect_count = left;
}

uint64_t orphans_removed(const struct orphans *orphans)
{
	return orphans->removed;
}

uint64_t orphans_suspected(const struct orphans *orphans)
{
	return orphans->suspect_count;
}
