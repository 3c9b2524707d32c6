/* Our reader of archives: the same members and contents whatever pieces the bytes come in, and sizes that are kept. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	uint64_t hash, members, content, left;
};

static void mix(struct seen *s, const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s->hash = (s->hash ^ ((const unsigned char *)p)[i]) * 0x100000001b3u;
}

static int on_member(void *arg, const struct tar_member *m, struct err *err UNUSED)
{
	struct seen *s = arg;

	if (!m->name || strlen(m->name) > TAR_NAME_MAX || s->left || (m->type != TAR_FILE && m->size))
		abort();
	mix(s, m->name, strlen(m->name) + 1);
	s->members++;
	s->left = m->size;
	return 0;
}

static int on_content(void *arg, const char *p, size_t len, struct err *err UNUSED)
{
	struct seen *s = arg;

	if (len > s->left)
		abort();
	s->left -= len;
	s->content += len;
	mix(s, p, len);
	return 0;
}

static int read_all(const char *p, size_t len, size_t step, struct seen *s)
{
	static const struct tar_events events = { .member = on_member, .content = on_content };
	AUTO(tar_reader_freep) struct tar_reader *r = tar_reader_new(&events, s);
	int status = 0;

	for (size_t at = 0; status == 0 && at < len; at += step)
		status = tar_read(r, p + at, MIN(step, len - at), NULL);
	return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen whole = { 0 }, cut = { 0 };

	if (size < 1)
		return 0;
	int a = read_all((const char *)data + 1, size - 1, SIZE_MAX / 2, &whole);
	int b = read_all((const char *)data + 1, size - 1, (size_t)data[0] + 1, &cut);
	if (a != b || (a == 0 && (whole.hash != cut.hash || whole.members != cut.members || whole.content != cut.content)))
		abort();
	return 0;
}
