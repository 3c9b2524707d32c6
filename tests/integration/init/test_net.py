"""Connections both ways. The namespace's own rules are the spawner's; here the listeners are reached by a rule of nft, where
that program is there, and the daemon's side is played by the test."""
import os
import select
import shutil
import socket
import struct
import subprocess
import time

import pytest

from harness import Failed, Sandbox, encode, receive, send

SERVER = """
import socket, sys
s = socket.socket(socket.{family}); s.setsockopt(1, 2, 1); s.bind(('{host}', {port})); s.listen(50); print('up', flush=True)
while True:
    c, _ = s.accept(); c.sendall(b'hello from inside'); c.close()
"""


def serve(box, family="AF_INET", host="127.0.0.1", port=8080):
    box.begin("/usr/bin/python3", "-c", SERVER.format(family=family, host=host, port=port))


def connect(box, port):
    return socket.socket(fileno=box.ask("CONNECT", ("PORT", port)).fds[0])


def wait_connect(box, port):
    for _ in range(100):
        try:
            return connect(box, port)
        except Failed as e:
            assert e.errno == 111
            time.sleep(0.05)
    raise AssertionError("no server")


def get(sock):
    sock.settimeout(5)
    sock.setblocking(True)
    data = b""
    while chunk := sock.recv(100):
        data += chunk
    sock.close()
    return data


@pytest.mark.parametrize("family,host,port", [("AF_INET", "127.0.0.1", 8080), ("AF_INET", "0.0.0.0", 8081), ("AF_INET6", "::1", 8082)])
def test_connect(box, family, host, port):
    serve(box, family, host, port)
    assert get(wait_connect(box, port)) == b"hello from inside"
    assert get(connect(box, port)) == b"hello from inside"


def test_connect_to_a_background_server_of_an_earlier_run(fresh):
    fresh.sh("cd /usr/share && setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &")
    with wait_connect(fresh, 8000) as s:
        s.setblocking(True)
        s.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.0 200")


def test_connect_refused_and_bad(box):
    for port, want in ((9, 111), (0, 22), (70000, 22)):
        with pytest.raises(Failed) as e:
            box.ask("CONNECT", ("PORT", port))
        assert e.value.errno == want


def test_connect_to_a_listener_that_does_not_accept_times_out(box):
    box.begin("/usr/bin/python3", "-c", "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 8090)); s.listen(0); time.sleep(60)")
    wait_connect(box, 8090)
    held, start = [], time.monotonic()
    with pytest.raises(Failed) as e:
        for _ in range(5):
            held.append(connect(box, 8090))
    assert e.value.errno == 110 and 4 < time.monotonic() - start < 30
    assert box.sh("echo meanwhile").text == "meanwhile\n"


def test_connects_that_end_while_the_daemon_does_not_read_are_all_answered(fresh):
    """Several answers at once, to a socket that is full: the first one waits, and so do those behind it."""
    fresh.begin("/usr/bin/python3", "-c", "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 8091)); s.listen(0); time.sleep(60)")
    held = [wait_connect(fresh, 8091)]
    with pytest.raises(Failed):
        for _ in range(5):  # until its queue is full
            held.append(connect(fresh, 8091))
    asked = [fresh.post("CONNECT", ("PORT", 8091)) for _ in range(5)]
    fresh.control.settimeout(0)
    with pytest.raises(BlockingIOError):  # init reads no more: its answers fill the socket
        while len(asked) < 100000:
            asked.append(fresh.post("STATUS"))
    time.sleep(6)  # the connects give up
    fresh.control.settimeout(30)
    answered = [fresh.take(lambda m: m.request).request for _ in asked]
    assert sorted(answered) == asked


def test_a_connection_to_the_listener_itself_is_closed(box):
    code = "import socket\nfor f, h in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n" \
        "  s = socket.socket(f); s.connect((h, 65530)); print(s.recv(10))"
    assert box.run("/usr/bin/python3", "-c", code).text == "b''\nb''\n"


def dns(box, query=b"query", host="127.0.0.1", timeout=3):
    fam = "AF_INET6" if ":" in host else "AF_INET"
    return box.begin("/usr/bin/python3", "-c", f"import socket\ns = socket.socket(socket.{fam}, 2); s.settimeout({timeout}); "
                     f"s.sendto({query!r}, ('{host}', 65531)); print(s.recvfrom(5000)[0])")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_dns_goes_through_egress_and_back(box, host):
    run = dns(box, host=host)
    m = receive(box.egress)
    assert m.kind == "DNS" and m["OUTPUT"] == b"query"
    send(box.egress, encode("DNS_REPLY", 0, [("CLIENT", m["CLIENT"]), ("OUTPUT", b"answer")]))
    assert box.wait(run).text == "b'answer'\n"


@pytest.mark.parametrize("size", [4096, 6000, 65000])
def test_a_long_answer_comes_too(box, size):
    """As long as the client asked for (EDNS), and a name server gives by a datagram."""
    run = box.begin("/usr/bin/python3", "-c", "import socket\ns = socket.socket(2, 2); s.settimeout(5); s.connect(('127.0.0.1', 65531)); "
                    "s.send(b'query'); print(len(s.recv(65535)))")
    m = receive(box.egress)
    send(box.egress, encode("DNS_REPLY", 0, [("CLIENT", m["CLIENT"]), ("OUTPUT", b"a" * size)]))
    assert box.wait(run).text == f"{size}\n"


def test_bad_replies_from_egress_are_ignored(box):
    for raw in (b"x", os.urandom(500), encode("DNS_REPLY", 0, [("OUTPUT", b"a")]), encode("DNS_REPLY", 0, [("CLIENT", b"\x02"), ("OUTPUT", b"a")]),
                encode("DNS_REPLY", 0, [("CLIENT", b"\x02\0" + b"z" * 300), ("OUTPUT", b"a")]),
                encode("DNS_REPLY", 0, [("CLIENT", struct.pack("<H", 1) + b"z" * 50), ("OUTPUT", b"a")])):
        box.egress.send(raw)
    test_dns_goes_through_egress_and_back(box, "127.0.0.1")


def test_a_flood_of_dns_while_egress_sleeps(fresh):
    fresh.run("/usr/bin/python3", "-c", "import socket\ns = socket.socket(2, 2)\nfor i in range(20000): s.sendto(b'q' * 500, ('127.0.0.1', 65531))")
    assert fresh.sh("echo alive").text == "alive\n"
    n = 0
    fresh.egress.settimeout(0.5)
    try:
        while receive(fresh.egress):
            n += 1
    except TimeoutError:
        pass
    assert 0 < n < 20000
    fresh.egress.settimeout(10)
    test_dns_goes_through_egress_and_back(fresh, "127.0.0.1")


def test_egress_may_go(fresh):
    fresh.egress.close()
    test_a_connection_to_the_listener_itself_is_closed(fresh)
    dns(fresh, timeout=0.1)
    assert fresh.sh("echo alive").text == "alive\n"


def test_the_steering_ports_are_taken(box):
    m = box.run("/usr/bin/python3", "-c", "import socket\nfor t, p in ((1, 65530), (2, 65531)):\n  try: socket.socket(2, t).bind(('127.0.0.1', p)); "
                "print('bound')\n  except OSError as e: print(e.errno)")
    assert m.text == "98\n98\n"


def test_without_steering_nothing_listens():
    with Sandbox(flags="") as s:
        assert s.run("/usr/bin/python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 65530))").code == 1


def test_holder_ends_with_its_control_socket():

    with Sandbox(flags="holder") as s:
        assert not select.select([s.pidfd], [], [], 0.2)[0]
        s.control.close()
        assert select.select([s.pidfd], [], [], 5)[0]


def test_unknown_flag():
    with pytest.raises(AssertionError, match=r"flags\\x0022"):
        with Sandbox(flags="steer,unheard-of"):
            pass


RULES = """
table inet steer {
  chain out { type nat hook output priority -100;
    fib daddr type local accept
    meta l4proto tcp redirect to :65530
    udp dport 53 redirect to :65531
  }
}
"""


@pytest.fixture
def steered(fresh):
    """As the spawner's namespaces are, made by the usual programs."""
    if not all(shutil.which(p) for p in ("nft", "ip", "nsenter")):
        pytest.skip("needs nft, ip and nsenter")
    for argv, text in ((["ip", "route", "add", "default", "dev", "lo", "src", "127.0.0.1"], ""), (["ip", "addr", "add", "fd00::1/128", "dev", "lo", "nodad"], ""),
                       (["ip", "-6", "route", "add", "default", "dev", "lo"], ""), (["nft", "-f", "-"], RULES)):
        subprocess.run(["nsenter", f"--net=/proc/{fresh.pid}/ns/net", *argv], input=text, text=True, check=True, timeout=20)
    return fresh


@pytest.mark.parametrize("family,to", [(4, "203.0.113.7"), (6, "2001:db8::5")])
def test_an_outgoing_connection_reaches_egress_with_its_destination(steered, family, to):
    run = steered.begin("/usr/bin/python3", "-c", f"import socket\ns = socket.create_connection(('{to}', 4321)); s.sendall(b'hi'); print(s.recv(10))")
    m = receive(steered.egress)
    assert m.kind == "CONN" and m["FAMILY"] == family and m["PORT"] == 4321
    assert m["ADDR"] == socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, to)
    with socket.socket(fileno=m.fds[0]) as s:
        s.setblocking(True)
        assert s.recv(10) == b"hi"
        s.sendall(b"there")
        s.shutdown(socket.SHUT_RDWR)
    assert steered.wait(run).text == "b'there'\n"


def test_dns_to_any_server_is_answered_from_that_server(steered):
    run = steered.begin("/usr/bin/python3", "-c", "import socket\ns = socket.socket(2, 2); s.settimeout(5); s.connect(('198.18.0.53', 53)); "
                        "s.send(b'q'); print(s.recv(100))")
    m = receive(steered.egress)
    send(steered.egress, encode("DNS_REPLY", 0, [("CLIENT", m["CLIENT"]), ("OUTPUT", b"a")]))
    assert steered.wait(run).text == "b'a'\n"


def test_a_flood_of_connections_while_egress_sleeps(steered):
    """None is lost: they wait in the kernel's queue and arrive when egress reads."""
    run = steered.begin("/usr/bin/python3", "-c", "import socket\nss = [socket.create_connection(('203.0.113.9', 80)) for i in range(1200)]\n"
                        "for s in ss: s.settimeout(20)\nprint(sum(s.recv(1) == b'y' for s in ss))")
    time.sleep(1)
    assert steered.sh("echo meanwhile").text == "meanwhile\n"
    for _ in range(1200):
        with socket.socket(fileno=receive(steered.egress).fds[0]) as s:
            s.send(b"y")
    assert steered.wait(run).text == "1200\n"
