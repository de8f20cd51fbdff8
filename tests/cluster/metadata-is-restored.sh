#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# The metadata is restored from a backup, as docs/operations.md says, and the storage nodes know of more
# than it does: files written since the backup have the bytes that were written last, and can be written
# again; new files are not given the ids of those that were made since the backup.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=8
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }

test_begin
cluster start --fsal none
client write-files $FILES
cluster kill exportd TERM
cp -a "$RUN/exportd" "$RUN/backup"
cluster start-daemon exportd

# Other runs of the gateways: each file is written under a newer write epoch.
cluster kill all
cluster start-daemon all
client rewrite-files $FILES
client write-files $((2 * FILES)) $FILES
wait_until 30 status_is 's["healthy"]' || die "not healthy: $(status_json)"

cluster kill exportd
mv "$RUN/exportd" "$RUN/exportd.lost"
mv "$RUN/backup" "$RUN/exportd"
"$ROZO_BIN/exportd/rozo-exportd" --config "$RUN/cluster.json" --restored 2>&1 | tee "$RUN/log/restored.log"
grep -q 'are passed over' "$RUN/log/restored.log" || die "--restored passed no file ids over"
cluster start-daemon exportd
wait_until 30 status_is 's["healthy"]' || die "not healthy: $(status_json)"
client read-files $FILES $FILES
grep -q 'the metadata was restored from a backup' "$RUN/log/exportd.log" ||
  die "exportd did not hear of newer write epochs"
client rewrite-files $FILES
client write-files $((3 * FILES)) $((2 * FILES))
client read-files $FILES $FILES
cluster kill 1
cluster kill 2
client read-files $FILES $FILES
