#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A client without pNFS (NFSv4.0) reads and writes the same files through the metadata server: what a
# pNFS client wrote it reads, and the other way round, also with two storage nodes dead.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
guest_job --timeout 600 <<'JOB'
mount_40() { mount -t nfs4 -o minorversion=0 "$SERVER:/data" "$MOUNT"; }
mount_export
"$file_load" write "$MOUNT/by41" 32 1 >/dev/null
umount "$MOUNT"

mount_40
"$file_load" read "$MOUNT/by41" 32 1 >/dev/null
"$file_load" write "$MOUNT/by40" 32 2 >/dev/null
[ "$(nfs_calls 4 WRITE)" -ge 32 ] || fail "NFSv4.0 writes did not go to the metadata server"
[ "$(nfs_calls 4 READ)" -ge 32 ] || fail "NFSv4.0 reads did not go to the metadata server"
umount "$MOUNT"

mount_export
"$file_load" read "$MOUNT/by40" 32 2 >/dev/null
umount "$MOUNT"

host kill 1 KILL
host kill 4 KILL
mount_40
"$file_load" read "$MOUNT/by41" 32 1 >/dev/null
"$file_load" write "$MOUNT/by40" 32 3 >/dev/null
remount_cold
"$file_load" read "$MOUNT/by40" 32 3 >/dev/null
umount "$MOUNT"
say "both clients agree"
JOB
