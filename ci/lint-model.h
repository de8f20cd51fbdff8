/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What clang's analyzer does not know of the libraries; ci/lint puts it before every file. Without
 * it, each `return -errno;` is thought to return 0 sometimes, and the lines after a fatal assertion
 * of a unit test are thought to be reached when it fails. Never part of a build.
 */
#ifndef ROZO_LINT_MODEL_H
#define ROZO_LINT_MODEL_H

#include <errno.h>

/* Read only after a failure, where it is above 0. */
#undef errno
#define errno                                                                                      \
	(*__extension__({                                                                          \
		int *lint_errno = __errno_location();                                              \
		if (*lint_errno <= 0)                                                              \
			__builtin_unreachable();                                                   \
		lint_errno;                                                                        \
	}))

#ifdef ROZO_LINT_CUNIT
#include <CUnit/CUnit.h>

/* A fatal assertion that fails does not return: it jumps out of the test. */
#define CU_assertImplementation(value, line, condition, file, function, fatal)                     \
	(((fatal) && !(value)) ? __builtin_unreachable() : (void)0,                                \
		CU_assertImplementation(value, line, condition, file, function, fatal))
#endif

#endif
