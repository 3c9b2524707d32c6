"""Sessions through whatever a day brings: a new revision is deployed, the daemon is killed, an instance crashes. SOAK_SESSIONS (200;
2,000 when SOAK_SECONDS says that there is time), half of them opened before and half after the new revision. None is lost but the
crashed instance's, and each of those is told so with a 410. Calls that ran twice in a server are counted."""
import asyncio
import json
import os
import time

import pytest

from orw import running
from tinyenv import deploy_tiny

LONG = int(os.environ.get("SOAK_SECONDS") or 60) > 120
SESSIONS = int(os.environ.get("SOAK_SESSIONS") or (2000 if LONG else 200))
INSTANCES = 4         # of the first revision
PAUSE_S = 0.001 * SESSIONS + 0.3  # of an agent between two calls: so many do not wait for the machine only

pytestmark = pytest.mark.timeout(900)


class Agent:
    """Calls again and again; `where` is the instance that its session is with, `end` how it ended."""

    def __init__(self, environment, number):
        self.environment, self.number = environment, number
        self.calls, self.doubled, self.where, self.end = 0, 0, "", ""
        self.must_crash = False
        self.ready, self.over = asyncio.Event(), asyncio.Event()

    async def call(self, session, tool, **given):
        result = await session.call_tool(tool, given)
        self.calls += 1
        return "".join(b.text for b in result.blocks)

    async def about(self, session):
        about = json.loads(await self.call(session, "about"))
        where = (about["instance"], about["pid"], about["sid"])
        assert self.where in ("", where), f"{self.where} became {where}"
        self.where = where
        self.doubled = about["calls"] - self.calls  # the server counts this one when it begins
        assert self.doubled >= 0

    async def live(self):
        async with self.environment.session(split="train", index=self.number % 10) as session:
            await self.about(session)
            self.ready.set()
            while not self.over.is_set():
                if self.must_crash:
                    await self.call(session, "crash", text="as it was told")
                text = f"{self.number} {self.calls}"
                assert await self.call(session, "echo", text=text) == text
                await asyncio.sleep(PAUSE_S)
            await self.about(session)

    async def run(self):
        try:
            await self.live()
            self.end = "whole"
        except Exception as e:  # pylint: disable=broad-except # told by who looks at it
            self.end = f"{type(e).__name__}: {e}"
        self.ready.set()


async def open_some(environment, first, n):
    agents = [Agent(environment, first + i) for i in range(n)]
    tasks = [asyncio.create_task(a.run()) for a in agents]
    await asyncio.gather(*[a.ready.wait() for a in agents])
    return agents, tasks


def kill_daemon(platform):
    platform.process.kill()
    platform.process.wait()
    began = time.monotonic()
    platform.start()
    return time.monotonic() - began


async def through_the_day(platform, name):
    """The agents of both revisions, the name of the instance that crashed, how long the restart took."""
    from openreward import AsyncOpenReward
    client = AsyncOpenReward(api_key=platform.key)
    async with client.environments as environments:
        environment = environments.get(name)
        old, tasks = await open_some(environment, 0, SESSIONS // 2)
        assert all(a.where for a in old), [a.end for a in old if not a.where][:3]
        await asyncio.to_thread(deploy_tiny, platform, name, revision="two")
        new, more = await open_some(environment, SESSIONS // 2, SESSIONS - SESSIONS // 2)
        await asyncio.sleep(1)
        took = await asyncio.to_thread(kill_daemon, platform)
        await asyncio.sleep(1)
        old[0].must_crash = True
        await tasks[0]  # with the instance; the others of it find out when they call
        await asyncio.sleep(1)
        for a in old + new:
            a.over.set()
        await asyncio.gather(*tasks, *more)
    return old, new, old[0].where[0], took


@pytest.fixture
def platform(monkeypatch):
    with running("sessions:\n  idle: 60s\n") as p:
        for k, v in p.env.items():
            monkeypatch.setenv(k, v)
        yield p


def test_sessions(platform):
    name = deploy_tiny(platform, "sessions", revision="one")
    done = platform.cli("env", "set", name, f"concurrency={-(-SESSIONS // 2 // INSTANCES)}", f"max_scale={2 * INSTANCES + 1}")
    assert done.returncode == 0, done.stderr
    old, new, crashed, took = asyncio.run(through_the_day(platform, name))

    with_it = [a for a in old if a.where and a.where[0] == crashed]
    lost = [a for a in old + new if a not in with_it and a.end != "whole"]
    print(f"\n{SESSIONS} sessions, {sum(a.calls for a in old + new)} calls; {len(with_it)} were with the instance that crashed; the "
          f"daemon was back after {took:.2f} s; {sum(a.doubled for a in old + new)} calls ran twice")
    assert lost == [], [a.end for a in lost][:5]
    assert 0 < len(with_it) < SESSIONS // 2
    for a in with_it:
        assert "410" in a.end and "outcome infra" in a.end, a.end
    assert not {a.where[0] for a in old} & {a.where[0] for a in new}, "revisions have instances of their own"
    assert platform.leaks() == ""
