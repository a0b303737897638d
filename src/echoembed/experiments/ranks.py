"""Ranks, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def ranks(numbers: ArrayLike) -> Array:
    """Ranks from 1 up; equal numbers share the mean of their ranks."""
    array = np.asarray(numbers, dtype=np.float64)
    _, group, sizes = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    means: Array = last - (sizes - 1) / 2
    return means[group.ravel()]


def rank_errors(similarities: ArrayLike, gold: ArrayLike) -> Array:
    """Estimated rank minus true rank, as a share of the number of pairs: above 0, a pair is overestimated."""
    estimated, true = ranks(similarities), ranks(gold)
    return (estimated - true) / len(true)


def correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation; 0 where one of the two says nothing."""
    one, other = ranks(first), ranks(second)
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / norm if norm > 0 else 0.0


def halves(text: str) -> tuple[str, str]:
    """A text cut in two by its number of words; the first half has the odd one. One word is both halves."""
    words: Sequence[str] = text.split()
    middle = (len(words) + 1) // 2
    first, second = " ".join(words[:middle]), " ".join(words[middle:])
    return first or text, second or first or text
