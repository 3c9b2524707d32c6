/* What comes line by line: progress as JSON lines, results as server-sent events. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "json/json.h"

#define LAST_MAX (1024u * 1024)

void cli_progress_init(struct cli_progress *p, FILE *out)
{
	*p = (struct cli_progress){ .out = out };
	buf_init(&p->last, LAST_MAX);
}

void cli_progress_done(struct cli_progress *p)
{
	for (size_t i = 0; i < ARRAY_LEN(p->tail); i++)
		free(p->tail[i]);
	buf_done(&p->last);
}

static void remember(struct cli_progress *p, const char *text)
{
	char **place = &p->tail[p->next++ % ARRAY_LEN(p->tail)];

	free(*place);
	*place = xstrdup(text);
}

void cli_progress_line(void *progress, const char *line, size_t len)
{
	struct cli_progress *p = progress;
	auto_json obj = NULL;
	const char *text = NULL;
	struct err err;

	if (len == 0 || json_read_object(&obj, line, len, &err) < 0)
		return; /* a heartbeat, or nothing that this version understands */
	if (json_get_str(obj, "line", &text, &err) == 0 && text) {
		remember(p, text);
		if (p->out) {
			fprintf(p->out, "%s\n", text);
			fflush(p->out);
		}
		return;
	}
	buf_clear(&p->last);
	if (buf_append(&p->last, line, len) < 0)
		buf_clear(&p->last);
}

void cli_events_init(struct cli_events *e, size_t max_bytes)
{
	*e = (struct cli_events){ .event = "" };
	buf_init(&e->json, max_bytes);
	buf_init(&e->error, LAST_MAX);
}

void cli_events_done(struct cli_events *e)
{
	buf_done(&e->json);
	buf_done(&e->error);
}

static void take_data(struct cli_events *e, const char *data, size_t len)
{
	if (str_eq(e->event, "chunk") || str_eq(e->event, "end"))
		e->failed |= buf_append(&e->json, data, len) < 0;
	if (str_eq(e->event, "task_id"))
		snprintf(e->task_id, sizeof(e->task_id), "%.*s", (int)MIN(len, sizeof(e->task_id)), data);
	if (str_eq(e->event, "error"))
		e->failed |= buf_append(&e->error, data, len) < 0;
}

void cli_events_line(void *events, const char *line, size_t len)
{
	struct cli_events *e = events;

	if (len == 0) { /* a blank line ends an event */
		e->ended |= str_eq(e->event, "end");
		e->failed |= str_eq(e->event, "error");
		e->event[0] = '\0';
	} else if (str_starts(line, "event:")) {
		line += strlen("event:");
		snprintf(e->event, sizeof(e->event), "%s", line + strspn(line, " "));
	} else if (str_starts(line, "data:")) {
		size_t skip = strlen("data:") + (line[strlen("data:")] == ' ');
		take_data(e, line + skip, len - skip);
	}
}
