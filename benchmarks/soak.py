"""Every promise of the server in full, with figures: python benchmarks/soak.py [--quick].

tests/server/ tries the promises a few times and without a clock; this file tries them often, against real processes,
and times them. It prints a line for each promise, as docs/serving.md shows them, and exits with 1 if one was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import numpy as np

import serving
import serving_process
from serving_process import END, SLOWLY, Process, started

E = "/v1/embeddings"
broken: list[str] = []


def main() -> int:
    """Try all promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trials")
    parser.add_argument("--one-process", action="store_true", help="leave out the trials that end a process each")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    if not options.one_process:
        drains(50 // share)
        deaths(100 // share)
    with started() as process:
        overload(process, 200 // share)
        vanishing(process, 100)
        flat(process, 50_000 // share)
    return len(broken) > 0


def say(promise: str, kept: bool, figures: str) -> None:
    """Print a finding."""
    print(f"{'kept  ' if kept else 'BROKEN'}  {promise}: {figures}", flush=True)
    if not kept:
        broken.append(promise)


def texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 40 words."""
    chance = random.Random(seed)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "while",
        "rain",
        "fell",
        "over",
        "the",
        "old",
        "town",
        "and",
        "river",
    ]
    return [" ".join(chance.choices(words, k=chance.randint(1, 40))) for _ in range(count)]


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def drains(trials: int) -> None:
    """Send SIGTERM among requests: all accepted requests are answered, and the exit code is 0."""
    lost, codes, times = 0, [], []
    for trial in range(trials):
        with started() as process, ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(process.post, E, {"input": [SLOWLY, *texts(8, seed)]}) for seed in range(16)]
            until(lambda process=process: process.metric("in_flight_requests") > 16)
            time.sleep(random.Random(trial).uniform(0, 0.3))
            begun = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            codes.append(process.popen.wait(600))
            times.append(time.monotonic() - begun)
            lost += sum(one.exception() is not None or one.result()[0] != 200 for one in asked)
    figures = f"{trials} trials of 16 requests, {lost} lost, exit codes {set(codes)}, at most {max(times):.1f} s"
    say("SIGTERM drains and exits 0", lost == 0 and set(codes) == {0}, figures)


def deaths(trials: int) -> None:
    """Let the model's thread die among requests: all clients get an error, and the exit code is 1 within 2 s."""
    codes, times, untold = [], [], 0
    for _ in range(trials):
        with started() as process, ThreadPoolExecutor(17) as pool:
            asked = [pool.submit(process.post, E, {"input": [SLOWLY, *texts(4, seed)]}) for seed in range(16)]
            begun = time.monotonic()
            end = pool.submit(process.post, E, {"input": END})
            end.exception(60)
            told = time.monotonic()
            codes.append(process.popen.wait(600))
            times.append(time.monotonic() - told)
            untold += sum(one.exception(60) is None and one.result()[0] not in (200, 503) for one in asked)
            assert told >= begun
    figures = (
        f"{trials} trials, exit codes {set(codes)}, at most {max(times):.2f} s after the answer, {untold} not told"
    )
    say("a dead model ends the process", set(codes) == {1} and max(times) < 2 and not untold, figures)


def overload(process: Process, count: int) -> None:
    """Fill the queue: further requests get 429 with Retry-After at once, and memory does not grow."""
    info = process.get("/info")[1]
    length = info["max_text_tokens"]["query"]
    big = {"input": ["a" + " a" * (length - 1)] * info["max_client_batch_size"]}
    scheduled(process, os.SCHED_RR, 1)
    before = memory(process)
    sockets = [post_and_leave_open(process, big) for _ in range(2)]
    until(lambda: process.metric("queue_tokens") > 0.4 * info["max_request_tokens"], 120)
    times = []
    for seed in range(count):
        body = json.dumps({"input": texts(2048, seed)}).encode()
        begun = time.monotonic()
        status, _ = process.ask("POST", E, body, **{"Content-Type": "application/json"})
        if status == 429:
            times.append(time.monotonic() - begun)
    peak = memory(process)
    scheduled(process, os.SCHED_OTHER, 0)
    for one in sockets:
        one.close()
    until(lambda: process.metric("queue_tokens") == 0, 120)
    quantile = float(np.quantile(times, 0.99)) if times else 9.0
    figures = f"{len(times)} of {count} answered 429, p50 {1000 * float(np.median(times or [9])):.0f} ms, "
    figures += f"p99 {1000 * quantile:.0f} ms for bodies of 2,048 texts; memory {before} to {peak} MB"
    say("overload is refused at once", quantile < 0.05 and peak < before + 600, figures)


def scheduled(process: Process, policy: int, priority: int) -> None:
    """Give this process and the server priority over all others, where that is allowed."""
    with contextlib.suppress(OSError):
        for tasks in ("/proc/self/task", f"/proc/{process.popen.pid}/task"):
            for task in Path(tasks).iterdir():
                os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))


def post_and_leave_open(process: Process, body: object) -> socket.socket:
    """Send a request and do not read its answer."""
    data = json.dumps(body).encode()
    raw = socket.create_connection((process.host, process.port))
    head = (
        f"POST {E} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    raw.sendall(head.encode() + data)
    return raw


def vanishing(process: Process, clients: int) -> None:
    """Let clients disconnect while their requests wait: prompts that have not begun are not computed."""
    before = process.metric("cancelled_tokens_total")
    held = post_and_leave_open(process, {"input": [SLOWLY] * 2048})  # keeps the model at work
    until(lambda: process.metric("queue_tokens") > 0)
    alone = process.metric("queue_tokens")
    gone = [post_and_leave_open(process, {"input": texts(200, seed)}) for seed in range(clients)]
    until(lambda: process.metric("queue_requests") > clients, 120)
    asked = process.metric("queue_tokens") - alone
    for one in gone:
        one.close()
    until(lambda: process.metric("queue_requests") <= 1, 120)
    freed = process.metric("cancelled_tokens_total") - before
    held.close()
    figures = f"{clients} clients, {freed:,.0f} of about {asked:,.0f} waiting tokens were not computed"
    say("clients that vanish free their work", freed >= 0.95 * asked, figures)


def memory(process: Process) -> int:
    """Resident memory in MB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def flat(process: Process, requests: int) -> None:
    """Send good and bad requests: memory, descriptors and threads stay the same."""
    kinds: list[tuple[str, dict[str, object]]] = [
        (E, {"input": "a cat"}),
        (E, {"input": ["the rain", "fell"], "encoding_format": "base64", "task": "document"}),
        ("/embed", {"inputs": "a cat", "normalize": False}),
        ("/rerank", {"query": "a", "texts": ["b", "c"]}),
        ("/tokenize", {"inputs": "a cat"}),
        (E, {"input": ""}),
        (E, {"input": [1, 2]}),
        ("/nothing", {}),
    ]

    def shape() -> tuple[int, int, int]:
        folder = Path(f"/proc/{process.popen.pid}")
        return memory(process), len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

    def ask(number: int) -> int:
        path, body = kinds[number % len(kinds)]
        return process.post(path, body)[0]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(requests // 10)))
        before = shape()
        statuses = set(pool.map(ask, range(requests)))
    time.sleep(1)
    after = shape()
    kept = after[0] < before[0] * 1.1 + 20 and after[1] <= before[1] + 8 and after[2] <= before[2] + 2
    figures = f"{requests:,} requests; memory {before[0]} to {after[0]} MB, descriptors {before[1]} to {after[1]}, "
    say("nothing is leaked", kept and max(statuses) < 500, figures + f"threads {before[2]} to {after[2]}")


assert serving.LONG
assert serving_process.END


if __name__ == "__main__":
    sys.exit(main())
