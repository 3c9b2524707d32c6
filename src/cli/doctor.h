/* cli/doctor.h: the checks of `openreward doctor`. Each prints one line: "OK    WHAT: what was found" or "FAIL  WHAT: what
 * to do"; "SKIP" where only root can look. Nothing on the machine is changed. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

/* What the checks look at, and what came of it. The caller's; the strings are the configuration's. */
struct doctor {
	const char *data; /* DATA, for free disk and overlay; need not exist yet */
	const char *user; /* the daemon's */
	unsigned failed;  /* checks that did not pass */
};

/* Print one line of that verdict. A failure is counted, and its text says what to do about it. */
void doctor_ok(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);
void doctor_fail(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);
void doctor_skip(struct doctor *d, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* doctor_host.c: one check each, in any order. What can be tried is tried, in a child or a namespace that ends with the
 * check, as a version number says little about what a kernel was built with. */
void doctor_kernel(struct doctor *d);
void doctor_cgroups(struct doctor *d);
void doctor_nftables(struct doctor *d);
void doctor_overlay(struct doctor *d); /* overlay and id-mapped mounts: tried in a mount namespace of its own */
void doctor_user_namespaces(struct doctor *d);
void doctor_packages(struct doctor *d); /* the programs that pulls and builds run */
void doctor_account(struct doctor *d);
void doctor_disk(struct doctor *d);
void doctor_limits(struct doctor *d);
