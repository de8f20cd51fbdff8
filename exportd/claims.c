/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A table in which each file has one place, and the newest note in a place wins. One mutex guards
 * all; it is held for a few instructions.
 */
#include <pthread.h>
#include <stdlib.h>

#include "exportd/claims.h"
#include "exportd/placement.h"

#define CLAIMS_PLACES 65536

struct claim {
	uint64_t file_id; /* 0: empty; no file has that id */
	uint64_t writer; /* 0: nobody yet */
	uint32_t export_id;
	uint32_t write_epoch;
};

struct claims {
	pthread_mutex_t mutex;
	struct claim places[CLAIMS_PLACES];
};

struct claims *claims_create(void)
{
	struct claims *claims = calloc(1, sizeof(*claims));

	if (claims != NULL)
		pthread_mutex_init(&claims->mutex, NULL);
	return claims;
}

void claims_destroy(struct claims *claims)
{
	if (claims == NULL)
		return;
	pthread_mutex_destroy(&claims->mutex);
	free(claims);
}

static struct claim *place_of(struct claims *claims, uint32_t export_id, uint64_t file_id)
{
	return &claims->places[placement_hash(export_id, file_id, 0) % CLAIMS_PLACES];
}

void claims_note(struct claims *claims, uint32_t export_id, uint64_t file_id, uint32_t write_epoch,
	uint64_t writer)
{
	struct claim *claim = place_of(claims, export_id, file_id);

	pthread_mutex_lock(&claims->mutex);
	/* Notes of two transactions may come in either order. */
	if (claim->file_id != file_id || claim->export_id != export_id ||
		claim->write_epoch < write_epoch)
		*claim = (struct claim){
			.file_id = file_id,
			.writer = writer,
			.export_id = export_id,
			.write_epoch = write_epoch,
		};
	pthread_mutex_unlock(&claims->mutex);
}

bool claims_take(struct claims *claims, uint32_t export_id, uint64_t file_id, uint32_t write_epoch,
	uint64_t writer)
{
	struct claim *claim = place_of(claims, export_id, file_id);
	bool taken;

	pthread_mutex_lock(&claims->mutex);
	taken = claim->file_id == file_id && claim->export_id == export_id &&
		claim->write_epoch == write_epoch &&
		(claim->writer == 0 || claim->writer == writer);
	if (taken)
		claim->writer = writer;
	pthread_mutex_unlock(&claims->mutex);
	return taken;
}
