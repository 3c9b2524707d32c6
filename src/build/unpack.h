/* build/unpack.h: from what a client sent (a tar) to a folder that a build may read. Root jobs only; blocking.
 *
 * The archive is foreign: names with "..", absolute names, links out of the folder, devices, holes that expand. tar
 * itself runs as an ordinary user, without privileges, in a mount namespace where the target is the only thing that can
 * be written; what it leaves is counted afterwards. */
#pragma once

#include "base/err.h"
#include "build/job.h"

#define UNPACK_FILES_MAX 500000u
#define UNPACK_BYTES_MAX (20ull << 30) /* of all files, holes included: COPY would write them out */

/* DATA/builds/<deployment>/source.tar into the new folder target. -EINVAL: not a plain tar, or over the limits. */
MUST_CHECK int unpack_source(struct job *j, const char *deployment, const char *target, struct err *err);
