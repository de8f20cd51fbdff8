/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Which files a gateway has reported written since the last LAYOUTCOMMIT: a hint that saves a
 * transaction, kept in a bounded table in memory. Forgetting an entry costs that transaction and
 * nothing else; it has to be forgotten when the file's attributes are told to somebody.
 */
#ifndef ROZO_EXPORTD_WRITTEN_H
#define ROZO_EXPORTD_WRITTEN_H

#include <stdbool.h>
#include <stdint.h>

struct written;

/* Returns an empty table, freed with written_destroy(), or NULL if memory is short. */
struct written *written_create(void);

void written_destroy(struct written *written);

/* To be called before a gateway's report is carried out; written_note() wants the result. */
uint32_t written_ask(struct written *written, uint32_t export_id, uint64_t file_id);

/*
 * Notes that a gateway's report of this file is durable, unless a note has been taken back since
 * asked: readers see the report before its caller comes here, and somebody may have told them.
 */
void written_note(struct written *written, uint32_t export_id, uint64_t file_id, uint32_t asked);

/* Takes the note back. Returns true if there was one. */
bool written_take(struct written *written, uint32_t export_id, uint64_t file_id);

#endif
