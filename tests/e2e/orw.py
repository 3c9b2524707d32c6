"""A running platform for the end-to-end tests: the built programs, a data folder of its own, and the clients around it."""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("OPENREWARD_BUILD_DIR", os.path.join(ROOT, "build"))
OPENREWARD = os.path.join(BUILD, "openreward")
START_TIMEOUT_S = 60
IDS_TIMEOUT_S = 180
NO_IDS = "blocks of user ids are taken"


# For the tests of queues: as much room as they say, whatever machine runs them.
ROOM_BY_NUMBER = """
admission:
  cpu_factor: 0
  memory_factor: 0
  memory_pressure: 0
  io_pressure: 0
"""


class Platform:
    """One `openreward serve` with its spawner and everything below it. stop() ends all of it."""

    def __init__(self, config: str = "", data: str = "") -> None:
        """data: where its files are to lie, which is made; "" = in a new folder."""
        self.data = tempfile.mkdtemp(prefix="openreward-e2e-", dir="/var/tmp")
        self.log_path = self.data + ".log"
        self.config_path = self.data + ".yaml"
        if data:
            os.rmdir(self.data)
            os.mkdir(data)
            self.data = data
        os.chmod(self.data, 0o755)
        # What is prepared unasked would be in every census; test_pool.py, which is about it, says otherwise. How much there is
        # room for depends on the machine; test_queue.py, which is about it, says.
        if "pools:" not in config:
            config += "\npools:\n  max: 0\n  blanks: 0\n"
        if "admission:" not in config:
            config += "\nadmission:\n" + "".join(f"  {key}: 0\n" for key in (
                "cpu_factor", "memory_factor", "instances", "memory_pressure", "io_pressure"))
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config)
        self.process: subprocess.Popen | None = None
        self.url = ""
        self.key = ""
        self.listen = "127.0.0.1:0"

    def start(self, env: dict[str, str] | None = None) -> "Platform":
        """env: variables that this start has beside the test's own. Waits where other platforms of this host have all that
        there is of user ids: they are tests, too, and end."""
        deadline = time.monotonic() + IDS_TIMEOUT_S
        while True:
            try:
                return self.start_once(env)
            except RuntimeError as e:
                if NO_IDS not in str(e) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def start_once(self, env: dict[str, str] | None) -> "Platform":
        log = open(self.log_path, "wb")  # of this start only: an earlier one's address would be found first
        argv = [OPENREWARD, "serve", "--listen", self.listen, "--data", self.data, "--config", self.config_path]
        self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        log.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            found = re.search(r"^listening on (https?://\S+)$", self.log(), re.M)
            if found:
                self.url = found.group(1)
                break
            if self.process.poll() is not None:
                raise RuntimeError(f"serve ended with {self.process.returncode}: {self.log()[-2000:]}")
            time.sleep(0.02)
        else:
            self.stop()
            raise RuntimeError(f"serve was not ready within {START_TIMEOUT_S} s: {self.log()[-2000:]}")
        with open(os.path.join(self.data, "admin.key"), encoding="utf-8") as f:
            self.key = f.read().strip()
        return self

    def log(self) -> str:
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM, and the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def remove(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        for path in (self.log_path, self.config_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    @property
    def env(self) -> dict[str, str]:
        """What `openreward client-env` exports."""
        return {
            "OPENREWARD_URL": self.url,
            "OPENREWARD_API_URL": self.url,
            "OPENREWARD_SESSION_URL": self.url,
            "OPENREWARD_API_KEY": self.key,
            "OPENREWARD_DISABLE_UPDATE_CHECK": "1",
        }

    def cli(self, *argv: str, timeout_s: float = 900, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """An `openreward` verb against this platform; output as text, stderr apart."""
        return subprocess.run([OPENREWARD, *argv], env={**os.environ, **self.env, **(env or {})}, text=True,
                              capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)

    def request(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None,
                key: str | None = "", timeout_s: float = 60) -> tuple[int, dict[str, str], bytes]:
        """A plain HTTP request. key "" = the admin's, None = none."""
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers or {})
        if key is not None:
            request.add_header("X-API-Key", key or self.key)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as e:
            return e.code, {k.lower(): v for k, v in e.headers.items()}, e.read()

    def client(self, key: str = "", kind=None):
        """The SDK's client (or another class of it) for this platform, whatever the environment variables say; they stay as they were."""
        if kind is None:
            from openreward import OpenReward as kind
        saved = {k: os.environ.get(k) for k in self.env}
        os.environ.update(self.env)
        try:
            return kind(api_key=key or self.key)
        finally:
            for k, v in saved.items():
                os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)

    def leaks(self) -> str:
        """What `doctor --leaks` says; "" = it exits 0."""
        done = self.cli("doctor", "--leaks", "--data", self.data)
        return "" if done.returncode == 0 else done.stdout + done.stderr


def image_here(platform: Platform, ref: str = "python:3.11-slim") -> None:
    done = platform.cli("image", "bootstrap", ref)
    assert done.returncode == 0, done.stdout + done.stderr


def copy_images(images: str, data: str) -> None:
    """DATA/images of another platform, the base images alone: what was built for environments is left out. The files of
    layers, which nobody changes, are linked: copying ten thousand of them takes a minute on a busy disk."""
    target, layers = os.path.join(data, "images"), os.path.join("bases", "store", "overlay")
    subprocess.run(["mkdir", "-p", os.path.join(target, layers)], check=True)
    subprocess.run(["cp", "-al", os.path.join(images, layers, "."), os.path.join(target, layers)], check=True)
    others = ["--exclude=./env", f"--exclude=./{layers}/*", "--exclude=./records/localhost*"]
    with subprocess.Popen(["tar", "-C", images, *others, "-cf", "-", "."], stdout=subprocess.PIPE) as packed:
        subprocess.run(["tar", "-C", target, "-xpf", "-"], stdin=packed.stdout, check=True)
    assert packed.returncode == 0


@contextlib.contextmanager
def running(config: str = "", images: str | None = os.environ.get("OPENREWARD_TEST_IMAGES")):
    """A platform with its base image: copied where images names the DATA/images of another one, which takes a second;
    made here otherwise, which takes half a minute. At the end, it must have stopped in order."""
    if os.geteuid() != 0:
        import pytest
        pytest.skip("needs root: the spawner makes namespaces and mounts")
    p = Platform(config)
    status = 0
    try:
        if images:
            copy_images(images, p.data)
        p.start()
        image_here(p)
        yield p
    finally:
        status = p.stop()
        p.remove()
    assert status == 0, f"serve ended with {status}"


def settings(**changes):
    """Of a sandbox, for the SDK."""
    from openreward import SandboxSettings
    values = {"environment": "local/none", "image": "python:3.11-slim", "machine_size": "1:2", "block_network": False}
    return SandboxSettings(**{**values, **changes})


class Census:
    """What the machine itself counts of one platform, whatever the product says: processes, mounts, cgroups.

    Only that platform's, so that another one, or whatever else the machine does meanwhile, is no leak. A process is its
    own by its command line, its cgroup, or its root, whose overlay names DATA."""

    def __init__(self, data: str) -> None:
        marks = (os.path.realpath(data), cgroup_name(data))
        self.found = {f"cgroup {d}" for d, _, _ in os.walk("/sys/fs/cgroup") if marks[1] in d}
        self.found |= {f"mount {line}" for line in lines_of("/proc/self/mountinfo") if any(m in line for m in marks)}
        for p in pids():
            name = " ".join(command_of(p))
            texts = [name, *lines_of(f"/proc/{p}/cgroup"), *lines_of(f"/proc/{p}/mountinfo")]
            if any(m in t for t in texts for m in marks):
                self.found.add(f"process {p} {name[:120]}")



def lines_of(path: str) -> list[str]:
    """[] where there is no such file any more."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()
    except OSError:
        return []


def cgroup_name(data: str) -> str:
    """What the spawner calls this platform's cgroups: a hash (FNV-1a) of DATA's real path."""
    h = 2166136261
    for byte in os.path.realpath(data).encode():
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return f"orw-{h:08x}"


def nothing_new(platform: Platform, before: Census | None = None, timeout_s: float = 60) -> None:
    """Fails with what there is of the platform and was not before (None: with anything), if it does not go in time."""
    deadline = time.monotonic() + timeout_s
    while found := Census(platform.data).found - (before.found if before else set()):
        assert time.monotonic() < deadline, "still there:\n" + "\n".join(sorted(found))
        time.sleep(0.1)


def descriptors(platform: Platform) -> dict[str, int]:
    """How many the daemon, its spawner, and what the spawner started that is no sandbox have open."""
    spawners = spawners_of(platform)
    egress = [p for p in pids() if command_of(p)[:1] == ["openreward-egress"] and parent_of(p) in spawners]
    return {f"{command_of(p)[0]} {p}": len(os.listdir(f"/proc/{p}/fd")) for p in [platform.process.pid, *spawners, *egress]}


def spawners_of(platform: Platform) -> list[int]:
    """Its spawner (also one whose daemon is gone), without the builders: forks that bear its command line for some milliseconds."""
    found = [p for p in pids() if command_of(p)[:1] == ["openreward-spawner"] and platform.data in command_of(p)]
    return [p for p in found if parent_of(p) not in (0, *found)]  # 0: it is gone


def pids() -> list[int]:
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def command_of(pid: int) -> list[str]:
    """Its words, the program's without folder; [] when it is gone."""
    words = "\n".join(lines_of(f"/proc/{pid}/cmdline")).removesuffix("\0").split("\0")
    return [os.path.basename(words[0]), *words[1:]] if words[0] else []


def init_of(sid: str) -> int:
    """The process that is number 1 in a sandbox."""
    return next(p for p in pids() if any(sid in line for line in lines_of(f"/proc/{p}/cgroup"))
                and any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines_of(f"/proc/{p}/status")))


def parent_of(pid: int) -> int:
    text = "".join(lines_of(f"/proc/{pid}/stat"))
    return int(text.rpartition(")")[2].split()[1]) if text else 0


def wait_until(condition, timeout_s: float = 60, what: str = "the condition") -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not hold within {timeout_s} s")


if __name__ == "__main__":
    sys.exit("this file is a library of the tests")
