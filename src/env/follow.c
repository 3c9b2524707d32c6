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

#define REPLAY_BYTES ((size_t)16384)      /* of the kept log in one turn of the loop, and as many more as a line needs */
#define REPLAY_MAX ((size_t)1024 * 1024) /* a line of that length is told in pieces */
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

/* d NULL: it went with its environment. */
static void tell_over(struct env_follow *f, const struct store_deployment *d)
{
	if (!f->cancelled)
		f->over(f->arg, d ? d->state : STORE_DEPLOYMENT_STOPPED, d ? d->reason : "it was removed");
	follow_free(f);
}

void follow_over(struct deploy *p)
{
	list_foreach(&p->followers, struct env_follow, node, f) {
		list_remove(&f->node); /* one whose replay is due ends there, with the whole log */
		if (f->replayed)
			tell_over(f, p->d);
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

/* Tells the whole lines of the next piece. True: that was the end of the log, which is there to the last line that was told to
 * others: both are the loop's own. */
static bool replay_piece(struct env_follow *f)
{
	auto_buf struct buf log = { 0 };
	buf_init(&log, f->piece + 1);
	if (builds_read_log(f->envs->builds, f->id, f->at, f->piece, &log, NULL) < 0)
		return true;
	bool end = log.len < f->piece;
	const char *last = end ? NULL : memrchr(log.data, '\n', log.len);
	if (!end && !last && f->piece < REPLAY_MAX) {
		f->piece *= 2;
		return false;
	}
	size_t len = last ? (size_t)(last + 1 - log.data) : log.len;
	f->at += len;
	f->piece = REPLAY_BYTES;
	if (len) {
		log.data[len] = '\0';
		replay_lines(f, log.data);
	}
	return end;
}

/* Runs from the loop, so that a follower's calls never come inside env_follow(); a piece in each turn, because a log may be long
 * and those who read it many. */
static void replay(void *arg)
{
	struct env_follow *f = arg;
	struct store_deployment *d = f->cancelled ? NULL : store_deployment_by_id(f->envs->store, f->id);
	if (d && !replay_piece(f)) {
		loop_defer(f->envs->loop, replay, f);
		return;
	}
	f->deferred = false; /* only now: a line's callback may have unfollowed */
	f->replayed = true;
	struct env *v = d ? d->environment->user : NULL;
	bool alive = v && v->pending && v->pending->d == d;
	if (f->cancelled)
		follow_free(f);
	else if (!alive)
		tell_over(f, d);
	else if (list_empty(&f->node)) /* it ended meanwhile, and was begun anew */
		list_push_back(&v->pending->followers, &f->node);
}

int env_follow(struct env_follow **ret, struct envs *e, struct store_deployment *d, env_line_fn *line, env_over_fn *over, void *arg,
	       struct err *err UNUSED)
{
	struct env *v = env_of(e, d->environment);
	struct env_follow *f = NEW(struct env_follow);
	*f = (struct env_follow){ .envs = e, .line = line, .over = over, .arg = arg, .deferred = true, .piece = REPLAY_BYTES };
	memcpy(f->id, d->id, sizeof(f->id));
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
