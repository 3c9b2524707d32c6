"""An environment server for tests, in plain Python: the same calls as the SDK's own server, and up in a tenth of a second.

Variables (of the image, or of a session's own instance):
  TINY_START_DELAY_S   sleeps before it listens
  TINY_FAIL_START      exits with this code instead of listening
  TINY_HEALTH_DELAY_S  listens, and answers /health with 503 for so long
  TINY_EXIT_AFTER_S    exits with code 7 after so long
  TINY_ENVIRONMENTS    names, separated by commas; the first is the default ("tiny")
  TINY_TASKS           how many tasks the split "train" has (10)
  TINY_REVISION        any text; "about" shows it
A task is {"id": N, "question": "What is N+N?"}; its answer ends the episode with reward 1. In a task_spec of one's own
"setup_s", "setup_error", "construct_s" and "teardown_s" say how long these take, or fail.
Tools: see class Tools.
"""
import asyncio
import base64
import gc
import json
import os
import signal
import sys
import time
import urllib.parse
import uuid

PIECE = 4096
HEARTBEAT_S = 10
ROOT_PATHS = {"health", "version", "ping", "list_environments", "create", "delete", "create_session", "delete_session"}
REASONS = {200: "OK", 308: "Permanent Redirect", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 410: "Gone",
           422: "Unprocessable Entity", 500: "Internal Server Error", 503: "Service Unavailable"}
ENVIRONMENTS = os.environ.get("TINY_ENVIRONMENTS", "tiny").split(",")
TASKS = int(os.environ.get("TINY_TASKS", "10"))
STARTED = time.monotonic()


class Failed(Exception):
    def __init__(self, status, detail, headers=None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


class Session:
    def __init__(self, sid, env_name, spec, headers):
        self.sid, self.env_name, self.spec, self.headers = sid, env_name, spec, headers
        self.finished = False
        self.calls = 0
        self.setup = asyncio.ensure_future(self.set_up())

    async def set_up(self):
        if self.spec.get("setup_s"):
            await asyncio.sleep(self.spec["setup_s"])
        if self.spec.get("setup_error"):
            raise Failed(500, str(self.spec["setup_error"]))

    def question(self):
        return self.spec.get("question", "What is %d+%d?" % (self.spec.get("id", 0), self.spec.get("id", 0)))

    def answer(self):
        return str(2 * self.spec.get("id", 0))


class Tools:
    """Each takes (session, input, headers of the call) and returns (text, reward, finished)."""

    async def answer(self, session, given, headers):
        """Ends the episode when it is right."""
        right = str(given.get("answer")) == session.answer()
        return ("Correct!" if right else "Wrong!"), float(right), right

    async def about(self, session, given, headers):
        """JSON: sid, pid, instance (its host name), revision, sessions, calls, spec, the headers of /create and of this
        call, the decoded X-Secrets of /create, the whole environment."""
        secrets = session.headers.get("x-secrets")
        return json.dumps({
            "sid": session.sid, "pid": os.getpid(), "instance": os.uname().nodename, "env_name": session.env_name,
            "revision": os.environ.get("TINY_REVISION", ""), "sessions": len(SESSIONS), "calls": session.calls,
            "spec": session.spec, "create_headers": session.headers, "headers": headers,
            "secrets": json.loads(base64.b64decode(secrets)) if secrets else None, "env": dict(os.environ)}), None, False

    async def echo(self, session, given, headers):
        return str(given.get("text", "")), None, False

    async def sleep(self, session, given, headers):
        """seconds; others go on meanwhile."""
        await asyncio.sleep(float(given.get("seconds", 1)))
        return "slept", None, False

    async def block(self, session, given, headers):
        """seconds in which the whole server answers nobody."""
        time.sleep(float(given.get("seconds", 1)))
        return "blocked", None, False

    async def big(self, session, given, headers):
        """A text of so many bytes."""
        return "x" * int(given.get("bytes", 1 << 20)), None, False

    async def fail(self, session, given, headers):
        """Raises: the answer is `event: error`."""
        raise RuntimeError(str(given.get("text", "the tool failed")))

    async def crash(self, session, given, headers):
        """The server dies: by a signal, or with an exit code; what it says last is text."""
        print(given.get("text", "crashing"), flush=True)
        if given.get("signal"):
            os.kill(os.getpid(), int(given["signal"]))
        os._exit(int(given.get("code", 1)))

    async def log(self, session, given, headers):
        """Prints a line."""
        print(given.get("text", ""), flush=True)
        return "logged", None, False

    async def write(self, session, given, headers):
        """text to path, folders made."""
        os.makedirs(os.path.dirname(given["path"]) or ".", exist_ok=True)
        with open(given["path"], "w", encoding="utf-8") as f:
            f.write(given.get("text", ""))
        return "written", None, False

    async def read(self, session, given, headers):
        with open(given["path"], encoding="utf-8") as f:
            return f.read(), None, False

    async def list(self, session, given, headers):
        """The names in path, a line each; "(none)" where there is no such folder."""
        try:
            return "\n".join(sorted(os.listdir(given["path"]))), None, False
        except FileNotFoundError:
            return "(none)", None, False

    async def allocate(self, session, given, headers):
        """Touches so many MiB and keeps them."""
        KEPT.append(b"x" * (int(given.get("mib", 1)) << 20))
        return "allocated", None, False


SESSIONS = {}
CALLS = {}  # by task_id: asyncio.Task, for a client that comes again
KEPT = []
TOOLS = Tools()
TOOL_NAMES = [n for n in dir(Tools) if not n.startswith("_")]


def block(text):
    return {"text": text, "detail": None, "type": "text"}


def tool_list():
    schema = {"type": "object", "title": "Params", "additionalProperties": True, "properties": {}}
    tools = [{"name": n, "description": getattr(Tools, n).__doc__, "input_schema": schema} for n in TOOL_NAMES]
    return {"tools": tools, "terminal_tool": None, "supports_score_group": True,
            "message_block_types": ["text", "image", "reasoning", "tool_call", "tool_result"]}


def task_of(split, index):
    if split != "train":
        raise Failed(400, "Invalid split")
    if not -TASKS <= index < TASKS:
        raise Failed(400, "Invalid index")
    n = index % TASKS
    return {"id": n, "question": "What is %d+%d?" % (n, n)}


def session_of(headers):
    sid = headers.get("x-session-id")
    if not sid:
        raise Failed(400, "X-Session-ID header is required")
    if sid not in SESSIONS:
        raise Failed(404, "Active environment not found")
    return SESSIONS[sid]


async def ready_session(headers):
    session = session_of(headers)
    await asyncio.shield(session.setup)
    return session


# -- what a request is answered with ------------------------------------------------------------------------------------


async def create(body, headers):
    sid = headers.get("x-session-id")
    if not sid:
        raise Failed(400, "X-Session-ID header is required")
    if sid in SESSIONS:
        raise Failed(400, "Session already exists")
    name = body.get("env_name") or ENVIRONMENTS[0]
    if name not in ENVIRONMENTS:
        raise Failed(404, "Environment not found: %s" % name)
    spec = body.get("task_spec")
    if spec is None:
        if "split" not in body or "index" not in body:
            raise Failed(422, "expected task_spec, or split and index")
        spec = task_of(body["split"], body["index"])
    if spec.get("construct_s"):
        await asyncio.sleep(spec["construct_s"])
    SESSIONS[sid] = Session(sid, name, spec, headers)
    return {"sid": sid}


async def delete(headers):
    sid = headers.get("x-session-id")
    session = SESSIONS.pop(sid, None)
    if session:
        if session.setup.done():
            session.setup.exception()
        session.setup.cancel()
        if session.spec.get("teardown_s"):
            await asyncio.sleep(session.spec["teardown_s"])
        print(json.dumps({"severity": "INFO", "message": "teardown", "session_id": sid}), flush=True)
    return {"sid": sid}


async def call_tool(session, body, headers):
    name, given = body["name"], body.get("input") or {}
    session.calls += 1
    if name not in TOOL_NAMES:
        return {"ok": False, "error": "Tool '%s' not found" % name, "reason": "not_found"}
    if session.finished:
        return {"ok": False, "error": "'%s' was not run: the episode has finished" % name, "reason": "episode_finished"}
    text, reward, finished = await getattr(TOOLS, name)(session, given, headers)
    session.finished = finished
    return {"ok": True, "output": {"blocks": [block(text)], "metadata": None, "reward": reward, "finished": finished}}


async def score_group(session, body, headers):
    return {"scores": [{"reward": float(len(c)), "metadata": None} for c in body["candidates"]]}


async def listing(what, body):
    if what == "tasks":
        return {"tasks": [task_of(body["split"], n) for n in range(TASKS)], "env_name": ENVIRONMENTS[0]}
    if what == "num_tasks":
        task_of(body["split"], 0)
        return {"num_tasks": TASKS}
    if what == "task":
        return {"task": task_of(body["split"], body["index"]), "env_name": ENVIRONMENTS[0]}
    wanted = range(*slice(body.get("start"), body.get("stop")).indices(TASKS))
    return {"tasks": [task_of(body["split"], n) for n in wanted], "env_name": ENVIRONMENTS[0]}


async def root_call(method, what, body, headers):
    if what == "health":
        if time.monotonic() - STARTED < float(os.environ.get("TINY_HEALTH_DELAY_S", "0")):
            raise Failed(503, "starting")
        return {"status": "ok"}
    if what == "version":
        return {"version": "tiny", "build_sha": os.environ.get("OPENREWARD_BUILD_SHA")}
    if what == "list_environments":
        return ENVIRONMENTS
    if what == "create":
        return await create(body, headers)
    if what == "delete":
        return await delete(headers)
    if what == "delete_session":
        return {"sid": headers.get("x-session-id")}
    session_of(headers)  # ping
    return {"status": "ok"}


async def env_call(what, body, headers):
    if what == "tools":
        return tool_list()
    if what == "splits":
        return [{"name": "train", "type": "train"}]
    if what in ("tasks", "num_tasks", "task", "task_range"):
        return await listing(what, body)
    if what == "task_tools":
        session_of(headers)
        return tool_list()
    session = await ready_session(headers)
    if what == "prompt":
        return [block(session.question())]
    if what == "messages":
        return [{"role": "user", "blocks": [block(session.question())], "detail": None}]
    raise Failed(404, "Not Found")


# -- HTTP ---------------------------------------------------------------------------------------------------------------


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.keep = True

    async def read_body(self, headers):
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
            return body
        return await self.reader.readexactly(int(headers.get("content-length") or 0))

    def head(self, status, headers):
        lines = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Unknown")), "server: tiny"]
        lines += ["%s: %s" % h for h in headers.items()]
        if not self.keep:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def reply(self, status, value, headers=None):
        body = b"" if value is None else json.dumps(value).encode()
        fields = {"content-length": len(body), **({"content-type": "application/json"} if body else {}), **(headers or {})}
        self.writer.write(self.head(status, fields) + body)
        await self.writer.drain()

    async def chunk(self, data):
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def event(self, name, data):
        await self.chunk(("event: %s\r\ndata: %s\r\n\r\n" % (name, data)).encode())

    async def start_events(self):
        self.writer.write(self.head(200, {"cache-control": "no-cache", "x-accel-buffering": "no",
                                          "content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}))
        await self.writer.drain()

    async def end_events(self):
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def wait_for(self, task):
        while not (await asyncio.wait([task], timeout=HEARTBEAT_S))[0]:
            await self.chunk(b": ping\r\n\r\n")

    async def send_result(self, task):
        try:
            text = json.dumps(task.result(), separators=(",", ":"))
        except Exception as e:  # a tool may raise anything
            await self.event("error", ("%s: %s" % (type(e).__name__, e)).replace("\n", " "))
            return
        while len(text) > PIECE:
            cut = PIECE
            while text[cut].isspace():
                cut -= 1
            await self.event("chunk", text[:cut])
            text = text[cut:]
        await self.event("end", text)

    async def stream(self, start, body):
        """task_id, then the result: of a new call, or of the one that the task_id names."""
        task_id = body.get("task_id")
        task = CALLS.get(task_id) if task_id else None
        await self.start_events()
        if task_id and not task:
            await self.event("error", "unknown task_id")
            await self.end_events()
            return
        if not task:
            task_id = uuid.uuid4().hex
            task = CALLS[task_id] = asyncio.ensure_future(start())
            task.add_done_callback(lambda t: asyncio.get_running_loop().call_later(60, CALLS.pop, task_id, None))
        await self.event("task_id", task_id)
        await self.wait_for(task)
        await self.send_result(task)
        await self.end_events()

    async def create_session(self):
        await self.start_events()
        await self.event("task_id", str(uuid.uuid4()))
        await self.event("end", "")
        await self.end_events()

    async def route(self, method, target, headers, raw):
        path, _, query = target.partition("?")
        words = [urllib.parse.unquote(w) for w in path.split("/") if w]
        first = words[0].lower() if words else ""
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            raise Failed(422, "the body is not JSON") from None
        if first not in ROOT_PATHS and first not in ENVIRONMENTS:
            await self.reply(308, None, {"location": "/" + ENVIRONMENTS[0] + path + ("?" + query if query else "")})
        elif first == "create_session":
            await self.create_session()
        elif first in ROOT_PATHS:
            await self.reply(200, await root_call(method, first, body, headers))
        elif len(words) == 2 and words[1] in ("call", "score_group"):
            session = await ready_session(headers)
            if not isinstance(body.get("name" if words[1] == "call" else "candidates"), (str, list)):
                raise Failed(422, "%s: name or candidates: missing" % words[1])
            run = call_tool if words[1] == "call" else score_group
            await self.stream(lambda: run(session, body, headers), body)
        elif len(words) == 2:
            await self.reply(200, await env_call(words[1], body, headers))
        else:
            raise Failed(404, "Not Found")

    async def one(self):
        """A request and its answer; False when the connection is over."""
        line = await self.reader.readline()
        if not line:
            return False
        method, target, _ = line.decode("latin-1").split()
        headers = {}
        while (line := await self.reader.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        self.keep = headers.get("connection", "").lower() != "close"
        raw = await self.read_body(headers)
        try:
            await self.route(method, target, headers, raw)
        except Failed as e:
            await self.reply(e.status, {"detail": e.detail}, e.headers)
        except (KeyError, TypeError, AttributeError) as e:
            await self.reply(422, {"detail": "%s: %s" % (type(e).__name__, e)})
        return self.keep


async def serve_connection(reader, writer):
    connection = Connection(reader, writer)
    try:
        while await connection.one():
            pass
    except (ConnectionError, asyncio.IncompleteReadError, ValueError, TimeoutError):
        pass
    finally:
        writer.close()


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    if os.environ.get("TINY_EXIT_AFTER_S"):
        asyncio.get_running_loop().call_later(float(os.environ["TINY_EXIT_AFTER_S"]), os._exit, 7)
    port = int(os.environ.get("PORT", "8080"))
    server = await asyncio.start_server(serve_connection, os.environ.get("TINY_HOST", "0.0.0.0"), port, backlog=4096, limit=1 << 20)
    print(json.dumps({"severity": "INFO", "message": "listening on port %d" % port}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if os.environ.get("TINY_START_DELAY_S"):
        time.sleep(float(os.environ["TINY_START_DELAY_S"]))
    if os.environ.get("TINY_FAIL_START"):
        print("the server refuses to start", file=sys.stderr, flush=True)
        sys.exit(int(os.environ["TINY_FAIL_START"]))
    gc.freeze()
    asyncio.run(main())
