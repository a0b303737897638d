"""Whether a run may start in its folder, or resume there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.files import reason_of, write_text
from echoembed.training import checkpoint, rows
from echoembed.training.config import TrainConfig, differences, from_dict
from echoembed.training.run_folder import CHECKPOINTS, CONFIG, LOG, SCORES, read_lines, step_of


def record_of(config: TrainConfig, revision: str) -> dict[str, Any]:
    """Return the record of what a run is started with: two runs with the same record end with the same weights."""
    return {"config": config.as_dict(), "data": rows.digests(config), "revision": revision}


def checkpoint_of(config: TrainConfig, *, resume: bool) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        TrainingError: If the folder holds a run and ``resume`` is false, or the run was started with another
            configuration or other data.
    """
    folder = Path(config.output)
    # 1. A folder with neither configuration nor checkpoints holds no run.
    if not (folder / CONFIG).exists() and not (folder / CHECKPOINTS).exists():
        return None
    if not resume:
        raise errors.training_run_exists(folder)
    # 2. The record of the newest whole checkpoint, or the folder's if there is none, says what the run started with.
    newest = checkpoint.newest(folder)
    path = newest / checkpoint.RECORD if newest else folder / CONFIG
    # 3. Refuse another configuration or other data, as the run would then belong to neither of the two.
    if path.exists() and (differing := _differences(checkpoint.read_json(path), config)):
        raise errors.training_run_differs(folder, differing)
    return newest


def _differences(record: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """List the differences from a run's record: of the configuration, and of the data files' contents, not paths."""
    changes = [
        f"{field} was {errors.quoted(old, 80)} and is {errors.quoted(new, 80)}"
        for field, old, new in differences(from_dict(record["config"]), config)
        if not (field.startswith("data.") and field.endswith(".path"))
    ]
    before, after = record["data"], rows.digests(config)
    changed = [name for name in after if name in before and _contents(before[name]) != _contents(after[name])]
    return changes + [f"the files of the data set {errors.quoted(name)} hold something else" for name in changed]


def _contents(digests: Mapping[str, str]) -> list[str]:
    return [digests[name] for name in sorted(digests)]  # in the order they are read


def begin_run(config: TrainConfig, record: Mapping[str, Any], newest: Path | None) -> None:
    """Write the record of a run; for a resumed run, remove the log's lines after its checkpoint.

    Raises:
        TrainingError: If the run was started with other weights, or the folder cannot be written.
    """
    folder = Path(config.output)
    if newest is not None:
        revision = checkpoint.read_json(newest / checkpoint.RECORD)["revision"]
        if revision != record["revision"]:
            raise errors.training_run_differs(
                folder, [f"the model's revision was {revision}, and is {record['revision']}"]
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
        for name in (LOG, SCORES):
            _cut(folder / name, step_of(newest) if newest else -1)
    except OSError as error:
        raise errors.training_output_unwritable(folder, reason_of(error)) from error


def _cut(path: Path, step: int) -> None:
    """Remove a log's lines after a step, as they will be written again."""
    if path.exists():
        lines = [json.dumps(row) + "\n" for row in read_lines(path) if row["step"] <= step]
        write_text(path, "".join(lines))
