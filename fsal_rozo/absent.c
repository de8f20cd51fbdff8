/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See absent.h. A change that nobody waited for to the end, since exportd did not answer, may still
 * be carried out: that is why names are remembered for a moment only.
 */
#include "fsal_rozo/absent.h"

#include <string.h>

#define ABSENT_MS 100

static struct absent_name *place_of(struct absent *absent, uint64_t directory_id)
{
	return &absent->names[directory_id % ABSENT_NAMES];
}

void absent_init(struct absent *absent)
{
	memset(absent, 0, sizeof(*absent));
	for (unsigned int i = 0; i < ABSENT_NAMES; i++)
		pthread_mutex_init(&absent->names[i].lock, NULL);
}

void absent_destroy(struct absent *absent)
{
	for (unsigned int i = 0; i < ABSENT_NAMES; i++)
		pthread_mutex_destroy(&absent->names[i].lock);
}

uint64_t absent_ask(struct absent *absent, uint64_t directory_id)
{
	struct absent_name *place = place_of(absent, directory_id);
	uint64_t changes;

	pthread_mutex_lock(&place->lock);
	changes = place->changes;
	pthread_mutex_unlock(&place->lock);
	return changes;
}

void absent_note(struct absent *absent, uint64_t directory_id, const char *name, uint64_t asked,
	uint64_t now_ms)
{
	struct absent_name *place = place_of(absent, directory_id);
	size_t bytes = strlen(name) + 1;

	if (bytes > ABSENT_NAME_BYTES)
		return;
	pthread_mutex_lock(&place->lock);
	if (place->changes == asked && place->changing == 0) {
		place->directory_id = directory_id;
		place->noted_ms = now_ms;
		memcpy(place->name, name, bytes);
	}
	pthread_mutex_unlock(&place->lock);
}

bool absent_is(struct absent *absent, uint64_t directory_id, const char *name, uint64_t now_ms)
{
	struct absent_name *place = place_of(absent, directory_id);
	bool known;

	pthread_mutex_lock(&place->lock);
	known = directory_id != 0 && place->directory_id == directory_id &&
		now_ms - place->noted_ms < ABSENT_MS && strcmp(place->name, name) == 0;
	pthread_mutex_unlock(&place->lock);
	return known;
}

void absent_change_begins(struct absent *absent, uint64_t directory_id)
{
	struct absent_name *place = place_of(absent, directory_id);

	pthread_mutex_lock(&place->lock);
	place->changing++;
	place->directory_id = 0;
	pthread_mutex_unlock(&place->lock);
}

void absent_change_ends(struct absent *absent, uint64_t directory_id)
{
	struct absent_name *place = place_of(absent, directory_id);

	pthread_mutex_lock(&place->lock);
	place->changing--;
	place->changes++;
	pthread_mutex_unlock(&place->lock);
}
