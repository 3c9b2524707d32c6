"""What a sandbox may write: it is really filled, in every way that could escape the count; the others and the host do not notice."""
import json
import os
import re

import pytest

from orw import settings

LIMIT = 64 << 20
CONFIG = """
sandboxes:
  disk: 64MiB
"""
# Prints MiB that could be written and the error's name.
FILL = r'''
import errno, os, sys
n, name = 0, ""
try:
    with open(sys.argv[1], "wb", buffering=0) as f:
        while n < 400:
            f.write(b"x" * (1 << 20)); n += 1
except OSError as e:
    name = errno.errorcode[e.errno]
print(n, name)
'''


@pytest.fixture(scope="module")
def small(base_images):
    with base_images.platform(CONFIG) as p:
        if "is not limited" in p.log():
            pytest.skip("nothing limits the disk on this machine")
        yield p


@pytest.fixture
def two(small):
    with small.client() as client, client.sandbox(settings()) as a, client.sandbox(settings()) as b:
        a.run(f"cat > /fill.py <<'E'\n{FILL}\nE")
        b.run(f"cat > /fill.py <<'E'\n{FILL}\nE")
        yield a, b


def fill(s, path="/big"):
    n, name = s.run(f"python3 /fill.py {path} 2>/dev/null").output.split()[:2]
    return int(n), name


def free_of_host(small):
    v = os.statvfs(small.data)
    return v.f_bavail * v.f_frsize


def test_a_full_one(small, two):
    a, b = two
    before = free_of_host(small)
    n, name = fill(a)
    assert name in ("EDQUOT", "ENOSPC") and 40 <= n <= 64, (n, name)
    # It goes on: what needs no room works, what needs some says why, and the run is told apart.
    assert a.run("echo alive").output.strip() == "alive"
    sid = {"X-Session-ID": a.sid}
    status, _, answer = small.request("POST", "/write_file?path=/more&offset=0", b"x" * (4 << 20), headers=sid)
    assert status == 413, (status, answer)
    assert run(small, a, "head -c 8M /dev/zero > /more")["outcome"] == "disk"
    # The neighbour has its own share, and all of it.
    assert b.run("head -c 40M /dev/zero > /mine && echo done").output.strip() == "done"
    assert before - free_of_host(small) < 400 << 20
    # Room that is given back can be had again.
    assert a.run("rm -f /big /more; sync; echo gone").output.strip() == "gone"
    assert fill(a)[0] >= 40


LOOK = "cat /there/file; stat -c ' %a %u:%g' /there/file; ls -A /there"


def test_a_file_that_is_there_outlives_a_full_disk(two, tmp_path):
    """What an upload in its place finds no room for is a 413, and the file is as it was; the next one that fits replaces it, and nothing
    is left beside it."""
    a, _ = two
    a.run("mkdir /there && printf 'old bytes' > /there/file && chmod 640 /there/file && chown 7:8 /there/file")
    (tmp_path / "large").write_bytes(b"x" * (LIMIT + (1 << 20)))
    with pytest.raises(Exception) as raised:
        a.upload_from(tmp_path / "large", "/there/file")
    assert raised.value.status == 413 and re.search(r"quota|space", str(raised.value)), raised.value
    assert a.run(LOOK).output.splitlines() == ["old bytes 640 7:8", "file"]
    (tmp_path / "small").write_bytes(b"new bytes")
    a.upload_from(tmp_path / "small", "/there/file")
    assert a.run(LOOK).output.splitlines() == ["new bytes 640 7:8", "file"]
    assert fill(a)[0] >= 40, "what was sent in vain still takes room"


def run(small, s, cmd):
    status, _, answer = small.request("POST", f"/v1/sandboxes/{s.sid}/runs", json.dumps({"cmd": cmd}).encode())
    assert status == 201, answer
    return json.loads(small.request("POST", f"/v1/sandboxes/{s.sid}/runs/{json.loads(answer)['id']}/wait")[2])


def test_what_counts(two):
    """Not a sparse file's size nor a second name, but what is deleted and still open, or mapped; small files; /tmp and the rest alike."""
    a, _ = two
    assert a.run("truncate -s 100G /sparse && echo done").output.strip() == "done"
    assert a.run("head -c 20M /dev/zero > /one && for i in $(seq 50); do ln /one /name$i; done; echo done").output.strip() == "done"
    hidden = "import os, time\nf = open('/tmp/hidden', 'wb')\nos.unlink('/tmp/hidden')\nf.write(b'x' * (30 << 20))\nf.flush()\nprint('held', flush=True)\ntime.sleep(60)"
    a.run(f"cat > /hide.py <<'E'\n{hidden}\nE\npython3 /hide.py > /dev/shm/held & for i in $(seq 100); do grep -q held /dev/shm/held && break; sleep 0.1; done")
    n, name = fill(a, "/tmp/rest")
    assert name in ("EDQUOT", "ENOSPC") and n < 20, (n, name)


def test_many_small_files(two):
    a, b = two
    made = a.run("cd /tmp; i=0; while mkdir d$i 2>/dev/null && for j in $(seq 500); do echo x > d$i/$j || break 2; done; do i=$((i+1)); [ $i = 200 ] && break; done"
                 " 2>/dev/null; echo $i", timeout=60).output.strip()
    assert int(made) <= 200
    assert b.run("mkdir -p /x/y && echo z > /x/y/z && cat /x/y/z").output.strip() == "z"
