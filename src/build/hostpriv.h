/* build/hostpriv.h: what the files of hostconf share. Nobody else includes it. */
#pragma once

#include "base/buf.h"
#include "base/strv.h"
#include "build/hostconf.h"

#define HOSTCONF_FILE_MAX (4u << 20) /* bytes of one configuration file or CA bundle */

/* The value of K in a list of "K=V", or NULL. */
const char *host_get(const char *const *env, const char *key);
const char *host_home(const char *const *env);

/* Calls fn for every line of a file, without newline. A file that is missing or unreadable has none. */
typedef void host_line_fn(void *arg, char *line);
void host_each_line(const char *path, host_line_fn *fn, void *arg);
char *host_trim(char *s); /* in place; returns the first byte that is not blank */

/* Each appends the text of one staged file; ca = path inside of the CA bundle, or NULL where the host has none. */
void host_pip_conf(const char *const *env, const char *ca, struct buf *out);
void host_npmrc(const char *const *env, const char *ca, struct buf *out);
void host_apt_conf(const char *const *env, const char *ca, struct buf *out);
void host_gitconfig(const char *const *env, const char *ca, struct buf *out);
/* Appends URLs of apt's sources (sources.list and *.list, *.sources), as written. */
void host_apt_urls(struct strv *v);
