/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The load of the fault tests: NFSv3 clients of the gateways that write numbered pages and keep
 * book of what was acknowledged, and a check of every page against that book.
 *
 *   page_load CLUSTER.JSON load BOOK [OPTION...]
 *       writes until told to stop (SIGTERM) or done
 *       --files N --pages N   the shape of a new book (16 files of 256 pages of 4 KiB)
 *       --threads N           writers, each with files of its own (8)
 *       --operations N        stop after so many operations
 *       --kind KIND           stable: FILE_SYNC writes of 1 page; unstable: bursts of UNSTABLE
 *                             writes, then COMMIT; mixed (default): both, and whole blocks;
 *                             sequential: each file once from its start, 64 KiB at a time;
 *                             overwrite: FILE_SYNC, and only over pages that are there
 *       --only N              only the first N files of the book
 *       --until-full          stop at NFS3ERR_NOSPC
 *   page_load CLUSTER.JSON verify BOOK [--gateways MIN]
 *       reads all files through every gateway that is up, of which there must be MIN (1)
 *   page_load CLUSTER.JSON remove BOOK FIRST COUNT
 *       removes some of the files
 *   page_load CLUSTER.JSON settled BOOK
 *       asks all stores: of every block there is one version, decided, on all its nodes
 *   page_load CLUSTER.JSON count BOOK
 *       prints the operations acknowledged so far
 *   page_load CLUSTER.JSON longest BOOK
 *       prints how long the longest call took, in ms
 *
 * The book is a file that all of these map: for each page the number of the newest write that was
 * acknowledged as stable, and that of the newest one sent. A page must hold one of the writes from
 * the former to the latter, wholly, the same through every gateway; what one verification has seen
 * counts as acknowledged for the next. An operation that fails is sent again until it succeeds, as
 * a client does, unless the load is told to stop.
 *
 * Status 0: nothing is wrong. 1: something is, and is named. 3: stopped because the devices are
 * full.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/cluster/raw_client.h"

#define PAGE 4096u
#define BOOK_MAGIC UINT64_C(0x316b6f6f426f7a52)
#define READ_PAGES 256u
#define SEQUENTIAL_PAGES 16u
#define BURST_MAX 8
#define PATIENCE_MS 30000 /* how long a verification waits for nodes that have just started */
#define STATUS_FULL 3

struct page_book {
	uint32_t acknowledged; /* 0: none */
	uint32_t sent;
};

struct book {
	uint64_t magic;
	uint32_t files, pages;
	_Atomic uint64_t operations; /* acknowledged */
	_Atomic uint64_t failures; /* calls that failed and were repeated */
	_Atomic uint64_t longest_ms; /* of one call */
	struct page_book page[]; /* files * pages; each written by one thread */
};

enum kind { MIXED, STABLE, UNSTABLE, SEQUENTIAL, OVERWRITE };

static struct raw raw;
static struct book *book;
static const char *book_name; /* names its files */
static _Atomic uint64_t stopping, full;
static enum kind kind;
static uint64_t operations_max = UINT64_MAX;
static bool until_full;
static unsigned int thread_count = 8;
static uint32_t only_files = UINT32_MAX;

static struct page_book *page_of(uint32_t file, uint32_t page)
{
	return &book->page[(size_t)file * book->pages + page];
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
	return value ^ value >> 31;
}

/* The bytes of one write of one page: who they are, then a pattern that nothing else has. */
static void page_fill(uint32_t file, uint32_t page, uint32_t number, uint64_t *words)
{
	uint64_t seed = mix((uint64_t)file << 48 ^ (uint64_t)page << 24 ^ number);

	words[0] = (uint64_t)file << 32 | page;
	words[1] = number;
	for (unsigned int i = 2; i < PAGE / 8; i++)
		words[i] = seed += UINT64_C(0x9e3779b97f4a7c15) * i;
}

/* Makes an empty book. It appears whole, for those that only look. */
static void book_make(const char *path, uint32_t files, uint32_t pages)
{
	size_t bytes = sizeof(*book) + (size_t)files * pages * sizeof(struct page_book);
	struct book head = {.magic = BOOK_MAGIC, .files = files, .pages = pages};
	char temporary[4096];

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	int descriptor = open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (descriptor < 0 || write(descriptor, &head, sizeof(head)) != sizeof(head) ||
		ftruncate(descriptor, (off_t)bytes) || rename(temporary, path)) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	close(descriptor);
}

/* Returns false if there is none. */
static bool book_open(const char *path)
{
	const char *slash = strrchr(path, '/');
	struct stat stat;
	int descriptor = open(path, O_RDWR);

	if (descriptor < 0 && errno == ENOENT)
		return false;
	if (descriptor < 0 || fstat(descriptor, &stat)) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	book = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	close(descriptor);
	if (book == MAP_FAILED || book->magic != BOOK_MAGIC) {
		fprintf(stderr, "%s: cannot be mapped, or is no book\n", path);
		exit(EXIT_FAILURE);
	}
	book_name = slash ? slash + 1 : path;
	return true;
}

static void file_name(uint32_t file, char name[128])
{
	snprintf(name, 128, "%.100s-%u", book_name, file);
}

/* -------- load -------- */

struct writer {
	pthread_t thread;
	unsigned int number;
	uint64_t random;
	uint64_t *file_ids; /* 0: not made yet */
	struct raw_layout *layouts; /* node 0: to be asked for */
	uint32_t next_file, next_page; /* of a sequential load */
};

static uint32_t choose(struct writer *writer, uint32_t below)
{
	writer->random += UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t)(mix(writer->random) % below);
}

struct range {
	uint32_t page, count;
};

struct operation {
	uint32_t file;
	struct range ranges[BURST_MAX];
	unsigned int range_count;
	bool stable;
};

/* True if a call that began at start succeeded; else what failed is forgotten, to be tried again.
 */
static bool call_ended(
	struct writer *writer, uint32_t file, const char *what, int status, uint64_t start)
{
	uint64_t took = raw_now_ms() - start;
	uint64_t longest = atomic_load(&book->longest_ms);

	while (took > longest && !atomic_compare_exchange_weak(&book->longest_ms, &longest, took))
		;
	if (status == 0)
		return true;
	if (took > 10000)
		fprintf(stderr, "%s of file %u: status %d after %" PRIu64 " ms\n", what, file,
			status, took);
	atomic_fetch_add(&book->failures, 1);
	if (status == NFS3ERR_NOSPC && until_full) {
		atomic_store(&full, 1);
		atomic_store(&stopping, 1);
	}
	writer->layouts[file].node = 0;
	raw_sleep_ms(20);
	return false;
}

static bool have_layout(struct writer *writer, uint32_t file)
{
	struct raw_layout *layout = &writer->layouts[file];
	uint64_t start = raw_now_ms();
	char name[128];

	if (layout->node)
		return true;
	file_name(file, name);
	if (!writer->file_ids[file] &&
		!call_ended(writer, file, "CREATE", raw_create(&raw, name, &writer->file_ids[file]),
			start)) {
		writer->file_ids[file] = 0;
		return false;
	}
	start = raw_now_ms();
	return call_ended(
		writer, file, "LAYOUT", raw_layout(&raw, writer->file_ids[file], layout), start);
}

/* Sends the operation once. Returns true if all of it is acknowledged as stable. */
static bool attempt(struct writer *writer, const struct operation *operation, uint8_t *bytes)
{
	uint32_t file = operation->file;
	char first[NFS3_WRITEVERFSIZE], verifier[NFS3_WRITEVERFSIZE];

	if (!have_layout(writer, file))
		return false;
	const struct raw_layout *layout = &writer->layouts[file];
	uint64_t id = writer->file_ids[file];
	for (unsigned int r = 0; r < operation->range_count; r++) {
		const struct range *range = &operation->ranges[r];

		for (uint32_t i = 0; i < range->count; i++)
			page_fill(file, range->page + i, page_of(file, range->page + i)->sent,
				(uint64_t *)(void *)(bytes + (size_t)i * PAGE));
		uint64_t start = raw_now_ms();
		int status = raw_write(&raw, id, layout, (uint64_t)range->page * PAGE, bytes,
			range->count * PAGE, operation->stable, verifier);
		if (!call_ended(writer, file, "WRITE", status, start))
			return false;
		if (r == 0)
			memcpy(first, verifier, sizeof(first));
		else if (memcmp(first, verifier, sizeof(first)) != 0)
			return false;
	}
	if (operation->stable)
		return true;
	uint64_t start = raw_now_ms();
	int status = raw_commit(&raw, id, layout, verifier);
	return call_ended(writer, file, "COMMIT", status, start) &&
	       !memcmp(first, verifier, sizeof(first));
}

/* Makes up the writer's next operation. Returns false if there is none left. */
static bool next_operation(struct writer *writer, struct operation *operation)
{
	uint32_t own = (only_files - writer->number + thread_count - 1) / thread_count;
	uint32_t pages = book->pages;

	if (kind == SEQUENTIAL) {
		if (writer->next_page >= pages) {
			writer->next_page = 0;
			writer->next_file++;
		}
		if (writer->next_file >= own)
			return false;
		operation->file = writer->number + writer->next_file * thread_count;
		uint32_t count = pages - writer->next_page < SEQUENTIAL_PAGES
					 ? pages - writer->next_page
					 : SEQUENTIAL_PAGES;
		*operation = (struct operation){.file = operation->file,
			.ranges = {{writer->next_page, count}},
			.range_count = 1,
			.stable = true};
		writer->next_page += count;
		return true;
	}
	for (unsigned int tries = 0; tries < 100000; tries++) {
		uint32_t dice = choose(writer, 10);
		bool burst = kind == UNSTABLE || (kind == MIXED && dice < 4);
		bool large = kind != STABLE && dice % 2;
		bool there = true;

		*operation = (struct operation){
			.file = writer->number + choose(writer, own) * thread_count,
			.range_count = burst ? 1 + choose(writer, BURST_MAX) : 1,
			.stable = !burst,
		};
		for (unsigned int r = 0; r < operation->range_count; r++) {
			uint32_t count = large ? 1 + choose(writer, SEQUENTIAL_PAGES) : 1;

			if (count > pages)
				count = pages;
			operation->ranges[r] = (struct range){
				.page = choose(writer, pages - count + 1), .count = count};
			for (uint32_t i = 0; i < count; i++)
				there = there &&
					page_of(operation->file, operation->ranges[r].page + i)
						->acknowledged;
		}
		if (there || kind != OVERWRITE)
			return true;
	}
	return false;
}

static void *write_files(void *context)
{
	struct writer *writer = context;
	uint8_t *bytes = malloc(SEQUENTIAL_PAGES * PAGE);
	struct operation operation;

	while (!atomic_load(&stopping) && next_operation(writer, &operation)) {
		/* Overlapping ranges of one burst: the page's number grows, the later write counts.
		 */
		for (unsigned int r = 0; r < operation.range_count; r++) {
			for (uint32_t i = 0; i < operation.ranges[r].count; i++)
				page_of(operation.file, operation.ranges[r].page + i)->sent++;
		}
		bool done = attempt(writer, &operation, bytes);
		while (!done && !atomic_load(&stopping))
			done = attempt(writer, &operation, bytes);
		if (!done)
			break;
		for (unsigned int r = 0; r < operation.range_count; r++) {
			for (uint32_t i = 0; i < operation.ranges[r].count; i++) {
				struct page_book *page =
					page_of(operation.file, operation.ranges[r].page + i);
				page->acknowledged = page->sent;
			}
		}
		if (atomic_fetch_add(&book->operations, 1) + 1 >= operations_max)
			atomic_store(&stopping, 1);
	}
	free(bytes);
	return NULL;
}

static void *await_signal(void *context)
{
	int received;

	sigwait(context, &received);
	atomic_store(&stopping, 1);
	return NULL;
}

static int load(void)
{
	struct writer *writers = calloc(thread_count, sizeof(*writers));
	uint64_t before = atomic_load(&book->operations), start = raw_now_ms();
	sigset_t signals;
	pthread_t waiter;

	/* raw_open() has started the RPC thread: it does not mind SIGTERM either. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	pthread_create(&waiter, NULL, await_signal, &signals);
	pthread_detach(waiter);
	if (operations_max != UINT64_MAX)
		operations_max += before;
	if (only_files > book->files)
		only_files = book->files;
	if (thread_count > only_files)
		thread_count = only_files;
	for (unsigned int t = 0; t < thread_count; t++) {
		writers[t] = (struct writer){.number = t,
			.random = before * 1000 + t,
			.file_ids = calloc(book->files, sizeof(uint64_t)),
			.layouts = calloc(book->files, sizeof(struct raw_layout))};
		pthread_create(&writers[t].thread, NULL, write_files, &writers[t]);
	}
	for (unsigned int t = 0; t < thread_count; t++) {
		pthread_join(writers[t].thread, NULL);
		free(writers[t].file_ids);
		free(writers[t].layouts);
	}
	free(writers);
	printf("load: %" PRIu64 " operations in %" PRIu64 " ms, %" PRIu64
	       " calls failed and were repeated, the longest took %" PRIu64 " ms%s\n",
		atomic_load(&book->operations) - before, raw_now_ms() - start,
		atomic_load(&book->failures), atomic_load(&book->longest_ms),
		atomic_load(&full) ? "; the devices are full" : "");
	return atomic_load(&full) ? STATUS_FULL : EXIT_SUCCESS;
}

/* -------- verify -------- */

/* Reads, with patience for nodes that are just coming back. Returns as raw_read(). */
static int read_patiently(uint32_t node, uint64_t file_id, struct raw_layout *layout,
	uint64_t offset, uint32_t bytes, uint8_t *buffer, uint32_t *length)
{
	uint64_t deadline = raw_now_ms() + PATIENCE_MS;
	int status;

	for (;;) {
		status = layout->node ? 0 : raw_layout(&raw, file_id, layout);
		if (status == 0)
			status = raw_read(
				&raw, node, file_id, layout->epoch, offset, bytes, buffer, length);
		if (status == 0 || raw_now_ms() > deadline)
			return status;
		layout->node = 0;
		raw_sleep_ms(100);
	}
}

/* Checks one page; the first gateway's answer becomes what the others must say. */
static bool page_is_right(uint32_t file, uint32_t page, const uint64_t *words, uint32_t node)
{
	struct page_book *entry = page_of(file, page);
	uint64_t expected[PAGE / 8];
	uint32_t number = words ? (uint32_t)words[1] : 0;

	if (entry->sent == 0 && number == 0)
		return true;
	if (number < entry->acknowledged || number > entry->sent) {
		fprintf(stderr,
			"file %u page %u through node %u: write %u (of file %" PRIu64
			" page %" PRIu64 "), but %u was acknowledged, and %u sent\n",
			file, page, node, number, words ? words[0] >> 32 : 0,
			words ? words[0] & UINT32_MAX : 0, entry->acknowledged, entry->sent);
		return false;
	}
	if (number == 0)
		memset(expected, 0, sizeof(expected));
	else
		page_fill(file, page, number, expected);
	if (words && memcmp(words, expected, PAGE) != 0) {
		fprintf(stderr, "file %u page %u through node %u: a mixture, with the number %u\n",
			file, page, node, number);
		return false;
	}
	entry->acknowledged = number;
	return true;
}

/* What the stores say of a page's block, for whoever has to find out why it is wrong. */
static void print_headers(uint64_t file_id, uint32_t page)
{
	struct raw_placement placement;
	uint64_t block = page / (config_block_bytes(raw.export) / PAGE);

	if (raw_placement(&raw, file_id, &placement))
		return;
	for (unsigned int s = 0; s < placement.count; s++) {
		store_read_block header;
		int error = raw_headers(&raw, &placement, file_id, s, block, 1, &header);

		if (error)
			fprintf(stderr, "  shard %u, node %u: %s\n", s, placement.nodes[s],
				strerror(-error));
		else
			fprintf(stderr,
				"  file id %" PRIu64 " block %" PRIu64
				" shard %u, node %u: state %u version %" PRIx64 ".%" PRIx64
				" older %" PRIx64 ".%" PRIx64 " missed %x\n",
				file_id, block, s, placement.nodes[s], header.state,
				(uint64_t)header.block_version.generation,
				(uint64_t)header.block_version.writer,
				(uint64_t)header.older.generation, (uint64_t)header.older.writer,
				header.missed);
	}
}

static uint64_t verify_file(uint32_t node, uint32_t file, uint8_t *buffer)
{
	struct raw_layout layout = {0};
	uint64_t file_id, wrong = 0, deadline = raw_now_ms() + PATIENCE_MS;
	char name[128];
	int status;

	for (uint32_t page = 0; page < book->pages && page_of(file, page)->sent == 0;)
		if (++page == book->pages)
			return 0; /* never begun, or removed */
	file_name(file, name);
	while ((status = raw_create(&raw, name, &file_id)) && raw_now_ms() < deadline)
		raw_sleep_ms(100);
	if (status) {
		fprintf(stderr, "file %u cannot be looked up: %s\n", file, strerror(-status));
		return 1;
	}
	for (uint32_t page = 0; page < book->pages; page += READ_PAGES) {
		uint32_t count = book->pages - page < READ_PAGES ? book->pages - page : READ_PAGES;
		uint32_t length = 0;

		status = read_patiently(node, file_id, &layout, (uint64_t)page * PAGE, count * PAGE,
			buffer, &length);
		if (status) {
			fprintf(stderr, "file %u pages %u to %u through node %u: status %d\n", file,
				page, page + count - 1, node, status);
			wrong += count;
			continue;
		}
		for (uint32_t i = 0; i < count; i++) {
			const uint8_t *bytes =
				(i + 1) * PAGE <= length ? buffer + (size_t)i * PAGE : NULL;

			if (page_is_right(
				    file, page + i, (const uint64_t *)(const void *)bytes, node))
				continue;
			wrong++;
			print_headers(file_id, page + i);
		}
	}
	return wrong;
}

static int verify(unsigned int gateways_min)
{
	uint8_t *buffer = malloc((size_t)READ_PAGES * PAGE);
	unsigned int gateways = 0;
	uint64_t wrong = 0, start = raw_now_ms(), pages = 0;

	for (size_t i = 0; i < (size_t)book->files * book->pages; i++)
		pages += book->page[i].acknowledged != 0;
	for (size_t n = 0; n < raw.config->node_count; n++) {
		uint32_t node = raw.config->nodes[n].id;

		if (!raw_gateway_up(&raw, node, 5000))
			continue;
		gateways++;
		for (uint32_t file = 0; file < book->files; file++)
			wrong += verify_file(node, file, buffer);
	}
	free(buffer);
	printf("verify: %" PRIu64 " pages acknowledged, %u gateways, %" PRIu64
	       " pages wrong, in %" PRIu64 " ms\n",
		pages, gateways, wrong, raw_now_ms() - start);
	if (gateways < gateways_min)
		fprintf(stderr, "only %u gateways answer\n", gateways);
	return wrong || gateways < gateways_min ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* -------- settled -------- */

#define HEADER_BLOCKS 256u

/* True if all stores say the same of the block, and that it is decided and on all nodes. */
static bool block_is_settled(
	const store_read_block *const headers[], unsigned int shards, uint32_t index)
{
	const store_read_block *first = &headers[0][index];

	for (unsigned int s = 0; s < shards; s++) {
		const store_read_block *header = &headers[s][index];

		if ((header->state != STORE_COMMITTED && header->state != STORE_EMPTY) ||
			header->missed || header->older.generation ||
			header->block_version.generation != first->block_version.generation ||
			header->block_version.writer != first->block_version.writer ||
			header->length_bytes != first->length_bytes)
			return false;
	}
	return true;
}

/* Returns the blocks that are not settled, UINT64_MAX if that cannot be found out. */
static uint64_t unsettled_blocks(uint32_t file)
{
	uint32_t block_pages = config_block_bytes(raw.export) / PAGE;
	uint32_t blocks = (book->pages + block_pages - 1) / block_pages;
	store_read_block *headers[RAW_SHARDS_MAX];
	struct raw_placement placement = {0};
	uint64_t file_id, unsettled = 0;
	char name[128];
	int error;

	file_name(file, name);
	error = raw_create(&raw, name, &file_id);
	if (!error)
		error = raw_placement(&raw, file_id, &placement);
	if (error || placement.count == 0)
		return error ? UINT64_MAX : 0;
	for (unsigned int s = 0; s < placement.count; s++)
		headers[s] = calloc(HEADER_BLOCKS, sizeof(*headers[s]));
	for (uint32_t first = 0; first < blocks && !error; first += HEADER_BLOCKS) {
		uint32_t count = blocks - first < HEADER_BLOCKS ? blocks - first : HEADER_BLOCKS;

		for (unsigned int s = 0; s < placement.count && !error; s++)
			error = raw_headers(&raw, &placement, file_id, s, first, count, headers[s]);
		for (uint32_t i = 0; i < count && !error; i++) {
			if (block_is_settled(
				    (const store_read_block *const *)headers, placement.count, i))
				continue;
			if (unsettled++ < 20)
				print_headers(file_id, (first + i) * block_pages);
		}
	}
	for (unsigned int s = 0; s < placement.count; s++)
		free(headers[s]);
	return error ? UINT64_MAX : unsettled;
}

static int settled(void)
{
	uint64_t unsettled = 0;

	for (uint32_t file = 0; file < book->files; file++) {
		uint64_t blocks = unsettled_blocks(file);

		if (blocks == UINT64_MAX)
			return EXIT_FAILURE;
		unsettled += blocks;
	}
	if (unsettled)
		fprintf(stderr, "%" PRIu64 " blocks are not settled\n", unsettled);
	return unsettled ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int remove_files(uint32_t first, uint32_t count)
{
	for (uint32_t file = first; file < first + count && file < book->files; file++) {
		char name[128];

		file_name(file, name);
		int error = raw_remove(&raw, name);
		if (error && error != -ENOENT) {
			fprintf(stderr, "%s: %s\n", name, strerror(-error));
			return EXIT_FAILURE;
		}
		memset(page_of(file, 0), 0, book->pages * sizeof(struct page_book));
	}
	return EXIT_SUCCESS;
}

static int usage(void)
{
	fputs("usage: page_load CLUSTER.JSON load|verify|remove|settled|count|longest BOOK "
	      "[OPTION...]\n",
		stderr);
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	static const char *const kinds[] = {
		"mixed", "stable", "unstable", "sequential", "overwrite"};
	static const struct option options[] = {
		{"files", required_argument, NULL, 'f'},
		{"pages", required_argument, NULL, 'p'},
		{"threads", required_argument, NULL, 't'},
		{"operations", required_argument, NULL, 'o'},
		{"kind", required_argument, NULL, 'k'},
		{"gateways", required_argument, NULL, 'g'},
		{"only", required_argument, NULL, 'n'},
		{"until-full", no_argument, NULL, 'u'},
		{0},
	};
	uint32_t files = 16, pages = 256;
	unsigned int gateways = 1;
	sigset_t signals;
	int option, status = EXIT_FAILURE;

	if (argc < 4)
		return usage();
	optind = 4;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		unsigned long number = optarg ? strtoul(optarg, NULL, 10) : 0;

		switch (option) {
		case 'f':
			files = (uint32_t)number;
			break;
		case 'p':
			pages = (uint32_t)number;
			break;
		case 't':
			thread_count = (unsigned int)number;
			break;
		case 'o':
			operations_max = number;
			break;
		case 'g':
			gateways = (unsigned int)number;
			break;
		case 'n':
			only_files = (uint32_t)number;
			break;
		case 'u':
			until_full = true;
			break;
		case 'k':
			while (optarg && kind <= OVERWRITE && strcmp(optarg, kinds[kind]) != 0)
				kind++;
			if (kind > OVERWRITE)
				return usage();
			break;
		default:
			return usage();
		}
	}
	/* In all threads, and before there are any. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	bool there = book_open(argv[3]);
	if (!strcmp(argv[2], "count")) {
		printf("%" PRIu64 "\n", there ? atomic_load(&book->operations) : 0);
		return EXIT_SUCCESS;
	}
	if (there && !strcmp(argv[2], "longest")) {
		printf("%" PRIu64 "\n", atomic_load(&book->longest_ms));
		return EXIT_SUCCESS;
	}
	if (!there && !strcmp(argv[2], "load"))
		book_make(argv[3], files, pages);
	if (!there && !book_open(argv[3])) {
		fprintf(stderr, "%s: no such book\n", argv[3]);
		return EXIT_FAILURE;
	}
	raw_open(&raw, argv[1]);
	if (!strcmp(argv[2], "load"))
		status = load();
	else if (!strcmp(argv[2], "verify"))
		status = verify(gateways);
	else if (!strcmp(argv[2], "settled"))
		status = settled();
	else if (!strcmp(argv[2], "remove") && optind + 2 == argc)
		status = remove_files((uint32_t)strtoul(argv[optind], NULL, 10),
			(uint32_t)strtoul(argv[optind + 1], NULL, 10));
	else
		status = usage();
	raw_close(&raw);
	return status;
}
