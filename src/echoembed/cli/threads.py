"""How the threads of a command compute: as many as its processor time is for, and asleep while they wait.

OpenMP, which PyTorch computes with, takes a thread for each core that it sees, also in a container that is given the
time of two of them; and a thread that waits for another keeps its core busy meanwhile. Beside other work both make
two threads many times slower than one.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def settle(environment: MutableMapping[str, str] | None = None, groups: Path = _GROUPS) -> None:
    """Tell OpenMP, before it is loaded, what the user has not told it.

    Args:
        environment: Where OpenMP looks; None for this process's own.
        groups: Where Linux says how much processor time a container is given.
    """
    environment = os.environ if environment is None else environment
    if "GOMP_SPINCOUNT" not in environment:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = allowance(groups)
    if given is not None and given < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(given))


def allowance(groups: Path = _GROUPS) -> int | None:
    """Cores' worth of processor time that a container is given, rounded up; None where nothing limits it."""
    try:
        if (groups / "cpu.max").is_file():
            quota, period = (groups / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        cores = int(quota) / int(period)  # "max", or -1, where nothing limits it
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return math.ceil(cores) if cores > 0 else None
