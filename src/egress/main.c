/* egress/main.c: openreward-egress: see egress.h. An ordinary user; ends when the spawner's channel does, or by
 * SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "base/fd.h"
#include "base/log.h"
#include "egress/options.h"

enum { FD_SPAWNER = 3, FD_DAEMON = 4 };

static void on_signal(int signo, void *arg)
{
	(void)signo;
	loop_stop(arg, 0);
}

static int prepare(struct loop *loop, struct err *err)
{
	/* Neither a sandbox that broke out nor another program of this user is to read what passes through here. */
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(err, "give up privileges");
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_sys(err, "ignore SIGPIPE");
	int r = loop_signal(loop, SIGTERM, on_signal, loop, err);
	return r < 0 ? r : loop_signal(loop, SIGINT, on_signal, loop, err);
}

static int add_resolvers(struct egress *e, const struct egress_options *o, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < o->n_resolvers && r == 0; i++)
		r = egress_resolver_add(&e->resolver, o->resolvers[i], err);
	return r;
}

static int serve(struct loop *loop, const struct egress_options *o, int daemon_fd, struct err *err)
{
	struct egress e;
	int r = prepare(loop, err);

	if (r < 0)
		return r;
	r = egress_init(&e, loop, &o->config, FD_SPAWNER, daemon_fd, err);
	if (r < 0)
		return r;
	r = add_resolvers(&e, o, err);
	if (r == 0) {
		log_info("egress", "ready: %zu rules, %zu descriptors", e.config.allow.n + e.config.build.n, e.max_fds);
		r = loop_run(loop);
		if (r < 0)
			err_sys_code(err, r, "event loop");
	}
	egress_done(&e);
	return r;
}

int main(int argc, char **argv)
{
	struct egress_options o;
	struct err err = ERR_INIT;
	struct loop *loop = NULL;

	if (egress_options_parse(&o, argc, argv, &err) < 0) {
		fprintf(stderr, "openreward-egress: %s\n", err.msg);
		return 2;
	}
	if (o.help || o.version) {
		fputs(o.help ? egress_usage : "openreward-egress " OPENREWARD_VERSION "\n", stdout);
		return 0;
	}
	/* Before anything is opened, which would take their numbers. */
	if (fd_set_cloexec(FD_SPAWNER, true) < 0) {
		fputs("openreward-egress: descriptor 3 is not open: this program is started by openreward-spawner\n",
		      stderr);
		return 2;
	}
	int daemon_fd = fd_set_cloexec(FD_DAEMON, true) == 0 ? FD_DAEMON : -1;
	log_setup("openreward-egress", o.debug ? LOG_DEBUG : LOG_INFO, o.json ? LOG_JSON : LOG_TEXT);
	int r = loop_new(&loop, &err);
	if (r == 0)
		r = serve(loop, &o, daemon_fd, &err);
	if (r < 0)
		log_error("egress", "%s", err.msg);
	loop_free(loop);
	return r < 0 ? 1 : r;
}
