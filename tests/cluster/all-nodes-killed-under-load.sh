#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# SIGKILL of all storage nodes at once while clients write, again and again, then of the metadata
# servers with them: after each restart every page that was acknowledged as stable (FILE_SYNC, or
# COMMIT with the verifier unchanged) is there, whole, and the same through every gateway. In the end
# the nodes heal, and --verify finds nothing wrong on their devices.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

ROUNDS=${ROZO_TEST_ROUNDS:-5}

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
fsal=rozo
[ -e "$ROZO_BIN/fsal_rozo/libfsalrozo.so" ] || fsal=none # a build without the plugin
cluster start --fsal $fsal

kill_nodes() { # all in one system call: nobody has time to notice another's death
  local n pids=()
  for n in 1 2 3 4 5 6; do pids+=("$(cut -d' ' -f1 "$RUN/state/node$n.pid")"); done
  kill -KILL "${pids[@]}"
  for n in 1 2 3 4 5 6; do rm "$RUN/state/node$n.pid"; done
}

for round in $(seq "$ROUNDS"); do
  load_begin --kind mixed
  load_proceeds $((200 + 150 * (round % 3))) 60
  if [ "$round" = "$ROUNDS" ]; then
    cluster kill all
  else
    kill_nodes
  fi
  load_end
  cluster start-daemon all
  page_load verify --gateways 6
done
cluster wait-healed 60
cluster kill all TERM
verify_devices 1 2 3 4 5 6
cluster start-daemon all
page_load verify --gateways 6
