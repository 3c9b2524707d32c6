"""A full disk: a reason at once wherever something would have to be written, and nothing that was there is lost."""
import contextlib
import json
import os
import sqlite3
import subprocess

import pytest

from orw import OPENREWARD, Platform
from test_files import Files
from test_git import Repository
from test_rollouts import message, post, rollout


DISK_BYTES = 64 << 20  # of small_disk


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
    p = Platform(data=os.path.join(small_disk, "data"))
    try:
        p.start()
        fill(small_disk)
        done = p.cli("deploy", str(tmp_path), "--name", "local/x", timeout_s=60)
        assert done.returncode == 1 and ("is full" in done.stderr or "No space left" in done.stderr)  # by the database, or the source
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


# -- what was answered is there; what was refused changed nothing, and works later -------------------------------------------


def leave(folder, size):
    """Fills the disk up to about so many bytes."""
    fill(folder)
    path = os.path.join(folder, "filler")
    os.truncate(path, max(0, os.path.getsize(path) - size))


def make_room(folder):
    os.unlink(os.path.join(folder, "filler"))


@pytest.fixture
def small(small_disk):
    """A platform whose data lies on the small disk."""
    p = Platform(data=os.path.join(small_disk, "data"))
    try:
        yield p.start()
    finally:
        p.stop()
        p.remove()


def kill(p):
    """As a crash does; what it started stays."""
    p.process.kill()
    p.process.wait()
    p.process = None


def call(p, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    status, headers, answer = p.request(method, path, data, {"Content-Type": "application/json"})
    return status, headers, json.loads(answer)


def test_a_backup_takes_no_room_that_changes_need(small, small_disk, tmp_path):
    r = rollout("large")
    assert post(small, r, *(message(r["eventId"], i, os.urandom(100_000).hex()) for i in range(40)))[0] == 200
    with contextlib.closing(sqlite3.connect(f"file:{small.data}/openreward.db?mode=ro", uri=True)) as db:
        database = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    assert database > 4 << 20
    leave(small_disk, database + (2 << 20))  # enough for the copy, and less than changes need beside it
    status, _, answer = call(small, "GET", "/v1/backup")
    assert status == 507 and "MiB are missing" in answer["message"] and "of which 8 are left for changes" in answer["message"], answer
    done = small.cli("backup", str(tmp_path / "full"))
    assert done.returncode == 1 and "MiB are missing" in done.stderr and "--data" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == [] and not os.path.exists(os.path.join(small.data, "run", "backup.db"))
    assert call(small, "POST", "/v1/environments", {"name": "meanwhile"})[0] == 201
    assert small.stop() == 0
    done = small.cli("backup", str(tmp_path / "stopped"), "--data", small.data)
    assert done.returncode == 0, done.stderr
    make_room(small_disk)
    small.start()
    done = small.cli("backup", str(tmp_path / "running"))
    assert done.returncode == 0, done.stderr


def test_changes_are_refused_and_work_when_there_is_room(small, small_disk):
    assert call(small, "POST", "/v1/environments", {"name": "old"})[0] == 201
    assert call(small, "PATCH", "/v1/environments/local/old/settings", {"concurrency": 5})[0] == 200
    revoked = call(small, "POST", "/v1/keys", {"name": "revoked", "role": "member"})[2]
    fill(small_disk)
    changes = [("POST", "/v1/environments", {"name": "new"}, 201),
               ("PATCH", "/v1/environments/local/old/settings", {"concurrency": 6, "build_secrets": {"A": "b"}}, 200),
               ("POST", "/v1/keys", {"name": "late", "role": "member"}, 201),
               ("PUT", "/v1/environments/local/old/details", {"new_name": "newer", "new_description": "other"}, 200)]
    for method, path, body, _ in changes:
        status, _, answer = call(small, method, path, body)
        assert status == 507 and "full" in answer["message"], (path, status, answer)
    assert [e["name"] for e in call(small, "GET", "/v1/environments")[2]["environments"]] == ["old"], "what was refused is not there"
    settings = call(small, "GET", "/v1/environments/local/old/settings")[2]["settings"]
    assert settings["concurrency"] == 5 and not settings.get("build_secrets")
    # A key is void at once, whether the disk can tell or not: the log of the database may have room in the file that it has.
    assert small.request("GET", "/v1/keys/current", key=revoked["key"])[0] == 200
    assert call(small, "DELETE", f"/v1/keys/{revoked['id']}")[0] in (200, 507)
    assert small.request("GET", "/v1/keys/current", key=revoked["key"])[0] == 401
    status, _, answer = call(small, "GET", "/v1/backup")
    assert status == 507 and "MiB" in answer["message"], answer
    make_room(small_disk)
    for method, path, body, good in changes:
        status, _, answer = call(small, method, path, body)
        assert status == good, (path, status, answer)
    kill(small)
    small.start()
    assert small.request("GET", "/v1/keys/current", key=revoked["key"])[0] == 401
    found = {e["name"]: e for e in call(small, "GET", "/v1/environments")[2]["environments"]}
    assert set(found) == {"newer", "new"} and found["newer"]["description"] == "other"
    assert call(small, "GET", "/v1/environments/local/newer/settings")[2]["settings"]["concurrency"] == 6


def test_rollouts(small, small_disk):
    leave(small_disk, 3 << 20)
    answered, refused = [], []
    while len(refused) < 5:
        event = rollout("r")
        status, headers, answer = post(small, event, message(event["eventId"], 0, os.urandom(100_000).hex()))
        if status == 200:
            answered.append(event["eventId"])
            assert len(answered) < 1000
            continue
        assert status == 503 and "full" in answer["message"] and int(headers["retry-after"]) > 0, (status, answer)
        refused.append(event)
    assert answered
    for event in answered:
        assert call(small, "GET", f"/v1/rollouts/{event}")[0] == 200, "readable while the disk is full"
    assert call(small, "GET", f"/v1/rollouts/{refused[0]['eventId']}")[0] == 404
    kill(small)
    make_room(small_disk)
    small.start()
    for event in answered:
        assert len(call(small, "GET", f"/v1/rollouts/{event}")[2]["messages"]) == 1
    status, _, answer = post(small, *refused)
    assert (status, answer["recorded"]) == (200, len(refused))
    assert call(small, "GET", "/v1/runs/r/rollouts")[2]["total"] == len(answered) + len(refused)


def test_a_push(small, small_disk, tmp_path):
    repository = Repository(tmp_path, small)
    first = repository.commit(a=os.urandom(5000))
    repository.push("main:one")
    repository.commit(b=os.urandom(2_000_000))
    fill(small_disk)
    done = repository.push("main:one", check=False)
    assert done.returncode != 0, done.stderr
    other = Repository(tmp_path, small)  # the same folder, for an environment that is not there yet
    done = other.push("main:one", check=False)
    assert done.returncode != 0, done.stderr
    kill(small)
    make_room(small_disk)
    small.start()
    assert repository.git("ls-remote", repository.url(), "one").stdout.split()[0] == first
    for r in (repository, other):
        r.push("main:one")
        assert r.git("ls-remote", r.url(), "one").stdout.split()[0] == r.git("rev-parse", "HEAD").stdout.strip()


def test_uploads(small, small_disk):
    files = Files(small)
    old = os.urandom(200_000)
    files.put("a", old)
    url = files.url("a")
    leave(small_disk, 1 << 20)
    status, _, answer = files.raw_put(url, os.urandom(3 << 20))
    assert status == 413 and b"disk is full" in answer, (status, answer)
    assert files.get("a")[2] == old
    kill(small)
    make_room(small_disk)
    small.start()
    assert files.get("a")[2] == old
    new = os.urandom(3 << 20)
    files.put("a", new)
    assert files.get("a")[2] == new


@pytest.mark.parametrize("left", [0, 200_000, 2_000_000, 12_000_000])
def test_nothing_that_was_answered_is_lost(small, small_disk, tmp_path, left):
    """All kinds of changes until the disk is full, then a crash."""
    assert call(small, "POST", "/v1/environments", {"name": "e"})[0] == 201
    files, repository = Files(small, "e"), Repository(tmp_path, small)
    repository.commit(a="0")
    repository.push("main:one")
    branches, uploads, environments, rollouts, concurrency = {}, {}, ["e"], [], [1000]
    leave(small_disk, left)
    refused = 0
    for n in range(1, 600):
        name, data, event = f"n{n}", os.urandom(100_000), rollout("r")
        if files.raw_put(files.url(name), data)[0] == 200:
            uploads[name] = data
        if n % 20 == 1:
            commit = repository.commit(**{name: os.urandom(20_000)})
            if repository.push(f"main:{name}", check=False).returncode == 0:
                branches[name] = commit
        if call(small, "POST", "/v1/environments", {"name": name})[0] == 201:
            environments.append(name)
        status = call(small, "PATCH", "/v1/environments/local/e/settings", {"concurrency": n})[0]
        assert status in (200, 507)
        concurrency = [n] if status == 200 else [*concurrency, n]
        status = post(small, event, message(event["eventId"], 0, "x" * 50_000))[0]
        assert status in (200, 503)
        if status == 200:
            rollouts.append(event["eventId"])
        refused += status == 503
        if refused == 3:
            break
    assert refused == 3, "the disk was never full"
    kill(small)
    make_room(small_disk)
    small.start()
    found = call(small, "GET", "/v1/environments?limit=500")[2]["environments"]
    assert set(environments) <= {e["name"] for e in found}
    assert call(small, "GET", "/v1/environments/local/e/settings")[2]["settings"]["concurrency"] in concurrency
    for event in rollouts:
        assert call(small, "GET", f"/v1/rollouts/{event}")[0] == 200
    for name, data in uploads.items():
        assert files.get(name)[2] == data, name
    refs = dict(reversed(line.split("\t")) for line in repository.git("ls-remote", repository.url()).stdout.splitlines())
    for name, commit in branches.items():
        assert refs[f"refs/heads/{name}"] == commit
    assert call(small, "POST", "/v1/environments", {"name": "after"})[0] == 201
