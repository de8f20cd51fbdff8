/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* Numeric addresses. No locks, no state; never asks a name server. */
#include "rpc/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

int rpc_address_parse(struct rpc_socket_address *address, const char *text, uint16_t port)
{
	const struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *found;
	char service[8];

	memset(address, 0, sizeof(*address));
	snprintf(service, sizeof(service), "%u", port);
	/* Not inet_pton(): a link-local address needs its %interface. */
	if (getaddrinfo(text, service, &hints, &found))
		return -EINVAL;
	memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
	address->bytes = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

void rpc_address_format(const struct sockaddr_storage *storage, char text[RPC_ADDRESS_TEXT_BYTES])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (storage->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)storage;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(text, RPC_ADDRESS_TEXT_BYTES, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in = (const struct sockaddr_in *)storage;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, RPC_ADDRESS_TEXT_BYTES, "%s:%u", host, ntohs(in->sin_port));
	}
}
