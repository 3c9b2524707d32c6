#include <criterion/criterion.h>
#include <string.h>

#include "engine/engine.h"

Test(engine, every_outcome_has_its_name)
{
	cr_assert_str_eq(engine_outcome_name(ENGINE_INFRA), "infra");
	cr_assert_str_eq(engine_outcome_name(ENGINE_OOM), "oom");
	cr_assert_str_eq(engine_outcome_name(ENGINE_EXITED), "exited");
	cr_assert_str_eq(engine_outcome_name((enum engine_outcome)99), "unknown");
}

Test(engine, outcomes_are_listed_from_strong_to_weak)
{
	cr_assert_lt(ENGINE_INFRA, ENGINE_KILLED);
	cr_assert_lt(ENGINE_TIMEOUT, ENGINE_OOM);
	cr_assert_lt(ENGINE_SIGNALLED, ENGINE_EXITED);
}
