/* gateway/create.c: POST /create_session: an id at once, then an instance that is ready for it.
 *
 * The stream may break at any time; the client then posts again with the id as task_id and gets the same session. While
 * a stream is open it holds the lease; a session whose client never comes back ends by silence. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "gateway/private.h"
#include "json/json.h"

#define CREATE_BODY_MAX (64u * 1024)

struct create { /* of one request; lives in its memory */
	struct gateway *g;
	const struct auth_caller *caller;
	struct http_req *req;
	struct session *s; /* whose stream it is; held. NULL = none, or another request took over */
};

/* -- the stream ---------------------------------------------------------------------------------------------------- */

static void create_forget_stream(struct session *s)
{
	struct create *c = STEAL(s->stream_of);
	s->stream = NULL;
	if (!c)
		return;
	c->s = NULL;
	session_unhold(s);
}

/* May run long after the session is over: the last bytes of the stream take their time. */
static void on_stream_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct create *c = arg;
	struct session *s = c->s;
	if (!s)
		return;
	create_forget_stream(s);
	/* Nobody waits for a client that is gone. It may come again; what has been started for it alone is kept so long. */
	if (s->state == SESSION_OPENING && s->wait && (!s->vars || env_wait_for_room(s->wait))) {
		env_acquire_cancel(STEAL(s->wait));
		loop_timer_stop(&s->opening);
	}
}

/* A session has one stream: an older one's client is gone, or it would not have come again. */
static void open_stream(struct session *s, struct http_req *req, struct create *c)
{
	if (s->stream_of) {
		http_req_abort(s->stream_of->req);
		create_forget_stream(s);
	}
	http_req_on_close(req, on_stream_closed, c);
	session_hold(s);
	s->stream_of = c;
	c->s = s;
	s->stream = sse_start(req);
	sse_event(s->stream, "task_id", s->id, strlen(s->id));
}

/* Of a former daemon: the variables come with the client. */
static int take_vars(struct session *s, const struct create *c, json_t *overrides, struct err *err)
{
	int r = overrides_read(&s->vars, overrides, c->caller, s->env, err);
	if (r == 0 && !s->vars)
		r = err_set(err, -EINVAL, "env: missing: expected the variables that session %s was begun with, as it has no instance yet", s->id);
	s->awaits_vars = r < 0;
	return r;
}

static void finish_stream(struct session *s)
{
	char json[SID_LEN + 16];
	if (!s->stream)
		return;
	int n = snprintf(json, sizeof(json), "{\"sid\":\"%s\"}", s->id);
	sse_result(STEAL(s->stream), json, (size_t)n);
}

/* -- the instance -------------------------------------------------------------------------------------------------- */

static void on_progress(void *arg, const char *line)
{
	struct session *s = arg;
	if (s->stream)
		sse_comment(s->stream, line);
}

static void on_instance(void *arg, struct instance *i, const struct err *err)
{
	struct session *s = arg;
	s->wait = NULL;
	if (err)
		session_end(s, err->msg);
	else
		session_ready(s, i, s->vars);
}


void session_ready(struct session *s, struct instance *i, bool placed)
{
	place_enter(s, i);
	s->placed = placed;
	s->state = SESSION_READY;
	table_save(s);
	loop_timer_stop(&s->opening);
	session_touch(s);
	if (instance_end_reason(i)) {
		session_crashed(s, instance_end_reason(i));
		return;
	}
	own_list(s);
	finish_stream(s);
}

/* -- the request --------------------------------------------------------------------------------------------------- */

static bool is_full(struct gateway *g, struct http_req *req)
{
	if (g->shutting_down) {
		http_reply_header(req, "Retry-After", "2");
		http_reply_error(req, 503, "the server is ending");
		return true;
	}
	if (map_len(g->sessions) < g->settings.sessions_max)
		return false;
	g->counts.refused_total++;
	http_reply_header(req, "Retry-After", "5");
	http_reply_error(req, 429, "%zu sessions are open, and sessions.max is %zu: try again later", map_len(g->sessions),
			 g->settings.sessions_max);
	return true;
}

/* "owner/name", or a bare name of the caller's own namespace. Clients that know one server's address only and no header (ORS)
 * have it in the address, where it becomes Basic's user name: http://NAMESPACE%2FNAME:KEY@HOST. */
static const char *deployment_of(struct http_req *req)
{
	const char *value = http_req_header(req, "X-Deployment");

	return str_empty(value) ? auth_basic_user(req) : value;
}

static struct store_environment *environment_of(struct gateway *g, struct http_req *req, const struct auth_caller *caller)
{
	struct store_environment *env = NULL;
	const char *value = deployment_of(req);
	if (str_empty(value)) {
		http_reply_error(req, 400, "X-Deployment: missing: expected NAMESPACE/NAME of an environment");
		return NULL;
	}
	const char *slash = strchr(value, '/');
	auto_free char *owner = slash ? xstrndup(value, (size_t)(slash - value)) : NULL;
	const char *name = slash ? slash + 1 : value;
	if (auth_find_environment(g->auth, caller, owner, name, &env, NULL) < 0) {
		http_reply_error(req, 404, "Deployment not found. X-Deployment: %.200s: this key sees no environment of this name",
				 value);
		return NULL;
	}
	return env;
}

static void on_open_limit(struct loop_timer *t UNUSED, void *arg)
{
	struct session *s = arg;
	if (env_wait_for_room(s->wait)) { /* that is nobody's fault: who waits for room waits as long as the client does */
		loop_timer_start(&s->opening, s->g->settings.open_ms);
		return;
	}
	auto_free char *reason = xasprintf("no instance of %s/%s was ready within %llu s", s->env->ns->name, s->env->name,
					   (unsigned long long)s->g->settings.open_ms / 1000);
	session_end(s, reason);
}

void session_open(struct session *s)
{
	loop_timer_init(&s->opening, s->g->loop, on_open_limit, s);
	loop_timer_start(&s->opening, s->g->settings.open_ms);
	struct env_request rq = {
		.want = s->vars ? ENV_OWN : ENV_VISIT, .key = s->key_id, .vars = (const char *const *)s->vars,
		.progress = on_progress,
		.done = on_instance, .arg = s,
	};
	s->wait = env_acquire(s->g->envs, s->env, &rq);
}

static void start_session(struct create *c, struct http_req *req, json_t *overrides)
{
	struct err err = ERR_INIT;
	char **vars = NULL;
	if (is_full(c->g, req))
		return;
	if (auth_may_open(c->g->auth, c->caller, STORE_USE_SESSIONS, &err) < 0) {
		auth_refuse(req, &err);
		return;
	}
	struct store_environment *env = environment_of(c->g, req, c->caller);
	if (!env)
		return;
	if (overrides && c->caller->role == STORE_ROLE_READER) {
		http_reply_error(req, 403, "env: this key is read-only, and may start no instance of its own");
		return;
	}
	if (overrides_read(&vars, overrides, c->caller, env, &err) < 0) {
		http_reply_error(req, 400, "%s", err.msg);
		return;
	}
	if (queue_is_full(c->g, req, c->caller->key_id, env, vars ? ENV_OWN : ENV_VISIT)) {
		strv_erase(vars);
		return;
	}
	struct session *s = session_new(c->g, c->caller, env);
	s->vars = vars;
	table_save(s);
	open_stream(s, req, c);
	session_open(s);
}

/* A client whose stream broke comes again. */
static void resume_session(struct create *c, struct http_req *req, const char *sid, json_t *overrides)
{
	struct err err = ERR_INIT;
	struct session *s = session_find(c->g, sid);
	const struct ended *e = ended_find(c->g, sid, c->caller);
	bool awaits_vars = s && s->awaits_vars;
	if (s && session_is_of(s, c->caller) && s->state <= SESSION_READY) {
		/* It has left the queue when its client went: to come again is to queue again. */
		bool queues = s->state == SESSION_OPENING && !s->wait;
		session_touch(s); /* also where it is refused: it will come again */
		if (queues && queue_is_full(c->g, req, s->key_id, s->env, s->vars || awaits_vars ? ENV_OWN : ENV_VISIT))
			return;
		if (awaits_vars && take_vars(s, c, overrides, &err) < 0) {
			http_reply_error(req, 400, "%s", err.msg);
			return;
		}
		open_stream(s, req, c);
		if (queues)
			session_open(s);
		else if (s->state == SESSION_READY)
			finish_stream(s);
		return;
	}
	struct sse *stream = sse_start(req);
	if (s && session_is_of(s, c->caller))
		sse_error(stream, s->end_reason);
	else if (e)
		sse_error(stream, ended_reason(e));
	else
		sse_error(stream, "unknown task_id");
}

static int read_body(const char *data, size_t len, json_t **ret, json_t **ret_env, const char **ret_task, struct err *err)
{
	int r = json_read_object(ret, len ? data : "{}", len ? len : 2, err);
	if (r == 0)
		r = json_get_object(*ret, "env", ret_env, err);
	return r < 0 ? r : json_get_str(*ret, "task_id", ret_task, err);
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct create *c = arg;
	struct err err = ERR_INIT;
	auto_json body = NULL;
	json_t *env = NULL;
	const char *task = NULL;
	if (read_body(data, len, &body, &env, &task, &err) < 0)
		http_reply_error(req, 400, "%s", err.msg);
	else if (task)
		resume_session(c, req, task, env);
	else
		start_session(c, req, env);
}

void create_session_handler(struct http_req *req, void *gateway)
{
	struct create *c = http_req_alloc(req, sizeof(*c));
	struct err err = ERR_INIT;
	*c = (struct create){ .g = gateway, .req = req };
	if (auth_request(c->g->auth, req, &c->caller, &err) < 0)
		auth_refuse(req, &err);
	else
		http_req_body(req, CREATE_BODY_MAX, on_body, c);
}
