/* SPDX-License-Identifier: LGPL-3.0-or-later */
#ifndef ROZO_RPC_SLICE_H
#define ROZO_RPC_SLICE_H

#pragma GCC visibility push(hidden)

/*
 * Asks the kernel for short time slices for the calling thread, so that a thread that runs for some
 * microseconds and then waits need not wait for the slices of those that only compute. A wish:
 * kernels before Linux 6.12 do not know it, and nothing depends on it.
 */
void rpc_thread_wants_short_slices(void);

#pragma GCC visibility pop

#endif
