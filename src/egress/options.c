#include "egress/options.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"

const char egress_usage[] =
	"usage: openreward-egress [OPTION]...\n"
	"Dials what sandboxes send out and answers their DNS questions. Started by openreward-spawner, with descriptor\n"
	"3 = its channel and 4 = the channel to the daemon.\n"
	"  --allow RULE           let every sandbox reach it: NAME, *.NAME, ADDRESS, ADDRESS/BITS; each may end in :PORT\n"
	"  --build-allow RULE     the same for builds only\n"
	"  --platform-name NAME   the platform's name inside (openreward.internal)\n"
	"  --resolver ADDR[:PORT] ask this name server instead of those of /etc/resolv.conf (up to three)\n"
	"  --max-connections N    of one sandbox (1024)\n"
	"  --max-dns N            questions under way of one sandbox (64)\n"
	"  --dial-timeout-ms N    (30000)\n"
	"  --log-json, --debug, --help, --version\n";

static int number(const char *name, const char *value, uint64_t max, uint64_t *ret, struct err *err)
{
	if (str_to_u64(value, ret) < 0 || *ret < 1 || *ret > max)
		return err_set(err, -EINVAL, "%s %s: expected a whole number from 1 to %llu", name, value,
			       (unsigned long long)max);
	return 0;
}

static int add_resolver(struct egress_options *o, const char *value, struct err *err)
{
	if (o->n_resolvers == EGRESS_SERVERS_MAX)
		return err_set(err, -EINVAL, "--resolver %s: at most %d are taken", value, EGRESS_SERVERS_MAX);
	o->resolvers[o->n_resolvers++] = value;
	return 0;
}

/* 0, a failure, or -ENOENT without a message for an option that is not known. */
static int set_value(struct egress_options *o, const char *name, const char *value, struct err *err)
{
	struct egress_config *c = &o->config;
	uint64_t v;
	int r = 0;

	if (str_eq(name, "--allow"))
		return egress_rules_add(&c->allow, value, err);
	if (str_eq(name, "--build-allow"))
		return egress_rules_add(&c->build, value, err);
	if (str_eq(name, "--resolver"))
		return add_resolver(o, value, err);
	if (str_eq(name, "--platform-name")) {
		c->platform_name = value;
	} else if (str_eq(name, "--max-connections")) {
		r = number(name, value, 1000000, &v, err);
		c->max_connections = r < 0 ? 0 : (unsigned)v;
	} else if (str_eq(name, "--max-dns")) {
		r = number(name, value, 100000, &v, err);
		c->max_dns = r < 0 ? 0 : (unsigned)v;
	} else if (str_eq(name, "--dial-timeout-ms")) {
		r = number(name, value, 3600000, &v, err);
		c->dial_ms = r < 0 ? 0 : v;
	} else {
		return -ENOENT;
	}
	return r;
}

static bool set_flag(struct egress_options *o, const char *name)
{
	const struct {
		const char *name;
		bool *flag;
	} flags[] = {
		{ "--debug", &o->debug },
		{ "--log-json", &o->json },
		{ "--help", &o->help },
		{ "--version", &o->version },
	};

	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		if (str_eq(flags[i].name, name)) {
			*flags[i].flag = true;
			return true;
		}
	}
	return false;
}

int egress_options_parse(struct egress_options *ret, int argc, char **argv, struct err *err)
{
	*ret = (struct egress_options){ .config = egress_config_default() };

	for (int i = 1; i < argc; i++) {
		if (set_flag(ret, argv[i]))
			continue;
		char name[32];
		size_t len = strcspn(argv[i], "=");
		if (!str_starts(argv[i], "--") || len >= sizeof(name))
			return err_set(err, -EINVAL, "'%s' is not an option; see --help", argv[i]);
		memcpy(name, argv[i], len);
		name[len] = '\0';
		const char *value = argv[i][len] == '=' ? argv[i] + len + 1 : i + 1 < argc ? argv[++i] : NULL;
		int r = value ? set_value(ret, name, value, err) : -ENOENT;
		if (r == -ENOENT)
			return err_set(err, -EINVAL, "option %s is not known or lacks its value; see --help", name);
		if (r < 0)
			return r;
	}
	return 0;
}
