"""Compare processor time and STS score, for SmolLM2-135M under several recipes and for another encoder.

    python benchmarks/cost.py                                      times all systems, and keeps earlier scores
    python benchmarks/cost.py --data FOLDER --score smollm2-echo   scores this system again, and keeps the others

A time is processor time of one thread on 48 sentences of examples/data; systems take turns, and 1 is the time of
echoembed's classical embedding in the same turn. A score is the mean over the STS sets of FOLDER (SICK-R, STS12 to
STS15, STS-B) of Spearman correlations × 100, each over the 400 pairs that ``echoembed eval --benchmark sts --max-texts
800`` takes. A system without a score has an empty cell. Results: cost-smollm2-135m.json and .png in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.stats import spearmanr

import echoembed
import measure
import texts
from echoembed import plots
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.peers import encoders

MODEL = "smollm2-135m"
CLASSICAL, PEER = "classical", "all-MiniLM-L6-v2"
SYSTEMS = ("bag-of-words", CLASSICAL, "echo", "echo-deep", "echo-tuned", "smollm2-echo", PEER)
RESULTS = Path(__file__).with_name("results")
Encode = Callable[[list[str]], Any]


def main() -> None:
    """Measure, print the table, write it and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets, as 'echoembed eval --data' takes it")
    parser.add_argument("--score", nargs="*", choices=SYSTEMS, default=[], help="systems to score again")
    parser.add_argument("--turns", type=int, default=3, help="0 keeps the earlier times")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.score and arguments.data is None:
        parser.error("--score needs --data FOLDER")
    torch.set_num_threads(1)
    path = arguments.out / f"cost-{MODEL}.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["systems"] if path.is_file() else {}
    systems = {name: _load(name) for name in SYSTEMS if arguments.turns or name in arguments.score}
    for name, encode in systems.items():
        encode(["what is done once is done before"])
        rows.setdefault(name, {})
        if name in arguments.score:
            rows[name] |= {"score": score(encode, arguments.data), "scored by": measure.command()}
    if arguments.turns:
        for name, shares in time_all(systems, arguments.turns).items():
            rows[name]["cost"] = {
                "median": statistics.median(shares),
                "least": min(shares),
                "greatest": max(shares),
            }
    record = {"machine": measure.processor(), "load": os.getloadavg()[0], "systems": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    plots.save(draw(rows), path.with_suffix(""))
    print(table(rows))


def _load(name: str) -> Encode:
    if name == PEER:
        systems, missing = encoders()
        if missing:
            raise SystemExit(missing[0])
        return systems[0].encode
    if name == "smollm2-echo":
        model = echoembed.load(name, device="cpu", overflow="ignore")
    else:
        model = echoembed.load(MODEL, recipe=name, device="cpu", overflow="ignore")
    return lambda given: model.encode(given, task="query")


def time_all(systems: dict[str, Encode], turns: int) -> dict[str, list[float]]:
    """Return for each system its time in each turn, as a multiple of classical's."""
    given = [text for left, right, _ in texts.pairs(24) for text in (left, right)]
    shares: dict[str, list[float]] = {name: [] for name in systems}
    chance = random.Random(0)
    for _ in range(turns):
        seconds = {}
        for name in chance.sample(list(systems), len(systems)):
            started = time.process_time()
            systems[name](given)
            seconds[name] = time.process_time() - started
        for name in systems:
            shares[name].append(seconds[name] / seconds[CLASSICAL])
    return shares


def score(encode: Encode, data: Path) -> float:
    """The mean Spearman correlation × 100 over the STS sets."""
    found = []
    for task in local_tasks(data, ["sts"], max_texts=800):
        pairs = task.load().dataset["default"]["test"]
        left, right = (np.asarray(encode(list(pairs[key])), dtype=np.float64) for key in ("sentence1", "sentence2"))
        cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
        found.append(100 * float(spearmanr(cosines, pairs["score"]).statistic))
        print(f"{task.name}: {found[-1]:.1f}", flush=True)
    return statistics.mean(found)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| | processor time, classical = 1 | STS |", "| --- | ---: | ---: |"]
    for name in (name for name in SYSTEMS if name in rows):
        cost, value = rows[name].get("cost"), rows[name].get("score")
        time_ = f"{cost['median']:.2f} ({cost['least']:.2f} to {cost['greatest']:.2f})" if cost else ""
        lines.append(f"| {name} | {time_} | {'' if value is None else f'{value:.1f}'} |")
    return "\n".join(lines)


def draw(rows: dict[str, dict[str, Any]]) -> Any:
    """Draw scores against costs, for systems that have both."""
    points = [
        (row["cost"]["median"], row["score"], name) for name, row in rows.items() if "cost" in row and "score" in row
    ]
    drawn, axes = plots.figure(f"{MODEL}: STS against processor time", width=6.5, height=4)
    axes[0].set(xlabel="processor time, classical = 1", ylabel="mean Spearman correlation × 100")
    if points:
        costs, scores = [cost for cost, _, _ in points], [value for _, value, _ in points]
        axes[0].set_xlim(0, 1.35 * max(costs))
        axes[0].set_ylim(min(scores) - 4, max(scores) + 6)
        plots.named_points(axes[0], points)
    return drawn


if __name__ == "__main__":
    main()
