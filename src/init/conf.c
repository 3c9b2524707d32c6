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

static int write_etc(struct request *q, struct err *err)
{
	static const struct {
		enum wire_tag tag;
		const char *name, *stage;
	} files[] = { { WIRE_T_HOSTS, "hosts", "write /etc/hosts" }, { WIRE_T_RESOLV, "resolv.conf", "write /etc/resolv.conf" } };
	auto_fd etc = path_mkdirs("/etc", 0755);

	q->stage = "open /etc";
	if (etc < 0)
		return err_sys_code(err, etc, "%s", q->stage);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		const char *text = wire_get_str(q->msg, files[i].tag, 0);
		int r = text ? conf_write(etc, files[i].name, text) : 0;

		q->stage = files[i].stage;
		if (r < 0)
			return err_sys_code(err, r, "%s", q->stage);
	}
	return 0;
}

static int set_hostname(struct request *q, const char *name)
{
	auto_fd etc = path_mkdirs("/etc", 0755);
	char line[80];

	q->stage = "set the host name";
	if (seccomp_sethostname(name, strlen(name)) < 0)
		return -errno;
	q->stage = "write /etc/hostname";
	snprintf(line, sizeof(line), "%s\n", name); /* the kernel has refused more than 64 bytes */
	return etc < 0 ? etc : conf_write(etc, "hostname", line);
}

static int make_dirs(struct request *q, struct err *err)
{
	const char *dir;

	for (size_t i = 0; (dir = wire_get_str(q->msg, WIRE_T_DIR, i)); i++) {
		auto_fd fd = dir[0] == '/' ? path_mkdirs(dir, 0755) : -EINVAL;

		q->stage = dir;
		if (fd < 0)
			return err_sys_code(err, fd, "make folder %s", dir);
	}
	return 0;
}

int conf_request(struct init *in, struct request *q, struct err *err)
{
	const char *hostname = wire_get_str(q->msg, WIRE_T_HOSTNAME, 0);
	int r;

	r = hostname ? set_hostname(q, hostname) : 0;
	if (r < 0)
		return err_sys_code(err, r, "set the host name \"%.100s\"", hostname);
	r = write_etc(q, err);
	if (r == 0)
		r = make_dirs(q, err);
	if (r < 0)
		return r;
	in->configured = true;
	if (q->msg->request)
		control_ok(in, q->msg->request);
	return 0;
}
