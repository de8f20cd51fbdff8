#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# A real tree (Ganesha's source, unpacked three times: some three thousand files), unpacked on the
# mount by the client's tar, is equal to a local copy before and after two storage nodes are killed.
# What is written while the two are down, new files and changes to old ones, is right after they
# came back, were healed, and two others were killed.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FIRST=(2 5) SECOND=(1 4)

test_begin
cluster start
for part in 1 2 3; do ganesha_tree "$RUN/share/tree/$part"; done
cp "$GANESHA_TARBALL" "$RUN/share/tree.tar.gz"
note "the tree has $(find "$RUN/share/tree" -type f | wc -l) files"
guest_job --timeout 1500 -- "${FIRST[@]}" "${SECOND[@]}" <<'JOB'
first=("$1" "$2") second=("$3" "$4")
unpack() { # unpack DIRECTORY
  for part in 1 2 3; do
    mkdir -p "$MOUNT/$1/$part"
    tar -xzf /media/tree.tar.gz -C "$MOUNT/$1/$part" --strip-components=1 --no-same-owner
  done
  say "unpacked into $1"
}
equal() { # equal WHAT DIRECTORY: as seen by a client that has forgotten everything
  remount_cold
  diff -r /media/tree "$MOUNT/$2" || fail "$1: the tree differs"
  say "$1: $2 is equal"
}
mount_export
unpack before
"$file_load" write "$MOUNT/rewritten" 16 1 >/dev/null
cp /media/tree.tar.gz "$MOUNT/patched"
cp /media/tree.tar.gz /run/patched
equal "all nodes up" before

for node in "${first[@]}"; do host kill "$node" KILL; done
equal "nodes ${first[*]} dead" before

unpack during
# Files of which the dead nodes have an older version: one written anew, one changed in the middle
# without regard to blocks.
"$file_load" write "$MOUNT/rewritten" 16 2 >/dev/null
for file in "$MOUNT/patched" /run/patched; do
  dd if=/media/file_load of="$file" bs=1000 seek=777 conv=notrunc,fsync status=none
done
equal "written with nodes ${first[*]} dead" during

for node in "${first[@]}"; do host start-node "$node"; done
host --wait 400 wait-healed 360 || fail "not healed"
for node in "${second[@]}"; do host kill "$node" KILL; done
equal "written while ${first[*]} were dead, now ${second[*]} are dead" during
equal "written before, now ${second[*]} are dead" before
"$file_load" read "$MOUNT/rewritten" 16 2 >/dev/null
cmp /run/patched "$MOUNT/patched" || fail "the file changed while nodes ${first[*]} were dead differs"
say "files changed while nodes ${first[*]} were dead are right"
umount "$MOUNT"
JOB
