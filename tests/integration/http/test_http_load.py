"""Many connections and large bodies: memory is asserted, in a process of its own."""
import resource
import socket
import threading
import time

import pytest

from http_harness import HOST

IDLE = 10_000
PER_CONNECTION_BYTES = 4096


@pytest.fixture
def many_descriptors():
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (old[1], old[1]))
    yield old[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_ten_thousand_kept_connections(server, many_descriptors):
    assert many_descriptors >= IDLE + 1000, "the hard limit of descriptors is too low for this test"
    request = b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n"
    assert server.get("/hello")
    before = server.rss_kb()
    sockets = []
    try:
        for _ in range(IDLE):
            s = socket.create_connection(("127.0.0.1", server.port))
            sockets.append(s)
        for s in sockets:  # used once each, so that what a request needs must have been given back
            s.sendall(request)
        for s in sockets:
            assert s.recv(1000).endswith(b"hello\n")
        stats = server.stats()
        per_connection = (server.rss_kb() - before) * 1024 / IDLE
        print(f"{per_connection:.0f} bytes per kept connection")
        assert stats["open"] == IDLE + 1
        assert per_connection <= PER_CONNECTION_BYTES
        start = time.monotonic()
        assert server.get("/hello") == "hello\n"
        assert time.monotonic() - start < 30
    finally:
        for s in sockets:
            s.close()
    end = time.monotonic() + 10
    while server.stats()["open"] > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert server.stats()["open"] == 1


def test_a_large_answer_to_a_slow_reader(server):
    total = 400_000_000
    assert server.get("/hello")
    server.reset_peak()
    before = server.peak_kb()
    buffer = bytearray(1 << 20)
    got = 0
    with server.connect() as s:
        s.sendall(b"GET /big?bytes=%d HTTP/1.1\r\n" % total + HOST + b"Connection: close\r\n\r\n")
        time.sleep(0.5)  # the server could run far ahead now
        while True:
            n = s.recv_into(buffer)
            if not n:
                break
            got += n
            if got % 50 == 0:
                time.sleep(0.001)
    assert total < got < total + 1000
    grown = server.peak_kb() - before
    print(f"peak grew by {grown} KiB")
    assert grown <= 4096


def test_a_large_upload(server):
    total = 200_000_000
    assert server.get("/hello")
    server.reset_peak()
    before = server.peak_kb()
    piece = b"x" * 1_000_000
    with server.connect() as s:
        s.sendall(b"POST /count HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(total // len(piece)):
            s.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        assert s.recv(1000).endswith(b"200000000\n")
    grown = server.peak_kb() - before
    print(f"peak grew by {grown} KiB")
    assert grown <= 4096


def test_running_out_of_descriptors_does_not_spin(server):
    """With no descriptor left, new connections wait in the backlog and the processor stays idle."""
    pid = server.process.pid
    hold = [server.connect() for _ in range(20)]
    hold[0].sendall(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")
    assert hold[0].recv(1000)
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, hard))
    waiting = server.connect()
    waiting.sendall(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        before = sum(map(int, f.read().rpartition(")")[2].split()[11:13]))
    time.sleep(1)
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        ticks = sum(map(int, f.read().rpartition(")")[2].split()[11:13])) - before
    assert ticks <= 10, f"{ticks} ticks of processor time in a second of waiting"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    waiting.settimeout(60)
    assert waiting.recv(1000).endswith(b"hello\n")
    for s in [*hold, waiting]:
        s.close()


def test_many_clients_at_once(server):
    errors = []

    def client():
        try:
            for i in range(50):
                with server.connect() as s:
                    s.sendall(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n%03d" % i)
                    answer = b""
                    while b"\r\n\r\n%03d" % i not in answer:
                        answer += s.recv(1000) or b"closed" * 100
                        assert len(answer) < 600, answer
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=client) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
