"""A small GitHub of the suite's own: the parts of its REST API that the server uses, in the shapes that GitHub documents, and
its repositories over git's smart HTTP. Everything needs the token."""
import base64
import hashlib
import hmac
import http.server
import json
import os
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
import uuid

ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
       "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x"}


class GitHub:
    def __init__(self) -> None:
        self.token, self.secret = "ghp_" + uuid.uuid4().hex, uuid.uuid4().hex
        self.valid = True
        self.answers = threading.Event()  # what is asked about one repository waits for it
        self.answers.set()
        self.folder = tempfile.TemporaryDirectory()
        self.repos: dict[int, dict] = {}
        self.seen: list[str] = []
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"github": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.folder.cleanup()

    def git(self, name: str, *argv: str) -> str:
        return subprocess.run(["git", "-C", os.path.join(self.folder.name, "work", name), *argv], env=ENV, text=True, check=True,
                              capture_output=True).stdout.strip()

    def add(self, name: str, branch: str = "main") -> int:
        """A private repository without commits."""
        number = 1000 + len(self.repos)
        for kind, options in (("work", []), ("bare", ["--bare"])):
            folder = os.path.join(self.folder.name, kind, name) + (".git" if kind == "bare" else "")
            subprocess.run(["git", "init", "--quiet", f"--initial-branch={branch}", *options, folder], env=ENV, check=True)
        self.repos[number] = {"id": number, "full_name": name, "name": name.split("/")[1], "private": True, "default_branch": branch,
                              "clone_url": f"{self.url}/{name}.git", "owner": {"login": name.split("/")[0]}}
        return number

    def commit(self, number: int, **files: str) -> str:
        repo = self.repos[number]
        name = repo["full_name"]
        work = os.path.join(self.folder.name, "work", name)
        for path, text in files.items():
            path = os.path.join(work, path.replace("__", "/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        self.git(name, "add", "--all")
        self.git(name, "commit", "--quiet", "--allow-empty", "--message=x")
        self.git(name, "push", "--quiet", os.path.join(self.folder.name, "bare", name) + ".git", f"HEAD:{repo['default_branch']}")
        return self.git(name, "rev-parse", "HEAD")

    def webhook(self, to: str, number: int, event: str = "push", delivery: str = "", secret: str = "", ref: str = "",
                signature: str | None = "") -> tuple[int, dict]:
        repo = self.repos[number]
        body = json.dumps({"ref": ref or f"refs/heads/{repo['default_branch']}", "before": "0" * 40, "after": "1" * 40, "created": False,
                           "deleted": False, "forced": False, "repository": repo, "pusher": {"name": "a"}, "commits": []}).encode()
        digest = hmac.new((secret or self.secret).encode(), body, hashlib.sha256).hexdigest()
        request = urllib.request.Request(to + "/v1/github/webhook", data=body, method="POST", headers={
            "Content-Type": "application/json", "X-GitHub-Event": event, "X-GitHub-Delivery": delivery or str(uuid.uuid4())})
        if signature is not None:
            request.add_header("X-Hub-Signature-256", signature or "sha256=" + digest)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())


class Handler(http.server.BaseHTTPRequestHandler):
    github: GitHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "application/json; charset=utf-8", headers=()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, status: int, value) -> None:
        self.answer(status, json.dumps(value).encode())

    def do_GET(self) -> None:
        self.github.seen.append(self.path)
        path, _, query = self.path.partition("?")
        if ".git/" in path:
            return self.git(path, query, b"")
        if self.headers.get("Authorization") != f"Bearer {self.github.token}" or not self.github.valid:
            return self.json(401, {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"})
        if path == "/rate_limit":
            return self.json(200, {"resources": {"core": {"limit": 5000, "remaining": 5000, "reset": 0, "used": 0}}})
        if path == "/user/repos":
            page = int(dict(p.split("=") for p in query.split("&"))["page"])
            repos = sorted(self.github.repos.values(), key=lambda r: r["id"])
            return self.json(200, repos[(page - 1) * 100:page * 100])
        if path.startswith("/repositories/"):
            self.github.answers.wait(25)
        if path.startswith("/repositories/") and int(path.rsplit("/", 1)[1]) in self.github.repos:
            return self.json(200, self.github.repos[int(path.rsplit("/", 1)[1])])
        return self.json(404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        self.git(path, query, self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def git(self, path: str, query: str, body: bytes) -> None:
        expected = "Basic " + base64.b64encode(f"x-access-token:{self.github.token}".encode()).decode()
        if self.headers.get("Authorization") != expected or not self.github.valid:
            return self.answer(401, b"no", "text/plain", [("WWW-Authenticate", 'Basic realm="GitHub"')])
        env = {**ENV, "GIT_PROJECT_ROOT": os.path.join(self.github.folder.name, "bare"), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
               "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
               "CONTENT_LENGTH": str(len(body)), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
               "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_CONFIG_COUNT": "1",
               "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, check=False)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.answer(int(lines.get("Status", "200").split()[0]), rest, lines.get("Content-Type", "text/plain"))
