"""Quality of the vectors that a timed call made: cosines to float32, and the score on graded pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr


class Kept:
    """A system that keeps the vector of each text that it was timed on."""

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        self._encode = encode
        self._made: list[tuple[list[str], Any]] = []

    def __call__(self, texts: list[str]) -> None:
        """Embed, and do nothing else while the clock runs."""
        self._made.append((texts, self._encode(texts)))

    def vectors(self) -> dict[str, np.ndarray]:
        """Text → its vector, of length 1, in float32."""
        return {
            text: np.asarray(vector, dtype=np.float32) / np.linalg.norm(vector)
            for texts, made in self._made
            for text, vector in zip(texts, made, strict=True)
        }


def quality(
    systems: Mapping[str, Kept],
    pairs: Sequence[tuple[str, str, float]],
    references: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    """Score each system's vectors.

    Args:
        systems: After they were timed.
        pairs: Two texts and how alike people find them; none for texts that are not graded.
        references: A system in float32 → how the names begin of those that should give its vectors.

    Returns:
        Name → ``cosine``, the least to the reference on the texts that both embedded, if there is one, and ``sts``,
        Spearman × 100 over the pairs of which both texts were embedded, if they are ten or more.
    """
    made = {name: system.vectors() for name, system in systems.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in systems}
    for name, vectors in made.items():
        reference = next((made[key] for key, names in references.items() if _one_of(name, names) and key in made), None)
        if reference is not None and (both := vectors.keys() & reference.keys()):
            found[name]["cosine"] = min(float(vectors[text] @ reference[text]) for text in both)
        graded = [(vectors[a] @ vectors[b], grade) for a, b, grade in pairs if a in vectors and b in vectors]
        if len(graded) >= 10:
            found[name]["sts"] = 100 * float(spearmanr(*zip(*graded, strict=True)).statistic)
            found[name]["pairs"] = float(len(graded))
    return found


def _one_of(name: str, beginnings: Sequence[str]) -> bool:
    return name.startswith(tuple(beginnings))
