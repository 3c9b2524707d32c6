"""docs/openapi.json for the tests: its calls, and what each may be asked and may answer."""
import json
import os
import re
import urllib.parse

from orw import ROOT

with open(os.path.join(ROOT, "docs", "openapi.json"), encoding="utf-8") as f:
    DOCUMENT = json.load(f)
OF_ANY = {405, 408, 414, 431, 500, 501, 505}  # what the answer "default" says


class Call:
    """One method of one path."""

    def __init__(self, method: str, path: str, operation: dict) -> None:
        self.method, self.path, self.operation = method.upper(), path, operation
        self.parameters = [resolved(p) for p in operation.get("parameters", [])]
        self.statuses = {int(s) for s in operation["responses"] if s.isdigit()}
        content = operation.get("requestBody", {}).get("content", {})
        self.schema = content.get("application/json", {}).get("schema")
        self.has_body = bool(content)

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"

    def parameters_in(self, place: str) -> list[dict]:
        return [p for p in self.parameters if p["in"] == place]

    def target(self, values: dict[str, str], query: dict[str, str] | None = None) -> str:
        """The request's target with these values for the path's parameters, percent-encoded here."""
        path = re.sub(r"\{(\w+)\}", lambda m: urllib.parse.quote(values[m.group(1)], safe=""), self.path)
        return path + ("?" + urllib.parse.urlencode(query, errors="surrogateescape") if query else "")


def resolved(value: dict) -> dict:
    """What a reference stands for."""
    while "$ref" in value:
        ref, value = value["$ref"], DOCUMENT
        for part in ref.removeprefix("#/").split("/"):
            value = value[part]
    return value


def calls() -> list[Call]:
    return [Call(method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()]
