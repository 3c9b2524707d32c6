/* env/health.c: whether the server of a STARTING instance answers yet. Nobody tells when a program begins to listen, so it
 * is asked again and again: a quick one soon, a slow one not without end, and each so often that the asking adds little to
 * the time that its start takes anyway. */
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "env/private.h"
#include "store/envset.h"

void health_stop(struct instance *i)
{
	loop_timer_stop(&i->probe);
	loop_timer_stop(&i->deadline);
	if (i->probing)
		i->probing = http_client_free(i->probing);
}

uint64_t health_pause_ms(uint64_t elapsed_ms, uint64_t max_ms)
{
	return MIN(MAX(elapsed_ms / ENV_PROBE_SHARE, (uint64_t)ENV_PROBE_MIN_MS), max_ms);
}

static void probe_again(struct instance *i)
{
	if (i->probing)
		i->probing = http_client_free(i->probing);
	if (i->state != INSTANCE_STARTING)
		return;
	loop_timer_start(&i->probe, health_pause_ms(loop_now_ms(i->env->envs->loop) - i->probing_ms,
						    i->env->envs->settings.health_interval_ms));
}

static void tell_successor(const struct instance *i)
{
	auto_buf struct buf note = { 0 };

	instance_note(i, &note);
	i->env->envs->engine->ops->note(i->box, note.data, note.len);
}

static void on_probe_head(struct http_client *c UNUSED, int status, const struct http_header *h UNUSED, size_t n UNUSED,
			  int64_t body_length UNUSED, void *arg)
{
	struct instance *i = arg;
	if (status < 200 || status >= 300) {
		probe_again(i);
		return;
	}
	health_stop(i);
	instance_leave_starting(i, INSTANCE_HEALTHY);
	i->served = true;
	i->healthy_ms = i->unused_ms = loop_now_ms(i->env->envs->loop);
	tell_successor(i);
	env_instance_healthy(i);
}

static void on_probe_data(struct http_client *c UNUSED, const char *p UNUSED, size_t len UNUSED, void *arg UNUSED)
{
}

static void on_probe_end(struct http_client *c UNUSED, bool reusable UNUSED, void *arg UNUSED)
{
}

static void on_probe_error(struct http_client *c UNUSED, bool got_bytes UNUSED, const struct err *err UNUSED, void *arg)
{
	probe_again(arg);
}

static void on_probe_connected(void *arg, int fd, const struct err *err)
{
	static const struct http_client_events events = {
		.on_head = on_probe_head, .on_data = on_probe_data, .on_end = on_probe_end, .on_error = on_probe_error,
	};
	static const struct http_header host = { "Host", "localhost:8080" };
	struct instance *i = arg;
	struct http_limits limits;
	i->connecting = false;
	if (i->state != INSTANCE_STARTING) {
		fd_close(fd);
		instance_release(i);
		return;
	}
	http_limits_default(&limits);
	if (err || http_client_new(&i->probing, i->env->envs->loop, fd, &limits, NULL) < 0 ||
	    http_client_start(i->probing, "GET", "/health", &host, 1, 0, &events, i, NULL) < 0)
		probe_again(i);
	else
		loop_timer_start(&i->probe, ENV_PROBE_TIMEOUT_MS);
	instance_release(i);
}

/* Due between two probes, and when one took too long. */
static void on_probe_timer(struct loop_timer *t UNUSED, void *arg)
{
	struct instance *i = arg;
	if (i->probing)
		i->probing = http_client_free(i->probing);
	if (i->connecting)
		return;
	i->connecting = true;
	i->uses++; /* until on_probe_connected */
	i->env->envs->engine->ops->connect(i->box, ENV_INSTANCE_PORT, on_probe_connected, i);
}

static uint64_t health_timeout_ms(const struct instance *i)
{
	return envset_number_or(i->env->record, ENVSET_HEALTH_TIMEOUT, i->env->envs->settings.health_timeout_ms);
}

static void on_deadline(struct loop_timer *t UNUSED, void *arg)
{
	struct instance *i = arg;
	auto_free char *last = env_log_last_line(i->log_fd);
	auto_free char *reason = xasprintf("the server did not answer GET /health on port %d with 200 within %llu s; its last line: %s",
					   ENV_INSTANCE_PORT, (unsigned long long)health_timeout_ms(i) / 1000,
					   *last ? last : "(none)");
	instance_end(i, reason);
}

/* -- its beginning ------------------------------------------------------------------------------------------------- */

void health_init(struct instance *i)
{
	loop_timer_init(&i->probe, i->env->envs->loop, on_probe_timer, i);
	loop_timer_init(&i->deadline, i->env->envs->loop, on_deadline, i);
}

void health_start(struct instance *i)
{
	i->probing_ms = loop_now_ms(i->env->envs->loop);
	loop_timer_start(&i->probe, ENV_PROBE_MIN_MS);
	loop_timer_start(&i->deadline, health_timeout_ms(i));
}
