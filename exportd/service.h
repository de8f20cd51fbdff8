/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The metadata protocol's procedures, as rpc_server_start() wants them.
 */
#ifndef ROZO_EXPORTD_SERVICE_H
#define ROZO_EXPORTD_SERVICE_H

#include "exportd/exportd.h"
#include "rpc/rpc.h"

/*
 * Fills in the program. exportd is the context of its handlers and must be open as long as a
 * server runs the program.
 */
void service_program(struct exportd *exportd, struct rpc_program *program);

#endif
