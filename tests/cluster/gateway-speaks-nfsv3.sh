#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# The gateways as an NFSv3 client sees them: handles, READ, WRITE, COMMIT, verifiers, sizes, holes,
# and everything they refuse (tests/cluster/gateway_client.c).

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start --fsal none
cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" gateway
