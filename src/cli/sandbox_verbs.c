/* openreward sandbox ls | top | inspect | rm | exec | shell | logs: sandboxes that somebody else made. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/sandbox.h"

#define RETRIES 120
#define RETRY_MS 500
#define PAGE 500
#define BODY_MAX (1024u * 1024)

struct args {
	const char *usage, *data, *id;
	const char *sidecar;
	bool input, terminal, detach, follow, previous;
	char **rest; /* behind the id, without "--" */
	struct cli_target target;
};

volatile sig_atomic_t sandbox_interrupts;

/* -- calls ------------------------------------------------------------------------------------------------------- */

int sandbox_call(const struct cli_target *t, const char *method, const char *path, const char *body, json_t **ret,
		 struct err *err)
{
	struct cli_request rq = { .method = method, .path = path, .body = body, .body_len = body ? strlen(body) : 0 };
	int r = cli_http(t, &rq, err);

	if (r == 0 && ret)
		r = json_read_object(ret, rq.answer.data, rq.answer.len, err);
	cli_request_done(&rq);
	return r;
}

/* Half a second, which more interrupts than `most` end. */
static bool pause_unless(int most)
{
	struct timespec left = { .tv_nsec = RETRY_MS * 1000000L };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		if (sandbox_interrupts > most)
			return false;
	return true;
}

bool sandbox_again(int r, unsigned *tries)
{
	if ((r != -EPIPE && r != -ECONNREFUSED) || (*tries)++ >= RETRIES)
		return false;
	return pause_unless(sandbox_interrupts > 1 ? sandbox_interrupts : 1);
}

static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

static double number_of(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* Calls fn for every sandbox that the key may see. */
static int each(struct args *a, void (*fn)(struct args *a, json_t *one), struct err *err)
{
	for (size_t offset = 0;; offset += PAGE) {
		auto_free char *path = xasprintf("/v1/sandboxes?limit=%d&offset=%zu", PAGE, offset);
		auto_json page = NULL;
		json_t *list = NULL, *one;
		size_t i;
		int r = sandbox_call(&a->target, "GET", path, NULL, &page, err);

		r = r < 0 ? r : json_get_array(page, "sandboxes", &list, err);
		if (r < 0)
			return r;
		json_array_foreach(list, i, one)
			fn(a, one);
		if (json_array_size(list) < PAGE)
			return 0;
	}
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

static void print_one(struct args *a, json_t *s)
{
	(void)a;
	printf("%-36s  %-8s  %5.0f s  %5.0f s  %4g:%-4g  %-7s  %s\n", text_of(s, "id"), text_of(s, "state"), number_of(s, "age_s"),
	       number_of(s, "lease_left_s"), number_of(s, "cpus"), number_of(s, "memory_bytes") / (1u << 30), text_of(s, "network"),
	       text_of(s, "image"));
}

static int verb_ls(struct args *a, struct err *err)
{
	printf("%-36s  %-8s  %7s  %7s  %-9s  %-7s  %s\n", "ID", "STATE", "AGE", "LEASE", "SIZE", "NETWORK", "IMAGE");
	return each(a, print_one, err);
}

static void print_usage(struct args *a, json_t *s)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s", text_of(s, "id"));
	auto_json full = NULL;
	json_t *u;
	struct err err;

	if (sandbox_call(&a->target, "GET", path, NULL, &full, &err) < 0)
		return; /* it has just ended */
	u = json_object_get(full, "usage");
	printf("%-36s  %10.1f s  %8.1f MiB  %8.1f MiB  %5.0f  %4.0f  %s\n", text_of(s, "id"), number_of(u, "cpu_s"),
	       number_of(u, "memory_bytes") / (1 << 20), number_of(u, "memory_peak_bytes") / (1 << 20), number_of(u, "pids"),
	       number_of(u, "runs"), text_of(s, "image"));
}

static int verb_top(struct args *a, struct err *err)
{
	printf("%-36s  %12s  %12s  %12s  %5s  %4s  %s\n", "ID", "CPU", "MEMORY", "PEAK", "PIDS", "RUNS", "IMAGE");
	return each(a, print_usage, err);
}

static int verb_inspect(struct args *a, struct err *err)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s", a->id);
	auto_json one = NULL;
	int r = sandbox_call(&a->target, "GET", path, NULL, &one, err);

	if (r < 0)
		return r;
	json_dumpf(one, stdout, JSON_INDENT(2));
	putchar('\n');
	return 0;
}

static int verb_rm(struct args *a, struct err *err)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s", a->id);

	return sandbox_call(&a->target, "DELETE", path, NULL, NULL, err);
}

/* -- runs -------------------------------------------------------------------------------------------------------- */

static int start(struct args *a, const char *cmd, bool separate, json_t **ret, struct err *err)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s/runs", a->id);
	auto_buf struct buf b = { 0 };
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	struct json_writer w;

	if (a->terminal && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
		size.ws_row = 24;
	buf_init(&b, BODY_MAX);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "cmd", cmd);
	json_kv_str(&w, "shell", "/bin/sh");
	json_kv_bool(&w, "tty", a->terminal);
	json_kv_bool(&w, "separate", separate);
	json_kv_bool(&w, "stdin", a->input);
	json_kv_str(&w, "keep", a->detach ? "first" : "last");
	json_kv_i64(&w, "rows", MAX(size.ws_row, 1));
	json_kv_i64(&w, "cols", MAX(size.ws_col, 1));
	json_close(&w);
	if (json_write_end(&w) < 0)
		return err_set(err, -EMSGSIZE, "the command is longer than 1 MiB");
	return sandbox_call(&a->target, "POST", path, b.data, ret, err);
}

static void forget(const struct attach *at)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s/runs/%s", at->sandbox, at->run);
	struct err err;

	if (sandbox_call(at->target, "DELETE", path, NULL, NULL, &err) < 0)
		return; /* it goes with its sandbox */
}

static int run(struct args *a, const char *cmd, struct err *err)
{
	bool separate = !a->terminal && !a->detach;
	auto_json made = NULL;
	const char *id = NULL;
	int r = start(a, cmd, separate, &made, err);

	r = r < 0 ? r : json_need_str(made, "id", &id, err);
	if (r < 0)
		return r;
	if (a->detach) {
		puts(id);
		return 0;
	}
	struct attach at = {
		.target = &a->target, .sandbox = a->id, .run = id, .terminal = a->terminal, .separate = separate,
		.input = a->input || a->terminal, .follow = true, .owner = true,
	};
	r = attach_run(&at, err);
	r = r < 0 ? r : attach_result(&at, err);
	forget(&at); /* kills what was given up */
	return r;
}

static int verb_exec(struct args *a, struct err *err)
{
	auto_buf struct buf words = { 0 }, cmd = { 0 };

	buf_init(&words, BODY_MAX);
	buf_init(&cmd, BODY_MAX + 8);
	if (!*a->rest)
		return cli_misuse(a->usage, "sandbox exec: which command?");
	/* The command itself is the run's first process, not a shell around it. */
	if (sandbox_quote(&words, a->rest) < 0 || buf_printf(&cmd, "exec %s", words.data) < 0)
		return err_set(err, -EMSGSIZE, "the command is longer than 1 MiB");
	return run(a, cmd.data, err);
}

int sandbox_exec(const struct cli_target *t, const char *id, char **cmd, bool input, bool terminal, struct err *err)
{
	struct args a = { .id = id, .input = input, .terminal = terminal, .rest = cmd, .target = *t };

	return verb_exec(&a, err);
}

static int verb_shell(struct args *a, struct err *err)
{
	a->terminal = true;
	return run(a, *a->rest ? *a->rest : "[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l", err);
}

static int verb_logs(struct args *a, struct err *err)
{
	struct attach at = {
		.target = &a->target, .sandbox = a->id, .run = a->rest[0], .follow = a->follow, .sidecar = a->sidecar,
		.previous = a->previous,
	};
	auto_free char *path = NULL;
	auto_json one = NULL;
	int r;

	if (a->sidecar)
		return attach_run(&at, err);
	if (!at.run)
		return cli_misuse(a->usage, "sandbox logs: which run, or which --sidecar?");
	path = xasprintf("/v1/sandboxes/%s/runs/%s", a->id, at.run);
	r = sandbox_call(&a->target, "GET", path, NULL, &one, err);
	r = r < 0 ? r : json_get_bool(one, "separate", &at.separate, err);
	return r < 0 ? r : attach_run(&at, err);
}

/* -- the words --------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*fn)(struct args *a, struct err *err); /* exit status, or a negative errno */
	bool needs_id;
} verbs[] = {
	{ "ls", verb_ls, false }, { "top", verb_top, false }, { "inspect", verb_inspect, true }, { "rm", verb_rm, true },
	{ "exec", verb_exec, true }, { "shell", verb_shell, true }, { "logs", verb_logs, true },
};

/* True = go on; else *ret_status. */
static bool read_args(struct args *a, int argc, char **argv, int *ret_status)
{
	static const struct option options[] = {
		{ "interactive", no_argument, NULL, 'i' }, { "tty", no_argument, NULL, 't' }, { "detach", no_argument, NULL, 'D' },
		{ "follow", no_argument, NULL, 'f' }, { "sidecar", required_argument, NULL, 's' },
		{ "previous", no_argument, NULL, 'p' },
		{ "data", required_argument, NULL, 'd' }, { "help", no_argument, NULL, 'h' }, { 0 },
	};

	for (int o; (o = getopt_long(argc, argv, "+itf", options, NULL)) != -1;) {
		switch (o) {
		case 'i': a->input = true; break;
		case 't': a->terminal = true; break;
		case 'D': a->detach = true; break;
		case 'f': a->follow = true; break;
		case 's': a->sidecar = optarg; break;
		case 'p': a->previous = true; break;
		case 'd': a->data = optarg; break;
		default:
			if (o == 'h')
				fputs(a->usage, stdout);
			*ret_status = o == 'h' ? 0 : 2;
			return false;
		}
	}
	if (optind < argc)
		a->id = argv[optind++];
	if (optind < argc && str_eq(argv[optind], "--"))
		optind++;
	a->rest = argv + optind;
	return true;
}

int sandbox_verbs(int argc, char **argv, const char *usage)
{
	struct args a = { .usage = usage };
	struct err err = ERR_INIT;
	size_t i = 0;
	int r;

	while (i < ARRAY_LEN(verbs) && !str_eq(verbs[i].name, argv[0]))
		i++;
	if (i == ARRAY_LEN(verbs))
		return -1;
	if (!read_args(&a, argc, argv, &r))
		return r;
	if (verbs[i].needs_id && !a.id)
		return cli_misuse(usage, "sandbox %s: which sandbox?", verbs[i].name);
	r = cli_target_find(&a.target, a.data, &err);
	r = r < 0 ? r : verbs[i].fn(&a, &err);
	cli_target_done(&a.target);
	if (r == -EINTR)
		return 130;
	return r < 0 ? cli_fail("%s", err.msg) : r;
}
