"""The real huggingface_hub client against the stand-in hub: what it downloads, how it resumes, fails and works offline.

CLIENT_PYTHON is the interpreter that has the client, HUB_PROGRAM the stand-in hub. Every file that the client wrote is
hashed here, because the client compares sizes only.
"""

import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time
import unittest

from stand_in import HERE, StandIn, client, environment

PYTHON = os.environ["CLIENT_PYTHON"]
PROGRAM = os.environ["HUB_PROGRAM"]
VERSION = tuple(
    int(part)
    for part in subprocess.check_output(
        [PYTHON, "-c", "import huggingface_hub; print(huggingface_hub.__version__)"], text=True
    ).split(".")
)
MANY = 1100
LARGE = 25_000_000
CHUNK = 10 * 1024 * 1024  # the client's own step: it resumes at multiples of it
CUT = 15_000_000
ODD = {
    "a b/c d.txt": "space",
    "100%.txt": "percent",
    "%41.txt": "looks encoded",
    "a+b#c.txt": "plus and hash",
    "é/ü ñ.txt": "non-ASCII",
    "question?.txt": "question mark",
    "deep/1/2/3/4/5/6/7/8/x.json": '{"x": "%s"}' % ("y" * 1000),
    "empty.txt": "",
    "empty.bin": b"",
    "same-1.bin": b"the same content",
    "dir/same-2.bin": b"the same content",
}


def large(seed):
    return random.Random(seed).randbytes(LARGE)


def digest(content):
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def digests(root):
    """The files below a directory with the hashes of what they contain."""
    root = pathlib.Path(root)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="modelcache-clients-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        many = {f"data/{n % 7}/file-{n:04}.txt": f"content of {n}\n" * (n % 40) for n in range(MANY)}
        many |= {"model.bin": large(1), ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"}
        for path, content in many.items():
            file = cls.directory / "many" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        cls.many = {path: digest(content) for path, content in many.items()}
        cls.odd = {path: digest(content) for path, content in ODD.items()}
        cls.hub = StandIn(PROGRAM, load=[(cls.directory / "many", "org/many")])
        cls.addClassCleanup(cls.hub.stop)
        cls.odd_commit = cls.hub.create("org/odd", ODD)
        # Put in place on disk: 50 MB of hex would only test the admin API.
        (cls.directory / "large.bin").write_bytes(large(2))
        disk = {"disk": str(cls.directory / "large.bin")}
        files = [{"path": "large.bin", "content": disk, "lfs": True}]
        cls.hub.call("POST", "/repositories", {"name": "org/large", "files": files})
        cls.large = digest(large(2))

    def setUp(self):
        self.hub.calm()
        self.home = pathlib.Path(tempfile.mkdtemp(dir=self.directory))

    def ask(self, call, repository, env=None, timeout=120, **arguments):
        settings = environment(self.home, self.hub.url, **(env or {}))
        return client(PYTHON, call, {"repo_id": repository, **arguments}, settings, timeout)

    def path(self, answer):
        self.assertIn("path", answer, answer)
        return answer["path"]

    def error(self, kind, call, repository, env=None, **arguments):
        answer = self.ask(call, repository, env, **arguments)
        self.assertIn(kind, answer.get("kinds", []), answer)
        return answer

    def folder(self, repository):
        return self.home / "hub" / ("models--" + repository.replace("/", "--"))

    def content_bytes(self, repository):
        counted = self.hub.counters()["repositories"].get(repository)
        return counted["total"]["content_bytes"] if counted else 0

    def test_many_files_then_again_then_offline(self):
        root = self.path(self.ask("snapshot", "org/many"))
        self.assertEqual(digests(root), self.many)
        trees = [request for request in self.hub.requests() if request["endpoint"] == "tree"]
        if VERSION >= (1,):
            self.assertEqual([request["status"] for request in trees], [200, 200], "more than 1,000: two pages")
        self.assertEqual(self.hub.counters()["leaked_tokens"], 0)
        commit = pathlib.Path(root).name
        self.assertEqual((self.folder("org/many") / "refs/main").read_text(), commit)

        self.hub.calm()
        self.assertEqual(self.path(self.ask("snapshot", "org/many")), root)
        self.assertEqual(self.content_bytes("org/many"), 0, "nothing is fetched twice")

        self.hub.settings(hub="refuse", cdn="refuse")
        offline = {"HF_HUB_OFFLINE": "1"}
        for revision in ("main", commit):
            self.assertEqual(self.path(self.ask("snapshot", "org/many", offline, revision=revision)), root)
            file = self.path(self.ask("file", "org/many", offline, revision=revision, filename="model.bin"))
            self.assertEqual(digest(pathlib.Path(file).read_bytes()), self.many["model.bin"])
        self.assertEqual(self.path(self.ask("snapshot", "org/many", local_files_only=True)), root)

    def test_odd_names_and_single_files(self):
        self.assertEqual(digests(self.path(self.ask("snapshot", "org/odd"))), self.odd)
        for path, expected in self.odd.items():
            if path in ("é/ü ñ.txt", "%41.txt", "dir/same-2.bin"):
                cache = {"cache_dir": str(self.home / "other")}
                file = pathlib.Path(self.path(self.ask("file", "org/odd", filename=path, **cache)))
                self.assertEqual(digest(file.read_bytes()), expected)
        self.hub.calm()
        self.hub.settings(resolve_cache=False)
        inline = self.ask("snapshot", "org/odd", cache_dir=str(self.home / "inline"))
        self.assertEqual(digests(self.path(inline)), self.odd, "regular files served without a redirect")
        self.assertNotIn("resolve_cache", self.hub.counters()["endpoints"])

    def test_patterns(self):
        root = self.path(self.ask("snapshot", "org/odd", allow_patterns=["*.txt"], ignore_patterns=["a b/*"]))
        expected = {path: hash for path, hash in self.odd.items() if path.endswith(".txt") and path != "a b/c d.txt"}
        self.assertEqual(digests(root), expected)

    def cut(self, **settings):
        """A download that is cut once; the ranges that the client then asked the CDN for."""
        self.hub.settings(**settings)
        effect = {"kind": "truncate", "after": CUT}
        self.hub.faults({"effect": effect, "endpoints": ["cdn"], "method": "GET", "times": 1})
        answer = self.ask("file", "org/large", filename="large.bin")
        if VERSION < (1,):
            # This client gives up; the next call, in another process, resumes.
            self.assertIn("error", answer)
            answer = self.ask("file", "org/large", filename="large.bin")
        self.assertEqual(digest(pathlib.Path(self.path(answer)).read_bytes()), self.large)
        self.assertEqual(self.hub.call("GET", "/faults")[0]["happened"], 1)
        requests = [request for request in self.hub.requests() if request["endpoint"] == "cdn"]
        gets = [request for request in requests if request["method"] == "GET"]
        return [(request["headers"].get("range"), request["status"], request["body_bytes"]) for request in gets]

    def test_interrupted_and_resumed(self):
        gets = self.cut(gzip_traps=False)
        self.assertEqual(gets, [(None, 200, CUT), (f"bytes={CHUNK}-", 206, LARGE - CHUNK)])
        self.assertEqual(self.content_bytes("org/large"), CUT + LARGE - CHUNK)

    def test_interrupted_where_gzip_loses_the_range(self):
        gets = self.cut(gzip_traps=True)
        self.assertEqual(gets, [(None, 200, CUT), (f"bytes={CHUNK}-", 200, LARGE)])

    def test_stalled_and_resumed(self):
        self.hub.settings(gzip_traps=False)
        effect = {"kind": "stall", "after": CUT, "milliseconds": 60_000}
        self.hub.faults({"effect": effect, "endpoints": ["cdn"], "method": "GET", "times": 1})
        env = {"HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        answer = self.ask("file", "org/large", env, filename="large.bin")
        self.assertEqual(digest(pathlib.Path(self.path(answer)).read_bytes()), self.large)
        ranges = [request["headers"].get("range") for request in self.hub.requests() if request["method"] == "GET"]
        self.assertIn(f"bytes={CHUNK}-", ranges)

    def test_access(self):
        self.hub.call("PUT", "/tokens", [
            {"token": "hf_member", "user": "alice", "repositories": ["org/private", "org/gated"]},
            {"token": "hf_other", "user": "bob"},
        ])
        files = {"config.json": "{}", "weights.bin": b"weights"}
        expected = {path: digest(content) for path, content in files.items()}
        for name, access, kind in [
            ("org/private", {"private": True}, "RepositoryNotFoundError"),
            ("org/gated", {"gated": "files"}, "GatedRepoError"),
        ]:
            self.hub.create(name, files, **access)
            for call, arguments in [("snapshot", {}), ("file", {"filename": "weights.bin"})]:
                for env in ({}, {"HF_TOKEN": "hf_other"}):
                    self.error(kind, call, name, env, **arguments)
            self.assertEqual(digests(self.path(self.ask("snapshot", name, {"HF_TOKEN": "hf_member"}))), expected)
        wrong = {"HF_TOKEN": "hf_wrong", "HF_HUB_CACHE": str(self.home / "empty")}
        answer = self.error("HfHubHTTPError", "snapshot", "org/private", wrong)
        self.assertIn("Invalid credentials in Authorization header", answer["message"])
        self.hub.create("org/disabled", files, disabled=True)
        self.assertIn("DisabledRepoError", self.ask("file", "org/disabled", filename="config.json").get("causes", []))
        counters = self.hub.counters()
        self.assertGreater(counters["endpoints"]["cdn"]["requests"], 0)
        self.assertEqual(counters["leaked_tokens"], 0, "the token stays with the hub's host")
        self.assertNotIn("hf_", str([request["headers"].get("authorization") for request in self.hub.requests()]))

    def test_what_does_not_exist(self):
        self.error("RepositoryNotFoundError", "snapshot", "org/nothing")
        self.error("RevisionNotFoundError", "snapshot", "org/odd", revision="nothing")
        self.error("RevisionNotFoundError", "file", "org/odd", revision="0" * 40, filename="100%.txt")
        self.error("EntryNotFoundError", "file", "org/odd", filename="nothing.txt")
        marker = self.folder("org/odd") / ".no_exist" / self.odd_commit / "nothing.txt"
        self.assertTrue(marker.is_file(), "the client believed the commit of the 404")

    def test_pull_requests_tags_and_branches(self):
        change = {"repository": "org/odd", "files": [{"path": "new.txt", "content": {"text": "new"}}], "delete": ["100%.txt"]}
        for revision, branch in [("refs/pr/1", "refs/pr/1"), ("dev/x", "dev/x"), ("v1", "refs/tags/v1")]:
            commit = self.hub.call("POST", "/commits", {**change, "branch": branch})["commit"]
            root = pathlib.Path(self.path(self.ask("snapshot", "org/odd", revision=revision)))
            self.assertEqual(root.name, commit)
            expected = {**self.odd, "new.txt": digest("new")}
            del expected["100%.txt"]
            self.assertEqual(digests(root), expected)
            self.assertEqual((self.folder("org/odd") / "refs" / revision).read_text(), commit)
            offline = self.ask("snapshot", "org/odd", {"HF_HUB_OFFLINE": "1"}, revision=revision)
            self.assertEqual(self.path(offline), str(root))

    def test_renamed(self):
        files = {"config.json": "{}", "weights.bin": b"weights"}
        self.hub.create("org/before", files)
        self.hub.call("POST", "/rename", {"from": "org/before", "to": "org/after"})
        expected = {path: digest(content) for path, content in files.items()}
        self.assertEqual(digests(self.path(self.ask("snapshot", "org/before"))), expected)
        self.assertIn(307, {request["status"] for request in self.hub.requests()})

    def test_rate_limit(self):
        self.hub.settings(window_seconds=3, anonymous={"api": 100, "resolvers": 5, "pages": 10})
        answer = self.ask("snapshot", "org/odd", max_workers=1)
        # The oldest client does not wait by itself; its next call, in a fresh window, goes on where it was.
        for _ in range(0 if VERSION >= (1,) else 4):
            if "error" in answer:
                time.sleep(3)
                answer = self.ask("snapshot", "org/odd", max_workers=1)
        self.assertEqual(digests(self.path(answer)), self.odd)
        refused = [request for request in self.hub.requests() if request["status"] == 429]
        self.assertTrue(refused, "the budget was used up")

    def test_moved_on_and_unreachable(self):
        self.hub.create("org/moving", {"a.txt": "old"})
        old = self.path(self.ask("snapshot", "org/moving"))
        change = {"repository": "org/moving", "branch": "main", "files": [{"path": "a.txt", "content": {"text": "new"}}]}
        commit = self.hub.call("POST", "/commits", change)["commit"]
        new = self.path(self.ask("snapshot", "org/moving"))
        self.assertEqual((pathlib.Path(new).name, digests(new)), (commit, {"a.txt": digest("new")}))
        self.assertEqual(digests(old), {"a.txt": digest("old")})
        self.hub.settings(hub="unavailable")
        self.assertEqual(self.path(self.ask("file", "org/moving", revision=commit, filename="a.txt")), f"{new}/a.txt")

    def test_wrong_bytes_are_served(self):
        wrong = {"kind": "wrong_byte", "at": 1_000_000}
        self.hub.faults({"effect": wrong, "endpoints": ["cdn"], "method": "GET"})
        file = pathlib.Path(self.path(self.ask("file", "org/large", filename="large.bin")))
        self.assertEqual(file.stat().st_size, LARGE)
        self.assertNotEqual(digest(file.read_bytes()), self.large, "the client compares sizes only")

    def test_the_first_request_of_newer_clients(self):
        env = {"HF_HUB_DISABLE_TELEMETRY": "0"}
        self.path(self.ask("file", "org/odd", env, filename="100%.txt"))
        targets = {request["target"] for request in self.hub.requests()}
        self.assertEqual("/api/agent-harnesses" in targets, VERSION >= (1, 22))

    @unittest.skipIf(VERSION < (1, 22), "this client has no verification")
    def test_verification_finds_what_is_wrong(self):
        self.path(self.ask("snapshot", "org/odd"))
        cache = self.home / "hub"
        env = environment(self.home, self.hub.url)
        hf = pathlib.Path(PYTHON).parent / "hf"
        strict = ["--fail-on-missing-files", "--fail-on-extra-files", "--cache-dir", cache]
        offline = [PYTHON, HERE / "verify_offline.py", cache, "org/odd", "main"]
        online = [hf, "cache", "verify", "org/odd", "--revision", self.odd_commit, *strict]

        def results():
            runs = [
                subprocess.run(offline, env={**env, "HF_HUB_OFFLINE": "1"}, capture_output=True),
                subprocess.run(online, env=env, capture_output=True),
            ]
            return [run.returncode == 0 for run in runs]

        self.assertEqual(results(), [True, True])
        file = self.folder("org/odd") / "snapshots" / self.odd_commit / "a+b#c.txt"
        blob = file.resolve()
        content = blob.read_bytes()
        blob.write_bytes(b"x" + content[1:])
        self.assertEqual(results(), [False, False], "a wrong byte")
        blob.write_bytes(content)
        file.unlink()
        self.assertEqual(results(), [False, False], "a missing file")


if __name__ == "__main__":
    unittest.main(verbosity=2)
