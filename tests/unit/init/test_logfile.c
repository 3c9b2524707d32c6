/* Lines of a server on their way into a log that others append to as well. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/logline.h"
#include "base/mem.h"
#include "init/logfile.h"

static char path[64];

static struct logfile *start(const char *id)
{
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	return logfile_new(fd, id, strlen(id) + 1); /* as it comes: with its NUL */
}

static void set_up(void)
{
	snprintf(path, sizeof(path), "/tmp/test-logfile-XXXXXX");
	int fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	close(fd);
}

static void tear_down(void)
{
	unlink(path);
}

TestSuite(logfile, .init = set_up, .fini = tear_down, .timeout = 20);

/* The texts of all lines, "|" between them; each has a head with one of the two tags. */
static char *texts(void)
{
	auto_buf struct buf b = { 0 }, out = { 0 };

	buf_init(&b, 16u << 20);
	buf_init(&out, 16u << 20);
	cr_assert_eq(fd_read_file(path, &b, NULL), 0);
	char *rest = b.data ? b.data : (char *)"";
	for (char *line; *rest && (line = strsep(&rest, "\n"));) {
		size_t skip = logline_skip(line, strlen(line));
		cr_assert_eq(skip, LOGLINE_HEAD_LEN, "%s", line);
		cr_assert(!strncmp(line + TIME_ISO_LEN, "1a2b3c4d ", 9) || !strncmp(line + TIME_ISO_LEN, "00000000 ", 9), "%s", line);
		cr_assert_eq(buf_printf(&out, "%s%s", out.len ? "|" : "", line + skip), 0);
	}
	return xstrdup(out.data ? out.data : "");
}

Test(logfile, whole_lines_however_they_come)
{
	static const char *const pieces[] = { "on", "e\ntw", "o\n", "\n", "three\nfour" };
	struct logfile *l = start("0000-1a2b3c4d"), *other = start("1-00000000");

	for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
		logfile_add(l, pieces[i], strlen(pieces[i]));
		logfile_add(other, "x", 1);
	}
	auto_free char *so_far = texts();
	cr_assert_str_eq(so_far, "one|two||three", "no piece of a line");
	logfile_free(l);
	logfile_free(other);
	auto_free char *all = texts();
	cr_assert_str_eq(all, "one|two||three|four|xxxxx");
}

Test(logfile, long_lines_and_many_lines)
{
	struct logfile *l = start("1a2b3c4d");
	auto_free char *big = xmalloc(200000);

	memset(big, 'a', 200000);
	logfile_add(l, big, 200000);
	logfile_add(l, "\n", 1);
	for (size_t i = 0; i < 200000; i += 2)
		memcpy(big + i, "b\n", 2);
	logfile_add(l, big, 200000);
	logfile_free(l);
	auto_free char *all = texts();
	size_t a = 0, lines = 1;
	for (const char *p = all; *p; p++) {
		a += *p == 'a';
		lines += *p == '|';
	}
	cr_assert_eq(a, 200000, "nothing of a long line is lost");
	cr_assert_eq(lines, 100000 + 200000 / LOGFILE_LINE_MAX + 1);
}

Test(logfile, heads_are_told_from_text)
{
	static const struct {
		const char *line;
		size_t skip;
	} lines[] = {
		{ "2026-01-02T03:04:05.678Z 1a2b3c4d text", LOGLINE_HEAD_LEN }, { "2026-01-02T03:04:05.678Z 1a2b3c4d ", LOGLINE_HEAD_LEN },
		{ "2026-01-02T03:04:05.678Z deadbeef", TIME_ISO_LEN },         { "2026-01-02T03:04:05.678Z some text", TIME_ISO_LEN },
		{ "2026-01-02T03:04:05.678Z", 0 },                             { "text", 0 }, { "", 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		cr_assert_eq(logline_skip(lines[i].line, strlen(lines[i].line)), lines[i].skip, "%s", lines[i].line);
}
