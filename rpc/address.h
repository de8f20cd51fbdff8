/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Numeric IPv4 and IPv6 addresses with a port, read and written. No locks, no state. */
#ifndef ROZO_RPC_ADDRESS_H
#define ROZO_RPC_ADDRESS_H

#include <stdint.h>
#include <sys/socket.h>

#pragma GCC visibility push(hidden)

#define RPC_ADDRESS_TEXT_BYTES 64

struct rpc_socket_address {
	struct sockaddr_storage storage;
	socklen_t bytes;
};

/* Returns 0, or -EINVAL if text is not a numeric address. */
int rpc_address_parse(struct rpc_socket_address *address, const char *text, uint16_t port);

/* Writes "192.0.2.1:20490" or "[2001:db8::1]:20490". */
void rpc_address_format(const struct sockaddr_storage *storage, char text[RPC_ADDRESS_TEXT_BYTES]);

#pragma GCC visibility pop

#endif
