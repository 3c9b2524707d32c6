#include "sandbox/wire.h"

#include <errno.h>
#include <string.h>

#include "base/fd.h"

/* Before each field's bytes. Both are 8-aligned, so a u64 may be read in place on any machine. */
struct field {
	uint32_t tag;
	uint32_t len; /* without padding */
};

static size_t padded(size_t len)
{
	return (len + 7) & ~(size_t)7;
}

void wire_begin(struct wire_out *o, void *buf, size_t cap, enum wire_type type, uint64_t request)
{
	struct wire_head h = {
		.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = (uint16_t)type, .request = request,
	};

	o->buf = buf;
	o->cap = MIN(cap, (size_t)WIRE_MAX);
	o->len = 0;
	o->error = 0;
	if (o->cap < sizeof(h)) {
		o->error = -EMSGSIZE;
		return;
	}
	memcpy(buf, &h, sizeof(h));
	o->len = sizeof(h);
}

void wire_put(struct wire_out *o, enum wire_tag tag, const void *p, size_t len)
{
	struct field f = { .tag = (uint32_t)tag, .len = (uint32_t)len };

	if (o->error)
		return;
	/* len first: a huge one would wrap the sum. */
	if (len > o->cap || sizeof(f) + padded(len) > o->cap - o->len) {
		o->error = -EMSGSIZE;
		return;
	}
	memcpy(o->buf + o->len, &f, sizeof(f));
	o->len += sizeof(f);
	if (len > 0)
		memcpy(o->buf + o->len, p, len);
	/* Padding must not carry what lay in the caller's buffer before. */
	memset(o->buf + o->len + len, 0, padded(len) - len);
	o->len += padded(len);
}

void wire_put_u64(struct wire_out *o, enum wire_tag tag, uint64_t v)
{
	wire_put(o, tag, &v, sizeof(v));
}

void wire_put_str(struct wire_out *o, enum wire_tag tag, const char *s)
{
	if (s)
		wire_put(o, tag, s, strlen(s) + 1);
}

int wire_end(struct wire_out *o, size_t *ret_len)
{
	if (o->error)
		return o->error;
	*ret_len = o->len;
	return 0;
}

int wire_send(int sock, struct wire_out *o, const int *fds, size_t n_fds)
{
	size_t len = 0;
	int r = wire_end(o, &len);

	return r < 0 ? r : fd_send(sock, o->buf, len, fds, n_fds);
}

/* The field at *pos; false at the end. Framing was checked by wire_parse. */
static bool next_field(const char *buf, size_t len, size_t *pos, struct field *ret, const char **ret_bytes)
{
	if (len - *pos < sizeof(*ret))
		return false;
	memcpy(ret, buf + *pos, sizeof(*ret));
	*ret_bytes = buf + *pos + sizeof(*ret);
	*pos += sizeof(*ret) + padded(ret->len);
	return true;
}

static int check_fields(const char *buf, size_t len)
{
	size_t pos = sizeof(struct wire_head);

	while (pos < len) {
		struct field f;

		if (len - pos < sizeof(f))
			return -EPROTO;
		memcpy(&f, buf + pos, sizeof(f));
		pos += sizeof(f);
		if (f.len > len - pos || padded(f.len) > len - pos)
			return -EPROTO;
		pos += padded(f.len);
	}
	return 0;
}

int wire_parse(struct wire_in *ret, const void *buf, size_t len)
{
	struct wire_head h;
	int r;

	if (len < sizeof(h) || len > WIRE_MAX || len % 8 != 0)
		return -EPROTO;
	memcpy(&h, buf, sizeof(h));
	if (h.magic != WIRE_MAGIC)
		return -EPROTO;
	if (h.version < WIRE_VERSION_MIN || h.version > WIRE_VERSION)
		return -EPROTONOSUPPORT;
	r = check_fields(buf, len);
	if (r < 0)
		return r;
	*ret = (struct wire_in){
		.buf = buf, .len = len, .type = (enum wire_type)h.type, .version = h.version, .request = h.request,
	};
	return 0;
}

const void *wire_get(const struct wire_in *in, enum wire_tag tag, size_t n, size_t *ret_len)
{
	size_t pos = sizeof(struct wire_head);
	const char *bytes;
	struct field f;

	while (next_field(in->buf, in->len, &pos, &f, &bytes)) {
		if (f.tag != (uint32_t)tag || n-- > 0)
			continue;
		*ret_len = f.len;
		return bytes;
	}
	return NULL;
}

const char *wire_get_str(const struct wire_in *in, enum wire_tag tag, size_t n)
{
	size_t len;
	const char *s = wire_get(in, tag, n, &len);

	if (!s || len == 0 || memchr(s, 0, len) != s + len - 1)
		return NULL;
	return s;
}

uint64_t wire_get_u64(const struct wire_in *in, enum wire_tag tag, uint64_t fallback)
{
	size_t len;
	const void *p = wire_get(in, tag, 0, &len);
	uint64_t v;

	if (!p || len != sizeof(v))
		return fallback;
	memcpy(&v, p, sizeof(v));
	return v;
}

size_t wire_count(const struct wire_in *in, enum wire_tag tag)
{
	size_t pos = sizeof(struct wire_head), n = 0;
	const char *bytes;
	struct field f;

	while (next_field(in->buf, in->len, &pos, &f, &bytes))
		n += f.tag == (uint32_t)tag;
	return n;
}

const char *wire_type_name(enum wire_type type)
{
	switch (type) {
#define X(name, value)  \
	case WIRE_##name: \
		return #name;
		WIRE_TYPES(X)
#undef X
	}
	return "unknown";
}
