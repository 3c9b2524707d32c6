#include <criterion/criterion.h>
#include <string.h>

#include "base/buf.h"
#include "base/strv.h"
#include "build/dockerfile.h"

TestSuite(dockerfile, .timeout = 10);

/* expected: "WRITTEN>EXPANDED " for every image. */
static void names(const char *text, const char *expected)
{
	char **list = dockerfile_images(text);
	auto_buf struct buf got;

	buf_init(&got, 4096);
	for (char **i = list; *i; i += 2)
		cr_assert_eq(buf_printf(&got, "%s>%s ", i[0], i[1]), 0);
	cr_assert_str_eq(got.data, expected);
	strv_free(list);
}

Test(dockerfile, plain)
{
	names("FROM python:3.11-slim\nRUN x\n", "python:3.11-slim>python:3.11-slim ");
	names("  from  --platform=linux/amd64 a AS b", "a>a ");
	names("# FROM x\n\n\tFROM\ta\r\n", "a>a ");
	names("FROM \"a:1\"", "a:1>a:1 ");
	names("", "");
	names("FROM", "");
	names("RUN FROM x", "");
}

Test(dockerfile, stages_and_scratch_are_no_images)
{
	names("FROM a AS One\nFROM one\nCOPY --from=ONE /x /y\nCOPY --from=0 /x /z\nFROM scratch\nCOPY --chmod=1 "
	      "--from=b /x /y\n"
	      "FROM a\n",
	      "a>a b>b ");
}

Test(dockerfile, variables_of_the_top)
{
	names("ARG B=py\nARG V=\"3\"\nFROM $B:${V}\n", "$B:${V}>py:3 ");
	names("ARG B\nFROM $B\n", "");
	names("FROM ${B:-x:1}\n", "${B:-x:1}>x:1 ");
	names("FROM a\nARG B=c\nFROM $B\n", "a>a ");
	names("FROM ${B\nFROM $\nFROM ${}\nFROM x${Y:?}", "");
}

Test(dockerfile, continued_lines)
{
	names("FROM \\\n# why\n  a \\\n  AS b\nFROM b\n", "a>a ");
	names("RUN x \\\n FROM y\nFROM z \\", "z>z ");
}
