/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See volatile_io.h. */
#include "volatile_io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/crc32c.h"
#include "storaged/store_log.h"

#define UNIT 512 /* what changes are tracked by; disks write it as a whole */
#define PAGE 4096
#define DESCRIPTORS_MAX 4096
#define NAME_BUCKETS 128 /* of a machine */

struct inode {
	unsigned int references; /* names of both images, descriptors */
	bool directory;
	bool log; /* the log of a device */
	size_t room; /* of both images; zeros beyond their sizes */
	uint8_t *now, *durable;
	uint64_t now_bytes, durable_bytes;
	uint8_t *dirty; /* for each unit: written since the last flush */
	size_t dirty_first, dirty_end; /* no unit outside of these is */
};

struct name {
	struct name *next; /* of the machine */
	struct name *hash_next;
	struct name *parent; /* NULL: the root */
	struct name *children, *sibling; /* newest first, as the machine's */
	struct inode *now, *durable; /* NULL: not there */
	uint64_t change; /* names that changed together have the same number */
	uint64_t hash;
	size_t length;
	bool log; /* a log's, under one of its names */
	char path[];
};

struct descriptor {
	struct inode *inode; /* NULL: free */
	unsigned int machine;
	uint64_t session; /* of the machine when it was opened */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct machine {
	struct name *names; /* once made they stay, whatever becomes of the file */
	struct name *buckets[NAME_BUCKETS];
	bool off;
	uint64_t session;
	unsigned int countdown; /* 0: none */
	bool countdown_power_loss;
} machines[VOLATILE_MACHINES];
static struct descriptor descriptors[DESCRIPTORS_MAX];
static int first_free; /* descriptors before this one are in use */
static uint64_t random_state, changes;
static enum volatile_flaw flaw;

static _Noreturn void stop(const char *what)
{
	fprintf(stderr, "volatile_io: %s\n", what);
	abort();
}

static void must(bool condition, const char *what)
{
	if (!condition)
		stop(what);
}

static uint64_t random_number(void)
{
	uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* -------- inodes -------- */

static struct inode *inode_make(bool directory)
{
	struct inode *inode = calloc(1, sizeof(*inode));

	must(inode != NULL, "memory");
	inode->directory = directory;
	return inode;
}

static void inode_put(struct inode *inode)
{
	if (inode == NULL || --inode->references > 0)
		return;
#ifndef __clang_analyzer__ /* it does not count references, and takes each put for the last */
	free(inode->now);
	free(inode->durable);
	free(inode->dirty);
	free(inode);
#endif
}

static struct inode *inode_get(struct inode *inode)
{
	if (inode != NULL)
		inode->references++;
	return inode;
}

static void *grow(void *memory, size_t from, size_t to)
{
	uint8_t *bytes = realloc(memory, to);

	must(bytes != NULL, "memory");
	memset(bytes + from, 0, to - from);
	return bytes;
}

static void inode_make_room(struct inode *inode, uint64_t bytes)
{
	size_t room = inode->room ? inode->room : 4 * PAGE;

	if (bytes <= inode->room)
		return;
	while (room < bytes)
		room *= 2;
	inode->now = grow(inode->now, inode->room, room);
	inode->durable = grow(inode->durable, inode->room, room);
	inode->dirty = grow(inode->dirty, inode->room / UNIT, room / UNIT);
	inode->room = room;
}

static void touch(struct inode *inode, uint64_t offset, uint64_t bytes)
{
	size_t first = offset / UNIT, end = (offset + bytes + UNIT - 1) / UNIT;

	if (bytes == 0)
		return;
	memset(inode->dirty + first, 1, end - first);
	if (inode->dirty_first == inode->dirty_end)
		inode->dirty_first = first;
	if (first < inode->dirty_first)
		inode->dirty_first = first;
	if (end > inode->dirty_end)
		inode->dirty_end = end;
}

static void all_clean(struct inode *inode)
{
	if (inode->dirty_first < inode->dirty_end)
		memset(inode->dirty + inode->dirty_first, 0, inode->dirty_end - inode->dirty_first);
	inode->dirty_first = inode->dirty_end = 0;
}

static void inode_flush(struct inode *inode)
{
	inode->durable_bytes = inode->now_bytes;
	for (size_t unit = inode->dirty_first; unit < inode->dirty_end; unit++) {
		if (inode->dirty[unit])
			memcpy(inode->durable + unit * UNIT, inode->now + unit * UNIT, UNIT);
	}
	all_clean(inode);
}

/* What the medium has of one file after power loss. */
static void inode_lose(struct inode *inode)
{
	uint64_t kept = random_number() % 5; /* of 4 pages */
	size_t tear = random_number() % 3 == 0 ? UNIT : PAGE;
	uint64_t size = inode->durable_bytes, largest = inode->now_bytes;

	if (size != largest && kept > 0 && random_number() % 4 != 0)
		size = largest;
	if (size != inode->durable_bytes && size > PAGE && random_number() % 4 == 0) {
		uint64_t page = random_number() % (size / PAGE + 1) * PAGE;
		size = page > inode->durable_bytes ? page : size;
	}
	for (size_t at = 0; at < inode->room; at += tear) {
		bool dirty = false;

		for (size_t unit = at / UNIT; unit < (at + tear) / UNIT; unit++)
			dirty = dirty || inode->dirty[unit];
		if (dirty && random_number() % 4 < kept)
			memcpy(inode->durable + at, inode->now + at, tear);
	}
	inode->durable_bytes = size;
	if (inode->room > size)
		memset(inode->durable + size, 0, inode->room - size);
	if (inode->room > 0)
		memcpy(inode->now, inode->durable, inode->room);
	all_clean(inode);
	inode->now_bytes = size;
}

/* -------- names -------- */

static unsigned int machine_of(const char *path)
{
	unsigned int machine = 0;
	const char *at = path + 1;

	for (; *at >= '0' && *at <= '9' && machine < VOLATILE_MACHINES; at++)
		machine = machine * 10 + (unsigned int)(*at - '0');
	must(path[0] == '/' && at > path + 1 && (*at == '/' || *at == '\0') &&
			machine < VOLATILE_MACHINES,
		path);
	return machine;
}

static uint64_t hash_of(const char *path, size_t length)
{
	uint64_t hash = length, word;

	for (; length >= sizeof(word); path += sizeof(word), length -= sizeof(word)) {
		memcpy(&word, path, sizeof(word));
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 32;
	}
	for (; length > 0; path++, length--)
		hash = (hash ^ (uint8_t)*path) * UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ hash >> 32;
}

static struct name *name_look_up(struct machine *machine, const char *path, size_t length)
{
	uint64_t hash = hash_of(path, length);
	struct name *name = machine->buckets[hash % NAME_BUCKETS];

	while (name != NULL && (name->hash != hash || name->length != length ||
				       memcmp(name->path, path, length) != 0))
		name = name->hash_next;
	return name;
}

static size_t parent_length(const char *path)
{
	return (size_t)(strrchr(path, '/') - path);
}

static struct name *name_find(const char *path, bool make)
{
	struct machine *machine = &machines[machine_of(path)];
	size_t length = strlen(path);
	struct name *name = name_look_up(machine, path, length);

	if (name != NULL || !make)
		return name;
	name = calloc(1, sizeof(*name) + length + 1);
	must(name != NULL, "memory");
	memcpy(name->path, path, length + 1);
	name->length = length;
	name->log = strstr(path, "/" STORE_LOG_NAME) != NULL;
	if (parent_length(path) > 0) {
		name->parent = name_look_up(machine, path, parent_length(path));
		must(name->parent != NULL, "a name in no directory");
		name->sibling = name->parent->children;
		name->parent->children = name;
	}
	name->next = machine->names;
	machine->names = name;
	name->hash = hash_of(path, length);
	name->hash_next = machine->buckets[name->hash % NAME_BUCKETS];
	machine->buckets[name->hash % NAME_BUCKETS] = name;
	return name;
}

static struct inode *look_up(const char *path)
{
	struct name *name = name_find(path, false);

	return name == NULL ? NULL : name->now;
}

static bool is_directory(const struct name *name)
{
	return name != NULL && name->now != NULL && name->now->directory;
}

/* True if the directory that a path is in is there; "/3" is in the root, which always is. */
static bool parent_exists(const char *path)
{
	size_t length = parent_length(path);

	return length == 0 || is_directory(name_look_up(&machines[machine_of(path)], path, length));
}

static void name_set(struct name *name, struct inode *inode, uint64_t change)
{
	inode_get(inode);
	inode_put(name->now);
	name->now = inode;
	name->change = change;
}

static void name_settle(struct name *name, bool keep)
{
	struct inode *inode = keep ? name->now : name->durable;

	inode_get(inode);
	inode_put(name->now);
	name->now = inode;
	inode_get(inode);
	inode_put(name->durable);
	name->durable = inode;
}

static void machine_lose(struct machine *machine)
{
	uint64_t salt = random_number();
	bool removed = true;

	for (struct name *name = machine->names; name != NULL; name = name->next) {
		uint64_t x = (name->change ^ salt) * UINT64_C(0xbf58476d1ce4e5b9);

		if (name->now != name->durable)
			name_settle(name, ((x >> 40) & 1) != 0);
	}
	/* What is in a directory whose making was undone is gone, too. */
	while (removed) {
		removed = false;
		for (struct name *name = machine->names; name != NULL; name = name->next) {
			if (name->now != NULL && name->parent != NULL &&
				!is_directory(name->parent)) {
				name_set(name, NULL, 0);
				name_settle(name, true);
				removed = true;
			}
		}
	}
	for (struct name *name = machine->names; name != NULL; name = name->next) {
		if (name->now != NULL)
			inode_lose(name->now);
	}
}

/* -------- machines -------- */

static void turn_off(struct machine *machine, bool power_loss)
{
	machine->countdown = 0;
	if (machine->off)
		return;
	machine->off = true;
	machine->session++;
	if (power_loss)
		machine_lose(machine);
}

/* Called for each operation that changes or flushes. True if the machine goes off before it. */
static bool goes_off(struct machine *machine)
{
	if (machine->countdown > 0 && --machine->countdown == 0)
		turn_off(machine, machine->countdown_power_loss);
	return machine->off;
}

void volatile_off(unsigned int machine, bool power_loss)
{
	pthread_mutex_lock(&lock);
	turn_off(&machines[machine], power_loss);
	pthread_mutex_unlock(&lock);
}

void volatile_off_after(unsigned int machine, unsigned int number, bool power_loss)
{
	pthread_mutex_lock(&lock);
	machines[machine].countdown = number;
	machines[machine].countdown_power_loss = power_loss;
	pthread_mutex_unlock(&lock);
}

void volatile_on(unsigned int machine)
{
	pthread_mutex_lock(&lock);
	machines[machine].off = false;
	machines[machine].countdown = 0;
	pthread_mutex_unlock(&lock);
}

bool volatile_is_on(unsigned int machine)
{
	pthread_mutex_lock(&lock);
	bool on = !machines[machine].off;
	pthread_mutex_unlock(&lock);
	return on;
}

void volatile_forget_flushes(bool forget)
{
	flaw = forget ? VOLATILE_FORGET_FLUSHES : VOLATILE_SOUND;
}

void volatile_set_flaw(enum volatile_flaw now)
{
	flaw = now;
}

void volatile_reset(uint64_t seed)
{
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < DESCRIPTORS_MAX; i++)
		must(descriptors[i].inode == NULL, "a file is open");
	for (unsigned int i = 0; i < VOLATILE_MACHINES; i++) {
		char path[16];

		while (machines[i].names != NULL) {
			struct name *name = machines[i].names;

			machines[i].names = name->next;
			inode_put(name->now);
			inode_put(name->durable);
			free(name);
		}
		memset(machines[i].buckets, 0, sizeof(machines[i].buckets));
		machines[i].off = false;
		machines[i].countdown = 0;
		snprintf(path, sizeof(path), "/%u", i);
		struct name *root = name_find(path, true);
		name_set(root, inode_make(true), 0);
		name_settle(root, true);
	}
	random_state = seed;
	changes = 0;
	flaw = VOLATILE_SOUND;
	pthread_mutex_unlock(&lock);
}

/* -------- the operations -------- */

static int open_locked(const char *path, int flags)
{
	struct machine *machine = &machines[machine_of(path)];
	struct inode *inode;
	int at;

	if (machine->off)
		return -EIO;
	inode = look_up(path);
	if (inode != NULL && (flags & O_CREAT) != 0 && (flags & O_EXCL) != 0)
		return -EEXIST;
	if (inode != NULL && inode->directory)
		return -EISDIR;
	if (inode == NULL && (flags & O_CREAT) == 0)
		return -ENOENT;
	if (inode == NULL && !parent_exists(path))
		return -ENOENT;
	if (inode == NULL) {
		if (goes_off(machine))
			return -EIO;
		inode = inode_make(false);
		struct name *name = name_find(path, true);
		inode->log = name->log;
		name_set(name, inode, ++changes);
	}
	if ((flags & O_TRUNC) != 0 && inode->now_bytes > 0) {
		memset(inode->now, 0, inode->now_bytes);
		touch(inode, 0, inode->now_bytes);
		inode->now_bytes = 0;
	}
	at = first_free;
	while (at < DESCRIPTORS_MAX && descriptors[at].inode != NULL)
		at++;
	if (at == DESCRIPTORS_MAX)
		stop("too many descriptors");
	first_free = at + 1;
	descriptors[at] = (struct descriptor){
		.inode = inode_get(inode),
		.machine = machine_of(path),
		.session = machine->session,
	};
	return at;
}

static int volatile_open(const char *path, int flags, mode_t mode)
{
	(void)mode;
	pthread_mutex_lock(&lock);
	int descriptor = open_locked(path, flags);
	pthread_mutex_unlock(&lock);
	return descriptor;
}

static void volatile_close(int descriptor)
{
	pthread_mutex_lock(&lock);
	inode_put(descriptors[descriptor].inode);
	descriptors[descriptor].inode = NULL;
	if (descriptor < first_free)
		first_free = descriptor;
	pthread_mutex_unlock(&lock);
}

/* The file behind a descriptor, or NULL if its machine has been off since. Called with the lock. */
static struct inode *usable(int at, bool changes_it)
{
	must(at >= 0 && at < DESCRIPTORS_MAX && descriptors[at].inode != NULL, "bad descriptor");
	struct descriptor *descriptor = &descriptors[at];
	struct machine *machine = &machines[descriptor->machine];

	if (machine->off || machine->session != descriptor->session)
		return NULL;
	if (changes_it && goes_off(machine))
		return NULL;
	return descriptor->inode;
}

static int volatile_lock(int descriptor)
{
	pthread_mutex_lock(&lock);
	int error = usable(descriptor, false) == NULL ? -EIO : 0;
	pthread_mutex_unlock(&lock);
	return error;
}

static ssize_t volatile_read(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	ssize_t total = 0;

	pthread_mutex_lock(&lock);
	const struct inode *inode = usable(descriptor, false);
	if (inode == NULL)
		total = -EIO;
	for (int i = 0; i < count && total >= 0 && offset < inode->now_bytes; i++) {
		uint64_t bytes = inode->now_bytes - offset;

		if (bytes > parts[i].iov_len)
			bytes = parts[i].iov_len;
		memcpy(parts[i].iov_base, inode->now + offset, bytes);
		offset += bytes;
		total += (ssize_t)bytes;
		if (bytes < parts[i].iov_len)
			break;
	}
	pthread_mutex_unlock(&lock);
	return total;
}

/* Makes something else of the records in what was written to a log that say what is clean. */
static void spoil_records(struct inode *inode, uint64_t offset, uint64_t bytes)
{
	for (uint64_t at = offset; at + sizeof(struct store_log_record) <= offset + bytes;
		at += STORE_LOG_UNIT) {
		struct store_log_record record;
		uint32_t crc;

		memcpy(&record, inode->now + at, sizeof(record));
		if (record.magic != STORE_LOG_RECORD_MAGIC ||
			record.kind != (flaw == VOLATILE_FORGET_CLEAN ? STORE_LOG_CLEAN
								      : STORE_LOG_REMOVE))
			continue;
		record.kind = STORE_LOG_CLEAN;
		record.file_id = 999; /* nobody's */
		crc = rozo_crc32c(&record, offsetof(struct store_log_record, crc32c));
		record.crc32c = crc;
		memcpy(inode->now + at, &record, sizeof(record));
	}
}

static ssize_t volatile_write(int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
	ssize_t total = 0;

	pthread_mutex_lock(&lock);
	struct inode *inode = usable(descriptor, true);
	if (inode == NULL)
		total = -EIO;
	for (int i = 0; i < count && total >= 0; i++) {
		if (parts[i].iov_len == 0)
			continue;
		inode_make_room(inode, offset + parts[i].iov_len);
		memcpy(inode->now + offset, parts[i].iov_base, parts[i].iov_len);
		if (inode->log &&
			(flaw == VOLATILE_FORGET_CLEAN || flaw == VOLATILE_FORGET_REMOVALS))
			spoil_records(inode, offset, parts[i].iov_len);
		touch(inode, offset, parts[i].iov_len);
		offset += parts[i].iov_len;
		total += (ssize_t)parts[i].iov_len;
		if (offset > inode->now_bytes)
			inode->now_bytes = offset;
	}
	pthread_mutex_unlock(&lock);
	return total;
}

static int volatile_sync_data(int descriptor)
{
	pthread_mutex_lock(&lock);
	struct inode *inode = usable(descriptor, true);
	if (inode != NULL && flaw != VOLATILE_FORGET_FLUSHES &&
		(flaw != VOLATILE_FORGET_LOG_FLUSHES || !inode->log) &&
		(flaw != VOLATILE_FORGET_FILE_FLUSHES || inode->log))
		inode_flush(inode);
	pthread_mutex_unlock(&lock);
	return inode != NULL ? 0 : -EIO;
}

void volatile_fail_flush(int descriptor)
{
	pthread_mutex_lock(&lock);
	struct inode *inode = usable(descriptor, true);
	for (size_t at = 0; inode != NULL && at < inode->room; at += PAGE) {
		bool kept = random_number() % 2 != 0;

		for (size_t unit = at / UNIT; unit < (at + PAGE) / UNIT; unit++) {
			if (!inode->dirty[unit])
				continue;
			if (kept)
				memcpy(inode->durable + unit * UNIT, inode->now + unit * UNIT,
					UNIT);
			else
				memcpy(inode->now + unit * UNIT, inode->durable + unit * UNIT,
					UNIT);
		}
	}
	if (inode != NULL)
		all_clean(inode);
	pthread_mutex_unlock(&lock);
}

static int volatile_sync_file_system(int descriptor)
{
	pthread_mutex_lock(&lock);
	struct machine *machine = &machines[descriptors[descriptor].machine];
	bool on = usable(descriptor, true) != NULL;
	for (struct name *name = machine->names; name != NULL && on; name = name->next) {
		if (flaw == VOLATILE_FORGET_FLUSHES || flaw == VOLATILE_FORGET_CHECKPOINTS)
			break;
		/* The log is flushed for itself; here it would only hide that it was not. */
		if (name->now != NULL && !name->now->log)
			inode_flush(name->now);
		if (!name->log)
			name_settle(name, true);
	}
	pthread_mutex_unlock(&lock);
	return on ? 0 : -EIO;
}

static void volatile_drop_cache(int descriptor)
{
	(void)descriptor; /* what could not be flushed stays, as it may on a real system */
}

static int volatile_sync_directory(const char *path)
{
	struct machine *machine = &machines[machine_of(path)];
	int error = 0;

	pthread_mutex_lock(&lock);
	const struct name *directory = name_find(path, false);
	struct name *first = NULL;
	if (goes_off(machine))
		error = -EIO;
	else if (!is_directory(directory))
		error = -ENOENT;
	else
		first = directory->children;
	for (struct name *name = first; name != NULL; name = name->sibling)
		name_settle(name, true);
	pthread_mutex_unlock(&lock);
	return error;
}

static int volatile_size(int descriptor, uint64_t *bytes)
{
	pthread_mutex_lock(&lock);
	const struct inode *inode = usable(descriptor, false);
	if (inode != NULL)
		*bytes = inode->now_bytes;
	pthread_mutex_unlock(&lock);
	return inode != NULL ? 0 : -EIO;
}

static int volatile_punch(int descriptor, uint64_t offset, uint64_t bytes)
{
	pthread_mutex_lock(&lock);
	struct inode *inode = usable(descriptor, true);
	if (inode != NULL && offset < inode->now_bytes) {
		if (bytes > inode->now_bytes - offset)
			bytes = inode->now_bytes - offset;
		memset(inode->now + offset, 0, bytes);
		touch(inode, offset, bytes);
	}
	pthread_mutex_unlock(&lock);
	return inode != NULL ? 0 : -EIO;
}

static int volatile_make_directory(const char *path, mode_t mode)
{
	int error = 0;

	(void)mode;
	pthread_mutex_lock(&lock);
	if (goes_off(&machines[machine_of(path)]))
		error = -EIO;
	else if (look_up(path) != NULL)
		error = -EEXIST;
	else if (!parent_exists(path))
		error = -ENOENT;
	else
		name_set(name_find(path, true), inode_make(true), ++changes);
	pthread_mutex_unlock(&lock);
	return error;
}

static int volatile_rename(const char *from, const char *to)
{
	int error = 0;

	pthread_mutex_lock(&lock);
	if (goes_off(&machines[machine_of(from)])) {
		error = -EIO;
	} else if (look_up(from) == NULL || !parent_exists(to)) {
		error = -ENOENT;
	} else {
		struct name *target = name_find(to, true), *source = name_find(from, false);

		changes++;
		name_set(target, source->now, changes);
		name_set(source, NULL, changes);
	}
	pthread_mutex_unlock(&lock);
	return error;
}

static int volatile_remove(const char *path)
{
	int error = 0;

	pthread_mutex_lock(&lock);
	if (goes_off(&machines[machine_of(path)]))
		error = -EIO;
	else if (look_up(path) == NULL)
		error = -ENOENT;
	else
		name_set(name_find(path, false), NULL, ++changes);
	pthread_mutex_unlock(&lock);
	return error;
}

static int volatile_list(const char *path, store_io_name each, void *context)
{
	char *found[512];
	size_t count = 0;
	int result = 0;

	pthread_mutex_lock(&lock);
	struct machine *machine = &machines[machine_of(path)];
	const struct name *directory = name_find(path, false);
	const struct name *first = NULL;
	if (machine->off)
		result = -EIO;
	else if (directory == NULL || directory->now == NULL)
		result = -ENOENT;
	else
		first = directory->children;
	for (const struct name *name = first; name != NULL; name = name->sibling) {
		if (name->now != NULL) {
			must(count < sizeof(found) / sizeof(found[0]), "too many names");
			found[count++] = strdup(name->path + strlen(path) + 1);
		}
	}
	pthread_mutex_unlock(&lock);
	for (size_t i = 0; i < count; i++) {
		if (result == 0)
			result = each(context, found[i]);
		free(found[i]);
	}
	return result;
}

static int volatile_space(const char *path, struct store_space *space)
{
	*space = (struct store_space){
		.total_bytes = UINT64_C(1) << 40, .free_bytes = UINT64_C(1) << 39};
	return volatile_is_on(machine_of(path)) ? 0 : -EIO;
}

const struct store_io volatile_io = {
	.open = volatile_open,
	.close = volatile_close,
	.lock = volatile_lock,
	.read = volatile_read,
	.write = volatile_write,
	.sync_data = volatile_sync_data,
	.sync_file_system = volatile_sync_file_system,
	.drop_cache = volatile_drop_cache,
	.sync_directory = volatile_sync_directory,
	.size = volatile_size,
	.punch = volatile_punch,
	.make_directory = volatile_make_directory,
	.rename = volatile_rename,
	.remove = volatile_remove,
	.list = volatile_list,
	.space = volatile_space,
};
