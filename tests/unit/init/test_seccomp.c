/* The filter, run by a small interpreter: every number's fate is looked at, not only what a test happens to call. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "init/seccomp.h"

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#endif

static const uint64_t key[2] = { 0x0123456789abcdef, 0xfedcba9876543210 };

static bool no_core;

static uint32_t run(const struct seccomp_data *d)
{
	const struct sock_fprog *p = seccomp_program(key, no_core);
	uint32_t a = 0;

	for (size_t pc = 0; pc < p->len; pc++) {
		const struct sock_filter *f = &p->filter[pc];

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			cr_assert(f->k + 4 <= sizeof(*d) && f->k % 4 == 0);
			memcpy(&a, (const char *)d + f->k, 4);
			break;
		case BPF_RET | BPF_K:
			return f->k;
		case BPF_JMP | BPF_JA:
			pc += f->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += a == f->k ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			pc += a >= f->k ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			pc += a & f->k ? f->jt : f->jf;
			break;
		default:
			cr_assert_fail("instruction %zu has code 0x%x", pc, f->code);
		}
	}
	cr_assert_fail("the program runs off its end");
	return 0;
}

static uint32_t fate(long nr, uint64_t arg0)
{
	struct seccomp_data d = { .nr = (int)nr, .arch = NATIVE, .args = { arg0 } };

	return run(&d);
}

#define ERRNO(e) (SECCOMP_RET_ERRNO | (e))

Test(seccomp, allowed)
{
	static const long calls[] = {
		SYS_read, SYS_write, SYS_openat, SYS_close, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group,
		SYS_wait4, SYS_kill, SYS_ptrace, SYS_prctl, SYS_seccomp, SYS_setuid, SYS_setgid, SYS_setgroups,
		SYS_setresuid, SYS_chroot, SYS_mknodat, SYS_fchownat, SYS_futex, SYS_mmap, SYS_bind, SYS_connect,
		SYS_accept4, SYS_inotify_init1, SYS_epoll_pwait, SYS_memfd_create, SYS_pidfd_open, SYS_rseq,
		SYS_statx, SYS_getrandom, SYS_copy_file_range, SYS_close_range, SYS_openat2, SYS_faccessat2,
		SYS_fcntl, SYS_landlock_create_ruleset, SYS_membarrier, SYS_prlimit64, SYS_process_vm_readv,
		SYS_sched_setaffinity,
	};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		cr_assert_eq(fate(calls[i], 0), SECCOMP_RET_ALLOW, "call %ld", calls[i]);
}

Test(seccomp, blocked)
{
	static const long calls[] = {
		SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_bpf, SYS_userfaultfd,
		SYS_kexec_load, SYS_kexec_file_load, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_perf_event_open,
		SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_mount, SYS_umount2, SYS_pivot_root,
		SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_open_tree, SYS_move_mount, SYS_mount_setattr,
		SYS_setns, SYS_unshare, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_syslog, SYS_acct, SYS_settimeofday,
		SYS_clock_settime, SYS_sethostname, SYS_setdomainname, SYS_quotactl, SYS_open_by_handle_at,
		SYS_fanotify_init, SYS_vhangup, SYS_kcmp, SYS_lookup_dcookie, SYS_move_pages, SYS_migrate_pages,
		SYS_nfsservctl,
	};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		cr_assert_eq(fate(calls[i], 0), ERRNO(EPERM), "call %ld", calls[i]);
	cr_assert_eq(fate(SYS_clone3, 0), ERRNO(ENOSYS));
	cr_assert_eq(fate(SYS_io_setup, 0), ERRNO(ENOSYS));
	cr_assert_eq(fate(SYS_io_submit, 0), ERRNO(ENOSYS));
}

Test(seccomp, fcntl_takes_no_lease)
{
	struct seccomp_data d = { .nr = SYS_fcntl, .arch = NATIVE };

	for (uint64_t command = 0; command < 2048; command++) {
		d.args[1] = command;
		cr_assert_eq(run(&d), command == F_SETLEASE ? ERRNO(EPERM) : SECCOMP_RET_ALLOW, "%lu", (unsigned long)command);
	}
	d.args[1] = 1ull << 32 | F_SETLEASE; /* the kernel looks at the low half only */
	cr_assert_eq(run(&d), ERRNO(EPERM));
}

Test(seccomp, the_limit_of_core_dumps_stays_where_it_has_to)
{
	struct seccomp_data set = { .nr = SYS_prlimit64, .arch = NATIVE, .args = { 0, RLIMIT_CORE, 0x7fff0000 } };
	struct seccomp_data set_high = { .nr = SYS_prlimit64, .arch = NATIVE, .args = { 0, RLIMIT_CORE, 1ull << 32 } };
	struct seccomp_data ask = { .nr = SYS_prlimit64, .arch = NATIVE, .args = { 0, RLIMIT_CORE, 0, 0x7fff0000 } };
	struct seccomp_data other = { .nr = SYS_prlimit64, .arch = NATIVE, .args = { 0, RLIMIT_NOFILE, 0x7fff0000 } };

	cr_assert_eq(run(&set), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_setrlimit, RLIMIT_CORE), SECCOMP_RET_ALLOW);
	no_core = true;
	cr_assert_eq(run(&set), ERRNO(0), "as if it had worked");
	cr_assert_eq(run(&set_high), ERRNO(0));
	cr_assert_eq(fate(SYS_setrlimit, RLIMIT_CORE), ERRNO(0));
	cr_assert_eq(run(&ask), SECCOMP_RET_ALLOW);
	cr_assert_eq(run(&other), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_setrlimit, RLIMIT_NOFILE), SECCOMP_RET_ALLOW);
}

Test(seccomp, every_number_has_a_fate_and_few_are_let_through)
{
	size_t let = 0;

	for (long nr = 0; nr < 70000; nr++) {
		uint32_t f = fate(nr, 0);

		cr_assert(f == SECCOMP_RET_ALLOW || f == ERRNO(EPERM) || f == ERRNO(ENOSYS) || f == ERRNO(EAFNOSUPPORT), "%ld: 0x%x", nr, f);
		let += f == SECCOMP_RET_ALLOW;
		if (nr >= 512)
			cr_assert_eq(f, ERRNO(ENOSYS));
	}
	cr_assert(let > 200 && let < 320, "%zu", let);
	cr_assert_eq(fate(-1, 0), ERRNO(ENOSYS));
	cr_assert_eq(fate(0x40000000 | SYS_getpid, 0), ERRNO(ENOSYS), "x32");
}

Test(seccomp, other_architectures_end_the_process)
{
	struct seccomp_data d = { .nr = 20, .arch = AUDIT_ARCH_I386 };

	cr_assert_eq(run(&d), SECCOMP_RET_KILL_PROCESS);
	d.arch = NATIVE == AUDIT_ARCH_AARCH64 ? AUDIT_ARCH_ARM : AUDIT_ARCH_AARCH64;
	cr_assert_eq(run(&d), SECCOMP_RET_KILL_PROCESS);
}

Test(seccomp, clone_makes_processes_and_threads_but_no_namespaces)
{
	static const uint64_t spaces[] = {
		CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET
	};

	cr_assert_eq(fate(SYS_clone, 17), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_clone, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_clone, CLONE_VM | CLONE_VFORK | 17), SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < ARRAY_LEN(spaces); i++)
		cr_assert_eq(fate(SYS_clone, spaces[i] | 17), ERRNO(EPERM), "0x%lx", (unsigned long)spaces[i]);
}

Test(seccomp, socket_families)
{
	static const int good[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET };

	for (int family = 0; family < 64; family++) {
		bool want = false;

		for (size_t i = 0; i < ARRAY_LEN(good); i++)
			want |= good[i] == family;
		cr_assert_eq(fate(SYS_socket, (uint64_t)family), want ? SECCOMP_RET_ALLOW : ERRNO(EAFNOSUPPORT), "%d", family);
	}
	/* The kernel takes an int: high bits can't smuggle a family past the filter, nor keep a good one out. */
	cr_assert_eq(fate(SYS_socket, (1ull << 32) | 40), ERRNO(EAFNOSUPPORT));
}

static uint32_t socket_fate(int family, uint64_t protocol)
{
	struct seccomp_data d = { .nr = SYS_socket, .arch = NATIVE, .args = { (uint64_t)family, SOCK_RAW, protocol } };

	return run(&d);
}

Test(seccomp, socket_protocols)
{
	static const uint64_t inet[] = { IPPROTO_IP, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6, IPPROTO_UDPLITE, 262 };

	for (uint64_t protocol = 0; protocol < 512; protocol++) {
		bool good = false;

		for (size_t i = 0; i < ARRAY_LEN(inet); i++)
			good |= inet[i] == protocol;
		cr_assert_eq(socket_fate(AF_INET, protocol), good ? SECCOMP_RET_ALLOW : ERRNO(EPROTONOSUPPORT), "%lu", (unsigned long)protocol);
		cr_assert_eq(socket_fate(AF_INET6, protocol), good ? SECCOMP_RET_ALLOW : ERRNO(EPROTONOSUPPORT), "%lu", (unsigned long)protocol);
		good = protocol == NETLINK_ROUTE || protocol == NETLINK_SOCK_DIAG;
		cr_assert_eq(socket_fate(AF_NETLINK, protocol), good ? SECCOMP_RET_ALLOW : ERRNO(EPROTONOSUPPORT), "%lu",
			     (unsigned long)protocol);
		cr_assert_eq(socket_fate(AF_UNIX, protocol), SECCOMP_RET_ALLOW);
		cr_assert_eq(socket_fate(AF_PACKET, protocol), SECCOMP_RET_ALLOW);
	}
	cr_assert_eq(socket_fate(AF_INET, 1ull << 32 | IPPROTO_SCTP), ERRNO(EPROTONOSUPPORT));
}

Test(seccomp, sockets_take_no_filter)
{
	struct seccomp_data d = { .nr = SYS_setsockopt, .arch = NATIVE, .args = { 3, SOL_SOCKET } };

	for (uint64_t option = 0; option < 100; option++) {
		bool bad = option == SO_ATTACH_FILTER || option == SO_ATTACH_BPF || option == SO_ATTACH_REUSEPORT_CBPF ||
			   option == SO_ATTACH_REUSEPORT_EBPF;

		d.args[1] = SOL_SOCKET;
		d.args[2] = option;
		cr_assert_eq(run(&d), bad ? ERRNO(ENOPROTOOPT) : SECCOMP_RET_ALLOW, "%lu", (unsigned long)option);
		d.args[1] = 1ull << 32 | SOL_SOCKET;
		cr_assert_eq(run(&d), bad ? ERRNO(ENOPROTOOPT) : SECCOMP_RET_ALLOW, "%lu", (unsigned long)option);
		d.args[1] = IPPROTO_TCP;
		cr_assert_eq(run(&d), SECCOMP_RET_ALLOW, "%lu", (unsigned long)option);
	}
}

Test(seccomp, no_subvolumes)
{
	static const uint64_t bad[] = { 0x5000940e, 0x50009418, 0x50009401, 0x50009417 }, good[] = { 0, 0x5401, 0x40049409, 0x4020940d };
	struct seccomp_data d = { .nr = SYS_ioctl, .arch = NATIVE };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		d.args[1] = bad[i];
		cr_assert_eq(run(&d), ERRNO(EPERM), "0x%lx", (unsigned long)bad[i]);
		d.args[1] |= 1ull << 32;
		cr_assert_eq(run(&d), ERRNO(EPERM));
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		d.args[1] = good[i];
		cr_assert_eq(run(&d), SECCOMP_RET_ALLOW, "0x%lx", (unsigned long)good[i]);
	}
}

Test(seccomp, personalities)
{
	cr_assert_eq(fate(SYS_personality, 0xffffffff), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_personality, 0), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_personality, 8), SECCOMP_RET_ALLOW);
	cr_assert_eq(fate(SYS_personality, 0x40000), ERRNO(EPERM));
	cr_assert_eq(fate(SYS_personality, 0x400000), ERRNO(EPERM));
}

Test(seccomp, init_alone_has_the_key)
{
	struct seccomp_data d = { .nr = SYS_clone3, .arch = NATIVE, .args = { 1, 88, key[0], key[1] } };

	cr_assert_eq(run(&d), SECCOMP_RET_ALLOW);
	for (size_t bit = 0; bit < 128; bit++) {
		d.args[2 + bit / 64] ^= 1ull << bit % 64;
		cr_assert_eq(run(&d), ERRNO(ENOSYS), "bit %zu counts", bit);
		d.args[2 + bit / 64] ^= 1ull << bit % 64;
	}
	d.nr = SYS_sethostname;
	cr_assert_eq(run(&d), SECCOMP_RET_ALLOW);
	d.args[3]++;
	cr_assert_eq(run(&d), ERRNO(EPERM));
	d.args[3]--;
	d.nr = SYS_mount;
	cr_assert_eq(run(&d), ERRNO(EPERM), "it opens nothing else");
}

Test(seccomp, is_small)
{
	cr_assert_lt(seccomp_program(key, false)->len, 256);
}
