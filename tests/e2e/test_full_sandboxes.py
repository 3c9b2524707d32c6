"""Sandboxes fill the disk that DATA lies on: they are told, new ones wait and say for what, the server answers, and room that
is given back is used."""
import json
import os
import subprocess
import threading
import time

import pytest

from creates import Create, delete, metric
from orw import Platform, settings, wait_until

CONFIG = """
sandboxes:
  disk: 8GiB
  disk_reserve: 200MiB
admission:
  cpu_factor: 0
  memory_factor: 0
  memory_pressure: 0
  io_pressure: 0
  disk_free: 64MiB
builds:
  min_free: 64MiB
"""
DISK_BYTES = 1600 << 20  # of small_disk
# Allocates what it can, which takes no time, and writes the rest.
FILL = r"""
import os
f, n, step = os.open("/full", os.O_RDWR | os.O_CREAT), 0, 64 << 20
while step > 1 << 16:
    try:
        os.posix_fallocate(f, n, step)
        n += step
    except OSError:
        step //= 16
try:
    while True:
        n += os.pwrite(f, b"x" * 65536, n)
except OSError as e:
    print(e.strerror)
"""


@pytest.fixture
def small(base_images, small_disk):
    """A platform whose DATA, images and all, lies on the small disk."""
    p = Platform(CONFIG, data=f"{small_disk}/data")
    try:
        subprocess.run(["cp", "-a", f"{base_images.data}/images", p.data], check=True, timeout=300)
        p.start()
        if "is not limited" in p.log():
            pytest.skip("nothing limits the disk on this machine")
        yield p
    finally:
        p.stop()
        p.remove()


def left(p):
    """MiB that sandboxes can still write, as /metrics has it."""
    return (metric(p, 'openreward_sandbox_disk_bytes{kind="free"}') + metric(p, 'openreward_sandbox_disk_bytes{kind="more"}')) / (1 << 20)


def fill(p, sandbox):
    """Until it is not larger any more: for what is allocated and not written nobody waits."""
    for _ in range(100):
        said = sandbox.run(f"python3 - <<'E'\n{FILL}\nE\n").output
        assert "No space left" in said, said
        if left(p) < 48:
            return
        time.sleep(0.2)
    raise AssertionError(f"{left(p)} MiB are left")


class Asker(threading.Thread):
    """Reads and changes all the time; what did not go well."""

    def __init__(self, p):
        super().__init__()
        self.p, self.over, self.bad, self.n = p, threading.Event(), [], 0

    def run(self):
        while not self.over.wait(0.3):
            self.n += 1
            body = json.dumps({"name": f"n{self.n}"}).encode()
            for method, path, data, good in (("GET", "/v1/environments", None, 200), ("POST", "/v1/environments", body, 201)):
                status, _, answer = self.p.request(method, path, data, {"Content-Type": "application/json"})
                if status != good:
                    self.bad.append((path, status, answer))


def test_sandboxes_fill_the_disk(small):
    asker = Asker(small)
    asker.start()
    with small.client() as client:
        with client.sandbox(settings()) as a, client.sandbox(settings()) as b:
            fill(small, a)
            assert b.run("echo alive").output.strip() == "alive"
            assert "No space left" in b.run("head -c 100M /dev/zero > /x").output
            waits = Create(small)
            assert "are left for what sandboxes write, expected 64" in waits.until("waiting for room")
            # What is removed is enough for it, and for the neighbour.
            assert a.run("rm /full && echo gone").output.strip() == "gone"
            delete(small, waits.result())
            assert b.run("rm -f /x && head -c 20M /dev/zero > /x && echo good").output.strip() == "good"
            fill(small, a)
        # And so is the end of the one that took it all.
        wait_until(lambda: left(small) > 300, 120, "room of the one that has ended")
        with client.sandbox(settings()) as c:
            assert c.run("head -c 20M /dev/zero > /x && echo good").output.strip() == "good"
    asker.over.set()
    asker.join(60)
    assert asker.n > 0 and not asker.bad, asker.bad[:3]
    assert metric(small, "openreward_sandbox_disk_failed") == 0
