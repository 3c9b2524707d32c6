/* The logs of an environment: all its revisions and instances as one, to be read or followed:
 * GET /v1/environments/{owner}/{name}/logs?limit&since&severity&deployment&follow */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "api/common/lines.h"
#include "api/deployments/logs.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "env/env.h"

#define LIMIT_DEFAULT 200
#define LIMIT_MAX 10000
#define SOURCES_MAX 10                 /* deployments whose logs are merged: the newest that have any */
#define FOLLOW_FIRST_MAX (256u * 1024) /* bytes of each that are looked at for the first lines of a follower */
#define FOLLOW_CHUNK (256u * 1024)     /* bytes of each in one turn */
#define FOLLOW_MS 250

/* -- which ------------------------------------------------------------------------------------------------------------- */

struct asked {
	struct log_query q;
	struct store_deployment *only; /* NULL = all */
	bool follow;
};

static int read_severity(struct http_req *req, struct log_query *q, struct err *err)
{
	const char *text = http_req_query(req, "severity");

	if (str_empty(text) || log_severity_find(text, strlen(text), &q->severity) == 0)
		return 0;
	return err_set(err, -EINVAL, "severity: \"%.40s\": expected DEBUG, INFO, NOTICE, WARNING, ERROR, CRITICAL, ALERT or EMERGENCY",
		       text);
}

static int read_since(struct http_req *req, struct log_query *q, struct err *err)
{
	const char *text = http_req_query(req, "since");
	size_t len = text ? strlen(text) : 0;

	if (len >= sizeof(q->since) || (len && (len < 4 || strspn(text, "0123456789-T:.Z") != len)))
		return err_set(err, -EINVAL, "since: \"%.40s\": expected a time as 2026-01-02T03:04:05.678Z, or its beginning",
			       text);
	memcpy(q->since, text ? text : "", len + 1);
	return 0;
}

static int read_query(struct api *api, struct http_req *req, const struct store_environment *e, struct asked *ret, struct err *err)
{
	const char *id = http_req_query(req, "deployment"), *follow = http_req_query(req, "follow");
	uint64_t offset;
	int r = api_page(req, LIMIT_DEFAULT, LIMIT_MAX, &ret->q.limit, &offset, err);

	r = r < 0 ? r : read_severity(req, &ret->q, err);
	r = r < 0 ? r : read_since(req, &ret->q, err);
	if (r < 0)
		return r;
	ret->q.labelled = true;
	ret->follow = !str_empty(follow) && !str_eq(follow, "0") && !str_eq(follow, "false");
	ret->only = str_empty(id) ? NULL : store_deployment_by_prefix(api->store, id);
	if (!str_empty(id) && (!ret->only || ret->only->environment != e))
		return err_set(err, -ENOENT, "deployment: \"%.60s\": %s/%s has no such one", id, e->ns->name, e->name);
	return 0;
}

static bool is_wanted(const struct asked *a, const struct store_deployment *d)
{
	return !a->only || a->only == d;
}

/* The newest that have a log; the array is the caller's. */
static size_t find_sources(struct api *api, const struct store_environment *e, const struct asked *a, struct log_source **ret)
{
	struct log_source *list = xcalloc(SOURCES_MAX, sizeof(*list));
	size_t n = 0;

	list_foreach(&e->deployments, struct store_deployment, of_environment, d) {
		auto_free char *path = env_log_path(api->envs, d);
		if (n == SOURCES_MAX)
			break;
		if (!is_wanted(a, d) || access(path, F_OK) < 0)
			continue;
		memcpy(list[n].id, d->id, sizeof(list[n].id));
		list[n++].path = STEAL(path);
	}
	*ret = list;
	return n;
}

/* -- following ----------------------------------------------------------------------------------------------------- */

struct tail { /* of one deployment's log */
	struct list node;
	const struct store_deployment *d;
	char id[STORE_ID_LEN];
	int fd;
	uint64_t at;  /* of the next byte, counted from the log's beginning: what was cut off in front included. Behind that cut
		       * until what there was is read */
	uint64_t cut; /* bytes of that, when the worker began */
	bool grew;    /* for the worker: there is something to read */
	size_t got;   /* from it: bytes of whole lines */
};

/* A worker reads the files, parses the lines and writes them as JSON: many followers of logs that grow quickly would hold the
 * loop up. While it is at it (busy) all but lines and timer is its own. */
struct follower { /* ends with its request, or with the worker that is on it then */
	struct api *api;
	struct lines *lines; /* NULL = the client is gone */
	struct store_environment *e;
	struct asked asked;
	struct list tails;
	struct loop_timer timer;
	struct loop *loop;
	bool busy;
	struct log_source *sources; /* the first time: what there was */
	size_t n_sources;
	struct buf out; /* bounded by what is read in one turn */
};

static void tell(void *arg, const struct log_source *s, const struct logentry *x)
{
	struct follower *f = arg;
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 1024 * 1024);
	json_write_begin(&w, &b);
	logentry_write(&w, x, s->id);
	if (json_write_end(&w) < 0 || buf_append(&b, "\n", 1) < 0)
		return; /* a line that long is no use to anybody */
	if (buf_append(&f->out, b.data, b.len) < 0)
		buf_clear(&f->out); /* cannot be: it has no maximum */
}

static struct tail *tail_of(struct follower *f, const struct store_deployment *d)
{
	list_foreach(&f->tails, struct tail, node, t)
		if (t->d == d)
			return t;
	return NULL;
}

static void tail_add(struct follower *f, const struct store_deployment *d, uint64_t at)
{
	auto_free char *path = env_log_path(f->api->envs, d);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return; /* nothing was written yet */
	struct tail *t = NEW(struct tail);
	*t = (struct tail){ .d = d, .fd = fd, .at = at };
	memcpy(t->id, d->id, sizeof(t->id));
	list_push_back(&f->tails, &t->node);
}

static void follower_free(struct follower *f)
{
	list_foreach(&f->tails, struct tail, node, t) {
		fd_close(t->fd);
		free(t);
	}
	log_sources_free(f->sources, f->n_sources);
	buf_done(&f->out);
	free(f);
}

static void on_follower_gone(void *arg)
{
	struct follower *f = arg;

	loop_timer_stop(&f->timer);
	f->lines = NULL;
	if (!f->busy)
		follower_free(f);
}

/* True: it goes on. */
static bool send_out(struct follower *f)
{
	f->busy = false;
	if (!f->lines) {
		follower_free(f);
		return false;
	}
	loop_timer_start(&f->timer, FOLLOW_MS); /* before the lines: a client that does not read is cut off there */
	lines_objects(f->lines, &f->out);
	buf_done(&f->out);
	return true;
}

/* -- what comes ---------------------------------------------------------------------------------------------------- */

/* What the owner's limit cut off before it was read is skipped. */
static bool look(struct tail *t)
{
	struct stat st;

	t->got = 0;
	t->cut = env_log_cut(t->d);
	t->at = MAX(t->at, t->cut);
	t->grew = fstat(t->fd, &st) == 0 && (uint64_t)st.st_size + t->cut > t->at;
	return t->grew;
}

/* Whole lines that came since. */
static void read_more(struct follower *f, struct tail *t)
{
	struct log_source s = { .modified_ms = time_wall_ms() };
	struct log_query q = f->asked.q;
	char *p;

	buf_init(&s.text, FOLLOW_CHUNK + 1);
	if (buf_reserve(&s.text, FOLLOW_CHUNK, &p) < 0)
		return;
	ssize_t n = pread(t->fd, p, FOLLOW_CHUNK, (off_t)(t->at - t->cut));
	const char *end = n > 0 ? memrchr(p, '\n', (size_t)n) : NULL;
	if (end) {
		buf_commit(&s.text, (size_t)(end + 1 - p));
		t->got = s.text.len;
		memcpy(s.id, t->id, sizeof(s.id));
		q.limit = UINT64_MAX;
		log_sources_merge(&s, 1, &q, tell, f);
	}
	buf_done(&s.text);
}

static void more_work(void *arg)
{
	struct follower *f = arg;

	list_foreach(&f->tails, struct tail, node, t)
		if (t->grew)
			read_more(f, t);
}

static void more_done(void *arg)
{
	struct follower *f = arg;
	bool cut = false;

	if (f->lines)
		list_foreach(&f->tails, struct tail, node, t)
			cut = cut || (t->grew && env_log_cut(t->d) != t->cut);
	if (cut)
		buf_done(&f->out); /* perhaps read at the wrong place: once more, from where all of them were */
	else
		list_foreach(&f->tails, struct tail, node, t)
			t->at += t->got;
	send_out(f);
}

/* Its environment was deleted: nothing comes any more. */
static void follower_end(struct follower *f)
{
	lines_end(f->lines, &(struct buf){ 0 });
	follower_free(f);
}

static void on_tick(struct loop_timer *timer, void *arg)
{
	struct follower *f = arg;

	if (f->e->removed) {
		follower_end(f);
		return;
	}
	list_foreach(&f->e->deployments, struct store_deployment, of_environment, d)
		if (is_wanted(&f->asked, d) && !store_deployment_state_final(d->state) && !tail_of(f, d))
			tail_add(f, d, 0);
	list_foreach(&f->tails, struct tail, node, t)
		f->busy = look(t) || f->busy;
	if (f->busy)
		loop_work(f->loop, LOOP_LANE_ANY, more_work, more_done, f);
	else
		loop_timer_start(timer, FOLLOW_MS);
}

/* -- what there was ------------------------------------------------------------------------------------------------ */

static void first_work(void *arg)
{
	struct follower *f = arg;

	log_sources_read(f->sources, f->n_sources, FOLLOW_FIRST_MAX);
	log_sources_merge(f->sources, f->n_sources, &f->asked.q, tell, f);
}

static void first_done(void *arg)
{
	struct follower *f = arg;

	if (!send_out(f))
		return;
	for (size_t i = 0; i < f->n_sources; i++) {
		struct tail *t = tail_of(f, store_deployment_by_id(f->api->store, f->sources[i].id));
		if (t)
			t->at += f->sources[i].end;
	}
	log_sources_free(STEAL(f->sources), f->n_sources);
	f->n_sources = 0;
}

static void follow(struct api *api, struct http_req *req, struct store_environment *e, const struct asked *a)
{
	struct follower *f = NEW(struct follower);

	*f = (struct follower){ .api = api, .e = e, .asked = *a, .loop = http_req_loop(req), .busy = true };
	f->n_sources = find_sources(api, e, a, &f->sources);
	list_init(&f->tails);
	for (size_t i = 0; i < f->n_sources; i++) {
		const struct store_deployment *d = store_deployment_by_id(api->store, f->sources[i].id);
		tail_add(f, d, env_log_cut(d));
	}
	buf_init(&f->out, BUF_UNLIMITED);
	loop_timer_init(&f->timer, f->loop, on_tick, f);
	f->lines = lines_start(req, on_follower_gone, f);
	loop_work(f->loop, LOOP_LANE_ANY, first_work, first_done, f);
}

/* -- the route ------------------------------------------------------------------------------------------------------- */

static void on_logs(struct http_req *req, void *arg)
{
	struct api *api = arg;
	struct store_environment *e = api_owned(api, req, store_environment_find(api->store, http_req_param(req, "owner"),
										  http_req_param(req, "name")), "environment");
	struct asked a = { .only = NULL };
	struct log_source *sources;
	struct err err = ERR_INIT;

	if (!e)
		return;
	if (!api->envs) {
		http_reply_error(req, 503, "deployments are not ready yet");
	} else if (read_query(api, req, e, &a, &err) < 0) {
		api_reply_err(req, &err);
	} else if (a.follow) {
		follow(api, req, e, &a);
	} else {
		size_t n = find_sources(api, e, &a, &sources);
		logs_reply_entries(req, sources, n, &a.q);
	}
}

void api_logs_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/environments/{owner}/{name}/logs", on_logs, a);
}
