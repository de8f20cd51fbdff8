#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A truncation whose beginner dies is carried out by a storage node after some seconds, though nobody
# writes to the file: also if exportd has been restarted since, and a node is down.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=20
client() { cluster exec "$ROZO_BIN/tests/cluster/truncation_death" "$RUN/cluster.json" "$@"; }
all_are_carried_out() { [ "$(client waiting $FILES)" = 0 ]; }

test_begin
cluster start --fsal none
client begin $FILES
[ "$(client waiting $FILES)" = $FILES ] || die "somebody else carried them out, or they were not begun"
cluster kill exportd
cluster kill 2
cluster start-daemon exportd
wait_until 60 all_are_carried_out || die "$(client waiting $FILES) truncations still wait"
grep -q 'carried out a truncation' "$RUN"/log/node*.log || die "no node says that it carried one out"
client check $FILES
