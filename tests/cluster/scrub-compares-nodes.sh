#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Scrubbing finds what no record tells: shards that a node has lost behind the cluster's back are made
# again, and store files of files that are no more are removed, but only when it is sure: not for an
# exportd that this node does not know the export by.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=12
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }
store_files() { find "$RUN/node$1/d1/shards" -name '*.a' | wc -l; }
has_store_files() { [ "$(store_files "$1")" = "$2" ]; }

test_begin
cluster start --fsal none --scrub 200 --scrub-interval 2
client write-files $FILES
# What a node loses: everything it had, with its records.
cluster kill 4
rm -r "$RUN"/node4/d1/shards/*/*/*
cluster start-node 4
wait_until 90 has_store_files 4 $FILES || die "node 4 has $(store_files 4) of $FILES store files: $(status_json)"
wait_until 60 status_is 'sum(x["scrub"]["lagging"] for x in s["nodes"]) >= 12 * 64' ||
  die "not counted: $(status_json)"
wait_until 60 status_is 's["healthy"]' || die "not healthy: $(status_json)"
cluster kill 1
cluster kill 2
client read-files $FILES
cluster start-node 1
cluster start-node 2

# A store file of a file that was removed, as a late write leaves it: a copy kept aside.
mapfile -t sides < <(find "$RUN/node3/d1/shards" -name '*.a' | sort)
side=${sides[0]}
id=$((16#$(basename "$side" .0.a)))
cp -p "$side" "$RUN/aside"
client remove-file $id
wait_until 60 test ! -e "$side" || die "the free queue did not remove $side"
wait_until 60 status_is 's["healthy"] and sum(x["free_waiting"] for x in s["nodes"]) == 0' || die "$(status_json)"
cluster kill 3 TERM # so that its log holds nothing of the file any more
cp -p "$RUN/aside" "$side"
# To an exportd that is not the one it knew, the node gives nothing away.
mv "$RUN/node3/d1/rozo-exports" "$RUN/rozo-exports"
sed 's/\(.*\) .*/\1 00000000deadbeef/' "$RUN/rozo-exports" >"$RUN/node3/d1/rozo-exports"
cluster start-node 3
warned() { grep -q 'is not the one that this node has store files of' "$RUN/log/node3.log"; }
wait_until 60 warned || die "node 3 did not notice that its exports are another exportd's"
wait_until 60 status_is 'n[3]["scrub"]["passes"] >= 4' || die "$(status_json)"
[ -e "$side" ] || die "a store file was removed for an exportd that the node does not know"
cluster kill 3 TERM # so that its log holds nothing of the file any more
mv "$RUN/rozo-exports" "$RUN/node3/d1/rozo-exports"
cluster start-node 3
wait_until 90 test ! -e "$side" || die "$side was not removed: $(grep scrub: "$RUN/log/node3.log" | tail -n 3)"
grep -q 'removed, since the file is no more' "$RUN/log/node3.log" || die "the log does not name what was removed"
[ "$(store_files 3)" = $((FILES - 1)) ] || die "node 3 has $(store_files 3) store files"
client read-rest $id $FILES
