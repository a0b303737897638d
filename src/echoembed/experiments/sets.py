"""The data sets behind a result, in words."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence


def sizes_of(tasks: Mapping[str, Sequence[str]]) -> dict[str, int | None]:
    """Return the most texts of each data set that a result used; None where it used all.

    Args:
        tasks: Name → digest of its data and options of its task, as the key of a result has them.
    """
    return {name: dict(map(literal_eval, options)).get("max_texts") for name, (_, *options) in tasks.items()}


def sets_line(sizes: Mapping[str, int | None]) -> str:
    """Name the data sets and how much of each was used, as ``Sets: at most 400 texts of each of sts12, stsb``.

    Args:
        sizes: Name → most texts, or None for all.
    """
    by_size: dict[int | None, list[str]] = {}
    for name, most in sizes.items():
        by_size.setdefault(most, []).append(name)
    parts = []
    for most, names in by_size.items():
        each = "each of " if most is not None and len(names) > 1 else ""
        parts.append(f"{'all' if most is None else f'at most {most:,} texts'} of {each}{', '.join(names)}")
    return f"Sets: {'; '.join(parts)}."
