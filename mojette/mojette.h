/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The Mojette erasure code: k rows of user bytes to n = k + m shards, and back
 * from any k of them.
 *
 * Conventions of draft-haynes-nfsv4-flexfiles-v2, "Mojette Transform Encoding":
 * elements are 8 bytes and are combined by XOR; a grid has k rows and
 * P = row_bytes / 8 columns; projection directions are (p, 1) with p ascending
 * and never 0; bin b of direction p is the XOR of element (row, col) over
 * col + row * p - off = b, where off = min(0, p * (k - 1)); a projection has
 * |p| * (k - 1) + P bins, stored ascending, without a header. XOR does not care
 * for byte order, so data bytes are used as they lie.
 *
 * Nothing here allocates, locks, does I/O or keeps state: every function may be
 * called from any thread. Rows and shards need no alignment; 64-byte aligned
 * buffers are fastest.
 */
#ifndef ROZO_MOJETTE_H
#define ROZO_MOJETTE_H

#include <stddef.h>
#include <stdint.h>

#define MOJETTE_K_MIN 2
#define MOJETTE_K_MAX 16
#define MOJETTE_M_MIN 1
#define MOJETTE_M_MAX 8
#define MOJETTE_N_MAX (MOJETTE_K_MAX + MOJETTE_M_MAX)
#define MOJETTE_ROW_BYTES_MIN 8
#define MOJETTE_ROW_BYTES_MAX 65536

/* Which shards are stored. The numbers are part of on-disk and on-wire formats.
 */
enum mojette_form {
	/* All n shards are projections. */
	MOJETTE_NON_SYSTEMATIC = 0,
	/* Shards 0..k-1 are the rows themselves, k..n-1 are m projections. */
	MOJETTE_SYSTEMATIC = 1,
};

/* A code: the form and the protection k + m. Plain data, copied freely. */
struct mojette_code {
	uint8_t form; /* enum mojette_form */
	uint8_t k; /* rows, and shards needed to decode */
	uint8_t m; /* shards that may be lost */
};

/*
 * Checks that form, k and m are in range.
 * Returns 0, or -EINVAL.
 */
int mojette_code_check(const struct mojette_code *code);

/*
 * The row length for a block of length_bytes user bytes (1 .. k *
 * row_bytes_max): the grid of a short last block is cut to ceil(length / k),
 * rounded up to a whole element. Returns bytes, a multiple of 8, at least 8 and
 * at most row_bytes_max.
 */
size_t mojette_row_bytes(
	const struct mojette_code *code, size_t length_bytes, size_t row_bytes_max);

/* The direction p of a shard's projection; 0 for a plain row of the systematic
 * form. */
int mojette_direction(const struct mojette_code *code, unsigned int shard);

/* The length in bytes of one shard of a grid with rows of row_bytes. */
size_t mojette_shard_bytes(const struct mojette_code *code, unsigned int shard, size_t row_bytes);

/* The largest mojette_shard_bytes() - row_bytes over all shards of the code. */
size_t mojette_tail_bytes_max(const struct mojette_code *code);

/*
 * Encodes one grid.
 * rows: k pointers to row_bytes bytes each.
 * shards: n pointers to room for mojette_shard_bytes() each; NULL where a shard
 * is not wanted. Rows and shards must not overlap. Returns 0, or -EINVAL for a
 * bad code or a row_bytes that is not a multiple of 8 in MOJETTE_ROW_BYTES_MIN
 * .. MOJETTE_ROW_BYTES_MAX.
 */
int mojette_encode(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *rows,
	uint8_t *const *shards);

/*
 * The CRC-32C of every shard of a grid, from those of its rows, without reading a byte: a CRC is
 * linear as the code is. One more thing speaks for it: a shard that was encoded wrongly does not
 * match such a CRC.
 * row_crc: k CRC-32C as in RFC 3720 section 12.1 (begun with and inverted by all ones), each of
 * row_bytes bytes; shard_crc: room for n. Returns 0, or -EINVAL as mojette_encode(). With the
 * carry-less multiplication of x86-64 a small part of the time that reading the shards takes;
 * without it about as long.
 */
int mojette_shard_crcs(const struct mojette_code *code, size_t row_bytes, const uint32_t *row_crc,
	uint32_t *shard_crc);

/* For mojette_encode_with(). */
enum mojette_encode_flag {
	/*
	 * The shards will not be read soon, or are larger than the caches: write them past the
	 * caches. For shards that come from and go to memory this saves reading what is
	 * overwritten; for those that are read again at once, as by a CRC or by write(), it is
	 * slower. Only shards that all are 64-byte aligned are written so, and not for every code.
	 */
	MOJETTE_PAST_CACHES = 1,
};

/*
 * mojette_encode() with flags, the sum of enum mojette_encode_flag; the bytes are the same.
 * Stores are ordered as ordinary ones when it returns. Returns as mojette_encode(), or -EINVAL for
 * an unknown flag.
 */
int mojette_encode_with(const struct mojette_code *code, size_t row_bytes,
	const uint8_t *const *rows, uint8_t *const *shards, unsigned int flags);

/*
 * Which k shards decode fastest.
 * at_hand: bit i set where shard i can be had (higher bits are ignored);
 * *chosen: the k of them to fetch, and the ones that mojette_decode() would use
 * if it were given all of at_hand. Returns 0, -EINVAL for a bad code, or
 * -ENODATA if fewer than k shards are at hand; *chosen is then left as it was.
 */
int mojette_choose(const struct mojette_code *code, uint32_t at_hand, uint32_t *chosen);

/*
 * The kernel in use: "portable", "avx2" or "avx512". It is chosen when the
 * program starts, the best that the CPU has, unless the environment variable
 * ROZO_MOJETTE_KERNEL names one (for tests and measurements). All kernels give
 * the same bytes.
 */
const char *mojette_kernel_name(void);

/* Bytes of scratch that mojette_decode() and mojette_rebuild() need for this
 * code and row. */
size_t mojette_scratch_bytes(const struct mojette_code *code, size_t row_bytes);

/*
 * Decodes one grid from any k shards.
 * shards: n pointers, NULL where the shard is not at hand; if more than k are
 * given the function chooses the k that decode fastest. The shards are not
 * modified. rows: k pointers to room for row_bytes bytes each, NULL where a row
 * is not wanted. In the systematic form a row that is at hand is copied, unless
 * rows[r] is shards[r] itself; otherwise rows, shards and scratch must not
 * overlap. scratch: mojette_scratch_bytes() bytes, any alignment, contents
 * undefined before and after. Returns 0, -EINVAL as mojette_encode(), or
 * -ENODATA if fewer than k shards are given. A wrong shard gives wrong rows:
 * check each shard's CRC first.
 */
int mojette_decode(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *shards,
	uint8_t *const *rows, void *scratch);

/*
 * Computes one shard from any k others.
 * shards: as for mojette_decode(); target: the shard to make; out: room for its
 * bytes, no overlap. shards[target] is not looked at. Rows are made in scratch,
 * and none if the target can be summed directly from shards at hand. Returns as
 * mojette_decode(); also -EINVAL if there is no shard `target`.
 */
int mojette_rebuild(const struct mojette_code *code, size_t row_bytes, const uint8_t *const *shards,
	unsigned int target, uint8_t *out, void *scratch);

/*
 * Applies an update of part of one row to one shard: XORs delta = old ^ new
 * into the place where bytes offset_bytes .. offset_bytes + delta_bytes of row
 * `row` are projected. offset_bytes and delta_bytes are multiples of 8 inside
 * the row. In the systematic form a plain row other than `row` is left as it
 * is. Returns 0, or -EINVAL for a bad code, row_bytes, row, shard or range.
 */
int mojette_delta(const struct mojette_code *code, size_t row_bytes, unsigned int row,
	size_t offset_bytes, const uint8_t *delta, size_t delta_bytes, unsigned int shard,
	uint8_t *shard_bytes);

#endif
