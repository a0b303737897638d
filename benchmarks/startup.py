"""Time ``--help`` and the first vector on the command line, beside importing the model's class from transformers.

    python benchmarks/startup.py [--rounds 5] [--model tiny --model smollm2-135m]

Every measurement is a new process. It counts processor time (user and system, one thread), because wall time depends on
other work on the machine. Commands and the baseline take turns, after one round that fills the disk's caches and
converts the model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

BASELINE = [sys.executable, "-c", "from transformers import LlamaModel"]
COMMAND = "from echoembed.cli import main; main()"
LIMITS = {"tiny": 0.7, "smollm2-135m": 1.5}
"""Seconds of processor time over the baseline that a first vector may take."""


def seconds_of(args: list[str]) -> float:
    """Return the processor time of a process and of its finished children."""
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with Path(os.devnull).open("wb") as nowhere:
        files = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        process = os.posix_spawn(args[0], args, {**os.environ, **settings}, file_actions=files)
        _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(args)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and print medians, differences and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    models = given.model or list(LIMITS)
    commands = {"from transformers import LlamaModel": BASELINE, "--help": [sys.executable, "-c", COMMAND, "--help"]}
    for model in models:
        commands[f"embed -m {model}"] = [sys.executable, "-c", COMMAND, "embed", "hello", "-q", "-m", model]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(given.rounds + 1):
        for name, args in commands.items():
            taken = seconds_of(args)
            if turn:  # the first round warms up
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    baseline = medians["from transformers import LlamaModel"]
    if given.json:
        print(json.dumps({"machine": platform.platform(), "seconds": seconds, "medians": medians}, indent=2))
        return
    print(f"seconds of processor time, {given.rounds} rounds")
    print(f"{'':40} {'median':>8} {'least':>8} {'over':>8} {'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:40} {median:8.2f} {min(seconds[name]):8.2f} {median - baseline:8.2f} {median / baseline:8.2f}")


if __name__ == "__main__":
    main()
