/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What the Ganesha library this plugin runs under has mended.
 *
 * The rebuilt library (fsal_rozo/ganesha, ci/ganesha) exports rozo_ganesha_series, a set of bits
 * with the numbers of the table in fsal_rozo/ganesha/README.md. Debian's own library has the
 * same SONAME and no such symbol.
 */
#ifndef ROZO_GANESHA_SERIES_H
#define ROZO_GANESHA_SERIES_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#define GANESHA_MENDS(defect) (UINT64_C(1) << (defect))

/* Without these an ordinary client's LAYOUTGET, or anyone's LAYOUTRETURN, ends the server. */
#define GANESHA_MENDS_LAYOUTS                                                                      \
	(GANESHA_MENDS(1) | GANESHA_MENDS(4) | GANESHA_MENDS(5) | GANESHA_MENDS(7))

/* Without these a layout may not be recalled through up_ops->layoutrecall. */
#define GANESHA_MENDS_RECALLS (GANESHA_MENDS(2) | GANESHA_MENDS(3))

/* The set of the running library; 0 for one without the series. Takes no lock, cannot fail. */
static inline uint64_t ganesha_series(void)
{
	const uint64_t *series = dlsym(RTLD_DEFAULT, "rozo_ganesha_series");

	return series != NULL ? *series : 0;
}

#endif
