/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * malloc() and its kin for a program that allocates and frees a thousand times in a millisecond,
 * pages of 4 KiB above all, for which the C library's way is a long one: a list of free blocks for
 * each size. What is freed stays in its list. A block freed twice, or one that was not allocated
 * here, ends the program.
 *
 * No locks: there is one thread (scheduler.h). Not used with sanitizers, which have their own.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of 16 bytes to 1 KiB by 16, then four sizes to each power of two. */
#define FINE_CLASSES 64
#define FINE_BYTES 1024
#define CLASSES (FINE_CLASSES + 4 * 12)
#define LARGEST_BYTES (FINE_BYTES << 12)
#define PIECE_BYTES (1 << 20)

enum state { ALLOCATED = 0x616c6c6f, FREE = 0x66726565 };

/* Before each block, which is aligned to 16 bytes as this is. */
struct block {
	size_t bytes; /* there is room for so many */
	uint32_t state;
	uint16_t class; /* LARGE: the C library's */
	uint16_t shift; /* in 16 bytes: this is not where it begins, see memalign() */
};
#define LARGE UINT16_MAX
_Static_assert(sizeof(struct block) == 16, "blocks are aligned to 16 bytes");

struct free_block {
	struct free_block *next;
};

extern void *__libc_malloc(size_t bytes);
extern void __libc_free(void *memory);

static struct free_block *free_blocks[CLASSES];
static char *piece, *piece_end;

/* The class for so many bytes, not 0 and not above LARGEST_BYTES, and how many it has room for. */
static unsigned int class_of(size_t bytes, size_t *room)
{
	if (bytes <= FINE_BYTES) {
		*room = (bytes + 15) & ~(size_t)15;
		return (unsigned int)(*room / 16 - 1);
	}
	unsigned int bits = 63 - (unsigned int)__builtin_clzll(bytes - 1); /* 10 at least */
	unsigned int quarter = (unsigned int)((bytes - 1) >> (bits - 2) & 3);
	*room = ((size_t)5 + quarter) << (bits - 2);
	return FINE_CLASSES + (bits - 10) * 4 + quarter;
}

static struct block *block_of(void *memory)
{
	struct block *block = (struct block *)memory - 1;

	if (block->state != ALLOCATED)
		abort(); /* freed before, or overwritten from the front, or never allocated */
	return block;
}

static struct block *carve(size_t bytes)
{
	if (bytes > PIECE_BYTES / 4)
		return __libc_malloc(bytes);
	if ((size_t)(piece_end - piece) < bytes) {
		piece = __libc_malloc(PIECE_BYTES);
		if (piece == NULL) {
			piece_end = NULL;
			return NULL;
		}
		piece_end = piece + PIECE_BYTES;
	}
	struct block *block = (struct block *)piece;
	piece += bytes;
	return block;
}

void *malloc(size_t bytes)
{
	unsigned int class = LARGE;
	size_t room = bytes;
	struct block *block;

	if (bytes > SIZE_MAX - sizeof(*block)) {
		errno = ENOMEM;
		return NULL;
	}
	if (bytes <= LARGEST_BYTES) {
		class = class_of(bytes ? bytes : 1, &room);
		struct free_block *freed = free_blocks[class];
		if (freed != NULL) {
			free_blocks[class] = freed->next;
			((struct block *)freed - 1)->state = ALLOCATED;
			return freed;
		}
		block = carve(sizeof(*block) + room);
	} else {
		block = __libc_malloc(sizeof(*block) + room);
	}
	if (block == NULL)
		return NULL;
	*block = (struct block){.bytes = room, .state = ALLOCATED, .class = (uint16_t) class};
	return block + 1;
}

void free(void *memory)
{
	if (memory == NULL)
		return;
	struct block *block = block_of(memory);
	block->state = FREE;
	if (block->shift != 0) {
		free((char *)memory - (size_t)block->shift * 16);
	} else if (block->class == LARGE) {
		__libc_free(block);
	} else {
		struct free_block *freed = memory;
		freed->next = free_blocks[block->class];
		free_blocks[block->class] = freed;
	}
}

void *calloc(size_t count, size_t bytes)
{
	size_t all;
	void *memory = NULL;

	if (__builtin_mul_overflow(count, bytes, &all))
		errno = ENOMEM;
	else
		memory = malloc(all);
	return memory ? memset(memory, 0, all) : NULL;
}

void *realloc(void *memory, size_t bytes)
{
	if (memory == NULL)
		return malloc(bytes);
	if (bytes == 0) {
		free(memory);
		return NULL;
	}
	size_t had = block_of(memory)->bytes;
	if (bytes <= had)
		return memory;
	void *larger = malloc(bytes);
	if (larger != NULL) {
		memcpy(larger, memory, had);
		free(memory);
	}
	return larger;
}

void *memalign(size_t alignment, size_t bytes)
{
	if (alignment > 4096 || bytes > SIZE_MAX - alignment) {
		errno = ENOMEM;
		return NULL;
	}
	char *memory = malloc(bytes + alignment);
	size_t shift = memory ? -(uintptr_t)memory & (alignment - 1) : 0;
	if (shift == 0)
		return memory;
	((struct block *)(memory + shift))[-1] =
		(struct block){.bytes = bytes, .state = ALLOCATED, .shift = (uint16_t)(shift / 16)};
	return memory + shift;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	return memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
	*memory = memalign(alignment, bytes);
	return *memory ? 0 : ENOMEM;
}

size_t malloc_usable_size(void *memory)
{
	return memory ? block_of(memory)->bytes : 0;
}
