"""Fixtures: one platform for the whole run, with its base image and the two example environments deployed once."""
import contextlib
import os
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clients import write_table  # noqa: E402
from orw import ROOT, Platform, copy_images, running, settings  # noqa: E402
from tinyenv import deploy_tiny  # noqa: E402

# The host's settings for package clients go into sandboxes here, so that pip and apt work in them on any machine.
CONFIG = """
sandboxes:
  inherit_host: true
log:
  level: info
"""


RESULTS = []  # of tests with the mark "client": ((package, ...), name, outcome)
collect_ignore = [] if os.environ.get("ALL_CLIENTS") else ["test_clients_large.py", "test_clients_readme.py"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    mark = item.get_closest_marker("client")
    if mark and (report.when == "call" or report.outcome != "passed"):
        RESULTS.append((mark.args, item.name, report.outcome))


def pytest_sessionfinish():
    if os.environ.get("ALL_CLIENTS") and RESULTS:
        print("\nclients: " + write_table(RESULTS))


@pytest.fixture(scope="session")
def platform():
    with running(CONFIG) as p:
        os.environ.update(p.env)
        yield p


class BaseImages:
    """Further platforms with the base image that the first one made: copying it takes a second, making it half a minute. At the end, each
    must have stopped in order."""

    def __init__(self, data: str) -> None:
        self.data = data

    @contextlib.contextmanager
    def platform(self, config: str = "", images: bool = True):
        p = Platform(config)
        status = 0
        try:
            if images:
                copy_images(os.path.join(self.data, "images"), p.data)
            yield p.start()
        finally:
            status = p.stop()
            p.remove()
        assert status == 0, f"serve ended with {status}"


@pytest.fixture(scope="session")
def base_images(platform):
    return BaseImages(platform.data)


@pytest.fixture(scope="session")
def hello(platform):
    """The output of `orwd init hello --template basic`, untouched, deployed. Its name."""
    with tempfile.TemporaryDirectory() as folder:
        orwd = os.path.join(os.path.dirname(sys.executable), "orwd")
        subprocess.run([orwd, "init", "hello", "--template", "basic"], cwd=folder, check=True, timeout=120)
        done = platform.cli("deploy", os.path.join(folder, "hello"), "--name", "local/hello")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return "local/hello"


@pytest.fixture(scope="session")
def terminal(platform):
    """examples/terminal, deployed. Its name."""
    done = platform.cli("deploy", os.path.join(ROOT, "examples", "terminal"), "--name", "local/terminal", "--size", "2:4")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return "local/terminal"


@pytest.fixture(scope="session")
def tiny(platform):
    """tests/e2e/tiny, deployed. Its name."""
    return deploy_tiny(platform)


@pytest.fixture
def small_disk(request):
    """A file system of its own, of as many bytes as the test's file says: DISK_BYTES. Gives where it is mounted."""
    with tempfile.TemporaryDirectory(prefix="openreward-disk-", dir="/var/tmp") as folder:
        image, mount = os.path.join(folder, "disk"), os.path.join(folder, "mnt")
        os.chmod(folder, 0o755)
        os.mkdir(mount)
        with open(image, "wb") as f:
            f.truncate(request.module.DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=60)
        done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop mounts on this machine: {done.stderr.strip()}")
        try:
            yield mount
        finally:
            for _ in range(49):  # what was killed may hold it for a moment
                if subprocess.run(["umount", mount], capture_output=True, timeout=60, check=False).returncode == 0:
                    break
                time.sleep(0.2)
            else:
                subprocess.run(["umount", mount], check=True, timeout=60)


@pytest.fixture
def client(platform):
    from openreward import OpenReward
    with OpenReward() as c:
        yield c


@pytest.fixture
def sandbox(client):
    """A fresh sandbox with network, through the SDK."""
    with client.sandbox(settings()) as s:
        yield s
