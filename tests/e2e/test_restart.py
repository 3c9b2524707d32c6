"""The daemon is killed, or leaves for a restart, at any moment: the next one takes everything over, and clients notice no more
than a pause. Commands append a line to a file of their sandbox, so that what is lost or run twice can be counted."""
import asyncio
import hashlib
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from orw import init_of, nothing_new, settings, spawners_of, wait_until
from tinyenv import TinySession, deploy_tiny

TAKEN_OVER_S = 20  # bench/ measures it; this is how long a client would wait


@pytest.fixture
def own(base_images):
    with base_images.platform() as p:
        yield p
        assert p.leaks() == ""
        assert p.stop() == 0
        assert os.listdir(p.data + "/sandboxes") == []
        nothing_new(p)


def kill(platform, after_s=0.0):
    time.sleep(after_s)
    platform.process.kill()
    platform.process.wait()
    platform.process = None


def restart(platform, after_s=0.0, env=None):
    """kill -9 and the next daemon; it takes over the listening socket, so clients keep the address."""
    kill(platform, after_s)
    url = platform.url
    platform.start(env)
    assert platform.url == url


def leave(platform):
    """A planned restart."""
    platform.process.send_signal(signal.SIGUSR2)
    assert platform.process.wait(40) == 0
    platform.process = None
    platform.start()


def in_background(fn):
    """Starts it; the result is to be called for the result."""
    out = {}

    def body():
        try:
            out["value"] = fn()
        except BaseException as e:  # told where it is asked for
            out["error"] = e
    t = threading.Thread(target=body, daemon=True)
    t.start()

    def result(timeout_s=60):
        t.join(timeout_s)
        assert not t.is_alive(), "it never came back"
        if "error" in out:
            raise out["error"]
        return out["value"]
    return result


def lines(sandbox, path="/tmp/lines"):
    return sandbox.run(f"cat {path}").output.split()


# -- sandboxes ---------------------------------------------------------------------------------------------------------

def test_a_sandbox_outlives_a_killed_daemon(own):
    with own.client() as client, client.sandbox(settings(env={"OF_ITS_OWN": "yes"})) as s:
        s.run("echo kept > /tmp/file; (setsid sleep 3000 &); cd /; true")
        before = s.run("cat /etc/hosts; hostname").output
        restart(own)
        assert s.run("cat /tmp/file; echo $OF_ITS_OWN; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep [3]000' | wc -l").output.split() == ["kept", "yes", "1"]
        assert s.run("cat /etc/hosts; hostname").output == before
    with own.client() as client, client.sandbox(settings()) as s:
        assert s.run("echo new").output == "new"


@pytest.mark.parametrize("name, command, want, after_s", [
    ("short", "echo short >> /tmp/lines; echo out; exit 3", ("out", 3), 0.004),  # in flight for some milliseconds
    ("long", "echo long >> /tmp/lines; sleep 3; echo out; exit 3", ("out", 3), 0.3),
    ("large", "echo large >> /tmp/lines; head -c 3000000 /dev/zero | tr '\\0' x; sleep 1; exit 3", ("x" * 3000000, 3), 0.3),
])
def test_a_command_in_flight_comes_back(own, name, command, want, after_s):
    with own.client() as client, client.sandbox(settings()) as s:
        for round_ in range(3):
            result = in_background(lambda: s.run(command, max_bytes=None))
            restart(own, after_s * (round_ + 1))
            done = result()
            assert (done.output, done.return_code) == want
            assert lines(s) == [name] * (round_ + 1)


def test_commands_at_every_moment_of_a_kill(own, tmp_path):
    """Short ones, one after the other, so that kills hit before, between and after the messages of a start and of an answer.
    The same command all the time: no repetition may join the run of the command before it.

    Then as a busy machine does it: the kernel has the answer, and the client goes on, but the daemon is not let on before it
    is killed, so that what it would write down behind the call is missing."""
    one_after_the_other(own, [(0.2 + 0.0137 * i, None) for i in range(10)])
    slow = slow_answers(str(tmp_path / "slow.so"))
    restart(own, env=slow)
    one_after_the_other(own, [(0.25 + 0.031 * i, slow) for i in range(6)])
    restart(own)


def one_after_the_other(platform, kills):
    with platform.client() as client, client.sandbox(settings()) as s:
        over, done = threading.Event(), []

        def loop():
            while not over.is_set():
                assert s.run("echo x >> /tmp/lines; echo y").output == "y"
                done.append(1)
        result = in_background(loop)
        for after_s, env in kills:
            restart(platform, after_s, env)
        over.set()
        result()
        assert len(lines(s)) == len(done)


SLOW_ANSWERS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static ssize_t slow(ssize_t n, const void *p, size_t len)
{
	if (n > 0 && memmem(p, len, "event: end", 10))
		usleep(300000);
	return n;
}
ssize_t send(int fd, const void *p, size_t n, int flags)
{
	return slow(((ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send"))(fd, p, n, flags), p, n);
}
"""


def slow_answers(library):
    """Variables for a daemon that sleeps behind every write to a client that ends an answer."""
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, "-xc", "-"], input=SLOW_ANSWERS.encode(), check=True, timeout=60)
    # A sanitizer wants to be loaded first, unless told that it need not.
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


def test_equal_commands_in_parallel_stay_apart(own):
    with own.client() as client, client.sandbox(settings()) as s:
        results = [in_background(lambda: s.run("echo x >> /tmp/lines; sleep 2; echo $$")) for _ in range(8)]
        restart(own, 0.5)
        outputs = [r().output for r in results]
        assert len(set(outputs)) == 8
        assert lines(s) == ["x"] * 8


def test_a_result_that_was_read_can_be_read_again(own):
    with own.client() as client, client.sandbox(settings()) as s:
        body = b'{"cmd": "echo once >> /tmp/lines; echo out", "timeout_s": 10, "max_bytes": 1000}'
        _, _, first = own.request("POST", "/run", body, headers={"X-Session-ID": s.sid})
        task = first.split(b"data: ")[1].split(b"\n")[0].decode()
        restart(own)
        _, _, again = own.request("POST", "/run", b'{"task_id": "' + task.encode() + b'", ' + body[1:], headers={"X-Session-ID": s.sid})
        assert again.split(b"event: end")[1] == first.split(b"event: end")[1]
        assert lines(s) == ["once"]


def test_an_upload_goes_on(own, tmp_path):
    local = tmp_path / "large"
    local.write_bytes(os.urandom(60_000_000))
    with own.client() as client, client.sandbox(settings()) as s:
        for path, after in (("/tmp/one", 0.05), ("/tmp/deep/er/two", 0.15), ("/tmp/three", 0.3)):
            result = in_background(lambda to=path: s.upload_from(local, to))
            restart(own, after)
            assert result().sha256 == hashlib.sha256(local.read_bytes()).hexdigest()
        assert s.run("ls -A /tmp | grep -c orw-stage").output == "0"


def test_an_orphan_ends_by_its_lease_while_no_daemon_lives(base_images):
    with base_images.platform("sandboxes:\n  idle: 2s\n") as p:
        with p.client() as client:
            s = client.sandbox(settings())
            s.start()
            kill(p)
            time.sleep(6)  # the lease is twice the interval of its renewals longer
            p.start()
            status, _, body = p.request("POST", "/run", b'{"cmd": "true"}', headers={"X-Session-ID": s.sid})
            assert status == 410 and b"while the server was away" in body
        assert p.leaks() == ""


def test_ended_ones_are_remembered(own):
    with own.client() as client:
        with client.sandbox(settings()) as s:
            sid = s.sid
        restart(own)
        status, _, body = own.request("POST", "/run", b'{"cmd": "true"}', headers={"X-Session-ID": sid})
        assert status == 410 and b"it was deleted" in body


def test_a_creation_is_taken_up_again(own):
    """At many moments: before its image was found, while it was made, just before the answer."""
    with own.client() as client:
        def create():
            s = client.sandbox(settings())
            s.start()
            return s
        for i in range(8):
            result = in_background(create)
            restart(own, 0.003 * i)
            s = result()
            assert s.run("echo here").output == "here"
            s.stop()


def test_the_command_line_waits_for_its_command(own):
    words = "echo x >> /tmp/lines; until [ -e /tmp/go ]; do sleep 0.1; done; wc -l < /tmp/lines; exit 5"
    result = in_background(lambda: own.cli("sandbox", "run", "python:3.11-slim", "--", "sh", "-c", words))
    def ids():
        return [one["id"] for one in json.loads(own.request("GET", "/v1/sandboxes")[2])["sandboxes"]]
    wait_until(ids, 60, "its sandbox")
    one, = ids()
    wait_until(lambda: own.cli("sandbox", "exec", one, "--", "test", "-e", "/tmp/lines").returncode == 0, 60, "the command")
    restart(own)
    leave(own)
    restart(own)
    assert own.cli("sandbox", "exec", one, "--", "touch", "/tmp/go").returncode == 0
    done = result()
    assert (done.stdout, done.returncode) == ("1\n", 5), done.stderr


def test_a_planned_restart_lets_open_requests_finish(own):
    with own.client() as client, client.sandbox(settings()) as s:
        result = in_background(lambda: s.run("echo x >> /tmp/lines; sleep 2; echo out"))
        time.sleep(0.5)
        leave(own)
        assert result().output == "out" and lines(s) == ["x"]


def test_an_init_that_is_slow_to_tell_holds_up_its_own_sandbox_only(own):
    with own.client() as client, client.sandbox(settings()) as slow, client.sandbox(settings()) as other:
        status, _, _ = own.request("POST", f"/v1/sandboxes/{slow.sid}/runs", b'{"cmd": "sleep 3000"}')
        assert status == 201
        result = in_background(lambda: slow.run("echo x >> /tmp/lines; until [ -e /tmp/go ]; do sleep 0.1; done; echo out"))
        wait_until(lambda: lines(slow) == ["x"], 60, "the command")
        init = init_of(slow.sid)
        os.kill(init, signal.SIGSTOP)
        try:
            restart(own)
            listed = in_background(lambda: own.request("GET", f"/v1/sandboxes/{slow.sid}/runs"))
            assert own.request("POST", "/ping", b"{}", headers={"X-Session-ID": slow.sid})[0] == 200
            assert other.run("echo here").output == "here"
            with client.sandbox(settings()) as new:
                assert new.run("echo new").output == "new"
            known = {one["id"]: one for one in json.loads(own.request("GET", "/v1/sandboxes")[2])["sandboxes"]}
            assert "background_runs" in known[other.sid] and "background_runs" not in known[slow.sid]
        finally:
            os.kill(init, signal.SIGCONT)
        assert json.loads(listed()[2])["total"] == 1
        slow.run("touch /tmp/go")
        assert result().output == "out" and lines(slow) == ["x"]


def test_many_sandboxes_with_commands_in_flight(own):
    """200 of them: taken over in time, nothing lost, nothing run twice."""
    take_over_many(own, 200)


def take_over_many(platform, n):
    from openreward import AsyncOpenReward

    async def one(client, ready, go):
        async with client.sandbox(settings(machine_size="0.5:0.5")) as s:
            ready.release()
            await go.wait()
            done = await s.run("echo x >> /tmp/lines; sleep 4; wc -l < /tmp/lines", timeout=120)
            return done.output, (await s.run("cat /tmp/lines | wc -l")).output

    async def all_of_them():
        client, ready, go = platform.client(kind=AsyncOpenReward), asyncio.Semaphore(0), asyncio.Event()
        tasks = [asyncio.create_task(one(client, ready, go)) for _ in range(n)]
        for _ in range(n):
            await ready.acquire()
        go.set()
        await asyncio.sleep(2)
        kill(platform)
        began = time.monotonic()
        await asyncio.to_thread(platform.start)
        took = time.monotonic() - began
        return took, await asyncio.gather(*tasks)

    took, results = asyncio.run(all_of_them())
    print(f"{n} sandboxes were taken over in {took:.2f} s")
    assert results == [("1", "1")] * n
    assert took < TAKEN_OVER_S


# -- sessions ----------------------------------------------------------------------------------------------------------

def test_sessions_outlive_the_daemon(own):
    """A killed one, then one that leaves: the same instance, the same conversation, and new ones beside it."""
    name = deploy_tiny(own)
    old, listing = TinySession(own, name, {"id": 4}), TinySession(own, name, create=False)
    before = who(old)
    ended = TinySession(own, name)
    ended.close()
    for again in (restart, leave):
        again(own)
        assert who(old) == before and old.ping()[0] == 200
        assert listing.get("/splits")[0] == 200
        status, _, body = ended.get("/splits")
        assert status == 410 and b"deleted by its client" in body
        with TinySession(own, name, {"id": 5}) as new:
            assert who(new)[1:] == before[1:]
    assert old.close()[0] == 200 and listing.close()[0] == 200


def who(session):
    about = session.about()
    return about["sid"], about["pid"], about["instance"]


def test_sessions_of_a_killed_spawner_are_told(own):
    name = deploy_tiny(own)
    with own.client() as client:
        s, box = TinySession(own, name), client.sandbox(settings())
        box.start()
        for pid in spawners_of(own):
            os.kill(pid, signal.SIGKILL)
        assert own.process.wait(60) != 0
        own.process = None
        own.start()
        status, _, body = s.get("/splits")
        assert status == 410 and b"infra" in body
        status, _, body = own.request("POST", "/run", b'{"cmd": "true"}', headers={"X-Session-ID": box.sid})
        assert status == 410 and b"infra" in body
