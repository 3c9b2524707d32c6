"""/openapi.json is served, and every call that it lists is there. That nothing else is: tools/check-openapi."""
import json

import pytest

from openapi import DOCUMENT, OF_ANY, calls


def test_the_document_is_served(platform):
    status, headers, answer = platform.request("GET", "/openapi.json", key=None)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(answer) == DOCUMENT


@pytest.mark.parametrize("call", calls(), ids=repr)
def test_the_call_is_there(platform, call):
    """Asked for nothing in particular and without a key, it answers as the document says."""
    values = {p["name"]: "none" for p in call.parameters_in("path")}
    status, headers, answer = platform.request(call.method, call.target(values), b"" if call.has_body else None, key=None)
    assert status in call.statuses | OF_ANY and status not in (405, 501), answer
    if status == 404:
        assert b"there is nothing at" not in answer and b"no such call here" not in answer
    if status == 401:
        assert call.operation.get("security") != [] or call.path == "/v1/github/webhook"


def test_an_unknown_path_and_a_wrong_method_are_told(platform):
    assert platform.request("GET", "/v1/nothing-of-this-name")[0] == 404
    assert platform.request("PATCH", "/openapi.json", b"{}")[0] == 405
