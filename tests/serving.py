"""Servers for tests: in this process, on a real socket, with a model that can be held up.

with serving.client() as client:          an application without sockets
with serving.running() as server:         a real server on a free port of loopback
held = serving.HeldEncoder(model())       an encoder whose packs wait until they are let go
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import echoembed

pytest.importorskip("starlette", reason="the server's libraries are not installed: pip install 'echoembed[serve]'")
from starlette.testclient import TestClient

from echoembed.recipe import Recipe
from echoembed.server.app import App
from echoembed.server.encoder import ServedModel
from echoembed.server.listen import Server, bind
from echoembed.server.service import Service
from echoembed.server.settings import Limits, Settings

TINY = str(Path(echoembed.__file__).parent / "tiny")
"""The bundled model."""
ASYMMETRIC = Recipe(
    name="sides",
    query_template="{bos}Query: {text} again: {text:pool}",
    document_template="{bos}Document: {text} again: {text:pool}",
)
"""Queries and documents have different vectors under it, so that a wrong side shows."""
LONG = 30.0
"""Seconds after which a wait that should end at once counts as endless; nothing is measured by it."""


@cache
def model(**options: Any):
    return echoembed.load(TINY, **options)


class HeldEncoder(ServedModel):
    """Waits before each pack until it is let go, and says when one is waiting."""

    def __init__(self, loaded) -> None:
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Semaphore(0)
        self.packs: list[list[Any]] = []
        super().__init__(loaded)

    def vectors(self, prompts, lane=""):
        self.wait(prompts)
        return super().vectors(prompts, lane)

    def wait(self, prompts) -> None:
        self.packs.append(list(prompts))
        self.begun.release()
        assert self.free.wait(LONG)

    def hold(self) -> None:
        self.free.clear()
        self.packs.clear()
        while self.begun.acquire(blocking=False):
            pass

    def wait_for_pack(self) -> None:
        assert self.begun.acquire(timeout=LONG)


def service(encoder: ServedModel | None = None, settings: Settings | None = None, **limits: Any) -> Service:
    return Service(encoder or ServedModel(model()), settings or Settings(limits=Limits(**limits)))


@contextmanager
def client(served: Service | None = None, **limits: Any):
    """A client of an application, in this process and without sockets."""
    app = App(served or service(**limits))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as one:
        one.app_under_test = app
        yield one


class Running:
    """A server on a real socket, in a thread of this process."""

    def __init__(self, server: Server, address: str) -> None:
        self.server = server
        self.address = address
        parts = urlsplit(address)
        self.host, self.port = parts.hostname, parts.port

    def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", path, json.dumps(body).encode(), **{"Content-Type": "application/json", **headers})

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, None, **headers)

    def ask(self, method: str, path: str, body: bytes | None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LONG)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text

    def send(self, *parts: bytes, close: bool = True) -> bytes:
        """Send bytes as they are; all that comes back until the server ends the connection."""
        with socket.create_connection((self.host, self.port), timeout=LONG) as raw:
            answer = b""
            try:
                for part in parts:
                    raw.sendall(part)
                if close:
                    raw.shutdown(socket.SHUT_WR)
                while piece := raw.recv(65536):
                    answer += piece
            except OSError:  # it has ended the connection already
                pass
            return answer


@contextmanager
def running(encoder_class: type[ServedModel] = ServedModel, settings: Settings | None = None, loaded: Any = None):
    """A real server, which ends with the block."""
    settings = settings or Settings(port=0)
    server = Server(loaded or model(), settings, encoder_class=encoder_class)
    box: list[str] = []
    ready = threading.Event()

    def on_ready(address: str) -> None:
        box.append(address)
        ready.set()

    listener = bind(settings)
    thread = threading.Thread(target=server.run_on, args=(listener, on_ready), daemon=True)
    thread.start()
    assert ready.wait(LONG)
    try:
        yield Running(server, box[0])
    finally:
        server.should_exit = True
        thread.join(LONG)
        assert not thread.is_alive()
