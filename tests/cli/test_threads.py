"""Threads of a command: told to OpenMP before PyTorch loads it, never against the user's word."""

from __future__ import annotations

import subprocess
import sys

import pytest

from echoembed.cli import threads

LOOK = """
import os, sys
def look(event, arguments):
    if event == "import" and arguments[0] == "torch" and not seen:
        seen.append(os.environ.get("OMP_WAIT_POLICY"))
seen = []
sys.addaudithook(look)
from echoembed.cli import main
sys.argv = ["echoembed", "embed", "A cat.", "-m", "tiny", "-q"]
try:
    main()
except SystemExit:
    pass
print(seen[0])
"""


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_is_told_before_it_is_loaded(given, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "rubbish"}, None),
        ({}, None),
    ],
)
def test_a_container_has_as_many_threads_as_its_processor_time_is_for(tmp_path, monkeypatch, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert threads.allowance(tmp_path) == cores
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    told = {"OMP_NUM_THREADS": "7"}
    threads.settle(told, tmp_path)
    assert told["OMP_NUM_THREADS"] == "7"
    untold: dict[str, str] = {}
    threads.settle(untold, tmp_path)
    assert untold.get("OMP_NUM_THREADS") == (None if cores is None else str(cores))


def test_who_says_how_long_threads_spin_is_not_overruled(tmp_path):
    told = {"GOMP_SPINCOUNT": "5"}
    threads.settle(told, tmp_path)
    assert told == {"GOMP_SPINCOUNT": "5"}
