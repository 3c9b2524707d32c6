/* Backups: what is written comes back, and nothing that is damaged, foreign, newer or hostile gets in. */
#include "unit/backup/platform.h"

TestSuite(backup, .init = set_up, .fini = tear_down, .timeout = 120);

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
