/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Blocks that reads found in need of care: a shard damaged or missed, or a version that nobody
 * knows to be decided, as a writer leaves that died. A read only notes them, since who heals must
 * not keep it waiting; the storage node's healer takes the list. Bounded, and forgotten with the
 * process: the next read notes what is still there.
 */
#include "stripe/internal.h"

void notice_block(struct stripe_file *file, const struct segment *segment, uint64_t block)
{
	struct notices *notices = &file->stripe->notices;
	struct stripe_noticed noticed = {
		.export_id = file->export_id,
		.segment = segment->number,
		.file_id = file->file_id,
		.block = block,
	};
	size_t i = 0;

	pthread_mutex_lock(&notices->lock);
	while (i < notices->count && !stripe_noticed_same(&notices->blocks[i], &noticed))
		i++;
	if (i == notices->count && i < NOTICED_MAX)
		notices->blocks[notices->count++] = noticed;
	pthread_mutex_unlock(&notices->lock);
}

size_t stripe_noticed(struct stripe *stripe, struct stripe_noticed *list, size_t max)
{
	struct notices *notices = &stripe->notices;
	size_t count;

	pthread_mutex_lock(&notices->lock);
	count = notices->count < max ? notices->count : max;
	for (size_t i = 0; i < count; i++)
		list[i] = notices->blocks[--notices->count];
	pthread_mutex_unlock(&notices->lock);
	return count;
}
