/* base/rmtree.h: removes a tree that a stranger made: any depth, any names, links to anywhere. Uses three descriptors
 * and no recursion whatever the shape. Whoever may still write to the
 * tree can make it fail, and nothing worse. */
#pragma once

#include "base/macros.h"

/* Removes dir/name. Never follows a symbolic link, never leaves the file system of dir (there are no mounts in it that
 * this process sees). Absent is fine. A negative errno tells the first thing that could not be removed. */
MUST_CHECK int rmtree(int dir, const char *name);
