"""Images above a budget: what goes, what stays, and what is told of it."""
import hashlib
import io
import json
import os
import random
import socket
import tarfile

from orw import settings, wait_until
from tinyenv import deploy_tiny

MIB = 1 << 20


def archive(path: str, seed: int, size: int = 4 * MIB) -> None:
    """What `docker save` writes of an image with one file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        info = tarfile.TarInfo("data")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(seed).randbytes(size)))
    diff = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["l.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in (("c.json", config), ("l.tar", layer.getvalue()), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def bring(p, tmp_path, name: str, seed: int) -> None:
    path = str(tmp_path / f"{seed}.tar")
    archive(path, seed)
    done = p.cli("image", "import", path, name)
    assert done.returncode == 0, done.stderr


def here(p) -> dict[str, dict]:
    done = p.cli("image", "ls", "--json")
    assert done.returncode == 0, done.stderr
    images = [json.loads(line) for line in done.stdout.splitlines()]
    return {i["name"].removeprefix("docker.io/library/"): i for i in images}


def budget_for(platform, more: int) -> str:
    """The base fits, and so much more. Less, and it would go before anybody uses it."""
    return f"images:\n  budget: {here(platform)['python:3.11-slim']['size_bytes'] + more}\n"


def test_a_living_sandbox_keeps_its_image(platform, base_images, tmp_path):
    """The budget holds the base and no other; a sandbox lives on the base, the oldest."""
    with base_images.platform(budget_for(platform, MIB)) as p, p.client() as client:
        with client.sandbox(settings(image="python:3.11-slim")) as s:
            bring(p, tmp_path, "first:1", 1)
            bring(p, tmp_path, "second:1", 2)
            wait_until(lambda: set(here(p)) == {"python:3.11-slim"}, 60, "the small ones gone")
            assert here(p)["python:3.11-slim"]["in_use"]
            assert s.run("python3 -c 'import json, ssl, sqlite3; print(6 * 7)'").output == "42"
            p.process.kill()
            p.process.wait()
            p.listen = p.url.removeprefix("http://")
            p.start()
            done = p.cli("image", "gc", "0")
            assert done.returncode == 0 and done.stdout.startswith("0 removed, 0.0 MiB freed"), done.stdout + done.stderr
            assert s.run("python3 -c 'import decimal, http.client; print(6 * 7)'").output == "42"
        wait_until(lambda: not here(p) or not here(p)["python:3.11-slim"]["in_use"], 60, "the image unused")
        assert p.cli("image", "gc", "0").returncode == 0
        assert not here(p)
        assert "removed an image that nobody needs" in p.log()
        layers = os.path.join(p.data, "images", "bases", "store", "overlay")
        wait_until(lambda: all(d == "l" or d[0] == "." for d in os.listdir(layers)), 180, "their files gone")  # after the record


def test_by_hand_it_tells_what_it_freed_and_goes_by_use(base_images, tmp_path):
    with base_images.platform() as p:
        for seed, name in enumerate(("first:1", "second:1", "third:1")):
            bring(p, tmp_path, name, seed)
        found = here(p)
        assert found["first:1"]["layers"] == 1 and found["first:1"]["layer_bytes"][0] > 4 * MIB
        assert not found["first:1"]["in_use"] and found["first:1"]["last_used_at"] >= found["python:3.11-slim"]["last_used_at"]
        with p.client() as client, client.sandbox(settings(image="python:3.11-slim")):
            done = p.cli("image", "gc", "1GiB")
            assert done.returncode == 0 and done.stdout.startswith("0 removed"), done.stdout + done.stderr
            left = sum(i["size_bytes"] for i in found.values()) - 5 * MIB
            done = p.cli("image", "gc", str(left))
            assert done.returncode == 0, done.stderr
            assert "removed docker.io/library/first:1: 4.0 MiB" in done.stdout and "2 removed, 8.0 MiB freed" in done.stdout, done.stdout
            assert set(here(p)) == {"third:1", "python:3.11-slim"}
            assert "MiB in all" in p.cli("image", "ls").stdout
        done = p.cli("image", "gc")
        assert done.returncode == 1 and "images.budget is not set" in done.stderr
        assert "expected a size" in p.cli("image", "gc", "much").stderr
        status, _, answer = p.request("POST", "/v1/images/gc", b'{"budget_bytes": -1}')
        assert status == 400 and b"budget_bytes" in answer


def test_a_deployment_keeps_its_image_and_its_base(platform, base_images, tmp_path):
    config = budget_for(platform, MIB) + "  aliases:\n    other:1: second:1\n"
    with base_images.platform(config) as p, p.client() as client:
        name = deploy_tiny(p)
        bring(p, tmp_path, "first:1", 1)
        bring(p, tmp_path, "second:1", 2)
        wait_until(lambda: "first:1" not in here(p), 60, "what nobody needs gone")
        done = p.cli("image", "gc", "0")
        assert done.returncode == 0, done.stderr
        kept = set(here(p))
        assert "python:3.11-slim" in kept and "second:1" in kept and any(k.startswith("localhost/env/local/") for k in kept), kept
        status, _, answer = p.request("DELETE", "/v1/images?name=python:3.11-slim")
        assert status == 409 and b"remove that one first" in answer, answer
        assert client.environments.get(name).list_tasks("train")


def test_what_an_import_replaced_goes(base_images, tmp_path):
    with base_images.platform() as p:
        store = os.path.join(p.data, "images", "bases", "store", "overlay")

        def layers() -> set[str]:
            return {d for d in os.listdir(store) if len(d) == 64}

        before = layers()
        with p.client() as client:
            bring(p, tmp_path, "first:1", 1)
            bring(p, tmp_path, "first:1", 2)
            wait_until(lambda: len(layers() - before) == 1, 60, "the replaced one gone")
            assert set(here(p)) == {"first:1", "python:3.11-slim"}
            with client.sandbox(settings(image="python:3.11-slim")) as s:
                assert s.run("echo alive").output.strip() == "alive"
        assert p.cli("image", "rm", "first:1").returncode == 0
        assert layers() == before
        status, _, answer = p.request("DELETE", "/v1/images?name=first:1")
        assert status == 404 and b"docker.io/library/first:1 is not here" in answer, answer


def test_a_registry_that_says_nothing_holds_up_nobody_for_ever(base_images):
    """It accepts and is silent: who waits for its image is told so after a time, and so is the next one."""
    with base_images.platform("images: {timeout: 2s}\n") as p, socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(2):
            done = p.cli("image", "pull", f"127.0.0.1:{silent.getsockname()[1]}/quiet:1")
            assert done.returncode == 1 and "could not be pulled: it took longer than 2 s" in done.stderr, done.stderr
