"""The folder of a run: whether a run may be begun in it, or gone on with.

- ``config.json``: what the run was begun with: the configuration in force, SHA-256 of every data file, the revision
  of the model's weights
- ``checkpoints/step-N/``: to go on from
- ``models/step-N/``: to load; where ``checkpoint.models`` asks for them
- ``log.jsonl``: a line per step
- ``scores.jsonl``: a line per score on the way
- ``logs/``: TensorBoard's files, where asked for
- ``model/``: the finished model; beside it, its curves
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.training import checkpoint, rows
from echoembed.training.config import TrainConfig, differences, from_dict

CONFIG = "config.json"
LOG = "log.jsonl"
SCORES = "scores.jsonl"


def record_of(config: TrainConfig, revision: str) -> dict[str, Any]:
    """What a run is begun with, as JSON can hold it: two with the same record end with the same weights."""
    return {"config": config.as_dict(), "data": rows.digests(config), "revision": revision}


def check(config: TrainConfig, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any.

    Raises:
        TrainingError: If there is a run in the folder that is not to be gone on with, or that was begun otherwise.
    """
    folder = Path(config.output)
    if not (folder / CONFIG).exists() and not (folder / checkpoint.FOLDER).exists():
        return None
    if not resume:
        raise errors.training_run_exists(folder)
    newest = checkpoint.newest(folder)
    path = newest / checkpoint.RECORD if newest else folder / CONFIG
    if path.exists() and (found := _differences(checkpoint.read_json(path), config)):
        raise errors.training_run_differs(folder, found)
    return newest


def _differences(record: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """How a run was begun otherwise: its configuration, and what its data files hold, wherever they lie now."""
    found = [
        f"{field} was {errors.quoted(old, 80)} and is {errors.quoted(new, 80)}"
        for field, old, new in differences(from_dict(record["config"]), config)
        if not (field.startswith("data.") and field.endswith(".path"))
    ]
    before, after = record["data"], rows.digests(config)
    changed = [name for name in after if name in before and _contents(before[name]) != _contents(after[name])]
    return found + [f"the files of the data set {errors.quoted(name)} hold something else" for name in changed]


def _contents(digests: Mapping[str, str]) -> list[str]:
    return [digests[name] for name in sorted(digests)]  # in the order they are read


def begin(config: TrainConfig, record: Mapping[str, Any], newest: Path | None) -> None:
    """Write down what the run is begun with; of a resumed one, forget what was logged after its checkpoint.

    Raises:
        TrainingError: If the weights are others than those the run was begun with, or nothing can be written.
    """
    folder = Path(config.output)
    if newest is not None:
        begun = checkpoint.read_json(newest / checkpoint.RECORD)["revision"]
        if begun != record["revision"]:
            raise errors.training_run_differs(
                folder, [f"the model's revision was {begun}, and is {record['revision']}"]
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.replace_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
        for name in (LOG, SCORES):
            _cut(folder / name, checkpoint.step_of(newest) if newest else -1)
    except OSError as error:
        raise errors.training_folder_unwritable(folder, error.strerror or str(error)) from error


def _cut(path: Path, step: int) -> None:
    """Leave a log's lines up to a step: those after it will be written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # where a killed run broke off
            continue
        if entry["step"] <= step:
            kept.append(f"{line}\n")
    checkpoint.replace_text(path, "".join(kept))
