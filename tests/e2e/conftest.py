"""Fixtures: one platform for the whole run, with its base image and the two example environments deployed once."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from orw import ROOT, Platform, image_here, settings  # noqa: E402

# The host's settings for package clients go into sandboxes here, so that pip and apt work in them on any machine.
CONFIG = """
sandboxes:
  inherit_host: true
log:
  level: info
"""


@pytest.fixture(scope="session")
def platform():
    if os.geteuid() != 0:
        pytest.skip("needs root: the spawner makes namespaces and mounts")
    p = Platform(CONFIG)
    try:
        made = os.environ.get("OPENREWARD_TEST_IMAGES")  # DATA/images of another platform, to save its making
        if made:
            copy_images(made, p.data)
        p.start()
        os.environ.update(p.env)
        image_here(p)
        yield p
    finally:
        p.stop()
        p.remove()


def copy_images(images: str, data: str) -> None:
    """The base images alone: what was built for environments is left out."""
    target = os.path.join(data, "images")
    subprocess.run(["cp", "-a", images, target], check=True)
    shutil.rmtree(os.path.join(target, "env"), ignore_errors=True)
    for record in os.listdir(os.path.join(target, "records")):
        if record.startswith("localhost"):
            os.unlink(os.path.join(target, "records", record))


class BaseImages:
    """Further platforms with the base image that the first one made: copying it takes a second, making it half a minute."""

    def __init__(self, data: str) -> None:
        self.data = data

    @contextlib.contextmanager
    def platform(self, config: str = "", images: bool = True):
        p = Platform(config)
        try:
            if images:
                copy_images(os.path.join(self.data, "images"), p.data)
            yield p.start()
        finally:
            p.stop()
            p.remove()


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
