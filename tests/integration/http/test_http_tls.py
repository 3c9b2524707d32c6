"""TLS as a client sees it: what is spoken and what is refused, bodies of any size both ways, certificates that change, and
strangers that begin a handshake and no more. What is waited for is a condition; one test measures, as bench/strangers.py does."""
import contextlib
import hashlib
import itertools
import os
import select
import shutil
import signal
import socket
import struct
import ssl
import subprocess
import sys
import time

import pytest

from http_harness import HOST, ROOT, Server, read_all, read_until
from tls_files import Authority

HELLO = b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.pair("one")


class TlsServer(Server):
    def __init__(self, ca, cert, key, **limits):
        super().__init__(f"tls_certificate={cert}", f"tls_key={key}", *(f"{k}={v}" for k, v in limits.items()))
        self.ca = ca
        self.tls_port = int(self.process.stdout.readline())

    def raw(self):
        s = socket.create_connection(("127.0.0.1", self.tls_port), timeout=TIMEOUT_S)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def context(self):
        return ssl.create_default_context(cafile=self.ca)

    def tls(self, context=None):
        return (context or self.context()).wrap_socket(self.raw(), server_hostname="localhost")

    def wait_for(self, **wanted):
        """Until /stats has at least these numbers."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            stats = self.stats()
            if all(stats[k] >= v for k, v in wanted.items()):
                return stats
            assert time.monotonic() < end, (wanted, stats)
            time.sleep(0.02)


@pytest.fixture
def make_tls(authority, pair):
    made = []

    def make(cert=pair[0], key=pair[1], **limits):
        made.append(TlsServer(authority.ca, cert, key, **limits))
        return made[-1]

    yield make
    for s in made:
        s.stop()


@pytest.fixture
def server(make_tls):
    return make_tls()


def ask(s, request=HELLO, end=b"hello\n"):
    s.sendall(request)
    return read_until(s, end)


# -- what is spoken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(server, version):
    context = server.context()
    context.minimum_version = context.maximum_version = version
    with server.tls(context) as s:
        for _ in range(3):
            assert ask(s).startswith(b"HTTP/1.1 200")
        assert b" https" in ask(s, b"GET /show HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", b"https")
        assert s.recv(10) == b"", "closed with a goodbye"
    assert server.stats()["handshakes"] == 1


def test_older_versions_are_refused(server):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = server.context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)), server.tls(context) as s:
            ask(s)
    stats = server.wait_for(failed=2)
    assert stats["handshakes"] == 0


def test_a_cipher_without_forward_secrecy_is_refused(server):
    context = server.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384:AES128-SHA")
    with pytest.raises((ssl.SSLError, ConnectionError)), server.tls(context) as s:
        ask(s)


def test_protocols(server):
    context = server.context()
    context.set_alpn_protocols(["h3", "http/1.1"])
    with server.tls(context) as s:
        assert s.selected_alpn_protocol() == "http/1.1"
        ask(s)
    context = server.context()
    context.set_alpn_protocols(["spdy/1"])
    with pytest.raises((ssl.SSLError, ConnectionError)), server.tls(context) as s:
        ask(s)


def test_a_session_is_taken_up_again(server):
    context = server.context()
    with server.tls(context) as s:
        ask(s)
        session = s.session
    with context.wrap_socket(server.raw(), server_hostname="localhost", session=session) as s:
        ask(s)
        assert s.session_reused


def test_plain_http_is_told(server):
    for request in (HELLO, b"DELETE /x HTTP/1.1\r\n" + HOST + b"\r\n", b"PUT /x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nabcd"):
        with server.raw() as s:
            s.sendall(request)
            answer = read_all(s)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer and b"Connection: close" in answer
    assert server.stats()["failed"] == 3


@pytest.mark.parametrize("junk", [b"\x00" * 600, b"\x16\x03\x01\xff\xff" + b"\xff" * 2000, b"\x80\x2e\x01\x03\x01" + b"\x00" * 60,
                                  b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x15\x03\x01\x00\x02\x02\x28"])
def test_junk_ends_that_connection_alone(server, junk):
    with server.tls() as good, server.raw() as s:
        ask(good)
        s.sendall(junk)
        s.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert len(read_all(s)) < 100, "an alert at most"
        server.wait_for(failed=1)
        ask(good)


def test_a_handshake_byte_by_byte(server):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = server.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with server.raw() as s:
        def pump(step):
            while True:
                try:
                    result = step()
                    break
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        s.sendall(bytes([byte]))
                    incoming.write(s.recv(65536))
            for byte in outgoing.read():
                s.sendall(bytes([byte]))
            return result

        pump(client.do_handshake)
        client.write(HELLO)
        got = b""
        while not got.endswith(b"hello\n"):
            got += pump(lambda: client.read(65536))


# -- bodies -----------------------------------------------------------------------------------------------------------


def chunks(total, piece=1 << 18):
    """Bytes that are no two alike in a row; the hash of all."""
    seed = hashlib.sha256(b"tests").digest()
    block = b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(piece // 32))
    sent = 0
    while sent < total:
        n = min(piece, total - sent)
        yield (sent.to_bytes(8, "big") + block)[:n]
        sent += n


def body_of(total, digest):
    """A chunked body in pieces; digest gets what is in it."""
    for piece in chunks(total):
        digest.update(piece)
        yield b"%x\r\n" % len(piece) + piece + b"\r\n"
    yield b"0\r\n\r\n"


class Chunked:
    """Takes one chunked answer as it comes."""

    def __init__(self):
        self.digest, self.total, self.over = hashlib.sha256(), 0, False
        self.data, self.left, self.head = bytearray(), 0, True

    def feed(self, data):
        self.data += data
        while self.step():
            pass

    def step(self):
        if self.left:
            piece = bytes(self.data[:self.left])
            del self.data[:len(piece)]
            self.digest.update(piece)
            self.total += len(piece)
            self.left -= len(piece)
            return bool(piece)
        end = b"\r\n\r\n" if self.head else b"\r\n"
        at = self.data.find(end)
        if at < 0 or self.over:
            return False
        line = bytes(self.data[:at])
        del self.data[:at + len(end)]
        if self.head:
            assert line.startswith(b"HTTP/1.1 200"), line
            self.head = False
        elif line:
            self.left = int(line, 16)
            self.over = self.left == 0
            if self.over:
                assert bytes(self.data) == b"\r\n"
        return True


def both_ways(s, pieces, answer, until=None):
    """Sends and reads at once, from one thread: two may not share a connection. until() ends it, else the answer's end.
    Returns what of the last piece is not sent."""
    rest, pieces = b"", iter(pieces)
    s.setblocking(False)
    while not (until or (lambda: answer.over))():
        moved = False
        rest = rest or next(pieces, b"")
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if rest:
                rest = rest[s.send(rest):]
                moved = True
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            data = s.recv(1 << 18)
            assert data, "the connection ended"
            answer.feed(data)
            moved = True
        if not moved:
            assert any(select.select([s], [s] if rest else [], [], TIMEOUT_S)), "nothing moves"
    s.settimeout(TIMEOUT_S)
    return rest


STREAM = b"POST /stream HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("version,total", [(ssl.TLSVersion.TLSv1_2, 50_000_000), (ssl.TLSVersion.TLSv1_3, 200_000_000)])
def test_large_bodies_both_ways_at_once(server, version, total):
    sent, got = hashlib.sha256(), Chunked()
    context = server.context()
    context.minimum_version = context.maximum_version = version
    server.reset_peak()
    with server.tls(context) as s:
        ask(s)
        before = server.peak_kb()
        s.sendall(STREAM)
        both_ways(s, body_of(total, sent), got)
        assert got.total == total and got.digest.digest() == sent.digest()
        assert server.peak_kb() - before < 16_000, "passed through, not kept"
        ask(s)


def test_back_pressure_both_ways(server):
    """The client sends until nothing is taken any more, and only then begins to read."""
    sent, got, total = hashlib.sha256(), Chunked(), 60_000_000
    pieces, rest, stuck = body_of(total, sent), b"", False
    server.reset_peak()
    with server.tls() as s:
        ask(s)
        before = server.peak_kb()
        s.sendall(STREAM)
        s.setblocking(False)
        while not stuck and (rest or (rest := next(pieces, b""))):
            try:
                rest = rest[s.send(rest):]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                stuck = not select.select([], [s], [], 2)[1]
        assert stuck, "somebody keeps 60 MB for a client that reads nothing"
        assert server.peak_kb() - before < 16_000
        both_ways(s, itertools.chain([rest], pieces), got)
    assert got.total == total and got.digest.digest() == sent.digest()


class Everything:
    def __init__(self):
        self.data = bytearray()

    def feed(self, data):
        self.data += data


def test_bodies_that_are_read_whole(server):
    pieces, got = list(chunks(30_000_000)), Everything()
    body = b"".join(pieces)
    head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body)
    with server.tls() as s:
        both_ways(s, [head, *pieces], got, lambda: len(got.data) > len(body) and got.data.endswith(body[-64:]))
    head, _, echoed = bytes(got.data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and hashlib.sha256(echoed).digest() == hashlib.sha256(body).digest()


def test_many_requests_in_one_record(server):
    with server.tls() as s:
        s.sendall(HELLO * 200)
        got = b""
        while got.count(b"hello\n") < 200:
            got += s.recv(65536)
        ask(s)


def test_small_bodies_wait_inside_openssl(server):
    """A request and the beginning of its body in one record, read by a handler that asks for the body later on."""
    with server.tls() as s:
        s.sendall(b"POST /count HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100000 + HELLO)
        assert read_until(s, b"hello\n").count(b"100000\n") == 1


# -- ends -------------------------------------------------------------------------------------------------------------


def test_who_got_an_answer_is_known(server):
    with server.tls() as s:
        ask(s, b"GET /big?bytes=300000&chunked=1 HTTP/1.1\r\n" + HOST + b"\r\n", b"0\r\n\r\n")
    with server.tls() as s:
        s.sendall(b"GET /never HTTP/1.1\r\n" + HOST + b"\r\n")
        server.wait_for(requests=2)
    lines = server.closes(2)
    assert lines[0].startswith("/big") and " complete " in lines[0] and lines[1] == "/never broken offset=0 acked=0"


def test_an_answer_that_is_broken_off_does_not_look_whole(server):
    with server.tls() as s:
        s.sendall(b"GET /abort HTTP/1.1\r\n" + HOST + b"\r\n")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert not read_all(s).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("goodbye", [True, False])
def test_an_event_stream_ends_with_its_client(server, goodbye):
    s = server.tls()
    ask(s, b"GET /sse?open=1 HTTP/1.1\r\n" + HOST + b"\r\n", b"t1\n\n\r\n")
    if goodbye:
        with contextlib.suppress(OSError):
            s.settimeout(0.01)
            s.unwrap()
    s.close()
    assert server.closes(1) == ["/sse?open=1 broken offset=some acked=1"]


# -- handshakes that go no further --------------------------------------------------------------------------------------


def half_open(server):
    """Has sent the first bytes of a handshake: the kernel hands a connection over with its first byte."""
    s = server.raw()
    s.sendall(b"\x16\x03\x01\x02")
    return s


def test_a_handshake_has_a_deadline(make_tls):
    server = make_tls(handshake_ms=300)
    with half_open(server) as s:
        assert s.recv(100) == b""
    assert server.stats()["handshaking"] == 0


def test_half_open_handshakes_are_bounded(make_tls):
    server = make_tls(handshakes=16)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(server.tls())
        ask(old)
        for _ in range(100):
            stack.enter_context(half_open(server))
        stats = server.wait_for(dropped=84, handshaking=16)
        assert stats["handshaking"] == 16, "the newest"
        for _ in range(20):
            with server.tls() as s:
                ask(s)
        ask(old)
    end = time.monotonic() + TIMEOUT_S
    while server.stats()["handshaking"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_thousand_half_open_handshakes_and_somebody_else(server):
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(server.tls())
        for _ in range(900):
            stack.enter_context(half_open(server))
        server.wait_for(handshaking=900)
        for _ in range(50):
            ask(old)
        with server.tls() as s:
            ask(s)


def greeting(server):
    outgoing = ssl.MemoryBIO()
    client = server.context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_who_leaves_while_his_greeting_is_answered(server):
    """Of many at once, a thread answers greetings: connections end while it does."""
    hello = greeting(server)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(server.tls())
        for _ in range(40):
            stack.enter_context(server.raw()).sendall(hello)
        server.wait_for(handshaking=40)
        for _ in range(300):
            with server.raw() as s:
                s.sendall(hello)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ask(old)
        with server.tls() as s:
            ask(s)
    end = time.monotonic() + TIMEOUT_S
    while server.stats()["handshaking"]:
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def strangers(server, renewed):
    """1,000 that are half-open; `renewed` times a second another comes in the oldest one's place."""
    crowd = subprocess.Popen([sys.executable, os.path.join(ROOT, "bench", "strangers.py"), str(server.tls_port), str(renewed)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert crowd.stdout.readline() == b"ready\n"
        yield
    finally:
        crowd.stdin.close()
        crowd.wait(TIMEOUT_S)
        crowd.stdout.close()


def processor_ns(server):
    """Of the loop's thread, and of all others."""
    used = {}
    for task in os.listdir(f"/proc/{server.process.pid}/task"):
        with open(f"/proc/{server.process.pid}/task/{task}/schedstat", encoding="ascii") as f:
            used[int(task)] = int(f.read().split()[0])
    loop = used.pop(server.process.pid)
    return loop, sum(used.values())


def p99_of(kept, count=400):
    took = []
    for _ in range(count):
        start = time.monotonic()
        ask(kept)
        took.append(time.monotonic() - start)
        time.sleep(0.002)  # those who ask all the time are not who notices
    return sorted(took)[count * 99 // 100 - 1]


def test_others_do_not_wait_for_the_greetings_of_strangers(make_tls, authority):
    """A goal: the p99 of others at most doubles. Of 20 rounds one has to show it, the rest may be other work on this machine. The
    reason is certain in each: a thread answers nearly all greetings, each of which takes an operation with the key, here the dearest."""
    server, ratios = make_tls(*authority.pair("rsa", rsa=True)), []
    with server.tls() as kept:
        ask(kept)
        for _ in range(20):
            calm = p99_of(kept)
            with strangers(server, 500):
                if server.stats()["handshaking"] < 900:  # where others work the crowd gets little, and the server ends them in time
                    continue
                before = processor_ns(server)
                beside = p99_of(kept)
                loop, greeter = (b - a for a, b in zip(before, processor_ns(server)))
            ratios.append(beside / calm)
            assert greeter > 0 and loop < greeter, (loop, greeter)
            if ratios[-1] <= 2:
                break
    assert ratios, "never a crowd"
    print(f"p99 beside strangers, times: {ratios}; the loop {loop / 1e6:.0f} ms, the thread {greeter / 1e6:.0f} ms")
    assert min(ratios) <= 2, ratios


def test_kept_connections_cost_little(server):
    count = 1000
    with server.tls() as s:
        ask(s)
    before = server.rss_kb()
    context = server.context()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            ask(stack.enter_context(server.tls(context)))
        per_connection = (server.rss_kb() - before) * 1024 / count
        print(f"{per_connection:.0f} bytes per kept connection")
        assert per_connection < 40_000
        assert server.stats()["open"] == count + 1


# -- certificates that change -------------------------------------------------------------------------------------------


def names(s):
    return dict(pair for part in s.getpeercert()["subject"] for pair in part)["commonName"]


@pytest.fixture
def current(authority, tmp_path):
    """A pair of files that can be replaced; put(name) does."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")

    def put(name, rsa=False):
        new_cert, new_key = authority.pair(name, rsa)
        shutil.copy(new_cert, cert)
        shutil.copy(new_key, key)

    put("first")
    return cert, key, put


def test_certificates_are_read_anew_and_connections_live(make_tls, current):
    cert, key, put = current
    server = make_tls(cert, key)
    total, sent, got = 50_000_000, hashlib.sha256(), Chunked()
    with server.tls() as idle, server.tls() as busy:
        ask(idle)
        ask(busy)
        body = body_of(total, sent)
        rest = both_ways(busy, itertools.chain([STREAM], body), got, lambda: got.total > total / 4)
        put("second", rsa=True)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(reloads=1)
        with server.tls() as new:
            ask(new)
            assert names(new) == "second"
        assert names(idle) == "first"
        ask(idle)
        both_ways(busy, itertools.chain([rest], body), got)
        assert got.total == total and got.digest.digest() == sent.digest()


def test_a_wrong_pair_changes_nothing(make_tls, current, authority):
    cert, key, put = current
    server = make_tls(cert, key)
    other_cert, _ = authority.pair("other")
    wrong = [lambda: shutil.copy(other_cert, cert), lambda: os.truncate(cert, 0), lambda: os.unlink(key)]
    for count, spoil in enumerate(wrong, 1):
        put("first")
        spoil()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(failed_reloads=count)
        with server.tls() as s:
            ask(s)
            assert names(s) == "first"
    put("third")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(reloads=1)
    with server.tls() as s:
        ask(s)
        assert names(s) == "third"
