"""Every field of every call that docs/openapi.json lists, once with each kind of nonsense: missing, null, another type, too long,
bytes that are no text, an unknown word, too small, too large. Each is refused with a text that names the field, none is a 5xx,
and the good request works before and after."""
import hashlib
import hmac
import json
import urllib.parse
import uuid

import pytest

from nonsense import Sample, all_fields, covered, query_text, wrongs
from openapi import OF_ANY, calls
from orw import running
from tinyenv import deploy_tiny
from wire import Sandbox, events

SECRET = "of the webhook"
NONE = "00000000-0000-4000-8000-000000000000"
IMAGE = "python:3.11-slim"


class World:
    """A platform with one of everything that a call may be about."""

    def __init__(self, platform):
        self.platform = platform
        deploy_tiny(platform, "fields")
        self.env = self.get("/v1/environments/local/fields")
        self.deployment = self.env["deployment_id"]
        self.box = Sandbox(platform)
        self.box.run("echo 12345 > /tmp/file")
        self.run = self.post(f"/v1/sandboxes/{self.box.id}/runs", {"cmd": "cat; sleep 1000", "stdin": True})["id"]
        self.terminal = self.post(f"/v1/sandboxes/{self.box.id}/runs", {"cmd": "sleep 1000", "tty": True})["id"]
        self.rollout = str(uuid.uuid4())
        self.post("/v1/rollouts", {"events": [{"eventType": "rollout", "eventId": self.rollout, "timestamp": 1, "runName": "fields"}]})
        self.post("/v1/users", {"name": "fielduser"})
        self.post("/v1/orgs", {"name": "fieldorg"})
        self.key = self.post("/v1/keys", {"name": "limited"})["id"]
        listed = self.get("/v1/runs?search=fields")["runs"][0]
        self.recorded = listed["id"]

    def get(self, path):
        status, _, answer = self.platform.request("GET", path)
        assert status == 200, answer
        return json.loads(answer)

    def post(self, path, body):
        status, _, answer = self.platform.request("POST", path, json.dumps(body).encode())
        assert status in (200, 201), answer
        return json.loads(answer)

    def upload_address(self):
        body = {"environmentId": self.env["id"], "files": [{"fileName": "a file", "contentType": "text/plain"}]}
        url = self.post("/v1/files/upload-urls", body)["urls"][0]["uploadUrl"]
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))


@pytest.fixture(scope="module")
def world():
    with running(f"github: {{webhook_secret: '{SECRET}'}}\n") as platform:
        w = World(platform)
        yield w
        assert w.box.delete()[0] == 200


def fresh():
    return "n" + uuid.uuid4().hex[:12]


EVENTS = [
    {"eventType": "rollout", "eventId": "r1", "timestamp": 1, "metadata": {}, "runName": "run", "rolloutName": "one", "environment": "e",
     "environment_id": "e", "variant": "v", "variant_id": "v", "split": "s", "step": 1, "task_spec": {},
     "run_info": {"run_type": "eval", "training_stage": "rl", "model_params": 1, "model_name": "m"}, "rollout_info": {"task_index": 1}},
    {"eventType": "message", "eventId": "m1", "timestamp": 1, "rolloutEventId": "r1", "index": 0, "type": "tool_call", "content": "c",
     "contentReference": "c", "summary": "s", "name": "n", "callId": "c", "reward": 0.5, "isFinished": False},
]
SIDECAR = {"name": "side", "image": IMAGE, "command": ["sleep"], "args": ["1000"], "env": {"A": "b"}, "ports": [], "machine_size": "0.25:0.25"}
SANDBOX = {"image": IMAGE, "machine_size": "0.5:1", "env": {"A": "b"}, "block_network": True, "host_aliases": [{"ip": "10.1.2.3", "hostnames": ["a"]}],
           "environment": "local/fields", "bucket_config": {"mount_path": "/data", "only_dir": "d", "read_only": True, "implicit_dirs": True},
           "sidecars": [SIDECAR], "network": []}
SETTINGS = {"size": "0.5:1", "concurrency": 5, "min_scale": 0, "max_scale": 1, "idle_timeout": "1h", "drain_timeout": "1m", "health_timeout": "1m",
            "orwd_data_always": False, "orwd_data_writable": False, "dockerfile": "Dockerfile", "keep_images": 2, "build_args": {"A": "b"},
            "build_secrets": {"S": "t"}, "env": {"A": "b"}, "branch": "main", "subdirectory": "a"}
LINK = {"settings": {"cpuMemory": "1-2", "minScale": 0, "maxScale": 1, "concurrency": 5}, "branch": "main", "subdirectory": "a"}
RUN = {"cmd": "true", "shell": "/bin/sh", "timeout_s": 10, "max_bytes": 100, "separate": False}
PAGE = {"limit": "1", "offset": "0"}


def samples_of(w):
    """{operationId: good requests}, which together have every field of the call."""
    named, by_id = {"owner": "local", "name": "fields"}, {"id": w.env["id"]}
    box, run, terminal = {"id": w.box.id}, {"id": w.box.id, "run": w.run}, {"id": w.box.id, "run": w.terminal}
    of_box = {"X-Session-ID": w.box.id}
    return {
        "createSession": [Sample(headers={"X-Deployment": "local/fields"}, body={"env": {}}, dear=True, skip=("X-Deployment",)),
                          # X-Deployment is looked at last; task_id is a text that is known or not
                          Sample(headers={"X-Deployment": "local/fields"}, body={"task_id": NONE}, skip=("X-Deployment",))],
        "ping": [Sample(headers=of_box)],
        "delete": [Sample(headers={"X-Session-ID": NONE, "X-Deployment": "local/fields", "X-Secrets": "e30="}, status=(404,))],
        "deleteSession": [Sample(headers={"X-Session-ID": NONE}, status=(404,))],
        "createSandbox": [Sample(headers={"X-Secrets": "e30="}, body=SANDBOX, dear=True), Sample(body={"task_id": NONE}, dear=True)],
        "run": [Sample(headers=of_box, body=RUN), Sample(headers=of_box, body={"cmd": "true", "task_id": NONE})],
        "setNetwork": [Sample(headers=of_box, body=b"{}", status=(400,))],
        "statFile": [Sample(headers=of_box, query={"path": "/tmp/file", "sha256": "1"})],
        "readFile": [Sample(headers=of_box, query={"path": "/tmp/file", "offset": "1", "length": "2"})],
        # The path of a new file may have any bytes but a NUL.
        "writeFile": [Sample(headers=of_box, query={"path": "/tmp/new", "offset": "0", "mkdirs": "1"}, body=b"x", skip=("path",)),
                      Sample(headers=of_box, query={"path": "/tmp/new", "commit": "1", "size": "1"}, body=b"", skip=("path",))],
        "listSandboxes": [Sample(query=PAGE)],
        "startRun": [Sample(path=box, body={**RUN, "stdin": False, "tty": False, "rows": 10, "cols": 10, "keep": "last"}, status=(201,))],
        "listRuns": [Sample(path=box, query=PAGE)],
        "getRunOutput": [Sample(path=run, query={"offset": "0", "follow": "0", "flow": "0"})],
        "getSidecarOutput": [Sample(path={**box, "sidecar": "none"}, query={"offset": "0", "follow": "0", "flow": "0", "previous": "0"}, status=(404,),
                                    names=False)],  # the sidecar is looked for first
        "writeRunInput": [Sample(path=run, query={"offset": "0", "close": "0"}, body=b"x")],
        "signalRun": [Sample(path=terminal, body={"signal": "CONT", "foreground": False})],
        "resizeRun": [Sample(path=terminal, body={"rows": 10, "cols": 20})],
        "waitRun": [Sample(path=run, query={"timeout_s": "0"})],
        "health": [Sample(headers={"X-Session-ID": NONE}, status=(404,))],
        "version": [Sample(headers={"X-Session-ID": NONE}, status=(404,))],
        "createEnvironment": [Sample(body={"name": fresh(), "namespace": "local", "description": "d", "isPrivate": False, "isHarbor": False,
                                           "branch": "main", "subdirectory": "a"}, status=(201, 409))],
        "listEnvironments": [Sample(query={**PAGE, "owner": "local", "search": "f"})],
        "updateDetails": [Sample(path=named, body={
            "new_name": "fields", "new_description": "d", "new_is_private": False, "new_is_harbor": False, "new_arxiv_url": "https://a.b/c",
            "new_external_github_url": "https://a.b/c", "new_external_hf_url": "https://a.b/c", "branch": "main", "subdirectory": ""})],
        "changeSettings": [Sample(path=named, body=SETTINGS)],
        "deploy": [Sample(path=named, query={"size": "1:2"}, body=b"", status=(400,))],  # an empty body: no build
        "rollback": [Sample(path=named, body={"deployment_id": NONE}, status=(404,))],
        "environmentLogs": [Sample(path=named, query={"limit": "1", "severity": "INFO", "since": "2026-01-02", "deployment": w.deployment, "follow": "0"})],
        "connect": [Sample(path=named, body={"githubRepoId": 1, "githubInstallationId": 1, **LINK}, status=(409,))],
        "changeLink": [Sample(path=by_id, body=LINK)],
        "runtimeLogs": [Sample(path={"id": w.deployment}, query={"limit": "1"})],
        "webhook": [Sample(headers={"X-Hub-Signature-256": "", "X-GitHub-Event": "push", "X-GitHub-Delivery": ""},
                           body={"ref": "refs/heads/main", "deleted": False, "repository": {"id": 1}}, skip=("X-GitHub-Event",))],
        "gitRefs": [Sample(path=named, query={"service": "git-upload-pack"})],
        "uploadUrls": [Sample(headers={"X-Forwarded-Proto": "https"}, body={"environmentId": w.env["id"], "files": [{"fileName": "f", "contentType": "a/b"}]})],
        "listFiles": [Sample(path={"env": w.env["id"]}, query={"limit": "1", "prefix": "", "pageToken": ""})],
        "getFile": [Sample(path={"env": w.env["id"], "path": "none"}, headers={"Range": "bytes=0-1"}, status=(404,))],
        "putFile": [Sample(path={"env": w.env["id"], "path": "a file"}, query=w.upload_address(), headers={"Content-Type": "text/plain",
                           "Content-Range": "bytes 0-0/1"}, body=b"x", names=False)],  # whatever is changed: the signature is not this address'
        "record": [Sample(body={"events": EVENTS})],
        "getRollout": [Sample(path={"id": w.rollout}, query={**PAGE, "pageToken": ""})],
        "listRecordedRuns": [Sample(query={**PAGE, "search": "f", "pageToken": ""})],
        "listRollouts": [Sample(path={"id": w.recorded}, query={**PAGE, "pageToken": ""})],
        "taskDifficulty": [Sample(path=named, query={"variant": "v", "split": "s", "model_name": "m", "min_model_params": "0", "max_model_params": "1",
                                                     "training_stage": "rl"})],
        "apiUsage": [Sample(query={"days": "1", "granularity": "total", "service": "search"})],
        "backup": [Sample(query={"buckets": "false"})],
        "listKeys": [Sample(query={**PAGE, "all": "1", "namespace": "local"})],
        "createKey": [Sample(body={"name": "n", "namespace": "local", "role": "reader", "expiresIn": "1h", "maxSessions": 1, "maxSandboxes": 2,
                                   "maxRate": 3}, status=(201,)),
                      Sample(body={"user": "fielduser", "readOnly": True}, status=(201,))],
        "limitKey": [Sample(path={"id": w.key}, body={"maxSessions": 1, "maxSandboxes": 2, "maxRate": 1000})],
        "currentNamespace": [Sample(query={"type": "org"})],
        "listUsers": [Sample(query=PAGE)],
        "createUser": [Sample(body={"name": fresh()}, status=(201, 409))],
        "listOrganisations": [Sample(query=PAGE)],
        "createOrganisation": [Sample(body={"name": fresh(), "owner": "fielduser"}, status=(201, 409))],
        "putMember": [Sample(path={"org": "fieldorg", "user": "fielduser"}, body={"role": "member"})],
        "collectImages": [Sample(body={"budget_bytes": 1 << 50})],  # all that is here may stay
        "listAudit": [Sample(query={**PAGE, "action": "POST", "actor": "local", "namespace": "local", "pageToken": "", "since": "24h"})],
        "deleteImage": [Sample(query={"name": "localhost:1/no/such:image"}, status=(404,))],
        "pullImage": [Sample(body={"name": "localhost:1/no/such:image"})],
        "bootstrapImage": [Sample(body={"name": IMAGE}, dear=True)],
        "importImage": [Sample(body={"name": "some:image", "path": "/nothing/there"}, dear=True)],
    }


def send(w, call, sample, raw_query="", body=None):
    target = call.target({**{p["name"]: "none" for p in call.parameters_in("path")}, **sample.path})
    query = "&".join(q for q in (query_text(sample.query), raw_query) if q)
    if body is None and call.has_body:
        body = sample.body if isinstance(sample.body, bytes) else json.dumps(sample.body).encode()
    elif body is None and call.method in ("POST", "PUT"):
        body = b""
    headers = dict(sample.headers)
    if "X-Hub-Signature-256" in headers:
        headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    if "X-GitHub-Delivery" in headers:
        headers["X-GitHub-Delivery"] = fresh()
    return w.platform.request(call.method, target + ("?" + query if query else ""), body, headers)


def good(w, call, sample, when):
    status, headers, answer = send(w, call, sample)
    assert status in sample.status and status in call.statuses | OF_ANY, (when, status, answer[:500])
    if call.path == "/create_sandbox":
        sid = events(answer)[0][1]
        assert events(answer)[-1][0] == ("end" if "task_id" not in sample.body else "error"), answer
        w.platform.request("POST", "/delete_session", b"", {"X-Session-ID": sid})


def complaint(w, call, wrong, sample):
    """What is wrong with the answer; None = all is well."""
    status, _, answer = send(w, call, wrong.sample, wrong.raw_query, wrong.body)
    text = answer.decode(errors="replace")
    if status >= 500 or status not in call.statuses | OF_ANY:
        return f"{wrong.what}: {status} {text[:300]}"
    if wrong.may_pass and status < 300:
        return None
    if not 400 <= status < 500:
        return f"{wrong.what}: not refused: {status} {text[:200]}"
    parsed = json.loads(text)
    if parsed["detail"] != parsed["message"] or not parsed["detail"]:
        return f"{wrong.what}: detail and message differ: {text[:300]}"
    if sample.names and status == 400 and wrong.name not in parsed["detail"]:
        return f"{wrong.what}: {status}, and the text does not name {wrong.name}: {parsed['detail'][:300]}"
    return None


WITH_FIELDS = [c for c in calls() if all_fields(c)]


@pytest.mark.parametrize("call", WITH_FIELDS, ids=repr)
def test_every_field(world, call):
    samples = samples_of(world).get(call.operation["operationId"], [])
    missing = all_fields(call) - covered(call, samples)
    assert not missing, (f"{call}: docs/openapi.json has {sorted(missing)}, and no good request with them is known here: add one to samples_of() "
                         f"in {__file__}, under {call.operation['operationId']!r}")
    problems = []
    for sample in samples:
        good(world, call, sample, "before")
        problems += [c for c in (complaint(world, call, w, sample) for w in wrongs(call, sample)) if c]
        good(world, call, sample, "after")
    assert not problems, "\n".join(problems)
    assert world.platform.process.poll() is None
