/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Names that were just found not to be there.
 *
 * A client that creates a file asks for the name first, and so does Ganesha when the client then
 * opens it: without this each of them is a call of exportd. All names are made through this process
 * (docs/fsal.md, Limits), so what is remembered here is true until one is made in the directory.
 */
#ifndef ROZO_FSAL_ABSENT_H
#define ROZO_FSAL_ABSENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define ABSENT_NAMES 64 /* a directory has one, by its file id, and shares it with others */
#define ABSENT_NAME_BYTES 256

/* One name; lock guards the rest. No other lock is taken while it is held. */
struct absent_name {
	pthread_mutex_t lock;
	uint64_t changes; /* that have ended */
	uint32_t changing; /* that have begun and not ended */
	uint64_t directory_id; /* of the name, 0: none */
	uint64_t noted_ms;
	char name[ABSENT_NAME_BYTES];
};

struct absent {
	struct absent_name names[ABSENT_NAMES];
};

void absent_init(struct absent *absent);
void absent_destroy(struct absent *absent);

/* To be called before exportd is asked for a name; absent_note() wants the result. */
uint64_t absent_ask(struct absent *absent, uint64_t directory_id);

/* exportd said that the name is not there. Kept unless one was, or is being, made since asked. */
void absent_note(struct absent *absent, uint64_t directory_id, const char *name, uint64_t asked,
	uint64_t now_ms);

/* True if the name is known not to be there. */
bool absent_is(struct absent *absent, uint64_t directory_id, const char *name, uint64_t now_ms);

/* Around each call of exportd that may make a name in the directory, whatever comes of it. */
void absent_change_begins(struct absent *absent, uint64_t directory_id);
void absent_change_ends(struct absent *absent, uint64_t directory_id);

#endif
