#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Nodes that miss thousands of writes are healed when they are back, at the rate that is configured and
# can be changed meanwhile; healers killed in the middle go on; then two other nodes may die.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=40     # before
REWRITTEN=20 # of them, while nodes are down
ALL=140      # with those made then
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }
healed_bytes() { status_value 'sum(x["heal"]["healed_bytes"] for x in s["nodes"])'; }

# set_rate MIB: change the rate of all nodes while they run.
set_rate() {
  sed -i "s/\"heal_mib_per_second\": [0-9]*/\"heal_mib_per_second\": $1/" "$RUN/cluster.json"
  for node in 1 2 3 4 5 6; do
    cluster kill $node HUP
  done
  wait_until 20 status_is "all(x['heal']['limit_mib_per_second'] == $1 for x in s['nodes'])" ||
    die "the rate did not change: $(status_json)"
}

test_begin
cluster start --fsal none --heal 1
client write-files $FILES
cluster kill 2
cluster kill 5
wait_until 30 status_is 's["nodes_down"] == 2' || die "$(status_json)"
client rewrite-files $REWRITTEN # 1,280 writes that both nodes miss, and then whole blocks
client write-files $ALL $FILES
least=$((REWRITTEN * 64 + (ALL - FILES) * 40))
wait_until 30 status_is "n[2]['missed_shards'] >= $least and n[5]['missed_shards'] >= $least" ||
  die "the status does not tell what was missed: $(status_json)"
missed=$(status_value 's["missed_shards"]')

# The healers must not make more than their rate allows, by their own count, over the time that this
# script sees go by, besides a burst of one second each and what is under way. The other way round
# nothing is said, since the machine may be busy.
begin=$(healed_bytes)
started=$(date +%s%N)
cluster start-node 2
cluster start-node 5
progress() { healed=$(($(healed_bytes) - begin)); [ "$healed" -gt 0 ]; }
wait_until 60 progress || die "healing does not begin: $(status_json)"
for _ in 1 2 3 4 5 6; do
  healed=$(($(healed_bytes) - begin))
  elapsed_ms=$((($(date +%s%N) - started) / 1000000))
  allowed=$((6 * 1048576 * (elapsed_ms + 1000) / 1000 + 6 * 64 * 2 * 4168))
  [ "$healed" -le "$allowed" ] || die "healed $healed bytes in $elapsed_ms ms, $allowed are allowed"
  sleep 0.5
done
note "healed $healed bytes in $elapsed_ms ms at 6 nodes x 1 MiB/s"

# The daemons that heal are killed in the middle; nothing but what the stores hold tells them to go on.
status_is 's["missed_shards"] > 0' || die "all healed before the healers could be killed: $(status_json)"
cluster kill 1
cluster kill 3
cluster start-node 1
cluster start-node 3
wait_until 30 status_is 's["nodes_down"] == 0' || die "$(status_json)"
set_rate 0
wait_until 120 status_is 's["healthy"] and all(x["heal"]["passes"] > 1 for x in s["nodes"])' ||
  die "not healed: $(status_json)"
cluster wait-healed 60
note "healed $missed shards"

# A configuration that is not valid changes nothing, and the log says so.
sed -i 's/"heal_mib_per_second": 0/"heal_mib_per_second": -1/' "$RUN/cluster.json"
cluster kill 4 HUP
refused() { grep -q 'SIGHUP: nothing was changed' "$RUN/log/node4.log"; }
wait_until 20 refused || die "node 4 took a wrong configuration"
sed -i 's/"heal_mib_per_second": -1/"heal_mib_per_second": 0/' "$RUN/cluster.json"

cluster kill 3
cluster kill 6
client read-files $ALL $REWRITTEN
