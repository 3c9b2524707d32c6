/* http/conn_tls.c: a connection's TLS: the handshake, and bytes in and out in place of recv(2) and send(2). */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "http/private.h"

/* -- life ------------------------------------------------------------------------------------------------------------ */

/* When there are as many as may be, the oldest goes: whoever means it is through within a round trip or two, and who
 * floods only displaces himself. */
static void make_place(struct http_server *s)
{
	struct conn_tls *oldest = list_first(&s->handshaking, struct conn_tls, node);

	if (!oldest || s->stats.open_handshakes < s->limits.handshakes)
		return;
	s->stats.dropped_handshakes++;
	conn_break(oldest->conn);
}

void conn_tls_begin(struct http_conn *c, struct http_tls *tls)
{
	struct conn_tls *t = NEW(struct conn_tls);

	make_place(c->server);
	t->conn = c;
	t->tls = tls;
	t->handshaking = true;
	list_push_back(&c->server->handshaking, &t->node);
	c->server->stats.open_handshakes++;
	c->tls = t;
}

static void end_handshake(struct conn_tls *t)
{
	struct http_server *s = t->conn->server;

	if (!t->handshaking)
		return;
	t->handshaking = false;
	list_remove(&t->node);
	s->stats.open_handshakes--;
	if (t->busy)
		server_greetings(s, -1);
}

/* -- the handshake --------------------------------------------------------------------------------------------------- */

/* A record of TLS begins with 22; a method, with a letter. */
static enum handshake first_byte(const struct http_conn *c)
{
	unsigned char byte;
	ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return HANDSHAKE_AGAIN;
	if (n <= 0)
		return HANDSHAKE_FAILED;
	return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ? HANDSHAKE_PLAIN : HANDSHAKE_DONE;
}

static bool is_answered(const struct conn_tls *t)
{
	return t->ssl && BIO_number_written(SSL_get_wbio(t->ssl)) > 0;
}

/* A step, by whoever has the session: the errors of OpenSSL are the thread's. */
static void shake(void *arg)
{
	struct conn_tls *t = arg;

	ERR_clear_error();
	int r = SSL_accept(t->ssl);
	t->why = r == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, r);
}

/* After a step: how far it is. */
static enum handshake shaken(struct http_conn *c, enum handshake r)
{
	struct conn_tls *t = c->tls;

	if (r == HANDSHAKE_DONE) {
		t->want_write = t->why == SSL_ERROR_WANT_WRITE;
		if (t->why == SSL_ERROR_WANT_READ || t->why == SSL_ERROR_WANT_WRITE)
			return HANDSHAKE_AGAIN;
		if (t->why != SSL_ERROR_NONE) {
			t->over = TLS_BROKEN;
			r = HANDSHAKE_FAILED;
		}
	}
	end_handshake(t);
	if (r == HANDSHAKE_DONE) {
		c->server->stats.handshakes++;
		t->pending = SSL_has_pending(t->ssl);
	} else {
		c->server->stats.failed_handshakes++;
	}
	return r;
}

static void on_greeted(void *arg)
{
	struct conn_tls *t = arg;

	t->busy = false;
	if (t->gone) {
		conn_destroy(t->conn);
	} else if (t->handshaking) {
		server_greetings(t->conn->server, -1);
		conn_shaken(t->conn, shaken(t->conn, HANDSHAKE_DONE));
	}
}

/* What answers a greeting takes public-key operations, 0.1 ms with a key of P-256 and 0.3 with one of RSA: too long for a loop
 * on which others wait for microseconds. So a thread does it where many are under way; to wake that, and to be woken by it, takes
 * as long again, so where few are, the loop does. */
static bool may_block(struct http_server *s)
{
	uint64_t now = loop_now_ms(s->loop);

	if (s->greetings || s->greeted_ms == now || s->stats.open_handshakes > HTTP_FEW_HANDSHAKES)
		return false;
	s->greeted_ms = now;
	return true;
}

/* The session is made when its first byte is there: a socket that says nothing costs no more than in plain. */
static enum handshake greet(struct conn_tls *t)
{
	struct http_server *s = t->conn->server;

	if (!t->ssl)
		t->ssl = tls_session(t->tls, t->conn->fd, s->limits.h2);
	if (!t->ssl)
		return shaken(t->conn, HANDSHAKE_FAILED);
	if (may_block(s)) {
		shake(t);
		return shaken(t->conn, HANDSHAKE_DONE);
	}
	t->busy = true;
	server_greetings(s, 1);
	loop_work(s->loop, LOOP_LANE_TLS, shake, on_greeted, t);
	return HANDSHAKE_AGAIN;
}

enum handshake conn_tls_handshake(struct http_conn *c)
{
	struct conn_tls *t = c->tls;
	enum handshake r = t->busy ? HANDSHAKE_AGAIN : t->ssl ? HANDSHAKE_DONE : first_byte(c);

	if (r == HANDSHAKE_AGAIN)
		return r;
	if (r != HANDSHAKE_DONE)
		return shaken(c, r);
	if (!is_answered(t))
		return greet(t);
	shake(t); /* what comes after it is cheap */
	return shaken(c, HANDSHAKE_DONE);
}

bool conn_tls_let_go(struct conn_tls *t)
{
	t->gone = t->busy;
	return !t->busy;
}

bool conn_tls_is_h2(const struct http_conn *c)
{
	const unsigned char *name = NULL;
	unsigned len = 0;

	SSL_get0_alpn_selected(c->tls->ssl, &name, &len);
	return len == 2 && !memcmp(name, "h2", 2);
}

/* -- bytes ----------------------------------------------------------------------------------------------------------- */

/* As recv(2): what is the matter, when nothing came. */
static ssize_t no_bytes(const struct conn_tls *t)
{
	errno = t->over == TLS_BROKEN ? ECONNRESET : EAGAIN;
	return t->over == TLS_ENDED ? 0 : -1;
}

static void note_read_error(struct conn_tls *t, int why)
{
	t->want_write = why == SSL_ERROR_WANT_WRITE;
	if (why == SSL_ERROR_ZERO_RETURN)
		t->over = TLS_ENDED;
	else if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
		t->over = TLS_BROKEN;
}

ssize_t conn_tls_recv(struct http_conn *c, char *p, size_t cap)
{
	struct conn_tls *t = c->tls;
	size_t len = 0, n;

	t->pending = false;
	while (len < cap && !t->over) {
		ERR_clear_error();
		if (SSL_read_ex(t->ssl, p + len, cap - len, &n) != 1) {
			note_read_error(t, SSL_get_error(t->ssl, 0));
			break;
		}
		len += n;
	}
	/* What is left inside OpenSSL, and an end that was seen behind these bytes, no event will tell. */
	t->pending = len && (t->over || (len == cap && SSL_has_pending(t->ssl)));
	return len ? (ssize_t)len : no_bytes(t);
}

uint64_t conn_tls_wire(const struct http_conn *c, uint64_t offset)
{
	return wire_log_find(&c->tls->log, offset);
}

void conn_tls_new_answer(struct http_conn *c)
{
	c->tls->log.n = 0;
}

size_t conn_tls_send(struct http_conn *c, const char *p, size_t len)
{
	struct conn_tls *t = c->tls;
	size_t done = 0, n;
	int why = t->over == TLS_BROKEN ? SSL_ERROR_SSL : SSL_ERROR_NONE;

	while (done < len && why == SSL_ERROR_NONE) {
		ERR_clear_error();
		if (SSL_write_ex(t->ssl, p + done, len - done, &n) != 1) {
			why = SSL_get_error(t->ssl, 0);
			break;
		}
		done += n;
		wire_log_add(&t->log, c->sent + done, BIO_number_written(SSL_get_wbio(t->ssl)), !c->h2);
	}
	c->blocked = why == SSL_ERROR_WANT_WRITE;
	if (why != SSL_ERROR_NONE && why != SSL_ERROR_WANT_WRITE) {
		t->over = TLS_BROKEN;
		c->failed = true;
	}
	return done;
}

/* -- the end --------------------------------------------------------------------------------------------------------- */

void conn_tls_bye(struct http_conn *c)
{
	struct conn_tls *t = c->tls;

	if (!t || !t->ssl || t->handshaking || t->over == TLS_BROKEN || c->failed)
		return;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl); /* one record: where the kernel has no room for it, the peer does without */
	ERR_clear_error();
	t->over = TLS_BROKEN;
}

void conn_tls_close(struct http_conn *c)
{
	if (c->tls)
		end_handshake(c->tls);
}

void conn_tls_free(struct conn_tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	ERR_clear_error();
	free(t);
}
