/* openreward runs, openreward rollouts RUN [ROLLOUT]: what agents did, for people, or as JSON lines for programs. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage_runs[] = "usage: openreward runs [--search TEXT] [--limit N] [--json] [--data DIR]\n"
				 "Lists runs, newest first: 20, or --limit. --json: one object a line.\n";
static const char usage_rollouts[] =
	"usage: openreward rollouts RUN [ROLLOUT] [--limit N] [--json] [--data DIR]\n"
	"Lists the rollouts of a run (its name or id), newest first: 20, or --limit; or shows the messages of\n"
	"one: all, or --limit. --json: one object a line.\n";

#define PAGE 1000u

struct listing {
	const char *data, *search;
	uint64_t limit;
	bool json;
	const char *head; /* printed before the first of them; NULL = none */
	const char *key;  /* of the list in the answer */
	void (*print)(json_t *item);
};

static const char *text_of(json_t *item, const char *key, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(item, key));

	return text ? text : otherwise;
}

static void print_json(json_t *item)
{
	auto_free char *text = json_dumps(item, JSON_COMPACT);

	puts(text);
}

/* -- pages --------------------------------------------------------------------------------------------------------- */

static int put_parameter(struct buf *b, const char *name, const char *value)
{
	int r = str_empty(value) ? 0 : buf_printf(b, "&%s=", name);

	return r < 0 || str_empty(value) ? r : str_percent_encode(b, value);
}

static int page_path(const char *path, const struct listing *l, const char *token, char **ret, struct err *err)
{
	auto_buf struct buf b = { 0 };
	int r;

	buf_init(&b, 64 * 1024);
	r = buf_printf(&b, "%s?limit=%llu", path, (unsigned long long)MIN(l->limit, PAGE));
	r = r < 0 ? r : put_parameter(&b, "search", l->search);
	r = r < 0 ? r : put_parameter(&b, "pageToken", token);
	if (r < 0)
		return err_set(err, -EINVAL, "the arguments are too long");
	*ret = buf_steal(&b, NULL);
	return 0;
}

static void print_all(struct listing *l, json_t *page)
{
	json_t *item;
	size_t i;

	if (l->head && !l->json)
		fputs(l->head, stdout);
	l->head = NULL;
	json_array_foreach(json_object_get(page, l->key), i, item) {
		if (!l->limit)
			return;
		l->limit--;
		if (l->json)
			print_json(item);
		else
			l->print(item);
	}
}

/* Prints up to l->limit of what path lists. */
static int list(const struct cli_target *t, const char *path, struct listing *l, struct err *err)
{
	auto_free char *token = NULL;

	do {
		auto_free char *full = NULL;
		auto_json page = NULL;
		int r = page_path(path, l, token, &full, err);
		r = r < 0 ? r : cli_ask(t, "GET", full, NULL, &page, err);
		if (r < 0)
			return r;
		print_all(l, page);
		free(token);
		token = xstrdup(json_string_value(json_object_get(page, "nextPageToken")));
	} while (token && l->limit);
	return 0;
}

/* -- what is printed ----------------------------------------------------------------------------------------------- */

static void print_reward(json_t *item, const char *key)
{
	json_t *v = json_object_get(item, key);

	if (json_is_number(v))
		printf(" %9.3f", json_number_value(v));
	else
		printf(" %9s", "-");
}

/* What a model or a tool wrote must not steer the terminal. */
static void print_safely(const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s, next = (unsigned char)s[1];
		bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0; /* the control characters that take two bytes */
		if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
			printf("\\x%02x", c);
		else if (c1)
			printf("\\x%02x", (unsigned char)*++s);
		else
			putchar(c);
	}
}

static void print_name(json_t *item, const char *key, const char *otherwise, int width)
{
	const char *text = text_of(item, key, otherwise);
	int chars = 0;

	print_safely(text);
	for (; *text; text++)
		chars += ((unsigned char)*text & 0xc0) != 0x80;
	printf("%*s", MAX(0, width - chars), "");
}

static void print_run(json_t *run)
{
	printf("%-36s  ", text_of(run, "id", "-"));
	print_name(run, "name", "-", 40);
	printf(" %9lld", (long long)json_integer_value(json_object_get(run, "num_rollouts")));
	print_reward(run, "avg_rollout_reward");
	printf("  %.19s\n", text_of(run, "created_at", "-"));
}

static void print_rollout(json_t *rollout)
{
	printf("%-36s  ", text_of(rollout, "id", "-"));
	print_name(rollout, "rolloutName", "-", 24);
	putchar(' ');
	print_name(rollout, "environment", "-", 24);
	print_reward(rollout, "max_reward");
	printf(" %8lld", (long long)json_integer_value(json_object_get(rollout, "num_messages")));
	printf("  %.19s\n", text_of(rollout, "created_at", "-"));
}

static void print_message(json_t *message)
{
	json_t *reward = json_object_get(message, "reward");
	const char *name = text_of(message, "name", NULL), *text = text_of(message, "content", NULL);

	printf("-- %lld  %s", (long long)json_integer_value(json_object_get(message, "index")),
	       text_of(message, "type", "-"));
	if (name) {
		putchar(' ');
		print_safely(name);
	}
	if (json_is_number(reward))
		printf("  reward %g", json_number_value(reward));
	if (json_is_true(json_object_get(message, "isFinished")))
		printf("  finished");
	putchar('\n');
	print_safely(text ? text : text_of(message, "summary", ""));
	putchar('\n');
}

/* -- the verbs ----------------------------------------------------------------------------------------------------- */

static int run_list(const char *path, struct listing *l)
{
	struct cli_target t = { 0 };
	struct err err;
	int r = cli_target_find(&t, l->data, &err);

	r = r < 0 ? r : list(&t, path, l, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

/* True: the verb is over, with *ret_status. */
static bool options(int argc, char **argv, const char *usage, struct listing *l, int *ret_status)
{
	static const struct option known[] = {
		{ "search", required_argument, NULL, 's' }, { "limit", required_argument, NULL, 'l' },
		{ "json", no_argument, NULL, 'j' },         { "data", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },         { 0 }
	};

	*ret_status = 2;
	for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (o) {
		case 's':
			l->search = optarg;
			break;
		case 'j':
			l->json = true;
			break;
		case 'd':
			l->data = optarg;
			break;
		case 'l':
			if (str_to_u64(optarg, &l->limit) == 0 && l->limit)
				break;
			*ret_status =
				cli_misuse(usage, "--limit: \"%s\": expected a whole number of at least 1", optarg);
			return true;
		case 'h':
			fputs(usage, stdout);
			*ret_status = 0;
			return true;
		default:
			return true; /* getopt has said what it does not know */
		}
	}
	return false;
}

int cli_runs(int argc, char **argv)
{
	struct listing l = { .limit = 20, .key = "runs", .print = print_run };
	auto_free char *head = xasprintf("%-36s  %-40s %9s %9s  %s\n", "ID", "NAME", "ROLLOUTS", "REWARD", "CREATED");
	int status;

	l.head = head;
	if (options(argc, argv, usage_runs, &l, &status))
		return status;
	if (optind != argc)
		return cli_misuse(usage_runs, "runs takes no argument, but \"%s\" is one", argv[optind]);
	return run_list("/v1/runs", &l);
}

static char *path_of(const char *before, const char *name, const char *after)
{
	auto_free char *path = cli_path(before, name);

	return xasprintf("%s%s", path, after);
}

int cli_rollouts(int argc, char **argv)
{
	struct listing l = { .limit = 0 };
	auto_free char *head = xasprintf("%-36s  %-24s %-24s %9s %8s  %s\n", "ID", "NAME", "ENVIRONMENT", "REWARD",
					 "MESSAGES", "CREATED");
	int status;

	if (options(argc, argv, usage_rollouts, &l, &status))
		return status;
	bool one = argc - optind == 2;
	if (l.search)
		return cli_misuse(usage_rollouts, "--search is an option of `openreward runs`");
	if (argc - optind != 1 && !one)
		return cli_misuse(usage_rollouts, "rollouts takes a run, and perhaps one of its rollouts");
	l.key = one ? "messages" : "rollouts";
	l.print = one ? print_message : print_rollout;
	if (!l.limit)
		l.limit = one ? UINT64_MAX : 20;
	auto_free char *path =
		one ? path_of("/v1/rollouts/", argv[optind + 1], "") : path_of("/v1/runs/", argv[optind], "/rollouts");
	l.head = one ? NULL : head;
	return run_list(path, &l);
}
