"""An environment's files inside a sandbox: whose they are there, and that nothing in a bucket leads to anything else."""
import ctypes
import os
import stat
import threading
import uuid

import pytest

from spawner_client import GID, UID, Box

RO = 1
EOVERFLOW = "Value too large"
PYTHON = "/usr/bin/python3"


class Bucket:
    def __init__(self, data):
        self.id = str(uuid.uuid4())
        top = f"{data}/buckets"
        if not os.path.isdir(top):
            os.mkdir(top, 0o750)
            os.chown(top, UID, GID)
        self.path = f"{top}/{self.id}"
        self.folder("")

    def folder(self, name):
        path = f"{self.path}/{name}".rstrip("/")
        os.mkdir(path, 0o755)
        os.chown(path, UID, GID)
        return path

    def file(self, name, text="x", mode=0o644):
        path = f"{self.path}/{name}"
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        os.chown(path, UID, GID)
        return path

    def plan(self, target="/orwd_data", user="", dir="", flags=0, **kw):
        return dict(bucket=self.id, bucket_dir=dir, bucket_target=target, bucket_flags=flags, bucket_user=user, **kw)


@pytest.fixture
def bucket(spawner):
    return Bucket(spawner.data)


@pytest.fixture
def make(spawner):
    made = []

    def one(**kw):
        made.append(spawner.make(**kw))
        return made[-1]

    yield one
    for b in made:
        spawner.end(b)


def refused(spawner, **kw):
    m = spawner.daemon.call("MAKE", *spawner.plan(**kw), timeout=40)
    assert m.kind == "FAILED", m
    return m.text("TEXT")


@pytest.mark.parametrize("user,owner", [("", "0:0"), ("user", "1000:1000"), ("1234:77", "1234:77"), ("user:tty", "1000:5")])
def test_files_belong_to_the_images_user(bucket, make, user, owner):
    bucket.file("a", "hello")
    box = make(**bucket.plan(user=user))
    assert box.run("stat -c %u:%g /orwd_data /orwd_data/a", user=owner)[1].split() == [owner, owner]
    code, out = box.run("echo new >/orwd_data/b && mkdir /orwd_data/d && echo more >>/orwd_data/a", user=owner)
    assert code == 0, out
    for name in ("a", "b", "d"):
        st = os.stat(f"{bucket.path}/{name}")
        assert (st.st_uid, st.st_gid) == (UID, GID)
    with open(f"{bucket.path}/a", encoding="utf-8") as f:
        assert f.read() == "hellomore\n"


def test_others_inside_read_and_cannot_write(bucket, make):
    bucket.file("a", "hello")
    box = make(**bucket.plan(user="user"))
    assert box.run("cat /orwd_data/a", user="77:77") == (0, "hello")
    assert box.run("echo x >>/orwd_data/a", user="77:77")[0] != 0
    code, out = box.run("touch /orwd_data/by-root", user="0:0")
    assert code != 0 and EOVERFLOW in out
    assert os.listdir(bucket.path) == ["a"]


def test_nothing_on_the_host_gets_another_owner(bucket, make):
    """The daemon's user is not root, and a set-user-id file of its is reached by nobody: buckets/ is closed to others."""
    box = make(**bucket.plan())
    code, out = box.run("cp /suid-id /orwd_data/rooted && chmod 4755 /orwd_data/rooted && stat -c %u:%a /orwd_data/rooted")
    assert code == 0 and out == "0:4755\n", out
    st = os.stat(f"{bucket.path}/rooted")
    assert (st.st_uid, st.st_gid) == (UID, GID)
    assert box.run("/orwd_data/rooted -u", user="1000:1000")[1].strip() == "1000"  # nosuid
    for owner in ("1000", "1000:1000", ":1000"):
        code, out = box.run(f"chown {owner} /orwd_data/rooted")
        assert code != 0 and ("Invalid argument" in out or EOVERFLOW in out or "not permitted" in out), out
    assert (os.stat(f"{bucket.path}/rooted").st_uid, os.stat(f"{bucket.path}/rooted").st_gid) == (UID, GID)
    top = os.stat(os.path.dirname(bucket.path))
    assert stat.S_IMODE(top.st_mode) & 0o007 == 0


def test_no_device_nodes(bucket, make):
    box = make(**bucket.plan())
    code, out = box.run("mknod /orwd_data/null c 1 3")
    assert code != 0 and "not permitted" in out
    os.mknod(f"{bucket.path}/made", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    code, out = box.run("cat /orwd_data/made")
    assert code != 0 and "ermission denied" in out  # nodev


def test_links_lead_into_the_sandbox_only(spawner, bucket, make, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    os.chmod(tmp_path, 0o755)
    for name, to in (("abs", str(secret)), ("up", "../../../../../../" + str(secret)), ("other", "../.."), ("dots", "..")):
        os.symlink(to, f"{bucket.path}/{name}")
    box = make(**bucket.plan())
    code, out = box.run("cat /orwd_data/abs /orwd_data/up; ls /orwd_data/other/ /orwd_data/dots/; ls /orwd_data/..")
    assert "of the host" not in out and bucket.id not in out and "buckets" not in out
    code, out = box.run("cd /orwd_data/.. && ls -d orwd_data", user="0:0")
    assert code == 0 and out == "orwd_data\n"


def test_read_only(bucket, make):
    bucket.file("a")
    box = make(**bucket.plan(flags=RO))
    for command in ("touch /orwd_data/b", "echo >/orwd_data/a", "rm /orwd_data/a", "chmod 600 /orwd_data/a", "mkdir /orwd_data/d"):
        code, out = box.run(command)
        assert code != 0 and "Read-only" in out, (command, out)
    assert box.run("mount -o remount,rw,bind /orwd_data || umount /orwd_data")[0] != 0


@pytest.mark.parametrize("target", ["/workspace", "/tmp/x", "/home/ubuntu/a/b", "/etc/task"])
def test_a_folder_of_it_appears_at_the_mounts_root(bucket, make, target):
    bucket.folder("tasks")
    bucket.folder("tasks/1")
    bucket.file("tasks/1/only", "this")
    bucket.file("secret")
    box = make(**bucket.plan(target=target, dir="tasks/1", flags=RO))
    assert box.run(f"ls {target}; cat {target}/only")[1] == "only\nthis"
    bucket.file("tasks/1/later", "seen")
    assert box.run(f"cat {target}/later")[1] == "seen"
    assert "secret" not in box.run(f"ls -a {target}/..")[1]


def test_what_is_uploaded_later_is_seen_by_all(bucket, make):
    boxes = [make(**bucket.plan()), make(**bucket.plan(flags=RO))]
    assert [b.run("ls /orwd_data")[1] for b in boxes] == ["", ""]
    bucket.file("new", "1")
    assert [b.run("cat /orwd_data/new")[1] for b in boxes] == ["1", "1"]
    assert boxes[0].run("echo 2 >/orwd_data/new")[0] == 0
    assert boxes[1].run("cat /orwd_data/new")[1] == "2\n"


def test_refused_folders(spawner, bucket):
    bucket.folder("real")
    bucket.file("file")
    os.symlink("/etc", f"{bucket.path}/abs")
    os.symlink("real", f"{bucket.path}/rel")
    os.symlink("../..", f"{bucket.path}/up")
    os.mkfifo(f"{bucket.path}/fifo")
    for dir in ("..", "real/..", "/etc", "a/../../x", "."):
        assert "folder" in refused(spawner, **bucket.plan(dir=dir))
    for dir in ("abs", "rel", "up", "up/images", "abs/ssl"):
        assert "Symbolic link" in refused(spawner, **bucket.plan(dir=dir)), dir
    for dir in ("file", "fifo", "file/x"):
        assert "Not a directory" in refused(spawner, **bucket.plan(dir=dir)), dir
    assert "missing: No such file" in refused(spawner, **bucket.plan(dir="missing"))
    assert spawner.leaks() == ""


def test_refused_buckets(spawner, bucket):
    other = dict(bucket.plan(), bucket=str(uuid.uuid4()))
    assert "No such file" in refused(spawner, **other)
    os.symlink("/etc", f"{spawner.data}/buckets/{other['bucket']}")
    assert "Symbolic link" in refused(spawner, **other)
    roots = Bucket(spawner.data)
    os.chown(roots.path, 0, 0)
    assert "not permitted" in refused(spawner, **roots.plan())
    for user in ("nobody-here", "user:none", "70000"):
        assert "could not mount the bucket" in refused(spawner, **bucket.plan(user=user)), user


def test_an_images_link_leads_no_bucket_over_proc(spawner, bucket):
    layer = f"{spawner.data}/images/links"
    os.makedirs(layer, exist_ok=True)
    for name, to in (("to-proc", "/proc"), ("to-dev", "/dev"), ("outside", "../../../../var"), ("tmp-link", "/tmp")):
        if not os.path.islink(f"{layer}/{name}"):
            os.symlink(to, f"{layer}/{name}")
    layers = ("links", "base")
    for target in ("/to-proc", "/to-proc/sys", "/to-dev", "/to-dev/shm"):
        assert "could not mount the bucket" in refused(spawner, layers=layers, **bucket.plan(target=target)), target
    bucket.file("a", "here")
    box = spawner.make(layers=layers, **bucket.plan(target="/tmp-link/x"))
    assert box.run("cat /tmp/x/a") == (0, "here")
    spawner.end(box)


def renameat2_exchange(a, b):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.renameat2(-100, a.encode(), -100, b.encode(), 2)


def test_swapping_the_folder_for_a_link_gains_nothing(spawner, bucket, tmp_path):
    """While sandboxes are made, somebody exchanges only_dir, and a folder on the way to it, for links out of the bucket.
    Each either gets the folder or fails."""
    bucket.folder("way")
    bucket.folder("way/dir")
    bucket.file("way/dir/mine", "mine")
    outside = tmp_path / "dir"
    outside.mkdir()
    (outside / "stolen").write_text("host")
    os.symlink(str(tmp_path), f"{bucket.path}/way-link")
    os.symlink(str(outside), f"{bucket.path}/way/link")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            renameat2_exchange(f"{bucket.path}/way", f"{bucket.path}/way-link")
            renameat2_exchange(f"{bucket.path}/way/dir", f"{bucket.path}/way/link")

    thread = threading.Thread(target=swap)
    thread.start()
    made = failed = 0
    try:
        for _ in range(60):
            m = spawner.daemon.call("MAKE", *spawner.plan(**bucket.plan(target="/w", dir="way/dir", flags=RO)), timeout=40)
            if m.kind == "FAILED":
                failed += 1
                continue
            box = Box(m)
            made += 1
            out = box.run("ls /w; cat /w/*")[1]
            assert "stolen" not in out and "host" not in out
            spawner.end(box)
    finally:
        stop.set()
        thread.join()
    assert made + failed == 60 and made and failed, (made, failed)


def test_a_sandbox_that_swaps_its_own_folders_stays_inside(bucket, make):
    """Root of one box moves the folder that another has mounted out of where it was: '..' leads nowhere."""
    bucket.folder("a")
    bucket.folder("a/deep")
    bucket.file("secret", "no")
    writer, reader = make(**bucket.plan()), make(**bucket.plan(target="/w", dir="a", flags=RO))
    script = ("import os,time\nos.chdir('/w/deep')\nopen('/tmp/go','w')\n"
              "while not os.path.exists('/tmp/moved'): time.sleep(.01)\n"
              "p='.'\nfor i in range(8):\n p=p+'/..'\n try: print(os.listdir(p))\n except OSError as e: print(e.errno)\n")
    result = []
    thread = threading.Thread(target=lambda: result.append(reader.run(f"{PYTHON} -c \"{script}\"")))
    thread.start()
    assert writer.run("sleep 0.5; mv /orwd_data/a/deep /orwd_data/deep")[0] == 0
    open(f"/proc/{reader.pid}/root/tmp/moved", "w", encoding="utf-8").close()
    thread.join()
    assert result and "secret" not in result[0][1], result
