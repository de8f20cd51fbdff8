#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# What clients must not be able to do to Ganesha, defect by defect of fsal_rozo/ganesha/README.md, with a
# raw NFSv4.1 client: the server answers what RFC 8881 says, goes on answering, and stops cleanly.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
odd() {
  PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
    python3 "$ROZO_SOURCE/tests/client/odd_clients.py" 10.99.0.1 2049 data "$@"
}
odd layouts_again_and_again
odd layouts_returned_in_bulk
odd file_system_without_a_handle
odd open_state_is_no_layout
odd returns_with_bodies
odd stateids_tested_while_closed
odd clients_vanish_with_layouts
cluster kill 1
node_down() { grep -q 'node 1 is down' "$RUN/log/exportd.log"; }
wait_until 30 node_down || die "exportd did not notice that a gateway died"
odd server_answers layouts_again_and_again
cluster status
