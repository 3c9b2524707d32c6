/* openreward sandbox run IMAGE -- CMD...: a sandbox for one command, through the API that every client uses. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/sandbox.h"

static const char usage[] =
	"usage: openreward sandbox run [--size CPU:GIB] [--no-network] [--env K=V]... [--timeout SECONDS] [--data DIR]\n"
	"                              [-i] [-t] IMAGE -- CMD [ARGUMENTS]\n"
	"Makes a sandbox from the image, runs the command in it, prints its output (standard output and standard error in\n"
	"order; apart with -i, which passes standard input on) and ends with its exit status. -t gives it a terminal. The\n"
	"sandbox is gone afterwards.\n"
	"       openreward sandbox ls | top\n"
	"       openreward sandbox inspect | rm ID\n"
	"       openreward sandbox exec [-i] [-t] [--detach] ID -- CMD [ARGUMENTS]\n"
	"       openreward sandbox shell ID [-- SHELL COMMAND]\n"
	"       openreward sandbox logs [-f] ID RUN\n"
	"       openreward sandbox logs [-f] --sidecar NAME [--previous] ID\n"
	"Sandboxes that somebody else made: what they are and use, a command in one (-i passes standard input on, -t gives it a\n"
	"terminal, --detach prints the run's id and leaves it), a terminal in one, and what a run, or a container beside it, wrote.\n";

#define ENV_MAX 200
#define RESULT_MAX (1024ull * 1024 * 1024)

struct sandbox {
	struct cli_target target;
	const char *image, *size, *timeout, *data;
	const char *env[ENV_MAX];
	size_t n_env;
	bool block_network, input, terminal;
	char **cmd;
	char *sid;
	char task_id[64]; /* of the command, as soon as it is known; "" before */
};

static void on_signal(int signo)
{
	(void)signo;
	sandbox_interrupts++;
}

/* -- bodies ---------------------------------------------------------------------------------------------------- */

static void write_env(struct json_writer *w, const struct sandbox *s)
{
	json_key(w, "env");
	json_open_object(w);
	for (size_t i = 0; i < s->n_env; i++) {
		auto_free char *name = xstrndup(s->env[i], strcspn(s->env[i], "="));
		json_kv_str(w, name, strchr(s->env[i], '=') + 1);
	}
	json_close(w);
}

static int create_body(const struct sandbox *s, struct buf *b)
{
	struct json_writer w;

	json_write_begin(&w, b);
	json_open_object(&w);
	json_kv_str(&w, "image", s->image);
	if (s->size)
		json_kv_str(&w, "machine_size", s->size);
	if (s->n_env)
		write_env(&w, s);
	json_kv_bool(&w, "block_network", s->block_network);
	json_close(&w);
	return json_write_end(&w);
}

/* The words as one line of shell, each in single quotes. */
int sandbox_quote(struct buf *b, char **words)
{
	int r = 0;

	for (; r == 0 && *words; words++) {
		r = buf_puts(b, b->len ? " '" : "'");
		for (const char *p = *words; r == 0 && *p; p++)
			r = *p == '\'' ? buf_puts(b, "'\\''") : buf_append(b, p, 1);
		if (r == 0)
			r = buf_puts(b, "'");
	}
	return r;
}

static int run_body(const struct sandbox *s, struct buf *b, struct err *err)
{
	struct json_writer w;
	auto_buf struct buf cmd = { 0 };
	double seconds = 0;

	if (s->timeout && (str_to_double(s->timeout, &seconds) < 0 || seconds <= 0))
		return err_set(err, -EINVAL, "--timeout: \"%s\": expected seconds, as in 30 or 0.5", s->timeout);
	buf_init(&cmd, 16 * 1024 * 1024);
	if (sandbox_quote(&cmd, s->cmd) < 0)
		return err_set(err, -EMSGSIZE, "the command is longer than 16 MiB");
	json_write_begin(&w, b);
	json_open_object(&w);
	json_kv_str(&w, "cmd", cmd.data);
	json_kv_str(&w, "shell", "/bin/sh");
	if (s->timeout)
		json_kv_double(&w, "timeout_s", seconds);
	if (*s->task_id)
		json_kv_str(&w, "task_id", s->task_id);
	json_close(&w);
	return json_write_end(&w);
}

/* -- calls ----------------------------------------------------------------------------------------------------- */

/* A call that answers with events; *ret: the JSON of chunk and end. Its task_id is kept. */
static int call(struct sandbox *s, const char *path, const struct buf *body, json_t **ret, struct err *err)
{
	struct cli_events ev;
	struct cli_request rq = {
		.method = "POST", .path = path, .body = body->data, .body_len = body->len, .line = cli_events_line, .arg = &ev,
		.session_id = s->sid, .stop = &sandbox_interrupts,
	};

	cli_events_init(&ev, RESULT_MAX);
	int r = cli_http(&s->target, &rq, err);
	cli_request_done(&rq);
	if (*ev.task_id)
		memcpy(s->task_id, ev.task_id, sizeof(s->task_id));
	if (r == 0 && ev.failed)
		r = err_set(err, -EPROTO, "%s", ev.error.len ? ev.error.data : "the answer is too large");
	else if (r == 0 && !ev.ended)
		r = err_set(err, -EPIPE, "the connection to %s broke before the answer was complete", s->target.url);
	r = r < 0 ? r : json_read_object(ret, ev.json.data, ev.json.len, err);
	cli_events_done(&ev);
	return r;
}

static int create(struct sandbox *s, struct err *err)
{
	auto_buf struct buf body = { 0 };
	auto_json answer = NULL;
	const char *sid = NULL;

	buf_init(&body, 4 * 1024 * 1024);
	if (create_body(s, &body) < 0)
		return err_set(err, -EMSGSIZE, "the environment is too large");
	int r = call(s, "/create_sandbox", &body, &answer, err);
	r = r < 0 ? r : json_need_str(answer, "sid", &sid, err);
	if (r == 0)
		s->sid = xstrdup(sid);
	s->task_id[0] = '\0';
	return r;
}

static void delete(struct sandbox *s)
{
	struct cli_request rq = { .method = "POST", .path = "/delete_session", .body = "{}", .body_len = 2, .session_id = s->sid };
	unsigned tries = 0;
	struct err err;
	int r = 0;

	do {
		cli_request_done(&rq);
		r = s->sid ? cli_http(&s->target, &rq, &err) : 0;
	} while (sandbox_again(r, &tries));
	cli_request_done(&rq);
	if (r < 0)
		cli_fail("removing the sandbox: %s", err.msg);
}

static int print_result(json_t *result, struct err *err)
{
	const char *text = NULL;
	int64_t code = 1;
	bool timed_out = false;
	auto_buf struct buf output = { 0 };
	int r = json_get_str(result, "output", &text, err);

	buf_init(&output, RESULT_MAX);
	r = r < 0 ? r : json_get_i64(result, "return_code", 0, 255, &code, err);
	r = r < 0 ? r : json_get_bool(result, "timed_out", &timed_out, err);
	if (r == 0 && text && str_base64_decode(&output, text, strlen(text)) < 0)
		r = err_set(err, -EPROTO, "the server's answer is not base64");
	if (r < 0)
		return r;
	r = fd_write_all(STDOUT_FILENO, output.data, output.len);
	if (r < 0)
		return err_sys_code(err, r, "write the output");
	if (timed_out)
		fputs("openreward: the command was ended by --timeout\n", stderr);
	return (int)code;
}

/* A command whose connection breaks goes on: its result is asked for by its task_id, or by the same body where that had
 * not come. */
static int run_command(struct sandbox *s, struct err *err)
{
	auto_json result = NULL;
	unsigned tries = 0;
	int r;

	do {
		auto_buf struct buf body = { 0 };

		buf_init(&body, 64 * 1024 * 1024);
		r = run_body(s, &body, err);
		r = r < 0 ? r : call(s, "/run", &body, &result, err);
	} while (!sandbox_interrupts && sandbox_again(r, &tries));
	return r < 0 ? r : print_result(result, err);
}

static int run(struct sandbox *s)
{
	struct err err = ERR_INIT;
	int r = cli_target_find(&s->target, s->data, &err);

	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	signal(SIGPIPE, SIG_IGN); /* the sandbox is removed whoever reads */
	r = r < 0 ? r : create(s, &err);
	if (s->input || s->terminal)
		r = r < 0 ? r : sandbox_exec(&s->target, s->sid, s->cmd, s->input, s->terminal, &err);
	else
		r = r < 0 ? r : run_command(s, &err);
	delete(s);
	cli_target_done(&s->target);
	free(s->sid);
	if (r == -EINTR)
		return 130;
	return r < 0 ? cli_fail("%s", err.msg) : r;
}

int cli_sandbox(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size", required_argument, NULL, 's' }, { "no-network", no_argument, NULL, 'n' },
		{ "env", required_argument, NULL, 'e' }, { "timeout", required_argument, NULL, 'T' },
		{ "interactive", no_argument, NULL, 'i' }, { "tty", no_argument, NULL, 't' },
		{ "data", required_argument, NULL, 'd' }, { "help", no_argument, NULL, 'h' }, { 0 },
	};
	struct sandbox s = { 0 };

	if (argc >= 2 && (str_eq(argv[1], "--help") || str_eq(argv[1], "-h"))) {
		fputs(usage, stdout);
		return 0;
	}
	int done = argc < 2 ? -1 : sandbox_verbs(argc - 1, argv + 1, usage);
	if (done >= 0)
		return done;
	if (argc < 2 || !str_eq(argv[1], "run"))
		return cli_misuse(usage, "sandbox: expected run, ls, top, inspect, rm, exec, shell or logs");
	argc--, argv++;
	for (int o; (o = getopt_long(argc, argv, "+it", options, NULL)) != -1;) {
		switch (o) {
		case 's': s.size = optarg; break;
		case 'n': s.block_network = true; break;
		case 'T': s.timeout = optarg; break;
		case 'i': s.input = true; break;
		case 't': s.terminal = true; break;
		case 'd': s.data = optarg; break;
		case 'h': fputs(usage, stdout); return 0;
		case 'e':
			if (!strchr(optarg, '=') || *optarg == '=' || s.n_env == ENV_MAX)
				return cli_misuse(usage, "--env: \"%s\": expected NAME=VALUE, %d times at most", optarg, ENV_MAX);
			s.env[s.n_env++] = optarg;
			break;
		default: return 2;
		}
	}
	if (optind >= argc)
		return cli_misuse(usage, "sandbox run: which image?");
	s.image = argv[optind++];
	if (optind < argc && str_eq(argv[optind], "--"))
		optind++;
	if (optind >= argc)
		return cli_misuse(usage, "sandbox run: which command?");
	if (s.timeout && (s.input || s.terminal))
		return cli_misuse(usage, "sandbox run: --timeout does not go with -i and -t");
	s.cmd = argv + optind;
	return run(&s);
}
