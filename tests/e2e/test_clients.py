"""Clients that nobody here wrote, newest from PyPI and unmodified, with a scripted model: what they record must be right."""
import json
import os
import shutil
import urllib.parse

import pytest
from clients import BEGIN, DOCUMENT, END, HERE, client_program, run_client
from model_server import ModelServer
from orw import ROOT, wait_until

ALL = os.environ.get("ALL_CLIENTS", "")  # starting a client takes seconds
COUNT = "grep -c '^[^ ]* ERROR ' /workspace/app.log > /workspace/answer.txt; cat /workspace/answer.txt"
AT_THE_SHELL = [[("bash", {"command": COUNT})], [("submit", {})]]


@pytest.fixture(scope="module")
def models():
    with ModelServer({
        "shell": AT_THE_SHELL,
        "lazy": [[("submit", {})]],
    }) as m:
        yield m


def get(platform, path, **query):
    status, _, answer = platform.request("GET", path + "?" + urllib.parse.urlencode(query))
    assert status == 200, (path, status, answer)
    return json.loads(answer)


# -- firehorse: an agent at the tools of each style ----------------------------------------------------------------------

@pytest.mark.client("firehorse-cli")
@pytest.mark.parametrize("agent, provider, toolset, model, reward", [
    ("react", "anthropic", "claude-code", "shell", 1.0), ("react", "openai", "codex", "shell", 1.0), ("react", "openrouter", "hermes", "lazy", 0.0),
    *([] if not ALL else [
        ("react", "openai", "gemini-cli", "lazy", 0.0), ("react", "anthropic", "", "shell", 1.0), ("resum", "openai", "", "shell", 1.0),
        ("resum", "anthropic", "claude-code", "shell", 1.0)])])
def test_firehorse(platform, terminal, models, tmp_path, agent, provider, toolset, model, reward):
    name = f"firehorse {agent} {provider} {toolset}"
    url = models.url if provider == "anthropic" else models.url + "/v1"
    run_client(platform, [client_program("firehorse", "firehorse"), "--env", terminal, "--agent", agent, "--model", f"{provider}/{model}",
                          "--split", "test", "--max-tasks", "1", "--max-turns", "5", "--toolset", toolset, "--run-name", name,
                          "--provider-url", url, "--output-dir", str(tmp_path)], models, cwd=tmp_path, OPENROUTER_API_KEY="sk-or-scripted")
    results = json.loads((tmp_path / "run_result.json").read_text(encoding="utf-8"))
    assert (results["n_completed"], results["n_failed"], results["avg_reward"]) == (1, 0, reward), results
    recorded(platform, name, terminal, reward)


def recorded(platform, run, environment, reward):
    """What the client logged of its one rollout is here, in order, with the tools' results."""
    path = "/v1/runs/" + urllib.parse.quote(run)
    wait_until(lambda: get(platform, path)["avg_rollout_reward"] is not None, 60, "the run's reward")
    (rollout,) = get(platform, path + "/rollouts")["rollouts"]
    assert (rollout["environment"], rollout["max_reward"], rollout["split"]) == (environment, reward, "test")
    messages = get(platform, f"/v1/rollouts/{rollout['id']}")["messages"]
    assert [m["index"] for m in messages] == list(range(len(messages)))
    kinds = [m["type"] for m in messages]
    assert "user_message" in kinds[:2] and kinds.count("tool_call") == kinds.count("tool_result") > 0
    assert "hidden test" in messages[-1]["content"] or "hidden test" in messages[-2]["content"]


# -- inspect -------------------------------------------------------------------------------------------------------------

INSPECT = """
from inspect_ai import Task, task
from inspect_openreward import openreward_dataset, openreward_scorer, openreward_solver
from openreward import OpenReward


@task
def terminal():
    env = OpenReward().environments.get(name="local/terminal")
    return Task(dataset=openreward_dataset(env, split="test", limit=1), solver=openreward_solver(env, toolset=TOOLSET),
                scorer=openreward_scorer())
"""


@pytest.mark.client("inspect-openreward", "inspect-ai")
@pytest.mark.parametrize("model, toolset, score", [("openai/shell", "codex", 1.0), ("anthropic/lazy", None, 0.0)])
def test_inspect(platform, terminal, models, tmp_path, model, toolset, score):
    (tmp_path / "terminal.py").write_text(INSPECT.replace("TOOLSET", repr(toolset)), encoding="utf-8")
    run_client(platform, [client_program("inspect", "inspect"), "eval", "terminal.py", "--model", model, "--log-dir", "logs", "--log-format",
                          "json", "--display", "plain"], models, cwd=tmp_path)
    (log,) = (tmp_path / "logs").glob("*.json")
    log = json.loads(log.read_text(encoding="utf-8"))
    assert log["status"] == "success", log.get("error")
    (sample,) = log["samples"]
    assert sample["messages"][0]["content"][0]["text"].startswith("In /workspace/app.log, count the lines")
    assert log["results"]["scores"][0]["metrics"]["mean"]["value"] == score


# -- ors-sdk: its server as an environment, its client against the platform ------------------------------------------------

ORS = """
import json, os
from ors.client import ORS

with ORS(base_url=os.environ["ADDRESS"]) as client:
    env = client.environment("mathenv")
    tasks = env.list_tasks(split="test")
    found = {"splits": env.list_splits(), "n": env.num_tasks("test"), "tools": [t.name for t in env.list_tools()], "sessions": []}
    for i, answer in enumerate(("4", "5")):
        with env.session(task=tasks[i]) as session:
            out = session.call_tool("submit", {"answer": answer})
            found["sessions"].append([session.get_prompt()[0].text, out.blocks[0].text, out.reward, out.finished])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def orsmath(platform):
    done = platform.cli("deploy", os.path.join(HERE, "orsmath"), "--name", "local/orsmath")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return "local/orsmath"


@pytest.mark.client("ors-sdk")
def test_ors_sdk_client_and_server(platform, orsmath, tmp_path):
    (tmp_path / "ors_client.py").write_text(ORS, encoding="utf-8")
    address = f"http://{urllib.parse.quote(orsmath, safe='')}:{platform.key}@{urllib.parse.urlsplit(platform.url).netloc}"
    done = run_client(platform, [client_program("ors", "python"), "ors_client.py"], cwd=tmp_path, ADDRESS=address)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "splits": ["test"], "n": 2, "tools": ["submit"],
        "sessions": [["What is 2+2?", "Correct!", 1.0, True], ["What is 3+3?", "Incorrect", 0.0, True]]}


@pytest.mark.client("openreward", "ors-sdk")
def test_the_openreward_sdk_at_a_server_of_ors_sdk(client, orsmath):
    env = client.environments.get(orsmath)
    with env.session(split="test", index=1) as session:
        assert session.get_prompt()[0].text == "What is 3+3?"
        assert session.call_tool("submit", {"answer": "6"}).reward == 1.0


# -- the SDK's toolsets and its judging --------------------------------------------------------------------------------------

@pytest.mark.client("openreward")
@pytest.mark.parametrize("toolset", ["claude-code", "codex", "gemini-cli", "hermes", "openclaw"])
def test_toolsets(client, terminal, toolset):
    with client.environments.get(terminal).session(split="test", index=0, toolset=toolset) as session:
        tools = {t.name: t for t in session.list_tools()}
        shell = next(n for n in ("bash", "run_shell_command", "terminal", "exec") if n in tools)
        assert "submit" in tools
        out = session.call_tool(shell, {"command": COUNT})
        assert "29" in out.blocks[0].text, out
        assert session.call_tool("submit", {}).reward == 1.0


@pytest.fixture(scope="module")
def judged(platform, tmp_path_factory):
    source = shutil.copytree(os.path.join(HERE, "judged"), tmp_path_factory.mktemp("judged") / "judged")
    shutil.copy(os.path.join(HERE, "model_server.py"), source)
    done = platform.cli("deploy", str(source), "--name", "local/judged", "--size", "1:2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return "local/judged"


@pytest.mark.client("openreward")
def test_score_group_with_the_sdks_judge(client, judged):
    from openreward.api.environments.types import Message, TextBlock
    with client.environments.get(judged).session(split="train", index=0) as session:
        assert session.supports_score_group()
        said = ["Salt!", "The salt, please.", "Give me salt."]
        scores = session.score_group([[Message(role="assistant", blocks=[TextBlock(text=t)])] for t in said])
        assert [s.reward for s in scores] == [0.25, 1.0, 0.25]


@pytest.mark.client("openreward")
def test_the_toolset_of_an_environment(client, judged):
    """CLIToolset, which an environment declares."""
    with client.environments.get(judged).session(split="train", index=0) as session:
        names = [t.name for t in session.list_tools()]
        assert set(names) >= {"answer", "bash", "glob", "grep", "ls", "read", "write", "edit", "multi_edit", "todo_write"}
        session.call_tool("write", {"file_path": "/tmp/a.txt", "content": "salt\npepper\n"})
        session.call_tool("edit", {"file_path": "/tmp/a.txt", "old_string": "pepper", "new_string": "please"})
        for tool, given in (("bash", {"command": "cat /tmp/a.txt"}), ("read", {"file_path": "/tmp/a.txt"}), ("grep", {"pattern": "please", "path": "/tmp"})):
            assert "please" in session.call_tool(tool, given).blocks[0].text, tool


def test_the_table_names_what_is_installed():
    """docs/clients.md has every package of tests/clients.txt in the table that `make clients` writes."""
    with open(os.path.join(ROOT, "tests", "clients.txt"), encoding="utf-8") as f:
        packages = [line.split()[1].partition("[")[0] for line in f if not line.startswith("#")]
    with open(DOCUMENT, encoding="utf-8") as f:
        table = f.read().partition(BEGIN)[2].partition(END)[0]
    assert [p for p in packages if f" {p} " not in table] == []
    assert "passed" in table and "failed" not in table
