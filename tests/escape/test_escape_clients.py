"""What a client with a key tries on what is not its own, and one without on anything."""
import json
import os
import re
import socket
import subprocess
import tempfile
import urllib.parse
import uuid

import pytest

from orw import OPENREWARD, settings
from test_files import Files
from tinyenv import TinySession, tiny_folder
from wire import events


class Client:
    """A user of this server, with a key."""

    def __init__(self, platform, name):
        self.platform, self.name = platform, f"{name}-{uuid.uuid4().hex[:6]}"
        assert self.call("POST", "/v1/users", {"name": self.name}, key=platform.key)[0] == 201
        status, made = self.call("POST", "/v1/keys", {"namespace": self.name, "user": self.name}, key=platform.key)
        assert status == 201, made
        self.key = made["key"]

    def call(self, method, path, body=None, headers=None, key=None):
        data = json.dumps(body).encode() if body is not None else None
        status, _, answer = self.platform.request(method, path, data, headers, key=key or self.key, timeout_s=120)
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, answer

    def create_sandbox(self, **body):
        """The status, or what the stream ends with."""
        status, answer = self.call("POST", "/create_sandbox", {"machine_size": "0.5:0.5", "environment": "x/y", **body})
        found = events(answer)[-1] if status == 200 else (status, answer["message"])
        if found[0] == "end":
            self.call("POST", "/delete_session", None, {"X-Session-ID": json.loads(found[1])["sid"]})
        return found


@pytest.fixture(scope="module")
def alice(platform):
    return Client(platform, "alice")


@pytest.fixture(scope="module")
def bob(platform):
    return Client(platform, "bob")


@pytest.fixture(scope="module")
def deployed(platform, alice):
    """A private environment of alice's. The name of its image."""
    assert alice.call("POST", "/v1/environments", {"name": "own", "isPrivate": True})[0] == 201
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([OPENREWARD, "deploy", tiny_folder(folder), "--name", f"{alice.name}/own"], text=True, capture_output=True, timeout=600,
                              env={**os.environ, **platform.env, "OPENREWARD_API_KEY": alice.key}, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    status, found = alice.call("GET", "/v1/images")
    assert status == 200
    return next(i["name"] for i in found["images"] if i["name"].startswith(f"localhost/env/{alice.name}/own:"))


def test_images_of_others(alice, bob, deployed):
    """An environment's image is its code."""
    names = [i["name"] for i in bob.call("GET", "/v1/images")[1]["images"]]
    assert names and not [n for n in names if alice.name in n]
    absent = deployed[:-12] + "000000000000"
    for image in (deployed, absent, deployed.partition(":")[0], deployed.replace("localhost/", "localhost//")):
        refused = bob.create_sandbox(image=image)
        assert refused[0] in (400, 404), refused
        assert refused[1].replace(image, "") == bob.create_sandbox(image=absent)[1].replace(absent, "") or refused[0] == 400, "as if it were not there"
    assert bob.create_sandbox(image="python:3.11-slim", sidecars=[{"name": "a", "image": deployed, "command": ["sleep", "9"]}])[0] == 404
    assert alice.create_sandbox(image=deployed)[0] == "end"  # the control
    assert bob.create_sandbox(image="python:3.11-slim")[0] == "end"


def test_a_session_of_an_environment_that_is_anothers(platform, alice, bob, deployed):
    assert bob.call("POST", "/create_session", {}, {"X-Deployment": f"{alice.name}/own"})[0] == 404
    session = TinySession(platform, f"{alice.name}/own", key=alice.key)
    for method, path in (("POST", "/ping"), ("GET", "/tiny/prompt"), ("POST", "/tiny/call"), ("POST", "/delete_session"), ("POST", "/delete")):
        assert bob.call(method, path, {} if method == "POST" else None, {"X-Session-ID": session.id})[0] == 404, path
    assert alice.call("POST", "/ping", {}, {"X-Session-ID": session.id})[0] == 200
    assert alice.call("POST", "/delete_session", {}, {"X-Session-ID": session.id})[0] == 200


def test_sandboxes_of_others(platform, alice, bob):
    with platform.client(alice.key) as client, client.sandbox(settings(environment="x/y", machine_size="0.5:0.5")) as s:
        status, run = alice.call("POST", f"/v1/sandboxes/{s.sid}/runs", {"cmd": "sleep 100", "stdin": True})
        assert status == 201
        its, base = {"X-Session-ID": s.sid}, f"/v1/sandboxes/{s.sid}"
        for method, path in (("POST", "/run"), ("POST", "/read_file?path=/etc/passwd"), ("POST", "/write_file?path=/tmp/x&offset=0"), ("POST", "/stat_file?path=/x"),
                             ("POST", "/ping"), ("POST", "/delete_session"), ("GET", base), ("DELETE", base), ("GET", f"{base}/runs"), ("POST", f"{base}/runs"),
                             ("GET", f"{base}/runs/{run['id']}/output"), ("POST", f"{base}/runs/{run['id']}/stdin"), ("POST", f"{base}/runs/{run['id']}/signal"),
                             ("DELETE", f"{base}/runs/{run['id']}"), ("GET", base.upper()), ("GET", base + "/"), ("GET", "/v1/sandboxes/../sandboxes/" + s.sid)):
            status, answer = bob.call(method, path, {"cmd": "id", "signal": 9} if method == "POST" else None, its)
            assert status == 404, (method, path, status, answer)
        assert bob.call("POST", "/create_sandbox", {"task_id": s.sid}, its)[1].count(b"unknown task_id")
        assert s.run("echo alive").output == "alive"


def raw(platform, data, want=None):
    """The statuses of all answers to these bytes: of so many, or until the server closes, being told that nothing follows."""
    host, port = urllib.parse.urlsplit(platform.url).netloc.split(":")
    with socket.create_connection((host, int(port))) as s:
        s.settimeout(60)
        s.sendall(data)
        if not want:
            s.shutdown(socket.SHUT_WR)
        text, found = b"", []
        while len(found) != want and (part := s.recv(65536)):
            text += part
            found = [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", text)]
    return found


def test_a_request_within_another(platform, alice, bob):
    """The end of alice's sandbox in the body of one of bob's requests, framed so that two parsers could differ about where that ends."""
    with platform.client(alice.key) as client, client.sandbox(settings(environment="x/y", machine_size="0.5:0.5")) as s:
        inner = f"DELETE /v1/sandboxes/{s.sid} HTTP/1.1\r\nHost: x\r\nX-API-Key: {alice.key}\r\n\r\n".encode()
        head = f"POST /v1/rollouts HTTP/1.1\r\nHost: x\r\nX-API-Key: {bob.key}\r\n".encode()
        chunk = b"0\r\n\r\n"
        framings = {
            "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner), "a length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(chunk + inner) + chunk,
            "chunks, oddly said": b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n", "chunks with a blank before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
            "chunks twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunk, "a length with a sign": b"Content-Length: +0\r\n\r\n", "a length of 2^64": b"Content-Length: 18446744073709551616\r\n\r\n",
            "a folded line": b"Content-Length:\r\n 0\r\n\r\n", "a line end without CR": b"X: y\nContent-Length: 0\r\n\r\n", "a NUL in a value": b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
            "a chunk's size of 2^64": b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        }
        for name, framing in framings.items():
            statuses = raw(platform, head + framing + inner)
            assert len(statuses) == 1 and 400 <= statuses[0] < 600, (name, statuses)
        # The control: behind a request whose end is plain it is a second one, and ends the sandbox.
        assert s.run("echo alive").output == "alive"
        plain = head.replace(b"POST /v1/rollouts", b"GET /v1/namespace/current") + b"Content-Length: 0\r\n\r\n"
        assert raw(platform, plain + inner, want=2) == [200, 200]


def test_upload_urls_that_were_changed(platform):
    mine, other = Files(platform), Files(platform, private=True)
    url = mine.url("a/b.txt")
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query))
    changed = {name: urllib.parse.urlencode({**query, name: value}) for name, value in (
        ("max", str(1 << 60)), ("expires", "99999999999999"), ("type", "text/html"), ("signature", "0" * len(query["signature"])))}
    attempts = [f"{parts.path}?{q}" for q in changed.values()] + [
        f"{parts.path.replace(mine.id, other.id)}?{parts.query}", f"/v1/files/{mine.id}/a%2Fc.txt?{parts.query}", f"/v1/files/{mine.id}/..%2F{other.id}%2Fx?{parts.query}",
        f"{parts.path}?max={1 << 60}&{parts.query}", f"{parts.path}?{parts.query}&signature=", f"{parts.path}?{parts.query.replace('&max', '%26max')}", parts.path]
    for target in attempts:
        got = mine.raw_put(f"{parts.scheme}://{parts.netloc}{target}" if "?" in target else f"{parts.scheme}://{parts.netloc}{target}?", b"changed")
        assert got[0] in (400, 403, 404) or (got[0] == 200 and target.endswith("&signature=")), (target, got)
    assert other.list()[0] == []
    assert mine.raw_put(url, b"as it was")[0] == 200  # the control
    assert mine.get("a/b.txt")[2] == b"as it was"


def test_paths_that_lead_elsewhere(platform, alice, bob):
    bucket = Files(platform)
    bucket.put("a/b.txt", b"b")
    for name in ("..%2F..%2Fadmin.key", "%2E%2E/%2E%2E/admin.key", "a/../../admin.key", "a%2F..%2F..%2F..%2Fadmin.key", "%2Fetc%2Fpasswd", "a%00b", "a//b.txt/..", ".aside/x", "..", "."):
        status, _, body = bucket.call("GET", "/" + name)
        assert status in (400, 404) and platform.key.encode() not in body, (name, status, body[:100])
    for name in ("..%2F..%2Fadmin", "own.git/../../x", "own%2F..", "%2e%2e", "own.git%00", "-c", "own.git%2Fconfig"):
        for rest in ("info/refs?service=git-upload-pack", "git-upload-pack", "info/refs?service=git-upload-archive", "HEAD", "objects/info/packs", "../../openreward.db"):
            status, _, body = platform.request("POST" if rest == "git-upload-pack" else "GET", f"/git/{alice.name}/{name}/{rest}", b"" if rest == "git-upload-pack" else None, key=bob.key)
            assert status in (400, 403, 404, 405), (name, rest, status, body[:100])
    assert bucket.get("a/b.txt")[2] == b"b"


# What answers without a key: to everybody, or about an environment that everybody may see. A private one is as if it were not there.
LET = {"get /metrics", "get /openapi.json", "get /settings/github"}
HIDDEN = {"get /v1/environments/{owner}/{name}", "get /v1/environments/{owner}/{name}/variants", "get /v1/environments/{owner}/{name}/required-secrets",
          "get /v1/files/{env}", "get /v1/files/{env}/{path}"}


def test_nothing_without_a_key(platform, alice, deployed):
    """Every call that /openapi.json lists, with ids that exist."""
    status, own = alice.call("GET", f"/v1/environments/{alice.name}/own")
    assert status == 200  # the control
    with platform.client(alice.key) as client, client.sandbox(settings(environment="x/y", machine_size="0.5:0.5")) as s:
        status, spec = alice.call("GET", "/openapi.json")
        other = {}
        for path, operations in spec["paths"].items():
            target = path.replace("{owner}", alice.name).replace("{name}", "own").replace("{env}", own["id"])
            for part in ("id", "run", "user", "org", "path", "sidecar"):
                target = target.replace("{" + part + "}", s.sid)
            for method in operations.keys() & {"get", "post", "put", "delete", "patch"}:
                code = platform.request(method.upper(), target, b"{}" if method != "get" else None, {"X-Session-ID": s.sid}, key=None)[0]
                if code not in (401, 403):
                    other[f"{method} {path}"] = code
        assert other == {**dict.fromkeys(LET, 200), **dict.fromkeys(HIDDEN, 404)}
        assert s.run("echo alive").output == "alive"
