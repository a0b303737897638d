"""What glibc does with the memory that a training step frees.

A step allocates gigabytes of states and frees them again. By default, glibc gives blocks of many megabytes back to the
system at once, so that the next step's blocks are new pages, which the system has to fill with zeros: on a virtual
machine, half of a step's processor time. If all is kept, holes remain between blocks of other sizes, because the states
differ in size from step to step: a run of SmolLM2 grew to 11 GB. So freed memory is kept for ``EVERY`` steps, or until
it is more than ``MOST`` or than half of the memory that the system has left; then all of it goes back.
Nothing happens on a system without glibc.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EVERY = 16
"""After this many steps, freed memory goes back to the system."""
MOST = 6 * 2**30
"""The most bytes of freed memory that are kept."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of its settings
_NEVER = -1
_LARGEST = 2**25  # bytes: the largest threshold that glibc takes; larger blocks always go back at once


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function


def keep_freed_memory() -> None:
    """From now on, keep freed blocks of up to 32 MiB for later use, until ``return_freed_memory`` is called."""
    if set_option := _glibc("mallopt"):
        set_option(_MMAP_THRESHOLD, _LARGEST)
        set_option(_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Give all freed pages back to the system."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _resident() -> int:
    """Return the bytes of memory that this process takes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    """Return the bytes of memory that the system could still give to processes."""
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 2 * MOST


class FreedMemory(TrainerCallback):
    """Keeps freed memory during training; returns it at intervals, where there is too much of it, and at the end."""

    def __init__(self) -> None:
        self._needed = 0  # bytes of the process when no freed memory was kept

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to keep freed memory."""
        if _glibc("malloc_trim"):
            keep_freed_memory()
            self._needed = _resident()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Return freed memory after every ``EVERY`` steps, or if it is too much."""
        if not _glibc("malloc_trim"):
            return
        if state.global_step % EVERY == 0 or _resident() - self._needed > min(MOST, _available() // 2):
            return_freed_memory()
            self._needed = _resident()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Return freed memory, as what follows may need less."""
        return_freed_memory()
