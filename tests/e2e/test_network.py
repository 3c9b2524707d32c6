"""What a sandbox and a build reach, and what they do not, seen from inside."""
import contextlib
import http.server
import os
import socket
import socketserver
import threading

import pytest

from orw import settings
from tinyenv import tiny_folder

CONNECT = ("import socket, sys\ns = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\ns.settimeout(8)\n"
           "try:\n    s.connect((sys.argv[1], int(sys.argv[2])))\n    s.sendall(b'hi')\n    print('got', s.recv(100))\n"
           "except OSError as e:\n    print('refused', type(e).__name__)\n")


def connect(sandbox, host, port):
    return sandbox.run(f"cat > /tmp/c.py <<'E'\n{CONNECT}E\npython3 /tmp/c.py {host} {port}", timeout=20).output


@contextlib.contextmanager
def host_service(address="0.0.0.0"):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(b"host service")

    with socketserver.ThreadingTCPServer((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def host_addresses():
    found = {"127.0.0.1"}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))
        found.add(s.getsockname()[0])
    return sorted(found)


def test_host_services_are_out_of_reach(sandbox):
    with host_service() as port:
        for address in host_addresses():
            assert "host service" not in connect(sandbox, address, port), address


@pytest.mark.parametrize("address", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1",
                                     "fd00::1", "fe80::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "224.0.0.1", "198.18.0.1"])
def test_private_addresses_are_refused(sandbox, address):
    assert connect(sandbox, address, 80).startswith("refused")


def test_platform_is_reachable_by_its_names(sandbox):
    for host in ("openreward.internal", "api.openreward.internal", "sessions.openreward.internal"):
        for port in (80, 8080):
            output = sandbox.run(f"python3 -c \"import urllib.request as u; print(u.urlopen('http://{host}:{port}/health').status)\"")
            assert output.output == "200", (host, port, output.output)


def internet_from_here():
    """None, or why this machine itself does not reach the name and port that the test asks for."""
    try:
        socket.create_connection(("pypi.org", 443), 10).close()
    except OSError as e:
        return f"this machine does not reach pypi.org:443: {e}"
    return None


def test_dns_and_tcp_out(sandbox):
    """By name and by address, to the package index that this machine's own pip uses."""
    if reason := internet_from_here():
        pytest.skip(reason)
    name = sandbox.run("python3 -c \"import socket; print(socket.gethostbyname('pypi.org'))\"").output
    assert name.count(".") == 3, name
    check = "import socket; s = socket.create_connection(('{}', 443), 10); print('open')"
    assert sandbox.run(f'python3 -c "{check.format("pypi.org")}"').output == "open"
    assert sandbox.run(f'python3 -c "{check.format(name)}"').output == "open"


def test_unknown_name(sandbox):
    output = sandbox.run("python3 -c \"import socket; socket.gethostbyname('no-such-name.invalid')\" 2>&1").output
    assert "gaierror" in output


def test_other_udp_and_icmp_are_rejected_at_once(sandbox):
    program = ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(20)\n"
               "try:\n    s.connect(('192.0.2.77', 1234)); s.send(b'x'); s.send(b'x'); s.recv(1); print('open')\n"
               "except TimeoutError:\n    print('silence')\nexcept OSError as e:\n    print('rejected')\n")
    assert sandbox.run(f"python3 - <<'E'\n{program}E").output == "rejected"


def test_no_network_devices_but_loopback(sandbox):
    assert sandbox.run("ls /sys/class/net; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '").output == "lo\nlo"


def test_raw_and_packet_sockets_are_refused(sandbox):
    for family, kind, protocol in (("AF_INET", "SOCK_RAW", 1), ("AF_PACKET", "SOCK_RAW", 3), ("AF_NETLINK", "SOCK_RAW", 12)):
        program = (f"import socket\ntry:\n s = socket.socket(socket.{family}, socket.{kind}, {protocol}); s.bind((0, 0)); print('open')\n"
                   "except Exception as e: print(type(e).__name__)")
        output = sandbox.run(f"python3 - <<'E'\n{program}\nE").output
        if family != "AF_NETLINK":
            assert output != "open", family


def test_block_network_leaves_loopback_only(client):
    with client.sandbox(settings(block_network=True)) as s:
        assert connect(s, "203.0.113.80", 443).startswith("refused")
        assert "gaierror" in s.run("python3 -c \"import socket; socket.gethostbyname('pypi.org')\" 2>&1", timeout=30).output
        assert "200" not in s.run("python3 -c \"import urllib.request as u; print(u.urlopen('http://openreward.internal/health').status)\" 2>&1",
                                  timeout=30).output
        inside = ("python3 -m http.server 80 >/dev/null 2>&1 & for i in $(seq 100); do "
                  "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1/').status)\" 2>/dev/null && break; "
                  "sleep 0.1; done")
        assert s.run(inside).output == "200"


def test_egress_allow_opens_one_service_of_the_host(base_images):
    """egress.allow is the operator's: one address and port of the host, and nothing beside it."""
    address = host_addresses()[-1]
    if address == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    with host_service() as open_port, host_service() as closed_port, \
            base_images.platform(f"egress:\n  allow: ['{address}:{open_port}']\n") as p, p.client() as client, \
            client.sandbox(settings()) as s:
        assert "host service" in connect(s, address, open_port)
        assert "host service" not in connect(s, address, closed_port)


# -- builds --------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def web_service():
    """Its port, and the list of what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"host service")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


def deploy_with(platform, folder, lines):
    """What was said of it, and its log."""
    path = os.path.join(tiny_folder(folder), "Dockerfile")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace("CMD", lines + "\nCMD"))
    return platform.cli("deploy", folder, "--name", "local/reach")


def test_a_build_reaches_what_a_sandbox_reaches(base_images, tmp_path):
    """By ADD, which the tool that builds fetches, as by RUN: what egress.allow opens and the platform, and not the host."""
    others = [a for a in host_addresses() if a != "127.0.0.1"]
    address = others[0] if others else "127.0.0.1"
    fetch = "python3 -c \"import urllib.request as u; print(u.urlopen('{}').read().decode())\""
    with web_service() as (open_port, allowed), web_service() as (closed_port, refused), \
            base_images.platform(f"egress:\n  allow: ['{address}:{open_port}']\n") as p:
        for host in host_addresses():
            for n, line in enumerate(("ADD {} /got", "RUN " + fetch)):
                done = deploy_with(p, str(tmp_path / f"{host}-{n}"), line.format(f"http://{host}:{closed_port}/x"))
                assert done.returncode == 1 and "host service" not in done.stdout + done.stderr, (host, line, done)
        assert not refused
        sources = ["http://openreward.internal/health", *(f"http://{a}:{open_port}/x" for a in others[:1])]
        lines = [f"ADD {s} /got/{n}/\nRUN {fetch.format(s)}" for n, s in enumerate(sources)]
        done = deploy_with(p, str(tmp_path / "allowed"), "\n".join(lines) + "\nRUN ls -lR /got")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert set(allowed) == ({"/x"} if others else set())
