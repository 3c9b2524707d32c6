#include "daemon/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/sandbox/sandbox.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "base/slice.h"
#include "base/str.h"
#include "gateway/session.h"
#include "http/tls.h"
#include "rollout/difficulty.h"
#include "sandbox/link.h"

#define END_TIMEOUT_MS 90000 /* without the teardowns of sessions */
#define WATCH_MS 1000
#define WATCH_TIMES 3
#define DRAIN_LOOK_MS 20
#define START_FAILED 2 /* of the loop */
#define TELL_DROPPED_MS 60000 /* between two lines of the log */

/* -- the end ----------------------------------------------------------------------------------------------------- */

static void on_spawner_ended(void *arg, const struct err *err)
{
	struct daemon *d = arg;

	if (err && !d->lost)
		log_warn("daemon", "ending the spawner: %s", err->msg);
	loop_stop(d->loop, 0);
}

static void on_sessions_ended(void *arg)
{
	struct daemon *d = arg;

	if (d->stopping)
		return;
	d->stopping = true;
	if (d->launch->owns_spawner)
		link_shutdown(d->link, on_spawner_ended, d);
	else
		loop_stop(d->loop, 0); /* somebody else's, who started it for an unprivileged daemon */
}

/* Whatever hangs: the default action ends this process, and leases the rest. */
static void limit_end(uint64_t teardown_ms)
{
	alarm((unsigned)((teardown_ms + END_TIMEOUT_MS + 999) / 1000));
}

static void daemon_end(struct daemon *d)
{
	d->ending = true;
	notify("STOPPING=1");
	log_info("daemon", "ending");
	listeners_forget(d);
	http_server_stop_accepting(d->http);
	modules_end(d, on_sessions_ended, d);
	limit_end(d->config->session_teardown_ms);
}

/* -- leaving -------------------------------------------------------------------------------------------------------- */

static void on_drain(struct loop_timer *t, void *arg)
{
	struct daemon *d = arg;

	if (http_server_stats(d->http)->open_connections == 0 || loop_now_ms(d->loop) >= d->drain_until_ms)
		loop_stop(d->loop, 0);
	else
		loop_timer_start(t, DRAIN_LOOK_MS);
}

/* What is still open after the time is broken off: whoever waits for a command or a call comes again with its task_id. */
static void daemon_leave(struct daemon *d)
{
	d->ending = d->leaving = true;
	notify("STOPPING=1");
	log_info("daemon", "leaving: sandboxes and sessions stay for the next daemon");
	listeners_forget(d);
	http_server_stop_accepting(d->http);
	d->drain_until_ms = loop_now_ms(d->loop) + d->config->restart_drain_ms;
	loop_timer_init(&d->drain, d->loop, on_drain, d);
	loop_timer_start(&d->drain, 1);
}

static void on_signal(int signo, void *arg)
{
	struct daemon *d = arg;
	bool leave = signo == SIGUSR2 || link_is_kept(d->link) || !d->launch->owns_spawner;

	if (!d->serving)
		loop_stop(d->loop, 0); /* nobody was served yet: what runs is as it was */
	else if (!d->ending && leave)
		daemon_leave(d);
	else if (!d->ending)
		daemon_end(d);
	else if (d->leaving)
		loop_stop(d->loop, 0);
	else
		on_sessions_ended(d); /* asked twice: without waiting for teardowns */
}

static void on_hangup(int signo UNUSED, void *arg)
{
	listeners_reload_tls(arg);
}

/* Who is refused may ask again at once: the log hears of it now and then. */
static void tell_dropped(struct daemon *d, const char *id, const struct err *err)
{
	uint64_t now = loop_now_ms(d->loop);

	d->denied_total++;
	if (d->told_dropped_ms && now - d->told_dropped_ms < TELL_DROPPED_MS)
		return;
	d->told_dropped_ms = now;
	log_event(LOG_WARN, "daemon", LOG_KV("sandbox", id), "a connection was dropped: %s", err->msg);
}

/* A connection from inside that wants the platform becomes one of the server's, tagged with its sandbox. */
static void on_platform(void *arg, const char *id, uint64_t number, uint16_t port, int fd)
{
	struct daemon *d = arg;
	struct err err;

	(void)port;
	d->platform_total++;
	if (d->ending)
		fd_close_foreign(fd);
	else if (http_server_adopt(d->http, fd, number, &err) < 0)
		tell_dropped(d, id, &err);
}

static void on_denied(void *arg, const char *id, const char *text)
{
	struct daemon *d = arg;

	d->denied_total++;
	log_event(LOG_INFO, "egress", LOG_KV("sandbox", id), "refused %s", text ? text : "a connection");
}

/* The engine hears first of a lost spawner and fails what ran. The link then looks for another one, which only root can
 * start: so the daemon ends, and says why. */
static void on_watch(struct loop_timer *t, void *arg)
{
	struct daemon *d = arg;

	d->away = link_chan(d->link) ? 0 : d->away + 1;
	if (d->away < WATCH_TIMES || d->ending) {
		loop_timer_start(t, WATCH_MS);
		return;
	}
	d->lost = true;
	log_error("daemon", "openreward-spawner is gone, and with it every sandbox");
	loop_stop(d->loop, 1);
}

/* -- the start --------------------------------------------------------------------------------------------------- */

static void set_limits(struct daemon *d)
{
	const struct config *c = d->config;
	const struct auth_limits limits = {
		.of = { [STORE_USE_SESSIONS] = c->key_sessions, [STORE_USE_SANDBOXES] = c->key_sandboxes,
			[STORE_LIMIT_RATE] = c->key_rate },
	};

	auth_set_limits(d->auth, &limits);
}

static void on_lost(void *arg UNUSED, size_t n, const struct err *err)
{
	log_error("store", "%zu changes are lost: %s", n, err->msg);
}

static int open_store(struct daemon *d, struct err *err)
{
	auto_free char *db = xasprintf("%s/openreward.db", d->config->data);
	auto_free char *key_path = xasprintf("%s/admin.key", d->config->data);
	char key[AUTH_KEY_LEN];

	umask(0077); /* for the database and its journals; other files say their own mode */
	int r = store_open(&d->store, d->loop, db, err);
	r = r < 0 ? r : auth_new(&d->auth, d->store, err);
	if (r == 0) {
		store_limit_queue(d->store, d->config->audit_pending);
		store_on_lost(d->store, on_lost, NULL);
		set_limits(d);
	}
	r = r < 0 ? r : auth_first_start(d->auth, key_path, key, err);
	explicit_bzero(key, sizeof(key));
	umask(0027);
	return r;
}

static int open_http(struct daemon *d, struct err *err)
{
	d->router = http_router_new();
	int r = http_server_new(&d->http, d->loop, &d->config->http, http_router_dispatch, d->router, err);
	return r < 0 ? r : http_server_trust(d->http, (const char *const *)d->config->proxies, err);
}

static bool is_ready(void *arg)
{
	const struct daemon *d = arg;

	return d->serving && !d->ending;
}

static void on_leaks(void *arg, api_leaks_done_fn *done, void *done_arg)
{
	struct daemon *d = arg;

	link_leaks(d->link, done, done_arg);
}

static int parse_sizes(struct daemon *d, struct err *err)
{
	const char *text = d->config->instance_size;

	if (str_to_machine(text, &d->api.default_cpu_milli, &d->api.default_memory_bytes) < 0)
		return err_set(err, -EINVAL, "instances.size: \"%s\": expected CPU:GIB", text);
	return 0;
}

static int open_api(struct daemon *d, struct err *err)
{
	uint64_t cpu_milli = d->api.default_cpu_milli, memory_bytes = d->api.default_memory_bytes;

	(void)err;
	d->metrics = api_metrics_new();
	d->api = (struct api){
		.loop = d->loop, .store = d->store, .auth = d->auth, .images = d->images, .envs = d->envs, .git = d->git,
		.github = d->github, .github_url = d->config->github_url,
		.github_webhook_secret = d->config->github_webhook_secret, .github_namespaces = d->config->github_namespaces,
		.metrics = d->metrics,
		.recorder = d->recorder, .difficulty = d->difficulty, .body_max_bytes = d->config->http.body_bytes,
		.http = d->http, .data_dir = d->config->data, .upload_max_bytes = d->config->upload_max_bytes,
		.default_cpu_milli = cpu_milli, .default_memory_bytes = memory_bytes, .leaks = on_leaks, .leaks_arg = d,
		.ready = is_ready, .ready_arg = d,
		.of_session = gateway_pass, .of_session_arg = d->gateway,
	};
	d->api.bucket = (struct bucket_access){
		.store = d->store, .buckets = d->buckets, .quota_bytes = d->config->bucket_quota_bytes,
		.file_bytes = d->config->bucket_file_bytes, .url_ms = d->config->bucket_url_ms,
		.session_environment = gateway_session_environment, .session_arg = d->gateway,
	};
	signer_init(&d->api.bucket.signer, d->store);
	sandboxes_set_buckets(d->sandboxes, &d->api.bucket);
	api_system_routes(&d->api, d->router);
	api_openapi_routes(&d->api, d->router);
	api_namespaces_routes(&d->api, d->router);
	api_keys_routes(&d->api, d->router);
	api_orgs_routes(&d->api, d->router);
	api_audit_routes(&d->api, d->router);
	api_environments_routes(&d->api, d->router);
	api_details_routes(&d->api, d->router);
	api_deployments_routes(&d->api, d->router);
	api_git_routes(&d->api, d->router);
	api_github_routes(&d->api, d->router);
	api_settings_routes(&d->api, d->router);
	api_logs_routes(&d->api, d->router);
	api_removal_routes(&d->api, d->router);
	api_images_routes(&d->api, d->router);
	api_bucket_routes(&d->api, d->router);
	api_rollouts_routes(&d->api, d->router);
	api_records_routes(&d->api, d->router);
	api_export_routes(&d->api, d->router);
	api_backup_routes(&d->api, d->router);
	api_difficulty_routes(&d->api, d->router);
	api_billing_routes(&d->api, d->router);
	modules_routes(d);
	api_pages_routes(&d->api, d->router);
	figures_register(d);
	return 0;
}

static int daemon_serve(struct daemon *d, struct err *err)
{
	struct link_platform p = { .connection = on_platform, .denied = on_denied, .arg = d };
	int r = listeners_open(d, err);

	if (r < 0)
		return r;
	link_set_platform(d->link, &p);
	loop_timer_init(&d->watch, d->loop, on_watch, d);
	loop_timer_start(&d->watch, WATCH_MS);
	d->serving = true;
	fflush(stdout);
	notify("READY=1");
	return 0;
}

static int watch_signals(struct daemon *d, struct err *err)
{
	signal(SIGPIPE, SIG_IGN);
	int r = loop_signal(d->loop, SIGTERM, on_signal, d, err);

	r = r < 0 ? r : loop_signal(d->loop, SIGINT, on_signal, d, err);
	r = r < 0 ? r : loop_signal(d->loop, SIGUSR2, on_signal, d, err);
	if (!d->tls && isatty(STDIN_FILENO))
		return r; /* the terminal that goes takes the server with it */
	return r < 0 ? r : loop_signal(d->loop, SIGHUP, on_hangup, d, err);
}

static int daemon_open(struct daemon *d, struct err *err)
{
	int r = listeners_open_tls(d, err);

	slice_set(0, SLICE_SHORT_NS);
	r = r < 0 ? r : loop_new(&d->loop, err);
	r = r < 0 ? r : watch_signals(d, err);
	r = r < 0 ? r : link_new(&d->link, d->loop, d->launch->spawner_socket, err);
	if (r < 0)
		return r;
	r = open_store(d, err);
	r = r < 0 ? r : open_http(d, err);
	r = r < 0 ? r : parse_sizes(d, err);
	r = r < 0 ? r : modules_open(d, err);
	return r < 0 ? r : open_api(d, err);
}

static void on_taken_over(void *arg)
{
	struct daemon *d = arg;

	if (daemon_serve(d, &d->start_err) < 0)
		loop_stop(d->loop, START_FAILED);
}

static void daemon_close(struct daemon *d)
{
	loop_timer_stop(&d->watch);
	loop_timer_stop(&d->drain);
	d->http = http_server_free(d->http);
	/* What workers still do for requests ends in modules and records. */
	if (d->loop)
		loop_settle(d->loop);
	modules_close(d);
	http_router_free(d->router);
	api_metrics_free(d->metrics);
	auth_free(d->auth);
	store_free(d->store);
	difficulty_free(d->difficulty); /* no worker reads any more */
	link_free(d->link);
	if (d->loop)
		loop_free(d->loop);
	d->tls = http_tls_free(d->tls); /* connections are gone with the loop */
}

/* After a failed start the spawner that this life started has to go, too: its sockets are bound. */
static void give_up(struct daemon *d)
{
	d->ending = true;
	if (!d->link || d->launch->spawner <= 0 || d->lost)
		return;
	link_shutdown(d->link, on_spawner_ended, d);
	limit_end(0);
	(void)loop_run(d->loop);
}

int daemon_run(const struct config *c, const struct launch *l, struct err *err)
{
	struct daemon d = { .config = c, .launch = l };
	int r = daemon_open(&d, err);

	if (r < 0) {
		give_up(&d);
	} else {
		modules_take_over(&d, on_taken_over, &d);
		r = loop_run(d.loop);
		d.leaving |= !d.serving;
		if (r == START_FAILED)
			give_up(&d);
		if (r > 0)
			r = d.start_err.code ? err_set(err, d.start_err.code, "%s", d.start_err.msg) :
					       err_set(err, -EIO, "the spawner is gone");
		listeners_forget(&d);
	}
	daemon_close(&d);
	return r == 0 && d.leaving ? DAEMON_LEFT : r;
}
