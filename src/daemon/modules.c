/* Everything between the store and HTTP: images, builds, the engine, environments, sandboxes, sessions. */
#include <errno.h>
#include <string.h>

#include "api/sandbox/sandbox.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "bucket/bucket.h"
#include "build/build.h"
#include "daemon/server.h"
#include "env/env.h"
#include "gateway/session.h"
#include "git/git.h"
#include "git/github.h"
#include "image/image.h"
#include "rollout/difficulty.h"
#include "rollout/recorder.h"
#include "sandbox/local.h"

#define PLATFORM_NAME "openreward.internal"
#define DAY_MS (24ull * 3600 * 1000)

/* -- opening ----------------------------------------------------------------------------------------------------- */

static int open_images(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct builds_settings bs = {
		.concurrency = (unsigned)c->build_concurrency, .time_limit_ms = c->build_timeout_ms,
		.log_max_bytes = c->build_log_bytes,
	};
	int r = images_new(&d->images, d->loop, c->data, c->image_aliases, link_jobs(d->link), err);

	if (r == 0)
		images_time_limit(d->images, c->image_timeout_ms);
	return r < 0 ? r : builds_new(&d->builds, d->loop, c->data, d->images, link_jobs(d->link), &bs, err);
}

/* "SOURCE[:TARGET]" becomes two strings in one piece of memory. */
static void split_mounts(struct daemon *d)
{
	size_t n = d->mount_texts.n;

	d->mounts = xcalloc(n + 1, sizeof(*d->mounts));
	for (size_t i = 0; i < n; i++) {
		char *colon = strchr(d->mount_texts.list[i], ':');
		if (colon)
			*colon = '\0';
		d->mounts[i] = (struct engine_mount){
			.source = d->mount_texts.list[i], .target = colon ? colon + 1 : d->mount_texts.list[i], .read_only = true,
		};
	}
}

/* The host's package client configuration, as launch() staged it, goes into every box where the operator says so. */
static int open_engine(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct local_settings s = { .pids_max = c->sandbox_pids, .no_new_privs = c->sandbox_no_new_privs,
				    .disk_bytes = c->sandbox_disk_bytes, .disk_files = c->sandbox_files, .room = c->room,
				    .data_dir = c->data,
				    .memory_upper = c->sandbox_memory_upper, .pool_max = c->pool_max,
				    .pool_keep_ms = c->pool_keep_ms, .pool_bytes = c->pool_bytes,
				    .pool_blanks = c->pool_blanks };

	strv_add_all(&d->sandbox_env, d->launch->host_env);
	strv_add_all(&d->sandbox_env, c->sandbox_env);
	strv_add_all(&d->mount_texts, c->sandbox_mounts);
	if (d->launch->host_dir)
		strv_add(&d->mount_texts, xasprintf("%s:%s", d->launch->host_dir, LAUNCH_HOST_TARGET));
	s.env = (const char *const *)d->sandbox_env.list;
	split_mounts(d);
	s.mounts = d->mounts;
	return local_engine_new(&d->engine, d->loop, d->link, d->images, &s, err);
}

/* Inside, the platform has a name of its own, at any port, whatever it is called outside. */
static int open_envs(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct env_settings s = {
		.data_dir = c->data, .buckets = d->buckets, .data_always = c->instance_data_always,
		.data_read_only = !c->instance_data_writable, .health_timeout_ms = c->instance_start_ms, .health_interval_ms = 100,
		.instance_log_bytes = c->instance_log_bytes, .idle_ms = c->instance_idle_ms, .images = d->images,
		.jobs = link_jobs(d->link),
		.keep_images = c->build_keep_images,
		.size = { .cpu_milli = d->api.default_cpu_milli, .memory_bytes = d->api.default_memory_bytes },
	};

	strv_add(&d->instance_env, xstrdup("PORT=8080"));
	strv_add(&d->instance_env, xstrdup("OPENREWARD_URL=http://" PLATFORM_NAME));
	strv_add(&d->instance_env, xstrdup("OPENREWARD_API_URL=http://api." PLATFORM_NAME));
	strv_add(&d->instance_env, xstrdup("OPENREWARD_SESSION_URL=http://sessions." PLATFORM_NAME));
	strv_add(&d->instance_env, xstrdup("OPENREWARD_USE_STRUCTURED_LOGS=1"));
	strv_add(&d->instance_env, xstrdup("OPENREWARD_DISABLE_UPDATE_CHECK=1"));
	strv_add_all(&d->instance_env, c->instance_env);
	s.instance_env = (const char *const *)d->instance_env.list;
	return envs_new(&d->envs, d->loop, d->engine, d->store, d->builds, &s, err);
}

static int open_sandboxes(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct sandboxes_settings s = {
		.idle_ms = c->sandbox_idle_ms, .hard_ms = c->sandbox_hard_ms, .remember_ms = c->session_ended_ms,
		.remember_max = c->session_ended_max,
		.result_ms = c->sandbox_result_ms, .repeat_ms = c->sandbox_repeat_ms, .result_bytes = c->sandbox_result_bytes,
		.runs_max = c->sandbox_runs,
		.queue = { c->queue_max, c->queue_share }, .claim_ms = c->sandbox_claim_ms, .state_dir = d->state_dir,
		.life = link_boot(d->link),
		.sidecars_max = c->sidecars, .sidecar_log_bytes = c->sidecar_log_bytes,
	};

	if (str_to_machine(c->sandbox_size, &s.size.cpu_milli, &s.size.memory_bytes) < 0)
		return err_set(err, -EINVAL, "sandboxes.size: \"%s\": expected CPU:GIB", c->sandbox_size);
	if (str_to_machine(c->sidecar_size, &s.sidecar_size.cpu_milli, &s.sidecar_size.memory_bytes) < 0)
		return err_set(err, -EINVAL, "sandboxes.sidecar_size: \"%s\": expected CPU:GIB", c->sidecar_size);
	return sandboxes_new(&d->sandboxes, d->loop, d->engine, d->auth, &s, err);
}

static int open_gateway(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct gateway_sandboxes sandboxes = {
		.end_owned = sandboxes_end_owned, .ping = sandboxes_ping, .remove = sandboxes_remove, .arg = d->sandboxes,
	};
	struct gateway_settings s = {
		.lease_ms = c->session_idle_ms, .hard_ms = c->session_hard_ms, .teardown_ms = c->session_teardown_ms,
		.remember_ms = c->session_ended_ms, .remember_max = c->session_ended_max, .ping_forward_ms = c->session_ping_ms,
		.sessions_max = c->session_max, .queue = { c->queue_max, c->queue_share },
		.idle_upstreams_max = 64, .upstream_idle_ms = 30000, .http = c->http, .state_dir = d->state_dir,
		.life = link_boot(d->link),
	};

	return gateway_new(&d->gateway, d->loop, d->auth, d->store, d->envs, &sandboxes, &s, err);
}

static int open_git(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct git_settings s = { .data_dir = c->data, .push_max_bytes = c->git_push_max_bytes,
		.time_limit_ms = c->git_time_limit_ms,
				  .max_processes = (unsigned)c->git_max_processes };

	struct github_settings hub = { .api_url = c->github_api_url, .url = c->github_url, .token = c->github_token };
	int r = git_new(&d->git, d->loop, &s, err);

	if (r == 0)
		git_settle_renames(d->git, d->store);
	return r < 0 ? r : github_new(&d->github, d->loop, d->git, &hub, err);
}

static void open_recorder(struct daemon *d)
{
	const struct config *c = d->config;
	struct recorder_settings s = {
		.pending_bytes = c->rollout_pending_bytes, .events_max = c->rollout_events,
		.keep = { .keep_ms = c->rollout_keep_days * DAY_MS, .max_messages = c->rollout_max_messages,
			  .audit_ms = c->audit_keep_days * DAY_MS },
	};

	d->recorder = recorder_new(d->loop, d->store, &s);
	d->difficulty = difficulty_new(c->rollout_difficulty_bytes);
}

int modules_open(struct daemon *d, struct err *err)
{
	int r;

	d->state_dir = xasprintf("%s/run", d->config->data);
	open_recorder(d);
	r = open_images(d, err);
	r = r < 0 ? r : buckets_new(&d->buckets, d->loop, d->config->data, err);
	r = r < 0 ? r : open_engine(d, err);
	r = r < 0 ? r : open_envs(d, err);
	r = r < 0 ? r : open_git(d, err);
	r = r < 0 ? r : open_sandboxes(d, err);
	return r < 0 ? r : open_gateway(d, err);
}

/* -- images that nobody needs ------------------------------------------------------------------------------------ */

/* A build may use any base, and its result is nobody's before its end. An environment's image is its deployment's, whose
 * number of kept ones is a setting. */
static bool image_is_needed(void *arg, const char *name)
{
	struct daemon *d = arg;
	const char *tag = strrchr(name, ':');
	unsigned queued, running;

	builds_count(d->builds, &queued, &running);
	if (queued || running)
		return true;
	const struct store_deployment *of = tag ? store_deployment_by_id(d->store, tag + 1) : NULL;
	return of && str_eq(of->image, name);
}

static void on_image_gone(void *arg UNUSED, const char *name, uint64_t bytes, const struct err *err)
{
	auto_free char *text = xasprintf("%llu", (unsigned long long)bytes);

	if (err)
		log_event(LOG_WARN, "image", LOG_KV("image", name, "why", err->msg),
			  "an image that nobody needs could not be removed");
	else
		log_event(LOG_INFO, "image", LOG_KV("image", name, "freed_bytes", text), "removed an image that nobody needs");
}

static void watch_images(struct daemon *d)
{
	struct images_budget b = { .bytes = d->config->image_budget_bytes, .needed = image_is_needed, .told = on_image_gone,
		.arg = d };

	images_budget(d->images, &b);
}

static void on_taken(void *arg, size_t n)
{
	struct daemon *d = arg;

	if (n)
		log_info("daemon", "%zu sandboxes and instances were taken over", n);
	sandboxes_taken_over(d->sandboxes);
	envs_resume(d->envs);
	gateway_take_over(d->gateway);
	envs_taken_over(d->envs);
	watch_images(d);
	d->ended(d->ended_arg);
}

void modules_take_over(struct daemon *d, void (*done)(void *arg), void *arg)
{
	const struct local_heirs heirs = {
		.instance = envs_adopt, .instances = d->envs, .sandbox = sandboxes_adopt, .sandboxes = d->sandboxes,
	};

	d->ended = done;
	d->ended_arg = arg;
	local_engine_take_over(d->engine, &heirs, on_taken, d);
}

void modules_routes(struct daemon *d)
{
	sandboxes_routes(d->sandboxes, d->router);
	gateway_routes(d->gateway, d->router);
}

/* Sessions first: their environments' teardowns may still use sandboxes. */
static void on_sessions_over(void *arg)
{
	struct daemon *d = arg;

	sandboxes_end_all(d->sandboxes, "the server is stopping", d->ended, d->ended_arg);
}

void modules_end(struct daemon *d, void (*done)(void *arg), void *arg)
{
	d->ended = done;
	d->ended_arg = arg;
	gateway_shutdown(d->gateway, "the server is stopping", on_sessions_over, d);
}

void modules_close(struct daemon *d)
{
	if (d->leaving)
		local_engine_leave(d->engine);
	d->recorder = recorder_free(d->recorder);
	gateway_free(d->gateway);
	sandboxes_free(d->sandboxes);
	github_free(d->github);
	git_free(d->git);
	envs_free(d->envs);
	builds_free(d->builds);
	local_engine_free(d->engine);
	buckets_free(d->buckets);
	images_free(d->images);
	strv_free(d->instance_env.list);
	strv_free(d->sandbox_env.list);
	strv_free(d->mount_texts.list);
	free(d->mounts);
	free(d->state_dir);
}
