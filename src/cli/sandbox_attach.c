/* openreward sandbox exec, shell, logs: the streams of a run, both ways at once. Output is one long answer, input a request
 * for each piece; both carry offsets, so a connection that breaks is taken up where it was. */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/sandbox.h"

#define PIECE_BYTES (64u * 1024)
#define ANSWER_MAX (64u * 1024)
#define FRAME_HEAD 8 /* sandbox/wire.h has the format */

struct stream {
	const struct attach *a;
	CURLM *multi;
	CURL *out, *in;
	struct curl_slist *headers;
	char *out_url, *in_url;
	uint64_t received;     /* bytes of output so far */
	unsigned char head[FRAME_HEAD];
	size_t n_head;         /* of the frame that is being read */
	uint64_t frame_left;
	char piece[PIECE_BYTES];
	size_t n_piece;        /* input on its way; 0 with `closing` = its end is */
	uint64_t sent;
	bool input_over, closing, sending;
	int write_error;       /* our own stdout is gone */
	struct buf answer;     /* of a request that was refused */
	struct buf in_answer;  /* the same of input */
	unsigned tries;        /* since something came */
	unsigned in_tries;     /* since a piece was taken */
};

static int wake[2] = { -1, -1 };
static volatile sig_atomic_t resized, last_signal;

static void on_signal(int signo)
{
	int saved = errno;

	if (signo == SIGWINCH) {
		resized = 1;
	} else {
		sandbox_interrupts++;
		last_signal = signo;
	}
	(void)!write(wake[1], "", 1);
	errno = saved;
}

static int refused(const struct buf *answer, long status, struct err *err)
{
	auto_json body = NULL;
	struct err ignored;
	const char *message = NULL;

	if (json_read_object(&body, answer->data, answer->len, &ignored) == 0)
		message = json_string_value(json_object_get(body, "message"));
	return err_set(err, status == 404 ? -ENOENT : -EPROTO, "%s", message ? message : "the server refuses the request");
}

/* -- output ------------------------------------------------------------------------------------------------------ */

static void put(struct stream *s, int fd, const char *p, size_t len)
{
	int r = fd_write_all(fd, p, len);

	if (r < 0 && !s->write_error)
		s->write_error = r;
}

static uint32_t frame_length(const unsigned char *h)
{
	return (uint32_t)h[4] << 24 | (uint32_t)h[5] << 16 | (uint32_t)h[6] << 8 | h[7];
}

static void put_frames(struct stream *s, const char *p, size_t len)
{
	while (len > 0) {
		size_t n = s->frame_left ? MIN((uint64_t)len, s->frame_left) : MIN(len, FRAME_HEAD - s->n_head);

		if (s->frame_left) {
			put(s, s->head[0] == 2 ? STDERR_FILENO : STDOUT_FILENO, p, n);
			s->frame_left -= n;
		} else {
			memcpy(s->head + s->n_head, p, n);
			s->n_head += n;
		}
		if (s->n_head == FRAME_HEAD && !s->frame_left) {
			s->frame_left = frame_length(s->head);
			s->n_head = 0;
		}
		p += n;
		len -= n;
	}
}

static size_t on_output(char *p, size_t size, size_t n, void *arg)
{
	struct stream *s = arg;
	size_t len = size * n;
	long status = 0;

	curl_easy_getinfo(s->out, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		return buf_append(&s->answer, p, len) < 0 ? 0 : len;
	s->received += len;
	s->tries = 0;
	if (s->a->separate)
		put_frames(s, p, len);
	else
		put(s, STDOUT_FILENO, p, len);
	return s->write_error ? 0 : len;
}

static void start_output(struct stream *s)
{
	const struct attach *a = s->a;

	free(s->out_url);
	if (a->sidecar) /* which nobody who looks on is to hold up */
		s->out_url = xasprintf("%s/v1/sandboxes/%s/sidecars/%s/output?offset=%llu%s%s", a->target->url, a->sandbox,
				       a->sidecar,
				       (unsigned long long)s->received, a->previous ? "&previous=1" : "",
				       a->follow ? "&follow=1" : "");
	else
		s->out_url = xasprintf("%s/v1/sandboxes/%s/runs/%s/output?offset=%llu%s", a->target->url, a->sandbox, a->run,
				       (unsigned long long)s->received, a->follow ? "&follow=1&flow=1" : "");
	curl_easy_setopt(s->out, CURLOPT_URL, s->out_url);
	curl_multi_add_handle(s->multi, s->out);
}

/* -- input ------------------------------------------------------------------------------------------------------- */

static size_t on_input_answer(char *p, size_t size, size_t n, void *arg)
{
	struct stream *s = arg;

	if (buf_append(&s->in_answer, p, size * n) < 0)
		buf_clear(&s->in_answer); /* a proxy's page, no message of ours */
	return size * n;
}

static void start_input(struct stream *s)
{
	const struct attach *a = s->a;

	free(s->in_url);
	s->in_url = xasprintf("%s/v1/sandboxes/%s/runs/%s/stdin?offset=%llu%s", a->target->url, a->sandbox, a->run,
			      (unsigned long long)s->sent, s->closing ? "&close=1" : "");
	curl_easy_setopt(s->in, CURLOPT_URL, s->in_url);
	curl_easy_setopt(s->in, CURLOPT_POSTFIELDS, s->piece);
	curl_easy_setopt(s->in, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->n_piece);
	buf_clear(&s->in_answer);
	s->sending = true;
	curl_multi_add_handle(s->multi, s->in);
}

static void read_input(struct stream *s)
{
	ssize_t n = read(STDIN_FILENO, s->piece, sizeof(s->piece));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	s->n_piece = n > 0 ? (size_t)n : 0;
	s->input_over = n <= 0;
	s->closing = n <= 0;
	if (n > 0 || !s->a->terminal)
		start_input(s);
}

static bool is_for_now(CURLcode code, long status)
{
	return code != CURLE_OK || status == 429 || (status >= 502 && status <= 504);
}

/* A command that takes no input any more is no error: `head` is one. */
static int input_done(struct stream *s, CURLcode code, struct err *err)
{
	long status = 0;

	curl_multi_remove_handle(s->multi, s->in);
	curl_easy_getinfo(s->in, CURLINFO_RESPONSE_CODE, &status);
	s->sending = false;
	if (code == CURLE_OK && status == 200) {
		s->sent += s->n_piece;
		s->in_tries = 0;
		return 0;
	}
	if (is_for_now(code, status) && sandbox_again(-EPIPE, &s->in_tries)) {
		start_input(s); /* its offset tells what was taken already */
		return 0;
	}
	s->input_over = true;
	if (code != CURLE_OK)
		return err_set(err, -EPIPE, "%s: %s", s->a->target->url, curl_easy_strerror(code));
	return status == 409 ? 0 : refused(&s->in_answer, status, err);
}

/* -- signals ----------------------------------------------------------------------------------------------------- */

static void post(const struct attach *a, const char *what, const char *body)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s/runs/%s/%s", a->sandbox, a->run, what);
	struct err err;

	if (sandbox_call(a->target, "POST", path, body, NULL, &err) < 0)
		return; /* the run may have ended just now */
}

static int take_signals(struct stream *s, struct err *err)
{
	struct winsize size;
	char drain[64];

	while (read(wake[0], drain, sizeof(drain)) > 0)
		continue;
	if (resized && s->a->terminal && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) {
		auto_free char *body = xasprintf("{\"rows\": %u, \"cols\": %u}", MAX(size.ws_row, 1u), MAX(size.ws_col, 1u));

		post(s->a, "resize", body);
	}
	resized = 0;
	if (sandbox_interrupts == 1 && last_signal) {
		auto_free char *body = xasprintf("{\"signal\": %d}", (int)last_signal);

		last_signal = 0;
		if (s->a->owner)
			post(s->a, "signal", body);
		else
			sandbox_interrupts++;
	}
	return sandbox_interrupts > 1 ? err_set(err, -EINTR, "interrupted") : 0;
}

/* -- both -------------------------------------------------------------------------------------------------------- */

/* 1 = all is there, 0 = it goes on. */
static int output_done(struct stream *s, CURLcode code, struct err *err)
{
	long status = 0;

	curl_multi_remove_handle(s->multi, s->out);
	curl_easy_getinfo(s->out, CURLINFO_RESPONSE_CODE, &status);
	if (s->write_error)
		return err_sys_code(err, s->write_error, "write the output");
	if (code == CURLE_OK && status == 200)
		return 1;
	if (code == CURLE_OK)
		return refused(&s->answer, status, err);
	if (!sandbox_again(-EPIPE, &s->tries))
		return err_set(err, -EPIPE, "%s: %s", s->a->target->url, curl_easy_strerror(code));
	start_output(s);
	return 0;
}

static int take_messages(struct stream *s, struct err *err)
{
	CURLMsg *m;
	int left, r = 0;

	while (r == 0 && (m = curl_multi_info_read(s->multi, &left))) {
		if (m->msg != CURLMSG_DONE)
			continue;
		if (m->easy_handle == s->in)
			r = input_done(s, m->data.result, err);
		else
			r = output_done(s, m->data.result, err);
	}
	return r;
}

static int turn(struct stream *s, struct err *err)
{
	struct curl_waitfd extra[2] = { { .fd = wake[0], .events = CURL_WAIT_POLLIN },
					 { .fd = STDIN_FILENO, .events = CURL_WAIT_POLLIN } };
	bool reads = s->a->input && !s->input_over && !s->sending;
	int running, r;

	if (curl_multi_perform(s->multi, &running) != CURLM_OK)
		return err_set(err, -EIO, "libcurl failed");
	r = take_messages(s, err);
	if (r != 0)
		return r;
	if (curl_multi_poll(s->multi, extra, reads ? 2 : 1, 1000, NULL) != CURLM_OK)
		return err_set(err, -EIO, "libcurl failed");
	if (extra[0].revents)
		r = take_signals(s, err);
	if (reads && extra[1].revents)
		read_input(s);
	return r;
}

static CURL *handle(struct stream *s, curl_write_callback fn)
{
	CURL *c = curl_easy_init();

	if (!c)
		return NULL;
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, s->headers);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, fn);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	cli_trust(c, s->a->target);
	curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "openreward/" OPENREWARD_VERSION);
	return c;
}

static void headers(struct stream *s)
{
	auto_free char *key = xasprintf("X-API-Key: %s", s->a->target->key);

	s->headers = curl_slist_append(NULL, "Content-Type: application/octet-stream");
	s->headers = curl_slist_append(s->headers, "Expect:");
	if (*s->a->target->key)
		s->headers = curl_slist_append(s->headers, key);
}

static void stream_done(struct stream *s)
{
	if (s->out)
		curl_multi_remove_handle(s->multi, s->out);
	if (s->in)
		curl_multi_remove_handle(s->multi, s->in);
	curl_easy_cleanup(s->out);
	curl_easy_cleanup(s->in);
	curl_multi_cleanup(s->multi);
	curl_slist_free_all(s->headers);
	buf_done(&s->answer);
	buf_done(&s->in_answer);
	free(s->out_url);
	free(s->in_url);
	free(s);
}

static int pass(const struct attach *a, struct err *err)
{
	struct stream *s = xcalloc(1, sizeof(*s));
	int r = 0;

	s->a = a;
	buf_init(&s->answer, ANSWER_MAX);
	buf_init(&s->in_answer, ANSWER_MAX);
	headers(s);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	s->multi = curl_multi_init();
	s->out = handle(s, on_output);
	s->in = handle(s, on_input_answer);
	if (!s->multi || !s->out || !s->in) {
		stream_done(s);
		return err_set(err, -ENOMEM, "libcurl does not start");
	}
	start_output(s);
	while (r == 0)
		r = turn(s, err);
	stream_done(s);
	return r < 0 ? r : 0;
}

/* -- the terminal ------------------------------------------------------------------------------------------------ */

int attach_run(const struct attach *a, struct err *err)
{
	struct termios cooked, raw;
	bool is_raw = a->terminal && tcgetattr(STDIN_FILENO, &cooked) == 0;
	struct sigaction sa = { .sa_handler = on_signal };
	int r;

	if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "make a pipe");
	sigaction(SIGWINCH, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (is_raw) {
		raw = cooked;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	}
	r = pass(a, err);
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &cooked);
	wake[0] = fd_close(wake[0]);
	wake[1] = fd_close(wake[1]);
	return r;
}

int attach_result(const struct attach *a, struct err *err)
{
	auto_free char *path = xasprintf("/v1/sandboxes/%s/runs/%s/wait", a->sandbox, a->run);
	auto_json run = NULL;
	const char *error = NULL;
	bool timed_out = false;
	int64_t code = 1;
	unsigned tries = 0;
	int r;

	do
		r = sandbox_call(a->target, "POST", path, "", &run, err);
	while (sandbox_again(r, &tries));
	r = r < 0 ? r : json_get_str(run, "error", &error, err);
	r = r < 0 ? r : json_get_i64(run, "return_code", 0, 255, &code, err);
	r = r < 0 ? r : json_get_bool(run, "timed_out", &timed_out, err);
	if (r < 0)
		return r;
	if (error)
		return err_set(err, -EPROTO, "%s", error);
	if (timed_out)
		fputs("openreward: the command was ended by its time-out\n", stderr);
	return (int)code;
}
