"""Users, organisations, members and keys: the command line, the calls behind it, and what the SDK gets with each kind of key."""
import json
import os
import subprocess
import sys
import uuid

import pytest

from orw import settings, wait_until
from tinyenv import TinySession


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


class Team:
    """An organisation with an owner, a member and a reader, a stranger beside it; a personal key for each."""

    def __init__(self, platform) -> None:
        self.platform = platform
        self.org = unique("acme")
        self.names = {who: unique(who) for who in ("owner", "member", "reader", "stranger")}
        self.keys = {}
        for who, name in self.names.items():
            self.ok("user", "create", name)
            self.keys[who] = self.ok("key", "create", "laptop", "--user", name).stdout.strip()
        self.ok("org", "create", self.org, key=self.keys["owner"])
        for who in ("member", "reader"):
            self.ok("org", "add", self.org, self.names[who], who, key=self.keys["owner"])
        self.keys["org"] = self.ok("key", "create", "--namespace", self.org, key=self.keys["owner"]).stdout.strip()

    def cli(self, *argv: str, key: str = ""):
        return self.platform.cli(*argv, env={"OPENREWARD_API_KEY": key or self.platform.key})

    def ok(self, *argv: str, key: str = ""):
        done = self.cli(*argv, key=key)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def ask(self, method: str, path: str, body=None, key: str = ""):
        """Status and answer."""
        data = None if body is None else json.dumps(body).encode()
        status, _, answer = self.platform.request(method, path, data, {"Content-Type": "application/json"}, key=key)
        return status, json.loads(answer)

    def environment(self, private: bool) -> str:
        name = unique("env")
        status, made = self.ask("POST", "/v1/environments", {"name": name, "namespace": self.org, "isPrivate": private},
                                self.keys["member"])
        assert status == 201, made
        return f"{self.org}/{name}"


@pytest.fixture(scope="module")
def team(platform):
    return Team(platform)


def lines(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# -- the command line ----------------------------------------------------------------------------------------------


def test_lists_as_tables_and_as_json(team):
    table = team.ok("key", "ls", "--namespace", team.org, key=team.keys["owner"]).stdout.splitlines()
    assert table[0].split()[:4] == ["ID", "NAME", "KIND", "NAMESPACE"]
    assert "organisation" in table[1] and team.org in table[1]
    rows = lines(team.ok("key", "ls", "--json", key=team.keys["member"]))
    assert [(r["name"], r["kind"], r["namespace"], r["role"]) for r in rows] == [
        ("laptop", "personal", team.names["member"], "owner")]
    assert not any("key" in r for r in rows), "a key is told once"
    assert {(m["user"], m["role"]) for m in lines(team.ok("org", "members", team.org, "--json", key=team.keys["reader"]))} == {
        (team.names[who], who) for who in ("owner", "member", "reader")}
    shown = lines(team.ok("user", "show", team.names["member"], "--json"))[0]
    assert shown["organisations"] == [{"name": team.org, "role": "member"}]
    assert team.org in {r["name"] for r in lines(team.ok("org", "ls", "--json"))}
    assert lines(team.ok("org", "ls", "--json", key=team.keys["stranger"])) == []


@pytest.mark.parametrize("argv", [
    ["key"], ["key", "make"], ["key", "ls", "extra"], ["key", "revoke"], ["key", "ls", "--what"], ["user", "create"],
    ["user", "ls", "--owner", "x"], ["org", "add", "one"], ["org", "add", "a", "b", "c", "d"],
])
def test_wrong_use_is_told(team, argv):
    done = team.cli(*argv)
    assert done.returncode == 2 and done.stderr and not done.stdout


@pytest.mark.parametrize("argv, told", [
    (["user", "create", "ünal"], "ASCII"),
    (["user", "create", "a/b"], "letters"),
    (["user", "create", "LOCAL"], "differs"),
    (["org", "create", "local"], "exists"),
    (["user", "show", "nobody-there"], "no user"),
    (["key", "revoke", "00000000"], "no key"),
    (["key", "create", "--role", "king"], "role"),
    (["key", "create", "--expires", "soon"], "expiresIn"),
    (["key", "create", "--expires", "0s"], "expiresIn"),
    (["key", "create", "--read-only", "--role", "owner"], "readOnly"),
    (["key", "create", "x" * 101], "name"),
    (["org", "members", "local-not"], "no organisation"),
])
def test_what_cannot_be_is_told(team, argv, told):
    done = team.cli(*argv)
    assert done.returncode == 1 and told in done.stderr, done.stderr


def test_the_last_owner_stays_and_a_disabled_user_is_out(team):
    boss, heir = unique("boss"), unique("heir")
    org = unique("firm")
    for name in (boss, heir):
        team.ok("user", "create", name)
    key = team.ok("key", "create", "--user", boss).stdout.strip()
    team.ok("org", "create", org, "--owner", boss)
    team.ok("org", "add", org, heir, key=key)
    for_org = team.ok("key", "create", "--user", boss, "--namespace", org, key=key).stdout.strip()
    for argv in (["org", "remove", org, boss], ["org", "add", org, boss, "reader"], ["user", "disable", boss]):
        done = team.cli(*argv)
        assert done.returncode == 1 and "last owner" in done.stderr
    team.ok("org", "add", org, heir, "owner", key=key)
    team.ok("org", "remove", org, boss, key=key)
    assert team.ask("GET", "/v1/keys/current", key=for_org)[0] == 401, "a key for an organisation ends with the membership"
    assert team.ask("GET", "/v1/keys/current", key=key)[0] == 200
    team.ok("user", "disable", boss)
    assert team.ask("GET", "/v1/keys/current", key=key)[0] == 401
    assert lines(team.ok("key", "ls", "--json", "--namespace", boss)) == []
    assert {r["state"] for r in lines(team.ok("key", "ls", "--json", "--all", "--namespace", boss))} == {"revoked"}


def test_whoami_and_the_default_namespace(team):
    """As orwd asks: an organisation first, a user where there is none; "user" alone for what new things are to belong to."""
    def orwd(key, *argv):
        program = os.path.join(os.path.dirname(sys.executable), "orwd")
        done = subprocess.run([program, *argv], env={**os.environ, **team.platform.env, "OPENREWARD_API_KEY": key}, text=True,
                              capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    for_org = team.ok("key", "create", "--user", team.names["member"], "--namespace", team.org, key=team.keys["member"]).stdout.strip()
    for key, name, kind in ((team.keys["member"], team.names["member"], "user"), (team.keys["org"], team.org, "org"),
                            (for_org, team.org, "org")):
        me = orwd(key, "whoami", "-o", "json")
        assert (me["name"], me["type"]) == (name, kind)
        made = orwd(key, "create", unique("mine"), "--description", "x", "-o", "json")
        assert made["owner"] == name
        status, answer = team.ask("GET", "/v1/namespace/current?type=org", key=key)
        assert status == (200 if kind == "org" else 404), answer
        assert team.cli("env", "show", made["name"], key=key).returncode == 0, "a name without a namespace"
    assert team.ask("GET", "/v1/namespace/current?type=team")[0] == 400


def test_a_removed_user_is_gone_and_told_of(team):
    name, org = unique("leaver"), unique("firm")
    team.ok("user", "create", name)
    key = team.ok("key", "create", "--user", name).stdout.strip()
    team.ok("org", "create", org, "--owner", name)
    status, made = team.ask("POST", "/v1/environments", {"name": "mine"}, key)
    assert status == 201, made
    assert team.ask("POST", "/v1/rollouts", {"events": [{"eventType": "rollout", "eventId": "r", "timestamp": 1, "runName": "x"}]}, key)[0] == 200
    done = team.cli("user", "rm", name, key=key)
    assert done.returncode == 1 and "admin" in done.stderr, "operators only"
    done = team.cli("user", "rm", name)
    assert done.returncode == 1 and "last owner" in done.stderr and org in done.stderr
    team.ok("org", "add", org, team.names["member"], "owner")
    done = team.cli("user", "rm", name)
    assert done.returncode == 1 and f"{name}/mine" in done.stderr
    team.ok("env", "rm", f"{name}/mine")
    for_org = team.ok("key", "create", "--user", name, "--namespace", org, key=key).stdout.strip()
    assert lines(team.ok("user", "rm", name, "--json"))[0]["name"] == name
    for old in (key, for_org):
        assert team.ask("GET", "/v1/keys/current", key=old)[0] == 401
    assert team.ask("GET", f"/v1/users/{name}")[0] == 404 and team.cli("user", "rm", name).returncode == 1
    assert {m["user"] for m in lines(team.ok("org", "members", org, "--json"))} == {team.names["member"]}
    assert not any(k["user"] == name for k in lines(team.ok("key", "ls", "--all", "--json")))
    removed = lines(team.ok("audit", "--json", "--action", f"DELETE /v1/users/{name}"))
    assert [(e["namespace"], e["status"]) for e in removed if e["status"] == 200] == [(name, 200)]
    assert any(e["actor"] == name for e in lines(team.ok("audit", "--json", "--actor", name))), "its name stays there"
    team.ok("user", "create", name)
    again = team.ok("key", "create", "--user", name).stdout.strip()
    assert team.ask("GET", "/v1/runs", key=again)[1]["total"] == 0, "another one of that name finds nothing of it"
    assert team.ask("GET", "/v1/keys/current", key=key)[0] == 401


# -- who may do what -----------------------------------------------------------------------------------------------


def test_strangers_see_nothing_of_what_is_private(team):
    private, public = team.environment(True), team.environment(False)
    stranger = team.keys["stranger"]
    status, hidden = team.ask("GET", f"/v1/environments/{private}", key=stranger)
    missing = team.ask("GET", f"/v1/environments/{team.org}/absent", key=stranger)[1]["detail"]
    assert status == 404
    assert hidden["detail"].replace(private, "X") == missing.replace(f"{team.org}/absent", "X")
    for method, path, body in [
        ("PUT", f"/v1/environments/{private}/details", {"new_description": "x"}),
        ("PATCH", f"/v1/environments/{private}/settings", {"max_scale": 2}),
        ("DELETE", f"/v1/environments/{private}", None),
        ("GET", f"/v1/orgs/{team.org}", None),
        ("GET", f"/v1/orgs/{team.org}/members", None),
        ("PUT", f"/v1/orgs/{team.org}/members/{team.names['stranger']}", {"role": "owner"}),
        ("GET", f"/v1/keys?namespace={team.org}", None),
        ("POST", "/v1/keys", {"namespace": team.org}),
        ("GET", f"/v1/users/{team.names['owner']}", None),
    ]:
        assert team.ask(method, path, body, stranger)[0] == 404, (method, path)
    for method, path, body in [
        ("PUT", f"/v1/environments/{public}/details", {"new_description": "x"}),
        ("PATCH", f"/v1/environments/{public}/settings", {"max_scale": 2}),
        ("DELETE", f"/v1/environments/{public}", None),
        ("POST", "/v1/users", {"name": unique("more")}),
        ("GET", "/v1/leaks", None),
    ]:
        assert team.ask(method, path, body, stranger)[0] == 403, (method, path)


def test_a_folder_for_a_hidden_namespace_tells_no_stranger_that_there_is_one(team):
    private = team.environment(True)
    told = set()
    for owner in (team.org, team.names["owner"], unique("absent")):
        for name in ("new", private.split("/")[1].upper()):
            status, answer = team.ask("POST", f"/v1/environments/{owner}/{name}/deployments", {}, team.keys["stranger"])
            told.add((status, answer["detail"].replace(owner, "OWNER")))
    assert len(told) == 1 and told.pop()[0] == 404
    assert team.ask("POST", f"/v1/environments/{private.upper()}/deployments", {}, team.keys["stranger"])[0] == 404


def test_members_by_role(team):
    private = team.environment(True)
    change = ("PUT", f"/v1/environments/{private}/details", {"new_description": "x"})
    invite = ("PUT", f"/v1/orgs/{team.org}/members/{team.names['stranger']}", {"role": "king"})
    for who, see, changes, invites in [("owner", 200, 200, 400), ("member", 200, 200, 403), ("reader", 200, 403, 403),
                                       ("org", 200, 200, 403)]:
        assert team.ask("GET", f"/v1/environments/{private}", key=team.keys[who])[0] == see, who
        assert team.ask(*change, team.keys[who])[0] == changes, who
        assert team.ask(*invite, team.keys[who])[0] == invites, who
    listed = team.ask("GET", f"/v1/environments?owner={team.org}", key=team.keys["reader"])[1]
    assert private.split("/")[1] in {e["name"] for e in listed["environments"]}


def test_environments_that_differ_by_case_collide(team):
    name = team.environment(False).split("/")[1]
    status, answer = team.ask("POST", "/v1/environments", {"name": name.upper(), "namespace": team.org}, team.keys["member"])
    assert status == 409 and name in answer["detail"]


@pytest.mark.parametrize("path, body, field", [
    ("/v1/keys", {"name": 5}, "name"), ("/v1/keys", {"name": "a\nb"}, "name"), ("/v1/keys", {"role": None, "user": []}, "user"),
    ("/v1/keys", {"expiresIn": 30}, "expiresIn"), ("/v1/keys", {"expiresIn": "1000000d"}, "expiresIn"),
    ("/v1/keys", {"readOnly": "yes"}, "readOnly"), ("/v1/keys", {"namespace": {}}, "namespace"),
    ("/v1/keys", {"user": "nobody-there"}, "user"), ("/v1/users", {}, "name"), ("/v1/users", {"name": None}, "name"),
    ("/v1/users", {"name": "x" * 101}, "namespace"), ("/v1/orgs", {"name": ""}, "namespace"), ("/v1/orgs", {"owner": 1}, "owner"),
])
def test_bad_fields_are_named(team, path, body, field):
    status, answer = team.ask("POST", path, body)
    assert status == 400 and answer["detail"].startswith(field), answer


# -- the SDK with every kind of key --------------------------------------------------------------------------------


def play(platform, key: str, name: str) -> None:
    """Lists, opens a session and makes a call."""
    with platform.client(key) as client:
        environment = client.environments.get(name)
        assert len(environment.list_tasks(split="train")) == 10
        with environment.session(split="train", index=4) as session:
            assert session.call_tool("echo", {"text": "hello"}).blocks[0].text == "hello"


def test_personal_and_organisation_keys(team, platform, tiny):
    play(platform, team.keys["member"], tiny)
    play(platform, team.keys["org"], tiny)
    with platform.client(team.keys["org"]) as client, client.sandbox(settings(environment="none")) as sandbox:
        assert sandbox.run("echo $((6*7))").output.strip() == "42"
    used = team.ask("GET", "/v1/keys/current", key=team.keys["org"])[1]
    assert used["last_used_at"] and used["namespace"] == team.org


def test_a_read_only_key_reads_and_changes_nothing(team, platform, tiny):
    key = team.ok("key", "create", "--read-only", key=team.keys["member"]).stdout.strip()
    of_member = TinySession(platform, tiny, key=team.keys["member"])
    with platform.client(key) as client:
        environment = client.environments.get(tiny)
        assert len(environment.list_tasks(split="train")) == 10
        assert environment.num_tasks("train") == 10
        with pytest.raises(Exception, match="read-only|403"):
            with environment.session(split="train", index=4) as session:
                session.call_tool("echo", {"text": "hello"})
        with pytest.raises(Exception, match="read-only|403"), client.sandbox(settings(environment="none")):
            pass
    own = TinySession(platform, tiny, create=False, key=key)
    assert own.get("/splits")[0] == 200
    assert own.post("/create", {"task_spec": {"id": 3}})[0] == 403
    assert own.post("/call", {"name": "echo", "input": {}})[0] == 403
    assert own.post("/ping", {})[0] == 200
    own.id, saved = of_member.id, own.id
    assert own.post("/delete_session", {})[0] == 404, "another key's session"
    own.id = saved
    assert own.post("/delete_session", {})[0] == 200
    for method, path, body in [
        ("POST", "/v1/environments", {"name": unique("no")}), ("POST", "/v1/keys", {}), ("POST", "/v1/rollouts", {"events": []}),
        ("POST", "/run", {"cmd": "true"}), ("POST", "/create_sandbox", {"image": "python:3.11-slim"}),
        ("DELETE", f"/v1/environments/{tiny}", None), ("POST", "/v1/orgs", {"name": unique("no")}),
    ]:
        assert team.ask(method, path, body, key)[0] == 403, (method, path)
    assert of_member.post("/delete_session", {})[0] == 200


def test_a_readers_key_leaves_sandboxes_alone(team, platform):
    reads = team.ok("key", "create", "--namespace", team.org, "--read-only", key=team.keys["owner"]).stdout.strip()
    with platform.client(team.keys["org"]) as client, client.sandbox(settings(environment="none")) as sandbox:
        listed = team.ask("GET", "/v1/sandboxes", key=reads)[1]["sandboxes"]
        assert len(listed) == 1
        sid = listed[0]["id"]
        for path in ("/delete_session", "/delete", "/run", "/write_file?path=/x&commit=1&size=0"):
            status, _, answer = platform.request("POST", path, b"{}", {"X-Session-ID": sid}, key=reads)
            assert status == 403, (path, answer)
        assert team.ask("DELETE", f"/v1/sandboxes/{sid}", key=reads)[0] == 403
        assert platform.request("POST", "/stat_file?path=/etc/passwd", b"", {"X-Session-ID": sid}, key=reads)[0] == 200
        assert sandbox.run("true").return_code == 0


def test_an_expired_key_is_refused(team, platform, tiny):
    key = team.ok("key", "create", "--expires", "1s", key=team.keys["member"]).stdout.strip()
    wait_until(lambda: team.ask("GET", "/v1/keys/current", key=key)[0] == 401, 60, "the key's end")
    with pytest.raises(Exception, match="not valid|401"):
        play(platform, key, tiny)
    expired = [r for r in lines(team.ok("key", "ls", "--all", "--json", key=team.keys["member"])) if r["state"] == "expired"]
    assert len(expired) == 1


def test_a_revoked_key_is_refused_at_once(team, platform, tiny):
    made = lines(team.ok("key", "create", "--json", "doomed", key=team.keys["member"]))[0]
    play(platform, made["key"], tiny)
    session = TinySession(platform, tiny, key=made["key"])
    assert session.post("/ping", {})[0] == 200
    team.ok("key", "revoke", made["id"][:8], key=team.keys["member"])
    assert session.post("/ping", {})[0] == 401
    with pytest.raises(Exception, match="not valid|401"):
        play(platform, made["key"], tiny)
    assert team.cli("key", "revoke", made["id"], key=team.keys["member"]).returncode == 0, "twice does no harm"
    assert team.cli("key", "revoke", made["id"], key=team.keys["stranger"]).returncode == 1


def test_a_short_key_makes_no_long_one(team):
    brief = team.ok("key", "create", "--expires", "1h", key=team.keys["member"]).stdout.strip()
    assert team.cli("key", "create", "--expires", "2h", key=brief).returncode == 1
    assert lines(team.ok("key", "create", "--json", key=brief))[0]["expires_at"]
