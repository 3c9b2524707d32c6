#include "api/common/lines.h"

#include "base/mem.h"

#define HEARTBEAT_MS 8000
#define QUEUE_MAX (16u * 1024 * 1024) /* bytes that a client may leave unread before it is cut off */

struct lines {
	struct http_req *req;
	struct loop_timer heartbeat;
	loop_fn *gone;
	void *arg;
	bool ended;
};

static void on_close(struct http_req *req, bool complete, void *arg)
{
	struct lines *l = arg;

	(void)req;
	(void)complete;
	loop_timer_stop(&l->heartbeat);
	if (!l->ended && l->gone)
		l->gone(l->arg);
	free(l);
}

static void on_heartbeat(struct loop_timer *t, void *arg)
{
	struct lines *l = arg;

	(void)http_reply_write(l->req, "\n", 1);
	loop_timer_start(t, HEARTBEAT_MS);
}

struct lines *lines_start(struct http_req *req, loop_fn *gone, void *arg)
{
	struct lines *l = NEW(struct lines);

	l->req = req;
	l->gone = gone;
	l->arg = arg;
	loop_timer_init(&l->heartbeat, http_req_loop(req), on_heartbeat, l);
	loop_timer_start(&l->heartbeat, HEARTBEAT_MS);
	http_req_on_close(req, on_close, l);
	http_reply_header(req, "Cache-Control", "no-cache");
	http_reply_header(req, "X-Accel-Buffering", "no");
	http_reply_start(req, 200, "application/x-ndjson", -1);
	return l;
}

void lines_objects(struct lines *l, const struct buf *text)
{
	if (l->ended || !text->len)
		return;
	if (http_reply_queued(l->req) > QUEUE_MAX) {
		http_req_abort(l->req);
		return;
	}
	/* Above high water the queue's maximum decides. */
	(void)http_reply_write(l->req, text->data, text->len);
}

static void lines_object(struct lines *l, const struct buf *json)
{
	lines_objects(l, json);
	lines_objects(l, &(struct buf){ .data = (char[]){ "\n" }, .len = 1 });
}

void lines_line(struct lines *l, const char *text)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 1024 * 1024);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "line", text);
	json_close(&w);
	if (json_write_end(&w) == 0)
		lines_object(l, &b);
}

void lines_end(struct lines *l, const struct buf *json)
{
	if (l->ended)
		return;
	l->ended = true;
	loop_timer_stop(&l->heartbeat);
	(void)http_reply_write(l->req, json->data, json->len);
	(void)http_reply_write(l->req, "\n", 1);
	http_reply_end(l->req);
}

void lines_fail(struct lines *l, const struct err *err)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64 * 1024);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "status", "failed");
	json_kv_str(&w, "error", err->msg);
	json_close(&w);
	if (json_write_end(&w) == 0)
		lines_end(l, &b);
	else
		http_req_abort(l->req);
}
