/* Sandboxes, from MAKE to the moment nothing in them is alive.
 *
 *            MAKE                     'R' on the ready pipe                   END, lease, deadline,
 *    (none) ------> STARTING ------------------------------------> READY --------------------------+   init's own end
 *                      |                                                                           |
 *                      +--- END, time-out, builder's or init's failure ------------------------> ENDING --> buried
 *
 * STARTING  cgroups, folders and the range are taken; the builder runs; init's pid is known as soon as its report came.
 *           Nothing was answered. The loop goes on: many boxes start at a time.
 * READY     MADE was answered. The builder may not have been reaped yet. lease_at and hard_at are watched.
 * ENDING    SIGKILL was sent to all of it. Waits for builder and init to be reaped: init is pid 1 of its namespace, and
 *           the kernel reports its end only when every process of that namespace is gone.
 * buried    box_over() has answered everybody, freed the box and given cgroups, folders and range to the cleaner.
 *
 * A blank is STARTING before it is known what it is to be: it has no lease, no maker and a name of its own until box_fill() gives
 * it a MAKE's plan. From then on it is like any other.
 *
 * A spare goes the same way before anybody asks for it: nobody is told of it, egress does not know it, and box_claim() makes
 * it the sandbox of a MAKE while it is READY. It is given away once; what has been somebody's never becomes a spare.
 *
 * A sidecar is a box beside another, its owner, in whose net namespace it is. It ends with the owner, and the owner is not over
 * before it is: whoever is told that a sandbox has ended need not ask what stood beside it.
 *
 * Transitions: box_begin (none -> STARTING), on_ready (-> READY), box_kill (-> ENDING), box_over (-> buried).
 * Invariants: 1. `reason` is set exactly when ENDING. 2. A box is in sp->boxes until box_over. 3. Descriptors of init's
 * control and egress sockets are kept until box_over, so that they can be handed over (TAKE, a new egress). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "spawner/box.h"
#include "spawner/sys.h"

struct box *box_find(const struct spawner *sp, const char *id)
{
	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		if (id && !b->spare && strcmp(b->id, id) == 0)
			return b;
	return NULL;
}

bool box_owns(const struct spawner *sp, const char *name)
{
	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		if (strcmp(b->name, name) == 0)
			return true;
	return false;
}

/* Of a READY one; -1 with errno. */
static int open_net(const struct box *b)
{
	return sys_pidfd_namespace(b->init_pidfd, b->init_pid, SYS_NAMESPACE_NET);
}

/* Only while it lives can its namespaces be had: one that ends by itself takes its own along. */
static void keep_net(struct box *b)
{
	if (b->state == BOX_READY && !b->owner)
		b->net_fd = open_net(b);
}

/* With the last process the kernel would take down some 35 mounts and six file systems, and wait for two grace periods, before it
 * tells of that process's end. */
static void keep_mounts(struct box *b)
{
	if (b->state == BOX_READY)
		b->mounts_fd = clean_keep_mounts(b->sp, b->init_pidfd, b->init_pid);
}

/* -- the end ----------------------------------------------------------------------------------------------------- */
static void tell_gone(struct box *b)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_GONE, (struct waiter){ 0, 0 });
	wire_put_str(&o, WIRE_T_ID, b->id);
	wire_put_str(&o, WIRE_T_REASON, b->reason);
	conns_tell(b->sp, &o);
}

static void tell_ended(struct box *b, struct waiter to)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_ENDED, to);
	wire_put_str(&o, WIRE_T_ID, b->id);
	conn_answer(b->sp, to, &o);
}

static void tell_failure(struct box *b)
{
	const struct start_report *f = &b->failure;
	char text[READY_MAX + START_PATH_MAX + 128];

	snprintf(text, sizeof(text), "could not %s%s%s: %s", f->stage, f->path[0] ? ": " : "", f->path,
		 strerror(-f->error));
	conn_fail(b->sp, b->maker, f->stage, f->error, f->path, text);
}

/* Frees b, and its owner where that waited for it. */
static void box_over(struct box *b)
{
	struct spawner *sp = b->sp;
	struct box *owner = b->owner;

	if (b->blank)
		blanks_lost(b);
	else if (b->spare)
		pool_lost(b);
	else if (b->failure.error)
		tell_failure(b);
	else if (b->n_enders == 0)
		tell_gone(b);
	for (size_t i = 0; i < b->n_enders; i++)
		tell_ended(b, b->enders[i]);
	events_close(&b->sp->ev, &b->report);
	events_close(&b->sp->ev, &b->ready);
	fd_close(b->init_pidfd);
	/* What a box that ended by itself had told before is still to be read by its daemon. */
	if (b->n_enders > 0 || list_empty(&sp->conns))
		fd_close_channel(b->control_fd);
	else
		fd_close(b->control_fd);
	fd_close_channel(b->egress_fd);
	fd_close(b->plan_fd);
	nets_give(sp, b->net_fd);
	confine_forget(b);
	list_remove(&b->link);
	list_remove(&b->beside_link);
	clean_bury(sp, &(struct remains){ b->name, b->first, true, b->mounts_fd });
	free(b->note);
	free(b);
	if (owner)
		box_over_if_dead(owner);
}

void box_over_if_dead(struct box *b)
{
	if (b->state == BOX_ENDING && b->builder.pid == 0 && b->init.pid == 0 && list_empty(&b->beside))
		box_over(b);
}

static void end_beside(struct box *b);

/* By its number where no descriptor was left for it: it is a child that nobody has reaped. */
static void kill_init(const struct box *b)
{
	if (b->init_pidfd >= 0)
		sys_pidfd_kill(b->init_pidfd, SIGKILL);
	else if (b->init.pid > 0)
		kill(b->init.pid, SIGKILL);
}

void box_kill(struct box *b, const char *reason)
{
	if (b->state == BOX_ENDING)
		return;
	keep_net(b);
	keep_mounts(b);
	b->state = BOX_ENDING;
	snprintf(b->reason, sizeof(b->reason), "%s", reason);
	kill_init(b);
	cgroup_kill(&b->sp->host.cg, b->name);
	confine_forget(b);
	if (b->builder.pid > 0)
		kill(b->builder.pid, SIGKILL); /* it may have been on its way into the v1 cgroups */
	list_foreach(&b->beside, struct box, beside_link, s)
		end_beside(s);
}

void box_fail(struct box *b, const char *stage, int error, const char *path)
{
	if (b->state == BOX_STARTING && !b->failure.error) {
		b->failure.error = error;
		snprintf(b->failure.stage, sizeof(b->failure.stage), "%s", stage);
		snprintf(b->failure.path, sizeof(b->failure.path), "%s", path);
	}
	box_kill(b, "failed");
}

/* One that shares the network of a box that ends. Its children's ends say when it is over. */
static void end_beside(struct box *b)
{
	if (b->state == BOX_STARTING)
		box_fail(b, "make a sandbox", -ECANCELED, "the one it is beside has ended");
	else
		box_kill(b, "beside");
}

/* -- what the children tell -------------------------------------------------------------------------------------- */
static bool read_report(struct box *b);
static void init_refused(struct box *b, char *text, size_t len);

/* What init and its builder said before may be read after it: of several children that ended the kernel tells once, perhaps
 * before that. */
static void read_last_words(struct box *b)
{
	char text[READY_MAX + 1];
	ssize_t n;

	while (read_report(b))
		;
	n = b->ready.fd < 0 || b->state != BOX_STARTING ? 0 : read(b->ready.fd, text, READY_MAX);
	if (n > 0 && text[0] != 'R')
		init_refused(b, text, (size_t)n);
}

static void on_init_exit(void *arg, int status)
{
	struct box *b = arg;

	if (b->state == BOX_STARTING)
		read_last_words(b);
	if (b->state == BOX_STARTING)
		box_fail(b, "run init", -ECHILD, "it ended before it was ready");
	else
		box_kill(b, WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "exited" : "killed");
	box_over_if_dead(b);
}

static void take_pid(struct box *b, int pid)
{
	b->init_pid = pid;
	b->init_pidfd = sys_pidfd_open(pid);
	events_child_add(&b->sp->ev, &b->init, pid);
	if (b->init_pidfd < 0)
		box_fail(b, "open a pidfd", -errno, "");
	if (b->state == BOX_ENDING) /* cloned while it was being killed */
		kill_init(b);
}

/* True when there may be more. */
static bool read_report(struct box *b)
{
	struct start_report r;
	ssize_t n = b->report.fd < 0 ? 0 : read(b->report.fd, &r, sizeof(r));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n != (ssize_t)sizeof(r)) {
		events_close(&b->sp->ev, &b->report);
		return false;
	}
	r.stage[sizeof(r.stage) - 1] = r.path[sizeof(r.path) - 1] = 0;
	if (r.pid > 0)
		take_pid(b, r.pid);
	else
		box_fail(b, r.stage, r.error, r.path);
	return true;
}

static void on_report(void *arg, uint32_t epoll_events)
{
	(void)epoll_events;
	(void)read_report(arg);
}

void boxes_read_reports(void *arg)
{
	struct spawner *sp = arg;

	list_foreach(&sp->boxes, struct box, link, b)
		if (b->init_pid == 0)
			(void)read_report(b);
}

static void on_builder_exit(void *arg, int status)
{
	struct box *b = arg;

	while (read_report(b)) /* its last words: init's pid, a failure */
		;
	events_close(&b->sp->ev, &b->report);
	if (status != 0)
		box_fail(b, "build the sandbox", -ECHILD, "its builder died");
	box_over_if_dead(b);
}

static size_t lend(struct spawner *sp, uint64_t number, int fds[FD_PASS_MAX])
{
	list_foreach(&sp->boxes, struct box, link, b)
		if (b->number == number) {
			fds[0] = b->control_fd;
			fds[1] = b->init_pidfd;
			return 2;
		}
	return 0;
}

void box_tell_made(struct box *b, struct waiter to)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_MADE, to);
	wire_put_str(&o, WIRE_T_ID, b->id);
	wire_put_u64(&o, WIRE_T_DURATION_US, time_now_us() - b->started_us);
	wire_put_u64(&o, WIRE_T_PID, (uint64_t)b->init_pid);
	wire_put_u64(&o, WIRE_T_NUMBER, b->number);
	wire_put_u64(&o, WIRE_T_WARM, b->warm);
	wire_put_u64(&o, WIRE_T_BLANK, b->begun);
	wire_put_u64(&o, WIRE_T_SPARES, b->sp->pool.n_ready);
	wire_put_u64(&o, WIRE_T_BLANKS, b->sp->blanks.n);
	if (b->hostname[0])
		wire_put_str(&o, WIRE_T_HOSTNAME, b->hostname);
	if (b->taken && b->note)
		wire_put(&o, WIRE_T_NOTE, b->note, b->note_len);
	conn_lend(b->sp, to, &o, lend, b->number);
}

static uint64_t due(uint64_t now_ms, uint64_t ms)
{
	return ms ? now_ms + ms : 0;
}

void box_watch_clock(struct box *b)
{
	if (b->lease_at_ms)
		spawner_wake(b->sp, b->lease_at_ms);
	if (b->hard_at_ms)
		spawner_wake(b->sp, b->hard_at_ms);
}

void box_prolong(struct box *b, uint64_t lease_ms)
{
	b->lease_at_ms = due(time_now_ms(), lease_ms);
	box_watch_clock(b);
}

/* To whom it was made for: its times begin. */
static void box_give(struct box *b)
{
	b->hard_at_ms = due(time_now_ms(), b->hard_ms);
	box_prolong(b, b->lease_ms);
	weights_watch(b->sp);
	unread_watch(b->sp);
	box_tell_made(b, b->maker);
}

static void box_ready(struct box *b)
{
	b->state = BOX_READY;
	b->lease_at_ms = 0;
	events_close(&b->sp->ev, &b->ready);
	if (b->spare) {
		pool_ready(b);
		return;
	}
	box_give(b);
	blanks_made(b->sp);
}

/* "STAGE\0ERRNO\0" of boot.h. */
static void init_refused(struct box *b, char *text, size_t len)
{
	const char *number = memchr(text, 0, len);
	int error = EPROTO;

	text[len] = 0;
	if (number && number + 1 < text + len) {
		uint64_t v;

		if (str_to_u64(number + 1, &v) == 0 && v > 0 && v < 4096)
			error = (int)v;
	}
	box_fail(b, "start init", -error, text);
}

static void on_ready(void *arg, uint32_t epoll_events)
{
	struct box *b = arg;
	char text[READY_MAX + 1];
	ssize_t n = read(b->ready.fd, text, READY_MAX);

	(void)epoll_events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) { /* init's exit tells the rest */
		events_close(&b->sp->ev, &b->ready);
		return;
	}
	/* init may write before the builder's report is read: its pid has to be known first. */
	if (b->init_pid == 0)
		(void)read_report(b);
	if (text[0] == 'R' && b->state == BOX_STARTING && b->init_pid > 0)
		box_ready(b);
	else if (b->state == BOX_STARTING)
		init_refused(b, text, (size_t)n);
	box_over_if_dead(b);
}

/* -- the beginning ----------------------------------------------------------------------------------------------- */
/* Whose it is, and for how long it may take to start. */
static void box_assign(struct box *b, const struct plan *p, struct waiter to)
{
	snprintf(b->id, sizeof(b->id), "%s", p->id);
	b->kind = p->kind;
	b->net = p->net;
	b->cpu_milli = p->cpu_milli;
	b->maker = to;
	b->started_us = time_now_us();
	b->lease_ms = p->lease_ms;
	b->hard_ms = p->hard_ms;
	b->lease_at_ms = time_now_ms() + WIRE_START_MS;
}

static struct box *box_new(struct spawner *sp, const char *name)
{
	struct box *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	*b = (struct box){
		.sp = sp, .number = ++sp->last_number,
		.init_pidfd = -1, .control_fd = -1, .egress_fd = -1, .net_fd = -1, .mounts_fd = -1, .plan_fd = -1,
		.report = { -1, on_report, b }, .ready = { -1, on_ready, b },
		.builder = { .fn = on_builder_exit, .arg = b }, .init = { .fn = on_init_exit, .arg = b },
	};
	snprintf(b->id, sizeof(b->id), "%s", name);
	memcpy(b->name, b->id, sizeof(b->name));
	list_init(&b->spare_link);
	list_init(&b->beside);
	list_init(&b->beside_link);
	list_push_back(&sp->boxes, &b->link);
	return b;
}

static int prepare(struct box *b, struct err *err)
{
	int r = ids_take(&b->sp->ids, &b->first);

	if (r < 0) {
		if (!b->spare)
			pool_give_way(b->sp);
		return err_set(err, r, "all %u id ranges are in use", IDS_RANGES);
	}
	/* The rest of cgroups and folders is the builder's: only what it is born into has to be there before. */
	return cgroup_make_v2(&b->sp->host.cg, b->name, b->first, err);
}

static int fork_builder(struct box *b, const struct plan *p, const struct box_inner *in, struct err *err)
{
	struct start s = {
		.host = &b->sp->host, .name = b->name, .plan = p, .plan_fd = in->plan, .first = b->first,
		.control_fd = in->control, .egress_fd = in->egress, .ready_fd = in->ready, .report_fd = in->report,
		.net_fd = b->owner ? open_net(b->owner) : nets_take(b->sp), .background = b->spare && !b->blank,
		.ahead = b->ahead,
	};

	s.sysctls = s.net_fd < 0 ? nets_sysctls(b->sp) : -1;
	pid_t pid = b->owner && s.net_fd < 0 ? err_sys(err, "open the network of %s", b->owner->id) : start_fork(&s, err);

	fd_close(s.net_fd);
	if (pid < 0)
		return (int)pid;
	events_child_add(&b->sp->ev, &b->builder, pid);
	return 0;
}

static int configure(struct box *b, const struct plan *p)
{
	int r = p->workdir ? box_send_config(b, p, p->hostname) : 0;

	if (r == 0 && p->workdir)
		snprintf(b->hostname, sizeof(b->hostname), "%s", p->hostname);
	return r;
}

void box_register(struct box *b)
{
	b->registered = egress_register(b->sp, b->id, b->number, b->net, b->egress_fd) == 0;
}

/* p: NULL for a blank. Where it fails, b may be gone. */
static int box_start(struct box *b, const struct plan *p)
{
	struct box_inner in = { -1, -1, -1, -1, -1 };
	struct err err = ERR_INIT;
	int r = prepare(b, &err);

	if (r == 0)
		r = box_channels(b, &in, &err);
	if (r == 0 && p && (r = configure(b, p)) < 0)
		err_sys_code(&err, r, "write to init");
	if (r == 0)
		r = fork_builder(b, p, &in, &err);
	fd_close(in.control);
	fd_close(in.egress);
	fd_close(in.ready);
	fd_close(in.report);
	fd_close(in.plan);
	if (r < 0) {
		box_fail(b, "prepare the sandbox", r, err.msg);
		box_over_if_dead(b);
		return r;
	}
	if (!b->spare && !b->owner)
		box_register(b);
	box_watch_clock(b);
	return 0;
}

/* The owner of a box that is to be made; NULL = the plan names none, or *ret_error says why it cannot be had. */
static struct box *owner_of(const struct spawner *sp, const struct plan *p, int *ret_error)
{
	struct box *owner = p->beside ? box_find(sp, p->beside) : NULL;

	*ret_error = 0;
	if (p->beside && (!owner || owner->state != BOX_READY))
		*ret_error = -ENOENT;
	else if (owner && owner->owner)
		*ret_error = -EINVAL;
	return *ret_error ? NULL : owner;
}

int box_begin(struct spawner *sp, const struct plan *p, struct shape *shape, const struct wire_in *in, struct waiter to)
{
	int r;
	struct box *owner = owner_of(sp, p, &r);
	struct box *b = r < 0 ? NULL : box_new(sp, p->id);

	if (!b)
		return r < 0 ? r : -ENOMEM;
	box_assign(b, p, to);
	b->owner = owner;
	if (owner)
		list_push_back(&owner->beside, &b->beside_link);
	b->spare = shape;
	b->shape = shape;
	if (in)
		box_take_note(b, in);
	(void)!box_start(b, p); /* the maker is told by then */
	return 0;
}

struct box *box_begin_blank(struct spawner *sp, const char *name, const struct cgroup_limits *ahead)
{
	struct box *b = box_new(sp, name);

	if (!b)
		return NULL;
	b->spare = b->blank = true;
	b->ahead = *ahead;
	return box_start(b, NULL) < 0 ? NULL : b;
}

bool box_fill(struct box *b, const struct plan *p, const struct wire_in *in, struct waiter to)
{
	if (b->state != BOX_STARTING || configure(b, p) < 0 || box_send_plan(b, p) < 0)
		return false;
	b->spare = b->blank = false;
	b->begun = true;
	b->plan_fd = fd_close(b->plan_fd);
	box_assign(b, p, to);
	box_take_note(b, in);
	box_register(b);
	box_watch_clock(b);
	return true;
}

void box_claim(struct box *b, const struct plan *p, const struct wire_in *in, struct waiter to)
{
	b->spare = false;
	b->shape = NULL;
	b->warm = true;
	box_assign(b, p, to);
	box_take_note(b, in);
	/* Other hosts' names were not known to the spare. Where init can't be told of them, CONFIG is left to whoever gets it. */
	if (b->hostname[0] && p->hosts && box_send_config(b, p, b->hostname) < 0)
		b->hostname[0] = 0;
	box_give(b);
	box_register(b); /* a connection that comes first waits in its socket */
}

void box_drop(struct box *b)
{
	b->shape = NULL;
	box_kill(b, "spare");
	box_over_if_dead(b);
}
