"""Runs the stand-in hub and steers it through its admin API; runs a client against it."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PLENTY = {"api": 10**6, "resolvers": 10**6, "pages": 10**6}


def free_ports(count):
    """Ports that nobody listens on, below those that outgoing connections take."""
    ports = []
    for port in range(20000 + os.getpid() % 8000, 32000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


class StandIn:
    """The program on loopback. Hub and CDN differ in their host name, as clients expect."""

    def __init__(self, program, load=()):
        hub, cdn, admin = free_ports(3)
        self.url, self.admin = f"http://127.0.0.1:{hub}", f"http://127.0.0.1:{admin}"
        self.log = tempfile.NamedTemporaryFile(prefix="modelcache-hub-", suffix=".log", delete=False)
        ports = ["--port", str(hub), "--cdn-port", str(cdn), "--admin-port", str(admin)]
        loads = [argument for directory, name in load for argument in ("--load", f"{directory}={name}")]
        self.process = subprocess.Popen([program, *ports, *loads], stderr=self.log)
        self.wait()

    def wait(self):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                return self.call("GET", "/counters")
            except urllib.error.URLError:
                time.sleep(0.05)
        raise RuntimeError(f"the stand-in hub did not start, see {self.log.name}")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.admin + path, data, method=method)
        with OPEN.open(request, timeout=60) as answer:
            return json.load(answer)

    def create(self, name, files, **access):
        """files: {path: text or bytes}; bytes lie in LFS."""
        specs = [spec(path, content) for path, content in files.items()]
        return self.call("POST", "/repositories", {"name": name, "files": specs, **access})["commit"]

    def settings(self, **changes):
        self.call("PUT", "/settings", changes)

    def faults(self, *faults):
        self.call("PUT", "/faults", list(faults))

    def counters(self):
        return self.call("GET", "/counters")

    def requests(self):
        return self.call("GET", "/requests")

    def calm(self):
        """Back to the normal state, with counters at zero and limits out of the way."""
        self.faults()
        self.settings(hub="on", cdn="on", bytes_per_second=None, resolve_cache=True, gzip_traps=True,
                      window_seconds=300, anonymous=PLENTY, user=PLENTY)
        self.call("PUT", "/tokens", [])
        self.call("POST", "/counters/reset", {})

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
        os.unlink(self.log.name)


def spec(path, content):
    if isinstance(content, bytes):
        return {"path": path, "content": {"hex": content.hex()}, "lfs": True}
    return {"path": path, "content": {"text": content}, "lfs": False}


def environment(home, endpoint, **more):
    """Nothing of the caller's own settings, caches and tokens reaches the client."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUTF8": "1",
        **more,
    }


def client(python, call, arguments, env, timeout=120):
    """One call of the real client in a process of its own."""
    command = [python, HERE / "client.py", call, json.dumps(arguments)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    if run.returncode != 0:
        raise RuntimeError(f"the client broke: {run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])
