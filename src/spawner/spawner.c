#include "spawner/spawner.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/machine.h"
#include "base/time.h"

#define LOOK_MS 1000
#define LOW_PERCENT 10    /* of memory available: less is a shortage */
#define PATIENCE_MS 20000 /* for removing what is left at the end; beyond it the next start does it */

/* The daemon's user can make messages that end up here; they come escaped by their makers or not at all. */
void spawner_log(const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	n = MIN(n, (int)sizeof(line) - 2);
	line[n] = 0;
	dprintf(STDERR_FILENO, "openreward-spawner: %s\n", line);
}

void spawner_look_at_memory(struct spawner *sp, uint64_t now_ms)
{
	struct machine here;
	uint64_t available;

	if (now_ms < sp->look_at_ms)
		return;
	machine_here(&here);
	available = machine_memory_free();
	sp->pressed = here.memory_bytes != MACHINE_UNKNOWN && available < here.memory_bytes / 100 * LOW_PERCENT;
	sp->look_at_ms = now_ms + LOOK_MS;
}

void spawner_close(struct spawner *sp, struct waiter closer)
{
	if (closer.conn)
		sp->closer = closer;
	if (sp->closing_ms)
		return;
	sp->closing_ms = time_now_ms() + PATIENCE_MS;
	spawner_wake(sp, sp->closing_ms);
	jobs_close(sp, 0);
	pool_empty(sp);
	blanks_close(sp);
	boxes_close(sp);
}
