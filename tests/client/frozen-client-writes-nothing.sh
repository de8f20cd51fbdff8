#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A client that was frozen for longer than its lease writes nothing any more at its gateway once another
# one has its lock (tests/client/frozen_client.py).

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
frozen() {
  PYTHONDONTWRITEBYTECODE=1 timeout 200 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
    python3 "$ROZO_SOURCE/tests/client/frozen_client.py" 10.99.0.1 2049 data "$RUN/cluster.json" "$1"
}
frozen whole
frozen part
cluster status
