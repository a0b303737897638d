"""Freed memory is kept from step to step, and goes back to the system at intervals."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has no glibc")

STEPS = """
import json, resource
from pathlib import Path
from types import SimpleNamespace

import torch
from echoembed.training import heap

def step():
    "Write 320 MiB in blocks, free them all, and count the pages that the system had to provide."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(count * 2**18) for count in (2, 30, 7, 16, 25, 4, 12, 28, 9, 3, 21, 18, 30, 25, 5, 30, 23, 31)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

callback = heap.FreedMemory()
callback.on_train_begin(None, None, None)
empty = resident()
pinned = []
pages = [(step(), pinned.append(torch.ones(2**12)))[0] for _ in range(3)]
callback.on_step_end(None, SimpleNamespace(global_step=heap.EVERY - 1), None)
full = resident()
{limit}
callback.on_step_end(None, SimpleNamespace(global_step=heap.EVERY{step}), None)
print(json.dumps([pages, full - empty, resident() - empty]))
"""


def run(limit: str = "", step: str = "") -> tuple[list[int], int, int]:
    code = STEPS.replace("{limit}", limit).replace("{step}", step)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages, full, returned = json.loads(done.stdout)
    return pages, full, returned


def test_a_step_reuses_the_pages_of_the_step_before():
    pages, full, _ = run()
    assert pages[1] < pages[0] / 10
    assert pages[2] < pages[0] / 10
    assert full > 50_000  # of 4 KiB: it is still there between steps


def test_all_of_it_goes_back_after_so_many_steps():
    _, full, returned = run()
    assert returned < full / 10


@pytest.mark.parametrize("limit", ["heap.MOST = 2**27", "heap._available = lambda: 2**27"])
def test_too_much_of_it_goes_back_at_once(limit):
    _, full, returned = run(limit, step=" - 1")
    assert returned < full / 10
