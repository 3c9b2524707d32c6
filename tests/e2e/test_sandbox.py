"""Sandboxes through the unmodified SDK: commands, output, limits, files."""
import asyncio
import hashlib
import json
import os
import tempfile
import threading
import time

import pytest
from openreward import AsyncOpenReward

from orw import settings, wait_until
from test_runs import Runs
from tinyenv import tiny_folder
from wire import Sandbox, events


# -- commands ---------------------------------------------------------------------------------------------------------

def test_output_and_exit_code(sandbox):
    result = sandbox.run("echo out; echo err >&2; echo out again; exit 3")
    assert (result.output, result.return_code, result.timed_out, result.truncated) == ("out\nerr\nout again", 3, False, False)


def test_order_of_stdout_and_stderr(sandbox):
    result = sandbox.run("for i in $(seq 1 500); do echo o$i; echo e$i >&2; done")
    assert result.output.split() == [f"{c}{i}" for i in range(1, 501) for c in "oe"]


@pytest.mark.parametrize("command,code", [("kill -9 $$", 137), ("kill -TERM $$", 143), ("no-such-command", 127), ("exit 255", 255),
                                          ("true", 0), ("/etc/passwd", 126)])
def test_exit_codes(sandbox, command, code):
    assert sandbox.run(command).return_code == code


def test_environment_of_a_command(sandbox):
    output, code = sandbox.run("pwd; id -u; echo $PATH; python --version; echo $LANG; cat; readlink /proc/self/fd/0")
    assert code == 0
    lines = output.split("\n")
    assert lines[:2] == ["/", "0"]
    assert lines[2].startswith("/usr/local/bin:")
    assert lines[3].startswith("Python 3.11")
    assert lines[4] == "C.UTF-8"
    assert lines[5] == "/dev/null"


def test_binary_output(sandbox):
    result = sandbox.run(r"printf '\377\376\000\001abc'", sanitise=False)
    assert result.output.encode("utf-8", "surrogateescape") == b"\xff\xfe\x00\x01abc"


def test_large_output_is_cut_and_drained(sandbox):
    started = time.monotonic()
    result = sandbox.run("head -c 100000000 /dev/zero | tr '\\0' x; echo done >&2", timeout=60)
    assert result.truncated and result.return_code == 0 and len(result.output) == 50_000
    assert time.monotonic() - started < 120


def test_all_output_without_a_limit(sandbox):
    result = sandbox.run("head -c 5000000 /dev/zero | tr '\\0' y", max_bytes=None)
    assert len(result.output) == 5_000_000 and set(result.output) == {"y"}


def sleepers(sandbox, seconds):
    """How many `sleep SECONDS` run inside, by /proc: slim images have neither ps nor pgrep."""
    listing = sandbox.run("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null; echo; done").output
    return listing.splitlines().count(f"sleep {seconds} ") + listing.splitlines().count(f"sleep {seconds}")


def test_timeout_kills_the_whole_tree(sandbox):
    command = ("trap '' TERM; for i in 1 2 3; do (trap '' TERM; setsid sleep 1234 & wait) & done; "
               "echo started; sleep 1234")
    started = time.monotonic()
    result = sandbox.run(command, timeout=1)
    assert (result.return_code, result.timed_out) == (124, True)
    assert result.output == "started"
    assert time.monotonic() - started < 60
    assert sleepers(sandbox, 1234) == 0


def test_own_124_is_no_timeout(sandbox):
    result = sandbox.run("exit 124", timeout=10)
    assert (result.return_code, result.timed_out) == (124, False)


def test_background_child_neither_blocks_nor_dies(sandbox):
    started = time.monotonic()
    output, code = sandbox.run("python3 -m http.server 8000 & echo pid $!")
    assert code == 0 and output.startswith("pid ") and time.monotonic() - started < 60
    fetch = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').status)\""
    for _ in range(50):
        output, code = sandbox.run(fetch + " 2>/dev/null")
        if code == 0:
            break
        time.sleep(0.1)
    assert output == "200"


def test_sixty_four_runs_at_once(platform):
    async def main():
        async with AsyncOpenReward().sandbox(settings()) as s:
            return await asyncio.gather(*[s.run(f"sleep 0.2; echo {i}; exit {i % 5}") for i in range(64)])
    results = asyncio.run(main())
    assert [(r.output, r.return_code) for r in results] == [(str(i), i % 5) for i in range(64)]


def test_equal_commands_in_parallel_are_two_runs(platform):
    async def main():
        async with AsyncOpenReward().sandbox(settings()) as s:
            await asyncio.gather(*[s.run("echo x >> /tmp/count; sleep 0.3") for _ in range(8)])
            return (await s.run("wc -l < /tmp/count")).output
    assert asyncio.run(main()) == "8"


@pytest.mark.parametrize("kept", [True, False])
def test_equal_commands_one_after_the_other_each_run(platform, sandbox, kept):
    """Without a task_id and faster than any acknowledgement: a repetition joins only where a connection broke."""
    import http.client
    address = platform.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=30)
    for _ in range(30):
        connection.request("POST", "/run", b'{"cmd": "echo x >> /tmp/count"}', {"X-API-Key": platform.key, "X-Session-ID": sandbox.sid})
        assert b"event: end" in connection.getresponse().read()
        if not kept:
            connection.close()
    connection.close()
    assert sandbox.run("wc -l < /tmp/count").output == "30"


def test_command_of_many_megabytes(sandbox):
    blob = "a" * 13_000_000
    assert sandbox.run(f"echo '{blob}' | wc -c").output == "13000001"


def test_command_over_the_limit(sandbox):
    with pytest.raises(Exception) as raised:
        sandbox.run("echo " + "a" * 17_000_000)
    assert raised.value.status == 413


def test_state_between_runs_is_the_file_system_only(sandbox):
    sandbox.run("cd /tmp; export X=1; echo kept > /tmp/kept")
    assert sandbox.run("pwd; echo \"x$X\"; cat /tmp/kept").output == "/\nx\nkept"


# -- limits -----------------------------------------------------------------------------------------------------------

def test_out_of_memory_kills_the_command_only(client):
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        s.run("sleep 1000 & echo $! > /tmp/pid")
        result = s.run("python3 -c 'x = bytearray(2 * 1024**3); print(len(x))'", timeout=60)
        assert result.return_code == 137 and "2147483648" not in result.output
        assert s.run("echo alive; cat /proc/1/comm").output.startswith("alive")


def test_fork_bomb_is_held(client):
    """It may fill its own sandbox, where a command then says so; its neighbour does not notice."""
    with client.sandbox(settings()) as s, client.sandbox(settings()) as neighbour:
        s.run("f() { f | f & }; f; sleep 1", timeout=5)
        assert neighbour.run("echo fine", timeout=60).output == "fine"
        try:
            assert s.run("echo alive", timeout=30).output.endswith("alive")
        except RuntimeError as e:
            assert "process limit" in str(e)
        assert neighbour.run("echo fine", timeout=60).output == "fine"


def test_a_killed_fork_bomb_makes_room(client):
    """The thousands that are dying count as processes for a while: the next command waits for them."""
    with client.sandbox(settings(machine_size="0.5:1")) as s:
        for _ in range(3):
            assert s.run("f() { f | f & }; f; sleep 100", timeout=2).return_code == 124
            assert s.run("echo alive", timeout=30).output.strip() == "alive"


def test_processes_are_limited(sandbox):
    program = ("import os, time\nn = 0\ntry:\n    while n < 6000:\n        if os.fork() == 0:\n            time.sleep(20)\n"
               "            os._exit(0)\n        n += 1\nexcept OSError:\n    pass\nprint(n)")
    output = sandbox.run(f"python3 -c '{program}'", timeout=60).output
    assert 1000 < int(output.split()[0]) < 4096


def test_size_is_what_was_asked_for(client):
    with client.sandbox(settings(machine_size="0.5:1")) as s:
        started = time.monotonic()
        s.run("timeout 4 sh -c 'while :; do :; done'; true")
        used = s.run("cat /proc/self/cgroup; grep -c processor /proc/cpuinfo").output
        assert used and time.monotonic() - started < 60
        # Two busy loops for a second get half a second of CPU between them.
        cpu = s.run("python3 - <<'E'\nimport os,time\nt=time.monotonic()\nwhile time.monotonic()-t<2: pass\n"
                    "print(sum(os.times()[:2]))\nE").output
        assert 0 < float(cpu) < 1.5


def test_inotify_instances_in_twenty_sandboxes(platform):
    program = "import ctypes; l = ctypes.CDLL(None); print(sum(l.inotify_init() >= 0 for _ in range(100)))"

    async def one():
        async with AsyncOpenReward().sandbox(settings(machine_size="0.5:0.5")) as s:
            output = (await s.run(f'python3 -c "{program}"')).output
            await asyncio.sleep(1)
            return output

    async def main():
        return await asyncio.gather(*[one() for _ in range(20)])

    assert asyncio.run(main()) == ["100"] * 20


# -- root inside ------------------------------------------------------------------------------------------------------

def test_users_su_and_sudo(sandbox):
    assert sandbox.run("useradd -m worker && su worker -c 'id -un; echo $HOME; touch ~/mine; stat -c %U ~/mine'").output == \
        "worker\n/home/worker\nworker"


def test_apt_get_install(sandbox):
    result = sandbox.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends sudo tree >/tmp/log 2>&1 "
                         "|| tail -5 /tmp/log; tree --version; useradd u; echo 'u ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/u; "
                         "su u -c 'sudo id -u'", timeout=300)
    assert "tree v" in result.output and result.output.endswith("\n0")


def test_pip_install(sandbox):
    result = sandbox.run("pip install --quiet --no-cache-dir six 2>&1; python3 -c 'import six; print(six.__version__)'", timeout=300)
    assert result.return_code == 0 and result.output.split("\n")[-1].startswith("1.")


@pytest.mark.parametrize("command", [
    "kill -9 1; sleep 0.1; kill -0 1",
    "cat /proc/1/environ | wc -c | grep -qx 0 || exit 1; false",
    "head -c 1 /proc/1/mem",
    "for f in /proc/1/fd/*; do readlink $f && exit 0; head -c 1 $f && exit 0; done; false",
    "ls /proc/1/root/",
    "readlink /proc/1/exe",
])
def test_init_is_out_of_reach(sandbox, command):
    result = sandbox.run(command)
    if command.startswith("kill"):
        assert result.return_code == 0  # pid 1 is there still: a signal from inside does not reach it
    else:
        assert result.return_code != 0, result.output
    assert sandbox.run("echo alive").output == "alive"


def test_init_can_not_be_traced(sandbox):
    program = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.ptrace(16, 1, 0, 0), ctypes.get_errno())"
    assert sandbox.run(f'python3 -c "{program}"').output == "-1 1"


# -- files ------------------------------------------------------------------------------------------------------------

class Awaited:
    """A sandbox of the async client, whose calls are awaited here, one by one."""

    def __init__(self, runner, sandbox):
        self.runner, self.sandbox = runner, sandbox

    def __getattr__(self, name):
        return lambda *args, **kw: self.runner.run(getattr(self.sandbox, name)(*args, **kw))


@pytest.fixture(params=["sync", "async"])
def either(request, platform):
    """A fresh sandbox through each of the SDK's clients."""
    if request.param == "sync":
        yield request.getfixturevalue("sandbox")
        return
    with asyncio.Runner() as runner:
        s = platform.client(kind=AsyncOpenReward).sandbox(settings())
        runner.run(s.start())
        try:
            yield Awaited(runner, s)
        finally:
            runner.run(s.stop())


def test_check_run(either):
    assert either.check_run("echo out; echo err >&2") == "out\nerr"
    assert len(either.check_run("head -c 1000 /dev/zero | tr '\\0' x", max_bytes=100)) == 100
    with pytest.raises(RuntimeError, match="(?s)exit 3.*said before"):
        either.check_run("echo said before; exit 3")
    with pytest.raises(RuntimeError, match="sleep 100"):
        either.check_run("sleep 100", timeout=0.5)
    assert either.check_run("echo alive") == "alive"


def test_upload_and_download(either, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    either.upload(tmp_path / "a", "/tmp/with space")
    assert either.download("/tmp/with space") == content
    assert either.run("sha256sum < '/tmp/with space'").output.split()[0] == hashlib.sha256(content).hexdigest()


def test_upload_of_nearly_ten_megabytes(either, tmp_path):
    content = os.urandom(10_000_000)  # 13 MB as the command that the SDK makes of it
    (tmp_path / "a").write_bytes(content)
    either.upload(tmp_path / "a", "/root/a")
    assert either.stat_file("/root/a", sha256=True) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_upload_from_and_download_to(either, tmp_path):
    content = os.urandom(30_000_000)
    (tmp_path / "a").write_bytes(content)
    result = either.upload_from(tmp_path / "a", "/data/deep/er/a")
    assert (result.size, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    result = either.download_to("/data/deep/er/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert (result.size, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("again", [False, True])
def test_pieces_of_any_size_far_into_a_file(platform, sandbox, again):
    """Behind 32 MiB they take another way to the disk. One that is sent twice changes nothing but where the digest comes from."""
    content, head, at = os.urandom(1 << 20) * 41 + b"the end", {"X-Session-ID": sandbox.sid}, 0
    for size in [4 << 20] * 8 + [4096, 1 << 20, 8191, 4095, (4 << 20) - 4096, 2 << 20, 100, 4 << 20]:
        piece = content[at:at + size]
        for _ in range(1 + again):
            assert platform.request("POST", f"/write_file?path=/tmp/large&offset={at}", piece, headers=head)[0] == 200
        at += len(piece)
    assert at == len(content)
    status, _, body = platform.request("POST", f"/write_file?path=/tmp/large&commit=1&size={len(content)}", b"", headers=head)
    assert status == 200 and json.loads(body) == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    assert sandbox.run("sha256sum </tmp/large").output.split()[0] == hashlib.sha256(content).hexdigest()


def test_empty_file(either, tmp_path):
    (tmp_path / "a").write_bytes(b"")
    either.upload_from(tmp_path / "a", "/tmp/empty")
    assert either.stat_file("/tmp/empty")["size"] == 0 and either.download("/tmp/empty") == b""


def test_files_at_once(platform, tmp_path):
    """Eight files there and back through the async client: their pieces come in between each other."""
    contents = [os.urandom((i + 1) << 20) for i in range(8)]

    async def one(s, i):
        (tmp_path / f"{i}").write_bytes(contents[i])
        await s.upload_from(tmp_path / f"{i}", f"/many/{i}", chunk_size=1 << 20)
        await s.download_to(f"/many/{i}", tmp_path / f"{i}.back", chunk_size=700_000)
        return (tmp_path / f"{i}.back").read_bytes() == contents[i], (await s.stat_file(f"/many/{i}", sha256=True))["sha256"]

    async def main():
        async with AsyncOpenReward().sandbox(settings()) as s:
            return await asyncio.gather(*[one(s, i) for i in range(8)]), (await s.run("ls -A /many")).output

    found, listed = asyncio.run(main())
    assert found == [(True, hashlib.sha256(c).hexdigest()) for c in contents]
    assert listed.split() == [str(i) for i in range(8)]


def test_copy_between_sandboxes(platform):
    async def main():
        client = AsyncOpenReward()
        async with client.sandbox(settings()) as a, client.sandbox(settings()) as b:
            await a.run("head -c 9000000 /dev/urandom > /tmp/src")
            result = await a.copy_to(b, "/tmp/src", "/tmp/new/dst")
            return result.size, (await a.run("sha256sum /tmp/src")).output.split()[0] == (await b.run("sha256sum /tmp/new/dst")).output.split()[0]
    assert asyncio.run(main()) == (9_000_000, True)


@pytest.mark.parametrize("make,status,word", [
    ("ln -s /etc/passwd /tmp/x", 400, "symlink"), ("mkfifo /tmp/x", 400, ""), ("mkdir /tmp/x", 400, "directory"),
    ("ln -s /dev/null /tmp/x", 400, "symlink"), ("true", 404, ""),
])
def test_stat_refuses_what_is_no_regular_file(platform, sandbox, make, status, word):
    sandbox.run(make)
    got, _, body = platform.request("POST", "/stat_file?path=/tmp/x", b"", headers={"X-Session-ID": sandbox.sid})
    assert got == status and word.encode() in body


def test_download_follows_links_in_the_shell(either):
    either.run("echo hello > /tmp/a; ln -s /tmp/a /tmp/b")
    assert either.download("/tmp/b") == b"hello\n"
    assert either.download("/proc/version").startswith(b"Linux")


def test_read_past_the_end_and_failed_commit(platform, sandbox):
    sandbox.run("echo -n 12345 > /tmp/a")
    head = {"X-Session-ID": sandbox.sid}
    status, headers, body = platform.request("POST", "/read_file?path=/tmp/a&offset=2&length=100", b"", headers=head)
    assert (status, body, headers["x-file-size"]) == (200, b"345", "5")
    assert platform.request("POST", "/read_file?path=/tmp/a&offset=6&length=1", b"", headers=head)[0] == 416
    assert platform.request("POST", "/write_file?path=/tmp/a&offset=0", b"new", headers=head)[0] == 200
    assert sandbox.run("cat /tmp/a").output == "12345"  # until the commit the old file is untouched
    assert platform.request("POST", "/write_file?path=/tmp/a&commit=1&size=99", b"", headers=head)[0] in (400, 409)
    assert sandbox.run("cat /tmp/a").output == "12345"
    assert platform.request("POST", "/write_file?path=/tmp/a&offset=0", b"x" * (4 * 1024 * 1024 + 1), headers=head)[0] == 413


def test_uploads_that_failed_take_no_place(platform, sandbox):
    """1,024 may be open in a sandbox; none of these is."""
    headers = {"X-Session-ID": sandbox.sid}
    for i in range(1030):
        assert platform.request("POST", f"/write_file?path=/no/{i}&offset=0", b"x", headers)[0] == 404
        assert platform.request("POST", f"/write_file?path=/tmp/{i}&commit=1&size=1", b"", headers)[0] == 409
    status, _, answer = platform.request("POST", "/write_file?path=/tmp/good&offset=0", b"x", headers)
    assert status == 200, answer


# -- an image's own user and folder -----------------------------------------------------------------------------------

AS_APP = """RUN useradd -u 1234 app && install -d -m 700 /rootly && echo secret > /rootly/file && chown app /app
USER app
CMD"""


@pytest.fixture(scope="module")
def as_app(platform):
    """A sandbox of an image with USER app, whom WORKDIR /app belongs to, and a folder of root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(tiny_folder(folder), "Dockerfile")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace("CMD", AS_APP))
        done = platform.cli("deploy", folder, "--name", "local/as-app")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    images = [json.loads(line)["name"] for line in platform.cli("image", "ls", "--json").stdout.splitlines()]
    box = Runs(platform, image=next(i for i in images if i.startswith("localhost/env/local/as-app:")))
    yield box
    box.box.delete()


def written(box, path, data, query=""):
    """Status and answer of the first call that fails, or of the commit."""
    status, _, answer = box.call(f"/write_file?path={path}&offset=0{query}", data)
    if status == 200:
        status, _, answer = box.call(f"/write_file?path={path}&commit=1&size={len(data)}", b"")
    return status, json.loads(answer)


def test_commands_are_the_images_users(as_app):
    told = b"app app\n/app\n/home/app\n"
    cmd = "echo $(id -un) $(id -gn); pwd; echo $HOME"
    assert as_app.box.run(cmd)["output"] == as_app.box.run(cmd, shell="/bin/sh")["output"] == told
    run = as_app.start(cmd)
    assert as_app.wait(run)["return_code"] == 0 and as_app.output(run) == told
    run = as_app.start(cmd, tty=True)
    assert as_app.wait(run)["return_code"] == 0 and as_app.output(run).replace(b"\r", b"") == told
    r = as_app.box.run("cat /rootly/file")
    assert r["return_code"] == 1 and b"Permission denied" in r["output"]


def test_files_are_the_images_users_and_begin_in_its_folder(as_app):
    box = as_app.box
    for path in ("sub/one", "/app/sub/two", "/tmp/three", "four"):
        status, answer = written(box, path, path.encode(), "&mkdirs=1")
        assert status == 200, answer
    assert box.run("stat -c '%U %G %n' /app/sub /app/sub/* /tmp/three /app/four")["output"].decode().splitlines() == [
        f"app app {path}" for path in ("/app/sub", "/app/sub/one", "/app/sub/two", "/tmp/three", "/app/four")]
    for path in ("sub/one", "/app/sub/one"):
        status, headers, data = box.call(f"/read_file?path={path}")
        assert (status, data, headers["x-file-size"]) == (200, b"sub/one", "7")
    status, _, data = box.call("/stat_file?path=server.py")
    assert status == 200 and json.loads(data)["size"] == int(box.run("stat -c %s /app/server.py")["output"])
    status, _, data = box.call("/read_file?path=tmp/three")
    assert status == 404 and "tmp/three" in json.loads(data)["detail"]


def test_what_is_roots_stays_roots(as_app):
    """Reading and writing, in a folder that hides what it holds, in one that all may read, at the top."""
    box = as_app.box
    for call in ("stat_file", "read_file"):
        for path in ("/rootly/file", "/rootly/none", "/etc/shadow"):
            status, _, data = box.call(f"/{call}?path={path}")
            assert status == 403 and json.loads(data)["detail"] == f"{path}: permission denied", (call, path, status, data)
    for path in ("/rootly/file", "/rootly/new", "/etc/new", "/etc/passwd", "/newly/made"):
        status, answer = written(box, path, b"x", "&mkdirs=1")
        assert status == 403 and path.rpartition("/")[0] in answer["detail"] and "permission denied" in answer["detail"], answer
    assert box.run("ls -d /etc/new /newly 2>/dev/null; grep -c ^root: /etc/passwd")["output"] == b"1\n"


# -- life -------------------------------------------------------------------------------------------------------------

def test_delete_answers_after_the_last_process_is_dead(platform, client):
    with client.sandbox(settings()) as s:
        s.run("setsid sleep 98765 & setsid sleep 98765 &")
        sid = s.sid
    left = [p for p in os.listdir("/proc") if p.isdigit() and b"98765" in open_or_empty(f"/proc/{p}/cmdline")]
    assert left == []
    status, _, body = platform.request("POST", "/run", b'{"cmd": "true"}', headers={"X-Session-ID": sid})
    assert status == 410 and b"delete" in body


def test_the_longest_life_ends_one_that_is_busy(base_images):
    """No ping, no command and no start of the server puts it off. It takes a minute, the least that may be configured."""
    with base_images.platform("sandboxes:\n  lifetime: 1m\n") as p:
        began = time.monotonic()
        box = Sandbox(p)
        while time.monotonic() - began < 30:
            assert box.call("/ping")[0] == 200 and box.run("true")["return_code"] == 0
            time.sleep(1)
        p.process.kill()
        p.process.wait()
        p.listen = p.url.removeprefix("http://")
        p.start()
        answers = []
        held = threading.Thread(target=lambda: answers.append(box.call("/run", {"cmd": "sleep 1000"}, timeout_s=120)))
        held.start()
        wait_until(lambda: box.call("/ping")[0] != 200, 120, "its end")
        assert 60 <= time.monotonic() - began < 90, "from its beginning, not from the server's"
        told = {"detail": "the sandbox has ended: it reached its longest life"}
        for path in ("/ping", "/run", "/stat_file?path=/x", f"/v1/sandboxes/{box.id}/runs"):
            status, _, answer = box.call(path, {"cmd": "true"})
            assert status == 410 and told.items() <= json.loads(answer).items(), (path, status, answer)
        held.join(60)
        last = events(answers[0][2])[-1]
        assert last[0] == "error" and last[1].startswith("the sandbox has ended"), last
        assert box.delete()[0] == 200


def open_or_empty(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def test_sandboxes_do_not_see_each_other(platform, client):
    with client.sandbox(settings()) as a, client.sandbox(settings()) as b:
        a.run("echo secret > /tmp/f; setsid sleep 4321 &")
        wait_until(lambda: sleepers(a, 4321) == 1, what="its sleep's exec")
        assert sleepers(a, 4321) == 1 and sleepers(b, 4321) == 0
        assert b.run("ls /tmp/f").return_code != 0
        assert b.run("hostname").output != a.run("hostname").output


def test_threads_of_the_sync_client(platform, client):
    outputs = [None] * 8

    def work(i):
        with client.sandbox(settings()) as s:
            outputs[i] = s.run(f"echo {i}").output

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert outputs == [str(i) for i in range(8)]
