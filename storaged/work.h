/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What this node does in the background, for the status that its heartbeats carry to exportd.
 * Healer and scrubber write it, the heartbeat reads it.
 */
#ifndef ROZO_STORAGED_WORK_H
#define ROZO_STORAGED_WORK_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/meta.h"

struct work {
	pthread_mutex_t lock;
	meta_work told; /* guarded by lock; its list is allocated */
	_Atomic bool rebuild_waiting; /* exportd has something for META_REBUILD_LIST */
	_Atomic bool truncations_waiting; /* and for META_TRUNCATIONS */
};

void work_init(struct work *work);
void work_destroy(struct work *work);

/*
 * Copies what there is to tell. *told must be freed with free(told->missed.missed_val); the list is
 * left out if memory is short.
 */
void work_copy(struct work *work, meta_work *told);

/* Replaces the list of what nodes have missed; takes it over. */
void work_set_missed(struct work *work, meta_missed *missed, uint32_t count);

#endif
