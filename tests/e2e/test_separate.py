"""What the answer of /run has beyond what the SDK reads: stdout and stderr apart, counts, large results, what a run took."""
import base64
import hashlib
import json

import pytest

from test_runs import Runs
from wire import Sandbox, result


@pytest.fixture
def box(platform):
    b = Sandbox(platform)
    yield b
    b.delete()


def run(box, cmd, **kw):
    r = box.run(cmd, separate=True, **kw)
    return r, base64.b64decode(r["stdout"], validate=True), base64.b64decode(r["stderr"], validate=True)


def test_apart_and_in_order(box):
    r, out, err = run(box, "echo one; sleep 0.5; echo two >&2; sleep 0.5; echo three; exit 4")
    assert (r["output"], out, err, r["return_code"]) == (b"one\ntwo\nthree\n", b"one\nthree\n", b"two\n", 4)
    assert r["output_bytes"] == 14 and r["dropped_bytes"] == 0


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 100, 9215, 9216, 9217, 9218, 65536, 100_001])
def test_every_length(box, n):
    r, out, err = run(box, f"head -c {n} /dev/zero | tr '\\0' o; head -c {n} /dev/zero | tr '\\0' e >&2")
    assert (out, err) == (b"o" * n, b"e" * n) and sorted(r["output"]) == sorted(out + err)


def test_many_small_pieces(box):
    r, out, err = run(box, "python3 -c \"import os\nfor i in range(20000): os.write(1 + i % 2, b'%05d' % i)\"")
    assert out == b"".join(b"%05d" % i for i in range(0, 20000, 2))
    assert err == b"".join(b"%05d" % i for i in range(1, 20000, 2))
    assert len(r["output"]) == 100000


def test_a_limit_counts_what_was_written(box):
    r, out, err = run(box, "head -c 100000 /dev/zero; sleep 0.1; echo err >&2", max_bytes=70000)
    assert len(out) == 70000 and err == b"" and (r["output_bytes"], r["dropped_bytes"]) == (70000, 30004)


def test_large_and_only_one(box):
    _, out, err = run(box, "head -c 30000000 /dev/zero")
    assert len(out) == 30_000_000 and err == b""


def test_again_by_task_id(box):
    r, out, _ = run(box, "echo out; echo err >&2")
    status, _, data = box.call("/run", {"cmd": "echo out; echo err >&2", "separate": True, "task_id": r["task_id"]})
    again = result(data)
    assert status == 200 and base64.b64decode(again["stdout"]) == out and again["duration_ms"] == r["duration_ms"]


def test_without_it_nothing_changes(box):
    assert "stdout" not in box.run("echo x") and box.run("echo x; echo y >&2")["output"] == b"x\ny\n"
    status, _, data = box.call("/run", {"cmd": "true", "separate": 1})
    assert status == 400 and b"separate" in data


def resident(platform):
    with open(f"/proc/{platform.process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))


def test_a_result_larger_than_the_sandbox(platform):
    """512 MiB of output in a sandbox of 128 MiB: on disk, and streamed."""
    box = Sandbox(platform, machine_size="1:0.125")
    before, most = resident(platform), 0
    head, connection = box.raw("/run", {"cmd": "head -c 536870912 /dev/zero", "max_bytes": None})
    connection.sendall(head)
    connection.settimeout(120)
    digest, got, text = hashlib.sha256(), 0, b""
    while b"event: end" not in text:
        piece = connection.recv(1 << 20)
        assert piece
        got += len(piece)
        text = text[-2000:] + piece
        most = max(most, resident(platform)) if got % 64 == 0 or not most else most
        digest.update(piece)
    connection.close()
    assert got > 536870912 * 4 // 3
    assert max(most, resident(platform)) - before < 30_000_000
    r = box.run("echo alive")
    assert (r["output"], r["outcome"]) == (b"alive\n", "exited")
    box.delete()


def test_unknown_keys_are_ignored_and_known_ones_are_not(platform):
    for key, value in (("network", {"rules": []}), ("sidecars", [{"name": "x"}])):
        status, _, data = platform.request("POST", "/create_sandbox", json.dumps({"image": "python:3.11-slim", key: value}).encode())
        assert status == 400 and key.encode() in data
    status, _, data = platform.request("POST", "/create_sandbox", b'{"image": "python:3.11-slim", "machine_size": "nvidia-l4"}')
    assert status == 400 and b"GPU" in data
    box = Sandbox(platform, some_new_key={"a": 1}, host_aliases=[{"ip": "10.1.2.3", "hostnames": ["db", "cache.local"]}])
    assert b"10.1.2.3 db cache.local" in box.run("cat /etc/hosts")["output"]
    assert box.run("getent hosts cache.local")["output"].split()[0] == b"10.1.2.3"
    box.delete()


# -- what a run took -----------------------------------------------------------------------------------------------------

BURN = """python3 -c "
import time
touched = b'x' * (50 << 20)
while time.process_time() < 0.3:
    pass
"; echo done"""


def test_processor_time_memory_and_duration(box):
    """A child's count as the shell's own; waiting takes time and nothing else."""
    nothing, waiting, busy = box.run("true"), box.run("sleep 0.5; true"), box.run(BURN)
    assert busy["output"] == b"done\n"
    assert busy["cpu_ms"] >= 300 and busy["peak_bytes"] >= 50 << 20
    assert busy["duration_ms"] >= 300 and waiting["duration_ms"] >= 500
    for r in (nothing, waiting, box.run("true")):  # the last comes behind the busy one, in the same sandbox
        assert r["cpu_ms"] < busy["cpu_ms"] / 2 and 0 < r["peak_bytes"] < 25 << 20, (r, busy)


# -- what the configuration limits ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tight(base_images):
    with base_images.platform("sandboxes:\n  pids: 64\n  output: 1MiB\n") as p:
        runs = Runs(p)
        yield runs
        runs.box.delete()


FORKS = """python3 -c "
import os, signal, time
children = []
try:
    while len(children) < 1000:
        children.append(os.fork())
        if not children[-1]:
            time.sleep(1000)
except BlockingIOError:
    print(len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.wait()
raise SystemExit(7)
" """


def test_a_fork_that_the_limit_refused(tight):
    """It is the agent's own doing, so it is trainable; the next command, which stays below the limit, hears nothing of it."""
    r = tight.box.run(FORKS)
    assert (r["outcome"], r["trainable"], r["return_code"], r["timed_out"]) == ("pids", True, 7, False), r
    assert 32 < int(r["output"]) < 64
    done = tight.wait(tight.start(FORKS))
    assert (done["outcome"], done["trainable"], done["return_code"]) == ("pids", True, 7), done
    r = tight.box.run("for i in 1 2 3 4; do sleep 0 & done; wait; exit 7")
    assert (r["outcome"], r["return_code"]) == ("exited", 7), r


@pytest.mark.parametrize("max_bytes", [..., None])
def test_output_without_a_limit_has_the_configurations(tight, max_bytes):
    """A number of one's own goes before it, a larger one too."""
    size, kept = 3 << 20, 1 << 20
    cmd = f"head -c {kept} /dev/zero | tr '\\0' a; head -c {size - kept} /dev/zero | tr '\\0' b"
    limit = {} if max_bytes is ... else {"max_bytes": max_bytes}
    r = tight.box.run(cmd, **limit)
    assert (r["output_bytes"], r["dropped_bytes"], r["outcome"]) == (kept, size - kept, "exited") and r["output"] == b"a" * kept
    r, out, err = run(tight.box, cmd, **limit)
    assert (r["output_bytes"], r["dropped_bytes"]) == (kept, size - kept) and out == b"a" * kept and err == b""
    first = tight.start(cmd, **limit)
    done = tight.wait(first)
    assert (done["output_bytes"], done["dropped_bytes"], done["outcome"]) == (kept, size - kept, "exited")
    assert tight.output(first) == b"a" * kept
    last = tight.start(cmd, keep="last", **limit)
    done, told = tight.wait(last), tight.output(last)
    assert done["output_bytes"] + done["dropped_bytes"] == size and kept <= done["output_bytes"] <= 2 * kept
    assert told == b"b" * done["output_bytes"]
    r = tight.box.run(cmd, max_bytes=size - 1)
    assert (r["output_bytes"], r["dropped_bytes"]) == (size - 1, 1) and len(r["output"]) == size - 1
