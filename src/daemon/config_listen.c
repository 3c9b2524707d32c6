/* The addresses that the server listens on: their form, and what they ask for. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "daemon/config_table.h"
#include "http/origin.h"

const char *config_listen_address(const char *listen)
{
	const char *scheme = strstr(listen, "://");

	return scheme ? scheme + strlen("://") : listen;
}

char *config_listen_host(const char *address)
{
	const char *colon = strrchr(address, ':');
	size_t len = colon ? (size_t)(colon - address) : strlen(address);
	bool brackets = len > 1 && address[0] == '[' && address[len - 1] == ']';

	return brackets ? xstrndup(address + 1, len - 2) : xstrndup(address, len);
}

bool config_listen_is_tls(const struct config *c, const char *listen)
{
	return str_starts(listen, "https://") || (*c->tls_certificate && !str_starts(listen, "http://"));
}

/* HOST:PORT, [V6]:PORT, :PORT, each perhaps with a scheme */
int config_check_listen(const struct config_key *k, const char *value, struct err *err)
{
	const char *address = config_listen_address(value), *colon = strrchr(address, ':');
	uint64_t port;

	if (address != value && !str_starts(value, "http://") && !str_starts(value, "https://"))
		return config_wrong(k, value, err, "http://, https:// or nothing in front of HOST:PORT");
	if (!colon || str_to_u64(colon + 1, &port) < 0 || port > 65535)
		return config_wrong(k, value, err, "HOST:PORT, as in 127.0.0.1:8080");
	if (memchr(address, ':', (size_t)(colon - address)) && !(address[0] == '[' && colon[-1] == ']'))
		return config_wrong(k, value, err, "HOST:PORT, with brackets around an IPv6 address, as in [::1]:8080");
	return 0;
}

int config_check_tls(const struct config *c, struct err *err)
{
	if (*c->tls_certificate && !*c->tls_key)
		return err_set(err, -EINVAL, "tls.key: missing: expected the file of the key of tls.certificate (%s)",
			       c->tls_certificate);
	if (*c->tls_key && !*c->tls_certificate)
		return err_set(err, -EINVAL, "tls.certificate: missing: expected the file of the certificate of tls.key (%s)",
			       c->tls_key);
	for (char *const *p = c->listen; *p; p++)
		if (str_starts(*p, "https://") && !*c->tls_certificate)
			return err_set(err, -EINVAL, "listen: \"%s\": HTTPS needs tls.certificate and tls.key", *p);
	return 0;
}

/* Names other than localhost are not asked for: what they mean is seen when the sockets are there. */
bool config_listen_is_loopback(const char *address)
{
	auto_free char *host = config_listen_host(address);
	struct http_range one;
	struct err ignored;

	if (str_ieq(host, "localhost"))
		return true;
	return !strchr(host, '/') && http_range_parse(&one, host, &ignored) == 0 && http_address_is_loopback(&one.base);
}

int config_refuse_open(const struct config *c, const char *address, struct err *err)
{
	if (c->insecure || config_listen_is_loopback(address))
		return 0;
	return err_set(err, -EINVAL, "listen: \"%s\": others can reach this address, and read what they see pass in plain HTTP, keys and"
				     " secrets included: set tls.certificate and tls.key, or listen on 127.0.0.1 alone and put a proxy"
				     " that has TLS in front of it, or say `insecure: true` (--insecure) where the network is trusted", address);
}
