#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Ganesha is killed while a layout is out: what was written under it without a LAYOUTCOMMIT is seen by
# those who have the file in their caches, and nothing is written under it any more
# (tests/client/server_restart.py).

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
session() {
  PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
    python3 "$ROZO_SOURCE/tests/client/server_restart.py" 10.99.0.1 2049 data "$RUN/cluster.json" \
    "$1" "$RUN/session.json"
}
session before
cluster kill ganesha
cluster start-daemon ganesha
session after
cluster status
