"""`orwd create`, `get`, `list`, `update`, `link`, `update-link`, `deployments`, `logs`, `unlink` as they come, and webhooks,
against a small GitHub of the suite's own."""
import concurrent.futures
import json
import os
import subprocess
import sys
import uuid

import pytest
from github_server import GitHub
from orw import running, wait_until

FAILS = "FROM python:3.11-slim\nRUN echo built from here && exit 3\n"


@pytest.fixture(scope="module")
def github():
    g = GitHub()
    yield g
    g.close()


@pytest.fixture(scope="module")
def server(github):
    config = f"github: {{url: '{github.url}', api_url: '{github.url}', token: {github.token}, webhook_secret: '{github.secret}'}}\n"
    with running(config) as p:
        yield p


def orwd(server, *argv, check=True):
    program = os.path.join(os.path.dirname(sys.executable), "orwd")
    done = subprocess.run([program, *argv], env={**os.environ, **server.env}, text=True, capture_output=True, timeout=120,
                          stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout if check else done


def call(server, method, path, body=None):
    status, _, answer = server.request(method, path, None if body is None else json.dumps(body).encode())
    return status, json.loads(answer)


@pytest.fixture
def name(server):
    n = "e" + uuid.uuid4().hex[:8]
    assert call(server, "POST", "/v1/environments", {"name": n, "description": "one of mine"})[0] == 201
    return n


def deployments(server, name):
    return call(server, "GET", f"/v1/environments/local/{name}/deployments")[1]


def settled(server, name, n=1):
    wait_until(lambda: len(deployments(server, name)) == n and deployments(server, name)[0]["status"] == "failed", 120, "an end")
    return deployments(server, name)[0]


@pytest.fixture
def linked(server, github, name):
    number = github.add(f"acme/{name}")
    github.commit(number, Dockerfile=FAILS)
    settings = {"cpuMemory": "2-4", "minScale": 0, "maxScale": 3, "concurrency": 7}
    status, answer = call(server, "POST", f"/v1/github/environments/local/{name}/connect",
                          {"githubRepoId": number, "githubInstallationId": 1, "settings": settings})
    assert status == 200, answer
    return number


def test_create_get_list_update(server, name):
    out = orwd(server, "get", f"local/{name}")
    assert "Description: one of mine" in out and "GitHub:      not connected" in out
    assert name in orwd(server, "list", "--search", name)
    new = name + "-new"
    out = orwd(server, "update", f"local/{name}", "--name", new, "--description", "other", "--private", "--arxiv-url",
               "https://arxiv.org/abs/1", "--hf-url", "https://huggingface.co/x")
    assert f"Updated environment: local/{new}" in out
    env = json.loads(orwd(server, "get", f"local/{new}", "-o", "json"))
    assert (env["description"], env["is_private"], env["arxiv_url"]) == ("other", True, "https://arxiv.org/abs/1")
    assert "404" in orwd(server, "get", f"local/{name}", check=False).stderr
    assert json.loads(orwd(server, "update", f"local/{new}", "--arxiv-url", "", "-o", "json"))["arxiv_url"] is None
    assert "Harbor" in orwd(server, "update", f"local/{new}", "--harbor", check=False).stderr
    assert "expected an address" in orwd(server, "update", f"local/{new}", "--hf-url", "javascript:x", check=False).stderr
    assert "exists" in orwd(server, "create", new, "--description", "x", check=False).stderr
    assert f"Created environment: local/{new}2" in orwd(server, "create", new + "2", "--description", "x")


def test_link_deploys_a_private_repository(server, github, name):
    number = github.add(f"acme/{name}")
    github.commit(number, Dockerfile=FAILS)
    out = orwd(server, "link", f"local/{name}", f"Acme/{name}", "--cpu-memory", "2:4", "--concurrency", "7", "--max-scale", "3")
    assert f"Linked local/{name} to acme/{name}" in out
    d = settled(server, name)
    assert (d["gitBranch"], d["source"]) == ("main", "github") and len(d["commitSha"]) == 40
    table = orwd(server, "deployments", f"local/{name}")
    assert d["id"][:8] in table and "main" in table and d["commitSha"][:8] in table
    assert "built from here" in orwd(server, "logs", f"local/{name}", "--build")
    assert "No runtime logs" in orwd(server, "logs", f"local/{name}")
    assert "No task builds" in orwd(server, "task-builds", f"local/{name}")
    out = orwd(server, "get", f"local/{name}")
    assert "GitHub:      connected" in out and f"Repo:        {github.url}/acme/{name}" in out
    assert "Compute:     2.0 CPU, 4.0 GB" in out and "Concurrency: 7" in out and "Max Scale:   3" in out


@pytest.mark.parametrize("lost", ["environment", "key"])
def test_who_lost_it_while_github_thinks_links_nothing(server, github, name, lost):
    number = github.add(f"acme/{name}")
    github.commit(number, Dockerfile=FAILS)
    made = call(server, "POST", "/v1/keys", {"namespace": "local", "role": "admin", "name": name})[1]
    before = set(os.listdir(os.path.join(server.data, "builds")))
    github.answers.clear()
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            link = pool.submit(server.request, "POST", f"/v1/github/environments/local/{name}/connect",
                               json.dumps({"githubRepoId": number}).encode(), key=made["key"])
            wait_until(lambda: f"/repositories/{number}" in github.seen, 20, "the question")
            gone = f"/v1/environments/local/{name}" if lost == "environment" else f"/v1/keys/{made['id']}"
            assert call(server, "DELETE", gone)[0] in (200, 204)
            github.answers.set()
            assert link.result()[0] == (404 if lost == "environment" else 401)
    finally:
        github.answers.set()
    assert set(os.listdir(os.path.join(server.data, "builds"))) == before
    assert lost == "environment" or not json.loads(orwd(server, "get", f"local/{name}", "-o", "json"))["has_github_connection"]


def test_update_link_and_unlink(server, github, linked, name):
    settled(server, name)
    assert "Updated link settings" in orwd(server, "update-link", f"local/{name}", "--cpu-memory", "1:2", "--subdirectory", "sub")
    env = json.loads(orwd(server, "get", f"local/{name}", "-o", "json"))
    status, link = call(server, "GET", f"/v1/github/environments/{env['id']}")
    assert status == 200 and link["settings"] == {"cpuMemory": "1-2", "minScale": 0, "maxScale": 3, "concurrency": 7}
    assert (link["subdirectory"], link["githubRepoId"], link["branch"]) == ("sub", linked, "main")
    github.commit(linked, sub__Dockerfile=FAILS.replace("here", "the subdirectory"))
    assert github.webhook(server.url, linked)[0] == 202
    settled(server, name, 2)
    assert "built from the subdirectory" in orwd(server, "logs", f"local/{name}", "--build")
    orwd(server, "update-link", f"local/{name}", "--subdirectory", "")
    assert "Unlinked" in orwd(server, "unlink", f"local/{name}")
    assert github.webhook(server.url, linked) == (200, {"status": "ignored", "deployments": 0})
    assert "is not linked" in orwd(server, "unlink", f"local/{name}")


def test_null_leaves_alone_what_it_is_not_said_to_clear(server, github, name):
    details = f"/v1/environments/local/{name}/details"
    assert call(server, "PUT", details, {"branch": "dev", "subdirectory": "sub", "new_arxiv_url": "https://arxiv.org/abs/1"})[0] == 200
    status, env = call(server, "PUT", details, {"new_name": name + "x", "new_description": None, "branch": None, "new_arxiv_url": None})
    assert status == 200 and env["name"] == name + "x"
    assert (env["description"], env["branch"], env["subdirectory"], env["arxiv_url"]) == ("one of mine", "dev", "sub", None)
    status, link = call(server, "PUT", f"/v1/github/environments/{env['id']}", {"branch": None, "subdirectory": None})
    assert status == 200 and (link["branch"], link["subdirectory"]) == ("dev", None)
    number = github.add(f"acme/{name}", "trunk")
    github.commit(number, Dockerfile=FAILS)
    status, link = call(server, "POST", f"/v1/github/environments/local/{name}x/connect", {"githubRepoId": number, "branch": None})
    assert status == 200 and link["branch"] == "trunk"
    status, answer = call(server, "PATCH", f"/v1/environments/local/{name}x/settings", {"branch": None})
    assert status == 200 and answer["settings"]["branch"] == "main"
    settled(server, name + "x")


@pytest.mark.parametrize("settings", [{"cpuMemory": "huge"}, {"maxScale": -1}, {"concurrency": "x"}, {"minScale": -1}])
def test_wrong_settings_change_nothing(server, linked, name, settings):
    env = json.loads(orwd(server, "get", f"local/{name}", "-o", "json"))
    status, answer = call(server, "PUT", f"/v1/github/environments/{env['id']}", {"settings": settings, "subdirectory": "x"})
    assert status == 400 and next(iter(settings)) in answer["message"]
    status, answer = call(server, "PUT", f"/v1/github/environments/{env['id']}", {"subdirectory": "../x"})
    assert status == 400 and "subdirectory" in answer["message"]
    assert call(server, "GET", f"/v1/github/environments/{env['id']}")[1]["subdirectory"] is None


def test_webhooks(server, github, linked, name):
    settled(server, name)
    url = server.url
    assert github.webhook(url, linked, secret="wrong")[0] == 401
    assert github.webhook(url, linked, signature=None)[0] == 401
    assert github.webhook(url, linked, signature="sha256=" + "0" * 64)[0] == 401
    assert github.webhook(url, linked, signature="sha1=" + "0" * 40)[0] == 401
    assert github.webhook(url, linked, event="ping") == (200, {"status": "pong", "deployments": 0})
    assert github.webhook(url, linked, event="issues")[1]["status"] == "ignored"
    assert github.webhook(url, linked, ref="refs/heads/other")[1]["status"] == "ignored"
    commit = github.commit(linked, x="1")
    assert github.webhook(url, linked, delivery="one") == (202, {"status": "deploying", "deployments": 1})
    assert github.webhook(url, linked, delivery="one") == (200, {"status": "duplicate", "deployments": 0})
    assert settled(server, name, 2)["commitSha"] == commit


def test_pushes_in_a_row_end_with_the_newest(server, github, linked, name):
    for i in range(3):
        commit = github.commit(linked, x=str(i))
        github.webhook(server.url, linked)
    wait_until(lambda: all(d["status"] in ("failed", "superseded") for d in deployments(server, name)), 120, "an end")
    found = deployments(server, name)
    assert len(found) == 4 and found[0]["commitSha"] == commit and found[0]["status"] == "failed"


def test_a_repository_that_is_gone_fails_the_deployment(server, github, linked, name):
    settled(server, name)
    os.rename(os.path.join(github.folder.name, "bare", "acme", name + ".git"), os.path.join(github.folder.name, "gone" + name))
    github.webhook(server.url, linked)
    assert "fetching" in settled(server, name, 2)["reason"]


def test_the_token_is_nowhere(server, github, linked, name):
    settled(server, name)
    assert github.token not in server.log()
    done = subprocess.run(["grep", "-rlaF", github.token, server.data], text=True, capture_output=True)
    assert done.stdout == ""
    printed = server.cli("serve", "--config", server.config_path, "--print-config").stdout
    assert github.token not in printed and "(set)" in printed


def test_a_token_that_is_not_valid_any_more(server, github):
    github.valid = False
    try:
        assert call(server, "GET", "/v1/github/auth-status") == (200, {"status": "requiresReauth"})
        assert call(server, "GET", "/v1/github/repos")[0] == 403
    finally:
        github.valid = True
    status, answer = call(server, "GET", "/v1/github/reauth-url?redirectUrl=http://evil.example")
    assert status == 200 and answer["url"] == server.url + "/settings/github"
    assert server.request("GET", "/settings/github", key=None)[0] == 200


def test_no_key_and_no_such_repository(server, name):
    for method, path in (("GET", "/v1/github/auth-status"), ("GET", "/v1/github/repos"), ("GET", "/v1/github/install-url"),
                         ("GET", "/v1/github/environments/x"), ("GET", "/v1/github/deployments/x/task-builds")):
        assert server.request(method, path, key=None)[0] == 401
    assert "not found in your accessible" in orwd(server, "link", f"local/{name}", "acme/none", check=False).stdout
    assert call(server, "POST", f"/v1/github/environments/local/{name}/connect", {"githubRepoId": 5})[0] == 404
    assert call(server, "POST", f"/v1/github/environments/local/{name}/connect", {})[0] == 400


def test_what_a_webhook_deploys_is_in_the_audit_log(server, github, linked, name):
    def entries():
        return [e for e in call(server, "GET", "/v1/audit?action=POST%20/v1/github/webhook&limit=1000")[1]["entries"]
                if name in e["target"] and e["status"]]

    assert github.webhook(server.url, linked, secret="wrong")[0] == 401
    assert github.webhook(server.url, linked, ref="refs/heads/other") == (200, {"status": "ignored", "deployments": 0})
    assert entries() == []
    delivery = str(uuid.uuid4())
    assert github.webhook(server.url, linked, delivery=delivery)[0] == 202
    assert github.webhook(server.url, linked, delivery=delivery)[1]["status"] == "duplicate"
    wait_until(entries, 60, "the entry")
    [entry] = entries()
    assert (entry["actor"], entry["namespace"], entry["status"], entry["key"]) == (f"github:acme/{name}", "local", 202, None)
    assert entry["target"] == f"local/{name}: a push to main, delivery {delivery}" and entry["from"].startswith("127.0.0.1:")
    settled(server, name, 2)
