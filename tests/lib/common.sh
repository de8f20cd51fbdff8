# SPDX-License-Identifier: LGPL-3.0-or-later
# shellcheck shell=bash
#
# Helpers that every script in ci/, bench/ and tests/ may source. Assumes bash with
# `set -euo pipefail`; takes no locks and keeps no state of its own.

# Both are for the scripts that source this file.
# shellcheck disable=SC2034
ROZO_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034
ROZO_GANESHA_LIB=${ROZO_GANESHA_LIB:-/var/cache/rozo/ganesha/lib}

# Script that is running, for messages.
ROZO_ME=${ROZO_ME:-$(basename "$0")}

# note TEXT...: one line of progress on stderr, with the seconds since the script began.
note() { printf '[%s %3ss] %s\n' "$ROZO_ME" "$SECONDS" "$*" >&2; }

# die TEXT...: say what is wrong and end with status 1.
die() {
  printf '%s: %s\n' "$ROZO_ME" "$*" >&2
  exit 1
}

# usage_from FILE: print the comment block at the head of a script as its help.
usage_from() { sed -n '3,/^[^#]/{s/^# \{0,1\}//p}' "$1"; }

# need_root: the scripts make network namespaces, which only root may.
need_root() { [ "$(id -u)" = 0 ] || die "must run as root (it makes network namespaces and mounts)"; }

# need_command NAME...: end with a clear message if a program is missing.
need_command() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null || die "program '$name' is missing; ci/setup installs it"
  done
}

# wait_until SECONDS COMMAND...: poll a condition every 0.1 s; status 1 once the bound has passed.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# process_start_time PID: field 22 of /proc/PID/stat. With the pid it names one process for ever,
# even after the pid is used again. Prints nothing if there is no such process.
process_start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The second field is the program's name in brackets and may hold spaces: cut behind the last one.
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  [ "$1" = Z ] || printf '%s\n' "${20}" # a zombie has ended already
}

# pid_file_write FILE PID: remember a process that we started.
pid_file_write() { printf '%s %s\n' "$2" "$(process_start_time "$2")" >"$1"; }

# pid_file_running FILE: true while exactly the remembered process lives; sets PID_FILE_PID.
pid_file_running() {
  local start
  PID_FILE_PID=
  [ -s "$1" ] || return 1
  read -r PID_FILE_PID start <"$1"
  [ -n "$start" ] && [ "$(process_start_time "$PID_FILE_PID")" = "$start" ]
}

process_gone() { ! pid_file_running "$1"; }

# end_leftover_guest FILE: end the guest of a ci/guest that was killed. The remembered process is
# timeout(1), which passes the signal on to all processes of the guest.
end_leftover_guest() {
  if pid_file_running "$1"; then
    kill -TERM "$PID_FILE_PID" 2>/dev/null || true
    wait_until 20 process_gone "$1" || die "the guest of an earlier run (process $PID_FILE_PID) does not end"
  fi
  rm -f "$1"
}
