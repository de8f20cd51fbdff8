/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * See checker.h. A search for an order of each cell's operations (Wing and Gong), which remembers
 * where it has been (Lowe): the operations done so far and the value they leave.
 */
#include "checker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define OPS_MAX 1024
#define CELL_OPS_MAX 64
#define VISITED (1u << 12)

static struct op ops[OPS_MAX];
static unsigned int op_count, cell_count;

/* One cell's part of an operation. */
struct step {
	uint64_t value;
	uint64_t invoked, finished, deadline;
	bool write;
	bool optional;
	bool repeatable; /* and optional: an attempt of a write that is tried again */
};

static struct {
	struct step steps[CELL_OPS_MAX];
	unsigned int count;
	uint64_t must; /* bit i: step i must have its place */
	struct {
		uint64_t done, value, latest;
		uint64_t search; /* that used it; of another one: free */
	} visited[VISITED];
	uint64_t number; /* of this search */
	unsigned int visited_count;
	bool full;
} search;

void checker_reset(unsigned int cells)
{
	op_count = 0;
	cell_count = cells;
}

struct op *checker_begin(
	enum op_kind kind, unsigned int first, unsigned int count, const void *writer, uint64_t now)
{
	if (op_count == OPS_MAX)
		abort();
	struct op *op = &ops[op_count++];
	*op = (struct op){
		.kind = kind,
		.first = first,
		.count = count,
		.value = kind == OP_TRUNCATE ? 0 : op_count,
		.invoked = now,
		.finished = UINT64_MAX,
		.ended = UINT64_MAX,
		.writer = writer,
		.deadline = UINT64_MAX,
	};
	return op;
}

unsigned int checker_count(void)
{
	return op_count;
}

struct op *checker_op(unsigned int number)
{
	return &ops[number];
}

static bool covers(const struct op *op, unsigned int cell)
{
	return cell >= op->first && cell - op->first < op->count;
}

/* True if the value was written unstably and lost: who saw it proves nothing. */
static bool is_lost(uint64_t value)
{
	return value != 0 && value <= op_count && ops[value - 1].lost;
}

/* True if somebody else's unstable write of the cell was not committed yet when this was read. */
static bool saw_unstable(const struct op *read, unsigned int cell)
{
	for (unsigned int i = 0; i < op_count; i++) {
		if (ops[i].kind == OP_UNSTABLE_WRITE && !ops[i].lost && covers(&ops[i], cell) &&
			ops[i].writer != read->writer && ops[i].invoked <= read->finished &&
			read->invoked <= ops[i].committed)
			return true;
	}
	return false;
}

/*
 * True if what was read had not been committed, and was truncated by another process, of which the
 * gateway that has it in memory need not have heard yet.
 */
static bool saw_truncated(const struct op *read, unsigned int cell, uint64_t value)
{
	if (value == 0 || value > op_count)
		return false;
	const struct op *write = &ops[value - 1];
	if (write->kind != OP_UNSTABLE_WRITE || read->invoked > write->committed)
		return false;
	for (unsigned int i = 0; i < op_count; i++) {
		if (ops[i].kind == OP_TRUNCATE && covers(&ops[i], cell) &&
			ops[i].writer != write->writer && ops[i].invoked <= read->finished &&
			write->invoked <= ops[i].ended)
			return true;
	}
	return false;
}

/* True if another write of the cell was under way at the same time. */
static bool met_another(unsigned int number, unsigned int cell)
{
	const struct op *op = &ops[number];

	for (unsigned int i = 0; i < op_count; i++) {
		const struct op *other = &ops[i];
		/* What exportd has noted of a truncation that failed is carried out some day. */
		bool pending = other->kind == OP_TRUNCATE && other->finished == UINT64_MAX;

		if (i != number && other->kind != OP_READ && covers(other, cell) &&
			other->invoked <= op->ended && (pending || op->invoked <= other->ended))
			return true;
	}
	return false;
}

/*
 * When nobody can carry out a truncation any more. Others may do so once more after it was
 * acknowledged, to what was written under an older epoch meanwhile, and is written again.
 */
static uint64_t truncated_until(const struct op *truncation, unsigned int cell)
{
	uint64_t until = truncation->ended;

	for (unsigned int i = 0; i < op_count; i++) {
		if ((ops[i].kind == OP_WRITE || ops[i].kind == OP_UNSTABLE_WRITE) &&
			covers(&ops[i], cell) && ops[i].invoked <= truncation->ended &&
			truncation->invoked <= ops[i].ended && ops[i].ended > until)
			until = ops[i].ended;
	}
	return until;
}

/*
 * Until when readers may see what a truncation takes away, though others have seen zeros already:
 * if it failed, until something has been written since, which nobody does before it was carried
 * out, if exportd can be asked.
 */
static uint64_t pending_until(const struct op *truncation)
{
	uint64_t until = UINT64_MAX;

	if (truncation->finished != UINT64_MAX)
		return 0;
	for (unsigned int i = 0; i < op_count; i++) {
		if (ops[i].kind != OP_READ && !ops[i].unasked &&
			ops[i].invoked >= truncation->ended && ops[i].finished < until)
			until = ops[i].finished;
	}
	return until;
}

/* True if another write of the cell came between, as a whole, and was not lost. */
static bool is_covered(const struct op *write, const struct op *truncation, unsigned int cell)
{
	for (unsigned int i = 0; i < op_count; i++) {
		if (ops[i].kind != OP_READ && !ops[i].lost && covers(&ops[i], cell) &&
			ops[i].invoked > write->ended && ops[i].finished < truncation->invoked)
			return true;
	}
	return false;
}

/* Until when a write of the cell may be seen again for the sake of truncations that failed. */
static uint64_t seen_again_until(const struct op *write, unsigned int cell)
{
	uint64_t until = 0;

	for (unsigned int i = 0; i < op_count; i++) {
		if (ops[i].kind == OP_TRUNCATE && covers(&ops[i], cell) &&
			write->invoked <= ops[i].invoked && !is_covered(write, &ops[i], cell)) {
			uint64_t pending = pending_until(&ops[i]);

			if (pending > until)
				until = pending;
		}
	}
	return until;
}

static bool visited_before(uint64_t done, uint64_t value, uint64_t latest)
{
	uint64_t hash = (done * UINT64_C(0x9e3779b97f4a7c15)) ^ (value << 20) ^ latest;
	unsigned int at = (unsigned int)((hash * UINT64_C(0xbf58476d1ce4e5b9)) >> 40) % VISITED;

	if (search.visited_count > VISITED / 2) {
		search.full = true;
		return true;
	}
	while (search.visited[at].search == search.number) {
		if (search.visited[at].done == done && search.visited[at].value == value &&
			search.visited[at].latest == latest)
			return true;
		at = (at + 1) % VISITED;
	}
	search.visited[at].done = done;
	search.visited[at].value = value;
	search.visited[at].latest = latest;
	search.visited[at].search = search.number;
	search.visited_count++;
	return false;
}

/* latest: the latest beginning among the steps that are done. */
static bool place(uint64_t done, uint64_t value, uint64_t latest)
{
	uint64_t end = UINT64_MAX;

	if ((done & search.must) == search.must)
		return true;
	if (visited_before(done, value, latest))
		return false;
	for (unsigned int i = 0; i < search.count; i++) {
		if (!(done >> i & 1) && search.steps[i].finished < end)
			end = search.steps[i].finished;
	}
	for (unsigned int i = 0; i < search.count; i++) {
		const struct step *step = &search.steps[i];

		if ((done >> i & 1) || step->invoked > end)
			continue;
		if (!step->write && step->value != value)
			continue;
		if (step->optional) {
			bool wanted = false;
			if (latest > step->deadline)
				continue;
			for (unsigned int j = 0; j < search.count && !wanted; j++)
				wanted = !(done >> j & 1) && !search.steps[j].write &&
					 search.steps[j].value == step->value;
			if (!wanted)
				continue;
		}
		if (place(step->repeatable ? done : done | UINT64_C(1) << i, step->value,
			    step->invoked > latest ? step->invoked : latest))
			return true;
	}
	return false;
}

static bool judge_cell(unsigned int cell)
{
	search.count = 0;
	search.must = 0;
	for (unsigned int i = 0; i < op_count; i++) {
		const struct op *op = &ops[i];
		bool write = op->kind != OP_READ;
		uint64_t value = write ? op->value : op->values[cell % CHECKER_CELLS];

		if (!covers(op, cell) || op->ignored ||
			(!write && (is_lost(value) || saw_unstable(op, cell) ||
					   saw_truncated(op, cell, value))))
			continue;
		if (search.count == CELL_OPS_MAX) {
			if (!write)
				continue; /* what was read once more */
			return true;
		}
		bool optional = op->finished == UINT64_MAX || op->lost;
		if (!optional)
			search.must |= UINT64_C(1) << search.count;
		search.steps[search.count++] = (struct step){
			.value = value,
			.invoked = op->invoked,
			.finished = optional ? UINT64_MAX : op->finished,
			.deadline = op->deadline,
			.write = write,
			.optional = optional,
		};
		uint64_t again = write ? seen_again_until(op, cell) : 0;
		if (write && search.count < CELL_OPS_MAX && (again || met_another(i, cell))) {
			/* It may be carried out more than once. */
			search.steps[search.count] = search.steps[search.count - 1];
			search.steps[search.count].optional = true;
			search.steps[search.count].repeatable = true;
			search.steps[search.count].finished = UINT64_MAX;
			uint64_t ended =
				op->kind == OP_TRUNCATE ? truncated_until(op, cell) : op->ended;
			if (again > ended)
				ended = again;
			if (ended < op->deadline)
				search.steps[search.count].deadline = ended;
			search.count++;
		}
	}
	search.number++;
	search.visited_count = 0;
	search.full = false;
	return place(0, 0, 0) || search.full;
}

bool checker_judge(unsigned int *cell)
{
	for (*cell = 0; *cell < cell_count; (*cell)++) {
		if (!judge_cell(*cell))
			return false;
	}
	return true;
}

void checker_print(unsigned int cell)
{
	static const char *const kinds[] = {"read", "write", "unstable write", "truncate"};

	for (unsigned int i = 0; i < op_count; i++) {
		const struct op *op = &ops[i];
		if (!covers(op, cell))
			continue;
		fprintf(stderr, "  %9" PRIu64 " .. ", op->invoked);
		if (op->finished == UINT64_MAX)
			fprintf(stderr, "  unknown");
		else
			fprintf(stderr, "%9" PRIu64, op->finished);
		fprintf(stderr, "  %s of cells %u+%u: %" PRIu64 "%s%s", kinds[op->kind], op->first,
			op->count,
			op->kind == OP_READ ? op->values[cell % CHECKER_CELLS] : op->value,
			op->ignored ? " (failed)" : "", op->lost ? " (lost)" : "");
		if (op->deadline != UINT64_MAX)
			fprintf(stderr, " (not after %" PRIu64 ")", op->deadline);
		fprintf(stderr, "\n");
	}
}
