/* api/sandbox/files.h: what the handlers of /stat_file, /read_file and /write_file share. file_hash_step is for workers, the rest
 * for the loop's thread. */
#pragma once

#include "base/err.h"
#include "http/server.h"

#define FILE_HEX_LEN 65 /* SHA-256 in hex, with NUL */

/* Query parameters. path: there, not empty, at most 4,095 bytes; relative ones start at the image's working directory.
 * Numbers: bytes up to 2^63-1; absent leaves *ret. A flag is set by any value but "", "0" and "false". -EINVAL. */
MUST_CHECK int file_path(struct http_req *req, const char **ret, struct err *err);
MUST_CHECK int file_number(struct http_req *req, const char *name, uint64_t *ret, struct err *err);
bool file_flag(struct http_req *req, const char *name);

/* The digest of a whole file, made in steps: a sparse file of terabytes costs its owner nothing and must neither hold a
 * worker for hours nor outlive whoever asked. All zero = not begun. */
struct file_hash {
	struct evp_md_ctx_st *md; /* NULL = not begun, or over */
	uint64_t size;            /* bytes read so far */
	char hex[FILE_HEX_LEN];   /* once a step returned 0 */
};

/* Some MiB more. 1 = there may be more: queue it again, behind others; 0 = size and hex are made; -EIO, -ENOMEM. Blocks:
 * workers only. */
MUST_CHECK int file_hash_step(struct file_hash *h, int fd, struct err *err);

/* The same with bytes at hand: those that come next. The end makes hex. -ENOMEM. */
MUST_CHECK int file_hash_add(struct file_hash *h, const void *p, size_t len);
MUST_CHECK int file_hash_end(struct file_hash *h);

/* Writes a piece at its offset; what lies far behind in a large file goes past the page cache, where the file system can. Copying
 * a GiB into btrfs' cache takes 1.1 s of processor time, more than all the rest of an upload. Blocks: workers only. */
MUST_CHECK int file_piece_write(int fd, const char *p, size_t len, uint64_t offset, struct err *err);

/* Frees what an unfinished one holds; harmless afterwards. */
void file_hash_done(struct file_hash *h);
