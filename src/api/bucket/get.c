/* GET /v1/files/{env}/{path}: a file, or a range of it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/bucket/bucket.h"
#include "api/common/send.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

struct get {
	struct api *api;
	struct http_req *req; /* NULL = the client is gone */
	struct store_environment *e;
	char *name;
	int fd;
	uint64_t size;
	int64_t written_ms;
	struct err err;
	struct send *send;
};

static void get_free(struct get *g)
{
	fd_close(g->fd);
	free(g->name);
	free(g);
}

static void on_open(void *arg)
{
	struct get *g = arg;

	if (bucket_open(buckets_fd(g->api->bucket.buckets), g->e->id, g->name, &g->fd, &g->size, &g->written_ms, &g->err) < 0)
		g->fd = -1;
}

/* "bytes=A-B", "bytes=A-", "bytes=-N". Others, lists of ranges too, are not understood, and then the whole file is right.
 * -ERANGE when it begins past the end. */
static int read_range(const char *text, uint64_t size, struct send_range *r)
{
	auto_free char *copy = xstrdup(text && str_starts(text, "bytes=") ? text + 6 : "-");
	char *dash = strchr(copy, '-');
	uint64_t from, to = UINT64_MAX;

	if (!dash || strchr(copy, ','))
		return 0;
	*dash++ = '\0';
	if (!*copy && str_to_u64(dash, &to) == 0) {
		if (to == 0 || size == 0)
			return -ERANGE;
		*r = (struct send_range){ 206, size - MIN(to, size), MIN(to, size) };
		return 0;
	}
	if (str_to_u64(copy, &from) < 0 || (*dash && (str_to_u64(dash, &to) < 0 || to < from)))
		return 0;
	if (from >= size)
		return -ERANGE;
	*r = (struct send_range){ 206, from, MIN(to, size - 1) - from + 1 };
	return 0;
}

static void answer(struct get *g)
{
	struct send_range range = { 200, 0, g->size };
	char text[80];

	http_reply_header(g->req, "Accept-Ranges", "bytes");
	/* Whatever is in it, a browser must not run it as this server's own. */
	http_reply_header(g->req, "Content-Disposition", "attachment");
	http_reply_header(g->req, "X-Content-Type-Options", "nosniff");
	if (read_range(http_req_header(g->req, "Range"), g->size, &range) < 0) {
		snprintf(text, sizeof(text), "bytes */%" PRIu64, g->size);
		http_reply_header(g->req, "Content-Range", text);
		http_reply_error(g->req, 416, "Range: the file has %" PRIu64 " bytes", g->size);
		return;
	}
	if (range.status == 206) {
		snprintf(text, sizeof(text), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, range.offset,
			 range.offset + range.length - 1,
			 g->size);
		http_reply_header(g->req, "Content-Range", text);
	}
	g->send = send_start(g->req, fd_steal(&g->fd), "application/octet-stream", &range, NULL);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct get *g = arg;

	g->req = NULL;
	if (g->send) {
		send_gone(g->send);
		get_free(g);
	}
}

static void on_opened(void *arg)
{
	struct get *g = arg;

	if (g->req && g->err.code == 0)
		answer(g);
	else if (g->req)
		api_reply_file_err(g->req, &g->err);
	if (g->send)
		return; /* on_gone() frees it */
	if (g->req)
		http_req_on_close(g->req, NULL, NULL);
	get_free(g);
}

void bucket_get_handler(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c;
	struct store_environment *e;
	struct get *g;
	struct err err;
	int r = auth_request_optional(a->auth, req, &c, &err);

	r = r < 0 ? r : bucket_find(&a->bucket, c, http_req_param(req, "env"), false, &e, &err);
	r = r < 0 ? r : bucket_check_name("path", http_req_param(req, "path"), &err);
	if (r < 0) {
		api_reply_err(req, &err);
		return;
	}
	g = NEW(struct get);
	*g = (struct get){ .api = a, .req = req, .e = e, .name = xstrdup(http_req_param(req, "path")), .fd = -1 };
	http_req_on_close(req, on_gone, g);
	loop_work(a->loop, LOOP_LANE_ANY, on_open, on_opened, g);
}
