/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The log of a device (store_log.h): appending, the flush that those who wait share, checkpoints.
 *
 * Takes store_log.lock only, and never calls back. Who waits first writes for all others: records
 * appended meanwhile go with the next flush. A checkpoint takes that turn for the moment in which
 * it writes the headers, since of two flushes of one descriptor only one is told of an error.
 */
#include "storaged/store_log.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "rpc/crc32c.h"

#define LIVE_BUCKETS 4096

/* A store file with records that count. */
struct live_file {
	struct live_file *next;
	store_file key;
	uint64_t sequence; /* of its newest record */
};

struct store_log {
	struct store *store;
	struct store_device *device;
	int descriptor;
	uint64_t ring_bytes;
	uint32_t payload_max;
	uint64_t run;
	uint32_t checkpoint_ms; /* 0: no thread */
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* for those who wait */
	pthread_cond_t wanted; /* for the thread */
	/* Guarded by lock. Positions count bytes from the ring's beginning and go round and round.
	 */
	struct store_log_header header;
	uint64_t sequence; /* of the newest record appended */
	uint64_t durable; /* all up to this one are flushed */
	uint64_t head; /* where the next batch begins */
	uint64_t durable_head; /* head when `durable` was reached */
	uint64_t tail;
	uint8_t *buffer; /* records appended and not yet being written */
	size_t buffer_bytes, buffer_room;
	uint8_t *spare; /* the other buffer, when nobody writes it */
	size_t spare_room;
	bool busy; /* somebody writes to the file */
	bool checkpointing;
	unsigned int holds; /* removals that are not made yet */
	bool failed; /* a flush failed: takes no records any more */
	bool pinned; /* the tail stays where it is */
	bool stopping;
	struct timespec due; /* when the oldest record is to be gone; valid if tail != head */
	struct live_file *live[LIVE_BUCKETS];
	/* What is told at the end. */
	uint64_t changes, flushes, cleans, refused, checkpoints;
};

uint32_t store_log_payload_max(const struct store_log *log)
{
	return log->payload_max;
}

/* -------- files with records that count -------- */

static struct live_file **live_find(struct store_log *log, const store_file *key)
{
	uint64_t hash = (key->file_id * 31 + key->segment) * 31 + key->export_id;
	struct live_file **link =
		&log->live[(hash * UINT64_C(0x9e3779b97f4a7c15) >> 32) % LIVE_BUCKETS];

	while (*link != NULL &&
		((*link)->key.file_id != key->file_id || (*link)->key.segment != key->segment ||
			(*link)->key.export_id != key->export_id))
		link = &(*link)->next;
	return link;
}

static void live_remove(struct live_file **link)
{
	struct live_file *live = *link;

	*link = live->next;
	free(live);
}

static int live_note(struct store_log *log, const store_file *key, uint64_t sequence)
{
	struct live_file **link = live_find(log, key);

	if (*link == NULL) {
		*link = calloc(1, sizeof(**link));
		if (*link == NULL)
			return -ENOMEM;
		(*link)->key = *key;
	}
	(*link)->sequence = sequence;
	return 0;
}

/* Forgets files whose records are all older than the tail. */
static void live_purge(struct store_log *log, uint64_t tail_sequence)
{
	for (size_t i = 0; i < LIVE_BUCKETS; i++) {
		struct live_file **link = &log->live[i];

		while (*link != NULL) {
			if ((*link)->sequence < tail_sequence)
				live_remove(link);
			else
				link = &(*link)->next;
		}
	}
}

/* -------- checkpoints -------- */

static uint64_t used_bytes(const struct store_log *log)
{
	return log->head - log->tail + log->buffer_bytes;
}

static bool half_full(const struct store_log *log)
{
	return used_bytes(log) > log->ring_bytes / 2;
}

/*
 * Makes everything durable that the records so far are for, and moves the tail behind them. Called
 * with the lock, which is released meanwhile; one at a time.
 */
static void checkpoint(struct store_log *log)
{
	uint64_t tail = log->durable_head, sequence = log->durable + 1;
	struct store_log_header header = log->header;
	const struct store_io *io = log->store->io;
	int error;

	log->checkpointing = true;
	pthread_mutex_unlock(&log->lock);
	/* What a record is for was written to its file before the record was appended. */
	error = io->sync_file_system(log->descriptor);
	if (error != 0 && !atomic_exchange(&log->device->failed, true))
		rozo_log(ERROR,
			"%s: taken out of service: flushing the file system failed: %s; what was "
			"lost is in " STORE_LOG_NAME ": mend the disk and restart rozo-storaged",
			log->device->path, strerror(-error));
	pthread_mutex_lock(&log->lock);
	while (error == 0 && log->busy)
		pthread_cond_wait(&log->changed, &log->lock);
	/* A flush that failed meanwhile may have had a file's bytes that a record is for. */
	if (error == 0 && !log->pinned && !log->failed) {
		log->busy = true;
		pthread_mutex_unlock(&log->lock);
		header.tail_offset = STORE_LOG_RING + tail % log->ring_bytes;
		header.tail_sequence = sequence;
		/* Nothing is written over what the older one counts before both are durable. */
		error = store_log_write_headers(io, log->descriptor, &header);
		pthread_mutex_lock(&log->lock);
		log->busy = false;
		if (error != 0) {
			log->failed = true;
			rozo_log(ERROR, "%s/" STORE_LOG_NAME ": flush failed: %s",
				log->device->path, strerror(-error));
			store_device_error(log->device, error);
		} else {
			log->header = header;
			log->tail = tail;
			log->checkpoints++;
			live_purge(log, sequence);
		}
	}
	if (error != 0)
		log->pinned = true;
	log->checkpointing = false;
	clock_gettime(CLOCK_MONOTONIC, &log->due);
	log->due.tv_sec += log->checkpoint_ms / 1000;
	pthread_cond_broadcast(&log->changed);
	/* It may not have been the thread: that one has something to wait for again. */
	pthread_cond_signal(&log->wanted);
}

/* True if a checkpoint could do something. */
static bool can_checkpoint(const struct store_log *log)
{
	return !log->failed && !log->pinned && log->holds == 0 && !log->checkpointing &&
	       log->durable_head != log->tail && !atomic_load(&log->device->failed);
}

void store_log_release(struct store_log *log)
{
	pthread_mutex_lock(&log->lock);
	log->holds--;
	pthread_cond_signal(&log->wanted);
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
}

static void *checkpoint_thread(void *context)
{
	struct store_log *log = context;
	struct timespec now;

	pthread_mutex_lock(&log->lock);
	while (!log->stopping) {
		if (!can_checkpoint(log)) {
			pthread_cond_wait(&log->wanted, &log->lock);
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (half_full(log) || now.tv_sec >= log->due.tv_sec)
			checkpoint(log);
		else
			pthread_cond_timedwait(&log->wanted, &log->lock, &log->due);
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

/* -------- appending -------- */

/* True if a record fits. What is not a change may use the last part of the ring. */
static bool has_room(const struct store_log *log, enum store_log_kind kind, uint64_t bytes)
{
	/* The end of the ring that a record does not fit into, and of batches. */
	uint64_t waste = log->payload_max + sizeof(struct store_log_record) + 3 * STORE_LOG_BATCH;
	uint64_t reserve = kind == STORE_LOG_CHANGE ? log->ring_bytes / 16 : 0;

	return used_bytes(log) + bytes + waste + reserve <= log->ring_bytes;
}

static int make_room(uint8_t **buffer, size_t *room, size_t bytes)
{
	size_t wanted = *room == 0 ? 128u << 10 : *room;
	uint8_t *larger;

	if (bytes <= *room)
		return 0;
	while (wanted < bytes)
		wanted *= 2;
	larger = realloc(*buffer, wanted);
	if (larger == NULL)
		return -ENOMEM;
	*buffer = larger;
	*room = wanted;
	return 0;
}

/* Until the log has changed, or perhaps its device has failed. log->lock is held. */
static void wait_for_change(struct store_log *log)
{
	struct timespec until;

	/* A device that fails does not say so. */
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	pthread_cond_timedwait(&log->changed, &log->lock, &until);
}

int store_log_append(struct store_log *log, enum store_log_kind kind, const store_file *key,
	const void *payload, uint32_t payload_bytes, uint64_t *sequence)
{
	struct store_log_record record = {
		.magic = htole64(STORE_LOG_RECORD_MAGIC),
		.run = htole64(log->run),
		.file_id = htole64(key->file_id),
		.export_id = htole32(key->export_id),
		.segment = htole32(key->segment),
		.kind = htole32((uint32_t)kind),
		.payload_bytes = htole32(payload_bytes),
	};
	uint64_t bytes = store_log_round(sizeof(record) + payload_bytes, STORE_LOG_UNIT);
	uint8_t *to;
	int error = 0;

	pthread_mutex_lock(&log->lock);
	while (!log->failed && !has_room(log, kind, bytes)) {
		pthread_cond_signal(&log->wanted);
		if (kind == STORE_LOG_CHANGE) {
			log->refused++;
			error = -ENOSPC;
			goto out;
		}
		/* There never will be room, so no file with records can be flushed any more. */
		if (log->pinned && !atomic_exchange(&log->device->failed, true))
			rozo_log(ERROR,
				"%s: taken out of service: " STORE_LOG_NAME
				" is full, and cannot be emptied since a flush failed: mend the "
				"disk and restart rozo-storaged",
				log->device->path);
		if (log->pinned || atomic_load(&log->device->failed)) {
			error = -EIO;
			goto out;
		}
		if (log->checkpoint_ms == 0 && can_checkpoint(log)) {
			checkpoint(log);
		} else {
			wait_for_change(log);
		}
	}
	if (log->failed)
		error = -EIO;
	if (error == 0)
		/* With what fills up the batch. */
		error = make_room(&log->buffer, &log->buffer_room,
			log->buffer_bytes + bytes + STORE_LOG_BATCH);
	if (error == 0)
		error = live_note(log, key, log->sequence + 1);
	if (error != 0)
		goto out;
	if (log->head == log->tail && log->buffer_bytes == 0) {
		clock_gettime(CLOCK_MONOTONIC, &log->due);
		log->due.tv_sec += log->checkpoint_ms / 1000;
	}
	*sequence = ++log->sequence;
	record.sequence = htole64(*sequence);
	to = log->buffer + log->buffer_bytes;
	memcpy(to, &record, sizeof(record));
	if (payload_bytes > 0)
		memcpy(to + sizeof(record), payload, payload_bytes);
	memset(to + sizeof(record) + payload_bytes, 0, bytes - sizeof(record) - payload_bytes);
	log->buffer_bytes += bytes;
	if (kind == STORE_LOG_REMOVE)
		log->holds++;
	if (kind == STORE_LOG_CLEAN)
		log->cleans++;
	else
		log->changes++;
out:
	pthread_mutex_unlock(&log->lock);
	return error;
}

/* -------- flushing -------- */

static uint64_t record_bytes(const uint8_t *bytes)
{
	struct store_log_record record;

	memcpy(&record, bytes, sizeof(record));
	return store_log_round(sizeof(record) + le32toh(record.payload_bytes), STORE_LOG_UNIT);
}

/*
 * How many bytes of the batch go where position is in the ring; the rest to its beginning. Records
 * are not cut in two.
 */
static size_t first_part(const struct store_log *log, const uint8_t *buffer, size_t bytes)
{
	uint64_t left = log->ring_bytes - log->head % log->ring_bytes;
	size_t part = 0;

	if (bytes <= left)
		return bytes;
	while (part < bytes && part + record_bytes(buffer + part) <= left)
		part += record_bytes(buffer + part);
	return part;
}

/* Completes the records of a batch, now that it is known what is durable before them. */
static void seal(uint8_t *buffer, size_t bytes, uint64_t durable)
{
	for (size_t at = 0; at < bytes; at += record_bytes(buffer + at)) {
		struct store_log_record record;
		uint32_t crc;

		memcpy(&record, buffer + at, sizeof(record));
		record.durable = htole64(durable);
		crc = rozo_crc32c(&record, offsetof(struct store_log_record, crc32c));
		crc = rozo_crc32c_more(
			crc, buffer + at + sizeof(record), le32toh(record.payload_bytes));
		record.crc32c = htole32(crc);
		memcpy(buffer + at, &record, sizeof(record));
	}
}

static int write_part(struct store_log *log, uint64_t position, uint8_t *bytes, size_t count)
{
	struct iovec part = {.iov_base = bytes, .iov_len = count};

	return store_io_write_all(log->store->io, log->descriptor, &part, 1,
		STORE_LOG_RING + position % log->ring_bytes);
}

/* Writes and flushes what was appended so far. Called with the lock, which is released meanwhile.
 */
static void flush_batch(struct store_log *log)
{
	uint8_t *buffer = log->buffer;
	size_t bytes = log->buffer_bytes, room = log->buffer_room, padded;
	uint64_t sequence = log->sequence, durable = log->durable, head = log->head, second;
	size_t part = first_part(log, buffer, bytes);
	int error = 0;

	second = head;
	if (part < bytes)
		second = (head / log->ring_bytes + 1) * log->ring_bytes;
	log->head =
		store_log_round(second + (part < bytes ? bytes - part : bytes), STORE_LOG_BATCH);
	log->buffer = log->spare;
	log->buffer_room = log->spare_room;
	log->buffer_bytes = 0;
	log->spare = NULL;
	log->spare_room = 0;
	log->busy = true;
	pthread_mutex_unlock(&log->lock);

	seal(buffer, bytes, durable);
	/* Whole pages, so that what they had need not be read first. */
	padded = store_log_round(part < bytes ? bytes - part : bytes, STORE_LOG_BATCH);
	memset(buffer + bytes, 0, padded - (part < bytes ? bytes - part : bytes));
	if (part < bytes && part > 0)
		error = write_part(log, head, buffer, part);
	if (error == 0)
		error = part < bytes ? write_part(log, second, buffer + part, padded)
				     : write_part(log, head, buffer, padded);
	if (error == 0)
		error = log->store->io->sync_data(log->descriptor);
	if (error != 0) {
		rozo_log(ERROR,
			"%s/" STORE_LOG_NAME
			": flush failed: %s; does without until rozo-storaged is "
			"restarted",
			log->device->path, strerror(-error));
		store_device_error(log->device, error);
		log->store->io->drop_cache(log->descriptor);
	}

	pthread_mutex_lock(&log->lock);
	log->busy = false;
	log->flushes++;
	if (error != 0) {
		log->failed = true;
		log->pinned = true;
	} else {
		/* The thread has something to wait for. */
		if (log->durable_head == log->tail)
			pthread_cond_signal(&log->wanted);
		log->durable = sequence;
		log->durable_head = log->head;
	}
	if (log->spare == NULL) {
		log->spare = buffer;
		log->spare_room = room;
	} else {
		free(buffer);
	}
	pthread_cond_broadcast(&log->changed);
}

int store_log_wait(struct store_log *log, uint64_t sequence)
{
	int error = 0;

	pthread_mutex_lock(&log->lock);
	while (log->durable < sequence) {
		if (log->failed) {
			error = -EIO;
			break;
		}
		if (log->busy)
			pthread_cond_wait(&log->changed, &log->lock);
		else
			flush_batch(log);
	}
	if (half_full(log) && can_checkpoint(log)) {
		if (log->checkpoint_ms != 0)
			pthread_cond_signal(&log->wanted);
		else
			checkpoint(log);
	}
	pthread_mutex_unlock(&log->lock);
	return error;
}

int store_log_checkpoint_for(struct store_log *log, const store_file *key)
{
	int error = 0;

	pthread_mutex_lock(&log->lock);
	while (error == 0 && *live_find(log, key) != NULL) {
		if (log->failed || atomic_load(&log->device->failed)) {
			error = -EIO;
		} else if (!log->checkpointing && (log->holds == 0 || log->pinned)) {
			checkpoint(log);
			error = atomic_load(&log->device->failed) ? -EIO : 0;
			break;
		} else {
			wait_for_change(log);
		}
	}
	pthread_mutex_unlock(&log->lock);
	return error;
}

int store_log_clean(struct store_log *log, const store_file *key)
{
	struct live_file **link;
	uint64_t sequence = 0;
	int error = 0;

	pthread_mutex_lock(&log->lock);
	link = live_find(log, key);
	bool live = *link != NULL;
	pthread_mutex_unlock(&log->lock);
	if (!live)
		return 0;
	error = store_log_append(log, STORE_LOG_CLEAN, key, NULL, 0, &sequence);
	if (error == 0)
		error = store_log_wait(log, sequence);
	if (error == 0) {
		pthread_mutex_lock(&log->lock);
		link = live_find(log, key);
		if (*link != NULL && (*link)->sequence == sequence)
			live_remove(link);
		pthread_mutex_unlock(&log->lock);
		return 0;
	}
	rozo_log_limited(ERROR,
		"%s/" STORE_LOG_NAME ": cannot be told that file %" PRIx64
		" segment %u of export %u "
		"was flushed: %s",
		log->device->path, (uint64_t)key->file_id, key->segment, key->export_id,
		strerror(-error));
	return -EIO;
}

void store_log_pin(struct store_log *log)
{
	pthread_mutex_lock(&log->lock);
	log->pinned = true;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
}

/* -------- opening and closing -------- */

/* A log file of zeros with headers. Returns a descriptor or a negative errno. */
static int make_log(const struct store_io *io, const char *name, struct store_log_header *header)
{
	size_t piece = 1u << 20;
	char temporary[STORE_PATH_MAX];
	uint8_t *zeros = calloc(1, piece);
	int descriptor = -ENOMEM, error = 0;

	if (snprintf(temporary, sizeof(temporary), "%s.new", name) >= (int)sizeof(temporary))
		descriptor = -ENAMETOOLONG;
	else if (zeros != NULL)
		descriptor = io->open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (descriptor < 0) {
		free(zeros);
		return descriptor;
	}
	for (uint64_t at = 0; at < header->bytes && error == 0; at += piece) {
		struct iovec part = {
			.iov_base = zeros,
			.iov_len = header->bytes - at < piece ? header->bytes - at : piece,
		};

		error = store_io_write_all(io, descriptor, &part, 1, at);
	}
	free(zeros);
	if (error == 0)
		error = io->sync_data(descriptor);
	if (error == 0)
		error = store_log_write_headers(io, descriptor, header);
	if (error == 0)
		error = io->rename(temporary, name);
	if (error == 0)
		return descriptor;
	io->close(descriptor);
	io->remove(temporary);
	return error;
}

/* How large a log to make: not more than a small part of the device. 0: none. */
static uint64_t choose_bytes(struct store *store, struct store_device *device, uint64_t wanted)
{
	struct store_space space;
	uint64_t bytes = wanted;

	if (wanted == 0 || store->io->space(device->path, &space) != 0)
		return 0;
	if (bytes > space.total_bytes / 128)
		bytes = space.total_bytes / 128;
	bytes = bytes / STORE_LOG_BATCH * STORE_LOG_BATCH;
	if (bytes < STORE_LOG_BYTES_MIN || (bytes < wanted && bytes < 1u << 20))
		return 0;
	return store_device_room(store, device, 2 * bytes, false) == 0 ? bytes : 0;
}

static int random_run(uint64_t *run)
{
	return getrandom(run, sizeof(*run), 0) == sizeof(*run) ? 0 : -EIO;
}

/* Applies what an earlier run left, and begins a new run with an empty log. */
static int take_over(struct store *store, struct store_device *device, int descriptor,
	struct store_log_header *header, char *text, size_t text_bytes)
{
	struct store_log_summary summary;
	int error = store_log_replay(store, device, descriptor, header, &summary, text, text_bytes);

	if (error != 0)
		return error;
	if (summary.records > 0) {
		error = store->io->sync_file_system(descriptor);
		if (error == 0)
			rozo_log(INFO,
				"%s/" STORE_LOG_NAME
				": rozo-storaged was not stopped cleanly: %" PRIu64
				" records applied (%" PRIu64 " KiB in %" PRIu64
				" store files), %" PRIu64 " were superseded",
				device->path, summary.records - summary.superseded,
				summary.bytes >> 10, summary.files, summary.superseded);
	}
	/* Who made it may have died before its name was durable. */
	if (error == 0)
		error = store->io->sync_directory(device->path);
	if (error == 0)
		error = random_run(&header->run);
	if (error == 0) {
		header->tail_offset = STORE_LOG_RING;
		header->tail_sequence = 1;
		error = store_log_write_headers(store->io, descriptor, header);
	}
	if (error != 0)
		snprintf(text, text_bytes,
			"%s/" STORE_LOG_NAME
			": its records cannot be applied: %s: mend the disk, or "
			"make room, and restart rozo-storaged",
			device->path, strerror(-error));
	return error;
}

static struct store_log *log_create(
	struct store *store, struct store_device *device, int descriptor, uint32_t checkpoint_ms)
{
	struct store_log *log = calloc(1, sizeof(*log));
	pthread_condattr_t attributes;

	if (log == NULL)
		return NULL;
	log->store = store;
	log->device = device;
	log->descriptor = descriptor;
	log->checkpoint_ms = checkpoint_ms;
	pthread_mutex_init(&log->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&log->changed, &attributes);
	pthread_cond_init(&log->wanted, &attributes);
	pthread_condattr_destroy(&attributes);
	return log;
}

static void log_destroy(struct store_log *log)
{
	for (size_t i = 0; i < LIVE_BUCKETS; i++) {
		while (log->live[i] != NULL)
			live_remove(&log->live[i]);
	}
	free(log->buffer);
	free(log->spare);
	pthread_cond_destroy(&log->wanted);
	pthread_cond_destroy(&log->changed);
	pthread_mutex_destroy(&log->lock);
	free(log);
}

int store_log_open(struct store *store, struct store_device *device,
	const struct store_options *options, char *text, size_t text_bytes)
{
	struct store_log_header header = {.serial = 0};
	const struct store_io *io = store->io;
	char name[STORE_PATH_MAX];
	struct store_log *log;
	int descriptor, error = -ENAMETOOLONG;

	device->log = NULL;
	if (snprintf(name, sizeof(name), "%s/" STORE_LOG_NAME, device->path) >= (int)sizeof(name))
		return error;
	descriptor = io->open(name, O_RDWR, 0);
	if (descriptor == -ENOENT) {
		header.bytes = io->sync_file_system == NULL
				       ? 0
				       : choose_bytes(store, device, options->log_bytes);
		if (header.bytes == 0)
			return 0;
		memcpy(header.device_id, device->id, strnlen(device->id, sizeof(header.device_id)));
		header.tail_offset = STORE_LOG_RING;
		header.tail_sequence = 1;
		descriptor = make_log(io, name, &header);
	}
	if (descriptor < 0) {
		snprintf(text, text_bytes, "%s: %s", name, strerror(-descriptor));
		return descriptor;
	}
	error = io->sync_file_system == NULL ? -EOPNOTSUPP : 0;
	if (error == 0)
		error = store_log_read_header(io, device, descriptor, &header, text, text_bytes);
	if (error == 0)
		error = take_over(store, device, descriptor, &header, text, text_bytes);
	if (error != 0)
		goto failed;
	log = log_create(store, device, descriptor, options->log_checkpoint_ms);
	error = -ENOMEM;
	if (log == NULL)
		goto failed;
	log->header = header;
	log->run = header.run;
	log->ring_bytes = header.bytes - STORE_LOG_RING;
	log->payload_max = (uint32_t)(log->ring_bytes / 8);
	if (log->payload_max > STORE_LOG_PAYLOAD_MAX)
		log->payload_max = STORE_LOG_PAYLOAD_MAX;
	if (log->checkpoint_ms != 0 &&
		pthread_create(&log->thread, NULL, checkpoint_thread, log) != 0) {
		log_destroy(log);
		goto failed;
	}
	device->log = log;
	return 0;
failed:
	io->close(descriptor);
	if (text[0] == '\0')
		snprintf(text, text_bytes, "%s: %s", name, strerror(-error));
	return error;
}

void store_log_close(struct store_log *log)
{
	if (log == NULL)
		return;
	pthread_mutex_lock(&log->lock);
	log->stopping = true;
	pthread_cond_signal(&log->wanted);
	pthread_mutex_unlock(&log->lock);
	if (log->checkpoint_ms != 0)
		pthread_join(log->thread, NULL);
	pthread_mutex_lock(&log->lock);
	if (can_checkpoint(log))
		checkpoint(log);
	pthread_mutex_unlock(&log->lock);
	if (log->changes > 0)
		rozo_log(INFO,
			"%s/" STORE_LOG_NAME ": %" PRIu64 " changes and %" PRIu64
			" notes of flushed files made durable by %" PRIu64 " flushes; %" PRIu64
			" changes found it full; %" PRIu64 " checkpoints",
			log->device->path, log->changes, log->cleans, log->flushes, log->refused,
			log->checkpoints);
	log->store->io->close(log->descriptor);
	log_destroy(log);
}
