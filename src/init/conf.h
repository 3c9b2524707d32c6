/* init/conf.h: CONFIG: host name, /etc/hosts, /etc/resolv.conf, folders that must be there. */
#pragma once

#include "base/err.h"
#include "init/control.h"

/* Each field is optional. Files are written aside and renamed, so that an image's link in their place is replaced, not
 * followed. A negative result becomes the FAILED answer; what was done before stays. */
MUST_CHECK int conf_request(struct init *in, struct request *q, struct err *err);

/* One file in the folder etc, mode 0644. Where it can't be renamed over (a mount), it is rewritten in place. */
MUST_CHECK int conf_write(int etc, const char *name, const char *text);
