"""Mixed use by clients of which many vanish in the middle of something; then the machine must be as it was before.

A fifth of SOAK_SECONDS (60) is how long, SOAK_SEED (0) what the dice start with. Each client does one thing after the other and
checks every answer that it waits for; what it leaves behind is for the leases to end."""
import http.client
import json
import os
import random
import threading
import time
import traceback
import urllib.parse

import pytest

from orw import Census, descriptors, nothing_new, running, settings, wait_until
from wire import Sandbox, events

SECONDS = int(os.environ.get("SOAK_SECONDS") or 60) // 5
SEED = int(os.environ.get("SOAK_SEED") or 0)
CLIENTS = 6
LEASE_S = 4
CONFIG = f"""
sandboxes:
  idle: {LEASE_S}s
  result_keep: 2s
sessions:
  idle: {LEASE_S}s
  remember_ended: 10s
"""
SERVER = """
import http.server as h
class H(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *a): pass
h.ThreadingHTTPServer(('0.0.0.0', 8080), H).serve_forever()
"""

pytestmark = pytest.mark.timeout(SECONDS + 600)


class Client:
    def __init__(self, platform, dice, counts):
        self.platform, self.dice, self.counts = platform, dice, counts

    def some(self, n):
        return range(self.dice.randrange(1, n + 1))

    def run_something(self, sandbox):
        n = self.dice.randrange(200_000)
        cmd, status, size = self.dice.choice([
            (f"head -c {n} /dev/zero", 0, n), (f"exit {n % 120}", n % 120, 0), ("kill -9 $$", 137, 0),
            ("(sleep 1000 &) ; setsid sleep 1000 & echo x", 0, 2), (f"head -c {n} /dev/zero > /tmp/f; stat -c %s /tmp/f", 0, len(f"{n}\n")),
        ])
        answer = sandbox.run(cmd, timeout_s=60)
        assert (answer["return_code"], len(answer["output"])) == (status, size), (cmd, answer)

    def drop(self, request, connection, within_s):
        """Sends a request and hangs up: somewhere in it, at once, or after a while."""
        connection.sendall(request[:self.dice.choice([len(request), len(request), self.dice.randrange(len(request))])])
        time.sleep(self.dice.choice([0, self.dice.uniform(0, within_s)]))
        connection.close()

    # -- what a client may do ----------------------------------------------------------------------------------------

    def sandbox_and_its_end(self):
        s = Sandbox(self.platform)
        for _ in self.some(5):
            self.run_something(s)
        assert s.delete()[0] == 200

    def sandbox_left(self):
        s = Sandbox(self.platform)
        for _ in self.some(2):
            self.run_something(s)

    def sandbox_deleted_while_it_runs(self):
        s = Sandbox(self.platform)
        request, connection = s.raw("/run", {"cmd": "yes", "timeout_s": 60})
        connection.sendall(request)
        time.sleep(self.dice.uniform(0, 0.05))
        assert s.delete()[0] == 200
        connection.close()

    def broken_runs(self):
        s = Sandbox(self.platform)
        for _ in self.some(4):
            self.drop(*s.raw("/run", {"cmd": "sleep 0.02; head -c 500000 /dev/zero", "timeout_s": 60}), 0.05)
        self.run_something(s)
        assert s.delete()[0] == 200

    def broken_creates(self):
        body = {"environment": "local/none", "image": "python:3.11-slim", "machine_size": "0.5:1"}
        for _ in self.some(4):
            self.drop(*Sandbox.request(self.platform, "/create_sandbox", body), 0.02)

    def sdk_sandbox(self):
        with self.platform.client() as client, client.sandbox(settings(machine_size="0.5:1")) as s:
            assert s.run("echo hello").output == "hello"

    def session(self, ends=True):
        sid = self.create_session()
        for _ in self.some(5):
            status, _, body = self.platform.request("GET", "/anything", headers={"X-Session-ID": sid})
            assert (status, body) == (200, b"ok"), (status, body)
        if ends:
            assert self.platform.request("POST", "/delete_session", b"", {"X-Session-ID": sid})[0] == 200

    def session_left(self):
        self.session(ends=False)

    def create_session(self):
        status, _, body = self.platform.request("POST", "/create_session", b"{}", {"X-Deployment": "local/soak"})
        assert status == 200 and events(body)[-1][0] == "end", body
        return json.loads(events(body)[-1][1])["sid"]

    def connection_without_end(self):
        """Half a request, then silence, then nobody."""
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.platform.url).netloc, timeout=30)
        connection.connect()
        connection.sock.sendall(b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Le")
        time.sleep(self.dice.uniform(0, 0.1))
        connection.close()

    def go(self, until):
        ways = [self.sandbox_and_its_end, self.sandbox_left, self.sandbox_deleted_while_it_runs, self.broken_runs,
                self.broken_creates, self.sdk_sandbox, self.session, self.session_left, self.connection_without_end]
        while time.monotonic() < until:
            way = self.dice.choice(ways)
            way()
            self.counts[way.__name__] = self.counts.get(way.__name__, 0) + 1
            time.sleep(self.dice.uniform(0, 0.1))


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    (folder / "s.py").write_text(SERVER)
    (folder / "Dockerfile").write_text('FROM python:3.11-slim\nCOPY s.py /s.py\nCMD ["python3", "/s.py"]\n')
    with running(CONFIG) as p:
        done = p.cli("deploy", str(folder), "--name", "local/soak")
        assert done.returncode == 0, done.stdout + done.stderr
        yield p


def use(platform, seconds, seed):
    """All clients at once for so long; returns what they did, by name."""
    counts, wrong = [{} for _ in range(CLIENTS)], []
    until = time.monotonic() + seconds

    def one(i):
        try:
            Client(platform, random.Random(f"{seed} {i}"), counts[i]).go(until)
        except Exception:  # pylint: disable=broad-except # a thread's failure is the test's
            wrong.append(traceback.format_exc())

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(seconds + 180)
    assert not any(t.is_alive() for t in threads), "a client hangs"
    assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:3])
    return {k: sum(c.get(k, 0) for c in counts) for k in sorted({k for c in counts for k in c})}


def all_ended(platform):
    status, _, text = platform.request("GET", "/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return all(float(values[f'openreward_{what}{{state="open"}}']) == 0 for what in ("sandboxes", "sessions"))


def as_before(now, before):
    """The spawner keeps up to 64 net namespaces to use them again, a descriptor each."""
    return all(now[k] <= n + (64 if "spawner" in k else 0) for k, n in before.items())


def test_soak(platform):
    use(platform, 3, SEED - 1)  # what is made once is made before the count
    wait_until(lambda: all_ended(platform), LEASE_S + 60, "every session and sandbox ended")
    time.sleep(1)
    before, open_before = Census(platform.data), descriptors(platform)
    assert len(open_before) == 3, open_before

    counts = use(platform, SECONDS, SEED)
    print(f"\n{SECONDS} s, seed {SEED}:", ", ".join(f"{v} {k}" for k, v in counts.items()))

    wait_until(lambda: all_ended(platform), LEASE_S + 120, "every session and sandbox ended")
    nothing_new(platform, before)
    wait_until(lambda: as_before(descriptors(platform), open_before), 30, f"descriptors as before, {open_before}, not {descriptors(platform)}")
    assert platform.leaks() == ""
