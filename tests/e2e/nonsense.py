"""Requests with one field wrong, made from a good one and from what docs/openapi.json says of the field."""
import copy
import json
import urllib.parse
from dataclasses import dataclass, field

from openapi import Call, resolved

HUGE = ("18446744073709551616", "1e400", "-1e400", "1" + "0" * 400)
RAW = "\ue000"  # stands in a body for bytes that json.dumps cannot write
BYTES = {"bytes that are no UTF-8": b"\xff\xfe", "a lone surrogate": b"\\ud800", "a NUL": b"\\u0000", "an escape of a NUL cut off": b"\\u00"}
QUERY_BYTES = {"bytes that are no UTF-8": "%ff%fe", "a lone surrogate": "%ed%a0%80", "a NUL": "a%00b", "a bad escape": "%zz"}
LONG_QUERY, LONG_BODY = 20_000, 200_000  # of a text without a limit of its own: it may pass
TYPES = {"string": "text", "integer": 7, "number": 7, "boolean": True, "array": [], "object": {}, "null": None}


@dataclass
class Sample:
    """A good request: values of the parameters, by name, and the members of the body."""
    path: dict = field(default_factory=dict)
    query: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict)
    body: object = None        # JSON, or bytes
    status: tuple = (200,)     # what it is answered with
    dear: bool = False         # what is not refused costs: nothing is sent that may be good
    names: bool = True         # errors name the field
    skip: tuple = ()           # fields that are left alone, with a reason where it is made


@dataclass
class Wrong:
    what: str                  # "cmd: a number"
    name: str                  # the field's
    sample: Sample
    raw_query: str = ""        # "limit=%zz"
    body: bytes | None = None  # in place of the sample's
    may_pass: bool = False     # it is enough that it does no harm


def types_of(schema: dict) -> list[str]:
    if "oneOf" in schema:
        return [t for one in schema["oneOf"] for t in types_of(resolved(one))]
    found = schema.get("type", [])
    return found if isinstance(found, list) else [found]


def of_type(schema: dict, kind: str) -> dict:
    """The part of a schema that is about objects, or lists."""
    return next((s for s in map(resolved, schema.get("oneOf", [schema])) if kind in types_of(s)), {})


# -- the query and the headers ---------------------------------------------------------------------------------


def wrong_texts(schema: dict):
    """(what, percent-encoded value) for a parameter."""
    kinds = types_of(schema)
    yield "very long", "x" * LONG_QUERY
    yield from QUERY_BYTES.items()
    if "enum" in schema:
        yield "an unknown word", "nonsense"
    if "maxLength" in schema:
        yield "too long", "x" * (schema["maxLength"] + 1)
    if "boolean" in kinds:
        yield "no truth", "maybe"
    if "integer" in kinds or "number" in kinds:
        yield from ((f"the number {v}", v) for v in ("-1", "x", "--1", "0x10", "1,5", *HUGE[:1 if "integer" in kinds else 3]))
    if "integer" in kinds:
        yield "no whole number", "1.5"
    if "maximum" in schema:
        yield "above the maximum", str(schema["maximum"] + 1)


def wrong_parameters(call: Call, sample: Sample):
    for p in call.parameters_in("query"):
        if p["name"] in sample.skip or p["name"] not in sample.query or p["schema"].get("description"):
            continue  # a flag is anything but 0
        rest = {k: v for k, v in sample.query.items() if k != p["name"]}
        if p.get("required"):
            yield Wrong(f"?{p['name']} missing", p["name"], Sample(**{**vars(sample), "query": rest}))
        for what, value in wrong_texts(p["schema"]):
            yield Wrong(f"?{p['name']}: {what}", p["name"], Sample(**{**vars(sample), "query": rest}), f"{p['name']}={value}",
                        may_pass=what == "very long")
    for p in call.parameters_in("header"):
        if p.get("required") and p["name"] not in sample.skip:
            rest = {k: v for k, v in sample.headers.items() if k != p["name"]}
            yield Wrong(f"{p['name']} missing", p["name"], Sample(**{**vars(sample), "headers": rest}))


# -- the body --------------------------------------------------------------------------------------------------


def properties(schema: dict) -> dict:
    found = dict(schema.get("properties", {}))
    for one in schema.get("allOf", []):
        found.update(properties(resolved(one)))
    return found


def members(schema: dict, value, at=()):
    """(place, schema, required) of every member that the sample has, however deep; a place is keys and indexes."""
    schema = resolved(schema)
    if isinstance(value, dict):
        about = of_type(schema, "object")
        for name, one in properties(about).items():
            if name in value:
                yield (*at, name), resolved(one), name in about.get("required", [])
                yield from members(one, value[name], (*at, name))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from members(of_type(schema, "array").get("items", {}), one, (*at, i))


def changed(body, place, value, remove=False):
    """A copy with one member other."""
    body = copy.deepcopy(body)
    at = body
    for key in place[:-1]:
        at = at[key]
    if remove:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return body


def encoded(body, raw: bytes = b"") -> bytes:
    """As JSON, with raw in the place of RAW, and of a text that is twice RAW: what is no text."""
    data = json.dumps(body, ensure_ascii=False).encode()
    return data.replace(json.dumps(RAW + RAW, ensure_ascii=False).encode(), raw).replace(RAW.encode(), raw)


def wrong_values(schema: dict):
    """(what, value, raw bytes for RAW in it, whether it may pass)."""
    kinds = types_of(schema)
    yield "null", None, b"", "null" in kinds
    for kind, value in TYPES.items():
        if kind not in kinds and kind != "null" and not (kind == "integer" and "number" in kinds) and not (kind == "number" and "integer" in kinds):
            yield kind, value, b"", False
    yield from ((what, RAW, raw, False) for what, raw in BYTES.items())
    if "string" in kinds:
        yield "very long", "x" * LONG_BODY, b"", True
    if "enum" in schema:
        yield "an unknown word", "nonsense", b"", False
    if "maxLength" in schema:
        yield "too long", "x" * (schema["maxLength"] + 1), b"", False
    if "integer" in kinds or "number" in kinds:
        yield from ((f"{v[:20]}", RAW + RAW, v.encode(), False) for v in HUGE[:1 if "integer" in kinds else 4])
        for limit, one in (("minimum", -1), ("maximum", 1)):
            if limit in schema:
                yield f"beyond the {limit}", schema[limit] + one, b"", False
    if "integer" in kinds:
        yield "no whole number", 1.5, b"", False
    if "array" in kinds and "items" in schema:
        yield "a list of lists", [[]], b"", False
        if "maxItems" in schema:
            yield "too many", [{}] * (schema["maxItems"] + 1), b"", False
    if "object" in kinds and isinstance(schema.get("additionalProperties"), dict):
        yield "a member that is no text", {"A": 7}, b"", False
        yield "a member with bytes that are no UTF-8", {"A": RAW}, b"\xff", False


def wrong_bodies(call: Call, sample: Sample):
    if call.schema is None or isinstance(sample.body, bytes) or sample.body is None:
        return
    for place, schema, required in members(call.schema, sample.body):
        name = str(place[-1])
        if name in sample.skip:
            continue
        what = ".".join(map(str, place))
        if required:
            yield Wrong(f"{what}: missing", name, sample, body=encoded(changed(sample.body, place, None, remove=True)))
        for label, value, raw, passes in wrong_values(schema):
            passes = passes or (value is None and not required)
            if passes and sample.dear:
                continue
            yield Wrong(f"{what}: {label}", name, sample, body=encoded(changed(sample.body, place, value), raw), may_pass=passes)


def wrongs(call: Call, sample: Sample):
    yield from wrong_parameters(call, sample)
    yield from wrong_bodies(call, sample)


def covered(call: Call, samples: list[Sample]) -> set[str]:
    """The fields that some sample has."""
    found = set()
    for s in samples:
        found |= set(s.query) | set(s.headers)
        if call.schema is not None and isinstance(s.body, (dict, list)):
            found |= {str(place[-1]) for place, _, _ in members(call.schema, s.body)}
    return found


def all_fields(call: Call) -> set[str]:
    def names(schema, seen=()):
        ref = schema.get("$ref")
        if ref in seen:
            return set()
        schema = resolved(schema)
        found = set(properties(schema))
        for one in [*properties(schema).values(), *schema.get("oneOf", []), *([schema["items"]] if "items" in schema else [])]:
            found |= names(one, (*seen, ref) if ref else seen)
        return found
    return {p["name"] for p in call.parameters if p["in"] != "path"} | (names(call.schema) if call.schema else set())


def query_text(values: dict) -> str:
    return urllib.parse.urlencode(values)
