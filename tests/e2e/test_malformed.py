"""What may be wrong with a request beside its fields, which test_every_field.py has: paths, headers and bodies as no client makes
them, at every call. None is a 5xx or hangs, what is refused says why, and the platform has all that it had."""
import gzip
import json
import re
import socket

import httpx
import pytest

from nonsense import Sample, query_text
from openapi import calls
from test_every_field import samples_of, world  # noqa: F401

PATHS = ["%00", "a%00b", "%ff%fe", "%ed%a0%80", "%zz", "%", "..", "%2e%2e", ".", "%2f", "a%2fb", "%2e%2e%2fa", "%0a", "%20", "-1",
         "null", "%f0%9f%98%80", "x" * 300, "x" * 20_000, "*", "a:b", "%25", "~", "%5c"]
BAD_ESCAPES = {"%00", "a%00b", "%zz", "%"}
HEADERS = [b"", b"x", b"\xff\xfe", "\u00e9".encode(), b"null", b"{}", b"-1", b"00000000-0000-4000-8000-00000000000", b"x" * 300,
           b"x" * 30_000, b"a, b", b"/", b"a/b/c", b"../..", b"%00", b"a\tb", b"e30=", b"[]", b'{"a": 1}', b'{"a": {"b": "c"}}',
           b'{"a": "b"', b'{"a": "\\u0000"}', b'{"A=B": "c"}', b'{"api_key": 7}', b'{"api_key": "orw_x"}', b"W10=", b"bnVsbA==",
           b"eyJhIjogMX0=", b"eyJhIjogeyJiIjogImMifX0=", b"eyJhIjogIgA=", b"====", b"!!!!"]
DEEP = 10_000
BODIES = {
    "lists": b"[" * DEEP + b"]" * DEEP, "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP, "a list without end": b"[" * DEEP,
    "in a member": b'{"zz": ' + b"[" * DEEP + b"]" * DEEP + b"}", "the same key twice": b'{"zz": 1, "zz": 2}',
    "a BOM": b"\xef\xbb\xbf{}", "UTF-16": '{"a": 1}'.encode("utf-16"), "more behind it": b"{} {}", "a comma": b'{"zz": 1,}',
    "a NUL": b"{}\0", "a comment": b"{} // a", "not a number": b'{"zz": NaN}', "blanks": b" \r\n\t",
    "compressed": gzip.compress(b"{}"),
    "a form": b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--\r\n", "a text": b'"a"', "a number": b"1",
    "null": b"null", "single quotes": b"{'a': 1}", "a lone surrogate": b'{"\\ud800": 1}', "a control character": b'{"a\x01": 1}',
    "an empty key": b'{"": 1}', "many keys": b"{" + b",".join(b'"k%d":0' % i for i in range(50_000)) + b"}",
}
MAY_PASS = {"an empty key", "many keys", "blanks"}


def raw(world, method, target, headers, body=None, chunked=False, timeout_s=30):
    """As bytes, which no library would send. (status, headers, body); the connection is closed after it."""
    host, port = re.match(r"http://(.*):(\d+)", world.platform.url).groups()
    head = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + host.encode(), b"Connection: close"]
    if not any(k.lower() == b"x-api-key" for k, _ in headers):
        head.append(b"X-API-Key: " + world.platform.key.encode())
    head += [k + b": " + v for k, v in headers]
    if chunked:
        head += [b"Transfer-Encoding: chunked", b"Trailer: X-API-Key, Content-Length, X-Session-ID"]
        body = b"".join(b"%x;a=b\r\n" % len(p) + p + b"\r\n" for p in (body[i:i + 7] for i in range(0, len(body), 7)))
        body += b"0\r\nX-API-Key: none\r\nContent-Length: 5\r\nX-Session-ID: none\r\n\r\n"
    elif body is not None:
        head.append(b"Content-Length: %d" % len(body))
    with socket.create_connection((host, int(port)), timeout=timeout_s) as s:
        try:
            s.sendall(b"\r\n".join(head) + b"\r\n\r\n" + (body or b""))
        except ConnectionError:
            pass
        data = b""
        try:
            while True:
                part = s.recv(1 << 16)
                if not part:
                    break
                data += part
        except ConnectionError:
            pass
        except TimeoutError:
            return 599, {}, b"hangs: " + data[:300]
    top, _, rest = data.partition(b"\r\n\r\n")
    lines = top.split(b"\r\n")
    found = re.match(rb"HTTP/1.1 (\d+)", lines[0])
    got = {k.strip().lower().decode(): v.strip().decode("latin1") for k, _, v in (line.partition(b":") for line in lines[1:])}
    return (int(found.group(1)) if found else 598), got, rest


def complaint(what, answer, may_pass=True, word=""):
    """What is wrong with the answer; None = all is well."""
    status, headers, body = answer
    if status < 400:
        return None if may_pass else f"{what}: not refused: {status} {body[:200]!r}"
    if status >= 500:
        return f"{what}: {status} {body[:300]!r}"
    try:
        parsed = json.loads(unchunked(headers, body))
        well = parsed["detail"] == parsed["message"] and parsed["detail"] and word in parsed["detail"]
    except (ValueError, KeyError, TypeError):
        well = False
    return None if well else f"{what}: {status} {headers.get('content-type')} {body[:300]!r}"


def unchunked(headers, body):
    if headers.get("transfer-encoding") != "chunked":
        return body
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        out, body = out + body[:n], body[n + 2:]
        if not n:
            break
    return out


def sample_of(world, call):
    return samples_of(world).get(call.operation["operationId"], [Sample()])[0]


def fill(call, values):
    target = call.path
    for k, v in values.items():
        target = target.replace("{" + k + "}", v.replace(" ", "%20"))
    return target


def usual(sample):
    return [(k.encode(), v.encode()) for k, v in sample.headers.items()]


def body_of(call, sample):
    if sample.body is None:
        return b"{}" if call.has_body else b"" if call.method in ("POST", "PUT", "PATCH") else None
    return sample.body if isinstance(sample.body, bytes) else json.dumps(sample.body).encode()


def is_alive(world):
    assert world.platform.process.poll() is None
    status, _, answer = world.platform.request("POST", "/read_file?path=/tmp/file", b"", {"X-Session-ID": world.box.id})
    assert (status, answer) == (200, b"12345\n")
    assert world.get("/v1/environments/local/fields")["id"] == world.env["id"]


WITH_JSON = [c for c in calls() if c.schema is not None]


def target_of(call, sample, **other):
    return fill(call, {**{p["name"]: "none" for p in call.parameters_in("path")}, **sample.path, **other})


def assert_none(world, problems):  # noqa: F811
    problems = [p for p in problems if p]
    assert not problems, "\n".join(problems)
    is_alive(world)


@pytest.mark.parametrize("call", [c for c in calls() if c.parameters_in("path")], ids=repr)
def test_paths(world, call):  # noqa: F811
    sample, problems = sample_of(world, call), []
    for name in (p["name"] for p in call.parameters_in("path")):
        for value in PATHS:
            answer = raw(world, call.method, target_of(call, sample, **{name: value}), usual(sample), body_of(call, sample))
            problems.append(complaint(f"{name} {value[:30]}", answer, word=name if value in BAD_ESCAPES else ""))
    assert_none(world, problems)


@pytest.mark.parametrize("call", [c for c in calls() if c.parameters_in("header")], ids=repr)
def test_headers(world, call):  # noqa: F811
    sample, problems = sample_of(world, call), []
    for name in (p["name"] for p in call.parameters_in("header")):
        rest = [(k, v) for k, v in usual(sample) if k.lower() != name.lower().encode()]
        for value in HEADERS:
            for many in (1, 2):
                headers = rest + [(name.encode(), value)] * many
                answer = raw(world, call.method, target_of(call, sample), headers, body_of(call, sample))
                problems.append(complaint(f"{name}: {value[:40]!r} {many} times", answer))
    assert_none(world, problems)


@pytest.mark.parametrize("call", WITH_JSON, ids=repr)
def test_bodies(world, call):  # noqa: F811
    sample, problems = sample_of(world, call), []
    for what, body in BODIES.items():
        for kind in (b"application/json", b"multipart/form-data; boundary=x"):
            answer = raw(world, call.method, target_of(call, sample), [*usual(sample), (b"Content-Type", kind)], body)
            word = "at most" if answer[0] == 413 else ""
            problems.append(complaint(f"{what} as {kind.decode()}", answer, what in MAY_PASS, word))
    for coding in (b"gzip", b"br", b"nonsense"):
        headers = [*usual(sample), (b"Content-Encoding", coding)]
        answer = raw(world, call.method, target_of(call, sample), headers, gzip.compress(b"{}"))
        problems.append(complaint(f"Content-Encoding: {coding.decode()}", answer, False))
    assert_none(world, problems)


def test_bodies_over_http_2(world):  # noqa: F811
    """The same answers, all of them on one connection."""
    problems = []
    one = httpx.Limits(max_connections=1)
    with httpx.Client(http1=False, http2=True, base_url=world.platform.url, timeout=60, limits=one) as client:
        for call in WITH_JSON:
            sample = sample_of(world, call)
            for what in ("lists", "objects", "a NUL", "the same key twice", "UTF-16", "null"):
                headers = {"X-API-Key": world.platform.key, **sample.headers}
                answer = client.request(call.method, target_of(call, sample), content=BODIES[what], headers=headers)
                problems.append(complaint(f"{call}: {what}", (answer.status_code, answer.headers, answer.content), False))
    assert_none(world, problems)


@pytest.mark.parametrize("call", WITH_JSON, ids=repr)
def test_chunks_and_trailers(world, call):  # noqa: F811
    """What comes in chunks is the same body, and no trailer is a header."""
    sample = next((s for s in samples_of(world).get(call.operation["operationId"], []) if not s.dear), None)
    if not sample:
        sample, body = sample_of(world, call), b'{"env": 7, "image": 7, "name": 7}'  # nothing that costs
    else:
        body = body_of(call, sample)
    target = target_of(call, sample) + ("?" + query_text(sample.query) if sample.query else "")
    whole = raw(world, call.method, target, usual(sample), body)
    assert raw(world, call.method, target, usual(sample), body, chunked=True)[0] in (whole[0], *sample.status), whole
    is_alive(world)
