/* api/common/metrics.h: /metrics in Prometheus' text format. Owned by the daemon. A module's figures are read when somebody
 * asks, by a collector that daemon/ registers for it; only durations are counted here, as they happen. Names follow
 * Prometheus: openreward_THING_UNIT, base units (seconds, bytes), _total for what only grows. Loop thread only. */
#pragma once

#include "base/buf.h"
#include "base/macros.h"

#include <stdint.h>

struct api_metrics;
struct api_metrics_out; /* the page being written */

struct api_metrics *api_metrics_new(void);
struct api_metrics *api_metrics_free(struct api_metrics *m); /* NULL is allowed; returns NULL */

/* fn writes its metrics each time the page is asked for. */
typedef void api_metrics_fn(struct api_metrics_out *o, void *arg);
void api_metrics_add(struct api_metrics *m, api_metrics_fn *fn, void *arg);

/* For collectors. labels: `state="open"` or NULL. Samples of one name come one after the other; HELP and TYPE are
 * written once per name. */
void api_metrics_counter(struct api_metrics_out *o, const char *name, const char *labels, const char *help, double value);
void api_metrics_gauge(struct api_metrics_out *o, const char *name, const char *labels, const char *help, double value);

/* A histogram of seconds, from 0.5 ms to 10 minutes. Made at the first observation; name and help are literals. */
void api_metrics_observe(struct api_metrics *m, const char *name, const char *help, uint64_t us);

/* The whole page. -ENOBUFS beyond ret's maximum. */
MUST_CHECK int api_metrics_page(struct api_metrics *m, struct buf *ret);
