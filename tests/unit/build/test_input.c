/* What is masked in a build's log. */
#include <criterion/criterion.h>

#include "base/mem.h"
#include "build/jobpriv.h"

TestSuite(build_input, .timeout = 10);

static char *secrets[] = { (char *)"TOKEN", (char *)"s3cret", (char *)"PIN", (char *)"123", (char *)"KEY",
			   (char *)"-----BEGIN\nMIIabc\r\n\n-----END\n", (char *)"NONE", (char *)"", NULL };

Test(build_input, masks_what_a_step_prints)
{
	static const char *const lines[][2] = {
		{ "nothing here", "nothing here" },
		{ "s3cret", "***" },
		{ "a s3cret, s3crets3cret.", "a ***, ******." },
		{ "123 is too short to be told from a number", "123 is too short to be told from a number" },
		{ "line MIIabc of a key", "line *** of a key" },
		{ "-----BEGIN", "***" },
		{ "", "" },
	};
	struct build_input in = { .secrets = secrets };

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		auto_free char *masked = build_input_mask(&in, lines[i][0]);
		cr_assert_str_eq(masked, lines[i][1]);
	}
	auto_free char *plain = build_input_mask(&(struct build_input){ 0 }, "s3cret");
	cr_assert_str_eq(plain, "s3cret");
}
