"""What is measured, set up and taken down again: one small root file system for all, a spawner, a server, other runtimes."""
import ctypes
import hashlib
import io
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time

from workers import Server, Worker, WorkerError

USER = "openreward"
IMAGE = "bench/root:1"
ENVIRONMENT = "local/bench-upstream"
PLACES = 20000  # sessions that its server may have at a time


def run(argv, timeout=120, **kw):
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=timeout, check=False, **kw)
    if r.returncode:
        raise WorkerError(f"{' '.join(argv[:4])}...: status {r.returncode}: {r.stdout.strip()[-600:]}")
    return r.stdout


def copy_program(path, root):
    """The program and the libraries that it is linked with."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for f in [path] + re.findall(r"(/\S+) \(0x", out):
        to = root + f
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy2(os.path.realpath(f), to)


def make_root(build, root):
    for d in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/tmp"):
        os.makedirs(f"{root}/{d}")
    os.chmod(f"{root}/tmp", 0o1777)
    for name in ("bash", "sh", "true"):
        copy_program(f"/bin/{name}", root)
    for name in ("true", "probe", "hog"):
        shutil.copy2(f"{build}/bench/bench-{name}", f"{root}/{name}")
    for name, text in (("passwd", "root:x:0:0:root:/root:/bin/bash\n"), ("group", "root:x:0:\n"), ("hosts", ""),
                       ("hostname", ""), ("resolv.conf", "")):
        with open(f"{root}/etc/{name}", "w", encoding="ascii") as f:
            f.write(text)


def make_archive(root, path):
    """The root as `docker save` would write it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as t:
        for name in sorted(os.listdir(root)):
            t.add(f"{root}/{name}", name)
    data = layer.getvalue()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({"architecture": machine, "os": "linux",
                         "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/true"]},
                         "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "bench"}],
                         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]}}).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as t:
        for name, content in (("layer.tar", data), ("config.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))


def make_certificate(cert, key):
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert,
         "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"])
    os.chmod(key, 0o644)  # the daemon, which is not root, reads it; it is worth nothing


class World:
    """Everything lives in one temporary folder; close() ends every process and removes it."""

    def __init__(self, build):
        become_reaper()
        self.build = os.path.abspath(build)
        self.dir = tempfile.mkdtemp(prefix="openreward-bench-", dir="/var/tmp")
        os.chmod(self.dir, 0o755)
        self.log = open(f"{self.dir}/workers.log", "ab")
        self.workers, self.servers, self.skipped, self.checked = {}, [], {}, {}
        self.root = f"{self.dir}/root"
        make_root(self.build, self.root)

    def worker(self, name, *argv):
        self.workers[name] = Worker(name, list(argv), self.log)

    def try_part(self, what, fn):
        """A part that may be missing on a machine: the rest is measured without it, and the report says why."""
        try:
            fn()
        except (WorkerError, OSError, KeyError, subprocess.TimeoutExpired) as e:
            self.skipped[what] = str(e)

    # -- ours and the floor -------------------------------------------------------------------------------------------
    def start_floor(self):
        self.worker("floor", f"{self.build}/bench/bench-floor", self.root, f"{self.dir}/floor")

    def start_spawner(self, name):
        """Returns the path of its socket. Its image is "bench". What sandboxes write is limited, as the daemon has it."""
        data = f"{self.dir}/{name}"
        os.makedirs(f"{data}/images")
        shutil.copytree(self.root, f"{data}/images/bench", symlinks=True)
        user = pwd.getpwnam(USER)
        spawner = Server([f"{self.build}/openreward-spawner", "--data", data, "--uid", str(user.pw_uid), "--gid",
                          str(user.pw_gid), "--libexec", self.build, "--listen", "127.0.0.1:0", "--disk-total", "0"],
                         f"{self.dir}/{name}.log")
        self.servers.append(spawner)
        spawner.wait_for(r"egress: ready", 20)
        return f"{data}/run/spawner.sock"

    def start_runtime(self):
        """One spawner that prepares nothing but net namespaces, spoken to in two ways, one with spares, and one with blanks."""
        program, plain = f"{self.build}/bench/bench-runtime", self.start_spawner("runtime")
        self.worker("runtime", program, plain, "bench")
        self.worker("memory", program, plain, "bench", "memory")
        self.worker("pool", program, self.start_spawner("pool"), "bench")
        self.workers["pool"].do("pool", 64)
        self.worker("begun", program, self.start_spawner("begun"), "bench")
        self.workers["begun"].do("blanks", 4)

    def start_server(self):
        data, config = f"{self.dir}/server", f"{self.dir}/server.yaml"
        self.certificate, tls_key = f"{self.dir}/tls.pem", f"{self.dir}/tls.key"
        make_certificate(self.certificate, tls_key)
        with open(config, "w", encoding="ascii") as f:  # what is measured is never how long the queue for room is
            f.write("sandboxes:\n  idle: 1h\nadmission:\n" + "".join(f"  {key}: 0\n" for key in (
                "cpu_factor", "memory_factor", "instances", "memory_pressure", "io_pressure")))
            f.write(f"listen: ['http://127.0.0.1:0', '127.0.0.1:0']\ntls: {{certificate: {self.certificate}, key: {tls_key}}}\n")
        self.serve = [f"{self.build}/openreward", "serve", "--data", data, "--config", config]
        self.start_daemon()
        self.tls_port = int(self.server.wait_for(r"listening on https://[0-9.]+:(\d+)", 30).group(1))
        host, port = self.server.wait_for(r"listening on http://([0-9.]+):(\d+)", 30).groups()
        self.data = data
        archive = f"{self.dir}/image.tar"
        make_archive(self.root, archive)
        run([f"{self.build}/openreward", "image", "import", archive, IMAGE, "--data", data])
        with open(f"{data}/admin.key", encoding="ascii") as f:
            key = f.read().strip()
        self.port, self.key = int(port), key
        self.worker("http", f"{self.build}/bench/bench-http", host, port, key, IMAGE)

    def start_daemon(self):
        """The first, or the next one after it was killed: it takes over what there is, listening sockets too."""
        self.server = Server(self.serve, f"{self.dir}/server.log")
        self.servers.append(self.server)

    def deploy_upstream(self):
        folder = f"{self.dir}/environment"
        os.makedirs(folder)
        shutil.copy2(f"{self.build}/bench/bench-upstream", f"{folder}/upstream")
        with open(f"{folder}/Dockerfile", "w", encoding="ascii") as f:
            f.write(f"FROM {IMAGE}\nCOPY upstream /upstream\nCMD [\"/upstream\"]\n")
        run([f"{self.build}/openreward", "deploy", folder, "--name", ENVIRONMENT, "--data", self.data])
        # One server for all: how many there are of it is not what is measured.
        run([f"{self.build}/openreward", "env", "set", ENVIRONMENT, f"concurrency={PLACES}", "--data", self.data])
        self.workers["http"].do("session", ENVIRONMENT)
        self.has_upstream = True

    has_upstream = False
    wrong = ""  # what was found to be wrong with what is measured, though it can be measured

    # -- other runtimes ------------------------------------------------------------------------------------------------
    def start_commands(self):
        self.worker("command", f"{self.build}/bench/bench-command")
        # In mounts of its own: crun refuses a host whose cgroup v2 stands beside v1, so that one is taken out of its sight;
        # and what podman mounts is gone with it.
        hide = "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$0\""
        self.worker("peers", "unshare", "--mount", "--propagation", "private", "sh", "-c", hide,
                    f"{self.build}/bench/bench-command")

    def podman(self, *args):
        base = f"{self.dir}/podman"
        # Lower than the default of a million descriptors, which needs a privilege that root may lack in a small machine.
        limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--memory", "1g",
                  "--cpus", "1", "--pids-limit", "4096"] if args[0] in ("run", "create") else []
        return ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp",
                "--cgroup-manager", "cgroupfs", args[0], *limits, *args[1:]]

    def peer(self, argv, count=1):
        """One use, of which nothing is kept."""
        return self.workers["peers"].batch(count, 0, ["exec"] + argv)

    def start_podman(self):
        self.peer(self.podman("run", "--rm", "--rootfs", self.root, "/true"))
        self.peer_once(self.podman("run", "-d", "--name", "living", "--rootfs", self.root, "/true", "hold"))
        self.has_podman = True

    has_podman = False

    def bundle(self, name, args, spec):
        folder = f"{self.dir}/{name}"
        os.makedirs(folder)
        spec = json.loads(json.dumps(spec))
        spec["process"].update(args=args, terminal=False)
        spec["root"] = {"path": self.root, "readonly": False}
        spec["linux"].pop("cgroupsPath", None)
        with open(f"{folder}/config.json", "w", encoding="utf-8") as f:
            json.dump(spec, f)
        return folder

    def oci_spec(self):
        """What podman gives its runtime (filter, masks, capabilities, limits), without the files that it mounts; without
        podman, the runtime's own template."""
        if self.has_podman:
            self.peer_once(self.podman("create", "--name", "spec", "--rootfs", self.root, "/true"))
            self.peer_once(self.podman("init", "spec"))
            found = [os.path.join(d, "config.json") for d, _, files in os.walk(f"{self.dir}/podman") if "config.json" in files]
            for path in found:
                with open(path, encoding="utf-8") as f:
                    spec = json.load(f)
                if spec["process"]["args"] == ["/true"]:
                    break
            self.peer_once(self.podman("rm", "-f", "spec"))
            spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "bind"] + [
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev"]}]
            spec.pop("hooks", None)
            spec.pop("annotations", None)
            return spec
        os.makedirs(f"{self.dir}/template")
        run(["crun", "spec"], cwd=f"{self.dir}/template")
        with open(f"{self.dir}/template/config.json", encoding="utf-8") as f:
            return json.load(f)

    def start_oci(self):
        spec = self.oci_spec()
        for name, argv in COMMANDS.items():
            self.bundle(f"bundle-{name}", argv, spec)
        self.bundle("bundle-hold", ["/true", "hold"], spec)

    def start_crun(self):
        self.peer(self.oci("crun", "run", "--bundle", f"{self.dir}/bundle-static", "first"))
        self.peer_once(self.oci("crun", "run", "--detach", "--bundle", f"{self.dir}/bundle-hold", "living"))
        self.has_crun = True

    def start_runc(self):
        self.peer(self.oci("runc", "run", "--bundle", f"{self.dir}/bundle-static", "second"))
        self.has_runc = True

    has_crun = has_runc = False

    def peer_once(self, argv):
        """For what must not be done twice, as a batch does for warming up. Output is a file: what stays keeps it open."""
        with open(f"{self.dir}/once.log", "w+", encoding="utf-8") as log:
            r = subprocess.run(["nsenter", "--mount", "--target", str(self.workers["peers"].process.pid), *argv], timeout=30,
                               stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
            log.seek(0)
            if r.returncode:
                raise WorkerError(f"{' '.join(argv[:1])}: status {r.returncode}: {log.read()[-400:]}")

    def oci(self, program, *args):
        return [program, "--root", f"{self.dir}/{program}-state", *args]

    # -- the end -----------------------------------------------------------------------------------------------------------
    def end_containers(self):
        """Those that live on, also when one was made and what came after failed."""
        for argv in (self.podman("rm", "-f", "-t", "0", "-a"), self.oci("crun", "delete", "--force", "living")):
            try:
                self.peer_once(argv)
            except (WorkerError, OSError, subprocess.TimeoutExpired):
                pass  # never made
        for pid in self.strays():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def strays(self):
        """Processes that other runtimes left: monitors that name our folder, and what they watch over."""
        found, parents = [], {}
        for pid in (int(n) for n in os.listdir("/proc") if n.isdigit() and int(n) != os.getpid()):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read()
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                    parents[pid] = int(f.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if b"conmon" in line.split(b"\0")[0] and self.dir.encode() in line:
                found.append(pid)
        return found + [pid for pid, parent in parents.items() if parent in found]

    def close(self):
        if "peers" in self.workers and self.workers["peers"].process.poll() is None:
            self.try_part("ending containers", self.end_containers)
        for w in self.workers.values():
            w.close()
        for s in reversed(self.servers):
            s.stop()
        self.log.close()
        reap()
        remove_cgroups()
        shutil.rmtree(self.dir, ignore_errors=True)


COMMANDS = {"static": ["/true"], "dynamic": ["/bin/true"], "bash": ["/bin/bash", "-c", "true"]}


def become_reaper():
    """What a runtime leaves running becomes a child of this process, not of one that may never look at it."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def reap():
    """Everything is killed by now; the kernel needs a moment."""
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
    except ChildProcessError:
        pass


def remove_cgroups():
    """Empty parents that podman and its runtime leave."""
    for top in ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{n}" for n in os.listdir("/sys/fs/cgroup"))):
        parent = f"{top}/libpod_parent"
        if os.path.isdir(parent):
            for folder in [e.path for e in os.scandir(parent) if e.is_dir()] + [parent]:
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
