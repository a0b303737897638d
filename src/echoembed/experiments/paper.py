"""The paper's numbers, to stand beside ours; each table says which model and data they belong to."""

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
    """Whose numbers they are."""
    data: str
    """What they were measured on."""
    rows: list[dict[str, Any]]
    """As printed: scores × 100."""

    def find(self, **equal: object) -> dict[str, Any]:
        """The first row with these values; an empty one if there is none."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in equal.items())), {})


@cache
def _tables() -> Mapping[str, Any]:
    tables: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
    return tables


def paper_table(name: str) -> PaperTable:
    """``table1`` … ``table18``."""
    return PaperTable(**_tables()[name])
