"""A file larger than any buffer: up into an environment's bucket and a sandbox and down again, hashed, while the daemon's memory
stays what it was. 5 GiB with `make soak`, less in the suite (SOAK_FILE_MIB says otherwise)."""
import hashlib
import os
import subprocess
import sys

import pytest

from orw import lines_of, running, settings, wait_until

SECONDS = int(os.environ.get("SOAK_SECONDS") or 60)
MIB = int(os.environ.get("SOAK_FILE_MIB") or (5120 if SECONDS > 120 else 200))
GROWTH_KIB = 48 * 1024  # of the daemon, its buffers and worker threads included: far below any of the files
ORWD = os.path.join(os.path.dirname(sys.executable), "orwd")
CHUNK = 1 << 20

pytestmark = pytest.mark.timeout(600 + MIB)


@pytest.fixture(scope="module")
def platform():
    with running() as p:
        yield p


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """(path, sha256) of a file without holes and without a repeated piece."""
    path, digest = tmp_path_factory.mktemp("big") / "big", hashlib.sha256()
    piece = os.urandom(CHUNK - 8)
    with open(path, "wb") as f:
        for i in range(MIB):
            data = i.to_bytes(8, "big") + piece
            digest.update(data)
            f.write(data)
    yield path, digest.hexdigest()
    path.unlink()


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while data := f.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def peak_kib(platform):
    """The most that the daemon, `openreward serve`'s child of the same data folder, ever held."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        line = " ".join(lines_of(f"/proc/{pid}/cmdline")).replace("\0", " ")
        if platform.data in line and "openreward" in line:
            found += [int(x.split()[1]) for x in lines_of(f"/proc/{pid}/status") if x.startswith("VmHWM")]
    assert found
    return max(found)


def test_a_bucket_takes_it(platform, big):
    path, digest = big
    subprocess.run([ORWD, "create", "big", "--namespace", "local", "--description", "large files"], env={**os.environ, **platform.env}, check=True, timeout=120)
    before = peak_kib(platform)
    subprocess.run([ORWD, "upload", "local/big", str(path)], env={**os.environ, **platform.env}, check=True, timeout=300 + MIB)
    found = subprocess.run(["find", f"{platform.data}/buckets", "-type", "f", "-size", f"{MIB}M"], capture_output=True, text=True, check=True)
    assert sha256(found.stdout.strip()) == digest
    assert peak_kib(platform) - before < GROWTH_KIB


def test_a_sandbox_takes_it_and_gives_it_back(platform, big, tmp_path):
    path, digest = big
    before = peak_kib(platform)
    with platform.client().sandbox(settings()) as s:
        assert s.upload_from(path, "/data/big").size == MIB << 20
        assert s.run("sha256sum /data/big", timeout=120 + MIB).output.split()[0] == digest
        s.download_to("/data/big", tmp_path / "back")
    assert sha256(tmp_path / "back") == digest
    (tmp_path / "back").unlink()
    assert peak_kib(platform) - before < GROWTH_KIB
    wait_until(lambda: platform.leaks() == "", timeout_s=60, what="nothing left")
