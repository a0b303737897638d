"""Scores, stored in one JSON file per model, recipe and task.

    OUT/MODEL/RECIPE-FINGERPRINT/TASK.json       with @500 before the dot for a sample of at most 500 texts

A score is used again only if all that decided it is the same: model and recipe (one fingerprint), data, instruction,
sample, and the version of the metrics.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from echoembed.files import write_text


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score on a task."""

    model: str
    recipe: str
    fingerprint: str
    """The fingerprint of model and recipe (``echoembed.fingerprint``)."""
    task: str
    kind: str
    metric: str
    score: float
    """0 to 1, higher is better; a correlation can be negative."""
    identity: Mapping[str, Any]
    """All that decided the score; see ``run.identity``."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """All scores that mteb computed, by split."""
    items: Mapping[str, Any] | None = None
    """The results of every item (see ``items.py``); None if not requested."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Seconds, counts of texts (embedded, blank, cleaned, cut), versions of libraries, and the date."""
    reused: bool = field(default=False, compare=False)
    """Whether the score came from the store."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields in plain values for JSON."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


class Store:
    """A folder of scores.

    Args:
        folder: The folder, made when the first score is saved.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()

    def path(self, model: str, recipe: str, identity: Mapping[str, Any]) -> Path:
        """Return the file of the score with this identity, whether it exists or not."""
        sample = f"@{identity['max_texts']}" if identity.get("max_texts") else ""
        name = f"{_plain(str(identity['task']))}{sample}.json"
        return self.folder / _plain(model) / f"{_plain(recipe)}-{identity['fingerprint'][:8]}" / name

    def find(self, model: str, recipe: str, identity: Mapping[str, Any]) -> Score | None:
        """Return the score with exactly this identity, if there is one."""
        try:
            score = _read(self.path(model, recipe, identity))
        except (OSError, ValueError, TypeError):
            return None  # missing or damaged: the score is computed again
        return score if dict(score.identity) == json.loads(json.dumps(dict(identity))) else None

    def save(self, score: Score) -> Path:
        """Write a score, whole or not at all.

        Raises:
            FileError: If it cannot be written.
        """
        path = self.path(score.model, score.recipe, score.identity)
        write_text(path, json.dumps(score.as_dict(), indent=1, ensure_ascii=False))
        return path

    def all(self) -> list[Score]:
        """Return every score in the folder, by model, recipe and task; other files are ignored."""
        scores = []
        for path in sorted(self.folder.glob("*/*/*.json")):
            try:
                scores.append(_read(path))
            except (OSError, ValueError, TypeError):
                continue
        return scores


def _read(path: Path) -> Score:
    """Read a score.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no JSON; or ``TypeError`` if it holds no score.
    """
    score = Score(**{**json.loads(path.read_text(encoding="utf-8")), "reused": True})
    names = (score.model, score.recipe, score.fingerprint, score.task, score.kind, score.metric)
    number = type(score.score) in (int, float) and math.isfinite(score.score)
    if not number or not all(isinstance(name, str) for name in names) or not isinstance(score.identity, dict):
        raise TypeError("its fields are not those of a score")
    return score


def _plain(name: str) -> str:
    """Turn a name into a file name; a folder's path is cut to its last part."""
    last = name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".", "~")) else name
    return re.sub(r"[^\w.@+-]+", "_", last).strip(".") or "_"
