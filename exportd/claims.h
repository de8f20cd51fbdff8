/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Which writer each file's write epoch was given to: a bounded table in memory. Forgetting an entry
 * costs a write epoch and its transaction, and nothing else.
 */
#ifndef ROZO_EXPORTD_CLAIMS_H
#define ROZO_EXPORTD_CLAIMS_H

#include <stdbool.h>
#include <stdint.h>

struct claims;

/* Returns an empty table, freed with claims_destroy(), or NULL if memory is short. */
struct claims *claims_create(void);

void claims_destroy(struct claims *claims);

/* Notes that the epoch was made for this writer, or, with 0, for nobody yet. Once it is durable. */
void claims_note(struct claims *claims, uint32_t export_id, uint64_t file_id, uint32_t write_epoch,
	uint64_t writer);

/*
 * True if the epoch is this writer's, or was nobody's: then it is this writer's now. False if it is
 * somebody else's, or that is not known.
 */
bool claims_take(struct claims *claims, uint32_t export_id, uint64_t file_id, uint32_t write_epoch,
	uint64_t writer);

#endif
