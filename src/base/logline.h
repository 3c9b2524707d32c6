/* base/logline.h: the form of a line in the log of an environment's servers, which several of them append to:
 *
 *   2026-01-02T03:04:05.678Z 1a2b3c4d TEXT
 *
 * the time at which it was seen, and the last characters of the instance's id, which are its random ones. Compiles in every
 * program. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/time.h"

#define LOGLINE_TAG_LEN 8
#define LOGLINE_HEAD_LEN (TIME_ISO_LEN + LOGLINE_TAG_LEN + 1) /* the time and a blank, the tag and a blank */

/* The head of a line that is seen now; a tag that is shorter is filled with blanks. Returns ret. */
char *logline_head(const char *tag, char ret[LOGLINE_HEAD_LEN + 1]);
/* Whether it begins with a time and a blank. */
bool logline_is_stamped(const char *line, size_t len);
/* How many bytes stand in front of the text: a whole head, a time alone (another log's), or nothing. */
size_t logline_skip(const char *line, size_t len);
