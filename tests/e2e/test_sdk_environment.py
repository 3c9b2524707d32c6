"""The SDK's whole surface on the environment that `orwd init --template basic` writes, unchanged."""
import asyncio

import pytest
from openreward import AsyncOpenReward
from openreward.api.environments.types import ToolCallError


@pytest.fixture
def environment(client, hello):
    return client.environments.get(hello)


def text(blocks):
    return "".join(b.text for b in blocks)


def test_listings(environment):
    assert environment.list_splits() == ["train", "test"]
    tasks = environment.list_tasks(split="train")
    assert [t.task_spec["problem"] for t in tasks] == ["What is 2+2?"]
    assert tasks[0].environment_name == "basicenvironment"
    assert environment.num_tasks("test") == 1
    assert environment.get_task("test", 0).task_spec["solution"] == "8"
    assert [t.task_spec["id"] for t in environment.get_task_range("train", 0, 1)] == ["train-0"]
    assert [t.task_spec["id"] for t in environment.get_task_range("train", -1)] == ["train-0"]


@pytest.mark.parametrize("split,index", [("nope", 0), ("train", 99)])
def test_listing_errors_are_the_environments_own(environment, split, index):
    with pytest.raises(Exception) as raised:
        environment.get_task(split, index)
    assert raised.value.status == 400
    assert "Invalid" in raised.value.message


@pytest.mark.parametrize("format", [None, "openai", "anthropic", "google", "openrouter"])
def test_tools_in_each_format(environment, format):
    tools = environment.list_tools(format=format) if format else environment.list_tools()
    assert len(tools) == 1 and "answer" in str(tools[0])


def test_session_by_task(environment):
    with environment.session(task=environment.list_tasks(split="train")[0]) as session:
        assert text(session.get_prompt()) == "What is 2+2?"
        messages = session.get_messages()
        assert messages[0].role == "user" and text(messages[0].blocks) == "What is 2+2?"
        assert session.get_messages(format="openai")[0]["role"] == "user"
        assert session.list_tools()[0].name == "answer"
        result = session.call_tool("answer", {"answer": "4"})
        assert (text(result.blocks), result.reward, result.finished) == ("Correct!", 1.0, True)


def test_session_by_split_and_index(environment):
    with environment.session(split="test", index=0) as session:
        result = session.call_tool("answer", {"answer": "7"})
        assert (text(result.blocks), result.reward, result.finished) == ("Wrong!", 0.0, True)


def test_wrong_calls(environment):
    with environment.session(split="train", index=0) as session:
        with pytest.raises(ToolCallError) as raised:
            session.call_tool("nope", {})
        assert raised.value.reason == "not_found"
        with pytest.raises(ToolCallError) as raised:
            session.call_tool("answer", {"answer": 4, "extra": []})
        assert raised.value.reason == "input_validation"
        assert session.call_tool("answer", {"answer": "4"}).reward == 1.0
        with pytest.raises(ToolCallError) as raised:
            session.call_tool("answer", {"answer": "4"})
        assert raised.value.reason == "episode_finished"


def test_index_out_of_range_at_create(environment):
    with pytest.raises(Exception) as raised:
        with environment.session(split="train", index=5):
            pass
    assert raised.value.status == 400


def test_version_is_the_environments(environment):
    with environment.session(split="train", index=0) as session:
        assert set(session.version()) == {"version", "build_sha"}  # what the SDK's own server says of itself


def test_unknown_environment(client):
    with pytest.raises(Exception) as raised:
        client.environments.get("local/no-such").list_splits()
    assert raised.value.status == 404
    assert "case-sensitive" in raised.value.message  # the SDK's spelling hint


def test_wrong_key(hello):
    from openreward import OpenReward
    with pytest.raises(Exception) as raised:
        with OpenReward(api_key="orw_" + "x" * 43) as stranger:
            stranger.environments.get(hello).list_splits()
    assert "Authentication" in type(raised.value).__name__


def test_async_client(hello):
    async def play():
        client = AsyncOpenReward()
        async with client.environments as environments:
            environment = environments.get(hello)
            assert await environment.list_splits() == ["train", "test"]
            assert await environment.num_tasks("train") == 1

            async def one(answer):
                async with environment.session(split="train", index=0) as session:
                    return (await session.call_tool("answer", {"answer": answer})).reward

            return await asyncio.gather(*[one("4" if i % 2 else "5") for i in range(20)])

    assert asyncio.run(play()) == [0.0, 1.0] * 10


def test_deleted_session_is_gone(platform, client, hello):
    with client.environments.get(hello).session(split="train", index=0) as session:
        sid = session.sid
    status, _, body = platform.request("GET", "/prompt", headers={"X-Session-ID": sid})
    assert status == 410 and b"deleted" in body
    status, _, body = platform.request("POST", "/delete_session", b"", headers={"X-Session-ID": sid})
    assert status == 200 and sid.encode() in body  # repeats are harmless


def test_a_tool_that_raises_ends_the_session(platform, client, hello):
    """A malformed /call is the environment's to refuse: passed on and back unchanged."""
    with client.environments.get(hello).session(split="train", index=0) as session:
        status, _, body = platform.request("POST", "/basicenvironment/call", b'{"name": 5}',
                                           headers={"X-Session-ID": session.sid, "Content-Type": "application/json"})
        assert status == 422 and b"name" in body
