"""A running platform for the end-to-end tests: the built programs, a data folder of its own, and the clients around it."""
import contextlib
import glob
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
START_TIMEOUT_S = 20


class Platform:
    """One `openreward serve` with its spawner and everything below it. stop() ends all of it."""

    def __init__(self, config: str = "") -> None:
        self.data = tempfile.mkdtemp(prefix="openreward-e2e-", dir="/var/tmp")
        os.chmod(self.data, 0o755)
        self.log_path = self.data + ".log"
        self.config_path = self.data + ".yaml"
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config)
        self.process: subprocess.Popen | None = None
        self.url = ""
        self.key = ""

    def start(self) -> "Platform":
        log = open(self.log_path, "wb")  # of this start only: an earlier one's address would be found first
        argv = [OPENREWARD, "serve", "--listen", "127.0.0.1:0", "--data", self.data, "--config", self.config_path]
        self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            found = re.search(r"^listening on (http://\S+)$", self.log(), re.M)
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

    def client(self, key: str = ""):
        """The SDK's client for this platform, whatever the environment variables say."""
        from openreward import OpenReward
        saved = {k: os.environ.get(k) for k in self.env}
        os.environ.update(self.env)
        try:
            return OpenReward(api_key=key or self.key)
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


def settings(**changes):
    """Of a sandbox, for the SDK."""
    from openreward import SandboxSettings
    values = {"environment": "local/none", "image": "python:3.11-slim", "machine_size": "1:2", "block_network": False}
    return SandboxSettings(**{**values, **changes})


class Census:
    """What the machine itself counts, whatever the product says: processes, mounts, cgroups, network namespaces."""

    def __init__(self) -> None:
        self.processes = {p: self._name(p) for p in glob.glob("/proc/[0-9]*") if self._is_user_process(p)}
        with open("/proc/mounts", encoding="utf-8") as f:
            self.mounts = set(f.read().splitlines())
        self.cgroups = {d for top in ("/sys/fs/cgroup",) for d, _, _ in os.walk(top)}
        self.namespaces = set()
        for p in self.processes:
            with contextlib.suppress(OSError):
                self.namespaces.add(os.readlink(p + "/ns/net"))

    @staticmethod
    def _name(p: str) -> str:
        try:
            with open(p + "/cmdline", "rb") as f:
                return f.read().replace(b"\0", b" ").decode(errors="replace")[:120]
        except OSError:
            return ""

    @staticmethod
    def _is_user_process(p: str) -> bool:
        try:
            with open(p + "/stat", encoding="utf-8", errors="replace") as f:
                return f.read().rpartition(")")[2].split()[1] != "2" and os.path.basename(p) != "2"
        except OSError:
            return False

    def gone_since(self, before: "Census", ours: str = "orw-") -> list[str]:
        """What is there now and was not before, and looks like ours; a list of lines."""
        lines = [f"process {p}: {n}" for p, n in self.processes.items()
                 if p not in before.processes and "openreward" in n]
        lines += [f"mount {m}" for m in self.mounts - before.mounts]
        lines += [f"cgroup {c}" for c in self.cgroups - before.cgroups]
        lines += [f"network namespace {n}" for n in self.namespaces - before.namespaces]
        return lines


def wait_until(condition, timeout_s: float = 15, what: str = "the condition") -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not hold within {timeout_s} s")


if __name__ == "__main__":
    sys.exit("this file is a library of the tests")
