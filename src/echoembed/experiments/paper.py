"""The paper's numbers, to show beside ours; each table names its model and data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FIELDS = {
    "Classification": "classification",
    "Clustering": "clustering",
    "PairClassification": "pair_classification",
    "Reranking": "reranking",
    "Retrieval": "retrieval",
    "STS": "sts",
    "Summarization": "summarization",
}
"""mteb's categories → the keys of ``paper.json``."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    model: str
    """The model of the numbers."""
    data: str
    """The data on which they were measured."""
    rows: list[dict[str, Any]]
    """The rows as printed, with scores × 100."""

    def find(self, **equal: object) -> dict[str, Any]:
        """Return the first row with these values; an empty row if there is none."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in equal.items())), {})


@cache
def _tables() -> Mapping[str, Any]:
    tables: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
    return tables


def paper_table(name: str) -> PaperTable:
    """Return a table of the paper, ``table1`` … ``table18``."""
    return PaperTable(**_tables()[name])
