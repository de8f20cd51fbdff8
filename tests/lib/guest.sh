# SPDX-License-Identifier: LGPL-3.0-or-later
# shellcheck shell=bash
#
# Helpers for jobs inside the guest (see ci/guest). Every job that tests/lib/cluster.sh makes
# sources this file. Programs are started sparingly: a fork costs 50 ms here.

SERVER=10.99.0.1
MOUNT=/mnt/n
# shellcheck disable=SC2034 # for the jobs
file_load=/media/file_load

say() { printf 'guest: %s\n' "$*"; }
fail() {
  printf 'guest: FAILED: %s\n' "$*"
  exit 1
}

# shellcheck disable=SC2119,SC2120 # jobs pass options, this file does not
# mount_export [OPTIONS]: what an administrator would type; the defaults of the stock client.
mount_export() { mount -t nfs4 -o "minorversion=1${1:+,$1}" "$SERVER:/data" "$MOUNT"; }

# remount_cold: nothing of what was written or read is left in the client's memory afterwards.
remount_cold() {
  umount "$MOUNT"
  echo 3 >/proc/sys/vm/drop_caches
  mount_export
}

# nfs_calls VERSION NAME: calls of one procedure that this client has sent since it booted, to all
# servers. Version 4 goes only to the metadata server and version 3 only to gateways, so these tell
# who carried the data. (The per-mount counters of mountstats cannot: the client adds its calls to
# data servers to the mount's own READ and WRITE, ff_layout_read_count_stats() in the kernel.)
nfs_calls() {
  local column
  case $1.$2 in # position behind "procN <number of procedures>", include/linux/nfs{3,4}.h
  3.READ) column=6 ;;
  3.WRITE) column=7 ;;
  3.COMMIT) column=21 ;;
  4.READ) column=1 ;;
  4.WRITE) column=2 ;;
  4.COMMIT) column=3 ;;
  4.SETATTR) column=9 ;;
  *) fail "nfs_calls: $1.$2 is not known here" ;;
  esac
  local words
  while read -r -a words; do
    if [ "${words[0]}" = "proc$1" ]; then
      echo "${words[column + 2]}"
      return
    fi
  done </proc/net/rpc/nfs
  echo 0 # the version was never used
}

# pnfs_driver: what /proc/self/mountstats says of the mount's layout driver.
pnfs_driver() { sed -n "/ mounted on ${MOUNT//\//\\/} /,/^device/s/.*pnfs=\([^,]*\).*/\1/p" /proc/self/mountstats | head -n 1; }

# mds_bytes: bytes that went over the connection to the metadata server, both ways.
mds_bytes() {
  ss -Htin "dst $SERVER and dport = :2049" |
    grep -oE 'bytes_(sent|received):[0-9]+' | awk -F: '{ sum += $2 } END { print sum + 0 }'
}
