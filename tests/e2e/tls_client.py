"""What the SDK does with a platform that the environment variables name, in a process of its own: the libraries below it read
SSL_CERT_FILE when they are imported. Arguments: an environment, and a folder to work in. Prints one JSON object."""
import hashlib
import json
import os
import pathlib
import sys

from openreward import OpenReward
from orw import settings


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def sandbox_of(client, folder):
    with client.sandbox(settings()) as box:
        big, small = folder / "big", folder / "small"
        big.write_bytes(os.urandom(100_000_000))
        small.write_bytes(os.urandom(9_000_000))
        box.upload_from(big, "/tmp/big")
        box.upload(small, "/tmp/small")
        sums = box.run("sha256sum /tmp/big /tmp/small | cut -d' ' -f1").output.split()
        box.download_to("/tmp/big", folder / "back")
        output = box.run("head -c 3000000 /dev/zero | tr '\\0' y", max_bytes=None).output
        return {"there": sums == [digest(big), digest(small)], "back": digest(folder / "back") == digest(big),
                "output": output == "y" * 3_000_000, "status": box.run("exit 7").return_code}


def environment_of(client, name):
    environment = client.environments.get(name)
    with environment.session(split="train", index=0) as session:
        prompt = session.get_prompt()[0].text
        return {"splits": environment.list_splits(), "prompt": bool(prompt), "tools": bool(session.list_tools())}


def main():
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    with OpenReward() as client:
        print(json.dumps({"sandbox": sandbox_of(client, folder), "environment": environment_of(client, name)}))


if __name__ == "__main__":
    main()
