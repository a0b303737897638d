"""Measure how embedding scales with threads, alone and beside a busy process: python benchmarks/threads.py.

Several numbers of threads, and as many processes of one thread each (the library's ``encode(pool=...)``), take turns on
the same sentences. A result is texts a second of wall time, relative to one thread on a free machine. The busy process
only computes. Results depend on whether the cores were free: the load of the machine before each turn is written beside
the result, and ``--wait`` waits for a load below ``--idle`` before each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

CHILD = """
import json, sys, time
import torch
torch.set_num_threads(int(sys.argv[1]))
import echoembed, texts
model = echoembed.load(sys.argv[2], device="cpu", dtype=sys.argv[3], overflow="ignore")
given = [text for left, right, _ in texts.pairs(int(sys.argv[4])) for text in (left, right)]
processes = int(sys.argv[5])
pool = model.start_multi_process_pool(["cpu"] * processes) if processes > 1 else None
model.encode(given[: 16 * processes], pool=pool, chunk_size=16)
started = time.perf_counter()
model.encode(given, pool=pool, chunk_size=16 if pool else None)
print(json.dumps(len(given) / (time.perf_counter() - started)))
if pool:
    model.stop_multi_process_pool(pool)
"""
NEIGHBOUR = "while True: sum(range(100000))"


def main() -> None:
    """Measure, print, write."""
    import measure
    import models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1, 2, 4 … up to the cores there are")
    parser.add_argument("--pairs", type=int, default=64, help="of sentences, embedded in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--wait", type=float, default=0, metavar="MINUTES", help="for a load below --idle")
    parser.add_argument("--idle", type=float, default=0.3, help="most load of a machine that counts as free")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = arguments.threads or [2**power for power in range(10) if 2**power <= cores]
    ways = [(count, 1) for count in counts] + [(1, count) for count in counts if count > 1]
    turns = [_turn(way, busy, arguments) for _ in range(arguments.turns) for busy in (False, True) for way in ways]
    found = {
        "processor": measure.processor(),
        "cores": cores,
        "command": measure.command(),
        "model": arguments.model,
        "dtype": arguments.dtype,
        "speed relative to one thread": _relative(turns),
        "turns": turns,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"threads-{arguments.model}-{measure.slug(measure.processor())}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["speed relative to one thread"], indent=1))


def _turn(way: tuple[int, int], busy: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one process that embeds, with a busy process beside it or not."""
    until = time.monotonic() + 60 * arguments.wait
    while time.monotonic() < until and os.getloadavg()[0] > arguments.idle:
        time.sleep(5)
    before = os.getloadavg()[0]
    threads, processes = way
    words = [str(threads), arguments.model, arguments.dtype, str(arguments.pairs), str(processes)]
    command = [sys.executable, "-c", CHILD, *words]
    told = {"OMP_WAIT_POLICY": "PASSIVE"}  # as the command line tells it
    environment = told | os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) if busy else None
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    rate = json.loads(done.stdout.splitlines()[-1])
    turn = {"threads": threads, "processes": processes, "neighbour": busy, "texts/s": rate, "load": before}
    print(json.dumps(turn), flush=True)
    return turn


def _relative(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Return median rates relative to one thread alone."""
    rates: dict[tuple[int, int, bool], list[float]] = {}
    for turn in turns:
        rates.setdefault((turn["processes"], turn["threads"], turn["neighbour"]), []).append(turn["texts/s"])
    alone = statistics.median(rates[1, 1, False])
    beside = {False: "", True: ", a busy neighbour"}
    return {
        f"{processes} x {threads} threads{beside[busy]}": round(statistics.median(found) / alone, 3)
        for (processes, threads, busy), found in rates.items()
    }


if __name__ == "__main__":
    main()
