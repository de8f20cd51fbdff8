#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Devices that run full. All nodes: writes of new data end with NFS3ERR_NOSPC while the reserve is still
# free, and nothing acknowledged is lost; what is there can be read, overwritten and removed, and after
# that there is room again. One node only: clients notice nothing, its shards are recorded as missed,
# the node says that it is full, and they are made when it has room again.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

DEVICE_MIB=32

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
cluster start --fsal none --scrub 0 --device-mib $DEVICE_MIB

fill() { # until the devices are full
  local status=0
  page_load load --kind sequential --until-full "$@" || status=$?
  [ $status = 3 ] || die "the devices should be full now, but the load ended with status $status"
}
# failures OUTPUT-OF-LOAD: calls that clients had to repeat, since the book was begun
failures() { sed -n 's/.* \([0-9]*\) calls failed.*/\1/p' <<<"$1"; }
free_kib() { stat -f -c '%a %S' "$RUN/node$1/d1" | awk '{ print $1 * $2 / 1024 }'; }
total_kib() { stat -f -c '%b %S' "$RUN/node$1/d1" | awk '{ print $1 * $2 / 1024 }'; }

note "all nodes full"
filled=$(fill --files 64 --pages 1024)
printf '%s\n' "$filled"
full=0
for n in 1 2 3 4 5 6; do
  reserve=$(($(total_kib $n) / 29 + $(total_kib $n) / 64))
  # Records, directories and markers may use the reserve; rows may not, but for those in flight.
  [ "$(free_kib $n)" -ge $((reserve / 2)) ] || die "node $n has $(free_kib $n) KiB left of a reserve of $reserve KiB"
  if grep -q "node$n/d1: full" "$RUN/log/node$n.log"; then full=$((full + 1)); fi
done
[ $full -ge 3 ] || die "only $full nodes say that they are full"
page_load verify --gateways 6
note "overwriting, removing, and room again"
# Nearly as much as there is, at random, and no client is refused any of it: where what was replaced
# takes the room, gateways commit it.
overwritten=$(page_load load --kind overwrite --operations 4000)
printf '%s\n' "$overwritten"
[ "$(failures "$overwritten")" = "$(failures "$filled")" ] || die "overwriting was refused"
page_load verify --gateways 6
page_load remove 8 40
has_room() { # on all nodes, half of it
  local n
  for n in 1 2 3 4 5 6; do [ "$(free_kib $n)" -gt $(($(total_kib $n) / 2)) ] || return 1; done
}
wait_until 60 has_room || die "the space of removed files was not given back: $(for n in 1 2 3 4 5 6; do free_kib $n; done)"
page_load load --operations 300
page_load verify --gateways 6

note "one node full"
page_load remove 0 64
has_all() { [ "$(free_kib 3)" -gt $(($(total_kib 3) * 8 / 10)) ]; }
wait_until 60 has_all || die "node 3 has only $(free_kib 3) KiB free"
fallocate -l $(($(free_kib 3) - 256))K "$RUN/node3/d1/filler"
page_load load --operations 300
page_load verify --gateways 6
grep -q 'node3/d1: full' "$RUN/log/node3.log" || die "node 3 does not say that it is full"
[ "$(find "$RUN"/node*/d*/missed -type f | wc -l)" -gt 0 ] || die "nobody remembers what node 3 missed"
rm "$RUN/node3/d1/filler"
cluster wait-healed 60
cluster kill 1
cluster kill 5
page_load verify --gateways 4
