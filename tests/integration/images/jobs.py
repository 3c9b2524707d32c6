"""Runs root jobs of images as the spawner does: in a pid and mount namespace, with nothing inherited that matters."""
import base64
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("OPENREWARD_BUILD_DIR") or os.path.join(ROOT, "build")
PROGRAM = os.environ.get("OPENREWARD_JOB_PROGRAM") or os.path.join(BUILD, "openreward")
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64")
BASE = "docker.io/library/python:3.11-slim"


class Data:
    """A DATA folder of its own."""

    def __init__(self, path):
        self.path = str(path)
        self.images = os.path.join(self.path, "images")

    def command(self, kind, *args):
        return ["unshare", "--pid", "--mount", "--fork", "--kill-child", PROGRAM, "job", kind, "--data", self.path, *args]

    def command_with_registries(self, text, kind, *args):
        path = os.path.join(self.path, "registries.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        script = 'mount --make-rprivate /; mount --bind "$1" /etc/containers/registries.conf; shift; exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", path, *self.command(kind, *args)]

    def start_with_registries(self, text, kind, *args):
        return subprocess.Popen(self.command_with_registries(text, kind, *args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def job_with_registries(self, text, kind, *args):
        """The job, on a machine whose /etc/containers/registries.conf is text."""
        command = self.command_with_registries(text, kind, *args)
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        return Result(p.returncode, p.stdout)

    def start(self, kind, *args, **kw):
        return subprocess.Popen(self.command(kind, *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, **kw)

    def job(self, kind, *args, timeout=240, netns=None, told=None):
        """told: what a build gets on its standard input."""
        kw, command = {"stdin": subprocess.DEVNULL}, self.command(kind, *args)
        if told is not None:
            kw["stdin"] = tempfile.TemporaryFile()
            kw["stdin"].write(json.dumps(told).encode())
            kw["stdin"].seek(0)
        if netns is not None:  # descriptor 3 of this process is the test runner's
            command = ["bash", "-c", f'exec 3<&{netns} "$@"', "bash", *command]
            kw["pass_fds"] = (netns,)
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=timeout, check=False, **kw)
        if told is not None:
            kw["stdin"].close()
        return Result(p.returncode, p.stdout)

    def source(self, deployment, members):
        """Writes source.tar from {name: text | TarInfo}."""
        folder = os.path.join(self.path, "builds", deployment)
        os.makedirs(folder, exist_ok=True)
        with tarfile.open(os.path.join(folder, "source.tar"), "w") as tar:
            for name, what in members.items():
                if isinstance(what, tarfile.TarInfo):
                    tar.addfile(what)
                    continue
                info = tarfile.TarInfo(name)
                info.size = len(what.encode())
                info.mode = 0o644
                tar.addfile(info, io.BytesIO(what.encode()))

    def build(self, deployment, dockerfile, files=None, env="alice/hello", args=(), **kw):
        members = {} if dockerfile is None else {"Dockerfile": dockerfile}
        members.update(files or {})
        self.source(deployment, members)
        return self.job("build", deployment, env, *args, **kw)

    def record(self, name):
        file = name.replace("/", "+").replace(":", "=") + ".json"
        with open(os.path.join(self.images, "records", file), encoding="utf-8") as f:
            return json.load(f)

    def conf(self, **keys):
        path = os.path.join(self.images, "build.conf")
        if not keys:
            os.unlink(path)
            return
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            json.dump(keys, f)

    def layer_files(self, name):
        """Every path in the image's own layers, without those of the base."""
        found = []
        for layer in self.record(name)["layers"]:
            if not layer.startswith("env/"):
                continue
            top = os.path.join(self.images, layer)
            for folder, dirs, files in os.walk(top):
                found += [os.path.join(folder, f)[len(top):] for f in dirs + files]
        return found

    def config(self, name, env="alice/hello"):
        digest = self.record(name)["digest"]
        key = base64.b64encode(digest.encode()).decode()
        path = f"{self.images}/env/{env}/store/overlay-images/{digest[7:]}/={key}"
        with open(path, encoding="utf-8") as f:
            return f.read()


class Result:
    def __init__(self, status, out):
        self.status, self.out = status, out
        self.lines = out.rstrip("\n").split("\n")
        self.last = self.lines[-1]

    def __repr__(self):
        return f"status {self.status}:\n{self.out}"


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def special(name, kind):
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


def docker_archive(path, repo_tag, env="A=b", text="hi\n"):
    """What `docker save` writes, with one tiny layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        info = tarfile.TarInfo("hello.txt")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    layer = layer.getvalue()
    diff = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": [env], "Cmd": ["/x"]},
                         "rootfs": {"type": "layers", "diff_ids": [diff]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [repo_tag], "Layers": ["l.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in (("c.json", config), ("l.tar", layer), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry(http.server.BaseHTTPRequestHandler):
    """A container registry of one image, read-only: what a pull asks for and no more."""
    answers = {}
    stalls = {}  # path: an event that is set when it is asked for; then nothing comes any more

    def do_GET(self):
        if self.path in self.stalls:
            self.stalls[self.path].set()
            self.rfile.read()  # until the client is gone
            return
        kind, body = self.answers.get(self.path, (None, b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass

    @classmethod
    def offer(cls, name, tag, text=b"hi\n"):
        """Returns the path of the layer, and the digest of a list which has the image."""
        blobs = []
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            info = tarfile.TarInfo("pulled.txt")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        diff = digest_of(layer.getvalue())
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/pulled"]},
                             "rootfs": {"type": "layers", "diff_ids": [diff]}}).encode()
        types = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
        for kind, data in zip(types, (config, layer.getvalue())):
            digest = digest_of(data)
            blobs.append({"mediaType": kind, "digest": digest, "size": len(data)})
            cls.answers[f"/v2/{name}/blobs/{digest}"] = "application/octet-stream", data
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": blobs[0], "layers": blobs[1:]}).encode()
        cls.answers["/v2/"] = "application/json", b"{}"
        cls.answers[f"/v2/{name}/manifests/{tag}"] = cls.answers[f"/v2/{name}/manifests/{digest_of(manifest)}"] = kind, manifest
        entry = {"mediaType": kind, "digest": digest_of(manifest), "size": len(manifest),
                 "platform": {"architecture": MACHINE, "os": "linux"}}
        kind = "application/vnd.oci.image.index.v1+json"
        several = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).encode()
        cls.answers[f"/v2/{name}/manifests/{digest_of(several)}"] = kind, several
        return f"/v2/{name}/blobs/{digest}", digest_of(several)


def processes_under(path):
    """Processes whose command line, root or working folder names path."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                text = f.read().decode(errors="replace")
            if path in text and int(pid) != os.getpid():
                found.append(f"{pid} {text}")
        except OSError:
            pass
    return found


def mounts_under(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return [line for line in f if path in line]


def cgroups(path):
    """Those of builds in this DATA: a hash (FNV-1a) of its real path is in their names."""
    h = 2166136261
    for byte in os.path.realpath(path).encode():
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return [os.path.join(folder, d) for folder, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs if d.startswith(f"orw-{h:08x}")]


def wait_until(fn, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if fn():
            return True
        time.sleep(0.05)
    return False


def kill_hard(process):
    """As the spawner cancels: the namespace's first process dies, and everything with it."""
    process.send_signal(signal.SIGKILL)
    process.wait(60)
