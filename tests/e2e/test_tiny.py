"""The tests' own environment server is one for the real SDK: asked directly, and through the platform."""
import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from openreward import OpenReward
from openreward.api.environments.types import ToolCallError

from tinyenv import TINY, TinySession

START_S = 0.5  # a tenth on a quiet machine


@pytest.fixture(scope="module")
def direct():
    """The server as a child of the test: its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "PORT": str(port), "TINY_HOST": "127.0.0.1"}
    with subprocess.Popen([sys.executable, "-S", "-E", "server.py"], cwd=TINY, env=env, stdout=subprocess.PIPE) as p:
        p.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        p.terminate()


@pytest.fixture(params=["direct", "platform"])
def environment(request, monkeypatch):
    if request.param == "platform":
        request.getfixturevalue("platform")
        name = request.getfixturevalue("tiny")
    else:
        url, name = request.getfixturevalue("direct"), "local/tiny"
        for variable in ("OPENREWARD_URL", "OPENREWARD_API_URL", "OPENREWARD_SESSION_URL"):
            monkeypatch.setenv(variable, url)
    with OpenReward(api_key=os.environ.get("OPENREWARD_API_KEY", "none")) as client:
        yield client.environments.get(name)


def text(result):
    return "".join(b.text for b in result.blocks)


def test_the_sdks_whole_surface(environment):
    assert environment.list_splits() == ["train"]
    assert environment.num_tasks("train") == 10
    assert environment.get_task("train", -1).task_spec["id"] == 9
    assert [t.task_spec["id"] for t in environment.get_task_range("train", 2, 4)] == [2, 3]
    assert len(environment.list_tasks(split="train")) == 10
    with environment.session(split="train", index=4) as session:
        assert session.get_prompt()[0].text == "What is 4+4?"
        assert session.get_messages()[0].role == "user"
        assert "answer" in [t.name for t in session.list_tools()]
        assert text(session.call_tool("echo", {"text": " two  blanks\n"})) == " two  blanks\n"
        assert text(session.call_tool("big", {"bytes": 300000})) == "x" * 300000
        with pytest.raises(ToolCallError) as raised:
            session.call_tool("nope", {})
        assert raised.value.reason == "not_found"
        result = session.call_tool("answer", {"answer": "8"})
        assert (result.reward, result.finished) == (1.0, True)
        with pytest.raises(ToolCallError) as raised:
            session.call_tool("answer", {"answer": "8"})
        assert raised.value.reason == "episode_finished"


def test_a_tool_that_raises(environment):
    with environment.session(task=environment.list_tasks(split="train")[0]) as session:
        with pytest.raises(Exception, match="boom"):
            session.call_tool("fail", {"text": "boom"})


def test_bare_paths_are_redirected(direct):
    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.build_opener(NoRedirect).open(direct + "/splits?x=1")
    assert (raised.value.code, raised.value.headers["location"]) == (308, "/tiny/splits?x=1")


def test_it_starts_at_once():
    """By its CPU time: the clock on the wall is the whole machine's."""
    took = []
    for _ in range(5):
        env = {**os.environ, "PORT": "0", "TINY_HOST": "127.0.0.1"}
        with subprocess.Popen([sys.executable, "-S", "-E", "server.py"], cwd=TINY, env=env, stdout=subprocess.PIPE) as p:
            p.stdout.readline()
            with open(f"/proc/{p.pid}/stat", encoding="utf-8") as f:
                ticks = f.read().rpartition(")")[2].split()[11:13]
            took.append(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))
            p.terminate()
    assert min(took) < START_S, took


def test_by_plain_http(platform, tiny):
    with TinySession(platform, tiny) as s:
        about = s.about()
        assert about["sid"] == s.id and about["env"]["PORT"] == "8080"


def unfollowed(platform, session, path):
    """What the platform answers itself: the client of the other tests follows redirects, as the SDK does."""
    c = http.client.HTTPConnection(urllib.parse.urlsplit(platform.url).netloc, timeout=30)
    c.request("GET", path, None, {"X-API-Key": platform.key, "X-Session-ID": session.id})
    r = c.getresponse()
    data = r.read()
    c.close()
    return r.status, data


def test_bare_paths_through_the_platform_need_no_redirect(platform, tiny):
    """The server's name for them is learnt when the first session opens: wait for that, and then no client sees a 308."""
    session = TinySession(platform, tiny)
    end = time.monotonic() + 10
    while unfollowed(platform, session, "/tools")[0] == 308:
        assert time.monotonic() < end
        time.sleep(0.05)
    for path in ("/prompt", "/tools", "/splits?x=1", "/messages", "//prompt"):
        full = unfollowed(platform, session, "/tiny" + path.replace("//", "/"))
        assert unfollowed(platform, session, path) == full and full[0] != 308, path
    assert unfollowed(platform, session, "/nothing")[0] == 308, "what is none of these is the server's to redirect"
    session.close()
