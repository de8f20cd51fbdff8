#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# 256 MiB of user bytes at 4+2 occupy at most 1.56 times as much on all stores together (6/4 is 1.5;
# the rest is for tails, records and the file system's own), and removing them gives the space back.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

BOUND_PERCENT=156
USER_KIB=$((256 * 1024))

test_begin
cluster start
empty=$(store_kib)
guest_job --timeout 300 <<'JOB'
mount_export
"$file_load" write "$MOUNT/big" 256 >/dev/null
umount "$MOUNT"
JOB
# Shards may be committed and older versions dropped a little after the client's fsync.
# What is there from the beginning, mostly the devices' logs, does not grow with the files.
settled() { full=$(($(store_kib) - empty)) && [ $((full * 100)) -le $((USER_KIB * BOUND_PERCENT)) ]; }
wait_until 60 settled || true
note "stores: $empty KiB empty, $full KiB more with 256 MiB: $((full * 1000 / USER_KIB)) per mille of the user bytes"
[ $((full * 100)) -le $((USER_KIB * BOUND_PERCENT)) ] || die "more than $BOUND_PERCENT % of the user bytes"
[ $((full * 100)) -ge $((USER_KIB * 150)) ] || die "less than 150 %: not all shards are there"

guest_job --timeout 120 <<'JOB'
mount_export
"$file_load" read "$MOUNT/big" 256 >/dev/null
rm "$MOUNT/big"
umount "$MOUNT"
JOB
freed() { [ "$(store_kib)" -le $((empty + 4096)) ]; }
wait_until 120 freed || die "120 s after the file was removed the stores still hold $(store_kib) KiB"
