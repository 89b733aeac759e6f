"""All checks of one cached repository with the client that runs this: see `clients --help`.

python verify.py CACHE REPOSITORY REVISION [ENDPOINT]
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import huggingface_hub

from stand_in import HERE, client, environment

VERSION = huggingface_hub.__version__
HAS_VERIFICATION = int(VERSION.split(".")[0]) >= 1


def fail(message):
    sys.exit(f"huggingface_hub {VERSION}: {message}")


def load_offline(cache, repository, revision, env):
    """What the client finds without a network, and that it can read every file."""
    answer = client(sys.executable, "snapshot", {"repo_id": repository, "revision": revision, "cache_dir": cache}, env)
    if "path" not in answer:
        fail(f"{repository}@{revision} does not load offline: {answer['error']}: {answer['message']}")
    root = pathlib.Path(answer["path"])
    files = [path for path in root.rglob("*") if not path.is_dir()]
    if not files:
        fail(f"{root} is empty")
    for path in files:
        with path.open("rb") as file:
            file.read(1)
    name = files[0].relative_to(root).as_posix()
    single = {"repo_id": repository, "revision": revision, "cache_dir": cache, "filename": name}
    answer = client(sys.executable, "file", single, env)
    if answer.get("path") != str(root / name):
        fail(f"{name} of {repository}@{revision} does not load offline: {answer}")
    return root


def main(cache, repository, revision, endpoint=""):
    with tempfile.TemporaryDirectory() as home:
        token = {"HF_TOKEN": os.environ["HF_TOKEN"]} if "HF_TOKEN" in os.environ else {}
        # Port 9 of loopback: whoever tries to reach the hub is refused.
        offline = environment(home, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        root = load_offline(cache, repository, revision, offline)
        commit = root.name
        if not re.fullmatch("[0-9a-f]{40}", commit):
            fail(f"{root} is named after no commit")
        if load_offline(cache, repository, commit, offline) != root:
            fail(f"{revision} and {commit} are different folders")
        print(f"huggingface_hub {VERSION}: {repository} loads offline by {revision} and by commit")
        if not HAS_VERIFICATION:
            return
        command = [sys.executable, HERE / "verify_offline.py", cache, repository, revision]
        if subprocess.run(command, env=offline).returncode != 0:
            fail("the files do not match the tree file")
        if endpoint:
            hf = pathlib.Path(sys.executable).parent / "hf"
            strict = ["--fail-on-missing-files", "--fail-on-extra-files", "--cache-dir", cache]
            command = [hf, "cache", "verify", repository, "--revision", commit, *strict]
            if subprocess.run(command, env=environment(home, endpoint, **token)).returncode != 0:
                fail("the files do not match the hub's list")


main(*sys.argv[1:])
