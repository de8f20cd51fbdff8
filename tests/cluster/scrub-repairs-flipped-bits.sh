#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# Bits that flip on a node's disk, in shards, their tails, records and headers, and a file that is cut,
# are named by --verify, found and repaired by scrubbing without anybody reading them, and the shards
# made are good: with two other nodes gone everything is read back.

set -euo pipefail
# shellcheck source=tests/lib/cluster.sh
. "$(dirname "$0")/../lib/cluster.sh"

FILES=8
NODE=3
GROUP=$((32 * 4096)) # at 4+2 with rows of 4 KiB: docs/store-format.md

# flip FILE OFFSET: flip one bit.
flip() {
  local byte
  byte=$(od -An -v -tu1 -j "$2" -N1 "$1")
  # shellcheck disable=SC2059
  printf "\\x$(printf %02x $((byte ^ 16)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# verify WANTED: --verify of the node ends with this status; what it says is in $RUN/verify.
verify() {
  local status=0
  "$ROZO_BIN/storaged/rozo-storaged" --config "$RUN/cluster.json" --node "$NODE" --verify \
    >"$RUN/verify" 2>&1 || status=$?
  [ "$status" = "$1" ] || die "--verify ended with $status instead of $1: $(cat "$RUN/verify")"
}
says() { grep -qE -- "$1" "$RUN/verify" || die "--verify should say '$1', but says: $(cat "$RUN/verify")"; }
client() { cluster exec "$ROZO_BIN/tests/cluster/gateway_client" "$RUN/cluster.json" "$@"; }

test_begin
cluster start --fsal none --scrub 200
client write-files $FILES
verify 2
says 'stop that one first'
cluster kill $NODE TERM
verify 0
says "node $NODE: $FILES store files, .* 0 problems"

mapfile -t sides < <(find "$RUN/node$NODE/d1/shards" -name '*.a' | sort)
[ ${#sides[@]} = $FILES ] || die "$FILES files, but ${#sides[@]} store files"
# In each of some files: row of block 3, tail of block 5, record of block 7, row of block 40 (group 1).
for side in "${sides[@]:0:5}"; do
  flip "$side" $((4096 + 3 * 4096 + 777))
  flip "$side" $((128 + 5 * 128 + 56))
  flip "$side" $((128 + 7 * 128 + 2))
  flip "$side" $((GROUP + 4096 + 9 * 4096 + 1))
done
flip "${sides[5]}" 20                                  # the header of page 0
flip "${sides[6]}" $((GROUP + 8))                      # that of group 1
truncate -s $((2 * GROUP + 4096 + 100)) "${sides[7]}" # rows of blocks 62 and 63, the last ones
verify 1
says "${sides[0]}: block 3: its bytes do not agree with their CRC"
says "${sides[1]}: block 5: its bytes do not agree with their CRC"
says "${sides[2]}: block 7: its record is damaged"
says "${sides[4]}: block 40: its bytes do not agree with their CRC"
says "${sides[5]}: the header of page 0 is damaged"
says "${sides[6]}: the header of group 1 is damaged"
says "${sides[7]}: blocks 62 to 63: the file is cut short in its row"

started=$(wc -l <"$RUN/log/node$NODE.log")
cluster start-node $NODE
since() { tail -n "+$((started + 1))" "$RUN/log/node$NODE.log"; }
# The first pass may come before the other nodes are connected; the last word counts.
all_repaired() { since | grep 'scrub: pass done' | tail -n 1 | grep -q 'left 0,'; }
wait_until 60 all_repaired || die "not repaired: $(since | grep 'scrub: ' | tail -n 5)"
[ "$(since | grep -c ': repaired')" -ge $((5 * 4 + 2)) ] || die "too few blocks repaired"
since | grep "${sides[0]}: found in block 3 " >/dev/null || die "the log does not name what was found"

cluster kill $NODE TERM
verify 0
says "node $NODE: $FILES store files, $((FILES * 64)) blocks, .* 0 problems"
cluster start-node $NODE
cluster kill 1
cluster kill 5
client read-files $FILES
