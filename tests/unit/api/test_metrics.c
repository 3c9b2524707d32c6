/* The metrics page: its form, and histograms that add up. */
#include <criterion/criterion.h>
#include <string.h>

#include "api/common/metrics.h"

TestSuite(metrics, .timeout = 10);

static void collect(struct api_metrics_out *o, void *arg)
{
	api_metrics_gauge(o, "x_open", "state=\"a\"", "Things.", 1);
	api_metrics_gauge(o, "x_open", "state=\"b\"", "Things.", 2);
	api_metrics_counter(o, "x_total", NULL, "More.", *(double *)arg);
}

Test(metrics, page)
{
	struct api_metrics *m = api_metrics_new();
	double big = 12345678901234.0;
	struct buf b;

	buf_init(&b, 1 << 16);
	api_metrics_add(m, collect, &big);
	cr_assert_eq(api_metrics_page(m, &b), 0);
	cr_assert_str_eq(b.data, "# HELP x_open Things.\n# TYPE x_open gauge\nx_open{state=\"a\"} 1\nx_open{state=\"b\"} 2\n"
				 "# HELP x_total More.\n# TYPE x_total counter\nx_total 12345678901234\n");
	buf_done(&b);
	api_metrics_free(m);
}

Test(metrics, histogram)
{
	struct api_metrics *m = api_metrics_new();
	struct buf b;

	buf_init(&b, 1 << 16);
	api_metrics_observe(m, "t_seconds", "Time.", 400);        /* 0.4 ms: the first bucket */
	api_metrics_observe(m, "t_seconds", "Time.", 500);        /* on its bound */
	api_metrics_observe(m, "t_seconds", "Time.", 2000000);    /* 2 s */
	api_metrics_observe(m, "t_seconds", "Time.", 7200000000); /* beyond all */
	cr_assert_eq(api_metrics_page(m, &b), 0);
	cr_assert_not_null(strstr(b.data, "# TYPE t_seconds histogram\nt_seconds_bucket{le=\"0.0005\"} 2\n"));
	cr_assert_not_null(strstr(b.data, "t_seconds_bucket{le=\"1\"} 2\n"));
	cr_assert_not_null(strstr(b.data, "t_seconds_bucket{le=\"2.5\"} 3\n"));
	cr_assert_not_null(strstr(b.data, "t_seconds_bucket{le=\"600\"} 3\nt_seconds_bucket{le=\"+Inf\"} 4\n"));
	cr_assert_not_null(strstr(b.data, "t_seconds_count 4\n"));
	buf_done(&b);
	api_metrics_free(m);
}

Test(metrics, a_page_that_does_not_fit_is_an_error)
{
	struct api_metrics *m = api_metrics_new();
	double v = 1;
	struct buf b;

	buf_init(&b, 20);
	api_metrics_add(m, collect, &v);
	cr_assert_lt(api_metrics_page(m, &b), 0);
	buf_done(&b);
	api_metrics_free(m);
}
