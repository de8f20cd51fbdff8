/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Readers of single members of the document: type, range and form. Each problem is named with its
 * place and what is allowed there. Takes no locks.
 */
#include "config/internal.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

void config_place(char place[CONFIG_PLACE_BYTES], const char *parent, const char *name)
{
	snprintf(place, CONFIG_PLACE_BYTES, "%s%s%s", parent, parent[0] == '\0' ? "" : ".", name);
}

void config_place_element(
	char place[CONFIG_PLACE_BYTES], const char *parent, const char *name, size_t index)
{
	snprintf(place, CONFIG_PLACE_BYTES, "%s%s%s[%zu]", parent, parent[0] == '\0' ? "" : ".",
		name, index);
}

bool config_check_object(struct config_problems *problems, const char *place, const json_t *value,
	const char *const *names)
{
	char allowed[160] = "";
	const char *key;
	json_t *member;
	bool good = true;

	for (size_t i = 0; names[i] != NULL; i++) {
		size_t used = strlen(allowed);

		snprintf(allowed + used, sizeof(allowed) - used, "%s%s", i == 0 ? "" : ", ",
			names[i]);
	}
	if (!json_is_object(value)) {
		config_problem(
			problems, place, value, "allowed: an object with the members %s", allowed);
		return false;
	}
	json_object_foreach((json_t *)value, key, member)
	{
		size_t i = 0;

		while (names[i] != NULL && strcmp(names[i], key) != 0)
			i++;
		if (names[i] == NULL) {
			json_t *shown = json_string(key);

			if (shown == NULL)
				problems->out_of_memory = true;
			config_problem(
				problems, place, shown, "unknown member; allowed: %s", allowed);
			json_decref(shown);
			good = false;
		}
	}
	return good;
}

/* The member, or NULL: a problem if it is required. `allowed` is for that message. */
static const json_t *take(struct config_problems *problems, const char *place, const json_t *object,
	const char *name, enum config_need need, const char *allowed)
{
	const json_t *value = json_object_get(object, name);

	if (value == NULL && need == CONFIG_REQUIRED)
		config_problem(problems, place, NULL, "missing; allowed: %s", allowed);
	return value;
}

const json_t *config_take_array(struct config_problems *problems, const char *parent,
	const json_t *object, const char *name, size_t count_min, size_t count_max,
	const char *what)
{
	char place[CONFIG_PLACE_BYTES], allowed[80];
	const json_t *value;

	config_place(place, parent, name);
	snprintf(allowed, sizeof(allowed), "an array of %zu to %zu %s", count_min, count_max, what);
	value = take(problems, place, object, name, CONFIG_REQUIRED, allowed);
	if (value == NULL)
		return NULL;
	if (!json_is_array(value) || json_array_size(value) < count_min ||
		json_array_size(value) > count_max) {
		config_problem(problems, place, value, "allowed: %s", allowed);
		return NULL;
	}
	return value;
}

bool config_take_number(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name, enum config_need need, uint64_t minimum, uint64_t maximum,
	uint64_t *number)
{
	char place[CONFIG_PLACE_BYTES], allowed[80];
	const json_t *value;
	json_int_t integer;

	config_place(place, parent, name);
	snprintf(allowed, sizeof(allowed), "an integer from %" PRIu64 " to %" PRIu64, minimum,
		maximum);
	value = take(problems, place, object, name, need, allowed);
	if (value == NULL)
		return need == CONFIG_OPTIONAL;
	integer = json_integer_value(value);
	if (!json_is_integer(value) || integer < 0 || (uint64_t)integer < minimum ||
		(uint64_t)integer > maximum) {
		config_problem(problems, place, value, "allowed: %s", allowed);
		return false;
	}
	*number = (uint64_t)integer;
	return true;
}

static char *copy(struct config_problems *problems, const char *text)
{
	char *result = strdup(text);

	if (result == NULL)
		problems->out_of_memory = true;
	return result;
}

char *config_take_name(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name, enum config_need need)
{
	char place[CONFIG_PLACE_BYTES], allowed[96];
	const json_t *value;
	const char *text;

	config_place(place, parent, name);
	snprintf(allowed, sizeof(allowed),
		"a string of 1 to %d letters, digits, '-', '_' and '.', not starting with '.'",
		CONFIG_NAME_MAX);
	value = take(problems, place, object, name, need, allowed);
	if (value == NULL)
		return NULL;
	text = json_string_value(value);
	if (text == NULL || text[0] == '\0' || text[0] == '.' || strlen(text) > CONFIG_NAME_MAX ||
		text[strspn(text, NAME_CHARACTERS)] != '\0') {
		config_problem(problems, place, value, "allowed: %s", allowed);
		return NULL;
	}
	return copy(problems, text);
}

/* Whether other hosts can connect to it: neither "any", nor a group, nor bound to one link. */
static bool is_host_address(int family, const void *address)
{
	if (family == AF_INET) {
		uint32_t host = ntohl(((const struct in_addr *)address)->s_addr);

		return host >> 24 != 0 && host >> 28 < 0xe; /* 224/4 multicast, 240/4 reserved */
	}
	return !IN6_IS_ADDR_UNSPECIFIED((const struct in6_addr *)address) &&
	       !IN6_IS_ADDR_MULTICAST((const struct in6_addr *)address) &&
	       !IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)address) &&
	       !IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)address);
}

char *config_take_address(struct config_problems *problems, const char *parent,
	const json_t *object, const char *name)
{
	static const char allowed[] =
		"a numeric IPv4 or IPv6 address that the other machines can connect to, like "
		"\"10.0.0.1\" or \"fd00::1\"";
	char place[CONFIG_PLACE_BYTES], canonical[INET6_ADDRSTRLEN];
	unsigned char address[sizeof(struct in6_addr)] __attribute__((aligned(8)));
	const json_t *value;
	const char *text;
	int family;

	config_place(place, parent, name);
	value = take(problems, place, object, name, CONFIG_REQUIRED, allowed);
	if (value == NULL)
		return NULL;
	text = json_string_value(value);
	family = text != NULL && strchr(text, ':') != NULL ? AF_INET6 : AF_INET;
	if (text == NULL || inet_pton(family, text, address) != 1 ||
		!is_host_address(family, address) ||
		inet_ntop(family, address, canonical, sizeof(canonical)) == NULL) {
		config_problem(problems, place, value, "allowed: %s", allowed);
		return NULL;
	}
	return copy(problems, canonical);
}

/* Whether path is absolute, below "/", printable, and climbs nowhere; *length without slashes at
 * the end. */
static bool check_path(const char *path, size_t *length)
{
	size_t bytes = strlen(path);

	if (path[0] != '/' || bytes > CONFIG_PATH_MAX)
		return false;
	for (size_t i = 0; i < bytes; i++) {
		if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f)
			return false;
	}
	while (bytes > 0 && path[bytes - 1] == '/')
		bytes--;
	for (size_t start = 1; start <= bytes;) {
		size_t end = start;

		while (end < bytes && path[end] != '/')
			end++;
		if (end == start || (end == start + 1 && path[start] == '.') ||
			(end == start + 2 && path[start] == '.' && path[start + 1] == '.'))
			return false;
		start = end + 1;
	}
	*length = bytes;
	return bytes > 0;
}

char *config_read_path(struct config_problems *problems, const char *place, const json_t *value)
{
	const char *text = json_string_value(value);
	size_t length;
	char *path;

	if (text == NULL || !check_path(text, &length)) {
		config_problem(problems, place, value,
			"allowed: an absolute path of at most %d bytes, without \"//\", \".\" and "
			"\"..\" in it",
			CONFIG_PATH_MAX);
		return NULL;
	}
	path = copy(problems, text);
	if (path != NULL)
		path[length] = '\0';
	return path;
}

char *config_take_path(struct config_problems *problems, const char *parent, const json_t *object,
	const char *name)
{
	char place[CONFIG_PLACE_BYTES];
	const json_t *value;

	config_place(place, parent, name);
	value = take(problems, place, object, name, CONFIG_REQUIRED, "an absolute path");
	return value == NULL ? NULL : config_read_path(problems, place, value);
}
