#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A node that dies for good: after down_out_interval_s its shards are made on the other nodes, also of
# blocks that were written meanwhile, and then two further nodes may die. When it comes back, it frees
# its old shards before it serves again. A node that comes back in time keeps its shards.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=40
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }
store_files() { find "$RUN/node$1/d1/shards" -type f | wc -l; }
no_store_files() { [ "$(store_files "$1")" = 0 ]; }

test_begin
cluster start --fsal none --nodes 8 --down-out 8 --heal 0
client write-files $FILES

# Down for less than the interval: healed, nothing moves.
cluster kill 5
wait_until 20 status_is 'n[5]["state"] == "down"' || die "exportd did not notice: $(status_json)"
cluster start-node 5
wait_until 20 status_is 's["healthy"]' || die "not healed: $(status_json)"
status_is 's["shards_moved"] == 0 and s["nodes_out"] == 0' || die "shards moved too early: $(status_json)"

before=$(store_files 3)
[ "$before" -gt 10 ] || die "node 3 has only $before store files"
cluster kill 3
client rewrite-files $((FILES / 2))
wait_until 30 status_is 'n[3]["state"] == "out"' || die "node 3 is not out: $(status_json)"
rebuilt='s["rebuild_scanned"] and s["rebuild_segments"] == 0 and s["missed_shards"] == 0 and s["shards_moved"] > 0'
wait_until 90 status_is "$rebuilt" || die "not rebuilt: $(status_json)"
note "rebuilt $(status_value 's["shards_moved"]') shards on $(status_value \
  'sum(1 for i in n if n[i]["rebuild"]["segments_made"] > 0)') nodes"
status_is 's["shards_without_replacement"] == 0 and s["segments_in_danger"] == 0' || die "$(status_json)"
# Each of the surviving nodes takes a share.
status_is 'sum(1 for i in n if n[i]["rebuild"]["segments_made"] > 0) >= 4' || die "$(status_json)"

cluster kill 1
cluster kill 7
client read-files $FILES $((FILES / 2))
cluster start-node 1
cluster start-node 7
wait_until 60 status_is 's["missed_shards"] == 0' || die "not healed: $(status_json)"

cluster start-node 3
grep -q 'before serving' "$RUN/log/node3.log" || die "node 3 served before it had removed its old shards"
wait_until 30 no_store_files 3 || die "node 3 still has $(store_files 3) store files"
wait_until 30 status_is 's["healthy"]' || die "not healthy: $(status_json)"
cluster kill 2
cluster kill 6
client read-files $FILES $((FILES / 2))
