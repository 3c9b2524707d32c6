/* spawner/sys.h: system calls that musl has no wrapper for, and their constants. linux/mount.h and linux/sched.h are not
 * included, because both clash with the C library's headers of the same purpose in one of the two libraries that this
 * code is built with. All return -1 and set errno, as the C library's would. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443 /* the same on every architecture */
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* What these calls take, under names of ours: the kernel's own names are defined by some C libraries and not by others. */
#define SYS_MOVE_EMPTY_FROM 0x04           /* MOVE_MOUNT_F_EMPTY_PATH */
#define SYS_MOVE_EMPTY_PATHS (0x04 | 0x40) /* MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH */
#define SYS_FSCONFIG_FLAG 0                /* FSCONFIG_SET_FLAG */
#define SYS_FSCONFIG_STRING 1              /* FSCONFIG_SET_STRING */
#define SYS_FSCONFIG_CREATE 6              /* FSCONFIG_CMD_CREATE */

/* MOUNT_ATTR_*, of sys_fsmount and sys_mount_setattr. */
#define SYS_ATTR_RDONLY 0x01u
#define SYS_ATTR_NOSUID 0x02u
#define SYS_ATTR_NODEV 0x04u
#define SYS_ATTR_NOEXEC 0x08u
#define SYS_ATTR_IDMAP 0x00100000u /* may be set once, on a detached copy (OPEN_TREE_CLONE) only */

/* RESOLVE_*, of sys_openat2: how a path that somebody else wrote is kept inside a folder. */
#define SYS_RESOLVE_NO_XDEV 0x01u
#define SYS_RESOLVE_NO_MAGICLINKS 0x02u
#define SYS_RESOLVE_NO_SYMLINKS 0x04u
#define SYS_RESOLVE_BENEATH 0x08u
#define SYS_RESOLVE_IN_ROOT 0x10u

#define SYS_CLONE_INTO_CGROUP 0x200000000ull /* sys_clone_args.cgroup counts; a cgroup of version 2 only */
#define SYS_CLOSE_RANGE_CLOEXEC 4u

/* The kernel tells the version of these structs by their size: fields may be added at the end, never moved. */
struct sys_mount_attr {
	uint64_t attr_set, attr_clr; /* SYS_ATTR_* */
	uint64_t propagation;        /* MS_PRIVATE and the like; 0 = as it is */
	uint64_t userns_fd;          /* with SYS_ATTR_IDMAP: whose mapping */
};
struct sys_open_how {
	uint64_t flags;   /* O_*; one that the kernel does not know is an error here, unlike with open() */
	uint64_t mode;    /* must be 0 unless a file may be made */
	uint64_t resolve; /* SYS_RESOLVE_* */
};
struct sys_clone_args {
	uint64_t flags; /* CLONE_*, without the signal, which has a field of its own */
	uint64_t pidfd; /* address of the int that gets one, with CLONE_PIDFD */
	uint64_t child_tid, parent_tid, exit_signal;
	uint64_t stack, stack_size; /* 0 = goes on on the parent's, as after fork() */
	uint64_t tls, set_tid, set_tid_size;
	uint64_t cgroup; /* a descriptor of its folder */
};

/* A descriptor of the mount at path; with OPEN_TREE_CLONE of a copy that is attached nowhere and goes with it. */
static inline int sys_open_tree(int dir, const char *path, unsigned int flags)
{
	return (int)syscall(SYS_open_tree, dir, path, flags);
}

/* Attaches what from stands for. With SYS_MOVE_EMPTY_PATHS both paths are "" and the descriptors alone count, so that
 * nothing is looked up in a tree that somebody else may change. */
static inline int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned int flags)
{
	return (int)syscall(SYS_move_mount, from, from_path, to, to_path, flags);
}

/* flags: AT_RECURSIVE, AT_EMPTY_PATH. */
static inline int sys_mount_setattr(int dir, const char *path, unsigned int flags, const struct sys_mount_attr *a)
{
	return (int)syscall(SYS_mount_setattr, dir, path, flags, a, sizeof(*a));
}

/* A new file system in three steps: open by name, set options and create, mount (detached; sys_move_mount attaches). All
 * descriptors are close-on-exec; reading from the first gives the kernel's messages when a step fails. */
static inline int sys_fsopen(const char *name)
{
	return (int)syscall(SYS_fsopen, name, 1u /* FSOPEN_CLOEXEC */);
}

static inline int sys_fsconfig(int fs, unsigned int cmd, const char *key, const char *value)
{
	return (int)syscall(SYS_fsconfig, fs, cmd, key, value, 0);
}

static inline int sys_fsmount(int fs, unsigned int attrs)
{
	return (int)syscall(SYS_fsmount, fs, 1u /* FSMOUNT_CLOEXEC */, attrs);
}

/* As openat(), with how->resolve; -1 and EXDEV or ELOOP when the path would leave. */
static inline int sys_openat2(int dir, const char *path, const struct sys_open_how *how)
{
	return (int)syscall(SYS_openat2, dir, path, how, sizeof(*how));
}

/* fork semantics when no stack is given; the C library's at-fork handlers do not run, and this code has none. */
static inline pid_t sys_clone3(const struct sys_clone_args *a)
{
	return (pid_t)syscall(SYS_clone3, a, sizeof(*a));
}

/* A pidfd is close-on-exec by itself, polls readable when the process has ended, and is never another process. */
static inline int sys_pidfd_open(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0u);
}

static inline int sys_pidfd_kill(int pidfd, int signo)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0u);
}

/* A descriptor of a namespace that a living process is in: asked of its pidfd, which takes Linux 6.11, else opened below /proc,
 * where it leaves entries that the kernel has to look for when the process has ended. */
enum sys_namespace { SYS_NAMESPACE_MOUNT = 3, SYS_NAMESPACE_NET = 4, SYS_NAMESPACE_USER = 9 }; /* PIDFD_GET_*_NAMESPACE */
static inline int sys_pidfd_namespace(int pidfd, pid_t pid, enum sys_namespace which)
{
	int fd = ioctl(pidfd, _IO(0xff, which), 0);
	char path[40];

	if (fd >= 0 || (errno != ENOTTY && errno != EINVAL))
		return fd;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid,
		 which == SYS_NAMESPACE_MOUNT ? "mnt" : which == SYS_NAMESPACE_NET ? "net" : "user");
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* first to last, both included, whether open or not. flags: 0 or SYS_CLOSE_RANGE_CLOEXEC. */
static inline int sys_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

/* With "." for both, the old root lies on top of the new one afterwards; umount2(".", MNT_DETACH) takes it away. */
static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
	return (int)syscall(SYS_pivot_root, new_root, put_old);
}
