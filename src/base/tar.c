#include "base/tar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define OCTAL_MAX 077777777777ull /* what 11 octal digits hold */
#define EXTENDED_MAX (64u * 1024)

struct ustar { /* POSIX.1-1988 */
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct ustar) == TAR_BLOCK, "a tar header is one block");

static unsigned sum_of(const struct ustar *h)
{
	const unsigned char *bytes = (const unsigned char *)h;
	unsigned sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++) {
		bool in_checksum = i >= offsetof(struct ustar, checksum) && i < offsetof(struct ustar, type);
		sum += in_checksum ? ' ' : bytes[i];
	}
	return sum;
}

/* -- writing ------------------------------------------------------------------------------------------------------- */

/* Digits and a NUL; what does not fit is the caller's error. */
static void octal(char *field, size_t size, uint64_t v)
{
	field[size - 1] = '\0';
	for (size_t i = size - 1; i > 0; v >>= 3)
		field[--i] = (char)('0' + (v & 7));
}

static int put_ustar(struct buf *ret, const struct tar_member *m, char type)
{
	struct ustar h = { 0 };

	memcpy(h.name, m->name, MIN(strlen(m->name), sizeof(h.name)));
	octal(h.mode, sizeof(h.mode), m->mode & 07777);
	octal(h.uid, sizeof(h.uid), 0);
	octal(h.gid, sizeof(h.gid), 0);
	octal(h.size, sizeof(h.size), m->size <= OCTAL_MAX ? m->size : 0);
	octal(h.mtime, sizeof(h.mtime), m->mtime_s > 0 ? (uint64_t)m->mtime_s : 0);
	h.type = type;
	memcpy(h.magic, "ustar", 6);
	memcpy(h.version, "00", 2);
	if (m->link)
		memcpy(h.link, m->link, MIN(strlen(m->link), sizeof(h.link)));
	octal(h.checksum, sizeof(h.checksum) - 1, sum_of(&h));
	h.checksum[7] = ' ';
	return buf_append(ret, &h, TAR_BLOCK);
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts its own digits. */
static int record(struct buf *b, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3, len = rest;

	for (size_t digits = 1; digits < 20; digits++) {
		len = rest + digits;
		if ((size_t)snprintf(NULL, 0, "%zu", len) == digits)
			break;
	}
	return buf_printf(b, "%zu %s=%s\n", len, key, value);
}

static size_t padding_of(uint64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

static int put_zeros(struct buf *ret, size_t n)
{
	static const char zeros[2 * TAR_BLOCK];

	return buf_append(ret, zeros, n);
}

/* type: 'x' for the member that follows, 'g' for all of them. */
static int put_records(struct buf *ret, char type, const struct buf *records)
{
	const struct tar_member m = { .name = "PaxHeaders/x", .mode = 0644, .size = records->len };
	int r = put_ustar(ret, &m, type);

	r = r < 0 ? r : buf_append(ret, records->data, records->len);
	return r < 0 ? r : tar_pad(ret, records->len);
}

int tar_header(struct buf *ret, const struct tar_member *m)
{
	auto_buf struct buf b = { 0 };
	char digits[24];
	int r = 0;

	buf_init(&b, BUF_UNLIMITED);
	if (strlen(m->name) > sizeof(((struct ustar *)0)->name))
		r = record(&b, "path", m->name);
	if (r == 0 && m->link && strlen(m->link) > sizeof(((struct ustar *)0)->link))
		r = record(&b, "linkpath", m->link);
	snprintf(digits, sizeof(digits), "%llu", (unsigned long long)m->size);
	if (r == 0 && m->size > OCTAL_MAX)
		r = record(&b, "size", digits);
	if (r == 0 && b.len)
		r = put_records(ret, 'x', &b);
	return r < 0 ? r : put_ustar(ret, m, (char)m->type);
}

int tar_comment(struct buf *ret, const char *text)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, EXTENDED_MAX);
	int r = record(&b, "comment", text);
	return r < 0 ? r : put_records(ret, 'g', &b);
}

int tar_pad(struct buf *ret, uint64_t size)
{
	return put_zeros(ret, padding_of(size));
}

int tar_end(struct buf *ret)
{
	return put_zeros(ret, 2 * TAR_BLOCK);
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

enum reading { HEADER, EXTENDED, SKIPPED, CONTENT, PADDING, ENDED };

struct tar_reader {
	struct tar_events events;
	void *arg;
	enum reading state;
	uint64_t position;
	uint64_t left;      /* bytes of what is being read */
	uint64_t size;      /* of the same */
	struct buf block;   /* a header, or extended records, as far as they came */
	char *name;         /* of the extended header; NULL = none */
	uint64_t long_size; /* the same; UINT64_MAX = none */
	unsigned empty;     /* blocks of zeros in a row */
};

struct tar_reader *tar_reader_new(const struct tar_events *events, void *arg)
{
	struct tar_reader *r = NEW(struct tar_reader);

	r->events = *events;
	r->arg = arg;
	r->left = TAR_BLOCK;
	r->long_size = UINT64_MAX;
	buf_init(&r->block, EXTENDED_MAX);
	return r;
}

struct tar_reader *tar_reader_free(struct tar_reader *r)
{
	if (!r)
		return NULL;
	buf_done(&r->block);
	free(r->name);
	free(r);
	return NULL;
}

bool tar_ended(const struct tar_reader *r)
{
	return r->state == ENDED;
}

uint64_t tar_position(const struct tar_reader *r)
{
	return r->position;
}

static int bad(const struct tar_reader *r, struct err *err, const char *what)
{
	return err_set(err, -EINVAL, "%s, before byte %llu", what, (unsigned long long)r->position);
}

/* Octal digits up to a NUL or a blank. */
static int number(const char *field, size_t size, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		v = v << 3 | (uint64_t)(field[i] - '0');
	if (i == 0 || (i < size && field[i] && field[i] != ' '))
		return -EINVAL;
	*ret = v;
	return 0;
}

static void next(struct tar_reader *r, enum reading state, uint64_t left)
{
	r->state = state;
	r->left = left;
	buf_clear(&r->block);
}

static void after_content(struct tar_reader *r)
{
	size_t padding = padding_of(r->size);

	next(r, padding ? PADDING : HEADER, padding ? padding : TAR_BLOCK);
}

static int on_member(struct tar_reader *r, const struct ustar *h, uint64_t size, struct err *err)
{
	char short_name[sizeof(h->name) + 1] = "";
	auto_free char *name = STEAL(r->name);
	uint64_t mode, mtime;

	memcpy(short_name, h->name, sizeof(h->name));
	if (r->long_size != UINT64_MAX)
		size = r->long_size;
	r->long_size = UINT64_MAX;
	if (number(h->mode, sizeof(h->mode), &mode) < 0 || number(h->mtime, sizeof(h->mtime), &mtime) < 0)
		return bad(r, err, "a header that makes no sense");
	if ((h->type != TAR_FILE && h->type != TAR_FOLDER) || (h->type == TAR_FOLDER && size))
		return bad(r, err, "a member that is neither a file nor a folder");
	struct tar_member m = { .name = name ? name : short_name, .type = (enum tar_type)h->type, .mode = (mode_t)(mode & 07777),
				.size = size, .mtime_s = (int64_t)mtime };
	int e = r->events.member(r->arg, &m, err);
	if (e < 0)
		return e;
	r->size = size;
	if (size)
		next(r, CONTENT, size);
	else
		next(r, HEADER, TAR_BLOCK);
	return 0;
}

static int on_header(struct tar_reader *r, struct err *err)
{
	static const struct ustar zeros;
	struct ustar h;
	uint64_t checksum, size;

	memcpy(&h, r->block.data, TAR_BLOCK);
	if (!memcmp(&h, &zeros, TAR_BLOCK)) {
		next(r, ++r->empty == 2 ? ENDED : HEADER, TAR_BLOCK);
		return 0;
	}
	if (r->empty || memcmp(h.magic, "ustar", 6) != 0 || number(h.checksum, sizeof(h.checksum), &checksum) < 0 ||
	    checksum != sum_of(&h) || number(h.size, sizeof(h.size), &size) < 0)
		return bad(r, err, "what should be a header is none");
	if (h.type != 'x' && h.type != 'g')
		return on_member(r, &h, size, err);
	if (!size || size > EXTENDED_MAX)
		return bad(r, err, "an extended header of a senseless size");
	r->size = size;
	next(r, h.type == 'x' ? EXTENDED : SKIPPED, size);
	return 0;
}

/* One "LENGTH KEY=VALUE\n" at p, of which there are len bytes; returns how many it has, 0 = it makes no sense. */
static size_t on_record(struct tar_reader *r, const char *p, size_t len)
{
	char *blank;
	unsigned long long n = strtoull(p, &blank, 10);
	const char *equals = memchr(p, '=', len);

	if (*blank != ' ' || n < 5 || n > len || !equals || equals >= p + n || p[n - 1] != '\n')
		return 0;
	const char *key = blank + 1;
	size_t key_len = (size_t)(equals - key), value_len = (size_t)(p + n - 1 - (equals + 1));
	auto_free char *value = xstrndup(equals + 1, value_len);
	if (strlen(value) != value_len)
		return 0;
	if (key_len == 4 && !memcmp(key, "path", 4) && value_len <= TAR_NAME_MAX) {
		free(r->name);
		r->name = STEAL(value);
	} else if (key_len != 4 || memcmp(key, "size", 4) != 0 || str_to_u64(value, &r->long_size) < 0) {
		return 0;
	}
	return n;
}

static int on_records(struct tar_reader *r, struct err *err)
{
	size_t at = 0;

	while (at < r->block.len) {
		size_t n = on_record(r, r->block.data + at, r->block.len - at);
		if (!n)
			return bad(r, err, "an extended header that makes no sense");
		at += n;
	}
	after_content(r);
	return 0;
}

/* A part that has been read to its end. */
static int on_whole(struct tar_reader *r, struct err *err)
{
	switch (r->state) {
	case HEADER: return on_header(r, err);
	case EXTENDED: return on_records(r, err);
	case SKIPPED:
	case CONTENT: after_content(r); return 0;
	case PADDING: next(r, HEADER, TAR_BLOCK); return 0;
	case ENDED: next(r, ENDED, TAR_BLOCK); return 0;
	}
	return 0;
}

static bool all_zero(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static int on_piece(struct tar_reader *r, const char *p, size_t len, struct err *err)
{
	if (r->state == CONTENT)
		return r->events.content(r->arg, p, len, err);
	if (r->state == ENDED && !all_zero(p, len))
		return bad(r, err, "something behind the end of the archive");
	if (r->state == HEADER || r->state == EXTENDED)
		return buf_append(&r->block, p, len);
	return 0;
}

int tar_read(struct tar_reader *r, const char *p, size_t len, struct err *err)
{
	while (len) {
		size_t n = (size_t)MIN(r->left, (uint64_t)len);
		r->position += n;
		int e = on_piece(r, p, n, err);
		r->left -= n;
		if (e == 0 && r->left == 0)
			e = on_whole(r, err);
		if (e < 0)
			return e;
		p += n;
		len -= n;
	}
	return 0;
}
