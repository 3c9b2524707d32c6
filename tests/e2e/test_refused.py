"""Names that people would take for one another: those that differ only by case, or by the form of their letters, are a conflict;
what is not ASCII is refused otherwise; and an address for an upload when its time is over. Page tokens and signatures: test_files.py, test_rollouts.py."""
import base64
import json
import os
import unicodedata
import urllib.parse
import uuid

import pytest

from orw import wait_until


def make(platform, name, method="POST", path="/v1/environments", key="name"):
    status, _, answer = platform.request(method, path, json.dumps({key: name}).encode())
    return status, json.loads(answer)


@pytest.fixture
def name(platform):
    n = "case" + uuid.uuid4().hex[:8]
    assert make(platform, n)[0] == 201
    return n


def test_another_case_is_a_conflict(platform, name):
    status, answer = make(platform, name.upper())
    assert status == 409 and name in answer["detail"] and name.upper() in answer["detail"] and "case" in answer["detail"]
    assert make(platform, name)[0] == 409
    other = "other" + uuid.uuid4().hex[:8]
    assert make(platform, other)[0] == 201
    details = f"/v1/environments/local/{other}/details"
    assert make(platform, name.capitalize(), "PUT", details, "new_name")[0] == 409
    status, answer = make(platform, other.upper(), "PUT", details, "new_name")  # its own, in another case
    assert status == 200 and answer["name"] == other.upper()


def git(platform, name, service):
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{platform.key}".encode()).decode()}
    status, _, answer = platform.request("GET", f"/git/local/{name}/info/refs?service=git-{service}-pack", None, basic)
    return status, answer


def test_a_push_is_not_taken_for_another_case(platform, name):
    status, answer = git(platform, name.upper(), "receive")
    assert status == 409 and name in json.loads(answer)["detail"]
    assert git(platform, name.upper(), "upload")[0] == 404
    assert not os.path.exists(os.path.join(platform.data, "git", "local", name.upper() + ".git"))
    assert git(platform, name, "receive")[0] == 200


def test_a_folder_is_not_taken_for_another_case(platform, name):
    status, _, answer = platform.request("POST", f"/v1/environments/local/{name.upper()}/deployments", b"x" * 1024)
    assert status == 409 and name in json.loads(answer)["detail"]
    assert platform.request("GET", f"/v1/environments/local/{name.upper()}")[0] == 404


def test_another_form_is_a_conflict(platform, name):
    other = "other" + uuid.uuid4().hex[:8]
    assert make(platform, other)[0] == 201
    details = f"/v1/environments/local/{other}/details"
    for look_alike in ("\uff43" + name[1:], "ca\u00ad" + name[2:], name + "\u200d"):
        upload = f"/v1/environments/local/{urllib.parse.quote(look_alike)}/deployments"
        for status, answer in (make(platform, look_alike), make(platform, look_alike, "PUT", details, "new_name"),
                               make(platform, look_alike, path=upload)):
            assert status == 409 and name in answer["detail"] and look_alike in answer["detail"] and "form" in answer["detail"], answer
        assert platform.request("GET", f"/v1/environments/local/{urllib.parse.quote(look_alike)}")[0] == 404


def test_what_is_not_utf8_is_refused(platform, name):
    for body in (b'{"name": "\xff\xef\xbd"}', b'{"name": "\xed\xa0\x80"}', b'{"name": "\\ud800"}'):
        assert platform.request("POST", "/v1/environments", body)[0] == 400
    assert platform.request("POST", "/v1/environments/local/%FF%C3/deployments", b"x" * 1024)[0] == 400


def test_a_rename_that_is_refused_moves_no_repository(platform, name):
    """The repository has its folder by the environment's name."""
    other = "other" + uuid.uuid4().hex[:8]
    assert make(platform, other)[0] == 201
    assert git(platform, other, "receive")[0] == 200
    repository = os.path.join(platform.data, "git", "local", other + ".git")
    wait_until(lambda: os.path.isdir(repository), 60, "the repository")
    details = f"/v1/environments/local/{other}/details"
    assert make(platform, name.upper(), "PUT", details, "new_name")[0] == 409
    assert os.path.isdir(repository)
    assert make(platform, other + "2", "PUT", details, "new_name")[0] == 200
    assert os.path.isdir(repository[:-4] + "2.git")


# What a form makes of a text; none is taken for a name that there is. Those that become ASCII would be names.
UNLIKE = sorted({n for text in ("caf\u00e9", "\uff46orms", "\u0430bc", "a\u200bb", "\ufb01ne") for form in ("NFC", "NFD", "NFKC", "NFKD")
                 if not (n := unicodedata.normalize(form, text)).isascii()})


@pytest.mark.parametrize("name", UNLIKE)
def test_other_forms_of_letters_are_refused(platform, name):
    status, answer = make(platform, name)
    assert status == 400 and "name" in answer["detail"] and "letters, digits" in answer["detail"], answer


@pytest.mark.parametrize("path", ["/v1/users", "/v1/orgs"])
def test_names_of_users_and_organisations(platform, path):
    """They are of one space, so that no organisation is taken for a user either."""
    n = "name" + uuid.uuid4().hex[:8]
    assert make(platform, n, path=path)[0] == 201
    for other in ("/v1/users", "/v1/orgs"):
        status, answer = make(platform, n.upper(), path=other)
        assert status == 409 and n in answer["detail"] and "case" in answer["detail"]
        status, answer = make(platform, n, path=other)
        assert status == 409 and "exists" in answer["detail"]
        for look_alike in (n + "\u200b", "\uff4e" + n[1:], "\uff2e" + n[1:]):
            status, answer = make(platform, look_alike, path=other)
            assert status == 409 and f'"{n}"' in answer["detail"] and look_alike in answer["detail"] and "form" in answer["detail"]
        for look_alike in (n[:-1] + "\u0430", unicodedata.normalize("NFD", n + "\u00e9"), n + "\u00e9", "\uff4e" + n[2:]):
            status, answer = make(platform, look_alike, path=other)
            assert status == 400 and "name" in answer["detail"] and "letters, digits" in answer["detail"], answer
    assert make(platform, n + "2", path=path)[0] == 201, "the same request, corrected"


def test_a_page_token_of_a_list_of_another_kind(platform):
    """Lists of one kind: test_files.py, test_rollouts.py, test_audit.py."""
    assert make(platform, "pages" + uuid.uuid4().hex[:8])[0] == 201
    assert make(platform, "pages" + uuid.uuid4().hex[:8])[0] == 201
    env = make(platform, "pages" + uuid.uuid4().hex[:8])[1]["id"]

    def asked(path, token):
        status, _, answer = platform.request("GET", f"{path}?limit=1&pageToken={token}")
        return status, json.loads(answer)

    wait_until(lambda: asked("/v1/audit", "")[1]["nextPageToken"], 60, "a second page")
    token = asked("/v1/audit", "")[1]["nextPageToken"]
    assert asked("/v1/audit", token)[0] == 200
    for path in ("/v1/runs", f"/v1/files/{env}"):
        status, answer = asked(path, token)
        assert status == 400 and "pageToken" in answer["detail"], answer


def test_an_upload_address_expires(base_images):
    with base_images.platform("buckets: {url_lifetime: 1s}\n", images=False) as p:
        env = make(p, "files")[1]["id"]
        body = json.dumps({"environmentId": env, "files": [{"fileName": "f"}]}).encode()
        url = json.loads(p.request("POST", "/v1/files/upload-urls", body)[2])["urls"][0]["uploadUrl"]
        target = urllib.parse.urlsplit(url)

        def put():
            status, _, answer = p.request("PUT", f"{target.path}?{target.query}", b"x", {"Content-Type": "application/octet-stream"}, key=None)
            return status, answer.decode()
        wait_until(lambda: put()[0] == 403, 60, "the end of the address's time")
        assert "expired" in put()[1]
