"""Memory that the allocator keeps is given back now and then.

Packs are of many sizes, and the vectors that a caller collects come to lie between their freed activations: with
glibc's allocator the next pack then often fits into no gap, and a long ``encode`` grows by hundreds of megabytes that
nobody uses (measured; the padded forward, with fewer sizes, by a sixth of it). Handing the gaps back to the system
every few packs keeps it flat, and costs less than a hundredth of the time.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

EVERY = 16384
"""Tokens between two times."""
_since = 0


def computed(tokens: int) -> None:
    """Count tokens that went through a model, and give memory back when it is time."""
    global _since
    _since += tokens  # two threads may lose a count, which is no harm
    trim = _trim()
    if _since >= EVERY and trim is not None:
        _since = 0
        trim(0)


@cache
def _trim() -> Any:  # noqa: ANN401
    """Glibc's ``malloc_trim``, or None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
