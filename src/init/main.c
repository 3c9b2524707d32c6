/* openreward-init FLAGS: process 1 of a sandbox. boot.h has the descriptors and flags it is started with. */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "init/init.h"

/* "STAGE\0ERRNO\0" to the spawner. */
static int report(const char *stage, int code)
{
	char text[128];
	int n = snprintf(text, sizeof(text), "%.100s%c%d", stage, 0, -code);

	if (n > 0 && write(BOOT_FD_READY, text, (size_t)n + 1) < 0)
		return 71;
	return 70;
}

int main(int argc, char **argv)
{
	static struct init in;
	struct err err = ERR_INIT;
	const char *stage = "flags";
	int r;

	/* Before anything of the sandbox exists: neither root inside nor a debugger may look into this process. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)prctl(PR_SET_NAME, "openreward-init", 0, 0, 0);
	r = init_flags(&in, argc > 1 ? argv[1] : "", &err);
	if (r == 0)
		r = init_boot(&in, &stage, &err);
	if (r < 0)
		return report(stage, r);
	init_loop(&in);
	return in.status;
}
