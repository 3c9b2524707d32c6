/* egress/hosts.h: looks a name up in a hosts(5) file. Only names that an operator's rule allows are looked up there:
 * the host's other names are nobody's business inside. */
#pragma once

#include "egress/addr.h"

/* Writes up to max addresses of family (4 or 6) that text gives to name (lower case) and returns their number. Loopback
 * addresses are passed over: inside they would mean the sandbox itself. */
size_t egress_hosts_find(const char *text, const char *name, uint8_t family, struct egress_addr *ret, size_t max);
/* The same in the file at path; an unreadable one knows no names. */
size_t egress_hosts_find_file(const char *path, const char *name, uint8_t family, struct egress_addr *ret, size_t max);
