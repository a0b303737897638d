"""A task of an evaluation: name, kind and metric, and a function that loads its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

KINDS = (
    "Classification",
    "Clustering",
    "PairClassification",
    "Reranking",
    "Retrieval",
    "STS",
    "Summarization",
)
"""The seven categories of MTEB, in the paper's order and under mteb's names."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task, whose data are not yet read."""

    name: str
    """mteb's name, or the name of the data set's folder."""
    kind: str
    """One of ``KINDS``."""
    metric: str
    """mteb's name of the task's main score."""
    data: str
    """The identity of the data: a hash of the content, or the revisions of published data sets."""
    load: Callable[[], AbsTask] = field(repr=False, compare=False)
    """Makes the mteb task; it reads the data, or leaves that to mteb."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further settings that decide the score, such as ``max_texts``; they go into the result."""
    characters: int = 0
    """The number of characters to embed, roughly, for the time left; 0 if not known."""
    hint: str = ""
    """mteb's instruction for the task, used if the paper has none."""
