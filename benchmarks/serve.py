"""What a server adds to its model: python benchmarks/serve.py [--model MODEL] [--out FILE].

Closed loops: 1, 8 and 64 clients that each send their next text when they have the last vector. Open loops: requests
that arrive at random moments at a share of the closed loops' best rate, whether or not earlier ones are answered.
Beside them the library's own throughput on the same texts, in one call of ``encode``, in this process and in turns
with the loops. The server is a process of its own; the clients are threads of this one, which share its processors.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sentence_transformers import SentenceTransformer

import echoembed

CLIENTS = (1, 8, 64)
WORDS = ["cat", "sat", "mat", "rain", "fell", "over", "old", "town", "river", "carried", "boats", "harbour"]


def main() -> None:
    """Measure and print; write the numbers as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = echoembed.load(None if options.model == "default" else options.model)
    texts = sentences(2048)
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
    """``echoembed serve`` as a process of its own."""

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

    def client(self) -> Callable[[Sequence[str]], float]:
        """A client with a connection of its own: sends texts, and gives the seconds until their vectors are there."""
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
    """Every loop, in turns with the library, ``rounds`` times; medians over the rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        found.setdefault("library, one call", []).append(library(model, texts))
        found.setdefault("library, a text at a time", []).append(alone(model, texts[:200]))
        for clients in CLIENTS:
            found.setdefault(f"closed, {clients} clients", []).append(closed(server, texts, clients, seconds))
        best = statistics.median(row["texts_per_second"] for row in found[f"closed, {CLIENTS[-1]} clients"])
        for share in (0.5, 0.8):
            name = f"open, {share:.0%} of the best rate"
            found.setdefault(name, []).append(opened(server, texts, best * share, seconds))
    rows = []
    for name, parts in found.items():
        medians = {key: round(statistics.median(part[key] for part in parts), 3) for key in parts[0]}
        rows.append({"loop": name, **medians, "rounds": len(parts)})
    return rows


def library(model: SentenceTransformer, texts: list[str]) -> dict[str, float]:
    """Texts a second of one call."""
    begun = time.perf_counter()
    model.encode(texts)
    return {"texts_per_second": len(texts) / (time.perf_counter() - begun)}


def alone(model: SentenceTransformer, texts: list[str]) -> dict[str, float]:
    """The time of a call with one text, which a server's answer to one client is held against."""
    times = []
    for text in texts:
        begun = time.perf_counter()
        model.encode([text])
        times.append(time.perf_counter() - begun)
    return summary(times, sum(times))


def closed(server: Server, texts: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Clients that wait for each answer before they ask again."""
    end = time.perf_counter() + seconds

    def loop(number: int) -> list[float]:
        ask, chance, times = server.client(), random.Random(number), []
        while time.perf_counter() < end:
            times.append(ask([chance.choice(texts)]))
        return times

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [one for part in pool.map(loop, range(clients)) for one in part]
    return summary(times, time.perf_counter() - begun)


def opened(server: Server, texts: list[str], rate: float, seconds: float) -> dict[str, float]:
    """Requests at random moments; each one's time counts from the moment it was due."""
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
    """Throughput and latency."""
    quantiles = statistics.quantiles(times, n=100)
    return {
        "texts_per_second": len(times) / seconds,
        "p50_ms": 1000 * quantiles[49],
        "p99_ms": 1000 * quantiles[98],
    }


if __name__ == "__main__":
    main()
