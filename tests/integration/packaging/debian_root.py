"""A Debian of its own for one test: the base image's files under an overlay, with namespaces of its own for processes and mounts,
the host's network, cgroups and kernel, and services.py in place of systemd."""
import glob
import json
import os
import shutil
import subprocess
import time

from installed import OPENREWARD, run

SERVICES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "services.py")
# /var/lib is a plain folder: sandboxes are made of overlays, and those cannot lie on another one. Not chroot: the kernel refuses
# user namespaces in one. The host's /run/openreward is seen, so that no two platforms use the same ids.
BOOT = """
set -e
cd "$1"
mkdir -p root upper work
mount -t overlay -o "lowerdir=$2,upperdir=upper,workdir=work" overlay root
cp -a root/var/lib lib
mount --bind lib root/var/lib
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount --rbind /sys/fs/cgroup root/sys/fs/cgroup
mount --rbind /dev root/dev
mount -t tmpfs -o mode=0755 tmpfs root/run
mkdir -p /run/openreward root/run/openreward root/run/systemd/system root/old
mount --bind /run/openreward root/run/openreward
cd root
pivot_root . old
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	sh -c 'umount -l /old; rmdir /old; exec python3 /usr/local/sbin/services.py'
"""


def layers(images: str) -> list[str]:
    """The folders of python:3.11-slim, the uppermost first."""
    for path in glob.glob(os.path.join(images, "records", "*.json")):
        with open(path, encoding="utf-8") as f:
            record = json.load(f)
        if record["name"].endswith("/python:3.11-slim"):
            return [os.path.join(images, layer) for layer in reversed(record["layers"])]
    raise AssertionError(f"{images} has no python:3.11-slim")


def base_images(folder: str) -> str:
    """DATA/images with the base image: the one that the run of all tests shares, or one made for this."""
    if shared := os.environ.get("OPENREWARD_TEST_IMAGES"):
        return shared
    os.makedirs(folder, mode=0o755)
    run("unshare", "--pid", "--mount", "--fork", "--kill-child", OPENREWARD, "job", "bootstrap", "--data", folder, "python:3.11-slim",
        timeout_s=300)
    return os.path.join(folder, "images")


class DebianRoot:
    def __init__(self, folder: str, images: str) -> None:
        self.folder, self.images = folder, images
        self.root = os.path.join(folder, "root")
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.prepare()
        argv = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "slave",
                "sh", "-c", BOOT, "boot", self.folder, ":".join(layers(self.images))]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, "the root does not start"
            time.sleep(0.1)

    def prepare(self) -> None:
        """What an administrator sets up on a new machine: the way to packages. And the stand-in."""
        upper = os.path.join(self.folder, "upper")
        for path in ("/etc/resolv.conf", "/etc/hosts", *glob.glob("/etc/apt/sources.list*"), *glob.glob("/etc/apt/apt.conf.d/*prox*"),
                     *glob.glob("/etc/apt/apt.conf.d/99*"), "/etc/ssl/certs", "/usr/local/share/ca-certificates"):
            if os.path.exists(path):
                os.makedirs(os.path.dirname(upper + path), exist_ok=True)
                run("cp", "-aL" if os.path.isfile(path) else "-a", path, upper + path)
        for name in ("usr/local/sbin/services.py", "usr/bin/systemctl"):  # the second where apt looks, too
            os.makedirs(os.path.dirname(f"{upper}/{name}"), exist_ok=True)
            shutil.copy(SERVICES, f"{upper}/{name}")
            os.chmod(f"{upper}/{name}", 0o755)

    def pid(self) -> int:
        """Process 1 of the root, as the host sees it; 0 before it is there."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path, encoding="utf-8") as f:
            found = f.read().split()
        return int(found[0]) if found else 0

    def answers(self) -> bool:
        return bool(self.pid()) and self.call("systemctl", "daemon-reload").returncode == 0

    def call(self, *argv: str, timeout_s: float = 600, stdin: str = "") -> subprocess.CompletedProcess:
        inside = ["nsenter", f"--target={self.pid()}", "--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/", "env", "-i", "HOME=/root",
                  "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        return subprocess.run([*inside, *argv], text=True, input=stdin, capture_output=True, timeout=timeout_s, check=False)

    def run(self, *argv: str, **kw) -> str:
        done = self.call(*argv, **kw)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{self.logs()}"
        return done.stdout

    def path(self, inside: str) -> str:
        """Of a file of the root, for the host to read and write."""
        return f"/proc/{self.pid()}/root{inside}"

    def logs(self) -> str:
        return self.call("sh", "-c", "tail -n 20 /var/log/services/* 2>/dev/null").stdout

    def stop(self) -> None:
        """With process 1 everything inside ends, and its mounts with it."""
        if self.process and self.process.poll() is None:
            if pid := self.pid():
                os.kill(pid, 9)
            self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)
