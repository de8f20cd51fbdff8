/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * What exportd says of store files that a node suspects nobody needs.
 */
#ifndef ROZO_EXPORTD_ORPHAN_H
#define ROZO_EXPORTD_ORPHAN_H

#include "exportd/exportd.h"
#include "rpc/meta.h"

/* META_ORPHANS. Status: 0, ENOMEM, or an error of a transaction; there are no verdicts then.
 */
void orphan_judge(struct exportd *exportd, const struct meta_orphans_args *args,
	struct meta_orphans_res *result);

#endif
