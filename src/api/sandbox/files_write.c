/* api/sandbox/files_write.c: POST /write_file: pieces into a hidden file beside the target, then a commit that renames it.
 *
 * A sandbox remembers its uploads by path: the hidden file's name, and, once committed, size and digest, so that a commit
 * whose answer was lost can be repeated. The calls of one path run one after the other, those of several at once. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/sandbox/files.h"
#include "api/sandbox/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define PIECE_MAX_BYTES (4u << 20)
#define UPLOADS_MAX 1024 /* paths with an upload that is open, or was committed, in one sandbox */

struct upload {
	char *path;
	char *tmp;                /* the hidden file; NULL = none */
	bool committed;           /* size and hex say what */
	uint64_t size;
	char hex[FILE_HEX_LEN];
	struct file_hash sent;    /* of all that was written so far, as long as piece followed piece; begun or not. The running
				     call's alone */
	struct write_op *running; /* NULL = idle */
	struct list waiting;      /* struct write_op */
	bool orphan;              /* the sandbox is gone: freed with its running call */
	bool unknown;             /* a former daemon may have begun, or committed it: the sandbox says */
};

/* One call. Outlives its request: what began is finished. */
struct write_op {
	struct list node;         /* in upload.waiting */
	struct use *u;            /* NULL = the request is gone */
	struct sandboxes *s;
	struct upload *up;
	struct engine_box *box;   /* NULL once the sandbox is gone */
	bool commit, mkdirs;
	uint64_t offset, size;
	char *data;               /* the body */
	size_t len;
	int fd;
	bool done_before;         /* a commit that a former daemon had made: fd is the target */
	struct err err;
	struct file_hash digest;
	int step; /* of the hash: 1 = there is more */
};

static void op_start(struct write_op *op);
static void op_work(struct write_op *op);
static void op_reply(struct write_op *op);

/* -- the table ----------------------------------------------------------------------------------------------------- */

static void upload_free(struct upload *up)
{
	file_hash_done(&up->sent);
	free(up->path);
	free(up->tmp);
	free(up);
}

static void op_free(struct write_op *op)
{
	if (op->u)
		op->u->back = NULL;
	file_hash_done(&op->digest);
	fd_close(op->fd);
	free(op->data);
	free(op);
}

void uploads_free(struct sandbox *b)
{
	struct map_iter it = { 0 };

	while (map_next(b->uploads, &it)) {
		struct upload *up = it.value;

		list_foreach(&up->waiting, struct write_op, node, op) {
			list_remove(&op->node);
			err_set(&op->err, -EIDRM, "the sandbox has ended");
			if (op->u)
				op_reply(op);
			op_free(op);
		}
		if (up->running)
			up->running->box = NULL;
		up->orphan = up->running;
		if (!up->running)
			upload_free(up);
	}
	b->uploads = map_free(b->uploads);
}

/* Makes room by forgetting one of which nothing is staged: it was committed, or never began. */
static bool make_room(struct sandbox *b)
{
	struct map_iter it = { 0 };

	if (map_len(b->uploads) < UPLOADS_MAX)
		return true;
	while (map_next(b->uploads, &it)) {
		struct upload *up = it.value;

		if (up->tmp || up->running || !list_empty(&up->waiting))
			continue;
		map_del(b->uploads, up->path);
		upload_free(up);
		return true;
	}
	return false;
}

static struct upload *upload_of(struct sandbox *b, const char *path)
{
	struct upload *up = map_get(b->uploads, path);

	if (up || !make_room(b))
		return up;
	up = NEW(struct upload);
	up->path = xstrdup(path);
	up->unknown = b->adopted;
	list_init(&up->waiting);
	map_put(b->uploads, path, up);
	return up;
}

/* -- ends ---------------------------------------------------------------------------------------------------------- */

static void op_reply(struct write_op *op)
{
	auto_buf struct buf b = { 0 };
	int r;

	buf_init(&b, 256);
	if (op->err.code) {
		api_reply_file_err(op->u->req, &op->err);
		return;
	}
	r = op->commit ? buf_printf(&b, "{\"sha256\": \"%s\", \"size\": %llu}", op->digest.hex, (unsigned long long)op->size) :
			 buf_printf(&b, "{\"written\": %zu}", op->len);
	if (r == 0)
		http_reply_json(op->u->req, 200, &b);
}

static void op_over(struct write_op *op)
{
	struct upload *up = op->up;
	struct write_op *next;

	if (op->u)
		op_reply(op);
	op_free(op);
	up->running = NULL;
	if (up->orphan) {
		upload_free(up);
		return;
	}
	next = list_first(&up->waiting, struct write_op, node);
	if (!next)
		return;
	list_remove(&next->node);
	op_start(next);
}

static void op_fail(struct write_op *op, const struct err *err)
{
	op->err = *err;
	op_over(op);
}

/* -- pieces -------------------------------------------------------------------------------------------------------- */

static void forget_digest(struct upload *up)
{
	file_hash_done(&up->sent);
	up->sent.size = 0;
}

/* While it is at hand: reading the file again for its digest would cost as much as all else. A piece that does not follow the
 * one before ends it, and the commit reads. */
static void digest_piece(const struct write_op *op)
{
	struct upload *up = op->up;
	bool follows = op->offset == 0 || (up->sent.md && up->sent.size == op->offset);

	if (op->offset == 0)
		forget_digest(up);
	if (!follows || file_hash_add(&up->sent, op->data, op->len) < 0)
		forget_digest(up);
}

static void piece_work(void *arg)
{
	struct write_op *op = arg;

	/* A first piece begins anew, whatever an upload that was given up has left. */
	if (op->offset == 0 && ftruncate(op->fd, 0) < 0)
		err_sys(&op->err, "write the file");
	else if (file_piece_write(op->fd, op->data, op->len, op->offset, &op->err) == 0)
		digest_piece(op);
	if (op->err.code)
		forget_digest(op->up);
}

/* For good: no client sends such a piece again, and what came before it would take room for as long as the sandbox lives. */
static bool is_full(const struct err *err)
{
	return err->code == -ENOSPC || err->code == -EDQUOT || err->code == -EFBIG;
}

static void discard(struct write_op *op)
{
	struct upload *up = op->up;

	if (!op->box || !up->tmp)
		return;
	op->s->engine->ops->discard(op->box, up->path, up->tmp);
	free(up->tmp);
	up->tmp = NULL;
}

static void piece_done(void *arg)
{
	struct write_op *op = arg;

	if (!op->err.code)
		op->s->counts.upload_bytes_total += op->len;
	else if (is_full(&op->err))
		discard(op);
	op_over(op);
}

/* -- commits ------------------------------------------------------------------------------------------------------- */

static void commit_renamed(void *arg, const struct err *err)
{
	struct write_op *op = arg;
	struct upload *up = op->up;

	if (err) {
		op_fail(op, err);
		return;
	}
	free(up->tmp);
	up->tmp = NULL;
	up->committed = true;
	up->size = op->size;
	memcpy(up->hex, op->digest.hex, sizeof(up->hex));
	op_over(op);
}

/* What was made on the way. It is that of what was sent: whoever inside may write the file could have changed it as well a
 * moment later. */
static int take_digest(struct write_op *op)
{
	int r = file_hash_end(&op->up->sent);

	op->digest.size = op->size;
	memcpy(op->digest.hex, op->up->sent.hex, sizeof(op->digest.hex));
	return r < 0 ? err_set(&op->err, r, "make the digest") : 0;
}

static void commit_work(void *arg)
{
	struct write_op *op = arg;
	struct stat st;

	/* Root inside may have made it any other size. */
	if (fstat(op->fd, &st) < 0)
		op->step = err_sys(&op->err, "look at the file");
	else if ((uint64_t)st.st_size != op->size)
		op->step = err_set(&op->err, -EEXIST, "size: %llu, but %llu bytes were written", (unsigned long long)op->size,
				   (unsigned long long)st.st_size);
	else if (op->up->sent.md && op->up->sent.size == op->size)
		op->step = take_digest(op);
	else
		op->step = file_hash_step(&op->digest, op->fd, &op->err);
	if (op->step == 0 && op->digest.size != op->size)
		err_set(&op->err, -EEXIST, "size: %llu, but the file has changed meanwhile", (unsigned long long)op->size);
}

static void commit_known(struct write_op *op)
{
	struct upload *up = op->up;

	up->committed = true;
	up->size = op->size;
	memcpy(up->hex, op->digest.hex, sizeof(up->hex));
	op_over(op);
}

static void commit_hashed(void *arg)
{
	struct write_op *op = arg;

	if (op->step == 1 && op->box) {
		op_work(op);
		return;
	}
	if (!op->err.code && !op->box)
		err_set(&op->err, -EIDRM, "the sandbox has ended");
	if (op->err.code)
		op_over(op);
	else if (op->done_before)
		commit_known(op);
	else
		op->s->engine->ops->commit(op->box, op->up->path, op->up->tmp, commit_renamed, op);
}

/* -- both ---------------------------------------------------------------------------------------------------------- */

static void op_work(struct write_op *op)
{
	loop_work(op->s->loop, LOOP_LANE_ANY, op->commit ? commit_work : piece_work, op->commit ? commit_hashed : piece_done, op);
}

/* The answer of a commit may have been lost with a daemon: then the file is there, and the client compares its digest. */
static void target_opened(void *arg, int fd, uint64_t size, const char *tmp UNUSED, const struct err *err)
{
	struct write_op *op = arg;

	op->fd = fd;
	op->done_before = true;
	if (err || size != op->size) {
		err_set(&op->err, -EEXIST, "%.500s: no upload is open: begin with offset 0", op->up->path);
		op_over(op);
		return;
	}
	op_work(op);
}

/* The staged file of an upload that a former daemon would have begun: whether it did shows by the size. True = go on. */
static bool unknown_opened(struct write_op *op, uint64_t size, const char *tmp)
{
	const struct engine_ops *ops = op->s->engine->ops;

	op->up->unknown = false;
	if (op->commit ? size == op->size : size >= op->offset)
		return true;
	op->fd = fd_close(op->fd);
	if (size == 0)
		ops->discard(op->box, op->up->path, tmp); /* made just now */
	if (op->commit) {
		ops->open(op->box, op->up->path, ENGINE_OPEN_READ, NULL, target_opened, op);
		return false;
	}
	err_set(&op->err, -EEXIST, "%.500s: no upload is open: begin with offset 0", op->up->path);
	op_over(op);
	return false;
}

static void op_open(struct write_op *op);

static void op_opened(void *arg, int fd, uint64_t size, const char *tmp, const struct err *err)
{
	struct write_op *op = arg;
	struct upload *up = op->up;
	struct err e;

	op->fd = fd;
	if (err && up->tmp && (err->code == -ENOENT || (!op->commit && op->offset == 0))) {
		/* Somebody inside has removed it, or put something else there; what was sent is lost. */
		free(up->tmp);
		up->tmp = NULL;
		if (!op->commit && op->offset == 0 && op->box) { /* and begins anew with this piece */
			op_open(op);
			return;
		}
	}
	if (!err && up->unknown && op->box && !unknown_opened(op, size, tmp))
		return;
	if (!err && op->commit && size != op->size)
		err = (err_set(&e, -EEXIST, "size: %llu, but %llu bytes were written", (unsigned long long)op->size,
			       (unsigned long long)size), &e);
	if (err) {
		op_fail(op, err);
		return;
	}
	if (!up->tmp)
		up->tmp = xstrdup(tmp);
	up->committed = false;
	op_work(op);
}

/* True when the answer is known without asking anybody. */
static bool op_answered(struct write_op *op)
{
	struct upload *up = op->up;

	if (op->commit && up->committed && up->size == op->size) {
		memcpy(op->digest.hex, up->hex, sizeof(up->hex));
		return true;
	}
	if (up->tmp || up->unknown || (!op->commit && op->offset == 0))
		return false;
	err_set(&op->err, -EEXIST, "%.500s: no upload is open: begin with offset 0", up->path);
	return true;
}

static void op_open(struct write_op *op)
{
	op->s->engine->ops->open(op->box, op->up->path, op->mkdirs ? ENGINE_OPEN_STAGE_MKDIRS : ENGINE_OPEN_STAGE, op->up->tmp,
				 op_opened,
				 op);
}

static void op_start(struct write_op *op)
{
	struct upload *up = op->up;

	up->running = op;
	if (op_answered(op))
		op_over(op);
	else
		op_open(op);
}

static int op_read(struct write_op *op, struct http_req *req, struct err *err)
{
	bool has_size = http_req_query(req, "size");
	int r = file_number(req, "offset", &op->offset, err);

	r = r < 0 ? r : file_number(req, "size", &op->size, err);
	op->commit = file_flag(req, "commit");
	op->mkdirs = file_flag(req, "mkdirs");
	if (r == 0 && op->commit && !has_size)
		r = err_set(err, -EINVAL, "size: missing: a commit says how many bytes the file has");
	return r;
}

struct write_use { /* in the request's memory */
	struct use use;
	const char *path;
};

static int op_begin(struct write_use *w, size_t len, struct err *err)
{
	struct sandbox *b = w->use.b;
	struct write_op op = { .u = &w->use, .s = b->s, .box = b->box, .len = len, .fd = -1 }, *own;
	int r = op_read(&op, w->use.req, err);

	if (r < 0)
		return r;
	if (b->state != SANDBOX_READY)
		return err_set(err, -EIDRM, "the sandbox has ended");
	op.up = upload_of(b, w->path);
	if (!op.up)
		return err_set(err, -EUSERS, "%d uploads are open in this sandbox", UPLOADS_MAX);
	own = xmemdup(&op, sizeof(op));
	list_init(&own->node);
	own->data = op.commit ? NULL : http_req_take_body(w->use.req, NULL);
	w->use.back = &own->u;
	if (op.up->running)
		list_push_back(&op.up->waiting, &own->node);
	else
		op_start(own);
	return 0;
}

static void on_body(struct http_req *req, const char *data UNUSED, size_t len, void *arg)
{
	struct write_use *w = arg;
	struct err err;

	if (use_alive(&w->use) && op_begin(w, len, &err) < 0)
		api_reply_err(req, &err);
}

void write_handler(struct http_req *req, void *sandboxes)
{
	struct sandbox *b = sandbox_of_request(sandboxes, req, write_handler);
	struct write_use *w;
	const char *path;
	struct err err;

	if (!b)
		return;
	if (file_path(req, &path, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	w = http_req_alloc(req, sizeof(*w));
	w->path = path;
	use_start(&w->use, req, b, NULL);
	http_req_body(req, PIECE_MAX_BYTES, on_body, w);
}
