"""The clients whose packages are hundreds of megabytes or more: `make clients`. conftest.py leaves them out of everything else."""
import json
import os
import shutil

import pytest
from clients import HERE, claude_code, client_program, run_client
from model_server import ModelServer
from test_clients import AT_THE_SHELL, recorded

pytestmark = pytest.mark.timeout(3000)


def test_trl(platform, hello, tmp_path):
    done = run_client(platform, [client_program("trl", "python"), HERE + "/trl_train.py", hello, "train", "3", str(tmp_path)], cwd=tmp_path,
                      timeout_s=1200, TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["steps"] == 3 and found["calls"] == 6, found
    assert found["rewards"] == [0.5, 0.5, 0.5], "of each two answers, one is right"
    assert found["moved"], "rewards that differ moved the weights"


def at_the_shell(body):
    """AT_THE_SHELL by the names that Claude Code gives a server's tools, once it has them: it asks the model before."""
    names = [t.get("name", "") for t in body.get("tools", [])]
    said = [json.dumps(m["content"]) for m in body["messages"] if m["role"] == "assistant"]
    waited = sum("WaitForMcpServers" in text for text in said)
    if "mcp__openreward__submit" not in names:
        return [("WaitForMcpServers", {})] if "WaitForMcpServers" in names and waited < 200 else "ok"
    turn = len(said) - waited
    return [(f"mcp__openreward__{name}", given) for name, given in AT_THE_SHELL[turn]] if turn < len(AT_THE_SHELL) else "done"


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm here")
def test_firehorse_with_claude_code(platform, terminal, tmp_path):
    with ModelServer({"claude": at_the_shell}) as models:
        run_client(platform, [client_program("firehorse", "firehorse"), "--env", terminal, "--agent", "claude-code", "--model",
                              "anthropic/claude", "--split", "test", "--max-tasks", "1", "--run-name", "firehorse claude-code",
                              "--output-dir", str(tmp_path)], models, cwd=tmp_path, HOME=str(tmp_path), IS_SANDBOX="1",
                   PATH=f"{claude_code()}:{os.environ['PATH']}", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1")
    assert json.loads((tmp_path / "run_result.json").read_text(encoding="utf-8"))["avg_reward"] == 1.0
    recorded(platform, "firehorse claude-code", terminal, 1.0)
