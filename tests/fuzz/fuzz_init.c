/* What the daemon and egress may send to openreward-init, in any order, while commands write, end and are killed: the real handlers
 * over real sockets, in a root of its own. Only a command's process is none: command_start(), kill() and wait4() are of this file,
 * and so are the clock and the room on the disk. Every answer is well-formed, no request is answered twice, and when all is
 * acknowledged nothing is left. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/command.h"
#include "init/conf.h"
#include "init/init.h"
#include "init/seccomp.h"
#include "script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
void __asan_on_error(void);
FILE *open_outside(const char *path, const char *mode) __asm__("fopen"); /* the C library's own name would be fopen64 here */

#define KIDS 8
#define FIRST_PID 1000
#define STEPS 64
#define TURNS 8 /* of the loop after each step */
#define LATER_US 20000000u

static struct init in;
static int folder_outside = -1, root_outside = -1, root_inside = -1; /* -1 = this machine does not let us */
static int to_control = -1, to_egress = -1;
static bool inside;         /* time and processes are ours */
static uint64_t time_us;    /* the clock */
static bool idle, full;     /* nothing came; the disk is full */
static unsigned char seen[STEPS + 1]; /* answers, by request */
static bool deaf;           /* the daemon does not read */
static bool touched;        /* files may be others than at the start */

/* -- processes that are none ------------------------------------------------------------------------------------------ */
static struct kid {
	bool lives, over;
	int out, err, status;
} kids[KIDS];

static void kid_close(struct kid *k)
{
	k->out = fd_close(k->out);
	k->err = fd_close(k->err);
}

int command_start(struct init *of, pid_t *ret, const struct command *c, struct err *err)
{
	(void)of;
	for (int i = 0; i < KIDS; i++) {
		if (kids[i].lives)
			continue;
		kids[i] = (struct kid){ .lives = true, .err = -1, .out = fcntl(c->output, F_DUPFD_CLOEXEC, BOOT_FD_END) };
		if (c->error != c->output)
			kids[i].err = fcntl(c->error, F_DUPFD_CLOEXEC, BOOT_FD_END);
		*ret = FIRST_PID + i;
		return 0;
	}
	return err_set(err, -EAGAIN, "too many");
}

const char *command_cwd(const struct wire_in *msg)
{
	const char *cwd = wire_get_str(msg, WIRE_T_CWD, 0);

	return cwd ? cwd : "";
}

int seccomp_sethostname(const char *name, size_t len)
{
	(void)name;
	errno = EINVAL;
	return len > 64 ? -1 : 0;
}

int kill(pid_t pid, int sig)
{
	bool found = false;

	for (int i = 0; i < KIDS; i++) {
		if (!kids[i].lives || (pid != -1 && abs(pid) != FIRST_PID + i))
			continue;
		found = true;
		if (sig == SIGKILL && !kids[i].over) {
			kids[i].over = true;
			kids[i].status = SIGKILL;
		}
	}
	errno = ESRCH;
	return found ? 0 : -1;
}

pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	(void)pid, (void)options;
	memset(usage, 0, sizeof(*usage));
	for (int i = 0; i < KIDS; i++) {
		if (!kids[i].lives || !kids[i].over)
			continue;
		kid_close(&kids[i]);
		kids[i].lives = false;
		*status = kids[i].status;
		return FIRST_PID + i;
	}
	errno = ECHILD;
	return -1;
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	if (!inside || clock != CLOCK_MONOTONIC)
		return (int)syscall(SYS_clock_gettime, clock, ret);
	*ret = (struct timespec){ .tv_sec = (time_t)(1000 + time_us / 1000000), .tv_nsec = (long)(time_us % 1000000) * 1000 };
	return 0;
}

int epoll_wait(int epoll, struct epoll_event *ret, int max, int timeout)
{
	long n = syscall(SYS_epoll_pwait, epoll, ret, max, inside ? 0 : timeout, NULL, 8);

	idle = n <= 0;
	return (int)n;
}

/* Room is asked for and never used; the disk is as full as the input says. */
int fallocate(int fd, int mode, off_t offset, off_t len)
{
	if (mode)
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	errno = ENOSPC;
	return full ? -1 : 0;
}

/* -- the world, once -------------------------------------------------------------------------------------------------- */
static void put_file(const char *path, const char *text)
{
	auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	check(fd >= 0 && fd_write_all(fd, text, strlen(text)) == 0);
}

static void loopback_up(void)
{
	auto_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };

	(void)ioctl(fd, SIOCSIFFLAGS, &r);
}

static void open_low(const char *path, int number)
{
	auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	check(fd >= 0 && dup2(fd, number) == number);
}

static void fill_root(void)
{
	check(mkdir("/etc", 0755) == 0);
	check(mkdir("/spool", 0755) == 0);
	check(mkdir("/stats", 0755) == 0);
	check(mkdir("/home", 0777) == 0 && symlink("/etc", "/home/l") == 0);
	put_file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:7:8::/home:/bin/sh\n");
	put_file("/etc/group", "root:x:0:\nu:x:8:\nmore:x:9:u\n");
	put_file("/stats/memory.events", "oom 1\noom_kill 2\n");
	put_file("/stats/pids.events", "max 3\n");
	put_file("/home/file", "content");
	open_low("/spool", BOOT_FD_CGROUP);
	open_low("/spool", BOOT_FD_SPOOL);
	open_low("/stats", BOOT_FD_STATS);
	open_low("/stats", BOOT_FD_PIDS);
}

/* All but the terminals. */
static void empty_folder(int at, const char *name)
{
	auto_fd fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fdopendir(fd);

	if (!dir)
		abort();
	for (struct dirent *e; (e = readdir(dir));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || strcmp(e->d_name, "dev") == 0)
			continue;
		if (e->d_type == DT_DIR)
			empty_folder(fd, e->d_name);
		(void)unlinkat(fd, e->d_name, e->d_type == DT_DIR ? AT_REMOVEDIR : 0);
	}
	fd_steal(&fd);
	closedir(dir);
}

/* A folder by a number that is out of the way. */
static int open_high(const char *path)
{
	auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fcntl(fd, F_DUPFD_CLOEXEC, 100);
}

static void enter(int root, int folder)
{
	check(fchdir(root) == 0 && chroot(".") == 0 && fchdir(folder) == 0);
}

/* An input that failed, or took too long, is written by libFuzzer while it is still under way, by a name of the folder that it was
 * started in; and the symbolizer is a program of the machine. */
static void leave(void)
{
	inside = false;
	enter(root_outside, folder_outside);
}

void __asan_on_error(void)
{
	if (inside)
		leave();
}

FILE *open_outside(const char *path, const char *mode)
{
	static FILE *(*real)(const char *, const char *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "fopen");
	if (inside)
		leave();
	return real(path, mode);
}

/* Nobody else is to get a number that init has. */
static void reserve(int fd)
{
	check(dup2(root_outside, fd) == fd && fd_set_cloexec(fd, true) == 0);
}

/* Namespaces and a root in memory, whose end is this process' own. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	if (geteuid() != 0 || unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 0;
	check(kill(getppid(), 0) < 0 && kill(-1, 0) < 0); /* it is ours */
	folder_outside = open_high(".");
	root_outside = open_high("/");
	for (int fd = BOOT_FD_CONTROL; fd < BOOT_FD_END; fd++)
		reserve(fd);
	check(mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,nr_inodes=4096,mode=755") == 0);
	loopback_up();
	check(chroot("/mnt") == 0 && chdir("/") == 0);
	check(mkdir("/dev", 0755) == 0 && mkdir("/dev/pts", 0755) == 0);
	(void)mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666");
	fill_root();
	root_inside = open_high("/");
	enter(root_outside, folder_outside);
	return 0;
}

/* -- the daemon ------------------------------------------------------------------------------------------------------- */
static void note_answer(const struct wire_in *m)
{
	if (m->request == 0 || m->type == WIRE_ITEM)
		return;
	check(m->request <= STEPS && !seen[m->request]);
	seen[m->request] = 1;
}

static void hear(int sock, bool answers)
{
	static _Alignas(8) char buf[WIRE_MAX];
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in m;

	while (sock >= 0 && fd_recv(sock, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds) == 0 && len > 0) {
		check(wire_parse(&m, buf, len) == 0);
		if (answers)
			note_answer(&m);
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
	}
}

/* The descriptors that a RUN may bring: a script, a log. */
static void say(int sock, struct wire_out *o, unsigned n_fds)
{
	auto_fd file = n_fds ? memfd_create("input", MFD_CLOEXEC) : -1;
	const int fds[2] = { file, file };
	size_t len;

	if (wire_end(o, &len) == 0 && fd_send(sock, o->buf, len, fds, n_fds) < 0)
		return; /* it is full: init waits for us */
}

static void say_request(struct script *s, uint64_t request)
{
	static const uint8_t types[] = { WIRE_CONFIG, WIRE_RUN, WIRE_RUN, WIRE_RESULT, WIRE_ACK, WIRE_KILL, WIRE_CONNECT, WIRE_OPEN,
		WIRE_COMMIT, WIRE_DISCARD, WIRE_STATUS, WIRE_RUNS, WIRE_READ, WIRE_INPUT, WIRE_INPUT_END, WIRE_RESIZE };
	static _Alignas(8) char buf[WIRE_MAX];
	uint8_t what = script_byte(s);
	struct wire_out o;

	wire_begin(&o, buf, sizeof(buf), (enum wire_type)(what < 240 ? types[what % sizeof(types)] : what), request);
	if (what & 0x10) { /* most are about one of a few runs */
		wire_put_u64(&o, WIRE_T_RUN_ID, what >> 5 & 3);
		if (types[what % sizeof(types)] == WIRE_RUN)
			wire_put_str(&o, WIRE_T_ARG, "true");
	}
	touched |= what >= 240 || strchr((const char[]){ WIRE_CONFIG, WIRE_OPEN, WIRE_COMMIT, 0 }, types[what % sizeof(types)]);
	script_fields(s, &o);
	say(to_control, &o, script_byte(s) % 3);
}

static void say_bytes(struct script *s, int sock, bool headed)
{
	static _Alignas(8) char buf[512];
	const uint8_t *bytes;
	size_t n = script_take(s, script_byte(s), &bytes);
	struct wire_out o;

	touched = true;
	if (headed) {
		wire_begin(&o, buf, sizeof(buf), WIRE_DNS_REPLY, 0);
		script_fields(s, &o);
		say(sock, &o, script_byte(s) % 3);
	} else {
		memcpy(buf, bytes, n);
		if (n && fd_send(sock, buf, n, NULL, 0) < 0)
			return;
	}
}

/* -- the commands ----------------------------------------------------------------------------------------------------- */
static void kid_does(struct script *s)
{
	struct kid *k = &kids[script_byte(s) % KIDS];
	uint8_t what = script_byte(s);
	static char text[65536];

	if (!k->lives || k->over)
		return;
	if (what < 128) {
		(void)fcntl(k->out, F_SETFL, O_NONBLOCK);
		(void)!write(what & 1 && k->err >= 0 ? k->err : k->out, text, (size_t)what << (what & 8));
	} else if (what < 160) {
		kid_close(k);
	} else {
		k->over = true;
		k->status = what & 1 ? what & 0x7f : (what & 0x7f) << 8;
		runs_reap(&in);
	}
}

/* -- a life ----------------------------------------------------------------------------------------------------------- */
static void tick(void)
{
	uint64_t now = time_now_us();

	runs_tick(&in, now);
	control_tick(&in, now);
	net_tick(&in, now);
	groups_tick(&in, now);
}

static void turn(void)
{
	idle = false;
	for (int i = 0; i < TURNS && !in.over && !idle; i++)
		loop_once(&in, 0);
	runs_reap(&in);
	tick();
	if (!deaf)
		hear(to_control, true);
	hear(to_egress, false);
}

static void step(struct script *s, uint64_t request)
{
	switch (script_byte(s) % 16) {
	case 0:
		time_us += script_number(s, 3);
		break;
	case 1:
		say_bytes(s, to_control, false);
		break;
	case 2:
		say_bytes(s, to_egress, script_byte(s) & 1);
		break;
	case 3:
		full = script_byte(s) & 1;
		deaf = !deaf;
		break;
	case 4:
	case 5:
	case 6:
		kid_does(s);
		break;
	default:
		say_request(s, request);
	}
	turn();
}

static int socket_at(int number, int *ret)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 || dup2(pair[0], number) < 0)
		return -1;
	fd_close(pair[0]);
	*ret = pair[1];
	return 0;
}

static void begin(bool steer)
{
	in = (struct init){ .epoll = epoll_create1(EPOLL_CLOEXEC) };
	check(socket_at(BOOT_FD_CONTROL, &to_control) == 0 && socket_at(BOOT_FD_EGRESS, &to_egress) == 0);
	runs_init(&in.runs);
	groups_open(&in);
	net_init(&in.net);
	check(control_open(&in) == 0);
	if (!steer || net_open(&in, NULL) < 0)
		reserve(BOOT_FD_EGRESS);
	memset(seen, 0, sizeof(seen));
	time_us = 0;
	deaf = false;
}

static void acknowledge(struct run *run)
{
	static _Alignas(8) char buf[256];
	struct wire_in m;
	struct wire_out o;
	size_t len;

	wire_begin(&o, buf, sizeof(buf), WIRE_ACK, 0);
	wire_put(&o, WIRE_T_RUN_ID, run->id, run->id_len);
	check(wire_end(&o, &len) == 0 && wire_parse(&m, buf, len) == 0);
	run_ack(&in, &(struct request){ .msg = &m });
}

/* Every command ends, the daemon acknowledges all of it and goes, and what was waited for is late. */
static void end(void)
{
	in.over = deaf = full = false;
	kill(-1, SIGKILL);
	time_us += LATER_US;
	turn();
	list_foreach(&in.runs.ended, struct run, link, run)
		acknowledge(run);
	to_control = fd_close(to_control);
	for (int i = 0; i < 2 * KIDS + 64 && in.control.watch.fd >= 0; i++) {
		loop_once(&in, 0);
		in.over = false;
	}
	turn();
	check(in.control.watch.fd < 0 && list_empty(&in.control.pending));
	check(in.runs.n == 0 && list_empty(&in.runs.alive) && list_empty(&in.runs.ended) && list_empty(&in.runs.drains));
	time_us += LATER_US;
	net_tick(&in, time_now_us());
	check(in.net.n_connects == 0);
	for (int i = 0; i < NET_LISTENERS; i++)
		watch_close(&in, &in.net.listeners[i]);
	watch_close(&in, &in.net.egress);
	fd_close(in.net.waiting);
	to_egress = fd_close(to_egress);
	reserve(BOOT_FD_CONTROL);
	reserve(BOOT_FD_EGRESS);
	fd_close(in.groups.oom_fd);
	fd_close(in.groups.pids_fd);
	fd_close(in.epoll);
	if (touched) {
		empty_folder(AT_FDCWD, "/");
		fill_root();
	}
	touched = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };

	if (root_inside < 0)
		return 0;
	enter(root_inside, root_inside);
	inside = true;
	begin(script_byte(&s) & 1);
	for (uint64_t request = 1; request <= STEPS && s.p < s.end && !in.over; request++)
		step(&s, request);
	end();
	leave();
	return 0;
}
