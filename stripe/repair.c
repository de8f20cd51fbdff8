/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Read repair: blocks of which a read met a damaged shard are healed soon after, by a thread of
 * their own, so that no read waits for it. What does not fit into the queue is found again by the
 * next read or by scrubbing.
 *
 * repair.lock guards the queue; nothing else is taken while it is held. Each entry has a reference
 * to its file.
 */
#include <errno.h>
#include <string.h>

#include "stripe/internal.h"

/* True in the thread itself: what cannot be repaired must not be asked for again and again. */
static _Thread_local bool repairing;

static void *run(void *argument)
{
	struct stripe *stripe = argument;
	struct repair *repair = &stripe->repair;

	repairing = true;
	pthread_mutex_lock(&repair->lock);
	while (!repair->stopping) {
		if (!repair->count) {
			pthread_cond_wait(&repair->wake, &repair->lock);
			continue;
		}
		struct repair_entry entry = repair->queue[0];
		pthread_mutex_unlock(&repair->lock);
		struct stripe_heal_result result;
		int error = stripe_heal_range(
			entry.file, entry.segment, entry.block, 1, true, 0, &result);
		if (error)
			rozo_log_limited(WARNING,
				"file %u/%llu segment %u block %llu has a damaged shard that "
				"cannot "
				"be repaired now: %s",
				entry.file->export_id, (unsigned long long)entry.file->file_id,
				entry.segment, (unsigned long long)entry.block, strerror(-error));
		else if (result.healed)
			rozo_log_limited(INFO,
				"file %u/%llu segment %u block %llu: %llu damaged shards that a "
				"read met are repaired",
				entry.file->export_id, (unsigned long long)entry.file->file_id,
				entry.segment, (unsigned long long)entry.block,
				(unsigned long long)result.healed);
		stripe_file_put(entry.file);
		/* Only now: meanwhile nobody need ask for it again. */
		pthread_mutex_lock(&repair->lock);
		memmove(repair->queue, repair->queue + 1, --repair->count * sizeof(entry));
	}
	pthread_mutex_unlock(&repair->lock);
	return NULL;
}

int repair_start(struct stripe *stripe)
{
	struct repair *repair = &stripe->repair;

	pthread_mutex_init(&repair->lock, NULL);
	pthread_cond_init(&repair->wake, NULL);
	int error = -pthread_create(&repair->thread, NULL, run, stripe);
	repair->running = error == 0;
	return error;
}

void repair_stop(struct stripe *stripe)
{
	struct repair *repair = &stripe->repair;

	if (!repair->running)
		return;
	pthread_mutex_lock(&repair->lock);
	repair->stopping = true;
	pthread_cond_signal(&repair->wake);
	pthread_mutex_unlock(&repair->lock);
	pthread_join(repair->thread, NULL);
	for (unsigned int i = 0; i < repair->count; i++)
		stripe_file_put(repair->queue[i].file);
	pthread_cond_destroy(&repair->wake);
	pthread_mutex_destroy(&repair->lock);
}

void repair_ask(struct stripe_file *file, uint32_t segment, uint64_t block)
{
	struct repair *repair = &file->stripe->repair;

	if (!repair->running || repairing)
		return;
	pthread_mutex_lock(&repair->lock);
	bool wanted = repair->count < REPAIRS_MAX;
	for (unsigned int i = 0; i < repair->count && wanted; i++) {
		const struct repair_entry *entry = &repair->queue[i];
		wanted = entry->file != file || entry->segment != segment || entry->block != block;
	}
	if (wanted) {
		file_reference(file);
		repair->queue[repair->count++] =
			(struct repair_entry){.file = file, .segment = segment, .block = block};
		pthread_cond_signal(&repair->wake);
	}
	pthread_mutex_unlock(&repair->lock);
}
