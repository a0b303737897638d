"""Smaller tasks: a seeded sample with a limited number of texts, for a run that takes minutes.

Scores of a sample compare recipes with each other. They are not scores of the whole data set: a smaller corpus is
easier to search, and a smaller sample is noisier.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
LEAST_PER_LABEL = 8
"""The training texts per label that mteb's classification draws in each of its experiments."""


def sample(rows: Sequence[T], count: int | None, seed: int) -> list[T]:
    """Sample at most ``count`` rows, in their order; None for all."""
    if count is None or len(rows) <= count:
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), max(count, 1)))]  # noqa: S311


def sample_labelled(rows: Sequence[dict[str, Any]], count: int | None, seed: int) -> list[dict[str, Any]]:
    """Sample at most ``count`` rows, in their order, but as many of each label as one experiment trains on."""
    if count is None or len(rows) <= count:
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311
    seen: Counter[Any] = Counter()
    needed: list[int] = []
    rest: list[int] = []
    for index in order:
        label = rows[index]["label"]
        (needed if seen[label] < LEAST_PER_LABEL else rest).append(index)
        seen[label] += 1
    return [rows[index] for index in sorted(needed + rest[: max(count - len(needed), 0)])]


def sample_queries(
    queries: Mapping[str, str],
    corpus: Mapping[str, dict[str, str]],
    judged: Mapping[str, Mapping[str, int]],
    count: int | None,
    seed: int,
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Sample at most ``count`` texts: a quarter of them queries, the documents judged for these, and other documents.

    All judged documents are kept, even if they alone are more than ``count``.
    """
    usable = [query for query in queries if query in judged]
    if count is None or len(usable) + len(corpus) <= count:
        return {query: queries[query] for query in usable}, dict(corpus)
    chosen = sample(usable, max(count // 4, 1), seed)
    needed = {document for query in chosen for document in judged[query]}
    others = [document for document in corpus if document not in needed]
    room = max(count - len(chosen) - len(needed), 0)
    documents = needed | set(sample(others, room, seed) if room else ())
    return {query: queries[query] for query in chosen}, {key: corpus[key] for key in corpus if key in documents}


def sample_rankings(rows: Sequence[dict[str, Any]], count: int | None, seed: int) -> list[dict[str, Any]]:
    """Sample queries with all their candidates, in their order, up to ``count`` texts, but at least one query."""
    if count is None:
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311
    chosen: list[int] = []
    texts = 0
    for index in order:
        texts += 1 + len(rows[index]["positive"]) + len(rows[index]["negative"])
        if chosen and texts > count:
            break
        chosen.append(index)
    return [rows[index] for index in sorted(chosen)]
