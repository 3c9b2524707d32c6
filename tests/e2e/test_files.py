"""Files of environments: /v1/files, orwd upload, files and delete-file, /orwd_data, bucket_config."""
import base64
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import unicodedata
import urllib.parse
import uuid

import pytest
from openreward import SandboxBucketConfig

from orw import settings, wait_until
from tinyenv import TINY, TinySession, deploy_tiny
from wire import events, result

ORWD = os.path.join(os.path.dirname(sys.executable), "orwd")


class Files:
    """The files of one environment, by plain HTTP."""

    def __init__(self, platform, name=None, private=False, owner="local", key=""):
        """key: of a member of owner, "" = the admin's, of local."""
        self.platform, self.name, self.key = platform, name or f"files-{uuid.uuid4().hex[:8]}", key
        self.full = f"{owner}/{self.name}"
        if not name:
            body = {"name": self.name, "namespace": owner, "description": "", "isPrivate": private}
            status, _, data = platform.request("POST", "/v1/environments", json.dumps(body).encode(), key=key)
            assert status == 201, data
        status, _, data = platform.request("GET", f"/v1/environments/{self.full}", key=key)
        assert status == 200, data
        self.id = json.loads(data)["id"]

    @property
    def path(self):
        return f"{self.platform.data}/buckets/{self.id}"

    def url(self, name, kind="application/octet-stream", status=200, key=""):
        body = {"environmentId": self.id, "files": [{"fileName": name, "contentType": kind}]}
        got, _, data = self.platform.request("POST", "/v1/files/upload-urls", json.dumps(body).encode(), key=key or self.key)
        assert got == status, data
        return json.loads(data)["urls"][0]["uploadUrl"] if got == 200 else json.loads(data)["message"]

    def raw_put(self, url, data, headers=None, method="PUT"):
        parts = urllib.parse.urlsplit(url)
        c = http.client.HTTPConnection(parts.netloc, timeout=60)
        c.request(method, f"{parts.path}?{parts.query}", data, {"Content-Type": "application/octet-stream", **(headers or {})})
        answer = c.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        c.close()
        return found

    def put(self, name, data=b"x", status=200):
        got = self.raw_put(self.url(name), data)
        assert got[0] == status, got
        return got[2]

    def call(self, method, path="", **kw):
        return self.platform.request(method, f"/v1/files/{self.id}{path}", **kw)

    def get(self, name, headers=None):
        return self.call("GET", "/" + urllib.parse.quote(name, safe=""), headers=headers)

    def list(self, **query):
        status, _, data = self.call("GET", "?" + urllib.parse.urlencode(query))
        assert status == 200, data
        found = json.loads(data)
        return [f["path"] for f in found["files"]], found["folders"], found.get("nextPageToken")


@pytest.fixture
def files(platform):
    return Files(platform)


def orwd(platform, *argv, cwd=None, check=True):
    done = subprocess.run([ORWD, *argv], cwd=cwd, env={**os.environ, **platform.env}, text=True, capture_output=True, timeout=120,
                          check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


# -- orwd ------------------------------------------------------------------------------------------------------------------

def test_orwd_uploads_lists_and_deletes(platform, files, tmp_path):
    """A folder of more files than one batch of URLs, names with blanks and umlauts, destinations, each output format."""
    data = tmp_path / "data"
    (data / "sub dir").mkdir(parents=True)
    for i in range(60):
        (data / f"{i:03}.json").write_text(f"{{\"n\": {i}}}")
    (data / "sub dir" / "größe €.bin").write_bytes(os.urandom(300_000))
    name = f"local/{files.name}"
    done = orwd(platform, "upload", name, "data", "--concurrency", "4", cwd=tmp_path)
    assert "Uploaded 61 files" in done.stdout and "FAIL" not in done.stdout
    done = orwd(platform, "upload", name, "data/000.json", "--dest", "one/renamed.json", cwd=tmp_path)
    done = orwd(platform, "upload", name, "data/001.json", "--dest", "one/", cwd=tmp_path)
    done = json.loads(orwd(platform, "upload", name, "data", "--dest", "two", "--output", "json", cwd=tmp_path).stdout.split("\n", 1)[1])
    assert done == {"uploaded": 61, "failed": 0, "total": 61}
    done = orwd(platform, "files", name)
    assert [line.strip() for line in done.stdout.splitlines()[:3]] == ["data/", "one/", "two/"] and "0 files, 3 folders" in done.stdout
    done = json.loads(orwd(platform, "files", name, "--prefix", "one/", "--output", "json").stdout)
    assert [(f["path"], f["size"]) for f in done["files"]] == [("one/001.json", 8), ("one/renamed.json", 8)]
    done = orwd(platform, "files", name, "--prefix", "data/sub dir/")
    assert "größe €.bin" in done.stdout and "293.0 KB" in done.stdout
    status, _, body = files.get("data/sub dir/größe €.bin")
    assert status == 200 and body == (data / "sub dir" / "größe €.bin").read_bytes()
    assert "Deleted 'one/001.json'" in orwd(platform, "delete-file", name, "one/001.json").stdout
    done = orwd(platform, "delete-file", name, "one/001.json", check=False)
    assert done.returncode != 0 and "404" in done.stderr
    assert "(61 files)" in orwd(platform, "delete-file", name, "two", "--folder").stdout
    assert "(61 files)" in orwd(platform, "delete-file", name, "data/", "--folder").stdout
    assert files.list() == ([], ["one"], None)


# -- signed URLs -----------------------------------------------------------------------------------------------------------

def change(url, **values):
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query), **values)
    return parts._replace(query=urllib.parse.urlencode(query, quote_via=urllib.parse.quote)).geturl()


def test_a_url_is_for_one_file_one_type_one_size_and_a_time(platform, files):
    url = files.url("a/b")
    other = Files(platform)
    for bad in (url.replace("a%2Fb", "a%2Fc"), url.replace(files.id, other.id), change(url, max="999999999999999"),
                change(url, expires="99999999999999"), change(url, type="text/html"), change(url, signature="0" * 64),
                url.split("?")[0], change(url, signature="")):
        status, _, body = files.raw_put(bad, b"evil")
        assert status == 403 and ("sign" in json.loads(body)["detail"]), (bad, status, body)
    status, _, body = files.raw_put(url, b"x", {"Content-Type": "text/html"})
    assert status == 403 and "Content-Type" in json.loads(body)["message"]
    assert files.list() == ([], [], None) and other.list() == ([], [], None)
    assert files.raw_put(url, b"good")[0] == 200
    assert files.get("a/b")[2] == b"good"


def test_bad_names_are_refused(files):
    for name in ("", "/a", "a/", "..", "a/../b", "../../etc/passwd", "a//b", "a\nb", "x" * 256, "y/" * 600 + "z"):
        assert "fileName" in files.url(name, status=400), name
    for path in ("..%2Fx", "a%2F..%2F..%2Fx", "%2Fetc%2Fpasswd", "a%00b", "%ff"):
        assert files.call("GET", "/" + path)[0] == 400, path
        assert files.call("DELETE", "/" + path)[0] == 400, path
        assert files.call("DELETE", "/folder/" + path)[0] == 400, path


def test_one_name_in_two_unicode_forms(platform, files, tmp_path):
    """Linux writes NFC, macOS hands over NFD: a file is found by both, and has no twin that looks the same. Case is another name."""
    nfc, nfd = (unicodedata.normalize(form, "donn\u00e9es/caf\u00e9.txt") for form in ("NFC", "NFD"))
    files.put(nfd, b"decomposed")
    files.put(nfd, b"again")
    message = files.url(nfc, status=409)
    assert "files.fileName" in message and f'"{nfc}" (NFC)' in message and f'"{nfd}" (NFD)' in message
    assert "(NFC)" in files.url(nfc.replace("caf", "new-"), status=409), "beside it, in a folder that looks the same"
    assert files.get(nfc)[::2] == files.get(nfd)[::2] == (200, b"again")
    assert files.list() == ([], [nfd.split("/")[0]], None)
    for prefix in (nfc.split("/")[0] + "/", nfd.split("/")[0] + "/", nfc[:-4], nfd[:-4]):
        assert files.list(prefix=prefix) == ([nfd], [], None)
    # Its time: what was free when the URL was made is not any more.
    late_nfc, late_nfd = (unicodedata.normalize(form, "late-\u00e9") for form in ("NFC", "NFD"))
    url = files.url(late_nfc)
    files.put(late_nfd)
    status, _, answer = files.raw_put(url, b"y")
    assert status == 409 and "(NFD)" in json.loads(answer)["detail"]
    files.put(late_nfd.upper())
    files.put(late_nfd, b"z")
    assert files.get(late_nfc)[2] == b"z" and files.get(late_nfc.upper())[2] == b"x"

    (tmp_path / nfc.split("/")[0]).mkdir()
    (tmp_path / nfc).write_bytes(b"composed")
    done = orwd(platform, "upload", f"local/{files.name}", nfc.split("/")[0], cwd=tmp_path, check=False)
    assert done.returncode != 0 and "differs by its Unicode form only" in done.stdout + done.stderr
    orwd(platform, "delete-file", f"local/{files.name}", nfc)
    assert files.get(nfd)[0] == 404
    orwd(platform, "upload", f"local/{files.name}", nfc.split("/")[0], cwd=tmp_path)
    assert files.get(nfd)[::2] == (200, b"composed")


def test_batches_have_limits(platform, files):
    for n, expected in ((0, 400), (50, 200), (51, 400)):
        body = {"environmentId": files.id, "files": [{"fileName": f"f{i}"} for i in range(n)]}
        assert platform.request("POST", "/v1/files/upload-urls", json.dumps(body).encode())[0] == expected


def test_strangers(platform, files):
    files.put("public")
    private = Files(platform, private=True)
    private.put("secret")
    bad = "orw_" + "x" * 43
    for key, expected in ((None, 404), (bad, 401)):
        assert private.call("GET", key=key)[0] == expected
        assert private.call("GET", "/secret", key=key)[0] == expected
    assert files.call("GET", "/public", key=None)[0] == 200
    for key in (None, bad):
        assert files.call("DELETE", "/public", key=key)[0] == 401
    assert private.call("GET", "/secret")[2] == b"x"
    assert platform.request("GET", f"/v1/files/{uuid.uuid4()}")[0] == 404


# -- bytes -----------------------------------------------------------------------------------------------------------------

def test_half_an_upload_is_never_seen(files):
    files.put("a", b"old")
    url = urllib.parse.urlsplit(files.url("a"))
    c = http.client.HTTPConnection(url.netloc, timeout=20)
    c.putrequest("PUT", f"{url.path}?{url.query}")
    c.putheader("Content-Type", "application/octet-stream")
    c.putheader("Content-Length", "3000000")
    c.endheaders()
    c.send(b"n" * 2_000_000)
    time.sleep(0.3)
    assert files.get("a")[2] == b"old" and files.list()[0] == ["a"]
    c.close()
    aside = f"{files.platform.data}/buckets/.aside"
    wait_until(lambda: not os.listdir(aside), what="nothing aside")
    assert files.get("a")[2] == b"old"
    files.put("a", b"new")
    assert files.get("a")[2] == b"new"


def test_an_upload_does_not_outlive_its_environment(files):
    files.put("a")
    url = urllib.parse.urlsplit(files.url("b"))
    c = http.client.HTTPConnection(url.netloc, timeout=20)
    c.putrequest("PUT", f"{url.path}?{url.query}")
    c.putheader("Content-Type", "application/octet-stream")
    c.putheader("Content-Length", "2000")
    c.endheaders()
    c.send(b"n" * 1000)
    aside = f"{files.platform.data}/buckets/.aside"
    wait_until(lambda: os.listdir(aside), what="the upload has begun")
    assert files.platform.request("DELETE", f"/v1/environments/local/{files.name}")[0] == 200
    assert not os.path.exists(files.path)
    c.send(b"n" * 1000)
    assert c.getresponse().status == 404
    c.close()
    assert not os.path.exists(files.path), "nothing would ever remove it"
    wait_until(lambda: not os.listdir(aside), what="nothing aside")


def test_resumable(files):
    """bytes A-B/TOTAL, 308 with what is here, and on after a broken connection, as with Google's resumable uploads."""
    data = os.urandom(1_000_000)
    url = files.url("big")
    put = lambda a, b, total="1000000": files.raw_put(url, data[a:b], {"Content-Range": f"bytes {a}-{b - 1}/{total}"})  # noqa: E731
    ask = lambda: files.raw_put(url, b"", {"Content-Range": "bytes */1000000"})  # noqa: E731
    assert ask()[0] == 308 and "range" not in ask()[1]
    assert put(500, 600)[0] == 416
    status, headers, _ = put(0, 300_000, "*")
    assert status == 308 and headers["range"] == "bytes=0-299999"
    assert ask()[1]["range"] == "bytes=0-299999"
    assert put(200_000, 700_000)[1]["range"] == "bytes=0-699999"
    assert files.get("big")[0] == 404 and files.list() == ([], [], None)
    status, _, body = put(700_000, 1_000_000)
    assert status == 200 and json.loads(body) == {"path": "big", "size": 1_000_000}
    assert files.get("big")[2] == data
    assert os.listdir(f"{files.platform.data}/buckets/.aside") == []
    for bad in ("bytes 5-1/10", "bytes 0-9/5", "items 0-1/2", "bytes a-b/c", "bytes 0-1", "bytes -5/10"):
        assert files.raw_put(url, b"x", {"Content-Range": bad})[0] == 400, bad
    assert files.raw_put(url, b"x", {"Content-Range": "bytes 0-1/99999999999999"})[0] == 413


def test_ranges_of_a_download(files):
    files.put("f", bytes(range(100)))
    for header, expected in (("bytes=0-9", (0, 10)), ("bytes=90-", (90, 100)), ("bytes=-5", (95, 100)), ("bytes=95-500", (95, 100))):
        status, headers, body = files.get("f", {"Range": header})
        assert status == 206 and body == bytes(range(*expected)), header
        assert headers["content-range"] == f"bytes {expected[0]}-{expected[1] - 1}/100"
    assert files.get("f", {"Range": "bytes=100-"})[0] == 416
    for header in ("items=0-1", "bytes=0-1,3-4", "bytes=9-1", "bytes=x"):
        assert files.get("f", {"Range": header})[0] == 200, header
    assert files.call("HEAD", "/f")[1]["content-length"] == "100"
    assert files.get("none")[0] == 404


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(next(line.split()[1] for line in f if line.startswith("VmHWM")))


def test_large_files_in_constant_memory(platform, files):
    pid = platform.process.pid
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")
    before = resident_kib(pid)
    url = urllib.parse.urlsplit(files.url("big"))
    size, block = 300 << 20, os.urandom(1 << 20)
    c = http.client.HTTPConnection(url.netloc, timeout=120)
    c.putrequest("PUT", f"{url.path}?{url.query}")
    c.putheader("Content-Type", "application/octet-stream")
    c.putheader("Content-Length", str(size))
    c.endheaders()
    for _ in range(size >> 20):
        c.send(block)
    assert c.getresponse().status == 200
    c.close()
    c = http.client.HTTPConnection(url.netloc, timeout=120)
    c.request("GET", f"/v1/files/{files.id}/big", headers={"X-API-Key": platform.key})
    answer, read = c.getresponse(), 0
    while piece := answer.read(1 << 20):
        read += len(piece)
    assert read == size
    grown = resident_kib(pid) - before
    assert grown < 16 << 10, f"{grown} KiB more"
    assert files.call("DELETE", "/big")[0] == 200


# -- lists -----------------------------------------------------------------------------------------------------------------

def test_pages(platform, files):
    for name in ("a", "b/1", "b/2", "c", "d/e/f"):
        files.put(name)
    seen, token = [], None
    for _ in range(5):
        got = files.list(limit=1, **({"pageToken": token} if token else {}))
        seen += got[0] + [f + "/" for f in got[1]]
        token = got[2]
        if not token:
            break
    assert seen == ["a", "b/", "c", "d/"]
    assert files.list(prefix="b") == ([], ["b"], None) and files.list(prefix="b/") == (["b/1", "b/2"], [], None)
    token = files.list(limit=1)[2]
    other = Files(platform)
    other.put("z")
    for whose, query in ((other, {}), (files, {"prefix": "b/"})):
        status, _, body = whose.call("GET", "?" + urllib.parse.urlencode({"pageToken": token, **query}))
        assert status == 400 and "pageToken" in json.loads(body)["detail"]
    for bad in (token[:-1], token + "x", "x", token[:32]):
        assert files.call("GET", "?" + urllib.parse.urlencode({"pageToken": bad}))[0] == 400, bad


def test_a_stop_in_the_middle_of_uploads(base_images):
    """Workers write pieces of them at every moment; what they write for is freed after them."""
    with base_images.platform("restart:\n  drain: 0\n", images=False) as p:
        files = Files(p)

        def send(n):
            with contextlib.suppress(OSError, http.client.HTTPException):
                files.raw_put(urls[n], itertools.repeat(b"x" * (1 << 20), 400))

        for _ in range(3):
            urls = [files.url(f"f{n}") for n in range(6)]
            senders = [threading.Thread(target=send, args=(n,)) for n in range(len(urls))]
            for t in senders:
                t.start()
            time.sleep(0.3)
            assert p.stop() == 0
            for t in senders:
                t.join()
            p.start()


# -- limits ----------------------------------------------------------------------------------------------------------------

def test_quota_and_size(base_images):
    with base_images.platform("buckets:\n  quota: 1MiB\n  file: 700KiB\n", images=False) as p:
        files = Files(p)
        assert b"allows" in files.put("big", b"x" * (701 << 10), status=413)
        files.put("a", b"x" * (600 << 10))
        body = json.loads(files.put("b", b"x" * (600 << 10), status=413))
        assert "quota" in body["message"] and files.list()[0] == ["a"]
        got = files.raw_put(files.url("b"), iter([b"x" * (300 << 10)] * 2))
        assert got[0] == 413, got
        files.put("b", b"x" * (300 << 10))
        assert files.call("DELETE", "/a")[0] == 200
        files.put("c", b"x" * (600 << 10))
        assert os.listdir(f"{p.data}/buckets/.aside") == []


def test_parts_count_for_the_quota(base_images):
    with base_images.platform("buckets:\n  quota: 1MiB\n  file: 700KiB\n", images=False) as p:
        files = Files(p)
        aside = f"{p.data}/buckets/.aside"
        part = lambda url, a, b, total="*": files.raw_put(url, b"x" * (b - a << 10), {  # noqa: E731
            "Content-Range": f"bytes {a << 10}-{(b << 10) - 1}/{total}"})
        urls = [files.url(f"f{i}") for i in range(8)]
        assert [part(url, 0, 300)[0] for url in urls] == [308] * 3 + [413] * 5, "none of them is ever ended"
        assert sum(os.path.getsize(os.path.join(aside, f)) for f in os.listdir(aside)) <= 1 << 20
        assert part(urls[0], 300, 400, 400 << 10)[0] == 200, "what is here is not asked for again"
        files.put("other", b"x" * (100 << 10), status=413)
        files.put("small", b"x" * (10 << 10))
        assert part(urls[1], 0, 1)[0] == 308, "begun anew, it gives the rest back"
        files.put("other", b"x" * (250 << 10))


# -- what instances and sandboxes see ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def deployed(platform):
    """An environment with files, uploaded before its server starts, and a sandbox tool to look with."""
    files = Files(platform)
    files.put("train.json", b"[1]")
    files.put("tasks/1/input", b"one")
    files.put("tasks/2/input", b"two")
    return files


def test_sandboxes_see_a_folder_read_only(platform, deployed, client):
    for task, mount in (("1", "/workspace"), ("2", "/tmp/x/")):
        config = SandboxBucketConfig(mount_path=mount, only_dir=f"tasks/{task}")
        with client.sandbox(settings(environment=f"local/{deployed.name}", bucket_config=config)) as s:
            out, code = s.run(f"ls {mount}; cat {mount.rstrip('/')}/input; touch {mount}/new")
            assert out.startswith("input\n" + {"1": "one", "2": "two"}[task]) and "Read-only" in out and code != 0
            deployed.put(f"tasks/{task}/later", b"seen")
            assert s.run(f"cat {mount}/later").output == "seen"


def test_a_folder_is_mounted_by_either_form_of_its_name(deployed, client):
    nfc, nfd = (unicodedata.normalize(form, "t\u00e2ches") for form in ("NFC", "NFD"))
    deployed.put(nfc + "/input", b"one")
    config = SandboxBucketConfig(mount_path="/workspace", only_dir=nfd)
    with client.sandbox(settings(environment=f"local/{deployed.name}", bucket_config=config)) as s:
        assert s.run("cat /workspace/input").output == "one"


def test_the_whole_bucket_and_what_is_missing(platform, deployed):
    def create(config, environment=None):
        body = {"image": "python:3.11-slim", "environment": environment or f"local/{deployed.name}", "bucket_config": config}
        status, _, data = platform.request("POST", "/create_sandbox", json.dumps(body).encode())
        if status == 200:
            sid = data.decode().split("data: ")[1].split("\n")[0]
            platform.request("POST", "/delete_session", b"", {"X-Session-ID": sid})
        return status, data.decode()

    assert "event: end" in create({"mount_path": "/data", "read_only": False})[1]
    for config in ({"mount_path": "/proc/x"}, {"mount_path": "/"}, {"mount_path": "/dev"}, {"mount_path": "rel"}):
        status, text = create(config)
        assert status == 400 and "mount_path" in text, config
    for config in ({"mount_path": "/d", "only_dir": "../x"}, {"mount_path": "/d", "only_dir": "nope", "implicit_dirs": False},
                   {"mount_path": "/d", "only_dir": "train.json"}):
        status, text = create(config)
        assert status == 400 and "only_dir" in text, config
    os.symlink("/etc", f"{deployed.path}/link")
    try:
        assert create({"mount_path": "/d", "only_dir": "link"})[0] == 400
    finally:
        os.unlink(f"{deployed.path}/link")
    assert "event: end" in create({"mount_path": "/d", "only_dir": "made/for/me"})[1]
    status, text = create({"mount_path": "/d"}, environment="some/where")
    assert status == 400 and "some/where" in text


LOOK = """
import json, os, subprocess
report = {}
try:
    report["ls"] = sorted(os.listdir("/orwd_data"))
    report["owner"] = os.stat("/orwd_data").st_uid
    report["uid"] = os.getuid()
    open("/orwd_data/from-instance", "w").write(str(os.getuid()))
except OSError as e:
    report["error"] = str(e)
print("REPORT " + json.dumps(report), flush=True)
"""


@contextlib.contextmanager
def looking(platform, name, tmp_path, user):
    """The tiny server, which looks at /orwd_data first, under a user."""
    folder = tmp_path / name
    folder.mkdir()
    source = (open(os.path.join(TINY, "server.py"), encoding="utf-8").read())
    (folder / "server.py").write_text(source)
    (folder / "look.py").write_text(LOOK)
    (folder / "Dockerfile").write_text("FROM python:3.11-slim\nWORKDIR /app\nCOPY . .\nRUN useradd -u 1234 app\n"
                                       f"USER {user}\nCMD [\"sh\", \"-c\", \"python3 look.py; exec python3 -S -E server.py\"]\n")
    done = platform.cli("deploy", str(folder), "--name", f"local/{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    yield


def report_of(platform, name):
    logs = platform.cli("logs", f"local/{name}").stdout
    return [json.loads(line.split("REPORT ", 1)[1]) for line in logs.splitlines() if "REPORT {" in line]


@pytest.mark.parametrize("user,uid", [("root", 0), ("app", 1234)])
def test_an_instance_sees_its_files_as_its_users_own(platform, tmp_path, user, uid):
    files = Files(platform)
    files.put("train.json", b"[1]")
    with looking(platform, files.name, tmp_path, user):
        found = report_of(platform, files.name)[-1]
        assert found == {"ls": ["train.json"], "owner": uid, "uid": uid}
        assert files.get("from-instance")[2] == str(uid).encode()
        assert os.stat(f"{files.path}/from-instance").st_uid == os.stat(files.path).st_uid != 0


def test_an_empty_bucket_does_not_appear(platform, tmp_path):
    files = Files(platform)
    with looking(platform, files.name, tmp_path, "root"):
        assert "No such file" in report_of(platform, files.name)[-1]["error"]


def test_always_there_and_read_only(base_images, tmp_path):
    config = "instances:\n  orwd_data_always: true\n  orwd_data_writable: false\n"
    with base_images.platform(config) as p:
        files = Files(p)
        with looking(p, files.name, tmp_path, "root"):
            found = report_of(p, files.name)[-1]
            assert found["ls"] == [] and "Read-only" in found["error"]


# -- whose files a session's key mounts ----------------------------------------------------------------------------------------

class Visit:
    """A guest's session in another owner's environment: `key` is the guest's own, `session_key` what that owner's code got."""

    def __init__(self, platform):
        self.platform, self.guest = platform, f"guest-{uuid.uuid4().hex[:8]}"
        for argv in (("user", "create", self.guest), ("key", "create", "--user", self.guest)):
            done = platform.cli(*argv)
            assert done.returncode == 0, done.stderr
        self.key = done.stdout.strip()
        self.of_guest = self.marked("the guest's", owner=self.guest, key=self.key)
        self.visited, self.beside = self.marked("the visited"), self.marked("the one beside")
        self.private = self.marked("the private", private=True)
        deploy_tiny(platform, self.visited.name)
        secrets = base64.b64encode(json.dumps({"api_key": self.key}).encode()).decode()
        self.session = TinySession(platform, f"local/{self.visited.name}", key=self.key, headers={"X-Secrets": secrets})
        self.session_key = self.session.about()["secrets"]["api_key"]
        assert self.session_key not in ("", self.key, platform.key)

    def marked(self, mark, **kw):
        files = Files(self.platform, **kw)
        files.put("mark", mark.encode())
        return files

    def sees(self, key, environment=..., **config):
        """What a sandbox reads of the mark in its mount, or why there is none; environment ... = the body has no such field."""
        body = {"image": "python:3.11-slim", "machine_size": "0.5:0.5", "bucket_config": {"mount_path": "/data", **config}}
        if environment is not ...:
            body["environment"] = environment
        status, _, answer = self.platform.request("POST", "/create_sandbox", json.dumps(body).encode(), key=key)
        if status != 200:
            return f"{status}: {json.loads(answer)['detail']}"
        found = events(answer)
        assert found[-1][0] == "end", found
        head = {"X-Session-ID": found[0][1]}
        status, _, answer = self.platform.request("POST", "/run", b'{"cmd": "cat /data/mark"}', head, key=key)
        assert status == 200, answer
        assert self.platform.request("POST", "/delete_session", b"", head, key=key)[0] == 200
        return result(answer)["output"].decode()


@pytest.fixture(scope="module")
def visit(platform):
    v = Visit(platform)
    yield v
    v.session.close()


def test_a_sessions_key_mounts_what_its_environments_owner_has(visit):
    """Whatever else is named, it is the session's own environment; never the guest's, whose files that code would read."""
    others = ("local/no-such", f"no-one/{visit.beside.name}", visit.of_guest.full, visit.of_guest.name)
    for name in (..., None, "", visit.visited.full, *others):
        assert visit.sees(visit.session_key, name) == "the visited", name
    assert visit.sees(visit.session_key, visit.beside.full) == "the one beside"
    assert visit.sees(visit.session_key, visit.private.full) == "the private"


def test_a_guests_own_key_mounts_what_it_names_and_may_read(visit):
    assert visit.sees(visit.key, visit.of_guest.full) == visit.sees(visit.key, visit.of_guest.name) == "the guest's"
    assert visit.sees(visit.key, visit.beside.full) == "the one beside"
    for name in (..., "", "local/no-such", visit.private.full):
        told = visit.sees(visit.key, name)
        assert told.startswith(f"400: bucket_config: environment \"{'' if name is ... else name}\": expected OWNER/NAME"), told


def test_a_sessions_key_makes_a_folder_in_its_owners_files_only(visit):
    """The code is the owner's, so it may; the session's caller may not by a key of his own."""
    told = visit.sees(visit.key, visit.visited.full, only_dir="by/guest")
    assert told.startswith("400: ") and "only_dir" in told, told
    told = visit.sees(visit.session_key, visit.of_guest.full, only_dir="by/session")
    assert "No such file" in told, "the mount is there, and empty"
    assert os.path.isdir(f"{visit.visited.path}/by/session") and not os.path.exists(f"{visit.visited.path}/by/guest")
    assert not os.path.exists(f"{visit.of_guest.path}/by")
