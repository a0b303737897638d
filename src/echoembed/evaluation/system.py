"""What is scored beside recipes: anything that makes vectors of texts, such as another library's encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class System:
    """Texts to vectors, and what they are called in tables."""

    name: str
    """As a table's row has it, such as ``all-MiniLM-L6-v2``."""
    model: str
    """Whose weights they are."""
    identity: str
    """What decides the vectors; scores are made again where it differs."""
    encode: Callable[[Sequence[str]], NDArray[np.float32]] = field(repr=False, compare=False)
    """N texts to ``vectors_ND``; of no particular length, since tasks take cosines."""
    dtype: str = "float32"
