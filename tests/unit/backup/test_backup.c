/* Backups: what is written comes back, and nothing that is damaged, foreign, newer or hostile gets in. */
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

static void run(char *const argv[])
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

static void put(const char *path, const char *text, mode_t mode)
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

static bool is_there(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static void with_store(const char *data, void (*fn)(struct store *s))
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

static struct store_deployment *deployment(struct store *s, struct store_environment *e, size_t i,
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

static void fill_store(struct store *s)
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

static void set_up(void)
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

static void tear_down(void)
{
	cr_assert_eq(chdir("/"), 0);
	run((char *[]){ "rm", "-rf", base, NULL });
}

TestSuite(backup, .init = set_up, .fini = tear_down, .timeout = 120);

static void backup(const char *to, bool buckets)
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

static int restore(const char *file, struct backup_restored *ret, struct err *err)
{
	const struct backup_restore s = { .file = file, .data_dir = "new", .uid = (uid_t)-1, .gid = (gid_t)-1 };

	if (!is_there("new"))
		cr_assert_eq(mkdir("new", 0755), 0);
	return backup_restore(&s, ret, err);
}

/* Refused, with these words; nothing is left in the target. */
static void refused(const char *file, int code, const char *words)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	cr_assert_eq(restore(file, &r, &err), code, "%s", err.msg);
	cr_assert_not_null(strstr(err.msg, words), "\"%s\" is not in: %s", words, err.msg);
	cr_assert_eq(rmdir("new"), 0, "something was left: %s", strerror(errno));
}

static struct buf read_file(const char *path)
{
	struct buf b;
	struct err err;

	buf_init(&b, BUF_UNLIMITED);
	cr_assert_eq(fd_read_file(path, &b, &err), 0, "%s", err.msg);
	return b;
}

static void write_file(const char *path, const struct buf *b)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, b->data, b->len), 0);
	close(fd);
}

static void same(const char *path)
{
	auto_free char *before = xasprintf("data/%s", path), *after = xasprintf("new/%s", path);
	auto_buf struct buf a = read_file(before), b = read_file(after);
	struct stat sa, sb;

	cr_assert(a.len == b.len && !memcmp(a.data, b.data, a.len), "%s", path);
	cr_assert(stat(before, &sa) == 0 && stat(after, &sb) == 0);
	cr_assert_eq(sa.st_mode, sb.st_mode, "%s", path);
	cr_assert_eq(sa.st_mtim.tv_sec, sb.st_mtim.tv_sec, "%s", path);
}

static void look(struct store *s)
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

Test(backup, everything_comes_back)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("file", true);
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	same("admin.key");
	same("secrets.key");
	same("git/local/served.git/HEAD");
	same("git/local/served.git/refs/heads/main");
	same("git/local/served.git/objects/12/34");
	same("git/local/served.git/objects/pack/p.pack");
	same("git/.github/some-id.git/HEAD");
	same("buckets/id/a b/\xc3\xa4");
	cr_assert(is_there("new/git/local/served.git/objects/info"), "an empty folder is one, too");
	static const char *const not[] = {
		"git/local/served.git/refs/heads/main.lock", "git/local/served.git/objects/pack/tmp_pack_x", "git/.hooks",
		"buckets/.aside", "buckets/id/link", "buckets/id/pipe", "run", ".restore", "openreward.db-wal",
	};
	for (size_t i = 0; i < ARRAY_LEN(not); i++) {
		auto_free char *path = xasprintf("new/%s", not[i]);
		cr_assert_not(is_there(path), "%s", path);
	}
	struct stat st;
	cr_assert(stat("new/openreward.db", &st) == 0 && (st.st_mode & 0777) == 0600);
	cr_assert_eq(r.namespaces, 1);
	cr_assert_eq(r.keys, 1);
	cr_assert_eq(r.environments, 3);
	cr_assert_eq(r.rebuilt, 2);
	cr_assert_eq(r.imageless, 1);
	cr_assert_eq(r.info.parts[BACKUP_KEYS].files, 2);
	cr_assert_eq(r.info.parts[BACKUP_BUCKETS].files, 1);
	cr_assert_eq(r.info.changed, 0);
	with_store("new", look);
}

/* As an instance can make them: by names relative to where it is. */
static void nest(const char *top, char letter, size_t len, size_t n)
{
	char name[256] = { 0 };
	int at = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);

	memset(name, letter, len);
	for (size_t i = 0; i < n; i++) {
		int next;

		cr_assert_eq(mkdirat(at, name, 0755), 0);
		next = openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		close(at);
		at = next;
	}
	cr_assert_eq(mkfifoat(at, "not a file", 0600), 0);
	close(at);
}

Test(backup, what_no_restore_could_open_is_left_out)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	nest("data/buckets/id", 'd', 20, 600);
	nest("data/buckets/id", 'l', 250, 30);
	backup("b.tar", true);
	cr_assert_eq(restore("b.tar", &r, &err), 0, "%s", err.msg);
	cr_assert_eq(r.info.unreadable, 2);
	cr_assert(is_there("new/buckets/id/a b/\xc3\xa4"));
	cr_assert(is_there("new/buckets/id/dddddddddddddddddddd/dddddddddddddddddddd"));
}

Test(backup, buckets_are_a_choice)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("file", false);
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	cr_assert_eq(r.info.parts[BACKUP_BUCKETS].files, 0);
	cr_assert_not(is_there("new/buckets"));
}

Test(backup, a_target_that_is_in_use_is_refused)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("file", false);
	put("new/mine", "text", 0600);
	cr_assert_eq(restore("file", &r, &err), -ENOTEMPTY);
	cr_assert(is_there("new/mine") && !is_there("new/openreward.db"));
	cr_assert_eq(unlink("new/mine"), 0);
	put("new/.restore/half", "of one that was broken off", 0600);
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
}

Test(backup, every_end_in_the_middle_is_noticed)
{
	backup("file", true);
	auto_buf struct buf b = read_file("file");
	size_t whole = b.len;

	refused("data/admin.key", -EINVAL, "no backup");
	for (size_t n = 1; n < 12; n++) {
		b.len = whole * n / 12;
		write_file("cut", &b);
		refused("cut", -EINVAL, "ends in the middle");
	}
	b.len = whole - 1; /* the last zero of the end */
	write_file("cut", &b);
	refused("cut", -EINVAL, "ends in the middle");
	b.len = 0;
	write_file("cut", &b);
	refused("cut", -EINVAL, "no backup");
}

/* -- made smaller -------------------------------------------------------------------------------------------------- */

static int append(void *arg, const char *p, size_t len, struct err *err UNUSED)
{
	return buf_append(arg, p, len);
}

static struct buf squeezed(const char *file)
{
	auto_buf struct buf b = read_file(file);
	struct buf small;
	struct err err = ERR_INIT;

	buf_init(&small, BUF_UNLIMITED);
	struct backup_squeeze *s = backup_squeeze_new(append, &small);
	for (size_t at = 0; at < b.len; at += 1000)
		cr_assert_eq(backup_squeeze_feed(s, b.data + at, MIN((size_t)1000, b.len - at), &err), 0, "%s", err.msg);
	cr_assert_eq(backup_squeeze_end(s, &err), 0, "%s", err.msg);
	backup_squeeze_free(s);
	cr_assert_lt(small.len, b.len / 2);
	return small;
}

Test(backup, a_squeezed_one_comes_back)
{
	struct backup_restored r;
	struct err err = ERR_INIT;

	backup("plain", true);
	auto_buf struct buf small = squeezed("plain");
	write_file("file", &small);
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	same("git/local/served.git/objects/pack/p.pack");
	same("buckets/id/a b/\xc3\xa4");
	with_store("new", look);
}

/* A byte at a time, whole and cut and flipped anywhere. */
static int check(const struct buf *b, size_t len, struct err *err)
{
	AUTO(backup_check_freep) struct backup_check *c = backup_check_new("file");
	struct backup_info info;
	int r = 0;

	for (size_t i = 0; r == 0 && i < len; i++)
		r = backup_check_feed(c, b->data + i, 1, err);
	return r < 0 ? r : backup_check_end(c, &info, err);
}

Test(backup, a_squeezed_one_that_is_damaged_is_noticed)
{
	struct err err = ERR_INIT;
	size_t n = 0, same_all_the_same = 0;

	backup("plain", true);
	auto_buf struct buf b = squeezed("plain");
	cr_assert_eq(check(&b, b.len, &err), 0, "%s", err.msg);
	for (size_t len = 1; len < b.len; len += 997)
		cr_assert_eq(check(&b, len, &err), -EINVAL, "%zu of %zu", len, b.len);
	cr_assert_eq(check(&b, b.len - 1, &err), -EINVAL);
	for (size_t at = 16; at < b.len; at += 97, n++) {
		b.data[at] ^= 16;
		same_all_the_same += check(&b, b.len, &err) == 0; /* what is read is what was written: the bit means nothing */
		b.data[at] ^= 16;
	}
	cr_assert_lt(same_all_the_same, n / 10, "%zu of %zu", same_all_the_same, n);
}

Test(backup, of_a_server_that_does_not_run)
{
	const struct backup_settings s = { .data_dir = "data", .offline = true };
	int fd = open("file", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct backup_restored r;
	struct err err = ERR_INIT;
	bool begun = false;

	cr_assert_eq(backup_write(fd, &s, &begun, &err), 0, "%s", err.msg);
	close(fd);
	cr_assert_not(is_there("data/run/backup.lock"));
	cr_assert_eq(restore("file", &r, &err), 0, "%s", err.msg);
	with_store("new", look);
}

/* Of every block one bit. What is left out is padding, which nothing depends on. */
Test(backup, every_flipped_bit_is_noticed)
{
	auto_free struct backup_info *info = xcalloc(1, sizeof(*info));
	size_t unnoticed = 0, n = 0;

	backup("file", true);
	auto_buf struct buf b = read_file("file");
	for (size_t at = 300; at < b.len; at += 1511, n++) {
		struct err err = ERR_INIT;
		AUTO(backup_check_freep) struct backup_check *c = backup_check_new("file");
		char was = b.data[at];

		b.data[at] ^= 16;
		int r = backup_check_feed(c, b.data, b.len, &err);
		r = r < 0 ? r : backup_check_end(c, info, &err);
		if (r == 0) {
			unnoticed++;
			cr_assert_eq(was, 0, "byte %zu", at);
		}
		b.data[at] = was;
	}
	cr_assert_gt(n, 50);
	cr_assert_lt(unnoticed, n / 3);
}

static void replaced(const char *what, const char *with, const char *words, int code)
{
	auto_buf struct buf b = read_file("file");
	char *at = memmem(b.data, b.len, what, strlen(what));

	cr_assert_not_null(at);
	cr_assert_eq(strlen(what), strlen(with));
	memcpy(at, with, strlen(with));
	write_file("other", &b);
	refused("other", code, words);
}

Test(backup, what_a_newer_program_made_is_refused_with_both_versions)
{
	auto_free char *own = xasprintf("knows versions up to %d", store_schema_version());
	auto_free char *schema = xasprintf("\"schema\":%d", store_schema_version()), *newer = xasprintf("\"schema\":9");

	backup("file", false);
	replaced("\"format\":1", "\"format\":2", "in format 2", -EPROTONOSUPPORT);
	replaced("\"format\":1", "\"format\":2", "reads format 1", -EPROTONOSUPPORT);
	if (strlen(schema) == strlen(newer) && store_schema_version() < 9) {
		replaced(schema, newer, "has version 9", -EPROTONOSUPPORT);
		replaced(schema, newer, own, -EPROTONOSUPPORT);
	}
	replaced("\"format\":1", "\"format\":x", "no JSON", -EINVAL);
}

Test(backup, compressed_ones_are_told_how)
{
	static const struct buf gz = { .data = "\x1f\x8b\x08\x00some", .len = 8 };

	write_file("file.gz", &gz);
	refused("file.gz", -EINVAL, "unpack it first");
}

/* -- what a hostile one may try ------------------------------------------------------------------------------------- */

static void member(struct buf *b, const char *name, enum tar_type type, const char *content)
{
	const struct tar_member m = { .name = name, .type = type, .mode = 0644, .size = strlen(content) };

	cr_assert_eq(tar_header(b, &m), 0);
	cr_assert_eq(buf_puts(b, content), 0);
	cr_assert_eq(tar_pad(b, m.size), 0);
}

static void hostile(const char *name, enum tar_type type, const char *content, int code, const char *words)
{
	auto_free char *head =
		xasprintf("{\"format\":1,\"program\":\"0\",\"schema\":%d,\"created\":\"now\"}", store_schema_version());
	auto_buf struct buf b = { 0 };

	buf_init(&b, BUF_UNLIMITED);
	member(&b, BACKUP_HEAD, TAR_FILE, head);
	member(&b, name, type, content);
	cr_assert_eq(tar_end(&b), 0);
	write_file("hostile", &b);
	refused("hostile", code, words);
}

Test(backup, names_that_lead_out_are_refused)
{
	static const char *const names[] = {
		"../x", "/etc/x", "git/../../x", "git//x", "git/./x", "git/x/..", "git", "other/x", "openreward.db-wal", "run/x",
		"images/x", "admin.key/x", "git/a/../b", "",
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		hostile(names[i], TAR_FILE, "x", -EINVAL, "no name of a backup");
	hostile("git/x", TAR_FOLDER, "", -EINVAL, "no name of a backup");
	hostile("git/x/", TAR_FILE, "x", -EINVAL, "no name of a backup");
	hostile(BACKUP_FAILED, TAR_FILE, "the disk is broken\n", -EIO, "the server gave up: the disk is broken");
	hostile("git/x", TAR_FILE, "x", -EINVAL, "ends in the middle");
	hostile(BACKUP_MANIFEST, TAR_FILE, "{}", -EINVAL, "makes no sense");
}

/* -- failures of the writing ---------------------------------------------------------------------------------------- */

Test(backup, a_failure_before_the_first_byte_is_no_file)
{
	const struct backup_settings s = { .data_dir = "data" };
	int fd = open("file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct err err = ERR_INIT;
	bool begun = true;

	cr_assert_eq(unlink("data/openreward.db"), 0);
	cr_assert_lt(backup_write(fd, &s, &begun, &err), 0);
	cr_assert_not(begun);
	cr_assert_not_null(strstr(err.msg, "openreward.db"), "%s", err.msg);
	close(fd);
}

Test(backup, a_failure_in_the_middle_is_in_the_file)
{
	const struct backup_settings s = { .data_dir = "data" };
	int fd = open("file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct err err = ERR_INIT;
	bool begun = false;

	cr_assert_eq(unlink("data/admin.key"), 0);
	cr_assert_eq(backup_write(fd, &s, &begun, &err), -ENOENT);
	cr_assert(begun);
	close(fd);
	refused("file", -EIO, "gave up: opening admin.key");
}

Test(backup, one_at_a_time)
{
	const struct backup_settings s = { .data_dir = "data" };
	int fd = open("file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), ends[2];
	struct err err = ERR_INIT;
	bool begun = false;
	char byte;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) { /* hangs at its first full pipe */
		close(ends[0]);
		_exit(backup_write(ends[1], &s, &begun, &err) == -EPIPE);
	}
	close(ends[1]);
	cr_assert_eq(read(ends[0], &byte, 1), 1);
	cr_assert_eq(backup_write(fd, &s, &begun, &err), -EBUSY);
	cr_assert_not(begun);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(backup_write(fd, &s, &begun, &err), 0, "%s", err.msg);
	close(ends[0]);
	close(fd);
}
