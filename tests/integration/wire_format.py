"""The messages of src/sandbox/wire.h for tests: names and numbers are read from the header, so that they cannot drift."""
import os
import re
import struct

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
HEAD, FIELD = struct.Struct("<IHHQ"), struct.Struct("<II")
MAGIC, VERSION, WIRE_MAX = 0x3153524F, 1, 128 * 1024


def read_names():
    with open(os.path.join(ROOT, "src/sandbox/wire.h"), encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    return [{n: int(v) for n, v in re.findall(r"X\((\w+), (\d+)\)", part)} for part in text.split("#define WIRE_TAGS")]


TYPES, TAGS = read_names()
TYPE_NAMES = {v: k for k, v in TYPES.items()}
TAG_NAMES = {v: k for k, v in TAGS.items()}


def encode(kind, request, fields, version=VERSION):
    """fields: (tag, int | str | bytes); text is sent with its NUL."""
    out = HEAD.pack(MAGIC, version, TYPES[kind], request)
    for tag, value in fields:
        if isinstance(value, int):
            value = struct.pack("<Q", value)
        elif isinstance(value, str):
            value = value.encode() + b"\0"
        out += FIELD.pack(TAGS[tag], len(value)) + value + bytes(-len(value) % 8)
    return out


def decode_fields(data):
    """(tag's name, or its number where it has none; bytes) of a message, in its order."""
    at = HEAD.size
    while at < len(data):
        tag, n = FIELD.unpack_from(data, at)
        yield TAG_NAMES.get(tag, tag), data[at + FIELD.size:at + FIELD.size + n]
        at += FIELD.size + n + (-n % 8)
