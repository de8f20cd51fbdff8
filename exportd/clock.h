/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The one place exportd asks for the time, so that tests can set it.
 */
#ifndef ROZO_EXPORTD_CLOCK_H
#define ROZO_EXPORTD_CLOCK_H

#include <stdint.h>

enum clock_kind {
	CLOCK_KIND_WALL, /* nanoseconds since 1970, for file times */
	CLOCK_KIND_MONOTONIC, /* nanoseconds since some start, for silence of nodes */
};

/* The time now, in nanoseconds. Any thread. */
uint64_t clock_now_ns(enum clock_kind kind);

/*
 * Makes clock_now_ns() answer from `source` (NULL: the system's clocks again). For tests; may be
 * called at any time.
 */
void clock_set_source(uint64_t (*source)(enum clock_kind kind));

#endif
