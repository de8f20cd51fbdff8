#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# One script of file system operations gives the same results on the mount as on the client's own
# tmpfs: names, types, modes, sizes, link counts, contents, error messages. Among them: writes at odd
# offsets, holes, truncation both ways, append, rename over files and empty directories, hard and
# symbolic links, use of a removed file that is still open, a directory of 1,500 names.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

test_begin
cluster start
guest_job --timeout 600 <<'JOB'
operations() { # operations DIRECTORY: prints what is to be seen, with no path outside the directory
  cd "$1"
  umask 022
  # contents
  head -c 100000 /media/file_load >plain
  cp plain odd
  head -c 7777 /media/file_load | dd of=odd bs=1 seek=33333 conv=notrunc status=none oflag=seek_bytes ibs=7777 obs=7777
  truncate -s 1000001 hole
  printf end | dd of=hole bs=3 seek=900000 oflag=seek_bytes conv=notrunc status=none
  printf x | dd of=sparse bs=1 seek=5000000 status=none
  cp plain shrunk && truncate -s 16385 shrunk && truncate -s 50000 shrunk
  cp plain emptied && : >emptied && printf again >>emptied
  for word in one two three; do echo $word >>appended; done
  # names
  mkdir -p deep/er/est && mv plain deep/er/est/moved
  echo first >victim && echo second >winner && mv winner victim
  mkdir empty full && touch full/file
  mv -T empty full 2>&1 || true
  mkdir target && mv -T empty target
  rmdir full 2>&1 || true
  mkdir deep 2>&1 || true
  mv -T deep deep/er/inside 2>&1 || true
  ln victim hard && ln -s deep/er link && ln -s nowhere dangling
  cat dangling 2>&1 || true
  ls link
  echo changed >hard
  rm victim && cat hard
  echo "$(printf 'n%.0s' {1..255})" >"$(printf 'n%.0s' {1..255})"
  echo long 2>&1 >"$(printf 'n%.0s' {1..256})" || true
  echo odd >'white space' && echo odd >'back\slash' && echo odd >$'new\nline' && echo utf >'zoë'
  # modes and times
  chmod 600 hard && chmod 4751 appended && touch -d '2001-02-03 04:05:06.789 UTC' odd && chown 1234:567 odd
  # a removed file that is open
  exec 5<>removed && echo still >&5 && rm removed && cat <&5 && echo here >&5 && exec 5>&-
  # many names
  mkdir many && (cd many && for ((i = 0; i < 1500; i++)); do : >"name.$i"; done)
  find many -name '*7*' -delete
  ls many | wc -l
  # result
  find . -printf '%P %y %m %s %n %U %G %l\n' | grep -v '^[^ ]* d' | LC_ALL=C sort
  find . -type d -printf '%P %m\n' | LC_ALL=C sort
  find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2
  stat -c '%n %y' odd
  cd /
}
mount_export
mkdir "$MOUNT/here" /run/here
operations /run/here >/run/wanted 2>&1
operations "$MOUNT/here" >/run/found 2>&1
diff /run/wanted /run/found || fail "operations give other results on the mount (>) than locally (<)"
[ "$(wc -l </run/wanted)" -gt 1500 ] || fail "the operations did not get to their end: $(tail -n 3 /run/wanted)"
say "$(wc -l </run/wanted) lines of results are the same"
remount_cold
diff -r /run/here "$MOUNT/here" 2>&1 | grep -v 'nowhere\|dangling' && fail "after a remount the contents differ (above)"
say "after a remount, too"
df "$MOUNT" >/dev/null || fail "df"
mkdir "$MOUNT/here/exclusive"
before=$(nfs_calls 4 SETATTR)
(umask 027 && "$file_load" small-write "$MOUNT/here/exclusive" 20 100 >/dev/null)
[ "$(nfs_calls 4 SETATTR)" = "$before" ] || fail "files made with O_EXCL cost a SETATTR each"
modes=$(find "$MOUNT/here/exclusive" -type f -printf '%m %U %G\n' | sort | uniq -c | tr -s ' ')
[ "$modes" = " 20 640 0 0" ] || fail "files made with O_EXCL have: $modes"
[ -z "$(find "$MOUNT/here/exclusive" -type f -mmin +2)" ] || fail "files made with O_EXCL have old times"
say "an exclusive create costs no SETATTR"
rm -rf "$MOUNT/here"
[ -z "$(ls -A "$MOUNT")" ] || fail "something is left: $(ls -A "$MOUNT")"
umount "$MOUNT"
JOB
