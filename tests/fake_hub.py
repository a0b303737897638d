"""A model hub on this machine: enough of the protocol for huggingface_hub, and faults on demand.

    with FakeHub() as hub:
        sha = hub.commit("org/model", {"config.json": b"{}"})
        hub.use(monkeypatch, cache)        # this process; or hub.env(cache) for a child
        hub.cut("model.safetensors", after=1000)

Every request is written down, so that a test can say what was asked for and, above all, what was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<name>[^/]+(?:/[^/]+)??)(?:/(?P<kind>revision|tree)/(?P<rev>[^/]+))?")
_FILE = re.compile(r"/(?P<name>[^/]+(?:/[^/]+)??)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")


@dataclass
class _Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False


@dataclass
class _Fault:
    after: int
    times: int
    hold: bool = False


class FakeHub:
    """The hub's side: models with their commits, the faults to show, and what was asked for."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.repos: dict[str, _Repo] = {}
        self.faults: dict[str, _Fault] = {}
        self.failing: int | None = None
        self.connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Vanish: new connections are refused, open ones are cut."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit(self, name: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit that holds exactly these files and point the branch at it."""
        repo = self.repos.setdefault(name, _Repo())
        sha = hashlib.sha1(f"{name} {branch} {len(repo.commits)}".encode()).hexdigest()
        repo.commits[sha] = dict(files)
        repo.branches[branch] = sha
        return sha

    def gate(self, name: str) -> None:
        """Show the model to everyone and its files to nobody."""
        self.repos[name].gated = True

    def cut(self, file: str, *, after: int, times: int = 1) -> None:
        """Drop the connection after so many bytes of a file, for its next ``times`` downloads."""
        self.faults[file] = _Fault(after, times)

    def stall(self, file: str, *, after: int) -> None:
        """Send so many bytes of a file, set ``stalled``, and then send nothing more."""
        self.faults[file] = _Fault(after, 1, hold=True)

    def fail(self, status: int | None) -> None:
        """Answer every request with this status, until told otherwise with None."""
        self.failing = status

    def downloads(self) -> list[str]:
        """Files whose content was asked for, in order."""
        found = (_FILE.fullmatch(path) for method, path in self.requests if method == "GET")
        return [match["file"] for match in found if match]

    def env(self, cache: Path) -> dict[str, str]:
        """The environment of a child process that knows this hub and an empty home, and nothing else."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def use(self, monkeypatch: Any, cache: Path) -> None:
        """Point this process at the hub; huggingface_hub has read its environment at import already."""
        from huggingface_hub import constants

        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        for constant, value in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "AGENT_HARNESSES_PATH": str(cache / "harnesses.json"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, constant, value)


class _Handler(BaseHTTPRequestHandler):
    """One connection to the hub."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; waiting to join them costs 40 ms a request

    def setup(self) -> None:
        super().setup()
        with self.hub.lock:
            self.hub.connections.append(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.failing is not None:
            return self._refuse(self.hub.failing, None)
        # Slashes of a branch such as refs/pr/1 are quoted, so it is the raw path that is taken apart.
        raw = urlsplit(self.path).path
        if match := _API.fullmatch(raw):
            return self._describe(match["name"], match["kind"] or "revision", unquote(match["rev"] or "main"))
        if match := _FILE.fullmatch(raw):
            return self._send(match["name"], unquote(match["rev"]), unquote(match["file"]))
        return self._refuse(404, None)

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            # The real hub does not say whether a model is missing or private.
            self._refuse(401, "RepoNotFound")
            return None
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return sha, repo.commits[sha]

    def _describe(self, name: str, kind: str, revision: str) -> None:
        if (found := self._find(name, revision)) is None:
            return
        sha, files = found
        described: object = {"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files]}
        if kind == "tree":
            described = [
                {"type": "file", "path": file, "size": len(content), "oid": _etag(content)}
                for file, content in files.items()
            ]
        body = json.dumps(described).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self._body(body)

    def _send(self, name: str, revision: str, file: str) -> None:
        if (found := self._find(name, revision)) is None:
            return None
        sha, files = found
        if self.hub.repos[name].gated:
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if file not in files:
            return self._refuse(404, "EntryNotFound", sha)
        content = files[file]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status, start = 200, 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(status, {**headers, "Content-Length": str(len(content) - start)})
        self._body(content[start:], self.hub.faults.get(file))

    def _refuse(self, status: int, code: str | None, sha: str | None = None) -> None:
        extra = ({"X-Error-Code": code} if code else {}) | ({"X-Repo-Commit": sha} if sha else {})
        self._head(status, {**extra, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _body(self, content: bytes, fault: _Fault | None = None) -> None:
        if self.command == "HEAD":
            return
        if fault is None or fault.times == 0:
            self.wfile.write(content)
            return
        fault.times -= 1
        self.wfile.write(content[: fault.after])
        self.wfile.flush()
        if fault.hold:
            self.hub.stalled.set()
            self.hub.released.wait(30)
        self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
