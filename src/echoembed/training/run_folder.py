"""The folder of a run, and its logs, which are JSON lines.

- ``config.json``: the record of what the run was started with: the configuration in force, the SHA-256 of every data
  file, the revision of the model's weights
- ``checkpoints/step-N/``: checkpoints, to resume from
- ``models/step-N/``: models, to load; with ``checkpoint.models``
- ``log.jsonl``: a line per step
- ``scores.jsonl``: a line per score during the run
- ``teacher.sqlite``: a teacher's vectors, by the hash of their text; with ``distil``
- ``logs/``: TensorBoard's files, with ``tensorboard``
- ``model/``: the finished model
- ``loss.png``, ``scores.png``: the run's curves
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.files import reason_of

CONFIG = "config.json"
LOG = "log.jsonl"
SCORES = "scores.jsonl"
CHECKPOINTS = "checkpoints"
MODELS = "models"
TENSORBOARD = "logs"
MODEL = "model"


def step_folder(folder: Path, step: int) -> Path:
    """Return the folder of a step in ``checkpoints`` or ``models``."""
    return folder / f"step-{step}"


def step_of(path: Path) -> int:
    """Return the number of optimiser steps of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a log.

    Raises:
        FileError: If the log cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise errors.training_output_unwritable(path, reason_of(error)) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log; none if there is no file. A line that a killed run left unfinished is ignored."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
