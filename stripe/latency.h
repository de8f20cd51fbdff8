/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * How long nodes take to answer reads, and when one is to be called slow: so that a read goes to
 * the fast ones, and asks another when one does not answer in its usual time.
 *
 * Moving averages, updated as answers come, in each node. No locks; a lost update does no harm.
 */
#ifndef ROZO_STRIPE_LATENCY_H
#define ROZO_STRIPE_LATENCY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct node;
struct segment;

/* Reads are alike if they are about as long: up to 64 KiB of a shard, or more. */
#define LATENCY_CLASSES 2

struct latency {
	/* Of answers, with their mean deviation; 0: none yet. */
	_Atomic uint32_t mean_us[LATENCY_CLASSES], deviation_us[LATENCY_CLASSES];
	_Atomic uint64_t probed_ms; /* when it was last asked although it was slow */
};

uint64_t latency_now_us(void);

unsigned int latency_class(uint64_t shard_bytes);

/* An answer came after so long. */
void latency_answered(struct node *node, unsigned int class, uint64_t us);

/* No answer has come for so long, and others are being asked. */
void latency_overdue(struct node *node, unsigned int class, uint64_t us);

/* True if the node takes several times as long as most of the segment's. */
bool latency_is_slow(const struct segment *segment, const struct node *node, unsigned int class);

/* True, now and then, for a slow node: to be asked beside others, to see if it is fast again. */
bool latency_probe_is_due(struct node *node);

/* After how long most of the segment's nodes would have answered, with hardly an exception. */
unsigned int latency_patience_ms(const struct segment *segment, unsigned int class);

#endif
