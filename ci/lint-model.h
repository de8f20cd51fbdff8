/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What clang's analyzer does not know of CUnit; ci/lint puts it before every test. Without it,
 * the lines after a fatal assertion are thought to be reached when it fails. Never part of a build.
 */
#ifndef ROZO_LINT_MODEL_H
#define ROZO_LINT_MODEL_H

#include <CUnit/CUnit.h>

/* A fatal assertion that fails does not return: it jumps out of the test. */
#define CU_assertImplementation(value, line, condition, file, function, fatal)                     \
	(((fatal) && !(value)) ? __builtin_unreachable() : (void)0,                                \
		CU_assertImplementation(value, line, condition, file, function, fatal))

#endif
