/* env/follow.c: those who watch a deployment: first its kept log, then each line as it comes, then how it ended. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "env/private.h"

#define LOG_STAMP_LEN TIME_ISO_LEN /* "2026-01-02T03:04:05.678Z" and a blank */

static void follow_free(struct env_follow *f)
{
	list_remove(&f->node);
	free(f);
}

void follow_line(struct deploy *p, const char *line)
{
	list_foreach(&p->followers, struct env_follow, node, f)
		if (f->replayed && !f->cancelled)
			f->line(f->arg, line);
}

static void tell_over(struct env_follow *f)
{
	if (!f->cancelled)
		f->over(f->arg, f->d->state, f->d->reason);
	follow_free(f);
}

void follow_over(struct deploy *p)
{
	list_foreach(&p->followers, struct env_follow, node, f) {
		list_remove(&f->node); /* one whose replay is due ends there, with the whole log */
		if (f->replayed)
			tell_over(f);
	}
}

/* Lines of ours go to the same file as the build's, in the same form. */
static void log_append(struct deploy *p, const char *line)
{
	char stamp[TIME_ISO_LEN];
	if (p->log_fd < 0) {
		auto_free char *path = xasprintf("%s/builds/%s/log", p->env->envs->settings.data_dir, p->d->id);
		p->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	}
	if (p->log_fd < 0)
		return;
	auto_free char *text = xasprintf("%s %s\n", time_iso(time_wall_ms(), stamp), line);
	(void)!write(p->log_fd, text, strlen(text)); /* a full disk loses a line of the log, nothing else */
}

void deploy_log(struct deploy *p, const char *fmt, ...)
{
	auto_buf struct buf b = { 0 };
	va_list ap;
	buf_init(&b, 4096);
	va_start(ap, fmt);
	int r = buf_vprintf(&b, fmt, ap);
	va_end(ap);
	const char *line = r < 0 ? "(a line that was too long)" : b.data;
	log_append(p, line);
	env_waits_progress(p->env, line);
	follow_line(p, line);
}

static void replay_lines(struct env_follow *f, char *text)
{
	for (char *line = strsep(&text, "\n"); line && !f->cancelled; line = strsep(&text, "\n")) {
		if (!*line && !text)
			return; /* after the last newline */
		bool stamped = strlen(line) >= LOG_STAMP_LEN && line[LOG_STAMP_LEN - 2] == 'Z';
		f->line(f->arg, stamped ? line + LOG_STAMP_LEN : line);
	}
}

/* Runs from the loop, so that a follower's calls never come inside env_follow(). */
static void replay(void *arg)
{
	struct env_follow *f = arg;
	auto_buf struct buf log = { 0 };
	if (f->cancelled) {
		follow_free(f);
		return;
	}
	buf_init(&log, 32u * 1024 * 1024);
	if (builds_read_log(f->envs->builds, f->d->id, 0, log.max, &log, NULL) == 0)
		replay_lines(f, log.data);
	f->deferred = false; /* only now: a line's callback may have unfollowed */
	f->replayed = true;
	struct env *v = f->d->environment->user;
	bool alive = v && v->pending && v->pending->d == f->d;
	if (f->cancelled)
		follow_free(f);
	else if (!alive)
		tell_over(f);
}

int env_follow(struct env_follow **ret, struct envs *e, struct store_deployment *d, env_line_fn *line, env_over_fn *over, void *arg,
	       struct err *err UNUSED)
{
	struct env *v = env_of(e, d->environment);
	struct env_follow *f = NEW(struct env_follow);
	*f = (struct env_follow){ .envs = e, .d = d, .line = line, .over = over, .arg = arg, .deferred = true };
	list_init(&f->node);
	if (v->pending && v->pending->d == d)
		list_push_back(&v->pending->followers, &f->node);
	loop_defer(e->loop, replay, f);
	*ret = f;
	return 0;
}

void env_unfollow(struct env_follow *f)
{
	f->cancelled = true;
	if (!f->deferred)
		follow_free(f);
}
