/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Store files that nobody needs: left by a write that came after its file was removed, or by a node
 * that was out of the cluster. Nothing is removed on a doubtful answer: exportd must have said
 * twice, in two passes some time apart, that the file existed and is no more, and it must be the
 * exportd that this node has known its exports by.
 */
#ifndef ROZO_STORAGED_ORPHANS_H
#define ROZO_STORAGED_ORPHANS_H

#include "storaged/store.h"
#include "stripe/stripe.h"

/* All functions are for one thread. */
struct orphans;

/*
 * devices: the node's device directories, each of which remembers, in the file rozo-exports, by
 * which filesystem id the node knows an export. Returns 0 or -ENOMEM.
 */
int orphans_create(struct orphans **orphans, uint32_t node_id, struct store *store,
	struct stripe *stripe, const char *const *devices, size_t device_count);

/* NULL is allowed. */
void orphans_destroy(struct orphans *orphans);

/* Begins a pass. age_ms: since the first answer, before the second one counts. */
void orphans_pass(struct orphans *orphans, int64_t age_ms);

/* Asks exportd of a store file, sooner or later. */
void orphans_ask(struct orphans *orphans, const store_file *file);

/* Asks of the last ones, and forgets suspects that were not met again. */
void orphans_pass_end(struct orphans *orphans);

/* How many store files were removed in this pass, and how many exportd is to be asked of again. */
uint64_t orphans_removed(const struct orphans *orphans);
uint64_t orphans_suspected(const struct orphans *orphans);

#endif
