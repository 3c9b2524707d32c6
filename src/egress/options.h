/* egress/options.h: the command line of openreward-egress. */
#pragma once

#include "egress/egress.h"

struct egress_options {
	struct egress_config config;
	const char *resolvers[EGRESS_SERVERS_MAX]; /* instead of resolv.conf's; point into argv */
	size_t n_resolvers;
	bool debug, json;
	bool help, version; /* to be printed and nothing else */
};

/* --allow RULE, --build-allow RULE, --platform-name NAME, --resolver ADDRESS[:PORT] (up to three), --max-connections N,
 * --max-dns N, --dial-timeout-ms N, --log-json, --debug, --help, --version. Values may follow '=' or be the next
 * argument. -EINVAL names the option and what was expected. Strings point into argv; the rules are the caller's to
 * free, on failure too. */
MUST_CHECK int egress_options_parse(struct egress_options *ret, int argc, char **argv, struct err *err);
extern const char egress_usage[];
