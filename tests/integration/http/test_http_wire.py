"""The HTTP server as its peers see it, good and bad ones."""
import random
import re
import socket
import struct
import threading
import time

import pytest

from http_harness import HOST, read_all, read_until

RESET = struct.pack("ii", 1, 0)


def get(target, *headers, version=b"1.1"):
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + HOST + b"".join(h + b"\r\n" for h in headers) + b"\r\n"


def post(target, body, *headers):
    headers = headers or (b"Content-Length: %d" % len(body),)
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


def statuses(answer):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


# -- requests ------------------------------------------------------------------------------------------------------

def test_pipelined_requests_are_answered_in_order(server):
    answer = server.ask(get(b"/later?ms=50") + get(b"/hello") + post(b"/echo", b"abc") + get(b"/show?q=last"))
    assert statuses(answer) == [200, 200, 200, 200]
    places = [answer.index(x) for x in (b"later\n", b"hello\n", b"\r\n\r\nabc", b"q=last")]
    assert places == sorted(places)


def test_a_request_may_arrive_byte_by_byte(server):
    body = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"
    request = post(b"/echo", body, b"Transfer-Encoding: chunked") + get(b"/hello")
    with server.connect() as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(request)):
            s.sendall(request[i:i + 1])
            time.sleep(0.001)
        s.shutdown(socket.SHUT_WR)
        answer = read_all(s)
    assert statuses(answer) == [200, 200]
    assert b"\r\n\r\nabcdeHTTP" in answer


def test_a_thousand_pipelined_requests(server):
    answer = server.ask(get(b"/hello") * 1000)
    assert statuses(answer) == [200] * 1000


def test_smuggled_requests_do_not_run(server):
    """Two framings at once: whatever the answer is, there is one, and the connection ends."""
    inner = get(b"/show?q=smuggled")
    for head in (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
                 b"Transfer-Encoding : chunked\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 0",
                 b"Transfer-Encoding: xchunked\r\nContent-Length: 5",
                 b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 5",
                 b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5", b"X: a\nTransfer-Encoding: chunked",
                 b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5"):
        answer = server.ask(b"POST /echo HTTP/1.1\r\n" + HOST + head + b"\r\n\r\n0\r\n\r\n" + inner)
        assert len(statuses(answer)) == 1, (head, answer)
        assert statuses(answer)[0] in (400, 501)
        assert b"smuggled" not in answer and b"Connection: close" in answer


def test_garbage_is_refused_at_once(server):
    for garbage in (b"\x16\x03\x01\x02\x00\x01", b"GET /\r\n\r\n", b"\x00", b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n"):
        with server.connect() as s:
            s.sendall(garbage)
            start = time.monotonic()
            assert statuses(read_all(s))[0] in (400, 505)
            assert time.monotonic() - start < 10
    assert server.stats()["refused"] == 4


def test_random_bytes_never_stop_it(server):
    rng = random.Random(1)
    good = post(b"/echo", b"abc") + post(b"/echo", b"3\r\nabc\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            server.ask(bytes(data))
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert server.get("/hello") == "hello\n"
    assert server.stats()["open"] == 1


def test_targets(server):
    answer = server.ask(get(b"//show///a%2fb?q=a+b%26") + get(b"http://other:81/show?q=1") + get(b"http://other?q=1") +
                        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"path=/show/a%2fb query=q=a+b%26 host=h q=a b& x=a/b" in answer
    assert b"path=/show query=q=1 host=other:81 q=1" in answer
    assert statuses(answer) == [200, 200, 404, 404]
    for bad in (b"show", b"ftp://h/", b"http:///x", b"http://u@h/", b"/a#b", b"/a\x80"):
        assert statuses(server.ask(get(bad))) == [400], bad


def test_versions_and_keeping(server):
    with server.connect() as s:
        s.sendall(get(b"/hello", version=b"1.0"))
        assert b"Connection: close" in read_all(s)
    with server.connect() as s:
        for _ in range(3):
            s.sendall(get(b"/hello", b"Connection: keep-alive", version=b"1.0"))
            assert b"Connection: keep-alive" in read_until(s, b"hello\n")
    with server.connect() as s:
        s.sendall(get(b"/hello", b"Connection: close"))
        assert b"Connection: close" in read_all(s)
    with server.connect() as s:  # a streamed answer for HTTP/1.0 ends with its connection
        s.sendall(get(b"/big?bytes=100000&chunked=1", b"Connection: keep-alive", version=b"1.0"))
        answer = read_all(s)
        assert b"chunked" not in answer.partition(b"\r\n\r\n")[0] and len(body_of(answer)) == 100000


def test_head_and_methods(server):
    answer = server.ask(b"HEAD /hello HTTP/1.1\r\n" + HOST + b"\r\n" + get(b"/hello"))
    assert statuses(answer) == [200, 200] and answer.count(b"hello\n") == 1
    assert statuses(server.ask(b"CONNECT h:1 HTTP/1.1\r\n" + HOST + b"\r\n")) == [405]
    assert statuses(server.ask(b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n")) == [501]
    answer = server.ask(b"PUT /hello HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n")
    assert statuses(answer) == [405] and b"\r\nAllow: GET, HEAD\r\n" in answer


# -- bodies --------------------------------------------------------------------------------------------------------

def test_expect_continue(server):
    with server.connect() as s:
        s.sendall(post(b"/echo", b"", b"Content-Length: 3", b"Expect: 100-continue"))
        assert read_until(s, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b"abc")
        assert b"Content-Length: 3" in read_until(s, b"\r\n\r\nabc")
    with server.connect() as s:  # refused without asking for the body: it may or may not come, so the connection ends
        s.sendall(post(b"/early", b"", b"Content-Length: 3", b"Expect: 100-continue"))
        answer = read_all(s)
        assert statuses(answer) == [403] and b"Connection: close" in answer
    assert statuses(server.ask(post(b"/echo", b"", b"Content-Length: 3", b"Expect: more"))) == [417]


def test_a_large_body_that_is_refused_early_still_reads_the_answer(server):
    """The client sends 8 MB before it reads: without a lingering close, a RST would destroy the answer."""
    for target in (b"/early", b"/echo?max=1000"):
        with server.connect() as s:
            s.sendall(post(target, b"", b"Content-Length: 8000000"))
            s.sendall(b"x" * 8000000)
            answer = read_all(s)
            assert statuses(answer) == [413 if b"max" in target else 403], target
            assert b'{"detail":"' in answer
    body = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
    answer = server.ask(post(b"/echo?max=1000", body, b"Transfer-Encoding: chunked"))
    assert statuses(answer) == [413]


def test_a_refused_body_without_end_is_cut_off(server):
    with server.connect() as s:
        s.sendall(post(b"/early", b"", b"Content-Length: 10000000000"))
        sent = 0
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while sent < 200_000_000:
                sent += s.send(b"x" * 65536)
    assert server.stats()["in"] < 40_000_000


def test_small_unwanted_bodies_keep_the_connection(server):
    answer = server.ask(post(b"/early", b"x" * 100000) + get(b"/hello"))
    assert statuses(answer) == [403, 200]
    answer = server.ask(post(b"/early", b"3\r\nabc\r\n0\r\n\r\n", b"Transfer-Encoding: chunked") + get(b"/hello"))
    assert statuses(answer) == [403, 200]


def test_streamed_echo_in_both_directions(server):
    data = random.Random(2).randbytes(5_000_000)
    with server.connect() as s:
        def send():
            s.sendall(post(b"/stream", b"", b"Transfer-Encoding: chunked"))
            for i in range(0, len(data), 70000):
                piece = data[i:i + 70000]
                s.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
            s.sendall(b"0\r\n\r\n")
        t = threading.Thread(target=send)
        t.start()
        body = body_of(read_until(s, b"\r\n0\r\n\r\n"))
        t.join()
    out, i = bytearray(), 0
    while True:
        end = body.index(b"\r\n", i)
        n = int(body[i:end], 16)
        if n == 0:
            break
        out += body[end + 2:end + 2 + n]
        i = end + 4 + n
    assert out == data


def test_a_sender_that_does_not_read_is_stopped(server):
    """An echo whose answer is not read must stop reading: the queue may not grow."""
    assert server.get("/hello")
    before = server.rss_kb()
    with server.connect() as s:
        s.sendall(post(b"/stream", b"", b"Content-Length: 1000000000"))
        s.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += s.send(b"x" * 65536)
        assert sent < 50_000_000
        assert server.rss_kb() < before + 4096
        got = 0
        while got < 1_000_000:
            got += len(s.recv(65536))


# -- deadlines -----------------------------------------------------------------------------------------------------

def test_slow_headers_have_one_deadline(make_server):
    server = make_server(header_deadline_ms=700, idle_ms=5000)
    with server.connect() as s:
        start = time.monotonic()
        s.sendall(b"GET /hello HTTP/1.1\r\n")
        s.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - start < 5:
            try:
                s.sendall(b"X: y\r\n")
                answer = s.recv(1000)
            except TimeoutError:
                continue
        assert statuses(answer) == [408]
        assert 0.6 < time.monotonic() - start < 10


def test_idle_connections_are_closed(make_server):
    server = make_server(idle_ms=300)
    for first in (b"", get(b"/hello")):
        with server.connect() as s:
            s.sendall(first)
            start = time.monotonic()
            answer = read_all(s)
            assert statuses(answer) == ([200] if first else [])
            assert 0.25 < time.monotonic() - start < 10


def test_bodies_that_stall(make_server):
    server = make_server(body_stall_ms=2000)
    with server.connect() as s:
        s.sendall(post(b"/echo", b"", b"Content-Length: 10"))
        sent = [time.monotonic()]
        for _ in range(4):  # progress gives a new deadline
            time.sleep(1)
            s.sendall(b"x")
            sent.append(time.monotonic())
        answer = read_all(s)
        assert statuses(answer) == [408] and b"Connection: close" in answer
        paused = max(b - a for a, b in zip(sent, sent[1:]))  # on a busy machine it is we who stalled
        assert time.monotonic() - sent[-1] > 1.5 or paused > 1.5
    assert server.closes(1) [0].startswith("/echo complete offset=some")


def test_readers_that_stall(make_server):
    server = make_server(write_stall_ms=400)
    with server.connect(rcvbuf=4096) as s:
        s.sendall(get(b"/big?bytes=50000000"))
        lines = server.closes(1)
    assert lines == ["/big?bytes=50000000 broken offset=some acked=0"]


# -- ends ----------------------------------------------------------------------------------------------------------

def test_a_reset_in_the_middle_of_an_answer(server):
    s = server.connect(rcvbuf=4096)
    s.sendall(get(b"/big?bytes=50000000&chunked=1"))
    s.recv(1000)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    s.close()
    assert server.closes(1) == ["/big?bytes=50000000&chunked=1 broken offset=some acked=0"]


def test_a_reset_while_the_handler_thinks(server):
    s = server.connect()
    s.sendall(get(b"/never"))
    time.sleep(0.5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    s.close()
    assert server.closes(1) == ["/never broken offset=0 acked=0"]
    assert server.stats()["open"] == 1


def test_an_event_stream_ends_when_its_peer_closes(server):
    s = server.connect()
    s.sendall(get(b"/sse?open=1"))
    read_until(s, b"data: t1\n\n\r\n")
    s.close()
    assert server.closes(1)[0].startswith("/sse?open=1 broken offset=some")


def test_an_aborted_answer_looks_broken(server):
    with server.connect() as s:
        s.sendall(get(b"/abort"))
        assert not read_all(s).endswith(b"0\r\n\r\n")
    with server.connect() as s, pytest.raises(ConnectionResetError):
        s.sendall(get(b"/abort", version=b"1.0"))
        read_all(s)


def test_events(server):
    body = b'{"a":"' + b"x" * 4089 + b'   y"}'
    # Without a half-close, which ends an event stream.
    headers = b"Connection: close", b"Content-Length: %d" % len(body)
    answer = server.ask(post(b"/sse", body, *headers), half_close=False)
    assert b"event: task_id\ndata: t1\n\n" in answer
    pieces = re.findall(rb"event: (chunk|end)\ndata: ([^\n]*)\n\n", answer)
    assert [p[0] for p in pieces] == [b"chunk", b"end"]
    assert b"".join(p[1].lstrip() for p in pieces) == body
    assert b"event: error\ndata: it broke\n\n" in server.ask(get(b"/sse?error=1", headers[0]), half_close=False)
    big = server.ask(get(b"/sse?bytes=3000000", headers[0]), half_close=False)
    assert sum(len(p) for p in re.findall(rb"event: (?:chunk|end)\ndata: (1*)\n\n", big)) == 3000000


# -- limits --------------------------------------------------------------------------------------------------------

def test_header_limits(make_server):
    server = make_server(header_bytes=2000)
    assert statuses(server.ask(get(b"/hello", b"X: " + b"y" * 1900))) == [200]
    assert statuses(server.ask(get(b"/hello", b"X: " + b"y" * 2000))) == [431]
    assert statuses(server.ask(get(b"/" + b"y" * 2000))) == [414]
    assert statuses(server.ask(get(b"/hello", *[b"X: y"] * 101))) == [431]
    assert statuses(server.ask(get(b"/hello", *[b"X: y"] * 99))) == [200]


def test_connections_beyond_the_limit_wait(make_server):
    server = make_server(max_connections=2)
    one, two, three = server.connect(), server.connect(), server.connect()
    for s in (one, two):
        s.sendall(get(b"/hello"))
        read_until(s, b"hello\n")
    three.sendall(get(b"/hello"))
    three.settimeout(0.3)
    with pytest.raises(TimeoutError):
        three.recv(1)
    one.close()
    three.settimeout(60)
    assert read_until(three, b"hello\n")
    two.close()
    three.close()
