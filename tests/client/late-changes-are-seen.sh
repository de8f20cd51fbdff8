#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# exportd does not answer a change of a name in time, and carries it out all the same: Ganesha, which
# thinks that it knows the directory, then shows what exportd has.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

need_command python3
test_begin
cluster start
pid_file_running "$RUN/state/exportd.pid" || die "exportd does not run"
PYTHONDONTWRITEBYTECODE=1 timeout 120 "$ROZO_SOURCE/ci/cluster" exec --dir "$RUN" \
  python3 "$ROZO_SOURCE/tests/client/late_changes.py" 10.99.0.1 2049 data "$PID_FILE_PID"
