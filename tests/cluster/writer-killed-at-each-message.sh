#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# writer-killed-at-each-message PROTECTION [STEP]: a gateway kills itself after message 1, 1+STEP... to
# the stores of a whole-block overwrite, of a partial one and of a COMMIT, up to the last message that
# tells the stores that the write is decided. Without a restart through the other gateways, and after
# it through all, the block reads as old or as new, always the same, new if it was acknowledged; it
# heals; and in the end all blocks read the same with M nodes down, whichever M neighbours they are.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

PROTECTION=${1:-4+2}
K=${PROTECTION%+*} M=${PROTECTION#*+}
N=$((K + M))
STEP=${ROZO_TEST_STEP:-${2:-1}}

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
export ROZO_TEST_DIE_AT_MESSAGE=$RUN/die
writer_death() (
  command=$1
  shift
  in_network "$ROZO_BIN/tests/cluster/writer_death" "$RUN/cluster.json" "$command" "$@"
)

cluster start --fsal none --scrub 0 --nodes "$N" --protection "$PROTECTION"
writer_death prepare $((15 * N + 15))
struck=0
for kind in whole part commit; do
  for message in $(seq 1 "$STEP" 1000); do
    outcome=$(writer_death strike "$RUN/results" "$RUN" $kind "$message")
    [ "$outcome" != alive ] || break
    cluster start-node "${outcome#died }" 2>/dev/null
    writer_death after "$RUN/results"
    struck=$((struck + 1))
  done
  # N messages at least, and N that tell that it is decided
  [ "$message" -gt $((2 * N)) ] || die "$kind: fewer than $message messages"
done
note "$struck deaths"
# Who was killed forgot what it had noticed.
writer_death check "$RUN/results"
writer_death settled "$RUN/results"
note "all blocks are settled"

# Each node is down once with the M-1 that follow it.
for first in $(seq "$N"); do
  down=()
  for i in $(seq 0 $((M - 1))); do down+=($(((first - 1 + i) % N + 1))); done
  for node in "${down[@]}"; do cluster kill "$node" 2>/dev/null; done
  writer_death check "$RUN/results" >/dev/null
  for node in "${down[@]}"; do cluster start-node "$node" 2>/dev/null; done
done
