"""Containers beside a sandbox: in its network, up before it is, started again when they end, gone with it, kept by a restart."""
import contextlib
import json
import os
import signal

import pytest

from orw import Census, cgroup_name, lines_of, nothing_new, settings, wait_until

IMAGE = "python:3.11-slim"
# Answers GET with its environment; /end ends it with status 7, after a word to its log.
SERVER = r'''
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            print("told to end", flush=True)
            os._exit(7)
        body = json.dumps({"env": dict(os.environ), "argv": sys.argv[1:], "uid": os.getuid(), "host": os.uname().nodename}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 7000), Handler).serve_forever()
'''
FETCH = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:7000%s', timeout=5).read().decode())\""


def sidecar(**changes):
    return {"name": "db", "image": IMAGE, "command": ["python3", "-c", SERVER], "args": ["x y", ""], "env": {"WHO": "db"}, "ports": [7000],
            **changes}


def create(platform, **body):
    """Through a plain request, as the SDK has no machine_size for sidecars: the sid, or the error's text."""
    body = {"image": IMAGE, "machine_size": "0.5:0.5", **body}
    status, _, answer = platform.request("POST", "/create_sandbox", json.dumps(body).encode(), timeout_s=120)
    if status != 200:
        return json.loads(answer)["detail"]
    text, kind = "", ""
    for line in answer.decode().splitlines():
        if line.startswith("event: "):
            kind = line[len("event: "):]
        elif line.startswith("data: ") and kind in ("chunk", "end", "error"):
            text += line[len("data: "):]
    return json.loads(text)["sid"] if kind == "end" else text


def run(platform, sid, cmd):
    status, _, answer = platform.request("POST", f"/v1/sandboxes/{sid}/runs", json.dumps({"cmd": cmd}).encode())
    assert status == 201, answer
    path = f"/v1/sandboxes/{sid}/runs/{json.loads(answer)['id']}"
    done = json.loads(platform.request("POST", f"{path}/wait")[2])
    return done["return_code"], platform.request("GET", f"{path}/output")[2].decode()


def status_of(platform, sid, n=0):
    return json.loads(platform.request("GET", f"/v1/sandboxes/{sid}")[2])["sidecars"][n]


@contextlib.contextmanager
def sandbox(platform, **body):
    sid = create(platform, **body)
    assert len(sid) == 36, sid
    try:
        yield sid
    finally:
        assert platform.request("DELETE", f"/v1/sandboxes/{sid}")[0] == 200


def test_through_the_sdk(client, platform):
    from openreward import SandboxSidecarContainer
    before = Census(platform.data)
    beside = [SandboxSidecarContainer(**sidecar()), SandboxSidecarContainer(name="idle", image=IMAGE, command=["sleep", "1000"])]
    with client.sandbox(settings(sidecars=beside, env={"MINE": "1"})) as s:
        found = json.loads(s.run(FETCH % "/").output)  # the first command: it was listening before that was taken
        assert found["argv"] == ["x y", ""] and found["uid"] == 0
        assert found["env"]["WHO"] == "db" and "MINE" not in found["env"]
        assert found["host"] == s.run("hostname").output.strip()
        # Its own processes, files and ids: the network is all that is shared.
        assert "http.server" not in s.run("cat /proc/*/cmdline | tr '\\0' ' '").output
        assert [c["state"] for c in json.loads(platform.request("GET", f"/v1/sandboxes/{s.sid}")[2])["sidecars"]] == ["running"] * 2
    # The delete was answered: no process of any of the three is left, whatever the machine says.
    left = {x for x in Census(platform.data).found - before.found if x.startswith("process") and "openreward-spawner" not in x}
    assert not left, left
    nothing_new(platform, before)


def test_images_command_is_run(platform):
    """Without command and args it is what the image says: python3, which ends at the end of its input."""
    with sandbox(platform, sidecars=[sidecar(command=None, args=None, ports=None), sidecar(name="args", command=None, args=["python3", "-c", SERVER])]) as sid:
        wait_until(lambda: (status_of(platform, sid)["last"] or {}).get("return_code") == 0, what="the image's command")
        assert run(platform, sid, FETCH % "/")[0] == 0


def test_restart_logs_and_status(platform):
    with sandbox(platform, sidecars=[sidecar()]) as sid:
        logs = f"/v1/sandboxes/{sid}/sidecars/db/output"
        assert platform.request("GET", logs)[2] == b"serving\n"
        assert platform.request("GET", f"{logs}?previous=1")[0] == 404
        assert platform.request("GET", f"/v1/sandboxes/{sid}/sidecars/other/output")[0] == 404
        run(platform, sid, FETCH % "/end")
        wait_until(lambda: status_of(platform, sid)["restarts"] == 1 and status_of(platform, sid)["state"] == "running", what="the restart")
        assert status_of(platform, sid)["last"]["return_code"] == 7
        wait_until(lambda: platform.request("GET", logs)[2] == b"serving\n", what="the new log")
        assert platform.request("GET", f"{logs}?previous=1")[2] == b"serving\ntold to end\n"
        done = platform.cli("sandbox", "logs", "--sidecar", "db", "--previous", sid)
        assert (done.returncode, done.stdout) == (0, "serving\ntold to end\n"), done.stderr
        assert platform.cli("sandbox", "logs", "--sidecar", "db", sid).stdout == "serving\n"
        assert '"restarts": 1' in platform.cli("sandbox", "inspect", sid).stdout
        # And again, after a longer pause: tests/unit/api/test_sandbox_parts.c has how long.
        run(platform, sid, FETCH % "/end")
        wait_until(lambda: status_of(platform, sid)["restarts"] >= 2, what="another restart")


def test_a_killed_container_comes_back(platform):
    """init of the sidecar dies: another container is made, and the sandbox does not notice."""
    with sandbox(platform, sidecars=[sidecar()]) as sid:
        assert run(platform, sid, "touch /tmp/mine")[0] == 0
        mark = json.loads(run(platform, sid, FETCH % "/")[1])
        assert mark["env"]["WHO"] == "db"
        os.kill(init_of_server(platform), signal.SIGKILL)
        wait_until(lambda: status_of(platform, sid)["restarts"] >= 1 and status_of(platform, sid)["state"] == "running", what="another container")
        wait_until(lambda: run(platform, sid, FETCH % "/")[0] == 0, what="the server")
        assert run(platform, sid, "ls /tmp/mine")[0] == 0


REACH = r'''
import socket, time
try:
    s = socket.create_connection(("192.0.2.1", 80), 5)
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    if not s.recv(10): raise OSError("closed")
except OSError:
    print("refused", flush=True)
time.sleep(1000)
'''


def init_of_server(platform):
    """The host's number of process 1 of the container in which this platform's only server is."""
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{p}/cmdline", "rb") as f:
                server = b"told to end" in f.read()
            if server and any(cgroup_name(platform.data) in line for line in lines_of(f"/proc/{p}/cgroup")):
                with open(f"/proc/{p}/status", encoding="utf-8") as f:
                    found.append(int([line for line in f if line.startswith("PPid:")][0].split()[1]))
    assert len(found) == 1, found
    return found[0]


def test_limits_are_its_own(platform):
    hog = "import time\nb = bytearray(400 << 20)\nprint('too much', flush=True)\ntime.sleep(1000)"
    with sandbox(platform, machine_size="0.5:0.5", sidecars=[sidecar(command=["python3", "-c", hog], machine_size="0.25:0.125", args=None, ports=None)]) as sid:
        wait_until(lambda: (status_of(platform, sid)["last"] or {}).get("outcome") == "oom", what="its end for lack of memory")
        assert run(platform, sid, "python3 -c 'bytearray(300 << 20)'")[0] == 0


def test_a_closed_network_is_closed_for_both(platform):
    with sandbox(platform, block_network=True, sidecars=[sidecar()]) as sid:
        assert run(platform, sid, FETCH % "/")[0] == 0
    with sandbox(platform, block_network=True, sidecars=[sidecar(command=["python3", "-c", REACH], args=None, ports=None)]) as sid:
        wait_until(lambda: b"refused" in platform.request("GET", f"/v1/sandboxes/{sid}/sidecars/db/output")[2], what="the refusal")


@pytest.mark.parametrize("change, words", [
    (dict(image="no such image"), ["sidecars[0]", "image"]), (dict(name="Main"), ["sidecars[0]", "name"]),
    (dict(ports=["x"]), ["sidecars[0]", "ports"]), (dict(machine_size="1000:1"), ["sidecars[0]", "machine_size"]),
    (dict(image="nowhere.invalid/x:1"), ["sidecar db", "nowhere.invalid/x:1"]),
])
def test_errors_name_it(platform, change, words):
    before = Census(platform.data)
    text = create(platform, sidecars=[sidecar(**change)])
    assert all(w in text for w in words), text
    nothing_new(platform, before)


def test_a_killed_daemon_loses_none(base_images):
    with base_images.platform() as p, sandbox(p, sidecars=[sidecar(), sidecar(name="second", ports=None, command=["sleep", "1000"], args=None)]) as sid:
        assert run(p, sid, FETCH % "/")[0] == 0
        server = init_of_server(p)
        p.process.kill()
        p.process.wait()
        p.start()
        assert run(p, sid, FETCH % "/")[0] == 0 and init_of_server(p) == server
        assert [status_of(p, sid, n)["state"] for n in (0, 1)] == ["running"] * 2
        assert p.request("GET", f"/v1/sandboxes/{sid}/sidecars/db/output")[2] == b"serving\n"
        # A container that dies while there is no daemon is made again by the next one.
        p.process.kill()
        p.process.wait()
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{server}"), what="its end")
        p.start()
        wait_until(lambda: status_of(p, sid)["state"] == "running", what="its return")
        wait_until(lambda: run(p, sid, FETCH % "/")[0] == 0, what="the server")
