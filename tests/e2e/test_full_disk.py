"""A full disk: a reason at once wherever something would have to be written, and nothing that was there is lost."""
import os
import subprocess
import tempfile

import pytest

from orw import OPENREWARD, Platform


@pytest.fixture
def small_disk():
    """A file system of 64 MiB of its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        image, mount = os.path.join(folder, "disk"), os.path.join(folder, "mnt")
        os.chmod(folder, 0o755)
        os.mkdir(mount)
        with open(image, "wb") as f:
            f.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=60)
        done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop mounts on this machine: {done.stderr.strip()}")
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True, timeout=60)


def fill(folder):
    with open(os.path.join(folder, "filler"), "wb") as f:
        try:
            while True:
                f.write(b"\0" * 65536)
                f.flush()
        except OSError:
            return


def test_full_disk(small_disk, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim\n")
    p = Platform()
    os.rmdir(p.data)
    p.data = os.path.join(small_disk, "data")
    os.mkdir(p.data, 0o755)
    try:
        p.start()
        fill(small_disk)
        done = p.cli("deploy", str(tmp_path), "--name", "local/x", timeout_s=60)
        assert done.returncode == 1 and "No space left" in done.stderr
        done = p.cli("image", "bootstrap", timeout_s=60)
        assert done.returncode == 1 and "MiB free" in done.stderr
        assert p.request("GET", "/v1/environments")[0] == 200
        assert p.stop() == 0
        os.unlink(os.path.join(small_disk, "filler"))
        p.start()
        assert p.request("GET", "/v1/environments")[0] == 200  # the key of the first start is still good
    finally:
        p.stop()
        p.remove()


def test_start_on_a_full_disk(small_disk):
    data = os.path.join(small_disk, "data")
    os.mkdir(data, 0o755)
    fill(small_disk)
    done = subprocess.run([OPENREWARD, "serve", "--listen", "127.0.0.1:0", "--data", data], text=True, capture_output=True, timeout=30,
                          stdin=subprocess.DEVNULL, check=False)
    assert done.returncode != 0 and ("full" in done.stderr or "No space left" in done.stderr)
