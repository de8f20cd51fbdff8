#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# What an administrator gets wrong is named, with the remedy, and nothing is touched: configuration,
# key file, device directories of another node or not initialised, a second daemon on the same data.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

# refused WANTED COMMAND...: the command fails within 20 s and its message has the wanted words.
refused() {
  local wanted=$1 output
  shift
  if output=$(timeout 20 ip netns exec "$NAMESPACE" "$@" 2>&1); then
    die "should have been refused: $*"
  fi
  grep -qE -- "$wanted" <<<"$output" || die "'$*' should say '$wanted', but says: $output"
}

test_begin
cluster start --fsal none
# shellcheck disable=SC1091
. "$RUN/state/parameters"
exportd=$ROZO_BIN/exportd/rozo-exportd
storaged=$ROZO_BIN/storaged/rozo-storaged
config=$RUN/cluster.json

refused 'another|in use|lock' "$exportd" --config "$config"
refused 'another|in use|lock' "$storaged" --config "$config" --node 1
refused 'node 99' "$storaged" --config "$config" --node 99
timeout 20 "$storaged" --config "$config" --node 1 --init 2>&1 |
  grep -q "$RUN/node1/d1 is a device of node 1 already" || die "--init of a running node's device"
refused 'not empty|already' "$exportd" --config "$config" --init
refused 'in use' "$exportd" --config "$config" --restored
refused 'exclude each other' "$exportd" --config "$config" --init --restored

sed 's/"protection": "4+2"/"protection": "4+9"/' "$config" >"$RUN/wrong.json"
refused 'exports\[0\].protection.*4\+9' "$exportd" --config "$RUN/wrong.json" --check
printf '{ "cluster": ' >"$RUN/cut.json"
refused 'line 1' "$storaged" --config "$RUN/cut.json" --check
refused 'none.json' "$exportd" --config "$RUN/none.json" --check
chmod 644 "$RUN/cluster.key"
refused 'chmod 0?600' "$exportd" --config "$config" --check
chmod 600 "$RUN/cluster.key"

cluster kill 2 TERM
grep -q 'stopping on signal' "$RUN/log/node2.log" || die "node 2 did not stop cleanly"
mv "$RUN/node2/d1" "$RUN/node2/away"
mkdir "$RUN/node2/d1"
refused "$RUN/node2/d1" "$storaged" --config "$config" --node 2
[ -z "$(ls -A "$RUN/node2/d1")" ] || die "an uninitialised directory was written to"
rmdir "$RUN/node2/d1"
cluster kill 3 TERM
mv "$RUN/node3/d1" "$RUN/node2/d1"
refused 'node 3' "$storaged" --config "$config" --node 2
# One device more, while the first is another node's: nothing is labelled. Then with the right one.
two=$RUN/two-devices.json
sed "s|\"$RUN/node2/d1\"|&, \"$RUN/node2/d2\"|" "$config" >"$two"
mkdir "$RUN/node2/d2"
refused "$RUN/node2/d1: belongs to node 3, this is node 2: correct" "$storaged" --config "$two" --node 2 --init
[ -z "$(ls -A "$RUN/node2/d2")" ] || die "--init labelled a device although another is wrong"
mv "$RUN/node2/d1" "$RUN/node3/d1"
mv "$RUN/node2/away" "$RUN/node2/d1"
before=$(cat "$RUN/node2/d1/rozo-label")
init=$(timeout 20 "$storaged" --config "$two" --node 2 --init 2>&1) || die "--init of one more device: $init"
grep -q "$RUN/node2/d1 is a device of node 2 already" <<<"$init" || die "--init says: $init"
grep -q "$RUN/node2/d2 is ready for node 2" <<<"$init" || die "--init says: $init"
[ "$(cat "$RUN/node2/d1/rozo-label")" = "$before" ] || die "--init changed a label"
[ -s "$RUN/node2/d2/rozo-label" ] || die "--init made no label"
cluster start-node 2
cluster start-node 3
cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" write 20000
