/* base/tar.h: tar archives (POSIX pax): a codec, no I/O. Writing appends headers to a buffer; what a header has no room for (a
 * long name, 8 GiB) goes into an extended one before it. Reading takes bytes as they come and gives members: regular files and
 * folders only, as our own archives have; whoever must read a stranger's uses tar itself (build/unpack.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

#define TAR_BLOCK 512
#define TAR_NAME_MAX 8192 /* bytes of a name that is read */

enum tar_type { TAR_FILE = '0', TAR_LINK = '2', TAR_FOLDER = '5' };

struct tar_member {
	const char *name; /* of a folder with a slash at its end */
	enum tar_type type;
	mode_t mode;      /* permissions; links have none */
	uint64_t size;    /* bytes of content; 0 of all but files */
	int64_t mtime_s;  /* since 1970 */
	const char *link; /* where a link points; NULL = it is none */
};

/* The header of m, owned by nobody in particular, so that the same content gives the same bytes. The content follows, then
 * tar_pad(). -ENOBUFS. */
MUST_CHECK int tar_header(struct buf *ret, const struct tar_member *m);
/* A comment between members, which readers skip: a sign of life. */
MUST_CHECK int tar_comment(struct buf *ret, const char *text);
MUST_CHECK int tar_pad(struct buf *ret, uint64_t size); /* what follows a content of so many bytes */
MUST_CHECK int tar_end(struct buf *ret); /* two empty blocks: nothing follows */

/* -- reading ------------------------------------------------------------------------------------------------------- */
struct tar_reader;

/* Both return 0 or a negative errno with *err, which ends the reading. m lives for the call. content comes in pieces, for the
 * member before. */
struct tar_events {
	int (*member)(void *arg, const struct tar_member *m, struct err *err);
	int (*content)(void *arg, const char *p, size_t len, struct err *err);
};

struct tar_reader *tar_reader_new(const struct tar_events *events, void *arg);
struct tar_reader *tar_reader_free(struct tar_reader *r); /* NULL is allowed; returns NULL */
DEFINE_FREEP(tar_reader, tar_reader_free)
/* -EINVAL says what is wrong with which byte; else what an event returned. After the end of the archive only zeros may come. */
MUST_CHECK int tar_read(struct tar_reader *r, const char *p, size_t len, struct err *err);
bool tar_ended(const struct tar_reader *r);      /* the end of the archive has been read */
uint64_t tar_position(const struct tar_reader *r); /* bytes read so far */
