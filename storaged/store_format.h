/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What lies on a device: the store file's groups, records and versions (docs/store-format.md).
 *
 *   <device>/rozo-label                                       whose device this is
 *   <device>/shards/<export>/<hash>/<file>.<segment>.{a,b}    the two sides of a store file
 *   <device>/missed/<export>.<file>.<segment>                 has blocks with missed shards
 *
 * A side is a run of groups; block b is number b % R of group b / R:
 *
 *   0        4096                                  4096 + R * row_bytes, rounded up to 4096
 *   +--------+--------+--------+-- ... --+---------+--------+--
 *   | page 0 | row 0  | row 1  |         | row R-1 | page 1 | row R ...
 *   +--------+--------+--------+-- ... --+---------+--------+--
 *
 *   0        128        128 + E    128 + 2E
 *   +--------+----------+----------+-- ... --+     a group page: header, then R records of
 *   | header | record 0 | record 1 |         |     E = 56 + tail, rounded up to 64, bytes;
 *   +--------+----------+----------+-- ... --+     R = (4096 - 128) / E
 *
 * A shard's first row_bytes bytes lie in its row, what is beyond (the tail) in its record. All
 * numbers are little-endian. A record of zeros, and so a page that was never written, is EMPTY.
 * Nothing here does I/O, allocates or locks.
 */
#ifndef ROZO_STORE_FORMAT_H
#define ROZO_STORE_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mojette/mojette.h"
#include "rpc/store.h"

#define STORE_FORMAT 1
#define STORE_PAGE_BYTES 4096
#define STORE_HEADER_BYTES 128
#define STORE_RECORD_ALIGN 64
#define STORE_ROWS_MAX ((STORE_PAGE_BYTES - STORE_HEADER_BYTES) / STORE_RECORD_ALIGN)
#define STORE_ROW_BYTES_MIN 64
#define STORE_SIDES 2

static_assert(STORE_ROWS_MAX <= 64, "a group's rows are the bits of a 64-bit mask");

#define STORE_HEADER_MAGIC UINT64_C(0x64726168536f7a52) /* "RzoShard" as it lies on disk */

/* Bits of store_header.flags; in page 0 of side a only. */
#define STORE_FLAG_SIDE_B 1u /* side b exists and was made durable once */
#define STORE_FLAG_DEGRADED 2u /* made while another device of the node was out of service */
#define STORE_FLAG_CUT                                                                             \
	4u /* side a was lost, and may have gone on behind what was made of it again */

/*
 * The first 128 bytes of a group page. They fit in one 512-byte sector, so that a page is never
 * half old and half new here. Written with every change of the page.
 */
struct store_header {
	uint64_t magic;
	uint32_t format;
	uint32_t export_id;
	uint64_t file_id;
	uint32_t segment;
	uint32_t row_bytes;
	uint8_t form;
	uint8_t k;
	uint8_t m;
	uint8_t shard;
	uint32_t record_bytes;
	uint64_t group; /* which group of the side this is */
	uint8_t side;
	uint8_t unused[3]; /* zero */
	uint32_t flags; /* STORE_FLAG_... */
	uint32_t write_epoch; /* newest the store saw; in page 0 of side a it counts */
	uint32_t unused_2; /* zero */
	uint64_t groups_durable; /* so many groups this side had, at least, when it was last flushed
				  */
	uint64_t refused_generation; /* as write_epoch: newest version that the store promised to */
	uint64_t refused_writer; /* refuse, with all that are older */
	uint8_t unused_3[36]; /* zero */
	uint32_t crc32c; /* of everything before */
};
static_assert(sizeof(struct store_header) == STORE_HEADER_BYTES, "header size");
static_assert(offsetof(struct store_header, crc32c) == STORE_HEADER_BYTES - 4, "header CRC last");

/* store_record.state: each differs from the others, and from zeros and ones, in 16 bits or more. */
#define STORE_RECORD_WRITTEN 0x0f69c35au
#define STORE_RECORD_COMMITTED 0xf0963ca5u
#define STORE_RECORD_LOST 0xffffffffu /* with all its bytes 0xff: it was here once, and is gone */

/*
 * The fixed part of a record; the shard's tail follows. It begins at a multiple of 64, so it never
 * crosses a sector: after a crash it is the old or the new one. state and the missed pair are
 * changed in place and therefore not part of the CRC; a flipped bit shows without it.
 */
struct store_record {
	uint64_t generation;
	uint64_t writer;
	uint64_t block; /* in the segment */
	uint32_t length_bytes; /* user bytes, 0: the block is empty since this version */
	uint32_t shard_bytes;
	uint32_t shard_crc32c;
	uint32_t crc32c; /* of the file's identity and everything above */
	uint32_t state; /* STORE_RECORD_... */
	uint32_t missed; /* bit s: shard s did not get this version */
	uint32_t missed_check; /* ~missed */
	uint32_t unused; /* zero */
};
static_assert(sizeof(struct store_record) == 56, "record size");
static_assert(offsetof(struct store_record, crc32c) == 36, "the CRC covers what is before it");

/* The shape of a store file: what follows from the geometry and the number of the shard. */
struct store_shape {
	struct mojette_code code;
	uint32_t row_bytes;
	uint32_t shard;
	uint32_t tail_bytes; /* of a whole shard */
	uint32_t record_bytes; /* E */
	uint32_t rows; /* R */
	uint64_t group_bytes; /* page and rows */
	uint32_t identity; /* CRC that every record's CRC goes on from */
};

/*
 * Works out the shape of a store file. Returns 0, or -EINVAL if the geometry or the shard is out of
 * range.
 */
int store_shape_init(struct store_shape *shape, const store_file *file,
	const store_geometry *geometry, uint32_t shard);

bool store_shape_equal(const struct store_shape *left, const struct store_shape *right);

store_geometry store_shape_geometry(const struct store_shape *shape);

/* Blocks that a side can hold without its size passing 2^62 bytes. */
uint64_t store_shape_blocks_max(const struct store_shape *shape);

static inline uint64_t store_page_offset(const struct store_shape *shape, uint64_t group)
{
	return group * shape->group_bytes;
}

static inline uint64_t store_row_offset(const struct store_shape *shape, uint64_t block)
{
	return block / shape->rows * shape->group_bytes + STORE_PAGE_BYTES +
	       block % shape->rows * shape->row_bytes;
}

/* The bytes of a shard that lie in its row. */
static inline uint32_t store_row_part(const struct store_shape *shape, uint32_t shard_bytes)
{
	return shard_bytes < shape->row_bytes ? shard_bytes : shape->row_bytes;
}

/* A header in memory, native byte order. */
struct store_header_fields {
	uint64_t group;
	uint32_t side;
	uint32_t flags;
	uint32_t write_epoch;
	uint64_t groups_durable;
	store_version refused;
};

enum store_header_verdict {
	STORE_HEADER_GOOD,
	STORE_HEADER_ZERO, /* never written */
	STORE_HEADER_DAMAGED, /* magic or CRC is wrong */
	STORE_HEADER_NEWER, /* a format that this program does not know */
	STORE_HEADER_FOREIGN, /* sound, but of another store file */
};

/* Puts a header into the page. */
void store_header_put(uint8_t *page, const store_file *file, const struct store_shape *shape,
	const struct store_header_fields *fields);

/*
 * Reads a page's header. *fields and *shape (both may be NULL) are set if the verdict is GOOD; the
 * caller compares shape and group.
 */
enum store_header_verdict store_header_get(const uint8_t *page, const store_file *file,
	struct store_header_fields *fields, struct store_shape *shape);

enum store_record_kind {
	STORE_RECORD_EMPTY,
	STORE_RECORD_GOOD,
	STORE_RECORD_DAMAGED, /* there was something, it cannot be read */
};

/* A record in memory. Everything but kind is meaningful only if kind is GOOD. */
struct store_record_fields {
	enum store_record_kind kind;
	bool committed;
	store_version version;
	uint32_t length_bytes;
	uint32_t shard_bytes;
	uint32_t crc32c;
	uint32_t missed;
};

/* Reads the record of a block out of its group's page. */
void store_record_get(const uint8_t *page, const struct store_shape *shape, uint64_t block,
	struct store_record_fields *fields);

/* Writes a record; tail: the shard's bytes beyond row_bytes, NULL if it has none. */
void store_record_put(uint8_t *page, const struct store_shape *shape, uint64_t block,
	const struct store_record_fields *fields, const uint8_t *tail);

/* Changes only what may change in place. */
void store_record_set_committed(uint8_t *page, const struct store_shape *shape, uint64_t block);
void store_record_set_missed(
	uint8_t *page, const struct store_shape *shape, uint64_t block, uint32_t missed);

/* Makes the record EMPTY. */
void store_record_clear(uint8_t *page, const struct store_shape *shape, uint64_t block);

/* Where the tail of a block's shard lies in the page. */
uint8_t *store_record_tail(uint8_t *page, const struct store_shape *shape, uint64_t block);

/* Fills a page whose contents are gone: every record DAMAGED. */
void store_page_fill_lost(uint8_t *page);

/* Negative, 0 or positive, as left is older than, equal to or newer than right. */
int store_version_compare(store_version left, store_version right);

#endif
