"""A simulated trainer: groups of sixteen rollouts of one task, hundreds at once, with pauses as a model makes them.

    python trainer.py NAME AT_ONCE SEED SANDBOX_SHARE

A process of its own with the asynchronous SDK, so that it can be killed in the middle of everything. It prints {"ready": true}
when it has loaded that, and begins when it has read until when (time.monotonic() in this machine). It prints a JSON line per
rollout that ended: {"reward", "expected", "calls", "doubled", "seconds"} or {"error", "causes", "in"}; at SIGTERM it starts no more, waits for
those under way, and prints {"over": true}; at SIGUSR1 it breaks all of its connections."""
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import stat
import sys
import time
import traceback

import aiohttp
from openreward import AsyncOpenReward, SandboxSettings
from openreward.api.environments.client import ToolCallError
from openreward.api.errors import MaxRetriesError

GROUP = 16           # rollouts of one task
PAUSE_S = 0.5        # of a model between two calls: the mean of an exponential distribution
VICTIM = "0.8125"    # how long commands sleep that may be killed: they are known by it
ASK_PLATFORM = """
for i in $(seq 40); do
    python3 -c "import urllib.request as u; u.urlopen('http://openreward.internal/health', timeout=5)" 2>&- && exit 0
    sleep 0.5
done
exit 9
"""
VANISH_SHARE = 0.05  # of the rollouts are given up without a word to the server
CALLS_MAX = 6


class Wrong(Exception):
    pass


def check(condition: bool, what: object) -> None:
    if not condition:
        raise Wrong(str(what))


def text_of(result) -> str:
    return "".join(b.text for b in result.blocks)


class Rollout:
    def __init__(self, trainer: "Trainer", number: int) -> None:
        self.trainer, self.number = trainer, number
        self.dice = random.Random(f"{trainer.seed} {number}")
        self.task_index = number // GROUP % len(trainer.tasks)
        self.right = self.dice.random() < 0.6
        self.calls = 0
        self.doubled = False
        self.opened_at = 0.0  # time.time() when its session was first asked for

    async def think(self) -> None:
        await asyncio.sleep(min(self.dice.expovariate(1 / PAUSE_S), 10 * PAUSE_S))

    async def call(self, session, tool: str, **given: object):
        self.calls += 1
        return await session.call_tool(tool, given)

    async def echo(self, session) -> None:
        text = f"{self.number} {self.calls} {self.dice.random()}"
        answer = text_of(await self.call(session, "echo", text=text))
        check(answer == text, f"echo: {answer!r} for {text!r}")

    async def some_calls(self, session) -> None:
        for _ in range(self.dice.randrange(CALLS_MAX)):
            await self.think()
            if self.dice.random() < 0.2:
                await asyncio.gather(self.echo(session), self.echo(session))
            else:
                await self.echo(session)

    async def use_sandbox(self) -> None:
        settings = SandboxSettings(environment=self.trainer.name, image="python:3.11-slim", machine_size="0.5:0.5",
                                   block_network=False)
        async with self.trainer.client.sandbox(settings) as sandbox:
            for k in range(self.dice.randrange(1, 4)):
                await self.think()
                # Each command leaves a line: a second one would show a run that was made twice, one too few a run that gave
                # its result to two.
                victim = self.dice.random() < 0.3
                command = f"echo {self.number}.{k} >> /tmp/lines; cat /tmp/lines" + (f"; exec sleep {VICTIM}" if victim else "")
                answer = await sandbox.run(command)
                wanted = "\n".join(f"{self.number}.{j}" for j in range(k + 1))
                check(answer.output.strip() == wanted, f"run {k}: {answer.output!r}")
                check(answer.return_code in ((0, 137) if victim else (0,)), answer)
            if self.dice.random() < 0.2:
                answer = await sandbox.run(ASK_PLATFORM, timeout=120)
                check(answer.return_code == 0, f"the platform from inside: {answer}")

    async def play(self) -> float:
        task = self.trainer.tasks[self.task_index]
        self.opened_at = time.time()
        async with self.trainer.environment.session(task=task) as session:
            prompt = "".join(b.text for b in await session.get_prompt())
            check(f"{task.task_spec['id']}+{task.task_spec['id']}" in prompt, f"prompt of {task.task_spec}: {prompt}")
            await self.some_calls(session)
            if self.dice.random() < self.trainer.sandbox_share:
                await self.use_sandbox()
            await self.think()
            number = 2 * task.task_spec["id"]
            try:
                result = await self.call(session, "answer", answer=str(number if self.right else number + 1))
            except ToolCallError as e:
                # The server had run it, but the connection broke before its task_id: the SDK asked once more.
                if not self.right or e.reason != "episode_finished":
                    raise
                self.doubled = True
                return 1.0
            return result.reward

    async def run(self) -> dict:
        started = time.monotonic()
        reward = await self.play()
        expected = 1.0 if self.right else 0.0
        return {"reward": reward, "expected": expected, "calls": self.calls, "doubled": self.doubled,
                "seconds": round(time.monotonic() - started, 3)}


def where(error: Exception) -> str:
    """The calls that led to it, as far as they are the trainer's and the SDK's."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{f.name}:{f.lineno}" for f in frames if f.filename == __file__ or "/openreward/" in f.filename)


def causes_of(error: BaseException) -> list[str]:
    """What was at the bottom of it, of each try where the SDK gave up after several: "connection", an answer's status, or the class."""
    if isinstance(error, MaxRetriesError):
        return sorted({cause for e in error.errors for cause in causes_of(e)})
    if isinstance(error, aiohttp.ClientResponseError):
        return [str(error.status)]
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
        return ["connection"]
    return causes_of(error.__cause__) if error.__cause__ else [type(error).__name__]


class Trainer:
    def __init__(self, name: str, at_once: int, seed: str, sandbox_share: float) -> None:
        self.name, self.at_once, self.seed, self.sandbox_share = name, at_once, seed, sandbox_share
        self.until = 0.0
        self.dice = random.Random(seed)
        self.next = 0

    def stop(self) -> None:
        self.until = 0

    async def one(self, number: int) -> None:
        one = Rollout(self, number)
        rollout = asyncio.ensure_future(one.run())
        try:
            if self.dice.random() < VANISH_SHARE:
                await asyncio.wait({rollout}, timeout=self.dice.uniform(0, 4 * PAUSE_S))
                if not rollout.done():
                    rollout.cancel()
                    await asyncio.wait({rollout})
                    return
            line = await rollout
        except Exception as e:  # pylint: disable=broad-except # whatever it is, it is a rollout that was lost
            line = {"error": f"{type(e).__name__}: {e}"[:500], "causes": causes_of(e), "in": where(e), "opened_at": one.opened_at}
        print(json.dumps({"rollout": number, "at": round(time.time(), 3), **line}), flush=True)

    async def lane(self) -> None:
        while time.monotonic() < self.until:
            number, self.next = self.next, self.next + 1
            await self.one(number)

    async def list_tasks(self) -> None:
        """Once more where the spawner had just been killed, which ends what waits for a start, and says so."""
        for left in reversed(range(5)):
            try:
                self.tasks = await self.environment.list_tasks(split="train")
                return
            except Exception as e:  # pylint: disable=broad-except # in whichever of its requests
                if left == 0 or "outcome infra" not in str(e):
                    raise
                await asyncio.sleep(1)

    async def train(self) -> None:
        self.client = AsyncOpenReward()
        async with self.client.environments as environments:
            self.environment = environments.get(self.name)
            await self.list_tasks()
            await asyncio.gather(*[self.lane() for _ in range(self.at_once)])


def break_connections() -> None:
    """As a network does: what had arrived can still be read, and nothing more comes."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # gone meanwhile, no socket, or not connected
            break_connection(os.dup(int(fd)))


def break_connection(fd: int) -> None:
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as s:
                if s.family == socket.AF_INET:
                    s.shutdown(socket.SHUT_WR)
    finally:
        os.close(fd)


async def main() -> None:
    name, at_once, seed, share = sys.argv[1:5]
    trainer = Trainer(name, int(at_once), seed, float(share))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, trainer.stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, break_connections)
    print(json.dumps({"ready": True}), flush=True)
    trainer.until = float(sys.stdin.readline())
    await trainer.train()
    print(json.dumps({"over": True}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
