"""kill -9 of each program of the platform but the daemon (test_restart.py): what goes on, what is told, and that the next start
leaves nothing behind."""
import contextlib
import glob
import json
import os
import signal
import subprocess
import tempfile

import pytest

from orw import OPENREWARD, nothing_new, settings, wait_until


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
