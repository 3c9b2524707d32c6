#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "egress/options.h"

static int parse(struct egress_options *o, struct err *err, const char *const *words)
{
	char *argv[16] = { (char *)"openreward-egress" };
	int argc = 1;

	while (words[argc - 1])
		argv[argc] = (char *)words[argc - 1], argc++;
	return egress_options_parse(o, argc, argv, err);
}

#define PARSE(o, err, ...) parse(o, err, (const char *const[]){ __VA_ARGS__, NULL })

Test(options, both_forms_of_values)
{
	struct egress_options o;
	struct err err = ERR_INIT;

	cr_assert_eq(PARSE(&o, &err, "--allow", "a.test", "--allow=10.0.0.0/8:80", "--build-allow", "b.test", "--resolver=1.2.3.4:53",
			   "--max-connections", "7", "--max-dns=8", "--dial-timeout-ms", "9", "--platform-name=p.test", "--log-json"), 0,
		     "%s", err.msg);
	cr_expect_eq(o.config.allow.n, 2);
	cr_expect_eq(o.config.build.n, 1);
	cr_expect_eq(o.n_resolvers, 1);
	cr_expect_eq(o.config.max_connections, 7);
	cr_expect_eq(o.config.max_dns, 8);
	cr_expect_eq(o.config.dial_ms, 9);
	cr_expect_str_eq(o.config.platform_name, "p.test");
	cr_expect(o.json && !o.debug);
	egress_rules_done(&o.config.allow);
	egress_rules_done(&o.config.build);
}

Test(options, bad_ones_are_named)
{
	static const char *const bad[][2] = {
		{ "--max-dns", "0" }, { "--max-dns", "x" }, { "--max-connections=99999999", NULL }, { "--allow", "a b" },
		{ "--nonsense", "1" }, { "--allow", NULL }, { "word", NULL },
		{ "--an-option-of-very-many-letters-indeed", "1" },
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct egress_options o;
		struct err err = ERR_INIT;
		cr_expect_eq(PARSE(&o, &err, bad[i][0], bad[i][1]), -EINVAL, "%s", bad[i][0]);
		cr_expect(err.msg[0] != '\0');
		if (bad[i][1])
			cr_expect(strstr(err.msg, bad[i][1]) || strstr(err.msg, bad[i][0]), "%s", err.msg);
		egress_rules_done(&o.config.allow);
	}
}
