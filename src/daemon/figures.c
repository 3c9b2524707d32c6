/* What each module tells /metrics. */
#include <stdio.h>

#include "api/sandbox/sandbox.h"
#include "build/build.h"
#include "daemon/server.h"
#include "env/env.h"
#include "gateway/session.h"
#include "sandbox/local.h"

static void collect_builds(struct api_metrics_out *o, void *arg)
{
	struct daemon *d = arg;
	unsigned queued = 0, running = 0;

	builds_count(d->builds, &queued, &running);
	api_metrics_gauge(o, "openreward_builds", "state=\"queued\"", "Image builds by state.", queued);
	api_metrics_gauge(o, "openreward_builds", "state=\"running\"", "Image builds by state.", running);
}

static void collect_egress(struct api_metrics_out *o, void *arg)
{
	const struct daemon *d = arg;

	api_metrics_counter(o, "openreward_platform_connections_total", NULL, "Connections from inside to the platform itself.",
			    (double)d->platform_total);
	api_metrics_counter(o, "openreward_egress_denied_total", NULL, "Connections from inside that were refused.",
			    (double)d->denied_total);
}

/* Only where there is one. */
static void collect_space(struct api_metrics_out *o, const struct link_space *s)
{
	static const char help[] = "Bytes of the file system that sandboxes write to: its size, what is free in it, what it may still grow by.";

	api_metrics_gauge(o, "openreward_sandbox_disk_bytes", "kind=\"size\"", help, (double)s->size);
	api_metrics_gauge(o, "openreward_sandbox_disk_bytes", "kind=\"free\"", help, (double)s->free);
	api_metrics_gauge(o, "openreward_sandbox_disk_bytes", "kind=\"more\"", help, (double)s->more);
	api_metrics_gauge(o, "openreward_sandbox_disk_failed", NULL, "1: it can only be read; the spawner has to be started again.",
			  s->broken);
}

static void collect_engine(struct api_metrics_out *o, void *arg)
{
	const struct daemon *d = arg;
	struct local_counts c;
	char label[48];

	local_engine_counts(d->engine, &c);
	api_metrics_gauge(o, "openreward_boxes", NULL, "Containers alive: sandboxes and instances.", (double)c.boxes);
	api_metrics_gauge(o, "openreward_room_waiting", "for=\"sandbox\"", "Creates that wait for room.", (double)c.waiting);
	api_metrics_gauge(o, "openreward_room_waiting", "for=\"instance\"", "Creates that wait for room.",
			  (double)c.waiting_instances);
	api_metrics_counter(o, "openreward_room_waited_total", NULL, "Creates that had to wait for room.", (double)c.waited_total);
	api_metrics_gauge(o, "openreward_execs", NULL, "Commands running now.", (double)c.execs);
	api_metrics_counter(o, "openreward_boxes_created_total", NULL, "Containers made.", (double)c.created_total);
	api_metrics_counter(o, "openreward_boxes_warm_total", NULL, "Of them, those that had been prepared: hits of the pool.",
			    (double)c.warm_total);
	api_metrics_counter(o, "openreward_boxes_begun_total", NULL,
			    "Of them, those that had been begun before their image and size were known.", (double)c.begun_total);
	api_metrics_gauge(o, "openreward_boxes_begun", NULL, "Begun and nobody's yet, when the last one was made.",
			  (double)c.blanks);
	api_metrics_gauge(o, "openreward_boxes_prepared", NULL, "Prepared and nobody's yet, when the last one was made.",
			  (double)c.spares);
	api_metrics_counter(o, "openreward_boxes_failed_total", NULL, "Containers that could not be made.", (double)c.failed_total);
	api_metrics_counter(o, "openreward_box_create_seconds_total", NULL, "Time spent making containers, summed.",
			    (double)c.create_us_total / 1e6);
	api_metrics_counter(o, "openreward_execs_total", NULL, "Commands started.", (double)c.execs_total);
	if (c.space.size)
		collect_space(o, &c.space);
	for (int i = 0; i <= ENGINE_EXITED; i++) {
		snprintf(label, sizeof(label), "outcome=\"%s\"", engine_outcome_name((enum engine_outcome)i));
		api_metrics_counter(o, "openreward_exec_outcomes_total", label, "Commands ended, by outcome.",
				    (double)c.outcomes[i]);
	}
}

static void collect_sandboxes(struct api_metrics_out *o, void *arg)
{
	const struct daemon *d = arg;
	struct sandboxes_counts c;

	sandboxes_counts(d->sandboxes, &c);
	api_metrics_gauge(o, "openreward_sandboxes", "state=\"open\"", "Sandboxes by state.", (double)c.open);
	api_metrics_gauge(o, "openreward_sandboxes", "state=\"creating\"", "Sandboxes by state.", (double)c.creating);
	api_metrics_counter(o, "openreward_sandboxes_created_total", NULL, "Sandboxes made.", (double)c.created_total);
	api_metrics_counter(o, "openreward_sandboxes_failed_total", NULL, "Sandboxes that could not be made.",
			    (double)c.failed_total);
	api_metrics_counter(o, "openreward_sandboxes_refused_total", NULL, "Answered with 429.", (double)c.refused_total);
	api_metrics_counter(o, "openreward_sandboxes_expired_total", NULL, "Sandboxes ended by silence.", (double)c.expired_total);
	api_metrics_counter(o, "openreward_runs_total", NULL, "Commands asked for.", (double)c.runs_total);
	api_metrics_counter(o, "openreward_runs_joined_total", NULL, "Repeated commands that joined the first.",
			    (double)c.twins_total);
	api_metrics_counter(o, "openreward_runs_resumed_total", NULL, "Results asked for again by task_id.",
			    (double)c.resumed_total);
	api_metrics_counter(o, "openreward_upload_bytes_total", NULL, "Bytes written into sandboxes.",
			    (double)c.upload_bytes_total);
	api_metrics_counter(o, "openreward_download_bytes_total", NULL, "Bytes read from sandboxes.",
			    (double)c.download_bytes_total);
}

static void collect_envs(struct api_metrics_out *o, void *arg)
{
	const struct daemon *d = arg;
	struct env_counts c;

	envs_counts(d->envs, &c);
	api_metrics_gauge(o, "openreward_instances", NULL, "Environment servers alive.", (double)c.instances);
	api_metrics_gauge(o, "openreward_instances_starting", NULL, "Of these, not healthy yet.", (double)c.starting);
	api_metrics_gauge(o, "openreward_instances_draining", NULL, "Of these, of an older revision.", (double)c.draining);
	api_metrics_counter(o, "openreward_deployments_total", NULL, "Deployments begun.", (double)c.deployments_total);
	api_metrics_counter(o, "openreward_deployments_failed_total", NULL, "Deployments that failed.",
			    (double)c.deployments_failed_total);
	api_metrics_gauge(o, "openreward_instances_own", NULL, "Of these, of one session that brought variables.", (double)c.own);
	api_metrics_gauge(o, "openreward_instance_places_taken", NULL, "Sessions that count against a concurrency.",
			  (double)c.places);
	api_metrics_gauge(o, "openreward_sessions_waiting", "for=\"place\"", "Sessions that wait for an instance.",
			  (double)c.waiting);
	api_metrics_gauge(o, "openreward_sessions_waiting", "for=\"any\"", "Sessions that wait for an instance.",
			  (double)c.visiting);
	api_metrics_counter(o, "openreward_autoscaler_decisions_total", "direction=\"up\"", "Changes of the number of instances.",
			    (double)c.scaled_up_total);
	api_metrics_counter(o, "openreward_autoscaler_decisions_total", "direction=\"down\"", "Changes of the number of instances.",
			    (double)c.scaled_down_total);
	api_metrics_counter(o, "openreward_instances_started_total", NULL, "Environment servers started.",
			    (double)c.instances_started_total);
	api_metrics_counter(o, "openreward_deployments_illegal_moves_total", NULL, "Bugs: moves between states that no table has.",
			    (double)c.illegal_moves_total);
	api_metrics_counter(o, "openreward_instances_crashed_total", NULL, "Environment servers that ended by themselves.",
			    (double)c.instances_crashed_total);
}

static void collect_sessions(struct api_metrics_out *o, void *arg)
{
	const struct daemon *d = arg;
	struct gateway_counts c;

	gateway_counts(d->gateway, &c);
	api_metrics_gauge(o, "openreward_sessions", "state=\"open\"", "Sessions by state.", (double)c.open);
	api_metrics_gauge(o, "openreward_sessions", "state=\"opening\"", "Sessions by state.", (double)c.opening);
	api_metrics_counter(o, "openreward_sessions_total", NULL, "Sessions begun.", (double)c.sessions_total);
	api_metrics_counter(o, "openreward_sessions_refused_total", NULL, "Answered with 429.", (double)c.refused_total);
	api_metrics_counter(o, "openreward_sessions_expired_total", NULL, "Sessions ended by silence.", (double)c.expired_total);
	api_metrics_counter(o, "openreward_proxied_requests_total", NULL, "Requests passed through to environments.",
			    (double)c.proxied_total);
	api_metrics_counter(o, "openreward_upstream_errors_total", NULL, "Of these, broken on the environment's side.",
			    (double)c.upstream_errors_total);
	api_metrics_counter(o, "openreward_calls_resent_total", NULL, "Calls that look sent again: an estimate.",
			    (double)c.resent_calls_total);
}

void figures_register(struct daemon *d)
{
	static api_metrics_fn *const all[] = {
		collect_builds, collect_egress, collect_engine, collect_sandboxes, collect_envs, collect_sessions,
	};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		api_metrics_add(d->metrics, all[i], d);
}
