/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Truncations that nobody has carried out yet (RECORD_TRUNCATION). Whoever begins one, the metadata
 * server, carries it out at once. If it dies before that, a storage node is asked to after a while:
 * otherwise it would be done by whoever writes to the file next, and nobody may for years.
 *
 * How long each has waited is kept in memory only; after a start of exportd they wait anew.
 */
#ifndef ROZO_EXPORTD_TRUNCATION_H
#define ROZO_EXPORTD_TRUNCATION_H

#include "rpc/meta.h"

struct exportd;
struct kv_txn;
struct truncations;

/* Returns an empty table, freed with truncations_destroy(), or NULL if memory is short. */
struct truncations *truncations_create(void);

/* NULL is allowed. */
void truncations_destroy(struct truncations *truncations);

/*
 * Forgets all that wait, in a database that is an older copy: they will have been carried out
 * since, and done again would take away what was written after that. Returns 0 or an error of the
 * store.
 */
int truncation_forget_all(struct kv_txn *txn);

/* Whether META_TRUNCATIONS has work for a node: 1, 0, or a negative errno. */
int truncation_waiting(struct exportd *exportd, uint32_t node);

/* META_TRUNCATIONS. Status: 0, EIO or ENOMEM. */
void truncation_list(struct exportd *exportd, const struct meta_truncations_args *args,
	struct meta_truncations_res *result);

#endif
