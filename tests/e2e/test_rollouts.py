"""Runs and rollouts: logged by the SDK and by plain HTTP, read by orwd, the verbs and HTTP; kept over kill -9."""
import contextlib
import io
import json
import os
import random
import threading
import urllib.parse
import uuid

import pytest

from orw import Platform, wait_until

# Little room for requests that are not on disk yet, so that some have to wait.
CONFIG = """
rollouts:
  pending: 1MiB
"""
FORMATS = ("table", "json", "yaml", "jsonl")


@pytest.fixture(scope="module")
def own():
    """A platform without images: nothing here runs in a sandbox."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the spawner makes namespaces and mounts")
    p = Platform(CONFIG)
    try:
        p.start()
        yield p
    finally:
        p.stop()
        p.remove()


# -- what is sent and what comes back --------------------------------------------------------------------------------


def rollout(run, event_id=None, **more):
    return {"eventType": "rollout", "eventId": event_id or str(uuid.uuid4()), "timestamp": 1_700_000_000_000, "runName": run, **more}


def message(of, index, content="x", **more):
    return {"eventType": "message", "eventId": str(uuid.uuid4()), "timestamp": 1_700_000_000_500, "rolloutEventId": of, "index": index,
            "type": "assistant_message", "content": content, **more}


def update(of, timestamp=1_700_000_001_000, **info):
    return {"eventType": "rollout_update", "eventId": of, "timestamp": timestamp, "rollout_info": info}


def post(platform, *events, body=None, **kw):
    data = body if body is not None else json.dumps({"events": events}).encode()
    status, headers, answer = platform.request("POST", "/v1/rollouts", data, {"Content-Type": "application/json"}, **kw)
    return status, headers, json.loads(answer)


def record(platform, *events):
    """Returns (new, repeated)."""
    status, _, answer = post(platform, *events)
    assert status == 200, answer
    return answer["recorded"], answer["repeated"]


def get(platform, path, expected=200, **query):
    full = path + ("?" + urllib.parse.urlencode(query) if query else "")
    status, _, answer = platform.request("GET", full)
    assert status == expected, (full, status, answer)
    return json.loads(answer)


def pages(platform, path, key, **query):
    """Everything that a list has, by its tokens."""
    found, token = [], ""
    while token is not None:
        page = get(platform, path, pageToken=token, **query)
        found += page[key]
        token = page["nextPageToken"]
    return found


def test_what_the_sdk_logs(own):
    from openreward import AssistantMessage, RolloutInfo, RunInfo, SystemMessage, ToolCall, ToolResult, UserMessage
    get(own, "/v1/environments/local/logged", 404)
    own.request("POST", "/v1/environments", json.dumps({"name": "logged"}).encode())
    with own.client() as client:
        r = client.rollout.create(run_name="sdk run", rollout_name="first", environment="local/logged", split="train", metadata={"k": [1]},
                                  task_spec={"id": 9}, run_info=RunInfo(model_name="tiny", model_params=7, training_stage="rl"))
        r.log(SystemMessage("be brief"))
        r.log(UserMessage("what is 6 × 7?"))
        r.log(ToolCall(name="times", content='{"a": 6, "b": 7}', call_id="c1"))
        r.log(ToolResult(content="42", call_id="c1"), reward=0.25)
        r.log(AssistantMessage("42"), reward=1.0, is_finished=True, metadata={"m": "é"}, rollout_info=RolloutInfo(task_index=3, temperature=0.5))
        r.log_openai_completions({"role": "assistant", "content": "bye"})
        client.rollout.close()  # sends what it has gathered
    found = get(own, f"/v1/rollouts/{r.event_id}")
    assert [m["type"] for m in found["messages"]] == ["system_message", "user_message", "tool_call", "tool_result", "assistant_message",
                                                      "assistant_message"]
    assert [m["index"] for m in found["messages"]] == list(range(6))
    assert found["messages"][1]["content"] == "what is 6 × 7?"
    assert (found["messages"][2]["name"], found["messages"][2]["callId"]) == ("times", "c1")
    assert found["messages"][4]["metadata"] == {"m": "é"} and found["messages"][4]["isFinished"]
    assert found["task_spec"] == {"id": 9} and found["metadata"] == {"k": [1]}
    assert found["run_info"] == {"model_name": "tiny", "model_params": 7, "training_stage": "rl"}
    assert found["rollout_info"] == {"task_index": 3, "temperature": 0.5}
    assert (found["max_reward"], found["num_messages"], found["task_index"], found["is_finished"]) == (1.0, 6, 3, True)
    assert found["response_chars"] == len('{"a": 6, "b": 7}') + len("42") + len("bye")
    run = get(own, "/v1/runs", search="SDK")["runs"][0]
    assert (run["name"], run["num_rollouts"], run["avg_rollout_reward"], run["avg_rollout_length"]) == ("sdk run", 1, 1.0, 6)
    with own.client() as client:
        tasks = client.environments.get("local/logged").get_task_difficulty(model_name="tiny", max_model_params=7)
    assert [(t.task_index, t.avg_reward, t.num_rollouts, t.split, t.response_chars.p50) for t in tasks] == [(3, 1.0, 1, "train", 21.0)]


def test_any_order_and_repeats(own):
    rid = str(uuid.uuid4())
    late, early = message(rid, 1, "second", reward=0.5), message(rid, 0, "first")
    assert record(own, late, update(rid, 5000, current_step=2), update(rid, 4000, current_step=1, task_index=8)) == (3, 0)
    unlisted = get(own, f"/v1/rollouts/{rid}")
    assert (unlisted["runId"], unlisted["num_messages"], unlisted["rollout_info"]) == (None, 1, {"current_step": 2, "task_index": 8})
    assert get(own, "/v1/runs", search="any order")["total"] == 0
    begins = rollout("any order", rid)
    assert record(own, begins, early, late) == (2, 1)
    assert record(own, late, early, begins, update(rid, 4000, current_step=1)) == (0, 4)
    found = get(own, f"/v1/rollouts/{rid}")
    assert [m["content"] for m in found["messages"]] == ["first", "second"]
    assert found["runName"] == "any order" and found["max_reward"] == 0.5
    run = get(own, "/v1/runs/" + found["runId"])
    assert (run["num_rollouts"], run["num_messages"]) == (1, 2)
    assert get(own, "/v1/runs/any%20order") == run, "its name does as well"


def test_bad_events_are_named_and_nothing_of_them_is_kept(own):
    rid = str(uuid.uuid4())
    good, bad = rollout("bad run", rid), message(rid, -1)
    status, _, answer = post(own, good, bad)
    assert status == 400 and answer["detail"] == answer["message"]
    assert answer["message"] == "events[1]: index: -1: expected an integer from 0 to 2147483647"
    get(own, f"/v1/rollouts/{rid}", 404)
    assert record(own, good, {**bad, "index": 1}) == (2, 0), "corrected, it works"
    assert post(own, body=b"{")[0] == 400
    assert post(own, good, key=None)[0] == 401
    assert post(own, good, key="orw_wrong")[0] == 401
    for path, expected in (("/v1/runs?limit=x", 400), ("/v1/runs?limit=-1", 400), ("/v1/runs/none", 404), ("/v1/runs/none/rollouts", 404),
                           ("/v1/runs/none/export", 404), ("/v1/rollouts/none", 404), ("/v1/rollouts/" + "x" * 2000, 404),
                           ("/v1/runs?search=" + "x" * 2000, 400), ("/v1/environments/local/none/task-difficulty", 404),
                           ("/v1/billing/api-usage?days=0", 400), ("/v1/billing/api-usage?granularity=week", 400),
                           ("/v1/billing/api-usage?service=x", 400)):
        answer = get(own, path, expected)
        assert answer["message"] and answer["detail"] == answer["message"], path


def test_large_messages_and_large_bodies(own):
    rid = str(uuid.uuid4())
    texts = [os.urandom(10 << 20).hex(), "é" * 1000, "y" * (20 << 20), "z" * (21 << 20)]
    body = json.dumps({"events": [rollout("large", rid)] + [message(rid, i, t) for i, t in enumerate(texts)]}).encode()
    assert 61 << 20 < len(body) < 64 << 20
    status, _, answer = post(own, body=body)
    assert (status, answer) == (200, {"recorded": 5, "repeated": 0})
    found = pages(own, f"/v1/rollouts/{rid}", "messages")
    assert [m["content"] == t for m, t in zip(found, texts, strict=True)] == [True] * 4
    assert len(get(own, f"/v1/rollouts/{rid}")["messages"]) < 4, "a page has an end by its size, too"
    try:
        status = post(own, body=body + b" " * (65 << 20))[0]
        assert status == 413
    except (ConnectionError, OSError):
        pass  # refused while it was still sending
    assert record(own, message(rid, 9)) == (1, 0)


def test_requests_beyond_the_memory_for_them_wait(own):
    texts = ["a" * (700 << 10) for _ in range(6)]
    rids = [str(uuid.uuid4()) for _ in texts]
    answers = []
    threads = [threading.Thread(target=lambda r=r, t=t: answers.append(post(own, rollout("waiting", r), message(r, 0, t))))
               for r, t in zip(rids, texts, strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert [a[0] for a in answers] == [200] * 6
    assert get(own, "/v1/runs/waiting")["num_messages"] == 6


# -- pages -----------------------------------------------------------------------------------------------------------


def test_pages_have_everything_once(own):
    rids = [str(uuid.uuid4()) for _ in range(130)]
    for start in range(0, len(rids), 50):
        record(own, *[rollout("paged", r, rolloutName=f"n{start + i}") for i, r in enumerate(rids[start:start + 50])])
    record(own, *[message(rids[0], i // 3, f"m{i}") for i in range(1000)])
    by_token = pages(own, "/v1/runs/paged/rollouts", "rollouts", limit=17)
    assert [r["id"] for r in by_token] == rids[::-1], "newest first"
    by_offset = [r for o in range(0, 130, 17) for r in get(own, "/v1/runs/paged/rollouts", limit=17, offset=o)["rollouts"]]
    assert by_offset == by_token
    assert get(own, "/v1/runs/paged/rollouts", offset=130)["rollouts"] == []
    assert get(own, "/v1/runs/paged/rollouts", limit=0)["total"] == 130
    messages = pages(own, f"/v1/rollouts/{rids[0]}", "messages", limit=101)
    assert [m["content"] for m in messages] == [f"m{i}" for i in range(1000)]
    assert get(own, f"/v1/rollouts/{rids[0]}", limit=2, offset=997)["messages"] == messages[997:999]
    record(own, *[rollout(f"page%_{i}") for i in range(5)], rollout("pagex_9"))
    runs = pages(own, "/v1/runs", "runs", limit=2, search="page%_")
    assert [r["name"] for r in runs] == [f"page%_{i}" for i in range(4, -1, -1)]
    assert get(own, "/v1/runs", search="PAGE%", offset=1, limit=3)["runs"] == runs[1:4]


def test_a_token_of_another_list_is_refused(own):
    a, b = str(uuid.uuid4()), str(uuid.uuid4())
    record(own, rollout("token a", a), rollout("token a"), rollout("token b", b), rollout("token b"))
    record(own, *[message(r, i) for r in (a, b) for i in range(2)])
    lists = {"/v1/runs": {"search": "token"}, "/v1/runs?search=tok": {}, "/v1/runs/token%20a/rollouts": {}, "/v1/runs/token%20b/rollouts": {},
             f"/v1/rollouts/{a}": {}, f"/v1/rollouts/{b}": {}}
    tokens = {}
    for path, query in lists.items():
        full = path + ("&" if "?" in path else "?") + urllib.parse.urlencode({"limit": 1, **query})
        tokens[full] = get(own, full)["nextPageToken"]
        assert tokens[full]
    for full in tokens:
        for of, token in tokens.items():
            answer = get(own, f"{full}&pageToken={token}", 200 if of == full else 400)
            assert of == full or "pageToken" in answer["message"]
    get(own, "/v1/runs?pageToken=17", 400)


# -- the difficulty of tasks -----------------------------------------------------------------------------------------


def percentile(values, p):
    values = sorted(values)
    rank = p / 100 * (len(values) - 1)
    low = int(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (rank - low)


def brute_force(logged, **f):
    groups = {}
    for r in logged:
        if r["reward"] is None or r["task"] is None:
            continue
        if any(f.get(k) is not None and f[k] != r[k] for k in ("split", "variant", "model_name", "training_stage")):
            continue
        if "min_model_params" in f and (r["params"] is None or r["params"] < f["min_model_params"]):
            continue
        if "max_model_params" in f and (r["params"] is None or r["params"] > f["max_model_params"]):
            continue
        groups.setdefault((r["split"] or "", r["variant"] or "", r["task"]), []).append(r)
    out = []
    for (split, variant, task), rs in sorted(groups.items()):
        rewards, chars = [r["reward"] for r in rs], [r["chars"] for r in rs]
        out.append({"task_index": task, "avg_reward": sum(rewards) / len(rewards), "min_reward": min(rewards), "max_reward": max(rewards),
                    "num_rollouts": len(rs), "split": split or None, "variant": variant or None,
                    "response_chars": {"mean": sum(chars) / len(chars), **{f"p{p}": percentile(chars, p) for p in (1, 10, 25, 50, 75, 90, 99)}}})
    return out


def log_at_random(rng, run):
    """The events of one rollout, and what the difficulty should know of it."""
    rid = str(uuid.uuid4())
    known = {"split": rng.choice([None, "train", "test"]), "variant": rng.choice([None, "v1"]), "model_name": rng.choice([None, "a", "b"]),
             "training_stage": rng.choice([None, "sft", "rl"]), "params": rng.choice([None, 1, 70, 10**12]),
             "task": rng.choice([None, 0, 1, 7]), "reward": None, "chars": 0}
    info = {"model_name": known["model_name"], "training_stage": known["training_stage"], "model_params": known["params"]}
    events = [rollout(run, rid, environment="local/hard", split=known["split"], variant=known["variant"], run_info=info)]
    for i in range(rng.randrange(6)):
        kind = rng.choice(["reasoning", "tool_call", "tool_result", "user_message", "assistant_message"])
        text = "ü" * rng.randrange(60)
        reward = rng.choice([None, None, 0, 0.25, 0.5, -1])
        events.append(message(rid, i, text, type=kind, reward=reward))
        known["chars"] += len(text) if kind in ("reasoning", "tool_call", "assistant_message") else 0
        if reward is not None:
            known["reward"] = reward if known["reward"] is None else max(reward, known["reward"])
    if known["task"] is not None:
        events += [update(rid, 10, task_index=5), update(rid, 20, task_index=known["task"])]
    return events, known


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return abs(a - b) < 1e-9 if isinstance(a, float) or isinstance(b, float) else a == b


def test_difficulty_is_what_brute_force_finds(own):
    own.request("POST", "/v1/environments", json.dumps({"name": "hard"}).encode())
    rng = random.Random(4)
    logged, events = [], []
    for _ in range(250):
        more, known = log_at_random(rng, "difficult")
        events += more
        logged.append(known)
    rng.shuffle(events)
    filters = [{}, {"split": "train"}, {"variant": "v1"}, {"model_name": "a"}, {"training_stage": "rl"}, {"min_model_params": 70},
               {"max_model_params": 70}, {"min_model_params": 2, "max_model_params": 10**11}, {"split": "none"},
               {"split": "test", "variant": "v1", "model_name": "b", "training_stage": "sft"}]
    for start in range(0, len(events), 128):
        record(own, *events[start:start + 128])
        for f in filters[::2]:  # asked in between, so that the answers have to be brought up to date
            get(own, "/v1/environments/local/hard/task-difficulty", **f)
    for f in filters:
        found, expected = get(own, "/v1/environments/local/hard/task-difficulty", **f)["tasks"], brute_force(logged, **f)
        assert len(found) == len(expected) and all(same(x, y) for x, y in zip(found, expected, strict=True)), f
    assert expected and len(brute_force(logged)) > 10, "the test says something"
    for bad in ("min_model_params=x", "max_model_params=-1", "training_stage=y"):
        assert bad.split("=")[0] in get(own, f"/v1/environments/local/hard/task-difficulty?{bad}", 400)["message"]
    status, _, _ = own.request("GET", "/v1/environments/local/hard/task-difficulty", key=None)
    assert status == 401, "what others logged is not for everybody"


# -- the command lines -----------------------------------------------------------------------------------------------


def orwd(platform, monkeypatch, *argv):
    """(exit status, output, what was said of an error) of the SDK's command, in this process: starting one takes seconds."""
    from openreward import cli
    for k, v in platform.env.items():
        monkeypatch.setenv(k, v)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(list(argv))
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 1
            err.write(e.code if isinstance(e.code, str) else "")
    return status, out.getvalue(), err.getvalue()


def parse(fmt, text):
    import yaml
    if fmt == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text) if fmt == "json" else yaml.safe_load(text)


def log_golden(platform):
    rids = [f"00000000-0000-4000-8000-00000000000{i}" for i in range(3)]
    record(platform, rollout("golden run", rids[0], rolloutName="alpha", environment="local/thing"),
           message(rids[0], 0, "hello", reward=0.5, eventId="golden 0"),
           message(rids[0], 1, "bell \x07 and \x1b[31mred", eventId="golden 1"),
           rollout("golden run", rids[1], rolloutName="b" * 40, environment="local/" + "e" * 40), rollout("golden run", rids[2]))
    return rids


RUN_KEYS = ["id", "name", "num_rollouts", "num_messages", "avg_rollout_reward", "avg_rollout_length", "created_at", "updated_at"]


def test_orwd_in_every_format(own, monkeypatch):
    rids = log_golden(own)
    run = get(own, "/v1/runs/golden%20run")
    created = run["created_at"]
    assert created == "2023-11-14T22:13:20.000Z"
    assert orwd(own, monkeypatch, "runs", "--search", "golden")[:2] == (0, (
        "NAME                                     ROLLOUTS   AVG REWARD   CREATED\n"
        f"golden run                               3          0.500        {created}\n\nShowing 1 of 1 runs\n"))
    assert orwd(own, monkeypatch, "runs", "--search", "no such")[:2] == (0, "No runs found.\n")
    assert orwd(own, monkeypatch, "run", run["id"])[:2] == (0, (
        f"Name:           golden run\nID:             {run['id']}\nRollouts:       3\nAvg reward:     0.500\nAvg length:     0.7\n"
        f"Created:        {created}\nUpdated:        {run['updated_at']}\n"))
    assert orwd(own, monkeypatch, "rollouts", run["id"], "--limit", "2", "--offset", "1")[:2] == (0, (
        "NAME                           ENVIRONMENT               REWARD     MSGS   CREATED\n"
        f"{'b' * 30} local/{'e' * 19} -          0      {created}\n"
        f"alpha                          local/thing               0.500      2      {created}\n\nShowing 2 of 3 rollouts\n"))
    rollouts = get(own, f"/v1/runs/{run['id']}/rollouts")["rollouts"]
    assert [r["id"] for r in rollouts] == rids[::-1]
    for fmt in FORMATS[1:]:
        status, out, _ = orwd(own, monkeypatch, "runs", "--search", "golden", "-o", fmt)
        assert status == 0 and parse(fmt, out) == [run] and list(parse(fmt, out)[0]) == RUN_KEYS
        status, out, _ = orwd(own, monkeypatch, "run", run["id"], "--output", fmt)
        assert status == 0 and parse(fmt, out) == (run if fmt != "jsonl" else [run])
        assert parse(fmt, orwd(own, monkeypatch, "rollouts", run["id"], "-o", fmt)[1]) == rollouts
        assert parse(fmt, orwd(own, monkeypatch, "rollouts", run["id"], "--limit", "1", "-o", fmt)[1]) == rollouts[:1]


def test_orwd_whoami_and_usage(own, monkeypatch):
    me = get(own, "/v1/namespace/current")
    assert orwd(own, monkeypatch, "whoami")[:2] == (0, f"Namespace: local\nID:        {me['id']}\nType:      org\n")
    usage = get(own, "/v1/billing/api-usage", days=7)
    assert orwd(own, monkeypatch, "usage", "--days", "7")[:2] == (0, (
        f"Usage {usage['since'][:10]} to {usage['until'][:10]}\n\n  No API usage in this period.\n"))
    for fmt in FORMATS[1:]:
        found = parse(fmt, orwd(own, monkeypatch, "whoami", "-o", fmt)[1])
        assert found == (me if fmt != "jsonl" else [me])
        found = parse(fmt, orwd(own, monkeypatch, "usage", "--daily", "--service", "search", "-o", fmt)[1])
        found = found[0] if fmt == "jsonl" else found
        assert (found["byService"], found["daily"], found["totals"]) == ([], [], {"requests": 0, "cost": "0.000000", "pendingRequests": 0})


def test_orwd_used_wrongly(own, monkeypatch):
    assert orwd(own, monkeypatch, "run", "none")[::2] == (1, 'Error 404: run "none" not found')
    assert orwd(own, monkeypatch, "rollouts", "none")[::2] == (1, 'Error 404: run "none" not found')
    assert orwd(own, monkeypatch, "runs", "--limit", "-5")[::2] == (1, 'Error 400: limit: "-5": expected a whole number')
    assert orwd(own, monkeypatch, "usage", "--days", "91")[::2] == (1, 'Error 400: days: "91": expected a whole number from 1 to 90')
    assert orwd(own, monkeypatch, "rollouts")[0] == 2
    assert orwd(own, monkeypatch, "runs", "-o", "xml")[0] == 2


def test_our_own_verbs(own, tmp_path):
    rids = log_golden(own)
    run = get(own, "/v1/runs/golden%20run")
    done = own.cli("runs", "--search", "golden")
    assert done.stdout == (f"{'ID':<36}  {'NAME':<40}  ROLLOUTS    REWARD  CREATED\n"
                           f"{run['id']}  {'golden run':<40}         3     0.500  2023-11-14T22:13:20\n")
    assert [json.loads(line) for line in own.cli("runs", "--search", "golden", "--json").stdout.splitlines()] == [run]
    done = own.cli("rollouts", "golden run", "--limit", "1")
    assert done.stdout == (f"{'ID':<36}  {'NAME':<24} {'ENVIRONMENT':<24}    REWARD MESSAGES  CREATED\n"
                           f"{rids[2]}  {'-':<24} {'-':<24}         -        0  2023-11-14T22:13:20\n")
    done = own.cli("rollouts", "golden run", rids[0])
    assert done.stdout == ("-- 0  assistant_message  reward 0.5\nhello\n-- 1  assistant_message\nbell \\x07 and \\x1b[31mred\n"), \
        "nothing that a model wrote steers the terminal"
    lines = [json.loads(line) for line in own.cli("export", "golden run").stdout.splitlines()]
    assert [(x["runName"], x["rollout"]["id"], x["index"], x["content"]) for x in lines] == [
        ("golden run", rids[0], 0, "hello"), ("golden run", rids[0], 1, "bell \x07 and \x1b[31mred")]
    target = tmp_path / "run.jsonl"
    assert own.cli("export", run["id"], "--output", str(target)).returncode == 0
    assert [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()] == lines
    for argv, status, text in ((["runs", "x"], 2, "takes no argument"), (["runs", "--limit", "0"], 2, "--limit"), (["rollouts"], 2, "takes a run"),
                               (["rollouts", "none"], 1, "not found"), (["rollouts", "r", "none"], 1, "not found"), (["export"], 2, "takes one run"),
                               (["rollouts", "a", "--search", "b"], 2, "--search"), (["export", "none", "-o", str(tmp_path / "none")], 1, "not found")):
        done = own.cli(*argv)
        assert done.returncode == status and text in done.stderr and not done.stdout, (argv, done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.jsonl"]


# -- what is kept ----------------------------------------------------------------------------------------------------


def keep_posting(platform, stop, answered):
    """Batches of one thread, until it is told to stop or nobody answers."""
    while not stop.is_set():
        rid = str(uuid.uuid4())
        events = [rollout("killed", rid)] + [message(rid, i, "k" * 200) for i in range(40)]
        try:
            if post(platform, *events)[0] == 200:
                answered.append([e["eventId"] for e in events])
        except OSError:
            return


def test_kill_loses_nothing_that_was_answered(own):
    for _ in range(2):
        stop, answered = threading.Event(), []
        threads = [threading.Thread(target=keep_posting, args=(own, stop, answered)) for _ in range(4)]
        for t in threads:
            t.start()
        wait_until(lambda: len(answered) >= 30, 60, "thirty batches")
        own.process.kill()
        own.process.wait()
        own.process = None
        stop.set()
        own.start()
        for t in threads:
            t.join(60)
        status, _, text = own.request("GET", "/v1/runs/killed/export")
        assert status == 200
        lines = [json.loads(line) for line in text.splitlines()]
        ids = {x["id"] for x in lines} | {x["rollout"]["id"] for x in lines}
        assert not [i for batch in answered for i in batch if i not in ids]
        run = get(own, "/v1/runs/killed")
        assert (run["num_messages"], run["num_rollouts"]) == (len(lines), len(lines) // 40), "whole batches, and their sums fit"


def test_retention_leaves_the_newest(own):
    """Last: it removes what the others logged."""
    rids = [str(uuid.uuid4()) for _ in range(3)]
    for r in rids:
        record(own, rollout("kept", r), *[message(r, i) for i in range(100)])
    own.stop()
    with open(own.config_path, encoding="utf-8") as f:
        text = f.read()
    with open(own.config_path, "w", encoding="utf-8") as f:
        f.write(text.replace(CONFIG, CONFIG + "  max_messages: 250\n"))
    own.start()
    wait_until(lambda: get(own, "/v1/runs")["total"] == 1 and get(own, "/v1/runs/kept")["num_rollouts"] == 2, 60, "retention")
    assert [r["id"] for r in get(own, "/v1/runs/kept/rollouts")["rollouts"]] == rids[:0:-1]
    get(own, f"/v1/rollouts/{rids[0]}", 404)
