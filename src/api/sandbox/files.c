/* api/sandbox/files.c: POST /stat_file and /read_file. init opens, workers read and hash: the loop never waits for a disk. */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#include "api/common/send.h"
#include "api/sandbox/files.h"
#include "api/sandbox/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define READ_STEP_BYTES (256u * 1024)
#define HASH_STEP_BYTES (16u << 20) /* some hundredths of a second */
#define PATH_MAX_BYTES 4095

/* -- what all file calls share ------------------------------------------------------------------------------------- */

int file_path(struct http_req *req, const char **ret, struct err *err)
{
	const char *path = http_req_query(req, "path");

	if (str_empty(path))
		return err_set(err, -EINVAL, "path: missing: expected a file's path");
	if (strlen(path) > PATH_MAX_BYTES)
		return err_set(err, -EINVAL, "path: %zu bytes, expected at most %d", strlen(path), PATH_MAX_BYTES);
	*ret = path;
	return 0;
}

int file_number(struct http_req *req, const char *name, uint64_t *ret, struct err *err)
{
	const char *text = http_req_query(req, name);

	if (!text)
		return 0;
	if (str_to_u64(text, ret) < 0 || *ret > INT64_MAX)
		return err_set(err, -EINVAL, "%s: \"%.100s\": expected a number of bytes", name, text);
	return 0;
}

bool file_flag(struct http_req *req, const char *name)
{
	const char *text = http_req_query(req, name);

	return text && *text && !str_eq(text, "0") && !str_eq(text, "false");
}

void file_hash_done(struct file_hash *h)
{
	EVP_MD_CTX_free(h->md);
	h->md = NULL;
}

static int hash_begin(struct file_hash *h)
{
	if (h->md)
		return 0;
	h->md = EVP_MD_CTX_new();
	return h->md && EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

int file_hash_end(struct file_hash *h)
{
	unsigned char digest[32];
	bool ok = EVP_DigestFinal_ex(h->md, digest, NULL) == 1;

	file_hash_done(h);
	str_hex(digest, sizeof(digest), h->hex);
	return ok ? 0 : -ENOMEM;
}

int file_hash_add(struct file_hash *h, const void *p, size_t len)
{
	int r = hash_begin(h);

	if (r == 0 && EVP_DigestUpdate(h->md, p, len) != 1)
		r = -ENOMEM;
	h->size += len;
	return r;
}

int file_hash_step(struct file_hash *h, int fd, struct err *err)
{
	auto_free char *block = xmalloc(READ_STEP_BYTES);
	const uint64_t end = h->size + HASH_STEP_BYTES;
	int r = hash_begin(h);

	while (r == 0 && h->size < end) {
		ssize_t n = pread(fd, block, READ_STEP_BYTES, (off_t)h->size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, -EIO, "read the file");
		if (n == 0)
			return file_hash_end(h) < 0 ? err_set(err, -ENOMEM, "make the digest") : 0;
		r = file_hash_add(h, block, (size_t)n);
	}
	return r < 0 ? err_set(err, r, "make the digest") : 1;
}

/* -- /stat_file ---------------------------------------------------------------------------------------------------- */

struct stat_job { /* for init, then for a worker */
	struct use *u; /* NULL = the request is gone */
	struct loop *loop;
	bool hash;
	bool pseudo; /* below /proc or /sys */
	int fd;
	uint64_t size;
	struct file_hash digest;
	int step; /* of the hash: 1 = there is more */
	struct err err;
};

static void stat_reply(struct stat_job *j)
{
	auto_buf struct buf b = { 0 };
	int r;

	buf_init(&b, 256);
	if (!j->u)
		return;
	if (j->err.code) {
		api_reply_file_err(j->u->req, &j->err);
		return;
	}
	r = j->hash ? buf_printf(&b, "{\"size\": %llu, \"sha256\": \"%s\"}", (unsigned long long)j->size, j->digest.hex) :
		      buf_printf(&b, "{\"size\": %llu}", (unsigned long long)j->size);
	if (r == 0)
		http_reply_json(j->u->req, 200, &b);
}

static void stat_done(void *arg)
{
	struct stat_job *j = arg;

	if (j->u)
		j->u->back = NULL;
	stat_reply(j);
	file_hash_done(&j->digest);
	fd_close(j->fd);
	free(j);
}

static void stat_hash(void *arg)
{
	struct stat_job *j = arg;

	j->step = file_hash_step(&j->digest, j->fd, &j->err);
}

static void stat_hashed(void *arg)
{
	struct stat_job *j = arg;

	if (j->step == 1 && j->u && j->u->b) {
		loop_work(j->loop, LOOP_LANE_ANY, stat_hash, stat_hashed, j);
		return;
	}
	if (j->step == 1)
		err_set(&j->err, -EIDRM, "the sandbox has ended"); /* or nobody waits */
	j->size = j->digest.size;
	stat_done(j);
}

static void stat_opened(void *arg, int fd, uint64_t size, const char *tmp UNUSED, const struct err *err)
{
	struct stat_job *j = arg;

	j->fd = fd;
	j->size = size;
	/* init opens none of these: it would see its own. Their size is 0, as stat(2) says, and clients read what has size 0
	 * with a command, which also says whether it exists. */
	if (err && !(j->pseudo && err->code == -EACCES))
		j->err = *err;
	if (!err && j->hash && j->u)
		loop_work(j->loop, LOOP_LANE_ANY, stat_hash, stat_hashed, j);
	else
		stat_done(j);
}

void stat_handler(struct http_req *req, void *sandboxes)
{
	struct sandbox *b = sandbox_of_request(sandboxes, req, stat_handler);
	struct stat_job *j;
	struct use *u;
	const char *path;
	struct err err;

	if (!b)
		return;
	if (file_path(req, &path, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	u = http_req_alloc(req, sizeof(*u));
	use_start(u, req, b, NULL);
	j = NEW(struct stat_job);
	*j = (struct stat_job){ .u = u, .loop = b->s->loop, .hash = file_flag(req, "sha256"), .fd = -1 };
	if (j->hash)
		http_req_watch_peer(req); /* it may take long: nobody should work for a client that has gone */
	j->pseudo = !j->hash && (str_starts(path, "/proc/") || str_starts(path, "/sys/"));
	u->back = &j->u;
	b->s->engine->ops->open(b->box, path, ENGINE_OPEN_READ, NULL, stat_opened, j);
}

/* -- /read_file ---------------------------------------------------------------------------------------------------- */

struct reading {
	struct use *u; /* NULL = the request is gone */
	struct sandboxes *s;
	uint64_t offset, length;
	struct send *send; /* once the file is open */
};

static void reading_free(struct reading *j)
{
	if (j->u)
		j->u->back = NULL;
	free(j);
}

static void reading_closed(struct use *u)
{
	struct reading *j = u->back ? container_of(u->back, struct reading, u) : NULL;

	u->back = NULL;
	if (!j)
		return;
	j->u = NULL;
	if (j->send) {
		send_gone(j->send);
		reading_free(j);
	}
}

static void reading_start(struct reading *j, int fd, uint64_t size)
{
	struct http_req *req = j->u->req;
	struct send_range range = { .status = 200, .offset = j->offset, .length = MIN(j->length, size - j->offset) };
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
	http_reply_header(req, "X-File-Size", text);
	j->send = send_start(req, fd, "application/octet-stream", &range, &j->s->counts.download_bytes_total);
}

static void reading_opened(void *arg, int fd, uint64_t size, const char *tmp UNUSED, const struct err *err)
{
	struct reading *j = arg;
	struct err e;

	if (!err && j->offset > size) {
		err_set(&e, -ERANGE, "offset: %llu is past the end of the file, which has %llu bytes",
			(unsigned long long)j->offset,
			(unsigned long long)size);
		err = &e;
	}
	if (err && j->u)
		api_reply_file_err(j->u->req, err);
	if (!err && j->u) {
		reading_start(j, fd, size);
		return;
	}
	fd_close(fd);
	reading_free(j);
}

void read_handler(struct http_req *req, void *sandboxes)
{
	struct sandbox *b = sandbox_of_request(sandboxes, req, read_handler);
	uint64_t offset = 0, length = INT64_MAX;
	struct reading *j;
	struct use *u;
	const char *path;
	struct err err;
	int r;

	if (!b)
		return;
	r = file_path(req, &path, &err);
	r = r < 0 ? r : file_number(req, "offset", &offset, &err);
	r = r < 0 ? r : file_number(req, "length", &length, &err);
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	u = http_req_alloc(req, sizeof(*u));
	use_start(u, req, b, reading_closed);
	j = NEW(struct reading);
	*j = (struct reading){ .u = u, .s = b->s, .offset = offset, .length = length };
	u->back = &j->u;
	b->s->engine->ops->open(b->box, path, ENGINE_OPEN_READ, NULL, reading_opened, j);
}
