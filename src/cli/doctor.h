/* cli/doctor.h: the checks of `openreward doctor`. Each prints one line: "OK    WHAT: what was found" or "FAIL  WHAT: what
 * to do"; "SKIP" where only root can look. Nothing on the machine is changed. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct doctor {
	const char *data;   /* DATA, for free disk and overlay */
	const char *user;   /* the daemon's */
	unsigned failed;    /* checks that did not pass */
};

void doctor_ok(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);
void doctor_fail(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);
void doctor_skip(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* doctor_host.c */
void doctor_kernel(struct doctor *d);
void doctor_cgroups(struct doctor *d);
void doctor_nftables(struct doctor *d);
void doctor_overlay(struct doctor *d);     /* overlay and id-mapped mounts: tried in a mount namespace of its own */
void doctor_user_namespaces(struct doctor *d);
void doctor_packages(struct doctor *d);
void doctor_account(struct doctor *d);
void doctor_disk(struct doctor *d);
void doctor_limits(struct doctor *d);
