"""A build that is killed loses nothing; ``make soak`` kills 200 of them.

The kills happen in a process of their own, which has no threads and forks for each build: see ``kills.py``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kills.py")
CHECKS = """
import sys
sys.path.insert(0, {folder!r})
import kills
from pathlib import Path
workplace = Path({workplace!r})
changed = {changed}
many = kills.events(workplace, changed=changed)
killed = [kills.check(workplace, at=1 + step * (many - 1) // {steps}, changed=changed) for step in range({steps} + 1)]
print(many, sum(killed))
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("changed", [False, True], ids=["first build", "changed corpus"])
def test_a_kill_at_any_event_leaves_a_corpus_that_goes_on_to_the_same_bytes(tmp_path, changed):
    steps = 10
    many, killed = run(
        CHECKS.format(folder=str(SCRIPT.parent), workplace=str(tmp_path), changed=changed, steps=steps)
    ).split()
    assert int(many) > 5 * steps
    assert int(killed) == steps + 1


def test_a_kill_at_a_random_moment_leaves_a_corpus_that_goes_on_to_the_same_bytes():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "4", "--seed", "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
