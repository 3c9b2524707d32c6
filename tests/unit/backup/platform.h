/* A data directory with something of everything in it, backed up and restored. Included once by a test. */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backup/backup.h"
#include "backup/private.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "loop/loop.h"
#include "store/envset.h"
#include "store/store.h"

static char base[64];

static inline void run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "%s", argv[0]);
}

static inline void put(const char *path, const char *text, mode_t mode)
{
	auto_free char *folder = xstrdup(path);
	struct err err;

	*strrchr(folder, '/') = '\0';
	cr_assert_eq(fd_mkdirs(folder, 0750, &err), 0, "%s", err.msg);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	cr_assert_eq(fchmod(fd, mode), 0);
	close(fd);
}

static inline bool is_there(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static inline void with_store(const char *data, void (*fn)(struct store *s))
{
	auto_free char *path = xasprintf("%s/openreward.db", data);
	struct loop *l = NULL;
	struct store *s = NULL;
	struct err err = ERR_INIT;

	cr_assert_eq(loop_new(&l, &err), 0);
	cr_assert_eq(store_open(&s, l, path, &err), 0, "%s", err.msg);
	fn(s);
	store_free(s);
	loop_free(l);
}

static char ids[6][STORE_ID_LEN]; /* of the deployments below */

static inline struct store_deployment *deployment(struct store *s, struct store_environment *e, size_t i,
					   enum store_deployment_state state, bool source)
{
	struct store_deployment *d = store_deployment_add(s, e, NULL, "folder");

	memcpy(ids[i], d->id, STORE_ID_LEN);
	d->state = state;
	store_set_str(&d->image, "localhost/some/image:tag");
	store_deployment_save(s, d);
	auto_free char *tar = xasprintf("data/builds/%s/source.tar", d->id), *log = xasprintf("data/builds/%s/log", d->id);
	put(log, "STEP 1\n", 0640);
	if (source)
		put(tar, "no tar, but nobody looks", 0640);
	return d;
}

static inline void fill_store(struct store *s)
{
	static const unsigned char hash[STORE_HASH_LEN] = { 7 };
	struct store_namespace *ns;
	struct store_environment *e;
	struct store_key *k;
	struct err err = ERR_INIT;

	cr_assert_eq(store_namespace_add(s, "local", "org", &ns, &err), 0);
	cr_assert_eq(store_key_add(s, &(struct store_key_spec){ .ns = ns, .label = "mine", .role = STORE_ROLE_ADMIN }, hash, &k, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "served", &e, &err), 0);
	deployment(s, e, 0, STORE_DEPLOYMENT_STOPPED, true);
	deployment(s, e, 1, STORE_DEPLOYMENT_DRAINING, true);
	deployment(s, e, 2, STORE_DEPLOYMENT_READY, true);
	auto_json changes = json_pack("{s: {s: s}}", "build_secrets", "TOKEN", "s3cret");
	cr_assert_eq(envset_change(s, e, changes, &err), 0, "%s", err.msg);
	cr_assert_eq(store_environment_add(s, ns, "sourceless", &e, &err), 0);
	deployment(s, e, 3, STORE_DEPLOYMENT_READY, false);
	cr_assert_eq(store_environment_add(s, ns, "on-its-way", &e, &err), 0);
	deployment(s, e, 4, STORE_DEPLOYMENT_READY, true);
	deployment(s, e, 5, STORE_DEPLOYMENT_DEPLOYING, true);
}

static inline void set_up(void)
{
	snprintf(base, sizeof(base), "/tmp/test-backup-XXXXXX");
	cr_assert_not_null(mkdtemp(base));
	cr_assert_eq(chdir(base), 0);
	put("data/admin.key", "orw_key\n", 0600);
	with_store("data", fill_store);
	cr_assert_eq(mkdir("data/run", 0750), 0);
	put("data/git/local/served.git/HEAD", "ref: refs/heads/main\n", 0640);
	put("data/git/local/served.git/refs/heads/main", "1234\n", 0640);
	put("data/git/local/served.git/refs/heads/main.lock", "half", 0640);
	put("data/git/local/served.git/packed-refs", "# pack-refs\n", 0640);
	put("data/git/local/served.git/objects/12/34", "an object", 0440);
	put("data/git/local/served.git/objects/pack/p.pack", "a pack", 0440);
	put("data/git/local/served.git/objects/pack/tmp_pack_x", "half a pack", 0440);
	cr_assert_eq(mkdir("data/git/local/served.git/objects/info", 0750), 0);
	put("data/git/.github/some-id.git/HEAD", "ref: refs/heads/main\n", 0640);
	put("data/git/.hooks/post-receive", "#!/bin/sh\n", 0750);
	put("data/buckets/id/a b/\xc3\xa4", "a file", 0644);
	put("data/buckets/.aside/half", "half", 0644);
	cr_assert_eq(symlink("/etc/passwd", "data/buckets/id/link"), 0);
	cr_assert_eq(mkfifo("data/buckets/id/pipe", 0600), 0);
}

static inline void tear_down(void)
{
	cr_assert_eq(chdir("/"), 0);
	run((char *[]){ "rm", "-rf", base, NULL });
}

static inline void backup(const char *to, bool buckets)
{
	const struct backup_settings s = { .data_dir = "data", .buckets = buckets };
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct err err = ERR_INIT;
	bool begun = false;

	cr_assert_geq(fd, 0);
	cr_assert_eq(backup_write(fd, &s, &begun, &err), 0, "%s", err.msg);
	cr_assert(begun);
	close(fd);
	cr_assert_not(is_there("data/run/backup.db"));
}

static inline int restore(const char *file, struct backup_restored *ret, struct err *err)
{
	const struct backup_restore s = { .file = file, .data_dir = "new", .uid = (uid_t)-1, .gid = (gid_t)-1 };

	if (!is_there("new"))
		cr_assert_eq(mkdir("new", 0755), 0);
	return backup_restore(&s, ret, err);
}

/* Refused, with these words; nothing is left in the target. */
static inline void refused(const char *file, int code, const char *words)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	cr_assert_eq(restore(file, &r, &err), code, "%s", err.msg);
	cr_assert_not_null(strstr(err.msg, words), "\"%s\" is not in: %s", words, err.msg);
	cr_assert_eq(rmdir("new"), 0, "something was left: %s", strerror(errno));
}

static inline struct buf read_file(const char *path)
{
	struct buf b;
	struct err err;

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(fd_read_file(path, &b, &err), 0, "%s", err.msg);
	return b;
}

static inline void write_file(const char *path, const struct buf *b)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, b->data, b->len), 0);
	close(fd);
}

static inline void same(const char *path)
{
	auto_free char *before = xasprintf("data/%s", path), *after = xasprintf("new/%s", path);
	auto_buf struct buf a = read_file(before), b = read_file(after);
	struct stat sa, sb;

	cr_assert(a.len == b.len && !memcmp(a.data, b.data, a.len), "%s", path);
	cr_assert(stat(before, &sa) == 0 && stat(after, &sb) == 0);
	cr_assert_eq(sa.st_mode, sb.st_mode, "%s", path);
	cr_assert_eq(sa.st_mtim.tv_sec, sb.st_mtim.tv_sec, "%s", path);
}

static inline void look(struct store *s)
{
	static const enum store_deployment_state expected[] = {
		STORE_DEPLOYMENT_STOPPED, STORE_DEPLOYMENT_STOPPED, STORE_DEPLOYMENT_QUEUED,
		STORE_DEPLOYMENT_STOPPED, STORE_DEPLOYMENT_STOPPED, STORE_DEPLOYMENT_QUEUED,
	};
	static const unsigned char hash[STORE_HASH_LEN] = { 7 };
	struct store_environment *e = store_environment_find(s, "local", "served");

	cr_assert_not_null(store_key_by_hash(s, hash));
	cr_assert_not_null(e);
	cr_assert_str_eq(envset_text(e, ENVSET_BUILD_SECRETS), "{\"TOKEN\":\"s3cret\"}");
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		struct store_deployment *d = store_deployment_by_id(s, ids[i]);
		cr_assert_not_null(d);
		cr_assert_eq(d->state, expected[i], "%zu is %s", i, store_deployment_state_name(d->state));
		cr_assert_str_eq(d->image, "", "no image came along");
	}
	cr_assert_not_null(strstr(store_deployment_by_id(s, ids[3])->reason, "deploy it again"));
}
