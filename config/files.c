/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Reads the files of a configuration: any of limited size, and the cluster key with the checks
 * that keep it secret. Takes no locks.
 */
#include "config/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_DIGITS 64
#define READ_BYTES 4096
#define KEY_FILE_BYTES_MAX 4000 /* fits READ_BYTES: realloc() would leave copies of the key */

int config_read_file(
	const char *path, size_t bytes_max, char **text, size_t *bytes, struct stat *status)
{
	char *buffer = NULL;
	size_t room, used = 0;
	int error = 0;
	/* Non-blocking: a FIFO put in a file's place must not hang a daemon's start. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return -errno;
	if (fstat(fd, status) != 0) {
		error = -errno;
		goto out;
	}
	if (!S_ISREG(status->st_mode)) {
		error = S_ISDIR(status->st_mode) ? -EISDIR : -EINVAL;
		goto out;
	}
	/* The size may change while it is read; it is only a first guess. */
	room = status->st_size > READ_BYTES ? (size_t)status->st_size : READ_BYTES;
	if (room > bytes_max && room > READ_BYTES) {
		error = -EFBIG;
		goto out;
	}
	buffer = malloc(room + 1);
	if (buffer == NULL) {
		error = -ENOMEM;
		goto out;
	}
	for (;;) {
		ssize_t got;

		if (used == room) {
			char *larger = realloc(buffer, 2 * room + 1);

			if (larger == NULL) {
				error = -ENOMEM;
				goto out;
			}
			buffer = larger;
			room *= 2;
		}
		got = read(fd, buffer + used, room - used);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			error = -errno;
			goto out;
		}
		if (got == 0)
			break;
		used += (size_t)got;
		if (used > bytes_max) {
			error = -EFBIG;
			goto out;
		}
	}
	buffer[used] = '\0';
	*text = buffer;
	*bytes = used;
	buffer = NULL;
out:
	if (buffer != NULL)
		sodium_memzero(buffer, used);
	free(buffer);
	close(fd);
	return error;
}

static int digit(char character)
{
	if (character >= '0' && character <= '9')
		return character - '0';
	if (character >= 'a' && character <= 'f')
		return character - 'a' + 10;
	if (character >= 'A' && character <= 'F')
		return character - 'A' + 10;
	return -1;
}

static int check_key(struct config_problems *problems, const char *place, const char *path,
	const char *text, size_t bytes, uint8_t *key)
{
	while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
		bytes--;
	if (bytes != KEY_DIGITS) {
		config_problem(problems, place, NULL,
			"%s has %zu characters; allowed: exactly %d hexadecimal digits", path,
			bytes, KEY_DIGITS);
		return -EINVAL;
	}
	for (size_t i = 0; i < KEY_DIGITS; i++) {
		int value = digit(text[i]);

		if (value < 0) {
			/* Which character it is stays out of the log: it may be half a secret. */
			config_problem(problems, place, NULL,
				"%s: character %zu is not a hexadecimal digit; allowed: exactly "
				"%d of 0-9, a-f, A-F",
				path, i + 1, KEY_DIGITS);
			return -EINVAL;
		}
		key[i / 2] = (uint8_t)(i % 2 == 0 ? value << 4 : key[i / 2] | value);
	}
	return 0;
}

int config_read_key(
	struct config_problems *problems, const char *place, const char *path, uint8_t key[32])
{
	struct stat status = {0};
	char *text = NULL;
	size_t bytes = 0;
	mode_t mode;
	int error = config_read_file(path, KEY_FILE_BYTES_MAX, &text, &bytes, &status);

	if (error == -ENOMEM) {
		problems->out_of_memory = true;
		return error;
	}
	if (error == -ENOENT || error == -ENOTDIR) {
		config_problem(problems, place, NULL,
			"%s: %s; copy it from another machine of the cluster or, for a new "
			"cluster, make it: (umask 077; head -c 32 /dev/urandom | od -An -v -tx1 | "
			"tr -d ' \\n' >%s)",
			path, strerror(-error), path);
		return -ENOENT;
	}
	if (error == -EISDIR || error == -EINVAL || error == -EFBIG) {
		config_problem(problems, place, NULL,
			"%s is not a key file; allowed: a regular file of %d hexadecimal digits",
			path, KEY_DIGITS);
		return -EINVAL;
	}
	if (error != 0) {
		config_problem(problems, place, NULL,
			"%s: %s; the user of the daemon must be "
			"able to read it",
			path, strerror(-error));
		return -EACCES;
	}
	mode = status.st_mode & 07777;
	if (mode != 0600 && mode != 0400) {
		config_problem(problems, place, NULL,
			"%s has mode %04o; allowed: 0600 or 0400, so that nobody else can read or "
			"change the key; remedy: chmod 600 %s",
			path, (unsigned int)mode, path);
		error = -EINVAL;
	} else {
		error = check_key(problems, place, path, text, bytes, key);
	}
	sodium_memzero(text, bytes);
	free(text);
	return error;
}
