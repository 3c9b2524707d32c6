/* /health, /version, /metrics, /v1/leaks. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/common/metrics.h"
#include "base/mem.h"

#define PAGE_MAX (8u * 1024 * 1024)

#ifndef OPENREWARD_COMMIT
#define OPENREWARD_COMMIT ""
#endif

/* With a session's id these are questions to its environment's server; true = passed on. */
static bool is_sessions(struct http_req *req, struct api *a)
{
	if (!a->of_session || !http_req_header(req, "X-Session-ID"))
		return false;
	a->of_session(req, a->of_session_arg);
	return true;
}

static void on_health(struct http_req *req, void *arg)
{
	static const char ok[] = "{\"status\":\"ok\"}", starting[] = "{\"status\":\"starting\"}";
	struct api *a = arg;

	if (is_sessions(req, a))
		return;
	if (!a->ready || a->ready(a->ready_arg)) {
		http_reply(req, 200, "application/json", ok, sizeof(ok) - 1);
		return;
	}
	http_reply_header(req, "Retry-After", "1");
	http_reply(req, 503, "application/json", starting, sizeof(starting) - 1);
}

static void on_version(struct http_req *req, void *arg)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (is_sessions(req, arg))
		return;
	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "name", "openreward");
	json_kv_str(&w, "version", OPENREWARD_VERSION);
	json_kv_str(&w, "commit", OPENREWARD_COMMIT);
	json_close(&w);
	api_send(req, 200, &w, &b);
}

/* -- /metrics -------------------------------------------------------------------------------------------------- */

/* Scrapers of this machine come without a key; from elsewhere it is an operator's to look. */
static int may_scrape(struct api *a, struct http_req *req, struct err *err)
{
	const struct auth_caller *c = NULL;

	if (http_req_is_local(req))
		return 0;
	int r = auth_request_optional(a->auth, req, &c, err);
	if (r == 0 && !c)
		r = err_set(err, -EKEYREJECTED, "no API key: from another machine /metrics needs an operator's");
	return r < 0 ? r : auth_need_role(c, STORE_ROLE_ADMIN, err);
}

/* Figures only, no names of environments or keys. */
static void on_metrics(struct http_req *req, void *arg)
{
	struct api *a = arg;
	auto_buf struct buf b = { 0 };
	struct err err;

	buf_init(&b, PAGE_MAX);
	/* Whoever sits in a sandbox needs no figures of its neighbours. */
	if (http_req_tag(req)) {
		http_reply_error(req, 403, "/metrics: not for programs in a sandbox");
		return;
	}
	if (may_scrape(a, req, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	if (!a->metrics || api_metrics_page(a->metrics, &b) < 0) {
		http_reply_error(req, 500, "the metrics cannot be written");
		return;
	}
	http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
}

static void collect_http(struct api_metrics_out *o, void *arg)
{
	const struct api *a = arg;
	const struct http_stats *s = a->http ? http_server_stats(a->http) : NULL;

	if (!s)
		return;
	api_metrics_counter(o, "openreward_http_connections_total", NULL, "Connections accepted.", (double)s->connections);
	api_metrics_counter(o, "openreward_http_requests_total", NULL, "Valid requests.", (double)s->requests);
	api_metrics_counter(o, "openreward_http_refused_total", NULL, "Requests that were no valid HTTP.", (double)s->refused);
	api_metrics_counter(o, "openreward_http_received_bytes_total", NULL, "Bytes read from clients.", (double)s->bytes_in);
	api_metrics_counter(o, "openreward_http_sent_bytes_total", NULL, "Bytes written to clients.", (double)s->bytes_out);
	api_metrics_gauge(o, "openreward_http_connections_open", NULL, "Connections open now.", (double)s->open_connections);
	api_metrics_counter(o, "openreward_tls_handshakes_total", NULL, "TLS handshakes that were completed.",
			    (double)s->handshakes);
	api_metrics_counter(o, "openreward_tls_handshakes_failed_total", NULL, "Those that failed, plain HTTP included.",
			    (double)s->failed_handshakes);
	api_metrics_counter(o, "openreward_tls_handshakes_dropped_total", NULL,
			    "Those that were ended for others (tls.handshakes).",
			    (double)s->dropped_handshakes);
	api_metrics_gauge(o, "openreward_tls_handshakes_open", NULL, "Those under way.", (double)s->open_handshakes);
	api_metrics_counter(o, "openreward_http2_connections_total", NULL, "Connections that chose HTTP/2.",
			    (double)s->h2_connections);
	api_metrics_counter(o, "openreward_http2_refused_total", NULL, "Those that were ended for what they asked for (http.h2_*).",
			    (double)s->h2_refused);
}

static double resident_bytes(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f) {
		if (fscanf(f, "%*s %ld", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void collect_process(struct api_metrics_out *o, void *arg)
{
	struct rusage u;

	(void)arg;
	api_metrics_gauge(o, "openreward_build_info", "version=\"" OPENREWARD_VERSION "\"", "Always 1; its labels say what runs.",
			  1);
	if (getrusage(RUSAGE_SELF, &u) < 0)
		return;
	double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
	api_metrics_counter(o, "process_cpu_seconds_total", NULL, "CPU time of the daemon.", cpu);
	api_metrics_gauge(o, "process_resident_memory_bytes", NULL, "Memory of the daemon.", resident_bytes());
}

static bool count_environment(void *arg, struct store_environment *e)
{
	(void)e;
	++*(double *)arg;
	return true;
}

static void collect_store(struct api_metrics_out *o, void *arg)
{
	struct api *a = arg;
	double n = 0;

	store_environments(a->store, count_environment, &n);
	api_metrics_gauge(o, "openreward_environments", NULL, "Environments known.", n);
}

/* -- /v1/leaks ------------------------------------------------------------------------------------------------- */

struct leaks { /* between the question and the spawner's answer */
	struct http_req *req; /* NULL = the client is gone */
};

static void write_lines(struct json_writer *w, const char *lines)
{
	json_open_array(w);
	while (*lines) {
		size_t len = strcspn(lines, "\n");
		if (len)
			json_str_len(w, lines, len);
		lines += len + (lines[len] == '\n');
	}
	json_close(w);
}

static void on_leaks_known(void *arg, const char *lines, const struct err *err)
{
	auto_free struct leaks *l = arg;
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	if (!l->req)
		return;
	http_req_on_close(l->req, NULL, NULL);
	if (err) {
		api_reply_err(l->req, err);
		return;
	}
	buf_init(&b, PAGE_MAX);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_key(&w, "leaks");
	write_lines(&w, lines);
	json_close(&w);
	api_send(l->req, 200, &w, &b);
}

static void on_leaks_gone(struct http_req *req, bool complete, void *arg)
{
	struct leaks *l = arg;

	(void)req;
	(void)complete;
	l->req = NULL;
}

static void on_leaks(struct http_req *req, void *arg)
{
	struct api *a = arg;

	if (!api_caller_with(a, req, STORE_ROLE_ADMIN))
		return;
	if (!a->leaks) {
		http_reply_error(req, 503, "no spawner is connected");
		return;
	}
	struct leaks *l = NEW(struct leaks);
	l->req = req;
	http_req_on_close(req, on_leaks_gone, l);
	a->leaks(a->leaks_arg, on_leaks_known, l);
}

void api_system_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/health", on_health, a);
	http_router_add(r, "GET", "/version", on_version, a);
	http_router_add(r, "GET", "/metrics", on_metrics, a);
	http_router_add(r, "GET", "/v1/leaks", on_leaks, a);
	if (!a->metrics)
		return;
	api_metrics_add(a->metrics, collect_process, a);
	api_metrics_add(a->metrics, collect_http, a);
	api_metrics_add(a->metrics, collect_store, a);
}
