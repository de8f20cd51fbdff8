#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later
# mojette-on-arm64.sh SOURCE GENERATED NATIVE_FUZZ: the codec compiled for arm64, run by QEMU, encodes
# random grids to the bytes that this machine's fastest kernel gives, and decodes them.
# Status 77, a skip, if the cross compiler or QEMU is not installed.
set -euo pipefail

source=$1 generated=$2 native=$3
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed; see ci/setup"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aarch64-linux-gnu-gcc -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fno-strict-aliasing -static \
  -iquote "$source" -I "$source/mojette" -I "$generated" -o "$work/fuzz" \
  "$source"/tests/unit/fuzz_mojette.c "$source"/mojette/{mojette,crc,kernels,portable}.c
digest() { sed -n 's/.*digest of the shards \([0-9a-f]*\),.*/\1/p'; }
here=$("$native" 7 1000 | digest)
there=$(qemu-aarch64 "$work/fuzz" 7 1000 | digest)
echo "digest of 1000 cases: $here here, $there on arm64"
[ -n "$here" ] && [ "$here" = "$there" ]
