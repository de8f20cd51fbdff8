#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Damage under running storage nodes: flipped bits in rows, records and page headers, cut and deleted
# store files; then one of a node's two devices unmounted, and one whose disk gives EIO. Clients always
# read what was acknowledged, never zeros; the node's log names the file or the device; the shards are
# made anew from other nodes, and the other device of the node goes on serving.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

PAGE=4096

# flip FILE OFFSET: flip one bit.
flip() {
  local byte
  byte=$(od -An -v -tu1 -j "$2" -N1 "$1")
  # shellcheck disable=SC2059
  printf "\\x$(printf %02x $((byte ^ 16)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# log_says NODE PATTERN FROM-LINE
log_says() { tail -n "+$3" "$RUN/log/node$1.log" | grep -E -- "$2" >/dev/null || die "the log of node $1 should say '$2'"; }
log_lines() { wc -l <"$RUN/log/node$1.log"; }
# Of very many blocks that reads find in need of care some are forgotten, until they are read again.
settled() { page_load settled 2>"$RUN/unsettled" || { page_load verify >"$RUN/verified" && sleep 1 && false; }; }
await_settled() { wait_until 60 settled || die "after $1: $(tail -n 8 "$RUN/unsettled")"; }
# stores DEVICE-DIRECTORY: its store files' sides a, one a line
stores() { find "$1/shards" -name '*.a' -size +256k | sort; }

test_begin
# shellcheck source=tests/lib/page_load.sh
. "$ROZO_SOURCE/tests/lib/page_load.sh"
cluster start --fsal none --scrub 200 --devices 2 --device-mib 64
# Not whole groups of blocks: beside those that are damaged there are some that nobody ever wrote.
page_load load --kind sequential --files 24 --pages 350

note "flipped bits, cut and deleted files"
mapfile -t sides < <(stores "$RUN/node2/d1" && stores "$RUN/node2/d2")
[ ${#sides[@]} -ge 8 ] || die "only ${#sides[@]} store files on node 2"
# One after the other, and read until it is named: the log leaves out lines that follow each other at
# once from one place in the program.
damaged() { # damaged SIDE: reads do not see it, and the log of the node names it
  reads_name() {
    page_load verify --gateways 6 >"$RUN/verified" || die "after $1: $(tail -n 4 "$RUN/verified")"
    grep -q "$1: " "$RUN/log/node2.log"
  }
  wait_until 20 reads_name "$1" || die "the log of node 2 does not name $1"
}
flip "${sides[0]}" $((PAGE + 3 * PAGE + 77)) # row of block 3
damaged "${sides[0]}"
flip "${sides[1]}" $((128 + 7 * 128 + 2)) # record of block 7
damaged "${sides[1]}"
dd if=/dev/urandom of="${sides[2]}" bs=$PAGE count=1 conv=notrunc status=none # page 0
damaged "${sides[2]}"
truncate -s $((20 * PAGE)) "${sides[3]}"
damaged "${sides[3]}"
flip "${sides[4]}" $((32 * PAGE + 20)) # header of group 1: the scrubber's business
damaged "${sides[4]}"
rm "${sides[5]}" # is found out when the store file is opened next
cluster kill 2 TERM
passes=$(grep -c 'scrub: pass done' "$RUN/log/node2.log")
cluster start-node 2
scrubbed() { [ "$(grep -c 'scrub: pass done' "$RUN/log/node2.log")" -gt "$passes" ]; }
wait_until 30 scrubbed || die "no pass of the scrubber"
page_load verify --gateways 6
await_settled "bits were flipped"
cluster kill 2 TERM
verify_devices 2
cluster start-node 2
cluster kill 1
cluster kill 3
page_load verify --gateways 4
cluster start-node 1
cluster start-node 3

note "a device unmounted under the running node, and at its start"
device=$RUN/node4/d1
started=$(log_lines 4)
umount -l "$device"
page_load load --operations 200
page_load verify --gateways 6
cluster kill 4 TERM
cluster start-node 4
log_says 4 "$device: no storage device" "$started"
log_says 4 "$device: out of service" "$started"
page_load load --operations 200
page_load verify --gateways 6
[ -n "$(stores "$RUN/node4/d2")" ] || die "the other device of node 4 has nothing"
[ -z "$(ls -A "$device")" ] || die "something was written to the directory below the mount point"
cluster kill 4 TERM
mount -o loop "$RUN/images/node4-d1" "$device"
cluster start-node 4
cluster wait-healed 60
page_load verify --gateways 6
await_settled "a device was away"
cluster kill 2
cluster kill 6
page_load verify --gateways 4
cluster start-node 2
cluster start-node 6

note "a disk that gives EIO"
device=$RUN/node5/d1
started=$(log_lines 5)
truncate -s 4M "$RUN/images/node5-d1"
echo 3 >/proc/sys/vm/drop_caches
page_load verify --gateways 6
page_load load --operations 200
page_load verify --gateways 6
log_says 5 "$device" "$started"
cluster kill 5 TERM
