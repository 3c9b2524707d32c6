/* sandbox/chan.h: one end of a conversation in wire.h's language over a SEQPACKET socket: requests with their answers,
 * events, and a queue for what the peer does not take at once. The daemon has one to the spawner, one to egress and one to
 * the init of every sandbox. Owned by whoever made it. Loop thread only.
 *
 * Nothing is read while a callback runs, so strings of a message are valid during the callback. Descriptors that come
 * with a message are closed after the callback, except those that it took (fd_steal). */
#pragma once

#include "base/err.h"
#include "loop/loop.h"
#include "sandbox/wire.h"

struct chan;

/* The answer to a request: either in, or err and no in: a FAILED from the peer (its code and text), a lost connection
 * (-ECONNRESET, or -EIDRM), none within the time (-ETIMEDOUT), or one whose descriptors found no room here (-EMFILE). Once, but for
 * LIST and RUNS: those get a call for each WIRE_ITEM before, of which WIRE_ITEMS_MAX may come; one more is the answer -EPROTO, and
 * what still comes is dropped. */
typedef void chan_answer_fn(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err);

struct chan_events {
	/* A message that nobody asked for, without its descriptors where they found no room here. May be NULL. */
	void (*event)(void *arg, const struct wire_in *in, int *fds, size_t n_fds);
	/* The peer is gone; every open request was answered before. Once. The owner still frees the chan. */
	void (*lost)(void *arg, const struct err *err);
	const char *over; /* what a lost peer means to open requests: -EIDRM with this text; NULL = -ECONNRESET */
};

/* Takes ownership of fd (a connected SEQPACKET socket), on failure too. ev must outlive the chan.
 * timeout_ms: for each request; 0 = waits for ever. */
MUST_CHECK int chan_new(struct chan **ret, struct loop *l, int fd, uint64_t timeout_ms, const struct chan_events *ev, void *arg,
			struct err *err);
/* The peer is not trusted: one that sends a unix socket, for which there is no reason, is lost (fd_recv_foreign()). */
void chan_foreign(struct chan *c);
/* Closes; open requests get no callback any more. Allowed inside callbacks; NULL is allowed; returns NULL. */
struct chan *chan_free(struct chan *c);
/* The same where nobody is to take the channel over from us: nothing passes in it any more, whoever else holds it. */
struct chan *chan_end(struct chan *c);

/* Begins a message in a buffer that all chans share: nothing else may be begun before chan_send. answered = a request that
 * gets an answer. */
struct wire_out *chan_begin(struct chan *c, enum wire_type type, bool answered);
/* Sends or queues it; fds stay the caller's. fn gets the answer, never from inside this call; NULL for a message without
 * answer, or one whose answer is of no interest. -EMSGSIZE, -EPIPE (gone), -ENOBUFS (queue full): fn is not called then. */
MUST_CHECK int chan_send(struct chan *c, struct wire_out *o, const int *fds, size_t n_fds, chan_answer_fn *fn, void *arg,
			 struct err *err);
/* The same for what nobody waits for, to a peer that may be gone: there is nothing to be done then. Of messages without an answer
 * twice WIRE_ITEMS_MAX may wait, beside the requests: an ACK, of a hundred bytes, can be due for each run of an init at once, and
 * none is lost. */
void chan_tell(struct chan *c, struct wire_out *o);
/* Open requests of this arg get no callback any more: arg is going. c may be NULL. */
void chan_forget(struct chan *c, const void *arg);
/* Nothing is asked or queued, and nobody is being told of an error. */
bool chan_is_idle(const struct chan *c);
/* Answers every open request with err, as if the peer had: from the loop only. */
void chan_fail_all(struct chan *c, const struct err *err);
