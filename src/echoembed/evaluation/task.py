"""What is evaluated: a task by name, kind and metric, and how to get at its data."""

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
    """One task, its data not yet read."""

    name: str
    """mteb's name of it, or the name of the data set's folder."""
    kind: str
    """One of ``KINDS``."""
    metric: str
    """The score that stands for the task: mteb's name of it."""
    data: str
    """What identifies the data: a hash of their content, or the revisions of published ones."""
    load: Callable[[], AbsTask] = field(repr=False, compare=False)
    """Makes the mteb task; reads the data, or leaves that to mteb."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else decides the score, such as ``max_texts``; goes into the result."""
    characters: int = 0
    """About how much text there is to embed, for the time left; 0 where that is not known."""
    hint: str = ""
    """An instruction that mteb has for the task, for where the paper has none."""
