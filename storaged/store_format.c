/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Records and headers of store files, to and from memory (store_format.h).
 *
 * Assumes that pages are 4096 bytes and that a block belongs to the page it is looked up in. Takes
 * no locks, does no I/O.
 */
#include "storaged/store_format.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "rpc/crc32c.h"

/* What the CRC of a record goes on from: a record moved to another file, or read with another
 * geometry, is not sound there. */
struct identity {
	uint64_t file_id;
	uint32_t export_id;
	uint32_t segment;
	uint32_t row_bytes;
	uint8_t form, k, m, shard;
};
static_assert(sizeof(struct identity) == 24, "identity has no padding");

int store_shape_init(struct store_shape *shape, const store_file *file,
	const store_geometry *geometry, uint32_t shard)
{
	struct identity identity;

	if (geometry->form > UINT8_MAX || geometry->k > UINT8_MAX || geometry->m > UINT8_MAX)
		return -EINVAL;
	memset(shape, 0, sizeof(*shape));
	shape->code.form = (uint8_t)geometry->form;
	shape->code.k = (uint8_t)geometry->k;
	shape->code.m = (uint8_t)geometry->m;
	if (mojette_code_check(&shape->code) != 0 || shard >= geometry->k + geometry->m)
		return -EINVAL;
	if (geometry->row_bytes < STORE_ROW_BYTES_MIN ||
		geometry->row_bytes > MOJETTE_ROW_BYTES_MAX || geometry->row_bytes % 8 != 0)
		return -EINVAL;
	shape->row_bytes = geometry->row_bytes;
	shape->shard = shard;
	shape->tail_bytes = (uint32_t)(mojette_shard_bytes(&shape->code, shard, shape->row_bytes) -
				       shape->row_bytes);
	shape->record_bytes = ((uint32_t)sizeof(struct store_record) + shape->tail_bytes +
				      STORE_RECORD_ALIGN - 1) /
			      STORE_RECORD_ALIGN * STORE_RECORD_ALIGN;
	shape->rows = (STORE_PAGE_BYTES - STORE_HEADER_BYTES) / shape->record_bytes;
	shape->group_bytes = STORE_PAGE_BYTES +
			     ((uint64_t)shape->rows * shape->row_bytes + STORE_PAGE_BYTES - 1) /
				     STORE_PAGE_BYTES * STORE_PAGE_BYTES;
	identity = (struct identity){
		.file_id = htole64(file->file_id),
		.export_id = htole32(file->export_id),
		.segment = htole32(file->segment),
		.row_bytes = htole32(shape->row_bytes),
		.form = shape->code.form,
		.k = shape->code.k,
		.m = shape->code.m,
		.shard = (uint8_t)shard,
	};
	shape->identity = rozo_crc32c(&identity, sizeof(identity));
	return 0;
}

bool store_shape_equal(const struct store_shape *left, const struct store_shape *right)
{
	return left->code.form == right->code.form && left->code.k == right->code.k &&
	       left->code.m == right->code.m && left->row_bytes == right->row_bytes &&
	       left->shard == right->shard;
}

store_geometry store_shape_geometry(const struct store_shape *shape)
{
	return (store_geometry){
		.form = shape->code.form,
		.k = shape->code.k,
		.m = shape->code.m,
		.row_bytes = shape->row_bytes,
	};
}

uint64_t store_shape_blocks_max(const struct store_shape *shape)
{
	return (UINT64_C(1) << 62) / shape->group_bytes * shape->rows;
}

void store_header_put(uint8_t *page, const store_file *file, const struct store_shape *shape,
	const struct store_header_fields *fields)
{
	struct store_header header = {
		.magic = htole64(STORE_HEADER_MAGIC),
		.format = htole32(STORE_FORMAT),
		.export_id = htole32(file->export_id),
		.file_id = htole64(file->file_id),
		.segment = htole32(file->segment),
		.row_bytes = htole32(shape->row_bytes),
		.form = shape->code.form,
		.k = shape->code.k,
		.m = shape->code.m,
		.shard = (uint8_t)shape->shard,
		.record_bytes = htole32(shape->record_bytes),
		.group = htole64(fields->group),
		.side = (uint8_t)fields->side,
		.flags = htole32(fields->flags),
		.write_epoch = htole32(fields->write_epoch),
		.groups_durable = htole64(fields->groups_durable),
		.refused_generation = htole64(fields->refused.generation),
		.refused_writer = htole64(fields->refused.writer),
	};

	header.crc32c = htole32(rozo_crc32c(&header, offsetof(struct store_header, crc32c)));
	memcpy(page, &header, sizeof(header));
}

static bool all_bytes(const uint8_t *bytes, size_t size, uint8_t value)
{
	/* If the first is so and each is as the one before it. */
	return size == 0 || (bytes[0] == value && memcmp(bytes, bytes + 1, size - 1) == 0);
}

enum store_header_verdict store_header_get(const uint8_t *page, const store_file *file,
	struct store_header_fields *fields, struct store_shape *shape)
{
	struct store_header header;
	struct store_shape found;
	store_geometry geometry;

	memcpy(&header, page, sizeof(header));
	if (all_bytes(page, sizeof(header), 0))
		return STORE_HEADER_ZERO;
	if (le64toh(header.magic) != STORE_HEADER_MAGIC ||
		le32toh(header.crc32c) !=
			rozo_crc32c(&header, offsetof(struct store_header, crc32c)))
		return STORE_HEADER_DAMAGED;
	if (le32toh(header.format) != STORE_FORMAT)
		return STORE_HEADER_NEWER;
	if (le32toh(header.export_id) != file->export_id ||
		le64toh(header.file_id) != file->file_id ||
		le32toh(header.segment) != file->segment)
		return STORE_HEADER_FOREIGN;
	geometry = (store_geometry){
		.form = header.form,
		.k = header.k,
		.m = header.m,
		.row_bytes = le32toh(header.row_bytes),
	};
	if (store_shape_init(&found, file, &geometry, header.shard) != 0 ||
		found.record_bytes != le32toh(header.record_bytes))
		return STORE_HEADER_DAMAGED;
	if (shape != NULL)
		*shape = found;
	if (fields != NULL) {
		*fields = (struct store_header_fields){
			.group = le64toh(header.group),
			.side = header.side,
			.flags = le32toh(header.flags),
			.write_epoch = le32toh(header.write_epoch),
			.groups_durable = le64toh(header.groups_durable),
			.refused = {.generation = le64toh(header.refused_generation),
				.writer = le64toh(header.refused_writer)},
		};
	}
	return STORE_HEADER_GOOD;
}

static size_t record_offset(const struct store_shape *shape, uint64_t block)
{
	return STORE_HEADER_BYTES + (size_t)(block % shape->rows) * shape->record_bytes;
}

static uint32_t record_crc(const struct store_shape *shape, const struct store_record *record)
{
	return rozo_crc32c_more(shape->identity, record, offsetof(struct store_record, crc32c));
}

void store_record_get(const uint8_t *page, const struct store_shape *shape, uint64_t block,
	struct store_record_fields *fields)
{
	const uint8_t *bytes = page + record_offset(shape, block);
	struct store_record record;

	memset(fields, 0, sizeof(*fields));
	memcpy(&record, bytes, sizeof(record));
	if (all_bytes(bytes, sizeof(record), 0)) {
		fields->kind = STORE_RECORD_EMPTY;
		return;
	}
	fields->kind = STORE_RECORD_DAMAGED;
	if (le32toh(record.crc32c) != record_crc(shape, &record))
		return;
	fields->version.generation = le64toh(record.generation);
	fields->version.writer = le64toh(record.writer);
	fields->length_bytes = le32toh(record.length_bytes);
	fields->shard_bytes = le32toh(record.shard_bytes);
	fields->crc32c = le32toh(record.shard_crc32c);
	fields->missed = le32toh(record.missed);
	fields->committed = le32toh(record.state) == STORE_RECORD_COMMITTED;
	if (le64toh(record.block) != block || fields->version.generation == 0 ||
		fields->shard_bytes > shape->row_bytes + shape->tail_bytes ||
		le32toh(record.missed_check) != ~fields->missed)
		return;
	if (!fields->committed && le32toh(record.state) != STORE_RECORD_WRITTEN)
		return;
	fields->kind = STORE_RECORD_GOOD;
}

void store_record_put(uint8_t *page, const struct store_shape *shape, uint64_t block,
	const struct store_record_fields *fields, const uint8_t *tail)
{
	uint8_t *bytes = page + record_offset(shape, block);
	uint32_t tail_bytes = fields->shard_bytes - store_row_part(shape, fields->shard_bytes);
	struct store_record record = {
		.generation = htole64(fields->version.generation),
		.writer = htole64(fields->version.writer),
		.block = htole64(block),
		.length_bytes = htole32(fields->length_bytes),
		.shard_bytes = htole32(fields->shard_bytes),
		.shard_crc32c = htole32(fields->crc32c),
		.state = htole32(fields->committed ? STORE_RECORD_COMMITTED : STORE_RECORD_WRITTEN),
		.missed = htole32(fields->missed),
		.missed_check = htole32(~fields->missed),
	};

	record.crc32c = htole32(record_crc(shape, &record));
	memcpy(bytes, &record, sizeof(record));
	memset(bytes + sizeof(record), 0, shape->record_bytes - sizeof(record));
	if (tail_bytes > 0)
		memcpy(bytes + sizeof(record), tail, tail_bytes);
}

void store_record_set_committed(uint8_t *page, const struct store_shape *shape, uint64_t block)
{
	uint32_t state = htole32(STORE_RECORD_COMMITTED);

	memcpy(page + record_offset(shape, block) + offsetof(struct store_record, state), &state,
		sizeof(state));
}

void store_record_set_missed(
	uint8_t *page, const struct store_shape *shape, uint64_t block, uint32_t missed)
{
	uint32_t pair[2] = {htole32(missed), htole32(~missed)};

	static_assert(offsetof(struct store_record, missed_check) ==
			      offsetof(struct store_record, missed) + 4,
		"the pair is written as one");
	memcpy(page + record_offset(shape, block) + offsetof(struct store_record, missed), pair,
		sizeof(pair));
}

void store_record_clear(uint8_t *page, const struct store_shape *shape, uint64_t block)
{
	memset(page + record_offset(shape, block), 0, shape->record_bytes);
}

uint8_t *store_record_tail(uint8_t *page, const struct store_shape *shape, uint64_t block)
{
	return page + record_offset(shape, block) + sizeof(struct store_record);
}

void store_page_fill_lost(uint8_t *page)
{
	memset(page, 0xff, STORE_PAGE_BYTES);
}

int store_version_compare(store_version left, store_version right)
{
	if (left.generation != right.generation)
		return left.generation < right.generation ? -1 : 1;
	if (left.writer != right.writer)
		return left.writer < right.writer ? -1 : 1;
	return 0;
}
