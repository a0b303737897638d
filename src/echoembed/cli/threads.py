"""Settings of OpenMP: no more threads than there is processor time for, and threads that sleep while they wait.

OpenMP, with which PyTorch computes, starts a thread for each core that it sees, even in a container that may use the
time of only two of them. A thread that waits for another keeps its core busy, too. Beside other work on the machine,
either can make two threads many times slower than one.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def settle(environment: MutableMapping[str, str] | None = None, groups: Path = _GROUPS) -> None:
    """Set OpenMP's variables before it is loaded, except those that the user has set.

    Args:
        environment: The environment variables; None for those of this process.
        groups: The folder in which Linux says how much processor time a container may use.
    """
    environment = os.environ if environment is None else environment
    if "GOMP_SPINCOUNT" not in environment:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = allowance(groups)
    if cores is not None and cores < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(cores))


def allowance(groups: Path = _GROUPS) -> int | None:
    """Return the number of cores whose time a container may use, rounded up; None if there is no limit."""
    try:
        if (groups / "cpu.max").is_file():
            quota, period = (groups / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        cores = int(quota) / int(period)  # "max" or -1 if there is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return math.ceil(cores) if cores > 0 else None
