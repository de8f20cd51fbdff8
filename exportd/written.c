/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A table in which each file has one place, and the newest note in a place wins. One mutex guards
 * all; it is held for a few instructions.
 */
#include <pthread.h>
#include <stdlib.h>

#include "exportd/placement.h"
#include "exportd/written.h"

#define WRITTEN_PLACES 65536

struct written_place {
	uint64_t file_id; /* 0: empty; no file has that id */
	uint32_t export_id;
	uint32_t taken; /* so often, of whatever file */
};

struct written {
	pthread_mutex_t mutex;
	struct written_place places[WRITTEN_PLACES];
};

struct written *written_create(void)
{
	struct written *written = calloc(1, sizeof(*written));

	if (written != NULL)
		pthread_mutex_init(&written->mutex, NULL);
	return written;
}

void written_destroy(struct written *written)
{
	if (written == NULL)
		return;
	pthread_mutex_destroy(&written->mutex);
	free(written);
}

static struct written_place *written_place(
	struct written *written, uint32_t export_id, uint64_t file_id)
{
	return &written->places[placement_hash(export_id, file_id, 0) % WRITTEN_PLACES];
}

uint32_t written_ask(struct written *written, uint32_t export_id, uint64_t file_id)
{
	struct written_place *place = written_place(written, export_id, file_id);
	uint32_t taken;

	pthread_mutex_lock(&written->mutex);
	taken = place->taken;
	pthread_mutex_unlock(&written->mutex);
	return taken;
}

void written_note(struct written *written, uint32_t export_id, uint64_t file_id, uint32_t asked)
{
	struct written_place *place = written_place(written, export_id, file_id);

	pthread_mutex_lock(&written->mutex);
	if (place->taken == asked) {
		place->file_id = file_id;
		place->export_id = export_id;
	}
	pthread_mutex_unlock(&written->mutex);
}

bool written_take(struct written *written, uint32_t export_id, uint64_t file_id)
{
	struct written_place *place = written_place(written, export_id, file_id);
	bool noted;

	pthread_mutex_lock(&written->mutex);
	noted = place->file_id == file_id && place->export_id == export_id;
	if (noted)
		place->file_id = 0;
	place->taken++;
	pthread_mutex_unlock(&written->mutex);
	return noted;
}
