# SPDX-License-Identifier: LGPL-3.0-or-later
# shellcheck shell=bash
#
# Helpers for the fault tests: the load of tests/cluster/page_load.c, and the node's own check of its
# devices. Source after tests/lib/cluster.sh; test_begin has set RUN.

BOOK=$RUN/book
LOAD_PID=

# in_network COMMAND...: replace this (sub)shell by a command in the cluster's network, bounded; a signal
# to it reaches the command.
in_network() {
  local network
  # shellcheck disable=SC1091,SC2153
  network=$(. "$RUN/state/parameters" && echo "$NAMESPACE")
  exec timeout 240 nsenter --net="/run/netns/$network" -- "$@"
}

# page_load COMMAND [ARGUMENT...]: on this test's book.
page_load() (
  command=$1
  shift
  in_network "$ROZO_BIN/tests/cluster/page_load" "$RUN/cluster.json" "$command" "$BOOK" "$@"
)

# shellcheck disable=SC2120 # some tests give options
# load_begin [OPTION...]: in the background, until load_end.
load_begin() {
  in_network "$ROZO_BIN/tests/cluster/page_load" "$RUN/cluster.json" load "$BOOK" "$@" &
  LOAD_PID=$!
}

# load_end: stop it; whatever it had sent and not got acknowledged stays in doubt.
load_end() {
  kill -TERM "$LOAD_PID"
  wait "$LOAD_PID" || die "the load ended with status $?"
  LOAD_PID=
}

operations() { page_load count; }
operations_reach() { [ "$(operations)" -ge "$1" ]; }

# load_proceeds COUNT SECONDS: until so many more operations have been acknowledged.
load_proceeds() {
  local goal
  goal=$(($(operations) + $1))
  wait_until "$2" operations_reach "$goal" || die "no $1 operations in $2 s: $(operations) of $goal"
}

# verify_devices NODE...: --verify of stopped nodes finds nothing wrong.
verify_devices() {
  local node
  for node in "$@"; do
    "$ROZO_BIN/storaged/rozo-storaged" --config "$RUN/cluster.json" --node "$node" --verify \
      >"$RUN/verify-$node" 2>"$RUN/verify-$node.err" ||
      die "--verify of node $node: $(head -n 20 "$RUN/verify-$node" "$RUN/verify-$node.err")"
  done
}
