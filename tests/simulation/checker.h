/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What clients asked and were told, and whether one could have been told so by a file whose cells
 * (parts of blocks) each change at one moment between the question and the answer of a write.
 *
 * Each write puts a number of its own into all of its cells; 0 stands for zeros, which truncations
 * and holes have. A write whose outcome is unknown may have taken effect at any time since, once,
 * or never; if its writer died and a successor has had an answer for the same cell, not after that.
 * A write that met others, or a truncation, may be carried out again: until it has ended its bytes
 * may be there, give way to theirs, and be there again. What was written unstably and never
 * committed may come and go; what is committed later must be seen by readers of the same process
 * from the answer of the write on, by others from that of COMMIT on;
 * if another process truncates it before COMMIT, the one that has it need not have heard of that.
 */
#ifndef ROZO_SIMULATION_CHECKER_H
#define ROZO_SIMULATION_CHECKER_H

#include <stdbool.h>
#include <stdint.h>

#define CHECKER_CELLS 64

enum op_kind { OP_READ, OP_WRITE, OP_UNSTABLE_WRITE, OP_TRUNCATE };

struct op {
	enum op_kind kind;
	unsigned int first, count; /* cells */
	uint64_t value; /* of a write */
	uint64_t values[CHECKER_CELLS]; /* of a read */
	uint64_t invoked, finished; /* UINT64_MAX: the outcome is unknown */
	uint64_t ended; /* when the engine stopped working at it, whatever the outcome */
	uint64_t committed; /* an unstable write: when COMMIT was answered */
	bool lost; /* unstable, and not known to be durable */
	bool ignored; /* a read that failed */
	bool unasked; /* a write that was answered when exportd may not have been there */
	const void *writer; /* process that carried it out */
	uint64_t verifier; /* of an unstable write */
	uint64_t deadline; /* of an unknown outcome: no effect after this */
};

void checker_reset(unsigned int cells);

/* A new operation, invoked now. */
struct op *checker_begin(enum op_kind kind, unsigned int first, unsigned int count,
	const void *writer, uint64_t now);

/* All operations so far, in the order of their beginning. */
unsigned int checker_count(void);
struct op *checker_op(unsigned int number);

/*
 * True if each cell's history is possible. Otherwise *cell receives one that is not.
 */
bool checker_judge(unsigned int *cell);

/* Tells a cell's history on stderr. */
void checker_print(unsigned int cell);

#endif
