/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The store's procedures as an RPC program, and by number for callers in the same process.
 *
 * Arguments have been decoded and bound-checked by the stubs; the procedures check the rest. Takes
 * no locks.
 */
#include <stdio.h>
#include <stdlib.h>

#include "storaged/store.h"

#define HANDLER(procedure)                                                                         \
	static void handle_##procedure(                                                            \
		void *context, const struct rpc_caller *caller, const void *args, void *result)    \
	{                                                                                          \
		(void)caller;                                                                      \
		store_##procedure(context, args, result);                                          \
	}

HANDLER(write)
HANDLER(read)
HANDLER(commit)
HANDLER(sync)
HANDLER(missed)
HANDLER(truncate)
HANDLER(remove)
HANDLER(stat)
HANDLER(tell)

#define PROCEDURE(number, function, result_type)                                                   \
	[number] = {                                                                               \
		.name = #number,                                                                   \
		.handler = handle_##function,                                                      \
		.args_xdr = RPC_XDR(xdr_store_##function##_args),                                  \
		.args_bytes = sizeof(store_##function##_args),                                     \
		.result_xdr = RPC_XDR(xdr_##result_type),                                          \
		.result_bytes = sizeof(result_type),                                               \
	}

#define PROCEDURE_COUNT (STORE_TELL + 1)

static struct rpc_procedure procedures[PROCEDURE_COUNT] = {
	PROCEDURE(STORE_WRITE, write, store_write_res),
	PROCEDURE(STORE_READ, read, store_read_res),
	PROCEDURE(STORE_COMMIT, commit, store_status_res),
	PROCEDURE(STORE_SYNC, sync, store_status_res),
	PROCEDURE(STORE_MISSED, missed, store_status_res),
	PROCEDURE(STORE_TRUNCATE, truncate, store_status_res),
	PROCEDURE(STORE_REMOVE, remove, store_status_res),
	PROCEDURE(STORE_STAT, stat, store_stat_res),
	PROCEDURE(STORE_TELL, tell, store_status_res),
};

void store_program(struct store *store, struct rpc_program *program)
{
	*program = (struct rpc_program){
		.program = STORE_PROGRAM,
		.version = STORE_V1,
		.procedures = procedures,
		.procedure_count = PROCEDURE_COUNT,
		.context = store,
	};
}

void store_local_call(void *store, uint32_t procedure, const void *args, void *result)
{
	if (procedure >= PROCEDURE_COUNT || procedures[procedure].handler == NULL) {
		fprintf(stderr, "store_local_call: no procedure %u\n", procedure);
		abort();
	}
	procedures[procedure].handler(store, NULL, args, result);
}
