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
import os
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
STORE = "teacher.sqlite"
PICTURES = ("loss.png", "scores.png")
WRITTEN = (CONFIG, LOG, SCORES, CHECKPOINTS, MODELS, TENSORBOARD, MODEL, STORE, *PICTURES)
"""All that a run writes into its folder."""
_NUMBERS = {
    LOG: ("step", "loss", "gradient_norm", "rows", "tokens", "seconds"),
    SCORES: ("step", "score"),
}
_STRINGS = {LOG: ("data_set",), SCORES: ("task", "kind")}


def check_place(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written.

    Raises:
        FileError: If it is a file or lies in one, or the system lets us write nothing there.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise errors.training_output_unwritable(folder, f"{place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise errors.training_output_unwritable(folder, "Permission denied")


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
    """Read the rows of ``log.jsonl`` or ``scores.jsonl``; none if there is no file.

    A line that a killed run left unfinished, or that was damaged, is left out.

    Raises:
        FileError: If the file cannot be read.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise errors.file_unreadable(str(path), reason_of(error)) from error
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _is_whole(row, path.name):
            rows.append(row)
    return rows


def _is_whole(row: Mapping[str, Any], name: str) -> bool:
    """Return whether a row has all fields that a run writes."""
    numbers = all(type(row.get(key)) in (int, float) for key in _NUMBERS[name])
    return numbers and type(row["step"]) is int and all(isinstance(row.get(key), str) for key in _STRINGS[name])
