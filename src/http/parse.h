/* http/parse.h: the HTTP/1.1 codec, for both sides: bytes in, events out, no I/O and no allocation.
 *
 * A message is taken apart in three steps, each of which may be called again with more bytes:
 *   1. http_head_find() looks for the end of the header section and refuses, line by line, what two parsers could read
 *      in two ways (bare CR or LF, NUL, folded lines, blanks before a colon);
 *   2. http_head_parse() takes the complete section, whose lines are known to be sound by then, apart in place and decides
 *      how long the body is;
 *   3. http_body_next() takes body bytes off the stream, whatever their framing.
 * Each byte of a header section is looked at once on the way to its end, so that a slow sender costs nothing more. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "http/server.h"

#define HTTP_EXT_MAX 4096      /* bytes of all chunk extensions of one body */
#define HTTP_TRAILER_MAX 16384 /* bytes of all trailers of one body; they are dropped */

enum http_side { HTTP_SIDE_REQUEST, HTTP_SIDE_RESPONSE };

/* Why a message was refused. Static strings. */
struct http_refusal {
	int status;      /* what to tell the peer: 400, 431, 501 ... */
	const char *why; /* one line for a person */
};

/* -- 1. the end of the header section -------------------------------------------------------------------------- */
struct http_head_scan {
	size_t start;   /* offset of the first byte that is not a blank line before the message */
	size_t line;    /* offset of the line that is being read */
	size_t pos;     /* bytes looked at */
	size_t n_lines; /* complete lines, the first line included */
};

/* Looks at p[0..len), which must begin with the same bytes as in the call before. Returns 1 when the section is
 * complete (it is p[s->start .. *ret_end)), 0 when more bytes are needed, or -EBADMSG with *why. s begins zeroed. */
MUST_CHECK int http_head_find(struct http_head_scan *s, enum http_side side, const char *p, size_t len,
			      const struct http_limits *limits, size_t *ret_end, struct http_refusal *why);

/* -- 2. the header section ------------------------------------------------------------------------------------- */
#define HTTP_LENGTH_CHUNKED (-1)
#define HTTP_LENGTH_UNTIL_CLOSE (-2) /* answers only */

struct http_head {
	const char *method; /* requests; static */
	char *target;       /* requests: as sent, in the block */
	int status;         /* answers */
	int minor;          /* 0 or 1 */
	struct http_header *headers;
	size_t n_headers;
	int64_t body_length; /* bytes, or HTTP_LENGTH_*; for an answer to HEAD the caller must know better */
	bool keep_alive;     /* what the peer wants */
	bool expect_continue;
};

/* Takes block[0..len) apart in place: a complete section as http_head_find() found it, and block[len] may be written.
 * slots has room for s->n_lines headers and lives as long as the block. 0, or -EBADMSG with *why. */
MUST_CHECK int http_head_parse(struct http_head *ret, enum http_side side, char *block, size_t len,
			       struct http_header *slots, struct http_refusal *why);

/* The value of a header, any case, or NULL. */
const char *http_header_find(const struct http_header *h, size_t n, const char *name);

/* -- 3. the body ----------------------------------------------------------------------------------------------- */
struct http_body {
	int64_t left;       /* bytes of the body or of the current chunk still to come */
	unsigned state;     /* private: enum in parse_body.c */
	unsigned digits;    /* private: of the chunk size */
	size_t extra_bytes; /* private: extensions or trailers so far */
	size_t line_bytes;  /* private: of the trailer line */
};

struct http_body_piece {
	size_t used;      /* bytes taken from the input */
	const char *data; /* payload within the input, or NULL */
	size_t len;
	bool end; /* the body is complete; nothing may be fed any more */
};

void http_body_init(struct http_body *b, int64_t length); /* bytes or HTTP_LENGTH_* */
/* Takes at most one piece of payload; call until used is len or end is set. 0, or -EBADMSG with *why. len may be 0,
 * which finds the end of an empty body. */
MUST_CHECK int http_body_next(struct http_body *b, const char *p, size_t len, struct http_body_piece *ret,
			      struct http_refusal *why);
bool http_body_may_end(const struct http_body *b); /* whether an end of the stream here ends the body properly */

const char *http_reason(int status); /* "Not Found"; "Unknown" for what has no name */
