/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See work.h. */
#include "storaged/work.h"

#include <stdlib.h>
#include <string.h>

void work_init(struct work *work)
{
	memset(work, 0, sizeof(*work));
	pthread_mutex_init(&work->lock, NULL);
}

void work_destroy(struct work *work)
{
	free(work->told.missed.missed_val);
	pthread_mutex_destroy(&work->lock);
}

void work_copy(struct work *work, meta_work *told)
{
	pthread_mutex_lock(&work->lock);
	*told = work->told;
	size_t bytes = told->missed.missed_len * sizeof(*told->missed.missed_val);
	told->missed.missed_val = bytes ? malloc(bytes) : NULL;
	if (told->missed.missed_val)
		memcpy(told->missed.missed_val, work->told.missed.missed_val, bytes);
	else
		told->missed.missed_len = 0;
	pthread_mutex_unlock(&work->lock);
}

void work_set_missed(struct work *work, meta_missed *missed, uint32_t count)
{
	pthread_mutex_lock(&work->lock);
	free(work->told.missed.missed_val);
	work->told.missed.missed_val = missed;
	work->told.missed.missed_len = count;
	pthread_mutex_unlock(&work->lock);
}
