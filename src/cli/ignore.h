/* cli/ignore.h: .dockerignore: which files of a folder are not part of a build's context. Rules as Docker has them: one
 * pattern a line, '#' comments, the last pattern that matches decides, '!' takes back, '**' is any number of folders, a
 * pattern that matches a folder holds for all in it. Pure; no file system. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

struct ignore;

struct ignore *ignore_new(const char *text, size_t len);
struct ignore *ignore_free(struct ignore *g); /* NULL is allowed; returns NULL */
DEFINE_FREEP(ignore, ignore_free)

/* path: relative, without "./" and trailing slash. */
bool ignore_matches(const struct ignore *g, const char *path);
/* Whether a folder that matches may be passed over whole: no exception could lie in it. */
bool ignore_prunes(const struct ignore *g, const char *path);
