/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A writer that dies in the middle of a write, for tests with real daemons.
 *
 * With ROZO_TEST_DIE_AT_MESSAGE=FILE in a daemon's environment, its stripe engine looks for FILE at
 * each message to a store (and call to its own). Once FILE is there and holds "PID I", process PID
 * counts its messages from 1, and when message I and those before it have been answered, it kills
 * itself with SIGKILL: the stores have exactly the first I messages. Removing FILE starts a new
 * count. Without the variable nothing is looked for.
 */
#ifndef ROZO_STRIPE_DIE_AT_MESSAGE_H
#define ROZO_STRIPE_DIE_AT_MESSAGE_H

#include <stdbool.h>

/* Counts a message; true if it is the one to die at. Takes a lock of its own only. */
bool die_at_message(void);

/* From now on the calling thread's messages are not counted: the healer's, which come at any time.
 */
void die_at_message_exempt(void);

_Noreturn void die_now(void);

#endif
