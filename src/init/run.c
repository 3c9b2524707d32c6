#include "init/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/command.h"
#include "init/init.h"
#include "init/stream.h"

#define READ_BUDGET (256 * 1024) /* bytes of one run's output before others get a turn */
#define DYING_MAX_US 2000000     /* how long an answer waits for a killed tree */
#define DYING_STEP_US 2000
#define OVER_MAX_US 10000000     /* how long a main run's result waits for its acknowledgement */
#define DISK_PROBE_BYTES (1u << 20) /* OUTCOME_DISK_FREE_BYTES of sandbox/outcome.h */
#define REAP_MAX 1024            /* processes before the loop gets a turn */
#define TELL_AFTER_US 5000       /* a RUN_QUIET that is still going then is told of */

void runs_init(struct runs *r)
{
	*r = (struct runs){ 0 };
	list_init(&r->alive);
	list_init(&r->ended);
	list_init(&r->drains);
	list_init(&r->owed);
}

/* The place of an id's first run; the daemon, who chooses them, is no enemy. */
static struct run **bucket_of(struct init *in, const char *id, size_t len)
{
	uint32_t h = 0;

	for (size_t i = 0; i < len; i++)
		h = h * 31 + (unsigned char)id[i];
	return &in->runs.by_id[h % RUNS_BUCKETS];
}

static void index_run(struct init *in, struct run *run)
{
	struct run **first = bucket_of(in, run->id, run->id_len);

	run->next_by_id = *first;
	*first = run;
	in->runs.n++;
}

static void unindex_run(struct init *in, struct run *run)
{
	struct run **p = bucket_of(in, run->id, run->id_len);

	while (*p != run)
		p = &(*p)->next_by_id;
	*p = run->next_by_id;
	in->runs.n--;
}

struct run *run_find(struct init *in, const struct wire_in *msg)
{
	size_t len = 0;
	const void *id = wire_get(msg, WIRE_T_RUN_ID, 0, &len);
	struct run *run = id ? *bucket_of(in, id, len) : NULL;

	while (run && (run->id_len != len || memcmp(run->id, id, len) != 0))
		run = run->next_by_id;
	return run;
}

/* -- the end of a run ------------------------------------------------------------------------------------------ */

/* There are quotas that statfs() does not tell of. The spool is on the sandbox's share of the disk. */
static bool is_disk_full(void)
{
	auto_fd fd = openat(BOOT_FD_SPOOL, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	return (fd < 0 || fallocate(fd, 0, 0, DISK_PROBE_BYTES) < 0) && (errno == EDQUOT || errno == ENOSPC);
}

static void measure(struct init *in, struct run *run)
{
	struct counters now = groups_counters(in, time_now_us());
	struct timeval *u = &run->usage.ru_utime, *s = &run->usage.ru_stime;
	uint64_t waited_us = (uint64_t)(u->tv_sec + s->tv_sec) * 1000000 + (uint64_t)(u->tv_usec + s->tv_usec);
	uint64_t group_us = run->group ? group_cpu_us(run->group) : 0;
	struct statvfs fs;

	run->end_us = time_now_us();
	run->base = groups_counted(&run->base, &now);
	run->cpu_us = MAX(waited_us, group_us);
	if (statvfs("/", &fs) == 0)
		run->disk_free = fs.f_files && !fs.f_favail ? 0 : (uint64_t)fs.f_bavail * fs.f_frsize;
	if (run->out.no_space || (run->status != 0 && is_disk_full()))
		run->disk_free = 0;
}

static void close_ends(struct run *run)
{
	run->input = fd_close(run->input);
	run->slave = fd_close(run->slave);
	run->writer = fd_close(run->writer);
	run->err_writer = fd_close(run->err_writer);
}

static void run_free(struct init *in, struct run *run)
{
	watch_close(in, &run->out.pipe);
	watch_close(in, &run->out.err_pipe);
	output_done(&run->out);
	close_ends(run);
	list_remove(&run->link);
	free(run);
}

/* One that has ended: of it only a pipe is left that somebody else still writes to. */
static void forget(struct init *in, struct run *run)
{
	if (run->main)
		in->over = true;
	run_set_unsent(in, run, false);
	unindex_run(in, run);
	group_put(in, run->group);
	run->group = NULL;
	output_done(&run->out);
	run->id_len = 0;
	list_remove(&run->link);
	if (run->out.pipe.fd >= 0 || run->out.err_pipe.fd >= 0)
		list_push_back(&in->runs.drains, &run->link);
	else
		run_free(in, run);
}

/* The sandbox goes with its main run: nobody else lives on, and init waits only for the acknowledgement. */
static void end_sandbox(struct init *in, const struct run *run)
{
	(void)kill(-1, SIGKILL);
	in->status = WIFEXITED(run->status) ? WEXITSTATUS(run->status) : 128 + WTERMSIG(run->status);
	in->runs.over_us = run->end_us + OVER_MAX_US;
}

/* Mostly nobody else has its end: not worth another turn of the loop. */
static void close_if_over(struct init *in, struct run *run, struct watch *pipe)
{
	if (pipe->fd >= 0 && output_read(&run->out, pipe, READ_BUDGET))
		watch_close(in, pipe);
}

void runs_prepare(struct init *in)
{
	in->runs.still = groups_alone(in);
	if (!in->runs.still)
		return;
	in->runs.counters = groups_counters(in, time_now_us());
	user_recheck();
}

static void finish(struct init *in, struct run *run)
{
	output_end(&run->out);
	run->watched = false; /* its end says more */
	run_set_more(in, run, false);
	run_watch(in, run);
	measure(in, run);
	run->state = RUN_ENDED;
	list_remove(&run->link);
	list_push_back(&in->runs.ended, &run->link);
	run_set_unsent(in, run, !run->acked);
	runs_flush(in); /* in order: older ends that are still unsent go first */
	/* Nobody waits for the rest. */
	close_ends(run);
	if (run->main)
		end_sandbox(in, run);
	if (group_put_empty(in, run->group))
		run->group = NULL;
	close_if_over(in, run, &run->out.pipe);
	close_if_over(in, run, &run->out.err_pipe);
	if (run->acked)
		forget(in, run);
	runs_prepare(in);
}

static void ended(struct init *in, struct run *run, int status, const struct rusage *usage)
{
	run->status = status;
	run->usage = *usage;
	run->pid = 0;
	if ((run->timed_out || run->killed) && run->group && group_populated(run->group)) {
		run->state = RUN_DYING;
		run->deadline_us = time_now_us() + DYING_MAX_US;
		return;
	}
	finish(in, run);
}

void runs_reap(struct init *in)
{
	struct rusage usage;
	bool orphans = false;
	int status, n = 0;
	pid_t pid;

	/* One that stays a zombie brings no second SIGCHLD, but the loop calls again until none is left. */
	while (n++ < REAP_MAX && (pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
		struct run *found = NULL;

		list_foreach(&in->runs.alive, struct run, link, run)
			if (run->pid == pid)
				found = run;
		if (found)
			ended(in, found, status, &usage);
		orphans |= !found;
	}
	if (orphans)
		groups_touch(in, time_now_us());
	if (n > REAP_MAX)
		(void)raise(SIGCHLD);
}

/* -- output ---------------------------------------------------------------------------------------------------- */

void run_watch(struct init *in, struct run *run)
{
	uint32_t events = output_held(&run->out) ? 0 : EPOLLIN;

	watch_set(in, &run->out.pipe, events);
	watch_set(in, &run->out.err_pipe, events);
}

static void take_output(struct init *in, struct run *run, struct watch *w)
{
	const uint64_t before = run->out.stored;
	bool over = output_read(&run->out, w, READ_BUDGET);

	if (over)
		watch_close(in, w);
	if (over && !run->id_len && run->out.pipe.fd < 0 && run->out.err_pipe.fd < 0) {
		run_free(in, run);
		return;
	}
	if (output_held(&run->out))
		run_watch(in, run);
	if (!run->watched || run->out.stored == before)
		return;
	run->watched = false;
	run_set_more(in, run, true);
	runs_flush(in);
}

static void on_output(struct init *in, struct watch *w, uint32_t events UNUSED)
{
	struct run *run = container_of(w, struct run, out.pipe);

	take_output(in, run, w);
}

static void on_error_output(struct init *in, struct watch *w, uint32_t events UNUSED)
{
	struct run *run = container_of(w, struct run, out.err_pipe);

	take_output(in, run, w);
}

/* -- requests -------------------------------------------------------------------------------------------------- */

struct spec {
	struct command cmd;
	struct stream_ends *ends;
	uint64_t flags;
	int log; /* borrowed; -1 = none */
};

/* Descriptors that came with the request. */
static int spec_fds(struct spec *s, const struct request *q, struct err *err)
{
	size_t want = !!(s->flags & WIRE_RUN_SCRIPT) + !!(s->flags & WIRE_RUN_OUTPUT_FD), i = 0;

	if (q->n_fds < want)
		return err_set(err, -EINVAL, "RUN came with %zu descriptors, its flags say %zu", q->n_fds, want);
	if (s->flags & WIRE_RUN_SCRIPT)
		s->cmd.script = q->fds[i++];
	if ((s->flags & WIRE_RUN_LOG) && (s->flags & WIRE_RUN_OUTPUT_FD))
		s->log = q->fds[i];
	if ((s->flags & WIRE_RUN_OUTPUT_FD) && s->log < 0) {
		s->cmd.output = s->cmd.error = q->fds[i];
		return 0;
	}
	return stream_ends_open(s->ends, &s->cmd, q->msg, err);
}

static int spec_read(struct spec *s, struct request *q, bool still, struct err *err)
{
	const char *user = wire_get_str(q->msg, WIRE_T_USER, 0);
	int r;

	q->stage = "command";
	if (!wire_get_str(q->msg, WIRE_T_ARG, 0))
		return err_set(err, -EINVAL, "RUN without ARG: there is no command");
	s->cmd.msg = q->msg;
	s->cmd.cwd = command_cwd(q->msg);
	s->flags = wire_get_u64(q->msg, WIRE_T_FLAGS, 0);
	q->stage = "user";
	r = user_lookup(&s->cmd.user, USER_FOLDER, user ? user : "", still, err);
	if (r < 0)
		return r;
	q->stage = "descriptors";
	return spec_fds(s, q, err);
}

static void read_label(struct run *run, const struct wire_in *msg)
{
	size_t len = 0;
	const void *p = wire_get(msg, WIRE_T_LABEL, 0, &len);

	if (!p || len > sizeof(run->label))
		return;
	memcpy(run->label, p, len);
	run->label_len = len;
}

static struct run *run_new(const struct request *q, const void *id, size_t id_len)
{
	uint64_t timeout_ms = wire_get_u64(q->msg, WIRE_T_TIMEOUT_MS, 0);
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	list_init(&run->link);
	list_init(&run->owed_link);
	memcpy(run->id, id, id_len);
	run->id_len = id_len;
	read_label(run, q->msg);
	output_init(&run->out, wire_get_u64(q->msg, WIRE_T_MAX_BYTES, UINT64_MAX), BOOT_FD_SPOOL);
	run->flags = wire_get_u64(q->msg, WIRE_T_FLAGS, 0);
	run->main = run->flags & WIRE_RUN_MAIN;
	run->input = run->slave = run->writer = run->err_writer = -1;
	run->out.flags = (run->flags & WIRE_RUN_SEPARATE ? OUTPUT_FRAMED : 0u) | (run->flags & WIRE_RUN_TAIL ? OUTPUT_TAIL : 0u) |
			 (run->flags & WIRE_RUN_TTY ? OUTPUT_TERMINAL : 0u);
	if (run->flags & WIRE_RUN_FETCH)
		run->out.inline_max = FETCH_INLINE_MAX;
	run->start_us = time_now_us();
	run->deadline_us = run->zombie_us = UINT64_MAX;
	if (timeout_ms && timeout_ms < (UINT64_MAX - run->start_us) / 1000)
		run->deadline_us = run->start_us + timeout_ms * 1000;
	return run;
}

static int open_log(struct run *run, int fd, struct err *err)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (own < 0)
		return err_sys(err, "keep the log");
	run->out.log = logfile_new(own, run->id, run->id_len);
	return run->out.log ? 0 : err_set(err, -ENOMEM, "no memory for a log");
}

/* The dead count as processes until they are reaped, and a tree of thousands needs its time. */
static bool is_room_coming(const struct init *in)
{
	for (const struct list *l = in->runs.alive.next; l != &in->runs.alive; l = l->next) {
		const struct run *run = container_of(l, const struct run, link);

		if (run->killed || run->timed_out)
			return true;
	}
	return groups_dying(in);
}

static int start_process(struct init *in, struct run *run, struct spec *s, struct request *q, struct err *err)
{
	int r;

	q->stage = "cgroup";
	r = group_take(in, &run->group);
	if (r < 0)
		return err_sys_code(err, r, "make the run's cgroup");
	s->cmd.cgroup = run->group ? run->group->fd : -1;
	q->stage = "clone";
	r = command_start(in, &run->pid, &s->cmd, err);
	q->again = r == -EAGAIN && is_room_coming(in);
	return r;
}

static int start(struct init *in, struct run *run, struct spec *s, struct request *q, struct err *err)
{
	int r;

	run->base = in->runs.still ? in->runs.counters : groups_begin(in, run->start_us);
	in->runs.still = false;
	q->stage = "output";
	r = s->log >= 0 ? open_log(run, s->log, err) : 0;
	if (r < 0)
		return r;
	if (s->ends->read_end >= 0)
		r = watch_open(in, &run->out.pipe, fd_steal(&s->ends->read_end), EPOLLIN, on_output);
	if (r == 0 && s->ends->read_err >= 0)
		r = watch_open(in, &run->out.err_pipe, fd_steal(&s->ends->read_err), EPOLLIN, on_error_output);
	if (r < 0)
		return err_sys_code(err, r, "watch the output");
	r = start_process(in, run, s, q, err);
	if (r < 0)
		return r;
	run->input = fd_steal(&s->ends->input);
	run->slave = fd_steal(&s->ends->slave);
	run->writer = fd_steal(&s->ends->child_out);
	run->err_writer = fd_steal(&s->ends->child_err);
	return 0;
}

static int run_begin(struct init *in, struct request *q, const void *id, size_t id_len, struct err *err)
{
	AUTO(stream_ends_done) struct stream_ends ends = STREAM_ENDS_INIT;
	struct spec s = { .cmd = { .script = -1, .input = -1 }, .ends = &ends, .log = -1 };
	struct run *run;
	int r = spec_read(&s, q, in->runs.still, err);

	if (r < 0)
		return r;
	q->stage = "memory";
	run = run_new(q, id, id_len);
	if (!run)
		return err_set(err, -ENOMEM, "no memory for a run");
	r = start(in, run, &s, q, err);
	if (r < 0) {
		group_put(in, run->group);
		run_free(in, run);
		return r;
	}
	list_push_back(&in->runs.alive, &run->link);
	index_run(in, run);
	run->starting = q->msg->request;
	run->tell_us = run->flags & WIRE_RUN_QUIET ? run->start_us + TELL_AFTER_US : 0;
	if (!run->tell_us)
		run_tell_started(in, run, run->starting);
	return 0;
}

int run_request(struct init *in, struct request *q, struct err *err)
{
	size_t len = 0;
	const void *id = wire_get(q->msg, WIRE_T_RUN_ID, 0, &len);
	struct run *twin;

	q->stage = "run";
	if (!id || len == 0 || len > WIRE_RUN_ID_MAX)
		return err_set(err, -EINVAL, "RUN_ID has %zu bytes, expected 1 to %d", len, WIRE_RUN_ID_MAX);
	twin = run_find(in, q->msg);
	if (twin) {
		if (twin->starting)
			run_tell_started(in, twin, twin->starting);
		run_tell_started(in, twin, q->msg->request);
		return 0;
	}
	if (in->runs.over_us)
		return err_set(err, -ESHUTDOWN, "the sandbox's main command has ended");
	if (in->runs.n >= RUNS_MAX)
		return err_set(err, -EAGAIN, "%zu runs are alive or unacknowledged", in->runs.n);
	return run_begin(in, q, id, len, err);
}

void run_ack(struct init *in, struct request *q)
{
	struct run *run = run_find(in, q->msg);

	if (run && run->state == RUN_ENDED)
		forget(in, run);
	else if (run)
		run->acked = true;
}

static int kill_tree(const struct run *run, int sig)
{
	if (run->group)
		return sig == SIGKILL ? group_kill(run->group) : group_signal(run->group, sig);
	/* The command is leader of its session and process group. */
	if (run->pid > 0 && kill(-run->pid, sig) < 0 && kill(run->pid, sig) < 0)
		return -errno;
	return 0;
}

/* It has ended and is not reaped yet. Who was without a processor meanwhile learns of that and of a deadline at once. */
static bool has_ended(const struct run *run)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)run->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == run->pid;
}

static bool is_dead(const struct run *run)
{
	auto_fd fd = run->group ? -1 : (int)syscall(SYS_pidfd_open, run->pid, 0u);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return run->group ? !group_populated(run->group) : fd >= 0 && poll(&p, 1, 0) == 1;
}

static void set_killed(struct run *run, bool *why, uint64_t now_us)
{
	if (!run->timed_out && !run->killed)
		run->zombie_us = now_us + DYING_MAX_US;
	*why = true;
}

static bool ends_processes(int sig)
{
	return sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP || sig == SIGQUIT;
}

int run_kill(struct init *in, struct request *q, struct err *err)
{
	uint64_t sig = wire_get_u64(q->msg, WIRE_T_SIGNAL, SIGKILL);
	struct run *run = run_find(in, q->msg);
	bool alive;
	int r;

	q->stage = "kill";
	if (!run)
		return err_set(err, -ENOENT, "no such run: never started here, or acknowledged");
	if (sig < 1 || sig > 64)
		return err_set(err, -EINVAL, "SIGNAL is %llu, expected 1 to 64", (unsigned long long)sig);
	alive = run->state == RUN_ALIVE && !has_ended(run);
	if (wire_get_u64(q->msg, WIRE_T_FOREGROUND, 0) && run->slave >= 0)
		r = stream_signal(run, (int)sig);
	else
		r = kill_tree(run, (int)sig);
	if (r < 0)
		return err_sys_code(err, r, "kill the run");
	/* A key at a terminal is part of the conversation, no end by request. */
	if (alive && ends_processes((int)sig) && !wire_get_u64(q->msg, WIRE_T_FOREGROUND, 0))
		set_killed(run, &run->killed, time_now_us());
	in->control.in_vain = false;
	control_ok(in, q->msg->request);
	return 0;
}

/* -- time ------------------------------------------------------------------------------------------------------ */

uint64_t runs_next_us(const struct init *in)
{
	uint64_t next = in->runs.over_us ? in->runs.over_us : UINT64_MAX;
	const struct runs *rs = &in->runs;

	for (const struct list *l = rs->alive.next; l != &rs->alive; l = l->next) {
		const struct run *run = container_of(l, const struct run, link);

		next = MIN(next, run->state == RUN_DYING ? time_now_us() + DYING_STEP_US : MIN(run->deadline_us, run->zombie_us));
		if (run->starting)
			next = MIN(next, run->tell_us);
	}
	return next;
}

/* Who is traced by a process of another run stays a zombie until its tracer waits for it or dies, and wait4() has no word of it.
 * Its pid is not given to another before it is reaped, then as an orphan. */
static bool end_zombie(struct init *in, struct run *run, uint64_t now_us)
{
	if (now_us < run->zombie_us)
		return false;
	run->zombie_us = now_us + DYING_MAX_US;
	if (!is_dead(run) || has_ended(run))
		return false;
	ended(in, run, SIGKILL, &run->usage);
	return true;
}

static void tick_one(struct init *in, struct run *run, uint64_t now_us)
{
	if (run->starting && now_us >= run->tell_us)
		run_tell_started(in, run, run->starting);
	if (run->state == RUN_DYING) {
		if (now_us >= run->deadline_us || !group_populated(run->group))
			finish(in, run);
		return;
	}
	if (end_zombie(in, run, now_us) || now_us < run->deadline_us || (!run->timed_out && has_ended(run)))
		return;
	in->control.in_vain &= run->timed_out;
	set_killed(run, &run->timed_out, now_us);
	/* Again soon, should the kill have failed or somebody have slipped away from a process group. */
	run->deadline_us = now_us + 100000;
	(void)kill_tree(run, SIGKILL);
}

void runs_tick(struct init *in, uint64_t now_us)
{
	list_foreach(&in->runs.alive, struct run, link, run)
		tick_one(in, run, now_us);
	if (in->runs.over_us && now_us >= in->runs.over_us)
		in->over = true;
}
