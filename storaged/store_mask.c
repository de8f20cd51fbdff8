/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Sets of rows: an open-addressed table from (group, side) to a mask of the group's rows.
 *
 * The owner locks. Emptied masks stay in the table until it grows or is freed.
 */
#include <stdlib.h>

#include "storaged/store_internal.h"

struct store_mask_entry {
	uint64_t key; /* group * 2 + side + 1; 0: unused */
	uint64_t rows;
};

static uint64_t key_of(uint64_t group, unsigned int side)
{
	return group * STORE_SIDES + side + 1;
}

static struct store_mask_entry *find(
	struct store_mask_entry *entries, size_t capacity, uint64_t key)
{
	size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (capacity - 1);

	while (entries[at].key != 0 && entries[at].key != key)
		at = (at + 1) & (capacity - 1);
	return &entries[at];
}

/* Doubles the table, leaving out what is empty. */
static bool grow(struct store_mask *mask)
{
	size_t capacity = mask->capacity == 0 ? 16 : mask->capacity * 2;
	struct store_mask_entry *entries = calloc(capacity, sizeof(*entries));

	if (entries == NULL)
		return false;
	mask->used = 0;
	for (size_t i = 0; i < mask->capacity; i++) {
		if (mask->entries[i].rows == 0)
			continue;
		*find(entries, capacity, mask->entries[i].key) = mask->entries[i];
		mask->used++;
	}
	free(mask->entries);
	mask->entries = entries;
	mask->capacity = capacity;
	return true;
}

void store_mask_add(struct store_mask *mask, uint64_t group, unsigned int side, uint64_t rows)
{
	struct store_mask_entry *entry;

	if (rows == 0)
		return;
	if (mask->used * 4 >= mask->capacity * 3 && !grow(mask)) {
		mask->everything = true;
		return;
	}
	entry = find(mask->entries, mask->capacity, key_of(group, side));
	if (entry->key == 0) {
		entry->key = key_of(group, side);
		mask->used++;
	}
	entry->rows |= rows;
}

void store_mask_remove(struct store_mask *mask, uint64_t group, unsigned int side, uint64_t rows)
{
	if (mask->capacity != 0)
		find(mask->entries, mask->capacity, key_of(group, side))->rows &= ~rows;
}

uint64_t store_mask_get(const struct store_mask *mask, uint64_t group, unsigned int side)
{
	if (mask->everything)
		return ~UINT64_C(0);
	if (mask->capacity == 0)
		return 0;
	return find(mask->entries, mask->capacity, key_of(group, side))->rows;
}

void store_mask_free(struct store_mask *mask)
{
	free(mask->entries);
	*mask = (struct store_mask){0};
}

void store_mask_each(const struct store_mask *mask,
	void (*each)(void *context, uint64_t group, unsigned int side, uint64_t rows),
	void *context)
{
	for (size_t i = 0; i < mask->capacity; i++) {
		uint64_t key = mask->entries[i].key;

		if (key != 0 && mask->entries[i].rows != 0)
			each(context, (key - 1) / STORE_SIDES,
				(unsigned int)((key - 1) % STORE_SIDES), mask->entries[i].rows);
	}
}
