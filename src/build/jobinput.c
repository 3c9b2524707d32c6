/* What a build is told apart from its source: build arguments and secrets, JSON on standard input:
 * {"args": {NAME: VALUE}, "secrets": {NAME: VALUE}}. Arguments are in the image's history, as everywhere; secrets are files
 * of a tmpfs that nobody else sees, for `RUN --mount=type=secret,id=NAME`, and what a step prints of them is masked. */
#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostpriv.h"
#include "build/jobpriv.h"
#include "json/json.h"

#define INPUT_MAX (64u << 20)
#define MASK_MIN 4 /* bytes: shorter ones stand in every log by chance */
#define MASK "***"

static int read_map(json_t *obj, const char *key, char ***ret, struct err *err)
{
	json_t *map = NULL, *value;
	struct strv v = { 0 };
	const char *name;
	int r = json_get_object(obj, key, &map, err);

	if (r < 0 || !map)
		return r;
	json_object_foreach(map, name, value) {
		strv_add(&v, xstrdup(name));
		strv_add(&v, xstrdup(json_string_value(value) ? json_string_value(value) : ""));
	}
	*ret = v.list;
	return 0;
}

int build_input_read(struct build_input *ret, struct err *err)
{
	auto_buf struct buf text = { 0 };
	auto_json obj = NULL;
	struct stat st;

	*ret = (struct build_input){ 0 };
	if (fstat(STDIN_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		return 0; /* nobody told anything */
	buf_init(&text, INPUT_MAX);
	int r = fd_read_to_end(STDIN_FILENO, &text);
	if (r == 0)
		r = json_read_object(&obj, text.data, text.len, err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	r = r < 0 ? r : read_map(obj, "args", &ret->args, err);
	return r < 0 ? r : read_map(obj, "secrets", &ret->secrets, err);
}

void build_input_done(struct build_input *in)
{
	in->args = strv_free(in->args);
	in->secrets = strv_free(in->secrets);
	in->options = strv_free(in->options);
}

/* -- for buildah ------------------------------------------------------------------------------------------------- */

static int write_secrets(const struct build_input *in, const char *dir, struct strv *options, struct err *err)
{
	if (mkdir(dir, 0700) < 0)
		return err_sys(err, "make %s", dir);
	if (mount("secrets", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=64m") < 0)
		return err_sys(err, "mount a tmpfs at %s", dir);
	for (char **s = in->secrets; s[0]; s += 2) {
		auto_free char *path = xasprintf("%s/%s", dir, s[0]);
		int r = fd_write_file(path, s[1], strlen(s[1]), 0600, err);
		if (r < 0)
			return r;
		strv_add(options, xstrdup("--secret"));
		strv_add(options, xasprintf("id=%s,src=%s", s[0], path));
	}
	return 0;
}

int build_input_stage(struct build_input *in, const char *tmp, struct err *err)
{
	auto_free char *dir = xasprintf("%s/secrets", tmp);
	struct strv options = { 0 };
	int r = 0;

	for (char **a = in->args; a && a[0]; a += 2) {
		strv_add(&options, xstrdup("--build-arg"));
		strv_add(&options, xasprintf("%s=%s", a[0], a[1]));
	}
	if (in->secrets && in->secrets[0])
		r = write_secrets(in, dir, &options, err);
	in->options = options.list;
	return r;
}

/* -- the log ----------------------------------------------------------------------------------------------------- */

/* Replaces every `what` of len bytes in *text. */
static void mask_one(char **text, const char *what, size_t len)
{
	auto_free char *needle = xstrndup(what, len);
	auto_buf struct buf out = { 0 };
	const char *p = *text;

	if (len < MASK_MIN || !strstr(p, needle))
		return;
	buf_init(&out, BUF_UNLIMITED);
	for (const char *hit; (hit = strstr(p, needle)); p = hit + len)
		(void)!buf_printf(&out, "%.*s" MASK, (int)(hit - p), p);
	(void)!buf_puts(&out, p);
	free(*text);
	*text = xstrdup(out.data);
}

char *build_input_mask(const struct build_input *in, const char *line)
{
	char *text = xstrdup(line);

	for (char **s = in->secrets; s && s[0]; s += 2)
		for (const char *p = s[1]; *p;) { /* of a key file, each line */
			size_t len = strcspn(p, "\r\n");
			mask_one(&text, p, len);
			p += len + strspn(p + len, "\r\n");
		}
	return text;
}
