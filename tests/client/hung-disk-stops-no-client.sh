#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# The disk of one storage node hangs (a file system that is frozen), while its daemon and all that needs
# no disk go on. A client writes files, also those whose gateway is on that node, within a minute, and
# reads others at once. When the disk is back, what it missed is healed.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=12 # some of them have their gateway on node 1

need_command fsfreeze
test_begin
cluster start --device-mib 300
mkdir -p "$RUN/share"
disk=$RUN/node1/d1
trap 'fsfreeze --unfreeze "$disk" 2>/dev/null || true; test_end' EXIT
guest_job_background --timeout 400 -- "$FILES" <<'JOB'
mount_export
for ((i = 1; i <= $1; i++)); do
  dd if=/dev/urandom of="$MOUNT/$i" bs=64k count=16 conv=fsync status=none
done
touch /media/freeze
until [ -e /media/frozen ]; do sleep 0.2; done
begin=$SECONDS
for ((i = 1; i <= $1; i++)); do
  (
    dd if=/dev/urandom of="/run/tmp/$i" bs=64k count=16 status=none
    dd if="/run/tmp/$i" of="$MOUNT/$i" bs=64k conv=fsync,notrunc status=none
  ) &
done
for ((i = 1; i <= $1; i++)); do wait -n || fail "a write failed"; done
took=$((SECONDS - begin))
say "$1 files were written in $took s while a disk hung"
((took < 60)) || fail "that is too long"
touch /media/written
until [ -e /media/thawed ]; do sleep 0.2; done
remount_cold
for ((i = 1; i <= $1; i++)); do
  cmp "/run/tmp/$i" "$MOUNT/$i" || fail "file $i is not what was written"
done
umount "$MOUNT"
touch /media/done
JOB
guest_says() {
  kill -0 "$GUEST_PID" 2>/dev/null || die "the guest's job has ended"
  [ -e "$RUN/share/$1" ]
}
wait_until 100 guest_says freeze || die "the guest wrote nothing"
fsfreeze --freeze "$disk"
touch "$RUN/share/frozen"
wait_until 150 guest_says written || die "the client waits for the disk that hangs"
fsfreeze --unfreeze "$disk"
cluster wait-healed 120
touch "$RUN/share/thawed"
wait "$GUEST_PID"
GUEST_PID=
[ -e "$RUN/share/done" ]
grep -h "a disk hangs" "$RUN/log/node1.log"
