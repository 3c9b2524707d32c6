/* base/machine.c: see machine.h. */
#include "base/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/quota.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"

#define PROC_FILE_MAX 65536
#define ZFS_MAGIC 0x2fc12fc1 /* its fallocate looks whether there is room, and keeps none */
#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443 /* musl 1.2.3 does not name it; the same on every architecture */
#endif

void machine_here(struct machine *ret)
{
	struct sysinfo si;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	ret->cpu_milli = (uint64_t)(cpus > 0 ? cpus : 1) * 1000;
	ret->memory_bytes = sysinfo(&si) == 0 ? (uint64_t)si.totalram * si.mem_unit : MACHINE_UNKNOWN;
}

uint64_t machine_memory_free(void)
{
	auto_buf struct buf b = { 0 };
	const char *at;
	unsigned long long kib = 0;

	buf_init(&b, PROC_FILE_MAX);
	if (fd_read_file("/proc/meminfo", &b, NULL) < 0)
		return MACHINE_UNKNOWN;
	at = strstr(b.data, "MemAvailable:");
	return at && sscanf(at, "MemAvailable: %llu", &kib) == 1 ? kib << 10 : MACHINE_UNKNOWN;
}

uint64_t machine_disk_free(const char *path)
{
	struct statvfs s;

	if (statvfs(path, &s) < 0)
		return MACHINE_UNKNOWN;
	/* Some file systems have no table of inodes: they say that there are none at all. */
	return s.f_files && !s.f_favail ? 0 : (uint64_t)s.f_bavail * s.f_frsize;
}

uint64_t machine_pressure_of(const char *text)
{
	unsigned whole = 0, hundredths = 0;

	if (sscanf(text, "some avg10=%u.%2u", &whole, &hundredths) != 2)
		return MACHINE_UNKNOWN;
	return whole * 100u + hundredths;
}

uint64_t machine_pressure(const char *resource)
{
	auto_buf struct buf b = { 0 };
	char path[64];

	snprintf(path, sizeof(path), "/proc/pressure/%s", resource);
	buf_init(&b, PROC_FILE_MAX);
	return fd_read_file(path, &b, NULL) < 0 ? MACHINE_UNKNOWN : machine_pressure_of(b.data);
}

bool machine_limits_projects(int dir)
{
	struct fs_quota_statv state = { .qs_version = FS_QSTATV_VERSION1 };

	/* Not Q_GETQUOTA: it answers also where quota only counts. */
	return syscall(SYS_quotactl_fd, dir, QCMD((unsigned int)Q_XGETQSTATV, PRJQUOTA), 0, &state) == 0 &&
	       (state.qs_flags & FS_QUOTA_PDQ_ENFD);
}

int machine_keep_room(int file, uint64_t from, uint64_t to)
{
	struct statfs s;

	if (fstatfs(file, &s) == 0 && s.f_type == ZFS_MAGIC)
		return -EOPNOTSUPP;
	return fallocate(file, 0, (off_t)from, (off_t)(to - from)) < 0 ? -errno : 0;
}
