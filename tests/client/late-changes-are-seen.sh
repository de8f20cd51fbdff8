#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# exportd, whose disk hangs, does not answer a change of a name in time, and carries it out all the
# same: Ganesha, which thinks that it knows the directory, then shows what exportd has. So it does of a
# file that was cut while too few nodes are there to carry that out.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3 fsfreeze
test_begin
cluster start --exportd-mib 512
trap 'fsfreeze --unfreeze "$RUN/exportd" 2>/dev/null || true; test_end' EXIT
PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
  python3 "$ROZO_SOURCE/tests/client/late_changes.py" 10.99.0.1 2049 data names "$RUN/exportd"
sizes() {
  PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
    python3 "$ROZO_SOURCE/tests/client/late_changes.py" 10.99.0.1 2049 data "$1"
}
sizes write
for node in 1 2 3; do cluster kill "$node"; done
sizes cut
