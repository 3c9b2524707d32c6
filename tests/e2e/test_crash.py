"""kill -9 of each program of the platform but the daemon (test_restart.py): what goes on, what is told, and that the next start
leaves nothing behind."""
import contextlib
import fcntl
import glob
import json
import os
import random
import signal
import struct
import subprocess
import tempfile

import pytest

from orw import OPENREWARD, lines_of, nothing_new, settings, wait_until


def processes(wanted):
    """pids for which wanted(words of the command line, parent's pid)."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError), open(path + "/cmdline", "rb") as c, open(path + "/stat", "rb") as s:
            if wanted(c.read().split(b"\0"), int(s.read().rpartition(b")")[2].split()[1])):
                found.append(int(os.path.basename(path)))
    return found


def spawner(platform):
    return processes(lambda words, _: words[0].endswith(b"openreward-spawner") and platform.data.encode() in words)


def egress(platform):
    mine = spawner(platform)
    return processes(lambda words, parent: words[0] == b"openreward-egress" and parent in mine)


def kill(pids):
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # of what went with the first one
            os.kill(pid, signal.SIGKILL)


def kill_daemon(platform):
    platform.process.kill()
    platform.process.wait()
    platform.process = None


def busy(client):
    s = client.sandbox(settings())
    s.start()
    s.run("(setsid sleep 3000 &); sleep 3001 & true")
    return s


def groups(platform):
    """Its control groups, by the machine's own count: their name is orw- and the FNV-1a hash of DATA."""
    value = 0x811c9dc5
    for byte in platform.data.encode():
        value = (value ^ byte) * 0x01000193 & 0xffffffff
    return [d for d, _, _ in os.walk("/sys/fs/cgroup") if f"/orw-{value:08x}" in d]


def nothing_runs(platform):
    """Of sandboxes: neither processes in the groups nor anything that the product itself would call a leak."""
    alive = []
    for group in groups(platform):
        with contextlib.suppress(OSError), open(group + "/cgroup.procs", encoding="ascii") as f:
            alive += f.read().split()
    return not alive and platform.leaks() == "" and os.listdir(platform.data + "/sandboxes") in ([], [".stage"])


HEALTH = "python3 -c \"import urllib.request as u; print(u.urlopen('http://openreward.internal/health', timeout=5).status)\""


@pytest.fixture
def own(base_images):
    with base_images.platform() as p:
        assert groups(p)
        yield p
        assert p.leaks() == ""
        assert p.stop() == 0
        assert p.leaks() == ""
        assert not groups(p) and os.listdir(p.data + "/sandboxes") == []
        nothing_new(p)


def test_egress_comes_back(own):
    with own.client() as client, client.sandbox(settings()) as s:
        assert s.run(HEALTH).output == "200"
        for _ in range(3):
            kill(egress(own))
            assert s.run("echo runs").output == "runs"
            wait_until(lambda: s.run(HEALTH + " 2>/dev/null").output == "200", 60, "network after egress was killed")


def test_spawner_is_killed(own):
    """Nothing can be made without it, and only root can start one: the daemon ends and says so; the next start clears up."""
    with own.client() as client:
        busy(client)
        kill(spawner(own))
        assert own.process.wait(60) != 0
        assert "openreward-spawner is gone" in own.log()
        own.process = None
    own.start()
    wait_until(lambda: nothing_runs(own), 60, "the end of what ran before")
    with own.client() as client, client.sandbox(settings()) as s:
        assert s.run(HEALTH).output == "200"


def test_all_are_killed_at_once(own):
    with own.client() as client:
        busy(client)
        kill(egress(own) + spawner(own))
        kill_daemon(own)
    own.start()
    wait_until(lambda: nothing_runs(own), 60, "the end of what ran before")


def in_the_step(platform):
    return any("in-the-step" in open(path, encoding="utf-8").read() for path in glob.glob(platform.data + "/builds/*/log"))


def test_all_are_killed_while_a_build_runs(own):
    """The container runtime makes groups beside ours, in every hierarchy: the next start removes them, whoever builds again or not."""
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/Dockerfile", "w", encoding="utf-8") as f:
            f.write("FROM python:3.11-slim\nRUN echo in-the-step && sleep 600\n")
        argv = [OPENREWARD, "deploy", folder, "--name", "local/killed"]
        with subprocess.Popen(argv, env={**os.environ, **own.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            wait_until(lambda: any("-job-" in g for g in groups(own)) and in_the_step(own), 120, "the step")
            of_build = {g for g in groups(own) if "-job-" in g}
            kill(spawner(own))
            kill_daemon(own)
    of_build = {g for g in of_build if os.path.exists(g)}
    assert of_build, "nothing is left over, so this is no test"
    for note in glob.glob(own.data + "/images/env/*/*/cgroup"):
        os.unlink(note)  # by which the next build of this environment would clear up itself
    own.start()
    wait_until(lambda: not [g for g in of_build if os.path.exists(g)], 30, "the end of the groups")
    for d in json.loads(own.request("GET", "/v1/environments/local/killed/deployments")[2]):
        own.request("POST", f"/v1/deployments/{d['id']}/cancel")
    wait_until(lambda: nothing_runs(own) and not [g for g in groups(own) if "-job-" in g], 60, "the end of the build that begins again")


# -- power cuts ---------------------------------------------------------------------------------------------------------

HEAD = 4096  # of a file of records (src/base/slots.h): what is in it, and the size of a record


def cut_off(platform):
    """All of it ends at once, and with it what lay in memory only: control groups, the lock of its user ids. DATA stays."""
    held = {os.readlink(path) for path in glob.glob(f"/proc/{spawner(platform)[0]}/fd/*")}
    lock, = [path for path in held if path.startswith("/run/openreward/ids-")]
    kill(egress(platform) + spawner(platform))
    kill_daemon(platform)

    def gone():
        for group in sorted(groups(platform), key=len, reverse=True):
            for pid in lines_of(group + "/cgroup.procs"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):  # not empty yet
                os.rmdir(group)
        return not groups(platform)
    wait_until(gone, what="the end of the groups")
    with open(lock, encoding="ascii") as f, contextlib.suppress(BlockingIOError):  # another platform of this host took it just now
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(lock)


def one_record_everywhere(was):
    size = struct.unpack_from("<I", was, 20)[0]
    records = [was[at:at + size] for at in range(HEAD, len(was) - size + 1, size)]
    return was[:HEAD] + next((r for r in records if any(r[:4])), bytes(size)) * len(records)


DAMAGES = {
    "empty": lambda was: b"",
    "cut": lambda was: was[:len(was) // 2 + 13],
    "cut in the head": lambda was: was[:100],
    "zeros": lambda was: bytes(len(was)),
    "garbage": lambda was: random.Random(1).randbytes(len(was)),
    "garbage below the head": lambda was: was[:HEAD] + random.Random(2).randbytes(len(was) - HEAD),
    "ones below the head": lambda was: was[:HEAD] + b"\xff" * (len(was) - HEAD),
    "one record everywhere": one_record_everywhere,
}


@pytest.fixture(scope="module")
def plain(base_images):
    """One whose sandboxes lie in DATA itself, where a power cut leaves them."""
    with base_images.platform("sandboxes:\n  disk: 0\n") as p:
        yield p


def leave_a_tree(platform, outside):
    """As an end in the middle leaves it: with rights of nobody, and links that lead elsewhere."""
    tree = f"{platform.data}/sandboxes/00000000-0000-4000-8000-000000000000"
    os.makedirs(tree + "/upper/a/b")
    os.makedirs(os.path.join(tree, "work", "work"))  # overlayfs' own
    with open(tree + "/upper/a/b/file", "wb") as f:
        f.write(b"x" * 100000)
    os.symlink(outside, tree + "/upper/link")
    os.symlink(outside, f"{platform.data}/sandboxes/link")
    os.lchown(tree + "/upper/a", 1 << 20, 1 << 20)
    os.chmod(tree + "/upper/a/b", 0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_power_cut(plain, tmp_path, damage):
    """Whatever is left below run/ and sandboxes/: it starts, clears up, knows the old ids as ended or not at all, and works."""
    (tmp_path / "kept").write_text("kept")
    with plain.client() as client:
        with client.sandbox(settings()) as s:
            ended = s.sid
        lived = busy(client).sid
        cut_off(plain)
    for name in ("tasks", "sandbox", "sessions"):
        with open(f"{plain.data}/run/{name}", "r+b") as f:
            was = f.read()
            assert len(was) > HEAD
            f.seek(0)
            f.truncate()
            f.write(DAMAGES[damage](was))
    assert lived in os.listdir(plain.data + "/sandboxes"), "nothing is left over, so this is no test"
    leave_a_tree(plain, tmp_path)
    plain.start()
    wait_until(lambda: nothing_runs(plain), 60, "the end of what was left")
    assert (tmp_path / "kept").read_text() == "kept"
    for _ in range(2):
        for sid in (ended, lived):
            status, _, body = plain.request("POST", "/run", b'{"cmd": "true"}', headers={"X-Session-ID": sid})
            assert status in (404, 410), (status, body)
        with plain.client() as client, client.sandbox(settings()) as s:
            assert s.run(HEALTH).output == "200"
            ended = s.sid
        assert plain.stop() == 0 and plain.leaks() == ""
        plain.start()
