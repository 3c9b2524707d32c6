/* What the daemon may send to openreward-spawner, and what an init and a builder may tell it, in any order, while they end and time
 * passes: the real connections, sandboxes, spares and jobs. What would need root is of this file: builders, inits and jobs are pids that
 * nobody has, namespaces and cgroups descriptors of nothing. Every answer is well-formed, no request is answered twice (but by items of
 * a list), and in the end no sandbox, job, range of ids or descriptor is left. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "sandbox/plan.h"
#include "script.h"
#include "spawner/netns.h"
#include "spawner/spawner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS 64
#define TURNS 24 /* of the loop after each step */
#define FIRST_PID 5000000 /* above what kernels give */
#define PIDS 512
#define CONNS 3
#define REQUESTS (STEPS + 1)

static struct spawner sp;
static uint64_t time_ms;
static bool inside, idle, egress_away, net_used, short_of_all, heavy;

/* -- processes that are none ------------------------------------------------------------------------------------------ */
static struct {
	bool lives, told;
	int report, ready; /* of a builder: what it and its init may write to */
} procs[PIDS];
static int n_procs;

static int proc_new(int report, int ready)
{
	if (n_procs == PIDS || short_of_all) {
		errno = EAGAIN;
		return -1;
	}
	procs[n_procs].lives = true;
	procs[n_procs].told = false;
	procs[n_procs].report = report < 0 ? -1 : fcntl(report, F_DUPFD_CLOEXEC, 0);
	procs[n_procs].ready = ready < 0 ? -1 : fcntl(ready, F_DUPFD_CLOEXEC, 0);
	return FIRST_PID + n_procs++;
}

static void proc_end(int i, int status)
{
	pid_t pid = FIRST_PID + i;

	if (!procs[i].lives)
		return;
	procs[i].lives = false;
	procs[i].report = fd_close(procs[i].report);
	procs[i].ready = fd_close(procs[i].ready);
	/* As events.c reaps: the reports are read before somebody is unknown. */
	for (int again = 0; again < 2; again++) {
		list_foreach(&sp.ev.children[(unsigned)pid % EVENTS_PID_BUCKETS], struct child, link, c) {
			if (c->pid != pid)
				continue;
			events_child_remove(c);
			c->fn(c->arg, status);
			return;
		}
		boxes_read_reports(&sp);
	}
}

pid_t start_fork(struct start *s, struct err *err)
{
	int pid = proc_new(s->report_fd, s->ready_fd);

	check(s->name && s->first);
	return pid < 0 ? err_sys(err, "fork") : pid;
}

NORETURN void start_exec_init(const struct host *h, const int *fds, const char *flags)
{
	(void)h, (void)fds, (void)flags;
	abort();
}

int kill(pid_t pid, int sig)
{
	(void)sig;
	errno = ESRCH;
	return pid >= FIRST_PID && pid < FIRST_PID + n_procs ? 0 : -1;
}

static long real_syscall(long n, const long *a)
{
	register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = 8; /* epoll_pwait's */
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	if (r >= 0 || r < -4095)
		return r;
	errno = (int)-r;
	return -1;
}

static int some_fd(void)
{
	return short_of_all ? -1 : memfd_create("nothing", MFD_CLOEXEC);
}

/* Fork and pidfds are the only ones of the spawner's that come by here. */
long syscall(long n, ...)
{
	long a[5];
	va_list ap;

	va_start(ap, n);
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (inside && n == SYS_clone3)
		return proc_new(-1, -1);
	if (inside && n == SYS_pidfd_open)
		return some_fd();
	if (inside && n == SYS_pidfd_send_signal)
		return 0;
	return real_syscall(n, a);
}

int dprintf(int fd, const char *format, ...)
{
	(void)fd, (void)format;
	return 0;
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	if (!inside || clock != CLOCK_MONOTONIC)
		return (int)real_syscall(SYS_clock_gettime, (long[5]){ clock, (long)ret });
	*ret = (struct timespec){ .tv_sec = (time_t)(1000 + time_ms / 1000), .tv_nsec = (long)(time_ms % 1000) * 1000000 };
	return 0;
}

int epoll_wait(int epoll, struct epoll_event *ret, int max, int timeout)
{
	long n = real_syscall(SYS_epoll_pwait, (long[5]){ epoll, (long)ret, max, inside ? 0 : timeout });

	idle = n <= 0;
	return (int)n;
}

/* -- the host --------------------------------------------------------------------------------------------------------- */
int netns_create(int sysctls UNUSED, int *ret_fd, struct err *err)
{
	int fd = some_fd();

	if (fd < 0)
		return err_set(err, -EMFILE, "no namespace");
	*ret_fd = fd;
	return 0;
}

int netns_open_sysctls(void)
{
	return some_fd();
}

bool netns_is_unused(int fd)
{
	(void)fd;
	return !net_used;
}

int cgroup_make_v2(const struct cgroups *c, const char *id, uid_t owner, struct err *err)
{
	(void)c, (void)owner;
	check(id[0] && !strchr(id, '/') && strcmp(id, ".") && strcmp(id, ".."));
	return short_of_all ? err_set(err, -ENOSPC, "no cgroup") : 0;
}

int cgroup_open_v2(const struct cgroups *c, const char *id)
{
	(void)c, (void)id;
	return some_fd();
}

int cgroup_weigh(const struct cgroups *c, const char *id, uint64_t cpu_milli)
{
	(void)c;
	check(id[0] && cpu_milli > 0);
	return short_of_all ? -ENOENT : 0;
}

int cgroup_cpu_us(const struct cgroups *c, const char *id, uint64_t *ret)
{
	(void)c, (void)id;
	*ret = heavy ? time_ms * 1000 : 2;
	return short_of_all ? -ENOENT : 0;
}

void confine(struct box *b, uint64_t now_ms)
{
	check(b != NULL && now_ms > 0);
}

void unconfine(struct box *b, uint64_t now_ms)
{
	check(b != NULL && now_ms > 0);
}

void confine_forget(struct box *b)
{
	(void)b;
}

void cgroup_kill(const struct cgroups *c, const char *id)
{
	(void)c, (void)id;
}

int egress_register(struct spawner *s, const char *id, uint64_t number, enum plan_net net, int fd)
{
	(void)s, (void)number, (void)net;
	check(*id && fcntl(fd, F_GETFD) >= 0);
	return egress_away ? -EAGAIN : 0;
}

int clean_keep_mounts(struct spawner *s, int init_pidfd, int init_pid)
{
	(void)s, (void)init_pid;
	check(init_pidfd >= 0);
	return -1;
}

void clean_bury(struct spawner *s, const struct remains *r)
{
	check(!strchr(r->name, '/') && (!r->tree || strlen(r->name) == PLAN_ID_LEN - 1));
	if (r->first)
		ids_give(&s->ids, r->first);
}

bool clean_has(const struct spawner *s, const char *name)
{
	(void)s, (void)name;
	return false;
}

void leaks_find(struct spawner *s, char *ret, size_t cap)
{
	(void)s;
	snprintf(ret, cap, "none");
}

static struct sockaddr_un here;
static socklen_t here_len;

int listen_control(const char *path, gid_t gid, int *ret, struct err *err)
{
	(void)path, (void)gid, (void)err;
	*ret = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	here = (struct sockaddr_un){ .sun_family = AF_UNIX };
	here_len = sizeof(here);
	check(bind(*ret, (struct sockaddr *)&here, sizeof(sa_family_t)) == 0 && listen(*ret, 16) == 0);
	check(getsockname(*ret, (struct sockaddr *)&here, &here_len) == 0);
	return 0;
}

/* -- daemons ---------------------------------------------------------------------------------------------------------- */
static struct {
	int fd; /* -1 = not connected */
	bool deaf;
	unsigned char seen[REQUESTS];
} conns[CONNS];

static void conn_open(int i)
{
	if (conns[i].fd >= 0)
		return;
	memset(conns[i].seen, 0, sizeof(conns[i].seen));
	conns[i].deaf = false;
	conns[i].fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	check(connect(conns[i].fd, (struct sockaddr *)&here, here_len) == 0);
}

static void hear(int c)
{
	static _Alignas(8) char buf[WIRE_MAX];
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in m;

	while (conns[c].fd >= 0 && fd_recv(conns[c].fd, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds) == 0) {
		if (len == 0) {
			conns[c].fd = fd_close(conns[c].fd);
			return;
		}
		check(wire_parse(&m, buf, len) == 0);
		if (m.request && m.type != WIRE_ITEM) {
			check(m.request < REQUESTS && !conns[c].seen[m.request]);
			conns[c].seen[m.request] = 1;
		}
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
	}
}

static void put_plan(struct script *s, struct wire_out *o)
{
	uint8_t how = script_byte(s);
	char id[37], owner[37];
	struct plan p = { .id = id, .layers = { "a/b" }, .n_layers = 1, .hostname = "h", .lease_ms = how & 8 ? 5000 : 0, .hard_ms = how & 16 ? 9000 : 0 };

	script_id(id, how);
	script_id(owner, how >> 6);
	if (how & 32)
		p.beside = owner;
	else if (how & 4)
		p.kind = PLAN_INSTANCE;
	plan_encode(&p, o);
}

static void say(struct script *s, int c, uint64_t request)
{
	static const uint8_t types[] = { WIRE_MAKE, WIRE_MAKE, WIRE_END, WIRE_LIST, WIRE_TAKE, WIRE_RENEW, WIRE_JOB, WIRE_JOB_CANCEL,
		WIRE_LEAKS, WIRE_NOTE, WIRE_POOL, WIRE_SHUTDOWN, WIRE_HELLO, WIRE_MAKE, WIRE_JOB, WIRE_END };
	static const char *const kinds[] = { "pull", "build", "remove", "prune" };
	static _Alignas(8) char buf[WIRE_MAX];
	uint8_t what = script_byte(s);
	struct wire_out o;
	size_t len = 0;
	char id[37];
	auto_fd file = what & 0x80 ? memfd_create("input", MFD_CLOEXEC) : -1;
	enum wire_type type = (enum wire_type)(what < 250 ? types[what % sizeof(types)] : what);

	wire_begin(&o, buf, sizeof(buf), type, request);
	script_id(id, what >> 5);
	if (what & 0x10 && type == WIRE_MAKE)
		put_plan(s, &o);
	else if (what & 0x10)
		wire_put_str(&o, WIRE_T_ID, id);
	if (what & 0x10 && type == WIRE_JOB)
		wire_put_str(&o, WIRE_T_JOB_KIND, kinds[what >> 5 & 3]);
	script_fields(s, &o);
	if (conns[c].fd >= 0 && wire_end(&o, &len) == 0 && fd_send(conns[c].fd, buf, len, &file, file >= 0) < 0)
		return; /* it does not read, or is gone */
}

static void say_bytes(struct script *s, int c)
{
	const uint8_t *bytes;
	size_t n = script_take(s, script_byte(s), &bytes);

	if (n && conns[c].fd >= 0 && fd_send(conns[c].fd, bytes, n, NULL, 0) < 0)
		return;
}

/* -- builders and inits ----------------------------------------------------------------------------------------------- */
static void proc_does(struct script *s)
{
	uint8_t who = script_byte(s), what = script_byte(s);
	int i = n_procs ? n_procs - 1 - who % n_procs : -1; /* the newest is the likeliest */
	struct start_report r = { 0 };
	const uint8_t *bytes;
	size_t n;

	if (i < 0 || !procs[i].lives)
		return;
	switch (what % 8) {
	case 0: /* init is there: a builder is ours, and says so once */
		r.pid = procs[i].told ? 0 : proc_new(-1, -1);
		(void)!write(procs[i].report, &r, r.pid > 0 ? sizeof(r) : 0);
		procs[i].told |= r.pid > 0;
		break;
	case 1:
		r.error = -(int)(what >> 3);
		memset(r.stage, 'x', sizeof(r.stage));
		(void)!write(procs[i].report, &r, sizeof(r));
		break;
	case 2:
	case 3:
		(void)!write(procs[i].ready, "R", 1);
		break;
	case 4: /* whatever an init may say */
		n = script_take(s, what >> 3, &bytes);
		(void)!write(procs[i].ready, bytes, n);
		break;
	case 5:
		procs[i].ready = fd_close(procs[i].ready);
		break;
	default:
		proc_end(i, what >> 3 & 1 ? SIGKILL : (what >> 4) << 8);
	}
}

/* -- a life ----------------------------------------------------------------------------------------------------------- */
static void turn(void)
{
	struct err err = ERR_INIT;
	uint64_t now = time_now_ms();

	idle = false;
	for (int i = 0; i < TURNS && !idle; i++)
		check(events_once(&sp.ev, 0, &err) == 0);
	if (now >= sp.wake_ms) {
		sp.wake_ms = UINT64_MAX;
		boxes_tick(&sp, now);
		pool_tick(&sp, now);
		blanks_tick(&sp, now);
		weights_tick(&sp, now);
		jobs_tick(&sp, now);
	}
	for (int c = 0; c < CONNS; c++)
		if (!conns[c].deaf)
			hear(c);
}

static void step(struct script *s, uint64_t request)
{
	uint8_t what = script_byte(s);
	int c = (what >> 4) % CONNS;

	switch (what % 16) {
	case 0:
		time_ms += script_number(s, 2);
		break;
	case 1:
		say_bytes(s, c);
		break;
	case 2:
		conn_open(c);
		break;
	case 3:
		conns[c].fd = fd_close(conns[c].fd);
		break;
	case 4:
		conns[c].deaf = !conns[c].deaf;
		break;
	case 5:
		egress_away = what & 16;
		net_used = heavy = what & 32;
		short_of_all = what & 64 && what & 128;
		boxes_register(&sp, what & 128);
		break;
	case 6:
	case 7:
	case 8:
	case 9:
		proc_does(s);
		break;
	default:
		say(s, c, request);
	}
	turn();
}

static void greet(void)
{
	static _Alignas(8) char buf[64];
	struct wire_out o;

	conn_open(0);
	wire_begin(&o, buf, sizeof(buf), WIRE_HELLO, 0);
	check(wire_send(conns[0].fd, &o, NULL, 0) == 0);
	turn();
}

static void begin(void)
{
	static uint64_t out[WIRE_MAX / 8];

	signal(SIGPIPE, SIG_IGN); /* as events_init() does */
	sp = (struct spawner){ .wake_ms = UINT64_MAX, .out_buf = out, .lock_fd = -1, .egress = { .to_daemon = { -1, -1 } }, .nets.sysctls = -1 };
	sp.opt.data = "/nowhere";
	sp.opt.uid = geteuid();
	snprintf(sp.host.data, sizeof(sp.host.data), "/nowhere");
	sp.ids = (struct ids){ .lock_fd = -1, .base = 0x80000000 };
	sp.egress.to_daemon[1] = memfd_create("egress", MFD_CLOEXEC);
	sp.ev = (struct events){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC), .signals.fd = -1 };
	for (size_t i = 0; i < EVENTS_PID_BUCKETS; i++)
		list_init(&sp.ev.children[i]);
	list_init(&sp.boxes);
	list_init(&sp.jobs);
	pool_init(&sp);
	blanks_init(&sp);
	n_procs = 0;
	time_ms = 0;
	egress_away = net_used = short_of_all = heavy = false;
	for (int c = 0; c < CONNS; c++)
		conns[c].fd = -1;
	check(conns_init(&sp, NULL) == 0);
	greet();
}

static void end(void)
{
	short_of_all = false;
	spawner_close(&sp, (struct waiter){ 0, 0 });
	for (int i = 0; i < n_procs; i++) {
		proc_end(i, SIGKILL);
		turn();
	}
	for (int c = 0; c < CONNS; c++)
		conns[c].fd = fd_close(conns[c].fd);
	turn();
	check(list_empty(&sp.boxes) && list_empty(&sp.jobs) && list_empty(&sp.pool.shapes));
	check(sp.pool.n_ready == 0 && sp.pool.n_starting == 0);
	for (size_t i = 0; i < ARRAY_LEN(sp.ids.used); i++)
		check(sp.ids.used[i] == 0);
	conns_done(&sp);
	events_close(&sp.ev, &sp.accept);
	for (size_t i = 0; i < sp.nets.n; i++)
		fd_close(sp.nets.fd[i]);
	fd_close(sp.nets.sysctls);
	fd_close(sp.egress.to_daemon[1]);
	fd_close(sp.ev.epoll_fd);
}

/* The lowest that is free: one that is not closed makes it rise, sooner or later. */
static int next_fd(void)
{
	auto_fd fd = memfd_create("next", MFD_CLOEXEC);

	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };
	int next = next_fd();

	inside = true;
	begin();
	for (uint64_t request = 1; request <= STEPS && s.p < s.end; request++)
		step(&s, request);
	end();
	inside = false;
	check(next_fd() == next);
	return 0;
}
