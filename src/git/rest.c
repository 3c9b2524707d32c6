/* git/rest.c: GitHub's REST API through libcurl's multi interface, on our loop. */
#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "git/github.h"
#include "git/private.h"

#define BODY_MAX (8u * 1024 * 1024)
#define TIMEOUT_MS 30000L
#define CONNECT_TIMEOUT_MS 10000L

struct github {
	struct loop *loop;
	struct git *git;
	struct github_settings settings;
	CURLM *multi;
	struct loop_timer timer;
	struct list calls;
	struct curl_slist *headers;
};

struct github_call {
	struct list node;
	struct github *github;
	CURL *curl;
	struct buf body;
	github_answer_fn *fn;
	void *arg;
	char said[CURL_ERROR_SIZE];
};

struct watched { /* one socket of curl's */
	struct github *github;
	struct loop_io io;
};

static void call_free(struct github_call *c)
{
	list_remove(&c->node);
	curl_multi_remove_handle(c->github->multi, c->curl);
	curl_easy_cleanup(c->curl);
	buf_done(&c->body);
	free(c);
}

void github_cancel(struct github_call *c)
{
	if (c)
		call_free(c);
}

static void tell(struct github_call *c, CURLcode code)
{
	struct err err;
	long status = 0;

	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK)
		err_set(&err, -EAGAIN, "asking GitHub at %s: %s", c->github->settings.api_url,
			*c->said ? c->said : curl_easy_strerror(code));
	list_remove(&c->node);
	list_init(&c->node);
	c->fn(c->arg, (int)status, c->body.data, c->body.len, code == CURLE_OK ? NULL : &err);
	call_free(c);
}

static void collect(struct github *h)
{
	int left;

	for (CURLMsg *m; (m = curl_multi_info_read(h->multi, &left));) {
		struct github_call *c = NULL;
		CURLcode code = m->data.result;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c);
		if (m->msg == CURLMSG_DONE && c)
			tell(c, code);
	}
}

static void act(struct github *h, curl_socket_t fd, int events)
{
	int running;

	(void)curl_multi_socket_action(h->multi, fd, events, &running);
	collect(h);
}

static void on_timer(struct loop_timer *t, void *arg)
{
	(void)t;
	act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timeout_change(CURLM *multi, long after_ms, void *arg)
{
	struct github *h = arg;

	(void)multi;
	if (after_ms < 0)
		loop_timer_stop(&h->timer);
	else
		loop_timer_start(&h->timer, (uint64_t)after_ms);
	return 0;
}

static void on_socket_event(struct loop_io *io, uint32_t events, void *arg)
{
	struct watched *w = arg;
	int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
		   (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

	act(w->github, io->fd, what);
}

static int on_socket_change(CURL *curl, curl_socket_t fd, int what, void *arg, void *of_socket)
{
	struct github *h = arg;
	struct watched *w = of_socket;
	uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
	struct err err;

	(void)curl;
	if (what == CURL_POLL_REMOVE) {
		if (w) {
			loop_io_close(&w->io);
			loop_release(h->loop, free, w);
			curl_multi_assign(h->multi, fd, NULL);
		}
		return 0;
	}
	if (w) {
		loop_io_set(&w->io, events);
		return 0;
	}
	w = NEW(struct watched);
	w->github = h;
	if (loop_io_open(&w->io, h->loop, fd, events, on_socket_event, w, &err) < 0) {
		free(w);
		return -1;
	}
	curl_multi_assign(h->multi, fd, w);
	return 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct github_call *c = arg;

	return buf_append(&c->body, p, size * n) < 0 ? 0 : size * n;
}

struct github_call *github_get(struct github *h, const char *path, github_answer_fn *fn, void *arg)
{
	struct github_call *c = NEW(struct github_call);
	auto_free char *url = xasprintf("%s%s", h->settings.api_url, path);

	*c = (struct github_call){ .github = h, .fn = fn, .arg = arg, .curl = curl_easy_init() };
	if (!c->curl)
		abort(); /* out of memory, as everywhere */
	buf_init(&c->body, BODY_MAX);
	list_push_back(&h->calls, &c->node);
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(c->curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, h->headers);
	curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "openreward/" OPENREWARD_VERSION);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->said);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(c->curl, CURLOPT_PRIVATE, c);
	curl_multi_add_handle(h->multi, c->curl);
	return c;
}

int github_new(struct github **ret, struct loop *l, struct git *git, const struct github_settings *s, struct err *err)
{
	auto_free char *token = xasprintf("Authorization: Bearer %s", s->token);
	struct github *h = NEW(struct github);

	*h = (struct github){ .loop = l, .git = git, .settings = *s };
	list_init(&h->calls);
	loop_timer_init(&h->timer, l, on_timer, h);
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(h->multi = curl_multi_init())) {
		free(h);
		return err_set(err, -EIO, "libcurl cannot be used");
	}
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket_change);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timeout_change);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	h->headers = curl_slist_append(NULL, "Accept: application/vnd.github+json");
	h->headers = curl_slist_append(h->headers, "X-GitHub-Api-Version: 2022-11-28");
	if (!str_empty(s->token))
		h->headers = curl_slist_append(h->headers, token);
	explicit_bzero(token, strlen(token));
	*ret = h;
	return 0;
}

struct github *github_free(struct github *h)
{
	struct github_call *c;

	if (!h)
		return NULL;
	while ((c = list_first(&h->calls, struct github_call, node)))
		call_free(c);
	curl_multi_cleanup(h->multi);
	curl_slist_free_all(h->headers);
	loop_timer_stop(&h->timer);
	free(h);
	return NULL;
}

bool github_has_token(const struct github *h)
{
	return !str_empty(h->settings.token);
}

void github_fetch(struct github *h, const char *repo, const char *branch, const char *repository, github_fetched_fn *fn, void *arg)
{
	git_fetch_with(h->git, h->settings.url, repo, h->settings.token, branch, repository, fn, arg);
}
