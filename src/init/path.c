#include "init/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"

int path_open(int dir, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_NO_MAGICLINKS,
	};
	long r;

	do {
		r = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : (int)r;
}

int path_check_fs(int fd)
{
	static const unsigned long refused[] = {
		PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC,
		SECURITYFS_MAGIC, BPF_FS_MAGIC, NSFS_MAGIC, BINFMTFS_MAGIC,
	};
	struct statfs s;

	if (fstatfs(fd, &s) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		if ((unsigned long)s.f_type == refused[i])
			return -EACCES;
	return 0;
}

/* One component: opens name in dir, making it when it is missing. Somebody may make or remove it meanwhile: then the
 * second open says what is there. */
static int enter(int dir, const char *name, mode_t mode)
{
	int fd = path_open(dir, name, O_PATH | O_DIRECTORY, 0);
	int r = fd == -ENOENT ? path_check_fs(dir) : fd;

	if (fd != -ENOENT || r < 0)
		return r;
	if (mkdirat(dir, name, mode) < 0 && errno != EEXIST)
		return -errno;
	return path_open(dir, name, O_PATH | O_DIRECTORY, 0);
}

int path_mkdirs(const char *path, mode_t mode)
{
	char part[256];
	auto_fd dir = path_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);

	while (dir >= 0) {
		size_t len;
		int next;

		path += strspn(path, "/");
		len = strcspn(path, "/");
		if (len == 0)
			return fd_steal(&dir);
		if (len >= sizeof(part))
			return -ENAMETOOLONG;
		memcpy(part, path, len);
		part[len] = '\0';
		path += len;
		next = enter(dir, part, mode);
		fd_close(dir);
		dir = next;
	}
	return fd_steal(&dir);
}

int path_join(char *ret, const char *cwd, const char *path)
{
	size_t cwd_len = path[0] == '/' ? 0 : strlen(cwd), len = strlen(path);

	if (len == 0 || (cwd_len && cwd[0] != '/'))
		return -EINVAL;
	if (cwd_len + 1 + len >= PATH_BYTES)
		return -ENAMETOOLONG;
	memcpy(ret, cwd, cwd_len);
	if (path[0] != '/')
		ret[cwd_len++] = '/';
	memcpy(ret + cwd_len, path, len + 1);
	return 0;
}

int path_split(char *path, const char **ret_parent, const char **ret_leaf)
{
	char *slash = strrchr(path, '/');
	const char *leaf = slash + 1;

	if (!*leaf || !strcmp(leaf, ".") || !strcmp(leaf, ".."))
		return -EISDIR;
	*slash = '\0';
	*ret_parent = slash == path ? "/" : path;
	*ret_leaf = leaf;
	return 0;
}
