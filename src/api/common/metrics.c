#include "api/common/metrics.h"

#include <stdio.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/str.h"

static const double bounds[] = { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600 };

struct histogram {
	const char *name, *help;
	uint64_t count[ARRAY_LEN(bounds) + 1]; /* the last: beyond every bound */
	double sum;
	struct list all;
};

struct collector {
	api_metrics_fn *fn;
	void *arg;
	struct list all;
};

struct api_metrics {
	struct list collectors, histograms;
};

struct api_metrics_out {
	struct buf *buf;
	char last[128]; /* name whose HELP and TYPE were written */
	int error;
};

struct api_metrics *api_metrics_new(void)
{
	struct api_metrics *m = NEW(struct api_metrics);

	list_init(&m->collectors);
	list_init(&m->histograms);
	return m;
}

struct api_metrics *api_metrics_free(struct api_metrics *m)
{
	if (!m)
		return NULL;
	list_foreach(&m->collectors, struct collector, all, c)
		free(c);
	list_foreach(&m->histograms, struct histogram, all, h)
		free(h);
	free(m);
	return NULL;
}

void api_metrics_add(struct api_metrics *m, api_metrics_fn *fn, void *arg)
{
	struct collector *c = NEW(struct collector);

	c->fn = fn;
	c->arg = arg;
	list_push_back(&m->collectors, &c->all);
}

static void keep_error(struct api_metrics_out *o, int r)
{
	if (r < 0 && !o->error)
		o->error = r;
}

static void head(struct api_metrics_out *o, const char *name, const char *type, const char *help)
{
	if (str_eq(o->last, name))
		return;
	snprintf(o->last, sizeof(o->last), "%s", name);
	keep_error(o, buf_printf(o->buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type));
}

static void sample(struct api_metrics_out *o, const char *name, const char *labels, double value)
{
	if (labels)
		keep_error(o, buf_printf(o->buf, "%s{%s} %.17g\n", name, labels, value));
	else
		keep_error(o, buf_printf(o->buf, "%s %.17g\n", name, value));
}

void api_metrics_counter(struct api_metrics_out *o, const char *name, const char *labels, const char *help, double value)
{
	head(o, name, "counter", help);
	sample(o, name, labels, value);
}

void api_metrics_gauge(struct api_metrics_out *o, const char *name, const char *labels, const char *help, double value)
{
	head(o, name, "gauge", help);
	sample(o, name, labels, value);
}

static struct histogram *find_histogram(struct api_metrics *m, const char *name)
{
	list_foreach(&m->histograms, struct histogram, all, h)
		if (str_eq(h->name, name))
			return h;
	return NULL;
}

void api_metrics_observe(struct api_metrics *m, const char *name, const char *help, uint64_t us)
{
	struct histogram *h = find_histogram(m, name);
	double seconds = (double)us / 1e6;
	size_t i = 0;

	if (!h) {
		h = NEW(struct histogram);
		h->name = name;
		h->help = help;
		list_push_back(&m->histograms, &h->all);
	}
	while (i < ARRAY_LEN(bounds) && seconds > bounds[i])
		i++;
	h->count[i]++;
	h->sum += seconds;
}

static void write_histogram(struct api_metrics_out *o, const struct histogram *h)
{
	uint64_t total = 0;

	head(o, h->name, "histogram", h->help);
	for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
		total += h->count[i];
		keep_error(o, buf_printf(o->buf, "%s_bucket{le=\"%g\"} %llu\n", h->name, bounds[i], (unsigned long long)total));
	}
	total += h->count[ARRAY_LEN(bounds)];
	keep_error(o, buf_printf(o->buf, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.17g\n%s_count %llu\n", h->name,
				 (unsigned long long)total, h->name, h->sum, h->name, (unsigned long long)total));
}

int api_metrics_page(struct api_metrics *m, struct buf *ret)
{
	struct api_metrics_out o = { .buf = ret };

	list_foreach(&m->collectors, struct collector, all, c)
		c->fn(&o, c->arg);
	list_foreach(&m->histograms, struct histogram, all, h)
		write_histogram(&o, h);
	return o.error;
}
