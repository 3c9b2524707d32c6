/* sandbox/note.c: what the spawner keeps with a box, for a daemon that takes over: the engine's own part, and in it the
 * holder's. A message of wire.h's in form, so that a newer program may add fields and an older one skips them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "image/record.h"
#include "sandbox/private.h"

#define INLINE_MAX (32u * 1024) /* of a note beside a plan in one message */
#define IMAGE_TEXTS 2           /* TEXT: the image's name, its digest */

static _Alignas(8) char buf[WIRE_NOTE_MAX];

static void put_fixed(const struct box *b, struct wire_out *o)
{
	wire_begin(o, buf, sizeof(buf), WIRE_NOTE, 0);
	wire_put_u64(o, WIRE_T_KIND, b->instance ? PLAN_INSTANCE : PLAN_SANDBOX);
	wire_put_u64(o, WIRE_T_LEASE_MS, b->lease_ms);
	wire_put_u64(o, WIRE_T_HARD_MS, b->hard_ms);
	wire_put_u64(o, WIRE_T_CPU_MILLI, b->place.size.cpu_milli);
	wire_put_u64(o, WIRE_T_MEMORY_BYTES, b->place.size.memory_bytes);
	wire_put_str(o, WIRE_T_HOSTNAME, b->hostname);
	wire_put_str(o, WIRE_T_TEXT, b->image->name ? b->image->name : "");
	wire_put_str(o, WIRE_T_TEXT, b->image->digest ? b->image->digest : "");
	wire_put_str(o, WIRE_T_USER, b->image->user);
	wire_put_str(o, WIRE_T_CWD, b->image->workdir);
	for (size_t i = 0; i < b->image->n_layers; i++)
		wire_put_str(o, WIRE_T_LAYER, b->image->layers[i]);
}

/* At most; each with the head of a field, as env_merge() counts. */
static size_t callers_bytes(const struct box *b)
{
	return b->env_bytes + (b->hosts_extra ? strlen(b->hosts_extra) + 16 : 0) + (b->note ? b->note_len + 16 : 0);
}

/* Overwrites buf. */
static int too_long(const struct box *b, struct err *err)
{
	struct wire_out o;
	size_t fixed = WIRE_NOTE_MAX;

	put_fixed(b, &o);
	(void)!wire_end(&o, &fixed);
	return err_set(err, -EINVAL, "env, host_aliases and sidecars: %zu bytes, expected at most %zu", callers_bytes(b),
		       WIRE_NOTE_MAX - fixed);
}

static int encode(const struct box *b, size_t *ret_len, struct err *err)
{
	struct wire_out o;

	put_fixed(b, &o);
	wire_put_str(&o, WIRE_T_HOSTS, b->hosts_extra);
	for (size_t i = 0; b->env && b->env[i]; i++)
		wire_put_str(&o, WIRE_T_ENV, b->env[i]);
	if (b->note)
		wire_put(&o, WIRE_T_NOTE, b->note, b->note_len);
	return wire_end(&o, ret_len) < 0 ? too_long(b, err) : 0;
}

int note_check(const struct box *b, struct err *err)
{
	size_t len = 0;

	return encode(b, &len, err);
}

bool note_put(const struct box *b, struct wire_out *o)
{
	size_t len = 0;

	if (encode(b, &len, NULL) < 0 || len > INLINE_MAX)
		return false;
	wire_put(o, WIRE_T_NOTE, buf, len);
	return true;
}

/* One that is not sent is missing when it is looked for: the box is ended then, or is what the note before says. */
void note_send(const struct box *b)
{
	struct chan *c = link_chan(b->local->link);
	struct wire_out *o;
	struct err err = ERR_INIT;
	size_t len = 0;

	if (!c)
		return;
	if (encode(b, &len, &err) < 0) {
		log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", b->id), "its note is not kept: %s", err.msg);
		return;
	}
	o = chan_begin(c, WIRE_NOTE, false);
	wire_put_str(o, WIRE_T_ID, b->id);
	wire_put(o, WIRE_T_NOTE, buf, len);
	chan_tell(c, o);
}

void local_note(struct engine_box *base, const void *note, size_t len)
{
	struct box *b = (struct box *)base;

	free(b->note);
	b->note = xmemdup(note, len);
	b->note_len = len;
	note_send(b);
}

/* -- reading --------------------------------------------------------------------------------------------------------------- */

static char **strings(const struct wire_in *in, enum wire_tag tag, size_t *ret_n)
{
	size_t n = wire_count(in, tag), k = 0;
	char **list = xcalloc(n + 1, sizeof(*list));

	for (size_t i = 0; i < n; i++) {
		const char *s = wire_get_str(in, tag, i);

		if (s)
			list[k++] = xstrdup(s);
	}
	*ret_n = k;
	return list;
}

static const char *text_or_empty(const struct wire_in *in, enum wire_tag tag, size_t n)
{
	const char *s = wire_get_str(in, tag, n);

	return s ? s : "";
}

/* The image as the box has it. Where the record of its name is still the same one, that one, otherwise one that was replaced:
 * whoever removes images asks those who uses them. */
static struct image *image_of(struct local *e, const struct wire_in *in)
{
	const char *name = text_or_empty(in, WIRE_T_TEXT, 0), *digest = text_or_empty(in, WIRE_T_TEXT, 1);
	struct image *img = NULL;

	if (*name && images_find(e->images, name, &img, NULL) == 0 && str_eq(img->digest ? img->digest : "", digest))
		return img;
	if (img)
		image_unref(img);
	img = image_new();
	img->name = xstrdup(name);
	img->digest = xstrdup(digest);
	img->user = xstrdup(text_or_empty(in, WIRE_T_USER, 0));
	img->workdir = xstrdup(text_or_empty(in, WIRE_T_CWD, 0));
	img->layers = strings(in, WIRE_T_LAYER, &img->n_layers);
	img->env = strv_dup(NULL);
	img->entrypoint = strv_dup(NULL);
	img->cmd = strv_dup(NULL);
	return *name ? images_adopt(e->images, img) : img;
}

static void read_env(struct box *b, const struct wire_in *in)
{
	size_t n = 0;

	b->env = strings(in, WIRE_T_ENV, &n);
	for (size_t i = 0; i < n; i++)
		b->env_bytes += strlen(b->env[i]) + 16;
}

int note_read(struct local *e, const char *id, const void *note, size_t len, struct box **ret, struct err *err)
{
	auto_free char *aligned = xmemdup(note, len);
	const char *hosts;
	const void *own;
	struct wire_in in;
	struct image *img;
	struct box *b;
	size_t own_len = 0;

	if (wire_parse(&in, aligned, len) < 0 || in.type != WIRE_NOTE || wire_count(&in, WIRE_T_TEXT) != IMAGE_TEXTS)
		return err_set(err, -EINVAL, "the note of sandbox %s is not one of this program's", id);
	img = image_of(e, &in);
	b = box_new(e, id, img);
	image_unref(img);
	b->instance = wire_get_u64(&in, WIRE_T_KIND, PLAN_SANDBOX) == PLAN_INSTANCE;
	b->place.instance = b->instance;
	/* One of an older program says nothing of its size. */
	b->place.size = (struct admit_sum){ 1, wire_get_u64(&in, WIRE_T_CPU_MILLI, 0), wire_get_u64(&in, WIRE_T_MEMORY_BYTES, 0) };
	if (wire_count(&in, WIRE_T_CPU_MILLI) && !b->place.size.cpu_milli && !b->place.size.memory_bytes)
		b->place.size.boxes = 0; /* beside another one, whose place is for both */
	b->lease_ms = wire_get_u64(&in, WIRE_T_LEASE_MS, 0);
	b->hard_ms = wire_get_u64(&in, WIRE_T_HARD_MS, 0);
	snprintf(b->hostname, sizeof(b->hostname), "%s", text_or_empty(&in, WIRE_T_HOSTNAME, 0));
	hosts = wire_get_str(&in, WIRE_T_HOSTS, 0);
	b->hosts_extra = hosts ? xstrdup(hosts) : NULL;
	read_env(b, &in);
	own = wire_get(&in, WIRE_T_NOTE, 0, &own_len);
	b->note = own ? xmemdup(own, own_len) : NULL;
	b->note_len = own ? own_len : 0;
	b->renewed_ms = 0; /* the first use renews the lease: nobody knows when it was done last */
	*ret = b;
	return 0;
}
