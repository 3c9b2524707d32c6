/* openreward-spawner: see spawner.h for its parts and docs/runtime.md for what it does. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/notify.h"
#include "base/random.h"
#include "base/slice.h"
#include "base/time.h"
#include "spawner/spawner.h"

#define LOCK_DIR "/run/openreward"

static uint64_t out_buf[WIRE_MAX / 8];

/* One spawner for a DATA. The lock goes with the process, so a crash leaves none. */
static int take_lock(struct spawner *sp, struct err *err)
{
	sp->lock_fd = openat(sp->host.data_dir, "run/spawner.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (sp->lock_fd < 0)
		return err_sys(err, "open %s/run/spawner.lock", sp->host.data);
	if (flock(sp->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? err_set(err, -EBUSY, "another spawner runs for %s", sp->host.data)
					    : err_sys(err, "lock %s/run/spawner.lock", sp->host.data);
	return 0;
}

static int open_listeners(struct spawner *sp, struct err *err)
{
	for (; sp->opt.listen[sp->n_listen]; sp->n_listen++) {
		int r = listen_open(sp->opt.listen[sp->n_listen], &sp->listen_fd[sp->n_listen], err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Own session: a ^C at the terminal is for the daemon, which then ends us. Subreaper: orphans of jobs and of broken starts
 * come to us and not to the host's init. The soft limit of descriptors up to the hard one, which may be low. */
static void settle(void)
{
	struct rlimit files;

	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	slice_set(0, SLICE_SHORT_NS);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int init_parts(struct spawner *sp, struct err *err)
{
	int r = events_init(&sp->ev, err);
	bool locked;

	sp->ev.unknown_child = boxes_read_reports;
	sp->ev.unknown_arg = sp;
	if (r == 0)
		r = host_init(&sp->host, &sp->opt, err);
	if (r < 0)
		return r;
	sp->host.mounts = sp->opt.mounts;
	confines_init(sp);
	r = take_lock(sp, err);
	locked = r == 0;
	if (r == 0)
		r = ids_init(&sp->ids, LOCK_DIR, sp->host.hash, err);
	/* Not from the first range: an earlier life's last processes may still be dying in its ranges. */
	sp->ids.next = (uint32_t)(random_u64() % IDS_RANGES);
	if (r == 0)
		r = conns_init(sp, err);
	if (r == 0)
		r = clean_reconcile(sp, err);
	r = r < 0 ? r : egress_init(sp, err);
	if (r == 0)
		space_init(sp);
	if (r < 0 && locked)
		host_done(&sp->host); /* nobody else's: what was made for this start goes with it */
	return r;
}

static int start(struct spawner *sp, struct err *err)
{
	int r;

	if (geteuid() != 0)
		return err_set(err, -EPERM, "must be run as root");
	settle();
	list_init(&sp->boxes);
	list_init(&sp->jobs);
	list_init(&sp->conns);
	pool_init(sp);
	nets_init(sp);
	blanks_init(sp);
	unread_init(sp);
	random_uuid(sp->boot);
	sp->out_buf = out_buf;
	sp->wake_ms = UINT64_MAX;
	r = clean_init(sp, err);
	r = r < 0 ? r : open_listeners(sp, err); /* the most likely failure, before anything is made */
	return r < 0 ? r : init_parts(sp, err);
}

static void tell_ready(const struct spawner *sp)
{
	if (sp->opt.keep)
		notify("READY=1"); /* else the daemon's service is ready when the daemon says so */
	if (sp->opt.ready_fd < 0)
		return;
	(void)!write(sp->opt.ready_fd, "ready\n", 6);
	close(sp->opt.ready_fd);
}

static int timeout(const struct spawner *sp)
{
	uint64_t now = time_now_ms();

	if (sp->wake_ms == UINT64_MAX)
		return -1;
	return sp->wake_ms <= now ? 0 : (int)MIN(sp->wake_ms - now, (uint64_t)INT_MAX);
}

static void tick(struct spawner *sp)
{
	uint64_t now = time_now_ms();

	if (now < sp->wake_ms)
		return;
	sp->wake_ms = UINT64_MAX; /* each part asks again for what it still waits for */
	conns_tick(sp, now);
	boxes_tick(sp, now);
	pool_tick(sp, now);
	blanks_tick(sp, now);
	weights_tick(sp, now);
	unread_tick(sp, now);
	space_tick(sp, now);
	jobs_tick(sp, now);
	egress_tick(sp, now);
	nets_tick(sp, now);
	clean_tick(sp);
	if (sp->closing_ms)
		spawner_wake(sp, sp->closing_ms);
}

static bool is_over(const struct spawner *sp)
{
	if (!sp->closing_ms)
		return false;
	return (list_empty(&sp->boxes) && list_empty(&sp->jobs) && clean_idle(sp)) || time_now_ms() >= sp->closing_ms;
}

static int run(struct spawner *sp, struct err *err)
{
	int r = 0;

	while (r == 0 && !is_over(sp)) {
		r = events_once(&sp->ev, timeout(sp), err);
		tick(sp);
		if (sp->ev.terminated)
			spawner_close(sp, (struct waiter){ 0, 0 });
	}
	return r;
}

static int finish(struct spawner *sp)
{
	bool clean = list_empty(&sp->boxes) && list_empty(&sp->jobs) && clean_is_done(sp);
	pid_t egress = sp->egress.child.pid;

	egress_done(sp);
	if (egress > 0)
		waitpid(egress, NULL, 0);
	host_done(&sp->host);
	conn_ok(sp, sp->closer);
	conns_done(sp);
	clean_done(sp);
	ids_done(&sp->ids);
	if (!clean)
		spawner_log("something could not be removed; the next start tries again");
	return clean ? 0 : 1;
}

int main(int argc, char **argv)
{
	static struct spawner sp;
	struct err err = ERR_INIT;
	int r = options_parse(&sp.opt, argc, argv, &err);

	if (r == 0) {
		if (sp.opt.ready_fd >= 0)
			r = fd_set_cloexec(sp.opt.ready_fd, true);
		r = r < 0 ? err_sys_code(&err, r, "--ready-fd %d", sp.opt.ready_fd) : start(&sp, &err);
	}
	if (r == 0) {
		tell_ready(&sp);
		r = run(&sp, &err);
	}
	if (r < 0) {
		spawner_log("%s", err.msg);
		return 1;
	}
	return finish(&sp);
}
