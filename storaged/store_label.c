/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The label that says whose device a directory is.
 *
 * It is text, so that an administrator can read it; its last line is the CRC of those before it. It
 * is made last and renamed into place, so a directory with a label is a complete device. Takes no
 * locks of the process; the descriptor returned holds the device's lock against other processes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "rpc/crc32c.h"
#include "storaged/store_internal.h"

#define LABEL_NAME "rozo-label"
#define LABEL_BYTES_MAX 1024
#define LABEL_TITLE "rozo storage device\n"

static int foreign_name(void *context, const char *name)
{
	if (strcmp(name, "lost+found") == 0)
		return 0;
	snprintf(context, 256, "%s", name);
	return 1;
}

/* Writes the label's text and its CRC line. Returns the number of bytes. */
static int label_text(char *text, size_t text_bytes, const char *cluster_id, uint32_t node_id,
	const uint8_t id[16])
{
	int length = snprintf(text, text_bytes,
		LABEL_TITLE "format %u\ncluster %s\nnode %" PRIu32 "\ndevice ", STORE_FORMAT,
		cluster_id, node_id);

	for (int i = 0; i < 16; i++)
		length += snprintf(text + length, text_bytes - (size_t)length, "%02x", id[i]);
	length += snprintf(text + length, text_bytes - (size_t)length, "\n");
	return length + snprintf(text + length, text_bytes - (size_t)length,
				"crc32c %08" PRIx32 "\n", rozo_crc32c(text, (size_t)length));
}

static int write_label(const struct store_io *io, const char *path, const char *text, int length)
{
	char temporary[STORE_PATH_MAX], name[STORE_PATH_MAX];
	struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = (size_t)length};
	int descriptor, error;

	snprintf(temporary, sizeof(temporary), "%s/" LABEL_NAME ".new", path);
	snprintf(name, sizeof(name), "%s/" LABEL_NAME, path);
	descriptor = io->open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (descriptor < 0)
		return descriptor;
	error = store_io_write_all(io, descriptor, &part, 1, 0);
	if (error == 0)
		error = io->sync_data(descriptor);
	io->close(descriptor);
	if (error == 0)
		error = io->rename(temporary, name);
	if (error == 0)
		error = io->sync_directory(path);
	return error;
}

/* The value of a line "key value\n" at *at, cut off there; NULL if the line has another key. */
static char *take_line(char **at, const char *key)
{
	char *line = *at, *end = strchr(line, '\n');
	size_t length = strlen(key);

	if (end == NULL || strncmp(line, key, length) != 0 || line[length] != ' ')
		return NULL;
	*end = '\0';
	*at = end + 1;
	return line + length + 1;
}

/* Checks a label's text against what is expected. Returns 0 or -EINVAL. */
static int check_label(char *text, const char *path, const char *cluster_id, uint32_t node_id,
	char **id, char *message, size_t message_bytes)
{
	char *crc_line = strstr(text, "\ncrc32c ");
	char *at = text + strlen(LABEL_TITLE);
	char *format, *cluster, *node, *device;
	char expected_node[16];

	if (strncmp(text, LABEL_TITLE, strlen(LABEL_TITLE)) != 0 || crc_line == NULL ||
		strtoul(crc_line + strlen("\ncrc32c "), NULL, 16) !=
			rozo_crc32c(text, (size_t)(crc_line + 1 - text))) {
		snprintf(message, message_bytes,
			"%s/" LABEL_NAME
			": damaged (its CRC does not agree): restore the file from a copy, "
			"or initialise the device again and let its shards be rebuilt",
			path);
		return -EINVAL;
	}
	format = take_line(&at, "format");
	if (format == NULL || strtoul(format, NULL, 10) != STORE_FORMAT) {
		snprintf(message, message_bytes,
			"%s/" LABEL_NAME
			": format %s, this program knows format %u: use the version of "
			"rozo-storaged that made it, or a newer one",
			path, format != NULL ? format : "unknown", STORE_FORMAT);
		return -EINVAL;
	}
	cluster = take_line(&at, "cluster");
	node = take_line(&at, "node");
	device = take_line(&at, "device");
	if (cluster == NULL || node == NULL || device == NULL) {
		snprintf(message, message_bytes, "%s/" LABEL_NAME ": a line is missing", path);
		return -EINVAL;
	}
	if (strcmp(cluster, cluster_id) != 0) {
		snprintf(message, message_bytes,
			"%s: belongs to cluster \"%s\", this is cluster \"%s\": correct the "
			"device's path in "
			"the configuration",
			path, cluster, cluster_id);
		return -EINVAL;
	}
	snprintf(expected_node, sizeof(expected_node), "%" PRIu32, node_id);
	if (strcmp(node, expected_node) != 0) {
		snprintf(message, message_bytes,
			"%s: belongs to node %s, this is node %s: correct the device's path in the "
			"configuration",
			path, node, expected_node);
		return -EINVAL;
	}
	*id = strdup(device);
	if (*id == NULL) {
		snprintf(message, message_bytes, "%s: %s", path, strerror(ENOMEM));
		return -ENOMEM;
	}
	return 0;
}

/* Opens a label for reading and locking. Returns a descriptor, or an error with its message. */
static int open_label(
	const struct store_io *io, const char *path, char *message, size_t message_bytes)
{
	char name[STORE_PATH_MAX];
	int file;

	snprintf(name, sizeof(name), "%s/" LABEL_NAME, path);
	file = io->open(name, O_RDWR, 0);
	if (file == -ENOENT)
		snprintf(message, message_bytes,
			"%s: no storage device (no file " LABEL_NAME
			"): mount its file system, or make it "
			"one with rozo-storaged --init",
			path);
	else if (file < 0)
		snprintf(message, message_bytes, "%s: %s", name, strerror(-file));
	return file;
}

/* Reads and checks an open label. *id is the caller's to free, also NULL. Returns 0 or an error. */
static int read_label(const struct store_io *io, int file, const char *path, const char *cluster_id,
	uint32_t node_id, char **id, char *message, size_t message_bytes)
{
	char text[LABEL_BYTES_MAX + 1];
	struct iovec part = {.iov_base = text, .iov_len = LABEL_BYTES_MAX};
	ssize_t length = store_io_read_all(io, file, &part, 1, 0);

	*id = NULL;
	if (length < 0) {
		snprintf(message, message_bytes, "%s/" LABEL_NAME ": %s", path,
			strerror((int)-length));
		return (int)length;
	}
	text[length] = '\0';
	return check_label(text, path, cluster_id, node_id, id, message, message_bytes);
}

int store_label_open(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, int *descriptor, char **id, char *message, size_t message_bytes)
{
	int file, error;

	*id = NULL;
	*descriptor = -1;
	if (strlen(path) > STORE_PATH_MAX / 2) {
		snprintf(message, message_bytes, "%.64s...: the path is too long", path);
		return -ENAMETOOLONG;
	}
	file = open_label(io, path, message, message_bytes);
	if (file < 0)
		return file;
	error = io->lock(file);
	if (error != 0) {
		snprintf(message, message_bytes, "%s: %s", path,
			error == -EWOULDBLOCK ? "in use by another rozo-storaged (or given twice): "
						"stop that one first"
					      : strerror(-error));
		error = error == -EWOULDBLOCK ? -EBUSY : error;
	} else {
		error = read_label(io, file, path, cluster_id, node_id, id, message, message_bytes);
	}
	if (error != 0)
		io->close(file);
	else
		*descriptor = file;
	return error;
}

int store_check_directory(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, char *error, size_t error_bytes)
{
	char found[256], *id;
	int result, label;

	if (io == NULL)
		io = &store_io_posix;
	if (strlen(path) > STORE_PATH_MAX / 2 || strlen(cluster_id) > LABEL_BYTES_MAX / 2 ||
		strpbrk(cluster_id, "\n\r") != NULL) {
		snprintf(error, error_bytes,
			"%.64s...: the path or the cluster id is too long, or the id has line "
			"breaks",
			path);
		return -EINVAL;
	}
	/* Without the lock: a daemon that uses its device may go on. */
	label = open_label(io, path, error, error_bytes);
	if (label >= 0) {
		result = read_label(io, label, path, cluster_id, node_id, &id, error, error_bytes);
		io->close(label);
		free(id);
		return result == 0 ? STORE_DIRECTORY_LABELLED : result;
	}
	if (label != -ENOENT && label != -ENOTDIR)
		return label;
	result = io->list(path, foreign_name, found);
	if (result > 0) {
		snprintf(error, error_bytes,
			"%s: not empty (it has \"%s\"): give an empty directory, or remove its "
			"contents "
			"if they are not needed",
			path, found);
		return -ENOTEMPTY;
	}
	if (result < 0) {
		snprintf(error, error_bytes,
			"%s: %s: create the directory, or mount its file system", path,
			strerror(-result));
		return result;
	}
	return STORE_DIRECTORY_EMPTY;
}

int store_init_device(const struct store_io *io, const char *path, const char *cluster_id,
	uint32_t node_id, char *error, size_t error_bytes)
{
	char text[LABEL_BYTES_MAX], name[STORE_PATH_MAX];
	uint8_t id[16];
	int result;

	if (io == NULL)
		io = &store_io_posix;
	result = store_check_directory(io, path, cluster_id, node_id, error, error_bytes);
	if (result == STORE_DIRECTORY_LABELLED) {
		snprintf(error, error_bytes, "%s: is a device of node %" PRIu32 " already", path,
			node_id);
		return -EEXIST;
	}
	if (result != STORE_DIRECTORY_EMPTY)
		return result;
	if (getrandom(id, sizeof(id), 0) != sizeof(id)) {
		snprintf(error, error_bytes, "%s: no random numbers: %s", path, strerror(errno));
		return -EIO;
	}
	snprintf(name, sizeof(name), "%s/shards", path);
	result = io->make_directory(name, 0700);
	if (result == 0) {
		snprintf(name, sizeof(name), "%s/missed", path);
		result = io->make_directory(name, 0700);
	}
	if (result == 0)
		result = write_label(
			io, path, text, label_text(text, sizeof(text), cluster_id, node_id, id));
	if (result != 0)
		snprintf(error, error_bytes, "%s: cannot be written: %s", path, strerror(-result));
	return result;
}
