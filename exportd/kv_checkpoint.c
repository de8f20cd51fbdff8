/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See kv_checkpoint.h. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exportd/kv_checkpoint.h"
#include "rpc/crc32c.h"
#include "rpc/log.h"

#define FILE_BYTES (2 * KV_CHECKPOINT_COPY_BYTES)

static uint32_t checksum(const struct kv_checkpoint_header *header, const uint8_t *meta)
{
	uint32_t crc = rozo_crc32c(header, offsetof(struct kv_checkpoint_header, crc32c));

	return rozo_crc32c_more(crc, meta, 2 * (size_t)le32toh(header->page_bytes));
}

/* Puts a checkpoint into the memory of a copy. Returns how many bytes of it are used. */
static size_t encode(const struct kv_checkpoint *checkpoint, uint8_t *copy)
{
	struct kv_checkpoint_header header = {
		.magic = htole64(KV_CHECKPOINT_MAGIC),
		.format = htole32(KV_CHECKPOINT_FORMAT),
		.page_bytes = htole32(checkpoint->page_bytes),
		.serial = htole64(checkpoint->mark.checkpoint),
		.run = htole64(checkpoint->mark.run),
		.sequence = htole64(checkpoint->mark.sequence),
		.transaction = htole64(checkpoint->transaction),
		.id_offset = htole64(checkpoint->id_offset),
		.log_bytes = htole64(checkpoint->log_bytes),
	};
	size_t meta_bytes = 2 * (size_t)checkpoint->page_bytes;

	memcpy(header.database_id, checkpoint->mark.database_id, sizeof(header.database_id));
	header.crc32c = htole32(checksum(&header, checkpoint->meta));
	memset(copy, 0, KV_CHECKPOINT_META_OFFSET);
	memcpy(copy, &header, sizeof(header));
	memcpy(copy + KV_CHECKPOINT_META_OFFSET, checkpoint->meta, meta_bytes);
	return KV_CHECKPOINT_META_OFFSET + meta_bytes;
}

/* Returns 0, -EBADMSG (not a sound copy) or -EINVAL (of a newer format). */
static int decode(const uint8_t *copy, struct kv_checkpoint *checkpoint)
{
	const uint8_t *meta = copy + KV_CHECKPOINT_META_OFFSET;
	struct kv_checkpoint_header header;

	memcpy(&header, copy, sizeof(header));
	if (le64toh(header.magic) != KV_CHECKPOINT_MAGIC)
		return -EBADMSG;
	if (le32toh(header.format) > KV_CHECKPOINT_FORMAT)
		return -EINVAL;
	if (le32toh(header.page_bytes) > KV_CHECKPOINT_PAGE_BYTES_MAX ||
		le32toh(header.crc32c) != checksum(&header, meta))
		return -EBADMSG;
	*checkpoint = (struct kv_checkpoint){
		.mark = {.run = le64toh(header.run),
			.checkpoint = le64toh(header.serial),
			.sequence = le64toh(header.sequence)},
		.page_bytes = le32toh(header.page_bytes),
		.transaction = le64toh(header.transaction),
		.id_offset = le64toh(header.id_offset),
		.log_bytes = le64toh(header.log_bytes),
	};
	memcpy(checkpoint->mark.database_id, header.database_id, sizeof(header.database_id));
	memcpy(checkpoint->meta, meta, 2 * (size_t)checkpoint->page_bytes);
	return 0;
}

static uint64_t copy_offset(const struct kv_checkpoint *checkpoint)
{
	return checkpoint->mark.checkpoint % 2 * KV_CHECKPOINT_COPY_BYTES;
}

int kv_checkpoint_create(const char *directory, const struct kv_checkpoint *checkpoint)
{
	char path[4200], temporary[4200];
	uint8_t *image = calloc(1, FILE_BYTES);
	int file, result = 0;

	if (image == NULL)
		return -ENOMEM;
	snprintf(path, sizeof(path), "%s/checkpoint", directory);
	snprintf(temporary, sizeof(temporary), "%s/checkpoint.new", directory);
	encode(checkpoint, image + copy_offset(checkpoint));
	file = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (file < 0)
		result = -errno;
	if (result == 0)
		result = redo_log_write_all(file, image, FILE_BYTES, 0);
	if (result == 0 && fsync(file) != 0)
		result = -errno;
	if (file >= 0)
		close(file);
	free(image);
	if (result != 0) {
		rozo_log(ERROR, "%s: %s", temporary, strerror(-result));
		return result;
	}
	if (rename(temporary, path) != 0)
		result = -errno;
	file = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (result == 0 && (file < 0 || fsync(file) != 0))
		result = -errno;
	if (file >= 0)
		close(file);
	if (result != 0)
		rozo_log(ERROR, "%s: %s", path, strerror(-result));
	return result;
}

static int read_copies(int file, struct kv_checkpoint *checkpoint)
{
	uint8_t *copy = malloc(KV_CHECKPOINT_COPY_BYTES);
	struct kv_checkpoint *other = malloc(sizeof(*other));
	int result = copy == NULL || other == NULL ? -ENOMEM : 0;
	bool found = false;

	for (uint64_t i = 0; result == 0 && i < 2; i++) {
		size_t done = 0;

		while (result == 0 && done < KV_CHECKPOINT_COPY_BYTES) {
			ssize_t got = pread(file, copy + done, KV_CHECKPOINT_COPY_BYTES - done,
				(off_t)(i * KV_CHECKPOINT_COPY_BYTES + done));

			if (got < 0 && errno != EINTR)
				result = -errno;
			if (got == 0) /* cut short: what is missing cannot be sound */
				memset(copy + done, 0, KV_CHECKPOINT_COPY_BYTES - done);
			done = got == 0 ? KV_CHECKPOINT_COPY_BYTES
					: done + (got > 0 ? (size_t)got : 0);
		}
		if (result == 0) {
			int sound = decode(copy, other);

			if (sound == -EINVAL)
				result = sound;
			if (sound == 0 &&
				(!found || other->mark.checkpoint > checkpoint->mark.checkpoint)) {
				*checkpoint = *other;
				found = true;
			}
		}
	}
	free(copy);
	free(other);
	return result != 0 ? result : found ? 0 : -EBADMSG;
}

int kv_checkpoint_open(const char *directory, int *file, struct kv_checkpoint *checkpoint)
{
	char path[4200];
	int result;

	snprintf(path, sizeof(path), "%s/checkpoint", directory);
	*file = open(path, O_RDWR | O_CLOEXEC);
	if (*file < 0 && errno == ENOENT)
		return -ENOENT;
	result = *file < 0 ? -errno : read_copies(*file, checkpoint);
	if (result == 0)
		return 0;
	if (*file >= 0)
		close(*file);
	*file = -1;
	if (result == -EINVAL)
		rozo_log(ERROR, "%s is of a newer format; start a newer rozo-exportd", path);
	else if (result == -EBADMSG)
		rozo_log(ERROR,
			"%s is damaged in both of its places: without it data.mdb cannot be told "
			"to be whole. Put a sound copy back, or restore the directory from a "
			"backup",
			path);
	else
		rozo_log(ERROR, "%s: %s", path, strerror(-result));
	return result;
}

int kv_checkpoint_write(int file, const struct kv_checkpoint *checkpoint)
{
	uint8_t *copy = malloc(KV_CHECKPOINT_COPY_BYTES);
	int result;

	if (copy == NULL)
		return -ENOMEM;
	result = redo_log_write_all(file, copy, encode(checkpoint, copy), copy_offset(checkpoint));
	if (result == 0 && fdatasync(file) != 0)
		result = -errno;
	free(copy);
	return result;
}
