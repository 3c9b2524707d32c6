"""Deployments tell how they came to be what they are."""
import json

from tinyenv import deploy_tiny


def moves(platform, deployment_id):
    status, _, data = platform.request("GET", f"/v1/deployments/{deployment_id}")
    assert status == 200, data
    transitions = json.loads(data)["transitions"]
    for before, after in zip(transitions, transitions[1:]):
        assert after["from"] == before["to"] and after["at"] >= before["at"], transitions
    assert all(t["reason"] for t in transitions), transitions
    return [t["to"] for t in transitions]


def test_every_move_is_told(platform):
    name = deploy_tiny(platform, "moves", revision="a")
    deploy_tiny(platform, "moves", revision="b")
    status, _, data = platform.request("GET", f"/v1/environments/{name}/deployments")
    assert status == 200, data
    newer, older = json.loads(data)
    assert "transitions" not in newer
    assert moves(platform, newer["id"]) == ["queued", "building", "deploying", "ready"]
    found = moves(platform, older["id"])
    assert found[:4] == ["queued", "building", "deploying", "ready"]
    assert found[4:] in (["stopped"], ["draining"], ["draining", "stopped"])
