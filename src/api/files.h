/* api/files.h: what the handlers of /stat_file, /read_file and /write_file share. file_sha256 is for workers, the rest for
 * the loop's thread. */
#pragma once

#include "base/err.h"
#include "http/server.h"

#define FILE_HEX_LEN 65 /* SHA-256 in hex, with NUL */

/* Query parameters. path: there, not empty, at most 4,095 bytes; relative ones start at the image's working directory.
 * Numbers: bytes up to 2^63-1; absent leaves *ret. A flag is set by any value but "", "0" and "false". -EINVAL. */
MUST_CHECK int file_path(struct http_req *req, const char **ret, struct err *err);
MUST_CHECK int file_number(struct http_req *req, const char *name, uint64_t *ret, struct err *err);
bool file_flag(struct http_req *req, const char *name);

/* The digest of the whole file as it is read, and how many bytes that were. -EIO. Blocks: workers only. */
MUST_CHECK int file_sha256(int fd, char ret_hex[FILE_HEX_LEN], uint64_t *ret_size, struct err *err);
