/* One request to the server, with libcurl. */
#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "json/json.h"

#define ANSWER_MAX (256u * 1024 * 1024)
#define SILENCE_MS 60000 /* streams carry a heartbeat every 8 s: beyond this the peer is dead */

struct exchange {
	struct cli_request *rq;
	CURL *curl;
	struct curl_slist *headers;
	struct buf line; /* an unfinished line */
	curl_off_t moved;  /* bytes both ways so far */
	uint64_t moved_ms; /* when the last of them did; 0 = not begun */
	bool silent;       /* given up for that */
	char error[CURL_ERROR_SIZE];
};

static long status_of(CURL *curl)
{
	long status = 0;

	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

static int feed_lines(struct exchange *x, const char *p, size_t len)
{
	while (len) {
		const char *end = memchr(p, '\n', len);
		size_t n = end ? (size_t)(end - p) : len;
		if (buf_append(&x->line, p, n) < 0)
			return -ENOBUFS;
		if (end) {
			if (x->line.len && x->line.data[x->line.len - 1] == '\r')
				x->line.data[--x->line.len] = '\0';
			x->rq->line(x->rq->arg, x->line.data, x->line.len);
			buf_clear(&x->line);
			n++;
		}
		p += n;
		len -= n;
	}
	return 0;
}

static size_t on_data(char *p, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;
	bool good = status_of(x->curl) / 100 == 2;
	if (x->rq->data && good) {
		x->rq->data(x->rq->arg, p, len);
		return len;
	}
	int r = x->rq->line && good ? feed_lines(x, p, len) : buf_append(&x->rq->answer, p, len);

	return r < 0 ? 0 : len;
}

static size_t on_read(char *p, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	ssize_t got = x->rq->read(x->rq->arg, p, size * n);

	return got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

/* Called about once a second. curl's own lower limit of speed would not do: it is an average, and a heartbeat is one byte
 * in 8 s. */
static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
	struct exchange *x = arg;
	uint64_t now = time_now_ms();

	(void)down_total, (void)up_total;
	if (!x->moved_ms || x->moved != down + up) {
		x->moved = down + up;
		x->moved_ms = now;
	}
	x->silent = now - x->moved_ms > SILENCE_MS;
	return x->silent || (x->rq->stop && *x->rq->stop);
}

static void header(struct exchange *x, const char *name, const char *value)
{
	auto_free char *line = xasprintf("%s: %s", name, value);

	x->headers = curl_slist_append(x->headers, line);
}

static void set_body(struct exchange *x)
{
	struct cli_request *rq = x->rq;
	CURL *c = x->curl;

	if (rq->read) {
		curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
		curl_easy_setopt(c, CURLOPT_READDATA, x);
		header(x, "Transfer-Encoding", "chunked");
	} else if (rq->body) {
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, rq->body);
		curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_len);
	}
	if (rq->read || rq->body)
		header(x, "Content-Type", rq->content_type ? rq->content_type : "application/json");
	curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, rq->method);
}

static void set_options(struct exchange *x, const struct cli_target *t, const char *url)
{
	CURL *c = x->curl;

	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "openreward/" OPENREWARD_VERSION);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, x->error);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, x);
	if (*t->key)
		header(x, "X-API-Key", t->key);
	if (x->rq->session_id)
		header(x, "X-Session-ID", x->rq->session_id);
	cli_trust(c, t);
	set_body(x);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, x->headers);
}

static int transport_error(struct exchange *x, CURLcode code, const struct cli_target *t, struct err *err)
{
	switch ((int)code) {
	case CURLE_COULDNT_CONNECT:
	case CURLE_COULDNT_RESOLVE_HOST:
		return err_set(err, -ECONNREFUSED, "no server answers at %s: start it with `openreward serve`", t->url);
	case CURLE_ABORTED_BY_CALLBACK:
		if (x->silent)
			return err_set(err, -EPIPE, "%s: silent for %d s", t->url, SILENCE_MS / 1000);
		return err_set(err, -EINTR, "stopped");
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		return err_set(err, -EPIPE, "%s: %s: OPENREWARD_CA can name a file with the certificate that is to be believed",
			       t->url,
			       *x->error ? x->error : curl_easy_strerror(code));
	default: return err_set(err, -EPIPE, "%s: %s", t->url, *x->error ? x->error : curl_easy_strerror(code));
	}
}

static int refusal(struct exchange *x, const struct cli_target *t, struct err *err)
{
	auto_json body = NULL;
	struct err ignored;
	const char *message = NULL;
	int status = x->rq->status;

	if (json_read_object(&body, x->rq->answer.data, x->rq->answer.len, &ignored) == 0)
		message = json_string_value(json_object_get(body, "message"));
	if (status == 401)
		return err_set(err, -EPROTO, "%s refuses the API key: %s", t->url, message ? message : "401");
	if (!message)
		return err_set(err, -EPROTO, "%s%s answers %d", t->url, x->rq->path, status);
	return err_set(err, status == 404 ? -ENOENT : -EPROTO, "%s", message);
}

static int finish(struct exchange *x, CURLcode code, const struct cli_target *t, struct err *err)
{
	x->rq->status = (int)status_of(x->curl);
	/* A server that refuses an upload answers before it has read everything: its answer says more than the broken write. */
	bool answered = x->rq->status >= 400 && x->rq->answer.len;
	if (code != CURLE_OK && !answered)
		return transport_error(x, code, t, err);
	if (x->rq->status / 100 != 2)
		return refusal(x, t, err);
	if (x->rq->line && x->line.len)
		x->rq->line(x->rq->arg, x->line.data, x->line.len);
	return 0;
}

int cli_http(const struct cli_target *t, struct cli_request *rq, struct err *err)
{
	struct exchange x = { .rq = rq };
	auto_free char *url = xasprintf("%s%s", t->url, rq->path);

	buf_init(&rq->answer, ANSWER_MAX);
	buf_init(&x.line, ANSWER_MAX);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	x.curl = curl_easy_init();
	if (!x.curl)
		return err_set(err, -ENOMEM, "libcurl does not start");
	set_options(&x, t, url);
	int r = finish(&x, curl_easy_perform(x.curl), t, err);
	curl_slist_free_all(x.headers);
	curl_easy_cleanup(x.curl);
	buf_done(&x.line);
	return r;
}

void cli_request_done(struct cli_request *rq)
{
	buf_done(&rq->answer);
}
