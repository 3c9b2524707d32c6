/* api/common/upload.h: a request's body into a file, without blocking the loop: pieces are gathered and written by a worker, and
 * the peer is made to wait while the disk is slower than it. Owned by the caller; uses the request's body, not its
 * on_close: the caller calls upload_free there. Loop thread only. */
#pragma once

#include "http/server.h"

struct upload;

/* err NULL = the whole body is in the file, size bytes of it; else the file goes with the upload. Once, unless upload_free
 * comes before; the caller may answer or free from inside. -EMSGSIZE: above max_bytes. -ENOSPC: the disk is full. */
typedef void upload_done_fn(void *arg, uint64_t size_bytes, const struct err *err);

/* path must not exist. Nothing is asked of the peer when this fails (100-continue is not sent). */
MUST_CHECK int upload_start(struct upload **ret, struct http_req *req, const char *path, uint64_t max_bytes,
			    upload_done_fn *done, void *arg, struct err *err);
/* The same; when done is told, the file and its folder are on the disk, which takes a worker its time. */
MUST_CHECK int upload_start_durable(struct upload **ret, struct http_req *req, const char *path, uint64_t max_bytes,
				    upload_done_fn *done, void *arg, struct err *err);
/* The same as upload_start() from where fd stands, which is taken, on failure too. The file stays, whatever becomes of the
 * upload, with what arrived of it. */
MUST_CHECK int upload_start_fd(struct upload **ret, struct http_req *req, int fd, uint64_t max_bytes, upload_done_fn *done,
			       void *arg, struct err *err);
/* Ends it, also in the middle of a write (which is left to finish on its own); an unfinished file of upload_start() is removed,
 * by a worker. NULL is allowed; returns NULL. */
struct upload *upload_free(struct upload *u);
/* The same; fn runs when nothing writes to the file any more: at once, or later from the loop. */
void upload_free_then(struct upload *u, loop_fn *fn, void *arg);

/* Removes a file that nobody has open any more, and then, where `folder`, the one that it alone lies in: on a worker, as the
 * kernel takes its time for GiBs. What is not there is not missed. Takes path. */
void upload_remove(struct loop *l, char *path, bool folder);
