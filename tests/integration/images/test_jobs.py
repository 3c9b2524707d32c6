"""Root jobs on real stores: bootstrap, build, import, remove, and what must not be possible with them."""
import contextlib
import http.server
import json
import os
import subprocess
import tarfile
import threading
import time

import pytest

from jobs import (BASE, PROGRAM, Data, Registry, cgroups, digest_of, docker_archive, kill_hard, link, mounts_under, processes_under, special,
                  wait_until)

IMAGE = "localhost/env/alice/hello:"
FROM = "FROM python:3.11-slim\n"


def clean(data):
    """Nothing runs, is mounted or limited any more that belongs to this DATA."""
    assert wait_until(lambda: not processes_under(data.path)), processes_under(data.path)
    assert not mounts_under(data.path)
    assert not cgroups(data.path)


def test_bootstrap_again_is_instant(data):
    start = time.monotonic()
    r = data.job("bootstrap", "python:3.11-slim")
    assert r.status == 0 and "here already" in r.last
    assert time.monotonic() - start < 60


def test_bootstrap_of_what_debian_does_not_have(data):
    r = data.job("bootstrap", "ubuntu:22.04")
    assert r.status == 1
    assert "docker.io/library/ubuntu:22.04" in r.last and "images.aliases" in r.last


def test_base_is_like_the_official_image(data):
    top = os.path.join(data.images, data.record(BASE)["layers"][0])
    for name in ("python", "python3", "pip", "pip3"):
        assert os.path.lexists(f"{top}/usr/local/bin/{name}"), name
    assert os.path.exists(f"{top}/etc/ssl/certs/ca-certificates.crt")
    assert not [f for f in os.listdir(f"{top}/usr/lib/python3.11") if f == "EXTERNALLY-MANAGED"]
    assert os.path.getsize(f"{top}/etc/resolv.conf") == 0, "the host's must not be in it"
    assert set(os.listdir(f"{top}/var/lib/apt/lists")) <= {"lock", "partial"}
    assert data.record(BASE)["env"][1] == "LANG=C.UTF-8"


def test_build_with_pip_and_cache(data):
    text = FROM + "RUN pip install six\nCOPY . /app\nWORKDIR /app\nUSER nobody\nENTRYPOINT [\"python\"]\nCMD [\"x.py\"]\n"
    r = data.build("pip1", text, {"x.py": "print(1)\n", "sub/y": "y"})
    assert r.status == 0, r
    rec = data.record(IMAGE + "pip1")
    assert (rec["entrypoint"], rec["cmd"], rec["workdir"], rec["user"]) == (["python"], ["x.py"], "/app", "nobody")
    assert rec["layers"][-1] == data.record(BASE)["layers"][0], "the base is shared, not copied"
    files = data.layer_files(IMAGE + "pip1")
    assert "/app/x.py" in files and "/app/sub/y" in files
    assert any(f.endswith("/six.py") for f in files)
    start = time.monotonic()
    r = data.build("pip2", text, {"x.py": "print(1)\n", "sub/y": "y"})
    assert r.status == 0 and "Using cache" in r.out, r
    assert time.monotonic() - start < 120
    clean(data)


def test_nothing_of_the_host_stays_in_the_image(data):
    text = FROM + "RUN env | sort; cat $PIP_CONFIG_FILE; ls $(dirname $PIP_CONFIG_FILE)/ca.crt\nRUN pip config list && touch /made\n"
    r = data.build("trace", text)
    assert r.status == 0, r
    assert "PIP_CERT=/dev/.openreward-host/ca.crt" in r.out
    files = data.layer_files(IMAGE + "trace")
    assert "/made" in files
    assert not [f for f in files if "openreward" in f or f.startswith("/dev/")]
    config = data.config(IMAGE + "trace")
    assert "openreward-host" not in config and "PIP_CERT" not in config and "PROXY" not in config


def test_settings_of_the_operator(data, tmp_path):
    (tmp_path / "given").write_text("given\n")
    data.conf(inherit_host=False, env=["FOO=bar", "LANG=no"], mounts=[f"{tmp_path}:/dev/mine"],
              aliases={"ubuntu:22.04": "python:3.11-slim"})
    try:
        text = ("ARG V=22.04\nFROM ubuntu:${V} AS one\nRUN cat /dev/mine/given; ! touch /dev/mine/x; "
                "echo FOO=$FOO LANG=$LANG; ls /dev/.openreward-host || echo none\nFROM ubuntu:22.04\n"
                "COPY --from=one /etc/debian_version /z\n")
        r = data.build("conf", text)
        assert r.status == 0, r
        assert "\ngiven\n" in r.out and "FOO=bar LANG=C.UTF-8" in r.out and "\nnone\n" in r.out
        assert "FOO" not in data.config(IMAGE + "conf")
    finally:
        data.conf()


def test_no_base_goes_while_a_build_runs(data, tmp_path):
    docker_archive(tmp_path / "a.tar", "whatever:1")
    assert data.job("import", str(tmp_path / "a.tar"), "unused:1").status == 0
    gate = tmp_path / "gate"
    gate.mkdir()
    data.conf(mounts=[f"{gate}:/dev/gate"])
    try:
        data.source("busy", {"Dockerfile": FROM + "RUN while ! test -e /dev/gate/open; do sleep 0.1; done\n"})
        with data.start("build", "busy", "alice/hello", stdin=subprocess.DEVNULL) as build:
            assert any("STEP 2/2" in line for line in iter(build.stdout.readline, "")), "the build failed"
            r = data.job("remove", "unused:1")
            assert r.status == 4 and "a build runs" in r.last, r
            assert data.record("docker.io/library/unused:1")["layer_bytes"][0] > 0
            (gate / "open").touch()
            build.stdout.read()
            assert build.wait(120) == 0
    finally:
        data.conf()
    assert data.job("remove", "unused:1").status == 0
    clean(data)


def test_failing_step_is_the_last_line(data):
    r = data.build("fail", FROM + "RUN echo before; echo \"a: b\" >&2; exit 7\n")
    assert r.status == 1
    assert r.last == 'STEP "RUN echo before; echo "a: b" >&2; exit 7" failed: exit status 7'
    assert "before" in r.lines and "a: b" in r.lines
    clean(data)


@pytest.mark.parametrize("text,words", [
    (None, ["no Dockerfile"]),
    ("FROM nosuch.invalid/x:1\n", ["nosuch.invalid/x:1", "could not be pulled", "image bootstrap", "images.aliases"]),
    ("FROM python:3.11-slim\nCOPY missing /x\n", ["COPY missing /x", "missing"]),
    ("FROM python:3.11-slim\nFORM x\n", ["FORM"]),
    ("RUN x\n", ["FROM"]),
])
def test_bad_dockerfiles(data, text, words):
    r = data.build("bad", text)
    assert r.status == 1
    for word in words:
        assert word in r.last, r
    assert len(r.last) < 1000


def test_subdirectory_and_file(data):
    files = {"a/b/My.Dockerfile": FROM + "COPY . /x\n", "a/b/in": "1", "a/b/out": "1", "a/b/.dockerignore": "out\n", "top": "1"}
    r = data.build("subdir", None, files, args=("My.Dockerfile", "a/b"))
    assert r.status == 0, r
    got = data.layer_files(IMAGE + "subdir")
    assert "/x/in" in got and "/x/out" not in got and "/x/top" not in got
    r = data.job("build", "subdir", "alice/hello", "Dockerfile", "a/c")
    assert r.status == 1 and "a/c" in r.last


# -- hostile sources ------------------------------------------------------------------------------------------------

def test_archive_cannot_leave_its_folder(data, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    os.chmod(victim, 0o777)
    depth = "../" * 30
    for members in ({f"{depth}{victim}/a": "x"}, {f"{victim}/b": "x"}, {"l": link("l", str(victim)), "l/c": "x"},
                    {"u": link("u", depth + str(victim)[1:]), "u/d": "x"}):
        data.build("hostile", FROM, members)
        assert not os.listdir(victim), members


def test_dockerfile_cannot_show_a_file_of_the_host(data, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("TOP SECRET\n")
    for members in ({"Dockerfile": link("Dockerfile", str(secret))},
                    {"Dockerfile": FROM, ".dockerignore": link(".dockerignore", str(secret))},
                    {"Dockerfile": FROM + "COPY l /x\n", "l": link("l", str(secret))}):
        r = data.build("secret", None, members)
        assert "TOP SECRET" not in r.out
        if r.status == 0:
            for layer in data.record(IMAGE + "secret")["layers"]:
                path = os.path.join(data.images, layer, "x")
                assert not os.path.isfile(path) or os.path.islink(path)


def test_devices_and_pipes_in_an_archive(data):
    r = data.build("special", None, {"Dockerfile": special("Dockerfile", tarfile.FIFOTYPE)})
    assert r.status == 1 and "regular file" in r.last, r
    disk = special("disk", tarfile.BLKTYPE)
    disk.devmajor, disk.devminor = 8, 0
    r = data.build("special", FROM + "COPY disk /disk\n", {"disk": disk})
    assert r.status == 1, r


def test_what_is_no_archive(data):
    data.source("noise", {})
    with open(os.path.join(data.path, "builds/noise/source.tar"), "wb") as f:
        f.write(os.urandom(4096))
    r = data.job("build", "noise", "alice/hello")
    assert r.status == 1 and "not a plain tar archive" in r.last, r
    os.unlink(os.path.join(data.path, "builds/noise/source.tar"))
    os.symlink("/etc/passwd", os.path.join(data.path, "builds/noise/source.tar"))
    r = data.job("build", "noise", "alice/hello")
    assert r.status == 1 and "source" in r.last, r


def test_run_step_does_not_see_the_host(data):
    r = data.build("see", FROM + "RUN ls /proc | grep -c '^[0-9]'; cat /etc/hosts; ls -d /sys/firmware/* 2>&1 | head -1; "
                   "mount -t tmpfs x /mnt && exit 9; mknod /dev/x b 254 0; head -c 1 /dev/x && exit 8; exit 0\n")
    assert r.status == 0, r
    with open("/proc/sys/kernel/hostname", encoding="utf-8") as f:
        assert f.read().strip() not in r.out


def test_fork_bomb_and_memory_are_held(data):
    data.conf(memory_bytes=64 << 20)
    try:
        r = data.build("mem", FROM + "RUN python3 -c 'x = bytearray(512 << 20)'\n")
        assert r.status == 1 and "exit status 137" in r.last, r
    finally:
        data.conf()
    clean(data)


# -- the net namespace ------------------------------------------------------------------------------------------------

HOST_NET = os.readlink("/proc/self/ns/net")


class Net:
    """A net namespace with a loopback, and how to run something in it."""

    def __init__(self, holder):
        self.name = os.readlink(f"/proc/{holder.pid}/ns/net")
        self.fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
        self.enter = ["nsenter", "-t", str(holder.pid), "-n"]


@pytest.fixture
def net():
    with subprocess.Popen(["unshare", "--net", "sleep", "300"]) as holder:
        try:
            assert wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != HOST_NET)
            n = Net(holder)
            subprocess.run([*n.enter, "ip", "link", "set", "lo", "up"], check=True)
            yield n
            os.close(n.fd)
        finally:
            holder.kill()


def test_run_steps_are_in_the_given_net_namespace(data, net):
    r = data.build("net", FROM + "RUN readlink /proc/self/ns/net; cat /etc/resolv.conf /etc/hosts; ls /sys/class/net; "
                   "grep -v lo: /proc/net/dev\n", netns=net.fd)
    assert r.status == 0, r
    assert net.name in r.lines and "lo" in r.lines
    assert "nameserver 198.18.0.53" in r.lines and "127.0.0.1\tlocalhost" in r.lines
    assert "eth0" not in r.out
    clean(data)


def test_no_step_chooses_the_net_namespace_of_the_host(data, net):
    """Of the versions of buildah some refuse the option, others take it."""
    for option in ("host", "none"):
        r = data.build("choose", FROM + f"RUN --network={option} echo in $(readlink /proc/self/ns/net)\n", netns=net.fd)
        assert f"in {HOST_NET}" not in r.lines, r
        assert r.status == 0 or "--mount flag" in r.last, r


@contextlib.contextmanager
def web_server(enter=(), port=0):
    """On 127.0.0.1. Yields its port and the process: what it says is what it was asked for."""
    program = ("import http.server as h, sys\nclass H(h.SimpleHTTPRequestHandler):\n def do_GET(self):\n  self.send_response(200)\n"
               "  self.end_headers()\n  self.wfile.write(b'the text at %s\\n' % self.path.encode())\n  print('asked', self.path, flush=True)\n"
               "s = h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H)\nprint(s.server_port, flush=True)\ns.serve_forever()")
    with subprocess.Popen([*enter, "python3", "-c", program, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as p:
        try:
            yield int(p.stdout.readline()), p
        finally:
            p.kill()


def test_what_add_names_is_fetched_in_the_given_net_namespace(data, net):
    with web_server() as (port, host):
        for name in ("127.0.0.1", "localhost"):
            text = FROM + f"ADD http://{name}:{port}/{name} /x\nRUN cat /x\n"
            r = data.build("add", text, env="alice/add", netns=net.fd)
            assert r.status == 1 and "the text at" not in r.out and "connection refused" in r.last, r
            with web_server(net.enter, port):
                r = data.build("add", text, env="alice/add", netns=net.fd)
                assert r.status == 0 and f"the text at /{name}" in r.lines, r
        host.kill()
        assert host.stdout.read() == "", "nobody asked the server of the host"
    r = data.build("add", FROM + "ADD http://nosuch.invalid/x /x\n", env="alice/add", netns=net.fd)
    assert r.status == 1 and "lookup nosuch.invalid on 198.18.0.53:53" in r.last, r
    clean(data)


def test_images_that_buildah_asks_for_itself_are_pulled_in_the_given_net_namespace(data, net):
    """A name that only the build's arguments complete, which the job could not bring before."""
    with web_server() as (port, host):
        told = {"args": {"WHERE": f"127.0.0.1:{port}"}, "secrets": {}}
        r = data.build("arg", "ARG WHERE\nFROM ${WHERE}/x/y:1\n", env="alice/add", netns=net.fd, told=told)
        assert r.status == 1 and "could not be pulled" in r.last and "connection refused" in r.last, r
        host.kill()
        assert host.stdout.read() == ""


@pytest.mark.parametrize("namespaces,network,why", [
    ([{"type": "pid"}], HOST_NET, None),
    ([{"type": "pid"}, {"type": "network"}], HOST_NET, None),
    ([{"type": "pid"}, {"type": "network"}], None, None),
    ([{"type": "network", "path": "/proc/1/ns/net"}], HOST_NET, "another network"),
    ([{"type": "network"}, {"type": "network", "path": "/proc/1/ns/net"}], None, "another network"),
    ([{"type": "pid"}], "net:[1]", "not in the build's network"),
    ([{"type": "network"}], "net:[1]", "not in the build's network"),
])
def test_a_step_begins_in_the_network_of_the_build_or_not_at_all(tmp_path, namespaces, network, why):
    (tmp_path / "config.json").write_text(json.dumps({"process": {}, "mounts": [], "linux": {"namespaces": namespaces}}))
    conf = {"runtime": "/bin/echo", "pids": 1, "env": [], "mounts": [], "files": {}, **({"network": network} if network else {})}
    (tmp_path / "conf").write_text(json.dumps(conf))
    r = subprocess.run([PROGRAM, "job", "runtime-wrapper", tmp_path / "conf", "create", "--bundle", tmp_path, "x"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    if why:
        assert r.returncode == 1 and why in r.stdout, r
    else:
        assert r.returncode == 0 and r.stdout.startswith("create --bundle"), r


# -- mounts of steps ---------------------------------------------------------------------------------------------------

MADE = FROM.replace("\n", " AS one\n") + "RUN mkdir /made && echo of one > /made/a && ln -s / /made/root\n" + FROM


def test_mounts_of_a_step_are_of_the_source_an_image_or_a_cache(data):
    text = MADE + ("RUN --mount=type=cache,target=/c echo cached > /c/x\nRUN --mount=type=cache,id=/c,target=/d cat /d/x\n"
                   "RUN --mount=type=bind,from=one,source=/made,target=/m cat /m/a\n"
                   "RUN --mount=type=bind,from=python:3.11-slim,target=/m ls /m/usr/local/bin\n"
                   "RUN --mount=type=bind,target=/s cat /s/sub/file\nRUN --mount=type=tmpfs,target=/t touch /t/x\n")
    r = data.build("mounts", text, {"sub/file": "of the source\n"}, env="alice/mounts")
    assert r.status == 0 and {"cached", "of one", "of the source", "python3"} <= set(r.lines), r


@pytest.mark.parametrize("option", [
    "type=cache,id=../../../../../../../../../../../..", "type=cache,id=..", "type=cache,id=../../store", "type=cache,id=../../../../../bases",
    "type=bind,from=one,source=/made/root", "type=bind,from=one,source=/made/root/etc"])
def test_a_step_has_nothing_of_the_host(data, option):
    """CVE-2024-9675 and CVE-2024-1753, which some versions have: there it is the wrapper that says no."""
    r = data.build("host", MADE + f"RUN --mount={option},target=/h,rw test \"$(ls -A /h)\" && echo has got it\n", env="alice/mounts")
    assert r.status == 1 and "has got it" not in r.lines, r


def test_images_come_from_registries_only(data):
    """A name that the job cannot complete is left to buildah, which knows stores and files of the host by name."""
    assert data.build("other", FROM + "RUN true\n", env="alice/other").status == 0
    store = f"overlay@{data.images}/env/alice/other/store+{data.path}/run:overlay.imagestore={data.images}/bases/store"
    name = f"containers-storage:[{store}]localhost/env/alice/other:other"
    r = data.build("transport", "ARG W=1\nFROM ${W:+" + name + "}\n", env="alice/mounts")
    assert r.status == 1 and "rejected by policy" in r.last, r


# -- cancel ------------------------------------------------------------------------------------------------------------

def stay_in(cgroup, seconds):
    """A process in that group, as one that was killed is until it has been reaped."""
    p = subprocess.Popen(["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec sleep "$1"', cgroup, str(seconds)])
    assert wait_until(lambda: os.path.basename(cgroup) in open(f"/proc/{p.pid}/cgroup", encoding="ascii").read())
    return p


def test_kill_leaves_nothing(data):
    data.source("kill", {"Dockerfile": FROM + "RUN echo begun; (trap '' TERM; sleep 300 & sleep 300)\n"})
    p = data.start("build", "kill", "alice/hello")
    try:
        for line in p.stdout:
            if line.strip() == "begun":
                break
    finally:
        kill_hard(p)
    assert wait_until(lambda: not processes_under(data.path)), processes_under(data.path)
    assert not mounts_under(data.path)
    dying = stay_in(cgroups(data.path)[0], 1)
    r = data.job("clean", "alice/hello")
    dying.wait(60)
    assert r.status == 0, r
    clean(data)
    env = os.path.join(data.images, "env/alice/hello")
    for left in ("tmp", "runc"):
        assert not os.path.exists(f"{env}/{left}") or not os.listdir(f"{env}/{left}"), left
    r = data.build("after", FROM + "RUN echo alive\n")
    assert r.status == 0, r


def test_two_environments_at_once(data):
    text = FROM + "RUN sleep 1; echo two\n"
    data.source("par1", {"Dockerfile": text})
    data.source("par2", {"Dockerfile": text})
    a, b = data.start("build", "par1", "alice/one"), data.start("build", "par2", "alice/two")
    out = a.communicate(timeout=120)[0], b.communicate(timeout=120)[0]
    assert (a.returncode, b.returncode) == (0, 0), out


# -- import, remove, prune ------------------------------------------------------------------------------------------------

def test_import_and_remove(data, tmp_path):
    docker_archive(tmp_path / "x.tar", "tiny:1")
    r = data.job("import", str(tmp_path / "x.tar"), "tiny:1")
    assert r.status == 0, r
    rec = data.record("docker.io/library/tiny:1")
    assert rec["env"] == ["A=b"] and rec["cmd"] == ["/x"] and len(rec["layers"]) == 1
    layer = os.path.join(data.images, rec["layers"][0])
    assert os.listdir(layer) == ["hello.txt"]
    r = data.build("ontiny", "FROM tiny:1\nCOPY y /y\n", {"y": "y"})
    assert r.status == 0, r
    r = data.job("remove", "tiny:1")
    assert r.status == 4 and "remove that one first" in r.last, r
    assert os.path.exists(layer)
    r = data.job("remove", IMAGE + "ontiny")
    assert r.status == 0, r
    r = data.job("remove", "tiny:1")
    assert r.status == 0, r
    assert not os.path.exists(layer)
    r = data.job("remove", "tiny:1")
    assert r.status == 5 and "is not here" in r.last


def layers_in(d):
    return {name for name in os.listdir(f"{d.images}/bases/store/overlay") if len(name) == 64}


def test_what_an_import_replaced_goes(tmp_path):
    d, made = Data(tmp_path / "data"), []
    for text in ("a", "b"):
        docker_archive(tmp_path / f"{text}.tar", "x:1", text=text)
        assert d.job("import", str(tmp_path / f"{text}.tar"), "x:1").status == 0
        made.append(d.record("docker.io/library/x:1"))
        if text == "a":
            assert d.build("onx", "FROM x:1\nCOPY y /y\n", {"y": "y"}).status == 0
    first, second = ({i["layers"][0].split("/")[3]} for i in made)
    assert layers_in(d) == first | second
    r = d.job("sweep")
    assert r.status == 0 and layers_in(d) == first | second, "a build lies on it"
    assert d.job("remove", IMAGE + "onx").status == 0
    r = d.job("sweep", made[0]["digest"])
    assert r.status == 0 and layers_in(d) == first | second, "a sandbox uses it"
    r = d.job("sweep")
    assert r.status == 0 and layers_in(d) == second, r
    assert d.job("remove", "x:1").status == 0
    assert not layers_in(d)
    clean(d)


def test_a_removal_that_was_killed_is_done_again(data, tmp_path):
    docker_archive(tmp_path / "x.tar", "half:1", text="half")
    assert data.job("import", str(tmp_path / "x.tar"), "half:1").status == 0
    layer = os.path.join(data.images, data.record("docker.io/library/half:1")["layers"][0])
    os.unlink(os.path.join(data.images, "records/docker.io+library+half=1.json"))
    r = data.job("remove", "half:1")
    assert r.status == 0, r
    assert not os.path.exists(layer)
    assert data.job("remove", "half:1").status == 5


def test_images_of_the_same_layers_do_not_hold_each_other(data, tmp_path):
    for name, env in (("same:1", "A=1"), ("same:2", "A=2")):
        docker_archive(tmp_path / "x.tar", name, env)
        r = data.job("import", str(tmp_path / "x.tar"), name)
        assert r.status == 0, r
    first, second = (data.record(f"docker.io/library/same:{n}") for n in (1, 2))
    assert first["layers"] == second["layers"] and first["digest"] != second["digest"]
    layer = os.path.join(data.images, first["layers"][0])
    r = data.job("remove", "same:1")
    assert r.status == 0, r
    assert os.listdir(layer) == ["hello.txt"]
    r = data.job("remove", "same:2")
    assert r.status == 0, r
    assert not os.path.exists(layer)


def test_a_build_that_adds_nothing_holds_its_base(data, tmp_path):
    docker_archive(tmp_path / "x.tar", "bare:1", "A=bare")
    r = data.job("import", str(tmp_path / "x.tar"), "bare:1")
    assert r.status == 0, r
    r = data.build("onbare", "FROM bare:1\n")
    assert r.status == 0, r
    layer = os.path.join(data.images, data.record(IMAGE + "onbare")["layers"][0])
    r = data.job("remove", "bare:1")
    assert r.status == 4 and "remove that one first" in r.last, r
    assert os.path.exists(layer)
    for name in (IMAGE + "onbare", "bare:1"):
        r = data.job("remove", name)
        assert r.status == 0, r
    assert not os.path.exists(layer)


def test_import_of_something_else(data, tmp_path):
    (tmp_path / "f").write_text("nothing")
    r = data.job("import", str(tmp_path / "f"), "f:1")
    assert r.status == 1 and "expected an archive" in r.last, r
    r = data.job("import", str(tmp_path / "missing"), "f:1")
    assert r.status == 1 and "No such file" in r.last, r


def test_prune_keeps_what_has_a_record(data):
    assert data.build("keep", FROM + "RUN echo keep > /kept\n", env="alice/kept").status == 0
    assert data.build("drop", FROM + "RUN echo drop > /dropped\n", env="alice/dropped").status == 0
    os.unlink(os.path.join(data.images, "records/localhost+env+alice+dropped=drop.json"))
    r = data.job("prune")
    assert r.status == 0, r
    assert not os.path.exists(os.path.join(data.images, "env/alice/dropped"))
    for layer in data.record("localhost/env/alice/kept:keep")["layers"] + data.record(BASE)["layers"]:
        assert os.path.isdir(os.path.join(data.images, layer)), layer


def test_pull_without_a_registry_says_why(data):
    r = data.job("pull", "nosuch.invalid/a/b:1")
    assert r.status == 1
    assert "nosuch.invalid/a/b:1" in r.last and "level=fatal" not in r.last and len(r.last) < 800


@pytest.fixture
def mirror():
    """The configuration of a machine whose docker.io is Registry."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:{server.server_port}"\ninsecure = true\n'
    server.shutdown()
    server.server_close()


def test_pull_through_the_mirror_that_the_host_has(data, mirror):
    Registry.offer("me/tool", "7")
    r = data.job_with_registries(mirror, "pull", "me/tool:7")
    assert r.status == 0, r
    rec = data.record("docker.io/me/tool:7")
    assert rec["cmd"] == ["/pulled"]
    assert os.listdir(os.path.join(data.images, rec["layers"][0])) == ["pulled.txt"]
    r = data.job_with_registries(mirror, "pull", "me/other:7")
    assert r.status == 1 and "me/other" in r.last, r
    r = data.build("onpulled", "FROM me/tool:7\nCOPY y /y\n", {"y": "y"})
    assert r.status == 0, r


def test_pull_by_digest(data, mirror):
    """Of one image, and of a list of images, of which this machine's is taken: all are the image of the tag."""
    _, several = Registry.offer("me/exact", "1", b"exact\n")
    assert data.job_with_registries(mirror, "pull", "me/exact:1").status == 0
    rec = data.record("docker.io/me/exact:1")
    one = digest_of(Registry.answers["/v2/me/exact/manifests/1"][1])
    for digest in (one, several):
        r = data.job_with_registries(mirror, "pull", f"me/exact@{digest}")
        assert r.status == 0, r
        again = data.record(f"docker.io/me/exact@{digest}")
        assert (again["digest"], again["layers"]) == (rec["digest"], rec["layers"])
    assert rec["digest"] != one and not os.listdir(f"{data.images}/tmp")


def test_a_registry_that_stalls_holds_up_its_own_image_only(data, mirror):
    Registry.offer("me/quick", "1", b"quick\n")
    layer, _ = Registry.offer("me/slow", "1", b"slow\n")
    asked = Registry.stalls[layer] = threading.Event()
    slow = data.start_with_registries(mirror, "pull", "me/slow:1")
    try:
        assert asked.wait(60)
        assert data.job_with_registries(mirror, "pull", "me/quick:1").status == 0
        assert data.build("beside", "FROM me/quick:1\nCOPY y /y\n", {"y": "y"}).status == 0
        for name in (IMAGE + "beside", "me/quick:1"):
            assert data.job("remove", name).status == 0
        assert slow.poll() is None and os.listdir(f"{data.images}/tmp")
    finally:
        kill_hard(slow)
        del Registry.stalls[layer]
    r = data.job_with_registries(mirror, "pull", "me/slow:1")
    assert r.status == 0, r
    assert not os.listdir(f"{data.images}/tmp"), "what was killed has left nothing"
    clean(data)


def test_bad_arguments(data):
    assert data.job("build", "x", "alice").status == 1
    assert data.job("build", "../x", "alice/hello").status == 1
    assert data.job("pull", "--help").status == 1
    assert data.job("nosuch").status == 2


def test_arguments_and_secrets(data):
    secret = "opaque-and-secret-0123456789"
    text = (FROM + "ARG GREETING=none\n"
            "RUN --mount=type=secret,id=TOKEN cat /run/secrets/TOKEN | rev > /reversed; echo leaks: $(cat /run/secrets/TOKEN)\n"
            "RUN echo $GREETING > /greeting; ls /run/secrets || true; env\n")
    told = {"args": {"GREETING": "hello 'you' \"there\""}, "secrets": {"TOKEN": secret, "OTHER": "x" * 60000}}
    r = data.build("told", text, env="alice/told", told=told)
    assert r.status == 0, r
    assert secret not in r.out and "leaks: ***" in r.out
    name = "localhost/env/alice/told:told"
    found = {path: open_layer(data, name, path) for path in ("/reversed", "/greeting")}
    assert found == {"/reversed": secret[::-1], "/greeting": "hello 'you' \"there\"\n"}, "the step had both"
    assert subprocess.run(["grep", "-rl", secret, data.path], check=False, stdout=subprocess.PIPE).stdout == b"", "nowhere on disk"
    assert secret not in data.config(name, "alice/told")


def open_layer(data, name, path):
    for layer in data.record(name)["layers"]:
        file = os.path.join(data.images, layer) + path
        if os.path.exists(file):
            with open(file, encoding="utf-8") as f:
                return f.read()
    return None


def test_disk_limits(data):
    env = "alice/disk"
    store = os.path.join(data.images, "env", env, "store/overlay")
    assert data.build("before", FROM + "RUN head -c 40m /dev/zero > /forty\n", env=env).status == 0
    layers = set(os.listdir(store))
    data.conf(disk_bytes=64 << 20)
    try:
        r = data.build("within", FROM + "RUN head -c 40m /dev/zero > /forty\nRUN head -c 10m /dev/zero > /ten\n", env=env)
        assert r.status == 0, r
        r = data.build("beyond", FROM + "RUN head -c 100m /dev/zero > /many; sleep 300\n", env=env, timeout=60)
        assert r.status == 3 and "more than the 64 MiB" in r.last and "builds.disk" in r.last, r
        free = os.statvfs(data.images).f_bavail * os.statvfs(data.images).f_frsize
        data.conf(min_free_bytes=2 * free)
        r = data.build("full", FROM + "RUN sleep 300\n", env=env, timeout=60)
        assert r.status == 3 and "builds.min_free" in r.last, r
    finally:
        data.conf()
    assert data.job("clean", env).status == 0
    big = [d for d in set(os.listdir(store)) - layers if os.path.exists(os.path.join(store, d, "diff/many"))]
    assert not big, "what it wrote is gone"
    assert data.build("after", FROM + "RUN true\n", env=env).status == 0


def test_removing_an_image_leaves_the_layers_of_others(data):
    env = "alice/keep-some"
    first = FROM + "RUN echo shared > /shared\n"
    assert data.build("one", first, env=env).status == 0
    assert data.build("two", first + "RUN echo two > /two\n", env=env).status == 0
    name = f"localhost/env/{env}:"
    r = data.job("remove", name + "one")
    assert r.status == 0, r
    assert open_layer(data, name + "two", "/shared") == "shared\n"
    assert open_layer(data, name + "two", "/two") == "two\n"
    r = data.job("remove", name + "two")
    assert r.status == 0, r
    images = os.path.join(data.images, "env", env, "store/overlay-images/images.json")
    with open(images, encoding="utf-8") as f:
        assert "shared" not in f.read()
    left = [d for d in os.listdir(os.path.join(data.images, "env", env, "store/overlay")) if len(d) == 64]
    assert not left, "no layer is left over"
