/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Blocks that reads noticed (stripe_noticed()) and the healer could not mend: which are tried
 * again, and when. Forgotten with the process, as what reads note is.
 *
 * Only bookkeeping: no clock, no locks; one thread uses it.
 */
#ifndef ROZO_STORAGED_NOTICED_H
#define ROZO_STORAGED_NOTICED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stripe/stripe.h"

#define NOTICED_KEPT_MAX 128
#define NOTICED_PAUSE_MS 1000 /* before the second attempt; then twice as long each time */
#define NOTICED_PAUSE_MS_MAX 30000

struct noticed_kept {
	struct stripe_noticed block;
	int64_t due_ms; /* not to be tried before */
	int64_t pause_ms; /* after the attempt that failed last */
};

/* All zeros: none. */
struct noticed {
	size_t count;
	struct noticed_kept kept[NOTICED_KEPT_MAX];
};

/* True if a block is to be tried again in its time: that it is read once more changes nothing. */
bool noticed_is_kept(const struct noticed *noticed, const struct stripe_noticed *block);

/*
 * Notes that a block was tried. If it could not be mended it is kept, unless there are too many:
 * the next read notices it again.
 */
void noticed_tried(
	struct noticed *noticed, const struct stripe_noticed *block, bool mended, int64_t now_ms);

/* Puts the blocks that are to be tried again by now into list. Returns how many. */
size_t noticed_due(const struct noticed *noticed, int64_t now_ms,
	struct stripe_noticed list[NOTICED_KEPT_MAX]);

#endif
