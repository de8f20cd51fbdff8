// SPDX-License-Identifier: LGPL-3.0-or-later
//
// Lets user-mode Linux 6.1 run on processors with AMX. Preloaded by ci/guest into linux.uml, which
// reads and sets its processes' extended registers in 2,696 bytes (all of AVX-512). The host's
// kernel refuses to set less than the processor's whole state (EFAULT, "ptrace set fp regs
// failed"), and with AMX that is some 11,000 bytes. Here the missing part is added in its initial
// state: guest programs cannot use AMX, because that takes a permission which the guest's kernel
// does not grant.
//
// linux.uml runs its kernel in one host thread and does not call ptrace from signal handlers, so
// the static buffer needs no lock. It is static because the guest's kernel stacks are small.

#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define XSTATE_BV_OFFSET 512 // Intel SDM volume 1, section 13.4.2: the XSAVE header
#define XSTATE_AMX (UINT64_C(1) << 17 | UINT64_C(1) << 18) // tile configuration and data

static unsigned char whole_state[65536] __attribute__((aligned(64)));
static size_t whole_state_bytes; // what this host's kernel wants; 0 until asked

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	// The system call stores a peeked word where data points; its C function returns that word.
	long peeked = 0;
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER)
		data = &peeked;

	struct iovec whole = {.iov_base = whole_state};
	if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
		const struct iovec *given = data;
		if (whole_state_bytes == 0) {
			struct iovec probe = {
				.iov_base = whole_state, .iov_len = sizeof(whole_state)};
			if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &probe) != 0)
				return -1;
			whole_state_bytes = probe.iov_len;
			memset(whole_state, 0, sizeof(whole_state));
		}
		if (given->iov_len < whole_state_bytes &&
			given->iov_len >= XSTATE_BV_OFFSET + sizeof(uint64_t)) {
			uint64_t present;
			memcpy(whole_state, given->iov_base, given->iov_len);
			memcpy(&present, whole_state + XSTATE_BV_OFFSET, sizeof(present));
			present &= ~XSTATE_AMX;
			memcpy(whole_state + XSTATE_BV_OFFSET, &present, sizeof(present));
			whole.iov_len = whole_state_bytes;
			data = &whole;
		}
	}

	long result = syscall(SYS_ptrace, request, pid, address, data);
	return result == 0 && data == &peeked ? peeked : result;
}
