"""The audit log: every change leaves who, what, when and from where, and only those who may read it do."""
import base64
import json
import os
import subprocess
import tempfile
import uuid

import pytest

from openapi import calls
from orw import settings, wait_until

# Calls that may change something and leave no entry, and why.
NOT_AUDITED = {
    "what agents do in sessions is what they are for": [
        "POST /create_session", "POST /ping", "POST /delete", "POST /delete_session"],
    "likewise in sandboxes": [
        "POST /create_sandbox", "POST /run", "POST /set_network", "POST /stat_file", "POST /read_file", "POST /write_file",
        "DELETE /v1/sandboxes/{id}", "POST /v1/sandboxes/{id}/runs", "DELETE /v1/sandboxes/{id}/runs/{run}",
        "POST /v1/sandboxes/{id}/runs/{run}/stdin", "POST /v1/sandboxes/{id}/runs/{run}/signal",
        "POST /v1/sandboxes/{id}/runs/{run}/resize", "POST /v1/sandboxes/{id}/runs/{run}/wait"],
    "what they did is a record itself": ["POST /v1/rollouts"],
    "a fetch": ["POST /git/{owner}/{name}/git-upload-pack"],
    "the bytes of an upload whose address was asked for, which is audited": ["PUT /v1/files/{env}/{path}"],
    "one for each environment that it deploys: test_github.py": ["POST /v1/github/webhook"],
}


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def team(platform):
    """An organisation of an owner and a member: names and keys."""
    names = {who: unique(who) for who in ("owner", "member")}
    keys = {}
    for who, name in names.items():
        assert platform.cli("user", "create", name).returncode == 0
        keys[who] = platform.cli("key", "create", "--user", name).stdout.strip()
    org = unique("audited")
    as_owner = {"OPENREWARD_API_KEY": keys["owner"]}
    assert platform.cli("org", "create", org, env=as_owner).returncode == 0
    assert platform.cli("org", "add", org, names["member"], env=as_owner).returncode == 0
    return {"org": org, "names": names, "keys": keys}


def ask(platform, method, path, body=None, key="", headers=None):
    data = None if body is None else json.dumps(body).encode()
    status, _, answer = platform.request(method, path, data, {"Content-Type": "application/json", **(headers or {})}, key=key)
    return status, json.loads(answer)


def entries(platform, query="", key=""):
    """Once each has its status, which is written behind the answer."""
    found = []

    def complete():
        status, answer = ask(platform, "GET", f"/v1/audit?limit=1000{query}", key=key)
        assert status == 200, answer
        found[:] = answer["entries"]
        return all(e["status"] or e["actor"] == "server" for e in found)

    wait_until(complete, 60, "the last status")
    return found


def test_who_what_when_from_where(platform, team):
    name, org = unique("env"), team["org"]
    key = ask(platform, "GET", "/v1/keys/current", key=team["keys"]["member"])[1]["id"]
    assert ask(platform, "POST", "/v1/environments", {"name": name, "namespace": org}, team["keys"]["member"])[0] == 201
    assert ask(platform, "PATCH", f"/v1/environments/{org}/{name}/settings", {"max_scale": 2, "env": {"TOKEN": "s3cret"}},
               team["keys"]["member"])[0] == 200
    assert ask(platform, "DELETE", f"/v1/orgs/{org}/members/nobody-there", key=team["keys"]["owner"])[0] == 404
    wait_until(lambda: any("nobody-there" in e["action"] for e in entries(platform, f"&namespace={org}")), 60, "the refused one")
    found = entries(platform, f"&namespace={org}", team["keys"]["owner"])
    made = next(e for e in found if e["action"] == "POST /v1/environments")
    assert (made["actor"], made["key"], made["namespace"], made["status"]) == (team["names"]["member"], key, org, 201)
    assert made["target"].startswith(f"{name}: ") and made["from"].startswith("127.0.0.1:") and made["at"].endswith("Z")
    changed = next(e for e in found if e["action"] == f"PATCH /v1/environments/{org}/{name}/settings")
    assert "max_scale" in changed["target"] and changed["status"] == 200
    assert "s3cret" not in json.dumps(found)
    assert next(e for e in found if "nobody-there" in e["action"])["status"] == 404, "what was tried counts, too"
    added = next(e for e in found if e["action"] == f"PUT /v1/orgs/{org}/members/{team['names']['member']}")
    assert added["target"] == "member"
    ids = [e["id"] for e in found]
    assert ids == sorted(ids, reverse=True)


def test_keys_are_told_by_their_id_alone(platform, team):
    status, made = ask(platform, "POST", "/v1/keys", {"name": "x"}, team["keys"]["member"])
    assert status == 201
    assert ask(platform, "DELETE", f"/v1/keys/{made['id'][:8]}", key=team["keys"]["member"])[0] == 200
    found = entries(platform, f"&namespace={team['names']['member']}", team["keys"]["member"])
    assert [e["target"] for e in found[:2]] == [made["id"], made["id"]]
    assert made["key"] not in json.dumps(found)


def test_who_may_read_it(platform, team):
    org, keys = team["org"], team["keys"]
    assert ask(platform, "GET", f"/v1/audit?namespace={org}", key=keys["member"])[0] == 403
    assert ask(platform, "GET", "/v1/audit?namespace=local", key=keys["member"])[0] == 404
    assert ask(platform, "GET", "/v1/audit?namespace=not-there", key=keys["member"])[0] == 404
    assert ask(platform, "GET", "/v1/audit", key="orw_wrong")[0] == 401
    own = entries(platform, "", keys["member"])
    assert all(team["names"]["member"] in (e["actor"], e["namespace"]) for e in own)
    assert any(e["actor"] == "server" for e in entries(platform, "&actor=server")), "the first key of all"


def test_what_is_no_change_leaves_nothing(platform, team):
    before = len(entries(platform, f"&namespace={team['org']}"))
    key = platform.cli("key", "create", "--namespace", team["org"]).stdout.strip()
    with platform.client(key) as client, client.sandbox(settings(environment="none")) as sandbox:
        assert sandbox.run("true").return_code == 0
    ask(platform, "GET", "/v1/environments", key=key)
    ask(platform, "POST", "/v1/rollouts", {"events": []}, key)
    assert ask(platform, "PUT", f"/v1/orgs/{team['org']}/members/nobody-there", {"role": "reader"})[0] == 404
    wait_until(lambda: len(entries(platform, f"&namespace={team['org']}")) > before + 1, 60, "what came last")
    assert len(entries(platform, f"&namespace={team['org']}")) == before + 2, "the key's own making, and what came last"


def test_pages_filters_and_bad_input(platform, team):
    org = unique("paged")
    assert platform.cli("org", "create", org).returncode == 0
    user = team["names"]["member"]
    for role in ("reader", "member", "owner") * 4:
        assert ask(platform, "PUT", f"/v1/orgs/{org}/members/{user}", {"role": "owner"})[0] == 200
    seen, token = [], ""
    while token is not None:
        status, page = ask(platform, "GET", f"/v1/audit?namespace={org}&limit=5&pageToken={token}")
        assert status == 200 and len(page["entries"]) <= 5
        seen += [e["id"] for e in page["entries"]]
        token = page["nextPageToken"]
    assert len(seen) == 13 and seen == sorted(set(seen), reverse=True)
    other = ask(platform, "GET", "/v1/audit?limit=1")[1]["nextPageToken"]
    assert ask(platform, "GET", f"/v1/audit?namespace={org}&pageToken={other}")[0] == 400, "a token of another list"
    assert {e["action"] for e in entries(platform, f"&namespace={org}&action=PUT")} == {f"PUT /v1/orgs/{org}/members/{user}"}
    assert entries(platform, f"&namespace={org}&actor={user}") == []
    for query in ("limit=x", "since=soon", "pageToken=x", "action=" + "x" * 600):
        status, answer = ask(platform, "GET", f"/v1/audit?{query}")
        assert status == 400 and answer["detail"].startswith(query.split("=")[0]), answer
    listed = platform.cli("audit", "--namespace", org, "--json", "--limit", "3", "--since", "24h")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == seen[:3]
    table = platform.cli("audit", "--namespace", org, "--action", "POST").stdout.splitlines()
    assert table[0].split() == ["AT", "ACTOR", "FROM", "STATUS", "ACTION", "TARGET", "NAMESPACE"] and len(table) == 2
    for argv in (["audit", "extra"], ["audit", "--limit", "0"], ["audit", "--what"]):
        assert platform.cli(*argv).returncode == 2


def test_every_call_that_changes_something_leaves_an_entry(platform):
    """With a read-only key: each is refused, nothing changes, and the entry is there all the same."""
    status, made = ask(platform, "POST", "/v1/keys", {"readOnly": True, "name": unique("census")})
    assert status == 201
    excused = [name for names in NOT_AUDITED.values() for name in names]
    asked = {}
    for call in [c for c in calls() if c.method in ("POST", "PUT", "PATCH", "DELETE")]:
        mark = uuid.uuid4().hex
        path = call.target({p["name"]: mark for p in call.parameters_in("path")}, {"mark": mark})
        platform.request(call.method, path, b"{}" if call.has_body else None, {"Content-Type": "application/json"}, made["key"])
        asked[f"{call.method} {call.path}"] = f"{call.method} {path}"
    last = [action for name, action in asked.items() if name not in excused][-1]
    wait_until(lambda: any(e["action"] == last for e in entries(platform)), 60, "the last one")
    found = {e["action"]: e for e in entries(platform) if e["key"] == made["id"]}
    silent = sorted(name for name, action in asked.items() if action not in found)
    assert silent == sorted(excused), "what leaves no entry, and what is said to"
    for entry in found.values():
        assert entry["status"] >= 400 and entry["from"] and entry["actor"] == "local" and entry["at"], entry


def test_git_pushes_and_the_clis_verbs(platform):
    name = unique("pushed")
    assert ask(platform, "POST", "/v1/environments", {"name": name, "namespace": "local"})[0] == 201
    with tempfile.TemporaryDirectory() as folder:
        def git(*argv):
            return subprocess.run(["git", "-C", folder, *argv], capture_output=True, text=True, timeout=300, env={
                **os.environ, "GIT_TERMINAL_PROMPT": "0"}, check=False)

        git("init", "-q", "-b", "kept")
        git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "x")
        basic = base64.b64encode(f"x:{platform.key}".encode()).decode()
        done = git("-c", f"http.extraHeader=Authorization: Basic {basic}", "push", f"{platform.url}/git/local/{name}", "kept")
        assert done.returncode == 0, done.stderr
    assert platform.cli("env", "set", f"local/{name}", "max_scale=2").returncode == 0
    assert platform.cli("env", "rm", f"local/{name}").returncode == 0
    wait_until(lambda: any(e["action"].startswith(f"DELETE /v1/environments/local/{name}") for e in entries(platform)), 60, "the last one")
    of_it = [e for e in entries(platform) if name in e["action"] + (e["target"] or "")]
    assert [e["action"].split("?")[0] for e in of_it] == [
        f"DELETE /v1/environments/local/{name}", f"PATCH /v1/environments/local/{name}/settings",
        f"POST /git/local/{name}/git-receive-pack", "POST /v1/environments"]
    assert all(e["status"] in (200, 201) and e["from"] for e in of_it)


def test_it_outlives_a_kill(base_images):
    with base_images.platform(images=False) as p:
        assert p.cli("user", "create", "somebody").returncode == 0
        p.process.kill()
        p.process.wait()
        p.listen = p.url.split("//")[1]
        p.start()
        status, answer = ask(p, "GET", "/v1/audit")  # the answer's status may be lost with the daemon, the entry is not
        assert status == 200 and any(e["action"] == "POST /v1/users" and e["target"] == "somebody" for e in answer["entries"])
        assert p.cli("user", "create", "another").returncode == 0
        ids = [e["id"] for e in ask(p, "GET", "/v1/audit")[1]["entries"]]
        assert len(ids) == len(set(ids))
