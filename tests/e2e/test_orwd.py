"""Every command of `orwd`, with every option in every output format, against transcripts of what it prints (transcript.py)."""
import collections
import functools
import glob
import json
import os
import urllib.parse

import pytest
import transcript
from github_server import GitHub
from orw import ROOT, Platform, wait_until
from tinyenv import TinySession, deploy_tiny

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "orwd")
FILES = sorted(os.path.basename(p) for p in glob.glob(FOLDER + "/*.txt"))
WRITE = os.environ.get("OPENREWARD_GOLDEN") == "write"
GH = """#!/bin/sh
# GitHub's own command: it fails for a repository that is called so.
case "$*" in *fails*) echo "gh: could not create it" >&2; exit 1;; esac
"""


def steps_of(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as f:
        return transcript.read(f.read())


class Stage:
    """What the directives and the commands of one transcript act on."""

    def __init__(self, platform, github, folder, setenv):
        self.platform, self.github, self.folder, self.setenv = platform, github, str(folder), setenv
        self.replace = {platform.url: "<url>", self.folder: "<folder>"}
        if github:
            self.replace[github.url] = "<github>"

    def call(self, method, path, body=None, expected=200):
        status, _, answer = self.platform.request(method, path, None if body is None else json.dumps(body).encode())
        assert status == expected, (path, status, answer)
        return json.loads(answer)

    def directive(self, words):
        kind, *rest = words
        getattr(self, "do_" + kind.rstrip(":"))(*rest)

    def do_platform(self, kind):
        pass  # the fixture has read it

    def do_github(self, name):
        """A repository without a Dockerfile: its deployments fail at once."""
        self.github.commit(self.github.add(name), README="x")

    def do_key(self, what):
        """Which key the commands have from here on: its own, or one that nobody knows, or none."""
        self.setenv("OPENREWARD_API_KEY", {"admin": self.platform.key, "unknown": "or_" + "x" * 40, "none": ""}[what])

    def do_settled(self, env, n):
        """There are n deployments of env, all at their end."""
        path = f"/v1/environments/{env}/deployments"
        ends = ("failed", "superseded", "ready")
        wait_until(lambda: len(d := self.call("GET", path)) == int(n) and all(x["status"] in ends for x in d), 120,
                   f"{n} deployments of {env}, all settled")

    def do_file(self, path, size):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(b"x" * int(size))

    def do_log(self, env, *lines):
        """The environment's server logs these lines, and at the end of its session "teardown"; they have arrived."""
        with TinySession(self.platform, env) as session:
            for line in lines:
                session.call("log", text=line)
        wait_until(lambda: "teardown" in json.dumps(self.call("GET", f"/v1/environments/{env}/logs")), 60, "the logged lines")

    def do_rollouts(self, run, n):
        """A run of n rollouts with a message each, whose rewards are 0, 1/n, 2/n ..."""
        events, at = [], 1_700_000_000_000
        for i in range(int(n)):
            rid = f"{run} {i}"
            events.append({"eventType": "rollout", "eventId": rid, "timestamp": at + i * 1000, "runName": run, "rolloutName": f"r{i}",
                           "environment": "local/thing", "run_info": {"model_name": "m"}})
            events.append({"eventType": "message", "eventId": rid + "m", "timestamp": at + i * 1000 + 1, "rolloutEventId": rid,
                           "index": 0, "type": "assistant_message", "content": "hello", "reward": i / int(n)})
        self.call("POST", "/v1/rollouts", {"events": events})

    def words(self, step):
        """The command's words with the ids put in."""
        return [self.with_ids(w) for w in step.words()]

    def with_ids(self, word):
        kind, _, name = word.strip("{}").partition(":")
        if not word.startswith("{"):
            return word
        if kind == "run":
            return self.call("GET", "/v1/runs/" + urllib.parse.quote(name))["id"]
        assert kind == "deployment", word
        return self.call("GET", f"/v1/environments/{name}/deployments")[0]["id"]


@pytest.fixture(scope="module")
def github():
    g = GitHub()
    yield g
    g.close()


def config_of(kind, github):
    if kind != "github":
        return ""
    return f"github: {{url: '{github.url}', api_url: '{github.url}', token: {github.token}, webhook_secret: '{github.secret}'}}\n"


def prepare(p, folder, monkeypatch):
    """The environment variables and the folder that the commands find."""
    (folder / "bin").mkdir()
    (folder / "bin" / "gh").write_text(GH)
    (folder / "bin" / "gh").chmod(0o755)
    (folder / "work").mkdir()
    for k, v in {**p.env, "COLUMNS": "1000", "BROWSER": "true", "NO_COLOR": "1", "PATH": f"{folder}/bin:{os.environ['PATH']}",
                 "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a",
                 "GIT_COMMITTER_EMAIL": "a@x"}.items():
        monkeypatch.setenv(k, v)
    monkeypatch.chdir(folder / "work")


@pytest.fixture
def stage(request, name, github, tmp_path, monkeypatch):
    """As the transcript's first line says: `plain`, a platform without images; `github`, one with a GitHub too; `tiny`, the
    platform of all tests with an environment local/orwd."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the spawner makes namespaces and mounts")
    kind = steps_of(name)[0].directive.split()[1]
    if kind == "tiny":
        p = request.getfixturevalue("platform")
        deploy_tiny(p, "orwd")
        prepare(p, tmp_path, monkeypatch)
        yield Stage(p, None, tmp_path / "work", monkeypatch.setenv)
        return
    p = Platform(config_of(kind, github))
    try:
        p.start()
        prepare(p, tmp_path, monkeypatch)
        yield Stage(p, github if kind == "github" else None, tmp_path / "work", monkeypatch.setenv)
    finally:
        status = p.stop()
        p.remove()
    assert status == 0


@pytest.mark.parametrize("name", FILES)
def test_transcript(stage, name):
    steps = steps_of(name)
    for step in steps:
        if step.command is None:
            stage.directive(step.directive.split())
            continue
        found = transcript.shown(*transcript.run(stage.words(step), step.typed), stage.replace)
        if not WRITE:
            assert found == step.lines, f"{name}: $ {step.command}\n" + "\n".join(found)
        step.lines = found
    if WRITE:
        with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as f:
            f.write(transcript.write(steps))


# -- the table: nothing of the newest orwd is missing in the transcripts --------------------------------------------------

# This server has no Harbor environments: what the option says is in a transcript of its refusal, in each format.
REFUSED = {("create", "--harbor"), ("new", "--harbor"), ("update", "--harbor"), ("task-build-logs", "")}


@functools.cache
def pages_of_help():
    return transcript.commands()


def seen():
    """What is in the transcripts: {(command, option, format): the files that show it}, {(command, option, choice)} and {command used
    wrongly: files}."""
    triples, choices, wrong, pages = collections.defaultdict(set), set(), collections.defaultdict(set), pages_of_help()
    for name, step in [(name, s) for name in FILES for s in steps_of(name) if s.command is not None]:
        command, *rest = [*step.words(), ""]
        if command not in pages:
            continue
        page = pages[command]
        given = {page.long(a): b for a, b in zip(rest, rest[1:] + [""]) if a.startswith("-")}
        fmt = given.get("--output", "table")
        failed = step.failed()
        for option in [*given, ""]:
            if not failed or (command, option) in REFUSED or (command, "") in REFUSED:
                triples[command, option, fmt].add(name)
        if failed:
            wrong[command].add(name)
        if not failed or (command, "") in REFUSED:
            choices |= {(command, option, value) for option, value in given.items()}
    return triples, choices, wrong


def table():
    """What --help says there is: the same three."""
    triples, choices, pages = set(), set(), pages_of_help()
    for command, page in pages.items():
        formats = page.options.get("--output", ["table"])
        triples |= {(command, option, fmt) for fmt in formats for option in [*page.options, ""] if option != "--output" or fmt != "table"}
        choices |= {(command, option, value) for option, values in page.options.items() for value in values}
    return triples, choices, set(pages)


def test_every_command_option_and_format_is_in_a_transcript(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert len(pages_of_help()) >= 21
    for what, there, shown in zip(("option in a format", "choice of an option", "wrong use"), table(), seen()):
        missing = sorted(there - set(shown))
        assert not missing, f"in no transcript of tests/e2e/orwd ({what}): {missing}"


# -- the same for people --------------------------------------------------------------------------------------------------

HEAD = """# orwd, command by option

The SDK's `orwd`, unmodified, against this server. Each cell names the transcripts (`tests/e2e/orwd/NAME.txt`) that show a command with
an option in a format, and that `make test T=transcript` plays and compares; the version is in [clients.md](clients.md). A dash is what a
command does not have. The table is written by `OPENREWARD_GOLDEN=write make test T=test_orwd`, and a test says when it is not the newest
`orwd`'s.

"""


def cell(files):
    return ", ".join(sorted(f.removesuffix(".txt") for f in files)) or "-"


def document():
    shown, _, wrong = seen()
    formats = sorted({fmt for _, _, fmt in table()[0]}, key=lambda f: (f != "table", f))
    lines = ["| command | option | " + " | ".join(formats) + " |", "|---|---|" + "---|" * len(formats)]
    for command, page in pages_of_help().items():
        for option in ["", *page.options]:
            cells = [cell(shown.get((command, option, fmt), ())) for fmt in formats]
            what = f"`{option}`" + (" (refused here)" if (command, option) in REFUSED else "") if option else ""
            lines.append(f"| `{command}` | {what} | " + " | ".join(cells) + " |")
        lines.append(f"| `{command}` | used wrongly | " + cell(wrong[command]) + " |" + " |" * (len(formats) - 1))
    return HEAD + "\n".join(lines) + "\n"


def test_the_table_is_in_the_documents(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    path = os.path.join(ROOT, "docs", "orwd.md")
    if WRITE:
        with open(path, "w", encoding="utf-8") as f:
            f.write(document())
    with open(path, encoding="utf-8") as f:
        assert f.read() == document(), "OPENREWARD_GOLDEN=write make test T=test_orwd writes it anew"
