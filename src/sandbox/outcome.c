/* sandbox/outcome.c: see outcome.h. */
#include "sandbox/outcome.h"

#include <sys/wait.h>

#define CODE_TIMED_OUT 124

/* The kernel counts a kill at the one who dies, and the limit at the one who reached it: without the second it was a limit
 * above the sandbox, or the machine's end. */
static bool host_was_short(const struct outcome_evidence *e)
{
	return e->oom_kills && !e->limit_hits;
}

enum engine_outcome outcome_of(const struct outcome_evidence *e)
{
	if (host_was_short(e))
		return ENGINE_INFRA;
	if (e->killed)
		return ENGINE_KILLED;
	if (e->timed_out)
		return ENGINE_TIMEOUT;
	if (e->oom_kills)
		return ENGINE_OOM;
	if (e->disk_free_bytes < OUTCOME_DISK_FREE_BYTES)
		return ENGINE_DISK;
	if (e->pids_hits)
		return ENGINE_PIDS;
	return WIFSIGNALED(e->wait_status) ? ENGINE_SIGNALLED : ENGINE_EXITED;
}

int outcome_return_code(const struct outcome_evidence *e)
{
	if (e->timed_out)
		return CODE_TIMED_OUT;
	return WIFEXITED(e->wait_status) ? WEXITSTATUS(e->wait_status) : 128 + WTERMSIG(e->wait_status);
}

bool outcome_trainable(enum engine_outcome o)
{
	return o != ENGINE_INFRA && o != ENGINE_KILLED;
}
