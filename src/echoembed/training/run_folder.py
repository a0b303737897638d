"""What lies where in the folder of a run, and its logs: JSON lines that only ever grow.

- ``config.json``: what the run was begun with: the configuration in force, SHA-256 of every data file, the revision
  of the model's weights
- ``checkpoints/step-N/``: to resume from
- ``models/step-N/``: to load; where ``checkpoint.models`` asks for them
- ``log.jsonl``: a line per step
- ``scores.jsonl``: a line per score on the way
- ``teacher.sqlite``: a teacher's vectors, by the hash of their text; under ``distil``
- ``logs/``: TensorBoard's files, where asked for
- ``model/``: the finished model; beside it, its curves
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
    """Where, in ``checkpoints`` or ``models``, what belongs to a step lies."""
    return folder / f"step-{step}"


def step_of(path: Path) -> int:
    """The optimiser steps made when a checkpoint was written."""
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
    """The rows of a log; none where there is no file. A line that a killed run left unfinished is passed over."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
