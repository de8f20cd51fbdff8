#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Reads go on while a storage node hangs (SIGSTOP: its connections stay open): other stores are asked
# after a moment, long before the call to it times out (5 s), and from then on at once.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

files=6
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }
# Reads through all gateways but node 6's; prints the median in microseconds.
time_reads() {
  client time-reads "$files" 6 "$1" "$2" >"$RUN/reads" 2>&1 || {
    cat "$RUN/reads" >&2
    die "reads are slow"
  }
  sed -n "s/.*median \([0-9]*\) us.*/\1/p" "$RUN/reads"
}

test_begin
cluster start --fsal none
client write-files "$files" >/dev/null
healthy=$(time_reads 1000000 5000)
cluster kill 6 STOP
# A read may have to wait for the patience of its gateway (1 s at most), hardly any does.
hung=$(time_reads $((healthy * 3 + 10000)) 2500)
cluster kill 6 CONT
echo "median of a read: $healthy us, with a hung node $hung us"
cluster wait-healed 60
