/* git/child.c: starting and ending processes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "git/private.h"

#define ENV_MAX 64

struct git_child {
	struct list node;
	struct git *git;
	struct loop_child watch;
	struct loop_timer limit;
	pid_t pid;
	bool ending, timed_out;
	git_exit_fn *fn; /* NULL = forgotten */
	void *arg;
};

/* Nothing of whoever started the daemon: no configuration, no proxies or traces, no agents. */
static const char *const fixed_env[] = {
	"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "TZ=UTC", "GIT_CONFIG_NOSYSTEM=1",
	"GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "GIT_HTTP_EXPORT_ALL=1",
	"GIT_ALLOW_PROTOCOL=http:https", "GIT_OPTIONAL_LOCKS=0",
};

static void on_exit_status(struct loop_child *w, int status, void *arg)
{
	struct git_child *c = arg;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

	(void)w;
	(void)kill(-c->pid, SIGKILL); /* what it left of its group; there may be none */
	loop_timer_stop(&c->limit);
	list_remove(&c->node);
	if (c->fn)
		c->fn(c->arg, code, c->timed_out);
	loop_release(c->git->loop, free, c);
}

static void end(struct git_child *c)
{
	(void)kill(-c->pid, c->ending ? SIGKILL : SIGTERM);
	c->ending = true;
	loop_timer_start(&c->limit, GIT_KILL_AFTER_MS);
}

static void on_limit(struct loop_timer *t, void *arg)
{
	struct git_child *c = arg;

	(void)t;
	c->timed_out = true;
	end(c);
}

void git_child_unlimit(struct git_child *c)
{
	if (!c->ending)
		loop_timer_stop(&c->limit);
}

void git_child_forget(struct git_child *c)
{
	if (!c)
		return;
	c->fn = NULL;
	if (!c->ending)
		end(c);
}

void git_children_kill(struct git *g)
{
	struct git_child *c;

	while ((c = list_first(&g->children, struct git_child, node))) {
		(void)kill(-c->pid, SIGKILL);
		loop_child_close(&c->watch);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
		loop_timer_stop(&c->limit);
		list_remove(&c->node);
		free(c);
	}
}

/* What the child needs, prepared before it: between vfork() and exec only system calls are allowed. */
struct start {
	const struct git_spawn *s;
	const char *cwd; /* git wants to see where it is: the daemon's own folder may be anybody's */
	const char *env[ENV_MAX];
	char program[64];
	sigset_t none;
	int null;
	pid_t parent;
};

static void put_fd(int from, int to)
{
	if (from == to)
		(void)fcntl(to, F_SETFD, 0);
	else
		(void)dup2(from, to);
}

static NORETURN void in_child(const struct start *x)
{
	const struct git_spawn *s = x->s;

	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL);
	(void)setpgid(0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != x->parent)
		_exit(127);
	put_fd(s->in < 0 ? x->null : s->in, 0);
	put_fd(s->out < 0 ? x->null : s->out, 1);
	put_fd(s->err < 0 ? x->null : s->err, 2);
	if (s->hook >= 0)
		put_fd(s->hook, GIT_HOOK_FD);
	(void)sigprocmask(SIG_SETMASK, &x->none, NULL);
	if (chdir(x->cwd) < 0)
		_exit(127);
	(void)execve(x->program, (char *const *)s->argv, (char *const *)x->env);
	_exit(127);
}

static int prepare(struct start *x, const struct git_spawn *s, struct err *err)
{
	size_t n = 0;

	x->s = s;
	x->parent = getpid();
	sigemptyset(&x->none);
	for (size_t i = 0; i < ARRAY_LEN(fixed_env); i++)
		x->env[n++] = fixed_env[i];
	for (size_t i = 0; s->env && s->env[i]; i++) {
		if (n == ENV_MAX - 1)
			return err_set(err, -E2BIG, "starting %s: more than %d variables", s->argv[0], ENV_MAX);
		x->env[n++] = s->env[i];
	}
	x->env[n] = NULL;
	snprintf(x->program, sizeof(x->program), "/usr/bin/%s", s->argv[0]);
	if (access(x->program, X_OK) < 0)
		return err_sys(err, "%s: the package git is needed", x->program);
	x->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return x->null < 0 ? err_sys(err, "open /dev/null") : 0;
}

/* vfork: the daemon may be large, and copying its page tables would hold up every session. */
static pid_t start_process(const struct start *x)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler may run in the child, on our memory */
	pid_t pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) posix_spawn cannot do what in_child() does */
	if (pid == 0)
		in_child(x); /* NOLINT(clang-analyzer-unix.Vfork) it writes no memory of ours and ends in execve or _exit */
	int saved = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = saved;
	return pid;
}

int git_child_start(struct git_child **ret, struct git *g, const struct git_spawn *s, git_exit_fn *fn, void *arg,
		    struct err *err)
{
	struct start x = { .cwd = g->root };
	int r = prepare(&x, s, err);

	if (r < 0)
		return r;
	pid_t pid = start_process(&x);
	if (pid < 0)
		r = err_sys(err, "starting %s", s->argv[0]);
	fd_close(x.null);
	if (r < 0)
		return r;
	(void)setpgid(pid, pid);
	struct git_child *c = NEW(struct git_child);
	*c = (struct git_child){ .git = g, .pid = pid, .fn = fn, .arg = arg };
	loop_timer_init(&c->limit, g->loop, on_limit, c);
	r = loop_child_open(&c->watch, g->loop, pid, on_exit_status, c, err);
	if (r < 0) {
		(void)kill(-pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		free(c);
		return r;
	}
	list_push_back(&g->children, &c->node);
	if (s->time_limit_ms)
		loop_timer_start(&c->limit, s->time_limit_ms);
	*ret = c;
	return 0;
}
