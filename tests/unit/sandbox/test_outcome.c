#include <criterion/criterion.h>

#include "sandbox/outcome.h"

#define EXIT(n) ((n) << 8)
#define ROOM UINT64_MAX

/* Everything at once; each test takes the strongest away. */
static struct outcome_evidence all(void)
{
	return (struct outcome_evidence){
		.wait_status = 9, .timed_out = true, .killed = true, .oom_kills = 1, .pids_hits = 2, .disk_free_bytes = 0,
	};
}

Test(outcome, the_first_that_holds)
{
	struct outcome_evidence e = all();

	cr_assert_eq(outcome_of(&e), ENGINE_INFRA, "a kill without its own limit: the host was short");
	e.limit_hits = 1;
	cr_assert_eq(outcome_of(&e), ENGINE_KILLED);
	e.killed = false;
	cr_assert_eq(outcome_of(&e), ENGINE_TIMEOUT);
	e.timed_out = false;
	cr_assert_eq(outcome_of(&e), ENGINE_OOM);
	e.oom_kills = 0;
	cr_assert_eq(outcome_of(&e), ENGINE_DISK);
	e.disk_free_bytes = OUTCOME_DISK_FREE_BYTES;
	cr_assert_eq(outcome_of(&e), ENGINE_PIDS);
	e.pids_hits = 0;
	cr_assert_eq(outcome_of(&e), ENGINE_SIGNALLED);
	e.wait_status = EXIT(137);
	cr_assert_eq(outcome_of(&e), ENGINE_EXITED);
}

Test(outcome, return_codes)
{
	struct outcome_evidence e = { .wait_status = EXIT(3), .disk_free_bytes = ROOM };

	cr_assert_eq(outcome_return_code(&e), 3);
	e.wait_status = EXIT(255);
	cr_assert_eq(outcome_return_code(&e), 255);
	e.wait_status = 15;
	cr_assert_eq(outcome_return_code(&e), 143);
	e.wait_status = 9 | 0x80; /* with a core dump */
	cr_assert_eq(outcome_return_code(&e), 137);
	e.timed_out = true;
	cr_assert_eq(outcome_return_code(&e), 124);
}

Test(outcome, a_command_of_its_own_that_ends_with_124_did_not_time_out)
{
	struct outcome_evidence e = { .wait_status = EXIT(124), .disk_free_bytes = ROOM };

	cr_assert_eq(outcome_of(&e), ENGINE_EXITED);
	cr_assert_eq(outcome_return_code(&e), 124);
}

Test(outcome, infra_and_killed_are_not_trainable)
{
	for (int o = ENGINE_INFRA; o <= ENGINE_EXITED; o++)
		cr_assert_eq(outcome_trainable((enum engine_outcome)o), o != ENGINE_INFRA && o != ENGINE_KILLED);
}
