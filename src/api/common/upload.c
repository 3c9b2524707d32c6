/* Life of an upload: reading <-> writing -> told -> freed. At most one write is under way; bytes that arrive meanwhile
 * gather in `pending`, and the request is paused. upload_free() during a write leaves the object to on_written(). */
#include "api/common/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define PIECE_BYTES (1024u * 1024) /* written at once; what one read brings may lie above it */

struct upload {
	struct http_req *req;
	struct loop *loop;
	char *path; /* removed when it could not be finished; NULL = the file is the caller's to keep or remove */
	int fd;
	uint64_t max_bytes, size;
	struct buf pending; /* arrived, not yet given to the worker */
	struct buf writing; /* the worker's */
	bool is_writing, ended, freed, told;
	bool durable;       /* all is synced with the last write */
	bool last;          /* that one was given to the worker */
	int write_error;    /* negative errno; the worker's until is_writing is over */
	struct err err;
	upload_done_fn *done;
	void *arg;
	loop_fn *gone; /* upload_free_then() */
	void *gone_arg;
};

/* -- removing -------------------------------------------------------------------------------------------------- */

struct removing {
	char *path;
	bool folder;
};

static void on_remove(void *arg)
{
	struct removing *x = arg;

	unlink(x->path);
	if (x->folder) {
		*strrchr(x->path, '/') = '\0';
		rmdir(x->path);
	}
}

static void on_removed(void *arg)
{
	struct removing *x = arg;

	free(x->path);
	free(x);
}

void upload_remove(struct loop *l, char *path, bool folder)
{
	struct removing *x = NEW(struct removing);

	*x = (struct removing){ .path = path, .folder = folder };
	loop_work(l, LOOP_LANE_ANY, on_remove, on_removed, x);
}

/* -- life ------------------------------------------------------------------------------------------------------ */

/* Closed before it is removed: the last of both gives the disk's blocks back. */
static void destroy(struct upload *u)
{
	loop_fn *gone = u->gone;
	void *arg = u->gone_arg;

	fd_close(u->fd);
	if (u->path && (!u->told || u->err.code))
		upload_remove(u->loop, STEAL(u->path), false);
	buf_done(&u->pending);
	buf_done(&u->writing);
	free(u->path);
	free(u);
	if (gone)
		gone(arg);
}

struct upload *upload_free(struct upload *u)
{
	if (!u)
		return NULL;
	u->freed = true;
	if (!u->is_writing)
		destroy(u);
	return NULL;
}

void upload_free_then(struct upload *u, loop_fn *fn, void *arg)
{
	if (!u) {
		fn(arg);
		return;
	}
	u->gone = fn;
	u->gone_arg = arg;
	upload_free(u);
}

static void tell(struct upload *u)
{
	if (u->told)
		return;
	u->told = true;
	u->done(u->arg, u->size, u->err.code ? &u->err : NULL); /* may free u */
}

static int sync_all(const struct upload *u)
{
	struct err err = ERR_INIT;

	return fsync(u->fd) < 0 ? -errno : fd_sync_names(u->path, &err);
}

static void on_write(void *arg)
{
	struct upload *u = arg;

	u->write_error = fd_write_all(u->fd, u->writing.data, u->writing.len);
	if (!u->write_error && u->durable && u->last)
		u->write_error = sync_all(u);
}

static void go_on(struct upload *u);

static void on_written(void *arg)
{
	struct upload *u = arg;

	u->is_writing = false;
	if (u->freed) {
		destroy(u);
		return;
	}
	buf_clear(&u->writing);
	if (u->write_error)
		err_sys_code(&u->err, u->write_error, "writing %s", u->path ? u->path : "the file");
	go_on(u);
}

static void start_write(struct upload *u)
{
	struct buf b = u->writing;

	u->writing = u->pending;
	u->pending = b;
	u->is_writing = true;
	u->last = u->ended;
	loop_work(u->loop, LOOP_LANE_ANY, on_write, on_written, u);
}

static void go_on(struct upload *u)
{
	if (u->is_writing)
		return;
	if (u->err.code) {
		tell(u);
	} else if (u->pending.len >= PIECE_BYTES || (u->ended && (u->pending.len || (u->durable && !u->last)))) {
		start_write(u);
		if (!u->ended)
			http_req_resume(u->req);
	} else if (u->ended) {
		tell(u);
	} else {
		http_req_resume(u->req);
	}
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct upload *u = arg;

	if (u->err.code || u->told)
		return;
	u->size += len;
	u->ended = !data;
	if (u->size > u->max_bytes)
		err_set(&u->err, -EMSGSIZE, "the body is above the limit of %llu bytes", (unsigned long long)u->max_bytes);
	else if (data && buf_append(&u->pending, data, len) < 0)
		err_set(&u->err, -ENOBUFS, "the body arrives faster than it can be written");
	if (u->pending.len >= PIECE_BYTES && u->is_writing)
		http_req_pause(req);
	go_on(u);
}

static int check_length(struct http_req *req, uint64_t max_bytes, struct err *err)
{
	if (http_req_content_length(req) > 0 && (uint64_t)http_req_content_length(req) > max_bytes)
		return err_set(err, -EMSGSIZE, "the body has %lld bytes, above the limit of %llu",
			       (long long)http_req_content_length(req), (unsigned long long)max_bytes);
	return 0;
}

static struct upload *begin(struct http_req *req, int fd, uint64_t max_bytes, upload_done_fn *done, void *arg)
{
	struct upload *u = NEW(struct upload);

	u->req = req;
	u->loop = http_req_loop(req);
	u->fd = fd;
	u->max_bytes = max_bytes;
	u->done = done;
	u->arg = arg;
	buf_init(&u->pending, 64 * PIECE_BYTES);
	buf_init(&u->writing, 64 * PIECE_BYTES);
	return u;
}

static int start(struct upload **ret, struct http_req *req, const char *path, bool durable, uint64_t max_bytes,
		 upload_done_fn *done, void *arg, struct err *err)
{
	int r = check_length(req, max_bytes, err);

	if (r < 0)
		return r;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0)
		return err_sys(err, "making %s", path);
	struct upload *u = begin(req, fd, max_bytes, done, arg);
	u->path = xstrdup(path);
	u->durable = durable;
	*ret = u;
	http_req_stream(req, on_body, u);
	return 0;
}

int upload_start(struct upload **ret, struct http_req *req, const char *path, uint64_t max_bytes, upload_done_fn *done,
		 void *arg, struct err *err)
{
	return start(ret, req, path, false, max_bytes, done, arg, err);
}

int upload_start_durable(struct upload **ret, struct http_req *req, const char *path, uint64_t max_bytes, upload_done_fn *done,
			 void *arg, struct err *err)
{
	return start(ret, req, path, true, max_bytes, done, arg, err);
}

int upload_start_fd(struct upload **ret, struct http_req *req, int fd, uint64_t max_bytes, upload_done_fn *done, void *arg,
		    struct err *err)
{
	int r = check_length(req, max_bytes, err);

	if (r < 0) {
		fd_close(fd);
		return r;
	}
	*ret = begin(req, fd, max_bytes, done, arg);
	http_req_stream(req, on_body, *ret);
	return 0;
}
