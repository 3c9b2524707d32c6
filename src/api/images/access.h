/* api/images/access.h: who may use which image. What was pulled, imported or bootstrapped is everybody's. What was built for an
 * environment holds the code of its owner, whether it may be called by all or not: its namespace uses it, and in a session of it
 * the environment's own server; to others it looks as if it were not there. */
#pragma once

#include "api/api.h"

/* name: normalised. a NULL = this server knows no environments. */
bool image_is_hidden(const struct bucket_access *a, const struct auth_caller *c, const char *name);
/* The same of a reference as it was written; -ENOENT. What is wrong with the reference itself is not said here. */
MUST_CHECK int image_check_access(const struct bucket_access *a, const struct auth_caller *c, const char *ref, struct err *err);
