/* tools/gen-seccomp OUTPUT: writes the header with the system-call filter of sandboxed commands, at build time, for the
 * machine that it runs on. libseccomp only turns names into numbers here; the program is made by hand, because ours is
 * a binary search over ranges of neighbours with the same fate: a tenth of the instructions and half the time to load.
 *
 * The list follows what container runtimes allow a process with Docker's default capabilities. Beyond that are blocked:
 * io_uring, kexec, keyrings, perf, bpf, userfaultfd, module loading, every call of the mount family, other namespaces,
 * and socket families other than unix, inet, inet6, netlink and packet, with few protocols: what netlink queues is in no limit
 * of memory, device events are the host's, and an unknown protocol has the host look for a module. Sockets take no filters, whose
 * compiled programs have one limit for the whole machine (net.core.bpf_jit_limit); beyond it no sandbox could load this one. btrfs
 * makes no subvolumes, which would not count for the one around them. clone3 does not exist (its arguments are out of a
 * filter's sight; every C library then uses clone), nor does Linux AIO (its contexts are counted for the whole machine, so
 * one sandbox could have them all; databases fall back). Leases are refused: one on a file that others have as well, which
 * a bucket mounted read-only is enough for, makes them wait for it. What is known but not allowed fails with EPERM; what
 * is not known here at all with ENOSYS, so that programs fall back as on an older kernel.
 *
 * init loads the filter once and commands inherit it: loading one per command costs a third of a small command's time.
 * So init lives under it too, and has a key to the two calls that it alone needs: clone3 and sethostname let pass whoever
 * gives 128 secret bits in the third and fourth argument, which those calls ignore. The key is drawn when init starts
 * and lies in its memory only, which nobody inside can read. The header says which instructions hold its four parts.
 *
 * Where the host gives core dumps to a program, init sets a limit of one byte, the only one that prevents it, and whoever
 * changes that is told that it worked. The header says which instructions compare with RLIMIT_CORE; elsewhere init makes
 * them compare with nothing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/btrfs.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define NUMBERS 512 /* above every number that is known; x32's and what is newer lies beyond */
#define PROGRAM_MAX 1024

enum fate { UNKNOWN, DENY, ALLOW, NO_SYS, CLONE, FCNTL, PERSONALITY, PRLIMIT, SETRLIMIT, SOCKET, SETSOCKOPT, IOCTL, KEY_OR_NO_SYS, KEY_OR_DENY };

#define KEYED_MAX 2 /* fates of the last kind */
#define KEY_PARTS 4
#define CORES 2 /* calls that set a limit */

static const char *const allowed[] = {
	"accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget", "capset",
	"chdir", "chmod", "chown", "chroot", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "close",
	"close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
	"epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2",
	"execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark",
	"fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fdatasync", "fgetxattr", "flistxattr",
	"flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue",
	"futex_wait", "futex_waitv", "futex_wake", "futimesat", "getcpu", "getcwd", "getdents", "getdents64", "getegid",
	"geteuid", "getgid", "getgroups", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
	"getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "get_robust_list", "getrusage", "getsid",
	"getsockname", "getsockopt", "get_thread_area", "gettid", "gettimeofday", "getuid", "getxattr", "inotify_add_watch",
	"inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule",
	"landlock_create_ruleset", "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen", "listxattr",
	"llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier",
	"memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall",
	"mmap", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend",
	"mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap",
	"name_to_handle_at", "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_getfd", "pidfd_open",
	"pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl",
	"pread64", "preadv", "preadv2", "process_mrelease", "process_vm_readv", "process_vm_writev",
	"pselect6", "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
	"recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr", "rename", "renameat", "renameat2",
	"restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
	"rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_getaffinity", "sched_getattr",
	"sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler",
	"sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
	"sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg", "sendmsg",
	"sendto", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid",
	"setresgid", "setresuid", "setreuid", "set_robust_list", "setsid", "setsockopt", "set_thread_area",
	"set_tid_address", "setuid", "setxattr", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack",
	"signalfd", "signalfd4", "socketpair", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync",
	"sync_file_range", "sync_file_range2", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create",
	"timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime",
	"timerfd_settime", "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "utime", "utimensat",
	"utimes", "vfork", "vmsplice", "wait4", "waitid", "write", "writev",
};

static const struct {
	const char *name;
	enum fate fate;
} special[] = {
	{ "clone", CLONE }, { "clone3", KEY_OR_NO_SYS }, { "fcntl", FCNTL }, { "io_cancel", NO_SYS }, { "io_destroy", NO_SYS },
	{ "io_getevents", NO_SYS }, { "io_pgetevents", NO_SYS }, { "io_setup", NO_SYS }, { "io_submit", NO_SYS },
	{ "personality", PERSONALITY }, { "prlimit64", PRLIMIT }, { "sethostname", KEY_OR_DENY }, { "setrlimit", SETRLIMIT },
	{ "socket", SOCKET }, { "setsockopt", SETSOCKOPT }, { "ioctl", IOCTL },
};

/* Numbers that the library may be too old for; the same on every architecture. */
static const struct {
	const char *name;
	int number;
} newer[] = {
	{ "cachestat", 451 }, { "fchmodat2", 452 }, { "map_shadow_stack", 453 }, { "futex_wake", 454 },
	{ "futex_wait", 455 }, { "futex_requeue", 456 }, { "mseal", 462 },
};

static enum fate fates[NUMBERS];
static struct sock_filter program[PROGRAM_MAX];
static size_t n_program;
static size_t keys[KEYED_MAX][KEY_PARTS]; /* instructions whose constant init fills in */
static size_t n_keys;
static size_t cores[CORES]; /* instructions that compare with RLIMIT_CORE */
static size_t n_cores;

static void fail(const char *what, const char *name)
{
	fprintf(stderr, "gen-seccomp: %s %s\n", what, name);
	exit(1);
}

/* Negative: this architecture has no such call. */
static int resolve(const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);

	for (size_t i = 0; nr < 0 && i < sizeof(newer) / sizeof(newer[0]); i++)
		if (!strcmp(newer[i].name, name))
			return newer[i].number;
	/* A pseudo number (another architecture's call) is below zero too. */
	return nr;
}

static void set(const char *name, enum fate fate)
{
	int nr = resolve(name);

	if (nr >= NUMBERS)
		fail("number out of range:", name);
	if (nr >= 0)
		fates[nr] = fate;
}

/* Every number that the library knows the name of is DENY unless the list says otherwise. */
static void decide(void)
{
	for (int nr = 0; nr < NUMBERS; nr++) {
		char *name = seccomp_syscall_resolve_num_arch(seccomp_arch_native(), nr);

		fates[nr] = name ? DENY : UNKNOWN;
		free(name);
	}
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		set(allowed[i], ALLOW);
	for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
		set(special[i].name, special[i].fate);
}

static size_t emit(struct sock_filter f)
{
	if (n_program == PROGRAM_MAX)
		fail("program too long at", "emit");
	program[n_program] = f;
	return n_program++;
}

static void emit_return(uint32_t value)
{
	emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, value));
}

static void emit_load(size_t offset)
{
	emit((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* The low half of an argument; the machines are little-endian. A kernel call that takes an int sees no more of it. */
static void emit_load_arg(size_t n)
{
	emit_load(offsetof(struct seccomp_data, args) + 8 * n);
}

/* RET match when the loaded value is one of these, else RET otherwise. */
static void emit_one_of(const uint32_t *values, size_t n, uint32_t match, uint32_t otherwise)
{
	for (size_t i = 0; i < n; i++)
		emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, values[i], (uint8_t)(n - i), 0));
	emit_return(otherwise);
	emit_return(match);
}

/* The key's halves are compared in the order of the words in memory: low, high, low, high on these machines. */
static void emit_key(uint32_t otherwise)
{
	if (n_keys == KEYED_MAX)
		fail("too many keyed calls at", "emit_key");
	for (size_t i = 0; i < KEY_PARTS; i++) {
		emit_load(offsetof(struct seccomp_data, args) + 8 * 2 + 4 * i);
		keys[n_keys][i] = emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0,
								    (uint8_t)(2 * (KEY_PARTS - i) - 1)));
	}
	n_keys++;
	emit_return(SECCOMP_RET_ALLOW);
	emit_return(otherwise);
}

static void emit_equal(uint32_t value, uint8_t if_equal, uint8_t else_skip)
{
	emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, if_equal, else_skip));
}

/* The resource is argument n. A prlimit64 that only asks (its third argument is NULL) goes through. */
static void emit_limit(size_t n, bool may_ask)
{
	emit_load_arg(n);
	if (n_cores == CORES)
		fail("too many calls at", "emit_limit");
	cores[n_cores++] = n_program;
	emit_equal(RLIMIT_CORE, 0, may_ask ? 5 : 1);
	if (may_ask) {
		emit_load_arg(2);
		emit_equal(0, 0, 2);
		emit_load(offsetof(struct seccomp_data, args) + 8 * 2 + 4);
		emit_equal(0, 1, 0);
	}
	emit_return(SECCOMP_RET_ERRNO | 0);
	emit_return(SECCOMP_RET_ALLOW);
}

static void emit_protocols(const uint32_t *protocols, size_t n)
{
	emit_load_arg(2);
	emit_one_of(protocols, n, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPROTONOSUPPORT);
}

/* The family is argument 0, the protocol argument 2. */
static void emit_socket(void)
{
	static const uint32_t netlink[] = { NETLINK_ROUTE, NETLINK_SOCK_DIAG };
	static const uint32_t inet[] = { IPPROTO_IP, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6, IPPROTO_UDPLITE, IPPROTO_MPTCP };
	enum { N_NETLINK = sizeof(netlink) / sizeof(netlink[0]), N_INET = sizeof(inet) / sizeof(inet[0]) };

	emit_load_arg(0);
	emit_equal(AF_UNIX, 5, 0); /* to ALLOW */
	emit_equal(AF_PACKET, 4, 0);
	emit_equal(AF_NETLINK, 4, 0);
	emit_equal(AF_INET, N_NETLINK + 6, 0);
	emit_equal(AF_INET6, N_NETLINK + 5, 0);
	emit_return(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
	emit_return(SECCOMP_RET_ALLOW);
	emit_protocols(netlink, N_NETLINK);
	emit_protocols(inet, N_INET);
}

static void emit_fate(enum fate fate)
{
	static const uint32_t personalities[] = { 0, 8, 0x20000, 0x20008, 0xffffffff };
	static const uint32_t filters[] = { SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF };
	static const uint32_t subvolumes[] = {
		(uint32_t)BTRFS_IOC_SUBVOL_CREATE, (uint32_t)BTRFS_IOC_SUBVOL_CREATE_V2, (uint32_t)BTRFS_IOC_SNAP_CREATE,
		(uint32_t)BTRFS_IOC_SNAP_CREATE_V2,
	};
	const uint32_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
				CLONE_NEWPID | CLONE_NEWNET;

	switch (fate) {
	case ALLOW:
		emit_return(SECCOMP_RET_ALLOW);
		break;
	case DENY:
		emit_return(SECCOMP_RET_ERRNO | EPERM);
		break;
	case CLONE:
		emit_load_arg(0);
		emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, spaces, 0, 1));
		emit_return(SECCOMP_RET_ERRNO | EPERM);
		emit_return(SECCOMP_RET_ALLOW);
		break;
	case FCNTL:
		emit_load_arg(1);
		emit_equal(F_SETLEASE, 0, 1);
		emit_return(SECCOMP_RET_ERRNO | EPERM);
		emit_return(SECCOMP_RET_ALLOW);
		break;
	case PERSONALITY:
		emit_load_arg(0);
		emit_one_of(personalities, sizeof(personalities) / sizeof(personalities[0]), SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM);
		break;
	case PRLIMIT:
		emit_limit(1, true);
		break;
	case SETRLIMIT:
		emit_limit(0, false);
		break;
	case SOCKET:
		emit_socket();
		break;
	case SETSOCKOPT:
		emit_load_arg(1);
		emit_equal(SOL_SOCKET, 1, 0);
		emit_return(SECCOMP_RET_ALLOW);
		emit_load_arg(2);
		emit_one_of(filters, sizeof(filters) / sizeof(filters[0]), SECCOMP_RET_ERRNO | ENOPROTOOPT, SECCOMP_RET_ALLOW);
		break;
	case IOCTL:
		emit_load_arg(1);
		emit_one_of(subvolumes, sizeof(subvolumes) / sizeof(subvolumes[0]), SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW);
		break;
	case KEY_OR_NO_SYS:
		emit_key(SECCOMP_RET_ERRNO | ENOSYS);
		break;
	case KEY_OR_DENY:
		emit_key(SECCOMP_RET_ERRNO | EPERM);
		break;
	case UNKNOWN:
	case NO_SYS:
		emit_return(SECCOMP_RET_ERRNO | ENOSYS);
		break;
	}
}

/* -- the search ------------------------------------------------------------------------------------------------ */

static uint32_t starts[NUMBERS]; /* first number of each range; the last range has no end */
static enum fate range_fates[NUMBERS];
static size_t n_ranges;

static enum fate plain(enum fate f)
{
	return f == UNKNOWN ? NO_SYS : f;
}

static void find_ranges(void)
{
	for (uint32_t nr = 0; nr <= NUMBERS; nr++) {
		enum fate f = nr < NUMBERS ? plain(fates[nr]) : NO_SYS;

		if (n_ranges && range_fates[n_ranges - 1] == f)
			continue;
		starts[n_ranges] = nr;
		range_fates[n_ranges++] = f;
	}
}

/* A jump's offset has 8 bits and the whole tree has more instructions, so the far side is reached by an unconditional
 * one, which has 32. Leaves jump on to the one place where their fate is spelt out: patched afterwards. */
static size_t patches[PROGRAM_MAX];
static enum fate patch_fates[PROGRAM_MAX];
static size_t n_patches;

static void emit_leaf(enum fate f)
{
	if (f == ALLOW || f == DENY || f == NO_SYS) {
		emit_fate(f);
		return;
	}
	patch_fates[n_patches] = f;
	patches[n_patches++] = emit((struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0));
}

static void emit_search(size_t first, size_t end)
{
	size_t middle = (first + end) / 2, jump, far;

	if (end - first == 1) {
		emit_leaf(range_fates[first]);
		return;
	}
	jump = emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, starts[middle], 0, 0));
	emit_search(first, middle);
	far = n_program - jump - 1;
	if (far > 255) /* the program would have to be four times its size */
		fail("jump too far in", "search");
	program[jump].jt = (uint8_t)far;
	emit_search(middle, end);
}

static void emit_patched(void)
{
	for (size_t i = 0; i < n_patches; i++) {
		program[patches[i]].k = (uint32_t)(n_program - patches[i] - 1);
		emit_fate(patch_fates[i]);
	}
}

static void compile(void)
{
	emit_load(offsetof(struct seccomp_data, arch));
	emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 1, 0));
	/* Another architecture's numbers mean other calls: 32-bit programs end with SIGSYS. */
	emit_return(SECCOMP_RET_KILL_PROCESS);
	emit_load(offsetof(struct seccomp_data, nr));
	find_ranges();
	emit_search(0, n_ranges);
	emit_patched();
}

int main(int argc, char **argv)
{
	FILE *f = argc == 2 ? fopen(argv[1], "w") : NULL;

	if (!f)
		fail("cannot write", argc == 2 ? argv[1] : "(usage: gen-seccomp OUTPUT)");
	decide();
	compile();
	fprintf(f, "/* Made by tools/gen-seccomp.c: %zu ranges, %zu instructions. */\n", n_ranges, n_program);
	fprintf(f, "#pragma once\n\n#include <linux/filter.h>\n\nstatic const struct sock_filter seccomp_filter[] = {\n");
	for (size_t i = 0; i < n_program; i++)
		fprintf(f, "\t{ 0x%02x, %u, %u, 0x%08x },\n", program[i].code, program[i].jt, program[i].jf, program[i].k);
	fprintf(f, "};\n\n/* The instructions that compare with the parts of the key, per call. */\n");
	fprintf(f, "static const unsigned short seccomp_keys[%zu][%d] = {\n", n_keys, KEY_PARTS);
	for (size_t i = 0; i < n_keys; i++)
		fprintf(f, "\t{ %zu, %zu, %zu, %zu },\n", keys[i][0], keys[i][1], keys[i][2], keys[i][3]);
	fprintf(f, "};\n\n/* Those that compare with RLIMIT_CORE. */\nstatic const unsigned short seccomp_cores[%zu] = {", n_cores);
	for (size_t i = 0; i < n_cores; i++)
		fprintf(f, " %zu,", cores[i]);
	fprintf(f, " };\n");
	return fclose(f) == 0 ? 0 : 1;
}
