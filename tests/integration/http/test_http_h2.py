"""HTTP/2 as real clients speak it, and as one does that sends whatever frames it is told to: requests, bodies both ways, windows,
ends. What is spoken where: by ALPN with TLS, by the preface in plain."""
import asyncio
import hashlib
import os
import socket
import subprocess
import time

import httpx
import pytest

from h2_peer import (DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, NO_ERROR, PREFACE, PROTOCOL_ERROR, Peer, frame,
                     reset, settings, window_update)
from http_harness import HOST, Server, read_all
from tls_files import Authority

MIB = 1 << 20


def curl(*args, data=None):
    """(HTTP version, status, body)."""
    done = subprocess.run(["curl", "-sS", "--max-time", "120", "-o", "-", "-w", "\n%{http_version} %{http_code}", *args],
                          input=data, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    body, _, last = done.stdout.rpartition(b"\n")
    version, status = last.decode().split()
    return version, int(status), body


def plain(server, path):
    return ["--http2-prior-knowledge", f"http://127.0.0.1:{server.port}{path}"]


@pytest.fixture(scope="module")
def shared():
    s = Server()
    yield s
    s.stop()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("tls"))
    cert, key = authority.pair("one")
    s = Server(f"tls_certificate={cert}", f"tls_key={key}")
    s.ca, s.tls_port = authority.ca, int(s.process.stdout.readline())
    yield s
    s.stop()


# -- real clients --------------------------------------------------------------------------------------------------

def test_curl_in_plain(shared):
    assert curl(*plain(shared, "/hello")) == ("2", 200, b"hello\n")
    assert curl(*plain(shared, "/show/a%20b?q=1%202"))[2] == (
        b"GET /show/a%%20b?q=1%%202 path=/show/a%%20b query=q=1%%202 host=127.0.0.1:%d q=1 2 x=a b" % shared.port)
    assert curl("--data-binary", "abc", *plain(shared, "/echo")) == ("2", 200, b"abc")
    assert curl("-d", "", *plain(shared, "/echo")) == ("2", 200, b"")
    assert curl("-T", "-", "-X", "POST", *plain(shared, "/echo"), data=b"no length") == ("2", 200, b"no length")
    assert curl("-I", *plain(shared, "/hello"))[:2] == ("2", 200)
    assert curl(*plain(shared, "/nothing"))[:2] == ("2", 404)
    assert curl("-d", "x", "-H", "Expect: 100-continue", *plain(shared, "/count")) == ("2", 200, b"1\n")
    assert curl("-d", "x", "-H", "Expect: more", *plain(shared, "/count"))[1] == 417


def test_alpn_chooses(tls_server):
    url = f"https://localhost:{tls_server.tls_port}/show"
    ca = ["--cacert", tls_server.ca]
    assert curl(*ca, url)[:2] == ("2", 200)
    assert curl(*ca, url)[2].endswith(b" https")
    assert curl(*ca, "--http1.1", url)[:2] == ("1.1", 200)
    assert curl(*ca, "--no-alpn", url)[:2] == ("1.1", 200)
    assert tls_server.stats()["h2"] == 2


def test_it_can_be_switched_off(make_server):
    server = make_server(h2=0)
    assert curl(f"http://127.0.0.1:{server.port}/hello")[:2] == ("1.1", 200)
    assert server.ask(PREFACE).startswith(b"HTTP/1.1 505")


def test_an_upgrade_is_not_taken(shared):
    assert curl("--http2", f"http://127.0.0.1:{shared.port}/hello")[:2] == ("1.1", 200)


@pytest.mark.parametrize("tls", [False, True])
def test_a_hundred_requests_at_once_on_one_connection(tls_server, tls):
    before = tls_server.stats()["h2"]
    base = f"https://localhost:{tls_server.tls_port}" if tls else f"http://127.0.0.1:{tls_server.port}"

    async def all_of_them():
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http1=False, http2=True, verify=tls_server.ca if tls else True, limits=limits, timeout=60) as client:
            await client.get(base + "/hello")
            asks = [client.post(f"{base}/stream", content=b"%d" % i * 1000) if i % 2 else client.get(f"{base}/later?ms={50 + i}")
                    for i in range(100)]
            return await asyncio.gather(*asks)

    answers = asyncio.run(all_of_them())
    assert [a.http_version for a in answers] == ["HTTP/2"] * 100
    assert [a.content for a in answers] == [b"%d" % i * 1000 if i % 2 else b"later\n" for i in range(100)]
    assert tls_server.stats()["h2"] == before + 1


@pytest.mark.parametrize("tls", [False, True])
def test_bodies_of_100_megabytes_both_ways(tls_server, tmp_path, tls):
    sent = os.urandom(MIB) * 100
    (tmp_path / "body").write_bytes(sent)
    where = ["--cacert", tls_server.ca, f"https://localhost:{tls_server.tls_port}/stream"] if tls else plain(tls_server, "/stream")
    version, status, got = curl("--data-binary", f"@{tmp_path}/body", *where)
    assert (version, status) == ("2", 200)
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
    assert tls_server.peak_kb() < 60 << 10


def test_an_early_answer_to_a_long_body_arrives(shared, tmp_path):
    (tmp_path / "body").write_bytes(bytes(20 * MIB))
    for _ in range(5):
        assert curl("--data-binary", f"@{tmp_path}/body", *plain(shared, "/early"))[:2] == ("2", 403)
        assert curl("--data-binary", f"@{tmp_path}/body", *plain(shared, "/echo?max=1000"))[:2] == ("2", 413)


def test_events(shared):
    assert curl("-d", '"x"', *plain(shared, "/sse"))[2] == b'event: task_id\ndata: t1\n\nevent: end\ndata: "x"\n\n'
    text = curl(*plain(shared, "/sse?bytes=1000000"))[2]
    assert text.count(b"1") >= 1000000 and text.count(b"event: end") == 1


# -- requests ------------------------------------------------------------------------------------------------------

def test_frames_may_come_byte_by_byte(shared):
    with Peer(shared, greet=False) as p:
        p.sock.setsockopt(6, 1, 1)
        sent = PREFACE + settings() + frame(HEADERS, END_HEADERS, 1, p.head("POST", "/echo")) + frame(DATA, END_STREAM, 1, b"abc")
        for i in range(len(sent)):
            p.send(sent[i:i + 1])
        assert p.answer(1)[::2] == ("200", b"abc")


def test_cookies_are_one_field_and_the_host_is_the_authority(shared):
    with Peer(shared) as p:
        p.request(1, path="/show", fields=[("cookie", "a=1"), ("cookie", "b=2")])
        status, _, body, error = p.answer(1)
        assert (status, error) == ("200", None) and b"host=h " in body
        p.request(3, path="/show", fields=[("host", "h")])
        assert p.answer(3)[0] == "200"
        p.request(5, path="/show", fields=[("host", "other")])
        assert p.answer(5)[0] == "400"


BASE = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/hello")]


def without(name, *more):
    return [f for f in BASE if f[0] != name] + list(more)


@pytest.mark.parametrize("pseudo, fields, status", [
    (without(":path"), (), None), (without(":method"), (), None), (without(":path", (":path", "")), (), None),
    (without(":authority"), (), None), (BASE + [(":path", "/x")], (), None), (BASE + [(":status", "200")], (), None),
    (without(":path", (":path", "/a b")), (), None), (without(":path", (":path", "/a#b")), (), "400"),
    (without(":path", (":path", "http://h/")), (), None), (without(":path", (":path", "/\x00")), (), None),
    (without(":method", (":method", "get")), (), "501"), (without(":method", (":method", "G T")), (), None),
    (without(":method", (":method", "BREW")), (), "501"), (without(":scheme", (":scheme", "ftp")), (), "400"),
    (without(":authority", (":authority", "a/b")), (), None), (without(":authority", (":authority", "u@h")), (), None),
    ([(":method", "CONNECT"), (":authority", "h:1")], (), "405"),
    (BASE, [("Upper", "x")], None), (BASE, [("a b", "x")], None), (BASE, [("x", "a\r\nb: c")], None), (BASE, [("x", "a\x00")], None),
    (BASE, [("connection", "close")], None), (BASE, [("transfer-encoding", "chunked")], None), (BASE, [("te", "gzip")], None),
    (BASE, [("upgrade", "x")], None), (BASE, [("keep-alive", "x")], None), (BASE, [("proxy-connection", "x")], None),
    (BASE, [("content-length", "5")], None), (BASE, [("content-length", "x")], None), (BASE, [("content-length", "0"), ("content-length", "0")], None),
    (BASE, [("expect", "x")], "417"), (BASE, [(f"x{i}", "y") for i in range(101)], "431"), (BASE, [("x", "y" * 70000)], "431"),
    (without(":path", (":path", "/" + "y" * 70000)), (), "414"), (BASE, [("te", "trailers")], "200"),
], ids=repr)
def test_what_http_1_refuses_is_refused(shared, pseudo, fields, status):
    """With its status, or, where HTTP/2 itself forbids it (status None), a reset stream; another stream is served all the same."""
    with Peer(shared) as p:
        p.request(1, fields=fields, pseudo=pseudo)
        got, _, _, error = p.answer(1)
        if status:
            assert (got, error) == (status, None)
        else:
            assert got in (None, "400") and (got or error in (PROTOCOL_ERROR, INTERNAL_ERROR)), (got, error)
        p.request(3)
        assert p.answer(3)[::2] == ("200", b"hello\n")


@pytest.mark.parametrize("length, body", [("3", b"abcd"), ("3", b"ab")])
def test_a_body_of_another_length_than_announced(shared, length, body):
    with Peer(shared) as p:
        p.request(1, "POST", "/echo", [("content-length", length)], end=False)
        p.body(1, body)
        assert p.answer(1)[3] == PROTOCOL_ERROR
        p.request(3)
        assert p.answer(3)[0] == "200"


def test_trailers_end_a_body(shared):
    with Peer(shared) as p:
        p.request(1, "POST", "/echo", end=False)
        p.body(1, b"abc", end=False)
        p.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, p.encoder.encode([("x-sum", "1")])))
        assert p.answer(1)[::2] == ("200", b"abc")


def test_headers_of_answers(shared):
    with Peer(shared) as p:
        p.request(1)
        headers = p.answer(1)[1]
        assert set(headers) == {":status", "date", "content-type", "content-length"}
        p.request(3, "HEAD")
        _, of_head, body, error = p.answer(3)
        assert ({**of_head, "date": ""}, body, error) == ({**headers, "date": ""}, b"", None)
        p.request(5, "POST", "/hello")
        assert p.answer(5)[1]["allow"] == "GET, HEAD"


# -- windows -------------------------------------------------------------------------------------------------------

def test_a_stream_that_is_not_read_holds_no_other_up(shared):
    with Peer(shared, (INITIAL_WINDOW_SIZE, 1000)) as p:
        p.send(window_update(0, 1 << 30))
        p.request(1, path="/big?bytes=10000000")
        for i in range(20):
            p.request(3 + 2 * i)
            assert p.answer(3 + 2 * i)[::2] == ("200", b"hello\n")
        p.send(window_update(1, 1 << 30))
        got = 0
        while (f := p.next()) and not (f.kind == DATA and f.flags & END_STREAM):
            got += len(f.payload) if f.kind == DATA else 0
        assert got + len(f.payload) >= 10000000 - 1000


def test_a_body_that_is_not_taken_holds_no_other_up(shared):
    """The echo of stream 1 is not read, so the server stops to read its body: its window is used up, the connection's is not."""
    with Peer(shared, (INITIAL_WINDOW_SIZE, 0)) as p:
        p.request(1, "POST", "/stream", end=False)
        p.send(settings())
        window, sent, granted = 65535, 0, {0: 0, 1: 0}
        p.sock.settimeout(2)
        try:
            while sent < 20 * MIB:
                while window + granted[1] - sent >= 16384 and 65535 + granted[0] - sent >= 16384:
                    p.body(1, bytes(16384), end=False)
                    sent += 16384
                f = p.next()
                if f.kind == 8:
                    granted[f.stream] += int.from_bytes(f.payload, "big")
        except TimeoutError:
            pass
        assert sent < MIB
        assert 65535 + granted[0] - sent > 65536, "the connection's window stays open"
        p.sock.settimeout(60)
        p.request(3, "POST", "/count", end=False)
        p.body(3, bytes(16384))
        p.send(window_update(3, 100))
        assert p.answer(3)[::2] == ("200", b"16384\n")


# -- ends ----------------------------------------------------------------------------------------------------------

def test_a_reset_is_the_end_of_its_request_alone(server):
    with Peer(server) as p:
        p.request(1, path="/never")
        p.request(3, path="/never")
        p.request(7)
        assert p.answer(7)[0] == "200"
        p.send(reset(1))
        assert server.closes(1, 60) == ["/never broken offset=0 acked=0"]
        p.request(9)
        assert p.answer(9)[0] == "200"
        assert len(server.closes(1)) == 1
    assert len(server.closes(2, 60)) == 2


def test_an_answer_that_is_broken_off_is_reset(server):
    with Peer(server) as p:
        p.request(1, path="/abort")
        assert p.answer(1)[3] == INTERNAL_ERROR
        p.request(3)
        assert p.answer(3)[0] == "200"
    assert "broken" in server.closes(1, 60)[0]


def test_a_whole_answer_is_complete(server):
    with Peer(server) as p:
        p.request(1, "POST", "/echo", end=False)
        p.body(1, b"abc")
        assert p.answer(1)[3] is None
        assert server.closes(1, 60)[0].startswith("/echo complete offset=some")


def test_what_came_before_the_end_of_the_connection_begins(server):
    with Peer(server) as p:
        p.request(1, "POST", "/count", end=False)
        p.body(1, b"abc")
        p.sock.shutdown(socket.SHUT_WR)  # to close it, with what the server says unread, would be to break it off
        assert server.closes(1, 60)[0].startswith("/count")


# -- deadlines -----------------------------------------------------------------------------------------------------

def wait_for_goaway(p):
    error = p.goaway()
    assert p.ended
    return error


def test_idle_connections_are_told_goodbye(make_server):
    server = make_server(idle_ms=300)
    with Peer(server) as p:
        p.request(1)
        assert p.answer(1)[0] == "200"
        assert wait_for_goaway(p) == NO_ERROR


def test_a_body_that_stops_is_answered_with_408(make_server):
    server = make_server(body_stall_ms=300)
    with Peer(server) as p:
        p.request(1, "POST", "/echo", end=False)
        p.body(1, b"a", end=False)
        assert p.answer(1)[0] == "408"
        p.request(3)
        assert p.answer(3)[0] == "200"


def test_a_window_that_stays_shut_ends_its_stream(make_server):
    server = make_server(write_stall_ms=300)
    with Peer(server, (INITIAL_WINDOW_SIZE, 100)) as p:
        p.request(1, path="/big?bytes=1000000")
        assert p.answer(1, grant=False)[3] == INTERNAL_ERROR
        p.request(3)
        assert p.answer(3)[0] == "200"
    assert "broken" in server.closes(1, 60)[0]


def test_a_peer_that_takes_no_byte_is_closed(make_server):
    server = make_server(write_stall_ms=500)
    with Peer(server, (INITIAL_WINDOW_SIZE, (1 << 31) - 1), sock=server.connect(rcvbuf=4096)) as p:
        p.send(window_update(0, 1 << 30))
        p.request(1, path="/big?bytes=100000000")
        assert "broken" in server.closes(1, 60)[0]


def test_http_1_beside_it(shared):
    answer = shared.ask(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello\n")
    with shared.connect() as s:  # begins as the preface does
        s.sendall(b"PRO")
        time.sleep(0.05)
        s.sendall(b"PFIND /hello HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert read_all(s).startswith(b"HTTP/1.1 405")
