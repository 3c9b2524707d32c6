/* init/logfile.h: the output of an instance's server on its way into a log file that several instances append to: each
 * line behind the head of base/logline.h. Only whole lines are written, each batch with one write(), so lines of several
 * writers do not mix. A line of more than LOGFILE_LINE_MAX bytes becomes several. What the disk has no room for is lost. */
#pragma once

#include <stddef.h>

#include "base/logline.h"

#define LOGFILE_LINE_MAX (64u * 1024) /* bytes */

struct logfile {
	int fd;     /* O_APPEND; owned */
	char tag[LOGLINE_TAG_LEN + 1];
	char *line; /* malloc'ed, LOGFILE_LINE_MAX: a line whose end did not come yet */
	size_t len;
};

/* Takes fd, on failure too. id: of the run, id_len bytes. NULL = no memory. */
struct logfile *logfile_new(int fd, const char *id, size_t id_len);
void logfile_add(struct logfile *l, const char *p, size_t len);
/* Writes what has no end of its line. NULL is allowed; returns NULL. */
struct logfile *logfile_free(struct logfile *l);
