/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * Which kernel runs: decided once, before main(), and constant from then on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const struct mojette_kernel portable = {
	.name = "portable",
	.gather = mojette_portable_gather,
	.add = mojette_portable_add,
	.solve = mojette_portable_solve,
	.crc_sum = mojette_portable_crc_sum,
};

const struct mojette_kernel *mojette_kernel = &portable;

__attribute__((constructor)) static void choose_kernel(void)
{
	const struct mojette_kernel *usable[3]; /* the fastest last */
	unsigned int count = 0;
	const char *name = getenv("ROZO_MOJETTE_KERNEL");

	usable[count++] = &portable;
#ifdef ROZO_MOJETTE_X86
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("pclmul"))
		usable[count++] = &mojette_kernel_avx2;
	if (count > 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512dq"))
		usable[count++] = &mojette_kernel_avx512;
#endif
	mojette_kernel = usable[count - 1];
	if (name == NULL)
		return;
	for (unsigned int i = 0; i < count; i++) {
		if (strcmp(name, usable[i]->name) == 0) {
			mojette_kernel = usable[i];
			return;
		}
	}
	fprintf(stderr,
		"ROZO_MOJETTE_KERNEL=%s is not a kernel this machine can run "
		"(portable, avx2, "
		"avx512): using %s\n",
		name, mojette_kernel->name);
}

const char *mojette_kernel_name(void)
{
	return mojette_kernel->name;
}
