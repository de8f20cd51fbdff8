#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Servers die between a client's WRITE and its fsync: the metadata server alone, the gateways alone,
# everything. fsync then returns within a minute of the restart and all bytes are there.
# After a restart of the metadata server the client's LAYOUTCOMMIT names a layout that nobody knows
# any more; after one of a gateway the COMMIT shows another verifier and the client writes again.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
guest_job --timeout 600 <<'JOB'
# write=eager: the client sends WRITEs without the COMMIT that it would otherwise send by itself soon
# after, so that the kills meet bytes that a gateway has answered and not yet made durable.
mount_export write=eager
go=/run/go
interrupted() { # interrupted NAME: write, run the kills that standard input lists, then let it fsync
  local writer kill restart writes commits
  commits=$(nfs_calls 3 COMMIT)
  rm -f $go $go.ready
  timeout 200 "$file_load" late-fsync "$MOUNT/$1" 20 $go &
  writer=$!
  until [ -e $go.ready ]; do
    kill -0 $writer || fail "$1: the writer ended before its fsync"
    sleep 0.1
  done
  [ "$(nfs_calls 3 COMMIT)" = "$commits" ] || fail "$1: the client has sent COMMIT too early for this test"
  writes=$(nfs_calls 3 WRITE)
  while read -r kill restart; do
    host kill "$kill" KILL
    restarts+=("$restart")
  done
  for restart in "${restarts[@]}"; do
    # shellcheck disable=SC2086
    host ${restart//_/ }
  done
  restarts=()
  touch $go
  for ((tenths = 0; tenths < 600; tenths++)); do
    kill -0 $writer 2>/dev/null || break
    sleep 0.1
  done
  if kill -0 $writer 2>/dev/null; then
    fail "$1: fsync has not returned 60 s after the restart"
  fi
  wait $writer || fail "$1: fsync failed"
  say "$1: $(($(nfs_calls 3 WRITE) - writes)) WRITEs were sent again"
  case $1 in gateways | everything)
    [ "$(nfs_calls 3 WRITE)" -ge $((writes + 20)) ] || fail "$1: unstable bytes were not sent again"
    ;;
  esac
  umount "$MOUNT"
  echo 3 >/proc/sys/vm/drop_caches
  mount_export write=eager
  "$file_load" read "$MOUNT/$1" 20 >/dev/null
  say "$1: all bytes are there"
}
restarts=()
interrupted metadata-server <<<'ganesha start-daemon_ganesha'
interrupted exportd <<<'exportd start-daemon_exportd'
interrupted gateways <<NODES
1 start-node_1
2 start-node_2
3 start-node_3
4 start-node_4
5 start-node_5
6 start-node_6
NODES
interrupted everything <<<'all start-daemon_all'
umount "$MOUNT"
JOB
