"""The clients whose packages are hundreds of megabytes or more: `make clients`. conftest.py leaves them out of everything else."""
import json
import os
import shutil
import time

import pytest
from clients import HERE, at_localhost, client_program, npm_commands, run_client
from model_server import ModelServer, calls_made, tools_offered
from orw import wait_until
from test_clients import COUNT, get, recorded

pytestmark = pytest.mark.timeout(3000)


@pytest.mark.client("trl", "torch")
def test_trl(platform, hello, tmp_path):
    done = run_client(platform, [client_program("trl", "python"), HERE + "/trl_train.py", hello, "train", "3", str(tmp_path)], cwd=tmp_path,
                      timeout_s=1200, TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["steps"] == 3 and found["calls"] == 6, found
    assert found["rewards"] == [0.5, 0.5, 0.5], "of each two answers, one is right"
    assert found["moved"], "rewards that differ moved the weights"


def at_the_shell(shell, submit, wait=None):
    """The task of examples/terminal with the tools of these names. They come from a process that the agent starts, some later than
    its first question: the tool `wait` is called until they are there."""
    def turn(body):
        offered, made = tools_offered(body), calls_made(body)
        if submit not in offered:
            if wait not in offered or len(made) > 200:
                return "ok"  # another question than for the next step, as for a title
            time.sleep(1)
            return [(wait, {})]
        return "done" if submit in made else [(submit, {})] if shell in made else [(shell, {"command": COUNT})]
    return turn


CLAUDE = at_the_shell("mcp__openreward__bash", "mcp__openreward__submit", "WaitForMcpServers")
CODEX = at_the_shell("mcp__openreward/bash", "mcp__openreward/submit", "list_mcp_resources")
GEMINI = at_the_shell("mcp_openreward_run_shell_command", "mcp_openreward_submit")
HERMES = at_the_shell("mcp__openreward__bash", "mcp__openreward__submit")
# Gemini's own settings, of the user: which kind of key, and that the folder that firehorse makes for each trial may be worked in.
GEMINI_SETTINGS = {"security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}}}


def firehorse(platform, terminal, tmp_path, agent, model, script, folder):
    """One task by an agent that starts a command of its own, which is in the folder."""
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini" / "settings.json").write_text(json.dumps(GEMINI_SETTINGS), encoding="utf-8")
    with ModelServer({model.rpartition("/")[2]: script}) as models:
        url = ["--provider-url", models.url + "/v1"] if "/" not in model else []
        at_localhost(platform, [client_program("firehorse", "firehorse"), "--env", terminal, "--agent", agent, "--model", model, "--split", "test",
                                "--max-tasks", "1", "--run-name", "firehorse " + agent, "--output-dir", str(tmp_path), *url], tmp_path,
                     models=models, HOME=str(tmp_path), IS_SANDBOX="1", PATH=f"{folder}:{os.environ['PATH']}",
                     CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1")
    assert json.loads((tmp_path / "run_result.json").read_text(encoding="utf-8"))["avg_reward"] == 1.0


NPM = pytest.mark.skipif(not shutil.which("npm"), reason="no npm here")


@NPM
@pytest.mark.client("firehorse-cli", "@anthropic-ai/claude-code")
def test_firehorse_with_claude_code(platform, terminal, tmp_path):
    firehorse(platform, terminal, tmp_path, "claude-code", "anthropic/claude", CLAUDE, npm_commands())
    recorded(platform, "firehorse claude-code", terminal, 1.0)


@NPM
@pytest.mark.client("firehorse-cli", "@openai/codex")
def test_firehorse_with_codex(platform, terminal, tmp_path):
    firehorse(platform, terminal, tmp_path, "codex", "codex", CODEX, npm_commands())  # "openai/..." goes to OpenAI, whatever the address
    recorded(platform, "firehorse codex", terminal, 1.0)


@NPM
@pytest.mark.client("firehorse-cli", "@google/gemini-cli")
def test_firehorse_with_gemini(platform, terminal, tmp_path):
    firehorse(platform, terminal, tmp_path, "gemini", "google/gemini-2.5-pro", GEMINI, npm_commands())
    recorded(platform, "firehorse gemini", terminal, 1.0)


@pytest.mark.client("firehorse-cli", "hermes-agent")
def test_firehorse_with_hermes(platform, terminal, tmp_path):
    firehorse(platform, terminal, tmp_path, "hermes", "hermes", HERMES, os.path.dirname(client_program("hermes", "hermes")))
    (rollout,) = get(platform, "/v1/runs/firehorse%20hermes/rollouts")["rollouts"]  # firehorse finds no reward in what this Hermes exports
    wait_until(lambda: get(platform, f"/v1/rollouts/{rollout['id']}")["messages"], 60, "the rollout's messages")
