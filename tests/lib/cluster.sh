# SPDX-License-Identifier: LGPL-3.0-or-later
# shellcheck shell=bash
#
# Helpers for scripts on the host that run a cluster with ci/cluster and jobs in the stock client
# with ci/guest: the tests in tests/client, bench/nfs-throughput and ci/quickstart.
#
# A test calls test_begin first; from there on RUN is its cluster's directory, and whatever happens
# the cluster is ended when the script is. After success the directory is removed, after failure it
# stays for looking into.

# shellcheck source=tests/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TEST_ROOT=${ROZO_TEST_DIR:-/var/tmp/rozo-tests}
GANESHA_TARBALL=${ROZO_CACHE:-/var/cache/rozo}/source/nfs-ganesha_4.3.orig.tar.gz

# test_begin: names the run after the script and makes sure of its end.
test_begin() {
  need_root
  RUN=$TEST_ROOT/$(basename "$0" .sh)
  if [ -e "$RUN" ]; then
    # What an earlier, failed run left. Its daemons, if any still run, end here.
    "$ROZO_SOURCE/ci/cluster" stop --dir "$RUN" >/dev/null 2>&1 || true
    rm -rf "$RUN"
  fi
  mkdir -p "$RUN"
  RUN=$(cd "$RUN" && pwd -P)
  trap test_end EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

test_end() {
  local status=$? log
  trap - EXIT
  [ -z "${GUEST_PID:-}" ] || guest_end
  if [ -f "$RUN/state/parameters" ]; then
    cluster stop || status=$((status ? status : 1))
  fi
  if [ "$status" = 0 ]; then
    rm -rf "$RUN"
    note "passed"
  else
    for log in "$RUN"/log/*.log; do
      [ -s "$log" ] || continue
      printf -- '---- end of %s\n' "$log" >&2
      tail -n 12 "$log" | cut -c1-300 >&2
    done
    note "FAILED with status $status; everything is in $RUN"
  fi
  exit "$status"
}

# cluster COMMAND [ARGUMENT...]: ci/cluster for this test's cluster.
cluster() {
  local command=$1
  shift
  "$ROZO_SOURCE/ci/cluster" "$command" --dir "$RUN" "$@"
}

# status_json: what `rozo status --json` says; its own status (3: degraded) does not matter here.
status_json() {
  local status=0
  cluster exec "$ROZO_BIN/cli/rozo" --config "$RUN/cluster.json" status --json || status=$?
  [ "$status" = 0 ] || [ "$status" = 3 ]
}

# status_value EXPRESSION: a value of it, as Python sees the object `s` and the nodes `n` by their id.
status_value() {
  status_json | python3 -c '
import json, sys
s = json.load(sys.stdin)
n = {node["id"]: node for node in s["nodes"]}
print(eval(sys.argv[1]))' "$1"
}
# status_is EXPRESSION: true if that is so now.
status_is() { [ "$(status_value "$1" 2>/dev/null)" = True ]; }

# load_program: put the load generator where guest jobs find it ($file_load there).
load_program() {
  [ -x "$RUN/share/file_load" ] ||
    gcc -O2 -Wall -o "$RUN/share/file_load" "$ROZO_SOURCE/tests/lib/file_load.c"
}

# guest_job_prepare: see guest_job; sets GUEST_COMMAND to what runs it.
guest_job_prepare() {
  local options=() job
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# = 0 ] || shift
  load_program
  job=$(mktemp "$RUN/share/job.XXXXXX")
  {
    printf 'set -euo pipefail\n. %q\n' "$ROZO_SOURCE/tests/lib/guest.sh"
    cat
  } >"$job"
  GUEST_COMMAND=("$ROZO_SOURCE/ci/guest" --dir "$RUN" "${options[@]}" bash "$job" "$@")
}

# guest_job [OPTION...] [-- ARGUMENT...] <SCRIPT: run a script from standard input in the guest, with
# tests/lib/guest.sh at hand; options are ci/guest's, arguments the script's. Its status is returned.
guest_job() {
  guest_job_prepare "$@"
  "${GUEST_COMMAND[@]}"
}

# guest_job_background: the same, not waited for; GUEST_PID is its process until guest_end.
guest_job_background() {
  guest_job_prepare "$@"
  "${GUEST_COMMAND[@]}" </dev/null &
  GUEST_PID=$!
}

# guest_end: switch the guest off, as if its plug were pulled.
guest_end() {
  kill -TERM "$GUEST_PID" 2>/dev/null || true
  wait "$GUEST_PID" 2>/dev/null || true
  GUEST_PID=
}

# ganesha_tree DIRECTORY: a real tree of about a thousand files: Ganesha's own source.
ganesha_tree() {
  [ -f "$GANESHA_TARBALL" ] || die "$GANESHA_TARBALL is missing; ci/setup fetches it"
  mkdir -p "$1"
  tar -xzf "$GANESHA_TARBALL" -C "$1" --strip-components=1 --no-same-owner
}

# store_kib: what all stores occupy on disk, in KiB.
store_kib() {
  local devices=("$RUN"/node*/d*)
  du -sk --total "${devices[@]}" | awk '$2 == "total" { print $1 }'
}
