"""What HTTP/2 makes cheap for who means no good: streams begun and reset, header blocks without an end, floods of frames that ask for
nothing, windows that stay shut. Each is refused with the error that says so; meanwhile others are served, and no memory grows."""
import itertools
import os
import struct
import time

import hpack
import pytest

from h2_peer import (ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PADDED, PING,
                     PREFACE, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, Peer, frame, reset, window_update)

GROWTH_KB = 24 << 10  # of the server's peak, over what it is when all streams of a connection are open


@pytest.fixture
def watched(server):
    """A server whose memory is looked at before and after, and that has somebody well-behaved connected all the time."""
    with Peer(server) as good:
        good.request(1)
        assert good.answer(1)[0] == "200"
        before = server.rss_kb()
        server.reset_peak()
        yield server
        good.request(3)
        assert good.answer(3)[::2] == ("200", b"hello\n"), "others are served"
        assert server.ask(b"GET /hello HTTP/1.0\r\n\r\n").endswith(b"hello\n")
        assert server.peak_kb() - before < GROWTH_KB


def flood(p, pieces, most=200_000):
    """Sends until the server ends it; the error that it gave, None where that was lost. Never more than so many pieces."""
    batch = b""
    for n, piece in enumerate(pieces):
        batch += piece
        if len(batch) < 8192:
            continue
        while p.is_next_here():
            f = p.next()
            if f is None or f.kind == GOAWAY:
                return f and int.from_bytes(f.payload[4:8], "big")
        if not p.send_if_taken(batch):
            break
        batch = b""
        assert n < most, "nobody minds"
    p.send_if_taken(batch)
    return p.goaway()


def is_refused(server, p, pieces, *others):
    """With ENHANCE_YOUR_CALM; others: errors of nghttp2's own that may come before. Or none: a GOAWAY may be lost with the reset of
    a connection whose peer goes on sending."""
    error = flood(p, pieces)
    assert error in (ENHANCE_YOUR_CALM, None, *others)
    assert others or server.stats()["h2_refused"] == 1


def test_rapid_reset(watched):
    """CVE-2023-44487."""
    with Peer(watched) as p:
        p.request(1, path="/never")
        block = p.head(path="/never")  # short: it is in the dynamic table
        is_refused(watched, p, (frame(HEADERS, END_HEADERS | END_STREAM, i, block) + reset(i) for i in itertools.count(3, 2)))
    assert watched.stats()["requests"] < 1000


def test_the_server_is_made_to_reset(watched):
    """Streams that a bad frame ends instead of RST_STREAM."""
    with Peer(watched) as p:
        p.request(1, path="/never")
        block, twice = p.head(path="/never"), lambda i: window_update(i, 0x7fffffff) * 2
        is_refused(watched, p, (frame(HEADERS, END_HEADERS | END_STREAM, i, block) + twice(i) for i in itertools.count(3, 2)))


def test_requests_that_are_none(watched):
    with Peer(watched) as p:
        is_refused(watched, p, (frame(HEADERS, END_HEADERS | END_STREAM, i, p.head(fields=[("connection", "x")])) for i in itertools.count(1, 2)),
                   PROTOCOL_ERROR)


def test_a_body_longer_than_announced_again_and_again(watched):
    with Peer(watched) as p:
        def head():
            return p.head("POST", "/count", [("content-length", "1")])

        is_refused(watched, p, (frame(HEADERS, END_HEADERS, i, head()) + frame(DATA, 0, i, b"ab") for i in itertools.count(1, 2)), PROTOCOL_ERROR)


@pytest.mark.parametrize("size", [0, 1, 100, 16384])
def test_continuation_flood(watched, size):
    """CVE-2024-27316: a block without END_HEADERS. Its fields are ones that are kept nowhere."""
    with Peer(watched) as p:
        field = hpack.Encoder().encode([("x", "y" * 60)])
        piece = (field * (size // len(field) + 1))[:size] if size > 1 else bytes(size)
        begin = frame(HEADERS, END_STREAM, 1, p.head())
        more = itertools.repeat(frame(CONTINUATION, 0, 1, piece))
        assert flood(p, itertools.chain([begin], more)) != 0
    assert watched.stats()["requests"] < 10


@pytest.mark.parametrize("name, piece", [
    ("settings", frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, 65535))), ("empty settings", frame(SETTINGS)),
    ("acknowledged settings", frame(SETTINGS, ACK)), ("ping", frame(PING, payload=bytes(8))), ("pong", frame(PING, ACK, payload=bytes(8))),
    ("priority", frame(PRIORITY, 0, 3, struct.pack(">IB", 0, 16))), ("connection window", window_update(0, 1)),
    ("unknown", frame(0xfe, 0, 0, b"abc")), ("large unknown", frame(0xfe, 0, 1, bytes(1000))),
], ids=lambda v: v if isinstance(v, str) else "")
def test_floods_of_frames(watched, name, piece):
    with Peer(watched) as p:
        is_refused(watched, p, itertools.repeat(piece), *[PROTOCOL_ERROR] * (name == "acknowledged settings"))


@pytest.mark.parametrize("piece", [frame(DATA, 0, 1), frame(DATA, PADDED, 1, b"\xff" + bytes(255)), window_update(1, 1)], ids=["empty", "padding", "window"])
def test_floods_on_a_stream(watched, piece):
    with Peer(watched, (INITIAL_WINDOW_SIZE, 0)) as p:
        p.request(1, "POST", "/count", end=False)
        is_refused(watched, p, itertools.repeat(piece))


def test_who_never_reads(watched):
    """Answers to PING and SETTINGS pile up for nobody."""
    with Peer(watched, sock=watched.connect(rcvbuf=4096)) as p:
        for _ in range(3000):
            if not p.send_if_taken(frame(PING, payload=bytes(8)) * 1000):
                break
        else:
            pytest.fail("nobody minds")


def test_header_bomb(watched):
    """One field of 4 KiB in the dynamic table, named again in one byte each."""
    with Peer(watched) as p:
        first = hpack.Encoder().encode([("bomb", "b" * 3900)], huffman=False)
        block = p.head() + first + b"\xbe" * 16000
        p.send(frame(HEADERS, END_STREAM, 1, block[:16384]) + frame(CONTINUATION, END_HEADERS, 1, block[16384:]))
        assert p.goaway() == ENHANCE_YOUR_CALM


def test_a_smaller_bomb_is_answered(watched):
    with Peer(watched) as p:
        first = hpack.Encoder().encode([("bomb", "b" * 3900)], huffman=False)
        p.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, p.head() + first + b"\xbe" * 30))
        assert p.answer(1)[0] == "431"


def test_the_table_of_fields_cannot_be_made_large(watched):
    with Peer(watched) as p:
        p.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x3f\xe1\xff\x03" + p.head()))  # a size of 65,536 entries
        assert p.goaway() not in (None, 0)


def test_more_streams_than_may_be(watched):
    """Of a client that does not know better yet. One that does is a liar, whose connection ends."""
    with Peer(watched) as p:
        p.acknowledges = False
        for i in range(160):
            p.request(1 + 2 * i, path="/never")
        refused = set()
        while len(refused) < 32:
            f = p.next()
            if f.kind == RST_STREAM:
                assert int.from_bytes(f.payload, "big") in (REFUSED_STREAM, PROTOCOL_ERROR)
                refused.add(f.stream)
        assert refused == {1 + 2 * i for i in range(128, 160)}
        p.send(reset(1))
        p.request(1001)
        assert p.answer(1001)[0] == "200"
    with Peer(watched) as p:
        p.request(1)
        assert p.answer(1)[0] == "200"
        for i in range(1, 160):
            p.request(1 + 2 * i, path="/never")
        assert p.goaway() == PROTOCOL_ERROR


def test_answers_that_nobody_takes(watched):
    """128 streams whose windows stay shut: each has no more than its queue."""
    with Peer(watched, (INITIAL_WINDOW_SIZE, 0)) as p:
        for i in range(20):
            p.request(1 + 2 * i, path="/big?bytes=100000000")
        p.request(1001)
        status, headers, _, _ = p.answer(1001) if p.send_if_taken(window_update(1001, 100)) else (None,) * 4
        assert status == "200" and headers["content-length"] == "6"


def test_bodies_beyond_the_window(watched):
    with Peer(watched) as p:
        p.request(1, path="/never", end=False)
        for _ in range(5):
            p.body(1, bytes(16384), end=False)
        assert p.answer(1)[3] in (FLOW_CONTROL_ERROR, ("goaway", FLOW_CONTROL_ERROR))


def test_a_slow_preface(make_server):
    server = make_server(header_deadline_ms=300)
    with server.connect() as s:
        s.sendall(PREFACE[:10])
        s.settimeout(60)
        assert b" 408 " in s.recv(4096)
    with Peer(server, greet=False) as p:
        p.acknowledges = False
        p.send(PREFACE)
        assert p.goaway() == ENHANCE_YOUR_CALM


def test_a_slow_block_of_fields(make_server):
    server = make_server(header_deadline_ms=300)
    with Peer(server) as p:
        p.request(1, path="/never")
        assert p.next().kind == SETTINGS
        p.acknowledges = False
        p.send(frame(HEADERS, END_STREAM, 3, p.head()))
        assert p.goaway() == ENHANCE_YOUR_CALM


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


class Deaf(Peer):
    """Asks for 10 MB, and for more in the same breath, and reads nothing of it."""

    def __init__(self, server, more):
        super().__init__(server, sock=server.connect(rcvbuf=4096), greet=False)
        payload = struct.pack(">HI", INITIAL_WINDOW_SIZE, (1 << 31) - 1)
        self.send(PREFACE + frame(SETTINGS, payload=payload) + window_update(0, 1 << 30)
                  + frame(HEADERS, END_HEADERS | END_STREAM, 1, self.head(path="/big?bytes=10000000")) + more(self))


def test_a_slow_block_of_a_peer_that_does_not_read(make_server):
    """The GOAWAY can't be written: what ends it is the time for writing, and until then nothing is done."""
    server = make_server(header_deadline_ms=200, write_stall_ms=2500)
    with Deaf(server, lambda p: frame(HEADERS, END_STREAM, 3, p.head())):
        time.sleep(0.7)
        before = server.cpu_s()
        time.sleep(0.7)
        assert server.cpu_s() - before < 0.2
        assert server.closes(1, 30)[0].startswith("/big")
        until(lambda: server.stats()["open"] == 1)


def test_an_answer_that_waits_for_a_peer_that_does_not_read(make_server):
    """Its request's body stops coming, which nobody needs any more."""
    server = make_server(body_stall_ms=200, write_stall_ms=5000)
    with Deaf(server, lambda p: frame(HEADERS, END_HEADERS, 3, p.head("HEAD", "/later?ms=300"))):
        time.sleep(0.7)
        before = server.cpu_s()
        time.sleep(0.7)
        assert server.cpu_s() - before < 0.2


def test_a_request_that_is_none_leaves_no_deadline_behind(make_server):
    server = make_server(header_deadline_ms=300)
    with Peer(server) as p:
        p.request(1, fields=[("connection", "x")])
        assert p.answer(1)[3] == PROTOCOL_ERROR
        for i in range(3):
            p.request(3 + 2 * i, path="/later?ms=400")
            assert p.answer(3 + 2 * i)[0] == "200"


@pytest.mark.parametrize("data", [
    b"\x00" * 100, frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS, 2, b"\x82"), frame(HEADERS, END_HEADERS, 0, b"\x82"), frame(SETTINGS, 0, 1),
    frame(SETTINGS, 0, 0, b"abc"), frame(PING, 0, 0, b"abc"), frame(RST_STREAM, 0, 1, b"\0\0\0\0"), frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    frame(CONTINUATION, END_HEADERS, 1, b"\x82"), frame(5, END_HEADERS, 1, b"\x00\x00\x00\x02\x82"), frame(HEADERS, END_HEADERS, 1, b"\xff" * 20),
    b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", window_update(0, 0x7fffffff) * 2,
], ids=repr)
def test_frames_that_are_wrong(watched, data):
    with Peer(watched) as p:
        p.send(data)
        error = p.goaway()
        assert error not in (None, 0)


def test_random_bytes_after_the_preface(watched):
    for _ in range(50):
        with Peer(watched) as p:
            p.send_if_taken(os.urandom(2000))
            p.sock.shutdown(1)
            p.goaway()


def test_a_client_that_cancels_a_lot_is_not_taken_for_one(watched):
    with Peer(watched) as p:
        for i in range(100):
            p.request(1 + 2 * i, path="/never")
            p.send(reset(1 + 2 * i, CANCEL))
        p.request(1001)
        assert p.answer(1001)[0] == "200"
