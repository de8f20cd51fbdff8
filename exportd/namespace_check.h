/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * A check of the whole metadata of an export against the rules that every operation keeps.
 */
#ifndef ROZO_EXPORTD_NAMESPACE_CHECK_H
#define ROZO_EXPORTD_NAMESPACE_CHECK_H

#include "exportd/exportd.h"

/*
 * Reads everything in one read transaction and verifies, besides that no value is damaged:
 *   - each entry by name has its entry by cookie and the other way round, with cookies that its
 *     directory has given out, in a directory that exists, and its inode exists;
 *   - each inode but the root's has entries: one if it is a directory, else as many as its links;
 *     a directory has 2 + (directories in it) links;
 *   - parent_id and name of an inode lead to an entry that refers to it, or name is empty and the
 *     inode is no directory; parents lead to the root;
 *   - regular files have a placement of segment 0, and placements are of regular files, and below
 *     segment_count;
 *   - symbolic links, and nothing else, have a target of their size;
 *   - file ids are below the next one, and the number of files is right;
 *   - each node named in an item of the free queue has it in its own queue, and the other way
 *     round; none names a file that exists.
 * Each fault is logged as an error.
 * *faults receives their number. Returns 0, -ENOMEM or -EIO (the store failed; faults is not set).
 * Takes memory for every inode: for tests and repair, not for a running daemon.
 */
int namespace_check(struct exportd *exportd, uint32_t export_id, uint64_t *faults);

#endif
