#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A storage node that hangs (SIGSTOP: its connections stay open) delays the first write that needs it
# by one call's time and the next ones not at all; when it goes on, what it missed is healed.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

write_within() {
  cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" write "$1" |
    grep -E "FAIL|status"
}

test_begin
cluster start --fsal none
write_within 5000
cluster kill 6 STOP
# exportd needs 3 s to see that the node is silent; until then it may be a file's write gateway.
is_down() { grep -q 'node 6 is down' "$RUN/log/exportd.log"; }
wait_until 30 is_down || die "exportd did not notice the hung node"
# Each gateway has to find out for itself, and only once. Ten files meet most of them.
for _ in $(seq 10); do write_within 9000; done
for _ in $(seq 5); do write_within 4000; done
cluster kill 6 CONT
cluster wait-healed 60
