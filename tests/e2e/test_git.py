"""Pushes of real git: from `git push` to a session, and whatever may go wrong with them."""
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid

import pytest
from h2.connection import H2Connection
from orw import ROOT, running, wait_until

TINY = os.path.join(ROOT, "tests", "e2e", "tiny")
CONFIG = """
git:
  push: 2MiB
  max_processes: 24
"""
ENV = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "HOME": "/nonexistent",
       "PATH": os.environ["PATH"], "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a",
       "GIT_COMMITTER_EMAIL": "a@x", "LC_ALL": "C"}


@pytest.fixture(scope="module")
def server():
    with running(CONFIG) as p:
        yield p


class Repository:
    def __init__(self, folder, server) -> None:
        self.folder, self.server = str(folder), server
        self.name = "r" + uuid.uuid4().hex[:8]
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *argv, check=True, timeout_s=300):
        done = subprocess.run(["git", *argv], cwd=self.folder, env=ENV, text=True, capture_output=True, timeout=timeout_s)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def commit(self, **files) -> str:
        for name, text in files.items():
            path = os.path.join(self.folder, name.replace("__", "/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb" if isinstance(text, bytes) else "w") as f:
                f.write(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD").stdout.strip()

    def tiny(self) -> str:
        shutil.copytree(TINY, self.folder, dirs_exist_ok=True)
        return self.commit()

    def url(self, key: str | None = None, path: str | None = None) -> str:
        key = self.server.key if key is None else key
        return self.server.url.replace("http://", f"http://x:{key}@") + "/git/" + (path or f"local/{self.name}")

    def push(self, *refs, check=True, key=None, path=None):
        return self.git("push", self.url(key, path), *(refs or ["main"]), check=check)

    def deployments(self) -> list[dict]:
        import json
        status, _, body = self.server.request("GET", f"/v1/environments/local/{self.name}/deployments")
        return json.loads(body) if status == 200 else []


def test_a_repository_that_was_half_made(server, tmp_path):
    """What git init leaves when the disk is full or somebody kills it: HEAD, and not all that makes a repository."""
    r = Repository(tmp_path, server)
    commit = r.commit(a="1")
    half = os.path.join(server.data, "git", "local", r.name + ".git")
    os.makedirs(os.path.join(half, "refs"))
    with open(os.path.join(half, "HEAD"), "w") as f:
        f.write("ref: refs/heads/main\n")
    subprocess.run(["chown", "-R", "--reference", os.path.join(server.data, "git"), os.path.join(server.data, "git", "local")], check=True)
    r.push("main:one")
    assert r.git("ls-remote", r.url(), "one").stdout.split()[0] == commit
    assert os.listdir(os.path.join(server.data, "git", ".making")) == []


@pytest.fixture
def repository(server, tmp_path):
    return Repository(tmp_path, server)


def broken(repository) -> None:
    """A commit that cannot be built: for what does not depend on a build that succeeds."""
    repository.commit(Dockerfile="FROM python:3.11-slim\nRUN exit 3\n")


def test_push_makes_the_environment_and_shows_its_deployment(server, repository):
    commit = repository.tiny()
    done = repository.push()
    first = repository.deployments()[0]
    assert f"deployment {first['id']} of local/{repository.name}" in done.stderr
    assert "deployed: " in done.stderr, done.stderr
    assert (first["status"], first["source"], first["gitBranch"], first["commitSha"]) == ("ready", "git", "main", commit)
    env = server.client().environments.get(f"local/{repository.name}")
    assert env.list_splits()
    assert "Everything up-to-date" in repository.push().stderr
    assert len(repository.deployments()) == 1


def test_a_failing_build_is_a_push_all_the_same(repository):
    broken(repository)
    done = repository.push()
    assert done.returncode == 0
    assert "not deployed (failed)" in done.stderr and "status 3" in done.stderr.replace("exit status 3", "status 3")
    assert repository.deployments()[0]["status"] == "failed"


def test_other_branches_are_kept_and_a_deleted_one_changes_nothing(repository):
    broken(repository)
    done = repository.push("main:other")
    assert 'kept, not deployed' in done.stderr and repository.deployments() == []
    repository.push("main")
    done = repository.push("--delete", "other")
    assert "kept, not deployed" in done.stderr
    assert len(repository.deployments()) == 1


def test_force_push(repository):
    broken(repository)
    repository.push()
    repository.git("commit", "--quiet", "--amend", "--allow-empty", "--message=other")
    assert repository.push(check=False).returncode != 0
    assert "deployment " in repository.push("--force", "main").stderr
    assert repository.deployments()[0]["commitSha"] == repository.git("rev-parse", "HEAD").stdout.strip()


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_clone_fetch_and_shallow_clone(repository, tmp_path_factory, version):
    broken(repository)
    repository.commit(x="1")
    repository.push("main")
    folder = str(tmp_path_factory.mktemp("clone"))
    repository.git("-c", f"protocol.version={version}", "clone", "--quiet", "--depth=1", repository.url(), folder + "/shallow")
    count = repository.git("-C", folder + "/shallow", "rev-list", "--count", "HEAD").stdout.strip()
    assert count == "1"
    repository.git("-c", f"protocol.version={version}", "clone", "--quiet", repository.url(path=f"local/{repository.name}.git"),
                   folder + "/all")
    repository.commit(x="2")
    repository.push()
    repository.git("-C", folder + "/all", "-c", f"protocol.version={version}", "pull", "--quiet")
    assert open(folder + "/all/x").read() == "2"


def test_subdirectory_of_the_environment(server, repository):
    repository.commit(**{"Dockerfile": "FROM python:3.11-slim\nRUN exit 4\n", "env__Dockerfile": "FROM python:3.11-slim\nRUN exit 5\n"})
    status, _, body = server.request("POST", "/v1/environments", b'{"name": "%s", "subdirectory": "env"}' % repository.name.encode())
    assert status == 201, body
    assert "exit 5" in repository.push().stderr
    status, _, _ = server.request("PUT", f"/v1/environments/local/{repository.name}/details", b'{"subdirectory": "none"}')
    assert status == 200
    repository.commit(y="1")
    assert 'subdirectory: "none": expected a folder' in repository.push().stderr


def test_submodules_and_lfs_are_told(repository):
    repository.commit(**{"Dockerfile": "FROM python:3.11-slim\nRUN exit 3\n", ".gitmodules": "[submodule \"a\"]\npath = a\nurl = b\n",
                         "data__.gitattributes": "*.bin filter=lfs\n"})
    said = repository.push().stderr
    assert "submodules are not fetched" in said and "Git LFS are not fetched" in said


@pytest.mark.parametrize("size", [1_500_000, 5_000_000])
def test_large_push(repository, size):
    repository.commit(Dockerfile="FROM python:3.11-slim\nRUN exit 3\n", blob=os.urandom(size))
    done = repository.push(check=False)
    if size < 2 << 20:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0 and "exceeds maximum allowed size" in done.stderr, done.stderr
        assert repository.deployments() == []


def test_wrong_key(repository):
    broken(repository)
    done = repository.push(check=False, key="orw_" + "A" * 43)
    assert done.returncode != 0 and ("Authentication failed" in done.stderr or "could not read" in done.stderr), done.stderr


def test_unauthenticated_requests_are_told_how(server):
    for path in ("/info/refs?service=git-upload-pack", "/info/refs?service=git-receive-pack"):
        status, headers, _ = server.request("GET", "/git/local/nothing" + path, key=None)
        assert status == 401 and headers["www-authenticate"].startswith("Basic ")
    status, _, _ = server.request("POST", "/git/local/nothing/git-receive-pack", b"0000", key=None)
    assert status == 401
    assert not os.path.exists(os.path.join(server.data, "git", "local", "nothing.git"))


@pytest.mark.parametrize("path", ["other/x", "local/..", "local/%2e%2e", "local/.hidden", "local/a%2fb", "../x", ".github/x", "local/a b",
                                  "local/-x", ".hooks/x"])
def test_names_that_are_none(server, repository, path):
    status, _, _ = server.request("GET", f"/git/{path.replace(' ', '%20')}/info/refs?service=git-receive-pack")
    assert status in (400, 403, 404), status
    assert sorted(n for n in os.listdir(os.path.join(server.data, "git")) if not n.startswith(".")) in ([], ["local"])


def test_nothing_but_the_smart_protocol(server, repository):
    broken(repository)
    repository.push()
    for path in ("HEAD", "config", "objects/info/packs", "info/refs", "../../openreward.db"):
        status, _, _ = server.request("GET", f"/git/local/{repository.name}/{path}")
        assert status in (400, 403, 404, 405), path


def test_broken_pack(server, repository):
    broken(repository)
    repository.push()
    old = repository.git("rev-parse", "HEAD").stdout.strip()
    line = f"{old} {'1' * 40} refs/heads/main\0report-status"
    body = f"{len(line) + 4:04x}{line}0000".encode() + b"PACK\0\0\0\2\0\0\0\5nonsense"
    status, _, answer = server.request("POST", f"/git/local/{repository.name}/git-receive-pack", body,
                                       {"Content-Type": "application/x-git-receive-pack-request"})
    assert status == 200 and b"unpack ok" not in answer
    assert len(repository.deployments()) == 1
    assert repository.git("ls-remote", repository.url(), "main").stdout.startswith(old)


def test_two_pushes_at_once(repository, tmp_path_factory):
    broken(repository)
    repository.push()
    others = []
    for i in range(2):
        folder = str(tmp_path_factory.mktemp("two"))
        repository.git("clone", "--quiet", repository.url(), folder)
        repository.git("-C", folder, "commit", "--quiet", "--allow-empty", f"--message={i}")
        others.append(folder)
    results = []
    threads = [threading.Thread(target=lambda f=f: results.append(repository.git("-C", f, "push", repository.url(), "main", check=False)))
               for f in others]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(r.returncode == 0 for r in results) == [False, True], [r.stderr for r in results]
    assert len(repository.deployments()) == 2


def git_processes(server) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if server.data.encode() in f.read():
                    with open(f"/proc/{pid}/cmdline", "rb") as c:
                        found.append(c.read().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [c for c in found if "git" in c.split(" ")[0]]


def test_a_client_that_dies_in_the_middle(server, repository):
    repository.commit(Dockerfile="FROM python:3.11-slim\nRUN sleep 60\n")
    for wait_for in ("deployment ", None):
        process = subprocess.Popen(["git", "push", repository.url(), "main"], cwd=repository.folder, env=ENV, text=True,
                                   stderr=subprocess.PIPE, start_new_session=True)
        if wait_for:
            for line in process.stderr:
                if wait_for in line:
                    break
        else:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        wait_until(lambda: not git_processes(server), 60, "no process of git left")
        repository.commit(Dockerfile="FROM python:3.11-slim\nRUN exit 3\n")
    assert repository.deployments()[0]["status"] in ("queued", "building", "superseded", "failed")
    assert "not deployed (failed)" in repository.push().stderr  # supersedes what sleeps


def connect(server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def begin(server, path: str, *headers: str, key: str = "") -> socket.socket:
    """A POST whose body comes later."""
    s = connect(server)
    s.sendall("\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"X-API-Key: {key or server.key}", *headers, "", ""]).encode())
    return s


def test_pushes_that_git_refused_and_whose_clients_left_count_no_more(server, repository):
    repository.commit(a="1")
    repository.push("main:one")
    path = f"/git/local/{repository.name}/git-receive-pack"
    clients = [begin(server, path, "Content-Type: text/plain", "Content-Length: 1000") for _ in range(24)]
    for c in clients:
        c.sendall(b"abc")
    for c in clients:
        assert c.recv(100).startswith(b"HTTP/1.1 415 ")
    wait_until(lambda: not git_processes(server), what="no process of git left")
    time.sleep(0.2)  # and the daemon knows
    for c in clients:
        c.close()
    wait_until(lambda: repository.git("ls-remote", repository.url(), check=False).returncode == 0, 10, "room for a fetch")


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_fetches_that_nobody_reads_cost_nothing(server, repository):
    """Of some sizes, git has written the last byte and ended while the daemon may not pass it on yet. HTTP/2, whose window is
    what the client says: of HTTP/1 the kernel takes megabytes."""
    commits = [repository.commit(**{f"f{i}": os.urandom(40_000)}) for i in range(20)]
    repository.push("main:one")
    h2 = H2Connection()
    h2.initiate_connection()
    for stream, commit in enumerate(commits):
        h2.send_headers(2 * stream + 1, [
            (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", f"/git/local/{repository.name}/git-upload-pack"),
            ("x-api-key", server.key), ("git-protocol", "version=2"), ("content-type", "application/x-git-upload-pack-request")])
        h2.send_data(2 * stream + 1, f"0011command=fetch0001{len(commit) + 9:04x}want {commit}0008done0000".encode(), end_stream=True)
    with connect(server) as s:
        s.sendall(h2.data_to_send())
        time.sleep(3)
        before = cpu_seconds(server.process.pid)
        time.sleep(2)
        assert cpu_seconds(server.process.pid) - before < 0.3
    wait_until(lambda: not git_processes(server), what="no process of git left")


@pytest.mark.parametrize("early", [True, False])
def test_a_push_whose_namespace_is_removed_meanwhile(server, repository, early):
    """early: while its repository is made; otherwise while its pack comes."""
    commit = repository.commit(a="1")
    pack = subprocess.run(["git", "pack-objects", "--stdout", "--revs", "--quiet"], cwd=repository.folder, env=ENV, input=b"main\n",
                          capture_output=True, check=True).stdout
    line = f"{'0' * 40} {commit} refs/heads/main\0report-status side-band-64k"
    body = f"{len(line) + 4:04x}{line}0000".encode() + pack
    user = "u" + uuid.uuid4().hex[:8]
    assert server.cli("user", "create", user).returncode == 0
    with connect(server) as admin:
        with begin(server, f"/git/{user}/x/git-receive-pack", f"Content-Length: {len(body)}", "Connection: close",
                   "Content-Type: application/x-git-receive-pack-request") as s:
            if not early:
                s.sendall(body[:-40])
                wait_until(lambda: git_processes(server), what="git")
            admin.sendall(f"DELETE /v1/users/{user} HTTP/1.1\r\nHost: x\r\nX-API-Key: {server.key}\r\n\r\n".encode())
            assert admin.recv(100).startswith(b"HTTP/1.1 200 ")
            s.sendall(body[-40:] if not early else body)
            answer = b"".join(iter(lambda: s.recv(65536), b""))
    if early:
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 200 ")), answer
    if answer.startswith(b"HTTP/1.1 200 "):
        assert b"not deployed: the namespace" in answer, answer
    assert server.request("GET", f"/v1/environments/{user}/x")[0] == 404


def test_hooks_and_configuration_of_the_host_do_not_matter(server, repository):
    broken(repository)
    repository.push()
    bare = os.path.join(server.data, "git", "local", repository.name + ".git")
    assert not os.path.exists(os.path.join(bare, "hooks"))
    assert os.stat(bare).st_uid != 0
    with open(os.path.join(bare, "config")) as f:
        assert server.key not in f.read()
    assert server.key not in server.log()
