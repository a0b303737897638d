"""Measure what a server costs besides its model: python benchmarks/serve.py [--model MODEL] [--out FILE].

- Closed loops: 1, 8 and 64 clients, which each send the next text when they have the last vector.
- Open loops: requests at random moments, at a share of the closed loops' best rate, whether or not earlier requests
  are answered.
- The library's throughput on the same texts, in one call of ``encode``, in this process and in turns with the loops.
- The time of ``echoembed embed --server`` as a whole command.

The server is its own process. The clients are in this process, and share the processors with the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sentence_transformers import SentenceTransformer

import echoembed

CLIENTS = (1, 8, 64)
WORDS = ["cat", "sat", "mat", "rain", "fell", "over", "old", "town", "river", "carried", "boats", "harbour"]


def main() -> None:
    """Measure and print; with ``--out``, write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=2048, help="that the library embeds in one call")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = echoembed.load(None if options.model == "default" else options.model)
    texts = sentences(options.texts)
    model.encode(texts[:64])
    with Server(options.model) as server:
        rows = measured(model, server, texts, seconds=options.seconds, rounds=options.rounds)
    for row in rows:
        print(json.dumps(row))
    if options.out:
        about = {"model": options.model, "processors": os.cpu_count(), "python": platform.python_version()}
        options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def sentences(count: int) -> list[str]:
    """Texts of 4 to 40 words, no two alike."""
    chance = random.Random(0)
    return [f"{number} " + " ".join(chance.choices(WORDS, k=chance.randint(4, 40))) for number in range(count)]


class Server:
    """``echoembed serve`` in its own process."""

    def __init__(self, model: str) -> None:
        named = [] if model == "default" else [model]
        code = "from echoembed.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", *named, "--port", "0", "--log-level", "error"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        parts = urlsplit(self.process.stdout.readline().split()[-1])
        self.host, self.port = str(parts.hostname), parts.port

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def request(self, texts: Sequence[str]) -> bytes:
        """Return the bytes of a request."""
        body = json.dumps({"input": list(texts), "encoding_format": "base64"}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def client(self) -> Callable[[Sequence[str]], float]:
        """Return a client with its own connection: it sends texts and returns the seconds until vectors arrive."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)

        def ask(texts: Sequence[str]) -> float:
            body = json.dumps({"input": list(texts), "encoding_format": "base64"})
            begun = time.perf_counter()
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content[:300]
            return time.perf_counter() - begun

        return ask


def measured(
    model: SentenceTransformer, server: Server, texts: list[str], *, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Run every loop ``rounds`` times, in turns with the library; return medians over the rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        found.setdefault("library, one call", []).append(library(model, texts))
        found.setdefault("library, a text at a time", []).append(alone(model, texts[: len(texts) // 10]))
        for clients in CLIENTS:
            found.setdefault(f"closed, {clients} clients", []).append(closed(server, texts, clients, seconds))
        best = statistics.median(row["texts_per_second"] for row in found[f"closed, {CLIENTS[-1]} clients"])
        for share in (0.5, 0.8):
            name = f"open, {share:.0%} of the best rate"
            found.setdefault(name, []).append(opened(server, texts, best * share, seconds))
        found.setdefault("echoembed embed --server", []).append(command(server, 5))
    rows = []
    for name, parts in found.items():
        medians = {key: round(statistics.median(part[key] for part in parts), 3) for key in parts[0]}
        rows.append({"loop": name, **medians, "rounds": len(parts)})
    return rows


def library(model: SentenceTransformer, texts: list[str]) -> dict[str, float]:
    """Return the texts a second of one call."""
    begun = time.perf_counter()
    model.encode(texts)
    return {"texts_per_second": len(texts) / (time.perf_counter() - begun)}


def alone(model: SentenceTransformer, texts: list[str]) -> dict[str, float]:
    """Return the time of a call with one text, to compare with a server's answer to one client."""
    times = []
    for text in texts:
        begun = time.perf_counter()
        model.encode([text])
        times.append(time.perf_counter() - begun)
    return summary(times, sum(times))


def closed(server: Server, texts: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Run clients that wait for each answer before they ask again.

    One thread keeps all their connections: a thread for each would take as much of the processors as the server does.
    """
    chance, times = random.Random(clients), []
    requests = [server.request([text]) for text in texts]
    begun = time.perf_counter()
    with selectors.DefaultSelector() as waiting:
        for _ in range(clients):
            one = Client(socket.create_connection((server.host, server.port)), b"", begun)
            waiting.register(one.socket, selectors.EVENT_READ, one)
            one.socket.sendall(chance.choice(requests))
        while time.perf_counter() < begun + seconds:
            for key, _ in waiting.select(1):
                one = key.data
                one.answer += one.socket.recv(2**16)
                if not whole(one.answer):
                    continue
                now = time.perf_counter()
                times.append(now - one.asked)
                one.answer, one.asked = b"", now
                one.socket.sendall(chance.choice(requests))
        for key in list(waiting.get_map().values()):
            key.data.socket.close()
    return summary(times, time.perf_counter() - begun)


@dataclass
class Client:
    """A connection, the part of the answer that has arrived, and the time of the request."""

    socket: socket.socket
    answer: bytes
    asked: float


def whole(answer: bytes) -> bool:
    """Return whether the whole answer has arrived."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    assert not length or head.startswith(b"HTTP/1.1 200"), answer[:300]
    return bool(length) and len(body) >= int(length)


def command(server: Server, rounds: int) -> dict[str, float]:
    """Time ``echoembed embed`` with a running server, from the start of its process to its end."""
    code = "from echoembed.cli import main; main()"
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        asked = [sys.executable, "-c", code, "embed", "A cat.", "-q", "--server", f"http://{server.host}:{server.port}"]
        subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return {"p50_ms": 1000 * statistics.median(times), "most_ms": 1000 * max(times)}


def opened(server: Server, texts: list[str], rate: float, seconds: float) -> dict[str, float]:
    """Send requests at random moments; the time of each counts from the moment when it was due."""
    chance, local = random.Random(1), threading.local()
    begun = time.perf_counter()

    def ask(due: float, text: str) -> float:
        if not hasattr(local, "client"):
            local.client = server.client()
        local.client([text])
        return time.perf_counter() - due

    due, asked = begun, []
    with ThreadPoolExecutor(128) as pool:
        while due < begun + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            asked.append(pool.submit(ask, due, chance.choice(texts)))
            due += chance.expovariate(rate)
        times = [one.result() for one in asked]
    return summary(times, time.perf_counter() - begun)


def summary(times: list[float], seconds: float) -> dict[str, float]:
    """Return throughput and latency."""
    quantiles = statistics.quantiles(times, n=100)
    return {
        "texts_per_second": len(times) / seconds,
        "p50_ms": 1000 * quantiles[49],
        "p99_ms": 1000 * quantiles[98],
    }


if __name__ == "__main__":
    main()
