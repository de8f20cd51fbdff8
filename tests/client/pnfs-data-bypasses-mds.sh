#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# The stock client gets flexfile layouts and sends all data to the gateways: while 256 MiB are written
# with fsync and read back by a client that has forgotten them, it sends no READ, WRITE or COMMIT to
# the metadata server, and next to no bytes.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
guest_job --timeout 300 <<'JOB'
mount_export
say "writing 256 MiB took $("$file_load" write "$MOUNT/big" 256) s"
[ "$(pnfs_driver)" = LAYOUT_FLEX_FILES ] || fail "mountstats says pnfs=$(pnfs_driver), not LAYOUT_FLEX_FILES"
[ "$(stat -c %s "$MOUNT/big")" = 268435456 ] || fail "size after the write: $(stat -c %s "$MOUNT/big")"
written=$(mds_bytes)
remount_cold
say "reading 256 MiB took $("$file_load" read "$MOUNT/big" 256) s, every byte is right"
[ "$(pnfs_driver)" = LAYOUT_FLEX_FILES ] || fail "after the remount mountstats says pnfs=$(pnfs_driver)"
read=$(mds_bytes)

for call in READ WRITE COMMIT; do
  say "$call calls: $(nfs_calls 4 $call) to the metadata server, $(nfs_calls 3 $call) to gateways"
done
say "bytes over the metadata server's connection: $written while writing, $read while reading"
for call in READ WRITE COMMIT; do
  [ "$(nfs_calls 4 $call)" = 0 ] || fail "$call calls went to the metadata server"
done
# 256 MiB in calls of at most 1 MiB
for call in READ WRITE; do
  [ "$(nfs_calls 3 $call)" -ge 256 ] || fail "fewer than 256 $call calls went to gateways"
done
[ "$(nfs_calls 3 COMMIT)" -ge 1 ] || fail "no COMMIT went to a gateway, although fsync returned"
[ "$written" -lt 4194304 ] && [ "$read" -lt 4194304 ] || fail "data went over the metadata server's connection"
[ "$written" -gt 0 ] && [ "$read" -gt 0 ] || fail "the connection to the metadata server was not found"
JOB
