/* cli/pax.h: a folder as a tar (POSIX pax) on a descriptor: what `deploy` sends. Folders, regular files and links go in,
 * by name in byte order, owned by nobody in particular, so that the same folder gives the same bytes wherever it lies;
 * sockets, pipes and devices are left out. Links are not followed. Blocking. */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "cli/ignore.h"

struct pax_totals {
	uint64_t files, bytes, skipped; /* bytes: of content */
};

/* Everything below dir_fd that g (NULL = nothing is ignored) lets pass; Dockerfile and .dockerignore always do. A file
 * that grows while it is read is cut, one that shrinks is filled with zeros: a tar says sizes first. */
MUST_CHECK int pax_write(int out_fd, int dir_fd, const struct ignore *g, struct pax_totals *ret, struct err *err);
