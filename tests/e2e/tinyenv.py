"""Deploys tests/e2e/tiny, an environment server that starts at once, and talks to it by plain HTTP."""
import json
import os
import shutil
import tempfile

from orw import ROOT
from wire import events

TINY = os.path.join(ROOT, "tests", "e2e", "tiny")


def tiny_folder(target: str, revision: str = "", **variables: object) -> str:
    """A copy of the server in target, its variables in the Dockerfile. Returns target."""
    shutil.copytree(TINY, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    lines = [f"ENV {k}={json.dumps(str(v))}\n" for k, v in {"TINY_REVISION": revision, **variables}.items()]
    path = os.path.join(target, "Dockerfile")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace("CMD", "".join(lines) + "CMD"))
    return target


def deploy_tiny(platform, name: str = "tiny", *options: str, revision: str = "", **variables: object) -> str:
    """Deployed under name (of the namespace local), READY when it returns; returns "local/NAME". variables are the
    server's own, see its head: TINY_START_DELAY_S=1. options are `openreward deploy`'s."""
    full = name if "/" in name else f"local/{name}"
    with tempfile.TemporaryDirectory() as folder:
        done = platform.cli("deploy", tiny_folder(folder, revision, **variables), "--name", full, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return full


class TinySession:
    """One session by plain HTTP: create=False stops before /create, as a listing does."""

    def __init__(self, platform, deployment: str, spec=None, create: bool = True, key: str = "", body=None, headers=None,
                 timeout_s: float = 60) -> None:
        self.platform, self.deployment, self.key = platform, deployment, key
        self.headers = headers or {}
        self.id = ""
        status, answer_headers, data = platform.request("POST", "/create_session", json.dumps(body or {}).encode(), self._headers(),
                                                        key=key, timeout_s=timeout_s)
        assert status == 200, (status, answer_headers, data)
        found = events(data)
        self.id = found[0][1]
        self.stream = data.decode()
        assert found[-1][0] == "end", found
        if create:
            status, _, data = self.post("/create", {"task_spec": spec if spec is not None else {"id": 3}})
            assert status == 200, data

    def _headers(self):
        return {"X-Deployment": self.deployment, "Content-Type": "application/json",
                **({"X-Session-ID": self.id} if self.id else {}), **self.headers}

    def get(self, path):
        return self.platform.request("GET", path, None, self._headers(), key=self.key)

    def post(self, path, body=None, timeout_s: float = 60):
        data = b"" if body is None else json.dumps(body).encode()
        return self.platform.request("POST", path, data, self._headers(), key=self.key, timeout_s=timeout_s)

    def call(self, tool, **given):
        """The text of a tool's answer."""
        status, _, data = self.post("/tiny/call", {"name": tool, "input": given})
        assert status == 200, (status, data)
        found = events(data.replace(b"\r\n", b"\n"))
        assert found[-1][0] == "end", found[-1]
        value = json.loads("".join(d for e, d in found if e in ("chunk", "end")))
        assert value["ok"], value
        return value["output"]["blocks"][0]["text"]

    def about(self):
        return json.loads(self.call("about"))

    def ping(self):
        return self.post("/ping")

    def close(self):
        self.post("/delete")
        return self.post("/delete_session")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
