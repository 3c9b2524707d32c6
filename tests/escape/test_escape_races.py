"""Names that change under whoever looks them up: in a bucket, by an instance that writes to it; in a sandbox, by any command."""
import contextlib
import json
import os
import subprocess
import sys
import threading

import pytest
from openreward import SandboxBucketConfig

from orw import settings
from test_escape import file_call, upload
from test_files import Files

ROUNDS = 40
# A folder becomes a link and back, in one step each: there is always something of its name.
SWAP = r"""
import ctypes, os, sys
top, name, links = sys.argv[1], sys.argv[2], sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(top)
print('begun', flush=True)
while True:
    for link in links:
        try: os.symlink(link, name + '.link')
        except FileExistsError: pass
        libc.renameat2(-100, (name + '.link').encode(), -100, name.encode(), 2)
        libc.renameat2(-100, (name + '.link').encode(), -100, name.encode(), 2)
        try: os.unlink(name + '.link')
        except OSError: libc.renameat2(-100, (name + '.link').encode(), -100, name.encode(), 2)
"""


@contextlib.contextmanager
def as_an_instance(files, program, *argv):
    """Runs with what an instance has of a bucket: the daemon's user, there."""
    owner = os.stat(files.path)
    become = f"import ctypes, os, sys\nos.setgroups([]); os.setgid({owner.st_gid}); os.setuid({owner.st_uid})\n"
    with subprocess.Popen([sys.executable, "-c", become + program, files.path, *argv], stdout=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout.readline() == "begun\n"
            yield p
        finally:
            p.kill()


@contextlib.contextmanager
def swapping(files, *links):
    with as_an_instance(files, SWAP, "d", *links):
        yield
    at = files.path + "/d"
    if os.path.islink(at):
        os.unlink(at)
        os.rename(at + ".link", at)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(at + ".link")


@pytest.fixture(scope="module")
def bucket(platform):
    found = Files(platform)
    found.put("d/mine.txt", b"mine")
    return found


@pytest.fixture(scope="module")
def victim(platform, bucket):
    """A folder of the host that the daemon's user may write to: were a link followed, it would show here. Beside it, another bucket."""
    other = Files(platform, private=True)
    other.put("mine.txt", b"of somebody else")
    folder = platform.data + ".victim"
    os.makedirs(folder)
    owner = os.stat(bucket.path)
    os.chown(folder, owner.st_uid, owner.st_gid)
    with open(folder + "/mine.txt", "w", encoding="utf-8") as f:
        f.write("of the host")
    with as_an_instance(bucket, "import os, sys; os.symlink(sys.argv[2], sys.argv[1] + '/way'); print('begun', flush=True); "
                        "open(sys.argv[1] + '/way/control', 'w').close(); os.unlink(sys.argv[1] + '/way')", folder) as p:
        p.wait(60)
    assert os.listdir(folder).count("control") == 1, "the control: through a link, the daemon's user does get there"
    os.unlink(folder + "/control")
    yield folder, f"../{other.id}"
    assert os.listdir(folder) == ["mine.txt"]
    with open(folder + "/mine.txt", encoding="utf-8") as f:
        assert f.read() == "of the host"
    assert other.get("mine.txt")[2] == b"of somebody else" and other.list()[0] == ["mine.txt"]
    os.unlink(folder + "/mine.txt")
    os.rmdir(folder)


def test_a_mount_of_a_folder_that_becomes_a_link(platform, bucket, victim, client):
    config = SandboxBucketConfig(mount_path="/data", only_dir="d", read_only=True)
    seen = set()
    with swapping(bucket, *victim, "..", "/etc"):
        for _ in range(ROUNDS // 2):
            try:
                with client.sandbox(settings(environment=f"local/{bucket.name}", bucket_config=config, machine_size="0.5:0.5")) as s:
                    seen.add(s.run("cat /data/mine.txt; ls /data").output)
            except Exception as e:  # the SDK has its own for each status
                assert "only_dir" in str(e) or "symbolic link" in str(e) or "bucket" in str(e) or "/d" in str(e), e
                seen.add("refused")
    assert seen <= {"minemine.txt", "mine\nmine.txt", "refused"}, seen
    with client.sandbox(settings(environment=f"local/{bucket.name}", bucket_config=config, machine_size="0.5:0.5")) as s:
        assert s.run("cat /data/mine.txt").output == "mine"


def test_uploads_and_deletes_in_a_folder_that_becomes_a_link(bucket, victim):
    statuses = set()
    with swapping(bucket, *victim, "..", "."):
        for n in range(ROUNDS):
            statuses.add(bucket.raw_put(bucket.url(f"d/new-{n}.txt"), b"new")[0])
            statuses.add(bucket.call("DELETE", f"/d%2Fnew-{n}.txt")[0])
            statuses.add(bucket.call("DELETE", "/d%2Fno-such.txt")[0])
            answer = bucket.get("d/mine.txt")
            assert answer[0] != 200 or answer[2] == b"mine", answer
    assert statuses <= {200, 400, 404, 409}, statuses
    for n in range(ROUNDS):  # those whose delete met the link; other tests list the folder
        assert bucket.call("DELETE", f"/d%2Fnew-{n}.txt")[0] in (200, 404)
    bucket.put("d/again.txt", b"again")
    assert bucket.get("d/again.txt")[2] == b"again" and bucket.call("DELETE", "/d%2Fagain.txt")[0] == 200


def test_the_delete_of_a_folder_that_becomes_a_link(bucket, victim):
    with as_an_instance(bucket, "import os, sys\nprint('begun', flush=True)\nwhile True:\n    for link in sys.argv[2:]:\n        for fn in (\n"
                        "                lambda: os.makedirs(sys.argv[1] + '/gone/in'), lambda: os.symlink(link, sys.argv[1] + '/gone/l'),\n"
                        "                lambda: os.symlink(link, sys.argv[1] + '/gone'), lambda: os.unlink(sys.argv[1] + '/gone')):\n"
                        "            try: fn()\n            except OSError: pass\n", *victim):
        statuses = {bucket.call("DELETE", "/folder/gone")[0] for _ in range(ROUNDS)}
    assert statuses <= {200, 400, 404, 409}, statuses
    bucket.put("gone2/file", b"x")
    status, _, body = bucket.call("DELETE", "/folder/gone2")
    assert status == 200 and json.loads(body) == {"deletedCount": 1}


# -- file calls ---------------------------------------------------------------------------------------------------------

INSIDE = r"""
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/tmp/r/d', exist_ok=True)
os.chdir('/tmp/r')
for name in ('comm', 'status', 'environ', 'f'):
    open('d/' + name, 'w').write('mine')
open('keep', 'w').write('kept')
def folders():
    while True:
        for link in ('/proc/1', '/proc/self', '/sys/kernel', '/proc/self/fd', '/proc/1/root', '/proc/self/cwd', '/dev'):
            try: os.symlink(link, 'link')
            except FileExistsError: pass
            for _ in range(2): libc.renameat2(-100, b'link', -100, b'd', 2)
            try: os.unlink('link')
            except OSError: libc.renameat2(-100, b'link', -100, b'd', 2)
def leaves():
    while True:
        for make in (lambda: os.symlink('/proc/1/environ', 'leaf'), lambda: os.mkfifo('leaf'), lambda: os.mkdir('leaf'), lambda: os.link('keep', 'leaf')):
            try: make()
            except OSError: pass
            libc.renameat2(-100, b'leaf', -100, b'f', 2)
            for end in (os.unlink, os.rmdir):
                try: end('leaf')
                except OSError: pass
def stages():
    while True:
        for name in os.listdir('.'):
            if name.startswith('.orw-stage-'):
                for fn in (lambda: os.unlink(name), lambda: os.symlink('/proc/1/comm', name), lambda: os.unlink(name), lambda: os.link('keep', name)):
                    try: fn()
                    except OSError: pass
open('f', 'w').write('mine')
for fn in (folders, leaves, stages)[int(sys.argv[1]):int(sys.argv[2])]: threading.Thread(target=fn).start()
open('/tmp/begun', 'w').close()
"""


@contextlib.contextmanager
def racing(sandbox, first, last):
    sandbox.run(f"rm -rf /tmp/r /tmp/begun; cat > /tmp/race.py <<'E'\n{INSIDE}\nE")
    sandbox.run(f"(python3 /tmp/race.py {first} {last} > /tmp/race.log 2>&1 & echo $! > /tmp/race.pid); until [ -e /tmp/begun ]; do sleep 0.05; done", timeout=60)
    try:
        yield
    finally:
        sandbox.run("kill -9 $(cat /tmp/race.pid)")


@pytest.fixture(scope="module")
def box(platform):
    with platform.client() as client, client.sandbox(settings(machine_size="1:1")) as s:
        yield s


def may_answer(status):
    return status == 200 or 400 <= status < 500


def test_reads_where_a_folder_of_the_path_becomes_a_link(platform, box):
    got = set()
    with racing(box, 0, 1):
        for n in range(ROUNDS):
            name = ("comm", "status", "environ", "f")[n % 4]
            status, _, body = file_call(platform, box, "read_file", f"path=/tmp/r/d/{name}")
            assert may_answer(status) and (status != 200 or body == b"mine"), (status, body[:100])
            got.add(status)
            status, _, body = file_call(platform, box, "stat_file", f"path=/tmp/r/d/{name}&sha256=1")
            assert may_answer(status), (status, body[:100])
    box.run("rm -rf /tmp/r/d; mkdir /tmp/r/d; printf mine > /tmp/r/d/comm")
    assert file_call(platform, box, "read_file", "path=/tmp/r/d/comm")[::2] == (200, b"mine")


def test_writes_where_a_folder_of_the_path_becomes_a_link(platform, box):
    with racing(box, 0, 1):
        for n in range(ROUNDS):
            assert may_answer(upload(platform, box, f"/tmp/r/d/{('comm', 'status', 'environ', 'f')[n % 4]}")[0])
            assert may_answer(file_call(platform, box, "write_file", f"path=/tmp/r/d/a/b/{n}&offset=0&mkdirs=1", b"x")[0])
    assert box.run("cat /proc/1/comm; ls -d /sys/kernel/a /proc/1/a 2>/dev/null").output.split() == ["openreward-init"]
    box.run("rm -rf /tmp/r/d; mkdir /tmp/r/d")
    assert upload(platform, box, "/tmp/r/d/comm")[0] == 200


def test_a_file_that_becomes_something_else(platform, box):
    with racing(box, 1, 2):
        for _ in range(ROUNDS):
            status, _, body = file_call(platform, box, "read_file", "path=/tmp/r/f")
            assert may_answer(status) and (status != 200 or body in (b"mine", b"kept", b"hostile")), (status, body[:100])
            assert may_answer(upload(platform, box, "/tmp/r/f")[0])
    box.run("rm -rf /tmp/r/f /tmp/r/leaf; printf mine > /tmp/r/f")
    assert file_call(platform, box, "read_file", "path=/tmp/r/f")[::2] == (200, b"mine")


def test_an_upload_whose_hidden_file_is_exchanged(platform, box):
    """Between a piece and its commit somebody inside puts a link to another file in its place."""
    with racing(box, 2, 3):
        statuses = {upload(platform, box, f"/tmp/r/up-{n}")[0] for n in range(ROUNDS)}
    assert all(map(may_answer, statuses)), statuses
    assert box.run("cat /tmp/r/keep; cat /proc/1/comm").output.strip() == "keptopenreward-init"
    assert upload(platform, box, "/tmp/r/up")[0] == 200
    assert box.run("cat /tmp/r/up").output == "hostile"


def test_many_uploads_of_one_path_while_it_changes(platform, box):
    with racing(box, 0, 3):
        found = []

        def send():
            for _ in range(ROUNDS // 4):
                found.append(upload(platform, box, "/tmp/r/same")[0])
        threads = [threading.Thread(target=send) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(found) == 4 * (ROUNDS // 4) and all(map(may_answer, found)), found
    assert upload(platform, box, "/tmp/r/same")[0] == 200
