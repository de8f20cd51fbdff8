#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Two mounts of the stock client, which share nothing but the file, write interleaved 4 KiB pages of the
# same blocks at once: one by NFSv4.1, through the file's gateway, one by NFSv4.0, through the metadata
# server's own stripe engine. Every page that was acknowledged is there in the end, read through either.
# ROZO_TEST_SECONDS: how long they write (15; one minute shows no more).

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
gcc -O2 -Wall -o "$RUN/share/interleave" "$ROZO_SOURCE/tests/lib/interleave.c"
guest_job --timeout 300 -- "${ROZO_TEST_SECONDS:-15}" <<'JOB'
PAGES=256
other=/mnt/other
mkdir "$other"
mount_export
mount -t nfs4 -o minorversion=0 "$SERVER:/data" "$other"
interleave=/media/interleave
truncate -s $((PAGES * 4096)) "$MOUNT/file"
"$interleave" write "$MOUNT/file" $PAGES 2 0 "$1" /media/book.0 >/media/count.0 &
first=$!
"$interleave" write "$other/file" $PAGES 2 1 "$1" /media/book.1 >/media/count.1 &
second=$!
wait $first || fail "the NFSv4.1 writer"
wait $second || fail "the NFSv4.0 writer"
say "$(cat /media/count.0) pages written through the gateway, $(cat /media/count.1) through the metadata server"
[ "$(nfs_calls 3 WRITE)" -ge "$(cat /media/count.0)" ] || fail "only $(nfs_calls 3 WRITE) WRITEs went to gateways"
[ "$(nfs_calls 4 WRITE)" -ge "$(cat /media/count.1)" ] || fail "only $(nfs_calls 4 WRITE) WRITEs went to the metadata server"
[ "$(cat /media/count.0)" -ge 100 ] && [ "$(cat /media/count.1)" -ge 100 ] || fail "too few to prove anything"
"$interleave" verify "$MOUNT/file" $PAGES 2 /media/book.0 /media/book.1 || fail "read through the gateway"
"$interleave" verify "$other/file" $PAGES 2 /media/book.0 /media/book.1 || fail "read through the metadata server"
umount "$other"
remount_cold
"$interleave" verify "$MOUNT/file" $PAGES 2 /media/book.0 /media/book.1 || fail "read after a remount"
umount "$MOUNT"
JOB
