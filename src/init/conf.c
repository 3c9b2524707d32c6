#include "init/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/init.h"
#include "init/path.h"
#include "init/seccomp.h"

#define TEMPORARY ".orw-conf"

static int write_file(int dir, const char *name, int flags, const char *text)
{
	int all = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags;
	auto_fd fd = path_open(dir, name, all, flags & O_CREAT ? 0644 : 0);
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EINVAL;
	r = fd_write_all(fd, text, strlen(text));
	if (r == 0 && fchmod(fd, 0644) < 0)
		r = -errno;
	return r;
}

int conf_write(int etc, const char *name, const char *text)
{
	int r;

	(void)unlinkat(etc, TEMPORARY, 0);
	r = write_file(etc, TEMPORARY, O_CREAT | O_EXCL, text);
	if (r == 0 && renameat(etc, TEMPORARY, etc, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(etc, TEMPORARY, 0);
	if (r == -EBUSY)
		r = write_file(etc, name, O_TRUNC, text);
	return r;
}

static int write_etc(const struct wire_in *msg, struct err *err)
{
	static const struct {
		enum wire_tag tag;
		const char *name;
	} files[] = { { WIRE_T_HOSTS, "hosts" }, { WIRE_T_RESOLV, "resolv.conf" } };
	auto_fd etc = path_mkdirs("/etc", 0755);

	if (etc < 0)
		return err_sys_code(err, etc, "open /etc");
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		const char *text = wire_get_str(msg, files[i].tag, 0);
		int r = text ? conf_write(etc, files[i].name, text) : 0;

		if (r < 0)
			return err_sys_code(err, r, "write /etc/%s", files[i].name);
	}
	return 0;
}

static int set_hostname(const char *name)
{
	auto_fd etc = path_mkdirs("/etc", 0755);
	char line[80];

	if (seccomp_sethostname(name, strlen(name)) < 0)
		return -errno;
	snprintf(line, sizeof(line), "%s\n", name); /* the kernel has refused more than 64 bytes */
	return etc < 0 ? etc : conf_write(etc, "hostname", line);
}

static int make_dirs(const struct wire_in *msg, struct err *err)
{
	const char *dir;

	for (size_t i = 0; (dir = wire_get_str(msg, WIRE_T_DIR, i)); i++) {
		auto_fd fd = dir[0] == '/' ? path_mkdirs(dir, 0755) : -EINVAL;

		if (fd < 0)
			return err_sys_code(err, fd, "make folder %s", dir);
	}
	return 0;
}

int conf_request(struct init *in, struct request *q, struct err *err)
{
	const char *hostname = wire_get_str(q->msg, WIRE_T_HOSTNAME, 0);
	int r;

	q->stage = "hostname";
	r = hostname ? set_hostname(hostname) : 0;
	if (r < 0)
		return err_sys_code(err, r, "set the host name \"%.100s\"", hostname);
	q->stage = "etc";
	r = write_etc(q->msg, err);
	if (r < 0)
		return r;
	q->stage = "folders";
	r = make_dirs(q->msg, err);
	if (r < 0)
		return r;
	in->configured = true;
	control_ok(in, q->msg->request);
	return 0;
}
