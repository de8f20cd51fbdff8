/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See absent.h. A change that nobody waited for to the end, since exportd did not answer, may still
 * be carried out: that is why what exportd said is remembered for a moment only.
 */
#include "fsal_rozo/absent.h"

#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"

#define ABSENT_MS 100
#define FIRST_CHANGE 2 /* `change` of a directory after the first change of it */

static struct absent_place *place_of(struct absent *absent, uint64_t directory_id)
{
	return &absent->places[directory_id % ABSENT_PLACES];
}

void absent_init(struct absent *absent)
{
	memset(absent, 0, sizeof(*absent));
	for (unsigned int i = 0; i < ABSENT_PLACES; i++)
		pthread_mutex_init(&absent->places[i].lock, NULL);
}

void absent_destroy(struct absent *absent)
{
	for (unsigned int i = 0; i < ABSENT_PLACES; i++)
		pthread_mutex_destroy(&absent->places[i].lock);
}

/* -------- one for each file system -------- */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list and the counts */
static struct absent *all;

struct absent *absent_get(uint64_t filesystem_id)
{
	struct absent *found;

	pthread_mutex_lock(&all_lock);
	for (found = all; found != NULL; found = found->next)
		if (found->filesystem_id == filesystem_id)
			break;
	if (found == NULL && (found = malloc(sizeof(*found))) != NULL) {
		absent_init(found);
		found->filesystem_id = filesystem_id;
		found->next = all;
		all = found;
	}
	if (found != NULL)
		found->references++;
	pthread_mutex_unlock(&all_lock);
	return found;
}

void absent_put(struct absent *absent)
{
	if (absent == NULL)
		return;
	pthread_mutex_lock(&all_lock);
	if (--absent->references == 0) {
		struct absent **place = &all;

		while (*place != absent)
			place = &(*place)->next;
		*place = absent->next;
		absent_destroy(absent);
		free(absent);
	}
	pthread_mutex_unlock(&all_lock);
}

/* -------- the filter -------- */

/* Two bits for a name: the halves of its CRC. */
_Static_assert(ABSENT_FILTER_BITS == 1 << 16, "");

static void filter_bits(const char *name, uint32_t bits[2])
{
	uint32_t hash = rozo_crc32c(name, strlen(name));

	bits[0] = hash & 0xffff;
	bits[1] = hash >> 16;
}

static void filter_add(struct absent_place *place, const char *name)
{
	uint32_t bits[2];

	filter_bits(name, bits);
	for (unsigned int i = 0; i < 2; i++)
		place->filter[bits[i] / 64] |= UINT64_C(1) << bits[i] % 64;
}

/* False only if the name was never added. */
static bool filter_has(const struct absent_place *place, const char *name)
{
	uint32_t bits[2];

	filter_bits(name, bits);
	for (unsigned int i = 0; i < 2; i++)
		if ((place->filter[bits[i] / 64] >> bits[i] % 64 & 1) == 0)
			return false;
	return true;
}

/* -------- questions -------- */

uint64_t absent_ask(struct absent *absent, uint64_t directory_id)
{
	struct absent_place *place = place_of(absent, directory_id);
	uint64_t changes;

	pthread_mutex_lock(&place->lock);
	changes = place->changes;
	pthread_mutex_unlock(&place->lock);
	return changes;
}

void absent_note(struct absent *absent, uint64_t directory_id, const char *name, uint64_t asked,
	uint64_t now_ms)
{
	struct absent_place *place = place_of(absent, directory_id);
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

/* True for what exportd would look for among the names of a directory. */
static bool is_ordinary(const char *name)
{
	return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
	       strlen(name) < ABSENT_NAME_BYTES;
}

bool absent_is(struct absent *absent, uint64_t directory_id, const char *name, uint64_t now_ms)
{
	struct absent_place *place = place_of(absent, directory_id);
	bool absent_here = false;

	if (directory_id == 0 || !is_ordinary(name))
		return false;
	pthread_mutex_lock(&place->lock);
	if (place->directory_id == directory_id && now_ms - place->noted_ms < ABSENT_MS)
		absent_here = strcmp(place->name, name) == 0;
	if (place->known_id == directory_id && now_ms - place->known_ms < ABSENT_MS)
		absent_here = absent_here || !filter_has(place, name);
	pthread_mutex_unlock(&place->lock);
	return absent_here;
}

/* -------- changes -------- */

void absent_change_begins(struct absent *absent, uint64_t directory_id, const char *name,
	struct absent_change *change)
{
	struct absent_place *place = place_of(absent, directory_id);

	pthread_mutex_lock(&place->lock);
	*change = (struct absent_change){
		.directory_id = directory_id, .asked = place->changes, .name = name};
	place->changing++;
	place->directory_id = 0;
	if (place->known_id == directory_id)
		filter_add(place, name);
	pthread_mutex_unlock(&place->lock);
}

/* The change was the first of the directory: now it has this name and no other. */
static void know(struct absent_place *place, const struct absent_change *change)
{
	place->known_id = change->directory_id;
	place->known_change = FIRST_CHANGE;
	place->known_changes = 1;
	memset(place->filter, 0, sizeof(place->filter));
	filter_add(place, change->name);
}

void absent_change_ends(
	struct absent *absent, const struct absent_change *change, uint64_t after, uint64_t now_ms)
{
	struct absent_place *place = place_of(absent, change->directory_id);
	bool alone;

	pthread_mutex_lock(&place->lock);
	/* Other changes would not be in the filter. */
	alone = place->changing == 1 && place->changes == change->asked;
	place->changing--;
	place->changes++;
	if (place->known_id != change->directory_id) {
		if (after == FIRST_CHANGE && alone)
			know(place, change);
	} else if (after == 0) {
		place->known_id = 0;
	} else {
		place->known_changes++;
		if (after > place->known_change)
			place->known_change = after;
	}
	/* Several that overlap are answered in any order: they can be counted at the end. */
	if (place->known_id == change->directory_id && place->changing == 0) {
		if (place->known_change == place->known_changes + FIRST_CHANGE - 1)
			place->known_ms = now_ms;
		else
			place->known_id = 0;
	}
	pthread_mutex_unlock(&place->lock);
}
