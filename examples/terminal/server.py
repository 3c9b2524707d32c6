"""An environment with a sandbox per session: a shell for the agent, and a hidden test as the judge."""
import base64
import shlex

from openreward import AsyncOpenReward, SandboxSettings
from openreward.environments import Environment, JSONObject, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel

from tasks import TASKS

TEST_TIMEOUT_S = 60


class BashParams(BaseModel, extra="forbid"):
    command: str


class SubmitParams(BaseModel, extra="forbid"):
    pass


class Terminal(Environment):
    """Small jobs at a shell, judged by a test that the agent does not see."""

    def __init__(self, task_spec: JSONObject = {}, secrets: dict[str, str] = {}) -> None:
        super().__init__(task_spec)
        self.task = next(t for t in TASKS if t["id"] == task_spec["id"])
        if not secrets.get("api_key"):
            raise ValueError("api_key: missing from the session's secrets; the sandbox can't be opened without it")
        settings = SandboxSettings(
            environment="local/terminal",
            image="python:3.11-slim",
            machine_size="0.5:1",
            block_network=True,
        )
        self.sandbox = AsyncOpenReward(api_key=secrets["api_key"]).sandbox(settings)

    async def setup(self) -> None:
        await self.sandbox.start()
        await self.sandbox.check_run("mkdir -p /workspace")
        for path, content in self.task["files"].items():
            await self._put(path, content)

    async def teardown(self) -> None:
        await self.sandbox.stop()

    async def _put(self, path: str, content: str) -> None:
        text = base64.b64encode(content.encode()).decode()
        await self.sandbox.check_run(f"echo {text} | base64 -d > {shlex.quote(path)}")

    @classmethod
    def list_splits(cls) -> list[str]:
        return ["test"]

    @classmethod
    def list_tasks(cls, split: str) -> list[JSONObject]:
        return [{"id": t["id"], "prompt": t["prompt"]} for t in TASKS]

    def get_prompt(self) -> list[TextBlock]:
        return [TextBlock(text=self.task["prompt"])]

    @tool
    async def bash(self, params: BashParams) -> ToolOutput:
        """Run a command in the sandbox's shell and read what it prints."""
        output, code = await self.sandbox.run(params.command, timeout=60)
        return ToolOutput(blocks=[TextBlock(text=f"{output}\n\n(exit {code})")], metadata={"exit_code": code})

    @tool
    async def submit(self, params: SubmitParams) -> ToolOutput:
        """Hand in the work. It is judged once, and the episode ends."""
        await self._put("/tmp/hidden_test.py", self.task["test"])
        output, code = await self.sandbox.run("python3 /tmp/hidden_test.py", timeout=TEST_TIMEOUT_S)
        passed = code == 0
        verdict = "passed" if passed else f"failed: {output.splitlines()[-1] if output else f'exit code {code}'}"
        return ToolOutput(
            blocks=[TextBlock(text=f"The hidden test {verdict}")],
            reward=1.0 if passed else 0.0,
            finished=True,
        )


if __name__ == "__main__":
    Server([Terminal]).run()
