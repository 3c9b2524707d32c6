"""The Debian package: made, looked at by lintian, and installed, upgraded beside living sessions, removed and purged in a Debian of
its own. There is no systemd in that: services.py stands in for it and runs the units' commands; of their directives it honours those
that its head names. The package is made of the programs of the build folder, as `make deb` would build the same ones again."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from debian_root import DebianRoot, base_images
from installed import BUILD, OPENREWARD, ROOT, run, verbs

sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from orw import Census, Platform, copy_images, wait_until  # noqa: E402
from tinyenv import TinySession, deploy_tiny  # noqa: E402
from wire import Sandbox  # noqa: E402

UNITS = ("openreward.service", "openreward-spawner.service")
CONFIG = "/etc/openreward/openreward.yaml"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a root folder with namespaces of its own")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    if not os.path.isdir(os.path.join(BUILD, "packaging")):
        pytest.skip("a build with sanitizers is not to be packaged")
    build = tmp_path_factory.mktemp("package")
    return run(os.path.join(ROOT, "tools", "make-deb"), str(build), BUILD, timeout_s=600).split()[-1]


@pytest.fixture(scope="module")
def newer(package, tmp_path_factory):
    """The same, called a later version."""
    folder = tmp_path_factory.mktemp("newer")
    run("dpkg-deb", "--raw-extract", package, str(folder / "tree"))
    control = folder / "tree" / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*$", r"\g<0>+newer", control.read_text(), flags=re.M))
    run("dpkg-deb", "--root-owner-group", "--build", str(folder / "tree"), str(folder / "newer.deb"))
    return str(folder / "newer.deb")


class Installed(Platform):
    """The platform in the root, for the helpers of the end-to-end tests."""

    def __init__(self, root: DebianRoot, port: int) -> None:
        self.root, self.url, self.key = root, f"http://127.0.0.1:{port}", ""
        self.data = f"/var/lib/openreward/{os.path.basename(root.folder)}"  # its cgroups are named after it

    def pid(self, unit: str) -> int:
        return int(self.root.run("systemctl", "show-pid", unit))

    def read_key(self) -> None:
        with open(self.root.path(self.data + "/admin.key"), encoding="utf-8") as f:
            self.key = f.read().strip()


class Asker:
    """Asks the server all the time, each time on a new connection."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.answers, self.over = platform, [], False
        self.thread = threading.Thread(target=self.go, daemon=True)
        self.thread.start()

    def go(self) -> None:
        while not self.over:
            try:
                self.answers.append(self.platform.request("GET", "/version", timeout_s=120)[0])
            except OSError as e:
                self.answers.append(repr(e))
            time.sleep(0.02)

    def end(self) -> set:
        self.over = True
        self.thread.join(150)
        return set(self.answers)


@pytest.fixture(scope="module")
def root():
    folder = tempfile.mkdtemp(prefix="openreward-debian-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    r = DebianRoot(folder, base_images(os.path.join(folder, "base")))
    try:
        r.start()
        yield r
    finally:
        r.stop()


def apt(root: DebianRoot, *words: str) -> str:
    return root.run("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3", *words)


def give(root: DebianRoot, package: str, name: str) -> str:
    shutil.copy(package, root.path("/root/" + name))
    return "/root/" + name


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def failures(text: str) -> set[str]:
    return set(re.findall(r"^FAIL +([^:]+):", text, re.M))


def install(root: DebianRoot, package: str) -> None:
    """As where an image is made: services are not started yet."""
    policy = root.path("/usr/sbin/policy-rc.d")
    with open(policy, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    apt(root, "update")
    apt(root, "install", "--no-install-recommends", give(root, package, "openreward.deb"))
    os.unlink(policy)
    assert "openreward" in root.run("getent", "passwd", "openreward")
    for unit in UNITS:
        assert root.run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert root.call("systemctl", "is-active", unit).returncode == 3


def check_the_machine(root: DebianRoot) -> None:
    """doctor finds nothing to do that the host itself does not lack."""
    text = root.call("openreward", "doctor").stdout
    host = subprocess.run([OPENREWARD, "doctor"], text=True, capture_output=True, timeout=120, check=False).stdout
    assert re.search(r"^OK +packages:", text, re.M) and re.search(r"^OK +user:", text, re.M), text
    assert failures(text) <= failures(host), text


def configure(root: DebianRoot, platform: Installed, port: int) -> None:
    with open(root.path(CONFIG), "a", encoding="utf-8") as f:
        f.write(f"listen: 127.0.0.1:{port}\ndata: {platform.data}\npools: {{max: 0, blanks: 0}}\n"
                "admission: {cpu_factor: 0, memory_factor: 0, memory_pressure: 0, io_pressure: 0}\n")
    os.makedirs(root.path(platform.data))
    copy_images(root.images, os.path.join(root.folder, "lib", "openreward", os.path.basename(root.folder)))


def start(root: DebianRoot, platform: Installed) -> None:
    root.run("systemctl", "start", "openreward.service")
    platform.read_key()
    assert platform.request("GET", "/health")[0] == 200
    before = platform.pid("openreward.service")
    root.run("systemctl", "reload", "openreward.service")
    wait_until(lambda: "SIGHUP" in root.logs(), 60, "the daemon's word on what it is to read anew")
    assert platform.pid("openreward.service") == before
    assert root.run("stat", "-c", "%U", f"/proc/{platform.pid('openreward.service')}").strip() == "openreward"


def completes(root: DebianRoot, *words: str) -> set[str]:
    script = "source /usr/share/bash-completion/completions/openreward; COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)); _openreward;" \
             " printf '%s\\n' \"${COMPREPLY[@]}\""
    return set(root.run("bash", "-c", script, "complete", "openreward", *words).split())


def counts(box: Sandbox) -> int:
    return int(box.run("cat /tmp/lines 2>/dev/null | wc -l")["output"])


def upgrade(root: DebianRoot, platform: Installed, package: str, box: Sandbox, session: TinySession) -> None:
    """Everybody lives through it, and those who ask meanwhile are answered."""
    before = {u: platform.pid(u) for u in UNITS}
    asker, about, n = Asker(platform), session.about(), counts(box)
    apt(root, "install", "--no-install-recommends", give(root, package, "newer.deb"))
    assert asker.end() == {200}
    assert "+newer" in root.run("dpkg-query", "-W", "-f", "${Version}", "openreward")
    assert platform.pid(UNITS[1]) == before[UNITS[1]] and platform.pid(UNITS[0]) not in (0, before[UNITS[0]])
    wait_until(lambda: counts(box) > n, 60, "the sandbox's command going on")
    assert session.about()["instance"] == about["instance"] and session.about()["calls"] > about["calls"]
    with open(root.path(CONFIG), encoding="utf-8") as f:
        assert platform.data in f.read()


def upgrade_to_another_protocol(root: DebianRoot, platform: Installed, box: Sandbox) -> None:
    """As if the spawner that runs spoke one that the new programs do not."""
    spawner, wire = platform.pid(UNITS[1]), "/run/openreward-spawner/wire"
    assert root.run("cat", wire) == run(OPENREWARD, "version", "--wire")
    root.run("tee", wire, stdin="0 0\n")
    text = root.run("dpkg", "-i", "/root/newer.deb")
    assert "sessions end" in text
    assert platform.pid(UNITS[1]) not in (0, spawner) and platform.pid(UNITS[0])
    assert root.run("cat", wire) == run(OPENREWARD, "version", "--wire")
    assert platform.request("GET", "/health")[0] == 200
    assert box.call("/run", {"cmd": "true"})[0] == 410


def remove(root: DebianRoot, platform: Installed) -> None:
    """Nothing runs any more; what is the operator's stays until the purge."""
    apt(root, "remove", "openreward")
    assert not re.search("openreward-(spawner|egress|init)|openreward serve", processes(root)), processes(root)
    wait_until(lambda: not Census(platform.data).found, 60, "cgroups, mounts and processes gone")
    assert root.call("test", "-e", "/usr/bin/openreward").returncode == 1
    root.run("test", "-e", CONFIG, "-a", "-e", platform.data + "/openreward.db")
    root.run("getent", "passwd", "openreward")


def purge(root: DebianRoot) -> None:
    apt(root, "purge", "openreward")
    left = root.run("sh", "-c", "find / -xdev -path /proc -prune -o -name '*openreward*' -print; ls -d /var/lib/openreward*; true")
    kept = {"/root/openreward.deb", "/run/openreward"}
    assert not {p for p in left.split() if p not in kept and not p.startswith(("/var/log/", "/tmp/"))}, left


def processes(root: DebianRoot) -> str:
    return root.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@pytest.mark.timeout(1200)
def test_install_upgrade_remove(root, package, newer):
    port = free_port()
    platform = Installed(root, port)
    install(root, package)
    check_the_machine(root)
    assert completes(root, "") == set(verbs())
    configure(root, platform, port)
    start(root, platform)
    deploy_tiny(platform)
    assert completes(root, "env", "show", "--data", platform.data, "") == {"local/tiny"}
    box, session = Sandbox(platform), TinySession(platform, "local/tiny")
    box.run("while sleep 0.2; do echo x >> /tmp/lines; done > /dev/null 2>&1 &")
    wait_until(lambda: counts(box) > 1, 60, "a line of the sandbox's command")
    assert completes(root, "sandbox", "rm", "--data", platform.data, "") >= {box.id}
    upgrade(root, platform, newer, box, session)
    upgrade_to_another_protocol(root, platform, box)
    remove(root, platform)
    purge(root)


def test_lintian(package):
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", package], text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_library_is_in_the_build_dependencies():
    """Of the package, too: what tools/install-deps brings for the build is what debian/control names."""
    with open(os.path.join(ROOT, "packaging", "debian", "control"), encoding="utf-8") as f:
        control = f.read()
    with open(os.path.join(ROOT, "tools", "install-deps"), encoding="utf-8") as f:
        build = re.search(r"^\tbuild\)(.*?);;", f.read(), re.M | re.S).group(1)
    wanted = set(re.findall(r"\blib[\w.+-]+-dev\b", build)) - {"libc6-dev", "libcriterion-dev"}
    assert len(wanted) > 4
    for library in wanted:
        assert re.search(rf"\b{re.escape(library)}\b", control), f"packaging/debian/control lacks {library}"
