/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the files of this folder share: the list of problems found, reading files, and the readers
 * of single members of the document.
 */
#ifndef ROZO_CONFIG_INTERNAL_H
#define ROZO_CONFIG_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define CONFIG_PLACE_BYTES 64 /* of a path in the document: "nodes[4095].devices[255]" */
#define CONFIG_NAME_MAX 63 /* characters of an id, a name or a failure domain */
#define CONFIG_PATH_MAX 1023 /* bytes of a directory or file name */

/*
 * The problems found so far, as the text for the caller of config_load(). Problems past the tenth
 * are only counted.
 */
struct config_problems {
	const char *file; /* named in each line */
	char *text; /* the caller's buffer, always terminated; may be of 0 bytes */
	size_t text_bytes;
	size_t used_bytes;
	unsigned int count;
	bool out_of_memory; /* some check could not be made, and nothing else must be believed */
};

void config_problems_init(
	struct config_problems *problems, const char *file, char *text, size_t text_bytes);

/*
 * Adds one problem: "FILE: PLACE: VALUE: MESSAGE".
 * place: path in the document, or NULL; value: what was found there, or NULL.
 */
void config_problem(struct config_problems *problems, const char *place, const json_t *value,
	const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Says how many problems were not listed. To be called once, at the end. */
void config_problems_finish(struct config_problems *problems);

/*
 * Reads a regular file of at most bytes_max bytes.
 * *text receives its contents with a 0 byte appended, *bytes their length, *status its state when
 * it was read. Free with free().
 * Returns 0, -ENOENT, -EACCES, -ENOMEM, -EISDIR, -EFBIG, -EINVAL (not a regular file), or what
 * read() failed with.
 */
int config_read_file(
	const char *path, size_t bytes_max, char **text, size_t *bytes, struct stat *status);

/*
 * Reads the cluster key from the file that `place` of the document names.
 * Returns 0, or the error that config_load() returns; the problem has been added.
 */
int config_read_key(
	struct config_problems *problems, const char *place, const char *path, uint8_t key[32]);

/* -------- members of an object -------- */

/* Whether a member may be missing. */
enum config_need {
	CONFIG_OPTIONAL,
	CONFIG_REQUIRED,
};

/* Writes "parent.name" (or "name" for the document itself) into place. */
void config_place(char place[CONFIG_PLACE_BYTES], const char *parent, const char *name);

/* Writes "parent.name[index]" (or "name[index]") into place. */
void config_place_element(
	char place[CONFIG_PLACE_BYTES], const char *parent, const char *name, size_t index);

/* Checks that value is an object all of whose members are among `names` (ends with NULL). */
bool config_check_object(struct config_problems *problems, const char *place, const json_t *value,
	const char *const *names);

/* The array at object.name if it has count_min .. count_max elements, else NULL and a problem. */
const json_t *config_take_array(struct config_problems *problems, const char *parent,
	const json_t *object, const char *name, size_t count_min, size_t count_max,
	const char *what);

/*
 * Reads the integer at object.name. *number keeps its value (the default) if an optional member is
 * missing. Returns true if *number is good.
 */
bool config_take_number(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name, enum config_need need, uint64_t minimum, uint64_t maximum,
	uint64_t *number);

/*
 * The readers of strings: each returns a copy to free() in canonical form, or NULL if there is
 * none: a problem was added, or it is optional and missing.
 * name: 1 .. CONFIG_NAME_MAX letters, digits, '-', '_', '.'.
 * address: numeric, of one host. path: absolute, without "." and ".." and doubled slashes.
 */
char *config_take_name(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name, enum config_need need);
char *config_take_address(struct config_problems *problems, const char *parent,
	const json_t *object, const char *name);
char *config_take_path(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name);
char *config_read_path(struct config_problems *problems, const char *place, const json_t *value);

/* -------- values that must differ from each other -------- */

struct config_unique_entry;

/* A growing list of values with their places in the document. Zero it before use. */
struct config_unique {
	struct config_unique_entry *entries;
	size_t count;
	size_t room;
};

/* Adds the value `format` at `place`. */
void config_unique_add(struct config_problems *problems, struct config_unique *unique,
	const char *place, const char *format, ...) __attribute__((format(printf, 4, 5)));

/*
 * Adds a problem for each value that an earlier place of the document has already and, if
 * `nested`, for each directory inside another. Empties the list.
 */
void config_unique_check(struct config_problems *problems, struct config_unique *unique,
	bool nested, const char *rule);

#endif
