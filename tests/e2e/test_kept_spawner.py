"""A spawner that is a service of its own and holds the listening socket, as packaging/ has it: daemons come and go, and clients
that come meanwhile wait in the backlog."""
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

import pytest

from orw import OPENREWARD, Platform, copy_images, nothing_new, wait_until
from wire import Sandbox


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    return False


@pytest.fixture
def kept(base_images):
    """A platform whose spawner runs and whose daemon does not."""
    p, port = Platform(), free_port()
    copy_images(os.path.join(base_images.data, "images"), p.data)
    argv = [OPENREWARD, "spawner", "--listen", f"127.0.0.1:{port}", "--data", p.data, "--config", p.config_path]
    with open(p.log_path, "wb") as log:
        spawner = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port) or spawner.poll() is not None, 30, "a listening spawner")
        p.url = f"http://127.0.0.1:{port}"
        yield p
        assert p.leaks() == ""
        p.stop()
        spawner.send_signal(signal.SIGTERM)
        assert spawner.wait(60) == 0
        nothing_new(p)
        assert os.listdir(p.data + "/sandboxes") == []
    finally:
        p.stop()
        if spawner.poll() is None:
            spawner.terminate()
            spawner.wait(60)
        p.remove()


def ask(platform, path="/version"):
    """A connection of its own; the status, or what went wrong."""
    host, port = urllib.parse.urlsplit(platform.url).netloc.split(":")
    try:
        with socket.create_connection((host, int(port)), 60) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return s.makefile("rb").readline().decode().split()[1]
    except (OSError, IndexError) as e:
        return repr(e)


class Askers:
    """Clients that ask all the time, each time on a new connection."""

    def __init__(self, platform, n=6):
        self.platform, self.answers, self.over = platform, [], False
        self.threads = [threading.Thread(target=self.go, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def go(self):
        while not self.over:
            self.answers.append(ask(self.platform))
            time.sleep(0.005)

    def end(self):
        self.over = True
        for t in self.threads:
            t.join(90)
        assert not any(t.is_alive() for t in self.threads)
        return self.answers


def test_daemons_come_and_go(kept):
    early = Askers(kept, 3)
    time.sleep(0.3)
    assert early.answers == []  # nobody is there to answer, and nobody is refused
    kept.start()
    assert set(early.end()) == {"200"}

    box = Sandbox(kept)
    head, running = box.raw("/run", {"cmd": "echo x >> /tmp/lines; sleep 1; echo out", "timeout_s": 60})
    running.sendall(head)
    askers = Askers(kept)
    for sign in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):  # planned ones: open requests finish, too
        kept.process.send_signal(sign)
        assert kept.process.wait(60) == 0
        time.sleep(0.1)
        kept.start()
    answers = askers.end()
    assert len(answers) > 20 and set(answers) == {"200"}, {a: answers.count(a) for a in set(answers)}
    running.settimeout(60)
    text = running.makefile("rb").read().partition(b"\r\n\r\n")[2]
    assert b"event: end" in text
    assert box.run("wc -l < /tmp/lines")["output"].split() == [b"1"]

    askers = Askers(kept)
    wait_until(lambda: askers.answers.count("200") > 6, what="more than an answer for each")
    kept.process.kill()
    kept.process.wait()
    before = askers.answers.count("200")
    time.sleep(0.2)
    kept.start()
    answers = askers.end()
    # Those whose connection it had accepted are cut off; nobody is refused.
    assert not [a for a in answers if "Refused" in a] and answers.count("200") > before
    assert box.run("echo alive")["output"] == b"alive\n"
    assert box.delete()[0] == 200
