/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The embedded store's log and checkpoint: what a killed store leaves, damage in each of its
 * files, files that do not belong together, full disks, I/O errors, transactions that are larger
 * than the log, and backups. A killed store is a copy of the files of one that is open.
 */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exportd/kv.h"
#include "exportd/kv_checkpoint.h"
#include "exportd/redo_log.h"
#include "exportd_fixture.h"
#include "power_io.h"
#include "rpc/crc32c.h"

#define LOG_BYTES (64u << 10)
#define RECORDS (LOG_BYTES / REDO_LOG_UNIT - 1) /* short ones that fit in a file */
#define MAP_BYTES (64u << 20)

static char directory[64]; /* of the store that a test works with */
static char copy[64]; /* of the killed one */
static char other[64]; /* of a third one */
static struct kv *kv;

/* -------- directories and files -------- */

static void make_directory(char *path)
{
	snprintf(path, 64, "%s/rozo-redo-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(path));
}

static void empty_directory(const char *path)
{
	DIR *listing = opendir(path);
	char name[400];

	for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(name);
	}
	closedir(listing);
}

static void copy_file(const char *from, const char *to, const char *name)
{
	static uint8_t bytes[1 << 20];
	char path[400];
	ssize_t got;
	int source, target;

	snprintf(path, sizeof(path), "%s/%s", from, name);
	source = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "%s/%s", to, name);
	target = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CU_ASSERT_FATAL(source >= 0 && target >= 0);
	while ((got = read(source, bytes, sizeof(bytes))) > 0)
		CU_ASSERT_EQUAL_FATAL(write(target, bytes, (size_t)got), got);
	CU_ASSERT_EQUAL_FATAL(got, 0);
	close(source);
	close(target);
}

static const char *const store_files[] = {"data.mdb", "checkpoint", "redo-0.log", "redo-1.log"};

/* What is left of the store in `directory` if it is killed now. */
static void kill_into(const char *to)
{
	empty_directory(to);
	for (size_t i = 0; i < sizeof(store_files) / sizeof(store_files[0]); i++)
		copy_file(directory, to, store_files[i]);
}

static void remove_file(const char *in, const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", in, name);
	CU_ASSERT_EQUAL(unlink(path), 0);
}

static int open_file(const char *in, const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", in, name);
	int file = open(path, O_RDWR);
	CU_ASSERT_FATAL(file >= 0);
	return file;
}

static void flip_bit(const char *in, const char *name, uint64_t offset)
{
	int file = open_file(in, name);
	uint8_t byte;

	CU_ASSERT_EQUAL_FATAL(pread(file, &byte, 1, (off_t)offset), 1);
	byte ^= 4;
	CU_ASSERT_EQUAL_FATAL(pwrite(file, &byte, 1, (off_t)offset), 1);
	close(file);
}

static bool same_file(const char *in, const char *as, const char *name)
{
	static uint8_t left[1 << 20], right[1 << 20];
	int a = open_file(in, name), b = open_file(as, name);
	ssize_t got;
	bool same = true;

	while ((got = read(a, left, sizeof(left))) > 0)
		same = same && read(b, right, sizeof(right)) == got &&
		       memcmp(left, right, (size_t)got) == 0;
	close(a);
	close(b);
	return same;
}

/* -------- stores -------- */

static int open_in(const char *path, struct kv **opened)
{
	return kv_lmdb_open_with_log(path, MAP_BYTES, LOG_BYTES, opened);
}

static int put_number(struct kv *store, uint64_t number, size_t bytes)
{
	char key[32], *value = malloc(bytes);
	struct kv_txn *txn;
	int result;

	memset(value, (int)(number & 0xff), bytes);
	result = kv_begin(store, KV_WRITE, NULL, &txn);
	if (result == 0) {
		snprintf(key, sizeof(key), "n%08llu", (unsigned long long)number);
		result = kv_put(txn, (struct kv_bytes){key, 9}, (struct kv_bytes){value, bytes});
		if (result == 0)
			result = kv_commit(txn);
		else
			kv_abort(txn);
	}
	free(value);
	return result;
}

static int count_one(void *context, struct kv_bytes key, struct kv_bytes value)
{
	uint64_t *count = context;
	char expected[32];

	snprintf(expected, sizeof(expected), "n%08llu", (unsigned long long)*count);
	if (key.bytes != 9 || memcmp(key.data, expected, 9) != 0 ||
		((const uint8_t *)value.data)[value.bytes - 1] != (uint8_t)*count)
		return -EBADMSG;
	++*count;
	return 0;
}

/* How many numbers there are, from 0 on and without a gap; or UINT64_MAX. */
static uint64_t numbers_in(struct kv *store)
{
	struct kv_txn *txn;
	uint64_t count = 0;
	int result;

	CU_ASSERT_EQUAL_FATAL(kv_begin(store, KV_READ, NULL, &txn), 0);
	result = kv_scan(txn, (struct kv_bytes){"n", 1}, 1, count_one, &count);
	kv_abort(txn);
	return result == 0 ? count : UINT64_MAX;
}

static void put_numbers(uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		CU_ASSERT_EQUAL_FATAL(put_number(kv, i, 100), 0);
}

/* Opens what is in a directory, tells how many numbers there are, and closes it. */
static uint64_t numbers_of(const char *path)
{
	struct kv *store = NULL;
	uint64_t count;

	if (open_in(path, &store) != 0)
		return UINT64_MAX;
	count = numbers_in(store);
	kv_close(store);
	return count;
}

static int error_of(const char *path)
{
	struct kv *store = NULL;
	int result = open_in(path, &store);

	kv_close(store);
	return result;
}

static void open_all(void)
{
	make_directory(directory);
	make_directory(copy);
	make_directory(other);
	CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
}

static void close_all(void)
{
	kv_close(kv);
	kv = NULL;
	power_io_fail_no_more();
	for (uint32_t i = 0; i < 3; i++) {
		char *path = i == 0 ? directory : i == 1 ? copy : other;

		empty_directory(path);
		CU_ASSERT_EQUAL(rmdir(path), 0);
	}
}

static void reopen(void)
{
	kv_close(kv);
	kv = NULL;
	CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
}

/* Where a record is. Returns false if there is none with this number. */
static bool find_record(const char *in, uint64_t sequence, uint32_t *number, uint64_t *offset,
	struct redo_log_header *found)
{
	struct redo_log_header header;

	for (*number = 0; *number < 2; ++*number) {
		int file = open_file(in, *number == 0 ? "redo-0.log" : "redo-1.log");

		for (*offset = 0;
			pread(file, &header, sizeof(header), (off_t)*offset) == sizeof(header);
			*offset += REDO_LOG_UNIT) {
			if (le64toh(header.magic) == REDO_LOG_MAGIC &&
				le64toh(header.sequence) == sequence) {
				*found = header;
				close(file);
				return true;
			}
		}
		close(file);
	}
	return false;
}

static const char *log_name(uint32_t number)
{
	return number == 0 ? "redo-0.log" : "redo-1.log";
}

/* -------- tests -------- */

static void a_killed_store_has_everything(void)
{
	/* Through several turns of the log, and in the middle of one. */
	for (uint64_t count = 0; count < 5 * RECORDS; count += 7) {
		put_numbers(count, count + 7);
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), count + 7);
		/* Once more, now that it was closed. */
		CU_ASSERT_EQUAL(numbers_of(copy), count + 7);
	}
	kv_close(kv);
	kv = NULL;
	CU_ASSERT_EQUAL(numbers_of(directory), (5 * RECORDS + 6) / 7 * 7);
}

static void what_was_logged_only_is_there(void)
{
	/* Killed between the flush of the log and LMDB's commit: data.mdb is one behind. */
	put_numbers(0, 5);
	kill_into(copy);
	put_numbers(5, 6);
	copy_file(directory, copy, "redo-0.log");
	CU_ASSERT_EQUAL(numbers_of(copy), 6);
}

static void a_torn_tail_is_left_out(void)
{
	struct redo_log_header header;
	uint64_t offset;
	uint32_t number;

	put_numbers(0, 6);
	kill_into(copy);
	CU_ASSERT_FATAL(find_record(copy, 6, &number, &offset, &header));
	/* The next record, of which only the beginning got to the disk. */
	int file = open_file(copy, log_name(number));
	header.sequence = htole64(7);
	header.payload_bytes = htole32(9000);
	header.crc32c = htole32(rozo_crc32c(&header, offsetof(struct redo_log_header, crc32c)));
	CU_ASSERT_EQUAL(pwrite(file, &header, sizeof(header), (off_t)(offset + REDO_LOG_UNIT)),
		sizeof(header));
	close(file);
	CU_ASSERT_EQUAL(numbers_of(copy), 6);
}

static void damage_in_the_log_is_refused(void)
{
	struct redo_log_header header;
	uint64_t offset;
	uint32_t number;

	put_numbers(0, 9);
	for (uint64_t sequence = 1; sequence <= 9; sequence++) {
		for (uint64_t where = 0; where <= 70; where += 7) {
			kill_into(copy);
			CU_ASSERT_FATAL(find_record(copy, sequence, &number, &offset, &header));
			flip_bit(copy, log_name(number), offset + where);
			/* The last one: LMDB has it, so it was there. */
			CU_ASSERT_EQUAL(error_of(copy), sequence < 9 ? -EBADMSG : -EINVAL);
			/* It is not the worse for having been tried. */
			CU_ASSERT_EQUAL(error_of(copy), sequence < 9 ? -EBADMSG : -EINVAL);
			flip_bit(copy, log_name(number), offset + where);
			CU_ASSERT_EQUAL(numbers_of(copy), 9);
		}
	}
	/* What has been superseded may be damaged. */
	put_numbers(9, 4 * RECORDS);
	reopen();
	kill_into(copy);
	for (uint64_t at = 0; at < LOG_BYTES; at += REDO_LOG_UNIT) {
		flip_bit(copy, "redo-0.log", at + 9);
		flip_bit(copy, "redo-1.log", at + 9);
	}
	CU_ASSERT_EQUAL(numbers_of(copy), 4 * RECORDS);
}

/* True if a record was written when this checkpoint was durable. */
static bool is_named(const char *in, uint64_t serial)
{
	struct redo_log_header header;
	bool named = false;

	for (uint32_t i = 0; i < 2; i++) {
		int file = open_file(in, log_name(i));

		for (uint64_t at = 0;
			pread(file, &header, sizeof(header), (off_t)at) == sizeof(header);
			at += REDO_LOG_UNIT)
			named = named || (le64toh(header.magic) == REDO_LOG_MAGIC &&
						 le64toh(header.checkpoint) == serial);
		close(file);
	}
	return named;
}

/* The copy of the checkpoint with the larger serial, of those with a header. */
static uint32_t newest_copy(const char *in, uint64_t *serial)
{
	struct kv_checkpoint_header headers[2];
	int file = open_file(in, "checkpoint");

	for (uint32_t i = 0; i < 2; i++)
		CU_ASSERT_EQUAL(pread(file, &headers[i], sizeof(headers[i]),
					(off_t)i * KV_CHECKPOINT_COPY_BYTES),
			sizeof(headers[i]));
	close(file);
	*serial = le64toh(headers[1].serial);
	if (*serial > le64toh(headers[0].serial))
		return 1;
	*serial = le64toh(headers[0].serial);
	return 0;
}

static void damage_in_the_checkpoint(void)
{
	uint64_t begin, newest, serial, found, refused = 0;
	bool named;

	for (uint64_t count = 0; count < 4 * RECORDS; count += 5) {
		put_numbers(count, count + 5);
		for (uint64_t where = 0; where <= 8400; where += 120) {
			kill_into(copy);
			newest = newest_copy(copy, &serial);
			named = is_named(copy, serial);
			begin = newest * KV_CHECKPOINT_COPY_BYTES;
			/* Between header and pages there is nothing. */
			if (where >= sizeof(struct kv_checkpoint_header) &&
				where < KV_CHECKPOINT_META_OFFSET)
				continue;
			flip_bit(copy, "checkpoint", begin + where);
			found = numbers_of(copy);
			/* The one before leads to the same until a record names the newest. */
			CU_ASSERT(found == (named ? UINT64_MAX : count + 5) ||
				  (!named && found == UINT64_MAX));
			refused += found == UINT64_MAX;
			if (where % 960 == 0) {
				/* The other one does not matter. */
				kill_into(copy);
				flip_bit(copy, "checkpoint",
					(newest ^ 1) * KV_CHECKPOINT_COPY_BYTES + where);
				CU_ASSERT_EQUAL(numbers_of(copy), count + 5);
			}
			if (count > 2 * RECORDS && where > 1000)
				break;
		}
	}
	CU_ASSERT(refused > 100);
	kill_into(copy);
	flip_bit(copy, "checkpoint", 20);
	flip_bit(copy, "checkpoint", KV_CHECKPOINT_COPY_BYTES + 20);
	CU_ASSERT_EQUAL(error_of(copy), -EBADMSG);
	/* After a clean close the one before leads to the same, by way of the log. */
	kv_close(kv);
	kv = NULL;
	kill_into(copy);
	newest = newest_copy(copy, &serial);
	flip_bit(copy, "checkpoint", newest * KV_CHECKPOINT_COPY_BYTES + 20);
	CU_ASSERT_EQUAL(numbers_of(copy), (4 * RECORDS + 4) / 5 * 5);
}

static void what_does_not_belong_together_is_refused(void)
{
	struct kv *another = NULL;

	put_numbers(0, 5);
	kill_into(other);
	put_numbers(5, 3 * RECORDS);
	/* Each file missing. */
	kill_into(copy);
	remove_file(copy, "redo-0.log");
	CU_ASSERT_EQUAL(error_of(copy), -ENOENT);
	kill_into(copy);
	remove_file(copy, "redo-1.log");
	CU_ASSERT_EQUAL(error_of(copy), -ENOENT);
	kill_into(copy);
	remove_file(copy, "data.mdb");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	CU_ASSERT_EQUAL(access(copy, F_OK), 0);
	kill_into(copy);
	remove_file(copy, "checkpoint");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	/* An older data.mdb, and a newer one. */
	kill_into(copy);
	copy_file(other, copy, "data.mdb");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	kill_into(copy);
	copy_file(directory, other, "data.mdb");
	CU_ASSERT_EQUAL(error_of(other), -EINVAL);
	/* Of another database. */
	empty_directory(other);
	CU_ASSERT_EQUAL_FATAL(open_in(other, &another), 0);
	for (uint64_t i = 0; i < 3 * RECORDS; i++)
		CU_ASSERT_EQUAL(put_number(another, i, 100), 0);
	kill_into(copy);
	copy_file(other, copy, "data.mdb");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	/* It was not touched: it is good where it belongs. */
	CU_ASSERT(same_file(copy, other, "data.mdb"));
	kill_into(copy);
	copy_file(other, copy, "checkpoint");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	kill_into(copy);
	copy_file(other, copy, "redo-0.log");
	copy_file(other, copy, "redo-1.log");
	CU_ASSERT_EQUAL(error_of(copy), -EINVAL);
	kv_close(another);
	/* All of it together is right. */
	kill_into(copy);
	CU_ASSERT_EQUAL(numbers_of(copy), 3 * RECORDS);
	/* And so is data.mdb alone, if it was closed. */
	kv_close(kv);
	kv = NULL;
	kill_into(copy);
	remove_file(copy, "checkpoint");
	remove_file(copy, "redo-0.log");
	remove_file(copy, "redo-1.log");
	CU_ASSERT_EQUAL(numbers_of(copy), 3 * RECORDS);
}

/* Two that began as one, and went different ways under the same numbers. */
static void logs_of_two_copies_are_told_apart(void)
{
	struct kv *second = NULL;

	put_numbers(0, 5);
	kill_into(copy);
	kv_close(kv);
	kv = NULL;
	for (size_t i = 0; i < sizeof(store_files) / sizeof(store_files[0]); i++)
		copy_file(copy, directory, store_files[i]);
	CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
	put_numbers(5, 10);
	CU_ASSERT_EQUAL_FATAL(open_in(copy, &second), 0);
	for (uint64_t i = 5; i < 9; i++)
		CU_ASSERT_EQUAL(put_number(second, i, 200), 0);
	for (uint32_t i = 0; i < 2; i++) {
		empty_directory(other);
		copy_file(copy, other, "data.mdb");
		copy_file(copy, other, "checkpoint");
		copy_file(copy, other, "redo-0.log");
		copy_file(copy, other, "redo-1.log");
		if (i == 1) {
			copy_file(directory, other, "redo-0.log");
			copy_file(directory, other, "redo-1.log");
		}
		CU_ASSERT_EQUAL(error_of(other), i == 0 ? 0 : -EINVAL);
	}
	kv_close(second);
}

/* A log that was begun and not finished when the power failed does not count. */
static void making_a_log_may_be_cut_short(void)
{
	put_numbers(0, 5);
	kv_close(kv);
	kv = NULL;
	remove_file(directory, "checkpoint");
	remove_file(directory, "redo-1.log");
	int file = open_file(directory, "redo-0.log");
	CU_ASSERT_EQUAL(ftruncate(file, 0), 0);
	CU_ASSERT_EQUAL(ftruncate(file, 12345), 0);
	close(file);
	CU_ASSERT_EQUAL(numbers_of(directory), 5);
}

static void a_copy_made_by_lmdb_is_a_backup(void)
{
	int status;
	pid_t child;

	put_numbers(0, 3 * RECORDS);
	empty_directory(copy);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		MDB_env *env;
		int result = mdb_env_create(&env);

		if (result == 0)
			result = mdb_env_open(env, directory, MDB_RDONLY, 0600);
		if (result == 0)
			result = mdb_env_copy(env, copy);
		_exit(result == 0 ? 0 : 1);
	}
	put_numbers(3 * RECORDS, 3 * RECORDS + 1);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* With the log and the checkpoint of this moment it is brought up to date. */
	kill_into(other);
	copy_file(copy, other, "data.mdb");
	CU_ASSERT_EQUAL(numbers_of(other), 3 * RECORDS + 1);
	/* Alone it is what was committed when the copy began. */
	CU_ASSERT(numbers_of(copy) - 3 * RECORDS <= 1);
}

/* Pages that a reader may use are not used again; one that was killed uses none. */
static void a_backup_that_is_killed_holds_nothing(void)
{
	struct stat status;
	char path[400];
	pid_t child;
	int ended;

	put_numbers(0, 1);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		MDB_env *env;
		MDB_txn *reader;
		int result = mdb_env_create(&env);

		if (result == 0)
			result = mdb_env_open(env, directory, MDB_RDONLY, 0600);
		if (result == 0)
			result = mdb_txn_begin(env, NULL, MDB_RDONLY, &reader);
		if (result == 0)
			raise(SIGKILL);
		_exit(1);
	}
	CU_ASSERT_EQUAL(waitpid(child, &ended, 0), child);
	CU_ASSERT(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
	for (uint32_t i = 0; i < 1000; i++)
		CU_ASSERT_EQUAL(put_number(kv, 0, 20000), 0);
	snprintf(path, sizeof(path), "%s/data.mdb", directory);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	CU_ASSERT(status.st_size < 4 << 20);
}

static void a_full_disk_refuses_and_goes_on(void)
{
	struct stat status;
	uint64_t count = 20, kept;
	char path[400];
	int result;

	put_numbers(0, count);
	snprintf(path, sizeof(path), "%s/data.mdb", directory);
	/* No room ahead, then a page that is written in part, or not at all. */
	for (uint32_t round = 0; round < 4; round++) {
		/* The room that was set aside for this run is not known to the next. */
		reopen();
		CU_ASSERT_EQUAL_FATAL(stat(path, &status), 0);
		power_io_fail(POWER_IO_ALLOCATE, "data.mdb", 1, 0, 0, ENOSPC);
		CU_ASSERT_EQUAL(put_number(kv, count, 100), 0); /* fits in free pages */
		count++;
		power_io_fail(POWER_IO_WRITE, "data.mdb", 1, 0,
			(uint64_t)status.st_size + (round % 2) * 5000, ENOSPC);
		result = put_number(kv, count, 200000);
		CU_ASSERT_EQUAL(result, -ENOSPC);
		CU_ASSERT(power_io_fail_no_more() > 0);
		kept = count;
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), kept);
		CU_ASSERT_EQUAL(numbers_in(kv), kept);
		CU_ASSERT_EQUAL(put_number(kv, count, round < 2 ? 100 : 200000), 0);
		count++;
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), count);
	}
	reopen();
	CU_ASSERT_EQUAL(numbers_in(kv), count);
}

/* Nor one that is known to be full only when what is larger than the log's file is in the log. */
static void a_disk_that_a_large_transaction_fills(void)
{
	put_numbers(0, 1);
	CU_ASSERT_EQUAL(put_number(kv, 1, 250000), 0);
	kv_close(kv);
	kv = NULL;
	CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
	/* Its record ends there, at a whole unit; what LMDB writes goes beyond. */
	power_io_fail(POWER_IO_ALLOCATE, "data.mdb", 1, 0, 0, ENOSPC);
	power_io_fail(POWER_IO_WRITE, "", 1, 0, 62 * REDO_LOG_UNIT, ENOSPC);
	CU_ASSERT_EQUAL(put_number(kv, 2, 250000), -ENOSPC);
	CU_ASSERT(power_io_fail_no_more() > 0);
	CU_ASSERT_EQUAL(numbers_in(kv), 2);
	kill_into(copy);
	CU_ASSERT_EQUAL(numbers_of(copy), 2);
	CU_ASSERT_EQUAL(put_number(kv, 2, 250000), 0);
	CU_ASSERT_EQUAL(numbers_in(kv), 3);
	kill_into(copy);
	CU_ASSERT_EQUAL(numbers_of(copy), 3);
}

static void after_an_io_error_nothing_more_is_accepted(void)
{
	static const struct {
		enum power_io_call call;
		const char *file;
	} failures[] = {
		{POWER_IO_WRITE, "redo-0.log"},
		{POWER_IO_FLUSH, "redo-0.log"},
		{POWER_IO_WRITE, "data.mdb"},
		{POWER_IO_FLUSH, "data.mdb"},
		{POWER_IO_WRITE, "checkpoint"},
		{POWER_IO_FLUSH, "checkpoint"},
	};
	uint64_t count = 3;
	int result;

	put_numbers(0, count);
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		power_io_fail(failures[i].call, failures[i].file, 1, 1, 0, EIO);
		/* The checkpoint fails behind our backs, and is waited for by the one after it. */
		result = 0;
		for (uint64_t j = 0; result == 0 && j < 4 * RECORDS; j++) {
			result = put_number(kv, count, 100);
			count += result == 0;
		}
		CU_ASSERT_EQUAL(result, -EIO);
		CU_ASSERT_EQUAL(power_io_fail_no_more(), 1);
		CU_ASSERT_EQUAL(put_number(kv, count, 100), -EIO);
		CU_ASSERT_EQUAL(numbers_in(kv), count);
		/* What was refused does not come back: others have gone by that since. */
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), count);
		reopen();
		CU_ASSERT_EQUAL(numbers_in(kv), count);
		CU_ASSERT_EQUAL(put_number(kv, count, 100), 0);
		count++;
	}
}

/*
 * After a flush that failed the store is opened again, by which it can read what never came to the
 * disk, and the power fails at any moment of that.
 */
static void what_can_be_read_may_not_be_on_the_disk(void)
{
	static const struct {
		enum power_io_call call;
		const char *file;
		unsigned int number; /* of the flushes */
		const char *opening; /* the same while it is opened for the first time, or NULL */
	} failures[] = {
		{POWER_IO_FLUSH, "checkpoint", 1, NULL},
		{POWER_IO_FLUSH, "checkpoint", 2, "checkpoint"},
		{POWER_IO_FLUSH, "redo-0.log", 1, NULL},
		{POWER_IO_FLUSH, "redo-0.log", RECORDS / 2, "data.mdb"},
		{POWER_IO_FLUSH, "redo-1.log", 1, "redo-1.log"},
		{POWER_IO_FLUSH, "data.mdb", 1, NULL},
	};

	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		uint64_t count = 0, closed, opened, wrong = 0;
		int result = 0;

		kv_close(kv);
		kv = NULL;
		empty_directory(directory);
		CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
		power_io_start(directory);
		power_io_fail(failures[i].call, failures[i].file, failures[i].number, 1, 0, EIO);
		while (result == 0 && count < 6 * RECORDS) {
			result = put_number(kv, count, 2000);
			count += result == 0;
		}
		CU_ASSERT_EQUAL(result, -EIO);
		CU_ASSERT_EQUAL(power_io_fail_no_more(), 1);
		kv_close(kv);
		closed = power_io_now();
		if (failures[i].opening != NULL) {
			power_io_fail(POWER_IO_FLUSH, failures[i].opening, 1, 1, 0, EIO);
			CU_ASSERT_EQUAL(open_in(directory, &kv), -EIO);
			CU_ASSERT_EQUAL(power_io_fail_no_more(), 1);
		}
		CU_ASSERT_EQUAL_FATAL(open_in(directory, &kv), 0);
		opened = power_io_now();
		power_io_stop();
		for (uint64_t at = closed; at <= opened; at++)
			for (uint64_t seed = 0; seed < 8; seed++) {
				empty_directory(copy);
				power_io_image(at, seed, copy);
				uint64_t found = numbers_of(copy);
				wrong += found != count;
			}
		CU_ASSERT_EQUAL(wrong, 0);
		if (wrong > 0)
			printf("[%s, %u: %" PRIu64 " of %" PRIu64 "] ", failures[i].file,
				failures[i].number, wrong, 8 * (opened - closed + 1));
	}
}

static void transactions_larger_than_the_log(void)
{
	uint64_t count = 0;
	struct stat status;
	char path[400];

	for (uint32_t i = 0; i < 6; i++) {
		put_numbers(count, count + i);
		count += i;
		CU_ASSERT_EQUAL(put_number(kv, count, 300000 + i), 0);
		count++;
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), count);
		/* No room for the log to grow: found out before anything has happened. */
		power_io_fail(POWER_IO_WRITE, "redo-0.log", 1, 0, 100000, ENOSPC);
		int first = put_number(kv, count, 250000);
		power_io_fail_no_more();
		count += first == 0;
		if (first == 0)
			power_io_fail(POWER_IO_WRITE, "redo-0.log", 1, 0, 100000, ENOSPC);
		int second = put_number(kv, count, 250000);
		power_io_fail_no_more();
		count += second == 0;
		/* The files take turns, but not for what failed. */
		CU_ASSERT((first == 0 && second == -ENOSPC) || (first == -ENOSPC && second == 0));
		/* What was written of it does not keep the disk full. */
		if (second == -ENOSPC) {
			snprintf(path, sizeof(path), "%s/redo-0.log", directory);
			CU_ASSERT_EQUAL(stat(path, &status), 0);
			CU_ASSERT_EQUAL(status.st_size, LOG_BYTES);
		}
		kill_into(copy);
		CU_ASSERT_EQUAL(numbers_of(copy), count);
	}
	CU_ASSERT_EQUAL(numbers_in(kv), count);
	reopen();
	CU_ASSERT_EQUAL(numbers_in(kv), count);
	put_numbers(count, count + 3 * RECORDS);
	for (uint32_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, log_name(i));
		CU_ASSERT_EQUAL(stat(path, &status), 0);
		CU_ASSERT_EQUAL(status.st_size, LOG_BYTES);
	}
}

/* Pages that the last checkpoints may need are not free; a store that runs out gets them back. */
static void a_full_map_gets_its_pages_back(void)
{
	uint64_t refused = 0;
	int result;

	kv_close(kv);
	kv = NULL;
	empty_directory(directory);
	CU_ASSERT_EQUAL_FATAL(kv_lmdb_open_with_log(directory, 1 << 20, 4 << 20, &kv), 0);
	for (uint32_t i = 0; i < 600; i++) {
		result = put_number(kv, 0, 20000);
		if (result == -ENOSPC) {
			refused++;
			result = put_number(kv, 0, 20000);
		}
		CU_ASSERT_EQUAL(result, 0);
	}
	CU_ASSERT(refused > 0);
	CU_ASSERT_EQUAL(numbers_in(kv), 1);
}

static int see_any(void *context, struct kv_bytes key, struct kv_bytes value)
{
	(void)key;
	(void)value;
	++*(uint64_t *)context;
	return 0;
}

static void the_store_has_an_entry_of_its_own(void)
{
	struct kv_bytes own = {"", 1}, longer = {"\0a", 2}, value;
	struct kv_txn *txn;
	uint64_t seen = 0;

	CU_ASSERT_EQUAL_FATAL(kv_begin(kv, KV_WRITE, NULL, &txn), 0);
	CU_ASSERT_EQUAL(kv_put(txn, own, own), -EINVAL);
	CU_ASSERT_EQUAL(kv_put(txn, longer, own), -EINVAL);
	CU_ASSERT_EQUAL(kv_remove(txn, own), -EINVAL);
	CU_ASSERT_EQUAL(kv_get(txn, own, &value), -ENOENT);
	CU_ASSERT_EQUAL(kv_put(txn, (struct kv_bytes){"a", 1}, (struct kv_bytes){0}), 0);
	CU_ASSERT_EQUAL(kv_scan(txn, own, 0, see_any, &seen), 0);
	CU_ASSERT_EQUAL(seen, 1);
	CU_ASSERT_EQUAL(kv_commit(txn), 0);
	kill_into(copy);
	CU_ASSERT_EQUAL(numbers_of(copy), 0);
}

int main(void)
{
	CU_TestInfo tests[] = {
		{"a killed store has everything", a_killed_store_has_everything},
		{"what was logged only is there", what_was_logged_only_is_there},
		{"a torn tail is left out", a_torn_tail_is_left_out},
		{"damage in the log is refused", damage_in_the_log_is_refused},
		{"damage in the checkpoint", damage_in_the_checkpoint},
		{"what does not belong together is refused",
			what_does_not_belong_together_is_refused},
		{"logs of two copies are told apart", logs_of_two_copies_are_told_apart},
		{"making a log may be cut short", making_a_log_may_be_cut_short},
		{"a copy made by LMDB is a backup", a_copy_made_by_lmdb_is_a_backup},
		{"a backup that is killed holds nothing", a_backup_that_is_killed_holds_nothing},
		{"a full disk refuses and goes on", a_full_disk_refuses_and_goes_on},
		{"a disk that a large transaction fills", a_disk_that_a_large_transaction_fills},
		{"after an I/O error nothing more is accepted",
			after_an_io_error_nothing_more_is_accepted},
		{"what can be read may not be on the disk",
			what_can_be_read_may_not_be_on_the_disk},
		{"transactions larger than the log", transactions_larger_than_the_log},
		{"a full map gets its pages back", a_full_map_gets_its_pages_back},
		{"the store has an entry of its own", the_store_has_an_entry_of_its_own},
		CU_TEST_INFO_NULL,
	};
	CU_SuiteInfo suites[] = {
		{"exportd redo log", NULL, NULL, open_all, close_all, tests},
		CU_SUITE_INFO_NULL,
	};

	return fixture_run(suites);
}
