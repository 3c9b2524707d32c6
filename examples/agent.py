"""A scripted agent: plays sessions against the two environments of the demo with the unmodified SDK, and shows them.

    python examples/agent.py hello local/hello
    python examples/agent.py terminal local/terminal
    python examples/agent.py rolling local/hello FOLDER     # FOLDER: a clone of hello, whose "origin" is the platform's

It needs OPENREWARD_URL, OPENREWARD_API_URL, OPENREWARD_SESSION_URL and OPENREWARD_API_KEY: `openreward client-env` prints
them. A model would choose the calls; here they are written down, so that every run is the same. Exit code 0 means that
every reward was the expected one.
"""
import os
import pathlib
import subprocess
import sys
import time

from openreward import OpenReward

# For each task of examples/terminal: the agent's commands, and the reward that they earn. The last one is wrong on purpose.
TERMINAL_SCRIPT = {
    "count-errors": (["head -3 /workspace/app.log",
                      "grep -c '^[^ ]* ERROR ' /workspace/app.log > /workspace/answer.txt; cat /workspace/answer.txt"], 1.0),
    "repair-median": (["cat /workspace/stats.py",
                       "cat > /workspace/stats.py <<'PY'\n"
                       "def median(values):\n"
                       "    ordered = sorted(values)\n"
                       "    middle = len(ordered) // 2\n"
                       "    if len(ordered) % 2:\n"
                       "        return ordered[middle]\n"
                       "    return (ordered[middle - 1] + ordered[middle]) / 2\n"
                       "PY",
                       "cd /workspace && python3 -c 'from stats import median; print(median([4, 1, 3, 2]))'"], 1.0),
    "primes": (["echo 'print(2)' > /workspace/primes.py", "python3 /workspace/primes.py 13"], 0.0),
}


def show(label: str, text: str) -> None:
    lines = text.strip().splitlines() or [""]
    print(f"    {label:<8} {lines[0]}")
    for line in lines[1:]:
        print(f"    {'':<8} {line}")


def call(session, tool: str, arguments: dict) -> float | None:
    show(tool, arguments.get("command") or arguments.get("answer") or "")
    started = time.monotonic()
    result = session.call_tool(tool, arguments)
    took_ms = (time.monotonic() - started) * 1000
    show("", "\n".join(b.text for b in result.blocks if b.type == "text") + f"   [{took_ms:.0f} ms]")
    return result.reward


def play(environment, task, name: str, calls: list[tuple[str, dict]], expected: float) -> bool:
    started = time.monotonic()
    with environment.session(task=task) as session:
        print(f"  task {name}: session {session.sid} after {(time.monotonic() - started) * 1000:.0f} ms")
        show("prompt", "\n".join(b.text for b in session.get_prompt()))
        reward = None
        for tool, arguments in calls:
            reward = call(session, tool, arguments)
    right = reward == expected
    print(f"    reward   {reward}{'' if right else f'   EXPECTED {expected}'}   [{time.monotonic() - started:.2f} s in all]\n")
    return right


def play_hello(environment) -> list[bool]:
    results = []
    for split, answer, expected in (("train", "4", 1.0), ("test", "7", 0.0)):
        for index, task in enumerate(environment.list_tasks(split=split)):
            results.append(play(environment, task, f"{split}[{index}]", [("answer", {"answer": answer})], expected))
    return results


def play_terminal(environment) -> list[bool]:
    results = []
    for task in environment.list_tasks(split="test"):
        name = task.task_spec["id"]
        commands, expected = TERMINAL_SCRIPT[name]
        calls = [("bash", {"command": c}) for c in commands] + [("submit", {})]
        results.append(play(environment, task, name, calls, expected))
    return results


def push_change(folder: str) -> None:
    """Another question for the task of the split "train", committed and pushed; returns when it is deployed."""
    server = pathlib.Path(folder, "server.py")
    server.write_text(server.read_text().replace('2+2?", "solution": "4"', '3+3?", "solution": "6"'))
    for command in (["commit", "--quiet", "--all", "--message", "Ask for 3+3"], ["push", "--quiet", "origin", "main"]):
        subprocess.run(["git", "-C", folder, *command], check=True)


def play_rolling(environment, folder: str) -> list[bool]:
    old_task = environment.list_tasks(split="train")[0]
    with environment.session(task=old_task) as session:
        show("old", session.get_prompt()[0].text)
        started = time.monotonic()
        push_change(folder)
        print(f"  pushed and deployed in {time.monotonic() - started:.2f} s; the session is still open")
        new = play(environment, environment.list_tasks(split="train")[0], "of the new revision", [("answer", {"answer": "6"})], 1.0)
        reward = call(session, "answer", {"answer": "4"})
        print(f"  the old session ends on the old revision: reward {reward}")
    return [new, reward == 1.0]


def main() -> int:
    kind, name = sys.argv[1:3]
    with OpenReward(api_key=os.environ["OPENREWARD_API_KEY"]) as client:
        environment = client.environments.get(name)
        if kind == "rolling":
            results = play_rolling(environment, sys.argv[3])
        else:
            results = play_terminal(environment) if kind == "terminal" else play_hello(environment)
    print(f"  {sum(results)} of {len(results)} rewards as expected")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
