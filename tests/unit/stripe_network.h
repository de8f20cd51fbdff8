/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The network of a cluster in memory (stripe_cluster.h), under the test's control.
 *
 * Takes the place of stripe/fanout.c (the linker takes these functions instead) and of rpc_call(),
 * nanosleep() and randombytes_buf() (--wrap). Messages are executed in the caller's thread, those
 * of one fan-out in any order; any may be lost, lose its answer, or arrive long after its sender
 * gave up. All choices come from random_number(), so that a seed repeats a run.
 */
#ifndef ROZO_TEST_STRIPE_NETWORK_H
#define ROZO_TEST_STRIPE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "stripe/stripe.h"

#define NETWORK_EXPORTD UINT32_MAX /* as the number of a node */

/* A network without faults; no message is under way. */
void network_reset(void);

/* So many of 1000 messages are lost, executed without an answer, or executed late. */
void network_faults(unsigned int lost, unsigned int unanswered, unsigned int late);

/* What a wrong engine or store would do: for tests of the tests. */
enum network_flaw {
	NETWORK_SOUND,
	NETWORK_FORGETS_MISSES, /* nobody records who missed a write */
	NETWORK_REPLACES_DECIDED, /* writers take what they committed for undecided */
	NETWORK_KEEPS_NO_PROMISES, /* stores accept what they said they would refuse */
	NETWORK_FLAWS,
};
void network_set_flaw(enum network_flaw flaw);

/*
 * Called before each message (NULL: nothing): may stop machines and kill engines, or use another
 * engine; messages that come of that are not told of.
 */
typedef void (*network_hook)(const struct stripe *from, uint32_t node);
void network_set_hook(network_hook hook);

/* From now on no message of the engine arrives, neither those that are late. */
void network_kill(const struct stripe *stripe);
bool network_is_dead(const struct stripe *stripe);
/* To be called before an engine is freed. */
void network_forget(const struct stripe *stripe);

/* Late messages arrive now, or never. */
void network_deliver_late(void);
void network_drop_late(void);

/* Engines take all nodes for up until a call fails. */
void network_forget_down(void);

/* Closes the stores of machines that are off; their late messages are gone. */
void network_reap(void);

/* Tells of each message on stderr. */
void network_trace(bool on);

#endif
