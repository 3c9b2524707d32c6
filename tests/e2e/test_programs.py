"""The programs at the terminal: starting, ending, deploying, and what they say when something is wrong."""
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from orw import OPENREWARD, ROOT, Census, Platform, nothing_new, settings, wait_until


def serve(*argv):
    return subprocess.run([OPENREWARD, "serve", *argv], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                          check=False)


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


SERVER = "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200); " \
         "self.end_headers(); self.wfile.write(b'ok')\nh.HTTPServer(('0.0.0.0', 8080), H).serve_forever()\n"


# -- life -------------------------------------------------------------------------------------------------------------

def test_the_end_leaves_nothing(base_images):
    with base_images.platform() as p:
        with p.client() as client:
            sandbox = client.sandbox(settings())
            sandbox.start()
            sandbox.run("setsid sleep 55555 & setsid sleep 55555 &")
        kinds = {line.split()[0] for line in Census(p.data).found}
        assert kinds >= {"cgroup", "process"}, kinds
        assert p.stop() == 0
        nothing_new(p)
        assert os.listdir(os.path.join(p.data, "sandboxes")) == []
        sandbox.close()


def test_restart_keeps_what_was_deployed(base_images, tmp_path):
    write(tmp_path, {"Dockerfile": "FROM python:3.11-slim\nCOPY s.py /s.py\nCMD [\"python\", \"/s.py\"]\n", "s.py": SERVER})
    with base_images.platform() as p:
        done = p.cli("deploy", str(tmp_path), "--name", "local/kept")
        assert done.returncode == 0, done.stdout + done.stderr
        p.stop()
        p.start()
        status, _, answer = p.request("POST", "/create_session", b"{}", headers={"X-Deployment": "local/kept"}, timeout_s=120)
        assert status == 200 and b"event: end" in answer, answer


def test_second_daemon_on_the_same_data(platform):
    done = serve("--listen", "127.0.0.1:0", "--data", platform.data)
    assert done.returncode != 0 and platform.data in done.stderr and "in use" in done.stderr


NO_IDS = """mount -t tmpfs none /run/openreward
for i in 0 1 2 3 4 5 6; do eval "exec 2$i>/run/openreward/ids-$i.lock"; flock -n 2$i; done
exec "$@" """


def test_a_start_that_fails_leaves_nothing():
    """All blocks of user ids are taken, in a /run of its own: found after control groups and mounts were made."""
    os.makedirs("/run/openreward", exist_ok=True)
    p = Platform()
    try:
        argv = ["unshare", "--mount", "bash", "-c", NO_IDS, "bash", OPENREWARD, "serve", "--listen", "127.0.0.1:0", "--data", p.data]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "all 7 blocks of user ids are taken" in done.stderr, done.stdout + done.stderr
        nothing_new(p)
    finally:
        p.remove()


def test_port_already_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        p = Platform()
        try:
            done = serve("--listen", f"127.0.0.1:{port}", "--data", p.data)
            assert done.returncode != 0 and f"127.0.0.1:{port}" in done.stderr and "in use" in done.stderr
        finally:
            p.remove()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0"])
def test_an_address_for_others_needs_words(tmp_path, address):
    """In plain HTTP only this machine may listen in; nothing was started or made when it is refused."""
    done = serve("--listen", address, "--data", str(tmp_path / "data"))
    assert done.returncode == 1 and address in done.stderr and "insecure" in done.stderr
    assert not (tmp_path / "data").exists()


def test_an_address_for_others_with_words():
    p = Platform("insecure: true\n")
    p.listen = "0.0.0.0:0"
    try:
        p.start()
        p.url = p.url.replace("0.0.0.0", "127.0.0.1")
        assert p.request("GET", "/health")[0] == 200
    finally:
        p.stop()
        p.remove()


def test_who_is_a_proxy_is_said_by_the_operator():
    """The upload addresses that are handed out begin as the client's own did, in the words of a trusted proxy alone."""
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "openreward.test", "X-Forwarded-For": "203.0.113.9"}
    for config, begin in (("proxies: [127.0.0.1]\n", "https://openreward.test/"), ("proxies: [192.0.2.1]\n", None)):
        p = Platform(config)
        try:
            p.start()
            status, _, answer = p.request("POST", "/v1/environments", b'{"name": "files", "namespace": "local"}')
            assert status in (200, 201), answer
            body = json.dumps({"environmentId": json.loads(answer)["id"], "files": [{"fileName": "a", "contentType": "text/plain"}]})
            status, _, answer = p.request("POST", "/v1/files/upload-urls", body.encode(), headers=told)
            assert status == 200 and json.loads(answer)["urls"][0]["uploadUrl"].startswith(begin or p.url + "/"), answer
        finally:
            p.stop()
            p.remove()


def test_serve_without_root():
    """A copy, because the tree may lie where that user cannot go."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(OPENREWARD, folder)
        done = subprocess.run([program, "serve", "--listen", "127.0.0.1:0", "--data", os.path.join(folder, "d")], text=True,
                              capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False, user="nobody")
    assert done.returncode != 0 and "root" in done.stderr


def test_data_that_the_user_may_not_pass(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = serve("--listen", "127.0.0.1:0", "--data", str(closed / "data"))
    assert done.returncode != 0 and str(closed) in done.stderr


@pytest.mark.parametrize("text,words", [
    ("listn: 127.0.0.1:1\n", ["listn", "listen"]), ("sandboxes:\n  idle: soon\n", ["idle", "soon"]), ("a: [\n", ["yaml"]),
])
def test_wrong_configuration(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    done = serve("--config", str(path), "--data", "/var/tmp/never-made")
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr
    assert not os.path.exists("/var/tmp/never-made")


def test_programs_run_as_they_should(platform):
    """The daemon and egress as an ordinary user, the spawner as root."""
    seen = {}
    for p in os.listdir("/proc"):
        try:
            argv = open(f"/proc/{p}/cmdline", "rb").read().split(b"\0")
            if platform.data.encode() in b" ".join(argv) or b"egress" in argv[0]:
                status = open(f"/proc/{p}/status").read()
                seen.setdefault(os.path.basename(argv[0]).decode(), set()).add(int(status.split("Uid:")[1].split()[0]))
        except (OSError, IndexError):
            continue
    import pwd
    user = pwd.getpwnam("openreward").pw_uid
    assert seen["openreward-spawner"] == {0}
    assert user in seen["openreward"] and user in seen["openreward-egress"]
    assert os.stat(os.path.join(platform.data, "admin.key")).st_mode & 0o777 == 0o600


# -- the command line --------------------------------------------------------------------------------------------------

def test_client_env(platform):
    done = subprocess.run([OPENREWARD, "client-env", "--data", platform.data], text=True, capture_output=True, check=True, timeout=60)
    script = done.stdout + 'echo "$OPENREWARD_URL $OPENREWARD_API_URL $OPENREWARD_SESSION_URL $OPENREWARD_API_KEY"'
    echoed = subprocess.run(["sh", "-c", script], text=True, capture_output=True, check=True, timeout=60, env={}).stdout.split()
    assert echoed == [platform.url] * 3 + [platform.key]


def test_verbs_without_a_server():
    env = {"OPENREWARD_URL": "http://127.0.0.1:1", "OPENREWARD_API_KEY": "x", "PATH": os.environ["PATH"]}
    for argv in (["image", "ls"], ["logs", "local/x"], ["sandbox", "run", "x", "--", "true"]):
        done = subprocess.run([OPENREWARD, *argv], env=env, text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode != 0 and "127.0.0.1:1" in done.stderr and "serve" in done.stderr, argv


def test_version_and_help():
    assert subprocess.run([OPENREWARD, "version"], text=True, capture_output=True, check=True, timeout=60).stdout.startswith("openreward ")
    out = subprocess.run([OPENREWARD, "help"], text=True, capture_output=True, check=True, timeout=60).stdout
    for verb in ("serve", "client-env", "deploy", "sandbox", "image", "logs", "doctor", "version"):
        assert verb in out
    wrong = subprocess.run([OPENREWARD, "depoly"], text=True, capture_output=True, timeout=60, check=False)
    assert wrong.returncode == 2 and "depoly" in wrong.stderr


def test_sandbox_run(platform):
    done = platform.cli("sandbox", "run", "python:3.11-slim", "--", "sh", "-c", "echo out; exit 7")
    assert (done.stdout, done.returncode) == ("out\n", 7), done.stderr


def test_doctor(platform):
    done = subprocess.run([OPENREWARD, "doctor"], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    for word in ("kernel", "cgroup", "nf_tables", "overlay", "user namespaces"):
        assert word in done.stdout


def test_doctor_refuses_an_old_kernel():
    done = subprocess.run(["setarch", "--uname-2.6", OPENREWARD, "doctor"], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(r"^FAIL +kernel: 2\.6\.\S+: expected 5\.19 or newer$", done.stdout, re.M), done.stdout


HAVING = """ulimit -n 1024
mount -t tmpfs none /proc/sys
while read -r path value; do mkdir -p "/proc/sys/${path%/*}"; echo "$value" > "/proc/sys/$path"; done
exec "$@" """


def doctor_of(values):
    """What doctor says where /proc/sys has these values and no others; nobody else sees them."""
    lines = "".join(f"{key.replace('.', '/')} {value}\n" for key, value in values.items())
    return subprocess.run(["unshare", "--mount", "bash", "-c", HAVING, "bash", OPENREWARD, "doctor"], input=lines, text=True,
                          capture_output=True, timeout=60, check=False).stdout


def test_doctor_checks_what_the_package_sets():
    """It has a check for each key of packaging/sysctl.conf, which the value there passes."""
    with open(os.path.join(ROOT, "packaging", "sysctl.conf"), encoding="utf-8") as f:
        values = dict(re.findall(r"^(\S+) *= *(\d+)$", f.read(), re.M))
    least = doctor_of(dict.fromkeys(values, 1))
    assert set(re.findall(r"^FAIL .*`sysctl -w (\S+)=\d+`$", least, re.M)) == set(values) != set(), least
    packaged = doctor_of(values)
    for key, value in values.items():
        assert re.search(rf"^OK .*: {value}$", packaged, re.M) and key not in packaged, packaged


def test_images(platform):
    listed = platform.cli("image", "ls")
    assert "python:3.11-slim" in listed.stdout
    missing = platform.cli("image", "rm", "no/such:image")
    assert missing.returncode != 0 and "no/such:image" in missing.stderr


# -- deploying ---------------------------------------------------------------------------------------------------------

def deploy(platform, folder, name):
    return platform.cli("deploy", str(folder), "--name", name)


def test_deploy_without_dockerfile(platform, tmp_path):
    done = deploy(platform, write(tmp_path, {"server.py": ""}), "local/nothing")
    assert done.returncode == 1 and "Dockerfile" in done.stderr


def test_deploy_with_a_failing_step(platform, tmp_path):
    done = deploy(platform, write(tmp_path, {"Dockerfile": "FROM python:3.11-slim\nRUN echo before; echo the reason >&2; exit 42\n"}),
                  "local/failing")
    assert done.returncode == 1
    assert "the reason" in done.stdout + done.stderr and "42" in done.stderr and "RUN" in done.stderr


def test_deploy_of_a_server_that_ends(platform, tmp_path):
    done = deploy(platform, write(tmp_path, {"Dockerfile": "FROM python:3.11-slim\nCMD [\"python\", \"-c\", \"raise SystemExit('no luck')\"]\n"}),
                  "local/ending")
    assert done.returncode == 1 and "no luck" in done.stderr


def test_a_failed_deployment_leaves_the_old_one(platform, tmp_path):
    good = {"Dockerfile": "FROM python:3.11-slim\nCOPY s.py /s.py\nCMD [\"python\", \"/s.py\"]\n", "s.py": SERVER}
    assert deploy(platform, write(tmp_path, good), "local/stays").returncode == 0
    assert deploy(platform, write(tmp_path, {"Dockerfile": "FROM python:3.11-slim\nRUN false\n"}), "local/stays").returncode == 1
    status, _, answer = platform.request("POST", "/create_session", b"{}", headers={"X-Deployment": "local/stays"}, timeout_s=60)
    assert status == 200 and b"event: end" in answer


def test_dockerignore(platform, tmp_path):
    files = {"Dockerfile": "FROM python:3.11-slim\nCOPY . /app\nRUN cd /app && test -f keep/a && test ! -e secret && test ! -e x.log "
                           "&& test -f important.log\nCOPY s.py /s.py\nCMD [\"python\", \"/s.py\"]\n",
             ".dockerignore": "secret\n*.log\n!important.log\n# a comment\n", "secret": "s", "x.log": "l", "important.log": "l",
             "keep/a": "a", "s.py": SERVER}
    done = deploy(platform, write(tmp_path, files), "local/ignoring")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_names(platform, tmp_path):
    write(tmp_path, {"Dockerfile": "FROM python:3.11-slim\n"})
    for name in ("local/Not A Name", "a/b/c", "../x", "nobody/x"):
        done = deploy(platform, tmp_path, name)
        assert done.returncode != 0 and done.stderr, name
    done = platform.cli("deploy", str(tmp_path / "missing"))
    assert done.returncode != 0 and "missing" in done.stderr
    done = platform.cli("deploy", str(tmp_path), "--size", "big")
    assert done.returncode != 0 and "big" in done.stderr


def test_nothing_of_the_host_stays_in_an_image(platform, tmp_path):
    """Builds may use the host's package client settings, but the image must not hold them."""
    files = {"Dockerfile": "FROM python:3.11-slim\nRUN pip install --no-cache-dir six\nCOPY s.py /s.py\n"
                           "CMD [\"python\", \"/s.py\"]\n", "s.py": SERVER}
    done = deploy(platform, write(tmp_path, files), "local/clean")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(platform.request("GET", "/v1/images")[2])
    image = next(i for i in listed["images"] if "local/clean" in i["name"])
    shown = json.dumps(image)
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        assert name not in shown


def test_logs_of_an_environment(platform, hello):
    platform.request("POST", "/create_session", b"{}", headers={"X-Deployment": hello}, timeout_s=60)
    done = platform.cli("logs", hello)
    assert done.returncode == 0 and done.stdout.strip()


def test_instance_crash_ends_its_sessions(platform, tmp_path):
    program = SERVER.replace("    def do_GET(self):", "    def do_POST(self):\n        import os\n        os._exit(9)\n    def do_GET(self):")
    files = {"Dockerfile": "FROM python:3.11-slim\nCOPY s.py /s.py\nCMD [\"python\", \"/s.py\"]\n", "s.py": program}
    assert deploy(platform, write(tmp_path, files), "local/crashing").returncode == 0
    _, _, answer = platform.request("POST", "/create_session", b"{}", headers={"X-Deployment": "local/crashing"}, timeout_s=60)
    sid = answer.decode().split("event: task_id")[1].split("data:")[1].strip().splitlines()[0]
    status, _, answer = platform.request("POST", "/x/call", b"{}", headers={"X-Session-ID": sid})
    assert status in (410, 502)
    time.sleep(0.3)
    status, _, answer = platform.request("POST", "/x/call", b"{}", headers={"X-Session-ID": sid})
    assert status == 410 and b"code 9" in answer
    status, _, answer = platform.request("POST", "/create_session", b"{}", headers={"X-Deployment": "local/crashing"}, timeout_s=60)
    assert status == 200 and b"event: end" in answer  # a new session gets a new instance


def test_examples_are_complete():
    for path in ("examples/terminal/Dockerfile", "examples/terminal/server.py", "examples/agent.py", "examples/sandbox/sandbox.py"):
        assert os.path.exists(os.path.join(ROOT, path))
