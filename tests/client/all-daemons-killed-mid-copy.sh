#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# SIGKILL of every daemon at once in the middle of a copy, then a restart.
# First the client lives on: its copy waits, goes on and ends complete. Then the client dies with
# the servers: a new one finds every file whose fsync had returned complete, everything that was
# there before undamaged, and can repeat the copy.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
ganesha_tree "$RUN/share/tree"
files=$(find "$RUN/share/tree" -type f | wc -l)
copied() { # copied LOG COUNT: true when the guest's copy has finished that many files
  [ -n "$GUEST_PID" ] && ! kill -0 "$GUEST_PID" 2>/dev/null && die "the guest ended before it had copied $2 files"
  [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]
}

note "1: the servers die, the client lives ($files files)"
guest_job_background --timeout 900 <<'JOB'
mount_export
mkdir "$MOUNT/lives"
"$file_load" copy /media/tree "$MOUNT/lives" /media/lives.log
remount_cold
diff -r /media/tree "$MOUNT/lives" || fail "the tree differs after the copy went through a crash"
umount "$MOUNT"
say "the copy went on and is equal"
JOB
wait_until 300 copied "$RUN/share/lives.log" $((files / 4)) || die "too slow: $(wc -l <"$RUN/share/lives.log") files"
cluster kill all KILL
note "killed after $(wc -l <"$RUN/share/lives.log") files"
cluster start-daemon all
status=0
wait "$GUEST_PID" || status=$?
GUEST_PID=
[ $status = 0 ] || die "the client's job ended with status $status"
[ "$(wc -l <"$RUN/share/lives.log")" = "$files" ] || die "not every file was copied"

note "2: servers and client die together"
guest_job_background --timeout 600 <<'JOB'
mount_export
mkdir "$MOUNT/dies"
"$file_load" copy /media/tree "$MOUNT/dies" /media/dies.log
JOB
wait_until 300 copied "$RUN/share/dies.log" $((files / 3)) || die "too slow: $(wc -l <"$RUN/share/dies.log") files"
cluster kill all KILL
guest_end
safe=$(wc -l <"$RUN/share/dies.log")
[ "$safe" -lt "$files" ] || die "the copy was over before the servers were killed: nothing was proved"
note "killed after $safe files were safe"
cluster start-daemon all
guest_job --timeout 900 -- "$safe" <<'JOB'
mount_export
compared=$("$file_load" compare /media/tree "$MOUNT/dies" /media/dies.log)
say "$compared files whose fsync had returned are complete"
[ "$compared" -ge "$1" ] || fail "only $compared of $1 were compared"
diff -r /media/tree "$MOUNT/lives" || fail "what was there before the crash is damaged"
"$file_load" copy /media/tree "$MOUNT/dies" /media/again.log >/dev/null
remount_cold
diff -r /media/tree "$MOUNT/dies" || fail "the repeated copy differs"
rm -rf "$MOUNT/dies"
umount "$MOUNT"
say "nothing else is damaged; the copy was repeated"
JOB
