// SPDX-License-Identifier: LGPL-3.0-or-later
//
// interleave: clients that write interleaved 4 KiB pages of the same blocks of one file, each its
// own pages, and a check that every page is what its writer last got acknowledged.
//
//   interleave write FILE PAGES WRITERS WRITER SECONDS BOOK
//       WRITER (from 0) of WRITERS writes those of PAGES pages that are WRITER modulo WRITERS, one
//       at a time in random order, with O_DIRECT and O_DSYNC, for SECONDS; what was acknowledged
//       goes to BOOK in the end. Now and then it reads one of its pages back.
//   interleave verify FILE PAGES WRITERS BOOK...
//       every page holds what the book of its writer says
//
// Status 1 and a message at the first error; all wrong pages are named.

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES_MAX 65536

static uint64_t page[PAGE / 8] __attribute__((aligned(PAGE)));
static uint64_t wanted[PAGE / 8];
static uint32_t book[PAGES_MAX];

static void fill(uint64_t *words, uint64_t number, uint32_t count)
{
	for (unsigned int i = 0; i < PAGE / 8; i++)
		words[i] = count ? (number << 32 | count) * 0x9e3779b97f4a7c15u + i : 0;
}

// Reads a page. Returns whether it holds write `count`.
static int page_is(int fd, uint64_t number, uint32_t count)
{
	ssize_t length = pread(fd, page, PAGE, (off_t)(number * PAGE));

	if (length < 0)
		err(1, "reading page %llu", (unsigned long long)number);
	memset((char *)page + length, 0, (size_t)(PAGE - length));
	fill(wanted, number, count);
	return memcmp(page, wanted, PAGE) == 0;
}

static int write_pages(char **argument)
{
	uint64_t pages = strtoull(argument[1], NULL, 10), writers = strtoull(argument[2], NULL, 10);
	uint64_t writer = strtoull(argument[3], NULL, 10);
	time_t end = time(NULL) + strtol(argument[4], NULL, 10);
	int fd = open(argument[0], O_RDWR | O_CREAT | O_DIRECT | O_DSYNC, 0644);
	unsigned int seed = (unsigned int)writer + 1;
	uint64_t written = 0;

	if (fd < 0)
		err(1, "%s", argument[0]);
	while (time(NULL) < end) {
		uint64_t number = (uint64_t)rand_r(&seed) % (pages / writers) * writers + writer;

		fill(page, number, book[number] + 1);
		if (pwrite(fd, page, PAGE, (off_t)(number * PAGE)) != PAGE)
			err(1, "writing page %llu", (unsigned long long)number);
		book[number]++;
		if (++written % 16 == 0 && !page_is(fd, number, book[number]))
			errx(1, "page %llu is not what this writer has just written",
				(unsigned long long)number);
	}
	if (close(fd))
		err(1, "close");
	FILE *file = fopen(argument[5], "w");
	if (!file || fwrite(book, sizeof(book[0]), pages, file) != pages || fclose(file))
		err(1, "%s", argument[5]);
	printf("%llu\n", (unsigned long long)written);
	return 0;
}

static int verify(int count, char **argument)
{
	uint64_t pages = strtoull(argument[1], NULL, 10), writers = strtoull(argument[2], NULL, 10);
	uint64_t wrong = 0;
	int fd = open(argument[0], O_RDONLY | O_DIRECT);

	if (fd < 0)
		err(1, "%s", argument[0]);
	for (uint64_t writer = 0; writer < writers && (int)writer + 3 < count; writer++) {
		FILE *file = fopen(argument[3 + writer], "r");
		if (!file || fread(book, sizeof(book[0]), pages, file) != pages)
			err(1, "%s", argument[3 + writer]);
		fclose(file);
		for (uint64_t number = writer; number < pages; number += writers) {
			if (page_is(fd, number, book[number]))
				continue;
			printf("page %llu: not write %u of writer %llu\n",
				(unsigned long long)number, book[number],
				(unsigned long long)writer);
			wrong++;
		}
	}
	return wrong != 0;
}

int main(int argc, char **argv)
{
	if (argc == 8 && !strcmp(argv[1], "write") && strtoull(argv[3], NULL, 10) <= PAGES_MAX)
		return write_pages(argv + 2);
	if (argc > 5 && !strcmp(argv[1], "verify") && strtoull(argv[3], NULL, 10) <= PAGES_MAX)
		return verify(argc - 2, argv + 2);
	fputs("interleave: see the comment at the head of interleave.c\n", stderr);
	return 2;
}
