/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See noticed.h. */
#include "storaged/noticed.h"

/* Where a block is among those that are kept; count: it is not. */
static size_t find(const struct noticed *noticed, const struct stripe_noticed *block)
{
	size_t i = 0;

	while (i < noticed->count && !stripe_noticed_same(&noticed->kept[i].block, block))
		i++;
	return i;
}

bool noticed_is_kept(const struct noticed *noticed, const struct stripe_noticed *block)
{
	return find(noticed, block) < noticed->count;
}

void noticed_tried(
	struct noticed *noticed, const struct stripe_noticed *block, bool mended, int64_t now_ms)
{
	size_t i = find(noticed, block);
	struct noticed_kept *kept = &noticed->kept[i];

	if (mended && i < noticed->count) {
		*kept = noticed->kept[--noticed->count];
	} else if (!mended && i < NOTICED_KEPT_MAX) {
		int64_t pause_ms = i < noticed->count ? 2 * kept->pause_ms : NOTICED_PAUSE_MS;

		if (pause_ms > NOTICED_PAUSE_MS_MAX)
			pause_ms = NOTICED_PAUSE_MS_MAX;
		noticed->count += i == noticed->count;
		*kept = (struct noticed_kept){
			.block = *block, .due_ms = now_ms + pause_ms, .pause_ms = pause_ms};
	}
}

size_t noticed_due(
	const struct noticed *noticed, int64_t now_ms, struct stripe_noticed list[NOTICED_KEPT_MAX])
{
	size_t count = 0;

	for (size_t i = 0; i < noticed->count; i++)
		if (noticed->kept[i].due_ms <= now_ms)
			list[count++] = noticed->kept[i].block;
	return count;
}
