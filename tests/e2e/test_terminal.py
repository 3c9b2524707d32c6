"""examples/terminal: an environment that opens a sandbox for each session."""
import asyncio
import os
import sys

import pytest
from openreward import AsyncOpenReward

from orw import ROOT, Census, nothing_new, wait_until

sys.path.insert(0, os.path.join(ROOT, "examples"))
from agent import TERMINAL_SCRIPT  # noqa: E402

SESSIONS = 50


async def play(environment, task):
    commands, expected = TERMINAL_SCRIPT[task.task_spec["id"]]
    async with environment.session(task=task) as session:
        for command in commands:
            await session.call_tool("bash", {"command": command})
        result = await session.call_tool("submit", {})
        return result.reward, expected, result.finished


async def play_many(name, n):
    async with AsyncOpenReward().environments as environments:
        environment = environments.get(name)
        tasks = await environment.list_tasks(split="test")
        return await asyncio.gather(*[play(environment, tasks[i % len(tasks)]) for i in range(n)])


def open_sandboxes(platform):
    status, _, body = platform.request("GET", "/metrics")
    assert status == 200
    for line in body.decode().splitlines():
        if line.startswith('openreward_sandboxes{state="open"} '):
            return float(line.split()[1])
    raise AssertionError("no openreward_sandboxes in /metrics")


def test_fifty_sessions_each_with_its_sandbox(platform, terminal):
    assert asyncio.run(play_many(terminal, 1))[0] == (1.0, 1.0, True)  # what is made once is made before the count
    before = Census(platform.data)
    results = asyncio.run(play_many(terminal, SESSIONS))
    assert len(results) == SESSIONS
    assert [r for r in results if r[0] != r[1] or not r[2]] == []
    wait_until(lambda: open_sandboxes(platform) == 0, what="no open sandbox")
    nothing_new(platform, before)
    assert platform.leaks() == ""


def test_a_session_without_its_end_loses_its_sandbox(platform, client, terminal):
    """The owner's end: delete_session without /delete still tears the environment down and ends what it opened."""
    environment = client.environments.get(terminal)
    task = environment.list_tasks(split="test")[0]
    session = environment.session(task=task)
    session.__enter__()
    session.call_tool("bash", {"command": "true"})
    assert open_sandboxes(platform) == 1
    status, _, _ = platform.request("POST", "/delete_session", b"", headers={"X-Session-ID": session.sid})
    assert status == 200
    wait_until(lambda: open_sandboxes(platform) == 0, what="no open sandbox")
    with pytest.raises(Exception):
        session.call_tool("bash", {"command": "true"})
    session.__exit__(None, None, None)
