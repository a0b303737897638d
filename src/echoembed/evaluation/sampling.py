"""Smaller tasks: a seeded sample of at most so many texts, for a run that takes minutes.

Scores of a sample compare recipes with each other. They are no scores of the whole data set: a smaller
corpus is easier to search, a smaller sample noisier.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
LEAST_PER_LABEL = 8
"""Training texts of a label that mteb's classification draws in each of its experiments."""


def some(rows: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most ``count`` rows, in their order; all of them where it is None."""
    if count is None or len(rows) <= count:
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), max(count, 1)))]  # noqa: S311


def some_labelled(rows: Sequence[dict[str, Any]], count: int | None, seed: int) -> list[dict[str, Any]]:
    """At most ``count`` rows, but as many of each label as one experiment trains on; in their order."""
    if count is None or len(rows) <= count:
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311
    seen: Counter[Any] = Counter()
    first: list[int] = []
    rest: list[int] = []
    for place in order:
        label = rows[place]["label"]
        (first if seen[label] < LEAST_PER_LABEL else rest).append(place)
        seen[label] += 1
    return [rows[place] for place in sorted(first + rest[: max(count - len(first), 0)])]


def some_queries(
    queries: Mapping[str, str],
    corpus: Mapping[str, dict[str, str]],
    judged: Mapping[str, Mapping[str, int]],
    count: int | None,
    seed: int,
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """At most ``count`` texts: a quarter of them queries, the documents judged for these, and others.

    Where the judged documents alone are more than there is room for, all of them are kept.
    """
    asked = [query for query in queries if query in judged]
    if count is None or len(asked) + len(corpus) <= count:
        return {query: queries[query] for query in asked}, dict(corpus)
    chosen = some(asked, max(count // 4, 1), seed)
    needed = {document for query in chosen for document in judged[query]}
    others = [document for document in corpus if document not in needed]
    room = max(count - len(chosen) - len(needed), 0)
    kept = needed | set(some(others, room, seed) if room else ())
    return {query: queries[query] for query in chosen}, {key: corpus[key] for key in corpus if key in kept}


def some_rankings(rows: Sequence[dict[str, Any]], count: int | None, seed: int) -> list[dict[str, Any]]:
    """Queries with all their candidates, as many as stay within ``count`` texts, but at least one; in their order."""
    if count is None:
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311
    kept: list[int] = []
    texts = 0
    for place in order:
        texts += 1 + len(rows[place]["positive"]) + len(rows[place]["negative"])
        if kept and texts > count:
            break
        kept.append(place)
    return [rows[place] for place in sorted(kept)]
