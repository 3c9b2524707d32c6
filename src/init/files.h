/* init/files.h: files on the daemon's behalf, with the rights of the user whom the request names.
 *
 * Reading hands over a read-only descriptor of a regular file. Writing is in two steps that share no state here: OPEN
 * makes a hidden file beside the target (or continues one) and hands it over; COMMIT renames it into place, with the mode
 * and owner of the file that it replaces. Until then the old file is untouched. The last component is never followed:
 * a symbolic link is -ELOOP, for reading and for writing. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "init/control.h"

#define FILES_STAGE_PREFIX ".orw-stage-"
#define FILES_STAGE_HEX 16 /* digits after the prefix */

/* Handlers of OPEN, COMMIT and DISCARD; a negative result becomes the FAILED answer. */
MUST_CHECK int files_open(struct init *in, struct request *q, struct err *err);
MUST_CHECK int files_commit(struct init *in, struct request *q, struct err *err);
MUST_CHECK int files_discard(struct init *in, struct request *q, struct err *err);

/* True for a name that files_open makes: nothing else is ever renamed or removed. */
bool files_is_stage_name(const char *name);
