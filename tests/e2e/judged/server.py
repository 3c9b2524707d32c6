"""An environment whose groups are scored by the SDK's judge, and the judge's model beside it in the same container: it prefers
whichever candidate says "please", whatever the order. It has a sandbox and the tools of the SDK's CLIToolset, too."""
import json
import os

from model_server import ModelServer
from openreward import AsyncOpenReward, SandboxSettings
from openreward.chat_backends import resolve_backend
from openreward.environments import Environment, Server, Split, TextBlock, ToolOutput, tool
from openreward.judging import PairwiseJudge, rank_group
from openreward.toolsets import CLIToolset
from pydantic import BaseModel


def verdict(body):
    """Of two candidates in the judge's own markup."""
    said = json.dumps(body["messages"][1])
    a, b = ("please" in said.partition(f"<candidate_{x}>")[2].partition(f"</candidate_{x}>")[0] for x in "ab")
    return "One is kinder.\n" + json.dumps({"winner": "tie" if a == b else "A" if a else "B"})


MODELS = ModelServer({"judge": verdict})
os.environ.update({"CHAT_BASE_URL": MODELS.url + "/v1", "CHAT_API_KEY": "sk-scripted"})


class Answer(BaseModel):
    text: str


class Judged(Environment):
    toolsets = [CLIToolset]

    def __init__(self, task_spec={}, secrets={}):
        super().__init__(task_spec)
        self.sandbox = AsyncOpenReward(api_key=secrets["api_key"]).sandbox(SandboxSettings(
            environment="local/judged", image="python:3.11-slim", machine_size="0.5:1", block_network=True))

    async def setup(self):
        await self.sandbox.start()

    async def teardown(self):
        await self.sandbox.stop()

    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train")]

    @classmethod
    def list_tasks(cls, split):
        return [{"id": "0"}]

    def get_prompt(self):
        return [TextBlock(text="Ask for the salt.")]

    @tool
    def answer(self, params: Answer) -> ToolOutput:
        """Hand in the sentence."""
        return ToolOutput(blocks=[TextBlock(text="noted")], reward=0.0, finished=True)

    async def score_group(self, candidates):
        judge = PairwiseJudge(model="judge", backend=resolve_backend(secrets={}), principles=["Prefer the kinder one."], seed=1)
        return await rank_group([c.messages for c in candidates], judge, topology="round_robin", aggregator="winrate")


if __name__ == "__main__":
    Server([Judged]).run()
