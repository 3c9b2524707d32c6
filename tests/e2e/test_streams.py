"""`openreward sandbox` whose streams are disturbed: signals, readers that leave, refusals, a connection that is down."""
import contextlib
import http.client
import http.server
import os
import signal
import subprocess
import threading
import time
import types
import urllib.parse

from at_terminal import Terminal
from orw import OPENREWARD
from test_runs import Runs, box, cli  # noqa: F401


def start(platform, *argv, **streams):
    return subprocess.Popen([OPENREWARD, "sandbox", *argv], env={**os.environ, **platform.env}, stdout=subprocess.PIPE, **streams)


def test_a_reader_that_is_interrupted_leaves_the_run_alone(platform, box):  # noqa: F811
    run = box.start("echo up; sleep 1000", separate=True)
    with start(platform, "logs", "-f", box.id, run) as reader:
        assert reader.stdout.readline() == b"up\n"
        reader.send_signal(signal.SIGINT)
        try:
            assert reader.wait(20) == 130
        finally:
            reader.kill()
    assert box.call("GET", f"/runs/{run}")["state"] == "running"


def test_a_sandbox_whose_reader_leaves_is_removed(platform):
    before = cli(platform, "ls").stdout
    words = ["run", "python:3.11-slim", "--", "head", "-c", "1000000", "/dev/zero"]
    with start(platform, *words, stderr=subprocess.PIPE) as writer:
        writer.stdout.close()
        assert writer.wait(60) == 1
        assert b"write the output: Broken pipe" in writer.stderr.read()
    assert cli(platform, "ls").stdout.count(b"\n") == before.count(b"\n")


class Proxy(http.server.BaseHTTPRequestHandler):
    """In front of a platform: answers pieces of input with the statuses of `refusals` first."""
    wbufsize = 0

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refusals and "/stdin?" in self.path:
            self.send_error(self.server.refusals.pop(0))
            return
        host, port = urllib.parse.urlsplit(self.server.platform.url).netloc.split(":")
        c = http.client.HTTPConnection(host, int(port), timeout=60)
        c.request(self.command, self.path, body, {"X-API-Key": self.server.platform.key})
        answer = c.getresponse()
        self.send_response(answer.status)
        self.end_headers()
        while data := answer.read1(65536):
            self.wfile.write(data)
        c.close()

    do_GET = do_POST = do_DELETE = pass_on

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def refusing(platform, *statuses):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.platform, server.refusals = platform, list(statuses)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield types.SimpleNamespace(env={**platform.env, "OPENREWARD_URL": url, "OPENREWARD_API_URL": url})
        server.shutdown()


def test_input_that_is_refused_for_now_comes_again(platform, box):  # noqa: F811
    data = os.urandom(200_000)
    with refusing(platform, 429, 502, 503, 504) as proxy:
        done = cli(proxy, "exec", "-i", box.id, "--", "cat", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"", 0)


def test_input_that_is_refused_for_good_is_an_error(platform, box):  # noqa: F811
    with refusing(platform, 403) as proxy:
        done = cli(proxy, "exec", "-i", box.id, "--", "cat", stdin=b"x")
    assert done.returncode == 1 and b"refuses" in done.stderr
    assert box.call("GET", "/runs")["total"] == 0, "nothing is left behind"


def test_a_window_that_changes_while_nobody_answers(base_images):
    with base_images.platform() as p:
        box = Runs(p)  # noqa: F811
        t = Terminal(p, "shell", box.id)
        t.type(b"echo up-$((1+1))\n")
        t.expect(b"up-2")
        p.process.kill()
        p.process.wait()
        for rows in range(40, 50):
            t.resize(rows, 100)
            t.process.send_signal(signal.SIGWINCH)
            time.sleep(0.05)
        assert t.process.poll() is None, t.seen
        p.start()
        t.insist(b"echo still-$((1+1))\n", b"still-2")
        t.type(b"exit 4\n")
        t.expect(b"exit 4")
        assert t.end() == 4
