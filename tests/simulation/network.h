/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The network of the simulation: calls to stores and to exportd as messages that take their time,
 * get lost, come twice, come late or in another order, whoever has sent them.
 *
 * The linker puts these functions in the place of those of rpc/rpc.h (--wrap); stripe/fanout.c is
 * the real one. A message's arguments are copied when it is sent. It arrives even if its sender
 * is dead by then; an answer to a dead process, or to a call that was given up, is dropped. What a
 * process is sent while it is stopped waits until it goes on, answers as well.
 */
#ifndef ROZO_SIMULATION_NETWORK_H
#define ROZO_SIMULATION_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler.h"

/* How reliable the network is; each so many of 1000 messages. */
struct network_faults {
	unsigned int lost; /* never arrive */
	unsigned int unanswered; /* are executed, the connection breaks before the answer */
	unsigned int slow; /* take up to 300 ms */
	unsigned int late; /* take up to 15 s: longer than their sender waits */
	unsigned int twice; /* are executed again, some time later */
};

/* Ports that clients are made with: the number of a node from 0, or exportd. */
#define NETWORK_EXPORTD_PORT 9999

/* What becomes of calls to exportd. */
enum exportd_state {
	EXPORTD_THERE,
	EXPORTD_GONE, /* connections are refused */
	EXPORTD_HANGS, /* no answer; what was sent is executed when it goes on, if ever */
	EXPORTD_SLOW, /* no answer in time, but it is there: connections to it last */
};
void network_set_exportd(enum exportd_state state);
bool network_exportd_is_there(void);

/* Forgets all connections. No message may be under way. */
void network_reset(void);
void network_set_faults(struct network_faults faults);

/* Messages to so many nodes (bit i: node i) suffer from the faults; others are never lost. */
void network_set_faulty_nodes(uint32_t nodes);

/* Ends the calls of a process that was killed; what it has sent is still on its way. */
void network_process_died(const struct process *process);

/* From now on messages to nodes are under way for so much longer; 0: not any more. */
void network_hold(uint64_t us);

/* Messages that have not arrived by now never will. */
void network_drop_all(void);

/* Tells of each message on stderr. */
void network_set_verbose(bool verbose);

#endif
