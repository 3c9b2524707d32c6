/* The codec of archives: what is written is read again, however it is cut, and by tar itself; damage is named. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/tar.h"

static struct buf archive, seen; /* seen: what the reader told, a line each */
static int refuse_with;          /* what the events return */

static void set_up(void)
{
	buf_init(&archive, BUF_UNLIMITED);
	buf_init(&seen, BUF_UNLIMITED);
	refuse_with = 0;
}

static void tear_down(void)
{
	buf_done(&archive);
	buf_done(&seen);
}

TestSuite(tar, .init = set_up, .fini = tear_down, .timeout = 60);

static void put(const char *name, enum tar_type type, mode_t mode, const char *content)
{
	const struct tar_member m = { .name = name, .type = type, .mode = mode, .size = strlen(content), .mtime_s = 1700000000 };

	cr_assert_eq(tar_header(&archive, &m), 0);
	cr_assert_eq(buf_puts(&archive, content), 0);
	cr_assert_eq(tar_pad(&archive, m.size), 0);
}

static int on_member(void *arg, const struct tar_member *m, struct err *err)
{
	cr_assert_eq(arg, &seen);
	cr_assert_null(m->link);
	cr_assert_eq(buf_printf(&seen, "\n%c %o %llu %lld %s:", m->type, (unsigned)m->mode, (unsigned long long)m->size,
				(long long)m->mtime_s, m->name), 0);
	return refuse_with ? err_set(err, refuse_with, "not wanted") : 0;
}

static int on_content(void *arg, const char *p, size_t len, struct err *err)
{
	cr_assert_eq(arg, &seen);
	cr_assert_eq(buf_append(&seen, p, len), 0);
	return refuse_with ? err_set(err, refuse_with, "not wanted") : 0;
}

/* In pieces of at most step bytes; what the reader returned first. */
static int read_all(size_t step, bool *ret_ended, struct err *err)
{
	static const struct tar_events events = { on_member, on_content };
	AUTO(tar_reader_freep) struct tar_reader *r = tar_reader_new(&events, &seen);
	int e = 0;

	buf_clear(&seen);
	cr_assert_eq(buf_puts(&seen, ""), 0);
	for (size_t at = 0; e == 0 && at < archive.len; at += step)
		e = tar_read(r, archive.data + at, MIN(step, archive.len - at), err);
	*ret_ended = tar_ended(r);
	if (e == 0)
		cr_assert_eq(tar_position(r), archive.len);
	return e;
}

static char *long_name(size_t len)
{
	char *name = xmalloc(len + 1);

	memset(name, 'n', len);
	name[len / 2] = '/';
	name[len] = '\0';
	return name;
}

static void fill(void)
{
	auto_free char *hundred = long_name(100), *longer = long_name(101), *longest = long_name(4000);

	put("folder/", TAR_FOLDER, 0750, "");
	put("folder/file", TAR_FILE, 0644, "what it holds");
	put("empty", TAR_FILE, 0400, "");
	cr_assert_eq(tar_comment(&archive, "nothing to see"), 0);
	put(hundred, TAR_FILE, 0600, "x");
	put(longer, TAR_FILE, 0600, "y");
	put(longest, TAR_FILE, 0600, "z");
	put("\xc3\xa4 name", TAR_FILE, 0600, "u");
	cr_assert_eq(tar_end(&archive), 0);
}

Test(tar, what_is_written_is_read_however_it_is_cut)
{
	static const size_t steps[] = { 1, 7, 511, 512, 513, 100000 };
	auto_free char *first = NULL;
	struct err err = ERR_INIT;
	bool ended = false;

	fill();
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		cr_assert_eq(read_all(steps[i], &ended, &err), 0, "%s", err.msg);
		cr_assert(ended);
		if (!first)
			first = xstrdup(seen.data);
		cr_assert_str_eq(seen.data, first, "in pieces of %zu", steps[i]);
	}
	cr_assert(str_starts(first, "\n5 750 0 1700000000 folder/:\n0 644 13 1700000000 folder/file:what it holds\n0 400 0 1700000000 empty:\n"
				    "0 600 1 1700000000 nnnn"), "%s", first);
	cr_assert_not_null(strstr(first, ":y\n"));
	cr_assert(str_ends(first, " \xc3\xa4 name:u"));
}

Test(tar, another_program_reads_it)
{
	char path[] = "/tmp/test-tar-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC), ends[2], status;
	auto_buf struct buf out = { 0 };

	fill();
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, archive.data, archive.len), 0);
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], 1);
		execlp("tar", "tar", "-tf", path, NULL);
		_exit(127);
	}
	close(ends[1]);
	buf_init(&out, 1 << 20);
	cr_assert_eq(fd_read_to_end(ends[0], &out), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	close(ends[0]);
	close(fd);
	unlink(path);
	size_t lines = 0;
	for (size_t i = 0; i < out.len; i++)
		lines += out.data[i] == '\n';
	cr_assert_eq(lines, 7, "%s", out.data);
	cr_assert(str_starts(out.data, "folder/\nfolder/file\nempty\nnnn"));
}

Test(tar, sizes_beyond_eight_gib)
{
	const struct tar_member m = { .name = "big", .type = TAR_FILE, .mode = 0600, .size = 9ull << 30 };
	struct err err;
	bool ended;

	cr_assert_eq(tar_header(&archive, &m), 0);
	cr_assert_eq(read_all(1000, &ended, &err), 0);
	cr_assert_str_eq(seen.data, "\n0 600 9663676416 0 big:");
}

Test(tar, every_flipped_bit_of_a_header_is_noticed)
{
	struct err err;
	bool ended;

	put("file", TAR_FILE, 0644, "content");
	cr_assert_eq(tar_end(&archive), 0);
	for (size_t i = 0; i < TAR_BLOCK; i++) {
		if (i == 155) /* a blank behind the checksum's digits */
			continue;
		archive.data[i] ^= 4;
		cr_assert_eq(read_all(100, &ended, &err), -EINVAL, "byte %zu", i);
		cr_assert_not_null(strstr(err.msg, "before byte"), "%s", err.msg);
		archive.data[i] ^= 4;
	}
	cr_assert_eq(read_all(100, &ended, &err), 0);
}

Test(tar, an_end_in_the_middle_is_no_end)
{
	struct err err;
	bool ended;

	fill();
	size_t whole = archive.len;
	for (archive.len = 0; archive.len < whole; archive.len += 100) {
		cr_assert_eq(read_all(4096, &ended, &err), 0);
		cr_assert_not(ended);
	}
	archive.len = whole;
	cr_assert_eq(buf_puts(&archive, "more"), 0);
	cr_assert_eq(read_all(4096, &ended, &err), -EINVAL);
}

Test(tar, other_members_are_refused)
{
	const struct tar_member m = { .name = "link", .type = TAR_LINK, .mode = 0777, .link = "/etc/passwd" };
	struct err err;
	bool ended;

	cr_assert_eq(tar_header(&archive, &m), 0);
	cr_assert_eq(read_all(512, &ended, &err), -EINVAL);
	cr_assert_not_null(strstr(err.msg, "neither a file nor a folder"));
}

Test(tar, what_an_event_returns_ends_it)
{
	struct err err;
	bool ended;

	fill();
	refuse_with = -EDOM;
	cr_assert_eq(read_all(512, &ended, &err), -EDOM);
	cr_assert_str_eq(err.msg, "not wanted");
}
