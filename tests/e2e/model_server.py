"""A model server of the suite's own, on loopback: OpenAI's chat completions and responses, Anthropic's messages and Google's
generateContent, whole or streamed. What it answers is scripted by the model's name: a list of turns, each a text or a list of (tool,
arguments); or a function of the request's body that gives the turn. A tool of a namespace is "NAMESPACE/TOOL"."""
import http.server
import json
import re
import threading
import uuid
from collections.abc import Callable

Turn = str | list[tuple[str, dict]]


class ModelServer:
    """scripts: model name -> turns. Which turn is next is told by the conversation that a request brings, so that any number
    of conversations go on at once. A conversation that goes on beyond its script gets "done"."""

    def __init__(self, scripts: dict[str, list[Turn] | Callable[[dict], Turn]]) -> None:
        self.scripts = scripts
        self.seen: list[tuple[str, dict]] = []  # (path, body) of every request
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"models": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def turn(self, body: dict, n: int) -> Turn:
        script = self.scripts[body["model"]]
        if callable(script):
            return script(body)
        return script[n] if n < len(script) else "done"

    @property
    def env(self) -> dict[str, str]:
        """What clients of all kinds read."""
        return {"OPENAI_BASE_URL": self.url + "/v1", "OPENAI_API_KEY": "sk-scripted", "ANTHROPIC_BASE_URL": self.url,
                "ANTHROPIC_API_KEY": "sk-ant-scripted", "GOOGLE_GEMINI_BASE_URL": self.url, "GEMINI_API_KEY": "scripted"}


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def calls_of(turn: Turn) -> list[tuple[str, dict]]:
    return [] if isinstance(turn, str) else turn


# -- OpenAI: chat completions ------------------------------------------------------------------------------------------

def chat(turn: Turn, model: str) -> dict:
    calls = [{"id": new_id("call"), "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
             for name, args in calls_of(turn)]
    message = {"role": "assistant", "content": turn if isinstance(turn, str) else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {"id": new_id("chatcmpl"), "object": "chat.completion", "created": 1_700_000_000, "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if calls else "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}


def chat_turn(body: dict) -> int:
    return sum(m["role"] == "assistant" for m in body["messages"])


def chat_stream(answer: dict) -> list[tuple[str, object]]:
    choice = answer["choices"][0]
    delta = dict(choice["message"], tool_calls=[dict(c, index=i) for i, c in enumerate(choice["message"].get("tool_calls", []))])
    head = {k: answer[k] for k in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    return [("", head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}),
            ("", head | {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}], "usage": answer["usage"]}),
            ("", "[DONE]")]


# -- OpenAI: responses -------------------------------------------------------------------------------------------------

def named(tool: str) -> dict:
    namespace, _, name = tool.rpartition("/")
    return {"name": name, "namespace": namespace} if namespace else {"name": name}


def response(turn: Turn, model: str, n: int) -> dict:
    """Its id tells the next request, which may bring nothing else of the conversation, which turn this was."""
    if isinstance(turn, str):
        output = [{"type": "message", "id": new_id("msg"), "role": "assistant", "status": "completed",
                   "content": [{"type": "output_text", "text": turn, "annotations": []}]}]
    else:
        output = [{"type": "function_call", "id": new_id("fc"), "call_id": new_id("call"), "status": "completed",
                   "arguments": json.dumps(args), **named(name)} for name, args in turn]
    return {"id": f"resp_{n}_{uuid.uuid4().hex}", "object": "response", "created_at": 1_700_000_000, "status": "completed", "model": model,
            "output": output, "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "temperature": 1.0, "top_p": 1.0,
            "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "input_tokens_details": {"cached_tokens": 0},
                      "output_tokens_details": {"reasoning_tokens": 0}}}


def response_turn(body: dict) -> int:
    """Calls that were made at once stand side by side in the input, before their results: one turn."""
    before = body.get("previous_response_id")
    if before:
        return int(before.split("_")[1]) + 1
    items = body["input"] if isinstance(body["input"], list) else []
    ours = [x.get("type") == "function_call" or x.get("role") == "assistant" for x in items] + [False]
    return sum(ours[i] and not ours[i + 1] for i in range(len(items)))


def response_stream(answer: dict) -> list[tuple[str, object]]:
    events = [{"type": "response.created", "response": answer | {"status": "in_progress", "output": []}}]
    for i, item in enumerate(answer["output"]):
        events += [{"type": "response.output_item.added", "output_index": i, "item": item},
                   {"type": "response.output_item.done", "output_index": i, "item": item}]
    events.append({"type": "response.completed", "response": answer})
    return [(e["type"], e | {"sequence_number": i}) for i, e in enumerate(events)]


# -- Anthropic: messages -----------------------------------------------------------------------------------------------

def anthropic(turn: Turn, model: str) -> dict:
    content = [{"type": "text", "text": turn}] if isinstance(turn, str) else [
        {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": args} for name, args in turn]
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": "end_turn" if isinstance(turn, str) else "tool_use", "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 5}}


def anthropic_stream(answer: dict) -> list[tuple[str, object]]:
    events = [{"type": "message_start", "message": answer | {"content": [], "stop_reason": None}}]
    for i, block in enumerate(answer["content"]):
        text = block["type"] == "text"
        delta = {"type": "text_delta", "text": block["text"]} if text else {"type": "input_json_delta",
                                                                           "partial_json": json.dumps(block["input"])}
        events += [{"type": "content_block_start", "index": i, "content_block": block | ({"text": ""} if text else {"input": {}})},
                   {"type": "content_block_delta", "index": i, "delta": delta}, {"type": "content_block_stop", "index": i}]
    events += [{"type": "message_delta", "delta": {"stop_reason": answer["stop_reason"], "stop_sequence": None},
                "usage": {"output_tokens": 5}}, {"type": "message_stop"}]
    return [(e["type"], e) for e in events]


# -- Google: generateContent ---------------------------------------------------------------------------------------------

def google(turn: Turn, model: str) -> dict:
    parts = [{"text": turn}] if isinstance(turn, str) else [{"functionCall": {"name": name, "args": args}} for name, args in turn]
    return {"candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}], "modelVersion": model,
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}}


def google_turn(body: dict) -> int:
    return sum(c.get("role") == "model" for c in body["contents"])


# -- what a request says, whichever its kind ----------------------------------------------------------------------------------

def tools_offered(body: dict) -> list[str]:
    """Their names, as turns have them."""
    names = []
    for t in body.get("tools", []):
        if t.get("type") == "namespace":
            names += [f"{t['name']}/{x['name']}" for x in t["tools"]]
        else:
            names += [d["name"] for d in t.get("functionDeclarations", [])] or [(t.get("function") or t).get("name", "")]
    return names


def calls_made(body: dict) -> list[str]:
    """The names of the tools that the conversation has called so far."""
    if "input" in body:
        items = body["input"] if isinstance(body["input"], list) else []
        calls = [c for c in items if c.get("type") == "function_call"]
    elif "contents" in body:
        calls = [p["functionCall"] for c in body["contents"] for p in c["parts"] if "functionCall" in p]
    else:
        said = [m for m in body["messages"] if m["role"] == "assistant"]
        calls = [c["function"] for m in said for c in m.get("tool_calls") or []]
        calls += [b for m in said if isinstance(m["content"], list) for b in m["content"] if b.get("type") == "tool_use"]
    return [f"{c['namespace']}/{c['name']}" if c.get("namespace") else c["name"] for c in calls]


# -- HTTP --------------------------------------------------------------------------------------------------------------

class Handler(http.server.BaseHTTPRequestHandler):
    models: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": m, "object": "model", "type": "model", "display_name": m}
                                                    for m in self.models.scripts]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        path = self.path.partition("?")[0]
        of_google = re.search(r"/models/([^/:]+):(generate|streamGenerate)Content$", path)
        if of_google:  # what the others say in the body
            body |= {"model": of_google.group(1), "stream": of_google.group(2) == "streamGenerate"}
        self.models.seen.append((path, body))
        model = body.get("model", "")
        if path.endswith("/count_tokens"):
            return self.reply(200, {"input_tokens": 10})
        if model not in self.models.scripts:
            return self.reply(404, {"type": "error", "error": {"type": "not_found_error", "message": f"there is no script for {model!r}"}})
        if path.endswith("/chat/completions"):
            answer, stream = chat(self.models.turn(body, chat_turn(body)), model), chat_stream
        elif path.endswith("/responses"):
            n = response_turn(body)
            answer, stream = response(self.models.turn(body, n), model, n), response_stream
        elif path.endswith("/messages"):
            answer, stream = anthropic(self.models.turn(body, chat_turn(body)), model), anthropic_stream
        elif of_google:
            answer, stream = google(self.models.turn(body, google_turn(body)), model), lambda whole: [("", whole)]
        else:
            return self.reply(404, {"error": {"message": f"no such path: {path}"}})
        return self.events(stream(answer)) if body.get("stream") else self.reply(200, answer)

    def reply(self, status: int, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def events(self, events: list[tuple[str, object]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for name, value in events:
            data = value if isinstance(value, str) else json.dumps(value)
            self.wfile.write((f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode())
        self.close_connection = True
