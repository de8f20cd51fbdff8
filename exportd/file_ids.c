/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See file_ids.h. Takes no locks. */
#include <errno.h>
#include <inttypes.h>

#include "exportd/clock.h"
#include "exportd/file_ids.h"
#include "exportd/record.h"
#include "rpc/log.h"

/*
 * No export is given 2^20 new files a second. So what was given out until now, by whatever copy,
 * began at zero or at the second of an earlier jump, and has not come as far as this one.
 */
#define IDS_PER_SECOND (UINT64_C(1) << 20)
/* If the clock is not to be believed. */
#define FAR (UINT64_C(1) << 40)

int file_ids_skip(struct kv_txn *txn, uint32_t export_id, uint64_t met)
{
	uint64_t now = clock_now_ns(CLOCK_KIND_WALL) / 1000000000u * IDS_PER_SECOND;
	struct record_allocation allocation;
	uint64_t first, beyond;
	int error = record_allocation_get(txn, export_id, &allocation);

	if (error != 0)
		return error;
	first = allocation.next_file_id;
	beyond = met >= first ? met + 1 : first;
	allocation.next_file_id = now > beyond + FAR ? now : beyond + FAR;
	error = record_skipped_put(txn, export_id, first, allocation.next_file_id);
	if (error == 0)
		error = record_allocation_put(txn, export_id, &allocation);
	if (error == 0)
		rozo_log(WARNING,
			"export %" PRIu32 ": file ids from %" PRIu64 " to %" PRIu64
			" are passed over: files may have them that were made after the copy of "
			"the "
			"metadata that is in use now",
			export_id, first, allocation.next_file_id - 1);
	return error;
}

static int find_export(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)value;
	*(uint32_t *)context = record_key_u32(key, RECORD_PREFIX_KIND);
	return 1;
}

int file_ids_skip_all(struct kv_txn *txn)
{
	struct record_key from = record_key_allocation(0);
	uint32_t export_id;
	int result;

	while ((result = kv_scan(txn, record_key_bytes(&from), RECORD_PREFIX_KIND, find_export,
			&export_id)) == 1) {
		int error = file_ids_skip(txn, export_id, 0);

		/* One whose counters are damaged can make no new files. */
		if (error != 0 && error != -EIO)
			return error;
		if (export_id == UINT32_MAX)
			return 0;
		from = record_key_allocation(export_id + 1);
	}
	return result;
}
