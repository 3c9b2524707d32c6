#include "daemon/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostconf.h"
#include "daemon/spawn.h"
#include "http/tls.h"

/* -- user and programs ----------------------------------------------------------------------------------------- */

int launch_user(const struct config *c, uid_t *ret_uid, gid_t *ret_gid, struct err *err)
{
	errno = 0;
	const struct passwd *pw = getpwnam(c->user);

	if (!pw)
		return err_set(err, -ENOENT,
			       "the user \"%s\" that the daemon is to run as does not exist: make it with"
			       " `useradd --system --user-group --no-create-home --shell /usr/sbin/nologin %s` (the package and"
			       " `make install` do), or name another one with the key `user`", c->user, c->user);
	if (pw->pw_uid == 0)
		return err_set(err, -EINVAL, "user: \"%s\": expected an ordinary user, this one is root", c->user);
	*ret_uid = pw->pw_uid;
	*ret_gid = pw->pw_gid;
	return 0;
}

static int find_self(struct launch *l, struct err *err)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n < 0)
		return err_sys(err, "finding this program");
	path[n] = '\0';
	l->self = xstrdup(path);
	return 0;
}

static bool has_programs(const char *folder)
{
	static const char *const programs[] = { "openreward-spawner", "openreward-egress", "openreward-init" };

	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		auto_free char *path = xasprintf("%s/%s", folder, programs[i]);
		if (access(path, X_OK) < 0)
			return false;
	}
	return true;
}

static int find_libexec(struct launch *l, const struct config *c, struct err *err)
{
	if (!str_empty(c->libexec)) {
		l->libexec = xstrdup(c->libexec);
		return has_programs(l->libexec) ? 0 : err_set(err, -ENOENT,
			"libexec: \"%s\": expected the folder of openreward-spawner, openreward-egress and openreward-init",
			c->libexec);
	}
	auto_free char *beside = xstrndup(l->self, (size_t)(strrchr(l->self, '/') - l->self));
	l->libexec = xasprintf("%s/../libexec/openreward", beside);
	if (has_programs(beside)) {
		free(l->libexec);
		l->libexec = STEAL(beside);
		return 0;
	}
	if (has_programs(l->libexec))
		return 0;
	return err_set(err, -ENOENT, "openreward-spawner, openreward-egress and openreward-init are neither in %s nor in %s: build"
				     " them with `make`, or name their folder with the key `libexec`", beside, l->libexec);
}

/* -- the data directory ---------------------------------------------------------------------------------------- */

static int as_user(uid_t uid, gid_t gid)
{
	return setegid(gid) < 0 || seteuid(uid) < 0 ? -errno : 0;
}

static void as_root(void)
{
	if (seteuid(0) < 0 || setegid(0) < 0)
		abort(); /* going on half-dropped would make folders with the wrong owner */
}

int launch_check_path(const char *path, uid_t uid, gid_t gid, const char *user, struct err *err)
{
	auto_free char *part = xstrdup(path);
	int r = as_user(uid, gid);

	if (r == 0) {
		for (char *slash = strchr(part + 1, '/'); r == 0; slash = strchr(slash + 1, '/')) {
			if (slash)
				*slash = '\0';
			/* Groups of root do not count: the daemon drops them all. */
			if (faccessat(AT_FDCWD, part, X_OK, AT_EACCESS) < 0 && errno == EACCES)
				r = err_set(err, -EACCES, "the user \"%s\" may not enter %s, which lies on the way to the data directory"
							  " %s: choose another place, or allow it with `chmod o+x %s`", user, part,
							  path, part);
			if (!slash)
				break;
			*slash = '/';
		}
	} else {
		r = err_sys_code(err, r, "acting as the user \"%s\"", user);
	}
	as_root();
	return r;
}

/* As the user that will read them again and again: root's rights do not last. */
static int check_tls(const struct launch *l, const struct config *c, struct err *err)
{
	AUTO(http_tls_freep) struct http_tls *tls = NULL;

	if (!*c->tls_certificate)
		return 0;
	int r = as_user(l->uid, l->gid);
	if (r == 0)
		r = http_tls_new(&tls, c->tls_certificate, c->tls_key, err);
	else
		r = err_sys_code(err, r, "acting as the user \"%s\"", c->user);
	as_root();
	if (r == -EACCES)
		return err_wrap(err, r, "tls: the user \"%s\" must be able to read certificate and key, also later: `chgrp %s` and"
					" `chmod 640` them, and allow it into the folders above", c->user, c->user);
	return r < 0 ? err_wrap(err, r, "tls") : 0;
}

static int make_folder(const char *data, const char *name, uid_t uid, gid_t gid, mode_t mode, struct err *err)
{
	auto_free char *path = xasprintf("%s%s%s", data, *name ? "/" : "", name);
	struct stat st;

	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_sys(err, "making %s", path);
	auto_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "opening %s", path);
	/* Through the descriptor: a link put there meanwhile is not followed. */
	if ((st.st_uid != uid || st.st_gid != gid) && fchown(fd, uid, gid) < 0)
		return err_sys(err, "changing the owner of %s", path);
	if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
		return err_sys(err, "changing the mode of %s", path);
	return 0;
}

int launch_folders(const char *data_dir, uid_t uid, gid_t gid, struct err *err)
{
	static const struct {
		const char *name;
		bool root;
		mode_t mode;
	} folders[] = {
		{ "images", true, 0711 }, { "images/records", true, 0755 }, { "sandboxes", true, 0711 },
		{ "builds", false, 0750 }, { "buckets", false, 0750 }, { "git", false, 0750 }, { "logs", false, 0750 },
		{ "run", false, 0750 },
	};
	int r = fd_mkdirs(data_dir, 0755, err);

	/* root's and sticky: the daemon keeps its database and key here, but cannot rename or replace root's folders. */
	r = r < 0 ? r : make_folder(data_dir, "", 0, gid, 01771, err);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(folders); i++)
		r = make_folder(data_dir, folders[i].name, folders[i].root ? 0 : uid, folders[i].root ? 0 : gid, folders[i].mode,
				err);
	return r;
}

int launch_lock(int *ret_fd, const char *data_dir, struct err *err)
{
	auto_free char *path = xasprintf("%s/lock", data_dir);
	char text[32] = "";
	auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0660);

	if (fd < 0)
		return err_sys(err, "opening %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return err_sys(err, "locking %s", path);
		ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? strspn(text, "0123456789") : 0] = '\0';
		return err_set(err, -EBUSY, "the data directory %s is in use by another daemon (pid %s)", data_dir,
			       *text ? text : "unknown");
	}
	int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
		return err_sys(err, "writing %s", path);
	*ret_fd = fd_steal(&fd);
	return 0;
}

/* -- the way down ---------------------------------------------------------------------------------------------- */

int launch_drop(uid_t uid, gid_t gid, struct err *err)
{
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return err_sys(err, "becoming user %u", (unsigned)uid);
	if (setresuid(0, 0, 0) == 0 || setresgid(0, 0, 0) == 0)
		return err_set(err, -EPERM, "root could be regained after giving it up");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(err, "giving up new privileges");
	return 0;
}

/* One descriptor per sandbox and two per session: the soft limit of 1,024 would be the first to be met. */
static void raise_files(void)
{
	struct rlimit want = { 1 << 20, 1 << 20 }, now;

	if (setrlimit(RLIMIT_NOFILE, &want) < 0 && getrlimit(RLIMIT_NOFILE, &now) == 0) {
		now.rlim_cur = now.rlim_max;
		(void)!setrlimit(RLIMIT_NOFILE, &now);
	}
}

static int not_root(struct launch *l, const struct config *c, struct err *err)
{
	if (!spawn_is_listening(l->spawner_socket))
		return err_set(err, -EPERM, "`openreward serve` needs root to start openreward-spawner, which makes the sandboxes; the"
					    " daemon itself then runs as the user \"%s\"", c->user);
	l->uid = geteuid();
	l->gid = getegid();
	return launch_lock(&l->lock_fd, c->data, err);
}

static int prepare_data(struct launch *l, const struct config *c, struct err *err)
{
	int r = launch_folders(c->data, l->uid, l->gid, err);

	r = r < 0 ? r : launch_check_path(c->data, l->uid, l->gid, c->user, err);
	r = r < 0 ? r : launch_lock(&l->lock_fd, c->data, err);
	if (r == 0 && fchown(l->lock_fd, 0, l->gid) < 0)
		r = err_sys(err, "changing the group of %s/lock", c->data);
	return r;
}

/* In a folder of root's, which the daemon cannot change: what sandboxes are given is the operator's. */
static int stage_host(struct launch *l, const struct config *c, struct err *err)
{
	if (!c->sandbox_inherit_host)
		return 0;
	char **env = hostconf_snapshot();
	l->host_dir = xasprintf("%s/images/host", c->data);
	int r = hostconf_stage(l->host_dir, LAUNCH_HOST_TARGET, (const char *const *)env, &l->host_env, err);
	strv_free(env);
	return r < 0 ? err_wrap(err, r, "sandboxes.inherit_host") : 0;
}

static int ensure_spawner(struct launch *l, const struct config *c, struct err *err)
{
	int r = spawn_write_build_conf(c, err);

	l->owns_spawner = true;
	if (r < 0 || spawn_is_listening(l->spawner_socket))
		return r;
	return spawn_start(l, c, err);
}

int launch(struct launch *ret, const struct config *c, struct err *err)
{
	struct launch l = LAUNCH_INIT;
	int r;

	raise_files();
	l.spawner_socket = xasprintf("%s/run/spawner.sock", c->data);
	if (geteuid() != 0) {
		r = not_root(&l, c, err);
	} else {
		r = launch_user(c, &l.uid, &l.gid, err);
		r = r < 0 ? r : check_tls(&l, c, err);
		r = r < 0 ? r : find_self(&l, err);
		r = r < 0 ? r : find_libexec(&l, c, err);
		r = r < 0 ? r : prepare_data(&l, c, err);
		r = r < 0 ? r : stage_host(&l, c, err);
		r = r < 0 ? r : ensure_spawner(&l, c, err);
		r = r < 0 ? r : launch_drop(l.uid, l.gid, err);
	}
	if (r < 0) {
		spawn_stop(&l);
		launch_done(&l);
		return r;
	}
	*ret = l;
	return 0;
}

int launch_spawner(const struct config *c, struct err *err)
{
	struct launch l = LAUNCH_INIT;
	int r;

	raise_files();
	l.spawner_socket = xasprintf("%s/run/spawner.sock", c->data);
	r = geteuid() == 0 ? launch_user(c, &l.uid, &l.gid, err) : err_set(err, -EPERM, "`openreward spawner` needs root");
	r = r < 0 ? r : find_self(&l, err);
	r = r < 0 ? r : find_libexec(&l, c, err);
	r = r < 0 ? r : launch_folders(c->data, l.uid, l.gid, err);
	r = r < 0 ? r : launch_check_path(c->data, l.uid, l.gid, c->user, err);
	r = r < 0 ? r : stage_host(&l, c, err);
	r = r < 0 ? r : spawn_write_build_conf(c, err);
	if (r == 0)
		r = spawn_exec(&l, c, err);
	launch_done(&l);
	return r;
}

void launch_done(struct launch *l)
{
	l->lock_fd = fd_close(l->lock_fd);
	free(l->libexec);
	free(l->self);
	free(l->spawner_socket);
	free(l->host_dir);
	strv_free(l->host_env);
}
