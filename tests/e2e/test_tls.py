"""HTTPS from end to end: the SDK, orwd and the verbs against a platform whose certificate an authority of the test's own has
signed; certificates that change under sessions; a planned restart; what is refused at the start, in words."""
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import pytest

from at_terminal import Terminal
from orw import OPENREWARD, ROOT, Platform, copy_images, wait_until
from tinyenv import TinySession, deploy_tiny
from wire import Sandbox

sys.path.insert(0, os.path.join(ROOT, "tests", "integration", "http"))
from tls_files import Authority, run as run_openssl  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ORWD = os.path.join(os.path.dirname(sys.executable), "orwd")


class SecurePlatform(Platform):
    """Its files lie where the daemon's user may read them. put(NAME) exchanges them."""

    def __init__(self, authority: Authority, folder: str, more: str = "") -> None:
        self.authority, self.folder = authority, folder
        self.cert, self.tls_key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        self.put("first")
        super().__init__(f"tls:\n  certificate: {self.cert}\n  key: {self.tls_key}\n" + more)

    def put(self, name: str) -> None:
        cert, key = self.authority.pair(name)
        for source, target in ((cert, self.cert), (key, self.tls_key)):
            shutil.copy(source, target)
            shutil.chown(target, "root", "openreward")
            os.chmod(target, 0o640)

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "SSL_CERT_FILE": self.authority.ca, "REQUESTS_CA_BUNDLE": self.authority.ca}

    def request(self, method, path, body=None, headers=None, key="", timeout_s=60):
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers or {})
        request.add_header("X-API-Key", key or self.key)
        with urllib.request.urlopen(request, timeout=timeout_s, context=ssl.create_default_context(cafile=self.authority.ca)) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()

    def subject(self) -> str:
        """Of the certificate that a new connection sees."""
        with connect(self) as s:
            return s.getpeercert()["subject"][0][0][1]


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="openreward-tls-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield path


@pytest.fixture(scope="module")
def authority(folder):
    made = Authority(folder)
    os.chmod(made.ca, 0o644)
    return made


@pytest.fixture(scope="module")
def secure(base_images, authority, folder):
    p = SecurePlatform(authority, folder)
    copy_images(os.path.join(base_images.data, "images"), p.data)
    try:
        p.start()
        assert p.url.startswith("https://")
        yield p
    finally:
        p.stop()
        p.remove()


@pytest.fixture(scope="module")
def name(secure):
    return deploy_tiny(secure)  # by the verb, over HTTPS


def test_the_sdk(secure, name, tmp_path):
    done = subprocess.run([sys.executable, os.path.join(HERE, "tls_client.py"), name, str(tmp_path)], env={**os.environ, **secure.env},
                          text=True, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sandbox"] == {"there": True, "back": True, "output": True, "status": 7}, told
    assert told["environment"]["splits"] and told["environment"]["prompt"] and told["environment"]["tools"], told


def test_the_sdk_believes_nobody_else(secure, name, tmp_path):
    env = {k: v for k, v in {**os.environ, **secure.env}.items() if k not in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    code = "from openreward import OpenReward\nwith OpenReward() as c: print(c.environments.get('local/tiny').list_splits())"
    done = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, timeout=600, check=False)
    assert done.returncode != 0 and "CERTIFICATE_VERIFY_FAILED" in done.stderr, done.stdout + done.stderr


def test_orwd_uploads_and_clients_get_https_addresses(secure, name, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(120_000_000))
    done = subprocess.run([ORWD, "upload", name, "big"], cwd=tmp_path, env={**os.environ, **secure.env}, text=True, capture_output=True,
                          timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    env_id = json.loads(secure.request("GET", f"/v1/environments/{name}")[2])["id"]
    body = json.dumps({"environmentId": env_id, "files": [{"fileName": "x", "contentType": "text/plain"}]}).encode()
    url = json.loads(secure.request("POST", "/v1/files/upload-urls", body)[2])["urls"][0]["uploadUrl"]
    assert url.startswith(secure.url + "/"), url
    stored = os.path.join(secure.data, "buckets", env_id, "big")
    with open(stored, "rb") as got:
        assert hashlib.sha256(got.read()).digest() == hashlib.sha256((tmp_path / "big").read_bytes()).digest()


def test_a_shell_with_a_terminal(secure):
    """Both ways at once over HTTPS: keys, their echo, a resize, an interrupt, more output than a record holds, the status."""
    box = Sandbox(secure)
    t = Terminal(secure, "shell", box.id)
    t.type(b"PS1='$ '; stty size; echo in-$((40+2))\n")
    t.expect(b"30 100\r\n")
    t.expect(b"in-42\r\n")
    t.resize(44, 155)
    t.process.send_signal(signal.SIGWINCH)
    t.type(b"until [ \"$(stty size)\" = '44 155' ]; do sleep 0.1; done; echo resized-$((1+1))\n")
    t.expect(b"resized-2\r\n")
    # In a loop, as the key may come before there is a process in front.
    t.type(b"trap 'echo caught-$((1+1)); hit=1' INT; echo ready-$((1+1)); until [ \"$hit\" ]; do sleep 1; done\n")
    t.expect(b"ready-2\r\n")
    t.insist(b"\x03", b"caught-2")
    t.insist(b"echo calm-$((2+2))\n", b"calm-4")  # an interrupt too many takes what was typed behind it along
    t.type(b"head -c 3000000 /dev/zero | tr '\\0' y; echo; echo all-$((1+1))\n")
    t.expect(b"all-2\r\n", 120)
    t.type(b"exit 9\n")
    assert t.end() == 9
    box.delete()


def test_a_shell_with_a_stranger(secure):
    box = Sandbox(secure)
    plain = {k: v for k, v in secure.env.items() if k not in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    done = verb(secure, "sandbox", "shell", box.id, env={**{k: v for k, v in os.environ.items() if "SSL" not in k}, **plain})
    assert done.returncode == 1 and b"certificate" in done.stderr, done.stderr
    box.delete()


def verb(platform, *argv, env=None, stdin=None):
    return subprocess.run([OPENREWARD, *argv], env=env, input=stdin, capture_output=True, timeout=300, check=False)


def test_the_verbs(secure, name):
    """By the file of an authority; by the data directory, which needs none; and not at all."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OPENREWARD_", "SSL_", "REQUESTS_"))}
    url = {"OPENREWARD_URL": secure.url, "OPENREWARD_API_KEY": secure.key}
    for env, argv in (({**plain, **url, "OPENREWARD_CA": secure.authority.ca}, []), ({**plain, **url, "SSL_CERT_FILE": secure.authority.ca}, []),
                      (plain, ["--data", secure.data])):
        done = verb(secure, "env", "ls", *argv, env=env)
        assert done.returncode == 0 and name.encode() in done.stdout, done.stderr
    done = verb(secure, "env", "ls", env={**plain, **url})
    assert done.returncode == 1 and b"certificate" in done.stderr and b"OPENREWARD_CA" in done.stderr, done.stderr
    done = verb(secure, "client-env", "--data", secure.data, env=plain)
    assert f"export OPENREWARD_URL='{secure.url}'".encode() in done.stdout, done


def test_standard_input_through_a_sandbox(secure):
    data = os.urandom(5_000_000)
    env = {**os.environ, **secure.env}
    done = verb(secure, "sandbox", "run", "-i", "python:3.11-slim", "--", "cat", env=env, stdin=data)
    assert done.returncode == 0 and hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), done.stderr[-2000:]


def test_a_certificate_changes_under_a_session(secure, name):
    with TinySession(secure, name) as session:
        assert session.about()
        secure.put("second")
        secure.process.send_signal(signal.SIGHUP)
        wait_until(lambda: secure.log().count("read anew") >= 1, 60, "the new certificate")
        assert secure.subject() == "second"
        assert session.about() and session.ping()[0] == 200
        with open(secure.cert, "w", encoding="ascii") as f:
            f.write("nothing")
        secure.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the former certificate stays in use" in secure.log(), 60, "a line about the wrong one")
        assert re.search(r"tls.*stays in use.*" + re.escape(secure.cert), secure.log())
        assert secure.subject() == "second" and session.about()
        done = verb(secure, "env", "ls", "--data", secure.data, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
    secure.put("second")


def connect(platform):
    address = urllib.parse.urlsplit(platform.url)
    raw = socket.create_connection((address.hostname, address.port), 60)
    return ssl.create_default_context(cafile=platform.authority.ca).wrap_socket(raw, server_hostname=address.hostname)


def read_until(s, end):
    data = b""
    while not data.endswith(end):
        piece = s.recv(65536)
        assert piece, data
        data += piece
    return data


def test_a_planned_restart(secure, name):
    """A request that is under way is answered by the daemon that leaves, idle connections are told goodbye, and the session goes on
    with the next one."""
    env_id = json.loads(secure.request("GET", f"/v1/environments/{name}")[2])["id"]
    body = json.dumps({"environmentId": env_id, "files": [{"fileName": "x", "contentType": "text/plain"}]}).encode()
    head = (f"POST /v1/files/upload-urls HTTP/1.1\r\nHost: h\r\nX-API-Key: {secure.key}\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    with TinySession(secure, name) as session, connect(secure) as busy, connect(secure) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        read_until(idle, b"}")
        busy.sendall(head)
        read_until(busy, b"100 Continue\r\n\r\n")
        address = secure.url
        secure.listen = urllib.parse.urlsplit(address).netloc
        secure.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "leaving" in secure.log(), 60, "a daemon that leaves")
        assert idle.recv(10) == b""
        busy.sendall(body)
        answer = read_until(busy, b"}]}")
        assert answer.startswith(b"HTTP/1.1 200") and b"Connection: close" in answer and busy.recv(10) == b""
        assert secure.process.wait(60) == 0
        secure.process = None
        secure.start()
        assert secure.url == address
        assert session.about() and session.ping()[0] == 200


# -- refused at the start -------------------------------------------------------------------------------------------------------


def serve(folder, text):
    config = os.path.join(folder, "refused.yaml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(text)
    data = os.path.join(folder, "refused-data")
    done = subprocess.run([OPENREWARD, "serve", "--config", config, "--listen", "127.0.0.1:0", "--data", data], text=True,
                          capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert not os.path.exists(data), "nothing is made for what cannot be"
    return done


@pytest.fixture(scope="module")
def spoilt(authority, folder):
    """Paths by name: of files that are no good, each in its own way, and good ones."""
    cert, key = authority.pair("good")
    other_cert, other_key = authority.pair("other")
    paths = {"cert": cert, "key": key, "other": other_key, "none": os.path.join(folder, "none.pem"), "empty": os.path.join(folder, "empty.pem"),
             "locked": os.path.join(folder, "locked.key"), "root": os.path.join(folder, "root.key")}
    open(paths["empty"], "w", encoding="ascii").close()
    run_openssl("pkcs8", "-topk8", "-in", key, "-out", paths["locked"], "-passout", "pass:secret")
    shutil.copy(key, paths["root"])
    for path in paths.values():
        if os.path.exists(path):
            os.chmod(path, 0o644)
    os.chmod(paths["root"], 0o600)
    return paths


@pytest.mark.parametrize("cert,key,words", [
    ("none", "key", ["certificate", "{none}", "No such file"]), ("cert", "none", ["key", "{none}", "No such file"]),
    ("empty", "key", ["certificate", "{empty}", "PEM"]), ("key", "key", ["certificate", "{key}", "PEM"]),
    ("cert", "cert", ["key", "{cert}", "PEM"]), ("cert", "other", ["key", "{other}", "does not belong", "{cert}"]),
    ("cert", "locked", ["key", "{locked}", "not encrypted"]), ("cert", "root", ["key", "{root}", "openreward", "chmod"]),
    ("cert", None, ["tls.key"]), (None, "key", ["tls.certificate"])])
def test_refused(folder, spoilt, cert, key, words):
    lines = [f"  certificate: {spoilt[cert]}\n"] if cert else []
    done = serve(folder, "tls:\n" + "".join(lines + ([f"  key: {spoilt[key]}\n"] if key else [])))
    assert done.returncode == 1, done
    for word in words:
        assert word.format(**spoilt) in done.stderr, (word, done.stderr)
