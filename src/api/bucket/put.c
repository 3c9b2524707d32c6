/* PUT /v1/files/{env}/{path}: the bytes of a file, allowed by the signature of the URL alone.
 *
 *   checked -> RESERVING -> RECEIVING -> PLACING -> answered
 *
 *   RESERVING  the bucket is asked for room, which may mean counting it.   bucket_put_handler()
 *   RECEIVING  the body goes to a file aside.                              on_reserved()
 *   PLACING    a worker syncs it and renames it into place,                on_received()
 *              and out again where the environment was deleted meanwhile.  on_placed()
 *
 * Whatever ends it before the rename leaves the old file as it was. With Content-Range, the file aside belongs to the URL
 * and not to the request, so that a later one goes on where this one stopped. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/bucket/bucket.h"
#include "api/common/upload.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"

struct range { /* Content-Range */
	bool given;
	bool asks;            /* "bytes *" "/TOTAL": how far did I come? */
	uint64_t from, to;    /* both included */
	bool total_known;
	uint64_t total;
};

struct put {
	struct api *api;
	struct http_req *req; /* NULL = the client is gone */
	struct store_environment *e;
	char *name;
	char aside[96];       /* below DATA/buckets/.aside */
	uint64_t max_bytes;
	struct range range;
	bool claimed;         /* the part is ours alone */
	uint64_t reserved, size, old;
	uint64_t here;        /* of a part, when this began: it counts, and room is asked for the rest only */
	bool left;            /* a whole file aside, which is no part, and without a place yet */
	bool busy;            /* on_reserved() or on_placed() will come */
	struct upload *upload;
	struct err err;
};

static char *aside_path(const struct put *p)
{
	return xasprintf("%s/" BUCKET_ASIDE "/%s", buckets_path(p->api->bucket.buckets), p->aside);
}

static uint64_t part_bytes(const struct put *p)
{
	auto_free char *path = aside_path(p);
	struct stat st;

	return lstat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* What is aside and no part of a resumable upload is nobody's now; after it was placed there is none. */
static void put_over(void *arg)
{
	struct put *p = arg;

	if (p->left)
		upload_remove(p->api->loop, aside_path(p), false);
	buckets_settle(p->api->bucket.buckets, p->e->id, p->reserved,
		       p->claimed ? (int64_t)part_bytes(p) - (int64_t)p->here : 0);
	if (p->claimed)
		buckets_release(p->api->bucket.buckets, p->aside);
	free(p->name);
	free(p);
}

/* A part is nobody else's before the last write to it is over: that would go into the file that another request makes of it. */
static void put_free(struct put *p)
{
	upload_free_then(STEAL(p->upload), put_over, p);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct put *p = arg;

	p->req = NULL;
	if (!p->busy)
		put_free(p);
}

/* -- the answer -------------------------------------------------------------------------------------------------------- */

static void reply_done(struct put *p)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 16 * 1024);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "path", p->name);
	json_kv_i64(&w, "size", (int64_t)p->size);
	json_close(&w);
	api_send(p->req, 200, &w, &b);
}

/* As Google's resumable uploads: 308, and what is here. */
static void reply_incomplete(struct put *p, uint64_t have)
{
	char text[48];

	snprintf(text, sizeof(text), "bytes=0-%" PRIu64, have - 1);
	if (have)
		http_reply_header(p->req, "Range", text);
	http_reply(p->req, 308, NULL, NULL, 0);
}

/* -- placing ----------------------------------------------------------------------------------------------------------- */

static void on_place(void *arg)
{
	struct put *p = arg;

	if (bucket_place(buckets_fd(p->api->bucket.buckets), p->e->id, p->name, p->aside, &p->old, &p->err) < 0)
		p->old = 0;
}

static int check_environment(const struct store_environment *e, struct err *err)
{
	return e && !e->removing ? 0 : err_set(err, -ENOENT, "the environment is gone");
}

static void on_unplace(void *arg)
{
	struct put *p = arg;
	uint64_t files, bytes;

	/* -ENOENT: its removal came later, or another upload's end. */
	(void)!bucket_remove_folder(buckets_fd(p->api->bucket.buckets), p->e->id, "", &files, &bytes, &p->err);
}

static void on_unplaced(void *arg)
{
	struct put *p = arg;

	p->busy = false;
	if (!p->req) {
		put_free(p);
		return;
	}
	(void)!check_environment(p->e, &p->err);
	api_reply_file_err(p->req, &p->err);
}

static void on_placed(void *arg)
{
	struct put *p = arg;

	/* Deleted while a worker synced: the file may have made the folder anew after it was removed, and is the last to know. */
	if (p->e->removing) {
		loop_work(p->api->loop, LOOP_LANE_ANY, on_unplace, on_unplaced, p);
		return;
	}
	p->busy = false;
	if (!p->err.code) {
		p->left = false;
		buckets_settle(p->api->bucket.buckets, p->e->id, p->reserved, (int64_t)p->size - (int64_t)p->old);
		p->reserved = 0;
	}
	if (!p->req)
		put_free(p);
	else if (p->err.code)
		api_reply_file_err(p->req, &p->err);
	else
		reply_done(p);
}

/* Its environment may have been deleted while the bytes came: a file that got its place now would make the folder anew, and
 * nothing would ever remove it. */
static void place(struct put *p)
{
	struct err err;

	if (check_environment(p->e, &err) < 0) {
		api_reply_file_err(p->req, &err);
		return;
	}
	p->busy = true;
	loop_work(p->api->loop, LOOP_LANE_ANY, on_place, on_placed, p);
}

/* A body of unknown length has its room asked for now that it is known. */
static void on_late_reserved(void *arg, const struct err *err)
{
	struct put *p = arg;

	p->busy = false;
	if (!err)
		p->reserved = p->size;
	if (!p->req)
		put_free(p);
	else if (err)
		api_reply_file_err(p->req, err);
	else
		place(p);
}

/* -- receiving ---------------------------------------------------------------------------------------------------------- */

static void reply_upload_error(struct put *p, const struct err *err)
{
	struct err e;

	/* Its own message names a path of the server. */
	if (err->code == -ENOSPC || err->code == -EDQUOT)
		err_set(&e, err->code, "the server's disk is full; \"%.200s\" is as it was", p->name);
	else if (err->code == -EMSGSIZE)
		err_set(&e, err->code, "\"%.200s\": more than the %" PRIu64 " bytes that the URL allows", p->name, p->max_bytes);
	else
		err_set(&e, err->code, "\"%.200s\" could not be written: %s", p->name, strerror(-err->code));
	api_reply_file_err(p->req, &e);
}

static void on_received(void *arg, uint64_t size, const struct err *err)
{
	struct put *p = arg;
	const struct range *r = &p->range;

	p->size = size + (r->given ? r->from : 0);
	p->left = !err && !r->given;
	if (err) {
		reply_upload_error(p, err);
	} else if (r->given && size != r->to - r->from + 1) {
		http_reply_error(p->req, 400,
				 "Content-Range: the body has %" PRIu64 " bytes, not those from %" PRIu64 " to %" PRIu64, size,
				 r->from, r->to);
	} else if (r->given && (!r->total_known || r->to + 1 < r->total)) {
		reply_incomplete(p, r->to + 1);
	} else if (p->reserved + p->here >= p->size) {
		place(p);
	} else {
		p->busy = true;
		buckets_settle(p->api->bucket.buckets, p->e->id, p->reserved, 0);
		p->reserved = 0;
		buckets_reserve(p->api->bucket.buckets, p->e->id, bucket_quota(&p->api->bucket, p->e), p->size, on_late_reserved,
				p);
	}
}

/* Returns 0, 1 = answered, or an error. */
static int open_part(struct put *p, const char *path, int *ret, struct err *err)
{
	auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	struct stat st;
	uint64_t have;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, -errno, "open the part");
	have = (uint64_t)st.st_size;
	if (p->range.asks) {
		reply_incomplete(p, have);
		return 1;
	}
	if (p->range.from > have) {
		http_reply_error(p->req, 416, "Content-Range: begins at %" PRIu64 ", but only the first %" PRIu64 " bytes are here",
				 p->range.from, have);
		return 1;
	}
	/* What is sent again counts, whatever was here. */
	if (ftruncate(fd, (off_t)p->range.from) < 0 || lseek(fd, (off_t)p->range.from, SEEK_SET) < 0)
		return err_set(err, -errno, "cut the part");
	*ret = fd_steal(&fd);
	return 0;
}

static int receive(struct put *p, struct err *err)
{
	auto_free char *path = aside_path(p);
	int fd = -1, r;

	if (!p->range.given)
		return upload_start(&p->upload, p->req, path, p->max_bytes, on_received, p, err);
	r = open_part(p, path, &fd, err);
	if (r != 0)
		return r;
	return upload_start_fd(&p->upload, p->req, fd, p->range.to - p->range.from + 1, on_received, p, err);
}

static void on_reserved(void *arg, const struct err *err)
{
	struct put *p = arg;
	struct err own = ERR_INIT;

	p->busy = false;
	if (err)
		p->reserved = 0;
	if (!p->req)
		put_free(p);
	else if (err)
		api_reply_file_err(p->req, err);
	else if (receive(p, &own) < 0)
		reply_upload_error(p, &own);
}

/* -- the request ---------------------------------------------------------------------------------------------------------- */

static int check_signature(struct api *a, struct http_req *req, const char *name, uint64_t *ret_max, struct err *err)
{
	const char *type = http_req_query(req, "type"), *max = http_req_query(req, "max"),
		*expires = http_req_query(req, "expires");
	const char *signature = http_req_query(req, "signature"), *fields[BUCKET_URL_FIELDS], *sent;
	uint64_t until;
	size_t len;

	if (!type || !max || !expires || !signature)
		return err_set(err, -EPERM, "an upload needs a URL from POST /v1/files/upload-urls: this one is not signed");
	bucket_url_fields(fields, http_req_param(req, "env"), name, type, max, expires);
	if (!signer_check(&a->bucket.signer, fields, BUCKET_URL_FIELDS, signature) || str_to_u64(max, ret_max) < 0 ||
	    str_to_u64(expires, &until) < 0)
		return err_set(err, -EPERM, "the signature of this URL is not valid: it was made for another file, or the URL was changed");
	if (time_wall_ms() > (int64_t)until)
		return err_set(err, -EPERM, "this URL has expired: ask for another one");
	sent = http_req_header(req, "Content-Type");
	len = sent ? strcspn(sent, ";") : 0;
	if (sent && !(strlen(type) == len && strncmp(sent, type, len) == 0) && !str_eq(sent, type))
		return err_set(err, -EPERM, "Content-Type: \"%.100s\": this URL was signed for \"%.100s\"", sent, type);
	return 0;
}

/* "bytes A-B/TOTAL", TOTAL "*" while it is not known; "bytes *" "/TOTAL". */
static int read_range(const char *text, uint64_t max_bytes, struct range *ret, struct err *err)
{
	unsigned long long from = 0, to = 0;
	const char *slash = text ? strchr(text, '/') : NULL;
	struct range r = { .given = true, .total_known = slash && !str_eq(slash + 1, "*") };
	int end = 0;

	if (!text)
		return 0;
	r.asks = str_starts(text, "bytes */");
	if (!slash || (r.total_known && str_to_u64(slash + 1, &r.total) < 0) ||
	    (!r.asks && (sscanf(text, "bytes %20llu-%20llu/%n", &from, &to, &end) != 2 || text + end != slash + 1 || to < from)))
		return err_set(err, -EINVAL, "Content-Range: \"%.100s\": expected \"bytes FIRST-LAST/TOTAL\" or \"bytes */TOTAL\"",
			       text);
	r.from = from;
	r.to = to;
	if (!r.asks && r.total_known && to >= r.total)
		return err_set(err, -EINVAL, "Content-Range: \"%.100s\": the last byte lies past the total", text);
	if (to >= max_bytes || (r.total_known && r.total > max_bytes))
		return err_set(err, -EMSGSIZE, "Content-Range: above the %" PRIu64 " bytes that the URL allows", max_bytes);
	*ret = r;
	return 0;
}

static int check_length(struct http_req *req, uint64_t max_bytes, struct err *err)
{
	int64_t len = http_req_content_length(req);

	if (len > 0 && (uint64_t)len > max_bytes)
		return err_set(err, -EMSGSIZE, "the file has %" PRId64 " bytes, above the %" PRIu64 " that the URL allows", len,
			       max_bytes);
	return 0;
}

static void begin(struct put *p, struct err *err)
{
	int64_t len = http_req_content_length(p->req);
	char id[UUID_LEN];
	uint64_t bytes = p->range.asks ? 0 : p->range.given ? (p->range.total_known ? p->range.total : p->range.to + 1) :
			 len > 0 ? (uint64_t)len : 0;

	if (p->range.given)
		snprintf(p->aside, sizeof(p->aside), BUCKET_PART "%s-%.40s", p->e->id, http_req_query(p->req, "signature"));
	else
		snprintf(p->aside, sizeof(p->aside), "up-%s", random_uuid(id));
	p->here = p->range.given ? part_bytes(p) : 0;
	p->claimed = p->range.given && buckets_claim(p->api->bucket.buckets, p->aside, p->here);
	http_req_on_close(p->req, on_gone, p);
	if (p->range.given && !p->claimed) {
		err_set(err, -EBUSY, "another request is writing to this upload");
		api_reply_err(p->req, err);
		return;
	}
	p->busy = true;
	p->reserved = bytes - MIN(bytes, p->here);
	buckets_reserve(p->api->bucket.buckets, p->e->id, bucket_quota(&p->api->bucket, p->e), p->reserved, on_reserved, p);
}

void bucket_put_handler(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const char *name = http_req_param(req, "path");
	struct store_environment *e = store_environment_by_id(a->store, http_req_param(req, "env"));
	struct range range = { .given = false };
	uint64_t max = 0;
	struct put *p;
	struct err err;
	int r = check_signature(a, req, name, &max, &err);

	r = r < 0 ? r : check_environment(e, &err);
	r = r < 0 ? r : read_range(http_req_header(req, "Content-Range"), max, &range, &err);
	r = r < 0 ? r : check_length(req, max, &err);
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	p = NEW(struct put);
	*p = (struct put){ .api = a, .req = req, .e = e, .name = xstrdup(name), .max_bytes = max, .range = range };
	begin(p, &err);
}
