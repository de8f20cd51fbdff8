#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# rozo-exportd is killed again and again while a client makes, moves and removes names. What was executed
# before the kill and not answered is not executed once more: no mkdir finds its directory there, no
# unlink misses its file.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
guest_job --timeout 400 -- "$ROZO_SOURCE/tests/client/names_change_once.py" <<'JOB'
mount_export
names_change_once=$1
timeout 350 "$names_change_once" "$MOUNT" 4 /run/rounds /run/stop &
worker=$!
rounds() { cat /run/rounds.* 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }'; }
for ((kill = 1; kill <= 25; kill++)); do
  # Some rounds later, so that each kill meets calls under way.
  for ((before = $(rounds), tenths = 0; $(rounds) < before + 4; tenths++)); do
    kill -0 $worker 2>/dev/null || fail "kill $kill: a name was not changed exactly once"
    [ $tenths -lt 300 ] || fail "kill $kill: nothing has moved for 30 s"
    sleep 0.1
  done
  host kill exportd KILL
  host start-daemon exportd
done
touch /run/stop
wait $worker || fail "a name was not changed exactly once"
say "$(rounds) rounds of ten changes of names, exportd killed 25 times"
[ "$(find "$MOUNT" | wc -l)" = 1 ] || fail "names are left: $(ls -R "$MOUNT")"
umount "$MOUNT"
JOB
