/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Names that are known not to be there.
 *
 * A client that creates a file asks for the name first, and so does Ganesha when the client then
 * opens it: without this each of them is a call of exportd. All names are made through this process
 * (docs/fsal.md, Limits), so these are known:
 *   - a name that exportd has just said not to be there, until one is made in the directory;
 *   - in a directory that was empty before the first name was made here, all names that were not
 *     made here since. `change` of a directory begins with 1 and grows by one with each change of
 *     it (META_CREATE, META_UNLINK), so it tells whether there were others.
 * Either is good for 0.1 s after exportd has answered.
 */
#ifndef ROZO_FSAL_ABSENT_H
#define ROZO_FSAL_ABSENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define ABSENT_PLACES 64 /* a directory has one, by its file id, and shares it with others */
#define ABSENT_NAME_BYTES 256
#define ABSENT_FILTER_BITS 65536

/* What is known of a directory; lock guards the rest. No other lock is taken while it is held. */
struct absent_place {
	pthread_mutex_t lock;
	uint64_t changes; /* that have ended */
	uint32_t changing; /* that have begun and not ended */

	uint64_t directory_id; /* of the name, 0: none */
	uint64_t noted_ms;
	char name[ABSENT_NAME_BYTES];

	uint64_t known_id; /* the directory all of whose names were made here, 0: none */
	uint64_t known_ms;
	uint64_t known_change; /* its `change`, as far as it has been answered, */
	uint64_t known_changes; /* and so many changes made here */
	uint64_t filter[ABSENT_FILTER_BITS / 64]; /* a Bloom filter of the names made here */
};

/* Of a file system: all its exports share it, since names may be made through each of them. */
struct absent {
	struct absent_place places[ABSENT_PLACES];
	struct absent *next;
	uint64_t filesystem_id;
	unsigned int references;
};

/* A call of exportd that makes or removes a name. */
struct absent_change {
	uint64_t directory_id;
	uint64_t asked;
	const char *name;
};

/* One that is shared, given back with absent_put(); or NULL: memory is short. */
struct absent *absent_get(uint64_t filesystem_id);
void absent_put(struct absent *absent); /* NULL is allowed */

/* One that is not. */
void absent_init(struct absent *absent);
void absent_destroy(struct absent *absent);

/* To be called before exportd is asked for a name; absent_note() wants the result. */
uint64_t absent_ask(struct absent *absent, uint64_t directory_id);

/* exportd said that the name is not there. Kept unless one was, or is being, made since asked. */
void absent_note(struct absent *absent, uint64_t directory_id, const char *name, uint64_t asked,
	uint64_t now_ms);

/* True if the name is known not to be there. */
bool absent_is(struct absent *absent, uint64_t directory_id, const char *name, uint64_t now_ms);

/*
 * Around each call of exportd that may make a name in the directory, or removes one, whatever comes
 * of it. name must last until the end. after: `change` of the directory as the call has left it; 0
 * if it is not known, or if the call has changed nothing.
 */
void absent_change_begins(struct absent *absent, uint64_t directory_id, const char *name,
	struct absent_change *change);
void absent_change_ends(
	struct absent *absent, const struct absent_change *change, uint64_t after, uint64_t now_ms);

#endif
