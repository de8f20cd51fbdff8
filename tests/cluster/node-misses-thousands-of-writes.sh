#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A storage node is down while thousands of small writes are made, comes back and is healed; then two
# others are killed, so that its shards are needed for everything: every page is right.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

OPERATIONS=${ROZO_TEST_OPERATIONS:-3000}

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
cluster start --fsal none --scrub 0
page_load load --operations $((OPERATIONS / 4))
cluster kill 4
page_load load --operations "$OPERATIONS"
page_load verify --gateways 5
missed=$(find "$RUN"/node*/d*/missed -type f | wc -l)
[ "$missed" -gt 0 ] || die "no node remembers that node 4 missed anything: nothing was proved"
cluster start-node 4
cluster wait-healed 60
cluster kill 1
cluster kill 6
page_load verify --gateways 4
