#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# The network between clients, gateways and stores loses packets, a few and then many; then one node
# is cut off for some seconds while it goes on running. Clients write all the time: nothing acknowledged
# is lost, no call takes a minute, and what the node missed is healed when it can be reached again.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

CALL_MS_MAX=60000

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
need_command nft
cluster start --fsal none --scrub 0

# packets RULE...: the packet filter of the cluster's network, in place of the one before. A packet
# passes output and input once each.
packets() {
  {
    printf 'flush ruleset\ntable ip faults {\n'
    printf 'chain input { type filter hook input priority 0; %s; }\n' "$1"
    printf 'chain output { type filter hook output priority 0; %s; }\n' "$2"
    printf '}\n'
  } | cluster exec nft -f -
}
lose() { packets "tcp dport { 7601, 20049 } numgen random mod 100 < $1 drop; tcp sport { 7601, 20049 } numgen random mod 100 < $1 drop" ''; }

load_begin --kind mixed
for percent in 5 20; do
  lose $percent
  load_proceeds 40 60
  note "with $percent % of the packets lost"
done
packets "ip daddr 10.99.0.13 drop" "meta skgid 10003 drop"
is_down() { grep -q 'node 3 is down' "$RUN/log/exportd.log"; }
wait_until 30 is_down || die "exportd did not notice that node 3 is cut off"
load_proceeds 200 60
note "with node 3 cut off"
[ "$(find "$RUN"/node*/d*/missed -type f | wc -l)" -gt 0 ] || die "nobody remembers what node 3 missed: it was not cut off"
packets '' ''
load_proceeds 200 60
load_end
page_load verify --gateways 6
cluster wait-healed 60
cluster kill 1
cluster kill 6
page_load verify --gateways 4
longest=$(page_load longest)
[ "$longest" -lt $CALL_MS_MAX ] || die "a call took $longest ms"
