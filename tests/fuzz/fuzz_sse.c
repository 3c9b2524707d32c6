/* Server-sent events, both ways. What the splitter cuts of a JSON text is the same text again for a reader that strips each
 * line and decodes it on its own, as clients do; and the command line's reader of events takes any bytes as lines. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "http/sse.h"
#include "http/sse_split.h"
#include "json/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static bool take_piece(struct sse_split *s, bool final, struct buf *joined)
{
	bool last = false;
	size_t n = sse_split_next(s, final, &last);

	check(n <= SSE_PIECE_MAX && !memchr(s->text.data, '\n', n) && !memchr(s->text.data, '\r', n));
	check(buf_append(joined, s->text.data, n) == 0);
	sse_split_take(s, n);
	return final ? !last : n > 0;
}

/* In steps of `step` bytes. */
static void split(const char *p, size_t len, size_t step, struct buf *joined)
{
	struct sse_split s;

	sse_split_init(&s);
	for (size_t at = 0; at < len;) {
		size_t n = MIN(step, len - at);
		while (!sse_split_hungry(&s) && take_piece(&s, false, joined))
			;
		sse_split_add(&s, p + at, n);
		at += n;
	}
	for (unsigned guard = 0; take_piece(&s, true, joined); guard++)
		check(guard < 1u << 20);
	sse_split_done(&s);
}

static void splitter(const char *p, size_t len, size_t step)
{
	auto_json before = NULL;
	auto_json after = NULL;
	auto_buf struct buf joined;

	buf_init(&joined, BUF_UNLIMITED);
	bool valid = json_read(&before, p, len, NULL) == 0;
	split(p, len, step, &joined);
	if (valid)
		check(json_read(&after, joined.data, joined.len, NULL) == 0 && json_equal(before, after));
}

static void reader(const char *p, size_t len)
{
	struct cli_events e;
	struct cli_progress progress;

	cli_events_init(&e, 4096);
	cli_progress_init(&progress, NULL);
	for (const char *end = p + len; p < end;) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		size_t n = stop ? (size_t)(stop - p) : (size_t)(end - p);
		auto_free char *line = xstrndup(p, n);
		cli_events_line(&e, line, strlen(line));
		cli_progress_line(&progress, line, strlen(line));
		p += n + 1;
	}
	check(e.json.len <= 4096);
	cli_events_done(&e);
	cli_progress_done(&progress);
}

/* A short input reaches the ends of pieces, too: as a list behind a text of up to 4 KiB. */
static void behind_padding(const char *p, size_t len, size_t padding, size_t step)
{
	static char pad[SSE_PIECE_MAX];
	auto_buf struct buf text;

	memset(pad, 'x', sizeof(pad));
	buf_init(&text, BUF_UNLIMITED);
	check(buf_puts(&text, "[\"") == 0 && buf_append(&text, pad, padding) == 0);
	check(buf_puts(&text, "\",") == 0 && buf_append(&text, p, len) == 0 && buf_puts(&text, "]") == 0);
	splitter(text.data, text.len, step);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2 || size > 60000)
		return 0;
	const char *p = (const char *)data + 2;
	size_t step = MIN((size_t)data[0] * 16 + 1, (size_t)SSE_SPLIT_MAX / 2);
	if (data[1])
		behind_padding(p, size - 2, SSE_PIECE_MAX - data[1], step);
	else
		splitter(p, size - 2, step);
	reader(p, size - 2);
	return 0;
}
