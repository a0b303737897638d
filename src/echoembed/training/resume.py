"""Whether a run may begin in its folder, or resume there."""

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
    """What a run is begun with, as JSON can hold it: two with the same record end with the same weights."""
    return {"config": config.as_dict(), "data": rows.digests(config), "revision": revision}


def checkpoint_of(config: TrainConfig, *, resume: bool) -> Path | None:
    """The checkpoint to resume from, if any.

    Raises:
        TrainingError: If there is a run in the folder and ``resume`` is false, or the configuration or the data are not
            those that the run was begun with.
    """
    folder = Path(config.output)
    # 1. A folder with neither configuration nor checkpoints holds no run.
    if not (folder / CONFIG).exists() and not (folder / CHECKPOINTS).exists():
        return None
    if not resume:
        raise errors.training_run_exists(folder)
    # 2. The newest whole checkpoint says what the run was begun with; before the first, the folder does.
    newest = checkpoint.newest(folder)
    path = newest / checkpoint.RECORD if newest else folder / CONFIG
    # 3. Under another configuration or other data the run would end as neither of the two.
    if path.exists() and (differing := _differences(checkpoint.read_json(path), config)):
        raise errors.training_run_differs(folder, differing)
    return newest


def _differences(record: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Where a run's record differs: its configuration, and what its data files hold, wherever they lie now."""
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
    """Write what the run is begun with; of a resumed one, remove what was logged after its checkpoint.

    Raises:
        TrainingError: If the weights are not those that the run was begun with, or nothing can be written.
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
        write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
        for name in (LOG, SCORES):
            _cut(folder / name, step_of(newest) if newest else -1)
    except OSError as error:
        raise errors.training_output_unwritable(folder, reason_of(error)) from error


def _cut(path: Path, step: int) -> None:
    """Leave a log's lines up to a step: those after it will be written again."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read_lines(path) if row["step"] <= step]
        write_text(path, "".join(kept))
