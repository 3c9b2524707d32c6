"""From a source to ready, and what may come in between: settings, cancels, failures."""
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid

import pytest

from orw import OPENREWARD, Census, nothing_new, wait_until
from tinyenv import TinySession, deploy_tiny, tiny_folder


def call(platform, method, path, body=None):
    status, _, data = platform.request(method, path, None if body is None else json.dumps(body).encode())
    return status, json.loads(data)


def deployments(platform, name):
    status, found = call(platform, "GET", f"/v1/environments/{name}/deployments")
    return found if status == 200 else []


def whole(platform, deployment):
    status, found = call(platform, "GET", f"/v1/deployments/{deployment['id']}")
    assert status == 200
    return found


def moves(platform, deployment):
    return [t["to"] for t in whole(platform, deployment)["transitions"]]


@pytest.fixture
def slow(platform, request):
    """deploy(EXTRA Dockerfile lines) in a thread; the name of the environment. Its outcome is in .done after .join()."""
    name = "local/" + request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:60]
    threads = []

    class Deploy(threading.Thread):
        done = None

        def __init__(self, lines="", **variables):
            super().__init__()
            self.lines, self.variables = lines, variables

        def run(self):
            with tempfile.TemporaryDirectory() as folder:
                tiny_folder(folder, **self.variables)
                path = os.path.join(folder, "Dockerfile")
                with open(path, encoding="utf-8") as f:
                    text = f.read()
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text.replace("CMD", self.lines + "\nCMD"))
                self.done = platform.cli("deploy", folder, "--name", name)

    def start(lines="", **variables):
        thread = Deploy(lines, **variables)
        thread.start()
        threads.append(thread)
        return thread

    start.name = name
    yield start
    for d in deployments(platform, name):
        if d["status"] in ("queued", "building", "deploying"):
            call(platform, "POST", f"/v1/deployments/{d['id']}/cancel")
    for thread in threads:
        thread.join(180)


def log_of(platform, deployment):
    return call(platform, "GET", f"/v1/github/deployments/{deployment['id']}/logs")[1]["logs"]


def test_the_way_of_one_is_told(platform):
    name = deploy_tiny(platform, "way")
    newest = deployments(platform, name)[0]
    assert moves(platform, newest) == ["queued", "building", "deploying", "ready"]
    steps = whole(platform, newest)["transitions"]
    assert "transitions" not in newest
    assert [t["from"] for t in steps] == [None, "queued", "building", "deploying"]
    assert steps == sorted(steps, key=lambda t: t["at"]) and all(t["reason"] for t in steps)
    done = platform.cli("deployment", "show", newest["id"])
    assert done.returncode == 0 and "building -> deploying: its image is made" in done.stdout, done.stdout + done.stderr
    deploy_tiny(platform, "way", revision="2")
    wait_until(lambda: moves(platform, newest)[-1] == "stopped", what="the end of the old one")
    assert whole(platform, newest)["transitions"][4]["reason"] == "another one is ready"


def test_cancelled_in_a_step(platform, slow):
    deploy_tiny(platform, slow.name, revision="old")
    before = Census(platform.data)
    thread = slow("RUN echo in-the-step && sleep 600")
    wait_until(lambda: "in-the-step" in log_of(platform, deployments(platform, slow.name)[0]), 180, "the step")
    newest = deployments(platform, slow.name)[0]
    done = platform.cli("deployment", "cancel", newest["id"])
    assert done.returncode == 0 and "status: stopped" in done.stdout, done.stdout + done.stderr
    thread.join(180)
    assert thread.done.returncode == 1 and "cancelled" in thread.done.stderr
    assert moves(platform, newest) == ["queued", "building", "stopped"]
    nothing_new(platform, before)
    assert TinySession(platform, slow.name).id, "what served before goes on"
    again = platform.cli("deployment", "cancel", newest["id"])
    assert again.returncode == 1 and "expected one that is queued" in again.stderr
    assert platform.cli("deployment", "cancel", "../x").returncode == 1


def test_cancelled_in_the_queue(platform, slow, tiny):
    blocker = deploy_blocker(platform)
    try:
        thread = slow()
        wait_until(lambda: deployments(platform, slow.name), what="the deployment")
        newest = deployments(platform, slow.name)[0]
        assert newest["status"] == "queued"
        status, found = call(platform, "POST", f"/v1/deployments/{newest['id']}/cancel")
        assert (status, found["status"], found["reason"]) == (200, "stopped", "cancelled")
        thread.join(180)
        assert moves(platform, newest) == ["queued", "stopped"]
    finally:
        end_blocker(platform, blocker)


def deploy_blocker(platform):
    """Something that is built for long, so that others wait. Its thread and name."""
    name = "local/blocker"

    def run():
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as f:
                f.write("FROM python:3.11-slim\nRUN echo in-the-step && sleep 600\n")
            platform.cli("deploy", folder, "--name", name)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: any("in-the-step" in log_of(platform, d) for d in deployments(platform, name)[:1]), 180, "the blocker")
    return thread, name


def end_blocker(platform, blocker):
    thread, name = blocker
    call(platform, "POST", f"/v1/deployments/{deployments(platform, name)[0]['id']}/cancel")
    thread.join(180)


def test_a_server_that_never_gets_healthy_leaves_the_old_one(platform, slow):
    deploy_tiny(platform, slow.name, revision="old")
    assert platform.cli("env", "set", slow.name, "health_timeout=2s").returncode == 0
    before = Census(platform.data)
    thread = slow(TINY_START_DELAY_S=600)
    thread.join(180)
    assert thread.done.returncode == 1
    newest = deployments(platform, slow.name)[0]
    assert newest["status"] == "failed" and "within 2 s" in newest["reason"], newest
    assert moves(platform, newest) == ["queued", "building", "deploying", "failed"]
    nothing_new(platform, before)
    assert TinySession(platform, slow.name).id


def test_cancelled_while_its_server_starts(platform, slow):
    deploy_tiny(platform, slow.name, revision="old")
    before = Census(platform.data)
    thread = slow(TINY_START_DELAY_S=600)
    wait_until(lambda: deployments(platform, slow.name)[0]["status"] == "deploying", 180, "deploying")
    newest = deployments(platform, slow.name)[0]
    assert platform.cli("deployment", "cancel", newest["id"]).returncode == 0
    thread.join(180)
    nothing_new(platform, before)
    assert TinySession(platform, slow.name).id


def test_a_newer_one_supersedes(platform, slow):
    first = slow("RUN echo in-the-step && sleep 600")
    wait_until(lambda: any("in-the-step" in log_of(platform, d) for d in deployments(platform, slow.name)[:1]), 180, "the step")
    old = deployments(platform, slow.name)[0]
    deploy_tiny(platform, slow.name, revision="new")
    first.join(180)
    assert moves(platform, old) == ["queued", "building", "superseded"]
    assert [d["status"] for d in deployments(platform, slow.name)] == ["ready", "superseded"]


def test_settings_by_hand(platform, tiny, tmp_path):
    (tmp_path / "value").write_text("from a file")
    done = platform.cli("env", "set", tiny, "max_scale=3", "env.A=b=c", f"env.B=@{tmp_path}/value", "env.C=@@home")
    assert done.returncode == 0, done.stderr
    settings = call(platform, "GET", f"/v1/environments/{tiny}/settings")[1]
    assert settings["settings"]["env"] == {"A": "b=c", "B": "from a file", "C": "@home"}
    assert (settings["settings"]["max_scale"], settings["set"]) == (3, ["max_scale", "env"])
    shown = platform.cli("env", "show", tiny).stdout
    assert "max_scale: 3\n" in shown and "size: instances.size of the server's configuration  (default)" in shown, shown
    done = platform.cli("env", "set", tiny, "max_scale=none")
    assert done.returncode == 1 and 'max_scale: "none": expected a whole number from 0 to' in done.stderr
    assert platform.cli("env", "set", tiny, "nonsense").returncode == 1
    assert platform.cli("env", "unset", tiny, "max_scale", "env").returncode == 0
    assert call(platform, "GET", f"/v1/environments/{tiny}/settings")[1]["set"] == []
    assert tiny in platform.cli("env", "ls").stdout


def revision_of(session):
    status, _, data = session.get("/tools")
    assert status == 200
    return data


def test_a_rollback_loses_no_session(platform):
    name = deploy_tiny(platform, "back", revision="one")
    first = deployments(platform, name)[0]
    old = TinySession(platform, name)
    deploy_tiny(platform, "back", revision="two")
    second = deployments(platform, name)[0]
    new = TinySession(platform, name)
    assert whole(platform, first)["status"] == "draining"
    done = platform.cli("rollback", name)
    assert done.returncode == 0 and first["id"] in done.stdout, done.stdout + done.stderr
    assert moves(platform, first)[-3:] == ["draining", "deploying", "ready"]
    assert whole(platform, second)["status"] == "draining"
    revision_of(old), revision_of(new)
    again = platform.cli("rollback", name, first["id"])
    assert again.returncode == 1 and "is ready" in again.stderr
    assert platform.cli("rollback", name, second["id"]).returncode == 0
    assert [d["status"] for d in deployments(platform, name)] == ["ready", "draining"]
    revision_of(old), revision_of(new)


def test_a_rollback_to_one_whose_image_was_removed_by_hand_builds_it(platform):
    name = deploy_tiny(platform, "back-by-hand", revision="one")
    first = deployments(platform, name)[0]
    deploy_tiny(platform, name, revision="two")
    wait_until(lambda: moves(platform, first)[-1] == "stopped", what="the end of the old one")
    wait_until(lambda: platform.cli("image", "rm", first["image"]).returncode == 0, what="its image is not in use")
    done = platform.cli("rollback", name, first["id"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert moves(platform, first)[-5:] == ["stopped", "queued", "building", "deploying", "ready"]
    assert whole(platform, first)["image"] == first["image"]
    assert TinySession(platform, name).id


def test_a_restart_in_the_middle_of_a_build(base_images):
    with base_images.platform() as platform:
        name = deploy_tiny(platform, "again", revision="one")
        with tempfile.TemporaryDirectory() as folder:
            tiny_folder(folder, revision="two")
            path = os.path.join(folder, "Dockerfile")
            with open(path, encoding="utf-8") as f:
                text = f.read()
            with open(path, "w", encoding="utf-8") as f:
                f.write(text.replace("CMD", "RUN echo in-the-step && sleep 5\nCMD"))
            thread = threading.Thread(target=platform.cli, args=("deploy", folder, "--name", name))
            thread.start()
            wait_until(lambda: "in-the-step" in log_of(platform, deployments(platform, name)[0]), 180, "the step")
        newest = deployments(platform, name)[0]
        platform.process.kill()
        platform.process.wait()
        thread.join(180)
        platform.start()
        wait_until(lambda: whole(platform, newest)["status"] == "ready", 90, "its second way")
        assert moves(platform, newest) == ["queued", "building", "queued", "building", "deploying", "ready"]
        assert "queued again: the server was restarted" in log_of(platform, newest)
        assert platform.leaks() == ""


def test_build_arguments_secrets_and_the_images_that_are_kept(platform, slow, tmp_path):
    secret = "opaque-e2e-secret-7391"
    (tmp_path / "token").write_text(secret)
    done = platform.cli("env", "set", slow.name, "build_secrets.TOKEN=x")
    assert done.returncode == 1, "not deployed yet"
    deploy_tiny(platform, slow.name, revision="1")
    done = platform.cli("env", "set", slow.name, f"build_secrets.TOKEN=@{tmp_path}/token", "build_args.GREETING=hello you",
                        "keep_images=2")
    assert done.returncode == 0, done.stderr
    shown = platform.cli("env", "show", slow.name).stdout
    assert "TOKEN" in shown and "hello you" in shown and secret not in shown
    thread = slow("ARG GREETING\nRUN --mount=type=secret,id=TOKEN echo $GREETING: $(cat /run/secrets/TOKEN) && sleep 2")
    newest = None

    def in_the_step():
        nonlocal newest
        newest = deployments(platform, slow.name)[0]
        return "hello you: ***" in log_of(platform, newest)

    wait_until(in_the_step, 180, "the step")
    assert secret not in processes(), "in no command line"
    thread.join(180)
    assert thread.done.returncode == 0, thread.done.stdout + thread.done.stderr
    for folder in ("builds", "images", "logs", "run"):
        assert not grep(secret, os.path.join(platform.data, folder))
    assert not any(grep(secret, os.path.join(platform.data, f)) for f in os.listdir(platform.data) if f.startswith("openreward.db"))
    deploy_tiny(platform, slow.name, revision="3")
    wait_until(lambda: deployments(platform, slow.name)[2]["image"] is None, 60, "the end of the oldest image")
    third, second, first = deployments(platform, slow.name)
    assert third["image"] and second["image"]
    done = platform.cli("rollback", slow.name, first["id"])
    assert done.returncode == 1 and "was removed: the newest 2" in done.stderr, done.stderr
    done = platform.cli("rollback", slow.name)
    assert done.returncode == 0 and second["id"] in done.stdout, done.stdout + done.stderr


def processes():
    """Every command line and every set of variables."""
    text = b""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{file}", "rb") as f:
                    text += f.read()
            except OSError:
                continue
    return text.decode(errors="replace")


def grep(text, path):
    found = subprocess.run(["grep", "-rlaF", "--", text, path], stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.split()


def test_a_build_that_writes_too_much(base_images):
    """Ended with a reason, its storage given back, and the next one builds."""
    config = "builds:\n  disk: 100MiB\n"
    with base_images.platform(config) as p:
        with tempfile.TemporaryDirectory() as folder:
            tiny_folder(folder)
            path = os.path.join(folder, "Dockerfile")
            with open(path, encoding="utf-8") as f:
                text = f.read()
            with open(path, "w", encoding="utf-8") as f:
                f.write(text.replace("CMD", "RUN head -c 160m /dev/zero > /many && sleep 600\nCMD"))
            done = p.cli("deploy", folder, "--name", "local/many")
            assert done.returncode == 1 and "more than the 100 MiB" in done.stderr, done.stderr
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            done = p.cli("deploy", folder, "--name", "local/many")
            assert done.returncode == 0, done.stderr
        found = subprocess.run(["find", os.path.join(p.data, "images"), "-ignore_readdir_race", "-name", "many", "-size", "+1M"],
                               stdout=subprocess.PIPE, check=True)
        assert found.stdout == b""


# -- logs of servers ---------------------------------------------------------------------------------------------------

def test_logs_of_several_revisions_are_one_and_can_be_followed(platform, slow):
    deploy_tiny(platform, slow.name, revision="1")
    session = TinySession(platform, slow.name)
    session.call("log", text="plain one")
    session.call("log", text=json.dumps({"level": "warning", "event": "two", "timestamp": "2026-01-01T00:00:00Z"}))
    first = deployments(platform, slow.name)[0]["id"]
    following = subprocess.Popen([OPENREWARD, "logs", "-f", "-t", slow.name], env={**os.environ, **platform.env}, text=True, stdout=subprocess.PIPE)
    seen = []
    reader = threading.Thread(target=lambda: [seen.append(line) for line in following.stdout])
    reader.start()
    try:
        wait_until(lambda: any("WARNING: two" in line for line in seen), 180, "what was written before")
        deploy_tiny(platform, slow.name, revision="2")
        second = deployments(platform, slow.name)[0]["id"]
        session.call("log", text="three, of the old one")
        wait_until(lambda: any("three, of the old one" in line for line in seen), 180, "the old revision's")  # it has its time by then
        TinySession(platform, slow.name).call("log", text="ERROR: four, of the new one")
        wait_until(lambda: any("four, of the new one" in line for line in seen), 180, "the new revision's")
    finally:
        following.kill()
        following.wait(60)
        reader.join(180)
        following.stdout.close()
    assert [(line.split()[1], line.rstrip().split(" ", 3)[3]) for line in seen if "three" in line or "four" in line] == [
        (first[:8], "three, of the old one"), (second[:8], "ERROR: ERROR: four, of the new one")]
    status, found = call(platform, "GET", f"/v1/environments/{slow.name}/logs?limit=1000")
    assert status == 200
    texts = [e["message"] for e in found["entries"]]
    assert [t for t in texts if t.startswith(("plain", "two", "three", "ERROR"))] == [
        "plain one", "two", "three, of the old one", "ERROR: four, of the new one"]
    by_text = {e["message"]: e for e in found["entries"]}
    assert by_text["two"]["severity"] == "WARNING" and by_text["two"]["timestamp"] == "2026-01-01T00:00:00Z"
    assert by_text["plain one"]["severity"] == "INFO" and by_text["plain one"]["timestamp"].startswith("20")
    assert by_text["plain one"]["deployment"] == first and len(by_text["plain one"]["instance"]) == 8
    assert by_text["plain one"]["instance"] != by_text["ERROR: four, of the new one"]["instance"]
    shown = platform.cli("logs", slow.name, "--severity", "warning", "--limit", "2").stdout.splitlines()
    assert shown == ["WARNING: two", "ERROR: ERROR: four, of the new one"]
    shown = platform.cli("logs", slow.name, "--deployment", first[:8], "--json").stdout.splitlines()
    assert json.loads(shown[-1])["message"] == "three, of the old one"
    for query in ("severity=loud", "since=yesterday", "limit=x"):
        status, found = call(platform, "GET", f"/v1/environments/{slow.name}/logs?{query}")
        assert status == 400 and query.split("=")[0] in found["message"], found
    assert call(platform, "GET", f"/v1/environments/{slow.name}/logs?deployment=00000000")[0] == 404


def test_orwd_logs(platform, slow):
    deploy_tiny(platform, slow.name)
    session = TinySession(platform, slow.name)
    for k in range(3):
        session.call("log", text=json.dumps({"level": "error", "event": f"line {k}", "exception": "Traceback"}))

    def orwd(*argv):
        program = os.path.join(os.path.dirname(sys.executable), "orwd")
        done = subprocess.run([program, *argv], env={**os.environ, **platform.env}, text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = orwd("logs", slow.name, "--limit", "2").splitlines()
    assert [line.split("] ", 2)[1:] for line in shown if "line" in line] == [["[ERROR", "line 1"], ["[ERROR", "line 2"]]
    assert "Traceback" in shown[-1]
    short = deployments(platform, slow.name)[0]["id"][:8]
    assert short in orwd("deployments", slow.name)
    entries = json.loads(orwd("logs", slow.name, "--deployment-id", short, "--output", "json"))
    assert entries[-1]["severity"] == "ERROR" and set(entries[-1]) == {"timestamp", "severity", "message"}
    assert "STEP 1/" in orwd("logs", slow.name, "--build", "--deployment-id", short)
    assert "STEP 1/" in platform.cli("logs", slow.name, "--build").stdout
    assert "STEP 1/" in platform.cli("logs", slow.name, "--build", "-f").stdout


# -- the end of a revision, and of an environment ------------------------------------------------------------------------

def test_sessions_of_a_replaced_revision_end_after_drain_timeout(platform, slow):
    deploy_tiny(platform, slow.name, revision="1")
    assert platform.cli("env", "set", slow.name, "drain_timeout=1s").returncode == 0
    session = TinySession(platform, slow.name)
    old = deployments(platform, slow.name)[0]
    deploy_tiny(platform, slow.name, revision="2")
    wait_until(lambda: moves(platform, old)[-1] == "stopped", 30, "the end of the old one")
    status, _, data = session.post("/tiny/call", {"name": "about", "input": {}})
    assert status == 410 and b"drain_timeout is over" in data, (status, data)
    assert TinySession(platform, slow.name).id


def test_variants_are_what_the_server_lists(platform, slow):
    assert call(platform, "GET", f"/v1/environments/{slow.name}/variants")[0] == 404
    deploy_tiny(platform, slow.name, TINY_ENVIRONMENTS="tiny,second")
    status, found = call(platform, "GET", f"/v1/environments/{slow.name}/variants")
    assert status == 200 and [v["name"] for v in found] == ["tiny", "second"], found
    assert len({v["id"] for v in found}) == 2
    assert call(platform, "GET", f"/v1/environments/{slow.name}/variants")[1] == found, "the same ids"


def test_a_deleted_environment_is_gone(platform, slow):
    deploy_tiny(platform, slow.name, revision="1")
    before = Census(platform.data)
    name = slow.name + "-gone"
    deploy_tiny(platform, name, revision="1")
    draining, visitor = TinySession(platform, name), TinySession(platform, name, create=False)
    deploy_tiny(platform, name, revision="2")
    session = TinySession(platform, name)
    ids = [d["id"] for d in deployments(platform, name)]
    _, record = call(platform, "GET", f"/v1/environments/{name}")
    os.makedirs(os.path.join(platform.data, "buckets", record["id"]), exist_ok=True)
    session.call("log", text="before the end")
    with subprocess.Popen([OPENREWARD, "logs", "-f", name], env={**os.environ, **platform.env}, text=True, stdout=subprocess.PIPE) as following:
        assert following.stdout.readline(), "it has begun"
        done = platform.cli("env", "rm", name)
        assert done.returncode == 0, done.stderr
        try:
            assert following.wait(60) == 0
        finally:
            following.kill()
    for one in (session, draining, visitor):
        status, _, data = one.post("/tiny/call", {"name": "about", "input": {}})
        assert status == 410 and b"the environment was deleted" in data, (status, data)
    assert call(platform, "GET", f"/v1/environments/{name}")[0] == 404
    assert all(call(platform, "GET", f"/v1/deployments/{i}")[0] == 404 for i in ids)
    nothing_new(platform, before)
    find = ["find", platform.data, "-ignore_readdir_race"]
    left = subprocess.run([*find, "-path", f"*{name.split('/')[1]}*"], stdout=subprocess.PIPE, text=True, check=True)
    assert left.stdout == "", "images, records, repository"
    for i in [record["id"], *ids]:
        left = subprocess.run([*find, "-name", f"*{i}*"], stdout=subprocess.PIPE, text=True, check=True)
        assert left.stdout == "", "files, builds, logs"
    assert platform.cli("env", "rm", name).returncode == 1, "it is not there"
    deploy_tiny(platform, name, revision="3")
    assert deployments(platform, name)[0]["id"] not in ids and len(deployments(platform, name)) == 1
    assert TinySession(platform, slow.name).id, "others live on"
    assert platform.cli("env", "rm", name).returncode == 0


@pytest.mark.parametrize("gone, by_admin, status", [("user", False, 401), ("key", False, 401), ("user", True, 404), ("role", False, 404)])
def test_an_upload_whose_caller_may_no_more(platform, gone, by_admin, status):
    def ok(*argv, **env):
        done = platform.cli(*argv, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    user, org, builds = "u" + uuid.uuid4().hex[:8], "o" + uuid.uuid4().hex[:8], os.path.join(platform.data, "builds")
    ok("user", "create", user)
    key = ok("key", "create", "--user", user)
    ok("org", "create", org)
    ok("org", "add", org, user, "member")
    before = set(os.listdir(builds))
    upload = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=60)
    upload.putrequest("POST", f"/v1/environments/{org if gone == 'role' else user}/x/deployments")
    upload.putheader("X-API-Key", platform.key if by_admin else key)
    upload.putheader("Content-Length", "1024")
    upload.endheaders(bytes(512))
    wait_until(lambda: set(os.listdir(builds)) - before, what="the beginning")
    if gone == "user":
        ok("user", "rm", user)
    elif gone == "key":
        ok("key", "revoke", json.loads(platform.request("GET", "/v1/keys/current", key=key)[2])["id"])
    else:
        ok("org", "remove", org, user)
    upload.send(bytes(512))
    answer = upload.getresponse()
    assert answer.status == status, answer.read()
    upload.close()
    for owner in (user, org):
        assert call(platform, "GET", f"/v1/environments/{owner}/x")[0] == 404
    wait_until(lambda: set(os.listdir(builds)) <= before, what="nothing of it left")


def test_deleting_in_the_middle_of_a_build(platform, slow):
    thread = slow("RUN echo in-the-step && sleep 600")
    wait_until(lambda: any("in-the-step" in log_of(platform, d) for d in deployments(platform, slow.name)[:1]), 180, "the step")
    assert platform.cli("env", "rm", slow.name).returncode == 0
    thread.join(120)
    assert thread.done.returncode == 1
    assert call(platform, "GET", f"/v1/environments/{slow.name}")[0] == 404
