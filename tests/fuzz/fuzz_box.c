/* What a forged init may send to the daemon, and a spawner beside it, while the daemon makes sandboxes, takes over those of a former
 * one, runs commands, opens files and ends all of it: the real engine over real sockets. Every callback comes exactly once, what it is given can be used, and in the end no
 * sandbox, command or descriptor is left. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sandbox/link_private.h"
#include "sandbox/private.h"
#include "script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS 64
#define BOXES 3
#define EXECS 4
#define PEERS (1 + BOXES) /* the spawner, an init each */
#define ASKED 8           /* requests that a peer remembers */
#define TURNS 3

static struct loop *loop;
static struct link link_;
static struct engine *engine;
static struct images *images;
static struct image image;

/* The other ends: what they were asked of late, to be answered, or not, or twice. */
static struct peer {
	int fd; /* -1 = gone */
	uint64_t asked[ASKED];
	uint16_t types[ASKED];
	size_t n;
} peers[PEERS];

static struct held {
	struct engine_box *box;
	bool wanted; /* its create was not answered yet, or its end was not told */
	struct engine_exec *execs[EXECS];
	bool running[EXECS];
} held[BOXES];

static int questions; /* whose callback is owed */

/* Since the start. */
static unsigned long n_created, n_results, n_answered, n_left;

const char *fuzz_missed(void);

/* -- what the engine calls -------------------------------------------------------------------------------------------- */
static void use_err(const struct err *err)
{
	check(err->code < 0 && strnlen(err->msg, sizeof(err->msg)) < sizeof(err->msg) && err->msg[0]);
}

static void on_done(void *arg, const struct err *err)
{
	(void)arg;
	check(questions-- > 0);
	if (err)
		use_err(err);
	n_answered += !err;
}

static void on_fd(void *arg, int fd, const struct err *err)
{
	on_done(arg, err);
	check((fd < 0) == !!err);
	fd_close(fd);
}

static void on_open(void *arg, int fd, uint64_t size, const char *tmp, const struct err *err)
{
	(void)size;
	on_fd(arg, fd, err);
	check(!tmp || strlen(tmp) < WIRE_MAX);
}

static void on_fetched(void *arg, const struct engine_fetched *f, const struct err *err)
{
	on_done(arg, err);
	check(!f == !!err);
	if (!f)
		return;
	free(xmemdup(f->data, f->len)); /* all of it can be read */
	fd_close(f->fd);
}

static void on_usage(void *arg, const struct engine_usage *u, const struct err *err)
{
	on_done(arg, err);
	check(!u == !!err);
}

static void on_more(void *arg)
{
	(void)arg;
}

static void on_exec(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err)
{
	bool *running = arg;
	static char out[65536];

	check(*running && !res == !!err);
	*running = false;
	if (err)
		use_err(err);
	if (res) {
		n_results++;
		check(res->return_code >= 0 && res->return_code <= 255 && engine_outcome_name(res->outcome));
		ssize_t n = engine->ops->exec_read(x, res->stored / 2, out, sizeof(out));
		check(n <= (ssize_t)sizeof(out));
	}
}

static void forget_execs(struct held *h)
{
	for (int i = 0; i < EXECS; i++) {
		if (h->execs[i])
			engine->ops->exec_release(h->execs[i]);
		h->execs[i] = NULL;
	}
}

static void on_end(void *arg, struct engine_box *b, const char *reason)
{
	struct held *h = arg;

	check(h->box == b && h->wanted && *reason);
	for (int i = 0; i < EXECS; i++)
		check(!h->running[i]);
	h->box = NULL;
	h->wanted = false;
	forget_execs(h);
}

static void on_created(void *arg, struct engine_box *b, const struct err *err)
{
	struct held *h = arg;

	check(h->wanted && !h->box && !b == !!err);
	h->box = b;
	h->wanted = b;
	n_created += b != NULL;
	if (err)
		use_err(err);
}

/* -- what the daemon does --------------------------------------------------------------------------------------------- */
static void create(struct script *s, int i)
{
	struct held *h = &held[i];
	char id[37];
	struct engine_spec spec = { .id = id, .image = &image, .size = { 1000, 1 << 30 }, .instance = script_byte(s) & 1, .lease_ms = 1000 };

	if (h->wanted)
		return;
	script_id(id, (unsigned)i);
	h->wanted = true;
	engine->ops->create(engine, &spec, on_created, on_end, h);
}

static void run(struct script *s, struct held *h)
{
	static const char *const argv[] = { "true", NULL };
	uint8_t what = script_byte(s);
	int i = what % EXECS;
	char id[] = { 'r', (char)('0' + i), 0 };
	struct engine_exec_spec spec = { .id = id, .argv = argv, .log_fd = -1, .separate = what & 4, .fetch = what & 8,
		.main = what & 16, .input = what & 32, .max_bytes = 1000, .more = what & 64 ? on_more : NULL };

	if (!h->box || h->execs[i])
		return;
	h->running[i] = engine->ops->exec(h->box, &spec, on_exec, &h->running[i], &h->execs[i], NULL) == 0;
	if (!h->running[i])
		h->execs[i] = NULL;
}

static void ask_exec(struct script *s, struct engine_exec **x, bool *running)
{
	uint8_t what = script_byte(s);

	if (!*x)
		return;
	questions += what % 8 < 5;
	switch (what % 8) {
	case 0:
		engine->ops->exec_fetch(*x, &(struct engine_fetch){ .watch = what & 16, .have = what & 32 }, on_fetched, NULL);
		break;
	case 1:
		engine->ops->exec_input(*x, on_fd, NULL);
		break;
	case 2:
		engine->ops->exec_input_end(*x, on_done, NULL);
		break;
	case 3:
		engine->ops->exec_resize(*x, 3, 4, on_done, NULL);
		break;
	case 4:
		engine->ops->exec_signal(*x, 15, what & 16, on_done, NULL);
		break;
	case 5:
		engine->ops->exec_kill(*x, 9);
		break;
	default: /* no callback comes any more */
		*running = false;
		engine->ops->exec_release(*x);
		*x = NULL;
	}
}

static void ask_box(struct script *s, struct held *h)
{
	uint8_t what = script_byte(s);

	if (!h->box)
		return;
	questions += what % 8 < 5;
	switch (what % 8) {
	case 0:
		engine->ops->connect(h->box, 80, on_fd, NULL);
		break;
	case 1:
		engine->ops->open(h->box, "/f", (enum engine_open)((what >> 4) % 3), NULL, on_open, NULL);
		break;
	case 2:
		engine->ops->commit(h->box, "/f", "t", on_done, NULL);
		break;
	case 3:
		engine->ops->usage(h->box, on_usage, NULL);
		break;
	case 4:
		engine->ops->destroy(h->box, "deleted", on_done, NULL);
		break;
	case 5:
		engine->ops->note(h->box, "note", 4);
		break;
	case 6:
		engine->ops->renew(h->box);
		break;
	default:
		engine->ops->discard(h->box, "/f", "t");
	}
}

/* -- what the others do ----------------------------------------------------------------------------------------------- */
static void hear(struct peer *p)
{
	static _Alignas(8) char buf[WIRE_MAX];
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in m;

	while (p->fd >= 0 && fd_recv(p->fd, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds) == 0) {
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
		if (len == 0) {
			p->fd = fd_close(p->fd);
			return;
		}
		check(wire_parse(&m, buf, len) == 0);
		if (m.request) {
			p->asked[p->n % ASKED] = m.request;
			p->types[p->n++ % ASKED] = (uint16_t)m.type;
		}
	}
}

/* A MADE brings the socket of a new init. */
static size_t add_init(int i, int *fds)
{
	struct peer *p = &peers[1 + i];
	int pair[2];

	if (p->fd >= 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return 0;
	*p = (struct peer){ .fd = pair[1] };
	fds[0] = pair[0];
	return 1;
}

static void answer(struct script *s, int from)
{
	static const uint8_t types[] = { WIRE_OK, WIRE_OK, WIRE_FAILED, WIRE_STARTED, WIRE_DONE, WIRE_DONE, WIRE_MORE, WIRE_ITEM,
		WIRE_MADE, WIRE_MADE, WIRE_ENDED, WIRE_GONE, WIRE_JOB_DONE, WIRE_OK, WIRE_STARTED, WIRE_OK };
	static _Alignas(8) char buf[WIRE_MAX];
	struct peer *p = &peers[from];
	uint8_t what = script_byte(s), which = script_byte(s);
	size_t at = p->n ? (p->n - 1 - which % MIN(p->n, (size_t)ASKED)) % ASKED : 0, n_fds = 0, len = 0;
	enum wire_type type = (enum wire_type)types[what % sizeof(types)];
	int fds[FD_PASS_MAX];
	struct wire_out o;
	char id[37];

	if (p->fd < 0)
		return;
	wire_begin(&o, buf, sizeof(buf), type, which & 128 || !p->n ? 0 : p->asked[at]);
	script_id(id, what >> 5);
	if (what & 16 && from == 0)
		wire_put_str(&o, WIRE_T_ID, id);
	else if (what & 16)
		wire_put_str(&o, WIRE_T_RUN_ID, (char[]){ 'r', (char)('0' + (what >> 5) % EXECS), 0 });
	script_fields(s, &o);
	if (from == 0 && type == WIRE_MADE)
		n_fds = add_init((what >> 5) % BOXES, fds);
	for (unsigned n = script_byte(s) % 4; n > 0; n--)
		fds[n_fds++] = memfd_create("file", MFD_CLOEXEC);
	if (wire_end(&o, &len) == 0 && fd_send(p->fd, buf, len, fds, n_fds) < 0)
		p->n = 0; /* full, or gone */
	for (size_t i = 0; i < n_fds; i++)
		fd_close(fds[i]);
}

/* -- of a former daemon ----------------------------------------------------------------------------------------------- */
static void turn(void);

static void on_left(void *arg, struct engine_exec *x, const struct engine_left *left)
{
	struct held *h = arg;

	check(left->label_len <= WIRE_LABEL_MAX && x->id && strlen(x->id) < WIRE_RUN_ID_MAX);
	n_left++;
	for (int i = 0; i < EXECS; i++)
		if (!h->execs[i]) {
			h->execs[i] = x;
			h->running[i] = true;
			engine->ops->claim(x, on_exec, &h->running[i]);
			return;
		}
	engine->ops->exec_release(x);
}

static void on_known(void *arg)
{
	check(((struct held *)arg)->box);
}

static bool adopt(void *arg, struct engine_box *b, const void *note, size_t len)
{
	struct held *h = arg;

	check(len == 4 && !memcmp(note, "note", 4) && !h->wanted);
	h->box = b;
	h->wanted = true;
	engine->ops->adopt(b, on_end, h);
	engine->ops->left(b, on_left, on_known, h);
	return true;
}

static void on_taken(void *arg, size_t n)
{
	(void)arg;
	check(n <= 1);
}

static uint64_t asked_last(const struct peer *p, enum wire_type type)
{
	size_t at = (p->n - 1) % ASKED;

	return p->n && p->types[at] == type ? p->asked[at] : 0;
}

static void send_to(struct peer *p, struct wire_out *o, const int *fds, size_t n_fds)
{
	if (wire_send(p->fd, o, fds, n_fds) < 0)
		p->n = 0; /* full, or gone */
}

static void put_note(struct wire_out *o)
{
	static _Alignas(8) char buf[256];
	struct wire_out note;
	size_t len = 0;

	wire_begin(&note, buf, sizeof(buf), WIRE_NOTE, 0);
	wire_put_str(&note, WIRE_T_TEXT, "");
	wire_put_str(&note, WIRE_T_TEXT, "");
	wire_put(&note, WIRE_T_NOTE, "note", 4);
	check(wire_end(&note, &len) == 0);
	wire_put(o, WIRE_T_NOTE, buf, len);
}

/* The spawner tells of one sandbox and hands it over; what its init says to RUNS is the script's. */
static void take_over(int i)
{
	const struct local_heirs heirs = { .sandbox = adopt, .sandboxes = &held[i] };
	static _Alignas(8) char buf[1024];
	struct peer *p = &peers[0];
	struct wire_out o;
	size_t n_fds = 0;
	char id[37];
	int fd;

	if (held[i].wanted || p->fd < 0 || peers[1 + i].fd >= 0 || ((struct local *)engine)->takeover)
		return;
	script_id(id, (unsigned)i);
	local_engine_take_over(engine, &heirs, on_taken, NULL);
	turn();
	wire_begin(&o, buf, sizeof(buf), WIRE_ITEM, asked_last(p, WIRE_LIST));
	wire_put_str(&o, WIRE_T_ID, id);
	send_to(p, &o, NULL, 0);
	wire_begin(&o, buf, sizeof(buf), WIRE_OK, asked_last(p, WIRE_LIST));
	send_to(p, &o, NULL, 0);
	turn();
	if (!asked_last(p, WIRE_TAKE))
		return;
	n_fds = add_init(i, &fd);
	wire_begin(&o, buf, sizeof(buf), WIRE_MADE, asked_last(p, WIRE_TAKE));
	put_note(&o);
	send_to(p, &o, &fd, n_fds);
	if (n_fds)
		fd_close(fd);
	turn();
}

static void say_bytes(struct script *s, struct peer *p)
{
	const uint8_t *bytes;
	size_t n = script_take(s, script_byte(s), &bytes);

	if (n && p->fd >= 0 && fd_send(p->fd, bytes, n, NULL, 0) < 0)
		p->n = 0;
}

/* -- a life ----------------------------------------------------------------------------------------------------------- */
static void halt(void *arg)
{
	(void)arg;
	loop_stop(loop, 0);
}

static void turn(void)
{
	for (int i = 0; i < TURNS; i++) {
		loop_defer(loop, halt, NULL); /* at the end of one turn: where it is to stop already it takes none */
		check(loop_run(loop) == 0);
		for (int p = 0; p < PEERS; p++)
			hear(&peers[p]);
	}
}

static void step(struct script *s)
{
	uint8_t what = script_byte(s);
	int which = what >> 4;
	struct held *h = &held[which % BOXES];
	int x = script_byte(s) % EXECS;

	switch (what % 16) {
	case 0:
		create(s, which % BOXES);
		break;
	case 1:
	case 2:
		run(s, h);
		break;
	case 3:
	case 4:
		ask_exec(s, &h->execs[x], &h->running[x]);
		break;
	case 5:
	case 6:
		ask_box(s, h);
		break;
	case 7:
		say_bytes(s, &peers[1 + which % BOXES]);
		break;
	case 8:
		peers[1 + which % BOXES].fd = fd_close(peers[1 + which % BOXES].fd);
		break;
	case 9:
	case 10:
		answer(s, 0);
		break;
	case 15:
		take_over(which % BOXES);
		break;
	default:
		answer(s, 1 + which % BOXES);
	}
	turn();
}

static void no_event(void *arg, const struct err *err)
{
	struct link *k = arg;

	(void)err;
	k->chan = chan_free(k->chan);
}

static void begin(void)
{
	static const struct chan_events events = { .lost = no_event };
	int pair[2];

	check(loop_new(&loop, NULL) == 0);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	link_ = (struct link){ .loop = loop };
	for (int p = 0; p < PEERS; p++)
		peers[p] = (struct peer){ .fd = -1 };
	peers[0].fd = pair[1];
	check(chan_new(&link_.chan, loop, pair[0], 0, &events, &link_, NULL) == 0);
	/* Where there is nothing, and nothing can be written. */
	check(images_new(&images, loop, "/proc/nowhere", NULL, NULL, NULL) == 0);
	check(local_engine_new(&engine, loop, &link_, images, &(struct local_settings){ .data_dir = "/" }, NULL) == 0);
	memset(held, 0, sizeof(held));
	questions = 0;
}

/* The spawner is lost, and everything with it. */
static void end(void)
{
	struct local_counts counts;

	for (int p = 0; p < PEERS; p++)
		peers[p].fd = fd_close(peers[p].fd);
	turn();
	for (size_t i = 0; i < LINK_WATCHERS_MAX; i++)
		if (link_.watchers[i].ev)
			link_.watchers[i].ev->lost(link_.watchers[i].arg, &(struct err){ .code = -ECONNRESET, .msg = "lost" });
	turn();
	local_engine_counts(engine, &counts);
	check(questions == 0 && counts.boxes == 0 && counts.execs == 0);
	for (int i = 0; i < BOXES; i++)
		check(!held[i].wanted && !held[i].box);
	engine = local_engine_free(engine);
	images = images_free(images);
	link_.chan = chan_free(link_.chan);
	loop = loop_free(loop);
	check(image.refs == 1);
}

static int next_fd(void)
{
	auto_fd fd = memfd_create("next", MFD_CLOEXEC);

	return fd;
}

const char *fuzz_missed(void)
{
	return !n_created ? "had a sandbox" : !n_results ? "had a result of a command" : !n_answered ? "had an answer of init" :
	       !n_left ? "had a command of a former daemon" : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[] = "a", *layers[] = { text, NULL }, *none[] = { NULL };
	struct script s = { data, data + size };
	int next = next_fd();

	image = (struct image){ .refs = 1, .name = text, .digest = text, .layers = layers, .n_layers = 1, .env = none,
		.entrypoint = none, .cmd = none, .workdir = text, .user = NULL };
	begin();
	for (int i = 0; i < STEPS && s.p < s.end; i++)
		step(&s);
	end();
	check(next_fd() == next);
	return 0;
}
