/* POST /v1/rollouts: what agents did, from the clients that log it. Answered when it is on disk. */
#include "rollout/recorder.h"

#include <errno.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/common/metrics.h"
#include "base/mem.h"

struct post {
	struct api *api;
	struct http_req *req; /* NULL = the client is gone */
	const struct auth_caller *caller; /* alive as long as the request */
	struct recorder_turn turn;
	bool recording; /* the recorder has it: freed when it is done */
};

static void post_free(struct post *p)
{
	recorder_leave(&p->turn);
	free(p);
}

static void on_gone(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct post *p = arg;

	p->req = NULL;
	if (!p->recording)
		post_free(p);
}

static void answer(struct http_req *req, size_t recorded, size_t repeated)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_i64(&w, "recorded", (int64_t)recorded);
	json_kv_i64(&w, "repeated", (int64_t)repeated);
	json_close(&w);
	api_send(req, 200, &w, &b);
}

/* Whatever is not the request's fault may pass (a full disk): clients repeat a 503. */
static void refuse(struct http_req *req, const struct err *err)
{
	struct err e = *err;

	if (e.code != -EINVAL)
		e.code = -EAGAIN;
	api_reply_err(req, &e);
}

static void on_recorded(void *arg, size_t recorded, size_t repeated, const struct err *err)
{
	struct post *p = arg;

	if (p->req) {
		http_req_on_close(p->req, NULL, NULL);
		if (err)
			refuse(p->req, err);
		else
			answer(p->req, recorded, repeated);
	}
	post_free(p);
}

static void on_body(struct http_req *req, const char *data UNUSED, size_t len UNUSED, void *arg)
{
	struct post *p = arg;
	size_t n;
	char *body = http_req_take_body(req, &n);

	p->recording = true;
	recorder_record(p->api->recorder, p->caller, body, n, on_recorded, p);
}

static void on_turn(void *arg)
{
	struct post *p = arg;

	http_req_body(p->req, 0, on_body, p);
}

static void on_post(struct http_req *req, void *arg)
{
	struct api *a = arg;
	const struct auth_caller *c = api_caller_with(a, req, STORE_ROLE_MEMBER);
	int64_t length = http_req_content_length(req);

	if (!c)
		return;
	struct post *p = NEW(struct post);
	p->api = a;
	p->req = req;
	p->caller = c;
	http_req_on_close(req, on_gone, p);
	recorder_wait(a->recorder, &p->turn, c->ns, length < 0 ? a->body_max_bytes : MIN((uint64_t)length, a->body_max_bytes),
		      on_turn, p);
}

static void collect(struct api_metrics_out *o, void *arg)
{
	const struct api *a = arg;
	const struct recorder_stats *s = recorder_stats(a->recorder);

	api_metrics_counter(o, "openreward_rollout_events_total", "state=\"recorded\"",
			    "Events of rollouts that were written.", (double)s->recorded);
	api_metrics_counter(o, "openreward_rollout_events_total", "state=\"repeated\"",
			    "Events of rollouts that were written.", (double)s->repeated);
	api_metrics_gauge(o, "openreward_rollout_pending_bytes", NULL, "Bodies of events that are not on disk yet.",
			  (double)s->pending_bytes);
}

void api_rollouts_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "POST", "/v1/rollouts", on_post, a);
	if (a->metrics)
		api_metrics_add(a->metrics, collect, a);
}
