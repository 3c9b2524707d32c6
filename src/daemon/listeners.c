/* The listening sockets, which the spawner holds: in plain or with TLS, and where this machine's own programs find one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/server.h"
#include "http/origin.h"
#include "http/tls.h"
#include "sandbox/link.h"

struct listener {
	char address[HTTP_SOCKADDR_TEXT]; /* HOST:PORT, as bound */
	bool tls;
};

/* -- which is which -------------------------------------------------------------------------------------------------- */

static int address_of(int fd, char *ret, size_t size, struct err *err)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return err_sys(err, "the listening socket's address");
	if (!http_sockaddr_text((struct sockaddr *)&a, ret, size))
		return err_set(err, -EAFNOSUPPORT, "a listening socket is neither of IPv4 nor of IPv6");
	return 0;
}

/* Whether a socket may come from this element of `listen`. A name may be any address. */
static bool may_be(const char *listen, const char *bound)
{
	const char *wanted = config_listen_address(listen), *port = strrchr(wanted, ':');
	auto_free char *host = config_listen_host(wanted), *bound_host = config_listen_host(bound);
	struct http_range a, b;
	struct err ignored;

	if (!str_eq(port, ":0") && !str_eq(port, strrchr(bound, ':')))
		return false;
	if (http_range_parse(&a, host, &ignored) < 0 || http_range_parse(&b, bound_host, &ignored) < 0)
		return true;
	return !memcmp(&a.base, &b.base, sizeof(a.base));
}

/* The spawner holds them in the order of `listen`, unless it is older than the configuration. NULL = none is like it. */
static const char *element_of(const struct config *c, size_t at, const char *bound)
{
	size_t n = 0;

	while (c->listen[n])
		n++;
	if (at < n && may_be(c->listen[at], bound))
		return c->listen[at];
	for (char *const *p = c->listen; *p; p++)
		if (may_be(*p, bound))
			return *p;
	log_warn("daemon", "the spawner listens on %s, which is not in `listen`: it began with other settings", bound);
	return NULL;
}

static bool is_tls(const struct config *c, size_t at, const char *bound)
{
	const char *element = element_of(c, at, bound);

	return element ? config_listen_is_tls(c, element) : *c->tls_certificate != '\0';
}

/* -- listening ------------------------------------------------------------------------------------------------------- */

/* A name may be any address: what counts is what a socket is bound to. */
static int listen_one(struct daemon *d, struct listener *l, size_t at, int listen_fd, struct err *err)
{
	auto_fd fd = listen_fd;
	int r = address_of(fd, l->address, sizeof(l->address), err);

	if (r < 0)
		return r;
	l->tls = is_tls(d->config, at, l->address);
	r = l->tls ? 0 : config_refuse_open(d->config, l->address, err);
	return r < 0 ? r : http_server_listen(d->http, fd_steal(&fd), l->tls ? d->tls : NULL, err);
}

static bool is_better(const struct listener *a, const struct listener *b)
{
	bool a_near = !a->tls && config_listen_is_loopback(a->address), b_near = !b->tls && config_listen_is_loopback(b->address);

	return a_near && !b_near;
}

static int listen_all(struct daemon *d, struct listener *ls, size_t *ret_n, struct err *err)
{
	int fds[LINK_LISTENERS_MAX];
	size_t n = link_take_listeners(d->link, fds, ARRAY_LEN(fds));
	int r = n ? 0 : err_set(err, -EPROTO, "the spawner holds no listening socket");

	for (size_t i = 0; i < n; i++) {
		if (r == 0)
			r = listen_one(d, &ls[i], i, fds[i], err);
		else
			fd_close(fds[i]);
	}
	*ret_n = n;
	return r;
}

/* HOST:PORT, or https://HOST:PORT and the hash of the key that is to be seen there. */
static int write_address(struct daemon *d, struct err *err)
{
	auto_free char *path = xasprintf("%s/run/address", d->config->data);
	auto_free char *text = d->address_tls ? xasprintf("https://%s\n%s\n", d->address, http_tls_pin(d->tls))
					      : xasprintf("%s\n", d->address);

	return fd_write_file(path, text, strlen(text), 0640, err);
}

int listeners_open(struct daemon *d, struct err *err)
{
	struct listener ls[LINK_LISTENERS_MAX];
	const struct listener *best = ls;
	size_t n;
	int r = listen_all(d, ls, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 1; i < n; i++)
		if (is_better(&ls[i], best))
			best = &ls[i];
	memcpy(d->address, best->address, sizeof(d->address));
	d->address_tls = best->tls;
	for (size_t i = 0; i < n; i++)
		printf("listening on http%s://%s\n", ls[i].tls ? "s" : "", ls[i].address);
	return write_address(d, err);
}

void listeners_forget(struct daemon *d)
{
	auto_free char *path = xasprintf("%s/run/address", d->config->data);

	unlink(path);
}

/* -- certificate and key --------------------------------------------------------------------------------------------- */

static void tell_certificate(struct daemon *d, const char *what)
{
	time_t until_s = (time_t)(http_tls_expires_ms(d->tls) / 1000);
	struct tm tm;
	char date[32];

	strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&until_s, &tm));
	if (until_s * 1000 <= time_wall_ms())
		log_warn("tls", "%s: certificate %s has expired on %s", what, d->config->tls_certificate, date);
	else
		log_info("tls", "%s: certificate %s is valid until %s", what, d->config->tls_certificate, date);
}

int listeners_open_tls(struct daemon *d, struct err *err)
{
	if (!*d->config->tls_certificate)
		return 0;
	int r = http_tls_new(&d->tls, d->config->tls_certificate, d->config->tls_key, err);
	if (r < 0)
		return err_wrap(err, r, "tls");
	tell_certificate(d, "read");
	return 0;
}

void listeners_reload_tls(struct daemon *d)
{
	struct err err = ERR_INIT;

	if (!d->tls) {
		log_info("tls", "SIGHUP: there is no certificate to read anew");
		return;
	}
	if (http_tls_reload(d->tls, &err) < 0) {
		log_error("tls", "not read anew, the former certificate stays in use: %s", err.msg);
		return;
	}
	tell_certificate(d, "read anew");
	if (d->serving && !d->ending && write_address(d, &err) < 0)
		log_warn("tls", "%s", err.msg);
}
