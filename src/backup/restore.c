/* backup/restore.c: a backup becomes a data directory: beside its place first, then by renames. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backup/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/rmtree.h"
#include "base/str.h"
#include "loop/loop.h"
#include "store/audit.h"
#include "store/store.h"

#define ASIDE ".restore"
#define MOVING "moving" /* in it, on the disk before the first of these leaves it */

/* In the order in which they move; the database, which makes it a platform, is the last. */
static const char *const moved[] = { "git", "builds", "buckets", "secrets.key", "admin.key", BACKUP_DATABASE_FILE };

struct restore {
	const struct backup_restore *s;
	int aside;      /* DATA/.restore */
	int fd;         /* of the file that is being written; -1 = none */
	uint64_t left;  /* bytes that it still gets */
	int64_t mtime_s;
	char *name;     /* its name, for messages */
};

/* -- the target ---------------------------------------------------------------------------------------------------- */

static bool is_one_of(const char *name, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(name, names[i]))
			return true;
	return false;
}

/* A restore that was killed while it moved: what is there is its own. With the database it is a platform, which somebody may
 * have used since. */
static bool is_half(int data)
{
	return faccessat(data, ASIDE "/" MOVING, F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
	       faccessat(data, BACKUP_DATABASE_FILE, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

static bool may_be_there(const char *name, bool half)
{
	static const char *const names[] = { ".", "..", "lock", "lost+found", ASIDE };

	return is_one_of(name, names, ARRAY_LEN(names)) || (half && is_one_of(name, moved, ARRAY_LEN(moved)));
}

int backup_is_empty(const char *data_dir, bool *ret, struct err *err)
{
	DIR *d = opendir(data_dir);

	if (!d)
		return err_sys(err, "%s", data_dir);
	bool half = is_half(dirfd(d));
	*ret = true;
	for (struct dirent *e; (e = readdir(d));)
		*ret &= may_be_there(e->d_name, half);
	closedir(d);
	return 0;
}

/* -- writing files ------------------------------------------------------------------------------------------------- */

static int give_away(const struct restore *x, int fd, const char *name, struct err *err)
{
	if (x->s->uid != (uid_t)-1 && fchown(fd, x->s->uid, x->s->gid) < 0)
		return err_sys(err, "changing the owner of %s", name);
	return 0;
}

static int make_parent(struct restore *x, char *path, struct err *err);

/* A folder and those above it: an archive that lacks one is taken, too. path is changed for the call alone. */
static int make_folder(struct restore *x, char *path, mode_t mode, struct err *err)
{
	int r = make_parent(x, path, err);

	if (r < 0)
		return r;
	if (mkdirat(x->aside, path, mode | 0700) < 0 && errno != EEXIST)
		return err_sys(err, "making %s", path);
	auto_fd fd = openat(x->aside, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, mode | 0700) < 0)
		return err_sys(err, "opening %s", path);
	return give_away(x, fd, path, err);
}

static int make_parent(struct restore *x, char *path, struct err *err)
{
	char *slash = strrchr(path, '/');

	if (!slash)
		return 0;
	*slash = '\0';
	int r = faccessat(x->aside, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : make_folder(x, path, 0750, err);
	*slash = '/';
	return r;
}

static void end_file(struct restore *x)
{
	const struct timespec times[2] = { { .tv_sec = x->mtime_s }, { .tv_sec = x->mtime_s } };

	(void)futimens(x->fd, times); /* what lists of files show; not worth a failure */
	x->fd = fd_close(x->fd);
}

static int begin_file(struct restore *x, const char *path, const struct tar_member *m, struct err *err)
{
	x->fd = openat(x->aside, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (x->fd < 0)
		return err_sys(err, "making %s", path);
	x->left = m->size;
	x->mtime_s = m->mtime_s;
	int r = give_away(x, x->fd, path, err);
	if (r == 0 && fchmod(x->fd, m->mode & 0777) < 0)
		r = err_sys(err, "changing the mode of %s", path);
	if (r == 0 && !m->size)
		end_file(x);
	return r;
}

static int on_member(void *arg, enum backup_part part UNUSED, const struct tar_member *m, struct err *err)
{
	struct restore *x = arg;
	auto_free char *path = xstrdup(m->name);

	if (m->type == TAR_FOLDER) {
		path[strlen(path) - 1] = '\0';
		return make_folder(x, path, m->mode & 0777, err);
	}
	int r = make_parent(x, path, err);
	r = r < 0 ? r : begin_file(x, path, m, err);
	free(x->name);
	x->name = STEAL(path);
	return r;
}

static int on_content(void *arg, const char *p, size_t len, struct err *err)
{
	struct restore *x = arg;
	int r = fd_write_all(x->fd, p, len);

	if (r < 0)
		return err_sys_code(err, r, "writing %s", x->name);
	x->left -= len;
	if (!x->left)
		end_file(x);
	return 0;
}

/* -- reading the backup -------------------------------------------------------------------------------------------- */

static void tell(const struct restore *x, const char *what, uint64_t done, uint64_t total)
{
	if (x->s->progress)
		x->s->progress(x->s->arg, what, done, total);
}

static int feed(const struct restore *x, struct backup_check *c, int fd, uint64_t total, const char *what, struct err *err)
{
	auto_free char *copy = xmalloc(BACKUP_COPY_BYTES);
	uint64_t done = 0;

	for (;;) {
		ssize_t n = read(fd, copy, BACKUP_COPY_BYTES);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "reading %s", x->s->file);
		if (n == 0)
			return 0;
		int r = backup_check_feed(c, copy, (size_t)n, err);
		if (r < 0)
			return r;
		done += (uint64_t)n;
		tell(x, what, done, total);
	}
}

/* From the beginning to the end; members go to sink (NULL = nowhere). */
static int read_backup(struct restore *x, int fd, const struct backup_sink *sink, struct backup_info *ret, struct err *err)
{
	AUTO(backup_check_freep) struct backup_check *c = check_new_with(x->s->file, sink);
	struct stat st;

	if (lseek(fd, 0, SEEK_SET) < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s: expected a file that can be read twice", x->s->file);
	int r = feed(x, c, fd, (uint64_t)st.st_size, sink ? "restoring" : "checking", err);
	return r < 0 ? r : backup_check_end(c, ret, err);
}

/* -- the database -------------------------------------------------------------------------------------------------- */

struct mending {
	struct restore *x;
	struct loop *loop;
	struct store *store;
	struct backup_restored *ret;
	struct err err; /* the first failure */
};

static bool has_source(const struct restore *x, const struct store_deployment *d)
{
	auto_free char *path = xasprintf("builds/%s/source.tar", d->id);

	return faccessat(x->aside, path, R_OK, 0) == 0;
}

static void move(struct mending *m, struct store_deployment *d, enum store_deployment_state to, const char *reason)
{
	struct err err;

	store_set_str(&d->reason, to == STORE_DEPLOYMENT_QUEUED ? "" : reason);
	if (store_deployment_move(m->store, d, to, reason, &err) < 0 && !m->err.code)
		m->err = err;
}

/* Of each environment the newest that serves or is on its way is built again; what is left of others ends. */
static bool mend(void *arg, struct store_environment *e)
{
	struct mending *m = arg;
	bool rebuilt = false, served = false;

	m->ret->environments++;
	list_foreach(&e->deployments, struct store_deployment, of_environment, d) {
		bool live = !store_deployment_state_final(d->state) && d->state != STORE_DEPLOYMENT_DRAINING;

		store_set_str(&d->image, "");
		served |= d->state == STORE_DEPLOYMENT_READY;
		if (live && !rebuilt && has_source(m->x, d)) {
			if (d->state != STORE_DEPLOYMENT_QUEUED)
				move(m, d, STORE_DEPLOYMENT_QUEUED, "restored from a backup, which has no images: built again");
			rebuilt = true;
		} else if (live || d->state == STORE_DEPLOYMENT_DRAINING) {
			move(m, d, STORE_DEPLOYMENT_STOPPED, rebuilt ? "restored from a backup: a newer one is built again" :
			     "restored from a backup, which has neither its image nor its source: deploy it again");
		}
		store_deployment_save(m->store, d);
	}
	m->ret->rebuilt += rebuilt;
	m->ret->imageless += served && !rebuilt;
	return true;
}

static void on_saved(void *arg, const struct err *err)
{
	struct mending *m = arg;

	if (err && !m->err.code)
		m->err = *err;
	loop_stop(m->loop, 0);
}

/* Opening it migrates it, and shows that all of it can be read, secrets too. */
static int mend_database(struct restore *x, struct backup_restored *ret, struct err *err)
{
	auto_free char *path = xasprintf("%s/" ASIDE "/" BACKUP_DATABASE_FILE, x->s->data_dir);
	struct mending m = { .x = x, .ret = ret, .err = ERR_INIT };
	int r = loop_new(&m.loop, err);

	if (r < 0)
		return r;
	r = store_open(&m.store, m.loop, path, err);
	if (r == 0) {
		auto_free char *of = xasprintf("the backup of %s, made by openreward %s", ret->info.created, ret->info.program);
		store_audit_own(m.store, "RESTORE", of);
		store_counts(m.store, &ret->namespaces, &ret->keys);
		store_environments(m.store, mend, &m);
		store_sync(m.store, on_saved, &m);
		r = loop_run(m.loop) < 0 ? err_set(err, -EIO, "the loop failed") : 0;
	}
	store_free(m.store);
	loop_free(m.loop);
	if (r == 0 && m.err.code)
		r = err_set(err, m.err.code, "%s", m.err.msg);
	/* The file alone moves: what the end of the store could not put into it would be lost with the log. */
	return r < 0 ? r : store_settle(path, err);
}

/* Before anything is written. The database may grow a little while it is brought to this program's schema. */
static int check_room(const struct restore *x, const struct backup_info *i, struct err *err)
{
	uint64_t need = STORE_ROOM_BYTES;
	struct statvfs fs;

	for (size_t k = 0; k < BACKUP_N_PARTS; k++)
		need += i->parts[k].bytes;
	if (statvfs(x->s->data_dir, &fs) < 0)
		return err_sys(err, "%s", x->s->data_dir);
	uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (need <= have)
		return 0;
	return err_set(err, -ENOSPC, "%s: what is in the backup takes %llu MiB, and %llu MiB are free: %llu MiB are missing",
		       x->s->data_dir,
		       (unsigned long long)(need >> 20), (unsigned long long)(have >> 20),
		       (unsigned long long)((need - have) >> 20) + 1);
}

/* -- the whole ----------------------------------------------------------------------------------------------------- */

static int remove_moved(int data, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(moved); i++) {
		int r = rmtree(data, moved[i]);
		if (r < 0)
			return err_sys_code(err, r, "removing %s", moved[i]);
	}
	return fsync(data) < 0 ? err_sys(err, "writing to the disk") : 0;
}

static int mark(const struct restore *x, struct err *err)
{
	auto_fd fd = openat(x->aside, MOVING, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? err_sys(err, "making " ASIDE "/" MOVING) : 0;
}

static int move_one(const struct restore *x, int data, const char *name, struct err *err)
{
	/* The database is there, whatever happens to the machine, only where all others are. */
	if (str_eq(name, BACKUP_DATABASE_FILE) && fsync(data) < 0)
		return err_sys(err, "writing to the disk");
	if (renameat(x->aside, name, data, name) < 0 && errno != ENOENT)
		return err_sys(err, "moving %s to its place", name);
	return 0;
}

/* Everything is on the disk before anything is in its place. */
static int move_in(const struct restore *x, int data, struct err *err)
{
	int r = mark(x, err);

	if (r == 0 && syncfs(x->aside) < 0)
		r = err_sys(err, "writing to the disk");
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(moved); i++)
		r = move_one(x, data, moved[i], err);
	if (r == 0 && fsync(data) < 0)
		r = err_sys(err, "writing to the disk");
	if (r < 0)
		(void)!remove_moved(data, NULL);
	return r;
}

static int own_database(const struct restore *x, struct err *err)
{
	auto_fd fd = openat(x->aside, BACKUP_DATABASE_FILE, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 || fchmod(fd, 0600) < 0)
		return err_sys(err, "opening the restored database");
	return give_away(x, fd, "the database", err);
}

static int extract(struct restore *x, int file, int data, struct backup_restored *ret, struct err *err)
{
	const struct backup_sink sink = { on_member, on_content, x };
	struct backup_info again;
	int r = is_half(data) ? remove_moved(data, err) : 0;

	if (r < 0)
		return r;
	if (rmtree(data, ASIDE) < 0 || mkdirat(data, ASIDE, 0700) < 0)
		return err_sys(err, "making %s/" ASIDE, x->s->data_dir);
	x->aside = openat(data, ASIDE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (x->aside < 0)
		return err_sys(err, "opening %s/" ASIDE, x->s->data_dir);
	r = read_backup(x, file, &sink, &again, err);
	r = r < 0 ? r : mend_database(x, ret, err);
	r = r < 0 ? r : own_database(x, err);
	return r < 0 ? r : move_in(x, data, err);
}

int backup_restore(const struct backup_restore *s, struct backup_restored *ret, struct err *err)
{
	struct restore x = { .s = s, .aside = -1, .fd = -1 };
	auto_fd file = open(s->file, O_RDONLY | O_CLOEXEC);
	auto_fd data = open(s->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mode_t mask = umask(0077);
	bool empty = false;
	int r = file < 0 ? err_sys(err, "%s", s->file) : data < 0 ? err_sys(err, "%s", s->data_dir) : 0;

	*ret = (struct backup_restored){ 0 };
	r = r < 0 ? r : backup_is_empty(s->data_dir, &empty, err);
	if (r == 0 && !empty)
		r = err_set(err, -ENOTEMPTY, "%s is not empty: a backup is restored into an empty data directory", s->data_dir);
	r = r < 0 ? r : read_backup(&x, file, NULL, &ret->info, err);
	r = r < 0 ? r : check_room(&x, &ret->info, err);
	if (r == 0) {
		r = extract(&x, file, data, ret, err);
		(void)!rmtree(data, ASIDE);
	}
	fd_close(x.fd);
	fd_close(x.aside);
	free(x.name);
	umask(mask);
	return r;
}
