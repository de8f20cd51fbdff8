/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The problems found in a configuration, written for the administrator who has to mend it, and
 * values that must differ from each other.
 *
 * Values come from outside: they are shown as JSON in ASCII, and cut, so that a message is always
 * one line of a terminal's plain characters. Takes no locks.
 */
#include "config/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBLEMS_LISTED 10
#define VALUE_SHOWN_BYTES 80

void config_problems_init(
	struct config_problems *problems, const char *file, char *text, size_t text_bytes)
{
	*problems = (struct config_problems){
		.file = file,
		.text = text,
		.text_bytes = text_bytes,
	};
	if (text_bytes > 0)
		text[0] = '\0';
}

static void append_v(struct config_problems *problems, const char *format, va_list arguments)
{
	size_t room = problems->text_bytes - problems->used_bytes;
	int bytes;

	if (problems->used_bytes >= problems->text_bytes)
		return;
	bytes = vsnprintf(problems->text + problems->used_bytes, room, format, arguments);
	if (bytes > 0)
		problems->used_bytes += (size_t)bytes < room ? (size_t)bytes : room - 1;
}

__attribute__((format(printf, 2, 3))) static void append(
	struct config_problems *problems, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	append_v(problems, format, arguments);
	va_end(arguments);
}

static void append_value(struct config_problems *problems, const json_t *value)
{
	char *shown;

	if (json_is_object(value)) {
		append(problems, "an object: ");
		return;
	}
	if (json_is_array(value)) {
		append(problems, "an array of %zu: ", json_array_size(value));
		return;
	}
	shown = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	if (shown == NULL) {
		problems->out_of_memory = true;
		return;
	}
	append(problems, "%.*s%s: ", VALUE_SHOWN_BYTES, shown,
		strlen(shown) > VALUE_SHOWN_BYTES ? "..." : "");
	free(shown);
}

void config_problem(struct config_problems *problems, const char *place, const json_t *value,
	const char *format, ...)
{
	va_list arguments;

	if (problems->count++ >= PROBLEMS_LISTED)
		return;
	append(problems, "%s%s: ", problems->count > 1 ? "\n" : "", problems->file);
	if (place != NULL && place[0] != '\0')
		append(problems, "%s: ", place);
	if (value != NULL)
		append_value(problems, value);
	va_start(arguments, format);
	append_v(problems, format, arguments);
	va_end(arguments);
}

void config_problems_finish(struct config_problems *problems)
{
	if (problems->count > PROBLEMS_LISTED)
		append(problems, "\n%s: and %u more", problems->file,
			problems->count - PROBLEMS_LISTED);
}

/* -------- values that must differ from each other -------- */

struct config_unique_entry {
	char place[CONFIG_PLACE_BYTES];
	char *value;
	size_t order; /* in the document */
};

void config_unique_add(struct config_problems *problems, struct config_unique *unique,
	const char *place, const char *format, ...)
{
	struct config_unique_entry *entry;
	va_list arguments;
	int bytes;

	if (unique->count == unique->room) {
		size_t room = unique->room == 0 ? 64 : unique->room * 2;

		entry = reallocarray(unique->entries, room, sizeof(*entry));
		if (entry == NULL) {
			problems->out_of_memory = true;
			return;
		}
		unique->entries = entry;
		unique->room = room;
	}
	entry = &unique->entries[unique->count];
	va_start(arguments, format);
	bytes = vasprintf(&entry->value, format, arguments);
	va_end(arguments);
	if (bytes < 0) {
		problems->out_of_memory = true;
		return;
	}
	snprintf(entry->place, sizeof(entry->place), "%s", place);
	entry->order = unique->count++;
}

static int compare_entries(const void *left_entry, const void *right_entry)
{
	const struct config_unique_entry *left = left_entry, *right = right_entry;
	int order = strcmp(left->value, right->value);

	if (order != 0)
		return order;
	return left->order < right->order ? -1 : left->order > right->order;
}

void config_unique_check(struct config_problems *problems, struct config_unique *unique,
	bool nested, const char *rule)
{
	const struct config_unique_entry *first = NULL;

	if (unique->count > 0)
		qsort(unique->entries, unique->count, sizeof(*unique->entries), compare_entries);
	for (size_t i = 0; i < unique->count; i++) {
		const struct config_unique_entry *entry = &unique->entries[i];

		/* Directories end with '/', so what lies in one follows it and starts with it. */
		if (first != NULL && strcmp(first->value, entry->value) == 0)
			config_problem(problems, entry->place, NULL, "%s is at %s already; %s",
				entry->value, first->place, rule);
		else if (nested && first != NULL &&
			 strncmp(first->value, entry->value, strlen(first->value)) == 0)
			config_problem(problems, entry->place, NULL, "%s lies inside %s of %s; %s",
				entry->value, first->value, first->place, rule);
		else
			first = entry;
	}
	for (size_t i = 0; i < unique->count; i++)
		free(unique->entries[i].value);
	free(unique->entries);
	*unique = (struct config_unique){0};
}
