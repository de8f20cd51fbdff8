#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later
"""Writes mojette_vectors.h: CRC-32C of every shard of fixed grids, from the definition alone.

This is a second implementation of the encoder, as plain as it can be made, in another language and
sharing nothing with the library. The output is checked in and must never change: it pins the format
of stored shards. Run:  python3 mojette_vectors.py > mojette_vectors.h
"""

CODES = [(2, 1), (3, 1), (4, 2), (5, 3), (8, 4), (2, 8), (16, 1), (16, 8)]
ROW_BYTES = [8, 1000, 4096]
MASK = (1 << 64) - 1


def splitmix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def grid(k, columns):
    """Element (row, col) of the test grid."""
    return [[splitmix(row << 32 | col) for col in range(columns)] for row in range(k)]


def directions(count):
    half = count // 2
    return list(range(-half, 0)) + list(range(1, half + count % 2 + 1))


def projection(rows, p):
    k, columns = len(rows), len(rows[0])
    off = min(0, p * (k - 1))
    bins = [0] * (abs(p) * (k - 1) + columns)
    for row in range(k):
        for col in range(columns):
            bins[col + row * p - off] ^= rows[row][col]
    return bins


CRC_TABLE = []
for i in range(256):
    for _ in range(8):
        i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
    CRC_TABLE.append(i)


def crc32c(elements):
    crc = 0xFFFFFFFF
    for byte in b"".join(e.to_bytes(8, "little") for e in elements):
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def main():
    assert crc32c([int.from_bytes(b"12345678", "little")]) == 0x6087809A
    print("/* SPDX-License-Identifier: LGPL-3.0-or-later */")
    print("/* Made by mojette_vectors.py; see there. Never edit: this is the stored format. */")
    print("static const struct {")
    print("\tuint8_t form, k, m;")
    print("\tuint16_t row_bytes;")
    print("\tuint32_t crc[MOJETTE_N_MAX];")
    print("} vectors[] = {")
    for k, m in CODES:
        for row_bytes in ROW_BYTES:
            rows = grid(k, row_bytes // 8)
            for form in (0, 1):
                if form == 0:
                    shards = [projection(rows, p) for p in directions(k + m)]
                else:
                    shards = rows + [projection(rows, p) for p in directions(m)]
                crcs = ", ".join("0x%08x" % crc32c(s) for s in shards)
                print("\t{%d, %d, %d, %d, {%s}}," % (form, k, m, row_bytes, crcs))
    print("};")


main()
