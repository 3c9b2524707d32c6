/* The addresses that the server listens on: their form, and what they ask for. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "daemon/config_table.h"
#include "http/origin.h"

/* HOST:PORT, [V6]:PORT, :PORT */
int config_check_listen(const struct config_key *k, const char *value, struct err *err)
{
	const char *colon = strrchr(value, ':');
	uint64_t port;

	if (!colon || str_to_u64(colon + 1, &port) < 0 || port > 65535)
		return config_wrong(k, value, err, "HOST:PORT, as in 127.0.0.1:8080");
	if (memchr(value, ':', (size_t)(colon - value)) && !(value[0] == '[' && colon[-1] == ']'))
		return config_wrong(k, value, err, "HOST:PORT, with brackets around an IPv6 address, as in [::1]:8080");
	return 0;
}

/* Names other than localhost are not asked for: what they mean is seen when the sockets are there. */
bool config_listen_is_loopback(const char *address)
{
	const char *colon = strrchr(address, ':');
	size_t len = colon ? (size_t)(colon - address) : strlen(address);
	struct http_range one;
	struct err ignored;

	if (len > 1 && address[0] == '[' && address[len - 1] == ']') {
		address++;
		len -= 2;
	}
	auto_free char *host = xstrndup(address, len);
	if (str_ieq(host, "localhost"))
		return true;
	return !strchr(host, '/') && http_range_parse(&one, host, &ignored) == 0 && http_address_is_loopback(&one.base);
}

int config_refuse_open(const struct config *c, const char *address, struct err *err)
{
	if (c->insecure || config_listen_is_loopback(address))
		return 0;
	return err_set(err, -EINVAL, "listen: \"%s\": others can reach this address, and read what they see pass, keys and secrets"
				     " included: expected an address of this machine alone, as 127.0.0.1, with a proxy that has TLS"
				     " in front of it. Where the network itself is trusted, say `insecure: true` (--insecure)", address);
}
