"""`openreward backup` on a running platform and `openreward restore`: what was answered before is there afterwards."""
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import threading
import uuid

import pytest
from orw import OPENREWARD, Platform, copy_images, wait_until
from test_files import Files
from test_git import Repository
from test_rollouts import message, record, rollout
from tinyenv import TinySession, deploy_tiny


def get(p, path):
    status, _, body = p.request("GET", path)
    assert status == 200, (path, status, body)
    return json.loads(body)


def restore(file, data, *options):
    return subprocess.run([OPENREWARD, "restore", str(file), "--data", str(data), *options], text=True, capture_output=True, timeout=300,
                          stdin=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def source(base_images):
    """One of its own: what is restored builds again whatever has no image, and other tests deploy a lot."""
    with base_images.platform() as p:
        yield p


@contextlib.contextmanager
def restored(file, images=None):
    """A platform on what the backup holds, and what restore printed."""
    p = Platform()
    try:
        done = restore(file, p.data)
        assert done.returncode == 0, done.stdout + done.stderr
        if images:
            copy_images(os.path.join(images, "images"), p.data)
        yield p.start(), done.stdout
    finally:
        p.stop()
        p.remove()


class Posting(threading.Thread):
    """Rollouts without an end; `answered` are the ids that the platform has confirmed."""

    def __init__(self, platform, run):
        super().__init__()
        self.platform, self.run_name, self.answered, self.stopping = platform, run, [], threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            event = rollout(self.run_name)
            record(self.platform, event, message(event["eventId"], 0, "x" * 2000))
            self.answered.append(event["eventId"])

    def stop(self):
        self.stopping.set()
        self.join()


def test_all_of_it_comes_back(source, tmp_path):
    p, file = source, tmp_path / "all.backup"
    name = deploy_tiny(p, "kept", revision="one")
    body = json.dumps({"build_secrets": {"TOKEN": "s3cret-of-builds"}, "concurrency": 3, "env": {"A": "b"}}).encode()
    status, _, answer = p.request("PATCH", f"/v1/environments/{name}/settings", body)
    assert status == 200, answer
    files = Files(p, "kept")
    files.put("data/ä long name " + "x" * 150, os.urandom(300_000))
    files.put("data/empty", b"")
    os.makedirs(tmp_path / "repo")
    repository = Repository(tmp_path / "repo", p)
    commit = repository.commit(README="hello")
    repository.push("main:other")
    posting = Posting(p, "nightly")
    wait_until(lambda: len(posting.answered) > 20, 60)
    before = list(posting.answered)
    try:
        done = p.cli("backup", str(file), "--buckets", "--no-compress")
    finally:
        posting.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.stat(file).st_mode & 0o777 == 0o600 and not os.path.exists(f"{file}.partial")
    for part in ("database", "keys", "git", "sources", "buckets"):
        assert f"  {part} " in done.stdout
    with open(file, "rb") as f:
        assert b"s3cret-of-builds" not in f.read()
    with tarfile.open(file) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))
        assert manifest["parts"][0] == {**manifest["parts"][0], "name": "database", "files": 1,
                                        "bytes": tar.getmember("openreward.db").size}
    assert names[0] == "openreward-backup.json" and names[-1] == "manifest.json" and "secrets.key" in names
    known = {d["id"] for d in get(p, f"/v1/environments/{name}/deployments")}
    with restored(file, p.data) as (q, said):
        assert "1 of them" in said and "environments" in said
        assert q.key == p.key
        assert {e["id"] for e in get(q, "/v1/environments")["environments"]} == {e["id"] for e in get(p, "/v1/environments")["environments"]}
        found = set()
        token = ""
        while token is not None:
            page = get(q, f"/v1/runs/nightly/rollouts?limit=500&pageToken={token}")
            found |= {r["event_id"] if "event_id" in r else r["id"] for r in page["rollouts"]}
            token = page["nextPageToken"]
        assert set(before) <= found, "a rollout that was answered before the backup began is missing"
        settings = get(q, f"/v1/environments/{name}/settings")
        assert settings["settings"]["concurrency"] == 3 and "s3cret" not in json.dumps(settings)
        assert "TOKEN" in json.dumps(settings)
        kept = Files(q, "kept")
        assert kept.id == files.id and kept.list(prefix="data/")[0] == files.list(prefix="data/")[0]
        for path in files.list(prefix="data/")[0]:
            assert kept.get(path)[2] == files.get(path)[2]
            ours, theirs = (os.stat(f"{x.path}/{path}") for x in (kept, files))
            assert int(ours.st_mtime) == int(theirs.st_mtime) and ours.st_uid == theirs.st_uid
        repository.server = q
        assert repository.git("ls-remote", repository.url(), "other").stdout.split()[0] == commit
        repository.commit(README="more")
        repository.push("main:other")
        # No image came along: it is built again from its source, as the same deployment.
        deployments = get(q, f"/v1/environments/{name}/deployments")
        assert {d["id"] for d in deployments} == known
        wait_until(lambda: get(q, f"/v1/deployments/{deployments[0]['id']}")["status"] in ("ready", "failed"), 240)
        now = get(q, f"/v1/deployments/{deployments[0]['id']}")
        assert now["status"] == "ready", now
        assert any("restored from a backup" in t["reason"] for t in now["transitions"]), now
        with TinySession(q, name) as session:
            assert session.about()["revision"] == "one"


def test_without_base_images_it_says_what_to_do(source, tmp_path):
    name = deploy_tiny(source, "bare", revision="two")
    assert source.cli("backup", str(tmp_path / "x")).returncode == 0
    with restored(tmp_path / "x") as (q, said):
        assert "files of environments were not in it" in said
        [entry] = get(q, "/v1/audit?action=RESTORE")["entries"]
        assert (entry["actor"], entry["namespace"]) == ("server", "local") and "the backup of 20" in entry["target"]
        newest = get(q, f"/v1/environments/{name}/deployments")[0]["id"]
        wait_until(lambda: get(q, f"/v1/deployments/{newest}")["status"] in ("failed", "ready"), 240)
        now = get(q, f"/v1/deployments/{newest}")
        if now["status"] == "ready":
            return  # this machine reaches a registry
        assert "python:3.11-slim" in now["reason"], now
        # Once the base image is here, a rollback to it builds it from the source that came along.
        q.stop()
        shutil.rmtree(os.path.join(q.data, "images"))
        copy_images(os.path.join(source.data, "images"), q.data)
        q.start()
        done = q.cli("rollback", name, newest)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: get(q, f"/v1/deployments/{newest}")["status"] == "ready", 240)
        with TinySession(q, name) as session:
            assert session.about()["revision"] == "two"


def test_repositories_are_whole_whenever_they_are_read(source, tmp_path):
    """Backups while pushes go on: in each of them every ref names a commit that is there with all of its history."""
    os.makedirs(tmp_path / "repo")
    repository = Repository(tmp_path / "repo", source)
    repository.commit(a="0")
    repository.push("main:one")
    stopping = threading.Event()

    def push():
        n = 0
        while not stopping.is_set():
            n += 1
            repository.commit(**{f"f{n % 50}": os.urandom(3000)})
            repository.push("main:one", f"main:refs/heads/b{n}")

    pushing = threading.Thread(target=push)
    pushing.start()
    try:
        for n in range(2):
            done = source.cli("backup", str(tmp_path / f"{n}"))
            assert done.returncode == 0, done.stderr
    finally:
        stopping.set()
        pushing.join()
    for n in range(2):
        data = tmp_path / f"data{n}"
        done = restore(tmp_path / f"{n}", data)
        assert done.returncode == 0, done.stderr
        bare = f"{data}/git/local/{repository.name}.git"
        done = subprocess.run(["git", "-c", "safe.directory=*", "-C", bare, "fsck", "--full", "--strict"], text=True, capture_output=True, timeout=120)
        assert done.returncode == 0 and "missing" not in done.stdout + done.stderr, done.stdout + done.stderr
        assert "broken" not in done.stdout + done.stderr
        shutil.rmtree(data)


def test_who_may(source):
    assert source.request("GET", "/v1/backup", key=None)[0] == 401
    for role in ("reader", "member", "owner"):
        status, _, body = source.request("POST", "/v1/keys", json.dumps({"name": role, "role": role}).encode())
        assert status == 201, body
        assert source.request("GET", "/v1/backup", key=json.loads(body)["key"])[0] == 403
    status, _, body = source.request("GET", "/v1/backup?buckets=perhaps")
    assert status == 400 and b"buckets" in body and b"perhaps" in body


def test_refused_and_nothing_is_touched(source, tmp_path):
    good = tmp_path / "good"
    assert source.cli("backup", str(good), "--no-compress").returncode == 0
    data = good.read_bytes()
    assert source.cli("backup", str(tmp_path / "small")).returncode == 0
    small = (tmp_path / "small").read_bytes()
    assert small[:4] == b"\x28\xb5\x2f\xfd" and len(small) < len(data) / 2
    before = sorted(os.listdir(source.data))
    done = restore(good, source.data)
    assert done.returncode == 1 and "in use by another daemon" in done.stderr
    assert sorted(os.listdir(source.data)) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("mine")
    done = restore(good, tmp_path / "full")
    assert done.returncode == 1 and "not empty" in done.stderr and os.listdir(tmp_path / "full") == ["something"]

    def refused(content, *words):
        (tmp_path / "bad").write_bytes(content)
        done = restore(tmp_path / "bad", tmp_path / "new")
        assert done.returncode == 1 and not os.path.exists(tmp_path / "new"), done.stdout + done.stderr
        for word in words:
            assert word in done.stderr, done.stderr

    refused(data[:len(data) // 2], "damaged", "ends in the middle")
    refused(data[:-1024], "damaged", "ends in the middle")
    flipped = bytearray(data)
    flipped[data.index(b"SQLite format 3") + 5000] ^= 1
    refused(bytes(flipped), "damaged", 'part "database"')
    for n in (len(small) // 2, len(small) - 1):
        refused(small[:n], "damaged", "ends in the middle")
    flipped = bytearray(small)
    flipped[len(small) // 2] ^= 1
    refused(bytes(flipped), "bad is ")  # damaged; no backup, if that is in the first block and nothing could be read before it
    refused(b"", "no backup")
    refused(small[:4] + b"x" * 1000, "no backup")
    refused(os.urandom(5000), "no backup")
    refused(data.replace(b'"format":1', b'"format":7', 1), "format 7", "format 1", "openreward")
    done = restore(tmp_path / "is not there", tmp_path / "new")
    assert done.returncode == 1 and "No such file" in done.stderr
    assert restore(good, tmp_path / "new").returncode == 0


def test_a_newer_database_is_refused_at_the_start(source, tmp_path):
    assert source.cli("backup", str(tmp_path / "x")).returncode == 0
    p = Platform()
    try:
        assert restore(tmp_path / "x", p.data).returncode == 0
        import sqlite3
        path = os.path.join(p.data, "openreward.db")
        db = sqlite3.connect(path)
        own = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("PRAGMA user_version = 4711")
        db.close()
        before = hashlib.sha256(open(path, "rb").read()).hexdigest()
        with pytest.raises(RuntimeError) as e:
            p.start()
        assert "has version 4711" in str(e.value) and f"up to {own}" in str(e.value)
        assert hashlib.sha256(open(path, "rb").read()).hexdigest() == before
    finally:
        p.stop()
        p.remove()


def test_one_at_a_time_and_what_breaks_leaves_nothing(source, tmp_path):
    run = f"big-{uuid.uuid4()}"
    event = rollout(run)
    record(source, event, *[message(event["eventId"], i, "y" * 1_000_000) for i in range(40)])
    # A client that goes in the middle: its child goes, too, and the next one is served.
    import http.client
    for _ in range(3):
        c = http.client.HTTPConnection(source.url.removeprefix("http://"), timeout=60)
        c.request("GET", "/v1/backup", headers={"X-API-Key": source.key})
        answer = c.getresponse()
        assert answer.status in (200, 409)
        answer.read(1000)
        if answer.status == 200:
            other = source.request("GET", "/v1/backup")
            assert other[0] == 409 and b"another backup" in other[2], other[:2]
        answer.close()
        c.close()
        wait_until(lambda: source.request("GET", "/v1/backup")[0] == 200, 60)
    assert not [n for n in os.listdir(os.path.join(source.data, "run")) if n.startswith("backup.db")]
    # One that is interrupted in the middle: its pipe is full, so it waits for us.
    saving = subprocess.Popen([OPENREWARD, "backup", str(tmp_path / "x")], env={**os.environ, **source.env}, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: os.path.exists(tmp_path / "x.partial") or saving.poll() is not None, 60)
    saving.terminate()
    assert saving.wait(60) in (0, 1)
    assert not os.path.exists(tmp_path / "x.partial")
    wait_until(lambda: source.cli("backup", str(tmp_path / "y")).returncode == 0, 60)


def test_of_a_server_that_does_not_run(base_images, tmp_path):
    """After a kill, with what is only in the database's log; nothing of DATA changes hands, and the server goes on."""
    with base_images.platform(images=False) as p:
        record(p, rollout("offline"))
        p.process.kill()
        p.process.wait()
        assert os.path.getsize(os.path.join(p.data, "openreward.db-wal")) > 0
        owner = os.stat(os.path.join(p.data, "openreward.db")).st_uid
        done = subprocess.run([OPENREWARD, "backup", str(tmp_path / "x"), "--data", p.data], text=True, capture_output=True, timeout=300,
                              stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0 and "of a server that does not run" in done.stdout, done.stdout + done.stderr
        assert {os.stat(e).st_uid for e in os.scandir(p.data) if e.name.startswith("openreward.db")} == {owner}
        done = restore(tmp_path / "x", tmp_path / "new")
        assert done.returncode == 0, done.stderr
        with restored(tmp_path / "x") as (q, _):
            assert get(q, "/v1/runs/offline")["num_rollouts"] == 1
        p.listen = p.url.split("//")[1]
        p.start()
        assert get(p, "/v1/runs/offline")["num_rollouts"] == 1
        record(p, rollout("offline"))
        done = subprocess.run([OPENREWARD, "backup", str(tmp_path / "y"), "--data", p.data], text=True, capture_output=True, timeout=300,
                              stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0 and "does not run" not in done.stdout, done.stdout + done.stderr
    done = subprocess.run([OPENREWARD, "backup", str(tmp_path / "z"), "--data", str(tmp_path)], text=True, capture_output=True, timeout=300,
                          stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1 and not os.path.exists(tmp_path / "z"), "there is nothing"
